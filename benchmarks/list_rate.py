"""How fast a bucket is listed, and what a listed key costs, by `s3bulkcopy run --dry-run`. Prints a table.

    python benchmarks/list_rate.py [--objects 1000000] [--shape date] [--list-ms 100] [--processes 2] [--rounds 3]
    python benchmarks/list_rate.py --server http://127.0.0.1:9000 --source BUCKET    # a server that holds the bucket

One lister takes a round trip for each thousand keys: that is what the time is compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from endpoint import Endpoint
from measure import measure
from model_server import ModelServer
from tools import ROOT, Errand, environment

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE, DESTINATION = "source", "destination"
GIVE_UP_SECONDS = 600.0
PAGE_KEYS = 1000


class Round(NamedTuple):
    """One listing of the bucket."""

    keys: int
    #: From the queueing of the first ranges to the report of the last, in seconds.
    seconds: float
    requests: int
    #: User and system time of the command and its workers, start to end, in microseconds a key.
    cpu_us: float


def list_once(url: str, source: str, destination: str, processes: int | None) -> Round:
    """List a bucket; raises RuntimeError where that fails."""
    command = [sys.executable, "-m", "s3bulkcopy", "run", source, destination, "--dry-run", "--engine", "local"]
    options = [
        "--endpoint-url",
        url,
        "--output",
        "json",
        "--no-progress",
        *(["--processes", str(processes)] if processes else []),
    ]
    with tempfile.TemporaryDirectory() as folder:
        errand = Errand(Endpoint(url), source, destination, None, Path(folder))
        variables = {**environment(errand, os.environ["PATH"]), "PYTHONPATH": str(ROOT)}
        told = Path(folder) / "told"
        with told.open("wb") as out:
            used = measure([*command, *options], variables, GIVE_UP_SECONDS, out)
        if used.trouble:
            raise RuntimeError(used.trouble)
        lines = [json.loads(line) for line in told.read_text().splitlines()]
    (phases,) = (line for line in lines if line.get("event") == "phases")
    summary = lines[-1]
    return Round(summary["listed"], phases["work"], summary["list_requests"], used.cpu_seconds / summary["listed"] * 1e6)


def row(rounds: Sequence[Round], list_seconds: float) -> str:
    """Give the figures: medians over the rounds."""
    keys = rounds[0].keys
    seconds, requests, cpu_us = (statistics.median(column) for column in list(zip(*rounds, strict=True))[1:])
    alone = -(-keys // PAGE_KEYS) * list_seconds
    times = f", {alone / seconds:.1f} times as fast as one lister ({alone:.1f} s)" if alone else ""
    return (
        f"{keys:,} keys listed in {seconds:.2f} s{times}\n"
        f"{requests:,.0f} LIST requests, {requests / max(1, keys / PAGE_KEYS):.2f} a thousand keys\n"
        f"{cpu_us:.2f} µs of processor a key, start-up included"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--shape", default="date", help="shape of the keys: hex, date, seq, odd or long")
    parser.add_argument("--list-ms", type=float, default=100.0, help="latency of a list request")
    parser.add_argument("--processes", type=int, help="worker processes; one for each core by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", help="URL of a server that holds the bucket, in place of the model server")
    parser.add_argument("--source", default=SOURCE, help="the bucket on that server")
    parser.add_argument("--destination", default=DESTINATION, help="another bucket there, into which nothing is copied")
    parser.add_argument("--json", action="store_true", help="print one JSON object a round")
    chosen = parser.parse_args()
    filled = ("--objects", f"{SOURCE}={chosen.shape}:{chosen.objects}", "--objects", f"{DESTINATION}=seq:0")
    server = ModelServer(*filled, "--list-ms", str(chosen.list_ms)) if chosen.server is None else nullcontext()
    try:
        with server as model:
            url = chosen.server or (model.url if model else "")
            rounds = [list_once(url, chosen.source, chosen.destination, chosen.processes) for _ in range(chosen.rounds)]
    except (RuntimeError, subprocess.SubprocessError) as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    if chosen.json:
        print(*(json.dumps(one._asdict()) for one in rounds), sep="\n")
    else:
        print(row(rounds, chosen.list_ms / 1000))
    return 0


if __name__ == "__main__":
    sys.exit(main())

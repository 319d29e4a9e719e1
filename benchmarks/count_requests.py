"""How many requests of each kind a job sends: what it will cost, whatever the machine. Prints a table.

    python benchmarks/count_requests.py [--objects 1000000] [--shape date] [--rounds 3] [--check]

Time and processor use vary from run to run and from machine to machine; a number of requests is what S3 bills. Each round
copies the same keys on a fresh model server; where rounds differ, the fewest and the most are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from endpoint import Endpoint
from measure import measure
from model_server import ModelServer
from tools import OURS, TOOLS, Errand, Missing, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tools import Tool

SOURCE, DESTINATION = "source", "destination"
GIVE_UP_SECONDS = 3600.0


class Allowed(NamedTuple):
    """Requests that a job of small objects may send, an object; from fewest to most."""

    fewest: float
    most: float


#: One LIST answers 1,000 keys; cutting ranges so that many can be listed at a time costs up to half as many again.
ALLOWED = {"list": Allowed(0.001, 0.0015), "copy": Allowed(1, 1), "head": Allowed(0, 0), "get": Allowed(0, 0)}


class Failed(Exception):
    """A job that did not come to its end."""


# ------------------------------------------------------------------------------------------------------- what is counted


def count_on_model(tool: Tool, workers: int | None, shape: str, objects: int) -> Counter[str]:
    """Let a tool that runs on this machine copy a bucket; give its S3 requests by kind. Raises Failed or Missing."""
    with (
        ModelServer("--objects", f"{SOURCE}={shape}:{objects}", "--objects", f"{DESTINATION}=seq:0") as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        errand = Errand(Endpoint(server.url), SOURCE, DESTINATION, workers or tool.workers[0], Path(folder))
        path = os.environ["PATH"]
        used = measure(tool.command(errand, path), environment(errand, path), GIVE_UP_SECONDS)
        if used.code:
            raise Failed(f"exit code {used.code}: {used.last_words or 'without a word'}")
        stats = server.stats()
    if stats["buckets"][DESTINATION] != objects:
        raise Failed(f"{stats['buckets'][DESTINATION]:,} of {objects:,} objects arrived")
    return Counter(stats["requests"])


#: What counts a job's requests by kind, given workers, shape of keys and number of objects. An engine that sends to other
#: services than S3 has a function of its own here, which names their requests too (`sqs send_message_batch`).
COUNTERS: dict[str, Callable[[int | None, str, int], Counter[str]]] = {
    "local" if tool is OURS else tool.name: partial(count_on_model, tool) for tool in TOOLS.values()
}


# ------------------------------------------------------------------------------------------------------------------ output


def kept(kind: str, counts: Sequence[int], objects: int) -> bool:
    """Tell whether the counts of a kind are within what is allowed."""
    allowed = ALLOWED.get(kind)
    return allowed is None or all(allowed.fewest * objects <= count <= allowed.most * objects for count in counts)


def table(rounds: Sequence[Counter[str]], objects: int) -> Iterator[str]:
    """Give the lines of the table."""
    yield f"{'request':20} {'count':>23} {'an object':>10}  allowed"
    for kind in _kinds(rounds):
        counts = [counted[kind] for counted in rounds]
        fewest, most = min(counts), max(counts)
        span = f"{fewest:,}" if fewest == most else f"{fewest:,}-{most:,}"
        yield f"{kind:20} {span:>23} {most / objects:10.4f}  {_verdict(kind, counts, objects)}".rstrip()


def _kinds(rounds: Sequence[Counter[str]]) -> list[str]:
    return [*ALLOWED, *sorted(set().union(*rounds) - ALLOWED.keys())]


def _verdict(kind: str, counts: Sequence[int], objects: int) -> str:
    allowed = ALLOWED.get(kind)
    if allowed is None:
        return ""
    fewest, most = (round(bound * objects) for bound in allowed)
    span = f"{fewest:,}" if fewest == most else f"{fewest:,}-{most:,}"
    return span if kept(kind, counts, objects) else f"{span}: not kept"


def main() -> int:
    """Count and print; give 1 if the job failed or, where that is checked, sent more than is allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--shape", default="date", help="shape of the keys: hex, date, seq or odd")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--of", choices=COUNTERS, default="local", help="the engine, or a peer on PATH")
    parser.add_argument("--workers", type=int, help="processes of the local engine, or a peer's workers")
    parser.add_argument("--check", action="store_true", help="fail if more is sent than allowed, which is meant for a million")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    chosen = parser.parse_args()
    try:
        rounds = [COUNTERS[chosen.of](chosen.workers, chosen.shape, chosen.objects) for _ in range(chosen.rounds)]
    except (Failed, Missing, RuntimeError) as failure:
        print(f"{chosen.of} failed: {failure}", file=sys.stderr)
        return 1
    if chosen.json:
        print(json.dumps({"of": chosen.of, "objects": chosen.objects, "shape": chosen.shape, "rounds": rounds}))
    else:
        print(f"{chosen.of}: {chosen.objects:,} objects, {chosen.shape} keys, rounds: {chosen.rounds}\n")
        print(*table(rounds, chosen.objects), sep="\n")
    too_many = [kind for kind in ALLOWED if not kept(kind, [counted[kind] for counted in rounds], chosen.objects)]
    return 1 if chosen.check and too_many else 0


if __name__ == "__main__":
    sys.exit(main())

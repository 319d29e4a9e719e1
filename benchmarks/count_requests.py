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
from model_server import ModelServer, shaped_keys
from proxy import CountingProxy
from tools import OURS, ROOT, TOOLS, Errand, Missing, environment

from s3bulkcopy.demo import Store, compare
from s3bulkcopy.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tools import Tool

SOURCE, DESTINATION = "source", "destination"
GIVE_UP_SECONDS = 3600.0


class Allowed(NamedTuple):
    """Requests that a job of small objects may send: the fewest and the most an object, and how many more in all."""

    fewest: float
    most: float
    once: int = 0

    def span(self, objects: int) -> tuple[int, int]:
        """Give the fewest and the most for so many objects."""
        return round(self.fewest * objects), round(self.most * objects) + self.once


#: Kinds that every table shows. One LIST answers 1,000 keys; some look for keys where there are none.
OF_S3 = {"list": Allowed(0.001, 0.00145, 50), "copy": Allowed(1, 1), "head": Allowed(0, 0), "get": Allowed(0, 0)}
#: What a page holds is sent as a CopyTask, whose end is reported; so is a range and its end.
ALLOWED = OF_S3 | {"sqs SendMessageBatch": Allowed(0, 0.003, 200)}


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
        if used.trouble:
            raise Failed(used.trouble)
        stats = server.stats()
    if stats["buckets"][DESTINATION] != objects:
        raise Failed(f"{stats['buckets'][DESTINATION]:,} of {objects:,} objects arrived")
    return Counter(stats["requests"])


def count_on_emulator(workers: int | None, shape: str, objects: int) -> Counter[str]:
    """Let the lambda engine copy a bucket on an AWS emulator; give the requests that the command and its workers sent.

    Those of S3 are named by their kind, those of other services by the service and the action. What AWS's own pollers ask of
    the queues passes by no client, so it is not among them. Raises Failed.
    """
    with CountingProxy() as proxy, Emulator(variables={"AWS_ENDPOINT_URL": proxy.url}) as emulator:
        proxy.forward_to(emulator.url)
        store = Store(emulator.url)
        for bucket in (SOURCE, DESTINATION):
            store.make(bucket)
        store.fill(SOURCE, shaped_keys(shape, objects))
        command = [sys.executable, "-m", "s3bulkcopy", "run", SOURCE, DESTINATION, "--quiet"]
        options = ["--workers", str(workers)] if workers else []
        variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **emulator.variables, "AWS_ENDPOINT_URL": proxy.url}
        used = measure([*command, *options], variables, GIVE_UP_SECONDS)
        if used.trouble:
            raise Failed(used.trouble)
        if compare(store.items(SOURCE), store.items(DESTINATION)):
            raise Failed("the destination is not equal to the source")
        return proxy.counts


#: What counts a job's requests by kind, given workers, shape of keys and number of objects.
COUNTERS: dict[str, Callable[[int | None, str, int], Counter[str]]] = {
    **{"local" if tool is OURS else tool.name: partial(count_on_model, tool) for tool in TOOLS.values()},
    "lambda": count_on_emulator,
}


# ------------------------------------------------------------------------------------------------------------------ output


def kept(kind: str, counts: Sequence[int], objects: int) -> bool:
    """Tell whether the counts of a kind are within what is allowed."""
    if kind not in ALLOWED:
        return True
    fewest, most = ALLOWED[kind].span(objects)
    return fewest <= min(counts) and max(counts) <= most


def table(rounds: Sequence[Counter[str]], objects: int) -> Iterator[str]:
    """Give the lines of the table."""
    yield f"{'request':24} {'count':>23} {'a thousand':>11}  allowed"
    for kind in [*OF_S3, *sorted(set().union(*rounds) - OF_S3.keys())]:
        counts = [counted[kind] for counted in rounds]
        verdict = "" if kept(kind, counts, objects) else ": not kept"
        allowed = _span(*ALLOWED[kind].span(objects)) if kind in ALLOWED else ""
        each = max(counts) / objects * 1000
        yield f"{kind:24} {_span(min(counts), max(counts)):>23} {each:11,.3f}  {allowed}{verdict}".rstrip()


def _span(fewest: int, most: int) -> str:
    return f"{fewest:,}" if fewest == most else f"{fewest:,}-{most:,}"


def main() -> int:
    """Count and print; give 1 if the job failed or, where that is checked, sent more than is allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--shape", default="date", help="shape of the keys: hex, date, seq or odd")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--of", choices=COUNTERS, default="local", help="the engine, or a peer on PATH")
    parser.add_argument("--workers", type=int, help="processes of the local engine, or a peer's workers")
    parser.add_argument("--check", action="store_true", help="fail if more is sent than allowed")
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

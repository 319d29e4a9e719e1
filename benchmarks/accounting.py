"""What counting costs: events tallied a second and the memory that takes, and reports received, logged and deleted a second.

    python benchmarks/accounting.py [--tasks 1000000] [--reports 40000] [--check]

The tally is given a run of so many tasks: ranges of a hundred batches each, half of which report before their range does. The
reports come from a queue in a process of its own, which answers at once, to the lambda engine with the journal on disk: the
whole way from SQS to the count, with one core for the command.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socketserver
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.queues import SimpleQueue

#: What is promised: events a second, MiB of memory, reports a second.
EVENTS_A_SECOND, MEMORY_MIB, REPORTS_A_SECOND = 100_000, 150, 2000

#: Batches of one range.
BATCHES = 100


def events_of(tasks: int) -> Iterator[list[Any]]:
    """Give the events of a run of about so many tasks, those of a range at a time; `run.0` is its only root."""
    from s3bulkcopy.worker.model import Attempt, Counts, Done  # noqa: PLC0415 - measured, too

    random = Random(1)  # noqa: S311
    copied, listed = Counts(copied=1000, copied_bytes=10**9, copy_requests=1000), Counts(listed=100_000, pages=100)

    def attempt() -> Attempt:
        return Attempt(1, f"{random.getrandbits(64):016x}")

    name = "run.0"
    ranges = max(1, tasks // (BATCHES + 1))
    for left in range(ranges, 0, -1):
        whole = attempt()
        batches = [Done(f"{whole.nonce}.{n}", attempt(), 0, copied) for n in range(BATCHES)]
        lister = Done(name, whole, BATCHES + (left > 1), listed)
        yield [*batches[: BATCHES // 2], lister, *batches[BATCHES // 2 :]]
        name = f"{whole.nonce}.{BATCHES}"


class Tallied(NamedTuple):
    """What the tally took."""

    events: int
    seconds: float
    memory_mib: float


def tally(tasks: int) -> Tallied:
    """Tally a run in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_tally, (tasks,))


def _tally(tasks: int) -> Tallied:
    from s3bulkcopy.tally import Tally  # noqa: PLC0415 - in its own process

    counted, seconds, events = Tally(), 0.0, 0
    counted.announce("run", 1)
    for some in events_of(tasks):
        began = time.process_time()
        counted.add(some)
        seconds += time.process_time() - began
        events += len(some)
    if not counted.complete:
        raise SystemExit("the run is not complete")
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return Tallied(events, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)


# ---------------------------------------------------------------------------------------------------------------- reports


class _Queue(socketserver.StreamRequestHandler):
    """SQS for one client: reports until there are no more, and nothing on any other queue."""

    bodies: list[str]
    left: list[int]
    wbufsize = -1

    def handle(self) -> None:
        while line := self.rfile.readline():
            headers = {}
            while (header := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = header.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            asked = json.loads(self.rfile.read(int(headers.get("content-length", 0))) or b"{}")
            answer = json.dumps(self.answer(headers["x-amz-target"].rpartition(".")[2], asked)).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(answer)}\r\n\r\n"
            self.wfile.write(head.encode() + answer)
            self.wfile.flush()
            del line

    def answer(self, action: str, asked: dict[str, Any]) -> dict[str, Any]:
        match action:
            case "ReceiveMessage" if asked["QueueUrl"].endswith("/reports"):
                first, self.left[0] = self.left[0], min(len(self.bodies), self.left[0] + 10)
                some = range(first, self.left[0])
                return {"Messages": [{"MessageId": f"{n}", "ReceiptHandle": f"{n}", "Body": self.bodies[n]} for n in some]}
            case "DeleteMessageBatch":
                return {"Successful": [{"Id": entry["Id"]} for entry in asked["Entries"]]}
            case "GetQueueAttributes":
                return {"Attributes": dict.fromkeys(asked["AttributeNames"], "0")}
            case _:
                return {}


def _serve(reports: int, port: SimpleQueue[int]) -> None:
    from s3bulkcopy.worker.model import encode_event  # noqa: PLC0415 - in its own process

    _Queue.bodies = [encode_event(event) for some in events_of(reports) for event in some]
    _Queue.left = [0]
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Queue) as server:
        server.daemon_threads = True
        port.put(server.server_address[1])
        server.serve_forever()


def receive(reports: int) -> tuple[int, float, float]:
    """Receive, log, count and delete reports; give how many, and the seconds that took, by the clock and of processor."""
    context = multiprocessing.get_context("spawn")
    port = context.SimpleQueue()
    server = context.Process(target=_serve, args=(reports, port), daemon=True)
    server.start()
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    try:
        return _receive(f"http://127.0.0.1:{port.get()}")
    finally:
        server.terminate()


def _receive(url: str) -> tuple[int, float, float]:
    from s3bulkcopy.aws.deploy import Deployed  # noqa: PLC0415 - boto3 is slow to import
    from s3bulkcopy.aws.session import AwsSession  # noqa: PLC0415
    from s3bulkcopy.engines.awslambda import LambdaEngine  # noqa: PLC0415
    from s3bulkcopy.journal import Facts, Journal  # noqa: PLC0415
    from s3bulkcopy.settings import AwsSettings, StackSettings  # noqa: PLC0415
    from s3bulkcopy.tally import Tally  # noqa: PLC0415
    from s3bulkcopy.worker.model import Job, Location  # noqa: PLC0415

    nowhere = Location("b", "", "us-east-1", url)
    found: Any = SimpleNamespace(job=Job("run", nowhere, nowhere), region="us-east-1")
    quietly: dict[str, Any] = {"say": str, "detail": str, "sleep": time.sleep, "rest": time.sleep, "clock": time.monotonic}
    session = AwsSession(AwsSettings("us-east-1", None, url))
    engine = LambdaEngine(session, found, StackSettings(), version="0", created="", **quietly)
    kinds = ("list", "copy", "list-dead", "copy-dead", "reports")
    engine._deployed = Deployed({kind: f"{url}/123456789012/{kind}" for kind in kinds}, 262_144)  # noqa: SLF001
    counted, events = Tally(), 0
    counted.announce("run", 1)
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal.create(Path(folder) / "run.journal", Facts("run", "lambda")) as journal,
    ):
        began, worked = time.perf_counter(), time.process_time()
        while not counted.complete:
            some = engine.poll(1.0)
            journal.append(some)
            counted.add(some)
            engine.ack()
            journal.compact_into(counted)
            events += len(some)
        return events, time.perf_counter() - began, time.process_time() - worked


def main() -> int:
    """Print the figures; with --check, tell by the code whether they are as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--reports", type=int, default=40_000)
    parser.add_argument("--check", action="store_true", help="exit code 1 if a figure is not as promised")
    chosen = parser.parse_args()
    counted = tally(chosen.tasks)
    rate = counted.events / counted.seconds
    print(f"tally     {counted.events:9,} events  {rate:9,.0f} a second of processor  {counted.memory_mib:6,.0f} MiB")
    events, seconds, worked = receive(chosen.reports)
    print(f"reports   {events:9,} events  {events / seconds:9,.0f} a second  {events / worked:9,.0f} a second of processor")
    kept = rate >= EVENTS_A_SECOND and counted.memory_mib <= MEMORY_MIB and events / worked >= REPORTS_A_SECOND
    return 0 if kept or not chosen.check else 1


if __name__ == "__main__":
    sys.exit(main())

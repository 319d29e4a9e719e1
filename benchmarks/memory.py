"""How much memory a worker takes with all its connections busy, and a whole run with many objects. Prints a table.

    python benchmarks/memory.py [--objects 1000000 4000000] [--check]

Worker: 900 connections, all of them in use (`busy_worker.py`), plain and over TLS. Run: `s3bulkcopy run --engine local`, its
command and the largest of its worker processes. Memory is resident (RSS), the most that was seen, in MB of a million bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from endpoint import Endpoint
from measure import measure
from model_server import ModelServer
from tools import OURS, ROOT, Errand, certify, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from measure import Usage

#: Connections of a worker in Lambda (`worker/handler.py`), and the least that must have been in use for a figure to count.
CONNECTIONS, LEAST_IN_USE = 900, 890
#: Objects that a worker copies while it is looked at, and how long each takes: long enough that all connections are needed.
WORKER_OBJECTS, WORKER_COPY_MS = 20_000, 600
GIVE_UP_SECONDS = 3600.0


class Row(NamedTuple):
    """A line of the table, in bytes."""

    what: str
    found: int
    most: int

    def __str__(self) -> str:
        """Write it."""
        return f"{self.what:44} {self.found / 1e6:8.1f} {self.most / 1e6:8.0f}{'  not kept' if self.found > self.most else ''}"


def of_worker(folder: Path, *, tls: bool) -> Row:
    """Look at a worker whose connections are all in use; raises RuntimeError."""
    arguments = ["--objects", f"source=hex:{WORKER_OBJECTS}", "--objects", "copied=hex:0", "--copy-ms", str(WORKER_COPY_MS)]
    certificate, key = certify(folder) if tls else (None, None)
    arguments += ["--tls", certificate, key] if certificate and key else []
    with ModelServer(*arguments, certificate=certificate) as server:
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "busy_worker.py"),
            server.url,
            "source",
            "copied",
            str(CONNECTIONS),
        ]
        used = _ended([*command, certificate] if certificate else command, {"PYTHONPATH": str(ROOT)})
    if int(used.last_words) < LEAST_IN_USE:
        raise RuntimeError(f"only {used.last_words} connections were in use")
    what = f"worker, {CONNECTIONS} connections, {'TLS' if tls else 'plain'}"
    return Row(what, used.largest_bytes, 100_000_000 if tls else 40_000_000)


def of_run(endpoint: Endpoint, source: str, folder: Path, processes: int | None) -> Iterator[Row]:
    """Look at a whole run; raises RuntimeError."""
    destination = f"memory-{os.getpid()}-{source}"
    endpoint.make(destination)
    errand, path = Errand(endpoint, source, destination, processes, folder), os.environ["PATH"]
    used = _ended(OURS.command(errand, path), environment(errand, path))
    there, wanted = endpoint.contents(destination), endpoint.contents(source)
    if there != wanted:
        raise RuntimeError(f"{there.objects:,} of {wanted.objects:,} objects arrived, or they differ")
    yield Row(f"run of {there.objects:,} objects, command", used.first_bytes, 120_000_000)
    yield Row(f"run of {there.objects:,} objects, largest worker", used.other_bytes, 60_000_000)


def _ended(command: list[str], variables: dict[str, str]) -> Usage:
    used = measure(command, variables, GIVE_UP_SECONDS)
    if used.trouble:
        raise RuntimeError(used.trouble)
    return used


def rows(chosen: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Give the lines of the table, each as soon as it is known; raises RuntimeError."""
    yield from (of_worker(folder, tls=tls) for tls in (False, True))
    if chosen.server:
        yield from of_run(Endpoint(chosen.server.rstrip("/"), stats_path=None), chosen.source, folder, chosen.processes)
        return
    for objects in chosen.objects:
        with ModelServer("--objects", f"source={chosen.shape}:{objects}") as server:
            yield from of_run(Endpoint(server.url), "source", folder, chosen.processes)


def main() -> int:
    """Measure and print; give 1 if, where that is checked, something takes more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", nargs="*", type=int, default=[1_000_000, 4_000_000], help="a run for each number")
    parser.add_argument("--shape", default="date", help="shape of the keys: hex, date, seq, odd or long (1,000 bytes)")
    parser.add_argument("--processes", type=int, help="worker processes; the command's own default otherwise")
    parser.add_argument("--server", metavar="URL", help="let one run copy a bucket of a server that runs already instead")
    parser.add_argument("--source", default="source", metavar="BUCKET", help="that bucket")
    parser.add_argument("--check", action="store_true", help="fail if something takes more than it may")
    chosen = parser.parse_args()
    print(f"{'':44} {'MB':>8} {'at most':>8}", flush=True)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(chosen, Path(folder)):
            print(row, flush=True)
            found.append(row)
    return 1 if chosen.check and any(row.found > row.most for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())

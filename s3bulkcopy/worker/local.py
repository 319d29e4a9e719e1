"""A worker process of the local engine: tasks in, work done, events and children out, over a socket at file descriptor 0.

What is said there are lines of words, of which the last may be JSON. The engine says:

    config JSON             first: credentials, certificates, how many connections and requests a second
    credentials JSON        new credentials, from now on
    task TOKEN NUMBER JSON  work on a task, of which this is the attempt of that number
    probe TOKEN JSON        prove the right to copy on the items of a CopyTask
    accepted SEQUENCE       the child of that number is safe
    stop                    begin nothing more, let requests land, and end

and the worker:

    emit SEQUENCE KIND JSON   a child, `list` or `copy`
    done TOKEN JSON           a task has ended, with this event
    trouble TOKEN JSON        an attempt failed, with this event
    fatal TOKEN JSON          the run cannot go on, with this event
    expired TOKEN             these credentials are of no use any more
    probed TOKEN REST JSON    a probe succeeded, with this event; so many items are left
    refused TOKEN JSON        a probe failed: {"cause", "denied"}
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import secrets
import signal
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from math import inf
from typing import TYPE_CHECKING, cast

from s3bulkcopy.worker.connections import Host
from s3bulkcopy.worker.copying import Copier
from s3bulkcopy.worker.failures import Failed, Next, Stop
from s3bulkcopy.worker.loop import WorkerLoop
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Done,
    Fatal,
    ListTask,
    MalformedMessage,
    Nothing,
    Task,
    Trouble,
    clip,
    decode_task,
    encode_event,
    encode_task,
    to_json,
)
from s3bulkcopy.worker.pacing import Pace, full_jitter
from s3bulkcopy.worker.s3 import S3
from s3bulkcopy.worker.sigv4 import Credentials
from s3bulkcopy.worker.work import LIST_SECONDS, Budget, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

#: How long requests on their way may take to land when the engine says stop, in seconds.
LANDING_SECONDS = 15.0

#: Longest line, in bytes: a task of any job, several times over.
_LINE_BYTES = 64 * 1024 * 1024

#: File descriptors that are not connections to S3.
_OTHER_DESCRIPTORS = 32


@dataclass(frozen=True, slots=True)
class Config:
    """What a worker is told before its first task."""

    credentials: Credentials
    #: Certificates to trust, as a file; None for the system's own.
    ca_file: str | None
    #: Most connections to S3.
    connections: int
    #: Most COPY requests a second; None for no limit of ours.
    most_a_second: float | None


def line(*words: str | int) -> bytes:
    """Write a line; only the last word may hold spaces."""
    return " ".join(map(str, words)).encode() + b"\n"


def encode_config(config: Config) -> str:
    """Write a configuration, secrets included."""
    return to_json(asdict(config))


def decode_config(text: str) -> Config:
    """Read a configuration."""
    data = json.loads(text)
    return Config(Credentials(**data.pop("credentials")), **data)


class LocalWorker:
    """Serves one engine until it says stop, or is gone."""

    def __init__(self, config: Config, writer: asyncio.StreamWriter, idle_seconds: Callable[[], float]) -> None:
        """Speak to the engine by `writer`; `idle_seconds` is how long the event loop had nothing to do."""
        self._credentials = config.credentials
        self._writer = writer
        self._s3 = S3(lambda: self._credentials, host=lambda url: Host(url=url, ca_file=config.ca_file))
        self._pauses = full_jitter(random.random)
        most = _affordable(config.connections)
        self._pace = Pace(most=most, most_a_second=config.most_a_second or inf, idle_seconds=idle_seconds)
        self._copier = Copier(self._s3, self._pace, self._pauses)
        self._worker = Worker(self._s3, self._copier, self._pauses)
        self._sequence = count()
        self._unaccepted: dict[int, asyncio.Future[None]] = {}
        self._work: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Do as the engine says."""
        while words := (await reader.readline()).decode().rstrip("\n").split(" ", 3):
            match words:
                case ["task", token, number, body]:
                    self._begin(self._serve_task(token, int(number), body))
                case ["probe", token, *rest]:
                    self._begin(self._serve_probe(token, " ".join(rest)))
                case ["accepted", sequence]:
                    self._unaccepted.pop(int(sequence)).set_result(None)
                case ["credentials", *rest]:
                    self._credentials = Credentials(**json.loads(" ".join(rest)))
                case ["stop"]:
                    await self._land()
                    return
                case _:  # the engine is gone, and with it the sense of all this
                    return

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _say(self, *words: str | int) -> None:
        self._writer.write(line(*words))

    async def _emit(self, task: Task) -> None:
        sequence = next(self._sequence)
        self._unaccepted[sequence] = accepted = asyncio.get_running_loop().create_future()
        self._say("emit", sequence, "list" if isinstance(task, ListTask) else "copy", encode_task(task))
        await accepted

    async def _serve_task(self, token: str, number: int, body: str) -> None:
        task = _task(body)
        attempt = Attempt(number, secrets.token_hex(8))
        deadline = asyncio.get_running_loop().time() + LIST_SECONDS if isinstance(task, ListTask) else inf
        try:
            done = await self._worker.work(task, attempt, Budget(deadline), self._emit)
        except Stop as stop:
            self._say("fatal", token, encode_event(Fatal(task.id, attempt, stop.kind, stop.cause)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the engine delivers the task again
            if isinstance(error, Failed) and error.fault.next is Next.EXPIRED:
                self._say("expired", token)
                return
            cause = clip(f"{type(error).__name__}: {error}")
            self._say("trouble", token, encode_event(Trouble(task.id, attempt, cause)))
        else:
            self._say("done", token, encode_event(done))

    async def _serve_probe(self, token: str, body: str) -> None:
        task = _task(body)
        if not isinstance(task, CopyTask):
            raise MalformedMessage("a probe is a CopyTask")
        outcome = await self._copier.probe(task.job, task.items)
        if isinstance(outcome, Failed):
            denied = outcome.fault.next in (Next.DENIED, Next.STOP, Next.EXPIRED)
            self._say("refused", token, to_json({"cause": str(outcome.fault), "denied": denied}))
            return
        done = Done(task.id, Attempt(1, secrets.token_hex(8)), 0, outcome.counts, outcome.failures)
        self._say("probed", token, len(outcome.rest), encode_event(done))

    async def _land(self) -> None:
        """Begin nothing more, and give what is on its way the time to land."""
        work = [*self._work]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self._copier.land(LANDING_SECONDS)


def _task(body: str) -> Task:
    task = decode_task(body)
    if isinstance(task, Nothing):
        raise MalformedMessage("a task that asks for nothing")
    return task


def _affordable(connections: int) -> int:
    """Give how many connections the limit on file descriptors allows, having raised it as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_DESCRIPTORS
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(connections, soft - _OTHER_DESCRIPTORS))


async def _main(loop: WorkerLoop) -> None:
    with socket.socket(fileno=os.dup(0)) as engine:
        reader, writer = await asyncio.open_connection(sock=engine, limit=_LINE_BYTES)
        first = (await reader.readline()).decode()
        if first:
            config = decode_config(first.removeprefix("config "))
            await LocalWorker(config, writer, loop.idle_seconds).serve(reader)
        writer.transport.abort()


def main() -> None:
    """Serve the engine at the other end of file descriptor 0."""
    # Ctrl-C is the engine's to hear: it says stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=WorkerLoop) as runner:
        runner.run(_main(cast("WorkerLoop", runner.get_loop())))


if __name__ == "__main__":
    main()

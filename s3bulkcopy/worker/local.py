"""A worker process of the local engine: tasks in, work done, events and children out, over a socket at file descriptor 0.

What is said there are lines of words, of which the last may be JSON. The engine says:

    config JSON             first: credentials, certificates, proxy, how many connections and requests a second
    credentials JSON        new credentials, from now on
    task TOKEN NUMBER JSON  work on a task, of which this is the attempt of that number
    probe TOKEN JSON        prove the right to copy on the items of a CopyTask
    rate NUMBER             send no more COPY requests a second than this, from now on
    accepted SEQUENCE       the child of that number is safe
    hand-on                 begin nothing more, let requests land, report each task in hand with its rest as a child, and end
    stop                    begin nothing more, let requests land, and end

and the worker:

    ready                     from now on what ends it may be a task's doing
    emit SEQUENCE KIND JSON   a child: `list`, `copy`, or `more` where a copy task hands it on
    done TOKEN JSON           a task has ended, with this event
    trouble TOKEN JSON        an attempt failed, with this event
    passing TOKEN JSON        the same, of what may pass: the store does not answer, or not for now
    fatal TOKEN JSON          the run cannot go on, with this event
    expired TOKEN             these credentials are of no use any more
    troubled JSON             what may pass, and has kept everything from being copied for a while; it is shown, and no more
    progress JSON             what the tasks in hand have achieved so far, as Counts; the engine shows it, and no more
    probed TOKEN REST JSON    a probe succeeded, with this event; so many items are left
    refused TOKEN JSON        a probe failed: {"next", "code", "cause"}, where next is the name of a Next
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import count
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.attempts import LIST_SECONDS, Budget
from s3bulkcopy.worker.connections import Host
from s3bulkcopy.worker.copying import RETRY_SECONDS, Copier
from s3bulkcopy.worker.failures import Failed, Next, Stop, lost
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Counts,
    Done,
    Fatal,
    Listing,
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
from s3bulkcopy.worker.pacing import Pace, chance, full_jitter
from s3bulkcopy.worker.s3 import S3
from s3bulkcopy.worker.sigv4 import Credentials
from s3bulkcopy.worker.work import Worker

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from s3bulkcopy.worker.copying import Outcome

#: How long requests on their way may take to land when the engine says stop, in seconds.
LANDING_SECONDS = 15.0

#: How long it may then take until what is left of the tasks in hand is accepted, in seconds.
_HANDING_SECONDS = 3.0

#: How often progress is told, in seconds.
_PROGRESS_SECONDS = 1.0

#: Children of one task that may wait to be accepted: what waits is held in memory.
_MOST_SENDS = 2

#: Most that is read from the engine at a time, in bytes.
_READ_BYTES = 64 * 1024

#: File descriptors that are not connections to S3.
_OTHER_DESCRIPTORS = 32


class Config(NamedTuple):
    """What a worker is told before its first task."""

    credentials: Credentials
    #: Certificates to trust, as a file; None for the system's own.
    ca_file: str | None
    #: URL of the HTTP proxy to go through, with what it asks to know; None for none.
    proxy: str | None
    #: Most connections to S3.
    connections: int
    #: Most LIST requests at a time.
    list_slots: int
    #: Most COPY requests a second, until another rate is said; None for no limit of ours.
    most_a_second: float | None


def line(*words: str | int) -> bytes:
    """Write a line; only the last word may hold spaces."""
    return " ".join(map(str, words)).encode() + b"\n"


def encode_config(config: Config) -> str:
    """Write a configuration, secrets included."""
    return to_json({**config._asdict(), "credentials": config.credentials._asdict()})


def decode_config(text: str) -> Config:
    """Read a configuration."""
    data = json.loads(text)
    return Config(Credentials(**data.pop("credentials")), **data)


class Wire:
    """Lines over a socket, both ways."""

    def __init__(self, end: socket.socket) -> None:
        """Take over one end."""
        self._loop = aio.get_running_loop()
        self._end = end
        self._lines: deque[str] = deque()
        self._part = b""
        self._unsent = bytearray()
        self._is_open = True
        self._changed = self._loop.create_future()
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._read)

    async def line(self) -> str:
        """Give the next line; empty once the other end is gone."""
        while not self._lines and self._is_open:
            await self._change()
        return self._lines.popleft() if self._lines else ""

    def write(self, data: bytes) -> None:
        """Send something as soon as there is room."""
        self._unsent += data if self._unsent else data[self._send(data) :]
        if self._unsent:
            self._loop.add_writer(self._end.fileno(), self._write)

    async def written(self) -> None:
        """Wait until everything is sent, or the other end gone."""
        while self._unsent and self._is_open:
            await self._change()

    async def _change(self) -> None:
        self._changed = self._loop.create_future()
        await self._changed

    def _note_change(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)

    def _read(self) -> None:
        try:
            data = self._end.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close()
        elif b"\n" in data:
            *lines, self._part = (self._part + data).split(b"\n")
            self._lines.extend(one.decode() for one in lines)
            self._note_change()
        else:
            self._part += data

    def _send(self, data: bytes | bytearray) -> int:
        """Send what there is room for; tell how much, which is all where nobody reads it any more."""
        try:
            return self._end.send(data) if self._is_open else len(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._close()
            return len(data)

    def _write(self) -> None:
        del self._unsent[: self._send(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._end.fileno())
            self._note_change()

    def _close(self) -> None:
        self._is_open = False
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())
        self._note_change()


class LocalWorker:
    """Serves one engine until it says stop, or is gone."""

    def __init__(self, config: Config, wire: Wire) -> None:
        """Speak to the engine by a wire."""
        self._credentials = config.credentials
        self._wire = wire
        self._s3 = S3(lambda: self._credentials, host=lambda url: Host(url=url, ca_file=config.ca_file, proxy=config.proxy))
        self._pauses = full_jitter(chance)
        most = _affordable(config.connections)
        idle_seconds = aio.get_running_loop().idle_seconds
        self._pace = Pace(most=most, most_a_second=config.most_a_second or inf, idle_seconds=idle_seconds)
        self._copier = Copier(self._s3, self._pace, self._pauses)
        self._worker = Worker(self._s3, self._copier, self._pauses, most_sends=_MOST_SENDS, list_slots=config.list_slots)
        #: What the nonces of its attempts begin with, so that reports tell which of them were one process's.
        self._name = os.urandom(4).hex()
        self._sequence = count()
        self._unaccepted: dict[int, aio.Future] = {}
        #: What is being done: tasks, and everything else.
        self._tasks: set[aio.Task] = set()
        self._chores: set[aio.Task] = set()
        self._is_ending = False

    async def serve(self) -> None:
        """Do as the engine says."""
        self._say("ready")
        self._begin(self._tell_progress(), self._chores)
        while words := (await self._wire.line()).split(" ", 3):
            match words:
                case ["task", token, number, body]:
                    self._begin(self._serve_task(token, int(number), _task(body)), self._tasks)
                case ["probe", token, *rest]:
                    self._begin(self._serve_probe(token, " ".join(rest)), self._chores)
                case ["accepted", sequence]:
                    self._note_accepted(sequence)
                case ["rate", number]:
                    self._pace.limit(float(number))
                case ["credentials", *rest]:
                    self._credentials = Credentials(**json.loads(" ".join(rest)))
                case ["hand-on"]:
                    await self._hand_on()
                    return
                case ["stop"]:
                    await self._land()
                    return
                case _:  # the engine is gone, and no report would be read
                    return

    @staticmethod
    def _begin(work: Coroutine[None, None, None], among: set[aio.Task]) -> None:
        task = aio.create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)

    def _note_accepted(self, sequence: str) -> None:
        self._unaccepted.pop(int(sequence)).settle()  # who waited may have been cancelled

    def _say(self, *words: str | int) -> None:
        self._wire.write(line(*words))

    async def _tell_progress(self) -> None:
        said = Counts()
        while True:
            await aio.sleep(_PROGRESS_SECONDS)
            if (trouble := self._copier.trouble()) is not None:
                self._say("troubled", to_json(f"{trouble}"))
            counts = self._worker.under_way()
            if counts != said:
                self._say("progress", to_json(counts))
                said = counts

    async def _emit(self, task: Task, *, kind: str = "copy") -> None:
        sequence = next(self._sequence)
        self._unaccepted[sequence] = accepted = aio.get_running_loop().create_future()
        self._say("emit", sequence, "list" if isinstance(task, Listing) else kind, encode_task(task))
        del task  # its items may be many, and to be accepted may take long
        await accepted

    async def _serve_task(self, token: str, number: int, task: Task) -> None:
        if self._is_ending:  # it is whole, and the engine has it
            return
        attempt = Attempt(number, self._name + os.urandom(8).hex())
        deadline = aio.get_running_loop().time() + LIST_SECONDS if isinstance(task, Listing) else inf
        emit = self._emit if isinstance(task, Listing) else partial(self._emit, kind="more")
        try:
            done = await self._worker.work(task, attempt, Budget(deadline), emit)
        except Stop as stop:
            self._say("fatal", token, encode_event(Fatal(task.id, attempt, stop.kind, stop.cause)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the engine delivers the task again
            if isinstance(error, Failed) and error.fault.next is Next.EXPIRED:
                self._say("expired", token)
                return
            is_passing = isinstance(error, Failed) and error.fault.next in (Next.RETRY, Next.SLOW_DOWN)
            cause = clip(f"{type(error).__name__}: {error}")
            self._say("passing" if is_passing else "trouble", token, encode_event(Trouble(task.id, attempt, cause)))
        else:
            self._say("done", token, encode_event(done))

    async def _serve_probe(self, token: str, body: str) -> None:
        task = _task(body)
        if not isinstance(task, CopyTask):
            raise MalformedMessage("a probe is a CopyTask")
        try:
            outcome = await self._probe(task)
        except Exception as error:  # noqa: BLE001 - whatever it is, the engine waits for an answer
            outcome = error if isinstance(error, Failed) else Failed(lost(error), "copying")
        if isinstance(outcome, Failed):
            if outcome.fault.next is Next.EXPIRED:
                self._say("expired", token)
                return
            self._say("refused", token, to_json({**outcome.fault._asdict(), "next": outcome.fault.next.name}))
            return
        done = Done(task.id, Attempt(1, os.urandom(8).hex()), 0, outcome.counts, outcome.failures)
        self._say("probed", token, len(outcome.rest), encode_event(done))

    async def _probe(self, task: CopyTask) -> Outcome | Failed:
        """Prove the right to copy; what passes is put up with for as long as it is for any item."""
        clock = aio.get_running_loop().time
        give_up_at = clock() + RETRY_SECONDS
        for tries in count(1):
            outcome = await self._copier.probe(task.job, task.items, give_up_at)
            is_passing = isinstance(outcome, Failed) and outcome.fault.next in (Next.RETRY, Next.SLOW_DOWN)
            if not is_passing or clock() >= give_up_at:
                break
            await aio.sleep(self._pauses(tries))
        return outcome

    async def _hand_on(self) -> None:
        """Begin nothing more, and report the tasks in hand, unless the engine is gone; what takes too long stays whole."""
        self._is_ending = True
        await _cancel(self._chores)
        ending = aio.create_task(self._end_tasks())
        hearing = aio.create_task(self._hear_acceptance())
        hearing.add_done_callback(lambda _: ending.cancel())
        await aio.gather(ending, return_exceptions=True)
        await _cancel(self._tasks)

    async def _end_tasks(self) -> None:
        await self._worker.hand_on(LANDING_SECONDS)
        async with aio.timeout(_HANDING_SECONDS):
            await aio.gather(*self._tasks, return_exceptions=True)

    async def _hear_acceptance(self) -> None:
        """Hear that children are accepted, until the engine says anything else, or is gone."""
        while (words := (await self._wire.line()).split(" "))[0] in ("accepted", "rate"):
            if words[0] == "accepted":
                self._note_accepted(words[1])

    async def _land(self) -> None:
        """Begin nothing more, and give what is on its way the time to land, unless the engine is gone."""
        await _cancel(self._chores | self._tasks)
        landing = aio.create_task(self._copier.land(LANDING_SECONDS))
        hearing = aio.create_task(self._wire.line())
        hearing.add_done_callback(lambda _: landing.cancel())
        await aio.gather(landing, return_exceptions=True)


async def _cancel(tasks: Iterable[aio.Task]) -> None:
    cancelled = [*tasks]
    for task in cancelled:
        task.cancel()
    await aio.gather(*cancelled, return_exceptions=True)


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


async def _main() -> None:
    wire = Wire(socket.socket(fileno=os.dup(0)))
    if first := await wire.line():
        await LocalWorker(decode_config(first.removeprefix("config ")), wire).serve()
        await wire.written()


def main() -> None:
    """Serve the engine at the other end of file descriptor 0."""
    # What lives long here is items by the thousand, which have no cycles: looking for any less often saves time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    aio.run(_main())


if __name__ == "__main__":
    main()

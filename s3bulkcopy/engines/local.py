"""The local engine: tasks wait here, workers are processes on this machine, and everything is said over sockets.

The engine is the queue, and keeps what waits in it in the run's journal: no task is accepted before it is there, and it stays
until its end is, so that another command can go on where this one was killed. Whatever calls the engine (`submit`, `poll`,
`settle`) drives it; in between the workers go on with what they have. It holds no more than a bounded number of copy tasks: a
worker that lists waits until its children are accepted.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from math import inf
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import s3bulkcopy
from s3bulkcopy.aws.session import Lack, lack
from s3bulkcopy.engines import Depth, Depths, Proof, Signs
from s3bulkcopy.engines.order import rarest
from s3bulkcopy.errors import BucketUnavailable, Interrupted, NotPermitted, S3BulkCopyError, UsageError
from s3bulkcopy.worker.attempts import LIST_SLOTS
from s3bulkcopy.worker.copying import OUTAGE_SECONDS, TROUBLE_SECONDS
from s3bulkcopy.worker.failures import WHAT_TO_DO
from s3bulkcopy.worker.local import Config, encode_config, line
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Counts,
    Dead,
    Done,
    Fatal,
    Listing,
    MalformedMessage,
    Nothing,
    PartTask,
    Task,
    Trouble,
    clip,
    decode_event,
    decode_task,
    encode_task,
    to_json,
)
from s3bulkcopy.worker.pacing import full_jitter
from s3bulkcopy.worker.properties import options_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from s3bulkcopy.aws.uploads import Swept
    from s3bulkcopy.journal import Journal
    from s3bulkcopy.settings import LocalSettings
    from s3bulkcopy.worker.model import Event, Item, Job
    from s3bulkcopy.worker.sigv4 import Credentials

_MAIN = "from s3bulkcopy.worker.local import main; main()"

#: What a worker process runs: the standard library and our own code, and nothing that happens to be installed or lie about.
_PROGRAM = f"import sys; sys.path.append({str(Path(s3bulkcopy.__file__).parent.parent)!r}); {_MAIN}"

#: Tasks that one worker has in hand at a time. Each to list keeps a copy task that it has begun, of up to a thousand keys.
SLOTS = {"list": 24, "copy": 16}

#: Bytes of copy tasks from which on a worker is given another only where more wait than it has in hand: what is taken before
#: there is a choice may all be in one part of the key space, and keeps others out for as long as that takes.
_CHOICE_BYTES = 300_000

#: Bytes of copy tasks from which on a worker is given no other; where keys are of usual length the slots end before.
_HAND_BYTES = 2_500_000

#: Copy tasks that wait here before no more are accepted: how many for each worker, and of how many bytes in all.
_BACKLOG = 32
_BACKLOG_BYTES = 8_000_000

#: Deliveries of a task after which it is given up, unless what troubles it may pass: that is put up with for OUTAGE_SECONDS.
_DELIVERIES = 5

#: Workers that died with a task in hand after which it is given to one that has nothing else in hand, for others' sake.
_SUSPICIOUS_DEATHS = 2

#: Workers that may die before they are ready, without any task ending in between, before the run is given up.
_DEATHS = 5

#: Credentials in a row that may be refused as expired, without any task ending in between, before the run is given up.
_RENEWALS = 5

#: Connections of all workers together; the pace decides how many of them are used.
_CONNECTIONS = 3200

#: LIST requests of a worker that copies, too: more pages than it can copy, of which those that come at once take memory.
_LIST_SLOTS = 16

#: Largest message, in bytes: what a worker takes apart at a time. A thousand keys of usual length fit, as they must twice: as
#: a task, and as its report where every object has failed.
_MESSAGE_BYTES = 512 * 1024

#: What keeps glibc (mallopt(3)) from putting pages of listings among all else, where what is free between them is not given
#: back; and from giving its last 4 MiB back, only to take them again: the kernel clears each of their pages anew.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_TOP_PAD_": "4194304"}

#: How often credentials are looked at, in seconds; boto3 renews those that are about to expire.
_CREDENTIALS_SECONDS = 30.0

#: How long to wait before others are looked for again in place of those that have expired, where nobody answered, in seconds.
_RENEWAL_SECONDS = 5.0

#: How often it is said what keeps everything from getting on, in seconds.
_TROUBLE_SECONDS = 60.0

#: How long workers may take to end, in seconds, beyond what their requests may take to land.
_STOP_SECONDS = 20.0

#: The longest that one look at the sockets waits, in seconds: a signal is acted upon as soon.
_LOOK_SECONDS = 0.2


@dataclass(slots=True)
class _Delivery:
    """A task in the queue or in a worker's hands, as the message it came in."""

    kind: str
    body: str
    #: Number of the attempt that it is for, or that is under way.
    number: int = 1
    #: Workers that died with it in hand.
    deaths: int = 0
    #: When an attempt failed first of what may pass, by the engine's clock; infinity where none has.
    troubled_since: float = inf
    #: The worker that gave a list task away, which has enough to do.
    giver: _Process | None = None
    #: The first key of a copy task, as the message writes it.
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = _first_key_in(self.body)


class _Queue(deque[_Delivery]):
    """Deliveries in their order, with the bytes of their bodies; added at the end."""

    bytes = 0

    def append(self, delivery: _Delivery) -> None:
        super().append(delivery)
        self.bytes += len(delivery.body)

    def take(self, place: int = 0) -> _Delivery:
        """Take the delivery at a place from the front."""
        delivery = self[place]
        del self[place]
        self.bytes -= len(delivery.body)
        return delivery

    def clear(self) -> None:
        super().clear()
        self.bytes = 0


@dataclass(slots=True)
class _Process:
    """A worker process, what it has in hand, and what is still to be said to it."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    log: IO[bytes]
    #: Most COPY requests a second that it may send, as it was told last.
    rate: float | None = None
    is_ready: bool = False
    #: Whether it is given nothing but tasks that others have died with, one at a time.
    is_set_apart: bool = False
    tasks: dict[int, _Delivery] = field(default_factory=dict)
    loads: dict[str, int] = field(default_factory=lambda: {"list": 0, "copy": 0})
    #: Bytes of the copy tasks in hand.
    copy_bytes: int = 0
    #: What it last said that they have achieved so far, less what was reported since.
    under_way: Counts = field(default_factory=Counts)
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)

    def has_room(self, kind: str, waiting: int) -> bool:
        """Tell whether it may be given one of so many tasks of a kind that wait."""
        load = self.loads[kind]
        enough = _HAND_BYTES if waiting > load else _CHOICE_BYTES
        return load < SLOTS[kind] and (kind == "list" or self.copy_bytes < enough)

    def copy_keys(self) -> list[str]:
        """Give the keys that the copy tasks in hand begin with."""
        return [delivery.key for delivery in self.tasks.values() if delivery.kind == "copy"]

    def end(self) -> str:
        """Wait for the process to end; say how it did."""
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        self.log.seek(0)
        words = self.log.read().decode(errors="replace").strip()
        return f"a worker process {how}" + (f": {words.splitlines()[-1][:500]}" if words else "")


class LocalEngine:
    """An Engine on this machine."""

    name = "local"
    goes_on = False
    sent_until = 0.0

    def __init__(
        self,
        job: Job,
        settings: LocalSettings,
        *,
        credentials: Callable[[], Credentials],
        renewed_credentials: Callable[[], Credentials],
        ca_file: str | None,
        proxy: str | None = None,
        journal: Journal | None = None,
        sweep: Callable[[], Swept] | None = None,
        say: Callable[[str], None],
        check: Callable[[], None],
        clock: Callable[[], float],
        lets_in: Callable[[str], str] = lambda _cause: "",
    ) -> None:
        """Run a job.

        `credentials` gives those that are valid now and may raise NotPermitted, `renewed_credentials` looks for others where
        they have expired all the same. `ca_file` and `proxy` are as a Host has them. Tasks are kept in `journal`, if any.
        `sweep` aborts what multipart uploads the run has left.
        `check` may raise to stop what waits here. `lets_in` says what owners can add where we are denied something.
        """
        self.job = job._replace(message_bytes=_MESSAGE_BYTES)
        self.left: tuple[str, ...] = ()
        self._settings = settings
        self._credentials, self._renewed = credentials, renewed_credentials
        self._ca_file, self._proxy = ca_file, proxy
        self._journal, self._sweep, self._lets_in = journal, sweep, lets_in
        #: Of multipart uploads; a run that goes on may have left some.
        self._signs = Signs(possible=journal is not None and journal.facts.has_roots)
        self._say, self._check, self._clock = say, check, clock
        self._pauses = full_jitter(random.random)
        self._selector = selectors.DefaultSelector()
        self._processes: list[_Process] = []
        self._queues = {"list": _Queue(), "copy": _Queue()}
        self._suspects: deque[_Delivery] = deque()
        #: Copy tasks that are in the journal alone until there is room for them, by their ids.
        self._shelved: deque[str] = deque()
        #: Deliveries that wait for their time: when, a number that makes each differ, and the delivery.
        self._later: list[tuple[float, int, _Delivery]] = []
        #: Children that are to be accepted once there is room, and that are to be once they are kept.
        self._unaccepted: deque[tuple[_Process, int, _Delivery]] = deque()
        self._unkept: list[tuple[_Process, int, _Delivery]] = []
        self._numbers = count()
        self._events: list[Event] = []
        self._dead = 0
        self._deaths = 0
        #: Whether workers are ending, and nothing is given to any of them.
        self._is_ending = False
        #: What came of the probe that is under way.
        self._proofs: list[Proof | S3BulkCopyError] = []
        self._probe: CopyTask | None = None
        self._prober: _Process | None = None
        #: What the workers were told last, and the number of the first delivery made since.
        self._said: Credentials | None = None
        self._said_since = -1
        #: How often others were found in place of those that had expired, since a task has ended.
        self._renewals = 0
        self._said_at = float("-inf")
        #: Since when others were looked for and nobody answered, and when last.
        self._unrenewed_since: float | None = None
        self._looked_at = float("-inf")
        #: When anything was last known to get on, and when it was last said what keeps everything from it.
        self._got_on_at = self._told_trouble_at = float("-inf")
        #: Whether it was said that credentials cannot be had for now.
        self._is_lack_said = False

    # -------------------------------------------------------------------------------------------- making and unmaking

    def __enter__(self) -> Self:
        """Start the workers."""
        number = self._settings.processes
        self._say(f"starting {number} worker process{'es' if number > 1 else ''}")
        self._said, self._said_at = self._credentials(), self._clock()
        try:
            for _ in range(self._settings.processes):
                self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        """End the workers, once their requests have landed, and abort what multipart uploads are left."""
        self._stop()
        if self._sweep is None or self.job.dry or not (self._signs.known or self._signs.possible or error is not None):
            return
        swept = self._sweep()
        swept.say_aborted(self._say)
        self.left = tuple(str(left) for left in swept.left_if(is_known=self._signs.known))

    def _start(self) -> _Process:
        try:
            worker = _spawn()
        except OSError as error:
            hint = "fewer --processes need less; `ulimit -n` shows how many files may be open, `ulimit -u` how many processes"
            raise S3BulkCopyError(f"cannot start a worker process: {error}", hint) from error
        self._processes.append(worker)
        self._selector.register(worker.socket, selectors.EVENT_READ, worker)
        share = self._settings.processes
        limit = self._settings.max_rate
        if self._said is None:
            raise RuntimeError("the engine was not entered")
        worker.rate = limit / share if limit is not None else None
        slots = LIST_SLOTS if self.job.dry else _LIST_SLOTS
        config = Config(self._said, self._ca_file, self._proxy, _CONNECTIONS // share, slots, worker.rate)
        self._tell(worker, "config", encode_config(config))
        return worker

    def _stop(self) -> None:
        """End all workers: politely, then not."""
        for worker in self._processes:
            self._tell(worker, "stop")
        give_up_at = self._clock() + _STOP_SECONDS
        while self._processes and self._clock() < give_up_at:
            for worker, events in self._ready(_LOOK_SECONDS):
                if events & selectors.EVENT_WRITE:
                    self._flush(worker)
                # What it says now changes nothing any more.
                if events & selectors.EVENT_READ and self._read(worker) == b"":
                    self._remove(worker)
        self._end_all()
        self._selector.close()

    def _end_all(self) -> None:
        for worker in [*self._processes]:
            worker.process.kill()
            self._remove(worker)

    def _remove(self, worker: _Process) -> None:
        self._processes.remove(worker)
        self._selector.unregister(worker.socket)
        worker.socket.close()
        worker.process.wait()
        worker.log.close()

    # --------------------------------------------------------------------------------------------------- the contract

    def prove(self, task_id: str, first_items: Sequence[Item]) -> Proof:
        """Have a worker copy one of the first objects."""
        self._probe = CopyTask(task_id, self.job, tuple(first_items))
        self._send_probe(self._processes[0])
        while not self._proofs:
            self._check()
            self._go_on(_LOOK_SECONDS)
        proof = self._proofs.pop()
        self._probe = self._prober = None
        if isinstance(proof, S3BulkCopyError):
            raise proof
        return proof

    def _send_probe(self, worker: _Process) -> None:
        if self._probe is not None:
            self._prober = worker
            self._tell(worker, "probe", next(self._numbers), encode_task(self._probe))

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks."""
        self._signs.known |= any(isinstance(task, PartTask) for task in tasks)
        deliveries = [_Delivery("list" if isinstance(task, Listing) else "copy", encode_task(task)) for task in tasks]
        self._keep(deliveries)
        for delivery in deliveries:
            queue = self._queues[delivery.kind]
            is_full = bool(self._shelved) or not self._has_room(queue, alone=False)
            if delivery.kind == "copy" and self._journal is not None and is_full:
                self._shelved.append(_name_in(delivery.body))
            else:
                queue.append(delivery)
        self._assign()

    def poll(self, seconds: float) -> list[Event]:
        """Give the events of the next so many seconds, or of less where nothing is left to do."""
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0 and not (self._events and self._is_idle()):
            try:
                self._check()
            except Interrupted:
                if self._events:  # they count all the same; the next call raises
                    break
                raise
            self._go_on(min(left, _LOOK_SECONDS))
            if any(isinstance(event, Fatal) for event in self._events):
                break
        events, self._events = self._events, []
        return events

    def ack(self) -> None:
        """Do nothing: nobody but this process could be given the events again, and it has them."""

    def depths(self) -> Depths:
        """Give how much work is queued."""
        shelved = {"list": 0, "copy": len(self._shelved)}
        listing, copying = (
            Depth(len(self._queues[kind]) + number, sum(worker.loads[kind] for worker in self._processes))
            for kind, number in shelved.items()
        )
        return Depths(listing, copying, self._dead, sum(bool(worker.tasks) for worker in self._processes))

    def under_way(self) -> Counts:
        """Give what the tasks in the workers' hands have achieved so far."""
        return sum((worker.under_way for worker in self._processes), Counts())

    def settle(self) -> None:
        """Begin nothing more, and wait until no worker is at work."""
        self._forget_queued()
        while any(worker.tasks for worker in self._processes):
            self._check()
            self._go_on(_LOOK_SECONDS)
            self._forget_queued()

    def hand_on(self) -> list[Event]:
        """Have the workers end soon; give what they report, with the rest of each task in hand kept as a new one.

        A task that is not reported in time is kept as it was.
        """
        self._is_ending = True
        for worker in self._processes:
            self._tell(worker, "hand-on")
        give_up_at = self._clock() + _STOP_SECONDS
        while self._processes and self._clock() < give_up_at:
            self._accept_all()
            for worker, events in self._ready(_LOOK_SECONDS):
                if events & selectors.EVENT_WRITE:
                    self._flush(worker)
                if events & selectors.EVENT_READ and not self._receive(worker):
                    self._remove(worker)
        self._end_all()
        reported, self._events = self._events, []
        return reported

    def _accept_all(self) -> None:
        """Accept every child, however many wait: nothing will be done about them here."""
        self._unkept += self._unaccepted
        self._unaccepted.clear()
        self._accept_kept()

    def _forget_queued(self) -> None:
        for queue in (*self._queues.values(), self._suspects):
            queue.clear()
        self._later.clear()
        self._shelved.clear()
        while self._unaccepted:  # who waits for that would wait for ever
            worker, sequence, _ = self._unaccepted.popleft()
            self._tell(worker, "accepted", sequence)

    def _is_idle(self) -> bool:
        queued = any(self._queues.values()) or self._suspects or self._later or self._shelved
        return not (queued or any(worker.tasks for worker in self._processes))

    # ------------------------------------------------------------------------------------------------------ the queue

    def _go_on(self, seconds: float) -> None:
        """Take what the workers say within so many seconds, up to the first of it, and give them what they may have."""
        self._look_at_credentials()
        for worker, events in self._ready(seconds):
            if events & selectors.EVENT_WRITE:
                self._flush(worker)
            if events & selectors.EVENT_READ and not self._receive(worker):
                self._bury(worker)
        while self._later and self._later[0][0] <= self._clock():
            self._queue_again(heapq.heappop(self._later)[2])
        self._assign()

    def _queue_again(self, delivery: _Delivery) -> None:
        suspicious = delivery.deaths >= _SUSPICIOUS_DEATHS
        (self._suspects if suspicious else self._queues[delivery.kind]).append(delivery)

    def _assign(self) -> None:
        """Give each waiting task to the worker that has least of its kind in hand, and accept what there is room for."""
        self._assign_suspects()
        workers = [worker for worker in self._processes if not worker.is_set_apart]
        self._take_from_shelf()
        for kind, queue in self._queues.items():
            while queue and (free := [worker for worker in workers if worker.has_room(kind, len(queue))]):
                worker = min(free, key=lambda one: (one is queue[0].giver, one.loads[kind]))
                self._give(worker, queue.take(self._next_copy(worker) if kind == "copy" else 0))
            while kind == "copy" and self._unaccepted and self._has_room(queue, alone=not workers):
                entry = self._take_unaccepted()
                queue.append(entry[2])
                self._unkept.append(entry)
        self._accept_kept()
        self._share_rate()

    def _next_copy(self, worker: _Process) -> int:
        """Give the place of the copy task that a worker is given next.

        At each fork of the keys it is of the way that its own hand has fewest of; where it has as few of others, that the other
        hands have fewest of, so that no part waits while another has two workers. By all hands alone workers would come to have
        parts for themselves, and those of a slower one would be copied last, at their own rate.
        """
        waiting = [delivery.key for delivery in self._queues["copy"]]
        in_other_hands = [key for one in self._processes if one is not worker for key in one.copy_keys()]
        return rarest(waiting, worker.copy_keys(), in_other_hands)

    def _take_unaccepted(self) -> tuple[_Process, int, _Delivery]:
        """Take the child that is accepted next: the one that is least like those that wait."""
        waiting = [delivery.key for delivery in self._queues["copy"]]
        place = rarest([delivery.key for _, _, delivery in self._unaccepted], waiting)
        entry = self._unaccepted[place]
        del self._unaccepted[place]
        return entry

    def _take_from_shelf(self) -> None:
        queue = self._queues["copy"]
        while self._shelved and self._journal is not None and self._has_room(queue, alone=False):
            body = self._journal.kept_task(self._shelved.popleft())
            if body is not None:
                queue.append(_Delivery("copy", body))

    def _accept_kept(self) -> None:
        """Keep the children that there is room for, many at a time, and tell those who wait for that."""
        entries, self._unkept = self._unkept, []
        self._keep([delivery for _, _, delivery in entries])
        for worker, sequence, _ in entries:
            if worker in self._processes:
                self._tell(worker, "accepted", sequence)

    def _keep(self, deliveries: Sequence[_Delivery]) -> None:
        if self._journal is not None and deliveries:
            self._journal.keep_tasks((_name_in(delivery.body), delivery.body) for delivery in deliveries)

    def _share_rate(self) -> None:
        """Give the whole of the rate to those that copy, each as much."""
        busy = [worker for worker in self._processes if worker.loads["copy"]]
        if self._settings.max_rate is None or not busy:
            return
        share = self._settings.max_rate / len(busy)
        # Whoever is to send less hears it first.
        for worker in sorted(busy, key=lambda one: one.rate or 0.0, reverse=True):
            if worker.rate != share:
                worker.rate = share
                self._tell(worker, "rate", f"{share}")

    def _has_room(self, queue: _Queue, *, alone: bool) -> bool:
        """Tell whether another copy task may wait here; a worker that is set apart and `alone` would wait for ever."""
        size = len(self._processes)
        return alone or (len(queue) < _BACKLOG * size and queue.bytes < _BACKLOG_BYTES)

    def _assign_suspects(self) -> None:
        """Give each task that workers have died with to one that has nothing else in hand; one worker at a time does that."""
        apart = next((worker for worker in self._processes if worker.is_set_apart), None)
        if apart is None and self._suspects and self._processes:
            apart = min(self._processes, key=lambda one: len(one.tasks))
            apart.is_set_apart = True
        if apart is not None and not apart.tasks:
            if self._suspects:
                self._give(apart, self._suspects.popleft())
            else:
                apart.is_set_apart = False

    def _give(self, worker: _Process, delivery: _Delivery) -> None:
        token = next(self._numbers)
        worker.tasks[token] = delivery
        worker.loads[delivery.kind] += 1
        worker.copy_bytes += len(delivery.body) if delivery.kind == "copy" else 0
        self._tell(worker, "task", token, delivery.number, delivery.body)

    def _take(self, worker: _Process, text: str) -> None:
        """Take what a worker says."""
        verb, token, rest = ([*text.split(" ", 2), "", ""])[:3]
        match verb:
            case "ready":
                worker.is_ready = True
            case "emit":
                kind, _, body = rest.partition(" ")
                self._accept(worker, int(token), _Delivery(kind, body))
            case "done" | "fatal":
                self._note(worker, rest)
                self._release(worker, token)
                self._deaths = self._renewals = 0
            case "progress":
                self._take_progress(worker, Counts(*json.loads(token)))
            case "trouble" | "passing":
                self._take_trouble(worker, token, rest, is_passing=verb == "passing")
            case "troubled":
                self._tell_trouble(json.loads(f"{token} {rest}"))
            case "expired":
                self._try_anew(worker, token)
            case "probed" if self._probe is not None:
                remaining, _, body = rest.partition(" ")
                proof = Proof(_events(body), len(self._probe.items) - int(remaining))
                self._signs.look_at(*proof.events)
                self._proofs.append(proof)
            case "refused":
                self._proofs.append(_refusal(json.loads(rest), self.job, self._lets_in))
            case _:
                raise MalformedMessage(f"a worker that says {verb!r}")

    def _try_anew(self, worker: _Process, token: str) -> None:
        """Renew the credentials that have expired, unless that is done, and queue again what they were used for."""
        if self._is_ending:
            return
        are_others = int(token) <= self._said_since or self._renew(is_patient=worker is not self._prober)
        if worker is self._prober:
            self._send_probe(worker)
        elif are_others:
            self._queue_again(self._release(worker, token))
        else:
            self._queue_later(self._release(worker, token), _RENEWAL_SECONDS)

    def _accept(self, worker: _Process, sequence: int, delivery: _Delivery) -> None:
        if delivery.kind == "copy":
            self._unaccepted.append((worker, sequence, delivery))
            return
        if delivery.kind == "more":  # whoever waited for room would take the place of those who make it
            delivery.kind = "copy"
            self._signs.known |= delivery.body.startswith('{"t":"part"')
        else:
            delivery.giver = worker
        self._queues[delivery.kind].append(delivery)
        self._unkept.append((worker, sequence, delivery))

    def _take_trouble(self, worker: _Process, token: str, body: str, *, is_passing: bool) -> None:
        """Take that an attempt failed."""
        self._note(worker, body)
        self._deliver_again(self._release(worker, token), is_passing=is_passing)
        for event in _events(body) if is_passing else ():
            if isinstance(event, Trouble):
                self._tell_trouble(event.cause)

    def _take_progress(self, worker: _Process, counts: Counts) -> None:
        """Take what the tasks in a worker's hands have achieved so far."""
        if _achieved(counts) > _achieved(worker.under_way):
            self._got_on_at = self._clock()
        worker.under_way = counts

    def _tell_trouble(self, cause: str) -> None:
        """Say now and then what is put up with, where no worker gets on."""
        now = self._clock()
        if now - self._got_on_at >= TROUBLE_SECONDS and now - self._told_trouble_at >= _TROUBLE_SECONDS:
            self._told_trouble_at = now
            self._say(f"nothing gets on: {cause}; it is asked for again")

    def _release(self, worker: _Process, token: str) -> _Delivery:
        delivery = worker.tasks.pop(int(token))
        worker.loads[delivery.kind] -= 1
        worker.copy_bytes -= len(delivery.body) if delivery.kind == "copy" else 0
        return delivery

    def _note(self, worker: _Process, body: str) -> None:
        events = _events(body)
        self._events += events
        for event in events:
            self._signs.look_at(event)
            if isinstance(event, Done):
                if _achieved(event.counts):
                    self._got_on_at = self._clock()
                worker.under_way = Counts(*(max(0, left) for left in worker.under_way - event.counts))

    def _deliver_again(self, delivery: _Delivery, *, is_passing: bool = False) -> None:
        """Queue a task for its next attempt, or give it up; where its trouble may pass, not before that has lasted long."""
        now = self._clock()
        if is_passing:
            delivery.troubled_since = min(delivery.troubled_since, now)
        is_put_up_with = is_passing and now - delivery.troubled_since < OUTAGE_SECONDS
        if delivery.number >= _DELIVERIES and not is_put_up_with:
            task = decode_task(delivery.body)
            if not isinstance(task, Nothing):
                self._dead += 1
                self._events.append(Dead(task.id, task))
                self._signs.look_at(self._events[-1])
            return
        pause = self._pauses(delivery.number + 1)
        delivery.number += 1
        self._queue_later(delivery, pause)

    def _queue_later(self, delivery: _Delivery, seconds: float) -> None:
        heapq.heappush(self._later, (self._clock() + seconds, next(self._numbers), delivery))

    # ---------------------------------------------------------------------------------------------------- the workers

    def _ready(self, seconds: float) -> Iterator[tuple[_Process, int]]:
        for key, events in self._selector.select(seconds):
            yield key.data, events

    def _receive(self, worker: _Process) -> bool:
        """Take what has arrived from a worker; tell whether it is still there."""
        data = self._read(worker)
        if data is None:
            return True
        worker.received += data
        *lines, rest = worker.received.split(b"\n") if b"\n" in data else (worker.received,)
        worker.received = rest
        for one in lines:
            try:
                self._take(worker, one.decode())
            except (ValueError, KeyError, TypeError) as error:  # not a line of the protocol
                worker.process.kill()
                worker.log.write(f"\nit said what makes no sense: {error}\n".encode())
                return False
        return bool(data)

    @staticmethod
    def _read(worker: _Process) -> bytes | None:
        """Give what has arrived from a worker: None where nothing has, nothing where it is gone."""
        try:
            return worker.socket.recv(1 << 20)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _tell(self, worker: _Process, *words: str | int) -> None:
        worker.unsent += line(*words)
        self._flush(worker)

    def _flush(self, worker: _Process) -> None:
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):  # its end shows where it is read from
            while worker.unsent:
                del worker.unsent[: worker.socket.send(worker.unsent)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.unsent else 0)
        self._selector.modify(worker.socket, events, worker)

    def _bury(self, worker: _Process) -> None:
        """Replace a worker that died; what it had in hand is delivered again."""
        self._unaccepted = deque(entry for entry in self._unaccepted if entry[0] is not worker)
        how = worker.end()
        self._remove(worker)
        if worker.is_ready:
            for token, delivery in worker.tasks.items():
                self._note_death(delivery, token, how)
                self._deliver_again(delivery)
        else:  # that was not its tasks' fault
            for delivery in worker.tasks.values():
                self._queue_again(delivery)
            self._deaths += 1
        if self._deaths >= _DEATHS:
            raise S3BulkCopyError(f"{self._deaths} workers died at their start, one after another; the last: {how}")
        self._say(f"{how}; starting another one")
        successor = self._start()
        if worker is self._prober:
            self._send_probe(successor)

    def _note_death(self, delivery: _Delivery, token: int, how: str) -> None:
        """Report the attempt that ended with its worker, as the worker would have reported one that failed."""
        delivery.deaths += 1
        task = decode_task(delivery.body)
        if not isinstance(task, Nothing):
            self._events.append(Trouble(task.id, Attempt(delivery.number, f"{token}"), clip(how)))
            self._signs.possible = True

    # ---------------------------------------------------------------------------------------------------- credentials

    def _look_at_credentials(self) -> None:
        """Tell the workers of credentials that boto3 has renewed; where it cannot for now, those in use may do for a while."""
        if self._clock() - self._said_at < _CREDENTIALS_SECONDS:
            return
        self._said_at = self._clock()
        try:
            found = self._credentials()
        except S3BulkCopyError as error:
            if lack(error) is None:
                raise
            if not self._is_lack_said:
                self._say(f"{error}; going on with the credentials in use")
            self._is_lack_said = True
        else:
            self._is_lack_said = False
            self._spread(found)

    def _renew(self, *, is_patient: bool) -> bool:
        """Find other credentials in place of those that have expired, or end the run.

        Tells whether they were found: `is_patient` puts up for a while with nobody answering.
        """
        if is_patient and self._clock() - self._looked_at < _RENEWAL_SECONDS:
            return False
        try:
            found = self._renewed()
        except S3BulkCopyError as error:
            self._looked_at = now = self._clock()
            if self._unrenewed_since is None:
                self._unrenewed_since = now
            if is_patient and lack(error) is Lack.NETWORK and now - self._unrenewed_since < OUTAGE_SECONDS:
                return False
            raise
        self._unrenewed_since, self._looked_at = None, float("-inf")
        if found == self._said:
            raise NotPermitted(
                "the credentials have expired",
                hint="refresh them, for example with `aws sso login`",
            )
        self._renewals += 1
        if self._renewals > _RENEWALS:
            raise NotPermitted(
                f"the credentials have expired, and so had {_RENEWALS} others in a row that were found in their place",
                hint="look at this machine's clock, and at where the credentials come from",
            )
        self._spread(found)
        return True

    def _spread(self, credentials: Credentials) -> None:
        if credentials != self._said:
            self._said, self._said_since = credentials, next(self._numbers)
            words = to_json(
                {"access_key": credentials.access_key, "secret_key": credentials.secret_key, "token": credentials.token}
            )
            for worker in self._processes:
                self._tell(worker, "credentials", words)


def _spawn() -> _Process:
    """Start a worker process; raises OSError."""
    ours, theirs = socket.socketpair()
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with its process
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own program
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=theirs.fileno(),
            stdout=log,
            stderr=log,
            env={**os.environ, **_MEMORY},
            # Ctrl-C and a closed terminal are ours to hear; a worker ends when its socket does.
            process_group=0,
        )
    except BaseException:
        ours.close()
        log.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    return _Process(process, ours, log)


def _name_in(body: str) -> str:
    """Give the id of the task in a message of our own making.

    >>> _name_in('{"t":"copy","v":1,"id":"n.1","keys":["a"]}')
    'n.1'
    """
    return _text_behind('"id":"', body)


def _first_key_in(body: str) -> str:
    """Give the first key that a message names, as it writes it; empty where it names none.

    >>> _first_key_in('{"t":"copy","v":1,"id":"n.1","keys":["a/1","a/2"]}')
    'a/1'
    """
    label = '"keys":["'
    return _text_behind(label, body) if label in body else ""


def _text_behind(label: str, body: str) -> str:
    start = body.index(label) + len(label)
    return body[start : body.index('"', start)]


def _achieved(counts: Counts) -> int:
    """Give what grows whenever something gets on: objects listed and ended, and bytes of parts."""
    return counts.listed + counts.ended + counts.part_bytes


def _events(body: str) -> tuple[Event, ...]:
    event = decode_event(body)
    return () if isinstance(event, Nothing) else (event,)


def _refusal(fault: dict[str, str], job: Job, lets_in: Callable[[str], str]) -> S3BulkCopyError:
    """Put into words why a probe failed, which `refused` says."""
    cause = f"copying {job.source} to {job.destination}: {fault['code']}: {fault['cause']}"
    match fault["next"], fault["code"]:
        case _, "NoSuchBucket":
            return BucketUnavailable(cause, hint="it was there a moment ago: has someone removed it?")
        case "DENIED", _:
            permissions = "s3:GetObject on the source and s3:PutObject on the destination"
            more = lets_in(fault["cause"])
            return NotPermitted(cause, hint=f"allow {permissions}; tags need their own{f'. {more}' if more else ''}")
        case "STOP", "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken":
            hint = "look at the credentials (`aws sts get-caller-identity` tests them), and at proxies that alter requests"
            return NotPermitted(cause, hint=hint)
        case "STOP", _:
            return NotPermitted(cause, hint="look at --endpoint-url, at the bucket's region and at the state of the account")
        case "RECORD", code:
            return UsageError(cause, hint=WHAT_TO_DO.get(code) or _what_to_leave_out(job))
        case _:
            return S3BulkCopyError(cause, hint="look at the network, the proxy, --endpoint-url and AWS_CA_BUNDLE")


def _what_to_leave_out(job: Job) -> str:
    """Say what a store need not implement: what options ask for."""
    *others, last = [*([] if job.overwrite else ["--no-overwrite"]), *options_of(job.policy)] or [""]
    if not last:
        return "the store implements no server-side copy (CopyObject, UploadPartCopy), and nothing else is done here"
    options = f"{', '.join(others)} or {last}" if others else last
    return f"the store does not implement what copies ask for: leave out {options}"

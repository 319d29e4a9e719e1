"""The local engine with workers that the test plays: what is said to them, and what becomes of what they say."""

from __future__ import annotations

import json
import signal
import socket
import tempfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import CredentialRetrievalError, EndpointConnectionError

from s3bulkcopy.aws.teardown import Left
from s3bulkcopy.aws.uploads import Swept
from s3bulkcopy.engines import local
from s3bulkcopy.engines.local import SLOTS, LocalEngine, _refusal
from s3bulkcopy.errors import BucketUnavailable, Interrupted, NotPermitted, S3BulkCopyError, UsageError
from s3bulkcopy.journal import Facts, Journal
from s3bulkcopy.settings import LocalSettings
from s3bulkcopy.tally import Tally
from s3bulkcopy.worker.copying import OUTAGE_SECONDS
from s3bulkcopy.worker.local import line
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Counts,
    Dead,
    Done,
    Fatal,
    Item,
    Job,
    ListTask,
    Location,
    PartTask,
    Range,
    Trouble,
    encode_event,
    encode_task,
    to_json,
)
from s3bulkcopy.worker.properties import Policy
from s3bulkcopy.worker.sigv4 import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Location("here", "", "us-east-1", "http://127.0.0.1:1/here")
JOB = Job("run", HERE, HERE._replace(bucket="there"))
ITEM = Item("key", 1, "etag")


class Played:
    """A worker process and its end of the wire."""

    def __init__(self) -> None:
        self.end, self.engines_end = socket.socketpair()
        for end in (self.end, self.engines_end):
            end.setblocking(False)
        self.returncode: int | None = None

    # What the engine does with a process.

    def wait(self) -> int:
        assert self.returncode is not None, "the engine waits for a process that goes on"
        return self.returncode

    def kill(self) -> None:
        self.returncode = -signal.SIGKILL
        self.end.shutdown(socket.SHUT_RDWR)
        self.end.close()

    # What the worker does.

    def die(self, code: int = 1) -> None:
        self.returncode = code
        self.end.close()

    def say(self, *words: str | int) -> None:
        self.end.send(line(*words))

    def expire(self) -> None:
        """Say of every task that has arrived that the credentials have expired."""
        for token in self.tasks():
            self.say("expired", token)

    def say_at_length(self, lines: list[bytes]) -> None:
        """Say what is too much to go at once, in a thread."""
        self.end.setblocking(True)
        threading.Thread(target=self.end.sendall, args=[b"".join(lines)], daemon=True).start()

    def heard(self) -> list[list[str]]:
        """Give the words of the lines that have arrived."""
        data = bytearray()
        while not data.endswith(b"\n"):
            try:
                data += self.end.recv(1 << 20)
            except BlockingIOError:
                break
        return [line.split(" ", 3) for line in data.decode().splitlines()]

    def tasks(self) -> list[str]:
        """Give the tokens of the tasks that have arrived."""
        return [words[1] for words in self.heard() if words[0] == "task"]


class Stage:
    """An engine of so many played workers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, processes: int = 1, max_rate: int | None = None) -> None:
        self.workers: list[Played] = []
        self.steps: list[str] = []
        self.now = 0.0
        self.found = [Credentials("first", "s")]
        self.lack: Exception | None = None
        self.check: Callable[[], None] = lambda: None
        monkeypatch.setattr(local, "_spawn", self._spawn)
        self.engine = LocalEngine(
            JOB,
            LocalSettings(processes, max_rate),
            credentials=self._find,
            renewed_credentials=self._find,
            ca_file=None,
            say=self.steps.append,
            check=lambda: self.check(),  # noqa: PLW0108 - tests replace it
            clock=self._clock,
        )
        self.engine._pauses = lambda _: 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Enter the engine; its workers end before it waits for them."""
        with self.engine:
            try:
                yield
            finally:
                for worker in self.workers:
                    if worker.returncode is None:
                        worker.die(0)

    def _find(self) -> Credentials:
        if self.lack is not None:
            raise NotPermitted("looking for credentials") from self.lack
        return self.found[-1]

    def _clock(self) -> float:
        self.now += 0.02
        return self.now

    def _spawn(self) -> Any:
        played = Played()
        self.workers.append(played)
        process: Any = played
        return local._Process(process, played.engines_end, tempfile.TemporaryFile())

    def go_on(self) -> None:
        """Let the engine take what was said."""
        self.engine._go_on(0)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """An engine of one worker that is ready."""
    made = Stage(monkeypatch)
    with made.running():
        made.workers[0].say("ready")
        made.go_on()
        made.workers[0].heard()
        yield made


def listing(name: str = "run.1") -> ListTask:
    return ListTask(name, JOB, (Range("", None),))


def copying(name: str = "run.1") -> CopyTask:
    return CopyTask(name, JOB, (ITEM,))


def done(name: str = "run.1", nonce: str = "n") -> str:
    return encode_event(Done(name, Attempt(1, nonce), 0, Counts(copied=1)))


def test_a_line_may_arrive_in_pieces(stage: Stage) -> None:
    stage.engine.submit([copying("run.1"), copying("run.2")])
    worker = stage.workers[0]
    tokens = worker.tasks()
    said = b"".join(line("done", token, done(f"run.{n}")) for n, token in enumerate(tokens, 1))

    for n in range(len(said)):
        worker.end.send(said[n : n + 1])
        stage.go_on()

    assert [event.id for event in stage.engine.poll(1)] == ["run.1", "run.2"]
    assert stage.engine.depths().workers == 0


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\xfe\n",
        b"hello\n",
        b"\n",
        b"done 12345 {}\n",
        b"done x {}\n",
        b"done {token} garbage\n",
        b"emit\n",
        b"progress [1]x\n",
        b"progress 3\n",
        b"refused 1 {}\n",
    ],
)
def test_a_worker_that_talks_nonsense_is_replaced_and_its_task_delivered_again(stage: Stage, said: bytes) -> None:
    stage.engine.submit([copying()])
    (token,) = stage.workers[0].tasks()

    stage.workers[0].end.send(said.replace(b"{token}", token.encode()))
    stage.go_on()

    assert stage.workers[0].returncode == -signal.SIGKILL
    assert "it said what makes no sense" in stage.steps[-1]
    stage.now += 10
    stage.go_on()
    assert len(stage.workers[1].tasks()) == 1


def test_what_a_worker_had_in_hand_goes_to_the_next_one_as_another_attempt(stage: Stage) -> None:
    stage.engine.submit([copying()])
    stage.workers[0].die(-signal.SIGKILL)
    stage.go_on()
    stage.go_on()

    assert stage.steps[-1] == "a worker process was killed by SIGKILL; starting another one"
    assert [words[2] for words in stage.workers[1].heard() if words[0] == "task"] == ["2"]


def test_what_keeps_everything_from_getting_on_is_said_now_and_then(stage: Stage) -> None:
    stage.engine.submit([listing()])
    worker = stage.workers[0]
    (token,) = worker.tasks()
    failed = encode_event(Trouble("run.1", Attempt(1, "n"), "listing: InternalError: of its own"))

    rests = "troubled", to_json("HTTP 500: it rests")
    for said in [("passing", token, failed), rests, rests]:
        worker.say(*said)
        stage.go_on()
    stage.now += 100
    worker.say("progress", to_json(Counts(copied=1)))
    worker.say(*rests)
    stage.go_on()
    stage.now += 20
    worker.say("progress", to_json(Counts(copied=1, retries=9)))
    worker.say(*rests)
    stage.go_on()

    first, second = (step for step in stage.steps if step.startswith("nothing gets on: "))
    assert "listing: InternalError: of its own" in first
    assert "HTTP 500: it rests" in second


def test_a_task_whose_worker_dies_five_times_is_dead(stage: Stage) -> None:
    stage.engine.submit([copying()])
    for n in range(5):
        stage.go_on()
        stage.workers[n].say("ready") if n else None
        stage.go_on()
        stage.workers[n].die()
        stage.go_on()

    events = stage.engine.poll(1)
    assert [e._replace(attempt=e.attempt._replace(nonce="")) if isinstance(e, Trouble) else e for e in events] == [
        *(Trouble("run.1", Attempt(n, ""), "a worker process ended with 1") for n in range(1, 6)),
        Dead("run.1", copying()),
    ]
    assert len({event.attempt.nonce for event in events if isinstance(event, Trouble)}) == 5
    assert stage.engine.depths().dead == 1


def test_a_task_that_kills_workers_takes_no_others_with_it(stage: Stage) -> None:
    names = ["run.1", "run.2", "run.3"]
    stage.engine.submit([copying(name) for name in names])
    told_together = []
    while not stage.engine._is_idle():
        worker = stage.workers[-1]
        worker.say("ready")
        stage.go_on()
        told = [(words[1], next(name for name in names if name in words[3])) for words in worker.heard() if words[0] == "task"]
        told_together.append(sorted(name for _, name in told))
        if "run.2" in told_together[-1]:
            worker.die()
        else:
            for token, name in told:
                worker.say("done", token, done(name))
        stage.go_on()

    events = stage.engine.poll(1)
    assert sorted(event.id for event in events if isinstance(event, Done)) == ["run.1", "run.3"]
    assert [event for event in events if isinstance(event, Dead)] == [Dead("run.2", copying("run.2"))]
    assert [told for told in told_together if "run.2" in told] == 2 * [names] + 3 * [["run.2"]]


def test_a_task_stays_suspicious_where_the_worker_that_has_it_dies_before_it_is_ready(stage: Stage) -> None:
    stage.engine.submit([copying("run.1")])
    for _ in range(2):
        stage.workers[-1].say("ready")
        stage.go_on()
        stage.workers[-1].die()
        stage.go_on()
        stage.go_on()
    assert len(stage.workers[-1].tasks()) == 1

    stage.engine.submit([copying("run.2")])
    stage.workers[-1].die()
    stage.go_on()
    stage.go_on()
    assert len(stage.workers[-1].tasks()) == 1


def test_workers_that_die_before_they_are_ready_end_the_run_and_cost_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    with stage.engine:
        stage.engine.submit([copying()])
        for n in range(4):
            stage.workers[n].die()
            stage.go_on()
        assert [words[2] for words in stage.workers[4].heard() if words[0] == "task"] == ["1"]
        stage.workers[4].die()
        with pytest.raises(S3BulkCopyError, match="5 workers died at their start"):
            stage.go_on()


def test_a_probe_goes_on_with_the_next_worker_where_one_dies(stage: Stage) -> None:
    def check() -> None:
        worker = stage.workers[-1]
        (token,) = [words[1] for words in worker.heard() if words[0] == "probe"] or [""]
        if token and len(stage.workers) < 3:
            worker.die()
        elif token:
            worker.say("probed", token, 0, done("run.0"))

    stage.check = check

    proof = stage.engine.prove("run.0", [ITEM])

    assert ([event.id for event in proof.events], proof.taken, len(stage.workers)) == (["run.0"], 1, 3)


@pytest.mark.parametrize(
    ("following", "code", "error", "hint"),
    [
        ("DENIED", "AccessDenied", NotPermitted, "allow s3:GetObject"),
        ("STOP", "NoSuchBucket", BucketUnavailable, "removed"),
        ("STOP", "SignatureDoesNotMatch", NotPermitted, "credentials"),
        ("STOP", "InvalidAccessKeyId", NotPermitted, "credentials"),
        ("STOP", "PermanentRedirect", NotPermitted, "region"),
        ("RETRY", "ConnectionLost", S3BulkCopyError, "network"),
        ("RECORD", "NotImplemented", UsageError, "no server-side copy"),
    ],
)
def test_a_probe_that_is_refused_names_the_cause_and_what_to_look_at(
    stage: Stage, following: str, code: str, error: type[S3BulkCopyError], hint: str
) -> None:
    stage.check = lambda: stage.workers[0].say("refused", "1", to_json({"next": following, "code": code, "cause": "no"}))

    with pytest.raises(S3BulkCopyError) as caught:
        stage.engine.prove("run.0", [ITEM])

    assert (type(caught.value), caught.value.message) == (error, f"copying s3://here to s3://there: {code}: no")
    assert hint in caught.value.hint


def test_options_that_ask_for_what_a_store_may_lack_are_named() -> None:
    job = JOB._replace(overwrite=False, policy=Policy(sse="aws:kms", kms_key_id="k", tags="replace", tag_set=(("a", "b"),)))

    assert _refusal({"next": "RECORD", "code": "HTTP 501", "cause": ""}, job, str).hint == (
        "the store does not implement what copies ask for: "
        "leave out --no-overwrite, --sse, --sse-kms-key-id, --tags or --object-tag"
    )


def test_no_more_copy_tasks_are_held_than_the_bound(stage: Stage) -> None:
    stage.engine.submit([listing()])
    worker = stage.workers[0]
    (parent,) = worker.tasks()
    bound = SLOTS["copy"] + local._BACKLOG
    for n in range(3 * bound):
        worker.say("emit", n, "copy", encode_task(copying(f"n.{n}")))
        stage.go_on()
    heard = worker.heard()
    taken, accepted = ([words[1] for words in heard if words[0] == verb] for verb in ("task", "accepted"))

    depth = stage.engine.depths().copy
    assert (depth.waiting, depth.in_flight, len(taken), len(accepted)) == (local._BACKLOG, SLOTS["copy"], SLOTS["copy"], bound)

    for n, token in enumerate(taken):
        worker.say("done", token, done(f"n.{n}", f"m{n}"))
        stage.go_on()
        assert stage.engine.depths().copy.waiting <= local._BACKLOG
    more = [words[0] for words in worker.heard()]
    assert (more.count("task"), more.count("accepted")) == (len(taken), len(taken))
    assert int(parent) in stage.engine._processes[0].tasks


def keyed(name: str, *keys: str) -> CopyTask:
    return CopyTask(name, JOB, tuple(Item(key, 1, "etag") for key in keys))


def test_the_part_of_the_key_space_that_fewest_tasks_in_hand_are_of_is_next(stage: Stage) -> None:
    stage.engine.submit([keyed(f"run.{n}", f"a{n}") for n in range(SLOTS["copy"])])
    first, *_ = stage.workers[0].tasks()

    stage.engine.submit([keyed("run.100", "a100"), keyed("run.101", "b101")])
    stage.workers[0].say("done", first, done("run.0", "m"))
    stage.go_on()

    assert [json.loads(words[3])["id"] for words in stage.workers[0].heard()] == ["run.101"]


def test_each_worker_has_every_part_of_the_key_space_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, processes=2)
    with stage.running():
        stage.engine.submit([keyed(f"run.{key}", key) for key in ("a1", "a2", "b1", "b2")])

        hands = [sorted(delivery.key for delivery in worker.tasks.values()) for worker in stage.engine._processes]
        assert hands == [["a1", "b2"], ["a2", "b1"]]


def test_the_child_that_is_least_like_those_that_wait_is_accepted_next(stage: Stage) -> None:
    many = SLOTS["copy"] + local._BACKLOG
    stage.engine.submit([listing()])
    worker = stage.workers[0]
    worker.tasks()
    for n in range(many + 2):
        worker.say("emit", n, "copy", encode_task(keyed(f"a.{n}", "a")))
    worker.say("emit", many + 2, "copy", encode_task(keyed("b.1", "b")))
    stage.go_on()
    stage.go_on()
    heard = worker.heard()
    taken, accepted = ([words[1] for words in heard if words[0] == verb] for verb in ("task", "accepted"))
    assert (len(taken), len(accepted), f"{many + 2}" in accepted) == (SLOTS["copy"], many, True)


def test_what_a_worker_gives_away_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, processes=2)
    with stage.running():
        stage.engine.submit([listing(f"run.{n}") for n in range(3)])
        first, second = stage.workers
        assert (len(first.tasks()), len(second.tasks())) == (2, 1)

        second.say("emit", 1, "list", encode_task(listing("n.1")))
        stage.go_on()

        assert (len(first.tasks()), len(second.tasks())) == (1, 0)


def test_a_worker_with_enough_to_do_waits_for_a_choice(stage: Stage) -> None:
    large = "k" * local._CHOICE_BYTES
    stage.engine.submit([keyed("run.1", f"a{large}"), keyed("run.2", f"a{large}")])
    assert stage.engine.depths().copy.in_flight == 1

    stage.engine.submit([keyed("run.3", f"b{large}")])

    assert [delivery.key[0] for delivery in stage.engine._processes[0].tasks.values()] == ["a", "b"]


def test_roots_that_find_no_room_wait_in_the_journal_alone(stage: Stage) -> None:
    stage.engine._journal = Journal.in_memory(Facts("run", "local"))
    bound, many = SLOTS["copy"] + local._BACKLOG, 500

    for n in range(1, many + 1):
        stage.engine.submit([copying(f"run.{n}")])

    assert len(stage.engine._queues["copy"]) == local._BACKLOG
    assert stage.engine.depths().copy.waiting == many - SLOTS["copy"]
    worker, ended = stage.workers[0], 0
    while tokens := worker.tasks():
        for token in tokens:
            ended += 1
            worker.say("done", token, done(f"run.{ended}", f"m{ended}"))
            stage.go_on()
            assert len(stage.engine._queues["copy"]) <= bound
    assert ended == many
    assert stage.engine._is_idle()


def test_long_keys_fill_the_bounds_with_fewer_tasks(stage: Stage) -> None:
    stage.engine.submit([listing()])
    worker = stage.workers[0]
    body = encode_task(CopyTask("n.0", JOB, (Item("k" * 300_000, 1, "etag"),)))
    worker.say_at_length([line("emit", n, "copy", body) for n in range(40)])
    while len(stage.engine._unaccepted) + stage.engine.depths().copy.waiting + stage.engine.depths().copy.in_flight < 40:
        stage.go_on()

    depth = stage.engine.depths().copy
    assert depth.in_flight == -(-local._HAND_BYTES // len(body)) < SLOTS["copy"]
    assert depth.waiting == -(-local._BACKLOG_BYTES // len(body)) < local._BACKLOG


def test_a_task_of_any_size_is_given_to_a_worker_that_has_none(stage: Stage) -> None:
    body = encode_task(CopyTask("n.0", JOB, (Item("k" * 2 * local._HAND_BYTES, 1, "etag"),)))
    for _ in range(2):
        stage.engine._queues["copy"].append(local._Delivery("copy", body))
    stage.go_on()

    assert (stage.engine.depths().copy.waiting, stage.engine.depths().copy.in_flight) == (1, 1)


def test_the_bound_holds_while_a_worker_is_set_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, processes=2)
    with stage.running():
        stage.engine._processes[0].is_set_apart = True
        stage.engine._suspects.append(local._Delivery("list", encode_task(listing()), 3, 2))
        stage.engine.submit([listing("run.2")])
        bound = SLOTS["copy"] + 2 * local._BACKLOG
        for n in range(2 * bound):
            stage.workers[1].say("emit", n, "copy", encode_task(copying(f"n.{n}")))
            stage.go_on()

        assert [words[0] for words in stage.workers[1].heard()].count("accepted") == bound


def test_a_worker_that_is_set_apart_and_alone_has_its_children_accepted(stage: Stage) -> None:
    stage.engine._suspects.append(local._Delivery("list", encode_task(listing()), 3, 2))
    stage.go_on()
    children = 2 * (SLOTS["copy"] + local._BACKLOG)
    for n in range(children):
        stage.workers[0].say("emit", n, "copy", encode_task(copying(f"n.{n}")))
        stage.go_on()

    assert [words[0] for words in stage.workers[0].heard()].count("accepted") == children


def test_what_is_under_way_is_shown_until_it_is_reported(stage: Stage) -> None:
    stage.engine.submit([copying("run.1"), copying("run.2")])
    worker = stage.workers[0]
    first, _ = worker.tasks()

    def under_way(*said: str) -> int:
        worker.say(*said)
        stage.go_on()
        return stage.engine.under_way().copied

    assert under_way("progress", to_json(Counts(copied=3))) == 3
    assert under_way("done", first, done("run.1")) == 2  # until it says more, what was reported was a part of that
    assert under_way("progress", to_json(Counts(copied=5))) == 5
    worker.die()
    stage.go_on()
    assert stage.engine.under_way() == Counts()


def test_those_that_copy_share_the_whole_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, processes=2, max_rate=100)
    with stage.running():
        first, second = stage.workers
        heard = {first: first.heard(), second: second.heard()}
        assert [json.loads(words[0][1])["most_a_second"] for words in heard.values()] == [50, 50]

        def rates() -> list[list[str]]:
            return [[words[1] for words in worker.heard() if words[0] == "rate"] for worker in stage.workers]

        stage.engine.submit([copying("run.1")])
        assert rates() == [["100.0"], []]
        stage.engine.submit([copying("run.2"), copying("run.3")])
        assert rates() == [["50.0"], []]
        token = next(iter(stage.engine._processes[1].tasks))
        second.say("done", token, done("run.2"))
        stage.go_on()
        assert rates() == [["100.0"], []]


def test_to_settle_lets_a_task_end_that_waits_for_its_children(stage: Stage) -> None:
    stage.engine.submit([listing()])
    worker = stage.workers[0]
    (parent,) = worker.tasks()
    children = 2 * (SLOTS["copy"] + local._BACKLOG)
    for n in range(children):
        worker.say("emit", n, "copy", encode_task(copying(f"n.{n}")))
    tokens: list[str] = []
    accepted = 0

    def answer() -> None:
        nonlocal accepted
        for words in worker.heard():
            accepted += words[0] == "accepted"
            if words[0] == "task":
                worker.say("done", words[1], done(f"n.{words[1]}", f"m{words[1]}"))
                tokens.append(words[1])
        if accepted == children:
            accepted = 0
            worker.say("done", parent, done("run.1"))

    stage.check = answer

    stage.engine.settle()

    assert stage.engine.depths().workers == 0
    assert len(tokens) <= SLOTS["copy"]


def test_all_that_was_to_be_said_is_said_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    heard = bytearray()

    def listen() -> None:
        worker = stage.workers[0]
        worker.end.setblocking(True)
        while not heard.endswith(b"stop\n") and (data := worker.end.recv(4096)):
            heard.extend(data)
        worker.die(0)

    with stage.engine:
        stage.workers[0].engines_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stage.engine.submit([ListTask(f"run.{n}", JOB, (Range("a" * 1000, None),)) for n in range(SLOTS["list"])])
        assert stage.engine._processes[0].unsent
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
    listener.join(5)

    assert heard.count(b"task ") == SLOTS["list"]
    assert stage.workers[0].returncode == 0


def test_what_is_said_while_ending_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    with stage.engine:
        stage.engine.submit([copying()])
        (token,) = stage.workers[0].tasks()
        stage.workers[0].say("expired", token)
        stage.workers[0].say("nonsense")
        stage.workers[0].die(0)

    assert stage.engine._processes == []


def test_expired_credentials_that_were_renewed_are_told_and_the_task_begins_anew(stage: Stage) -> None:
    stage.engine.submit([copying("run.1"), copying("run.2")])
    worker = stage.workers[0]
    first, second = worker.tasks()
    stage.found.append(Credentials("second", "s"))

    worker.say("expired", first)
    stage.go_on()
    worker.say("expired", second)
    stage.go_on()

    heard = worker.heard()
    assert [words[0] for words in heard] == ["credentials", "task", "task"]
    assert [words[2] for words in heard[1:]] == ["1", "1"]


def test_credentials_that_boto3_has_renewed_are_told_before_the_old_ones_expire(stage: Stage) -> None:
    stage.engine.submit([copying()])
    stage.workers[0].heard()
    stage.found.append(Credentials("second", "s"))
    stage.go_on()
    assert stage.workers[0].heard() == []

    stage.now += local._CREDENTIALS_SECONDS
    stage.go_on()

    ((verb, words),) = stage.workers[0].heard()
    assert verb == "credentials"
    assert json.loads(words)["access_key"] == "second"


def test_credentials_in_use_are_gone_on_with_where_boto3_cannot_renew_them_for_now(stage: Stage) -> None:
    stage.lack = CredentialRetrievalError(provider="process", error_msg="trouble")
    for _ in range(3):
        stage.now += local._CREDENTIALS_SECONDS
        stage.go_on()
    assert stage.steps[1:] == ["looking for credentials; going on with the credentials in use"]

    stage.lack = None
    stage.found.append(Credentials("second", "s"))
    stage.now += local._CREDENTIALS_SECONDS
    stage.go_on()
    assert [words[0] for words in stage.workers[0].heard()] == ["credentials"]


def test_expired_credentials_are_looked_for_again_while_nobody_answers(stage: Stage) -> None:
    stage.engine.submit([copying("run.1"), copying("run.2")])
    stage.lack = EndpointConnectionError(endpoint_url="https://sts")
    stage.workers[0].expire()
    stage.go_on()
    assert stage.workers[0].heard() == []

    stage.lack = None
    stage.found.append(Credentials("second", "s"))
    stage.now += local._RENEWAL_SECONDS
    stage.go_on()
    stage.workers[0].expire()
    stage.go_on()
    assert [words[0] for words in stage.workers[0].heard()] == ["credentials", "task", "task"]


def test_nobody_who_has_credentials_answering_for_long_ends_the_run(stage: Stage) -> None:
    stage.engine.submit([copying()])
    stage.lack = EndpointConnectionError(endpoint_url="https://sts")
    begun = stage.now

    with pytest.raises(NotPermitted, match="looking for credentials"):  # noqa: PT012 - until it does
        while True:
            stage.workers[0].expire()
            stage.now += local._RENEWAL_SECONDS
            stage.go_on()
    assert OUTAGE_SECONDS <= stage.now - begun < OUTAGE_SECONDS + 60


@pytest.mark.parametrize(("verb", "seconds"), [("trouble", 0.0), ("passing", OUTAGE_SECONDS)])
def test_a_task_is_given_up_after_five_attempts_unless_its_trouble_may_pass(stage: Stage, verb: str, seconds: float) -> None:
    stage.engine.submit([listing()])
    begun, attempts = stage.now, 0
    while not any(isinstance(event, Dead) for event in stage.engine._events):
        (token,) = stage.workers[0].tasks()
        attempts += 1
        stage.workers[0].say(verb, token, encode_event(Trouble("run.1", Attempt(attempts, "n"), "no answer")))
        stage.now += 10.0
        stage.go_on()

    assert attempts == max(5, round(seconds / 10) + 1) == pytest.approx((stage.now - begun) / 10, rel=0.02)


def test_credentials_that_expired_for_good_end_the_run(stage: Stage) -> None:
    stage.engine.submit([copying()])
    stage.workers[0].expire()

    with pytest.raises(NotPermitted, match="the credentials have expired"):
        stage.engine.poll(1)


def test_credentials_that_are_renewed_and_refused_again_and_again_end_the_run(stage: Stage) -> None:
    stage.engine.submit([copying()])
    for number in range(local._RENEWALS):
        stage.found.append(Credentials(f"renewed {number}", "s"))
        stage.workers[0].expire()
        stage.go_on()
    stage.found.append(Credentials("one more", "s"))
    stage.workers[0].expire()

    with pytest.raises(NotPermitted, match="and so had 5 others in a row"):
        stage.engine.poll(1)


def test_credentials_may_expire_as_often_as_tasks_end_in_between(stage: Stage) -> None:
    for number in range(2 * local._RENEWALS):
        stage.engine.submit([copying(f"run.{number}")])
        stage.found.append(Credentials(f"renewed {number}", "s"))
        stage.workers[0].expire()
        stage.go_on()
        stage.workers[0].say("done", *stage.workers[0].tasks(), done(f"run.{number}"))
        stage.go_on()

    assert len(stage.engine.poll(1)) == 2 * local._RENEWALS


def test_a_fatal_event_is_given_at_once(stage: Stage) -> None:
    stage.engine.submit([copying("run.1"), copying("run.2")])
    fatal = Fatal("run.1", Attempt(1, "n"), "not_found", "gone")
    stage.workers[0].say("fatal", stage.workers[0].tasks()[0], encode_event(fatal))

    assert stage.engine.poll(60) == [fatal]
    assert stage.now < 1
    assert stage.engine.poll(0.1) == []


def test_an_attempt_that_failed_is_reported_and_made_again(stage: Stage) -> None:
    stage.engine.submit([copying()])
    trouble = Trouble("run.1", Attempt(1, "n"), "by chance")
    stage.workers[0].say("trouble", stage.workers[0].tasks()[0], encode_event(trouble))
    stage.go_on()
    stage.go_on()

    assert [words[2] for words in stage.workers[0].heard()] == ["2"]
    assert stage.engine.poll(0.1) == [trouble]


def test_what_was_reported_before_an_interruption_is_not_lost(stage: Stage) -> None:
    def interrupt() -> None:
        raise Interrupted("interrupted")

    stage.engine.submit([copying("run.1"), copying("run.2")])
    stage.workers[0].say("done", stage.workers[0].tasks()[0], done("run.1"))
    stage.go_on()
    stage.check = interrupt

    assert [event.id for event in stage.engine.poll(1)] == ["run.1"]
    with pytest.raises(Interrupted):
        stage.engine.poll(1)


# -------------------------------------------------------------------------------------------------------------- keeping


def test_to_hand_on_keeps_what_is_left_of_a_task_and_gives_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    journal = stage.engine._journal = Journal.in_memory(Facts("run", "local"))
    tally = Tally()
    tally.announce("run", 3)
    with stage.running():
        stage.engine.submit([copying(f"run.{n}") for n in range(3)])
        worker = stage.workers[0]
        first, second, _ = worker.tasks()
        worker.say("emit", 0, "copy", encode_task(copying("n.0")))
        worker.say("done", first, encode_event(Done("run.0", Attempt(1, "n"), 1, Counts())))
        worker.say("expired", second)
        heard: list[list[str]] = []

        def end() -> None:
            while ["accepted", "0"] not in heard:
                heard.extend(worker.heard())
            worker.die(0)

        threading.Thread(target=end, daemon=True).start()

        events = stage.engine.hand_on()
        assert heard == [["hand-on"], ["accepted", "0"]]

    journal.append(events)
    tally.add(events)
    assert [event.id for event in events] == ["run.0"]
    assert sorted(task.id for task in journal.kept_tasks(tally)) == ["n.0", "run.1", "run.2"]


def test_a_child_is_kept_before_it_is_accepted_and_until_its_report_is_taken_down(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    journal = stage.engine._journal = Journal.in_memory(Facts("run", "local"))
    tally = Tally()
    tally.announce("run", 1)
    root = listing("run.0")
    with stage.running():
        stage.engine.submit([root])
        assert journal.kept_tasks(tally) == [root]
        (worker,) = stage.workers
        (token,) = worker.tasks()
        worker.say("emit", 0, "copy", encode_task(copying("n.0")))
        worker.say("emit", 1, "list", encode_task(listing("n.1")))
        stage.engine.poll(0.1)
        assert sorted(words for words in worker.heard() if words[0] == "accepted") == [["accepted", "0"], ["accepted", "1"]]
        worker.say("done", token, encode_event(Done("run.0", Attempt(1, "n"), 2, Counts())))
        events = stage.engine.poll(0.1)
        journal.append(events)
        tally.add(events)

    assert sorted(task.id for task in journal.kept_tasks(tally)) == ["n.0", "n.1"]


def test_what_a_dead_worker_handed_on_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    journal = stage.engine._journal = Journal.in_memory(Facts("run", "local"))
    tally = Tally()
    tally.announce("run", 1)
    with stage.running():
        stage.engine.submit([listing("run.0")])
        stage.workers[0].say("emit", 0, "copy", encode_task(copying("n.0")))
        stage.engine.poll(0.1)

    assert [task.id for task in journal.kept_tasks(tally)] == ["run.0"]


def parts(name: str = "run.1") -> PartTask:
    return PartTask(name, JOB, ITEM, "upload", 1, 1, 1, reports=True, begun=0)


def test_what_copy_tasks_hand_on_is_accepted_although_there_is_no_room(stage: Stage) -> None:
    stage.engine.submit([copying(f"run.{n}") for n in range(SLOTS["copy"] + 2 * local._BACKLOG)])
    worker = stage.workers[0]
    worker.heard()
    worker.say("emit", 7, "more", encode_task(parts("n.0")))
    stage.go_on()

    assert ["accepted", "7"] in worker.heard()


class Sweeper:
    """Aborts uploads, and keeps count of how often."""

    def __init__(self, swept: Swept) -> None:
        self.swept, self.times = swept, 0

    def __call__(self) -> Swept:
        self.times += 1
        return self.swept


GONE = Left("uploads", "denied", "aws s3api list-multipart-uploads")


@pytest.mark.parametrize(
    ("event", "times", "left"),
    [
        (Done("run.1", Attempt(1, "n"), 0, Counts(copied=1)), 0, ()),
        (Done("run.1", Attempt(1, "n"), 0, Counts(uploads=1)), 1, (str(GONE),)),
        (Done("run.1", Attempt(2, "n"), 0, Counts(copied=1)), 1, ()),
    ],
)
def test_uploads_are_looked_for_where_there_may_be_some(
    monkeypatch: pytest.MonkeyPatch, event: Done, times: int, left: tuple[str, ...]
) -> None:
    stage, sweeper = Stage(monkeypatch), Sweeper(Swept(unseen=GONE))
    stage.engine._sweep = sweeper
    with stage.running():
        stage.engine.submit([copying()])
        (token,) = stage.workers[0].tasks()
        stage.workers[0].say("done", token, encode_event(event))
        stage.go_on()

    assert (sweeper.times, stage.engine.left) == (times, left)


def test_uploads_are_looked_for_when_a_run_is_stopped_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, sweeper = Stage(monkeypatch), Sweeper(Swept(aborted=2))
    stage.engine._sweep = sweeper
    with pytest.raises(Interrupted), stage.running():
        raise Interrupted("interrupted")

    assert sweeper.times == 1
    assert stage.steps[-1] == "aborted 2 multipart uploads that were not completed"

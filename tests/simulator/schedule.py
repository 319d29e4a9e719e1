"""One schedule: a world drawn from a seed, and in it a run of the shipped code, from the first task to its summary."""

from __future__ import annotations

import contextlib
import io
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

from s3bulkcopy import journal as journal_module
from s3bulkcopy import run as run_module
from s3bulkcopy.aws import discover, teardown
from s3bulkcopy.aws.deploy import Deployed
from s3bulkcopy.aws.preflight import Preflight
from s3bulkcopy.aws.session import Identity
from s3bulkcopy.aws.stack import Names
from s3bulkcopy.engines import Signs, awslambda
from s3bulkcopy.engines.awslambda import LambdaEngine
from s3bulkcopy.errors import Interrupted, S3BulkCopyError
from s3bulkcopy.journal import Facts, Journal
from s3bulkcopy.run import Course
from s3bulkcopy.settings import StackSettings
from s3bulkcopy.worker import listing, parts
from s3bulkcopy.worker.handler import Environment
from s3bulkcopy.worker.keyspace import cut
from s3bulkcopy.worker.model import Done, Job, Range
from s3bulkcopy.worker.s3 import Page
from s3bulkcopy.worker.sorting import Sorter
from tests.simulator.account import Account, Session
from tests.simulator.clock import Killed, World
from tests.simulator.functions import Function, Mapping
from tests.simulator.queues import Queues
from tests.simulator.store import DESTINATION, SOURCE, Store, draw_keys
from tests.simulator.weather import Weather, draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from s3bulkcopy.engines import Depths, Proof
    from s3bulkcopy.run import Result
    from s3bulkcopy.tally import Snapshot, Tally
    from s3bulkcopy.worker.model import Event, Item, Task

#: How long a command that was killed may be missed, in seconds.
_LONGEST_PAUSE_SECONDS = 900.0

RUN_ID = "20261123-121632-k3f9xa"

#: Messages that are no tasks.
_POISON = ("poison", "{}", '{"v":1,"t":"copy"}', '{"v":2,"t":"list","id":"x.0"}', "\ud7ff", '{"v":1,"t":"done","id":"a"}')


class Engine(LambdaEngine):
    """The shipped engine, over what others have deployed; takes down what goes in and out."""

    def __init__(self, simulation: Simulation) -> None:
        """Run in a simulation."""
        world = simulation.world
        found = Preflight(
            simulation.job,
            Page((), truncated=False),
            identity=Identity("1", "arn:aws:iam::1:user/x"),
            free_concurrency=None,
        )
        super().__init__(
            Session(simulation.account),
            found,
            StackSettings(
                keep=True,
                timeout_seconds=simulation.weather.timeout_seconds,
                list_workers=simulation.weather.list_workers,
                copy_workers=simulation.weather.copy_workers,
            ),
            version="0",
            created="",
            say=world.note,
            detail=world.note,
            sleep=world.go_on,
            rest=world.go_on,
            clock=lambda: world.now,
        )
        self._simulation = simulation
        self.submitted: list[Task] = []
        #: Every event that was counted, in order, and of what tasks they tell; and what was given last.
        self.events: list[Event] = []
        self._given: list[Event] = []
        #: How many items of the first page the probe took.
        self.taken: Sequence[Item] = ()
        #: What the probe counts for, as the run has it.
        self.proof: list[Event] = []
        self.settled_at: float | None = None
        self.heard_before_settling = 0

    def follow(self, dead: Engine) -> None:
        """Go on where a command was killed that had this engine."""
        self.submitted, self.events, self.taken, self.proof = dead.submitted, dead.events, dead.taken, dead.proof
        self.settled_at, self.heard_before_settling = dead.settled_at, dead.heard_before_settling
        self._signs = Signs(possible=True)  # as a command that follows another has it

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        """Do nothing where the command is killed."""
        if not isinstance(error, Killed):
            super().__exit__(kind, error, trace)

    def __enter__(self) -> Self:
        """Take what is there."""
        urls = {kind: queue.url for kind, queue in self._simulation.queues.by_kind.items()}
        self._deployed = Deployed(urls, self._simulation.weather.message_bytes)
        return self

    def prove(self, task_id: str, first_items: Sequence[Item]) -> Proof:
        """Prove, in calm weather: what goes wrong then ends the run, as it should."""
        proof = super().prove(task_id, first_items)
        self.taken = first_items[: proof.taken]
        passed, _ = self._simulation.store.page(self.job.source.prefix, "", 1000)
        passed = passed[: passed.index(self.taken[-1]) + 1] if self.taken else []
        if self._simulation.weather.is_walked:  # what a walk passes over it lists again
            passed = [*self.taken]
        listed = Sorter(self.job).sort(passed, ()).counts(self.job)
        self.proof = [e._replace(counts=e.counts + listed) if isinstance(e, Done) else e for e in proof.events]
        self._simulation.stir()
        return proof

    def submit(self, tasks: Sequence[Task]) -> None:
        """Take down what the run begins with."""
        known = {task.id for task in self.submitted}
        self.submitted += [task for task in tasks if task.id not in known]
        super().submit(tasks)

    def poll(self, seconds: float) -> list[Event]:
        """Take down what the run is told."""
        self._given = super().poll(seconds)
        return self._given

    def ack(self) -> None:
        """Take down what the run has counted, as it says with this."""
        self.events += self._given
        self._given = []
        super().ack()

    def settle(self) -> None:
        """Take down when it is said that nobody is at work any more."""
        if self.settled_at is None:
            self.heard_before_settling = len(self.events)
        super().settle()
        if self.settled_at is None:
            self.settled_at = self._simulation.world.now


class _AtOnce:
    """An executor whose threads run one after another, so that a schedule is the same each time."""

    def __init__(self, _workers: int) -> None:
        """Have no thread."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call something now."""
        future: Future[Any] = Future()
        try:
            future.set_result(call(*arguments))
        except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)
        return future

    @staticmethod
    def map(call: Callable[..., Any], *iterables: Any) -> Iterator[Any]:
        """Call something for each, now."""
        return iter([call(*some) for some in zip(*iterables, strict=True)])


class _Log(io.TextIOBase):
    """Where the functions log."""

    def __init__(self, world: World) -> None:
        self._world = world

    def write(self, text: str) -> int:
        if text.strip():
            self._world.note(f"  log: {text.rstrip()}")
        return len(text)


class _Watcher:
    def __init__(self, world: World) -> None:
        self._world = world

    def step(self, text: str) -> None:
        self._world.note(f"== {text}")

    warning = step

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """See nothing."""


@dataclass
class Simulation:
    """One world, and the run in it; `make` is the environment that runs in it, another than the shipped one in some tests."""

    seed: int
    tracing: bool = False
    make: type[Environment] = Environment
    world: World = field(init=False)
    weather: Weather = field(init=False)
    #: What the run ended with.
    result: Result | None = None
    error: S3BulkCopyError | None = None
    ended_at: float = 0.0
    #: Every task that was ever sent, once somebody has asked for them afterwards.
    sent: list[Task] | None = None

    def __post_init__(self) -> None:
        """Make the world."""
        self.world = World(self.seed, tracing=self.tracing)
        weather = self.weather = draw(self.world.random)
        self.job = Job(
            RUN_ID,
            SOURCE._replace(prefix=weather.prefix),
            DESTINATION._replace(prefix=weather.destination_prefix),
            weather.overwrite,
            weather.batch_keys,
            multipart_bytes=weather.multipart_bytes,
            part_bytes=weather.part_bytes,
        )
        names = Names(RUN_ID)
        self.store = Store(self.world, weather)
        self.queues = Queues(self.world, weather, names.queues)
        self.functions = [Function(self.world, weather, name, self.queues, self.store, self.make) for name in names.functions]
        self.mappings = [
            Mapping(self.queues.by_kind["list"], self.functions[0], weather.list_batch, weather.list_workers),
            Mapping(self.queues.by_kind["copy"], self.functions[1], weather.copy_batch, weather.copy_workers),
        ]
        self.account = Account(self.world, names, self.queues, self.functions, self.mappings, self.store)
        self.engine = Engine(self)
        self.journal = Journal.in_memory(Facts(RUN_ID, "lambda"))
        #: What was at the destination before.
        self.existing = dict(self.store.destination)
        self.stirred_at = float("inf")

    def stir(self) -> None:
        """Let everything go wrong from now on."""
        self.world.note(f"the weather: {self.weather}")
        self.world.is_calm = False
        self.store.stir()
        self.stirred_at = self.world.now
        for _ in range(self.weather.poison):
            queue = self.queues.by_kind[self.world.random.choice(("list", "copy"))]
            queue.send(self.world.random.choice(_POISON), 20 * self.world.random.random())

    def run(self) -> None:
        """Run to the end, and on until nobody is at work any more."""
        try:
            self._run()
        finally:
            for function in self.functions:
                for sandbox in function.sandboxes:
                    sandbox.bury()

    def _run(self) -> None:
        items, _ = self.store.page(self.weather.prefix, "", 1000)
        first_page = Page(tuple(items), truncated=self.weather.roots != 1)
        with self._replaced():
            try:
                is_cut = not self.weather.is_walked
                self.result = self._carry_on(lambda course: run_module.run(self.job, first_page, course, is_cut=is_cut))
            except (S3BulkCopyError, Interrupted) as error:
                self.world.note(f"ended by {error!r}")
                self.error = error
            self.ended_at = self.world.now
            for mapping in self.mappings:
                mapping.state = "Deleted"
            self.world.go_on(self.weather.timeout_seconds + 1.0)
        assert not any(function.is_busy for function in self.functions)

    def _carry_on(self, go: Callable[[Course], Result]) -> Result:
        """Run the command, and where it is killed another one that goes on, after a while."""
        while True:
            try:
                return go(Course(self.engine, _Watcher(self.world), self.journal, lambda: self.world.now, check=self._check))
            except Killed:
                dead, self.engine = self.engine, Engine(self)
                self.engine.follow(dead)
                self.journal = Journal(self.journal._database, self.journal.facts)
                self.world.go_on(_LONGEST_PAUSE_SECONDS * self.world.random.random() ** 3)
                go = partial(run_module.resume, self.job)

    def _check(self) -> None:
        at = self.weather.interrupted_at
        if at is not None and self.world.now >= self.stirred_at + at:
            raise Interrupted("interrupted")

    def _fan_out(self, prefix: str, _first_page: Sequence[str], after: str, _cuts: Sequence[str]) -> list[Range]:
        """Cut the key space into a few ranges, anywhere."""
        return cut(Range(after, None), draw_keys(self.world.random, prefix, self.weather.roots - 1))

    @staticmethod
    def tally() -> Tally:
        """Give a fresh tally, such as the run has."""
        fresh: Tally = vars(run_module)["Tally"]()  # another than the shipped one in some tests
        return fresh

    @contextlib.contextmanager
    def _replaced(self) -> Iterator[None]:
        """Replace what is neither transport, clock nor randomness, but would make a schedule slow, or another each time."""
        with contextlib.ExitStack() as stack:
            for module in (awslambda, discover, teardown):
                stack.enter_context(mock.patch.object(module, "ThreadPoolExecutor", _AtOnce))
            stack.enter_context(mock.patch.object(journal_module, "COMPACT_AFTER", self.weather.compact_after))
            stack.enter_context(mock.patch.object(listing, "_ROUNDS_AHEAD", self.weather.rounds_ahead))
            stack.enter_context(mock.patch.object(listing, "_LEAST_GIVEN_PAGES", self.weather.least_given_pages))
            if self.weather.roots:
                stack.enter_context(mock.patch.object(run_module, "fan_out", self._fan_out))
            stack.enter_context(mock.patch.object(parts, "TASK_PARTS", self.weather.task_parts))
            stack.enter_context(contextlib.redirect_stderr(_Log(self.world)))
            yield

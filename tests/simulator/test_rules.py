"""Each rule of the protocol matters: without it, a schedule is found that breaks an invariant.

A rule is taken away by a class in place of the shipped one, or by one of its methods; everything else is the shipped code.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from itertools import chain, islice
from operator import add
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import pytest

from s3bulkcopy import run as run_module
from s3bulkcopy import tally
from s3bulkcopy.engines.awslambda import LambdaEngine
from s3bulkcopy.worker import aio, multipart, s3, sqs
from s3bulkcopy.worker.handler import Environment
from s3bulkcopy.worker.model import MULTIPART_BYTES, CopyTask, Dead, Done, Item, ListTask, Task
from tests.simulator.simulate import run_many
from tests.simulator.weather import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from s3bulkcopy.worker.failures import Fault
    from s3bulkcopy.worker.model import Event, Job
    from tests.simulator.weather import Weather

#: In so many schedules a broken one must be found, of the first so many.
MOST_SEEDS = 1000
ALL_SEEDS = 20_000


class Careless(Environment):
    """Says that a child was accepted when its way to the queue has only begun."""

    hurried: tuple[type[Task], ...] = ()

    async def invoke(self, event: dict[str, Any], seconds_left: float) -> dict[str, Any]:
        self._strays: list[aio.Task] = []
        try:
            return await super().invoke(event, seconds_left)
        finally:
            for stray in self._strays:
                stray.cancel()
            await aio.gather(*self._strays, return_exceptions=True)

    async def _emit(self, task: Task) -> None:
        if isinstance(task, self.hurried):
            self._strays.append(aio.create_task(super()._emit(task)))
        else:
            await super()._emit(task)


class CarelessOfChildren(Careless):
    hurried = (CopyTask,)


class CarelessOfRanges(Careless):
    hurried = (ListTask,)


class OneNonce(Environment):
    """Names all of its attempts alike."""

    def _nonce(self) -> str:
        self._known = getattr(self, "_known", "") or super()._nonce()
        return self._known


async def _blind_send(send: Callable[..., Any], self: sqs.Sqs, queue_url: str, bodies: list[str]) -> list[Fault | None]:
    """Take an answer for an acceptance of all that was sent."""
    faults = await send(self, queue_url, bodies)
    return (
        faults
        if all(fault is not None and fault.code not in ("InternalError", "NotMentioned") for fault in faults)
        else ([None] * len(bodies))
    )


class EveryDone(tally.Tally):
    """Counts each `Done` of a task, and the children of each."""

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            found = self._find(event.id)
            has_ended = found is not None and bool(found[0][found[1]])
            super().add([event])
            if isinstance(event, Done) and has_ended and not self.counts_attempt(event.id, event.attempt.nonce):
                self._sums = [*map(add, self._sums, event.counts)]
                self.announce(event.attempt.nonce, event.children)


class DeadStaysDead(tally.Tally):
    """Believes no `Done` of a task that died."""

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            if not (isinstance(event, Done) and event.id in self._dead):
                super().add([event])


class Impatient(tally.Tally):
    """Passes over what is reported of tasks that nobody has announced yet."""

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            if not isinstance(event, Done | Dead) or self._find(event.id) is not None:
                super().add([event])


def _roots_of_all(roots_of: Callable[..., list[Task]], *what: Any, is_cut: bool) -> list[Task]:
    """Begin the first range at the bottom, although the probe has taken an object there."""
    roots = roots_of(*what, is_cut=is_cut)
    lowest = min((root for root in roots if isinstance(root, ListTask)), key=lambda root: root.ranges[0].after, default=None)
    return [
        root._replace(ranges=(root.ranges[0]._replace(after=""), *root.ranges[1:])) if root is lowest else root
        for root in roots
    ]


def _forget_at_once(poll: Callable[..., list[Event]], self: LambdaEngine, seconds: float) -> list[Event]:
    """Let SQS forget events before they are on disk."""
    events = poll(self, seconds)
    LambdaEngine.ack(self)
    return events


def _write_unpinned(write: Callable[..., list[bytes]], self: s3.CopyRequests, items: Sequence[Item], date: str) -> list[bytes]:
    """Copy whatever version there is now."""
    return write(self, [item._replace(etag="") for item in items], date)


def _part_unpinned(write: Callable[..., bytes], bucket: s3.Bucket, job: Job, item: Item, *rest: Any) -> bytes:
    """Copy a part of whatever version there is now."""
    return write(bucket, job, item._replace(etag=""), *rest)


def _patched(owner: Any, name: str, replacement: Callable[..., Any]) -> mock._patch[Any]:
    original = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        return replacement(original, *arguments, **named)

    return mock.patch.object(owner, name, call)


def _hops_without_end() -> list[mock._patch[Any]]:
    modules = [module for name, module in sys.modules.items() if name.startswith("s3bulkcopy.worker.")]
    return [mock.patch.object(module, "MAX_IDLE_HOPS", 10**9) for module in modules if hasattr(module, "MAX_IDLE_HOPS")]


def _has_changing_parts(weather: Weather) -> bool:
    """Tell whether large objects may change."""
    return weather.multipart_bytes < MULTIPART_BYTES and weather.faults.changing > 0


class Rule(NamedTuple):
    """A rule of the protocol, and how it is shown to matter."""

    #: Patches that take it away, and the environment to run.
    patches: Callable[[], list[Any]] = list
    make: type[Environment] = Environment
    #: Seeds of which a broken schedule is known: they are tried first, as to search may take minutes.
    known: tuple[int, ...] = ()
    #: Whether a schedule is worth to be searched.
    suits: Callable[[Weather], bool] = lambda _: True


RULES = {
    "children are accepted before Done": Rule(make=CarelessOfChildren, known=(13, 1)),
    "a range is handed on before it shrinks": Rule(make=CarelessOfRanges, known=(245, 77)),
    "what a batch refused is sent again": Rule(lambda: [_patched(sqs.Sqs, "send", _blind_send)], known=(22, 10)),
    "the first Done wins": Rule(lambda: [mock.patch.object(run_module, "Tally", EveryDone)], known=(1, 3)),
    "Done outranks Dead": Rule(lambda: [mock.patch.object(run_module, "Tally", DeadStaysDead)], known=(883, 70)),
    "events of unannounced ids wait": Rule(lambda: [mock.patch.object(run_module, "Tally", Impatient)], known=(1, 0)),
    "each attempt has a fresh nonce": Rule(make=OneNonce, known=(6, 3)),
    "the probe's item is not listed again": Rule(lambda: [_patched(run_module, "_roots", _roots_of_all)], known=(0, 2)),
    "a copy is pinned to the listed ETag": Rule(lambda: [_patched(s3.CopyRequests, "write", _write_unpinned)], known=(63, 51)),
    "all parts of an object are of one version": Rule(
        lambda: [_patched(multipart, "part_request", _part_unpinned)], known=(9380, 22050), suits=_has_changing_parts
    ),
    "uploads that are left are aborted": Rule(lambda: [mock.patch.object(LambdaEngine, "_abort_uploads")], known=(82, 180)),
    "quiet before leaving": Rule(lambda: [mock.patch.object(LambdaEngine, "settle")], known=(71, 105)),
    "safe in the journal, then acked": Rule(lambda: [_patched(LambdaEngine, "poll", _forget_at_once)], known=(110, 105)),
    "idle hops have a ceiling": Rule(_hops_without_end, known=(47, 33)),
}


@pytest.mark.parametrize("name", RULES)
def test_without_a_rule_a_broken_schedule_is_found(name: str, record_property: Callable[[str, object], None]) -> None:
    rule = RULES[name]
    others = (seed for seed in range(ALL_SEEDS) if seed not in rule.known and rule.suits(draw(Random(seed))))  # noqa: S311
    with ExitStack() as stack:
        for patch in rule.patches():
            stack.enter_context(patch)
        found = run_many(chain(rule.known, islice(others, MOST_SEEDS)), rule.make, most_broken=1)

    assert found.broken, f"{found.seen['schedules']} schedules do not miss the rule that {name}"
    ((seed, what),) = found.broken.items()
    record_property("found", f"seed {seed}: {what}")
    # Anything else is a fault of what takes the rule away, and shows nothing.
    assert what.startswith(("Broken: ", "NeverEnds: ", "AssertionError: corrupt: ")), what

"""Each rule of the protocol matters: without it, a schedule is found that breaks an invariant.

A rule is taken away by a class in place of the shipped one, or by one of its methods; everything else is the shipped code.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from operator import add
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from s3bulkcopy import run as run_module
from s3bulkcopy import tally
from s3bulkcopy.engines.awslambda import LambdaEngine
from s3bulkcopy.worker import aio, multipart, s3, sqs
from s3bulkcopy.worker.handler import Environment
from s3bulkcopy.worker.model import CopyTask, Dead, Done, Item, ListTask, Task
from tests.simulator.simulate import run_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from s3bulkcopy.worker.failures import Fault
    from s3bulkcopy.worker.model import Event, Job

#: In so many schedules a broken one must be found.
MOST_SEEDS = 1000


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


#: What takes a rule away: patches, and the environment to run.
RULES: dict[str, tuple[Callable[[], list[Any]], type[Environment]]] = {
    "children are accepted before Done": (list, CarelessOfChildren),
    "a range is handed on before it shrinks": (list, CarelessOfRanges),
    "what a batch refused is sent again": (lambda: [_patched(sqs.Sqs, "send", _blind_send)], Environment),
    "the first Done wins": (lambda: [mock.patch.object(run_module, "Tally", EveryDone)], Environment),
    "Done outranks Dead": (lambda: [mock.patch.object(run_module, "Tally", DeadStaysDead)], Environment),
    "events of unannounced ids wait": (lambda: [mock.patch.object(run_module, "Tally", Impatient)], Environment),
    "each attempt has a fresh nonce": (list, OneNonce),
    "the probe's item is not listed again": (lambda: [_patched(run_module, "_roots", _roots_of_all)], Environment),
    "a copy is pinned to the listed ETag": (lambda: [_patched(s3.CopyRequests, "write", _write_unpinned)], Environment),
    "all parts of an object are of one version": (lambda: [_patched(multipart, "part_request", _part_unpinned)], Environment),
    "uploads that are left are aborted": (lambda: [mock.patch.object(LambdaEngine, "_abort_uploads")], Environment),
    "quiet before leaving": (lambda: [mock.patch.object(LambdaEngine, "settle")], Environment),
    "safe in the journal, then acked": (lambda: [_patched(LambdaEngine, "poll", _forget_at_once)], Environment),
    "idle hops have a ceiling": (_hops_without_end, Environment),
}


@pytest.mark.parametrize("rule", RULES)
def test_without_a_rule_a_broken_schedule_is_found(rule: str, record_property: Callable[[str, object], None]) -> None:
    patches, make = RULES[rule]
    with ExitStack() as stack:
        for patch in patches():
            stack.enter_context(patch)
        found = run_many(range(MOST_SEEDS), make, most_broken=1)

    assert found.broken, f"{MOST_SEEDS} schedules do not miss the rule that {rule}"
    ((seed, what),) = found.broken.items()
    record_property("found", f"seed {seed}: {what}")

"""Many schedules, and one again: what the tests and the command share."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s3bulkcopy.worker.handler import Environment
from s3bulkcopy.worker.model import CopyTask, Dead, Done, Trouble
from tests.simulator import oracle
from tests.simulator.clock import MOST_KILLS
from tests.simulator.schedule import Simulation

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Broken schedules after which no more are run.
_MOST_BROKEN = 5


@dataclass
class Found:
    """What schedules came to."""

    #: Of each seed, what did not hold.
    broken: dict[int, str] = field(default_factory=dict)
    #: How often what happened.
    seen: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Say it to people."""
        told = [f"{number:10,} {what}" for what, number in self.seen.items()]
        return [*told, *(f"{again(seed)}: {what}" for seed, what in self.broken.items())]


def again(seed: int) -> str:
    """Give the command that replays a schedule."""
    return f"python -m tests.simulator --seed {seed} --trace"


def play(simulation: Simulation) -> str | None:
    """Run a schedule; give what did not hold."""
    try:
        simulation.run()
        oracle.check(simulation)
    except Exception as error:  # noqa: BLE001 - whatever falls over in a schedule is what it has found
        return f"{type(error).__name__}: {error}"
    return None


def run_many(seeds: Iterable[int], make: type[Environment] = Environment, most_broken: int = _MOST_BROKEN) -> Found:
    """Run schedules until some are broken."""
    gc.collect()
    gc.freeze()  # schedules leave cycles behind; looking through all modules for them each time takes as long as the schedules
    found = Found()
    try:
        for seed in seeds:
            simulation = Simulation(seed, make=make)
            broken = play(simulation)
            _note(found.seen, simulation)
            if broken is not None:
                found.broken[seed] = broken
                if len(found.broken) >= most_broken:
                    break
    finally:
        gc.unfreeze()
    return found


def _note(seen: Counter[str], simulation: Simulation) -> None:
    events, counts = simulation.engine.events, simulation.result and simulation.result.snapshot.counts
    seen["schedules"] += 1
    seen["virtual seconds"] += round(simulation.world.now)
    seen["runs stopped early"] += simulation.error is not None
    seen["objects listed"] += counts.listed if counts else 0
    seen["copies made"] += len(simulation.store.writes)
    seen["objects failed by name"] += counts.failed if counts else 0
    seen["commands killed"] += MOST_KILLS - simulation.world.kills_left
    seen["ranges handed on or given away"] += len(
        {task.id for task in oracle.tasks_of(simulation) if not isinstance(task, CopyTask)}
        - {task.id for task in simulation.engine.submitted}
    )
    seen["environments"] += sum(len(function.sandboxes) for function in simulation.functions)
    seen["environments killed"] += sum(one.was_killed for function in simulation.functions for one in function.sandboxes)
    for kind in (Done, Trouble, Dead):
        seen[f"events: {kind.__name__}"] += sum(isinstance(event, kind) for event in events)
    first: dict[str, str] = {}
    for event in events:
        if isinstance(event, Done) and first.setdefault(event.id, event.attempt.nonce) != event.attempt.nonce:
            seen["events: Done of a second attempt"] += 1


def replay(seed: int, *, tracing: bool = True) -> tuple[list[str], str | None]:
    """Run one schedule again; give its trace, and what did not hold."""
    simulation = Simulation(seed, tracing=tracing)
    broken = play(simulation)
    return simulation.world.trace or [], broken

"""A model of Lambda: two functions, what feeds them from their queues, and environments that are frozen, reused and killed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from s3bulkcopy.worker.handler import Environment
from s3bulkcopy.worker.s3 import S3
from s3bulkcopy.worker.sqs import Sqs
from tests.simulator.clock import EnvironmentLoop, NeverEnds
from tests.simulator.network import host
from tests.unit.worker.worker_fakes import CREDENTIALS, NOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3bulkcopy.worker import aio
    from tests.simulator.clock import World
    from tests.simulator.queues import Message, Queue, Queues
    from tests.simulator.store import Store
    from tests.simulator.weather import Weather

#: How many steps an invocation that is killed takes at most before it, as a power of two.
_MOST_STEPS_POWER = 11.0

#: Invocations after which the weather clears up, so that no schedule takes seconds; most have some tens.
MOST_INVOCATIONS = 100

#: Invocations after which a schedule is said never to end; of ten thousand one takes half as many, most take some tens.
TOO_MANY_INVOCATIONS = 8000

#: How long a mapping takes to see that a message is there, and to be disabled, in seconds at most.
_LOOK_SECONDS = 0.5
_DISABLE_SECONDS = 20.0


class Sandbox(EnvironmentLoop):
    """One environment of a function: its event loop, and what the shipped code keeps in it."""

    def __init__(self, function: Function, name: str) -> None:
        """Start cold."""
        super().__init__(function.world, name, self._die)
        self.function = function
        self._ended: Callable[[Any], object] = lambda _answer: None
        self._invocation = 0
        weather, faults = function.weather, function.weather.faults
        random = function.world.random
        if faults.expiring and not self.world.is_calm and random.random() < faults.expiring:
            self.expires_at = function.world.now + 30 * random.random()
        self._work = function.make(
            function.variables,
            idle_seconds=self.idle_seconds,
            s3=S3(lambda: CREDENTIALS, now=self._date, host=lambda _: host(self, weather, partial(function.store.serve, self))),
            sqs=Sqs(
                lambda: CREDENTIALS,
                "eu-west-1",
                now=self._date,
                host=lambda _: host(self, weather, partial(function.queues.serve, self)),
            ),
            random_bytes=random.randbytes,
        )
        self._work._worker._list_slots = weather.list_slots

    def _date(self) -> float:
        return NOW + self.world.now

    def invoke(self, event: dict[str, Any], ended: Callable[[Any], object]) -> None:
        """Serve an invocation; `ended` gets its answer, or None where it died."""
        function, random = self.function, self.world.random
        self._invocation += 1
        self._ended = ended
        killed = function.weather.faults.killed
        if self.world.strikes(killed):
            self.steps_left = int(2 ** (random.random() * _MOST_STEPS_POWER))
        self.world.later(function.weather.timeout_seconds, partial(self._time_out, self._invocation))
        self.begin(self._work.invoke(event, function.weather.timeout_seconds), self._end)

    def _time_out(self, invocation: int) -> None:
        if invocation == self._invocation and not self.is_frozen:
            self.world.note(f"{self.name} ran out of time")
            self.kill()

    def _end(self, task: aio.Future) -> None:
        answer = task.result()
        self._invocation += 1
        if self._work.expired:  # the shipped handler ends its process then
            self.bury()
            self._die()
            return
        self.function.idle.append(self)
        self._tell(answer)

    def _die(self) -> None:
        self.world.note(f"{self.name} is killed")
        self._tell(None)

    def _tell(self, answer: Any) -> None:
        ended, self._ended = self._ended, lambda _answer: None
        ended(answer)


class Function:
    """A function and its environments."""

    def __init__(
        self,
        world: World,
        weather: Weather,
        name: str,
        queues: Queues,
        store: Store,
        make: type[Environment] = Environment,
    ) -> None:
        """Begin without an environment."""
        self.world, self.weather, self.name = world, weather, name
        self.queues, self.store, self.make = queues, store, make
        self.idle: list[Sandbox] = []
        self.sandboxes: list[Sandbox] = []
        self.variables = {
            "AWS_ACCESS_KEY_ID": CREDENTIALS.access_key,
            "AWS_SECRET_ACCESS_KEY": CREDENTIALS.secret_key,
            "AWS_SESSION_TOKEN": str(CREDENTIALS.token),
            "AWS_REGION": "eu-west-1",
            **{f"S3BULKCOPY_{kind.upper()}_QUEUE": queues.by_kind[kind].url for kind in ("list", "copy", "reports")},
        }

    def invoke(self, event: dict[str, Any], ended: Callable[[Any], object]) -> None:
        """Serve an invocation in an idle environment, or in a new one."""
        random = self.world.random
        self.world.invocations += 1
        if self.world.invocations >= MOST_INVOCATIONS:
            self.world.is_calm = True
        if self.world.invocations >= TOO_MANY_INVOCATIONS:
            raise NeverEnds(f"after {self.world.invocations:,} invocations the run has not ended")
        if self.idle and random.random() < 0.9:
            sandbox = self.idle.pop(random.randrange(len(self.idle)))
        else:
            sandbox = Sandbox(self, f"{self.name[-6:]}-{len(self.sandboxes)}")
            self.sandboxes.append(sandbox)
        sandbox.invoke(event, ended)

    @property
    def is_busy(self) -> bool:
        """Tell whether an invocation is under way."""
        return any(not sandbox.is_frozen for sandbox in self.sandboxes)


class Mapping:
    """What feeds a queue's messages to a function."""

    def __init__(self, queue: Queue, function: Function, batch_messages: int, most_invocations: int) -> None:
        """Begin enabled."""
        self.queue, self.function = queue, function
        self.uuid = f"uuid-{function.name}"
        self._world, self._faults = function.world, function.weather.faults
        self._batch_messages, self._most = batch_messages, most_invocations
        self._visibility = function.weather.timeout_seconds + 30
        self._running = 0
        self._is_looking = False
        self.state = "Enabled"
        queue.wake = self.wake

    def wake(self) -> None:
        """Look at the queue soon."""
        if not self._is_looking and self._running < self._most and self.state in ("Enabled", "Disabling"):
            self._is_looking = True
            self._world.later(_LOOK_SECONDS * self._world.random.random(), self._look)

    def disable(self) -> None:
        """Stop, after a while."""
        if self.state == "Enabled":
            self.state = "Disabling"
            self._world.later(_DISABLE_SECONDS * self._world.random.random() ** 2, self._be_disabled)

    def _be_disabled(self) -> None:
        self.state = "Disabled"

    def _look(self) -> None:
        self._is_looking = False
        random = self._world.random
        while self.state in ("Enabled", "Disabling") and self._running < self._most:
            batch = self.queue.receive(random.randint(1, self._batch_messages), self._visibility)
            if not batch:
                break
            if not self._world.is_calm and random.random() < self._faults.never_started:
                self._world.note(f"{self.function.name} is throttled: {[message.id for message in batch]} come again")
                continue
            self._start(batch)

    def _start(self, batch: list[Message]) -> None:
        records = [
            {
                "messageId": message.id,
                "receiptHandle": message.receipt,
                "body": message.body,
                "attributes": {"ApproximateReceiveCount": str(message.receives)},
                "eventSourceARN": f"arn:aws:sqs:eu-west-1:1:{self.queue.name}",
            }
            for message in batch
        ]
        self._running += 1
        if self._world.trace is not None:
            self._world.note(f"{self.function.name} starts with {[message.receipt for message in batch]}")
        self.function.invoke({"Records": records}, partial(self._end, [message.receipt for message in batch]))

    def _end(self, receipts: list[str], answer: dict[str, Any] | None) -> None:
        self._running -= 1
        if answer is not None:
            kept = {failed["itemIdentifier"] for failed in answer["batchItemFailures"]}
            for receipt in receipts:
                if receipt.partition("/")[0] not in kept:
                    self.queue.delete(receipt)
        self.wake()

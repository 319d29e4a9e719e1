"""A model of SQS: five queues whose messages are delivered in any order, at least once, and given up after some times."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

from tests.unit.worker.worker_fakes import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3bulkcopy.worker.http import Response
    from tests.simulator.clock import EnvironmentLoop, World
    from tests.simulator.weather import Weather

#: How late a late message may be, in seconds.
_LATE_SECONDS = 400.0


def _error(status: int, code: str) -> Response:
    return answer(status, json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "because"}))


THROTTLED = _error(403, "RequestThrottled")
SERVER_ERROR = _error(500, "InternalFailure")
EXPIRED = _error(403, "ExpiredToken")
GONE = _error(400, "QueueDoesNotExist")
FINE = answer(200, "{}")


class Message:
    """A message in a queue."""

    __slots__ = ("body", "id", "receipt", "receives", "visible_at")

    def __init__(self, name: str, body: str, visible_at: float) -> None:
        """Be visible from a time on."""
        self.id, self.body, self.visible_at = name, body, visible_at
        self.receives = 0
        #: The handle of the last delivery; earlier ones are of no use any more.
        self.receipt = ""


class Queue:
    """One queue; after `most_receives` deliveries a message goes to `dead`."""

    def __init__(self, world: World, weather: Weather, name: str, dead: Queue | None = None, most_receives: int = 5) -> None:
        """Begin empty."""
        self._world, self._weather, self._random = world, weather, world.random
        self.name = name
        self.url = f"https://sqs.eu-west-1.amazonaws.com/1/{name}"
        self._dead, self._most_receives = dead, most_receives
        self._messages: dict[str, Message] = {}
        self._numbers = count()
        self._readings: list[tuple[float, int, int]] = [(0.0, 0, 0)]
        #: Is called when a message becomes visible.
        self.wake: Callable[[], object] | None = None
        #: Every body that was ever sent.
        self.log: list[str] = []

    def send(self, body: str, delay: float = 0.0) -> None:
        """Take a message."""
        self.log.append(body)
        faults = self._weather.faults
        share = faults.late_message if self._dead is None else faults.late_message / 4
        if share and self._random.random() < share:
            delay += _LATE_SECONDS * self._random.random() ** 2
        self._add(Message(f"{self.name[-6:]}-{next(self._numbers)}", body, self._world.now + delay))

    def _add(self, message: Message) -> None:
        self._messages[message.id] = message
        self._announce(message)

    def _announce(self, message: Message) -> None:
        if self.wake is not None:
            self._world.at(max(message.visible_at, self._world.now), self.wake)

    def has_visible(self) -> bool:
        """Tell whether a message could be received now."""
        now = self._world.now
        return any(message.visible_at <= now for message in self._messages.values())

    def receive(self, most: int, visibility: float) -> list[Message]:
        """Deliver up to `most` messages, any of those that are visible."""
        now, random = self._world.now, self._random
        visible = [message for message in self._messages.values() if message.visible_at <= now]
        if self._dead is not None:
            for message in [message for message in visible if message.receives >= self._most_receives]:
                visible.remove(message)
                self._bury(message)
        random.shuffle(visible)
        taken = []
        for message in visible[:most]:
            message.receives += 1
            message.receipt = f"{message.id}/{message.receives}"
            is_twice = self._world.strikes(self._weather.faults.delivered_twice / 2)
            message.visible_at = now + (random.random() * 5 if is_twice else visibility)
            self._announce(message)
            taken.append(message)
        return taken

    def _bury(self, message: Message) -> None:
        del self._messages[message.id]
        self._world.note(f"  {self.name}: {message.id} is dead")
        if self._dead is not None:
            self._dead._add(Message(message.id, message.body, self._world.now))

    def set_visibility(self, receipt: str, seconds: float) -> None:
        """Let a message be visible after so many seconds."""
        message = self._messages.get(receipt.partition("/")[0])
        if message is not None and message.receipt == receipt:
            message.visible_at = self._world.now + seconds
            self._announce(message)

    def delete(self, receipt: str) -> None:
        """Delete a message, unless it was delivered to somebody else meanwhile, or a replica did not hear of it."""
        message = self._messages.get(receipt.partition("/")[0])
        is_current = message is not None and message.receipt == receipt
        if message is not None and is_current and not self._world.strikes(self._weather.faults.undeleted):
            del self._messages[message.id]

    def purge(self) -> None:
        """Delete everything."""
        self._messages.clear()

    def depth(self) -> tuple[int, int]:
        """Give about how many messages are visible, and in flight."""
        now = self._world.now
        visible = sum(message.visible_at <= now for message in self._messages.values())
        self._readings.append((now, visible, len(self._messages) - visible))
        lag, late = self._weather.depth_lag, self._weather.faults.late_depths
        if lag and late and self._random.random() < late:
            then = max(0.0, now - lag * self._random.random())
            return next(reading[1:] for reading in reversed(self._readings) if reading[0] <= then)
        return self._readings[-1][1:]

    def __len__(self) -> int:
        """Give how many messages there are."""
        return len(self._messages)


class Queues:
    """All queues, as the workers' requests reach them."""

    def __init__(self, world: World, weather: Weather, names: dict[str, str]) -> None:
        """Make the queues of a run, by what they are for."""
        self._world, self._weather, self._random = world, weather, world.random
        dead = {kind: Queue(world, weather, names[kind]) for kind in ("list-dead", "copy-dead", "reports")}
        self.by_kind = {
            **{kind: Queue(world, weather, names[kind], dead[f"{kind}-dead"]) for kind in ("list", "copy")},
            **dead,
        }
        self.lost_answers = weather.faults.lost_answer
        self.by_url = {queue.url: queue for queue in self.by_kind.values()}

    def serve(self, loop: EnvironmentLoop, request: bytes) -> Response:
        """Answer the request of an environment."""
        head, _, body = request.partition(b"\r\n\r\n")
        parameters = json.loads(body)
        if loop.expires_at < self._world.now:
            return EXPIRED
        queue = self.by_url.get(parameters["QueueUrl"])
        if queue is None:
            return GONE
        faults, chance = self._weather.faults, self._random.random() * 4
        if not self._world.is_calm and chance < faults.throttled + faults.server_error:
            return THROTTLED if chance < faults.throttled else SERVER_ERROR
        if b"SendMessageBatch" in head:
            return self._send(loop, queue, parameters["Entries"])
        queue.set_visibility(parameters["ReceiptHandle"], parameters["VisibilityTimeout"])
        return FINE

    def _send(self, loop: EnvironmentLoop, queue: Queue, entries: list[dict[str, str]]) -> Response:
        faults = self._weather.faults
        outcome = self.take(queue, entries, faults.refused_entry / 2, faults.denied_entry / 2)
        if self._world.trace is not None:
            for entry in entries:
                taken = [kind for kind, some in outcome.items() if any(entry["Id"] == one["Id"] for one in some)]
                self._world.note(f"  {queue.name} is sent by {loop.name}, {taken}: {_brief(entry['MessageBody'])}")
        deadly = faults.killed_reporting if queue is self.by_kind["reports"] else faults.killed_sending
        if self._world.strikes(deadly / 4):
            loop.kill()
        return answer(200, json.dumps(outcome))

    def take(
        self, queue: Queue, entries: list[dict[str, str]], refused: float, denied: float
    ) -> dict[str, list[dict[str, Any]]]:
        """Take messages, but for a share that is refused; of another it is denied that they were taken."""
        random = self._random.random
        outcome: dict[str, list[dict[str, Any]]] = {"Successful": [], "Failed": []}
        for entry in entries:
            is_refused = not self._world.is_calm and random() < refused
            if not is_refused:
                queue.send(entry["MessageBody"])
            if not is_refused and not self._world.strikes(denied):
                outcome["Successful"].append({"Id": entry["Id"], "MessageId": "m"})
            elif random() < 0.7:
                outcome["Failed"].append({"Id": entry["Id"], "Code": "InternalError", "SenderFault": False, "Message": "busy"})
        return outcome


def _brief(body: str) -> str:
    """Give a message without its job."""
    before, _, rest = body.partition('"job":')
    return before + rest.rpartition("}},")[2] if rest else body

"""The way from an environment to a service: what is sent arrives after a while, or never, and so does its answer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from s3bulkcopy.worker.connections import Connection, ConnectionLost, Host

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3bulkcopy.worker.connections import Receiver
    from s3bulkcopy.worker.http import Response
    from tests.simulator.clock import EnvironmentLoop
    from tests.simulator.weather import Weather

#: How many times as long a slow answer takes, at most: longer than a worker waits for it.
_SLOWNESS = 2000.0


class Wire:
    """A connection of one environment, over which faults come as the weather has it."""

    def __init__(self, host: Host, loop: EnvironmentLoop, weather: Weather, serve: Callable[[bytes], Response]) -> None:
        """Send what is asked of `host` to what `serve`s it."""
        self.host = host
        self.usable = True
        self._loop, self._weather, self._serve = loop, weather, serve
        self._receiver: Receiver | None = None

    def send(self, request: bytes, deadline: float, receiver: Receiver) -> None:
        """Send a request on its way; it arrives although the environment dies meanwhile."""
        loop = self._loop
        if loop.is_dead:
            return
        self.usable, self._receiver = False, receiver
        world, faults = loop.world, self._weather.faults
        random = world.random.random
        there_seconds = back_seconds = self._weather.latency * (0.25 + random() / 2)
        if request.startswith(b"GET "):
            back_seconds += self._weather.list_latency
        if world.strikes(faults.slow):
            back_seconds *= _SLOWNESS ** random()
        world.later(there_seconds, partial(self._arrive, request, back_seconds, deadline, receiver))

    def _arrive(self, request: bytes, back_seconds: float, deadline: float, receiver: Receiver) -> None:
        loop, faults = self._loop, self._weather.faults
        world = loop.world
        is_lost = bool(faults.lost_request) and not world.is_calm and world.random.random() < faults.lost_request / 4
        response = None if is_lost else self._serve(request)
        if world.strikes(faults.lost_answer / 2) or (is_lost and not world.strikes(0.3)):
            error: OSError = ConnectionLost("reset")
            world.later(back_seconds, partial(loop.enter, self._fail, error, receiver))
        elif response is None or world.strikes(faults.no_answer / 4):
            world.at(max(deadline, world.now), partial(loop.enter, self._fail, TimeoutError("no answer in time"), receiver))
        elif world.now + back_seconds > deadline:
            world.at(max(deadline, world.now), partial(loop.enter, self._fail, TimeoutError("too late an answer"), receiver))
        else:
            world.later(back_seconds, partial(loop.enter, self._answer, response, receiver))

    def _answer(self, response: Response, receiver: Receiver) -> None:
        if self._receiver is receiver:
            self._receiver, self.usable = None, True
            receiver.answered(response)

    def _fail(self, error: OSError, receiver: Receiver) -> None:
        if self._receiver is receiver:
            self._receiver = None
            receiver.failed(error)

    def close(self) -> None:
        """End the connection; who waits for an answer is told."""
        self.usable = False
        receiver, self._receiver = self._receiver, None
        if receiver is not None and not self._loop.is_dead:
            receiver.failed(ConnectionLost("closed"))


def host(loop: EnvironmentLoop, weather: Weather, serve: Callable[[bytes], Response]) -> Host:
    """Give a host that can be reached from an environment."""

    async def dial() -> Connection:
        return Wire(reached, loop, weather, serve)

    reached = Host(dial)
    return reached

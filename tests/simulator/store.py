"""A model of S3: a source and a destination, as the worker's own bytes ask for them."""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote

from s3bulkcopy.worker.model import Item, Location
from tests.unit.worker.multipart_fakes import Multipart
from tests.unit.worker.worker_fakes import (
    COPIED,
    DENIED,
    NO_SUCH_KEY,
    NOW,
    SLOW_DOWN,
    answer,
    error,
    listing,
    parse_request,
)

if TYPE_CHECKING:
    from random import Random

    from s3bulkcopy.worker.http import Response
    from tests.simulator.clock import EnvironmentLoop, World
    from tests.simulator.weather import Weather

SERVER_ERROR = error(500, "InternalError", "We encountered an internal error. Please try again.")
ERROR_INSIDE = answer(200, b"   \n" + SERVER_ERROR.body)
SLOW_DOWN_INSIDE = answer(200, SLOW_DOWN.body)
EXPIRED = error(400, "ExpiredToken", "The provided token has expired.")
NO_SUCH_BUCKET = error(404, "NoSuchBucket", "The specified bucket does not exist")
CHANGED = error(412, "PreconditionFailed", extra="<Condition>x-amz-copy-source-If-Match</Condition>")
EXISTS = error(412, "PreconditionFailed", extra="<Condition>If-None-Match</Condition>")
ARCHIVED = error(403, "InvalidObjectState", "The operation is not valid for the object's storage class")

#: What may keep an object from ever being copied. The last kills whoever asks for it.
CURSES = (SERVER_ERROR, SLOW_DOWN, DENIED, ARCHIVED, ERROR_INSIDE, None)

#: Characters that have been trouble somewhere; keys begin with few of them, so that many share a beginning.
_CHARACTERS = "aab/.%+?#& <>\"'~=\t\n\x01\x7f\x85øé日\u2028\ue000\ufffe\U0001f600\U0010ffff"

#: The ETag of what the destination had before.
BEFORE = "before"


class Write(NamedTuple):
    """An object that was copied: when, to which key, in which version, and by whom."""

    when: float
    key: str
    etag: str
    by: str


def draw_keys(random: Random, prefix: str, number: int) -> list[str]:
    """Draw different legal keys under a prefix."""
    drawn = {prefix + "".join(random.choices(_CHARACTERS, k=random.randint(1, 3))) for _ in range(number)}
    if prefix and random.random() < 0.1:
        drawn.add(prefix)
    return sorted(drawn)


class Store:
    """The buckets `source` and `destination`."""

    def __init__(self, world: World, weather: Weather) -> None:
        """Fill the source, and plan what will happen to its objects."""
        self._world, self.weather = world, weather
        self._random = world.random
        self.keys: list[str] = []
        self.source: dict[str, Item] = {}
        self.destination: dict[str, str] = {}
        self.writes: list[Write] = []
        #: All versions that an object has ever had, the first one first.
        self.versions: dict[str, list[str]] = {}
        #: Keys that are not there all the time, and those that change.
        self.moving: set[str] = set()
        self.changing: set[str] = set()
        #: Keys that were asked about by themselves, with the ETags that this showed.
        self.looked_up: set[tuple[str, str]] = set()
        self.curses: dict[str, Response | None] = {}
        self.is_gone = False
        self.is_braked = False
        #: What is copied by parts.
        self.multipart = Multipart(self.source.get, self._there, self._note_made, lambda: NOW + world.now)
        keys = draw_keys(self._random, weather.prefix, weather.objects)
        for key in keys:
            self._put(key)
        for key in keys:
            if self._random.random() < weather.existing:
                self.destination[self.target(key)] = BEFORE

    def target(self, key: str) -> str:
        """Give the key at the destination."""
        return self.weather.destination_prefix + key[len(self.weather.prefix) :]

    def _put(self, key: str) -> None:
        if key not in self.source:
            insort(self.keys, key)
        versions = self.versions.setdefault(key, [])
        versions.append(f"{self._random.getrandbits(48):012x}{len(versions)}")
        self.source[key] = Item(key, self._random.choice((0, 1, 1000, 50_000_000)), versions[-1])

    def _remove(self, key: str) -> None:
        if self.source.pop(key, None) is not None:
            self.keys.remove(key)

    def stir(self) -> None:
        """Let faults come from now on, and objects vanish, change and appear within the next minutes."""
        faults, random, world = self.weather.faults, self._random, self._world
        for key in [*self.keys]:
            if random.random() < faults.cursed:
                self._curse(key, random.choice(CURSES))
            if random.random() < faults.vanishing:
                self.moving.add(key)
                world.later(self._some_seconds(), lambda key=key: self._remove(key))  # type: ignore[misc]
            elif random.random() < faults.changing:
                self.changing.add(key)
                world.later(self._some_seconds(), lambda key=key: self._put(key))  # type: ignore[misc]
        for key in draw_keys(random, self.weather.prefix, self.weather.objects):
            if key not in self.source and random.random() < faults.appearing:
                self.moving.add(key)
                world.later(self._some_seconds(), lambda key=key: self._put(key))  # type: ignore[misc]
        if self.weather.bucket_gone_at is not None:
            world.later(self.weather.bucket_gone_at, self._lose_bucket)

    def _curse(self, key: str, curse: Response | None) -> None:
        if curse in (SLOW_DOWN, SERVER_ERROR, ERROR_INSIDE):  # it may be handed on twenty times; see MOST_STRIKES
            self._world.strikes_left = min(self._world.strikes_left, 5)
        self.curses[key] = curse

    def _lose_bucket(self) -> None:
        self.is_gone = True

    def _some_seconds(self) -> float:
        """Give a time at which the run is probably busy."""
        return float(40 * self._random.random() ** 3)

    # ---------------------------------------------------------------------------------------------------- requests

    def page(self, prefix: str, after: str, most: int) -> tuple[list[Item], bool]:
        """List: the items, and whether more follow."""
        first = bisect_right(self.keys, after) if after >= prefix else bisect_right(self.keys, prefix)
        if first and self.keys[first - 1] == prefix and after < prefix:
            first -= 1
        most = min(most, self.weather.page_keys)
        found = [key for key in self.keys[first : first + most + 1] if key.startswith(prefix)]
        return [self.source[key] for key in found[:most]], len(found) > most

    def serve(self, loop: EnvironmentLoop, request: bytes) -> Response:
        """Answer the request of an environment."""
        head = request.partition(b"\r\n\r\n")[0] if request.startswith(b"POST ") else request
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        response = self._fault()
        if loop.expires_at < self._world.now:
            response = EXPIRED
        is_of_parts = any(word in target for word in ("uploadId=", "tagging=", "annotation="))
        if method not in ("GET", "PUT") or is_of_parts or target.startswith("/destination?"):
            return self._multipart(loop, request, response)
        if method == "GET":
            response = response or self._list(target)
        else:
            response = self._copy(loop, target, dict(line.split(": ", 1) for line in lines[1:] if line), response)
        return response

    def _fault(self) -> Response | None:
        faults, chance = self.weather.faults, self._random.random() * 2
        if self._world.is_calm:
            return None
        if chance < faults.throttled:
            return SLOW_DOWN
        if chance < faults.throttled + faults.server_error:
            return SERVER_ERROR
        if chance < faults.throttled + faults.server_error + faults.error_inside:
            return ERROR_INSIDE if chance < 0.5 else SLOW_DOWN_INSIDE
        return None

    def _list(self, target: str) -> Response:
        query = dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))
        after = bytes.fromhex(query.get("continuation-token", "")).decode()
        if not self.weather.is_walked:
            after = query.get("start-after", "")
        items, more = self.page(query["prefix"], after, int(query["max-keys"]))
        if query["max-keys"] == "1":
            self.looked_up |= {(item.key, item.etag) for item in items if item.key == query["prefix"]}
        if self._world.trace is not None:
            self._world.note(f"  S3 lists behind {after!r}: {[item.key for item in items]}, {more}")
        token = items[-1].key.encode().hex() if self.weather.is_walked and more else ""
        return answer(200, listing(items, truncated=more, token=token))

    def _copy(self, loop: EnvironmentLoop, path: str, headers: dict[str, str], fault: Response | None) -> Response:
        key, target = unquote(headers["x-amz-copy-source"])[8:], unquote(path)[13:]
        response = fault or self._outcome(key, target, headers)
        if response is COPIED:
            self.destination[target] = self.source[key].etag
            self.multipart.made.pop(target, None)
            self.writes.append(Write(self._world.now, key, self.source[key].etag, loop.name))
        if self._world.trace is not None:
            self._world.note(f"  S3 is asked by {loop.name} to copy {key!r}: {response.status} {response.body[-60:]!r}")
        if response is KILLED:
            loop.kill()
        return response

    def _there(self, target: str) -> Item | None:
        etag = self.destination.get(target)
        return None if etag is None else Item(target, 1, etag)

    def _note_made(self, target: str, key: str, etag: str) -> None:
        self.destination[target] = etag
        self.writes.append(Write(self._world.now, key, etag, "parts"))

    def _multipart(self, loop: EnvironmentLoop, wire: bytes, fault: Response | None) -> Response:
        request = parse_request(wire)
        response = fault
        if response is None and (self.is_gone or self.is_braked):
            response = NO_SUCH_BUCKET if self.is_gone else DENIED
        if response is None and "x-amz-copy-source" in request.headers:
            outcome = self._outcome(unquote(request.headers["x-amz-copy-source"])[8:], "", request.headers)
            response = None if outcome is COPIED else outcome
        if response is None:
            response = self.multipart.serve(request)
            assert response is not None, request
        elif request.method == "HEAD":
            response = response._replace(body=b"")
        if self._world.trace is not None:
            words = f"{request.method} {unquote(request.target)}: {response.status} {response.body[-60:]!r}"
            self._world.note(f"  S3 is asked by {loop.name} for {words}")
        if response is KILLED:
            loop.kill()
        return response

    def _outcome(self, key: str, target: str, headers: dict[str, str]) -> Response:  # noqa: PLR0911 - a table
        if self.is_gone:
            return NO_SUCH_BUCKET
        if self.is_braked:
            return DENIED
        if key in self.curses:
            return self.curses[key] or KILLED
        found = self.source.get(key)
        if found is None:
            return NO_SUCH_KEY
        if headers.get("x-amz-copy-source-if-match", "*") not in ("*", f'"{found.etag}"'):
            return CHANGED
        if "if-none-match" in headers and target in self.destination:
            return EXISTS
        return COPIED


#: What nobody lives to read.
KILLED = error(500, "Killed")

SOURCE = Location("source", "", "eu-west-1", "http://store.test/source")
DESTINATION = Location("destination", "", "eu-west-1", "http://store.test/destination")

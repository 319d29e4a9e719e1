"""A command that is killed at any step of making or unmaking a run leaves nothing that a later teardown does not find.

    python -m pytest tests/moto/test_kills.py -s      # lists every step, with what was there at the kill, and what is left

A kill is the end of every thread: no request is sent after it, and nothing cleans up. What the killed command knew is gone;
the teardown has the run's id, and whatever the account shows. Each step is killed twice: before its request was sent, and
after it had its effect, but before its answer came.
"""

from __future__ import annotations

import threading
from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from moto import mock_aws

from s3bulkcopy.aws.deploy import deploy
from s3bulkcopy.aws.session import AwsSession
from s3bulkcopy.aws.teardown import halt, teardown
from tests.moto.conftest import REGION, RUN_ID, Aws, leftovers, silently, stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What an operation that changes something begins with.
_CHANGES = ("create_", "put_", "tag_", "delete_", "update_", "purge_", "set_")


class Killed(BaseException):
    """The process is gone."""


class Mortal(AwsSession):
    """A session whose process is killed at the n-th request of a kind that changes something."""

    def __init__(self, clients: AwsSession, at: tuple[str, int] | None = None, *, late: bool = False) -> None:
        """Be killed at this request, before it or after its effect; never where there is none.

        Clients are another session's, since to make them takes longer than all that they are asked here.
        """
        self._theirs = clients
        self._at, self._late = at, late
        self._lock, self._dead = threading.Lock(), False
        self.steps: Counter[str] = Counter()

    def client(self, service: str, region: str | None = None) -> Any:
        """Give a client that may be the last."""
        return _Mortal(self, service, self._theirs.client(service, region))

    def call(self, operation: str, method: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Send a request, unless the process is gone, or goes now."""
        with self._lock:
            if self._dead:
                raise Killed
            is_now = False
            if operation.partition(".")[2].startswith(_CHANGES):
                is_now = (operation, self.steps[operation]) == self._at
                self.steps[operation] += 1
            self._dead = is_now
        if is_now and not self._late:
            raise Killed
        answer = method(**arguments)
        if is_now:
            raise Killed
        return answer


class _Mortal:
    def __init__(self, aws: Mortal, service: str, client: Any) -> None:
        self._aws, self._service, self._client = aws, service, client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ("get_paginator", "exceptions", "meta", "generate_presigned_url"):
            return method
        return lambda **arguments: self._aws.call(f"{self._service}.{name}", method, arguments)


def make(aws: AwsSession) -> None:
    """Make a run's resources."""
    deploy(stack(), aws, b"PK\x05\x06" + bytes(18), say=silently, sleep=silently)


def unmake(aws: AwsSession) -> None:
    """Halt a run and remove what it made, as a command that ends early does."""
    halt(aws, REGION, RUN_ID, say=silently, sleep=silently)
    teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)


def kills(
    title: str, do: Callable[[AwsSession], None], before: Callable[[AwsSession], None]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Kill a command at each of its steps; give the step, what was there then, and what a teardown leaves of it."""
    with mock_aws():
        account = Aws()
        before(account)
        whole = Mortal(account)
        do(whole)
    for operation, times in sorted(whole.steps.items()):
        for n, late in product(range(times), (False, True)):
            with mock_aws():
                before(account)
                with pytest.raises(Killed):
                    do(Mortal(account, (operation, n), late=late))
                there = leftovers(account.client)
                unmake(account)
                yield (
                    f"{title} {operation} {n + 1}, {'after' if late else 'before'} its effect",
                    there,
                    leftovers(account.client),
                )


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no credentials but made-up ones."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")


def nothing(_aws: AwsSession) -> None:
    """Have an empty account."""


@pytest.mark.parametrize(
    ("title", "do", "before", "least"),
    [("making:", make, nothing, 16), ("unmaking:", unmake, make, 15)],
    ids=["making", "unmaking"],
)
def test_a_command_that_is_killed_at_any_step_leaves_nothing_that_a_teardown_does_not_remove(
    title: str, do: Callable[[AwsSession], None], before: Callable[[AwsSession], None], least: int
) -> None:
    found = list(kills(title, do, before))
    for step, there, left in found:
        print(f"killed at {step:75} {len(there):3} there, {len(left)} left")  # noqa: T201 - what -s is for

    assert len(found) >= 2 * least
    assert [(step, left) for step, _, left in found if left] == []

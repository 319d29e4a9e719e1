"""Looking at runs again and again."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import EndpointConnectionError

from s3bulkcopy.aws.session import translate
from s3bulkcopy.commands import tending
from s3bulkcopy.errors import NotPermitted, S3BulkCopyError

if TYPE_CHECKING:
    from collections.abc import Callable

UNHEARD = EndpointConnectionError(endpoint_url="https://sqs.eu-west-1.amazonaws.com")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


def in_turn(*looks: Callable[[], str]) -> Callable[[], str]:
    left = iter(looks)

    def look() -> str:
        following = next(left)
        return following()

    return look


def unheard() -> str:
    raise translate(UNHEARD, "listing queues") from UNHEARD


def denied() -> str:
    raise NotPermitted("listing queues: AccessDenied")


def test_who_watches_sees_what_was_there_last_while_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    look = in_turn(lambda: "one run", unheard, unheard, lambda: "none")

    assert [*islice(tending._again(look, watch=True), 4)] == ["one run", "one run", "one run", "none"]
    assert capsys.readouterr().err.count("looking again") == 2


def test_who_watches_is_told_of_a_denial_at_once() -> None:
    look = in_turn(lambda: "one run", denied)

    with pytest.raises(NotPermitted):
        list(tending._again(look, watch=True))


def test_the_first_look_fails_where_nobody_answers() -> None:
    with pytest.raises(S3BulkCopyError):
        next(tending._again(unheard, watch=True))

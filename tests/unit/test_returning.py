"""What is known of a run when a command comes back to it."""

from __future__ import annotations

from typing import Any

import pytest

from s3bulkcopy.aws.stack import begun
from s3bulkcopy.commands.returning import seconds_taken
from s3bulkcopy.journal import Facts

RUN_ID = "20261123-121632-4f2a91"
BEGUN = begun(RUN_ID)


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 90.0),
        ({"seconds": 30.0}, 30.0),
        ({"seconds": 30.0, "since": BEGUN + 70}, 50.0),
        ({"seconds": 30.0, "since": BEGUN + 95}, 30.0),
    ],
    ids=["the first was killed", "the last ended", "one that attached was killed", "it was killed before it wrote anything"],
)
def test_a_run_has_taken_as_long_as_commands_carried_it_on(settings: dict[str, Any], seconds: float) -> None:
    assert seconds_taken(Facts(RUN_ID, "local", settings=settings), BEGUN + 90) == seconds

"""What a run that ended with counts that add up ends with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from s3bulkcopy.commands.copying import exit_code
from s3bulkcopy.run import Phases, Result
from s3bulkcopy.tally import Tally
from s3bulkcopy.worker.model import Attempt, Counts, Dead, Done, Event, Job, ListTask, Location, Range

PLACE = Location("bucket", "", "eu-west-1", "")
LOST = ListTask("run.1", Job("run", PLACE, PLACE), (Range("", None),))
GOOD = Done("run.1", Attempt(1, "n"), 0, Counts(listed=2, copied=1, vanished=1))


def ended(event: Event, *left: str) -> Result:
    """Give what becomes of a run whose second task ended so."""
    tally = Tally()
    tally.announce("run", 2)
    tally.add([Done("run.0", Attempt(1, "n"), 0, Counts(listed=1, copied=1)), event])
    result = Result("run", "lambda", "s3://a", "s3://b", tally.snapshot(), (), (), Phases(), 1.0, left)
    assert result.snapshot.complete
    return result


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (GOOD, 0),
        (GOOD._replace(counts=Counts(listed=1, failed=1)), 3),
        (Dead("run.1", LOST), 3),
    ],
    ids=["all is there", "an object failed", "a range was not listed to its end"],
)
def test_a_run_ends_well_only_if_all_was_listed_and_nothing_failed(event: Event, code: int) -> None:
    assert exit_code(ended(event), is_kept=False, skips_archived=False) == code


def test_what_is_left_behind_is_told_unless_it_is_kept_or_something_failed() -> None:
    result = ended(GOOD, "a queue")

    assert exit_code(result, is_kept=False, skips_archived=False) == 7
    assert exit_code(result, is_kept=True, skips_archived=False) == 0
    assert exit_code(replace(ended(Dead("run.1", LOST)), resources_left=("x",)), is_kept=False, skips_archived=False) == 3

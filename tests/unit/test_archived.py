"""Archived objects in a run's counts, its failures and its exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from s3bulkcopy.commands.copying import exit_code
from s3bulkcopy.failures import advice, causes
from s3bulkcopy.run import Phases, Result
from s3bulkcopy.tally import Tally
from s3bulkcopy.view import summary_lines
from s3bulkcopy.worker.model import ARCHIVED, Attempt, Counts, Done, Failure

COLD = Failure("cold", 7, ARCHIVED, "in GLACIER, and not restored")


def result(*dones: Done) -> Result:
    """Give what becomes of a run of these tasks."""
    tally = Tally()
    tally.announce("run", len(dones))
    tally.add(dones)
    return Result(
        "run", "local", "s3://a", "s3://b", tally.snapshot(), (COLD,), (), Phases(), 1.0, causes=tuple(causes([COLD]))
    )


@pytest.mark.parametrize(
    ("counts", "skips", "code"),
    [
        (Counts(listed=1, copied=1), False, 0),
        (Counts(listed=1, skipped=1), False, 0),
        (Counts(listed=1, skipped=1, archived=1), False, 3),
        (Counts(listed=1, skipped=1, archived=1), True, 0),
        (Counts(listed=2, skipped=1, archived=1, failed=1), True, 3),
        (Counts(filtered=5), False, 0),
    ],
)
def test_archived_objects_make_the_exit_code_unless_they_may_be_skipped(counts: Counts, skips: bool, code: int) -> None:  # noqa: FBT001
    ended = result(Done("run.0", Attempt(1, "n"), 0, counts))

    assert exit_code(ended, is_kept=False, skips_archived=skips) == code


def test_archived_objects_are_no_failures_for_whoever_stops_a_run_by_them() -> None:
    tally = Tally()
    tally.announce("run", 1)

    tally.add([Done("run.0", Attempt(1, "n"), 0, Counts(skipped=1, archived=1), (COLD,))])

    assert (tally.failures, tally.denied, tally.last_failure) == (0, 0, None)


def test_the_summary_names_them_apart_from_what_exists() -> None:
    lines = summary_lines(
        result(Done("run.0", Attempt(1, "n"), 0, Counts(listed=3, skipped=3, archived=1, filtered=4), (COLD,)))
    )

    assert "  filtered    4 (left out, counted nowhere else)" in lines
    assert "  skipped     2 (there already)" in lines
    assert "  archived    1 (skipped: in an archive class, and not restored)" in lines
    assert lines[-1].startswith("    1 x Archived: in GLACIER, and not restored; it is archived, and was not tried")
    assert lines[-1].endswith(" (such as 'cold' (7 B))")


def test_what_to_do_about_them_is_told() -> None:
    assert advice(ARCHIVED) == "it is archived, and was not tried: restore it, then retry"


def test_a_worker_without_a_filter_imports_none() -> None:
    program = (
        "import sys, s3bulkcopy.worker.handler, s3bulkcopy.worker.listing as l\n"
        "from s3bulkcopy.worker.model import Job, Location\n"
        "l.Sorter(Job('r', Location('a', '', '', ''), Location('b', '', '', '')))\n"
        "print('s3bulkcopy.worker.filters' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"

"""Jobs that would read what they write."""

from __future__ import annotations

import pytest

from s3bulkcopy.aws.preflight import check_overlap
from s3bulkcopy.errors import UsageError
from s3bulkcopy.settings import BucketPrefix


@pytest.mark.parametrize(
    ("source", "destination", "fine"),
    [
        (("a", ""), ("b", ""), True),
        (("a", "x/"), ("a", "y/"), True),
        (("a", ""), ("a", ""), False),
        (("a", "x"), ("a", "x"), False),
        (("a", "x/"), ("a", "x/y/"), False),
        (("a", "x/y/"), ("a", "x/"), False),
        (("a", ""), ("a", "x"), False),
        (("a", "x"), ("a", "x2"), False),
        (("a", "x1"), ("a", "x2"), True),
    ],
)
def test_a_job_that_would_read_what_it_writes_is_refused(
    source: tuple[str, str], destination: tuple[str, str], *, fine: bool
) -> None:
    if fine:
        check_overlap(BucketPrefix(*source), BucketPrefix(*destination))
    else:
        with pytest.raises(UsageError, match=r"overlap|same"):
            check_overlap(BucketPrefix(*source), BucketPrefix(*destination))

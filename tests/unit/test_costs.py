"""What --dry-run says that copying takes."""

from __future__ import annotations

import doctest
from typing import Any

import botocore.session
import pytest

from s3bulkcopy import costs
from s3bulkcopy.costs import COPIES, dollars, is_in_aws, planned
from s3bulkcopy.worker.model import Counts, Item, Location
from s3bulkcopy.worker.properties import Policy
from s3bulkcopy.worker.sorting import Sorting, large_of
from tests.unit.worker.worker_fakes import JOB, item

GIB = 1024**3
DRY = JOB._replace(dry=True)

#: 7 small objects, one that is archived, and two large ones of 20 and 5,120 parts.
COUNTS = Sorting(
    [*(item(f"{n}") for n in range(7)), Item("a", 5 * GIB, "e"), Item("b", 1280 * GIB, "e")], {"GLACIER": [item("c")]}
).counts(DRY)
ALWAYS = {"UploadPartCopy": 5140, "HeadObject": 2, "CreateMultipartUpload": 2, "CompleteMultipartUpload": 2}


def test_the_examples_in_the_docstrings_hold() -> None:
    ran = doctest.testmod(costs)

    assert (ran.failed, ran.attempted > 0) == (0, True)


@pytest.mark.parametrize(
    ("policy", "more"),
    [
        ({}, {"GetObjectTagging": 2, "ListObjectAnnotations": 2}),
        ({"tags": "drop", "annotations": "drop"}, {}),
        ({"tags": "replace", "acl": "preserve"}, {"GetObjectAcl": 9, "ListObjectAnnotations": 2}),
    ],
)
def test_each_property_has_its_requests(policy: dict[str, Any], more: dict[str, int]) -> None:
    requests = dict(planned(COUNTS, DRY._replace(policy=Policy(**policy))))

    assert requests.pop("ListParts") > 2 * 2
    assert requests == {"CopyObject": 7, **ALWAYS, **more}


def test_what_exists_is_looked_for_before_a_large_object_is_begun() -> None:
    assert dict(planned(COUNTS, DRY._replace(overwrite=False)))["ListObjectsV2"] == 2


def test_objects_that_a_file_names_are_looked_for_where_their_class_is_to_be_kept() -> None:
    job = DRY._replace(policy=Policy(storage_class="preserve"))

    assert "ListObjectsV2" not in dict(planned(COUNTS, job))
    assert dict(planned(COUNTS, job, is_named=True))["ListObjectsV2"] == 7


def test_small_objects_take_a_copy_each_and_nothing_else() -> None:
    assert planned(Counts(listed=1000), DRY) == (("CopyObject", 1000),)
    assert dollars(planned(Counts(listed=1_000_000), DRY)) == pytest.approx(5.0)
    assert planned(Counts(), DRY) == ()


def test_an_object_of_5_tb_costs_five_cents_and_less_than_one_for_what_is_asked_besides() -> None:
    requests = planned(large_of(DRY, [Item("a", 5 * 10**12, "e")]) + Counts(listed=1), DRY)

    copies = [one for one in requests if one[0] in COPIES]
    assert 0.049 < dollars(copies) < 0.051
    assert dollars(requests) - dollars(copies) < 0.01


def test_each_request_has_the_name_that_s3_has_for_it() -> None:
    known = {*botocore.session.get_session().get_service_model("s3").operation_names}
    policy = Policy(acl="preserve")
    requests = planned(COUNTS, DRY._replace(policy=policy, overwrite=False))

    # What is newer than the oldest botocore that we work with is not in its model.
    assert {name for name, _ in requests} - {"ListObjectAnnotations"} <= known
    assert len(requests) == 10


def test_only_of_a_dry_job_large_objects_are_counted_apart() -> None:
    sorting = Sorting([Item("a", 5 * GIB, "e")], {})

    assert sorting.counts(JOB) == Counts(listed=1, listed_bytes=5 * GIB)
    assert (sorting.counts(DRY).large, sorting.counts(DRY).parts) == (1, 20)


@pytest.mark.parametrize(
    ("url", "elsewhere", "expected"),
    [
        ("https://b.s3.eu-west-1.amazonaws.com", "", True),
        ("https://s3.cn-north-1.amazonaws.com.cn/b", "", True),
        ("https://s3.future.aws/b", "https://s3.{region}.aws/b", True),
        ("http://127.0.0.1:9000/b", "", False),
        ("https://amazonaws.com.store.example/b", "", False),
    ],
)
def test_where_a_bucket_is_asked_for_tells_whether_it_is_in_aws(url: str, elsewhere: str, *, expected: bool) -> None:
    assert is_in_aws(Location("b", "", "eu-west-1", url, elsewhere)) is expected

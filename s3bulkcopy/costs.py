"""What copying takes of requests, and what they cost, by what a listing tells. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from s3bulkcopy.settings import REQUEST_DOLLARS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from s3bulkcopy.worker.model import Counts, Job, Location

#: Price of a GET or a HEAD request to S3 Standard in US dollars (S3 pricing, us-east-1, 2026).
READ_DOLLARS = 0.0004 / 1000

#: Requests that read, by their names in the S3 API; PUT, COPY, POST and LIST cost more.
_READS = frozenset({"HeadObject", "GetObjectTagging", "GetObjectAcl"})

#: Requests that copy.
COPIES = frozenset({"CopyObject", "UploadPartCopy"})

Requests = tuple[tuple[str, int], ...]


def planned(counts: Counts, job: Job, *, is_named: bool = False) -> Requests:
    """Give the requests that a job takes of which everything was only listed, or named by a file, if nothing goes wrong.

    By their names in the S3 API, those that are none left out. What no listing tells is not in it: the annotations of large
    objects, each a GetObjectAnnotation and a PutObjectAnnotation, and looks at the tags of their copies.
    """
    policy, large = job.policy, counts.large
    small = counts.listed - counts.skipped - large
    requests = {
        "CopyObject": small,
        "UploadPartCopy": counts.parts,
        "GetObjectAcl": small + large if policy.preserves_acl else 0,
        "HeadObject": large,
        "GetObjectTagging": large if policy.tags == "copy" else 0,
        "ListObjectAnnotations": large if policy.annotations == "copy" else 0,
        "CreateMultipartUpload": large,
        "ListParts": counts.part_lists,
        "CompleteMultipartUpload": large,
        "ListObjectsV2": (0 if job.overwrite else large) + (small if is_named and policy.preserves_class else 0),
    }
    return tuple((name, number) for name, number in requests.items() if number)


def is_in_aws(place: Location) -> bool:
    """Tell whether a bucket is in AWS, by where it is asked for: another store has neither its regions nor its prices."""
    host = urlsplit(place.url).hostname or ""
    return bool(place.elsewhere) or host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def dollars(requests: Iterable[tuple[str, int]]) -> float:
    """Give what requests cost in US dollars.

    >>> round(dollars([("CopyObject", 1000), ("HeadObject", 1000)]), 6)
    0.0054
    """
    return sum((number * (READ_DOLLARS if name in _READS else REQUEST_DOLLARS) for name, number in requests), 0.0)

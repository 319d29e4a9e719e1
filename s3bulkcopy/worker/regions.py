"""Where S3 says a bucket is, when it is not where it was asked for. Pure.

Only a region is taken from an answer, never a host: the new host follows from what botocore's endpoint rules have given for the
bucket, so that no answer can have requests, and the credentials in them, sent to somebody else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from s3bulkcopy.worker import urls

if TYPE_CHECKING:
    from s3bulkcopy.worker.http import Response
    from s3bulkcopy.worker.model import Location

_REGION = r"[a-z]{2,4}(?:-[a-z]+)+-\d+"
_IN_DOCUMENT = rb"<Region>([^<]*)</Region>"
_HOST = r"https?://([^/?#]*)"
_ENDPOINT = rb"<Endpoint>([^<]*)</Endpoint>"

#: What a region stands as in a location's `elsewhere`.
REGION_HERE = "{region}"

#: S3's own hosts in a partition: with or without a bucket, FIPS and IPv6; `s3-us-west-2` is how they were once written.
_S3_HOST = rf"(?:.+\.)?s3(?:-fips)?(?:\.dualstack)?[.-](?P<region>{_REGION})"

#: What S3 says of a request for a bucket that is elsewhere, beside the statuses 301 and 307.
_ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed"})
_REDIRECTS = frozenset({301, 307})


def is_elsewhere(status: int, code: str) -> bool:
    """Tell whether an error may say that the bucket is in another region; `code` is that of the error document."""
    return status in _REDIRECTS or code in _ELSEWHERE


def told_region(response: Response, at: Location) -> str | None:
    """Give the region that an answer names which was asked for at a location; None where it names none.

    It stands in a header, in the document, or in the name of the host of AWS to ask instead.
    """
    named = [response.header("x-amz-bucket-region")]
    if found := re.search(_IN_DOCUMENT, response.body):
        named.append(found[1].decode("latin-1"))
    hosts = [found[1] for found in (re.match(_HOST, response.header("location") or ""),) if found]
    if in_document := re.search(_ENDPOINT, response.body):
        hosts.append(in_document[1].decode("latin-1"))
    if at.elsewhere:
        suffix = urls.split(at.elsewhere)[1].rpartition(REGION_HERE)[2]
        named += [host["region"] for name in hosts if (host := re.fullmatch(_S3_HOST + re.escape(suffix), name))]
    return next((name for name in named if name and re.fullmatch(_REGION, name)), None)


def moved(at: Location, region: str) -> Location:
    """Give a bucket's location in another region: AWS's host there, or the same host of any other store."""
    return at._replace(region=region, url=at.elsewhere.replace(REGION_HERE, region) or at.url)

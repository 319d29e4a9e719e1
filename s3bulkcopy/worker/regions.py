"""Where S3 says a bucket is, when it is not where it was asked for. Pure.

Only a region is taken from an answer, never a host: the new host follows from the one in use, so that no answer can have
requests, and the credentials in them, sent to somebody else.
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

#: S3's own hosts: with or without a bucket, a region, FIPS and IPv6; `s3-us-west-2` is how they were once written.
_AWS_HOST = (
    rf"(?P<before>(?:.+\.)?s3(?:-fips)?(?:\.dualstack)?)(?:[.-](?P<region>{_REGION}))?(?P<suffix>\.amazonaws\.com(?:\.cn)?)"
)

#: What S3 says of a request for a bucket that is elsewhere, beside the statuses 301 and 307.
_ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed"})
_REDIRECTS = frozenset({301, 307})


def is_elsewhere(status: int, code: str) -> bool:
    """Tell whether an error may say that the bucket is in another region; `code` is that of the error document."""
    return status in _REDIRECTS or code in _ELSEWHERE


def told_region(response: Response) -> str | None:
    """Give the region that an answer names; None where it names none.

    It stands in a header, in the document, or in the name of the host to ask instead.
    """
    named = [response.header("x-amz-bucket-region")]
    if found := re.search(_IN_DOCUMENT, response.body):
        named.append(found[1].decode("latin-1"))
    hosts = [found[1] for found in (re.match(_HOST, response.header("location") or ""),) if found]
    if in_document := re.search(_ENDPOINT, response.body):
        hosts.append(in_document[1].decode("latin-1"))
    named += [host["region"] for name in hosts if (host := re.fullmatch(_AWS_HOST, name))]
    return next((name for name in named if name and re.fullmatch(_REGION, name)), None)


def moved(at: Location, region: str) -> Location:
    """Give a bucket's location in another region: the same host in that region if it is one of AWS's, else the same host."""
    scheme, name, path = urls.split(at.url)
    host = re.fullmatch(_AWS_HOST, name)
    if host is None:
        return at._replace(region=region)
    return at._replace(region=region, url=f"{scheme}://{host['before']}.{region}{host['suffix']}{path}")

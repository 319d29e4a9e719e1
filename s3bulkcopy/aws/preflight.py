"""What is looked at before anything is made: who asks, where the buckets are, whether the job makes sense."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from s3bulkcopy.aws.session import (
    bucket_region,
    bucket_url,
    free_concurrency,
    heeds_if_none_match,
    identity,
    translate,
)
from s3bulkcopy.errors import QuotaTooSmall, UsageError
from s3bulkcopy.worker.model import Item, Job, Location
from s3bulkcopy.worker.s3 import PAGE_KEYS, PLAIN, Page, unquoted
from s3bulkcopy.worker.sorting import Sorter

if TYPE_CHECKING:
    from s3bulkcopy.aws.session import AwsSession, Identity
    from s3bulkcopy.settings import AwsSettings, BucketPrefix, CopySettings, Selection, StackSettings
    from s3bulkcopy.worker.filters import Filter
    from s3bulkcopy.worker.model import Trait
    from s3bulkcopy.worker.s3 import Asked


@dataclass(frozen=True, slots=True)
class Found:
    """What every engine needs to know."""

    job: Job
    first_page: Page
    #: Why the source cannot be listed in ranges of keys; empty where it can.
    uncut: str = ""

    @property
    def region(self) -> str:
        """Where the workers run: at the destination."""
        return self.job.destination.region


@dataclass(frozen=True, slots=True)
class Preflight(Found):
    """What the lambda engine needs to know besides."""

    identity: Identity = field(kw_only=True)
    #: Concurrent executions that the account has left for us; None where it does not say.
    free_concurrency: int | None = field(kw_only=True)


def check_overlap(source: BucketPrefix, destination: BucketPrefix) -> None:
    """Refuse a job that would read what it writes; raises UsageError."""
    if source.bucket != destination.bucket:
        return
    if source == destination:
        raise UsageError(f"source and destination are the same: {source}", hint="name another bucket or another prefix")
    if source.prefix.startswith(destination.prefix) or destination.prefix.startswith(source.prefix):
        raise UsageError(
            f"{source} and {destination} overlap, so the copy would meet its own results",
            hint="choose prefixes of which none begins with the other, such as old/ and new/",
        )


def look(session: AwsSession, copy: CopySettings, run_id: str) -> Found:
    """Look at the buckets, and at nothing but S3: the store may be another one. Raises what a user can mend."""
    check_overlap(copy.source, copy.destination)
    with ThreadPoolExecutor(2) as pool:
        source, destination = pool.map(partial(_locate, session), (copy.source, copy.destination))
    job = Job(
        run_id,
        source,
        destination,
        overwrite=copy.overwrite,
        batch_keys=copy.batch_keys,
        dry=copy.dry,
        filter=filter_of(copy.selection),
        force_archived=copy.selection.force_archived,
    )
    if session.has_other_store and not copy.overwrite:
        check_no_overwrite(session, destination)
    if copy.selection.keys_from is not None:
        return Found(job, Page((), truncated=False))
    sorter = Sorter(job)
    source = source._replace(prefix=sorter.prefix)
    page = first_page(session, source, asked=sorter.asked)
    return Found(job, page, "as --one-lister says" if copy.one_lister else why_uncut(session, source, page))


def filter_of(chosen: Selection) -> Filter | None:
    """Give what objects must be, or None where they may be anything."""
    from s3bulkcopy.worker.filters import Filter  # noqa: PLC0415 - few runs have one

    names = ("rules", "regex", "min_size", "max_size", "newer", "older", "storage_classes")
    found = Filter(*(getattr(chosen, name) for name in names))
    return found if found != Filter() else None


def check_no_overwrite(session: AwsSession, destination: Location) -> None:
    """Refuse a store that would overwrite all the same, where there is something to overwrite; raises UsageError."""
    there = first_page(session, destination, most=1)
    if there.items and not heeds_if_none_match(session, destination.bucket, there.items[0].key, destination.region):
        raise UsageError(
            f"this store overwrites objects although it is asked not to (If-None-Match), so {destination} would not be safe",
            hint="without --no-overwrite every object is copied, and existing ones are overwritten",
        )


def preflight(session: AwsSession, aws: AwsSettings, copy: CopySettings, run_id: str) -> Preflight:
    """Look at everything that can be known before anything is made; raises what a user can mend."""
    check_overlap(copy.source, copy.destination)
    who = identity(session)
    found = look(session, copy, run_id)
    destination = found.job.destination
    if aws.region and aws.region != destination.region:
        raise UsageError(
            f"--region is {aws.region}, but bucket '{destination.bucket}' is in {destination.region}, where the workers run",
            hint=f"leave --region out, or give {destination.region}",
        )
    if found.uncut:
        raise UsageError(
            f"{found.job.source} cannot be listed in ranges of keys ({found.uncut}), and no function lives long enough",
            hint="--engine local lists it page after page",
        )
    free = free_concurrency(session, destination.region)
    return Preflight(found.job, found.first_page, identity=who, free_concurrency=free)


def check_quota(found: Preflight, stack: StackSettings) -> None:
    """Refuse more workers than the account has concurrent executions left; raises QuotaTooSmall."""
    wanted, free = stack.list_workers + stack.copy_workers, found.free_concurrency
    if free is not None and wanted > free:
        raise QuotaTooSmall(
            f"{stack.copy_workers} copy workers and {stack.list_workers} list workers need {wanted} concurrent executions; "
            f"account {found.identity.account} has {free} left in {found.region}",
            hint=f"--workers {max(2, free - stack.list_workers)}, or ask for a higher quota of concurrent executions",
        )


def first_page(session: AwsSession, place: Location, most: int = PAGE_KEYS, asked: Asked = PLAIN) -> Page:
    """List the first page of a bucket, of so many keys at most; raises NotPermitted or BucketUnavailable."""
    more = {"OptionalObjectAttributes": ["RestoreStatus"]} if asked[1] else {}
    client = session.client("s3", place.region)
    try:
        answer = client.list_objects_v2(Bucket=place.bucket, Prefix=place.prefix, MaxKeys=most, **more)
    except (ClientError, BotoCoreError) as error:
        raise translate(error, f"listing {place}") from error
    entries = answer.get("Contents", ())
    found = (Item(entry["Key"], entry["Size"], unquoted(entry.get("ETag", ""))) for entry in entries)
    traits = tuple(map(_trait, entries)) if asked != PLAIN else ()
    return Page(tuple(found), bool(answer["IsTruncated"]), traits=traits)


def _trait(entry: dict[str, Any]) -> Trait:
    """Read what a listing says of an object beside key, size and ETag."""
    status = entry.get("RestoreStatus", {})
    is_restored = "RestoreExpiryDate" in status and not status.get("IsRestoreInProgress")
    return entry.get("LastModified", ""), entry.get("StorageClass", ""), is_restored


def why_uncut(session: AwsSession, source: Location, page: Page) -> str:
    """Tell why a source cannot be listed in ranges of keys, going by its first page and a request for what lies behind it."""
    keys = [item.key for item in page.items]
    if not all(one < other for one, other in pairwise(keys)):
        return "it does not list keys in the order of their UTF-8 bytes"
    if not page.truncated:
        return ""
    behind = keys[-1]
    client = session.client("s3", source.region)
    try:
        answer = client.list_objects_v2(Bucket=source.bucket, Prefix=source.prefix, StartAfter=behind, MaxKeys=1)
    except (ClientError, BotoCoreError) as error:
        raise translate(error, f"listing {source}") from error
    if any(entry["Key"] <= behind for entry in answer.get("Contents", ())):
        return "it ignores start-after"
    return ""


def _locate(session: AwsSession, place: BucketPrefix) -> Location:
    region = bucket_region(session, place.bucket)
    return Location(place.bucket, place.prefix, region, bucket_url(session, place.bucket, region))

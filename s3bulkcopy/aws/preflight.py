"""What is looked at before anything is made: who asks, where the buckets are, whether the job makes sense."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from s3bulkcopy.aws import policy
from s3bulkcopy.aws.session import (
    bucket_region,
    bucket_url,
    elsewhere_url,
    encryption_key,
    error_code,
    free_concurrency,
    heeds_if_none_match,
    identity,
    translate,
)
from s3bulkcopy.errors import BucketRefused, NotPermitted, QuotaTooSmall, S3BulkCopyError, UsageError
from s3bulkcopy.worker.model import Item, Job, Location
from s3bulkcopy.worker.properties import Policy, new_object_headers
from s3bulkcopy.worker.s3 import PAGE_KEYS, PLAIN, Page, unquoted
from s3bulkcopy.worker.sorting import Sorter

if TYPE_CHECKING:
    from s3bulkcopy.aws.session import AwsSession, Identity
    from s3bulkcopy.settings import AwsSettings, BucketPrefix, CopySettings, PropertySettings, Selection, StackSettings
    from s3bulkcopy.worker.filters import Filter
    from s3bulkcopy.worker.model import Trait
    from s3bulkcopy.worker.s3 import Asked

#: What the object of --probe-write is called, behind the destination's prefix and before the run's id.
PROBE_NAME = ".s3bulkcopy-probe-"


@dataclass(frozen=True, slots=True)
class Found:
    """What every engine needs to know."""

    job: Job
    first_page: Page
    #: Why the source cannot be listed in ranges of keys; empty where it can.
    uncut: str = ""
    #: What is worth a warning before anything is done.
    warnings: tuple[str, ...] = ()
    #: Who asks; None where that is not known, or means nothing to another store.
    who: Identity | None = None

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
    #: The KMS keys that the buckets, and the options, name.
    keys: policy.Keys = field(default=policy.Keys(), kw_only=True)


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


@dataclass(frozen=True, slots=True)
class _Side:
    """A bucket as it was found, and the account that it is known to belong to; empty where that is not known."""

    place: Location
    owner: str


def look(
    session: AwsSession,
    copy: CopySettings,
    run_id: str,
    who: Identity | None = None,
    *,
    role_arn: str | None = None,
    is_local: bool = True,
) -> Found:
    """Look at the buckets, and at nothing but S3 where the store is another one. Raises what a user can mend.

    `who` asks; where that is not given it is asked for, if that is all it takes to know whose the destination is.
    """
    check_overlap(copy.source, copy.destination)
    said = copy.properties
    if said.request_payer:
        session.pay()
    if who is None and not session.has_other_store:
        who = _who(session)
    own = who.account if who is not None and not session.has_other_store else ""
    refused = _Refusals(copy, who, role_arn, is_local=is_local)
    with ThreadPoolExecutor(2) as pool:
        looking = [
            pool.submit(_find, session, place, owner, own, refused)
            for place, owner in ((copy.source, said.source_owner), (copy.destination, said.destination_owner))
        ]
        source, destination = (one.result() for one in looking)
    check_places(source.place, destination.place, said)
    job = Job(
        run_id,
        source.place,
        destination.place,
        overwrite=copy.overwrite,
        batch_keys=copy.batch_keys,
        dry=copy.dry,
        policy=Policy(**said._asdict())._replace(destination_owner=destination.owner),
        filter=filter_of(copy.selection),
        force_archived=copy.selection.force_archived,
        multipart_bytes=copy.multipart_bytes,
        part_bytes=copy.part_bytes,
    )
    if session.has_other_store and not copy.overwrite:
        check_no_overwrite(session, destination.place)
    page, uncut = _looked_into(session, copy, job, refused)
    found = Found(job, page, uncut, who=None if session.has_other_store else who)
    unnamed = _without_key(copy, page)
    if copy.dry:
        return replace(found, warnings=tuple(unnamed))
    warnings = [*unnamed, *_whose(destination, own), *_tried(session, found, source, own, refused)]
    if copy.probe_write:
        _probe_write(session, job, refused)
    return replace(found, warnings=tuple(warnings))


def _looked_into(session: AwsSession, copy: CopySettings, job: Job, refused: _Refusals) -> tuple[Page, str]:
    """Give the source's first page, and why it cannot be listed in ranges; nothing where keys are named in its place."""
    if copy.selection.keys_from is not None:
        return Page((), truncated=False), ""
    sorter = Sorter(job)
    place = job.source._replace(prefix=sorter.prefix)
    try:
        page = first_page(session, place, properties=job.policy, asked=sorter.asked)
    except NotPermitted as error:
        raise refused.reading(error) from error
    return page, "as --one-lister says" if copy.one_lister else why_uncut(session, place, page, job.policy.source_owner)


def _without_key(copy: CopySettings, page: Page) -> list[str]:
    """Warn of a folder's marker that has no key at the destination; raises UsageError where the source is such an object."""
    source, destination = copy.source, copy.destination
    if not page.items or page.items[0].key != source.prefix or destination.prefix:
        return []
    if page.items[0].is_marker:
        return [f"{source} marks a folder, and {destination} is that folder: the marker is left out, what is below it copied"]
    if len(page.items) > 1 or page.truncated:
        return []
    raise UsageError(
        f"{source} is one object, and {destination} leaves its copy no key",
        hint=f"give DST the copy's key: s3://{destination.bucket}/{source.prefix}",
    )


def _whose(destination: _Side, own: str) -> list[str]:
    """Warn of a destination that is not pinned, where it could be."""
    if destination.owner or not own:
        return []
    risk = f"bucket '{destination.place.bucket}' is not account {own}'s: should it change hands, nothing would tell"
    return [f"{risk}; --expected-destination-owner ACCOUNT pins it"]


def _tried(session: AwsSession, found: Found, source: _Side, own: str, refused: _Refusals) -> list[str]:
    """Try what need not be allowed: to read tags, where they are copied and the bucket is not our own account's.

    In an account of our own the run's role may read them, and whoever asks need not. Otherwise as _probe_tags.
    """
    items, job = found.first_page.items, found.job
    if not items or job.policy.tags != "copy" or not own or source.owner == own:
        return []
    return _probe_tags(session, job, items[0].key, refused)


def _who(session: AwsSession) -> Identity | None:
    """Ask who we are, of which nothing depends but what is pinned: a network need not lead to STS."""
    with suppress(S3BulkCopyError), session.hasty():
        return identity(session)
    return None


def _find(session: AwsSession, place: BucketPrefix, said_owner: str, own: str, refused: _Refusals) -> _Side:
    """Find where a bucket is, and whether it belongs to whom it should, or to our own account, by the same request."""
    owner = said_owner or own
    try:
        return _Side(_locate(session, place, owner), owner)
    except BucketRefused as error:
        if said_owner or not own:
            raise refused.looking(place, error) from error
    return _find(session, place, "", "", refused)  # it is someone else's, or denied to us


def check_places(source: Location, destination: Location, said: PropertySettings) -> None:
    """Refuse what S3 would refuse for every object; raises UsageError."""
    points = [place for place in (source, destination) if place.bucket.startswith("arn:") or place.bucket.endswith("-s3alias")]
    if points and source.region != destination.region:
        raise UsageError(
            f"S3 copies through an access point within its region only: {source} is in {source.region}, and {destination} in "
            f"{destination.region}",
            hint="name the buckets in place of the access points",
        )
    key = said.kms_key_id
    if key.startswith("arn:") and key.split(":")[3] != destination.region:
        raise UsageError(
            f"--sse-kms-key-id names a key in {key.split(':')[3]}, and {destination} is in {destination.region}",
            hint="S3 encrypts with keys of the bucket's own region",
        )


# ----------------------------------------------------------------------------------------------- what is missing, and for whom


@dataclass(frozen=True, slots=True)
class _Refusals:
    """Puts a refusal together with what its bucket's owner can add to let us in."""

    copy: CopySettings
    who: Identity | None
    role_arn: str | None
    is_local: bool

    def looking(self, place: BucketPrefix, error: BucketRefused) -> S3BulkCopyError:
        """Give the error of a bucket that may not be looked at."""
        statements = self._statements(self._job())
        number = 0 if place == self.copy.source else 1
        return BucketRefused(error.message, hint=f"{error.hint}. {_paste(place.bucket, statements[number])}".strip())

    def reading(self, error: NotPermitted) -> S3BulkCopyError:
        """Give the error of a source that may not be listed or read."""
        statements = self._statements(self._job())[0]
        return NotPermitted(error.message, hint=f"{error.hint}. {_paste(self.copy.source.bucket, statements)}".strip())

    def writing(self, error: S3BulkCopyError, *, is_key: bool) -> S3BulkCopyError:
        """Give the error of a destination that may not be written to."""
        if self.who is not None and is_key:
            paste = _paste_key(policy.key_statement(self._principals(self.who), decrypts=False))
        else:
            paste = _paste(self.copy.destination.bucket, self._statements(self._job())[1])
        return NotPermitted(error.message, hint=f"{error.hint}. {paste}".strip())

    def tags(self) -> str:
        """Say what lets us read tags."""
        return _paste(self.copy.source.bucket, self._statements(self._job())[0])

    def _job(self) -> Job:
        source, destination = (Location(one.bucket, one.prefix, "*", "") for one in (self.copy.source, self.copy.destination))
        return Job("", source, destination, policy=Policy(**self.copy.properties._asdict()))

    def _statements(self, job: Job) -> tuple[list[policy.Policy], list[policy.Policy]]:
        if self.who is None:
            return [], []
        who, partition = self._principals(self.who), self.who.partition
        return policy.source_statements(job, partition, who), policy.destination_statements(job, partition, who)

    def _principals(self, who: Identity) -> policy.Policy:
        return policy.principals(who.arn, who.account, who.partition, self.role_arn, is_local=self.is_local)


def what_lets_in(found: Found, role_arn: str | None, cause: str) -> str:
    """Say what owners of buckets and keys can add where the workers were denied something; `cause` is in S3's own words."""
    if found.who is None:
        return ""
    who, job, is_local = found.who, found.job, not isinstance(found, Preflight)
    principals = policy.principals(who.arn, who.account, who.partition, role_arn, is_local=is_local)
    if "kms" in cause.lower():
        keys = [_paste_key(policy.key_statement(principals, decrypts=decrypts)) for decrypts in (True, False)]
        return f"For the source's objects: {keys[0]}. For the copies: {keys[1]}"
    source = _paste(job.source.bucket, policy.source_statements(job, who.partition, principals))
    return f"{source}. {_paste(job.destination.bucket, policy.destination_statements(job, who.partition, principals))}"


def _paste(bucket: str, statements: list[policy.Policy]) -> str:
    if not statements:
        return ""
    kind = "access point" if bucket.startswith("arn:") else "bucket"
    return f"Its owner adds to the policy of {kind} '{bucket}': {', '.join(map(json.dumps, statements))}"


def _paste_key(statement: policy.Policy) -> str:
    return f"The key's owner adds to its policy: {json.dumps(statement)}"


# -------------------------------------------------------------------------------------------------------------------- probes


def _pinned(owner: str) -> dict[str, str]:
    """Give what boto3 calls the owner that a bucket must have."""
    return {"ExpectedBucketOwner": owner} if owner else {}


def _probe_tags(session: AwsSession, job: Job, key: str, refused: _Refusals) -> list[str]:
    """Read an object's tags, as copies of objects that have any do; gives what is worth a warning.

    Raises NotPermitted where whoever asks is who copies. A run's role may be let in where we are not.
    """
    client = session.client("s3", job.source.region)
    try:
        client.get_object_tagging(Bucket=job.source.bucket, Key=key, **_pinned(job.policy.source_owner))
    except ClientError as error:
        known = translate(error, f"reading the tags of an object in {job.source}")
        if not isinstance(known, NotPermitted):
            return []  # gone since it was listed, or a store that knows no tags: the copy will tell
        without = "objects with tags cannot be copied then, unless with --tags drop"
        if refused.is_local:
            raise NotPermitted(known.message, hint=f"{without}. {refused.tags()}") from error
        return [f"{known.message}; if the run's role is denied it, too, {without}. {refused.tags()}"]
    except BotoCoreError as error:
        raise translate(error, f"reading the tags of an object in {job.source}") from error
    return []


#: What boto3 calls the headers that a policy says of a new object.
_PUT_ARGUMENTS = {
    "x-amz-storage-class": "StorageClass",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-aws-kms-key-id": "SSEKMSKeyId",
    "x-amz-acl": "ACL",
    "x-amz-tagging": "Tagging",
}


def put_arguments(properties: Policy) -> dict[str, Any]:
    """Give what boto3's put_object is to be told so that an object is as a policy says.

    >>> put_arguments(Policy(sse="aws:kms", tags="drop"))
    {'ServerSideEncryption': 'aws:kms'}
    """
    headers = new_object_headers(properties)
    said: dict[str, Any] = {argument: headers[name] for name, argument in _PUT_ARGUMENTS.items() if name in headers}
    if properties.bucket_key is not None:
        said["BucketKeyEnabled"] = properties.bucket_key
    return said | _pinned(properties.destination_owner)


def _probe_write(session: AwsSession, job: Job, refused: _Refusals) -> None:
    """Write a small object to the destination, as the copies will be, and delete it; raises what keeps us from either."""
    client, there = session.client("s3", job.destination.region), job.destination
    key = f"{there.prefix}{PROBE_NAME}{job.run_id}"
    try:
        made = client.put_object(Bucket=there.bucket, Key=key, Body=b"", **put_arguments(job.policy))
    except ClientError as error:
        is_key = "kms" in f"{error_code(error)} {error}".lower()
        known = translate(error, f"writing to {there}")
        raise (refused.writing(known, is_key=is_key) if isinstance(known, NotPermitted) else known) from error
    except BotoCoreError as error:
        raise translate(error, f"writing to {there}") from error
    version = {"VersionId": made["VersionId"]} if made.get("VersionId") else {}
    try:
        client.delete_object(Bucket=there.bucket, Key=key, **version, **_pinned(job.policy.destination_owner))
    except (ClientError, BotoCoreError) as error:
        known = translate(error, f"deleting what --probe-write wrote, {key!r} in {there.bucket}")
        known.hint = f"{known.hint}. The object is still there; without --probe-write none is written".lstrip(". ")
        raise known from error


def filter_of(chosen: Selection) -> Filter | None:
    """Give what objects must be, or None where they may be anything."""
    from s3bulkcopy.worker.filters import Filter  # noqa: PLC0415 - few runs have one

    found = Filter(*(getattr(chosen, name) for name in Filter._fields))
    return found if found != Filter() else None


def check_no_overwrite(session: AwsSession, destination: Location) -> None:
    """Refuse a store that would overwrite all the same, where there is something to overwrite; raises UsageError."""
    there = first_page(session, destination, most=1)
    if there.items and not heeds_if_none_match(session, destination.bucket, there.items[0].key, destination.region):
        raise UsageError(
            f"this store overwrites objects although it is asked not to (If-None-Match), so {destination} would not be safe",
            hint="without --no-overwrite every object is copied, and existing ones are overwritten",
        )


def preflight(
    session: AwsSession, aws: AwsSettings, copy: CopySettings, run_id: str, settings: StackSettings | None = None
) -> Preflight:
    """Look at everything that can be known before anything is made; raises what a user can mend."""
    check_overlap(copy.source, copy.destination)
    who = identity(session)
    found = look(session, copy, run_id, who, role_arn=settings.role_arn if settings else None, is_local=False)
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
    keys = _keys(session, found.job, settings) if settings is not None and settings.role_arn is None else policy.Keys()
    return Preflight(
        found.job, found.first_page, warnings=found.warnings, who=found.who, identity=who, free_concurrency=free, keys=keys
    )


def _keys(session: AwsSession, job: Job, settings: StackSettings) -> policy.Keys:
    """Find the KMS keys that the run's role needs: those that the options name, and those that the buckets encrypt with."""
    here, there = job.source, job.destination
    source = {*settings.source_kms_keys, encryption_key(session, here.bucket, here.region)}
    destination = job.policy.kms_key_id
    if not destination and job.policy.sse != "AES256":
        destination = encryption_key(session, there.bucket, there.region)
    return policy.Keys(tuple(sorted(source - {""})), (destination,) if destination else ())


def check_quota(found: Preflight, stack: StackSettings) -> None:
    """Refuse more workers than the account has concurrent executions left; raises QuotaTooSmall."""
    wanted, free = stack.list_workers + stack.copy_workers, found.free_concurrency
    if free is not None and wanted > free:
        raise QuotaTooSmall(
            f"{stack.copy_workers} copy workers and {stack.list_workers} list workers need {wanted} concurrent executions; "
            f"account {found.identity.account} has {free} left in {found.region}",
            hint=f"--workers {max(2, free - stack.list_workers)}, or ask for a higher quota of concurrent executions",
        )


def first_page(
    session: AwsSession, place: Location, most: int = PAGE_KEYS, properties: Policy | None = None, asked: Asked = PLAIN
) -> Page:
    """List the first page of a bucket, of so many keys at most; raises NotPermitted or BucketUnavailable.

    `properties` are the policy for a source, and `asked` what is to be told of its objects besides.
    """
    client = session.client("s3", place.region)
    pinned = _pinned(properties.source_owner) if properties else {}
    more = {"OptionalObjectAttributes": ["RestoreStatus"]} if asked[1] else {}
    try:
        answer = client.list_objects_v2(Bucket=place.bucket, Prefix=place.prefix, MaxKeys=most, **pinned, **more)
    except (ClientError, BotoCoreError) as error:
        raise translate(error, f"listing {place}") from error
    with_classes = properties is not None and properties.preserves_class
    found = (
        Item(
            entry["Key"],
            entry["Size"],
            unquoted(entry.get("ETag", "")),
            entry.get("StorageClass", "STANDARD") if with_classes else "",
        )
        for entry in answer.get("Contents", ())
    )
    traits = tuple(map(_trait, answer.get("Contents", ()))) if asked != PLAIN else ()
    return Page(tuple(found), bool(answer["IsTruncated"]), traits=traits)


def _trait(entry: dict[str, Any]) -> Trait:
    """Read what a listing says of an object beside key, size and ETag."""
    status = entry.get("RestoreStatus", {})
    is_restored = "RestoreExpiryDate" in status and not status.get("IsRestoreInProgress")
    return entry.get("LastModified", ""), entry.get("StorageClass", ""), is_restored


def why_uncut(session: AwsSession, source: Location, page: Page, owner: str = "") -> str:
    """Tell why a source cannot be listed in ranges of keys, going by its first page and a request for what lies behind it."""
    keys = [item.key for item in page.items]
    if not all(one < other for one, other in pairwise(keys)):
        return "it does not list keys in the order of their UTF-8 bytes"
    if not page.truncated:
        return ""
    behind = keys[-1]
    client = session.client("s3", source.region)
    try:
        answer = client.list_objects_v2(
            Bucket=source.bucket, Prefix=source.prefix, StartAfter=behind, MaxKeys=1, **_pinned(owner)
        )
    except (ClientError, BotoCoreError) as error:
        raise translate(error, f"listing {source}") from error
    if any(entry["Key"] <= behind for entry in answer.get("Contents", ())):
        return "it ignores start-after"
    return ""


def _locate(session: AwsSession, place: BucketPrefix, owner: str) -> Location:
    if place.bucket.startswith("arn:") and session.has_other_store:
        raise UsageError(f"{place} is an access point, and the store at another endpoint has none", "name its bucket")
    region = bucket_region(session, place.bucket, owner)
    url, elsewhere = (find(session, place.bucket, region) for find in (bucket_url, elsewhere_url))
    return Location(place.bucket, place.prefix, region, url, elsewhere)

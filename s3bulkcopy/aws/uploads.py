"""Multipart uploads that a run has left: found at the destination, told from others', and aborted."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from shlex import quote
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from botocore.exceptions import BotoCoreError, ClientError

from s3bulkcopy.aws.session import Lack, answered_at, identity, lack, translate
from s3bulkcopy.aws.stack import Names, begun, is_run_id
from s3bulkcopy.aws.teardown import Left
from s3bulkcopy.costs import is_in_aws
from s3bulkcopy.errors import S3BulkCopyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s3bulkcopy.aws.session import AwsSession
    from s3bulkcopy.worker.model import Job, Location

#: How much earlier than the run an upload may seem to have begun, in seconds: S3 tells whole ones.
_SLACK_SECONDS = 1.0

#: Answers that say that there is nothing to abort.
_GONE = frozenset({"NoSuchUpload", "NoSuchBucket"})


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of the uploads of a run: how many were aborted, and what is left; why they could not be looked for, if so."""

    aborted: int = 0
    left: tuple[Left, ...] = ()
    unseen: Left | None = None

    def say_aborted(self, say: Callable[[str], None]) -> None:
        """Say how many were aborted, if any."""
        if self.aborted:
            say(f"aborted {self.aborted:,} multipart uploads that were not completed")

    def left_if(self, *, is_known: bool) -> tuple[Left, ...]:
        """Give what is left; that uploads could not be looked for counts where it is known that there were some."""
        return (*self.left, self.unseen) if self.unseen is not None and is_known else self.left


def sweep(session: AwsSession, place: Location, run_id: str, job: Job | None = None, *, is_own_role: bool = True) -> Swept:
    """Abort what a run has left of uploads; nobody works for it any more.

    An upload is known by who began it: the functions' session has the run's name. Where a store does not tell that, or the
    caller's own credentials began it (not `is_own_role`), it is one that began after the run, with a key under which the run
    makes uploads; without a `job` such ones are left alone.
    """
    swept, error = _sweep(session, place, run_id, job, is_own_role=is_own_role)
    if error is not None and lack(error) is Lack.CREDENTIALS:  # the workers may have been given others meanwhile
        session.renew()
        aborted = swept.aborted
        swept, _ = _sweep(session, place, run_id, job, is_own_role=is_own_role)
        swept = replace(swept, aborted=aborted + swept.aborted)
    return swept


def _sweep(
    session: AwsSession, place: Location, run_id: str, job: Job | None, *, is_own_role: bool
) -> tuple[Swept, Exception | None]:
    """Look once, and give also what kept it from looking at all."""
    aborted, left = 0, []
    try:
        mark = _Mark(session, run_id, job, is_own_role=is_own_role)
        asked = _asked(job.policy.destination_owner, job) if job is not None else {}
        for upload, now in _uploads(session, place, asked):
            if not mark.is_on(upload, now):
                continue
            why = _abort(session, place, upload, asked)
            if why:
                left.append(_left(place, upload, why))
            else:
                aborted += 1
    except (ClientError, BotoCoreError, S3BulkCopyError) as error:
        return Swept(aborted, tuple(left), _unseen(place, translate(error, "looking for multipart uploads").message)), error
    return Swept(aborted, tuple(left)), None


def _unseen(place: Location, why: str) -> Left:
    """Say that uploads could not be looked for although there may be some."""
    where = f"multipart uploads in s3://{place.bucket}/{place.prefix}"
    return Left(where, why, f"aws s3api list-multipart-uploads --bucket {place.bucket} {_reached(place)}")


def _reached(place: Location) -> str:
    """Give the options by which the AWS CLI asks where a bucket is."""
    endpoint = "" if not place.url or is_in_aws(place) else f" --endpoint-url {place.url.removesuffix(f'/{place.bucket}')}"
    return f"--region {place.region}{endpoint}"


def _asked(owner: str, job: Job) -> dict[str, str]:
    """Give what every request about a bucket says besides: whose it is to be, and who pays."""
    payer = {"RequestPayer": "requester"} if job.policy.request_payer else {}
    return payer | ({"ExpectedBucketOwner": owner} if owner else {})


def _uploads(session: AwsSession, place: Location, asked: dict[str, str]) -> Iterator[tuple[dict[str, Any], float]]:
    """Give the uploads there are, each with the time at which they were told of, in seconds by S3's clock."""
    client, after = session.client("s3", place.region), dict[str, str]()
    while True:
        answer = client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix, EncodingType="url", **after, **asked)
        is_encoded = answer.get("EncodingType") == "url"
        told_at = answered_at(answer)
        now = time.time() if told_at is None else told_at
        for upload in answer.get("Uploads", ()):
            yield {**upload, "Key": _decoded(upload["Key"], is_encoded=is_encoded)}, now
        if not answer.get("IsTruncated") or "NextKeyMarker" not in answer:  # a store that knows no uploads lists objects
            return
        key = _decoded(answer["NextKeyMarker"], is_encoded=is_encoded)
        after = {"KeyMarker": key, "UploadIdMarker": answer.get("NextUploadIdMarker", "")}


def _decoded(key: str, *, is_encoded: bool) -> str:
    return unquote_plus(key, errors="surrogateescape") if is_encoded else key


def _abort(session: AwsSession, place: Location, upload: dict[str, Any], asked: dict[str, str]) -> str:
    """Abort an upload; gives why it is still there, or nothing."""
    try:
        session.client("s3", place.region).abort_multipart_upload(
            Bucket=place.bucket, Key=upload["Key"], UploadId=upload["UploadId"], **asked
        )
    except ClientError as error:
        if error.response["Error"].get("Code") in _GONE:
            return ""
        return translate(error, "aborting it").message
    except BotoCoreError as error:
        return translate(error, "aborting it").message
    return ""


def _left(place: Location, upload: dict[str, Any], why: str) -> Left:
    key, name = upload["Key"], upload["UploadId"]
    again = f"aws s3api abort-multipart-upload --bucket {place.bucket} --key {quote(key)} --upload-id {quote(name)}"
    return Left(f"multipart upload of {key!r}", why, f"{again} {_reached(place)}")


class _Mark:
    """Tells a run's uploads from others'."""

    def __init__(self, session: AwsSession, run_id: str, job: Job | None, *, is_own_role: bool) -> None:
        self._session, self._job = session, job
        self._stem = Names(run_id).stem
        self._is_own_role = is_own_role
        self._began = begun(run_id) if is_run_id(run_id) else None
        self._me: str | None = None

    def is_on(self, upload: dict[str, Any], now: float) -> bool:
        """Tell whether an upload is the run's; `now` is the time by S3's clock."""
        initiator = str(upload.get("Initiator", {}).get("ID", ""))
        if self._stem in initiator:
            return True
        if self._job is None or self._began is None:
            return False
        if initiator.startswith("arn:") and (self._is_own_role or _principal(initiator) != self._whoami()):
            return False
        begun_at = datetime.fromisoformat(str(upload["Initiated"])).timestamp()
        return begun_at >= self._began + (now - time.time()) - _SLACK_SECONDS and self._is_large(upload["Key"])

    def _whoami(self) -> str:
        if self._me is None:
            self._me = "" if self._session.has_other_store else _principal(identity(self._session).arn)
        return self._me

    def _is_large(self, target: str) -> bool:
        """Tell whether the run makes an upload for a key at the destination."""
        job = self._job
        if job is None or not target.startswith(job.destination.prefix):
            return False
        key = job.source.prefix + target[len(job.destination.prefix) :]
        client = self._session.client("s3", job.source.region)
        asked = _asked(job.policy.source_owner, job)
        found = client.list_objects_v2(Bucket=job.source.bucket, Prefix=key, MaxKeys=1, **asked).get("Contents", ())
        return any(entry["Key"] == key and entry["Size"] >= job.multipart_bytes for entry in found)


def _principal(arn: str) -> str:
    """Give whose ARN it is, without the session's name, which may be another each time a role is taken on.

    >>> _principal("arn:aws:sts::123456789012:assumed-role/admin/me"), _principal("arn:aws:iam::123456789012:user/me")
    ('arn:aws:sts::123456789012:assumed-role/admin', 'arn:aws:iam::123456789012:user/me')
    """
    return arn.rpartition("/")[0] if ":assumed-role/" in arn else arn

"""What the command line asks for, as frozen values, each valid once made. Nothing of ours is imported here.

They are named tuples since dataclasses take five times as long to make, at each start of the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

#: Price of a COPY or a LIST request to S3 Standard in US dollars (S3 pricing, us-east-1, 2026).
REQUEST_DOLLARS = 0.005 / 1000


class BucketPrefix(NamedTuple):
    """A bucket and a prefix in it, as given: `bucket`, `s3://bucket` or `s3://bucket/prefix`.

    In the place of a bucket there may be an access point, by its ARN or by its alias.
    """

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        """Give the location as people write it."""
        root = self.bucket if self.bucket.startswith("arn:") else f"s3://{self.bucket}"
        return f"{root}/{self.prefix}" if self.prefix else root


class AwsSettings(NamedTuple):
    """Where AWS is and as whom to speak to it; what is None comes from boto3's own chain."""

    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None


class Selection(NamedTuple):
    """Which objects of the source to copy: those for which all of this holds."""

    #: Patterns in the order given, `+` before each of those that include, `-` before each that excludes.
    rules: tuple[str, ...] = ()
    #: A regular expression; empty for none.
    regex: str = ""
    #: Bounds of the size in bytes, both inclusive.
    min_size: int = 0
    max_size: int | None = None
    #: Moments in UTC (`2026-01-31T00:00:00`): modified at or after one, before the other; empty for none.
    newer: str = ""
    older: str = ""
    storage_classes: tuple[str, ...] = ()
    #: Objects after which to stop; None for no limit.
    limit: int | None = None
    #: Where keys are listed in place of the bucket: a file, or `s3://bucket/key`.
    keys_from: str | None = None
    #: Try archived objects, too.
    force_archived: bool = False
    #: Take a run for a success although archived objects were skipped.
    skip_archived: bool = False


class PropertySettings(NamedTuple):
    """What copies are to be like; the names are those of the workers' policy, and the defaults what S3 does by itself."""

    storage_class: str = ""
    sse: str = ""
    kms_key_id: str = ""
    bucket_key: bool | None = None
    acl: str = ""
    tags: str = "copy"
    tag_set: tuple[tuple[str, str], ...] = ()
    metadata: str = "copy"
    entries: tuple[tuple[str, str], ...] = ()
    content_headers: tuple[tuple[str, str], ...] = ()
    checksum_algorithm: str = ""
    annotations: str = "copy"
    request_payer: bool = False
    source_owner: str = ""
    destination_owner: str = ""


class CopySettings(NamedTuple):
    """What to copy where, with which rules."""

    source: BucketPrefix
    destination: BucketPrefix
    overwrite: bool = True
    #: Most keys in one copy message.
    batch_keys: int = 1000
    #: Failed objects after which the run stops; None for no limit.
    max_failures: int | None = None
    #: List and count, and copy nothing.
    dry: bool = False
    #: List one page after another, as a store needs it that knows no ranges of keys.
    one_lister: bool = False
    properties: PropertySettings = PropertySettings()
    #: Write a small object to the destination, and delete it, before anything is made.
    probe_write: bool = False
    selection: Selection = Selection()
    #: Objects from this size on are copied by parts, and the size of these, in bytes.
    multipart_bytes: int = 1024**3
    part_bytes: int = 256 * 1024**2


class StackSettings(NamedTuple):
    """How the run's resources in AWS are made."""

    #: MaximumConcurrency of the copy mapping.
    copy_workers: int = 6
    #: MaximumConcurrency of the list mapping.
    list_workers: int = 2
    memory_mib: int = 512
    timeout_seconds: int = 120
    #: A role to use instead of making one.
    role_arn: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    #: Leave everything in place at the end.
    keep: bool = False
    #: Leave everything in place where something failed.
    keep_failed: bool = False
    #: Most COPY requests a second, of all workers together; None for no limit of ours.
    max_rate: int | None = None
    #: ARNs of KMS keys that objects of the source are encrypted with, beside the bucket's own.
    source_kms_keys: tuple[str, ...] = ()


class LocalSettings(NamedTuple):
    """How the local engine works."""

    processes: int = 1
    #: Most COPY requests a second, of all processes together; None for no limit of ours.
    max_rate: int | None = None


class LifeSettings(NamedTuple):
    """What becomes of a run when it is queued, and when it ends."""

    #: Return once the work is queued.
    detach: bool = False
    #: Where to write what failed.
    failures: Path | None = None


class OutputSettings(NamedTuple):
    """How the command speaks."""

    json: bool = False
    progress: bool = True
    quiet: bool = False
    verbose: int = 0

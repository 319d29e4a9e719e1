"""What becomes of an object's properties: an explicit policy, and the headers that say so to S3. Pure.

Where a policy says nothing, nothing is sent, and S3 does what it does by itself: metadata, content headers, tags and
annotations are kept; storage class, encryption and ACL are those of a new object.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from s3bulkcopy.worker.urls import encoded
from s3bulkcopy.worker.xml import unescaped

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What a policy calls the values that each object brings along.
PRESERVE = "preserve"

#: Storage classes that a listing may show and a copy to a general purpose bucket may ask for (S3 API reference, CopyObject).
STORAGE_CLASSES = (
    "STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE",
    "REDUCED_REDUNDANCY",
)  # fmt: skip

#: Headers that belong to an object's metadata, beside its user metadata.
CONTENT_HEADERS = (
    "content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires",
)  # fmt: skip

#: Algorithms of the checksums that S3 keeps of objects (S3 API reference, CopyObject and CreateMultipartUpload).
CHECKSUM_ALGORITHMS = (
    "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256", "SHA512", "MD5", "XXHASH64", "XXHASH3", "XXHASH128",
)  # fmt: skip

Pairs = tuple[tuple[str, str], ...]


class Policy(NamedTuple):
    """What a job's copies are to be like; every default is what S3 does by itself."""

    #: A storage class, or `preserve`; empty for STANDARD.
    storage_class: str = ""
    #: `AES256`, `aws:kms` or `aws:kms:dsse`; empty for the destination bucket's default.
    sse: str = ""
    kms_key_id: str = ""
    #: Whether KMS is asked for a bucket's keys, not for each object's; None for the bucket's default.
    bucket_key: bool | None = None
    #: A canned ACL, or `preserve`; empty for that of a new object.
    acl: str = ""
    #: `copy`, `drop` or `replace`, the last by `tag_set`.
    tags: str = "copy"
    tag_set: Pairs = ()
    #: `copy`, or `replace` by `entries` and `content_headers`.
    metadata: str = "copy"
    entries: Pairs = ()
    #: Content-Type and its kin, by their names in lower case.
    content_headers: Pairs = ()
    checksum_algorithm: str = ""
    #: `copy` or `drop`.
    annotations: str = "copy"
    #: Whether we pay for requests where a bucket's owner does not.
    request_payer: bool = False
    #: The accounts that must own the buckets; empty for whoever does.
    source_owner: str = ""
    destination_owner: str = ""

    @property
    def preserves_class(self) -> bool:
        """Tell whether each object keeps its storage class."""
        return self.storage_class == PRESERVE

    @property
    def preserves_acl(self) -> bool:
        """Tell whether each object keeps its ACL."""
        return self.acl == PRESERVE


#: What S3 does by itself.
DEFAULT = Policy()


def copy_headers(policy: Policy) -> dict[str, str]:
    """Give the headers that a CopyObject has for a policy, the same for every object.

    >>> copy_headers(Policy())
    {}
    >>> copy_headers(Policy(tags="drop", destination_owner="123456789012"))
    {'x-amz-expected-bucket-owner': '123456789012', 'x-amz-tagging-directive': 'REPLACE'}
    """
    headers = destination_headers(policy) | _of_new_object(policy)
    if policy.source_owner:
        headers["x-amz-source-expected-bucket-owner"] = policy.source_owner
    if policy.tags != "copy":
        headers["x-amz-tagging-directive"] = "REPLACE"
    if policy.metadata == "replace":
        headers["x-amz-metadata-directive"] = "REPLACE"
    if policy.annotations == "drop":
        headers["x-amz-object-annotation-directive"] = "EXCLUDE"
    return headers


def new_object_headers(policy: Policy, storage_class: str = "") -> dict[str, str]:
    """Give the headers with which a CreateMultipartUpload makes a new object that is as a policy says.

    Only what the policy itself says: what it copies from the source is for whoever makes the object to add. `storage_class` is
    the source's, for a policy that preserves it.
    """
    return destination_headers(policy) | _of_new_object(policy) | class_headers(policy, storage_class)


def class_headers(policy: Policy, storage_class: str) -> dict[str, str]:
    """Give the header that keeps an object's own storage class, if that is to be kept and a copy can ask for it."""
    if not policy.preserves_class or storage_class not in STORAGE_CLASSES:
        return {}
    return {"x-amz-storage-class": storage_class}


def source_headers(policy: Policy) -> dict[str, str]:
    """Give the headers that requests to the source bucket have: lists, and reading an object's ACL."""
    return _pinned(policy.source_owner, policy)


def destination_headers(policy: Policy) -> dict[str, str]:
    """Give the headers that requests to the destination bucket have, whatever they are about."""
    return _pinned(policy.destination_owner, policy)


def _pinned(owner: str, policy: Policy) -> dict[str, str]:
    headers = {"x-amz-expected-bucket-owner": owner} if owner else {}
    return headers | ({"x-amz-request-payer": "requester"} if policy.request_payer else {})


def _of_new_object(policy: Policy) -> dict[str, str]:
    """Give what makes a new object as the policy says, in whatever way it is made."""
    bucket_key = "" if policy.bucket_key is None else str(policy.bucket_key).lower()
    said = {
        "x-amz-storage-class": "" if policy.preserves_class else policy.storage_class,
        "x-amz-server-side-encryption": policy.sse,
        "x-amz-server-side-encryption-aws-kms-key-id": policy.kms_key_id,
        "x-amz-server-side-encryption-bucket-key-enabled": bucket_key,
        "x-amz-acl": "" if policy.preserves_acl else policy.acl,
        "x-amz-checksum-algorithm": policy.checksum_algorithm,
        "x-amz-tagging": tagging(policy.tag_set) if policy.tags == "replace" else "",
    }
    if policy.metadata == "replace":
        said |= {f"x-amz-meta-{name.lower()}": value for name, value in policy.entries}
        said |= dict(policy.content_headers)
    return {name: value for name, value in said.items() if value or name.startswith("x-amz-meta-")}


def tagging(tags: Iterable[tuple[str, str]]) -> str:
    """Write tags as x-amz-tagging has them.

    >>> tagging([("team", "a b"), ("é", "1=2")])
    'team=a%20b&%C3%A9=1%3D2'
    """
    return "&".join(f"{encoded(key)}={encoded(value)}" for key, value in tags)


# ----------------------------------------------------------------------------------------------------------------- ACLs

#: What a permission of an object's ACL is called in a header (S3 user guide, "ACL overview").
_GRANT_HEADERS = {
    "FULL_CONTROL": "x-amz-grant-full-control",
    "READ": "x-amz-grant-read",
    "READ_ACP": "x-amz-grant-read-acp",
    "WRITE_ACP": "x-amz-grant-write-acp",
}
_GRANT = r"(?s)<Grant>(.*?)</Grant>"
_PERMISSION = r"<Permission>\s*([A-Z_]+)\s*</Permission>"
_GRANTEE = r"<(ID|URI)>\s*([^<]*?)\s*</(?:ID|URI)>"


def grant_headers(body: bytes) -> dict[str, str]:
    """Give the headers that make an ACL as a GetObjectAcl answer shows it; raises ValueError for what is none.

    An ACL that grants nothing, not even its owner anything, cannot be asked for: it becomes the canned `private`.
    """
    text = body.decode("utf-8", "replace")
    if "<AccessControlPolicy" not in text[:400] or not text.rstrip().endswith("</AccessControlPolicy>"):
        raise ValueError("what is no ACL")  # it may be the object itself
    granted: dict[str, list[str]] = {}
    for grant in re.finditer(_GRANT, text):
        permission, grantee = re.search(_PERMISSION, grant[1]), re.search(_GRANTEE, grant[1])
        if permission is None or grantee is None or permission[1] not in _GRANT_HEADERS:
            raise ValueError(f"with a grant that no header can name: {grant[1][:200]}")
        granted.setdefault(_GRANT_HEADERS[permission[1]], []).append(f'{grantee[1].lower()}="{unescaped(grantee[2])}"')
    return {name: ", ".join(grantees) for name, grantees in granted.items()} or {"x-amz-acl": "private"}


# ---------------------------------------------------------------------------------------------------------------- wire


def words(policy: Policy) -> dict[str, Any]:
    """Give what a policy says beyond the defaults, as JSON has it."""
    said = zip(Policy._fields, policy, DEFAULT, strict=True)
    return {name: value for name, value, default in said if value != default}


def described(policy: Policy) -> str:
    """Say for people what a policy asks for that S3 does not do by itself; who owns the buckets is not among it.

    >>> described(Policy(storage_class="GLACIER_IR", tags="replace", tag_set=(("a", "b"),), request_payer=True))
    'storage class GLACIER_IR, tags replace, tag set a=b, request payer'
    """
    said = words(policy._replace(source_owner="", destination_owner=""))
    return ", ".join(f"{name.replace('_', ' ')}{_shown(value)}" for name, value in said.items())


#: Options that are called otherwise than what they say of a policy.
_OPTIONS = {
    "kms_key_id": "--sse-kms-key-id",
    "tag_set": "--object-tag",
    "entries": "--metadata-entry",
    "source_owner": "--expected-source-owner",
    "destination_owner": "--expected-destination-owner",
}


def options_of(policy: Policy) -> list[str]:
    """Name the options by which a policy asks for what S3 does not do by itself; content headers come with --metadata.

    >>> options_of(Policy(storage_class="GLACIER_IR", metadata="replace", content_headers=(("expires", "0"),)))
    ['--storage-class', '--metadata']
    """
    return [_OPTIONS.get(name, f"--{name.replace('_', '-')}") for name in words(policy) if name != "content_headers"]


def _shown(value: str | bool | Pairs) -> str:  # noqa: FBT001 - one value of a policy
    if isinstance(value, tuple):
        return " " + " ".join(f"{key}={text}" for key, text in value)
    return {True: "", False: " off"}[value] if isinstance(value, bool) else f" {value}"


def read_words(data: dict[str, Any]) -> Policy:
    """Read what `words` gave; raises TypeError for what has another shape."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        default = getattr(DEFAULT, name) if name in Policy._fields else None
        if isinstance(default, tuple):
            found[name] = tuple((_text(key), _text(text)) for key, text in value)
        elif type(value) is not (bool if name == "bucket_key" else type(default)):
            raise TypeError(f"{name} is no {type(default).__name__}")
        else:
            found[name] = value
    return Policy(**found)


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"a {type(value).__name__} in place of a text")
    return value

"""The command line's options, in groups; each group gives one settings value."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from s3bulkcopy.settings import (
    AwsSettings,
    BucketPrefix,
    CopySettings,
    LifeSettings,
    LocalSettings,
    OutputSettings,
    PropertySettings,
    Selection,
    StackSettings,
)
from s3bulkcopy.worker.properties import CHECKSUM_ALGORITHMS, CONTENT_HEADERS, PRESERVE, STORAGE_CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: Options that the lambda engine alone has.
_STACK_NAMES = (
    "workers", "list_workers", "memory", "function_timeout", "role_arn", "tags", "source_kms_keys", "keep", "keep_failed",
    "detach",
)  # fmt: skip

#: What stands before a pattern in a Selection, by its option; and where a context keeps the order in which they were given.
_SIGNS = {"exclude": "-", "include": "+"}
_ORDER = "s3bulkcopy.order"

#: What options stand under in the help, in this order.
_HEADINGS = (
    "Options", "What to copy", "How copies look", "Engine and speed", "Lambda engine", "Trying and stopping",
    "AWS and credentials", "Output and help",
)  # fmt: skip

#: How long a moment is as it is written.
_MOMENT_CHARACTERS = len("2026-01-31T12:00:00")
#: What the variables of options begin with.
_PREFIX = "S3BULKCOPY_"

F = TypeVar("F", bound="Callable[..., Any]")

#: Largest key, and so largest prefix, in bytes of UTF-8.
_MAX_PREFIX_BYTES = 1024

#: General purpose bucket names (S3 user guide, "Bucket naming rules").
_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9](?!.*\.\.)[a-z0-9.-]{1,61}[a-z0-9]")
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
#: An access point of one region, with a prefix behind it (S3 user guide, "Referencing access points").
_ACCESS_POINT = re.compile(r"(arn:aws[a-z-]*:s3:[a-z0-9-]+:\d{12}:accesspoint[/:][a-z0-9-]+)(?:/(.*))?", re.DOTALL)
_KMS_KEY = re.compile(
    r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(?:key|alias)/[\w/-]+|alias/[\w/-]+|(?:mrk-)?[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
_KMS_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+")
#: A name that a header may have (RFC 9110, token).
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: Most bytes of user metadata, names and values together, and most tags of an object (S3 user guide).
_MAX_METADATA_BYTES, _MAX_OBJECT_TAGS = 2048, 10
_CANNED_ACLS = (
    "private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read", "bucket-owner-read",
    "bucket-owner-full-control",
)  # fmt: skip
_DIRECTORY_BUCKET = re.compile(r".*--[a-z0-9-]+--x-s3$")


class BucketPrefixType(click.ParamType[BucketPrefix]):
    """`bucket`, `s3://bucket`, `s3://bucket/prefix`, or `ACCESS-POINT-ARN/prefix`."""

    name = "location"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> BucketPrefix:  # noqa: ANN401
        """Read a location; says what is wrong with it."""
        if isinstance(value, BucketPrefix):
            return value
        text = str(value)
        if text.removeprefix("s3://").startswith("arn:"):
            return self._access_point(text.removeprefix("s3://"), param, ctx)
        scheme, colon, rest = text.partition("://")
        if text.startswith(("./", "../", "/", "~")) or text in (".", ".."):
            cause = "is a place on this machine, and only what is in S3 is copied, to S3"
            self.fail(f"{text!r} {cause}: write s3://bucket/prefix (`aws s3 sync` uploads and downloads)", param, ctx)
        if colon and scheme.lower() != "s3":
            self.fail(f"{text!r} is not in S3: write s3://bucket/prefix", param, ctx)
        bucket, _, prefix = (rest if colon else text).partition("/")
        if prefix and not colon:
            self.fail(f"{text!r}: a prefix needs the scheme: write s3://{text}", param, ctx)
        if _DIRECTORY_BUCKET.fullmatch(bucket):
            cause = "is a directory bucket, which lists its keys in no order and from no key on"
            self.fail(f"{bucket!r} {cause}: `aws s3 sync` copies it, one page after another", param, ctx)
        if not _BUCKET.fullmatch(bucket):
            rule = "3 to 63 lower-case letters, digits, dots and hyphens, with a letter or digit at both ends"
            self.fail(f"{bucket!r} is not a valid bucket name ({rule})", param, ctx)
        return BucketPrefix(bucket, self._checked(prefix, param, ctx))

    def _access_point(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> BucketPrefix:
        found = _ACCESS_POINT.fullmatch(text)
        if found is None:
            wrong = {"s3-object-lambda": "an Object Lambda access point", "s3-outposts": "on Outposts"}
            kind = wrong.get(text.split(":")[2] if text.count(":") > 1 else "")
            if kind is None and ".mrap" in text:
                kind = "a multi-region access point"
            cause = f"is {kind}, to which nothing can be copied with S3's usual signature" if kind else "is no access point"
            self.fail(f"{text!r} {cause}: write arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/prefix", param, ctx)
        return BucketPrefix(found[1].replace("accesspoint:", "accesspoint/"), self._checked(found[2] or "", param, ctx))

    def _checked(self, prefix: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if len(prefix.encode("utf-8", "surrogateescape")) > _MAX_PREFIX_BYTES:
            self.fail(f"the prefix has more than {_MAX_PREFIX_BYTES} bytes, the longest that a key may be", param, ctx)
        return prefix


class EndpointType(click.ParamType[str]):
    """The URL of an endpoint: `https://host`, `http://host:9000`; few stores have a path behind it."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Check an endpoint; says what is wrong with it."""
        from urllib.parse import urlsplit  # noqa: PLC0415 - seldom needed, and slow to import

        text = str(value)
        scheme, colon, rest = text.rpartition("://")
        if scheme.lower() not in ("http", "https"):
            cause = f"speaks {scheme}, and S3 is spoken over HTTP" if colon else "has no scheme"
            self.fail(f"{text!r} {cause}: write https://{rest}, or http://{rest} if it has no TLS", param, ctx)
        try:
            parts = urlsplit(text)
            if not parts.hostname or parts.port == 0 or parts.username or parts.query or parts.fragment:
                raise ValueError("not just a host, or a host and a port")
        except ValueError as error:
            self.fail(f"{text!r}: {error}; write {scheme}://HOST or {scheme}://HOST:PORT", param, ctx)
        return text


class TagType(click.ParamType[tuple[str, str]]):
    """`KEY=VALUE`, as AWS takes it for tags, those of objects among them."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:  # noqa: ANN401
        """Read a tag; says what is wrong with it."""
        if isinstance(value, tuple):
            return value
        key, equals, content = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is not a tag: write KEY=VALUE", param, ctx)
        if key.lower().startswith(("aws:", "s3bulkcopy:")):
            self.fail(f"{key!r}: tags that begin with 'aws:' and 's3bulkcopy:' are taken", param, ctx)
        if len(key) > 128 or len(content) > 256 or not all(map(_is_tag_text, (key, content))):  # noqa: PLR2004 - see below
            rule = "key up to 128 and value up to 256 letters, digits, spaces and _ . : / = + - @"
            self.fail(f"{value!r} is not a tag that every service takes ({rule})", param, ctx)
        return key, content


class MetadataType(click.ParamType[tuple[str, str]]):
    """`KEY=VALUE`, as a header may have it."""

    name = "entry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:  # noqa: ANN401
        """Read an entry; says what is wrong with it."""
        if isinstance(value, tuple):
            return value
        name, equals, content = str(value).partition("=")
        if not equals or not _TOKEN.fullmatch(name):
            self.fail(f"{value!r} is no metadata: write KEY=VALUE, the key in letters, digits and -", param, ctx)
        return name.removeprefix("x-amz-meta-"), HeaderType().convert(content, param, ctx)


class HeaderType(click.ParamType[str]):
    """A value that a header may have."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Refuse what S3 would store in another form, or not at all."""
        text = str(value)
        if not (text.isascii() and (text.isprintable() or not text)) or text != text.strip():
            self.fail(f"{text!r}: a header holds printable ASCII, without blanks at the ends", param, ctx)
        return text


def _in_utc(moment: datetime) -> datetime:
    """Give a time in UTC, which one without a zone is taken to be in."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class DateType(click.ParamType[str]):
    """A time, as HTTP or ISO 8601 writes it; as HTTP writes it."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Read a time; one without a zone is in UTC."""
        from email.utils import format_datetime, parsedate_to_datetime  # noqa: PLC0415 - seldom needed, and slow to import

        for read in (parsedate_to_datetime, datetime.fromisoformat):
            try:
                found = read(str(value))
            except ValueError:
                continue
            return format_datetime(_in_utc(found), usegmt=True)
        return self.fail(f"{value!r} is no date: write 2027-01-31, 2027-01-31T12:00:00Z or as HTTP does", param, ctx)


class PatternType(click.ParamType[str]):
    """A text of one form."""

    def __init__(self, name: str, pattern: re.Pattern[str], example: str) -> None:
        """Take what it is called, its form, and one that has it."""
        self.name = name
        self._pattern, self._example = pattern, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Check the form."""
        text = str(value)
        if not self._pattern.fullmatch(text):
            self.fail(f"{text!r} is not {self.name}: write {self._example}", param, ctx)
        return text


def _is_tag_text(text: str) -> bool:
    return all(c.isalnum() or c in " _.:/=+-@" for c in text)


class DurationType(click.ParamType[float]):
    """A number of seconds, minutes, hours or days: `30s`, `15m`, `12h`, `2d`."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Read a duration, as seconds."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value))
        if not found:
            self.fail(f"{value!r} is not an age: write 30s, 15m, 12h or 2d", param, ctx)
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}[found[2]]


class SizeType(click.ParamType[int]):
    """A number of bytes: `500`, `10KiB`, `10MB`, `1.5GiB`."""

    name = "size"

    def __init__(self, least: int = 0, most: int | None = None) -> None:
        """Take sizes between two, both inclusive."""
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Read a size, as bytes."""
        from decimal import Decimal  # noqa: PLC0415 - seldom needed, and slow to import

        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([KMGTP])(i?)B?|B)?", str(value), re.IGNORECASE)
        if not found:
            self.fail(f"{value!r} is not a size: write bytes, or 10KiB, 10MiB, 1.5GiB (of 1024), 10MB (of 1000)", param, ctx)
        number, unit, binary = found.groups()
        factor = (1024 if binary else 1000) ** ("KMGTP".index(unit.upper()) + 1) if unit else 1
        size = Decimal(number) * factor
        if size != int(size):
            self.fail(f"{value!r} is no whole number of bytes", param, ctx)
        # Tests have objects of many parts that are small.
        least = 1 if self._least and os.environ.get("S3BULKCOPY_TINY_PARTS") else self._least
        if self._most is not None and not least <= size <= self._most:
            self.fail(f"{value!r} is not between {self._least:,} and {self._most:,} bytes", param, ctx)
        return int(size)


class MomentType(click.ParamType[str]):
    """A date (`2026-01-31`, `2026-01-31T12:00:00Z`; UTC unless it says otherwise), or an age before now (`12h`, `7d`, `2w`)."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Read a moment, as `2026-01-31T12:00:00` in UTC: an age counts from when the command is given."""
        text = str(value)
        try:
            if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text):
                name = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[found[2]]
                moment = datetime.now(UTC) - timedelta(**{name: float(found[1])})
            else:
                moment = _in_utc(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r} is no date and no age: write 2026-01-31, 2026-01-31T12:00:00Z, or 30m, 12h, 7d, 2w", param, ctx
            )
        return moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(_MOMENT_CHARACTERS, "0")


class GlobType(click.ParamType[str]):
    """A pattern of keys, as `docs/filters.md` has it."""

    name = "pattern"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Check a pattern; says what is wrong with it."""
        from s3bulkcopy.worker.filters import BadPattern, glob_expression  # noqa: PLC0415 - most runs have no filter

        text = str(value)
        try:
            glob_expression(text)
        except BadPattern as error:
            self.fail(f"{text!r}: {error}", param, ctx)
        return text


class ExpressionType(click.ParamType[str]):
    """A regular expression."""

    name = "regex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Check a regular expression; says what is wrong with it."""
        try:
            re.compile(str(value))
        except re.error as error:
            self.fail(f"{value!r} is no regular expression: {error}", param, ctx)
        return str(value)


class StorageClassType(click.ParamType[str]):
    """The name of a storage class; a store may have others than S3."""

    name = "class"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Check the form of a name."""
        name = str(value).upper()
        if not re.fullmatch(r"[A-Z0-9_-]+", name):
            self.fail(f"{value!r} is not a storage class: write STANDARD, STANDARD_IA, GLACIER, ...", param, ctx)
        return name


class NewFileType(click.ParamType[Path]):
    """A file that can be written: what is there is replaced."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ANN401
        """Look whether it can be, before anything is done."""
        path = Path(value)
        if path.exists() and not path.is_file():  # a file in place of /dev/null is nothing to come home to
            self.fail(f"{str(path)!r} is no file", param, ctx)
        if not os.access(path.parent, os.W_OK):
            self.fail(f"the folder {str(path.parent)!r} is not there, or may not be written", param, ctx)
        return path


class _Option(click.Option):
    """An option that the help shows under a heading."""

    def __init__(self, *names: Any, heading: str, **settings: Any) -> None:  # noqa: ANN401 - click's own arguments
        super().__init__(*names, **settings)
        self.heading = heading


def _option(*names: str, **settings: Any) -> partial[Callable[[Any], Any]]:  # noqa: ANN401 - click's own arguments
    """Make an option with an environment variable of its name; its heading is given by _under."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = _PREFIX + long.removeprefix("--").replace("-", "_").upper()
    return partial(click.option, *names, cls=_Option, envvar=variable, show_envvar=True, **settings)


def _under(heading: str, *options: partial[Callable[[Any], Any]]) -> Callable[[F], F]:
    return _together(*(option(heading=heading) for option in options))


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def locations(command: F) -> F:
    """SRC and DST."""
    for name in ("destination", "source"):
        metavar = "SRC" if name == "source" else "DST"
        command = click.argument(name, type=BucketPrefixType(), metavar=metavar)(command)
    return command


aws_options = _under(
    "AWS and credentials",
    _option("--region", help="Region of the run's resources. `run` takes the destination bucket's and needs none."),
    _option("--profile", help="Profile of the AWS configuration."),
    _option("--endpoint-url", type=EndpointType(), help="Speak to this endpoint in place of AWS."),
)

#: A part, which may be as large as what one CopyObject copies (S3 user guide, "Multipart upload limits").
_PART_BYTES = SizeType(5 * 1024**2, 5 * 1024**3)

copy_options = _together(
    _under(
        "What to copy",
        _option("--no-overwrite", is_flag=True,
                help="Skip objects that already exist at the destination (If-None-Match), and count them as skipped."),
    ),
    _under(
        "Engine and speed",
        _option("--max-rate", type=click.IntRange(1), metavar="N",
                help="Most COPY requests a second, of all workers together."),
        _option("--batch-size", type=click.IntRange(1, 5000), default=1000, show_default=True, metavar="KEYS",
                help="Most keys in one copy message; it ends earlier where keys are long or objects large."),
        _option("--multipart-threshold", type=_PART_BYTES, default="1GiB", show_default=True, metavar="SIZE",
                help="Copy objects from this size on by parts (5MiB to 5GiB)."),
        _option("--part-size", type=_PART_BYTES, default="256MiB", show_default=True, metavar="SIZE",
                help="Size of these parts (5MiB to 5GiB); larger where an object would have more than 10,000."),
        _option("--one-lister", is_flag=True,
                help="List page after page, for a store that cannot be listed in ranges of keys; needs --engine local."),
    ),
    _under(
        "Trying and stopping",
        _option("--dry-run", is_flag=True,
                help="List and count what would be copied, from this machine, and copy nothing."),
        _option("--max-failures", type=click.IntRange(0), metavar="N", help="Stop once more than N objects have failed."),
    ),
)  # fmt: skip

_ACCOUNT = PatternType("an account", re.compile(r"\d{12}"), "its 12 digits")

property_options = _together(
    _under(
        "How copies look",
        _option("--storage-class", type=click.Choice([*STORAGE_CLASSES, PRESERVE]), metavar="CLASS",
                help=f"Storage class of the copies: {', '.join(STORAGE_CLASSES)}; or preserve: each keeps its own. STANDARD by "
                "default."),
        _option("--sse", type=click.Choice(["AES256", "aws:kms", "aws:kms:dsse"]),
                help="Encryption of the copies; the destination bucket's default without it."),
        _option("--sse-kms-key-id", "kms_key_id", metavar="KEY",
                type=PatternType("a KMS key", _KMS_KEY, "its ARN, its id, or alias/NAME"),
                help="KMS key of the copies: ARN, id or alias. Means --sse aws:kms unless that is said."),
        _option("--bucket-key/--no-bucket-key", default=None,
                help="Whether KMS is asked for a key of the bucket, not for each object's; the bucket's default without it."),
        _option("--acl", type=click.Choice([*_CANNED_ACLS, PRESERVE]), metavar="ACL",
                help=f"ACL of the copies: {', '.join(_CANNED_ACLS)}; that of a new object without it. preserve: each keeps its "
                "own, which costs a request more for each object (GetObjectAcl)."),
        _option("--tags", "object_tags", type=click.Choice(["copy", "drop", "replace"]), default="copy", show_default=True,
                help="Tags of the objects; replace: by --object-tag."),
        _option("--object-tag", "tag_set", type=TagType(), multiple=True, metavar="KEY=VALUE",
                help="A tag of each copy, with --tags replace; may be given again, up to ten times."),
        _option("--metadata", type=click.Choice(["copy", "replace"]), default="copy", show_default=True,
                help="User metadata and content headers. replace: all of them, by --metadata-entry and --content-type to "
                "--expires; what is not given is gone, and the content type then is binary/octet-stream."),
        _option("--metadata-entry", "entries", type=MetadataType(), multiple=True, metavar="KEY=VALUE",
                help="User metadata of each copy; may be given again. Needs --metadata replace."),
        *(
            _option(f"--{name}", type=DateType() if name == "expires" else HeaderType(),
                    help=f"{name.title()} of each copy; needs --metadata replace.")
            for name in CONTENT_HEADERS
        ),
        _option("--checksum-algorithm", type=click.Choice(CHECKSUM_ALGORITHMS), metavar="ALGORITHM",
                help=f"Checksum that S3 keeps of the copies: {', '.join(CHECKSUM_ALGORITHMS)}; the sources' by default."),
        _option("--annotations", type=click.Choice(["copy", "drop"]), default="copy", show_default=True,
                help="Annotations of the objects."),
    ),
    _under(
        "AWS and credentials",
        _option("--request-payer", is_flag=True, help="Pay for requests to a bucket whose owner does not (requester pays)."),
        _option("--expected-source-owner", "source_owner", type=_ACCOUNT, metavar="ACCOUNT",
                help="Go on only as long as the source bucket belongs to this account."),
        _option("--expected-destination-owner", "destination_owner", type=_ACCOUNT, metavar="ACCOUNT",
                help="The same for the destination; your own account by default, if the bucket is its."),
    ),
    _under(
        "Trying and stopping",
        _option("--probe-write", is_flag=True,
                help="Before anything is made, write a small object to the destination, and delete it, as you."),
    ),
)  # fmt: skip

engine_options = _under(
    "Engine and speed",
    _option("--engine", type=click.Choice(["lambda", "local"]), default="lambda", show_default=True,
            help="Where workers run: in AWS Lambda, or as processes on this machine."),
    _option("--processes", type=click.IntRange(1, 256), metavar="N",
            help="Worker processes of the local engine; one for each core by default."),
)  # fmt: skip

stack_options = _under(
    "Lambda engine",
    _option("--workers", type=click.IntRange(2, 1000), default=6, show_default=True, metavar="N",
            help="Most copy functions at a time (MaximumConcurrency of the copy mapping)."),
    _option("--list-workers", type=click.IntRange(2, 1000), default=2, show_default=True, metavar="N",
            help="Most list functions at a time."),
    _option("--memory", type=click.IntRange(128, 10240), default=512, show_default=True, metavar="MIB",
            help="Memory of each function; its processor share grows with it."),
    _option("--function-timeout", type=click.IntRange(10, 900), default=120, show_default=True, metavar="SECONDS",
            help="Time limit of one invocation. A killed worker's message comes back 30 seconds after it."),
    _option("--role-arn", type=PatternType("the ARN of a role", _ROLE_ARN, "arn:aws:iam::ACCOUNT:role/NAME"), metavar="ARN",
            help="Use this role for the functions in place of making one."),
    _option("--tag", "tags", type=TagType(), multiple=True, help="Tag the run's resources; may be given again."),
    _option("--source-kms-key", "source_kms_keys", multiple=True, metavar="ARN",
            type=PatternType("the ARN of a KMS key", _KMS_KEY_ARN, "arn:aws:kms:REGION:ACCOUNT:key/ID"),
            help="A KMS key that objects of the source are encrypted with, beside the bucket's own; may be given again."),
    _option("--keep", is_flag=True, help="Leave the run's resources in place at the end."),
    _option("--keep-failed", is_flag=True,
            help="Leave them in place if something failed: for a look into logs and dead letters, and `retry`."),
)  # fmt: skip

filter_options = _under(
    "What to copy",
    _option("--include", type=GlobType(), multiple=True, metavar="PATTERN",
            help="Copy keys that match: * is any text, / included. The last that matches decides; see docs/filters.md."),
    _option("--exclude", type=GlobType(), multiple=True, metavar="PATTERN", help="Leave out keys that match."),
    _option("--filter-regex", type=ExpressionType(), metavar="REGEX",
            help="Copy only keys in which this is found, behind SRC's prefix."),
    _option("--min-size", type=SizeType(), metavar="SIZE", help="Copy only objects of at least 500, 10KiB, 1GB, ..."),
    _option("--max-size", type=SizeType(), metavar="SIZE", help="Copy only objects of at most so many bytes."),
    _option("--newer-than", type=MomentType(), metavar="WHEN",
            help="Copy only what was modified at or after a date (UTC), or within the last 12h, 7d, 2w."),
    _option("--older-than", type=MomentType(), metavar="WHEN",
            help="Copy only what was modified before a date (UTC), or longer ago than an age."),
    _option("--source-storage-class", type=StorageClassType(), multiple=True, metavar="CLASS",
            help="Copy only objects of this storage class; may be given again."),
    _option("--limit", type=click.IntRange(1), metavar="N",
            help="Stop after exactly N objects, the first in the order of keys; one worker lists them, page after page."),
    _option("--keys-from", metavar="FILE",
            help="Copy the keys that a file or s3://bucket/key names, and list nothing: a key a line, JSON lines (.jsonl), "
            "CSV (.csv) or the manifest.json of an S3 Inventory."),
    _option("--force-archived", is_flag=True, help="Try archived objects (GLACIER, DEEP_ARCHIVE), too, restored or not."),
    _option("--skip-archived", is_flag=True, help="End with code 0 although archived objects were skipped."),
)  # fmt: skip


def as_first_run(command: F) -> F:
    """Have the options say it whose default is what the run had that is retried."""
    for parameter in getattr(command, "__click_params__", ()):
        if parameter.name in ("engine", "batch_size", "no_overwrite"):
            parameter.show_default = "as the first run's"
    return command


def unknown_variables(group: click.Group, variables: Iterable[str]) -> dict[str, str]:
    """Give those of our variables that no option has, each with the one that is most like it; with nothing where none is.

    >>> unknown_variables(click.Group(), ["S3BULKCOPY_STATEDIR", "HOME"])
    {'S3BULKCOPY_STATEDIR': 'S3BULKCOPY_STATE_DIR'}
    """
    options = (parameter for command in group.commands.values() for parameter in command.params)
    known = {"STATE_DIR"} | {str(option.envvar).removeprefix(_PREFIX) for option in options if option.envvar}
    unknown = [name for name in variables if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) not in known]
    if not unknown:
        return {}
    from difflib import get_close_matches  # noqa: PLC0415 - seldom needed

    nearest = {name: get_close_matches(name.removeprefix(_PREFIX), sorted(known), 1) for name in unknown}
    return {name: _PREFIX + found[0] if found else "" for name, found in nearest.items()}


detach_option = _under(
    "Lambda engine",
    _option("--detach", is_flag=True, help="Return once the work is queued; the run goes on in AWS, and `attach` follows it."),
)

failures_option = _under(
    "Output and help",
    _option("--failures", type=NewFileType(), metavar="FILE",
            help="At the end, write what failed to FILE, for people and `retry`."),
)  # fmt: skip

output_options = _under(
    "Output and help",
    _option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
            help="json: one JSON object a line on stdout."),
    _option("--no-progress", is_flag=True, help="No bars and no progress lines."),
    _option("--quiet", "-q", is_flag=True, help="Only errors and one line at the end."),
    _option("--verbose", "-v", count=True, help="Say more of what is done; twice for AWS calls."),
)  # fmt: skip


def aws_settings(values: dict[str, Any]) -> AwsSettings:
    """Take the AWS group out of a command's values."""
    return AwsSettings(values.pop("region"), values.pop("profile"), values.pop("endpoint_url"))


class Command(click.Command):
    """A command whose help shows options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each heading that has options."""
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in _HEADINGS}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                default = _HEADINGS[-1] if "--help" in parameter.opts else _HEADINGS[0]
                sections[getattr(parameter, "heading", default)].append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class Commands(click.Group):
    """Commands whose help shows options under headings."""

    command_class = Command


class CopyCommand(Command):
    """A command that knows in which order --include and --exclude were given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take down the order, and parse."""
        _, _, order = self.make_parser(ctx).parse_args(args=[*args])
        ctx.meta[_ORDER] = [parameter.name for parameter in order if parameter.name in _SIGNS]
        return super().parse_args(ctx, args)


def selection(values: dict[str, Any]) -> Selection:
    """Take the filter group out of a command's values; raises UsageError for what selects nothing or contradicts itself."""
    rules = _rules({name: values.pop(name) for name in _SIGNS}, click.get_current_context().meta.get(_ORDER, ()))
    chosen = Selection(
        rules,
        values.pop("filter_regex") or "",
        values.pop("min_size") or 0,
        values.pop("max_size"),
        values.pop("newer_than") or "",
        values.pop("older_than") or "",
        tuple(dict.fromkeys(values.pop("source_storage_class"))),
        values.pop("limit"),
        values.pop("keys_from"),
        values.pop("force_archived"),
        values.pop("skip_archived"),
    )
    if chosen.max_size is not None and chosen.max_size < chosen.min_size:
        raise click.UsageError(f"no size is both --min-size {chosen.min_size} and --max-size {chosen.max_size}")
    if chosen.newer and chosen.older and chosen.older <= chosen.newer:
        raise click.UsageError(f"nothing is both newer than {chosen.newer} (--newer-than) and older than {chosen.older}")
    if chosen.force_archived and chosen.skip_archived:
        raise click.UsageError("--force-archived and --skip-archived exclude each other")
    if chosen.keys_from is not None:
        _refuse_with_keys()
    return chosen


def _refuse_with_keys() -> None:
    """Refuse what needs a listing beside --keys-from."""
    context = click.get_current_context()
    needing = ("min_size", "max_size", "newer_than", "older_than", "source_storage_class", "skip_archived", "one_lister")
    for parameter in context.command.params:
        if parameter.name in needing and context.params[parameter.name] not in (None, False, ()):
            raise click.UsageError(f"--keys-from lists nothing, and {parameter.opts[0]} needs a listing: leave one of them out")


def _rules(patterns: dict[str, Sequence[str]], order: Sequence[str]) -> tuple[str, ...]:
    """Give patterns in the order given, each behind its sign; what a variable says comes first, what excludes before the rest.

    >>> _rules({"exclude": ["*"], "include": ["a", "b"]}, ["include", "exclude", "include"])
    ('+a', '-*', '+b')
    >>> _rules({"exclude": ["*"], "include": ["a"]}, [])
    ('-*', '+a')
    """
    unordered = [name for name in _SIGNS if name not in order for _ in patterns[name]]
    waiting = {name: iter(texts) for name, texts in patterns.items()}
    return tuple(_SIGNS[name] + next(waiting[name]) for name in [*unordered, *order])


def property_settings(values: dict[str, Any]) -> PropertySettings:
    """Take the property group but --probe-write out of a command's values; raises UsageError for what does not go together."""
    sse, key, bucket_key = values.pop("sse"), values.pop("kms_key_id"), values.pop("bucket_key")
    if key and sse == "AES256":
        raise click.UsageError("--sse-kms-key-id is for --sse aws:kms; AES256 knows no key of yours")
    if bucket_key is not None and sse in ("AES256", "aws:kms:dsse"):
        raise click.UsageError(f"--bucket-key and --no-bucket-key are for --sse aws:kms; {sse} knows no bucket keys")
    tags, tag_set = values.pop("object_tags"), tuple(values.pop("tag_set"))
    _check_tags(tags, tag_set)
    headers = tuple((name, text) for name in CONTENT_HEADERS if (text := values.pop(name.replace("-", "_"))))
    metadata, entries = values.pop("metadata"), tuple((name.lower(), text) for name, text in values.pop("entries"))
    _check_metadata(metadata, entries, headers)
    return PropertySettings(
        storage_class=values.pop("storage_class") or "",
        sse=sse or ("aws:kms" if key else ""),
        kms_key_id=key or "",
        bucket_key=bucket_key,
        acl=values.pop("acl") or "",
        tags=tags,
        tag_set=tag_set,
        metadata=metadata,
        entries=entries,
        content_headers=headers,
        checksum_algorithm=values.pop("checksum_algorithm") or "",
        annotations=values.pop("annotations"),
        request_payer=values.pop("request_payer"),
        source_owner=values.pop("source_owner") or "",
        destination_owner=values.pop("destination_owner") or "",
    )


def _check_tags(tags: str, tag_set: tuple[tuple[str, str], ...]) -> None:
    if tag_set and tags != "replace":
        raise click.UsageError("--object-tag is for --tags replace: the tags that objects have are replaced then, not added to")
    if tags == "replace" and not tag_set:
        raise click.UsageError("--tags replace needs a tag: give --object-tag KEY=VALUE, or --tags drop for none")
    if len(tag_set) > _MAX_OBJECT_TAGS or len(dict(tag_set)) < len(tag_set):
        raise click.UsageError(f"an object has at most {_MAX_OBJECT_TAGS} tags, each key once")


def _check_metadata(metadata: str, entries: tuple[tuple[str, str], ...], headers: tuple[tuple[str, str], ...]) -> None:
    if (entries or headers) and metadata != "replace":
        given = "--metadata-entry" if entries else f"--{headers[0][0]}"
        raise click.UsageError(
            f"{given} needs --metadata replace: S3 keeps all metadata of an object or none, and to keep the rest each object "
            "would have to be read first. With --metadata replace every copy has what the command line says and nothing else: "
            "user metadata and other content headers that the objects have now are not kept"
        )
    if len(dict(entries)) < len(entries):
        raise click.UsageError("--metadata-entry names a key twice; capital letters make no difference")
    if sum(len(name) + len(text) for name, text in entries) > _MAX_METADATA_BYTES:
        raise click.UsageError(f"metadata has at most {_MAX_METADATA_BYTES:,} bytes, keys and values together")


def copy_settings(
    values: dict[str, Any], properties: PropertySettings | None = None, chosen: Selection | None = None
) -> CopySettings:
    """Take the copy group out of a command's values."""
    return CopySettings(
        values.pop("source"),
        values.pop("destination"),
        overwrite=not values.pop("no_overwrite"),
        batch_keys=values.pop("batch_size"),
        max_failures=values.pop("max_failures"),
        dry=values.pop("dry_run"),
        one_lister=values.pop("one_lister"),
        multipart_bytes=values.pop("multipart_threshold"),
        part_bytes=values.pop("part_size"),
        properties=properties or PropertySettings(),
        probe_write=values.pop("probe_write", False),
        selection=chosen or Selection(),
    )


def engine_settings(values: dict[str, Any], *, dry: bool = False) -> StackSettings | LocalSettings:
    """Take the engine and stack groups out of a command's values; raises UsageError for those of the other engine.

    Variables may be set for many commands, so one that says something of the other engine is named and ignored. A `dry` run is
    the local engine's whatever else is said, so that the command line that it is to try may stay as it is.
    """
    is_local = values.pop("engine") == "local" or dry
    if not dry:
        _refuse_other(_STACK_NAMES if is_local else ("processes", "one_lister"), "lambda" if is_local else "local")
    values["one_lister"] &= is_local
    processes, max_rate = values.pop("processes"), values.pop("max_rate")
    stack = _stack_settings(values, max_rate)
    return LocalSettings(processes or _processors(), max_rate) if is_local else stack


def _processors() -> int:
    """Give how many processors this process may use, or, where that is not told (macOS), how many there are."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _refuse_other(names: tuple[str, ...], engine: str) -> None:
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name not in names:
            continue
        source = context.get_parameter_source(parameter.name)
        if source is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{parameter.opts[0]} is an option of the {engine} engine: leave it out, or add --engine {engine}"
            )
        if source is ParameterSource.ENVIRONMENT and not context.params.get("quiet"):
            click.echo(f"note: {parameter.envvar} is ignored, as it is for the {engine} engine", err=True)


def _stack_settings(values: dict[str, Any], max_rate: int | None) -> StackSettings:
    return StackSettings(
        copy_workers=values.pop("workers"),
        list_workers=values.pop("list_workers"),
        memory_mib=values.pop("memory"),
        timeout_seconds=values.pop("function_timeout"),
        role_arn=values.pop("role_arn"),
        tags=values.pop("tags"),
        source_kms_keys=tuple(values.pop("source_kms_keys")),
        keep=values.pop("keep"),
        keep_failed=values.pop("keep_failed"),
        max_rate=max_rate,
    )


def life_settings(values: dict[str, Any]) -> LifeSettings:
    """Take what is to become of the run out of a command's values; those options that it has."""
    return LifeSettings(detach=values.pop("detach", False), failures=values.pop("failures", None))


def output_settings(values: dict[str, Any]) -> OutputSettings:
    """Take the output group out of a command's values."""
    if values["quiet"] and values["verbose"]:
        raise click.UsageError("--quiet and --verbose exclude each other")
    return OutputSettings(
        json=values.pop("output") == "json",
        progress=not values.pop("no_progress"),
        quiet=values.pop("quiet"),
        verbose=values.pop("verbose"),
    )

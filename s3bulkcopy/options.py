"""The command line's options, in groups; each group gives one settings value."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
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
    Selection,
    StackSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Options that the lambda engine alone has.
_STACK_NAMES = (
    "workers", "list_workers", "memory", "function_timeout", "role_arn", "tags", "keep", "keep_failed", "detach",
)  # fmt: skip

#: What stands before a pattern in a Selection, by its option; and where a context keeps the order in which they were given.
_SIGNS = {"exclude": "-", "include": "+"}
_ORDER = "s3bulkcopy.order"

#: How long a moment is as it is written.
_MOMENT_CHARACTERS = len("2026-01-31T12:00:00")

F = TypeVar("F", bound="Callable[..., Any]")

#: Largest key, and so largest prefix, in bytes of UTF-8.
_MAX_PREFIX_BYTES = 1024

#: General purpose bucket names (S3 user guide, "Bucket naming rules").
_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9](?!.*\.\.)[a-z0-9.-]{1,61}[a-z0-9]")
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
_DIRECTORY_BUCKET = re.compile(r".*--[a-z0-9-]+--x-s3$")


class BucketPrefixType(click.ParamType[BucketPrefix]):
    """`bucket`, `s3://bucket` or `s3://bucket/prefix`."""

    name = "location"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> BucketPrefix:  # noqa: ANN401
        """Read a location; says what is wrong with it."""
        if isinstance(value, BucketPrefix):
            return value
        text = str(value)
        scheme, colon, rest = text.partition("://")
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
        if len(prefix.encode("utf-8", "surrogateescape")) > _MAX_PREFIX_BYTES:
            self.fail(f"the prefix has more than {_MAX_PREFIX_BYTES} bytes, the longest that a key may be", param, ctx)
        return BucketPrefix(bucket, prefix)


class TagType(click.ParamType[tuple[str, str]]):
    """`KEY=VALUE`, as AWS takes it for tags."""

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


def _is_tag_text(text: str) -> bool:
    return all(c.isalnum() or c in " _.:/=+-@" for c in text)


class RoleArnType(click.ParamType[str]):
    """The ARN of a role."""

    name = "arn"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Check the form of an ARN; whether there is such a role, AWS says."""
        text = str(value)
        if not _ROLE_ARN.fullmatch(text):
            self.fail(f"{text!r} is not the ARN of a role (arn:aws:iam::123456789012:role/NAME)", param, ctx)
        return text


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

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Read a size, as bytes."""
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
                moment = datetime.fromisoformat(text)
                moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r} is no date and no age: write 2026-01-31, 2026-01-31T12:00:00Z, or 30m, 12h, 7d, 2w", param, ctx
            )
        return moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(_MOMENT_CHARACTERS, "0")


class PatternType(click.ParamType[str]):
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
        if path.is_dir():
            self.fail(f"{str(path)!r} is a folder", param, ctx)
        if not os.access(path.parent, os.W_OK):
            self.fail(f"the folder {str(path.parent)!r} is not there, or may not be written", param, ctx)
        return path


def _option(*names: str, **settings: Any) -> Callable[[F], F]:  # noqa: ANN401 - click's own arguments
    """Make an option with an environment variable of its name."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "S3BULKCOPY_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=True, **settings)


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


aws_options = _together(
    _option("--region", help="Region of the run's resources. `run` takes the destination bucket's and needs none."),
    _option("--profile", help="Profile of the AWS configuration."),
    _option("--endpoint-url", help="Speak to this endpoint in place of AWS."),
)

copy_options = _together(
    _option("--batch-size", type=click.IntRange(1, 5000), default=1000, show_default=True, metavar="KEYS",
            help="Most keys in one copy message; it ends earlier where keys are long or objects large."),
    _option("--no-overwrite", is_flag=True,
            help="Skip objects that already exist at the destination (If-None-Match), and count them as skipped."),
    _option("--max-rate", type=click.IntRange(1), metavar="N", help="Most COPY requests a second, of all workers together."),
    _option("--max-failures", type=click.IntRange(0), metavar="N", help="Stop once more than N objects have failed."),
    _option("--dry-run", is_flag=True,
            help="List and count what would be copied, from this machine, and copy nothing."),
    _option("--one-lister", is_flag=True,
            help="List page after page, for a store that cannot be listed in ranges of keys; needs --engine local."),
)  # fmt: skip

engine_options = _together(
    _option("--engine", type=click.Choice(["lambda", "local"]), default="lambda", show_default=True,
            help="Where workers run: in AWS Lambda, or as processes on this machine."),
    _option("--processes", type=click.IntRange(1, 256), metavar="N",
            help="Worker processes of the local engine; one for each core by default."),
)  # fmt: skip

stack_options = _together(
    _option("--workers", type=click.IntRange(2, 1000), default=6, show_default=True, metavar="N",
            help="Most copy functions at a time (MaximumConcurrency of the copy mapping)."),
    _option("--list-workers", type=click.IntRange(2, 1000), default=2, show_default=True, metavar="N",
            help="Most list functions at a time."),
    _option("--memory", type=click.IntRange(128, 10240), default=512, show_default=True, metavar="MIB",
            help="Memory of each function; its processor share grows with it."),
    _option("--function-timeout", type=click.IntRange(10, 900), default=120, show_default=True, metavar="SECONDS",
            help="Time limit of one invocation. A killed worker's message comes back 30 seconds after it."),
    _option("--role-arn", type=RoleArnType(), help="Use this role for the functions in place of making one."),
    _option("--tag", "tags", type=TagType(), multiple=True, help="Tag the run's resources; may be given again."),
    _option("--keep", is_flag=True, help="Leave the run's resources in place at the end."),
    _option("--keep-failed", is_flag=True,
            help="Leave them in place if something failed: for a look into logs and dead letters, and `retry`."),
)  # fmt: skip

filter_options = _together(
    _option("--include", type=PatternType(), multiple=True, metavar="PATTERN",
            help="Copy keys that match: * is any text, / included. The last that matches decides; see docs/filters.md."),
    _option("--exclude", type=PatternType(), multiple=True, metavar="PATTERN", help="Leave out keys that match."),
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

detach_option = _option(
    "--detach", is_flag=True, help="Return once the work is queued; the run goes on in AWS, and `attach` follows it."
)

failures_option = _option(
    "--failures", type=NewFileType(), metavar="FILE", help="At the end, write what failed to FILE, for people and `retry`."
)

output_options = _together(
    _option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
            help="json: one JSON object a line on stdout."),
    _option("--no-progress", is_flag=True, help="No bars and no progress lines."),
    _option("--quiet", "-q", is_flag=True, help="Only errors and one line at the end."),
    _option("--verbose", "-v", count=True, help="Say more of what is done; twice for AWS calls."),
)  # fmt: skip


def aws_settings(values: dict[str, Any]) -> AwsSettings:
    """Take the AWS group out of a command's values."""
    return AwsSettings(values.pop("region"), values.pop("profile"), values.pop("endpoint_url"))


class CopyCommand(click.Command):
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


def copy_settings(values: dict[str, Any]) -> CopySettings:
    """Take the copy group out of a command's values."""
    return CopySettings(
        values.pop("source"),
        values.pop("destination"),
        overwrite=not values.pop("no_overwrite"),
        batch_keys=values.pop("batch_size"),
        max_failures=values.pop("max_failures"),
        dry=values.pop("dry_run"),
        one_lister=values.pop("one_lister"),
    )


def engine_settings(values: dict[str, Any], *, dry: bool = False) -> StackSettings | LocalSettings:
    """Take the engine and stack groups out of a command's values; raises UsageError for those of the other engine.

    Variables may be set for many commands, so one that says something of the other engine is named and ignored. A `dry` run is
    the local engine's whatever else is said, so that the command line that it is to try may stay as it is.
    """
    is_local = values.pop("engine") == "local" or dry
    if not dry:
        _refuse_other(_STACK_NAMES if is_local else ("processes",), "lambda" if is_local else "local")
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
            raise click.UsageError(f"{parameter.opts[0]} is an option of the {engine} engine: add --engine {engine}")
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

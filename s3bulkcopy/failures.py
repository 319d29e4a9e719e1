"""What failed of a run, as people read it and as files keep it: what to do about it, and enough to do it again."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s3bulkcopy.errors import UsageError, cause_of
from s3bulkcopy.tally import RangeFailure
from s3bulkcopy.view import count_text, range_text
from s3bulkcopy.worker.failures import WHAT_TO_DO
from s3bulkcopy.worker.model import ARCHIVED, CopyTask, Failure, Job, Range, decode_task, encode_task, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

#: What tells a file of failures from another, and one format of it from another.
KIND, FORMAT = "failures", 1

#: What is to be done about a failure, by its code.
_ADVICE = {
    "AccessDenied": "allow s3:GetObject on the source and s3:PutObject on the destination (tags and KMS keys need their own)",
    "PreconditionFailed": "it changed again while it was copied; a retry copies what is there now",
    "InvalidObjectState": "it is archived: restore it first",
    ARCHIVED: "it is archived, and was not tried: restore it, then retry",
    "EntityTooLarge": "it is larger than S3 makes objects of parts: 50 TB",
    "EntityTooSmall": "this store wants larger parts: see --part-size",
    "InvalidRequest": "S3 does not copy it as it is: it may be encrypted with your own key",
    "MissingMetadata": "some of its metadata fit no header, and would be lost: copy it by hand",
    "KMS.DisabledException": "enable the key",
    "KMS.NotFoundException": "the object's key is gone",
    "NotImplemented": "the store lacks what this copy asks for: drop the option that asks for it",
    "SlowDown": "the store had enough for a quarter of an hour; retry with a lower --max-rate",
    **WHAT_TO_DO,
    "EmptyKey": "copy it by itself, with a key in DST: s3bulkcopy run s3://source/its/key s3://destination/its/key",
    "DeadLetter": "its task was given up after five deliveries; see the functions' logs if a retry ends so too",
}

#: Causes that are told apart.
_MOST_CAUSES = 100

#: What is to be done about codes that are not known, and about ranges.
_RETRY = "retry it"
RANGE_ADVICE = "retry: what is in this range was not listed to the end"


def advice(code: str) -> str:
    """Say what to do about a failure of this code.

    >>> advice("InvalidObjectState")
    'it is archived: restore it first'
    """
    return _ADVICE.get(code, _RETRY)


def failure_object(failure: Failure | RangeFailure) -> dict[str, Any]:
    """Give what failed as JSON has it."""
    if isinstance(failure, RangeFailure):
        return {"after": failure.range.after, "until": failure.range.until, "cause": failure.cause, "advice": RANGE_ADVICE}
    return {**failure._asdict(), "advice": advice(failure.code)}


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something failed and what to do, how often that was so, and the first that failed of it, as people read it."""

    text: str
    number: int
    examples: tuple[str, ...]


def causes(failed: Iterable[Failure | RangeFailure], most_examples: int = 1) -> list[Cause]:
    """Group what failed by its cause, the most frequent one first."""
    numbers: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for one in failed:
        what, cause = _in_words(one)
        # Where causes are many, each says something of its object, and the code must do.
        group = cause if cause in numbers or len(numbers) < _MOST_CAUSES else _in_short(one)
        numbers[group] += 1
        if len(first := examples.setdefault(group, [])) < most_examples:
            first.append(what)
    return [Cause(text, number, tuple(examples[text])) for text, number in numbers.most_common()]


def _in_words(failed: Failure | RangeFailure) -> tuple[str, str]:
    """Give what failed, and why and what to do."""
    if isinstance(failed, RangeFailure):
        what, _, _ = range_text(failed).rpartition(f": {failed.cause}")
        return f"range {what}", f"range not listed to its end: {failed.cause}; {RANGE_ADVICE}"
    why = failed.code if failed.cause == failed.code else f"{failed.code}: {failed.cause}"
    cause = f"{why}; {advice(failed.code)}"
    return f"{failed.key!r} ({count_text(failed.size)} B)", cause


def _in_short(failed: Failure | RangeFailure) -> str:
    if isinstance(failed, RangeFailure):
        return f"range not listed to its end, for other causes; {RANGE_ADVICE}"
    return f"{failed.code}, for other causes; {advice(failed.code)}"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file of failures says of their run."""

    run_id: str
    engine: str
    job: Job
    #: Options that reach the same account: region, endpoint.
    aws: tuple[tuple[str, str], ...] = ()


def write(path: Path, header: Header, failed: Iterable[Failure | RangeFailure]) -> int:
    """Write what failed of a run, a line each, in place of what is there; gives how many lines. Raises OSError.

    JSON in pure ASCII, so that every key survives, whatever its characters.
    """
    part, number = path.with_name(path.name + ".part"), 0
    job = header.job
    head = {
        "s3bulkcopy": KIND,
        "format": FORMAT,
        "run_id": header.run_id,
        "engine": header.engine,
        "source": str(job.source),
        "destination": str(job.destination),
        "aws": dict(header.aws),
        "rules": json.loads(encode_task(CopyTask(header.run_id, job, ()))),
    }
    with part.open("w", encoding="ascii") as file:
        file.write(to_json(head) + "\n")
        for number, failure in enumerate(failed, 1):  # noqa: B007 - it is counted
            file.write(to_json(failure_object(failure)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return number


def read_header(path: Path) -> Header:
    """Read what a file of failures says of their run; raises UsageError where it is none."""
    try:
        with path.open(encoding="utf-8") as file:
            head = json.loads(file.readline())
        if head["s3bulkcopy"] != KIND:
            raise ValueError("another kind of file")
        if head["format"] != FORMAT:
            raise UsageError(f"{path} has format {head['format']}, and this version of s3bulkcopy reads {FORMAT}")
        rules = decode_task(to_json(head["rules"]))
        if not isinstance(rules, CopyTask):
            raise TypeError("no rules")
        return Header(str(head["run_id"]), str(head["engine"]), rules.job, tuple(dict(head["aws"]).items()))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {cause_of(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        hint = "`run --failures FILE` and `attach --failures FILE` write one"
        raise UsageError(f"{path} is not a file of failures, as this version of s3bulkcopy writes it: {error}", hint) from error


def read(path: Path) -> Iterator[Failure | RangeFailure]:
    """Read what failed, line by line; raises UsageError at a line that says something else."""
    with path.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, 2):
            try:
                yield _failure(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{path}, line {number}, is no failure: {error}", "is the file whole?") from error


def _failure(data: dict[str, Any]) -> Failure | RangeFailure:
    if "key" in data:
        if not isinstance(data["key"], str) or not isinstance(data["size"], int):
            raise TypeError("a key is a text, and a size a number")
        return Failure(data["key"], data["size"], str(data["code"]), str(data["cause"]))
    if not isinstance(data["after"], str) or not isinstance(data["until"], str | None):
        raise TypeError("a range is two keys")
    return RangeFailure(Range(data["after"], data["until"]), str(data["cause"]))

"""Keys that a file names in place of a listing: a key a line, JSON lines, CSV, or an S3 Inventory.

Files are read as streams, as often as they are asked for, and nothing of them is held. Whatever is wrong in one is a UsageError
that names the line.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from contextlib import closing
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_plus

from s3bulkcopy.errors import UsageError, cause_of
from s3bulkcopy.worker.model import MAX_KEY_BYTES, Item

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from s3bulkcopy.worker.model import Job

#: Longest line that is read, in bytes: a key, its escapes and what a row says besides.
_MOST_LINE_BYTES = 1024 * 1024

#: Largest manifest that is read, in bytes: each of its data files takes some hundred.
_MOST_MANIFEST_BYTES = 256 * 1024 * 1024


class Named(NamedTuple):
    """A key that a file names, its size where that is told, and where it stands."""

    key: str
    size: int
    where: str
    #: Whether the file names everything that was in a bucket, so that keys elsewhere are no mistake.
    is_inventory: bool = False


class KeyList:
    """The objects that a file names."""

    def __init__(self, name: str, job: Job, limit: int | None, opened: Callable[[str], IO[bytes]]) -> None:
        """Take what the job's filter says of keys, and no more than `limit`; `opened` opens a file or `s3://bucket/key`."""
        self._name, self._job, self._limit, self._opened = name, job, limit, opened
        #: Keys that the filter has left out, of those read last.
        self.filtered = 0

    def items(self) -> Iterator[Item]:
        """Give the objects, the same and in the same order each time; raises UsageError where a line is wrong."""
        self.filtered = 0
        return islice(self._selected(), self._limit)

    def _selected(self) -> Iterator[Item]:
        takes = self._sieve()
        prefix = self._job.source.prefix
        with closing(_named(self._name, self._job.source.bucket, self._opened)) as every:
            for key, size, where, is_inventory in every:
                _check_key(key, where)
                is_below = key.startswith(prefix)
                if not is_below and not is_inventory:
                    raise UsageError(f"{where}: {key!r} does not begin with {prefix!r}, as all keys of {self._job.source} do")
                if is_below and takes(key):
                    yield Item(key, size, "")
                else:
                    self.filtered += 1

    def _sieve(self) -> Callable[[str], bool]:
        if self._job.filter is None:
            return lambda _: True
        from s3bulkcopy.worker.filters import Sieve  # noqa: PLC0415 - few runs have a filter

        return Sieve(self._job.filter, self._job.source.prefix).takes_key


def _check_key(key: str, where: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: {key!r} is no text that a key can be") from error
    if not 0 < size <= MAX_KEY_BYTES:
        raise UsageError(f"{where}: a key has 1 to {MAX_KEY_BYTES} bytes, and this one {size}")


def _named(name: str, bucket: str, opened: Callable[[str], IO[bytes]]) -> Generator[Named, None, None]:
    """Give what a file names; its name says how it is written."""
    bare = name.removesuffix(".gz").lower()
    if bare.endswith("manifest.json"):
        yield from _inventory(name, bucket, opened)
    elif bare.endswith((".jsonl", ".ndjson")):
        for number, line in _lines(name, opened):
            yield _from_json(line, f"{name}, line {number}")
    elif bare.endswith(".csv"):
        yield from _from_csv(name, opened)
    elif bare.endswith((".json", ".orc", ".parquet")):
        hint = "a key a line, .jsonl, .csv, each also as .gz, or the manifest.json of an S3 Inventory"
        raise UsageError(f"{name}: this is not a form in which keys are read", hint)
    else:
        for number, line in _lines(name, opened):
            yield Named(line, 0, f"{name}, line {number}")


def _lines(name: str, opened: Callable[[str], IO[bytes]]) -> Iterator[tuple[int, str]]:
    """Give the lines that are not empty, without their ends, and the numbers of all."""
    for number, line in enumerate(_raw_lines(name, opened), 1):
        if text := line.removesuffix("\n").removesuffix("\r"):
            yield number, text


def _raw_lines(name: str, opened: Callable[[str], IO[bytes]]) -> Generator[str, None, None]:
    number = 0
    try:
        with opened(name) as stored, gzip.open(stored) if name.endswith(".gz") else stored as file:
            while line := file.readline(_MOST_LINE_BYTES):
                number += 1
                if len(line) == _MOST_LINE_BYTES:
                    raise UsageError(f"{name}, line {number}: longer than {_MOST_LINE_BYTES:,} bytes")
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}, line {number}: not UTF-8: {error.reason} at byte {error.start}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot read {name}: {cause_of(error)}") from error


def _from_json(line: str, where: str) -> Named:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}") from error
    values = {name.lower(): value for name, value in data.items()} if isinstance(data, dict) else {"key": data}
    key, size = values.get("key"), values.get("size")
    if not isinstance(key, str):
        raise UsageError(f'{where}: neither a text nor an object with a "key": {line[:80]}')
    return Named(key, size if type(size) is int and size > 0 else 0, where)


def _from_csv(name: str, opened: Callable[[str], IO[bytes]]) -> Iterator[Named]:
    """Read CSV: one column of keys, or a first line that names the columns."""
    place = size_place = None
    for number, row in _rows(name, opened):
        where = f"{name}, line {number}"
        names = [cell.strip().lower() for cell in row]
        if place is None and "key" in names:
            place, size_place = names.index("key"), names.index("size") if "size" in names else None
            continue
        if place is None and len(row) > 1:
            raise UsageError(f"{where}: {len(row)} columns, and no line before it says which of them is the key")
        place = place or 0
        if len(row) <= place:
            raise UsageError(f"{where}: {len(row)} columns, and the key is in column {place + 1}")
        yield Named(row[place], _size(row, size_place), where)


def _rows(name: str, opened: Callable[[str], IO[bytes]]) -> Iterator[tuple[int, list[str]]]:
    with closing(_raw_lines(name, opened)) as lines:
        reader = csv.reader(lines, strict=True)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise UsageError(f"{name}, line {reader.line_num}: not CSV: {error}") from error


def _size(row: list[str], place: int | None) -> int:
    text = row[place] if place is not None and place < len(row) else ""
    return int(text) if text.isdecimal() else 0


def _inventory(name: str, bucket: str, opened: Callable[[str], IO[bytes]]) -> Iterator[Named]:
    """Read an S3 Inventory: its keys are URL-encoded; versions that are not current, and delete markers, are passed over."""
    data = _manifest(name, opened)
    try:
        source, form = str(data["sourceBucket"]), str(data["fileFormat"])
        columns = [column.strip().lower() for column in data["fileSchema"].split(",")]
        there = str(data["destinationBucket"]).rpartition(":::")[2]  # arn:aws-cn:s3:::bucket and its like
        files = [str(file["key"]) for file in data["files"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{name} is no manifest of an S3 Inventory: it lacks or misplaces {error}") from error
    if form.upper() != "CSV":
        raise UsageError(f"{name}: its data files are {form}, and only CSV is read", "let the inventory be written as CSV")
    if source != bucket:
        raise UsageError(f"{name} is an inventory of bucket '{source}', and SRC is in '{bucket}'")
    if "key" not in columns:
        raise UsageError(f"{name}: its fileSchema names no column Key")
    for file in files:
        url = f"s3://{there}/{file}"
        for number, row in _rows(url, opened):
            where = f"{url}, line {number}"
            if len(row) != len(columns):
                raise UsageError(f"{where}: {len(row)} columns, and the manifest names {len(columns)}")
            values = dict(zip(columns, row, strict=True))
            if values.get("islatest", "true").lower() == "true" and values.get("isdeletemarker", "false").lower() != "true":
                size = values.get("size", "")
                yield Named(_unquoted(values["key"], where), int(size) if size.isdecimal() else 0, where, is_inventory=True)


def _manifest(name: str, opened: Callable[[str], IO[bytes]]) -> dict[str, Any]:
    try:
        with opened(name) as file:
            data = json.loads(file.read(_MOST_MANIFEST_BYTES))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is no manifest of an S3 Inventory: not JSON: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {name}: {cause_of(error)}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{name} is no manifest of an S3 Inventory: not a JSON object")
    return data


def _unquoted(text: str, where: str) -> str:
    try:
        return unquote_plus(text, errors="strict")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: {text!r} is no URL-encoded key") from error

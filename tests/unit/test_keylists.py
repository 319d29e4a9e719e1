"""Lists of keys in files: every form of them, and what is said of a line that is wrong."""

from __future__ import annotations

import gzip
import io
import json
import os
import threading
import tracemalloc
from typing import IO, TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ResponseStreamingError

from s3bulkcopy.aws.objects import Files
from s3bulkcopy.errors import S3BulkCopyError, UsageError
from s3bulkcopy.keylists import KeyList
from s3bulkcopy.worker.filters import Filter
from s3bulkcopy.worker.model import Item
from tests.unit.worker.worker_fakes import JOB, SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Who reads files of this machine.
NOBODY: Any = None

MANIFEST = {
    "sourceBucket": "source",
    "destinationBucket": "arn:aws:s3:::inventories",
    "version": "2016-11-30",
    "fileFormat": "CSV",
    "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size",
    "files": [{"key": "data/1.csv.gz", "size": 1, "MD5checksum": "x"}, {"key": "data/2.csv.gz", "size": 1, "MD5checksum": "x"}],
}


def store(files: dict[str, bytes | str]) -> Callable[[str], IO[bytes]]:
    """Open what is there, compressed where the name says so."""

    def opened(name: str) -> IO[bytes]:
        if name not in files:
            raise FileNotFoundError(2, "No such file", name)
        content = files[name]
        data = content.encode() if isinstance(content, str) else content
        return io.BytesIO(gzip.compress(data) if name.endswith(".gz") else data)

    return opened


def key_list(
    name: str, content: bytes | str, *, prefix: str = "", limit: int | None = None, filter_: Filter | None = None
) -> KeyList:
    job = JOB._replace(source=SOURCE._replace(prefix=prefix), filter=filter_)
    return KeyList(name, job, limit, store({name: content}))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("keys", "a\nb c \n\nd/é\r\ne", [("a", 0), ("b c ", 0), ("d/é", 0), ("e", 0)]),
        ("keys.txt.gz", "a\nb\n", [("a", 0), ("b", 0)]),
        ("keys.txt", "\ufeffa\n", [("a", 0)]),
        ("keys", "", []),
        ("s3://b/k.jsonl", '"a\\nb"\n{"key": "c", "size": 7}\n{"Key": "d", "ETag": "x"}\n', [("a\nb", 0), ("c", 7), ("d", 0)]),
        ("keys.csv", 'a\n"b,""c"\n"d\ne"\n', [("a", 0), ('b,"c', 0), ("d\ne", 0)]),
        ("keys.csv.gz", "bucket,Key,Size\nsource,a,5\nsource,b+c,\n", [("a", 5), ("b+c", 0)]),
    ],
)
def test_each_form_is_read_and_read_again(name: str, content: str, found: list[tuple[str, int]]) -> None:
    named = key_list(name, content)

    for _ in range(2):
        assert [*named.items()] == [Item(key, size, "") for key, size in found]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("keys", b"a\n\xff\n", "keys, line 2: not UTF-8"),
        ("keys", "a\n\n" + "x" * 1025, "keys, line 3: a key has 1 to 1024 bytes, and this one 1025"),
        ("keys.jsonl", '"a"\n{"name": "b"}\n', 'keys.jsonl, line 2: neither a text nor an object with a "key"'),
        ("keys.jsonl", "a\n", "keys.jsonl, line 1: not JSON"),
        ("keys.jsonl", '"\\ud800"', "keys.jsonl, line 1: '\\ud800' is no text that a key can be"),
        ("keys.jsonl", "[" * 100_000, "keys.jsonl, line 1: not JSON"),
        ("manifest.json", "[" * 100_000, "manifest.json is no manifest of an S3 Inventory: not JSON"),
        ("keys.csv", "a,b\n", "keys.csv, line 1: 2 columns, and no line before it says which of them is the key"),
        ("keys.csv", "size,key\n1\n", "keys.csv, line 2: 1 columns, and the key is in column 2"),
        ("keys.csv", 'a\n"b', "keys.csv, line 2: not CSV"),
        ("keys.parquet", "", "keys.parquet: this is not a form in which keys are read"),
        ("manifest.json", "[]", "manifest.json is no manifest of an S3 Inventory"),
        ("manifest.json", "{}", "manifest.json is no manifest of an S3 Inventory: it lacks or misplaces 'sourceBucket'"),
        ("manifest.json", json.dumps(MANIFEST | {"fileFormat": "ORC"}), "its data files are ORC, and only CSV is read"),
        ("manifest.json", json.dumps(MANIFEST | {"sourceBucket": "b"}), "an inventory of bucket 'b', and SRC is in 'source'"),
        ("manifest.json", json.dumps(MANIFEST), "cannot read s3://inventories/data/1.csv.gz: "),
    ],
)
def test_what_is_wrong_is_told_with_its_line(name: str, content: bytes | str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(key_list(name, content).items())

    assert told in caught.value.message


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(UsageError, match=r"^cannot read nowhere: No such file$"):
        list(KeyList("nowhere", JOB, None, store({})).items())


def test_a_pipe_is_read_as_often_as_a_file(tmp_path: Path) -> None:
    pipe, told = tmp_path / "pipe", threading.Thread(target=lambda: (tmp_path / "pipe").write_text("a\nb\n"))
    os.mkfifo(pipe)
    told.start()
    named = KeyList(str(pipe), JOB, None, Files(NOBODY))

    assert [item.key for item in named.items()] == ["a", "b"]
    assert [item.key for item in named.items()] == ["a", "b"]
    told.join()


class Body(io.BytesIO):
    """What an answer holds, whose connection breaks off after some bytes."""

    def __init__(self, content: bytes, most: int) -> None:
        super().__init__(content)
        self._left = most

    def read(self, size: int | None = -1) -> bytes:
        if not self._left:
            raise ResponseStreamingError(error="reset")
        data = super().read(min(size or 0, self._left))
        self._left -= len(data)
        return data


class Store:
    """An AwsSession and its client, for one object."""

    def __init__(self, content: bytes, most: int) -> None:
        self._content, self._most = content, most
        #: From where on the object was asked for, and in which version.
        self.asked: list[tuple[int, str]] = []

    def client(self, *_: str) -> Store:
        return self

    def head_bucket(self, **_: str) -> dict[str, Any]:
        return {"BucketRegion": "eu-west-1"}

    def get_object(self, *, Range: str = "bytes=0-", IfMatch: str = "", **_: str) -> dict[str, Any]:  # noqa: N803
        first = int(Range[len("bytes=") : -1])
        self.asked.append((first, IfMatch))
        return {"ETag": '"e"', "Body": Body(self._content[first:], self._most)}


def test_an_object_is_read_on_where_a_connection_broke_off() -> None:
    session: Any = Store(b"one\ntwo\nthree\n", 5)
    named = KeyList("s3://lists/keys", JOB, None, Files(session))

    assert [item.key for item in named.items()] == ["one", "two", "three"]
    assert session.asked == [(0, ""), (5, '"e"'), (10, '"e"')]


def test_an_object_of_which_nothing_comes_is_told() -> None:
    session: Any = Store(b"one\n", 0)

    with pytest.raises(S3BulkCopyError, match="reading s3://lists/keys"):
        list(KeyList("s3://lists/keys", JOB, None, Files(session)).items())


def test_a_file_that_changes_between_two_readings_is_told(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a\n")
    named = KeyList(str(tmp_path / "keys"), JOB, None, Files(NOBODY))
    assert [item.key for item in named.items()] == ["a"]
    (tmp_path / "keys").write_text("a\nb\n")

    with pytest.raises(UsageError, match="has changed while it was read"):
        list(named.items())


def test_a_corrupt_archive_is_told() -> None:
    corrupt = gzip.compress(b"a\nb\n" * 1000)
    corrupt = corrupt[:12] + bytes(byte ^ 0xFF for byte in corrupt[12:20]) + corrupt[20:]

    with pytest.raises(UsageError, match=r"cannot read k\.gz"):
        list(KeyList("k.gz", JOB, None, lambda _: io.BytesIO(corrupt)).items())


def test_an_inventory_may_lie_in_another_partition() -> None:
    manifest = json.dumps(MANIFEST | {"destinationBucket": "arn:aws-us-gov:s3:::inventories", "files": [{"key": "1.csv"}]})
    named = KeyList(
        "manifest.json", JOB, None, store({"manifest.json": manifest, "s3://inventories/1.csv": "source,a,v,true,false,1\n"})
    )

    assert [item.key for item in named.items()] == ["a"]


def test_a_key_elsewhere_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="keys, line 2: 'b/1' does not begin with 'a/'"):
        list(key_list("keys", "a/1\nb/1\n", prefix="a/").items())


def test_filters_of_keys_and_a_limit_apply() -> None:
    named = key_list("keys", "a1\nb1\na2\na3\n", filter_=Filter(("+a*",)), limit=2)

    assert [item.key for item in named.items()] == ["a1", "a2"]
    assert named.filtered == 1


def test_an_inventory_is_read_from_its_data_files() -> None:
    rows = [
        '"source","a/b%20c+d%2B","v","true","false","12"\n"source","a/old","v","false","false","1"\n',
        '"source","a/gone","v","true","true",""\n"source","z","v","true","false","1"\n',
    ]
    files: dict[str, bytes | str] = {f"s3://inventories/data/{n}.csv.gz": text for n, text in enumerate(rows, 1)}
    job = JOB._replace(source=SOURCE._replace(prefix="a/"))
    named = KeyList("s3://x/manifest.json", job, None, store(files | {"s3://x/manifest.json": json.dumps(MANIFEST)}))

    assert [*named.items()] == [Item("a/b c d+", 12, "")]
    assert named.filtered == 1


def test_a_row_that_the_manifest_does_not_describe_is_told_with_its_line() -> None:
    files: dict[str, bytes | str] = {"s3://inventories/data/1.csv.gz": "source,a,v,true,false,1\nsource,b\n"}
    named = KeyList("manifest.json", JOB, None, store(files | {"manifest.json": json.dumps(MANIFEST)}))

    with pytest.raises(UsageError, match=r"s3://inventories/data/1.csv.gz, line 2: 2 columns, and the manifest names 6"):
        list(named.items())


def test_memory_does_not_grow_with_the_file() -> None:
    class Endless(io.RawIOBase):
        left = 200_000

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object, /) -> int:
            assert isinstance(buffer, memoryview)
            self.left -= 1
            data = b"some/key/or/other\n" if self.left > 0 else b""
            buffer[: len(data)] = data
            return len(data)

    named = KeyList("keys", JOB, None, lambda _: io.BufferedReader(Endless()))
    tracemalloc.start()
    try:
        assert sum(1 for _ in named.items()) == 199_999
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()

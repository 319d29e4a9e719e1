"""The way to the store: TLS, on the real command line with the local engine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from model_server import ModelServer

from tests.certificates import Identity, issue
from tests.e2e.conftest import Ended

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OBJECTS = 3000


def run(url: str, **environment: str) -> Ended:
    """Copy from here to there with two processes, in an environment of nothing else that AWS's tools look at."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "REQUESTS_CA")) and not name.upper().endswith("_PROXY")
    }
    wanted = {
        **kept,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        **environment,
    }
    command = [sys.executable, "-m", "s3bulkcopy", "run", "here", "there", "--engine", "local", "--processes", "2"]
    return Ended.of(
        subprocess.Popen(
            [*command, "--endpoint-url", url, "--output", "json"],
            env=wanted,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    """Give certificates for the loopback."""
    return issue(tmp_path, "127.0.0.1")


@pytest.fixture
def secure(identity: Identity) -> Iterator[ModelServer]:
    """Give a store that speaks TLS and ends a connection after some requests."""
    arguments = ["--objects", f"here=hex:{OBJECTS}", "--objects", "there=hex:0", "--close-after", "20"]
    with ModelServer(*arguments, "--tls", identity.certificate, identity.key, certificate=identity.authority) as server:
        yield server


def test_a_store_with_a_certificate_of_its_own_is_copied_in_where_that_is_trusted(
    secure: ModelServer, identity: Identity
) -> None:
    ended = run(secure.url, AWS_CA_BUNDLE=identity.authority)

    assert ended.code == 0, ended.err
    assert ended.summary["copied"] == OBJECTS
    assert secure.stats()["buckets"]["there"] == OBJECTS


def test_a_certificate_that_is_not_trusted_is_told_at_once_with_what_to_do(secure: ModelServer) -> None:
    ended = run(secure.url)

    assert ended.code == 1, ended.err
    assert all(word in ended.err for word in ("bucket 'here'", secure.url, "certificate verify failed", "AWS_CA_BUNDLE"))


def test_a_certificate_for_another_host_is_told(tmp_path: Path) -> None:
    other = issue(tmp_path, "127.0.0.2")
    with ModelServer("--tls", other.certificate, other.key, certificate=other.authority) as server:
        ended = run(server.url, AWS_CA_BUNDLE=other.authority)

    assert ended.code == 1, ended.err
    assert all(word in ended.err for word in ("127.0.0.1", "127.0.0.2", "must name the host"))


def test_a_scheme_that_the_store_does_not_speak_is_told_at_once(secure: ModelServer) -> None:
    with ModelServer("--objects", "here=hex:1", "--objects", "there=hex:0") as plain:
        for url, other in ((secure.url, secure.url.replace("https", "http")), (plain.url, plain.url.replace("http", "https"))):
            ended = run(other)

            assert ended.code == 2, ended.err
            assert f"--endpoint-url {other}: what answers there does not speak" in ended.err
            assert f"hint: write {url}\n" in ended.err


def test_a_path_in_the_endpoint_where_no_bucket_is_found_is_told() -> None:
    with ModelServer("--objects", "here=hex:1", "--objects", "there=hex:0") as plain:
        ended = run(f"{plain.url}/here")

    assert ended.code == 2, ended.err
    assert f"error: bucket 'here' does not exist at {plain.url}/here\nhint: --endpoint-url need not have /here" in ended.err

"""A run's life beyond its command: detached, killed, taken up again, halted, retried."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from s3bulkcopy.demo import compare
from s3bulkcopy.failures import Header, write
from s3bulkcopy.tally import RangeFailure
from s3bulkcopy.worker.model import Failure, Job, Range
from tests.e2e.conftest import deny
from tests.e2e.test_run import run_id_of, until_copying, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Cloud

#: Enough to be in the middle of when something happens, at the rate below.
OBJECTS = 3_000
SLOWLY = ("--function-timeout", "30", "--max-rate", "900", "--batch-size", "100")


@pytest.fixture
def filled(cloud: Cloud, buckets: tuple[str, str]) -> tuple[str, str]:
    """A source with some thousand objects, every awkward key among them, and an empty destination."""
    return cloud.source_of(OBJECTS), buckets[1]


def is_all_there(cloud: Cloud, buckets: tuple[str, str], summary: dict[str, Any]) -> None:
    """Demand exact counts, an equal destination and a clean account."""
    assert [summary[name] for name in ("listed", "copied", "failed", "ranges_failed")] == [OBJECTS, OBJECTS, 0, 0]
    assert not compare(cloud.store.items(buckets[0]), cloud.store.items(buckets[1]))
    assert cloud.leftovers() == []


def test_a_detached_run_goes_on_is_shown_as_finished_and_is_attached_to_with_exact_counts(
    cloud: Cloud, filled: tuple[str, str]
) -> None:
    detached = cloud.run("run", *filled, "--detach", "--output", "json")

    assert detached.code == 0, detached.err
    said = detached.summary
    assert said["event"] == "detached"
    run_id = said["run_id"]
    assert f"s3bulkcopy attach {run_id}" in said["attach"]

    def states() -> bool:
        found = json.loads(cloud.run("status", run_id, "--output", "json").out)
        return found["state"] == "finished, awaiting attach" and bool(found["reports_until"])

    wait_for(states)
    ended = cloud.run("attach", run_id, "--output", "json")
    again = cloud.run("attach", run_id, "--output", "json")

    assert ended.code == 0, ended.err
    is_all_there(cloud, filled, ended.summary)
    assert (again.code, again.summary["copied"]) == (0, OBJECTS)
    assert "has ended, with code 0" in again.err


def test_a_killed_command_is_followed_by_another_with_exact_counts(cloud: Cloud, filled: tuple[str, str]) -> None:
    process = cloud.start("run", *filled, "--output", "json", *SLOWLY)
    run_id = until_copying(process)
    process.kill()
    process.communicate()

    ended = cloud.run("attach", run_id, "--output", "json")

    assert ended.code == 0, ended.err
    is_all_there(cloud, filled, ended.summary)


def test_a_halt_from_another_process_ends_the_watcher_too(cloud: Cloud, filled: tuple[str, str]) -> None:
    process = cloud.start("run", *filled, "--output", "json", *SLOWLY, "--max-rate", "200")
    run_id = until_copying(process)

    halted = cloud.run("halt", run_id)
    _, err = process.communicate(timeout=120)

    assert halted.code == 0, halted.err
    assert f"{run_id}: halted" in halted.out
    assert process.returncode == 9, err
    assert f"run {run_id} was halted" in err
    assert "were copied" in err
    assert cloud.leftovers() == []


def test_a_closed_terminal_detaches(cloud: Cloud, filled: tuple[str, str]) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "s3bulkcopy", "run", *filled, *SLOWLY],
        env=cloud.environment(TERM="xterm"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - a terminal of its own is what it is about
    )
    os.close(theirs)
    shown = bytearray()
    while b"copy  " not in shown or b"tasks open" not in shown:
        shown += os.read(ours, 65536)
    (run_id,) = wait_for(
        lambda: [
            one["run_id"]
            for one in map(json.loads, cloud.run("status", "--output", "json").out.splitlines())
            if one["engine"] == "lambda"
        ]
    )
    with contextlib.suppress(OSError):
        os.close(ours)

    assert process.wait(60) == 129
    assert cloud.leftovers()
    ended = cloud.run("attach", run_id, "--output", "json")
    assert ended.code == 0, ended.err
    is_all_there(cloud, filled, ended.summary)


class Wire:
    """A way to a server that can be cut: then nobody answers, and who is connected is disconnected."""

    def __init__(self, url: str) -> None:
        """Lead to this server."""
        self._there = (urlsplit(url).hostname, urlsplit(url).port)
        self._ends: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self._port = self._door.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.mend()

    def mend(self) -> None:
        """Let requests through."""
        if self._door.fileno() < 0:
            self._door = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._welcome, args=(self._door,), daemon=True).start()

    def cut(self) -> None:
        """Let nothing through."""
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        while self._ends:
            with contextlib.suppress(OSError):
                self._ends.pop().shutdown(socket.SHUT_RDWR)

    def _welcome(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = door.accept()
                there = socket.create_connection(self._there)
                self._ends += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=_carry, args=pair, daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError), source:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_a_network_that_is_gone_for_a_while_ends_nothing(cloud: Cloud, filled: tuple[str, str]) -> None:
    wire = Wire(cloud.emulator.url)
    process = cloud.start("run", *filled, "--output", "json", *SLOWLY, AWS_ENDPOINT_URL=wire.url)
    until_copying(process)

    wire.cut()
    steps = (line["text"] for line in run_id_of(process) if line.get("event") == "step")
    assert any("asking again" in text for text in steps)
    wire.mend()
    out, err = process.communicate(timeout=120)

    assert process.returncode == 0, err
    assert "connected again" in out
    is_all_there(cloud, filled, json.loads(out.splitlines()[-1]))


def test_without_its_journal_a_run_is_looked_at_only_unless_it_is_taken_over(
    cloud: Cloud, filled: tuple[str, str], tmp_path: Path
) -> None:
    run_id = cloud.run("run", *filled, "--detach", "--output", "json").summary["run_id"]
    elsewhere = {"S3BULKCOPY_STATE_DIR": str(tmp_path)}

    looking = cloud.start("attach", run_id, "--output", "json", **elsewhere)
    assert looking.stdout is not None
    seen = json.loads(looking.stdout.readline())
    looking.send_signal(signal.SIGTERM)
    _, err = looking.communicate(timeout=30)
    taken = cloud.run(
        "attach",
        run_id,
        "--take-over",
        "--idle-seconds",
        "5",
        "--output",
        "json",
        "--failures",
        str(tmp_path / "f"),
        **elsewhere,
    )

    assert (seen["run_id"], looking.returncode) == (run_id, 130), err
    assert "there is no journal of that run on this machine" in err
    assert taken.code == 8, taken.err
    assert "incomplete" in taken.err
    assert taken.summary["copied"] == OBJECTS - 1  # what the probe copied was told to the command that began the run
    assert json.loads((tmp_path / "f").read_text())["source"] == f"s3://{filled[0]}"
    assert cloud.leftovers() == []


@pytest.fixture
def partly_denied(cloud: Cloud, buckets: tuple[str, str]) -> tuple[str, str]:
    """Buckets of which the source does not give some objects away."""
    cloud.store.fill(buckets[0], iter([*(f"open/{n}" for n in range(300)), *(f"shut/{n} ø\x01" for n in range(7))]))
    deny(cloud, buckets[0], "shut/*")
    return buckets


def test_what_failed_is_kept_told_and_retried(cloud: Cloud, partly_denied: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "failures.jsonl"

    ended = cloud.run("run", *partly_denied, "--keep-failed", "--failures", str(file), "--output", "json")
    run_id = ended.summary["run_id"]

    assert ended.code == 3, ended.err
    assert (ended.summary["copied"], ended.summary["failed"]) == (300, 7)
    assert f"s3bulkcopy retry {run_id}" in ended.err
    assert cloud.leftovers()
    told = [json.loads(line) for line in cloud.run("failures", run_id, "--output", "json").out.splitlines()]
    assert sorted(one["key"] for one in told) == [f"shut/{n} ø\x01" for n in range(7)]
    assert {one["code"] for one in told} == {"AccessDenied"}
    assert [json.loads(line) for line in file.read_text().splitlines()][1:] == told
    assert cloud.run("failures", run_id, "--output", "csv").out.count("AccessDenied") == 7
    assert "s3:GetObject" in cloud.run("failures", run_id).out

    deny(cloud, partly_denied[0], "shut/3*")
    partly = cloud.run("retry", run_id, "--output", "json")
    assert partly.code == 3, partly.err
    assert [partly.summary[name] for name in ("listed", "copied", "failed")] == [7, 6, 1]
    assert cloud.leftovers()  # of the first run

    deny(cloud, partly_denied[0])
    whole = cloud.run("retry", "--failures", str(file), "--output", "json", S3BULKCOPY_STATE_DIR=str(tmp_path / "elsewhere"))
    assert whole.code == 0, whole.err
    assert [whole.summary[name] for name in ("listed", "copied", "failed")] == [7, 7, 0]
    assert not compare(cloud.store.items(partly_denied[0]), cloud.store.items(partly_denied[1]))
    assert cloud.leftovers() == []
    local = cloud.run("retry", run_id, "--engine", "local", "--output", "json")
    assert (local.code, local.summary["engine"], local.summary["copied"]) == (0, "local", 1), local.err  # all but that is done
    assert cloud.run("failures", run_id, "--output", "json").out == ""
    assert cloud.run("attach", run_id).code == 0


@pytest.mark.parametrize("engine", ["lambda", "local"])
def test_ranges_that_were_not_listed_are_retried(cloud: Cloud, buckets: tuple[str, str], tmp_path: Path, engine: str) -> None:
    cloud.store.fill(buckets[0], iter([*(f"a{n:02}" for n in range(20)), *(f"b{n:02}" for n in range(20))]))
    source, destination = (cloud.store.location(bucket) for bucket in buckets)
    failed: list[Failure | RangeFailure] = [RangeFailure(Range("a14", "b04"), "lost")]
    failed += [Failure(key, 1, "DeadLetter", "lost") for key in ("a00", "b19", "gone")]
    write(tmp_path / "f", Header("20260101-000000-aaaaaa", engine, Job("r", source, destination)), failed)

    ended = cloud.run("retry", "--failures", str(tmp_path / "f"), "--output", "json")

    assert ended.code == 0, ended.err
    assert [ended.summary[name] for name in ("engine", "listed", "copied", "vanished")] == [engine, 13, 12, 1]
    there = ["a00", *(f"a{n}" for n in range(15, 20)), *(f"b{n:02}" for n in range(5)), "b19"]
    assert sorted(cloud.store.items(buckets[1])) == there
    assert cloud.leftovers() == []


def test_a_run_of_someone_else_is_left_alone_unless_it_is_meant(cloud: Cloud, buckets: tuple[str, str]) -> None:
    cloud.store.fill(buckets[0], iter(["a"]))
    run_id = json.loads(cloud.run("run", *buckets, "--keep", "--output", "json").out.splitlines()[-1])["run_id"]
    iam = cloud.client("iam")
    iam.create_user(UserName="other")
    iam.attach_user_policy(UserName="other", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    key = iam.create_access_key(UserName="other")["AccessKey"]
    other = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    theirs = cloud.run("teardown", "--all", **other)
    young = cloud.run("teardown", "--all", "--older-than", "2d")
    left = cloud.leftovers()
    meant = cloud.run("teardown", "--all", "--everyone", "--older-than", "0s", **other)

    assert (theirs.code, young.code, meant.code) == (0, 0, 0), theirs.err + young.err + meant.err
    assert f"{run_id}: left alone, as it is arn:aws:iam::000000000000:root's" in theirs.err
    assert f"{run_id}: left alone, as it is younger" in young.err
    assert len(left) == 12
    assert cloud.leftovers() == []
    iam.delete_access_key(UserName="other", AccessKeyId=key["AccessKeyId"])
    iam.detach_user_policy(UserName="other", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    iam.delete_user(UserName="other")

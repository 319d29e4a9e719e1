"""A run's life beyond its command, with queues and no workers: what is found there decides how it ends."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse

from s3bulkcopy.aws import bundle
from s3bulkcopy.aws.dead_letters import forget
from s3bulkcopy.aws.deploy import Deployed, deploy
from s3bulkcopy.aws.discover import find_run
from s3bulkcopy.aws.preflight import Found
from s3bulkcopy.aws.stack import begun, plan
from s3bulkcopy.aws.teardown import empty, halt, quiet
from s3bulkcopy.commands import returning, tending
from s3bulkcopy.commands.copying import Work, again, why_nothing
from s3bulkcopy.commands.tending import failures
from s3bulkcopy.engines.local import LocalEngine
from s3bulkcopy.errors import CountsIncomplete, Detached, Halted, JournalUnusable, NotPermitted, ObjectsFailed, UsageError
from s3bulkcopy.journal import Facts, Journal, journal_path
from s3bulkcopy.settings import (
    AwsSettings,
    BucketPrefix,
    CopySettings,
    LifeSettings,
    LocalSettings,
    OutputSettings,
    StackSettings,
)
from s3bulkcopy.worker.filters import Filter
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Counts,
    Dead,
    Done,
    Failure,
    Item,
    ListTask,
    Range,
    encode_event,
    encode_task,
)
from s3bulkcopy.worker.properties import Policy
from s3bulkcopy.worker.s3 import Page
from tests.moto.conftest import IDENTITY, REGION, RUN_ID, Aws, job, leftovers, refusal, silently, stack

if TYPE_CHECKING:
    from pathlib import Path

    from s3bulkcopy.worker.sigv4 import Credentials

JOB = job()
ROOT = ListTask(f"{RUN_ID}.1", JOB, (Range("", None),))
PROBED = Done(f"{RUN_ID}.0", Attempt(1, "probe"), 0, Counts(listed=1, copied=1))
LISTED = Done(f"{RUN_ID}.1", Attempt(1, "n"), 0, Counts(listed=4, copied=4))
NOW = 4e9  # a journal that was watched then is always young


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for journals of this test's own."""
    monkeypatch.setenv("S3BULKCOPY_STATE_DIR", str(tmp_path))
    return tmp_path


def make(aws: Aws) -> Deployed:
    return deploy(stack(), aws, bundle.build(), say=silently, sleep=silently)


def send(made: Deployed, kind: str, *bodies: str) -> None:
    sqs = boto3.client("sqs", region_name=REGION)
    for body in bodies:
        sqs.send_message(QueueUrl=made.queue_urls[kind], MessageBody=body)


def left_behind(**changes: Any) -> None:
    """Leave the journal of a run whose command was killed when it had queued everything."""
    facts = Facts(RUN_ID, "lambda", (encode_task(ROOT),), submitted=True, aws=(("region", REGION),), watched=NOW)
    with Journal.create(journal_path(RUN_ID), replace(facts, **changes)) as journal:
        if journal.facts.has_roots:
            journal.append([PROBED])


def attach(**changes: Any) -> int:
    arguments = {"take_over": False, "idle_seconds": 0.2, "look_on": lambda _why: 77, **changes}
    life = arguments.pop("life", LifeSettings())
    return returning.attach(RUN_ID, AwsSettings(region=REGION), OutputSettings(json=True), life, **arguments)


def ended() -> int | None:
    with Journal.resume(journal_path(RUN_ID)) as journal:
        return journal.facts.ended


def test_a_run_is_followed_to_its_end_counted_and_torn_down(aws: Aws, capsys: pytest.CaptureFixture[str]) -> None:
    send(make(aws), "reports", encode_event(LISTED))
    left_behind()

    assert attach() == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["copied"] == 5
    assert (leftovers(), ended()) == ([], 0)


def test_what_the_first_command_was_asked_for_is_heeded_and_what_failed_is_written(
    aws: Aws, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = Done(f"{RUN_ID}.1", Attempt(1, "n"), 1, Counts(listed=1, failed=1), (Failure("k", 1, "AccessDenied", "no"),))
    send(make(aws), "reports", encode_event(failed))
    left_behind(settings={"max_failures": 0, "lambda": {"keep_failed": True, "tags": [["a", "b"]], "new": 1}})

    with pytest.raises(ObjectsFailed, match="more than --max-failures 0") as caught:
        attach(life=LifeSettings(failures=state / "f"))
    assert caught.value.hint == (
        f"the last: 'k': no; all that failed, and why: s3bulkcopy failures {RUN_ID}; "
        f"copy it with: s3bulkcopy retry {RUN_ID} --region {REGION}"
    )
    assert "    1 x AccessDenied: no; allow s3:GetObject" in capsys.readouterr().err
    assert [json.loads(line).get("key") for line in (state / "f").read_text().splitlines()] == [None, "k"]
    assert len(leftovers()) == 12
    assert ended() == 3


def test_past_the_retention_nothing_is_waited_for(aws: Aws, capsys: pytest.CaptureFixture[str]) -> None:
    make(aws)
    left_behind(watched=1e9)

    with pytest.raises(CountsIncomplete, match="incomplete"):
        attach()
    said = capsys.readouterr()
    assert "nobody has listened to run" in said.err
    assert "SQS keeps a message for 14 days" in said.err
    assert json.loads(said.out.splitlines()[-1])["copied"] == 1
    assert (leftovers(), ended()) == ([], 8)


def test_a_run_that_is_gone_is_not_waited_for(aws: Aws) -> None:  # noqa: ARG001 - an empty account
    left_behind()

    with pytest.raises(CountsIncomplete, match=f"run {RUN_ID} is gone from {REGION}"):
        attach()
    assert ended() == 8


def test_a_run_that_cannot_be_looked_at_is_left_to_go_on(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    make(aws)
    left_behind()

    def refuse(*_: object) -> None:
        raise NotPermitted("looking for queue x: sqs:GetQueueUrl is denied")

    monkeypatch.setattr("s3bulkcopy.aws.discover.queue_urls", refuse)
    with pytest.raises(Detached, match="goes on without this command") as caught:
        attach()
    assert caught.value.exit_code == 5
    assert f"s3bulkcopy attach {RUN_ID}" in caught.value.hint
    assert (len(leftovers()), ended()) == (12, None)


def test_a_halted_run_ends_with_a_code_of_its_own(aws: Aws) -> None:
    make(aws)
    left_behind()
    halt(aws, REGION, RUN_ID, say=silently, sleep=silently)

    with pytest.raises(Halted) as caught:
        attach()
    assert caught.value.message.endswith("; nothing was reported yet")
    assert (leftovers(), ended()) == ([], 9)


def test_a_run_of_which_nothing_was_queued_names_the_teardown(aws: Aws) -> None:
    make(aws)
    left_behind(roots=())

    with pytest.raises(JournalUnusable, match="nothing of run") as caught:
        attach()
    assert f"s3bulkcopy teardown {RUN_ID}" in caught.value.hint


def test_a_run_in_another_account_is_named(aws: Aws) -> None:  # noqa: ARG001
    left_behind(settings={"account": "210987654321"})

    with pytest.raises(UsageError, match="is in account 210987654321, and these credentials are of 123456789012"):
        attach()
    assert ended() is None


def test_a_local_run_that_had_not_begun_is_not_gone_on_with(aws: Aws) -> None:  # noqa: ARG001
    left_behind(engine="local", roots=())

    with pytest.raises(UsageError, match="had not begun to copy"):
        attach()


def test_a_run_that_has_ended_is_shown(aws: Aws, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ARG001
    left_behind(ended=130)

    assert attach() == 130
    said = capsys.readouterr()
    assert "has ended, with code 130: interrupted" in said.err
    assert json.loads(said.out.splitlines()[-1])["copied"] == 1


def test_without_a_journal_or_with_one_that_is_held_it_is_only_looked_on(aws: Aws) -> None:  # noqa: ARG001
    assert attach() == 77
    left_behind()
    with Journal.resume(journal_path(RUN_ID)):
        assert attach() == 77


@pytest.mark.parametrize("damaged", [True, False])
def test_a_run_whose_journal_is_lost_is_taken_over(aws: Aws, state: Path, damaged: bool) -> None:  # noqa: FBT001
    send(make(aws), "reports", encode_event(LISTED))
    if damaged:
        journal_path(RUN_ID).parent.mkdir()
        journal_path(RUN_ID).write_text("nonsense " * 500)
        with pytest.raises(JournalUnusable, match="damaged") as caught:
            attach()
        assert "--take-over" in caught.value.hint
    file = state / "failures"

    with pytest.raises(CountsIncomplete):
        attach(take_over=True, life=LifeSettings(failures=file))

    assert (leftovers(), ended()) == ([], 8)
    assert json.loads(file.read_text())["source"] == "s3://source/in/ø"
    assert journal_path(RUN_ID).with_suffix(".damaged").exists() == damaged


def test_a_journal_that_cannot_be_read_for_now_is_not_set_aside() -> None:
    left_behind()
    wal = journal_path(RUN_ID).with_name(f"{RUN_ID}.journal-wal")
    wal.mkdir()  # as on a full disk, SQLite cannot make it

    with pytest.raises(JournalUnusable, match="cannot read the journal"):
        attach(take_over=True)

    wal.rmdir()
    assert ended() is None


def test_a_run_of_another_version_is_not_even_taken_over(aws: Aws) -> None:
    made = make(aws)
    send(made, "reports", encode_event(LISTED))
    left_behind()
    database = sqlite3.connect(journal_path(RUN_ID))
    database.execute("PRAGMA user_version = 77")
    database.close()

    for take_over in (False, True):
        with pytest.raises(JournalUnusable, match="format 77") as caught:
            attach(take_over=take_over)
        assert "the version that began the run" in caught.value.hint
    assert boto3.client("sqs", region_name=REGION).receive_message(QueueUrl=made.queue_urls["reports"])["Messages"]


def test_what_failed_is_shown_in_each_form(capsys: pytest.CaptureFixture[str]) -> None:
    left_behind()
    with Journal.resume(journal_path(RUN_ID)) as journal:
        refused = Failure('a,"b"\x01\n\udcff', 1234, "InvalidObjectState", "archived")
        dead = ListTask("n.0", JOB, (Range("x", "y"),))
        journal.append([Done(ROOT.id, Attempt(1, "n"), 1, Counts(failed=1), (refused,)), Dead(dead.id, dead)])
        assert failures(RUN_ID, "json") == 0
        objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        failures(RUN_ID, "csv")
        rows = capsys.readouterr().out
        failures(RUN_ID, "text")
        text = capsys.readouterr()

    assert [one.get("key") for one in objects] == ['a,"b"\x01\n\udcff', None]
    assert rows.startswith("key,size,code,cause,advice,after,until\n")
    assert "it is archived: restore it first" in rows
    assert '1 x InvalidObjectState: archived; it is archived: restore it first\n  \'a,"b"' in text.out
    assert "1 x range not listed to its end: killed, or never started; retry" in text.out
    assert "  range after 'x' until 'y'\n" in text.out
    assert "\x01" not in text.out


def test_a_text_has_each_cause_once_with_its_number_and_the_first_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    left_behind()
    several = [Failure(f"k{n:02}", 1, "AccessDenied", "no") for n in range(12)] + [Failure("z", 1, "EntityTooLarge", "big")]
    several += [Failure(f"o{n}", 1, "Odd", f"request {n}") for n in range(200)]
    with Journal.resume(journal_path(RUN_ID)) as journal:
        journal.append([Done(ROOT.id, Attempt(1, "n"), 1, Counts(failed=213), tuple(several))])

    failures(RUN_ID, "text")

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("102 x Odd, for other causes; retry it")
    first = next(n for n, line in enumerate(lines) if line.startswith("12 x AccessDenied: no; allow"))
    assert lines[first + 1] == "  'k00' (1 B)"
    assert lines[first + 11] == "  and 2 more (--output json or csv has all)"
    assert "1 x EntityTooLarge: big; it is larger than S3 makes objects of parts: 50 TB" in lines


def stopped(number: int) -> None:
    """Leave the journal of a run that was halted when so many objects had failed."""
    several = tuple(Failure(f"k{n}", 1, "AccessDenied", "no") for n in range(number))
    left_behind(ended=9)
    with Journal.resume(journal_path(RUN_ID)) as journal:
        journal.append([Done(ROOT.id, Attempt(1, "n"), 1, Counts(listed=4, copied=1, failed=number), several)])


def try_again(monkeypatch: pytest.MonkeyPatch) -> int:
    """Retry, as far as the engine."""
    monkeypatch.setattr(returning, "look_at", lambda *_: Found(JOB, Page((), truncated=False)))
    copy = CopySettings(BucketPrefix("source"), BucketPrefix("destination"))
    with returning.open_retry(RUN_ID, None) as again:
        return returning.retry(again, copy, LocalSettings(), AwsSettings(region=REGION), OutputSettings(), LifeSettings())


def test_a_retry_of_a_run_that_was_stopped_says_what_was_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(0)

    with pytest.raises(
        UsageError, match=r"was stopped before its end \(code 9: halted, or dismissed by `teardown`\): of 5 objects"
    ) as caught:
        try_again(monkeypatch)
    assert "nothing had failed until then" in caught.value.message
    assert caught.value.hint.startswith("run it again")


@pytest.mark.parametrize(
    ("url", "is_advised"), [("https://b.s3.eu-west-1.amazonaws.com", True), ("http://store.example:9000/b", False)]
)
def test_no_overwrite_is_advised_only_where_it_is_known_to_be_heeded(url: str, is_advised: bool) -> None:  # noqa: FBT001
    assert ("--no-overwrite" in again(JOB._replace(destination=JOB.destination._replace(url=url)))) == is_advised


@pytest.mark.parametrize(
    ("place", "chosen", "counts", "file", "why"),
    [
        ("", None, Counts(), None, "s3://source is empty"),
        ("in/ø", None, Counts(), None, "no key in s3://source begins with 'in/ø'"),
        ("in/", None, Counts(filtered=1), None, "there is only the marker of the folder s3://source/in/ itself"),
        ("in/", Filter(("-*",)), Counts(filtered=1200), None, "the filters leave out every key that was found (1,200)"),
        ("in/", None, Counts(filtered=12), "keys.txt", "the filters leave out every key that was found (12)"),
        ("in/", None, Counts(), "keys.txt", "keys.txt names no key"),
    ],
)
def test_why_there_is_nothing_to_copy_is_said_in_words(
    place: str, chosen: Filter | None, counts: Counts, file: str | None, why: str
) -> None:
    job = JOB._replace(source=JOB.source._replace(prefix=place), filter=chosen)

    assert why_nothing(job, counts, file) == f"nothing to copy: {why}"


def test_what_was_retried_is_not_shown_as_failed_any_more(capsys: pytest.CaptureFixture[str]) -> None:
    second = RUN_ID[:-1] + "b"
    left_behind(ended=3, settings={"retried_by": second})
    refused = (Failure("old", 1, "AccessDenied", "no"), Failure("new", 1, "AccessDenied", "no"))
    with Journal.resume(journal_path(RUN_ID)) as journal:
        journal.append([Done(ROOT.id, Attempt(1, "n"), 0, Counts(listed=2, failed=2), refused)])
    assert failures(RUN_ID, "json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2  # there is no journal of the other

    root = ROOT._replace(id=f"{second}.1", job=JOB._replace(run_id=second))
    with Journal.create(journal_path(second), Facts(second, "local", (encode_task(root),), ended=3)) as journal:
        probed = PROBED._replace(id=f"{second}.0", counts=Counts(copied=1, listed=1))
        journal.append([probed, Done(root.id, Attempt(1, "n"), 0, Counts(listed=1, failed=1), refused[1:])])
    assert failures(RUN_ID, "json") == 0
    said = capsys.readouterr()
    assert [json.loads(line)["key"] for line in said.out.splitlines()] == ["new"]
    assert f"was retried by run {second}" in said.err

    assert attach() == 3
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["run_id"] == second
    assert f"was copied again by run {second}, which ended with code 3" in said.err
    assert said.err.splitlines()[-2:] == [
        f"all that failed, and why: s3bulkcopy failures {second}",
        f"copy it with: s3bulkcopy retry {second}",
    ]
    with returning.open_retry(RUN_ID, None) as retry:
        assert [one.key for one in retry.failed() if isinstance(one, Failure)] == ["new"]
        assert (retry.named, retry.header.run_id) == (RUN_ID, second)


def test_the_time_of_a_run_ends_with_its_last_report(
    aws: Aws, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(make(aws), "reports", encode_event(LISTED))
    left_behind()
    took, now = time.time() - begun(RUN_ID), time.time
    monkeypatch.setattr(time, "time", lambda: now() + 7 * 24 * 3600)

    assert attach() == 0
    assert abs(json.loads(capsys.readouterr().out.splitlines()[-1])["seconds"] - took) < 60


def test_the_time_of_a_local_run_is_that_of_its_commands() -> None:
    with Journal.in_memory(Facts(RUN_ID, "local")) as journal:
        view: Any = None
        work = Work(JOB, journal, view, LocalSettings(), LifeSettings(), None, view, is_attached=True, seconds_before=100.0)
        work._began = time.monotonic()
        assert 100 <= work._seconds(local_engine(journal)) < 110


def local_engine(journal: Journal) -> LocalEngine:
    def never() -> Credentials:
        raise AssertionError

    return LocalEngine(
        JOB,
        LocalSettings(),
        credentials=never,
        renewed_credentials=never,
        ca_file=None,
        journal=journal,
        say=silently,
        check=lambda: None,
        clock=time.monotonic,
    )


# ----------------------------------------------------------------------------------------------------------------- halting


def test_a_halt_purges_again_what_workers_in_flight_refilled(aws: Aws) -> None:
    made = make(aws)
    quiet(aws, REGION, RUN_ID, say=silently, sleep=silently)
    send(made, "copy", "late")
    slept: list[float] = []
    purges = iter([True, False])

    def before(name: str, _: dict[str, Any]) -> None:
        if name == "sqs.purge_queue" and next(purges, False):
            raise refusal("AWS.SimpleQueueService.PurgeQueueInProgress", operation="PurgeQueue")

    aws.before = before
    said: list[str] = []

    assert empty(aws, REGION, RUN_ID, say=said.append, sleep=slept.append) == 0
    assert [seconds for seconds in slept if seconds > 60] == [61.0]
    assert "1 messages are left or have come since the queues were purged" in said[0]
    found = find_run(aws, REGION, RUN_ID)
    assert found is not None
    assert found.depths["copy"].waiting == 0


def test_queues_that_do_not_become_empty_are_said_to_hold_something(aws: Aws) -> None:
    made = make(aws)
    quiet(aws, REGION, RUN_ID, say=silently, sleep=silently)

    def refill(_: float) -> None:
        send(made, "list", "again")

    send(made, "list", "first")
    assert empty(aws, REGION, RUN_ID, say=silently, sleep=refill) > 0


def test_a_local_run_is_not_looked_for_in_aws_to_halt_it() -> None:
    left_behind(engine="local")
    with pytest.raises(UsageError, match="is not at work any more"):
        tending.halt(RUN_ID, AwsSettings(region=REGION), OutputSettings())
    with Journal.resume(journal_path(RUN_ID)), pytest.raises(UsageError, match="works on this machine"):
        tending.halt(RUN_ID, AwsSettings(region=REGION), OutputSettings())


# ------------------------------------------------------------------------------------------------------------ dead letters


def test_dead_letters_of_what_is_done_are_deleted_and_others_stay(aws: Aws) -> None:
    made = make(aws)
    tasks = [CopyTask(f"t.{n}", JOB, (Item(f"a{n}", 1, ""), Item(f"b{n}", 1, ""))) for n in range(3)]
    strange = CopyTask("t.9", JOB._replace(run_id="another"), (Item("c", 1, ""),))
    send(made, "copy-dead", *map(encode_task, [*tasks, strange]), "poison")
    lists = [ListTask("l.1", JOB, (Range("a", "m"),)), ListTask("l.2", JOB, (Range("m", None),))]
    send(made, "list-dead", *map(encode_task, lists))

    number, left = forget(
        aws, REGION, made.queue_urls, RUN_ID, frozenset({"b1"}), [Range("n", "o")], say=silently, sleep=silently
    )

    assert (number, left) == (3, 2)
    found = find_run(aws, REGION, RUN_ID)
    assert found is not None
    assert {kind: sum((depth.waiting, depth.in_flight)) for kind, depth in found.depths.items() if kind.endswith("-dead")} == {
        "copy-dead": 3,
        "list-dead": 1,
    }


def test_letters_that_hold_what_was_not_retried_stay(aws: Aws) -> None:
    made = make(aws)
    tasks = [CopyTask(f"t.{n}", JOB, (Item(f"a{n}", 1, ""), Item(f"b{n}", 1, ""))) for n in range(2)]
    send(made, "copy-dead", *map(encode_task, tasks))

    retried = frozenset({"a0", "b0", "a1"})
    assert forget(aws, REGION, made.queue_urls, RUN_ID, (), (), retried, say=silently, sleep=silently) == (1, 1)


def test_letters_are_looked_for_on_all_of_sqs_servers(aws: Aws) -> None:
    made = make(aws)
    send(made, "copy-dead", encode_task(CopyTask("t.0", JOB, (Item("a", 1, ""),))))

    def answer_from_some(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]] | None:
        return None if json.loads(params["body"]).get("WaitTimeSeconds") else (AWSResponse("", 200, {}, None), {})

    aws.client("sqs", REGION).meta.events.register("before-call.sqs.ReceiveMessage", answer_from_some)

    assert forget(aws, REGION, made.queue_urls, RUN_ID, (), (), frozenset("b"), say=silently, sleep=silently) == (0, 1)


def test_a_run_says_whose_it_is(aws: Aws) -> None:
    make(aws)

    found = find_run(aws, REGION, RUN_ID)

    assert found is not None
    assert (found.owner, found.overwrite) == ("arn:aws:iam::123456789012:user/someone", True)


@pytest.mark.parametrize("policy", [Policy(destination_owner="123456789012"), Policy(tags="drop")])
def test_a_run_that_tags_cannot_tell_all_of_has_no_bucket_to_retry_from(aws: Aws, policy: Policy) -> None:
    own = plan(job()._replace(policy=policy), IDENTITY, REGION, StackSettings(), "0.1.0", "2026-11-23T12:16:32Z")
    deploy(own, aws, bundle.build(), say=silently, sleep=silently)

    found = find_run(aws, REGION, RUN_ID)

    assert found is not None
    assert returning._job_of(found, REGION).source.bucket == ("source" if policy.tags == "copy" else "")

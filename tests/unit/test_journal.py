"""The journal: what was appended comes back as it was counted, whenever the command that wrote it died."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from s3bulkcopy import journal as journals
from s3bulkcopy.errors import JournalDamaged, JournalMissing, JournalUnusable, UsageError
from s3bulkcopy.journal import FORMAT, Facts, Journal, find_journal, forget_old, journal_path, state_folder
from s3bulkcopy.tally import RangeFailure, Tally
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Counts,
    Dead,
    Done,
    Event,
    Failure,
    Fatal,
    Item,
    Job,
    ListTask,
    Location,
    Range,
    Trouble,
    encode_task,
)
from tests.unit.test_tally import RUN, Story, by_key, deliveries, failed, tallied

JOB = Job(RUN, Location("a", "", "", ""), Location("b", "", "", ""))
FACTS = Facts(RUN, "lambda", aws=(("region", "eu-west-1"),))
several = settings(max_examples=40, deadline=None)


def facts_of(story: Story) -> Facts:
    """Give the facts of a run whose roots are queued; the probe's task is none of them."""
    roots = tuple(encode_task(ListTask(f"{RUN}.{n}", JOB, (Range("", None),))) for n in range(1, story.roots))
    return Facts(RUN, "lambda", roots, submitted=True)


@several
@given(deliveries(), st.lists(st.integers(0, 99), max_size=4), st.integers(1, 10))
def test_a_command_that_goes_on_counts_as_one_that_never_died(
    delivery: tuple[Story, list[Event]], deaths: list[int], compact_after: int
) -> None:
    story, events = delivery
    assume(story.roots > 1)
    cuts = sorted(n * len(events) // 99 for n in deaths)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journals, "COMPACT_AFTER", compact_after)
        path = Path(folder) / "run.journal"
        with Journal.create(path, facts_of(story)):
            pass
        for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
            with Journal.resume(path) as journal:
                tally = journal.replay()
                journal.append(events[start:end])
                tally.add(events[start:end])
                journal.compact_into(tally)
        with Journal.resume(path) as journal:
            found = [*journal.failures(journal.replay())]

    whole = tallied(story.roots, events)
    assert tally.snapshot() == whole.snapshot()
    assert by_key(found) == by_key(failed(whole, events))


@several
@given(deliveries())
def test_a_tally_goes_on_from_what_it_dumped(delivery: tuple[Story, list[Event]]) -> None:
    story, events = delivery
    whole, part = tallied(story.roots, events), Tally()
    part.announce(RUN, story.roots)
    for event in events:
        part = Tally.load(json.loads(json.dumps(part.dump())))
        part.add([event])

    assert part.snapshot() == whole.snapshot()
    assert (part.failures, part.denied, part.last_failure) == (whole.failures, whole.denied, whole.last_failure)


# ------------------------------------------------------------------------------------------------------------- one by one

ITEM = Item("a\udcff\x00b", 3, "e")
FAILURE = Failure(ITEM.key, 3, "AccessDenied", "no")
EVENTS: list[Event] = [
    Done(f"{RUN}.0", Attempt(1, "one"), 2, Counts(listed=2)),
    Done("one.0", Attempt(2, "two"), 0, Counts(failed=1), (FAILURE,)),
    Trouble("one.1", Attempt(5, "three"), "out of memory"),
    Dead("one.1", CopyTask("one.1", JOB, (ITEM,))),
    Dead(f"{RUN}.1", ListTask(f"{RUN}.1", JOB, (Range("k", None),))),
    Fatal(f"{RUN}.1", Attempt(1, "four"), "not_found", "gone"),
]
ROOT = encode_task(ListTask(f"{RUN}.1", JOB, (Range("", None),)))


def test_what_was_noted_and_appended_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "run.journal"
    facts = Facts(RUN, "lambda", (ROOT,), submitted=True, version="1", aws=(("region", "eu-west-1"),))
    with Journal.create(path, FACTS) as journal:
        journal.note(facts)
        journal.append(EVENTS)

    with Journal.resume(path) as journal:
        tally = journal.replay()
        assert journal.facts == facts
        assert tally.snapshot().counts == Counts(listed=2, failed=2)
        assert tally.fatal == EVENTS[-1]
        died = Failure(ITEM.key, 3, "DeadLetter", "its task died (out of memory); may have been copied")
        assert [*journal.failures(tally)] == [FAILURE, died]
        assert [*journal.failed_ranges(tally)] == [RangeFailure(Range("k", None), "killed, or never started")]


def test_failures_of_attempts_that_do_not_count_are_not_given() -> None:
    journal, tally = Journal.in_memory(FACTS), Tally()
    tally.announce(RUN, 1)
    events: list[Event] = [
        Done(f"{RUN}.0", Attempt(1, "wins"), 0, Counts(copied=1)),
        Done(f"{RUN}.0", Attempt(2, "loses"), 0, Counts(failed=1), (FAILURE,)),
        Done("orphan.0", Attempt(1, "waits"), 0, Counts(failed=1), (FAILURE,)),
    ]
    journal.append(events)
    tally.add(events)

    assert [*journal.failures(tally)] == []


def test_an_event_that_comes_again_fails_nothing_twice() -> None:
    journal = Journal.in_memory(FACTS)
    for _ in range(3):
        journal.append(EVENTS)

    assert len([*journal.failures(tallied(2, EVENTS))]) == 2


def take_troubles(number: int, journal: Journal, tally: Tally) -> None:
    """Take note of so many events, one after another, as a run does."""
    for n in range(number):
        events = [Trouble(f"{RUN}.1", Attempt(n, f"{n}"), "again")]
        journal.append(events)
        tally.add(events)
        journal.compact_into(tally)


def test_events_do_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    tally = Tally()
    with pytest.MonkeyPatch.context() as patch, Journal.create(path, Facts(RUN, "lambda", (ROOT,))) as journal:
        patch.setattr(journals, "COMPACT_AFTER", 100)
        tally.announce(RUN, 2)
        take_troubles(500, journal, tally)
    database = sqlite3.connect(path)
    (kept,) = database.execute("SELECT count(*) FROM events").fetchone()
    database.close()

    assert kept < 100


def test_the_larger_a_tally_the_more_events_are_kept_beside_it() -> None:
    tally, journal = Tally(), Journal.in_memory(Facts(RUN, "lambda", (ROOT,)))
    with mock.patch.object(journals, "COMPACT_AFTER", 1), mock.patch.object(tally, "dump", wraps=tally.dump) as dump:
        tally.announce(RUN, 1_000)
        take_troubles(1_000, journal, tally)

    assert 1 <= dump.call_count <= 10
    assert journal.replay().snapshot() == tally.snapshot()


def test_a_journal_has_one_writer_and_any_number_of_readers(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    read = (
        f"from pathlib import Path; from s3bulkcopy.journal import Journal; Journal.resume(Path({str(path)!r}), to_write=False)"
    )
    with Journal.create(path, FACTS) as journal:
        journal.append(EVENTS)
        with pytest.raises(JournalUnusable, match="another process has the journal"):
            Journal.resume(path)
        subprocess.run([sys.executable, "-c", read], check=True)
    with Journal.resume(path):
        pass


def test_who_looks_on_sees_what_is_under_way_as_long_as_somebody_carries_it_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3BULKCOPY_STATE_DIR", str(tmp_path))
    facts = replace(FACTS, engine="local")

    def copied() -> int | None:
        found = journals.local_run(RUN)
        return None if found is None else found.counts.copied

    with Journal.create(journal_path(RUN), facts) as journal:
        journal.append([], Counts(copied=5))
        during = copied()
        journal.append([Done(RUN, Attempt(1, "n"), 0, Counts(copied=3))], Counts(copied=2))
        after = copied()

    assert (during, after, copied()) == (5, 5, 3)
    with Journal.resume(journal_path(RUN)):
        assert copied() == 3


def test_a_writer_that_is_killed_leaves_the_journal_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    write = (
        "import os, signal; from pathlib import Path; from s3bulkcopy.journal import FORMAT, Facts, Journal;"
        "from s3bulkcopy.worker.model import Trouble, Attempt;"
        f"journal = Journal.create(Path({str(path)!r}), Facts('run', 'lambda', ({ROOT!r},)));"
        "journal.append([Trouble('run.1', Attempt(1, 'x'), 'broke')]);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", write], check=False)

    with Journal.resume(path) as journal:
        assert journal.replay().snapshot().troubles == 1


def test_no_journal_is_a_usage_error_that_says_where_it_would_be(tmp_path: Path) -> None:
    assert JournalMissing.exit_code == UsageError.exit_code
    with pytest.raises(JournalUnusable, match=r"there is no journal of that run on this machine .*run\.journal"):
        Journal.resume(tmp_path / "run.journal")


def test_another_database_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE events (number INTEGER)")
    database.close()

    with pytest.raises(JournalUnusable, match="is no journal of s3bulkcopy"):
        Journal.resume(path)


def test_another_format_is_an_error_that_names_both(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    with Journal.create(path, FACTS):
        pass
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 77")
    database.close()

    with pytest.raises(JournalUnusable, match=f"has format 77, and this version of s3bulkcopy reads {FORMAT}"):
        Journal.resume(path)


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough to be taken for one" * 30])
def test_a_damaged_journal_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.journal"
    path.write_bytes(content)

    with pytest.raises(JournalDamaged):
        Journal.resume(path)


@pytest.mark.parametrize("in_the_way", ["run.journal-wal", "run.lock"])  # as a full disk is, or a folder of somebody else's
def test_a_journal_that_cannot_be_read_for_now_is_not_called_damaged(tmp_path: Path, in_the_way: str) -> None:
    path = tmp_path / "run.journal"
    with Journal.create(path, FACTS):
        pass
    (tmp_path / in_the_way).unlink(missing_ok=True)
    (tmp_path / in_the_way).mkdir()

    with pytest.raises(JournalUnusable, match="cannot read the journal") as caught:
        Journal.resume(path)
    assert not isinstance(caught.value, JournalDamaged)
    assert "--take-over" not in caught.value.hint


def test_a_journal_in_which_something_was_changed_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    with Journal.create(path, Facts(RUN, "lambda", (ROOT,))) as journal:
        journal.append(EVENTS)
    database = sqlite3.connect(path)
    database.execute("UPDATE events SET body = 'nonsense' WHERE number = 2")
    database.commit()
    database.close()

    with Journal.resume(path) as journal, pytest.raises(JournalUnusable, match="is damaged"):
        journal.replay()


@pytest.mark.parametrize("body", ["nonsense", '{"v":1,"t":"copy","id":"n.0"}'])
def test_a_kept_task_that_cannot_be_read_is_an_error_and_stays(body: str) -> None:
    journal = Journal.in_memory(Facts(RUN, "local", (ROOT,)))
    tally = Tally()
    tally.announce("n", 1)
    journal.keep_tasks([("n.0", body)])

    for _ in range(2):
        with pytest.raises(JournalUnusable, match="is damaged"):
            journal.kept_tasks(tally)


def test_a_failure_that_cannot_be_read_is_an_error() -> None:
    journal = Journal.in_memory(Facts(RUN, "local", (ROOT,)))
    tally = Tally()
    tally.announce("n", 1)
    tally.add([Done("n.0", Attempt(1, "one"), 0, Counts(listed=1, failed=1), (Failure("a", 1, "c", "d"),))])
    journal._database.execute("INSERT INTO failures VALUES ('n.0', 'one', 0, 'nonsense')")

    with pytest.raises(JournalUnusable, match="is damaged"):
        [*journal.failures(tally)]


def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(JournalUnusable) as caught:
        Journal.create(tmp_path / "file" / "run.journal", FACTS)
    assert "S3BULKCOPY_STATE_DIR" in caught.value.hint


def test_state_is_kept_where_the_platform_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("S3BULKCOPY_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert state_folder() == tmp_path / ".local" / "state" / "s3bulkcopy"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_folder() == Path("/state/s3bulkcopy")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert state_folder() == tmp_path / "Library" / "Application Support" / "s3bulkcopy"
    monkeypatch.setenv("S3BULKCOPY_STATE_DIR", "/mine")
    assert journal_path("r") == Path("/mine/runs/r.journal")


def test_tasks_are_kept_until_they_have_ended_or_nobody_waits_for_them(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    tasks = [ListTask(name, JOB, (Range("", None),)) for name in (f"{RUN}.1", "one.0", "one.1", "orphan.0")]
    with Journal.create(path, Facts(RUN, "local", (ROOT,), submitted=True)) as journal:
        journal.keep_tasks((task.id, encode_task(task)) for task in tasks)
        journal.append(
            [
                Done(f"{RUN}.0", Attempt(1, "zero"), 0, Counts()),
                Done(f"{RUN}.1", Attempt(1, "one"), 2, Counts()),
                Done("one.0", Attempt(1, "two"), 0, Counts()),
            ]
        )

    for _ in range(2):
        with Journal.resume(path) as journal:
            assert journal.kept_tasks(journal.replay()) == [tasks[2]]


def test_roots_may_be_rows_and_are_announced_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    bodies = [encode_task(CopyTask(f"{RUN}.{n}", JOB, (ITEM,))) for n in (1, 2, 3)]
    with Journal.create(path, FACTS) as journal:
        journal.keep_roots(["left over from an attempt"])
        journal.note(replace(journal.facts, more_roots=journal.keep_roots(iter(bodies))))

    with Journal.resume(path) as journal:
        assert [encode_task(task) for task in journal.roots()] == bodies
        assert journal.job() == JOB
        assert journal.replay().snapshot().tasks == 4


def test_a_journal_of_a_run_of_which_nothing_was_queued_names_the_teardown() -> None:
    with pytest.raises(JournalUnusable) as caught:
        Journal.in_memory(FACTS).job()
    assert f"s3bulkcopy teardown {RUN}" in caught.value.hint


def test_failures_that_may_count_are_given_while_events_are_owed() -> None:
    journal, tally = Journal.in_memory(FACTS), Tally()
    tally.announce(RUN, 1)
    events: list[Event] = [
        Done("waits.0", Attempt(1, "x"), 0, Counts(failed=1), (FAILURE,)),
        Dead("waits.1", CopyTask("waits.1", JOB, (ITEM,))),
    ]
    journal.append(events)
    tally.add(events)

    assert [failure.code for failure in journal.failures(tally)] == ["AccessDenied", "DeadLetter"]
    tally.add([Done(f"{RUN}.0", Attempt(1, "y"), 0, Counts())])
    assert tally.complete
    assert [*journal.failures(tally)] == []


def test_a_reader_sees_one_moment_whatever_is_written_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    with Journal.create(path, Facts(RUN, "lambda", (ROOT,))) as journal:
        journal.append(EVENTS)
        with Journal.resume(path, to_write=False) as reader, reader.steady():
            before = len([*reader.failures(reader.replay())])
            journal.append([Done("one.1", Attempt(9, "z"), 0, Counts(failed=1), (FAILURE,))])
            assert len([*reader.failures(reader.replay())]) == before


def test_journals_that_are_of_no_use_any_more_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S3BULKCOPY_STATE_DIR", str(tmp_path))
    now = 100 * 24 * 3600.0
    made = (
        ("old", "lambda", 0, 31),
        ("young", "lambda", 0, 29),
        ("gone", "lambda", None, 31),
        ("open", "lambda", None, 29),
        ("left", "local", None, 91),
        ("stopped", "local", None, 89),
        ("held", "lambda", 3, 99),
        ("failed", "local", 3, 31),
    )
    for name, engine, ended, days in made:
        with Journal.create(journal_path(name), Facts(name, engine, ended=ended)):
            pass
        os.utime(journal_path(name), (now - days * 24 * 3600,) * 2)
    journal_path("foreign").write_text("no journal")
    os.utime(journal_path("foreign"), (0, 0))
    for name, days in (("broken", 31), ("just", 29)):
        damaged = journal_path(name).with_suffix(".damaged")
        damaged.write_text("no journal")
        os.utime(damaged, (now - days * 24 * 3600,) * 2)

    with Journal.resume(journal_path("held")):
        os.utime(journal_path("held"), (0, 0))
        gone = forget_old(now)

    assert gone == ["failed", "gone", "left", "old", "broken"]
    kept = sorted(path.name for path in journal_path("x").parent.glob("*.[jd]*"))
    assert kept == ["foreign.journal", "held.journal", "just.damaged", "open.journal", "stopped.journal", "young.journal"]


def test_a_journal_is_looked_for_among_temporary_files_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S3BULKCOPY_STATE_DIR", str(tmp_path))
    assert find_journal("r") == journal_path("r")
    monkeypatch.setattr(journals, "makeshift_path", lambda run_id: tmp_path / f"{run_id}.journal")
    (tmp_path / "r.journal").write_text("")
    assert find_journal("r") == tmp_path / "r.journal"


def test_a_journal_that_cannot_be_written_any_more_is_an_error(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "run.journal", FACTS)
    journal.__exit__()

    with pytest.raises(JournalUnusable, match="cannot write the journal"):
        journal.append(EVENTS)
    with pytest.raises(JournalUnusable, match="cannot write the journal"):
        journal.note(FACTS)

"""Runs found in an account, as text and as JSON."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from s3bulkcopy.aws.discover import FoundResource, FoundRun, QueueDepth
from s3bulkcopy.aws.stack import encode_tag
from s3bulkcopy.commands import tending
from s3bulkcopy.commands.tending import Everything, why_left
from s3bulkcopy.journal import Facts, LocalRun
from s3bulkcopy.settings import AwsSettings, OutputSettings
from s3bulkcopy.status import (
    created_at,
    local_run_as_json,
    local_run_as_line,
    local_run_as_text,
    run_as_json,
    run_as_line,
    runs_as_text,
    state_of,
)
from s3bulkcopy.worker.model import Counts, Job, Location

NOW = datetime(2026, 11, 23, 13, 16, 32, tzinfo=UTC)
RUN = FoundRun(
    "20261123-121632-k3f9xa",
    "s3://a",
    "s3://b",
    "2026-11-23T12:16:32Z",
    "0.1.0",
    "",
    (FoundResource("queue", "s3bulkcopy-20261123-121632-k3f9xa-copy", "https://q"),),
    {"list": QueueDepth(3, 1), "copy": QueueDepth(1200, 4), "copy-dead": QueueDepth(2, 1)},
    {"lister": "Enabled"},
)


def test_a_run_is_two_lines() -> None:
    assert runs_as_text([RUN], "eu-west-1", NOW).splitlines() == [
        "20261123-121632-k3f9xa  running, 1:00:00 old  s3://a -> s3://b",
        "  queues (waiting+in flight): list 3+1  copy 1,200+4  dead letters 3  resources 1",
    ]


def test_detail_names_every_resource_and_how_to_remove_them() -> None:
    lines = runs_as_text([RUN], "eu-west-1", NOW, flags=" --region eu-west-1").splitlines()

    assert lines[2:] == [
        "  made by s3bulkcopy 0.1.0 at 2026-11-23T12:16:32Z",
        "  mapping lister: Enabled",
        "  queue     s3bulkcopy-20261123-121632-k3f9xa-copy",
        "  remove everything with: s3bulkcopy teardown 20261123-121632-k3f9xa --region eu-west-1",
    ]


def test_who_looks_on_without_a_screen_is_told_of_each_change_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    less = replace(RUN, depths={**RUN.depths, "copy": QueueDepth(7, 4)})
    later = iter([RUN, RUN, less, less, None])
    monkeypatch.setattr("s3bulkcopy.commands.accounts.look_in", lambda *_: "r")
    monkeypatch.setattr(tending, "AwsSession", lambda _: None)
    monkeypatch.setattr(tending, "_find", lambda *_: [RUN])
    monkeypatch.setattr(tending, "find_run", lambda *_: next(later))
    monkeypatch.setattr("time.sleep", lambda _: None)

    assert tending.look_on(RUN.run_id, AwsSettings(), OutputSettings(), "looking on") == 8
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == runs_as_text([RUN], "r", datetime.now(UTC)).splitlines()
    assert out[-1] == run_as_line(less)
    assert sum("queues" in line for line in out) == 2


def test_no_runs_are_said_to_be_none() -> None:
    assert runs_as_text([], "eu-west-1", NOW) == "no runs in eu-west-1"


def test_a_run_without_tags_is_shown_as_what_it_is() -> None:
    bare = replace(RUN, source="", destination="", created="", version="", mappings={})

    assert runs_as_text([bare], "r", NOW).splitlines()[0] == "20261123-121632-k3f9xa  remains"


def test_states_are_told_from_mappings_and_tags() -> None:
    states = [
        state_of(RUN),
        state_of(replace(RUN, mappings={"a": "Enabled", "b": "Disabled"})),
        state_of(replace(RUN, halted="2026")),
        state_of(replace(RUN, mappings={})),
    ]

    assert states == ["running", "stopped", "halted", "remains"]


def test_json_holds_it_all() -> None:
    assert run_as_json(RUN) == {
        "run_id": "20261123-121632-k3f9xa",
        "engine": "lambda",
        "source": "s3://a",
        "destination": "s3://b",
        "created": "2026-11-23T12:16:32Z",
        "version": "0.1.0",
        "state": "running",
        "reports_until": None,
        "depths": {"list": [3, 1], "copy": [1200, 4], "copy-dead": [2, 1]},
        "dead_letters": 3,
        "mappings": {"lister": "Enabled"},
        "resources": [{"kind": "queue", "name": "s3bulkcopy-20261123-121632-k3f9xa-copy", "id": "https://q"}],
    }


FINISHED = replace(RUN, depths={"list": QueueDepth(0, 0), "copy": QueueDepth(0, 0), "reports": QueueDepth(40, 0)})


def test_a_run_without_work_whose_reports_wait_awaits_somebody_to_attach() -> None:
    assert state_of(FINISHED) == "finished, awaiting attach"
    assert runs_as_text([FINISHED], "r", NOW).startswith(
        "20261123-121632-k3f9xa  finished, awaiting attach (probably; its reports wait until 2026-12-07 12:16 UTC), 1:00:00 old"
    )
    assert run_as_json(FINISHED)["reports_until"] == "2026-12-07 12:16 UTC"
    assert "  follow it to its end with: s3bulkcopy attach 20261123-121632-k3f9xa" in runs_as_text(
        [FINISHED], "r", NOW, flags=""
    )


def test_a_run_with_work_or_with_a_watcher_is_running() -> None:
    for kind, depth in (("copy", QueueDepth(1, 0)), ("list", QueueDepth(0, 1)), ("reports", QueueDepth(0, 10))):
        assert state_of(replace(FINISHED, depths={**FINISHED.depths, kind: depth})) == "running"


def test_the_age_of_a_run_is_told_by_its_tag_or_else_by_its_name() -> None:
    assert created_at(RUN) == datetime(2026, 11, 23, 12, 16, 32, tzinfo=UTC)
    assert created_at(replace(RUN, created="")) == datetime(2026, 11, 23, 12, 16, 32, tzinfo=UTC)
    assert created_at(replace(RUN, created="", run_id="99999999-999999-aaaaaa")) is None


ME = "arn:aws:sts::123456789012:assumed-role/admin/me@example.org"
MINE = replace(RUN, owner=encode_tag(ME))


@pytest.mark.parametrize(
    ("found", "everything", "why"),
    [
        (MINE, Everything(), ""),
        (RUN, Everything(), "as it does not say whose it is"),
        (RUN, Everything(of_everyone=True), ""),
        (replace(RUN, owner=encode_tag(ME + "2")), Everything(), f"as it is {ME}2's"),
        (MINE, Everything(3600), ""),
        (MINE, Everything(3601), "as it is younger than that"),
        (replace(MINE, created="", run_id="99999999-999999-aaaaaa"), Everything(1), "as its age is not known"),
    ],
)
def test_all_means_ones_own_runs_that_are_old_enough(found: FoundRun, everything: Everything, why: str) -> None:
    assert why_left(found, everything, ME, NOW).startswith(why)
    assert bool(why_left(found, everything, ME, NOW)) == bool(why)


@pytest.mark.parametrize(
    ("destination", "bucket", "prefix"),
    [
        ("s3://b", "b", ""),
        ("s3://b/a long pre...", "b", "a long pre"),
        ("arn:aws:s3:eu-west-1:123456789012:accesspoint/a/x/", "arn:aws:s3:eu-west-1:123456789012:accesspoint/a", "x/"),
    ],
)
def test_uploads_of_a_run_are_looked_for_where_its_tags_say_that_it_copies_to(
    destination: str, bucket: str, prefix: str
) -> None:
    found = tending._destination_of(replace(RUN, destination=destination), "eu-west-1")

    assert found == Location(bucket, prefix, "eu-west-1", "")
    assert tending._destination_of(None, "eu-west-1").bucket == ""


FLAGS = " --endpoint-url http://store:9000"
HERE = LocalRun(
    Facts(RUN.run_id, "local", roots=("{}",), version="0.1.0"),
    Job(RUN.run_id, Location("a", "x/", "r", "http://store:9000/a"), Location("b", "", "r", "http://store:9000/b")),
    Counts(listed=1200, copied=1000, failed=2),
    is_held=False,
)


def test_a_local_run_that_was_stopped_names_its_places_and_what_goes_on_with_it() -> None:
    assert local_run_as_text(HERE, FLAGS, NOW).splitlines() == [
        "20261123-121632-k3f9xa  stopped (local engine, on this machine), 1:00:00 old  s3://a/x/ -> s3://b",
        "  listed 1,200  copied 1,000  failed 2",
        "  go on with: s3bulkcopy attach 20261123-121632-k3f9xa --endpoint-url http://store:9000",
        "  or dismiss it with: s3bulkcopy teardown 20261123-121632-k3f9xa --endpoint-url http://store:9000",
    ]


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (replace(HERE, is_held=True), "running"),
        (replace(HERE, job=None), "stopped"),
        (replace(HERE, facts=replace(HERE.facts, ended=3)), "ended with code 3"),
    ],
)
def test_nothing_goes_on_with_a_local_run_that_is_at_work_or_had_not_begun_or_has_ended(found: LocalRun, state: str) -> None:
    lines = local_run_as_text(found, FLAGS, NOW).splitlines()

    assert lines[0].startswith(f"20261123-121632-k3f9xa  {state} (local engine, on this machine)")
    assert not [line for line in lines if "go on with" in line]
    assert local_run_as_json(found, FLAGS)["attach"] is None


def test_what_failed_of_a_local_run_that_has_ended_is_shown_by_the_command_named() -> None:
    found = replace(HERE, facts=replace(HERE.facts, ended=3))

    assert local_run_as_text(found, FLAGS, NOW).splitlines()[2:] == [
        "  all that failed, and why: s3bulkcopy failures 20261123-121632-k3f9xa"
    ]


def test_a_local_run_is_an_object_and_a_line_too() -> None:
    assert local_run_as_json(HERE, FLAGS) == {
        "run_id": "20261123-121632-k3f9xa",
        "engine": "local",
        "source": "s3://a/x/",
        "destination": "s3://b",
        "version": "0.1.0",
        "state": "stopped",
        "exit_code": None,
        "listed": 1200,
        "copied": 1000,
        "failed": 2,
        "attach": "s3bulkcopy attach 20261123-121632-k3f9xa --endpoint-url http://store:9000",
    }
    assert local_run_as_line(HERE) == "20261123-121632-k3f9xa  stopped  listed 1,200  copied 1,000  failed 2"

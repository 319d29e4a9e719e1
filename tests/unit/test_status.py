"""Runs found in an account, as text and as JSON."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from s3bulkcopy.aws.discover import FoundResource, FoundRun, QueueDepth
from s3bulkcopy.status import run_as_json, runs_as_text, state_of

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
        "source": "s3://a",
        "destination": "s3://b",
        "created": "2026-11-23T12:16:32Z",
        "version": "0.1.0",
        "state": "running",
        "depths": {"list": [3, 1], "copy": [1200, 4], "copy-dead": [2, 1]},
        "dead_letters": 3,
        "mappings": {"lister": "Enabled"},
        "resources": [{"kind": "queue", "name": "s3bulkcopy-20261123-121632-k3f9xa-copy", "id": "https://q"}],
    }

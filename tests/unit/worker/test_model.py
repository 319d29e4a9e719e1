"""Messages: what is written is read again, and nothing else is read."""

from __future__ import annotations

import json
import sys
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker import model
from s3bulkcopy.worker.filters import Filter
from s3bulkcopy.worker.model import (
    COUNT_NAMES,
    MAX_CAUSE_BYTES,
    Attempt,
    CopyTask,
    Counts,
    Done,
    Failure,
    Fatal,
    Item,
    Job,
    ListTask,
    Location,
    MalformedMessage,
    Nothing,
    PartTask,
    Range,
    Task,
    Trouble,
    WalkTask,
    clip,
    decode_event,
    decode_task,
    encode_event,
    encode_task,
    to_json,
)
from s3bulkcopy.worker.properties import Policy
from tests.unit.worker.worker_fakes import JOB, item, items, keys, prefixes

texts = st.text(max_size=20)
numbers = st.integers(0, 2**63)
positive = st.integers(1, 10**15)
locations = st.builds(Location, texts, prefixes, texts, texts)
some_texts = st.lists(texts, max_size=3).map(tuple)
limits = st.one_of(st.none(), numbers)
filters = st.builds(Filter, some_texts, texts, numbers, limits, texts, texts, some_texts)
pairs = st.lists(st.tuples(texts, texts), max_size=2).map(tuple)
policies = st.one_of(
    st.just(Policy()),
    st.builds(
        Policy, texts, texts, texts, st.sampled_from([None, True, False]), texts, texts, pairs, texts, pairs, pairs,
        request_payer=st.booleans(), source_owner=texts,
    ),
)  # fmt: skip
flags, some_filters = st.booleans(), st.one_of(st.none(), filters)
jobs = st.builds(
    Job, texts, locations, locations, flags, numbers, numbers, flags, policies, some_filters, flags, numbers, numbers
)
PRESERVING = JOB._replace(policy=Policy(storage_class="preserve"))
classed = st.builds(Item._replace, items, storage_class=texts)
ranges = st.builds(Range, st.one_of(st.just(""), keys), st.one_of(st.none(), keys))
tasks = st.one_of(
    st.builds(ListTask, texts, jobs, st.lists(ranges, max_size=4).map(tuple), numbers, limits),
    st.builds(WalkTask, texts, jobs, st.lists(keys, max_size=4).map(tuple), numbers, limits, texts),
    st.builds(CopyTask, texts, jobs, st.lists(items, max_size=5).map(tuple), numbers, texts),
    st.builds(CopyTask, texts, st.just(PRESERVING), st.lists(classed, max_size=5).map(tuple), numbers, texts),
    st.builds(
        PartTask,
        texts,
        jobs,
        items,
        texts,
        positive,
        st.just(7),
        st.integers(7, 10_000),
        st.booleans(),
        numbers,
        numbers,
        texts,
        numbers,
        numbers,
        st.booleans(),
    ),
    st.builds(Nothing),
)
attempts = st.builds(Attempt, numbers, texts)
counts = st.builds(Counts, **dict.fromkeys(COUNT_NAMES, numbers))
failures = st.lists(st.builds(Failure, keys, numbers, texts, texts), max_size=4).map(tuple)
events = st.one_of(
    st.builds(Done, texts, attempts, numbers, counts, failures),
    st.builds(Trouble, texts, attempts, texts),
    st.builds(Fatal, texts, attempts, st.sampled_from(get_args(model.FatalKind)), texts),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=8,
)
several = settings(max_examples=100, deadline=None)


@several
@given(tasks)
def test_a_task_is_read_as_it_was_written(task: Task | Nothing) -> None:
    assert decode_task(encode_task(task)) == task


@several
@given(events)
def test_an_event_is_read_as_it_was_written(event: Done | Trouble | Fatal) -> None:
    assert decode_event(encode_event(event)) == event


@several
@given(st.one_of(tasks.map(encode_task), events.map(encode_event)))
def test_a_message_is_printable_ascii(body: str) -> None:
    assert set(body) <= {chr(c) for c in range(0x20, 0x7F)}


def test_what_is_default_is_not_said_and_storage_classes_travel_only_where_they_are_preserved() -> None:
    plain, preserving = (json.loads(encode_task(CopyTask("x", job, (item("a"),)))) for job in (JOB, PRESERVING))

    assert (plain["job"]["policy"], "classes" in plain) == ({}, False)
    assert (preserving["job"]["policy"], preserving["classes"]) == ({"storage_class": "preserve"}, [""])


def test_a_job_that_was_taken_down_before_there_were_policies_is_read() -> None:
    words = json.loads(encode_task(ListTask("x", JOB, ())))
    del words["job"]["policy"]

    assert decode_task(json.dumps(words)) == ListTask("x", JOB, ())


def test_a_key_may_hold_every_character() -> None:
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    task = CopyTask("x.0", JOB, tuple(item("".join(every[n : n + 256])) for n in range(0, len(every), 4096)))

    assert decode_task(encode_task(task)) == task


# -------------------------------------------------------------------------------------------------------- malformed ones


def fits(value: object, hint: Any) -> bool:
    """Tell whether a value is of the type that its annotation says, all the way down."""
    if hint is Any:
        return True
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return type(value) is tuple and all(fits(one, arguments[0]) for one in value)
    if hint in (str, int, bool, NoneType):
        return type(value) is hint
    return type(value) is hint and isinstance(value, tuple) and are_right(value)


def are_right(value: Any) -> bool:
    """Tell whether every field of a named tuple has the type it says."""
    hints = get_type_hints(type(value), {**vars(sys.modules[type(value).__module__]), "Filter": Filter})
    return all(fits(getattr(value, name), hints[name]) for name in value._fields)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Give where the parts of a JSON value are."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for name, part in inner for deeper in paths(part, (*path, name)))]


def replaced(value: Any, path: tuple[Any, ...], part: Any) -> Any:
    """Put a part somewhere in a copy of a JSON value; `...` takes out what is there."""
    if not path:
        return part
    head, *rest = path
    if not rest and part is ...:
        if isinstance(value, dict):
            return {name: inner for name, inner in value.items() if name != head}
        return [inner for n, inner in enumerate(value) if n != head]
    new = {**value} if isinstance(value, dict) else [*value]
    new[head] = replaced(value[head], tuple(rest), part) if rest else part
    return new


@settings(max_examples=250, deadline=None)
@given(st.data(), st.one_of(tasks.map(encode_task), events.map(encode_event)), st.one_of(st.just(...), values))
def test_a_message_with_a_wrong_part_is_malformed_or_still_of_the_right_types(
    data: st.DataObject, body: str, part: Any
) -> None:
    whole = json.loads(body)
    path = data.draw(st.sampled_from(paths(whole)[1:]))
    broken = json.dumps(replaced(whole, path, part))

    for decode in (decode_task, decode_event):
        try:
            decoded = decode(broken)
        except MalformedMessage:
            continue
        assert are_right(decoded)


@several
@given(st.one_of(st.text(), values.map(json.dumps), st.binary().map(lambda raw: raw.decode("latin-1"))))
def test_any_text_is_malformed(body: str) -> None:
    for decode in (decode_task, decode_event):
        with pytest.raises(MalformedMessage):
            decode(body)


TASK = json.loads(encode_task(CopyTask("x.0", JOB, (item("a"),))))
DONE = json.loads(encode_event(Done("x.0", Attempt(1, "n"), 0, Counts(), (Failure("a", 1, "c", "m"),))))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"v":1}',
        '{"v":1,"t":"nothing"',
        '{"v":1,"t":"nothing"}',
        '{"v":true,"t":"nothing"}',
        '{"v":1,"t":"list"}',
        *(
            json.dumps(replaced(TASK, path, part))
            for path, part in [
                (("id",), 7),
                (("id",), ...),
                (("t",), "lost"),
                (("t",), ["copy"]),
                (("idle",), "1"),
                (("idle",), True),
                (("idle",), -1),
                (("keys",), None),
                (("keys",), ...),
                (("keys",), "a"),
                (("keys",), []),
                (("keys",), ["a", "b"]),
                (("keys", 0), None),
                (("keys", 0), ["a"]),
                (("sizes",), 1),
                (("sizes", 0), 1.5),
                (("sizes", 0), True),
                (("sizes", 0), -1),
                (("etags",), ["e", "e"]),
                (("etags", 0), 3),
                (("job",), []),
                (("job", "run_id"), None),
                (("job", "source"), "b"),
                (("job", "source", "bucket"), 1),
                (("job", "source", "colour"), "red"),
                (("job", "overwrite"), 0),
                (("job", "batch_keys"), "1000"),
                (("job", "message_bytes"), None),
                (("job", "colour"), "red"),
            ]
        ),
    ],
)
def test_what_is_no_task_is_malformed(body: str) -> None:
    with pytest.raises(MalformedMessage):
        decode_task(body)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (("n",), "1"),
        (("nonce",), 1),
        (("kids",), -1),
        (("counts",), [0]),
        (("counts",), [0] * (len(COUNT_NAMES) + 1)),
        (("counts", 0), "0"),
        (("failures", 0), ["k"]),
        (("failures", 0, 3), None),
        (("t",), "fatal"),
        (("t",), "trouble"),
    ],
)
def test_what_is_no_event_is_malformed(path: tuple[Any, ...], part: Any) -> None:
    with pytest.raises(MalformedMessage):
        decode_event(json.dumps(replaced(DONE, path, part)))


def test_a_fatal_of_an_unknown_kind_is_malformed() -> None:
    body = encode_event(Fatal("x.0", Attempt(1, "n"), "not_found", "why")).replace("not_found", "bored")

    with pytest.raises(MalformedMessage, match="a message of kind 'fatal' is no event"):
        decode_event(body)


# ---------------------------------------------------------------------------------------------------------------- values


@several
@given(st.text(max_size=1000), st.integers(2, 400))
def test_a_clipped_text_fits_and_begins_as_it_did(text: str, most_bytes: int) -> None:
    clipped = clip(text, most_bytes)

    assert len(to_json(clipped)) <= most_bytes
    assert text.startswith(clipped)


@several
@given(st.text(max_size=MAX_CAUSE_BYTES).filter(lambda text: len(to_json(text)) <= MAX_CAUSE_BYTES))
def test_a_text_that_fits_is_left_as_it_is(text: str) -> None:
    assert clip(text) == text


@several
@given(counts, counts)
def test_counts_added_and_taken_away_are_as_before(one: Counts, other: Counts) -> None:
    assert one + other - other == one
    assert one + Counts() == one


@several
@given(ranges, keys)
def test_a_range_holds_a_key_as_the_bytes_of_utf_8_say(whole: Range, key: str) -> None:
    above = whole.after.encode() < key.encode()
    below = whole.until is None or key.encode() <= whole.until.encode()

    assert (key in whole) == (above and below)


@several
@given(prefixes, prefixes, keys)
def test_a_key_keeps_all_behind_the_prefix(source: str, destination: str, key: str) -> None:
    job = Job("r", Location("a", source, "", ""), Location("b", destination, "", ""))

    assert job.destination_key(source + key) == destination + key


def test_a_location_reads_as_people_write_it() -> None:
    assert [str(Location("b", prefix, "", "")) for prefix in ("", "p/")] == ["s3://b", "s3://b/p/"]


def test_an_item_is_a_value() -> None:
    assert Item("a", 1, '"e"') == Item("a", 1, '"e"')

"""The filters: what the table says, from the command line to the worker, is what is done."""

from __future__ import annotations

import shlex
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy import cli, options
from s3bulkcopy.aws.preflight import filter_of
from s3bulkcopy.worker.filters import BadPattern, Filter, Sieve, glob_expression, listed_prefix
from s3bulkcopy.worker.model import Item, Job
from tests.unit.filter_table import ROWS, Row
from tests.unit.worker.worker_fakes import DESTINATION, SOURCE, keys, prefixes

if TYPE_CHECKING:
    from s3bulkcopy.settings import Selection

DOCUMENT = (Path(__file__).parents[2] / "docs" / "filters.md").read_text()


def selected(arguments: str) -> Selection:
    """Give what the options of `run` select."""
    with cli.run.make_context("run", ["here", "there", *shlex.split(arguments)]) as context:
        return options.selection(dict(context.params))


@pytest.mark.parametrize("row", ROWS, ids=Row.line)
def test_the_table_is_what_is_done(row: Row) -> None:
    wanted = filter_of(selected(row.options)) or Filter()

    for prefix in ("", "some/prefix"):
        item, trait = Item(prefix + row.key, int(row.size), ""), (row.modified, row.storage_class, False)
        assert Sieve(wanted, prefix).sift([item], [trait]) == [row.copied]


def test_the_table_is_what_the_document_says() -> None:
    table = DOCUMENT.split("## The table")[1].split("## ")[0]

    assert [line for line in table.splitlines() if line.startswith("|")][2:] == [row.line() for row in ROWS]


def test_without_options_there_is_no_filter() -> None:
    assert filter_of(selected("--limit 3 --skip-archived")) is None


def test_the_order_of_patterns_is_that_of_the_command_line() -> None:
    rules = selected("--include a --exclude=b --include c --exclude d --exclude e").rules

    assert rules == ("+a", "-b", "+c", "-d", "-e")


def test_patterns_from_variables_come_before_and_those_that_exclude_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3BULKCOPY_INCLUDE", "a b")
    monkeypatch.setenv("S3BULKCOPY_EXCLUDE", "*")

    assert selected("").rules == ("-*", "+a", "+b")
    assert selected("--include c").rules == ("-*", "+c")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--include ''", "an empty pattern matches no key"),
        ("--include 'a['", "no ']' ends it"),
        ("--exclude '[z-a]'", "the range z-a"),
        ("--filter-regex '('", "no regular expression"),
        ("--min-size ten", "'ten' is not a size"),
        ("--min-size 1.5", "no whole number of bytes"),
        ("--min-size 2 --max-size 1", "no size is both"),
        ("--newer-than yesterday", "'yesterday' is no date and no age"),
        ("--newer-than 99999999w", "is no date and no age"),
        ("--newer-than 2026-02-01 --older-than 2026-01-31", "nothing is both newer"),
        ("--source-storage-class 'two words'", "is not a storage class"),
        ("--limit 0", "0 is not in the range"),
        ("--force-archived --skip-archived", "exclude each other"),
        ("--keys-from f --min-size 1", "--keys-from lists nothing, and --min-size needs a listing"),
        ("--keys-from f --older-than 1d", "--keys-from lists nothing, and --older-than needs a listing"),
        (
            "--keys-from f --source-storage-class GLACIER",
            "--keys-from lists nothing, and --source-storage-class needs a listing",
        ),
    ],
)
def test_what_makes_no_sense_is_told_as_bad_usage(arguments: str, told: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        selected(arguments)

    assert told in caught.value.format_message()
    assert caught.value.exit_code == 2


# ----------------------------------------------------------------------------------------------------------- properties

several = settings(max_examples=200, deadline=None)
patterns = st.text(st.sampled_from("ab/*?.\n"), min_size=1, max_size=8)
rules = st.lists(st.builds(str.__add__, st.sampled_from("+-"), patterns), max_size=5).map(tuple)
texts = st.text(st.sampled_from("ab/.\n"), max_size=8)


@several
@given(patterns, texts)
def test_a_pattern_without_sets_matches_what_fnmatch_says(pattern: str, key: str) -> None:
    sieve = Sieve(Filter((f"+{pattern}",)), "")

    assert sieve.takes_key(key) == fnmatchcase(key, pattern)


@several
@given(rules, texts)
def test_the_last_rule_that_matches_decides(rules: tuple[str, ...], key: str) -> None:
    matching = [rule[0] == "+" for rule in rules if fnmatchcase(key, rule[1:])]
    otherwise = not rules or rules[0][0] == "-"

    assert Sieve(Filter(rules), "").takes_key(key) == (matching[-1] if matching else otherwise)


@several
@given(rules, prefixes, texts)
def test_no_selected_key_is_outside_what_is_listed(rules: tuple[str, ...], prefix: str, key: str) -> None:
    wanted = Filter(rules)

    if Sieve(wanted, prefix).takes_key(prefix + key):
        assert (prefix + key).startswith(listed_prefix(prefix, wanted))


@several
@given(prefixes, prefixes, keys, keys)
def test_two_sources_never_map_onto_one_destination(source: str, destination: str, one: str, other: str) -> None:
    job = Job("r", SOURCE._replace(prefix=source), DESTINATION._replace(prefix=destination))
    there = [job.destination_key(source + key).encode() for key in (one, other)]

    assert (there[0] == there[1]) == (one == other)
    assert there[0] == destination.encode() + one.encode()


@several
@given(st.text(max_size=12))
def test_a_pattern_is_compiled_or_refused(pattern: str) -> None:
    try:
        glob_expression(pattern)
    except BadPattern:
        return
    Sieve(Filter((f"+{pattern}",)), "").takes_key("a/b")


def test_no_pattern_takes_long_over_a_long_key() -> None:
    sieve = Sieve(Filter((f"+{'a*' * 200}b",)), "")

    assert not sieve.takes_key("a" * 1024)

"""The faces of a run, with a clock of the test's own: what they say, where, and what they never let through."""

from __future__ import annotations

import doctest
import errno
import json
import os
import pty
import re
import termios
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from s3bulkcopy import view
from s3bulkcopy.engines import Depth, Depths
from s3bulkcopy.errors import CountsIncomplete, ObjectsFailed, UsageError
from s3bulkcopy.failures import Cause
from s3bulkcopy.run import Phases, Result
from s3bulkcopy.settings import OutputSettings
from s3bulkcopy.tally import RangeFailure, Snapshot
from s3bulkcopy.view import (
    JsonView,
    LiveView,
    PlainView,
    Rate,
    bytes_text,
    make_view,
    put_text,
    safe,
    share_text,
    show_error,
    wrapped,
    write_line,
)
from s3bulkcopy.worker.model import Counts, Failure, Range

if TYPE_CHECKING:
    from collections.abc import Callable

RUN_ID = "20261123-121632-4f2a91"
PLAN = "run 20261123-121632-4f2a91: copying s3://a/x to s3://b"

#: Foreign text that would turn red, clear the screen, go up a line and be taken for markup.
EVIL = "[bold]a[/bold]\x1b[31m\x1b[2J\r\n\x9b1A\u202e[/]"
EVIL_SHOWN = r"[bold]a[/bold]\x1b[31m\x1b[2J\r\n\x9b1A\u202e[/]"


@dataclass
class Clock:
    """A clock that stands still until it is told."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Desk:
    """A view with its clock and what it wrote."""

    settings: OutputSettings = field(default_factory=OutputSettings)
    is_terminal: bool = False
    clock: Clock = field(default_factory=Clock)
    stdout: StringIO = field(default_factory=StringIO)
    stderr: StringIO = field(default_factory=StringIO)

    def view(self) -> view.View:
        return make_view(self.settings, stdout=self.stdout, stderr=self.stderr, is_terminal=self.is_terminal, clock=self.clock)

    @property
    def out(self) -> list[str]:
        return self.stdout.getvalue().splitlines()

    @property
    def err(self) -> list[str]:
        return self.stderr.getvalue().splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out]


SNAPSHOT = Snapshot(
    counts=Counts(
        listed=1_234_567,
        listed_bytes=5_230_000_000,
        copied=1_200_000,
        copied_bytes=5_080_000_000,
        pages=1_235,
        copy_requests=1_200_010,
        retries=10,
        throttles=3,
    ),
    provisional=Counts(),
    ranges_failed=0,
    duplicates=0,
    tasks=5_000,
    tasks_open=35,
    dead=0,
    troubles=0,
    complete=False,
    unquiet=False,
    fatal=None,
)
LISTED = Depths(list=Depth(0, 0), copy=Depth(12, 3), dead=0, workers=1)
LISTING = Depths(list=Depth(7, 2), copy=Depth(12, 3), dead=0, workers=2)

RESULT = Result(
    run_id=RUN_ID,
    engine="lambda",
    source="s3://a/x",
    destination="s3://b",
    snapshot=replace(SNAPSHOT, counts=SNAPSHOT.counts._replace(listed=1_200_000), complete=True, tasks_open=0),
    failures=(),
    failed_ranges=(),
    phases=Phases(deploy=12.34, probe=3.0, work=120.0, teardown=4.56),
    seconds=139.9004,
)


def with_counts(snapshot: Snapshot = SNAPSHOT, /, **counts: int) -> Snapshot:
    return replace(snapshot, counts=snapshot.counts._replace(**counts))


def troubled(failures: int) -> Result:
    """Give a result in which everything went wrong that can."""
    counts = SNAPSHOT.counts._replace(listed=1_200_000 + 5 + 1 + failures, skipped=5, vanished=1, failed=failures)
    return replace(
        RESULT,
        snapshot=replace(RESULT.snapshot, counts=counts, ranges_failed=2, duplicates=4),
        failures=tuple(Failure(f"x/{n}", 1, "AccessDenied", "Access Denied") for n in range(failures)),
        causes=(
            Cause("AccessDenied: Access Denied; allow it", failures - 1, ("'x/0' (1 B)",)),
            Cause("Odd: \x1b; retry it", 1, ("'x/9'",)),
        ),
        failed_ranges=(RangeFailure(Range("", "x/m"), "killed"), RangeFailure(Range("x/m", None), "killed")),
        resources_left=("role s3bulkcopy-4f2a91 (throttled): s3bulkcopy teardown 4f2a91",),
    )


def test_a_dry_run_says_what_copying_takes_and_costs() -> None:
    desk = Desk()
    counts = Counts(listed=1001, listed_bytes=2 * 10**12, pages=3)
    requests = (("CopyObject", 1000), ("UploadPartCopy", 7451), ("HeadObject", 1))
    dry = replace(RESULT, snapshot=replace(SNAPSHOT, counts=counts, complete=True), dry=True, planned=requests)
    desk.view().summary(dry)

    assert "  cost        $0.04 for 8,451 COPY requests, $0.00 for 1 other (S3 Standard, us-east-1), $0.00 for LIST" in desk.out
    assert "  to send     1,000 CopyObject, 7,451 UploadPartCopy, 1 HeadObject" in desk.out
    desk.view().summary(replace(dry, planned=requests[:1]))
    assert "  cost        $0.01 for 1,000 COPY requests (S3 Standard, us-east-1), $0.00 for LIST" in desk.out


def test_a_store_that_is_not_aws_has_no_prices_and_nothing_is_deployed_for_it() -> None:
    desk, scripts = Desk(), Desk(OutputSettings(json=True))
    local = replace(RESULT, engine="local", has_prices=False)
    dry = replace(local, dry=True, planned=(("CopyObject", 1000),))
    for result in (local, dry):
        desk.view().summary(result)
    scripts.view().summary(dry)

    assert "  to send     1,000 CopyObject" in desk.out
    assert "  time        starting workers 12.3 s, checking rights 3.0 s, at work 0:02:00, tearing down 4.6 s" in desk.out
    assert not re.search(r"\$|us-east|deploy", desk.stdout.getvalue())
    prices = {name: value for name, value in scripts.events[-1].items() if name.endswith("_dollars")}
    assert prices == {"list_dollars": None, "copy_dollars": None, "other_dollars": None}


# ----------------------------------------------------------------------------------------------------------- formatting


def test_the_examples_in_the_docstrings_hold() -> None:
    ran = doctest.testmod(view)

    assert (ran.failed, ran.attempted > 0) == (0, True)


@given(st.integers(0, 10**18))
def test_bytes_take_few_characters_and_never_a_thousand_of_a_unit(number: int) -> None:
    amount, unit = bytes_text(number).split()

    assert unit == "PB" or float(amount) < 1000


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_hundred_percent_means_all(part: int, more: int) -> None:
    assert (share_text(part, part + more) == "100%") == (part > 0 and more == 0)


@given(st.text())
def test_safe_text_is_printable_and_left_alone_if_it_was(text: str) -> None:
    assert safe(text).isprintable()
    assert text.isprintable() is (safe(text) == text)


# ----------------------------------------------------------------------------------------------------------------- rate


def test_a_rate_looks_back_as_far_as_its_window_and_no_further() -> None:
    clock = Clock()
    rate = Rate(clock, seconds=10.0)
    shown = []
    for _ in range(4):
        shown.append(rate.add(int(clock.now - 1000) * 100))
        clock.forward(5.0)
    clock.forward(100.0)
    shown.append(rate.add(1500))
    clock.forward(10.0)
    shown.append(rate.add(1500))

    assert shown == [0.0, 100.0, 100.0, 100.0, 0.0, 0.0]


def test_a_rate_follows_a_change_within_a_window() -> None:
    clock = Clock()
    rate = Rate(clock, seconds=10.0)
    for count in (0, 1000, 1000):
        shown = rate.add(count)
        clock.forward(10.0)

    assert shown == 0.0


def test_a_count_that_shrinks_is_no_negative_rate() -> None:
    clock = Clock()
    rate = Rate(clock)
    rate.add(10)
    clock.forward(1.0)

    assert rate.add(5) == 0.0


# -------------------------------------------------------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("settings", "is_terminal", "face"),
    [
        (OutputSettings(), True, LiveView),
        (OutputSettings(), False, PlainView),
        (OutputSettings(progress=False), True, PlainView),
        (OutputSettings(quiet=True), True, PlainView),
        (OutputSettings(json=True), True, JsonView),
        (OutputSettings(json=True, quiet=True), False, JsonView),
    ],
)
def test_settings_and_terminal_choose_the_face(
    settings: OutputSettings, *, is_terminal: bool, face: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")

    assert type(Desk(settings, is_terminal).view()) is face


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    assert type(Desk(is_terminal=True).view()) is PlainView


# ---------------------------------------------------------------------------------------------------------------- plain


def test_plain_lines_tell_how_a_run_goes() -> None:
    desk = Desk()
    with desk.view() as shown:
        shown.plan(RUN_ID, [PLAN])
        shown.step("deploying")
        shown.progress(with_counts(copied=1_151_000), LISTED)
        desk.clock.forward(5.0)
        shown.progress(SNAPSHOT, LISTED)
        shown.warning("something is odd")

    assert desk.out == []
    assert desk.err == [
        PLAN,
        "0:00:00  deploying",
        "0:00:05  listed 1,234,567 (5.2 GB)  copied 1,200,000 (97%)  9,800/s  ETA 0:00:03  queued 12+3  retries 10  failed 0",
        "warning: something is odd",
    ]


def test_plain_lines_mark_what_may_yet_change() -> None:
    desk = Desk()
    shown = desk.view()
    shown.progress(with_counts(copied=1_151_000), LISTING)
    desk.clock.forward(5.0)
    shown.progress(replace(with_counts(copied=1_199_000), provisional=Counts(copied=1_000)), LISTING)

    assert desk.err == ["0:00:05  listed ~1,234,567 (5.2 GB)  copied ~1,200,000  9,800/s  queued 19+5  retries 10  failed 0"]


def test_what_ended_was_listed_even_if_its_lister_has_not_reported() -> None:
    desk = Desk()
    shown = desk.view()
    desk.clock.forward(5.0)
    early = replace(SNAPSHOT, counts=Counts(), provisional=Counts(copied=700, copied_bytes=7_000, failed=1))
    shown.progress(early, None)

    assert desk.err == ["0:00:05  listed ~701 (7.0 kB)  copied ~700  0/s  retries 0  failed 1"]


def test_plain_lines_come_after_five_seconds_then_every_ten_later_every_thirty() -> None:
    desk = Desk()
    shown = desk.view()
    for _ in range(200):
        desk.clock.forward(1.0)
        shown.progress(SNAPSHOT, LISTED)

    times = [line.split()[0] for line in desk.err]
    assert times == [view.duration_text(at) for at in (*range(5, 116, 10), 145, 175)]


def test_no_progress_leaves_the_steps() -> None:
    desk = Desk(OutputSettings(progress=False), is_terminal=True)
    shown = desk.view()
    shown.step("deploying")
    desk.clock.forward(65.0)
    shown.progress(SNAPSHOT, LISTED)
    shown.step("tearing down")

    assert desk.err == ["0:00:00  deploying", "0:01:05  tearing down"]


def test_an_estimate_without_sense_is_not_spelled_out() -> None:
    desk = Desk()
    shown = desk.view()
    shown.progress(with_counts(copied=0), LISTED)
    desk.clock.forward(10.0)
    shown.progress(with_counts(copied=1), LISTED)

    assert "  0/s  ETA over 100 h  " in desk.err[0]


def test_stopping_survives_a_signal_amid_a_write() -> None:
    class Busy(StringIO):
        def write(self, _text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    desk = Desk(stderr=Busy())

    desk.view().stopping("stopping")


# ---------------------------------------------------------------------------------------------------------------- quiet


@pytest.mark.parametrize("is_terminal", [True, False])
def test_quiet_is_one_line(*, is_terminal: bool) -> None:
    desk = Desk(OutputSettings(quiet=True), is_terminal)
    with desk.view() as shown:
        shown.plan(RUN_ID, [PLAN])
        shown.step("deploying")
        desk.clock.forward(60.0)
        shown.progress(SNAPSHOT, LISTED)
        shown.note("by the way")
    shown.summary(RESULT, ["by the way"])

    assert desk.err == []
    assert desk.out == [
        "20261123-121632-4f2a91: copied 1,200,000 of 1,200,000 objects (5.1 GB) in 0:02:19, 0 failed",
    ]


def test_quiet_does_not_hide_what_is_wrong() -> None:
    desk = Desk(OutputSettings(quiet=True))
    desk.view().summary(troubled(11))

    assert desk.out == [
        (
            "20261123-121632-4f2a91: copied 1,200,000 of 1,200,017 objects (5.1 GB) in 0:02:19, 11 failed, "
            "5 skipped, 1 vanished, the listing is incomplete, 1 resource left behind"
        ),
    ]


def test_quiet_names_what_the_filters_left_out() -> None:
    filtered, desk = replace(RESULT, snapshot=with_counts(listed=0, copied=0, filtered=1500)), Desk(OutputSettings(quiet=True))
    desk.view().summary(filtered)
    desk.view().summary(replace(filtered, dry=True))

    assert [", 1,500 filtered" in line for line in desk.out] == [True, True]


# -------------------------------------------------------------------------------------------------------------- summary


def test_the_summary_of_a_good_run() -> None:
    desk = Desk()
    desk.view().summary(RESULT, ["remove the bucket when you no longer need it"])

    assert desk.out == [
        "copied 1,200,000 of 1,200,000 objects (5.1 GB) from s3://a/x to s3://b in 0:02:19",
        "  rate        10,000 objects/s while at work",
        "  time        deploying 12.3 s, checking rights 3.0 s, at work 0:02:00, tearing down 4.6 s",
        "  requests    1,235 LIST, 1,200,010 COPY; 10 repeated, 3 throttled",
    ]
    assert desk.err == ["remove the bucket when you no longer need it"]


def test_the_summary_of_a_bad_run() -> None:
    desk = Desk()
    desk.view().summary(troubled(12))

    assert desk.out[4:] == [
        "  skipped     5 (there already)",
        "  vanished    1 (not there any more, or never)",
        "  duplicates  4 (copied more than once, counted once)",
        "  failed      12 (not at the destination)",
        "    11 x AccessDenied: Access Denied; allow it (such as 'x/0' (1 B))",
        r"    1 x Odd: \x1b; retry it (such as 'x/9')",
        "  ranges      2 not listed to the end: the listing is incomplete",
        "    from the start until 'x/m': killed",
        "    after 'x/m' to the end: killed",
        "  left        1 resource; the command that removes it follows each",
        "    role s3bulkcopy-4f2a91 (throttled): s3bulkcopy teardown 4f2a91",
    ]


def test_a_run_without_work_has_a_summary_too() -> None:
    desk = Desk()
    nothing = replace(RESULT, snapshot=replace(SNAPSHOT, counts=Counts()), phases=Phases(), seconds=0.0)
    desk.view().summary(nothing)

    assert desk.out[:2] == [
        "copied 0 of 0 objects (0 B) from s3://a/x to s3://b in 0.0 s",
        "  requests    0 LIST, 0 COPY; 0 repeated, 0 throttled",
    ]


def test_a_key_that_the_stream_cannot_encode_is_escaped() -> None:
    raw = BytesIO()
    stdout = TextIOWrapper(raw, encoding="ascii")
    failed = replace(RESULT, causes=(Cause("NoSuchKey: ø", 1, (repr("日\udc80"),)),))
    make_view(OutputSettings(), stdout=stdout, stderr=StringIO(), is_terminal=False, clock=Clock()).summary(failed)

    assert raw.getvalue().decode("ascii").splitlines()[-1] == r"    1 x NoSuchKey: \xf8 (such as '\u65e5\udc80')"


# ----------------------------------------------------------------------------------------------------------------- JSON


def test_the_last_json_line_is_the_summary_with_its_keys_in_order() -> None:
    desk = Desk(OutputSettings(json=True))
    desk.view().summary(troubled(11), ["by the way"])

    assert list(json.loads(desk.out[-1]).items()) == [
        ("run_id", RUN_ID),
        ("engine", "lambda"),
        ("source", "s3://a/x"),
        ("destination", "s3://b"),
        ("listed", 1_200_017),
        ("listed_bytes", 5_230_000_000),
        ("copied", 1_200_000),
        ("copied_bytes", 5_080_000_000),
        ("skipped", 5),
        ("vanished", 1),
        ("failed", 11),
        ("filtered", 0),
        ("archived", 0),
        ("ranges_failed", 2),
        ("duplicates", 4),
        ("seconds", 139.9),
        ("resources_left", ["role s3bulkcopy-4f2a91 (throttled): s3bulkcopy teardown 4f2a91"]),
    ]
    assert desk.err == ["by the way"]


def test_json_lines_tell_how_a_run_goes_and_nothing_else_is_on_stdout() -> None:
    desk = Desk(OutputSettings(json=True))
    with desk.view() as shown:
        shown.plan(RUN_ID, [PLAN])
        shown.step("deploying")
        shown.progress(with_counts(copied=1_190_200), LISTED)
        desk.clock.forward(1.0)
        shown.progress(SNAPSHOT, LISTED)
        shown.warning("something is odd")
        shown.stopping("stopping")
    shown.summary(replace(RESULT, failures=(Failure(EVIL, 1, "Odd", "odd"),)))

    assert [event.get("event") for event in desk.events] == ["plan", "step", "progress", "progress", "phases", "failure", None]
    assert desk.events[0] == {"event": "plan", "run_id": RUN_ID, "lines": [PLAN]}
    assert desk.events[1] == {"event": "step", "seconds": 0.0, "text": "deploying"}
    assert desk.events[3] == {
        "event": "progress",
        "run_id": RUN_ID,
        "seconds": 1.0,
        "listed": 1_234_567,
        "listed_bytes": 5_230_000_000,
        "copied": 1_200_000,
        "copied_bytes": 5_080_000_000,
        "skipped": 0,
        "vanished": 0,
        "failed": 0,
        "retries": 10,
        "rate": 9800.0,
        "provisional": False,
        "tasks": 5_000,
        "tasks_open": 35,
        "dead": 0,
        "depths": {"list": {"waiting": 0, "in_flight": 0}, "copy": {"waiting": 12, "in_flight": 3}, "dead": 0, "workers": 1},
    }
    assert desk.events[5] == {"event": "failure", "key": EVIL, "size": 1, "code": "Odd", "cause": "odd"}
    assert desk.err == ["warning: something is odd", "stopping"]


def test_json_progress_is_no_denser_than_four_lines_a_second_but_tells_of_the_end() -> None:
    desk = Desk(OutputSettings(json=True))
    shown = desk.view()
    for _ in range(9):
        shown.progress(SNAPSHOT, LISTED)
        desk.clock.forward(0.125)
    shown.progress(replace(SNAPSHOT, complete=True), LISTED)

    assert [event["seconds"] for event in desk.events] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.125]


def test_quiet_json_is_the_summary_alone() -> None:
    desk = Desk(OutputSettings(json=True, quiet=True))
    shown = desk.view()
    shown.plan(RUN_ID, [PLAN])
    shown.step("deploying")
    shown.progress(SNAPSHOT, LISTED)
    shown.summary(troubled(3))

    assert [event["failed"] for event in desk.events] == [3]


# ----------------------------------------------------------------------------------------------------------------- live


def live(width: int, settings: OutputSettings | None = None) -> tuple[LiveView, Clock, StringIO]:
    """Give a live view on a terminal without colours, its clock, and what it draws."""
    clock, drawn = Clock(), StringIO()
    console = Console(
        file=drawn,
        force_terminal=True,
        color_system=None,
        width=width,
        height=24,
        markup=False,
        highlight=False,
        emoji=False,
        _environ={},
    )
    return LiveView(settings or OutputSettings(), StringIO(), drawn, clock, console), clock, drawn


def picture(shown: LiveView, drawn: StringIO) -> list[str]:
    """Draw one frame."""
    drawn.seek(0)
    drawn.truncate()
    shown._console.print(shown.render())
    return [line.rstrip() for line in drawn.getvalue().splitlines()]


def at_work(width: int) -> tuple[LiveView, StringIO]:
    """Give a live view of a run that is copying while it is listing."""
    shown, clock, drawn = live(width)
    shown.plan(RUN_ID, [PLAN], source="s3://some-bucket/prefix", destination="s3://some-other-bucket")
    shown.step("copying")
    shown.progress(with_counts(copied=1_151_000, listed=1_184_567), LISTING)
    clock.forward(5.0)
    shown.progress(replace(with_counts(copied=1_199_000), provisional=Counts(copied=1_000)), LISTING)
    return shown, drawn


def test_the_live_view_shows_everything_at_eighty_columns() -> None:
    assert picture(*at_work(80)) == [
        "  0:00:05   20261123-121632-4f2a91",
        "  s3://some-bucket/prefix -> s3://some-other-bucket",
        "  list  ━━━━━━━━━  ~1,234,567  5.2 GB  10,000/s",
        "  copy             ~1,200,000  5.1 GB   9,800/s    of 1,234,567+ listed so far",
        "  waiting+in flight: list 7+2   copy 12+3   workers ~2   dead letters 0",
        "  tasks open 35 of 5,000   retries 10   throttled 3   failed 0",
        "| copying",
    ]


def test_the_live_view_gives_up_columns_before_it_wraps() -> None:
    assert picture(*at_work(60)) == [
        "  0:00:05   20261123-121632-4f2a91",
        "  s3://some-bucket/prefix -> s3://some-other-bucket",
        "  list  ━━━━━━━━━  ~1,234,567",
        "  copy             ~1,200,000  of 1,234,567+ listed so far",
        "  waiting+in flight: list 7+2   copy 12+3   workers ~2",
        "  dead letters 0",
        "  tasks open 35 of 5,000   retries 10   throttled 3",
        "  failed 0",
        "| copying",
    ]


@pytest.mark.parametrize("width", [20, 30, 40, 80, 200])
def test_no_line_of_the_live_view_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, picture(*at_work(width)))) <= width


def test_a_complete_listing_is_exact() -> None:
    shown, _, drawn = live(80)
    shown.progress(replace(SNAPSHOT, complete=True), LISTING)

    assert "  1,234,567  " in picture(shown, drawn)[1]


def test_the_live_view_begins_with_a_step_and_says_at_once_that_it_stops() -> None:
    shown, _, drawn = live(80)
    shown.step("deploying")
    before = picture(shown, drawn)
    shown.stopping("stopping…")

    assert before == ["  0:00:00", "| deploying"]
    assert picture(shown, drawn) == ["  0:00:00", "stopping…", "| deploying"]


def test_the_live_view_names_what_went_wrong() -> None:
    shown, _, drawn = live(80)
    shown.progress(replace(with_counts(failed=12, skipped=2), ranges_failed=1, dead=2), LISTED)

    assert picture(shown, drawn)[3:5] == [
        "  waiting+in flight: list 0+0   copy 12+3   workers ~1   dead letters 2",
        "  tasks open 35 of 5,000   retries 10   throttled 3   failed 12",
    ]
    assert picture(shown, drawn)[5] == "  ranges failed 1   skipped 2"


def test_the_live_display_is_drawn_and_taken_away_and_leaves_the_cursor_visible() -> None:
    shown, _, drawn = live(80, OutputSettings(verbose=1))
    with shown:
        assert drawn.getvalue().endswith("\x1b[?25h")
        shown.step("deploying")
        shown.warning("something is odd")
        shown.progress(SNAPSHOT, LISTED)
    text = drawn.getvalue()

    assert "0:00:00  deploying\n" in text
    assert "warning: something is odd\n" in text
    assert "1,200,000" in text
    assert text.endswith("\x1b[1A\x1b[2K")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_long_lines_above_the_bars_are_broken_between_words_but_not_in_commands_so_that_these_can_be_copied() -> None:
    shown, _, drawn = live(60)
    command = "s3bulkcopy teardown 20261123-121632-4f2a91 --region eu-west-1 --profile some-profile"
    shown.note(f"{'word ' * 14}left behind: role x (throttled): {command}; {'word ' * 4}")

    assert drawn.getvalue() == (
        "word word word word word word word word word word word word\n"
        "  word word left behind: role x (throttled):\n"
        f"  {command};\n"
        "  word word word word\n"
    )


def test_the_columns_of_a_summary_stay_where_they_are_and_its_lines_are_broken_in_a_terminal() -> None:
    line = "  requests    1 LIST, 100 COPY; 0 repeated, 0 throttled"

    assert wrapped(line, 0) == wrapped(line, 80) == line
    assert wrapped(line, 40) == "  requests    1 LIST, 100 COPY; 0\n    repeated, 0 throttled"


def test_what_is_written_to_a_terminal_is_broken_as_wide_as_that_is() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 20))
    with os.fdopen(ours, "rb", 0) as shown, os.fdopen(theirs, "w") as terminal:
        put_text(terminal, "some words that are too long")
        assert shown.read(100).split(b"\r\n") == [b"some words that are", b"  too long", b""]


def test_while_more_may_be_listed_nothing_is_a_share_of_it_and_before_the_end_no_share_is_all() -> None:
    shown, _, drawn = live(80)
    all_copied = with_counts(listed=SNAPSHOT.counts.copied)
    shown.progress(all_copied, LISTED)
    assert "99%" in picture(shown, drawn)[2]
    shown.progress(replace(all_copied, complete=True), LISTED)
    assert "100%" in picture(shown, drawn)[2]


# --------------------------------------------------------------------------------------------------------- foreign text


def test_foreign_text_is_harmless_on_every_face() -> None:
    shown, _, drawn = live(200)
    shown.plan(EVIL, [EVIL], source=EVIL, destination=EVIL)
    shown.step(EVIL)
    assert drawn.getvalue() == f"{EVIL_SHOWN}\n"
    assert picture(shown, drawn) == [f"  0:00:00   {EVIL_SHOWN}   {EVIL_SHOWN} -> {EVIL_SHOWN}", f"| {EVIL_SHOWN}"]

    desk = Desk()
    desk.view().warning(EVIL)
    desk.view().summary(replace(RESULT, causes=(Cause(EVIL, 1, (EVIL,)),), resources_left=(EVIL,)))
    assert desk.err == [f"warning: {EVIL_SHOWN}"]
    assert desk.out[4:] == [
        f"    1 x {EVIL_SHOWN} (such as {EVIL_SHOWN})",
        "  left        1 resource; the command that removes it follows each",
        f"    {EVIL_SHOWN}",
    ]


@given(st.text())
def test_no_message_reaches_the_terminal_with_control_characters(text: str) -> None:
    desk = Desk()
    desk.view().note(text)

    assert desk.stderr.getvalue() == f"{safe(text)}\n"


def test_an_error_is_told_with_its_hint() -> None:
    with_hint, without = StringIO(), StringIO()
    show_error(UsageError(f"no bucket {EVIL}", hint="name one [like this]"), with_hint)
    show_error(UsageError("no bucket"), without)

    assert with_hint.getvalue() == f"error: no bucket {EVIL_SHOWN}\nhint: name one [like this]\n"
    assert without.getvalue() == "error: no bucket\n"


# ------------------------------------------------------------------------------------------------- a run beyond its command


@pytest.mark.parametrize("settings", [OutputSettings(), OutputSettings(quiet=True)])
def test_a_detached_run_names_the_command_that_follows_it(settings: OutputSettings) -> None:
    desk = Desk(settings)
    desk.view().detached(RUN_ID, f"s3bulkcopy attach {RUN_ID}", "2026-12-07 12:16 UTC", Counts())

    assert desk.out == [
        f"{RUN_ID}: queued; it goes on without this command. Follow it with: s3bulkcopy attach {RUN_ID}",
    ]
    assert desk.err == ([] if settings.quiet else ["its reports wait until 2026-12-07 12:16 UTC"])


COUNTED = {
    "listed": 9, "listed_bytes": 90, "copied": 4, "copied_bytes": 40, "skipped": 1, "vanished": 1, "failed": 3, "filtered": 2,
    "archived": 1,
}  # fmt: skip


def test_a_detached_run_is_a_line_of_json_too() -> None:
    desk = Desk(OutputSettings(json=True))
    desk.view().detached(RUN_ID, "attach", "then", Counts(**COUNTED))

    end = {"exit_code": 0, "error": None, "attach": "attach", "reports_until": "then"}
    assert desk.events == [{"event": "detached", "run_id": RUN_ID, **COUNTED, **end}]


@pytest.mark.parametrize("quiet", [False, True])
def test_what_stops_a_run_is_the_last_line_of_json(quiet: bool) -> None:  # noqa: FBT001
    desk = Desk(OutputSettings(json=True, quiet=quiet))
    error = ObjectsFailed("too many", hint="look")
    error.counts = Counts(**COUNTED)
    shown = desk.view()
    shown.plan(RUN_ID, [PLAN])
    with pytest.raises(ObjectsFailed), shown:
        raise error

    told = {"exit_code": 3, "error": {"message": "too many", "hint": "look"}}
    assert desk.events[-1] == {"event": "stopped", "run_id": RUN_ID, **COUNTED, **told}


def test_what_stops_a_command_before_there_is_a_run_is_told_without_one() -> None:
    desk = Desk(OutputSettings(json=True))
    with pytest.raises(KeyboardInterrupt), desk.view():
        raise KeyboardInterrupt

    told = {"exit_code": 130, "error": {"message": "interrupted", "hint": ""}}
    assert desk.events == [{"event": "stopped", "run_id": None, **dict.fromkeys(COUNTED, 0), **told}]


def test_a_summary_stays_the_last_line_of_json_where_its_counts_are_an_error() -> None:
    desk = Desk(OutputSettings(json=True))
    shown = desk.view()
    shown.summary(RESULT)
    with pytest.raises(CountsIncomplete), shown:
        raise CountsIncomplete("some")

    assert desk.events[-1]["run_id"] == RUN_ID
    assert "event" not in desk.events[-1]


def test_counts_that_are_incomplete_are_called_so() -> None:
    owed = replace(RESULT, snapshot=replace(RESULT.snapshot, complete=False))
    whole, short = Desk(), Desk(OutputSettings(quiet=True))
    whole.view().summary(owed)
    short.view().summary(owed)

    assert "  counts      incomplete: what the run's reports still told" in whole.out
    assert short.out[0].endswith(", the counts are incomplete")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    desk = Desk(OutputSettings(verbose=1), is_terminal)

    def write(_: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    shown = desk.view()
    monkeypatch.setattr(desk.stderr, "write", write)
    monkeypatch.setattr(desk.stdout, "write", write)
    shown.step("listing")
    shown.summary(RESULT, ["a note"])
    shown.__exit__()


def nobody_reads() -> TextIO:
    """Give a pipe whose reader has ended, as `tee` has after Ctrl-C."""
    ours, theirs = os.pipe()
    os.close(ours)
    return os.fdopen(theirs, "w")


def full_disk() -> TextIO:
    return Path("/dev/full").open("w")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("opened", [nobody_reads, full_disk])
@pytest.mark.parametrize("settings", [OutputSettings(), OutputSettings(json=True)])
def test_lines_that_cannot_be_written_end_no_run(opened: Callable[[], TextIO], settings: OutputSettings) -> None:
    stream = opened()
    shown = make_view(settings, stdout=stream, stderr=stream, is_terminal=False, clock=Clock())

    shown.step("listing")
    shown.stopping("stopping")
    shown.summary(RESULT, ["a note"])

    with pytest.raises(OSError, match=r"Broken pipe|No space left"):  # as whoever is paged through is to learn
        write_line(stream, "a line")
    with suppress(OSError):
        stream.close()

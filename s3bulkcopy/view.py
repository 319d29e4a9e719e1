"""One tally, three faces: a live display in a terminal, plain lines without one, JSON lines for scripts.

Results go to stdout, everything else to stderr. Keys and causes are foreign text: control characters in them are escaped, and
markup is never interpreted. Nothing here sleeps; time comes from a clock that is an argument.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from s3bulkcopy.costs import COPIES, dollars
from s3bulkcopy.errors import Interrupted, S3BulkCopyError
from s3bulkcopy.settings import REQUEST_DOLLARS
from s3bulkcopy.worker.model import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console, RenderableType
    from rich.text import Text

    from s3bulkcopy.costs import Requests
    from s3bulkcopy.engines import Depths
    from s3bulkcopy.failures import Cause
    from s3bulkcopy.run import Phases, Result
    from s3bulkcopy.settings import OutputSettings
    from s3bulkcopy.tally import RangeFailure, Snapshot

#: What is counted of objects, as a summary has it.
_COUNTED = (
    "listed", "listed_bytes", "copied", "copied_bytes", "skipped", "vanished", "failed", "filtered", "archived",
)  # fmt: skip

#: Failures and causes of failures that a summary names; the count tells of the others.
SHOWN_FAILURES = 10

#: How far back a rate looks, in seconds.
RATE_SECONDS = 10.0

#: Pauses between plain progress lines, in seconds: from when on, and how long; the first line comes after the first.
_PACES = ((0.0, 5.0), (5.0, 10.0), (115.0, 30.0))

#: Least time between JSON progress lines, in seconds; a run may poll more often.
_JSON_SECONDS = 0.25

#: The CLI shares its cores with local workers, so it draws no more often than needed.
_FRAMES_A_SECOND = 4

#: Widths of a bar in the terminal, in cells: less is no bar, more tells no more.
_BAR_CELLS = (8, 40)

#: What a line is not broken in: a command that is to be pasted, up to what follows it, or else a word; and the gap before it.
_UNITS = re.compile(r"(\s*)(`[^`]*`\S*|(?:s3bulkcopy|aws|pip) [a-z][^;]*;?|\S+)")

#: Columns of the bars' table that give way in a narrow terminal, the first one first.
_DISPENSABLE = ("bytes", "share", "rate", "bar")


# ----------------------------------------------------------------------------------------------------------- formatting


def count_text(number: int) -> str:
    """Write a number with separators.

    >>> count_text(1234567)
    '1,234,567'
    """
    return f"{number:,}"


def bytes_text(number: float) -> str:
    """Write a number of bytes in decimal units.

    >>> bytes_text(999), bytes_text(999_960), bytes_text(5_230_000_000)
    ('999 B', '1.0 MB', '5.2 GB')
    """
    if round(number) < 1000:  # noqa: PLR2004 - decimal units
        return f"{number:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1000
        if round(number, 1) < 1000:  # noqa: PLR2004
            return f"{number:.1f} {unit}"
    return f"{number / 1000:,.1f} PB"


def duration_text(seconds: float) -> str:
    """Write a duration in hours, minutes and seconds; a part of a second is dropped.

    >>> duration_text(65.9), duration_text(360_000)
    ('0:01:05', '100:00:00')
    """
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def seconds_text(seconds: float) -> str:
    """Write how long something took: tenths of a second up to a minute, then as a duration.

    >>> seconds_text(12.34), seconds_text(65)
    ('12.3 s', '0:01:05')
    """
    return f"{seconds:.1f} s" if seconds < 60 else duration_text(seconds)  # noqa: PLR2004 - a minute


def rate_text(rate: float) -> str:
    """Write a number of objects a second.

    >>> rate_text(3512.4)
    '3,512/s'
    """
    return f"{rate:,.0f}/s"


def share_text(part: int, whole: int) -> str:
    """Write a share in percent, rounded down: 100% is said of all only.

    >>> share_text(999_999, 1_000_000), share_text(5, 5), share_text(0, 0)
    ('99%', '100%', '0%')
    """
    return f"{part * 100 // whole if whole else 0}%"


def safe(text: str) -> str:
    r"""Escape what could drive a terminal.

    >>> safe("a[bold]\x1b[31m日") == r"a[bold]\x1b[31m日"
    True
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def put_line(stream: TextIO, line: str) -> None:
    """Write a line as `write_line` does; one that cannot be written ends nothing.

    Ctrl-C may have ended the `tee` that reads before us, or a log's disk be full: what is made is to be unmade all the same.
    """
    with suppress(OSError):
        write_line(stream, line)


def write_line(stream: TextIO, line: str) -> None:
    """Write a line; what the stream's encoding lacks is escaped, so that a key cannot end the command.

    A terminal that is gone is no reason to end, either; raises OSError where nobody reads any more.
    """
    encoding = stream.encoding or "utf-8"
    with _passing_over_lost_terminal():
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()


def put_text(stream: TextIO, text: str) -> None:
    """Write lines for people: as put_line, and on a terminal broken as `wrapped` does it."""
    with suppress(OSError):
        write_text(stream, text)


def write_text(stream: TextIO, text: str) -> None:
    """Write lines for people: as write_line, and on a terminal broken as `wrapped` does it."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # it is no terminal, or no file
        columns = 0
    write_line(stream, wrapped(text, columns))


def wrapped(text: str, columns: int) -> str:
    """Break lines between words, unless `columns` is 0; commands stay in one piece, so that they can be copied.

    >>> print(wrapped("go on with: s3bulkcopy attach RUN --region us-east-1; its reports wait until noon", 24))
    go on with:
      s3bulkcopy attach RUN --region us-east-1;
      its reports wait until
      noon
    """
    return "\n".join(part for line in text.split("\n") for part in _broken(line, columns)) if columns else text


def _broken(line: str, columns: int) -> list[str]:
    margin, parts = " " * (len(line) - len(line.lstrip()) + 2), [""]
    for gap, unit in _UNITS.findall(line):
        if parts[-1].strip() and len(parts[-1] + gap + unit) > columns:
            parts.append(margin + unit)
        else:
            parts[-1] += gap + unit
    return parts


@contextmanager
def _passing_over_lost_terminal() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


# ------------------------------------------------------------------------------------------------------------ measuring


@dataclass(slots=True)
class Rate:
    """How fast a count grows a second, over the last seconds of a clock.

    >>> now = iter([0.0, 1.0, 2.0])
    >>> rate = Rate(lambda: next(now))
    >>> rate.add(0), rate.add(300), rate.add(400)
    (0.0, 300.0, 200.0)
    """

    clock: Callable[[], float]
    seconds: float = RATE_SECONDS
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, count: int) -> float:
        """Take note of the count as it is now, and give its growth a second since the window began."""
        now, seen = self.clock(), self._seen
        seen.append((now, count))
        while len(seen) > 2 and seen[1][0] <= now - self.seconds:  # noqa: PLR2004 - two make a rate
            seen.popleft()
        then, before = seen[0]
        return max(0, count - before) / (now - then) if now > then else 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What a moment looks like."""

    #: All that was heard of: counted, waiting, and of tasks that have not ended.
    counts: Counts
    #: Objects whose fate is known: copied, skipped, vanished or failed.
    ended: int
    #: Whether more may yet be listed, so that the total is provisional.
    listing: bool
    #: Objects listed, and objects ended, a second.
    list_rate: float
    rate: float
    #: Until what is listed so far has ended; None where nothing moves.
    eta_seconds: float | None
    snapshot: Snapshot
    depths: Depths | None

    @property
    def listed_text(self) -> str:
        """Give the number of listed objects, with a tilde while it is provisional."""
        return f"{'~' if self.listing else ''}{count_text(self.counts.listed)}"

    @property
    def is_copied_provisional(self) -> bool:
        """Tell whether some of the copied objects do not count yet."""
        return self.counts.copied != self.snapshot.counts.copied

    @property
    def copied_text(self) -> str:
        """Give the number of copied objects, with a tilde if some of them do not count yet."""
        return f"{'~' if self.is_copied_provisional else ''}{count_text(self.counts.copied)}"

    @property
    def eta_text(self) -> str:
        """Give the time left; nothing where it is not known, as it never is while more is being listed."""
        if self.eta_seconds is None or self.listing:
            return ""
        return f"ETA {duration_text(self.eta_seconds)}" if self.eta_seconds < 100 * 3600 else "ETA over 100 h"

    @property
    def share_text(self) -> str:
        """Give the share of the listed objects that has ended; nothing while more is being listed."""
        if self.listing:
            return ""
        share = share_text(self.ended, self.counts.listed)
        return share if self.snapshot.complete or share != "100%" else "99%"


class _Meter:
    """Turns snapshots into Progress."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._list_rate, self._rate = Rate(clock), Rate(clock)

    def read(self, snapshot: Snapshot, depths: Depths | None) -> Progress:
        counts = snapshot.seen
        listed, ended = counts.listed, counts.ended
        rate = self._rate.add(ended)
        return Progress(
            counts=counts,
            ended=ended,
            listing=_may_still_list(snapshot, depths),
            list_rate=self._list_rate.add(listed),
            rate=rate,
            eta_seconds=(listed - ended) / rate if rate else None,
            snapshot=snapshot,
            depths=depths,
        )


def _may_still_list(snapshot: Snapshot, depths: Depths | None) -> bool:
    """Guess from the depths, which lag, and from events that wait for their lister's."""
    if snapshot.complete:
        return False
    waiting = snapshot.provisional.listed or snapshot.provisional.copied
    return depths is None or bool(depths.list.waiting or depths.list.in_flight or waiting)


# ---------------------------------------------------------------------------------------------------------- the faces


class View(Protocol):
    """A face of a run; also what the run tells how it goes. Entered while the run goes on."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(self, *_: object) -> None:
        """Stop showing."""

    def plan(self, run_id: str, lines: Sequence[str], *, source: str = "", destination: str = "") -> None:
        """Say what is about to be done."""

    def step(self, text: str) -> None:
        """Say what is being done."""

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """Show what is known now."""

    def detail(self, text: str) -> None:
        """Say what was done, where more is wanted to be heard than the steps."""

    def stopping(self, text: str) -> None:
        """Say at once that the run is being stopped; may be called from a signal handler."""

    def warning(self, text: str) -> None:
        """Say that something is not as it should be."""

    def note(self, text: str) -> None:
        """Say something worth knowing."""

    def detached(self, run_id: str, attach: str, until: str, counts: Counts) -> None:
        """Say that the run goes on without this command, as was asked for, and how to follow it."""

    def summary(self, result: Result, notes: Sequence[str] = ()) -> None:
        """Give the result, and then say what is worth knowing about it."""


def make_view(
    settings: OutputSettings, *, stdout: TextIO, stderr: TextIO, is_terminal: bool, clock: Callable[[], float]
) -> View:
    """Choose the face that the settings and the terminal ask for; `clock` gives seconds of any steady clock."""
    if settings.json:
        return JsonView(settings, stdout, stderr, clock)
    if is_terminal and settings.progress and not settings.quiet:
        from rich.console import Console  # noqa: PLC0415 - takes long to import, and only a terminal needs it

        console = Console(file=stderr, force_terminal=True, markup=False, highlight=False, emoji=False)
        if not console.is_dumb_terminal:
            return LiveView(settings, stdout, stderr, clock, console)
    return PlainView(settings, stdout, stderr, clock)


class _Lines:
    """What all faces share: lines on stderr, a summary on stdout."""

    def __init__(self, settings: OutputSettings, stdout: TextIO, stderr: TextIO, clock: Callable[[], float]) -> None:
        self._settings, self._out, self._err, self._clock = settings, stdout, stderr, clock
        self._began = clock()
        self._meter = _Meter(clock)
        self._run_id = self._route = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _elapsed(self) -> float:
        return self._clock() - self._began

    def _say(self, text: str) -> None:
        put_text(self._err, safe(text))

    def plan(self, run_id: str, lines: Sequence[str], *, source: str = "", destination: str = "") -> None:
        self._run_id, self._route = run_id, f"{source} -> {destination}" if source else ""
        for line in lines:
            self.note(line)

    def step(self, text: str) -> None:
        if not self._settings.quiet:
            self._say(f"{duration_text(self._elapsed())}  {text}")

    def detail(self, text: str) -> None:
        if self._settings.verbose:
            self.step(text)

    def stopping(self, text: str) -> None:
        with suppress(RuntimeError):  # the signal came amid a write to stderr, which cannot be entered again
            self._say(text)

    def warning(self, text: str) -> None:
        self._say(f"warning: {text}")

    def note(self, text: str) -> None:
        if not self._settings.quiet:
            self._say(text)

    def detached(self, run_id: str, attach: str, until: str, counts: Counts) -> None:  # noqa: ARG002
        put_text(self._out, f"{run_id}: queued; it goes on without this command. Follow it with: {attach}")
        self.note(f"its reports wait until {until}")

    def summary(self, result: Result, notes: Sequence[str] = ()) -> None:
        for line in [one_line(result)] if self._settings.quiet else summary_lines(result):
            put_text(self._out, line)
        for note in notes:
            self.note(note)


class PlainView(_Lines):
    """Lines at a steady, quiet pace."""

    def __init__(self, settings: OutputSettings, stdout: TextIO, stderr: TextIO, clock: Callable[[], float]) -> None:
        """Begin the clock."""
        super().__init__(settings, stdout, stderr, clock)
        self._due = _PACES[0][1]

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """Write a line if one is due."""
        progress, elapsed = self._meter.read(snapshot, depths), self._elapsed()
        if self._settings.quiet or not self._settings.progress or elapsed < self._due:
            return
        while self._due <= elapsed:
            self._due += next(pace for since, pace in reversed(_PACES) if self._due >= since)
        self._say(f"{duration_text(elapsed)}  {progress_line(progress)}")


class JsonView(_Lines):
    """JSON lines on stdout; the last is the summary, or tells what stopped the run."""

    def __init__(self, settings: OutputSettings, stdout: TextIO, stderr: TextIO, clock: Callable[[], float]) -> None:
        """Begin the clock."""
        super().__init__(settings, stdout, stderr, clock)
        self._due = 0.0
        self._is_summed_up = False

    def __exit__(self, *raised: object) -> None:
        """Write what stopped the run, if anything did before its summary; the last line."""
        error = Interrupted("interrupted") if KeyboardInterrupt in raised else raised[1]
        if isinstance(error, S3BulkCopyError) and not self._is_summed_up:
            put_line(self._out, json.dumps(stopped_object(self._run_id, error)))

    def _put(self, event: str, **values: object) -> None:
        if not self._settings.quiet:
            put_line(self._out, json.dumps({"event": event, **values}))

    def plan(self, run_id: str, lines: Sequence[str], *, source: str = "", destination: str = "") -> None:  # noqa: ARG002
        """Say what is about to be done; the lines name source and destination."""
        self._run_id = run_id
        self._put("plan", run_id=run_id, lines=list(lines))

    def step(self, text: str) -> None:
        """Say what is being done."""
        self._put("step", seconds=round(self._elapsed(), 3), text=text)

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """Write what is known now, unless the last line is too young."""
        progress, elapsed = self._meter.read(snapshot, depths), self._elapsed()
        if not self._settings.progress or (elapsed < self._due and not snapshot.complete):
            return
        self._due = elapsed + _JSON_SECONDS
        counts = progress.counts
        self._put(
            "progress",
            run_id=self._run_id,
            seconds=round(elapsed, 3),
            listed=counts.listed,
            listed_bytes=counts.listed_bytes,
            copied=counts.copied,
            copied_bytes=counts.copied_bytes,
            skipped=counts.skipped,
            vanished=counts.vanished,
            failed=counts.failed,
            retries=counts.retries,
            rate=round(progress.rate, 1),
            provisional=progress.listing or progress.is_copied_provisional,
            tasks=snapshot.tasks,
            tasks_open=snapshot.tasks_open,
            dead=snapshot.dead,
            depths=asdict(depths) if depths is not None else None,
        )

    def detached(self, run_id: str, attach: str, until: str, counts: Counts) -> None:
        """Write that the run goes on; the last line."""
        end = {"exit_code": 0, "error": None, "attach": attach, "reports_until": until}
        put_line(self._out, json.dumps({"event": "detached", "run_id": run_id, **_counts_object(counts), **end}))

    def summary(self, result: Result, notes: Sequence[str] = ()) -> None:
        """Write where the time went, each failure that a text summary names, and the summary."""
        if result.phases != type(result.phases)():  # of a run that another command began it is not known
            self._put("phases", **{name: round(value, 3) for name, value in asdict(result.phases).items()})
        for failure in result.failures[:SHOWN_FAILURES]:
            self._put("failure", **failure._asdict())
        put_line(self._out, json.dumps(summary_object(result)))
        self._is_summed_up = True
        for note in notes:
            self.note(note)


class LiveView(_Lines):
    """Bars in a terminal, drawn by a thread of their own from frozen values."""

    def __init__(
        self, settings: OutputSettings, stdout: TextIO, stderr: TextIO, clock: Callable[[], float], console: Console
    ) -> None:
        """Prepare the display on a console that writes to `stderr`."""
        from rich.live import Live  # noqa: PLC0415 - as in make_view

        super().__init__(settings, stdout, stderr, clock)
        self._console = console
        self._step = self._stopping = ""
        self._progress: Progress | None = None
        # The last thing to make: it draws while it is being made.
        self._live = Live(
            console=console,
            refresh_per_second=_FRAMES_A_SECOND,
            transient=True,
            redirect_stdout=False,
            get_renderable=self.render,
        )

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start(refresh=True)
        # A second Ctrl-C leaves without any cleaning up, and must not leave a terminal without a cursor.
        self._console.show_cursor()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, and take the display away."""
        with _passing_over_lost_terminal():
            self._live.stop()

    def _say(self, text: str) -> None:
        with _passing_over_lost_terminal():
            self._console.print(wrapped(safe(text), self._console.width), soft_wrap=True)

    def step(self, text: str) -> None:
        """Show what is being done; with -v as a line that stays, too."""
        self._step = text
        if self._settings.verbose:
            super().step(text)

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """Show what is known now."""
        self._progress = self._meter.read(snapshot, depths)

    def detached(self, run_id: str, attach: str, until: str, counts: Counts) -> None:
        """Take the display away first, which would take with it what is written below it."""
        self.__exit__()
        super().detached(run_id, attach, until, counts)

    def summary(self, result: Result, notes: Sequence[str] = ()) -> None:
        """Take the display away first, which would take with it what is written below it."""
        self.__exit__()
        super().summary(result, notes)

    def stopping(self, text: str) -> None:
        """Show with the next frame that the run is being stopped; takes no lock, so a signal handler may call it."""
        self._stopping = text

    def render(self) -> RenderableType:
        """Draw the display as it is now."""
        from rich.console import Group  # noqa: PLC0415 - as in make_view
        from rich.text import Text  # noqa: PLC0415

        elapsed, width = self._elapsed(), self._console.width
        title = (duration_text(elapsed), safe(self._run_id), safe(self._route))
        lines: list[RenderableType] = [*_flow((_Field(text, "bold") for text in title if text), width)]
        if self._progress is not None:
            lines += [_bars(self._progress, elapsed, width), *_flow(_queues(self._progress), width)]
            lines += _flow(_effort(self._progress), width)
        if self._stopping:
            lines.append(Text(safe(self._stopping), style="bold yellow"))
        spinner = "|/-\\"[int(elapsed * _FRAMES_A_SECOND) % 4]
        lines.append(Text(f"{spinner} {safe(self._step)}", no_wrap=True, overflow="ellipsis"))
        return Group(*lines)


def _bars(progress: Progress, elapsed: float, width: int) -> RenderableType:
    """Draw listing and copying, one bar each, with as many numbers beside them as the width allows."""
    from rich.progress_bar import ProgressBar  # noqa: PLC0415 - as in make_view
    from rich.table import Table  # noqa: PLC0415

    counts, (least, most) = progress.counts, _BAR_CELLS
    columns = {
        "name": ("  list", "  copy"),
        "bar": ("", ""),
        "count": (progress.listed_text, progress.copied_text),
        "bytes": (bytes_text(counts.listed_bytes), bytes_text(counts.copied_bytes)),
        "rate": (rate_text(progress.list_rate), rate_text(progress.rate)),
        "share": ("", progress.share_text),
        # Always as wide, so that the bars stay where they are.
        "eta": ("", f"{f'of {count_text(counts.listed)}+ listed so far' if progress.listing else progress.eta_text:15}"),
    }

    def room() -> int:
        return width - sum(max(map(len, cells)) + 2 for cells in columns.values())

    for name in _DISPENSABLE:
        if room() >= least:
            break
        del columns[name]
    grid = Table.grid(padding=(0, 2))
    for name in columns:
        grid.add_column(no_wrap=True, justify="left" if name in ("name", "eta") else "right")
    cells, total = min(most, room()), max(1, counts.listed)
    bars = (
        ProgressBar(width=cells, completed=total, total=total, pulse=progress.listing, animation_time=elapsed),
        # Of what is still being listed nobody knows the whole that it is a share of.
        "" if progress.listing else ProgressBar(width=cells, completed=progress.ended, total=total),
    )
    for n, bar in enumerate(bars):
        grid.add_row(*(bar if name == "bar" else texts[n] for name, texts in columns.items()))
    return grid


@dataclass(frozen=True, slots=True)
class _Field:
    """A few words that stay on one line."""

    text: str
    style: str = ""


def _queues(progress: Progress) -> Iterator[_Field]:
    depths = progress.depths
    if depths is None:
        return
    yield _Field(f"waiting+in flight: list {count_text(depths.list.waiting)}+{count_text(depths.list.in_flight)}")
    yield _Field(f"copy {count_text(depths.copy.waiting)}+{count_text(depths.copy.in_flight)}")
    yield _Field(f"workers ~{count_text(depths.workers)}")
    dead = max(depths.dead, progress.snapshot.dead)
    yield _Field(f"dead letters {count_text(dead)}", "bold red" if dead else "")


def _effort(progress: Progress) -> Iterator[_Field]:
    counts, snapshot = progress.counts, progress.snapshot
    yield _Field(f"tasks open {count_text(snapshot.tasks_open)} of {count_text(snapshot.tasks)}")
    yield _Field(f"retries {count_text(counts.retries)}")
    yield _Field(f"throttled {count_text(counts.throttles)}", "yellow" if counts.throttles else "")
    yield _Field(f"failed {count_text(counts.failed)}", "bold red" if counts.failed else "")
    if snapshot.ranges_failed:
        yield _Field(f"ranges failed {count_text(snapshot.ranges_failed)}", "bold red")
    for name in ("skipped", "vanished"):
        if number := getattr(counts, name):
            yield _Field(f"{name} {count_text(number)}")


def _flow(fields: Iterable[_Field], width: int) -> list[Text]:
    """Put fields beside each other, and on a new line where the next one finds no room."""
    from rich.text import Text  # noqa: PLC0415 - as in make_view

    lines: list[Text] = []
    for one in fields:
        text = Text(one.text, one.style)
        if lines and lines[-1].cell_len + 3 + text.cell_len <= width:
            lines[-1].append("   ").append_text(text)
        else:
            lines.append(Text("  ", no_wrap=True, overflow="ellipsis").append_text(text))
    return lines


# ------------------------------------------------------------------------------------------------------------- results


def progress_line(progress: Progress) -> str:
    """Write a moment as one line."""
    counts, depths = progress.counts, progress.depths
    fields = [
        f"listed {progress.listed_text} ({bytes_text(counts.listed_bytes)})",
        f"copied {progress.copied_text}" + (f" ({progress.share_text})" if progress.share_text else ""),
        rate_text(progress.rate),
        progress.eta_text,
    ]
    if depths is not None:
        waiting, in_flight = depths.list.waiting + depths.copy.waiting, depths.list.in_flight + depths.copy.in_flight
        fields.append(f"queued {count_text(waiting)}+{count_text(in_flight)}")
    fields += [f"retries {count_text(counts.retries)}", f"failed {count_text(counts.failed)}"]
    return "  ".join(filter(None, fields))


def summary_object(result: Result) -> dict[str, Any]:
    """Give the summary as --output json has it."""
    counts, snapshot = result.snapshot.counts, result.snapshot
    return {
        "run_id": result.run_id,
        "engine": result.engine,
        "source": result.source,
        "destination": result.destination,
        **_counts_object(counts),
        "ranges_failed": snapshot.ranges_failed,
        "duplicates": snapshot.duplicates,
        "seconds": round(result.seconds, 3),
        "resources_left": list(result.resources_left),
        **(_dry_object(result) if result.dry else {}),
    }


def stopped_object(run_id: str, error: S3BulkCopyError) -> dict[str, Any]:
    """Give the end of a run that was stopped before its own as --output json has it."""
    told = {"message": error.message, "hint": error.hint}
    counts = _counts_object(error.counts or Counts())
    return {"event": "stopped", "run_id": run_id or None, **counts, "exit_code": error.exit_code, "error": told}


def _counts_object(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in _COUNTED}


def _dry_object(result: Result) -> dict[str, Any]:
    """Give what --dry-run adds: the requests that the listing took and those that copying would take, and their price."""
    copies, others = _planned(result)
    pages = result.snapshot.counts.pages

    def price(exact: float) -> float | None:
        return round(exact, 6) if result.has_prices else None

    return {
        "dry_run": True,
        "list_requests": pages,
        "list_dollars": price(pages * REQUEST_DOLLARS),
        "copy_requests": _number_of(copies),
        "copy_dollars": price(dollars(copies)),
        "other_requests": _number_of(others),
        "other_dollars": price(dollars(others)),
        "requests": dict(result.planned),
    }


def _planned(result: Result) -> tuple[Requests, Requests]:
    """Give the requests that copying would take: those that copy, and the others."""
    copies = tuple(one for one in result.planned if one[0] in COPIES)
    return copies, tuple(one for one in result.planned if one[0] not in COPIES)


def _number_of(requests: Requests) -> int:
    return sum(number for _, number in requests)


def one_line(result: Result) -> str:
    """Write the summary as one line."""
    counts = result.snapshot.counts
    if result.dry:
        return f"{safe(result.run_id)}: {_to_copy(result)}{_others(counts)}"
    line = (
        f"{safe(result.run_id)}: copied {_copied(counts)} in {seconds_text(result.seconds)}, {count_text(counts.failed)} failed"
    )
    line += _others(counts)
    if result.snapshot.ranges_failed:
        line += ", the listing is incomplete"
    if not result.snapshot.complete:
        line += ", the counts are incomplete"
    if result.resources_left:
        line += f", {_many(len(result.resources_left), 'resource')} left behind"
    return line


def _others(counts: Counts) -> str:
    named = ((name, getattr(counts, name)) for name in ("skipped", "vanished", "filtered"))
    return "".join(f", {count_text(number)} {name}" for name, number in named if number)


def summary_lines(result: Result) -> list[str]:
    """Write the summary as text."""
    if result.dry:
        return _dry_lines(result)
    counts, snapshot, phases = result.snapshot.counts, result.snapshot, result.phases
    where = f"from {safe(result.source)} to {safe(result.destination)}"
    notable = (
        ("filtered", counts.filtered, "left out, counted nowhere else"),
        ("skipped", counts.skipped - counts.archived, "there already"),
        ("archived", counts.archived, "skipped: in an archive class, and not restored"),
        ("vanished", counts.vanished, "not there any more, or never"),
        ("duplicates", snapshot.duplicates, "copied more than once, counted once"),
        ("failed", counts.failed, "not at the destination"),
    )
    # Of a run that another command began it is not known where its time went.
    known = phases != type(phases)()
    rate = f"  rate        {_rate_text(counts.copied, phases)} while at work"
    spent = [rate, f"  time        {_times(result)}"] if known else []
    owed = [] if snapshot.complete else ["  counts      incomplete: what the run's reports still told"]
    return [
        f"copied {_copied(counts)} {where} in {seconds_text(result.seconds)}",
        *spent,
        f"  requests    {_requests(counts)}",
        *owed,
        *(f"  {word:10}  {count_text(number)} ({meaning})" for word, number, meaning in notable if number),
        *cause_lines(result.causes),
        *_ranges(result.failed_ranges, snapshot.ranges_failed),
        *_left(result.resources_left),
    ]


def _dry_lines(result: Result) -> list[str]:
    counts = result.snapshot.counts
    copies, others = _planned(result)
    copying, besides, listing = (
        f"${price:,.2f}" for price in (dollars(copies), dollars(others), counts.pages * REQUEST_DOLLARS)
    )
    wanted = _many(_number_of(copies), "COPY request")
    more = f", {besides} for {_many(_number_of(others), 'other')}" if others else ""
    kinds = ", ".join(f"{count_text(number)} {name}" for name, number in result.planned)
    apart = (
        ("filtered", counts.filtered, "left out"),
        ("archived", counts.archived, "not restored, to be skipped"),
    )
    return [
        f"{_to_copy(result)} from {safe(result.source)} to {safe(result.destination)}",
        *(
            [f"  cost        {copying} for {wanted}{more} (S3 Standard, us-east-1), {listing} for LIST"]
            if result.has_prices
            else []
        ),
        *([f"  to send     {kinds}"] if kinds and (others or not result.has_prices) else []),
        *(f"  {word:10}  {count_text(number)} ({meaning})" for word, number, meaning in apart if number),
        f"  listed in   {seconds_text(result.seconds)}, {_rate_text(counts.listed, result.phases)}",
        f"  requests    {_requests(counts)}",
        *_ranges(result.failed_ranges, result.snapshot.ranges_failed),
    ]


def _to_copy(result: Result) -> str:
    counts = result.snapshot.counts
    at_least = "at least " if result.snapshot.ranges_failed else ""
    return f"would copy {at_least}{_many(counts.listed - counts.skipped, 'object')} ({bytes_text(counts.listed_bytes)})"


def _copied(counts: Counts) -> str:
    return f"{count_text(counts.copied)} of {_many(counts.listed, 'object')} ({bytes_text(counts.copied_bytes)})"


def _many(number: int, noun: str) -> str:
    return f"{count_text(number)} {noun}{'' if number == 1 else 's'}"


def _rate_text(objects: int, phases: Phases) -> str:
    return f"{objects / phases.work if phases.work else 0:,.0f} objects/s"


def _times(result: Result) -> str:
    phases = result.phases
    words = {
        "deploying" if result.engine == "lambda" else "starting workers": phases.deploy,
        "checking rights": phases.probe,
        "at work": phases.work,
        "tearing down": phases.teardown,
    }
    return ", ".join(f"{word} {seconds_text(seconds)}" for word, seconds in words.items())


def _requests(counts: Counts) -> str:
    sent = f"{count_text(counts.pages)} LIST, {count_text(counts.copy_requests)} COPY"
    return f"{sent}; {count_text(counts.retries)} repeated, {count_text(counts.throttles)} throttled"


def cause_lines(causes: Sequence[Cause]) -> list[str]:
    """Write why objects failed: each cause with its number and an object that failed of it."""
    shown = (f"{count_text(cause.number)} x {cause.text} (such as {cause.examples[0]})" for cause in causes[:SHOWN_FAILURES])
    return _some(shown, len(causes))


def _ranges(failed: Sequence[RangeFailure], number: int) -> list[str]:
    if not number:
        return []
    title = f"  ranges      {count_text(number)} not listed to the end: the listing is incomplete"
    return [title, *_some((range_text(one) for one in failed[:SHOWN_FAILURES]), number)]


def range_text(failed: RangeFailure) -> str:
    """Write a range that failed, and why."""
    after = f"after {failed.range.after!r}" if failed.range.after else "from the start"
    until = f"until {failed.range.until!r}" if failed.range.until is not None else "to the end"
    return f"{after} {until}: {failed.cause}"


def _some(texts: Iterable[str], number: int) -> list[str]:
    """Write foreign texts, and how many more there are of `number`."""
    lines = [f"    {safe(text)}" for text in texts]
    return [*lines, f"    … and {count_text(number - len(lines))} more"] if number > len(lines) else lines


def _left(resources: Sequence[str]) -> list[str]:
    if not resources:
        return []
    title = f"  left        {_many(len(resources), 'resource')}; the command that removes it follows each"
    return [title, *(f"    {safe(line)}" for line in resources)]


def show_error(error: S3BulkCopyError, stderr: TextIO) -> None:
    """Say what went wrong, and what to do."""
    put_text(stderr, f"error: {safe(error.message)}")
    if error.hint:
        put_text(stderr, f"hint: {safe(error.hint)}")

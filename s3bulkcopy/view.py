"""One tally, three faces: a live display in a terminal, plain lines without one, JSON lines for scripts.

Results go to stdout, everything else to stderr. Keys and causes are foreign text: control characters in them are escaped, and
markup is never interpreted.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console, RenderableType

    from s3bulkcopy.engines import Depths
    from s3bulkcopy.errors import S3BulkCopyError
    from s3bulkcopy.run import Result
    from s3bulkcopy.settings import OutputSettings
    from s3bulkcopy.tally import Snapshot

#: Failures that a summary names; the count tells of the others.
SHOWN_FAILURES = 10

#: How far back a rate looks, in seconds.
RATE_SECONDS = 10.0

#: Pauses between plain progress lines, in seconds: the first, those of the first minutes, all others.
_PACES = ((0.0, 5.0), (5.0, 10.0), (120.0, 30.0))

_FRAMES_A_SECOND = 4


# ----------------------------------------------------------------------------------------------------------- formatting


def count_text(number: int) -> str:
    """Write a number with separators.

    >>> count_text(1234567)
    '1,234,567'
    """
    return f"{number:,}"


def bytes_text(number: float) -> str:
    """Write a number of bytes in decimal units.

    >>> bytes_text(999), bytes_text(5_230_000_000)
    ('999 B', '5.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if number < 1000 or unit == "PB":  # noqa: PLR2004 - decimal units
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def duration_text(seconds: float) -> str:
    """Write a duration in hours, minutes and seconds.

    >>> duration_text(65), duration_text(360_000)
    ('0:01:05', '100:00:00')
    """
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def rate_text(rate: float) -> str:
    """Write a number of objects a second.

    >>> rate_text(3512.4)
    '3,512/s'
    """
    return f"{rate:,.0f}/s"


def safe(text: str) -> str:
    r"""Escape what could drive a terminal.

    >>> safe("a[bold]\x1b[31m日") == r"a[bold]\x1b[31m日"
    True
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(slots=True)
class Rate:
    """How fast a count grows, over the last seconds of an injected clock."""

    seconds: float = RATE_SECONDS
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, now: float, count: int) -> float:
        """Take note of a count, and give its growth a second."""
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self.seconds:  # noqa: PLR2004 - two make a rate
            self._seen.popleft()
        (then, before), (_, after) = self._seen[0], self._seen[-1]
        return max(0, after - before) / (now - then) if now > then else 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What a moment looks like, counted and waiting work together."""

    listed: int
    listed_bytes: int
    ended: int
    copied: int
    copied_bytes: int
    rate: float
    eta_seconds: float | None
    #: Whether more may yet be listed.
    listing: bool
    snapshot: Snapshot
    depths: Depths | None


class _Meter:
    """Turns snapshots into Progress."""

    def __init__(self) -> None:
        self._rate = Rate()

    def read(self, now: float, snapshot: Snapshot, depths: Depths | None) -> Progress:
        counts = snapshot.counts + snapshot.provisional
        ended = counts.copied + counts.skipped + counts.vanished + counts.failed
        rate = self._rate.add(now, ended)
        # Children may report before their parents: what ended was listed.
        listed, listed_bytes = max(counts.listed, ended), max(counts.listed_bytes, counts.copied_bytes)
        eta = (listed - ended) / rate if rate else None
        listing = depths is None or bool(depths.list.waiting or depths.list.in_flight)
        return Progress(listed, listed_bytes, ended, counts.copied, counts.copied_bytes, rate, eta, listing, snapshot, depths)


# ---------------------------------------------------------------------------------------------------------- the faces


class View(Protocol):
    """A face of a run; also what the run tells how it goes."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(self, *_: object) -> None:
        """Stop showing."""

    def plan(self, run_id: str, lines: Sequence[str]) -> None:
        """Say what is about to be done."""

    def step(self, text: str) -> None:
        """Say what is being done."""

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """Show what is known now."""

    def stopping(self, text: str) -> None:
        """Say at once that the run is being stopped; may be called from a signal handler."""

    def warning(self, text: str) -> None:
        """Say that something is not as it should be."""

    def note(self, text: str) -> None:
        """Say something worth knowing."""

    def summary(self, result: Result) -> None:
        """Give the result."""


def make_view(
    settings: OutputSettings, *, stdout: TextIO, stderr: TextIO, is_terminal: bool, clock: Callable[[], float]
) -> View:
    """Choose the face that the settings and the terminal ask for; `clock` gives seconds of any steady clock."""
    if settings.json:
        return JsonView(settings, stdout, stderr, clock)
    if is_terminal and settings.progress and not settings.quiet:
        return LiveView(settings, stdout, stderr, clock)
    return PlainView(settings, stdout, stderr, clock)


class _Lines:
    """What all faces share: lines on stderr, a summary on stdout."""

    def __init__(self, settings: OutputSettings, stdout: TextIO, stderr: TextIO, clock: Callable[[], float]) -> None:
        self._settings, self._out, self._err, self._clock = settings, stdout, stderr, clock
        self._began = clock()
        self._meter = _Meter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _say(self, text: str) -> None:
        self._err.write(f"{safe(text)}\n")
        self._err.flush()

    def plan(self, _run_id: str, lines: Sequence[str]) -> None:
        for line in lines:
            self.note(line)

    def step(self, text: str) -> None:
        if self._settings.quiet:
            return
        self._say(f"{duration_text(self._clock() - self._began)}  {text}")

    def stopping(self, text: str) -> None:
        self._say(text)

    def warning(self, text: str) -> None:
        self._say(f"warning: {text}")

    def note(self, text: str) -> None:
        if not self._settings.quiet:
            self._say(text)

    def summary(self, result: Result) -> None:
        lines = [one_line(result)] if self._settings.quiet else summary_lines(result)
        self._out.write("".join(f"{line}\n" for line in lines))
        self._out.flush()


class PlainView(_Lines):
    """Lines at a steady, quiet pace."""

    def __init__(self, settings: OutputSettings, stdout: TextIO, stderr: TextIO, clock: Callable[[], float]) -> None:
        """Begin the clock."""
        super().__init__(settings, stdout, stderr, clock)
        self._next_line_at = _PACES[0][1]

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """Write a line if one is due."""
        now = self._clock()
        progress, elapsed = self._meter.read(now, snapshot, depths), now - self._began
        if self._settings.quiet or not self._settings.progress or elapsed < self._next_line_at:
            return
        self._next_line_at = elapsed + next(pace for since, pace in reversed(_PACES) if elapsed >= since)
        self._say(f"{duration_text(elapsed)}  {progress_line(progress)}")


class JsonView(_Lines):
    """JSON lines on stdout; the last is the summary."""

    def __init__(self, settings: OutputSettings, stdout: TextIO, stderr: TextIO, clock: Callable[[], float]) -> None:
        """Begin the clock."""
        super().__init__(settings, stdout, stderr, clock)
        self._run_id = ""

    def _put(self, value: dict[str, Any]) -> None:
        self._out.write(json.dumps(value) + "\n")
        self._out.flush()

    def plan(self, run_id: str, lines: Sequence[str]) -> None:
        """Say what is about to be done."""
        self._run_id = run_id
        self._put({"event": "plan", "run_id": run_id, "lines": list(lines)})

    def step(self, text: str) -> None:
        """Say what is being done."""
        self._put({"event": "step", "seconds": round(self._clock() - self._began, 3), "text": text})

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """Write what is known now."""
        if not self._settings.progress:
            return
        now = self._clock()
        progress = self._meter.read(now, snapshot, depths)
        counts = snapshot.counts + snapshot.provisional
        self._put(
            {
                "event": "progress",
                "run_id": self._run_id,
                "seconds": round(now - self._began, 3),
                "listed": progress.listed,
                "listed_bytes": progress.listed_bytes,
                "copied": progress.copied,
                "copied_bytes": progress.copied_bytes,
                "skipped": counts.skipped,
                "vanished": counts.vanished,
                "failed": counts.failed,
                "retries": counts.retries,
                "rate": round(progress.rate, 1),
                "tasks": snapshot.tasks,
                "tasks_open": snapshot.tasks_open,
                "dead": snapshot.dead,
                "depths": asdict(depths) if depths is not None else None,
            }
        )

    def summary(self, result: Result) -> None:
        """Write where the time went, each failure that a text summary names, and the summary."""
        self._put({"event": "phases", **{name: round(value, 3) for name, value in asdict(result.phases).items()}})
        for failure in result.failures[:SHOWN_FAILURES]:
            self._put({"event": "failure", **asdict(failure)})
        self._put(summary_object(result))


class LiveView(_Lines):
    """Bars in a terminal."""

    def __init__(self, settings: OutputSettings, stdout: TextIO, stderr: TextIO, clock: Callable[[], float]) -> None:
        """Prepare the display."""
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
        from rich.live import Live  # noqa: PLC0415

        super().__init__(settings, stdout, stderr, clock)
        self._console: Console = Console(file=stderr, markup=False, highlight=False, emoji=False)
        self._live = Live(
            console=self._console, refresh_per_second=_FRAMES_A_SECOND, transient=True, get_renderable=self.render
        )
        self._step = ""
        self._stopping = ""
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, and take the display away."""
        self._live.stop()

    def _say(self, text: str) -> None:
        self._console.print(safe(text))

    def step(self, text: str) -> None:
        """Show what is being done; with -v as a line that stays, too."""
        self._step = text
        if self._settings.verbose:
            super().step(text)

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """Show what is known now."""
        self._progress = self._meter.read(self._clock(), snapshot, depths)

    def stopping(self, text: str) -> None:
        """Show at once that the run is being stopped."""
        self._stopping = text

    def render(self) -> RenderableType:
        """Draw the display as it is now."""
        from rich.console import Group  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        elapsed = duration_text(self._clock() - self._began)
        spin = "|/-\\"[int(self._clock() * _FRAMES_A_SECOND) % 4]
        lines = [Text(f"{spin} {elapsed}  {safe(self._stopping or self._step)}", style="yellow" if self._stopping else "")]
        if self._progress is not None:
            lines += _bars(self._progress, self._console.width)
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines)


def _bars(progress: Progress, width: int) -> list[Any]:
    from rich.text import Text  # noqa: PLC0415

    snapshot, depths = progress.snapshot, progress.depths
    total = f"{'~' if progress.listing else ''}{count_text(progress.listed)}"
    bar_width = max(8, min(40, width - 62))
    share = progress.ended / progress.listed if progress.listed else 0.0
    filled = int(share * bar_width)
    eta = duration_text(progress.eta_seconds) if progress.eta_seconds is not None else "-:--:--"
    listing = "listing" if progress.listing else "listed"
    lines = [
        Text.assemble(
            (f"  {listing:8}", "bold"), f"{total:>15}  {bytes_text(progress.listed_bytes):>9}",
            f"  {count_text(snapshot.counts.pages)} pages",
        ),
        Text.assemble(
            ("  copied  ", "bold"), f"{count_text(progress.copied):>15}  {bytes_text(progress.copied_bytes):>9}  ",
            ("━" * filled, "green"), ("━" * (bar_width - filled), "bright_black"),
            f" {share:4.0%}  {rate_text(progress.rate)}  ETA {eta}",
        ),
    ]  # fmt: skip
    if depths is not None:
        busy = depths.list.in_flight + depths.copy.in_flight
        lines.append(
            Text(
                f"  queues  list {count_text(depths.list.waiting)}+{count_text(depths.list.in_flight)}"
                f"  copy {count_text(depths.copy.waiting)}+{count_text(depths.copy.in_flight)}  dead {count_text(depths.dead)}"
                f"  in workers' hands {count_text(busy)}"
            )
        )
    counts = snapshot.counts + snapshot.provisional
    troubled = "red" if counts.failed or snapshot.ranges_failed else ""
    words = (
        f"  tasks   {count_text(snapshot.tasks_open)} open of {count_text(snapshot.tasks)}"
        f"  retries {count_text(counts.retries)}  throttled {count_text(counts.throttles)}  failed {count_text(counts.failed)}"
    )
    lines.append(Text(words, style=troubled))
    return lines


# ------------------------------------------------------------------------------------------------------------- results


def progress_line(progress: Progress) -> str:
    """Write a moment as one line."""
    counts = progress.snapshot.counts + progress.snapshot.provisional
    share = f"{progress.ended / progress.listed:.0%}" if progress.listed else "0%"
    eta = f"  ETA {duration_text(progress.eta_seconds)}" if progress.eta_seconds is not None else ""
    queued = ""
    if progress.depths is not None:
        list_, copy = progress.depths.list, progress.depths.copy
        queued = f"  queued {count_text(list_.waiting + copy.waiting)}+{count_text(list_.in_flight + copy.in_flight)}"
    return (
        f"listed {'~' if progress.listing else ''}{count_text(progress.listed)} ({bytes_text(progress.listed_bytes)})  "
        f"copied {count_text(progress.copied)} ({share})  {rate_text(progress.rate)}{eta}{queued}  "
        f"retries {count_text(counts.retries)}  failed {count_text(counts.failed)}"
    )


def summary_object(result: Result) -> dict[str, Any]:
    """Give the summary as --output json has it."""
    counts, snapshot = result.snapshot.counts, result.snapshot
    return {
        "run_id": result.run_id,
        "engine": result.engine,
        "source": result.source,
        "destination": result.destination,
        "listed": counts.listed,
        "listed_bytes": counts.listed_bytes,
        "copied": counts.copied,
        "copied_bytes": counts.copied_bytes,
        "skipped": counts.skipped,
        "vanished": counts.vanished,
        "failed": counts.failed,
        "ranges_failed": snapshot.ranges_failed,
        "duplicates": snapshot.duplicates,
        "seconds": round(result.seconds, 3),
        "resources_left": list(result.resources_left),
    }


def one_line(result: Result) -> str:
    """Write the summary as one line."""
    counts = result.snapshot.counts
    return (
        f"{result.run_id}: copied {count_text(counts.copied)} of {count_text(counts.listed)} objects "
        f"({bytes_text(counts.copied_bytes)}) in {duration_text(result.seconds)}, {count_text(counts.failed)} failed"
    )


def summary_lines(result: Result) -> list[str]:
    """Write the summary as text."""
    counts, snapshot, phases = result.snapshot.counts, result.snapshot, result.phases
    rate = counts.copied / phases.work if phases.work else 0.0
    objects = f"{count_text(counts.copied)} of {count_text(counts.listed)} objects ({bytes_text(counts.copied_bytes)})"
    before = f"deploying {phases.deploy:,.1f} s, proving rights {phases.probe:,.1f} s"
    repeated = f"{count_text(counts.retries)} of them repeated, {count_text(counts.throttles)} throttled"
    lines = [
        f"copied {objects} from {safe(result.source)} to {safe(result.destination)} in {result.seconds:,.1f} s",
        f"  rate      {rate_text(rate)} while at work",
        f"  time      {before}, at work {phases.work:,.1f} s, tearing down {phases.teardown:,.1f} s",
        f"  requests  {count_text(counts.pages)} LIST, {count_text(counts.copy_requests)} COPY, {repeated}",
    ]
    notable = {
        "skipped": (counts.skipped, "existed at the destination"),
        "vanished": (counts.vanished, "deleted after they were listed"),
        "duplicate": (snapshot.duplicates, "copied more than once, counted once"),
        "failed": (counts.failed, "not at the destination"),
    }
    lines += [f"  {word:9} {count_text(number)} {meaning}" for word, (number, meaning) in notable.items() if number]
    for failure in result.failures[:SHOWN_FAILURES]:
        lines.append(f"    {safe(repr(failure.key))}: {safe(failure.code)}: {safe(failure.cause)}")
    if len(result.failures) > SHOWN_FAILURES:
        lines.append(f"    … and {count_text(len(result.failures) - SHOWN_FAILURES)} more")
    if snapshot.ranges_failed:
        lines.append(f"  {count_text(snapshot.ranges_failed)} ranges were not listed to their end: the listing is incomplete")
    for failed in result.failed_ranges[:SHOWN_FAILURES]:
        until = "the end" if failed.range.until is None else repr(failed.range.until)
        lines.append(f"    from behind {safe(repr(failed.range.after))} to {safe(until)}: {safe(failed.cause)}")
    lines += [f"  left      {safe(line)}" for line in result.resources_left]
    return lines


def show_error(error: S3BulkCopyError, stderr: TextIO) -> None:
    """Say what went wrong, and what to do."""
    stderr.write(f"error: {safe(error.message)}\n")
    if error.hint:
        stderr.write(f"hint: {safe(error.hint)}\n")
    stderr.flush()

"""What s3bulkcopy and its peers cost for the same copy: processor, time, memory, requests. Prints a table of ratios to ours.

    python benchmarks/compare.py [--objects 20000] [--latency 50/100] [--tls] [--setup] [--plot comparison.svg]

All tools copy the same keys on one server in one run, taking turns; the figures are medians over the rounds, and so are the
ratios, each between runs of the same round. A run whose destination is not equal to its source afterwards is marked failed.
See benchmarks/README.md for what each figure means.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from endpoint import Contents, Counts, Endpoint
from measure import Usage, measure
from model_server import ModelServer
from tools import OURS, TOOLS, Errand, Missing, certify, environment, set_up, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tools import Tool

#: A run is killed after this many seconds.
GIVE_UP_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Figure:
    """A column of the table."""

    name: str
    unit: str
    digits: int
    #: Whether more is better.
    more: bool = False


FIGURES = {
    "cpu": Figure("CPU", "µs/object", 0),
    "rate": Figure("rate", "objects/s", 0, more=True),
    "largest": Figure("largest process", "MiB", 0),
    "tree": Figure("all processes", "MiB", 0),
    "requests": Figure("requests", "an object", 3),
    "slow_downs": Figure("answers 503", "% of all", 2),
    "server": Figure("server", "% of a core", 0),
    "busy": Figure("all cores", "% busy", 0),
    "startup": Figure("start-up CPU", "ms", 0),
}

#: What one run was measured to be, by figure; a figure that is not known is not there.
Measured = dict[str, float]


class Contender(NamedTuple):
    """A tool with one number of workers."""

    tool: Tool
    workers: int | None

    def __str__(self) -> str:
        """Name it in tables."""
        return self.tool.name if self.workers is None else f"{self.tool.name} {self.workers}"


@dataclass(slots=True)
class Results:
    """What was measured, by round, and why contenders fell out."""

    measured: dict[Contender, dict[int, Measured]] = field(default_factory=lambda: defaultdict(dict))
    failed: dict[Contender, str] = field(default_factory=dict)

    def median(self, contender: Contender) -> Measured:
        """Give a contender's figures, each the median over its rounds."""
        return _medians(list(self.measured[contender].values()))

    def ratio(self, contender: Contender) -> Measured:
        """Give a contender's figures in ratio to ours of the same round."""
        ours = next((rounds for one, rounds in self.measured.items() if one.tool is OURS), {})
        pairs = [(run, ours[n]) for n, run in self.measured[contender].items() if n in ours]
        return _medians([{name: run[name] / our[name] for name in run if our.get(name)} for run, our in pairs])


def _medians(runs: Sequence[Measured]) -> Measured:
    return {
        name: statistics.median(run[name] for run in runs if name in run) for name in FIGURES if any(name in r for r in runs)
    }


def best(rows: Sequence[Measured]) -> Measured:
    """Give the best of each figure: what a tool can reach, though not by one setting."""
    found: Measured = {}
    for name, figure in FIGURES.items():
        values = [row[name] for row in rows if name in row]
        if values:
            found[name] = max(values) if figure.more else min(values)
    return found


# ------------------------------------------------------------------------------------------------------------------- runs


class Failed(Exception):
    """A run that does not count, and why."""


@dataclass(frozen=True, slots=True)
class Course:
    """Where the runs take place."""

    endpoint: Endpoint
    source: str
    #: A bucket with one object, to measure what a tool costs before it copies; None where there is none.
    single: str | None
    path: str
    folder: Path

    def run(self, contender: Contender, name: str, expected: dict[str, Contents]) -> Measured:
        """Let a contender copy the source, and then a single object; raises Failed, Missing or RuntimeError."""
        used, counts = self._copy(contender, self.source, f"{name}-all", expected)
        objects = expected[self.source].objects
        found: Measured = {
            "cpu": used.cpu_seconds / objects * 1e6,
            "rate": objects / used.seconds,
            "largest": used.largest_bytes / 2**20,
            "tree": used.tree_bytes / 2**20,
        }
        if counts is not None and (requests := counts.requests.total()):
            found |= {"requests": requests / objects, "slow_downs": 100 * counts.slow_downs / requests}
        if counts is not None and counts.cpu_seconds:
            busy = used.cpu_seconds + counts.cpu_seconds
            found |= {
                "server": 100 * counts.cpu_seconds / used.seconds,
                "busy": 100 * busy / used.seconds / (os.cpu_count() or 1),
            }
        if self.single is not None:
            found["startup"] = self._copy(contender, self.single, f"{name}-one", expected)[0].cpu_seconds * 1e3
        return found

    def _copy(
        self, contender: Contender, source: str, destination: str, expected: dict[str, Contents]
    ) -> tuple[Usage, Counts | None]:
        self.endpoint.make(destination)
        errand = Errand(self.endpoint, source, destination, contender.workers, self.folder)
        command = contender.tool.command(errand, self.path)
        before = self.endpoint.counts()
        used = measure(command, environment(errand, self.path), GIVE_UP_SECONDS)
        after = self.endpoint.counts()
        if used.trouble:
            raise Failed(used.trouble)
        there = self.endpoint.contents(destination)
        if there != expected[source]:
            raise Failed(f"{there.objects:,} of {expected[source].objects:,} objects arrived, or they differ")
        return used, after.since(before) if after and before else None


def compete(course: Course, contenders: Sequence[Contender], rounds: int, expected: dict[str, Contents]) -> Results:
    """Let the contenders take turns, each round beginning with another one; who fails once is out."""
    results = Results()
    for n in range(rounds):
        turn = n % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            if contender in results.failed:
                continue
            print(f"round {n + 1} of {rounds}: {contender}", file=sys.stderr, flush=True)
            bucket = f"{contender.tool.name}-{contender.workers or 0}-{os.getpid()}-{n}"
            try:
                results.measured[contender][n] = course.run(contender, bucket, expected)
            except (Failed, Missing, RuntimeError, OSError) as failure:
                results.failed[contender] = str(failure)
    return results


# ----------------------------------------------------------------------------------------------------------------- output


def _cells(measured: Measured, ratio: Measured) -> Iterator[str]:
    for name, figure in FIGURES.items():
        value = f"{measured[name]:,.{figure.digits}f}" if name in measured else "-"
        times = f"{ratio[name]:.2f}x" if name in ratio else ""
        yield f"{value:>9} {times:>7}"


def table(results: Results, contenders: Sequence[Contender]) -> Iterator[str]:
    """Give the lines of the table: each contender, and the best of a tool that had several numbers of workers."""
    yield f"{'':16}" + "".join(f"{figure.name:>18}" for figure in FIGURES.values())
    yield f"{'':16}" + "".join(f"{figure.unit:>18}" for figure in FIGURES.values())
    for contender in contenders:
        if contender in results.failed:
            yield f"{contender!s:16}  failed: {results.failed[contender]}"
        else:
            yield f"{contender!s:16}" + "".join(
                f" {cell}" for cell in _cells(results.median(contender), results.ratio(contender))
            )
    for name, settings in by_tool(results, contenders).items():
        if len(settings) > 1:
            of_best = (best([f(one) for one in settings]) for f in (results.median, results.ratio))
            yield f"{name + ', best':16}" + "".join(f" {cell}" for cell in _cells(*of_best))


def by_tool(results: Results, contenders: Sequence[Contender]) -> dict[str, list[Contender]]:
    """Put those that did not fail together by tool."""
    found: dict[str, list[Contender]] = defaultdict(list)
    for contender in contenders:
        if contender not in results.failed:
            found[contender.tool.name].append(contender)
    return found


def as_json(results: Results, contenders: Sequence[Contender], conditions: dict[str, object]) -> str:
    """Give everything that was measured."""
    rows = [
        {
            "tool": contender.tool.name,
            "workers": contender.workers,
            "failed": results.failed.get(contender),
            "rounds": list(results.measured[contender].values()),
            "median": results.median(contender),
            "ratio_to_ours": results.ratio(contender),
        }
        for contender in contenders
    ]
    return json.dumps({"conditions": conditions, "figures": {k: asdict(v) for k, v in FIGURES.items()}, "rows": rows}, indent=1)


def plot(results: Results, contenders: Sequence[Contender], title: str, target: Path) -> None:
    """Draw the main figures, each tool at its best; raises ImportError without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - large, and only needed once everything is measured

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    tools = by_tool(results, contenders)
    rows = {name: best([results.median(one) for one in settings]) for name, settings in tools.items()}
    shown = [name for name in ("cpu", "rate", "tree", "requests", "slow_downs") if any(name in row for row in rows.values())]
    drawing, axes = plt.subplots(1, len(shown), figsize=(3.2 * len(shown), 0.9 + 0.45 * len(rows)), squeeze=False, sharey=True)
    names = list(reversed(rows))
    for axis, name in zip(axes[0], shown, strict=True):
        figure = FIGURES[name]
        values = [rows[tool].get(name, 0.0) for tool in names]
        colours = ["tab:orange" if tool == OURS.name else "tab:blue" for tool in names]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [f"{value:,.{figure.digits}f}" for value in values], padding=3, fontsize=8)
        axis.set_title(f"{figure.name}, {figure.unit}\n({'more' if figure.more else 'less'} is better)", fontsize=8)
        axis.set_xlim(0, max(values) * 1.3 or 1)
        axis.locator_params(axis="x", nbins=5)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    drawing.suptitle(title, fontsize=9)
    drawing.tight_layout()
    drawing.savefig(target, dpi=150)


# --------------------------------------------------------------------------------------------------------------- the command


@contextlib.contextmanager
def serving(chosen: argparse.Namespace, folder: Path) -> Iterator[Course]:
    """Give where to run: on a model server that ends with the block, or on the server that was named."""
    course: Callable[..., Course] = partial(Course, path=chosen.path, folder=folder)
    if chosen.server:
        yield course(Endpoint(chosen.server.rstrip("/"), chosen.certificate, chosen.stats_path), chosen.source, None)
        return
    copy_ms, list_ms = chosen.latency
    arguments = ["--copy-ms", str(copy_ms), "--list-ms", str(list_ms), "--objects", "single=seq:1"]
    arguments += ["--objects", f"{chosen.source}={chosen.shape}:{chosen.objects}", *chosen.model]
    certificate = None
    if chosen.tls:
        certificate, key = certify(folder)
        arguments += ["--tls", certificate, key]
    with ModelServer(*arguments, certificate=certificate) as server:
        yield course(Endpoint(server.url, certificate), chosen.source, "single")


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--shape", default="hex", help="shape of the keys: hex, date or seq")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--workers", nargs="+", type=int, help="numbers of workers for peers; each has its own defaults")
    parser.add_argument("--processes", type=int, help="processes of s3bulkcopy; its own default otherwise")
    parser.add_argument("--latency", type=_latency, default=(0.0, 0.0), metavar="COPY/LIST", help="in milliseconds")
    parser.add_argument("--tls", action="store_true", help="measure over https")
    parser.add_argument("--setup", nargs="?", type=Path, const=_cache(), metavar="FOLDER", help="install the peers there first")
    parser.add_argument("--server", metavar="URL", help="a server that runs already, in place of the model server")
    parser.add_argument("--source", default="source", metavar="BUCKET", help="the source; a named server has to hold it")
    parser.add_argument("--stats-path", metavar="PATH", help="where a named server tells its counts as JSON")
    parser.add_argument("--certificate", metavar="FILE", help="what to trust where a named server speaks https")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a plot: .svg, .png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument(
        "--model", nargs=argparse.REMAINDER, default=[], help="all that follows is for model_server.py: throttling, faults"
    )
    chosen = parser.parse_args()
    chosen.path = os.environ["PATH"]
    if chosen.setup:
        chosen.path = f"{set_up(chosen.setup)}{os.pathsep}{chosen.path}"
    return chosen


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s3bulkcopy" / "peers"


def _latency(text: str) -> tuple[float, float]:
    try:
        copy_ms, list_ms = (float(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"not COPY/LIST in milliseconds: {text}") from None
    return copy_ms, list_ms


def _conditions(chosen: argparse.Namespace) -> str:
    """Say what the server is like."""
    if chosen.server:
        return str(chosen.server)
    copy_ms, list_ms = chosen.latency
    said = [f"{copy_ms:g} ms a copy", f"{list_ms:g} ms a list", "TLS" if chosen.tls else "", " ".join(chosen.model)]
    return ", ".join(filter(None, said))


def main() -> int:
    """Measure, print, draw; give 1 if any tool failed."""
    chosen = read_arguments()
    contenders = [
        Contender(tool, workers)
        for tool in map(TOOLS.__getitem__, chosen.tools)
        for workers in ((chosen.processes,) if tool is OURS else chosen.workers or tool.workers)
    ]
    with tempfile.TemporaryDirectory() as folder, serving(chosen, Path(folder)) as course:
        course.endpoint.trust()
        expected = {bucket: course.endpoint.contents(bucket) for bucket in (course.source, course.single) if bucket}
        objects = expected[course.source].objects
        results = compete(course, contenders, chosen.rounds, expected)
    title = f"{objects:,} objects, {_conditions(chosen)}; medians of rounds: {chosen.rounds}, x = ratio to s3bulkcopy"
    print(f"{title}\n", *table(results, contenders), sep="\n")
    if chosen.json:
        versions = {name: version(name, chosen.path) for name in chosen.tools}
        machine = {"python": platform.python_version(), "system": platform.platform(), "processors": os.cpu_count()}
        arguments = {k: v for k, v in vars(chosen).items() if k not in ("path", "setup", "plot", "json")}
        chosen.json.write_text(as_json(results, contenders, {**arguments, **machine, "versions": versions, "objects": objects}))
    if chosen.plot:
        try:
            plot(results, contenders, title.partition(", x")[0], chosen.plot)
        except ImportError as missing:
            print(f"no plot: {missing} (pip install 's3bulkcopy[bench]')", file=sys.stderr)
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())

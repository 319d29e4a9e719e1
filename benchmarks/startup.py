"""How long the command and a worker take to start, in ratio to Python itself. Prints a table.

    python benchmarks/startup.py [--rounds 20] [--check]

Help: `s3bulkcopy --help` as pip installs it, with bytecode. Worker: the handler's module out of the unpacked bundle, with
bytecode, and from source, which is how a new Lambda environment finds it. All take turns in one run, without the caller's
PYTHON* variables; figures are medians over the rounds, and a ratio is to `python -c pass` of the same round.
"""

from __future__ import annotations

import argparse
import compileall
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tools import ROOT

from s3bulkcopy.aws import bundle

BASE = "python -c pass"


class Start(NamedTuple):
    """Something that starts."""

    command: list[str]
    #: Most wall time that it may take, in ratio to Python alone; None where nothing is promised.
    most: float | None = None


class Cost(NamedTuple):
    """What one start took, in seconds."""

    wall: float
    cpu: float


def starts(folder: Path) -> dict[str, Start]:
    """Give what is measured, by name; everything that it needs is put into the folder."""
    installed, unpacked, compiled = (folder / name for name in ("installed", "unpacked", "compiled"))
    shutil.copytree(ROOT / "s3bulkcopy", installed / "s3bulkcopy", ignore=shutil.ignore_patterns("__pycache__"))
    for place in (unpacked, compiled):
        for name, content in bundle.files().items():
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for place in (installed, compiled):
        compileall.compile_dir(place, quiet=1)
    python = [sys.executable, "-B"]
    return {
        BASE: Start([*python, "-c", "pass"]),
        "s3bulkcopy --help": Start(
            [*python, "-c", _at(installed, "from s3bulkcopy.__main__ import main; main()"), "--help"], 6
        ),
        "worker, from bytecode": Start([*python, "-c", _at(compiled, "import s3bulkcopy.worker.handler")], 4),
        "worker, from source": Start([*python, "-c", _at(unpacked, "import s3bulkcopy.worker.handler")]),
    }


def _at(place: Path, code: str) -> str:
    return f"import sys; sys.path[0] = {str(place)!r}; {code}"


def start(command: list[str], folder: Path) -> Cost:
    """Run a command to its end; raises CalledProcessError."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, env=variables, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def main() -> int:
    """Measure and print; give 1 if, where that is checked, something takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--check", action="store_true", help="fail if something takes longer than it may")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        measured = starts(folder)
        rounds = [{name: start(one.command, folder) for name, one in measured.items()} for _ in range(chosen.rounds + 1)][1:]
    print(f"{'':22} {'wall ms':>8} {'ratio':>6} {'CPU ms':>8} {'ratio':>6}  at most")
    late = False
    for name, one in measured.items():
        wall, cpu = (statistics.median(run[name][n] for run in rounds) * 1e3 for n in (0, 1))
        walls, cpus = (statistics.median(run[name][n] / run[BASE][n] for run in rounds) for n in (0, 1))
        late |= one.most is not None and walls > one.most
        print(f"{name:22} {wall:8.1f} {walls:6.2f} {cpu:8.1f} {cpus:6.2f}  {one.most or ''}".rstrip())
    return 1 if chosen.check and late else 0


if __name__ == "__main__":
    sys.exit(main())

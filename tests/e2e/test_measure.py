"""What a command costs, as benchmarks measure it: descendants count."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
from measure import Memory, measure
from tools import ROOT

BURN = "import time\nwhile time.process_time() < 0.3: pass"
HOLD = "held = b'x' * (400 * 2**20)"


def parent_of(*scripts: str) -> list[str]:
    """Give a command that runs each script in a process of its own, all at once, and waits for them."""
    start = f"children = [subprocess.Popen([sys.executable, '-c', s]) for s in {scripts!r}]"
    return [sys.executable, "-c", f"import subprocess, sys\n{start}\nfor child in children: child.wait()"]


def test_the_processor_time_of_descendants_counts() -> None:
    used = measure(parent_of(BURN, BURN), os.environ, 60)

    assert (used.code, used.cpu_seconds >= 0.6) == (0, True)


def test_the_largest_descendant_is_found_however_short_its_life() -> None:
    used = measure(parent_of(HOLD), os.environ, 60)

    assert 400 * 2**20 <= used.largest_bytes <= used.tree_bytes


def test_memory_is_the_most_of_one_process_and_of_all_together() -> None:
    memory = Memory(0, 60)

    for sizes in ([5], [1, 2, 4], [3, 3]):
        memory.look([SimpleNamespace(memory_info=partial(SimpleNamespace, rss=size)) for size in sizes])

    assert (memory.first_bytes, memory.other_bytes) == (5, 4)
    assert (memory.largest_bytes, memory.tree_bytes) == (5, 7)


@pytest.mark.parametrize(("words", "last"), [("first\nlast\n", "last"), ("x\nerror: y\nhint: z", "error: y hint: z")])
def test_the_last_line_of_stderr_says_why_a_command_failed(words: str, last: str) -> None:
    used = measure([sys.executable, "-c", f"import sys; sys.exit({words!r})"], os.environ, 60)

    assert (used.code, used.last_words) == (1, last)


def test_a_command_is_killed_when_its_time_is_over() -> None:
    used = measure(parent_of("import time; time.sleep(60)"), os.environ, 0.2)

    assert (used.code, used.seconds < 30) == (-9, True)


def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(FileNotFoundError):
        measure(["no-such-command"], os.environ, 60)


def test_a_command_does_not_outlive_whoever_measures_it() -> None:
    command = [sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(60)"]
    script = (
        f"import os, measure; os.dup2(2, 1); measure.subprocess.DEVNULL = None; measure.measure({command!r}, os.environ, 60)"
    )
    measuring = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        stderr=subprocess.PIPE,
        text=True,
    )
    with measuring:
        assert measuring.stderr is not None
        assert measuring.stderr.readline() == "runs\n"
        measuring.terminate()
        rest = measuring.stderr.read()  # ends once nobody holds the other end any more

    assert "KeyboardInterrupt" in rest

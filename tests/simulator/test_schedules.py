"""The protocol in bad weather: thousands of runs of the shipped code, each with faults of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulator.simulate import again, replay, run_many

#: How many schedules are run in all.
SCHEDULES = int(os.environ.get("S3BULKCOPY_SCHEDULES", "10000"))

#: In as many tests, which several processes share.
TESTS = 20

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("part", range(TESTS))
def test_what_always_holds_holds_in_every_schedule(part: int) -> None:
    seeds = range(part * SCHEDULES // TESTS, (part + 1) * SCHEDULES // TESTS)

    found = run_many(seeds)

    told = "\n".join(f"{what}\n    replay: {again(seed)}" for seed, what in found.broken.items())
    assert not found.broken, f"{len(found.broken)} schedules are broken:\n{told}"


def test_a_schedule_is_the_same_each_time_also_in_another_process() -> None:
    seeds = range(40)
    ours = [line for seed in seeds for line in replay(seed)[0]]
    script = (
        "import sys; from tests.simulator.simulate import replay; "
        f"lines = [line for seed in {seeds!r} for line in replay(seed)[0]]; "
        "sys.stdout.buffer.write('\\n'.join(lines).encode('utf-8', 'replace'))"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )

    assert theirs.stdout.decode("utf-8", "replace") == "\n".join(ours).encode("utf-8", "replace").decode("utf-8", "replace")

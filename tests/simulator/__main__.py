"""Run schedules: `python -m tests.simulator [--schedules N] [--from SEED]`.

Replay one: `python -m tests.simulator --seed N --trace`.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulator.oracle import INVARIANTS
from tests.simulator.simulate import replay, run_many


def main() -> int:
    """Run what the arguments ask for; 1 where an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000, help="how many to run")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--trace", action="store_true", help="with --seed: say what happens")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        lines, broken = replay(chosen.seed, tracing=chosen.trace)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.write(f"seed {chosen.seed}: {broken or 'all invariants hold'}\n")
        return int(broken is not None)
    began, began_cpu = time.perf_counter(), time.process_time()
    seeds = range(chosen.first, chosen.first + chosen.schedules)
    found = run_many(seeds)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    sys.stdout.write("".join(f"{line}\n" for line in found.lines()))
    sys.stdout.write(
        f"{found.seen['schedules']:,} schedules (seeds from {seeds[0]:,}), {len(INVARIANTS)} invariants, "
        f"{len(found.broken)} schedules broken; "
        f"{60 * found.seen['schedules'] / cpu_seconds:,.0f} schedules a minute of one core "
        f"({cpu_seconds:.0f} s of processor, {seconds:.0f} s)\n"
    )
    return int(bool(found.broken))


if __name__ == "__main__":
    sys.exit(main())

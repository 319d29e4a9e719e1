"""The benchmarks' commands, at their smallest: they run to their end and print what they say they print."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from tools import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def run(name: str, *arguments: str) -> str:
    """Run a benchmark; give what it printed."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_tools_are_compared_through_faults_on_the_same_keys(tmp_path: Path) -> None:
    told = tmp_path / "told.json"

    run("compare.py", "--objects", "300", "--rounds", "1", "--tools", "s3bulkcopy", "boto3", "--workers", "8",
        "--json", str(told), "--model", "--fail-503", "0.05", "--close-after", "50")  # fmt: skip

    ours, boto3 = json.loads(told.read_text())["rows"]
    assert [(row["tool"], row["workers"], row["failed"]) for row in (ours, boto3)] == [
        ("s3bulkcopy", None, None),
        ("boto3", 8, None),
    ]
    assert set(ours["ratio_to_ours"].values()) == {1.0}
    for row in (ours, boto3):
        assert 0 < row["median"]["slow_downs"] < 20
        assert 1.001 < row["median"]["requests"] < 1.4
        assert min(row["median"][name] for name in ("cpu", "rate", "largest", "tree", "startup")) > 0


def test_a_tool_that_leaves_objects_behind_fails(tmp_path: Path) -> None:
    script = "import sys; sys.path.insert(0, sys.argv.pop(1)); import compare, tools\n"
    script += "tools.TOOLS['boto3'] = tools.Tool('boto3', (1,), lambda errand, path: [sys.executable, '-c', 'pass'])\n"
    script += (
        f"sys.argv += ['--objects', '10', '--rounds', '1', '--tools', 'boto3', '--json', {str(tmp_path / 'told.json')!r}]\n"
    )
    script += "sys.exit(compare.main())"

    ended = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "benchmarks")], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1, ended.stderr
    assert "failed: 0 of 10 objects arrived" in ended.stdout


def test_the_rate_of_listing_is_measured() -> None:
    (told,) = run("list_rate.py", "--objects", "3000", "--list-ms", "10", "--rounds", "1", "--json").splitlines()

    figures = json.loads(told)
    assert (figures["keys"], figures["requests"] >= 3, figures["cpu_us"] > 0) == (3000, True, True)


def test_starts_are_measured_in_ratio_to_python() -> None:
    rows = [line[22:].split() for line in run("startup.py", "--rounds", "2").splitlines()[1:]]

    ratios = [float(row[1]) for row in rows]
    assert ratios[0] == 1
    assert min(ratios[1:]) > 1


def test_counting_is_measured_from_the_queue_to_the_journal() -> None:
    tally, reports = (line.split() for line in run("accounting.py", "--tasks", "5000", "--reports", "500").splitlines())

    assert (tally[:2], reports[:2]) == (["tally", "4,949"], ["reports", "404"])

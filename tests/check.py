"""Set up a virtual environment of its own and check everything: format, lint, types, tests.

`python3 tests/check.py` is the one command that people, the CI script and the GitHub workflow call. Arguments go to pytest.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv-check"

CHECKS = (
    ("format", ["ruff", "format", "--check", "."]),
    ("lint", ["ruff", "check", "."]),
    ("types", ["mypy"]),
)


def prepare() -> Path:
    """Make the environment, or bring it up to date; give its folder of programs."""
    programs = HOME / "bin"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + sys.version.encode()).hexdigest()
    mark = HOME / "made-from"
    if not mark.exists() or mark.read_text() != wanted:
        venv.create(HOME, clear=True, with_pip=True)
        subprocess.run([programs / "pip", "install", "--quiet", "--editable", f"{ROOT}[dev]"], check=True)
        mark.write_text(wanted)
    return programs


def main() -> int:
    """Run every check, even after one has failed; give 1 if any did."""
    if sys.version_info < (3, 11):  # noqa: UP036 - it is what people run before anything is installed
        print("s3bulkcopy needs Python 3.11 or newer", file=sys.stderr)
        return 1
    programs = prepare()
    tests = ("tests", ["pytest", "-q", "-n", str((os.cpu_count() or 2) + 1), "--dist", "worksteal", *sys.argv[1:]])
    failed = []
    for name, command in (*CHECKS, tests):
        print(f"== {name}: {' '.join(command)}", flush=True)
        code = subprocess.run([programs / command[0], *command[1:]], cwd=ROOT, check=False).returncode
        if code:
            # What was killed has said nothing itself.
            failed.append(f"{name} (killed by {signal.Signals(-code).name})" if code < 0 else name)
    print(f"failed: {', '.join(failed)}" if failed else "all good", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

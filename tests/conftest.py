"""What all tests share: a folder for journals that is not the user's own, and signals that are not ignored."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Take the caller's variables and ignored signals away, and keep journals in a folder that goes when the tests end.

    Those of commands, too.
    """
    for name in [name for name in os.environ if name.startswith("S3BULKCOPY_")]:
        del os.environ[name]
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:  # as in the background of a shell, or under nohup
            signal.signal(number, handler)
    folder = tempfile.mkdtemp(prefix="s3bulkcopy-tests-")
    os.environ["S3BULKCOPY_STATE_DIR"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread what waits for an emulator evenly among the others, so that processes, which each get a stretch, share it.

    What takes longest comes first, and one process makes its large sources.
    """
    waiting = [item for item in items if "e2e" in item.path.parts]
    waiting.sort(key=lambda item: ("all_at_once" not in item.name, item.path.name != "test_run.py"))
    others = [item for item in items if "e2e" not in item.path.parts]
    every = len(others) // len(waiting) if waiting else 0
    for n, item in enumerate(waiting):
        others.insert(n * (every + 1), item)
    items[:] = others

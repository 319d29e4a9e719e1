"""An AWS on this machine: ministack as a subprocess, for the demo and the end-to-end tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

from s3bulkcopy.errors import S3BulkCopyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How long the emulator may take to answer, in seconds.
START_SECONDS = 60.0

#: The credentials that it takes for its own root's.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

#: The account that they belong to.
ACCOUNT = "000000000000"

#: The region that its clients name.
REGION = "us-east-1"


class Emulator:
    """A running ministack; entering starts it on a free port of the loopback, leaving stops it and all it started."""

    def __init__(self, port: int | None = None, variables: Mapping[str, str] | None = None) -> None:
        """Listen on `port`, or a free one; `variables` are added to its environment."""
        self._wanted_port = port
        self._variables = dict(variables or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""
        self.url = ""

    def __enter__(self) -> Self:
        """Start it and wait until it answers; raises UsageError without ministack or with the port in use."""
        if importlib.util.find_spec("ministack") is None:
            hint = "in a checkout of s3bulkcopy: pip install '.[demo]'"
            raise UsageError("the demo needs the AWS emulator, which is not installed", hint)
        port = _free_port(self._wanted_port)
        self.url = f"http://127.0.0.1:{port}"
        self._folder = tempfile.mkdtemp(prefix="s3bulkcopy-emulator-")
        with Path(self._folder, "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ministack"],
                env={**_environment(self._folder), "GATEWAY_PORT": str(port), **self._variables},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    @property
    def variables(self) -> dict[str, str]:
        """The environment with which a client speaks to it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": REGION, "AWS_REGION": REGION}

    @property
    def group(self) -> int:
        """The process group of the emulator and its workers."""
        if self._process is None:
            raise RuntimeError("the emulator does not run")
        return self._process.pid

    def log(self) -> str:
        """Give what it wrote to its log."""
        return Path(self._folder, "log").read_text(errors="replace")

    def stop(self) -> None:
        """Kill it and its workers, which outlive a SIGTERM, and remove its folder."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        give_up_at = time.monotonic() + START_SECONDS
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < give_up_at:
            if self._process is not None and self._process.poll() is not None:
                raise S3BulkCopyError(f"the emulator ended at once: {self.log()[-500:].strip()}")
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                opener.open(f"{self.url}/_ministack/health", timeout=5).close()
                return
            time.sleep(0.1)
        raise S3BulkCopyError(f"the emulator did not answer within {START_SECONDS:.0f} s: {self.log()[-500:].strip()}")


def _free_port(wanted: int | None) -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError as error:
            raise UsageError(
                f"port {wanted} is in use", hint="choose another --port, or leave it out for a free one"
            ) from error
        return int(probe.getsockname()[1])


def _environment(folder: str) -> dict[str, str]:
    """Give the emulator nothing that could lead it to a real account or through a proxy."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("AWS_", "S3BULKCOPY_")) and not name.upper().endswith("_PROXY")
    }
    return {
        **kept,
        "AUTH": "true",
        "BIND_HOST": "127.0.0.1",
        # Without this it opens a port on all interfaces.
        "IOT_MTLS_ENABLED": "0",
        "LAMBDA_EXECUTOR": "local",
        "LOG_LEVEL": "WARNING",
        "TMPDIR": folder,
    }

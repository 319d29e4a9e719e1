"""The bundle: our own worker, the same bytes every time, on nothing but the standard library."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import s3bulkcopy
from s3bulkcopy.aws import bundle

if TYPE_CHECKING:
    import pytest

PACKAGE = Path(s3bulkcopy.__file__).parent


def entries() -> list[zipfile.ZipInfo]:
    return zipfile.ZipFile(io.BytesIO(bundle.build())).infolist()


def test_two_builds_give_the_same_bytes_whenever_and_however_the_files_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    first = bundle.build()

    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    found = dict(reversed(bundle.files().items()))
    monkeypatch.setattr(bundle, "files", lambda: found)

    assert bundle.digest(bundle.build()) == bundle.digest(first)
    assert bundle.build() == first


def test_the_bundle_holds_the_worker_and_the_package_itself_only() -> None:
    wanted = ["s3bulkcopy/__init__.py", *(f"s3bulkcopy/worker/{path.name}" for path in (PACKAGE / "worker").glob("*.py"))]

    assert [entry.filename for entry in entries()] == sorted(wanted)


def test_nothing_in_the_bundle_tells_who_built_it_when() -> None:
    assert {(e.date_time, e.external_attr >> 16, e.create_system) for e in entries()} == {((1980, 1, 1, 0, 0, 0), 0o644, 3)}


def test_the_handlers_import_with_the_standard_library_alone(tmp_path: Path) -> None:
    archive = tmp_path / "bundle.zip"
    archive.write_bytes(bundle.build())
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r})\n"
        "from s3bulkcopy.worker.handler import copy_handler, list_handler\n"
        "print(copy_handler.__code__.co_filename)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3BULKCOPY_"))}

    # -I and -S: neither this project's folder nor any installed package can be imported.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )

    assert done.stdout.startswith(str(archive))

"""The code that Lambda runs: the worker package as a zip, the same bytes whenever and wherever it is built."""

from __future__ import annotations

import io
import zipfile
from hashlib import sha256
from pathlib import Path

import s3bulkcopy

#: The earliest time that a zip can hold.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def files() -> dict[str, bytes]:
    """Give what goes into the bundle: names in the zip and contents."""
    root = Path(s3bulkcopy.__file__).parent
    paths = [root / "__init__.py", *sorted((root / "worker").rglob("*.py"))]
    return {path.relative_to(root.parent).as_posix(): path.read_bytes() for path in paths}


def build() -> bytes:
    """Build the zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(files().items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def digest(code: bytes) -> str:
    """Give the SHA-256 of a bundle, in hexadecimal."""
    return sha256(code).hexdigest()

"""Objects that are read as files, for what they say to this command."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from s3bulkcopy.aws.session import bucket_region, translate
from s3bulkcopy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3bulkcopy.aws.session import AwsSession

_BUFFER_BYTES = 256 * 1024


class _Body(io.RawIOBase):
    """An object's bytes, as io wants them; where a connection breaks off, they are read on from there."""

    def __init__(self, name: str, opened: Callable[[int], Any]) -> None:
        self._name, self._opened = name, opened
        self._body, self._bytes_read = opened(0), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - a buffer has no name before Python 3.12
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        self._bytes_read += len(data)
        return len(data)

    def _read(self, most: int) -> bytes:
        try:
            return bytes(self._body.read(most))
        except BotoCoreError:
            self._body.close()
            self._body = self._opened(self._bytes_read)
        try:
            return bytes(self._body.read(most))
        except BotoCoreError as error:  # and not a byte came
            raise translate(error, f"reading {self._name}") from error

    def close(self) -> None:
        self._body.close()
        super().close()


class Files:
    """Opens files and objects; what is opened again is the same still, also where it was a pipe."""

    def __init__(self, session: AwsSession) -> None:
        """Read objects as whoever the session is."""
        self._session = session
        self._regions: dict[str, str] = {}
        self._etags: dict[str, str] = {}
        #: Of each file, what tells whether it is still the same.
        self._marks: dict[str, tuple[int, ...]] = {}
        #: Copies of what can be read but once.
        self._kept: dict[str, IO[bytes]] = {}

    def __call__(self, name: str) -> IO[bytes]:
        """Open a path, or `s3://bucket/key`; raises OSError, UsageError, or what keeps S3 from answering."""
        if not name.lower().startswith("s3://"):
            return self._open_file(name)
        return io.BufferedReader(_Body(name, partial(self._open_object, name)), _BUFFER_BYTES)

    def _open_object(self, name: str, first: int) -> Any:  # noqa: ANN401 - botocore's
        """Open the body of an object from its byte number `first` on."""
        bucket, _, key = name[len("s3://") :].partition("/")
        if not bucket or not key:
            raise UsageError(f"{name!r} names no object: write s3://bucket/key")
        if bucket not in self._regions:
            self._regions[bucket] = bucket_region(self._session, bucket)
        asked = {"IfMatch": self._etags[name]} if name in self._etags else {}
        asked |= {"Range": f"bytes={first}-"} if first else {}
        try:
            answer = self._session.client("s3", self._regions[bucket]).get_object(Bucket=bucket, Key=key, **asked)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("NoSuchKey", "404"):
                raise UsageError(f"there is no {name}") from error
            if code in ("PreconditionFailed", "412"):
                raise UsageError(f"{name} has changed while it was read", "run the command again") from error
            raise translate(error, f"reading {name}") from error
        except BotoCoreError as error:
            raise translate(error, f"reading {name}") from error
        self._etags[name] = answer["ETag"]
        return answer["Body"]

    def _open_file(self, name: str) -> IO[bytes]:
        if name in self._kept:
            return Path(self._kept[name].name).open("rb")
        file = Path(name).open("rb")  # noqa: SIM115 - for whoever asked
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode):
            mark = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
            if self._marks.setdefault(name, mark) != mark:
                file.close()
                raise UsageError(f"{name} has changed while it was read", "run the command again")
            return file
        kept = tempfile.NamedTemporaryFile()  # noqa: SIM115 - there as long as this is
        with file:
            shutil.copyfileobj(file, kept)
        kept.flush()
        self._kept[name] = kept
        return Path(kept.name).open("rb")

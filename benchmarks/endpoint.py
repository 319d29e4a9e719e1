"""The S3 that benchmarks run against: its buckets, and what it counted."""

from __future__ import annotations

import json
import os
import ssl
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.failures import Fault, Next, read_error
from s3bulkcopy.worker.model import Location
from s3bulkcopy.worker.s3 import S3, Bucket
from s3bulkcopy.worker.sigv4 import Credentials

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

#: What every tool signs with; the servers of benchmarks do not look.
CREDENTIALS = Credentials("test", "test")
REGION = "us-east-1"

#: Counters that a server other than ours may give beside others: operations, and refused requests, which count nowhere else.
_KINDS = ("list", "copy", "head", "get", "put", "delete", "503")

#: How often a server that fails is asked before it is given up.
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bucket holds: how many objects, and a digest of their keys, sizes and ETags in order."""

    objects: int
    digest: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What a server counted."""

    requests: Counter[str] = field(default_factory=Counter)
    slow_downs: int = 0
    #: Processor time of the server; 0 where it does not tell.
    cpu_seconds: float = 0.0

    def since(self, before: Counts) -> Counts:
        """Give what came after an earlier count."""
        slow_downs, cpu_seconds = self.slow_downs - before.slow_downs, self.cpu_seconds - before.cpu_seconds
        return Counts(self.requests - before.requests, slow_downs, cpu_seconds)


async def _patiently(ask: Callable[[], Awaitable[T | Fault]]) -> T | Fault:
    """Ask again where a server fails, as it may have been told to."""
    for _ in range(_TRIES):
        answer = await ask()
        if not isinstance(answer, Fault) or answer.next not in (Next.RETRY, Next.SLOW_DOWN):
            break
    return answer


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An S3 at a URL; `certificate` is a file with what to trust beyond the usual, `stats_path` where it tells its counts."""

    url: str
    certificate: str | None = None
    stats_path: str | None = "/_model/stats"

    def trust(self) -> None:
        """Let this process trust the certificate."""
        if self.certificate:
            os.environ["SSL_CERT_FILE"] = self.certificate

    def make(self, bucket: str) -> None:
        """Make a bucket; raises RuntimeError."""
        where = self._location(bucket)
        target = Bucket(where, CREDENTIALS)

        async def put(s3: S3) -> Fault | None:
            request = target.request("PUT", target.path, "", {}, s3.date())
            answer = await s3.ask(s3.host(where), request, 60)
            if isinstance(answer, Fault):
                return answer
            return None if answer.status == 200 else read_error(answer.status, answer.body)

        fault = self._ask(lambda s3: _patiently(lambda: put(s3)))
        if fault is not None:
            raise RuntimeError(f"{self.url} did not make {bucket}: {fault}")

    def contents(self, bucket: str) -> Contents:
        """List a bucket; raises RuntimeError."""

        async def read(s3: S3) -> Contents:
            digest, objects, after = sha256(), 0, ""
            while True:
                page = await _patiently(partial(s3.page, self._location(bucket), "", after))
                if isinstance(page, Fault):
                    raise RuntimeError(f"{self.url} did not list {bucket}: {page}")  # noqa: TRY004 - of the world, not of types
                for item in page.items:
                    digest.update(f"{item.key}\0{item.size}\0{item.etag}\0".encode())
                objects += len(page.items)
                if not page.truncated:
                    return Contents(objects, digest.hexdigest())
                after = page.items[-1].key

        return self._ask(read)

    def counts(self) -> Counts | None:
        """Give what the server counted so far; None where it does not tell."""
        if self.stats_path is None:
            return None
        context = ssl.create_default_context(cafile=self.certificate)
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with urllib.request.build_opener(*handlers).open(self.url + self.stats_path, timeout=60) as answer:
            told = json.load(answer)
        requests = told.get("requests") or {kind: told[kind] for kind in _KINDS if told.get(kind)}
        cpu_seconds = told.get("cpu_seconds", told.get("server_cpu_s", 0.0))
        return Counts(Counter(requests), told.get("slow_downs", told.get("503", 0)), cpu_seconds)

    def _location(self, bucket: str) -> Location:
        return Location(bucket, "", REGION, f"{self.url}/{bucket}")

    def _ask(self, work: Callable[[S3], Awaitable[T]]) -> T:
        async def main() -> T:
            s3 = S3(lambda: CREDENTIALS)
            try:
                return await work(s3)
            finally:
                s3.close()

        return aio.run(main())

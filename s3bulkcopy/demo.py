"""The demo: a whole run on an AWS emulator on this machine, and a comparison of what came out of it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s3bulkcopy.emulator import ACCOUNT, CREDENTIALS, REGION, Emulator
from s3bulkcopy.errors import S3BulkCopyError
from s3bulkcopy.settings import AwsSettings, BucketPrefix, CopySettings, StackSettings
from s3bulkcopy.worker import aio
from s3bulkcopy.worker.failures import Fault
from s3bulkcopy.worker.model import Item, Location
from s3bulkcopy.worker.s3 import S3, Bucket
from s3bulkcopy.worker.sigv4 import Credentials, encode_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s3bulkcopy.settings import OutputSettings

SOURCE, DESTINATION = "s3bulkcopy-demo-source", "s3bulkcopy-demo-destination"

#: Keys that tools have been seen to lose, mangle or list twice.
AWKWARD_KEYS: tuple[str, ...] = (
    "/leading-slash",
    "//two-leading-slashes",
    "double//slash",
    "trailing-slash/",
    "a key",
    "a key/",
    "a key/below a key",
    "./dot",
    "dot/./inside",
    "dots/../inside",
    "..",
    "percent%20encoded%2Fslash%",
    "plus+plus",
    "question?mark=1&more=2",
    "hash#fragment",
    " space at the start",
    "space at the end ",
    "semicolon;comma,colon:equals=at@",
    "quotes'\"`<xml>&amp;",
    "back\\slash",
    "control\x01\x02\x1f\x7f",
    "new\nline",
    "carriage\rreturn",
    "tab\tulator",
    "nfc-\u00e9",
    "nfd-e\u0301",
    "®registered",
    "øre/ærlig",
    "日本語/ファイル",
    "עברית",
    "\ue000 private use",
    "\uffee halfwidth",
    "\U0001f600 emoji",
    "\U0010fffd last plane",
    "long/" + "x" * 1019,
    "é" * 512,
    "\U0001f680" * 256,
)

#: Requests in flight while the bucket is filled.
_FILLERS = 32


def keys(count: int) -> Iterator[str]:
    """Give that many keys, the awkward ones first."""
    yield from AWKWARD_KEYS[:count]
    for n in range(count - len(AWKWARD_KEYS)):
        yield f"year=2026/month={n % 12 + 1:02}/day={n % 28 + 1:02}/part-{n:07}.parquet"


@dataclass(frozen=True, slots=True)
class Difference:
    """What a comparison found: keys that only one side has, and keys whose size or ETag differs."""

    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        """Tell whether the sides differ."""
        return bool(self.missing or self.surplus or self.changed)


def compare(source: dict[str, Item], destination: dict[str, Item]) -> Difference:
    """Compare two listings."""
    return Difference(
        tuple(sorted(source.keys() - destination.keys())),
        tuple(sorted(destination.keys() - source.keys())),
        tuple(sorted(k for k in source.keys() & destination.keys() if source[k] != destination[k])),
    )


class Store:
    """Makes, fills and lists the emulator's buckets."""

    def __init__(self, url: str) -> None:
        """Speak to the emulator at this URL."""
        self._url = url
        self._credentials = Credentials(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])

    def location(self, bucket: str, prefix: str = "") -> Location:
        """Give a bucket as requests address it."""
        return Location(bucket, prefix, REGION, f"{self._url}/{bucket}")

    def make(self, bucket: str) -> None:
        """Make a bucket.

        On AWS the `*` of a policy matches a newline, on the emulator it does not: what it should have matched is allowed by
        the bucket's own policy.
        """
        unmatched = {"NotResource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}
        actions = ["s3:GetObject", "s3:GetObjectTagging", "s3:PutObject", "s3:PutObjectTagging"]
        own = {"Condition": {"StringEquals": {"aws:PrincipalAccount": ACCOUNT}}}
        statement = {"Effect": "Allow", "Principal": "*", "Action": actions, **unmatched, **own}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]}).encode()
        aio.run(self._put(bucket, iter([("", "", b""), ("", "policy=", policy)]), fillers=1))

    def fill(self, bucket: str, names: Iterator[str]) -> None:
        """Put an object of a few bytes of its own under each key."""
        objects = ((f"/{encode_path(n)}", "", b"" if n.endswith("/") else n.encode()[:100]) for n in names)
        aio.run(self._put(bucket, objects, _FILLERS))

    async def _put(self, bucket: str, requests: Iterator[tuple[str, str, bytes]], fillers: int) -> None:
        """Send PUT requests: the path within the bucket, the query and the body of each."""
        s3 = S3(lambda: self._credentials)
        where = self.location(bucket)
        target = Bucket(where, self._credentials)

        async def filler() -> None:
            for path, query, body in requests:
                request = target.request("PUT", target.path + path, query, {}, s3.date(), body)
                answer = await s3.ask(s3.host(where), request, 60)
                if isinstance(answer, Fault) or answer.status >= 300:  # noqa: PLR2004 - not a success
                    raise S3BulkCopyError(f"the emulator did not take {bucket}{path}: {answer}")

        try:
            await aio.gather(*(filler() for _ in range(fillers)))
        finally:
            s3.close()

    def items(self, bucket: str, prefix: str = "") -> dict[str, Item]:
        """List a whole bucket."""
        return aio.run(self._items(self.location(bucket, prefix)))

    async def _items(self, where: Location) -> dict[str, Item]:
        s3 = S3(lambda: self._credentials)
        found: dict[str, Item] = {}
        after = ""
        while True:
            page = await s3.page(where, where.prefix, after)
            if isinstance(page, Fault):
                raise S3BulkCopyError(f"the emulator did not list {where}: {page}")
            found |= {item.key: item for item in page.items}
            if not page.truncated:
                s3.close()
                return found
            after = page.items[-1].key


def demo(
    objects: int,
    port: int | None,
    output: OutputSettings,
    *,
    run: Callable[..., int],
    say: Callable[[str], None],
) -> int:
    """Do the whole job on an emulator; give the exit code. `run` is the command's own."""
    with Emulator(port) as emulator:
        for name in [name for name in os.environ if name.upper().startswith("AWS_") or name.upper().endswith("_PROXY")]:
            del os.environ[name]
        os.environ |= emulator.variables
        store = Store(emulator.url)
        say(f"an AWS emulator runs at {emulator.url}; filling a bucket with {objects:,} objects")
        began = time.monotonic()
        for bucket in (SOURCE, DESTINATION):
            store.make(bucket)
        store.fill(SOURCE, keys(objects))
        say(f"filled in {time.monotonic() - began:.1f} s; now `s3bulkcopy run {SOURCE} {DESTINATION}`")
        aws = AwsSettings(region=REGION, endpoint_url=emulator.url)

        def last_words() -> str:
            emulator.stop()
            return "left at once; the emulator is gone, and everything in it"

        copy = CopySettings(BucketPrefix(SOURCE), BucketPrefix(DESTINATION))
        code = run(copy, StackSettings(), aws, output, last_words=last_words)
        say("comparing destination with source by listing both")
        difference = compare(store.items(SOURCE), store.items(DESTINATION))
    if difference:
        raise S3BulkCopyError(f"the destination is not equal to the source: {difference}")
    say(f"compared by listing both: {objects:,} keys, sizes and ETags are equal; the emulator is gone again")
    return code

"""A worker with as many connections as it may have, all of them busy; what `memory.py` looks at.

    python benchmarks/busy_worker.py URL SOURCE DESTINATION CONNECTIONS [CERTIFICATE]

It imports what a Lambda environment imports and nothing else, and copies SOURCE, four tasks of a page each at a time as an
invocation has them. The last line on stderr is the most requests that were in flight at a time.
"""

from __future__ import annotations

import sys

import s3bulkcopy.worker.handler  # noqa: F401 - for all that it imports
from s3bulkcopy.worker import aio
from s3bulkcopy.worker.connections import Host
from s3bulkcopy.worker.copying import Copier
from s3bulkcopy.worker.model import Job, Location
from s3bulkcopy.worker.pacing import Pace, chance, full_jitter
from s3bulkcopy.worker.s3 import S3, Page
from s3bulkcopy.worker.sigv4 import Credentials

#: Messages that one invocation of the copy function has (`aws/stack.py`).
TASKS = 4
REGION = "us-east-1"


async def copy(url: str, source: str, destination: str, connections: int, certificate: str | None) -> int:
    """Copy a bucket; give the most requests in flight at a time. Raises RuntimeError."""
    credentials = Credentials("test", "test")
    s3 = S3(lambda: credentials, host=lambda where: Host(url=where, ca_file=certificate))
    pauses = full_jitter(chance)
    pace = Pace(most=connections, idle_seconds=aio.get_running_loop().idle_seconds)
    copier = Copier(s3, pace, pauses)
    origin, target = (Location(bucket, "", REGION, f"{url}/{bucket}") for bucket in (source, destination))
    job = Job("memory", origin, target)
    after, most, is_over, listing = "", 0, False, aio.Semaphore(1)

    async def serve() -> None:
        """Copy one page after another, each the next that no other has."""
        nonlocal after, is_over
        while True:
            async with listing:
                if is_over:
                    return
                page = await s3.page(origin, "", after)
                if not isinstance(page, Page):
                    raise RuntimeError(str(page))  # noqa: TRY004 - of the world, not of types
                is_over, after = not page.truncated, page.items[-1].key
            outcome = await copier.copy(job, page.items, float("inf"), attempt=1)
            if outcome.counts.copied != len(page.items):
                raise RuntimeError(f"not copied: {outcome.failures[:1]}")

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, pace.in_flight)
            await aio.sleep(0.05)

    watching = aio.create_task(watch())
    await aio.gather(*(serve() for _ in range(TASKS)))
    watching.cancel()
    await aio.gather(watching, return_exceptions=True)
    await copier.stop()
    s3.close()
    return most


if __name__ == "__main__":
    url, source, destination, connections, *certificate = sys.argv[1:]
    print(aio.run(copy(url, source, destination, int(connections), certificate[0] if certificate else None)), file=sys.stderr)

"""Copies a bucket as most scripts do: a boto3 paginator and a pool of threads. A peer to be compared with.

python benchmarks/boto3_pool.py SOURCE DESTINATION --endpoint-url URL [--threads 32]
"""

from __future__ import annotations

import argparse
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

#: Copies submitted and not yet looked at, a thread: enough to keep it busy, and a bound on memory.
AHEAD = 16


def copy_bucket(s3: Any, source: str, destination: str, threads: int) -> int:  # noqa: ANN401 - boto3's clients have no type
    """Copy every object; give how many there were. Raises what boto3 raises."""
    running: deque[Future[Any]] = deque()
    copied = 0
    with ThreadPoolExecutor(threads) as pool:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=source):
            for entry in page.get("Contents", ()):
                origin = {"Bucket": source, "Key": entry["Key"]}
                running.append(pool.submit(s3.copy_object, Bucket=destination, Key=entry["Key"], CopySource=origin))
                copied += 1
                while len(running) > threads * AHEAD:
                    running.popleft().result()
        for one in running:
            one.result()
    return copied


def main() -> None:
    """Copy a bucket and say how many objects it held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("destination")
    parser.add_argument("--endpoint-url")
    parser.add_argument("--threads", type=int, default=32)
    chosen = parser.parse_args()
    s3 = boto3.client("s3", endpoint_url=chosen.endpoint_url, config=Config(max_pool_connections=chosen.threads))
    print(f"{copy_bucket(s3, chosen.source, chosen.destination, chosen.threads):,} objects copied")


if __name__ == "__main__":
    main()

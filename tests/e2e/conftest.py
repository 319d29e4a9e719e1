"""The command line as people run it, against an emulator that runs the real bundle in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from s3bulkcopy.demo import Store, keys
from s3bulkcopy.emulator import REGION, Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Longest that any one command of these tests may take, in seconds.
COMMAND_SECONDS = 240


@dataclass(frozen=True)
class Cloud:
    """An emulator, and how to look into it."""

    emulator: Emulator
    store: Store
    #: How many objects the sources hold that are there.
    sources: set[int] = field(default_factory=set)

    def client(self, service: str) -> Any:
        """Give a boto3 client as the account's root."""
        return boto3.client(
            service,
            endpoint_url=self.emulator.url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def environment(self, **changes: str | None) -> dict[str, str]:
        """Give the environment of a command; a change to None takes a variable away."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AWS_") and not name.upper().endswith("_PROXY")
        }
        wanted = {**kept, **self.emulator.variables, "AWS_CONFIG_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}
        wanted |= {name: value for name, value in changes.items() if value is not None}
        return {name: value for name, value in wanted.items() if changes.get(name, value) is not None}

    def start(self, *arguments: str, **changes: str | None) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "s3bulkcopy", *arguments],
            env=self.environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **changes: str | None) -> Ended:
        """Run a command to its end."""
        process = self.start(*arguments, **changes)
        return Ended.of(process)

    def source_of(self, objects: int) -> str:
        """Name a bucket of so many objects, every awkward key among them, which no test changes."""
        bucket = f"source-of-{objects}"
        if objects not in self.sources:
            self.store.make(bucket)
            self.store.fill(bucket, keys(objects))
            self.sources.add(objects)
        return bucket

    def leftovers(self) -> list[str]:
        """Name everything in the account that a run could have made."""
        sqs, functions, logs, iam = (self.client(name) for name in ("sqs", "lambda", "logs", "iam"))
        found = [url.rsplit("/", 1)[-1] for url in sqs.list_queues().get("QueueUrls", ())]
        found += [entry["FunctionName"] for entry in functions.list_functions()["Functions"]]
        found += [entry["UUID"] for entry in functions.list_event_source_mappings()["EventSourceMappings"]]
        found += [entry["logGroupName"] for entry in logs.describe_log_groups()["logGroups"]]
        found += [entry["RoleName"] for entry in iam.list_roles(PathPrefix="/s3bulkcopy/")["Roles"]]
        return found


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str

    @classmethod
    def of(cls, process: subprocess.Popen[str]) -> Ended:
        """Wait for a command to end."""
        try:
            out, err = process.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"the command did not end:\n{out}\n{err}")
        return cls(process.returncode, out, err)

    @property
    def summary(self) -> dict[str, Any]:
        """Give the last line of --output json."""
        summary: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return summary


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """An emulator for the tests of this process."""
    with Emulator() as emulator:
        yield Cloud(emulator, Store(emulator.url))


@pytest.fixture
def buckets(cloud: Cloud, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Two empty buckets of this test's own."""
    stem = f"b{abs(hash(request.node.nodeid)):x}"
    for name in (f"{stem}-src", f"{stem}-dst"):
        cloud.store.make(name)
    return f"{stem}-src", f"{stem}-dst"


def deny(cloud: Cloud, bucket: str, *keys: str) -> None:
    """Have a bucket refuse some of its objects, and give away all others."""
    s3 = cloud.client("s3")
    policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    policy["Statement"] = [statement for statement in policy["Statement"] if statement["Effect"] == "Allow"]
    arns = [f"arn:aws:s3:::{bucket}/{key}" for key in keys]
    if arns:
        policy["Statement"].append({"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": arns})
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


ALLOW_ALL: dict[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}


@pytest.fixture
def caller(cloud: Cloud) -> Iterator[Any]:
    """Give a function that makes a user who may do all but some actions, and returns its environment."""
    iam = cloud.client("iam")
    made: list[tuple[str, str]] = []

    def make(*denied: str, allowed: dict[str, Any] = ALLOW_ALL) -> dict[str, str]:
        name = f"caller-{len(made)}"
        iam.create_user(UserName=name)
        document = dict(allowed)
        if denied:
            refusal = {"Effect": "Deny", "Action": list(denied), "Resource": "*"}
            document["Statement"] = [*document["Statement"], refusal]
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        made.append((name, key["AccessKeyId"]))
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    yield make
    for name, key in made:
        iam.delete_access_key(UserName=name, AccessKeyId=key)
        iam.delete_user_policy(UserName=name, PolicyName="p")
        iam.delete_user(UserName=name)

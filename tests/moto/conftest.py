"""AWS as moto has it: in this process, with credentials that nobody else knows."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from unittest import mock

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.loaders import JSONFileLoader
from moto import mock_aws

from s3bulkcopy.aws.session import AwsSession, Identity
from s3bulkcopy.aws.stack import Stack, plan
from s3bulkcopy.settings import AwsSettings, StackSettings
from s3bulkcopy.worker.model import Job, Location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REGION = "eu-west-1"
RUN_ID = "20261123-121632-k3f9xa"
IDENTITY = Identity("123456789012", "arn:aws:iam::123456789012:user/someone")


class Aws(AwsSession):
    """A session whose calls can be counted, refused, and answered where moto knows no answer."""

    def __init__(self) -> None:
        """Pass every call on."""
        super().__init__(AwsSettings(region=REGION))
        #: Called with the operation (`sqs.create_queue`) and its arguments before a call; may raise.
        self.before: Callable[[str, dict[str, Any]], None] = lambda _name, _arguments: None
        self.calls: list[str] = []
        #: What the functions' RecursiveLoop reads back as.
        self.recursive_loop = "Allow"

    def client(self, service: str, region: str | None = None) -> Any:
        """Give a client that asks `before` first."""
        return _Asking(self, service, super().client(service, region))


class _Asking:
    def __init__(self, aws: Aws, service: str, client: Any) -> None:
        self._aws, self._service, self._client = aws, service, client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name == "get_paginator":
            return lambda operation: _AskingPaginator(self._aws, f"{self._service}.{operation}", method(operation))
        if name in ("exceptions", "meta", "generate_presigned_url"):
            return method

        def call(**arguments: Any) -> Any:
            operation = f"{self._service}.{name}"
            self._aws.calls.append(operation)
            self._aws.before(operation, arguments)
            if operation in ("lambda.put_function_recursion_config", "lambda.get_function_recursion_config"):
                return {"RecursiveLoop": self._aws.recursive_loop}  # moto has neither
            return method(**arguments)

        return call


class _AskingPaginator:
    def __init__(self, aws: Aws, operation: str, paginator: Any) -> None:
        self._aws, self._operation, self._paginator = aws, operation, paginator

    def paginate(self, **arguments: Any) -> Any:
        self._aws.calls.append(self._operation)
        self._aws.before(self._operation, arguments)
        return self._paginator.paginate(**arguments)


@pytest.fixture(scope="session", autouse=True)
def models() -> Iterator[None]:
    """Have botocore read its descriptions of services once, in place of once a session."""
    load = cache(JSONFileLoader().load_file)
    with mock.patch.object(JSONFileLoader, "load_file", lambda _, path: load(path)):
        yield


@pytest.fixture(scope="session", autouse=True)
def routes() -> None:
    """Have moto compile its routes, which it does on a service's first request: Python 3.11 fails at times to in threads."""
    nobody = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": REGION}
    with mock_aws():
        boto3.client("sqs", **nobody).list_queues()
        boto3.client("lambda", **nobody).list_functions()
        boto3.client("logs", **nobody).describe_log_groups()
        boto3.client("iam", **nobody).list_roles()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An empty account."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="source")
        s3.create_bucket(Bucket="destination", CreateBucketConfiguration={"LocationConstraint": REGION})
        yield Aws()


def job(run_id: str = RUN_ID) -> Job:
    """Give a job from one bucket to another."""
    return Job(
        run_id,
        Location("source", "in/ø", "us-east-1", "https://source.s3.amazonaws.com"),
        Location("destination", "out/", REGION, f"https://destination.s3.{REGION}.amazonaws.com"),
    )


def stack(settings: StackSettings | None = None, run_id: str = RUN_ID) -> Stack:
    """Plan the stack of that job."""
    return plan(job(run_id), IDENTITY, REGION, settings or StackSettings(), "0.1.0", "2026-11-23T12:16:32Z")


def refusal(code: str, message: str = "no", operation: str = "CreateQueue") -> ClientError:
    """Give an error as AWS answers it."""
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPHeaders": {}}}, operation)


def leftovers(client: Callable[[str, str], Any] = boto3.client) -> list[str]:
    """Name everything in the account that a run could have made; `client` gives the client of a service in a region."""
    clients = {name: client(name, REGION) for name in ("sqs", "lambda", "logs", "iam")}
    found = [url.rsplit("/", 1)[-1] for url in clients["sqs"].list_queues().get("QueueUrls", ())]
    found += [entry["FunctionName"] for entry in clients["lambda"].list_functions()["Functions"]]
    found += [entry["UUID"] for entry in clients["lambda"].list_event_source_mappings()["EventSourceMappings"]]
    found += [entry["logGroupName"] for entry in clients["logs"].describe_log_groups()["logGroups"]]
    found += [entry["RoleName"] for entry in clients["iam"].list_roles(PathPrefix="/s3bulkcopy/")["Roles"]]
    return found


def silently(_: object) -> None:
    """Take what is said, and the time that is slept, for done."""

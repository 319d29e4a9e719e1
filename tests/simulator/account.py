"""The account as boto3's clients show it to the engine: each call takes virtual time, and the world goes on meanwhile."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from s3bulkcopy.aws.session import AwsSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3bulkcopy.aws.stack import Names
    from tests.simulator.clock import World
    from tests.simulator.functions import Function, Mapping
    from tests.simulator.queues import Queue, Queues
    from tests.simulator.store import Store

#: How long a call takes, in seconds.
_CALL_SECONDS = 0.02


class Account:
    """What there is in the account, and the clients that show it."""

    def __init__(
        self, world: World, names: Names, queues: Queues, functions: list[Function], mappings: list[Mapping], store: Store
    ) -> None:
        """Show a run's resources."""
        self.world, self.names, self.queues, self.store = world, names, queues, store
        self.poll_slowness = store.weather.poll_slowness
        self._deadly = store.weather.faults.command_killed
        self.functions = {function.name: function for function in functions}
        self.mappings = {mapping.uuid: mapping for mapping in mappings}

    def pass_time(self) -> None:
        """Take the time of a call, before which the command may be killed."""
        self.may_kill()
        self.world.go_on(_CALL_SECONDS)

    def may_kill(self) -> None:
        """Kill the command, perhaps."""
        self.world.may_kill(self._deadly)


class Session(AwsSession):
    """Hands out the clients of the model."""

    def __init__(self, account: Account) -> None:
        """Open nothing: boto3 takes longer to open a session than a schedule does."""
        self._is_hasty = False
        self._fakes = {
            "s3": S3Client(account),
            "sqs": SqsClient(account),
            "lambda": LambdaClient(account),
            "logs": Unused(),
            "iam": IamClient(account),
            "sts": Sts(),
        }

    def client(self, service: str, region: str | None = None) -> Any:  # noqa: ARG002 - there is one region
        """Give a client."""
        return self._fakes[service]


class _Pages:
    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer

    def paginate(self, **_: Any) -> Iterator[dict[str, Any]]:
        yield self._answer


class Unused:
    """A service of which a run's model has nothing."""

    def get_paginator(self, _operation: str) -> _Pages:
        """Find nothing."""
        return _Pages({})


class Sts:
    """Says who asks."""

    def get_caller_identity(self) -> dict[str, str]:
        """Be somebody."""
        return {"Account": "1", "Arn": "arn:aws:iam::1:user/x"}


class IamClient(Unused):
    """Takes rights away, at once."""

    def __init__(self, account: Account) -> None:
        """Serve an account."""
        self._account = account

    def get_paginator(self, operation: str) -> _Pages:
        """Find the role."""
        assert operation == "list_roles"
        stem = self._account.names.stem
        return _Pages({"Roles": [{"RoleName": stem, "Arn": f"arn:aws:iam::1:role/s3bulkcopy/{stem}"}]})

    def put_role_policy(self, **_: Any) -> None:
        """Put the brake on: the engine gives no other policy to a role that is there."""
        self._account.pass_time()
        self._account.store.is_braked = True


class S3Client:
    """The destination's uploads, as the engine sees them."""

    def __init__(self, account: Account) -> None:
        """Serve an account."""
        self._account = account

    def list_multipart_uploads(self, Bucket: str, Prefix: str, EncodingType: str) -> dict[str, Any]:  # noqa: N803
        """List the uploads, which the functions' role has begun."""
        assert (Bucket, EncodingType) == ("destination", "url")
        self._account.pass_time()
        stem = self._account.names.stem
        by = {"ID": f"arn:aws:sts::1:assumed-role/{stem}/{stem}-copier"}
        uploads = self._account.store.multipart.uploads.items()
        found = [
            {"Key": upload.target, "UploadId": name, "Initiator": by}
            for name, upload in uploads
            if upload.target.startswith(Prefix)
        ]
        return {"Uploads": found, "IsTruncated": False}

    def abort_multipart_upload(self, Bucket: str, Key: str, UploadId: str) -> None:  # noqa: N803
        """Abort an upload."""
        assert Bucket == "destination"
        self._account.pass_time()
        upload = self._account.store.multipart.uploads.pop(UploadId, None)
        if upload is None:
            raise ClientError({"Error": {"Code": "NoSuchUpload", "Message": "gone"}}, "AbortMultipartUpload")
        assert upload.target == Key


class SqsClient:
    """Queues, as the engine sees them."""

    def __init__(self, account: Account) -> None:
        """Serve an account."""
        self._account, self._world = account, account.world

    def _queue(self, url: str) -> Queue:
        return self._account.queues.by_url[url]

    def get_paginator(self, operation: str) -> _Pages:
        """Find the queues."""
        assert operation == "list_queues"
        return _Pages({"QueueUrls": list(self._account.queues.by_url)})

    def get_queue_url(self, QueueName: str) -> dict[str, str]:  # noqa: N803 - boto3's names, here and below
        """Find a queue."""
        return {"QueueUrl": next(queue.url for queue in self._account.queues.by_url.values() if queue.name == QueueName)}

    def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        """Take messages, but not always all of them; boto3 asks again where it got no answer, and so sends them twice."""
        self._account.pass_time()
        queues, queue = self._account.queues, self._queue(QueueUrl)
        if self._world.strikes(queues.lost_answers / 2):
            queues.take(queue, Entries, 0.0, 0.0)
        outcome = queues.take(queue, Entries, self._world.random.random() / 10, 0.0)  # the engine gives up after five times
        assert len(Entries) <= 10
        self._account.may_kill()
        return {kind: entries for kind, entries in outcome.items() if entries}

    def receive_message(
        self,
        QueueUrl: str,  # noqa: N803
        MaxNumberOfMessages: int,  # noqa: N803
        WaitTimeSeconds: int,  # noqa: N803
        VisibilityTimeout: int,  # noqa: N803
    ) -> dict[str, Any]:
        """Wait for messages and deliver them."""
        queue = self._queue(QueueUrl)
        self._account.pass_time()
        self._world.go_on(WaitTimeSeconds * self._account.poll_slowness, queue.has_visible)
        messages = queue.receive(MaxNumberOfMessages, VisibilityTimeout)
        if not messages:
            return {}
        return {
            "Messages": [
                {"MessageId": message.id, "ReceiptHandle": message.receipt, "Body": message.body} for message in messages
            ]
        }

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        """Delete messages, but not always."""
        self._account.pass_time()
        queue = self._queue(QueueUrl)
        if self._world.strikes(self._account.queues.lost_answers / 4):
            raise ClientError({"Error": {"Code": "InternalFailure", "Message": "because"}}, "DeleteMessageBatch")
        for entry in Entries:
            queue.delete(entry["ReceiptHandle"])
        self._account.may_kill()
        return {}

    def get_queue_attributes(self, QueueUrl: str, AttributeNames: list[str]) -> dict[str, dict[str, str]]:  # noqa: N803
        """Give the depth of a queue, or what it was a while ago."""
        visible, in_flight = self._queue(QueueUrl).depth()
        return {"Attributes": dict(zip(AttributeNames, map(str, (visible, in_flight, 0)), strict=True))}

    def list_queue_tags(self, QueueUrl: str) -> dict[str, Any]:  # noqa: ARG002, N803
        """Tell of no halt."""
        return {}

    def tag_queue(self, **_: Any) -> None:
        """Take a tag."""

    def purge_queue(self, QueueUrl: str) -> None:  # noqa: N803
        """Empty a queue."""
        self._queue(QueueUrl).purge()


class LambdaClient:
    """Functions and mappings, as the engine sees them."""

    def __init__(self, account: Account) -> None:
        """Serve an account."""
        self._account, self._world = account, account.world

    def get_paginator(self, operation: str) -> _Pages:
        """Find functions or mappings."""
        names, account = list(self._account.functions), self._account
        if operation == "list_functions":
            return _Pages({"Functions": [{"FunctionName": name, "FunctionArn": f"arn:::function:{name}"} for name in names]})
        assert operation == "list_event_source_mappings"
        entries = [
            {"FunctionArn": f"arn:::function:{mapping.function.name}", "UUID": uuid}
            for uuid, mapping in account.mappings.items()
        ]
        return _Pages({"EventSourceMappings": entries})

    def get_function_configuration(self, FunctionName: str) -> dict[str, Any]:  # noqa: N803
        """Tell a function's time limit."""
        return {"Timeout": self._account.functions[FunctionName].weather.timeout_seconds}

    def update_event_source_mapping(self, UUID: str, Enabled: bool) -> None:  # noqa: N803, FBT001
        """Disable a mapping."""
        assert not Enabled
        self._account.pass_time()
        self._account.mappings[UUID].disable()

    def get_event_source_mapping(self, UUID: str) -> dict[str, str]:  # noqa: N803
        """Tell the state of a mapping."""
        self._account.pass_time()
        return {"State": self._account.mappings[UUID].state}

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        """Invoke a function by hand and wait."""
        answers: list[Any] = []
        self._account.functions[FunctionName].invoke(json.loads(Payload), answers.append)
        self._world.go_on(1000.0, lambda: answers)
        failed = {"FunctionError": "Unhandled"} if answers[0] is None else {}
        return {"Payload": io.BytesIO(json.dumps(answers[0]).encode()), **failed}

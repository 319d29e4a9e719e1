"""Making what a stack plans: side by side where resources don't need each other, everything tagged at birth."""

from __future__ import annotations

import json
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from tenacity import Retrying, retry_if_exception, wait_random_exponential

from s3bulkcopy.aws import discover
from s3bulkcopy.aws import stack as plans
from s3bulkcopy.aws.session import error_code, translate
from s3bulkcopy.errors import DeployFailed, NameTaken, NotPermitted, S3BulkCopyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState

    from s3bulkcopy.aws.session import AwsSession

#: How long AWS may say "not yet", in seconds: IAM is eventually consistent, and a queue's name is blocked for 60 s.
PATIENCE_SECONDS = 120.0

#: Resources made at a time.
_SIDE_BY_SIDE = 8

#: What AWS is known to say while a thing is on its way: code, and words of the message.
_NOT_YET = (
    ("InvalidParameterValueException", "cannot be assumed by Lambda"),
    ("InvalidParameterValueException", "does not have permissions to call"),
    ("InvalidParameterValueException", "the execution role"),
    ("NoSuchEntity", ""),
    ("QueueDeletedRecently", ""),
    ("ResourceConflictException", "in the following state: Pending"),
    ("ResourceConflictException", "update is in progress"),
    ("OperationAbortedException", ""),
)

_TAKEN = frozenset(
    {"QueueNameExists", "QueueAlreadyExists", "EntityAlreadyExists", "ResourceAlreadyExistsException",
     "ResourceConflictException"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Deployed:
    """What was made."""

    #: URLs by what a queue is for: list, copy, list-dead, copy-dead, reports.
    queue_urls: dict[str, str]
    #: The largest message that the queues take, in bytes.
    message_bytes: int


def is_not_yet(error: BaseException) -> bool:
    """Tell whether AWS is known to take this back in a moment."""
    if not isinstance(error, ClientError):
        return False
    code, said = error_code(error), str(error.response["Error"].get("Message", ""))
    return any(code == known and words in said for known, words in _NOT_YET)


def deploy(
    stack: plans.Stack,
    session: AwsSession,
    code: bytes,
    *,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> Deployed:
    """Make a stack; `code` is the functions' zip.

    Raises NotPermitted, NameTaken or DeployFailed at the first resource that cannot be made, and whatever `say` or `sleep`
    raise, once the creations under way have ended; the caller then takes back what was made, by name.
    """
    maker = _Maker(stack, session, code, sleep)
    waiting = list(stack.resources)
    made: set[str] = set()
    running: dict[Future[None], plans.Resource] = {}
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool, ExitStack() as leaving:
        leaving.callback(pool.shutdown, wait=True, cancel_futures=True)
        leaving.callback(maker.abandon)
        while waiting or running:
            for resource in [r for r in waiting if made.issuperset(r.needs)]:
                waiting.remove(resource)
                running[pool.submit(maker.make, resource)] = resource
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                resource = running.pop(ended)
                ended.result()
                made.add(resource.name)
                say(f"made {resource.name}")
    return Deployed(maker.queue_urls, maker.message_bytes())


class _Maker:
    """Makes one resource at a time, from several threads."""

    def __init__(self, stack: plans.Stack, session: AwsSession, code: bytes, sleep: Callable[[float], None]) -> None:
        self._stack = stack
        self._session = session
        self._code = code
        self._sleep = sleep
        self._tags = dict(stack.tags)
        self._kinds = {name: kind for kind, name in stack.names.queues.items()}
        self._abandoned = threading.Event()
        self.queue_urls: dict[str, str] = {}

    def make(self, resource: plans.Resource) -> None:
        """Make a resource; raises NotPermitted, NameTaken or DeployFailed."""
        try:
            self._make(resource)
        except (ClientError, BotoCoreError) as error:
            raise _refused(resource.name, error) from error

    def abandon(self) -> None:
        """Wait for nothing any more: what is being made ends with the answer that it has."""
        self._abandoned.set()

    def message_bytes(self) -> int:
        """Ask the queues for their largest message; raises as `make` does."""
        asked = {"QueueUrl": self.queue_urls["copy"], "AttributeNames": ["MaximumMessageSize"]}
        try:
            attributes = self._client("sqs").get_queue_attributes(**asked)["Attributes"]
        except (ClientError, BotoCoreError) as error:
            raise _refused(self._stack.names.queues["copy"], error) from error
        return int(attributes["MaximumMessageSize"])

    def _client(self, service: str) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
        return self._session.client(service, self._stack.region)

    def _patiently(self, call: Callable[..., Any], **arguments: Any) -> Any:  # noqa: ANN401 - boto3's answers
        retrying = Retrying(
            retry=retry_if_exception(lambda error: is_not_yet(error) and not self._abandoned.is_set()),
            wait=wait_random_exponential(0.5, max=8),
            stop=_is_out_of_patience,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(call, **arguments)

    def _create(self, kind: str, name: str, call: Callable[..., Any], **arguments: Any) -> None:  # noqa: ANN401
        """Create a thing; raises NameTaken where one of that name is there already and is not this run's.

        botocore repeats a request whose answer was lost, and is then told of what the first one made: that is ours.
        """
        try:
            self._patiently(call, **arguments)
        except ClientError as error:
            if error_code(error) not in _TAKEN or is_not_yet(error):
                raise
            if not self._is_ours(kind, name):
                raise _taken(name) from error

    def _is_ours(self, kind: str, name: str) -> bool:
        service, rest = {"function": ("lambda", f"function:{name}"), "log group": ("logs", f"log-group:{name}")}.get(
            kind, ("", "")
        )
        arn = f"arn:{self._stack.partition}:{service}:{self._stack.region}:{self._stack.account}:{rest}"
        tags = discover.tags_of(self._session, self._stack.region, discover.FoundResource(kind, name, arn))
        return tags is not None and tags.get("s3bulkcopy:run") == self._stack.names.run_id

    @singledispatchmethod
    def _make(self, resource: plans.Resource) -> None:
        raise NotImplementedError(type(resource))

    @_make.register
    def _queue(self, queue: plans.Queue) -> None:
        attributes = {
            "VisibilityTimeout": str(queue.visibility_seconds),
            "MessageRetentionPeriod": str(plans.RETENTION_SECONDS),
            "MaximumMessageSize": str(plans.MAX_MESSAGE_BYTES),
            "SqsManagedSseEnabled": "true",
        }
        if queue.dead_letters:
            arn = f"arn:{self._stack.partition}:sqs:{self._stack.region}:{self._stack.account}:{queue.dead_letters}"
            redrive = {"deadLetterTargetArn": arn, "maxReceiveCount": plans.MAX_RECEIVE_COUNT}
            attributes["RedrivePolicy"] = json.dumps(redrive)
        create = self._client("sqs").create_queue
        try:
            answer = self._patiently(create, QueueName=queue.name, Attributes=attributes, tags=self._tags)
        except ClientError as error:
            if error_code(error) in _TAKEN:  # the same queue made twice is no error
                raise _taken(queue.name) from error
            if error_code(error) != "InvalidAttributeValue":
                raise
            del attributes["MaximumMessageSize"]  # a region that does not take messages of this size yet
            answer = self._patiently(create, QueueName=queue.name, Attributes=attributes, tags=self._tags)
        self.queue_urls[self._kinds[queue.name]] = answer["QueueUrl"]

    @_make.register
    def _log_group(self, group: plans.LogGroup) -> None:
        logs = self._client("logs")
        self._create("log group", group.name, logs.create_log_group, logGroupName=group.name, tags=self._tags)
        self._patiently(logs.put_retention_policy, logGroupName=group.name, retentionInDays=plans.LOG_RETENTION_DAYS)

    @_make.register
    def _role(self, role: plans.Role) -> None:
        iam = self._client("iam")
        self._create(
            "role",
            role.name,
            iam.create_role,
            RoleName=role.name,
            Path=plans.ROLE_PATH,
            AssumeRolePolicyDocument=json.dumps(role.trust),
            Description="Workers of one s3bulkcopy run",
            Tags=[{"Key": key, "Value": value} for key, value in self._tags.items()],
        )
        self._patiently(
            iam.put_role_policy,
            RoleName=role.name,
            PolicyName=plans.POLICY_NAME,
            PolicyDocument=json.dumps(role.policy),
        )

    @_make.register
    def _function(self, function: plans.Function) -> None:
        client = self._client("lambda")
        variables = {f"S3BULKCOPY_{kind.upper()}_QUEUE": self.queue_urls[kind] for kind in ("list", "copy", "reports")}
        # A queue's URL has the plain host, whatever was asked of botocore's rules: FIPS, dual-stack.
        variables["S3BULKCOPY_SQS_ENDPOINT"] = self._client("sqs").meta.endpoint_url
        if function.max_rate is not None:
            variables["S3BULKCOPY_MAX_RATE"] = str(function.max_rate)
        self._create(
            "function",
            function.name,
            client.create_function,
            FunctionName=function.name,
            Runtime=plans.RUNTIME,
            Architectures=[plans.ARCHITECTURE],
            Role=function.role_arn,
            Handler=function.handler,
            Code={"ZipFile": self._code},
            Timeout=function.timeout_seconds,
            MemorySize=function.memory_mib,
            Environment={"Variables": variables},
            Tags=self._tags,
        )
        self._await_active(function.name)
        recursion = {"FunctionName": function.name}
        self._patiently(client.put_function_recursion_config, **recursion, RecursiveLoop="Allow")
        if client.get_function_recursion_config(**recursion)["RecursiveLoop"] != "Allow":
            raise DeployFailed(
                f"function {function.name} did not take RecursiveLoop=Allow",
                hint="without it Lambda breaks chains of messages; is there a policy of the organization against it?",
            )

    def _await_active(self, name: str) -> None:
        waited = 0.0
        while True:
            found = self._client("lambda").get_function_configuration(FunctionName=name)
            match found.get("State", "Active"):
                case "Active":
                    return
                case "Failed":
                    raise DeployFailed(f"function {name} could not be made: {found.get('StateReason', '')}")
            if waited > PATIENCE_SECONDS or self._abandoned.is_set():
                raise DeployFailed(f"function {name} is still {found.get('State')} after {waited:.0f} s")
            self._sleep(0.5)
            waited += 0.5

    @_make.register
    def _mapping(self, mapping: plans.EventMapping) -> None:
        queue = f"arn:{self._stack.partition}:sqs:{self._stack.region}:{self._stack.account}:{mapping.queue}"
        try:
            self._patiently(
                self._client("lambda").create_event_source_mapping,
                EventSourceArn=queue,
                FunctionName=mapping.function,
                BatchSize=mapping.batch_messages,
                ScalingConfig={"MaximumConcurrency": mapping.concurrency},
                FunctionResponseTypes=["ReportBatchItemFailures"],
                Tags=self._tags,
            )
        except ClientError as error:
            # Its queue and its function are this run's, and so is a mapping between them.
            if error_code(error) not in _TAKEN or is_not_yet(error):
                raise


def _is_out_of_patience(state: RetryCallState) -> bool:
    """Count what was slept, so that the bound holds for any clock."""
    return state.idle_for >= PATIENCE_SECONDS


def _taken(name: str) -> NameTaken:
    return NameTaken(f"{name} exists already and is not this run's", name, hint="start again: the next run has another name")


def _refused(name: str, error: ClientError | BotoCoreError) -> S3BulkCopyError:
    """Put a refusal to make a resource into our words."""
    known = translate(error, f"making {name}")
    if isinstance(known, NotPermitted):
        return known
    return DeployFailed(known.message, hint=known.hint)

"""What a run needs in AWS, as data: names, tags and resources. Pure."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from s3bulkcopy.aws import policy
from s3bulkcopy.worker.properties import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from s3bulkcopy.aws.session import Identity
    from s3bulkcopy.settings import StackSettings
    from s3bulkcopy.worker.model import Job

#: What every name begins with.
PREFIX = "s3bulkcopy-"
#: The path of every role.
ROLE_PATH = "/s3bulkcopy/"

#: The name of the role's inline policy.
POLICY_NAME = "s3bulkcopy"
#: Where the bundle runs; it is pure Python, so that the cheaper processor does.
RUNTIME, ARCHITECTURE = "python3.13", "arm64"

#: Longest that SQS keeps a message, in seconds: 14 days (SQS quotas).
RETENTION_SECONDS = 14 * 24 * 3600
#: How long logs stay, in days.
LOG_RETENTION_DAYS = 14
#: Largest message that SQS takes, in bytes (SQS quotas; 262,144 before 2025-08 and in regions that lag).
MAX_MESSAGE_BYTES = 1_048_576
#: Deliveries of a message before it is a dead letter.
MAX_RECEIVE_COUNT = 5
#: How much longer a message is invisible than its function may run, in seconds.
VISIBILITY_MARGIN_SECONDS = 30
#: Messages in one invocation: listing waits for answers, so a worker takes many; copying fills a worker by itself.
LIST_BATCH_MESSAGES, COPY_BATCH_MESSAGES = 10, 4
#: Longest value of a tag, in characters (IAM and Lambda quotas).
MAX_TAG_CHARS = 256

_RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-z]{6}(?![0-9a-z])")
_PLAIN = re.compile(r"[A-Za-z0-9 _.:/=+\-]")


def new_run_id(now: float, token: str) -> str:
    """Make a run's id from the time (seconds since the epoch) and six random characters of [0-9a-z]; ids sort by time.

    >>> new_run_id(0, "k3f9xa")
    '19700101-000000-k3f9xa'
    """
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{token}"


def begun(run_id: str) -> float:
    """Give when a run was begun, which its id tells, in seconds since the epoch.

    >>> begun("19700101-000001-k3f9xa")
    1.0
    """
    return datetime.strptime(run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()


def is_run_id(text: str) -> bool:
    """Tell whether a text has the form of a run's id."""
    return _RUN_ID.fullmatch(text) is not None


def run_id_of(name: str) -> str | None:
    """Give the run to which a name belongs (of a queue, function, role or log group), or None.

    >>> run_id_of("/aws/lambda/s3bulkcopy-19700101-000000-k3f9xa-lister")
    '19700101-000000-k3f9xa'
    """
    bare = name.removeprefix("/aws/lambda/")
    found = _RUN_ID.match(bare, len(PREFIX))
    return found[0] if found and bare.startswith(PREFIX) else None


@dataclass(frozen=True, slots=True)
class Names:
    """The names of everything that a run makes."""

    run_id: str

    @property
    def stem(self) -> str:
        """What the run's names begin with; the role's name."""
        return f"{PREFIX}{self.run_id}"

    @property
    def queues(self) -> dict[str, str]:
        """The queues by what they are for."""
        return {kind: f"{self.stem}-{kind}" for kind in ("list", "copy", "list-dead", "copy-dead", "reports")}

    @property
    def list_function(self) -> str:
        """The function that lists."""
        return f"{self.stem}-lister"

    @property
    def copy_function(self) -> str:
        """The function that copies."""
        return f"{self.stem}-copier"

    @property
    def functions(self) -> tuple[str, str]:
        """Both functions."""
        return self.list_function, self.copy_function

    @property
    def log_groups(self) -> tuple[str, str]:
        """The functions' log groups."""
        return f"/aws/lambda/{self.list_function}", f"/aws/lambda/{self.copy_function}"


# ----------------------------------------------------------------------------------------------------------------- tags


def encode_tag(text: str) -> str:
    """Write any text in the characters that every service takes in tags, shortened to what fits.

    >>> encode_tag("s3://b/ø@1")
    's3://b/@c3@b8@401'
    """
    encoded = [
        c if _PLAIN.fullmatch(c) else "".join(f"@{byte:02x}" for byte in c.encode("utf-8", "surrogateescape")) for c in text
    ]
    if sum(map(len, encoded)) <= MAX_TAG_CHARS:
        return "".join(encoded)
    whole = sum(end <= MAX_TAG_CHARS - 3 for end in accumulate(map(len, encoded)))
    return "".join(encoded[:whole]) + "..."


def decode_tag(text: str) -> str:
    """Read what encode_tag wrote.

    >>> decode_tag(encode_tag("s3://b/ø@1"))
    's3://b/ø@1'
    """
    raw = re.sub(rb"@([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
    return raw.decode("utf-8", "replace")


def tags_for(job: Job, settings: StackSettings, version: str, created: str, owner: str) -> dict[str, str]:
    """Give the tags of everything that a run makes; `created` is a time in ISO 8601, `owner` the caller's ARN."""
    return {
        **dict(settings.tags),
        "s3bulkcopy:run": job.run_id,
        "s3bulkcopy:source": encode_tag(str(job.source)),
        "s3bulkcopy:destination": encode_tag(str(job.destination)),
        "s3bulkcopy:region": job.destination.region,
        "s3bulkcopy:version": encode_tag(version),
        "s3bulkcopy:created": created,
        "s3bulkcopy:owner": encode_tag(owner),
        "s3bulkcopy:overwrite": "yes" if job.overwrite else "no",
        **({"s3bulkcopy:properties": "own"} if job.policy._replace(destination_owner="") != DEFAULT else {}),
    }


# ------------------------------------------------------------------------------------------------------------ resources


@dataclass(frozen=True, slots=True)
class Queue:
    """An SQS queue; `dead_letters` names the queue that takes what was delivered too often."""

    name: str
    visibility_seconds: int
    dead_letters: str | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogGroup:
    """A log group, made before its function so that it expires."""

    name: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Role:
    """The role of the functions, its policy included."""

    name: str
    trust: Mapping[str, Any] = field(hash=False)
    policy: Mapping[str, Any] = field(hash=False)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    """A Lambda function."""

    name: str
    handler: str
    role_arn: str
    memory_mib: int
    timeout_seconds: int
    needs: tuple[str, ...] = ()
    #: Most COPY requests a second of each of its workers; None for no limit of ours.
    max_rate: float | None = None


@dataclass(frozen=True, slots=True)
class EventMapping:
    """What feeds a queue's messages to a function."""

    name: str
    queue: str
    function: str
    batch_messages: int
    concurrency: int
    needs: tuple[str, ...] = ()


Resource = Queue | LogGroup | Role | Function | EventMapping


@dataclass(frozen=True, slots=True)
class Stack:
    """Everything that a run makes, each resource naming those it needs."""

    names: Names
    account: str
    partition: str
    region: str
    tags: tuple[tuple[str, str], ...]
    resources: tuple[Resource, ...]


def plan(
    job: Job,
    identity: Identity,
    region: str,
    settings: StackSettings,
    version: str,
    created: str,
    keys: policy.Keys | None = None,
) -> Stack:
    """Plan what a run needs in a region; `keys` are the KMS keys that its role may use."""
    names = Names(job.run_id)
    queues, visibility = names.queues, settings.timeout_seconds + VISIBILITY_MARGIN_SECONDS
    own_role = settings.role_arn is None
    role_arn = settings.role_arn or f"arn:{identity.partition}:iam::{identity.account}:role{ROLE_PATH}{names.stem}"
    resources: list[Resource] = [
        Queue(queues["list-dead"], visibility),
        Queue(queues["copy-dead"], visibility),
        Queue(queues["reports"], visibility),
        Queue(queues["list"], visibility, queues["list-dead"], (queues["list-dead"],)),
        Queue(queues["copy"], visibility, queues["copy-dead"], (queues["copy-dead"],)),
        *(LogGroup(name) for name in names.log_groups),
    ]
    if own_role:
        rights = policy.worker_policy(job, names, identity.account, identity.partition, region, keys)
        resources.append(Role(names.stem, policy.trust_policy(identity.account), rights))
    for kind, function, log_group, batch, concurrency in (
        ("list", names.list_function, names.log_groups[0], LIST_BATCH_MESSAGES, settings.list_workers),
        ("copy", names.copy_function, names.log_groups[1], COPY_BATCH_MESSAGES, settings.copy_workers),
    ):
        needs = (queues["list"], queues["copy"], queues["reports"], log_group, *((names.stem,) if own_role else ()))
        handler = f"s3bulkcopy.worker.handler.{kind}_handler"
        share = settings.max_rate / settings.copy_workers if settings.max_rate is not None else None
        resources += [
            Function(function, handler, role_arn, settings.memory_mib, settings.timeout_seconds, needs, share),
            EventMapping(f"{function}-mapping", queues[kind], function, batch, concurrency, (queues[kind], function)),
        ]
    tags = tuple(sorted(tags_for(job, settings, version, created, identity.arn).items()))
    return Stack(names, identity.account, identity.partition, region, tags, tuple(resources))


def describe(stack: Stack) -> list[str]:
    """Say what a stack makes: where, then one line for each resource in the order of the plan."""
    return [f"in account {stack.account}, {stack.region}:", *(f"  {_line(resource)}" for resource in stack.resources)]


def _line(resource: Resource) -> str:
    match resource:
        case Queue():
            after = f", then to {resource.dead_letters}" if resource.dead_letters else ""
            times = f", {MAX_RECEIVE_COUNT} deliveries" if resource.dead_letters else ""
            return f"queue {resource.name}: {resource.visibility_seconds} s of visibility timeout{times}{after}"
        case LogGroup():
            return f"log group {resource.name}: kept for {LOG_RETENTION_DAYS} days"
        case Role():
            return f"role {ROLE_PATH}{resource.name}"
        case Function():
            limits = f"{resource.memory_mib:,} MiB, {resource.timeout_seconds} s"
            return f"function {resource.name}: {RUNTIME} on {ARCHITECTURE}, {limits}, as {resource.role_arn}"
        case EventMapping():
            most = f"{resource.batch_messages} messages an invocation, {resource.concurrency} invocations at most"
            return f"mapping of {resource.queue} to {resource.function}: {most}"

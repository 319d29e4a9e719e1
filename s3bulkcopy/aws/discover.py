"""Finding runs in an account, from names and tags alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from s3bulkcopy.aws.session import error_code, translate
from s3bulkcopy.aws.stack import PREFIX, ROLE_PATH, Names, decode_tag, run_id_of
from s3bulkcopy.errors import NotPermitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3bulkcopy.aws.session import AwsSession

#: What is asked of SQS about a queue.
_DEPTHS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed")

_GONE = frozenset({"NonExistentQueue", "QueueDoesNotExist", "ResourceNotFoundException", "NoSuchEntity"})


@dataclass(frozen=True, slots=True)
class FoundResource:
    """One thing of a run: its kind, its name, and what AWS calls it (URL, ARN or UUID)."""

    kind: str
    name: str
    id: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at an account found, by run, and the kinds that could not be looked for, each with why."""

    runs: dict[str, list[FoundResource]]
    refused: dict[str, NotPermitted]


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """About how many messages a queue holds: waiting, and received but not deleted."""

    waiting: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run as names and tags tell of it; what they don't tell is empty."""

    run_id: str
    source: str
    destination: str
    created: str
    version: str
    #: When it was halted, or empty.
    halted: str
    resources: tuple[FoundResource, ...]
    #: By what a queue is for: list, copy, list-dead, copy-dead, reports.
    depths: dict[str, QueueDepth]
    #: The states of its mappings, by function name.
    mappings: dict[str, str]
    #: Who made it: the ARN of the caller, as a tag has it.
    owner: str = ""
    #: Whether it overwrites what exists at the destination.
    overwrite: bool = True
    #: Whether its copies are other than S3 makes them by itself; tags do not tell how.
    has_properties: bool = False

    @property
    def dead_letters(self) -> int:
        """How many tasks died."""
        return sum(d.waiting + d.in_flight for kind, d in self.depths.items() if kind.endswith("-dead"))


def is_gone(error: ClientError) -> bool:
    """Tell whether AWS says that a thing is not there."""
    return error_code(error) in _GONE or "does not exist" in str(error.response["Error"].get("Message", ""))


def find_runs(session: AwsSession, region: str) -> list[FoundRun]:
    """Find every run with anything in a region, the oldest first."""
    return _find(session, region, PREFIX)


def find_run(session: AwsSession, region: str, run_id: str) -> FoundRun | None:
    """Find one run, or None."""
    return next((found for found in _find(session, region, Names(run_id).stem) if found.run_id == run_id), None)


def resources(session: AwsSession, region: str, stem: str) -> dict[str, list[FoundResource]]:
    """Find everything whose name begins with `stem`, by run; raises NotPermitted where looking is denied.

    Roles alone may stay unseen: with a role of one's own a run can be had without a right in IAM.
    """
    seen = look(session, region, stem)
    for kind, why in seen.refused.items():
        if kind != "role":
            raise why
    return seen.runs


def look(session: AwsSession, region: str, stem: str) -> Look:
    """Find everything whose name begins with `stem`, passing over the kinds that may not be looked for."""
    runs: dict[str, list[FoundResource]] = defaultdict(list)
    refused: dict[str, NotPermitted] = {}
    with ThreadPoolExecutor(len(_LOOKS)) as pool:
        looks = {kind: pool.submit(_all, find, session, region, stem) for kind, find in _LOOKS.items()}
    for kind, found in looks.items():
        try:
            for resource in found.result():
                runs[run_id_of(resource.name) or ""].append(resource)
        except (ClientError, BotoCoreError) as error:
            known = translate(error, f"looking for runs in {region}")
            if not isinstance(known, NotPermitted):
                raise known from error
            refused[kind] = known
    runs.pop("", None)
    return Look(dict(runs), refused)


def _find(session: AwsSession, region: str, stem: str) -> list[FoundRun]:
    found = []
    for run_id, things in sorted(resources(session, region, stem).items()):
        tags = _run_tags(session, region, things)
        if {thing.kind for thing in things} == {"role"} and tags.get("s3bulkcopy:region", region) != region:
            continue  # IAM is global: this run's other resources are elsewhere
        mappings = {thing.name: mapping_state(session, region, thing.id) for thing in things if thing.kind == "mapping"}
        found.append(
            FoundRun(
                run_id,
                decode_tag(tags.get("s3bulkcopy:source", "")),
                decode_tag(tags.get("s3bulkcopy:destination", "")),
                tags.get("s3bulkcopy:created", ""),
                decode_tag(tags.get("s3bulkcopy:version", "")),
                tags.get("s3bulkcopy:halted", ""),
                tuple(things),
                depths(session, region, queue_urls(session, region, Names(run_id))),
                mappings,
                tags.get("s3bulkcopy:owner", ""),
                tags.get("s3bulkcopy:overwrite") != "no",
                "s3bulkcopy:properties" in tags,
            )
        )
    return found


def _run_tags(session: AwsSession, region: str, things: list[FoundResource]) -> dict[str, str]:
    """Give the tags of the first of a run's resources that has some."""
    by_kind = {"queue": 0, "function": 1, "role": 2, "log group": 3, "mapping": 4}
    for thing in sorted(things, key=lambda thing: by_kind[thing.kind]):
        tags = tags_of(session, region, thing)
        if tags and "s3bulkcopy:run" in tags:
            return tags
    return {}


def tags_of(session: AwsSession, region: str, thing: FoundResource) -> dict[str, str] | None:
    """Read a resource's tags; None where they cannot be read, or the resource is gone."""
    try:
        match thing.kind:
            case "queue":
                return dict(session.client("sqs", region).list_queue_tags(QueueUrl=thing.id).get("Tags", {}))
            case "function" | "mapping" if thing.id.startswith("arn:"):
                return dict(session.client("lambda", region).list_tags(Resource=thing.id).get("Tags", {}))
            case "log group":
                arn = thing.id.removesuffix(":*")
                return dict(session.client("logs", region).list_tags_for_resource(resourceArn=arn).get("tags", {}))
            case "role":
                tags = session.client("iam").list_role_tags(RoleName=thing.name).get("Tags", ())
                return {tag["Key"]: tag["Value"] for tag in tags}
    except (ClientError, BotoCoreError):
        return None
    return None


def mapping_state(session: AwsSession, region: str, uuid: str) -> str:
    """Give the state of a mapping (Creating, Enabled, Disabling, Disabled, Deleting …), "Gone" where there is none."""
    try:
        return str(session.client("lambda", region).get_event_source_mapping(UUID=uuid)["State"])
    except (ClientError, BotoCoreError) as error:
        if isinstance(error, ClientError) and is_gone(error):
            return "Gone"
        raise translate(error, f"looking at mapping {uuid}") from error


def queue_url(session: AwsSession, region: str, name: str) -> str | None:
    """Give a queue's URL, or None where there is no such queue."""
    try:
        return str(session.client("sqs", region).get_queue_url(QueueName=name)["QueueUrl"])
    except (ClientError, BotoCoreError) as error:
        if isinstance(error, ClientError) and is_gone(error):
            return None
        raise translate(error, f"looking for queue {name}") from error


def message_bytes(session: AwsSession, region: str, url: str) -> int | None:
    """Ask a queue for its largest message, in bytes; None where it is gone."""
    try:
        answer = session.client("sqs", region).get_queue_attributes(QueueUrl=url, AttributeNames=["MaximumMessageSize"])
    except (ClientError, BotoCoreError) as error:
        if isinstance(error, ClientError) and is_gone(error):
            return None
        raise translate(error, f"looking at {url}") from error
    return int(answer["Attributes"]["MaximumMessageSize"])


def queue_urls(session: AwsSession, region: str, names: Names) -> dict[str, str]:
    """Find the URLs of a run's queues by what they are for, side by side; a queue that is not there is left out."""
    with ThreadPoolExecutor(len(names.queues)) as pool:
        urls = pool.map(lambda name: queue_url(session, region, name), names.queues.values())
        return {kind: url for kind, url in zip(names.queues, urls, strict=True) if url is not None}


def depths(session: AwsSession, region: str, urls: dict[str, str]) -> dict[str, QueueDepth]:
    """Read the depths of queues, given by what they are for, side by side; a queue that is not there is left out."""

    def read(url: str) -> QueueDepth | None:
        try:
            answer = session.client("sqs", region).get_queue_attributes(QueueUrl=url, AttributeNames=list(_DEPTHS))
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and is_gone(error):
                return None
            raise translate(error, f"reading the depth of {url}") from error
        visible, in_flight, delayed = (int(answer["Attributes"].get(name, 0)) for name in _DEPTHS)
        return QueueDepth(visible + delayed, in_flight)

    with ThreadPoolExecutor(max(1, len(urls))) as pool:
        read_all = zip(urls, pool.map(read, urls.values()), strict=True)
        return {kind: depth for kind, depth in read_all if depth is not None}


# -------------------------------------------------------------------------------------------------- one kind at a time


def _pages(client: Any, operation: str, key: str, **arguments: Any) -> Iterator[Any]:  # noqa: ANN401 - boto3's answers
    for page in client.get_paginator(operation).paginate(**arguments):
        yield from page.get(key, ())


def _queues(session: AwsSession, region: str, stem: str) -> Iterator[FoundResource]:
    # Asked for without MaxResults SQS never names a next page, and so hides what comes after the first thousand.
    sqs, asked = session.client("sqs", region), {"PaginationConfig": {"PageSize": 1000}}
    for url in _pages(sqs, "list_queues", "QueueUrls", QueueNamePrefix=stem, **asked):
        yield FoundResource("queue", url.rsplit("/", 1)[-1], url)


def _functions(session: AwsSession, region: str, stem: str) -> Iterator[FoundResource]:
    for entry in _pages(session.client("lambda", region), "list_functions", "Functions"):
        if entry["FunctionName"].startswith(stem):
            yield FoundResource("function", entry["FunctionName"], entry["FunctionArn"])


def _mappings(session: AwsSession, region: str, stem: str) -> Iterator[FoundResource]:
    for entry in _pages(session.client("lambda", region), "list_event_source_mappings", "EventSourceMappings"):
        name = entry.get("FunctionArn", "").rsplit(":function:", 1)[-1].split(":")[0]
        if not name.startswith(stem):
            name = entry.get("EventSourceArn", "").rsplit(":", 1)[-1]
        if name.startswith(stem):
            yield FoundResource("mapping", name, entry["UUID"])


def _log_groups(session: AwsSession, region: str, stem: str) -> Iterator[FoundResource]:
    prefix = f"/aws/lambda/{stem}"
    logs = session.client("logs", region)
    for entry in _pages(logs, "describe_log_groups", "logGroups", logGroupNamePrefix=prefix):
        yield FoundResource("log group", entry["logGroupName"], entry["arn"])


def _roles(session: AwsSession, _region: str, stem: str) -> Iterator[FoundResource]:
    for entry in _pages(session.client("iam"), "list_roles", "Roles", PathPrefix=ROLE_PATH):
        if entry["RoleName"].startswith(stem):
            yield FoundResource("role", entry["RoleName"], entry["Arn"])


_Look = Callable[["AwsSession", str, str], "Iterator[FoundResource]"]

_LOOKS: dict[str, _Look] = {
    "mapping": _mappings,
    "function": _functions,
    "queue": _queues,
    "log group": _log_groups,
    "role": _roles,
}


def _all(find: _Look, session: AwsSession, region: str, stem: str) -> list[FoundResource]:
    return list(find(session, region, stem))

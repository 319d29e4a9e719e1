"""Stopping a run's workers and removing what it made, from names and tags alone. May be repeated, and called side by side."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from s3bulkcopy.aws import discover, policy
from s3bulkcopy.aws.session import error_code, identity, translate
from s3bulkcopy.aws.stack import POLICY_NAME, ROLE_PATH, Names
from s3bulkcopy.errors import S3BulkCopyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from s3bulkcopy.aws.discover import FoundResource, Look
    from s3bulkcopy.aws.session import AwsSession

#: Kinds in the order in which they can be removed: what is used goes after what uses it.
ORDER = ("mapping", "function", "queue", "log group", "role")

#: How long a mapping may take to be disabled or gone, in seconds: AWS needs up to a minute.
MAPPING_SECONDS = 120.0

#: How long workers are waited for where their function does not tell its own time limit, in seconds.
_WORKER_SECONDS = 120.0

#: Looks in a row that must find nothing in flight: depths are approximate.
_QUIET_LOOKS = 2

#: How long the last invocations of a run that ended are waited for, in seconds: they have nothing to do any more, but a
#: function that is removed under them may bring its log group back.
_LAST_INVOCATIONS_SECONDS = 5.0

#: How often a queue may be purged (SQS API reference), and a little more, in seconds.
_PURGE_SECONDS = 61.0

#: Looks at queues that should be empty before that is given up, and the pause between two, in seconds.
_EMPTYING_LOOKS = 8
_DEPTHS_PAUSE_SECONDS = 2.0

_PAUSE_SECONDS = 0.5
_SAY_SECONDS = 10.0

#: Answers that pass while something else of the run is being removed.
_BUSY = frozenset({"ResourceInUseException", "ResourceConflictException", "DeleteConflict", "OperationAbortedException"})
_BUSY_TRIES = int(MAPPING_SECONDS / _PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class Left:
    """Something that is still there: why, and the command that removes it."""

    name: str
    why: str
    command: str

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.name} ({self.why}): {self.command}"


@dataclass(frozen=True, slots=True)
class TornDown:
    """What a teardown did."""

    removed: tuple[str, ...]
    left: tuple[Left, ...]


def everything(run_id: str, region: str, why: str) -> Left:
    """Say that all of a run is still there, as far as is known."""
    return Left(run_id, why, _again(run_id, region))


def _again(run_id: str, region: str) -> str:
    return f"s3bulkcopy teardown {run_id} --region {region}"


def quiet(session: AwsSession, region: str, run_id: str, *, say: Callable[[str], None], sleep: Callable[[float], None]) -> None:
    """Disable a run's mappings and wait until no worker is at work, for one function timeout at most."""
    names = Names(run_id)
    things = discover.resources(session, region, names.stem).get(run_id, [])
    _disable([thing for thing in things if thing.kind == "mapping"], session, region, sleep)
    limit = _time_limit(session, region, names)
    _wait_for_workers(session, region, names, say, sleep, most_seconds=limit, looks=_QUIET_LOOKS)


def halt(session: AwsSession, region: str, run_id: str, *, say: Callable[[str], None], sleep: Callable[[float], None]) -> None:
    """Stop a run: nothing is handed to workers any more, those at work may not write, and the queues are empty.

    Safe to repeat; does nothing for a run that is not there. Raises what a user can mend.
    """
    names = Names(run_id)
    things = discover.resources(session, region, names.stem).get(run_id, [])
    queues = [thing for thing in things if thing.kind == "queue"]
    if not any(thing.kind in ("mapping", "function") for thing in things):
        return
    say(f"stopping the workers of {run_id}")
    if (refused := _tag_halted(queues, session, region)) is not None:
        say(f"whoever follows {run_id} is not told that it is stopped ({refused.message})")
    _disable([thing for thing in things if thing.kind == "mapping"], session, region, sleep)
    if any(thing.kind == "role" for thing in things):
        _brake(session, region, names)
    limit = _time_limit(session, region, names)
    _wait_for_workers(session, region, names, say, sleep, most_seconds=limit, looks=_QUIET_LOOKS)
    for thing in queues:
        if thing.name in (names.queues["list"], names.queues["copy"]):
            _purge(session, region, thing.id)


def empty(session: AwsSession, region: str, run_id: str, *, say: Callable[[str], None], sleep: Callable[[float], None]) -> int:
    """Purge a halted run's queues until they are seen to be empty; gives how many messages still are in them.

    Workers that were at work may have refilled a purged queue, and a queue can be purged once a minute: that is waited for.
    """
    work = {kind: url for kind, url in discover.queue_urls(session, region, Names(run_id)).items() if kind in ("list", "copy")}
    calm = waiting = 0
    for _ in range(_EMPTYING_LOOKS):
        filled = {kind: depth.waiting for kind, depth in discover.depths(session, region, work).items() if depth.waiting}
        waiting = sum(filled.values())
        calm = 0 if waiting else calm + 1
        if calm == _QUIET_LOOKS:
            return 0
        purged = [_purge(session, region, work[kind]) for kind in filled]
        if all(purged):
            sleep(_DEPTHS_PAUSE_SECONDS)
        else:
            say(
                f"{waiting:,} messages are left or have come since the queues were purged; they may be purged again in a minute"
            )
            sleep(_PURGE_SECONDS)
    return waiting


def _purge(session: AwsSession, region: str, url: str) -> bool:
    """Purge a queue; tells whether it was, or is gone: within a minute of the last time it cannot be."""
    try:
        session.client("sqs", region).purge_queue(QueueUrl=url)
    except (ClientError, BotoCoreError) as error:
        if isinstance(error, ClientError) and discover.is_gone(error):
            return True
        if isinstance(error, ClientError) and error_code(error) == "PurgeQueueInProgress":
            return False
        raise translate(error, f"purging {url}") from error
    return True


def teardown(
    session: AwsSession,
    region: str,
    run_id: str,
    *,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
    leave: frozenset[str] = frozenset(),
) -> TornDown:
    """Remove everything of a run but what `leave` names; goes on past a failure and says what is left."""
    names = Names(run_id)
    removed: dict[str, None] = {}  # in order, each once: a queue is listed for a while after it was deleted
    left: dict[str, Left] = {}
    for first in (True, False):  # a worker that ended late may have brought its log group back
        try:
            seen = discover.look(session, region, names.stem)
        except S3BulkCopyError as error:
            left[run_id] = everything(run_id, region, f"cannot look for it: {error.message}")
            break
        if first:
            left |= {kind: Left(*what, _again(run_id, region)) for kind, what in _unseen(session, region, names, seen).items()}
        things = [thing for thing in seen.runs.get(run_id, ()) if thing.name not in leave and thing.id not in left]
        if not things:
            break
        say(f"removing {len(things)} resources of {run_id}")
        for thing, still_there in _remove_in_order(session, region, run_id, things, say, sleep):
            if still_there:
                left[thing.id] = still_there
            else:
                removed[thing.name if thing.kind != "mapping" else f"{thing.name} (mapping)"] = None
    return TornDown(tuple(removed), tuple(left.values()))


def _unseen(session: AwsSession, region: str, names: Names, seen: Look) -> dict[str, tuple[str, str]]:
    """Give what may be there without our seeing it, by kind: what it is, and why it cannot be looked for."""
    if len(seen.refused) == len(ORDER):
        return {names.run_id: (names.run_id, f"cannot look for it: {seen.refused[ORDER[0]].message}")}
    return {
        kind: (f"{kind}s of {names.run_id}", f"cannot look for them: {why.message}")
        for kind, why in seen.refused.items()
        if kind != "role" or not _uses_a_given_role(session, region, names)
    }


def _uses_a_given_role(session: AwsSession, region: str, names: Names) -> bool:
    """Tell whether a run's functions have a role that was not made for it; False where they don't say."""
    for name in names.functions:
        with suppress(ClientError, BotoCoreError):
            role = session.client("lambda", region).get_function_configuration(FunctionName=name)["Role"]
            return not role.endswith(f":role{ROLE_PATH}{names.stem}")
    return False


# --------------------------------------------------------------------------------------------------------------- halting


def _disable(mappings: Sequence[FoundResource], session: AwsSession, region: str, sleep: Callable[[float], None]) -> None:
    for thing in mappings:
        _disable_one(thing, session, region, sleep)
    waited = 0.0
    while waited < MAPPING_SECONDS and any(
        discover.mapping_state(session, region, thing.id) not in ("Disabled", "Gone", "Deleting") for thing in mappings
    ):
        sleep(_PAUSE_SECONDS)
        waited += _PAUSE_SECONDS


def _disable_one(thing: FoundResource, session: AwsSession, region: str, sleep: Callable[[float], None]) -> None:
    for _ in range(_BUSY_TRIES):
        try:
            session.client("lambda", region).update_event_source_mapping(UUID=thing.id, Enabled=False)
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and discover.is_gone(error):
                return
            if not isinstance(error, ClientError) or error_code(error) not in _BUSY:
                raise translate(error, f"disabling the mapping of {thing.name}") from error
            sleep(_PAUSE_SECONDS)
        else:
            return


def _tag_halted(queues: Sequence[FoundResource], session: AwsSession, region: str) -> S3BulkCopyError | None:
    """Tell whoever watches the run that it is halted; a convenience, so that why it cannot be told is given."""
    tags = {"s3bulkcopy:halted": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}

    def tag(thing: FoundResource) -> S3BulkCopyError | None:
        try:
            session.client("sqs", region).tag_queue(QueueUrl=thing.id, Tags=tags)
        except (ClientError, BotoCoreError) as error:
            return translate(error, f"tagging {thing.name}")
        return None

    with ThreadPoolExecutor(max(1, len(queues))) as pool:
        refused = [*pool.map(tag, queues)]
    return refused[0] if refused and all(refused) else None


def _brake(session: AwsSession, region: str, names: Names) -> None:
    """Take the right to write from the workers that are still at work; waiting for them is enough where that is denied."""
    with suppress(ClientError, BotoCoreError):
        who = identity(session)
        document = policy.braked_policy(names, who.account, who.partition, region)
        session.client("iam").put_role_policy(RoleName=names.stem, PolicyName=POLICY_NAME, PolicyDocument=json.dumps(document))


def _wait_for_workers(
    session: AwsSession,
    region: str,
    names: Names,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
    *,
    most_seconds: float,
    looks: int = 1,
) -> None:
    """Wait until nothing is in flight on so many looks in a row, but no longer than `most_seconds`."""
    found = discover.queue_urls(session, region, names)
    work = {kind: url for kind, url in found.items() if kind in ("list", "copy")}
    waited, calm = 0.0, 0
    while waited < most_seconds:
        in_flight = sum(depth.in_flight for depth in discover.depths(session, region, work).values())
        calm = 0 if in_flight else calm + 1
        if calm == looks:
            return
        if in_flight and waited % _SAY_SECONDS == 0:
            say(f"waiting for {in_flight} tasks that workers have in hand, for {most_seconds - waited:.0f} s at most")
        sleep(_PAUSE_SECONDS)
        waited += _PAUSE_SECONDS


def _time_limit(session: AwsSession, region: str, names: Names) -> float:
    for name in names.functions:
        with suppress(ClientError, BotoCoreError):
            found = session.client("lambda", region).get_function_configuration(FunctionName=name)
            return float(found["Timeout"])
    return _WORKER_SECONDS


# -------------------------------------------------------------------------------------------------------------- removing


def _remove_in_order(
    session: AwsSession,
    region: str,
    run_id: str,
    things: Sequence[FoundResource],
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> Iterator[tuple[FoundResource, Left | None]]:
    """Remove resources, those of one kind side by side; gives each with what is to be said if it is still there."""
    for kind in ORDER:
        some = [thing for thing in things if thing.kind == kind]
        if kind == "function" and some:
            with suppress(S3BulkCopyError):  # the wait is a courtesy to the last workers
                _wait_for_workers(session, region, Names(run_id), say, sleep, most_seconds=_LAST_INVOCATIONS_SECONDS)
        with ThreadPoolExecutor(8) as pool:
            outcomes = pool.map(lambda thing: _remove_ours(session, region, run_id, thing, sleep), some)
        yield from zip(some, outcomes, strict=True)


def _remove_ours(
    session: AwsSession, region: str, run_id: str, thing: FoundResource, sleep: Callable[[float], None]
) -> Left | None:
    """Remove a resource unless its tags say that it is not for us to remove; None where it is gone."""
    tags = discover.tags_of(session, region, thing)
    if tags is not None and tags.get("s3bulkcopy:run") != run_id:
        return Left(thing.name, "not tagged as this run's, so left alone", _by_hand(thing, region))
    home = (tags or {}).get("s3bulkcopy:region", region)
    if thing.kind == "role" and home != region:  # IAM is global: there its workers may be running
        return Left(thing.name, f"its run is in {home}", _again(run_id, home))
    why = _remove(session, region, thing, sleep)
    return Left(thing.name, why, _by_hand(thing, region)) if why else None


def _remove(session: AwsSession, region: str, thing: FoundResource, sleep: Callable[[float], None]) -> str:
    """Remove a resource; gives why it is still there, or nothing."""
    why = ""
    for _ in range(_BUSY_TRIES):
        try:
            _REMOVERS[thing.kind](session, region, thing)
            if thing.kind != "mapping" or discover.mapping_state(session, region, thing.id) == "Gone":
                return ""
            why = "still being deleted"
        except ClientError as error:
            if discover.is_gone(error):
                return ""
            why = translate(error, "removing it").message
            if error_code(error) not in _BUSY:
                return why
        except (BotoCoreError, S3BulkCopyError) as error:
            return translate(error, "removing it").message
        sleep(_PAUSE_SECONDS)
    return why


def _remove_mapping(session: AwsSession, region: str, thing: FoundResource) -> None:
    session.client("lambda", region).delete_event_source_mapping(UUID=thing.id)


def _remove_function(session: AwsSession, region: str, thing: FoundResource) -> None:
    session.client("lambda", region).delete_function(FunctionName=thing.name)


def _remove_queue(session: AwsSession, region: str, thing: FoundResource) -> None:
    session.client("sqs", region).delete_queue(QueueUrl=thing.id)


def _remove_log_group(session: AwsSession, region: str, thing: FoundResource) -> None:
    session.client("logs", region).delete_log_group(logGroupName=thing.name)


def _remove_role(session: AwsSession, _region: str, thing: FoundResource) -> None:
    iam = session.client("iam")
    try:
        iam.delete_role_policy(RoleName=thing.name, PolicyName=POLICY_NAME)
    except ClientError as error:
        if not discover.is_gone(error):
            raise
    iam.delete_role(RoleName=thing.name)


_REMOVERS: dict[str, Callable[[AwsSession, str, FoundResource], Any]] = {
    "mapping": _remove_mapping,
    "function": _remove_function,
    "queue": _remove_queue,
    "log group": _remove_log_group,
    "role": _remove_role,
}


def _by_hand(thing: FoundResource, region: str) -> str:
    """Give the command that removes a resource."""
    match thing.kind:
        case "mapping":
            return f"aws lambda delete-event-source-mapping --uuid {thing.id} --region {region}"
        case "function":
            return f"aws lambda delete-function --function-name {thing.name} --region {region}"
        case "queue":
            return f"aws sqs delete-queue --queue-url {thing.id} --region {region}"
        case "log group":
            return f"aws logs delete-log-group --log-group-name {thing.name} --region {region}"
        case _:
            return (
                f"aws iam delete-role-policy --role-name {thing.name} --policy-name {POLICY_NAME}; "
                f"aws iam delete-role --role-name {thing.name}"
            )

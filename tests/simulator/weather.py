"""What one schedule is like, drawn from its seed: the bucket, the sizes of everything, and how often what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

#: Of a fault: how likely that a schedule has it at all, and that it has much of it.
_HAS_FAULT = 0.4
_HAS_MUCH = 0.2


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely each fault is, each time that it could strike; from 0 to 1."""

    # Of any request, to S3 or SQS.
    lost_request: float = 0.0
    lost_answer: float = 0.0
    no_answer: float = 0.0
    throttled: float = 0.0
    server_error: float = 0.0
    #: A 200 with an error inside.
    error_inside: float = 0.0
    slow: float = 0.0
    # Of SQS.
    refused_entry: float = 0.0
    #: An entry that was accepted, and is said to have failed, or is not mentioned.
    denied_entry: float = 0.0
    delivered_twice: float = 0.0
    #: A deletion that comes to nothing.
    undeleted: float = 0.0
    late_message: float = 0.0
    late_depths: float = 0.0
    # Of Lambda.
    #: An invocation that is killed behind any of its steps.
    killed: float = 0.0
    #: An environment that is killed when the queue has taken a batch of children, or a report, from it.
    killed_sending: float = 0.0
    killed_reporting: float = 0.0
    #: A batch that was received and never reached a function.
    never_started: float = 0.0
    #: An environment whose credentials end soon.
    expiring: float = 0.0
    # Of the command.
    #: One that is killed at any of its calls, and gone on with by another.
    command_killed: float = 0.0
    # Of objects.
    #: One that vanishes, or changes, or appears while the run goes on.
    vanishing: float = 0.0
    changing: float = 0.0
    appearing: float = 0.0
    #: One that cannot be copied, for whatever reason.
    cursed: float = 0.0


#: Shares of objects are smaller: a schedule in which half of them are cursed tells little about the others. And a command makes
#: many calls.
_RARE = frozenset({"vanishing", "changing", "appearing", "cursed", "command_killed"})


#: From which size on objects are copied by parts, and the size of these: in most schedules none are, as each takes many steps.
_SIZES = (*[(2**30, 2**28)] * 6, (1000, 12_000_000), (50_000_000, 9_000_000))


@dataclass(frozen=True, slots=True)
class Weather:
    """The parameters of one schedule."""

    faults: Faults
    objects: int
    page_keys: int
    batch_keys: int
    message_bytes: int
    #: Ranges that the key space is first cut into; 0 for as many as the run makes itself.
    roots: int
    overwrite: bool
    #: Objects that the destination has already, as a share.
    existing: float
    prefix: str
    destination_prefix: str
    #: How long a request takes, in seconds.
    latency: float
    #: How much longer a list request takes, in seconds; where that is long, ranges are handed on.
    list_latency: float
    #: How many times as long as it asks for the engine waits where there are no reports: its machine may be busy.
    poll_slowness: int
    #: Events after which a journal keeps the tally in their place.
    compact_after: int
    #: List requests that a worker may have under way; when ranges are given away: so many rounds ahead, and pages each.
    list_slots: int
    rounds_ahead: float
    least_given_pages: float
    timeout_seconds: int
    list_workers: int
    copy_workers: int
    list_batch: int
    copy_batch: int
    #: How far behind what SQS says of its depths may be, in seconds.
    depth_lag: float
    #: Messages that are no tasks, put on the queues by hand.
    poison: int
    #: Whether the destination's bucket is removed while the run goes on, or somebody presses Ctrl-C; at which second.
    bucket_gone_at: float | None
    interrupted_at: float | None
    #: Whether the store can only be walked: it knows continuation tokens, and no keys to go on behind.
    is_walked: bool
    #: From which size on objects are copied by parts, the size of these, and how many are one task's, in bytes.
    multipart_bytes: int
    part_bytes: int
    task_parts: int


def _share(random: Random, fault: str) -> float:
    """Draw how often a fault strikes."""
    if random.random() >= _HAS_FAULT:
        return 0.0
    is_much = fault not in _RARE and random.random() < _HAS_MUCH
    return random.uniform(0.3, 0.9) if is_much else float(10 ** random.uniform(-2.0, -0.6))


def draw(random: Random) -> Weather:
    """Draw the weather of a schedule."""
    chance, choice = random.random, random.choice
    calm = chance() < 0.05
    timeout_seconds = choice((8, 20, 60, 120))
    shares = {field.name: 0.0 if calm else _share(random, field.name) for field in fields(Faults)}
    multipart_bytes, part_bytes = choice(_SIZES)
    is_multipart = multipart_bytes < _SIZES[0][0]
    return Weather(
        faults=Faults(**shares),
        objects=1 + int((5 if is_multipart else 25) * chance() ** 2),
        page_keys=choice((1, 2, 3, 5, 8)),
        batch_keys=choice((1, 2, 4, 8, 1000)),
        message_bytes=choice((262_144, 1_048_576)),
        roots=0 if chance() < 0.004 else choice((1, 1, 2, 3, 6)),
        overwrite=chance() < 0.75,
        existing=0.0 if chance() < 0.6 else chance() / 2,
        prefix=choice(("", "", "a/", "ø &%")),
        destination_prefix=choice(("", "", "b+/", "日")),
        latency=choice((0.01, 0.05, 0.1)) if timeout_seconds < 20 else choice((0.02, 0.3, 1.5)),
        poll_slowness=choice((1, 20, 40, 60)),
        compact_after=choice((1, 10, 20_000)),
        list_slots=choice((1, 1, 2, 64)),
        rounds_ahead=choice((0.2, 1.0, 4.0)),
        least_given_pages=choice((0.1, 1.0, 16.0)),
        list_latency=choice((0.0, 0.0, 0.8, 2.5)),
        timeout_seconds=timeout_seconds,
        list_workers=choice((2, 3)),
        copy_workers=choice((2, 6)),
        list_batch=choice((1, 3, 10)),
        copy_batch=choice((1, 4)),
        depth_lag=choice((0.0, 1.0, 10.0)),
        poison=0 if chance() < 0.8 else choice((1, 3)),
        bucket_gone_at=random.uniform(0, 60) if chance() < 0.01 else None,
        interrupted_at=random.uniform(0, 60) if chance() < 0.01 else None,
        is_walked=chance() < 0.05,
        multipart_bytes=multipart_bytes,
        part_bytes=part_bytes,
        task_parts=choice((2, 3, 250)),
    )

"""The words of the protocol: jobs, tasks and events, and how they look on the wire.

Every value here is frozen and valid once made. A message is JSON in pure ASCII: SQS forbids characters that a key may
hold (U+0001, U+FFFE), and an escape survives every transport. `str` compares by code point, which is the order of the
UTF-8 bytes and so the order in which S3 lists.
"""

from __future__ import annotations

import json
from functools import partial
from itertools import repeat
from operator import add, sub
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from s3bulkcopy.worker import properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from s3bulkcopy.worker.filters import Filter

#: Version of the messages. A worker and the CLI that made it come from one bundle, so any other version is a stranger.
WIRE_VERSION = 5

#: Longest key in bytes of UTF-8 (S3 user guide, "Naming Amazon S3 objects").
MAX_KEY_BYTES = 1024

#: From which size on objects are copied by parts, and the size of these, unless said otherwise, in bytes.
MULTIPART_BYTES = 1024**3
PART_BYTES = 256 * 1024**2

#: What is kept of a cause and of an error code, in bytes of JSON.
MAX_CAUSE_BYTES = 300
MAX_CODE_BYTES = 60

#: Most bytes that a failure adds to those of its item: code, cause, commas and a size of 20 digits.
FAILURE_WIRE_BYTES = MAX_CAUSE_BYTES + MAX_CODE_BYTES + 40

#: Deliveries of a task that handed on everything and achieved nothing, in a row, after which it is given up.
MAX_IDLE_HOPS = 20


class MalformedMessage(ValueError):
    """A message that is no task and no event of this version."""


class Location(NamedTuple):
    """A bucket and a prefix in it, with where its requests go.

    `url` is the bucket's own root (`https://bucket.s3.eu-west-1.amazonaws.com` or `http://127.0.0.1:9000/bucket`),
    without a slash at the end. In the place of a bucket there may be an access point, by its ARN or by its alias.
    """

    bucket: str
    prefix: str
    region: str
    url: str
    #: The URL where the bucket turns out to be in another region, whose name stands as `{region}`; empty for the same.
    elsewhere: str = ""

    def __str__(self) -> str:
        """Give the location as people write it."""
        return place_text(self.bucket, self.prefix)


def place_text(bucket: str, prefix: str) -> str:
    """Write a bucket, or an access point's ARN, and a prefix as people do.

    >>> place_text("b", "x/"), place_text("arn:aws:s3:eu-west-1:123456789012:accesspoint/a", "x/")
    ('s3://b/x/', 'arn:aws:s3:eu-west-1:123456789012:accesspoint/a/x/')
    """
    root = bucket if bucket.startswith("arn:") else f"s3://{bucket}"
    return f"{root}/{prefix}" if prefix else root


def split_place(text: str) -> tuple[str, str]:
    """Read what place_text wrote: the bucket, or the access point's ARN, and the prefix.

    >>> split_place("s3://b/x/"), split_place("arn:aws:s3:eu-west-1:123456789012:accesspoint/a/x/")
    (('b', 'x/'), ('arn:aws:s3:eu-west-1:123456789012:accesspoint/a', 'x/'))
    """
    rest = text.removeprefix("s3://")
    if not rest.startswith("arn:"):
        bucket, _, prefix = rest.partition("/")
        return bucket, prefix
    kind, slash, behind = rest.partition("/")
    if kind.endswith(":accesspoint"):
        name, _, prefix = behind.partition("/")
        return f"{kind}{slash}{name}", prefix
    return kind, behind


class Job(NamedTuple):
    """What to copy where, with which rules; travels inside every task."""

    run_id: str
    source: Location
    destination: Location
    overwrite: bool = True
    #: Most keys in a CopyTask; bytes and copy work bound it too.
    batch_keys: int = 1000
    #: Largest message the queues take, in bytes.
    message_bytes: int = 262_144
    #: Whether objects are listed and counted, and none is copied.
    dry: bool = False
    #: What becomes of the objects' properties.
    policy: properties.Policy = properties.DEFAULT
    #: What an object must be to be copied; None for any.
    filter: Filter | None = None
    #: Whether archived objects are tried like all others.
    force_archived: bool = False
    #: Objects from this size on are copied by parts, in bytes.
    multipart_bytes: int = MULTIPART_BYTES
    #: The size of these parts; larger where there would be too many, in bytes.
    part_bytes: int = PART_BYTES

    def destination_key(self, key: str) -> str:
        """Re-root a key: the destination's prefix in place of the source's, nothing else changed.

        >>> here, there = Location("a", "x/", "", ""), Location("b", "y", "", "")
        >>> Job("r", here, there).destination_key("x/1.txt")
        'y1.txt'
        """
        return self.destination.prefix + key[len(self.source.prefix) :]


class Item(NamedTuple):
    """One listed object; `etag` has no quotes, and is empty where none was given. A tuple, as there are so many."""

    key: str
    size: int
    etag: str
    #: Only where the job preserves it; empty where it is not known.
    storage_class: str = ""

    @property
    def is_marker(self) -> bool:
        """Tell whether it is there to have its name shown as a folder; the S3 console makes such, of no content."""
        return self.size == 0 and self.etag != "" and self.key.endswith("/")


#: Makes an item of any four values in a row; a third of the price of calling Item.
make_item: Callable[[Iterable[Any]], Item] = partial(tuple.__new__, Item)


#: What else a listing says of an object: when it was last modified and its storage class, both as they stand there, and
#: whether it is archived but restored for a time.
Trait = tuple[str, str, bool]


class Range(NamedTuple):
    """The keys `after < key <= until`; `after == ""` is the very bottom, `until is None` the true top.

    >>> "b" in Range("a", "b"), "a" in Range("a", "b"), "\U0010ffff" in Range("a", None)
    (True, False, True)
    """

    after: str
    until: str | None

    def __contains__(self, key: str) -> bool:  # type: ignore[override]
        """Tell whether a key belongs to this range."""
        return self.after < key and (self.until is None or key <= self.until)


class ListTask(NamedTuple):
    """List ranges of the source, none of which overlaps another, and hand their objects on as CopyTasks."""

    id: str
    job: Job
    ranges: tuple[Range, ...]
    #: Attempts in a row that handed the task on without listing a page.
    idle_hops: int = 0
    #: Objects after which to stop, which then are listed one page after another; None for all.
    limit: int | None = None


class WalkTask(NamedTuple):
    """List the whole source one page after another, for a store that cannot be asked for ranges of keys.

    What an attempt leaves of it goes on where the store says that the next page begins.
    """

    id: str
    job: Job
    #: Keys that somebody else has listed.
    but: tuple[str, ...] = ()
    idle_hops: int = 0
    #: Objects after which to stop; None for all.
    limit: int | None = None
    #: Where to go on: the continuation token of the last page that was listed. Empty for the beginning.
    token: str = ""

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Everything."""
        return (Range("", None),)


class CopyTask(NamedTuple):
    """Copy these items."""

    id: str
    job: Job
    items: tuple[Item, ...]
    #: Attempts in a row that handed the task on without ending an item.
    idle_hops: int = 0
    #: The archived class of all of them: then none is tried, and each is reported as skipped. Empty for items to be copied.
    archived: str = ""


class PartTask(NamedTuple):
    """Copy some parts of one object to a multipart upload that has begun.

    Of the tasks of one object, one reports what becomes of it: when its own parts are there it sees to the others, too. Those
    others help it, and report nothing but parts.
    """

    id: str
    job: Job
    #: The object, in the version that all parts are taken from.
    item: Item
    upload_id: str
    part_bytes: int
    #: The numbers of the parts, both inclusive.
    first: int
    last: int
    #: Whether what becomes of the object is reported by this task.
    reports: bool
    #: When the upload began, in seconds since the epoch, by S3's clock.
    begun: int
    #: Bytes of these parts that were reported by those that handed the task on.
    reported_bytes: int = 0
    #: The object's tags, as a request has them.
    tagging: str = ""
    #: Attempts in a row that handed the task on without a new part.
    idle_hops: int = 0
    #: The same of the CopyTask that began the upload: an object is begun anew so many times at most.
    restarts: int = 0
    #: Whether the object has annotations, which are copied once it is there.
    annotated: bool = False

    @property
    def items(self) -> tuple[Item, ...]:
        """Give the objects whose end this task reports."""
        return (self.item,) if self.reports else ()


#: What lists; all else copies.
Listing = ListTask | WalkTask
Copying = CopyTask | PartTask
Task = Listing | Copying


class Nothing(NamedTuple):
    """A message that asks for nothing: by sending one, a probe proves that it may."""


#: The code of an object that is archived and was not tried: it is skipped, and did not fail.
ARCHIVED = "Archived"


class Failure(NamedTuple):
    """One object that is not at the destination, and why."""

    key: str
    size: int
    code: str
    cause: str


class Counts(NamedTuple):
    """What an attempt achieved. Objects and bytes count once, in the task that ended them; the rest is effort."""

    listed: int = 0
    listed_bytes: int = 0
    copied: int = 0
    copied_bytes: int = 0
    skipped: int = 0
    vanished: int = 0
    failed: int = 0
    #: LIST requests answered.
    pages: int = 0
    #: COPY requests sent, the repeated ones included.
    copy_requests: int = 0
    #: Requests sent again, for whatever reason.
    retries: int = 0
    #: Answers of 503 SlowDown and its kin.
    throttles: int = 0
    #: Objects that the job's filter left out; they count nowhere else.
    filtered: int = 0
    #: Of those skipped, the ones that are archived.
    archived: int = 0
    #: Multipart uploads begun, or asked for.
    uploads: int = 0
    #: Bytes of parts that are copied, and those of objects whose end is known: the rest is of objects on their way.
    part_bytes: int = 0
    ended_part_bytes: int = 0
    #: Of a dry job: large objects, the parts that they would be copied in, and how often those would be listed.
    large: int = 0
    parts: int = 0
    part_lists: int = 0

    @property
    def ended(self) -> int:
        """Objects whose fate is known."""
        return self.copied + self.skipped + self.vanished + self.failed

    @property
    def bytes_under_way(self) -> int:
        """Bytes of parts that are copied, of objects that are not yet."""
        return max(0, self.part_bytes - self.ended_part_bytes)

    def __add__(self, other: Counts) -> Counts:  # type: ignore[override]
        """Add field by field."""
        return Counts(*map(add, self, other))

    def __sub__(self, other: Counts) -> Counts:
        """Subtract field by field."""
        return Counts(*map(sub, self, other))


COUNT_NAMES = Counts._fields


class Attempt(NamedTuple):
    """One delivery of a task to a worker: its number, from 1, and a nonce that no other attempt has."""

    number: int
    nonce: str


class Done(NamedTuple):
    """A task ended: it queued the children `nonce.0 … nonce.(children-1)`, and this is what it achieved itself."""

    id: str
    attempt: Attempt
    children: int
    counts: Counts
    failures: tuple[Failure, ...] = ()


class Trouble(NamedTuple):
    """An attempt failed, and why. The queue delivers the task again."""

    id: str
    attempt: Attempt
    cause: str


#: Why a run cannot go on; each has its own exit code.
FatalKind = Literal["not_found", "not_permitted", "unsupported"]


class Fatal(NamedTuple):
    """The run cannot go on."""

    id: str
    attempt: Attempt
    kind: FatalKind
    cause: str


class Dead(NamedTuple):
    """A task exhausted its deliveries; said by the engine, not by a worker."""

    id: str
    task: Task


Event = Done | Trouble | Fatal | Dead


def clip(text: str, most_bytes: int = MAX_CAUSE_BYTES) -> str:
    """Shorten a text, a cause unless said otherwise, so that its JSON stays within `most_bytes`.

    >>> clip("Access Denied"), len(to_json(clip("日" * 500))) <= MAX_CAUSE_BYTES
    ('Access Denied', True)
    """
    text = text[:most_bytes]
    while len(to_json(text)) > most_bytes:
        text = text[: len(text) * 3 // 4]
    return text


class Emit(Protocol):
    """Hands a child task to the engine."""

    async def __call__(self, task: Task, /) -> None:
        """Return once the queue has accepted the task."""


# ---------------------------------------------------------------------------------------------------------------- wire

_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True)
#: Encodes a value as compact ASCII JSON.
to_json = _encoder.encode
#: Encodes a text as `to_json` does, for a third of the price.
text_to_json = json.encoder.encode_basestring_ascii


def encode_task(task: Task | Nothing) -> str:
    """Write a task as a message."""
    if isinstance(task, Nothing):
        return to_json({"t": "nothing", "v": WIRE_VERSION})
    head = {"v": WIRE_VERSION, "id": task.id, "job": _job_words(task.job), "idle": task.idle_hops}
    if isinstance(task, ListTask):
        return to_json({"t": "list", **head, "limit": task.limit, "ranges": task.ranges})
    if isinstance(task, WalkTask):
        return to_json({"t": "walk", **head, "limit": task.limit, "but": task.but, "token": task.token})
    if isinstance(task, PartTask):
        return to_json({"t": "part", **head, **{name: value for name, value in task._asdict().items() if name not in _HEAD}})
    # By columns: a list for each of a thousand items costs more than all else about them.
    head["archived"] = task.archived
    columns = {name: [item[n] for item in task.items] for n, name in enumerate(_COLUMNS)}
    if task.job.policy.preserves_class:
        columns["classes"] = [item[3] for item in task.items]
    return to_json({"t": "copy", **head, **columns})


#: What every message of a task says in words of its own.
_HEAD = frozenset({"id", "job", "idle_hops"})

#: What a message calls the values of its items; a fourth, where storage classes are preserved, is `classes`.
_COLUMNS = ("keys", "sizes", "etags")

#: What a message of another shape makes the decoders below raise.
_MISFITS = (KeyError, TypeError, ValueError, AttributeError)


def decode_task(body: str) -> Task | Nothing:
    """Read a task; anything else raises MalformedMessage."""
    data = _parse(body)
    if data.get("t") == "nothing":
        return Nothing()
    try:
        name, job, idle = _text(data["id"]), _job(data["job"]), _number(data["idle"])
        match data["t"]:
            case "list":
                return ListTask(name, job, tuple(_range(*pair) for pair in data["ranges"]), idle, _limit(data["limit"]))
            case "walk":
                but = tuple(map(_text, _list(data["but"])))
                return WalkTask(name, job, but, idle, _limit(data["limit"]), _text(data["token"]))
            case "copy":
                keys, sizes, etags = (data[column] for column in _COLUMNS)
                found = _items(keys, sizes, etags, data.get("classes"))
                return CopyTask(name, job, found, idle, _text(data["archived"]))
            case "part":
                return _part_task(PartTask(id=name, job=job, idle_hops=idle, **_but(data, "v", "t", "id", "job", "idle")))
            case kind:
                raise MalformedMessage(f"a message of kind {kind!r} is no task")
    except MalformedMessage:
        raise
    except _MISFITS as error:
        raise MalformedMessage(f"a task that lacks or misplaces {error}") from error


def encode_event(event: Done | Trouble | Fatal) -> str:
    """Write what a worker reports as a message."""
    head = {"v": WIRE_VERSION, "id": event.id, "n": event.attempt.number, "nonce": event.attempt.nonce}
    match event:
        case Done():
            words = {"kids": event.children, "counts": event.counts, "failures": event.failures}
            return to_json({"t": "done", **head, **words})
        case Trouble():
            return to_json({"t": "trouble", **head, "cause": event.cause})
        case Fatal():
            return to_json({"t": "fatal", **head, "kind": event.kind, "cause": event.cause})


def decode_event(body: str) -> Done | Trouble | Fatal | Nothing:
    """Read a worker's report; anything else raises MalformedMessage."""
    data = _parse(body)
    if data.get("t") == "nothing":
        return Nothing()
    try:
        name, attempt = _text(data["id"]), Attempt(_number(data["n"]), _text(data["nonce"]))
        match data["t"]:
            case "done":
                counts = Counts(*map(_number, _exactly(len(COUNT_NAMES), data["counts"])))
                failures = tuple(
                    Failure(_text(key), _number(size), _text(code), _text(cause)) for key, size, code, cause in data["failures"]
                )
                return Done(name, attempt, _number(data["kids"]), counts, failures)
            case "trouble":
                return Trouble(name, attempt, _text(data["cause"]))
            case "fatal" if data["kind"] in get_args(FatalKind):
                return Fatal(name, attempt, data["kind"], _text(data["cause"]))
            case kind:
                raise MalformedMessage(f"a message of kind {kind!r} is no event")
    except MalformedMessage:
        raise
    except _MISFITS as error:
        raise MalformedMessage(f"an event that lacks or misplaces {error}") from error


def _parse(body: str) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage("not JSON") from error
    if not isinstance(data, dict):
        raise MalformedMessage("not a JSON object")
    version = data.get("v")
    if type(version) is not int or version != WIRE_VERSION:
        raise MalformedMessage(f"version {version!r}, expected {WIRE_VERSION}")
    return data


def _job_words(job: Job) -> dict[str, Any]:
    words = {**job._asdict(), "source": job.source._asdict(), "destination": job.destination._asdict()}
    words["policy"] = properties.words(job.policy)
    return words if job.filter is None else {**words, "filter": job.filter._asdict()}


def _job(data: dict[str, Any]) -> Job:
    policy = properties.read_words(data.get("policy", {}))
    places = {"source": _location(data["source"]), "destination": _location(data["destination"])}
    job = Job(**{**data, **places, "policy": policy})
    _text(job.run_id)
    _number(job.batch_keys)
    _number(job.message_bytes)
    _number(job.multipart_bytes)
    _number(job.part_bytes)
    if {type(job.overwrite), type(job.dry), type(job.force_archived)} != {bool}:
        raise TypeError("overwrite, dry or force_archived, which are true or false")
    if job.filter is None:
        return job
    from s3bulkcopy.worker.filters import decode_filter  # noqa: PLC0415 - most jobs have none

    return job._replace(filter=decode_filter(data["filter"]))


def _location(data: dict[str, Any]) -> Location:
    return Location(**{name: _text(value) for name, value in data.items()})


def _range(after: object, until: object) -> Range:
    return Range(_text(after), until if until is None else _text(until))


def _list(values: object) -> list[Any]:
    if type(values) is not list:
        raise TypeError(f"a {type(values).__name__} in place of a list")
    return values


def _items(keys: list[str], sizes: list[int], etags: list[str], classes: list[str] | None) -> tuple[Item, ...]:
    if {type(keys), type(sizes), type(etags)} != {list} or type(classes) not in (list, type(None)):
        raise TypeError("items that are not lists of keys, sizes and ETags")
    if not keys and not sizes and not etags and not classes:
        return ()
    if {*map(type, keys), *map(type, etags), *map(type, classes or ())} != {str}:
        raise TypeError("an item that is not a text, a count and texts")
    if {*map(type, sizes)} != {int} or min(sizes) < 0:
        raise TypeError("an item whose size is no count")
    more = repeat("", len(keys)) if classes is None else classes
    return tuple(map(make_item, zip(keys, sizes, etags, more, strict=True)))


def _but(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


def _part_task(task: PartTask) -> PartTask:
    """Check the values of a PartTask as a message has them."""
    key, size, etag, storage_class = _exactly(4, _list(task.item))
    for number in (task.begun, task.reported_bytes, task.restarts):
        _number(number)
    if (
        {type(task.reports), type(task.annotated)} != {bool}
        or not 1 <= _number(task.first) <= _number(task.last)
        or not _number(task.part_bytes)
    ):
        raise TypeError("parts that are none")
    _text(task.upload_id)
    _text(task.tagging)
    return task._replace(item=Item(_text(key), _number(size), _text(etag), _text(storage_class)))


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"a {type(value).__name__} in place of a text")
    return value


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"a {type(value).__name__} in place of a count")
    return value


def _limit(value: object) -> int | None:
    return value if value is None else _number(value)


def _exactly(length: int, values: list[Any]) -> list[Any]:
    if len(values) != length:
        raise ValueError(f"{len(values)} values in place of {length}")
    return values

"""Large objects: a multipart upload is begun, its parts are copied, it is completed, and what became of the object is reported.

Imported only where there is one. Each step may be repeated by another attempt: what is there is looked for before it is made.
"""

from __future__ import annotations

from itertools import count
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker import aio, annotation, multipart
from s3bulkcopy.worker.copying import (
    OUTAGE_SECONDS,
    PROOF_ATTEMPTS,
    PROOF_SECONDS,
    RETRY_SECONDS,
    Outcome,
    PartLost,
    confirmed,
    is_in_doubt,
    refusal_of,
)
from s3bulkcopy.worker.failures import NOT_KNOWN, Failed, Fault, Next, lost, stop_for
from s3bulkcopy.worker.model import CopyTask, Counts, Failure, Item, PartTask, clip
from s3bulkcopy.worker.multipart import NO_SUCH_UPLOAD, PartCopies, parts_in
from s3bulkcopy.worker.packing import work_seconds
from s3bulkcopy.worker.parts import MIN_PART_BYTES, Parts, part_bytes_for, part_bytes_of
from s3bulkcopy.worker.properties import destination_headers, new_object_headers, source_headers
from s3bulkcopy.worker.s3 import REQUEST_SECONDS, read_copy, read_date

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Any, TypeVar

    from s3bulkcopy.worker.attempts import Budget, Children
    from s3bulkcopy.worker.copying import Copier
    from s3bulkcopy.worker.http import Response
    from s3bulkcopy.worker.model import Attempt, Job, Location
    from s3bulkcopy.worker.multipart import Part, Source, There
    from s3bulkcopy.worker.s3 import S3, Bucket

    T = TypeVar("T")

#: How long a completion may take, in seconds: S3 says minutes.
COMPLETE_SECONDS = 300.0

#: How long a task that reports waits for the parts of others, without a new one, before it copies them itself: so many seconds
#: and twice the time of a part, no more than a share of the time it has. And how long in all before it makes room for others.
PATIENCE_FOR_OTHERS_SECONDS = 20.0
LONGEST_WAIT_SECONDS = 60.0
WAIT_SHARE = 0.5

#: The share of an attempt's time that is for copying.
_SHARE_OF_TIME = 0.85

#: Pauses between two looks at what others have done, in seconds: the first and the longest, each twice the one before.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 5.0

#: Objects of one task that are looked at, and begun, at a time.
_BEGUN_AT_ONCE = 8

#: Annotations of an object that are copied at a time.
_ANNOTATED_AT_ONCE = 8

#: Completions that are tried with the parts listed anew, where S3 says that they are others.
_COMPLETIONS = 3

#: How much earlier than the answer that an upload has begun S3 may say that its object was written, in seconds.
_SLACK_SECONDS = 5

#: Tags that are sent with the beginning of an upload, at most, in bytes: all headers of a request together have 8 KB (S3 user
#: guide, "Working with object metadata"), and metadata may be 2 KB of that. aws-cli has this bound, too.
_MOST_TAGGING_BYTES = 2048

#: Bytes of the part that a probe copies, at most.
_PROBE_BYTES = 1024

_CHANGED = "it has changed since it was listed"

_EXISTS = Fault(Next.EXISTS, "PreconditionFailed", "it exists")

#: What stores say that know no tags, or of an object that has none.
_NO_TAGS = frozenset({"NotImplemented", "HTTP 501", "NoSuchTagSet", "NoSuchTagSetError"})

_TRANSIENT = frozenset({Next.RETRY, Next.SLOW_DOWN, Next.MENDED})


class OutOfTime(Exception):
    """The attempt's time is over: the rest is for another."""


class _Ended(Exception):
    """The end of an object is known: None where it is at the destination."""

    def __init__(self, fault: Fault | None) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Changed(Exception):
    """The object is another one now, and is to be copied as it is."""

    def __init__(self, item: Item) -> None:
        super().__init__(item.key)
        self.item = item


class _Gone(Exception):
    """The upload is not there any more: completed, or aborted."""


class Uploads:
    """Copies large objects; one per environment."""

    def __init__(self, s3: S3, copier: Copier, pauses: Callable[[int], float]) -> None:
        """Ask by `s3`, copy parts by `copier`, with `pauses(n)` seconds before the n-th repetition of any other request."""
        self._s3, self._copier, self._pauses = s3, copier, pauses
        self._is_handing_on = False
        self._under_way: set[_Asking] = set()

    def hand_on(self) -> None:
        """Have the tasks in hand end soon, with what is left handed on."""
        self._is_handing_on = True
        for asking in self._under_way:
            asking.hand_on()

    def _asking(self, attempt: Attempt, budget: Budget) -> _Asking:
        is_trusting = attempt.number >= PROOF_ATTEMPTS
        asking = _Asking(self._s3, self._copier, self._pauses, budget.deadline, is_trusting=is_trusting)
        self._under_way.add(asking)
        if self._is_handing_on:
            asking.hand_on()
        return asking

    async def begin(
        self, task: CopyTask, items: Iterable[Item], attempt: Attempt, budget: Budget, children: Children
    ) -> Outcome:
        """Begin an upload of each of these items of a task, and hand its parts on; what could not be begun in time is the rest.

        Raises Stop and Failed as `Copier.copy` does.
        """
        asking = self._asking(attempt, budget)
        try:
            return await self._begin_all(asking, task, items, children)
        finally:
            self._under_way.discard(asking)

    async def _begin_all(self, asking: _Asking, task: CopyTask, items: Iterable[Item], children: Children) -> Outcome:
        few = aio.Semaphore(_BEGUN_AT_ONCE)

        async def begin(item: Item) -> _Beginning:
            async with few:
                try:
                    return await self._begin(_Object(asking, task.job, item), task.idle_hops)
                except OutOfTime:
                    return _Beginning(rest=item)
                except _Ended as end:
                    return _Beginning(ended=(item, end.fault))

        begun = await aio.gather(*map(begin, items), return_exceptions=True)
        counts = Counts()
        failures: list[Failure] = []
        rest: list[Item] = []
        for one in begun:
            if isinstance(one, BaseException):
                raise one
            if one.rest is not None:
                rest.append(one.rest)
            if one.ended is not None:
                ended, failed = _end(*one.ended)
                counts += ended
                failures += failed
            for part_task in one.tasks:
                await children.add(lambda name, part_task=part_task: part_task._replace(id=name))  # type: ignore[misc]
        counts += asking.effort
        return Outcome(counts, tuple(failures), tuple(rest))

    async def _begin(self, at: _Object, idle_hops: int) -> _Beginning:
        job = at.job
        if (refusal := refusal_of(job, at.item)) is not None:
            raise _Ended(refusal)
        if not job.overwrite and await at.exists():
            raise _Ended(_EXISTS)
        source = await at.source()
        if source.missing:
            raise _Ended(Fault(Next.RECORD, "MissingMetadata", f"{source.missing} entries of its metadata fit no header"))
        policy = job.policy
        item = at.item._replace(size=source.size, etag=source.etag or at.item.etag)
        if policy.preserves_class and not item.storage_class:
            item = item._replace(storage_class=source.storage_class)
        at.item = item
        grants = await at.grants() if policy.preserves_acl else {}
        if not item.size:  # it was another one when it was listed, and nothing cannot be cut into parts
            raise _Ended(await self._s3.copies(job).copy(item, grants))
        try:
            part_bytes = _part_bytes(job, item, source)
        except ValueError as error:
            raise _Ended(Fault(Next.RECORD, "EntityTooLarge", str(error))) from error
        tagging, annotated = await _all(at.tagging(), at.is_to_annotate())
        headers = multipart.kept_headers(source, policy) | new_object_headers(policy, item.storage_class) | grants
        headers |= {"x-amz-tagging": tagging} if 0 < len(tagging) <= _MOST_TAGGING_BYTES else {}
        upload_id, begun = await at.begin(headers)
        groups = [*Parts(item.size, part_bytes).groups()]
        tasks = [
            PartTask(
                "", job, item, upload_id, part_bytes, first, last,
                reports=(first, last) == groups[-1],
                begun=begun,
                tagging=tagging if (first, last) == groups[-1] else "",
                annotated=annotated and (first, last) == groups[-1],
                idle_hops=idle_hops,
                restarts=idle_hops,
            )
            for first, last in groups
        ]  # fmt: skip
        return _Beginning(tasks=tuple(tasks))

    async def work(
        self, task: PartTask, attempt: Attempt, budget: Budget, children: Children
    ) -> tuple[Counts, tuple[Failure, ...]]:
        """Copy the parts of a task; what there is no time for is handed on.

        Gives what is to be reported. Raises Stop and Failed as `Copier.copy` does.
        """
        budget = _sooner(budget)
        asking = self._asking(attempt, budget)
        try:
            return await self._work(asking, task, attempt, budget, children)
        finally:
            self._under_way.discard(asking)

    async def _work(
        self, asking: _Asking, task: PartTask, attempt: Attempt, budget: Budget, children: Children
    ) -> tuple[Counts, tuple[Failure, ...]]:
        work = _Work(_Object(asking, task.job, task.item), task, self._s3, self._copier, attempt, budget)
        all_bytes = work.parts.bytes_of(range(task.first, task.last + 1)) - task.reported_bytes
        failures: tuple[Failure, ...] = ()
        try:
            counts = await self._to_the_end(work, children)
        except OutOfTime:
            if not task.reports and not work.has_progressed:  # no help: whoever reports sees to these parts
                return Counts(part_bytes=all_bytes) + asking.effort + work.effort, ()
            part_bytes = max(0, all_bytes - work.parts.bytes_of(work.missing_own))
            hops = task.restarts if work.has_progressed else task.idle_hops + 1
            reported = task.reported_bytes + part_bytes
            await children.add(lambda name: task._replace(id=name, reported_bytes=reported, idle_hops=hops))
            counts = Counts(part_bytes=part_bytes)
        except _Ended as end:
            counts = Counts(part_bytes=all_bytes)
            if task.reports:
                ended, failures = _end(task.item, end.fault)
                counts += ended + Counts(ended_part_bytes=task.item.size)
        return counts + asking.effort + work.effort, failures

    async def _to_the_end(self, work: _Work, children: Children) -> Counts:
        """Carry a task to its end, which _Ended tells, or to where the object has to be begun anew."""
        task = work.task
        try:
            await work.carry()
        except _Gone:
            if not task.reports:
                raise _Ended(None) from None
            item = await work.look_for_completed()
        except _Changed as changed:
            item = changed.item
        # What was begun was aborted by somebody, or here.
        again = task.restarts + 1
        await children.add(lambda name: CopyTask(name, task.job, (item,), again))
        everything = work.parts.bytes_of(range(task.first, task.last + 1))
        return Counts(part_bytes=everything - task.reported_bytes, ended_part_bytes=task.item.size)


def _sooner(budget: Budget) -> Budget:
    """Keep some of an attempt's time for handing on the rest: where that is cut off, two go on with it."""
    now = aio.get_running_loop().time()
    return budget._replace(deadline=now + _SHARE_OF_TIME * (budget.deadline - now))


class _Beginning(NamedTuple):
    """What came of the beginning of an upload."""

    tasks: tuple[PartTask, ...] = ()
    ended: tuple[Item, Fault | None] | None = None
    rest: Item | None = None


def _part_bytes(job: Job, item: Item, source: Source) -> int:
    """Give the size of parts: the source's own where the ETag keeps its form with that."""
    if source.first_part is not None and source.parts is not None:
        least = min(MIN_PART_BYTES, job.part_bytes)
        own = part_bytes_of(item.size, source.first_part, source.parts, least)
        if own is not None:
            return own
    return part_bytes_for(item.size, job.part_bytes)


def _end(item: Item, fault: Fault | None) -> tuple[Counts, tuple[Failure, ...]]:
    """Give what is reported of an object that has ended."""
    if fault is None:
        return Counts(copied=1, copied_bytes=item.size), ()
    match fault.next:
        case Next.VANISHED:
            return Counts(vanished=1), ()
        case Next.EXISTS:
            return Counts(skipped=1), ()
        case _:
            return Counts(failed=1), (Failure(item.key, item.size, fault.code, fault.cause),)


async def prove(s3: S3, job: Job, item: Item) -> Fault | None:
    """Prove the right to copy a large object: begin an upload, copy a little, and abort that; None where it went well."""
    try:
        return await _prove(s3, job, item)
    except ValueError as error:
        return lost(error)


async def _prove(s3: S3, job: Job, item: Item) -> Fault | None:
    key = job.destination_key(item.key)

    here, there = source_headers(job.policy), destination_headers(job.policy)

    def head(bucket: Bucket, date: str) -> bytes:
        return multipart.head_request(bucket, item, date, of_first_part=False)

    answer = await s3.ask_about(job.source, head, headers=here)
    if isinstance(answer, Fault):
        listed = await s3.page(job.source, item.key, "", max_keys=1, policy=job.policy) if answer.code == "HTTP 400" else None
        return listed if isinstance(listed, Fault) else _of_head(answer)
    span = (0, max(1, min(multipart.read_source(answer).size, _PROBE_BYTES)) - 1)
    grants = await _prove_reading(s3, job, item)
    if isinstance(grants, Fault):
        return grants
    headers = new_object_headers(job.policy, item.storage_class) | grants

    def begin(bucket: Bucket, date: str) -> bytes:
        return multipart.begin_request(bucket, key, headers, date)

    begun = await s3.ask_about(job.destination, begin, headers=there)
    if isinstance(begun, Fault):
        return begun
    upload_id = multipart.read_upload_id(begun)

    def part(bucket: Bucket, date: str) -> bytes:
        return multipart.part_request(bucket, job, item, upload_id, 1, span, date)

    def abort(bucket: Bucket, date: str) -> bytes:
        return multipart.abort_request(bucket, key, upload_id, date)

    copied = await s3.ask_about(job.destination, part, headers=there)
    await s3.ask_about(job.destination, abort, headers=there)
    return copied if isinstance(copied, Fault) else read_copy(copied)


async def _prove_reading(s3: S3, job: Job, item: Item) -> dict[str, str] | Fault:
    """Prove the right to read what is given to a copy beside its content; gives the headers that keep its ACL."""
    policy = job.policy

    async def tags() -> Fault | None:
        if policy.tags != "copy":
            return None
        answer = await s3.ask_about(
            job.source, lambda bucket, date: multipart.tags_request(bucket, item.key, date), headers=source_headers(policy)
        )
        found = answer if isinstance(answer, Fault) else multipart.read_tags(answer)
        if not isinstance(found, Fault) or found.code in _NO_TAGS or found.next in _TRANSIENT:  # the task will tell
            return None
        return _of_tags(found)

    async def annotations() -> Fault | None:
        if policy.annotations != "copy":
            return None
        answer = await s3.ask_about(
            job.source, lambda bucket, date: annotation.look_request(bucket, item.key, date), headers=source_headers(policy)
        )
        return _of_annotations(answer) if isinstance(answer, Fault) and answer.code not in NOT_KNOWN else None

    async def acl() -> dict[str, str] | Fault:
        return await s3.grants(job.source, item.key, policy) if policy.preserves_acl else {}

    unread, unlooked, grants = await _all(tags(), annotations(), acl())
    return unread or unlooked or grants  # type: ignore[no-any-return]


def _of_head(fault: Fault) -> Fault:
    """Put into words what a HEAD request is told by a status alone."""
    match fault.code:
        case "HTTP 404":
            return Fault(Next.VANISHED, "NoSuchKey", "it is not there")
        case "HTTP 412":
            return Fault(Next.CHANGED, "PreconditionFailed", _CHANGED)
        case "HTTP 403":
            return fault._replace(code="AccessDenied", cause="its headers may not be read")
    return fault._replace(cause=fault.cause or "S3 does not say why in answer to a HEAD request")


def _of_tags(fault: Fault) -> Fault:
    return fault._replace(cause=clip(f"its tags: {fault.cause}"))


def _of_annotations(fault: Fault) -> Fault:
    return fault._replace(cause=clip(f"its annotations: {fault.cause}"))


async def _all(*asked: Awaitable[Any]) -> list[Any]:
    """Ask for several things at the same time; gives the answers, or raises the first fault once all have ended."""
    answers = await aio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


class _Asking:
    """Asks until there is an answer that asking again would not change, within one attempt."""

    def __init__(self, s3: S3, copier: Copier, pauses: Callable[[int], float], deadline: float, *, is_trusting: bool) -> None:
        self.s3 = s3
        self._copier, self._pauses = copier, pauses
        self.deadline = deadline
        self._is_trusting = is_trusting
        self.effort = Counts()

    def hand_on(self) -> None:
        """Have no time any more."""
        self.deadline = min(self.deadline, aio.get_running_loop().time())

    async def ask(self, call: Callable[[], Awaitable[T | Fault]]) -> T | Fault:
        """Ask; gives the last fault where it lasts. Raises OutOfTime, Stop, or Failed where this environment is of no use."""
        clock = aio.get_running_loop().time
        since = inf
        for tries in count(1):
            now = clock()
            if now >= self.deadline:
                raise OutOfTime
            answer = await call()
            if not isinstance(answer, Fault):
                break
            if answer.next is Next.STOP:
                raise stop_for(answer)
            if answer.next is Next.EXPIRED:
                raise Failed(answer, "copying a large object")
            now, since = clock(), min(since, clock())
            is_unproven = answer.next is Next.DENIED and not self._copier.is_proven and not self._is_trusting
            patience = dict.fromkeys(_TRANSIENT, RETRY_SECONDS if self._copier.has_copied_since(since) else OUTAGE_SECONDS)
            patience |= {Next.SLOW_DOWN: OUTAGE_SECONDS, Next.DENIED: PROOF_SECONDS if is_unproven else 0.0}
            self.effort += Counts(throttles=answer.next is Next.SLOW_DOWN)
            if now - since >= patience.get(answer.next, 0.0):
                if is_unproven:
                    raise Failed(answer, "copying a large object")
                break
            self._copier.note_trouble(answer)
            self.effort += Counts(retries=1)
            pause = self._pauses(tries)
            if now + pause >= self.deadline:
                raise OutOfTime
            await aio.sleep(pause)
        return answer


class _Object:
    """One object, and what is asked about it; each method raises _Ended where the answer ends it."""

    def __init__(self, asking: _Asking, job: Job, item: Item) -> None:
        self._asking, self.job, self.item = asking, job, item
        self.key = job.destination_key(item.key)
        self._is_again = False

    @property
    def deadline(self) -> float:
        """Give when the attempt's time is over."""
        return self._asking.deadline

    async def _ask_here(self, write: Callable[[Bucket, str], bytes], read: Callable[[Response], T | Fault]) -> T | Fault:
        return await self._ask(self.job.source, source_headers(self.job.policy), write, read)

    async def _ask_there(
        self,
        write: Callable[[Bucket, str], bytes],
        read: Callable[[Response], T | Fault],
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> T | Fault:
        return await self._ask(self.job.destination, destination_headers(self.job.policy), write, read, timeout_seconds)

    async def _ask(
        self,
        location: Location,
        headers: dict[str, str],
        write: Callable[[Bucket, str], bytes],
        read: Callable[[Response], T | Fault],
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> T | Fault:
        """Ask about a location; gives what `read` makes of the answer. One that cannot be read is as good as none."""
        s3 = self._asking.s3

        async def ask() -> T | Fault:
            answer = await s3.ask_about(location, write, timeout_seconds, headers)
            try:
                return answer if isinstance(answer, Fault) else read(answer)
            except ValueError as error:
                return lost(error)

        return await self._asking.ask(ask)

    @staticmethod
    def _expect(answer: T | Fault) -> T:
        if isinstance(answer, Fault):
            raise _Ended(answer)
        return answer

    async def _expect_of_source(self, answer: T | Fault) -> T:
        """Give what is told of the source; of one that is gone some are told that they may not read it."""
        if isinstance(answer, Fault):
            sure = await self.confirm(answer)
            raise _Ended(sure if isinstance(sure, Fault) else answer)
        return answer

    async def source(self) -> Source:
        """Look at the source, and where it has changed at what it is now, once."""
        is_in_parts = parts_in(self.item.etag) is not None
        answer = await self._head(of_first_part=is_in_parts)
        if isinstance(answer, Fault) and is_in_parts and answer.next is Next.RECORD and answer.code != "PreconditionFailed":
            answer = await self._head(of_first_part=False)  # a store that knows no parts
        if not isinstance(answer, Fault):
            return answer
        sure = await self.confirm(answer)
        if isinstance(sure, Fault):
            raise _Ended(sure)
        if self._is_again:
            raise _Ended(answer)
        self.item, self._is_again = sure, True
        return await self.source()

    async def _head(self, *, of_first_part: bool) -> Source | Fault:
        def write(bucket: Bucket, date: str) -> bytes:
            return multipart.head_request(bucket, self.item, date, of_first_part=of_first_part)

        answer = await self._ask_here(write, multipart.read_source)
        return _of_head(answer) if isinstance(answer, Fault) else answer

    async def confirm(self, fault: Fault) -> Fault | Item:
        """Look by a list request what a fault in doubt is; gives the item as it is now where it has changed."""
        is_untold = fault.code == "HTTP 400"  # a HEAD is not told that credentials have expired
        if not is_untold and not is_in_doubt(fault):
            return fault
        s3, item = self._asking.s3, self.item
        answer = await self._asking.ask(lambda: s3.page(self.job.source, item.key, "", max_keys=1, policy=self.job.policy))
        self._asking.effort += Counts(pages=1)
        if is_untold or isinstance(answer, Fault):
            return fault._replace(next=Next.RECORD)
        return confirmed(fault, item, answer, self.job)

    async def _tags(self) -> str:
        """Read the source's tags; not every store says in answer to a HEAD request whether there are any."""

        def write(bucket: Bucket, date: str) -> bytes:
            return multipart.tags_request(bucket, self.item.key, date)

        answer = await self._ask_here(write, multipart.read_tags)
        if isinstance(answer, Fault) and answer.code in _NO_TAGS:
            return ""
        return await self._expect_of_source(_of_tags(answer) if isinstance(answer, Fault) else answer)

    async def grants(self) -> dict[str, str]:
        """Read the source's ACL, as the headers that give a copy the same grants."""
        s3, job = self._asking.s3, self.job
        return await self._expect_of_source(await self._asking.ask(lambda: s3.grants(job.source, self.item.key, job.policy)))

    async def tagging(self) -> str:
        """Give the tags for the copy, as a header has them; those of the source where the policy copies them."""
        match self.job.policy.tags:
            case "copy":
                return await self._tags()
            case "replace":
                return multipart.write_tagging(self.job.policy.tag_set)
            case _:
                return ""

    async def is_to_annotate(self) -> bool:
        """Tell whether the source has annotations, where the policy copies them."""
        if self.job.policy.annotations != "copy":
            return False

        def write(bucket: Bucket, date: str) -> bytes:
            return annotation.look_request(bucket, self.item.key, date)

        answer = await self._ask_here(write, lambda answer: annotation.has_some(answer, self.item.etag))
        if not isinstance(answer, Fault):
            return answer
        return answer.code not in NOT_KNOWN and await self._expect_of_source(_of_annotations(answer))

    async def copy_annotations(self, etag: str) -> None:
        """Give the copy, which has this ETag, the annotations of the source; those that are there already, too."""
        few = aio.Semaphore(_ANNOTATED_AT_ONCE)

        async def copy(name: str) -> None:
            async with few:
                await self._copy_annotation(name, etag)

        await _all(*map(copy, await self._annotations()))

    async def _annotations(self) -> list[str]:
        names, token = await self._annotations_behind("")
        while token:
            more, token = await self._annotations_behind(token)
            names += more
        return names

    async def _annotations_behind(self, token: str) -> tuple[list[str], str]:
        def write(bucket: Bucket, date: str) -> bytes:
            return annotation.list_request(bucket, self.item.key, token, date)

        return self._expect_annotated(await self._ask_here(write, annotation.read_list), "its annotations")

    async def _copy_annotation(self, name: str, etag: str) -> None:
        def get(bucket: Bucket, date: str) -> bytes:
            return annotation.get_request(bucket, self.item.key, name, date)

        def put(bucket: Bucket, date: str) -> bytes:
            return annotation.put_request(bucket, self.key, etag, name, noted, date)

        what = f"its annotation {name!r}"
        found = await self._ask_here(get, annotation.read_annotation)
        if isinstance(found, Fault) and found.code == "NoSuchAnnotation":  # taken from it meanwhile
            return
        noted = self._expect_annotated(found, what)
        answer = await self._ask_there(put, bool)
        if isinstance(answer, Fault) and answer.code == "PreconditionFailed":  # somebody has put another object there
            return
        self._expect_annotated(answer, what)

    @staticmethod
    def _expect_annotated(answer: T | Fault, what: str) -> T:
        """Give an answer about annotations once the object itself is there; raises Failed where a fault may pass."""
        if isinstance(answer, Fault):
            _raise_for(answer)
            raise _Ended(answer._replace(next=Next.RECORD, cause=clip(f"it is copied, but not {what}: {answer.cause}")))
        return answer

    async def change(self) -> Fault | None:
        """Give the fault that tells that the source is not the one any more that was copied."""
        answer = await self._head(of_first_part=False)
        return answer if isinstance(answer, Fault) and answer.next is Next.CHANGED else None

    async def begin(self, headers: dict[str, str]) -> tuple[str, int]:
        """Begin an upload; gives its id, and when that was."""

        def write(bucket: Bucket, date: str) -> bytes:
            return multipart.begin_request(bucket, self.key, headers, date)

        def read(answer: Response) -> tuple[str, int]:
            when = read_date(answer)
            return multipart.read_upload_id(answer), int(self._asking.s3.seconds() if when is None else when)

        self._asking.effort += Counts(uploads=1)  # whatever is heard of it
        return self._expect(await self._ask_there(write, read))

    async def parts(self, upload_id: str) -> dict[int, Part]:
        """List the parts that are there; raises _Gone where the upload is not."""
        found: dict[int, Part] = {}
        after: int | None = 0
        while after is not None:
            some, after = await self._parts_behind(upload_id, after)
            found |= some
        return found

    async def _parts_behind(self, upload_id: str, after: int) -> tuple[dict[int, Part], int | None]:
        def write(bucket: Bucket, date: str) -> bytes:
            return multipart.parts_request(bucket, self.key, upload_id, after, date)

        answer = await self._ask_there(write, multipart.read_parts)
        if isinstance(answer, Fault):
            _raise_for(answer)
        return self._expect(answer)

    async def complete(self, task: PartTask, parts: dict[int, Part]) -> str | Fault:
        """Make an object of the parts; gives its ETag, or what keeps it from being one. Raises _Gone."""
        seconds = max(REQUEST_SECONDS, min(COMPLETE_SECONDS, self._asking.deadline - aio.get_running_loop().time()))

        def write(bucket: Bucket, date: str) -> bytes:
            return multipart.complete_request(bucket, task, parts, date)

        made = await self._ask_there(write, multipart.read_completion, seconds)
        if isinstance(made, Fault) and made.code == NO_SUCH_UPLOAD:
            raise _Gone
        return made

    async def abort(self, upload_id: str) -> None:
        """Give the upload up; what is not aborted now is when the run ends."""
        await self._ask_there(lambda bucket, date: multipart.abort_request(bucket, self.key, upload_id, date), bool)

    async def look(self) -> There | None:
        """Look at the destination."""
        self._asking.effort += Counts(pages=1)

        def write(bucket: Bucket, date: str) -> bytes:
            return multipart.look_request(bucket, self.key, date)

        return self._expect(await self._ask_there(write, lambda answer: multipart.read_there(answer, self.key)))

    async def exists(self) -> bool:
        """Tell whether the destination has it; not where that may not be asked, which a completion tells as well."""
        try:
            return await self.look() is not None
        except _Ended as end:
            if end.fault is not None and end.fault.next is Next.DENIED:
                return False
            raise

    async def see_to_tags(self, tagging: str) -> None:
        """Give the copy its tags where they did not come with the upload, or the store has not taken them."""

        def write(bucket: Bucket, date: str) -> bytes:
            return multipart.put_tags_request(bucket, self.key, tagging, date)

        if len(tagging) <= _MOST_TAGGING_BYTES:
            there = await self._ask_there(
                lambda bucket, date: multipart.tags_request(bucket, self.key, date), multipart.read_tags
            )
            if isinstance(there, Fault):  # who may not look believes it
                _raise_for(there)
                return
            if there == tagging:
                return
        self._expect(await self._ask_there(write, bool))


def _raise_for(fault: Fault) -> None:
    if fault.code == NO_SUCH_UPLOAD:
        raise _Gone
    if fault.next in _TRANSIENT:
        raise Failed(fault, "copying parts")


class _Work:
    """One attempt at a PartTask."""

    def __init__(self, at: _Object, task: PartTask, s3: S3, copier: Copier, attempt: Attempt, budget: Budget) -> None:
        self._at, self.task = at, task
        self._s3, self._copier = s3, copier
        self._attempt, self._budget = attempt, budget
        self.parts = Parts(task.item.size, task.part_bytes)
        self._there: dict[int, Part] = {}
        self._has_listed = False
        self.has_progressed = False
        self.missing_own: list[int] = [*range(task.first, task.last + 1)]
        self.effort = Counts()

    async def carry(self) -> None:
        """Copy what is missing of the task's parts, and see to the rest if that is its part; raises _Ended at the end."""
        await self._list()
        own = self.missing_own
        if own:
            await self._copy(own)
            await self._list()
        if self.task.reports:
            await self._wait_for_others()
        elif self._missing():
            raise _Ended(None)
        await self._complete()

    async def _list(self) -> None:
        """List the parts that are there, each in its size."""
        found = await self._at.parts(self.task.upload_id)
        parts, before = self.parts, len(self._there)
        self._there = {n: part for n, part in found.items() if n <= parts.number and part.size == parts.size_of(n)}
        self.has_progressed |= self._has_listed and len(self._there) > before
        self._has_listed = True
        self.missing_own = [n for n in range(self.task.first, self.task.last + 1) if n not in self._there]

    def _missing(self) -> list[int]:
        return [n for n in range(1, self.parts.number + 1) if n not in self._there]

    async def _copy(self, numbers: list[int]) -> None:
        """Copy parts; raises OutOfTime where that takes too long."""
        if aio.get_running_loop().time() >= self._at.deadline:
            raise OutOfTime
        task, parts = self.task, self.parts
        copies = PartCopies(self._s3, task, parts)
        items = [Item(str(n), parts.size_of(n), task.item.etag) for n in numbers]
        try:
            outcome = await self._copier.copy_parts(
                task.job, copies, items, self._budget.deadline, attempt=self._attempt.number
            )
        except PartLost as error:
            await self._end_at(error.fault)
            raise
        self.effort += outcome.counts._replace(part_bytes=0)
        left, asked = {int(item.key) for item in outcome.rest}, set(numbers)
        self.has_progressed |= len(left) < len(asked)
        self.missing_own = [n for n in self.missing_own if n in left or n not in asked]
        if outcome.failures:  # no request could be written
            await self._end_at(Fault(Next.RECORD, outcome.failures[0].code, outcome.failures[0].cause))
        if left:
            raise OutOfTime

    async def _wait_for_others(self) -> None:
        """Wait until all parts are there; those that are long in coming are copied here. Raises OutOfTime."""
        clock = aio.get_running_loop().time
        began = seen_at = clock()
        time_left = max(0.0, self._budget.deadline - began)
        usual = PATIENCE_FOR_OTHERS_SECONDS + 2 * work_seconds(self.task.part_bytes)
        patience = min(usual, WAIT_SHARE * time_left)
        pause = _FIRST_PAUSE_SECONDS
        while missing := self._missing():
            now = clock()
            if now - seen_at >= patience:
                await self._copy(missing)
                await self._list()
                seen_at = clock()
                continue
            if now - began >= LONGEST_WAIT_SECONDS or now >= self._at.deadline:
                raise OutOfTime
            await aio.sleep(min(pause, max(0.0, seen_at + patience - now)))
            pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)
            await self._list()
            if len(self._missing()) < len(missing):
                seen_at = clock()

    async def _complete(self) -> None:
        """Make an object of the parts; raises _Ended."""
        for tries in count(1):
            made = await self._at.complete(self.task, self._there)
            if not isinstance(made, Fault):
                await self._end_well(made)
                return
            fault = made
            if fault.code == "PreconditionFailed" and not self.task.job.overwrite:
                await self._end_at_existing(fault)
            if fault.code != "InvalidPart" or tries >= _COMPLETIONS:
                await self._end_at(fault)
            await self._list()
            if self._missing():  # a part is just being copied once more
                raise Failed(fault, "completing")

    async def _end_well(self, etag: str) -> None:
        """See to what can only be given to an object that is there; raises _Ended, or _Changed."""
        if self.task.tagging:
            await self._at.see_to_tags(self.task.tagging)
        if self.task.annotated:
            await self._at.copy_annotations(etag)
            if (fault := await self._at.change()) is not None:  # they may be another object's
                if not self.task.job.overwrite:  # what is there now would not be replaced
                    raise _Ended(
                        fault._replace(next=Next.RECORD, cause=f"{_CHANGED}, after it was copied; see its annotations")
                    )
                await self._end_at(fault)
        raise _Ended(None)

    async def _end_at(self, fault: Fault) -> None:
        """End the object at a fault that asking again would not change; raises _Ended, or Failed where it may pass.

        Raises _Changed where it has changed, unless it was begun anew before.
        """
        _raise_for(fault)
        if not self.task.reports:  # whoever reports meets it, too
            raise _Ended(None)
        sure = await self._at.confirm(fault)
        await self._at.abort(self.task.upload_id)
        if isinstance(sure, Item) and not self.task.restarts:
            raise _Changed(sure)
        raise _Ended(sure if isinstance(sure, Fault) else fault._replace(next=Next.RECORD))

    async def _end_at_existing(self, fault: Fault) -> None:
        """End the object where the destination has it already, unless it is what an earlier attempt has made of this upload."""
        found = await self._at.look()
        if found is not None and self._is_ours(found):
            await self._end_well(found.etag)
        await self._end_at(_EXISTS if found is not None else fault)

    async def look_for_completed(self) -> Item:
        """Find out what became of an upload that is gone: raises _Ended where its object is there, or can't be had again.

        Gives the object as it is now.
        """
        found = await self._at.look()
        if found is not None and self._is_ours(found):
            await self._end_well(found.etag)
        if found is not None and not self.task.job.overwrite:
            raise _Ended(_EXISTS)
        await self._at.source()
        return self._at.item

    def _is_ours(self, found: There) -> bool:
        is_new = found.written >= self.task.begun - _SLACK_SECONDS
        return found.size == self.task.item.size and parts_in(found.etag) == self.parts.number and is_new

"""Large objects, from the task that lists them to what is reported, against a store that answers in virtual time."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.costs import planned
from s3bulkcopy.tally import Tally
from s3bulkcopy.worker import aio, parts
from s3bulkcopy.worker.attempts import Budget
from s3bulkcopy.worker.copying import Copier, Outcome
from s3bulkcopy.worker.failures import Failed, Stop
from s3bulkcopy.worker.http import Response
from s3bulkcopy.worker.model import Attempt, Copying, CopyTask, Counts, Done, Failure, Item, PartTask
from s3bulkcopy.worker.pacing import Pace, full_jitter
from s3bulkcopy.worker.properties import Policy
from s3bulkcopy.worker.sorting import large_of
from s3bulkcopy.worker.work import TooManyHops, Worker
from tests.unit.worker.worker_fakes import ACL, DENIED, GRANTS, JOB, SLOW_DOWN, FakeS3, Queue, answer, error, item, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3bulkcopy.worker.model import Job, Task
    from tests.unit.worker.worker_fakes import Request, Scripted

#: Objects from 100 bytes on are large, and cut into parts of 10.
SMALL = JOB._replace(multipart_bytes=100, part_bytes=10)
BIG = item("big", 95 * 10 + 3)  # 96 parts

#: How long an attempt has, in seconds of virtual time.
SLICE_SECONDS = 90.0

UNAVAILABLE = error(500, "InternalError")


@pytest.fixture(autouse=True)
def _several_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "TASK_PARTS", 40)


@dataclass
class Run:
    """What a run came to: its tasks are worked on in order, one after another, and those that fail again."""

    store: FakeS3
    tally: Tally = field(default_factory=Tally)
    failures: list[Failure] = field(default_factory=list)
    dead: list[Task] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    attempts: int = 0

    @property
    def counts(self) -> Counts:
        return self.tally.snapshot().counts

    @property
    def ends(self) -> tuple[int, int, int, int, int]:
        """Give how many objects were copied, skipped, had vanished and failed, and the bytes of those copied."""
        counts = self.counts
        return counts.copied, counts.skipped, counts.vanished, counts.failed, counts.copied_bytes


def carry(
    store: FakeS3,
    found: list[Item],
    job: Job = SMALL,
    *,
    seconds: float = SLICE_SECONDS,
    kills: Callable[[int], bool] = lambda _attempt: False,
    order: Callable[[deque[tuple[Task, int]]], None] = lambda _queue: None,
    between: Callable[[Task], None] = lambda _task: None,
) -> Run:
    """Carry a task with these items, and all that come of it, to their ends.

    `kills` tells whether an attempt dies when its work is done, and nothing of what it reports is heard.
    """
    told = Run(store)
    told.tally.announce("root", 1)
    queue: deque[tuple[Task, int]] = deque([(CopyTask("root.0", job, tuple(found)), 1)])
    while queue:
        order(queue)
        task, number = queue.popleft()
        between(task)
        told.attempts += 1
        told.tasks.append(task)
        sent = Queue()
        name = f"a{told.attempts}"
        try:
            done = attempt(store, task, Attempt(number, name), sent, seconds)
            if kills(told.attempts):
                raise TimeoutError("killed")
        except (Failed, TimeoutError, TooManyHops):
            if number < 5:
                queue.append((task, number + 1))
            else:
                told.dead.append(task)
        else:
            told.tally.add([done])
            told.failures += done.failures
        queue += [(child, 1) for child in sent.accepted]
    return told


def attempt(store: FakeS3, task: Task, one: Attempt, queue: Queue, seconds: float) -> Done:
    """Work on a task in an environment of its own."""

    async def main() -> Done:
        pauses = full_jitter(lambda: 0.5)
        s3 = store.client()
        copier = Copier(s3, Pace(), pauses)
        try:
            return await Worker(s3, copier, pauses).work(task, one, Budget(aio.get_running_loop().time() + seconds), queue)
        finally:
            await copier.stop()

    return run(main())


def test_a_large_object_is_copied_by_parts_in_several_tasks_and_counts_once() -> None:
    store = FakeS3.of([BIG, item("small")])
    told = carry(store, [BIG, item("small")])

    assert told.ends == (2, 0, 0, 0, BIG.size + 1)
    assert told.counts.copy_requests == 97
    assert store.multipart.made["big"].size == BIG.size
    assert store.multipart.made["big"].version == BIG.etag
    assert store.multipart.uploads == {}
    assert sum(isinstance(task, PartTask) for task in told.tasks) == 3
    assert max(store.multipart.copies.values()) == 1


def test_only_large_objects_take_requests_of_their_own() -> None:
    store = FakeS3.of([item(f"{n}", 99) for n in range(20)])
    told = carry(store, [*store.objects.values()])

    assert told.counts == Counts(copied=20, copied_bytes=20 * 99, copy_requests=20)
    assert store.multipart.asked == []


@pytest.mark.parametrize("code", ["NotImplemented", "NoSuchTagSet"])
def test_a_store_that_knows_no_tags_is_copied_from(code: str) -> None:
    store = FakeS3.of([BIG])
    store.multipart.faults["get_tags"] = [error(501 if code == "NotImplemented" else 404, code)]

    assert carry(store, [BIG]).counts.copied == 1


@pytest.mark.parametrize(("kind", "code"), [("get_tags", "UnknownAnswer"), ("part", "CopyUnknown")])
def test_a_store_that_takes_a_request_for_another_fails_by_name_and_at_once(kind: str, code: str) -> None:
    store = FakeS3.of([BIG, item("small")])
    put = b'HTTP/1.1 200 OK\r\nETag: "of nothing"\r\nContent-Length: 0\r\n'
    taken = {"get_tags": answer(200, b"its content"), "part": Response(200, put, b"")}
    store.multipart.rule = lambda asked, _: taken[asked] if asked == kind else None

    async def probe() -> Outcome | Failed:
        return await Copier(store.client(), Pace(), full_jitter(lambda: 0.5)).probe(SMALL, [BIG, item("small")])

    told, proof = carry(store, [BIG]), run(probe())

    assert isinstance(proof, Outcome)
    assert [failure.code for failure in (*told.failures, *proof.failures)] == [code, code]
    assert (told.counts.retries, proof.counts.retries, store.multipart.uploads) == (0, 0, {})


def test_tags_that_may_not_be_read_are_not_dropped_silently() -> None:
    store = FakeS3.of([BIG])
    store.multipart.rule = lambda kind, _: DENIED if kind == "get_tags" else None
    told = carry(store, [BIG, item("small")])

    assert [failure.code for failure in told.failures] == ["AccessDenied"]


def test_an_object_of_one_task_takes_one_head_and_its_parts_are_listed_twice() -> None:
    store = FakeS3.of([it := item("one", 100)])
    told = carry(store, [it])

    assert store.multipart.asked == ["head", "get_tags", "annotations", "begin", "list", *["part"] * 10, "list", "complete"]
    assert told.counts == Counts(
        copied=1, copied_bytes=100, copy_requests=10, uploads=1, part_bytes=100, ended_part_bytes=100
    )  # fmt: skip


#: What a request about a large object is called in the S3 API.
NAMES = {
    "head": "HeadObject", "get_tags": "GetObjectTagging", "annotations": "ListObjectAnnotations", "acl": "GetObjectAcl",
    "look": "ListObjectsV2", "begin": "CreateMultipartUpload", "part": "UploadPartCopy", "list": "ListParts",
    "complete": "CompleteMultipartUpload",
}  # fmt: skip


@pytest.mark.parametrize("it", [item("one", 100), BIG, Item("big", 1000, "0" * 32 + "-4")])
@pytest.mark.parametrize("job", [SMALL, SMALL._replace(policy=Policy(acl="preserve", tags="drop"), overwrite=False)])
def test_a_dry_run_counts_the_requests_that_copying_takes(it: Item, job: Job) -> None:
    store = FakeS3.of([it])
    store.multipart.acls[it.key] = ACL
    if it.etag.endswith("-4"):
        store.multipart.part_sizes[it.key] = 300
    requests = planned(Counts(listed=1) + large_of(job._replace(dry=True), [it]), job)

    assert carry(store, [it], job).counts.copied == 1
    assert Counter(NAMES[kind] for kind in store.multipart.asked) == dict(requests)


def test_bytes_of_parts_are_under_way_until_the_object_is_there() -> None:
    seen: list[int] = []
    store = FakeS3.of([BIG])
    told = carry(store, [BIG], between=lambda _: seen.append(store.multipart.made != {}))

    tally = Tally()
    tally.announce("root", 1)
    assert told.counts.bytes_under_way == 0
    assert told.counts.part_bytes == told.counts.ended_part_bytes == BIG.size
    tally.add([Done("root.0", Attempt(1, "a"), 2, Counts(uploads=1)), Done("a.0", Attempt(1, "b"), 0, Counts(part_bytes=400))])
    assert tally.snapshot().seen.copied_bytes == 400


def test_metadata_and_tags_are_applied_again() -> None:
    headers = {
        "Content-Type": "text/x; charset=utf-8",
        "Cache-Control": "max-age=1,  private",
        "Content-Disposition": 'attachment; filename="a b"',
        "Content-Encoding": "gzip",
        "Content-Language": "de, en",
        "Expires": "Thu, 01 Dec 2039 16:00:00 GMT",
        "x-amz-website-redirect-location": "/there",
        "x-amz-meta-one": "1",
        "x-amz-meta-two": "=?UTF-8?Q?=C3=B8?=",
    }
    tags = (("a", "x y"), ("k&", "v=ø"), ("z", ""))
    store = FakeS3.of([BIG])
    store.multipart.headers["big"], store.multipart.tags["big"] = headers, tags
    told = carry(store, [BIG])

    made = store.multipart.made["big"]
    assert told.counts.copied == 1
    assert {name.lower(): value for name, value in headers.items()}.items() <= made.headers.items()
    assert made.tags == tags
    assert store.multipart.asked.count("put_tags") == 0


def requests_of(store: FakeS3) -> list[tuple[str, dict[str, str]]]:
    """Have a store keep the kinds of requests about large objects, and the headers of each."""
    kept: list[tuple[str, dict[str, str]]] = []
    answer = store.multipart.answer

    def keep(kind: str, request: Request, key: str, by: str) -> Response:
        kept.append((kind, request.headers))
        return answer(kind, request, key, by)

    store.multipart.answer = keep  # type: ignore[method-assign]
    return kept


def test_an_upload_begins_as_the_policy_says() -> None:
    policy = Policy(
        storage_class="preserve",
        sse="aws:kms",
        kms_key_id="key",
        acl="bucket-owner-full-control",
        tags="replace",
        tag_set=(("b", "2"), ("a", "1")),
        metadata="replace",
        entries=(("new", "x"),),
        content_headers=(("content-type", "text/plain"),),
        checksum_algorithm="SHA256",
    )
    store = FakeS3.of([BIG])
    store.multipart.headers["big"] = {
        "cache-control": "no-cache",
        "x-amz-meta-old": "y",
        "x-amz-storage-class": "GLACIER_IR",
        "x-amz-checksum-crc32": "AAAAAA==",
    }
    store.multipart.tags["big"] = (("old", "tag"),)
    kept = requests_of(store)
    told = carry(store, [BIG], SMALL._replace(policy=policy))

    begun = next(headers for kind, headers in kept if kind == "begin")
    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert {
        "x-amz-storage-class": "GLACIER_IR",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "key",
        "x-amz-acl": "bucket-owner-full-control",
        "x-amz-tagging": "a=1&b=2",
        "x-amz-meta-new": "x",
        "content-type": "text/plain",
        "x-amz-checksum-algorithm": "SHA256",
    }.items() <= begun.items()
    assert not {"cache-control", "x-amz-meta-old", "x-amz-checksum-type"} & {*begun}


NOTES = {f"note.{n}": f"text {n} ø" for n in range(20)} | {"zeta-ø": "<x>&amp;"}


def test_annotations_are_copied_once_the_object_is_there_with_their_checksums() -> None:
    store = FakeS3.of([BIG])
    store.multipart.annotations["big"], store.multipart.page_annotations = NOTES, 7
    told = carry(store, [BIG])

    asked = store.multipart.asked
    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert store.multipart.made["big"].annotations == {name: (text, f"sum of {len(text)}") for name, text in NOTES.items()}
    assert min(asked.index(kind) for kind in ("get_annotation", "put_annotation")) > asked.index("complete")
    assert (asked.count("annotations"), asked.count("put_annotation"), asked.count("head")) == (1 + 3, len(NOTES), 2)


def test_annotations_that_are_dropped_are_not_asked_for() -> None:
    store = FakeS3.of([BIG])
    store.multipart.annotations["big"] = NOTES
    carry(store, [BIG], SMALL._replace(policy=Policy(annotations="drop")))

    assert not [kind for kind in store.multipart.asked if "annotation" in kind]
    assert store.multipart.made["big"].annotations == {}


def test_annotations_are_copied_by_whoever_comes_after_an_attempt_that_died_among_them() -> None:
    store = FakeS3.of([BIG])
    store.multipart.annotations["big"] = NOTES
    store.multipart.faults["put_annotation"] = [error(500, "InternalError")] * 90
    told = carry(store, [BIG], seconds=40.0)

    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert {*store.multipart.made["big"].annotations} == {*NOTES}
    assert max(store.multipart.copies.values()) == 1
    assert store.multipart.asked.count("complete") == 1


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("annotations", "its annotations: Access Denied"),
        ("get_annotation", "it is copied, but not its annotation 'note.0': Access Denied"),
        ("put_annotation", "it is copied, but not its annotation 'note.0': Access Denied"),
    ],
)
def test_annotations_that_may_not_be_copied_are_not_dropped_silently(kind: str, cause: str) -> None:
    store = FakeS3.of([BIG])
    store.multipart.annotations["big"] = {"note.0": "x"}
    store.multipart.rule = lambda asked, _: DENIED if asked == kind else None
    told = carry(store, [item("small"), BIG])

    assert [(failure.key, failure.code, failure.cause) for failure in told.failures] == [("big", "AccessDenied", cause)]
    assert ("begin" in store.multipart.asked) == (kind != "annotations")
    assert store.multipart.uploads == {}


def test_annotations_are_not_mixed_with_those_of_an_object_that_came_in_between() -> None:
    store = FakeS3.of([BIG])
    store.multipart.annotations["big"] = {"note": "old"}
    new = Item("big", 200, "f" * 32)

    def rule(kind: str, _number: int) -> None:
        if kind == "complete" and new.key not in store.multipart.made:
            store.objects["big"], store.multipart.annotations["big"] = new, {"other": "new"}

    store.multipart.rule = rule
    told = carry(store, [BIG])

    assert told.ends == (1, 0, 0, 0, new.size)
    made = store.multipart.made["big"]
    assert (made.version, {*made.annotations}) == (new.etag, {"other"})


def test_where_nothing_is_overwritten_such_an_object_is_a_failure() -> None:
    store = FakeS3.of([BIG])
    store.multipart.annotations["big"] = {"note": "old"}

    def rule(kind: str, _number: int) -> None:
        if kind == "complete":
            store.objects["big"] = Item("big", 200, "f" * 32)

    store.multipart.rule = rule
    told = carry(store, [BIG], SMALL._replace(overwrite=False))

    assert [(failure.code, failure.cause) for failure in told.failures] == [
        ("PreconditionFailed", "it has changed since it was listed, after it was copied; see its annotations")
    ]


def test_what_somebody_puts_in_the_place_of_a_copy_gets_none_of_its_annotations() -> None:
    store = FakeS3.of([BIG])
    store.multipart.annotations["big"] = NOTES

    def rule(kind: str, _number: int) -> None:
        if kind == "get_annotation":
            store.multipart.made["big"].etag = "other"

    store.multipart.rule = rule
    told = carry(store, [BIG])

    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert store.multipart.made["big"].annotations == {}


def test_an_annotation_that_is_deleted_meanwhile_is_none() -> None:
    store = FakeS3.of([BIG])
    store.multipart.annotations["big"] = {"a": "1", "b": "2"}
    store.multipart.faults["get_annotation"] = [error(404, "NoSuchAnnotation")]

    assert carry(store, [BIG]).ends == (1, 0, 0, 0, BIG.size)
    assert len(store.multipart.made["big"].annotations) == 1


@pytest.mark.parametrize(
    "told",
    [
        answer(206, "the object itself", **{"Content-Range": f"bytes 0-16/{BIG.size}"}),
        answer(200, "the object itself", ETag=f'"{BIG.etag}"'),
        error(501, "NotImplemented"),
        error(405, "MethodNotAllowed"),
    ],
)
def test_a_store_that_knows_no_annotations_is_copied_from(told: Response) -> None:
    store = FakeS3.of([BIG])
    kept = requests_of(store)
    store.multipart._annotations = lambda *_: told  # type: ignore[method-assign]

    assert carry(store, [BIG]).ends == (1, 0, 0, 0, BIG.size)
    assert [headers["range"] for kind, headers in kept if kind == "annotations"] == ["bytes=0-32767"]


WITH_ACL = SMALL._replace(policy=Policy(acl="preserve"))


def test_an_acl_that_is_preserved_is_there_when_the_object_is_and_costs_one_request() -> None:
    store = FakeS3.of([BIG])
    store.multipart.acls["big"] = ACL
    told = carry(store, [BIG], WITH_ACL)

    headers = store.multipart.made["big"].headers
    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert GRANTS.items() <= headers.items()
    assert "x-amz-acl" not in headers
    assert store.multipart.asked.count("acl") == 1


def test_an_acl_of_an_object_that_is_begun_anew_is_read_anew() -> None:
    store = FakeS3.of([BIG])
    store.multipart.acls["big"] = ACL

    def between(task: Task) -> None:
        if isinstance(task, PartTask) and not task.restarts:
            store.multipart.uploads.clear()  # somebody has aborted it

    told = carry(store, [BIG], WITH_ACL, between=between)

    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert store.multipart.asked.count("acl") == 2
    assert GRANTS.items() <= store.multipart.made["big"].headers.items()


@pytest.mark.parametrize("kind", ["acl", "get_tags"])
def test_an_object_about_which_something_may_not_be_read_is_a_failure_and_nothing_of_it_is_left(kind: str) -> None:
    store = FakeS3.of([BIG])
    store.multipart.acls["big"] = ACL
    store.multipart.rule = lambda asked, _: DENIED if asked == kind else None
    told = carry(store, [BIG, item("small")], SMALL._replace(policy=Policy(acl="preserve" if kind == "acl" else "")))

    assert [(failure.key, failure.code) for failure in told.failures if failure.key == "big"] == [("big", "AccessDenied")]
    assert "begin" not in store.multipart.asked


@pytest.mark.parametrize("kind", ["acl", "get_tags"])
def test_what_is_gone_has_vanished_even_where_that_is_told_as_a_denial(kind: str) -> None:
    store = FakeS3.of([BIG])

    def rule(asked: str, _number: int) -> Response | None:
        if asked == kind:
            store.objects.clear()
            return DENIED
        return None

    store.multipart.acls["big"] = ACL
    store.multipart.rule = rule
    told = carry(store, [BIG], WITH_ACL)

    assert told.ends == (0, 0, 1, 0, 0)


def test_a_probe_proves_that_an_acl_may_be_kept() -> None:
    store = FakeS3.of([BIG])
    store.multipart.acls["big"] = ACL
    kept = requests_of(store)

    async def main() -> list[Outcome | Failed]:
        good = await Copier(store.client(), Pace(), full_jitter(lambda: 0.5)).probe(WITH_ACL, [BIG])
        store.multipart.rule = lambda asked, _: DENIED if asked == "acl" else None
        return [good, await Copier(store.client(), Pace(), full_jitter(lambda: 0.5)).probe(WITH_ACL, [BIG])]

    good, bad = run(main())
    assert good == Outcome(Counts(uploads=1), (), (BIG,))
    assert GRANTS.items() <= next(headers for kind, headers in kept if kind == "begin").items()
    assert isinstance(bad, Failed)
    assert bad.fault.code == "AccessDenied"


def test_every_request_says_who_pays_and_whose_the_buckets_are() -> None:
    policy = Policy(tags="drop", request_payer=True, source_owner="1" * 12, destination_owner="2" * 12)
    store = FakeS3.of([BIG])
    store.multipart.tags["big"] = (("old", "tag"),)
    store.multipart.annotations["big"] = {"note": "x"}
    kept = requests_of(store)
    carry(store, [BIG], SMALL._replace(policy=policy, overwrite=False))

    of_source, of_both = (
        {"head", "annotations", "get_annotation"},
        {"look", "begin", "part", "list", "complete", "put_annotation"},
    )
    assert {kind for kind, _ in kept} == of_source | of_both
    for kind, headers in kept:
        assert headers["x-amz-request-payer"] == "requester"
        assert headers["x-amz-expected-bucket-owner"] == (
            policy.source_owner if kind in of_source else policy.destination_owner
        )
        assert headers.get("x-amz-source-expected-bucket-owner") == (policy.source_owner if kind == "part" else None)


def test_a_task_that_waits_for_others_hands_itself_on_when_it_is_told_to() -> None:
    store, sent = FakeS3.of([BIG]), Queue()
    attempt(store, CopyTask("root.0", SMALL, (BIG,)), Attempt(1, "a"), sent, SLICE_SECONDS)
    task = next(task for task in sent.accepted if isinstance(task, PartTask) and task.reports)
    rest = Queue()

    async def main() -> tuple[Done, float]:
        pauses = full_jitter(lambda: 0.5)
        s3 = store.client()
        copier = Copier(s3, Pace(), pauses)
        worker = Worker(s3, copier, pauses)
        began = aio.get_running_loop().time()
        working = aio.create_task(worker.work(task, Attempt(1, "b"), Budget(began + SLICE_SECONDS), rest))
        await aio.sleep(10)  # its own parts are there long since
        await worker.hand_on(1)
        done = await working
        await copier.stop()
        return done, aio.get_running_loop().time() - began

    done, seconds = run(main())

    assert seconds < 17
    assert (done.children, done.counts.part_bytes) == (1, BIG.size - 80 * 10)
    assert [part._replace(id="", reported_bytes=0) for part in rest.accepted if isinstance(part, PartTask)] == [
        task._replace(id="")
    ]


def test_tags_that_a_store_does_not_take_with_an_upload_are_given_afterwards() -> None:
    store = FakeS3.of([BIG])
    store.multipart.tags["big"], store.multipart.takes_tags = (("a<b", "x y"), ("b", "")), False
    told = carry(store, [BIG])

    assert told.counts.copied == 1
    assert store.multipart.made["big"].tags == (("a<b", "x y"), ("b", ""))


def test_tags_that_are_too_long_for_a_header_are_given_afterwards() -> None:
    store = FakeS3.of([BIG])
    store.multipart.tags["big"] = tuple((f"{n}{'é' * 120}", "日" * 256) for n in range(10))
    told = carry(store, [BIG])

    assert told.counts.copied == 1
    assert "x-amz-tagging" not in store.multipart.made["big"].headers
    assert store.multipart.made["big"].tags == store.multipart.tags["big"]
    assert store.multipart.asked.count("get_tags") == 1  # of the source: who may not look at the copy's gives them, too


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({"x-amz-checksum-crc64nvme": "x", "x-amz-checksum-type": "FULL_OBJECT"}, ("CRC64NVME", "FULL_OBJECT")),
        ({"x-amz-checksum-sha256": "x", "x-amz-checksum-type": "FULL_OBJECT"}, ("SHA256", "COMPOSITE")),
        ({"x-amz-checksum-crc32": "x-3", "x-amz-checksum-type": "COMPOSITE"}, ("CRC32", "COMPOSITE")),
        ({"x-amz-checksum-xxhash3": "x", "x-amz-checksum-type": "FULL_OBJECT"}, ("XXHASH3", "COMPOSITE")),
        ({"x-amz-checksum-crc64nvme": "x"}, ("CRC64NVME", "FULL_OBJECT")),
        ({}, (None, None)),
    ],
)
def test_the_kind_of_checksum_is_kept(told: dict[str, str], wanted: tuple[str | None, str | None]) -> None:
    store = FakeS3.of([BIG])
    store.multipart.headers["big"] = told
    carry(store, [BIG])

    headers = store.multipart.made["big"].headers
    assert (headers.get("x-amz-checksum-algorithm"), headers.get("x-amz-checksum-type")) == wanted


def test_metadata_that_no_header_can_hold_is_not_dropped_silently() -> None:
    store = FakeS3.of([BIG])
    store.multipart.headers["big"] = {"x-amz-missing-meta": "2"}
    told = carry(store, [BIG])

    assert [failure.code for failure in told.failures] == ["MissingMetadata"]
    assert store.multipart.uploads == {}


def test_the_etag_keeps_its_form_where_the_source_tells_its_parts() -> None:
    it = Item("big", 1000, "0" * 32 + "-4")
    store = FakeS3.of([it])
    store.multipart.part_sizes["big"] = 300
    carry(store, [it])

    assert store.multipart.made["big"].etag.endswith("-4")
    assert store.multipart.asked.count("head") == 1


def test_parts_have_the_size_that_is_asked_for_where_the_source_had_parts_of_several() -> None:
    it = Item("big", 1000, "0" * 32 + "-7")
    store = FakeS3.of([it])
    store.multipart.part_sizes["big"] = 300
    store.multipart.headers["big"] = {"x-amz-mp-parts-count": "7"}
    carry(store, [it])

    assert store.multipart.made["big"].etag.endswith("-100")


def test_a_store_that_knows_no_part_numbers_is_asked_without() -> None:
    it = Item("big", 1000, "0" * 32 + "-7")
    store = FakeS3.of([it])
    store.multipart.faults["head"] = [error(501, "NotImplemented")]
    told = carry(store, [it])

    assert told.counts.copied == 1
    assert store.multipart.asked.count("head") == 2


def test_a_part_once_copied_is_not_copied_again_by_another_attempt() -> None:
    store = FakeS3.of([BIG])
    told = carry(store, [BIG], kills=lambda number: number in (2, 3, 4))

    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert max(store.multipart.copies.values()) == 1
    assert told.counts.part_bytes == told.counts.ended_part_bytes == BIG.size


def test_after_minutes_without_a_store_every_large_object_is_begun() -> None:
    found = [item(f"big{n:02}", 500) for n in range(12)]
    store = FakeS3.of(found)
    store.multipart.rule = lambda *_: UNAVAILABLE if aio.get_running_loop().time() < 120.0 else None

    told = Queue()

    done = attempt(store, CopyTask("root.0", SMALL, tuple(found)), Attempt(1, "a"), told, float("inf"))

    assert done.failures == ()
    assert {task.item for task in told.accepted if isinstance(task, PartTask)} == {*found}


def test_what_there_is_no_time_for_is_handed_on() -> None:
    store = FakeS3.of([BIG], copy_seconds={"big": 1.0})
    told = carry(store, [BIG], seconds=3.0)

    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert len(told.tasks) > 4
    assert told.counts.part_bytes == told.counts.ended_part_bytes == BIG.size
    assert store.multipart.uploads == {}


def test_the_task_that_reports_sees_to_the_parts_of_others_that_died() -> None:
    store = FakeS3.of([BIG])

    def between(task: Task) -> None:
        is_helper = isinstance(task, PartTask) and not task.reports
        store.multipart.rule = lambda kind, _: error(400, "ExpiredToken") if is_helper and kind == "list" else None

    told = carry(store, [BIG], between=between)

    assert told.counts.copied == 1
    assert {(task.first, task.last) for task in told.dead if isinstance(task, PartTask)} == {(1, 40), (41, 80)}
    assert store.multipart.uploads == {}


def test_an_object_whose_reporting_task_dies_is_among_what_died() -> None:
    store = FakeS3.of([BIG])
    store.multipart.rule = lambda kind, _: UNAVAILABLE if kind == "complete" else None
    told = carry(store, [BIG])

    assert [task.items for task in told.dead if isinstance(task, PartTask) and task.items] == [(BIG,)]
    assert told.ends == (0, 0, 0, 0, 0)


def test_a_completion_whose_answer_was_lost_counts_once() -> None:
    store = FakeS3.of([BIG])
    complete = store.multipart._complete

    def lose(*arguments: object) -> object:
        complete(*arguments)  # type: ignore[arg-type]
        raise TimeoutError("lost")

    store.multipart._complete = lose  # type: ignore[method-assign,assignment]
    told = carry(store, [BIG])

    assert told.ends == (1, 0, 0, 0, BIG.size)


def test_an_attempt_that_died_after_it_completed_counts_once() -> None:
    store = FakeS3.of([BIG])
    told = carry(store, [BIG], kills=lambda number: number == 4)

    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert store.multipart.asked.count("complete") == 1


def test_an_upload_that_somebody_aborted_is_begun_anew() -> None:
    store = FakeS3.of([BIG])
    aborted: list[str] = []

    def between(task: Task) -> None:
        if isinstance(task, PartTask) and task.reports and not aborted:
            aborted.extend(store.multipart.uploads)
            store.multipart.uploads.clear()

    told = carry(store, [BIG], between=between)

    assert aborted
    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert told.counts.uploads == 2


def test_an_object_that_is_begun_anew_again_and_again_is_given_up() -> None:
    store = FakeS3.of([BIG])

    def between(task: Task) -> None:
        if isinstance(task, PartTask):
            store.multipart.uploads.clear()

    told = carry(store, [BIG], between=between)

    assert told.counts.copied == 0
    assert [task.items for task in told.dead if isinstance(task, Copying)] == [(BIG,)]


def test_what_another_has_put_there_is_not_taken_for_the_upload_that_is_gone() -> None:
    store = FakeS3.of([BIG], copied={"big": Item("big", BIG.size, "f" * 32 + "-96")})  # written long ago
    gone: list[str] = []

    def between(task: Task) -> None:
        if isinstance(task, PartTask) and not gone:
            gone.extend(store.multipart.uploads)
            store.multipart.uploads.clear()

    told = carry(store, [BIG], between=between)

    assert told.counts.copied == 1
    assert told.counts.uploads == 2


@pytest.mark.parametrize("step", ["head", "part"])
def test_an_object_that_has_changed_is_copied_as_it_is_now(step: str) -> None:
    store, now = FakeS3.of([BIG]), BIG._replace(etag="f" * 32)

    def rule(kind: str, _: int) -> None:
        if kind == step:
            store.objects["big"] = now

    store.multipart.rule = rule
    told = carry(store, [BIG])

    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert {task.item.etag for task in told.tasks if isinstance(task, PartTask)} >= {now.etag}
    assert store.multipart.uploads == {}
    assert told.counts.bytes_under_way == 0


@pytest.mark.parametrize("step", ["head", "part"])
def test_an_object_that_changes_all_the_time_is_a_failure_and_nothing_of_it_is_left(step: str) -> None:
    store = FakeS3.of([BIG])
    changes = count(1)

    def rule(kind: str, _: int) -> None:
        if kind == step:
            store.objects["big"] = BIG._replace(etag=f"{next(changes):032x}")

    store.multipart.rule = rule
    told = carry(store, [BIG])

    assert told.ends == (0, 0, 0, 1, 0)
    assert [(failure.key, failure.code) for failure in told.failures] == [("big", "PreconditionFailed")]
    assert store.multipart.uploads == {}
    assert told.counts.bytes_under_way == 0


@pytest.mark.parametrize("step", ["head", "part"])
def test_an_object_that_is_gone_has_vanished(step: str) -> None:
    store = FakeS3.of([BIG])

    def rule(kind: str, _: int) -> None:
        if kind == step:
            store.objects.pop("big", None)

    store.multipart.rule = rule
    told = carry(store, [BIG])

    assert told.ends == (0, 0, 1, 0, 0)
    assert store.multipart.uploads == {}


@pytest.mark.parametrize("code", ["InvalidObjectState", "AccessDenied"])
def test_a_part_that_cannot_be_copied_ends_its_object_with_the_cause(code: str) -> None:
    store = FakeS3.of([BIG])
    store.multipart.rule = lambda kind, number: error(403, code, "no") if kind == "part" and number == 90 else None
    told = carry(store, [BIG])

    assert told.failures == [Failure("big", BIG.size, code, "no")]
    assert store.multipart.uploads == {}


PASSING: list[Scripted] = [SLOW_DOWN, UNAVAILABLE, TimeoutError("late")]
INSIDE = error(200, "InternalError")  # where S3 answers before it knows


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *((kind, fault) for kind in ("head", "begin", "list", "part", "complete", "get_tags") for fault in PASSING),
        ("part", INSIDE),
        ("complete", INSIDE),
    ],
)
def test_faults_that_pass_are_asked_again(kind: str, fault: Scripted) -> None:
    store = FakeS3.of([BIG])
    store.multipart.tags["big"] = (("a", "b"),)
    store.multipart.faults[kind] = [fault, fault]
    told = carry(store, [BIG])

    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert told.counts.retries >= 1


def test_a_bucket_that_is_gone_stops_the_run() -> None:
    store = FakeS3.of([BIG])
    store.multipart.rule = lambda kind, _: error(404, "NoSuchBucket") if kind == "begin" else None
    with pytest.raises(Stop):
        carry(store, [BIG])


def test_a_denial_before_anything_was_copied_may_pass() -> None:
    store = FakeS3.of([BIG])
    store.multipart.faults["begin"] = [DENIED, DENIED]
    told = carry(store, [BIG])

    assert told.counts.copied == 1


def test_a_denial_that_lasts_is_a_failure_of_its_object() -> None:
    store = FakeS3.of([BIG, item("small")])
    store.multipart.rule = lambda kind, _: DENIED if kind == "begin" else None
    told = carry(store, [BIG, item("small")])

    assert told.failures == [Failure("big", BIG.size, "AccessDenied", "Access Denied")]
    assert told.counts.copied == 1


def test_what_exists_is_skipped_before_a_byte_is_copied() -> None:
    store = FakeS3.of([BIG], copied={"big": item("big")})
    told = carry(store, [BIG], SMALL._replace(overwrite=False))

    assert told.ends == (0, 1, 0, 0, 0)
    assert store.multipart.asked == ["look"]


def test_what_comes_to_exist_meanwhile_is_not_overwritten() -> None:
    store = FakeS3.of([BIG])

    def between(task: Task) -> None:
        if isinstance(task, PartTask) and task.reports:
            store.copied["big"] = item("big")

    told = carry(store, [BIG], SMALL._replace(overwrite=False), between=between)

    assert told.ends == (0, 1, 0, 0, 0)
    assert store.multipart.uploads == {}
    assert store.multipart.made == {}


def test_where_the_destination_may_not_be_listed_the_completion_tells_what_exists() -> None:
    store = FakeS3.of([BIG])
    store.multipart.rule = lambda kind, _: DENIED if kind == "look" else None
    told = carry(store, [BIG], SMALL._replace(overwrite=False))

    assert told.failures == [] or told.ends == (1, 0, 0, 0, BIG.size)


def test_an_object_without_an_etag_is_pinned_to_the_version_that_is_there() -> None:
    store = FakeS3.of([BIG])
    told = carry(store, [Item("big", 500, "")])

    assert told.ends == (1, 0, 0, 0, BIG.size)
    assert store.multipart.made["big"].version == BIG.etag


TOO_LARGE = error(
    400, "InvalidRequest", "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
)


WITH_CLASS = SMALL._replace(policy=Policy(storage_class="preserve"))
NAMED = [Item("big", 0, ""), Item("small", 0, "")]


@pytest.mark.parametrize(("job", "tries"), [(SMALL, 1), (WITH_CLASS, 0)])
def test_an_object_whose_size_nobody_told_is_copied_by_parts_once_it_proves_too_large(job: Job, tries: int) -> None:
    store = FakeS3.of([BIG, item("small")])
    store.copy_rule = lambda key, _: TOO_LARGE if key == "big" else None
    told = carry(store, NAMED, job)

    assert told.ends[:4] == (2, 0, 0, 0)
    assert store.multipart.made["big"].version == BIG.etag
    assert store.copy_requests["big"] == tries


@pytest.mark.parametrize("job", [SMALL, WITH_CLASS])
def test_a_probe_leaves_such_an_object_to_a_task_as_it_is_known_then(job: Job) -> None:
    store = FakeS3.of([BIG, item("small")])
    store.copy_rule = lambda key, _: TOO_LARGE if key == "big" else None

    async def main() -> Outcome | Failed:
        return await Copier(store.client(), Pace(), full_jitter(lambda: 0.5)).probe(job, NAMED)

    outcome = run(main())
    assert isinstance(outcome, Outcome)
    assert outcome.counts.copied == 0
    assert [it.size for it in outcome.rest] == [BIG.size, 0]
    assert store.multipart.uploads == {}


def test_an_object_that_has_become_empty_is_copied_all_the_same() -> None:
    store = FakeS3.of([item("big", 0)])
    told = carry(store, [Item("big", 500, "")])

    assert told.counts.copied == 1
    assert store.copied["big"].size == 0


def test_many_pages_of_parts_are_read() -> None:
    store = FakeS3.of([BIG])
    store.multipart.page_parts = 7
    told = carry(store, [BIG], kills=lambda number: number in (2, 3))

    assert told.counts.copied == 1
    assert max(store.multipart.copies.values()) == 1


def test_an_object_larger_than_any_is_a_failure() -> None:
    it = item("big", parts.MAX_OBJECT_BYTES + 1)
    told = carry(FakeS3.of([it]), [it])

    assert [failure.code for failure in told.failures] == ["EntityTooLarge"]


def test_a_part_that_is_of_another_upload_than_it_seems_does_not_complete_it() -> None:
    store = FakeS3.of([BIG])
    store.multipart.faults["complete"] = [error(400, "InvalidPart")]
    told = carry(store, [BIG])

    assert told.ends == (1, 0, 0, 0, BIG.size)


def test_a_probe_proves_the_right_to_copy_by_parts_and_leaves_the_object_to_a_task() -> None:
    store = FakeS3.of([BIG, item("small")])

    async def main() -> Outcome | Failed:
        return await Copier(store.client(), Pace(), full_jitter(lambda: 0.5)).probe(SMALL, [BIG, item("small")])

    assert run(main()) == Outcome(Counts(uploads=1), (), (BIG, item("small")))
    assert store.multipart.asked == ["head", "get_tags", "annotations", "begin", "part", "abort"]
    assert store.multipart.uploads == {}


@pytest.mark.parametrize("kind", ["head", "get_tags", "begin", "part"])
def test_a_probe_that_may_not_copy_by_parts_says_so(kind: str) -> None:
    store = FakeS3.of([BIG])
    store.multipart.rule = lambda asked, _: DENIED if asked == kind else None

    async def main() -> Outcome | Failed:
        return await Copier(store.client(), Pace(), full_jitter(lambda: 0.5)).probe(SMALL, [BIG])

    failed = run(main())
    assert isinstance(failed, Failed)
    assert failed.fault.code in ("AccessDenied", "HTTP 403")


def test_a_probe_leaves_tags_that_may_come_to_be_read_to_the_task() -> None:
    store = FakeS3.of([BIG])
    store.multipart.rule = lambda asked, _: UNAVAILABLE if asked == "get_tags" else None

    async def main() -> Outcome | Failed:
        return await Copier(store.client(), Pace(), full_jitter(lambda: 0.5)).probe(SMALL, [BIG])

    assert run(main()) == Outcome(Counts(uploads=1), (), (BIG,))


def test_a_probe_passes_over_a_large_object_that_is_denied() -> None:
    store = FakeS3.of([BIG, item("small")])
    store.multipart.rule = lambda kind, _: DENIED if kind == "part" else None

    async def main() -> Outcome | Failed:
        return await Copier(store.client(), Pace(), full_jitter(lambda: 0.5)).probe(SMALL, [BIG, item("small")])

    outcome = run(main())
    assert isinstance(outcome, Outcome)
    assert (outcome.counts.copied, outcome.counts.failed, outcome.rest) == (1, 1, ())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_passes_goes_wrong_each_object_counts_once_and_no_upload_is_left_that_a_task_knows(
    data: st.DataObject,
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 1500), min_size=1, max_size=4))
    found = [item(f"k{n}", size) for n, size in enumerate(sizes)]
    store = FakeS3.of(found)
    store.multipart.annotations["k0"] = {"a": "1", "b": "2"}
    deaths = data.draw(st.sets(st.integers(1, 12), max_size=4))
    kinds = ["head", "begin", "list", "part", "complete", "look", "annotations", "get_annotation", "put_annotation"]
    for kind in data.draw(st.sets(st.sampled_from(kinds))):
        possible = [*PASSING, INSIDE] if kind in ("part", "complete") else PASSING
        store.multipart.faults[kind] = data.draw(st.lists(st.sampled_from(possible), max_size=4))
    told = carry(
        store,
        found,
        seconds=data.draw(st.sampled_from([2.0, 10.0, 90.0])),
        kills=lambda number: number in deaths,
        order=lambda queue: queue.rotate(data.draw(st.integers(0, 3))),
    )

    sizes_of = {it.key: it.size for it in found}
    assert told.dead == []
    assert told.ends == (len(found), 0, 0, 0, sum(sizes))
    assert told.counts.bytes_under_way == 0
    there = {**{key: it.size for key, it in store.copied.items()}, **{key: it.size for key, it in store.multipart.made.items()}}
    assert there == sizes_of
    if "k0" in store.multipart.made:
        assert {*store.multipart.made["k0"].annotations} == {"a", "b"}

"""What every engine must do, whatever it runs tasks on. An engine that is added is added to ENGINES, and passes all of this."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import boto3
import pytest

from s3bulkcopy.aws.preflight import look, preflight
from s3bulkcopy.aws.session import AwsSession
from s3bulkcopy.aws.stack import new_run_id
from s3bulkcopy.demo import AWKWARD_KEYS, Store
from s3bulkcopy.emulator import REGION, Emulator
from s3bulkcopy.engines.awslambda import LambdaEngine
from s3bulkcopy.engines.local import LocalEngine
from s3bulkcopy.settings import AwsSettings, BucketPrefix, CopySettings, LocalSettings, StackSettings
from s3bulkcopy.worker.filters import Filter
from s3bulkcopy.worker.keyspace import fan_out
from s3bulkcopy.worker.model import ARCHIVED, CopyTask, Counts, Done, Event, Failure, Fatal, Item, ListTask, Range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s3bulkcopy.engines import Engine

#: Longest that an event may take to come, in seconds.
PATIENCE_SECONDS = 60.0


def silently(_text: str) -> None:
    """Hear nothing of what is done."""


@contextmanager
def lambda_engine(emulator: Emulator, source: str, destination: str) -> Iterator[Engine]:
    """The lambda engine on an emulator."""
    settings = AwsSettings(REGION, None, emulator.url)
    session = AwsSession(settings)
    job = CopySettings(BucketPrefix(source), BucketPrefix(destination))
    found = preflight(session, settings, job, new_run_id(time.time(), "k3f9xa"))
    engine = LambdaEngine(
        session,
        found,
        StackSettings(),
        version="0",
        created="",
        say=silently,
        detail=silently,
        sleep=time.sleep,
        rest=time.sleep,
        clock=time.monotonic,
    )
    with engine:
        yield engine


@contextmanager
def local_engine(emulator: Emulator, source: str, destination: str) -> Iterator[Engine]:
    """The local engine, with an emulator for a store."""
    session = AwsSession(AwsSettings(REGION, None, emulator.url))
    found = look(session, CopySettings(BucketPrefix(source), BucketPrefix(destination)), new_run_id(time.time(), "k3f9xa"))
    engine = LocalEngine(
        found.job,
        LocalSettings(processes=2),
        credentials=session.credentials,
        renewed_credentials=session.renewed_credentials,
        ca_file=session.ca_file,
        say=silently,
        check=lambda: None,
        clock=time.monotonic,
    )
    with engine:
        yield engine


ENGINES = [lambda_engine, local_engine]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """An emulator that engines and tests speak to."""
    with pytest.MonkeyPatch.context() as patch, Emulator() as running:
        patch.delenv("AWS_PROFILE", raising=False)
        for name, value in running.variables.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(params=ENGINES)
def made(request: pytest.FixtureRequest, emulator: Emulator) -> Iterator[tuple[Engine, Store, str, str]]:
    """An engine for a job, the store, and the job's two buckets, of which the first holds every awkward key."""
    store = Store(emulator.url)
    stem = f"c{abs(hash(request.node.nodeid)):x}"
    source, destination = f"{stem}-src", f"{stem}-dst"
    for bucket in (source, destination):
        store.make(bucket)
    store.fill(source, iter(AWKWARD_KEYS))
    with request.param(emulator, source, destination) as engine:
        yield engine, store, source, destination


def events_until(engine: Engine, enough: Callable[[list[Event]], bool], *, ack: bool = True) -> list[Event]:
    """Poll until there are enough events."""
    events: list[Event] = []
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not enough(events):
        assert time.monotonic() < give_up_at, events
        events += engine.poll(1.0)
        if ack:
            engine.ack()
    return events


def test_a_task_is_worked_on_with_all_its_children_and_each_reports(made: tuple[Engine, Store, str, str]) -> None:
    engine, store, source, destination = made

    engine.submit([ListTask("run.1", engine.job, (Range("", None),))])
    events = events_until(engine, lambda seen: sum(e.counts.copied for e in seen if isinstance(e, Done)) == len(AWKWARD_KEYS))

    (root,) = (e for e in events if isinstance(e, Done) and e.id == "run.1")
    assert root.counts.listed == len(AWKWARD_KEYS)
    children = {e.id for e in events if isinstance(e, Done)} - {"run.1"}
    assert children == {f"{root.attempt.nonce}.{n}" for n in range(root.children)}
    assert store.items(destination) == store.items(source)


def test_keys_that_share_one_deep_prefix_are_listed_by_several_workers(made: tuple[Engine, Store, str, str]) -> None:
    engine, store, source, _ = made
    prefix = "all/in/one/place/"
    store.fill(source, (f"{prefix}{n % 16:x}/{n:05}" for n in range(6000)))
    names = sorted(key for key in store.items(source) if key.startswith(prefix))
    job = engine.job._replace(dry=True, source=engine.job.source._replace(prefix=prefix))
    roots = [ListTask(f"run.{n}", job, (piece,)) for n, piece in enumerate(fan_out(prefix, names[:1000], ""))]

    # Neighbours are in different messages of the queue's batches, so that no worker is given all that hold keys.
    engine.submit([root for start in range(13) for root in roots[start::13]])
    events = events_until(engine, lambda seen: {root.id for root in roots} <= {e.id for e in seen if isinstance(e, Done)})

    listed = [event for event in events if isinstance(event, Done) and event.counts.listed]
    assert sum(event.counts.listed for event in listed) == len(names)
    assert len({event.attempt.nonce[:8] for event in listed}) >= 2  # what an environment's nonces begin with


def test_proving_copies_a_first_object_and_says_so(made: tuple[Engine, Store, str, str]) -> None:
    engine, store, source, destination = made
    first = [*store.items(source).values()][:3]

    proof = engine.prove("run.0", first)

    (event,) = proof.events
    assert isinstance(event, Done)
    assert (event.id, event.counts.copied, proof.taken) == ("run.0", 1, 1)
    assert list(store.items(destination)) == [first[0].key]


def test_proving_without_objects_copies_nothing_and_says_so(made: tuple[Engine, Store, str, str]) -> None:
    engine, store, _, destination = made

    proof = engine.prove("run.0", [])

    (event,) = proof.events
    assert isinstance(event, Done)
    assert (event.counts.copied, event.counts.failed, proof.taken) == (0, 0, 0)
    assert not store.items(destination)


def test_each_object_of_a_task_ends_in_its_own_way(made: tuple[Engine, Store, str, str]) -> None:
    engine, store, source, destination = made
    store.fill(source, iter(["in/", "in/a"]))
    now = store.items(source)["in/a"]
    changed = Item("in/a", now.size + 1, "00000000000000000000000000000000")
    job = engine.job._replace(source=engine.job.source._replace(prefix="in/"))

    engine.submit([CopyTask("run.1", job, (changed, Item("in/gone", 1, "x"), Item("in/", 1, "x")))])
    (event,) = events_until(engine, lambda seen: any(isinstance(e, Done) for e in seen))

    assert isinstance(event, Done)
    assert [(f.key, f.code) for f in event.failures] == [("in/", "EmptyKey")]
    assert (event.counts.failed, event.counts.vanished, event.counts.copied) == (1, 1, 1)
    assert (event.counts.copied_bytes, list(store.items(destination))) == (now.size, ["a"])


def test_a_filter_and_archived_objects_are_heeded_and_told_of(made: tuple[Engine, Store, str, str], emulator: Emulator) -> None:
    engine, store, source, destination = made
    s3 = boto3.client("s3", endpoint_url=emulator.url, region_name=REGION)
    s3.put_object(Bucket=source, Key="to/copy", Body=b"1")
    s3.put_object(Bucket=source, Key="to/thaw", Body=b"22", StorageClass="DEEP_ARCHIVE")
    s3.put_object(Bucket=source, Key="to/leave", Body=b"333")
    job = engine.job._replace(filter=Filter(("+to/*", "-*leave"), storage_classes=("STANDARD", "DEEP_ARCHIVE")))

    engine.submit([ListTask("run.1", job, (Range("", None),))])
    events = events_until(engine, lambda seen: len([e for e in seen if isinstance(e, Done)]) >= 3)

    counts = sum((event.counts for event in events if isinstance(event, Done)), Counts())
    assert counts._replace(copy_requests=0) == Counts(
        listed=2, listed_bytes=3, copied=1, copied_bytes=1, skipped=1, archived=1, filtered=1, pages=1
    )
    failures = [failure for event in events if isinstance(event, Done) for failure in event.failures]
    assert failures == [Failure("to/thaw", 2, ARCHIVED, "in DEEP_ARCHIVE, and not restored")]
    assert list(store.items(destination)) == ["to/copy"]


def test_a_large_object_is_copied_by_parts_and_its_upload_is_completed(
    made: tuple[Engine, Store, str, str], emulator: Emulator
) -> None:
    engine, store, source, destination = made
    client = boto3.client("s3", endpoint_url=emulator.url, region_name=REGION)
    content = bytes(range(256)) * 400
    words = {"ContentType": "text/x", "CacheControl": "no-cache", "Metadata": {"a": "b  c"}, "Tagging": "one=1&two=x%20y"}
    client.put_object(Bucket=source, Key="large/ø &%+", Body=content, **words)
    client.put_object_annotation(Bucket=source, Key="large/ø &%+", AnnotationName="note", AnnotationPayload="ø".encode())
    item = store.items(source)["large/ø &%+"]
    job = engine.job._replace(multipart_bytes=1000, part_bytes=300)

    engine.submit([CopyTask("run.1", job, (item,))])
    events = events_until(engine, lambda seen: any(isinstance(e, Done) and e.counts.copied for e in seen))

    (root,) = (e for e in events if isinstance(e, Done) and e.id == "run.1")
    assert (root.children, root.counts.uploads) == (2, 1)  # 342 parts
    there = client.get_object(Bucket=destination, Key="large/ø &%+")
    assert there["Body"].read() == content
    assert there["ETag"].endswith('-342"')
    assert (there["ContentType"], there["CacheControl"], there["Metadata"]) == ("text/x", "no-cache", {"a": "b  c"})
    tags = client.get_object_tagging(Bucket=destination, Key="large/ø &%+")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"one": "1", "two": "x y"}
    note = client.get_object_annotation(Bucket=destination, Key="large/ø &%+", AnnotationName="note")
    assert note["AnnotationPayload"].read().decode() == "ø"
    assert "Uploads" not in client.list_multipart_uploads(Bucket=destination)


def test_a_bucket_that_is_elsewhere_is_followed_to_its_region(made: tuple[Engine, Store, str, str], emulator: Emulator) -> None:
    engine, _, _, _ = made
    where = "eu-central-1"
    client = boto3.client("s3", endpoint_url=emulator.url, region_name=where)
    names = [f"elsewhere-{engine.name}-{side}" for side in ("a", "b")]
    for name in names:
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": where})
        client.delete_public_access_block(Bucket=name)
        allow = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [f"arn:aws:s3:::{name}{end}" for end in ("", "/*")],
        }
        client.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    for key, size in (("a", 10), ("b", 20), ("large", 2000)):
        client.put_object(Bucket=names[0], Key=key, Body=b"x" * size)
    here, there = (
        place._replace(bucket=name, url=place.url.replace(place.bucket, name))
        for place, name in zip((engine.job.source, engine.job.destination), names, strict=True)
    )
    job = engine.job._replace(source=here, destination=there, multipart_bytes=1000, part_bytes=300)

    engine.submit([ListTask("run.1", job, (Range("", None),))])
    events = events_until(engine, lambda seen: sum(e.counts.copied for e in seen if isinstance(e, Done)) == 3)

    assert {place.region for place in (here, there)} == {REGION} != {where}
    assert sum((e.counts for e in events if isinstance(e, Done)), Counts()).failed == 0
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=names[1])["Contents"]] == ["a", "b", "large"]


def test_a_bucket_that_is_gone_is_fatal(made: tuple[Engine, Store, str, str], emulator: Emulator) -> None:
    engine, _, _, destination = made
    boto3.client("s3", endpoint_url=emulator.url, region_name=REGION).delete_bucket(Bucket=destination)

    engine.submit([CopyTask("run.1", engine.job, (Item("a key", 1, '"x"'),))])
    events = events_until(engine, lambda seen: any(isinstance(e, Fatal) for e in seen))

    assert {(e.id, e.kind) for e in events if isinstance(e, Fatal)} == {("run.1", "not_found")}


def test_once_it_has_settled_nothing_is_written_any_more(made: tuple[Engine, Store, str, str]) -> None:
    engine, store, source, destination = made
    items = tuple(store.items(source).values())
    engine.submit([CopyTask(f"run.{n}", engine.job, (item,)) for n, item in enumerate(items)])
    events_until(engine, lambda seen: any(isinstance(e, Done) for e in seen))

    engine.settle()
    there = store.items(destination)
    reported = {e.id for e in engine.poll(1.0)}

    assert there
    assert store.items(destination) == there
    assert not [e for e in engine.poll(1.0) if e.id not in reported]

"""Large objects: an object of a thousand parts is copied whole and once, whoever is killed meanwhile, and no upload stays."""

from __future__ import annotations

import contextlib
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.e2e.conftest import Ended, deny
from tests.e2e.test_run import run_id_of as lines_of
from tests.e2e.test_run import wait_for

if TYPE_CHECKING:
    from subprocess import Popen

    from tests.e2e.conftest import Cloud

KEY = "large/ø &%+ object"

PARTS, PART_BYTES = 1000, 2048

#: Real bytes, none of which are like those of another part; the last part is shorter.
CONTENT = random.Random(6).randbytes(PARTS * PART_BYTES - 5)  # noqa: S311 - the same each time

#: Sizes that S3 would not take, so that an emulator can hold an object of so many parts; and a rate at which they take a while.
TINY = {"S3BULKCOPY_TINY_PARTS": "1"}
OPTIONS = ("--multipart-threshold", "100000", "--part-size", str(PART_BYTES), "--output", "json")

WORDS = {
    "ContentType": "text/x; charset=utf-8",
    "CacheControl": "max-age=60",
    "ContentDisposition": 'attachment; filename="a  b"',
    "ContentLanguage": "de",
    "Metadata": {"one": "1", "two": "a  b"},
}
TAGS = {"project": "x y/z", "empty": ""}
ANNOTATIONS = {"lineage.json": '{"from": "ø"}', "summary": "<two>  blanks & more"}


@pytest.fixture
def filled(cloud: Cloud, buckets: tuple[str, str]) -> tuple[str, str]:
    """A source with an object that was put in a thousand parts, and a few small ones."""
    s3, source = cloud.client("s3"), buckets[0]
    cloud.store.fill(source, iter(["a", "b", "z"]))
    name = s3.create_multipart_upload(Bucket=source, Key=KEY, **WORDS)["UploadId"]

    def put(number: int) -> dict[str, Any]:
        body = CONTENT[(number - 1) * PART_BYTES : number * PART_BYTES]
        answer = s3.upload_part(Bucket=source, Key=KEY, UploadId=name, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    with ThreadPoolExecutor(8) as pool:
        parts = [*pool.map(put, range(1, PARTS + 1))]
    s3.complete_multipart_upload(Bucket=source, Key=KEY, UploadId=name, MultipartUpload={"Parts": parts})
    s3.put_object_tagging(
        Bucket=source, Key=KEY, Tagging={"TagSet": [{"Key": key, "Value": value} for key, value in TAGS.items()]}
    )
    for name, text in ANNOTATIONS.items():
        s3.put_object_annotation(Bucket=source, Key=KEY, AnnotationName=name, AnnotationPayload=text.encode())
    return buckets


def parts_of(cloud: Cloud, bucket: str) -> int:
    """Give how many parts there are of the upload that is under way; of none where none is."""
    s3 = cloud.client("s3")
    for upload in s3.list_multipart_uploads(Bucket=bucket, Prefix=KEY).get("Uploads", ()):
        with contextlib.suppress(s3.exceptions.ClientError):
            return len(s3.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]).get("Parts", ()))
    return 0


def has_parts(cloud: Cloud, bucket: str, number: int) -> bool:
    """Tell whether an upload has more than so many parts."""
    return parts_of(cloud, bucket) > number


def check_copied(cloud: Cloud, filled: tuple[str, str], summary: dict[str, Any]) -> None:
    """Everything counts once and is there: content by range reads, properties, annotations, the form of the ETag."""
    s3, (source, destination) = cloud.client("s3"), filled
    ends = [summary[name] for name in ("listed", "copied", "skipped", "vanished", "failed", "ranges_failed")]
    assert ends == [4, 4, 0, 0, 0, 0]
    assert summary["copied_bytes"] == summary["listed_bytes"] == len(CONTENT) + 3
    there, here = (s3.head_object(Bucket=bucket, Key=KEY) for bucket in (destination, source))
    for name in ("ETag", "ContentLength", *WORDS):
        assert there[name] == here[name], name
    assert there["ETag"].endswith(f'-{PARTS}"')
    for first in range(0, len(CONTENT), 300_000):
        piece = CONTENT[first : first + 300_000]
        answer = s3.get_object(Bucket=destination, Key=KEY, Range=f"bytes={first}-{first + len(piece) - 1}")
        assert answer["Body"].read() == piece
    tags = s3.get_object_tagging(Bucket=destination, Key=KEY)["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == TAGS
    assert {name: annotation(s3, destination, name) for name in ANNOTATIONS} == {
        name: annotation(s3, source, name) for name in ANNOTATIONS
    }
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=destination)


def annotation(s3: Any, bucket: str, name: str) -> dict[str, str]:
    """Give the text of an annotation of the object, and its checksum."""
    found = s3.get_object_annotation(Bucket=bucket, Key=KEY, AnnotationName=name, ChecksumMode="ENABLED")
    checksum = {kind: value for kind, value in found.items() if kind.startswith("Checksum")}
    assert checksum
    return {"text": found["AnnotationPayload"].read().decode(), **checksum}


def ended(process: Popen[str]) -> Ended:
    """Wait for a command that is to end well."""
    done = Ended.of(process)
    assert done.code == 0, done.err
    return done


def test_an_object_of_a_thousand_parts_survives_the_death_of_all_functions(cloud: Cloud, filled: tuple[str, str]) -> None:
    limits = ("--function-timeout", "10", "--workers", "2", "--max-rate", "200")
    process = cloud.start("run", *filled, *OPTIONS, *limits, **TINY)
    wait_for(lambda: parts_of(cloud, filled[1]) > 200)

    workers = psutil.Process(cloud.emulator.group).children(recursive=True)
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            if "_worker.py" in " ".join(worker.cmdline()):
                worker.kill()

    check_copied(cloud, filled, ended(process).summary)
    assert cloud.leftovers() == []


def test_an_object_of_a_thousand_parts_survives_the_death_of_worker_after_worker(cloud: Cloud, filled: tuple[str, str]) -> None:
    planned = cloud.run("run", *filled, *OPTIONS, "--dry-run", "--acl", "preserve", **TINY).summary
    process = cloud.start("run", *filled, *OPTIONS, "--engine", "local", "--processes", "2", "--max-rate", "250", **TINY)

    for parts in (100, 300, 500):
        wait_for(partial(has_parts, cloud, filled[1], parts))
        psutil.Process(process.pid).children()[-1].kill()

    asked = {"HeadObject": 1, "GetObjectTagging": 1, "ListObjectAnnotations": 1, "CreateMultipartUpload": 1, "ListParts": 8}
    asked |= {"CompleteMultipartUpload": 1, "GetObjectAcl": 4}
    assert planned["requests"] == {"CopyObject": 3, "UploadPartCopy": PARTS, **asked}
    assert (planned["copy_requests"], planned["other_requests"]) == (PARTS + 3, 17)
    check_copied(cloud, filled, ended(process).summary)


def test_an_upload_does_not_outlive_a_command_that_was_interrupted_and_is_begun_anew(
    cloud: Cloud, filled: tuple[str, str]
) -> None:
    process = cloud.start("run", *filled, *OPTIONS, "--engine", "local", "--processes", "1", "--max-rate", "250", **TINY)
    run_id = next(line["run_id"] for line in lines_of(process) if "run_id" in line)
    foreign = cloud.client("s3").create_multipart_upload(Bucket=filled[1], Key="of another")["UploadId"]
    wait_for(partial(has_parts, cloud, filled[1], 50))

    process.send_signal(signal.SIGINT)
    interrupted = Ended.of(process)

    assert interrupted.code == 130, interrupted.err
    uploads = cloud.client("s3").list_multipart_uploads(Bucket=filled[1])["Uploads"]
    assert [upload["UploadId"] for upload in uploads] == [foreign]
    cloud.client("s3").abort_multipart_upload(Bucket=filled[1], Key="of another", UploadId=foreign)
    again = cloud.run("attach", run_id, "--output", "json")
    assert again.code == 0, again.err
    check_copied(cloud, filled, again.summary)


# ----------------------------------------------------------------------------------------- what becomes of uploads otherwise


@pytest.fixture
def begun(cloud: Cloud, buckets: tuple[str, str]) -> tuple[str, str, str]:
    """A source with a large object, and a destination with an upload that is not the run's; gives that one's id, too."""
    s3 = cloud.client("s3")
    s3.put_object(Bucket=buckets[0], Key=KEY, Body=CONTENT)
    cloud.store.fill(buckets[0], iter(["a", "b", "z"]))
    return *buckets, s3.create_multipart_upload(Bucket=buckets[1], Key="of another")["UploadId"]


def start_slowly(cloud: Cloud, source: str, destination: str, *more: str, **changes: str) -> tuple[Popen[str], str]:
    """Start a run that takes long over its large object; gives its id once some parts are there."""
    process = cloud.start("run", source, destination, *OPTIONS, "--max-rate", "60", *more, **TINY, **changes)
    run_id = next(line["run_id"] for line in lines_of(process) if "run_id" in line)
    wait_for(partial(has_parts, cloud, destination, 5))
    return process, run_id


def only_other_is_left(cloud: Cloud, begun: tuple[str, str, str]) -> None:
    """Demand that nothing of the run is there but small objects: no upload, no large object, no resource."""
    s3 = cloud.client("s3")
    _, destination, other = begun
    left = s3.list_multipart_uploads(Bucket=destination)["Uploads"]
    assert [upload["UploadId"] for upload in left] == [other]
    s3.abort_multipart_upload(Bucket=destination, Key="of another", UploadId=other)
    assert KEY not in cloud.store.items(destination)
    assert cloud.leftovers() == []


LAMBDA = ("--function-timeout", "15", "--workers", "2")
LOCAL = ("--engine", "local", "--processes", "1")


def test_a_halt_from_another_process_leaves_no_upload(cloud: Cloud, begun: tuple[str, str, str]) -> None:
    process, run_id = start_slowly(cloud, *begun[:2], *LAMBDA)

    halted = cloud.run("halt", run_id)
    watched = Ended.of(process)

    assert (halted.code, watched.code) == (0, 9), halted.err + watched.err
    assert "aborted 1 multipart upload" in f"{halted.out}{halted.err}{watched.out}{watched.err}"
    only_other_is_left(cloud, begun)


def test_a_teardown_after_a_kill_leaves_no_upload(cloud: Cloud, begun: tuple[str, str, str]) -> None:
    process, run_id = start_slowly(cloud, *begun[:2], *LAMBDA)
    process.kill()
    process.communicate()

    torn = cloud.run("teardown", run_id)

    assert torn.code == 0, torn.err
    assert "aborted 1 multipart upload" in torn.err
    only_other_is_left(cloud, begun)


def test_a_teardown_after_the_kill_of_a_local_run_leaves_no_upload_either(cloud: Cloud, begun: tuple[str, str, str]) -> None:
    process, run_id = start_slowly(cloud, *begun[:2], *LOCAL)
    while_running = cloud.run("teardown", run_id)
    assert has_parts(cloud, begun[1], 5), while_running.err
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    psutil.wait_procs(workers)

    torn = cloud.run("teardown", run_id)

    assert torn.code == 0, torn.err
    assert "aborted 1 multipart upload" in torn.err
    only_other_is_left(cloud, begun)


@pytest.mark.parametrize("engine", [LAMBDA, LOCAL], ids=["lambda", "local"])
def test_a_run_that_is_stopped_by_its_failures_leaves_no_upload(
    cloud: Cloud, begun: tuple[str, str, str], caller: Any, engine: tuple[str, ...]
) -> None:
    denied = "zz/denied"  # behind the large object, which is begun by then
    cloud.store.fill(begun[0], iter([denied]))
    deny(cloud, begun[0], denied)
    ended = cloud.run("run", *begun[:2], *OPTIONS, "--max-rate", "60", "--max-failures", "0", *engine, **TINY, **caller())

    assert ended.code == 3, ended.err
    assert "aborted 1 multipart upload" in ended.out + ended.err
    only_other_is_left(cloud, begun)


def test_a_large_object_that_cannot_be_copied_leaves_no_upload(cloud: Cloud, begun: tuple[str, str, str], caller: Any) -> None:
    process, _ = start_slowly(cloud, *begun[:2], *LOCAL, **caller())
    deny(cloud, begun[0], KEY)
    ended = Ended.of(process)

    assert ended.code == 3, ended.err
    assert [ended.summary[name] for name in ("listed", "copied", "failed")] == [4, 3, 1]
    only_other_is_left(cloud, begun)

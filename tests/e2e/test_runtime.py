"""The bundle in AWS's own runtime client: the uploaded zip, its handler by name, events as Lambda hands them over."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from s3bulkcopy.aws import bundle
from s3bulkcopy.worker.model import CopyTask, Done, Job, ListTask, Range, decode_event, decode_task, encode_task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import Cloud

NEXT = "/2018-06-01/runtime/invocation/next"


class RuntimeApi(ThreadingHTTPServer):
    """Lambda's Runtime API: hands out one event and keeps the answer."""

    daemon_threads = True

    def __init__(self, event: dict[str, Any]) -> None:
        """Have one event to hand out."""
        super().__init__(("127.0.0.1", 0), _Calls)
        self.event: dict[str, Any] | None = event
        self.answer: tuple[str, bytes] | None = None
        self.answered = threading.Event()


class _Calls(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert self.path == NEXT
        if self.server.event is None:
            time.sleep(3600)  # as Lambda does until there is something to do; the process is killed meanwhile
        body = json.dumps(self.server.event).encode()
        self.server.event = None
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", "request-1")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + 60) * 1000)))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:000000000000:function:f")
        self.send_header("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.answer = (self.path, body)
        self.server.answered.set()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def queues(cloud: Cloud) -> Iterator[dict[str, str]]:
    """The three queues that workers send to."""
    sqs = cloud.client("sqs")
    urls = {name: sqs.create_queue(QueueName=f"runtime-{name}")["QueueUrl"] for name in ("list", "copy", "reports")}
    yield urls
    for url in urls.values():
        sqs.delete_queue(QueueUrl=url)


def invoke(cloud: Cloud, folder: Path, queues: dict[str, str], handler: str, body: str) -> dict[str, Any]:
    """Run the bundle for one message, and give what the handler returned."""
    zipfile.ZipFile(io.BytesIO(bundle.build())).extractall(folder)
    record = {
        "messageId": "m-1",
        "receiptHandle": "r-1",
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1"},
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:runtime-list",
    }
    api = RuntimeApi({"Records": [record]})
    threading.Thread(target=api.serve_forever, daemon=True).start()
    variables = {f"S3BULKCOPY_{name.upper()}_QUEUE": url for name, url in queues.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "awslambdaric", handler],
        cwd=folder,
        env={
            **cloud.emulator.variables,
            **variables,
            "PATH": os.environ["PATH"],
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_address[1]}",
            "AWS_LAMBDA_FUNCTION_NAME": "f",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_LOG_GROUP_NAME": "g",
            "AWS_LAMBDA_LOG_STREAM_NAME": "s",
            "LAMBDA_TASK_ROOT": str(folder),
        },
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        answered = api.answered.wait(60)
    finally:
        process.kill()
        output = process.communicate()
        api.shutdown()
        api.server_close()
    assert answered, output
    assert api.answer is not None
    path, answer = api.answer
    assert path.endswith("/response"), (path, answer, output)
    result: dict[str, Any] = json.loads(answer)
    return result


def received(cloud: Cloud, url: str) -> list[str]:
    """Take every message from a queue."""
    messages = cloud.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", ())
    return [message["Body"] for message in messages]


def test_the_list_handler_lists_queues_and_reports_in_the_real_runtime(
    cloud: Cloud, buckets: tuple[str, str], queues: dict[str, str], tmp_path: Path
) -> None:
    source, destination = (cloud.store.location(bucket) for bucket in buckets)
    cloud.store.fill(source.bucket, iter(["a", "日", "z"]))
    task = ListTask("run.1", Job("run", source, destination), (Range("a", None),))

    answer = invoke(cloud, tmp_path, queues, "s3bulkcopy.worker.handler.list_handler", encode_task(task))

    assert answer == {"batchItemFailures": []}
    (report,) = map(decode_event, received(cloud, queues["reports"]))
    assert isinstance(report, Done)
    assert (report.id, report.children, report.counts.listed) == ("run.1", 1, 2)
    (child,) = map(decode_task, received(cloud, queues["copy"]))
    assert isinstance(child, CopyTask)
    assert [item.key for item in child.items] == ["z", "日"]


def test_the_copy_handler_copies_in_the_real_runtime(
    cloud: Cloud, buckets: tuple[str, str], queues: dict[str, str], tmp_path: Path
) -> None:
    source, destination = (cloud.store.location(bucket) for bucket in buckets)
    cloud.store.fill(source.bucket, iter(["a", "日"]))
    items = tuple(cloud.store.items(source.bucket).values())
    task = CopyTask("n.0", Job("run", source, destination), items)

    answer = invoke(cloud, tmp_path, queues, "s3bulkcopy.worker.handler.copy_handler", encode_task(task))

    assert answer == {"batchItemFailures": []}
    (report,) = map(decode_event, received(cloud, queues["reports"]))
    assert isinstance(report, Done)
    assert report.counts.copied == 2
    assert cloud.store.items(destination.bucket) == cloud.store.items(source.bucket)

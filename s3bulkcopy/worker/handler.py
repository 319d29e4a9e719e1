"""The Lambda functions: messages in, work done, events out.

One event loop, one set of connections and one pace live as long as the environment; nothing is pending when an invocation
returns, for the environment is frozen between two.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.attempts import LIST_SECONDS, Budget
from s3bulkcopy.worker.copying import Copier
from s3bulkcopy.worker.failures import Failed, Next, Stop
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Done,
    Fatal,
    Listing,
    Location,
    MalformedMessage,
    Nothing,
    Task,
    Trouble,
    clip,
    decode_task,
    encode_event,
    encode_task,
)
from s3bulkcopy.worker.pacing import Pace, chance, full_jitter
from s3bulkcopy.worker.s3 import S3, Page
from s3bulkcopy.worker.sigv4 import Credentials
from s3bulkcopy.worker.sqs import Outbox, Sqs
from s3bulkcopy.worker.work import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: What is kept of a function's time, in seconds: to end the copies on their way, and to say what went wrong.
COPY_MARGIN_SECONDS = 25.0
REPORT_MARGIN_SECONDS = 4.0

#: Most connections of one environment to S3; it has 1,024 file descriptors.
CONNECTIONS = 900

#: The longest pause before a failed message is delivered again, in seconds.
_REDELIVERY_SECONDS = 60


class Queues(NamedTuple):
    """The URLs of the queues that workers send to."""

    list: str
    copy: str
    reports: str


class Environment:
    """What lives as long as a Lambda environment."""

    def __init__(
        self,
        variables: Mapping[str, str],
        *,
        idle_seconds: Callable[[], float] | None = None,
        s3: S3 | None = None,
        sqs: Sqs | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Read everything from the environment's variables; tests give clients and randomness of their own.

        `idle_seconds` tells how long this process had nothing to do.
        """
        credentials = Credentials(
            variables["AWS_ACCESS_KEY_ID"],
            variables["AWS_SECRET_ACCESS_KEY"],
            variables.get("AWS_SESSION_TOKEN") or None,
        )
        self._endpoint = variables.get("AWS_ENDPOINT_URL")
        self._queues = Queues(*(variables[f"S3BULKCOPY_{name}_QUEUE"] for name in ("LIST", "COPY", "REPORTS")))
        self._s3 = s3 or S3(lambda: credentials)
        sqs_endpoint = self._endpoint or variables.get("S3BULKCOPY_SQS_ENDPOINT")
        self._sqs = sqs or Sqs(lambda: credentials, variables["AWS_REGION"], endpoint=sqs_endpoint)
        self._random_bytes = random_bytes
        self._pauses = full_jitter(partial(chance, random_bytes))
        rate = float(variables.get("S3BULKCOPY_MAX_RATE", "inf"))
        pace = Pace(most=CONNECTIONS, most_a_second=rate, idle_seconds=idle_seconds)
        self._copier = Copier(self._s3, pace, self._pauses)
        self._worker = Worker(self._s3, self._copier, self._pauses)
        self._outboxes: dict[str, Outbox] = {}
        #: What the nonces of its attempts begin with, so that reports tell which of them were one environment's.
        self._name = random_bytes(4).hex()
        #: Set when this environment's credentials have expired: nothing done here can succeed any more.
        self.expired = False

    # ------------------------------------------------------------------------------------------------- invocations

    async def invoke(self, event: dict[str, Any], seconds_left: float) -> dict[str, Any]:
        """Serve one invocation: a batch of messages from a queue, or a probe by the CLI."""
        try:
            if "probe" in event:
                return await self._probe(event, seconds_left)
            records = event.get("Records", [])
            ended = await aio.gather(*(self._serve(record, seconds_left) for record in records))
        finally:
            await self._copier.stop()
            await aio.gather(*(outbox.stop() for outbox in self._outboxes.values()))
        failed = [{"itemIdentifier": record["messageId"]} for record, ok in zip(records, ended, strict=True) if not ok]
        return {"batchItemFailures": failed}

    async def _serve(self, record: dict[str, Any], seconds_left: float) -> bool:
        """Work on one message; tell whether the queue may forget it."""
        number = int(record["attributes"]["ApproximateReceiveCount"])
        try:
            task = decode_task(record["body"])
        except MalformedMessage as error:
            _log(f"message {record['messageId']}: {error}")
            await self._deliver_again(record, number)
            return False
        if isinstance(task, Nothing):
            return True
        attempt = Attempt(number, self._nonce())
        try:
            async with aio.timeout(max(1.0, seconds_left - REPORT_MARGIN_SECONDS)):
                done = await self._work(self._relocated(task), attempt, seconds_left)
                await self._report(task.job.message_bytes, done)
        except Stop as stop:
            await self._try_to_report(Fatal(task.id, attempt, stop.kind, stop.cause))
        except Exception as error:  # noqa: BLE001 - whatever it is, the queue delivers the task again
            self.expired |= isinstance(error, Failed) and error.fault.next is Next.EXPIRED
            await self._try_to_report(Trouble(task.id, attempt, clip(f"{type(error).__name__}: {error}")))
        else:
            _log(f"{task.id} attempt {number}: {_summary(done)}")
            return True
        await self._deliver_again(record, number)
        return False

    def _nonce(self) -> str:
        """Give what names an attempt, and no other one."""
        return self._name + self._random_bytes(8).hex()

    async def _work(self, task: Task, attempt: Attempt, seconds_left: float) -> Done:
        now = aio.get_running_loop().time()
        seconds = seconds_left - COPY_MARGIN_SECONDS if seconds_left > 2 * COPY_MARGIN_SECONDS else seconds_left / 2
        if isinstance(task, Listing):
            seconds = min(seconds, LIST_SECONDS)
        return await self._worker.work(task, attempt, Budget(now + seconds), self._emit)

    async def _emit(self, task: Task) -> None:
        queue = self._queues.list if isinstance(task, Listing) else self._queues.copy
        await self._outbox(queue, task.job.message_bytes).put(encode_task(task))

    async def _report(self, message_bytes: int, event: Done | Trouble | Fatal) -> None:
        await self._outbox(self._queues.reports, message_bytes).put(encode_event(event))

    async def _try_to_report(self, event: Trouble | Fatal) -> None:
        _log(f"{event.id} attempt {event.attempt.number}: {event.cause}")
        try:
            async with aio.timeout(REPORT_MARGIN_SECONDS / 2):
                await self._report(_SMALL_BATCH_BYTES, event)
        except (Failed, TimeoutError) as error:
            _log(f"{event.id}: could not report that: {error}")

    async def _deliver_again(self, record: dict[str, Any], number: int) -> None:
        """Have the message delivered again after a pause, rather than after the whole visibility timeout."""
        arn = record["eventSourceARN"].rsplit(":", 1)[-1]
        queue = next((url for url in (self._queues.list, self._queues.copy) if url.endswith(f"/{arn}")), None)
        if queue is not None:
            seconds = min(_REDELIVERY_SECONDS, 1 + int(self._pauses(number + 2)))
            with suppress(TimeoutError):
                async with aio.timeout(REPORT_MARGIN_SECONDS / 2):
                    await self._sqs.set_visibility(queue, record["receiptHandle"], seconds)

    def _outbox(self, queue_url: str, message_bytes: int) -> Outbox:
        if queue_url not in self._outboxes:
            self._outboxes[queue_url] = Outbox(self._sqs, queue_url, message_bytes=message_bytes, pauses=self._pauses)
        return self._outboxes[queue_url]

    def _relocated(self, task: Task) -> Task:
        """Send the bucket requests of a task where an emulator tells its workers that it is."""
        if self._endpoint is None:
            return task
        source, destination = (_at(self._endpoint, location) for location in (task.job.source, task.job.destination))
        return task._replace(job=task.job._replace(source=source, destination=destination))

    # ------------------------------------------------------------------------------------------------------ probes

    async def _probe(self, event: dict[str, Any], seconds_left: float) -> dict[str, Any]:
        """Prove this function's rights: sends always, and what the task it is given needs.

        For a ListTask a key of its source is listed. Of a CopyTask's items one after another is copied until one arrives or
        tells something else than a denial; what became of them is in the `done` of the answer.
        """
        task = decode_task(event["probe"])
        if isinstance(task, Nothing):
            raise MalformedMessage("a probe of nothing")
        task = self._relocated(task)
        try:
            async with aio.timeout(seconds_left - REPORT_MARGIN_SECONDS):
                for queue in (self._queues.list, self._queues.copy, self._queues.reports):
                    fault = (await self._sqs.send(queue, [encode_task(Nothing())]))[0]
                    if fault is not None:
                        return _refused("sqs:SendMessage", queue.rsplit("/", 1)[-1], fault.next, str(fault))
                if isinstance(task, CopyTask):
                    return await self._probe_copy(task)
                source = task.job.source
                answer = await self._s3.page(source, source.prefix, "", max_keys=1, policy=task.job.policy)
                if not isinstance(answer, Page):
                    return _refused("s3:ListBucket", str(source), answer.next, str(answer))
        except TimeoutError:
            return _refused("", "", Next.RETRY, "the probe found no answer in time")
        return {"ok": True}

    async def _probe_copy(self, task: CopyTask) -> dict[str, Any]:
        outcome = await self._copier.probe(task.job, task.items)
        if isinstance(outcome, Failed):
            what = f"{task.job.source} -> {task.job.destination}"
            return _refused("s3:GetObject, s3:PutObject", what, outcome.fault.next, str(outcome.fault))
        done = Done(task.id, Attempt(1, self._nonce()), 0, outcome.counts, outcome.failures)
        return {"ok": True, "done": encode_event(done), "rest": len(outcome.rest)}


#: Room for the batches of small messages, in bytes; every queue takes as much.
_SMALL_BATCH_BYTES = 262_144


def _refused(action: str, what: str, next_: Next, cause: str) -> dict[str, Any]:
    passing = next_ in (Next.DENIED, Next.RETRY, Next.SLOW_DOWN, Next.EXPIRED)
    return {
        "ok": False,
        "action": action,
        "what": what,
        "passing": passing,
        "denied": next_ is Next.DENIED,
        "cause": cause,
    }


def _at(endpoint: str, location: Location) -> Location:
    return location._replace(url=f"{endpoint.rstrip('/')}/{location.bucket}")


def _summary(done: Done) -> str:
    counts = ", ".join(f"{name} {value}" for name, value in done.counts._asdict().items() if value)
    return f"{counts or 'nothing'}; {done.children} children"


def _log(line: str) -> None:
    """Write a line to the function's log; one a task, never one an object."""
    print(line, file=sys.stderr)  # noqa: T201 - this is how a Lambda function logs


# ------------------------------------------------------------------------------------------------------- entry points

_loop: aio.Loop | None = None
_environment: Environment | None = None


def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ANN401 - Lambda's own object
    """Serve one invocation of either function."""
    global _loop, _environment  # noqa: PLW0603 - an environment is a process, and this is its state
    if _loop is None or _environment is None:
        _loop = aio.Loop()
        _environment = Environment(os.environ, idle_seconds=_loop.idle_seconds)
    answer: dict[str, Any] = _loop.run_until_complete(_environment.invoke(event, context.get_remaining_time_in_millis() / 1000))
    if _environment.expired:
        _log("the credentials of this environment have expired: ending it")
        sys.exit(1)
    return answer


list_handler = handle
copy_handler = handle

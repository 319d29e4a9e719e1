"""The lambda engine: tasks are SQS messages, workers are Lambda functions, events come back on a queue."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import BotoCoreError, ClientError

from s3bulkcopy.aws import bundle, deploy, discover, teardown
from s3bulkcopy.aws.session import translate
from s3bulkcopy.aws.stack import COPY_BATCH_MESSAGES, LIST_BATCH_MESSAGES, Names, plan
from s3bulkcopy.engines import Depth, Depths, Proof
from s3bulkcopy.errors import DeployFailed, NameTaken, NotPermitted, S3BulkCopyError
from s3bulkcopy.worker.model import (
    CopyTask,
    Counts,
    Dead,
    ListTask,
    MalformedMessage,
    Nothing,
    Range,
    Task,
    decode_event,
    decode_task,
    encode_task,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from s3bulkcopy.aws.deploy import Deployed
    from s3bulkcopy.aws.preflight import Preflight
    from s3bulkcopy.aws.session import AwsSession
    from s3bulkcopy.settings import StackSettings
    from s3bulkcopy.worker.model import Event, Item, Job

#: Most messages in one receive, send or delete (SQS API reference).
BATCH_MESSAGES = 10

#: Most that one poll takes at once; the rest waits for the next.
_POLL_MESSAGES = 1000

#: How long a fresh role's permissions may be on their way, in seconds.
PROVE_SECONDS = 120.0

#: How long an event or a dead letter is ours before it is delivered again, in seconds.
_EVENT_VISIBILITY_SECONDS = 120

#: How often the depths and the dead letters are looked at, in seconds.
_DEPTHS_SECONDS = 2.0
_DEAD_SECONDS = 10.0

_PROBE_PAUSE_SECONDS = 2.0


class LambdaEngine:
    """An Engine in AWS; everything it makes is named and tagged by the run's id."""

    name = "lambda"

    def __init__(
        self,
        session: AwsSession,
        found: Preflight,
        settings: StackSettings,
        *,
        version: str,
        created: str,
        say: Callable[[str], None],
        detail: Callable[[str], None],
        sleep: Callable[[float], None],
        rest: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        """Run the job that the checks allowed.

        `say` is told of every step and `detail` of every resource. `sleep` waits while there is work and may raise to
        stop it; `rest` waits while things are unmade and does not.
        """
        self._session = session
        self._found = found
        self._settings = settings
        self._version, self._created = version, created
        self._say, self._detail = say, detail
        self._sleep, self._rest, self._clock = sleep, rest, clock
        self._names = Names(found.job.run_id)
        self._deployed: Deployed | None = None
        self._receipts: list[str] = []
        self._last_depths = Depths(Depth(0, 0), Depth(0, 0), 0)
        self._depths_read_at = float("-inf")
        self._dead_seen_at = float("-inf")
        #: The dead letters that were told of, by their ids.
        self._told: set[str] = set()
        self.left: tuple[str, ...] = ()

    # -------------------------------------------------------------------------------------------- making and unmaking

    def __enter__(self) -> Self:
        """Make the queues, the role, the functions and the mappings."""
        job, region = self._found.job, self._found.region
        stack = plan(job, self._found.identity, region, self._settings, self._version, self._created)
        self._say(f"making {len(stack.resources)} resources in {region}")
        try:
            self._deployed = deploy.deploy(stack, self._session, bundle.build(), say=self._detail, sleep=self._sleep)
        except BaseException as error:
            spared = frozenset({error.resource}) if isinstance(error, NameTaken) else frozenset[str]()
            self._unmake(spared)
            if self.left and isinstance(error, S3BulkCopyError):
                error.hint = f"{error.hint} Left behind: {'; '.join(self.left)}".strip()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        """Unmake everything; after an error the workers are stopped first."""
        if error is not None:
            with suppress(S3BulkCopyError):  # teardown says what is left
                self._halt()
        if not self._settings.keep:
            self._unmake(frozenset())

    def _halt(self) -> None:
        teardown.halt(self._session, self._found.region, self._names.run_id, say=self._say, sleep=self._rest)

    def _unmake(self, spared: frozenset[str]) -> None:
        done = teardown.teardown(
            self._session, self._found.region, self._names.run_id, say=self._say, sleep=self._rest, leave=spared
        )
        self.left = tuple(f"{left.name} ({left.why}): {left.command}" for left in done.left)

    # ------------------------------------------------------------------------------------------------------- the job

    @property
    def job(self) -> Job:
        """Give the job with the size of the queues' messages."""
        return self._found.job._replace(message_bytes=self._made.message_bytes)

    @property
    def _made(self) -> Deployed:
        if self._deployed is None:
            raise RuntimeError("the engine was not entered")
        return self._deployed

    def _client(self, service: str) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
        return self._session.client(service, self._found.region)

    # ------------------------------------------------------------------------------------------------------- probes

    def prove(self, task_id: str, first_items: Sequence[Item]) -> Proof:
        """Invoke both functions until each has done what the run needs of it."""
        listing = ListTask(task_id, self.job, Range("", None))
        copying = CopyTask(task_id, self.job, tuple(first_items))
        with ThreadPoolExecutor(2) as pool:
            proofs = [
                pool.submit(self._probe, self._names.list_function, listing),
                pool.submit(self._probe, self._names.copy_function, copying),
            ]
            _, answer = (proof.result() for proof in proofs)
        event = decode_event(answer["done"])
        if isinstance(event, Nothing):
            raise MalformedMessage("the probe reported nothing")
        return Proof((event,), len(first_items) - int(answer["rest"]))

    def _probe(self, function: str, task: Task) -> dict[str, Any]:
        payload = json.dumps({"probe": encode_task(task)})
        give_up_at = self._clock() + PROVE_SECONDS
        while True:
            answer = self._invoke(function, payload)
            if answer.get("ok"):
                return answer
            if not answer["passing"] or self._clock() > give_up_at:
                raise _not_proven(answer)
            self._say(f"waiting until {answer['action']} on {answer['what']} succeeds: {answer['cause']}")
            self._sleep(_PROBE_PAUSE_SECONDS)

    def _invoke(self, function: str, payload: str) -> dict[str, Any]:
        try:
            answer = self._client("lambda").invoke(FunctionName=function, Payload=payload.encode())
            body = json.loads(answer["Payload"].read() or b"null")
        except (ClientError, BotoCoreError, ValueError) as error:
            raise translate(error, f"invoking {function}") from error
        if answer.get("FunctionError") or not isinstance(body, dict):
            raise DeployFailed(f"function {function} failed its probe: {body}", hint=f"its log group is /aws/lambda/{function}")
        return body

    # -------------------------------------------------------------------------------------------------------- queues

    def submit(self, tasks: Sequence[Task]) -> None:
        """Send tasks; what a batch refuses is sent again."""
        urls = self._made.queue_urls
        for kind, role in ((ListTask, "list"), (CopyTask, "copy")):
            bodies = [encode_task(task) for task in tasks if isinstance(task, kind)]
            for batch in _in_batches(bodies, self._made.message_bytes):
                self._send(urls[role], batch)
        self._say("queued; a mapping takes up to a minute to become active")

    def _send(self, url: str, bodies: list[str]) -> None:
        left = {str(n): body for n, body in enumerate(bodies)}
        for pause in (0.2, 1.0, 3.0, 10.0, 0.0):
            entries = [{"Id": name, "MessageBody": body} for name, body in left.items()]
            try:
                answer = self._client("sqs").send_message_batch(QueueUrl=url, Entries=entries)
            except (ClientError, BotoCoreError) as error:
                raise translate(error, f"sending to {url}") from error
            for entry in answer.get("Successful", ()):
                left.pop(entry["Id"], None)
            if not left:
                return
            refused = answer.get("Failed", ())
            self._sleep(pause)
        raise S3BulkCopyError(f"queue {url} does not take messages: {refused[0].get('Message') if refused else ''}")

    def poll(self, seconds: float) -> list[Event]:
        """Give the events that workers sent, and the tasks that died."""
        events: list[Event] = []
        wait = int(seconds)
        while len(events) < _POLL_MESSAGES:
            messages = self._receive("reports", wait)
            for message in messages:
                self._receipts.append(message["ReceiptHandle"])
                with suppress(MalformedMessage):
                    event = decode_event(message["Body"])
                    if not isinstance(event, Nothing):
                        events.append(event)
            if len(messages) < BATCH_MESSAGES:
                break
            wait = 0
        return events + self._dead_letters()

    def _receive(self, role: str, wait_seconds: int) -> list[dict[str, Any]]:
        try:
            answer = self._client("sqs").receive_message(
                QueueUrl=self._made.queue_urls[role],
                MaxNumberOfMessages=BATCH_MESSAGES,
                WaitTimeSeconds=wait_seconds,
                VisibilityTimeout=_EVENT_VISIBILITY_SECONDS,
            )
        except (ClientError, BotoCoreError) as error:
            raise translate(error, f"receiving from the {role} queue") from error
        return list(answer.get("Messages", ()))

    def _dead_letters(self) -> list[Event]:
        """Look for tasks that died, and tell of each once.

        Dead letters stay where they are: they are what a retry begins with. So they are received again and again.
        """
        if not self._last_depths.dead and self._clock() - self._dead_seen_at < _DEAD_SECONDS:
            return []
        self._dead_seen_at = self._clock()
        events: list[Event] = []
        for role in ("list-dead", "copy-dead"):
            while new := [message for message in self._receive(role, 0) if message["MessageId"] not in self._told]:
                for message in new:
                    self._told.add(message["MessageId"])
                    task = _task_in(message["Body"])
                    if task is not None:
                        events.append(Dead(task.id, task))
                    else:
                        self._name_stray(message)
        return events

    def _name_stray(self, message: dict[str, Any]) -> None:
        """Say that a message was no task: it concerns nobody's counts, but somebody sent it."""
        self._say(f"a message that is no task of this run ended as a dead letter: {message['Body'][:80]!r}")

    def ack(self) -> None:
        """Delete the events of the last poll from their queue."""
        url = self._made.queue_urls["reports"]
        while self._receipts:
            batch, self._receipts = self._receipts[:BATCH_MESSAGES], self._receipts[BATCH_MESSAGES:]
            entries = [{"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(batch)]
            # What is not deleted comes again and changes nothing.
            with suppress(ClientError, BotoCoreError):
                self._client("sqs").delete_message_batch(QueueUrl=url, Entries=entries)

    def depths(self) -> Depths:
        """Give the queues' depths, read every two seconds; where SQS does not tell them, those that it told last."""
        now = self._clock()
        if now - self._depths_read_at >= _DEPTHS_SECONDS:
            self._depths_read_at = now
            with suppress(S3BulkCopyError):
                self._last_depths = self._read_depths()
        return self._last_depths

    def under_way(self) -> Counts:
        """Give nothing: a worker reports when a task has ended."""
        return Counts()

    def _read_depths(self) -> Depths:
        found = discover.depths(self._session, self._found.region, self._made.queue_urls)
        work = {kind: Depth(found[kind].waiting, found[kind].in_flight) for kind in ("list", "copy") if kind in found}
        dead = sum(depth.waiting + depth.in_flight for kind, depth in found.items() if kind.endswith("-dead"))
        listing, copying = (work.get(kind, Depth(0, 0)) for kind in ("list", "copy"))
        workers = _busy(listing, LIST_BATCH_MESSAGES, self._settings.list_workers)
        workers += _busy(copying, COPY_BATCH_MESSAGES, self._settings.copy_workers)
        return Depths(listing, copying, dead, workers)

    def settle(self) -> None:
        """Disable the mappings and wait until nothing is in flight, for one function timeout at most."""
        teardown.quiet(self._session, self._found.region, self._names.run_id, say=self._say, sleep=self._sleep)
        self._dead_seen_at = float("-inf")  # who died meanwhile is to be seen by the next poll


def _busy(depth: Depth, batch_messages: int, most: int) -> int:
    """Give how many workers hold what is in flight, each a whole batch of it, and never more than there may be.

    >>> _busy(Depth(100, 9), 4, 6), _busy(Depth(100, 40), 4, 6)
    (3, 6)
    """
    return min(most, -(-depth.in_flight // batch_messages))


def _in_batches(bodies: list[str], most_bytes: int) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for body in bodies:
        if batch and (len(batch) == BATCH_MESSAGES or size + len(body) > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += len(body)
    if batch:
        yield batch


def _task_in(body: str) -> Task | None:
    """Give the task in a dead letter; one that holds none is nobody's task."""
    try:
        task = decode_task(body)
    except MalformedMessage:
        return None
    return None if isinstance(task, Nothing) else task


def _not_proven(answer: dict[str, Any]) -> S3BulkCopyError:
    what = f"the workers may not {answer['action']} on {answer['what']}" if answer["action"] else "the probe failed"
    if not answer["denied"]:
        return DeployFailed(f"{what}: {answer['cause']}")
    return NotPermitted(
        f"{what}: {answer['cause']}",
        hint="look at the bucket policies (and key policies) of source and destination: the run's role needs to be let in",
    )

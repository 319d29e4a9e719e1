"""The lambda engine: tasks are SQS messages, workers are Lambda functions, events come back on a queue."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from s3bulkcopy.aws import bundle, deploy, discover, teardown, uploads
from s3bulkcopy.aws.deploy import Deployed
from s3bulkcopy.aws.preflight import what_lets_in
from s3bulkcopy.aws.session import Lack, lack, translate
from s3bulkcopy.aws.stack import COPY_BATCH_MESSAGES, LIST_BATCH_MESSAGES, Names, plan
from s3bulkcopy.engines import Depth, Depths, Proof, Signs
from s3bulkcopy.errors import (
    CountsIncomplete,
    DeployFailed,
    Detached,
    Halted,
    Interrupted,
    NameTaken,
    NotPermitted,
    ObjectsFailed,
    OutOfReach,
    S3BulkCopyError,
    SignedOut,
)
from s3bulkcopy.worker.model import (
    Copying,
    CopyTask,
    Counts,
    Dead,
    Listing,
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

#: How long events are ours before they are delivered again, in seconds: until they are deleted. Whoever goes on after a
#: command that died amid that waits as long.
_EVENT_VISIBILITY_SECONDS = 30

#: How long a dead letter is ours, in seconds. It stays, and is heard of as often.
_LETTER_VISIBILITY_SECONDS = 120

#: How often the depths and the dead letters are looked at, in seconds.
_DEPTHS_SECONDS = 2.0
_DEAD_SECONDS = 10.0

_PROBE_PAUSE_SECONDS = 2.0

#: How often a function is tried that ends without an answer of its own: an environment may fail to start, once.
_PROBE_ATTEMPTS = 3

#: How often it is looked whether someone has halted the run, in seconds: a request each time.
_HALTED_SECONDS = 5.0

#: How long AWS may be out of reach, or the credentials of no use, before a run that goes on without us is left alone.
LOST_SECONDS = 900.0

#: Pauses before AWS is asked again, in seconds: the first, and the longest; and how often that is said.
_LOST_PAUSES = (1.0, 15.0)
_LOST_SAY_SECONDS = 60.0

#: How long nobody may answer where a run is to be stopped, in seconds, before it is left to a teardown.
_UNHEARD_SECONDS = 20.0

_HALTED_HINT = "what was copied stays; another run with --no-overwrite copies the rest"

T = TypeVar("T")


class LambdaEngine:
    """An Engine in AWS; everything it makes is named and tagged by the run's id."""

    name = "lambda"
    goes_on = True

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
        adopts: bool = False,
    ) -> None:
        """Run the job that the checks allowed; one that `adopts` finds everything made, and goes on with it.

        `say` is told of every step and `detail` of every resource. `sleep` waits while there is work and may raise to
        stop it; `rest` waits while things are unmade and does not.
        """
        self._adopts = adopts
        self._keeps = settings.keep
        self._said_queued = False
        self._halted_seen_at = float("-inf")
        self._halted: Halted | None = None
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
        #: Of multipart uploads; a run that was begun by another command may have left some.
        self._signs = Signs(possible=adopts)
        self.sent_until = 0.0
        self.left: tuple[str, ...] = ()

    # -------------------------------------------------------------------------------------------- making and unmaking

    def __enter__(self) -> Self:
        """Make the queues, the role, the functions and the mappings, or find them."""
        job, region = self._found.job, self._found.region
        if self._adopts:
            self._deployed = self._adopt()
            return self
        stack = plan(job, self._found.identity, region, self._settings, self._version, self._created, self._found.keys)
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

    def _adopt(self) -> Deployed:
        """Find what an earlier command made; raises CountsIncomplete where some of it is gone, after the rest is gone, too."""
        try:
            return self._patiently(self._find_made, f"looking for run {self._names.run_id}")
        except (CountsIncomplete, Interrupted) as error:
            self.__exit__(type(error), error, None)
            raise
        except Detached:
            raise
        except NotPermitted as error:
            raise self._lost(Lack.CREDENTIALS, error) from error
        except (S3BulkCopyError, ClientError, BotoCoreError) as error:
            raise self._lost(Lack.NETWORK, translate(error, "looking for the run")) from error

    def _find_made(self) -> Deployed:
        region, names = self._found.region, self._names
        urls = discover.queue_urls(self._session, region, names)
        size = discover.message_bytes(self._session, region, urls.get("copy", "")) if len(urls) == len(names.queues) else None
        if size is None:
            raise CountsIncomplete(
                f"run {names.run_id} is gone from {region}: it was torn down, and what it had not yet reported is not known",
                hint=f"what it left, if anything, goes with `s3bulkcopy teardown {names.run_id}`; what is missing at the "
                "destination is copied by another run with --no-overwrite",
            )
        return Deployed(urls, size)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        """Unmake everything, unless the run goes on without us; after an error the workers are stopped first."""
        if isinstance(error, Detached):
            return
        if error is not None:
            if unheard := self._why_unheard():
                self.left += (str(teardown.everything(self._names.run_id, self._found.region, unheard)),)
                return
            with suppress(S3BulkCopyError):  # teardown says what is left
                self._halt()
        if self._settings.keep_failed and isinstance(error, ObjectsFailed):
            self._keeps = True
        if self._signs.known or self._signs.possible or error is not None:
            self._abort_uploads()
        if not self._keeps:
            self._unmake(frozenset())

    def _why_unheard(self) -> str:
        """Say why nobody answers, having asked for a while; nothing where AWS does.

        Each request of a teardown is patient. Whoever stops a command that has no network would wait for all of them.
        """
        give_up_at = self._clock() + _UNHEARD_SECONDS
        while True:
            try:
                with self._session.hasty():
                    discover.queue_url(self._session, self._found.region, self._names.queues["reports"])
            except S3BulkCopyError as error:
                if lack(error) is not Lack.NETWORK or isinstance(error.__cause__, ClientError):
                    return ""
                if self._clock() >= give_up_at:
                    return error.message
                self._rest(_LOST_PAUSES[0])
            else:
                return ""

    def keep(self) -> None:
        """Leave everything in place on leaving, with nobody at work: for a run that ended, and is to be looked into."""
        self._keeps = True
        with suppress(S3BulkCopyError):  # mappings of empty queues do no harm
            teardown.quiet(self._session, self._found.region, self._names.run_id, say=self._say, sleep=self._rest)

    def _halt(self) -> None:
        teardown.halt(self._session, self._found.region, self._names.run_id, say=self._say, sleep=self._rest)

    def _unmake(self, spared: frozenset[str]) -> None:
        done = teardown.teardown(
            self._session, self._found.region, self._names.run_id, say=self._say, sleep=self._rest, leave=spared
        )
        self.left += tuple(map(str, done.left))

    def _abort_uploads(self) -> None:
        """Abort what multipart uploads are left, now that nobody works on them."""
        job = self._found.job
        if not job.destination.bucket:  # a run that was taken over, and does not say where it copies to
            return
        swept = uploads.sweep(self._session, job.destination, self._names.run_id, job)
        swept.say_aborted(self._say)
        self.left += tuple(map(str, swept.left_if(is_known=self._signs.known)))

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
        listing = ListTask(task_id, self.job, (Range("", None),))
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
        self._signs.look_at(event)
        return Proof((event,), len(first_items) - int(answer["rest"]))

    def _probe(self, function: str, task: Task) -> dict[str, Any]:
        payload = json.dumps({"probe": encode_task(task)})
        give_up_at = self._clock() + PROVE_SECONDS
        said = ""
        crashes = 0
        while True:
            answer = self._invoke(function, payload)
            if (crash := answer.get("crash")) is not None:
                crashes += 1
                if crashes < _PROBE_ATTEMPTS:
                    continue
                raise DeployFailed(
                    f"function {function} failed its probe: {crash}", hint=f"its log group is /aws/lambda/{function}"
                )
            if answer.get("ok"):
                return answer
            if not answer["passing"] or self._clock() > give_up_at:
                raise _not_proven(answer, self._found, self._settings.role_arn)
            waiting = (
                f"waiting until {answer['action']} on {answer['what']} succeeds, for two minutes at most: {answer['cause']}"
            )
            if waiting != said:
                self._say(said := waiting)
            self._sleep(_PROBE_PAUSE_SECONDS)

    def _invoke(self, function: str, payload: str) -> dict[str, Any]:
        """Invoke a function; gives its answer, with `crash` where it ended without one of its own."""
        try:
            answer = self._client("lambda").invoke(FunctionName=function, Payload=payload.encode())
            body = json.loads(answer["Payload"].read() or b"null")
        except (ClientError, BotoCoreError, ValueError) as error:
            raise translate(error, f"invoking {function}") from error
        return {"crash": body} if answer.get("FunctionError") or not isinstance(body, dict) else body

    # -------------------------------------------------------------------------------------------------------- queues

    def submit(self, tasks: Sequence[Task]) -> None:
        """Send tasks; what a batch refuses is sent again."""
        urls = self._made.queue_urls
        for kind, role in ((Listing, "list"), (Copying, "copy")):
            bodies = [encode_task(task) for task in tasks if isinstance(task, kind)]
            for batch in _in_batches(bodies, self._made.message_bytes):
                self._send(urls[role], batch)
        if not self._said_queued:
            self._say("queued; a mapping takes up to a minute to become active")
        self._said_queued = True

    def _send(self, url: str, bodies: list[str]) -> None:
        left = {str(n): body for n, body in enumerate(bodies)}
        for pause in (0.2, 1.0, 3.0, 10.0, 0.0):
            entries = [{"Id": name, "MessageBody": body} for name, body in left.items()]
            answer = self._ask_sqs("send_message_batch", f"sending to {url}", QueueUrl=url, Entries=entries)
            for entry in answer.get("Successful", ()):
                left.pop(entry["Id"], None)
            if not left:
                return
            refused = answer.get("Failed", ())
            self._sleep(pause)
        raise S3BulkCopyError(f"queue {url} does not take messages: {refused[0].get('Message') if refused else ''}")

    def poll(self, seconds: float) -> list[Event]:
        """Give the events that workers sent, and the tasks that died.

        Raises Halted where someone has halted the run, once there is no more to hear of what was done until then.
        """
        self._look_whether_halted()
        events: list[Event] = []
        wait = int(seconds)
        while len(events) < _POLL_MESSAGES:
            messages = self._receive("reports", wait)
            for message in messages:
                self._receipts.append(message["ReceiptHandle"])
                sent = int(message.get("Attributes", {}).get("SentTimestamp", 0)) / 1000
                self.sent_until = max(self.sent_until, sent)
                with suppress(MalformedMessage):
                    event = decode_event(message["Body"])
                    if not isinstance(event, Nothing):
                        events.append(event)
                        self._signs.look_at(event)
            if len(messages) < BATCH_MESSAGES:
                break
            wait = 0
        if self._halted and not events:
            raise self._halted
        return events + self._dead_letters()

    def _receive(self, role: str, wait_seconds: int) -> list[dict[str, Any]]:
        answer = self._ask_sqs(
            "receive_message",
            f"receiving from the {role} queue",
            QueueUrl=self._made.queue_urls[role],
            MaxNumberOfMessages=BATCH_MESSAGES,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=_EVENT_VISIBILITY_SECONDS if role == "reports" else _LETTER_VISIBILITY_SECONDS,
            # Who comes back to a run wants to know how long it took, which is not until now.
            **({"MessageSystemAttributeNames": ["SentTimestamp"]} if self._adopts else {}),
        )
        return list(answer.get("Messages", ()))

    def _look_whether_halted(self) -> None:
        if self._clock() - self._halted_seen_at < _HALTED_SECONDS:
            return
        if self._halted:  # what is still reported after that long is not waited for
            raise self._halted
        self._halted_seen_at = self._clock()
        queue = discover.FoundResource("queue", "reports", self._made.queue_urls["reports"])
        with self._session.hasty():
            when = (discover.tags_of(self._session, self._found.region, queue) or {}).get("s3bulkcopy:halted")
        if when is not None:
            self._halted = Halted(f"run {self._names.run_id} was halted at {when}", hint=_HALTED_HINT)

    # ------------------------------------------------------------------------------------------------------ patience

    def _ask_sqs(self, operation: str, doing: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - boto3's
        """Ask SQS, as often as it takes; raises Halted where the queue is gone, since we did not remove it."""

        def ask() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self._client("sqs"), operation)(**arguments)
            return answer

        try:
            return self._patiently(ask, doing)
        except ClientError as error:
            if discover.is_gone(error):
                gone = f"the queues of run {self._names.run_id} are gone: someone has torn it down"
                raise Halted(gone, hint=_HALTED_HINT) from error
            raise translate(error, doing) from error
        except BotoCoreError as error:
            raise translate(error, doing) from error

    def _patiently(self, call: Callable[[], T], doing: str) -> T:
        """Call until there is an answer: while we cannot be heard, the run goes on in the cloud.

        A machine may have slept, a network be gone, credentials have expired; raises OutOfReach or SignedOut after a
        quarter of an hour of that, and what the call raises where something else is the matter.
        """
        since = said_at = None
        pause, longest = _LOST_PAUSES
        while True:
            try:
                with self._session.hasty():
                    answer = call()
            except (ClientError, BotoCoreError, S3BulkCopyError) as error:
                what = lack(error)
                if what is None:
                    raise
                known, now = translate(error, doing), self._clock()
                since = now if since is None else since
                if now - since >= LOST_SECONDS:
                    raise self._lost(what, known) from error
                if said_at is None or now - said_at >= _LOST_SAY_SECONDS:
                    said_at = now
                    left = f"for {(since + LOST_SECONDS - now) / 60:.0f} more minutes"
                    self._say(f"asking again {left}, the run goes on meanwhile: {known.message}")
                if what is Lack.CREDENTIALS:
                    with suppress(S3BulkCopyError):  # it is asked again
                        self._session.renew()
                self._sleep(pause)
                pause = min(longest, pause * 2)
            else:
                if since is not None:
                    self._say("connected again")
                return answer

    def _lost(self, what: Lack, known: S3BulkCopyError) -> Detached:
        kind = SignedOut if what is Lack.CREDENTIALS else OutOfReach
        return kind(f"run {self._names.run_id} goes on without this command: {known.message}", hint=known.hint)

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
                        self._signs.look_at(events[-1])
                    else:
                        self._name_stray(message)
        return events

    def _name_stray(self, message: dict[str, Any]) -> None:
        """Say that a message was no task: it concerns nobody's counts, but somebody sent it."""
        self._say(f"a message that is no task of this run ended as a dead letter: {message['Body'][:80]!r}")

    def ack(self) -> None:
        """Delete the events of the last poll from their queue."""
        receipts, self._receipts = self._receipts, []
        # What is not deleted comes again and changes nothing; so nobody is to wait for an answer that does not come.
        with suppress(ClientError, BotoCoreError), self._session.hasty():
            for start in range(0, len(receipts), BATCH_MESSAGES):
                batch = enumerate(receipts[start : start + BATCH_MESSAGES])
                entries = [{"Id": str(n), "ReceiptHandle": handle} for n, handle in batch]
                self._client("sqs").delete_message_batch(QueueUrl=self._made.queue_urls["reports"], Entries=entries)

    def depths(self) -> Depths:
        """Give the queues' depths, read every two seconds; where SQS does not tell them, those that it told last."""
        now = self._clock()
        if now - self._depths_read_at >= _DEPTHS_SECONDS:
            self._depths_read_at = now
            with suppress(S3BulkCopyError), self._session.hasty():
                self._last_depths = self._read_depths()
        return self._last_depths

    def under_way(self) -> Counts:
        """Give nothing: a worker reports when a task has ended."""
        return Counts()

    def hand_on(self) -> list[Event]:
        """Do nothing: where a command stops a run, the workers are halted, and where it leaves one, they go on."""
        return []

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

        def settle() -> None:
            teardown.quiet(self._session, self._found.region, self._names.run_id, say=self._say, sleep=self._sleep)

        self._patiently(settle, "waiting for the workers")
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


def _not_proven(answer: dict[str, Any], found: Preflight, role_arn: str | None) -> S3BulkCopyError:
    what = f"the workers may not {answer['action']} on {answer['what']}" if answer["action"] else "the probe failed"
    if not answer["denied"]:
        return DeployFailed(f"{what}: {answer['cause']}")
    hint = "look at the bucket policies (and key policies) of source and destination: the run's role needs to be let in"
    more = what_lets_in(found, role_arn, answer["cause"])
    return NotPermitted(f"{what}: {answer['cause']}", hint=f"{hint}. {more}" if more else hint)

"""The SQS requests that workers send: batches of messages, and the visibility of one."""

from __future__ import annotations

import json
import time
from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from s3bulkcopy.worker import aio, urls
from s3bulkcopy.worker.connections import Host
from s3bulkcopy.worker.failures import Failed, Fault, Next, classify, lost
from s3bulkcopy.worker.model import to_json
from s3bulkcopy.worker.sigv4 import Credentials, Signer, amz_date

if TYPE_CHECKING:
    from collections.abc import Callable

_OK, _BAD_REQUEST = 200, 400

#: Most messages in one SendMessageBatch (SQS API reference).
BATCH_MESSAGES = 10

#: How long a request may take, in seconds.
REQUEST_SECONDS = 20.0

#: Batches on their way to one queue at a time.
_BATCHES_IN_FLIGHT = 4

#: How long a message is offered to a queue that does not take it, in seconds.
_SEND_SECONDS = 30.0


class Sqs:
    """Sends requests to SQS in the JSON protocol; one per environment."""

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        region: str,
        *,
        endpoint: str | None = None,
        now: Callable[[], float] = time.time,
        host: Callable[[str], Host] = lambda url: Host(url=url),
    ) -> None:
        """Take where credentials and the time come from.

        `endpoint` is where to ask in place of the queue URL's own host: what botocore's endpoint rules give, or an emulator
        tells its workers.
        """
        self._credentials = credentials
        self._region = region
        self._endpoint = endpoint
        self._now = now
        self._open_host = host
        self._hosts: dict[str, Host] = {}
        #: Of the credentials that were last used.
        self._signer: Signer | None = None

    def close(self) -> None:
        """Drop the idle connections."""
        for host in self._hosts.values():
            host.close()

    async def send(self, queue_url: str, bodies: list[str]) -> list[Fault | None]:
        """Send up to ten messages; give for each None where it was accepted, or why not."""
        entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies)]
        answer = await self._ask("SendMessageBatch", {"QueueUrl": queue_url, "Entries": entries})
        if isinstance(answer, Fault):
            return [answer] * len(bodies)
        accepted = {entry["Id"] for entry in answer.get("Successful", ())}
        refused = {
            entry["Id"]: classify(_BAD_REQUEST, entry.get("Code", ""), entry.get("Message", ""))
            if entry.get("SenderFault")
            else Fault(Next.RETRY, entry.get("Code", "Failed"), entry.get("Message", ""))
            for entry in answer.get("Failed", ())
        }
        unknown = Fault(Next.RETRY, "NotMentioned", "the answer does not say what became of the message")
        return [None if str(n) in accepted else refused.get(str(n), unknown) for n in range(len(bodies))]

    async def set_visibility(self, queue_url: str, receipt_handle: str, seconds: int) -> None:
        """Let a received message be delivered again after so many seconds; a refusal leaves it as it is."""
        parameters = {"QueueUrl": queue_url, "ReceiptHandle": receipt_handle, "VisibilityTimeout": seconds}
        await self._ask("ChangeMessageVisibility", parameters)

    async def _ask(self, action: str, parameters: dict[str, Any]) -> dict[str, Any] | Fault:
        scheme, name, _ = urls.split(self._endpoint or parameters["QueueUrl"])
        root = f"{scheme}://{name}"
        host = self._hosts.get(root) or self._hosts.setdefault(root, self._open_host(root))
        try:
            response = await host.exchange(self._write(name, action, parameters), REQUEST_SECONDS)
            body = json.loads(response.body or b"{}")
        except (OSError, ValueError) as error:
            return lost(error)
        if not isinstance(body, dict):
            return Fault(Next.RETRY, "IncompleteAnswer", "an answer that is no JSON object")
        if response.status == _OK:
            return body
        code = str(body.get("__type", "")).rpartition("#")[2]
        return classify(response.status, code, str(body.get("message") or body.get("Message") or ""))

    def _write(self, netloc: str, action: str, parameters: dict[str, Any]) -> bytes:
        body = to_json(parameters).encode()
        credentials = self._credentials()
        headers = {
            "content-type": "application/x-amz-json-1.0",
            "host": netloc,
            "x-amz-date": amz_date(self._now()),
            "x-amz-target": f"AmazonSQS.{action}",
        }
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        if self._signer is None or self._signer.credentials is not credentials:
            self._signer = Signer(credentials, "sqs", self._region)
        authorization = self._signer.sign("POST", "/", "", headers, sha256(body).hexdigest(), headers["x-amz-date"])
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST / HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\nAuthorization: {authorization}\r\n\r\n"
        return head.encode("latin-1") + body


class Outbox:
    """Sends messages to one queue, as many in a request as wait; `put` returns once its message was accepted.

    The `Failed` list of every answer is read, and what it names is sent again, as is what has an unknown outcome: the
    message is the same, so a receiver that knows it already takes it once.
    """

    def __init__(
        self,
        sqs: Sqs,
        queue_url: str,
        *,
        message_bytes: int,
        pauses: Callable[[int], float],
        patience: float = _SEND_SECONDS,
    ) -> None:
        """Send to a queue whose batches may have `message_bytes`; `pauses(n)` is the pause before the n-th repetition."""
        self._sqs = sqs
        self._queue_url = queue_url
        self._batch_bytes = message_bytes
        self._pauses = pauses
        self._patience = patience
        self._waiting: deque[tuple[str, aio.Future]] = deque()
        self._senders: set[aio.Task] = set()
        #: Whether the queue ever took a message: from then on a denial is not a permission on its way.
        self._proven = False

    async def put(self, body: str) -> None:
        """Send a message; raises Failed where the queue does not take it for so long that we give up."""
        accepted: aio.Future = aio.get_running_loop().create_future()
        self._waiting.append((body, accepted))
        if len(self._senders) < _BATCHES_IN_FLIGHT:
            self._senders.add(aio.create_task(self._send()))
        await accepted

    async def stop(self) -> None:
        """End what nobody waits for any more, so that nothing is pending; a message not accepted yet is dropped."""
        senders = [*self._senders]
        for sender in senders:
            sender.cancel()
        await aio.gather(*senders, return_exceptions=True)
        self._senders.clear()  # a sender that never began cannot take itself out
        self._waiting.clear()

    async def _send(self) -> None:
        try:
            while batch := self._next_batch():
                try:
                    await self._deliver(batch)
                except Exception as error:  # noqa: BLE001 - whoever waits for the messages gets it
                    for _, accepted in batch:
                        if not accepted.done():
                            accepted.set_exception(error)
        finally:
            # Here rather than in a callback, which runs a turn later: a message put in between would find no sender.
            self._senders.discard(aio.current_task())

    def _next_batch(self) -> list[tuple[str, aio.Future]]:
        batch: list[tuple[str, aio.Future]] = []
        size = 0
        while self._waiting and len(batch) < BATCH_MESSAGES:
            size += len(self._waiting[0][0])
            if batch and size > self._batch_bytes:
                break
            message = self._waiting.popleft()
            if not message[1].done():  # else whoever waited was cancelled
                batch.append(message)
        return batch

    async def _deliver(self, batch: list[tuple[str, aio.Future]]) -> None:
        loop = aio.get_running_loop()
        give_up_at = loop.time() + self._patience
        tries = 0
        while batch:
            outcomes = await self._sqs.send(self._queue_url, [body for body, _ in batch])
            again = []
            for message, fault in zip(batch, outcomes, strict=True):
                if message[1].done():
                    continue
                if fault is None:
                    self._proven = True
                    message[1].set_result(None)
                elif self._is_final(fault) or loop.time() > give_up_at:
                    message[1].set_exception(Failed(fault, "sending a message"))
                else:
                    again.append(message)
            batch = again
            tries += 1
            if batch:
                await aio.sleep(self._pauses(tries))

    def _is_final(self, fault: Fault) -> bool:
        return fault.next not in (Next.RETRY, Next.SLOW_DOWN) and (self._proven or fault.next is not Next.DENIED)

"""What the worker's tests share: time that passes only when everything waits, and an S3 and an SQS behind the HTTP client.

The fakes read the very bytes that the worker would put on the wire, and answer with the documents of the real services.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import parse_qsl, quote_plus, unquote, urlsplit

from hypothesis import strategies as st

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.connections import ConnectionLost, Host
from s3bulkcopy.worker.http import Response
from s3bulkcopy.worker.model import MAX_KEY_BYTES, CopyTask, Item, Job, ListTask, Location, Range, Task
from s3bulkcopy.worker.s3 import S3
from s3bulkcopy.worker.sigv4 import Credentials
from s3bulkcopy.worker.sqs import Sqs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from s3bulkcopy.worker.connections import Receiver
    from tests.unit.worker.multipart_fakes import Multipart

T = TypeVar("T")

CREDENTIALS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "token/+==")
SOURCE = Location("source", "", "eu-west-1", "http://store.test/source")
DESTINATION = Location("destination", "", "eu-west-1", "http://store.test/destination")
JOB = Job("run", SOURCE, DESTINATION)
NOW = 1_700_000_000.0

#: What S3 answers of an object that its owner and everyone may read, and the headers that give a copy the same grants.
ACL = """<?xml version="1.0" encoding="UTF-8"?>
<AccessControlPolicy xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>own</ID></Owner><AccessControlList><Grant>\
<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>own</ID></Grantee>\
<Permission>FULL_CONTROL</Permission></Grant><Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:type="Group"><URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee><Permission>READ</Permission></Grant>\
</AccessControlList></AccessControlPolicy>"""
GRANTS = {"x-amz-grant-full-control": 'id="own"', "x-amz-grant-read": 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'}

# ------------------------------------------------------------------------------------------------------------ strategies

#: Characters that have been trouble somewhere, beside all the others.
characters = st.one_of(
    st.sampled_from("/.%+?#& \t\n\r\0\x01\x7f\x85\xa0<>\"'~=:*ab01\u2028\ufffe\uffff\ue000\U00010000\U0010ffff"),
    st.characters(exclude_categories=["Cs"]),
)


def _within_limit(text: str) -> str:
    return text.encode()[:MAX_KEY_BYTES].decode("utf-8", "ignore")


#: Any legal key, up to 1,024 bytes.
keys = st.one_of(
    st.text(characters, min_size=1, max_size=20),
    st.lists(st.sampled_from(["a", "b", "/", ".", "..", "//", "%2F", "+", " ", "ø", "日", "\U0001f600"]), min_size=1).map(
        "".join
    ),
    st.builds(lambda c, n: _within_limit(c * n) or c, characters, st.integers(1, MAX_KEY_BYTES)),
)
prefixes = st.one_of(st.just(""), st.text(characters, max_size=8))
etags = st.one_of(st.just(""), st.from_regex(r"\A[0-9a-f]{32}(-[1-9][0-9]{0,3})?\Z"))
items = st.builds(Item, keys, st.integers(0, 5 * 1024**4), etags, st.just(""))


def item(key: str, size: int = 1) -> Item:
    """Make an item whose ETag follows from its key and size."""
    return Item(key, size, f"{key.encode().hex()[:24]}{size:08x}")


# ------------------------------------------------------------------------------------------------------------------ time


class VirtualLoop(aio.Loop):
    """An event loop whose clock jumps to the next timer when there is nothing else to do."""

    def __init__(self) -> None:
        """Begin at zero."""
        super().__init__()
        self._seconds = 0.0

    def time(self) -> float:
        """Give the seconds that have passed."""
        return self._seconds

    def _poll(self, seconds: float) -> Iterable[tuple[int, int]]:
        if seconds < 0:
            raise AssertionError("everything waits, and nothing will ever happen")
        self._seconds += seconds
        return ()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time; fails if it leaves anything pending."""

    async def watched() -> T:
        answer = await main
        await aio.sleep(0)
        pending = aio.all_tasks() - {aio.current_task()}
        assert not pending, f"left pending: {pending}"
        return answer

    return aio.run(watched(), VirtualLoop())


# -------------------------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it was on the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Give the path, decoded."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        """Give the parameters, decoded."""
        return dict(parse_qsl(self.target.partition("?")[2].replace("+", "%2B"), keep_blank_values=True))


def parse_request(wire: bytes) -> Request:
    """Read a request; fails where it is none."""
    head, separator, body = wire.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    found = re.fullmatch(r"([A-Z]+) (\S+) HTTP/1\.1", first)
    assert separator, wire
    assert found, first
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs), f"a header twice: {head!r}"
    assert int(headers.get("content-length", "0")) == len(body)
    return Request(found[1], found[2], headers, body)


def answer(status: int, body: str | bytes = b"", **headers: str) -> Response:
    """Make an answer."""
    lines = "".join(f"\r\n{name.replace('_', '-')}: {value}" for name, value in headers.items())
    return Response(status, f"HTTP/1.1 {status} X{lines}\r\n".encode(), body.encode() if isinstance(body, str) else body)


def error(status: int, code: str, message: str = "because", extra: str = "") -> Response:
    """Make an error document as S3 writes it."""
    return answer(
        status,
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{extra}'
        "<RequestId>656c76696e6727732072657175657374</RequestId></Error>",
    )


SLOW_DOWN = error(503, "SlowDown", "Please reduce your request rate.")
DENIED = error(403, "AccessDenied", "Access Denied")
NO_SUCH_KEY = error(404, "NoSuchKey", "The specified key does not exist.")
COPIED = answer(
    200,
    '<?xml version="1.0" encoding="UTF-8"?>\n<CopyObjectResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;x&quot;</ETag></CopyObjectResult>",
)


class _Connection:
    """A connection that answers in virtual time."""

    usable = True

    def __init__(self, host: Host, serve: Callable[[Request], Response], seconds: Callable[[bytes], float]) -> None:
        self.host = host
        self._serve = serve
        self._seconds = seconds
        self._receiver: Receiver | None = None

    def send(self, request: bytes, deadline: float, receiver: Receiver) -> None:
        self.usable, self._receiver = False, receiver
        loop = aio.get_running_loop()
        when = loop.time() + self._seconds(request)
        if when > deadline:
            loop.call_at(deadline, partial(self._end, TimeoutError("no answer in time")))
        else:
            loop.call_at(when, partial(self._answer, request))

    def _answer(self, request: bytes) -> None:
        try:
            response = self._serve(parse_request(request))
        except Exception as error:  # noqa: BLE001 - also one that no network raises: a bug in the code under test
            self._end(error)  # type: ignore[arg-type]
            return
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self.usable = True
            receiver.answered(response)

    def _end(self, error: OSError) -> None:
        receiver, self._receiver = self._receiver, None
        self.usable = False
        if receiver is not None:
            receiver.failed(error)

    def close(self) -> None:
        self._end(ConnectionLost("closed"))


def fake_host(serve: Callable[[Request], Response], seconds: float | Callable[[bytes], float] = 0.05) -> Host:
    """Give a host whose every request is served by a function, after a while."""

    async def dial() -> _Connection:
        return _Connection(host, serve, seconds if callable(seconds) else lambda _: seconds)

    host = Host(dial)
    return host


# -------------------------------------------------------------------------------------------------------------------- S3


def _etag(it: Item) -> str:
    return f"<ETag>&quot;{it.etag}&quot;</ETag>" if it.etag else ""


#: When objects were modified, where nothing else is told.
MODIFIED = "2026-01-01T00:00:00.000Z"


def _class(it: Item) -> str:
    return f"<StorageClass>{it.storage_class or 'STANDARD'}</StorageClass>"


def listing(
    items: Iterable[Item],
    *,
    truncated: bool,
    encode: Callable[[str], str] | None = None,
    token: str = "",
    modified: dict[str, str] | None = None,
    classes: dict[str, str] | None = None,
) -> bytes:
    """Write a ListObjectsV2 answer as S3 does; `encode` replaces its URL encoding.

    Of some keys it may be told when they were modified, and their class, with what stands behind it.
    """
    modified, classes = modified or {}, classes or {}
    write = encode or (lambda key: quote_plus(key, safe="/*"))
    entries = "".join(
        f"<Contents><Key>{write(it.key)}</Key><LastModified>{modified.get(it.key, MODIFIED)}</LastModified>"
        f"{_etag(it)}<Size>{it.size}</Size>{classes.get(it.key) or _class(it)}</Contents>"
        for it in items
    )
    going_on = f"<NextContinuationToken>{token}</NextContinuationToken>" if token and truncated else ""
    encoding = "" if encode else "<EncodingType>url</EncodingType>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>source</Name><Prefix></Prefix><MaxKeys>1000</MaxKeys>{encoding}{going_on}"
        f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>{entries}</ListBucketResult>"
    ).encode()


Scripted = Response | Exception


@dataclass
class FakeS3:
    """A store with one source and one destination, path-style; faults come from a script."""

    objects: dict[str, Item] = field(default_factory=dict)
    page_keys: int = 1000
    #: Faults that a copy of this key meets first, in order.
    copy_faults: dict[str, list[Scripted]] = field(default_factory=lambda: defaultdict(list))
    #: Faults that list requests meet first, in order.
    list_faults: list[Scripted] = field(default_factory=list)
    #: A fault for all copies, from a function of the key and the number of copies asked for so far.
    copy_rule: Callable[[str, int], Scripted | None] = lambda _key, _n: None
    list_rule: Callable[[list[Item], dict[str, str]], list[Item]] = lambda found, _query: found
    copied: dict[str, Item] = field(default_factory=dict)
    copy_requests: Counter[str] = field(default_factory=Counter)
    list_requests: list[dict[str, str]] = field(default_factory=list)
    #: Whether the next page is empty though more follow.
    is_empty: Callable[[], bool] = lambda: False
    #: Whether a page that is not the last has a token.
    has_tokens: bool = True
    #: When objects were modified, and their classes, as a listing has them.
    modified: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    #: How many list requests asked which archived objects are restored.
    restores_asked: int = 0
    lists_under_way: int = 0
    most_lists_under_way: int = 0
    #: How long the copy of a key takes, in seconds, where it is not as long as all others.
    copy_seconds: dict[str, float] = field(default_factory=dict)
    #: What is copied by parts.
    multipart: Multipart = field(init=False)

    def __post_init__(self) -> None:
        """Have nothing that is copied by parts."""
        from tests.unit.worker.multipart_fakes import Multipart  # noqa: PLC0415 - it needs what is here

        self.multipart = Multipart(self.objects.get, self.copied.get)

    @classmethod
    def of(cls, items: Iterable[Item], **more: Any) -> Self:
        """Make a store that holds these items."""
        return cls({it.key: it for it in items}, **more)

    def client(self, seconds: float = 0.05) -> S3:
        """Give the worker's client of this store."""

        def patience(request: bytes) -> float:
            if request.startswith(b"GET /source?"):
                self.lists_under_way += 1
                self.most_lists_under_way = max(self.most_lists_under_way, self.lists_under_way)
            return self.copy_seconds.get(parse_request(request).path[13:], seconds)

        return S3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: fake_host(self.serve, patience))

    def serve(self, request: Request) -> Response:
        """Answer a request."""
        assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
        if (of_parts := self.multipart.serve(request)) is not None:
            return of_parts
        if request.method == "GET":
            assert request.target.partition("?")[0] == "/source"
            self.restores_asked += request.headers.get("x-amz-optional-object-attributes") == "RestoreStatus"
            return self._list(request.query)
        assert request.method == "PUT"
        source = unquote(request.headers["x-amz-copy-source"])
        assert source.startswith("/source/")
        assert request.path.startswith("/destination/")
        return self._copy(source[8:], request.path[13:], request.headers)

    def _list(self, query: dict[str, str]) -> Response:
        self.list_requests.append(query)
        self.lists_under_way -= 1
        if self.list_faults:
            return _raised(self.list_faults.pop(0))
        # A token says behind which key the listing began, and how many items of it were shown.
        after, shown, _ = json.loads(query.get("continuation-token", "null")) or (query.get("start-after", ""), 0, 0)
        prefix = query["prefix"]
        found = self.list_rule(
            sorted(
                (it for key, it in self.objects.items() if key > after and key.startswith(prefix)),
                key=lambda it: it.key.encode(),
            ),
            query,
        )[shown:]
        page = [] if self.is_empty() else found[: min(self.page_keys, int(query["max-keys"]))]
        token = json.dumps((after, shown + len(page), len(self.list_requests))).replace('"', "&quot;").replace("<", "&lt;")
        told = token if self.has_tokens else ""
        is_more = len(page) < len(found)
        return answer(200, listing(page, truncated=is_more, token=told, modified=self.modified, classes=self.classes))

    def _copy(self, key: str, target: str, headers: dict[str, str]) -> Response:
        self.copy_requests[key] += 1
        if self.copy_faults[key]:
            return _raised(self.copy_faults[key].pop(0))
        ruled = self.copy_rule(key, self.copy_requests.total())
        if ruled is not None:
            return _raised(ruled)
        found = self.objects.get(key)
        if found is None:
            return NO_SUCH_KEY
        if headers.get("x-amz-copy-source-if-match", "*") not in ("*", f'"{found.etag}"'):
            return error(412, "PreconditionFailed", extra="<Condition>x-amz-copy-source-If-Match</Condition>")
        if headers.get("if-none-match") == "*" and target in self.copied:
            return error(412, "PreconditionFailed", extra="<Condition>If-None-Match</Condition>")
        self.copied[target] = found
        return COPIED


def _raised(scripted: Scripted) -> Response:
    if isinstance(scripted, Exception):
        raise scripted
    return scripted


# ------------------------------------------------------------------------------------------------------------------- SQS

QUEUES = {name: f"https://sqs.eu-west-1.amazonaws.com/123456789012/run-{name}" for name in ("list", "copy", "reports")}


@dataclass
class FakeSqs:
    """Queues that keep what they are sent; `refuse` may name a Failed entry for a message."""

    sent: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    visibility: list[tuple[str, str, int]] = field(default_factory=list)
    #: Answers that requests meet first, in order.
    faults: list[Scripted] = field(default_factory=list)
    #: The code with which a message is refused, given the queue's name and the message; None accepts it.
    refuse: Callable[[str, str], str | None] = lambda _queue, _body: None
    requests: list[tuple[str, int]] = field(default_factory=list)

    def client(self, seconds: float = 0.01) -> Sqs:
        """Give the worker's client of these queues."""
        return Sqs(lambda: CREDENTIALS, "eu-west-1", now=lambda: NOW, host=lambda _: fake_host(self.serve, seconds))

    def serve(self, request: Request) -> Response:
        """Answer a request."""
        action = request.headers["x-amz-target"].removeprefix("AmazonSQS.")
        parameters = json.loads(request.body)
        if self.faults:
            return _raised(self.faults.pop(0))
        queue = urlsplit(parameters["QueueUrl"]).path.rpartition("-")[2]
        if action == "ChangeMessageVisibility":
            self.visibility.append((queue, parameters["ReceiptHandle"], parameters["VisibilityTimeout"]))
            return answer(200, "{}")
        assert action == "SendMessageBatch"
        entries = parameters["Entries"]
        self.requests.append((queue, len(entries)))
        assert 1 <= len(entries) <= 10
        refused = {e["Id"]: code for e in entries if (code := self.refuse(queue, e["MessageBody"])) is not None}
        self.sent[queue] += [e["MessageBody"] for e in entries if e["Id"] not in refused]
        return answer(
            200,
            json.dumps(
                {
                    "Successful": [{"Id": e["Id"], "MessageId": "m"} for e in entries if e["Id"] not in refused],
                    "Failed": [
                        {"Id": name, "Code": code, "SenderFault": code == "InvalidMessageContents"}
                        for name, code in refused.items()
                    ],
                }
            ),
        )


# ----------------------------------------------------------------------------------------------------------------- queue


@dataclass
class Queue:
    """Accepts tasks, each after a while; `refuse` may raise."""

    seconds: float = 0.02
    refuse: Callable[[Task], None] = lambda _task: None
    accepted: list[Task] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0

    async def __call__(self, task: Task, /) -> None:
        """Accept a task, after a while."""
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await aio.sleep(self.seconds)
            self.refuse(task)
            self.accepted.append(task)
        finally:
            self.under_way -= 1

    @property
    def items(self) -> list[Item]:
        """Give the items of all CopyTasks, by the numbers of these."""
        ordered = sorted((t for t in self.accepted if isinstance(t, CopyTask)), key=lambda t: number(t.id))
        return [it for task in ordered for it in task.items]

    def items_of(self, nonce: str) -> list[Item]:
        """Give the items that one attempt handed on."""
        found = (task for task in self.accepted if isinstance(task, CopyTask) and task.id.startswith(f"{nonce}."))
        return [it for task in found for it in task.items]

    @property
    def ranges(self) -> list[Range]:
        """Give the ranges that were handed on or given away."""
        return self.ranges_of("")

    def ranges_of(self, nonce: str) -> list[Range]:
        """Give the ranges that one attempt handed on or gave away."""
        found = (task for task in self.accepted if isinstance(task, ListTask) and task.id.startswith(nonce))
        return [piece for task in found for piece in task.ranges]


def number(name: str) -> int:
    """Give the number of a child, out of its id."""
    return int(name.rpartition(".")[2])

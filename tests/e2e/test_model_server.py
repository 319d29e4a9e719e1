"""The server that benchmarks measure against, over the network and through our own client."""

from __future__ import annotations

import re
from http.client import HTTPConnection
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import quote, urlsplit

import pytest
from model_server import ModelServer, Throttle, shaped_keys

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.failures import Fault
from s3bulkcopy.worker.model import Item, Job, Location
from s3bulkcopy.worker.s3 import S3
from s3bulkcopy.worker.sigv4 import Credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

CREDENTIALS = Credentials("test", "test")


class Answer(NamedTuple):
    """What came back, and whether the server means to close the connection."""

    status: int
    body: str
    closes: bool


class Client:
    """Plain requests on one connection."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        wire = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, quote(path, safe="/?&=%-*"), body, wire)
        answer = self._connection.getresponse()
        return Answer(answer.status, answer.read().decode(), answer.will_close)

    def copy(self, source: str, target: str, **headers: str) -> Answer:
        return self.ask("PUT", target, b"", x_amz_copy_source=quote(source), **headers)


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    """A server without limits; each test has buckets of its own."""
    buckets = ("pages=date:2500", "odd=odd:40", "here=hex:30", "many=seq:10", "there=hex:0")
    with ModelServer(*(word for bucket in buckets for word in ("--objects", bucket))) as running:
        yield running


@pytest.fixture
def client(server: ModelServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def place(server: ModelServer, bucket: str) -> Location:
    return Location(bucket, "", "us-east-1", f"{server.url}/{bucket}")


async def listed(s3: S3, where: Location) -> list[Item]:
    found: list[Item] = []
    while True:
        page = await s3.page(where, where.prefix, found[-1].key if found else "")
        assert not isinstance(page, Fault), page
        found += page.items
        if not page.truncated:
            return found


def keys_in(answer: Answer) -> list[str]:
    return re.findall("<Key>(.*?)</Key>", answer.body)


@pytest.mark.parametrize(("bucket", "shape", "count"), [("pages", "date", 2500), ("odd", "odd", 40)])
def test_our_client_lists_every_key_in_order(server: ModelServer, bucket: str, shape: str, count: int) -> None:
    async def main() -> list[Item]:
        s3 = S3(lambda: CREDENTIALS)
        items = await listed(s3, place(server, bucket))
        s3.close()
        return items

    assert [item.key for item in aio.run(main())] == sorted(shaped_keys(shape, count))


def test_our_client_copies_odd_keys(server: ModelServer, client: Client) -> None:
    async def main() -> tuple[list[Fault | None], list[Item], list[Item]]:
        s3 = S3(lambda: CREDENTIALS)
        source, destination = place(server, "odd"), place(server, "odd-copy")
        copies = s3.copies(Job("run", source, destination))
        items = await listed(s3, source)
        faults = [await copies.copy(item) for item in items]
        copied = await listed(s3, destination)
        s3.close()
        return faults, items, copied

    client.ask("PUT", "/odd-copy")
    faults, items, copied = aio.run(main())

    assert (set(faults), copied) == ({None}, items)


def test_a_listing_goes_on_behind_its_token(client: Client) -> None:
    first = client.ask("GET", "/many?list-type=2&max-keys=4&prefix=data/")
    token = re.findall("<NextContinuationToken>(.*?)</NextContinuationToken>", first.body)[0]
    second = client.ask("GET", f"/many?list-type=2&max-keys=1000&prefix=data/&continuation-token={quote(token)}")

    assert keys_in(first) + keys_in(second) == list(shaped_keys("seq", 10))
    assert ("true" in first.body, "<IsTruncated>false<" in second.body) == (True, True)


def test_the_older_listing_goes_on_behind_its_marker(client: Client) -> None:
    first = client.ask("GET", "/many?max-keys=4")
    marker = keys_in(first)[-1]

    assert keys_in(first) + keys_in(client.ask("GET", f"/many?marker={marker}")) == list(shaped_keys("seq", 10))


def test_a_delimiter_rolls_keys_up_across_pages(client: Client) -> None:
    found, token = [], ""
    while True:
        query = f"/pages?list-type=2&delimiter=/&prefix=logs/2026/01/&max-keys=7{token}"
        answer = client.ask("GET", query)
        found += re.findall("<CommonPrefixes><Prefix>(.*?)</Prefix>", answer.body)
        following = re.findall("<NextContinuationToken>(.*?)</NextContinuationToken>", answer.body)
        if not following:
            break
        token = f"&continuation-token={quote(following[0])}"

    assert found == [f"logs/2026/01/{day:02}/" for day in range(1, 31)]


def test_a_copy_is_bound_to_the_etag_of_its_source(client: Client) -> None:
    key = next(shaped_keys("hex", 1))

    refused = client.copy(f"/here/{key}", "/there/pinned", x_amz_copy_source_if_match='"0"')

    assert (refused.status, client.ask("HEAD", "/there/pinned").status) == (412, 404)


def test_a_copy_leaves_what_exists_alone_if_so_asked(client: Client) -> None:
    key = next(shaped_keys("hex", 1))

    answers = [client.copy(f"/here/{key}", "/there/once", If_None_Match="*").status for _ in range(2)]

    assert answers == [200, 412]


def test_what_is_not_there_is_answered_404(client: Client) -> None:
    key = next(shaped_keys("hex", 1))
    asked = [
        client.copy("/here/nothing", "/there/x"),
        client.copy(f"/here/{key}", "/nowhere/x"),
        client.copy("/nowhere/x", "/there/x"),
        client.ask("GET", "/here/nothing"),
        client.ask("GET", "/nowhere?list-type=2"),
    ]

    codes = [(answer.status, re.findall("<Code>(.*?)</Code>", answer.body)[0]) for answer in asked]
    no_key, no_bucket = (404, "NoSuchKey"), (404, "NoSuchBucket")
    assert codes == [no_key, no_bucket, no_bucket, no_key, no_bucket]


def test_objects_come_and_go(client: Client) -> None:
    put = client.ask("PUT", "/there/new", b"12345")
    held = client.ask("GET", "/there/new")
    gone = [client.ask("DELETE", "/there/new").status, client.ask("HEAD", "/there/new").status]

    assert (put.status, held.status, len(held.body), gone) == (200, 200, 5, [204, 404])


def test_many_objects_are_deleted_by_one_request(client: Client) -> None:
    for name in ("a", "b&c"):
        client.ask("PUT", f"/there/bulk/{quote(name)}")
    keys = "<Object><Key>bulk/a</Key></Object><Object><Key>bulk/b&amp;c</Key></Object>"

    client.ask("POST", "/there?delete=", f"<Delete>{keys}</Delete>".encode())

    assert keys_in(client.ask("GET", "/there?list-type=2&prefix=bulk/")) == []


def test_a_partition_takes_its_rate_and_refuses_the_rest() -> None:
    arguments = ("--objects", "src=seq:1", "--objects", "dst=hex:0", "--rate-per-partition", "1", "--partition-chars", "1")
    with ModelServer(*arguments) as server, Client(server.url) as client:
        answers = [client.copy("/src/data/000000000000.parquet", f"/dst/{key}").status for key in ("a1", "a2", "a3", "b1")]
        stats = server.stats()

    assert answers == [200, 503, 503, 200]
    assert (stats["requests"], stats["slow_downs"], stats["buckets"]) == ({"copy": 4}, 2, {"src": 1, "dst": 2})


def test_a_partition_fills_up_to_one_second_of_its_rate() -> None:
    times = [0.0, 0.0, 0.0, 0.5, 0.5, 9.0, 9.0, 9.0]
    clock = iter(times)
    throttle = Throttle(2, 1, lambda: next(clock))

    passed = [throttle.admits(b"bucket", b"key") for _ in times]

    assert passed == [True, True, False, True, False, True, True, False]


def test_chance_is_the_same_each_time() -> None:
    def outcomes() -> tuple[list[tuple[int, bool]], dict[str, int]]:
        arguments = ("--fail-503", "0.2", "--fail-500", "0.2", "--fail-200", "0.2", "--seed", "7")
        with (
            ModelServer("--objects", "src=seq:1", "--objects", "dst=hex:0", *arguments) as server,
            Client(server.url) as client,
        ):
            answers = [client.copy("/src/data/000000000000.parquet", f"/dst/{n}") for n in range(40)]
            return [(answer.status, "<Error>" in answer.body) for answer in answers], server.stats()["buckets"]

    first, second = outcomes(), outcomes()

    assert first == second
    assert set(first[0]) == {(200, False), (200, True), (500, True), (503, True)}
    assert first[1]["dst"] == first[0].count((200, False))


def test_a_failure_of_a_head_request_has_no_body() -> None:
    with ModelServer("--objects", "src=seq:1", "--fail-500", "1") as server, Client(server.url) as client:
        assert [client.ask("HEAD", "/src").status for _ in range(3)] == [500, 500, 500]
        assert server.stats()["connections"] == 2


def test_a_connection_is_closed_after_so_many_requests() -> None:
    with ModelServer("--objects", "src=seq:1", "--close-after", "3") as server, Client(server.url) as client:
        assert [client.ask("HEAD", "/src").closes for _ in range(4)] == [False, False, True, False]
        assert server.stats()["connections"] == 3


def test_an_access_key_expires_after_so_many_requests() -> None:
    def ask(client: Client, key: str) -> int:
        return client.ask("GET", "/src", Authorization=f"AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1").status

    with ModelServer("--objects", "src=seq:1", "--expire-after", "2") as server, Client(server.url) as client:
        assert [ask(client, key) for key in ("old", "old", "old", "new", "old")] == [200, 200, 400, 200, 400]


def test_a_connection_is_reset_by_chance() -> None:
    with ModelServer("--fail-reset", "1") as server, Client(server.url) as client, pytest.raises(ConnectionError):
        client.ask("HEAD", "/src")


def test_a_connection_is_reset_after_a_copy_by_chance() -> None:
    arguments = ("--objects", "src=seq:1", "--objects", "dst=seq:0", "--fail-reset-after", "1")
    with ModelServer(*arguments) as server, Client(server.url) as client:
        with pytest.raises(ConnectionError):
            client.copy("/src/data/000000000000.parquet", "/dst/a")
        with Client(server.url) as other:
            assert other.ask("HEAD", "/dst/a").status == 200


def test_answers_wait_for_their_time_together() -> None:
    with ModelServer("--objects", "src=seq:1", "--objects", "dst=hex:0", "--copy-ms", "40", "--list-ms", "20") as server:

        async def main() -> list[Fault | None]:
            s3 = S3(lambda: CREDENTIALS)
            copies = s3.copies(Job("run", place(server, "src"), place(server, "dst")))
            item = (await listed(s3, place(server, "src")))[0]
            faults = await aio.gather(*(copies.copy(item) for _ in range(20)))
            s3.close()
            return faults

        assert (aio.run(main()), server.stats()["peak_in_flight"]) == ([None] * 20, 20)


def test_counting_begins_anew(server: ModelServer, client: Client) -> None:
    client.ask("HEAD", "/here")
    server.reset()
    client.ask("HEAD", "/here")

    assert server.stats()["requests"] == {"head_bucket": 1}

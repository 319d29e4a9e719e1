"""A bucket that is in another region, and a clock that is wrong: both are learned from the answers."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import gmtime, strftime, time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.attempts import Budget
from s3bulkcopy.worker.copying import Copier, Outcome
from s3bulkcopy.worker.failures import Failed, Fault, Next, Stop
from s3bulkcopy.worker.http import Response
from s3bulkcopy.worker.model import Attempt, Item, Job, ListTask, Location, Range
from s3bulkcopy.worker.pacing import Pace, full_jitter
from s3bulkcopy.worker.regions import is_elsewhere, moved, told_region
from s3bulkcopy.worker.s3 import S3, Page
from s3bulkcopy.worker.work import Worker
from tests.unit.worker.worker_fakes import (
    COPIED,
    CREDENTIALS,
    NOW,
    answer,
    error,
    fake_host,
    item,
    listing,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3bulkcopy.worker.connections import Host
    from s3bulkcopy.worker.model import Task
    from tests.unit.worker.worker_fakes import Request

# ------------------------------------------------------------------------------------------------------- what answers say


def redirect(bucket: str, region: str, status: int = 301, *, endpoint: str | None = None, header: bool = True) -> Response:
    """Make the answer of S3 to a request for a bucket that is in another region."""
    document = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{"Permanent" if status == 301 else "Temporary"}Redirect</Code>'
        "<Message>The bucket you are attempting to access must be addressed using the specified endpoint.</Message>"
        f"<Endpoint>{endpoint or f'{bucket}.s3-{region}.amazonaws.com'}</Endpoint><Bucket>{bucket}</Bucket></Error>"
    )
    return answer(status, document, **({"x_amz_bucket_region": region} if header else {}))


def malformed(expected: str, found: str = "us-east-1") -> Response:
    """Make the answer of S3 to a signature for another region."""
    message = f"The authorization header is malformed; the region '{found}' is wrong; expecting '{expected}'"
    return error(400, "AuthorizationHeaderMalformed", message, f"<Region>{expected}</Region>")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (redirect("b", "us-west-2"), "us-west-2"),
        (redirect("b", "us-west-2", header=False), "us-west-2"),
        (redirect("b", "us-west-2", header=False, endpoint="s3.dualstack.eu-central-1.amazonaws.com"), "eu-central-1"),
        (redirect("b", "cn-north-1", header=False, endpoint="b.s3.cn-north-1.amazonaws.com.cn"), "cn-north-1"),
        (redirect("b", "", header=False, endpoint="b.s3.amazonaws.com"), None),
        (redirect("b", "", header=False, endpoint="s3.us-west-2.amazonaws.com.evil.test"), None),
        (answer(307, b"", location="https://b.s3-eu-west-3.amazonaws.com/key?x=1"), "eu-west-3"),
        (answer(307, b"", location="https://evil.test/s3.us-west-2.amazonaws.com"), None),
        (answer(301, b"", x_amz_bucket_region="us-gov-west-1"), "us-gov-west-1"),
        (answer(301, b"", x_amz_bucket_region="evil.test/"), None),
        (malformed("ap-southeast-2"), "ap-southeast-2"),
        (malformed("nonsense"), None),
        (answer(301), None),
    ],
)
def test_the_region_that_an_answer_tells_is_found(response: Response, expected: str | None) -> None:
    region = "cn-north-1" if b".cn<" in response.body else "us-east-1"
    assert told_region(response, place(f"https://b.s3.{region}.amazonaws.com{'.cn' * region.startswith('cn')}")) == expected


def place(url: str) -> Location:
    """Give where a bucket is thought to be in the region that its URL names, if that is one of AWS's."""
    region = next(
        (part for part in url.replace("/", ".").split(".") if part.count("-") > 1 and part[-1].isdigit()), "us-east-1"
    )
    elsewhere = url.replace(region, "{region}") if region in url else ""
    return Location(urlsplit(url).path.strip("/") or urlsplit(url).netloc.partition(".")[0], "", region, url, elsewhere)


@pytest.mark.parametrize(
    ("url", "endpoint", "region"),
    [
        ("https://b.s3.us-iso-east-1.c2s.ic.gov", "b.s3.us-iso-west-1.c2s.ic.gov", "us-iso-west-1"),
        ("https://b.s3.us-isob-east-1.sc2s.sgov.gov", "b.s3-us-isob-west-1.sc2s.sgov.gov", "us-isob-west-1"),
        ("https://b.s3.eusc-de-east-1.amazonaws.eu", "b.s3.eusc-de-east-2.amazonaws.eu", "eusc-de-east-2"),
        ("https://b.s3.us-iso-east-1.c2s.ic.gov", "b.s3.us-iso-west-1.amazonaws.com", None),
        ("https://b.s3.us-east-1.amazonaws.com", "b.s3.eu-west-1.amazonawsXcom", None),
    ],
)
def test_redirects_are_understood_in_every_partition(url: str, endpoint: str, region: str | None) -> None:
    answered = redirect("b", "", header=False, endpoint=endpoint)

    assert told_region(answered, place(url)) == region
    if region is not None:
        assert moved(place(url), region).url == f"https://{endpoint.replace('s3-', 's3.')}"


@pytest.mark.parametrize(
    ("url", "elsewhere", "expected"),
    [
        ("https://b.s3.us-east-1.amazonaws.com", "https://b.s3.{region}.amazonaws.com", "https://b.s3.us-west-2.amazonaws.com"),
        ("https://s3.us-east-1.amazonaws.com/b", "https://s3.{region}.amazonaws.com/b", "https://s3.us-west-2.amazonaws.com/b"),
        ("http://127.0.0.1:9000/b", "", "http://127.0.0.1:9000/b"),
        ("https://b.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com", "", "https://b.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com"),
    ],
)
def test_the_new_host_is_what_comes_with_the_location(url: str, elsewhere: str, expected: str) -> None:
    here = Location("b", "p/", "us-east-1", url, elsewhere)

    assert moved(here, "us-west-2") == here._replace(region="us-west-2", url=expected)


@settings(max_examples=200, deadline=None)
@given(
    where=st.sampled_from(["header", "region", "endpoint", "location"]),
    text=st.one_of(
        st.text(max_size=30), st.sampled_from(["[", "s3.us-west-2", "b.s3-us-west-2", "us-west-2/", "x@s3.us-west-2"])
    ),
    is_aws=st.booleans(),
)
def test_nothing_that_an_answer_says_leads_to_a_strange_host(where: str, text: str, *, is_aws: bool) -> None:
    response = {
        "header": lambda: Response(301, f"HTTP/1.1 301\r\nx-amz-bucket-region: {text}\r\n".encode(), b""),
        "region": lambda: Response(400, b"", f"<Region>{text}</Region>".encode()),
        "endpoint": lambda: Response(301, b"", f"<Endpoint>b.s3.{text}.amazonaws.com</Endpoint>".encode()),
        "location": lambda: Response(307, f"HTTP/1.1 307\r\nLocation: https://{text}.amazonaws.com/\r\n".encode(), b""),
    }[where]()
    here = place("https://b.s3.us-east-1.amazonaws.com" if is_aws else "https://store.test/b")
    region = told_region(response, here)
    if region is not None:
        assert moved(here, region).url == (f"https://b.s3.{region}.amazonaws.com" if is_aws else here.url)


def test_which_answers_are_about_the_place() -> None:
    assert [is_elsewhere(*it) for it in [(301, ""), (307, ""), (400, "AuthorizationHeaderMalformed")]] == [True] * 3
    assert [is_elsewhere(*it) for it in [(400, "InvalidRequest"), (403, "AccessDenied"), (503, ""), (404, "")]] == [False] * 4


# ------------------------------------------------------------------------------------------------ S3, in several regions


class Regions:
    """S3 in several regions: each bucket in one, requests anywhere else answered as S3 does."""

    def __init__(self, style: str, **buckets: str) -> None:
        """Take the region of each bucket; `style` names how a stray request is answered."""
        self.style = style
        self.buckets = buckets
        self.hosts: Counter[str] = Counter()
        self.objects = [item(f"k{n:03}") for n in range(200)]
        self.copied: list[str] = []
        self.seconds = 0.05

    def client(self, **more: Any) -> S3:
        """Give a worker's client."""
        return S3(lambda: CREDENTIALS, now=lambda: NOW, host=self.host, **more)

    def host(self, url: str) -> Host:
        """Open the host of a URL: AWS's virtual hosts, or one host for all."""
        name = url.removeprefix("https://")
        return fake_host(lambda request: self.serve(name, request), lambda _: self.seconds)

    def serve(self, host: str, request: Request) -> Response:
        """Answer a request that came to a host."""
        assert request.headers["host"] == host
        self.hosts[host] += 1
        signed_for = request.headers["authorization"].split("/")[2]
        if host.endswith(".amazonaws.com"):
            bucket, _, place = host.removesuffix(".amazonaws.com").partition(".s3")
            asked_in, key = place.lstrip(".") or "us-east-1", request.path[1:]
        else:
            _, bucket, key = f"{request.path}/".split("/", 2)
            asked_in = signed_for
        region = self.buckets[bucket]
        if asked_in != region:
            return redirect(bucket, region, int(self.style)) if self.style != "400" else malformed(region, signed_for)
        if signed_for != region:
            return malformed(region, signed_for)
        if request.method == "GET":
            after = request.query.get("start-after", "")
            left = [it for it in self.objects if it.key > after]
            page = left[: min(50, int(request.query["max-keys"]))]
            return answer(200, listing(page, truncated=len(page) < len(left)))
        self.copied.append(unquote(key.rstrip("/")))
        return COPIED


def job(source: str, destination: str) -> Job:
    """Make a job whose buckets are thought to be in us-east-1."""
    return Job("run", place(source), place(destination))


AWS = job("https://src.s3.us-east-1.amazonaws.com", "https://dst.s3.us-east-1.amazonaws.com")
CUSTOM = job("https://store.test/src", "https://store.test/dst")


@pytest.mark.parametrize("style", ["301", "307"])
def test_a_listing_goes_on_in_the_region_that_it_is_redirected_to(style: str) -> None:
    s3 = Regions(style, src="eu-west-1")

    async def main() -> list[Page | Fault]:
        client = s3.client()
        return [await client.page(AWS.source, "", after) for after in ("", "k049")]

    pages = run(main())
    assert [page.items for page in pages if isinstance(page, Page)] == [tuple(s3.objects[:50]), tuple(s3.objects[50:100])]
    assert s3.hosts == {"src.s3.us-east-1.amazonaws.com": 1, "src.s3.eu-west-1.amazonaws.com": 2}


@pytest.mark.parametrize("style", ["301", "307", "400"])
def test_copies_go_on_in_the_region_that_they_are_redirected_to(style: str) -> None:
    s3 = Regions(style, dst="eu-west-1")

    async def main() -> list[Outcome]:
        one = Copier(s3.client(), Pace(20, 20), full_jitter(lambda: 1.0))
        halves = s3.objects[:100], s3.objects[100:]
        return await aio.gather(*(one.copy(AWS, half, float("inf"), attempt=1) for half in halves))

    outcomes = run(main())
    assert [(out.counts.copied, out.failures, out.rest) for out in outcomes] == [(100, (), ())] * 2
    assert sorted(s3.copied) == [it.key for it in s3.objects]
    there, strays = s3.hosts["dst.s3.eu-west-1.amazonaws.com"], s3.hosts["dst.s3.us-east-1.amazonaws.com"]
    assert (there, sum(out.counts.copy_requests for out in outcomes)) == (200, 200 + strays)
    assert sum(out.counts.retries for out in outcomes) == strays <= 30  # those that were on their way, and one of each task


def test_a_store_under_one_host_has_only_its_signatures_changed() -> None:
    s3 = Regions("400", src="eu-west-1", dst="eu-west-2")

    async def main() -> tuple[Page | Fault, Outcome]:
        client = s3.client()
        one = Copier(client, Pace(20, 20), full_jitter(lambda: 1.0))
        return await client.page(CUSTOM.source, "", ""), await one.copy(CUSTOM, s3.objects, float("inf"), attempt=1)

    page, outcome = run(main())
    assert isinstance(page, Page)
    assert (outcome.counts.copied, len(s3.copied), set(s3.hosts)) == (200, 200, {"store.test"})


def test_a_probe_follows_at_once() -> None:
    s3 = Regions("301", dst="eu-west-1")

    async def main() -> Outcome | Failed:
        return await Copier(s3.client(), Pace(), full_jitter(lambda: 1.0)).probe(AWS, s3.objects[:1])

    outcome = run(main())
    assert isinstance(outcome, Outcome)
    assert (outcome.counts.copied, s3.copied) == (1, ["k000"])


def test_what_was_learned_holds_for_the_tasks_that_follow() -> None:
    s3 = Regions("301", dst="eu-west-1")

    async def main() -> list[Outcome]:
        one = Copier(s3.client(), Pace(5, 5), full_jitter(lambda: 1.0))
        return [await one.copy(AWS, s3.objects[n : n + 10], float("inf"), attempt=1) for n in (0, 10, 20)]

    outcomes = run(main())
    assert [out.counts.copied for out in outcomes] == [10] * 3
    assert [out.counts.retries for out in outcomes][1:] == [0, 0]


def test_a_whole_task_is_listed_and_copied_across_redirects() -> None:
    s3 = Regions("307", src="ap-southeast-2", dst="eu-west-1")

    async def main() -> list[Any]:
        client = s3.client()
        worker = Worker(client, Copier(client, Pace(), full_jitter(lambda: 1.0)), full_jitter(lambda: 1.0))
        children: list[Task] = []

        async def emit(task: Task) -> None:
            children.append(task)

        listed = await worker.work(ListTask("t", AWS, (Range("", None),)), Attempt(1, "n"), Budget(float("inf")), emit)
        copied = [await worker.work(task, Attempt(1, "m"), Budget(float("inf")), emit) for task in list(children)]
        return [listed.counts.listed, sum(done.counts.copied for done in copied)]

    assert run(main()) == [200, 200]


@pytest.mark.parametrize("response", [redirect("dst", "us-east-1"), malformed("us-east-1"), answer(301)])
def test_a_redirect_to_where_the_bucket_was_asked_for_ends_the_run_and_says_why(response: Response) -> None:
    def client() -> S3:
        return S3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: fake_host(lambda _: response))

    async def copying() -> None:
        await Copier(client(), Pace(), full_jitter(lambda: 1.0)).copy(CUSTOM, [item("a")], float("inf"), attempt=1)

    async def listing_() -> None:
        s3 = client()
        worker = Worker(s3, Copier(s3, Pace(), full_jitter(lambda: 1.0)), full_jitter(lambda: 1.0))

        async def emit(_: Task) -> None: ...

        await worker.work(ListTask("t", CUSTOM, (Range("", None),)), Attempt(1, "n"), Budget(float("inf")), emit)

    for work, bucket in ((copying, "dst"), (listing_, "src")):
        where = "another region without naming it" if not response.body else "us-east-1"
        with pytest.raises(Stop, match=f"asked for bucket '{bucket}' in us-east-1, S3 points to {where}"):
            run(work())


def test_regions_that_redirect_to_each_other_end_the_run() -> None:
    def serve(request: Request) -> Response:
        here = request.headers["host"].split(".")[2]
        return redirect("dst", "us-west-2" if here == "us-east-1" else "us-east-1")

    async def main() -> None:
        s3 = S3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: fake_host(serve))
        found = [item(f"k{n}") for n in range(30)]
        await Copier(s3, Pace(10), full_jitter(lambda: 1.0)).copy(AWS, found, float("inf"), attempt=1)

    with pytest.raises(Stop, match="asked for bucket 'dst' in us-west-2, S3 points to us-east-1"):
        run(main())


def test_regions_without_end_are_not_followed_without_end() -> None:
    asked = Counter[str]()

    def serve(request: Request) -> Response:
        asked[request.headers["host"]] += 1
        return redirect("dst", f"us-east-{len(asked) + 1}")

    async def main() -> Fault | None:
        return await S3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: fake_host(serve)).copies(AWS).copy(item("a"))

    fault = run(main())
    assert fault is not None
    assert (fault.next, fault.code, asked.total()) == (Next.RETRY, "PermanentRedirect", 4)


def test_a_redirect_that_is_temporary_and_tells_nothing_is_retried() -> None:
    answers = iter([answer(307, b"", location="https://elsewhere.test/dst/a")] * 3)
    hosts = set[str]()

    def serve(request: Request) -> Response:
        hosts.add(request.headers["host"])
        return next(answers, COPIED)

    async def main() -> Outcome:
        s3 = S3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: fake_host(serve))
        return await Copier(s3, Pace(), full_jitter(lambda: 1.0)).copy(CUSTOM, [item("a")], float("inf"), attempt=1)

    outcome = run(main())
    assert (outcome.counts.copied, outcome.counts.retries, hosts) == (1, 3, {"store.test"})


def test_a_connection_that_is_being_opened_as_the_bucket_moves_serves_its_own_host_only() -> None:
    s3 = Regions("301", dst="eu-west-1")
    dials = Counter[str]()

    def slow_to_open(url: str) -> Host:
        host = s3.host(url)
        dial = host._dial

        async def slowly() -> Any:
            dials[url] += 1
            await aio.sleep(0.02 * dials[url])  # while some are opened others are answered already
            return await dial()

        host._dial = slowly
        return host

    async def main() -> Outcome:
        client = S3(lambda: CREDENTIALS, now=lambda: NOW, host=slow_to_open)
        return await Copier(client, Pace(20, 20), full_jitter(lambda: 1.0)).copy(AWS, s3.objects, float("inf"), attempt=1)

    outcome = run(main())  # the fake sees to it that a request comes to the host that it names
    assert (outcome.counts.copied, sorted(s3.copied)) == (200, [it.key for it in s3.objects])


# --------------------------------------------------------------------------------------------------- a server of our own


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Give a store on this machine whose buckets are in us-west-2, and whose clock is twenty minutes ahead."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            now = time() + 1200
            self.server.seen.append((self.command, self.path))  # type: ignore[attr-defined]
            head = self.headers["authorization"]
            if abs(now - _seconds(self.headers["x-amz-date"])) > 900:
                response = error(403, "RequestTimeTooSkewed", "The difference is too large.")
            elif "/us-west-2/s3/" not in head:
                response = malformed("us-west-2")
            elif self.command == "GET":
                response = answer(200, listing([item("a"), item("b")], truncated=False))
            else:
                response = COPIED
            self.send_response_only(response.status)
            self.send_header("Date", formatdate(now, usegmt=True))
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)

        do_GET = do_PUT = handle_one  # noqa: N815 - as http.server has it

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def _seconds(date: str) -> float:
    return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def test_time_and_region_are_learned_from_a_server(server: Any) -> None:
    url = "http://127.0.0.1:{1}".format(*server.server_address)
    here = job(f"{url}/src", f"{url}/dst")

    async def main() -> tuple[Page | Fault, Outcome]:
        s3 = S3(lambda: CREDENTIALS)
        one = Copier(s3, Pace(), full_jitter(lambda: 0.01))
        page = await s3.page(here.source, "", "")
        assert isinstance(page, Page)
        outcome = await one.copy(here, page.items, float("inf"), attempt=1)
        s3.close()
        return page, outcome

    page, outcome = aio.run(main())
    assert page == Page((item("a"), item("b")), truncated=False)
    assert (outcome.counts.copied, outcome.failures) == (2, ())
    # One request for the time, one for the region of each bucket (two copies may be on their way), then no more strays.
    assert Counter(command for command, _ in server.seen)["GET"] == 3
    assert Counter(command for command, _ in server.seen)["PUT"] <= 4


# ------------------------------------------------------------------------------------------------------------- the clock


class Clock:
    """A store that refuses requests which are dated more than fifteen minutes from its own time."""

    def __init__(self, ahead_seconds: float, *, is_silent: bool) -> None:
        self.time = NOW + ahead_seconds
        self.is_silent = is_silent
        self.refused = self.served = 0

    def client(self) -> S3:
        return S3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: fake_host(self.serve))

    def serve(self, request: Request) -> Response:
        if abs(_seconds(request.headers["x-amz-date"]) - self.time) > 900:
            self.refused += 1
            date = strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime(self.time))
            if self.is_silent:
                return answer(403, b"", Date=date)
            document = error(
                403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large"
            )
            return answer(403, document.body, Date=date)
        self.served += 1
        return COPIED if request.method == "PUT" else answer(200, listing([item("a")], truncated=False))


@pytest.mark.parametrize("is_silent", [False, True], ids=["with a document", "without a document"])
@pytest.mark.parametrize("minutes", [20, -20, 60 * 24 * 400])
def test_a_clock_that_is_wrong_from_the_first_request_on_harms_nothing(minutes: int, *, is_silent: bool) -> None:
    store = Clock(60.0 * minutes, is_silent=is_silent)

    async def main() -> list[Any]:
        first = store.client()
        probed = await Copier(store.client(), Pace(), full_jitter(lambda: 1.0)).probe(CUSTOM, [item("a")])
        copier = Copier(store.client(), Pace(20, 20), full_jitter(lambda: 1.0))
        copied = await copier.copy(CUSTOM, [item(f"k{n}") for n in range(100)], float("inf"), attempt=1)
        return [await first.page(CUSTOM.source, "", ""), probed, copied]

    page, probed, copied = run(main())
    assert page == Page((item("a"),), truncated=False)
    assert probed.counts.copied == 1
    assert (copied.counts.copied, copied.failures, copied.counts.retries) == (100, (), store.refused - 2)
    assert store.refused <= 2 + 20  # those that were on their way


def test_a_clock_that_goes_wrong_in_the_middle_is_learned_of() -> None:
    store = Clock(0, is_silent=False)

    async def main() -> Outcome:
        copier = Copier(store.client(), Pace(10, 10), full_jitter(lambda: 1.0))
        aio.get_running_loop().call_at(0.2, lambda: setattr(store, "time", NOW + 3600))
        return await copier.copy(CUSTOM, [item(f"k{n}") for n in range(100)], float("inf"), attempt=1)

    outcome = run(main())
    assert (outcome.counts.copied, outcome.failures) == (100, ())
    assert 0 < outcome.counts.retries <= 10


@pytest.mark.parametrize("date", [None, "soon", "Tue, 14 Nov 2023 22:20:00 GMT"])
def test_a_denial_without_a_document_is_one_where_the_clock_is_right(date: str | None) -> None:
    refusal = answer(403, b"", **({"Date": date} if date else {}))

    async def main() -> Page | Fault:
        return await S3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: fake_host(lambda _: refusal)).page(
            CUSTOM.source, "", ""
        )

    assert run(main()) == Fault(Next.DENIED, "HTTP 403", "")


def test_a_store_whose_date_never_suits_itself_is_not_asked_without_end() -> None:
    asked: list[Item] = []

    def serve(_: Request) -> Response:
        asked.append(item("a"))
        return answer(403, error(403, "RequestTimeTooSkewed").body, Date=formatdate(NOW + 7200 * len(asked), usegmt=True))

    async def main() -> Page | Fault:
        return await S3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: fake_host(serve)).page(CUSTOM.source, "", "")

    assert run(main()) == Fault(Next.RETRY, "RequestTimeTooSkewed", "because")
    assert len(asked) == 4

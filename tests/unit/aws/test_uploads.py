"""Uploads that a run has left: which are its own, and what becomes of them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from s3bulkcopy.aws.session import AwsSession
from s3bulkcopy.aws.uploads import Swept, sweep
from s3bulkcopy.worker.model import Job, Location
from s3bulkcopy.worker.properties import Policy

RUN_ID = "20261123-121632-k3f9xa"
BEFORE, AFTER = "2026-11-23T12:16:00.000Z", "2026-11-23T12:17:00Z"
OURS = f"arn:aws:sts::123456789012:assumed-role/s3bulkcopy-{RUN_ID}/s3bulkcopy-{RUN_ID}-copier"
MINE = "arn:aws:sts::123456789012:assumed-role/admin/me"
ANOTHER = "arn:aws:iam::123456789012:user/another"
ACCOUNT = "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be"

JOB = Job(
    RUN_ID,
    Location("source", "in/", "eu-west-1", ""),
    Location("destination", "out/", "eu-west-1", ""),
    multipart_bytes=100,
)
PLACE = JOB.destination


def error(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "because"}}, operation)


@dataclass
class Client:
    """S3 and STS, with uploads in pages of two, and sizes of the source's objects."""

    uploads: list[dict[str, Any]]
    sizes: dict[str, int] = field(default_factory=dict)
    me: str = MINE
    denied: str = ""
    aborted: list[str] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    #: What requests said besides, by kind.
    said: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def list_multipart_uploads(self, *, Prefix: str, UploadIdMarker: str = "", **more: Any) -> dict[str, Any]:  # noqa: N803
        self._hear("list", more)
        if self.denied in ("list", "expired"):
            raise error("AccessDenied" if self.denied == "list" else "ExpiredToken", "ListMultipartUploads")
        found = [one for one in self.uploads if one["Key"].startswith(Prefix)]
        first = next((n for n, one in enumerate(found, 1) if one["UploadId"] == UploadIdMarker), 0)
        page = found[first : first + 2]
        is_truncated = first + 2 < len(found)
        markers = {"NextKeyMarker": page[-1]["Key"], "NextUploadIdMarker": page[-1]["UploadId"]} if is_truncated else {}
        return {"Uploads": page, "IsTruncated": is_truncated, "EncodingType": "url", **markers}

    def _hear(self, kind: str, more: dict[str, Any]) -> None:
        self.said.append((kind, {name: more[name] for name in ("RequestPayer", "ExpectedBucketOwner") if name in more}))

    def abort_multipart_upload(self, *, UploadId: str, **more: Any) -> None:  # noqa: N803
        self._hear("abort", more)
        if self.denied:
            raise error(self.denied, "AbortMultipartUpload")
        self.aborted.append(UploadId)

    def list_objects_v2(self, *, Prefix: str, **more: Any) -> dict[str, Any]:  # noqa: N803
        self._hear("look", more)
        self.looked.append(Prefix)
        return {"Contents": [{"Key": key, "Size": size} for key, size in self.sizes.items() if key.startswith(Prefix)][:1]}

    def get_caller_identity(self) -> dict[str, str]:
        return {"Account": "123456789012", "Arn": self.me}


class Session(AwsSession):
    """Hands out one client for all."""

    def __init__(self, client: Client) -> None:
        self._fake = client
        self._endpoint_url = None
        self.renewals = 0

    @property
    def has_other_store(self) -> bool:
        return self._endpoint_url is not None

    def renew(self) -> None:
        self.renewals += 1
        self._fake.denied = ""

    def client(self, service: str, region: str | None = None) -> Any:  # noqa: ARG002
        return self._fake


def upload(name: str, by: str, key: str = "out/big", begun: str = AFTER) -> dict[str, Any]:
    return {"UploadId": name, "Key": key, "Initiator": {"ID": by}, "Initiated": begun}


@pytest.fixture(autouse=True)
def _on_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


def test_uploads_that_the_runs_role_began_are_aborted_and_no_others() -> None:
    client = Client([upload(f"{n}", OURS if n % 2 else ANOTHER) for n in range(7)], {"in/big": 1000})

    assert sweep(Session(client), PLACE, RUN_ID, JOB) == Swept(aborted=3)
    assert client.aborted == ["1", "3", "5"]
    assert client.looked == []


def test_uploads_of_another_run_are_left_alone() -> None:
    client = Client([upload("1", OURS.replace("k3f9xa", "k3f9xb"))], {"in/big": 1000})

    assert sweep(Session(client), PLACE, RUN_ID, JOB) == Swept()


@pytest.mark.parametrize(
    ("one", "is_ours"),
    [
        (upload("1", MINE.replace("/me", "/another-session")), True),
        (upload("1", ACCOUNT), True),  # a store that tells no more
        (upload("1", ANOTHER), False),
        (upload("1", MINE, begun=BEFORE), False),
        (upload("1", MINE, key="out/small"), False),
        (upload("1", MINE, key="out/nothing-like-it"), False),
    ],
)
def test_with_ones_own_credentials_an_upload_is_known_by_time_and_key(one: dict[str, Any], is_ours: bool) -> None:  # noqa: FBT001
    client = Client([one], {"in/big": 100, "in/small": 99})

    assert sweep(Session(client), PLACE, RUN_ID, JOB, is_own_role=False).aborted == is_ours


def test_without_a_job_only_the_runs_role_tells() -> None:
    client = Client([upload("1", ACCOUNT), upload("2", OURS)], {"in/big": 1000})

    assert sweep(Session(client), PLACE, RUN_ID) == Swept(aborted=1)
    assert client.aborted == ["2"]


def test_requests_say_who_pays_and_whose_the_buckets_are() -> None:
    client = Client([upload("1", MINE)], {"in/big": 1000})
    policy = Policy(request_payer=True, source_owner="1" * 12, destination_owner="2" * 12)

    assert sweep(Session(client), PLACE, RUN_ID, JOB._replace(policy=policy), is_own_role=False).aborted == 1
    here, there = ({"RequestPayer": "requester", "ExpectedBucketOwner": owner * 12} for owner in "12")
    assert client.said == [("list", there), ("look", here), ("abort", there)]
    client.said.clear()
    sweep(Session(client), PLACE, RUN_ID, JOB)
    assert {one for _, said in client.said for one in said} == set()


def test_keys_are_decoded() -> None:
    client = Client([upload("1", MINE, key="out/%C3%B8+%26")], {"in/ø &": 1000})

    assert sweep(Session(client), PLACE, RUN_ID, JOB, is_own_role=False).aborted == 1


def test_an_upload_that_is_gone_meanwhile_is_none_that_is_left() -> None:
    client = Client([upload("1", OURS)], denied="NoSuchUpload")

    assert sweep(Session(client), PLACE, RUN_ID, JOB) == Swept(aborted=1)


def test_an_upload_that_may_not_be_aborted_is_named_with_the_command_that_does() -> None:
    client = Client([upload("1", OURS, key="out/it's $HOME\n")], denied="AccessDenied")

    (left,) = sweep(Session(client), PLACE, RUN_ID, JOB).left
    assert "out/it's $HOME" in left.name
    assert "AbortMultipartUpload" in left.why
    said = ["--bucket", "destination", "--key", "out/it's $HOME\n", "--upload-id", "1", "--region", "eu-west-1"]
    assert shlex.split(left.command) == ["aws", "s3api", "abort-multipart-upload", *said]


def test_the_command_for_another_store_asks_that_store() -> None:
    place = PLACE._replace(url="http://store:9000/destination")
    (left,) = sweep(Session(Client([], denied="list")), place, RUN_ID, JOB).left_if(is_known=True)

    assert "--bucket destination --region eu-west-1 --endpoint-url http://store:9000" in left.command


def test_where_uploads_may_not_be_listed_that_counts_if_there_were_some() -> None:
    swept = sweep(Session(Client([], denied="list")), PLACE, RUN_ID, JOB)

    assert swept.left_if(is_known=False) == ()
    (left,) = swept.left_if(is_known=True)
    assert "aws s3api list-multipart-uploads --bucket destination" in left.command


def test_where_credentials_have_expired_others_are_looked_for() -> None:
    client = Client([upload("in/a", OURS)], denied="expired")
    session = Session(client)

    assert sweep(session, PLACE, RUN_ID, JOB) == Swept(aborted=1)
    assert (session.renewals, client.aborted) == (1, ["in/a"])


def test_a_store_that_knows_no_uploads_and_lists_its_objects_has_none() -> None:
    client = Client([])
    client.list_multipart_uploads = lambda **_: {"IsTruncated": True}  # type: ignore[method-assign]

    assert sweep(Session(client), PLACE, RUN_ID, JOB) == Swept()

"""Requests by kind, which are what a job costs: they do not flicker, so they are pinned."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from count_requests import count_on_emulator, count_on_model
from hypothesis import given
from hypothesis import strategies as st
from proxy import Watch
from tools import OURS

#: What is asked of a bucket before anything is copied: whether it is there, and where.
CHECKS = 2


@pytest.mark.parametrize("shape", ["date", "hex"])
def test_the_local_engine_sends_one_copy_an_object_few_lists_and_nothing_else(shape: str) -> None:
    objects = 5000

    counts = count_on_model(OURS, 2, shape, objects)

    assert 5 <= counts.pop("list") <= objects * 1.5 / 1000 + 50
    assert counts == {"copy": objects, "head_bucket": CHECKS}


def test_a_bucket_of_one_page_is_listed_by_the_checks_and_once_more_and_copied_with_a_request_an_object() -> None:
    assert count_on_model(OURS, 2, "date", 1000) == {"copy": 1000, "list": 2, "head_bucket": CHECKS}


def test_so_it_is_by_the_lambda_engine_but_for_a_proof_that_its_functions_may_list_and_two_looks_for_keys() -> None:
    counts = count_on_emulator(None, "date", 1000)

    of_s3 = {
        kind: count for kind, count in counts.items() if kind in ("list", "copy", "head", "get", "put", "other", "head_bucket")
    }
    assert of_s3 == {"copy": 1000, "list": 3, "head_bucket": CHECKS, "other": 2}


def test_the_lambda_engine_sends_one_copy_an_object_few_lists_and_a_few_messages_a_thousand_objects() -> None:
    objects = 2500

    counts = count_on_emulator(None, "date", objects)

    of_s3 = {kind: count for kind, count in counts.items() if kind in ("list", "copy", "head", "get", "put", "other")}
    assert 3 <= of_s3.pop("list") <= objects * 1.5 / 1000 + 100
    # The checks ask each bucket for the KMS key that it encrypts with.
    assert of_s3 == {"copy": objects, "other": 2}
    assert counts["sqs SendMessageBatch"] <= objects * 3 / 1000 + 200
    # Reports come ten in a request, and the queue is asked once a second; this run takes some ten seconds.
    assert counts["sqs ReceiveMessage"] <= 100
    assert counts["sqs DeleteMessageBatch"] <= counts["sqs ReceiveMessage"]
    assert not counts.keys() & {"sqs SendMessage", "sqs DeleteMessage", "sqs PurgeQueue"}


HEADS = [
    b"GET /b?list-type=2 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"PUT /b/k HTTP/1.1\r\nX-Amz-Copy-Source: /a/k\r\nContent-Length: 0\r\n\r\n",
    b"POST / HTTP/1.1\r\ncontent-length: 11\r\n\r\n",
]
SENT = HEADS[0] + HEADS[2] + b"POST\r\n\r\nxxx" + HEADS[1] + HEADS[0]


@given(st.lists(st.integers(0, len(SENT)), max_size=20))
def test_requests_are_found_however_they_are_cut_into_pieces(cuts: list[int]) -> None:
    found: Counter[bytes] = Counter()
    watch = Watch(lambda head: found.update((head,)))

    places = [0, *sorted(cuts), len(SENT)]
    for start, end in pairwise(places):
        watch.feed(SENT[start:end])

    assert found == {HEADS[0]: 2, HEADS[1]: 1, HEADS[2]: 1}

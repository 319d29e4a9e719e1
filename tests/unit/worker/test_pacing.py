"""Pauses, and the pace against models of stores."""

from __future__ import annotations

import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3bulkcopy.worker.pacing import Pace, full_jitter
from tests.unit.worker.pacing_model import Model, Run, Store

#: What a partition of S3 bears at least, in copies a second.
PARTITION = 3500.0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_jittered_over_all_of_its_length_and_bounded(tries: int, chance: float) -> None:
    longest = full_jitter(lambda: 1.0)(tries)

    assert full_jitter(lambda: chance)(tries) == chance * longest
    assert longest == min(10.0, 0.1 * 2.0 ** min(tries, 30))


def run(store: Store, items: int, workers: int = 2, most: int = 1024, most_a_second: float = math.inf, seed: int = 1) -> Run:
    """Copy items with so many workers, in the model's time."""
    return Model(store, [Pace(16, most, most_a_second) for _ in range(workers)], items, seed=seed).until()


# ------------------------------------------------------------------------------------------------------ the window


@pytest.mark.parametrize("gathers", [0.0, 0.003])
def test_the_window_doubles_each_round_trip_while_that_brings_more(gathers: float) -> None:
    paces = [Pace(16, 1024) for _ in range(2)]
    sent_at = Model(Store(latency=0.1 - gathers, jitter=0.0), paces, 20_000, gathers=gathers).until().sent_at

    in_round = [sum(1 for at in sent_at if n * 0.1 <= at < (n + 1) * 0.1) for n in range(6)]
    assert in_round[0] == 2 * 16
    assert in_round[5] > 12 * in_round[0]


def test_the_window_reaches_its_bound_and_never_exceeds_it() -> None:
    assert max(run(Store(), 20_000, workers=1, most=128).in_flight) == 128


def test_a_store_that_queues_is_not_flooded() -> None:
    done = run(Store(capacity=2000, latency=0.001), 20_000)

    assert done.goodput(1, 9) == pytest.approx(2000, rel=0.01)
    assert max(done.in_flight[20:]) < 150  # a thousandth of a second of it is two requests


def test_answers_that_come_soon_may_queue_so_that_many_come_at_a_time() -> None:
    done = run(Store(capacity=10_000, latency=0.0005), 50_000)

    assert min(done.in_flight[3:12]) > 150  # twenty milliseconds of it are two hundred requests
    assert max(done.in_flight) < 300


@given(
    st.floats(10.0, 5000.0) | st.just(math.inf),
    st.lists(st.tuples(st.floats(0.0, 0.02), st.integers(0, 40), st.integers(0, 40))),
)
def test_there_is_room_for_as_many_as_may_be_sent_one_after_another(
    most_a_second: float, steps: list[tuple[float, int, int]]
) -> None:
    single, several = (Pace(16, 64, most_a_second) for _ in range(2))
    now = 1000.0
    for seconds, sent, answered in steps:
        now += seconds
        room = several.room(now)
        count = 0
        while single.wait(now) == 0.0 and count < sent:
            single.sent(now)
            count += 1
        assert abs(count - min(sent, room)) <= (most_a_second < math.inf)  # where one falls due just now, or just does not
        several.sent(now, count)
        several.wait(now)
        answers = [now] * min(answered, single.in_flight)
        for pace in (single, several):
            pace.answered(answers, now)
        assert several.in_flight == single.in_flight
        assert several.wait(now) == pytest.approx(single.wait(now), abs=1e-9)


@pytest.mark.parametrize(("latency", "least", "most"), [(0.05, 200, 400), (0.1, 200, 400), (0.3, 15, 16)])
def test_a_busy_process_keeps_its_window_unless_answers_take_far_longer(latency: float, least: int, most: int) -> None:
    idle = Idle()
    pace = Pace(16, 1024, idle_seconds=idle.seconds)
    answer(pace, 0.0, 0.25, latency=0.05)
    assert 200 <= pace.in_flight <= 300

    idle.is_over = True
    answer(pace, 1.0, 15.0, latency=latency)
    assert least <= pace.in_flight <= most

    idle.is_over = False
    answer(pace, 20.0, 15.0, latency=0.05)
    assert pace.in_flight >= 1023


class Idle:
    """The idle time of a process that has much of it, until that is over."""

    def __init__(self) -> None:
        self.is_over = False
        self._seconds = 0.0

    def seconds(self) -> float:
        self._seconds += not self.is_over
        return self._seconds


def answer(pace: Pace, begin: float, seconds: float, *, latency: float) -> None:
    """Answer each request of a worker after so many seconds, for a while; what is in flight at its end stays so."""
    while pace.in_flight:
        pace.answered([begin - latency], begin)
    sent: deque[float] = deque()
    now = begin
    while now < begin + seconds:
        while pace.wait(now) == 0.0:
            pace.sent(now)
            sent.append(now)
            now += 1e-6
        sent_at = sent.popleft()
        now = max(now, sent_at + latency)
        pace.answered([sent_at], now)


def test_failures_in_a_row_halve_the_window_and_good_answers_bring_it_back() -> None:
    pace = Pace(16, 1024)
    for n in range(4000):  # a round trip each
        while pace.wait(n * 0.1) == 0.0:
            pace.sent(n * 0.1)
        if pace.in_flight == 1024:
            break
        for _ in range(pace.in_flight):
            pace.answered([n * 0.1], n * 0.1 + 0.1)
    for _ in range(1024):
        pace.failed()

    assert widest(pace) == 16
    for _ in range(16):
        pace.answered([1000.0], 1000.1)
    assert widest(pace) > 16


def widest(pace: Pace) -> int:
    while pace.wait(1000.0) == 0.0:
        pace.sent(1000.0)
    return pace.in_flight


# -------------------------------------------------------------------------------------------------------- the rate


@pytest.mark.parametrize("workers", [1, 2, 6])
@pytest.mark.parametrize("items", [20_000, 100_000])
@pytest.mark.parametrize("gathers", [0.0, 0.003])
def test_one_partition_is_made_full_use_of_from_a_cold_start_with_few_refusals(
    items: int, workers: int, gathers: float
) -> None:
    paces = [Pace(16, 1024 // workers) for _ in range(workers)]
    done = Model(Store(rate=PARTITION), paces, items, gathers=gathers).until()

    assert (items - PARTITION) / PARTITION >= 0.9 * done.seconds  # the first second's worth is there from the start
    assert done.refused_share < 0.02


@pytest.mark.parametrize("latency", [0.01, 0.2])
def test_the_partition_s_rate_is_found_whatever_the_latency(latency: float) -> None:
    done = run(Store(rate=PARTITION, latency=latency), 50_000)

    assert done.goodput(5, 10) >= 0.9 * PARTITION
    assert done.refused_share < 0.02


def test_where_refusals_take_as_long_as_copies_the_rate_is_found_all_the_same() -> None:
    done = run(Store(rate=PARTITION, refusal_latency=0.05), 100_000)

    assert done.goodput(5, 20) >= 0.9 * PARTITION
    assert sum(done.refused[50:]) / sum(done.good[50:]) < 0.08


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("refusal_latency", [0.01, 0.02])
def test_a_limit_is_not_taken_for_chance_where_refusals_come_late(workers: int, refusal_latency: float) -> None:
    done = run(Store(rate=PARTITION, refusal_latency=refusal_latency), 60_000, workers, most=2400 // workers)

    assert done.goodput(3, 13) >= 0.9 * PARTITION
    assert sum(done.refused[20:]) / sum(done.good[20:]) < 0.025


def test_workers_that_come_one_after_another_do_not_flood_a_store_that_queues() -> None:
    store = Store(capacity=1300, latency=0.002)
    done = Model(store, [Pace(16, 900) for _ in range(6)], 20_000, joins=0.5).until()

    assert max(done.in_flight) < 1000
    assert done.goodput(1, 12) == pytest.approx(1300, rel=0.02)


def test_many_partitions_are_not_held_back_by_what_one_bears() -> None:
    done = run(Store(rate=PARTITION, partitions=16), 200_000)

    assert done.goodput(1, 4) > 0.7 * 16 * PARTITION
    assert not sum(done.refused)


def test_a_partition_that_comes_to_bear_more_is_asked_for_more() -> None:
    done = run(Store(rate=PARTITION, changes=((5, 2 * PARTITION),)), 100_000)

    assert done.goodput(8, 12) > 0.9 * 2 * PARTITION


def test_a_partition_that_comes_to_bear_less_is_asked_for_less() -> None:
    done = run(Store(rate=PARTITION, changes=((5, PARTITION / 2),)), 60_000)

    assert done.goodput(8, 20) > 0.9 * PARTITION / 2
    assert done.refused_share < 0.02


def test_a_store_that_refuses_everything_for_a_while_is_hardly_asked_and_then_asked_for_more_again() -> None:
    done = run(Store(rate=PARTITION, changes=((2, 0.1), (7, PARTITION))), 60_000)

    assert sum(done.refused[30:70]) < 4 * 60  # in four seconds
    assert done.goodput(30, 32) > 0.9 * PARTITION


@pytest.mark.parametrize("share", [0.01, 0.05])
@pytest.mark.parametrize("latency", [0.001, 0.05])
def test_refusals_by_chance_do_not_bring_a_copy_to_a_halt(share: float, latency: float) -> None:
    done = run(Store(refused_share=share, latency=latency), 100_000)

    assert 100_000 / done.seconds > 2000


@pytest.mark.parametrize("latency", [0.0005, 0.05])
def test_chance_is_known_as_such_within_seconds_even_by_few_answers(latency: float) -> None:
    seconds = [run(Store(refused_share=0.05, latency=latency), 4000, seed=seed).seconds for seed in range(20)]

    assert sorted(seconds)[10] < 3
    assert sorted(seconds)[18] < 10


@pytest.mark.parametrize("share", [0.03, 0.05, 0.1, 0.2])
def test_chance_is_known_as_such_where_few_are_to_be_sent_a_second(share: float) -> None:
    least = 4000 / (300 * (1 - share))
    seconds = sorted(run(Store(refused_share=share), 4000, most_a_second=150.0, seed=seed).seconds for seed in range(10))

    assert seconds[5] < 2 * least
    assert seconds[8] < 4 * least


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("rate", [50.0, 100.0, 200.0])
def test_a_limit_below_what_may_be_sent_a_second_is_not_taken_for_chance(rate: float, workers: int) -> None:
    done = run(Store(rate=rate), 6000, workers, most_a_second=300.0 / workers)

    assert done.goodput(5, 15) >= 0.95 * rate
    assert done.refused_share < 0.04


def test_a_few_refusals_set_no_limit() -> None:
    done = run(Store(), 20_000)
    again = run(Store(refused_share=0.002), 20_000)

    assert again.seconds < 1.5 * done.seconds


def test_chance_beside_a_limit_is_told_from_it() -> None:
    done = run(Store(refused_share=0.05, rate=PARTITION), 60_000)

    assert 60_000 / done.seconds > 0.8 * PARTITION
    assert done.refused_share < 0.1


def test_no_more_is_sent_a_second_than_was_asked_for() -> None:
    sent_at = run(Store(), 5_000, workers=1, most_a_second=500.0).sent_at

    in_second = [sum(1 for at in sent_at if n <= at < n + 1) for n in range(9)]
    assert 480 <= min(in_second) <= max(in_second) <= 506  # a hundredth of a second may be made up for


def test_a_limit_that_changes_holds_from_then_on() -> None:
    pace = Pace(1, 1, most_a_second=1.0)
    sent_at: list[float] = []
    for limit, until in ((1.0, 10.0), (100.0, 20.0), (10.0, 30.0)):
        pace.limit(limit)
        now = sent_at[-1] if sent_at else 0.0
        while (now := now + pace.wait(now)) < until:
            pace.sent(now)
            pace.answered([now], now)
            sent_at.append(now)

    counts = [sum(1 for at in sent_at if since <= at < since + 10) for since in (0, 10, 20)]
    assert counts == pytest.approx([10, 1000, 100], abs=12)


def test_a_rate_that_was_found_stays_where_the_limit_is_above_it() -> None:
    pace = Pace(16, 128, most_a_second=500.0)
    pace._set_rate(300.0)

    rates = []
    for limit in (400.0, 200.0, 500.0):
        pace.limit(limit)
        rates.append(pace._rate)

    assert rates == [300.0, 200.0, 500.0]  # what is borne is forgotten where it is not reached


def test_a_bound_on_the_rate_holds_where_less_is_borne_too() -> None:
    done = run(Store(rate=300.0), 4_000, workers=1, most_a_second=500.0)

    assert done.goodput(3, 10) == pytest.approx(300, rel=0.1)


def test_many_workers_share_what_a_partition_bears() -> None:
    done = run(Store(rate=PARTITION), 120_000, workers=50, most=128)

    assert done.goodput(5, 30) > 0.95 * PARTITION
    assert sum(done.refused[50:]) / sum(done.good[50:]) < 0.025


@pytest.mark.parametrize("at_once", [1, 10, 1000])
def test_however_many_answers_come_together_only_so_many_refusals_in_a_row_say_nothing(at_once: int) -> None:
    pace = Pace(2000, 2000)
    pace.sent(0.0, 1100)
    for _ in range(1000 // at_once):
        pace.answered([0.0] * at_once, 0.1)

    for _ in range(4):
        pace.refused(0.0, 0.1)
    assert pace.room(0.1) > 1000
    pace.refused(0.0, 0.1)
    assert pace.room(0.1) < 1000


def test_a_refusal_as_the_very_first_round_begins_finds_a_rate() -> None:
    pace = Pace()
    for _ in range(10):
        pace.sent(0.0)
    pace.answered([0.0], 1.0)

    for _ in range(9):
        pace.refused(0.0, 1.0)
    pace.sent(1.0)

    assert 0.0 < pace.wait(1.0) < 1.0

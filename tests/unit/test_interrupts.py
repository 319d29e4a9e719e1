"""Signals: what they ask for, and when."""

from __future__ import annotations

import os
import signal

import pytest

from s3bulkcopy.errors import HungUp, Interrupted
from s3bulkcopy.interrupts import Interrupts


def watching(told: list[int]) -> Interrupts:
    return Interrupts(stopping=told.append, last_words=str, hung_up=lambda: HungUp("closed"))


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Interrupted), (signal.SIGHUP, HungUp)]
)
def test_a_signal_is_raised_where_it_is_asked_for(number: int, kind: type[Exception]) -> None:
    told: list[int] = []
    with watching(told) as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        with pytest.raises(kind):
            interrupts.sleep(60)
        with pytest.raises(kind):
            interrupts.check()
    assert told == [number]


def test_a_closed_terminal_after_ctrl_c_changes_nothing() -> None:
    with watching([]) as interrupts:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGHUP):
            os.kill(os.getpid(), number)
        with pytest.raises(Interrupted):
            interrupts.check()


def test_an_engine_that_makes_nothing_of_it_is_interrupted() -> None:
    with Interrupts(stopping=lambda _: None, last_words=str) as interrupts:
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Interrupted):
            interrupts.check()


def test_what_is_ignored_under_nohup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watching([]) as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            interrupts.check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with watching([]):
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before

"""How many requests may be in flight, how fast they may go out, and how long to pause before asking again. No I/O, no clock."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: What one refusal takes from a rate: this over the square root of the rate, as few answers tell less than many, within bounds.
_CUT = 1.5
_LEAST_CUT, _MOST_CUT = 0.03, 0.25

#: The share of refusals that is put up with, as a part of what one takes: enough to notice when a store bears more.
_SOUGHT = 0.1

#: How the rate grows ever faster where refusals stay away for longer than is usual, which is judged by their share, or by the
#: seconds after so many good answers; and how many times as fast at most.
_HASTE = 0.5
_CALM = 40
_MOST_HASTE = 10.0

#: No rate is lower than this, in requests a second: whoever asks no more learns no more.
_LEAST_RATE = 4.0

#: How far a rate may grow while the refusal of what is too much is on its way; and the least time that this is thought to take.
_BLIND_GROWTH = 0.01
_LEAST_NOTICE_SECONDS = 0.002

#: The refused share that is put up with where no rate is known, as a part of what one would take; how many in a row at most.
_IGNORED = 0.5
_MOST_CREDIT = 4.0

#: When refusals are taken for chance: after so many falls of the rate to this part of what it was, without a rise to that one
#: between them, each with at least so many refusals, their share is about the same, no larger than this, and no smaller than
#: that, nor than so many times the square of what one takes, for a low rate that many share seems to be refused by chance. For
#: how many good answers that is believed, and how much larger a share is put up with meanwhile.
_FALL = 0.7
_RISE = 1.1
_FALLS = 3
_REFUSALS = 6
_MOST_CHANCE, _LEAST_CHANCE, _LEAST_PART = 0.25, 0.006, 2.0
_ALIKE = 3.0
_BELIEVED = 5000
_PUT_UP_WITH = 1.5

#: Where a bound on the rate was set, a rate this low, brought there by chance or by a limit, is put on trial, if the shares of
#: so many refusals and of as many before them are about the same: it is multiplied by so much, again and again until it is this
#: high or reaches the bound, as long as the share of refusals stays about the same; which is known where that is so much
#: likelier than the contrary, as a logarithm. After each trial that ended in refusals twice as many are awaited, within bounds.
_LOW_RATE, _HIGH_RATE = 36.0, 1000.0
_PATIENCE, _MOST_PATIENCE = 8, 64
_TRIED = 4.0
_SURE = 4.0

#: Failures with no good answer between them that halve the window.
_FAILURES = 20

#: Rounds that brought no more than the best one, after which the window is large enough, and what is more.
_STALLED_ROUNDS = 2
_GAIN = 1.2

#: By how much more than they need the answers of a round may take, at the store or on their way through this process, before
#: the window no longer grows; and before it shrinks. While it doubles, no answer counts that takes more than the third says:
#: where many share a store that queues, each would else take the others' share. What they need is forgotten by this much a
#: round.
_QUEUED = 1.5
_CROWDED = 2.5
_PROMPT = 1.3
_FORGOTTEN = 1.002

#: Answers that take no longer than this, in seconds, are soon enough whatever they need: to wait so long costs nobody anything,
#: and of many that come at a time each costs this process less.
_SOON_SECONDS = 0.02

#: A process with less than this part of its time to spare has enough to do: its window does not grow.
_BUSY = 0.1

#: How long an answer takes where none has come yet, in seconds.
_ANSWER_SECONDS = 0.05

#: What may be made up for when a request was sent later than it might have been, as a timer will have it, in seconds.
_SLACK_SECONDS = 0.01


def chance(random_bytes: Callable[[int], bytes] = os.urandom) -> float:
    """Give any number from 0 up to 1, as likely as any other."""
    return int.from_bytes(random_bytes(4), "big") / 2**32


def full_jitter(random: Callable[[], float], base_seconds: float = 0.1, most_seconds: float = 10.0) -> Callable[[int], float]:
    """Give pauses in seconds: the n-th (from 1) is anywhere between 0 and `base * 2**n`, at most `most`.

    Source: AWS architecture blog, "Exponential backoff and jitter".

    >>> pauses = full_jitter(lambda: 1.0)
    >>> pauses(1), pauses(3), pauses(30)
    (0.2, 0.8, 10.0)
    """
    return lambda tries: random() * min(most_seconds, base_seconds * 2.0 ** min(tries, 30))


class Pace:
    """When one worker's next request may be sent, so that a store is asked for what it bears and for hardly more.

    Two things bound it. The *window* is how many requests may be in flight. It doubles each round trip while that brings more
    answers a second; from then on it grows only while answers come about as soon as they ever did and this process has time to
    spare, and shrinks where they take far longer: more would only wait. Failures in a row halve it.

    The *rate*, in requests a second, is unknown until a store refuses more than a few. Each refusal takes a little from it and
    each good answer adds much less, so that it settles where a small, known share of the answers are refusals: just above what
    the partitions bear. Where lowering it does not help, the refusals are a matter of chance: the rate is unknown again, and as
    large a share of refusals is put up with for a while. Where few may be sent a second anyway, that is tried out as well: by a
    *trial* that asks for more.
    """

    def __init__(
        self,
        start: int = 16,
        most: int = 128,
        most_a_second: float = math.inf,
        idle_seconds: Callable[[], float] | None = None,
    ) -> None:
        """Begin with `start` requests in flight; never have more than `most`, nor send more than `most_a_second`.

        `idle_seconds` tells how long this process had nothing to do, since whenever.
        """
        self.in_flight = 0
        self._window, self._most, self._start = min(start, most), most, min(start, most)
        self._good = 0
        # A round is as many good answers as there were requests in flight at its beginning: about a round trip.
        self._round_began = math.nan  # not a number: nothing came since the last rest
        self._asked_at = 0.0  # when the first request of the round was sent
        self._round_sent = self._round_good = self._round_end = 0
        self._round_telling, self._round_latency = 0, 0.0
        self._is_full = False
        self._idle_seconds = idle_seconds
        self._round_idle = 0.0
        # The window.
        self._ramping = self._doubling = True
        self._stalled = 0
        self._best_rate, self._best_window, self._best_latency = 0.0, self._window, math.inf
        self._failures = self._failures_good = 0
        # The rate.
        self._most_rate = most_a_second
        self._due = -math.inf
        self._set_rate(most_a_second)
        self._calm = 0  # good answers since the last refusal
        self._notice_seconds = 0.0  # how long a refusal takes, on average
        # What was sent before the rate was last halved says nothing of the rate as it is now.
        self._halved_at, self._half = -math.inf, 0.0
        # The test for chance.
        self._top = math.inf
        self._chance, self._chance_until = 0.0, 0
        self._credit = 2.0  # refusals that say nothing yet, where no rate is known
        self._shares: list[float] = []
        self._fall_began, self._fall_rate, self._fall_good, self._fall_refused = -math.inf, math.inf, 0, 0
        self._usual_share, self._usual_good, self._usual_refused = math.inf, 0, 0
        self._patience = _PATIENCE
        self._trial_from = 0.0  # the rate to go back to; 0 where none is on trial
        self._trial_began, self._trial_good, self._trial_refused = -math.inf, 0, 0

    def wait(self, now: float) -> float:
        """Tell how long to wait before the next request, in seconds: 0 to send it now, infinity to wait for an answer."""
        if self.in_flight >= self._window:
            self._is_full = True
            return math.inf
        return self._due - now if self._due > now else 0.0

    def room(self, now: float) -> int:
        """Tell how many requests may be sent now, and take note where the window leaves no room."""
        room = self._window - self.in_flight
        if room <= 0:
            self._is_full = True
            return 0
        if not self._interval:
            return room
        since_due = now - max(self._due, now - _SLACK_SECONDS)
        return min(room, 1 + int(since_due / self._interval)) if since_due >= 0.0 else 0

    def sent(self, now: float, requests: int = 1) -> None:
        """Take note of requests."""
        self.in_flight += requests
        if not self._round_sent:
            self._asked_at = now
        self._round_sent += requests
        if self._interval:
            self._due = max(self._due, now - _SLACK_SECONDS) + requests * self._interval

    def answered(self, sent_at: Sequence[float], now: float, *, is_telling: bool = True) -> None:
        """Take note of good answers to requests sent at these times; tell whether such answers all take about as long."""
        answers = len(sent_at)
        self._good += answers
        if is_telling:
            self._round_telling += answers
            self._round_latency += answers * now - sum(sent_at)
        if self._doubling and self._window < self._most and self._window <= 2 * self.in_flight:
            prompt_since = now - _PROMPT * self._best_latency
            prompt = sum([one >= prompt_since for one in sent_at])
            self._window = min(self._most, self._window + prompt, 2 * self.in_flight + 1)
        if self._good >= self._round_end:
            self._end_round(now)
        if self._trial_from:
            self._trial_good += sum([one >= self._trial_began for one in sent_at])
            self._judge_trial(now)
        elif self._rate < self._most_rate:
            self._grow(sent_at, now)
        elif self._credit < _MOST_CREDIT:
            put_up_with = max(self._chance, _IGNORED * self._cut_at(self._most_rate))
            self._credit = min(_MOST_CREDIT, self._credit + answers * put_up_with)
            self._forget_chance()
        self.in_flight -= answers

    def refused(self, sent_at: float, now: float) -> None:
        """Take note of an answer that asks for fewer requests."""
        self.in_flight -= 1
        self._notice_seconds += (now - sent_at - self._notice_seconds) / 8
        if self._trial_from:
            self._trial_refused += sent_at >= self._trial_began
            self._judge_trial(now)
            return
        if self._rate == self._most_rate:
            if self._credit >= 1:
                self._credit -= 1
                return
            self._begin_rate(sent_at, now)
        self._fall_refused += sent_at >= self._fall_began
        if sent_at < self._halved_at:
            return
        self._calm = 0
        self._set_rate(max(_LEAST_RATE, self._rate * (1 - self._cut_at(self._rate))))
        if self._rate <= self._half:
            self._halved_at, self._half = now, self._rate / 2
        if self._rate <= max(_LEAST_RATE, _FALL * self._fall_rate) and self._fall_refused >= _REFUSALS:
            self._end_fall(now)
        self._usual_refused += 1
        if self._usual_refused >= self._patience and self._most_rate < math.inf:
            self._end_patience(now)

    def failed(self) -> None:
        """Take note of a request that came to nothing for another reason."""
        self.in_flight -= 1
        if self._failures_good != self._good:
            self._failures, self._failures_good = 0, self._good
        self._failures += 1
        if self._failures % _FAILURES == 0:
            self._window = max(self._start, self._window // 2)
            self._ramping = self._doubling = True
            self._stalled, self._best_rate = 0, 0.0

    def limit(self, most_a_second: float) -> None:
        """Send no more than `most_a_second` from now on, nor wait longer for the next request than that asks for."""
        is_found, before = self._rate < self._most_rate, self._interval
        self._most_rate = most_a_second
        self._set_rate(self._rate if is_found else most_a_second)
        self._due += self._interval - before

    def rest(self) -> None:
        """Take note that nothing will be sent for a while."""
        self._round_began, self._round_end, self._round_sent = math.nan, 0, 0

    # ------------------------------------------------------------------------------------------------- the window

    def _begin_round(self, now: float) -> None:
        self._round_began = now
        self._round_sent = 0
        self._round_good, self._round_telling, self._round_latency = self._good, 0, 0.0
        self._round_end = self._good + max(1, self.in_flight - 1)  # others go in place of those just answered, but for one
        self._round_idle = self._idle_seconds() if self._idle_seconds else 0.0
        self._is_full = False

    def _end_round(self, now: float) -> None:
        if self._is_full and now > self._round_began:
            self._resize(now - self._round_began)
        is_first = math.isnan(self._round_began)  # its answers come in a burst, as its requests went
        self._begin_round(math.inf if is_first else now)

    def _resize(self, seconds: float) -> None:
        """Judge the window by a round in which it was full."""
        answers = self._good - self._round_good
        rate = answers / seconds
        latency = self._round_latency / self._round_telling if self._round_telling else self._best_latency
        self._best_latency = min(self._best_latency * _FORGOTTEN, latency)
        is_busy = self._idle_seconds is not None and self._idle_seconds() - self._round_idle < _BUSY * seconds
        self._doubling = self._ramping and not is_busy
        is_crowded = latency > max(_SOON_SECONDS, _CROWDED * self._best_latency)
        if is_busy:
            if is_crowded:
                self._window = max(self._start, min(self._window, answers) * 9 // 10)
        elif self._ramping:
            if rate > _GAIN * self._best_rate and not is_crowded:
                self._best_rate, self._best_window, self._stalled = rate, answers, 0
                return
            self._stalled += 1
            self._doubling = False
            if self._stalled >= _STALLED_ROUNDS:
                self._ramping = False
                self._window = max(self._start, self._best_window)
        elif is_crowded:
            self._window = max(self._start, self._window - 1 - self._window // 10)
        elif latency <= max(_SOON_SECONDS, _QUEUED * self._best_latency):
            self._window = min(self._most, self._window + 1 + self._window // 10)

    # --------------------------------------------------------------------------------------------------- the rate

    @staticmethod
    def _cut_at(rate: float) -> float:
        """What a refusal takes from a rate, as a part of it."""
        return max(_LEAST_CUT, min(_MOST_CUT, _CUT / math.sqrt(rate)))

    def _set_rate(self, rate: float) -> None:
        self._rate = min(rate, self._most_rate)
        self._interval = 1 / self._rate
        if not self._interval:
            self._due = -math.inf

    def _begin_rate(self, sent_at: float, now: float) -> None:
        """Take what is asked for now for the rate."""
        asked = max(self._round_sent / max(now - self._asked_at, _SLACK_SECONDS), self._best_rate)
        if not self._best_rate:  # no round tells: what is in flight, in the time of an answer
            usual = self._round_latency / self._round_telling if self._round_telling else _ANSWER_SECONDS
            asked = max(asked, (self.in_flight + 1) / max(now - sent_at, usual, _SLACK_SECONDS))
        self._set_rate(max(_LEAST_RATE, asked))
        self._half = self._rate / 2
        self._begin_fall(now)
        self._usual_share, self._usual_good, self._usual_refused = math.inf, 0, 0

    def _grow(self, sent_at: Sequence[float], now: float) -> None:
        answers = len(sent_at)
        self._calm += answers
        self._usual_good += answers
        self._fall_good += sum([one >= self._fall_began for one in sent_at])
        self._forget_chance()
        if self._due <= now - _SLACK_SECONDS:
            return  # it is not the rate that binds
        cut = self._cut_at(self._rate)
        sought = max(self._chance, _SOUGHT * cut)
        unusual = max(self._calm * sought, (self._calm - _CALM) / self._rate)
        haste = min(_MOST_HASTE, 1 + (_HASTE * unusual) ** 2)
        most = _BLIND_GROWTH / max(_LEAST_NOTICE_SECONDS, self._notice_seconds)  # a second, hence by the rate for an answer
        self._set_rate(self._rate + answers * min(self._rate * cut * sought * haste, most))
        self._half = max(self._half, self._rate / 2)
        if self._rate > _RISE * self._fall_rate:
            self._shares = []
            self._begin_fall(now)

    # ------------------------------------------------------------------------------------------------------ chance

    def _begin_fall(self, now: float) -> None:
        if not self._shares:
            self._top = self._rate
        self._fall_began, self._fall_rate = now, self._rate
        self._fall_good = self._fall_refused = 0

    def _end_fall(self, now: float) -> None:
        share = self._fall_refused / (self._fall_refused + self._fall_good)
        least = max(_LEAST_CHANCE, _LEAST_PART * self._cut_at(self._top) ** 2)
        if not least <= share <= _MOST_CHANCE:
            self._shares = []
        elif self._shares and self._shares[-1] / _ALIKE <= share <= self._shares[-1] * _ALIKE:
            self._shares.append(share)
        else:
            self._shares = [share]
        if len(self._shares) >= _FALLS:
            self._believe_in_chance(share)
        self._begin_fall(now)

    def _believe_in_chance(self, share: float) -> None:
        self._shares = []
        self._chance, self._chance_until = _PUT_UP_WITH * share, self._good + _BELIEVED
        self._credit = _MOST_CREDIT
        self._set_rate(self._most_rate)

    def _end_patience(self, now: float) -> None:
        """Begin a trial where the rate is low and refusals are as usual; count what is usual anew."""
        before, share = self._usual_share, self._usual_refused / (self._usual_refused + self._usual_good)
        self._usual_share, self._usual_good, self._usual_refused = share, 0, 0
        if self._rate <= _LOW_RATE and self._rate < self._most_rate and before / _ALIKE <= share <= _MOST_CHANCE:
            self._try_more(now)

    def _try_more(self, now: float) -> None:
        self._trial_from, self._trial_began = self._rate, now
        self._trial_good = self._trial_refused = 0
        self._set_rate(_TRIED * self._rate)

    def _judge_trial(self, now: float) -> None:
        """End a trial, or try more, where it is likelier by far that the share of refusals is as usual, or else that it grew.

        It has grown where its odds are so many times what they were as shares that are alike may differ.
        """
        answers = self._trial_good + self._trial_refused
        grew = self._trial_refused * math.log(_ALIKE) - answers * math.log(1 + (_ALIKE - 1) * self._usual_share)
        if abs(grew) < _SURE:
            return
        if grew < 0 and self._rate < min(_HIGH_RATE, self._most_rate):
            self._try_more(now)
            return
        if grew < 0:
            self._patience = _PATIENCE
            self._believe_in_chance(self._usual_share)
        else:
            self._patience = min(_MOST_PATIENCE, 2 * self._patience)
            self._set_rate(self._trial_from)
            self._halved_at, self._half, self._calm = now, self._rate / 2, 0
            self._usual_share, self._shares = math.inf, []
        self._trial_from = 0.0
        self._begin_fall(now)

    def _forget_chance(self) -> None:
        if self._chance and self._good > self._chance_until:
            self._chance = 0.0

"""The worker's event loop: what bears a name of asyncio's behaves as that does."""

from __future__ import annotations

import asyncio
import gc
import random
import select
import selectors
import socket
import subprocess
import sys
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker import aio
from tests.unit.worker.worker_fakes import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine


@pytest.fixture(params=[asyncio, aio], ids=lambda module: module.__name__.rpartition(".")[2])
def either(request: pytest.FixtureRequest) -> Any:
    """Give asyncio, and our own in its place: both are to pass."""
    return request.param


@pytest.fixture(params=["epoll", "portable"])
def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have loops poll by epoll, and as they do where there is none."""
    if request.param == "portable":
        monkeypatch.delattr(select, "epoll")
        monkeypatch.setattr(selectors, "DefaultSelector", selectors.PollSelector)


# ----------------------------------------------------------------------------------------------------- tasks and futures


def test_a_coroutine_gives_its_result_or_raises_its_exception(either: Any) -> None:
    async def good() -> int:
        return 7

    async def bad() -> None:
        raise LookupError("lost")

    assert either.run(good()) == 7
    with pytest.raises(LookupError, match="lost"):
        either.run(bad())


def test_a_future_wakes_all_who_wait_in_the_order_in_which_they_came(either: Any) -> None:
    async def main() -> list[tuple[int, str]]:
        future = either.get_running_loop().create_future()
        woken = []

        async def waiter(number: int) -> None:
            woken.append((number, await future))

        tasks = [either.create_task(waiter(number)) for number in range(3)]
        await either.sleep(0)
        future.set_result("now")
        await either.gather(*tasks)
        return woken

    assert either.run(main()) == [(0, "now"), (1, "now"), (2, "now")]


def test_a_future_ends_once(either: Any) -> None:
    unfinished = RuntimeError if either is aio else asyncio.InvalidStateError

    async def main() -> tuple[Any, ...]:
        future = either.get_running_loop().create_future()
        with pytest.raises(unfinished):
            future.result()
        future.set_result(1)
        for again in (partial(future.set_result, 2), partial(future.set_exception, KeyError())):
            with pytest.raises(unfinished):
                again()
        return future.done(), future.cancelled(), future.cancel(), future.result(), future.exception(), await future

    assert either.run(main()) == (True, False, False, 1, None, 1)


def test_a_future_that_failed_raises_for_whoever_asks(either: Any) -> None:
    async def main() -> tuple[Any, ...]:
        future = either.get_running_loop().create_future()
        future.set_exception(KeyError("k"))
        for _ in range(2):
            with pytest.raises(KeyError):
                await future
        return type(future.exception()), future.done(), future.cancelled()

    assert either.run(main()) == (KeyError, True, False)


def test_a_future_that_was_cancelled_raises_that(either: Any) -> None:
    async def main() -> tuple[Any, ...]:
        future = either.get_running_loop().create_future()
        first, second = future.cancel(), future.cancel()
        for ask in (future.result, future.exception):
            with pytest.raises(either.CancelledError):
                ask()
        return first, second, future.done(), future.cancelled()

    assert either.run(main()) == (True, False, True, True)


def test_a_callback_is_called_soon_and_not_at_once_even_where_the_future_has_ended(either: Any) -> None:
    async def main() -> list[Any]:
        future = either.get_running_loop().create_future()
        seen: list[Any] = []
        future.add_done_callback(lambda done: seen.append(("before", done is future)))
        future.set_result(None)
        future.add_done_callback(lambda done: seen.append(("after", done is future)))
        seen.append("running")
        await either.sleep(0)
        return seen

    assert either.run(main()) == ["running", ("before", True), ("after", True)]


def test_tasks_take_turns(either: Any) -> None:
    async def main() -> list[str]:
        seen = []

        async def speak(name: str) -> None:
            for turn in range(3):
                seen.append(f"{name}{turn}")
                await either.sleep(0)

        await either.gather(speak("a"), speak("b"))
        return seen

    assert either.run(main()) == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_the_tasks_are_known(either: Any) -> None:
    async def main() -> tuple[Any, ...]:
        me = either.current_task()

        async def child() -> bool:
            return either.current_task() is task

        task = either.create_task(child())
        before = either.all_tasks() == {me, task}
        return before, await task, either.all_tasks() == {me}

    assert either.run(main()) == (True, True, True)


def test_outside_of_a_loop_none_is_given(either: Any) -> None:
    with pytest.raises(RuntimeError):
        either.get_running_loop()


def test_a_loop_does_not_run_inside_of_another(either: Any) -> None:
    async def main() -> None:
        inner = either.sleep(0)
        try:
            either.run(inner)
        finally:
            inner.close()

    with pytest.raises(RuntimeError, match="run"):
        either.run(main())


def test_a_loop_may_run_again_and_goes_on_with_what_was_under_way() -> None:
    loop, seen = aio.Loop(), []

    async def background() -> None:
        seen.append("begun")
        await aio.sleep(0.001)
        seen.append("ended")

    async def first() -> aio.Task:
        task = aio.create_task(background())
        await aio.sleep(0)
        return task

    async def second(task: aio.Task) -> None:
        await task

    task = loop.run_until_complete(first())
    assert (seen, task.done()) == (["begun"], False)
    loop.run_until_complete(second(task))
    assert (seen, task.done()) == (["begun", "ended"], True)
    loop.close()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_a_callback_raises_ends_the_run_and_another_may_follow(error: type[BaseException]) -> None:
    loop = aio.Loop()
    seen: list[str] = []

    def broken() -> None:
        raise error("a bug")

    async def main() -> None:
        loop.call_soon(broken)
        loop.call_soon(seen.append, "the one behind")
        await aio.sleep(0.001)
        seen.append("main")

    async def nothing() -> None:
        await aio.sleep(0.01)

    with pytest.raises(error, match="a bug"):
        loop.run_until_complete(main())
    assert seen == []
    loop.run_until_complete(nothing())
    assert seen == ["the one behind", "main"]
    loop.close()


def test_an_exception_that_nobody_asked_for_is_told_as_soon_as_nobody_can(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "excepthook", lambda _kind, error, _trace: told.append(str(error)))

    async def fail(why: str) -> None:
        await aio.sleep(0)
        raise LookupError(why)

    async def main() -> None:
        asked = aio.create_task(fail("asked for"))
        aio.create_task(fail("unheard"))
        await aio.sleep(0.001)
        assert str(asked.exception()) == "asked for"

    gc.disable()  # neither is part of a cycle
    try:
        aio.run(main())
        assert told == ["unheard"]
    finally:
        gc.enable()


# ----------------------------------------------------------------------------------------------------------- cancellation


def test_a_task_is_cancelled_where_it_waits(either: Any) -> None:
    async def main() -> tuple[Any, ...]:
        seen = []

        async def child() -> None:
            try:
                await either.sleep(100)
            except either.CancelledError:
                seen.append("cancelled")
                raise
            finally:
                await either.sleep(0)
                seen.append("cleaned up")

        task = either.create_task(child())
        await either.sleep(0)
        asked = task.cancel()
        with pytest.raises(either.CancelledError):
            await task
        return seen, asked, task.cancelled(), task.cancel()

    assert either.run(main()) == (["cancelled", "cleaned up"], True, True, False)


def test_a_task_that_is_cancelled_before_it_began_never_does(either: Any) -> None:
    async def main() -> tuple[Any, ...]:
        seen: list[str] = []

        async def child() -> None:
            seen.append("begun")

        task = either.create_task(child())
        task.cancel()
        with pytest.raises(either.CancelledError):
            await task
        return seen, task.cancelled()

    assert either.run(main()) == ([], True)


def test_a_task_may_refuse_to_be_cancelled(either: Any) -> None:
    async def main() -> tuple[Any, ...]:
        async def child() -> str:
            with suppress(either.CancelledError):
                await either.sleep(100)
            return "still here"

        task = either.create_task(child())
        await either.sleep(0)
        task.cancel()
        return await task, task.cancelled()

    assert either.run(main()) == ("still here", False)


def test_to_cancel_a_task_that_has_its_answer_but_not_heard_of_it_still_cancels(either: Any) -> None:
    async def main() -> tuple[Any, ...]:
        future = either.get_running_loop().create_future()

        async def child() -> Any:
            return await future

        task = either.create_task(child())
        await either.sleep(0)
        future.set_result("too late")
        task.cancel()
        with pytest.raises(either.CancelledError):
            await task
        return task.cancelled(), future.result()

    assert either.run(main()) == (True, "too late")


def test_whoever_waits_for_a_task_and_is_cancelled_cancels_it(either: Any) -> None:
    async def main() -> tuple[bool, bool]:
        inner = either.create_task(either.sleep(100))

        async def wait() -> None:
            await inner

        outer = either.create_task(wait())
        await either.sleep(0)
        outer.cancel()
        with pytest.raises(either.CancelledError):
            await outer
        return inner.cancelled(), outer.cancelled()

    assert either.run(main()) == (True, True)


def test_a_task_may_cancel_itself(either: Any) -> None:
    async def main() -> bool:
        async def child() -> None:
            either.current_task().cancel()
            await either.sleep(100)

        task = either.create_task(child())
        with pytest.raises(either.CancelledError):
            await task
        return bool(task.cancelled())

    assert either.run(main())


# ------------------------------------------------------------------------------------------------------------------ gather


def test_gather_gives_results_in_the_order_of_its_arguments(either: Any) -> None:
    async def later(seconds: float, result: Any) -> Any:
        await either.sleep(seconds)
        return result

    async def main() -> Any:
        done = either.get_running_loop().create_future()
        done.set_result("c")
        return await either.gather(later(0.002, "a"), later(0, "b"), done), await either.gather()

    assert either.run(main()) == (["a", "b", "c"], [])


def test_gather_raises_the_exception_that_came_first_and_the_others_go_on(either: Any) -> None:
    async def main() -> tuple[Any, ...]:
        loop = either.get_running_loop()
        slow, late, early = (loop.create_future() for _ in range(3))

        async def wait() -> Any:
            return await slow

        task = either.create_task(wait())
        loop.call_soon(early.set_exception, KeyError("early"))
        loop.call_soon(late.set_exception, KeyError("late"))
        with pytest.raises(KeyError, match="early"):
            await either.gather(task, late, early)
        slow.set_result("went on")
        return task.done(), await task

    assert either.run(main()) == (False, "went on")


def test_gather_gives_exceptions_among_the_results_where_asked_to(either: Any) -> None:
    async def fail() -> None:
        raise KeyError("k")

    async def main() -> list[str]:
        cancelled = either.get_running_loop().create_future()
        cancelled.cancel()
        found = await either.gather(fail(), either.sleep(0), cancelled, return_exceptions=True)
        return [type(one).__name__ for one in found]

    assert either.run(main()) == ["KeyError", "NoneType", "CancelledError"]


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_gather_that_is_cancelled_cancels_all_and_waits_for_them(either: Any, *, return_exceptions: bool) -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        async def child(name: str) -> None:
            try:
                await either.sleep(100)
            finally:
                await either.sleep(0.001)
                seen.append(name)

        async def all_of_them() -> None:
            await either.gather(child("a"), child("b"), return_exceptions=return_exceptions)

        task = either.create_task(all_of_them())
        await either.sleep(0.001)
        task.cancel()
        with pytest.raises(either.CancelledError):
            await task
        return [*seen, str(len(either.all_tasks()))]

    assert either.run(main()) == ["a", "b", "1"]


# -------------------------------------------------------------------------------------------------------------------- time


def test_timers_go_off_in_the_order_of_their_time_and_not_before(either: Any) -> None:
    async def main() -> list[str]:
        loop, seen = either.get_running_loop(), []
        began = loop.time()
        done = loop.create_future()

        def note(name: str, due: float) -> None:
            seen.append(name if loop.time() - began >= due - 1e-9 else f"{name} too early")
            if len(seen) == 3:
                done.set_result(None)

        loop.call_at(began + 0.006, partial(note, "c", 0.006))
        loop.call_later(0.002, partial(note, "a", 0.002))
        loop.call_later(0.003, partial(note, "never", 0)).cancel()
        timer = loop.call_at(began + 0.004, partial(note, "b", 0.004))
        assert timer.when() == began + 0.004
        await done
        return seen

    assert either.run(main()) == ["a", "b", "c"]


def test_timers_of_the_same_time_go_off_in_the_order_in_which_they_were_set() -> None:
    async def main() -> list[int]:
        loop, seen = aio.get_running_loop(), []  # type: ignore[var-annotated]
        for number in range(20):
            loop.call_at(5.0, partial(seen.append, number))
        await aio.sleep(6)
        return seen

    assert aio.run(main(), VirtualLoop()) == list(range(20))


def test_a_sleep_of_ages_is_ended_by_whatever_comes_first(either: Any) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with either.timeout(0.001):
                await either.sleep(1e12)  # more than the kernel takes

        task = either.create_task(either.sleep(1e12))
        ends = socket.socketpair()
        either.get_running_loop().add_reader(ends[0].fileno(), task.cancel)
        threading.Timer(0.005, ends[1].send, [b"!"]).start()
        with pytest.raises(either.CancelledError):
            await task
        either.get_running_loop().remove_reader(ends[0].fileno())
        for end in ends:
            end.close()

    either.run(main())


def test_a_timeout_ends_what_takes_too_long(either: Any) -> None:
    async def main() -> list[str]:
        seen = []
        try:
            async with either.timeout(0.001):
                try:
                    await either.sleep(100)
                except either.CancelledError:
                    seen.append("cancelled inside")
                    raise
        except TimeoutError:
            seen.append("timed out outside")
        await either.sleep(0.003)
        return seen

    assert either.run(main()) == ["cancelled inside", "timed out outside"]


def test_a_timeout_that_is_not_needed_does_nothing(either: Any) -> None:
    async def main() -> str:
        async with either.timeout(0.001):
            await either.sleep(0)
        await either.sleep(0.003)
        with pytest.raises(KeyError):
            async with either.timeout(5):
                raise KeyError
        return "unharmed"

    assert either.run(main()) == "unharmed"


@pytest.mark.parametrize(("outer", "inner", "expected"), [(0.001, 5, "outer"), (5, 0.001, "inner"), (0, 0, "outer")])
def test_of_nested_timeouts_the_one_that_is_over_raises(either: Any, outer: float, inner: float, expected: str) -> None:
    async def main() -> str:
        try:
            async with either.timeout(outer):
                try:
                    async with either.timeout(inner):
                        await either.sleep(100)
                except TimeoutError:
                    return "inner"
        except TimeoutError:
            return "outer"
        return "neither"

    assert either.run(main()) == expected


def test_a_task_that_is_cancelled_inside_of_a_timeout_is_cancelled(either: Any) -> None:
    async def main() -> bool:
        async def child() -> None:
            async with either.timeout(0):
                either.current_task().cancel()
                await either.sleep(100)

        task = either.create_task(child())
        with pytest.raises(either.CancelledError):
            await task
        return bool(task.cancelled())

    assert either.run(main())


def test_wait_tells_whether_a_future_is_done_and_leaves_it_be() -> None:
    async def main() -> tuple[Any, ...]:
        loop = aio.get_running_loop()
        future = loop.create_future()
        late = await aio.wait(future, 0.001)
        soon = loop.call_later(0.001, future.settle)
        in_time = await aio.wait(future, 10), await aio.wait(future), await aio.wait(future, 0), await aio.wait(future, 1e400)
        failed = loop.create_future()
        failed.set_exception(KeyError("k"))
        return late, in_time, await aio.wait(failed), str(failed.exception()), soon.when() <= loop.time()

    assert aio.run(main()) == (False, (True, True, True, True), True, "'k'", True)


def test_settle_ends_a_future_once() -> None:
    async def main() -> tuple[Any, ...]:
        first, second, third = (aio.get_running_loop().create_future() for _ in range(3))
        first.settle(1)
        first.settle(2)
        second.settle(error=KeyError("k"))
        second.settle(2)
        third.cancel()
        third.settle(3)
        return first.result(), str(second.exception()), third.cancelled()

    assert aio.run(main()) == (1, "'k'", True)


def test_idle_seconds_are_those_without_work() -> None:
    async def main() -> tuple[float, float]:
        loop = aio.get_running_loop()
        before = loop.idle_seconds()
        busy_until = time.perf_counter() + 0.02
        while time.perf_counter() < busy_until:
            await aio.sleep(0)
        busy = loop.idle_seconds() - before
        await aio.sleep(0.03)
        return busy, loop.idle_seconds() - before - busy

    busy, idle = aio.run(main())
    assert busy < 0.01
    assert 0.028 < idle < 1


# --------------------------------------------------------------------------------------------------------------- semaphore


def test_a_semaphore_lets_so_many_in_in_the_order_in_which_they_came(either: Any) -> None:
    async def main() -> tuple[list[int], int]:
        semaphore, inside, most, order = either.Semaphore(2), 0, 0, []

        async def enter(number: int) -> None:
            nonlocal inside, most
            async with semaphore:
                inside += 1
                most = max(most, inside)
                order.append(number)
                await either.sleep(0.001)
                inside -= 1

        await either.gather(*(enter(number) for number in range(7)))
        return order, most

    assert either.run(main()) == ([0, 1, 2, 3, 4, 5, 6], 2)


@pytest.mark.parametrize("when", ["while it waits", "as its turn comes", "just before its turn comes"])
def test_whoever_is_cancelled_before_a_semaphore_takes_nobodys_turn(either: Any, when: str) -> None:
    async def main() -> list[str]:
        semaphore, seen = either.Semaphore(1), []
        leave = either.get_running_loop().create_future()

        async def enter(name: str) -> None:
            async with semaphore:
                seen.append(name)

        async def hold() -> None:
            async with semaphore:
                await leave
                if when == "just before its turn comes":
                    tasks[0].cancel()
            if when == "as its turn comes":
                tasks[0].cancel()

        holder = either.create_task(hold())
        await either.sleep(0)
        tasks = [either.create_task(enter(name)) for name in ("cancelled", "next", "last")]
        await either.sleep(0)
        if when == "while it waits":
            tasks[0].cancel()
            await either.sleep(0)
        leave.set_result(None)
        await holder
        ended = await either.gather(*tasks, return_exceptions=True)
        async with semaphore:
            pass
        return [*seen, *(type(one).__name__ for one in ended)]

    assert either.run(main()) == ["next", "last", "CancelledError", "NoneType", "NoneType"]


# ----------------------------------------------------------------------------------------------------------------- sockets


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


@pytest.mark.usefixtures("poller")
def test_a_reader_is_called_while_there_is_something_to_read_and_not_after_it_is_removed(either: Any) -> None:
    async def main() -> tuple[bytes, int]:
        loop = either.get_running_loop()
        async with pair() as (here, there):
            arrived = bytearray()
            done = loop.create_future()

            def read() -> None:
                arrived.extend(here.recv(3))
                if len(arrived) == 10:
                    loop.remove_reader(here.fileno())
                    done.set_result(None)

            loop.add_reader(here.fileno(), read)
            there.send(b"0123456789")
            await done
            there.send(b"more")
            await either.sleep(0.002)
            loop.remove_reader(here.fileno())
            return bytes(arrived), len(here.recv(10))

    assert either.run(main()) == (b"0123456789", 4)


@pytest.mark.usefixtures("poller")
def test_a_writer_is_called_while_there_is_room_beside_a_reader_of_the_same_socket(either: Any) -> None:
    async def main() -> tuple[int, bytes]:
        loop = either.get_running_loop()
        async with pair() as (here, there):
            data, heard, done, received = bytearray(1_000_000), bytearray(), loop.create_future(), 0

            def write() -> None:
                del data[: here.send(data)]
                if not data:
                    loop.remove_writer(here.fileno())

            def drain() -> None:
                nonlocal received
                received += len(there.recv(65_536))
                if received == 1_000_000:
                    there.send(b"thanks")

            def hear() -> None:
                heard.extend(here.recv(100))
                done.set_result(None)

            loop.add_writer(here.fileno(), lambda: None)  # replaced by the next
            loop.add_writer(here.fileno(), write)
            loop.add_reader(here.fileno(), hear)
            loop.add_reader(there.fileno(), drain)
            await done
            for end in (here, there):
                loop.remove_reader(end.fileno())
                loop.remove_writer(end.fileno())
            return received, bytes(heard)

    assert either.run(main()) == (1_000_000, b"thanks")


@pytest.mark.usefixtures("poller")
def test_the_end_of_a_stream_is_something_to_read(either: Any) -> None:
    async def main() -> bytes:
        loop = either.get_running_loop()
        async with pair() as (here, there):
            ended = loop.create_future()
            loop.add_reader(here.fileno(), lambda: ended.done() or ended.set_result(here.recv(1)))
            there.close()
            answer: bytes = await ended
            loop.remove_reader(here.fileno())
            return answer

    assert either.run(main()) == b""


@pytest.mark.usefixtures("poller")
def test_a_callback_may_close_a_socket_that_is_ready_too(either: Any) -> None:
    async def main() -> int:
        loop, calls = either.get_running_loop(), 0
        async with pair() as (here, there):
            ends = (here, there)

            def read() -> None:
                nonlocal calls
                calls += 1
                for end in ends:
                    loop.remove_reader(end.fileno())
                    end.close()

            here.send(b"x")
            there.send(b"x")
            for end in ends:
                loop.add_reader(end.fileno(), read)
            await either.sleep(0.005)
            return calls

    assert either.run(main()) == 1


@pytest.mark.usefixtures("poller")
def test_what_is_deferred_waits_for_the_sockets_that_are_ready_and_for_nothing_else() -> None:
    async def main() -> list[str]:
        loop, seen = aio.get_running_loop(), []
        async with pair() as (here, there):

            def read(end: socket.socket) -> None:
                seen.append(f"read {end.recv(9).decode()}")
                loop.call_soon(seen.append, "soon")
                loop.defer(answer, seen[-1])

            def answer(what: str) -> None:
                seen.append(f"deferred after {what}")
                loop.defer(seen.append, "deferred again")

            for end in (here, there):
                end.send(b"x")
                loop.add_reader(end.fileno(), partial(read, end))
            await aio.sleep(0.002)
            for end in (here, there):
                loop.remove_reader(end.fileno())
            loop.defer(seen.append, "not while waiting")
            await aio.sleep(0)
        return seen

    assert aio.run(main()) == [
        *["read x"] * 2, *["deferred after read x"] * 2, *["deferred again"] * 2, *["soon"] * 2, "not while waiting"
    ]  # fmt: skip


def note_sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give what will have the seconds of each sleep of this process."""
    slept: list[float] = []
    sleep = time.sleep

    def noted(seconds: float) -> None:
        slept.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    return slept


@pytest.mark.parametrize(("sockets", "ready", "sleeps"), [(64, 1, 2), (64, 31, 2), (64, 32, 1), (63, 1, 0)])
def test_among_many_sockets_more_are_waited_for_where_few_were_ready_before(
    monkeypatch: pytest.MonkeyPatch, sockets: int, ready: int, sleeps: int
) -> None:
    slept = note_sleeps(monkeypatch)

    async def main() -> float:
        loop = aio.get_running_loop()
        async with AsyncExitStack() as stack:
            pairs = [await stack.enter_async_context(pair()) for _ in range(sockets)]
            for here, _ in pairs:
                loop.add_reader(here.fileno(), partial(here.recv, 1))
            for _, there in pairs[:ready]:
                there.send(b"x")
            await aio.sleep(0.5)  # two looks: what is ready, and until the time is over
            for here, _ in pairs:
                loop.remove_reader(here.fileno())
        return loop.idle_seconds()

    assert 0.4 < aio.run(main()) < 5.0
    assert slept == [0.001] * sleeps


def test_to_wait_for_more_sockets_delays_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = note_sleeps(monkeypatch)

    async def main() -> None:
        loop = aio.get_running_loop()
        async with AsyncExitStack() as stack:
            for _ in range(64):
                here, _ = await stack.enter_async_context(pair())
                loop.add_reader(here.fileno(), partial(here.recv, 1))
            for _ in range(20):
                await aio.sleep(0.0005)

    aio.run(main())
    assert 0.0 < max(slept) <= 0.0005


@pytest.mark.usefixtures("poller")
def test_readable_and_writable_wait_for_what_they_say() -> None:
    async def main() -> tuple[bytes, bool]:
        loop = aio.get_running_loop()
        async with pair() as (here, there):
            await loop.writable(here.fileno())
            loop.call_later(0.002, lambda: there.send(b"x"))
            await loop.readable(here.fileno())
            with suppress(TimeoutError):
                async with aio.timeout(0.001):
                    await loop.readable(there.fileno())
            return here.recv(1), bool(loop._readers or loop._writers)

    assert aio.run(main()) == (b"x", False)


@pytest.mark.usefixtures("poller")
def test_a_socket_is_connected_or_the_reason_told(either: Any) -> None:
    async def main() -> tuple[Any, ...]:
        loop = either.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
            with socket.socket() as here:
                here.setblocking(False)
                await loop.sock_connect(here, address)
                connected = here.getpeername()
        with socket.socket() as here:
            here.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(here, address)
        return (connected == address,)

    assert either.run(main()) == (True,)


def test_a_name_is_resolved_and_an_unknown_one_is_an_os_error(either: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        threads.append(threading.current_thread() is threading.main_thread())
        if host == "known.test":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    async def main() -> Any:
        loop = either.get_running_loop()
        with pytest.raises(socket.gaierror, match="not known"):
            await loop.getaddrinfo("unknown.test", 80, type=socket.SOCK_STREAM)
        return await either.gather(*(loop.getaddrinfo("known.test", 80) for _ in range(5)))

    assert either.run(main()) == [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]] * 5
    assert threads == [False] * 6


def test_a_name_that_cannot_be_one_is_told_too(either: Any) -> None:
    async def main() -> None:
        await either.get_running_loop().getaddrinfo(f"{'a' * 64}.test", 80)

    with pytest.raises(UnicodeError):
        either.run(main())


def test_a_name_that_is_resolved_after_the_loop_has_closed_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    go, errors = threading.Event(), []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: go.wait(10))
    monkeypatch.setattr(threading, "excepthook", lambda failed: errors.append(failed.exc_value))
    before = set(threading.enumerate())

    async def main() -> None:
        async with aio.timeout(0.002):
            await aio.get_running_loop().getaddrinfo("slow.test", 80)

    with pytest.raises(TimeoutError):
        aio.run(main())
    resolving = set(threading.enumerate()) - before
    go.set()
    for thread in resolving:
        thread.join(10)
    assert (len(resolving), errors) == (1, [])


def test_a_loop_that_was_closed_holds_no_file_descriptor() -> None:
    program = """if True:
        import os
        from s3bulkcopy.worker import aio

        async def main():
            await aio.get_running_loop().getaddrinfo("127.0.0.1", 80)

        for _ in range(3):
            aio.run(main())
        open_before = len(os.listdir("/dev/fd"))
        aio.run(main())
        assert len(os.listdir("/dev/fd")) == open_before
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_the_worker_does_not_import_asyncio() -> None:
    program = """if True:
        import sys
        import s3bulkcopy.worker.local, s3bulkcopy.worker.handler
        print(*sorted({"asyncio", "ssl", "dataclasses", "urllib.request"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=30, capture_output=True, text=True)
    assert done.stdout.strip() == ""


# --------------------------------------------------------------------------------------------------------------- at random


class VirtualAsyncio(asyncio.SelectorEventLoop):
    """asyncio's own loop, its clock jumping to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0
        self._selector.select = self._jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._seconds

    def _jump(self, seconds: float | None) -> list[Any]:
        assert seconds is not None, "everything waits, and nothing will ever happen"
        self._seconds += seconds
        return []


def _run_virtually(module: Any, main: Coroutine[Any, Any, Any]) -> Any:
    if module is aio:
        return aio.run(main, VirtualLoop())
    with asyncio.Runner(loop_factory=VirtualAsyncio) as runner:
        return runner.run(main)


#: What a task of a scenario does, one thing after another; times are drawn when it is run, so that no two are the same.
_step: st.SearchStrategy[Any] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["sleep", "raise", "hold"]),
        st.tuples(st.sampled_from(["cancel", "join"]), st.integers(0, 4)),
        st.tuples(st.sampled_from(["timeout", "gather all", "catch", "refuse"]), st.lists(_step, max_size=3)),
        # Where asyncio's is cancelled it waits for one of its own to end, ours for all: these end at once.
        st.tuples(st.just("gather"), st.lists(st.sampled_from(["sleep", "raise"]), max_size=3)),
    )
)
_scenarios = st.lists(st.lists(_step, max_size=5), min_size=1, max_size=5)


def _play(module: Any, scenario: list[list[Any]]) -> list[list[Any]]:  # noqa: C901, PLR0915 - an interpreter
    """Run a scenario; give what each task saw, and when."""

    async def main() -> list[list[Any]]:  # noqa: C901, PLR0915
        loop, semaphore, logs = module.get_running_loop(), module.Semaphore(1), [[] for _ in scenario]  # type: ignore[var-annotated]
        tasks: list[Any] = []

        async def steps(number: int, todo: list[Any], chance: random.Random) -> str:
            for one in todo:
                await step(number, one, chance)
            return "end"

        async def step(number: int, one: Any, chance: random.Random) -> None:  # noqa: C901, PLR0912
            def note(*what: Any) -> None:
                logs[number].append((*what, round(loop.time(), 9)))

            match one:
                case "sleep":
                    await module.sleep(chance.random())
                    note("slept")
                case "raise":
                    raise KeyError(number)
                case "hold":
                    async with semaphore:
                        note("entered")
                        await module.sleep(chance.random())
                    note("left")
                case ["cancel", other]:
                    await module.sleep(chance.random())
                    if other < len(tasks) and other != number:
                        note("cancels", other, tasks[other].cancel())
                case ["join", other]:
                    if other < number:  # so that nobody waits in a circle
                        note("joined", await tasks[other])
                case ["timeout", todo]:
                    try:
                        async with module.timeout(chance.random()):
                            await steps(number, todo, chance)
                    except TimeoutError:
                        note("timed out")
                case [("gather" | "gather all") as how, todo]:
                    chances = [random.Random(chance.random()) for _ in todo]  # noqa: S311
                    each = (step(number, sub, own) for sub, own in zip(todo, chances, strict=True))
                    found = await module.gather(*each, return_exceptions=how == "gather all")
                    note("gathered", [type(result).__name__ for result in found])
                case ["catch", todo]:
                    try:
                        await steps(number, todo, chance)
                    except KeyError:
                        note("caught")
                case ["refuse", todo]:
                    try:
                        await steps(number, todo, chance)
                    except module.CancelledError:
                        note("refused")
                case _:
                    raise AssertionError(one)

        for number, todo in enumerate(scenario):
            tasks.append(module.create_task(steps(number, todo, random.Random(number))))  # noqa: S311
        ends = await module.gather(*tasks, return_exceptions=True)
        while len(module.all_tasks()) > 1:  # what a gather that raised has left
            await module.gather(*(module.all_tasks() - {module.current_task()}), return_exceptions=True)
        return [[*log, type(end).__name__] for log, end in zip(logs, ends, strict=True)]

    return _run_virtually(module, main())  # type: ignore[no-any-return]


@settings(max_examples=300, deadline=None)
@given(_scenarios)
def test_any_scenario_goes_as_it_does_with_asyncio(scenario: list[list[Any]]) -> None:
    assert _play(aio, scenario) == _play(asyncio, scenario)

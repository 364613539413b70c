"""Walks and signals: a coroutine that goes on inside of `set`, is cancelled where it waits, and never runs twice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from waypost.worker.walk import Signal, Walk


def begin(coroutine: Coroutine[Any, Any, None]) -> tuple[Walk, set[Walk]]:
    """A walk that has made its first steps, and the set that holds it."""
    walks: set[Walk] = set()
    walk = Walk(coroutine, walks)
    assert walks == {walk}
    walk.go_on()
    return walk, walks


def test_it_starts_at_once_and_ends_without_a_loop() -> None:
    told = []

    async def steps() -> None:
        told.append("start")

    _, walks = begin(steps())
    assert told == ["start"] and not walks


def test_it_goes_on_inside_of_set() -> None:
    signal: Signal[int] = Signal()
    told: list[Any] = []

    async def steps() -> None:
        told.append("waits")
        told.append(await signal)

    walk, walks = begin(steps())
    assert told == ["waits"] and walks == {walk} and not signal.is_set
    signal.set(7)
    assert told == ["waits", 7] and not walks and signal.is_set


def test_a_signal_that_is_set_already_is_not_waited_for() -> None:
    signal: Signal[str] = Signal()
    signal.set("early")
    told = []

    async def steps() -> None:
        told.append(await signal)
        told.append(await signal)

    _, walks = begin(steps())
    assert told == ["early", "early"] and not walks


def test_a_second_result_is_ignored() -> None:
    signal: Signal[int] = Signal()
    told = []

    async def steps() -> None:
        told.append(await signal)

    begin(steps())
    signal.set(1)
    signal.set(2)
    assert told == [1]


def test_setting_inside_of_the_walk_that_will_wait() -> None:
    first: Signal[int] = Signal()
    second: Signal[int] = Signal()
    told = []

    async def steps() -> None:
        told.append(await first)
        second.set(2)
        told.append(await second)

    _, walks = begin(steps())
    first.set(1)
    assert told == [1, 2] and not walks


def test_signals_across_two_walks() -> None:
    ping: Signal[int] = Signal()
    pong: Signal[int] = Signal()
    told = []

    async def asks() -> None:
        told.append(f"pong {await pong}")

    async def answers() -> None:
        pong.set(await ping + 1)
        told.append("answered")

    _, first = begin(asks())
    _, second = begin(answers())
    ping.set(1)
    assert told == ["pong 2", "answered"] and not first and not second


def test_futures_and_tasks_of_the_loop() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        told: list[Any] = []

        async def steps() -> None:
            told.append(await future)
            told.append(await asyncio.ensure_future(asyncio.sleep(0, "slept")))
            failing: asyncio.Future[int] = loop.create_future()
            loop.call_soon(failing.set_exception, OSError("broken"))
            try:
                await failing
            except OSError as error:
                told.append(str(error))

        _, walks = begin(steps())
        future.set_result(3)
        assert told == [], "a future's callbacks take a turn of the loop"
        while walks:
            await asyncio.sleep(0)
        assert told == [3, "slept", "broken"]

    asyncio.run(run())


# Cancelled


def test_cancelled_at_a_signal() -> None:
    signal: Signal[int] = Signal()
    told = []

    async def steps() -> None:
        try:
            await signal
        except asyncio.CancelledError:
            told.append("cancelled")
        finally:
            told.append("cleaned up")

    walk, walks = begin(steps())
    walk.cancel()
    assert told == ["cancelled", "cleaned up"] and not walks
    signal.set(1)
    walk.cancel()
    assert told == ["cancelled", "cleaned up"], "neither a late result nor a second cancel runs it again"


def test_cancelled_at_a_future() -> None:
    async def run() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        told = []

        async def steps() -> None:
            try:
                await future
            except asyncio.CancelledError:
                told.append("cancelled")

        walk, walks = begin(steps())
        walk.cancel()
        while walks:
            await asyncio.sleep(0)
        assert future.cancelled() and told == ["cancelled"]

    asyncio.run(run())


def test_cancelled_and_going_on_to_another_wait() -> None:
    first: Signal[int] = Signal()
    second: Signal[str] = Signal()
    told = []

    async def steps() -> None:
        try:
            await first
        except asyncio.CancelledError:
            told.append(await second)

    walk, walks = begin(steps())
    walk.cancel()
    assert walks == {walk} and not told
    first.set(1)
    assert not told
    second.set("cleaned up")
    assert told == ["cleaned up"] and not walks


def test_cancelled_twice_where_it_waits_the_second_time() -> None:
    first: Signal[int] = Signal()
    second: Signal[int] = Signal()
    told = []

    async def steps() -> None:
        for signal in (first, second):
            try:
                await signal
            except asyncio.CancelledError:
                told.append("cancelled")

    walk, walks = begin(steps())
    walk.cancel()
    walk.cancel()
    assert told == ["cancelled", "cancelled"] and not walks


@pytest.mark.parametrize("finished", [False, True])
def test_cancelling_what_does_not_wait_is_harmless(finished: bool) -> None:
    signal: Signal[int] = Signal()
    told = []

    async def steps() -> None:
        told.append("start")
        if not finished:
            await signal
            walk.cancel()  # as when a write finds the client gone: the walk is running, so it sees to it itself
        told.append("end")

    walk, walks = begin(steps())
    signal.set(1)
    walk.cancel()
    assert told == ["start", "end"] and not walks


# Exceptions


def test_an_exception_comes_out_where_the_walk_was_moved() -> None:
    signal: Signal[int] = Signal()

    async def at_once() -> None:
        raise ValueError("at once")

    async def later() -> None:
        await signal
        raise ValueError("later")

    walks: set[Walk] = set()
    with pytest.raises(ValueError, match="at once"):
        Walk(at_once(), walks).go_on()
    walk = Walk(later(), walks)
    walk.go_on()
    with pytest.raises(ValueError, match="later"):
        signal.set(1)
    assert not walks, "an ended walk is not kept"


def test_an_exception_while_being_cancelled_ends_the_walk() -> None:
    signal: Signal[int] = Signal()

    async def steps() -> None:
        try:
            await signal
        finally:
            raise ValueError("in the clean-up")

    walk, walks = begin(steps())
    with pytest.raises(ValueError, match="in the clean-up"):
        walk.cancel()
    assert not walks


@pytest.mark.parametrize("at_future", [False, True])
def test_a_coroutine_that_does_not_catch_its_cancellation_just_ends(at_future: bool) -> None:
    complaints = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        waited: Any = loop.create_future() if at_future else Signal()

        async def steps() -> None:
            await waited

        walk, walks = begin(steps())
        walk.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not walks

    asyncio.run(run())
    assert not complaints

"""Drives a request's coroutine without an event-loop task: it starts at once, and goes on the moment its signal comes.

A task costs some 5 µs a request (it is registered, scheduled, and woken one loop turn late), a walk under one. A walk
may await `Signal`s and asyncio futures; what needs a current task (`asyncio.timeout`, …) goes into a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Waiting(Protocol):
    """Who is told that a signal is set: a walk, or somebody who waits for several signals."""

    def go_on(self) -> None:
        """It is."""


class Signal(Generic[T]):
    """One result, for the one walk that awaits it; that walk goes on inside of `set`."""

    __slots__ = ("_result", "is_set", "walk")

    def __init__(self) -> None:
        self.is_set = False
        self.walk: Waiting | None = None

    def set(self, result: T) -> None:
        """Give the result; a second one is ignored."""
        if self.is_set:
            return
        self.is_set = True
        self._result = result
        walk, self.walk = self.walk, None
        if walk is not None:
            walk.go_on()

    def __await__(self) -> Generator[Signal[T], None, T]:
        if not self.is_set:
            yield self
        return self._result


class Walk:
    """One coroutine on its way. `walks` holds it for as long as it is."""

    __slots__ = ("_coroutine", "_waiting_for", "_walks")

    def __init__(self, coroutine: Coroutine[Any, None, None], walks: set[Walk]) -> None:
        self._coroutine = coroutine
        self._walks = walks
        self._waiting_for: Signal[Any] | asyncio.Future[Any] | None = None
        walks.add(self)

    def go_on(self, _: object = None, thrown: BaseException | None = None) -> None:
        """Run until the next wait, or the end. The coroutine answers for its own exceptions.

        `thrown` is raised where it waits; a coroutine that lets its cancellation pass has simply ended.
        """
        try:
            if thrown is None:
                waiting_for = self._waiting_for = self._coroutine.send(None)
            else:
                waiting_for = self._waiting_for = self._coroutine.throw(thrown)
        except (StopIteration, asyncio.CancelledError):
            self._walks.discard(self)
        except BaseException:
            self._walks.discard(self)
            raise
        else:
            if type(waiting_for) is Signal:
                waiting_for.walk = self
            else:
                assert isinstance(waiting_for, asyncio.Future)
                waiting_for._asyncio_future_blocking = False  # as a task does
                waiting_for.add_done_callback(self.go_on)

    def cancel(self) -> None:
        """Raise CancelledError where the coroutine waits."""
        waiting_for = self._waiting_for
        if isinstance(waiting_for, asyncio.Future):
            waiting_for.cancel()
        elif waiting_for is not None and waiting_for.walk is self:
            waiting_for.walk = None
            self.go_on(thrown=asyncio.CancelledError())

"""One coarse clock for everything that may take too long, instead of a timer a request.

Whoever waits for something sets its own `deadline`; ten times a second all of them are looked at. Setting a deadline is
one attribute assignment, and a deadline fires at most one tick late.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

NEVER = float("inf")
TICK = 0.1  # seconds


class Watched(Protocol):
    """Something with a deadline on the event loop's clock; `expire` is called once it has passed."""

    deadline: float

    def expire(self) -> None:
        """The deadline has passed: give up, or set a new one."""


class Deadlines:
    """Owns the tick. `now` is the loop's time, at most one tick old."""

    __slots__ = ("_handle", "_loop", "now", "ticks", "watched")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.watched: set[Watched] = set()
        self.ticks = 0
        self.now = loop.time()
        self._handle = loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._handle = self._loop.call_later(TICK, self._tick)
        self.ticks += 1
        now = self.now = self._loop.time()
        for late in [watched for watched in self.watched if watched.deadline <= now]:
            late.deadline = NEVER
            late.expire()

    def close(self) -> None:
        """Stop ticking; nothing expires any more."""
        self._handle.cancel()
        self.watched.clear()

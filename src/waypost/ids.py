"""Request ids: `chatcmpl_` and a ULID, which sorts by time and is never taken from anybody else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

ALPHABET = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PAIRS = [bytes((a, b)) for a in ALPHABET for b in ALPHABET]  # ten bits at a time


def crockford(number: int, pairs: int) -> bytes:
    """The lowest `10 * pairs` bits of a number in Crockford's base 32, two characters for every ten bits."""
    out = []
    for _ in range(pairs):
        out.append(PAIRS[number & 1023])
        number >>= 10
    return b"".join(reversed(out))


class Minter:
    """Mints ids in rising order. A process counts up from a random 80-bit number, and never gives one twice.

    Of the 26 characters the first ten are the time in milliseconds. A clock that goes back does not take ids with it.
    """

    __slots__ = ("_age", "_clock", "_count", "_head", "_latest", "_prefix", "_stem")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._latest = 0
        self._age = -1  # some 17 minutes, counted since 1970: 2**20 milliseconds
        self._head = b""  # all that stays the same within one
        self._prefix = b""  # and within a millisecond
        self._draw()

    def _draw(self) -> None:
        drawn = int.from_bytes(os.urandom(10), "big")
        self._stem = crockford(drawn >> 30, 5)
        self._count = drawn & 0x1FFF_FFFF

    def _enter(self, now: int) -> None:
        """A later millisecond: its last four characters are made anew, and all ten hardly ever."""
        self._latest = now
        if now >> 20 != self._age:
            self._age = now >> 20
            self._head = b"chatcmpl_" + crockford(self._age, 3)
        self._prefix = self._head + PAIRS[now >> 10 & 1023] + PAIRS[now & 1023] + self._stem

    def __call__(self) -> bytes:
        """A new id: `chatcmpl_` and 26 characters."""
        now = int(self._clock() * 1000)
        if now > self._latest:
            self._enter(now)
        count = self._count = self._count + 1
        if count >> 30:
            self._draw()
            self._enter(self._latest + 1)  # the new numbers may be lower: they belong to a later time
            count = self._count
        return self._prefix + PAIRS[count >> 20] + PAIRS[count >> 10 & 1023] + PAIRS[count & 1023]

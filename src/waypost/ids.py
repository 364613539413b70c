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

    __slots__ = ("_clock", "_count", "_latest", "_prefix", "_stem")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._latest = 0
        self._prefix = b""  # all that stays the same within a millisecond
        self._draw()

    def _draw(self) -> None:
        drawn = int.from_bytes(os.urandom(10), "big")
        self._stem = crockford(drawn >> 30, 5)
        self._count = drawn & 0x1FFF_FFFF

    def __call__(self) -> bytes:
        """A new id: `chatcmpl_` and 26 characters."""
        now = int(self._clock() * 1000)
        if now > self._latest:
            self._latest = now
            self._prefix = b"chatcmpl_" + crockford(now, 5) + self._stem
        count = self._count = self._count + 1
        if count >> 30:
            self._draw()
            self._latest += 1  # the new numbers may be lower: they belong to a later time
            self._prefix = b"chatcmpl_" + crockford(self._latest, 5) + self._stem
            count = self._count
        return self._prefix + PAIRS[count >> 20] + PAIRS[count >> 10 & 1023] + PAIRS[count & 1023]

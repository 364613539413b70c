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
    """Mints ids in rising order: random bits are drawn anew each millisecond and counted up within it."""

    __slots__ = ("_clock", "_count", "_millisecond", "_stem")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._millisecond = -1
        self._stem = b""
        self._count = 0

    def __call__(self) -> bytes:
        """A new id: `chatcmpl_` and 26 characters."""
        millisecond = int(self._clock() * 1000)
        if millisecond > self._millisecond or self._count >= 1 << 29:
            self._millisecond = max(millisecond, self._millisecond + 1)
            drawn = int.from_bytes(os.urandom(10), "big")
            self._stem = b"chatcmpl_" + crockford(self._millisecond, 5) + crockford(drawn >> 30, 5)
            self._count = drawn & 0x0FFF_FFFF
        count = self._count = self._count + 1
        return self._stem + PAIRS[count >> 20] + PAIRS[count >> 10 & 1023] + PAIRS[count & 1023]

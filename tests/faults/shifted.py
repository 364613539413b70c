"""`waypost` with another wall clock: `python shifted.py FILE serve …` adds the seconds in FILE to the time of day.

Replaces `time.time` before anything of waypost is imported, so every process that is forked reads the same clock, and
it jumps when the file is written. What is not shifted: the monotonic clock (which must not notice), and the kernel's
own times (of files, which nothing here goes by). Nothing of this is in the product.
"""

from __future__ import annotations

import importlib
import mmap
import pathlib
import struct
import sys
import time

_double = struct.Struct("<d")


class Shift:
    """Seconds in a mapped file: written by a test, read by whoever is told its path."""

    def __init__(self, path: pathlib.Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)
        self._real = time.time

    def __call__(self) -> float:
        """The shifted time of day."""
        return self._real() + _double.unpack_from(self._map)[0]

    def set(self, now: float) -> None:
        """Jump: from here on it goes on from `now`."""
        _double.pack_into(self._map, 0, now - self._real())


if __name__ == "__main__":
    shift = Shift(pathlib.Path(sys.argv.pop(1)))
    time.time = shift
    time.time_ns = lambda: int(shift() * 1e9)
    sys.argv[0] = "waypost"
    sys.path.pop(0)  # this folder
    importlib.import_module("waypost.cli").main()

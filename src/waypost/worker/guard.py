"""The throughput guard: the beginning of a stream is held back until its upstream has shown that it does not crawl.

The caller has nothing of it yet, so another may still take over. Whoever is quick is held up only for as long as it
takes to say what a slow one would say in `WINDOW` seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from waypost.formats.usage import estimate_completion
from waypost.http.timers import NEVER
from waypost.policy.trail import Trail
from waypost.worker.relay import HELD_LIMIT

WINDOW = 2.0  # seconds from the first words


class Guard:
    """Of one attempt at a stream. `until` is when it is judged; never, before the first words have come."""

    __slots__ = ("_clock", "_enough", "_held", "_size", "_trail", "until")

    def __init__(self, pace: float, trail: Trail, clock: Callable[[], float]) -> None:
        """`pace` is in tokens a second."""
        self._enough = pace * WINDOW
        self._trail = trail
        self._clock = clock
        self._held: list[bytes] = []
        self._size = 0
        self.until = NEVER

    @property
    def is_holding(self) -> bool:
        """There are words, and the caller has not got them."""
        return bool(self._held)

    def lets_pass(self, out: bytes, observed: int, now: float) -> bool:
        """Keep this. True: it was enough, and all that was kept may go; `observed` is what the relay counts."""
        if not self._held:
            self.until = now + WINDOW
        self._held.append(out)
        self._size += len(out)
        return estimate_completion(observed) >= self._enough or self._size > HELD_LIMIT

    @property
    def is_another_left(self) -> bool:
        """Somebody could take over: else a crawling answer is better than none."""
        return self._trail.is_another_left(self._clock())

    def release(self) -> bytes:
        """What was held back."""
        held = b"".join(self._held)
        self._held.clear()
        self.until = NEVER
        return held

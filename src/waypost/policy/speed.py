"""How fast a target has been lately: a decaying time to first token for choosing, percentiles for thresholds.

One `Speed` for each provider and model, told of every answer. Seconds and tokens per second; the clock is an argument.
"""

from __future__ import annotations

from itertools import repeat
from math import inf, log

HALF_LIFE = 60.0  # seconds after which what is known of a target has half of its weight
MINUTES = 5
STEP = 1.15  # a bucket's upper end is this many times its lower one
LOWEST = 0.001
SPARSE = 0.001  # seconds: of answers that come closer together than this one in so long is a sample
BUCKETS = 128  # 0.001 … 58,000
SCALE = 1.0 / log(STEP)
SHIFT = -log(LOWEST) * SCALE
FEWEST = 5
"""Fewer samples than this say nothing about a percentile."""

USUAL = 0.95
HASTE = 0.05  # seconds: nobody is late before
LOOK = 1.0  # seconds for which a percentile that was looked at is good


class Spread:
    """A rolling histogram of the last five minutes."""

    __slots__ = ("counts", "minute")

    def __init__(self) -> None:
        self.minute = 0
        self.counts = [[0] * BUCKETS for _ in range(MINUTES)]

    def add(self, value: float, now: float) -> None:
        """One sample."""
        minute = int(now / 60.0)
        if minute != self.minute:
            self.turn(minute)
        bucket = int(log(value) * SCALE + SHIFT) if value > LOWEST else 0
        self.counts[minute % MINUTES][bucket if bucket < BUCKETS else -1] += 1

    def percentile(self, share: float, now: float) -> float | None:
        """The value that `share` (0…1) of the samples stay below, 15 % too high at most; None if too few are known."""
        self.turn(int(now // 60))
        counts = [sum(column) for column in zip(*self.counts, strict=True)]
        total = sum(counts)
        if total < FEWEST:
            return None
        needed, seen = share * total, 0
        for index, count in enumerate(counts):
            seen += count
            if seen >= needed and seen:
                return LOWEST * STEP ** (index + 1)
        return LOWEST * STEP**BUCKETS

    def turn(self, minute: int) -> None:
        """Empty what the clock has passed since the last sample."""
        for passed in range(max(self.minute + 1, minute - MINUTES + 1), minute + 1):
            self.counts[passed % MINUTES] = list(repeat(0, BUCKETS))
        self.minute = max(self.minute, minute)


class Patience:
    """How long answers of one kind usually take to begin: who is later than nearly all of them is worth no waiting."""

    __slots__ = ("_looked", "_spread", "_usual")

    def __init__(self) -> None:
        self._spread = Spread()
        self._usual: float | None = None
        self._looked = -inf

    def note(self, seconds: float, now: float) -> None:
        """An answer began; or had not begun when somebody else's did, which was at least as late."""
        self._spread.add(seconds, now)

    def wait(self, unknown: float, now: float) -> float:
        """Seconds that 95 % of the answers of five minutes stay below; `unknown` where there are too few of them."""
        if now - self._looked >= LOOK:
            self._looked = now
            self._usual = self._spread.percentile(USUAL, now)
        return unknown if self._usual is None else max(HASTE, self._usual)


class Speed:
    """What is known of one target. `active`: attempts that are under way.

    `patience`: kept only of targets that are asked with another beside them, by whether the answer is streamed.
    """

    __slots__ = ("_at", "_latency", "active", "first_token", "patience", "throughput")

    def __init__(self) -> None:
        self._latency = 0.0
        self._at = 0.0
        self.active = 0
        self.first_token = Spread()
        self.throughput = Spread()
        self.patience: dict[bool, Patience] = {}

    def note_first_token(self, seconds: float, now: float) -> None:
        """An answer began, or had not begun when it was given up, `seconds` after it was asked for."""
        if 0.0 <= now - self._at < SPARSE:
            return
        known = self._latency
        if known:
            # A sample weighs a fifth at least: among many, the average follows the last handful.
            passed = now - self._at
            share = passed / (passed + HALF_LIFE) if passed > HALF_LIFE / 4 else 0.2
            self._latency = known + share * (seconds - known)
        else:
            self._latency = seconds
        self._at = now
        # `first_token.add`, in line: every answer comes by here.
        spread = self.first_token
        minute = int(now / 60.0)
        if minute != spread.minute:
            spread.turn(minute)
        bucket = int(log(seconds) * SCALE + SHIFT) if seconds > LOWEST else 0
        spread.counts[minute % MINUTES][bucket if bucket < BUCKETS else -1] += 1

    def note_throughput(self, tokens: int, seconds: float, now: float) -> None:
        """An answer of so many tokens took so long after its first one."""
        if tokens > 1 and seconds > 0:
            self.throughput.add(tokens / seconds, now)

    def latency(self, now: float) -> float:
        """Seconds to the first token, fading with the time since it was last seen: who was slow gets another chance."""
        return self._latency * HALF_LIFE / (HALF_LIFE + max(0.0, now - self._at))

    def burden(self, now: float) -> float:
        """What the next request would meet here, to compare targets by: latency times those who wait for it.

        A target that nobody knows is tried at once, but by one request at a time.
        """
        if self._latency:
            return self.latency(now) * (self.active + 1)
        return inf if self.active else 0.0

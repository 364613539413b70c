"""When to leave an upstream alone: one breaker for each key of a provider and each model.

Closed, everything passes and every result is counted. Enough failures open it: the planner leaves it out until its
deadline. Then it lends out one permit at a time: the request that has it is the probe, and its end decides. A permit
is a lease, so one that is never given back lapses; a probe that is late still counts, because a long stream that ends
well is as good a proof as a short one.

Results are told apart by the `generation` in which their attempt began. What began before the breaker opened neither
closes it nor opens it wider. Times are seconds on one monotonic clock, which all processes of a host share.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.policy.failures import Counts

SLOTS = 10
PROBE_BITS = 16
REFUSED = 0
"""What `admit` returns when nothing may pass."""


class BreakerSettings(msgspec.Struct, frozen=True):
    """When it opens and for how long. Seconds, unless they are counts; `rate` is a share of 1."""

    consecutive: int = 5  # failures in a row
    rate: float = 0.5  # failures among the requests of `window`, if there were `requests` of them
    requests: int = 20
    window: float = 30.0
    rest: float = 60.0  # the first opening; each repetition doubles it
    longest: float = 480.0
    limited: float = 1.0  # after a 429 that names no time
    longest_limit: float = 300.0  # what a Retry-After may ask for
    probe: float = 10.0  # a permit's lease


DEFAULT = BreakerSettings()


class BreakerState(msgspec.Struct, frozen=True, array_like=True):
    """What others know of a breaker. `until` is 0.0 when everything passes; without `is_open` it only rests."""

    until: float
    openings: int
    is_open: bool


class Breaker:
    """One of them. `troubled`, shared by all, holds those that are not closed, for whoever wants to see them."""

    __slots__ = (
        "_closed_at", "_consecutive", "_probe", "_probe_ends", "_probes", "_settings", "_slot", "_slots_failed",
        "_slots_total", "_troubled", "generation", "is_open", "openings", "until",
    )  # fmt: skip

    def __init__(self, settings: BreakerSettings, troubled: set[Breaker]) -> None:
        self._settings = settings
        self._troubled = troubled
        self.until = 0.0  # it is left alone up to here; 0 when everything passes
        self.is_open = False  # a probe must go well first; otherwise it only rests, as a 429 asked for
        self.generation = 1  # grows with each opening and closing
        self.openings = 0  # in a row, without a good while in between
        self._closed_at = 0.0
        self._consecutive = 0
        self._probe = 0  # the permit that is out; 0 when none is
        self._probes = 0  # permits lent in this generation
        self._probe_ends = 0.0
        self._forget()

    def _forget(self) -> None:
        self._consecutive = 0
        self._slot = -1
        self._slots_total = [0] * SLOTS
        self._slots_failed = [0] * SLOTS

    # Asking

    def blocks(self, now: float) -> bool:
        """Would `admit` refuse? Asks without taking a permit."""
        until = self.until
        if not until:
            return False
        return now < until or (self._probe != 0 and now < self._probe_ends)

    def admit(self, now: float, *, forced: bool = False) -> int:
        """Leave to send a request now, as a permit to give back with its result; REFUSED (0) if there is none.

        A probe's permit is negative. `forced` passes in any case: for the last target that is left.
        """
        until = self.until
        if not until:
            return self.generation
        if self.blocks(now):
            return self.generation if forced else REFUSED
        if not self.is_open:
            self._wake()
            return self.generation
        self._probes += 1
        self._probe = -(self.generation << PROBE_BITS | self._probes % (1 << PROBE_BITS))
        self._probe_ends = now + self._settings.probe
        return self._probe

    @property
    def is_failing(self) -> bool:
        """Were the latest results failures, all of them?"""
        return self._consecutive > 0 and sum(self._slots_total) == sum(self._slots_failed)

    # Telling

    def succeeded(self, permit: int, now: float) -> None:
        """A whole answer. Whoever proves that it works closes it, unless the proof is older than the trouble."""
        if permit != self.generation and not self._is_current(permit):
            return
        if self.is_open:
            self._close(now)
            return
        self._consecutive = 0
        slot = int(now * SLOTS / self._settings.window)
        if slot != self._slot:
            self._turn(slot)
        self._slots_total[slot % SLOTS] += 1

    def failed(self, permit: int, now: float, counts: Counts = "failure", retry_after: float | None = None) -> None:
        """A failure, as its class counts it (`failures.TABLE`). `retry_after`: seconds that the upstream asked for."""
        if counts == "limit":
            self._limit(permit, now, retry_after)
        elif counts == "nothing":
            self.release(permit)
        elif self._is_current(permit):
            if permit < 0 or (counts == "dead" and not self.is_open):
                self._open(now)
            elif not self.is_open:  # what was forced through an open one says nothing new
                self._count(now)

    def release(self, permit: int) -> None:
        """The attempt ended without saying anything about the upstream: its permit is free again."""
        if permit < 0 and permit == self._probe:
            self._probe = 0

    def _is_current(self, permit: int) -> bool:
        return (permit if permit > 0 else -permit >> PROBE_BITS) == self.generation

    # Counting

    def _turn(self, slot: int) -> None:
        """Empty the slots that the clock has passed since the last result."""
        for passed in range(max(self._slot + 1, slot - SLOTS + 1), slot + 1):
            self._slots_total[passed % SLOTS] = self._slots_failed[passed % SLOTS] = 0
        self._slot = max(self._slot, slot)

    def _count(self, now: float) -> None:
        settings = self._settings
        slot = int(now * SLOTS / settings.window)
        if slot != self._slot:
            self._turn(slot)
        self._slots_total[slot % SLOTS] += 1
        self._slots_failed[slot % SLOTS] += 1
        self._consecutive += 1
        total, failed = sum(self._slots_total), sum(self._slots_failed)
        if self._consecutive >= settings.consecutive or (
            total >= settings.requests and failed >= settings.rate * total
        ):
            self._open(now)

    def _open(self, now: float) -> None:
        settings = self._settings
        if not self.is_open and now - self._closed_at > settings.longest:
            self.openings = 0  # it has been good for a good while
        self.openings += 1
        self._open_until(max(self.until, now + rest_of(self.openings, settings)))

    def _open_until(self, until: float) -> None:
        self.until = until
        self.is_open = True
        self.generation += 1
        self._probe = self._probes = 0
        self._troubled.add(self)

    def _limit(self, permit: int, now: float, retry_after: float | None) -> None:
        """Rest for as long as it asks. A 429 is no illness: it neither counts as a failure nor needs a probe."""
        self.release(permit)
        settings = self._settings
        wait = settings.limited if retry_after is None else min(max(0.0, retry_after), settings.longest_limit)
        if wait:
            self.until = max(self.until, now + wait)
            self._troubled.add(self)

    def _close(self, now: float) -> None:
        """It works: everything passes, and counting begins anew."""
        self.until = 0.0
        self.is_open = False
        self.generation += 1
        self._probe = self._probes = 0
        self._troubled.discard(self)
        self._closed_at = now
        self._forget()

    def _wake(self) -> None:
        """A limit's time is over."""
        self.until = 0.0
        self._troubled.discard(self)

    # Sharing

    @property
    def state(self) -> BreakerState:
        """To tell others."""
        return BreakerState(self.until, self.openings, self.is_open)

    def adopt(self, other: BreakerState, now: float) -> None:
        """Another process's breaker of the same name has opened, or rests: the longest deadline wins."""
        if other.until <= max(now, self.until):
            return
        if other.is_open:
            self.openings = max(self.openings, other.openings)
            self._open_until(other.until)
        else:
            self.until = other.until
            self._troubled.add(self)

    def hear_of_recovery(self, now: float) -> None:
        """Another process's probe went well: ours may go at once."""
        if self.is_open and self.until > now:
            self.until = now


def rest_of(openings: int, settings: BreakerSettings) -> float:
    """Seconds that the nth opening in a row lasts: each twice the one before, up to the longest."""
    return float(min(settings.longest, settings.rest * 2.0 ** min(openings - 1, 30)))


def passing(breakers: Sequence[Breaker], now: float) -> tuple[list[bool], bool]:
    """Which of these may be asked. All of them when every one is open (then True, too): the last is never ejected.

    Then it is not known who is well again, and one answer is worth more than the rest of the deadlines.
    """
    passes = [not breaker.blocks(now) for breaker in breakers]
    return (passes, False) if any(passes) else ([True] * len(passes), True)

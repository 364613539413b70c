"""How often a request is tried, how long it waits in between, and how much of a provider's load may be repetition.

An attempt is a *repetition* when its request has asked the same provider before. A first question to another provider
is not one: that somebody else is ill must not keep a healthy target from being asked. One that is sent beside another
that is late (hedging) is one, of the late one's provider, wherever it goes: as slow as a provider may be, it never
doubles what others have to bear.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Dice = Callable[[], float]
"""A number in [0, 1), a new one at each call."""

SHARE = 5  # one repetition for so many first attempts
FLOOR = 3  # repetitions that are always possible, when none were made for a while


class RetrySettings(msgspec.Struct, frozen=True):
    """Seconds, but for `attempts`, which counts a request's first attempt too."""

    attempts: int = 3
    pause: float = 0.25  # before the first repetition; each further one may wait twice as long
    longest_pause: float = 5.0
    longest_wait: float = 20.0  # what a Retry-After may ask of a request
    least: float = 0.25  # an attempt that would have less time than this is not begun


DEFAULT = RetrySettings()


def pause_before(repetition: int, settings: RetrySettings, dice: Dice, hint: float | None = None) -> float:
    """Seconds to wait before the nth repetition (1, 2, …): half fixed, half by dice, and never less than the hint."""
    longest = min(settings.longest_pause, settings.pause * 2.0 ** min(repetition - 1, 30))
    pause = longest * (0.5 + 0.5 * dice())
    # With a hint, all who were told the same time come back spread over the pause that follows it.
    return pause if hint is None else hint + pause


class RetryBudget:
    """A provider's: repetitions are a fifth of what is active, or three, in flight and over any stretch of time.

    Each first attempt earns a fifth of a repetition, each repetition costs a whole one; what is saved up never exceeds
    a fifth of what is active, or three. So over any time repetitions ≤ 0.2 × first attempts + max(3, 0.2 × active when
    it began).
    """

    __slots__ = ("_saved", "active", "repeating")

    def __init__(self) -> None:
        self._saved = FLOOR * SHARE  # in fifths of a repetition
        self.active = 0  # attempts under way, repetitions among them
        self.repeating = 0

    def begin(self) -> None:
        """A first attempt begins."""
        self.active += 1
        if self._saved < FLOOR * SHARE or self._saved < self.active:
            self._saved += 1

    def end(self, is_repetition: bool) -> None:
        """An attempt is over."""
        self.active -= 1
        if is_repetition:
            self.repeating -= 1

    @property
    def allows(self) -> bool:
        """Would `begin_again`, or `begin_beside`, be granted?"""
        most = max(FLOOR * SHARE, self.active)
        return min(self._saved, most) >= SHARE and self.repeating * SHARE < most

    def begin_again(self) -> bool:
        """A repetition begins, its pause included; False: it must not."""
        if not self.begin_beside():
            return False
        self.active += 1
        return True

    def begin_beside(self) -> bool:
        """A late attempt at this provider gets another beside it, which may go elsewhere; False: it must not."""
        if not self.allows:
            return False
        self._saved = min(self._saved, max(FLOOR * SHARE, self.active)) - SHARE
        self.repeating += 1
        return True

    def take_back(self) -> None:
        """What `begin_beside` allowed is over before it began: it cost nothing."""
        self._saved += SHARE
        self.repeating -= 1

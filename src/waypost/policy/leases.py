"""Leases, decided: how much to ask for, how much to hand out, and who has what of one meter on one host. Pure."""

from __future__ import annotations

AHEAD = 32
"""Times what is missing now: what a worker asks for that has not asked lately."""

HORIZON = 60.0
"""Seconds that a lease is to last."""


def ask_for(need: int, last: int, age: float) -> int:
    """Units to ask for: `need` now, and `last` were granted `age` seconds ago and are spent.

    Enough for the next `HORIZON` at the pace of late, but no more than twice the last time.
    """
    pace = HORIZON / age if age > HORIZON / 2 else 2.0
    return max(need * AHEAD, int(last * pace))


def slice_of(remaining: int, need: int, ask: int, holders: int) -> int:
    """Units to hand out of `remaining`: at least `need` if there are so many, and towards `ask` a fair share.

    Large far from the limit; close to it no more than is needed, which leaves the others theirs without a recall.
    """
    return max(0, min(remaining, max(need, min(ask, remaining // holders))))

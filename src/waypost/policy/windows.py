"""Windows of limits, named by their date: a new window is a new name, so nothing is ever reset.

A minute and an hour are named with their offset from UTC, so that the hour which comes twice when clocks are set back
is two windows. A day and a month are the calendar's in their zone, however many hours those have.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Literal

import msgspec

Kind = Literal["minute", "hour", "day", "month", "total"]

# Seconds within which a window of this kind is sure to have begun and to have ended. The longest local day of this
# century has 27 hours.
_REACH = {"minute": 60, "hour": 3_600, "day": 30 * 3_600, "month": 32 * 86_400}


class Window(msgspec.Struct, frozen=True):
    """`starts` and `ends` in whole seconds since 1970 UTC: the first one inside and the first one after; 0: never."""

    name: str
    starts: int
    ends: int


_TOTAL = Window("total", 0, 0)


def window_of(kind: Kind, now: float, zone: datetime.tzinfo) -> Window:
    """The window that `now` (seconds since 1970 UTC) is in, by the clocks of `zone`."""
    if kind == "total":
        return _TOTAL
    second = int(now // 1)
    label = _LABELS[kind]

    def label_at(moment: int) -> str:
        return label(datetime.datetime.fromtimestamp(moment, zone))

    here = label_at(second)
    starts = _edge(second - _REACH[kind], second, lambda moment: label_at(moment) == here)
    ends = _edge(second, second + _REACH[kind], lambda moment: label_at(moment) != here)
    return Window(f"{kind}:{here}", starts, ends)


def ends_by(meter: str) -> int:
    """A moment by which the window in a meter's name is over in every zone; 0: never."""
    match = _DATE.search(meter)
    if match is None:
        return 0
    year, month, day = int(match[2]), int(match[3]), int(match[4] or 1)
    begins = datetime.datetime(year, month, day, tzinfo=datetime.UTC)
    days = 31 if match[1] == "month" else 1
    return int(begins.timestamp()) + days * 86_400 + _WEST


_DATE = re.compile(r":(minute|hour|day|month):(\d{4})-(\d{2})(?:-(\d{2}))?")
_WEST = 13 * 3_600  # the last zone in which a day ends is 12 hours behind UTC; clocks may have been set back


def _edge(before: int, after: int, holds: Callable[[int], bool]) -> int:
    """The first moment at which it holds, which it does not `before` and does `after`."""
    while after - before > 1:
        middle = (before + after) // 2
        if holds(middle):
            after = middle
        else:
            before = middle
    return after


def _offset(local: datetime.datetime) -> str:
    offset = local.utcoffset() or datetime.timedelta()
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


_LABELS: dict[str, Callable[[datetime.datetime], str]] = {
    "minute": lambda local: f"{local:%Y-%m-%dT%H:%M}{_offset(local)}",
    "hour": lambda local: f"{local:%Y-%m-%dT%H}{_offset(local)}",
    "day": lambda local: f"{local:%Y-%m-%d}",
    "month": lambda local: f"{local:%Y-%m}",
}

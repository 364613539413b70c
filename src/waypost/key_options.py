"""What the command line says of a key's limits, and how listings show them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

from cyclopts import Parameter
from msgspec import UNSET, UnsetType

from waypost.dollars import parse_dollars, render_dollars
from waypost.messages import KeyRecord, KeyTerms, SpendWindow

NONE: Final = "none"
UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}  # seconds
WINDOWS: Final[tuple[SpendWindow, ...]] = ("day", "month", "total")

_span = re.compile(r"([0-9]{1,6})([mhd])").fullmatch
T = TypeVar("T")


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class KeyOptions:
    """A key's limits as they are typed. `none` takes a limit away."""

    expires: Annotated[
        str | None, Parameter(help="When it ends: in 30d, 12h or 45m, or at a date such as 2026-12-31, UTC.")
    ] = None
    models: Annotated[
        str | None, Parameter(help="What it may call: patterns with commas between, within the plan's.")
    ] = None
    daily_limit: Annotated[str | None, Parameter(help="Requests a day, at most the plan's.")] = None
    minute_limit: Annotated[str | None, Parameter(help="Requests a minute, at most the plan's.")] = None
    spend_limit: Annotated[str | None, Parameter(help="US dollars in each --spend-window, such as 5.00.")] = None
    spend_window: Annotated[str | None, Parameter(help="day, month or total.")] = None
    balance: Annotated[str | None, Parameter(help="US dollars that are left for it to spend, from now on.")] = None

    def terms(self, now: float) -> KeyTerms:
        """Raises ValueError naming the option; `now` is in seconds since 1970 UTC."""
        return KeyTerms(
            models=_parsed("--models", self.models, _models),
            expires_at=_parsed("--expires", self.expires, lambda text: parse_expiry(text, now)),
            minute_limit=_parsed("--minute-limit", self.minute_limit, _count),
            daily_limit=_parsed("--daily-limit", self.daily_limit, _count),
            spend_limit=_parsed("--spend-limit", self.spend_limit, parse_dollars),
            spend_window=_parsed("--spend-window", self.spend_window, _window),
            balance=_parsed("--balance", self.balance, parse_dollars),
        )


def _parsed(option: str, text: str | None, parse: Callable[[str], T]) -> T | UnsetType | None:
    if text is None:
        return UNSET
    if text == NONE:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _models(text: str) -> tuple[str, ...]:
    return tuple(pattern.strip() for pattern in text.split(",") if pattern.strip())


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise ValueError(f"{text[:40]!r} is not a number of requests; none takes the limit away")
    return int(text)


def _window(text: str) -> SpendWindow:
    for window in WINDOWS:
        if text == window:
            return window
    raise ValueError(f"{text[:40]!r} is not one of {', '.join(WINDOWS)}")


def parse_expiry(text: str, now: float) -> int:
    """`30d`, `12h`, `45m` from now, or a date with or without a time, UTC unless it says another. Raises ValueError."""
    span = _span(text)
    if span is not None:
        return int(now) + int(span[1]) * UNITS[span[2]]
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text[:40]!r} is neither a time from now, such as 30d, nor a date such as 2026-12-31"
        ) from None


def describe_limits(key: KeyRecord) -> str:
    """A key's limits in one cell of a table."""
    parts = [", ".join(key.models)] if key.models is not None else []
    if key.minute_limit is not None:
        parts.append(f"{key.minute_limit} a minute")
    if key.daily_limit is not None:
        parts.append(f"{key.daily_limit} a day")
    if key.spend_limit is not None:
        window = "in total" if key.spend_window == "total" else f"a {key.spend_window}"
        parts.append(f"${render_dollars(key.spend_limit)} {window}")
    return "; ".join(parts)


def describe_amount(amount: int | None) -> str:
    """Dollars, or nothing."""
    return "" if amount is None else f"${render_dollars(amount)}"

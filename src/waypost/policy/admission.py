"""Which meters a request moves, by how much, and how a full one is refused. Pure."""

from __future__ import annotations

import math
import zoneinfo
from collections.abc import Iterable, Iterator
from datetime import UTC, tzinfo
from typing import Literal

import msgspec

from waypost.config import Plan
from waypost.dollars import parse_dollars, render_dollars
from waypost.errors import Refusal
from waypost.messages import Identity
from waypost.policy.windows import Kind, window_of

What = Literal["requests", "tokens", "money", "streams"]

OUTPUT_RESERVE = 4096
"""Tokens that an answer is taken to have at most where the caller names no limit: more is settled, not forbidden."""


class Meter(msgspec.Struct, frozen=True):
    """One limit that a caller's requests move. `starts`, `ends`: seconds since 1970 UTC, 0 for ever and never."""

    name: str
    what: What
    window: str  # minute, hour, day, month or total
    limit: int
    ends: int
    starts: int = 0


def zone_of(plan: Plan) -> tzinfo:
    """The zone that a plan's days are counted in."""
    return UTC if plan.timezone == "UTC" else zoneinfo.ZoneInfo(plan.timezone)


def meters_of(identity: Identity, plan: Plan, now: float, *, free: bool = False) -> list[Meter]:
    """Every meter of this caller, in the windows of `now` (seconds since 1970 UTC). `free`: of requests to `:free`."""
    zone = zone_of(plan)
    meters = []
    for whose, what, window, limit in limits_of(identity, plan, free=free):
        current = window_of(window, now, zone)
        group: What = "money" if what in ("spend", "balance") else what  # type: ignore[assignment]
        meters.append(Meter(f"{whose}:{what}:{current.name}", group, window, limit, current.ends, current.starts))
    return meters


def limits_of(identity: Identity, plan: Plan, *, free: bool = False) -> Iterator[tuple[str, str, Kind, int]]:
    """Whose, what, window and limit: the account's by its plan and credit, then the key's own.

    Where the plan has limits for free variants, requests to them (`free`) move meters of their own, `f17:requests:…`,
    in place of those of the plan's `requests`.
    """
    account, key = f"a{identity.account_id}", f"k{identity.key_id}"
    requests = plan.free if free and plan.free else plan.requests
    for window, limit in requests.items():
        yield f"f{identity.account_id}" if requests is plan.free else account, "requests", window, limit
    for window, limit in plan.tokens.items():
        yield account, "tokens", window, limit
    for span, dollars in plan.spend.items():
        yield account, "spend", span, parse_dollars(dollars)
    if plan.streams is not None:
        yield account, "streams", "total", plan.streams
    if identity.account_credit is not None:
        yield account, "balance", "total", identity.account_credit
    if identity.minute_limit is not None:
        yield key, "requests", "minute", identity.minute_limit
    if identity.daily_limit is not None:
        yield key, "requests", "day", identity.daily_limit
    if identity.spend_limit is not None:
        yield key, "spend", identity.spend_window or "total", identity.spend_limit
    if identity.key_credit is not None:
        yield key, "balance", "total", identity.key_credit


# Refusals

REQUEST_CODES = {
    "minute": "MINUTE_REQUEST_LIMIT_EXCEEDED",
    "hour": "HOURLY_REQUEST_LIMIT_EXCEEDED",
    "day": "DAILY_REQUEST_LIMIT_EXCEEDED",
    "month": "MONTHLY_REQUEST_LIMIT_EXCEEDED",
}
STREAM_PAUSE = 1  # seconds after which another stream may have ended


def refusal_of(meter: Meter, need: int, remaining: int, now: float) -> Refusal:
    """The error for a meter that has not got `need` units; `remaining` it has."""
    whose = "the key's own" if meter.name.startswith("k") else "your plan's"
    seconds = seconds_until(meter.ends, now) if meter.ends else None
    if meter.what == "requests":
        which = " to :free models" if meter.name.startswith("f") else ""
        message = f"All {meter.limit:,} requests{which} of this {meter.window} are used; it is {whose} limit."
        return Refusal(REQUEST_CODES[meter.window], message, retry_after=seconds)
    if meter.what == "tokens":
        message = (
            f"This request may use up to {need:,} tokens, and {max(0, remaining):,} of this {meter.window}'s "
            f"{meter.limit:,} are left ({whose} limit). A lower max_tokens needs fewer."
        )
        return Refusal("TOKEN_LIMIT_EXCEEDED", message, retry_after=seconds)
    if meter.what == "streams":
        message = f"{meter.limit:,} streams are open, as many as your plan allows at a time."
        return Refusal("STREAM_LIMIT_EXCEEDED", message, retry_after=STREAM_PAUSE)
    cost, left = render_dollars(need), render_dollars(max(0, remaining))
    if ":balance:" in meter.name:
        holder = "The key's" if meter.name.startswith("k") else "The account's"
        message = (
            f"{holder} balance is ${left}, and this request may cost up to ${cost}. A lower max_tokens costs less."
        )
        return Refusal("INSUFFICIENT_BALANCE", message)
    span = "in all" if meter.window == "total" else f"this {meter.window}"
    message = (
        f"This request may cost up to ${cost}, and ${left} of the ${render_dollars(meter.limit)} to spend {span} "
        f"are left ({whose} limit). A lower max_tokens costs less."
    )
    return Refusal("SPEND_LIMIT_EXCEEDED", message, retry_after=seconds)


def limit_lines(meters: Iterable[tuple[Meter, int]], now: float) -> bytes:
    """`X-RateLimit-Limit/Remaining/Reset-{Minute,Hour,Day,Month}` of (meter of requests, units left) pairs.

    Where account and key have the same window, the tighter one is told. Resets are in seconds.
    """
    tightest: dict[str, tuple[int, Meter]] = {}
    for meter, remaining in meters:
        known = tightest.get(meter.window)
        if known is None or remaining < known[0]:
            tightest[meter.window] = (remaining, meter)
    lines = b""
    for window, (remaining, meter) in tightest.items():
        name = window.encode()
        lines += b"x-ratelimit-limit-%b: %d\r\n" % (name, meter.limit)
        lines += b"x-ratelimit-remaining-%b: %d\r\n" % (name, max(0, remaining))
        lines += b"x-ratelimit-reset-%b: %d\r\n" % (name, seconds_until(meter.ends, now))
    return lines


def seconds_until(ends: int, now: float) -> int:
    """Whole seconds after which a window is over, at least one."""
    return max(1, math.ceil(ends - now))

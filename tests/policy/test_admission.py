"""Which meters a request moves, and how a full one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from waypost.config import Plan
from waypost.messages import Identity
from waypost.policy.admission import Meter, limit_lines, meters_of, refusal_of

NOON = 1795435200.0  # 2026-11-23T12:00:00Z


def identity(**narrowing: Any) -> Identity:
    return Identity(3, 17, "acme", "max", "inference", "default", **narrowing)


def names(plan: Plan, **narrowing: Any) -> dict[str, int]:
    return {meter.name: meter.limit for meter in meters_of(identity(**narrowing), plan, NOON)}


def test_a_plan_without_limits_has_no_meters() -> None:
    assert meters_of(identity(), Plan(), NOON) == []


def test_the_accounts_meters_come_from_its_plan() -> None:
    plan = Plan(
        requests={"minute": 100, "hour": 500, "day": 1500},
        tokens={"month": 10**9},
        spend={"day": "2.5", "total": "100"},
        streams=50,
    )
    assert names(plan) == {
        "a17:requests:minute:2026-11-23T12:00+00:00": 100,
        "a17:requests:hour:2026-11-23T12+00:00": 500,
        "a17:requests:day:2026-11-23": 1500,
        "a17:tokens:month:2026-11": 10**9,
        "a17:spend:day:2026-11-23": 2_500_000_000,
        "a17:spend:total": 100 * 10**9,
        "a17:streams:total": 50,
    }


def test_free_variants_move_meters_of_their_own_where_the_plan_has_them() -> None:
    plan = Plan(requests={"day": 10}, free={"minute": 20, "day": 50}, streams=5)
    key = identity(daily_limit=7)
    assert {meter.name: meter.limit for meter in meters_of(key, plan, NOON, free=True)} == {
        "f17:requests:minute:2026-11-23T12:00+00:00": 20,
        "f17:requests:day:2026-11-23": 50,
        "a17:streams:total": 5,
        "k3:requests:day:2026-11-23": 7,
    }
    assert names(plan) == {"a17:requests:day:2026-11-23": 10, "a17:streams:total": 5}
    shared = Plan(requests={"day": 10})
    assert meters_of(identity(), shared, NOON, free=True) == meters_of(identity(), shared, NOON)


def test_a_keys_own_limits_and_balances_stand_beside_them() -> None:
    found = names(
        Plan(requests={"day": 10}),
        minute_limit=5,
        daily_limit=7,
        spend_limit=8,
        spend_window="month",
        key_credit=9,
        account_credit=11,
    )
    assert found == {
        "a17:requests:day:2026-11-23": 10,
        "a17:balance:total": 11,
        "k3:requests:minute:2026-11-23T12:00+00:00": 5,
        "k3:requests:day:2026-11-23": 7,
        "k3:spend:month:2026-11": 8,
        "k3:balance:total": 9,
    }


def test_days_are_the_plans_own() -> None:
    auckland = Plan(requests={"day": 1}, timezone="Pacific/Auckland")
    (meter,) = meters_of(identity(), auckland, NOON)
    assert meter.name == "a17:requests:day:2026-11-24"
    assert meter.ends == NOON + 23 * 3600  # 13 hours ahead: the day ends at 11:00 UTC, tomorrow
    assert NOON < meter.ends <= NOON + 24 * 3600


@pytest.mark.parametrize(
    ("name", "what", "window", "code", "status"),
    [
        ("a1:requests:minute:x", "requests", "minute", "MINUTE_REQUEST_LIMIT_EXCEEDED", 429),
        ("a1:requests:hour:x", "requests", "hour", "HOURLY_REQUEST_LIMIT_EXCEEDED", 429),
        ("a1:requests:day:x", "requests", "day", "DAILY_REQUEST_LIMIT_EXCEEDED", 429),
        ("k1:requests:day:x", "requests", "day", "DAILY_REQUEST_LIMIT_EXCEEDED", 429),
        ("a1:requests:month:x", "requests", "month", "MONTHLY_REQUEST_LIMIT_EXCEEDED", 429),
        ("a1:tokens:day:x", "tokens", "day", "TOKEN_LIMIT_EXCEEDED", 429),
        ("a1:streams:total", "streams", "total", "STREAM_LIMIT_EXCEEDED", 429),
        ("a1:spend:day:x", "money", "day", "SPEND_LIMIT_EXCEEDED", 402),
        ("k1:spend:total", "money", "total", "SPEND_LIMIT_EXCEEDED", 402),
        ("a1:balance:total", "money", "total", "INSUFFICIENT_BALANCE", 402),
        ("k1:balance:total", "money", "total", "INSUFFICIENT_BALANCE", 402),
    ],
)
def test_each_meter_has_its_own_refusal(name: str, what: Any, window: str, code: str, status: int) -> None:
    ends = 0 if window == "total" else int(NOON) + 90
    refusal = refusal_of(Meter(name, what, window, 2_000_000_000, ends), 3_000_000_000, 500_000_000, NOON)
    assert (refusal.failure.code, refusal.status) == (code, status)
    if ends and what != "streams":
        assert refusal.retry_after in (90, 91)
    if what == "money":
        assert "$3.00" in refusal.message
        assert "$0.50" in refusal.message


def test_the_tighter_of_two_limits_is_told() -> None:
    account = Meter("a1:requests:day:x", "requests", "day", 100, int(NOON) + 60)
    key = Meter("k1:requests:day:x", "requests", "day", 10, int(NOON) + 60)
    lines = limit_lines([(account, 40), (key, 0)], NOON)
    assert lines == (b"x-ratelimit-limit-day: 10\r\nx-ratelimit-remaining-day: 0\r\nx-ratelimit-reset-day: 60\r\n")

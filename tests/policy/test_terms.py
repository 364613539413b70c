"""Dollars, and what a key may be narrowed to: never more than its account's plan grants."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.config import Plan, covers
from waypost.dollars import MAX_NANO, NANO, parse_dollars, render_dollars
from waypost.messages import KeyTerms
from waypost.policy.terms import TermsRefused, check_terms

NOW = 1_795_300_000.5
PLAN = Plan(
    models=("route/*", "gpt-*-mini"),
    requests={"minute": 10, "day": 50},
    spend={"day": "5", "total": "20.50"},
)
NOTHING = KeyTerms(spend_limit=None, spend_window=None)


def check(current: KeyTerms = NOTHING, plan: Plan = PLAN, account_balance: int | None = None, **terms: object) -> None:
    check_terms(KeyTerms(**terms), current, "free", plan, account_balance, NOW)


@given(st.integers(-MAX_NANO, MAX_NANO))
def test_dollars_there_and_back(amount: int) -> None:
    assert parse_dollars(render_dollars(amount)) == amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [("0", 0), ("5", 5 * NANO), ("2.50", 2_500_000_000), ("0.000000001", 1), ("-1.5", -1_500_000_000)],
)
def test_dollars(text: str, amount: int) -> None:
    assert parse_dollars(text) == amount


@pytest.mark.parametrize("text", ["", "1e3", "1,5", "$1", ".5", "1.", "0.0000000001", "9000000001", "inf", "²", "+1"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount in US dollars"):
        parse_dollars(text)


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"models": ("route/*",)},
        {"models": ("route/a", "route/a*b", "gpt-4o-mini", "gpt-*-mini", "gpt-4*-mini")},
        {"models": None, "minute_limit": None, "daily_limit": None, "balance": None, "expires_at": None},
        {"minute_limit": 0},
        {"minute_limit": 10, "daily_limit": 50},
        {"spend_limit": 5 * NANO, "spend_window": "day"},
        {"spend_limit": 10**6 * NANO, "spend_window": "month"},
        {"spend_limit": None, "spend_window": None},
        {"balance": 20_500_000_000},
        {"expires_at": int(NOW) + 1},
    ],
)
def test_what_a_key_may_be_narrowed_to(terms: dict[str, object]) -> None:
    check(**terms)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"models": ()}, "models: 0 patterns; give 1 to 100"),
        ({"models": ("route/a",) * 101}, "models: 101 patterns"),
        ({"models": ("",)}, "models: a pattern is 1 to 256"),
        ({"models": ("route/" + "x" * 251,)}, "models: a pattern is 1 to 256"),
        ({"models": ("route/\n",)}, "printable"),
        ({"models": ("*",)}, "models: '*' goes beyond plan 'free', which has route/*, gpt-*-mini"),
        ({"models": ("route/a", "gpt-4o")}, "models: 'gpt-4o' goes beyond"),
        ({"models": ("gpt-*",)}, "goes beyond"),
        ({"models": ("r*",)}, "goes beyond"),
        ({"minute_limit": 11}, "minute_limit: 11 is over the 10 requests a minute of plan 'free'"),
        ({"daily_limit": 51}, "daily_limit: 51 is over the 50 requests a day of plan 'free'"),
        ({"daily_limit": -1}, "daily_limit: -1 is not between 0 and"),
        ({"minute_limit": 10**30}, "minute_limit: 1000"),
        ({"spend_limit": 1}, "spend_window: missing"),
        ({"spend_window": "day"}, "spend_limit: missing"),
        ({"spend_limit": 5 * NANO + 1, "spend_window": "day"}, "spend_limit: $5.000000001 is over the $5 a day of"),
        ({"spend_limit": 21 * NANO, "spend_window": "total"}, "over the $20.50 in total of plan 'free'"),
        ({"spend_limit": -1, "spend_window": "month"}, "spend_limit: $-0.000000001 is not between"),
        ({"spend_limit": MAX_NANO + 1, "spend_window": "month"}, "is not between $0.00 and $9000000000.00"),
        ({"balance": 21 * NANO}, "balance: $21.00 is over the $20.50 in total of plan 'free'"),
        ({"balance": -1}, "balance: $-0.000000001 is not between"),
        ({"expires_at": int(NOW)}, "expires_at: in the past"),
        ({"expires_at": -1}, "expires_at: -1 is not between"),
        ({"expires_at": 10**12}, "expires_at: 1000000000000 is not between"),
    ],
)
def test_what_a_key_may_not_be_given(terms: dict[str, object], words: str) -> None:
    with pytest.raises(TermsRefused) as caught:
        check(**terms)
    assert words in str(caught.value) and str(caught.value).isprintable()


def test_half_of_a_spend_limit_is_judged_with_the_half_that_is_there() -> None:
    current = KeyTerms(spend_limit=6 * NANO, spend_window="month")
    check(current, spend_limit=100 * NANO)
    with pytest.raises(TermsRefused, match=r"over the \$5 a day"):
        check(current, spend_window="day")
    with pytest.raises(TermsRefused, match="spend_limit: missing"):
        check(current, spend_limit=None)
    check(current, spend_limit=None, spend_window=None)
    check(msgspec.structs.replace(current, spend_window="day"), daily_limit=5)  # what is not given is not judged


def test_a_key_s_balance_is_within_its_account_s() -> None:
    check(account_balance=NANO, balance=NANO)
    with pytest.raises(TermsRefused, match=r"balance: \$1\.000000001 is over the \$1\.00 that its account has"):
        check(account_balance=NANO, balance=NANO + 1)
    check(account_balance=0, balance=0)


PATTERNS = st.text("ab*", min_size=1, max_size=5)


@given(st.lists(PATTERNS, min_size=1, max_size=3), PATTERNS, st.text("abc", max_size=6))
def test_no_name_passes_a_key_that_its_plan_does_not_allow(patterns: list[str], mine: str, name: str) -> None:
    plan = Plan(models=tuple(patterns))
    try:
        check(plan=plan, models=(mine,))
    except TermsRefused:
        return
    if covers(mine, name):
        assert plan.allows(name)

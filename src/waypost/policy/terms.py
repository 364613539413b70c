"""Whether a key may be narrowed so: it never grants more than the plan and the credit of its account. Pure."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import UNSET, UnsetType

from waypost.config import Plan
from waypost.dollars import MAX_NANO, parse_dollars, render_dollars
from waypost.messages import KeyTerms

MAX_REQUESTS: Final = 10**15
MAX_PATTERNS: Final = 100
MAX_PATTERN: Final = 256  # characters
LAST_SECOND: Final = 253_402_300_799  # of the year 9999


class TermsRefused(ValueError):
    """The terms cannot be; the message names the field and what would be right."""


def check_terms(
    terms: KeyTerms, current: KeyTerms, plan_name: str, plan: Plan, account_balance: int | None, now: float
) -> None:
    """Raises TermsRefused. Only what `terms` gives is judged; `current` is what the key has so far.

    `account_balance` is in nano-dollars, None where the account is not prepaid; `now` in seconds since 1970 UTC.
    """
    if isinstance(terms.models, tuple):
        _check_models(terms.models, plan_name, plan)
    if isinstance(terms.expires_at, int):
        _check_range("expires_at", terms.expires_at, LAST_SECOND)
        if terms.expires_at <= now:
            raise TermsRefused("expires_at: in the past; give a time to come, or revoke the key")
    _check_requests("minute_limit", terms.minute_limit, "minute", plan_name, plan)
    _check_requests("daily_limit", terms.daily_limit, "day", plan_name, plan)
    _check_spend(terms, current, plan_name, plan)
    if isinstance(terms.balance, int):
        _check_balance(terms.balance, plan_name, plan, account_balance)


def _check_requests(
    field: str, limit: int | UnsetType | None, window: Literal["minute", "day"], plan_name: str, plan: Plan
) -> None:
    if not isinstance(limit, int):
        return
    _check_range(field, limit, MAX_REQUESTS)
    most = plan.requests.get(window)
    if most is not None and limit > most:
        raise TermsRefused(f"{field}: {limit} is over the {most} requests a {window} of plan {plan_name!r}")


def _check_range(field: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise TermsRefused(f"{field}: {value} is not between 0 and {most}")


def _check_amount(field: str, amount: int) -> None:
    if not 0 <= amount <= MAX_NANO:
        raise TermsRefused(f"{field}: ${render_dollars(amount)} is not between $0.00 and ${render_dollars(MAX_NANO)}")


def _check_models(models: tuple[str, ...], plan_name: str, plan: Plan) -> None:
    if not 1 <= len(models) <= MAX_PATTERNS:
        raise TermsRefused(f"models: {len(models)} patterns; give 1 to {MAX_PATTERNS}, or none at all for the plan's")
    for pattern in models:
        if not 1 <= len(pattern) <= MAX_PATTERN or not pattern.isprintable():
            raise TermsRefused(f"models: a pattern is 1 to {MAX_PATTERN} printable characters")
        # A pattern's `*` can stand for anything, so only a `*` of the plan's can cover it; as any character, it does.
        if not plan.allows(pattern):
            raise TermsRefused(
                f"models: {pattern!r} goes beyond plan {plan_name!r}, which has {', '.join(plan.models) or 'none'}"
            )


def _check_spend(terms: KeyTerms, current: KeyTerms, plan_name: str, plan: Plan) -> None:
    if terms.spend_limit is UNSET and terms.spend_window is UNSET:
        return
    limit = current.spend_limit if terms.spend_limit is UNSET else terms.spend_limit
    window = current.spend_window if terms.spend_window is UNSET else terms.spend_window
    if limit is None and window is None:
        return
    if limit is None:
        raise TermsRefused("spend_limit: missing; a spend_window goes with the amount that may be spent in it")
    if window is None:
        raise TermsRefused("spend_window: missing; say whether spend_limit is for each day, each month, or in total")
    assert not isinstance(limit, UnsetType)  # for `current` is whole
    assert not isinstance(window, UnsetType)
    _check_amount("spend_limit", limit)
    most = plan.spend.get(window)
    if most is not None and limit > parse_dollars(most):
        a_window = "in total" if window == "total" else f"a {window}"
        raise TermsRefused(
            f"spend_limit: ${render_dollars(limit)} is over the ${most} {a_window} of plan {plan_name!r}"
        )


def _check_balance(balance: int, plan_name: str, plan: Plan, account_balance: int | None) -> None:
    _check_amount("balance", balance)
    most = plan.spend.get("total")
    if most is not None and balance > parse_dollars(most):
        raise TermsRefused(f"balance: ${render_dollars(balance)} is over the ${most} in total of plan {plan_name!r}")
    if account_balance is not None and balance > account_balance:
        raise TermsRefused(
            f"balance: ${render_dollars(balance)} is over the ${render_dollars(account_balance)} that its account has"
        )

"""What the pages are made from, handed in by the keeper's process; and how their numbers are written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import msgspec

from waypost.config import Plan
from waypost.dollars import NANO
from waypost.errors import Refusal
from waypost.keeper.store.database import Database
from waypost.messages import AnyMessage, Identity


class Sources(msgspec.Struct, frozen=True):
    """`catch_up` waits until the books have all that the journals have; False if they cannot.

    `manage` carries out a message to the accounts and tells every worker what changed. `kill_streams(account)` returns
    how many it ended. `clock` gives seconds since 1970 UTC, `monotonic` seconds that never go back.
    """

    database: Database
    plans: Callable[[], Mapping[str, Plan]]
    catch_up: Callable[[], Awaitable[bool]]
    manage: Callable[[AnyMessage], Awaitable[AnyMessage]]
    kill_streams: Callable[[int], Awaitable[int]]
    render_metrics: Callable[[], bytes]
    clock: Callable[[], float]
    monotonic: Callable[[], float]

    def plan_of(self, caller: Identity) -> Plan:
        """What the caller's plan allows. Raises Refusal UNAVAILABLE where it is no longer configured."""
        plan = self.plans().get(caller.plan)
        if plan is None:
            raise Refusal("UNAVAILABLE", f"The plan {caller.plan!r} is not configured any more.")
        return plan

    def today(self) -> datetime:
        """Now, in UTC."""
        return datetime.fromtimestamp(self.clock(), UTC)


def usd(nano: int) -> float:
    """Nano-dollars → USD, the nearest number that JSON's readers have."""
    return nano / NANO


def maybe_usd(nano: int | None) -> float | None:
    """The same, where there may be none."""
    return None if nano is None else usd(nano)


def nano(dollars: float) -> int:
    """USD → nano-dollars, to the nearest."""
    return round(dollars * NANO)


def iso(seconds: float) -> str:
    """Seconds since 1970 → `2026-11-22T10:31:05Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def maybe_iso(seconds: float | None) -> str | None:
    """The same, where there may be none."""
    return None if seconds is None else iso(seconds)


def parse_iso(text: str) -> int:
    """ISO 8601, in UTC if it names no zone → seconds since 1970. Raises Refusal INVALID_REQUEST."""
    try:
        time = datetime.fromisoformat(text)
        return int((time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        message = "expires_at: not a time such as 2026-11-22T10:31:05Z."
        raise Refusal("INVALID_REQUEST", message, param="expires_at") from None

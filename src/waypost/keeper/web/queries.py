"""Every question that the pages ask the books, in SQL. Money comes out in nano-dollars, times in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from waypost.ids import crockford
from waypost.keeper.store.tables import accounts, attempts, days, holdings, prices, requests

AnyRow = Row[*tuple[Any, ...]]

SUMS: tuple[str, ...] = (
    "requests",
    "errors",
    "prompt",
    "cache_read",
    "cache_write",
    "completion",
    "reasoning",
    "cost",
    "repeated",
    "saved",
)
"""The columns of `days` that add up."""


EXACTLY = 5_000
"""Rows that one count looks at: some 20 ms."""


def first_id(milliseconds: int) -> str:
    """The lowest id that a request of this time or later can have: ids are ULIDs, which sort by time."""
    return crockford(milliseconds, 5).decode() + "0" * 16


# Meters


async def read_spent(connection: AsyncConnection, meters: Sequence[str]) -> dict[str, int]:
    """What has been spent of each meter, by all who hold units of it; 0 where nobody ever did."""
    statement = (
        select(holdings.c.meter, func.sum(holdings.c.spent))
        .where(holdings.c.meter.in_(meters))
        .group_by(holdings.c.meter)
    )
    found = {meter: int(spent) for meter, spent in await connection.execute(statement)}
    return {meter: found.get(meter, 0) for meter in meters}


# Requests


async def count_requests(connection: AsyncConnection, account: int, since: int) -> int:
    """Requests of an account from `since` (milliseconds) on, the open ones included.

    Those that were given back are left out up to `EXACTLY` requests; more of them are counted in the index alone.
    """
    within = (requests.c.account_id == account, requests.c.id >= first_id(since))
    count = int(await connection.scalar(select(func.count()).select_from(requests).where(*within)) or 0)
    if count > EXACTLY:
        return count
    return int(await connection.scalar(select(func.sum(func.coalesce(requests.c.requests, 1))).where(*within)) or 0)


async def read_request(connection: AsyncConnection, account: int, request_id: str) -> AnyRow | None:
    """One request of this account, with the terms of its price."""
    statement = (
        select(requests, prices.c.terms)
        .join_from(requests, prices, prices.c.version == requests.c.price, isouter=True)
        .where(requests.c.id == request_id, requests.c.account_id == account)
    )
    return (await connection.execute(statement)).one_or_none()


async def read_attempts(connection: AsyncConnection, request_id: str) -> Sequence[AnyRow]:
    """The failed attempts of a request, in order."""
    statement = select(attempts).where(attempts.c.request_id == request_id).order_by(attempts.c.number)
    return (await connection.execute(statement)).all()


async def read_activity(connection: AsyncConnection, account: int, limit: int, offset: int) -> Sequence[AnyRow]:
    """A page of the account's requests, the latest first. What is skipped is skipped in the index alone."""
    page = (
        select(requests.c.id)
        .where(requests.c.account_id == account)
        .order_by(requests.c.id.desc())
        .limit(limit)
        .offset(offset)
        .subquery()
    )
    statement = (
        select(requests.c.id, requests.c.model, requests.c.cost, requests.c.at, requests.c.source)
        .join_from(requests, page, page.c.id == requests.c.id)
        .order_by(requests.c.id.desc())
    )
    return (await connection.execute(statement)).all()


# Days


def _sums() -> list[ColumnElement[Any]]:
    return [func.coalesce(func.sum(days.c[name]), 0).label(name) for name in SUMS]


async def read_days(connection: AsyncConnection, account: int, first: str, last: str, limit: int) -> Sequence[AnyRow]:
    """Sums by day and model, the latest days first."""
    statement = (
        select(days.c.day, days.c.model, *_sums())
        .where(days.c.account_id == account, days.c.day.between(first, last))
        .group_by(days.c.day, days.c.model)
        .order_by(days.c.day.desc(), days.c.model)
        .limit(limit)
    )
    return (await connection.execute(statement)).all()


async def read_models(connection: AsyncConnection, account: int, first: str, last: str, limit: int) -> Sequence[AnyRow]:
    """Sums by model over all these days, the dearest first."""
    statement = (
        select(days.c.model, *_sums())
        .where(days.c.account_id == account, days.c.day.between(first, last))
        .group_by(days.c.model)
        .order_by(func.sum(days.c.cost).desc(), days.c.model)
        .limit(limit)
    )
    return (await connection.execute(statement)).all()


async def read_totals(connection: AsyncConnection, account: int, first: str, last: str) -> AnyRow:
    """The sums of all these days."""
    statement = select(*_sums()).where(days.c.account_id == account, days.c.day.between(first, last))
    return (await connection.execute(statement)).one()


async def read_key_costs(connection: AsyncConnection, account: int, key: int, since: Sequence[str]) -> tuple[int, ...]:
    """What a key has spent since each of these days of UTC."""
    statement: Select[Any] = select(
        *(func.sum(days.c.cost).filter(days.c.day >= day).label(f"since_{number}") for number, day in enumerate(since))
    ).where(days.c.account_id == account, days.c.key_id == key)
    return tuple(int(cost or 0) for cost in (await connection.execute(statement)).one())


async def read_last_days(connection: AsyncConnection, account: int) -> dict[int, str]:
    """The last day of UTC on which each key of the account was used."""
    statement = select(days.c.key_id, func.max(days.c.day)).where(days.c.account_id == account).group_by(days.c.key_id)
    return {int(key): str(day) for key, day in await connection.execute(statement)}


# Accounts


async def read_credit(connection: AsyncConnection, account: int) -> int | None:
    """What has ever been paid in for the account; None: it is not prepaid."""
    return await connection.scalar(select(accounts.c.credit).where(accounts.c.id == account))

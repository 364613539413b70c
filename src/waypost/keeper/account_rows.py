"""The rows of accounts: how operations find, insert and show them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, String, and_, case, cast, func, insert, literal, null, select
from sqlalchemy.ext.asyncio import AsyncConnection

from waypost.keeper.outcome import AnyRow, Refused
from waypost.keeper.store.tables import accounts, holdings, keys
from waypost.messages import AccountRecord


def spent_of(meter: ColumnElement[str]) -> ColumnElement[int]:
    """Units of a meter that are spent, or reserved by requests under way, as far as the books know."""
    return cast(
        select(func.coalesce(func.sum(holdings.c.spent), 0)).where(holdings.c.meter == meter).scalar_subquery(),
        BigInteger,
    )


def balance_of(letter: str, identity: ColumnElement[Any], credit: ColumnElement[Any]) -> ColumnElement[Any]:
    """What is left of a credit, NULL without one."""
    meter = literal(letter) + cast(identity, String) + ":balance:total"
    return case((credit.is_(None), null()), else_=credit - spent_of(meter)).label("balance")


RECORDS = (
    select(
        *accounts.c["id", "name", "plan", "disabled", "created_at"],
        func.count(keys.c.id).label("keys"),
        accounts.c.credit,
        balance_of("a", accounts.c.id, accounts.c.credit),
    )
    .join_from(accounts, keys, and_(keys.c.account_id == accounts.c.id, keys.c.revoked_at.is_(None)), isouter=True)
    .group_by(accounts.c.id)
)

_FOUND = select(accounts, balance_of("a", accounts.c.id, accounts.c.credit))


async def find_account(connection: AsyncConnection, name: str) -> AnyRow | None:
    """Every column of an account's row, and its `balance`."""
    return (await connection.execute(_FOUND.where(accounts.c.name == name))).one_or_none()


async def find_account_by_id(connection: AsyncConnection, account_id: int) -> AnyRow | None:
    """The same by id."""
    return (await connection.execute(_FOUND.where(accounts.c.id == account_id))).one_or_none()


async def read_account(connection: AsyncConnection, name: str) -> AccountRecord:
    """The record of an account that is there."""
    return AccountRecord(**(await connection.execute(RECORDS.where(accounts.c.name == name))).one()._mapping)


async def insert_account(connection: AsyncConnection, name: str, plan: str, now: int) -> int:
    """A new account's id. Raises sqlalchemy.exc.IntegrityError where another transaction was first."""
    values = {"name": name, "plan": plan, "disabled": False, "created_at": now}
    return new_id((await connection.execute(insert(accounts).values(values))).inserted_primary_key)


def new_id(primary_key: AnyRow | None) -> int:
    """The id that an INSERT of one row made."""
    assert primary_key is not None  # an INSERT of one row always has one
    return int(primary_key[0])


def no_account(name: str) -> Refused:
    """There is none of this name."""
    return Refused("NOT_FOUND", f"there is no account {name[:100]!r}; `waypost accounts list` shows them")

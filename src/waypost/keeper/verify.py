"""`waypost ledger verify`: counts everything again, from the rows of requests, and says what differs from the sums.

What is compared: the sums of days; the units spent of every meter; the units that hosts took of a meter with what they
say they have; open requests with the journals that could still settle them; attempts with their requests; prices with
their terms. Sums that reach back to before the oldest rows that are kept cannot be counted and are left out.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, func, select
from sqlalchemy.exc import SQLAlchemyError

from waypost.keeper.pairing import DayKey, add_to_sums, charge, day_of
from waypost.keeper.retention import first_id, is_over, window_date
from waypost.keeper.store.books import CLOSED
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import attempts, days, holdings, journals, meters, prices, requests
from waypost.messages import Difference, Failed, Verified
from waypost.records import Usage

PAGE: Final = 2000
"""Rows that are read at a time."""

SHOWN: Final = 200
"""Differences that are told one by one."""

AnyRow = Row[*tuple[Any, ...]]
Fetch = Callable[[Select[*tuple[Any, ...]]], Coroutine[Any, Any, Sequence[AnyRow]]]

_holds: msgspec.msgpack.Decoder[list[tuple[str, int]]] = msgspec.msgpack.Decoder(list[tuple[str, int]])
_usage: msgspec.msgpack.Decoder[Usage] = msgspec.msgpack.Decoder(Usage)

_SUMS = [column.name for column in days.columns][5:]


class Counted:
    """What the rows of requests come to."""

    def __init__(self) -> None:
        self.requests = 0
        self.days: defaultdict[DayKey, list[int]] = defaultdict(lambda: [0] * len(_SUMS))
        self.spent: defaultdict[str, int] = defaultdict(int)
        self.open: defaultdict[str, list[str]] = defaultdict(list)  # journal → ids
        self.prices: dict[str, str] = {}  # version → a request that names it

    def add(self, row: AnyRow) -> None:
        """Count one row of `requests`."""
        self.requests += 1
        for meter, held in _holds.decode(row.holds):
            is_open = row.status is None
            self.spent[meter] += held if is_open else charge(meter, held, row.requests, row.tokens, row.cost)
        if row.status is None:
            self.open[row.journal].append(row.id)
            return
        key = (row.account_id, day_of(row.at), row.key_id, row.model, row.provider)
        usage = _usage.decode(row.usage)
        add_to_sums(self.days[key], row.code, usage, row.cost, row.saved or 0, is_repeated=bool(row.source))
        if row.price:
            self.prices.setdefault(row.price, row.id)


class Kept(msgspec.Struct, frozen=True):
    """How far back rows are kept: sums of whole days from `day` on can be counted; everything, if it is None."""

    now: float
    day: datetime.date | None

    @property
    def today(self) -> datetime.date:
        """The UTC date."""
        return datetime.datetime.fromtimestamp(self.now, datetime.UTC).date()

    def covers_day(self, day: str) -> bool:
        """Are all requests of this UTC date still there?"""
        return self.day is None or day >= self.day.isoformat()

    def covers_meter(self, meter: str, is_whole: bool) -> bool:
        """Are all requests of the meter's window still there, and the meter, too? `is_whole`: nothing is gone yet."""
        begins = window_date(meter)
        if begins is None:
            return is_whole
        # A day more, because the window's date is a local one.
        if self.day is not None and begins <= self.day:
            return False
        return not is_over(meter, self.today + datetime.timedelta(days=2))


async def verify(database: Database, retention: int, now: float) -> Verified:
    """Count again. `retention`: days that requests are kept, 0: for good. `now`: seconds since 1970 UTC.

    With SQLite nothing else may write the books meanwhile: see `Ledger.held`. Raises SQLAlchemyError or OSError.
    """
    kept = Kept(now, None)
    if retention:
        oldest = datetime.datetime.fromtimestamp(now - retention * 86_400, datetime.UTC).date()
        kept = Kept(now, oldest + datetime.timedelta(days=1))
    async with _reading(database) as fetch:
        counted = Counted()
        async for row in _pages(fetch):
            counted.add(row)
        stored = await fetch(select(days))
        is_whole = all(kept.covers_day(row.day) for row in stored)
        differences = [*_compare_days(counted, stored, kept)]
        spent = await fetch(select(holdings.c.meter, func.sum(holdings.c.spent).label("spent")).group_by("meter"))
        differences += _compare_spent(counted, spent, kept, is_whole)
        taken = await fetch(_taken())
        differences += _compare_taken(taken)
        live = await fetch(select(journals.c.name).where(journals.c.offset != CLOSED))
        differences += _find_abandoned(counted, {row.name for row in live})
        differences += await _find_orphans(fetch, retention, now)
        known = await fetch(select(prices.c.version))
        differences += _find_unpriced(counted, {row.version for row in known})
        failed = await fetch(select(func.count()).select_from(attempts))
    return Verified(
        requests=counted.requests,
        open=sum(map(len, counted.open.values())),
        attempts=failed[0][0],
        days=len(stored),
        meters=len(spent),
        differences=tuple(differences[:SHOWN]),
        found=len(differences),
    )


@asynccontextmanager
async def _reading(database: Database) -> AsyncIterator[Fetch]:
    """The way to read: PostgreSQL shows one state throughout; SQLite's one connection is let go between pages."""
    if database.dialect == "sqlite":

        async def fetch(statement: Select[*tuple[Any, ...]]) -> Sequence[AnyRow]:
            async with database.reading() as connection:
                return (await connection.execute(statement)).all()

        yield fetch
        return
    async with database.snapshot() as connection:

        async def fetch_here(statement: Select[*tuple[Any, ...]]) -> Sequence[AnyRow]:
            return (await connection.execute(statement)).all()

        yield fetch_here


async def _pages(fetch: Fetch) -> AsyncIterator[AnyRow]:
    names = (
        "id account_id key_id at model holds journal status code provider requests tokens cost price usage source saved"
    )
    statement = select(*(requests.c[name] for name in names.split())).order_by(requests.c.id).limit(PAGE)
    after = ""
    while rows := await fetch(statement.where(requests.c.id > after)):
        for row in rows:
            yield row
        after = rows[-1].id


# What may differ


def _compare_days(counted: Counted, stored: Sequence[AnyRow], kept: Kept) -> Iterator[Difference]:
    in_books = {tuple(row)[:5]: list(row)[5:] for row in stored if kept.covers_day(row.day)}
    from_rows = {key: sums for key, sums in counted.days.items() if kept.covers_day(key[1])}
    nothing = [0] * len(_SUMS)
    for key in sorted(in_books.keys() | from_rows.keys()):
        found, wanted = in_books.get(key, nothing), from_rows.get(key, nothing)
        account, day, key_id, model, provider = key
        where = f"account {account}, key {key_id}, {day}, {model}, {provider or 'no provider'}"
        for name, one, other in zip(_SUMS, found, wanted, strict=True):
            if one != other:
                yield Difference(f"a day's {name}", where, str(one), str(other))


def _compare_spent(counted: Counted, spent: Sequence[AnyRow], kept: Kept, is_whole: bool) -> Iterator[Difference]:
    in_books = {row.meter: int(row.spent) for row in spent}
    for meter in sorted(in_books.keys() | counted.spent.keys()):
        found, wanted = in_books.get(meter, 0), counted.spent.get(meter, 0)
        if found != wanted and kept.covers_meter(meter, is_whole):
            yield Difference("units spent", meter, str(found), str(wanted))


def _taken() -> Select[*tuple[Any, ...]]:
    """Meters whose hosts' units are not what was taken, in one statement, because units move all the time."""
    granted = func.coalesce(func.sum(holdings.c.granted), 0)
    return (
        select(meters.c.name, meters.c.taken, granted.label("granted"))
        .outerjoin(holdings, holdings.c.meter == meters.c.name)
        .group_by(meters.c.name, meters.c.taken)
        .having(meters.c.taken != granted)
        .order_by(meters.c.name)
    )


def _compare_taken(rows: Sequence[AnyRow]) -> Iterator[Difference]:
    for row in rows:
        yield Difference("units taken by hosts", row.name, str(row.taken), str(row.granted))


def _find_abandoned(counted: Counted, live: set[str]) -> Iterator[Difference]:
    for journal, ids in sorted(counted.open.items()):
        if journal not in live:
            for id in ids:
                yield Difference("an open request", id, "open", f"journal {journal} is closed")


async def _find_orphans(fetch: Fetch, retention: int, now: float) -> list[Difference]:
    since = first_id((now - retention * 86_400) * 1000) if retention else ""
    statement = (
        select(attempts.c.request_id, attempts.c.number)
        .outerjoin(requests, requests.c.id == attempts.c.request_id)
        .where(requests.c.id.is_(None), attempts.c.request_id >= since)
        .order_by(attempts.c.request_id, attempts.c.number)
        .limit(PAGE)
    )
    return [
        Difference("an attempt", f"{row.request_id}, attempt {row.number}", "there", "its request is not")
        for row in await fetch(statement)
    ]


def _find_unpriced(counted: Counted, known: set[str]) -> Iterator[Difference]:
    for version, id in sorted(counted.prices.items()):
        if version not in known:
            yield Difference("a price", version, "missing", f"request {id} names it")


# As an answer


async def answer_verify(database: Database, retention: int, now: float) -> Verified | Failed:
    """`verify` for a command, which gets a sentence where the database cannot be asked."""
    try:
        return await verify(database, retention, now)
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error) or type(error).__name__
        return Failed("UNAVAILABLE", f"the database cannot be asked: {reason}")

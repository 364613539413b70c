"""The store of meters in the database: units move by one statement that looks at the number and changes it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from sqlalchemy import BigInteger, Boolean, Insert, String, and_, bindparam, case, func, literal_column, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from waypost.config import Store
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import holdings, journals, meters
from waypost.policy.leases import HostMeter, Move, Moved
from waypost.policy.windows import ends_by

logger = logging.getLogger("waypost.keeper")

CHANNEL: Final = "waypost_recall"
ATTEMPTS: Final = 5
"""How often a step is tried that the database has undone in favour of another."""

RELISTEN_SECONDS: Final = 1.0

ZERO: Final[Any] = literal_column("0")  # in the text, so that it is the same for every driver

_UNDONE: Final = ("40001", "40P01")


class StoreUnavailable(Exception):
    """The store cannot be asked now. Whether it has done what it was told is not known."""


class Counters(Protocol):
    """A store of meters, as one host sees it."""

    name: str
    is_shared: bool  # may other hosts move the same meters?

    async def move(self, moves: Sequence[Move]) -> list[Moved]:
        """Do all of it, of different meters, each in one atomic step. Raises `StoreUnavailable`."""
        ...

    async def call_back(self, meter: str) -> None:
        """Tell the other hosts to return what they have unspent. Raises `StoreUnavailable`."""
        ...

    async def listen(self, recalled: Callable[[str], None], forgotten: Callable[[str], None]) -> None:
        """Until cancelled, call `recalled(meter)` when another host is short of it, and `forgotten(meter)` when the
        store has lost what hosts have of it.
        """
        ...

    async def close(self) -> None:
        """Let go of what is held."""
        ...


class DatabaseCounters:
    """Meters and holdings in the database. With PostgreSQL hosts share it; SQLite's has one.

    A meter's number and the host's own row change in one transaction. `connect` opens a connection of asyncpg's, to
    listen on.
    """

    name = "the database"

    def __init__(self, database: Database, host: str, connect: Callable[[], Any] | None = None) -> None:
        self._database = database
        self._host = host
        self._connect = connect
        self.is_shared = database.dialect == "postgresql"
        self._take = _take_statement(database.dialect)
        self._hold = _hold_statement(database.dialect)
        named = sqlite.dialect(paramstyle="named")
        self._take_text, self._hold_text = (str(each.compile(dialect=named)) for each in (self._take, self._hold))

    async def load(self, since: float) -> list[HostMeter]:
        """What this host has of the meters whose windows were not over at `since`, before anything of it changes.

        Meters that another store keeps are among them, without what the host has taken. Raises `SQLAlchemyError` or
        OSError.
        """
        own = or_(
            holdings.c.holder == self._host,
            holdings.c.holder.in_(select(journals.c.name).where(journals.c.host == self._host)),
        )
        statement = (
            select(holdings, meters.c.taken, meters.c.ends)
            .outerjoin(meters, meters.c.name == holdings.c.meter)
            .where(own, or_(meters.c.ends.is_(None), meters.c.ends == 0, meters.c.ends > int(since)))
        )
        found: dict[str, HostMeter] = {}
        async with self._database.reading() as connection:
            for row in (await connection.execute(statement)).all():
                ends = ends_by(row.meter) if row.ends is None else row.ends
                if ends and ends <= since:
                    continue
                meter = found.get(row.meter)
                if meter is None:
                    is_shared = self.is_shared or row.taken is None
                    meter = found[row.meter] = HostMeter(row.meter, ends, is_shared=is_shared, is_loaded=True)
                    if row.taken is not None:
                        meter.taken, meter.granted = row.taken, 0
                if row.holder != self._host:
                    meter.wrote(row.holder, row.spent)
                    continue
                meter.folded = row.spent
                meter.is_recalled = row.recalled
                if row.taken is not None:
                    meter.granted = row.granted
        return list(found.values())

    async def move(self, moves: Sequence[Move]) -> list[Moved]:
        """Part of `Counters`: all in one transaction."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self.is_shared:
                    return await self._move_all(moves)
                async with self._database.driver() as connection:  # in its thread at once: each step would be a visit
                    answers: list[Moved] = await connection._execute(lambda: self._move_in_sqlite(connection, moves))
                return answers
            except (SQLAlchemyError, OSError, sqlite3.Error) as error:
                cause = getattr(error, "orig", None) or error
                if not was_undone(error) or attempt == ATTEMPTS:
                    raise StoreUnavailable(str(cause) or type(cause).__name__) from error
        raise AssertionError

    async def _move_all(self, moves: Sequence[Move]) -> list[Moved]:
        async with self._database.writing() as connection:
            # Every host changes rows in this order, so that none waits for another that waits for it.
            ordered = sorted(moves, key=lambda move: move.meter)
            answers = {move.meter: await self._move(connection, move) for move in ordered}
        return [answers[move.meter] for move in moves]

    async def _move(self, connection: AsyncConnection, move: Move) -> Moved:
        taken, granted = (await connection.execute(self._take, _taking(move))).one()
        held = await connection.scalar(self._hold, self._holding(move, granted))
        others = select(holdings.c.holder, holdings.c.recalled).where(
            holdings.c.meter == move.meter, holdings.c.granted > 0, holdings.c.holder != self._host
        )
        rows = (await connection.execute(others)).all()
        return Moved(granted, taken, held or 0, len(rows), tuple(row.holder for row in rows if not row.recalled))

    def _move_in_sqlite(self, connection: Any, moves: Sequence[Move]) -> list[Moved]:
        raw: sqlite3.Connection = connection._conn
        answers = []
        try:
            raw.execute("BEGIN IMMEDIATE")
            for move in moves:
                taken, granted = raw.execute(self._take_text, _taking(move)).fetchone()
                (held,) = raw.execute(self._hold_text, self._holding(move, granted)).fetchone()
                answers.append(Moved(granted, taken, held))
            raw.execute("COMMIT")
        finally:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
        return answers

    def _holding(self, move: Move, granted: int) -> dict[str, Any]:
        return {
            "p_holder": self._host,
            "p_meter": move.meter,
            "p_units": granted + move.owed - move.back,
            "p_recalled": move.is_empty and not granted,
        }

    async def call_back(self, meter: str) -> None:
        """Part of `Counters`."""
        try:
            async with self._database.writing() as connection:
                await connection.execute(select(func.pg_notify(CHANNEL, f"{self._host} {meter}")))
        except (SQLAlchemyError, OSError) as error:
            raise StoreUnavailable(str(getattr(error, "orig", None) or error)) from error

    async def spent(self, meter: str) -> dict[str, int]:
        """Units of a meter that each host has spent, by its name. Raises `StoreUnavailable`."""
        host = func.coalesce(journals.c.host, holdings.c.holder)
        statement = (
            select(host, func.sum(holdings.c.spent))
            .outerjoin(journals, journals.c.name == holdings.c.holder)
            .where(holdings.c.meter == meter)
            .group_by(host)
        )
        try:
            async with self._database.reading() as connection:
                return {name: int(units) for name, units in (await connection.execute(statement)).all()}
        except (SQLAlchemyError, OSError, sqlite3.Error) as error:
            raise StoreUnavailable(str(getattr(error, "orig", None) or error)) from error

    async def listen(self, recalled: Callable[[str], None], forgotten: Callable[[str], None]) -> None:
        """Part of `Counters`: on a connection of its own, made anew when it is lost. A database forgets nothing."""
        if self._connect is None:
            return

        def hear(_connection: object, _pid: int, _channel: str, payload: str) -> None:
            host, _, meter = payload.partition(" ")
            if host != self._host:
                recalled(meter)

        while True:
            with contextlib.suppress(OSError):
                connection = await self._connect()
                lost = asyncio.Event()
                try:
                    connection.add_termination_listener(lambda _, lost=lost: lost.set())
                    await connection.add_listener(CHANNEL, hear)
                    await lost.wait()
                finally:
                    connection.terminate()
            await asyncio.sleep(RELISTEN_SECONDS)

    async def close(self) -> None:
        """Part of `Counters`: the database is closed by whoever opened it."""


def open_counters(settings: Store, database: Database, host: str) -> tuple[DatabaseCounters, Counters | None]:
    """The store of meters in the database, and the one for fast meters that `store.limits` names."""
    connect = None
    if database.dialect == "postgresql":
        from waypost.keeper.store import postgres

        connect = functools.partial(postgres.connect, settings.database.reveal())
    counters = DatabaseCounters(database, host, connect)
    limits = settings.limits.reveal()
    if limits == "database":
        return counters, None
    from waypost.keeper.store.valkey import ValkeyCounters

    return counters, ValkeyCounters(limits, host, counters.spent)


def was_undone(error: Exception) -> bool:
    """Has the database undone a transaction in favour of another, so that it may be tried again?"""
    return getattr(getattr(error, "orig", None) or error, "sqlstate", None) in _UNDONE


def _taking(move: Move) -> dict[str, Any]:
    first = move.grant(0)
    return {
        "p_meter": move.meter,
        "p_ends": move.ends,
        "p_first": first,
        "p_first_taken": move.owed + first,
        "p_limit": move.limit,
        "p_need": move.need,
        "p_share": move.share,
        "p_back": move.back,
        "p_owed": move.owed,
        "p_whole": move.is_whole,
    }


def _take_statement(dialect: str) -> Insert:
    """`Move.grant` in SQL, on the number as it is when the row is locked."""
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    least, greatest = (func.least, func.greatest) if dialect == "postgresql" else (func.min, func.max)

    def number(name: str) -> Any:
        return bindparam(name, type_=BigInteger())

    need = number("p_need")
    before = meters.c.taken - number("p_back") + number("p_owed")
    room = number("p_limit") - before
    some: Any = greatest(ZERO, least(room, greatest(need, room // number("p_share"))))
    grant: Any = case((and_(bindparam("p_whole", type_=Boolean()), room < need), ZERO), else_=some)
    statement = insert(meters).values(
        name=bindparam("p_meter", type_=String()),
        taken=number("p_first_taken"),
        granted=number("p_first"),
        ends=number("p_ends"),
    )
    statement = statement.on_conflict_do_update(
        index_elements=[meters.c.name], set_={"taken": before + grant, "granted": grant}
    )
    return statement.returning(meters.c.taken, meters.c.granted)  # type: ignore[no-any-return]


def _hold_statement(dialect: str) -> Insert:
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    units = bindparam("p_units", type_=BigInteger())
    recalled = bindparam("p_recalled", type_=Boolean())
    statement = insert(holdings).values(
        holder=bindparam("p_holder", type_=String()),
        meter=bindparam("p_meter", type_=String()),
        granted=units,
        spent=ZERO,
        recalled=recalled,
    )
    statement = statement.on_conflict_do_update(
        index_elements=[holdings.c.holder, holdings.c.meter],
        set_={"granted": holdings.c.granted + units, "recalled": recalled},
    )
    return statement.returning(holdings.c.granted)  # type: ignore[no-any-return]

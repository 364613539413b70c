"""Writing the books: one transaction a batch, by the drivers' own calls, because this is where the keeper's time goes.

Both engines run the same statements in the same order, so that no two writers wait for each other: the journals'
positions, then requests, attempts, days, holdings, prices. SQLite gets rows (`executemany`, the whole transaction in
one visit to its thread), PostgreSQL gets columns (`unnest` of arrays).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, String, Table

from waypost.keeper.pairing import Batch
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import attempts, days, holdings, prices, requests

T = TypeVar("T")
Row = tuple[object, ...]

CLOSED = -1
"""An offset in `journals`: the journal is in the books to its end, what it spent is in its host's row."""


class BooksFailed(Exception):
    """The transaction did not come about, or nobody knows whether it did; the message is the database's."""


class Duplicate(BooksFailed):
    """A row is there already. Nothing was written."""


class Unfit(BooksFailed):
    """A value fits no column. Nothing was written."""


class Moved(BooksFailed):
    """A journal's position is not where the batch begins. Nothing was written."""


class Move(msgspec.Struct, frozen=True):
    """A journal is read from one position to another: (segment, offset)."""

    journal: str
    old: tuple[int, int]
    new: tuple[int, int]


class Books:
    """Where batches go. Each call is one transaction and raises `BooksFailed`, SQLAlchemyError or OSError."""

    def __init__(self, database: Database, host: str) -> None:
        self._database = database
        self._host = host
        self._statements = _sqlite_statements() if database.dialect == "sqlite" else _postgres_statements()

    async def apply(self, batch: Batch, moves: Sequence[Move], closing: str | None = None) -> int:
        """Write `batch` and move the journals. `closing`: this journal's holdings go into the host's row, for good.

        Returns how many requests were settled whose open rows are gone. Raises `Moved`, `Duplicate` and `Unfit`, after
        which nothing has been written.
        """
        work, fold = _work(batch, moves), self._fold(closing)
        async with self._database.driver() as connection:
            if self._database.dialect == "sqlite":
                return await _in_thread(connection, lambda raw: _apply_sqlite(raw, self._statements, work, fold))
            return await _apply_postgres(connection, self._statements, work, fold)

    def _fold(self, journal: str | None) -> tuple[str, str] | None:
        return None if journal is None else (self._host, journal)


class _Step(msgspec.Struct, frozen=True):
    """Rows for one statement."""

    statement: str
    rows: Sequence[Row]


def _work(batch: Batch, moves: Sequence[Move]) -> list[_Step]:
    spent: dict[tuple[str, str], int] = {}
    for journal, units in batch.spent.items():
        for meter, delta in units.items():
            if delta:
                spent[journal, meter] = delta
    positions = [(*move.new, move.journal, *move.old) for move in sorted(moves, key=lambda move: move.journal)]
    steps = [
        _Step("move", positions),
        _Step("requests", batch.requests),
        _Step("begun", batch.begun),
        _Step("finals", batch.finals),
        _Step("attempts", batch.attempts),
        _Step("days", [(*key, *sums) for key, sums in sorted(batch.days.items())]),
        _Step("holdings", [(*key, units) for key, units in sorted(spent.items())]),
        _Step("prices", [(version, *rest) for version, rest in sorted(batch.prices.items())]),
    ]
    return [step for step in steps if step.rows]


def _missing(step: _Step, changed: int) -> int:
    """How many rows were not there to be settled. Raises `Moved`."""
    if step.statement == "move" and changed != len(step.rows):
        raise Moved(f"{len(step.rows) - changed} of {len(step.rows)} journals are not where they were left")
    return len(step.rows) - changed if step.statement == "finals" else 0


# The statements

_BEGUN = list(requests.columns)[:11]
_FINAL = [column.name for column in requests.columns][11:]


def _names(columns: Sequence[Column[Any]] | Sequence[str]) -> str:
    return ", ".join(f'"{column if isinstance(column, str) else column.name}"' for column in columns)


def _add(table: Table, columns: Sequence[str]) -> str:
    key = _names(list(table.primary_key.columns))
    return f"ON CONFLICT ({key}) DO UPDATE SET " + ", ".join(
        f'"{name}" = {table.name}."{name}" + excluded."{name}"' for name in columns
    )


_ADD_DAYS = _add(days, [column.name for column in days.columns][5:])
_ADD_SPENT = _add(holdings, ["spent"])

FOLD = (
    "INSERT INTO holdings (holder, meter, granted, spent, recalled) "  # noqa: S608  nothing of it is anyone's input
    "SELECT {host}, meter, 0, spent, {false} FROM holdings WHERE holder = {journal} ORDER BY meter " + _ADD_SPENT
)
UNFOLD = "DELETE FROM holdings WHERE holder = {journal}"


def _sqlite_statements() -> dict[str, str]:
    def insert(table: Table, columns: Sequence[Column[Any]] | None = None) -> str:
        chosen = list(table.columns) if columns is None else columns
        return f"INSERT INTO {table.name} ({_names(chosen)}) VALUES ({', '.join('?' * len(chosen))})"  # noqa: S608

    settings = ", ".join(f'"{name}" = ?' for name in _FINAL)
    return {
        "move": 'UPDATE journals SET segment = ?, "offset" = ? WHERE name = ? AND segment = ? AND "offset" = ?',
        "requests": insert(requests),
        "begun": insert(requests, _BEGUN),
        "finals": f"UPDATE requests SET {settings} WHERE id = ? AND status IS NULL",  # noqa: S608
        "attempts": insert(attempts),
        "days": f"{insert(days)} {_ADD_DAYS}",
        "holdings": "INSERT INTO holdings (holder, meter, granted, spent, recalled) VALUES (?, ?, 0, ?, 0) "  # noqa: S608
        + _ADD_SPENT,
        "prices": f"{insert(prices)} ON CONFLICT DO NOTHING",
        "fold": FOLD.format(host="?1", journal="?2", false="0"),
        "unfold": UNFOLD.format(journal="?2"),
    }


def _postgres_statements() -> dict[str, str]:
    def arrays(columns: Sequence[Column[Any]]) -> str:
        return ", ".join(f"${number}::{_array_of(column)}" for number, column in enumerate(columns, 1))

    def insert(table: Table, columns: Sequence[Column[Any]] | None = None) -> str:
        columns = columns or list(table.columns)
        return f"INSERT INTO {table.name} ({_names(columns)}) SELECT * FROM unnest({arrays(columns)})"  # noqa: S608

    final = [requests.c[name] for name in _FINAL]
    settings = ", ".join(f'"{name}" = new."{name}"' for name in _FINAL)
    return {
        "move": 'UPDATE journals SET segment = new.segment, "offset" = new.position FROM '
        "unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[]) "
        "AS new (segment, position, name, old_segment, old_position) "
        'WHERE journals.name = new.name AND journals.segment = old_segment AND journals."offset" = old_position',
        "requests": insert(requests),
        "begun": insert(requests, _BEGUN),
        "finals": f"UPDATE requests SET {settings} FROM unnest({arrays([*final, requests.c.id])}) "  # noqa: S608
        f"AS new ({_names(_FINAL)}, id) WHERE requests.id = new.id AND requests.status IS NULL",
        "attempts": insert(attempts),
        "days": f"{insert(days)} {_ADD_DAYS}",
        "holdings": "INSERT INTO holdings (holder, meter, granted, spent, recalled) "  # noqa: S608
        f"SELECT holder, meter, 0, spent, false FROM unnest($1::text[], $2::text[], $3::bigint[]) "
        f"AS new (holder, meter, spent) {_ADD_SPENT}",
        "prices": f"{insert(prices)} ON CONFLICT DO NOTHING",
        "fold": FOLD.format(host="$1", journal="$2", false="false"),
        "unfold": UNFOLD.format(journal="$1"),
    }


def _array_of(column: Column[Any]) -> str:
    for kind, name in ((Boolean, "boolean"), (BigInteger, "bigint"), (Integer, "integer"), (String, "text")):
        if isinstance(column.type, kind):
            return f"{name}[]"
    assert isinstance(column.type, LargeBinary)
    return "bytea[]"


# SQLite


async def _in_thread(connection: Any, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run `work` in the thread of an aiosqlite connection, in one visit: its public calls take one for every step."""
    result: T = await connection._execute(lambda: work(connection._conn))
    return result


def _apply_sqlite(
    raw: sqlite3.Connection, statements: dict[str, str], work: Sequence[_Step], fold: tuple[str, str] | None
) -> int:
    missing = 0
    try:
        raw.execute("BEGIN IMMEDIATE")
        for step in work:
            missing += _missing(step, raw.executemany(statements[step.statement], step.rows).rowcount)
        if fold is not None:
            raw.execute(statements["fold"], fold)
            raw.execute(statements["unfold"], fold)
        raw.execute("COMMIT")
        return missing
    except sqlite3.IntegrityError as error:
        raise Duplicate(str(error)) from None
    except (sqlite3.DataError, OverflowError, UnicodeEncodeError) as error:
        raise Unfit(str(error)) from None
    except sqlite3.Error as error:
        raise BooksFailed(str(error)) from None
    finally:
        if raw.in_transaction:  # not everything that fails leaves one: a full disk may have ended it already
            raw.execute("ROLLBACK")


# PostgreSQL


async def _apply_postgres(
    raw: Any, statements: dict[str, str], work: Sequence[_Step], fold: tuple[str, str] | None
) -> int:
    """An exception ends the connection, and with it the transaction: see `Database.driver`."""
    import asyncpg  # type: ignore[import-untyped]

    missing = 0
    try:
        await raw.execute("BEGIN")
        for step in work:
            status = await raw.execute(statements[step.statement], *zip(*step.rows, strict=True))
            missing += _missing(step, int(status.rpartition(" ")[2]))
        if fold is not None:
            await raw.execute(statements["fold"], *fold)
            await raw.execute(statements["unfold"], fold[1])
        await raw.execute("COMMIT")
        return missing
    except asyncpg.UniqueViolationError as error:
        raise Duplicate(str(error)) from None
    except asyncpg.DataError as error:
        raise Unfit(str(error)) from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise BooksFailed(str(error) or type(error).__name__) from None

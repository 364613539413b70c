"""SQLite, the built-in engine: one file in the data folder, one connection, ever.

One connection, because only the keeper opens the database, and because SQLite before 3.51.3 may corrupt a WAL that two
connections write and checkpoint at once.
"""

from __future__ import annotations

import os
import pathlib
import sqlite3
from typing import Any

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from waypost.keeper.store.database import Database, UnusableDatabase
from waypost.keeper.store.schema import bring_up_to_date

BUSY_TIMEOUT_MS = 1500
"""Only a visitor (a shell, a backup) can hold the lock; shorter than the 2 s that a worker waits for an answer."""

# Setting → the value it must read back as: SQLite ignores what it does not know or cannot do.
# FULL, because a revoked key that comes back after a power cut is a breach, and administration is rare enough to wait
# for the disk.
_PRAGMAS: dict[str, object] = {
    "busy_timeout": BUSY_TIMEOUT_MS,
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
}


# The driver asks about every value that is no plain int, float or text how it is to be adapted; with no answer it looks
# in three more places, which takes longer than all else about the value.
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(bytes, bytes)


async def open_sqlite(path: pathlib.Path) -> Database:
    """Open or create the database at `path` (mode 0600) and bring its schema up to date. Raises `UnusableDatabase`."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.chmod(path, 0o600)
    except OSError as error:
        raise UnusableDatabase(f"cannot open the database {path}: {error.strerror}") from None
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=1,
        max_overflow=0,
        pool_timeout=2,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "connect", _prepare_connection)
    event.listen(engine.sync_engine, "begin", _begin)
    database = Database(engine)
    try:
        await bring_up_to_date(database)
    except SQLAlchemyError as error:
        await database.close()
        reason = getattr(error, "orig", None) or error
        raise UnusableDatabase(f"cannot use the database {path}: {reason}") from error
    except UnusableDatabase as error:
        await database.close()
        raise UnusableDatabase(f"{path}: {error}") from None
    except BaseException:
        await database.close()
        raise
    return database


def _prepare_connection(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; `_begin` does
    cursor = connection.cursor()
    for name, wanted in _PRAGMAS.items():
        cursor.execute(f"PRAGMA {name} = {wanted}")
        cursor.execute(f"PRAGMA {name}")
        found = cursor.fetchone()[0]
        if found != wanted:
            raise UnusableDatabase(
                f"PRAGMA {name} is {found!r} here and must be {wanted!r}; is this a network file system?"
            )
    cursor.close()


def _begin(connection: Connection) -> None:
    # A transaction that begins by reading and then writes can fail with SQLITE_BUSY at once, whatever the timeout says.
    # Reading needs no transaction: there is nobody else on the connection.
    if not connection.get_execution_options().get("waypost_reads", False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

"""An open database, whatever its engine: where reading and writing begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


class UnusableDatabase(Exception):
    """The database cannot be opened or is not one of ours; the message says which and what to do."""


class UnreachableDatabase(UnusableDatabase):
    """The database does not answer now; the same call may succeed later."""


class Database:
    """Reading and writing on an engine.

    All of it raises `sqlalchemy.exc.SQLAlchemyError` or OSError when the database fails; TimeoutError, which is one,
    when it takes longer than `deadline` seconds.
    """

    def __init__(self, engine: AsyncEngine, deadline: float | None = None) -> None:
        self._engine = engine
        self._reader = engine.execution_options(waypost_reads=True)
        self._deadline = deadline

    @property
    def dialect(self) -> str:
        """The engine's name: sqlite or postgresql."""
        return self._engine.dialect.name

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for statements that only read."""
        async with asyncio.timeout(self._deadline), self._reader.connect() as connection:
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose statements all see one state of the database; they may take any time together.

        With SQLite, statements of others wait as long.
        """
        async with self._reader.connect() as connection:
            if self.dialect == "postgresql":
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end, rolled back by an exception."""
        async with asyncio.timeout(self._deadline), self._engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Any]:
        """The driver's own connection, in no transaction, for what must be fast; an exception closes it."""
        async with asyncio.timeout(self._deadline), self._reader.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            try:
                yield raw
            except BaseException:
                if self.dialect == "postgresql":
                    # Not rolled back: that would wait for a server that may be gone. Who has no client has no changes.
                    raw.terminate()
                    await connection.invalidate()
                raise

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

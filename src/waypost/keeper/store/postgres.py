"""PostgreSQL, the engine for more than one host. The driver, asyncpg, is the extra `postgresql`."""

from __future__ import annotations

import functools
import urllib.parse
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from waypost.keeper.store.database import Database, UnreachableDatabase, UnusableDatabase
from waypost.keeper.store.schema import bring_up_to_date

CONNECT_SECONDS = 3.0
STATEMENT_SECONDS = 8
"""How long one statement may take, as the server counts."""

DEADLINE_SECONDS = 10.0
"""How long a connection may be in use, as we count: a server that is gone does not count."""

POOL = 5

# What the operator has to mend, by the class of the server's answer: wrong role or password, no such database.
_OPERATORS_CLASSES = ("28", "3D", "42", "25")


class Refused(ConnectionError):
    """The server cannot be connected to. `sqlstate` is its code, empty if it said nothing."""

    def __init__(self, message: str, sqlstate: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


async def open_postgres(url: str) -> Database:
    """Open the database at `url` (postgresql://…) and bring its schema up to date; several hosts may do so at once.

    Raises `UnreachableDatabase` where trying again may help, else `UnusableDatabase`; neither prints the password.
    """
    _require_driver()
    migrating = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=functools.partial(connect, url, statement_seconds=0),
        poolclass=NullPool,
        hide_parameters=True,
    )
    try:
        await bring_up_to_date(Database(migrating))
    except UnusableDatabase as error:
        raise UnusableDatabase(f"{shown(url)}: {error}") from None
    except (SQLAlchemyError, OSError) as error:
        raise _unusable(url, error) from None
    finally:
        await migrating.dispose()
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=functools.partial(connect, url),
        pool_size=POOL,
        max_overflow=0,
        pool_timeout=2,
        pool_pre_ping=True,  # a server that was restarted costs nobody an error
        pool_recycle=1800,
        hide_parameters=True,
    )
    return Database(engine, DEADLINE_SECONDS)


async def connect(url: str, *, statement_seconds: int = STATEMENT_SECONDS) -> Any:
    """A connection of the driver's own. `statement_seconds`: 0 for any time. Raises OSError, a `Refused` mostly."""
    import asyncpg  # type: ignore[import-untyped]

    settings = {
        "application_name": "waypost",
        "timezone": "UTC",
        "synchronous_commit": "on",
        "statement_timeout": str(statement_seconds * 1000),
        "idle_in_transaction_session_timeout": "60000" if statement_seconds else "0",
    }
    try:
        return await asyncpg.connect(url, timeout=CONNECT_SECONDS, server_settings=settings)
    except asyncpg.PostgresError as error:
        raise Refused(str(error), error.sqlstate or "") from None
    except TimeoutError:
        raise Refused(f"no answer within {CONNECT_SECONDS:g} seconds") from None
    except OSError as error:
        raise Refused(error.strerror or str(error)) from None
    except (asyncpg.InterfaceError, ValueError):  # their text may quote the password
        raise Refused("the URL is not postgresql://USER:PASSWORD@HOST:PORT/NAME", "28000") from None


def shown(url: str) -> str:
    """The URL without password and options, for people."""
    parts = urllib.parse.urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"


def _require_driver() -> None:
    try:
        import asyncpg  # noqa: F401
    except ImportError:
        raise UnusableDatabase(
            "the driver for PostgreSQL is not installed: pip install '.[postgresql]' in Waypost's folder"
        ) from None


def _unusable(url: str, error: Exception) -> UnusableDatabase:
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlstate", None) or ""
    message = f"cannot use the database {shown(url)}: {cause}"
    if code[:2] in _OPERATORS_CLASSES:
        return UnusableDatabase(message)
    return UnreachableDatabase(message)

"""The store of answers: claims, and the bytes that they become. One atomic statement decides who has a claim.

So it holds between workers, hosts and whatever is killed: a claim is a row, and a row ends with its answer, with its
worker, or at its time.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import BigInteger, Insert, String, bindparam, delete, func, literal_column, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from waypost.claims import (
    Claim,
    Claimed,
    ClearAnswer,
    Conflict,
    InFlight,
    Kept,
    ReleaseClaim,
    StoreAnswer,
    StoredAnswer,
)
from waypost.keeper.store.counters import ATTEMPTS, StoreUnavailable, was_undone
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import answers

ACCOUNT_LIMIT: Final = 64 * 1024 * 1024
"""Bytes that the answers of one account and kind may take, by `size_of`; what would expire first makes room."""

ROW: Final = 1024
"""Bytes that every answer counts beside its content."""

ROOM_SECONDS: Final = 10.0
"""How long a count of what an account has is trusted: other hosts store answers, too."""

ROOMS: Final = 10_000

STEP: Final = 1000
"""Answers that one statement drops to make room."""

T = TypeVar("T")

Change = Claim | StoreAnswer | ReleaseClaim | ClearAnswer
Reply = Claimed | Conflict | InFlight | Kept | None  # None: the scope's answer is stored, and there to be found


def size_of(content: bytes) -> int:
    """What an answer counts for its account."""
    return ROW + len(content)


class AnswerStore:
    """Answers in the database, SQLite or PostgreSQL. Everything raises `StoreUnavailable`.

    `clock` gives seconds since 1970 UTC, `limit` the bytes of an account's answers of one kind.
    """

    def __init__(
        self,
        database: Database,
        host: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        limit: int = ACCOUNT_LIMIT,
    ) -> None:
        self._database = database
        self._host = host
        self._clock = clock
        self._monotonic = monotonic
        self._limit = limit
        self._rooms: dict[tuple[str, int], tuple[int, float]] = {}  # bytes that are left, until when that is trusted
        is_over = answers.c.expires_at <= bindparam("p_now", type_=BigInteger())
        is_own = answers.c.request == bindparam("p_request", type_=String())
        self._claim = _put(database.dialect, is_over)
        self._store = _put(database.dialect, or_(is_over, is_own, answers.c.kind == "cache"))

    async def apply(self, changes: Sequence[Change]) -> list[Reply]:
        """Make all changes in one transaction; their replies in the same order."""
        # Every host changes rows in this order, so that none waits for another that waits for it.
        ordered = sorted(range(len(changes)), key=lambda index: changes[index].scope)

        async def work(connection: AsyncConnection) -> list[Reply]:
            replies = {index: await self._change(connection, changes[index]) for index in ordered}
            return [replies[index] for index in range(len(changes))]

        return await self._write(work)

    async def find(self, scope: bytes) -> StoredAnswer | None:
        """What is stored for a scope and has not expired."""
        statement = select(answers).where(
            answers.c.scope == scope, answers.c.size > 0, answers.c.expires_at > self._now()
        )
        try:
            async with self._database.reading() as connection:
                row = (await connection.execute(statement)).one_or_none()
        except (SQLAlchemyError, OSError, sqlite3.Error) as error:
            raise _unavailable(error) from error
        return None if row is None else StoredAnswer(row.request, row.created_at, row.expires_at, row.content)

    async def release(self, journals: Collection[str]) -> list[bytes]:
        """End all claims of workers that are gone; their scopes."""
        return await self._release(answers.c.journal.in_(journals))

    async def release_all_but(self, journals: Collection[str]) -> list[bytes]:
        """End all claims of this host's but those of its live workers: after a start."""
        return await self._release(answers.c.journal.not_in(journals))

    async def _release(self, of_whom: Any) -> list[bytes]:
        claims = (literal_column("size") == literal_column("0"), answers.c.host == self._host)  # as the index has it
        statement = delete(answers).where(*claims, of_whom).returning(answers.c.scope)

        async def work(connection: AsyncConnection) -> list[bytes]:
            return list((await connection.scalars(statement)).all())

        return await self._write(work)

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._database.writing() as connection:
                    return await work(connection)
            except (SQLAlchemyError, OSError, sqlite3.Error) as error:
                self._rooms.clear()
                if not was_undone(error) or attempt == ATTEMPTS:
                    raise _unavailable(error) from error
            except asyncio.CancelledError:
                self._rooms.clear()
                raise
        raise AssertionError

    # One change

    async def _change(self, connection: AsyncConnection, change: Change) -> Reply:
        if isinstance(change, Claim):
            return await self._take(connection, change)
        if isinstance(change, StoreAnswer):
            return await self._keep(connection, change)
        its = [answers.c.scope == change.scope]
        if isinstance(change, ReleaseClaim):
            its += [answers.c.size == 0, answers.c.request == change.request]
        else:
            its.append(answers.c.size > 0)
        return Kept((await connection.execute(delete(answers).where(*its))).rowcount > 0)

    async def _take(self, connection: AsyncConnection, claim: Claim) -> Reply:
        values = self._values(claim, 0, None)
        held = select(*answers.c["body", "request", "size"]).where(answers.c.scope == claim.scope)
        while True:
            if (await connection.execute(self._claim, values)).one_or_none() is not None:
                return Claimed()
            row = (await connection.execute(held)).one_or_none()
            if row is None:  # dropped between the two statements, where a database serves several at once
                continue
            if row.body != claim.body:
                return Conflict(is_open=not row.size)
            if row.size:
                return None
            return Claimed() if row.request == claim.request else InFlight(row.request)

    async def _keep(self, connection: AsyncConnection, answer: StoreAnswer) -> Reply:
        size = size_of(answer.content)
        await self._make_room(connection, answer, size)
        values = self._values(answer, size, answer.content)
        return Kept((await connection.execute(self._store, values)).one_or_none() is not None)

    async def _make_room(self, connection: AsyncConnection, answer: StoreAnswer, size: int) -> None:
        """Drop what would expire first, an eighth of everything at once, so that this is rarely to be done."""
        name, now = (answer.kind, answer.account), self._monotonic()
        room, until = self._rooms.get(name, (0, now))
        if until <= now or room < size:
            own = (answers.c.account_id == answer.account, answers.c.kind == answer.kind)
            used = int(await connection.scalar(select(func.coalesce(func.sum(answers.c.size), 0)).where(*own)) or 0)
            short = used + size - self._limit
            if short > 0:
                used -= await self._drop(connection, own, short + self._limit // 8)
            room, until = self._limit - used, now + ROOM_SECONDS
        if len(self._rooms) >= ROOMS:
            self._rooms.clear()
        self._rooms[name] = (room - size, until)

    async def _drop(self, connection: AsyncConnection, own: tuple[Any, ...], wanted: int) -> int:
        dropped = 0
        oldest = select(answers.c.scope, answers.c.size).where(*own, answers.c.size > 0)
        oldest = oldest.order_by(answers.c.expires_at, answers.c.scope).limit(STEP)
        while dropped < wanted and (rows := (await connection.execute(oldest)).all()):
            scopes = []
            for row in rows:
                if dropped < wanted:
                    scopes.append(row.scope)
                    dropped += row.size
            for start in range(0, len(scopes), 500):
                await connection.execute(delete(answers).where(answers.c.scope.in_(scopes[start : start + 500])))
        return dropped

    def _values(self, change: Claim | StoreAnswer, size: int, content: bytes | None) -> dict[str, Any]:
        now = self._now()
        return {
            "p_scope": change.scope,
            "p_kind": change.kind,
            "p_account_id": change.account,
            "p_body": change.body,
            "p_request": change.request,
            "p_journal": change.journal,
            "p_host": self._host,
            "p_created_at": now,
            "p_expires_at": now + int(change.seconds * 1000),
            "p_size": size,
            "p_content": content,
            "p_now": now,
        }

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _put(dialect: str, may_replace: Any) -> Insert:
    """A row, new or in the place of one that may be replaced; returns something if it is there now."""
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    names = [column.name for column in answers.columns]
    statement = insert(answers).values({name: bindparam(f"p_{name}", type_=answers.c[name].type) for name in names})
    statement = statement.on_conflict_do_update(
        index_elements=[answers.c.scope],
        set_={name: statement.excluded[name] for name in names if name != "scope"},
        where=may_replace,
    )
    return statement.returning(answers.c.size)  # type: ignore[no-any-return]


def _unavailable(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(str(getattr(error, "orig", None) or error) or type(error).__name__)

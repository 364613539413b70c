"""The store of answers: claims, and the bytes that they become. One atomic statement decides who has a claim.

So it holds between workers, hosts and whatever is killed: a claim is a row, and a row ends with its answer, with its
worker, or at its time.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    LargeBinary,
    String,
    bindparam,
    delete,
    func,
    literal_column,
    or_,
    select,
)
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
from waypost.keeper.store.counters import ATTEMPTS, ZERO, StoreUnavailable, was_undone
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import answers

ACCOUNT_LIMIT: Final = 64 * 1024 * 1024
"""Bytes that the answers of one account and kind may take, by `size_of`; what would expire first makes room."""

ROW: Final = 1024
"""Bytes that every answer counts beside its content."""

ROOM_SECONDS: Final = 10.0
"""How long a count of what an account has is trusted: other hosts store answers, too."""

ROOMS: Final = 10_000

Change = Claim | StoreAnswer | ReleaseClaim | ClearAnswer
Reply = Claimed | Conflict | InFlight | Kept | None  # None: the scope's answer is stored, and there to be found

T = TypeVar("T")
Step = tuple[str, dict[str, Any]]
"""The name of a statement, and its parameters."""

Steps = Generator[Step, list[Any], T]
"""A change in steps: each is sent the rows of the one before."""


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
        self._statements = _statements(database.dialect)
        named = sqlite.dialect(paramstyle="named")
        self._texts = {name: str(each.compile(dialect=named)) for name, each in self._statements.items()}

    async def apply(self, changes: Sequence[Change]) -> list[Reply]:
        """Make all changes in one transaction; their replies in the same order."""
        # Every host changes rows in this order, so that none waits for another that waits for it.
        ordered = sorted(range(len(changes)), key=lambda index: changes[index].scope)
        replies = await self._run(lambda: [self._change(changes[index]) for index in ordered])
        found = dict(zip(ordered, replies, strict=True))
        return [found[index] for index in range(len(changes))]

    async def find(self, scope: bytes) -> StoredAnswer | None:
        """What is stored for a scope and has not expired."""

        def steps() -> Steps[StoredAnswer | None]:
            for row in (yield "find", {"p_scope": scope, "p_now": self._now()}):
                return StoredAnswer(*row)
            return None

        (found,) = await self._run(lambda: [steps()])
        return found

    async def release(self, journals: Collection[str]) -> list[bytes]:
        """End all claims of workers that are gone; their scopes."""
        return await self._release(answers.c.journal.in_(journals))

    async def release_all_but(self, journals: Collection[str]) -> list[bytes]:
        """End all claims of this host's but those of its live workers: after a start."""
        return await self._release(answers.c.journal.not_in(journals))

    async def _release(self, of_whom: ColumnElement[bool]) -> list[bytes]:
        # Written as the index has it.
        is_claim = literal_column("size") == literal_column("0")
        statement = delete(answers).where(is_claim, answers.c.host == self._host, of_whom).returning(answers.c.scope)
        try:
            async with self._database.writing() as connection:
                return list((await connection.scalars(statement)).all())
        except (SQLAlchemyError, OSError, sqlite3.Error) as error:
            raise _unavailable(error) from error

    # One transaction

    async def _run(self, make: Callable[[], Sequence[Steps[T]]]) -> list[T]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self._database.dialect == "postgresql":
                    async with self._database.writing() as connection:
                        return [await self._walk(connection, steps) for steps in make()]
                async with self._database.driver() as raw:  # in its thread at once: each step would be a visit
                    results: list[T] = await raw._execute(lambda raw=raw: self._walk_in_sqlite(raw._conn, make()))
                    return results
            except (SQLAlchemyError, OSError, sqlite3.Error) as error:
                self._rooms.clear()
                if not was_undone(error) or attempt == ATTEMPTS:
                    raise _unavailable(error) from error
            except BaseException:
                self._rooms.clear()
                raise
        raise AssertionError

    async def _walk(self, connection: AsyncConnection, steps: Steps[T]) -> T:
        try:
            name, values = next(steps)
            while True:
                rows = (await connection.execute(self._statements[name], values)).all()
                name, values = steps.send(list(rows))
        except StopIteration as over:
            result: T = over.value
            return result

    def _walk_in_sqlite(self, raw: sqlite3.Connection, all_steps: Sequence[Steps[T]]) -> list[T]:
        results = []
        try:
            raw.execute("BEGIN IMMEDIATE")
            for steps in all_steps:
                try:
                    name, values = next(steps)
                    while True:
                        name, values = steps.send(raw.execute(self._texts[name], values).fetchall())
                except StopIteration as over:
                    results.append(over.value)
            raw.execute("COMMIT")
        finally:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
        return results

    # One change

    def _change(self, change: Change) -> Steps[Reply]:
        if isinstance(change, Claim):
            return (yield from self._take(change))
        if isinstance(change, StoreAnswer):
            return (yield from self._keep(change))
        if isinstance(change, ReleaseClaim):
            return Kept(bool((yield "release", {"p_scope": change.scope, "p_request": change.request})))
        return Kept(bool((yield "clear", {"p_scope": change.scope})))

    def _take(self, claim: Claim) -> Steps[Reply]:
        values = self._values(claim, 0, None)
        while True:
            if (yield "claim", values):
                return Claimed()
            for body, request, size in (yield "held", {"p_scope": claim.scope}):
                if body != claim.body:
                    return Conflict(is_open=not size)
                if size:
                    return None
                return Claimed() if request == claim.request else InFlight(request)
            # Dropped between the two statements, where a database serves several at once.

    def _keep(self, answer: StoreAnswer) -> Steps[Reply]:
        size = size_of(answer.content)
        yield from self._make_room(answer, size)
        values = self._values(answer, size, answer.content)
        return Kept(bool((yield "store", values | {"p_own": answer.request})))

    def _make_room(self, answer: StoreAnswer, size: int) -> Steps[None]:
        """Drop what would expire first, an eighth of everything at once, so that this is rarely to be done."""
        whose, now = (answer.kind, answer.account), self._monotonic()
        room, until = self._rooms.get(whose, (0, now))
        if until <= now or room < size:
            own = {"p_kind": answer.kind, "p_account_id": answer.account}
            ((used,),) = yield "used", own
            short = int(used) + size - self._limit
            if short > 0:
                dropped = yield "drop", own | {"p_wanted": short + self._limit // 8}
                used = int(used) - sum(row[0] for row in dropped)
            room, until = self._limit - int(used), now + ROOM_SECONDS
        if len(self._rooms) >= ROOMS:
            self._rooms.clear()
        self._rooms[whose] = (room - size, until)

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


# The statements


def _statements(dialect: str) -> dict[str, Any]:
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    names = [column.name for column in answers.columns]
    put = insert(answers).values({name: bindparam(f"p_{name}", type_=answers.c[name].type) for name in names})
    replaced = {name: put.excluded[name] for name in names if name != "scope"}

    def put_where(may_replace: ColumnElement[bool]) -> Any:
        """A row, new or in the place of one that may be replaced; returns something if it is there now."""
        statement = put.on_conflict_do_update(index_elements=[answers.c.scope], set_=replaced, where=may_replace)
        return statement.returning(answers.c.size)

    scope = answers.c.scope == bindparam("p_scope", type_=LargeBinary())
    is_claim, is_answer = answers.c.size == ZERO, answers.c.size > ZERO
    now = bindparam("p_now", type_=BigInteger())
    is_over = answers.c.expires_at <= now
    is_own = answers.c.request == bindparam("p_own", type_=String())
    is_the_request_s = answers.c.request == bindparam("p_request", type_=String())
    accounts = (
        answers.c.account_id == bindparam("p_account_id", type_=BigInteger()),
        answers.c.kind == bindparam("p_kind", type_=String()),
    )
    # Everything up to where, in the order of their ends, enough has gone.
    sums = func.sum(answers.c.size).over(order_by=(answers.c.expires_at, answers.c.scope))
    before = (sums - answers.c.size).label("before")
    ranked = select(answers.c.scope, before).where(*accounts, is_answer).subquery()
    first = select(ranked.c.scope).where(ranked.c.before < bindparam("p_wanted", type_=BigInteger()))
    return {
        "claim": put_where(is_over),
        "store": put_where(or_(is_over, is_own, answers.c.kind == literal_column("'cache'"))),
        "held": select(*answers.c["body", "request", "size"]).where(scope),
        "find": select(*answers.c["request", "created_at", "expires_at", "content"]).where(
            scope, is_answer, answers.c.expires_at > now
        ),
        "release": delete(answers).where(scope, is_claim, is_the_request_s).returning(answers.c.size),
        "clear": delete(answers).where(scope, is_answer).returning(answers.c.size),
        "used": select(func.coalesce(func.sum(answers.c.size), ZERO)).where(*accounts),
        "drop": delete(answers).where(answers.c.scope.in_(first)).returning(answers.c.size),
    }


def _unavailable(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(str(getattr(error, "orig", None) or error) or type(error).__name__)

"""What the books know of a host's journals: up to where they have been taken, and what is open in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import delete, func, insert, select

from waypost.keeper.pairing import Batch
from waypost.keeper.store.books import Move
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import attempts, journals, requests
from waypost.records import Opened

CHUNK: Final = 500
"""Values in one IN (…): all engines take as many."""

_holds: msgspec.msgpack.Decoder[tuple[tuple[str, int], ...]] = msgspec.msgpack.Decoder(tuple[tuple[str, int], ...])


class Positions:
    """Reads and moves what a ledger begins with. Everything raises SQLAlchemyError or OSError."""

    def __init__(self, database: Database, host: str) -> None:
        self._database = database
        self._host = host

    async def load(self) -> dict[str, tuple[int, int]]:
        """The host's journals and where each is read on; the offset is `books.CLOSED` for one that has ended."""
        statement = select(journals).where(journals.c.host == self._host)
        async with self._database.reading() as connection:
            return {row.name: (row.segment, row.offset) for row in await connection.execute(statement)}

    async def load_open(self) -> list[tuple[str, Opened, int]]:
        """(journal, what opened it, failed attempts) of every open request of the host's."""
        failed = select(func.count()).where(attempts.c.request_id == requests.c.id).scalar_subquery()
        statement = (
            select(requests, failed.label("failed"))
            .join(journals, journals.c.name == requests.c.journal)
            .where(requests.c.status.is_(None), journals.c.host == self._host)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).all()
        return [(row.journal, opened_of(row), row.failed) for row in rows]

    async def begin(self, name: str, position: tuple[int, int]) -> None:
        """A new journal. One that is there already stays as it is."""
        values = {"name": name, "host": self._host, "segment": position[0], "offset": position[1]}
        async with self._database.writing() as connection:
            if not await connection.scalar(select(func.count()).where(journals.c.name == name)):
                await connection.execute(insert(journals).values(values))

    async def end(self, name: str) -> None:
        """A journal that is closed and whose files are gone."""
        async with self._database.writing() as connection:
            await connection.execute(delete(journals).where(journals.c.name == name))

    async def are_at(self, moves: Sequence[Move]) -> bool:
        """Have these moves been made?"""
        statement = select(journals).where(journals.c.name.in_([move.journal for move in moves]))
        async with self._database.reading() as connection:
            found = {row.name: (row.segment, row.offset) for row in await connection.execute(statement)}
        return all(found.get(move.journal) == move.new for move in moves)

    async def existing(self, batch: Batch) -> frozenset[bytes]:
        """The requests that `batch` would insert, itself or an attempt of theirs, and that are there already."""
        found: set[str] = set()
        ids = [str(row[0]) for row in (*batch.requests, *batch.begun)]
        tried = {(row[0], row[1]) for row in batch.attempts}
        async with self._database.reading() as connection:
            for start in range(0, len(ids), CHUNK):
                statement = select(requests.c.id).where(requests.c.id.in_(ids[start : start + CHUNK]))
                found.update((await connection.scalars(statement)).all())
            for id in sorted({str(id) for id, _ in tried}):
                statement = select(attempts.c.request_id, attempts.c.number).where(attempts.c.request_id == id)
                rows = (await connection.execute(statement)).all()
                found.update(row.request_id for row in rows if tuple(row) in tried)
        return frozenset(id.encode() for id in found)


def opened_of(row: Any) -> Opened:
    """A row of `requests` → the line that opened it."""
    return Opened(
        id=row.id.encode(),
        at=row.at,
        account=row.account_id,
        key=row.key_id,
        plan=row.plan,
        model=row.model,
        stream=bool(row.stream),
        holds=_holds.decode(row.holds),
        estimate=row.estimate,
        estimated_cost=row.estimated_cost,
    )

"""What is deleted, a little at a time: old requests and their attempts, meters whose window is over, old answers."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Final

from sqlalchemy import and_, delete, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from waypost.ids import crockford
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import answers, attempts, holdings, meters, requests

EVERY_SECONDS: Final = 3600.0
STEP: Final = 500
"""Rows that one transaction deletes, or looks at."""

SHORT_DAYS: Final = 2
"""How long meters of minutes and hours are kept after their window."""

LONG_DAYS: Final = 40
"""How long those of days and months are."""

_WINDOW = re.compile(r":(minute|hour|day|month):(\d{4})-(\d{2})(?:-(\d{2}))?")


class Retention:
    """Deletes in small steps, begun once an hour. `days`: how long requests are kept, 0: for good."""

    def __init__(
        self, database: Database, days: int, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._database = database
        self._days = days
        self._clock = clock
        self._monotonic = monotonic
        self._due = 0.0
        self._after = ("", "")  # the holding that was looked at last

    def adopt(self, days: int) -> None:
        """The configuration has been read again."""
        self._days = days

    def postpone(self) -> None:
        """Try again in an hour."""
        self._due = self._monotonic() + EVERY_SECONDS

    async def step(self) -> None:
        """Delete some of what is too old, if it is time to. Raises SQLAlchemyError or OSError."""
        if self._monotonic() < self._due:
            return
        async with self._database.writing() as connection:
            more = [
                await self._delete_requests(connection),
                await self._delete_meters(connection),
                await self._delete_holdings(connection),
                await self._delete_answers(connection),
            ]
        if not any(more):
            self.postpone()

    async def _delete_requests(self, connection: AsyncConnection) -> bool:
        if not self._days:
            return False
        # Ids begin with their time, so the oldest are the first in the primary key.
        end = first_id((self._clock() - self._days * 86_400) * 1000)
        old = select(attempts.c.request_id, attempts.c.number).where(attempts.c.request_id < end)
        found = (await connection.execute(old.order_by(*old.selected_columns).limit(STEP))).all()
        if found:
            chosen = tuple_(attempts.c.request_id, attempts.c.number).in_([tuple(row) for row in found])
            await connection.execute(delete(attempts).where(chosen))
        closed = and_(requests.c.id < end, requests.c.status.is_not(None))
        ids = (await connection.scalars(select(requests.c.id).where(closed).order_by(requests.c.id).limit(STEP))).all()
        if ids:
            await connection.execute(delete(requests).where(requests.c.id.in_(ids)))
        return len(found) == STEP or len(ids) == STEP

    async def _delete_meters(self, connection: AsyncConnection) -> bool:
        now = int(self._clock())
        short = or_(meters.c.name.like("%:minute:%"), meters.c.name.like("%:hour:%"))
        over = or_(
            and_(meters.c.ends > 0, meters.c.ends < now - LONG_DAYS * 86_400),
            and_(meters.c.ends > 0, meters.c.ends < now - SHORT_DAYS * 86_400, short),
        )
        names = (await connection.scalars(select(meters.c.name).where(over).limit(STEP))).all()
        if names:
            await connection.execute(delete(holdings).where(holdings.c.meter.in_(names)))
            await connection.execute(delete(meters).where(meters.c.name.in_(names)))
        return len(names) == STEP

    async def _delete_holdings(self, connection: AsyncConnection) -> bool:
        """Those without a meter of their own in this database."""
        key = tuple_(holdings.c.holder, holdings.c.meter)
        statement = select(holdings.c.holder, holdings.c.meter).where(key > tuple_(*self._after))
        rows = (await connection.execute(statement.order_by(holdings.c.holder, holdings.c.meter).limit(STEP))).all()
        today = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC).date()
        over = [(row.holder, row.meter) for row in rows if is_over(row.meter, today)]
        if over:
            await connection.execute(delete(holdings).where(key.in_(over)))
        self._after = (rows[-1].holder, rows[-1].meter) if len(rows) == STEP else ("", "")
        return len(rows) == STEP

    async def _delete_answers(self, connection: AsyncConnection) -> bool:
        """Answers and claims whose time is over."""
        over = select(answers.c.scope).where(answers.c.expires_at <= int(self._clock() * 1000)).limit(STEP)
        scopes = (await connection.scalars(over)).all()
        if scopes:
            # Looked at again: a request may have taken the scope meanwhile.
            still = answers.c.expires_at <= int(self._clock() * 1000)
            await connection.execute(delete(answers).where(answers.c.scope.in_(scopes), still))
        return len(scopes) == STEP


def first_id(milliseconds: float) -> str:
    """The least id that a request of this instant may have."""
    return (crockford(max(0, int(milliseconds)), 5) + b"0" * 16).decode()


def window_date(meter: str) -> datetime.date | None:
    """The local date on which a meter's window begins; None for `total`."""
    match = _WINDOW.search(meter)
    if match is None:
        return None
    return datetime.date(int(match[2]), int(match[3]), int(match[4] or 1))


def is_over(meter: str, today: datetime.date) -> bool:
    """Has this meter's window been over for so long that nobody needs the meter any more?"""
    date = window_date(meter)
    if date is None:
        return False
    kept = SHORT_DAYS if ":minute:" in meter or ":hour:" in meter else LONG_DAYS
    length = 31 if ":month:" in meter else 1
    return (today - date).days > kept + length

"""The ledger: takes what the journals hold into the books, every line exactly once, whatever dies when.

A batch of lines is written in one transaction with the positions up to which it was read, and only if the positions are
still those it was read from. A transaction of which nobody knows whether it was committed is therefore looked for
before it is tried again. A journal whose worker is dead is read to its end, what it left open is closed as an estimate,
and what it spent moves into its host's row.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import pathlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from waypost.journal_file import HEADER
from waypost.keeper.journals import Journals, Position
from waypost.keeper.pairing import Batch, Piece, crashed, fitting, pair
from waypost.keeper.retention import Retention
from waypost.keeper.store.books import CLOSED, Books, BooksFailed, Duplicate, Move, Moved, Unfit
from waypost.keeper.store.database import Database
from waypost.keeper.store.positions import Positions
from waypost.records import AnyLine, Attempted, Opened

logger = logging.getLogger("waypost.keeper")

INTERVAL_SECONDS: Final = 0.1
"""How long a line may wait in its journal, if the database keeps up."""

BATCH_BYTES: Final = 256 * 1024
"""What one transaction takes from one journal, about: some 600 requests."""

UNREADY_SECONDS: Final = 2.0
"""How long writing may fail before the host says that it is not ready."""

LONGEST_PAUSE: Final = 2.0
"""Seconds between two tries at a database that fails, at most."""

T = TypeVar("T")

Failure = (BooksFailed, SQLAlchemyError, OSError, sqlite3.Error)


def open_ledger(
    database: Database, data: pathlib.Path, host: str, retention: int, clock: Callable[[], float] = time.time
) -> Ledger:
    """The ledger of the journals in `data` on an open database. `retention`: days. Raises OSError."""
    journals = Journals(data / "journal")
    journals.create()
    return Ledger(
        Books(database, host),
        Positions(database, host),
        journals,
        Retention(database, retention, clock, time.monotonic),
        clock,
    )


class Followed:
    """A journal that is being read: where its next line is, and what is open in it up to there."""

    def __init__(self, name: str, position: Position) -> None:
        self.name = name
        self.position = position
        self.open: dict[bytes, Opened] = {}
        self.failed: dict[bytes, int] = {}  # attempts that failed, of what is open


class Ledger:
    """Follows the journals of one host.

    Listeners are called after a transaction, in this order: `on_batch` with the batch, `on_spent` with a journal and
    the units by meter that its lines took, `on_closed` with a journal that is in the books for good, `on_state` with
    `why_not_ready` when it has changed.
    """

    def __init__(
        self,
        books: Books,
        positions: Positions,
        journals: Journals,
        retention: Retention,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._books = books
        self._positions = positions
        self._journals = journals
        self._retention = retention
        self._clock = clock
        self._followed: dict[str, Followed] = {}
        self._leftover: set[str] = set()  # closed, and their files may still be there
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._free = asyncio.Lock()  # held while the books are being changed
        self._loaded = False
        self.on_batch: list[Callable[[Batch], None]] = []
        self.on_spent: list[Callable[[str, Mapping[str, int]], None]] = []
        self.on_closed: list[Callable[[str], None]] = []
        self.on_state: list[Callable[[str], None]] = []
        self.why_not_ready = ""
        self.faults = 0  # lines that contradicted the books since the start
        self._failing_since: float | None = None
        self._ended = time.monotonic()

    # What others ask

    def adopt(self, retention: int) -> None:
        """The configuration has been read again: requests are kept for so many days."""
        self._retention.adopt(retention)

    async def run(self) -> None:
        """Follow the journals until cancelled; being cancelled loses nothing."""
        while True:
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            try:
                async with self._free:
                    await self._pass()
            except asyncio.CancelledError:
                self._waiting += waiting
                raise
            self._ended = time.monotonic()
            for future in waiting:
                if not future.done():
                    future.set_result(None)
            await self._clean()
            if not self._waiting:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), INTERVAL_SECONDS)

    async def catch_up(self, patience: float | None = 2.0) -> bool:
        """Wait until everything is in the books that was in a journal at the call; False if `patience` seconds ended.

        Journals that were dead at the call are then closed.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wake.set()
        try:
            async with asyncio.timeout(patience):
                await future
        except TimeoutError:
            return False
        return True

    async def close_dead(self) -> None:
        """Wait until every journal that is dead now is in its host's row."""
        await self.catch_up(patience=None)

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nothing is written into the books while this is held; journals grow meanwhile."""
        async with self._free:
            yield

    @property
    def open_requests(self) -> int:
        """Requests that the books know as open."""
        return sum(len(followed.open) for followed in self._followed.values())

    @property
    def journal_bytes(self) -> int:
        """What the journals take on the disk."""
        return self._journals.size()

    @property
    def lag_seconds(self) -> float:
        """Seconds since the journals were last read to their end."""
        return time.monotonic() - self._ended

    @property
    def live(self) -> list[str]:
        """The journals that are followed and whose workers live."""
        return [name for name in self._followed if self._journals.is_alive(name)]

    # One pass over the journals

    async def _pass(self) -> None:
        if not self._loaded:
            await self._patiently(self._load)
            self._loaded = True
        await self._patiently(self._begin_new)
        behind = set(self._followed)
        while behind:
            # Who reads after its worker died reads all of it; so this is asked before.
            dead = {name for name in behind if not self._journals.is_alive(name)}
            ended = await self._patiently(functools.partial(self._advance, frozenset(behind)))
            behind -= ended
            for name in sorted(dead & ended):
                await self._close(self._followed[name])
        for name in sorted(self._leftover):
            await self._patiently(functools.partial(self._remove, name))

    async def _clean(self) -> None:
        try:
            async with self._free:
                await self._retention.step()
        except Failure as error:
            logger.error("old rows could not be deleted, which is tried again in an hour: %s", reason_of(error))
            self._retention.postpone()

    async def _load(self) -> None:
        """What the books know of this host's journals: after a start."""
        for name, position in (await self._positions.load()).items():
            if position[1] == CLOSED:
                self._leftover.add(name)
            else:
                self._followed[name] = Followed(name, position)
        for name, opened, attempts in await self._positions.load_open():
            if name in self._followed:
                self._followed[name].open[opened.id] = opened
                if attempts:
                    self._followed[name].failed[opened.id] = attempts

    async def _begin_new(self) -> None:
        for name, segments in self._journals.scan().items():
            followed = self._followed.get(name)
            if followed is None and name not in self._leftover:
                position = (segments[0] if segments else 1, HEADER)
                await self._positions.begin(name, position)
                followed = self._followed[name] = Followed(name, position)
                if position[0] != 1:
                    logger.error("journal %s begins with segment %d: what was before it is lost", name, position[0])
            elif followed is not None and segments and followed.position[0] < segments[0]:
                logger.error("journal %s: segments before %d are missing, their lines are lost", name, segments[0])
                position = (segments[0], HEADER)
                await self._books.apply(Batch(), [Move(name, followed.position, position)])
                followed.position = position

    async def _advance(self, names: frozenset[str]) -> set[str]:
        """One transaction for some of what `names` hold; those that then have no more, for now."""
        lines: dict[str, list[AnyLine]] = {}
        moves: list[Move] = []
        ended = set()
        for name in sorted(names):
            followed = self._followed[name]
            part = self._journals.read(name, followed.position, BATCH_BYTES)
            if part.position != followed.position:
                moves.append(Move(name, followed.position, part.position))
                lines[name] = part.lines
            if part.why == "unknown":
                self._say(f"journal {name} holds a line of another version of Waypost: start the one that wrote it")
            if part.why != "more":
                ended.add(name)
        if moves:
            await self._write(lines, moves)
            segments = self._journals.scan()
            for move in moves:
                if move.new[0] != move.old[0]:
                    self._journals.delete_before(move.journal, move.new[0], segments.get(move.journal, []))
        return ended

    async def _close(self, followed: Followed) -> None:
        """Close a dead journal that has been read to its end."""
        now = int(self._clock() * 1000)
        lines: list[AnyLine] = [
            crashed(opened, now, followed.failed.get(id, 0)) for id, opened in sorted(followed.open.items())
        ]
        if lines:
            logger.warning("journal %s left %d requests open; they are charged as estimated", followed.name, len(lines))
        move = Move(followed.name, followed.position, (followed.position[0], CLOSED))
        await self._write({followed.name: lines}, [move], closing=followed.name)
        del self._followed[followed.name]
        self._leftover.add(followed.name)
        for listener in self.on_closed:
            listener(followed.name)

    async def _remove(self, name: str) -> None:
        """The files of a closed journal, then its position: the other way round it might be read again."""
        await asyncio.to_thread(self._journals.delete, name)
        await self._positions.end(name)
        self._leftover.discard(name)

    # Writing

    async def _write(self, lines: dict[str, list[AnyLine]], moves: list[Move], closing: str | None = None) -> None:
        """One transaction, tried until it is there, and then what follows from it."""
        now = int(self._clock() * 1000)
        known: frozenset[bytes] = frozenset()
        batch = self._pair(lines, now, known)
        tried = fitted = False

        async def attempt() -> None:
            nonlocal batch, tried, fitted, known, lines
            if tried and await self._positions.are_at(moves):
                return  # an earlier try was committed though nobody said so
            tried = True
            try:
                missing = await self._books.apply(batch, moves, closing)
            except Duplicate:
                known = known | await self._positions.existing(batch)
                batch = self._pair(lines, now, known)
                raise
            except Unfit as error:
                if not fitted:
                    logger.error("the database refuses a value, so what is too long or too large is cut: %s", error)
                    fitted, lines = True, {name: [fitting(line) for line in each] for name, each in lines.items()}
                    batch = self._pair(lines, now, known)
                raise
            if missing:
                batch.faults.append(f"{missing} requests were settled whose open rows somebody has deleted")

        await self._patiently(attempt)
        for move in moves:
            self._note(move, lines[move.journal], batch)
        self._tell(batch)

    def _pair(self, lines: dict[str, list[AnyLine]], now: int, known: frozenset[bytes]) -> Batch:
        return pair([Piece(name, each, self._followed[name].open) for name, each in lines.items()], now, known)

    def _note(self, move: Move, lines: list[AnyLine], batch: Batch) -> None:
        """The journal's state after the transaction."""
        followed = self._followed[move.journal]
        followed.position = move.new
        for line in lines:
            if type(line) is Attempted:
                followed.failed[line.id] = followed.failed.get(line.id, 0) + 1
        followed.open.update(batch.opened[move.journal])
        for id in batch.closed[move.journal]:
            del followed.open[id]
        if followed.failed:
            followed.failed = {id: count for id, count in followed.failed.items() if id in followed.open}

    def _tell(self, batch: Batch) -> None:
        for fault in batch.faults:
            logger.error("a line is not in the books: %s", fault)
        self.faults += len(batch.faults)
        for on_batch in self.on_batch:
            on_batch(batch)
        for journal, units in batch.spent.items():
            if units:
                for on_spent in self.on_spent:
                    on_spent(journal, units)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Do it, again and again until the database and the disk let it be done."""
        pause = 0.02
        while True:
            with contextlib.suppress(*Failure):  # noted where it is raised
                return await self._noting(call)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _noting(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await call()
        except Failure as error:
            self._note_failure(error)
            raise
        if self._failing_since is not None:
            self._failing_since = None
            if self.why_not_ready:
                logger.warning("the books are being written again")
            self._say("")
        return result

    def _note_failure(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
        reason = f"the books cannot be written: {reason_of(error)}"
        if isinstance(error, Moved | Duplicate | Unfit):
            logger.info("%s; trying again", reason)
        if now - self._failing_since >= UNREADY_SECONDS:
            self._say(reason)

    def _say(self, reason: str) -> None:
        if reason == self.why_not_ready:
            return
        if reason and not self.why_not_ready:
            logger.error("%s", reason)
        self.why_not_ready = reason
        for listener in self.on_state:
            listener(reason)


def reason_of(error: Exception) -> str:
    """What the database or the disk said, in short."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__

"""The keeper's side of kept answers: claims of many workers in few transactions, and who waits for an answer in flight.

Whatever arrives while a transaction is under way goes into the next one together: with a disk that takes milliseconds
to be sure, a thousand claims a second still take a few transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final

from waypost.claims import (
    ANSWER_LIMIT,
    AskAnswers,
    Claim,
    ClearAnswer,
    Conflict,
    FindAnswer,
    InFlight,
    ReleaseClaim,
    StoreAnswer,
    StoredAnswer,
)
from waypost.keeper.store.answers import AnswerStore, Change, Reply
from waypost.keeper.store.counters import StoreUnavailable
from waypost.link import Framed
from waypost.messages import AnyMessage, Failed

logger = logging.getLogger("waypost.keeper")

BATCH: Final = 64
"""Changes in one transaction."""

POLL_SECONDS: Final = 0.5
"""How soon it is noticed that another host's answer is there."""

ENDING_SECONDS: Final = 0.25
"""How long another body waits to be refused while nothing is stored: the request before it may have failed just now."""

RETRY_SECONDS: Final = 1.0

READERS: Final = 4
"""Stored answers that are read or sent at once: they may be large, and a worker's socket takes so much at a time."""

UNSENT: Final = ANSWER_LIMIT
"""Bytes under way to a worker behind which another answer waits."""

SENT_SECONDS: Final = 2.0


class Answers:
    """Kept answers, as this host's workers ask for them. `start` before the first, `close` after the last."""

    def __init__(self, store: AnswerStore, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._queue: list[tuple[Change, asyncio.Future[Reply]]] = []
        self._waiting: dict[bytes, set[asyncio.Future[None]]] = {}  # by scope: whose answer is in flight
        self._dead: set[str] = set()  # journals whose workers are gone
        self._ending: set[str] = set()  # of these, whose claims may still be there
        self._wake = asyncio.Event()
        self._sending = asyncio.Semaphore(READERS)
        self._working: asyncio.Task[None] | None = None

    async def start(self, live: Collection[str]) -> None:
        """End what earlier workers of this host have left; `live` are journals. Raises `StoreUnavailable`."""
        await self._store.release_all_but(live)
        self._working = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Whoever still waits is told that there is no answer."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
        for _, future in self._queue:
            future.cancel()

    def closed(self, journal: str) -> None:
        """A worker is gone, and with it whatever it was answering."""
        self._dead.add(journal)
        self._ending.add(journal)
        self._wake.set()

    async def answer(self, peer: Framed, message: AskAnswers) -> AnyMessage:
        """Carry out one message of a worker's. Where its reply is long, it returns when there is room to send it."""
        try:
            if isinstance(message, FindAnswer):
                return await self._find(peer, message.scope)
            if isinstance(message, Claim):
                return await self._claim(peer, message)
            return await self._change(message)
        except StoreUnavailable as error:
            return Failed("UNAVAILABLE", f"answers cannot be looked for: {error}")

    async def _claim(self, peer: Framed, claim: Claim) -> AnyMessage:
        began = self._monotonic()
        while True:
            # Listened for before it is asked: an answer that comes in between is not missed.
            with self._listening(claim.scope) as news:
                reply = await self._change(claim)
                patience = 0.0
                if isinstance(reply, InFlight):
                    patience = claim.wait
                elif isinstance(reply, Conflict) and reply.is_open:
                    patience = ENDING_SECONDS
                left = began + patience - self._monotonic()
                if left > 0:
                    await asyncio.wait([news], timeout=min(POLL_SECONDS, left))
                    continue
            if reply is not None:
                return reply
            stored = await self._find(peer, claim.scope)
            if stored is not None:  # else its time ended just now
                return stored

    async def _find(self, peer: Framed, scope: bytes) -> StoredAnswer | None:
        """The link is cut where much is unread, so a long reply waits for those before it."""
        async with self._sending:
            stored = await self._store.find(scope)
            ends = self._monotonic() + SENT_SECONDS
            while peer.unsent > UNSENT and self._monotonic() < ends:
                await asyncio.sleep(0.002)
            return stored

    @contextlib.contextmanager
    def _listening(self, scope: bytes) -> Iterator[asyncio.Future[None]]:
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(scope, set()).add(news)
        try:
            yield news
        finally:
            waiting = self._waiting[scope]
            waiting.discard(news)
            if not waiting:
                del self._waiting[scope]

    # Changes, many at once

    async def _change(self, change: Change) -> Reply | Failed:
        if isinstance(change, StoreAnswer) and len(change.content) > ANSWER_LIMIT:
            return Failed("INVALID_REQUEST", f"an answer of {len(change.content)} bytes; {ANSWER_LIMIT} are kept")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._queue.append((change, future))
        self._wake.set()
        return await future

    async def _work(self) -> None:
        while True:
            if not self._queue:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), RETRY_SECONDS if self._ending else None)
            self._wake.clear()
            if self._ending:
                await self._end_dead()
            batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
            await self._apply([(change, future) for change, future in batch if not self._is_dead(change, future)])

    def _is_dead(self, change: Change, future: asyncio.Future[Reply]) -> bool:
        """Nobody would ever end a claim that a dead worker's last words asked for."""
        if future.done():
            return True
        if isinstance(change, Claim) and change.journal in self._dead:
            future.set_exception(StoreUnavailable("its worker is gone"))
            return True
        return False

    async def _apply(self, batch: list[tuple[Change, asyncio.Future[Reply]]]) -> None:
        if not batch:
            return
        try:
            replies = await self._store.apply([change for change, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # a defect is logged by whoever gets it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (change, future), reply in zip(batch, replies, strict=True):
            if not future.done():
                future.set_result(reply)
            if isinstance(change, StoreAnswer | ReleaseClaim | ClearAnswer):
                self._tell(change.scope)

    async def _end_dead(self) -> None:
        ending = frozenset(self._ending)
        try:
            scopes = await self._store.release(ending)
        except StoreUnavailable as error:
            logger.error("claims of workers that are gone could not be ended, which is tried again: %s", error)
            return
        self._ending -= ending
        for scope in scopes:
            self._tell(scope)

    def _tell(self, scope: bytes) -> None:
        for news in self._waiting.get(scope, ()):
            if not news.done():
                news.set_result(None)

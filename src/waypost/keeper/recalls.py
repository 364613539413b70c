"""Workers' connections as the meters see them, and recalls: asking for units back, and hearing from everyone asked."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from waypost.link import Framed
from waypost.messages import Recall


class Session:
    """A worker's connection.

    Until it is `settled`, only what the worker has of `known` meters is sure; of `unsure` ones it may have less than
    is written here.
    """

    def __init__(self, peer: Framed, worker: int, journal: str, known: set[str]) -> None:
        self.peer = peer
        self.worker = worker
        self.journal = journal
        self.known = known
        self.unsure: set[str] = set()
        self.settled = asyncio.Event()
        self.is_lost = False

    def is_sure_of(self, meter: str) -> bool:
        """Is it sure what the worker has of this meter?"""
        return self.settled.is_set() or meter in self.known


class Recalled:
    """A recall on its way, and who has not answered it."""

    def __init__(self, meters: str, sessions: Collection[Session]) -> None:
        self.meters = meters
        self.is_answered = True  # by all so far
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = set(sessions)

    def heard(self, session: Session, *, is_lost: bool = False) -> None:
        """One who was asked has answered, or is gone."""
        if session in self._waiting:
            self._waiting.discard(session)
            self.is_answered = self.is_answered and not is_lost
        if not self._waiting and not self.done.done():
            self.done.set_result(None)


class Recalls:
    """The recalls on their way."""

    def __init__(self) -> None:
        self._serial = 0
        self._open: dict[int, Recalled] = {}

    async def make(self, meters: str, sessions: Collection[Session]) -> bool:
        """Ask workers for what they have unspent of `meters`; True once all have answered, False if some are gone."""
        if not sessions:
            return True
        self._serial += 1
        serial = self._serial
        recall = self._open[serial] = Recalled(meters, sessions)
        for session in sessions:
            session.peer.push(Recall(serial, meters))
        try:
            await recall.done
        finally:
            del self._open[serial]
        return recall.is_answered

    def answered(self, serial: int) -> Recalled | None:
        """The recall that an answer is to, None if nobody waits for it any more."""
        return self._open.get(serial)

    def lose(self, session: Session) -> None:
        """This worker answers no more."""
        for recall in list(self._open.values()):
            recall.heard(session, is_lost=True)

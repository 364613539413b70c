"""The response cache that all workers and hosts share: the keeper's store of answers, asked and told by one worker.

It is never long in a request's way: what is not found at once is asked of an upstream, and what there is to keep is
kept behind the answer's back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from waypost.claims import ANSWER_LIMIT, ClearAnswer, FindAnswer, StoreAnswer, StoredAnswer
from waypost.messages import Failed
from waypost.worker.link import KeeperUnavailable, Link
from waypost.worker.recording import BadRecording, Recording, pack, unpack

PATIENCE: Final = 0.005
"""Seconds that a request waits for the store at most."""

UNKEPT: Final = 64
"""Answers on their way to the store; while there are so many, no other is sent there."""

log = logging.getLogger("waypost.cache")


class Found(msgspec.Struct, frozen=True):
    """An answer from the store: how old it is, and how many seconds it is kept in all."""

    recording: Recording
    age: float
    ttl: int


class SharedCache:
    """Scopes are keys of the response cache. `wall` gives seconds since 1970 UTC."""

    def __init__(self, link: Link, journal: str, wall: Callable[[], float]) -> None:
        self._link = link
        self._journal = journal
        self._wall = wall
        self._storing: set[asyncio.Task[None]] = set()

    async def find(self, scope: bytes) -> Found | None:
        """What is stored, if that can be said within `PATIENCE`."""
        if not self._link.connected:
            return None
        try:
            # A task, since the call has a deadline of its own.
            reply = await asyncio.ensure_future(self._link.call(FindAnswer(scope), PATIENCE))
        except KeeperUnavailable:
            return None
        if not isinstance(reply, StoredAnswer):
            return None
        try:
            recording = unpack(reply.content)
        except BadRecording as error:  # of another version of Waypost, perhaps
            log.warning("a cached answer is of no use here: %s", error)
            return None
        age = max(0.0, self._wall() - reply.created_at / 1000)
        return Found(recording, age, max(1, round((reply.expires_at - reply.created_at) / 1000)))

    def store(self, scope: bytes, account: int, recording: Recording, ttl: int) -> None:
        """Send an answer there, in the background."""
        if len(self._storing) >= UNKEPT or not self._link.connected:
            return
        content = pack(recording)
        if len(content) > ANSWER_LIMIT:
            return
        request = recording.source.decode()
        message = StoreAnswer("cache", scope, account, b"", request, self._journal, float(ttl), content)
        storing = asyncio.ensure_future(self._send(message))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)

    async def _send(self, message: StoreAnswer) -> None:
        try:
            reply = await self._link.call(message)
        except KeeperUnavailable as error:
            log.info("an answer is not in the shared cache: %s", error)
            return
        if isinstance(reply, Failed):
            log.warning("an answer is not in the shared cache: %s", reply.message)

    async def clear(self, scope: bytes) -> None:
        """Drop what is stored. Raises KeeperUnavailable where that cannot be done."""
        reply = await self._link.call(ClearAnswer(scope))
        if isinstance(reply, Failed):
            raise KeeperUnavailable(reply.message)

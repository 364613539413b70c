"""An answer for the cache while it is made, and the requests that ask the same meanwhile: each has a row of its own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Final

from waypost.errors import Refusal
from waypost.http.exchange import Exchange
from waypost.worker.books import Entry
from waypost.worker.recording import Ending, Recording, fill, seal, seal_ending
from waypost.worker.sharing import Flight, Listener

ENDED: Final = "The request whose answer this one shares was ended before its answer was whole; send it again."
SLOW: Final = "Too slow: what this request had yet to read of an answer that it shares grew too large."


class Miss(Flight):
    """The answer to `entry`, to be kept for `ttl` seconds if it has no more than `limit` bytes; a larger one goes on.

    Its caller slows it down as any does. Should that one leave while others listen, the upstream goes on for them; its
    row in the books then says that it left, and has the usage. The last one to leave an answer that nobody hears ends
    it, by `cancel`.
    """

    is_slowed = True

    def __init__(self, entry: Entry, stream: bool, ttl: int, limit: int, cancel: Callable[[], object] | None) -> None:
        super().__init__(stream)
        self.entry = entry
        self.ttl = ttl
        self.limit = limit
        self._cancel = cancel

    @property
    def is_open(self) -> bool:
        """Whoever comes now can still have all of it."""
        return not self.is_over and not self.is_dropped

    @property
    def dropped(self) -> str:
        """Which fields its head says that nobody was told of, as it says that."""
        _, _, rest = self.headers.partition(b"x-dropped-params: ")
        return rest.partition(b"\r\n")[0].decode()

    @functools.cached_property
    def ending(self) -> Ending | None:
        """Of a whole answer: the last piece with marks, where it can be read."""
        return seal_ending(self.pieces[-1], self.stream)

    def recording(self, at: int) -> Recording | None:
        """All of it, as of `at` (milliseconds since 1970 UTC); None where it cannot be said again."""
        if not self.is_whole or self.size > self.limit:
            return None
        return seal(self.pieces, self.stream, self.entry.request_id, at, self.dropped)

    def drop(self) -> None:
        """Who listens has the rest of it all the same."""
        self.is_dropped = True
        self.pieces = []

    def goes_on(self) -> bool:
        """Its caller has left: is it made all the same?"""
        self.entry.is_unheard = bool(self._listeners)
        return self.entry.is_unheard

    def leave(self, listener: Listener) -> None:
        """Where it was the last one, the answer ends; not inside of what makes it just now."""
        super().leave(listener)
        if self.entry.is_unheard and not self._listeners:
            asyncio.get_running_loop().call_soon(self._desert)

    def _desert(self) -> None:
        if self._cancel is not None and not self._listeners and not self.is_over:
            self._cancel()


class Follower(Listener):
    """A request that shares an answer with the one that makes it, under its own id.

    `render_headers` gives the lines of a good answer of which these fields were dropped. `latency_ms` is asked when the
    last JSON leaves. A caller that falls too far behind is ended.
    """

    def __init__(
        self,
        miss: Miss,
        exchange: Exchange,
        entry: Entry,
        render_headers: Callable[[str], bytes],
        latency_ms: Callable[[], int],
    ) -> None:
        super().__init__(miss, exchange)
        self._miss = miss
        self._entry = entry
        self._render_headers = render_headers
        self._latency_ms = latency_ms
        self._theirs = b'"%b"' % miss.entry.request_id
        self._ours = b'"%b"' % entry.request_id

    def head(self) -> bytes:
        """The lines of a good answer's head."""
        return self._render_headers(self._miss.dropped)

    def hear(self, pieces: Sequence[bytes]) -> None:
        """In the books first, then said."""
        if self._over.is_set:
            return
        own = [piece.replace(self._theirs, self._ours) for piece in pieces]
        if self._miss.is_whole:
            self._entry.repeated(self._miss.entry.id)
            ending = self._miss.ending
            if ending is not None:
                content = ending.content.replace(self._theirs, self._ours)
                own = [fill(content, self._entry.request_id, ending.created, self._latency_ms())]
        elif own:
            self._entry.began_answer()
        super().hear(own)
        if self._behind > self._miss.limit and not self._miss.is_over:
            self._over.set(Refusal("UNAVAILABLE", SLOW))

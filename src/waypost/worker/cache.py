"""A worker's response cache: whole answers by what was asked, bounded in bytes, and the answers on their way.

The answers that were asked for last are kept as they are, the others compressed. Nothing is served once its time is
over, or after its key was cleared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from waypost.worker.misses import Miss
from waypost.worker.recording import Recording, pack, unpack

FRESH: Final = 10.0
"""Seconds after which an answer of the shared cache is looked for there again: it may have been cleared elsewhere."""

OVERHEAD: Final = 512
"""Bytes that an entry takes besides its content: 455 by measurement, and what the allocator rounds up."""

WORTHWHILE: Final = 2048
"""Bytes of content from which on an entry is compressed that has not been asked for lately."""


class Kept(msgspec.Struct, frozen=True, gc=False):
    """An answer until `ends`; `since` and `ends` by the worker's clock. `ttl`: the seconds it is kept in all."""

    recording: Recording
    since: float
    ends: float
    ttl: int


class Packed(msgspec.Struct, frozen=True, gc=False):
    """The same, compressed."""

    content: bytes
    since: float
    ends: float
    ttl: int


SHORT: Final = 4096
MANY: Final = 1000
"""Bytes of a request's body whose key is remembered, and how many are: 4 MiB at most."""


class KnownKey(msgspec.Struct, frozen=True, eq=False):
    """The key of a body, of who asked, and of what his model stood for."""

    asker: object
    asked: object
    endpoint: str
    key: bytes


class Cache:
    """Owns the answers. `limit`: bytes of all of them together; `largest`: bytes of one. Until it adopts some, none."""

    limit = largest = 0
    is_shared = False

    def __init__(self, clock: Callable[[], float]) -> None:
        self.flights: dict[bytes, Miss] = {}
        self.size = 0  # bytes
        self.clearings = 0  # how often something was cleared: what was looked for elsewhere meanwhile is not believed
        self.keys: dict[bytes, KnownKey] = {}
        self._plain: dict[bytes, Kept] = {}  # both in the order of last use
        self._rest: dict[bytes, Kept | Packed] = {}
        self._plain_size = 0
        self._clock = clock

    def __len__(self) -> int:
        return len(self._plain) + len(self._rest)

    def adopt(self, limit: int, largest: int, *, shared: bool = False) -> None:
        """A new configuration: models may mean something else now, so everything goes."""
        self.is_shared = shared
        self.limit, self.largest = limit, min(largest, max(0, limit - OVERHEAD))
        self.keys.clear()
        self.forget(None)

    def find(self, key: bytes, most: float) -> Kept | None:
        """An answer that is still good and no older than `most` seconds."""
        kept = self._plain.pop(key, None)
        if kept is None:
            if key not in self._rest:
                return None
            kept = self._unpack(key)
        else:
            self._plain[key] = kept
        now = self._clock()
        if now >= kept.ends or now - kept.since >= most:
            if now >= kept.ends:
                self.drop(key)
            return None
        return kept

    def store(self, key: bytes, recording: Recording, ttl: int, age: float = 0.0) -> None:
        """Keep an answer; one that is too large is let go, and what was there before it goes in any case."""
        self.drop(key)
        if recording.size > self.largest:
            return
        since = self._clock() - age
        ends = since + ttl
        self._put(key, Kept(recording, since, min(ends, self._clock() + FRESH) if self.is_shared else ends, ttl))

    def drop(self, key: bytes) -> None:
        """Nothing is known of it any more."""
        kept = self._plain.pop(key, None)
        if kept is not None:
            self._plain_size -= size_of(kept)
        rest = self._rest.pop(key, None) if kept is None else kept
        if rest is not None:
            self.size -= size_of(rest)

    def clear(self, key: bytes) -> None:
        """The same, and what is on its way is neither kept nor joined any more."""
        self.clearings += 1
        self.drop(key)
        self.flights.pop(key, None)

    def forget(self, key: bytes | None) -> None:
        """`clear`, or all of it: keys may have been cleared that nobody could tell us."""
        if key is not None:
            self.clear(key)
            return
        self.clearings += 1
        self.flights.clear()
        self._plain.clear()
        self._rest.clear()
        self.size = self._plain_size = 0

    # Keys of requests that are sent again and again, byte for byte

    def known_key(self, body: bytes, asker: object, asked: object, endpoint: str) -> bytes | None:
        """The key of this body as these two asked and were asked the last time: the very objects."""
        known = self.keys.get(body)
        if known is not None and known.asker is asker and known.asked is asked and known.endpoint == endpoint:
            return known.key
        return None

    def note_key(self, body: bytes, asker: object, asked: object, endpoint: str, key: bytes) -> None:
        """For the next time; large bodies are computed anew."""
        if len(body) <= SHORT:
            if len(self.keys) >= MANY:
                self.keys.clear()
            self.keys[body] = KnownKey(asker, asked, endpoint, key)

    # Between the two halves, and out

    def _put(self, key: bytes, kept: Kept) -> None:
        size = size_of(kept)
        self._plain[key] = kept
        self._plain_size += size
        self.size += size
        while self._plain_size > self.limit // 2 and len(self._plain) > 1:
            oldest = next(iter(self._plain))
            self._move(oldest, self._plain.pop(oldest))
        while self.size > self.limit:
            self.drop(next(iter(self._rest or self._plain)))

    def _move(self, key: bytes, kept: Kept) -> None:
        """Out of the half that is kept as it is."""
        self._plain_size -= size_of(kept)
        rest: Kept | Packed = kept
        if kept.recording.size >= WORTHWHILE:
            rest = Packed(pack(kept.recording), kept.since, kept.ends, kept.ttl)
        self._rest[key] = rest
        self.size += size_of(rest) - size_of(kept)

    def _unpack(self, key: bytes) -> Kept:
        """Asked for again: back to those that are."""
        rest = self._rest.pop(key)
        self.size -= size_of(rest)
        kept = rest if isinstance(rest, Kept) else Kept(unpack(rest.content), rest.since, rest.ends, rest.ttl)
        self._put(key, kept)
        return kept


def size_of(kept: Kept | Packed) -> int:
    """Bytes that an entry takes."""
    return OVERHEAD + (kept.recording.size if isinstance(kept, Kept) else len(kept.content))

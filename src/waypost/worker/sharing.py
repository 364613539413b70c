"""One answer for several requests: the exchange of the one that makes it, and those that listen to what it says.

A `LeadingExchange` stands in the place of its request's own, so whatever makes the answer (any upstream, any format, a
cache) need not know that others hear it. What is said here of a `Flight` is so for requests with one Idempotency-Key:
its answer outlives its caller, since who asks for it to be made once wants it made. The cache has terms of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from waypost.errors import Refusal
from waypost.http.exchange import Exchange, Flow, parse_chunks
from waypost.worker.attempt import WAITING
from waypost.worker.relay import DONE
from waypost.worker.walk import Signal

STREAM_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a stream that are written down; a longer one goes on untouched, and only its first caller has it."""

AT_ONCE: Final = 64 * 1024
"""Bytes that a listener is sent between two looks at whether it still takes them."""

CORS = b"access-control-allow-origin:"  # the first of the lines that are one browser's

TOO_LARGE = "The answer that this request shares with another grew too large to be shared; send it again."


class Flight:
    """An answer that is being made, or has been: what was said so far, and who listens.

    `headers` are the lines of its head, without those that are one caller's own. `why`: the error it ended with.
    `is_shared`: an upstream had been asked by then, so that the error is everyone's. Of a stream, `limit` bytes are
    written down. `is_slowed`: the caller that it is made for may slow it down.
    """

    limit = STREAM_LIMIT
    is_slowed = False  # nobody does while all that is said is written down anyway
    is_whole = False
    is_dropped = False  # too large to be kept
    is_killed = False
    is_shared = False
    why: Refusal | None = None

    def __init__(
        self, stream: bool, headers: bytes = b"", on_over: Callable[[Flight], None] = lambda flight: None
    ) -> None:
        """`on_over` is called when nothing more is to come, ahead of those who listen."""
        self.stream = stream
        self.headers = headers
        self._on_over = on_over
        self.pieces: list[bytes] = []
        self.size = 0
        self._listeners: list[Listener] = []

    @property
    def is_over(self) -> bool:
        """Nothing more is to come."""
        return self.is_whole or self.why is not None

    @property
    def listening(self) -> int:
        """How many there are."""
        return len(self._listeners)

    def add(self, piece: bytes) -> None:
        """Part of the answer."""
        if not self.is_dropped:
            self.pieces.append(piece)
            self.size += len(piece)
        self._tell([piece])

    def comment(self) -> None:
        """Nothing has been said for a while."""
        for listener in list(self._listeners):
            listener.comment()

    def finish(self, last: bytes) -> None:
        """All of it has been said; this is the end of it, or nothing."""
        rest = [last] if last else []
        self.pieces += rest
        self.size += len(last)
        self.is_whole = True
        self._on_over(self)
        self._tell(rest)

    def fail(self, why: Refusal, *, is_shared: bool = False, is_killed: bool = False) -> None:
        """There is no (more) answer."""
        if self.is_over:
            return
        self.why, self.is_shared, self.is_killed = why, is_shared, is_killed
        self._on_over(self)
        self._tell([])

    def drop(self) -> None:
        """It has grown too large: nothing of it is kept any more."""
        self.is_dropped = self.is_slowed = True
        self.fail(Refusal("UNAVAILABLE", TOO_LARGE), is_shared=True)
        self.pieces = []

    def goes_on(self) -> bool:
        """Its caller has left: is it made all the same?"""
        return not self.is_dropped

    def join(self, listener: Listener) -> None:
        """From now on it hears of everything."""
        self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """It hears of nothing any more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def _tell(self, pieces: Sequence[bytes]) -> None:
        for listener in list(self._listeners):
            listener.hear(pieces)


class LeadingExchange(Exchange):
    """The exchange of the request that makes the answer of `flight`: what it says goes to its own caller and into that.

    A caller that reads slowly is written to all the same as long as its flight is not slowed: it may well be one that
    has given up, and whose second try listens.
    """

    def __init__(self, exchange: Exchange, flight: Flight, headers: bytes = b"", lines: bytes = b"") -> None:
        """`headers`: those that a waiting exchange was started with, if it was; `lines` go behind an answer's own."""
        self._own = exchange
        self._flight = flight
        self._lines = lines
        self.started = bool(headers) and exchange.started
        self._was_asked = False
        self._is_over = False
        self._from: Flow | None = None
        self.head = exchange.head
        self.method = exchange.method
        self.path = exchange.path
        self.body = exchange.body
        self.arrived = exchange.arrived
        self.keep_alive = exchange.keep_alive
        self.on_gone = exchange.on_gone
        exchange.on_gone = self._left
        flight.headers = headers

    # What makes the answer

    @property
    def flow(self) -> Flow | None:
        """Where the bytes come from."""
        return self._from

    @flow.setter
    def flow(self, flow: Flow | None) -> None:
        self._from = flow
        self._was_asked = self._was_asked or flow is not None
        if self._flight.is_slowed and not self._own.is_gone:
            self._own.flow = flow

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """The whole answer: of status 200, or an error that `broke` has told of."""
        if self._is_over or self.started:
            return
        self.started = True
        self._own.respond(status, headers + self._lines, body)
        self._flight.headers = shared_lines(headers)
        self._finish(body)

    def start(self, status: int, headers: bytes) -> None:
        """Decide status and headers of a streamed answer."""
        if self.started:
            return
        self.started = True
        self._flight.headers = shared_lines(headers)
        self._own.start(status, headers + self._lines)

    def write(self, data: bytes) -> None:
        """Part of a streamed answer, or a comment."""
        self._own.write(data)
        flight = self._flight
        if data is WAITING:
            flight.comment()
        elif not flight.is_over:
            flight.add(data)
            if flight.size > flight.limit and not flight.is_dropped:
                self._drop()

    def end(self, data: bytes = b"") -> None:
        """The last part of a streamed answer, or the error that it breaks off with."""
        if self._is_over:
            return
        self._own.end(data)
        self._finish(data)

    def end_in_parts(self, parts: Sequence[bytes]) -> None:
        """All that is left of a streamed answer."""
        for part in parts[:-1]:
            self.write(part)
        self.end(parts[-1] if parts else b"")

    def end_framed(self, framed: bytes, last: bytes) -> None:
        """The same, where all parts but the last are chunks already."""
        self.end_in_parts([*parse_chunks(framed), last])

    def broke(self, why: Refusal, *, is_killed: bool = False) -> None:
        """What is said next is an error."""
        is_shared = self._was_asked or why.failure.chain or is_killed
        self._flight.fail(why, is_shared=is_shared, is_killed=is_killed)

    def _finish(self, last: bytes) -> None:
        self._is_over = True
        self.on_gone = self._from = None
        if not self._flight.is_over:
            self._flight.finish(last)

    # What becomes of its caller

    @property
    def is_gone(self) -> bool:
        """Nobody hears what is still to be said, now or later."""
        return self._is_over or (self._flight.is_dropped and self._own.is_gone)

    @property
    def is_blocked(self) -> bool:
        """The caller has yet to take what it was sent."""
        return self._own.is_blocked

    @property
    def address(self) -> str:
        """The caller's network address."""
        return self._own.address

    def cut(self) -> None:
        """The client is gone."""
        self._own.cut()

    def _left(self) -> None:
        """The caller hung up, and the answer may still be wanted; or its account has ended its streams."""
        if self._own.is_gone and self._flight.goes_on():
            if self._from is not None:
                self._from.resume_reading()
        elif self.on_gone is not None:
            self.on_gone()

    def _drop(self) -> None:
        """Too large: from here on it is an exchange like any other."""
        self._flight.drop()
        if self._own.is_gone:
            self._left()
            return
        self._own.flow = self._from
        if self._own.is_blocked and self._from is not None:
            self._from.pause_reading()


class Listener:
    """A request that is given the answer of a flight, at the pace at which its caller reads."""

    def __init__(self, flight: Flight, exchange: Exchange, lines: bytes = b"", early: bytes = b"") -> None:
        """`lines` go behind the flight's own; `early` is the head of a stream that is ended before it has any."""
        self._flight = flight
        self._exchange = exchange
        self._lines = lines
        self._early = early
        self._unsent: list[bytes] = []
        self._behind = 0  # bytes of these
        self._has_begun = False
        self._is_paused = False
        self._over: Signal[Refusal | None] = Signal()

    async def listen(self) -> bool:
        """True: the caller has all of it. False: it failed before it began, and whoever wants it may try.

        Raises Refusal with the flight's own error.
        """
        flight, exchange = self._flight, self._exchange
        flight.join(self)
        exchange.flow = self
        try:
            self.hear(flight.pieces)
            why = await self._over
        finally:
            flight.leave(self)
            exchange.flow = None
        if why is None:
            return True
        if flight.is_killed:  # their account has ended its streams, and this is one of them
            exchange.start(200, (flight.headers or self._early) + self._lines)
            exchange.end(DONE)
            return True
        if not self._has_begun and not flight.is_shared:
            return False
        own = Refusal(why.failure.code, why.message, param=why.param, status=why.status, retry_after=why.retry_after)
        own.lines, own.metadata = why.lines, why.metadata
        raise own

    def head(self) -> bytes:
        """The lines of a good answer's head."""
        return self._flight.headers + self._lines

    def hear(self, pieces: Sequence[bytes]) -> None:
        """More of the answer; or how it ended, as the flight says."""
        if self._over.is_set:
            return
        self._has_begun = self._has_begun or bool(pieces)
        self._unsent += pieces
        self._behind += sum(map(len, pieces))
        self._advance()

    def _advance(self) -> None:
        """Say what has not been said yet, as far as the caller takes it."""
        flight, exchange = self._flight, self._exchange
        if flight.is_whole and not flight.stream:
            exchange.respond(200, self.head(), self._next())
        while self._unsent and not self._is_paused:
            self._start()
            exchange.write(self._next())
        if flight.is_over and not self._unsent:
            if flight.is_whole:
                self._start()
                exchange.end()
            self._over.set(flight.why)

    def _start(self) -> None:
        if not self._exchange.started:
            self._exchange.start(200, self.head())

    def _next(self) -> bytes:
        """Small pieces are sent together."""
        count = size = 0
        for piece in self._unsent:
            if count and size + len(piece) > AT_ONCE:
                break
            count, size = count + 1, size + len(piece)
        data = b"".join(self._unsent[:count])
        del self._unsent[:count]
        self._behind -= size
        return data

    def comment(self) -> None:
        """Nothing has been said for a while."""
        if self._flight.stream and not self._is_paused and not self._over.is_set:
            self._start()
            self._exchange.write(WAITING)

    def pause_reading(self) -> None:
        """The caller is slower than the answer."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """It caught up."""
        self._is_paused = False
        if not self._over.is_set:
            self._advance()


def shared_lines(headers: bytes) -> bytes:
    """A good answer's head lines without those that are one browser's."""
    return headers.partition(CORS)[0]

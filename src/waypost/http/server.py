"""The server side of HTTP/1.1: an asyncio protocol on llhttp that hands whole requests to its application.

One request at a time is served on a connection; pipelined ones wait their turn, so answers leave in order. Framing is
llhttp's decision, never ours: what it calls an error is answered with 400 and the connection is closed. It is fed one
message at a time, so that each request's head is known by its bytes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from waypost.errors import Refusal
from waypost.http.exchange import Exchange
from waypost.http.head import Head, bad, check_unfinished
from waypost.http.message import Inflater, Limits, find_inflater, too_large
from waypost.http.timers import NEVER, Deadlines
from waypost.http.transports import create_server

RATE_WINDOW = 5.0  # seconds over which a body's rate is judged
LINGER = 2.0  # seconds a refused client has to read the refusal before the connection is reset
QUEUE = 64 * 1024  # bytes of pipelined requests that may wait before no more are read
QUEUED = 4 * 1024  # bytes that each counts for besides its body
CHUNK_FRAMING = 16  # bytes a chunk's head and line ends may take; what is over that counts against the header limit


class Application(Protocol):
    """What the server calls."""

    def begin(self, exchange: Exchange) -> None:
        """A whole request has arrived: answer it now or later through the exchange."""

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Word this error, at once, with `exchange.respond`; the connection closes after it."""


class Connection(asyncio.Protocol):
    """One client connection: idle, receiving a head, receiving a body, or serving; and at last closing."""

    __slots__ = (
        "_body", "_body_ends", "_body_left", "_body_seen", "_body_size", "_closing", "_deaf", "_ending", "_fault",
        "_inflater", "_known", "_limits", "_overhead", "_parser", "_paused", "_receiving", "_server", "_start",
        "_transport", "_waiting", "blocked", "deadline", "exchange", "write",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._limits = server.limits
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._waiting: deque[Exchange] = deque()  # whole requests, not yet served
        self._known: Head | None = None  # the latest head: most clients send it again
        self._start = b""  # the beginning of a head whose end has not come
        self._receiving: Exchange | None = None  # whose body is arriving
        self._body: list[bytes] = []
        self._body_left = 0  # bytes to come by Content-Length; -1: chunked
        self._body_size = 0  # bytes that have come
        self._body_seen = 0  # of these, at the last look at the rate
        self._body_ends = 0.0
        self._ending = b""  # the last bytes of a chunked body so far: its end may straddle two reads
        self._overhead = 0  # bytes of chunk framing and trailers beyond what is usual
        self._inflater: Inflater | None = None
        self._fault: Refusal | None = None  # answered once all that came before it is
        self._deaf = False  # nothing more is parsed
        self._paused = False  # nothing is read while pipelined requests wait
        self._closing = False
        self.blocked = False  # the client does not read as fast as we write
        self.exchange: Exchange | None = None
        self.write: Callable[[bytes], None] = drop
        self.deadline = NEVER

    # The connection comes and goes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)  # aiofastnet's is one in all but its base class
        self.write = self._transport.write
        server = self._server
        server.connections.add(self)
        server.deadlines.watched.add(self)
        self.deadline = server.deadlines.now + self._limits.head_seconds
        if len(server.connections) > self._limits.connections:
            self._fail(Refusal("OVERLOADED", "Too many connections; try again in a moment.", retry_after=1))

    @property
    def address(self) -> str:
        """Where the client is; empty on a UNIX socket."""
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) else ""

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone: whoever is answering learns it at once."""
        self._server.connections.discard(self)
        self._server.deadlines.watched.discard(self)
        self._parser = None  # this and the next line break cycles of bound methods
        self.write = drop
        self._waiting.clear()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.cut()
        self._server.lost()

    def eof_received(self) -> bool:
        """A client that shuts its sending side is taken as gone, as in Go's net/http."""
        return False

    # Bytes come in

    def data_received(self, data: bytes) -> None:
        """Feed llhttp message by message, then serve what has wholly arrived."""
        if self._deaf or self._parser is None:
            return
        try:
            while data:
                data = self._take_head(data) if self._receiving is None else self._take_body(data)
        except (Refusal, httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(self._fault or (error if isinstance(error, Refusal) else bad(str(error))))
        if self._waiting:
            if self.exchange is None:
                self._serve_next()
            if self._waiting and not self._paused and sum(QUEUED + len(each.body) for each in self._waiting) > QUEUE:
                self._paused = True  # not before: a client whose bytes are not read cannot be seen leaving
                self._transport.pause_reading()

    def _take_head(self, data: bytes) -> bytes:
        """At the beginning of a request: wait for its whole head, feed it. Returns what is left."""
        if self._start:
            data = self._start + data
            self._start = b""
        elif data[0] in b"\r\n":
            return data.lstrip(b"\r\n")  # empty lines before a request are forgiven (RFC 9112 §2.2)
        elif self.exchange is None:
            self.deadline = self._server.deadlines.now + self._limits.head_seconds
        end = data.find(b"\r\n\r\n")
        if end < 0:
            check_unfinished(data, self._limits)
            self._start = data
            return b""
        raw = data[: end + 2]
        head = self._known
        left = head.same(raw) if head is not None else -1
        if head is None or left < 0:
            head = self._known = Head(raw, self._limits)
            left = head.length
        self._receiving = Exchange(self, head, self._server.clock())
        self._body_size = 0
        parser = self._parser
        assert parser is not None
        size = end + 4
        if head.is_plain and 0 < left == len(data) - size and left <= self._limits.body:
            parser.feed_data(data)  # nearly always: the whole request in one read, and nothing behind it
            return b""
        self._body_left = left
        self._body_seen = self._overhead = 0
        self._ending = b""
        if left:
            self._expect_body(head, left)
        if not head.is_plain:
            data = self._special(head, data, end)
            size = data.index(b"\r\n\r\n") + 4
        parser.feed_data(data[:size])
        if left == 0 and self._receiving is not None:
            raise bad("the length of its body is not clear")
        return data[size:]

    def _special(self, head: Head, data: bytes, end: int) -> bytes:
        """What is not offered here is refused, or ignored by leaving it out."""
        if head.method == "CONNECT":
            raise Refusal("METHOD_NOT_ALLOWED", "CONNECT is not offered here.")
        return head.without_upgrade() + data[end + 2 :] if head.has(b"\r\nupgrade:") else data

    def _take_body(self, data: bytes) -> bytes:
        """Inside of a body: feed what belongs to it. Returns what is left."""
        assert self._parser is not None
        rest = b""
        if 0 <= self._body_left < len(data) + self._body_size:
            cut = self._body_left - self._body_size
            if cut == 0:
                raise bad("the length of its body is not clear")
            data, rest = data[:cut], data[cut:]
        if self._body_left < 0:
            return self._take_chunks(data)
        self._parser.feed_data(data)
        return rest

    def _take_chunks(self, data: bytes) -> bytes:
        """Part of a chunked body. Where it ends only llhttp knows, but it always ends with an empty line."""
        assert self._parser is not None
        seen, before = self._ending + data, self._body_size
        mark = seen.find(b"\r\n\r\n")
        cut = mark + 4 - len(self._ending) if mark >= 0 else len(data)
        self._ending = b"" if mark >= 0 else seen[-3:]
        self._parser.feed_data(data[:cut])
        self._overhead += cut - (self._body_size - before)
        if self._overhead > self._limits.header_block:
            raise Refusal("HEADERS_TOO_LARGE", f"Trailers or chunk extensions over {self._limits.header_block} bytes.")
        return data[cut:]

    def _expect_body(self, head: Head, length: int) -> None:
        """Decide about a body before any of it is read. Raises Refusal."""
        if length > self._limits.body:
            raise too_large(self._limits)
        if not head.is_plain:
            encoding = head.get(b"content-encoding")
            self._inflater = find_inflater(self._limits, encoding) if encoding is not None else None
        if self.exchange is None:
            now = self._server.deadlines.now
            self._body_ends = now + self._limits.body_seconds
            self.deadline = now + RATE_WINDOW
            if not head.is_plain and head.has(b"\r\nexpect:"):
                if head.get_all(b"expect").strip() != b"100-continue":
                    raise Refusal("INVALID_REQUEST", "The only Expect that is met is 100-continue.", status=417)
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_chunk_header(self) -> None:
        """llhttp: a chunk begins."""
        self._overhead -= CHUNK_FRAMING

    def on_body(self, data: bytes) -> None:
        """llhttp: part of a body."""
        self._body_size += len(data)
        if self._inflater is not None:
            try:
                data = self._inflater.feed(data)
            except Refusal as refusal:
                raise self._stop(refusal) from None
        elif self._body_size > self._limits.body:
            raise self._stop(too_large(self._limits))
        self._body.append(data)

    def on_message_complete(self) -> None:
        """llhttp: a request is whole."""
        receiving, parser = self._receiving, self._parser
        if receiving is None or parser is None:
            raise self._stop(bad("a request begins inside of another"))
        self._receiving = None
        receiving.keep_alive = parser.should_keep_alive()
        body = self._body
        if body:
            receiving.body = body[0] if len(body) == 1 else b"".join(body)
            self._body = []
        if self._inflater is not None:
            inflater, self._inflater = self._inflater, None
            if not inflater.is_whole:
                raise self._stop(Refusal("INVALID_REQUEST", "The body's gzip data is cut short."))
        if len(self._waiting) >= self._limits.pipelined:
            raise self._stop(Refusal("OVERLOADED", "Too many pipelined requests on one connection.", retry_after=1))
        self._waiting.append(receiving)

    # Errors of the client, and deadlines

    def _stop(self, refusal: Refusal) -> Refusal:
        """Remember why the parser is being stopped: it hides the exception that a callback raises."""
        self._fault = refusal
        return refusal

    def _fail(self, refusal: Refusal) -> None:
        """Read nothing more; answer with this error as soon as everything before it has been answered."""
        self._fault = refusal
        self._deaf = True
        if self.exchange is None and not self._waiting:
            self._answer_fault()

    def _answer_fault(self) -> None:
        refusal, self._fault = self._fault, None
        assert refusal is not None
        exchange = self._receiving or Exchange(self, NO_HEAD, self._server.clock())
        exchange.keep_alive = False
        self.exchange = exchange
        self._server.application.refuse(exchange, refusal)

    def expire(self) -> None:
        """Too long in one state."""
        now = self._server.deadlines.now
        if self._closing or self.blocked:
            self._transport.abort()
        elif self._receiving is not None:
            if now < self._body_ends and self._body_size - self._body_seen >= self._limits.body_rate * RATE_WINDOW:
                self._body_seen = self._body_size
                self.deadline = min(now + RATE_WINDOW, self._body_ends)
            else:
                self._fail(Refusal("REQUEST_TIMEOUT", "The request's body did not arrive in time."))
        elif self._start:
            self._fail(Refusal("REQUEST_TIMEOUT", "The request's head did not arrive in time."))
        else:
            self._transport.close()

    # Answers go out

    def _serve_next(self) -> None:
        if self._parser is None or self.exchange is not None:
            return
        if not self._waiting:
            if self._fault is not None:
                self._answer_fault()
            return
        self.exchange = exchange = self._waiting.popleft()
        if self._paused and not self._waiting:
            self._paused = False
            self._transport.resume_reading()
        self.deadline = NEVER
        self._server.application.begin(exchange)

    def closing_lines(self, exchange: Exchange) -> bytes:
        """The end of a response head: what becomes of the connection."""
        if self._server.draining:
            exchange.keep_alive = False
        if not exchange.keep_alive:
            return b"connection: close\r\n\r\n"
        return b"connection: keep-alive\r\n\r\n" if exchange.head.old else b"\r\n"

    def finished(self, keep_alive: bool) -> None:
        """An answer has been written: serve the next request, wait for one, or close."""
        self.exchange = None
        if not keep_alive or self._server.draining:
            self._close()
            return
        now = self._server.deadlines.now
        if self._receiving is not None:
            self._body_ends = now + self._limits.body_seconds
            self.deadline = now + RATE_WINDOW
        elif not self.blocked:  # else the answer is on its way still, and the deadline a reader's who takes nothing
            self.deadline = now + (self._limits.head_seconds if self._start else self._limits.idle_seconds)
        if self._waiting or self._fault is not None:
            asyncio.get_running_loop().call_soon(self._serve_next)

    def _close(self) -> None:
        """Close without losing the answer: a reset would discard it while the client still sends."""
        is_mid_request = self._fault is not None or self._receiving is not None or bool(self._start)
        self._deaf = self._closing = True
        self.deadline = self._server.deadlines.now + (self._limits.write_seconds if self.blocked else LINGER)
        self._waiting.clear()
        if is_mid_request and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def close_when_idle(self) -> None:
        """Draining: an idle connection goes at once, a busy one after its answer."""
        if self.exchange is None and self._receiving is None and not self._start and not self._waiting:
            self._transport.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer comes."""
        self.blocked = True
        self.deadline = self._server.deadlines.now + self._limits.write_seconds
        if self.exchange is not None and self.exchange.flow is not None:
            self.exchange.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client caught up."""
        self.blocked = False
        if self.exchange is not None:
            self.deadline = NEVER
            if self.exchange.flow is not None:
                self.exchange.flow.resume_reading()
        else:
            self.deadline = self._server.deadlines.now + (LINGER if self._closing else self._limits.idle_seconds)


def drop(data: bytes) -> None:
    """Where the bytes for a client go that has left."""


NO_HEAD = Head(b"GET / HTTP/1.1\r\nhost:\r\n", Limits())  # of a request whose own could not be read


class Server:
    """Listeners and their connections. `clock` gives the seconds of `Exchange.arrived`."""

    def __init__(
        self, application: Application, limits: Limits, deadlines: Deadlines, clock: Callable[[], float]
    ) -> None:
        self.application = application
        self.limits = limits
        self.deadlines = deadlines
        self.clock = clock
        self.connections: set[Connection] = set()
        self.draining = False
        self._listeners: list[asyncio.AbstractServer] = []
        self._sockets: list[socket.socket] = []
        self._empty: asyncio.Future[None] | None = None

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on a bound socket."""
        self._listeners.append(await create_server(lambda: Connection(self), sock, tls))
        self._sockets.append(sock)

    def lost(self) -> None:
        """A connection has gone."""
        if self._empty is not None and not self.connections and not self._empty.done():
            self._empty.set_result(None)

    async def drain(self, grace: float) -> bool:
        """Stop accepting, let what is being served finish for `grace` seconds. True when nothing is left."""
        self.draining = True
        for listener in self._listeners:
            listener.close()
        for sock in self._sockets:  # else uvloop leaves it listening, and connections pile up that nobody accepts
            sock.close()
        for connection in list(self.connections):
            connection.close_when_idle()
        if self.connections:
            self._empty = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._empty, grace)
            except TimeoutError:
                return False
        return True

"""The server side of HTTP/1.1: an asyncio protocol on llhttp that hands whole requests to its application.

One request at a time is served on a connection; pipelined ones wait their turn, so answers leave in order. Framing is
llhttp's decision, never ours: what it calls an error is answered with 400 and the connection is closed.
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
from waypost.http.message import METHODS, Inflater, Limits, Request, find_inflater, lower_names, status_line, too_large
from waypost.http.timers import NEVER, Deadlines
from waypost.http.transports import Reading, create_server

ONCE = frozenset({b"host", b"content-length", b"content-type", b"content-encoding", b"authorization", b"x-api-key"})
RATE_WINDOW = 5.0  # seconds over which a body's rate is judged
LINGER = 2.0  # seconds a refused client has to read the refusal before the connection is reset


class Application(Protocol):
    """What the server calls."""

    def begin(self, exchange: Exchange) -> None:
        """A whole request has arrived: answer it now or later through the exchange."""

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Word this error, at once, with `exchange.respond`; the connection closes after it."""


class Flow(Protocol):
    """Where a response's bytes come from, so that a slow reader can slow it down."""

    def pause_reading(self) -> None:
        """Stop sending."""

    def resume_reading(self) -> None:
        """Go on."""


class Exchange:
    """One request and its answer. After the answer's end, or once the client is gone, every call is a no-op."""

    __slots__ = ("_chunked", "_connection", "_head", "flow", "on_gone", "request", "started")

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection: Connection | None = connection
        self._chunked = not request.old
        self._head = b""
        self.request = request
        self.started = False  # the status line is decided
        self.flow: Flow | None = None
        self.on_gone: Callable[[], object] | None = None  # called once if the client leaves before the end

    @property
    def gone(self) -> bool:
        """True once nobody reads this answer any more, or all of it has been sent."""
        return self._connection is None

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """The whole answer in one write. `headers` are complete lines, without Content-Length."""
        connection = self._connection
        if connection is None or self.started:
            return
        self.started = True
        request = self.request
        lines = connection.closing_lines(request)
        sent = b"" if request.head_only else body
        connection.write(b"%b%bcontent-length: %d\r\n%b%b" % (status_line(status), headers, len(body), lines, sent))
        self._over(connection)

    def start(self, status: int, headers: bytes) -> None:
        """Decide status and headers of a streamed answer; they leave with its first bytes."""
        connection = self._connection
        if connection is None or self.started:
            return
        self.started = True
        if not self._chunked:
            self.request.keep_alive = False  # HTTP/1.0: the body ends where the connection ends
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._head = b"%b%b%b%b" % (status_line(status), headers, framing, connection.closing_lines(self.request))

    def write(self, data: bytes) -> None:
        """Part of a streamed answer (not empty), as one chunk."""
        connection = self._connection
        if connection is None:
            return
        connection.write(b"%b%x\r\n%b\r\n" % (self._head, len(data), data) if self._chunked else self._head + data)
        self._head = b""

    def end(self, data: bytes = b"") -> None:
        """The last part of a streamed answer."""
        connection = self._connection
        if connection is None:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        connection.write(self._head + data)
        self._over(connection)

    def _over(self, connection: Connection) -> None:
        self._connection = self.flow = self.on_gone = None
        connection.finished(self.request)

    def cut(self) -> None:
        """The client is gone: forget the connection and tell whoever is answering."""
        on_gone = self.on_gone
        self._connection = self.flow = self.on_gone = None
        if on_gone is not None:
            on_gone()


class Connection(Reading):
    """One client connection: idle, receiving a head, receiving a body, or serving; and at last closing."""

    __slots__ = (
        "_body", "_body_ends", "_body_seen", "_body_size", "_closing", "_deaf", "_fault", "_fields", "_head_raw",
        "_in_head", "_inflater", "_limits", "_parser", "_paused", "_receiving", "_server", "_target", "_transport",
        "_waiting", "blocked", "deadline", "exchange", "write",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._limits = server.limits
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()  # whole requests, not yet served
        self._receiving: Request | None = None  # whose body is arriving
        self._body: list[bytes] = []
        self._body_size = 0  # as received
        self._body_seen = 0  # of that, at the last look at its rate
        self._body_ends = 0.0
        self._inflater: Inflater | None = None
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._in_head = False
        self._head_raw = 0  # bytes of an unfinished head after its first read
        self._fault: Refusal | None = None  # answered once all that came before it is
        self._deaf = False  # nothing more is parsed
        self._paused = False  # nothing is read while pipelined requests wait
        self._closing = False
        self.blocked = False  # the client does not read as fast as we write
        self.exchange: Exchange | None = None
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

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone: whoever is answering learns it at once."""
        self._server.connections.discard(self)
        self._server.deadlines.watched.discard(self)
        self._parser = None  # breaks the cycle of bound methods
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
        """Feed llhttp, then serve what has wholly arrived."""
        if self._deaf or self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # no other protocol is spoken here: the offer is ignored, what follows it is not read
            if self._waiting:
                self._waiting[-1].keep_alive = False
        except httptools.HttpParserError as error:
            self._fail(self._fault or Refusal("BAD_REQUEST", f"The request is not valid HTTP/1.1 ({error})."))
        if self._in_head and not self._deaf:
            self._bound_unfinished_head(len(data))
        if self._waiting:
            if self.exchange is None:
                self._serve_next()
            if self._waiting and not self._paused:
                self._paused = True
                self._transport.pause_reading()

    def on_message_begin(self) -> None:
        """llhttp: the first byte of a request."""
        self._target = b""
        self._fields = []
        self._in_head = True
        self._head_raw = -1
        if self.exchange is None:
            self.deadline = self._server.deadlines.now + self._limits.head_seconds

    def on_url(self, part: bytes) -> None:
        """llhttp: the request target, or a piece of it."""
        self._target += part
        if len(self._target) > self._limits.request_line - len(b"GET  HTTP/1.1\r\n"):
            raise self._stop(Refusal("URL_TOO_LONG", f"The request line is over {self._limits.request_line} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp: one header, or one trailer field (which is counted and dropped)."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """llhttp: the head is whole; decide about the body before any of it is read."""
        parser = self._parser
        assert parser is not None
        self._in_head = False
        headers = self._named_headers()
        request = Request(METHODS.get(parser.get_method(), ""), self._target, headers, self._server.clock())
        request.keep_alive = parser.should_keep_alive()
        if not request.keep_alive or b"connection" in headers:  # 1.1 keeps alive without a word, 1.0 never does
            request.old = parser.get_http_version() == "1.0"
        if b"host" not in headers and not request.old:
            raise self._stop(Refusal("BAD_REQUEST", "The Host header is missing."))
        self._receiving = request
        self._body = []
        self._body_size = self._body_seen = 0
        length = headers.get(b"content-length")
        if length is None and b"transfer-encoding" not in headers:
            return
        if length is not None and int(length) > self._limits.body:
            raise self._stop(too_large(self._limits))
        if b"content-encoding" in headers:
            try:
                self._inflater = find_inflater(self._limits, headers[b"content-encoding"])
            except Refusal as refusal:
                raise self._stop(refusal) from None
        if self.exchange is None:
            now = self._server.deadlines.now
            self._body_ends = now + self._limits.body_seconds
            self.deadline = now + RATE_WINDOW
            if b"expect" in headers:
                self._expect(headers[b"expect"])

    def _named_headers(self) -> dict[bytes, bytes]:
        headers: dict[bytes, bytes] = {}
        fields, limits = self._fields, self._limits
        size = 4 * len(fields)
        for name, value in fields:
            size += len(name) + len(value)
            name = name.lower()
            if name in headers:
                if name in ONCE:
                    raise self._stop(Refusal("BAD_REQUEST", f"The header {name.decode('latin-1')} is sent twice."))
                value = headers[name] + b", " + value
            headers[name] = value
        if size > limits.header_block:
            raise self._stop(Refusal("HEADERS_TOO_LARGE", f"The headers are larger than {limits.header_block} bytes."))
        if len(fields) > limits.headers:
            raise self._stop(Refusal("HEADERS_TOO_LARGE", f"There are more than {limits.headers} headers."))
        return headers

    def _expect(self, expectation: bytes) -> None:
        if expectation.lower() != b"100-continue":
            raise self._stop(Refusal("INVALID_REQUEST", "The only Expect that is met is 100-continue.", status=417))
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

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
        request, self._receiving = self._receiving, None
        assert request is not None
        body = self._body
        if body:
            request.body = body[0] if len(body) == 1 else b"".join(body)
        if self._inflater is not None:
            inflater, self._inflater = self._inflater, None
            if not inflater.is_whole:
                raise self._stop(Refusal("INVALID_REQUEST", "The body's gzip data is cut short."))
        if len(self._waiting) >= self._limits.pipelined:
            raise self._stop(Refusal("OVERLOADED", "Too many pipelined requests on one connection.", retry_after=1))
        self._waiting.append(request)

    # Errors of the client, and deadlines

    def _stop(self, refusal: Refusal) -> Refusal:
        """Remember why the parser is being stopped: it hides the exception that a callback raises."""
        self._fault = refusal
        return refusal

    def _bound_unfinished_head(self, size: int) -> None:
        """A head that never ends may not grow inside the parser; its first read is bounded by the read size."""
        self._head_raw = 0 if self._head_raw < 0 else self._head_raw + size
        if self._head_raw > self._limits.header_block + self._limits.request_line:
            self._fail(Refusal("HEADERS_TOO_LARGE", "The request's head does not end."))

    def _fail(self, refusal: Refusal) -> None:
        """Read nothing more; answer with this error as soon as everything before it has been answered."""
        self._fault = refusal
        self._deaf = True
        if self.exchange is None and not self._waiting:
            self._answer_fault()

    def _answer_fault(self) -> None:
        refusal, self._fault = self._fault, None
        request = self._receiving or Request("GET", b"/", lower_names(self._fields), self._server.clock())
        request.keep_alive = False
        assert refusal is not None
        self.exchange = Exchange(self, request)
        self._server.application.refuse(self.exchange, refusal)

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
        elif self._in_head:
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
        request = self._waiting.popleft()
        if self._paused and not self._waiting:
            self._paused = False
            self._transport.resume_reading()
        self.deadline = NEVER
        self.exchange = Exchange(self, request)
        self._server.application.begin(self.exchange)

    def closing_lines(self, request: Request) -> bytes:
        """The end of a response head: what becomes of the connection."""
        if self._server.draining:
            request.keep_alive = False
        if not request.keep_alive:
            return b"connection: close\r\n\r\n"
        return b"connection: keep-alive\r\n\r\n" if request.old else b"\r\n"

    def finished(self, request: Request) -> None:
        """An answer has been written: serve the next request, wait for one, or close."""
        self.exchange = None
        if not request.keep_alive:
            self._close()
            return
        now = self._server.deadlines.now
        if self._receiving is not None:
            self._body_ends = now + self._limits.body_seconds
            self.deadline = now + RATE_WINDOW
        else:
            self.deadline = now + (self._limits.head_seconds if self._in_head else self._limits.idle_seconds)
        if self._waiting or self._fault is not None:
            asyncio.get_running_loop().call_soon(self._serve_next)

    def _close(self) -> None:
        """Close without losing the answer: a reset would discard it while the client still sends."""
        self._deaf = self._closing = True
        self.deadline = self._server.deadlines.now + (self._limits.write_seconds if self.blocked else LINGER)
        self._waiting.clear()
        mid_request = self._receiving is not None or self._in_head
        if mid_request and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def close_when_idle(self) -> None:
        """Draining: an idle connection goes at once, a busy one after its answer."""
        if self.exchange is None and not self._in_head and self._receiving is None and not self._waiting:
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


class Server:
    """Listeners and their connections. `clock` gives seconds for `Request.started`."""

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
        self._empty: asyncio.Future[None] | None = None

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on a bound socket."""
        self._listeners.append(await create_server(lambda: Connection(self), sock, tls))

    def lost(self) -> None:
        """A connection has gone."""
        if self._empty is not None and not self.connections and not self._empty.done():
            self._empty.set_result(None)

    async def drain(self, grace: float) -> bool:
        """Stop accepting, let what is being served finish for `grace` seconds. True when nothing is left."""
        self.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.close_when_idle()
        if self.connections:
            self._empty = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._empty, grace)
            except TimeoutError:
                return False
        return True

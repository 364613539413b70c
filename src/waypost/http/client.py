"""The client side of HTTP/1.1: one connection to an upstream, one request at a time, an answer fed to its receiver."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from waypost.http.timers import NEVER, Deadlines

HEAD_LIMIT = 64 * 1024  # bytes of an upstream's response head
LET_END = 2.0  # seconds
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class UpstreamFailure(Exception):
    """An upstream did not answer as HTTP has it. `kind` is one of the constants below."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


CONNECT = "connect"  # no connection: refused, unreachable, unknown name
TLS = "tls"  # the handshake failed, or the certificate is not good
CLOSED = "closed"  # the connection ended before the answer did
BROKEN = "broken"  # bytes that are not the answer they claim to be
CONNECT_TIMEOUT = "connect_timeout"  # no connection in time
TIMEOUT = "timeout"  # no answer in the time that whoever asked gives it
BUSY = "busy"  # too many requests wait for a connection


class Receiver(Protocol):
    """Who an answer is for. After `ended` or `failed` nothing more is called."""

    def begun(self, status: int, head: bytes) -> None:
        """The final status, and the head's bytes in lower case; `find_header` reads them."""

    def received(self, data: bytes) -> None:
        """Part of the body: everything one read brought, in one piece."""

    def ended(self) -> None:
        """The body is complete."""

    def failed(self, failure: UpstreamFailure) -> None:
        """There is no (more) answer."""


class Nobody:
    """Receives what is left of an answer that nobody reads any more."""

    def begun(self, status: int, head: bytes) -> None:
        """Nothing to do."""

    def received(self, data: bytes) -> None:
        """Nothing to do."""

    def ended(self) -> None:
        """Nothing to do."""

    def failed(self, failure: UpstreamFailure) -> None:
        """Nothing to do."""


NOBODY = Nobody()


class ClientConnection(asyncio.Protocol):
    """A connection to one target. Its owner is a pool; `on_free` tells it that the connection may be used again."""

    __slots__ = (
        "_begun", "_body", "_complete", "_deadlines", "_final", "_head", "_informal", "_on_free", "_on_lost",
        "_parser", "_paused", "_poll", "_receiver", "_status", "_stays", "_transport", "answers", "deadline",
        "idle_limit", "location", "on_body", "responding",
    )  # fmt: skip

    def __init__(
        self,
        deadlines: Deadlines,
        on_free: Callable[[ClientConnection], None],
        on_lost: Callable[[ClientConnection], None],
    ) -> None:
        self._deadlines = deadlines
        self._on_free = on_free
        self._on_lost = on_lost
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport | None = None
        self._head = b""  # the head's bytes, until it is whole
        self._body: list[bytes] = []
        self.on_body = self._body.append  # llhttp: part of the body
        self._final = False  # the head of the final (not 1xx) response is in
        self._begun = False  # and the receiver has it
        self._informal = False  # inside a 1xx response
        self._poll = select.poll()
        self._status = 0
        self._complete = False
        self._stays = False  # the other side keeps the connection open after this answer
        self._paused = False
        self.answers = 0  # complete answers so far: a reused connection has some
        self.responding = False  # bytes of the current answer have come
        self.idle_limit = NEVER  # seconds this connection may be kept idle, from Keep-Alive
        self.deadline = NEVER
        self.location = b""  # where a redirect leads, in its own spelling
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    # The connection comes and goes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, TLS included."""
        self._transport = cast(asyncio.Transport, transport)  # aiofastnet's is one in all but its base class
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._deadlines.watched.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The upstream closed, or we did."""
        self._deadlines.watched.discard(self)
        self._parser = None
        receiver, self._receiver = self._receiver, None
        self._on_lost(self)
        if receiver is None:
            return
        if self._begun and error is None and ends_with_connection(self._head):
            receiver.ended()
        else:
            receiver.failed(
                UpstreamFailure(CLOSED, "the upstream closed the connection before its answer was complete")
            )

    def eof_received(self) -> bool:
        """Close; `connection_lost` decides what it means."""
        return False

    # A request goes out, an answer comes in

    def is_quiet(self) -> bool:
        """May an idle connection be used? Not where it has been closed, or has something to say that nobody asked for.

        That takes a look into the kernel's buffer: such bytes, and a request that would take them for its answer, can
        become ready in the same turn of the loop.
        """
        return self._transport is not None and not self._transport.is_closing() and not self._poll.poll(0)

    def send(self, data: bytes, receiver: Receiver) -> None:
        """Send one whole request; its answer goes to the receiver."""
        assert self._transport is not None
        self._receiver = receiver
        self._final = self._begun = self._complete = self.responding = False
        self._head = b""
        self.deadline = NEVER
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Feed llhttp, then hand over what this read brought in one piece."""
        receiver, parser = self._receiver, self._parser
        if receiver is None or parser is None:
            self.close()  # bytes that nobody asked for: the connection cannot be trusted any more
            return
        failure: UpstreamFailure | None = None
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            failure = UpstreamFailure(BROKEN, f"the upstream's answer is not valid HTTP/1.1 ({error})")
        if not self._begun:
            self.responding = True
            failure = self._take_head(data) or failure
        parts = self._body
        if parts and self._receiver is receiver:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            receiver.received(body)
        if failure is not None or self._complete:
            self._finish(failure)

    def _take_head(self, data: bytes) -> UpstreamFailure | None:
        """Keep the head's bytes; once it is whole, tell the receiver."""
        head = self._head = self._head + data if self._head else data
        if not self._final:
            return UpstreamFailure(BROKEN, "the upstream's head is too large") if len(head) > HEAD_LIMIT else None
        while head.startswith(b"HTTP/1.1 1"):
            head = head[head.index(b"\r\n\r\n") + 4 :]
        written = head[: head.index(b"\r\n\r\n") + 2]
        head = self._head = written.lower()
        if self._status in REDIRECTS:
            self.location = find_header(head, b"location", written)
        if len(head) > HEAD_LIMIT:
            return UpstreamFailure(BROKEN, "the upstream's head is too large")
        assert self._receiver is not None
        self._begun = True
        if head.find(b"\r\nkeep-alive:") >= 0:
            self.idle_limit = keep_alive_seconds(find_header(head, b"keep-alive"))
        self._receiver.begun(self._status, head)
        return None

    def _finish(self, failure: UpstreamFailure | None) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return  # it has given up meanwhile, and closed the connection
        # After an early answer the rest of our request is still unread: such a connection is not used again.
        transport = self._transport
        assert transport is not None
        may_stay = failure is None and self._stays and not transport.is_closing()
        if may_stay and transport.get_write_buffer_size() == 0:
            self.answers += 1
            self._on_free(self)
        else:
            self.close()
        if failure is None:
            receiver.ended()
        else:
            receiver.failed(failure)

    def on_headers_complete(self) -> None:
        """llhttp: a head is in; an informational one (1xx) is skipped, one after the end of the answer is garbage."""
        assert self._parser is not None
        if self._complete:
            raise ValueError("bytes after the end of the answer")
        parser = self._parser
        status = self._status = parser.get_status_code()
        if status == 101:
            raise ValueError("an upgrade that was not asked for")
        self._stays = parser.should_keep_alive()
        if not self._stays and parser.get_http_version() not in ("1.1", "1.0"):
            raise ValueError("not HTTP/1.1")  # other versions never keep alive, so this costs the usual answer nothing
        self._informal = status < 200
        self._final = not self._informal

    def on_message_complete(self) -> None:
        """llhttp: the response is whole."""
        if not self._informal:
            self._complete = True
        self._informal = False

    # Flow and ends

    def pause_reading(self) -> None:
        """The client reads slowly: leave the upstream's bytes in the kernel."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if self._paused and self._transport is not None:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def abandon(self) -> None:
        """The receiver wants no more of this answer, and nobody else can use the connection."""
        self._receiver = None
        self.close()

    def let_end(self) -> None:
        """The receiver has all it wants: a moment for the answer's last bytes, so that the connection can be kept."""
        if self._receiver is not None:
            self._receiver = NOBODY
            self.resume_reading()
            self.deadline = self._deadlines.now + LET_END

    def close(self) -> None:
        """Drop the connection at once: what is unsent or unread is of no use to anybody."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """Idle for too long, or never ending."""
        self.close()


def find_header(head: bytes, name: bytes, written: bytes = b"") -> bytes:
    """The first value of a header in a lower-case head that llhttp has accepted; empty where there is none.

    `written` is the same head as it came: then the value has its own case.
    """
    at = head.find(b"\r\n%b:" % name)
    if at < 0:
        return b""
    start = at + len(name) + 3
    return (written or head)[start : head.index(b"\r\n", start)].strip()


def ends_with_connection(head: bytes) -> bool:
    """Neither a length nor chunks: the body ends where the connection does (RFC 9112 §6.3)."""
    return head.find(b"\r\ncontent-length:") < 0 and head.find(b"\r\ntransfer-encoding:") < 0


def keep_alive_seconds(value: bytes) -> float:
    """`timeout` of a Keep-Alive header ("timeout=5, max=100"), less a second's margin; NEVER where there is none."""
    for part in value.split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.lower() == b"timeout" and number.isdigit():
            return max(float(number) - 1.0, 0.0)
    return NEVER

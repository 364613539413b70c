"""One request and its answer, as the application behind a server sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from waypost.errors import Refusal
from waypost.http.head import Head
from waypost.http.message import status_line

if TYPE_CHECKING:
    from waypost.http.server import Connection


class Flow(Protocol):
    """Where a response's bytes come from, so that a slow reader can slow it down."""

    def pause_reading(self) -> None:
        """Stop sending."""

    def resume_reading(self) -> None:
        """Go on."""


def render_chunk(data: bytes) -> bytes:
    """One chunk of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def parse_chunks(framed: bytes) -> list[bytes]:
    """What `render_chunk` made, one after the other, taken apart."""
    parts, at = [], 0
    while at < len(framed):
        start = framed.index(b"\r\n", at) + 2
        end = start + int(framed[at : start - 2], 16)
        parts.append(framed[start:end])
        at = end + 2
    return parts


class Outlet(Protocol):
    """What an answer goes into: an `Exchange`, or who stands in front of one."""

    flow: Flow | None

    @property
    def started(self) -> bool:
        """The answer's status line is decided."""

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """The whole answer."""

    def start(self, status: int, headers: bytes) -> None:
        """Decide status and headers of a streamed answer."""

    def write(self, data: bytes) -> None:
        """Part of it."""

    def end(self, data: bytes = b"") -> None:
        """The last part of it."""


class Exchange:
    """One request and its answer. After the answer's end, or once the client is gone, every call is a no-op."""

    # What many never change stands on the class.
    body = b""
    keep_alive = True
    started = False  # the answer's status line is decided
    flow: Flow | None = None
    on_gone: Callable[[], object] | None = None  # called once if the client leaves before the end
    _chunked = False
    _lines = b""  # the head of a streamed answer, until it leaves with its first bytes

    def __init__(self, connection: Connection, head: Head, arrived: float) -> None:
        """`head` is the request's; `arrived` when it was in, by the server's clock."""
        self._connection: Connection | None = connection
        self.head = head
        self.method = head.method
        self.path = head.path  # as sent, without the query
        self.arrived = arrived

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """The whole answer in one write. `headers` are complete lines, without Content-Length."""
        connection = self._connection
        if connection is None or self.started:
            return
        self.started = True
        lines = connection.closing_lines(self)
        sent = body if self.method != "HEAD" else b""
        connection.write(b"%b%bcontent-length: %d\r\n%b%b" % (status_line(status), headers, len(body), lines, sent))
        self._over(connection)

    def start(self, status: int, headers: bytes) -> None:
        """Decide status and headers of a streamed answer; they leave with its first bytes."""
        connection = self._connection
        if connection is None or self.started:
            return
        self.started = True
        self._chunked = not self.head.old
        if not self._chunked:
            self.keep_alive = False  # HTTP/1.0: the body ends where the connection ends
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._lines = b"%b%b%b%b" % (status_line(status), headers, framing, connection.closing_lines(self))

    def write(self, data: bytes) -> None:
        """Part of a streamed answer (not empty), as one chunk."""
        connection = self._connection
        if connection is None:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._lines:
            data, self._lines = self._lines + data, b""
        connection.write(data)

    def end(self, data: bytes = b"") -> None:
        """The last part of a streamed answer."""
        connection = self._connection
        if connection is None:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        connection.write(self._lines + data)
        self._over(connection)

    def end_in_parts(self, parts: Sequence[bytes]) -> None:
        """All that is left of a streamed answer (no part is empty): a chunk each, in one write."""
        self.end_framed(b"".join(map(render_chunk, parts[:-1])), parts[-1])

    def end_framed(self, framed: bytes, last: bytes) -> None:
        """The same, where all parts but the last (which is not empty) are chunks already."""
        connection = self._connection
        if connection is None:
            return
        if self._chunked:
            connection.write(b"%b%b%x\r\n%b\r\n0\r\n\r\n" % (self._lines, framed, len(last), last))
        else:
            connection.write(b"".join((self._lines, *parse_chunks(framed), last)))
        self._over(connection)

    def _over(self, connection: Connection) -> None:
        self._connection = self.flow = self.on_gone = None
        connection.finished(self.keep_alive)

    @property
    def is_gone(self) -> bool:
        """Nobody hears what is still to be said."""
        return self._connection is None

    @property
    def is_blocked(self) -> bool:
        """The client has yet to take what it was sent."""
        return self._connection is not None and self._connection.blocked

    @property
    def address(self) -> str:
        """The caller's network address; empty where there is none, or no caller any more."""
        return self._connection.address if self._connection is not None else ""

    def broke(self, why: Refusal, *, is_killed: bool = False) -> None:
        """What is said next is an error (or, for a stream that was killed, its end): of interest to those who share."""

    def cut(self) -> None:
        """The client is gone: forget the connection and tell whoever is answering."""
        on_gone = self.on_gone
        self._connection = self.flow = self.on_gone = None
        if on_gone is not None:
            on_gone()

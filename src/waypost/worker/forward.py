"""Requests that the keeper answers: passed on to its HTTP socket, with a head made anew.

Of the caller's head only the query and the content type go on; who is calling is said by this worker alone. The path is
made of the route's own and of a segment that has been checked, so both sides take it for the same.
"""

from __future__ import annotations

import asyncio
import base64
import pathlib
from typing import TYPE_CHECKING

import msgspec

from waypost.api.endpoints import Endpoint
from waypost.errors import BY_CODE, Refusal
from waypost.http.client import BROKEN, BUSY, CLOSED, TIMEOUT, ClientConnection, UpstreamFailure, find_header
from waypost.http.exchange import Exchange
from waypost.http.head import Head
from waypost.http.pool import Names, Pool, Target
from waypost.http.timers import NEVER, Deadlines
from waypost.link import http_socket_path
from waypost.messages import Identity
from waypost.worker.answers import cors_lines, refuse
from waypost.worker.walk import Signal

if TYPE_CHECKING:
    from waypost.worker.app import Worker

CONNECT_SECONDS = 2.0
TOTAL_SECONDS = 10.0
ANSWER_LIMIT = 16 * 1024 * 1024  # bytes
CONNECTIONS = 32  # of one worker to the keeper


class Answer(msgspec.Struct, frozen=True):
    """The keeper's, whole. `head` is in lower case."""

    status: int
    head: bytes
    body: bytes


class ErrorBody(msgspec.Struct, frozen=True):
    """What the keeper says of an error: the part of the envelope that is not in the error table."""

    message: str
    param: str | None = None


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """OpenAI's envelope."""

    error: ErrorBody


def keeper_pool(data: pathlib.Path, deadlines: Deadlines, names: Names) -> Pool:
    """The connections to the keeper's HTTP socket in the data folder."""
    path = str(http_socket_path(data))
    return Pool(Target("keeper", 80, unix=path, connections=CONNECTIONS), deadlines, names)


class Fetch:
    """One request to the keeper: collects the whole answer within a deadline."""

    def __init__(
        self, pool: Pool, deadlines: Deadlines, request: bytes, may_repeat: bool, seconds: float = TOTAL_SECONDS
    ) -> None:
        """`may_repeat`: to ask twice does no harm, where a kept connection turns out to be dead."""
        self._pool = pool
        self._deadlines = deadlines
        self._request = request
        self._may_repeat = may_repeat
        self._seconds = seconds
        self._connection: ClientConnection | None = None
        self._connecting: asyncio.Future[ClientConnection] | None = None
        self._status = 0
        self._head = b""
        self._parts: list[bytes] = []
        self._size = 0
        self._over: Signal[Answer | UpstreamFailure] = Signal()
        self.deadline = NEVER

    def run(self) -> Signal[Answer | UpstreamFailure]:
        """Begin; await what this returns, then `close`."""
        self.deadline = self._deadlines.now + self._seconds
        self._deadlines.watched.add(self)
        connection = self._pool.take()
        if connection is not None:
            self._send(connection)
        else:
            self._connect()
        return self._over

    def close(self) -> None:
        """Over, whether or not there is an answer."""
        self._deadlines.watched.discard(self)
        self._over.is_set = True
        if self._connection is not None:
            self._connection.abandon()
        if self._connecting is not None:
            self._connecting.cancel()

    def _connect(self) -> None:
        self._connecting = asyncio.ensure_future(self._pool.connect(CONNECT_SECONDS))
        self._connecting.add_done_callback(self._connected)

    def _connected(self, connecting: asyncio.Future[ClientConnection]) -> None:
        if connecting.cancelled():
            return
        failure = connecting.exception()
        if failure is None and self._over.is_set:
            connecting.result().close()
        elif failure is None:
            self._send(connecting.result())
        else:
            self._over.set(failure if isinstance(failure, UpstreamFailure) else UpstreamFailure(BROKEN, str(failure)))

    def _send(self, connection: ClientConnection) -> None:
        self._connection = connection
        connection.send(self._request, self)

    # The answer comes in

    def begun(self, status: int, head: bytes) -> None:
        """The keeper's head."""
        self._status = status
        self._head = head

    def received(self, data: bytes) -> None:
        """Part of its body."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > ANSWER_LIMIT:
            self._give_up(UpstreamFailure(BROKEN, f"the answer is larger than {ANSWER_LIMIT} bytes"))

    def ended(self) -> None:
        """It is whole."""
        self._connection = None
        self._over.set(Answer(self._status, self._head, b"".join(self._parts)))

    def failed(self, failure: UpstreamFailure) -> None:
        """No (more) answer."""
        connection, self._connection = self._connection, None
        was_kept = connection is not None and connection.answers and not connection.responding
        if failure.kind == CLOSED and was_kept and self._may_repeat and not self._over.is_set:
            self._connect()
        else:
            self._over.set(failure)

    def expire(self) -> None:
        """The keeper takes too long."""
        self._give_up(UpstreamFailure(TIMEOUT, f"no answer within {self._seconds:g} s"))

    def _give_up(self, failure: UpstreamFailure) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self._over.set(failure)


async def forward(worker: Worker, exchange: Exchange, endpoint: Endpoint, identity: Identity | None) -> None:
    """Let the keeper answer. `identity` has been found, and may call this. Raises Refusal."""
    if len(exchange.body) > endpoint.most:
        raise Refusal("BODY_TOO_LARGE", f"This endpoint takes at most {endpoint.most} bytes.")
    request_id = worker.mint()
    request = render_request(exchange, endpoint, identity, request_id)
    fetch = Fetch(worker.keeper, worker.deadlines, request, may_repeat=endpoint.method == "GET")
    try:
        answer = await fetch.run()
    finally:
        fetch.close()
    if isinstance(answer, UpstreamFailure):
        code = "OVERLOADED" if answer.kind == BUSY else "UNAVAILABLE"
        refusal = Refusal(code, f"The keeper cannot be asked: {answer.message}. Try again.", retry_after=1)
        refuse(worker, exchange, refusal, request_id)
    elif answer.status >= 400:
        refuse(worker, exchange, parse_refusal(answer), request_id)
    else:
        lines = b"content-type: %b\r\nx-request-id: %b\r\n" % (find_header(answer.head, b"content-type"), request_id)
        if identity is not None:
            lines += b"cache-control: no-store\r\n"
        exchange.respond(answer.status, lines + cors_lines(worker.origins, exchange), answer.body)


def render_request(exchange: Exchange, endpoint: Endpoint, identity: Identity | None, request_id: bytes) -> bytes:
    """The request for the keeper."""
    path = endpoint.prefix.encode()
    if endpoint.parameter:
        path += exchange.path.rstrip(b"/")[len(path) :]
    query = query_of(exchange.head)
    lines = [b"%b %b%b HTTP/1.1" % (endpoint.method.encode(), path, b"?" + query if query else b"")]
    lines += [b"host: keeper", b"x-waypost-request: %b" % request_id]
    if identity is not None:
        lines.append(b"x-waypost-caller: %b" % base64.b64encode(msgspec.msgpack.encode(identity)))
    content_type = exchange.head.get_all(b"content-type").strip()
    if content_type:
        lines.append(b"content-type: %b" % content_type[:200])
    lines.append(b"content-length: %d" % len(exchange.body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + exchange.body


def query_of(head: Head) -> bytes:
    """What stands behind the `?` of a request's target; empty where there is none."""
    target = head.raw[: head.raw.index(b"\r\n")].split(b" ")[1]
    return target.partition(b"#")[0].partition(b"?")[2]


def parse_refusal(answer: Answer) -> Refusal:
    """The keeper's error, to be worded as this worker's own are."""
    code = find_header(answer.head, b"x-error-code").decode("latin-1").upper()
    retry_after = find_header(answer.head, b"retry-after")
    try:
        error = msgspec.json.decode(answer.body, type=ErrorEnvelope).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        error = ErrorBody("")
    if code not in BY_CODE or not error.message:
        return Refusal("INTERNAL_ERROR", "Waypost failed; its log has this id.")
    seconds = int(retry_after) if retry_after.isdigit() else None
    return Refusal(code, error.message, param=error.param, status=answer.status, retry_after=seconds)

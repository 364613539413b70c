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
from waypost.http.call import Reply, call
from waypost.http.client import BUSY, UpstreamFailure, find_header
from waypost.http.exchange import Exchange
from waypost.http.head import Head
from waypost.http.pool import Names, Pool, Target
from waypost.http.timers import Deadlines
from waypost.link import http_socket_path
from waypost.messages import Identity
from waypost.worker.answers import cors_lines, refuse

if TYPE_CHECKING:
    from waypost.worker.app import Worker

CONNECT_SECONDS = 2.0
TOTAL_SECONDS = 10.0
ANSWER_LIMIT = 16 * 1024 * 1024  # bytes
CONNECTIONS = 32  # of one worker to the keeper


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


async def ask_keeper(pool: Pool, request: bytes, *, may_repeat: bool, seconds: float = TOTAL_SECONDS) -> Reply:
    """The keeper's whole answer. Raises UpstreamFailure."""
    asked = call(pool, request, limit=ANSWER_LIMIT, connect=CONNECT_SECONDS, total=seconds, may_repeat=may_repeat)
    return await asyncio.ensure_future(asked)  # a task, since it has deadlines of its own


async def forward(worker: Worker, exchange: Exchange, endpoint: Endpoint, identity: Identity | None) -> None:
    """Let the keeper answer. `identity` has been found, and may call this. Raises Refusal."""
    if len(exchange.body) > endpoint.most:
        raise Refusal("BODY_TOO_LARGE", f"This endpoint takes at most {endpoint.most} bytes.")
    request_id = worker.mint()
    request = render_request(exchange, endpoint, identity, request_id)
    try:
        answer = await ask_keeper(worker.keeper, request, may_repeat=endpoint.method == "GET")
    except UpstreamFailure as failure:
        code = "OVERLOADED" if failure.kind == BUSY else "UNAVAILABLE"
        refusal = Refusal(code, f"The keeper cannot be asked: {failure.message}. Try again.", retry_after=1)
        refuse(worker, exchange, refusal, request_id)
        return
    if answer.status >= 400:
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


def parse_refusal(answer: Reply) -> Refusal:
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

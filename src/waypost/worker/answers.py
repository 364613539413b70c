"""The heads and errors that leave a worker: one place that knows error formats, CORS and request ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from waypost.errors import Refusal
from waypost.formats.openai_chat import ChatRequest
from waypost.http.exchange import Exchange
from waypost.worker.relay import DONE, render_error
from waypost.worker.upstreams import Upstream

if TYPE_CHECKING:
    from waypost.worker.app import Worker

JSON = b"content-type: application/json\r\n"
TEXT = b"content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\n"
EVENTS = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
LONGEST_NAME = 100  # characters
EXPOSED = (
    b"x-request-id, x-error-code, x-provider, x-attempts, x-dropped-params, retry-after, x-should-retry, "
    b"x-waypost-history, "
    b"idempotency-replayed, "
    b"x-waypost-cache-status, x-waypost-cache-age, x-waypost-cache-ttl, x-waypost-cache-source-id, "
    + b", ".join(
        b"x-ratelimit-%b-%b" % (what, window)
        for window in (b"minute", b"hour", b"day", b"month")
        for what in (b"limit", b"remaining", b"reset")
    )
)


def success_headers(
    worker: Worker,
    exchange: Exchange,
    request: ChatRequest,
    upstream: Upstream,
    request_id: bytes,
    attempts: int,
    dropped: tuple[str, ...] = (),
) -> bytes:
    """The head lines of a good answer. `dropped`: fields that this upstream was not told."""
    provider = upstream.first_header if attempts == 1 else b"%bx-attempts: %d\r\n" % (upstream.header, attempts)
    lines = b"%bx-request-id: %b\r\n%b" % (EVENTS if request.stream else JSON, request_id, provider)
    if request.ignored or dropped:
        lines += dropped_line(request.ignored + dropped)
    if request.left_out is not None:
        lines += history_line(request)
    return lines + cors_lines(worker.origins, exchange) if worker.origins else lines


def history_line(request: ChatRequest) -> bytes:
    """The header that says what was left out of a conversation; nothing where nothing was."""
    left_out = request.left_out
    return b"x-waypost-history: dropped %d of %d messages\r\n" % (left_out.messages, left_out.of) if left_out else b""


def with_history(refusal: Refusal, request: ChatRequest) -> Refusal:
    """An error that says the same."""
    refusal.lines += history_line(request)
    return refusal


def dropped_line(names: tuple[str, ...]) -> bytes:
    """The header that names fields nobody was told."""
    return b"x-dropped-params: %b\r\n" % ", ".join(filter(is_name, dict.fromkeys(names))).encode()


def is_name(field: str) -> bool:
    """May a caller's field stand in a header as it is? What is no name of a parameter is not listed."""
    return field.isascii() and field.isprintable() and "," not in field and len(field) <= LONGEST_NAME


def cors_lines(origins: frozenset[bytes], exchange: Exchange) -> bytes:
    """What a browser needs to see, where `server.cors` names its origin; nothing otherwise."""
    origin = exchange.head.get_all(b"origin").strip() if origins else b""
    if not origin or (origin not in origins and b"*" not in origins):
        return b""
    return b"access-control-allow-origin: %b\r\nvary: origin\r\naccess-control-expose-headers: %b\r\n" % (
        origin,
        EXPOSED,
    )


def refuse(worker: Worker, exchange: Exchange, refusal: Refusal, request_id: bytes) -> None:
    """End a request with an error: an HTTP error before the status line is decided, an error frame after it."""
    exchange.broke(refusal)
    if exchange.started:
        exchange.end(render_error(refusal.message, refusal.failure.code, refusal.metadata))
        return
    failure = refusal.failure
    lines = b"x-request-id: %b\r\nx-error-code: %b\r\n" % (request_id, failure.code.encode())
    if refusal.retry_after is not None:
        lines += b"retry-after: %d\r\n" % refusal.retry_after
    if failure.retry is not None:
        lines += b"x-should-retry: %b\r\n" % (b"true" if failure.retry else b"false")
    elif failure.chain and not worker.client_retries:
        lines += b"x-should-retry: false\r\n"
    if refusal.status == 401:
        lines += b"www-authenticate: Bearer\r\n"
    lines += refusal.lines + cors_lines(worker.origins, exchange)
    if wants_json(worker.error_format, exchange):
        exchange.respond(refusal.status, JSON + lines, refusal.envelope())
    else:
        exchange.respond(refusal.status, TEXT + lines, refusal.message.encode("utf-8", "replace") + b"\n")


def end_killed(worker: Worker, exchange: Exchange, request_id: bytes) -> None:
    """The caller's account has ended its streams: `data: [DONE]`, whatever had been said."""
    exchange.broke(Refusal("UNAVAILABLE", "The account has ended its streams."), is_killed=True)
    if not exchange.started:
        exchange.start(200, b"%bx-request-id: %b\r\n%b" % (EVENTS, request_id, cors_lines(worker.origins, exchange)))
    exchange.end(DONE)


def wants_json(error_format: str, exchange: Exchange) -> bool:
    """Contract D1: `auto` follows the request's Accept."""
    if error_format != "auto":
        return error_format == "json"
    return b"application/json" in exchange.head.get_all(b"accept")

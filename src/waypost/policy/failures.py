"""Every way an attempt at an upstream can go wrong, in one table, and what the router does about it.

Three questions are answered for each class of failure: whose fault is it (and so: who is left alone for a while), is
there a point in asking anybody else, and what is the caller told when nobody could answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Spares = Literal["request", "key", "target"]
Counts = Literal["failure", "limit", "dead", "nothing"]
Lane = tuple[str, str, str]
"""Provider, label of its key, and the provider's model: what an attempt goes to."""


class FailureClass(msgspec.Struct, frozen=True):
    """One row. `code` is the row of `errors.TABLE` that the request ends with when all of its attempts ended like this.

    `spares`: what is not asked again at once. "key": another key of the same target may fare better; "target": its
    other keys would meet the same; "request": everybody would, so the chain ends here and the caller is told.
    `again`: after a pause, the same key and target may be asked a second time, where nobody else is left.
    `counts`: what it means to the breaker of the provider's key and model. "failure": one towards opening; "limit":
    rest for as long as the upstream asked; "dead": open at once; "nothing": says nothing about the upstream's health.
    """

    name: str
    code: str
    spares: Spares
    again: bool
    counts: Counts
    meaning: str


TABLE: tuple[FailureClass, ...] = (
    # Nothing of an answer came
    FailureClass("connect", "PROVIDER_ERROR", "target", True, "failure", "no connection: refused, unreachable, unknown name"),
    FailureClass("tls", "PROVIDER_ERROR", "target", False, "failure", "the certificate or the handshake is bad: never without verification"),
    FailureClass("connect_timeout", "PROVIDER_TIMEOUT", "target", False, "failure", "no connection in time"),
    FailureClass("first_byte_timeout", "PROVIDER_TIMEOUT", "target", False, "failure", "silence after the request was sent"),
    FailureClass("closed", "PROVIDER_ERROR", "target", True, "failure", "the connection ended before an answer began"),
    # The answer did not become whole
    FailureClass("idle_timeout", "PROVIDER_TIMEOUT", "target", False, "failure", "silence inside of an answer"),
    FailureClass("total_timeout", "PROVIDER_TIMEOUT", "target", False, "failure", "the attempt's whole time is over"),
    FailureClass("truncated", "PROVIDER_ERROR", "target", False, "failure", "the answer ended without its end"),
    FailureClass("broken", "PROVIDER_ERROR", "target", False, "failure", "bytes that are not the answer they claim to be"),
    FailureClass("error_event", "PROVIDER_ERROR", "target", True, "failure", "an error inside of an answer with status 200"),
    FailureClass("crawling", "PROVIDER_TIMEOUT", "target", False, "failure", "slower than the throughput guard allows"),
    # Nothing could be asked
    FailureClass("unable", "INVALID_REQUEST", "target", False, "nothing", "the request needs what this model does not have; it was not asked"),
    FailureClass("token", "PROVIDER_ERROR", "key", False, "failure", "no access token could be fetched for our key"),
    # A status that says who is at fault
    FailureClass("server_error", "PROVIDER_ERROR", "target", True, "failure", "5xx and 408: the upstream's own trouble"),
    FailureClass("limited", "UPSTREAM_RATE_LIMITED", "key", True, "limit", "429: this key has used what it may"),
    FailureClass("credentials", "PROVIDER_ERROR", "key", False, "dead", "401, 402: our key is bad or has no money; not the caller's fault"),
    FailureClass("forbidden", "PROVIDER_ERROR", "key", False, "failure", "403: our key may not; some say it of one request's content, so one alone opens nothing"),
    FailureClass("misconfigured", "PROVIDER_ERROR", "target", False, "nothing", "404, 407, redirects: our address or model id is wrong"),
    FailureClass("content", "INVALID_REQUEST", "request", False, "nothing", "any other 4xx: the request's own fault, passed on with the upstream's words"),
    FailureClass("context_length", "CONTEXT_LENGTH_EXCEEDED", "request", False, "nothing", "the prompt is too long for the model; by option the chain goes on to a larger one"),
    # Not the upstream's doing
    FailureClass("busy", "OVERLOADED", "target", False, "nothing", "too many of our own requests wait for a connection"),
    FailureClass("deadline", "PROVIDER_TIMEOUT", "request", False, "nothing", "the request's own time is over; a failure of whoever had most of it"),
    FailureClass("gone", "UNAVAILABLE", "request", False, "nothing", "the caller left, or the worker is stopping"),
)  # fmt: skip

BY_NAME: dict[str, FailureClass] = {row.name: row for row in TABLE}

HEDGED = FailureClass("hedged", "HEDGED", "target", False, "nothing", "another attempt of the request answered first")
"""What became of an attempt that was given up for another. It is no failure, and no request ends with it."""

OUT_OF_TIME = "the time for the whole request is over"
"""What is said of "deadline"."""

CREDENTIALS = frozenset({401, 402})
MISCONFIGURED = frozenset({404, 407})


def class_of_status(status: int, *, context_length: bool = False) -> FailureClass:
    """An HTTP status that is not 200 → its class. `context_length`: the upstream said that the prompt is too long."""
    if status == 429:
        name = "limited"
    elif status in CREDENTIALS:
        name = "credentials"
    elif status == 403:
        name = "forbidden"
    elif status >= 500 or status == 408:
        name = "server_error"
    elif 400 <= status < 500 and status not in MISCONFIGURED:
        name = "context_length" if context_length else "content"
    else:
        name = "misconfigured"
    return BY_NAME[name]


class Failed(msgspec.Struct, frozen=True):
    """What is remembered of a failed attempt. `took` is in seconds; `status` is the upstream's, 0 if none came."""

    lane: Lane
    kind: FailureClass
    message: str = ""
    status: int = 0
    retry_after: float | None = None
    took: float = 0.0


class Ending(msgspec.Struct, frozen=True):
    """What the caller is told: a row of `errors.TABLE`, and when to come again (seconds), if anybody said so."""

    code: str
    retry_after: float | None = None


def ending(failures: Sequence[Failed]) -> Ending:
    """The end of a request that nobody answered: what is the request's own keeps its code, and so does what all share.

    Contract A3: 504 only if every attempt timed out or the request's time is over, 429 only if every one was limited,
    any mixture is 502. The caller may come again when the first of the limited upstreams allows it.
    """
    if not failures:
        return Ending("PROVIDER_ERROR")
    last = failures[-1].kind
    if last.spares == "request":
        return Ending(last.code)
    codes = {failure.kind.code for failure in failures}
    code = codes.pop() if len(codes) == 1 else "PROVIDER_ERROR"
    hints = [failure.retry_after for failure in failures if failure.retry_after is not None]
    return Ending(code, min(hints, default=None) if code in ("UPSTREAM_RATE_LIMITED", "OVERLOADED") else None)

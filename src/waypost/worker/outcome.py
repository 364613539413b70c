"""An attempt at an upstream: what the books see of it, how it ends, and what an answer that is no good one means."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

import msgspec

from waypost.formats.openai_chat import is_context_length
from waypost.http.client import find_header
from waypost.policy.failures import BY_NAME, FailureClass, class_of_status
from waypost.records import Usage
from waypost.worker.upstreams import Upstream, read_error

QUOTED = 300  # characters of an upstream's words in our own error
LONGEST_HINT = 1e9  # seconds of a Retry-After that are passed on: what is more is as good as never
find_number = re.compile(rb"[0-9]+(\.[0-9]*)?").fullmatch


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended. `kind` is the class of the failure, None for a whole answer.

    `committed`: part of the answer has reached the caller, so no other upstream may take over.
    `retry_after` is the upstream's own hint in seconds; `status` its status, 0 if none came; `param` the request's
    field that it complains about. `was_made` False: it ended before anything was asked of the upstream itself.
    """

    kind: FailureClass | None
    message: str = ""
    committed: bool = False
    status: int = 0
    param: str | None = None
    retry_after: int | None = None
    was_made: bool = True

    @property
    def code(self) -> str:
        """A row of the error table, or "" for a whole answer."""
        return self.kind.code if self.kind is not None else ""


ANSWERED = Outcome(None, committed=True)


class Heard(Protocol):
    """What has been heard of an answer so far."""

    usage: msgspec.Raw | None  # as the upstream gave it
    counted: Usage | None  # the same, understood; None where it is OpenAI's
    observed: int  # bytes of the model's words


class Page(Protocol):
    """Where it is written down that an answer begins, before its first byte leaves, and that it is whole."""

    def began_answer(self) -> None:
        """The first byte of an answer."""

    def answered(self) -> None:
        """The whole answer is about to leave."""


class Tried(Protocol):
    """One try at an upstream. `number` is which one of its request's, from 1; the request's `Entry` counts."""

    upstream: Upstream
    number: int

    @property
    def relay(self) -> Heard:
        """Who hears its answer."""

    @property
    def was_sent(self) -> bool:
        """The upstream has been asked, or is being asked."""


class Unanswered(Exception):
    """There is no answer from this upstream, or it was not even asked."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


def outcome_of_status(upstream: Upstream, status: int, head: bytes, body: bytes) -> Outcome:
    """What an upstream's error means; status 200: it sent JSON although a stream was asked for."""
    complaint = read_error(upstream, status, head, body)
    status, message = complaint.status, upstream.redact(complaint.message)
    if status == 200:
        said = message or "the upstream sent no stream although one was asked for"
        kind = BY_NAME["error_event" if message else "broken"]  # what never streams is not asked again
        return Outcome(kind, quoted(upstream, said), status=status)
    kind = class_of_status(status, context_length=is_context_length(message, complaint.code))
    if kind.spares == "request":
        message = message or f"The upstream refused the request (HTTP {status})."
        return Outcome(kind, message, status=status, param=complaint.param)
    said, hint = f"HTTP {status}", None
    if kind.counts == "dead" or kind.name == "forbidden":
        said = f"refused our credentials (HTTP {status})"
    elif status < 500:  # what a broken server says may name its files, hosts and other people's requests
        said += f": {quoted(upstream, message)}" if message else ""
    if status in (429, 503):
        hint = retry_after(head)
        if hint is None and complaint.retry_after is not None:
            hint = math.ceil(complaint.retry_after)
    return Outcome(kind, said, status=status, retry_after=hint)


def quoted(upstream: Upstream, text: str) -> str:
    """An upstream's words as part of a sentence of ours: one line, not long, and none of our keys."""
    return " ".join(upstream.redact(text).split())[:QUOTED]


def retry_after(head: bytes) -> int | None:
    """What a lower-case head asks for, in whole seconds, never less than it says; None where it says nothing.

    `Retry-After` is a number or an HTTP date (RFC 9110 §10.2.3), which counts from the answer's own Date, or from now
    where there is none; some write decimals. Azure says it more finely in `retry-after-ms`, which OpenAI's SDKs read
    first as well.
    """
    milliseconds, value = find_header(head, b"retry-after-ms"), find_header(head, b"retry-after")
    if find_number(milliseconds):
        return whole_seconds(float(milliseconds) / 1000)
    if find_number(value):
        return whole_seconds(float(value))
    try:
        date = parsedate_to_datetime(value.decode("latin-1"))
        written = find_header(head, b"date").decode("latin-1")
        since = parsedate_to_datetime(written) if written else datetime.now(UTC)
        return whole_seconds((date - since).total_seconds())
    except (ValueError, TypeError):
        return None


def whole_seconds(seconds: float) -> int:
    """Rounded up; what is over counts as no time, what never ends as a very long one."""
    return math.ceil(min(max(0.0, seconds), LONGEST_HINT))

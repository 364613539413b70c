"""The attempts of one request, as its trail leads them: each made, watched and told of, and the end put into words."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

import msgspec

from waypost.errors import Refusal
from waypost.formats.openai_chat import ChatRequest
from waypost.formats.usage import estimate_completion
from waypost.http.server import Exchange
from waypost.policy.chains import Plan
from waypost.policy.trail import Ticket, Trail
from waypost.worker.answers import success_headers
from waypost.worker.attempt import Attempt, Outcome
from waypost.worker.books import Entry
from waypost.worker.metadata import render_metadata
from waypost.worker.relay import Relay, Stamp, StreamRelay, WholeRelay
from waypost.worker.upstreams import Upstream
from waypost.worker.walk import Signal

if TYPE_CHECKING:
    from waypost.worker.app import Worker

log = logging.getLogger("waypost.serve")


class Tries:
    """What all attempts of a request share, and how the latest failed."""

    __slots__ = (
        "_deadline", "_entry", "_exchange", "_last", "_plan", "_request", "_request_id", "_stamp_id", "_trail",
        "_wants_metadata", "_worker",
    )  # fmt: skip

    def __init__(
        self,
        worker: Worker,
        exchange: Exchange,
        entry: Entry,
        request: ChatRequest,
        request_id: bytes,
        plan: Plan,
        trail: Trail,
        deadline: float,
    ) -> None:
        self._worker = worker
        self._exchange = exchange
        self._entry = entry
        self._request = request
        self._request_id = request_id
        self._plan = plan
        self._trail = trail
        self._deadline = deadline
        self._stamp_id = msgspec.Raw(b'"%b"' % request_id)
        self._wants_metadata = exchange.head.has(b"\r\nx-waypost-metadata: enabled")
        self._last: Outcome | None = None

    def attempt(self, ticket: Ticket) -> Attempt:
        """One attempt, ready to run, in the books."""
        worker, exchange, request, entry = self._worker, self._exchange, self._request, self._entry
        upstream: Upstream = ticket.candidate.upstream
        model = request.fields["model"]
        if ticket.name in self._plan.elsewhere:  # the caller named this model itself, and is told that it was this one
            model = msgspec.Raw(msgspec.json.encode(ticket.name))
        stamp = Stamp(
            self._stamp_id,
            model,
            upstream.name,
            self._latency_ms,
            entry.render_usage,
            request.wants_cost,
            self._metadata if self._wants_metadata else None,
        )
        relay: Relay = StreamRelay(stamp, request.include_usage) if request.stream else WholeRelay(stamp)
        headers = success_headers(worker, exchange, request, upstream, self._request_id, entry.attempts + 1)
        attempt = Attempt(exchange, upstream, relay, headers, worker.keepalive, worker.deadlines, entry, self._deadline)
        entry.began(attempt)
        return attempt

    def succeeded(self, ticket: Ticket, attempt: Attempt) -> None:
        """A whole answer."""
        now = self._worker.clock()
        if self._request.stream:
            first_token = (attempt.first_token or now) - ticket.began
            self._trail.succeeded(ticket, now, first_token, estimate_completion(attempt.relay.observed))
        else:
            self._trail.succeeded(ticket, now, now - ticket.began)

    def failed(self, ticket: Ticket, outcome: Outcome) -> float:
        """No answer: seconds to wait for the next attempt, or `trail.NOWHERE`."""
        assert outcome.kind is not None
        now = self._worker.clock()
        self._entry.failed_attempt(outcome, int((now - ticket.began) * 1000))
        log.warning("%s %r: %s", self._request_id.decode(), ticket.candidate, outcome.message)
        self._last = outcome
        return self._trail.failed(
            ticket,
            outcome.kind,
            now,
            self._worker.dice,
            retry_after=outcome.retry_after,
            status=outcome.status,
            message=outcome.message,
            committed=outcome.committed,
        )

    @property
    def ending(self) -> Refusal:
        """What the caller is told when there is nobody left to ask."""
        last = self._last
        assert last is not None
        assert last.kind is not None
        if last.committed:
            refusal = Refusal(last.code, last.message)
        elif last.kind.name in ("content", "context_length"):
            refusal = Refusal(last.code, last.message, param=last.param, status=last.status)
        else:
            ending = self._trail.ending
            said = dict.fromkeys(f"{each.lane[0]}: {each.message}" for each in self._trail.failures)
            hint = math.ceil(ending.retry_after) if ending.retry_after is not None else None
            refusal = Refusal(ending.code, "; ".join(said), retry_after=hint)
        refusal.lines = b"x-attempts: %d\r\n" % self._entry.attempts
        if self._wants_metadata:
            refusal.metadata = bytes(self._metadata())
        return refusal

    def _latency_ms(self) -> int:
        return int((self._worker.clock() - self._exchange.arrived) * 1000)

    def _metadata(self) -> msgspec.Raw:
        return render_metadata(self._request.model, self._plan, self._trail, self._worker.clock())


async def pause(seconds: float) -> None:
    """Let some time pass, in a walk: without a task."""
    over: Signal[None] = Signal()
    timer = asyncio.get_running_loop().call_later(seconds, over.set, None)
    try:
        await over
    finally:
        timer.cancel()

"""The `waypost` object: how an answer, or an error, came about, for callers who send `X-Waypost-Metadata: enabled`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from waypost.formats.openai_chat import ChatRequest
from waypost.http.head import Head
from waypost.policy.chains import Plan
from waypost.policy.failures import HEDGED
from waypost.policy.trail import Ticket, Trail


def wants_metadata(head: Head) -> bool:
    """Does this caller want to know?"""
    return head.has_wishes and head.get_all(b"x-waypost-metadata").strip() == b"enabled"


class Metadata:
    """What renders the object at the moment when it is needed."""

    __slots__ = ("_clock", "_plan", "_request", "_ticket", "_trail")

    def __init__(
        self, request: ChatRequest, plan: Plan, trail: Trail, clock: Callable[[], float], ticket: Ticket | None = None
    ) -> None:
        """`ticket` is the attempt in whose answer the object stands; None: the earliest that is under way."""
        self._request = request
        self._plan = plan
        self._trail = trail
        self._clock = clock
        self._ticket = ticket

    def __call__(self) -> msgspec.Raw:
        """JSON."""
        return render_metadata(self._request, self._plan, self._trail, self._clock(), self._ticket)

    def of(self, ticket: Ticket) -> Metadata:
        """The same, in another attempt's answer."""
        return Metadata(self._request, self._plan, self._trail, self._clock, ticket)


def render_metadata(
    request: ChatRequest, plan: Plan, trail: Trail, now: float, answering: Ticket | None = None
) -> msgspec.Raw:
    """Requested name, the preset if it names one, what answers for it (null: nobody did), strategy, and every attempt.

    Of several attempts under way one answers (None: the earliest), the others are about to be given up. Times are in
    milliseconds.
    """
    attempts: list[dict[str, Any]] = [
        {
            "provider": failure.lane[0],
            "model": failure.lane[2],
            "status": failure.status,
            "error": failure.kind.name,
            "ms": round(failure.took * 1000),
        }
        for failure in trail.failures
    ]
    resolved = None
    under_way = [ticket for ticket in trail.tickets if not ticket.is_over]
    for ticket in under_way:
        provider, _, model = ticket.candidate.lane
        seen: dict[str, Any] = {"provider": provider, "model": model}
        if ticket is (answering or under_way[0]):
            resolved = f"{provider}/{model}"
            seen |= {"status": 200}
        else:
            seen |= {"status": 0, "error": HEDGED.name}
        attempts.append(seen | {"ms": round((now - ticket.began) * 1000)})
    preset = request.preset
    told: dict[str, Any] = {
        "requested": request.model if preset is None else preset.written,
        **({"preset": {"id": preset.id, "version": preset.version}} if preset is not None else {}),
        "resolved": resolved,
        "strategy": plan.strategy,
        "sticky": plan.sticky,
        "attempts": attempts,
    }
    if request.left_out is not None:
        told["history"] = {"dropped": request.left_out.messages, "messages": request.left_out.of}
    return msgspec.Raw(msgspec.json.encode(told))

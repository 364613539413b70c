"""The `waypost` object: how an answer, or an error, came about, for callers who send `X-Waypost-Metadata: enabled`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from waypost.formats.openai_chat import ChatRequest
from waypost.http.head import Head
from waypost.policy.chains import Plan
from waypost.policy.trail import Trail


def wants_metadata(head: Head) -> bool:
    """Does this caller want to know?"""
    return head.has_wishes and head.get_all(b"x-waypost-metadata").strip() == b"enabled"


def metadata_of(
    request: ChatRequest, plan: Plan, trail: Trail, clock: Callable[[], float]
) -> Callable[[], msgspec.Raw]:
    """What renders the object at the moment when it is needed."""
    return lambda: render_metadata(request, plan, trail, clock())


def render_metadata(request: ChatRequest, plan: Plan, trail: Trail, now: float) -> msgspec.Raw:
    """Requested name, the preset if it names one, what answers for it (null: nobody did), strategy, and every attempt.

    Times are in milliseconds.
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
    answering = [ticket for ticket in trail.tickets if not ticket.is_over]
    for ticket in answering:
        provider, _, model = ticket.candidate.lane
        resolved = f"{provider}/{model}"
        attempts.append({"provider": provider, "model": model, "status": 200, "ms": round((now - ticket.began) * 1000)})
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

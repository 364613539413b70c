"""What preflight and status give, as structs: the part of `shapes` that tells of routing."""

from __future__ import annotations

from typing import Literal

from waypost.api.shapes import ErrorBody, Shape, Time

# What would happen


class ShownCandidate(Shape, frozen=True):
    """Whom a request would go to. `key` is the number of a provider's key; costs are USD as decimal strings.

    `format` is what its provider speaks. `changed` and `dropped` are fields of the request that it is told otherwise,
    or not at all; where the format is not OpenAI's, everything is said otherwise.
    """

    provider: str
    key: str
    model: str
    format: str
    changed: list[str]
    dropped: list[str]
    breaker: Literal["closed", "open", "resting"]
    latency_ms: int | None
    worst_case_cost: str | None


class DroppedCandidate(Shape, frozen=True):
    """Who is left out, and why."""

    provider: str
    key: str
    model: str
    reason: str
    detail: str


class ParameterChanges(Shape, frozen=True):
    """Fields of the body that do not go on as they came, whoever answers."""

    changed: list[str]
    dropped: list[str]
    obeyed_here: list[str]


class MeterView(Shape, frozen=True):
    """One limit: what is left of it (null: this worker has not asked yet), and what the request would take."""

    what: Literal["requests", "tokens", "money", "streams"]
    window: str
    limit: int
    left: int | None
    need: int


class Verdict(Shape, frozen=True):
    """Would the limits admit it? null: not known before it is tried."""

    admitted: bool | None
    code: str | None
    message: str | None
    meters: list[MeterView]


class Preflight(Shape, frozen=True):
    """`POST /v1/preflight`. `error` is what the request would end with because nobody fits it; `forced`: all rest.

    `model` is what it asks for, `preset` the slug or id of the preset that it uses.
    """

    model: str
    preset: str | None
    resolved: str
    strategy: str
    sticky: bool
    forced: bool
    candidates: list[ShownCandidate]
    dropped: list[DroppedCandidate]
    parameters: ParameterChanges
    messages_left_out: int
    estimated_input_tokens: int
    max_output_tokens: int
    worst_case_cost: str | None
    error: ErrorBody | None
    limits: Verdict


# Health

Condition = Literal["healthy", "degraded", "unknown"]


class ProviderStatus(Shape, frozen=True):
    """A provider; `latency_ms` is its recent time to the first token."""

    name: str
    status: Condition
    latency_ms: int | None


class ModelStatus(Shape, frozen=True):
    """A configured model; `tier` is the first plan that has it."""

    id: str
    name: str
    tier: str | None
    status: Condition


class Incident(Shape, frozen=True):
    """An upstream that was, or is, left alone because it failed again and again."""

    id: str
    title: str
    description: str
    severity: Literal["minor"]
    status: Literal["investigating", "resolved"]
    created_at: Time
    resolved_at: Time | None


class Status(Shape, frozen=True):
    """`GET /v1/status`: of the worker that answers, and of what it heard from the others of its host."""

    providers: list[ProviderStatus]
    models: list[ModelStatus]
    incidents: list[Incident]
    last_updated: Time

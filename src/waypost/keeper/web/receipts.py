"""One request's receipt: what came, what was asked of whom, what it used, and how its cost comes about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from waypost.api import shapes
from waypost.keeper.web.queries import AnyRow
from waypost.keeper.web.sources import iso, maybe_usd
from waypost.pricing import formula, parse_terms
from waypost.records import Usage

CANCELLED = ("CLIENT_GONE", "STREAM_KILLED")
_id = re.compile(r"(?:chatcmpl_)?([0-9A-HJKMNP-TV-Z]{26})").fullmatch


def parse_request_id(text: str) -> str:
    """An answer's id, or an `X-Request-Id` → the 26 characters that the books know; "" where it is neither."""
    match = _id(text)
    return match[1] if match is not None else ""


def maybe_source(id: str | None) -> str | None:
    """The id of the request whose answer was given again; None where it was not."""
    return f"chatcmpl_{id}" if id else None


def receipt(row: AnyRow, attempts: Sequence[AnyRow]) -> shapes.Receipt:
    """A row of `requests` with the `terms` of its price, and its rows of `attempts`."""
    is_open = row.status is None
    usage = None if is_open or row.usage is None else msgspec.msgpack.decode(row.usage, type=Usage)
    terms = None if row.terms is None else parse_json(row.terms)
    return shapes.Receipt(
        id=f"chatcmpl_{row.id}",
        model=row.model,
        created_at=iso(row.at / 1000),
        streamed=row.stream,
        source_id=maybe_source(row.source),
        cancelled=row.code in CANCELLED,
        status=row.status,
        error_code=row.code or None,
        provider_name=row.provider or None,
        upstream_model=row.upstream_model or None,
        latency=row.latency,
        first_token=row.first_token,
        counted_requests=row.requests,
        estimated=row.estimated,
        tokens_prompt=None if usage is None else usage.prompt,
        tokens_completion=None if usage is None else usage.completion,
        usage=None if usage is None else shapes.NormalUsage(**msgspec.structs.asdict(usage)),
        raw_usage=parse_json(row.raw) if row.raw else None,
        price=shapes.PriceTerms(row.price, terms) if row.price else None,
        formula=None if usage is None or row.terms is None else render_formula(row.terms, usage),
        total_cost=maybe_usd(row.cost),
        cache_savings=maybe_usd(row.saved),
        attempts=row.attempts,
        failed_attempts=[failed_attempt(attempt) for attempt in attempts],
    )


def render_formula(terms: bytes, usage: Usage) -> list[shapes.ChargedItem] | None:
    """The lines of the bill, by the price as it was; None where it cannot be read any more."""
    try:
        charges = formula(parse_terms(terms), usage)
    except (ValueError, msgspec.MsgspecError):
        return None
    return [shapes.ChargedItem(charge.counter, charge.count, charge.rate, charge.amount) for charge in charges]


def failed_attempt(row: AnyRow) -> shapes.FailedAttempt:
    """A row of `attempts`."""
    return shapes.FailedAttempt(
        row.number, iso(row.at / 1000), row.provider, row.model, row.code, row.status, row.milliseconds
    )


def parse_json(data: bytes) -> Any:
    """What was written down as JSON; as text where it was cut short."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode("utf-8", "replace")

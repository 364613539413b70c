"""What would happen to a request, at no cost: whom it would go to, who is left out and why, what it might cost.

`POST /v1/preflight` asks by a caller's key, `waypost explain` by an operator's command; both ask the planner that
carries the traffic, and change nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from waypost.api import routing_shapes as shapes
from waypost.api.shapes import ErrorBody
from waypost.dollars import render_dollars
from waypost.errors import Refusal
from waypost.formats.openai_chat import ChatRequest, decode_text, parse_request
from waypost.formats.usage import estimate_tokens
from waypost.http.exchange import Exchange
from waypost.messages import Identity
from waypost.policy.admission import OUTPUT_RESERVE, Meter, What, refusal_of
from waypost.policy.chains import Candidate, Plan
from waypost.policy.routing import plan
from waypost.policy.routing import refusal as nobody
from waypost.policy.stickiness import Conversation
from waypost.pricing import reserve
from waypost.worker.books import Books
from waypost.worker.history import fitted
from waypost.worker.presets import expand
from waypost.worker.rehearsal import Rehearsal, Rehearsed, rehearse
from waypost.worker.resolve import Resolved, needs, resolve
from waypost.worker.thinking import has_own_word, with_effort
from waypost.worker.upstreams import Upstream

if TYPE_CHECKING:
    from waypost.worker.app import Worker

GATEWAYS_OWN = ("provider", "models", "session_id", "usage", "plugins")  # obeyed here, and never sent on


async def preflight(worker: Worker, exchange: Exchange, identity: Identity) -> shapes.Preflight:
    """Raises Refusal as the request itself would, up to where its limits are looked at."""
    request = await expand(worker.presets, worker.snapshot, identity, parse_request(exchange.body))
    found = await resolve(worker, worker.snapshot, identity, request)
    conversation = Conversation(identity.account, request.fields, exchange.head.get_all)
    request = fitted(exchange.head, request, found.route)
    chosen = choose(found, request, request.body, conversation, worker.clock())
    tokens, output = estimate_tokens(request.body), (request.max_output or OUTPUT_RESERVE) * request.choices
    cost = worst_cost(found.upstreams, tokens, output)
    limits = judge(worker.books, identity, found, request, tokens, output)
    requires = found.asked.preferences.require_parameters
    account = identity.account_id
    spoken = with_effort(request, found.effort)
    rehearsal = rehearse(chosen.candidates, spoken, requires, lambda chat: worker.vault.complete(account, chat))
    return describe(request, found, chosen, rehearsal, worker.clock(), (tokens, output, cost), limits)


def choose(found: Resolved, request: ChatRequest, body: bytes, conversation: Conversation, now: float) -> Plan:
    """The plan, by dice of its own."""
    chain = found.route.chain
    return plan(chain, needs(chain, found.asked, body, request.fields["messages"]), conversation, now, random.random)


def worst_cost(upstreams: Sequence[Upstream], prompt: int, completion: int) -> int | None:
    """Nano-dollars that the request costs at most, whoever of these answers; None where a price is not known."""
    costs = [
        reserve(upstream.price, prompt, completion) if upstream.price is not None else None for upstream in upstreams
    ]
    known = [cost for cost in costs if cost is not None]
    return max(known) if len(known) == len(costs) else None


def judge(
    books: Books, identity: Identity, found: Resolved, request: ChatRequest, tokens: int, output: int
) -> shapes.Verdict:
    """Would the limits admit it now? Nothing is taken. What this worker has not heard of a meter is null."""
    try:
        purse = books.purse(identity, found.free)
        cost = books.most(identity, found.upstreams, tokens, output) if purse.money else 0
    except Refusal as refusal:
        return shapes.Verdict(False, refusal.failure.code, refusal.message, [])
    meters = [(meter, lease.remaining + lease.units if lease.granted_at else None) for meter, lease in purse.leases]
    return verdict(meters, {"streams": int(request.stream), "tokens": tokens + output, "money": cost}, books.wall())


def verdict(meters: Sequence[tuple[Meter, int | None]], amounts: Mapping[What, int], now: float) -> shapes.Verdict:
    """What meters, each with the units left of it (None: not known), say to a request that wants these `amounts`."""
    views = []
    refused: Refusal | None = None
    for meter, left in meters:
        need = amounts.get(meter.what, 1)
        views.append(shapes.MeterView(meter.what, meter.window, meter.limit, left, need))
        if need > meter.limit or (left is not None and need > left):
            refused = refused or refusal_of(meter, need, min(meter.limit, left or 0), now)
    if refused is not None:
        return shapes.Verdict(False, refused.failure.code, refused.message, views)
    return shapes.Verdict(None if any(left is None for _, left in meters) else True, None, None, views)


def describe(
    request: ChatRequest,
    found: Resolved,
    chosen: Plan,
    rehearsal: Rehearsal,
    now: float,
    amounts: tuple[int, int, int | None],
    limits: shapes.Verdict,
) -> shapes.Preflight:
    """All of it, as it is shown."""
    tokens, output, cost = amounts
    fields = request.fields
    reasoning = ["reasoning_effort"] if found.effort and not has_own_word(fields) else []
    verdict = nobody(chosen) if not chosen.candidates else rehearsal.refusal
    return shapes.Preflight(
        model=request.model,
        preset=decode_text(request.preset.shown) if request.preset is not None else None,
        resolved=found.route.chain.name,
        strategy=chosen.strategy,
        sticky=chosen.sticky,
        forced=chosen.forced and len(chosen.candidates) > 0 and chosen.candidates[0].breaker.until > now,
        candidates=[show(rehearsed, now, tokens, output) for rehearsed in rehearsal.able],
        dropped=[
            *(
                shapes.DroppedCandidate(*dropped.candidate.lane, dropped.reason, dropped.detail)
                for dropped in chosen.dropped
            ),
            *(shapes.DroppedCandidate(*candidate.lane, "unable", why) for candidate, why in rehearsal.unable),
        ],
        parameters=shapes.ParameterChanges(
            changed=["model", *(["stream_options"] if request.stream else []), *reasoning],
            dropped=list(request.ignored),
            obeyed_here=[name for name in GATEWAYS_OWN if name in fields and name not in request.ignored],
        ),
        messages_left_out=request.left_out.messages if request.left_out is not None else 0,
        estimated_input_tokens=tokens,
        max_output_tokens=output,
        worst_case_cost=dollars(cost),
        error=ErrorBody(verdict.message, verdict.failure.type, verdict.param, verdict.failure.code)
        if verdict is not None
        else None,
        limits=limits,
    )


def show(rehearsed: Rehearsed, now: float, tokens: int, output: int) -> shapes.ShownCandidate:
    """One candidate: what is known of it."""
    candidate = rehearsed.candidate
    upstream: Upstream = candidate.upstream
    latency = candidate.speed.latency(now)
    cost = reserve(upstream.price, tokens, output) if upstream.price is not None else None
    return shapes.ShownCandidate(
        *candidate.lane,
        upstream.speech.kind,
        list(rehearsed.changed),
        list(rehearsed.dropped),
        state_of(candidate, now),
        round(latency * 1000) if latency else None,
        dollars(cost),
    )


def state_of(candidate: Candidate, now: float) -> Literal["closed", "open", "resting"]:
    """A breaker in a word."""
    breaker = candidate.breaker
    if breaker.is_open:
        return "open"
    return "resting" if breaker.until > now else "closed"


def dollars(nano: int | None) -> str | None:
    """USD as a decimal string."""
    return render_dollars(nano) if nano is not None else None

"""A request's walk, top to bottom: parse, identify, expand, admit, route, attempt, relay, settle."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from waypost import config
from waypost.errors import Refusal
from waypost.formats.openai_chat import ChatRequest, parse_request, render_request
from waypost.http.server import Exchange
from waypost.messages import Identity
from waypost.worker.answers import end_killed, refuse, success_headers
from waypost.worker.attempt import Attempt, Outcome
from waypost.worker.books import Entry
from waypost.worker.relay import Relay, Stamp, StreamRelay, WholeRelay
from waypost.worker.upstreams import Snapshot, Upstream

if TYPE_CHECKING:
    from waypost.worker.app import Worker

log = logging.getLogger("waypost.serve")


async def chat_completions(worker: Worker, exchange: Exchange) -> None:
    """`POST /v1/chat/completions`, streaming or not: one path. Whatever happens, the caller gets exactly one ending."""
    # 1. Parse. llhttp has given method, path, headers and the whole body; the body is decoded in step 3, once it is
    #    known whose it is, so that a stranger costs nothing.
    request_id = worker.mint()
    snapshot = worker.snapshot
    entry: Entry | None = None
    try:
        # 2. Identify.
        identity = worker.identities.known(exchange.head) or await worker.identities.identify(
            exchange.head, exchange.address
        )

        # 3. Expand. Top-level fields are seen, prompts are not touched.
        request = parse_request(exchange.body)

        # 4. Admit: the model exists and plan and key include it, so its name stands for a chain of upstreams; and the
        #    limits have room. From here on the books know the request, and it is settled however it ends.
        chain = snapshot.admitted.get((identity.kind, identity.plan, identity.models, request.model))
        if chain is None:
            chain = await find_chain(worker, snapshot, identity, request.model)
        entry = worker.books.open(identity, request, exchange, chain, request_id)
        if not entry.admit():
            await entry.admit_slowly()
        written = worker.journal.synced()
        if written is not None:
            await written

        # 5. to 7.; a whole answer is settled as it leaves.
        await answer(worker, exchange, entry, request, chain, request_id)

        # 8. Settle. Every other ending comes through one of these.
    except Refusal as refusal:
        end(worker, exchange, refusal, request_id, entry)
    except asyncio.CancelledError:
        # The caller hung up (then nobody hears this), or ended its streams, or the worker's time to drain is over.
        if entry is not None and entry.is_killed:
            entry.ended_early("STREAM_KILLED")
            end_killed(worker, exchange, request_id)
            return
        if entry is not None and exchange.is_gone:
            entry.ended_early("CLIENT_GONE")
        restarting = Refusal("UNAVAILABLE", "Waypost is restarting; try again.", retry_after=1)
        end(worker, exchange, restarting, request_id, entry)
    except Exception:
        log.exception("%s failed", request_id.decode())
        end(worker, exchange, Refusal("INTERNAL_ERROR", "Waypost failed; its log has this id."), request_id, entry)


async def answer(
    worker: Worker, exchange: Exchange, entry: Entry, request: ChatRequest, chain: list[Upstream], request_id: bytes
) -> None:
    """One upstream after the other, until one has answered. Raises Refusal if none did."""
    clock, arrived = worker.clock, exchange.arrived

    def latency_ms() -> int:
        return int((clock() - arrived) * 1000)

    failures: list[tuple[Upstream, Outcome]] = []
    stamp_id = msgspec.Raw(b'"%b"' % request_id)
    model = request.fields["model"]
    for upstream in chain:  # 5. Route: the chain's own order
        # 6. Attempt. Until its answer is committed, a failure of the upstream moves on to the next.
        stamp = Stamp(stamp_id, model, upstream.name, latency_ms, entry.render_usage, request.wants_cost)
        relay: Relay = StreamRelay(stamp, request.include_usage) if request.stream else WholeRelay(stamp)
        headers = success_headers(worker, exchange, request, upstream, request_id)
        attempt = Attempt(exchange, upstream, relay, headers, worker.keepalive, worker.deadlines, entry)
        entry.began(attempt)
        began = clock()
        try:
            # 7. Relay: the attempt feeds the relay with what comes, and writes what it returns to the client.
            body = render_request(request, upstream.model_field)
            outcome = await attempt.run(upstream.render(body, request.stream))
        finally:
            attempt.close()
        if not outcome.code:
            return
        entry.failed_attempt(outcome, int((clock() - began) * 1000))
        if outcome.committed or not worker.may_go_on(outcome.code):
            raise as_refusal(outcome)
        log.warning("%s %s/%s: %s", request_id.decode(), upstream.provider, upstream.model, outcome.message)
        failures.append((upstream, outcome))
    raise as_refusal(summary(failures))


def end(worker: Worker, exchange: Exchange, refusal: Refusal, request_id: bytes, entry: Entry | None) -> None:
    """Every ending that is not a whole answer: in the books first, then said."""
    if entry is not None:
        entry.refused(refusal)
    worker.books.refused(refusal.failure.code)
    refuse(worker, exchange, refusal, request_id)


def no_such_model(model: str) -> Refusal:
    """Neither configured nor a native id that some provider here serves."""
    message = f"The model {model[:256]!r} does not exist here; GET /v1/models lists them."
    return Refusal("INVALID_MODEL", message, param="model")


async def find_chain(worker: Worker, snapshot: Snapshot, identity: Identity, model: str) -> list[Upstream]:
    """The chain for a caller's model, remembered. Raises Refusal INVALID_MODEL, FORBIDDEN or MODEL_NOT_ALLOWED."""
    chain = snapshot.chain(model) or await worker.natives.chain(snapshot, model)
    if chain is None:
        raise no_such_model(model)
    if identity.kind != "inference":
        raise Refusal("FORBIDDEN", "A management key (rkm_…) manages and never infers; use an rk_ key.")
    if not snapshot.allows(identity.plan, model):
        raise Refusal("MODEL_NOT_ALLOWED", f"The plan {identity.plan!r} does not include {model!r}.", param="model")
    if identity.models is not None and not any(config.covers(pattern, model) for pattern in identity.models):
        raise Refusal("MODEL_NOT_ALLOWED", f"This key is not for {model!r}; its models are limited.", param="model")
    await worker.prices.attach(snapshot, model, chain, worker.clock())
    return snapshot.remember(identity, model, chain)


def summary(failures: list[tuple[Upstream, Outcome]]) -> Outcome:
    """What to say when no upstream answered: all of one kind keeps the kind, any mixture is PROVIDER_ERROR."""
    codes = {outcome.code for _, outcome in failures}
    hints = [outcome.retry_after for _, outcome in failures if outcome.retry_after is not None]
    return Outcome(
        codes.pop() if len(codes) == 1 else "PROVIDER_ERROR",
        "; ".join(f"{upstream.provider}: {outcome.message}" for upstream, outcome in failures),
        retry_after=min(hints, default=None),
    )


def as_refusal(outcome: Outcome) -> Refusal:
    """An attempt's end as the error that the caller sees."""
    return Refusal(
        outcome.code,
        outcome.message,
        param=outcome.param,
        status=outcome.status,
        retry_after=outcome.retry_after,
    )

"""A request's walk, top to bottom: parse, identify, expand, admit, route, attempt, relay, settle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from waypost.errors import Refusal
from waypost.formats.openai_chat import ChatRequest, parse_request, render_request
from waypost.formats.usage import estimate_completion
from waypost.http.exchange import Exchange, Outlet
from waypost.http.head import Head
from waypost.policy.chains import Plan
from waypost.policy.routing import plan
from waypost.policy.routing import refusal as nobody
from waypost.policy.stickiness import Conversation
from waypost.policy.trail import NOWHERE, Trail
from waypost.worker.answers import end_killed, refuse, success_headers, with_history
from waypost.worker.asking import Asking
from waypost.worker.attempt import Attempt
from waypost.worker.books import Entry
from waypost.worker.caching import Answerer, recalled, recalled_at_once, wish_of
from waypost.worker.guard import Guard
from waypost.worker.hedge import Race
from waypost.worker.history import fitted
from waypost.worker.idempotency import once
from waypost.worker.metadata import Metadata, wants_metadata
from waypost.worker.outcome import Unanswered
from waypost.worker.presets import expand
from waypost.worker.relay import Relay, Stamp, StreamRelay, WholeRelay
from waypost.worker.resolve import Resolved, needs, resolve
from waypost.worker.thinking import with_effort
from waypost.worker.tries import ending_of, failed, pause
from waypost.worker.upstreams import Upstream

if TYPE_CHECKING:
    from waypost.worker.app import Worker

log = logging.getLogger("waypost.serve")


class Operation(msgspec.Struct, frozen=True):
    """What requests to one endpoint have of their own; all else of the walk is the same for all.

    `parse` reads a body as far as admission needs it. `adapt` makes of the request what its suffix, the route or
    a header wants. `answer` asks the upstreams. All raise Refusal.
    """

    endpoint: str
    parse: Callable[[bytes], ChatRequest]
    has_presets: bool
    adapt: Callable[[Head, ChatRequest, Resolved], ChatRequest]
    answer: Answerer


async def serve(worker: Worker, exchange: Exchange, operation: Operation) -> None:
    """One request, streaming or not: one path. Whatever happens, the caller gets exactly one ending."""
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
        request = operation.parse(exchange.body)

        # 4. Admit: the model exists and plan and key include it, so its name stands for a chain of upstreams; and the
        #    limits have room. From here on the books know the request, and it is settled however it ends.
        found = snapshot.admitted.get((identity.kind, identity.plan, identity.models, request.model))
        if found is None or request.steers:
            if operation.has_presets:
                request = await expand(worker.presets, snapshot, identity, request)
            found = await resolve(worker, snapshot, identity, request)
        if found.effort or found.route.history or exchange.head.has_wishes or request.ignored:
            request = operation.adapt(exchange.head, request, found)
        # Of the response cache hardly anybody wants anything.
        may_wish = exchange.head.has_wishes or snapshot.caching or request.preset is not None
        wish = wish_of(snapshot, exchange.head, identity, request) if may_wish else None
        if exchange.head.has_wishes:
            seconds = found.route.deadline
            shared = await once(worker, exchange, identity.account_id, request.stream, seconds, request_id)
            if shared is None:
                return  # its answer was made before, or by another that has the same key
            exchange = shared
        entry = worker.books.open(identity, request, exchange, found.upstreams, request_id, found.free)
        endpoint = operation.endpoint
        if wish is not None and recalled_at_once(worker, exchange, entry, request, found, wish, endpoint):
            return
        if not entry.admit():
            await entry.admit_slowly()
        written = worker.journal.synced()
        if written is not None:
            await worker.books.on_disk(written)

        # 5. to 7.; a whole answer is settled as it leaves.
        if wish is None:
            await operation.answer(worker, exchange, entry, request, found, exchange)
        else:
            await recalled(worker, exchange, entry, request, found, wish, operation.answer, endpoint)

        # 8. Settle. Every other ending comes through one of these.
    except Refusal as refusal:
        end(worker, exchange, refusal, request_id, entry)
    except asyncio.CancelledError:
        cut_short(worker, exchange, request_id, entry)
    except Exception:
        log.exception("%s failed", request_id.decode())
        end(worker, exchange, Refusal("INTERNAL_ERROR", "Waypost failed; its log has this id."), request_id, entry)


async def answer(
    worker: Worker, exchange: Exchange, entry: Entry, request: ChatRequest, found: Resolved, outlet: Outlet
) -> None:
    """One upstream after the other, until one has answered into `outlet`. Raises Refusal if none did."""
    # 5. Route: who is asked, in which order, and how long all of it may take.
    clock, deadline = worker.clock, exchange.arrived + found.route.deadline
    chosen, trail = route(worker, exchange, entry, request, found, deadline, now := clock())
    stamp_id, latency_ms, usage = msgspec.Raw(b'"%b"' % entry.request_id), entry.latency_ms, entry.render_usage
    preset = request.preset.shown if request.preset is not None else None
    asking: Asking | None = None
    metadata = (
        Metadata(request, chosen, trail, clock) if exchange.head.has_wishes and wants_metadata(exchange.head) else None
    )
    try:
        while (ticket := trail.begin(now)) is not None:
            # 6. Attempt. Until its answer is committed, a failure of the upstream moves on to the next.
            upstream: Upstream = ticket.candidate.upstream
            is_other = ticket.name in chosen.elsewhere  # the caller named this model too, and is told which one it was
            model = msgspec.Raw(msgspec.json.encode(ticket.name)) if is_other else request.fields["model"]
            stamp = Stamp(stamp_id, model, upstream.name, latency_ms, usage, request.wants_cost, metadata, preset)
            try:
                if upstream.dialect is None:
                    relay: Relay = StreamRelay(stamp, request.include_usage) if request.stream else WholeRelay(stamp)
                    headers = success_headers(worker, exchange, request, upstream, entry.request_id, entry.attempts + 1)
                    sent = upstream.render(render_request(request, upstream.model_field), request.stream)
                else:  # another format: the request is translated, and so is the answer
                    asking = asking or Asking(worker, exchange, entry, request, found.asked.preferences, deadline)
                    relay, headers, sent = await asking.put(upstream, upstream.dialect, stamp)
                guard = Guard(found.route.pace, trail, clock) if found.route.pace is not None else None
                attempt = Attempt(
                    outlet, upstream, relay, headers, worker.keepalive, worker.deadlines, entry, deadline, guard
                )
                entry.began(attempt)
                try:
                    # 7. Relay: the attempt feeds the relay with what comes, and writes what it returns to the client.
                    if found.route.hedge is None:
                        outcome = await attempt.run(sent)
                    else:  # if it is late, another is asked beside it, and may be the one that answers
                        race = Race(worker, exchange, outlet, entry, request, found, trail)
                        ticket, attempt, outcome = await race.run(ticket, attempt, sent, stamp)
                finally:
                    attempt.close()
            except Unanswered as error:
                outcome = error.outcome
            if outcome.kind is None:
                now = clock()
                tokens = estimate_completion(attempt.relay.observed) if request.stream else 0
                trail.succeeded(ticket, now, (attempt.first_token or now) - ticket.began, tokens)
                return
            wait = failed(worker, entry, trail, ticket, outcome)
            if wait == NOWHERE:
                break
            if wait:
                await pause(wait)
            now = clock()
        raise with_history(ending_of(entry, trail, outcome, metadata, is_discreet=request.is_discreet), request)
    except BaseException:  # the caller may leave at any of the waits above
        trail.close()
        raise


def route(
    worker: Worker,
    exchange: Exchange,
    entry: Entry,
    request: ChatRequest,
    found: Resolved,
    deadline: float,
    now: float,
) -> tuple[Plan, Trail]:
    """Whom to ask, and the accounts of doing so. Raises Refusal where nobody fits."""
    chain, asked = found.route.chain, found.asked
    if chain.picky or request.steers:
        asked = needs(chain, asked, request.body, request.fields["messages"])
    # A conversation is known by how it opened, however much of it is left.
    fields = request.fields if request.left_out is None else request.left_out.fields
    conversation = Conversation(entry.identity.account, fields, exchange.head.get_all)
    chosen = plan(chain, asked, conversation, now, worker.dice)
    if not chosen.candidates:
        raise nobody(chosen)
    return chosen, Trail(chosen, conversation, chain.sticky, deadline, worker.retries)


def end(worker: Worker, exchange: Exchange, refusal: Refusal, request_id: bytes, entry: Entry | None) -> None:
    """Every ending that is not a whole answer: in the books first, then said."""
    if entry is not None:
        entry.refused(refusal)
    worker.books.refused(refusal.failure.code)
    refuse(worker, exchange, refusal, request_id)


def cut_short(worker: Worker, exchange: Exchange, request_id: bytes, entry: Entry | None) -> None:
    """The caller hung up (then nobody hears this), or ended its streams, or the worker's time to drain is over."""
    if entry is not None and entry.is_killed:
        entry.ended_early("STREAM_KILLED")
        end_killed(worker, exchange, request_id)
        return
    if entry is not None and exchange.is_gone:
        entry.ended_early("CLIENT_GONE")
    restarting = Refusal("UNAVAILABLE", "Waypost is restarting; try again.", retry_after=1)
    end(worker, exchange, restarting, request_id, entry)


def adapted(head: Head, request: ChatRequest, found: Resolved) -> ChatRequest:
    """With the reasoning that the model's suffix turns on, and cut where that is wanted. Raises Refusal."""
    if found.effort:
        request = with_effort(request, found.effort)
    return fitted(head, request, found.route)


CHAT = Operation("chat/completions", parse_request, True, adapted, answer)

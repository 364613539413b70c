"""`POST /v1/embeddings`: its part of the walk, which has no stream and no conversation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from waypost.completion import BadAnswer
from waypost.errors import Refusal
from waypost.formats import bedrock_embeddings, cohere_embeddings, gemini_embeddings
from waypost.formats.format import Model, Rendered, Unsupported
from waypost.formats.json_gate import check_duplicates
from waypost.formats.openai_chat import (
    GATEWAY_ONLY,
    STEERING,
    ChatRequest,
    Fields,
    decode_fields,
    encode,
    parse_object,
    read_model,
)
from waypost.formats.openai_embeddings import (
    Embeddings,
    EmbeddingsRequest,
    joined,
    parse_embeddings,
    render_embeddings,
)
from waypost.http.call import Reply, call
from waypost.http.client import TIMEOUT, UpstreamFailure, find_header
from waypost.http.exchange import Exchange, Outlet
from waypost.http.head import Head
from waypost.policy.failures import BY_NAME
from waypost.policy.routing import plan
from waypost.policy.routing import refusal as nobody
from waypost.policy.stickiness import Conversation, Sticky
from waypost.policy.trail import NOWHERE, Trail
from waypost.provider_settings import Kind
from waypost.records import Usage
from waypost.worker.answers import success_headers
from waypost.worker.books import Entry
from waypost.worker.credentials import CredentialsUnavailable
from waypost.worker.outcome import Outcome, Unanswered, outcome_of_status, quoted
from waypost.worker.relay import BODY_LIMIT
from waypost.worker.resolve import Resolved
from waypost.worker.serve import Operation
from waypost.worker.tries import UNABLE, ending_of, failed, without_token
from waypost.worker.upstreams import Upstream, openai_path

if TYPE_CHECKING:
    from waypost.worker.app import Worker

log = logging.getLogger("waypost.serve")

BROKEN = BY_NAME["broken"]
ONCE = (b'"model"', b'"input"', b'"dimensions"', b'"encoding_format"')
AT_ONCE = 4  # requests to one upstream, where it takes fewer texts in one than the caller gave


class Module(Protocol):
    """A format's embeddings toward an upstream."""

    def render_embeddings(self, asked: EmbeddingsRequest, model: Model) -> tuple[Rendered, ...]:
        """As many requests as it needs. Raises Unsupported."""

    def parse_embeddings(self, body: bytes) -> Embeddings:
        """Raises BadAnswer."""


MODULES: dict[Kind, Module] = {
    "gemini": gemini_embeddings,
    "vertex": gemini_embeddings,
    "bedrock": bedrock_embeddings,
    "cohere": cohere_embeddings,
}


class Try:
    """One upstream's try, as the books see it; it is its own relay."""

    def __init__(self, upstream: Upstream, ends: float, clock: Callable[[], float]) -> None:
        """`ends`: when the request's time is over, by that clock."""
        self.upstream = upstream
        self.ends = ends
        self.clock = clock
        self.relay = self
        self.was_sent = False
        self.number = 0
        self.usage: msgspec.Raw | None = None
        self.counted: Usage | None = None
        self.observed = 0


class OpenaiUsage(msgspec.Struct, frozen=True):
    """`usage` of OpenAI's answer."""

    prompt_tokens: int | None = None
    total_tokens: int | None = None


decode_usage = msgspec.json.Decoder(OpenaiUsage).decode


def parse_request(body: bytes) -> ChatRequest:
    """A body as far as admission reads it: a request whose answer takes no tokens. Raises Refusal."""
    fields = parse_object(body)
    check_duplicates(body, fields, ONCE, "input")
    if "input" not in fields:
        raise Refusal("INVALID_REQUEST", "input: a text, or an array of texts, is required.", param="input")
    steers = not STEERING.isdisjoint(fields)
    return ChatRequest(
        body, fields, read_model(fields), False, include_usage=False, ignored=(), choices=0, steers=steers
    )


def adapted(head: Head, request: ChatRequest, found: Resolved) -> ChatRequest:
    """As it is. Raises Refusal."""
    if found.effort:
        raise Refusal("INVALID_REQUEST", "model: embeddings have no :thinking.", param="model")
    return request


def begun(
    worker: Worker, exchange: Exchange, entry: Entry, request: ChatRequest, found: Resolved, outlet: Outlet
) -> asyncio.Future[None]:
    """`answer` in a task, since the calls have deadlines of their own."""
    return asyncio.ensure_future(answer(worker, exchange, entry, request, found, outlet))


async def answer(
    worker: Worker, exchange: Exchange, entry: Entry, request: ChatRequest, found: Resolved, outlet: Outlet
) -> None:
    """One upstream after the other, until one has answered into `outlet`. Raises Refusal if none did."""
    clock, deadline = worker.clock, exchange.arrived + found.route.deadline
    conversation = Conversation(entry.identity.account, {})
    now = clock()
    chosen = plan(found.route.chain, found.asked, conversation, now, worker.dice)
    if not chosen.candidates:
        raise nobody(chosen)
    # What is embedded is no conversation: nothing is remembered of who did it.
    trail = Trail(chosen, conversation, Sticky(), deadline, worker.retries)
    try:
        while (ticket := trail.begin(now)) is not None:
            upstream: Upstream = ticket.candidate.upstream
            tried = Try(upstream, deadline, clock)
            try:
                fields, dropped = await ask(tried, entry, request)
            except Unanswered as error:
                outcome = error.outcome
            else:
                now = clock()
                trail.succeeded(ticket, now, now - ticket.began)
                fields["model"] = request.fields["model"]
                fields["provider"] = upstream.name
                if tried.counted is None:  # estimated, and the caller sees it
                    fields["usage"] = estimated_usage(entry.render_counted(None, 0))
                headers = success_headers(
                    worker, exchange, request, upstream, entry.request_id, entry.attempts, dropped
                )
                entry.answered()
                outlet.respond(200, headers, encode(fields))
                return
            wait = failed(worker, entry, trail, ticket, outcome)
            if wait == NOWHERE:
                break
            if wait:
                await asyncio.sleep(wait)
            now = clock()
        raise ending_of(entry, trail, outcome, None)
    except BaseException:
        trail.close()
        raise


async def ask(tried: Try, entry: Entry, request: ChatRequest) -> tuple[Fields, tuple[str, ...]]:
    """OpenAI's answer by its fields, and what the upstream was not told. Raises Unanswered, Refusal."""
    upstream = tried.upstream
    speech = upstream.speech
    if speech.kind in ("openai", "azure"):
        fields = {name: raw for name, raw in request.fields.items() if name not in GATEWAY_ONLY}
        fields["model"] = upstream.model_field
        path = openai_path(speech, upstream.model, "/embeddings")
        entry.began(tried)
        reply = await send(tried, Rendered(path=path, body=encode(fields)))
        return read_openai(tried, reply.body), ()
    module = MODULES.get(speech.kind)
    if module is None or upstream.dialect is None:
        raise Unanswered(Outcome(UNABLE, f"{upstream.provider} makes no embeddings.", param="model"))
    asked = parse_embeddings(request.fields)
    try:
        requests = module.render_embeddings(asked, upstream.dialect.model)
    except Unsupported as lacks:
        raise Unanswered(Outcome(UNABLE, lacks.message, param=lacks.param)) from None
    entry.began(tried)
    replies = await send_all(tried, requests)
    try:
        made = joined([counted(module.parse_embeddings(reply.body), reply) for reply in replies])
    except BadAnswer as error:
        raise Unanswered(Outcome(BROKEN, str(error), status=200)) from None
    if len(made.vectors) != len(asked.inputs):
        wrong = f"the upstream answered {len(made.vectors)} vectors for {len(asked.inputs)} texts"
        raise Unanswered(Outcome(BROKEN, wrong, status=200))
    if made.tokens is not None:
        tried.counted = Usage(fresh=max(0, made.tokens))
    rendered = render_embeddings(made, asked.encoding, request.fields["model"])
    return decode_fields(rendered), requests[0].dropped


def counted(made: Embeddings, reply: Reply) -> Embeddings:
    """With the tokens that Bedrock counts in a header, where the body does not say them."""
    said = find_header(reply.head, bedrock_embeddings.TOKENS_HEADER.encode())
    if made.tokens is None and said.isdigit():
        return msgspec.structs.replace(made, tokens=int(said))
    return made


def read_openai(tried: Try, body: bytes) -> Fields:
    """OpenAI's own answer. Raises Unanswered."""
    try:
        fields = decode_fields(body)
        data = bytes(fields.get("data", b""))
        usage = fields.get("usage")
        said = decode_usage(usage) if usage is not None else OpenaiUsage()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data, said, fields, usage = b"", OpenaiUsage(), {}, None
    if not data.startswith(b"["):
        raise Unanswered(Outcome(BROKEN, "the upstream's answer has no embeddings", status=200))
    tokens = said.prompt_tokens or said.total_tokens
    if tokens is not None and tokens > 0:
        tried.usage, tried.counted = usage, Usage(fresh=tokens)
    return fields


def estimated_usage(usage: msgspec.Raw) -> msgspec.Raw:
    """A chat's usage as embeddings have it."""
    fields = decode_fields(usage)
    names = ("prompt_tokens", "total_tokens", "estimated", "cost")
    return msgspec.Raw(encode({name: fields[name] for name in names if name in fields}))


# The wire


async def send_all(tried: Try, requests: Sequence[Rendered]) -> list[Reply]:
    """Several requests, a few at a time, answers in their order. Raises Unanswered."""
    replies: list[Reply] = []
    for at in range(0, len(requests), AT_ONCE):
        tasks = [asyncio.ensure_future(send(tried, one)) for one in requests[at : at + AT_ONCE]]
        try:
            replies += await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
    return replies


async def send(tried: Try, rendered: Rendered) -> Reply:
    """One request and its answer of status 200. Raises Unanswered."""
    upstream = tried.upstream
    timeouts = upstream.timeouts
    try:
        sent = await upstream.speech.render(upstream.credential, rendered, tried.ends - tried.clock())
        tried.was_sent = True
        left = tried.ends - tried.clock()
        total = min(timeouts.first_byte, timeouts.total, left)
        reply = await call(upstream.pool, sent, limit=BODY_LIMIT, connect=timeouts.connect, total=total)
    except CredentialsUnavailable as error:
        raise Unanswered(without_token(error)) from None
    except UpstreamFailure as failure:
        kind = failure.kind
        if kind == TIMEOUT:
            kind = "deadline" if total == left else "first_byte_timeout"
        raise Unanswered(Outcome(BY_NAME[kind], quoted(upstream, failure.message))) from None
    if reply.status != 200:
        raise Unanswered(outcome_of_status(upstream, reply.status, reply.head, reply.body))
    return reply


EMBEDDINGS = Operation("embeddings", parse_request, False, adapted, begun)

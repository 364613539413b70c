"""Anthropic's Messages: answers into JSON bodies and event streams, and the errors.

Wire facts: the recorded exchanges with `/v1/messages`, whole and streamed, and the anthropic Python SDK's types.
On Vertex AI the same bodies travel to `…/models/MODEL:rawPredict` and `:streamRawPredict`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from waypost.sim import anthropic_request, signatures
from waypost.sim.answers import Answer, Choice, Question, ToolCall
from waypost.sim.options import Behaviour
from waypost.sim.pieces import cut, named_event, pieces
from waypost.sim.script import Event, Refusal, Reply
from waypost.sim.target import Headers, Target, header

NAME = "anthropic"
PATH = re.compile(r"/messages$|/models/(?P<model>[^:]+):(?P<method>rawPredict|streamRawPredict)$")
JSON_TYPE = "application/json"
STREAM_TYPE = "text/event-stream; charset=utf-8"
BLOCKS_IN_ANSWER = False
FRAME: Callable[[bytes], bytes] | None = None
parse_question = anthropic_request.parse_question

_ENDS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "malformed": "end_turn",
}


def check_headers(headers: Headers, target: Target) -> Refusal | None:
    """A key has to be there, and, but on Vertex AI, the version."""
    bearer = header(headers, b"authorization")
    if target.method:
        return None if bearer else Refusal(401, "Request had invalid authentication credentials.", "")
    if not bearer and not header(headers, b"x-api-key"):
        return Refusal(401, "x-api-key header is required", "")
    if not header(headers, b"anthropic-version"):
        return Refusal(400, "anthropic-version: header is required", "")
    return None


def render_headers(n: int, answer: Answer | None = None) -> tuple[tuple[str, str], ...]:
    """The request's id."""
    return (("request-id", _request_id(n)),)


def _request_id(n: int) -> str:
    return f"req_{n:024d}"


# Answers that are not streams


def render_answer(question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int) -> Event:
    """The whole answer as one JSON body; there is one choice only."""
    choice = answer.choices[0]
    body = _message(question, identity)
    body |= {"content": list(_blocks(question, answer, choice)), **_end(choice)}
    body["usage"] = render_usage(answer, question)
    if behaviour.usage == "never":
        del body["usage"]
    return Event(msgspec.json.encode(body), choice.text, usage=behaviour.usage != "never")


def _message(question: Question, identity: str) -> dict[str, Any]:
    return {
        "model": question.model,
        "id": f"msg_01{identity[-22:]}",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def _end(choice: Choice) -> dict[str, Any]:
    hit = choice.stop if choice.finish_reason == "stop" else None
    details = {"type": "refusal", "category": None} if choice.finish_reason == "content_filter" else None
    reason = "stop_sequence" if hit else _ENDS[choice.finish_reason]
    return {"stop_reason": reason, "stop_sequence": hit, "stop_details": details}


def _blocks(question: Question, answer: Answer, choice: Choice) -> Iterator[dict[str, Any]]:
    if choice.reasoning:
        shown = choice.reasoning if question.reasoning_shown else ""
        yield {"type": "thinking", "thinking": shown, "signature": signatures.sign(shown, answer.seed)}
    if choice.text:
        yield {"type": "text", "text": choice.text}
    for call in choice.tool_calls:
        yield {
            "type": "tool_use",
            "id": call_id(call),
            "name": call.name,
            "input": _input(call),
            "caller": {"type": "direct"},
        }


def call_id(call: ToolCall) -> str:
    """A call's id as Anthropic spells it."""
    return f"toolu_01{call.id[-22:]}"


def _input(call: ToolCall) -> Any:
    """The arguments; of a call that `max_tokens` cut short nothing is left, as it is no JSON."""
    try:
        return msgspec.json.decode(call.arguments)
    except msgspec.DecodeError:
        return {}


def render_usage(answer: Answer, question: Question | None = None) -> dict[str, Any]:
    """The usage object: `input_tokens` are those that no cache had or got."""
    usage = answer.usage
    long = question is not None and question.cache_written == "1h"
    made: dict[str, Any] = {
        "input_tokens": usage.prompt - usage.cached - usage.written,
        "cache_creation_input_tokens": usage.written,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 0 if long else usage.written,
            "ephemeral_1h_input_tokens": usage.written if long else 0,
        },
        "output_tokens": usage.completion,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }
    if usage.reasoning:
        made["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return made


# Streams


def render_events(
    question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
) -> tuple[Event, ...]:
    """The answer as server-sent events: start, the blocks with a ping after the first one's start, delta, stop."""
    choice, silent = answer.choices[0], behaviour.usage == "never"
    usage = render_usage(answer, question)
    final = {
        name: usage[name]
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    }
    final |= {name: usage[name] for name in ("output_tokens_details",) if name in usage}
    message = _message(question, identity)
    begun = {name: value for name, value in usage.items() if name != "output_tokens_details"} | {"output_tokens": 1}
    end: dict[str, Any] = {"type": "message_delta", "delta": _end(choice)}
    made: list[tuple[dict[str, Any], str]] = [
        ({"type": "message_start", "message": message if silent else {**message, "usage": begun}}, "")
    ]
    for index, block in enumerate(_blocks(question, answer, choice)):
        made += _block_events(index, block, choice)
    made.insert(2, ({"type": "ping"}, ""))
    made += [(end if silent else {**end, "usage": final}, ""), ({"type": "message_stop"}, "")]
    # Anthropic hides the lengths of its events behind spaces before the last brace.
    paddings = itertools.cycle((6, 0, 11, 3, 14, 1, 8))
    return tuple(
        named_event(payload["type"], payload, text, "usage" in payload, padding)
        for (payload, text), padding in zip(made, paddings, strict=False)
    )


def _block_events(index: int, block: dict[str, Any], choice: Choice) -> Iterator[tuple[dict[str, Any], str]]:
    opening = dict(block)
    deltas: list[tuple[dict[str, Any], str]]
    if block["type"] == "thinking":
        opening |= {"thinking": "", "signature": ""}
        deltas = [({"type": "thinking_delta", "thinking": piece}, "") for piece in pieces(block["thinking"])]
        deltas.append(({"type": "signature_delta", "signature": block["signature"]}, ""))
    elif block["type"] == "text":
        opening["text"] = ""
        deltas = [({"type": "text_delta", "text": piece}, piece) for piece in pieces(block["text"])]
    else:
        opening["input"] = {}
        call = next(call for call in choice.tool_calls if call_id(call) == block["id"])
        deltas = [({"type": "input_json_delta", "partial_json": piece}, "") for piece in ("", *cut(call.arguments))]
    yield {"type": "content_block_start", "index": index, "content_block": opening}, ""
    for delta, text in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}, text
    yield {"type": "content_block_stop", "index": index}, ""


# Errors


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_MESSAGES = {
    "auth": "invalid x-api-key",
    "context-length": "prompt is too long: 204853 tokens > 200000 maximum",
    "content-policy": "Output blocked by content filtering policy",
    "overloaded": "Overloaded",
}


def _error(refusal: Refusal) -> dict[str, Any]:
    status = 529 if refusal.kind == "overloaded" else refusal.status
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": kind, "message": _MESSAGES.get(refusal.kind, refusal.message)}


def render_refusal(refusal: Refusal, n: int) -> Reply:
    """An error in place of an answer, with the request's id in body and header."""
    body = {"type": "error", "error": _error(refusal), "request_id": _request_id(n)}
    status = 529 if refusal.kind == "overloaded" else refusal.status
    kept = tuple((name, value) for name, value in refusal.headers if name == "retry-after")
    return Reply(status, JSON_TYPE, (Event(msgspec.json.encode(body)),), headers=(*render_headers(n), *kept))


def render_error_event(refusal: Refusal) -> Event:
    """An error inside a stream that has begun with 200."""
    return named_event("error", {"type": "error", "error": _error(refusal)})

"""Bedrock's Converse and ConverseStream: answers into JSON bodies and binary event streams, and the errors.

Wire facts: the recorded exchanges with `/model/ID/converse` and `/model/ID/converse-stream`, and the service model
that botocore ships. Events are written here as server-sent events; `FRAME` makes binary messages of them.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from waypost.sim import bedrock_request, signatures
from waypost.sim.answers import Answer, Choice, Question, ToolCall
from waypost.sim.event_stream import render_message
from waypost.sim.options import Behaviour
from waypost.sim.pieces import cut, named_event, pieces
from waypost.sim.script import Event, Refusal, Reply
from waypost.sim.target import Headers, Target, header

NAME = "bedrock"
PATH = re.compile(r"/model/(?P<model>[^/]+)/(?P<method>converse|converse-stream)$")
JSON_TYPE = "application/json"
STREAM_TYPE = "application/vnd.amazon.eventstream"
BLOCKS_IN_ANSWER = False
parse_question = bedrock_request.parse_question

_ENDS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "content_filtered",
    "malformed": "malformed_tool_use",
}
_SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[^/\s]+/\d{8}/[^/]+/bedrock/aws4_request, ?SignedHeaders=\S+, ?Sig.*"
)
_PADDING = string.ascii_letters + string.digits


def _binary(event: bytes) -> bytes:
    """A server-sent event as a binary message; what is none, such as a stray text, goes out as it is."""
    if not event.startswith(b"event: "):
        return event
    name, _, payload = event.removeprefix(b"event: ").rstrip(b"\n").partition(b"\ndata: ")
    if name == b"error":
        error = msgspec.json.decode(payload)
        return render_message(((":message-type", "error"), *((f":error-{key}", error[key]) for key in error)), b"")
    kind = "exception" if name.endswith(b"Exception") else "event"
    headers = ((f":{kind}-type", name.decode()), (":content-type", "application/json"), (":message-type", kind))
    return render_message(headers, payload)


FRAME: Callable[[bytes], bytes] | None = _binary


def check_headers(headers: Headers, target: Target) -> Refusal | None:
    """A signature of version 4 for this service has to be there, or a bearer key; the signature is not computed."""
    given = header(headers, b"authorization")
    if given is None:
        return Refusal(403, "Missing Authentication Token", "", "MissingAuthenticationTokenException")
    if given.startswith("Bearer "):
        return None
    if not _SIGNED.fullmatch(given):
        message = "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters."
        return Refusal(403, message, "", "IncompleteSignatureException")
    names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    if "host" not in names or not header(headers, b"x-amz-date") or "x-amz-date" not in names:
        message = "Authorization header requires existence of a signed 'X-Amz-Date' header and of 'host'."
        return Refusal(403, message, "", "IncompleteSignatureException")
    return None


def render_headers(n: int, answer: Answer | None = None) -> tuple[tuple[str, str], ...]:
    """The request's id."""
    return (("x-amzn-requestid", f"00000000-0000-4000-8000-{n:012x}"),)


# What both kinds of answer are made of


def _blocks(answer: Answer, choice: Choice) -> Iterator[dict[str, Any]]:
    if choice.reasoning:
        signature = signatures.sign(choice.reasoning, answer.seed)
        yield {"reasoningContent": {"reasoningText": {"text": choice.reasoning, "signature": signature}}}
    if choice.text:
        yield {"text": choice.text}
    for call in choice.tool_calls:
        yield {"toolUse": {"toolUseId": _call_id(call), "name": call.name, "input": _input(call)}}


def _call_id(call: ToolCall) -> str:
    return f"tooluse_{call.id[-22:]}"


def _input(call: ToolCall) -> Any:
    try:
        return msgspec.json.decode(call.arguments)
    except msgspec.DecodeError:
        return {}


def _stop_reason(choice: Choice) -> str:
    return "stop_sequence" if choice.stop and choice.finish_reason == "stop" else _ENDS[choice.finish_reason]


def render_usage(answer: Answer, question: Question | None = None) -> dict[str, Any]:
    """The usage: `inputTokens` are those that no cache had or got; what was written is told by its lifetime, too."""
    usage = answer.usage
    made: dict[str, Any] = {
        "inputTokens": usage.prompt - usage.cached - usage.written,
        "outputTokens": usage.completion,
        "totalTokens": usage.prompt + usage.completion,
        "serverToolUsage": {},
    }
    if usage.cached or usage.written:
        made |= {"cacheReadInputTokens": usage.cached, "cacheWriteInputTokens": usage.written}
    if usage.written:
        made["cacheDetails"] = [{"inputTokens": usage.written, "ttl": (question and question.cache_written) or "5m"}]
    return made


# Answers that are not streams


def render_answer(question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int) -> Event:
    """The whole answer as one JSON body; there is one choice only."""
    choice = answer.choices[0]
    body: dict[str, Any] = {
        "metrics": {"latencyMs": 1 + answer.seed % 900},
        "output": {"message": {"content": list(_blocks(answer, choice)), "role": "assistant"}},
        "stopReason": _stop_reason(choice),
    }
    if behaviour.usage != "never":
        body["usage"] = render_usage(answer, question)
    return Event(msgspec.json.encode(body), choice.text, usage=behaviour.usage != "never")


# Streams


def render_events(
    question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
) -> tuple[Event, ...]:
    """The answer as events: start, blocks, stop, metadata. Only a tool's block has an event for its start."""
    choice = answer.choices[0]
    made: list[tuple[str, dict[str, Any], str]] = [("messageStart", {"role": "assistant"}, "")]
    for index, block in enumerate(_blocks(answer, choice)):
        made += _block_events(index, block, choice)
    made.append(("messageStop", {"stopReason": _stop_reason(choice)}, ""))
    end: dict[str, Any] = {"metrics": {"latencyMs": 1 + answer.seed % 900}}
    if behaviour.usage != "never":
        end["usage"] = render_usage(answer, question)
    made.append(("metadata", end, ""))
    # AWS hides the lengths of its events behind a member of varying length.
    paddings = itertools.cycle((19, 43, 2, 61, 30, 13, 55))
    return tuple(
        named_event(name, {**payload, "p": _PADDING[:padding]}, text, "usage" in payload)
        for (name, payload, text), padding in zip(made, paddings, strict=False)
    )


def _block_events(index: int, block: dict[str, Any], choice: Choice) -> Iterator[tuple[str, dict[str, Any], str]]:
    at = {"contentBlockIndex": index}
    deltas: list[tuple[dict[str, Any], str]]
    if "text" in block:
        deltas = [({"text": piece}, piece) for piece in pieces(block["text"])]
    elif "toolUse" in block:
        used = block["toolUse"]
        yield "contentBlockStart", {**at, "start": {"toolUse": {k: used[k] for k in ("name", "toolUseId")}}}, ""
        call = next(call for call in choice.tool_calls if _call_id(call) == used["toolUseId"])
        deltas = [({"toolUse": {"input": piece}}, "") for piece in cut(call.arguments)]
    else:
        thought = block["reasoningContent"]["reasoningText"]
        deltas = [({"reasoningContent": {"text": piece}}, "") for piece in pieces(thought["text"])]
        deltas.append(({"reasoningContent": {"signature": thought["signature"]}}, ""))
    for delta, text in deltas:
        yield "contentBlockDelta", {**at, "delta": delta}, text
    yield "contentBlockStop", at, ""


# Errors


_TYPES = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    413: "ValidationException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
_KINDS = {
    "auth": ("UnrecognizedClientException", "The security token included in the request is invalid."),
    "context-length": ("ValidationException", "Input is too long for requested model."),
    "content-policy": (
        "ValidationException",
        "The model returned the following errors: Output blocked by content filtering policy",
    ),
    "overloaded": ("ServiceUnavailableException", "Bedrock is unable to process your request."),
}
_NAMED = ("MissingAuthenticationTokenException", "IncompleteSignatureException")


def _error(refusal: Refusal) -> tuple[str, str]:
    """The exception's name and message."""
    if refusal.code in _NAMED:
        return refusal.code, refusal.message
    name = _TYPES.get(refusal.status, "InternalServerException" if refusal.status >= 500 else "ValidationException")
    return _KINDS.get(refusal.kind, (name, refusal.message))


def render_refusal(refusal: Refusal, n: int) -> Reply:
    """An error in place of an answer: its name is in a header, its message in the body."""
    name, message = _error(refusal)
    kept = tuple((key, value) for key, value in refusal.headers if key == "retry-after")
    headers = (*render_headers(n), ("x-amzn-errortype", f"{name}:http://internal.amazon.com/coral/"), *kept)
    body = msgspec.json.encode({"message": message})
    return Reply(refusal.status, JSON_TYPE, (Event(body),), headers=headers)


def render_error_event(refusal: Refusal) -> Event:
    """An exception inside a stream that has begun with 200; its name begins with a small letter there."""
    name, message = _error(refusal)
    if refusal.kind == "unmodelled":
        return named_event("error", {"code": "InternalServerError", "message": message})
    return named_event(name[0].lower() + name[1:], {"message": message})

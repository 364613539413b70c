"""OpenAI's chat completions: requests into questions, answers into JSON bodies and event streams.

Wire facts: the API reference for chat completions and its streaming chunks, and the openai Python SDK's types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from waypost.sim import conversation
from waypost.sim.answers import Answer, Choice, Media, Question
from waypost.sim.conversation import Said
from waypost.sim.options import Behaviour
from waypost.sim.pieces import cut, pieces
from waypost.sim.script import Event, Refusal, Reply
from waypost.sim.target import Headers, Target, invalid

NAME = "openai"
# Azure has the model, which it calls a deployment, in the path.
PATH = re.compile(r"(?:/deployments/(?P<model>[^/]+))?/chat/completions$")
JSON_TYPE = "application/json"
STREAM_TYPE = "text/event-stream; charset=utf-8"
BLOCKS_IN_ANSWER = False
FRAME: Callable[[bytes], bytes] | None = None
_FINGERPRINT = "fp_waypost_sim"
_encode = msgspec.json.encode


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str = ""


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: _Function
    type: Literal["function"] = "function"


class _JSONSchema(msgspec.Struct):
    name: str
    schema: dict[str, Any] | None = None


class _ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JSONSchema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Request(msgspec.Struct, kw_only=True):
    model: str | None = None
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None
    reasoning_effort: str | None = None
    reasoning: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None


_decode = msgspec.json.Decoder(_Request).decode


def check_headers(headers: Headers, target: Target) -> Refusal | None:
    """Any key will do, and none: the simulator is also there for a first try with curl."""
    return None


def parse_question(body: bytes, target: Target) -> Question:
    """A request body as a question. Raises msgspec.DecodeError (bad JSON) or ValidationError (wrong types)."""
    request = _decode(body)
    model = target.model or request.model
    if model is None:
        raise invalid("you must provide a model parameter")
    question = msgspec.structs.replace(
        conversation.ask(model, map(_said, request.messages)),
        stream=bool(request.stream),
        include_usage=request.stream_options is not None and bool(request.stream_options.include_usage),
        reasoning=_wants_reasoning(request),
        max_tokens=request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens,
        stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
        n=max(1, min(request.n or 1, 128)),
    )
    if request.tools is None and request.response_format is None:
        return question
    offered = [tool.function for tool in request.tools or ()]
    return msgspec.structs.replace(
        question,
        tools=tuple(conversation.tool(f.name, f.description, f.parameters) for f in offered),
        tool_choice=_tool_choice(request.tool_choice),
        parallel=request.parallel_tool_calls is not False,
        schema=_schema(request.response_format),
    )


_ROLES: dict[str, Literal["system", "user", "assistant", "tool"]] = {
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def _said(message: _Message) -> Said:
    parts = message.content if isinstance(message.content, list) else []
    text = conversation.joined([str(part["text"]) for part in parts if "text" in part])
    return Said(
        _ROLES.get(message.role, "system"),
        message.content if isinstance(message.content, str) else text,
        tuple(str(call.get("function", {}).get("name")) for call in message.tool_calls or ()),
        message.tool_call_id,
        tuple(_media(part) for part in parts if part.get("type") in _MEDIA),
    )


# Where a part keeps its address or data, and the member of it that does.
_MEDIA = {"image_url": "url", "file": "file_data", "input_audio": "data", "video_url": "url"}


def _media(part: dict[str, Any]) -> Media:
    held = part.get(part["type"]) or {}
    source = str(held if isinstance(held, str) else held.get(_MEDIA[part["type"]], ""))
    mime, separator, data = source.removeprefix("data:").partition(";base64,")
    if part["type"] == "input_audio":
        mime, separator, data = f"audio/{held.get('format')}", "data", source
    if not separator:
        kind = {"image_url": "image", "video_url": "video"}.get(part["type"], "document")
        return Media(kind, source or str(held.get("file_id", "")))
    try:
        return conversation.inline(conversation.kind_of(mime), mime, data)
    except ValueError as error:
        raise invalid(f"Invalid base64 in a part of type {part['type']}: {error}") from None


def _wants_reasoning(request: _Request) -> bool:
    effort = request.reasoning_effort
    if request.reasoning is not None:
        if request.reasoning.get("enabled") is False:
            return False
        effort = str(request.reasoning.get("effort", "medium"))
    return effort is not None and effort not in ("none", "minimal")


def _tool_choice(choice: str | dict[str, Any] | None) -> str:
    if isinstance(choice, dict):
        return f":{choice.get('function', {}).get('name')}"
    return choice or "auto"


def _schema(wanted: _ResponseFormat | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    return (wanted.json_schema.schema if wanted.json_schema else None) or {}


# Answers that are not streams


def render_answer(question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int) -> Event:
    """The whole answer as one JSON body."""
    body: dict[str, Any] = {
        "id": f"chatcmpl-{identity}",
        "object": "chat.completion",
        "created": created,
        "model": question.model,
        "choices": [_choice(index, choice) for index, choice in enumerate(answer.choices)],
        "usage": render_usage(answer),
        "service_tier": "default",
        "system_fingerprint": _FINGERPRINT,
    }
    if behaviour.usage == "never":
        del body["usage"]
    return Event(_encode(body), "".join(c.text for c in answer.choices), usage=behaviour.usage != "never")


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["content"] = None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.tool_calls
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}


def render_usage(answer: Answer) -> dict[str, Any]:
    """The usage object, as it stands in the answer and in the journal."""
    usage = answer.usage
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


# Streams


def render_events(
    question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
) -> tuple[Event, ...]:
    """The answer as server-sent events: role, pieces, finish reason, usage if asked for, [DONE]."""
    head = b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":%b,' % (
        identity.encode(),
        created,
        _encode(question.model),
    )
    head += b'"service_tier":"default","system_fingerprint":"%b","choices":[' % _FINGERPRINT.encode()
    streams = [list(_deltas(choice)) for choice in answer.choices]
    asked = question.include_usage and behaviour.usage == "asked"
    tail = b'],"usage":null}\n\n' if asked else b"]}\n\n"
    events = [Event(_AZURE_FIRST)] if behaviour.azure_first else []
    so_far = 0
    for turn in range(max(len(deltas) for deltas in streams)):
        for index, deltas in enumerate(streams):
            if turn >= len(deltas):
                continue
            delta, text, finish = deltas[turn]
            choice = b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}' % (index, delta, finish)
            end = tail
            if behaviour.usage == "every":
                so_far += len(text)
                end = b'],"usage":%b}\n\n' % _encode(_usage_so_far(answer, so_far, finish != b"null"))
            elif behaviour.usage == "last-choice" and finish != b"null":
                end = b'],"usage":%b}\n\n' % _encode(render_usage(answer))
            events.append(Event(head + choice + end, text, end is not tail))
    if asked:
        events.append(Event(head + b'],"usage":%b}\n\n' % _encode(render_usage(answer)), usage=True))
    if behaviour.done:
        events.append(Event(b"data: [DONE]\n\n"))
    return tuple(events)


_AZURE_FIRST = (
    b'data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,'
    b'"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]}\n\n'
)


def _usage_so_far(answer: Answer, characters: int, last: bool) -> dict[str, Any]:
    usage = render_usage(answer)
    if not last:
        usage["completion_tokens"] = -(-characters // 4)
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    return usage


def _deltas(choice: Choice) -> Iterator[tuple[bytes, str, bytes]]:
    """A choice's deltas as (JSON, text in it, finish reason as JSON)."""
    if choice.tool_calls:
        yield b'{"role":"assistant","content":null}', "", b"null"
    else:
        yield b'{"role":"assistant","content":"","refusal":null}', "", b"null"
    for piece in pieces(choice.reasoning):
        yield b'{"reasoning_content":%b}' % _encode(piece), "", b"null"
    for index, call in enumerate(choice.tool_calls):
        opening = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield _encode({"tool_calls": [opening]}), "", b"null"
        for piece in cut(call.arguments):
            fragment = {"index": index, "function": {"arguments": piece}}
            yield _encode({"tool_calls": [fragment]}), "", b"null"
    for piece in pieces(choice.text):
        yield b'{"content":%b}' % _encode(piece), piece, b"null"
    yield b"{}", "", _encode(choice.finish_reason)


# Errors, and what stands around a body


def render_headers(n: int, answer: Answer | None = None) -> tuple[tuple[str, str], ...]:
    """The request's id."""
    return (("x-request-id", f"req_{n:016x}"),)


def render_refusal(refusal: Refusal, n: int) -> Reply:
    """An error in place of an answer."""
    headers = (*render_headers(n), *refusal.headers)
    return Reply(refusal.status, JSON_TYPE, (Event(render_error(refusal)),), headers=headers)


def render_error(refusal: Refusal) -> bytes:
    """OpenAI's error envelope."""
    error = {"message": refusal.message, "type": refusal.type, "param": refusal.param, "code": refusal.code}
    return _encode({"error": error})


def render_error_event(refusal: Refusal) -> Event:
    """An error inside a stream that has begun with 200."""
    return Event(b"data: " + render_error(refusal) + b"\n\n")


def render_models(names: list[str]) -> bytes:
    """`GET /v1/models`."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "waypost-simulator"} for name in names]
    return _encode({"object": "list", "data": data})

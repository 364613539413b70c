"""OpenAI's chat completions: requests into questions, answers into JSON bodies and event streams.

Wire facts: the API reference for chat completions and its streaming chunks, and the openai Python SDK's types.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from waypost.sim.answers import Answer, Choice, Question, Tool
from waypost.sim.options import Behaviour
from waypost.sim.script import Event, Refusal

PATH = "/chat/completions"
_FINGERPRINT = "fp_waypost_sim"
_JSON_PIECE = 12
_encode = msgspec.json.encode


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


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


class _Request(msgspec.Struct):
    model: str
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


def parse_question(body: bytes) -> Question:
    """A request body as a question. Raises msgspec.DecodeError (bad JSON) or ValidationError (wrong types)."""
    request = _decode(body)
    texts = [_text(message) for message in request.messages]
    asked, results = "", []
    for message, text in zip(request.messages, texts, strict=True):
        if message.role == "tool":
            results.append(text)
        else:
            results = []
            asked = text if message.role == "user" else asked
    plain = Question(
        model=request.model,
        asked=asked,
        prompt="\n".join(texts),
        stream=bool(request.stream),
        include_usage=request.stream_options is not None and bool(request.stream_options.include_usage),
        tool_results=tuple(results),
        reasoning=_wants_reasoning(request),
        max_tokens=request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens,
        stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
        n=max(1, min(request.n or 1, 128)),
    )
    if request.tools is None and request.response_format is None:
        return plain
    return msgspec.structs.replace(
        plain,
        called=frozenset(_called(request.messages)),
        tools=tuple(
            Tool(t.function.name, t.function.description or "", t.function.parameters or {"type": "object"})
            for t in request.tools or ()
        ),
        tool_choice=_tool_choice(request.tool_choice),
        parallel=request.parallel_tool_calls is not False,
        schema=_schema(request.response_format),
    )


def _text(message: _Message) -> str:
    if isinstance(message.content, list):
        return " ".join(str(part["text"]) for part in message.content if "text" in part)
    return message.content or ""


def _wants_reasoning(request: _Request) -> bool:
    effort = request.reasoning_effort
    if request.reasoning is not None:
        if request.reasoning.get("enabled") is False:
            return False
        effort = str(request.reasoning.get("effort", "medium"))
    return effort is not None and effort not in ("none", "minimal")


def _called(messages: list[_Message]) -> Iterator[str]:
    for message in messages:
        for call in message.tool_calls or ():
            yield str(call.get("function", {}).get("name"))


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
    for piece in _pieces(choice.reasoning):
        yield b'{"reasoning_content":%b}' % _encode(piece), "", b"null"
    for index, call in enumerate(choice.tool_calls):
        opening = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield _encode({"tool_calls": [opening]}), "", b"null"
        for at in range(0, len(call.arguments), _JSON_PIECE):
            fragment = {"index": index, "function": {"arguments": call.arguments[at : at + _JSON_PIECE]}}
            yield _encode({"tool_calls": [fragment]}), "", b"null"
    for piece in _pieces(choice.text):
        yield b'{"content":%b}' % _encode(piece), piece, b"null"
    yield b"{}", "", _encode(choice.finish_reason)


def _pieces(text: str) -> list[str]:
    """A text as a model streams it: word by word, the space before the word; JSON without spaces in short pieces."""
    if not text:
        return []
    if text[0] in "{[":
        return [text[at : at + _JSON_PIECE] for at in range(0, len(text), _JSON_PIECE)]
    first, *rest = text.split(" ")
    pieces = [" " + word for word in rest]
    return [first, *pieces] if first else pieces


# Errors


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

"""Cohere's chat, version 2: requests into questions, with the checks that the API makes.

Wire facts: the recorded exchanges with `/v2/chat`, and the cohere Python SDK's types.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from waypost.sim import conversation
from waypost.sim.answers import Media, Question
from waypost.sim.conversation import Said
from waypost.sim.target import Target, invalid

Node = dict[str, Any]


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: Node | None = None


class _Tool(msgspec.Struct):
    function: _Function
    type: Literal["function"] = "function"


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system", "tool"]
    content: str | list[Node] | None = None
    tool_calls: list[Node] | None = None
    tool_plan: str | None = None
    tool_call_id: str | None = None
    citations: list[Node] | None = None


class _Thinking(msgspec.Struct):
    type: Literal["enabled", "disabled"]
    token_budget: int | None = None


class _ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object"]
    json_schema: Node | None = None
    schema: Node | None = None


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    """Every member the API knows; what the simulator does not look at is only named."""

    model: str
    messages: list[_Message]
    stream: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["REQUIRED", "NONE"] | None = None
    strict_tools: bool | None = None
    response_format: _ResponseFormat | None = None
    thinking: _Thinking | None = None
    max_tokens: int | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    k: int | None = None
    p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool | None = None
    documents: Any = None
    citation_options: Any = None
    safety_mode: Any = None
    priority: Any = None
    raw_prompting: Any = None
    return_prompt: Any = None


_decode = msgspec.json.Decoder(_Request).decode
_SHOWN = {"image_url": "image", "document": "document"}


def parse_question(body: bytes, target: Target) -> Question:
    """A request body as a question."""
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        raise invalid(f"invalid request: {error}") from None
    for problem in _problems(request):
        raise invalid(f"invalid request: {problem}")
    wanted = request.response_format
    schema = (wanted.json_schema or wanted.schema or {}) if wanted and wanted.type == "json_object" else None
    offered = [tool.function for tool in request.tools or ()]
    return msgspec.structs.replace(
        conversation.ask(request.model, map(_said, request.messages)),
        stream=bool(request.stream),
        reasoning=request.thinking is not None and request.thinking.type == "enabled",
        max_tokens=request.max_tokens,
        stop=tuple(request.stop_sequences or ()),
        tools=tuple(conversation.tool(f.name, f.description, f.parameters) for f in offered),
        tool_choice={"REQUIRED": "required", "NONE": "none"}.get(request.tool_choice or "", "auto"),
        schema=schema,
    )


def _problems(request: _Request) -> Iterator[str]:
    if not request.messages:
        yield "messages must be provided and cannot be empty."
    elif request.messages[-1].role == "assistant":
        yield "the last message must be from the user or a tool."
    if request.tool_choice and not request.tools:
        yield "tool_choice is only supported when tools are provided."
    if request.response_format and request.response_format.type == "json_object" and request.tools:
        yield "cannot specify both response_format with type json_object and tools."
    if len(request.stop_sequences or ()) > 5:
        yield "too many stop sequences, at most 5."
    if request.temperature is not None and not 0 <= request.temperature <= 1:
        yield "temperature must be between 0 and 1.0."
    if request.p is not None and not 0.01 <= request.p <= 0.99:
        yield "p must be between 0.01 and 0.99."
    yield from _turn_problems(request)


def _turn_problems(request: _Request) -> Iterator[str]:
    """A tool's message answers a call of the assistant's message that the tool messages follow."""
    called: set[str] = set()
    for i, message in enumerate(request.messages):
        if message.role == "assistant":
            called = {str(call.get("id")) for call in message.tool_calls or ()}
            if not called and not message.content:
                yield f"all elements in messages must have a content or tool_calls, messages[{i}] has neither."
        elif message.role == "tool":
            if message.tool_call_id not in called:
                yield f"tool call id {message.tool_call_id!r} not found in previous tool calls."
            called.discard(str(message.tool_call_id))
        else:
            if called:
                yield f"tool calls without results: {', '.join(sorted(called))}."
            if not message.content:
                yield f"all elements in messages must have a non-empty content, messages[{i}] has none."


def _said(message: _Message) -> Said:
    parts = message.content if isinstance(message.content, list) else []
    texts = [_text(part) for part in parts if part.get("type") in ("text", "document")]
    tool = message.role == "tool"
    return Said(
        message.role,
        message.content if isinstance(message.content, str) else conversation.joined(texts),
        tuple(str(call.get("function", {}).get("name")) for call in message.tool_calls or ()),
        message.tool_call_id or "",
        () if tool else tuple(_media(part) for part in parts if part.get("type") in _SHOWN),
    )


def _text(part: Node) -> str:
    if part["type"] == "text":
        return str(part.get("text", ""))
    data = (part.get("document") or {}).get("data")
    return data if isinstance(data, str) else msgspec.json.encode(data).decode()


def _media(part: Node) -> Media:
    if part["type"] == "document":
        return Media("document", str((part.get("document") or {}).get("id", "text")))
    held = part.get("image_url") or {}
    url = str(held if isinstance(held, str) else held.get("url", ""))
    mime, separator, data = url.removeprefix("data:").partition(";base64,")
    if not separator:
        return Media("image", url)
    try:
        return conversation.inline("image", mime, data)
    except ValueError as error:
        raise invalid(f"invalid request: {error}") from None

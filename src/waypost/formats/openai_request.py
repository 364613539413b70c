"""A caller's OpenAI request, read in full: the vocabulary that every other format is rendered from.

Source of the wire facts: OpenAI's API reference for chat completions; OpenRouter's for `reasoning` and `top_k`;
Anthropic's for `thinking` and `cache_control`. What has several spellings gets one here, and nowhere else.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar

import msgspec

from waypost.chat import (
    AnyMessage,
    AssistantMessage,
    CacheControl,
    Chat,
    DeveloperMessage,
    Effort,
    FunctionCall,
    FunctionMessage,
    Message,
    Object,
    Reasoning,
    ResponseFormat,
    SystemMessage,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMessage,
)
from waypost.formats.format import invalid
from waypost.formats.openai_chat import GATEWAY_ONLY, NULL, Fields

T = TypeVar("T")


class NamedFunction(msgspec.Struct, frozen=True):
    """`{"name": …}`."""

    name: str


class FunctionChoice(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """`{"type": "function", "function": {"name": …}}`."""

    function: NamedFunction


class AllowedTools(msgspec.Struct, frozen=True):
    """The inside of AllowedToolsChoice."""

    mode: Literal["auto", "required"]
    tools: tuple[FunctionChoice, ...]


class AllowedToolsChoice(msgspec.Struct, frozen=True, tag_field="type", tag="allowed_tools"):
    """`{"type": "allowed_tools", "allowed_tools": {"mode": …, "tools": […]}}`."""

    allowed_tools: AllowedTools


class JsonSchema(msgspec.Struct, frozen=True):
    """`response_format.json_schema`."""

    name: str = "response"
    schema: Object | None = None
    strict: bool | None = None
    description: str | None = None


class AnyResponseFormat(msgspec.Struct, frozen=True):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ReasoningObject(msgspec.Struct, frozen=True):
    """`reasoning`, OpenRouter's."""

    effort: Effort | None = None
    max_tokens: int | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class ThinkingObject(msgspec.Struct, frozen=True):
    """`thinking`, Anthropic's, DeepSeek's and others'."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


Number = float | None
Count = int | None
KINDS: dict[str, Any] = {
    "messages": list[AnyMessage],
    "stream": bool | None,
    "max_tokens": Count,
    "max_completion_tokens": Count,
    "temperature": Number,
    "top_p": Number,
    "top_k": Count,
    "stop": str | list[str] | None,
    "seed": Count,
    "frequency_penalty": Number,
    "presence_penalty": Number,
    "logprobs": bool | None,
    "top_logprobs": Count,
    "n": Count,
    "tools": list[msgspec.Raw],
    "tool_choice": Literal["auto", "none", "required"] | FunctionChoice | AllowedToolsChoice | None,
    "functions": list[msgspec.Raw],
    "function_call": Literal["auto", "none"] | NamedFunction | None,
    "parallel_tool_calls": bool | None,
    "response_format": AnyResponseFormat | None,
    "reasoning_effort": Effort | None,
    "reasoning": ReasoningObject | None,
    "thinking": ThinkingObject | None,
    "cache_control": CacheControl | None,
    "user": str | None,
    "safety_identifier": str | None,
    "service_tier": str | None,
}
DECODERS = {name: msgspec.json.Decoder(kind).decode for name, kind in KINDS.items()}
decode_tool = msgspec.json.Decoder(Tool).decode
PATH = re.compile(r"^(.*?)(?: - at `\$(.*)`)?$", re.DOTALL)

# What says nothing to any model: not even listed as dropped.
SILENT = GATEWAY_ONLY | {"model", "stream_options", "metadata", "store"}


def parse_chat(fields: Fields) -> Chat:
    """A request's fields → Chat. Raises Refusal INVALID_REQUEST; `param` names the field, such as messages[2].content.

    `null` counts as absent everywhere.
    """
    said: dict[str, Any] = {}
    other: Object = {}
    for name, raw in fields.items():
        if raw == NULL:
            continue
        decode = DECODERS.get(name)
        if decode is not None:
            said[name] = decode_field(name, raw, decode)
        elif name not in SILENT:
            other[name] = raw
    tools, native = parse_tools(said)
    say = said.get
    return Chat(
        messages=parse_messages(said.get("messages", ())),
        stream=bool(say("stream")),
        max_tokens=positive("max_completion_tokens", say("max_completion_tokens"))
        or positive("max_tokens", say("max_tokens")),
        temperature=say("temperature"),
        top_p=say("top_p"),
        top_k=say("top_k"),
        stop=parse_stop(say("stop")),
        seed=say("seed"),
        frequency_penalty=say("frequency_penalty"),
        presence_penalty=say("presence_penalty"),
        logprobs=bool(say("logprobs")),
        top_logprobs=say("top_logprobs"),
        n=positive("n", say("n")) or 1,
        tools=tools,
        native_tools=native,
        tool_choice=parse_tool_choice(said, tools, bool(native)),
        parallel_tool_calls=say("parallel_tool_calls"),
        response_format=parse_response_format(say("response_format")),
        reasoning=parse_reasoning(said),
        cache_control=say("cache_control"),
        user=say("safety_identifier") or say("user") or "",
        service_tier=say("service_tier") or "",
        other=other,
    )


def decode_field(name: str, raw: msgspec.Raw, decode: Any) -> Any:
    """One field, checked. Raises Refusal that names the place in it."""
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        found = PATH.match(str(error))
        why, path = (found[1], found[2] or "") if found is not None else (str(error), "")
        raise invalid(name + path, why[:1].lower() + why[1:].replace("`", "")) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(name, f"is not valid JSON: {error}") from None


def positive(name: str, count: int | None) -> int | None:
    """A count of 1 or more. Raises Refusal."""
    if count is not None and count < 1:
        raise invalid(name, "must be 1 or more")
    return count


def parse_stop(stop: str | list[str] | None) -> tuple[str, ...]:
    """`stop`, without empty ones, which no upstream takes."""
    if stop is None:
        return ()
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text)


# Messages


def parse_messages(messages: list[AnyMessage]) -> tuple[Message, ...]:
    """Messages with the legacy forms replaced. Raises Refusal where there are none."""
    if not messages:
        raise invalid("messages", "at least one message is required")
    kept: list[Message] = []
    for message in messages:
        match message:
            case DeveloperMessage():
                kept.append(SystemMessage(message.content, message.name, message.cache_control))
            case FunctionMessage():
                kept.append(ToolMessage(legacy_id(message.name), message.content, message.name))
            case AssistantMessage() if message.function_call is not None and not message.tool_calls:
                kept.append(with_tool_call(message, message.function_call))
            case _:
                kept.append(message)
    return tuple(kept)


def with_tool_call(message: AssistantMessage, call: FunctionCall) -> AssistantMessage:
    """The legacy single call as one of today's."""
    calls = (ToolCall(legacy_id(call.name), call),)
    return msgspec.structs.replace(message, function_call=None, tool_calls=calls)


def legacy_id(name: str) -> str:
    """Calls had no ids: a result belonged to the call of its name before it."""
    return f"call_{name}"


# Tools


def parse_tools(said: dict[str, Any]) -> tuple[tuple[Tool, ...], tuple[msgspec.Raw, ...]]:
    """`tools` and the legacy `functions` → functions, and what is none. Raises Refusal."""
    tools: list[Tool] = []
    native: list[msgspec.Raw] = []
    for place, raw in enumerate(said.get("tools", ())):
        kind = decode_field(f"tools[{place}]", raw, decode_tool_kind).type
        if kind == "function":
            tools.append(decode_field(f"tools[{place}]", raw, decode_tool))
        else:
            native.append(raw)
    for place, raw in enumerate(said.get("functions", ())):
        wrapped = msgspec.Raw(b'{"type":"function","function":%b}' % bytes(raw))
        tools.append(decode_field(f"functions[{place}]", wrapped, decode_tool))
    return tuple(tools), tuple(native)


class ToolKind(msgspec.Struct, frozen=True):
    """Of any tool."""

    type: str = "function"


decode_tool_kind = msgspec.json.Decoder(ToolKind).decode


def parse_tool_choice(said: dict[str, Any], tools: tuple[Tool, ...], has_native: bool) -> ToolChoice | None:
    """`tool_choice`, or the legacy `function_call`. Raises Refusal where it names a tool that is not there."""
    choice = said.get("tool_choice", said.get("function_call"))
    if choice is None:
        return None
    match choice:
        case FunctionChoice():
            made = ToolChoice("required", choice.function.name)
        case NamedFunction():
            made = ToolChoice("required", choice.name)
        case AllowedToolsChoice():
            allowed = tuple(tool.function.name for tool in choice.allowed_tools.tools)
            made = ToolChoice(choice.allowed_tools.mode, allowed=allowed)
        case _:
            made = ToolChoice(choice)
    names = {tool.function.name for tool in tools}
    for name in (made.name, *made.allowed):
        if name and name not in names:
            raise invalid("tool_choice", f"there is no function {name!r} among the tools")
    if made.mode == "required" and not tools and not has_native:
        raise invalid("tool_choice", "needs tools")
    return made


# What the answer is to be


def parse_response_format(said: AnyResponseFormat | None) -> ResponseFormat | None:
    """`response_format`. Raises Refusal where a schema is missing."""
    if said is None or said.type == "text":
        return None
    if said.type == "json_object":
        return ResponseFormat("json_object")
    wanted = said.json_schema
    if wanted is None or wanted.schema is None:
        raise invalid("response_format.json_schema.schema", "a JSON Schema is required")
    schema = msgspec.Raw(msgspec.json.encode(wanted.schema))
    return ResponseFormat("json_schema", wanted.name, schema, bool(wanted.strict), wanted.description or "")


def parse_reasoning(said: dict[str, Any]) -> Reasoning:
    """`reasoning`, `reasoning_effort` and `thinking`, in this order of precedence. Raises Refusal."""
    reasoning: ReasoningObject = said.get("reasoning") or ReasoningObject()
    exclude = bool(reasoning.exclude)
    effort: Effort | None = reasoning.effort or said.get("reasoning_effort")
    budget = positive("reasoning.max_tokens", reasoning.max_tokens)
    if budget is not None and reasoning.effort is not None:
        raise invalid("reasoning", "effort and max_tokens exclude each other")
    if reasoning.enabled is False or (effort == "none" and budget is None):
        return Reasoning(False, exclude=exclude)
    if budget is not None:
        return Reasoning(True, max_tokens=budget, exclude=exclude)
    if effort is not None:
        return Reasoning(True, effort, exclude=exclude)
    if reasoning.enabled:
        return Reasoning(True, exclude=exclude)
    thinking: ThinkingObject | None = said.get("thinking")
    if thinking is None:
        return Reasoning(exclude=exclude)
    if thinking.type == "disabled":
        return Reasoning(False, exclude=exclude)
    return Reasoning(True, max_tokens=positive("thinking.budget_tokens", thinking.budget_tokens), exclude=exclude)

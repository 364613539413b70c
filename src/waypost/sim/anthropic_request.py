"""Anthropic's Messages: requests into questions, with the checks that the API makes.

Wire facts: the recorded exchanges with `/v1/messages`, the anthropic Python SDK's types, and error messages that
users of the API have published.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from waypost.sim import conversation, signatures
from waypost.sim.answers import Media, Question
from waypost.sim.conversation import Said
from waypost.sim.target import Target, invalid

Block = dict[str, Any]


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class _Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Every member the API knows; what the simulator does not look at is only named."""

    max_tokens: int
    messages: list[_Message]
    model: str | None = None
    system: str | list[Block] | None = None
    stream: bool = False
    tools: list[Block] | None = None
    tool_choice: Block | None = None
    thinking: Block | None = None
    output_config: Block | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    cache_control: Block | None = None
    metadata: Block | None = None
    anthropic_version: str | None = None
    anthropic_beta: list[str] | None = None
    container: Any = None
    context_management: Any = None
    mcp_servers: Any = None
    inference_geo: Any = None
    speed: Any = None
    diagnostics: Any = None


_decode = msgspec.json.Decoder(_Request).decode
_WRONG = re.compile(r"Object (missing required|contains unknown) field `(\w+)`(?: - at `\$\.?(.*)`)?")


def parse_question(body: bytes, target: Target) -> Question:
    """A request body as a question.

    Raises msgspec.DecodeError for bad JSON, RefusedError for what the API would refuse.
    """
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        raise invalid(_explained(str(error))) from None
    model = target.model or request.model
    if model is None:
        raise invalid("model: Field required")
    for check in CHECKS:
        if problem := check(request):
            raise invalid(problem)
    thinking = request.thinking or {}
    ttl = _cache_lifetime(request)
    choice = request.tool_choice or {}
    return msgspec.structs.replace(
        conversation.ask(model, _turns(request)),
        stream=request.stream or target.method == "streamRawPredict",
        reasoning=thinking.get("type") in ("enabled", "adaptive"),
        reasoning_shown=thinking.get("display") != "omitted",
        max_tokens=request.max_tokens,
        stop=tuple(request.stop_sequences or ()),
        tools=tuple(
            conversation.tool(tool["name"], tool.get("description"), tool.get("input_schema"))
            for tool in request.tools or ()
            if "input_schema" in tool
        ),
        tool_choice=_CHOICES.get(choice.get("type", "auto"), f":{choice.get('name')}"),
        parallel=choice.get("disable_parallel_tool_use") is not True,
        schema=((request.output_config or {}).get("format") or {}).get("schema"),
        cached=ttl is not None,
        cache_written=ttl,
    )


_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def _explained(message: str) -> str:
    """The API's words for what msgspec found wrong."""
    found = _WRONG.match(message)
    if found is None:
        return message
    what, field, where = found.groups()
    path = ".".join(filter(None, [*re.findall(r"\w+", where or ""), field]))
    return f"{path}: {'Field required' if what.startswith('missing') else 'Extra inputs are not permitted'}"


def _blocks(message: _Message) -> list[Block]:
    return [{"type": "text", "text": message.content}] if isinstance(message.content, str) else message.content


def _numbered(request: _Request) -> Iterator[tuple[str, _Message, Block]]:
    """Every block of every message, with its place as error messages spell it."""
    for i, message in enumerate(request.messages):
        for j, block in enumerate(_blocks(message)):
            yield f"messages.{i}.content.{j}", message, block


def _cache_lifetime(request: _Request) -> str | None:
    """The lifetime of the last breakpoint, None without any."""
    marks = [mark for mark in _breakpoints(request) if isinstance(mark, dict)]
    return str(marks[-1].get("ttl", "5m")) if marks else None


def _breakpoints(request: _Request) -> Iterator[Any]:
    for tool in request.tools or ():
        yield tool.get("cache_control")
    for block in request.system if isinstance(request.system, list) else ():
        yield block.get("cache_control")
    for _, _, block in _numbered(request):
        yield block.get("cache_control")
    yield request.cache_control


# Conversation


def _turns(request: _Request) -> Iterator[Said]:
    if request.system is not None:
        system = request.system if isinstance(request.system, str) else _texts(request.system)
        yield Said("system", system)
    for message in request.messages:
        blocks = _blocks(message)
        for block in blocks:
            if block["type"] == "tool_result":
                content = block.get("content") or ""
                text = content if isinstance(content, str) else _texts(content)
                yield Said("tool", text, call_id=str(block.get("tool_use_id")))
        rest = [block for block in blocks if block["type"] != "tool_result"]
        if rest:
            called = tuple(str(block["name"]) for block in rest if block["type"] == "tool_use")
            shown = tuple(_media(block) for block in rest if block["type"] in _MEDIA)
            yield Said(message.role, _texts(rest), called, media=shown)


def _texts(blocks: list[Block]) -> str:
    return conversation.joined([str(block["text"]) for block in blocks if block.get("type") == "text"])


_MEDIA: dict[str, conversation.MediaKind] = {"image": "image", "document": "document"}


def _media(block: Block) -> Media:
    kind, source = _MEDIA[block["type"]], block.get("source") or {}
    if source.get("type") == "base64":
        return conversation.inline(kind, str(source.get("media_type")), str(source.get("data")))
    label = source.get("url") or source.get("file_id") or f"text/plain, {len(str(source.get('data', '')))} bytes"
    return Media(kind, str(label))


# Checks: each gives the API's complaint, or None


_MEMBERS = {
    "text": {"text", "citations"},
    "image": {"source", "transformations"},
    "document": {"source", "citations", "context", "title"},
    "tool_use": {"id", "name", "input", "caller", "toolset_name"},
    "tool_result": {"tool_use_id", "content", "is_error", "toolset_name"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
}
_REQUIRED = {"text": "text", "image": "source", "document": "source", "tool_result": "tool_use_id"}
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MEDIA_TYPES = {
    "image": ("image/jpeg", "image/png", "image/gif", "image/webp"),
    "document": ("application/pdf",),
}


def _check_messages(request: _Request) -> str | None:
    if not request.messages:
        return "messages: at least one message is required"
    if request.max_tokens < 1:
        return "max_tokens: Input should be greater than or equal to 1"
    for i, message in enumerate(request.messages[:-1]):
        if not message.content:
            return (
                f"messages.{i}: all messages must have non-empty content except for the optional final assistant "
                "message"
            )
    return None


def _check_blocks(request: _Request) -> str | None:
    for place, _, block in _numbered(request):
        kind = block.get("type")
        if kind is None:
            return f"{place}.type: Field required"
        known = _MEMBERS.get(kind)
        if known is None:
            continue
        if extra := set(block) - known - {"type", "cache_control"}:
            return f"{place}.{kind}.{min(extra)}: Extra inputs are not permitted"
        if (needed := _REQUIRED.get(kind)) and needed not in block:
            return f"{place}.{kind}.{needed}: Field required"
        if kind == "text" and not block["text"].strip():
            return "messages: text content blocks must contain non-whitespace text"
        if kind == "tool_use" and not isinstance(block.get("input"), dict):
            return f"{place}.tool_use.input: Input should be a valid dictionary"
        if kind == "tool_use" and not _ID.fullmatch(str(block.get("id"))):
            return f"{place}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
    return None


def _check_media(request: _Request) -> str | None:
    for place, _, block in _numbered(request):
        source = block.get("source")
        if block["type"] not in _MEDIA or not isinstance(source, dict) or source.get("type") != "base64":
            continue
        allowed = _MEDIA_TYPES[block["type"]]
        if source.get("media_type") not in allowed:
            wanted = " or ".join(f"'{name}'" for name in allowed)
            return f"{place}.{block['type']}.source.base64.media_type: Input should be {wanted}"
        try:
            _media(block)
        except ValueError as error:
            return f"{place}.{block['type']}.source.base64.data: {error}"
    return None


def _merged(request: _Request) -> Iterator[tuple[int, list[Block]]]:
    """The turns: messages of the same role that follow each other are one, numbered by the first of them."""
    for _, group in itertools.groupby(enumerate(request.messages), lambda numbered: numbered[1].role):
        messages = list(group)
        yield messages[0][0], [block for _, message in messages for block in _blocks(message)]


def _check_tool_results(request: _Request) -> str | None:
    waiting: set[str] = set()
    before = -1
    for i, blocks in _merged(request):
        answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        for j, identity in enumerate(answered):
            if identity not in waiting:
                return (
                    f"messages.{i}.content.{j}: unexpected `tool_use_id` found in `tool_result` blocks: {identity}. "
                    "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
                )
        if missing := waiting - set(answered):
            return (
                f"messages.{before}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(sorted(missing))}. Each `tool_use` block must have a corresponding `tool_result` block in "
                "the next message."
            )
        first = next((j for j, block in enumerate(blocks) if block["type"] == "tool_result"), 0)
        if answered and first:
            return f"messages.{i}: `tool_result` blocks must come first in the content of a message that has them"
        called = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if len(set(called)) < len(called):
            return f"messages.{i}: `tool_use` ids must be unique"
        waiting, before = set(called), i
    return None


def _check_signatures(request: _Request) -> str | None:
    for place, _, block in _numbered(request):
        if block["type"] == "thinking" and "signature" not in block:
            return f"{place}.thinking.signature: Field required"
        if block["type"] == "thinking" and not signatures.genuine(str(block["signature"]), block.get("thinking", "")):
            return f"{place}: Invalid `signature` in `thinking` block"
        if block["type"] == "redacted_thinking" and not signatures.genuine(str(block.get("data")), "redacted"):
            return f"{place}: Invalid `data` in `redacted_thinking` block"
    return None


def _check_thinking(request: _Request) -> str | None:
    thinking = request.thinking or {}
    if thinking.get("type") not in ("enabled", "adaptive"):
        return None
    if thinking["type"] == "enabled":
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int):
            return "thinking.enabled.budget_tokens: Field required"
        if budget < 1024:
            return "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
        if budget >= request.max_tokens:
            return "`max_tokens` must be greater than `thinking.budget_tokens`."
        if problem := _without_thinking(request):
            return problem
    if thinking["type"] == "enabled" and (request.tool_choice or {}).get("type") in ("any", "tool"):
        return "Thinking may not be enabled when tool_choice forces tool use."
    if request.temperature not in (None, 1):
        return "`temperature` may only be set to 1 when thinking is enabled."
    if request.top_k is not None:
        return "`top_k` must be unset when thinking is enabled."
    return None


def _without_thinking(request: _Request) -> str | None:
    """An open tool turn has to begin with the thinking that led to its calls."""
    for i in range(len(request.messages) - 1, -1, -1):
        blocks = _blocks(request.messages[i])
        kinds = [block["type"] for block in blocks]
        if request.messages[i].role == "user" and "tool_result" not in kinds:
            return None
        if "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking"):
            return (
                f"messages.{i}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{kinds[0]}`. "
                "When `thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding "
                "the lastmost set of `tool_use` and `tool_result` blocks)."
            )
    return None


def _check_sampling(request: _Request) -> str | None:
    if request.temperature is not None and not 0 <= request.temperature <= 1:
        return "temperature: range: 0..1"
    if any(not stop.strip() for stop in request.stop_sequences or ()):
        return "stop_sequences: each stop sequence must contain non-whitespace"
    return None


def _check_tools(request: _Request) -> str | None:
    names = []
    for i, tool in enumerate(request.tools or ()):
        name = tool.get("name")
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            return f"tools.{i}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
        if tool.get("type", "custom") == "custom":
            schema = tool.get("input_schema")
            if not isinstance(schema, dict):
                return f"tools.{i}.custom.input_schema: Field required"
            if schema.get("type") != "object":
                return f"tools.{i}.custom.input_schema.type: Input should be 'object'"
        names.append(name)
    if len(set(names)) < len(names):
        return "tools: Tool names must be unique."
    choice = request.tool_choice or {}
    if choice and not request.tools:
        return "tool_choice may only be specified while providing tools."
    if choice.get("type") == "tool" and choice.get("name") not in names:
        return f"Tool '{choice.get('name')}' not found in provided tools"
    return None


def _check_cache(request: _Request) -> str | None:
    count = sum(mark is not None for mark in _breakpoints(request))
    if count > 4:
        return f"A maximum of 4 blocks with cache_control may be provided. Found {count}."
    return None


# Limits a schema must not set, by the type they belong to.
_LIMITS = {
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "string": {"minLength", "maxLength"},
    "array": {"maxItems", "uniqueItems"},
}


def _check_schema(request: _Request) -> str | None:
    wanted = (request.output_config or {}).get("format")
    if wanted is None:
        return None
    if wanted.get("type") != "json_schema" or not isinstance(wanted.get("schema"), dict):
        return "output_config.format.schema: Field required"
    return next(_schema_problems(wanted["schema"]), None)


def _schema_problems(schema: Any) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if kind == "object" and schema.get("additionalProperties") is not False:
        yield ("output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false")
    if isinstance(kind, str) and (limits := _LIMITS.get(kind, set()) & set(schema)):
        names = ", ".join(sorted(limits))
        yield f"output_config.format.schema: For '{kind}' type, properties {names} are not supported"
    if kind == "array" and schema.get("minItems", 0) not in (0, 1):
        yield "output_config.format.schema: For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    for below in ("properties", "$defs", "definitions"):
        for child in (schema.get(below) or {}).values():
            yield from _schema_problems(child)
    for child in (schema.get("items"), *(schema.get("anyOf") or ()), *(schema.get("allOf") or ())):
        yield from _schema_problems(child)


CHECKS: tuple[Callable[[_Request], str | None], ...] = (
    _check_messages,
    _check_blocks,
    _check_media,
    _check_tool_results,
    _check_signatures,
    _check_sampling,
    _check_tools,
    _check_thinking,
    _check_cache,
    _check_schema,
)

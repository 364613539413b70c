"""Bedrock's Converse: requests into questions, with the checks that the API makes.

Wire facts: the recorded exchanges with `/model/ID/converse`, the service model that botocore ships, and error messages
that users of the API have published.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from waypost.sim import conversation, signatures
from waypost.sim.answers import Media, Question
from waypost.sim.conversation import Said
from waypost.sim.target import Target, invalid

Node = dict[str, Any]

_TOOLS = "toolConfig.tools"
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TOOL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_DOCUMENT_NAME = re.compile(r"(?!.*\s\s)[a-zA-Z0-9\s\-()\[\]]{1,200}")
_FORMATS: dict[str, tuple[str, ...]] = {
    "image": ("png", "jpeg", "gif", "webp"),
    "document": ("pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"),
    "video": ("mkv", "mov", "mp4", "webm", "flv", "mpeg", "mpg", "wmv", "three_gp", "video/mp4"),
}


class _Message(msgspec.Struct):
    role: str
    content: list[Node]


class _Inference(msgspec.Struct):
    maxTokens: int | None = None
    temperature: float | None = None
    topP: float | None = None
    stopSequences: list[str] | None = None


class _Request(msgspec.Struct):
    messages: list[_Message]
    system: list[Node] | None = None
    inferenceConfig: _Inference | None = None
    toolConfig: Node | None = None
    additionalModelRequestFields: Node | None = None
    outputConfig: Node | None = None


_decode = msgspec.json.Decoder(_Request).decode


def parse_question(body: bytes, target: Target) -> Question:
    """A request body as a question; the model and whether to stream are in the path."""
    request = _decode(body)
    for check in _CHECKS:
        for problem in check(request):
            raise invalid(problem)
    limits = request.inferenceConfig or _Inference()
    tools = request.toolConfig or {}
    points = [block["cachePoint"] for block in _everything(request, tools) if "cachePoint" in block]
    lifetimes = {point.get("ttl", "5m") for point in points}
    return msgspec.structs.replace(
        conversation.ask(target.model, _turns(request)),
        stream=target.method == "converse-stream",
        reasoning=_thinks(request.additionalModelRequestFields or {}),
        max_tokens=limits.maxTokens,
        stop=tuple(limits.stopSequences or ()),
        tools=tuple(
            conversation.tool(spec["name"], spec.get("description"), (spec.get("inputSchema") or {}).get("json"))
            for spec in _specs(tools)
        ),
        tool_choice=_tool_choice(tools.get("toolChoice") or {}),
        schema=_schema(request.outputConfig or {}),
        cached=bool(points),
        cache_written=max(lifetimes, key=("5m", "1h").index, default=None),
    )


def _specs(tools: Node) -> list[Node]:
    return [tool["toolSpec"] for tool in tools.get("tools") or () if "toolSpec" in tool]


def _tool_choice(choice: Node) -> str:
    if "tool" in choice:
        return f":{choice['tool'].get('name')}"
    return "required" if "any" in choice else "auto"


def _thinks(fields: Node) -> bool:
    """Each vendor's models have a member of their own for it."""
    for name in ("thinking", "reasoning_config", "reasoningConfig"):
        wanted = fields.get(name)
        if (wanted.get("type") if isinstance(wanted, dict) else wanted) not in (None, "disabled"):
            return True
    return fields.get("reasoning_effort") not in (None, "none", "minimal")


def _schema(output: Node) -> Node | None:
    wanted = output.get("textFormat") or {}
    if wanted.get("type") != "json_schema":
        return None
    text = ((wanted.get("structure") or {}).get("jsonSchema") or {}).get("schema")
    try:
        schema = msgspec.json.decode(text) if isinstance(text, str) else None
    except msgspec.DecodeError:
        schema = None
    if not isinstance(schema, dict):
        raise invalid("The schema in outputConfig.textFormat.structure.jsonSchema is not valid JSON.")
    return schema


def _everything(request: _Request, tools: Node) -> Iterator[Node]:
    yield from tools.get("tools") or ()
    yield from request.system or ()
    for message in request.messages:
        yield from message.content


# Conversation


def _turns(request: _Request) -> Iterator[Said]:
    if system := [str(block["text"]) for block in request.system or () if "text" in block]:
        yield Said("system", conversation.joined(system))
    for message in request.messages:
        for block in message.content:
            if result := block.get("toolResult"):
                parts = result.get("content") or ()
                texts = [_result_text(part) for part in parts if "text" in part or "json" in part]
                yield Said("tool", conversation.joined(texts), call_id=str(result.get("toolUseId")))
        rest = [block for block in message.content if "toolResult" not in block and "cachePoint" not in block]
        if rest:
            texts = [str(block["text"]) for block in rest if "text" in block]
            called = tuple(str(block["toolUse"].get("name")) for block in rest if "toolUse" in block)
            shown = tuple(_media(kind, block[kind]) for block in rest for kind in _FORMATS if kind in block)
            role: Literal["assistant", "user"] = "assistant" if message.role == "assistant" else "user"
            yield Said(role, conversation.joined(texts), called, media=shown)


def _result_text(part: Node) -> str:
    return str(part["text"]) if "text" in part else msgspec.json.encode(part["json"]).decode()


def _media(kind: str, block: Node) -> Media:
    source = block.get("source") or {}
    mime = {"pdf": "application/pdf"}.get(str(block.get("format")), f"{kind}/{block.get('format')}")
    if "bytes" in source:
        return conversation.inline(conversation.kind_of(mime), mime, str(source["bytes"]))
    return Media(kind, str((source.get("s3Location") or {}).get("uri", mime)))


# Checks: each yields the API's complaints


def _check_roles(request: _Request) -> Iterator[str]:
    roles = [message.role for message in request.messages]
    if not roles:
        yield "The messages field is required for this model. Add at least one message and try again."
    elif unknown := set(roles) - {"user", "assistant"}:
        yield (
            f"1 validation error detected: Value '{min(unknown)}' at 'messages.1.member.role' failed to satisfy "
            "constraint: Member must satisfy enum value set: [user, assistant]"
        )
    elif any(one == other for one, other in itertools.pairwise(roles)):
        yield (
            "A conversation must alternate between user and assistant roles. Make sure the conversation alternates "
            "between user and assistant roles and try again."
        )


def _check_content(request: _Request) -> Iterator[str]:
    for i, message in enumerate(request.messages):
        if not message.content:
            yield (
                f"The content field in the Message object at messages.{i} is empty. Add a ContentBlock object to the "
                "content field and try again."
            )
        for j, block in enumerate(message.content):
            place = f"messages.{i}.content.{j}"
            if len(block) != 1:
                yield f"Only one member of the ContentBlock union at {place} may be set."
            if block.get("text") == "":
                yield (
                    f"The text field in the ContentBlock object at {place} is blank. Add text to the text field, and "
                    "try again."
                )
            if "toolUse" in block and not _TOOL_ID.fullmatch(str(block["toolUse"].get("toolUseId"))):
                yield f"The toolUseId at {place} failed to satisfy constraint: [a-zA-Z0-9_.:-]+, at most 64 characters"
            if "toolUse" in block and not isinstance(block["toolUse"].get("input"), dict):
                yield f"The format of the value at {place}.toolUse.input is invalid. Provide a json object."


def _check_media(request: _Request) -> Iterator[str]:
    for i, message in enumerate(request.messages):
        for j, block in enumerate(message.content):
            kind = next((kind for kind in _FORMATS if kind in block), None)
            if kind is None:
                continue
            place, held = f"messages.{i}.content.{j}.{kind}", block[kind]
            if held.get("format") not in (*_FORMATS[kind], None if kind == "document" else ""):
                yield f"Value '{held.get('format')}' at '{place}.format' failed to satisfy constraint: {_FORMATS[kind]}"
            if kind == "document" and not _DOCUMENT_NAME.fullmatch(str(held.get("name", ""))):
                yield (
                    "The document file name can only contain alphanumeric characters, whitespace characters, hyphens, "
                    "parentheses, and square brackets. The name can't contain more than one consecutive whitespace "
                    "character."
                )
            try:
                _media(kind, held)
            except ValueError as error:
                yield f"The value at {place}.source.bytes is no base64: {error}"
        kinds = {name for block in message.content for name in block}
        if "document" in kinds and "text" not in kinds:
            yield "A text content block is required when using documents."


def _check_tools(request: _Request) -> Iterator[str]:
    used = any("toolUse" in block or "toolResult" in block for m in request.messages for block in m.content)
    if used and request.toolConfig is None:
        yield "The toolConfig field must be defined when using toolUse and toolResult content blocks."
    if request.toolConfig is None:
        return
    specs = _specs(request.toolConfig)
    if not request.toolConfig.get("tools"):
        yield "1 validation error detected: Value '[]' at 'toolConfig.tools' failed to satisfy constraint: at least 1"
    for i, spec in enumerate(specs):
        if not _TOOL_NAME.fullmatch(str(spec.get("name"))):
            yield f"Value '{spec.get('name')}' at '{_TOOLS}.{i + 1}.member.toolSpec.name' failed to satisfy pattern"
        schema = (spec.get("inputSchema") or {}).get("json")
        if not isinstance(schema, dict) or schema.get("type") != "object":
            yield (f"The value at {_TOOLS}.{i}.toolSpec.inputSchema.json.type must be one of the following: object.")
        if spec.get("description") == "":
            yield f"Value at '{_TOOLS}.{i + 1}.member.toolSpec.description' failed to satisfy: length at least 1"
    names = [spec.get("name") for spec in specs]
    if len(set(names)) < len(names):
        yield "The tool names in toolConfig.tools must be unique."


def _check_results(request: _Request) -> Iterator[str]:
    """Results answer all the calls of the turn before, and nothing else."""
    waiting: list[str] = []
    for i, message in enumerate(request.messages):
        # What the model's own tools said stands in its own turn.
        results = [block["toolResult"] for block in message.content if "toolResult" in block]
        answered = [str(result.get("toolUseId")) for result in results if message.role == "user"]
        if missing := [identity for identity in waiting if identity not in answered]:
            yield f"Expected toolResult blocks at messages.{i}.content for the following Ids: {', '.join(missing)}"
        if len(answered) > len(waiting):
            yield (
                f"The number of toolResult blocks at messages.{i}.content exceeds the number of toolUse blocks of "
                "previous turn."
            )
        waiting = [str(call.get("toolUseId")) for call in _calls(message)]


def _calls(message: _Message) -> list[Node]:
    calls = [block["toolUse"] for block in message.content if "toolUse" in block]
    return [call for call in calls if call.get("type") != "server_tool_use"]


def _check_signatures(request: _Request) -> Iterator[str]:
    for i, message in enumerate(request.messages):
        for j, block in enumerate(message.content):
            text = (block.get("reasoningContent") or {}).get("reasoningText")
            if text and not signatures.genuine(str(text.get("signature", "")), str(text.get("text", ""))):
                yield (
                    "The model returned the following errors: "
                    f"messages.{i}.content.{j}: Invalid `signature` in `thinking` block"
                )


_CHECKS = (
    _check_roles,
    _check_content,
    _check_media,
    _check_tools,
    _check_results,
    _check_signatures,
)

"""Gemini's generateContent: requests into questions, with the checks that the API makes.

Wire facts: the recorded exchanges with the Gemini API and Vertex AI, the published discovery document's names, and
error messages that users of the API have published. As in all of Google's JSON, members may be spelt in camel case
or with underscores.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Iterator
from typing import Any

import msgspec

from waypost.sim import conversation, signatures
from waypost.sim.answers import Media, Question, Tool
from waypost.sim.conversation import Said
from waypost.sim.target import Target, invalid

Node = dict[str, Any]
# What a history from another model may carry in place of a signature.
_DUMMIES = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
SIGNED = "thought"
_EFFORTLESS = ("MINIMAL", "minimal")


def _members(names: str) -> frozenset[str]:
    return frozenset(names.split())


_TOP = _members(
    "contents systemInstruction generationConfig tools toolConfig safetySettings cachedContent labels model "
    "serviceTier store modelArmorConfig"
)
_GENERATION = _members(
    "stopSequences responseMimeType responseSchema responseJsonSchema _responseJsonSchema responseModalities "
    "responseFormat candidateCount maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty "
    "responseLogprobs logprobs enableEnhancedCivicAnswers speechConfig thinkingConfig imageConfig mediaResolution "
    "audioTimestamp routingConfig modelSelectionConfig"
)
_THINKING = _members("includeThoughts thinkingBudget thinkingLevel")
_PART = _members(
    "text thought thoughtSignature inlineData fileData functionCall functionResponse executableCode "
    "codeExecutionResult videoMetadata mediaResolution partMetadata toolCall toolResponse"
)
_DECLARATION = _members("name description behavior parameters parametersJsonSchema response responseJsonSchema")
_SCHEMA = _members(
    "type format title description nullable enum maxItems minItems properties required minProperties maxProperties "
    "minLength maxLength pattern example anyOf propertyOrdering default items minimum maximum"
)


def member(node: Node, name: str) -> Any:
    """A member under its camel-case name or the one with underscores; None if there is neither."""
    value = node.get(name)
    return node.get(_underscored(name)) if value is None else value


def _underscored(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _camel(name: str) -> str:
    first, *rest = name.lstrip("_").split("_")
    return ("_" if name.startswith("_") else "") + first + "".join(word[:1].upper() + word[1:] for word in rest)


def decode(body: bytes) -> Node:
    """A body that has to be an object. Raises msgspec.DecodeError, or RefusedError for any other JSON."""
    node = msgspec.json.decode(body)
    if not isinstance(node, dict):
        raise invalid("Invalid JSON payload received. Expected an object.")
    return node


def parse_question(body: bytes, target: Target) -> Question:
    """A request body as a question; the model and the method are in the path."""
    if target.method == "streamGenerateContent" and "alt=sse" not in target.query:
        raise invalid("The simulator streams server-sent events only: add alt=sse to the query.")
    node = decode(body)
    problems = [problem for check in _CHECKS for problem in check(node, target.model)]
    if problems:
        raise invalid("\n".join(problems))
    config = member(node, "generationConfig") or {}
    thinking = member(config, "thinkingConfig") or {}
    calling = member(member(node, "toolConfig") or {}, "functionCallingConfig") or {}
    allowed = member(calling, "allowedFunctionNames") or []
    tools = tuple(tool for tool in _tools(node) if not allowed or tool.name in allowed)
    return msgspec.structs.replace(
        conversation.ask(target.model, _turns(node)),
        stream=target.method == "streamGenerateContent",
        reasoning=_thinks(thinking),
        reasoning_shown=member(thinking, "includeThoughts") is True,
        max_tokens=member(config, "maxOutputTokens"),
        stop=tuple(member(config, "stopSequences") or ()),
        n=max(1, min(member(config, "candidateCount") or 1, 8)),
        tools=tools,
        tool_choice={"NONE": "none", "ANY": "required"}.get(str(calling.get("mode", "AUTO")).upper(), "auto"),
        schema=_wanted_schema(config),
    )


def is_third(model: str) -> bool:
    """Whether a model is of the generation that signs its calls and insists on the signatures."""
    return "gemini-3" in model


def _thinks(thinking: Node) -> bool:
    budget, level = member(thinking, "thinkingBudget"), member(thinking, "thinkingLevel")
    if budget is not None:
        return bool(budget != 0)
    if level is not None:
        return level not in _EFFORTLESS
    return member(thinking, "includeThoughts") is True


def _wanted_schema(config: Node) -> Node | None:
    if member(config, "responseMimeType") != "application/json":
        return None
    schema: Node | None = member(config, "responseJsonSchema") or config.get("_responseJsonSchema")
    return schema or json_schema(member(config, "responseSchema") or {})


def json_schema(schema: Any) -> Node:
    """One of Google's schemas, with its types in capitals, as a JSON schema."""
    if not isinstance(schema, dict):
        return {}
    made = {name: value for name, value in schema.items() if name not in ("nullable", "propertyOrdering")}
    if "type" in made:
        made["type"] = str(made["type"]).lower()
        if schema.get("nullable"):
            made["type"] = [made["type"], "null"]
    if "properties" in made:
        made["properties"] = {name: json_schema(child) for name, child in made["properties"].items()}
    if "items" in made:
        made["items"] = json_schema(made["items"])
    for name in ("anyOf", "any_of"):
        if name in made:
            made["anyOf"] = [json_schema(child) for child in made.pop(name)]
    # Google writes 64-bit numbers as strings.
    for name in ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"):
        if name in made:
            made[name] = int(made[name])
    return made


# Conversation


def _parts(content: Any) -> list[Node]:
    if isinstance(content, str):
        return [{"text": content}]
    return list(content.get("parts") or ())


def _turns(node: Node) -> Iterator[Said]:
    if system := member(node, "systemInstruction"):
        yield Said("system", _texts(_parts(system)))
    for content in node.get("contents") or ():
        parts = _parts(content)
        for part in parts:
            if response := member(part, "functionResponse"):
                text = msgspec.json.encode(response.get("response")).decode()
                yield Said("tool", text, call_id=str(response.get("id") or response.get("name")))
        rest = [part for part in parts if member(part, "functionResponse") is None]
        if rest:
            called = tuple(str(call["name"]) for part in rest if (call := member(part, "functionCall")))
            shown = tuple(media for part in rest if (media := _media(part)))
            yield Said("assistant" if _role(content) == "model" else "user", _texts(rest), called, media=shown)


def _texts(parts: list[Node]) -> str:
    return conversation.joined([str(part["text"]) for part in parts if part.get("text") and not part.get("thought")])


def _media(part: Node) -> Media | None:
    inline, filed = member(part, "inlineData"), member(part, "fileData")
    if inline:
        mime = str(member(inline, "mimeType"))
        data = str(inline.get("data", "")).replace("-", "+").replace("_", "/")
        try:
            return conversation.inline(conversation.kind_of(mime), mime, data + "=" * (-len(data) % 4))
        except ValueError:
            raise invalid("Invalid value at 'contents[0].parts' (data), Base64 decoding failed") from None
    if filed:
        return Media(conversation.kind_of(str(member(filed, "mimeType") or "")), str(member(filed, "fileUri")))
    return None


def _tools(node: Node) -> Iterator[Tool]:
    for declaration in _declarations(node):
        raw = member(declaration, "parametersJsonSchema")
        schema = raw if raw is not None else json_schema(member(declaration, "parameters") or {})
        yield conversation.tool(str(declaration.get("name")), declaration.get("description"), schema)


def _declarations(node: Node) -> Iterator[Node]:
    tools = node.get("tools") or ()
    for tool in [tools] if isinstance(tools, dict) else tools:
        yield from member(tool, "functionDeclarations") or ()


# Checks: each yields the API's complaints


def _unknown(node: Any, known: frozenset[str], place: str) -> Iterator[str]:
    for name in node if isinstance(node, dict) else ():
        if name not in known and _camel(name) not in known:
            where = f" at '{place}'" if place else ""
            yield f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'


def _check_names(node: Node, model: str) -> Iterator[str]:
    yield from _unknown(node, _TOP, "")
    config = member(node, "generationConfig") or {}
    yield from _unknown(config, _GENERATION, "generation_config")
    yield from _unknown(member(config, "thinkingConfig"), _THINKING, "generation_config.thinking_config")
    yield from _unknown_in_schema(member(config, "responseSchema"), "generation_config.response_schema")
    for i, content in enumerate(node.get("contents") or ()):
        for j, part in enumerate(_parts(content)):
            yield from _unknown(part, _PART, f"contents[{i}].parts[{j}]")
    for i, declaration in enumerate(_declarations(node)):
        place = f"tools[0].function_declarations[{i}]"
        yield from _unknown(declaration, _DECLARATION, place)
        yield from _unknown_in_schema(member(declaration, "parameters"), f"{place}.parameters")


def _unknown_in_schema(schema: Any, place: str) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    yield from _unknown(schema, _SCHEMA, place)
    for name, child in (schema.get("properties") or {}).items():
        yield from _unknown_in_schema(child, f"{place}.properties[{name}].value")
    yield from _unknown_in_schema(schema.get("items"), f"{place}.items")
    for i, child in enumerate(member(schema, "anyOf") or ()):
        yield from _unknown_in_schema(child, f"{place}.any_of[{i}]")


def _check_contents(node: Node, model: str) -> Iterator[str]:
    contents = node.get("contents")
    if not contents:
        yield "* GenerateContentRequest.contents: contents is not specified\n"
        return
    for i, content in enumerate(contents):
        if not _parts(content):
            yield f"* GenerateContentRequest.contents[{i}].parts: contents.parts must not be empty.\n"
        if isinstance(content, dict) and content.get("role") not in (None, "user", "model", "function"):
            yield "Please use a valid role: user, model."


def _check_turns(node: Node, model: str) -> Iterator[str]:
    """Calls and their results come in equal number, one turn right after the other; turns of one role are one."""
    waiting = 0
    grouped = itertools.groupby(node.get("contents") or (), lambda content: _role(content))
    for parts in ([part for content in group for part in _parts(content)] for _, group in grouped):
        answered = sum(member(part, "functionResponse") is not None for part in parts)
        if answered != waiting:
            yield (
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
            return
        waiting = sum(member(part, "functionCall") is not None for part in parts)


def _check_options(node: Node, model: str) -> Iterator[str]:
    config = member(node, "generationConfig") or {}
    thinking = member(config, "thinkingConfig") or {}
    if member(thinking, "thinkingBudget") is not None and member(thinking, "thinkingLevel") is not None:
        yield "You can only set only one of thinking budget and thinking level."
    if member(thinking, "thinkingLevel") is not None and "gemini-2" in model:
        yield "Thinking level is not supported for this model."
    schema = member(config, "responseSchema") or member(config, "responseJsonSchema")
    if schema and member(config, "responseMimeType") != "application/json":
        yield "Function calling config or response schema is set without response_mime_type 'application/json'."


def _check_signatures(node: Node, model: str) -> Iterator[str]:
    """Signatures that are there have to be ours; in the current turn the first call of each step needs one."""
    contents = node.get("contents") or []
    begin = max((i for i, content in enumerate(contents) if _is_asking(content)), default=0)
    for i, content in enumerate(contents):
        calls = [part for part in _parts(content) if member(part, "functionCall")]
        for part in _parts(content):
            signature = member(part, "thoughtSignature")
            if signature is not None and not _is_accepted(str(signature)):
                yield "Corrupted thought signature."
                return
        if is_third(model) and i > begin and calls and member(calls[0], "thoughtSignature") is None:
            name = member(calls[0], "functionCall").get("name")
            yield (
                "Function call is missing a thought_signature in functionCall parts. This is required for tools to "
                "work correctly, and missing thought_signature may lead to degraded model performance. Additional "
                f"data, function call `default_api:{name}` , position {i + 1}. Please refer to "
                "https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
            )
            return


def _role(content: Any) -> str:
    role = "user" if isinstance(content, str) else content.get("role")
    return "model" if role == "model" else "user"


def _is_asking(content: Any) -> bool:
    return _role(content) == "user" and any(member(part, "functionResponse") is None for part in _parts(content))


def _is_accepted(signature: str) -> bool:
    if signature in _DUMMIES or signatures.genuine(signature, SIGNED):
        return True
    try:
        return base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)).decode("latin-1") in _DUMMIES
    except binascii.Error:
        return False


_CHECKS = (_check_names, _check_contents, _check_turns, _check_options, _check_signatures)

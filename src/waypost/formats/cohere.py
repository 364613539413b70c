"""Cohere's v2 chat: `/chat`.

Source of the wire facts: docs.cohere.com (chat, tool use, structured outputs, reasoning, image inputs, errors), the
types of Cohere's own SDK, and recorded exchanges.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from waypost.chat import (
    AssistantMessage,
    Chat,
    Content,
    Function,
    ImagePart,
    Part,
    RefusalPart,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from waypost.completion import Fault, FaultKind
from waypost.formats.cohere_answer import COHERE, Stream, parse_response
from waypost.formats.format import (
    Model,
    Names,
    Reading,
    Rendered,
    StreamParser,
    Unsupported,
    encode,
    invalid,
    parse_arguments,
    parts_of,
    settle_thinking,
    text_of,
    unheard_wish,
    unknown_fields,
)

__all__ = ["known_model", "parse_error", "parse_response", "render_request", "stream_parser"]

Block = dict[str, Any]

MOST_STOPS = 5
NO_OUTPUT = "(no output)"
ONLY_JSON = "Answer with one JSON object and nothing else: no other words, no code fence."
SCHEMA_TOOL = "structured_answer"
SCHEMA_SAID = "Give your final answer by calling this tool."
# Fields of Cohere's own that a caller may send as they are.
OWN = frozenset({"documents", "citation_options", "safety_mode", "priority", "strict_tools"})

TEXT: dict[str, Any] = {"inputs": frozenset({"text"}), "urls": frozenset()}
# The first that fits. What a row does not say is as in `known_model`. Source: docs.cohere.com, models.
ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"command-a-reasoning", {**TEXT, "reasoning": "budget", "reasons_by_default": True, "max_output": 32_000}),
    (r"command-a-vision|aya-vision", {"tools": False}),
    (r"command-a-translate|aya", {**TEXT, "tools": False}),
    (r"command-a|command-r7b", TEXT),
    (r"command-(r|light|nightly)|command$", {**TEXT, "forced_tools": False, "max_output": 4000}),
    ("", {}),
)
COMPILED = tuple((re.compile(pattern), row) for pattern, row in ROWS)


def known_model(id: str) -> Model:
    """A model by its id, such as command-a-03-2025."""
    row = next(row for pattern, row in COMPILED if pattern.search(id))
    said: dict[str, Any] = {
        "urls": frozenset({"image"}), "schema_with_tools": False, "prefill": False,
    }  # fmt: skip
    return Model(**said | row | {"id": id})


def render_request(chat: Chat, model: Model) -> Rendered:
    """A request for Cohere. Raises Unsupported, Refusal."""
    if chat.n > 1:
        raise Unsupported("n", f"{model.id} gives one answer at a time")
    dropped = [*unknown_fields(chat, OWN), *unheard(chat), *unheard_wish(chat, model)]
    names = Names("a-zA-Z0-9_-", 64)
    answer = Answer(chat, model, names)
    messages = Conversation(model, names).render(chat)
    if answer.words:
        messages.insert(0, {"role": "system", "content": answer.words})
    body: dict[str, Any] = {"model": model.id, "messages": messages, "stream": chat.stream}
    if answer.tools:
        body["tools"] = answer.tools
        if any(tool.function.strict for tool in chat.tools):
            body["strict_tools"] = True
    if answer.choice:
        body["tool_choice"] = answer.choice
    if answer.format is not None:
        body["response_format"] = answer.format
    add_numbers(body, chat)
    thinking = settle_thinking(chat, model)
    if thinking.on:
        budget = {"token_budget": thinking.budget} if thinking.budget else {}
        body["thinking"] = {"type": "enabled", **budget}
    elif thinking.on is False:
        body["thinking"] = {"type": "disabled"}
    for name in OWN & chat.other.keys():
        body[name] = chat.other[name]
    reading = Reading(
        schema_tool=answer.schema_tool,
        names=names.changed(),
        first_call_only=chat.parallel_tool_calls is False,
        strip_fences=bool(answer.words),
    )
    return Rendered(path="/chat", body=encode(body), dropped=tuple(dropped), reading=reading)


def unheard(chat: Chat) -> list[str]:
    """What was asked for and Cohere has no field for, where the answer is the same kind of answer without it."""
    asked = {
        "frequency_penalty": (chat.frequency_penalty or 0) < 0,
        "presence_penalty": (chat.presence_penalty or 0) < 0,
        "top_logprobs": bool(chat.top_logprobs),
        "stop": len(chat.stop) > MOST_STOPS,
        "user": bool(chat.user),
        "service_tier": chat.service_tier not in ("", "auto", "default"),
        "cache_control": chat.cache_control is not None,
    }
    return [name for name, is_asked in asked.items() if is_asked]


def add_numbers(body: dict[str, Any], chat: Chat) -> None:
    """Limits and sampling, each within what Cohere takes."""
    said = {
        "max_tokens": chat.max_tokens,
        "stop_sequences": chat.stop[:MOST_STOPS] or None,
        "temperature": None if chat.temperature is None else min(chat.temperature, 1),
        "p": None if chat.top_p is None else min(max(chat.top_p, 0.01), 0.99),
        "k": None if chat.top_k is None else min(chat.top_k, 500),
        "seed": None if chat.seed is None else abs(chat.seed),
        "frequency_penalty": within(chat.frequency_penalty),
        "presence_penalty": within(chat.presence_penalty),
        "logprobs": chat.logprobs or None,
    }
    body |= {name: value for name, value in said.items() if value is not None}


def within(penalty: float | None) -> float | None:
    """A penalty from 0 to 1; negative ones have no meaning to Cohere."""
    return None if penalty is None or penalty <= 0 else min(penalty, 1)


# Tools, and the shape of the answer


class Answer:
    """What the answer may be. A schema or JSON of Cohere's own making excludes tools and documents."""

    def __init__(self, chat: Chat, model: Model, names: Names) -> None:
        """Raises Unsupported."""
        self.choice = ""
        self.format: Block | None = None
        self.schema_tool = ""
        self.words = ""
        wanted = chat.tool_choice
        if chat.native_tools:
            raise Unsupported("tools", f"{model.id} takes functions only")
        if chat.tools and not model.tools:
            raise Unsupported("tools", f"{model.id} has no tools")
        only = wanted.allowed or ((wanted.name,) if wanted.name else ()) if wanted is not None else ()
        self.tools = [
            render_tool(tool.function, names) for tool in chat.tools if not only or tool.function.name in only
        ]
        if wanted is not None and self.tools and wanted.mode != "auto":
            if wanted.mode == "required" and not model.forced_tools:
                raise Unsupported("tool_choice", f"{model.id} cannot be made to call a tool")
            self.choice = "REQUIRED" if wanted.mode == "required" else "NONE"
        self._shape(chat, model)

    def _shape(self, chat: Chat, model: Model) -> None:
        """A schema or JSON natively where nothing excludes it; else by a tool, or in words."""
        wanted = chat.response_format
        if wanted is None:
            return
        is_free = (not self.tools or model.schema_with_tools) and "documents" not in chat.other
        schema = None if wanted.schema is None else msgspec.json.decode(wanted.schema)
        is_native = model.json_object if schema is None else model.schema
        if is_free and is_native:
            self.format = {"type": "json_object"} if schema is None else {"type": "json_object", "json_schema": schema}
        elif schema is None:
            self.words = ONLY_JSON
        elif model.tools and model.forced_tools and self.choice != "NONE" and schema.get("type", "object") == "object":
            if chat.tool_choice is not None and chat.tool_choice.name:
                return  # the caller forces a tool of its own: no text will come
            self._shape_by_tool(wanted.description, schema)
        elif wanted.strict:
            raise Unsupported("response_format", f"{model.id} cannot hold itself to a schema beside tools")
        else:
            self.words = f"{ONLY_JSON} It must obey this JSON Schema: {encode(schema).decode()}"

    def _shape_by_tool(self, description: str, schema: dict[str, Any]) -> None:
        taken = {tool["function"]["name"] for tool in self.tools}
        self.schema_tool = SCHEMA_TOOL
        while self.schema_tool in taken:
            self.schema_tool += "_"
        said = "\n\n".join(filter(None, [description, SCHEMA_SAID]))
        function = {"name": self.schema_tool, "description": said, "parameters": {"type": "object", **schema}}
        self.tools.append({"type": "function", "function": function})
        self.choice = "REQUIRED"


def render_tool(function: Function, names: Names) -> Block:
    """One of `tools`."""
    made: Block = {"name": names.fit(function.name)}
    if function.description:
        made["description"] = function.description
    parameters: Any = function.parameters or {"type": "object", "properties": {}}
    made["parameters"] = parameters if "type" in parameters else {"type": "object", **parameters}
    return {"type": "function", "function": made}


# The conversation


class Conversation:
    """`messages` in the making. Owned by one rendering."""

    def __init__(self, model: Model, names: Names) -> None:
        self._model = model
        self._names = names
        self._pictures: list[Block] = []  # of results: they follow, in the user's name

    def render(self, chat: Chat) -> list[Block]:
        """Every message. Raises Unsupported, Refusal."""
        made: list[Block] = []
        for place, message in enumerate(chat.messages):
            if isinstance(message, ToolMessage):
                made.append(self._result(message, place))
                continue
            made += self._pictures_of_results()
            if isinstance(message, AssistantMessage):
                made += self._assistant(message, place)
            elif isinstance(message, UserMessage):
                content = self._content(message.content, place)
                made += [{"role": "user", "content": content}] if content else []
            else:
                text = text_of(message.content, f"messages[{place}].content")
                made += [{"role": "system", "content": text}] if text else []
        made += self._pictures_of_results()
        if not made:
            raise invalid("messages", "nothing is said in them")
        if made[-1]["role"] == "assistant" and not self._model.prefill:
            raise Unsupported("messages", f"{self._model.id} does not take an assistant's message as the last one")
        return made

    def _result(self, message: ToolMessage, place: int) -> Block:
        """A result; pictures in it follow all results of the turn."""
        content = self._content(message.content, place)
        if isinstance(content, list):
            pictures = [block for block in content if block["type"] == "image_url"]
            if pictures:
                name = f"The result of {message.tool_call_id}:"
                self._pictures += [{"type": "text", "text": name}, *pictures]
            content = [block for block in content if block["type"] == "text"]
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": content or NO_OUTPUT}

    def _pictures_of_results(self) -> list[Block]:
        pictures, self._pictures = self._pictures, []
        return [{"role": "user", "content": pictures}] if pictures else []

    def _assistant(self, message: AssistantMessage, place: int) -> list[Block]:
        """Thinking and words; beside calls, words are the plan to make them."""
        content = self._blocks(message.content, place)
        if not content and message.refusal:
            content = [{"type": "text", "text": message.refusal}]
        mine = [detail for detail in message.reasoning_details or () if detail.format == COHERE]
        thoughts = [{"type": "thinking", "thinking": detail.text} for detail in mine if detail.text]
        if not message.tool_calls:
            content = [*thoughts, *content]
            return [{"role": "assistant", "content": content}] if content else []
        made: Block = {"role": "assistant", "tool_calls": [self._call(call) for call in message.tool_calls]}
        plan = "".join(detail.summary or "" for detail in mine) or "".join(block["text"] for block in content)
        if plan:
            made["tool_plan"] = plan
        if thoughts:
            made["content"] = thoughts
        return [made]

    def _call(self, call: ToolCall) -> Block:
        arguments = bytes(parse_arguments(call.function.arguments)).decode()
        function = {"name": self._names.fit(call.function.name), "arguments": arguments}
        return {"id": call.id, "type": "function", "function": function}

    def _content(self, content: Content, place: int) -> str | list[Block]:
        """Text as it is; parts as blocks."""
        return content if isinstance(content, str) else self._blocks(content, place)

    def _blocks(self, content: Content, place: int) -> list[Block]:
        """Parts as blocks, without empty text."""
        made = [self._block(part, f"messages[{place}].content[{at}]") for at, part in enumerate(parts_of(content))]
        return [block for block in made if block.get("text") != ""]

    def _block(self, part: Part, param: str) -> Block:
        """One part. Raises Unsupported for what Cohere can't take in."""
        match part:
            case TextPart():
                return {"type": "text", "text": part.text}
            case RefusalPart():
                return {"type": "text", "text": part.refusal}
            case ImagePart() if "image" in self._model.inputs and not part.url.startswith("data:application/"):
                if not part.url.startswith("data:") and "image" not in self._model.urls:
                    raise Unsupported(param, "only data: URLs reach this upstream")
                image: Block = {"url": part.url}
                detail = None if isinstance(part.image_url, str) else part.image_url.detail
                return {"type": "image_url", "image_url": {**image, "detail": detail} if detail else image}
        raise Unsupported(param, f"{self._model.id} does not take {part.__struct_config__.tag}")


# Answers


def stream_parser(reading: Reading) -> StreamParser:
    """A parser for one stream."""
    return Stream(reading)


class ErrorBody(msgspec.Struct, frozen=True):
    """`{"id", "message"}`."""

    message: str = ""


decode_error = msgspec.json.Decoder(ErrorBody).decode

BY_STATUS: dict[int, FaultKind] = {
    400: "bad_request", 401: "auth", 402: "auth", 403: "auth", 404: "not_found", 413: "context_length",
    422: "bad_request", 429: "rate_limit", 498: "content_policy", 499: "server", 503: "overloaded", 504: "overloaded",
}  # fmt: skip
# What a bad request says in words alone.
TOO_LONG = ("too many tokens", "token limit", "context length", "maximum context", "total number of tokens")
FORBIDDEN = ("blocked", "deny-listed", "content policy", "safety")


def parse_error(status: int, body: bytes) -> Fault:
    """Cohere's errors have a message and nothing to tell them apart but the status."""
    try:
        message = decode_error(body).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:2000].decode("utf-8", "replace").strip()
        message = "" if text.startswith("<") else text
    kind: FaultKind = BY_STATUS.get(status) or ("bad_request" if status < 500 else "server")
    said = message.lower()
    if kind == "bad_request":
        if any(words in said for words in TOO_LONG):
            kind = "context_length"
        elif any(words in said for words in FORBIDDEN):
            kind = "content_policy"
    return Fault(kind, message)

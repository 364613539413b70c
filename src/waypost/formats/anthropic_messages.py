"""Anthropic's Messages: `/messages` at Anthropic, `:rawPredict` and `:streamRawPredict` at Vertex.

Source of the wire facts: docs.anthropic.com (messages, tool use, structured outputs, extended and adaptive thinking,
prompt caching, errors), Google's page on Claude on Vertex, and recorded exchanges.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

import msgspec

from waypost.chat import CacheControl, Chat, ResponseFormat, Tool, ToolChoice
from waypost.completion import Fault, FaultKind
from waypost.formats.anthropic_answer import FAULTS, Error, Stream, parse_response
from waypost.formats.anthropic_content import Block, Conversation
from waypost.formats.anthropic_models import known_model
from waypost.formats.anthropic_schema import is_open, normalise_schema
from waypost.formats.format import (
    Model,
    Names,
    Reading,
    Rendered,
    StreamParser,
    Thinking,
    Unsupported,
    encode,
    settle_thinking,
    unheard_wish,
    unknown_fields,
    wish_to_think,
)

__all__ = ["known_model", "parse_error", "parse_response", "render_request", "stream_parser"]

VERSION = ("anthropic-version", "2023-06-01")
FILES_BETA = ("anthropic-beta", "files-api-2025-04-14")
VERTEX_VERSION = "vertex-2023-10-16"
BREAKPOINTS = 4
LEAST_BUDGET = 1024
NATIVE_TOOL = re.compile(r"[a-z0-9_]+_\d{8}")  # Anthropic's own tools carry the date of their version
LONGEST_USER = 256  # characters
is_address = re.compile(r"\S+@\S+\.\S").match
TIERS = {"auto": "auto", "default": "standard_only"}
ONLY_JSON = "Answer with one JSON object and nothing else: no other words, no code fence."
SCHEMA_TOOL = "structured_answer"
SCHEMA_SAID = "Give your final answer by calling this tool."
BYTES_PER_TOKEN = 4  # to see whether a prefix is worth a breakpoint


def render_request(chat: Chat, model: Model) -> Rendered:
    """A request for Claude. Raises Unsupported, Refusal."""
    if chat.n > 1:
        raise Unsupported("n", f"{model.id} gives one answer at a time")
    dropped = [*unknown_fields(chat), *unheard(chat), *unheard_wish(chat, model)]
    names = Names("a-zA-Z0-9_-", 64)
    answer = Answer(chat, model, names)
    conversation = Conversation(model, names)
    conversation.add(chat)
    if answer.words:
        conversation.system.append({"type": "text", "text": answer.words})
    tools = [*answer.tools, *past_tools(conversation, names, bool(answer.tools))]
    choice = answer.choice if answer.tools or not tools else {"type": "none"}
    body: dict[str, Any] = {"model": model.id, "messages": conversation.turns}
    add_instructions(body, conversation.system)
    thinking = possible_thinking(settle_thinking(chat, model), chat, model, conversation, choice)
    if thinking is None:
        dropped.append(wish_to_think(chat))
    add_thinking(body, chat, model, thinking or Thinking(False))
    dropped += add_sampling(body, chat, model)
    if tools:
        body["tools"] = tools
    if choice is not None:
        body["tool_choice"] = choice
    if answer.schema is not None:
        body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": answer.schema}
    if chat.user and is_opaque(chat.user):
        body["metadata"] = {"user_id": chat.user}
    if chat.service_tier in TIERS:
        body["service_tier"] = TIERS[chat.service_tier]
    dropped += add_breakpoints(body, chat, model, [*answer.marked, *conversation.marked])
    if chat.stream:
        body["stream"] = True
    reading = Reading(schema_tool=answer.schema_tool, names=names.changed(), strip_fences=bool(answer.words))
    return addressed(body, model, reading, dropped, conversation.uses_files)


def addressed(body: dict[str, Any], model: Model, reading: Reading, dropped: list[str], uses_files: bool) -> Rendered:
    """The body on its way: at Vertex the model stands in the path, and the version in the body."""
    if not model.place:
        headers = (VERSION, FILES_BETA) if uses_files else (VERSION,)
        return Rendered(path="/messages", body=encode(body), headers=headers, dropped=tuple(dropped), reading=reading)
    del body["model"]
    body["anthropic_version"] = VERTEX_VERSION
    verb = "streamRawPredict" if body.get("stream") else "rawPredict"
    path = f"/{model.place}/publishers/anthropic/models/{urllib.parse.quote(model.id, safe='@')}:{verb}"
    return Rendered(path=path, body=encode(body), dropped=tuple(dropped), reading=reading)


def is_opaque(user: str) -> bool:
    """May it be told to Anthropic? What is longer is refused, and an e-mail address; the pattern sees nothing long."""
    return len(user) <= LONGEST_USER and is_address(user) is None


def unheard(chat: Chat) -> list[str]:
    """What was asked for and Anthropic has no field for, where the answer is the same kind of answer without it."""
    asked = {
        "seed": chat.seed is not None,
        "frequency_penalty": bool(chat.frequency_penalty),
        "presence_penalty": bool(chat.presence_penalty),
        "logprobs": chat.logprobs,
        "top_logprobs": bool(chat.top_logprobs),
        "service_tier": bool(chat.service_tier) and chat.service_tier not in TIERS,
        "user": not is_opaque(chat.user),
    }
    return [name for name, is_asked in asked.items() if is_asked]


# Tools, and the shape of the answer


class Answer:
    """What the answer may be: tools and which of them, a schema, or a JSON object. Owned by one rendering."""

    def __init__(self, chat: Chat, model: Model, names: Names) -> None:
        """Raises Unsupported."""
        self.tools: list[Any] = []
        self.marked: list[Block] = []
        self.choice = render_choice(chat, names)
        self.schema: Any = None  # natively
        self.schema_tool = ""  # by a tool
        self.words = ""  # in words
        if (chat.tools or chat.native_tools) and not model.tools:
            raise Unsupported("tools", f"{model.id} has no tools")
        allowed = chat.tool_choice.allowed if chat.tool_choice is not None else ()
        for place, tool in enumerate(chat.tools):
            if not allowed or tool.function.name in allowed:
                self._add(tool, names, model, f"tools[{place}].function")
        for raw in chat.native_tools:
            if NATIVE_TOOL.fullmatch(msgspec.json.decode(raw, type=NativeTool).type) is None:
                raise Unsupported("tools", f"{model.id} takes functions and Anthropic's own tools only")
            self.tools.append(raw)
        if not self.tools:
            self.choice = None
        if chat.response_format is not None:
            self._shape(chat.response_format, model, names)

    def _add(self, tool: Tool, names: Names, model: Model, param: str) -> None:
        function = tool.function
        rendered: Block = {"name": names.fit(function.name)}
        if function.description:
            rendered["description"] = function.description
        schema: Any = function.parameters or {"type": "object", "properties": {}}
        if "type" not in schema:
            schema = {"type": "object", **schema}
        if function.strict:
            if not model.strict_tools:
                raise Unsupported(f"{param}.strict", f"{model.id} cannot hold itself to a schema")
            schema = normalise_schema(msgspec.json.decode(encode(schema)))
            rendered["strict"] = True
        rendered["input_schema"] = schema
        if tool.cache_control is not None:
            rendered["cache_control"] = tool.cache_control
            self.marked.append(rendered)
        self.tools.append(rendered)

    def _shape(self, wanted: ResponseFormat, model: Model, names: Names) -> None:
        """A schema is asked of the model itself where it can, else of a tool that it must call."""
        if wanted.schema is None:
            self.words = ONLY_JSON
            return
        schema = msgspec.json.decode(wanted.schema)
        if model.schema and (wanted.strict or not is_open(schema)):
            self.schema = normalise_schema(schema)
            return
        if schema.get("type", "object") != "object":
            raise Unsupported("response_format", f"{model.id} can only answer with a JSON object")
        if self.choice is not None and self.choice["type"] == "tool":
            return  # the caller forces a tool of its own: no text will come
        taken = {tool["name"] for tool in self.tools if isinstance(tool, dict)}
        self.schema_tool = SCHEMA_TOOL
        while self.schema_tool in taken:
            self.schema_tool += "_"
        said = "\n\n".join(filter(None, [wanted.description, SCHEMA_SAID]))
        forced = {"type": "tool", "name": self.schema_tool}
        has_others = bool(self.tools) and (self.choice is None or self.choice["type"] != "none")
        self.choice = {**(self.choice or {}), "type": "any"} if has_others else forced
        self.tools.append({"name": self.schema_tool, "description": said, "input_schema": {"type": "object", **schema}})


class NativeTool(msgspec.Struct, frozen=True):
    """A tool that is no function."""

    type: str


CHOICES = {"auto": "auto", "none": "none", "required": "any"}


def render_choice(chat: Chat, names: Names) -> dict[str, Any] | None:
    """`tool_choice`, with `parallel_tool_calls: false` inside of it."""
    wanted = chat.tool_choice
    is_single = chat.parallel_tool_calls is False
    if wanted is None and not is_single:
        return None
    wanted = wanted or ToolChoice("auto")
    choice: dict[str, Any] = {"type": CHOICES[wanted.mode]}
    if wanted.name:
        choice = {"type": "tool", "name": names.fit(wanted.name)}
    if is_single and wanted.mode != "none":
        choice["disable_parallel_tool_use"] = True
    return choice


def past_tools(conversation: Conversation, names: Names, has_tools: bool) -> list[Block]:
    """A history with calls needs tools: where the caller gives none, those that were called are named."""
    if has_tools:
        return []
    return [{"name": names.fit(name), "input_schema": {"type": "object"}} for name in conversation.called]


# Thinking, limits and sampling


def possible_thinking(
    thinking: Thinking, chat: Chat, model: Model, conversation: Conversation, choice: dict[str, Any] | None
) -> Thinking | None:
    """None where it can't be: a budget excludes a forced tool and an answer that the caller has begun, and a turn under
    way must have begun with thinking."""
    if not thinking.on or model.reasoning != "budget":
        return thinking
    is_forced = choice is not None and choice["type"] in ("any", "tool")
    if is_forced or conversation.turns[-1]["role"] == "assistant":
        return None
    return thinking if is_begun_with_thought(conversation.turns) else None


def is_begun_with_thought(turns: list[dict[str, Any]]) -> bool:
    """Did the assistant think before the calls whose results are now given? True where none are."""
    if len(turns) < 2 or turns[-2]["role"] != "assistant":
        return True
    last, before = turns[-1]["content"][0], turns[-2]["content"][0]
    if not isinstance(last, dict) or last["type"] != "tool_result":
        return True
    kind = before["type"] if isinstance(before, dict) else msgspec.json.decode(before, type=NativeTool).type
    return kind in ("thinking", "redacted_thinking")


def add_thinking(body: dict[str, Any], chat: Chat, model: Model, thinking: Thinking) -> None:
    """`thinking`, the effort, and `max_tokens`, which holds both thoughts and answer."""
    limit = chat.max_tokens or model.default_output
    if thinking.on and model.reasoning == "adaptive":
        if chat.max_tokens is None:
            limit += thinking.budget or model.budgets["medium"]  # what is usual is for the words
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
        if thinking.effort is not None:
            body["output_config"] = {"effort": thinking.effort}
    elif thinking.on:
        limit, budget = budgeted(limit, chat, model, thinking)
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    elif thinking.on is False and model.reasons_by_default and not model.must_reason:
        body["thinking"] = {"type": "disabled"}
    body["max_tokens"] = min(limit, model.max_output or limit)


def budgeted(limit: int, chat: Chat, model: Model, thinking: Thinking) -> tuple[int, int]:
    """`max_tokens` and the part of it for thoughts, which must be smaller and at least LEAST_BUDGET.

    The caller's limit is raised only where it leaves no room for the least, or for the budget that the caller named.
    """
    budget = max(LEAST_BUDGET, thinking.budget or model.budgets["medium"])
    if chat.max_tokens is None:
        limit += budget
    elif not thinking.is_explicit:
        budget = max(LEAST_BUDGET, min(budget, limit * 4 // 5))  # some of it is for the answer
    if budget >= limit:
        limit += budget
    limit = min(limit, model.max_output or limit)
    return limit, min(budget, limit - 1)


def add_sampling(body: dict[str, Any], chat: Chat, model: Model) -> list[str]:
    """Temperature and its like as far as the model and thinking allow; the names of the rest."""
    dropped: list[str] = []
    asked = {"temperature": chat.temperature, "top_p": chat.top_p, "top_k": chat.top_k}
    given = {name: value for name, value in asked.items() if value is not None}
    is_thinking = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
    if model.sampling == "none" or is_thinking:
        dropped += [name for name, value in given.items() if name == "top_k" or value != 1]  # 1 is what it is anyway
        given = {}
    elif model.sampling == "one" and "temperature" in given and "top_p" in given:
        dropped += [] if given.pop("top_p") == 1 else ["top_p"]
    if "temperature" in given:
        given["temperature"] = min(given["temperature"], 1)
    body |= given
    stops = [stop for stop in chat.stop if not stop.isspace()]
    if stops:
        body["stop_sequences"] = stops
    if len(stops) < len(chat.stop):
        dropped.append("stop")
    return dropped


# Instructions and breakpoints


def add_instructions(body: dict[str, Any], system: list[Block]) -> None:
    """`system`: one text, or blocks where one of them has a breakpoint."""
    if any("cache_control" in block for block in system):
        body["system"] = system
    elif system:
        body["system"] = "\n\n".join(block["text"] for block in system)


def add_breakpoints(body: dict[str, Any], chat: Chat, model: Model, marked: list[Block]) -> list[str]:
    """The caller's breakpoints, the last of too many; without any, our own where the option says so."""
    most = BREAKPOINTS
    if chat.cache_control is not None:
        body["cache_control"] = chat.cache_control
        most -= 1
    for block in marked[: max(0, len(marked) - most)]:
        del block["cache_control"]
    if not marked and chat.cache_control is None and model.cache_from is not None:
        add_own_breakpoints(body, model.cache_from)
    return ["cache_control"] if len(marked) > most else []


def add_own_breakpoints(body: dict[str, Any], tokens: int) -> None:
    """On the last tool, the last instruction and the last turn, each where what stands before it is long enough."""
    size = 0
    mark = CacheControl("ephemeral")
    for name in ("tools", "system", "messages"):  # the order in which a prefix is made of them
        part = body.get(name)
        if not part:
            continue
        size += len(encode(part))
        if size < tokens * BYTES_PER_TOKEN:
            continue
        if isinstance(part, str):
            part = body[name] = [{"type": "text", "text": part}]
        block = part[-1]["content"][-1] if name == "messages" else part[-1]
        if isinstance(block, dict):
            block["cache_control"] = mark


# Answers


def stream_parser(reading: Reading) -> StreamParser:
    """A parser for one stream."""
    return Stream(reading)


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """`{"type": "error", "error": {"type", "message"}}`."""

    error: Error


decode_errors = msgspec.json.Decoder(ErrorEnvelope | list[ErrorEnvelope]).decode

BY_STATUS: dict[int, FaultKind] = {
    400: "bad_request", 401: "auth", 402: "auth", 403: "auth", 404: "not_found", 413: "context_length",
    422: "bad_request", 429: "rate_limit", 503: "overloaded", 529: "overloaded",
}  # fmt: skip
# What a bad request says in words alone.
TOO_LONG = ("prompt is too long", "exceed context limit", "context window", "too many total text bytes")
NO_MONEY = ("credit balance is too low", "usage limits")
FORBIDDEN = ("content filtering policy", "usage policy")


def parse_error(status: int, body: bytes) -> Fault:
    """Anthropic's error envelope, or at Vertex a list of Google's, which has no type but a status of its own."""
    try:
        found = decode_errors(body)
        error = (found[0] if isinstance(found, list) else found).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError):
        text = body[:2000].decode("utf-8", "replace").strip()
        error = Error("", "" if text.startswith("<") else text)
    kind = FAULTS.get(error.type) or BY_STATUS.get(status) or ("bad_request" if status < 500 else "server")
    said = error.message.lower()
    if kind == "bad_request":
        if any(words in said for words in TOO_LONG):
            kind = "context_length"
        elif any(words in said for words in NO_MONEY):
            kind = "auth"
        elif any(words in said for words in FORBIDDEN):
            kind = "content_policy"
    return Fault(kind, error.message, error.type)

"""Bedrock's Converse and ConverseStream: `/model/{model}/converse`, `/model/{model}/converse-stream`.

Source of the wire facts: the service model of bedrock-runtime, AWS's Bedrock and Nova user guides (tool use, structured
outputs, prompt caching, extended thinking), and recorded exchanges. Requests are signed by `aws_signature.py`; streams
are frames, read by `aws_event_stream.py`.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable
from typing import Any

import msgspec

from waypost.chat import CacheControl, Chat
from waypost.completion import Fault, FaultKind
from waypost.formats.bedrock_answer import FAULTS, NAMES, Stream, parse_response
from waypost.formats.bedrock_content import POINT, Block, Conversation, render_point
from waypost.formats.bedrock_models import BedrockModel, as_bedrock, known_model
from waypost.formats.bedrock_tools import Answer, past_tools
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

BREAKPOINTS = 4
BYTES_PER_TOKEN = 4  # to see whether a prefix is worth a breakpoint
LEAST_BUDGET = 1024
CALL_NOTHING = "Answer in words: call no tool."
TIERS = {"default": "default", "flex": "flex", "priority": "priority"}
# Fields of Converse's own that a caller may send as they are.
OWN = frozenset({
    "guardrailConfig", "performanceConfig", "requestMetadata", "additionalModelRequestFields",
    "additionalModelResponseFieldPaths", "promptVariables",
})  # fmt: skip


def render_request(chat: Chat, model: Model) -> Rendered:
    """A request for a model of Bedrock's. Raises Unsupported, Refusal."""
    ours = as_bedrock(model)
    if chat.n > 1:
        raise Unsupported("n", f"{model.id} gives one answer at a time")
    dropped = [*unknown_fields(chat, OWN), *unheard(chat), *unheard_wish(chat, ours)]
    names = Names("a-zA-Z0-9_-", 64)
    answer = Answer(chat, ours, names)
    conversation = Conversation(ours, names)
    conversation.add(chat)
    tools = answer.tools or past_tools(conversation, names)
    if conversation.called and answer.is_silenced:
        tools = answer.offered or tools  # a history with calls needs tools, and nothing forbids to call them
        conversation.system.append({"text": CALL_NOTHING})
    if answer.words:
        conversation.system.append({"text": answer.words})
    body: dict[str, Any] = {"messages": conversation.turns}
    if conversation.system:
        body["system"] = conversation.system
    thinking = possible_thinking(settle_thinking(chat, ours), ours, conversation, answer.choice)
    if thinking is None:
        dropped.append(wish_to_think(chat))
        thinking = Thinking(False)
    add_inference(body, chat, ours, thinking, dropped)
    add_own_fields(body, chat, ours, thinking, dropped)
    if tools:
        body["toolConfig"] = {"tools": tools, **({"toolChoice": answer.choice} if answer.choice else {})}
    if answer.schema is not None:
        body["outputConfig"] = {"textFormat": answer.schema}
    if chat.service_tier in TIERS:
        body["serviceTier"] = {"type": TIERS[chat.service_tier]}
    dropped += add_points(body, chat, ours, [*answer.points, *conversation.points])
    if conversation.refused_points or answer.refused_points:
        dropped.append("cache_control")
    reading = Reading(
        schema_tool=answer.schema_tool,
        names=names.changed(),
        first_call_only=chat.parallel_tool_calls is False,
        strip_fences=bool(answer.words),
    )
    verb = "converse-stream" if chat.stream else "converse"
    path = f"/model/{urllib.parse.quote(model.id, safe='')}/{verb}"
    return Rendered(path=path, body=encode(body), dropped=tuple(dict.fromkeys(dropped)), reading=reading)


def unheard(chat: Chat) -> list[str]:
    """What was asked for and Converse has no field for, where the answer is the same kind of answer without it."""
    asked = {
        "seed": chat.seed is not None,
        "frequency_penalty": bool(chat.frequency_penalty),
        "presence_penalty": bool(chat.presence_penalty),
        "logprobs": chat.logprobs,
        "top_logprobs": bool(chat.top_logprobs),
        "user": bool(chat.user),
        "service_tier": bool(chat.service_tier) and chat.service_tier not in (*TIERS, "auto"),
    }
    return [name for name, is_asked in asked.items() if is_asked]


# Thinking, limits and sampling


def possible_thinking(
    thinking: Thinking, model: BedrockModel, conversation: Conversation, choice: Block | None
) -> Thinking | None:
    """None where it can't be: a budget excludes a forced tool and an answer that the caller has begun, and a turn under
    way must have begun with thinking."""
    if not thinking.on or model.family != "claude" or model.reasoning != "budget":
        return thinking
    if choice is not None or conversation.turns[-1]["role"] == "assistant":
        return None
    return thinking if is_begun_with_thought(conversation.turns) else None


def is_begun_with_thought(turns: list[dict[str, Any]]) -> bool:
    """Did the assistant think before the calls whose results are now given? True where none are."""
    if len(turns) < 2 or turns[-2]["role"] != "assistant" or "toolResult" not in turns[-1]["content"][0]:
        return True
    return "reasoningContent" in turns[-2]["content"][0]


def add_inference(
    body: dict[str, Any], chat: Chat, model: BedrockModel, thinking: Thinking, dropped: list[str]
) -> None:
    """`inferenceConfig`: only what the caller asked for, as far as the model and thinking allow."""
    made: dict[str, Any] = {}
    is_claude = model.family == "claude"
    is_unsampled = model.sampling == "none" or bool(thinking.on and is_claude)
    asked = {"temperature": chat.temperature, "top_p": chat.top_p}
    for (name, value), spelt in zip(asked.items(), ("temperature", "topP"), strict=True):
        if value is None:
            continue
        if is_unsampled or (name == "top_p" and model.sampling == "one" and "temperature" in made):
            dropped += [] if value == 1 else [name]  # 1 is what it is anyway
        else:
            made[spelt] = min(value, 1)
    limit = chat.max_tokens
    if limit is not None:
        if thinking.on and is_claude and model.reasoning == "budget":
            limit += budget_of(thinking, model, None) if limit <= LEAST_BUDGET or thinking.is_explicit else 0
        made["maxTokens"] = min(limit, model.max_output or limit)
    stops = [stop for stop in chat.stop if not stop.isspace()]
    if stops:
        made["stopSequences"] = stops
    if len(stops) < len(chat.stop):
        dropped.append("stop")
    if made:
        body["inferenceConfig"] = made


def budget_of(thinking: Thinking, model: BedrockModel, limit: int | None) -> int:
    """Tokens for thinking, below the limit of the whole answer where there is one: a fifth of it is for the words."""
    budget = max(LEAST_BUDGET, thinking.budget or model.budgets["medium"])
    if limit is None:
        return budget
    return min(budget, limit - 1) if thinking.is_explicit else max(LEAST_BUDGET, min(budget, limit * 4 // 5))


def add_own_fields(
    body: dict[str, Any], chat: Chat, model: BedrockModel, thinking: Thinking, dropped: list[str]
) -> None:
    """`additionalModelRequestFields`, each family's own spelling; and what the caller said in Converse's own words."""
    limit = body.get("inferenceConfig", {}).get("maxTokens")
    made = render_thinking(thinking, model, limit)
    if chat.top_k is not None:
        if model.family == "claude" and model.sampling != "none" and not thinking.on:
            made["top_k"] = chat.top_k
        elif model.family in ("nova", "nova-2"):
            made["inferenceConfig"] = {"topK": chat.top_k}
        else:
            dropped.append("top_k")
    for name in OWN & chat.other.keys():
        body[name] = chat.other[name]
    theirs = chat.other.get("additionalModelRequestFields")
    if theirs is not None:
        made |= msgspec.json.decode(theirs, type=dict[str, msgspec.Raw])
    if made:
        body["additionalModelRequestFields"] = made


def render_thinking(thinking: Thinking, model: BedrockModel, limit: int | None) -> dict[str, Any]:
    """How a model is told to think, or not to."""
    match model.family, thinking.on:
        case "claude", True if model.reasoning == "adaptive":
            effort = {"output_config": {"effort": thinking.effort}} if thinking.effort is not None else {}
            return {"thinking": {"type": "adaptive", "display": "summarized"}, **effort}
        case "claude", True:
            return {"thinking": {"type": "enabled", "budget_tokens": budget_of(thinking, model, limit)}}
        case "claude", False if model.reasons_by_default and not model.must_reason:
            return {"thinking": {"type": "disabled"}}
        case "nova-2", True:
            return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": thinking.effort or "medium"}}
        case "gpt-oss", True:
            return {"reasoning_effort": thinking.effort or "medium"}
        case "qwen", True:
            return {"reasoning_config": thinking.effort or "high"}
    return {}


# Breakpoints


def add_points(body: dict[str, Any], chat: Chat, model: BedrockModel, points: list[Block]) -> list[str]:
    """The caller's breakpoints, the last of too many; without any, our own where the option says so."""
    most = BREAKPOINTS
    is_moving = chat.cache_control is not None and "messages" in model.caches
    if chat.cache_control is not None and is_moving:
        most -= append_point(body["messages"][-1]["content"], chat.cache_control, model)
    extra = points[: max(0, len(points) - most)]
    if extra:
        lists: Iterable[list[Any]] = [body.get("toolConfig", {}).get("tools", []), body.get("system", [])]
        for blocks in [*lists, *(turn["content"] for turn in body["messages"])]:
            blocks[:] = [block for block in blocks if not any(block is one for one in extra)]
    if not points and chat.cache_control is None and model.cache_from is not None:
        add_own_points(body, model, model.cache_from)
    is_refused = chat.cache_control is not None and not is_moving
    return ["cache_control"] if extra or is_refused else []


def add_own_points(body: dict[str, Any], model: BedrockModel, tokens: int) -> None:
    """Behind the tools, the instructions and the last turn, each where what stands before it is long enough."""
    size = 0
    last = body["messages"][-1]["content"]
    parts = {"tools": body.get("toolConfig", {}).get("tools"), "system": body.get("system"), "messages": last}
    for place, blocks in parts.items():  # the order in which a prefix is made of them
        size += len(encode(body["messages"] if place == "messages" else blocks or []))
        if blocks and place in model.caches and size >= tokens * BYTES_PER_TOKEN:
            append_point(blocks, CacheControl("ephemeral"), model)


def append_point(blocks: list[Block], mark: CacheControl, model: BedrockModel) -> bool:
    """A breakpoint at the end, if there is none; it may not follow a document or a film at once."""
    if POINT in blocks[-1] or "reasoningContent" in blocks[-1]:
        return False
    if blocks[-1].keys() & {"document", "video"}:
        blocks.append({"text": "\n"})
    blocks.append(render_point(mark, model))
    return True


# Answers


def stream_parser(reading: Reading) -> StreamParser:
    """A parser for one stream."""
    return Stream(reading)


class ErrorBody(msgspec.Struct, frozen=True):
    """`{"message", "__type"}`; the gateways before Bedrock write `Message`."""

    message: str = ""
    capital: str = msgspec.field(default="", name="Message")
    type: str = msgspec.field(default="", name="__type")


decode_error = msgspec.json.Decoder(ErrorBody).decode

BY_STATUS: dict[int, FaultKind] = {
    400: "bad_request", 401: "auth", 403: "auth", 404: "not_found", 408: "overloaded", 413: "context_length",
    424: "server", 429: "rate_limit", 503: "overloaded",
}  # fmt: skip
# What a ValidationException says in words alone.
TOO_LONG = (
    "input is too long", "prompt is too long", "too many input tokens", "exceed context limit", "context window",
    "maximum context length", "exceeds the maximum number of", "input length",
)  # fmt: skip
NO_MODEL = ("model identifier is invalid", "on-demand throughput", "isn't supported", "end of its life")
FORBIDDEN = ("content filter", "usage policy", "responsible ai policy", "guardrail")
NO_CREDENTIALS = ("security token", "access key", "api key", "token has expired")


def parse_error(status: int, body: bytes, error_type: str = "") -> Fault:
    """An error's body. Its type stands in the header `x-amzn-errortype`, at times in `__type`, at times nowhere.

    Both may have a namespace before it and an address behind: `com.amazon.coral#ThrottlingException:http://…`.
    """
    try:
        error = decode_error(body)
        message, code = error.message or error.capital, error_type or error.type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:2000].decode("utf-8", "replace").strip()
        message, code = ("" if text.startswith("<") else text), error_type
    code = code.partition(":")[0].rpartition("#")[2]
    code = NAMES.get(code.lower(), code)
    kind = FAULTS.get(code) or BY_STATUS.get(status) or ("bad_request" if status < 500 else "server")
    said = message.lower()
    if kind == "bad_request":
        by_words: tuple[tuple[FaultKind, tuple[str, ...]], ...] = (
            ("context_length", TOO_LONG), ("not_found", NO_MODEL), ("content_policy", FORBIDDEN),
            ("auth", NO_CREDENTIALS),
        )  # fmt: skip
        kind = next((one for one, words in by_words if any(word in said for word in words)), kind)
    return Fault(kind, message, code)

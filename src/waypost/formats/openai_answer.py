"""Completions and events, rendered as OpenAI's chat completion and its chunks for the caller.

Source of the wire facts: OpenAI's API reference for chat completions and what its own SDK reads; `reasoning_content` is
DeepSeek's, `reasoning_details` and `images` are OpenRouter's, `extra_content` is Google's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from waypost.chat import ReasoningDetail
from waypost.completion import (
    AnyEvent,
    ArgumentsDelta,
    Choice,
    Cited,
    Completion,
    ExtraContent,
    Failed,
    Finish,
    ImageMade,
    ReasoningDelta,
    ReasoningDone,
    RefusalDelta,
    TextDelta,
    ToolCallStart,
    UrlCitation,
    UsageReport,
)
from waypost.records import Usage

encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


class Stamp(msgspec.Struct, frozen=True):
    """What is ours in an answer, as JSON; `created` is in seconds since 1970 UTC."""

    id: msgspec.Raw
    model: msgspec.Raw  # the caller's own spelling
    provider: msgspec.Raw
    created: int
    extensions: Callable[[], Mapping[str, msgspec.Raw]] = dict  # what else stands on the last JSON


def render_completion(
    completion: Completion,
    stamp: Stamp,
    latency_ms: int,
    show_reasoning: bool = True,
    usage: msgspec.Raw | None = None,
) -> bytes:
    """A whole answer. `usage` is JSON to stand in the place of what the upstream counted."""
    answer: dict[str, Any] = {
        "id": stamp.id,
        "object": "chat.completion",
        "created": stamp.created,
        "model": stamp.model,
        "choices": [render_choice(choice, show_reasoning) for choice in completion.choices],
    }
    if usage is not None or completion.usage is not None:
        answer["usage"] = usage or (completion.usage and render_usage(completion.usage))
    answer["provider"] = stamp.provider
    answer["latency_ms"] = latency_ms
    answer.update(stamp.extensions())
    return encode(answer)


def render_choice(choice: Choice, show_reasoning: bool) -> dict[str, Any]:
    """One of `choices`. Of reasoning that is not to be shown, what nobody can read is there all the same."""
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": choice.refusal}
    if choice.reasoning and show_reasoning:
        message["reasoning_content"] = choice.reasoning
    details = [detail for detail in choice.reasoning_details if show_reasoning or is_opaque(detail)]
    if details:
        message["reasoning_details"] = details
    if choice.tool_calls:
        message["tool_calls"] = choice.tool_calls
    if choice.annotations:
        message["annotations"] = [render_citation(citation) for citation in choice.annotations]
    if choice.images:
        message["images"] = [render_image(url) for url in choice.images]
    if choice.extra:
        message["extra_content"] = choice.extra
    rendered = {
        "index": choice.index,
        "message": message,
        "finish_reason": choice.finish_reason,
        "logprobs": choice.logprobs,
    }
    if choice.native_finish_reason:
        rendered["native_finish_reason"] = choice.native_finish_reason
    return rendered


def is_opaque(detail: ReasoningDetail) -> bool:
    """Nothing in it can be read."""
    return not detail.text and not detail.summary


def render_citation(citation: UrlCitation) -> dict[str, Any]:
    """One of `annotations`."""
    return {"type": "url_citation", "url_citation": citation}


def render_image(url: str) -> dict[str, Any]:
    """One of `images`."""
    return {"type": "image_url", "image_url": {"url": url}}


def render_usage(usage: Usage) -> dict[str, Any]:
    """Disjoint counters → OpenAI's `usage`, where the details are parts of the totals."""
    prompt, completion = usage.prompt, usage.completion
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
            "audio_tokens": usage.audio_input,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.audio_output,
        },
    }


class StreamRenderer:
    """Events → chunks. The finish is kept back until `end`, since the last chunk carries provider and latency."""

    __slots__ = (
        "_begun", "_finishes", "_frame", "_head_of_text", "_listed", "_show_reasoning", "_stamp", "_tail",
        "_tail_of_text", "_wants_usage", "usage",
    )  # fmt: skip

    def __init__(self, stamp: Stamp, include_usage: bool, show_reasoning: bool = True) -> None:
        """`include_usage`: the caller wants the usage chunk; then every other chunk says that it has none."""
        self._stamp = stamp
        self._wants_usage = include_usage
        self._show_reasoning = show_reasoning
        head = {"id": stamp.id, "object": "chat.completion.chunk", "created": stamp.created, "model": stamp.model}
        self._frame = b'data: %b,"choices":[{"index":' % encode(head)[:-1]
        self._tail = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._tail_of_text = b'},"finish_reason":null' + self._tail
        self._head_of_text = self._frame + b'0,"delta":{"content":'
        self._begun: set[int] = set()  # choices whose role has been said
        self._finishes: dict[int, Finish] = {}
        self._listed: dict[tuple[int, type], int] = {}  # citations and pictures of each choice so far
        self.usage: UsageReport | None = None  # the latest

    def text(self, event: TextDelta) -> bytes:
        """More of the only answer's text; empty where `feed` has more to say."""
        if event.choice or event.logprobs is not None or 0 not in self._begun:
            return b""
        return self._head_of_text + encode(event.text) + self._tail_of_text

    def feed(self, events: Iterable[AnyEvent]) -> bytes:
        """The chunks of these events; Failed, which whoever reads the stream must see to, makes none."""
        out = []
        for event in events:
            if isinstance(event, TextDelta) and event.logprobs is None:
                out.append(self._delta(event.choice, b'"content":', encode(event.text)))
            else:
                out.append(self._rare(event))
        return b"".join(out)

    def _delta(self, choice: int, name: bytes, value: bytes) -> bytes:
        role = b"" if choice in self._begun else self._role(choice)
        return b'%b%b%d,"delta":{%b%b%b' % (role, self._frame, choice, name, value, self._tail_of_text)

    def _role(self, choice: int) -> bytes:
        """A choice's first chunk."""
        self._begun.add(choice)
        return b'%b%d,"delta":{"role":"assistant","content":""%b' % (self._frame, choice, self._tail_of_text)

    def _rare(self, event: AnyEvent) -> bytes:
        match event:
            case Finish():
                self._finishes[event.choice] = event
                return b"" if event.choice in self._begun else self._role(event.choice)
            case UsageReport():
                self.usage = event
                return b""
            case Failed():
                return b""
            case TextDelta():  # with logprobs, which stand beside the delta
                said = self._delta(event.choice, b'"content":', encode(event.text))
                beside = b'},"logprobs":%b,"finish_reason":null%b' % (encode(event.logprobs), self._tail)
                return said.removesuffix(self._tail_of_text) + beside
            case ReasoningDelta() if not self._show_reasoning:
                return b""
            case ReasoningDone() if not (self._show_reasoning or is_opaque(event.detail)):
                return b""
        name, value = render_delta(event)
        if isinstance(event, Cited | ImageMade):
            # OpenAI's SDKs add lists up by `index`, and refuse entries without one.
            place = (event.choice, type(event))
            value[0]["index"] = self._listed[place] = self._listed.get(place, -1) + 1
        return self._delta(event.choice, b'"%b":' % name, encode(value))

    def end(self, latency_ms: int, usage: msgspec.Raw | None = None) -> bytes:
        """The finish of every choice, usage where it was asked for, [DONE]; our extensions on the last JSON chunk.

        `usage` is JSON to stand in the place of what the upstream counted.
        """
        chunks = [self._bare([render_finish(finish)]) for _, finish in sorted(self._finishes.items())]
        if self._wants_usage:
            for chunk in chunks:
                chunk["usage"] = None
            if usage is not None or self.usage is not None:
                counted = usage or (self.usage and render_usage(self.usage.usage))
                chunks.append({**self._bare([]), "usage": counted})
        if not chunks:
            chunks.append(self._bare([{"index": 0, "delta": {}, "finish_reason": None}]))
        chunks[-1]["provider"] = self._stamp.provider
        chunks[-1]["latency_ms"] = latency_ms
        chunks[-1].update(self._stamp.extensions())
        return b"".join(b"data: %b\n\n" % encode(chunk) for chunk in chunks) + DONE

    def _bare(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        stamp = self._stamp
        return {
            "id": stamp.id,
            "object": "chat.completion.chunk",
            "created": stamp.created,
            "model": stamp.model,
            "choices": choices,
        }


Said = ReasoningDelta | ReasoningDone | RefusalDelta | ToolCallStart | ArgumentsDelta | Cited | ImageMade | ExtraContent


def render_delta(event: Said) -> tuple[bytes, Any]:
    """What stands in `delta`: its name, and its value."""
    match event:
        case ArgumentsDelta():
            return b"tool_calls", [{"index": event.index, "function": {"arguments": event.text}}]
        case ReasoningDelta():
            return b"reasoning_content", event.text
        case ReasoningDone():
            return b"reasoning_details", [event.detail]
        case ToolCallStart():
            return b"tool_calls", [render_call_start(event)]
        case RefusalDelta():
            return b"refusal", event.text
        case Cited():
            return b"annotations", [render_citation(event.citation)]
        case ImageMade():
            return b"images", [render_image(event.url)]
        case ExtraContent():
            return b"extra_content", event.extra


def render_call_start(event: ToolCallStart) -> dict[str, Any]:
    """The first chunk of a tool call: all but its arguments."""
    call: dict[str, Any] = {
        "index": event.index,
        "id": event.id,
        "type": "function",
        "function": {"name": event.name, "arguments": ""},
    }
    if event.extra:
        call["extra_content"] = event.extra
    return call


def render_finish(finish: Finish) -> dict[str, Any]:
    """The choice of a finish chunk."""
    rendered: dict[str, Any] = {"index": finish.choice, "delta": {}, "finish_reason": finish.reason}
    if finish.native:
        rendered["native_finish_reason"] = finish.native
    return rendered

"""Between the two sockets where the upstream speaks another format than the caller: events in, OpenAI's bytes out.

Pure; one relay an attempt. Nothing leaves before the first event that says something, so until then another target may
still take over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from waypost.chat import Extra, ReasoningDetail
from waypost.completion import (
    AnyEvent,
    ArgumentsDelta,
    BadAnswer,
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
    UsageReport,
)
from waypost.formats.format import Format, Reading
from waypost.formats.openai_answer import Stamp, StreamRenderer, render_completion
from waypost.records import Usage
from waypost.worker.relay import Collecting, UpstreamError


class Kept(msgspec.Struct, frozen=True):
    """What a turn with tool calls must bring back, whatever the client keeps of it. `calls`: its opaque part by id."""

    calls: dict[str, Extra | None]
    details: tuple[ReasoningDetail, ...] = ()
    extra: Extra = {}

    @property
    def is_worth_it(self) -> bool:
        """There are calls to find it by, and something to be found."""
        return bool(self.calls) and (bool(self.details or self.extra) or any(self.calls.values()))


class Terms(msgspec.Struct, frozen=True):
    """What a translation must know of its request besides the upstream's format.

    `render_usage` gives the usage that the caller sees: of what was counted, or by the bytes observed. `keep` is told
    of whole turns. `judge` says what is wrong with a whole answer, or nothing: then the next target is tried.
    """

    format: Format
    reading: Reading
    stamp: Stamp
    latency_ms: Callable[[], int]
    include_usage: bool
    show_reasoning: bool
    render_usage: Callable[[Usage | None, int], msgspec.Raw]
    keep: Callable[[Kept], None]
    judge: Callable[[Completion], str]


class WholeTranslator(Collecting):
    """The upstream's answer in OpenAI's words."""

    def __init__(self, terms: Terms) -> None:
        self._parts = []
        self._terms = terms

    def end(self) -> bytes:
        """The answer as OpenAI would have given it. Raises UpstreamError."""
        terms = self._terms
        try:
            completion = terms.format.parse_response(b"".join(self._parts), terms.reading)
        except BadAnswer as error:
            raise UpstreamError(str(error), error.how) from None
        if not completion.choices:
            raise UpstreamError("the upstream's answer has no choices")
        wrong = terms.judge(completion)
        if wrong:
            raise UpstreamError(wrong)
        self.usage, self.counted = completion.raw_usage, completion.usage
        self.observed = sum(map(said, completion.choices))
        usage = terms.render_usage(self.counted, self.observed)
        for choice in completion.choices:
            calls = {call.id: call.extra_content for call in choice.tool_calls}
            terms.keep(Kept(calls, choice.reasoning_details, choice.extra))
        self.done = True
        return render_completion(completion, terms.stamp, terms.latency_ms(), terms.show_reasoning, usage)


def said(choice: Any) -> int:
    """Characters of the model's words in a choice, about."""
    arguments = sum(len(call.function.name) + len(call.function.arguments) for call in choice.tool_calls)
    return len(choice.text or "") + len(choice.reasoning) + len(choice.refusal or "") + arguments


class StreamTranslator:
    """Streaming: whatever the upstream's frames are, server-sent events with OpenAI's chunks."""

    is_whole = False
    __slots__ = (
        "_calls", "_details", "_extra", "_is_committed", "_parser", "_renderer", "_terms", "counted", "done",
        "finished", "observed", "usage",
    )  # fmt: skip

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._parser = terms.format.stream_parser(terms.reading)
        self._renderer = StreamRenderer(terms.stamp, terms.include_usage, terms.show_reasoning)
        self._is_committed = False
        self._calls: dict[int, dict[str, Extra | None]] = {}  # by choice
        self._details: dict[int, list[ReasoningDetail]] = {}
        self._extra: dict[int, Extra] = {}
        self.usage: msgspec.Raw | None = None
        self.counted: Usage | None = None
        self.observed = 0
        self.finished = False  # a finish has been seen
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Every event that is complete, translated. Raises UpstreamError; its `before` goes out ahead of it."""
        events = self._parser.feed(data)
        is_done = self._parser.done
        if self._is_committed and not is_done:
            more = self._words(events)
            if more is not None:
                return more
        elif not events and not is_done:
            return b""
        out = self._heard(events)
        if is_done:
            return out + self._last()
        if out:
            self._is_committed = True
        return out

    def end(self) -> bytes:
        """The last bytes. Raises UpstreamError where the answer is not whole."""
        if self.done:
            return b""
        out = self._heard(self._parser.end())
        return out + self._last()

    def _words(self, events: Sequence[AnyEvent]) -> bytes | None:
        """Nearly always there is nothing but more text, and usage so far; None where there is more to it."""
        chunks, size = [], 0
        for event in events:
            if type(event) is TextDelta and (chunk := self._renderer.text(event)):
                chunks.append(chunk)
                size += len(event.text)
            elif type(event) is UsageReport:
                self._count(event)
            else:
                return None
        self.observed += size
        return b"".join(chunks)

    def _count(self, event: UsageReport) -> None:
        self.usage, self.counted, self._renderer.usage = event.raw, event.usage, event

    def _heard(self, events: Sequence[AnyEvent]) -> bytes:
        for event in events:
            match event:
                case TextDelta() | ReasoningDelta() | RefusalDelta() | ArgumentsDelta():
                    self.observed += len(event.text)
                case UsageReport():
                    self._count(event)
                case Finish():
                    self.finished = True
                case ToolCallStart():
                    self.observed += len(event.name)
                    self._calls.setdefault(event.choice, {})[event.id] = event.extra
                case ReasoningDone():
                    self._details.setdefault(event.choice, []).append(event.detail)
                case ExtraContent():
                    self._extra[event.choice] = self._extra.get(event.choice, {}) | event.extra
                case ImageMade():
                    self.observed += 1
                case Failed():
                    error = UpstreamError(event.fault.message or "the upstream sent an error in its stream", event.how)
                    error.before = self._renderer.feed(events)
                    raise error
        return self._renderer.feed(events)

    def _last(self) -> bytes:
        """The end, and what is to be kept of it."""
        terms = self._terms
        self.done = True
        for choice, calls in self._calls.items():
            terms.keep(Kept(calls, tuple(self._details.get(choice, ())), self._extra.get(choice, {})))
        usage = terms.render_usage(self.counted, self.observed) if terms.include_usage else None
        return self._renderer.end(terms.latency_ms(), usage)

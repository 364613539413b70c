"""The vocabulary of what is answered: a whole completion, the events of a stream, and how an upstream fails.

Every format translates into this and knows of no other format; `formats/openai_answer.py` renders it for the caller.
Not streaming is streaming, folded: `fold` makes a completion of events. Values are frozen; nothing here does I/O or
reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from waypost.chat import Extra, FunctionCall, ReasoningDetail, ToolCall, Wire
from waypost.records import Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

# Whole


class UrlCitation(Wire, frozen=True):
    """`content[start_index:end_index]` of the answer rests on this page."""

    url: str
    start_index: int
    end_index: int
    title: str = ""
    content: str | None = None  # the words cited


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `text` None: nothing was said, as when there are only tool calls."""

    index: int = 0
    text: str | None = None
    reasoning: str = ""
    reasoning_details: tuple[ReasoningDetail, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    annotations: tuple[UrlCitation, ...] = ()
    images: tuple[str, ...] = ()  # data: or https: URLs of pictures made
    extra: Extra = {}
    finish_reason: FinishReason = "stop"
    native_finish_reason: str = ""
    logprobs: msgspec.Raw | None = None  # OpenAI's `{"content": […]}`


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. `id` and `model` are the upstream's; `usage` None: it gave none; `raw_usage`: as it wrote it."""

    choices: tuple[Choice, ...]
    usage: Usage | None = None
    raw_usage: msgspec.Raw | None = None
    id: str = ""
    model: str = ""


# How an upstream fails

FaultKind = Literal[
    "context_length",  # the prompt is too long for the model
    "content_policy",  # the content was refused
    "bad_request",  # the upstream does not take the request: the caller must change it
    "auth",  # our credentials, permissions or money with the upstream
    "not_found",  # no such model there
    "rate_limit",  # we ask too often
    "overloaded",  # it is too busy
    "server",  # anything else that is its own fault
]


class Fault(msgspec.Struct, frozen=True, gc=False):
    """An upstream's error. `message` and `code` are its own words, unredacted; `param` names a field if it says one.

    `retry_after`: the seconds that its body asks us to wait, where it says so there.
    """

    kind: FaultKind
    message: str
    code: str = ""
    param: str | None = None
    retry_after: float | None = None


How = Literal["error_event", "broken", "truncated"]
"""How an answer of status 200 is none: it says so itself, it is not what it claims to be, or its end is missing."""


class BadAnswer(Exception):
    """An upstream's answer is not what its format says. The message is fit for the caller."""

    def __init__(self, message: str, how: How = "broken") -> None:
        super().__init__(message)
        self.how: How = how


# What a stream says, event by event. `choice` is the index of the answer that an event belongs to.


class Event(msgspec.Struct, frozen=True, gc=False):
    """One step of an answer that is being made."""


class TextDelta(Event, frozen=True):
    """More of the text; `logprobs` is OpenAI's object for exactly these tokens."""

    text: str
    choice: int = 0
    logprobs: msgspec.Raw | None = None


class ReasoningDelta(Event, frozen=True):
    """More of the reasoning, to be read."""

    text: str
    choice: int = 0


class ReasoningDone(Event, frozen=True):
    """A piece of reasoning is complete: what must come back for the next turn. Its text has been sent as deltas."""

    detail: ReasoningDetail
    choice: int = 0


class RefusalDelta(Event, frozen=True):
    """More of a refusal."""

    text: str
    choice: int = 0


class ToolCallStart(Event, frozen=True):
    """A call begins. `index` counts the calls of a choice from 0 without gaps, whatever the upstream counts."""

    index: int
    id: str
    name: str
    choice: int = 0
    extra: Extra | None = None


class ArgumentsDelta(Event, frozen=True):
    """More of a call's arguments, JSON text."""

    index: int
    text: str
    choice: int = 0


class Cited(Event, frozen=True):
    """A citation."""

    citation: UrlCitation
    choice: int = 0


class ImageMade(Event, frozen=True):
    """A picture, whole."""

    url: str
    choice: int = 0


class ExtraContent(Event, frozen=True):
    """Opaque content of a whole choice, to come back for the next turn."""

    extra: Extra
    choice: int = 0


class Finish(Event, frozen=True):
    """A choice is complete. At most one a choice; nothing of that choice follows but ExtraContent."""

    reason: FinishReason
    native: str = ""
    choice: int = 0


class UsageReport(Event, frozen=True):
    """The tokens of the whole answer so far: each report replaces the one before it."""

    usage: Usage
    raw: msgspec.Raw


class Failed(Event, frozen=True):
    """The upstream says in its stream that it failed, or `how` else it came to nothing: nothing follows."""

    fault: Fault
    how: How = "error_event"


AnyEvent = (
    TextDelta
    | ReasoningDelta
    | ReasoningDone
    | RefusalDelta
    | ToolCallStart
    | ArgumentsDelta
    | Cited
    | ImageMade
    | ExtraContent
    | Finish
    | UsageReport
    | Failed
)


# Not streaming is streaming, folded


class Logprobs(msgspec.Struct, frozen=True):
    """OpenAI's `logprobs` of a choice."""

    content: list[msgspec.Raw] | None = None


decode_logprobs = msgspec.json.Decoder(Logprobs).decode


class _Folding:
    """One choice in the making."""

    def __init__(self) -> None:
        self.text: list[str] | None = None
        self.reasoning: list[str] = []
        self.details: list[ReasoningDetail] = []
        self.refusal: list[str] = []
        self.calls: list[tuple[ToolCallStart, list[str]]] = []
        self.citations: list[UrlCitation] = []
        self.images: list[str] = []
        self.extra: Extra = {}
        self.finish: Finish | None = None
        self.logprobs: list[msgspec.Raw] = []

    def add(self, event: AnyEvent) -> None:
        match event:
            case TextDelta():
                self.text = self.text or []
                self.text.append(event.text)
                if event.logprobs is not None:
                    self.logprobs += decode_logprobs(event.logprobs).content or []
            case ReasoningDelta():
                self.reasoning.append(event.text)
            case ReasoningDone():
                self.details.append(event.detail)
            case RefusalDelta():
                self.refusal.append(event.text)
            case ToolCallStart():
                self.calls.append((event, []))
            case ArgumentsDelta():
                self.calls[event.index][1].append(event.text)
            case Cited():
                self.citations.append(event.citation)
            case ImageMade():
                self.images.append(event.url)
            case ExtraContent():
                self.extra |= event.extra
            case Finish():
                self.finish = event

    def choice(self, index: int) -> Choice:
        if self.finish is None:
            raise BadAnswer("the answer has no finish reason")
        return Choice(
            index=index,
            text=None if self.text is None else "".join(self.text),
            reasoning="".join(self.reasoning),
            reasoning_details=tuple(self.details),
            tool_calls=tuple(
                ToolCall(start.id, FunctionCall(start.name, "".join(arguments)), extra_content=start.extra)
                for start, arguments in self.calls
            ),
            refusal="".join(self.refusal) if self.refusal else None,
            annotations=tuple(self.citations),
            images=tuple(self.images),
            extra=self.extra,
            finish_reason=self.finish.reason,
            native_finish_reason=self.finish.native,
            logprobs=msgspec.Raw(msgspec.json.encode(Logprobs(self.logprobs))) if self.logprobs else None,
        )


def fold(events: Iterable[AnyEvent]) -> Completion:
    """The events of a whole stream → the completion that they add up to.

    Raises BadAnswer where the upstream failed in it, or a choice has no finish.
    """
    choices: dict[int, _Folding] = {}
    usage: UsageReport | None = None
    for event in events:
        if isinstance(event, UsageReport):
            usage = event
        elif isinstance(event, Failed):
            raise BadAnswer(event.fault.message, event.how)
        else:
            choices.setdefault(event.choice, _Folding()).add(event)
    return Completion(
        choices=tuple(choices[index].choice(index) for index in sorted(choices)),
        usage=usage.usage if usage is not None else None,
        raw_usage=usage.raw if usage is not None else None,
    )

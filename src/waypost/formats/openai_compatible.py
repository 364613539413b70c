"""OpenAI's chat completions toward upstreams, in every accent, for callers that speak something else.

Where the caller speaks OpenAI's format too, bytes pass through and `accented.py` changes what must change; this module
reads and writes the same wire in the vocabulary. Reasoning is read under each of its names, content as text or parts.

Source of the wire facts: OpenAI's API reference, those of the providers in `accents.py`, and recorded exchanges.
"""

from __future__ import annotations

from typing import Any

import msgspec

from waypost.chat import Chat, ReasoningDetail, ResponseFormat, ToolChoice
from waypost.completion import (
    AnyEvent,
    ArgumentsDelta,
    BadAnswer,
    Cited,
    Completion,
    ExtraContent,
    Failed,
    Fault,
    FaultKind,
    Finish,
    FinishReason,
    ImageMade,
    ReasoningDelta,
    ReasoningDone,
    RefusalDelta,
    TextDelta,
    ToolCallStart,
    UrlCitation,
    UsageReport,
    fold,
)
from waypost.formats import openai_chat
from waypost.formats.accented import Spoken, speak
from waypost.formats.accented_answer import split_content
from waypost.formats.accents import UNKNOWN, Accent
from waypost.formats.fences import Fences
from waypost.formats.format import Model, Reading, Rendered, StreamParser, encode, failed
from waypost.formats.openai_chat import NULL, is_context_length
from waypost.formats.sse import Splitter
from waypost.formats.usage import parse_usage

__all__ = ["known_model", "parse_error", "parse_response", "render_request", "stream_parser"]

FINISH: dict[str, FinishReason] = {
    "stop": "stop", "eos": "stop", "end_turn": "stop", "stop_sequence": "stop", "length": "length",
    "max_tokens": "length", "model_length": "length", "insufficient_system_resource": "length",
    "model_context_window_exceeded": "length", "tool_calls": "tool_calls", "tool_use": "tool_calls",
    "function_call": "tool_calls", "content_filter": "content_filter", "sensitive": "content_filter",
    "safety": "content_filter",
}  # fmt: skip
BROKEN = frozenset({"error", "network_error"})


def known_model(id: str) -> Model:
    """Behind this format anything may stand: what nobody says otherwise of can do everything."""
    return Model(id=id, reasoning="effort", efforts=("none", "minimal", "low", "medium", "high", "xhigh", "max"))


# Requests


def render_request(chat: Chat, model: Model, accent: Accent = UNKNOWN) -> Rendered:
    """A request in a provider's accent. Raises Unsupported, Refusal."""
    fields = {name: msgspec.Raw(encode(value)) for name, value in fields_of(chat, model).items()}
    spoken: Spoken = speak(accent, {**fields, **chat.other}, model.id)
    return Rendered(path="/chat/completions", body=encode(spoken.fields), dropped=spoken.dropped)


def fields_of(chat: Chat, model: Model) -> dict[str, Any]:
    """The fields of a request that say something."""
    said: dict[str, Any] = {
        "model": model.id,
        "messages": chat.messages,
        "stream": chat.stream or None,
        "stream_options": {"include_usage": True} if chat.stream else None,
        "max_completion_tokens": chat.max_tokens,
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "top_k": chat.top_k,
        "stop": chat.stop or None,
        "seed": chat.seed,
        "frequency_penalty": chat.frequency_penalty,
        "presence_penalty": chat.presence_penalty,
        "logprobs": chat.logprobs or None,
        "top_logprobs": chat.top_logprobs,
        "n": chat.n if chat.n > 1 else None,
        "tools": [*chat.tools, *chat.native_tools] or None,
        "tool_choice": None if chat.tool_choice is None else render_choice(chat.tool_choice),
        "parallel_tool_calls": chat.parallel_tool_calls,
        "response_format": None if chat.response_format is None else render_format(chat.response_format),
        "user": chat.user or None,
        "service_tier": chat.service_tier or None,
        "cache_control": chat.cache_control,
    }
    return {name: value for name, value in said.items() if value is not None} | render_reasoning(chat)


def render_reasoning(chat: Chat) -> dict[str, Any]:
    """The wish as a caller of ours would have said it; an accent translates it."""
    wish = chat.reasoning
    if wish.enabled is False:
        return {"reasoning_effort": "none"}
    if wish.effort is not None:
        return {"reasoning_effort": wish.effort}
    if wish.max_tokens is not None:
        return {"reasoning": {"max_tokens": wish.max_tokens}}
    return {"reasoning": {"enabled": True}} if wish.enabled else {}


def render_choice(choice: ToolChoice) -> Any:
    """`tool_choice`."""
    if choice.name:
        return {"type": "function", "function": {"name": choice.name}}
    if choice.allowed:
        tools = [{"type": "function", "function": {"name": name}} for name in choice.allowed]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": tools}}
    return choice.mode


def render_format(wanted: ResponseFormat) -> dict[str, Any]:
    """`response_format`."""
    if wanted.schema is None:
        return {"type": "json_object"}
    made: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
    if wanted.strict:
        made["strict"] = True
    if wanted.description:
        made["description"] = wanted.description
    return {"type": "json_schema", "json_schema": made}


# Answers


class Function(msgspec.Struct, frozen=True):
    """What is called, or more of its arguments."""

    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct, frozen=True):
    """A call, or more of one."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    extra_content: dict[str, msgspec.Raw] | None = None


class Annotation(msgspec.Struct, frozen=True):
    """Of any type; only those of pages are read."""

    type: str = ""
    url_citation: UrlCitation | None = None


class ImageUrl(msgspec.Struct, frozen=True):
    """Of a picture made."""

    url: str = ""


class Image(msgspec.Struct, frozen=True):
    """A picture made."""

    image_url: ImageUrl = ImageUrl()


class Said(msgspec.Struct, frozen=True):
    """A message, or more of one."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[ReasoningDetail] | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    annotations: list[Annotation] | None = None
    images: list[Image] | None = None
    extra_content: dict[str, msgspec.Raw] | None = None


class Logprobs(msgspec.Struct, frozen=True):
    """Of a choice."""

    content: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct, frozen=True):
    """One of `choices`, whole or streamed."""

    index: int = 0
    message: Said | None = None
    delta: Said | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Answer(msgspec.Struct, frozen=True):
    """A whole answer, or a chunk."""

    choices: list[Choice] | None = None
    id: str = ""
    model: str = ""
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


decode_answer = msgspec.json.Decoder(Answer).decode
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_response(body: bytes, reading: Reading) -> Completion:
    """A whole answer. Raises BadAnswer."""
    try:
        answer = decode_answer(body)
    except UNREADABLE:
        raise BadAnswer("the upstream's answer is not a chat completion") from None
    if answer.error != NULL or not answer.choices:
        raise BadAnswer(parse_error(200, body).message or "the upstream's answer has no choices")
    events: list[AnyEvent] = []
    for choice in answer.choices:
        reader = Reader(choice.index, reading, is_whole=True)
        events += reader.read(choice, choice.message or Said())
        events += reader.end()
    events += count(answer.usage)
    return msgspec.structs.replace(fold(events), id=answer.id, model=answer.model)


class Stream:
    """Server-sent events of one answer → events."""

    def __init__(self, reading: Reading) -> None:
        self.done = False
        self.id = ""
        self.model = ""
        self._splitter = Splitter()
        self._reading = reading
        self._readers: dict[int, Reader] = {}

    def feed(self, data: bytes) -> list[AnyEvent]:
        """What these bytes complete."""
        found: list[AnyEvent] = []
        try:
            for payload in self._splitter.feed(data):
                if self.done:
                    break
                found += self._finish() if payload == b"[DONE]" else self._read(payload)
        except BadAnswer as error:
            found.append(self._fail(failed(str(error), error.how)))
        except UNREADABLE:
            found.append(self._fail(failed("the upstream sent an event that is not a chat completion chunk")))
        return found

    def end(self) -> list[AnyEvent]:
        """No more bytes come: whole if every choice has its finish."""
        found = self.feed(b"\n\n")  # a last event may lack its empty line
        return found if self.done else found + self._finish()

    def _finish(self) -> list[AnyEvent]:
        self.done = True
        if self._readers and all(reader.is_finished for reader in self._readers.values()):
            return []
        return [failed("the upstream's stream ended before its end marker", "truncated")]

    def _fail(self, event: Failed) -> Failed:
        self.done = True
        return event

    def _read(self, payload: bytes) -> list[AnyEvent]:
        chunk = decode_answer(payload)
        if chunk.error != NULL:
            return [self._fail(Failed(parse_error(0, payload)))]
        self.id, self.model = chunk.id or self.id, chunk.model or self.model
        found: list[AnyEvent] = []
        for choice in chunk.choices or ():
            reader = self._readers.get(choice.index)
            if reader is None:
                reader = self._readers[choice.index] = Reader(choice.index, self._reading)
            found += reader.read(choice, choice.delta or choice.message or Said())
            if choice.finish_reason is not None:
                found += reader.end()
        return found + count(chunk.usage)


class Reader:
    """One choice in the making."""

    def __init__(self, index: int, reading: Reading, is_whole: bool = False) -> None:
        self.is_finished = False
        self._fences = Fences() if reading.strip_fences else None
        self._choice = index
        self._is_whole = is_whole
        self._calls: dict[int, int] = {}  # theirs → ours, which have no gaps
        self._details: dict[Any, ReasoningDetail] = {}
        self._extra: dict[str, msgspec.Raw] = {}
        self._finish: str | None = None
        self._native = ""

    def read(self, choice: Choice, said: Said) -> list[AnyEvent]:
        """What a message or a delta says. Raises BadAnswer where the answer broke off."""
        if self.is_finished:
            return []  # an empty chunk after the finish, as some send with their usage
        place = self._choice
        found: list[AnyEvent] = []
        text, thought = said.content, said.reasoning_content or said.reasoning or ""
        if isinstance(text, list):
            text, inner = split_content(text)
            thought = thought or inner
        if thought:
            found.append(ReasoningDelta(thought, place))
        if text and self._fences is not None:
            text = self._fences.feed(text)
        if text:
            logprobs = choice.logprobs
            has_logprobs = logprobs is not None and bool(logprobs.content)
            found.append(TextDelta(text, place, msgspec.Raw(encode(logprobs)) if has_logprobs else None))
        if said.refusal:
            found.append(RefusalDelta(said.refusal, place))
        for position, call in enumerate(said.tool_calls or ()):
            found += self._call(position if call.index is None or self._is_whole else call.index, call)
        for detail in said.reasoning_details or ():
            self._add_detail(detail)
        for annotation in said.annotations or ():
            if annotation.url_citation is not None:
                found.append(Cited(annotation.url_citation, place))
        found += [ImageMade(image.image_url.url, place) for image in said.images or ()]
        self._extra |= said.extra_content or {}
        if choice.finish_reason is not None:
            self._finish, self._native = choice.finish_reason, choice.native_finish_reason or choice.finish_reason
        return found

    def end(self) -> list[AnyEvent]:
        """The choice is complete. Raises BadAnswer where it is not."""
        if self.is_finished:
            return []
        if self._finish is None:
            raise BadAnswer("the upstream's answer has no finish_reason")
        if self._finish in BROKEN:
            raise BadAnswer("the upstream's model broke off with an error")
        self.is_finished = True
        place = self._choice
        found: list[AnyEvent] = [ReasoningDone(detail, place) for detail in self._details.values()]
        if self._fences is not None and (rest := self._fences.end()):
            found.append(TextDelta(rest, place))
        if self._extra:
            found.append(ExtraContent(self._extra, place))
        reason = FINISH.get(self._finish, "stop")
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        return [*found, Finish(reason, self._native, place)]

    def _call(self, index: int, call: Call) -> list[AnyEvent]:
        function = call.function or Function()
        found: list[AnyEvent] = []
        if index not in self._calls:
            ours = self._calls[index] = len(self._calls)
            found.append(ToolCallStart(ours, call.id or "", function.name or "", self._choice, call.extra_content))
        if function.arguments:
            found.append(ArgumentsDelta(self._calls[index], function.arguments, self._choice))
        return found

    def _add_detail(self, detail: ReasoningDetail) -> None:
        """A stream gives a detail in pieces, which have its type and index in common."""
        key = len(self._details) if self._is_whole else (detail.type, detail.index, detail.format)
        before = self._details.get(key)
        if before is None:
            self._details[key] = detail
            return
        joined = {
            name: (getattr(before, name) or "") + (getattr(detail, name) or "") or None
            for name in ("text", "summary", "data", "signature")
        }
        self._details[key] = msgspec.structs.replace(before, id=before.id or detail.id, **joined)


def stream_parser(reading: Reading) -> StreamParser:
    """A parser for one stream."""
    return Stream(reading)


def count(raw: msgspec.Raw) -> list[AnyEvent]:
    """`usage`, where there is one that can be believed."""
    usage = None if raw == NULL else parse_usage(bytes(raw))
    return [] if usage is None else [UsageReport(usage, raw)]


# Errors

BY_STATUS: dict[int, FaultKind] = {
    400: "bad_request", 401: "auth", 402: "auth", 403: "auth", 404: "not_found", 408: "overloaded",
    413: "context_length", 422: "bad_request", 429: "rate_limit", 503: "overloaded", 529: "overloaded",
}  # fmt: skip
BY_CODE: dict[str, FaultKind] = {
    "context_length_exceeded": "context_length", "content_filter": "content_policy", "invalid_api_key": "auth",
    "content_policy_violation": "content_policy", "insufficient_quota": "auth", "model_not_found": "not_found",
    "rate_limit_exceeded": "rate_limit", "invalid_model": "not_found", "overloaded": "overloaded",
}  # fmt: skip
FORBIDDEN = ("content management policy", "content policy", "usage policies", "moderation", "flagged")


class Metadata(msgspec.Struct, frozen=True):
    """OpenRouter's, of an error that one of its providers gave."""

    raw: str | None = None


class RawError(msgspec.Struct, frozen=True):
    """The inside of an error that a router passes on."""

    metadata: Metadata | None = None


class Envelope(msgspec.Struct, frozen=True):
    """What has it."""

    error: RawError | None = None


decode_envelope = msgspec.json.Decoder(Envelope).decode


def parse_error(status: int, body: bytes) -> Fault:
    """An error in one of the shapes that OpenAI-like servers use; `status` 0 for one in a stream, where code tells."""
    message, code, param = openai_chat.parse_error(body)
    kind = BY_CODE.get(code) or BY_STATUS.get(int(code) if code.isdigit() and len(code) == 3 else status)
    kind = kind or ("bad_request" if 400 <= status < 500 else "server")
    if kind == "bad_request":
        if is_context_length(message, code):
            kind = "context_length"
        elif any(words in message.lower() for words in FORBIDDEN):
            kind = "content_policy"
    return Fault(kind, "\n".join(filter(None, [message, cause(body)])), code, param)


def cause(body: bytes) -> str:
    """What the provider behind a router said; "" where nothing is passed on."""
    try:
        error = decode_envelope(body).error
    except UNREADABLE:
        return ""
    return (error.metadata.raw or "") if error is not None and error.metadata is not None else ""

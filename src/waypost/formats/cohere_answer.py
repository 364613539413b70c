"""What Cohere's v2 chat answers: whole messages and streams, read by one reader.

Source of the wire facts: docs.cohere.com (chat, chat with streaming, citations, reasoning), the types of Cohere's own
SDK, and recorded answers. A plan to call tools is reasoning: it is shown, and comes back as `tool_plan`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from waypost.chat import ReasoningDetail
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
    ReasoningDelta,
    ReasoningDone,
    RefusalDelta,
    TextDelta,
    ToolCallStart,
    UrlCitation,
    UsageReport,
    fold,
)
from waypost.formats.fences import Fences
from waypost.formats.format import Reading, encode, failed
from waypost.formats.sse import Splitter
from waypost.records import Usage

COHERE = "cohere-v2"  # `ReasoningDetail.format`
OPAQUE = "cohere"  # the key in `extra_content`
FINISH: dict[str, FinishReason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "ERROR_LIMIT": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}
BROKEN: dict[str, FaultKind] = {"ERROR": "server", "TIMEOUT": "overloaded", "USER_CANCEL": "server"}
REFUSED = "The upstream's content filter stopped the answer."
ABSENT = msgspec.Raw(b"null")


class Content(msgspec.Struct, frozen=True):
    """A block of a message, or of content-start; in content-delta without its type."""

    type: str = ""
    text: str = ""
    thinking: str = ""


class Function(msgspec.Struct, frozen=True):
    """What is called; a delta has more of the arguments alone."""

    name: str = ""
    arguments: str = ""


class Call(msgspec.Struct, frozen=True):
    """A call, or more of one."""

    id: str = ""
    function: Function | None = None


class Source(msgspec.Struct, frozen=True):
    """What a citation rests on: a document of the caller's, or the output of a tool."""

    type: str = ""
    document: dict[str, Any] | None = None
    tool_output: dict[str, Any] | None = None


class Citation(msgspec.Struct, frozen=True):
    """`start` and `end` count characters of the content block at `content_index`; `type` says of what kind it is."""

    start: int = 0
    end: int = 0
    text: str = ""
    sources: list[Source] | None = None
    content_index: int | None = None
    type: str = "TEXT_CONTENT"


class Logprob(msgspec.Struct, frozen=True):
    """The tokens of a piece of text."""

    text: str | None = None
    logprobs: list[float] | None = None


class Message(msgspec.Struct, frozen=True):
    """A whole message."""

    content: list[Content] | None = None
    tool_plan: str | None = None
    tool_calls: list[Call] | None = None
    citations: list[msgspec.Raw] | None = None


class DeltaMessage(msgspec.Struct, frozen=True):
    """A step of a message: what is a list in the whole is one thing here, but for message-start, where it is empty."""

    content: Content | list[Content] | None = None
    tool_plan: str | None = None
    tool_calls: Call | list[Call] | None = None
    citations: msgspec.Raw = ABSENT


class Delta(msgspec.Struct, frozen=True):
    """Of any event; the last one says how it ended."""

    message: DeltaMessage | None = None
    finish_reason: str | None = None
    error: str | None = None
    usage: msgspec.Raw = ABSENT


class StreamEvent(msgspec.Struct, frozen=True):
    """Any event of a stream."""

    type: str = ""
    id: str = ""
    index: int | None = None
    delta: Delta | None = None
    logprobs: Logprob | None = None
    message: str = ""  # of an error that is no event


class Answer(msgspec.Struct, frozen=True):
    """A whole answer."""

    message: Message
    finish_reason: str
    id: str = ""
    usage: msgspec.Raw = ABSENT
    logprobs: list[Logprob] | None = None


class Tokens(msgspec.Struct, frozen=True):
    """Counts; they come as floats."""

    input_tokens: float | None = None
    output_tokens: float | None = None


class UsageFields(msgspec.Struct, frozen=True):
    """`usage`: what is paid for, and what was used, which is with Cohere's own prompt around the caller's."""

    billed_units: Tokens | None = None
    tokens: Tokens | None = None
    cached_tokens: float | None = None


decode_answer = msgspec.json.Decoder(Answer).decode
decode_event = msgspec.json.Decoder(StreamEvent).decode
decode_citation = msgspec.json.Decoder(Citation).decode
decode_usage = msgspec.json.Decoder(UsageFields).decode
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_response(body: bytes, reading: Reading) -> Completion:
    """A whole answer. Raises BadAnswer."""
    try:
        answer = decode_answer(body)
        reader = Reader(reading)
        message = answer.message
        events = reader.plan(message.tool_plan or "")
        logprobs = [render_logprob(one) for one in answer.logprobs or ()]
        for index, block in enumerate(message.content or ()):
            events += reader.begin(index, block)
            if block.text and logprobs:
                reader.add_logprobs(events, logprobs)
                logprobs = []
            events += reader.close()
        for call in message.tool_calls or ():
            events += reader.call(call) + reader.end_call()
        for raw in message.citations or ():
            events += reader.cite(raw)
        events += reader.stop(answer.finish_reason, "")
        if answer.usage != ABSENT:
            events.append(count(answer.usage))
    except UNREADABLE:
        raise BadAnswer("the upstream's answer is not a message") from None
    return msgspec.structs.replace(fold(events), id=answer.id)


class Stream:
    """Server-sent events of one message → events."""

    def __init__(self, reading: Reading) -> None:
        self.done = False
        self.id = ""
        self.model = ""
        self._splitter = Splitter()
        self._reader = Reader(reading)

    def feed(self, data: bytes) -> list[AnyEvent]:
        """What these bytes complete."""
        found: list[AnyEvent] = []
        try:
            for payload in self._splitter.feed(data):
                if self.done:
                    break
                if payload != b"[DONE]":
                    found += self._read(decode_event(payload))
        except BadAnswer as error:
            found.append(self._fail(failed(str(error), error.how)))
        except UNREADABLE:
            found.append(self._fail(failed("the upstream sent an event that is not one of a message's stream")))
        return found

    def end(self) -> list[AnyEvent]:
        """No more bytes come: whole if it has said why it stopped."""
        found = self.feed(b"\n\n")  # a last event may lack its empty line
        if not self.done:
            found.append(failed("the upstream's stream ended before its end marker", "truncated"))
        self.done = True
        return found

    def _fail(self, event: Failed) -> Failed:
        self.done = True
        return event

    def _read(self, event: StreamEvent) -> list[AnyEvent]:
        delta = event.delta or Delta()
        message = delta.message or DeltaMessage()
        reader = self._reader
        match event.type:
            case "content-delta" if isinstance(message.content, Content):  # nearly always
                return reader.more(event.index, message.content, event.logprobs)
            case "content-start" if isinstance(message.content, Content):
                return reader.begin(event.index, message.content)
            case "content-end":
                return reader.close()
            case "tool-plan-delta":
                return reader.plan(message.tool_plan or "")
            case "tool-call-start" if isinstance(message.tool_calls, Call):
                return reader.call(message.tool_calls)
            case "tool-call-delta" if isinstance(message.tool_calls, Call):
                return reader.argue((message.tool_calls.function or Function()).arguments)
            case "tool-call-end":
                return reader.end_call()
            case "citation-start" if message.citations != ABSENT:
                return reader.cite(message.citations)
            case "message-start":
                self.id = event.id
            case "message-end":
                return self._finish(delta)
            case "" if event.message:
                return [self._fail(failed(event.message, "error_event"))]
        return []  # the end of a citation, or an event that is newer than this

    def _finish(self, delta: Delta) -> list[AnyEvent]:
        reason = delta.finish_reason or ("ERROR" if delta.error else "COMPLETE")
        found = self._reader.close()
        if reason in BROKEN:
            return [*found, self._fail(Failed(Fault(BROKEN[reason], delta.error or broken(reason), reason)))]
        found += self._reader.stop(reason, delta.error or "")
        if delta.usage != ABSENT:
            found.append(count(delta.usage))
        self.done = True
        return found


def broken(reason: str) -> str:
    """What to say of a finish that is none."""
    return f"the upstream's model ended with {reason}"


class Reader:
    """Steps of a message in, events out: one answer in the making."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._fences = Fences() if reading.strip_fences else None
        self._calls = 0
        self._is_answering = False  # the call that is open is the answer
        self._is_skipping = False  # the call that is open is not for the caller
        self._is_argued = False  # the call that is open has said arguments
        self._is_schema = False  # the answer has come by the schema's tool
        self._held: list[str] = []  # words that are said only if it has not
        self._thoughts = 0
        self._plan: list[str] = []
        self._thinking: list[str] = []  # of the block that is open
        self._length = 0  # characters of text said
        self._starts: dict[int, int] = {}  # where the text of each content block begins
        self._citations: list[msgspec.Raw] = []  # all, if one of them has no URL
        self._has_other_sources = False

    # Words and thoughts

    def begin(self, index: int | None, block: Content) -> list[AnyEvent]:
        """A block, with whatever it has from the start."""
        found = self._end_plan() + self.close()
        self._starts[index or 0] = self._length
        return found + self.more(index, block, None)

    def more(self, index: int | None, content: Content, logprobs: Logprob | None) -> list[AnyEvent]:
        """More of the open block."""
        if content.thinking:
            return self._think(content.thinking)
        found = self._say(content.text)
        if logprobs is not None:
            self.add_logprobs(found, [render_logprob(logprobs)])
        return found

    def close(self) -> list[AnyEvent]:
        """The open block is complete."""
        thought, self._thinking = "".join(self._thinking), []
        if not thought:
            return []
        self._thoughts += 1
        return [ReasoningDone(ReasoningDetail("reasoning.text", text=thought, format=COHERE, index=self._thoughts - 1))]

    def plan(self, text: str) -> list[AnyEvent]:
        """More of the plan to call tools."""
        if not text:
            return []
        is_further = not self._plan and self._thoughts > 0
        self._plan.append(text)
        return [ReasoningDelta(f"\n\n{text}" if is_further else text)]

    def _end_plan(self) -> list[AnyEvent]:
        plan, self._plan = "".join(self._plan), []
        if not plan:
            return []
        self._thoughts += 1
        index = self._thoughts - 1
        return [ReasoningDone(ReasoningDetail("reasoning.summary", summary=plan, format=COHERE, index=index))]

    def _think(self, text: str) -> list[AnyEvent]:
        is_further = not self._thinking and self._thoughts > 0
        self._thinking.append(text)
        return [ReasoningDelta(f"\n\n{text}" if is_further else text)]

    def _say(self, text: str) -> list[AnyEvent]:
        if not text:
            return []
        if self._reading.schema_tool:
            self._held.append(text)
            return []
        if self._fences is not None:
            text = self._fences.feed(text)
        self._length += len(text)
        return [TextDelta(text)] if text else []

    def add_logprobs(self, found: list[AnyEvent], logprobs: list[dict[str, Any]]) -> None:
        """Tokens belong to the text that was said last."""
        if found and isinstance(found[-1], TextDelta):
            found[-1] = TextDelta(found[-1].text, logprobs=msgspec.Raw(encode({"content": logprobs})))

    # Calls

    def call(self, call: Call) -> list[AnyEvent]:
        """A call begins, or is there as a whole."""
        found = self.close() + self._end_plan()
        function = call.function or Function()
        self._is_answering = bool(self._reading.schema_tool) and function.name == self._reading.schema_tool
        self._is_schema = self._is_schema or self._is_answering
        self._is_argued = False
        self._is_skipping = self._reading.first_call_only and self._calls > 0 and not self._is_answering
        if not (self._is_skipping or self._is_answering):
            self._calls += 1
            name = self._reading.names.get(function.name, function.name)
            found.append(ToolCallStart(self._calls - 1, call.id, name))
        return found + self.argue(function.arguments)

    def argue(self, text: str) -> list[AnyEvent]:
        """More of the open call's arguments."""
        if not text or self._is_skipping:
            return []
        self._is_argued = True
        return [TextDelta(text)] if self._is_answering else [ArgumentsDelta(self._calls - 1, text)]

    def end_call(self) -> list[AnyEvent]:
        """The open call is complete: without arguments, it has the empty object, which callers can decode."""
        return [] if self._is_argued else self.argue("{}")

    # Citations

    def cite(self, raw: msgspec.Raw) -> list[AnyEvent]:
        """One citation: of pages, one for each; of anything else, kept as it was."""
        citation = decode_citation(raw)
        self._citations.append(msgspec.Raw(bytes(raw)))
        start = self._starts.get(citation.content_index or 0, 0)
        found: list[AnyEvent] = []
        for source in citation.sources or [Source()]:
            about = source.document or source.tool_output or {}
            url = about.get("url")
            if isinstance(url, str) and url and citation.type == "TEXT_CONTENT":
                title = str(about.get("title") or "")
                found.append(Cited(UrlCitation(url, start + citation.start, start + citation.end, title)))
            else:
                self._has_other_sources = True
        return found

    # The end

    def stop(self, reason: str, why: str) -> list[AnyEvent]:
        """Why it ended. Raises BadAnswer where it is not whole."""
        if reason in BROKEN:
            raise BadAnswer(why or broken(reason), "error_event")
        found = self.close() + self._end_plan()
        if self._held and not self._is_schema:
            found.append(TextDelta("".join(self._held)))
        if self._fences is not None and (rest := self._fences.end()):
            found.append(TextDelta(rest))
        finish = FINISH.get(reason, "stop")
        if finish == "content_filter":
            found.append(RefusalDelta(why or REFUSED))
        elif finish != "length":
            finish = "tool_calls" if self._calls else "stop"
        if self._has_other_sources:
            found.append(ExtraContent({OPAQUE: msgspec.Raw(encode({"citations": self._citations}))}))
        return [*found, Finish(finish, reason)]


def render_logprob(item: Logprob) -> dict[str, Any]:
    """OpenAI's entry for a piece of text: of several tokens, whose own texts Cohere does not give, the sum."""
    text = item.text or ""
    return {"token": text, "logprob": sum(item.logprobs or ()), "bytes": list(text.encode()), "top_logprobs": []}


def count(usage: msgspec.Raw) -> UsageReport:
    """`usage` → each token once: those that are paid for, else those that were used."""
    fields = decode_usage(usage)
    billed = fields.billed_units
    if billed is not None and (billed.input_tokens is not None or billed.output_tokens is not None):
        fresh, read, output = billed.input_tokens, 0, billed.output_tokens
    else:
        used = fields.tokens or Tokens()
        read = min(int(fields.cached_tokens or 0), int(used.input_tokens or 0))
        fresh, output = (used.input_tokens or 0) - read, used.output_tokens
    return UsageReport(Usage(fresh=int(fresh or 0), cache_read=read, output=int(output or 0)), usage)

"""What Anthropic answers: whole messages and streams, read by one reader of blocks.

Source of the wire facts: docs.anthropic.com (messages, streaming, extended thinking, citations, usage) and recorded
answers. A whole message is its stream, folded: each block arrives complete.
"""

from __future__ import annotations

import re

import msgspec

from waypost.chat import CLAUDE, Object, ReasoningDetail
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
from waypost.formats.anthropic_content import OPAQUE
from waypost.formats.familiar import Familiar
from waypost.formats.fences import Fences
from waypost.formats.format import EMPTY_OBJECT, Reading, decode_object, encode, failed, parse_arguments
from waypost.formats.sse import Splitter
from waypost.records import Usage

FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
FAULTS: dict[str, FaultKind] = {
    "invalid_request_error": "bad_request",
    "request_too_large": "context_length",
    "authentication_error": "auth",
    "permission_error": "auth",
    "billing_error": "auth",
    "not_found_error": "not_found",
    "rate_limit_error": "rate_limit",
    "overloaded_error": "overloaded",
    "timeout_error": "overloaded",
    "api_error": "server",
}
REFUSED = "The model refused to answer."
# Turns that the vocabulary can say: thoughts, then words, then calls. Anything else is kept as it was.
PLAIN = re.compile(r"T*W?C*")
LETTERS = {"thinking": "T", "redacted_thinking": "T", "text": "W", "tool_use": "C"}
NOTHING = msgspec.Raw(b"null")


class Citation(msgspec.Struct, frozen=True):
    """Of any kind; only those of pages have a URL."""

    type: str
    url: str = ""
    title: str | None = None
    cited_text: str | None = None


class Caller(msgspec.Struct, frozen=True):
    """Who called a tool: "direct", or code that the upstream ran."""

    type: str = "direct"


class Block(msgspec.Struct, frozen=True):
    """One block of content, of any type."""

    type: str
    text: str = ""
    citations: list[Citation] | None = None
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = EMPTY_OBJECT
    caller: Caller | None = None


class StopDetails(msgspec.Struct, frozen=True):
    """Why it stopped, in words."""

    explanation: str | None = None


class Delta(msgspec.Struct, frozen=True):
    """Of content_block_delta and message_delta alike."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    citation: msgspec.Raw = NOTHING
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class Error(msgspec.Struct, frozen=True):
    """`error` of an error's envelope."""

    type: str = ""
    message: str = ""


class Message(msgspec.Struct, frozen=True):
    """A whole message, and what message_start says."""

    type: str = "message"
    id: str = ""
    model: str = ""
    content: list[msgspec.Raw] = []
    stop_reason: str | None = None
    stop_details: StopDetails | None = None
    usage: Object = {}
    error: Error | None = None


class StreamEvent(msgspec.Struct, frozen=True):
    """Any event of a stream; an unknown one is its type alone."""

    type: str
    delta: Delta | None = None
    content_block: msgspec.Raw = NOTHING
    message: Message | None = None
    usage: Object | None = None
    error: Error | None = None


class CacheCreation(msgspec.Struct, frozen=True):
    """`usage.cache_creation`."""

    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class OutputDetails(msgspec.Struct, frozen=True):
    """`usage.output_tokens_details`."""

    thinking_tokens: int | None = None


class UsageFields(msgspec.Struct, frozen=True):
    """`usage`: input_tokens is without cache reads and writes; output_tokens is with thinking."""

    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    output_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None


decode_message = msgspec.json.Decoder(Message).decode
decode_event = msgspec.json.Decoder(StreamEvent).decode
decode_block = msgspec.json.Decoder(Block).decode
decode_citation = msgspec.json.Decoder(Citation).decode
decode_usage = msgspec.json.Decoder(UsageFields).decode
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_response(body: bytes, reading: Reading) -> Completion:
    """A whole message. Raises BadAnswer."""
    try:
        message = decode_message(body)
        if message.error is not None:
            raise BadAnswer(message.error.message or "the upstream answered with an error", "error_event")
        if message.stop_reason is None:
            raise BadAnswer("the upstream's answer has no stop_reason")
        reader = Reader(reading)
        events: list[AnyEvent] = []
        for block in message.content:
            events += reader.begin(block)
            events += reader.close()
        events += reader.stop(message.stop_reason, message.stop_details)
        if message.usage:
            events.append(reader.count(message.usage))
    except UNREADABLE:
        raise BadAnswer("the upstream's answer is not a message") from None
    return msgspec.structs.replace(fold(events), id=message.id, model=message.model)


class Stream:
    """Server-sent events of one message → events."""

    def __init__(self, reading: Reading) -> None:
        self.done = False
        self.id = ""
        self.model = ""
        self._splitter = Splitter()
        self._familiar = Familiar()
        self._reader = Reader(reading)

    def feed(self, data: bytes) -> list[AnyEvent]:
        """What these bytes complete."""
        splitter = self._splitter
        is_alone = splitter.is_between
        text = self._familiar.text(data) if is_alone and not self.done else ""
        if text:  # nearly always
            return self._reader.say(text)
        found: list[AnyEvent] = []
        try:
            payloads = splitter.feed(data)
            is_alone = is_alone and splitter.is_between and len(payloads) == 1
            for payload in payloads:
                if self.done:
                    break
                event = decode_event(payload)
                found += self._read(event)
                delta = event.delta
                if (
                    is_alone
                    and event.type == "content_block_delta"
                    and delta is not None
                    and delta.type == "text_delta"
                ):
                    self._familiar.learn(data, delta.text)
        except BadAnswer as error:
            found.append(self._fail(failed(str(error), error.how)))
        except UNREADABLE:
            found.append(self._fail(failed("the upstream sent an event that is not one of a message's stream")))
        return found

    def end(self) -> list[AnyEvent]:
        """No more bytes come: whole if it has said why it stopped."""
        found = self.feed(b"\n\n")  # a last event may lack its empty line
        if not self.done and not self._reader.is_stopped:
            found.append(failed("the upstream's stream ended before its end marker", "truncated"))
        self.done = True
        return found

    def _fail(self, event: Failed) -> Failed:
        self.done = True
        return event

    def _read(self, event: StreamEvent) -> list[AnyEvent]:
        reader = self._reader
        match event.type:
            case "content_block_delta" if event.delta is not None:
                return reader.more(event.delta)
            case "content_block_start":
                return reader.begin(event.content_block)
            case "content_block_stop":
                return reader.close()
            case "message_start" if event.message is not None:
                self.id, self.model = event.message.id, event.message.model
                return [reader.count(event.message.usage)] if event.message.usage else []
            case "message_delta" if event.delta is not None:
                return self._read_message_delta(event.delta, event.usage)
            case "message_stop":
                if reader.is_stopped:
                    self.done = True
                    return []
                return [self._fail(failed("the upstream's stream ended without a stop_reason"))]
            case "error":
                error = event.error or Error()
                return [self._fail(Failed(Fault(FAULTS.get(error.type, "server"), error.message, error.type)))]
        return []  # a ping, or an event that is newer than this

    def _read_message_delta(self, delta: Delta, usage: Object | None) -> list[AnyEvent]:
        found: list[AnyEvent] = []
        if usage:
            found.append(self._reader.count(usage))
        if delta.stop_reason is not None and not self._reader.is_stopped:
            found += self._reader.stop(delta.stop_reason, delta.stop_details)
        return found


class Reader:
    """Blocks in, events out: one answer in the making. Blocks follow each other, none begins before the last closed."""

    def __init__(self, reading: Reading) -> None:
        self.is_stopped = False
        self._reading = reading
        self._fences = Fences() if reading.strip_fences else None
        self._usage: Object = {}
        self._calls = 0
        self._thoughts = 0
        self._has_reasoned = False  # something to be read has been said of the reasoning
        self._length = 0  # characters of text said
        self._held: list[str] = []  # words that are said only if the answer does not come by the schema's tool
        self._is_schema = False  # the answer has come by the schema's tool
        # The block that is open
        self._block = Block("")
        self._raw = NOTHING
        self._pieces: list[str] = []
        self._signature = ""
        self._citations: list[msgspec.Raw] = []
        self._start = 0  # of its text, in the whole text
        # The blocks that are closed
        self._kept: list[msgspec.Raw] = []
        self._letters = ""
        self._is_plain = True

    def begin(self, raw: msgspec.Raw) -> list[AnyEvent]:
        """A block, with whatever it has from the start."""
        block = self._block = decode_block(raw)
        self._raw = raw
        self._pieces, self._signature, self._citations = [], block.signature, []
        self._start = self._length
        match block.type:
            case "text":
                if block.citations:
                    self._is_plain = False
                return self.say(block.text)
            case "thinking":
                return self._reason(block.thinking)
            case "tool_use" if self._is_answer(block):
                self._is_schema = True
            case "tool_use":
                if block.caller is not None and block.caller.type != "direct":
                    self._is_plain = False
                self._calls += 1
                name = self._reading.names.get(block.name, block.name)
                return [ToolCallStart(self._calls - 1, block.id, name)]
        return []

    def more(self, delta: Delta) -> list[AnyEvent]:
        """More of the open block."""
        match delta.type:
            case "text_delta":
                return self.say(delta.text)
            case "input_json_delta":
                return self._argue(delta.partial_json)
            case "thinking_delta":
                return self._reason(delta.thinking)
            case "signature_delta":
                self._signature += delta.signature
            case "citations_delta":
                self._citations.append(delta.citation)
                self._is_plain = False
        return []

    def close(self) -> list[AnyEvent]:
        """The open block is complete."""
        block = self._block
        self._letters += LETTERS.get(block.type, "?")
        self._kept.append(self._rebuilt())
        match block.type:
            case "text":
                return self._cite()
            case "thinking":
                detail = ReasoningDetail(
                    "reasoning.text", text="".join(self._pieces), signature=self._signature, format=CLAUDE,
                    index=self._next_thought(),
                )  # fmt: skip
                return [ReasoningDone(detail)]
            case "redacted_thinking":
                index = self._next_thought()
                return [
                    ReasoningDone(ReasoningDetail("reasoning.encrypted", data=block.data, format=CLAUDE, index=index))
                ]
            case "tool_use" if not self._pieces:  # the arguments came whole, or there are none
                return self._argue(bytes(block.input).decode())
        return []

    def stop(self, reason: str, details: StopDetails | None) -> list[AnyEvent]:
        """Why it ended."""
        self.is_stopped = True
        found: list[AnyEvent] = []
        if self._held and not self._is_schema:
            found.append(TextDelta("".join(self._held)))
        if self._fences is not None and (rest := self._fences.end()):
            found.append(TextDelta(rest))
        finish = FINISH.get(reason, "stop")
        if finish == "content_filter":
            found.append(RefusalDelta((details.explanation if details is not None else None) or REFUSED))
        elif finish != "length":
            finish = "tool_calls" if self._calls else "stop"
        if not self._is_schema and not (self._is_plain and PLAIN.fullmatch(self._letters)):
            found.append(ExtraContent({OPAQUE: msgspec.Raw(encode({"content": self._kept}))}))
        found.append(Finish(finish, reason))
        return found

    def count(self, usage: Object) -> UsageReport:
        """Usage so far: of what is said twice the later holds, but a 0 takes nothing back."""
        merged = self._usage = self._usage | {
            name: value
            for name, value in usage.items()
            if bytes(value) not in (b"0", b"null") or name not in self._usage
        }
        raw = encode(merged)
        return UsageReport(parse_usage(decode_usage(raw)), msgspec.Raw(raw))

    # Inside of a block

    def _is_answer(self, block: Block) -> bool:
        return bool(self._reading.schema_tool) and block.name == self._reading.schema_tool

    def say(self, text: str) -> list[AnyEvent]:
        """More of its words."""
        if not text:
            return []
        self._pieces.append(text)
        if self._reading.schema_tool:
            self._held.append(text)
            return []
        if self._fences is not None:
            text = self._fences.feed(text)
        self._length += len(text)
        return [TextDelta(text)] if text else []

    def _reason(self, text: str) -> list[AnyEvent]:
        if not text:
            return []
        is_further = self._has_reasoned and not self._pieces  # another thought begins
        self._has_reasoned = True
        self._pieces.append(text)
        return [ReasoningDelta(f"\n\n{text}" if is_further else text)]

    def _argue(self, text: str) -> list[AnyEvent]:
        if not text:
            return []
        self._pieces.append(text)
        if self._block.type != "tool_use":
            return []  # a tool of the upstream's own
        if self._is_answer(self._block):
            return [TextDelta(text)]
        return [ArgumentsDelta(self._calls - 1, text)]

    def _next_thought(self) -> int:
        self._thoughts += 1
        return self._thoughts - 1

    def _cite(self) -> list[AnyEvent]:
        """What the closed text rests on: pages; of documents, the caller knows which they are."""
        citations = [*(self._block.citations or ()), *map(decode_citation, self._citations)]
        return [
            Cited(UrlCitation(one.url, self._start, self._length, one.title or "", one.cited_text))
            for one in citations
            if one.url and self._length > self._start
        ]

    def _rebuilt(self) -> msgspec.Raw:
        """The closed block as it would stand in a whole message."""
        whole = decode_object(self._raw)
        said = "".join(self._pieces)
        if self._block.type in ("text", "thinking") and said:
            whole[self._block.type] = msgspec.Raw(encode(said))
        elif said and "input" in whole:
            whole["input"] = parse_arguments(said)
        if self._signature:
            whole["signature"] = msgspec.Raw(encode(self._signature))
        if self._citations:
            whole["citations"] = msgspec.Raw(encode(self._citations))
        return msgspec.Raw(encode(whole))


def parse_usage(fields: UsageFields) -> Usage:
    """Anthropic's usage → each token once."""
    written = fields.cache_creation_input_tokens or 0
    kept_long = min(written, (fields.cache_creation or CacheCreation()).ephemeral_1h_input_tokens or 0)
    output = fields.output_tokens or 0
    reasoning = min(output, (fields.output_tokens_details or OutputDetails()).thinking_tokens or 0)
    return Usage(
        fresh=fields.input_tokens or 0,
        cache_read=fields.cache_read_input_tokens or 0,
        cache_write_5m=written - kept_long,
        cache_write_1h=kept_long,
        output=output - reasoning,
        reasoning=reasoning,
    )

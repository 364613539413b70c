"""What Bedrock's Converse answers: whole answers and streams, read by one reader of blocks.

Source of the wire facts: the service model of bedrock-runtime (ConverseResponse, ConverseStreamOutput, TokenUsage,
StopReason) and recorded answers. A whole answer is its stream, folded: each block arrives complete. Only Claude signs
its reasoning; what is not signed can't come back.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from waypost.chat import CLAUDE, ReasoningDetail
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
    fold,
)
from waypost.formats.aws_event_stream import Frame, FrameSplitter
from waypost.formats.bedrock_content import OPAQUE
from waypost.formats.bedrock_wire import (
    ABSENT,
    Block,
    Delta,
    Named,
    Reasoning,
    count,
    decode_answer,
    decode_block,
    decode_citation,
    decode_event,
    decode_exception,
)
from waypost.formats.fences import Fences
from waypost.formats.format import Reading, encode, failed, parse_arguments

FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
}
REFUSED = {
    "content_filtered": "The upstream's content filter stopped the answer.",
    "guardrail_intervened": "The upstream's guardrail stopped the answer.",
}
FAILURES = frozenset({"exception", "error"})  # types of messages
BROKEN = frozenset({"malformed_model_output", "malformed_tool_use"})
FAULTS: dict[str, FaultKind] = {
    "ValidationException": "bad_request",
    "ConflictException": "bad_request",
    "AccessDeniedException": "auth",
    "UnrecognizedClientException": "auth",
    "ExpiredTokenException": "auth",
    "InvalidSignatureException": "auth",
    "IncompleteSignatureException": "auth",
    "MissingAuthenticationTokenException": "auth",
    "ResourceNotFoundException": "not_found",
    "ThrottlingException": "rate_limit",
    "ServiceQuotaExceededException": "rate_limit",
    "ModelNotReadyException": "overloaded",
    "ModelTimeoutException": "overloaded",
    "ServiceUnavailableException": "overloaded",
    "ModelErrorException": "server",
    "ModelStreamErrorException": "server",
    "InternalServerException": "server",
}
NAMES = {name.lower(): name for name in FAULTS}  # as a head in lower case has them
# Turns that the vocabulary can say: thoughts, then words, then calls. Anything else is kept as it was.
PLAIN = re.compile(r"T*W?C*")
SERVER_TOOL = "server_tool_use"
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, binascii.Error)
ASCII_BASE64 = re.compile(rb"[A-Za-z0-9+/=_-]+")


def parse_response(body: bytes, reading: Reading) -> Completion:
    """A whole answer. Raises BadAnswer."""
    try:
        answer = decode_answer(body)
        reader = Reader(reading)
        events: list[AnyEvent] = []
        for raw in answer.output.message.content:
            events += reader.whole(decode_block(raw), raw)
        events += reader.stop(answer.stop_reason)
        if answer.usage != ABSENT:
            events.append(count(answer.usage))
    except UNREADABLE:
        raise BadAnswer("the upstream's answer is not one of Converse's") from None
    return fold(events)


class Stream:
    """Frames of one answer → events."""

    def __init__(self, reading: Reading) -> None:
        self.done = False
        self.id = ""  # stands in a header, x-amzn-requestid, alone
        self.model = ""
        self._splitter = FrameSplitter()
        self._reader = Reader(reading)

    def feed(self, data: bytes) -> list[AnyEvent]:
        """What these bytes complete."""
        found: list[AnyEvent] = []
        if self.done:
            return found
        frames, error = self._splitter.cut(data)
        try:
            for frame in frames:
                found += self._read(frame)
                if self.done:
                    return found
            if error is not None:
                raise error
        except BadAnswer as wrong:
            found.append(self._fail(failed(str(wrong), wrong.how)))
        except UNREADABLE:
            found.append(self._fail(failed("the upstream sent an event that is not one of Converse's")))
        return found

    def end(self) -> list[AnyEvent]:
        """No more bytes come: whole if it has said why it stopped."""
        if self.done:
            return []
        self.done = True
        if self._reader.is_stopped:
            return []
        return [failed("the upstream's stream ended before its end marker", "truncated")]

    def _fail(self, event: Failed) -> Failed:
        self.done = True
        return event

    def _read(self, frame: Frame) -> list[AnyEvent]:
        headers = frame.headers
        if headers.get(":message-type") in FAILURES:
            return [self._fail(Failed(parse_exception(frame)))]
        reader = self._reader
        match headers.get(":event-type"):
            case "contentBlockDelta":
                event = decode_event(frame.payload)
                return reader.more(event.content_block_index, event.delta) if event.delta is not None else []
            case "contentBlockStart":
                event = decode_event(frame.payload)
                return reader.begin(event.content_block_index, event.start or Block())
            case "contentBlockStop":
                return reader.close()
            case "messageStop":
                return reader.close() + reader.stop(decode_event(frame.payload).stop_reason)
            case "metadata":
                self.done = reader.is_stopped
                usage = decode_event(frame.payload).usage
                return [count(usage)] if usage != ABSENT else []
        return []  # messageStart, or an event that is newer than this


def parse_exception(frame: Frame) -> Fault:
    """An error inside of a stream: modelled ones have a type and a payload, others a code and words in headers."""
    name = frame.text(":exception-type") or frame.text(":error-code")
    code = name[:1].upper() + name[1:]
    try:
        said = decode_exception(frame.payload)
        message = said.message or said.original_message
    except UNREADABLE:
        message = ""
    return Fault(FAULTS.get(code, "server"), message or frame.text(":error-message") or code, code)


class Reader:
    """Blocks in, events out: one answer in the making. Blocks follow each other, by their index."""

    def __init__(self, reading: Reading) -> None:
        self.is_stopped = False
        self._reading = reading
        self._fences = Fences() if reading.strip_fences else None
        self._calls = 0
        self._first: Named | None = None
        self._thoughts = 0  # signed ones
        self._has_reasoned = False  # something to be read has been said of the reasoning
        self._length = 0  # characters of text said
        self._held: list[str] = []  # words that are said only if the answer does not come by the schema's tool
        self._is_schema = False  # the answer has come by the schema's tool
        # The block that is open
        self._index = -1
        self._open = Block()
        self._pieces: list[str] = []
        self._redacted = b""
        self._results: list[msgspec.Raw] = []
        self._signature = ""
        self._citations: list[msgspec.Raw] = []
        self._start = 0  # of its text, in the whole text
        # The blocks that are closed
        self._kept: list[Any] = []
        self._letters = ""
        self._is_plain = True

    def whole(self, block: Block, raw: msgspec.Raw) -> list[AnyEvent]:
        """A block that came complete; of a kind that is not known here, it is kept."""
        if block == Block():
            self._keep("?", raw)
            return []
        found = self.begin(self._index + 1, block)
        if block.citations_content is not None:
            for piece in block.citations_content.content:
                found += self._say(piece.text)
            self._citations += block.citations_content.citations
        thought = block.reasoning_content
        if thought is not None and thought.reasoning_text is not None:
            found += self._reason(thought.reasoning_text.text)
            self._signature = thought.reasoning_text.signature
        return found + self.close()

    def begin(self, index: int, block: Block) -> list[AnyEvent]:
        """A block, with whatever it has from the start."""
        found = self.close()
        self._index, self._open = index, block
        self._pieces, self._signature, self._citations, self._results = [], "", [], []
        self._redacted = b""
        self._start = self._length
        if block.tool_use is not None:
            found += self._call(block.tool_use)
        elif block.text:
            found += self._say(block.text)
        elif block.reasoning_content is not None:
            found += self._think(block.reasoning_content)
        elif block.image is not None:
            self._add_image(block.image)
        elif block.tool_result is not None:
            self._results += block.tool_result.content
        return found

    def more(self, index: int, delta: Delta) -> list[AnyEvent]:
        """More of the open block; text and reasoning begin without saying so."""
        if delta.text is not None and index == self._index:  # nearly always
            return self._say(delta.text)
        found = self.begin(index, opened_by(delta)) if index != self._index else []
        if delta.text is not None:
            return found + self._say(delta.text)
        if delta.tool_use is not None:
            return found + self._argue(delta.tool_use.input)
        if delta.reasoning_content is not None:
            return found + self._think(delta.reasoning_content)
        if delta.citation != ABSENT:
            self._citations.append(delta.citation)
        elif delta.tool_result is not None:
            self._results += delta.tool_result
        elif delta.image is not None:
            self._add_image(delta.image)
        return found

    def close(self) -> list[AnyEvent]:
        """The open block, if there is one, is complete."""
        block, self._open = self._open, Block()
        if block.text is not None or block.citations_content is not None:
            return self._close_text()
        if block.reasoning_content is not None:
            return self._close_thought()
        if block.tool_use is not None:
            return self._close_call(block.tool_use)
        if block.tool_result is not None:
            self._keep("?", {"toolResult": result_of(block.tool_result, self._results)})
        elif block.image is not None:
            return self._close_image(block.image)
        return []

    def stop(self, reason: str) -> list[AnyEvent]:
        """Why it ended. Raises BadAnswer where the model broke off in the midst of something."""
        if reason in BROKEN:
            raise BadAnswer(f"the upstream's model gave a {reason.replace('_', ' ')}")
        self.is_stopped = True
        found: list[AnyEvent] = []
        if self._held and not self._is_schema:
            found.append(TextDelta("".join(self._held)))
        if self._fences is not None and (rest := self._fences.end()):
            found.append(TextDelta(rest))
        finish = FINISH.get(reason, "stop")
        if finish == "content_filter":
            found.append(RefusalDelta(REFUSED[reason]))
        elif finish != "length":
            finish = "tool_calls" if self._calls else "stop"
        if not self._is_schema and not (self._is_plain and PLAIN.fullmatch(self._letters)):
            found.append(ExtraContent({OPAQUE: msgspec.Raw(encode({"content": self._kept}))}))
        found.append(Finish(finish, reason))
        return found

    # Text

    def _say(self, text: str) -> list[AnyEvent]:
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

    def _close_text(self) -> list[AnyEvent]:
        text = "".join(self._pieces)
        if not self._citations:
            if text.strip():
                self._keep("W", {"text": text})
            return []
        self._is_plain = False
        self._keep("W", {"citationsContent": {"content": [{"text": text}], "citations": self._citations}})
        found: list[AnyEvent] = []
        for one in map(decode_citation, self._citations):
            url = one.location.web.url if one.location is not None and one.location.web is not None else ""
            if url and self._length > self._start:
                quoted = "".join(piece.text for piece in one.source_content)
                found.append(Cited(UrlCitation(url, self._start, self._length, one.title or "", quoted or None)))
        return found

    # Reasoning

    def _think(self, thought: Reasoning) -> list[AnyEvent]:
        self._signature += thought.signature
        if thought.redacted_content:
            self._redacted += base64.b64decode(thought.redacted_content)
        return self._reason(thought.text)

    def _reason(self, text: str) -> list[AnyEvent]:
        if not text:
            return []
        is_further = self._has_reasoned and not self._pieces  # another thought begins
        self._has_reasoned = True
        self._pieces.append(text)
        return [ReasoningDelta(f"\n\n{text}" if is_further else text)]

    def _close_thought(self) -> list[AnyEvent]:
        """Signed or redacted, it must come back; else nobody would take it."""
        text = "".join(self._pieces)
        if self._signature:
            self._keep("T", {"reasoningContent": {"reasoningText": {"text": text, "signature": self._signature}}})
            detail = ReasoningDetail(
                "reasoning.text", text=text, signature=self._signature, format=CLAUDE, index=self._thoughts
            )
        elif self._redacted and ASCII_BASE64.fullmatch(self._redacted):
            encoded = base64.b64encode(self._redacted).decode()
            self._keep("T", {"reasoningContent": {"redactedContent": encoded}})
            data = self._redacted.decode()
            detail = ReasoningDetail("reasoning.encrypted", data=data, format=CLAUDE, index=self._thoughts)
        else:
            return []
        self._thoughts += 1
        return [ReasoningDone(detail)]

    # Calls

    def _is_answer(self, call: Named) -> bool:
        return bool(self._reading.schema_tool) and call.name == self._reading.schema_tool

    def _is_shown(self, call: Named) -> bool:
        """Is it a call that the caller is to make?"""
        if call.type == SERVER_TOOL or self._is_answer(call):
            return False
        return not self._reading.first_call_only or self._calls == 0 or call is self._first

    def _call(self, call: Named) -> list[AnyEvent]:
        if self._is_answer(call):
            self._is_schema = True
        if not self._is_shown(call):
            return []
        self._first = self._first or call
        self._calls += 1
        return [ToolCallStart(self._calls - 1, call.tool_use_id, self._reading.names.get(call.name, call.name))]

    def _argue(self, text: str) -> list[AnyEvent]:
        call = self._open.tool_use
        if not text or call is None:
            return []
        self._pieces.append(text)
        if self._is_answer(call):
            return [TextDelta(text)]
        return [ArgumentsDelta(self._calls - 1, text)] if self._is_shown(call) else []

    def _close_call(self, call: Named) -> list[AnyEvent]:
        self._open = Block(tool_use=call)
        found = [] if self._pieces else self._argue(bytes(call.input).decode())
        self._open = Block()
        made = {"toolUseId": call.tool_use_id, "name": call.name, "input": parse_arguments("".join(self._pieces))}
        if call.type == SERVER_TOOL:
            self._keep("?", {"toolUse": {**made, "type": SERVER_TOOL}})
        elif self._is_shown(call):
            self._keep("C", {"toolUse": made})
        return found

    # Pictures

    def _add_image(self, image: Named) -> None:
        if image.source is not None:
            self._redacted += base64.b64decode(image.source.bytes)

    def _close_image(self, image: Named) -> list[AnyEvent]:
        encoded = base64.b64encode(self._redacted).decode()
        self._keep("?", {"image": {"format": image.format, "source": {"bytes": encoded}}})
        return [ImageMade(f"data:image/{image.format};base64,{encoded}")] if encoded else []

    def _keep(self, letter: str, block: Any) -> None:
        self._letters += letter
        self._kept.append(block)


def opened_by(delta: Delta) -> Block:
    """The block that a delta without a start belongs to."""
    if delta.reasoning_content is not None:
        return Block(reasoning_content=Reasoning())
    if delta.tool_result is not None:
        return Block(tool_result=Named())
    if delta.image is not None:
        return Block(image=Named(format=delta.image.format))
    return Block(text="")


def result_of(named: Named, content: list[msgspec.Raw]) -> dict[str, Any]:
    """What a tool of Bedrock's own gave, as it would stand in a whole answer."""
    made: dict[str, Any] = {"toolUseId": named.tool_use_id, "content": content}
    if named.status:
        made["status"] = named.status
    if named.type:
        made["type"] = named.type
    return made

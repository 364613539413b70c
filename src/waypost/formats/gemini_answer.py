"""What Gemini answers: whole responses and streams of them, read by one reader.

Source of the wire facts: ai.google.dev (generateContent, thought signatures, grounding, tokens), google-genai's types,
and recorded answers. Each event of a stream is a whole GenerateContentResponse with the next parts; there is no end
marker. Some models give a finish reason with every event, so a choice is finished only when the stream is.
"""

from __future__ import annotations

import hashlib

import msgspec

from waypost.chat import GEMINI, Extra, ReasoningDetail
from waypost.completion import (
    AnyEvent,
    ArgumentsDelta,
    BadAnswer,
    Completion,
    ExtraContent,
    Failed,
    Finish,
    FinishReason,
    ImageMade,
    ReasoningDelta,
    ReasoningDone,
    RefusalDelta,
    TextDelta,
    ToolCallStart,
    UsageReport,
    fold,
)
from waypost.formats.familiar import FamiliarCounted
from waypost.formats.fences import Fences
from waypost.formats.format import Reading, encode, failed
from waypost.formats.gemini_content import OPAQUE
from waypost.formats.gemini_errors import Status, fault_of
from waypost.formats.gemini_parts import (
    Grounding,
    Logprobs,
    Part,
    Piece,
    citations_of,
    compact,
    is_plain,
    kept_parts,
    parse_usage,
    render_logprobs,
)
from waypost.formats.sse import Splitter

FINISH: dict[str, FinishReason] = {
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "IMAGE_OTHER": "content_filter",
}  # any other is "stop"
# The model has answered with what is no answer: another target may do better.
BROKEN = frozenset({
    "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE", "MALFORMED_RESPONSE",
    "TOO_MANY_TOOL_CALLS",
})  # fmt: skip
NOTHING = msgspec.Raw(b"null")


class Content(msgspec.Struct, frozen=True):
    """`content` of a candidate."""

    parts: list[msgspec.Raw] = []


class Candidate(msgspec.Struct, frozen=True, rename="camel"):
    """One answer, or the next parts of it."""

    content: Content | None = None
    index: int = 0
    finish_reason: str = ""
    finish_message: str = ""
    grounding_metadata: Grounding | None = None
    logprobs_result: Logprobs | None = None


class PromptFeedback(msgspec.Struct, frozen=True, rename="camel"):
    """Why a prompt was not answered."""

    block_reason: str = ""
    block_reason_message: str = ""


class Response(msgspec.Struct, frozen=True, rename="camel"):
    """GenerateContentResponse; `error` where a stream breaks."""

    candidates: list[Candidate] = []
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: msgspec.Raw = NOTHING
    model_version: str = ""
    response_id: str = ""
    error: Status | None = None


decode_response = msgspec.json.Decoder(Response).decode
decode_part = msgspec.json.Decoder(Part).decode
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_response(body: bytes, reading: Reading) -> Completion:
    """A whole response. Raises BadAnswer."""
    reader = Reader(reading)
    events: list[AnyEvent] = []
    try:
        reader.read(decode_response(body), events)
        reader.end(events)
    except UNREADABLE:
        raise BadAnswer("the upstream's answer is not a response of Gemini's") from None
    return msgspec.structs.replace(fold(events), id=reader.id, model=reader.model)


class Stream:
    """Server-sent events of one answer → events."""

    def __init__(self, reading: Reading) -> None:
        self.done = False
        self.id = ""
        self.model = ""
        self._splitter = Splitter()
        self._familiar = FamiliarCounted()
        self._speaker = ChoiceReader(0, reading)  # whose the familiar events are
        self._reader = Reader(reading)

    def feed(self, data: bytes) -> list[AnyEvent]:
        """What these bytes complete."""
        found: list[AnyEvent] = []
        if self.done:
            return found
        splitter = self._splitter
        is_alone = splitter.is_between
        try:
            if is_alone and self._is_known(data, found):  # nearly always
                return found
            payloads = splitter.feed(data)
            is_alone = is_alone and splitter.is_between and len(payloads) == 1
            for payload in payloads:
                response = decode_response(payload)
                self._reader.read(response, found)
                if found and isinstance(found[-1], Failed):
                    break
                if is_alone:
                    self._learn(data, response)
        except BadAnswer as error:
            found.append(failed(str(error), error.how))
        except UNREADABLE:
            found.append(failed("the upstream sent an event that is not a response of Gemini's"))
        self.id, self.model = self._reader.id, self._reader.model
        self.done = bool(found) and isinstance(found[-1], Failed)
        return found

    def _is_known(self, data: bytes, found: list[AnyEvent]) -> bool:
        """Is it what came before, but for its text and usage so far? Then these are added to `found`."""
        text, usage = self._familiar.text(data)
        if not text:
            return False
        try:
            self._reader.count(msgspec.Raw(usage), found)
        except UNREADABLE:  # such as the end of one event and the beginning of another between the same bytes
            return False
        self._speaker.more(text, found)
        return True

    def _learn(self, data: bytes, response: Response) -> None:
        """Of an event that came alone: is it nothing but text, and usage so far?"""
        if len(response.candidates) != 1 or response.usage_metadata == NOTHING or response.prompt_feedback is not None:
            return
        candidate = response.candidates[0]
        content, index = candidate.content, candidate.index
        if content is not None and len(content.parts) == 1 and candidate == Candidate(content=content, index=index):
            part = decode_part(content.parts[0])
            is_text = part == Part(text=part.text)
            if is_text and self._familiar.learn(data, part.text or "", bytes(response.usage_metadata)):
                self._speaker = self._reader.choice(index)

    def end(self) -> list[AnyEvent]:
        """No more bytes come: whole if every choice has said why it stopped."""
        found = self.feed(b"\n\n")  # a last event may lack its empty line
        if not self.done:
            try:
                self._reader.end(found)
            except BadAnswer as error:
                found.append(failed(str(error), error.how))
        self.done = True
        return found


class Reader:
    """Responses in, events out: one answer with all its choices. Owned by one parsing."""

    def __init__(self, reading: Reading) -> None:
        self.id = ""
        self.model = ""
        self._reading = reading
        self._choices: dict[int, ChoiceReader] = {}

    def read(self, response: Response, found: list[AnyEvent]) -> None:
        """The next part of the answer, its events added to `found`. Raises BadAnswer."""
        self.id = self.id or response.response_id
        self.model = self.model or response.model_version
        self.count(response.usage_metadata, found)
        if response.error is not None:
            found.append(Failed(fault_of(response.error.code, response.error)))
            return
        for candidate in response.candidates:
            self.choice(candidate.index).read(candidate, self.id, found)
        feedback = response.prompt_feedback
        if feedback is not None and feedback.block_reason and not self._choices:
            self.choice(0).block(feedback.block_reason, feedback.block_reason_message)

    def count(self, raw: msgspec.Raw, found: list[AnyEvent]) -> None:
        """Usage so far."""
        if raw != NOTHING:
            usage = parse_usage(raw)
            if usage is not None:
                found.append(UsageReport(usage, raw))

    def end(self, found: list[AnyEvent]) -> None:
        """The answer is complete. Raises BadAnswer where it is not."""
        if found and isinstance(found[-1], Failed):
            return
        if not self._choices:
            raise BadAnswer("the upstream's answer has no candidates")
        if not all(choice.reason for choice in self._choices.values()):
            raise BadAnswer("the upstream's answer ended without a finish reason", "truncated")
        for choice in self._choices.values():
            choice.end(found)

    def choice(self, index: int) -> ChoiceReader:
        """Of that index, which may begin with this."""
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = ChoiceReader(index, self._reading)
        return choice


class ChoiceReader:
    """Parts in, events out: one choice in the making."""

    def __init__(self, index: int, reading: Reading) -> None:
        self.reason = ""
        self._index = index
        self._reading = reading
        self._fences = Fences() if reading.strip_fences else None
        self._message = ""
        self._is_blocked = False  # the prompt was refused
        self._pieces: list[Piece] = []
        self._is_thinking = False  # the last piece is a thought that may go on
        self._thoughts = 0  # thoughts begun
        self._details = 0
        self._calls = 0
        self._said: list[str] = []
        self._held: list[str] = []  # words that are said only if the answer does not come by the schema's tool
        self._is_schema = False  # the answer has come by the schema's tool
        self._grounding: Grounding | None = None

    def read(self, candidate: Candidate, id: str, found: list[AnyEvent]) -> None:
        """The next parts. Raises BadAnswer where the model broke off."""
        logprobs = candidate.logprobs_result
        for raw in candidate.content.parts if candidate.content is not None else ():
            part = decode_part(raw)
            if self._is_thinking and not part.is_thought:
                self._close_thought(found)
            if part.function_call is not None:
                self._call(part, raw, id, found)
            elif part.is_thought:
                self._think(part, found)
            elif part.inline_data is not None:
                self._show(part, found)
            elif part.text is not None:
                self._say(part.text, part.thought_signature, logprobs, found)
                logprobs = None
            else:
                self._pieces.append(Piece("?", raw=raw))
        if candidate.grounding_metadata is not None:
            self._grounding = candidate.grounding_metadata
        if candidate.finish_reason:
            self.reason = candidate.finish_reason
            self._message = candidate.finish_message
            if self.reason in BROKEN:
                raise BadAnswer(self._message or f"the upstream's model broke off: {self.reason}")

    def block(self, reason: str, message: str) -> None:
        """The prompt was refused."""
        self.reason = reason
        self._message = message
        self._is_blocked = True

    def end(self, found: list[AnyEvent]) -> None:
        """It is complete."""
        choice = self._index
        if self._is_thinking:
            self._close_thought(found)
        rest = "".join(self._held) if not self._is_schema else ""
        if self._fences is not None:
            rest += self._fences.end()
        if rest:
            self._said.append(rest)
            found.append(TextDelta(rest, choice))
        if self._grounding is not None and not self._is_schema:
            found += citations_of(self._grounding, "".join(self._said), choice)
        finish = "content_filter" if self._is_blocked else FINISH.get(self.reason, "stop")
        if finish == "content_filter":
            found.append(RefusalDelta(self._message or f"The answer was blocked: {self.reason}.", choice))
        elif finish == "stop" and self._calls:
            finish = "tool_calls"
        if not self._is_schema and not is_plain(self._pieces):
            kept = encode({"parts": kept_parts(self._pieces)})
            found.append(ExtraContent({OPAQUE: msgspec.Raw(kept)}, choice))
        found.append(Finish(finish, self.reason, choice))

    # Parts

    def _think(self, part: Part, found: list[AnyEvent]) -> None:
        """More of a thought; one that goes on is one piece, whatever it comes in. Its pictures are not kept."""
        text = part.text or ""
        if not text and not part.thought_signature:
            return
        if not self._is_thinking:
            self._is_thinking = True
            self._pieces.append(Piece("T"))
            self._thoughts += bool(text)
            if text and self._thoughts > 1:
                found.append(ReasoningDelta("\n\n", self._index))
        if text:
            found.append(ReasoningDelta(text, self._index))
        self._pieces[-1].add(text, part.thought_signature)
        if part.thought_signature:
            self._close_thought(found)

    def _close_thought(self, found: list[AnyEvent]) -> None:
        self._is_thinking = False
        piece = self._pieces[-1]
        detail = ReasoningDetail(
            "reasoning.text", text=piece.text, signature=piece.signature or None, format=GEMINI, index=self._next(),
        )  # fmt: skip
        found.append(ReasoningDone(detail, self._index))

    def more(self, text: str, found: list[AnyEvent]) -> None:
        """A part that is nothing but text."""
        if self._is_thinking:
            self._close_thought(found)
        self._say(text, "", None, found)

    def _say(self, text: str, signature: str, logprobs: Logprobs | None, found: list[AnyEvent]) -> None:
        if not text and not signature:
            return
        if not self._pieces or self._pieces[-1].letter != "W" or (text and self._pieces[-1].signature):
            self._pieces.append(Piece("W"))
        self._pieces[-1].add(text, signature)
        if signature:
            self._sign(signature, None, found)
        if self._reading.schema_tool:
            self._held.append(text)
            return
        if self._fences is not None:
            text = self._fences.feed(text)
        if text:
            self._said.append(text)
            rendered = render_logprobs(logprobs) if logprobs is not None else None
            found.append(TextDelta(text, self._index, rendered))

    def _call(self, part: Part, raw: msgspec.Raw, id: str, found: list[AnyEvent]) -> None:
        """A call, whole. Gemini may give it no id: then it gets one that is the same whenever the answer is read."""
        call = part.function_call
        assert call is not None
        arguments = compact(call.args)
        if self._reading.schema_tool and call.name == self._reading.schema_tool:
            if not self._is_schema:
                self._said.append(arguments)
                found.append(TextDelta(arguments, self._index))
            self._is_schema = True
            return
        if self._calls and self._reading.first_call_only:
            return
        index = self._calls
        self._calls += 1
        call_id = call.id or minted_id(id or digest(call.name + arguments), self._index, index)
        signature = part.thought_signature
        extra: Extra | None = None
        if signature:
            extra = {OPAQUE: msgspec.Raw(encode({"thought_signature": signature}))}
            self._sign(signature, call_id, found)
        self._pieces.append(Piece("C", raw=raw, id="" if call.id else call_id))
        name = self._reading.names.get(call.name, call.name)
        found.append(ToolCallStart(index, call_id, name, self._index, extra))
        found.append(ArgumentsDelta(index, arguments, self._index))

    def _show(self, part: Part, found: list[AnyEvent]) -> None:
        """A picture; other media have no place in the vocabulary."""
        blob = part.inline_data
        assert blob is not None
        if part.thought_signature:
            self._sign(part.thought_signature, None, found)
        if blob.mime_type.startswith("image/"):
            found.append(ImageMade(f"data:{blob.mime_type};base64,{blob.data}", self._index))

    def _sign(self, signature: str, id: str | None, found: list[AnyEvent]) -> None:
        """A signature that must come back with the call of that id, or with the text."""
        detail = ReasoningDetail("reasoning.encrypted", data=signature, id=id, format=GEMINI, index=self._next())
        found.append(ReasoningDone(detail, self._index))

    def _next(self) -> int:
        self._details += 1
        return self._details - 1


def minted_id(answer: str, choice: int, index: int) -> str:
    """An id for a call, by the answer that it stands in: at most 40 characters, as OpenAI has it."""
    place = f"{index}" if choice == 0 else f"{choice}_{index}"
    return f"call_{answer[:28]}_{place}"


def digest(call: str) -> str:
    """Of a call that stands in an answer without an id."""
    return hashlib.blake2s(call.encode(), digest_size=12).hexdigest()

"""The parts of Gemini's answers: text, thoughts, calls and pictures; tokens, their probabilities, and citations.

Source of the wire facts: ai.google.dev (generateContent: Part, UsageMetadata, LogprobsResult, GroundingMetadata).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from waypost.chat import Object
from waypost.completion import Cited, UrlCitation
from waypost.formats.format import EMPTY_OBJECT, decode_object, encode
from waypost.records import Usage

# Turns that the vocabulary can say: thoughts, then words, then calls. Anything else is kept as it was.
PLAIN = re.compile(r"T*W?C*")


class FunctionCall(msgspec.Struct, frozen=True):
    """A call. Only newer models give it an id."""

    name: str = ""
    args: msgspec.Raw = EMPTY_OBJECT
    id: str = ""


class Blob(msgspec.Struct, frozen=True, rename="camel"):
    """Base64."""

    mime_type: str = ""
    data: str = ""


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """Of any kind: what is not named here is a tool of Google's own, or newer than this."""

    text: str | None = None
    is_thought: bool = msgspec.field(default=False, name="thought")
    thought_signature: str = ""
    function_call: FunctionCall | None = None
    inline_data: Blob | None = None


class Piece:
    """A part that is kept for a turn that must come back as it was; text that follows text is one piece."""

    def __init__(self, letter: str, raw: msgspec.Raw | None = None, id: str = "") -> None:
        """`id`: the one that a call got from us."""
        self.letter = letter  # T a thought, W words, C a call, ? anything else
        self.signature = ""
        self._raw = raw
        self._id = id
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """Of a thought or words."""
        return "".join(self._texts)

    def add(self, text: str, signature: str) -> None:
        """More of it."""
        self._texts.append(text)
        self.signature = signature or self.signature

    def part(self) -> Any:
        """As it would stand in a whole answer."""
        if self._raw is None:
            thought = {"thought": True} if self.letter == "T" else {}
            return {"text": self.text, **thought, **({"thoughtSignature": self.signature} if self.signature else {})}
        if not self._id:
            return self._raw
        whole: Object = decode_object(self._raw)
        call = {**decode_object(whole["functionCall"]), "id": msgspec.Raw(encode(self._id))}
        return {**whole, "functionCall": call}


def is_plain(pieces: Sequence[Piece]) -> bool:
    """Can the vocabulary say it all?"""
    return PLAIN.fullmatch("".join(piece.letter for piece in pieces)) is not None


def kept_parts(pieces: Sequence[Piece]) -> list[Any]:
    """The turn as it was."""
    return [piece.part() for piece in pieces]


def compact(raw: msgspec.Raw) -> str:
    """JSON without the white space between its tokens; null is the empty object."""
    text = msgspec.json.format(bytes(raw), indent=-1).decode()
    return "{}" if text == "null" else text


# Tokens


class ModalityTokens(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens of one kind."""

    modality: str = ""
    token_count: int = 0


class UsageFields(msgspec.Struct, frozen=True, rename="camel"):
    """`usageMetadata`. promptTokenCount is with what was cached, candidatesTokenCount without thoughts."""

    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    prompt_tokens_details: list[ModalityTokens] | None = None
    tool_use_prompt_tokens_details: list[ModalityTokens] | None = None
    cache_tokens_details: list[ModalityTokens] | None = None
    candidates_tokens_details: list[ModalityTokens] | None = None


decode_usage = msgspec.json.Decoder(UsageFields).decode


def parse_usage(raw: msgspec.Raw) -> Usage | None:
    """Gemini's usage → each token once; None where it counts none, as of a prompt that was blocked.

    Each event of a stream has the counts of the answer so far. The last one holds, even where it has less: when the
    model uses Google's own tools, the counts of its steps are not added up until the end.
    """
    fields = decode_usage(raw)
    if fields.prompt_token_count is fields.candidates_token_count is fields.thoughts_token_count is None:
        return None
    prompt = (fields.prompt_token_count or 0) + (fields.tool_use_prompt_token_count or 0)
    output = fields.candidates_token_count or 0
    reasoning = fields.thoughts_token_count or 0
    cached = min(prompt, fields.cached_content_token_count or 0)
    audio, image = media_of(fields.prompt_tokens_details)
    if fields.tool_use_prompt_tokens_details or fields.cache_tokens_details:
        more, less = media_of(fields.tool_use_prompt_tokens_details), media_of(fields.cache_tokens_details)
        audio, image = max(0, audio + more[0] - less[0]), max(0, image + more[1] - less[1])
    audio_output, image_output = media_of(fields.candidates_tokens_details)
    if not (audio or image or audio_output or image_output):
        return Usage(prompt - cached, cached, output=output, reasoning=reasoning)
    audio = min(audio, prompt - cached)
    image = min(image, prompt - cached - audio)
    audio_output = min(audio_output, output)
    image_output = min(image_output, output - audio_output)
    return Usage(
        fresh=prompt - cached - audio - image,
        cache_read=cached,
        audio_input=audio,
        image_input=image,
        output=output - audio_output - image_output,
        reasoning=reasoning,
        audio_output=audio_output,
        image_output=image_output,
    )


def media_of(details: Sequence[ModalityTokens] | None) -> tuple[int, int]:
    """Tokens of sound and of pictures."""
    audio = image = 0
    for one in details or ():
        if one.modality == "AUDIO":
            audio += one.token_count
        elif one.modality == "IMAGE":
            image += one.token_count
    return audio, image


# Probabilities


class Token(msgspec.Struct, frozen=True, rename="camel"):
    """One that was chosen, or might have been."""

    token: str = ""
    log_probability: float = 0.0


class TopTokens(msgspec.Struct, frozen=True):
    """Those that might have stood in one place."""

    candidates: list[Token] = []


class Logprobs(msgspec.Struct, frozen=True, rename="camel"):
    """`logprobsResult`."""

    chosen_candidates: list[Token] = []
    top_candidates: list[TopTokens] = []


def render_logprobs(said: Logprobs) -> msgspec.Raw | None:
    """OpenAI's `{"content": […]}`; None where no token has any."""
    if not said.chosen_candidates:
        return None
    content = [
        {
            **render_token(token),
            "top_logprobs": [
                render_token(one)
                for one in (said.top_candidates[place].candidates if place < len(said.top_candidates) else ())
            ],
        }
        for place, token in enumerate(said.chosen_candidates)
    ]
    return msgspec.Raw(encode({"content": content}))


def render_token(token: Token) -> dict[str, Any]:
    """OpenAI's token, with its bytes."""
    return {"token": token.token, "logprob": token.log_probability, "bytes": list(token.token.encode())}


# Citations


class Page(msgspec.Struct, frozen=True):
    """A source; only pages of the web have a URL that a reader can follow."""

    uri: str = ""
    title: str = ""


class Chunk(msgspec.Struct, frozen=True):
    """A source of any kind."""

    web: Page | None = None


class Segment(msgspec.Struct, frozen=True, rename="camel"):
    """Words of the answer; the indices are of bytes."""

    start_index: int = 0
    end_index: int = 0
    text: str = ""


class Support(msgspec.Struct, frozen=True, rename="camel"):
    """What words rest on."""

    segment: Segment | None = None
    grounding_chunk_indices: list[int] = []


class Grounding(msgspec.Struct, frozen=True, rename="camel"):
    """`groundingMetadata`."""

    grounding_chunks: list[Chunk] = []
    grounding_supports: list[Support] = []


def citations_of(grounding: Grounding, text: str, choice: int) -> list[Cited]:
    """What the text rests on: pages, by characters of it."""
    found: list[Cited] = []
    encoded = text.encode()
    for support in grounding.grounding_supports:
        segment = support.segment
        start = place_of(segment, text, encoded) if segment is not None else None
        if segment is None or start is None:
            continue
        for index in support.grounding_chunk_indices:
            page = grounding.grounding_chunks[index].web if 0 <= index < len(grounding.grounding_chunks) else None
            if page is not None and page.uri:
                end = start + len(segment.text)
                found.append(Cited(UrlCitation(page.uri, start, end, page.title, segment.text), choice))
    return found


def place_of(segment: Segment, text: str, encoded: bytes) -> int | None:
    """Where the words begin, in characters; Gemini's own count is of bytes, and sometimes wrong."""
    if not segment.text:
        return None
    if encoded[segment.start_index : segment.end_index] == segment.text.encode():
        return len(encoded[: segment.start_index].decode())
    found = text.find(segment.text)
    return found if found >= 0 else None

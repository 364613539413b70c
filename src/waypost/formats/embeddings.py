"""Embeddings: the vocabulary between OpenAI's `/v1/embeddings` and every other upstream's, and both ends of it at ours.

A module that speaks toward an upstream satisfies `EmbeddingFormat`. Source of the wire facts: OpenAI's API reference
(embeddings), and what its own SDK asks for: base64 of little-endian 32-bit floats.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from waypost.chat import Object
from waypost.completion import Fault
from waypost.formats.format import Rendered, Unsupported, encode, invalid
from waypost.formats.openai_chat import NULL, Fields
from waypost.formats.openai_request import decode_field

INPUTS = 2048  # texts of one request, OpenAI's limit
Encoding = Literal["float", "base64"]
SILENT = frozenset({"model", "input", "encoding_format", "dimensions", "user", "provider", "session_id"})


class Embed(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: a vector for each text. `other`: fields that OpenAI does not have, such as Cohere's input_type."""

    texts: tuple[str, ...]
    dimensions: int | None = None
    encoding: Encoding = "float"
    user: str = ""
    other: Object = {}

    def word(self, name: str, default: str = "") -> str:
        """A field of `other` that is a string. Raises Refusal."""
        raw = self.other.get(name)
        if raw is None:
            return default
        try:
            return decode_text(raw)
        except msgspec.DecodeError:
            raise invalid(name, "must be a string") from None


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered: vectors in the order of the texts. `tokens` None: the upstream did not say."""

    vectors: tuple[Sequence[float], ...]
    tokens: int | None = None
    raw_usage: msgspec.Raw | None = None


class EmbeddingFormat(Protocol):
    """A module that asks one kind of upstream for embeddings."""

    def render_embed(self, wanted: Embed, id: str) -> tuple[Rendered, ...]:
        """As many requests as the upstream needs for these texts. Raises Unsupported."""

    def parse_embedded(self, body: bytes) -> Embedded:
        """The body of a 200. Raises BadAnswer."""

    def parse_error(self, status: int, body: bytes) -> Fault:
        """What a status that is not 200 means."""


# The caller's request and answer


KINDS: dict[str, Any] = {"input": str | list[Any], "dimensions": int, "encoding_format": Encoding, "user": str}
DECODERS = {name: msgspec.json.Decoder(kind).decode for name, kind in KINDS.items()}
decode_text = msgspec.json.Decoder(str).decode


def parse_embed(fields: Fields) -> Embed:
    """A request's fields → Embed. Raises Refusal; Unsupported for tokens, which are OpenAI's own."""
    said = {name: raw for name, raw in fields.items() if raw != NULL}
    if "input" not in said:
        raise invalid("input", "a text, or an array of texts, is required")
    decoded = {name: decode_field(name, said[name], decode) for name, decode in DECODERS.items() if name in said}
    dimensions: int | None = decoded.get("dimensions")
    if dimensions is not None and dimensions < 1:
        raise invalid("dimensions", "must be 1 or more")
    other = {name: raw for name, raw in said.items() if name not in SILENT}
    return Embed(
        texts=check_input(decoded["input"]),
        dimensions=dimensions,
        encoding=decoded.get("encoding_format", "float"),
        user=decoded.get("user", ""),
        other=other,
    )


def check_input(value: str | list[Any]) -> tuple[str, ...]:
    """`input` as texts. Raises Refusal, Unsupported."""
    texts = [value] if isinstance(value, str) else value
    if any(isinstance(one, int | list) for one in texts):
        raise Unsupported("input", "this upstream takes texts, not tokens")
    if not texts or len(texts) > INPUTS:
        raise invalid("input", f"must have 1 to {INPUTS} texts")
    if not all(isinstance(one, str) and one for one in texts):
        raise invalid("input", "must be texts that are not empty")
    return tuple(texts)


def render_embedded(embedded: Embedded, encoding: Encoding, model: msgspec.Raw, tokens: int) -> bytes:
    """OpenAI's answer. `model` is the caller's own spelling, as JSON; `tokens` what is counted, said or estimated."""
    data = [
        {"object": "embedding", "index": index, "embedding": pack(vector) if encoding == "base64" else vector}
        for index, vector in enumerate(embedded.vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return encode({"object": "list", "data": data, "model": model, "usage": usage})


def pack(vector: Sequence[float]) -> str:
    """Base64 of little-endian 32-bit floats."""
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


# What several formats need


def batches(texts: tuple[str, ...], size: int) -> list[tuple[str, ...]]:
    """Texts in runs of at most `size`."""
    return [texts[at : at + size] for at in range(0, len(texts), size)]


def join(parts: Sequence[Embedded]) -> Embedded:
    """The answers to several requests, in their order, as one."""
    if len(parts) == 1:
        return parts[0]
    counts = [part.tokens for part in parts if part.tokens is not None]
    return Embedded(
        vectors=tuple(vector for part in parts for vector in part.vectors),
        tokens=sum(counts) if len(counts) == len(parts) else None,
        raw_usage=msgspec.Raw(encode([part.raw_usage for part in parts])) if any(p.raw_usage for p in parts) else None,
    )


def unheard(wanted: Embed, known: frozenset[str]) -> tuple[str, ...]:
    """The caller's fields that an upstream has no use for."""
    return tuple(name for name in wanted.other if name not in known) + (("user",) if wanted.user else ())

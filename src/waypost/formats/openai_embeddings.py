"""OpenAI's embeddings: a caller's request, and the answer, whatever format the upstream spoke.

Source of the wire facts: OpenAI's API reference (embeddings), and its SDK, which asks for base64 unless told otherwise;
Cohere's for `input_type`.
"""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Sequence
from typing import Literal

import msgspec

from waypost.chat import Object
from waypost.formats.format import Unsupported, encode, invalid
from waypost.formats.openai_chat import GATEWAY_ONLY, NULL, Fields
from waypost.formats.openai_request import decode_field

MOST_INPUTS = 2048
# Said to the gateway, or nothing that changes a vector.
SILENT = GATEWAY_ONLY | {"model", "user", "metadata"}


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to be embedded. `other` holds every field not named here."""

    inputs: tuple[str, ...]
    dimensions: int | None = None
    encoding: Literal["float", "base64"] = "float"
    input_type: str = ""  # what the vectors are for: search_document, search_query, classification, clustering
    other: Object = {}


class Embeddings(msgspec.Struct, frozen=True, kw_only=True):
    """A vector for each text, in order. `tokens` None: the upstream did not count them."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int | None = None


decode_input = msgspec.json.Decoder(str | list[str | int | list[int]]).decode
decode_count = msgspec.json.Decoder(int).decode
decode_text = msgspec.json.Decoder(str).decode
decode_encoding = msgspec.json.Decoder(Literal["float", "base64"]).decode


def parse_embeddings(fields: Fields) -> EmbeddingsRequest:
    """A request's fields → EmbeddingsRequest. Raises Refusal INVALID_REQUEST; `param` names the field."""
    said = {name: raw for name, raw in fields.items() if raw != NULL}
    if "input" not in said:
        raise invalid("input", "is required")
    dimensions = decode_field("dimensions", said["dimensions"], decode_count) if "dimensions" in said else None
    if dimensions is not None and dimensions < 1:
        raise invalid("dimensions", "must be 1 or more")
    encoding = said.get("encoding_format")
    purpose = said.get("input_type")
    named = SILENT | {"input", "dimensions", "encoding_format", "input_type"}
    return EmbeddingsRequest(
        inputs=parse_inputs(decode_field("input", said["input"], decode_input)),
        dimensions=dimensions,
        encoding="float" if encoding is None else decode_field("encoding_format", encoding, decode_encoding),
        input_type="" if purpose is None else decode_field("input_type", purpose, decode_text),
        other={name: raw for name, raw in said.items() if name not in named},
    )


def parse_inputs(said: str | list[str | int | list[int]]) -> tuple[str, ...]:
    """One text or several. Raises Refusal; Unsupported for tokens, whose numbers mean something to OpenAI only."""
    inputs = [said] if isinstance(said, str) else said
    if not 1 <= len(inputs) <= MOST_INPUTS:
        raise invalid("input", f"must have 1 to {MOST_INPUTS} texts")
    texts = tuple(one for one in inputs if isinstance(one, str))
    if len(texts) != len(inputs):
        raise Unsupported("input", "must be text for this model, not tokens")
    if not all(texts):
        raise invalid("input", "must not have empty texts")
    return texts


def render_embeddings(made: Embeddings, encoding: Literal["float", "base64"], model: msgspec.Raw) -> bytes:
    """OpenAI's answer; `model` is JSON. What the upstream did not count is 0."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": render_base64(vector) if encoding == "base64" else vector,
        }
        for index, vector in enumerate(made.vectors)
    ]
    tokens = made.tokens or 0
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return encode({"object": "list", "data": data, "model": model, "usage": usage})


def render_base64(vector: Sequence[float]) -> str:
    """Base64 of float32, least byte first."""
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers).decode()


def joined(answers: Sequence[Embeddings]) -> Embeddings:
    """What several requests brought, in order; counted only if all of them were."""
    counts = [one.tokens for one in answers if one.tokens is not None]
    return Embeddings(
        vectors=tuple(vector for one in answers for vector in one.vectors),
        tokens=sum(counts) if len(counts) == len(answers) else None,
    )

"""Embeddings of Bedrock: `/model/{model}/invoke`, with a body for each family of models.

Source of the wire facts: AWS's Bedrock user guide (Titan Text Embeddings, Titan Multimodal Embeddings, Cohere Embed,
Nova Multimodal Embeddings), and recorded exchanges. Titan and Nova take one text a request. Only Titan says in its body
how many tokens there were; for every family the header `x-amzn-bedrock-input-token-count` does.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import msgspec

from waypost.completion import BadAnswer
from waypost.formats import cohere_embeddings
from waypost.formats.bedrock_converse import parse_error
from waypost.formats.embeddings import Embed, Embedded, unheard
from waypost.formats.format import Rendered, Unsupported, encode

__all__ = ["TOKENS_HEADER", "parse_embedded", "parse_error", "render_embed"]

TOKENS_HEADER = "x-amzn-bedrock-input-token-count"
OWN = cohere_embeddings.OWN | {"normalize", "embeddingPurpose"}


class NovaVector(msgspec.Struct, frozen=True):
    """One of Nova's."""

    embedding: list[float]


class Titan(msgspec.Struct, frozen=True, rename="camel"):
    """Titan's answer."""

    embedding: list[float]
    input_text_token_count: int | None = None


class Nova(msgspec.Struct, frozen=True):
    """Nova's answer."""

    embeddings: list[NovaVector]


decode_titan = msgspec.json.Decoder(Titan).decode
decode_nova = msgspec.json.Decoder(Nova).decode


def render_titan_1(wanted: Embed, id: str) -> list[dict[str, Any]]:
    """Titan's first: vectors of one length."""
    if wanted.dimensions is not None:
        raise Unsupported("dimensions", f"{id} makes vectors of one length only")
    return [{"inputText": text} for text in wanted.texts]


def render_titan_2(wanted: Embed, id: str) -> list[dict[str, Any]]:
    """Titan's second."""
    said: dict[str, Any] = {} if wanted.dimensions is None else {"dimensions": wanted.dimensions}
    said["normalize"] = wanted.other.get("normalize", True)
    return [{"inputText": text, **said} for text in wanted.texts]


def render_titan_image(wanted: Embed, id: str) -> list[dict[str, Any]]:
    """Titan's for text and pictures."""
    config = {} if wanted.dimensions is None else {"embeddingConfig": {"outputEmbeddingLength": wanted.dimensions}}
    return [{"inputText": text, **config} for text in wanted.texts]


def render_nova(wanted: Embed, id: str) -> list[dict[str, Any]]:
    """Nova's for everything."""
    size = {} if wanted.dimensions is None else {"embeddingDimension": wanted.dimensions}
    purpose = wanted.word("embeddingPurpose", "GENERIC_INDEX")
    mode = wanted.word("truncate", "NONE")
    return [
        {
            "taskType": "SINGLE_EMBEDDING",
            "singleEmbeddingParams": {
                "embeddingPurpose": purpose,
                **size,
                "text": {"value": text, "truncationMode": mode},
            },
        }
        for text in wanted.texts
    ]


FAMILIES: tuple[tuple[re.Pattern[str], Callable[[Embed, str], list[dict[str, Any]]]], ...] = (
    (re.compile(r"titan-embed-text-v1|titan-embed-g1"), render_titan_1),
    (re.compile(r"titan-embed-image"), render_titan_image),
    (re.compile(r"titan-embed"), render_titan_2),
    (re.compile(r"nova.*embed"), render_nova),
    (re.compile(r"cohere\.embed"), cohere_embeddings.render_texts),
)


def render_embed(wanted: Embed, id: str) -> tuple[Rendered, ...]:
    """As many requests as the family needs. Raises Unsupported, Refusal."""
    render = next((render for pattern, render in FAMILIES if pattern.search(id)), None)
    if render is None:
        raise Unsupported("model", f"{id} is not known to make embeddings")
    path = f"/model/{urllib.parse.quote(id, safe='')}/invoke"
    dropped = unheard(wanted, OWN)
    return tuple(Rendered(path=path, body=encode(body), dropped=dropped) for body in render(wanted, id))


def parse_embedded(body: bytes) -> Embedded:
    """An answer of any family: they can be told apart. Raises BadAnswer."""
    try:
        titan = decode_titan(body)
        tokens = titan.input_text_token_count
        raw = None if tokens is None else msgspec.Raw(encode({"inputTextTokenCount": tokens}))
        return Embedded(vectors=(titan.embedding,), tokens=tokens, raw_usage=raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return Embedded(vectors=tuple(one.embedding for one in decode_nova(body).embeddings))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return cohere_embeddings.parse_embedded(body)
    except BadAnswer:
        raise BadAnswer("the upstream's answer has no embeddings") from None

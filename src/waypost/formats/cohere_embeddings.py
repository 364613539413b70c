"""Cohere's v2 embeddings: `/embed`.

Source of the wire facts: docs.cohere.com (embed), and recorded exchanges. What a text is for must be said: it is to be
searched unless the caller says otherwise by `input_type`. A text that is too long is an error, as it is with OpenAI,
unless the caller says otherwise by Cohere's own `truncate`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from waypost.completion import BadAnswer
from waypost.formats.cohere import parse_error
from waypost.formats.format import Model, Rendered, Unsupported, encode
from waypost.formats.openai_embeddings import Embeddings, EmbeddingsRequest

__all__ = ["parse_embeddings", "parse_error", "render_embeddings", "render_texts"]

MOST_TEXTS = 96  # of one request
OWN = frozenset({"truncate", "max_tokens"})
SIZED = re.compile(r"embed-v[4-9]")  # these make vectors of several lengths


class Vectors(msgspec.Struct, frozen=True):
    """By type."""

    floats: tuple[tuple[float, ...], ...] = msgspec.field(name="float")


class BilledUnits(msgspec.Struct, frozen=True):
    """What is paid for."""

    input_tokens: float | None = None


class Meta(msgspec.Struct, frozen=True):
    """`meta`."""

    billed_units: BilledUnits | None = None


class Answer(msgspec.Struct, frozen=True):
    """An answer; Bedrock gives the vectors of older models without their type, and no `meta`."""

    embeddings: Vectors | tuple[tuple[float, ...], ...]
    meta: Meta | None = None


decode_answer = msgspec.json.Decoder(Answer).decode


def render_embeddings(asked: EmbeddingsRequest, model: Model) -> tuple[Rendered, ...]:
    """The requests that it takes, in the order of their texts. Raises Unsupported."""
    dropped = tuple(name for name in asked.other if name not in OWN)
    return tuple(
        Rendered(path="/embed", body=encode({"model": model.id, **body}), dropped=dropped)
        for body in render_texts(asked, model)
    )


def render_texts(asked: EmbeddingsRequest, model: Model) -> list[dict[str, Any]]:
    """The bodies, without what only Cohere's own address needs. Raises Unsupported."""
    if asked.dimensions is not None and not SIZED.search(model.id):
        raise Unsupported("dimensions", f"{model.id} makes vectors of one length only")
    said: dict[str, Any] = {
        "input_type": asked.input_type or "search_document",
        "truncate": "NONE",
        "embedding_types": ["float"],
    }
    if asked.dimensions is not None:
        said["output_dimension"] = asked.dimensions
    said |= {name: asked.other[name] for name in OWN & asked.other.keys()}
    runs = range(0, len(asked.inputs), MOST_TEXTS)
    return [{"texts": asked.inputs[at : at + MOST_TEXTS], **said} for at in runs]


def parse_embeddings(body: bytes) -> Embeddings:
    """An answer, Cohere's or Bedrock's. Raises BadAnswer."""
    try:
        answer = decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadAnswer("the upstream's answer has no embeddings") from None
    vectors = answer.embeddings if isinstance(answer.embeddings, tuple) else answer.embeddings.floats
    billed = answer.meta.billed_units if answer.meta is not None else None
    tokens = billed.input_tokens if billed is not None else None
    return Embeddings(vectors=vectors, tokens=None if tokens is None else int(tokens))

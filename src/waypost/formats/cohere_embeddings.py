"""Cohere's v2 embeddings: `/embed`.

Source of the wire facts: docs.cohere.com (embed), and recorded exchanges. What a text is for must be said: it is to be
searched unless the caller says otherwise by Cohere's own `input_type`. A text that is too long is an error, as it is
with OpenAI, unless the caller says otherwise by `truncate`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from waypost.completion import BadAnswer
from waypost.formats.cohere import parse_error
from waypost.formats.embeddings import Embed, Embedded, batches, unheard
from waypost.formats.format import Rendered, Unsupported, encode

__all__ = ["parse_embedded", "parse_error", "render_embed", "render_texts"]

TEXTS = 96  # of one request
OWN = frozenset({"input_type", "truncate", "max_tokens"})
SIZED = re.compile(r"embed-v[4-9]")  # these make vectors of several lengths


class Vectors(msgspec.Struct, frozen=True):
    """By type."""

    floats: list[list[float]] = msgspec.field(name="float")


class BilledUnits(msgspec.Struct, frozen=True):
    """What is paid for."""

    input_tokens: float | None = None


class Meta(msgspec.Struct, frozen=True):
    """`meta`."""

    billed_units: BilledUnits | None = None


class Answer(msgspec.Struct, frozen=True):
    """An answer; Bedrock gives the vectors of older models without their type, and no `meta`."""

    embeddings: Vectors | list[list[float]]
    meta: msgspec.Raw = msgspec.Raw(b"null")


decode_answer = msgspec.json.Decoder(Answer).decode
decode_meta = msgspec.json.Decoder(Meta | None).decode


def render_embed(wanted: Embed, id: str) -> tuple[Rendered, ...]:
    """A request for each run of texts. Raises Unsupported, Refusal."""
    return tuple(
        Rendered(path="/embed", body=encode({"model": id, **body}), dropped=unheard(wanted, OWN))
        for body in render_texts(wanted, id)
    )


def render_texts(wanted: Embed, id: str) -> list[dict[str, Any]]:
    """The bodies, without what only Cohere's own address needs."""
    if wanted.dimensions is not None and not SIZED.search(id):
        raise Unsupported("dimensions", f"{id} makes vectors of one length only")
    said: dict[str, Any] = {
        "input_type": wanted.word("input_type", "search_document"),
        "truncate": wanted.word("truncate", "NONE"),
        "embedding_types": ["float"],
    }
    if wanted.dimensions is not None:
        said["output_dimension"] = wanted.dimensions
    if "max_tokens" in wanted.other:
        said["max_tokens"] = wanted.other["max_tokens"]
    return [{"texts": texts, **said} for texts in batches(wanted.texts, TEXTS)]


def parse_embedded(body: bytes) -> Embedded:
    """An answer, Cohere's or Bedrock's. Raises BadAnswer."""
    try:
        answer = decode_answer(body)
        meta = decode_meta(answer.meta)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadAnswer("the upstream's answer has no embeddings") from None
    vectors = answer.embeddings if isinstance(answer.embeddings, list) else answer.embeddings.floats
    billed = meta.billed_units if meta is not None else None
    tokens = billed.input_tokens if billed is not None else None
    return Embedded(
        vectors=tuple(vectors),
        tokens=None if tokens is None else int(tokens),
        raw_usage=None if meta is None else answer.meta,
    )

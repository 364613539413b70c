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

from waypost.formats import cohere_embeddings
from waypost.formats.bedrock_converse import parse_error
from waypost.formats.format import Model, Rendered, Unsupported, encode
from waypost.formats.openai_embeddings import Embeddings, EmbeddingsRequest

__all__ = ["TOKENS_HEADER", "parse_embeddings", "parse_error", "render_embeddings"]

TOKENS_HEADER = "x-amzn-bedrock-input-token-count"
# Nova's words for what a vector is for.
PURPOSES = {
    "search_query": "TEXT_RETRIEVAL", "classification": "CLASSIFICATION", "clustering": "CLUSTERING",
}  # fmt: skip


class NovaVector(msgspec.Struct, frozen=True):
    """One of Nova's."""

    embedding: tuple[float, ...]


class Titan(msgspec.Struct, frozen=True, rename="camel"):
    """Titan's answer."""

    embedding: tuple[float, ...]
    input_text_token_count: int | None = None


class Nova(msgspec.Struct, frozen=True):
    """Nova's answer."""

    embeddings: list[NovaVector]


decode_titan = msgspec.json.Decoder(Titan).decode
decode_nova = msgspec.json.Decoder(Nova).decode


def render_titan_1(asked: EmbeddingsRequest, model: Model) -> list[dict[str, Any]]:
    """Titan's first: vectors of one length."""
    if asked.dimensions is not None:
        raise Unsupported("dimensions", f"{model.id} makes vectors of one length only")
    return [{"inputText": text} for text in asked.inputs]


def render_titan_2(asked: EmbeddingsRequest, model: Model) -> list[dict[str, Any]]:
    """Titan's second."""
    said: dict[str, Any] = {} if asked.dimensions is None else {"dimensions": asked.dimensions}
    said["normalize"] = asked.other.get("normalize", True)
    return [{"inputText": text, **said} for text in asked.inputs]


def render_titan_image(asked: EmbeddingsRequest, model: Model) -> list[dict[str, Any]]:
    """Titan's for text and pictures."""
    config = {} if asked.dimensions is None else {"embeddingConfig": {"outputEmbeddingLength": asked.dimensions}}
    return [{"inputText": text, **config} for text in asked.inputs]


def render_nova(asked: EmbeddingsRequest, model: Model) -> list[dict[str, Any]]:
    """Nova's for everything."""
    size = {} if asked.dimensions is None else {"embeddingDimension": asked.dimensions}
    purpose = PURPOSES.get(asked.input_type, "GENERIC_INDEX")
    purpose_said = asked.other.get("embeddingPurpose", purpose)
    mode = asked.other.get("truncate", "NONE")
    return [
        {
            "taskType": "SINGLE_EMBEDDING",
            "singleEmbeddingParams": {
                "embeddingPurpose": purpose_said,
                **size,
                "text": {"value": text, "truncationMode": mode},
            },
        }
        for text in asked.inputs
    ]


class Family(msgspec.Struct, frozen=True):
    """Ids of models, how they are asked, and the fields of their own that a caller may send."""

    pattern: str
    render: Callable[[EmbeddingsRequest, Model], list[dict[str, Any]]]
    own: frozenset[str] = frozenset()
    has_purpose: bool = False  # it is told what a vector is for


FAMILIES = (
    Family(r"titan-embed-text-v1|titan-embed-g1", render_titan_1),
    Family(r"titan-embed-image", render_titan_image),
    Family(r"titan-embed", render_titan_2, frozenset({"normalize"})),
    Family(r"nova.*embed", render_nova, frozenset({"truncate", "embeddingPurpose"}), True),
    Family(r"cohere\.embed", cohere_embeddings.render_texts, cohere_embeddings.OWN, True),
)


def render_embeddings(asked: EmbeddingsRequest, model: Model) -> tuple[Rendered, ...]:
    """The requests that it takes, in the order of their texts. Raises Unsupported."""
    family = next((one for one in FAMILIES if re.search(one.pattern, model.id)), None)
    if family is None:
        raise Unsupported("model", f"{model.id} is not known to make embeddings")
    path = f"/model/{urllib.parse.quote(model.id, safe='')}/invoke"
    dropped = [name for name in asked.other if name not in family.own]
    if asked.input_type and not family.has_purpose:
        dropped.append("input_type")
    return tuple(Rendered(path=path, body=encode(body), dropped=tuple(dropped)) for body in family.render(asked, model))


def parse_embeddings(body: bytes) -> Embeddings:
    """An answer of any family: they can be told apart. Raises BadAnswer."""
    try:
        titan = decode_titan(body)
        return Embeddings(vectors=(titan.embedding,), tokens=titan.input_text_token_count)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return Embeddings(vectors=tuple(one.embedding for one in decode_nova(body).embeddings))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return cohere_embeddings.parse_embeddings(body)

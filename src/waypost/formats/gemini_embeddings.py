"""Embeddings at the Gemini API (`:batchEmbedContents`) and at Vertex AI (`:predict`, `:embedContent`).

What an upstream takes in one request is less than what OpenAI does: rendering makes as many requests as it needs, whose
answers `openai_embeddings.joined` puts together in the same order.

Source of the wire facts: ai.google.dev (embeddings), Vertex AI's reference (text embeddings), google-genai, and a
recorded exchange.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from waypost.completion import BadAnswer
from waypost.formats.format import Model, Rendered, encode
from waypost.formats.gemini import model_path
from waypost.formats.openai_embeddings import Embeddings, EmbeddingsRequest

MOST_TEXTS = 100  # of one batch at the Gemini API
MOST_INSTANCES = 250  # of one prediction at Vertex AI, by the older models
# The first Gemini model of this kind, which predicts for one text at a time; those after it embed content.
PREDICTS_ONE = "gemini-embedding-001"
SECOND = re.compile(r"gemini-embedding-(?!001)")  # these are told what a vector is for in the text itself
TASKS = {
    "search_document": "RETRIEVAL_DOCUMENT",
    "search_query": "RETRIEVAL_QUERY",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}


def render_embeddings(asked: EmbeddingsRequest, model: Model) -> tuple[Rendered, ...]:
    """The requests that it takes, in the order of their texts."""
    task = TASKS.get(asked.input_type, "") if not SECOND.search(model.id) else ""
    dropped = (*asked.other, *(["input_type"] if asked.input_type and not task else []))
    if not model.place:
        verb, size, render = "batchEmbedContents", MOST_TEXTS, render_batch
    elif SECOND.search(model.id):
        verb, size, render = "embedContent", 1, render_content
    else:
        verb, size, render = "predict", 1 if PREDICTS_ONE in model.id else MOST_INSTANCES, render_prediction
    path = f"{model_path(model)}:{verb}"
    return tuple(
        Rendered(path=path, body=encode(render(asked.inputs[at : at + size], asked, model, task)), dropped=dropped)
        for at in range(0, len(asked.inputs), size)
    )


def render_batch(texts: tuple[str, ...], asked: EmbeddingsRequest, model: Model, task: str) -> dict[str, Any]:
    """`:batchEmbedContents`."""
    options = said({"taskType": task, "outputDimensionality": asked.dimensions})
    name = model_path(model).removeprefix("/")
    return {"requests": [{"model": name, "content": {"parts": [{"text": text}]}, **options} for text in texts]}


def render_content(texts: tuple[str, ...], asked: EmbeddingsRequest, model: Model, task: str) -> dict[str, Any]:
    """`:embedContent` of one text."""
    options = said({"taskType": task, "outputDimensionality": asked.dimensions})
    body: dict[str, Any] = {"content": {"parts": [{"text": text} for text in texts]}}
    return {**body, "embedContentConfig": options} if options else body


def render_prediction(texts: tuple[str, ...], asked: EmbeddingsRequest, model: Model, task: str) -> dict[str, Any]:
    """`:predict`."""
    body: dict[str, Any] = {"instances": [{"content": text, **said({"task_type": task})} for text in texts]}
    parameters = said({"outputDimensionality": asked.dimensions})
    return {**body, "parameters": parameters} if parameters else body


def said(options: dict[str, Any]) -> dict[str, Any]:
    """Without those that nothing was said of."""
    return {name: value for name, value in options.items() if value}


class Statistics(msgspec.Struct, frozen=True):
    """Of one text, at `:predict`."""

    token_count: float | None = None


class Embedding(msgspec.Struct, frozen=True):
    """One vector."""

    values: tuple[float, ...]
    statistics: Statistics | None = None


class Prediction(msgspec.Struct, frozen=True):
    """One text's, at `:predict`."""

    embeddings: Embedding


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """`usageMetadata`."""

    prompt_token_count: int | None = None


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """Of any of the three."""

    embeddings: list[Embedding] = []
    embedding: Embedding | None = None
    predictions: list[Prediction] = []
    usage_metadata: Usage | None = None


decode_answer = msgspec.json.Decoder(Answer).decode


def parse_embeddings(body: bytes) -> Embeddings:
    """The body of a 200. Raises BadAnswer."""
    try:
        answer = decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadAnswer("the upstream's answer is not one of embeddings") from None
    found = [*answer.embeddings, *(one.embeddings for one in answer.predictions)]
    if answer.embedding is not None:
        found.append(answer.embedding)
    if not found:
        raise BadAnswer("the upstream's answer has no embeddings")
    tokens = answer.usage_metadata.prompt_token_count if answer.usage_metadata is not None else None
    if tokens is None and answer.predictions:
        counts = [one.statistics.token_count for one in found if one.statistics is not None]
        counted = [int(count) for count in counts if count is not None]
        tokens = sum(counted) if len(counted) == len(found) else None
    return Embeddings(vectors=tuple(one.values for one in found), tokens=tokens)

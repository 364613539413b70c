"""Cohere's embed, version 2. Wire facts: the recorded exchanges with `/v2/embed`, and the cohere Python SDK's types."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from waypost.sim import cohere_format, vectors
from waypost.sim.answers import Answer, Embedding, Question
from waypost.sim.options import Behaviour
from waypost.sim.script import Event
from waypost.sim.target import Target, invalid

NAME = "cohere"
PATH = re.compile(r"/v2/embed$")
JSON_TYPE = cohere_format.JSON_TYPE
STREAM_TYPE = cohere_format.STREAM_TYPE
BLOCKS_IN_ANSWER = False
FRAME = cohere_format.FRAME
check_headers = cohere_format.check_headers
render_headers = cohere_format.render_headers
render_refusal = cohere_format.render_refusal
render_error_event = cohere_format.render_error_event

_MOST = 96
_DIMENSIONS = 1536
_ENCODINGS: dict[str, Callable[[tuple[float, ...]], Any]] = {
    "float": lambda vector: vector,
    "int8": vectors.to_int8,
    "base64": vectors.to_base64,
}


class _Request(msgspec.Struct):
    model: str
    input_type: Literal["search_document", "search_query", "classification", "clustering", "image"]
    texts: list[str] | None = None
    inputs: list[dict[str, Any]] | None = None
    embedding_types: list[str] | None = None
    output_dimension: Literal[256, 512, 1024, 1536] | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    max_tokens: int | None = None


_decode = msgspec.json.Decoder(_Request).decode


def parse_question(body: bytes, target: Target) -> Question:
    """A request body as a question."""
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        raise invalid(f"invalid request: {error}") from None
    texts = tuple(request.texts or ()) or tuple(_text(given) for given in request.inputs or ())
    if not texts or "" in texts or len(texts) > _MOST:
        raise invalid(f"invalid request: between 1 and {_MOST} texts are needed, none of them empty.")
    kinds = tuple(request.embedding_types or ["float"])
    if unknown := set(kinds) - set(_ENCODINGS):
        raise invalid(f"invalid request: the simulator has no embeddings of type {min(unknown)}.")
    embedding = Embedding(texts, request.output_dimension, kinds)
    return Question(request.model, "\n".join(texts), "\n".join(texts), embedding=embedding)


def _text(given: dict[str, Any]) -> str:
    return " ".join(str(part.get("text", "")) for part in given.get("content") or ())


def render_answer(question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int) -> Event:
    """The vectors by type, and the texts again."""
    wanted = question.embedding or Embedding(())
    made = [vectors.embed(text, wanted.dimensions or _DIMENSIONS) for text in wanted.texts]
    body: dict[str, Any] = {
        "id": cohere_format.uuid(identity),
        "response_type": "embeddings_by_type",
        "embeddings": {kind: [_ENCODINGS[kind](vector) for vector in made] for kind in wanted.encodings},
        "texts": list(wanted.texts),
        "meta": {"api_version": {"version": "2"}},
    }
    if behaviour.usage != "never":
        body["meta"] |= render_usage(answer)
    return Event(msgspec.json.encode(body), usage=behaviour.usage != "never")


def render_events(
    question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
) -> tuple[Event, ...]:
    """Embeddings are never streamed."""
    return (render_answer(question, answer, behaviour, identity, created),)


def render_usage(answer: Answer) -> dict[str, Any]:
    """What is billed."""
    return {"billed_units": {"input_tokens": answer.usage.prompt, "image_tokens": 0}}

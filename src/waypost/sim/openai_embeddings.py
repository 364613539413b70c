"""OpenAI's embeddings. Wire facts: the recordings of `/v1/embeddings`, and the openai Python SDK's types."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from waypost.sim import openai_format, vectors
from waypost.sim.answers import Answer, Embedding, Question
from waypost.sim.options import Behaviour
from waypost.sim.script import Event
from waypost.sim.target import Target, invalid

NAME = "openai"
PATH = re.compile(r"(?:/deployments/(?P<model>[^/]+))?/embeddings$")
JSON_TYPE = openai_format.JSON_TYPE
STREAM_TYPE = openai_format.STREAM_TYPE
BLOCKS_IN_ANSWER = False
FRAME = openai_format.FRAME
check_headers = openai_format.check_headers
render_headers = openai_format.render_headers
render_refusal = openai_format.render_refusal
render_error_event = openai_format.render_error_event

_MOST = 2048
_DIMENSIONS = 1536


class _Request(msgspec.Struct):
    input: str | list[str | int | list[int]]
    model: str | None = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


_decode = msgspec.json.Decoder(_Request).decode


def parse_question(body: bytes, target: Target) -> Question:
    """A request body as a question. Token numbers count as words."""
    request = _decode(body)
    model = target.model or request.model
    if model is None:
        raise invalid("you must provide a model parameter")
    given = request.input
    items: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
    if not items or "" in items:
        raise invalid("'$.input' is invalid. Please check the API reference: input cannot be empty.", param="input")
    if len(items) > _MOST:
        raise invalid(f"'$.input' is invalid: array too long, at most {_MOST} items.", param="input")
    texts = tuple(item if isinstance(item, str) else " ".join(map(str, item)) for item in items)
    if request.dimensions is not None and request.dimensions < 1:
        raise invalid(f"Invalid value for 'dimensions' = {request.dimensions}. Must be greater than 0.")
    return Question(
        model,
        "\n".join(texts),
        "\n".join(texts),
        embedding=Embedding(texts, request.dimensions, (request.encoding_format,)),
    )


def render_answer(question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int) -> Event:
    """All vectors in one body."""
    wanted = question.embedding or Embedding(())
    made = [vectors.embed(text, wanted.dimensions or _DIMENSIONS) for text in wanted.texts]
    packed = "base64" in wanted.encodings
    body = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vectors.to_base64(vector) if packed else vector}
            for index, vector in enumerate(made)
        ],
        "model": question.model,
        "usage": render_usage(answer),
    }
    if behaviour.usage == "never":
        del body["usage"]
    return Event(msgspec.json.encode(body), usage=behaviour.usage != "never")


def render_events(
    question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
) -> tuple[Event, ...]:
    """Embeddings are never streamed."""
    return (render_answer(question, answer, behaviour, identity, created),)


def render_usage(answer: Answer) -> dict[str, Any]:
    """The usage, which has no completion."""
    return {"prompt_tokens": answer.usage.prompt, "total_tokens": answer.usage.prompt}

"""Bedrock's InvokeModel for embeddings: Amazon's Titan and Nova, and Cohere's models, each with a body of its own.

Wire facts: the recorded exchanges with `/model/ID/invoke`. Tokens are counted in a header; Titan repeats the count.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from waypost.sim import bedrock_format, vectors
from waypost.sim.answers import Answer, Embedding, Question
from waypost.sim.options import Behaviour
from waypost.sim.script import Event
from waypost.sim.target import Target, invalid

NAME = "bedrock"
PATH = re.compile(r"/model/(?P<model>[^/]+)/(?P<method>invoke)$")
JSON_TYPE = bedrock_format.JSON_TYPE
STREAM_TYPE = bedrock_format.STREAM_TYPE
BLOCKS_IN_ANSWER = False
FRAME: Callable[[bytes], bytes] | None = None
check_headers = bedrock_format.check_headers
render_refusal = bedrock_format.render_refusal
render_error_event = bedrock_format.render_error_event

_MOST = 96
_DIMENSIONS = 1024


class _Titan(msgspec.Struct, forbid_unknown_fields=True):
    inputText: str
    dimensions: int | None = None
    normalize: bool | None = None
    embeddingTypes: list[str] | None = None

    @property
    def wanted(self) -> Embedding:
        return Embedding((self.inputText,), self.dimensions, ("titan",))


class _Cohere(msgspec.Struct, forbid_unknown_fields=True):
    texts: list[str]
    input_type: str
    truncate: str = "NONE"
    embedding_types: list[str] | None = None
    output_dimension: int | None = None
    max_tokens: int | None = None

    @property
    def wanted(self) -> Embedding:
        return Embedding(tuple(self.texts), self.output_dimension, ("cohere", *(self.embedding_types or ())))


class _Nova(msgspec.Struct):
    taskType: str
    singleEmbeddingParams: dict[str, Any]

    @property
    def wanted(self) -> Embedding:
        params = self.singleEmbeddingParams
        text = str((params.get("text") or {}).get("value", ""))
        return Embedding((text,), params.get("embeddingDimension"), ("nova",))


_BODIES: tuple[tuple[str, type[_Titan] | type[_Cohere] | type[_Nova]], ...] = (
    ("texts", _Cohere),
    ("taskType", _Nova),
    ("inputText", _Titan),
)


def parse_question(body: bytes, target: Target) -> Question:
    """A request body as a question; whose it is goes by its members, as the model's id may be a profile's."""
    node = msgspec.json.decode(body)
    shape = next((shape for name, shape in _BODIES if isinstance(node, dict) and name in node), None)
    if shape is None:
        raise invalid("The simulator invokes embedding models only: Titan, Nova and Cohere. Others speak Converse.")
    try:
        wanted = msgspec.convert(node, shape).wanted
    except msgspec.ValidationError as error:
        raise invalid(f"Malformed input request: {error}, please reformat your input and try again.") from None
    if not wanted.texts or "" in wanted.texts or len(wanted.texts) > _MOST:
        raise invalid(f"Malformed input request: expected 1 to {_MOST} texts, none of them empty.")
    return Question(target.model, "\n".join(wanted.texts), "\n".join(wanted.texts), embedding=wanted)


def render_headers(n: int, answer: Answer | None = None) -> tuple[tuple[str, str], ...]:
    """The request's id and, of an answer, the tokens of the input."""
    named = bedrock_format.render_headers(n)
    return named if answer is None else (*named, ("x-amzn-bedrock-input-token-count", str(answer.usage.prompt)))


def render_answer(question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int) -> Event:
    """The answer as the model's family gives it."""
    wanted = question.embedding or Embedding(())
    made = [vectors.embed(text, wanted.dimensions or _DIMENSIONS) for text in wanted.texts]
    family, *encodings = wanted.encodings
    body: dict[str, Any]
    if family == "titan":
        body = {"embedding": made[0]}
        body |= {} if "embed-text-v1" in question.model else {"embeddingsByType": {"float": made[0]}}
        body |= {} if behaviour.usage == "never" else render_usage(answer)
    elif family == "nova":
        body = {"embeddings": [{"embedding": made[0], "embeddingType": "TEXT"}]}
    else:
        by_type = bool(encodings) or "v4" in question.model
        body = {
            "id": f"{identity[:8]}-0000-4000-8000-{identity[-12:]}",
            "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
            "embeddings": {"float": made} if by_type else made,
            "texts": list(wanted.texts),
        }
    return Event(msgspec.json.encode(body), usage=behaviour.usage != "never")


def render_events(
    question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
) -> tuple[Event, ...]:
    """Embeddings are never streamed."""
    return (render_answer(question, answer, behaviour, identity, created),)


def render_usage(answer: Answer) -> dict[str, Any]:
    """The usage, as Titan's body has it."""
    return {"inputTextTokenCount": answer.usage.prompt}

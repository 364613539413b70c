"""Gemini's embedContent and batchEmbedContents, and Vertex AI's predict for models that embed text.

Wire facts: the recording of `:embedContent`, the google-genai SDK's types for the batch, and how that SDK asks for
predictions and reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from waypost.sim import gemini_format, vectors
from waypost.sim.answers import Answer, Embedding, Question
from waypost.sim.gemini_request import Node, decode, member
from waypost.sim.options import Behaviour
from waypost.sim.script import Event
from waypost.sim.target import Target, invalid

NAME = "gemini"
PATH = re.compile(r"/models/(?P<model>.+):(?P<method>embedContent|batchEmbedContents|predict)$")
JSON_TYPE = gemini_format.JSON_TYPE
STREAM_TYPE = gemini_format.STREAM_TYPE
BLOCKS_IN_ANSWER = False
FRAME: Callable[[bytes], bytes] | None = None
check_headers = gemini_format.check_headers
render_headers = gemini_format.render_headers
render_refusal = gemini_format.render_refusal
render_error_event = gemini_format.render_error_event

_MOST = 100
_DIMENSIONS = 3072
_MOST_INSTANCES = 250
_BATCH, _ONE, _PREDICTED = "batch", "one", "predicted"


def parse_question(body: bytes, target: Target) -> Question:
    """A request body as a question; a batch is a list of single requests that all name the model."""
    node = decode(body)
    if target.method == "predict":
        return _predicted(node, target.model)
    batch = target.method == "batchEmbedContents"
    requests: list[Node] = node.get("requests") or [] if batch else [node]
    if not requests or len(requests) > _MOST:
        raise invalid(
            f"* BatchEmbedContentsRequest.requests: at least one and at most {_MOST} requests can be in one batch"
        )
    for i, request in enumerate(requests):
        named = str(request.get("model", "")).removeprefix("models/")
        if batch and named != target.model:
            raise invalid(f"* BatchEmbedContentsRequest.requests[{i}].model: unexpected model name format")
    texts = tuple(" ".join(str(part.get("text", "")) for part in _parts(request)) for request in requests)
    if "" in texts:
        raise invalid("* EmbedContentRequest.content: content is empty")
    config = member(requests[0], "embedContentConfig") or {}
    dimensions = member(requests[0], "outputDimensionality") or member(config, "outputDimensionality")
    embedding = Embedding(texts, dimensions, (_BATCH if batch else _ONE,))
    return Question(target.model, "\n".join(texts), "\n".join(texts), embedding=embedding)


def _predicted(node: Node, model: str) -> Question:
    """What stands in the instances of a prediction; the first of the Gemini models takes one at a time."""
    instances: list[Node] = node.get("instances") or []
    most = 1 if model.startswith("gemini-embedding") else _MOST_INSTANCES
    if not 0 < len(instances) <= most:
        raise invalid(f"{len(instances)} instance(s) is not allowed. The maximum number of instances is {most}.")
    texts = tuple(str(instance.get("content") or "") for instance in instances)
    if "" in texts:
        raise invalid("The text content is empty.")
    dimensions = member(member(node, "parameters") or {}, "outputDimensionality")
    embedding = Embedding(texts, dimensions, (_PREDICTED,))
    return Question(model, "\n".join(texts), "\n".join(texts), embedding=embedding)


def _parts(request: Node) -> list[Node]:
    return (request.get("content") or {}).get("parts") or []


def render_answer(question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int) -> Event:
    """The vector, or all of them."""
    wanted = question.embedding or Embedding(())
    made = [{"values": vectors.embed(text, wanted.dimensions or _DIMENSIONS)} for text in wanted.texts]
    if _PREDICTED in wanted.encodings:
        return _prediction(made, answer, behaviour.usage != "never")
    body: dict[str, Any] = {"embeddings": made} if _BATCH in wanted.encodings else {"embedding": made[0]}
    if behaviour.usage != "never":
        body["usageMetadata"] = render_usage(answer)
    return Event(msgspec.json.encode(body), usage=behaviour.usage != "never")


def _prediction(made: list[dict[str, Any]], answer: Answer, counts: bool) -> Event:
    """Each vector with the tokens of its own text: their sum is that of the request."""
    each, rest = divmod(answer.usage.prompt, len(made))
    for at, vector in enumerate(made):
        if counts:
            vector["statistics"] = {"truncated": False, "token_count": float(each + (rest if at == 0 else 0))}
    body = {"predictions": [{"embeddings": vector} for vector in made]}
    return Event(msgspec.json.encode(body), usage=counts)


def render_events(
    question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
) -> tuple[Event, ...]:
    """Embeddings are never streamed."""
    return (render_answer(question, answer, behaviour, identity, created),)


def render_usage(answer: Answer) -> dict[str, Any]:
    """The usage, which has no candidates."""
    count = answer.usage.prompt
    details = [{"modality": "TEXT", "tokenCount": count}]
    return {"promptTokenCount": count, "promptTokensDetails": details, "totalTokenCount": count}

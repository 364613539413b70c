"""Embeddings: OpenAI's request and answer, and what the Gemini API and Vertex AI are asked for them."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import msgspec
import pytest

from tests.formats.recordings import every
from waypost.completion import BadAnswer
from waypost.errors import Refusal
from waypost.formats import vertex
from waypost.formats.format import Model
from waypost.formats.gemini import known_model
from waypost.formats.gemini_embeddings import parse_embeddings, render_embeddings
from waypost.formats.openai_chat import Fields
from waypost.formats.openai_embeddings import Embeddings, EmbeddingsRequest, joined
from waypost.formats.openai_embeddings import parse_embeddings as parse_request
from waypost.formats.openai_embeddings import render_embeddings as render_answer

PLACE = vertex.place("p", "global")
FIRST = known_model("gemini-embedding-001")


def asked(**said: Any) -> EmbeddingsRequest:
    return parse_request(msgspec.json.decode(json.dumps({"model": "m", **said}), type=Fields))


def bodies(model: Model, **said: Any) -> list[Any]:
    return [json.loads(one.body) for one in render_embeddings(asked(**said), model)]


def test_the_recorded_exchange() -> None:
    [exchange] = [one for one in every("vertex") if one.url.endswith(":embedContent")]
    model = vertex.known_model("gemini-embedding-2", PLACE)
    text = exchange.request["content"]["parts"][0]["text"]
    [made] = render_embeddings(asked(input=text), model)
    assert json.loads(made.body) == exchange.request
    assert exchange.url.endswith(made.path.removeprefix(f"/{PLACE}"))
    said = json.loads(exchange.body)
    found = parse_embeddings(exchange.body)
    assert [list(vector) for vector in found.vectors] == [said["embedding"]["values"]]
    assert found.tokens == said["usageMetadata"]["promptTokenCount"]


def test_a_batch_at_the_gemini_api() -> None:
    model = "models/gemini-embedding-001"
    options = {"taskType": "RETRIEVAL_QUERY", "outputDimensionality": 2}
    assert bodies(FIRST, input=["a", "b"], dimensions=2, input_type="search_query") == [
        {"requests": [{"model": model, "content": {"parts": [{"text": text}]}, **options} for text in "ab"]}
    ]
    [made] = render_embeddings(asked(input="a", user="u", truncate="END"), FIRST)
    assert (made.path, made.dropped) == ("/models/gemini-embedding-001:batchEmbedContents", ("truncate",))
    many = render_embeddings(asked(input=[str(n) for n in range(250)]), FIRST)
    texts = [one["content"]["parts"][0]["text"] for made in many for one in json.loads(made.body)["requests"]]
    assert len(many) == 3 and texts == [str(n) for n in range(250)]


def test_vertex() -> None:
    first, older = (vertex.known_model(id, PLACE) for id in ("gemini-embedding-001", "text-embedding-005"))
    assert bodies(first, input=["a", "b"]) == [{"instances": [{"content": "a"}]}, {"instances": [{"content": "b"}]}]
    assert bodies(older, input=["a", "b"], dimensions=3, input_type="clustering") == [
        {
            "instances": [{"content": text, "task_type": "CLUSTERING"} for text in "ab"],
            "parameters": {"outputDimensionality": 3},
        }
    ]
    assert render_embeddings(asked(input="a"), older)[0].path.endswith("/models/text-embedding-005:predict")
    second = vertex.known_model("gemini-embedding-2", PLACE)
    [made] = render_embeddings(asked(input="a", dimensions=3, input_type="search_query"), second)
    assert json.loads(made.body)["embedContentConfig"] == {"outputDimensionality": 3}
    assert made.dropped == ("input_type",)


def prediction(*values: float, tokens: int | None = None) -> Any:
    counted = {} if tokens is None else {"statistics": {"token_count": tokens, "truncated": False}}
    return {"embeddings": {"values": values, **counted}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"embeddings": [{"values": [1, 2]}, {"values": [3, 4]}]}, Embeddings(vectors=((1, 2), (3, 4)))),
        (
            {"embeddings": [{"values": [1]}], "usageMetadata": {"promptTokenCount": 5}},
            Embeddings(vectors=((1,),), tokens=5),
        ),
        (
            {"predictions": [prediction(1, tokens=2), prediction(2, tokens=3)]},
            Embeddings(vectors=((1,), (2,)), tokens=5),
        ),
        ({"predictions": [prediction(1, tokens=2), prediction(2)]}, Embeddings(vectors=((1,), (2,)))),
    ],
)
def test_answers(body: Any, expected: Embeddings) -> None:
    assert parse_embeddings(json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"embeddings":[{}]}', b'{"error":{"message":"x"}}'])
def test_a_body_that_has_none(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_embeddings(body)


def test_several_answers_are_one() -> None:
    one, two = Embeddings(vectors=((1.0,),), tokens=1), Embeddings(vectors=((2.0,),), tokens=2)
    assert joined([one, two]) == Embeddings(vectors=((1.0,), (2.0,)), tokens=3)
    assert joined([one, Embeddings(vectors=())]).tokens is None


def test_openais_answer() -> None:
    made = Embeddings(vectors=((0.5, -1.0), (0.25, 2.0)), tokens=7)
    told = json.loads(render_answer(made, "float", msgspec.Raw(b'"m"')))
    assert told == {
        "object": "list", "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7},
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [0.25, 2.0]},
        ],
    }  # fmt: skip
    packed = json.loads(render_answer(made, "base64", msgspec.Raw(b'"m"')))["data"][1]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (0.25, 2.0)


def test_openais_request() -> None:
    request = asked(input=["a"], encoding_format="base64", dimensions=None, truncate="END")
    assert (request.inputs, request.encoding, request.dimensions) == (("a",), "base64", None)
    assert set(request.other) == {"truncate"}
    assert asked(input="a").encoding == "float"


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_requests_that_are_none(said: Any, param: str) -> None:
    with pytest.raises(Refusal) as refused:
        asked(**said)
    assert refused.value.param == param

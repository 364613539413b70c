"""Embeddings: the caller's side, and Cohere's and Bedrock's against their recordings."""

from __future__ import annotations

import base64
import json
import struct
import urllib.parse
from typing import Any

import msgspec
import pytest

from tests.formats.recordings import every
from waypost.completion import BadAnswer
from waypost.errors import Refusal
from waypost.formats import bedrock_embeddings, cohere_embeddings
from waypost.formats.embeddings import Embed, Embedded, join, parse_embed, render_embedded
from waypost.formats.format import Unsupported

Json = dict[str, Any]


def embed(**fields: Any) -> Embed:
    return parse_embed({name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()})


# The caller's side


def test_what_is_asked() -> None:
    assert embed(model="m", input="Hi") == Embed(texts=("Hi",))
    wanted = embed(input=["a", "b"], dimensions=5, encoding_format="base64", user="u", input_type="x", provider={})
    assert (wanted.texts, wanted.dimensions, wanted.encoding, wanted.user) == (("a", "b"), 5, "base64", "u")
    assert wanted.word("input_type") == "x" and list(wanted.other) == ["input_type"]
    assert embed(input="Hi", dimensions=None, encoding_format=None, user=None) == Embed(texts=("Hi",))


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"input": None}, {"input": ""}, {"input": []}, {"input": ["a", ""]}, {"input": {}}, {"input": [None]},
        {"input": ["a"] * 2049}, {"input": "a", "dimensions": 0}, {"input": "a", "dimensions": "5"},
        {"input": "a", "encoding_format": "int8"}, {"input": "a", "user": 3},
    ],
)  # fmt: skip
def test_what_nobody_could_answer(fields: Json) -> None:
    with pytest.raises(Refusal) as refused:
        embed(**fields)
    assert refused.value.param == (list(fields) or ["input"])[-1] and not isinstance(refused.value, Unsupported)


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_tokens_are_for_openais_models(tokens: Any) -> None:
    with pytest.raises(Unsupported) as refused:
        embed(input=tokens)
    assert refused.value.param == "input"


def test_a_field_of_another_kind_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        cohere_embeddings.render_embed(embed(input="a", input_type=3), "embed-v4.0")
    assert refused.value.param == "input_type"


def test_what_is_answered() -> None:
    embedded = Embedded(vectors=([0.5, -1.25], [0.1, 2.0]), tokens=3)
    model = msgspec.Raw(b'"route/x"')
    assert json.loads(render_embedded(embedded, "float", model, 3)) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.25]},
            {"object": "embedding", "index": 1, "embedding": [0.1, 2.0]},
        ],
        "model": "route/x",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    packed = json.loads(render_embedded(embedded, "base64", model, 3))["data"][1]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == struct.unpack("<2f", struct.pack("<2f", 0.1, 2.0))


def test_answers_are_joined_in_order() -> None:
    first, second = Embedded(vectors=([1.0],), tokens=2), Embedded(vectors=([2.0], [3.0]), tokens=5)
    assert join([first]) is first
    assert (join([first, second]).vectors, join([first, second]).tokens) == (([1.0], [2.0], [3.0]), 7)
    assert join([first, Embedded(vectors=([2.0],))]).tokens is None


# Recorded exchanges

OURS = {"inputText": "input", "texts": "input", "dimensions": "dimensions", "output_dimension": "dimensions"}


def as_openai(request: Json) -> Json:
    """The same request in OpenAI's words and the vendor's own."""
    if "singleEmbeddingParams" in request:
        said = request["singleEmbeddingParams"]
        made = {"input": said["text"]["value"], "truncate": said["text"]["truncationMode"]}
        made["embeddingPurpose"] = said["embeddingPurpose"]
        return made | ({"dimensions": said["embeddingDimension"]} if "embeddingDimension" in said else {})
    return {
        OURS.get(name, name): value
        for name, value in request.items()
        if name not in ("model", "embedding_types") and value is not None
    }


def meaning(request: Json) -> Json:
    return {name: value for name, value in request.items() if value is not None and name != "embedding_types"}


def vectors_in(answer: Json) -> list[list[float]]:
    if "embedding" in answer:
        return [answer["embedding"]]
    found = answer["embeddings"]
    if isinstance(found, dict):
        return found["float"]  # type: ignore[no-any-return]
    return [one["embedding"] if isinstance(one, dict) else one for one in found]


def test_recorded_exchanges_with_bedrock() -> None:
    compared = 0
    for exchange in every("bedrock"):
        if not exchange.url.endswith("/invoke") or "anthropic" in exchange.url:
            continue
        id = urllib.parse.unquote(exchange.url.split("/model/")[1].removesuffix("/invoke"))
        answer = json.loads(exchange.body)
        embedded = bedrock_embeddings.parse_embedded(exchange.body)
        assert [list(vector) for vector in embedded.vectors] == vectors_in(answer), exchange.where
        assert embedded.tokens == answer.get("inputTextTokenCount")
        if id.startswith("arn:"):  # whose model nobody knows
            with pytest.raises(Unsupported):
                bedrock_embeddings.render_embed(embed(**as_openai(exchange.request)), id)
            continue
        [made] = bedrock_embeddings.render_embed(embed(**as_openai(exchange.request)), id)
        assert meaning(json.loads(made.body)) == meaning(exchange.request), exchange.where
        assert exchange.url.endswith(made.path) and made.dropped == ()
        compared += 1
    assert compared > 25


def test_recorded_exchanges_with_cohere() -> None:
    compared = 0
    for exchange in every("cohere"):
        if not exchange.url.endswith("/embed") or exchange.status != 200:
            continue
        [made] = cohere_embeddings.render_embed(embed(**as_openai(exchange.request)), exchange.request["model"])
        assert json.loads(made.body) == {**meaning(exchange.request), "embedding_types": ["float"]}, exchange.where
        assert exchange.url.endswith("/v2" + made.path)
        answer = json.loads(exchange.body)
        embedded = cohere_embeddings.parse_embedded(exchange.body)
        assert [list(vector) for vector in embedded.vectors] == answer["embeddings"]["float"]
        assert embedded.tokens == answer["meta"]["billed_units"]["input_tokens"]
        assert embedded.raw_usage is not None and json.loads(bytes(embedded.raw_usage)) == answer["meta"]
        compared += 1
    assert compared == 4


# What is not in the recordings


def test_many_texts_are_several_requests() -> None:
    texts = [str(number) for number in range(200)]
    made = [json.loads(one.body)["texts"] for one in cohere_embeddings.render_embed(embed(input=texts), "embed-v4.0")]
    assert [len(one) for one in made] == [96, 96, 8] and [text for one in made for text in one] == texts
    titan = bedrock_embeddings.render_embed(embed(input=texts[:3]), "amazon.titan-embed-text-v2:0")
    assert [json.loads(one.body)["inputText"] for one in titan] == ["0", "1", "2"]
    cohere = bedrock_embeddings.render_embed(embed(input=texts), "cohere.embed-english-v3")
    assert [len(json.loads(one.body)["texts"]) for one in cohere] == [96, 96, 8]
    assert "model" not in json.loads(cohere[0].body)


def test_lengths_where_there_are_several() -> None:
    def sized(id: str) -> Json:
        return dict(json.loads(bedrock_embeddings.render_embed(embed(input="a", dimensions=256), id)[0].body))

    assert sized("us.cohere.embed-v4:0")["output_dimension"] == 256
    assert sized("amazon.titan-embed-text-v2:0")["dimensions"] == 256
    assert sized("amazon.titan-embed-image-v1")["embeddingConfig"] == {"outputEmbeddingLength": 256}
    nova = sized("amazon.nova-2-multimodal-embeddings-v1:0")["singleEmbeddingParams"]
    assert nova["embeddingDimension"] == 256
    for id in ("amazon.titan-embed-text-v1", "cohere.embed-english-v3"):
        with pytest.raises(Unsupported) as refused:
            sized(id)
        assert refused.value.param == "dimensions"


def test_what_is_dropped_is_said() -> None:
    [made] = cohere_embeddings.render_embed(embed(input="a", user="u", extra=1, max_tokens=9), "embed-v4.0")
    assert made.dropped == ("extra", "user") and json.loads(made.body)["max_tokens"] == 9
    [made] = bedrock_embeddings.render_embed(embed(input="a", normalize=False), "amazon.titan-embed-text-v2:0")
    assert made.dropped == () and json.loads(made.body)["normalize"] is False


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"embeddings":{"int8":[[1]]}}', b'{"embedding":["a"]}', b"<html>"]
)
def test_a_body_without_embeddings(body: bytes) -> None:
    for parse in (bedrock_embeddings.parse_embedded, cohere_embeddings.parse_embedded):
        with pytest.raises(BadAnswer):
            parse(body)

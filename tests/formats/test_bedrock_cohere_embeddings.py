"""Embeddings of Cohere and Bedrock against their recordings."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import msgspec
import pytest

from tests.formats.recordings import every
from waypost.completion import BadAnswer
from waypost.formats import bedrock_embeddings, cohere_embeddings
from waypost.formats.format import Model, Rendered, Unsupported
from waypost.formats.openai_embeddings import EmbeddingsRequest
from waypost.formats.openai_embeddings import parse_embeddings as parse_request

Json = dict[str, Any]


def embed(**fields: Any) -> EmbeddingsRequest:
    return parse_request({name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()})


def at_bedrock(id: str, **fields: Any) -> tuple[Rendered, ...]:
    return bedrock_embeddings.render_embeddings(embed(**fields), Model(id=id))


def at_cohere(id: str, **fields: Any) -> tuple[Rendered, ...]:
    return cohere_embeddings.render_embeddings(embed(**fields), Model(id=id))


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
        embedded = bedrock_embeddings.parse_embeddings(exchange.body)
        assert [list(vector) for vector in embedded.vectors] == vectors_in(answer), exchange.where
        assert embedded.tokens == answer.get("inputTextTokenCount")
        if id.startswith("arn:"):  # whose model nobody knows
            with pytest.raises(Unsupported):
                at_bedrock(id, **as_openai(exchange.request))
            continue
        [made] = at_bedrock(id, **as_openai(exchange.request))
        assert meaning(json.loads(made.body)) == meaning(exchange.request), exchange.where
        assert exchange.url.endswith(made.path) and made.dropped == ()
        compared += 1
    assert compared > 25


def test_recorded_exchanges_with_cohere() -> None:
    compared = 0
    for exchange in every("cohere"):
        if not exchange.url.endswith("/embed") or exchange.status != 200:
            continue
        [made] = at_cohere(exchange.request["model"], **as_openai(exchange.request))
        assert json.loads(made.body) == {**meaning(exchange.request), "embedding_types": ["float"]}, exchange.where
        assert exchange.url.endswith("/v2" + made.path)
        answer = json.loads(exchange.body)
        embedded = cohere_embeddings.parse_embeddings(exchange.body)
        assert [list(vector) for vector in embedded.vectors] == answer["embeddings"]["float"]
        assert embedded.tokens == answer["meta"]["billed_units"]["input_tokens"]
        compared += 1
    assert compared == 4


# What is not in the recordings


def test_many_texts_are_several_requests() -> None:
    texts = [str(number) for number in range(200)]
    made = [json.loads(one.body)["texts"] for one in at_cohere("embed-v4.0", input=texts)]
    assert [len(one) for one in made] == [96, 96, 8] and [text for one in made for text in one] == texts
    titan = at_bedrock("amazon.titan-embed-text-v2:0", input=texts[:3])
    assert [json.loads(one.body)["inputText"] for one in titan] == ["0", "1", "2"]
    cohere = [json.loads(one.body) for one in at_bedrock("cohere.embed-english-v3", input=texts)]
    assert [len(one["texts"]) for one in cohere] == [96, 96, 8] and "model" not in cohere[0]


def test_lengths_where_there_are_several() -> None:
    def sized(id: str) -> Json:
        return dict(json.loads(at_bedrock(id, input="a", dimensions=256)[0].body))

    assert sized("us.cohere.embed-v4:0")["output_dimension"] == 256
    assert sized("amazon.titan-embed-text-v2:0")["dimensions"] == 256
    assert sized("amazon.titan-embed-image-v1")["embeddingConfig"] == {"outputEmbeddingLength": 256}
    nova = sized("amazon.nova-2-multimodal-embeddings-v1:0")["singleEmbeddingParams"]
    assert nova["embeddingDimension"] == 256
    for id in ("amazon.titan-embed-text-v1", "cohere.embed-english-v3"):
        with pytest.raises(Unsupported) as refused:
            sized(id)
        assert refused.value.param == "dimensions"


def test_what_a_vector_is_for() -> None:
    query = {"input": "a", "input_type": "search_query"}
    assert json.loads(at_cohere("embed-v4.0", **query)[0].body)["input_type"] == "search_query"
    assert json.loads(at_cohere("embed-v4.0", input="a")[0].body)["input_type"] == "search_document"
    nova = json.loads(at_bedrock("amazon.nova-2-multimodal-embeddings-v1:0", **query)[0].body)
    assert nova["singleEmbeddingParams"]["embeddingPurpose"] == "TEXT_RETRIEVAL"
    assert at_bedrock("amazon.titan-embed-text-v2:0", **query)[0].dropped == ("input_type",)


def test_what_is_dropped_is_said() -> None:
    [made] = at_cohere("embed-v4.0", input="a", extra=1, max_tokens=9)
    assert made.dropped == ("extra",) and json.loads(made.body)["max_tokens"] == 9
    [made] = at_bedrock("amazon.titan-embed-text-v2:0", input="a", normalize=False)
    assert made.dropped == () and json.loads(made.body)["normalize"] is False
    assert at_bedrock("amazon.titan-embed-text-v1", input="a", normalize=False)[0].dropped == ("normalize",)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"embeddings":{"int8":[[1]]}}', b'{"embedding":["a"]}', b"<html>"]
)
def test_a_body_without_embeddings(body: bytes) -> None:
    for parse in (bedrock_embeddings.parse_embeddings, cohere_embeddings.parse_embeddings):
        with pytest.raises(BadAnswer):
            parse(body)

"""`POST /v1/embeddings` by the OpenAI SDK, which asks for base64, through every format that has embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest

from tests.harness import Waypost, post, serving
from tests.sim.running import Running
from tests.worker.test_formats_script import configuration

MODELS = {
    "openai": "lab/text-embedding-3-small",
    "azure": "azure/text-embedding-3-small",
    "gemini": "gemini/gemini-embedding-001",
    "vertex": "vertex/gemini-embedding-2",
    "vertex-first": "vertex/gemini-embedding-001",
    "vertex-older": "vertex/text-embedding-005",
    "bedrock-titan": "bedrock/amazon.titan-embed-text-v2:0",
    "bedrock-cohere": "bedrock/cohere.embed-english-v3",
    "cohere": "cohere/embed-v4.0",
}
SIZED = {"openai": 64, "gemini": 128, "vertex-older": 96, "bedrock-titan": 256, "cohere": 256}
every = pytest.mark.parametrize("name", list(MODELS))


@pytest.fixture(scope="module")
def gateway(simulator: Running) -> Iterator[Waypost]:
    chain = '[models."route/both"]\nchain = ["anthropic/claude-sonnet-4-5", "lab/text-embedding-3-small"]\n'
    limited = "[plans.all]\ntokens = { day = 1000000 }\n"
    with serving(configuration(simulator.base) + chain + limited) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Waypost) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base, api_key=gateway.key, max_retries=0, timeout=60) as made:
        yield made


@every
def test_one_text_and_several(client: openai.OpenAI, name: str) -> None:
    one = client.embeddings.create(model=MODELS[name], input="a cat")
    several = client.embeddings.create(model=MODELS[name], input=["a cat", "a dog", "a cat"])
    assert one.model == several.model == MODELS[name] and one.object == "list"
    assert [item.index for item in several.data] == [0, 1, 2]
    first, second, third = (item.embedding for item in several.data)
    assert first == third == one.data[0].embedding != second
    assert len(first) == len(second) > 1 and all(isinstance(number, float) for number in first)
    assert several.usage.prompt_tokens == several.usage.total_tokens > one.usage.prompt_tokens > 0
    assert (several.model_extra or {})["provider"] == MODELS[name].partition("/")[0]


@every
def test_numbers_are_the_same_in_both_encodings(client: openai.OpenAI, name: str) -> None:
    packed = client.embeddings.create(model=MODELS[name], input="a cat").data[0].embedding
    plain = client.embeddings.create(model=MODELS[name], input="a cat", encoding_format="float").data[0].embedding
    assert packed == pytest.approx(plain, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", list(SIZED))
def test_dimensions(client: openai.OpenAI, name: str) -> None:
    made = client.embeddings.create(model=MODELS[name], input="a cat", dimensions=SIZED[name])
    assert len(made.data[0].embedding) == SIZED[name]


@pytest.mark.parametrize("name", ["gemini", "vertex-first", "vertex-older", "bedrock-titan", "cohere"])
def test_more_texts_than_the_upstream_takes_at_once(client: openai.OpenAI, name: str) -> None:
    texts = [f"text {number % 60}" for number in range(300 if name == "vertex-older" else 120)]
    made = client.embeddings.create(model=MODELS[name], input=texts)
    vectors = [item.embedding for item in made.data]
    assert len(vectors) == len(texts) and vectors[:60] == vectors[60:120] and vectors[0] != vectors[1]


def test_a_target_without_embeddings_is_passed_over(client: openai.OpenAI) -> None:
    made = client.embeddings.create(model="route/both", input="a cat")
    assert (made.model_extra or {})["provider"] == "lab"
    with pytest.raises(openai.BadRequestError, match="makes no embeddings") as caught:
        client.embeddings.create(model="anthropic/claude-sonnet-4-5", input="a cat")
    assert caught.value.param == "model" and caught.value.code == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "lab/e"}, "input"),
        ({"model": "gemini/gemini-embedding-001", "input": []}, "input"),
        ({"model": "gemini/gemini-embedding-001", "input": [[1, 2]]}, "input"),
        ({"model": "gemini/gemini-embedding-001", "input": "x", "dimensions": 0}, "dimensions"),
        ({"model": "gemini/gemini-embedding-001", "input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "x"}, "model"),
    ],
)
def test_what_is_refused(gateway: Waypost, body: dict[str, object], param: str) -> None:
    with gateway.connect() as client:
        client.send(post("/v1/embeddings", json.dumps(body).encode(), *gateway.credentials))
        answer = client.answer()
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST") and answer.json["error"]["param"] == param


def test_an_upstream_s_failure(gateway: Waypost) -> None:
    body = {"model": "lab/text-embedding-3-small+status-503", "input": "x"}
    with gateway.connect() as client:
        client.send(post("/v1/embeddings", json.dumps(body).encode(), *gateway.credentials))
        answer = client.answer()
    assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")


def test_the_books_have_it(client: openai.OpenAI, gateway: Waypost) -> None:
    made = client.embeddings.with_raw_response.create(model=MODELS["gemini"], input="a cat on a mat")
    id = made.headers["x-request-id"]
    with gateway.connect() as connection:
        receipt = None
        for _ in range(500):
            head = f"GET /v1/generation?id={id} HTTP/1.1\r\nhost: w\r\nauthorization: Bearer {gateway.key}\r\n\r\n"
            connection.send(head.encode())
            answer = connection.answer()
            if answer.status == 200:
                receipt = answer.json["data"]
                break
    assert receipt is not None, "the receipt never came"
    assert receipt["tokens_prompt"] == made.parse().usage.prompt_tokens, receipt

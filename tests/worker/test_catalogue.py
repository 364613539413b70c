"""Model cards and prices: what is known, exactly, and nothing else; a list for each plan, made once."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import openai
import pytest
from jsonschema_rs import validator_for

from tests.harness import Answer, Waypost, serving
from tests.sim.running import Running
from waypost import config
from waypost.api.openapi import document
from waypost.config import load
from waypost.formats import anthropic_messages, bedrock_converse, cohere, gemini
from waypost.formats.accented import speak
from waypost.formats.accents import ACCENTS
from waypost.formats.format import Format
from waypost.formats.openai_request import parse_chat
from waypost.keeper.direct import administer
from waypost.known_models import ROWS, known_model, tokenizer_of
from waypost.listing import NativeRecord
from waypost.messages import CreatedKey, CreateKey, KeyTerms
from waypost.worker.cards import card, native_card, per_token, price_row, pricing
from waypost.worker.catalogue import LISTS, Catalogue
from waypost.worker.facts import facts_of

MODELS = """
[providers.lab]
base_url = "{base}"
keys = ["k"]
[providers.anthropic]
base_url = "{base}"
keys = ["k"]
[providers.cohere]
keys = ["k"]
[models."route/told"]
chain = ["lab/m", "anthropic/claude-sonnet-4-5"]
name = "A model"
description = "What it is good for."
context = 128000
modalities = ["text", "image"]
capabilities = {{ tools = true, reasoning = "effort", efforts = ["low", "high"], max_output = 4000 }}
price = {{ input = "0.28", output = "0.42", cache_read = "0.028", cache_write_1h = "0.56", request = "0.001" }}
[models."route/claude"]
chain = ["anthropic/claude-sonnet-4-5"]
price = {{ input = "3", output = "15" }}
[models."route/unknown"]
chain = ["lab/whatever"]
[models."route/free"]
chain = ["lab/gratis"]
price = {{ input = "0", output = "0" }}
[models."route/embeds"]
chain = ["lab/text-embedding-x"]
"""
PLANS = """
[plans.free]
models = ["route/unknown", "route/free"]
[plans.max]
models = ["*"]
[plans.none]
models = []
"""


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    public = '[server]\npublic_models = "free"\n'
    with serving(public + MODELS.format(base=simulator.base) + PLANS, workers=2) as waypost:
        yield waypost


def key_on(server: Waypost, plan: str, kind: Any = "inference", **terms: Any) -> str:
    settings = load(server.folder / "waypost.toml")
    message = CreateKey(f"on-{plan}", plan, kind=kind, terms=KeyTerms(**terms))
    created = asyncio.run(administer(server.folder / "data", settings, message))
    assert isinstance(created, CreatedKey), created
    return created.key


def get(server: Waypost, path: str, key: str = "") -> Answer:
    lines = [f"GET {path} HTTP/1.1", "host: w", "accept: application/json", *([f"x-api-key: {key}"] if key else [])]
    with server.connect() as client:
        client.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        return client.answer()


def names(server: Waypost, key: str = "") -> list[str]:
    return [row["id"] for row in get(server, "/v1/models", key).json["data"] if row["id"].startswith("route/")]


def settings_of(text: str = MODELS) -> config.Config:
    import tomllib

    return config.parse(tomllib.loads(text.format(base="http://lab/v1") + PLANS), {})


def card_of(name: str, record: NativeRecord | None = None) -> dict[str, Any]:
    settings = settings_of()
    made: dict[str, Any] = json.loads(msgspec.json.encode(card(name, settings.models[name], record, settings, 7)))
    return made


# Cards


def test_a_card_has_what_each_kind_of_client_reads() -> None:
    made = card_of("route/told")
    assert {name: made[name] for name in ("id", "object", "created", "owned_by")} == {
        "id": "route/told", "object": "model", "created": 7, "owned_by": "lab",
    }  # fmt: skip
    assert (made["canonical_slug"], made["name"], made["description"]) == (
        "route/told", "A model", "What it is good for.",
    )  # fmt: skip
    assert made["context_length"] == 128_000
    assert made["architecture"] == {
        "modality": "text+image->text", "input_modalities": ["text", "image"], "output_modalities": ["text"],
        "tokenizer": None, "instruct_type": None,
    }  # fmt: skip
    assert made["top_provider"] == {"context_length": 128_000, "max_completion_tokens": 4000, "is_moderated": False}
    assert made["reasoning"] == {"supported_efforts": ["low", "high"], "default_enabled": False, "mandatory": False}
    assert made["capabilities"] == {"vision": True, "function_call": True, "reasoning": True}
    assert made["endpoints"][0] == "/v1/chat/completions"
    assert (made["tier"], made["allowed"], made["providers"]) == ("max", True, ["lab", "anthropic"])
    assert {"tools", "reasoning_effort", "temperature", "max_tokens"} <= set(made["supported_parameters"])


def test_what_nobody_knows_is_null_or_absent() -> None:
    made = card_of("route/unknown")
    assert (made["context_length"], made["description"], made["name"]) == (None, None, "route/unknown")
    assert made["architecture"] == {"output_modalities": ["text"], "tokenizer": None, "instruct_type": None}
    assert made["top_provider"] == {
        "context_length": None, "max_completion_tokens": None, "is_moderated": False,
    }  # fmt: skip
    assert not made.keys() & {"pricing", "supported_parameters", "reasoning", "capabilities"}
    assert made["tier"] == "free"


def test_a_model_of_a_format_is_known_by_its_id() -> None:
    made = card_of(
        "route/claude", NativeRecord("x", "anthropic", "x", 200_000, "9", "9", None, False, "Claude", "Good")
    )
    assert made["architecture"]["input_modalities"] == ["text", "image", "file"]
    assert made["architecture"]["tokenizer"] == "Claude"
    assert made["top_provider"]["max_completion_tokens"] == 64_000
    assert made["capabilities"] == {"vision": True, "function_call": True, "reasoning": True}
    assert (made["name"], made["description"], made["context_length"]) == ("Claude", "Good", 200_000)
    assert made["pricing"]["prompt"] == "0.000003", "the configuration's own price goes first"


def test_an_embedding_model_says_so() -> None:
    made = card_of("route/embeds")
    assert made["endpoints"] == ["/v1/embeddings"]
    assert made["architecture"]["output_modalities"] == ["embeddings"]


def test_an_id_that_a_format_cannot_read_is_no_fact() -> None:
    settings = settings_of()
    guess = facts_of("anthropic", settings.providers["anthropic"], "somebody-elses", None)
    assert (guess.inputs, guess.reasons, guess.max_output) == (None, None, None)
    known = facts_of("anthropic", settings.providers["anthropic"], "claude-3-haiku-20240307", None)
    assert (known.reasons, known.max_output) == (False, 4096)
    new = facts_of("cohere", settings.providers["cohere"], "next-year", None)
    assert new.tools is None


# Prices


def test_prices_are_exact_decimal_strings_and_routeways_objects() -> None:
    made = card_of("route/told")["pricing"]
    assert made == {
        "prompt": "0.00000028", "completion": "0.00000042", "input_cache_read": "0.000000028",
        "request": "0.001", "image": "0",
        "input": {"unit": "token", "price_per_million_t": 0.28, "price_per_token_usd": "0.00000028"},
        "output": {"unit": "token", "price_per_million_t": 0.42, "price_per_token_usd": "0.00000042"},
        "caching": {
            "read": {"unit": "token", "price_per_million_t": 0.028, "price_per_token_usd": "0.000000028"},
            "write": {"1h": {"unit": "token", "price_per_million_t": 0.56, "price_per_token_usd": "0.00000056"}},
        },
    }  # fmt: skip
    assert "caching" not in card_of("route/claude")["pricing"]
    assert card_of("route/free")["pricing"]["prompt"] == "0"


@pytest.mark.parametrize(
    ("million", "token"),
    [("0", "0"), ("1", "0.000001"), ("0.000000001", "0.000000000000001"), ("1000000", "1"), ("0.10", "0.0000001"),
     ("123456789.123456789", "123.456789123456789")],
)  # fmt: skip
def test_no_digit_is_lost(million: str, token: str) -> None:
    assert per_token(Decimal(million)) == token
    assert Decimal(token) * 1_000_000 == Decimal(million)


def test_every_rate_of_the_list_is_told() -> None:
    rates = {
        "input_mtok": "2", "output_mtok": "8", "cache_read_mtok": "0.5", "cache_write_mtok": "2.5",
        "cache_write_1h_mtok": "4", "output_reasoning_mtok": "9", "input_audio_mtok": "10", "output_audio_mtok": "20",
        "input_image_mtok": "3", "output_image_mtok": "30", "requests_kcount": "5", "web_searches_kcount": "10",
    }  # fmt: skip
    record = NativeRecord("m", "lab", "m", None, "2", "8", "0.5", False, "", "", rates)
    made = native_card("m", [record], settings_of(), 7)["pricing"]
    assert {name: value for name, value in made.items() if isinstance(value, str)} == {
        "prompt": "0.000002", "completion": "0.000008", "internal_reasoning": "0.000009",
        "input_cache_read": "0.0000005", "input_cache_write": "0.0000025", "audio": "0.00001",
        "audio_output": "0.00002", "image_token": "0.000003", "image_output": "0.00003",
        "request": "0.005", "image": "0", "web_search": "0.01",
    }  # fmt: skip
    assert set(made["caching"]["write"]) == {"5m", "1h"}


def test_a_row_of_prices_is_the_cards_own() -> None:
    row = json.loads(msgspec.json.encode(price_row(card_of("route/told"))))
    assert row == {
        "model": "route/told", "display_name": "A model", "input_per_million": 0.28, "output_per_million": 0.42,
        "cache_read_per_million": 0.028, "cache_write_1h_per_million": 0.56, "request": 0.001,
    }  # fmt: skip
    assert price_row(card_of("route/unknown"))["input_per_million"] is None
    assert pricing({"input": Decimal(1), "output": Decimal(2)})["request"] == "0"


# What is known


def test_the_table_of_known_models_is_in_order() -> None:
    for provider, pattern, row in ROWS:
        assert re.compile(pattern)
        assert row, (provider, pattern)
    assert known_model("openai", "gpt-4o") == known_model("openai", "gpt-4o-2024-08-06")
    assert known_model("openai", "gpt-4o-audio-preview") is None
    assert known_model("openai", "gpt-4o-2024-05-13") != known_model("openai", "gpt-4o")
    assert known_model("lab", "gpt-4o") is None
    nano, chat = known_model("openai", "gpt-5-nano"), known_model("openai", "gpt-5-chat-latest")
    assert nano is not None and nano.must_reason and chat is None


@pytest.mark.parametrize(
    ("id", "name"),
    [("gpt-4o", "GPT"), ("openai/o3", "GPT"), ("claude-3-haiku", "Claude"), ("deepseek-chat", "DeepSeek"),
     ("deepseek-r1-distill-llama-70b", None), ("llama-3.3-70b", "Llama3"), ("mixtral-8x7b", "Mistral"),
     ("us.amazon.nova-lite-v1:0", "Nova"), ("something", None), ("foo1", None)],
)  # fmt: skip
def test_tokenizers_by_family(id: str, name: str | None) -> None:
    assert tokenizer_of(id) == name


SAMPLES: dict[str, Any] = {
    "max_tokens": 100, "max_completion_tokens": 100, "stop": ["x"], "temperature": 0.5, "top_p": 0.5, "top_k": 5,
    "seed": 5, "frequency_penalty": 0.5, "presence_penalty": 0.5, "logprobs": True, "top_logprobs": 2,
    "reasoning_effort": "high", "reasoning": {"effort": "high"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("format", "provider", "id"),
    [(anthropic_messages, "anthropic", "claude-sonnet-4-5"), (anthropic_messages, "anthropic", "claude-opus-4-8"),
     (anthropic_messages, "anthropic", "claude-3-haiku-20240307"), (gemini, "gemini", "gemini-2.5-flash"),
     (gemini, "gemini", "gemini-2.0-flash"), (bedrock_converse, "bedrock", "us.amazon.nova-2-lite-v1:0"),
     (bedrock_converse, "bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
     (cohere, "cohere", "command-a-03-2025"), (cohere, "cohere", "command-a-reasoning-08-2025")],
)  # fmt: skip
def test_a_parameter_that_is_named_is_never_dropped(format: Format, provider: str, id: str) -> None:
    settings = config.parse({"providers": {provider: {"keys": ["AKID:x"], **place(provider)}}}, {})
    facts = facts_of(provider, settings.providers[provider], id, None)
    assert facts.parameters is not None
    for name in sorted(facts.parameters & SAMPLES.keys()):
        fields = {"model": "m", "messages": [{"role": "user", "content": "x"}], name: SAMPLES[name]}
        fields |= {"logprobs": True} if name == "top_logprobs" else {}
        raw = {field: msgspec.Raw(msgspec.json.encode(value)) for field, value in fields.items()}
        rendered = format.render_request(parse_chat(raw), format.known_model(id))
        assert name not in rendered.dropped, name


@pytest.mark.parametrize(
    ("provider", "id"), [("openai", "o3"), ("openai", "gpt-5"), ("openai", "gpt-4o"), ("xai", "grok-code-fast-1")]
)
def test_nor_is_one_that_an_accent_drops_for_some_models(provider: str, id: str) -> None:
    settings = config.parse({"providers": {provider: {"keys": ["k"]}}}, {})
    facts = facts_of(provider, settings.providers[provider], id, None)
    assert facts.parameters is not None
    for name in sorted(facts.parameters & SAMPLES.keys()):
        assert speak(ACCENTS[provider], {name: msgspec.Raw(msgspec.json.encode(SAMPLES[name]))}, id).dropped == (), name


def place(provider: str) -> dict[str, str]:
    return {"region": "us-east-1"} if provider == "bedrock" else {}


# Lists


def test_a_list_is_the_plans_and_the_keys(server: Waypost) -> None:
    assert names(server, key_on(server, "free")) == ["route/unknown", "route/free"]
    assert len(names(server, key_on(server, "max"))) == 5
    assert names(server, key_on(server, "max", models=("route/f*", "route/claude"))) == ["route/claude", "route/free"]
    assert names(server, key_on(server, "none")) == []
    assert names(server, key_on(server, "free", "management")) == ["route/unknown", "route/free"]


def test_strangers_see_the_public_plans_models_and_prices(server: Waypost) -> None:
    assert names(server) == ["route/unknown", "route/free"]
    assert [row["model"] for row in get(server, "/v1/pricing").json["models"]] == ["route/unknown", "route/free"]
    assert get(server, "/v1/models/route/free").json["allowed"] is True
    assert get(server, "/v1/models/route/told").json["allowed"] is False
    for path in ("/v1/models", "/v1/pricing", "/v1/models/route/free"):
        refused = get(server, path, "rk_" + "0" * 64)
        assert (refused.status, refused.code) == (401, "AUTHENTICATION_ERROR"), "a bad key is not no key"
    assert get(server, "/v1/key").status == 401


def test_allowed_is_the_callers(server: Waypost) -> None:
    path, narrow = "/v1/models/route/told", key_on(server, "max", models=("route/free",))
    assert get(server, path, key_on(server, "max")).json["allowed"] is True
    for key in (key_on(server, "free"), narrow):
        shown = get(server, path, key).json
        assert (shown["allowed"], shown["id"], shown["tier"]) == (False, "route/told", "max")


def test_a_chains_link_is_shown_though_no_list_knows_it(server: Waypost) -> None:
    key = key_on(server, "max")
    for name in ("whatever", "lab/whatever"):
        shown = get(server, f"/v1/models/{name}", key).json
        assert (shown["id"], shown["providers"], shown["allowed"]) == (name, ["lab"], True)
        assert shown["context_length"] is None and "pricing" not in shown
    assert get(server, "/v1/models/lab/whatever", key_on(server, "free")).json["allowed"] is False
    assert [get(server, f"/v1/models/{name}", key).status for name in ("lab/odd", "nobody/whatever")] == [404, 404]


def test_answers_are_as_the_document_says_and_an_sdk_reads_them(server: Waypost) -> None:
    components = json.loads(document())["components"]
    key = key_on(server, "max")
    for path, shape in (
        ("/v1/models", "ModelList"),
        ("/v1/pricing", "PriceList"),
        ("/v1/models/route/told", "ModelCard"),
    ):
        schema = {"$ref": f"#/components/schemas/{shape}", "components": components}
        found = get(server, path, key)
        assert [error.message for error in validator_for(schema).iter_errors(found.json)] == []
    with openai.OpenAI(base_url=server.base, api_key=key) as client:
        told = {model.id: model for model in client.models.list()}["route/told"]
    assert told.model_extra is not None
    assert told.model_extra["pricing"]["prompt"] == "0.00000028"


def test_a_list_is_made_once_for_all_who_see_the_same() -> None:
    catalogue = Catalogue(None, None)  # type: ignore[arg-type]
    settings = settings_of()
    catalogue.adopt(settings)
    first = catalogue.listing(("max", None))
    assert catalogue.listing(("max", None)) is first
    assert catalogue.pricing(("max", None)) is catalogue.pricing(("max", None))
    assert json.loads(catalogue.listing(("free", None)))["data"] != json.loads(first)["data"]
    for number in range(LISTS // len(first) + 1):  # no end of narrowed keys
        catalogue.listing(("max", ("*", f"p{number}")))
    again = catalogue.listing(("max", None))
    assert again == first
    assert again is not first, "what is kept has a bound"
    catalogue.adopt(settings_of(MODELS.replace("A model", "Another")))
    assert b"Another" in catalogue.listing(("max", None))


def test_the_public_plan_must_exist() -> None:
    with pytest.raises(config.ConfigError, match=r"\[server\] public_models: 'gone' is not a plan; there is free, max"):
        settings_of('[server]\npublic_models = "gone"\n' + MODELS)

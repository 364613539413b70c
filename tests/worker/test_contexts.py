"""How long a prompt a link takes: by its model, its provider, or the price list; and who is left out by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Answer, Waypost, post, provider, serving
from tests.sim.running import Running

CONFIG = """
[providers.openai]
keys = ["never used"]

[models."route/mixed"]
chain = ["small/demo", "sim/demo", "big/demo"]
[models."route/listed"]
chain = ["small/demo", "openai/gpt-4o-mini"]
[models."route/said"]
chain = ["small/demo", "big/demo"]
context = 5000
[models."route/grows"]
chain = ["small/context-length"]
models = ["route/as-small", "route/big"]
larger = true
[models."route/as-small"]
chain = ["small/other"]
[models."route/big"]
chain = ["big/demo"]
[models."route/stays"]
chain = ["small/context-length"]
models = ["route/unknown"]
larger = true
[models."route/unknown"]
chain = ["sim/demo"]
[models."route/sees"]
chain = ["small/demo", "big/demo"]
modalities = ["text"]
"""


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    """`small` takes 1000 tokens, `big` 100000; of `sim` nobody knows it, and of OpenAI's models the price list does."""
    base = simulator.base
    providers = provider("small", base, context="1000") + provider("big", base, context="100000")
    with serving(provider("sim", base) + providers + CONFIG) as waypost:
        yield waypost


def send(server: Waypost, path: str, model: str, words: int, *headers: str, **fields: Any) -> Answer:
    """One request, whose prompt has about so many tokens."""
    messages = fields.pop("messages", [{"role": "user", "content": "word " * words}])
    body = json.dumps({"model": model, "messages": messages, **fields}).encode()
    with server.connect() as client:
        client.send(post(path, body, *server.credentials, *headers))
        return client.answer()


def candidates(server: Waypost, model: str, words: int, **fields: Any) -> tuple[list[str], dict[str, str]]:
    """Providers that would be asked, and those that are left out with the reason."""
    shown = send(server, "/v1/preflight", model, words, **fields).json
    kept = [each["provider"] for each in shown["candidates"]]
    return kept, {each["provider"]: each["reason"] for each in shown["dropped"]}


def test_whoever_the_prompt_is_too_long_for_is_left_out(server: Waypost) -> None:
    assert candidates(server, "route/mixed", 100) == (["small", "sim", "big"], {})
    assert candidates(server, "route/mixed", 3000) == (["sim", "big"], {"small": "context"})
    assert candidates(server, "route/mixed", 150_000) == (["sim"], {"small": "context", "big": "context"})


def test_the_price_list_knows_contexts(server: Waypost) -> None:
    assert candidates(server, "route/listed", 100) == (["small", "openai"], {})
    assert candidates(server, "route/listed", 3000) == (["openai"], {"small": "context"})
    # Too long for all of them: an estimate alone refuses nobody.
    assert candidates(server, "route/listed", 200_000) == (["small", "openai"], {})


def test_the_model_s_own_table_goes_first(server: Waypost) -> None:
    assert candidates(server, "route/said", 3000) == (["small", "big"], {})


def test_models_are_listed_with_what_their_first_provider_takes(server: Waypost) -> None:
    def listed(name: str) -> Any:
        with server.connect() as client:
            credentials = "".join(f"{line}\r\n" for line in server.credentials)
            client.send(f"GET /v1/models/{name} HTTP/1.1\r\nhost: waypost\r\n{credentials}\r\n".encode())
            return client.answer().json.get("context_length")

    assert listed("route/mixed") == 1000 and listed("route/said") == 5000 and listed("route/unknown") is None


def test_what_was_too_long_goes_on_to_a_larger_context(server: Waypost) -> None:
    answer = send(server, "/v1/chat/completions", "route/grows", 10)
    assert (answer.status, answer.header("x-provider"), answer.header("x-attempts")) == (200, "big", "2")
    stays = send(server, "/v1/chat/completions", "route/stays", 10)
    assert (stays.status, stays.code) == (400, "CONTEXT_LENGTH_EXCEEDED"), "nobody knows whether the other is larger"


def test_what_models_see_is_still_looked_at(server: Waypost) -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]}]
    assert candidates(server, "route/sees", 0, messages=picture)[0] == []
    assert candidates(server, "route/mixed", 0, messages=picture)[0] == ["small", "sim", "big"]


def test_histories_are_cut_to_the_largest_of_the_chain(server: Waypost) -> None:
    talk = [{"role": "assistant" if number % 2 else "user", "content": "word " * 1000} for number in range(41)]

    def left_out(model: str, messages: list[Any]) -> int:
        shown = send(server, "/v1/preflight", model, 0, "x-waypost-history: fit", messages=messages).json
        out: int = shown["messages_left_out"]
        return out

    assert left_out("route/mixed", talk) == 0
    assert left_out("small/demo", talk) == 40
    assert 20 < left_out("route/said", talk) < 40
    longer = [{**turn, "content": "word " * 5000} for turn in talk]
    assert left_out("route/listed", longer) == left_out("openai/gpt-4o-mini", longer) > 10


def test_a_plugin_is_no_parameter_that_a_provider_has_to_declare(simulator: Running) -> None:
    declared = provider("one", simulator.base, parameters='["temperature"]')
    with serving(declared) as waypost:
        fields: dict[str, Any] = {"provider": {"require_parameters": True}, "plugins": [{"id": "context-compression"}]}
        assert send(waypost, "/v1/chat/completions", "one/demo", 10, **fields).status == 200
        assert send(waypost, "/v1/chat/completions", "one/demo", 10, seed=1, **fields).status == 400

"""The `waypost` object in answers and errors, whatever the upstream speaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Answer, Waypost, provider, serving
from tests.http.nonces import fresh_nonce
from tests.sim.running import Running
from tests.worker.test_commit_point import PATHS, configuration

MODELS = {"anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash", "vertex": "gemini-2.5-flash"} | {
    "cohere": "command-a-03-2025", "bedrock": "us.amazon.nova-2-lite-v1:0",
}  # fmt: skip
every = pytest.mark.parametrize("name", PATHS)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    with serving(configuration(simulator.base.removesuffix("/v1")) + provider("two", simulator.base)) as waypost:
        yield waypost


def ask(server: Waypost, model: str, wish: str = "enabled", **fields: Any) -> Answer:
    with server.connect() as client:
        client.send(server.chat(model, fresh_nonce(), f"x-waypost-metadata: {wish}", **fields))
        return client.answer()


def check(told: Any, asked: str, provider: str, model: str) -> None:
    assert (told["requested"], told["resolved"]) == (asked, f"{provider}/{model}")
    (attempt,) = told["attempts"]
    assert attempt.pop("ms") >= 0 and attempt == {"provider": provider, "model": model, "status": 200}
    assert told["strategy"] == "ordered" and told["sticky"] is False


@every
def test_in_a_whole_answer(server: Waypost, name: str) -> None:
    model = MODELS.get(name, "gpt-4o")
    answer = ask(server, f"{name}/{model}")
    check(answer.json["waypost"], f"{name}/{model}", name, model)
    assert "waypost" not in ask(server, f"{name}/{model}", "disabled").json


@every
@pytest.mark.parametrize("usage", [False, True], ids=["bare", "usage"])
def test_on_the_last_chunk_of_a_stream(server: Waypost, name: str, usage: bool) -> None:
    model = MODELS.get(name, "gpt-4o")
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    answer = ask(server, f"{name}/{model}", stream=True, **options)
    *chunks, last = answer.chunks
    check(last["waypost"], f"{name}/{model}", name, model)
    assert not any("waypost" in chunk for chunk in chunks) and bool(last.get("usage")) == usage
    assert answer.events[-1] == b"[DONE]"
    bare = ask(server, f"{name}/{model}", "1", stream=True, **options)
    assert not any("waypost" in chunk for chunk in bare.chunks)


@every
@both_ways
def test_in_an_error(server: Waypost, name: str, stream: bool) -> None:
    model = f"status-404+words-{3 + stream}"
    answer = ask(server, f"{name}/{model}", stream=stream)
    told = answer.json["waypost"]
    assert (answer.status, told["resolved"], told["requested"]) == (502, None, f"{name}/{model}")
    (attempt,) = told["attempts"]
    assert attempt.pop("ms") >= 0
    assert attempt == {"provider": name, "model": model, "status": 404, "error": "misconfigured"}


@every
@both_ways
def test_whose_attempts_failed_stand_before_it(server: Waypost, name: str, stream: bool) -> None:
    model = MODELS.get(name, "gpt-4o")
    link = f"two/status-500+words-{len(name)}{int(stream)}"
    answer = ask(server, link, models=[f"{name}/{model}"], stream=stream)
    told = (answer.chunks[-1] if stream else answer.json)["waypost"]
    assert [(each["provider"], each["status"]) for each in told["attempts"]] == [("two", 500), (name, 200)]
    assert told["resolved"] == f"{name}/{model}" and answer.header("x-attempts") == "2"

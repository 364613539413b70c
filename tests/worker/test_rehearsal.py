"""What preflight and explain tell of each upstream: fields that it is not told, and what it lacks. Nothing is sent."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Waypost, post, provider, serving
from tests.sim.running import Running
from waypost.sim.journal import read_journal

CONFIG = """
[models."r/all"]
chain = [
    "lab/gpt", "mistral/large", "deepseek/chat", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash",
    "cohere/command-a-03-2025",
]
[models."r/mute"]
chain = ["mute/x", "lab/gpt"]
[models."r/none"]
chain = ["mute/x", "mute/y"]
[models."r/images"]
chain = ["fetching/us.amazon.nova-lite-v1:0", "cohere/command-a-03-2025"]
"""
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    root = simulator.base.removesuffix("/v1")
    text = "".join(provider(name, simulator.base) for name in ("lab", "mistral", "deepseek", "anthropic"))
    text += provider("gemini", root + "/v1beta") + provider("cohere", root + "/v2")
    text += provider("mute", simulator.base, capabilities="{ tools = false }")
    text += provider("fetching", root, format='"bedrock"', region='"us-east-1"', media='"fetch"')
    with serving(text + CONFIG) as waypost:
        yield waypost


def preflight(server: Waypost, model: str, content: Any = "Hello", **fields: Any) -> Any:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": content}], **fields}).encode()
    with server.connect() as client:
        client.send(post("/v1/preflight", body, *server.credentials))
        answer = client.answer()
    assert answer.status == 200, answer.body
    return answer.json


def sent(server: Waypost, model: str, **fields: Any) -> Any:
    """What the real request's answer says that was not told."""
    answer = server.ask(model, **fields)
    dropped = answer.header("x-dropped-params")
    return answer.header("x-provider"), dropped.split(", ") if dropped else []


def test_each_candidate_s_parameters(server: Waypost, simulator: Running) -> None:
    before = len(list(read_journal(simulator.journal)))
    wanted = {"logit_bias": {"1": 1}, "seed": 1, "top_p": 0.5, "frequency_penalty": 0.1}
    shown = preflight(server, "r/all", **wanted)
    found = {each["provider"]: each for each in shown["candidates"]}
    assert [each["format"] for each in shown["candidates"]] == [
        "openai", "openai", "openai", "anthropic", "gemini", "cohere",
    ]  # fmt: skip
    assert found["lab"]["dropped"] == found["lab"]["changed"] == []
    assert "seed" in found["mistral"]["changed"] and "logit_bias" in found["mistral"]["dropped"]
    assert {"logit_bias", "seed"} <= set(found["anthropic"]["dropped"])
    assert "seed" not in found["gemini"]["dropped"] and shown["error"] is None
    assert len(list(read_journal(simulator.journal))) == before


@pytest.mark.parametrize("name", ["lab", "mistral", "deepseek", "anthropic", "gemini", "cohere"])
def test_it_is_what_the_answer_says_then(server: Waypost, name: str) -> None:
    wanted: dict[str, Any] = {"logit_bias": {"1": 1}, "seed": 1, "top_logprobs": 2, "logprobs": True, "user": "me"}
    only = {"provider": {"only": [name]}}
    (candidate,) = preflight(server, "r/all", **wanted, **only)["candidates"]
    assert sent(server, "r/all", **wanted, **only) == (name, candidate["dropped"])


def test_whoever_lacks_something_is_left_out(server: Waypost) -> None:
    shown = preflight(server, "r/mute", tools=TOOLS)
    assert [each["provider"] for each in shown["candidates"]] == ["lab"] and shown["error"] is None
    (dropped,) = shown["dropped"]
    assert (dropped["provider"], dropped["reason"], dropped["detail"]) == ("mute", "unable", "tools: x has no tools.")
    assert len(preflight(server, "r/mute")["candidates"]) == 2


def test_where_nobody_is_able_it_says_what_the_request_would_end_with(server: Waypost) -> None:
    shown, answer = preflight(server, "r/none", tools=TOOLS), server.ask("r/none", tools=TOOLS)
    assert shown["candidates"] == [] and answer.status == 400
    assert shown["error"] == answer.json["error"]


def test_who_requires_parameters_loses_those_who_drop_some(server: Waypost) -> None:
    shown = preflight(server, "r/all", logit_bias={"1": 1}, provider={"require_parameters": True})
    assert {each["provider"] for each in shown["candidates"]} & {"anthropic", "mistral"} == set()
    assert ("anthropic", "unable") in [(each["provider"], each["reason"]) for each in shown["dropped"]]
    assert shown["candidates"][0]["provider"] == "lab"


def test_media_that_would_be_fetched_are_not(server: Waypost) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "https://media.example.invalid/cat.png"}}]
    shown = preflight(server, "r/images", picture)
    assert [each["provider"] for each in shown["candidates"]] == ["fetching"]
    assert [(each["provider"], each["reason"]) for each in shown["dropped"]] == [("cohere", "unable")]


def test_a_request_that_a_format_has_no_words_for(server: Waypost) -> None:
    body = json.dumps({"model": "anthropic/claude-sonnet-4-5", "messages": [{"role": "wizard", "content": "x"}]})
    with server.connect() as client:
        client.send(post("/v1/preflight", body.encode(), *server.credentials))
        shown = client.answer().json
        client.send(post("/v1/chat/completions", body.encode(), *server.credentials))
        answer = client.answer()
    assert shown["candidates"] == [] and shown["error"] == answer.json["error"] and answer.status == 400


def test_explain_tells_who_can(server: Waypost) -> None:
    command = [
        str(pathlib.Path(sys.executable).with_name("waypost")),
        "explain",
        "r/all",
        "--config",
        str(server.folder / "waypost.toml"),
    ]
    told = subprocess.run([*command, "--data", str(server.folder / "data")], capture_output=True, text=True, check=True)
    assert [line.split()[:2] for line in told.stdout.splitlines()[2:]] == [
        ["1", "lab"], ["2", "mistral"], ["3", "deepseek"], ["4", "anthropic"], ["5", "gemini"], ["6", "cohere"],
    ]  # fmt: skip

"""Long conversations through a whole server: what reaches upstreams of two formats, what it costs, and what is said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.harness import Answer, Waypost, post, provider, serving
from tests.http.nonces import fresh_nonce, times_seen
from tests.sim.running import Running
from waypost.config import load
from waypost.formats.usage import estimate_tokens
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey

CONFIG = """
[server]
cors = ["https://app.example"]

[providers.anthropic]
base_url = "BASE"
keys = ["k"]

[models."route/plain"]
chain = ["sim/demo"]
context = 1000
[models."route/fits"]
chain = ["sim/demo"]
context = 1000
history = "fit"
[models."route/six"]
chain = ["sim/demo"]
history = 6
[models."route/claude"]
chain = ["anthropic/demo"]
context = 1000
history = "fit"
[models."route/full"]
chain = ["sim/context-length"]
context = 1000
history = "fit"
[models."route/two"]
chain = ["sim/demo", "other/demo"]
history = 3
strategy = "weighted"
weights = [1, 1]

[plans.all]
[plans.few]
tokens = { day = 6000 }
"""

WORDS = " ".join(["sentence"] * 20)
OUTPUT = 250  # a quarter of the context, as nobody says what the answer may have


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    providers = provider("sim", simulator.base) + provider("other", simulator.base)
    with serving(providers + CONFIG.replace("BASE", simulator.base)) as waypost:
        yield waypost


@pytest.fixture
def client(server: Waypost) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base, api_key=server.key, max_retries=0, timeout=30) as made:
        yield made


def talk(mark: str, turns: int) -> list[Any]:
    """Instructions, so many turns of user and assistant, each numbered and 20 words long, and a question."""
    messages = [{"role": "system", "content": "Be brief."}]
    for number in range(turns):
        role = "assistant" if number % 2 else "user"
        messages.append({"role": role, "content": f"{number}: {WORDS}"})
    return [*messages, {"role": "user", "content": mark}]


def ask(server: Waypost, model: str, messages: list[Any], *headers: str, **fields: Any) -> Answer:
    body = json.dumps({"model": model, "messages": messages, **fields}).encode()
    with server.connect() as client:
        client.send(post("/v1/chat/completions", body, *server.credentials, *headers))
        return client.answer()


def sent(simulator: Running, mark: str) -> list[Any]:
    """The messages that reached the upstream."""
    messages: list[Any] = simulator.exchange(mark).body["messages"]
    return messages


def test_without_the_option_everything_goes_on(server: Waypost, simulator: Running) -> None:
    mark = fresh_nonce()
    messages = talk(mark, 60)[-10:]
    answer = ask(server, "route/plain", messages * 3)
    assert answer.status == 200 and answer.header("x-waypost-history") is None
    assert simulator.exchange(mark).body is None or sent(simulator, mark) == messages * 3
    unknown = ask(server, "route/plain", messages, plugins=[{"id": "web"}])
    assert unknown.header("x-dropped-params") == "plugins" and unknown.header("x-waypost-history") is None


@pytest.mark.parametrize("stream", [False, True])
def test_what_fits_reaches_the_upstream(
    server: Waypost, client: openai.OpenAI, simulator: Running, stream: bool
) -> None:
    mark = fresh_nonce()
    messages = talk(mark, 60)
    with client.chat.completions.with_streaming_response.create(
        model="route/fits", messages=messages, stream=stream
    ) as response:
        said = response.headers["x-waypost-history"]
        assert mark in "".join(response.iter_text())
    left = sent(simulator, mark)
    assert said == f"dropped {62 - len(left)} of 62 messages"
    assert left[0] == messages[0] and left[1:] == messages[-len(left) + 1 :] and left[1]["role"] == "user"
    body = simulator.exchange(mark).body
    assert estimate_tokens(json.dumps(body, separators=(",", ":")).encode()) <= 1000 - OUTPUT
    more = {**body, "messages": [messages[0], *messages[-len(left) - 1 :]]}
    assert estimate_tokens(json.dumps(more, separators=(",", ":")).encode()) > 1000 - OUTPUT, (
        "one more turn did not fit"
    )


def test_what_the_answer_may_have_is_left_room_for(server: Waypost, simulator: Running) -> None:
    lengths: dict[tuple[str, int], int] = {}
    for name, tokens in (
        ("max_tokens", 100),
        ("max_completion_tokens", 800),
        ("max_tokens", 999),
        ("max_tokens", 1000),
    ):
        mark = fresh_nonce()
        assert ask(server, "route/fits", talk(mark, 60), **{name: tokens}).status == 200
        lengths[name, tokens] = len(sent(simulator, mark))
    assert 2 < lengths["max_completion_tokens", 800] < lengths["max_tokens", 1000] < lengths["max_tokens", 100]
    assert lengths["max_tokens", 999] == 2, "instructions and question"


def test_a_short_conversation_is_what_it_was(server: Waypost, simulator: Running) -> None:
    mark = fresh_nonce()
    answer = ask(server, "route/fits", talk(mark, 4), plugins=[{"id": "context-compression"}])
    assert answer.header("x-waypost-history") is None and answer.header("x-dropped-params") is None
    assert sent(simulator, mark) == talk(mark, 4)


@pytest.mark.parametrize(("turns", "dropped"), [(4, 0), (5, 0), (6, 2), (7, 2), (8, 4)])
def test_where_no_context_is_known_the_number_counts(
    server: Waypost, simulator: Running, turns: int, dropped: int
) -> None:
    """Six are kept, the question among them, and the first of them is a user's."""
    mark = fresh_nonce()
    messages = talk(mark, turns)
    answer = ask(server, "route/six", messages)
    said = f"dropped {dropped} of {turns + 2} messages" if dropped else None
    assert answer.header("x-waypost-history") == said
    assert sent(simulator, mark) == [messages[0], *messages[1 + dropped :]]


# Tools

CALL = {"type": "function", "function": {"name": "look", "arguments": "{}"}}


def agent(mark: str, steps: int) -> list[Any]:
    """An old question, then a task, with so many tool calls since."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    messages += [{"role": "assistant", "content": f"Hi. {WORDS}"}, {"role": "user", "content": mark}]
    for number in range(steps):
        messages.append({"role": "assistant", "content": None, "tool_calls": [{"id": f"call_{number}", **CALL}]})
        messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": f"{number}: {WORDS}"})
    return messages


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_keeps_its_task_and_whole_exchanges(
    server: Waypost, client: openai.OpenAI, simulator: Running, stream: bool
) -> None:
    mark = fresh_nonce()
    messages = agent(mark, 30)
    with client.chat.completions.with_streaming_response.create(
        model="route/fits", messages=messages, tools=TOOLS, stream=stream
    ) as response:
        said = response.headers["x-waypost-history"]
        assert response.status_code == 200
        response.read()
    left = sent(simulator, mark)
    assert said == f"dropped {64 - len(left)} of 64 messages" and 4 <= len(left) < 62
    assert left[:2] == [messages[0], messages[3]] and left[2:] == messages[-len(left) + 2 :]
    assert left[2]["role"] == "assistant" and left[3]["tool_call_id"] == left[2]["tool_calls"][0]["id"]


@pytest.mark.parametrize("stream", [False, True])
def test_another_format_gets_the_same_turns(
    server: Waypost, client: openai.OpenAI, simulator: Running, stream: bool
) -> None:
    mark = fresh_nonce()
    with client.chat.completions.with_streaming_response.create(
        model="route/claude", messages=agent(mark, 30), tools=TOOLS, stream=stream
    ) as response:
        assert response.status_code == 200, response.read()
        said = response.headers["x-waypost-history"]
        response.read()
    left = sent(simulator, mark)
    assert left[0]["role"] == "user" and mark in json.dumps(left[0])
    roles = [message["role"] for message in left]
    assert roles == ["user", *["assistant", "user"] * (len(roles) // 2)] and len(roles) > 1
    assert said == f"dropped {64 - 1 - len(roles)} of 64 messages"
    calls = [part["id"] for message in left for part in message["content"] if part["type"] == "tool_use"]
    results = [part["tool_use_id"] for message in left for part in message["content"] if part["type"] == "tool_result"]
    assert calls == results and len(calls) == len(roles) // 2

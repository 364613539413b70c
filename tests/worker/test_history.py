"""Long conversations through a whole server: what reaches upstreams of two formats, what it costs, and what is said."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.harness import Answer, Waypost, post, provider, serving
from tests.http.nonces import fresh_nonce, times_seen
from tests.sim.running import Running
from waypost.config import load
from waypost.formats.openai_chat import parse_request
from waypost.formats.usage import estimate_tokens
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey
from waypost.worker.history import by_plugin

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
tokens = { day = 5200 }
"""

WORDS = " ".join(["sentence"] * 8)  # the simulator's journal keeps bodies of at most 8 kB
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
    """Instructions, so many turns of user and assistant, each numbered, and a question."""
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
    answer = ask(server, "route/plain", talk(mark, 60))
    assert answer.status == 200 and answer.header("x-waypost-history") is None
    assert sent(simulator, mark) == talk(mark, 60)


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
    assert estimate_tokens(json.dumps(body, separators=(",", ":")).encode()) <= 1.02 * (1000 - OUTPUT)
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


# Who says so

OURS = {"id": "context-compression"}


def left(server: Waypost, simulator: Running, model: str, *headers: str, **fields: Any) -> int:
    """How many of 62 messages reached the upstream."""
    mark = fresh_nonce()
    answer = ask(server, model, talk(mark, 60), *headers, **fields)
    assert answer.status == 200, answer.body
    kept = len(sent(simulator, mark))
    said = answer.header("x-waypost-history")
    assert said == (f"dropped {62 - kept} of 62 messages" if kept < 62 else None)
    return kept


def test_the_caller_wins_over_the_model_and_the_body_over_the_header(server: Waypost, simulator: Running) -> None:
    fit, off = "x-waypost-history: Fit", "x-waypost-history: off"
    fitting = left(server, simulator, "route/fits")
    assert 10 < fitting < 50
    assert left(server, simulator, "route/plain", fit) == fitting
    assert left(server, simulator, "route/plain", off) == left(server, simulator, "route/fits", off) == 62
    without = {**OURS, "enabled": False}
    assert left(server, simulator, "route/fits", plugins=[without]) == 62
    assert left(server, simulator, "route/plain", fit, plugins=[without]) == 62
    for plugin in (OURS, {**OURS, "enabled": True}, {**OURS, "enabled": None, "engine": "middle-out"}):
        # The field itself has tokens, which may cost a turn.
        assert fitting - 4 <= left(server, simulator, "route/plain", off, plugins=[plugin]) <= fitting
    assert left(server, simulator, "sim/demo", fit) == 50, "49 turns would begin with the assistant's"
    assert left(server, simulator, "sim/demo", plugins=[{**OURS, "messages": 5}]) == 6
    assert left(server, simulator, "route/six", plugins=[{**OURS, "messages": 9}]) == 10
    assert left(server, simulator, "route/six", plugins=[OURS]) == 6
    assert left(server, simulator, "route/six", fit) == 6


def test_other_plugins_are_named_as_before(server: Waypost) -> None:
    def dropped(*plugins: Any) -> str | None:
        answer = ask(server, "route/plain", talk("Hello", 0), plugins=list(plugins))
        assert answer.status == 200
        return answer.header("x-dropped-params")

    assert dropped(OURS) is dropped(OURS, {**OURS, "enabled": False}) is None
    assert dropped({"id": "web"}) == dropped(OURS, {"id": "web"}) == dropped(OURS, 7) == dropped() == "plugins"


def test_plugins_of_no_shape_are_ignored_as_before(server: Waypost) -> None:
    for plugins in ({}, 3, "context-compression", ["context-compression"], [{"id": 7}]):
        answer = ask(server, "route/plain", talk("Hello", 0), plugins=plugins)
        assert (answer.status, answer.header("x-dropped-params")) == (200, "plugins"), plugins


def test_a_million_things_that_are_no_plugins_take_no_room() -> None:
    body = b'{"model":"m","messages":[],"plugins":[%b1]}' % (b"1," * 1_000_000)
    request = parse_request(body)
    tracemalloc.start()
    try:
        assert by_plugin(request, 7) == (request, 7)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


WRONG = [
    ({"enabled": "yes"}, "plugins[1].enabled", "expected `bool | null`, got `str`"),
    ({"messages": 0}, "plugins[1].messages", "expected `int` >= 1"),
    ({"engine": "summary"}, "plugins[1].engine", "invalid enum value 'summary'"),
    ({"keep": 3}, "plugins[1]", "object contains unknown field `keep`"),
]


@pytest.mark.parametrize(("fields", "param", "message"), WRONG)
def test_a_plugin_that_is_not_understood_is_refused(
    server: Waypost, fields: dict[str, Any], param: str, message: str
) -> None:
    answer = ask(server, "route/plain", talk("Hello", 0), plugins=[{"id": "web"}, {**OURS, **fields}])
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
    assert answer.json["error"]["param"] == param
    assert answer.json["error"]["message"].startswith(f"{param}: {message}")


def test_a_header_that_is_not_understood_is_refused(server: Waypost) -> None:
    answer = ask(server, "route/fits", talk("Hello", 0), "x-waypost-history: middle")
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (400, "INVALID_REQUEST", "x-waypost-history")
    assert "fit or off" in answer.json["error"]["message"]


# What else knows of it


def test_the_answer_s_object_and_other_origins_are_told(server: Waypost) -> None:
    headers = ("x-waypost-metadata: enabled", "origin: https://app.example")
    answer = ask(server, "route/six", talk("Hello", 60), *headers)
    assert answer.json["waypost"]["history"] == {"dropped": 56, "messages": 62}
    assert "x-waypost-history" in str(answer.header("access-control-expose-headers"))
    stream = ask(server, "route/six", talk("Hello", 60), *headers, stream=True)
    assert stream.chunks[-1]["waypost"]["history"] == {"dropped": 56, "messages": 62}
    assert "history" not in ask(server, "route/six", talk("Hello", 2), *headers).json["waypost"]


def test_an_upstream_may_still_say_that_it_is_too_long(server: Waypost) -> None:
    answer = ask(server, "route/full", talk("Hello", 60))
    assert (answer.status, answer.code) == (400, "CONTEXT_LENGTH_EXCEEDED")
    assert str(answer.header("x-waypost-history")).endswith(" of 62 messages")
    huge = [{"role": "system", "content": WORDS * 50}, {"role": "user", "content": WORDS * 50}]
    answer = ask(server, "route/full", huge)
    assert (answer.status, answer.code, answer.header("x-waypost-history")) == (400, "CONTEXT_LENGTH_EXCEEDED", None)


def test_only_what_is_sent_is_reserved(server: Waypost) -> None:
    settings = load(server.folder / "waypost.toml")
    created = asyncio.run(administer(server.folder / "data", settings, CreateKey("few", "few")))
    assert isinstance(created, CreatedKey), created
    line = f"authorization: Bearer {created.key}"

    def asked(path: str, model: str) -> Answer:
        body = json.dumps({"model": model, "messages": talk("Hello", 60)}).encode()
        with server.connect() as client:
            client.send(post(path, body, line, "accept: application/json"))
            return client.answer()

    # 4096 for the answer, and 1104 are left: enough for what fits into the context, not for the whole conversation.
    assert asked("/v1/chat/completions", "route/plain").status == 429
    assert asked("/v1/chat/completions", "route/fits").status == 200
    whole, cut = asked("/v1/preflight", "route/plain").json, asked("/v1/preflight", "route/fits").json
    # A long body is estimated by samples, so that the whole is only about the sum of its messages.
    assert cut["estimated_input_tokens"] <= 1.02 * (1000 - OUTPUT) < 1104 < whole["estimated_input_tokens"]
    assert whole["messages_left_out"] == 0 < cut["messages_left_out"]


def test_preflight_names_the_plugin_as_obeyed(server: Waypost) -> None:
    def parameters(*plugins: Any) -> Any:
        body = json.dumps({"model": "route/plain", "messages": talk("Hello", 0), "plugins": plugins}).encode()
        with server.connect() as client:
            client.send(post("/v1/preflight", body, *server.credentials))
            return client.answer().json["parameters"]

    assert parameters(OURS) == {"changed": ["model"], "dropped": [], "obeyed_here": ["plugins"]}
    assert parameters(OURS, {"id": "web"}) == {"changed": ["model"], "dropped": ["plugins"], "obeyed_here": []}


def test_a_conversation_that_has_lost_its_beginning_stays_where_it_is(server: Waypost) -> None:
    mark, asked = fresh_nonce(), set()
    messages = talk(mark, 0)
    for number in range(16):
        answer = ask(server, "route/two", messages)
        asked.add(answer.header("x-provider"))
        messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": f"And {number}?"}]
    assert answer.header("x-waypost-history") == "dropped 28 of 32 messages"
    assert len(asked) == 1


def test_an_answer_from_the_cache_says_the_same(server: Waypost, simulator: Running) -> None:
    mark = fresh_nonce()
    answers = [ask(server, "route/six", talk(mark, 60), "x-waypost-cache: true") for _ in range(2)]
    assert [answer.header("x-waypost-cache-status") for answer in answers] == ["MISS", "HIT"]
    assert [answer.header("x-waypost-history") for answer in answers] == ["dropped 56 of 62 messages"] * 2
    other = ask(server, "route/six", talk(mark, 60), "x-waypost-cache: true", "x-waypost-history: off")
    assert (other.header("x-waypost-cache-status"), other.header("x-waypost-history")) == ("MISS", None)
    assert times_seen(simulator, mark) == 2

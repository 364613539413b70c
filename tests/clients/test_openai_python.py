"""The openai SDK, unchanged but for `base_url`: the samples of both pages, and what else its users rely on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.harness import Waypost
from waypost.sim.journal import Exchange

ROUTE = "route/deepseek-v3.2"
Arrived = Callable[[str], Exchange]


@pytest.fixture
def client(gateway: Waypost) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base, api_key=gateway.key, max_retries=0, timeout=30) as made:
        yield made


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


# The pages' samples


def test_quick_setup(client: openai.OpenAI, arrived: Arrived, mark: str) -> None:
    response = client.chat.completions.create(
        model=ROUTE,
        messages=[
            {"role": "system", "content": "You are a senior backend engineer."},
            {"role": "user", "content": f"Explain the token bucket algorithm. {mark}"},
        ],
        temperature=0.2,
    )
    text = response.choices[0].message.content
    assert text and f"{mark}" in text
    assert response.choices[0].finish_reason == "stop"
    assert response.object == "chat.completion"
    assert response.id.startswith("chatcmpl_") and len(response.id) == 35
    assert response.model == ROUTE
    extras = response.model_extra
    assert extras and extras["provider"] == "sim" and type(extras["latency_ms"]) is int and extras["latency_ms"] >= 0
    sent = arrived(mark)
    assert response.usage and response.usage.model_dump(exclude_none=True) == sent.usage
    assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.completion_tokens
    assert (sent.body["model"], sent.body["temperature"]) == ("deepseek-chat", 0.2)
    assert [message["role"] for message in sent.body["messages"]] == ["system", "user"]


def test_streaming_loop(client: openai.OpenAI, arrived: Arrived, mark: str) -> None:
    stream = client.chat.completions.create(
        model=ROUTE, messages=user(f"Write a haiku about routing. {mark}"), stream=True
    )
    text, last, names = "", None, set()
    for chunk in stream:
        content = chunk.choices[0].delta.content
        if content:
            text += content
        names.add((chunk.id, chunk.model))
        last = chunk
    assert f"{mark}" in text
    assert len(names) == 1 and next(iter(names))[1] == ROUTE
    assert last and last.choices[0].finish_reason == "stop"
    assert last.model_extra and last.model_extra["provider"] == "sim" and last.model_extra["latency_ms"] >= 0
    assert len(text) == arrived(mark).text_characters


def test_capital_of_france_by_a_bare_model_id(client: openai.OpenAI) -> None:
    response = client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "What is the capital of France?"}]
    )
    assert "Paris" in (response.choices[0].message.content or "")
    assert response.model == "gpt-4o-mini"


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def test_tools(client: openai.OpenAI, arrived: Arrived, mark: str) -> None:
    messages = user(f"What's the weather in Lisbon? {mark}")
    asked: Any = {"model": ROUTE, "messages": messages, "tools": [WEATHER], "tool_choice": "auto"}
    first = client.chat.completions.create(**asked).choices[0]
    assert first.finish_reason == "tool_calls" and first.message.tool_calls
    call: Any = first.message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Lisbon"}
    assert arrived(mark).body["tools"] == [WEATHER]
    messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'}]
    second = client.chat.completions.create(**asked).choices[0]
    assert second.finish_reason == "stop" and '{"sky": "clear"}' in (second.message.content or "")


def test_streamed_tool_calls_are_put_together(client: openai.OpenAI) -> None:
    messages = user("Weather in Tokyo and Paris, please")
    with client.chat.completions.stream(model=ROUTE, messages=messages, tools=[WEATHER]) as stream:
        message = stream.get_final_completion().choices[0].message
    asked = [json.loads(call.function.arguments)["city"] for call in message.tool_calls or []]
    assert asked == ["Tokyo", "Paris"]


class Event(BaseModel):
    name: str
    date: str
    participants: list[str]


def test_structured_output_by_parse(client: openai.OpenAI) -> None:
    messages = user("Alice and Bob go to a science fair on Friday.")
    parsed = client.chat.completions.parse(model=ROUTE, messages=messages, response_format=Event)
    assert isinstance(parsed.choices[0].message.parsed, Event)
    with client.chat.completions.stream(model=ROUTE, messages=messages, response_format=Event) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Event)


def test_json_object(client: openai.OpenAI) -> None:
    response = client.chat.completions.create(
        model=ROUTE, messages=user("Answer in JSON"), response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(response.choices[0].message.content or ""), dict)


def test_reasoning_effort(client: openai.OpenAI, arrived: Arrived, mark: str) -> None:
    response: Any = client.chat.completions.create(
        model=ROUTE, messages=user(f"Why is the sky blue? {mark}"), reasoning_effort="high"
    )
    assert response.choices[0].message.reasoning_content
    assert response.usage.completion_tokens_details.reasoning_tokens > 0
    assert arrived(mark).body["reasoning_effort"] == "high"


# Usage, headers, fields


def test_usage_chunk_only_when_asked(client: openai.OpenAI, arrived: Arrived, mark: str) -> None:
    asked: Any = {"model": ROUTE, "messages": user(f"Hello {mark}"), "stream": True}
    chunks = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].usage and chunks[-1].usage.model_dump(exclude_none=True) == arrived(mark).usage
    assert chunks[-1].model_extra and chunks[-1].model_extra["provider"] == "sim"
    asked["messages"] = user(f"{mark}-silent")
    silent = list(client.chat.completions.create(**asked))
    assert all(chunk.choices and chunk.usage is None for chunk in silent)
    sent = arrived(f"{mark}-silent")
    assert sent.body["stream_options"] == {"include_usage": True} and sent.usage, "the upstream is always asked"


def test_headers_of_an_answer(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=ROUTE, messages=user("Hello"))
    assert raw.headers["x-request-id"] == raw.parse().id == raw.request_id
    assert raw.headers["x-provider"] == "sim"
    assert "x-dropped-params" not in raw.headers and "x-error-code" not in raw.headers
    streamed = client.chat.completions.with_raw_response.create(model=ROUTE, messages=user("Hello"), stream=True)
    assert {chunk.id for chunk in streamed.parse()} == {streamed.headers["x-request-id"]}
    assert streamed.headers["content-type"].startswith("text/event-stream")


def test_unknown_fields_reach_the_upstream(client: openai.OpenAI, arrived: Arrived, mark: str) -> None:
    extra = {"top_k": 5, "thinking": {"type": "enabled"}, "nested": {"model": "x", "deep": [None, 1.50, "é\\n"]}}
    client.chat.completions.create(
        model=ROUTE, messages=user(f"{mark}"), seed=7, logit_bias={"5": -1}, extra_body=extra
    )
    body = arrived(mark).body
    assert {name: body[name] for name in extra} == extra
    assert (body["seed"], body["logit_bias"]) == (7, {"5": -1})


GATEWAY_ONLY = {
    "provider": {"order": ["sim"]},
    "models": ["gpt-4o-mini"],
    "session_id": "conversation-1",
    "plugins": [{"id": "web"}],
    "cache": True,
}


@pytest.mark.parametrize("stream", [False, True])
def test_gateway_only_fields_stay_here_and_are_listed(
    client: openai.OpenAI, arrived: Arrived, mark: str, stream: bool
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=ROUTE, messages=user(f"{mark}"), stream=stream, extra_body={**GATEWAY_ONLY, "top_k": 5}
    )
    raw.http_response.read()
    assert not GATEWAY_ONLY.keys() & arrived(mark).body.keys()
    assert arrived(mark).body["top_k"] == 5
    obeyed = {"provider", "models", "session_id"}
    assert set(raw.headers["x-dropped-params"].split(", ")) == GATEWAY_ONLY.keys() - obeyed


def test_null_in_a_gateway_only_field_asks_for_nothing(client: openai.OpenAI, arrived: Arrived, mark: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=ROUTE, messages=user(f"{mark}"), extra_body={"preset": None, "plugins": None}
    )
    assert "x-dropped-params" not in raw.headers
    assert not {"preset", "plugins"} & arrived(mark).body.keys()


# Presets


@pytest.mark.parametrize("stream", [False, True])
def test_a_preset_as_its_page_describes_it(
    client: openai.OpenAI, arrived: Arrived, mark: str, preset: str, stream: bool
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=f"@preset/{preset}", messages=user(mark), temperature=0.9, stream=stream
    )
    raw.http_response.read()
    body = arrived(mark).body
    assert body["messages"] == [{"role": "system", "content": "Answer as a pirate."}, *user(mark)]
    assert (body["model"], body["seed"], body["temperature"]) == ("gpt-4o-mini", 7, 0.9)
    assert b'"preset":"pirate"' in raw.http_response.content


# Errors


def test_the_sdk_sees_class_code_and_message(gateway: Waypost, client: openai.OpenAI) -> None:
    rows: list[tuple[str, type[openai.APIStatusError], int, str, str, str | None]] = [
        ("route/none", openai.BadRequestError, 400, "INVALID_MODEL", "route/none", "model"),
        ("route/secret", openai.PermissionDeniedError, 403, "MODEL_NOT_ALLOWED", "'free'", "model"),
        ("route/down", openai.InternalServerError, 502, "PROVIDER_ERROR", "HTTP 50", None),
        ("sim/429-retry-after-7", openai.RateLimitError, 429, "UPSTREAM_RATE_LIMITED", "429", None),
        ("sim/auth-401", openai.InternalServerError, 502, "PROVIDER_ERROR", "credentials", None),
        ("sim/context-length", openai.BadRequestError, 400, "CONTEXT_LENGTH_EXCEEDED", "context length", None),
        ("sim/sse-error-first", openai.InternalServerError, 502, "PROVIDER_ERROR", "", None),
    ]
    for model, kind, status, code, said, param in rows:
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                client.chat.completions.create(model=model, messages=user("x"), stream=stream)
            error: Any = caught.value
            assert (error.status_code, error.code) == (status, code), model
            assert said in str(error) and said in error.message, model
            assert param is None or error.param == param
            assert error.response.headers["x-error-code"] == code
            assert error.request_id and error.request_id.startswith("chatcmpl_")
            assert "upstream-secret" not in str(error)
    assert "retry-after" not in error.response.headers
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="sim/429-retry-after-7", messages=user("x"))
    assert limited.value.response.headers["retry-after"] == "7"


def test_timeouts_are_504(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="slow/hang", messages=user("x"), stream=stream)
        assert (caught.value.status_code, caught.value.code) == (504, "PROVIDER_TIMEOUT")


def test_an_error_in_mid_stream_is_raised_by_the_sdk(client: openai.OpenAI) -> None:
    for fault in ("sse-error-after-4", "cut-after-4", "eof-after-4", "reset-after-4"):
        seen: list[Any] = []
        stream = client.chat.completions.create(model=f"sim/{fault}+gap-5", messages=user("Hi"), stream=True)
        with pytest.raises(openai.APIError) as caught:
            seen.extend(stream)
        assert seen, f"{fault}: what had come was passed on"
        assert caught.value.code == "PROVIDER_ERROR" and caught.value.type == "api_error", fault


def test_bad_keys(gateway: Waypost) -> None:
    wrong = gateway.key[:-1] + ("0" if gateway.key[-1] != "0" else "1")
    for key in (wrong, "sk-something-else", "rk_" + "0" * 64):
        with openai.OpenAI(base_url=gateway.base, api_key=key, max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                client.chat.completions.create(model=ROUTE, messages=user("x"))
            assert caught.value.code == "AUTHENTICATION_ERROR"
            assert key not in str(caught.value)
            assert caught.value.response.headers["www-authenticate"] == "Bearer"


def test_bad_requests_name_the_field(client: openai.OpenAI) -> None:
    for fields, param in (
        ({"messages": "hello"}, "messages"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": "two"}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"model": 5}, "model"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=ROUTE, messages=user("x"), extra_body=fields)
        assert (caught.value.code, caught.value.param) == ("INVALID_REQUEST", param)
        assert param in str(caught.value)


# Models, credentials, concurrency


def test_models(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert ROUTE in listed and "gpt-4o-mini" in listed and "route/secret" not in listed
    model = client.models.retrieve(ROUTE)
    assert model == listed[ROUTE]
    assert (model.object, model.owned_by) == ("model", "sim")
    assert model.model_extra and model.model_extra["context_length"] == 128000
    prices = {"prompt": "0.00000028", "completion": "0.00000042", "input_cache_read": "0.000000028"}
    assert model.model_extra["pricing"].items() >= prices.items()
    assert model.model_extra["allowed"] is True
    secret = client.models.retrieve("route/secret")  # as a chat with it would say, too
    assert secret.model_extra is not None and secret.model_extra["allowed"] is False
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("route/none")
    assert caught.value.code == "NOT_FOUND"


def test_the_key_in_x_api_key(gateway: Waypost) -> None:
    headers: Any = {"Authorization": openai.Omit(), "X-API-Key": gateway.key}
    with openai.OpenAI(base_url=gateway.base, api_key="unused", max_retries=0) as client:
        answer = client.chat.completions.create(model=ROUTE, messages=user("Hello"), extra_headers=headers)
        assert answer.choices
        with pytest.raises(openai.AuthenticationError, match="different credentials"):
            client.chat.completions.create(
                model=ROUTE, messages=user("Hello"), extra_headers={"X-API-Key": gateway.key}
            )


def test_fifty_streams_at_once(gateway: Waypost, mark: str) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> tuple[str, str, set[str]]:
        question = f"{mark}-{number}"
        text, ids = "", set()
        async for chunk in await client.chat.completions.create(
            model=f"sim/demo+words-{20 + number}+gap-1", messages=user(question), stream=True
        ):
            text += chunk.choices[0].delta.content or ""
            ids.add(chunk.id)
        return question, text, ids

    async def all_of_them() -> list[tuple[str, str, set[str]]]:
        async with openai.AsyncOpenAI(base_url=gateway.base, api_key=gateway.key, max_retries=0, timeout=60) as client:
            return await asyncio.gather(*(one(client, number) for number in range(50)))

    answers = asyncio.run(all_of_them())
    for number, (question, text, ids) in enumerate(answers):
        assert question in text and text.count("nonce:") == 1
        assert len(text.split()) == 20 + number
        assert len(ids) == 1
    assert len(set.union(*(ids for _, _, ids in answers))) == 50


def test_the_async_client_whole_answers(gateway: Waypost) -> None:
    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=gateway.base, api_key=gateway.key, max_retries=0) as client:
            answer = await client.chat.completions.create(model=ROUTE, messages=user("What is the capital of France?"))
            return answer.choices[0].message.content or ""

    assert "Paris" in asyncio.run(run())

"""The simulator through the openai SDK: what a user of any OpenAI-format provider would do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.sim.running import Running

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather at a place",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}


@pytest.fixture
def client(sim: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=sim.base, api_key="any", max_retries=0, timeout=20) as made:
        yield made


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_text_and_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="sim/demo", messages=user("What is the capital of France?"))
    text = answer.choices[0].message.content
    assert text
    assert text.startswith("The capital of France is Paris.")
    assert "simulator" in text
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (8, -(-len(text) // 4))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="demo+words-12+gap-1",
            messages=user("Tell me a story"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert len(text.split()) == 12
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == -(-len(text) // 4)
    assert len({chunk.id for chunk in chunks}) == 1


def test_tools_round_trip(client: openai.OpenAI) -> None:
    messages = user("What's the weather in Tokyo?")
    first = client.chat.completions.create(model="demo", messages=messages, tools=[WEATHER]).choices[0]
    assert (first.finish_reason, first.message.content) == ("tool_calls", None)
    assert first.message.tool_calls
    call: Any = first.message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"location": "Tokyo", "unit": "celsius"}
    messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": '{"sky":"clear"}'}]
    second = client.chat.completions.create(model="demo", messages=messages, tools=[WEATHER]).choices[0]
    assert second.finish_reason == "stop"
    assert '{"sky":"clear"}' in (second.message.content or "")


def test_streamed_parallel_tools_put_together_by_the_sdk(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="demo", messages=user("Weather in Tokyo and Paris, please"), tools=[WEATHER]
    ) as stream:
        fragments = [e for e in stream if e.type == "tool_calls.function.arguments.delta"]
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls
    asked = [json.loads(call.function.arguments)["location"] for call in message.tool_calls]
    assert asked == ["Tokyo", "Paris"]
    assert len({call.id for call in message.tool_calls}) == 2
    assert len(fragments) > 4


def test_one_call_when_parallel_is_off(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=user("Weather in Tokyo and Paris"), tools=[WEATHER], parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or []) == 1


class Step(BaseModel):
    title: str = Field(min_length=3, max_length=8)
    minutes: int = Field(ge=5, lt=20)
    kind: Literal["boil", "bake"]


class Recipe(BaseModel):
    name: str
    steps: list[Step] = Field(min_length=2)
    rating: float | None
    similar: list[Recipe]


def test_json_schema_by_parse(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(model="demo", messages=user("A cake, please"), response_format=Recipe)
    recipe = parsed.choices[0].message.parsed
    assert isinstance(recipe, Recipe)
    assert len(recipe.steps) == 2
    with client.chat.completions.stream(model="demo", messages=user("Cake"), response_format=Recipe) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Recipe)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model="demo", messages=user("A cake"), response_format=Recipe, max_completion_tokens=5
        )


def test_json_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=user("Give me JSON nonce:j1"), response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content or "") == {"answer": "nonce:j1"}


def test_reasoning(client: openai.OpenAI) -> None:
    answer: Any = client.chat.completions.create(model="demo", messages=user("Why?"), reasoning_effort="high")
    assert "simulator" in answer.choices[0].message.reasoning_content
    details = answer.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens
    deltas: list[Any] = [
        chunk.choices[0].delta
        for chunk in client.chat.completions.create(model="demo-thinking", messages=user("Why?"), stream=True)
    ]
    kinds = ["r" if getattr(d, "reasoning_content", None) else "c" if d.content else "" for d in deltas]
    assert "".join(kinds) == "r" * kinds.count("r") + "c" * kinds.count("c")
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == (
        answer.choices[0].message.reasoning_content
    )
    plain: Any = client.chat.completions.create(model="demo", messages=user("Why?"), reasoning_effort="minimal")
    assert not hasattr(plain.choices[0].message, "reasoning_content")


def test_choices_limits_and_stops(client: openai.OpenAI) -> None:
    several = client.chat.completions.create(model="demo", messages=user("Why?"), n=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(model="demo", messages=user("Why?"), n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in several.choices]
    cut = client.chat.completions.create(model="demo", messages=user("Why?"), max_tokens=3)
    assert (cut.choices[0].finish_reason, cut.usage and cut.usage.completion_tokens) == ("length", 3)
    stopped = client.chat.completions.create(model="demo", messages=user("capital of France"), stop=[" Paris"])
    assert (stopped.choices[0].finish_reason, stopped.choices[0].message.content) == (
        "stop",
        "The capital of France is",
    )


def test_errors_as_the_sdk_sees_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="sim/429-retry-after-2", messages=user("x"))
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "2")
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="sim/auth-401", messages=user("x"))
    with pytest.raises(openai.APIError, match="had an error while processing"):
        list(client.chat.completions.create(model="sim/sse-error-after-2", messages=user("x"), stream=True))
    assert "demo" in [model.id for model in client.models.list()]

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.sim.answers import Answer, Question, Tool, decide, places, tokens
from waypost.sim.options import Behaviour

PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("get_weather", "Weather in a city", PLACE)
CLOCK = Tool("get_time", "Local time in a city", PLACE)


def ask(asked: str, behaviour: Behaviour | None = None, **fields: Any) -> Answer:
    question = Question(model="demo", asked=asked, prompt=fields.pop("prompt", asked), **fields)
    return decide(question, behaviour or Behaviour())


def say(asked: str, behaviour: Behaviour | None = None, **fields: Any) -> str:
    return ask(asked, behaviour, **fields).choices[0].text


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("Stream a short design for a rate limiter.", "A token bucket per key"),
        ("List concrete issues in this diff: …", "I read the diff as a reviewer would."),
        ("What's the weather like?", "I cannot see the sky from here"),
        ("Reply with exactly: OK", "OK"),
        ("Is tea better than coffee?", "“Is tea better than coffee”"),
        ("", "nothing in particular"),
    ],
)
def test_answers_fit_the_question(asked: str, said: str) -> None:
    text = say(asked)
    assert said in text
    assert "simulator" in text or text == "OK"


@given(st.text(max_size=200), st.integers(0, 999))
def test_same_question_same_answer_whatever_the_options(asked: str, number: int) -> None:
    mark = f"nonce:n{number}"
    text = say(f"{asked} {mark}")
    assert text == say(f"{asked} {mark}", Behaviour(gap_ms=3, crlf=True, split=1))
    assert text.count(mark) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_results": ("sunny nonce:a-1",)},
        {"schema": {}},
        {"schema": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}},
        {"reasoning": True},
    ],
)
def test_the_nonce_comes_back_once_in_every_kind_of_text(fields: dict[str, Any]) -> None:
    assert say("What of nonce:a-1 and nonce:a-1 again?", **fields).count("nonce:a-1") == 1


def test_different_questions_differ_and_words_are_counted() -> None:
    assert say("one") != say("two")
    assert say("one", Behaviour(words=3)).split() == say("one").split()[:3]
    assert len(say("one", Behaviour(words=5000)).split()) == 5000
    assert say("a  b\n", Behaviour(echo=True)) == "a  b\n"
    assert {len(char.encode()) for char in say("one", Behaviour(unicode=True))} == {1, 2, 3, 4}


def test_places() -> None:
    assert places("weather in Tokyo and Paris?") == ["Tokyo", "Paris"]
    assert places("time in New York, São Paulo and in Rome") == ["New York", "São Paulo", "Rome"]
    assert places("rain in paris, tomorrow") == ["paris"]
    assert places("How are you?") == []


def calls(asked: str, **fields: Any) -> list[tuple[str, str]]:
    answer = ask(asked, tools=(CLOCK, WEATHER), **fields)
    return [(call.name, call.arguments) for call in answer.choices[0].tool_calls]


def test_which_tool_is_called() -> None:
    assert calls("What's the weather in Tokyo?") == [("get_weather", '{"city":"Tokyo"}')]
    assert calls("Anything") == [("get_time", '{"city":"Paris"}')]
    assert calls("Weather in Tokyo?", tool_choice=":get_time") == [("get_time", '{"city":"Tokyo"}')]
    assert calls("Weather in Tokyo?", tool_choice="none") == []
    assert len(calls("Weather in Oslo, Rome and Bern")) == 3
    assert len(calls("Weather, in parallel please")) == 2
    assert len(calls("Weather in Oslo and Rome", parallel=False)) == 1


def test_after_tool_results_comes_text_unless_another_call_is_required() -> None:
    told = {"tool_results": ("21 degrees",), "called": frozenset({"get_weather"})}
    assert calls("Weather in Tokyo?", **told) == []
    assert calls("Weather in Tokyo?", **told, tool_choice="required") == [("get_time", '{"city":"Tokyo"}')]
    assert "21 degrees" in say("Weather in Tokyo?", tools=(WEATHER,), **told, tool_choice="required")


def test_finish_reasons_and_budgets() -> None:
    whole = ask("Why?", reasoning=True)
    choice = whole.choices[0]
    assert choice.finish_reason == "stop"
    exact = whole.usage.completion
    assert ask("Why?", reasoning=True, max_tokens=exact) == whole
    starved = ask("Why?", reasoning=True, max_tokens=2)
    assert (starved.choices[0].text, starved.choices[0].finish_reason) == ("", "length")
    assert starved.usage.completion == starved.usage.reasoning == 2
    short = ask("Why?", reasoning=True, max_tokens=exact - 1)
    assert choice.text.startswith(short.choices[0].text)
    assert (short.choices[0].finish_reason, short.usage.completion) == ("length", exact - 1)
    assert ask("Why?", Behaviour(content_filter=True)).choices[0].finish_reason == "content_filter"
    cut_call = ask("Weather", tools=(WEATHER,), max_tokens=1).choices[0]
    assert (cut_call.finish_reason, cut_call.tool_calls[0].arguments) == ("length", '{"ci')


def test_usage() -> None:
    answer = ask("x", prompt="p" * 4097, n=2)
    assert answer.usage.prompt == 1025
    assert answer.usage.cached == 1024
    assert answer.usage.completion == sum(tokens(choice.text) for choice in answer.choices)
    assert ask("x", Behaviour(cached=64), prompt="p" * 400).usage.cached == 64
    assert ask("x", Behaviour(cached=64), prompt="p" * 40).usage.cached == 10
    assert ask("x").usage.cached == 0

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from waypost.sim import openai_format
from waypost.sim.answers import Answer, Choice, Question, ToolCall, Usage, decide
from waypost.sim.options import Behaviour
from waypost.sim.script import Refusal
from waypost.sim.target import Target

HEAD = (
    'data: {"id":"chatcmpl-x1","object":"chat.completion.chunk","created":7,"model":"m","service_tier":"default",'
    '"system_fingerprint":"fp_waypost_sim","choices":['
)
NULL = '"logprobs":null,"finish_reason":null}'


def parse(**body: Any) -> Question:
    return openai_format.parse_question(json.dumps({"model": "m", "messages": [], **body}).encode(), Target())


def stream(question: Question, answer: Answer, behaviour: Behaviour | None = None) -> list[str]:
    events = openai_format.render_events(question, answer, behaviour or Behaviour(), "x1", 7)
    return [event.data.decode() for event in events]


def test_transcript_of_a_stream() -> None:
    answer = Answer(1, (Choice("Hé you", "", (), "stop"),), Usage(3, 0, 2, 0))
    usage = msgspec.json.encode(openai_format.render_usage(answer)).decode()
    assert stream(Question("m", "", "", include_usage=True), answer) == [
        HEAD + '{"index":0,"delta":{"role":"assistant","content":"","refusal":null},' + NULL + '],"usage":null}\n\n',
        HEAD + '{"index":0,"delta":{"content":"Hé"},' + NULL + '],"usage":null}\n\n',
        HEAD + '{"index":0,"delta":{"content":" you"},' + NULL + '],"usage":null}\n\n',
        HEAD + '{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n',
        HEAD + '],"usage":' + usage + "}\n\n",
        "data: [DONE]\n\n",
    ]


def test_transcript_of_a_streamed_call() -> None:
    call = ToolCall("call_1", "f", '{"city":"Tokyo"}')
    answer = Answer(1, (Choice("", "", (call,), "tool_calls"),), Usage(3, 0, 4, 0))
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in stream(Question("m", "", ""), answer)[:-1]]
    assert deltas == [
        {"role": "assistant", "content": None},
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Tok'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'yo"}'}}]},
        {},
    ]


@pytest.mark.parametrize("text", ["", " leading", "two  spaces ", "\nlines\n\nand tabs\t", "{ not json", "日本 語"])
def test_pieces_join_to_the_text(text: str) -> None:
    question = Question("m", text, text)
    events = openai_format.render_events(question, decide(question, Behaviour(echo=True)), Behaviour(), "x", 7)
    assert "".join(event.text for event in events) == text
    sent = [json.loads(event.data[6:])["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content", "") for delta in sent) == text


def test_questions() -> None:
    plain = parse(messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])
    assert (plain.asked, plain.prompt, plain.stream, plain.tools, plain.schema) == (
        "Hi",
        "Be kind.\nHi",
        False,
        (),
        None,
    )
    parts = [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    assert parse(messages=[{"role": "user", "content": parts}]).asked == "See"
    assert parse(max_tokens=5, max_completion_tokens=6).max_tokens == 6
    assert parse(max_tokens=5).max_tokens == 5
    assert (parse(stop="a").stop, parse(stop=["a", "b"]).stop) == (("a",), ("a", "b"))
    assert parse(stream=True, stream_options={"include_usage": True}).include_usage
    assert parse(response_format={"type": "json_object"}).schema == {}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    assert parse(response_format=wanted).schema == {"type": "object"}


def test_tool_turns() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    question = parse(messages=messages, tools=tools, tool_choice={"type": "function", "function": {"name": "f"}})
    assert (question.asked, question.tool_results, question.called) == ("Go", ("done",), frozenset({"f"}))
    assert question.tool_choice == ":f"
    later = parse(messages=[*messages, {"role": "user", "content": "Again"}], tools=tools)
    assert (later.asked, later.tool_results) == ("Again", ())


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, False),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, False),
        ({"reasoning": {}}, True),
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"effort": "none"}}, False),
    ],
)
def test_when_reasoning_is_wanted(fields: dict[str, Any], wanted: bool) -> None:
    assert parse(**fields).reasoning is wanted


def test_errors() -> None:
    refusal = Refusal(400, "No.", "invalid_request_error", "bad", "model")
    body = {"error": {"message": "No.", "type": "invalid_request_error", "param": "model", "code": "bad"}}
    assert json.loads(openai_format.render_error(refusal)) == body
    assert openai_format.render_error_event(refusal).data.startswith(b'data: {"error":{')

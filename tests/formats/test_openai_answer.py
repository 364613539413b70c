"""Completions and events, rendered: the OpenAI SDK reads from a stream what it reads from the whole answer."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.formats.recordings import chats, play
from waypost.chat import CLAUDE, ReasoningDetail
from waypost.completion import (
    AnyEvent,
    ArgumentsDelta,
    Cited,
    ExtraContent,
    Finish,
    ImageMade,
    ReasoningDelta,
    ReasoningDone,
    RefusalDelta,
    TextDelta,
    ToolCallStart,
    UrlCitation,
    UsageReport,
    fold,
)
from waypost.formats.anthropic_messages import stream_parser
from waypost.formats.format import Reading
from waypost.formats.openai_answer import Stamp, StreamRenderer, render_completion, render_usage
from waypost.records import Usage

STAMP = Stamp(msgspec.Raw(b'"chatcmpl_1"'), msgspec.Raw(b'"route/a"'), msgspec.Raw(b'"sim"'), 1700000000)
USAGE = Usage(fresh=5, cache_read=3, cache_write_5m=2, output=7, reasoning=4)
EVERYTHING: list[AnyEvent] = [
    ReasoningDelta("Hm"),
    ReasoningDone(ReasoningDetail("reasoning.text", text="Hm", signature="s", format=CLAUDE, index=0)),
    ReasoningDone(ReasoningDetail("reasoning.encrypted", data="x", format=CLAUDE, index=1)),
    TextDelta("Grüße, "),
    TextDelta('"you"\n'),
    Cited(UrlCitation("https://a.example/", 0, 3, "A")),
    Cited(UrlCitation("https://b.example/", 3, 5, "B")),
    ToolCallStart(0, "call_0", "f"),
    ArgumentsDelta(0, '{"a":'),
    ArgumentsDelta(0, "1}"),
    ToolCallStart(1, "call_1", "g", extra={"google": msgspec.Raw(b'{"thought_signature":"s"}')}),
    ArgumentsDelta(1, "{}"),
    ImageMade("data:image/png;base64,AAAA"),
    RefusalDelta("No."),
    ExtraContent({"anthropic": msgspec.Raw(b'{"content":[]}')}),
    UsageReport(USAGE, msgspec.Raw(b"{}")),
    Finish("tool_calls", "tool_use"),
]


def streamed(events: list[AnyEvent], include_usage: bool = False, show_reasoning: bool = True) -> list[Any]:
    """The data of every event that a caller sees."""
    renderer = StreamRenderer(STAMP, include_usage, show_reasoning)
    wire = b"".join(renderer.feed([event]) for event in events)
    assert wire == StreamRenderer(STAMP, include_usage, show_reasoning).feed(events)
    wire += renderer.end(42)
    frames = wire.decode().split("\n\n")
    assert frames.pop() == "" and frames.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def whole(events: list[AnyEvent], show_reasoning: bool = True) -> Any:
    return json.loads(render_completion(fold(events), STAMP, 42, show_reasoning))


def added_up(chunks: list[Any]) -> Any:
    """What OpenAI's own SDK makes of the chunks."""
    state: Any = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    return state.get_final_completion().model_dump(exclude_unset=True)


def test_a_whole_answer() -> None:
    answer = whole(EVERYTHING)
    ChatCompletion.model_validate(answer)
    assert {name: answer[name] for name in ("id", "object", "created", "model", "provider", "latency_ms")} == {
        "id": "chatcmpl_1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "route/a",
        "provider": "sim",
        "latency_ms": 42,
    }
    [choice] = answer["choices"]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("tool_calls", "tool_use")
    message = choice["message"]
    assert message["content"] == 'Grüße, "you"\n' and message["reasoning_content"] == "Hm"
    assert [detail["format"] for detail in message["reasoning_details"]] == [CLAUDE, CLAUDE]
    calls = [(call["type"], call["id"], call["function"]) for call in message["tool_calls"]]
    assert calls == [
        ("function", "call_0", {"name": "f", "arguments": '{"a":1}'}),
        ("function", "call_1", {"name": "g", "arguments": "{}"}),
    ]
    assert message["tool_calls"][1]["extra_content"] == {"google": {"thought_signature": "s"}}
    assert message["annotations"][0]["url_citation"]["url"] == "https://a.example/"
    assert message["images"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    assert (message["refusal"], message["extra_content"]) == ("No.", {"anthropic": {"content": []}})


def test_the_sdk_reads_the_same_from_a_stream() -> None:
    ours = whole(EVERYTHING)["choices"][0]["message"]
    theirs = added_up(streamed(EVERYTHING))["choices"][0]["message"]
    for name in ("role", "content", "refusal", "reasoning_content", "reasoning_details", "extra_content"):
        assert theirs[name] == ours[name], name
    for name in ("annotations", "images"):
        assert theirs[name] == [{**entry, "index": place} for place, entry in enumerate(ours[name])]
    for mine, other in zip(ours["tool_calls"], theirs["tool_calls"], strict=True):
        assert (other["id"], other["function"]["name"]) == (mine["id"], mine["function"]["name"])
        assert other["function"]["arguments"] == mine["function"]["arguments"]


def test_the_order_of_a_stream() -> None:
    chunks = streamed([TextDelta("a"), UsageReport(USAGE, msgspec.Raw(b"{}")), Finish("stop")])
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "a"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert all("usage" not in chunk for chunk in chunks)
    assert {(chunk["id"], chunk["model"], chunk["created"], chunk["object"]) for chunk in chunks} == {
        ("chatcmpl_1", "route/a", 1700000000, "chat.completion.chunk")
    }
    assert [chunk for chunk in chunks if "latency_ms" in chunk] == chunks[-1:] and chunks[-1]["provider"] == "sim"


def test_usage_comes_last_where_it_was_asked_for() -> None:
    events = [TextDelta("a"), UsageReport(USAGE, msgspec.Raw(b"{}")), Finish("stop")]
    chunks = streamed(events, include_usage=True)
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 3
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], render_usage(USAGE))
    assert chunks[-1]["latency_ms"] == 42 and "latency_ms" not in chunks[-2]


def test_usage_adds_up() -> None:
    said = render_usage(USAGE)
    assert (said["prompt_tokens"], said["completion_tokens"], said["total_tokens"]) == (10, 11, 21)
    assert said["prompt_tokens_details"]["cached_tokens"] == 3
    assert said["prompt_tokens_details"]["cache_write_tokens"] == 2
    assert said["completion_tokens_details"]["reasoning_tokens"] == 4


def test_an_answer_of_nothing() -> None:
    assert [chunk["choices"][0]["delta"] for chunk in streamed([Finish("stop")])] == [
        {"role": "assistant", "content": ""},
        {},
    ]
    assert whole([Finish("length")])["choices"][0]["message"]["content"] is None


def test_reasoning_that_is_not_to_be_shown() -> None:
    message = whole(EVERYTHING, show_reasoning=False)["choices"][0]["message"]
    assert "reasoning_content" not in message and [one["type"] for one in message["reasoning_details"]] == [
        "reasoning.encrypted"
    ]
    assert "Hm" not in json.dumps(streamed(EVERYTHING, show_reasoning=False))


def test_logprobs_stand_beside_the_delta() -> None:
    said = msgspec.Raw(b'{"content":[{"token":"a","logprob":-1}]}')
    events = [TextDelta("a", logprobs=said), TextDelta("a", logprobs=said), Finish("stop")]
    chunks = streamed(events)
    assert [chunk["choices"][0].get("logprobs") for chunk in chunks[1:3]] == [json.loads(bytes(said))] * 2
    assert len(whole(events)["choices"][0]["logprobs"]["content"]) == 2


def test_several_choices_keep_apart() -> None:
    events = [TextDelta("a", 0), TextDelta("b", 1), TextDelta("c", 0), Finish("stop", "", 1), Finish("tool_calls")]
    contents = [(one["message"]["content"], one["finish_reason"]) for one in whole(events)["choices"]]
    assert contents == [("ac", "tool_calls"), ("b", "stop")]
    finished = added_up(streamed(events))["choices"]
    assert [(one["message"]["content"], one["finish_reason"]) for one in finished] == contents


@given(st.lists(st.text(), max_size=5))
def test_any_text_survives(texts: list[str]) -> None:
    events: list[AnyEvent] = [*map(TextDelta, texts), Finish("stop")]
    said = [chunk["choices"][0]["delta"].get("content", "") for chunk in streamed(events)]
    assert "".join(said) == "".join(texts)


def test_recorded_streams_through_the_sdk() -> None:
    for exchange in chats("anthropic", stream=True):
        events = play(stream_parser(Reading()), [exchange.body])
        ours = whole(events)["choices"][0]
        theirs = added_up(streamed(events))["choices"][0]
        assert theirs["message"]["content"] == (ours["message"]["content"] or ""), exchange.where
        assert theirs["message"].get("reasoning_details") == ours["message"].get("reasoning_details"), exchange.where
        assert theirs["finish_reason"] == ours["finish_reason"]

"""Anthropic's answers: what was recorded means the same in the vocabulary, whole, streamed, and at every split."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.recordings import Recorded, chats, play
from waypost.chat import CLAUDE
from waypost.completion import BadAnswer, Choice, Completion, Failed, TextDelta, fold
from waypost.formats.anthropic_messages import parse_response, stream_parser
from waypost.formats.format import Reading
from waypost.records import Usage

FINISH = {"end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length"}
PLAIN = Reading()


def check_meaning(choice: Choice, content: list[dict[str, Any]], stop_reason: str) -> None:
    """Does a choice say what the blocks say? Written against the wire, without our reader."""
    assert (choice.text or "") == "".join(block["text"] for block in content if block["type"] == "text")
    calls = [(block["id"], block["name"], block["input"]) for block in content if block["type"] == "tool_use"]
    assert [(call.id, call.function.name, json.loads(call.function.arguments)) for call in choice.tool_calls] == calls
    thoughts = [block for block in content if block["type"] in ("thinking", "redacted_thinking")]
    assert [(one.text, one.signature, one.data, one.format, one.index) for one in choice.reasoning_details] == [
        (block.get("thinking"), block.get("signature"), block.get("data"), CLAUDE, place)
        for place, block in enumerate(thoughts)
    ]
    shown = [block["thinking"] for block in thoughts if block.get("thinking")]
    assert choice.reasoning == "\n\n".join(shown)
    assert choice.finish_reason == FINISH[stop_reason] and choice.native_finish_reason == stop_reason
    kinds = {block["type"] for block in content}
    if not kinds <= {"text", "thinking", "redacted_thinking", "tool_use"}:
        assert json.loads(bytes(choice.extra["anthropic"]))["content"] == content


def check_usage(usage: Usage | None, said: dict[str, Any]) -> None:
    """The counters are disjoint, and add up to what Anthropic says."""
    assert usage is not None
    assert usage.fresh == said["input_tokens"]
    assert usage.cache_read == said.get("cache_read_input_tokens", 0)
    assert usage.cache_write_5m + usage.cache_write_1h == said.get("cache_creation_input_tokens", 0)
    assert usage.completion == said["output_tokens"]
    assert usage.reasoning == said.get("output_tokens_details", {}).get("thinking_tokens", 0)


def test_whole_answers() -> None:
    for exchange in chats("anthropic", stream=False):
        said = json.loads(exchange.body)
        completion = parse_response(exchange.body, PLAIN)
        [choice] = completion.choices
        try:
            check_meaning(choice, said["content"], said["stop_reason"])
            check_usage(completion.usage, said["usage"])
        except AssertionError as error:
            raise AssertionError(exchange.where) from error
        assert (completion.id, completion.model) == (said["id"], said["model"])
        assert completion.raw_usage is not None and json.loads(bytes(completion.raw_usage)) == said["usage"]


def added_up(exchange: Recorded) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recorded stream → the message that its events add up to, and its usage as the last event has it."""
    message: dict[str, Any] = {}
    for line in exchange.body.decode().splitlines():
        if not line.startswith("data:"):
            continue
        event = json.loads(line[5:])
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
            case "content_block_delta":
                add_delta(message["content"][event["index"]], event["delta"])
            case "message_delta":
                message.update(event["delta"])
                message["usage"] = {**message["usage"], **event["usage"]}
    for block in message["content"]:
        if "partial" in block:
            block["input"] = json.loads(block.pop("partial") or "{}")
    return message, message["usage"]


def add_delta(block: dict[str, Any], delta: dict[str, Any]) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] += delta["signature"]
        case "input_json_delta":
            block["partial"] = block.get("partial", "") + delta["partial_json"]
        case "citations_delta":
            block.setdefault("citations", []).append(delta["citation"])
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64, 1000])
def test_streams_at_every_split(size: int) -> None:
    for exchange in chats("anthropic", stream=True):
        data = exchange.body
        pieces = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
        parser = stream_parser(PLAIN)
        events = play(parser, pieces)
        assert events == play(stream_parser(PLAIN), [data]), exchange.where
        message, usage = added_up(exchange)
        completion = fold(events)
        try:
            check_meaning(completion.choices[0], message["content"], message["stop_reason"])
            check_usage(completion.usage, usage)
        except AssertionError as error:
            raise AssertionError(exchange.where) from error
        assert parser.done and (parser.id, parser.model) == (message["id"], message["model"])


def comparable(completion: Completion) -> dict[str, Any]:
    """Raw JSON decoded, so that its spelling does not matter; ids and usage apart."""
    [choice] = completion.choices
    told = msgspec.to_builtins(msgspec.structs.replace(choice, extra={}))
    told["tool_calls"] = [
        (call.id, call.function.name, json.loads(call.function.arguments)) for call in choice.tool_calls
    ]
    told["extra"] = {name: json.loads(bytes(raw)) for name, raw in choice.extra.items()}
    return told


def test_a_stream_folded_is_the_whole_answer() -> None:
    for exchange in chats("anthropic", stream=True):
        message, _ = added_up(exchange)
        whole = parse_response(json.dumps(message).encode(), PLAIN)
        streamed = fold(play(stream_parser(PLAIN), [exchange.body]))
        assert comparable(streamed) == comparable(whole), exchange.where


# What is not in the recordings


def whole(*content: dict[str, Any], reason: str = "end_turn", **more: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "model": "claude", "content": content, "stop_reason": reason}
    return json.dumps({"usage": {"input_tokens": 1, "output_tokens": 1}, **message, **more}).encode()


def stream(*content: dict[str, Any], reason: str = "end_turn", cut: int = 3) -> bytes:
    """The same message as a stream, its strings in pieces of `cut` characters."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "msg_1", "model": "claude", "usage": {"input_tokens": 1}}}
    ]
    for index, block in enumerate(content):
        name = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}.get(block["type"])
        start = {**block, "input": {}} if "input" in block else {**block, **({name: ""} if name else {})}
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        said = json.dumps(block["input"]) if "input" in block else block.get(name or "", "")
        kind = {"partial_json": "input_json_delta"}.get(name or "", f"{name}_delta")
        for at in range(0, len(said), cut):
            delta = {"type": kind, name: said[at : at + cut]}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
        events.append({"type": "content_block_stop", "index": index})
    usage = {"input_tokens": 1, "output_tokens": 1}
    events.append({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage})
    events.append({"type": "message_stop"})
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in events)


blocks = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text()),
    st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "s"}, st.text()),
    st.builds(lambda data: {"type": "redacted_thinking", "data": data}, st.text(min_size=1)),
    st.builds(
        lambda id, value: {"type": "tool_use", "id": f"toolu_{id}", "name": "f", "input": value},
        st.integers(0, 9),
        st.dictionaries(st.text(), st.text() | st.integers(-5, 5) | st.none(), max_size=3),
    ),
    st.builds(lambda text: {"type": "web_search_tool_result", "content": text}, st.text()),
)


@given(st.lists(blocks, max_size=5), st.sampled_from(["end_turn", "max_tokens", "tool_use", "refusal"]), st.data())
def test_any_message_streams_to_the_same(content: list[dict[str, Any]], reason: str, data: st.DataObject) -> None:
    wire = stream(*content, reason=reason)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    streamed = fold(play(stream_parser(PLAIN), pieces))
    assert comparable(streamed) == comparable(parse_response(whole(*content, reason=reason), PLAIN))


def test_a_schema_by_tool_is_text() -> None:
    reading = Reading(schema_tool="structured_answer")
    call = {"type": "tool_use", "id": "toolu_1", "name": "structured_answer", "input": {"city": "Köln"}}
    preamble = {"type": "text", "text": "Here it is:"}
    for completion in (
        parse_response(whole(preamble, call, reason="tool_use"), reading),
        fold(play(stream_parser(reading), [stream(preamble, call, reason="tool_use")])),
    ):
        [choice] = completion.choices
        assert json.loads(choice.text or "") == {"city": "Köln"}
        assert (choice.finish_reason, choice.tool_calls, choice.extra) == ("stop", (), {})


def test_words_where_a_schema_was_asked_for_are_not_lost() -> None:
    reading = Reading(schema_tool="structured_answer")
    refused = {"type": "text", "text": "I'd rather not."}
    assert parse_response(whole(refused), reading).choices[0].text == "I'd rather not."
    assert fold(play(stream_parser(reading), [stream(refused)])).choices[0].text == "I'd rather not."


@pytest.mark.parametrize("text", ['```json\n{"a": 1}\n```', '{"a": 1}', '\n ```\n{"a": 1}\n```\n', '```json\n{"a": 1}'])
def test_fences_around_json_go(text: str) -> None:
    reading = Reading(strip_fences=True)
    block = {"type": "text", "text": text}
    for cut in (1, 2, 5, 100):
        streamed = fold(play(stream_parser(reading), [stream(block, cut=cut)])).choices[0].text
        assert json.loads(streamed or "") == {"a": 1} and "`" not in (streamed or "")
    assert json.loads(parse_response(whole(block), reading).choices[0].text or "") == {"a": 1}


def test_fences_inside_of_json_stay() -> None:
    reading = Reading(strip_fences=True)
    said = {"md": "```py\nx\n```"}
    for text in (json.dumps(said), f"```json\n{json.dumps(said)}\n```"):
        block = {"type": "text", "text": text}
        for cut in (1, 3, 100):
            completion = fold(play(stream_parser(reading), [stream(block, cut=cut)]))
            assert json.loads(completion.choices[0].text or "") == said


def test_names_come_back_as_the_caller_knows_them() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
    reading = Reading(names={"get_weather": "get.weather"})
    [made] = parse_response(whole(call, reason="tool_use"), reading).choices[0].tool_calls
    assert (made.function.name, made.function.arguments) == ("get.weather", "{}")


def test_a_refusal() -> None:
    body = whole({"type": "text", "text": "Half"}, reason="refusal", stop_details={"explanation": "Policy."})
    [choice] = parse_response(body, PLAIN).choices
    assert (choice.finish_reason, choice.refusal, choice.text) == ("content_filter", "Policy.", "Half")


def test_citations_say_where() -> None:
    page = {"type": "web_search_result_location", "url": "https://a.example/", "title": "A", "cited_text": "said"}
    body = whole({"type": "text", "text": "So: "}, {"type": "text", "text": "it is.", "citations": [page]})
    [choice] = parse_response(body, PLAIN).choices
    [citation] = choice.annotations
    assert (choice.text or "")[citation.start_index : citation.end_index] == "it is."
    assert (citation.url, citation.title, citation.content) == ("https://a.example/", "A", "said")


LONG = {"ephemeral_1h_input_tokens": 3, "ephemeral_5m_input_tokens": 4}
READ, WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"


@pytest.mark.parametrize(
    ("start", "delta", "expected"),
    [
        ({"input_tokens": 9, "output_tokens": 1}, {"output_tokens": 5}, Usage(fresh=9, output=5)),
        ({"input_tokens": 9}, {"input_tokens": 12, "output_tokens": 5}, Usage(fresh=12, output=5)),
        ({"input_tokens": 9, READ: 4}, {"input_tokens": 0, READ: 0}, Usage(fresh=9, cache_read=4)),
        ({"output_tokens": 3}, {"input_tokens": 9, WRITTEN: 4}, Usage(fresh=9, cache_write_5m=4, output=3)),
        ({WRITTEN: 7, "cache_creation": LONG}, {WRITTEN: 7}, Usage(cache_write_5m=4, cache_write_1h=3)),
        ({}, {"output_tokens": 5, "output_tokens_details": {"thinking_tokens": 2}}, Usage(output=3, reasoning=2)),
    ],
)
def test_usage_that_comes_in_two_parts(start: dict[str, Any], delta: dict[str, Any], expected: Usage) -> None:
    events = [
        {"type": "message_start", "message": {"usage": start}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": delta},
        {"type": "message_stop"},
    ]
    wire = b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in events)
    assert fold(play(stream_parser(PLAIN), [wire])).usage == expected


def test_an_error_in_the_stream_ends_it() -> None:
    begun = stream({"type": "text", "text": "Hello"}).partition(b"event: content_block_stop")[0]
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    parser = stream_parser(PLAIN)
    events = play(parser, [begun + error + b"data: garbage\n\n"])
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Hello"
    assert isinstance(events[-1], Failed) and parser.done
    assert (events[-1].fault.kind, events[-1].fault.message) == ("overloaded", "Overloaded")
    assert [event for event in events if isinstance(event, Failed)] == events[-1:]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"data: {}\n\n",
        b"data: nonsense\n\n",
        b'data: {"type":"content_block_start"}\n\n',
        b'data: {"type":"ping"}\n\n',
        b'data: {"type":"message_stop"}\n\n',
        b'data: {"type":"message_delta","delta":{}}',
    ],
)
def test_a_stream_that_is_not_whole_has_failed(broken: bytes) -> None:
    events = play(stream_parser(PLAIN), [broken])
    assert [type(event) for event in events] == [Failed]


def test_line_ends_comments_and_unknown_events() -> None:
    wire = stream({"type": "text", "text": "Grüße"})
    noisy = b": comment\n\n" + wire.replace(b"event: message_stop", b'data: {"type":"new"}\n\nevent: message_stop')
    expected = play(stream_parser(PLAIN), [wire])
    for data in (noisy, noisy.replace(b"\n", b"\r\n"), noisy.replace(b"\n", b"\r"), b"\xef\xbb\xbf" + noisy):
        assert play(stream_parser(PLAIN), [data[at : at + 1] for at in range(len(data))]) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"<html>",
        b'{"type":"error","error":{"type":"api_error","message":"x"}}',
        b'{"content":[]}',
        b'{"content":[{}],"stop_reason":"end_turn"}',
    ],
)
def test_a_body_that_is_no_message(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_response(body, PLAIN)

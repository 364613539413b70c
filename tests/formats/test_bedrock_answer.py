"""Converse's answers: what was recorded means the same in the vocabulary, whole, streamed, and at every split."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.recordings import Recorded, chats, play
from waypost.chat import CLAUDE
from waypost.completion import BadAnswer, Choice, Completion, Failed, TextDelta, UsageReport, fold
from waypost.formats.aws_event_stream import render_frame
from waypost.formats.bedrock_converse import parse_response, stream_parser
from waypost.formats.format import Reading
from waypost.records import Usage

Json = dict[str, Any]
FINISH = {"end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length"}
PLAIN = Reading()


def check_meaning(choice: Choice, content: list[Json], stop_reason: str) -> None:
    """Does a choice say what the blocks say? Written against the wire, without our reader."""
    assert (choice.text or "") == "".join(block["text"] for block in content if "text" in block)
    uses = [block["toolUse"] for block in content if "toolUse" in block]
    calls = [(use["toolUseId"], use["name"], use["input"]) for use in uses if use.get("type") != "server_tool_use"]
    assert [(call.id, call.function.name, json.loads(call.function.arguments)) for call in choice.tool_calls] == calls
    thoughts = [block["reasoningContent"] for block in content if "reasoningContent" in block]
    shown = [thought["reasoningText"]["text"] for thought in thoughts if "reasoningText" in thought]
    assert choice.reasoning == "\n\n".join(shown)
    returned = []
    for thought in thoughts:
        if "redactedContent" in thought:
            returned.append((None, None, base64.b64decode(thought["redactedContent"]).decode(), CLAUDE))
        elif "signature" in thought["reasoningText"]:
            returned.append((thought["reasoningText"]["text"], thought["reasoningText"]["signature"], None, CLAUDE))
    assert [(one.text, one.signature, one.data, one.format) for one in choice.reasoning_details] == returned
    assert [one.index for one in choice.reasoning_details] == list(range(len(returned)))
    assert choice.native_finish_reason == stop_reason
    expected = FINISH[stop_reason]
    assert choice.finish_reason == (expected if expected == "length" else "tool_calls" if calls else "stop")
    if any("toolResult" in block for block in content):
        kept = json.loads(bytes(choice.extra["bedrock"]))["content"]
        assert [without_type(block) for block in kept] == [without_type(block) for block in content]


def without_type(block: Json) -> Json:
    """A request may not say that a call is an ordinary one."""
    if block.get("toolUse", {}).get("type") == "tool_use":
        return {"toolUse": {name: value for name, value in block["toolUse"].items() if name != "type"}}
    return block


def check_usage(usage: Usage | None, said: Json) -> None:
    """The counters are disjoint, and add up to what Bedrock says."""
    assert usage is not None
    assert (usage.fresh, usage.completion) == (said["inputTokens"], said["outputTokens"])
    assert usage.cache_read == said.get("cacheReadInputTokens", 0)
    assert usage.cache_write_5m + usage.cache_write_1h == said.get("cacheWriteInputTokens", 0)
    assert usage.prompt + usage.completion == said["totalTokens"]


def test_whole_answers() -> None:
    for exchange in chats("bedrock", stream=False):
        said = json.loads(exchange.body)
        completion = parse_response(exchange.body, PLAIN)
        try:
            check_meaning(completion.choices[0], said["output"]["message"]["content"], said["stopReason"])
            check_usage(completion.usage, said["usage"])
        except AssertionError as error:
            raise AssertionError(exchange.where) from error
        assert completion.raw_usage is not None and json.loads(bytes(completion.raw_usage)) == said["usage"]


def frames(body: bytes) -> list[tuple[str, Json]]:
    """Event type and payload of each frame; written without our splitter."""
    found = []
    at = 0
    while at < len(body):
        total, headers = struct.unpack_from(">II", body, at)
        head = body[at + 12 : at + 12 + headers]
        name = head[head.index(b":event-type") + 12 :]
        (length,) = struct.unpack_from(">H", name)
        payload = json.loads(body[at + 12 + headers : at + total - 4])
        found.append((name[2 : 2 + length].decode(), payload))
        at += total
    return found


def added_up(exchange: Recorded) -> Json:
    """A recorded stream → the whole answer that its events add up to."""
    content: dict[int, Json] = {}
    answer: Json = {"output": {"message": {"role": "assistant"}}}
    for kind, event in frames(exchange.body):
        match kind:
            case "contentBlockStart":
                content[event["contentBlockIndex"]] = event["start"]
            case "contentBlockDelta":
                add_delta(content.setdefault(event["contentBlockIndex"], {}), event["delta"])
            case "messageStop":
                answer["stopReason"] = event["stopReason"]
            case "metadata":
                answer["usage"] = event["usage"]
    for block in content.values():
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"].get("input") or "{}")
    answer["output"]["message"]["content"] = [content[index] for index in sorted(content)]
    return answer


def add_delta(block: Json, delta: Json) -> None:
    match delta:
        case {"text": text}:
            block["text"] = block.get("text", "") + text
        case {"toolUse": {"input": text}}:
            block["toolUse"]["input"] = block["toolUse"].get("input", "") + text
        case {"toolResult": results}:
            block["toolResult"].setdefault("content", []).extend(results)
        case {"reasoningContent": {"redactedContent": data}}:
            block["reasoningContent"] = {"redactedContent": data}
        case {"reasoningContent": thought}:
            text = block.setdefault("reasoningContent", {}).setdefault("reasoningText", {"text": ""})
            for name, value in thought.items():
                text[name] = text.get(name, "") + value
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64, 1000])
def test_streams_at_every_split(size: int) -> None:
    for exchange in chats("bedrock", stream=True):
        data = exchange.body
        pieces = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
        parser = stream_parser(PLAIN)
        events = play(parser, pieces)
        assert events == play(stream_parser(PLAIN), [data]), exchange.where
        answer = added_up(exchange)
        completion = fold(events)
        try:
            check_meaning(completion.choices[0], answer["output"]["message"]["content"], answer["stopReason"])
            check_usage(completion.usage, answer["usage"])
        except AssertionError as error:
            raise AssertionError(exchange.where) from error
        assert parser.done


def comparable(completion: Completion) -> Json:
    """Raw JSON decoded, so that its spelling does not matter; ids and usage apart."""
    [choice] = completion.choices
    told = msgspec.to_builtins(msgspec.structs.replace(choice, extra={}))
    told["tool_calls"] = [
        (call.id, call.function.name, json.loads(call.function.arguments)) for call in choice.tool_calls
    ]
    told["extra"] = {name: json.loads(bytes(raw)) for name, raw in choice.extra.items()}
    return told


def test_a_stream_folded_is_the_whole_answer() -> None:
    for exchange in chats("bedrock", stream=True):
        whole = parse_response(json.dumps(added_up(exchange)).encode(), PLAIN)
        streamed = fold(play(stream_parser(PLAIN), [exchange.body]))
        assert comparable(streamed) == comparable(whole), exchange.where
        assert streamed.usage == whole.usage


# What is not in the recordings


def whole(*content: Json, reason: str = "end_turn", **usage: Any) -> bytes:
    said = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2, **usage}
    answer = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": reason, "usage": said}
    return json.dumps(answer).encode()


def event(kind: str, payload: Json) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return render_frame(headers, json.dumps(payload).encode())


def deltas(block: Json, cut: int) -> tuple[Json | None, list[Json]]:
    """A whole block → its start, and its deltas of `cut` characters."""

    def cuts(text: str) -> list[str]:
        return [text[at : at + cut] for at in range(0, len(text), cut)]

    match block:
        case {"text": text}:
            return None, [{"text": piece} for piece in cuts(text)]
        case {"toolUse": use}:
            start = {name: value for name, value in use.items() if name != "input"}
            return {"toolUse": start}, [{"toolUse": {"input": piece}} for piece in cuts(json.dumps(use["input"]))]
        case {"toolResult": result}:
            start = {name: value for name, value in result.items() if name != "content"}
            return {"toolResult": start}, [{"toolResult": [one]} for one in result["content"]]
        case {"reasoningContent": {"redactedContent": data}}:
            return None, [{"reasoningContent": {"redactedContent": data}}]
        case {"reasoningContent": {"reasoningText": thought}}:
            signature = [{"reasoningContent": {"signature": thought["signature"]}}] if "signature" in thought else []
            return None, [{"reasoningContent": {"text": piece}} for piece in cuts(thought["text"])] + signature
        case {"citationsContent": cited}:
            text = "".join(piece["text"] for piece in cited["content"])
            return None, [{"text": piece} for piece in cuts(text)] + [{"citation": one} for one in cited["citations"]]
    raise AssertionError(block)


def stream(*content: Json, reason: str = "end_turn", cut: int = 3, **usage: Any) -> bytes:
    """The same answer as a stream."""
    events = [event("messageStart", {"role": "assistant"})]
    for index, block in enumerate(content):
        place = {"contentBlockIndex": index}
        start, pieces = deltas(block, cut)
        if start is not None:
            events.append(event("contentBlockStart", {**place, "start": start}))
        events += [event("contentBlockDelta", {**place, "delta": piece}) for piece in pieces]
        events.append(event("contentBlockStop", place))
    said = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2, **usage}
    events += [event("messageStop", {"stopReason": reason}), event("metadata", {"usage": said, "metrics": {}})]
    return b"".join(events)


def call(name: str = "f", id: str = "t1", **more: Any) -> Json:
    return {"toolUse": {"toolUseId": id, "name": name, "input": {"city": "Köln"}, **more}}


values = st.dictionaries(st.text(), st.text() | st.integers(-5, 5) | st.none(), max_size=3)
blocks = st.one_of(
    st.builds(lambda text: {"text": text}, st.text()),
    st.builds(lambda text: {"reasoningContent": {"reasoningText": {"text": text}}}, st.text(min_size=1)),
    st.builds(lambda text: {"reasoningContent": {"reasoningText": {"text": text, "signature": "Eu8E+/="}}}, st.text()),
    st.just({"reasoningContent": {"redactedContent": base64.b64encode(b"Eu8ECkgIBxAB").decode()}}),
    st.builds(lambda value: {"toolUse": {"toolUseId": "t1", "name": "f", "input": value}}, values),
    st.builds(
        lambda value: {"toolUse": {"toolUseId": "t2", "name": "nova_x", "input": value, "type": "server_tool_use"}},
        values,
    ),
    st.builds(
        lambda value: {"toolResult": {"toolUseId": "t2", "content": [{"json": value}], "status": "success"}}, values
    ),
    st.builds(
        lambda text: {"citationsContent": {"content": [{"text": text}], "citations": [PAGE]}}, st.text(min_size=1)
    ),
)
PAGE = {"title": "A", "sourceContent": [{"text": "said"}], "location": {"web": {"url": "https://a.example/"}}}


@given(
    st.lists(blocks, max_size=5), st.sampled_from(["end_turn", "max_tokens", "tool_use", "content_filtered"]), st.data()
)
def test_any_answer_streams_to_the_same(content: list[Json], reason: str, data: st.DataObject) -> None:
    wire = stream(*content, reason=reason)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    streamed = fold(play(stream_parser(PLAIN), pieces))
    assert comparable(streamed) == comparable(parse_response(whole(*content, reason=reason), PLAIN))


def both(*content: Json, reason: str = "end_turn", reading: Reading = PLAIN) -> Choice:
    """The choice of an answer, which is the same whole and streamed."""
    [choice] = parse_response(whole(*content, reason=reason), reading).choices
    [streamed] = fold(play(stream_parser(reading), [stream(*content, reason=reason)])).choices
    arguments = [json.loads(one.function.arguments) for one in streamed.tool_calls]
    assert arguments == [json.loads(one.function.arguments) for one in choice.tool_calls]
    assert (streamed.text, streamed.finish_reason, streamed.refusal) == (
        choice.text,
        choice.finish_reason,
        choice.refusal,
    )
    return choice


def test_a_schema_by_tool_is_text() -> None:
    reading = Reading(schema_tool="structured_answer")
    choice = both({"text": "Here it is:"}, call("structured_answer"), reason="tool_use", reading=reading)
    assert json.loads(choice.text or "") == {"city": "Köln"}
    assert (choice.finish_reason, choice.tool_calls, choice.extra) == ("stop", (), {})
    assert both({"text": "I'd rather not."}, reading=reading).text == "I'd rather not."


def test_fences_around_json_go() -> None:
    choice = both({"text": '```json\n{"a": 1}\n```'}, reading=Reading(strip_fences=True))
    assert json.loads(choice.text or "") == {"a": 1}


def test_only_the_first_call_where_parallel_ones_were_forbidden() -> None:
    reading = Reading(first_call_only=True)
    choice = both({"text": "So:"}, call(id="t1"), call("g", id="t2"), reason="tool_use", reading=reading)
    assert [one.id for one in choice.tool_calls] == ["t1"] and choice.extra == {}
    assert [one.id for one in both(call(id="t1"), call("g", id="t2"), reason="tool_use").tool_calls] == ["t1", "t2"]


def test_names_come_back_as_the_caller_knows_them() -> None:
    choice = both(call("get_weather"), reason="tool_use", reading=Reading(names={"get_weather": "get.weather"}))
    assert choice.tool_calls[0].function.name == "get.weather"


@pytest.mark.parametrize("reason", ["content_filtered", "guardrail_intervened"])
def test_a_refusal(reason: str) -> None:
    choice = both({"text": "Half"}, reason=reason)
    assert (choice.finish_reason, choice.text, bool(choice.refusal)) == ("content_filter", "Half", True)


def test_citations_say_where() -> None:
    cited = {"citationsContent": {"content": [{"text": "it "}, {"text": "is."}], "citations": [PAGE]}}
    choice = both({"text": "So: "}, cited)
    [citation] = choice.annotations
    assert (choice.text or "")[citation.start_index : citation.end_index] == "it is."
    assert (citation.url, citation.title, citation.content) == ("https://a.example/", "A", "said")


def test_pictures() -> None:
    data = base64.b64encode(b"\x89PNG picture").decode()
    image = {"image": {"format": "png", "source": {"bytes": data}}}
    assert parse_response(whole(image), PLAIN).choices[0].images == (f"data:image/png;base64,{data}",)
    halves = [base64.b64encode(half).decode() for half in (b"\x89PNG pi", b"cture")]
    wire = event("contentBlockStart", {"contentBlockIndex": 0, "start": {"image": {"format": "png"}}})
    for half in halves:
        delta = {"image": {"source": {"bytes": half}}}
        wire += event("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta})
    wire += event("messageStop", {"stopReason": "end_turn"})
    assert fold(play(stream_parser(PLAIN), [wire])).choices[0].images == (f"data:image/png;base64,{data}",)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"inputTokens": 9, "outputTokens": 5}, Usage(fresh=9, output=5)),
        ({"inputTokens": 9, "cacheReadInputTokens": 4, "outputTokens": 5}, Usage(fresh=9, cache_read=4, output=5)),
        ({"inputTokens": 9, "cacheWriteInputTokens": 4, "outputTokens": 5}, Usage(fresh=9, cache_write_5m=4, output=5)),
        (
            {
                "inputTokens": 9, "cacheWriteInputTokens": 7, "outputTokens": 5,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 3}, {"ttl": "5m", "inputTokens": 4}],
            },
            Usage(fresh=9, cache_write_5m=4, cache_write_1h=3, output=5),
        ),
        (
            {"cacheWriteInputTokens": 2, "cacheDetails": [{"ttl": "1h", "inputTokens": 3}]},
            Usage(fresh=1, cache_write_1h=2, output=1),
        ),
    ],
)  # fmt: skip
def test_usage(said: Json, expected: Usage) -> None:
    assert parse_response(whole({"text": "x"}, **said), PLAIN).usage == expected
    events = play(stream_parser(PLAIN), [stream({"text": "x"}, **said)])
    assert [one.usage for one in events if isinstance(one, UsageReport)] == [expected]


# How it fails


def exception(name: str, payload: Json) -> bytes:
    return render_frame({":exception-type": name, ":message-type": "exception"}, json.dumps(payload).encode())


@pytest.mark.parametrize(
    ("frame", "kind", "message", "code"),
    [
        (exception("throttlingException", {"message": "Slow down"}), "rate_limit", "Slow down", "ThrottlingException"),
        (exception("modelStreamErrorException", {"originalMessage": "x"}), "server", "x", "ModelStreamErrorException"),
        (exception("validationException", {"message": "bad"}), "bad_request", "bad", "ValidationException"),
        (exception("serviceUnavailableException", {"message": "b"}), "overloaded", "b", "ServiceUnavailableException"),
        (
            render_frame({":message-type": "error", ":error-code": "Overflow", ":error-message": "too much"}, b""),
            "server", "too much", "Overflow",
        ),
    ],
)  # fmt: skip
def test_an_error_in_the_stream_ends_it(frame: bytes, kind: str, message: str, code: str) -> None:
    begun = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hello"}})
    parser = stream_parser(PLAIN)
    events = play(parser, [begun + frame + b"garbage"])
    assert [one.text for one in events if isinstance(one, TextDelta)] == ["Hello"]
    [failed] = [one for one in events if isinstance(one, Failed)]
    assert events[-1] is failed and parser.done
    assert (failed.fault.kind, failed.fault.message, failed.fault.code) == (kind, message, code)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\x00" * 12,
        event("messageStart", {"role": "assistant"}),
        event("messageStop", {"stopReason": "malformed_tool_use"}),
        event("messageStop", {"stopReason": "end_turn"})[:-1],
        event("contentBlockDelta", {"delta": 3}),
        event("metadata", {"usage": {"inputTokens": 1}})[:-3],
        render_frame({":event-type": "messageStop", ":message-type": "event"}, b"nonsense"),
    ],
)
def test_a_stream_that_is_not_whole_has_failed(broken: bytes) -> None:
    assert [type(one) for one in play(stream_parser(PLAIN), [broken])] == [Failed]


def test_words_before_a_broken_frame_are_said() -> None:
    good = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hello"}})
    bad = bytearray(good)
    bad[40] ^= 1
    events = play(stream_parser(PLAIN), [good + bytes(bad) + good])
    assert [type(one) for one in events] == [TextDelta, Failed]


def test_unknown_events_and_blocks_change_nothing() -> None:
    wire = event("heartbeat", {"x": 1}) + stream({"text": "Hi"})
    assert fold(play(stream_parser(PLAIN), [wire])).choices[0].text == "Hi"
    choice = parse_response(whole({"text": "Hi"}, {"hologram": {"x": 1}}), PLAIN).choices[0]
    assert choice.text == "Hi" and json.loads(bytes(choice.extra["bedrock"]))["content"][1] == {"hologram": {"x": 1}}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"<html>", b'{"message":"x"}', b'{"output":{"message":{"content":[]}}}',
        b'{"output":{"message":{"content":[{"text":3}]}},"stopReason":"end_turn"}',
        whole({"text": "x"}, reason="malformed_model_output"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_response(body, PLAIN)

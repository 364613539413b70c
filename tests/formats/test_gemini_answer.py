"""Gemini's answers: what was recorded means the same in the vocabulary, whole, streamed, and at every split."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.recordings import Recorded, chats, play
from waypost.chat import GEMINI
from waypost.completion import BadAnswer, Choice, Completion, Failed, ReasoningDelta, TextDelta, fold
from waypost.formats.format import Reading
from waypost.formats.gemini import parse_response, stream_parser
from waypost.records import Usage

Json = dict[str, Any]
PLAIN = Reading()
PROVIDERS = ("gemini", "vertex")
BROKEN = "UNEXPECTED_TOOL_CALL"  # a finish that is no answer: the next target is to be tried
FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "MODEL_ARMOR": "content_filter"}


def added_up(events: list[Json]) -> Json:
    """Responses of a stream → the response that they add up to: parts in order, the last of everything else."""
    made: Json = {}
    candidates: dict[int, Json] = {}
    for event in events:
        for name, value in event.items():
            if name != "candidates":
                made[name] = value
        for candidate in event.get("candidates", ()):
            whole = candidates.setdefault(candidate.get("index", 0), {"content": {"parts": []}})
            whole["content"]["parts"] += candidate.get("content", {}).get("parts", [])
            whole |= {name: value for name, value in candidate.items() if name != "content"}
    return {**made, "candidates": [candidates[index] for index in sorted(candidates)]} if candidates else made


def events_of(exchange: Recorded) -> list[Json]:
    if not exchange.is_stream:
        return [json.loads(exchange.body)]
    return [json.loads(line[5:]) for line in exchange.body.decode().splitlines() if line.startswith("data:")]


def sorted_out(provider: str, stream: bool) -> list[tuple[Recorded, Json]]:
    """Every answer that is whole, with what it adds up to."""
    found = [(exchange, added_up(events_of(exchange))) for exchange in chats(provider, stream=stream)]
    return [
        (exchange, said) for exchange, said in found if said.get("candidates", [{}])[0].get("finishReason") != BROKEN
    ]


def check_meaning(choice: Choice, said: Json, id: str) -> None:
    """Does a choice say what the parts say? Written against the wire, without our reader."""
    parts = said.get("content", {}).get("parts", [])
    words = [part for part in parts if "text" in part and not part.get("thought")]
    calls = [part for part in parts if "functionCall" in part]
    assert (choice.text or "") == "".join(part["text"] for part in words)
    assert choice.reasoning.replace("\n\n", "") == "".join(
        part["text"] for part in parts if part.get("thought")
    ).replace("\n\n", "")
    assert [(call.function.name, json.loads(call.function.arguments)) for call in choice.tool_calls] == [
        (part["functionCall"]["name"], part["functionCall"].get("args", {})) for part in calls
    ]
    ids = [part["functionCall"].get("id") or f"call_{id}_{place}" for place, part in enumerate(calls)]
    assert not id or [call.id for call in choice.tool_calls] == ids
    for call, part in zip(choice.tool_calls, calls, strict=True):
        kept = json.loads(bytes(call.extra_content["google"])) if call.extra_content else {}
        assert kept.get("thought_signature") == part.get("thoughtSignature")
    signed = [part["thoughtSignature"] for part in words + calls if "thoughtSignature" in part]
    secrets = [one for one in choice.reasoning_details if one.type == "reasoning.encrypted"]
    assert [one.data for one in secrets] == signed and all(one.format == GEMINI for one in secrets)
    expected = FINISH[said["finishReason"]]
    assert choice.finish_reason == ("tool_calls" if calls and expected == "stop" else expected)
    assert choice.native_finish_reason == said["finishReason"]
    if any("text" not in part and "functionCall" not in part for part in parts):
        kept_parts = json.loads(bytes(choice.extra["google"]))["parts"]
        assert [{**part, "text": ""} for part in kept_parts if "text" not in part] == [
            {**part, "text": ""} for part in parts if "text" not in part
        ]


def check_usage(usage: Usage | None, said: Json) -> None:
    """The counters are disjoint, and add up to what Google says."""
    if "promptTokenCount" not in said:
        assert usage is None
        return
    assert usage is not None and min(msgspec.structs.astuple(usage)) >= 0
    assert usage.prompt == said["promptTokenCount"] + said.get("toolUsePromptTokenCount", 0)
    assert usage.completion == said.get("candidatesTokenCount", 0) + said.get("thoughtsTokenCount", 0)
    assert usage.prompt + usage.completion == said["totalTokenCount"]
    assert usage.cache_read == said.get("cachedContentTokenCount", 0)
    assert usage.reasoning == said.get("thoughtsTokenCount", 0)


def check(completion: Completion, said: Json) -> None:
    check_usage(completion.usage, said.get("usageMetadata", {}))
    if "candidates" not in said:
        [choice] = completion.choices
        assert (
            choice.finish_reason == "content_filter" and choice.refusal == said["promptFeedback"]["blockReasonMessage"]
        )
        return
    for choice, candidate in zip(completion.choices, said["candidates"], strict=True):
        check_meaning(choice, candidate, said.get("responseId", ""))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_whole_answers(provider: str) -> None:
    for exchange, said in sorted_out(provider, stream=False):
        completion = parse_response(exchange.body, PLAIN)
        try:
            check(completion, said)
        except AssertionError as error:
            raise AssertionError(exchange.where) from error
        assert (completion.id, completion.model) == (said.get("responseId", ""), said["modelVersion"])
        if completion.raw_usage is not None:
            assert json.loads(bytes(completion.raw_usage)) == said["usageMetadata"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_that_broke_off_is_another_targets(provider: str) -> None:
    """The exceptions among the recorded answers, and no others: the model called a function that there is not."""
    broken = []
    for exchange in chats(provider, stream=False):
        try:
            parse_response(exchange.body, PLAIN)
        except BadAnswer as error:
            broken.append((exchange.name, str(error)))
    assert len(broken) == {"gemini": 0, "vertex": 5}[provider]
    assert all(name.startswith("test_multimodal_tool_return_matrix[") for name, _ in broken)
    assert all("undeclared function" in why for _, why in broken)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_streams_at_every_split(provider: str, size: int) -> None:
    for exchange, said in sorted_out(provider, stream=True):
        data = exchange.body
        pieces = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
        parser = stream_parser(PLAIN)
        events = play(parser, pieces)
        assert events == play(stream_parser(PLAIN), [data]), exchange.where
        try:
            check(fold(events), said)
        except AssertionError as error:
            raise AssertionError(exchange.where) from error
        assert parser.done and (parser.id, parser.model) == (said["responseId"], said["modelVersion"])


def comparable(completion: Completion) -> list[Json]:
    """Raw JSON decoded, so that its spelling does not matter; ids and usage apart."""
    told: list[Json] = []
    for choice in completion.choices:
        one = msgspec.to_builtins(msgspec.structs.replace(choice, extra={}, logprobs=None, tool_calls=()))
        one["tool_calls"] = [
            (call.id, call.function.name, json.loads(call.function.arguments), call.extra_content)
            for call in choice.tool_calls
        ]
        one["extra"] = {name: json.loads(bytes(raw)) for name, raw in choice.extra.items()}
        told.append(one)
    return told


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_folded_is_the_whole_answer(provider: str) -> None:
    for exchange, said in sorted_out(provider, stream=True):
        whole = parse_response(json.dumps(said).encode(), PLAIN)
        streamed = fold(play(stream_parser(PLAIN), [exchange.body]))
        assert comparable(streamed) == comparable(whole), exchange.where
        assert streamed.usage == whole.usage


@pytest.mark.parametrize("provider", PROVIDERS)
def test_citations_say_where(provider: str) -> None:
    cited = 0
    for exchange, said in [*sorted_out(provider, stream=False), *sorted_out(provider, stream=True)]:
        candidate = said.get("candidates", [{}])[0]
        grounding = candidate.get("groundingMetadata", {})
        chunks = grounding.get("groundingChunks", [])
        expected = [
            (support["segment"]["text"], chunks[index]["web"]["uri"])
            for support in grounding.get("groundingSupports", ())
            for index in support["groundingChunkIndices"]
            if "web" in chunks[index]
        ]
        [choice] = (
            fold(play(stream_parser(PLAIN), [exchange.body])).choices
            if exchange.is_stream
            else (parse_response(exchange.body, PLAIN).choices)
        )
        text = choice.text or ""
        assert [(text[one.start_index : one.end_index], one.url) for one in choice.annotations] == expected
        assert all(one.content == text[one.start_index : one.end_index] for one in choice.annotations)
        cited += len(expected)
    assert cited > 5


def test_recorded_probabilities() -> None:
    found = 0
    for exchange, said in sorted_out("vertex", stream=False):
        result = said.get("candidates", [{}])[0].get("logprobsResult")
        if result is None:
            continue
        [choice] = parse_response(exchange.body, PLAIN).choices
        assert choice.logprobs is not None
        content = json.loads(bytes(choice.logprobs))["content"]
        assert "".join(one["token"] for one in content) == choice.text
        assert [one["logprob"] for one in content] == [one["logProbability"] for one in result["chosenCandidates"]]
        assert all(bytes(one["bytes"]).decode() == one["token"] for one in content)
        tops = [[one["token"] for one in place["candidates"]] for place in result.get("topCandidates", ())]
        assert [[one["token"] for one in place["top_logprobs"]] for place in content] == (tops or [[]] * len(content))
        found += 1
    assert found == 4


# What is not in the recordings


def response(*parts: Json, reason: str = "STOP", **more: Any) -> Json:
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5}
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini", "responseId": "r-1", **more}


def whole(*parts: Json, reason: str = "STOP", **more: Any) -> bytes:
    return json.dumps(response(*parts, reason=reason, **more)).encode()


def stream(*parts: Json, reason: str = "STOP", cut: int = 3) -> bytes:
    """The same as a stream: a part an event, text in pieces of `cut` characters, the signature on the last of them."""
    events: list[Json] = []
    for part in parts:
        text = part.get("text", "")
        pieces = [text[at : at + cut] for at in range(0, len(text), cut)] or [""]
        bare = {name: value for name, value in part.items() if name not in ("text", "thoughtSignature")}
        if "text" not in part:
            events.append(response(part, reason=""))
            continue
        events += [response({**bare, "text": piece}, reason="") for piece in pieces]
        if "thoughtSignature" in part:
            events[-1]["candidates"][0]["content"]["parts"][0]["thoughtSignature"] = part["thoughtSignature"]
    events.append(response({"text": ""}, reason=reason))
    return b"".join(b"data: %b\r\n\r\n" % json.dumps(one).encode() for one in events)


texts = st.text(min_size=1)
parts = st.one_of(
    st.builds(lambda text: {"text": text}, texts),
    st.builds(lambda text, sign: {"text": text, "thoughtSignature": sign}, texts, st.text("abc", min_size=1)),
    st.builds(lambda text: {"text": text, "thought": True}, texts),
    st.builds(
        lambda name, args, more: {"functionCall": {"name": name, "args": args}, **more},
        st.sampled_from(["f", "g"]),
        st.dictionaries(st.text(), st.text() | st.integers(-5, 5) | st.none(), max_size=3),
        st.sampled_from([{}, {"thoughtSignature": "abc"}]),
    ),
    st.builds(lambda text: {"executableCode": {"code": text}}, st.text()),
    st.just({"inlineData": {"mimeType": "image/png", "data": "AAAA"}}),
)


@given(st.lists(parts, max_size=6), st.sampled_from(["STOP", "MAX_TOKENS", "SAFETY"]), st.data())
def test_any_answer_streams_to_the_same(content: list[Json], reason: str, data: st.DataObject) -> None:
    wire = stream(*content, reason=reason)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    streamed = fold(play(stream_parser(PLAIN), pieces))
    assert comparable(streamed) == comparable(parse_response(whole(*content, reason=reason), PLAIN))


def test_parallel_calls_have_ids_of_their_own() -> None:
    calls = [{"functionCall": {"name": "f", "args": {"n": n}}} for n in range(5)]
    for completion in (
        parse_response(whole(*calls), PLAIN),
        fold(play(stream_parser(PLAIN), [stream(*calls)])),
    ):
        [choice] = completion.choices
        assert [call.id for call in choice.tool_calls] == [f"call_r-1_{n}" for n in range(5)]
        assert [json.loads(call.function.arguments) for call in choice.tool_calls] == [{"n": n} for n in range(5)]
        assert choice.finish_reason == "tool_calls" and choice.text is None


def test_calls_of_an_answer_without_an_id_have_ids() -> None:
    call = {"functionCall": {"name": "f"}}
    body = json.loads(whole(call, call, {"functionCall": {"name": "f", "args": {"a": 1}}}))
    del body["responseId"]
    ids = [call.id for call in parse_response(json.dumps(body).encode(), PLAIN).choices[0].tool_calls]
    assert len(set(ids)) == 3 and all(len(id) <= 40 for id in ids)
    assert [call.id for call in parse_response(json.dumps(body).encode(), PLAIN).choices[0].tool_calls] == ids


def test_only_the_first_call_where_parallel_ones_were_forbidden() -> None:
    calls = [{"functionCall": {"name": "f", "args": {"n": n}}} for n in range(3)]
    [choice] = parse_response(whole(*calls), Reading(first_call_only=True)).choices
    assert [json.loads(call.function.arguments) for call in choice.tool_calls] == [{"n": 0}]
    assert choice.extra == {}


def test_names_come_back_as_the_caller_knows_them() -> None:
    call = {"functionCall": {"name": "get_weather", "args": None}}
    [made] = parse_response(whole(call), Reading(names={"get_weather": "get weather"})).choices[0].tool_calls
    assert (made.function.name, made.function.arguments) == ("get weather", "{}")


def test_a_schema_by_function_is_text() -> None:
    reading = Reading(schema_tool="structured_answer")
    call = {"functionCall": {"name": "structured_answer", "args": {"city": "Köln"}}}
    for completion in (
        parse_response(whole({"text": "Here it is:"}, call), reading),
        fold(play(stream_parser(reading), [stream({"text": "Here it is:"}, call)])),
    ):
        [choice] = completion.choices
        assert json.loads(choice.text or "") == {"city": "Köln"}
        assert (choice.finish_reason, choice.tool_calls, choice.extra) == ("stop", (), {})
    assert parse_response(whole({"text": "I'd rather not."}), reading).choices[0].text == "I'd rather not."


def test_fences_around_json_go() -> None:
    for cut in (1, 3, 100):
        part = {"text": '```json\n{"a": 1}\n```'}
        [choice] = fold(play(stream_parser(Reading(strip_fences=True)), [stream(part, cut=cut)])).choices
        assert json.loads(choice.text or "") == {"a": 1}


@pytest.mark.parametrize("reason", ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "JAILBREAK"])
def test_a_blocked_prompt(reason: str) -> None:
    body = {"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7}}
    wire = b"data: %b\n\n" % json.dumps(body).encode()
    for completion in (parse_response(json.dumps(body).encode(), PLAIN), fold(play(stream_parser(PLAIN), [wire]))):
        [choice] = completion.choices
        assert (choice.finish_reason, choice.native_finish_reason, choice.text) == ("content_filter", reason, None)
        assert reason in (choice.refusal or "")
        assert completion.usage == Usage(fresh=7)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"), ("OTHER", "stop"), ("FINISH_REASON_UNSPECIFIED", "stop"), ("SOMETHING_NEW", "stop"),
        ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter"),
        ("LANGUAGE", "content_filter"), ("BLOCKLIST", "content_filter"), ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"), ("IMAGE_SAFETY", "content_filter"), ("IMAGE_PROHIBITED_CONTENT", "content_filter"),
    ],
)  # fmt: skip
def test_finish_reasons(reason: str, finish: str) -> None:
    [choice] = parse_response(whole({"text": "a"}, reason=reason), PLAIN).choices
    assert (choice.finish_reason, choice.native_finish_reason) == (finish, reason)
    [choice] = parse_response(whole({"functionCall": {"name": "f"}}, reason=reason), PLAIN).choices
    assert choice.finish_reason == ("tool_calls" if finish == "stop" else finish)


@pytest.mark.parametrize(
    "reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE", "MALFORMED_RESPONSE"]
)
def test_finish_reasons_that_are_failures(reason: str) -> None:
    with pytest.raises(BadAnswer):
        parse_response(whole(reason=reason), PLAIN)
    events = play(stream_parser(PLAIN), [stream({"text": "Hello"}, reason=reason)])
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Hello"
    assert isinstance(events[-1], Failed) and reason in events[-1].fault.message


def test_a_finish_reason_with_every_event_is_not_the_end() -> None:
    events = [response({"text": text}) for text in ("Hel", "lo")]
    wire = b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in events)
    [choice] = fold(play(stream_parser(PLAIN), [wire])).choices
    assert (choice.text, choice.finish_reason) == ("Hello", "stop")


def test_several_choices() -> None:
    events = [
        {"candidates": [{"content": {"parts": [{"text": "a"}]}}, {"content": {"parts": [{"text": "b"}]}, "index": 1}]},
        {"candidates": [{"content": {"parts": [{"text": "B"}]}, "index": 1, "finishReason": "MAX_TOKENS"}]},
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}, "finishReason": "STOP"}]},
    ]
    wire = b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in events)
    first, second = fold(play(stream_parser(PLAIN), [wire])).choices
    assert (first.text, first.finish_reason, len(first.tool_calls)) == ("a", "tool_calls", 1)
    assert (second.text, second.finish_reason) == ("bB", "length")


def test_pictures_and_thoughts_about_them() -> None:
    draft = {"inlineData": {"mimeType": "image/png", "data": "ZHJhZnQ="}, "thought": True}
    picture = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thoughtSignature": "sig"}
    [choice] = parse_response(whole({"text": "Here:"}, draft, picture), PLAIN).choices
    assert (choice.text, choice.images, choice.extra) == ("Here:", ("data:image/png;base64,AAAA",), {})
    assert [one.data for one in choice.reasoning_details] == ["sig"]


def test_a_thought_that_goes_on_after_words_is_another() -> None:
    answer = [{"text": "One", "thought": True}, {"text": "a"}, {"text": "Two", "thought": True}, {"text": "b"}]
    events = play(stream_parser(PLAIN), [stream(*answer)])
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "One\n\nTwo"
    [choice] = fold(events).choices
    assert [(one.type, one.text) for one in choice.reasoning_details] == [
        ("reasoning.text", "One"), ("reasoning.text", "Two"),
    ]  # fmt: skip
    assert json.loads(bytes(choice.extra["google"]))["parts"] == answer


AUDIO, IMAGE = {"modality": "AUDIO", "tokenCount": 4}, {"modality": "IMAGE", "tokenCount": 5}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"promptTokenCount": 9, "candidatesTokenCount": 2}, Usage(fresh=9, output=2)),
        ({"promptTokenCount": 9, "toolUsePromptTokenCount": 3, "thoughtsTokenCount": 4}, Usage(fresh=12, reasoning=4)),
        ({"promptTokenCount": 9, "cachedContentTokenCount": 8}, Usage(fresh=1, cache_read=8)),
        ({"promptTokenCount": 9, "promptTokensDetails": [AUDIO, IMAGE]}, Usage(audio_input=4, image_input=5)),
        (
            {"promptTokenCount": 20, "promptTokensDetails": [AUDIO], "cachedContentTokenCount": 10,
             "cacheTokensDetails": [{**AUDIO, "tokenCount": 3}]},
            Usage(fresh=9, cache_read=10, audio_input=1),
        ),
        ({"candidatesTokenCount": 9, "candidatesTokensDetails": [IMAGE]}, Usage(output=4, image_output=5)),
        ({"promptTokenCount": 3, "promptTokensDetails": [AUDIO, IMAGE]}, Usage(audio_input=3)),  # numbers that lie
        ({"promptTokenCount": 3, "cachedContentTokenCount": 9}, Usage(cache_read=3)),
        ({"trafficType": "ON_DEMAND"}, None),
    ],
)  # fmt: skip
def test_usage(said: Json, expected: Usage | None) -> None:
    assert parse_response(whole({"text": "a"}, usageMetadata=said), PLAIN).usage == expected


def test_an_error_in_the_stream_ends_it() -> None:
    begun = b"data: %b\n\n" % json.dumps(response({"text": "Hello"}, reason="")).encode()
    error = b'data: {"error":{"code":503,"message":"Overloaded","status":"UNAVAILABLE"}}\n\n'
    parser = stream_parser(PLAIN)
    events = play(parser, [begun + error + begun])
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Hello"
    assert isinstance(events[-1], Failed) and parser.done
    assert (events[-1].fault.kind, events[-1].fault.message) == ("overloaded", "Overloaded")
    assert [event for event in events if isinstance(event, Failed)] == events[-1:]


@pytest.mark.parametrize(
    "broken",
    [b"", b"data: {}\n\n", b"data: nonsense\n\n", b'data: {"candidates":[{"content":{"parts":[{"text":""}]}}]}\n\n'],
)
def test_a_stream_that_is_not_whole_has_failed(broken: bytes) -> None:
    parser = stream_parser(PLAIN)
    events = play(parser, [broken])
    assert [type(event) for event in events] == [Failed] and parser.done


def test_a_last_event_without_its_empty_line() -> None:
    wire = b"data: " + whole({"text": "Grüße"})
    assert fold(play(stream_parser(PLAIN), [wire])).choices[0].text == "Grüße"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"<html>", b"{}", b'{"error":{"message":"x"}}', b'{"candidates":[{"content":{}}]}']
)
def test_a_body_that_is_no_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_response(body, PLAIN)

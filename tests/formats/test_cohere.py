"""Cohere's v2 chat: recorded answers and histories mean the same, streams add up at every split."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.recordings import chats, every, play
from waypost.chat import Chat
from waypost.completion import BadAnswer, Choice, Completion, Failed, TextDelta, fold
from waypost.formats.cohere import known_model, parse_error, parse_response, render_request, stream_parser
from waypost.formats.format import Model, Reading, Rendered, Unsupported
from waypost.formats.openai_answer import Stamp, render_completion
from waypost.formats.openai_chat import parse_request
from waypost.formats.openai_request import parse_chat
from waypost.records import Usage

Json = dict[str, Any]
PLAIN = Reading()
FINISH = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "TOOL_CALL": "tool_calls", "MAX_TOKENS": "length"}
COMMAND, REASONING, VISION, OLD = (
    known_model(id)
    for id in ("command-r7b-12-2024", "command-a-reasoning-08-2025", "command-a-vision-07-2025", "command-r-plus")
)
HELLO = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALLED = {"role": "assistant", "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f"}}]}
RESULT = {"role": "tool", "tool_call_id": "t1", "content": "21"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WANTED = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "description": "d"}}
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}


def chat(*messages: Json, **fields: Any) -> Chat:
    body = {"model": "m", "messages": messages or [HELLO], **fields}
    return parse_chat(parse_request(json.dumps(body).encode()).fields)


def rendered(*messages: Json, model: Model = COMMAND, **fields: Any) -> tuple[Json, Rendered]:
    made = render_request(chat(*messages, **fields), model)
    return json.loads(made.body), made


def body(*messages: Json, model: Model = COMMAND, **fields: Any) -> Json:
    return rendered(*messages, model=model, **fields)[0]


# Recorded answers


def check_meaning(choice: Choice, said: Json) -> None:
    """Does a choice say what the message says? Written against the wire, without our reader."""
    message = said["message"]
    content = message.get("content") or []
    assert (choice.text or "") == "".join(block["text"] for block in content if block["type"] == "text")
    thoughts = [message["tool_plan"]] if message.get("tool_plan") else []
    thoughts += [block["thinking"] for block in content if block["type"] == "thinking"]
    assert choice.reasoning == "\n\n".join(thoughts)
    assert [detail.text or detail.summary for detail in choice.reasoning_details] == thoughts
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]
    assert [(call.id, call.function.name, call.function.arguments) for call in choice.tool_calls] == calls
    assert (choice.finish_reason, choice.native_finish_reason) == (FINISH[said["finish_reason"]], said["finish_reason"])
    if message.get("citations"):
        assert json.loads(bytes(choice.extra["cohere"])) == {"citations": message["citations"]}


def test_whole_answers() -> None:
    for exchange in chats("cohere", stream=False):
        said = json.loads(exchange.body)
        completion = parse_response(exchange.body, PLAIN)
        try:
            check_meaning(completion.choices[0], said)
        except AssertionError as error:
            raise AssertionError(exchange.where) from error
        usage = completion.usage
        billed = said["usage"]["billed_units"]
        assert usage is not None
        assert (usage.prompt, usage.completion) == (billed["input_tokens"], billed["output_tokens"])
        assert completion.raw_usage is not None and json.loads(bytes(completion.raw_usage)) == said["usage"]
        assert completion.id == said["id"]


def streamed_from(said: Json, cut: int = 3) -> bytes:
    """A whole answer as the stream that Cohere's reference describes."""
    message, events = (
        said["message"],
        [{"type": "message-start", "id": said.get("id", "i"), "delta": {"message": EMPTY}}],
    )

    def add(type: str, index: int | None = None, **message: Any) -> None:
        event: Json = {"type": type} if index is None else {"type": type, "index": index}
        events.append({**event, "delta": {"message": message}} if message else event)

    def cuts(text: str) -> list[str]:
        return [text[at : at + cut] for at in range(0, len(text), cut)]

    for piece in cuts(message.get("tool_plan") or ""):
        add("tool-plan-delta", tool_plan=piece)
    for index, block in enumerate(message.get("content") or ()):
        name = block["type"]
        add("content-start", index, content={"type": name, name: ""})
        for piece in cuts(block[name]):
            add("content-delta", index, content={name: piece})
        add("content-end", index)
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = {**call["function"], "arguments": ""}
        add("tool-call-start", index, tool_calls={**call, "function": function})
        for piece in cuts(call["function"]["arguments"]):
            add("tool-call-delta", index, tool_calls={"function": {"arguments": piece}})
        add("tool-call-end", index)
    for index, citation in enumerate(message.get("citations") or ()):
        add("citation-start", index, citations=citation)
        add("citation-end", index)
    end = {name: said[name] for name in ("finish_reason", "usage") if name in said}
    events.append({"type": "message-end", "delta": end})
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in events)


EMPTY = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64])
def test_recorded_answers_as_streams_at_every_split(size: int) -> None:
    """Nobody has recorded a stream of Cohere's: these are made of whole answers, by its reference."""
    for exchange in chats("cohere", stream=False):
        wire = streamed_from(json.loads(exchange.body))
        pieces = [wire[at : at + size] for at in range(0, len(wire), size)] if size else [wire]
        parser = stream_parser(PLAIN)
        streamed = fold(play(parser, pieces))
        whole = parse_response(exchange.body, PLAIN)
        assert comparable(streamed) == comparable(whole), exchange.where
        assert streamed.usage == whole.usage and parser.done and parser.id == whole.id


def comparable(completion: Completion) -> Json:
    """Raw JSON decoded, so that its spelling does not matter; ids and usage apart."""
    [choice] = completion.choices
    told: Json = msgspec.to_builtins(msgspec.structs.replace(choice, extra={}))
    told["extra"] = {name: json.loads(bytes(raw)) for name, raw in choice.extra.items()}
    return told


# What is not in the recordings


def answer(*content: Json, reason: str = "COMPLETE", usage: Json | None = None, **message: Any) -> Json:
    said = {"id": "i", "message": {"role": "assistant", "content": content, **message}, "finish_reason": reason}
    return {**said, "usage": usage} if usage else said


def both(said: Json, reading: Reading = PLAIN) -> Choice:
    """The choice of an answer, which is the same whole and streamed."""
    whole = parse_response(json.dumps(said).encode(), reading)
    assert comparable(whole) == comparable(fold(play(stream_parser(reading), [streamed_from(said)])))
    return whole.choices[0]


def text(said: str) -> Json:
    return {"type": "text", "text": said}


def call(name: str = "f", id: str = "t1", arguments: str = '{"city":"Köln"}') -> Json:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


blocks = st.one_of(
    st.builds(text, st.text()), st.builds(lambda said: {"type": "thinking", "thinking": said}, st.text())
)
citations = st.builds(
    lambda start, url: {
        "start": start,
        "end": start + 2,
        "text": "x",
        "sources": [{"type": "document", "document": url}],
    },
    st.integers(0, 5),
    st.sampled_from([{"url": "https://a.example/", "title": "A"}, {"title": "B"}]),
)


@given(
    st.lists(blocks, max_size=4), st.text(max_size=8), st.lists(st.builds(call, arguments=st.text()), max_size=3),
    st.lists(citations, max_size=3), st.sampled_from([*FINISH, "ERROR_TOXIC", "NEW"]), st.data(),
)  # fmt: skip
def test_any_answer_streams_to_the_same(
    content: list[Json], plan: str, calls: list[Json], cited: list[Json], reason: str, data: st.DataObject
) -> None:
    said = answer(*content, reason=reason, tool_plan=plan, tool_calls=calls, citations=cited)
    wire = streamed_from(said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    streamed = fold(play(stream_parser(PLAIN), pieces))
    assert comparable(streamed) == comparable(parse_response(json.dumps(said).encode(), PLAIN))


def test_a_schema_by_tool_is_text() -> None:
    reading = Reading(schema_tool="structured_answer")
    choice = both(answer(text("Here:"), reason="TOOL_CALL", tool_calls=[call("structured_answer")]), reading)
    assert (choice.text, choice.tool_calls, choice.finish_reason) == ('{"city":"Köln"}', (), "stop")
    assert both(answer(text("I'd rather not.")), reading).text == "I'd rather not."


def test_only_the_first_call_where_parallel_ones_were_forbidden() -> None:
    said = answer(reason="TOOL_CALL", tool_calls=[call(), call("g", "t2")])
    assert [one.id for one in both(said, Reading(first_call_only=True)).tool_calls] == ["t1"]
    assert [one.id for one in both(said).tool_calls] == ["t1", "t2"]


def test_a_call_without_arguments_has_the_empty_object() -> None:
    choice = both(answer(reason="TOOL_CALL", tool_calls=[call(arguments=""), call("g", "t2")]))
    assert [one.function.arguments for one in choice.tool_calls] == ["{}", '{"city":"Köln"}']


def test_fences_and_names() -> None:
    choice = both(answer(text('```json\n{"a": 1}\n```')), Reading(strip_fences=True))
    assert json.loads(choice.text or "") == {"a": 1}
    choice = both(answer(reason="TOOL_CALL", tool_calls=[call("get_x")]), Reading(names={"get_x": "get.x"}))
    assert choice.tool_calls[0].function.name == "get.x"


def test_citations_of_pages_say_where() -> None:
    page = {"type": "document", "id": "d", "document": {"url": "https://a.example/", "title": "A", "text": "…"}}
    cited = {"start": 3, "end": 6, "text": "is.", "content_index": 1, "type": "TEXT_CONTENT", "sources": [page]}
    choice = both(answer(text("So: "), text("it is."), citations=[cited]))
    [citation] = choice.annotations
    assert (choice.text or "")[citation.start_index : citation.end_index] == "is."
    assert (citation.url, citation.title) == ("https://a.example/", "A") and choice.extra == {}


def test_logprobs_are_of_the_text() -> None:
    said = {**answer(text("Hi you")), "logprobs": [{"text": "Hi", "token_ids": [1], "logprobs": [-0.5]}]}
    said["logprobs"].append({"text": " you", "token_ids": [2, 3], "logprobs": [-0.25, -0.5]})
    choice = parse_response(json.dumps(said).encode(), PLAIN).choices[0]
    assert choice.logprobs is not None
    found = [(one["token"], one["logprob"]) for one in json.loads(bytes(choice.logprobs))["content"]]
    assert found == [("Hi", -0.5), (" you", -0.75)]
    events = [
        {"type": "content-start", "index": 0, "delta": {"message": {"content": text("")}}},
        *(
            {
                "type": "content-delta",
                "index": 0,
                "delta": {"message": {"content": {"text": one["text"]}}},
                "logprobs": one,
            }
            for one in said["logprobs"]
        ),
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
    ]
    wire = b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in events) + b"data: [DONE]\n\n"
    assert fold(play(stream_parser(PLAIN), [wire])).choices[0].logprobs == choice.logprobs


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"billed_units": {"input_tokens": 9.0, "output_tokens": 5}, "cached_tokens": 4}, Usage(fresh=9, output=5)),
        (
            {"tokens": {"input_tokens": 9, "output_tokens": 5}, "cached_tokens": 4},
            Usage(fresh=5, cache_read=4, output=5),
        ),
        ({"tokens": {"input_tokens": 3}, "cached_tokens": 4, "billed_units": {}}, Usage(cache_read=3)),
        ({"billed_units": {"search_units": 1}, "tokens": {"output_tokens": 2}}, Usage(output=2)),
    ],
)
def test_usage_is_what_is_paid_for(usage: Json, expected: Usage) -> None:
    said = answer(text("x"), usage=usage)
    assert parse_response(json.dumps(said).encode(), PLAIN).usage == expected
    assert fold(play(stream_parser(PLAIN), [streamed_from(said)])).usage == expected


@pytest.mark.parametrize(("reason", "kind"), [("ERROR", "server"), ("TIMEOUT", "overloaded")])
def test_an_error_at_the_end(reason: str, kind: str) -> None:
    said = answer(text("Half"), reason=reason)
    with pytest.raises(BadAnswer):
        parse_response(json.dumps(said).encode(), PLAIN)
    events = play(stream_parser(PLAIN), [streamed_from(said, cut=9)])
    assert [type(one) for one in events] == [TextDelta, Failed]
    assert isinstance(events[-1], Failed) and events[-1].fault.kind == kind


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"data: {}\n\n",
        b"data: nonsense\n\n",
        b'data: {"type":"message-start","id":"i"}\n\n',
        b'data: {"message":"internal error"}\n\n',
        b'data: {"type":"message-end","delta":{"error":"oops"}}\n\n',
        b"data: [DONE]\n\n",
    ],
)
def test_a_stream_that_is_not_whole_has_failed(broken: bytes) -> None:
    assert [type(one) for one in play(stream_parser(PLAIN), [broken])] == [Failed]


@pytest.mark.parametrize("said", [b"", b"[]", b"null", b"<html>", b'{"message":"x"}', b'{"message":{"content":[]}}'])
def test_a_body_that_is_no_answer(said: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_response(said, PLAIN)


# Recorded histories


def as_openai(request: Json) -> Json:
    """The same request in OpenAI's words. Written against the wire, without our renderer."""
    said: Json = {"model": request["model"], "messages": [], "stream": request["stream"]}
    for message in request["messages"]:
        content = message.get("content")
        made = {**message}
        if message["role"] == "assistant" and isinstance(content, list):
            thoughts = [block["thinking"] for block in content if block["type"] == "thinking"]
            made["content"] = [block for block in content if block["type"] == "text"]
            made["reasoning_details"] = [
                {"type": "reasoning.text", "text": thought, "format": "cohere-v2"} for thought in thoughts
            ]
        said["messages"].append(made)
    for theirs, ours in (("stop_sequences", "stop"), ("tools", "tools"), ("max_tokens", "max_tokens")):
        if theirs in request:
            said[ours] = request[theirs]
    if "tool_choice" in request:
        said["tool_choice"] = request["tool_choice"].lower()
    return said


def test_recorded_histories_mean_the_same() -> None:
    for exchange in chats("cohere"):
        model = known_model(exchange.request["model"])
        said = as_openai(exchange.request)
        made = render_request(parse_chat(parse_request(json.dumps(said).encode()).fields), model)
        assert meaning(json.loads(made.body)) == meaning(exchange.request), exchange.where
        assert made.dropped == () and exchange.url.endswith("/v2" + made.path)


def meaning(request: Json) -> Json:
    messages = [
        {
            **message,
            "content": [text(message["content"])]
            if isinstance(message.get("content"), str)
            else message.get("content"),
        }
        for message in request["messages"]
    ]
    return {**request, "messages": messages}


def test_our_own_answers_come_back_as_they_were() -> None:
    stamp = Stamp(*(msgspec.Raw(json.dumps(one).encode()) for one in ("i", "m", "p")), 0)
    for exchange in chats("cohere", stream=False):
        said = json.loads(exchange.body)["message"]
        completion = parse_response(exchange.body, PLAIN)
        message = json.loads(render_completion(completion, stamp, 1))["choices"][0]["message"]
        back = body(HELLO, message, HELLO)["messages"][1]
        said.pop("citations", None)
        assert back == said, exchange.where


def test_the_types_of_the_sdk_accept_what_is_rendered() -> None:
    """Cohere's own types of messages."""
    types = pytest.importorskip("cohere.types", reason="the cohere SDK is not installed")
    pydantic = pytest.importorskip("pydantic")
    messages = pydantic.TypeAdapter(list[types.ChatMessageV2])
    for exchange in chats("cohere"):
        said = as_openai(exchange.request)
        made = json.loads(render_request(parse_chat(parse_request(json.dumps(said).encode()).fields), COMMAND).body)
        assert len(messages.validate_python(made["messages"])) == len(made["messages"])


def test_recorded_errors() -> None:
    [fault] = [parse_error(one.status, one.body) for one in every("cohere") if one.status != 200]
    assert fault.kind == "not_found" and fault.message.startswith("model 'nonexistent' not found")


# Where it goes


def test_the_least_request() -> None:
    made, request = rendered()
    assert made == {"model": "command-r7b-12-2024", "messages": [HELLO], "stream": False}
    assert (request.path, request.headers, request.dropped) == ("/chat", (), ())


def test_plain_fields() -> None:
    made, request = rendered(
        temperature=1.7, top_p=1, top_k=900, stop=["END"], user="u", seed=-1, frequency_penalty=1.5,
        presence_penalty=-1, logprobs=True, top_logprobs=3, logit_bias={"1": 2}, max_tokens=20, stream=True,
        documents=["a"], safety_mode="STRICT", service_tier="flex",
    )  # fmt: skip
    assert {name: made[name] for name in made if name not in ("model", "messages")} == {
        "temperature": 1, "p": 0.99, "k": 500, "stop_sequences": ["END"], "seed": 1, "frequency_penalty": 1,
        "logprobs": True, "max_tokens": 20, "stream": True, "documents": ["a"], "safety_mode": "STRICT",
    }  # fmt: skip
    assert sorted(request.dropped) == ["logit_bias", "presence_penalty", "service_tier", "top_logprobs", "user"]


def test_tool_choice() -> None:
    other = {"type": "function", "function": {"name": "g", "strict": True}}
    by_name = {"type": "function", "function": {"name": "g"}}
    assert "tool_choice" not in body(tools=[TOOL]) and "tool_choice" not in body(tools=[TOOL], tool_choice="auto")
    assert body(tools=[TOOL], tool_choice="none")["tool_choice"] == "NONE"
    assert body(tools=[TOOL], tool_choice="required")["tool_choice"] == "REQUIRED"
    made = body(tools=[TOOL, other], tool_choice=by_name)
    assert [tool["function"]["name"] for tool in made["tools"]] == ["g"] and made["tool_choice"] == "REQUIRED"
    assert made["strict_tools"] is True
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [by_name]}}
    made = body(tools=[TOOL, other], tool_choice=allowed)
    assert [tool["function"]["name"] for tool in made["tools"]] == ["g"] and "tool_choice" not in made
    for fields in ({"tool_choice": "required", "model": OLD}, {"model": VISION}):
        with pytest.raises(Unsupported):
            body(tools=[TOOL], **fields)
    with pytest.raises(Unsupported):
        body(tools=[{"type": "web_search"}])
    assert rendered(tools=[TOOL], parallel_tool_calls=False)[1].reading.first_call_only


def test_the_shape_of_the_answer() -> None:
    assert body(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}
    assert body(response_format=WANTED)["response_format"] == {"type": "json_object", "json_schema": SCHEMA}
    made, request = rendered(response_format=WANTED, tools=[TOOL])
    assert "response_format" not in made and made["tool_choice"] == "REQUIRED"
    assert made["tools"][1]["function"]["parameters"] == SCHEMA and request.reading.schema_tool == "structured_answer"
    made, request = rendered(response_format={"type": "json_object"}, tools=[TOOL])
    assert made["messages"][0]["role"] == "system" and request.reading.strip_fences
    made, request = rendered(response_format=WANTED, tools=[TOOL], model=OLD)
    assert '"integer"' in made["messages"][0]["content"] and request.reading.strip_fences
    strict = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    with pytest.raises(Unsupported) as refused:
        body(response_format=strict, tools=[TOOL], model=OLD)
    assert refused.value.param == "response_format"


def test_thinking() -> None:
    assert body(model=REASONING, reasoning_effort="high")["thinking"] == {"type": "enabled", "token_budget": 24576}
    assert body(model=REASONING, reasoning={"max_tokens": 7})["thinking"] == {"type": "enabled", "token_budget": 7}
    assert body(model=REASONING, reasoning={"enabled": True})["thinking"] == {"type": "enabled"}
    assert body(model=REASONING, reasoning_effort="none")["thinking"] == {"type": "disabled"}
    assert "thinking" not in body(model=REASONING)
    made, request = rendered(reasoning_effort="high")
    assert "thinking" not in made and request.dropped == ("reasoning_effort",)


def test_a_turn_with_calls() -> None:
    made = body(HELLO, {**CALLED, "content": "Let me look."}, {**RESULT, "content": ""}, tools=[TOOL])["messages"]
    assert made[1] == {
        "role": "assistant",
        "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        "tool_plan": "Let me look.",
    }
    assert made[2] == {"role": "tool", "tool_call_id": "t1", "content": "(no output)"}
    foreign = {"type": "reasoning.text", "text": "Hm", "signature": "s", "format": "anthropic-claude-v1"}
    assert "tool_plan" not in body(HELLO, {**CALLED, "reasoning_details": [foreign]}, RESULT)["messages"][1]


def test_what_clients_and_models_leave_half_done() -> None:
    made, request = rendered(stop=["a", "b", "c", "d", "e", "f"])
    assert made["stop_sequences"] == ["a", "b", "c", "d", "e"] and request.dropped == ("stop",)
    parts = [{"type": "text", "text": ""}, {"type": "text", "text": "x"}]
    assert body({"role": "user", "content": parts})["messages"] == [{"role": "user", "content": parts[1:]}]
    broken = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"city":"Kö'}}
    made = body(HELLO, {"role": "assistant", "tool_calls": [broken]}, RESULT)["messages"][1]["tool_calls"][0]
    assert json.loads(made["function"]["arguments"]) == {"invalid_json": '{"city":"Kö'}


def test_pictures() -> None:
    user = {"role": "user", "content": [{"type": "text", "text": "Look"}, PNG]}
    assert body(user, model=VISION)["messages"] == [user]
    with pytest.raises(Unsupported) as refused:
        body(user)
    assert refused.value.param == "messages[0].content[1]"
    seeing = msgspec.structs.replace(VISION, tools=True)
    second = {**RESULT, "tool_call_id": "t2"}
    result = {**RESULT, "content": [{"type": "text", "text": "x"}, PNG]}
    made = body(HELLO, CALLED, result, second, HELLO, model=seeing)["messages"]
    assert [message["role"] for message in made] == ["user", "assistant", "tool", "tool", "user", "user"]
    assert made[4]["content"] == [{"type": "text", "text": "The result of t1:"}, PNG]
    for part in (
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,AAAA"}},
    ):
        with pytest.raises(Unsupported):
            body({"role": "user", "content": [part]}, model=VISION)


def test_what_cannot_be() -> None:
    for messages, fields in (((), {"n": 2}), ((HELLO, {"role": "assistant", "content": "It"}), {})):
        with pytest.raises(Unsupported):
            body(*messages, **fields)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "too many tokens: size limit exceeded by 11326 tokens.", "context_length"),
        (400, "invalid request: temperature", "bad_request"),
        (401, "invalid api token", "auth"),
        (402, "Please add or update your payment method", "auth"),
        (404, "model 'x' not found", "not_found"),
        (422, "message must be at least 1 token long", "bad_request"),
        (429, "You are using a Trial key, which is limited to 10 API calls / minute.", "rate_limit"),
        (498, "the request was blocked", "content_policy"),
        (500, "internal server error", "server"),
        (503, "unavailable", "overloaded"),
    ],
)
def test_errors(status: int, message: str, kind: str) -> None:
    fault = parse_error(status, json.dumps({"id": "i", "message": message}).encode())
    assert (fault.kind, fault.message) == (kind, message)
    assert parse_error(status, b"<html>").message == ""

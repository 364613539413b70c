"""OpenAI's format toward upstreams: recordings in every accent mean the same, streams add up at every split."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.recordings import FORMATS, Recorded, chats, play
from waypost.chat import Chat
from waypost.completion import BadAnswer, Choice, Completion, Failed, TextDelta, fold
from waypost.formats.accents import ACCENTS, OPENAI
from waypost.formats.format import Reading
from waypost.formats.openai_chat import parse_request
from waypost.formats.openai_compatible import known_model, parse_error, parse_response, render_request, stream_parser
from waypost.formats.openai_request import parse_chat
from waypost.records import Usage

Json = dict[str, Any]
PLAIN = Reading()
PROVIDERS = sorted(name for name, (module, _) in FORMATS.items() if module == "openai_compatible")
HELLO = {"role": "user", "content": "Hello"}


def errors_in(exchange: Recorded) -> list[Json]:
    return [event["error"] for event in events_of(exchange) if event.get("error")]


def events_of(exchange: Recorded) -> list[Json]:
    lines = [line[5:].strip() for line in exchange.body.splitlines() if line.startswith(b"data:")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


# Recorded answers


def check_meaning(choice: Choice, message: Json, finish: str) -> None:
    """Does a choice say what the message says? Written against the wire, without our reader."""
    content = message.get("content") or ""
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    if isinstance(content, list):
        for part in content:
            if part["type"] == "thinking":
                thought += "".join(piece["text"] for piece in part["thinking"])
        content = "".join(part["text"] for part in content if part["type"] == "text")
    assert (choice.text or "") == content and choice.reasoning == thought
    calls = [
        (call["id"], call["function"]["name"], call["function"].get("arguments") or "")
        for call in message.get("tool_calls") or ()
    ]
    assert [(call.id, call.function.name, call.function.arguments) for call in choice.tool_calls] == calls
    assert choice.finish_reason == ("tool_calls" if calls and finish == "stop" else finish)
    assert (choice.refusal or None) == (message.get("refusal") or None)
    details = message.get("reasoning_details") or []
    made: list[Json] = json.loads(msgspec.json.encode(choice.reasoning_details))
    assert made == [{name: value for name, value in one.items() if value is not None} for one in details]
    pages = [one["url_citation"] for one in message.get("annotations") or () if "url_citation" in one]
    assert [page.url for page in choice.annotations] == [page["url"] for page in pages]


def check_usage(usage: Usage | None, said: Json) -> None:
    assert usage is not None
    assert usage.prompt == said["prompt_tokens"]
    assert usage.completion in (said["completion_tokens"], said["total_tokens"] - said["prompt_tokens"])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_whole_answers(provider: str) -> None:
    for exchange in chats(provider, stream=False):
        said = json.loads(exchange.body)
        completion = parse_response(exchange.body, PLAIN)
        try:
            for choice, its in zip(completion.choices, said["choices"], strict=True):
                check_meaning(choice, its["message"], its["finish_reason"])
                assert choice.native_finish_reason == (its.get("native_finish_reason") or its["finish_reason"])
            if said.get("usage"):
                check_usage(completion.usage, said["usage"])
        except AssertionError as error:
            raise AssertionError(exchange.where) from error
        assert (completion.id, completion.model) == (said["id"], said["model"])


def added_up(exchange: Recorded) -> tuple[Json, str, Json | None]:
    """A recorded stream of one choice → its message, its finish, and its usage."""
    message: Json = {}
    finish, usage = "", None
    for event in events_of(exchange):
        usage = event.get("usage") or usage
        for choice in event.get("choices") or ():
            finish = choice.get("finish_reason") or finish
            add_delta(message, choice.get("delta") or {})
    return message, finish, usage


def add_delta(message: Json, delta: Json) -> None:
    for name in ("reasoning_content", "reasoning", "refusal"):
        if delta.get(name):
            message[name] = message.get(name, "") + delta[name]
    content = delta.get("content") or ""
    if isinstance(content, list):
        for part in content:
            if part["type"] == "thinking":
                thought = "".join(piece["text"] for piece in part["thinking"])
                message["reasoning"] = message.get("reasoning", "") + thought
    else:
        message["content"] = message.get("content", "") + content
    message.setdefault("annotations", []).extend(delta.get("annotations") or ())
    for piece in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        if piece["index"] == len(calls):
            calls.append({"id": piece["id"], "function": {"name": piece["function"]["name"], "arguments": ""}})
        calls[piece["index"]]["function"]["arguments"] += piece["function"].get("arguments") or ""
    for piece in delta.get("reasoning_details") or ():
        details = message.setdefault("reasoning_details", [])
        if not details or details[-1]["type"] != piece["type"]:
            details.append(dict(piece))
            continue
        for name in ("text", "data", "summary", "signature"):
            if piece.get(name):
                details[-1][name] = (details[-1].get(name) or "") + piece[name]


@pytest.mark.parametrize("size", [0, 1, 7, 1000])
@pytest.mark.parametrize("provider", ["groq", "huggingface", "mistral", "openai", "openrouter"])
def test_streams_at_every_split(provider: str, size: int) -> None:
    for exchange in chats(provider, stream=True):
        data = exchange.body
        if size == 1 and len(data) > 30_000:
            continue
        pieces = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
        events = play(stream_parser(PLAIN), pieces)
        assert events == play(stream_parser(PLAIN), [data]), exchange.where
        if errors_in(exchange):
            assert [one for one in events if isinstance(one, Failed)] == events[-1:], exchange.where
            continue
        message, finish, usage = added_up(exchange)
        completion = fold(events)
        try:
            check_meaning(completion.choices[0], message, finish)
            if usage is not None:
                check_usage(completion.usage, usage)
        except AssertionError as error:
            raise AssertionError(exchange.where) from error


def test_recorded_errors() -> None:
    kinds: dict[str, list[str]] = {}
    for provider in ("groq", "openai", "openrouter"):
        for exchange in chats(provider, good=False):
            fault = parse_error(exchange.status, exchange.body)
            assert fault.message, exchange.where
            kinds.setdefault(provider, []).append(fault.kind)
        for exchange in chats(provider, stream=True):
            for error in errors_in(exchange):
                kinds.setdefault(provider, []).append(parse_error(0, json.dumps({"error": error}).encode()).kind)
    assert {provider: sorted(set(found)) for provider, found in kinds.items()} == {
        "groq": ["bad_request", "not_found", "server"],
        "openai": ["bad_request", "not_found"],
        "openrouter": ["bad_request", "rate_limit"],
    }


def test_a_router_says_what_its_provider_said() -> None:
    error = {"message": "Provider returned error", "code": 429, "metadata": {"raw": "x is rate-limited upstream"}}
    fault = parse_error(429, json.dumps({"error": error}).encode())
    assert (fault.kind, fault.message) == ("rate_limit", "Provider returned error\nx is rate-limited upstream")


# What is not in the recordings


def answer(*messages: Json, finish: str = "stop", **more: Any) -> bytes:
    choices = [{"index": at, "message": one, "finish_reason": finish} for at, one in enumerate(messages)]
    return json.dumps({"id": "i", "model": "m", "choices": choices, **more}).encode()


def stream(*messages: Json, finish: str = "stop", cut: int = 3, done: bytes = b"data: [DONE]\n\n") -> bytes:
    """The same answer as a stream, its strings in pieces of `cut` characters."""
    chunks: list[Json] = []

    def add(index: int, delta: Json, finish: str | None = None) -> None:
        chunks.append({"id": "i", "model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]})

    for index, message in enumerate(messages):
        add(index, {"role": "assistant", "content": ""})
        for name in ("reasoning_content", "reasoning", "content", "refusal"):
            text = message.get(name) or ""
            for at in range(0, len(text), cut):
                add(index, {name: text[at : at + cut]})
        for place, call in enumerate(message.get("tool_calls") or ()):
            function, arguments = call["function"], call["function"]["arguments"]
            start = {**call, "index": 2 * place, "function": {**function, "arguments": ""}}
            add(index, {"tool_calls": [start]})
            for at in range(0, len(arguments), cut):
                more = {"index": 2 * place, "function": {"arguments": arguments[at : at + cut]}}
                add(index, {"tool_calls": [more]})
        add(index, {}, finish)
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + done


calls = st.builds(
    lambda id, text: {"id": f"call_{id}", "type": "function", "function": {"name": "f", "arguments": text}},
    st.integers(0, 9),
    st.text(max_size=9),
)
messages = st.fixed_dictionaries(
    {"content": st.none() | st.text(max_size=9)},
    optional={
        "reasoning_content": st.text(max_size=9), "refusal": st.text(max_size=5),
        "tool_calls": st.lists(calls, max_size=3),
    },
)  # fmt: skip


@given(
    st.lists(messages, min_size=1, max_size=2), st.sampled_from(["stop", "length", "content_filter", "eos"]), st.data()
)
def test_any_answer_streams_to_the_same(said: list[Json], finish: str, data: st.DataObject) -> None:
    wire = stream(*said, finish=finish)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    streamed = fold(play(stream_parser(PLAIN), pieces))
    assert streamed.choices == parse_response(answer(*said, finish=finish), PLAIN).choices


def folded(wire: bytes) -> Completion:
    return fold(play(stream_parser(PLAIN), [wire]))


def test_a_stream_ends_with_its_marker_or_with_a_finish() -> None:
    said = {"content": "Hello"}
    assert folded(stream(said)).choices[0].text == folded(stream(said, done=b"")).choices[0].text == "Hello"
    cut = stream(said).partition(b'finish_reason": "stop')[0].rpartition(b"data:")[0]
    for broken in (cut, cut + b"data: [DONE]\n\n", b"", b"data: [DONE]\n\n", b"data: nonsense\n\n", b"data: []\n\n"):
        events = play(stream_parser(PLAIN), [broken])
        assert [one for one in events if isinstance(one, Failed)] == events[-1:] != []


def test_what_follows_a_finish() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    late = b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": ""}}], "usage": usage}).encode()
    completion = folded(stream({"content": "Hi"}, done=late + b"data: [DONE]\n\n"))
    assert completion.choices[0].text == "Hi" and completion.usage == Usage(fresh=3, output=2)


def test_an_error_in_the_stream_ends_it() -> None:
    error = b'data: {"error":{"message":"busy","code":503}}\n\n'
    parser = stream_parser(PLAIN)
    events = play(parser, [stream({"content": "Hel"}, done=b"").rpartition(b"data:")[0] + error + b"data: x\n\n"])
    assert [type(one) for one in events] == [TextDelta, Failed] and parser.done
    assert isinstance(events[-1], Failed) and events[-1].fault.kind == "overloaded"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"<html>", b"{}", b'{"choices":[]}', b'{"error":{"message":"x"}}',
        answer({}, finish="error"),
        b'{"choices":[{"message":{"content":"x"}}]}', b'{"choices":[{"message":{"content":3},"finish_reason":"stop"}]}',
    ],
)  # fmt: skip
def test_a_body_that_is_no_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_response(body, PLAIN)


# Requests


def chat(**fields: Any) -> Chat:
    return parse_chat(parse_request(json.dumps({"model": "m", "messages": [HELLO], **fields}).encode()).fields)


def test_a_request_comes_out_as_it_went_in() -> None:
    sent = {
        "model": "gpt-5.2", "stream": True, "stream_options": {"include_usage": True}, "max_completion_tokens": 5,
        "temperature": 0.5, "top_p": 0.9, "stop": ["x"], "seed": 3, "frequency_penalty": 0.1, "presence_penalty": 0.2,
        "logprobs": True, "top_logprobs": 2, "n": 2, "parallel_tool_calls": False, "user": "u", "service_tier": "flex",
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}},
            {"type": "custom", "custom": {"name": "g"}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}}, "reasoning_effort": "high", "logit_bias": {},
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": True, "description": "d"},
        },
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}]},
            {
                "role": "assistant", "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "21"},
        ],
    }  # fmt: skip
    made = render_request(chat(**sent), known_model("gpt-5.2"), OPENAI)
    expected = json.loads(json.dumps(sent))
    del expected["messages"][2]["content"]
    assert json.loads(made.body) == expected and made.dropped == ()
    assert made.path == "/chat/completions"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"tool_choice": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}, {"tool_choice": "auto"}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning": {"max_tokens": 99}}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ({"reasoning": {"enabled": True}}, {"thinking": {"type": "enabled"}}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
    ],
)
def test_a_request_in_an_accent(fields: Json, expected: Json) -> None:
    made = json.loads(render_request(chat(**fields), known_model("deepseek-chat"), ACCENTS["deepseek"]).body)
    made.pop("tools", None)
    assert made == {"model": "deepseek-chat", "messages": [HELLO], **expected}


def test_allowed_tools() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool]}}
    made = json.loads(render_request(chat(tools=[tool], tool_choice=choice), known_model("gpt-5"), OPENAI).body)
    assert made["tool_choice"] == choice


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"message": "maximum context length is 8192 tokens"}, "context_length"),
        (400, {"message": "x", "code": "context_length_exceeded"}, "context_length"),
        (400, {"message": "x", "code": "content_filter"}, "content_policy"),
        (400, {"message": "Your prompt was flagged"}, "content_policy"),
        (400, {"message": "x", "param": "seed"}, "bad_request"),
        (401, {"message": "x"}, "auth"),
        (402, {"message": "credits"}, "auth"),
        (404, {"message": "x", "code": "model_not_found"}, "not_found"),
        (418, {"message": "x"}, "bad_request"),
        (429, {"message": "x", "code": "insufficient_quota"}, "auth"),
        (429, {"message": "x"}, "rate_limit"),
        (500, {"message": "x"}, "server"),
        (0, {"message": "x", "code": 429}, "rate_limit"),
        (0, {"message": "x"}, "server"),
    ],
)
def test_errors(status: int, error: Json, kind: str) -> None:
    fault = parse_error(status, json.dumps({"error": error}).encode())
    assert (fault.kind, fault.message, fault.param) == (kind, error["message"], error.get("param"))

"""Recorded answers of every vendor through the relays that translate them: what the caller gets is what was said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.formats.recordings import FORMATS, Recorded, chats, module, read
from waypost.completion import BadAnswer, Choice, Completion
from waypost.formats.format import Reading
from waypost.formats.openai_answer import Stamp, render_usage
from waypost.records import Usage
from waypost.worker.judging import judge_of
from waypost.worker.relay import UpstreamError
from waypost.worker.translate import Kept, StreamTranslator, Terms, WholeTranslator

PROVIDERS = ["anthropic", "bedrock", "cohere", "gemini", "vertex"]
SIZES = (1, 7, 1000, 1 << 30)
SLOW = 20_000  # bytes of a body that is not fed byte by byte


def terms(provider: str, kept: list[Kept], judge: Any = None) -> Terms:
    def usage(counted: Usage | None, observed: int) -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(render_usage(counted) if counted is not None else {"seen": observed}))

    stamp = Stamp(msgspec.Raw(b'"id"'), msgspec.Raw(b'"model"'), msgspec.Raw(b'"provider"'), 1)
    return Terms(
        module(provider), Reading(), stamp, lambda: 5, True, True, usage, kept.append,
        judge or judge_of(None, Reading(), True),
    )  # fmt: skip


def expected(exchange: Recorded, provider: str) -> Completion | None:
    try:
        completion = read(provider, exchange)
    except BadAnswer:
        return None
    return completion if completion.choices else None


def fed(exchange: Recorded, provider: str, size: int, kept: list[Kept]) -> tuple[bytes, Any]:
    relay: Any = (StreamTranslator if exchange.is_stream else WholeTranslator)(terms(provider, kept))
    body, out = exchange.body, b""
    for at in range(0, len(body), size):
        out += relay.feed(body[at : at + size])
    if not relay.done:
        out += relay.end()
    return out, relay


def of_stream(body: bytes) -> dict[str, Any]:
    """A stream's chunks added up as a client does."""
    *events, done = body.removesuffix(b"\n\n").split(b"\n\n")
    assert done == b"data: [DONE]"
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert all((chunk["id"], chunk["model"], chunk["created"]) == ("id", "model", 1) for chunk in chunks)
    assert chunks[-1]["provider"] == "provider" and chunks[-1]["latency_ms"] == 5 and chunks[-1]["choices"] == []
    message: dict[str, Any] = {"content": None, "calls": {}, "reasoning": ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"]:
                continue
            delta = choice["delta"]
            if delta.get("content"):
                message["content"] = (message["content"] or "") + delta["content"]
            message["reasoning"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                known = message["calls"].setdefault(call["index"], ["", "", ""])
                known[0] = call.get("id") or known[0]
                known[1] += call["function"].get("name") or ""
                known[2] += call["function"].get("arguments") or ""
            message["finish"] = choice["finish_reason"]
    calls = [tuple(message["calls"][index]) for index in sorted(message["calls"])]
    return {**message, "calls": calls, "usage": chunks[-1]["usage"]}


def of_whole(body: bytes) -> dict[str, Any]:
    answer = json.loads(body)
    assert (answer["id"], answer["model"], answer["provider"], answer["latency_ms"]) == ("id", "model", "provider", 5)
    choice = answer["choices"][0]
    message = choice["message"]
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
    ]
    reasoning = message.get("reasoning_content", "")
    return {
        "content": message["content"], "reasoning": reasoning, "calls": calls, "finish": choice["finish_reason"],
        "usage": answer["usage"],
    }  # fmt: skip


def check(found: dict[str, Any], choice: Choice, usage: Usage | None) -> None:
    assert (found["content"] or "") == (choice.text or "") and found["reasoning"] == choice.reasoning
    calls = [(call.function.name, call.function.arguments) for call in choice.tool_calls]
    assert [call[1:] for call in found["calls"]] == calls and found["finish"] == choice.finish_reason
    if usage is not None:
        assert found["usage"]["total_tokens"] == usage.prompt + usage.completion


def sized(exchange: Recorded) -> Iterator[int]:
    for size in SIZES:
        if size > 1 or len(exchange.body) < SLOW:
            yield size


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_recorded_answer_at_every_split(provider: str) -> None:
    assert set(PROVIDERS) <= set(FORMATS)
    count = 0
    for exchange in chats(provider):
        completion = expected(exchange, provider)
        if completion is None:
            continue
        for size in sized(exchange):
            kept: list[Kept] = []
            out, relay = fed(exchange, provider, size, kept)
            found = of_stream(out) if exchange.is_stream else of_whole(out)
            check(found, completion.choices[0], completion.usage)
            assert relay.counted == completion.usage, exchange.where
            assert (relay.usage is None) == (completion.raw_usage is None)
            said = completion.choices[0]
            if said.text or said.tool_calls:
                assert relay.observed > 0
            signed = [call for call in said.tool_calls if call.extra_content]
            if said.tool_calls and (said.reasoning_details or signed):
                assert any(one.is_worth_it for one in kept), exchange.where
        count += 1
    assert count > 10


def cut(exchange: Recorded, provider: str, at: int) -> tuple[bytes, bool]:
    """What a caller gets of the first bytes of a stream, and whether it was told that they are all."""
    relay = StreamTranslator(terms(provider, []))
    out = b""
    try:
        out += relay.feed(exchange.body[:at])
        return out + relay.end(), relay.finished
    except UpstreamError as error:
        return out + error.before, False


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name != "cohere"])  # of which no stream is recorded
def test_a_stream_that_is_cut_is_never_whole(provider: str) -> None:
    streams = [one for one in chats(provider, stream=True) if expected(one, provider) is not None][:5]
    assert streams
    for exchange in streams:
        size = len(exchange.body)
        for at in range(1, size * 2 // 3, max(1, size // 40)):
            out, is_whole = cut(exchange, provider, at)
            assert out.endswith(b"data: [DONE]\n\n") == is_whole, (exchange.where, at)
        assert cut(exchange, provider, size)[1]


def test_a_judge_s_word_is_an_upstream_s_failure() -> None:
    exchange = next(one for one in chats("anthropic", stream=False) if expected(one, "anthropic") is not None)
    relay = WholeTranslator(terms("anthropic", [], lambda completion: "not what was asked for"))
    relay.feed(exchange.body)
    with pytest.raises(UpstreamError, match="not what was asked for"):
        relay.end()

"""Recorded answers of real providers through the relays: what reaches the caller says what the provider said."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import msgspec
import pytest

from tests.worker.test_relay import sources
from tests.worker.transcripts import OURS, in_bytes, play, stamp, told
from waypost.worker.relay import WholeRelay

WIRE = pathlib.Path(__file__).parents[3] / "shared" / "wire"
STREAMING = ["openai", "groq", "mistral", "openrouter", "huggingface"]
WHOLE = [*STREAMING, "deepseek", "cerebras", "azure", "ollama"]
STEP = 97  # a cut at every 97th byte: every kind of place is met over all recordings


class Recorded(msgspec.Struct):
    name: str
    n: int
    url: str
    status: int
    request: Any
    response: Any
    content_type: str | None = None


def recorded(provider: str, stream: bool) -> list[Recorded]:
    path = WIRE / f"{provider}.jsonl"
    if not path.exists():
        pytest.skip(f"no recordings of {provider} at ../shared/wire")
    found = []
    for line in path.read_bytes().splitlines():
        exchange = msgspec.json.decode(line, type=Recorded)
        is_chat = re.search(r"/chat/completions([?#]|$)", exchange.url) and exchange.status == 200
        if is_chat and ("event-stream" in (exchange.content_type or "")) == stream:
            found.append(exchange)
    assert found, f"{provider} has no such recording"
    return found


@pytest.mark.parametrize("provider", STREAMING)
def test_streams(provider: str) -> None:
    for exchange in recorded(provider, stream=True):
        data = exchange.response.encode()
        events = sources(data)
        errors = [event["error"]["message"] for event in events if event.get("error")]
        if errors:
            for pieces in ([data], in_bytes(data)):
                assert str(play(pieces).error) == errors[0], exchange.name
            continue
        came = told(events)
        whole = play([data], include_usage=True)
        assert whole.error is None, f"{exchange.name} {exchange.n}: {whole.error}"
        for pieces in ([data], in_bytes(data), *([data[:at], data[at:]] for at in range(STEP, len(data), STEP * 7))):
            played = play(pieces, include_usage=True)
            assert played.error is None and played.events == whole.events, f"{exchange.name} {exchange.n}"
        chunks = whole.chunks
        went = told(chunks)
        assert (went.deltas, went.calls, went.finish, went.usage) == (came.deltas, came.calls, came.finish, came.usage)
        assert went.deltas and went.finish, "a recording that says nothing would prove nothing"
        assert {(one["id"], one["model"]) for one in chunks} == {(OURS["id"], OURS["model"])}
        assert [one for one in chunks if "latency_ms" in one] == chunks[-1:]
        assert whole.events[-1] == "[DONE]" and whole.events.count("[DONE]") == 1


@pytest.mark.parametrize("provider", WHOLE)
def test_whole_answers(provider: str) -> None:
    for exchange in recorded(provider, stream=False):
        data = exchange.response.encode()
        answer = json.loads(data)
        for pieces in ([data], [data[: len(data) // 2], data[len(data) // 2 :]]):
            played = play(pieces, relay=WholeRelay(stamp()))
            assert played.error is None, f"{exchange.name} {exchange.n}: {played.error}"
            went = json.loads(played.out)
            assert went == {**answer, **OURS, "provider": "sim", "latency_ms": 42}
        usage = played.relay.usage
        assert (msgspec.json.decode(usage) if usage is not None else None) == answer.get("usage")

"""The response cache, as the openai SDK for Python meets it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.harness import Waypost
from tests.sim.running import Running
from waypost.sim.journal import Exchange, read_journal

WANTED = {"X-Waypost-Cache": "true"}
KeyOn = Callable[[str], str]


@pytest.fixture
def client(gateway: Waypost, key_on: KeyOn) -> Any:
    with openai.OpenAI(base_url=gateway.base, api_key=key_on("free"), max_retries=0) as client:
        yield client


def asked_of(simulator: Running, mark: str) -> list[Exchange]:
    return [exchange for exchange in read_journal(simulator.journal) if exchange.nonce == mark]


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_a_whole_answer_comes_again(client: openai.OpenAI, simulator: Running, mark: str) -> None:
    create = client.chat.completions.with_raw_response.create
    raw = [create(model="gpt-4o-mini", messages=user(mark), extra_headers=WANTED) for _ in range(2)]
    first, second = (each.parse() for each in raw)
    assert [each.headers["x-waypost-cache-status"] for each in raw] == ["MISS", "HIT"]
    assert second.choices == first.choices and second.usage == first.usage and second.id != first.id
    assert raw[1].headers["x-waypost-cache-source-id"] == first.id and int(raw[1].headers["x-waypost-cache-age"]) < 300
    assert len(asked_of(simulator, mark)) == 1


def test_a_stream_comes_again_chunk_by_chunk(client: openai.OpenAI, simulator: Running, mark: str) -> None:
    def chunks() -> list[Any]:
        options: Any = {"stream_options": {"include_usage": True}}
        return list(
            client.chat.completions.create(
                model="sim/words-30", messages=user(mark), stream=True, extra_headers=WANTED, **options
            )
        )

    first, second = chunks(), chunks()
    assert len(first) > 30 and len(second) == len(first)
    assert [chunk.choices for chunk in second] == [chunk.choices for chunk in first]
    assert second[-1].usage == first[-1].usage and second[-1].usage is not None
    assert len({chunk.id for chunk in first}) == len({chunk.id for chunk in second}) == 1
    assert first[0].id != second[0].id and len(asked_of(simulator, mark)) == 1


def test_tool_calls_come_again(client: openai.OpenAI, simulator: Running, mark: str) -> None:
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    answers = [
        client.chat.completions.create(
            model="gpt-4o-mini", messages=user(f"Get the weather {mark}"), tools=tools, extra_headers=WANTED
        )
        for _ in range(2)
    ]
    assert answers[0].choices[0].message.tool_calls and answers[0].choices == answers[1].choices
    assert len(asked_of(simulator, mark)) == 1


def test_with_an_idempotency_key_the_answer_is_that_key_s(client: openai.OpenAI, simulator: Running, mark: str) -> None:
    keys = [secrets.token_hex(8), secrets.token_hex(8)]

    def ask(key: str, stream: bool) -> tuple[str, str]:
        headers = {**WANTED, "Idempotency-Key": f"{key}{stream}"}
        if not stream:
            answer = client.chat.completions.create(model="gpt-4o-mini", messages=user(mark), extra_headers=headers)
            return answer.id, str(answer.choices[0].message.content)
        chunks = list(
            client.chat.completions.create(model="gpt-4o-mini", messages=user(mark), stream=True, extra_headers=headers)
        )
        return chunks[0].id, "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)

    for stream in (False, True):
        first, hit, repeated = ask(keys[0], stream), ask(keys[1], stream), ask(keys[1], stream)
        assert hit[0] != first[0] and repeated == hit and hit[1] == first[1]
    assert len(asked_of(simulator, mark)) == 2

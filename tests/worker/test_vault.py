"""Signatures that clients drop: kept an hour for the account and the call, bounded, and put back on the wire."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.harness import serving
from tests.worker.vendor import Asked, Said, events, message, said, vending
from waypost.chat import CLAUDE, AssistantMessage, Chat, FunctionCall, ReasoningDetail, ToolCall, UserMessage
from waypost.worker.translate import Kept
from waypost.worker.vault import SECONDS, Vault

THOUGHT = ReasoningDetail("reasoning.text", text="Hm.", signature="sig-1", format=CLAUDE)
SIGNATURE = {"google": msgspec.Raw(b'{"thought_signature":"sig-2"}')}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def turn(*ids: str, **more: Any) -> AssistantMessage:
    return AssistantMessage(tool_calls=tuple(ToolCall(id, FunctionCall("f", "{}")) for id in ids), **more)


def chat(*messages: Any) -> Chat:
    return Chat(messages=(UserMessage("Hi"), *messages))


def test_what_was_dropped_comes_back() -> None:
    vault = Vault(Clock())
    vault.keep(7, Kept({"a": SIGNATURE, "b": None}, (THOUGHT,), {"anthropic": msgspec.Raw(b"[1]")}))
    completed = vault.complete(7, chat(turn("a", "b"))).messages[1]
    assert isinstance(completed, AssistantMessage) and completed.tool_calls is not None
    assert completed.reasoning_details == (THOUGHT,) and completed.extra_content == {"anthropic": msgspec.Raw(b"[1]")}
    assert [call.extra_content for call in completed.tool_calls] == [SIGNATURE, None]


def test_what_the_client_kept_stays() -> None:
    vault = Vault(Clock())
    vault.keep(7, Kept({"a": SIGNATURE}, (THOUGHT,)))
    own = ReasoningDetail("reasoning.text", text="Own.", signature="own", format=CLAUDE)
    call = ToolCall("a", FunctionCall("f", "{}"), extra_content={"google": msgspec.Raw(b'"own"')})
    asked = chat(AssistantMessage(tool_calls=(call,), reasoning_details=(own,)))
    assert vault.complete(7, asked) is asked


@pytest.mark.parametrize(("account", "id", "later"), [(8, "a", 0.0), (7, "b", 0.0), (7, "a", SECONDS)])
def test_it_is_nobody_else_s_and_no_more_after_an_hour(account: int, id: str, later: float) -> None:
    clock = Clock()
    vault = Vault(clock)
    vault.keep(7, Kept({"a": SIGNATURE}))
    clock.now = later
    asked = chat(turn(id))
    assert vault.complete(account, asked) is asked
    assert vault.find(7, "a") is None or later == 0


def test_memory_is_bounded_by_number_and_by_bytes() -> None:
    vault = Vault(Clock(), most=10)
    for number in range(25):
        vault.keep(1, Kept({f"c{number}": SIGNATURE}))
    assert len(vault) == 10 and vault.find(1, "c14") is None and vault.find(1, "c15") is not None
    small = Vault(Clock(), most_bytes=10_000)
    for number in range(25):
        long = ReasoningDetail("reasoning.text", text="x" * 2000, signature="s", format=CLAUDE)
        small.keep(1, Kept({f"c{number}": None}, (long,)))
        assert small.size <= 10_000
    assert 1 <= len(small) <= 4 and small.find(1, "c24") is not None
    small.keep(1, Kept({"huge": None}, (ReasoningDetail("reasoning.text", text="x" * 20_000, format=CLAUDE),)))
    assert small.find(1, "huge") is None and small.size <= 10_000


def test_what_has_nothing_to_bring_back_is_not_kept() -> None:
    vault = Vault(Clock())
    vault.keep(1, Kept({"a": None}))
    vault.keep(1, Kept({}, (THOUGHT,)))
    vault.keep(1, Kept({"x" * 300: SIGNATURE}))
    assert len(vault) == 0 and vault.size == 0


def test_the_same_call_again_replaces_what_was_kept() -> None:
    vault = Vault(Clock())
    for signature in (b'"1"', b'"2"'):
        vault.keep(1, Kept({"a": {"google": msgspec.Raw(signature)}}))
    found = vault.find(1, "a")
    assert len(vault) == 1 and found is not None and found.calls["a"] == {"google": msgspec.Raw(b'"2"')}


# On the wire

THINKING = {"type": "thinking", "thinking": "Let me see.", "signature": "c2lnbmVk"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "x"}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
STREAM = [
    {"type": "message_start", "message": {**message(), "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Let me see."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2lnbmVk"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {**CALL, "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"at":"x"}'}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]


@pytest.mark.parametrize("stream", [False, True])
def test_signed_thinking_of_a_client_that_strips_it(stream: bool) -> None:
    def tell(asked: Asked) -> Said:
        if len(asked.json.get("messages", "xx")) > 1:
            return said(message("done"))
        return events(*STREAM) if asked.json.get("stream") else said(message(THINKING, CALL, stop="tool_use"))

    asked_first = [{"role": "user", "content": "look"}]
    call = {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"x"}'}}
    back = [
        *asked_first,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "seen"},
    ]
    with vending(tell) as vendor:
        text = f'[providers.anthropic]\nbase_url = "{vendor.root}/v1"\nkeys = ["k"]\n'
        text += f'[providers.gemini]\nbase_url = "{vendor.root}/v1beta"\nkeys = ["k"]\n'
        with serving(text) as gateway:
            asked = {"tools": TOOLS, "reasoning_effort": "low"}
            first = gateway.ask("anthropic/claude-sonnet-4-5", messages=asked_first, stream=stream, **asked)
            assert first.status == 200
            assert gateway.ask("anthropic/claude-sonnet-4-5", messages=back, **asked).text == "done"
            gateway.ask("gemini/gemini-2.5-flash", messages=back, **asked)
    claude, gemini = vendor.asked[1:]
    turn = claude.json["messages"][1]
    assert turn["role"] == "assistant" and [block["type"] for block in turn["content"]] == ["thinking", "tool_use"]
    assert turn["content"][0] == THINKING
    assert b"c2lnbmVk" not in gemini.body and b"Let me see" not in gemini.body, json.loads(gemini.body)

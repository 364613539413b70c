"""The same conversation has the same name in all of its turns, and is found again for ten minutes."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.policy.stickiness import IDLE, MOST, Conversation, Sticky

LANE = ("provider", "1", "model")
OTHER = ("other", "1", "model")


def message(role: str, content: Any = "x") -> dict[str, Any]:
    return {"role": role, "content": content}


def conversation(*messages: Any, scope: str = "a1 route/m", header: bytes = b"", **named: bytes) -> Conversation:
    return said(json.dumps(list(messages)).encode(), scope, header, **named)


def said(messages: bytes, scope: str = "a1", header: bytes = b"", **named: bytes) -> Conversation:
    return Conversation(scope, {"messages": messages, **named}, {b"x-session-id": header}.__getitem__)


OPENING = (message("system", "You are kind."), message("user", [{"type": "text", "text": "Hello"}]))


@given(st.lists(st.builds(message, st.sampled_from(["user", "assistant", "tool", "system"]), st.text(max_size=20))))
def test_later_turns_change_nothing(later: list[dict[str, Any]]) -> None:
    assert conversation(*OPENING, *later).name == conversation(*OPENING).name


def test_what_tells_conversations_apart() -> None:
    names = {
        conversation(*OPENING).name,
        conversation(*OPENING, scope="a2 route/m").name,
        conversation(OPENING[1]).name,
        conversation(OPENING[0]).name,
        conversation(OPENING[0], message("user", "Hello")).name,
        conversation(message("system", "You are kin"), message("user", "d.Hello")).name,
        conversation(*OPENING, session_id=b'"s"').name,
        conversation(*OPENING, session_id=b'"t"').name,
        conversation(*OPENING, session_id=b'"s"', scope="a2 route/m").name,
    }
    assert len(names) == 9


def test_which_name_wins() -> None:
    by_id = conversation(message("user"), session_id=b'"s"').name
    assert conversation(*OPENING, session_id=b'"s"', header=b"h", prompt_cache_key=b'"p"').name == by_id
    by_header = conversation(message("user"), header=b" h ").name
    assert conversation(*OPENING, session_id=b"null", header=b"h", prompt_cache_key=b'"p"').name == by_header
    by_key = conversation(message("user"), prompt_cache_key=b'"p"').name
    assert conversation(*OPENING, session_id=b'""', prompt_cache_key=b'"p"').name == by_key
    assert len({by_id, by_header, by_key, conversation(*OPENING).name}) == 4
    assert conversation(message("user"), header=b"s").name == by_id, "the same name however it is given"


def test_developer_is_system() -> None:
    assert (
        conversation(message("developer", "k"), OPENING[1]).name
        == conversation(message("system", "k"), OPENING[1]).name
    )


@pytest.mark.parametrize("messages", [b"", b"[", b"[1,null,[]]", b'[{"role":7}]', b'{"role":"tool"}', b"[" * 2000])
def test_messages_that_are_none_are_the_upstreams_to_refuse(messages: bytes) -> None:
    odd = said(messages)
    assert len(odd.name) == 16 and not odd.has_tool_results


def test_a_million_things_that_are_no_messages_take_no_room() -> None:
    odd = said(b"[%b1]" % (b"1," * 1_000_000))
    tracemalloc.start()
    try:
        assert len(odd.name) == 16 and not odd.has_tool_results
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("role", ["tool", "function"])
def test_results_of_tool_calls(role: str) -> None:
    assert conversation(*OPENING, message("assistant"), message(role)).has_tool_results
    assert not conversation(*OPENING, message("user", f'"role":"{role}"')).has_tool_results
    escaped = json.dumps([message(role)]).replace(role, f"\\u{ord(role[0]):04x}{role[1:]}").encode()
    assert said(escaped).has_tool_results


@pytest.mark.parametrize("raw", [b"7", b"{}", b'"\xff"'])
def test_a_session_id_that_is_none(raw: bytes) -> None:
    assert conversation(*OPENING, session_id=raw).name == conversation(*OPENING).name


def test_ten_idle_minutes() -> None:
    sticky = Sticky()
    sticky.keep(b"c", LANE, 0.0)
    assert sticky.find(b"c", IDLE) == LANE and sticky.find(b"c", IDLE + 1) is None
    sticky.keep(b"c", LANE, IDLE)
    assert sticky.find(b"c", IDLE + IDLE) == LANE, "each answer counts"
    assert sticky.find(b"d", 0.0) is None


def test_only_the_upstream_that_failed_lets_go() -> None:
    sticky = Sticky()
    sticky.keep(b"c", LANE, 0.0)
    sticky.release(b"c", OTHER)
    assert sticky.find(b"c", 1.0) == LANE
    sticky.release(b"c", LANE)
    assert not sticky


def test_a_table_that_is_not_used_is_empty_again_and_never_too_large() -> None:
    sticky = Sticky()
    for number in range(MOST + 10):
        sticky.keep(b"%d" % number, LANE, number / 1000)
    assert len(sticky) == MOST and sticky.find(b"9", 1.0) is None and sticky.find(b"10", 1.0) == LANE
    sticky.keep(b"late", LANE, 500.0)
    sticky.sweep(500.0 + IDLE)
    assert len(sticky) == 1
    sticky.sweep(501.0 + IDLE)
    assert not sticky

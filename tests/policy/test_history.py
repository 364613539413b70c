"""Cutting conversations: what stays, what goes, and that nothing is ever torn apart."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from waypost.formats.usage import weigh
from waypost.policy.history import Fitted, fit

MANY = 10_000


def raw(messages: list[Any]) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(messages).encode())


def cut(messages: list[Any], room: int | None = None, most: int = MANY) -> Fitted:
    """Every message weighs what its `weight` says, else 1."""
    return fit(raw(messages), room, most, lambda message: json.loads(message).get("weight", 1))


def names(fitted: Fitted) -> str:
    """The contents of the messages that are left, each a letter."""
    return "".join(message["content"] for message in json.loads(bytes(fitted.messages)))


def said(*turns: str, **weights: int) -> list[dict[str, Any]]:
    """`user a`, `tool r x`: role, content, and the id of the call; `assistant c x y`: it calls x and y."""
    messages = []
    for turn in turns:
        role, content, *ids = turn.split()
        message: dict[str, Any] = {"role": role, "content": content, "weight": weights.get(content, 1)}
        if role == "tool":
            message["tool_call_id"] = ids[0]
        elif ids:
            message["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids
            ]
        messages.append(message)
    return messages


TALK = said("system s", "user a", "assistant b", "user c", "assistant d", "user e")


@pytest.mark.parametrize(
    ("room", "left"), [(7, "sabcde"), (6, "sabcde"), (5, "scde"), (4, "scde"), (3, "se"), (2, "se"), (0, "se")]
)
def test_the_newest_turns_stay_and_begin_with_a_user(room: int, left: str) -> None:
    fitted = cut(TALK, room)
    assert names(fitted) == left
    assert (fitted.dropped, fitted.of) == (6 - len(left), 6)


@pytest.mark.parametrize(
    ("most", "left"), [(6, "sabcde"), (5, "sabcde"), (4, "scde"), (3, "scde"), (2, "se"), (1, "se")]
)
def test_so_many_messages_besides_instructions(most: int, left: str) -> None:
    assert names(cut(TALK, most=most)) == left
    assert names(cut(TALK, 100, most)) == left


def test_instructions_stay_where_they_are() -> None:
    talk = said("user a", "system s", "assistant b", "developer t", "user c", "system u", "assistant d", "user e")
    assert names(cut(talk, most=3)) == "stcude"
    assert names(cut(talk, 0)) == "stue"
    assert names(cut(said("system s", "developer t"), 0)) == "st"
    assert names(cut([], 0)) == ""


def test_what_is_cut_away_is_not_reworded() -> None:
    messages = (
        b'[ {"role": "user",  "content":"\\u00e4"}, {"role":"assistant", "content" : null }\n,{"role":"user","x":1e2}]'
    )
    assert bytes(fit(msgspec.Raw(messages), None, 1, len).messages) == b'[{"role":"user","x":1e2}]'
    untouched = fit(msgspec.Raw(messages), None, 3, len)
    assert bytes(untouched.messages) == messages and untouched.dropped == 0


# Tools

TOOLS = said("user a", "assistant b x y", "tool p x", "tool q y", "assistant c", "user d", "assistant e z", "tool r z")


def test_an_exchange_stays_whole_or_goes_whole() -> None:
    assert [names(cut(TOOLS, most=most)) for most in (8, 7, 5, 4, 3, 2, 1)] == [
        "abpqcder", "der", "der", "der", "der", "der", "der",
    ]  # fmt: skip


def test_an_agent_s_work_loses_its_oldest_exchanges_and_keeps_its_task() -> None:
    steps = [turn for step in "bcd" for turn in (f"assistant {step} {step}", f"tool {step.upper()} {step}")]
    talk = said("system s", "user o", "assistant n", "user a", *steps)
    assert [names(cut(talk, most=most)) for most in (9, 8, 7, 6, 5, 4, 3, 2, 1)] == [
        "sonabBcCdD", "sabBcCdD", "sabBcCdD", "sacCdD", "sacCdD", "sadD", "sadD", "sadD", "sadD",
    ]  # fmt: skip


def test_the_newest_exchange_stays_however_large_it_is() -> None:
    assert names(cut(said("user a", "assistant b x", "tool r x", r=1000), 10)) == "abr"
    assert names(cut(said("user o", "assistant n", "user a", "assistant b x", "tool r x", r=1000), 10)) == "abr"


def test_calls_and_results_with_others_between_them() -> None:
    talk = said("user o", "assistant n", "user a", "assistant b x", "user c", "tool r x", "user d")
    # From c on the result would lack its call, so d is all that is left once a and b must go.
    assert [names(cut(talk, most=most)) for most in (7, 5, 4, 1)] == ["onabcrd", "abcrd", "d", "d"]
    again = said("user a", "assistant b x", "tool r x", "user c", "assistant d x", "tool s x", "user e")
    assert names(cut(again, most=4)) == "cdse", "the latest call of an id is the one"


def test_older_ways_to_call() -> None:
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "r"},
        {"role": "assistant", "content": "c", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "s"},
    ]
    assert [names(cut(talk, most=most)) for most in (5, 4, 3, 1)] == ["abrcs", "acs", "acs", "acs"]


def test_without_a_user_turn() -> None:
    talk = said("assistant a", "assistant b x", "tool r x", "assistant c")
    assert [names(cut(talk, most=most)) for most in (4, 3, 2, 1)] == ["abrc", "brc", "c", "c"]
    assert names(cut(said("tool p x", "tool q y"), 0)) == "pq", "nothing can be dropped that would not tear"


NO_MESSAGES = [
    b"null", b"{}", b'"a"', b"[", b"[1,2]", b"\xff", b"[" * 5000, b'[{"role":"user"},1]', b'[{"role":"user"},{}]',
    b'[{"role":"user"},{"role":7}]', b'[{"role":"user"},{"role":"assistant","tool_calls":"x"}]',
    b'[{"role":"user"},{"role":"tool","tool_call_id":3}]', b'[{"role":"user"},{"role":"user"}',
]  # fmt: skip


@pytest.mark.parametrize("messages", NO_MESSAGES)
def test_no_messages_are_the_upstream_s_to_complain_about(messages: bytes) -> None:
    assert fit(msgspec.Raw(messages), 0, 1, len) == Fitted(msgspec.Raw(messages))


def test_what_may_be_null() -> None:
    talk = [
        {"role": "user"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": None}, {}], "tool_call_id": None},
        {"role": "tool", "tool_call_id": None},
        {"role": "assistant", "tool_calls": None},
    ]
    assert json.loads(bytes(fit(raw(talk), None, 3, len).messages)) == [talk[0], talk[3]], "the result is the call's"


# Whatever is said

turns = st.lists(
    st.one_of(
        st.sampled_from(["system", "developer", "user", "assistant"]).map(lambda role: {"role": role}),
        st.lists(st.sampled_from("xyz"), min_size=1, max_size=3).map(
            lambda ids: {"role": "assistant", "tool_calls": [{"id": id} for id in ids]}
        ),
        st.sampled_from("xyz").map(lambda id: {"role": "tool", "tool_call_id": id}),
    ),
    max_size=14,
).map(lambda messages: [{**message, "content": str(number)} for number, message in enumerate(messages)])
rooms = st.none() | st.integers(0, 900)
counts = st.integers(1, 14)


def fitted(messages: list[Any], room: int | None, most: int) -> list[Any]:
    found = fit(raw(messages), room, most, len)
    left: list[Any] = json.loads(bytes(found.messages))
    assert found.of == len(messages) and found.dropped == len(messages) - len(left)
    return left


def orphans(messages: list[Any]) -> list[str]:
    """The contents of results without a call before them."""
    called: set[str] = set()
    found = []
    for message in messages:
        if message["role"] == "tool" and message["tool_call_id"] not in called:
            found.append(message["content"])
        called |= {call["id"] for call in message.get("tool_calls", ())}
    return found


@given(turns, rooms, counts)
def test_what_is_left_is_part_of_what_was_there(messages: list[Any], room: int | None, most: int) -> None:
    left = fitted(messages, room, most)
    rest = iter(messages)
    assert all(message in rest for message in left), "in its order"
    instructions = [message for message in messages if message["role"] in ("system", "developer")]
    assert [message for message in left if message["role"] in ("system", "developer")] == instructions
    users = [message for message in messages if message["role"] == "user"]
    assert not users or users[-1] in left
    assert not messages or messages[-1] in left
    raws = msgspec.json.decode(raw(messages), type=list[msgspec.Raw])
    kept = msgspec.json.decode(fit(raw(messages), room, most, len).messages, type=list[msgspec.Raw])
    assert set(map(bytes, kept)) <= set(map(bytes, raws)), "byte for byte"


@given(turns, rooms, counts)
def test_no_result_is_left_without_its_call(messages: list[Any], room: int | None, most: int) -> None:
    left = fitted(messages, room, most)
    assert set(orphans(left)) <= set(orphans(messages))
    if len(left) < len(messages):
        talk = [message for message in left if message["role"] not in ("system", "developer")]
        assert talk[0]["role"] != "tool"
        assert talk[0]["role"] == "user" or not any(message["role"] == "user" for message in talk)


@given(turns, rooms, counts)
def test_an_exchange_is_there_as_a_whole_or_not_at_all(messages: list[Any], room: int | None, most: int) -> None:
    left = fitted(messages, room, most)
    assume(is_simple(messages))
    for place, message in enumerate(messages):
        ids = {call["id"] for call in message.get("tool_calls", ())}
        results = [other for other in messages[place:] if other.get("tool_call_id") in ids]
        assert all((other in left) == (message in left) for other in results)


def is_simple(messages: list[Any]) -> bool:
    """Is every id called once?"""
    ids = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    return len(ids) == len(set(ids))


@given(turns, rooms, counts)
def test_it_fits_where_it_can_and_nothing_is_dropped_without_need(
    messages: list[Any], room: int | None, most: int
) -> None:
    left = fitted(messages, room, most)
    assert fitted(left, room, most) == left, "again changes nothing"
    if len(left) == len(messages):
        return
    weight = sum(len(json.dumps(message)) for message in messages)
    talk = sum(message["role"] not in ("system", "developer") for message in messages)
    assert talk > most or (room is not None and weight > room)


@given(turns, st.integers(0, 900), st.integers(0, 900), counts, counts)
def test_more_room_keeps_more(messages: list[Any], one: int, other: int, few: int, many: int) -> None:
    less = fitted(messages, min(one, other), min(few, many))
    more = fitted(messages, max(one, other), max(few, many))
    assert all(message in more for message in less)
    assert all(message in fitted(messages, None, max(few, many)) for message in less)


@given(turns, st.integers(0, 400), counts)
def test_the_same_with_tokens(messages: list[Any], room: int, most: int) -> None:
    found = fit(raw(messages), room * 100, most, weigh)
    assert fit(found.messages, room * 100, most, weigh).messages == found.messages

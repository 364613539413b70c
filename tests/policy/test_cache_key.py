"""When two requests are the same one: whatever the order of fields, never across tenants."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.formats.openai_chat import decode_fields
from waypost.policy.cache_key import IRRELEVANT, Asker, cache_key, canonical

ASKER = Asker(7, 70, "chat/completions", ("route/m", "sim/a", "sim/b"), "", False)
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 1, "seed": 3}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
bodies = st.dictionaries(st.text(min_size=1), values, max_size=6)


def key(body: Any, asker: Asker = ASKER) -> bytes:
    return keyed(json.dumps(body).encode(), asker)


def keyed(text: bytes, asker: Asker = ASKER) -> bytes:
    return cache_key(asker, decode_fields(text))


def shuffled(value: Any, dice: random.Random) -> Any:
    """The same, with the fields of every object in another order."""
    if isinstance(value, dict):
        names = list(value)
        dice.shuffle(names)
        return {name: shuffled(value[name], dice) for name in names}
    return [shuffled(each, dice) for each in value] if isinstance(value, list) else value


@given(bodies, st.randoms(use_true_random=False), st.sampled_from([None, 2, "\t"]), st.booleans())
def test_order_spaces_and_escapes_do_not_matter(body: Any, dice: random.Random, indent: Any, escaped: bool) -> None:
    other = json.dumps(shuffled(body, dice), indent=indent, ensure_ascii=escaped)
    try:
        text = other.encode()
    except UnicodeEncodeError:
        return  # half of a surrogate pair is no text
    assert keyed(text) == key(body)


def told(body: dict[str, Any]) -> str:
    """What a body says, in one way of saying it."""
    whole = {
        name: int(v) if isinstance(v, float) and v.is_integer() and abs(v) < 2**53 else v for name, v in body.items()
    }
    return json.dumps({name: v for name, v in whole.items() if name not in IRRELEVANT}, sort_keys=True)


@given(bodies, bodies, st.booleans())
def test_another_body_has_another_key(one: Any, other: Any, joined: bool) -> None:
    other = {**one, **other} if joined else other
    assert (key(one) == key(other)) == (told(one) == told(other))


@given(st.lists(bodies, min_size=2, max_size=2), st.integers(0, 2))
def test_nothing_about_a_request_makes_two_tenants_one(two: list[Any], preset: int) -> None:
    askers = [
        Asker(account, number, "chat/completions", ("m",), str(preset), False)
        for account in (1, 2)
        for number in (0, 1)
    ]
    assert len({key(body, asker) for asker in askers for body in two[:1]}) == 4
    assert not {key(two[0], askers[0])} & {key(two[1], asker) for asker in askers[1:]}


@pytest.mark.parametrize(
    "other",
    [
        Asker(8, 70, "chat/completions", ("route/m", "sim/a", "sim/b"), "", False),
        Asker(7, 71, "chat/completions", ("route/m", "sim/a", "sim/b"), "", False),
        Asker(70, 7, "chat/completions", ("route/m", "sim/a", "sim/b"), "", False),
        Asker(7, 70, "embeddings", ("route/m", "sim/a", "sim/b"), "", False),
        Asker(7, 70, "chat/completions", ("route/m", "sim/b", "sim/a"), "", False),
        Asker(7, 70, "chat/completions", ("route/m", "sim/a", "sim/b", "sim/c"), "", False),
        Asker(7, 70, "chat/completions", ("route/m", "sim/a", "sim/b"), "p 1", False),
        Asker(7, 70, "chat/completions", ("route/m", "sim/a", "sim/b"), "p 2", False),
        Asker(7, 70, "chat/completions", ("route/m", "sim/a", "sim/b"), "", True),
    ],
)
def test_everything_about_who_asks_whom_is_in_it(other: Asker) -> None:
    assert key(BODY) != key(BODY, other)


SAME = [
    ('{"temperature": 1}', '{"temperature": 1.0}'),
    ('{"temperature": 1}', '{"temperature": 10e-1}'),
    ('{"temperature": 0.5}', '{"temperature": 5e-1}'),
    ('{"messages": [{"a": 0.50}]}', '{"messages": [{"a": 0.5}]}'),
    ('{"messages": "\\u00e9\\/"}', '{"messages": "é/"}'),
    ('{"seed": 1, "stream": true}', '{"seed": 1}'),
    ('{"seed": 1, "session_id": "a"}', '{"seed": 1, "session_id": "b"}'),
    ('{"seed": 1, "prompt_cache_key": "a"}', '{"seed": 1}'),
    ('{"seed": 1, "preset": "a"}', '{"seed": 1}'),
    ('{"a":{"x":1,"y":[{"p":1,"q":2}]}}', '{"a" : {"y":[{"q":2, "p":1}], "x":1}}'.replace('" :', '":')),
]
OTHER = [
    ('{"seed": 12345678901234567890123}', '{"seed": 12345678901234567890124}'),
    ('{"seed": 9007199254740993}', '{"seed": 9007199254740992}'),
    ('{"seed": 9007199254740993}', '{"seed": 9007199254740993.0}'),
    ('{"seed": 1}', '{"seed": "1"}'),
    ('{"seed": 1}', '{"seed": true}'),
    ('{"seed": null}', "{}"),
    ('{"user": "a"}', '{"user": "b"}'),
    ('{"safety_identifier": "a"}', '{"safety_identifier": "b"}'),
    ('{"messages": ["a", "b"]}', '{"messages": ["b", "a"]}'),
    ('{"messages": "é"}', '{"messages": "e\u0301"}'),
    ('{"messages": {"content": "x", "content": "y"}}', '{"messages": {"content": "y"}}'),
    ('{"messages": {"content": "x", "content": "y"}}', '{"messages": {"content": "z", "content": "y"}}'),
    ('{"seed": 1e400}', '{"seed": 1e401}'),
    ('{"a": "b", "c": "d"}', '{"a": "b\\",\\"c\\":\\"d"}'),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same(one: str, other: str) -> None:
    assert keyed(one.encode()) == keyed(other.encode())


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_not_the_same(one: str, other: str) -> None:
    assert keyed(one.encode()) != keyed(other.encode())


def test_what_is_not_understood_is_the_same_byte_by_byte_in_any_order_of_its_fields() -> None:
    one, other = '{"a": [1e400], "b": 1}', '{"b": 1, "a": [1e400]}'
    assert keyed(one.encode()) == keyed(other.encode())


def test_a_key_is_of_one_version_of_the_rules() -> None:
    assert canonical({"b": msgspec.Raw(b"1.0"), "a": msgspec.Raw(b' "x"')}) == b'+{"a":"x","b":1}'
    assert len(key(BODY)) == 32

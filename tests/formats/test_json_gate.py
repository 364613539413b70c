"""The quick checks against slow ones that read everything: they must never disagree."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.formats.generated import bodies, values
from waypost.errors import Refusal
from waypost.formats.json_gate import CONTAINERS, DEPTH, KEYS, PIECE, check_duplicates, check_shape, check_utf8
from waypost.formats.openai_chat import ONCE, parse_object, parse_request

thorough = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def refused(check: Any, *arguments: Any) -> Refusal | None:
    try:
        check(*arguments)
    except Refusal as refusal:
        return refusal
    return None


def duplicated(body: bytes) -> set[str]:
    """The names among ONCE that the top level has more than once, by a decoder that keeps every pair."""
    top = json.loads(body, object_pairs_hook=lambda pairs: pairs)
    names = [name for name, _ in top]
    return {name for name in names if names.count(name) > 1 and f'"{name}"'.encode() in ONCE}


def gate(body: bytes) -> Refusal | None:
    return refused(check_duplicates, body, parse_object(body), ONCE, "messages")


@thorough
@given(bodies())
@example(b'{"model":"a","model":"b"}')
@example(b'{"mod\\u0065l":"a","model":"b","messages":[]}')
@example(b'{"messages":[1],"messages":[1]}')
@example(b'{"x":"messages","messages":[{"model":1,"model":2}],"model":"m"}')
@example(b'{"x":{"messages":[7]},"messages":[7],"model":"m","model":"n"}')
@example(b'{"stop":["a:b"],"messages":["a:b"],"model":"m","model":"n"}')
@example(b'{"stop":[1],"model":"m","model":"n","messages":["0123456789"]}')
@example(b'{"mess\\u0061ges":["a:b"],"messages":["a:b"],"model":"m"}')
@example(b'{"messages":[],"x":":","model":"a","model":"a"}')
@example(b'{"x\\\\":"\\"model\\":","model":"a"}')
def test_duplicates_are_found_exactly(body: bytes) -> None:
    expected = duplicated(body)
    refusal = gate(body)
    assert (refusal is not None) == bool(expected)
    if refusal is not None:
        assert refusal.failure.code == "INVALID_REQUEST"
        assert refusal.param in expected and str(refusal.param) in refusal.message


@pytest.mark.parametrize("name", [name.decode().strip('"') for name in ONCE])
def test_every_field_that_counts_once(name: str) -> None:
    body = f'{{"model":"m","messages":[{{"role":"user","content":"x"}}],"{name}":1,"tools":[],"{name}":1}}'.encode()
    refusal = gate(body)
    assert refusal is not None and refusal.param == name


def test_any_other_field_may_come_twice() -> None:
    assert gate(b'{"model":"m","messages":[],"top_k":1,"top_k":2}') is None


def test_names_inside_of_prompts_and_tools_are_not_the_field() -> None:
    inner = '{"model":{"model":1},"n":1,"properties":{"model":{"type":"string"},"n":{"type":"integer"}}}'
    prompt = '[{"role":"user","content":"{\\"model\\":\\"x\\",\\"model\\":\\"y\\"}"}]'
    assert gate(f'{{"model":"m","messages":{prompt},"tools":[{inner},{inner}],"n":1}}'.encode()) is None


# Depth and number of keys


def measured(body: bytes) -> tuple[int, int]:
    """Depth and number of keys, by walking the decoded value; an object's duplicates count too."""

    def walk(value: Any) -> tuple[int, int]:
        if isinstance(value, Pairs):
            inner = [walk(item) for _, item in value]
            return 1 + max((depth for depth, _ in inner), default=0), len(value) + sum(keys for _, keys in inner)
        if isinstance(value, list):
            inner = [walk(item) for item in value]
            return 1 + max((depth for depth, _ in inner), default=0), sum(keys for _, keys in inner)
        return 0, 0

    return walk(json.loads(body, object_pairs_hook=Pairs))


class Pairs(list[tuple[str, Any]]):
    """An object; a list would be an array."""


def test_names_are_counted_before_they_are_decoded() -> None:
    body = b"{%b}" % b",".join(b'"%06x":1' % number for number in range(100_000))
    tracemalloc.start()
    try:
        refusal = refused(parse_object, body)
        assert refusal is not None and "keys" in refusal.message
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()


def is_too_much(body: bytes) -> bool:
    depth, keys = measured(body)
    return depth > DEPTH or keys > KEYS


@thorough
@given(values, st.integers(0, 70), st.integers(0, 70), st.sampled_from(["[", '{"model":', '{"a":"]}",  "b":']))
def test_depth_is_measured_exactly(inner: str, before: int, after: int, opening: str) -> None:
    closing = {"[": "]"}.get(opening, "}")
    noise = '"[{[{",' * (after // 2)
    body = f'{{"x":[{noise}{opening * before}{inner}{closing * before}]}}'.encode()
    assert (refused(check_shape, body) is not None) == is_too_much(body)


@settings(max_examples=40, deadline=None)
@given(st.integers(-3, 3), st.integers(0, 40), st.booleans())
def test_keys_are_counted_exactly(over: int, colons: int, nested: bool) -> None:
    count = KEYS + over - 1 - (1 if nested else 0)
    inner = ",".join(f'"k{number}":1' for number in range(count))
    text = ":" * colons + '\\":{['
    body = f'{{"t":["{text}"],{inner}}}' if not nested else f'{{"t":"{text}","o":{{{inner}}}}}'
    assert is_too_much(body.encode()) == (over > 0)
    assert (refused(check_shape, body.encode()) is not None) == (over > 0)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_the_limit_of_depth(over: int) -> None:
    levels = DEPTH + over
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        body = (opening * levels + "1" + closing * levels).encode()
        refusal = refused(check_shape, body)
        assert (refusal is not None) == (over > 0)
        if refusal is not None:
            assert refusal.failure.code == "INVALID_REQUEST" and str(DEPTH) in refusal.message


def test_brackets_in_strings_are_no_levels() -> None:
    assert refused(check_shape, b'{"x":"' + b"[" * 1000 + b'\\"' + b"{" * 1000 + b'\\\\"}') is None
    assert refused(check_shape, b'{"x":"\\\\","y":' + b"[" * 100 + b"]" * 100 + b"}") is not None


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_of_arrays_and_objects(over: int) -> None:
    flat = b'{"x":[' + b"[],{}," * ((CONTAINERS - 2) // 2 + over) + b"1]}"
    deep = b'{"x":[' + (b"[" * 50 + b"]" * 50 + b",") * ((CONTAINERS - 2) // 50 + over) + b"1]}"
    for body in (flat, deep):
        refusal = refused(check_shape, body)
        assert (refusal is not None) == (over > 0)
        if refusal is not None:
            assert refusal.failure.code == "INVALID_REQUEST" and f"{CONTAINERS} JSON arrays" in refusal.message


@pytest.mark.parametrize("levels", [DEPTH, DEPTH + 1])
def test_strings_that_lie_across_the_pieces(levels: int) -> None:
    """Whatever piece a string begins in, its brackets are never taken for structure, nor structure for its text."""
    nested = b"[" * (levels - 2) + b"]" * (levels - 2)
    for shift in range(5):
        noise = b'"' + b"[" * shift + b'",' + b'"[{[","}","]",' * (PIECE // 4)
        for body in (b'{"x":[' + noise + nested + b"]}", b'{"x":[' + nested + b"," + noise + b"1]}"):
            assert (refused(check_shape, body) is not None) == (levels > DEPTH)


# UTF-8


@pytest.mark.parametrize("text", ["é", "漢", "😀"])
def test_characters_across_the_pieces(text: str) -> None:
    whole = text.encode()
    for before in range(PIECE - len(whole), PIECE + 1):
        body = b"x" * before + whole
        assert refused(check_utf8, body) is None and refused(check_utf8, body + b"x" * PIECE) is None
        for length in range(1, len(whole)):
            cut = b"x" * before + whole[:length]
            for wrong in (cut, cut + b"x", cut + b"x" * PIECE):
                refusal = refused(check_utf8, wrong)
                assert refusal is not None and refusal.failure.code == "INVALID_REQUEST"


@pytest.mark.parametrize(
    "wrong", [b"\xff", b"\xc3", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", "ü".encode("latin-1")]
)
@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"user","content":"%b"}]}',
        b'{"model":"m","messages":[],"user":"%b"}',
        b'{"model":"m","messages":[],"x":{"%b":1}}',
        b'{"model":"%b","messages":[]}',
    ],
)
def test_what_is_not_utf8_is_refused_wherever_it_stands(body: bytes, wrong: bytes) -> None:
    refusal = refused(parse_request, body.replace(b"%b", wrong))
    assert refusal is not None and refusal.failure.code == "INVALID_REQUEST" and "UTF-8" in refusal.message
    assert refused(parse_request, body.replace(b"%b", "é漢😀".encode())) is None

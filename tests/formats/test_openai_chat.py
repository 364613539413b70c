"""Requests in and out: what is read is read exactly, and everything else leaves byte for byte as it came."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.formats.generated import objects, spaces, strings, texts, values
from waypost.errors import Refusal
from waypost.formats.openai_chat import (
    GATEWAY_ONLY,
    MODEL_LENGTH,
    is_context_length,
    parse_error,
    parse_request,
    render_request,
)

thorough = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MESSAGES = '[{"role":"user","content":"hi"}]'
raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def fields_of(body: bytes) -> dict[str, bytes]:
    return {name: bytes(raw) for name, raw in raw_fields(body).items()}


def body_of(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [], **fields}).encode()


def refusal_of(body: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse_request(body)
    assert caught.value.failure.code == "INVALID_REQUEST"
    return caught.value


# What leaves


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A good request: known fields in any order among unknown and gateway-only ones, oddly spaced."""
    pairs = [('"model"', draw(strings(st.sampled_from(["m", "route/x", "a b", 'q"m']))))]
    pairs += [('"messages"', draw(st.sampled_from([MESSAGES, "[]", '[ {"a" : [1.0, 1e3 ,"\\u00e9"]} ]'])))]
    pairs += [('"stream"', draw(st.sampled_from(["true", "false", "null"])))]
    if draw(st.booleans()):
        pairs.append(('"stream_options"', draw(st.sampled_from(["null", "{}", '{"include_usage":true,"x": [1 ]}']))))
    chosen = draw(
        st.lists(st.sampled_from([*(GATEWAY_ONLY - {"usage", "session_id"}), "tools", "seed", "é", "a:b"]), unique=True)
    )
    pairs += [(json.dumps(name), draw(st.one_of(values, objects(values)))) for name in chosen]
    text = ",".join(
        f"{draw(spaces)}{n}{draw(spaces)}:{draw(spaces)}{v}{draw(spaces)}" for n, v in draw(st.permutations(pairs))
    )
    return f"{draw(spaces)}{{{text}}}{draw(spaces)}".encode()


@thorough
@given(requests(), st.sampled_from(["gpt-4o-mini", "deepseek/ai", 'od"d']))
def test_everything_else_leaves_byte_for_byte(body: bytes, upstream_model: str) -> None:
    request = parse_request(body)
    came, left = fields_of(body), fields_of(render_request(request, upstream_model))
    assert json.loads(left.pop("model")) == upstream_model
    assert request.model == json.loads(came.pop("model"))
    options = left.pop("stream_options", b"null")
    asked = came.pop("stream_options", b"null")
    if request.stream:
        given_options = json.loads(asked) or {}
        assert json.loads(options) == {**given_options, "include_usage": True}
        assert request.include_usage == (given_options.get("include_usage") is True)
    else:
        assert options == asked and not request.include_usage
    assert not left.keys() & set(GATEWAY_ONLY)
    assert left == {name: value for name, value in came.items() if name not in GATEWAY_ONLY}
    assert list(left) == [name for name in came if name in left], "in the order in which they came"
    dropped = {name for name in GATEWAY_ONLY if came.get(name, b"null") != b"null"}
    assert set(request.ignored) == dropped - {"preset", "provider", "models"}


@thorough
@given(texts)
def test_prompts_are_never_decoded(text: str) -> None:
    spelt = '[ {"role" :"user","content":"' + "".join(f"\\u{ord(c):04x}" for c in text if ord(c) < 0x10000) + '\\/"} ]'
    body = f'{{"messages":{spelt},"model":"m"}}'.encode()
    assert fields_of(render_request(parse_request(body), "u"))["messages"] == spelt.encode()


def test_a_stream_asks_for_usage_whatever_the_caller_said() -> None:
    for options in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False}}):
        request = parse_request(body_of(stream=True, **options))
        assert not request.include_usage
        assert json.loads(render_request(request, "u"))["stream_options"] == {"include_usage": True}


def test_usage_is_the_wish_to_hear_the_cost() -> None:
    for value, wanted in (({"include": True}, True), ({"include": False}, False), ({}, False), (None, False)):
        request = parse_request(body_of(usage=value, stream=True))
        assert (request.wants_cost, request.include_usage, request.ignored) == (wanted, wanted, ())
        assert "usage" not in json.loads(render_request(request, msgspec.Raw(b'"u"')))
    for value in (1, [], "include", {"include": "yes"}):
        assert refusal_of(body_of(usage=value)).param in ("usage", "usage.include")


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({}, (0, 1)),
        ({"max_tokens": 7}, (7, 1)),
        ({"max_tokens": 7, "max_completion_tokens": 9}, (9, 1)),
        ({"max_tokens": 7, "max_completion_tokens": None}, (7, 1)),
        ({"max_tokens": None, "n": None}, (0, 1)),
        ({"n": 3}, (0, 3)),
    ],
)
def test_what_an_answer_may_have_at_most(fields: dict[str, Any], read: tuple[int, int]) -> None:
    request = parse_request(body_of(**fields))
    assert (request.max_output, request.choices) == read


def test_the_request_itself_is_left_alone() -> None:
    request = parse_request(body_of(stream=True, preset="p"))
    first = render_request(request, "one")
    second = render_request(request, "two")
    assert json.loads(first)["model"] == "one" and json.loads(second)["model"] == "two"
    assert "preset" in request.fields and bytes(request.fields["model"]) == b'"m"'


@pytest.mark.parametrize("fields", [{}, {"model": None}])
def test_a_preset_may_stand_in_the_place_of_the_model(fields: dict[str, Any]) -> None:
    request = parse_request(json.dumps({"messages": [], "preset": "p", **fields}).encode())
    assert (request.model, request.steers) == ("", True)
    for nobody in ({}, {"preset": None}):
        with pytest.raises(Refusal) as caught:
            parse_request(json.dumps({"messages": [], **nobody, **fields}).encode())
        assert caught.value.param == "model"


# What is refused


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": ["m"]}, "model"),
        ({"model": "m" * (MODEL_LENGTH + 1)}, "model"),
        ({"session_id": 7}, "session_id"),
        ({"session_id": "s" * 257}, "session_id"),
        ({"model": "a\nb"}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"n": True}, "n"),
        ({"n": 10**40}, "n"),
    ],
)
def test_a_refusal_names_the_field(fields: dict[str, Any], param: str) -> None:
    refusal = refusal_of(body_of(**fields))
    assert refusal.param == param and param in refusal.message


def test_missing_fields() -> None:
    assert refusal_of(b'{"messages":[]}').param == "model"
    assert refusal_of(b'{"model":"m"}').param == "messages"
    for body in (b"", b"[]", b'"model"', b"null", b"{", b'{"model":}', b"\xef\xbb\xbf{}", b"\xff", b'{"\xff":1}'):
        assert refusal_of(body).param is None


def test_limits_that_are_met() -> None:
    request = parse_request(body_of(model="m" * MODEL_LENGTH, n=10**40 - 1, max_tokens=0, max_completion_tokens=None))
    assert len(request.model) == MODEL_LENGTH
    assert not parse_request(body_of(stream=None)).stream
    assert parse_request(body_of(stream_options="nonsense")).fields, "not a stream: then it is nobody's business here"


def test_numbers_too_long_to_convert_pass_through() -> None:
    digits = "1" * 5000
    body = b'{"model":"m","messages":[],"tools":[{"model":1}],"seed":%b}' % digits.encode()
    assert fields_of(render_request(parse_request(body), "u"))["seed"] == digits.encode()


def test_what_is_not_utf8_never_crashes() -> None:
    for body in (
        b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"m","messages":[],"tools":[{"model":"\xff"}],"user":"x"}',
        b'{"model":"m","messages":[],"user":"\\\\\xc3"}',
        b'{"model":"\xff","messages":[]}',
    ):
        try:
            parse_request(body)
        except Refusal as refusal:
            assert refusal.failure.code == "INVALID_REQUEST"  # noqa: PT017  either is right, a crash is not


# Upstreams' errors


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"message":"m","type":"t","param":"p","code":"c"}}', ("m", "c", "p")),
        (b'{"error":{"message":"m","type":"t","code":null}}', ("m", "t", None)),
        (b'{"error":{"message":"m","code":429}}', ("m", "429", None)),
        (b'{"error":"plain words","code":"x"}', ("plain words", "x", None)),
        (b'{"message":"m","type":"t"}', ("m", "t", None)),
        (b'{"detail":"Not Found"}', ("Not Found", "", None)),
        (b'{"detail":[{"loc":["body"],"msg":"bad"}]}', ('[{"loc":["body"],"msg":"bad"}]', "", None)),
        (b'{"error":{}}', ("", "", None)),
        (b"{}", ("", "", None)),
        (b"[]", ("", "", None)),
        (b"<html>502</html>", ("", "", None)),
        (b"upstream connect error", ("upstream connect error", "", None)),
        (b"\xff\xfe", ("\ufffd\ufffd", "", None)),
        (b"", ("", "", None)),
        (b"[" * 100_000, None),
    ],
)
def test_errors_of_every_shape(body: bytes, expected: tuple[str, str, str | None] | None) -> None:
    parsed = parse_error(body)
    assert expected is None or parsed == expected
    assert all(part is None or isinstance(part, str) for part in parsed)


def test_context_length() -> None:
    assert is_context_length("", "context_length_exceeded")
    assert is_context_length("This model's maximum context length is 8192 tokens", "invalid_request_error")
    assert is_context_length("input exceeds the Context Window", "")
    assert not is_context_length("messages: required", "invalid_request_error")

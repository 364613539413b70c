"""Presets, pure: how they are named, what may stand in one, and what a request becomes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.errors import Refusal
from waypost.policy.preset import (
    REFERENCE_LENGTH,
    REVEALING,
    Body,
    Reference,
    body_of_request,
    check_foreign,
    choose_model,
    decode_fields,
    merge,
    parse_body,
    parse_field,
    parse_reference,
)
from waypost.preset_messages import BODY, MODEL, PARAMS, SYSTEM_PROMPT, TOOLS, TTL

ID = "58965b3e-d5ec-4089-a593-980354344016"


def body(**fields: Any) -> Body:
    return parse_body(json.dumps(fields).encode())


def fields_of(**fields: Any) -> dict[str, msgspec.Raw]:
    given_fields = {"model": "given", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return decode_fields(json.dumps(given_fields).encode())


def merged(preset: Body, model: str = "m", /, **fields: Any) -> dict[str, Any]:
    return {name: json.loads(bytes(value)) for name, value in merge(fields_of(**fields), preset, model).items()}


def refused(call: Any, *args: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call(*args)
    return caught.value


# References


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        (f"presets/{ID}", Reference(ID)),
        (f"presets/{ID.upper()}", Reference(ID)),
        ("presets/coder", Reference("coder")),
        ("presets/coder:3", Reference("coder", 3)),
        ("presets/coder@gpt-4o", Reference("coder", 0, "gpt-4o")),
        ("presets/coder:3@gpt-4o:nitro", Reference("coder", 3, "gpt-4o:nitro")),
        ("presets/coder@vendor/a@b", Reference("coder", 0, "vendor/a@b")),
        ("@preset/coder", Reference("coder")),
        ("@presets/coder", Reference("coder")),
        ("@preset/coder:3", Reference("coder", 3)),
        ("@preset/coder:3:thinking:high", Reference("coder", 3, "", ":thinking:high")),
        ("@preset/coder:nitro", Reference("coder", 0, "", ":nitro")),
        ("gpt-4o@preset/coder", Reference("coder", 0, "gpt-4o")),
        ("vendor/gpt-4o:free@presets/coder:2", Reference("coder", 2, "vendor/gpt-4o:free")),
        ("a@preset/b@preset/c", Reference("c", 0, "a@preset/b")),
        ("@preset/coder@gpt-4o", Reference("coder", 0, "gpt-4o")),
        ("@preset/", Reference("")),
        ("@preset/Coder", Reference("Coder")),
        ("@preset/c:d:9", Reference("c:d:9")),
        ("@preset/coder:0", Reference("coder:0")),  # no version, and not the one that counts
        ("@preset/coder:03", Reference("coder:03")),
        ("gpt-4o", None),
        ("vendor/presets/x", None),
        ("preset/coder", None),
        ("presets", None),
        ("someone@example", None),
        ("@cf/meta/llama", None),
    ],
)
def test_how_a_model_names_a_preset(text: str, reference: Reference | None) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize("text", ["a@preset/b@c"])
def test_two_models_are_one_too_many(text: str) -> None:
    assert refused(parse_reference, text).param == "model"


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        (None, None),
        ("coder", Reference("coder")),
        ("coder:2", Reference("coder", 2)),
        (ID, Reference(ID)),
        ("coder@gpt-4o", Reference("coder", 0, "gpt-4o")),
        ("@preset/coder:2", Reference("coder", 2)),
        (f"presets/{ID}", Reference(ID)),
        ("gpt-4o@preset/coder", Reference("coder", 0, "gpt-4o")),
    ],
)
def test_the_field_takes_the_same_forms_and_bare_names(written: object, reference: Reference | None) -> None:
    assert parse_field(msgspec.Raw(json.dumps(written).encode())) == reference


@pytest.mark.parametrize("written", [7, ["coder"], {"id": "coder"}, True, ""])
def test_the_field_is_a_string(written: object) -> None:
    refusal = refused(parse_field, msgspec.Raw(json.dumps(written).encode()))
    assert (refusal.failure.code, refusal.param) == ("INVALID_REQUEST", "preset")


def test_the_field_is_no_longer_than_names_are() -> None:
    longest = "coder" + ":a" * ((REFERENCE_LENGTH - 5) // 2) + "b"
    assert len(longest) == REFERENCE_LENGTH
    assert parse_field(msgspec.Raw(json.dumps(longest).encode())) is not None
    refusal = refused(parse_field, msgspec.Raw(json.dumps(longest + "b").encode()))
    assert (refusal.param, str(REFERENCE_LENGTH) in refusal.message) == ("preset", True)


slugs = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
models = st.from_regex(r"[a-z]+(/[a-z0-9.-]+)?(:free)?", fullmatch=True).filter(lambda m: not m.startswith("presets/"))


@given(slugs, st.integers(0, 999_999_999), models | st.just(""), st.sampled_from(["@preset/", "@presets/", "presets/"]))
def test_what_is_written_is_what_is_read(slug: str, version: int, model: str, form: str) -> None:
    name = f"{slug}:{version}" if version else slug
    behind = form == "presets/"
    text = f"{form}{name}{'@' if model else ''}{model}" if behind else f"{model}{form}{name}"
    assert parse_reference(text) == Reference(slug, version, model)


@given(st.text(max_size=60))
def test_any_text_is_a_model_or_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except Refusal:
        return
    assert reference is None or text.startswith("presets/") or "@preset/" in text or "@presets/" in text


# Which model


def test_a_preset_for_any_model_needs_one() -> None:
    refusal = refused(choose_model, Reference("coder"), body(), "")
    assert (refusal.failure.code, refusal.param) == ("INVALID_REQUEST", "model")
    assert "coder" in refusal.message and "@preset/coder" in refusal.message
    assert choose_model(Reference("coder", model="a"), body(), "") == "a"
    assert choose_model(Reference("coder"), body(), "a") == "a"


def test_a_fixed_model_is_replaced_only_where_the_preset_says_so() -> None:
    fixed, free = body(model="a"), body(model="a", allow_model_override=True)
    assert choose_model(Reference("p"), fixed, "") == "a"
    assert choose_model(Reference("p", suffixes=":nitro"), fixed, "") == "a:nitro"
    assert choose_model(Reference("p", model="a"), fixed, "") == "a", "the same is no other"
    assert refused(choose_model, Reference("p", model="b"), fixed, "").param == "model"
    assert refused(choose_model, Reference("p"), fixed, "b").param == "model"
    assert choose_model(Reference("p", model="b"), free, "") == "b"
    assert choose_model(Reference("p"), free, "b") == "b"
    assert refused(merge, fields_of(models=["b"]), fixed, "a").param == "models", "fallbacks are no way around"
    assert merged(free, models=["b"])["models"] == ["b"]


def test_two_models_in_two_fields_are_refused() -> None:
    assert refused(choose_model, Reference("p", model="a"), body(), "b").param == "preset"
    assert choose_model(Reference("p", model="a"), body(), "a") == "a"


# Merging


def test_the_request_wins_and_the_preset_fills_gaps() -> None:
    preset = body(params={"temperature": 0.2, "top_p": 0.5, "seed": 1}, response_format={"type": "json_object"})
    found = merged(preset, temperature=1.5, top_p=None, stream=True)
    assert found["temperature"] == 1.5 and found["top_p"] == 0.5 and found["seed"] == 1
    assert found["response_format"] == {"type": "json_object"} and found["stream"] is True
    assert found["model"] == "m" and found["messages"] == [{"role": "user", "content": "Hi"}]
    assert merged(preset, response_format={"type": "text"})["response_format"] == {"type": "text"}
    assert merged(preset, seed=0, temperature=0)["temperature"] == 0, "what is falsy is said all the same"


def test_two_names_of_the_same_are_one_gap() -> None:
    assert "max_tokens" not in merged(body(params={"max_tokens": 5}), max_completion_tokens=9)
    assert "reasoning_effort" not in merged(body(params={"reasoning_effort": "low"}), reasoning={"effort": "high"})
    assert merged(body(params={"max_tokens": 5}))["max_tokens"] == 5


def test_a_suffix_of_the_request_goes_before_the_preset_and_after_the_body() -> None:
    preset = body(model="m", params={"reasoning_effort": "low"})
    assert "reasoning_effort" not in merged(preset, "m:thinking:high")
    assert merged(preset, "m")["reasoning_effort"] == "low"
    assert merged(preset, "m:thinking:high", reasoning_effort="high")["reasoning_effort"] == "high"
    own = body(model="m:thinking", params={"reasoning_effort": "low"})
    assert merged(own, "m:thinking")["reasoning_effort"] == "low", "that suffix is the preset's own"


def test_the_system_prompt_is_first_and_nobody_elses_goes() -> None:
    preset = body(system_prompt='Say "yes".\n')
    first = {"role": "system", "content": 'Say "yes".\n'}
    theirs = [{"role": "system", "content": "Say no."}, {"role": "user", "content": "Hi"}]
    assert merged(preset, messages=theirs)["messages"] == [first, *theirs]
    assert merged(preset, messages=[])["messages"] == [first]
    spaced = {**fields_of(), "messages": msgspec.Raw(b' [\n  {"role": "user", "content": "a"} ] ')}
    assert json.loads(bytes(merge(spaced, preset, "m")["messages"])) == [first, {"role": "user", "content": "a"}]


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def test_tools_are_those_of_both_and_the_requests_own_win() -> None:
    preset = body(tools=[tool("a", description="preset"), tool("b"), {"type": "web_search"}])
    assert merged(preset)["tools"] == [tool("a", description="preset"), tool("b"), {"type": "web_search"}]
    own = [tool("c"), tool("a", description="request")]
    assert merged(preset, tools=own)["tools"] == [tool("b"), {"type": "web_search"}, *own]
    other = [{"type": "web_search", "depth": 2}, {"type": "mcp", "server_label": "x"}]
    assert merged(preset, tools=other)["tools"] == [tool("a", description="preset"), tool("b"), *other]
    assert merged(preset, tools=None)["tools"] == merged(preset)["tools"] == merged(preset, tools=[])["tools"]


@pytest.mark.parametrize("tools", [{}, "a", ["a"], [{}], [{"type": "function"}], [{"type": "function", "function": 1}]])
def test_tools_that_cannot_be_read_are_not_dropped_but_refused(tools: object) -> None:
    refusal = refused(merge, fields_of(tools=tools), body(tools=[tool("a")]), "m")
    assert refusal.failure.code == "INVALID_REQUEST" and (refusal.param or "").startswith("tools")


def test_preferences_are_filled_up_one_by_one() -> None:
    preset = body(provider={"only": ["a"], "sort": "price"})
    assert merged(preset, provider={"sort": "latency"})["provider"] == {"only": ["a"], "sort": "latency"}
    assert merged(preset)["provider"] == {"only": ["a"], "sort": "price"}
    assert refused(merge, fields_of(provider=[1]), preset, "m").param == "provider"


def test_a_preset_that_says_nothing_changes_nothing_but_the_model() -> None:
    assert merged(body(), "given", preset="p", user="u") == {
        "model": "given",
        "messages": [{"role": "user", "content": "Hi"}],
        "user": "u",
    }


values = st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4), st.lists, max_leaves=3)
names = st.sampled_from(["user", "seed", "metadata", "store", "x", "y"])


@given(st.dictionaries(names, values), st.dictionaries(names, values), st.lists(st.text(max_size=5), max_size=3))
def test_merging_loses_nothing_of_the_request(own: dict[str, Any], kept: dict[str, Any], said: list[str]) -> None:
    kept.pop("seed", None)
    messages = [{"role": "user", "content": text} for text in said]
    preset = body(params=kept, system_prompt="S", tools=[tool("a")])
    found = merged(preset, messages=messages, **own)
    for name, value in own.items():
        if value is not None:
            assert found[name] == value
    for name, value in kept.items():
        if own.get(name) is None and value is not None:
            assert found[name] == value
    assert found["messages"] == [{"role": "system", "content": "S"}, *messages]
    assert set(found) <= {*own, *kept, "model", "messages", "tools"}
    again = merge(merge(fields_of(**own), body(params=kept), "m"), body(params=kept), "m")
    assert again == merge(fields_of(**own), body(params=kept), "m"), "a second time changes nothing"


@pytest.mark.parametrize("name", REVEALING)
def test_what_would_repeat_anothers_prompt_is_refused(name: str) -> None:
    assert refused(check_foreign, fields_of(**{name: {"on": 1} if name == "debug" else 1})).param == name
    for nothing in (None, False, 0):
        check_foreign(fields_of(**{name: nothing}))


# What may stand in one


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"model": "@preset/other"}, "model"),
        ({"model": "m@preset/other"}, "model"),
        ({"allow_model_override": "yes"}, "allow_model_override"),
        ({"system_prompt": ""}, "system_prompt"),
        ({"system_prompt": ["a"]}, "system_prompt"),
        ({"params": []}, "params"),
        ({"params": {"temperature": 2.1}}, "params.temperature"),
        ({"params": {"temperature": "hot"}}, "params.temperature"),
        ({"params": {"top_p": -0.1}}, "params.top_p"),
        ({"params": {"max_tokens": 1.5}}, "params.max_tokens"),
        ({"params": {"n": 0}}, "params.n"),
        ({"params": {"stop": [1]}}, "params.stop[0]"),
        ({"params": {"stop": ["a"] * 17}}, "params.stop"),
        ({"params": {"reasoning_effort": "huge"}}, "params.reasoning_effort"),
        ({"params": {"models": "m"}}, "params.models"),
        ({"params": {"model": "m"}}, "params.model"),
        ({"params": {"messages": []}}, "params.messages"),
        ({"params": {"stream": True}}, "params.stream"),
        ({"params": {"stream_options": {}}}, "params.stream_options"),
        ({"params": {"tools": []}}, "params.tools"),
        ({"params": {"provider": {}}}, "params.provider"),
        ({"params": {"preset": "p"}}, "params.preset"),
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"function": {"name": "a"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools[0].function.name"),
        ({"tools": [tool("a"), tool("b"), tool("a")]}, "tools[2].function.name"),
        ({"response_format": "json"}, "response_format"),
        ({"provider": {"sort": "best"}}, "provider.sort"),
        ({"provider": {"odd": 1}}, "provider.odd"),
        ({"provider": 5}, "provider"),
        ({"cache": True}, "cache"),
        ({"cache": {"ttl": 0}}, "cache.ttl"),
        ({"cache": {"ttl": TTL + 1}}, "cache.ttl"),
        ({"cache": {"odd": 1}}, "cache.odd"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    refusal = refused(parse_body, json.dumps(fields).encode())
    assert (refusal.failure.code, refusal.param) == ("INVALID_REQUEST", param)
    assert param.partition("[")[0] in refusal.message


def test_what_is_not_json_is_refused() -> None:
    for data in (b"", b"[]", b'"a"', b'{"model": "a"', b'{"params": {"a": [}}', b"\xff"):
        assert refused(parse_body, data).failure.code == "INVALID_REQUEST"


def test_nulls_are_left_out() -> None:
    nothing = body(model=None, system_prompt=None, params={"seed": None}, tools=[], provider=None, response_format=None)
    assert nothing == Body() and msgspec.json.encode(nothing) == b"{}"
    assert msgspec.json.encode(body(params={"x": None, "y": 1})) == b'{"params":{"y":1}}'


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_sizes_are_bounded_to_the_byte(off: int) -> None:
    sized = {
        "system_prompt": {"system_prompt": "é" + "a" * (SYSTEM_PROMPT - 2 + off)},
        "params": {"params": {f"p{number}": 1 for number in range(PARAMS + off)}},
        "tools": {"tools": [tool(f"t{number}") for number in range(TOOLS + off)]},
        "model": {"model": "m" * (MODEL + off)},
        "cache.ttl": {"cache": {"ttl": TTL + off}},
    }
    for param, fields in sized.items():
        if off > 0:
            assert refused(parse_body, json.dumps(fields).encode()).param == param
        else:
            assert body(**fields) != Body()
    empty = len(json.dumps({"params": {"x": ""}}))
    data = json.dumps({"params": {"x": "a" * (BODY - empty + off)}}).encode()
    assert len(data) == BODY + off
    if off > 0:
        assert str(BODY) in refused(parse_body, data).message
    else:
        assert parse_body(data).params


# Saving a request


def test_a_request_becomes_a_body() -> None:
    saved, ignored = body_of_request(
        fields_of(
            model="gpt-4o",
            messages=[
                {"role": "system", "content": "One."},
                {"role": "user", "content": "Hi"},
                {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
            ],
            temperature=0.5,
            top_k=None,
            stream=True,
            session_id="s",
            tools=[tool("a")],
            cache={"ttl": 5},
        )
    )
    assert json.loads(saved) == {
        "model": "gpt-4o",
        "system_prompt": "One.\n\nTwo.",
        "tools": [tool("a")],
        "params": {"temperature": 0.5},
    }
    assert set(ignored) == {"messages", "stream", "session_id", "cache"}
    assert parse_body(saved).model == "gpt-4o"
    assert body_of_request({}) == (b"{}", ())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"preset": "other"}, "preset"),
        ({"messages": "a"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "system", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
    ],
)
def test_what_cannot_be_saved_is_named(fields: dict[str, Any], param: str) -> None:
    refusal = refused(body_of_request, decode_fields(json.dumps(fields).encode()))
    assert (refusal.failure.code, refusal.param) == ("INVALID_REQUEST", param)

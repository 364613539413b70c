"""What callers write about routing, understood or refused by the field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.errors import Refusal
from waypost.policy.preferences import (
    LARGEST,
    NONE,
    SUFFIXES,
    TAKES,
    Preferences,
    Written,
    effort_of,
    parse_models,
    parse_provider,
    readings,
    with_suffixes,
)


def parsed(**fields: Any) -> Preferences:
    return parse_provider(json.dumps(fields).encode())


def test_everything_at_once() -> None:
    assert parsed(
        order=["DeepSeek", "together"],
        only=["deepseek", "together", "groq"],
        ignore=["xai"],
        allow_fallbacks=False,
        require_parameters=True,
        data_collection="deny",
        sort="latency",
        max_price={"prompt": 0.5, "completion": "2.000000001", "request": 0},
        preferred_max_latency=2,
        preferred_min_throughput={"p50": 40, "p99": 10.5},
    ) == Preferences(
        order=("deepseek", "together"),
        only=frozenset({"deepseek", "together", "groq"}),
        ignore=frozenset({"xai"}),
        allow_fallbacks=False,
        require_parameters=True,
        deny_data_collection=True,
        sort="latency",
        max_price=(500_000_000, 2_000_000_001, 0),
        max_latency=((0.5, 2.0),),
        min_throughput=((0.5, 40.0), (0.99, 10.5)),
    )


@pytest.mark.parametrize("body", [b"{}", b"null", b" null ", b'{"order":null,"sort":null,"max_price":null}'])
def test_nothing_asked(body: bytes) -> None:
    assert parse_provider(body) == NONE


def test_sort_as_an_object() -> None:
    assert parsed(sort={"by": "price", "partition": "none"}) == Preferences(sort="price", across_models=True)
    assert parsed(sort={"by": "price"}) == Preferences(sort="price")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"zdr":true}', "provider.zdr"),
        (b'{"quantizations":["fp8"]}', "provider.quantizations"),
        (b'{"order":"deepseek"}', "provider.order"),
        (b'{"order":["a",7]}', "provider.order[1]"),
        (b'{"order":[""]}', "provider.order[0]"),
        (b'{"allow_fallbacks":"no"}', "provider.allow_fallbacks"),
        (b'{"allow_fallbacks":1}', "provider.allow_fallbacks"),
        (b'{"data_collection":"maybe"}', "provider.data_collection"),
        (b'{"sort":"speed"}', "provider.sort"),
        (b'{"sort":{"by":"speed"}}', "provider.sort.by"),
        (b'{"sort":{"by":"price","across":1}}', "provider.sort.across"),
        (b'{"max_price":{"prompt":-1}}', "provider.max_price.prompt"),
        (b'{"max_price":{"prompt":"cheap"}}', "provider.max_price.prompt"),
        (b'{"max_price":{"image":1}}', "provider.max_price.image"),
        (b'{"max_price":3}', "provider.max_price"),
        (b'{"preferred_max_latency":0}', "provider.preferred_max_latency"),
        (b'{"preferred_max_latency":{"p42":1}}', "provider.preferred_max_latency.p42"),
        (b'{"preferred_min_throughput":true}', "provider.preferred_min_throughput"),
        (b"[]", "provider"),
        (b'"deepseek"', "provider"),
        (b'{"order":', "provider"),
        (b'{"order":["\xff"]}', "provider"),
    ],
)
def test_refusals_name_the_field(body: bytes, param: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_provider(body)
    assert refused.value.failure.code == "INVALID_REQUEST"
    assert refused.value.param == param
    assert refused.value.message.startswith(param)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"sort":"speed"}', "price, throughput, latency"),
        (b'{"sort":{"by":"speed"}}', "price, throughput, latency"),
        (b'{"data_collection":"maybe"}', "allow or deny"),
        (b'{"order":[7]}', "provider.order[0]: order must be a list"),
        (b'{"max_price":{"prompt":"cheap"}}', "US dollars"),
        (b'{"preferred_max_latency":{"p42":1}}', "p50, p75, p90 and p99"),
        (b'{"max_price":{"image":1}}', "provider.max_price.image: max_price must be an object of prompt, completion"),
        (b'{"zdr":true}', "known are order, only, ignore"),
        (b"7", "provider: must be an object"),
    ],
)
def test_refusals_say_what_a_field_takes(body: bytes, said: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_provider(body)
    assert said in refused.value.message


def test_every_preference_has_words() -> None:
    assert {"provider", "models", *Written.__struct_fields__} == TAKES.keys()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from([*Preferences.__struct_fields__, "max_price", "preferred_max_latency", "data_collection"])


@given(st.dictionaries(FIELDS, JSON, max_size=4) | JSON)
def test_whatever_comes_is_understood_or_refused(value: Any) -> None:
    refused: Refusal | None = None
    try:
        parse_provider(json.dumps(value).encode())
    except Refusal as refusal:
        refused = refusal
    assert refused is None or (refused.status == 400 and str(refused.param).startswith("provider"))


def test_models() -> None:
    assert parse_models(b'["a","b","a"]') == ("a", "b")
    assert parse_models(b"null") == ()
    for body in (b'"a"', b"[1]", b'[""]', json.dumps(["m"] * 17).encode(), b"["):
        with pytest.raises(Refusal) as refused:
            parse_models(body)
        assert (refused.value.param or "").startswith("models")


def test_lists_of_any_length_are_not_decoded_to_be_counted() -> None:
    for parse, around in ((parse_models, b"%b"), (parse_provider, b'{"order":%b}')):
        body = around % b'["a"]'
        parse(body + b" " * (LARGEST - len(body)))
        with pytest.raises(Refusal) as refused:
            parse(body + b" " * (LARGEST - len(body) + 1))
        assert (refused.value.status, refused.value.param) == (400, "provider" if b"order" in body else "models")


MODELS = {"route/a", "llama3:8b", "llama3:free", "odd:nitro:free"}


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("route/a", ("route/a", ())),
        ("route/a:free", ("route/a", ("free",))),
        ("route/a:floor:nitro", ("route/a", ("nitro", "floor"))),
        ("llama3:8b", ("llama3:8b", ())),
        ("llama3:8b:floor", ("llama3:8b", ("floor",))),
        ("llama3:free", ("llama3:free", ())),
        ("llama3:free:free", ("llama3:free", ("free",))),
        ("odd:nitro:free", ("odd:nitro:free", ())),
        ("odd:nitro", ("odd:nitro", ())),
        ("route/a:fast", ("route/a:fast", ())),
        ("route/a:fast:free", ("route/a:fast:free", ())),
        ("route/a:thinking", ("route/a", ("thinking",))),
        ("route/a:thinking:high", ("route/a", ("thinking:high",))),
        ("route/a:thinking:ultra", ("route/a", ("thinking:ultra",))),
        ("route/a:thinking:", ("route/a", ("thinking:",))),
        ("route/a:free:thinking:low:nitro", ("route/a", ("nitro", "thinking:low", "free"))),
        ("llama3:8b:thinking", ("llama3:8b", ("thinking",))),
        ("route/a:high", ("route/a:high", ())),
        (":thinking:high", (":thinking:high", ())),
        ("nothing", ("nothing", ())),
        (":free", (":free", ())),
    ],
)
def test_suffixes_from_the_right_literal_ids_first(written: str, found: tuple[str, tuple[str, ...]]) -> None:
    first = next((reading for reading in readings(written) if reading[0] in MODELS), (written, ()))
    assert first == found


def test_what_suffixes_mean() -> None:
    assert with_suffixes(NONE, ("nitro",)) == Preferences(sort="throughput")
    assert with_suffixes(NONE, ("floor",)) == Preferences(sort="price")
    assert with_suffixes(NONE, ("free",)) == Preferences(free=True)
    assert with_suffixes(NONE, ("nitro", "floor")).sort == "throughput", "the rightmost wins"
    assert with_suffixes(Preferences(sort="latency"), ("floor",)).sort == "latency", "the body wins"
    assert all(hasattr(NONE, name) for added in SUFFIXES.values() for name in added)


@pytest.mark.parametrize(
    ("suffixes", "effort"),
    [
        ((), ""),
        (("free", "nitro"), ""),
        (("thinking",), "medium"),
        (("thinking:low",), "low"),
        (("free", "thinking:high", "thinking:low"), "high"),
    ],
)
def test_how_much_thinking_a_suffix_asks_for(suffixes: tuple[str, ...], effort: str) -> None:
    assert effort_of(suffixes) == effort
    assert with_suffixes(NONE, suffixes).sort == ("throughput" if "nitro" in suffixes else None)


@pytest.mark.parametrize("suffixes", [("thinking:ultra",), ("thinking:",), ("thinking", "thinking:none")])
def test_a_level_that_is_none_is_refused(suffixes: tuple[str, ...]) -> None:
    with pytest.raises(Refusal, match="no such level") as refused:
        effort_of(suffixes)
    assert refused.value.param == "model"

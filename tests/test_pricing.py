"""What tokens cost: a table of prices and receipts, sums that add up, and the price list's own reckoning."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

import genai_prices
import msgspec
import pytest
from genai_prices import data_snapshot
from hypothesis import given
from hypothesis import strategies as st

from waypost import config
from waypost.dollars import parse_decimal, render_decimal
from waypost.keeper.prices import PriceList, Prices
from waypost.link import FrameParser, render_frame
from waypost.listing import FindPrices, PriceRecord, PriceRecords
from waypost.pricing import (
    Charge,
    Price,
    Rates,
    configured_price,
    cost,
    formula,
    listed_price,
    parse_terms,
    reserve,
    saved,
)
from waypost.records import Usage

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PLAIN = configured_price(config.Price("0.15", "0.6"))
TIERED = PriceRecord(
    "anthropic",
    "claude",
    "claude-1",
    "genai-prices 0",
    {
        "input_mtok": ((0, "3"), (200_000, "6")),
        "output_mtok": ((0, "15"), (200_000, "22.5")),
        "cache_read_mtok": ((0, "0.3"), (200_000, "0.6")),
        "cache_write_mtok": ((0, "3.75"),),
        "requests_kcount": ((0, "5"),),
        "web_searches_kcount": ((0, "10"),),
    },
)


def listed(record: PriceRecord) -> Price:
    price = listed_price(record)
    assert price is not None
    return price


# Amounts


@pytest.mark.parametrize(
    ("text", "amount"),
    [("0", 0), ("2", 2_000_000_000), ("0.15", 150_000_000), ("0.000000001", 1), ("999999999999.999999999", 10**21 - 1)],
)
def test_dollars(text: str, amount: int) -> None:
    assert parse_decimal(text) == amount and render_decimal(amount) == text


@pytest.mark.parametrize("text", ["", "-1", "1e3", "1.", ".5", "0.0000000001", "1,5", "٣", "1\n", "NaN"])
def test_no_dollars(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        parse_decimal(text)


def test_dollars_in_other_places() -> None:
    assert render_decimal(1, 15) == "0.000000000000001"
    assert render_decimal(-1_500_000, 6) == "-1.5" and render_decimal(0, 15) == "0"


# Prices


def test_what_a_configured_price_leaves_out() -> None:
    assert PLAIN.tiers[0].rates == Rates(
        fresh=150_000_000,
        cache_read=150_000_000,
        cache_write_5m=187_500_000,
        cache_write_1h=300_000_000,
        audio_input=150_000_000,
        image_input=150_000_000,
        output=600_000_000,
        reasoning=600_000_000,
        audio_output=600_000_000,
        image_output=600_000_000,
    )
    assert PLAIN.request == 0 and len(PLAIN.tiers) == 1


def test_what_a_configured_price_has() -> None:
    price = configured_price(config.Price("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "0.01"))
    dollar = 10**9
    assert price.tiers[0].rates == Rates(
        fresh=dollar,
        output=2 * dollar,
        cache_read=3 * dollar,
        cache_write_5m=4 * dollar,
        cache_write_1h=5 * dollar,
        reasoning=6 * dollar,
        audio_input=7 * dollar,
        audio_output=8 * dollar,
        image_input=9 * dollar,
        image_output=10 * dollar,
    )
    assert price.request == dollar // 100


def test_every_setting_of_a_price_is_used() -> None:
    prices = {configured_price(config.Price("1", "1")).version}
    for name in config.Price.__struct_fields__:
        prices.add(configured_price(config.Price(**({"input": "1", "output": "1"} | {name: "0.5"}))).version)
    assert len(prices) == 1 + len(config.Price.__struct_fields__)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(), 0),
        (Usage(1_000_000), 150_000_000),
        (Usage(19, output=10), 8_850),
        (Usage(3), 450),
        (Usage(0, 1_000, 2_000, 3_000), 150_000 + 375_000 + 900_000),
        (Usage(0, 0, 0, 0, 10, 20, 30, 40, 50, 60), 30 * 150 + 180 * 600),
    ],
)
def test_costs(usage: Usage, expected: int) -> None:
    assert cost(PLAIN, usage) == expected


def test_half_a_nano_dollar_is_rounded_up_once() -> None:
    price = configured_price(config.Price("0.0005", "0.0004"))  # half a nano-dollar a token, and 0.4
    assert [cost(price, Usage(count)) for count in range(5)] == [0, 1, 1, 2, 2]
    assert cost(price, Usage(1, output=1)) == 1, "0.9 in sum, not 1 and 0"
    assert formula(price, Usage(1, output=1)) == (
        Charge("fresh", 1, "0.0005", "0.0000000005"),
        Charge("output", 1, "0.0004", "0.0000000004"),
        Charge("rounding", 0, "", "0.0000000001"),
    )


def test_a_tier_is_for_all_tokens_of_the_request() -> None:
    price = listed(TIERED)
    request = 5_000_000
    assert cost(price, Usage(200_000)) == 200_000 * 3_000 + request
    assert cost(price, Usage(200_001)) == 200_001 * 6_000 + request
    assert cost(price, Usage(1, 200_000, output=10)) == 6_000 + 200_000 * 600 + 10 * 22_500 + request
    assert cost(price, Usage(1, 0, 200_000)) == 6_000 + 200_000 * 3_750 + request
    assert formula(price, Usage(1, 200_000, output=10)) == (
        Charge("fresh", 1, "6", "0.000006"),
        Charge("cache_read", 200_000, "0.6", "0.12"),
        Charge("output", 10, "22.5", "0.000225"),
        Charge("request", 1, "0.005", "0.005"),
    )


def test_terms_say_all() -> None:
    terms = msgspec.json.decode(listed(TIERED).terms)
    assert terms["source"] == "genai-prices" and terms["list"] == "genai-prices 0"
    assert (terms["provider"], terms["model"], terms["request"]) == ("anthropic", "claude-1", "0.005")
    assert terms["uncounted"] == ["web_searches_kcount"]
    assert [tier["above"] for tier in terms["tiers"]] == [0, 200_000]
    assert terms["tiers"][1]["rates"] | {"fresh": "6", "cache_write_5m": "3.75"} == terms["tiers"][1]["rates"]
    assert msgspec.json.decode(PLAIN.terms)["source"] == "config"


def test_prices_the_list_does_not_know_enough_of() -> None:
    for rates in ({}, {"input_mtok": ((0, "1"),)}, {"audio_hours": ((0, "1"),)}, {"output_mtok": ((0, "1"),)}):
        assert listed_price(msgspec.structs.replace(TIERED, rates=rates)) is None


def test_a_version_is_of_the_terms() -> None:
    again = configured_price(config.Price("0.150", "0.60"))
    assert again == PLAIN and len(PLAIN.version) == 12
    assert configured_price(config.Price("0.15", "0.61")).version != PLAIN.version


@pytest.mark.parametrize("terms", [b"{}", b"[]", b"", b'{"source":"config"}', b'{"source":"config","tiers":[]}'])
def test_no_terms(terms: bytes) -> None:
    with pytest.raises(ValueError, match=r"missing required|Expected|truncated|first tier"):
        parse_terms(terms)


# Whatever the price, whatever the usage

dollars = st.integers(0, 10**12).map(render_decimal)
configured = st.builds(
    configured_price,
    st.builds(
        config.Price,
        **{
            name: dollars if name in ("input", "output") else st.none() | dollars
            for name in config.Price.__struct_fields__
        },
    ),
)
starts = st.lists(st.integers(1, 2000), max_size=3, unique=True).map(lambda found: [0, *sorted(found)])
steps = starts.flatmap(lambda found: st.tuples(*[st.tuples(st.just(start), dollars) for start in found]))
tiered = st.builds(
    lambda rates: listed(msgspec.structs.replace(TIERED, rates=rates)),
    st.fixed_dictionaries(
        {"input_mtok": steps, "output_mtok": steps},
        optional=dict.fromkeys(
            ("cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok", "input_audio_mtok"), steps
        )
        | {"requests_kcount": dollars.map(lambda rate: ((0, rate),))},
    ),
)
prices = configured | tiered
usages = st.builds(Usage, *[st.integers(0, 1000)] * 10)


@given(prices, usages)
def test_a_receipt_adds_up_exactly(price: Price, usage: Usage) -> None:
    receipt = formula(price, usage)
    assert sum(Decimal(charge.amount) for charge in receipt) == Decimal(cost(price, usage)) / 10**9
    for charge in receipt:
        if charge.counter != "rounding":
            per = 1 if charge.counter == "request" else 1_000_000
            assert Decimal(charge.amount) == Decimal(charge.rate) * charge.count / per
    assert {charge.counter: charge.count for charge in receipt if charge.counter not in ("request", "rounding")} == {
        name: count for name in Usage.__struct_fields__ if (count := getattr(usage, name))
    }


@given(configured, usages, usages)
def test_the_cost_of_a_sum_is_the_sum_of_costs(price: Price, one: Usage, other: Usage) -> None:
    both = Usage(*[getattr(one, name) + getattr(other, name) for name in Usage.__struct_fields__])
    assert abs(cost(price, both) + price.request - cost(price, one) - cost(price, other)) <= 1


@given(prices, usages, st.integers(0, 500), st.integers(0, 500))
def test_no_request_costs_more_than_its_reserve(price: Price, usage: Usage, prompt: int, completion: int) -> None:
    assert cost(price, usage) <= reserve(price, usage.prompt + prompt, usage.completion + completion)


@given(prices)
def test_a_price_comes_back_from_its_terms(price: Price) -> None:
    assert parse_terms(price.terms) == price


def test_a_reserve_is_not_of_tiers_out_of_reach() -> None:
    price = listed(TIERED)
    assert reserve(price, 200_000, 1_000) == 200_000 * 3_750 + 1_000 * 15_000 + 5_000_000
    assert reserve(price, 200_001, 1_000) == 200_001 * 6_000 + 1_000 * 22_500 + 5_000_000


# The list


@pytest.fixture(scope="module")
def prices_listed() -> PriceList:
    return PriceList()


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "gpt-4o-audio-preview"),
        ("deepseek", "deepseek-chat"),
        ("xai", "grok-4-0709"),
        ("openrouter", "anthropic/claude-sonnet-4.5"),
        ("openrouter", "google/gemini-2.5-pro"),
        ("perplexity", "sonar-deep-research"),
        ("groq", "llama-3.3-70b-versatile"),
    ],
)
@pytest.mark.parametrize(
    "usage",
    [Usage(1000, output=100), Usage(10, 5000, 300, 0, 0, 0, 7, 30), Usage(250_000, 40_000, output=9_000, reasoning=50)],
    ids=["plain", "cached", "long"],
)
def test_the_list_reckons_the_same(prices_listed: PriceList, provider: str, model: str, usage: Usage) -> None:
    record = prices_listed.price(provider, model, NOW)
    assert record is not None
    price = listed(record)
    written = usage.cache_write_5m
    reckoned = (
        genai_prices.calc_price(
            genai_prices.Usage(
                input_tokens=usage.prompt,
                cache_read_tokens=usage.cache_read,
                cache_write_tokens=written,
                output_tokens=usage.completion,
                output_reasoning_tokens=usage.reasoning,
            ),
            model_ref=record.id,
            provider_id={"xai": "x-ai"}.get(provider, provider),
            genai_request_timestamp=NOW,
        ).total_price
        * 10**9
    )
    assert cost(price, usage) == int(reckoned.quantize(Decimal(1), ROUND_HALF_UP))


def test_every_chat_model_of_the_list_can_be_reckoned_with(prices_listed: PriceList) -> None:
    provider = next(row for row in data_snapshot.get_snapshot().providers if row.id == "openrouter")
    priced = 0
    for model in provider.models:
        record = prices_listed.price("openrouter", model.id, NOW)
        if record is not None and (price := listed_price(record)) is not None:
            priced += 1
            assert parse_terms(price.terms) == price
            assert cost(price, Usage(1000, output=1000)) >= 0
    assert priced > 100


def test_when_another_price_may_begin(prices_listed: PriceList) -> None:
    seen = set()
    for provider in data_snapshot.get_snapshot().providers:
        name = {"x-ai": "xai"}.get(provider.id, provider.id)
        for model in provider.models:
            record = prices_listed.price(name, model.id, NOW)
            if record is None or not record.until:
                continue
            seen.add(name)
            changes = datetime.fromtimestamp(record.until, UTC)
            assert changes > NOW
            found = prices_listed.price(name, model.id, datetime.fromtimestamp(record.until - 1, UTC))
            assert found is not None and found.rates == record.rates, "and until then it is this one"
    ended = prices_listed.price("openai", "gpt-4o-mini", NOW)
    assert ended is not None and ended.until == 0 and ended.context == 128_000
    assert seen, "no price of the list has a date or an hour any more: take another witness"


def test_what_the_list_does_not_have(prices_listed: PriceList) -> None:
    assert prices_listed.price("openai", "no-such-model", NOW) is None
    assert prices_listed.price("nobody", "gpt-4o-mini", NOW) is None
    assert prices_listed.price("nvidia", "gpt-4o-mini", NOW) is None


def test_prices_are_answered_in_the_order_of_the_question() -> None:
    targets = (("openai", "gpt-4o-mini"), ("nobody", "gpt-4o-mini"), ("groq", "llama-3.3-70b-versatile"))
    answer = asyncio.run(Prices(NOW.timestamp).answer(FindPrices(targets)))
    assert isinstance(answer, PriceRecords)
    found = [(row.provider, row.model, row.list.split()[0]) if row is not None else None for row in answer.rows]
    assert found == [
        ("openai", "gpt-4o-mini", "genai-prices"),
        None,
        ("groq", "llama-3.3-70b-versatile", "genai-prices"),
    ]
    frame = render_frame(1, answer)
    assert FrameParser().feed(frame) == [(1, answer)]


# What prompt caches save

CACHED = configured_price(config.Price("10", "30", "1", "12.5", "20"))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(100, output=50), 0),
        (Usage(100, 1, output=50), 9_000),
        (Usage(100, 0, 1), -2_500),
        (Usage(100, 0, 0, 1), -10_000),
        (Usage(0, 10, 4, 8), 90_000 - 10_000 - 80_000),
        (Usage(), 0),
    ],
)
def test_what_a_prompt_cache_saves(usage: Usage, expected: int) -> None:
    assert saved(CACHED, usage) == expected


@given(prices, usages)
def test_what_was_saved_and_what_it_cost_are_what_it_had_cost(price: Price, usage: Usage) -> None:
    cached = usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
    fresh = msgspec.structs.replace(usage, fresh=usage.fresh + cached, cache_read=0, cache_write_5m=0, cache_write_1h=0)
    assert cost(price, usage) + saved(price, usage) == cost(price, fresh)

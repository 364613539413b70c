"""The price list: our table of providers against it, who serves what, and a keeper that loads it only when asked."""

import asyncio
import pathlib
import re
import sys
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from genai_prices import data_snapshot

from tests.keeper.running import running_keeper
from waypost import providers
from waypost.config import Price
from waypost.keeper.direct import price_list
from waypost.keeper.prices import PAGE, PriceList, Prices
from waypost.link import MAX_FRAME, render_frame
from waypost.listing import FindNative, ListNatives, NativeRecord
from waypost.messages import CreateKey, Failed

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
EVERYONE = tuple(row.name for row in providers.TABLE)


@pytest.fixture(scope="module")
def prices() -> PriceList:
    return PriceList()


# Our table


@pytest.mark.parametrize("row", providers.BY_NAME.values(), ids=lambda row: row.name)
def test_each_row_names_its_provider_in_the_list(row):
    snapshot = data_snapshot.get_snapshot()
    address = re.sub(r"\{\w+\}", "us-east-1", row.base_url)
    by_address = [listed.id for listed in snapshot.providers if re.match(listed.api_pattern, address)]
    if row.listed is None:
        assert by_address == [], "the list has this provider now: name it"
    else:
        assert row.listed in by_address and row.prices != row.name


# Who serves what


def served(prices: PriceList, model: str, *names: str) -> list[tuple[str, str]]:
    return [(record.provider, record.id) for record in prices.find(model, names or EVERYONE, NOW)]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o-mini", [("openai", "gpt-4o-mini")]),
        ("GPT-4o-Mini", [("openai", "gpt-4o-mini")]),  # to be sent as the provider writes it
        ("gpt-4o-mini-2024-07-18", [("openai", "gpt-4o-mini-2024-07-18")]),  # a date pins, and stays
        ("deepseek-chat", [("deepseek", "deepseek-chat")]),
        ("llama-3.3-70b-versatile", [("groq", "llama-3.3-70b-versatile")]),
        ("openai/gpt-4o-mini", [("openrouter", "openai/gpt-4o-mini")]),
        ("accounts/fireworks/models/deepseek-r1-0528", [("fireworks", "accounts/fireworks/models/deepseek-r1-0528")]),
        ("qwen/qwen3.5-9b", [("together", "Qwen/Qwen3.5-9B"), ("openrouter", "qwen/qwen3.5-9b")]),
        ("no-such-model", []),
        ("", []),
        ("gpt-4o-minix", []),
        ("☂", []),
    ],
)
def test_who_serves_a_model(prices, model, expected):
    assert served(prices, model) == expected


def test_only_those_asked_for_answer_in_the_order_asked(prices):
    assert served(prices, "gpt-4o-mini", "deepseek", "groq", "unheard-of") == []
    assert served(prices, "gpt-4o-mini") == served(prices, "gpt-4o-mini", "openai")
    both = served(prices, "gpt-oss-120b", "openai", "cerebras")
    assert [provider for provider, _ in both] == ["openai", "cerebras"]
    assert served(prices, "gpt-oss-120b", "cerebras", "openai") == both[::-1]


def test_a_full_id_goes_before_the_likeness_of_others(prices):
    # DeepSeek's rules take whatever begins with `deepseek-r1`, OpenAI's whatever has `moderation` in it.
    assert served(prices, "deepseek-r1-distill-llama-70b") == [("groq", "deepseek-r1-distill-llama-70b")]
    assert served(prices, "deepseek-r1-new", "deepseek", "groq") == [("deepseek", "deepseek-r1-new")]
    theirs = "togethercomputer/GPT-JT-Moderation-6B"
    assert served(prices, theirs) == [("together", theirs)]
    # What a router calls `x-ai/…`, xAI's rules know too, but xAI itself doesn't take it.
    assert served(prices, "x-ai/grok-4.3") == [("openrouter", "x-ai/grok-4.3")]


def test_a_suffix_is_nothing_that_an_id_begins_with(prices):
    # DeepSeek's and Anthropic's rules take whatever begins like one of their ids.
    everyone = ("anthropic", "deepseek", "gemini", "openrouter")
    for suffixed in ("deepseek-chat:floor", "claude-sonnet-4-5:thinking", "claude-sonnet-4-5:thinking:high"):
        assert served(prices, suffixed, *everyone) == []
        assert served(prices, suffixed.partition(":")[0], *everyone) != []
    assert served(prices, "deepseek/deepseek-r1:free") == [("openrouter", "deepseek/deepseek-r1:free")]


# What is known


def test_the_facts_of_a_model(prices):
    record = prices.find("gpt-4o-mini", ("openai",), NOW)[0]
    known = msgspec.structs.replace(record, description="", rates={})
    facts = (128_000, "0.15", "0.6", "0.075", False)
    assert known == NativeRecord("gpt-4o-mini", "openai", "gpt-4o-mini", *facts, "gpt 4o mini")
    assert record.description != ""
    named = {"input_mtok": "0.15", "output_mtok": "0.6", "cache_read_mtok": "0.075"}
    assert record.rates.items() >= named.items()
    assert prices.find("GPT-4O-MINI", ("openai",), NOW)[0] == msgspec.structs.replace(record, model="GPT-4O-MINI")


@pytest.mark.parametrize(
    ("provider", "model", "like"),
    [
        ("vertex", "gemini-2.5-flash", "gemini"),
        ("vertex", "claude-sonnet-4-5@20250929", "anthropic"),
        ("bedrock", "amazon.nova-lite-v1:0", ""),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", ""),
        ("azure", "gpt-4o", "openai"),
    ],
)
def test_whose_customer_one_must_be_has_prices_too(prices, provider, model, like):
    record = prices.price(provider, model, NOW)
    assert record.provider == provider and record.model == model
    assert Decimal(record.rates["input_mtok"][0][1]) > 0 and Decimal(record.rates["output_mtok"][0][1]) > 0
    if like:
        assert record.rates.items() <= prices.price(like, model.partition("@")[0], NOW).rates.items()
    assert prices.price(provider, "no-such-model", NOW) is None


def test_a_price_in_tiers_is_its_first(prices):
    tiers = {
        model.id: model.get_prices(NOW).input_mtok
        for model in data_snapshot.get_snapshot().find_provider(None, "x-ai", None).models
        if hasattr(model.get_prices(NOW).input_mtok, "tiers")
    }
    assert tiers
    for model, tiered in tiers.items():
        assert Decimal(prices.find(model, ("xai",), NOW)[0].input) == tiered.base < tiered.tiers[0].price


def test_a_price_has_the_hour_that_it_is_asked_in(prices):
    listed = data_snapshot.get_snapshot().find_provider_model("deepseek-chat", None, "deepseek", None)[1]
    hours = [datetime(2025, 3, 1, hour, 45, tzinfo=UTC) for hour in range(24)]
    found = [prices.find("deepseek-chat", ("deepseek",), hour)[0].output for hour in hours]
    assert found == [format(listed.get_prices(hour).output_mtok.normalize(), "f") for hour in hours]
    assert len(set(found)) > 1


def test_everything_listed_can_be_called_and_priced(prices):
    rows = prices.listing(EVERYONE, NOW)
    assert len(rows) > 1000 and {row.provider for row in rows} == {row.name for row in providers.TABLE if row.listed}
    assert len({(row.model.lower(), row.provider) for row in rows}) == len(rows)
    for row in rows:
        assert row in prices.find(row.model, EVERYONE, NOW), "what is listed is found"
        assert not row.deprecated and not row.model.endswith("-")
        assert len(row.model) <= 256 and (row.context is None or row.context > 0)
        amounts = {"input": row.input, "output": row.output, "cache_read": row.cache_read}
        if row.input is not None:
            msgspec.convert(amounts, Price)


def test_what_is_deprecated_or_no_chat_model_is_found_but_not_listed(prices):
    gone = data_snapshot.get_snapshot().find_provider_model("qwen-3-coder-480b", None, "cerebras", None)[1]
    assert gone.deprecated and prices.find(gone.id, ("cerebras",), NOW)[0].deprecated
    listed = {row.model for row in prices.listing(("cerebras", "openai", "groq"), NOW)}
    assert {"gpt-4o-mini", "gpt-oss-120b"} <= listed
    assert not listed & {gone.id, "text-embedding-3-small", "whisper-1", "whisper-large-v3", "tts-1"}
    assert served(prices, "whisper-1", "openai") == [("openai", "whisper-1")]


def test_a_listing_comes_in_pages_that_fit_a_frame(prices):
    async def run():
        answering, pages, after = Prices(NOW.timestamp), [], 0
        while after is not None:
            pages.append(await answering.answer(ListNatives(EVERYONE, after)))
            after = pages[-1].after
        return pages

    pages = asyncio.run(run())
    assert len(pages) > 1 and all(len(page.rows) == PAGE for page in pages[:-1])
    assert tuple(row for page in pages for row in page.rows) == prices.listing(EVERYONE, NOW)
    assert max(len(render_frame(1, page)) for page in pages) < MAX_FRAME / 8


# In the keeper

STUB = """
import os, pathlib
with pathlib.Path(os.environ["IMPORTED"]).open("a") as log:
    log.write(f"{os.getpid()}\\n")
raise ImportError("this one is broken")
"""


def test_a_running_keeper_answers():
    with running_keeper() as keeper:

        async def run():
            async with price_list(keeper.data) as ask:
                found = await ask(FindNative("gpt-4o-mini", ("deepseek", "openai")))
                missing = await ask(FindNative("no-such-model", ("openai",)))
                return found, missing, await ask(ListNatives(("openai",)))

        found, missing, listing = asyncio.run(run())
    assert [(row.provider, row.context) for row in found.rows] == [("openai", 128_000)]
    assert missing.rows == () and found.rows[0] in listing.rows and listing.after is None


def test_it_is_loaded_only_when_asked_and_a_broken_one_is_said(tmp_path: pathlib.Path):
    imported = tmp_path / "imported"
    (tmp_path / "genai_prices.py").write_text(STUB)
    environment = {"PYTHONPATH": str(tmp_path), "IMPORTED": str(imported)}
    with running_keeper(environment=environment) as keeper:

        async def run():
            key = await keeper.ask(CreateKey("ann", "free"))
            assert key.account == "ann" and not imported.exists(), "nothing of it without being asked"
            async with price_list(keeper.data) as ask:
                return [await ask(FindNative("gpt-4o-mini", ("openai",))), await ask(ListNatives(("openai",)))]

        answers = asyncio.run(run())
        assert (
            answers == [Failed("UNAVAILABLE", "the price list (genai-prices) cannot be loaded: this one is broken")] * 2
        )
        assert imported.read_text() == f"{keeper.process.pid}\n", "tried once, in the keeper"


def test_a_worker_and_a_keeper_that_is_not_asked_import_nothing_of_it():
    script = "import sys, waypost.worker.app, waypost.keeper.app; print('genai_prices' in sys.modules)"

    async def run():
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0]

    assert asyncio.run(run()) == b"False\n"

"""Prompts that upstreams had in a cache, or wrote into one: counted in every format, and told as money saved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.harness import Answer, Waypost, chat_body, post, serving
from tests.http.upstream import Upstream, response, upstream
from tests.sim.running import Running
from tests.worker.test_formats_script import configuration
from waypost.config import load
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey, Verified, VerifyLedger

# Dollars per million tokens, no two alike.
PRICE = {"input": "10", "output": "30", "cache_read": "1", "cache_write_5m": "12.5", "cache_write_1h": "20"}
CLAUDE = "anthropic/claude-sonnet-4-5"
NOVA = "bedrock/us.amazon.nova-2-lite-v1:0"
BEDROCK = "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0"

READ = {
    "openai": "lab/gpt-4o+cached-7",
    "azure": "azure/gpt-4o+cached-7",
    "mistral": "mistral/mistral-large-latest+cached-7+usage-last-choice",
    "anthropic": f"{CLAUDE}+cached-7",
    "gemini": "gemini/gemini-2.5-flash+cached-7",
    "vertex": "vertex/gemini-2.5-flash+cached-7",
    "bedrock": f"{BEDROCK}+cached-7",
}
WRITTEN = {
    "anthropic-writes": f"{CLAUDE}+cache-write-5",
    "bedrock-writes": f"{BEDROCK}+cache-write-5",
    "nova-both": f"{NOVA}+cached-3+cache-write-5",
    "plain-claude": CLAUDE,
    "plain-bedrock": BEDROCK,
}
ROUTES = (
    READ
    | WRITTEN
    | {"cohere": "cohere/command-a-03-2025+cached-7"}
    | {"deepseek-like": "scripted/deepseek", "nothing": "lab/demo", "unpriced": "lab/cached-7"}
)

# What others than OpenAI call it.
SPOKEN = {
    "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110,
    "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36,
}  # fmt: skip


@pytest.fixture(scope="module")
def scripted() -> Iterator[Upstream]:
    with upstream() as server:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
        body = {"id": "x", "object": "chat.completion", "created": 1, "model": "deepseek", "choices": [choice]}

        def play(sock: Any, asked: Any) -> bool:
            if not json.loads(asked.body).get("stream"):
                sock.sendall(response(json.dumps(body | {"usage": SPOKEN}).encode()))
                return True
            delta = {"index": 0, "delta": {"content": "Yes."}, "finish_reason": None}
            chunks = [
                body | {"object": "chat.completion.chunk", "choices": [delta]},
                body | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": SPOKEN},
            ]
            events = b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"
            sock.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b"
                % (len(events), events)
            )
            return True

        server.scripts["deepseek"] = play
        yield server


@pytest.fixture(scope="module")
def server(simulator: Running, scripted: Upstream) -> Iterator[Waypost]:
    price = ", ".join(f'{name} = "{rate}"' for name, rate in PRICE.items())
    text = configuration(simulator.base) + f'[providers.scripted]\nbase_url = "{scripted.base()}"\nkeys = ["x"]\n'
    for name, link in ROUTES.items():
        text += f'[models."route/{name}"]\nchain = ["{link}"]\n'
        text += f"price = {{ {price} }}\n" if name != "unpriced" else ""
    with serving(text + "[plans.open]\n", workers=2) as waypost:
        yield waypost


class Account:
    """An account that no other test uses: what it asks, and what the pages say."""

    def __init__(self, server: Waypost, name: str) -> None:
        self.server = server
        self.inference, self.management = (self.create(name, kind) for kind in ("inference", "management"))

    def create(self, name: str, kind: Any) -> str:
        settings = load(self.server.folder / "waypost.toml")
        created = asyncio.run(administer(self.server.folder / "data", settings, CreateKey(name, "open", kind=kind)))
        assert isinstance(created, CreatedKey), created
        return created.key

    def send(self, data: bytes) -> Answer:
        with self.server.connect() as client:
            client.send(data)
            answer = client.answer()
        assert answer.status == 200, answer.body
        return answer

    def ask(self, model: str, **fields: Any) -> Answer:
        body = chat_body(model, "What is the capital of France, and of what is Paris the capital?", **fields)
        lines = (f"authorization: Bearer {self.inference}", "accept: application/json")
        return self.send(post("/v1/chat/completions", body, *lines))

    def get(self, path: str) -> Any:
        key = self.management if path.startswith("/v1/account") else self.inference
        return self.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n".encode()).json

    def receipt(self, answer: Answer) -> Any:
        return self.get(f"/v1/generation?id={answer.header('x-request-id')}")["data"]


def told(answer: Answer) -> Any:
    """The usage that the caller sees."""
    if (answer.header("content-type") or "").startswith("application/json"):
        return answer.json["usage"]
    return next(chunk["usage"] for chunk in answer.chunks if chunk.get("usage"))


def saved(receipt: Any) -> Decimal:
    """What a receipt's own numbers say: every cached token at the fresh rate, less what it cost."""
    rates = receipt["price"]["terms"]["tiers"][0]["rates"]
    return sum(
        (
            receipt["usage"][name] * (Decimal(rates["fresh"]) - Decimal(rates[name])) / 1_000_000
            for name in ("cache_read", "cache_write_5m", "cache_write_1h")
        ),
        Decimal(0),
    )


STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("fields", [{}, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("name", READ)
def test_what_a_cache_had_is_counted_and_saves_money(server: Waypost, name: str, fields: dict[str, Any]) -> None:
    account = Account(server, f"read-{name}-{bool(fields)}")
    answer = account.ask(f"route/{name}", **fields)
    receipt = account.receipt(answer)
    assert receipt["usage"]["cache_read"] == told(answer)["prompt_tokens_details"]["cached_tokens"] == 7
    assert (receipt["usage"]["cache_write_5m"], receipt["usage"]["cache_write_1h"]) == (0, 0)
    assert receipt["usage"]["fresh"] == receipt["tokens_prompt"] - 7 > 0
    assert receipt["tokens_prompt"] == told(answer)["prompt_tokens"]
    assert receipt["cache_savings"] == 7 * 9 / 1_000_000 == float(saved(receipt))


@pytest.mark.parametrize("fields", [{}, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("name", "read", "savings"), [("anthropic-writes", 0, -12.5), ("bedrock-writes", 0, -12.5), ("nova-both", 3, 14.5)]
)
def test_what_was_written_is_counted_and_costs_more(
    server: Waypost, name: str, read: int, savings: float, fields: dict[str, Any]
) -> None:
    account = Account(server, f"written-{name}-{bool(fields)}")
    answer = account.ask(f"route/{name}", **fields)
    receipt = account.receipt(answer)
    assert (receipt["usage"]["cache_read"], receipt["usage"]["cache_write_5m"]) == (read, 5)
    assert told(answer)["prompt_tokens_details"]["cache_write_tokens"] == 5
    assert receipt["cache_savings"] == pytest.approx(savings / 1_000_000, abs=1e-12)


@pytest.mark.parametrize("fields", [{}, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("name", ["plain-claude", "plain-bedrock"])
@pytest.mark.parametrize(("lifetime", "counter"), [("5m", "cache_write_5m"), ("1h", "cache_write_1h")])
def test_both_lifetimes_of_what_is_written(
    server: Waypost, name: str, lifetime: str, counter: str, fields: dict[str, Any]
) -> None:
    account = Account(server, f"{lifetime}-{name}-{bool(fields)}")
    part = {"type": "text", "text": "Remember this. " * 600, "cache_control": {"type": "ephemeral", "ttl": lifetime}}
    messages = [{"role": "user", "content": [part]}]
    receipt = account.receipt(account.ask(f"route/{name}", messages=messages, **fields))
    other = {"cache_write_5m", "cache_write_1h"} - {counter}
    assert receipt["usage"][counter] > 0
    assert receipt["usage"]["cache_read"] > 0
    assert receipt["usage"][other.pop()] == 0
    assert Decimal(str(receipt["cache_savings"])) == saved(receipt)


@pytest.mark.parametrize("fields", [{}, STREAM], ids=["whole", "stream"])
def test_hits_and_misses_as_deepseek_says_them(server: Waypost, fields: dict[str, Any]) -> None:
    account = Account(server, f"deepseek-{bool(fields)}")
    receipt = account.receipt(account.ask("route/deepseek-like", **fields))
    assert (receipt["usage"]["fresh"], receipt["usage"]["cache_read"]) == (36, 64)
    assert receipt["raw_usage"]["prompt_cache_hit_tokens"] == 64
    assert receipt["cache_savings"] == 64 * 9 / 1_000_000


def test_what_cohere_has_cached_is_its_own_prompt_around_the_callers_and_is_not_charged(server: Waypost) -> None:
    account = Account(server, "cohere")
    receipt = account.receipt(account.ask("route/cohere"))
    assert receipt["raw_usage"]["cached_tokens"] == 7
    assert receipt["tokens_prompt"] == receipt["raw_usage"]["billed_units"]["input_tokens"] == receipt["usage"]["fresh"]
    assert (receipt["usage"]["cache_read"], receipt["cache_savings"]) == (0, 0)


def test_analytics_tell_hit_rates_and_money_by_model(server: Waypost) -> None:
    account = Account(server, "analytics")
    for model, count in (("openai", 3), ("anthropic-writes", 2), ("nothing", 1), ("unpriced", 1)):
        for _ in range(count):
            account.ask(f"route/{model}")
    page = account.get("/v1/account/analytics?days=2")
    models = {row["model"]: row for row in page["models"]}
    assert {name: row["requests"] for name, row in models.items()} == {
        "route/openai": 3, "route/anthropic-writes": 2, "route/nothing": 1, "route/unpriced": 1,
    }  # fmt: skip
    hits = models["route/openai"]
    assert hits["saved"] == pytest.approx(3 * 7 * 9 / 1_000_000, abs=1e-12)
    assert hits["cached_tokens"] == 21
    assert hits["cache_hit_rate"] == round(21 / hits["prompt_tokens"], 6) > 0
    assert models["route/anthropic-writes"]["saved"] == pytest.approx(-2 * 5 * 2.5 / 1_000_000, abs=1e-12)
    assert models["route/anthropic-writes"]["cache_write_tokens"] == 10
    assert (models["route/nothing"]["saved"], models["route/nothing"]["cache_hit_rate"]) == (0, 0)
    assert (models["route/unpriced"]["saved"], models["route/unpriced"]["cached_tokens"]) == (0, 7)
    assert page["models"] == sorted(page["models"], key=lambda row: (-row["cost"], row["model"]))
    for name in ("saved", "cost", "cached_tokens", "requests", "prompt_tokens"):
        total = pytest.approx(page["totals"][name], abs=1e-12)
        assert sum(row[name] for row in page["models"]) == total
        assert sum(row[name] for row in page["data"]) == total


def test_the_ledger_counts_the_same_again(server: Waypost) -> None:
    account = Account(server, "verified")
    account.ask("route/nova-both")
    settings = load(server.folder / "waypost.toml")
    reply = asyncio.run(administer(server.folder / "data", settings, VerifyLedger()))
    assert isinstance(reply, Verified)
    assert [row for row in reply.differences if "units taken" not in row.what] == []

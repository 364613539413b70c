"""What a caller has just done stands in its pages: real requests, through the whole server and the books."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.harness import Answer, Waypost, provider, serving, settings_of
from tests.sim.running import Running
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey

CONFIG = """
[server]
metrics = "public"
[models.fine]
chain = ["sim/cached-4"]
price = { input = "3", output = "15", cache_read = "0.3" }
[models.second-try]
chain = ["sim/status-500", "sim/demo"]
price = { input = "1", output = "1" }
[models.dead]
chain = ["sim/status-503"]
price = { input = "1", output = "1" }
[plans.all]
requests = { day = 50, minute = 40 }
spend = { day = "10" }
"""


class Account:
    """An account with a key of each kind."""

    def __init__(self, waypost: Waypost, name: str) -> None:
        self.waypost = waypost
        self.inference, self.management = self.create(name, "inference"), self.create(name, "management")

    def create(self, name: str, kind: Any) -> str:
        message = CreateKey(name, "all", kind=kind)
        created = asyncio.run(administer(self.waypost.folder / "data", settings_of(CONFIG), message))
        assert isinstance(created, CreatedKey), created
        return created.key

    def chat(self, model: str, **fields: Any) -> Answer:
        self.waypost.key, before = self.inference, self.waypost.key
        try:
            return self.waypost.ask(model, "What is the capital of France?", **fields)
        finally:
            self.waypost.key = before

    def get(self, path: str) -> Any:
        key = self.management if path.startswith("/v1/account") else self.inference
        with self.waypost.connect() as client:
            client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n".encode())
            answer = client.answer()
        assert answer.status == 200, answer
        return answer.json

    def receipt(self, answer: Answer) -> Any:
        return self.get(f"/v1/generation?id={answer.header('x-request-id')}")["data"]


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    with serving(provider("sim", simulator.base) + CONFIG, workers=2) as waypost:
        yield waypost


def test_every_page_has_the_request_that_was_just_answered(server: Waypost):
    ann = Account(server, "ann")
    answer = ann.chat("fine")
    receipt = ann.receipt(answer)
    usage = answer.json["usage"]
    assert (receipt["status"], receipt["model"], receipt["provider_name"]) == (200, "fine", "sim")
    assert receipt["raw_usage"]["prompt_tokens"] == usage["prompt_tokens"] == receipt["tokens_prompt"]
    assert receipt["usage"]["cache_read"] == usage["prompt_tokens_details"]["cached_tokens"] == 4
    fresh, output = usage["prompt_tokens"] - 4, usage["completion_tokens"]
    cost = Decimal(fresh * 3 + output * 15) / 10**6 + Decimal(4) * Decimal("0.3") / 10**6
    assert sum(Decimal(item["amount"]) for item in receipt["formula"]) == cost
    assert Decimal(str(receipt["total_cost"])) == cost
    assert receipt["latency"] == answer.json["latency_ms"], "what the answer says is what the books say"
    assert receipt["attempts"] == 1 and receipt["failed_attempts"] == []

    counts = ann.get("/v1/user/requests")
    assert (counts["requests_used_today"], counts["requests_remaining"]) == (1, 49)
    assert ann.get("/v1/key")["data"]["usage_daily"] == float(cost)
    assert [row["cost"] for row in ann.get("/v1/account/activity")["data"]] == [float(cost)]
    analytics = ann.get("/v1/account/analytics")
    assert (analytics["totals"]["requests"], analytics["totals"]["cached_tokens"]) == (1, 4)
    assert analytics["data"][0]["model"] == "fine"


def test_failures_are_in_the_receipt_and_given_back(server: Waypost):
    bob = Account(server, "bob")
    second = bob.receipt(bob.chat("second-try"))
    assert (second["status"], second["attempts"], second["upstream_model"]) == (200, 2, "demo")
    failed = second["failed_attempts"]
    assert [(row["number"], row["model"], row["error_code"], row["status"]) for row in failed] == [
        (1, "status-500", "PROVIDER_ERROR", 500)
    ]
    dead = bob.receipt(bob.chat("dead"))
    assert (dead["status"], dead["error_code"], dead["total_cost"]) == (502, "PROVIDER_ERROR", 0.0)
    assert (dead["counted_requests"], dead["attempts"], len(dead["failed_attempts"])) == (0, 3, 3)
    assert bob.get("/v1/user/requests")["requests_used_today"] == 1
    assert bob.get("/v1/account/analytics")["totals"]["errors"] == 1


def test_streams_have_receipts_too(server: Waypost):
    eve = Account(server, "eve")
    answer = eve.chat("fine", stream=True)
    receipt = eve.receipt(answer)
    assert receipt["streamed"] is True and receipt["first_token"] >= 1 and receipt["estimated"] is False
    assert f"chatcmpl_{receipt['id'][9:]}" == answer.chunks[0]["id"]


def test_what_others_did_is_not_there(server: Waypost):
    one, other = Account(server, "one"), Account(server, "other")
    request_id = one.chat("fine").header("x-request-id")
    with server.connect() as client:
        line = f"GET /v1/generation?id={request_id} HTTP/1.1\r\nhost: x\r\nx-api-key: {other.inference}\r\n\r\n"
        client.send(line.encode())
        assert client.answer().status == 404
    assert other.get("/v1/account/activity")["data"] == []
    assert other.get("/v1/user/requests")["requests_used_today"] == 0


def test_metrics_count_them(server: Waypost):
    def series() -> dict[str, float]:
        with server.connect() as client:
            client.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = client.answer()
        assert answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
        return {
            name: float(value) for name, value in re.findall(r"^(\w\S*) (\S+)$", answer.body.decode(), re.MULTILINE)
        }

    account, before = Account(server, "counted"), series()
    account.chat("fine")
    attempts = int(account.chat("dead").header("x-attempts") or 0)
    after = series()

    def risen(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert risen('waypost_requests_total{model="fine",plan="all",provider="sim",status="200"}') == 1
    assert risen('waypost_requests_total{model="other",plan="all",provider="sim",status="502"}') == 1
    assert risen('waypost_attempts_failed_total{code="PROVIDER_ERROR",provider="sim"}') == attempts
    assert risen('waypost_tokens_total{kind="cache_read",model="fine",provider="sim"}') == 4
    assert risen('waypost_cost_usd_total{model="fine",plan="all",provider="sim"}') > 0
    assert risen('waypost_latency_seconds_count{model="fine",provider="sim"}') == 1
    assert after["waypost_books_ready"] == 1 and after["waypost_open_requests"] == 0

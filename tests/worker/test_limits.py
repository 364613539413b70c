"""Limits as a caller meets them: whole requests through a whole server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest

from tests.harness import Answer, Waypost, chat_body, post, provider, serving, wait_until
from tests.sim.running import Running
from waypost.config import load
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey, CreditAccount, KeyTerms
from waypost.sim.journal import read_journal

CONFIG = """
[models."route/priced"]
chain = ["sim/demo"]
price = {{ input = "2", output = "8", cache_read = "1" }}
[models."route/dear"]
chain = ["sim/demo"]
price = {{ input = "2", output = "1000" }}
[models."route/priced-slow"]
chain = ["sim/gap-20+words-200"]
price = {{ input = "2", output = "8" }}
[models."route/priced-dead"]
chain = ["sim/status-500"]
price = {{ input = "2", output = "8" }}
[models."route/mixed"]
chain = ["sim/demo", "sim/words-5", "sim/words-6"]
prices = {{ "sim/demo" = {{ input = "2", output = "1000" }}, "sim/words-5" = {{ input = "0", output = "0" }} }}

[plans.open]
[plans.daily]
requests = {{ day = 3 }}
[plans.hourly]
requests = {{ hour = 2, day = 100 }}
[plans.minutely]
requests = {{ minute = 1, day = 100 }}
[plans.monthly]
requests = {{ month = 1 }}
[plans.streams]
streams = 1
[plans.tokens]
tokens = {{ day = 6000 }}
[plans.spend]
spend = {{ day = "0.01" }}
[plans.spend-unpriced]
spend = {{ day = "0.01" }}
unpriced = "allow"
[jwt]
secret = "a secret of the tests, long enough for HS256"
plan_claim = "plan"
create_accounts = true
[plans.ten]
requests = {{ day = 10 }}
"""


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    with serving(provider("sim", simulator.base) + CONFIG.format(), workers=2) as waypost:
        yield waypost


PLANS = ("open", "daily", "hourly", "minutely", "monthly", "streams", "tokens", "spend", "spend-unpriced", "ten")


def key_on(server: Waypost, plan: str, account: str, **narrowing: Any) -> str:
    """A key of an account that no other test uses."""
    created = asyncio.run(administer_plans(server, CreateKey(account, plan, terms=KeyTerms(**narrowing))))
    assert isinstance(created, CreatedKey), created
    return created.key


async def administer_plans(server: Waypost, message: Any) -> Any:
    settings = load(server.folder / "waypost.toml")
    return await administer(server.folder / "data", settings, message)


def ask(server: Waypost, key: str, model: str = "sim/demo", asked: str = "Hello", **fields: Any) -> Answer:
    with server.connect() as client:
        body = chat_body(model, asked, **fields)
        client.send(post("/v1/chat/completions", body, f"authorization: Bearer {key}", "accept: application/json"))
        return client.answer()


def rows(server: Waypost, account: str, count: int) -> list[dict[str, Any]]:
    """The ledger's rows of an account, once there are so many and none is open."""
    database = pathlib.Path(server.folder / "data" / "waypost.db")
    statement = "SELECT r.* FROM requests r JOIN accounts a ON a.id = r.account_id WHERE a.name = ?"

    def read() -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement, (account,))]

    def are_closed() -> bool:
        found = read()
        return len(found) >= count and all(row["status"] is not None for row in found)

    wait_until(are_closed, f"{count} rows of {account}")
    found = read()
    assert len(found) == count
    return found


@pytest.mark.parametrize(
    ("plan", "allowed", "code", "window"),
    [
        ("daily", 3, "DAILY_REQUEST_LIMIT_EXCEEDED", "day"),
        ("hourly", 2, "HOURLY_REQUEST_LIMIT_EXCEEDED", "hour"),
        ("minutely", 1, "MINUTE_REQUEST_LIMIT_EXCEEDED", "minute"),
        ("monthly", 1, "MONTHLY_REQUEST_LIMIT_EXCEEDED", "month"),
    ],
)
def test_a_window_admits_its_number_and_says_what_is_full(
    server: Waypost, plan: str, allowed: int, code: str, window: str
) -> None:
    key = key_on(server, plan, f"window-{plan}")
    for _ in range(3):  # a window that rolls over in the middle is tried again
        statuses = [ask(server, key).status for _ in range(allowed)]
        refused = ask(server, key)
        if refused.status == 429:
            break
    assert statuses == [200] * allowed
    assert (refused.status, refused.code) == (429, code)
    assert refused.json["error"]["code"] == code
    assert int(refused.header("retry-after") or 0) >= 1
    assert refused.header("x-should-retry") == ("true" if window == "minute" else "false")
    assert refused.header(f"x-ratelimit-limit-{window}") == str(allowed)
    assert refused.header(f"x-ratelimit-remaining-{window}") == "0"
    assert refused.header(f"x-ratelimit-reset-{window}") == refused.header("retry-after")


def test_all_keys_of_an_account_share_its_counters_and_a_key_may_have_less(server: Waypost) -> None:
    first = key_on(server, "daily", "shared")
    second = key_on(server, "daily", "shared")
    narrow = key_on(server, "daily", "shared", daily_limit=1)
    assert ask(server, narrow).status == 200
    refused = ask(server, narrow)
    assert refused.code == "DAILY_REQUEST_LIMIT_EXCEEDED"
    assert "key" in refused.json["error"]["message"]
    assert [ask(server, key).status for key in (first, second)] == [200, 200]
    assert ask(server, first).code == "DAILY_REQUEST_LIMIT_EXCEEDED"


def test_a_failed_chain_gives_its_request_back(server: Waypost) -> None:
    key = key_on(server, "daily", "failed-chain")
    for model, code in [("sim/status-500", "PROVIDER_ERROR"), ("sim/context-length", "CONTEXT_LENGTH_EXCEEDED")] * 3:
        assert ask(server, key, model).code == code
    assert [ask(server, key).status for _ in range(4)] == [200, 200, 200, 429]
    found = rows(server, "failed-chain", 9)
    assert sorted((row["requests"], row["code"]) for row in found) == (
        [(0, "CONTEXT_LENGTH_EXCEEDED")] * 3 + [(0, "PROVIDER_ERROR")] * 3 + [(1, "")] * 3
    )


def test_streams_are_counted_while_they_are_open(server: Waypost) -> None:
    key = key_on(server, "streams", "streaming")
    headers = (f"authorization: Bearer {key}", "accept: application/json")
    with server.connect() as client:
        client.send(post("/v1/chat/completions", chat_body("sim/gap-20+words-100", "x", stream=True), *headers))
        client.until(b"data: ")
        refused = ask(server, key, stream=True)
        assert (refused.status, refused.code) == (429, "STREAM_LIMIT_EXCEEDED")
        assert ask(server, key).status == 200  # what does not stream is not a stream
        assert client.until(b"data: [DONE]\n\n")
    assert ask(server, key, stream=True).status == 200
    with server.connect() as client:  # one that is left in the middle is over, too
        client.send(post("/v1/chat/completions", chat_body("sim/gap-20+words-5000", "x", stream=True), *headers))
        client.until(b"data: ")
    wait_until(lambda: ask(server, key, stream=True).status == 200, "the stream that was left to be over")


def test_tokens_are_reserved_and_settled(server: Waypost) -> None:
    key = key_on(server, "tokens", "token-counting")
    too_much = ask(server, key, max_tokens=6000)
    assert (too_much.status, too_much.code) == (429, "TOKEN_LIMIT_EXCEEDED")
    assert "max_tokens" in too_much.json["error"]["message"]
    for _ in range(5):  # 4,000 would fit once if what is not used did not come back
        answer = ask(server, key, max_tokens=4000)
        assert answer.status == 200, answer.body
    used = sum(row["tokens"] for row in rows(server, "token-counting", 5))
    assert used == 5 * answer.json["usage"]["total_tokens"]


def test_money_is_reserved_settled_and_told(server: Waypost) -> None:
    key = key_on(server, "spend", "spending")
    refused = ask(server, key, "route/priced", max_tokens=2000)  # 2,000 tokens at $8 a million are $0.016
    assert (refused.status, refused.code) == (402, "SPEND_LIMIT_EXCEEDED")
    unpriced = ask(server, key)
    assert (unpriced.status, unpriced.code) == (402, "MODEL_NOT_PRICED")
    answer = ask(server, key, "route/priced", max_tokens=1000, usage={"include": True})
    usage = answer.json["usage"]
    expected = usage["prompt_tokens"] * 2 + usage["completion_tokens"] * 8  # nano-dollars times a thousand
    assert round(usage["cost"] * 10**9) == expected * 1000
    (row,) = rows(server, "spending", 1)
    assert (row["cost"], row["estimated"], row["requests"]) == (expected * 1000, 0, 1)
    assert ask(server, key_on(server, "spend-unpriced", "lenient")).status == 200


def test_a_prepaid_account_spends_what_it_has(server: Waypost) -> None:
    key = key_on(server, "open", "prepaid")
    asyncio.run(
        administer_plans(server, CreditAccount("prepaid", add=9_000_000, prepaid=True))
    )  # $0.009: one reservation of $0.008
    wait_until(lambda: ask(server, key, "route/priced", max_tokens=2000).status == 402, "the credit to be known")
    assert ask(server, key, "route/priced", max_tokens=2000).code == "INSUFFICIENT_BALANCE"
    assert ask(server, key, "route/priced", max_tokens=1000).status == 200
    assert ask(server, key, "route/priced-dead", max_tokens=1000).status == 502
    assert ask(server, key, "route/priced", max_tokens=1000).status == 200


def test_exactly_ten_of_two_hundred(server: Waypost) -> None:
    key = key_on(server, "ten", "crowd")
    with ThreadPoolExecutor(40) as crowd:
        answers = list(crowd.map(lambda _: ask(server, key), range(200)))
    assert sorted(answer.status for answer in answers) == [200] * 10 + [429] * 190
    assert len(rows(server, "crowd", 10)) == 10


def test_an_upstream_that_says_nothing_of_usage_is_estimated(server: Waypost) -> None:
    key = key_on(server, "open", "estimated")
    whole = ask(server, key, "sim/no-usage", "How does a rate limiter work?")
    streamed = ask(
        server,
        key,
        "sim/no-usage",
        "How does a rate limiter work?",
        stream=True,
        stream_options={"include_usage": True},
    )
    assert whole.json["usage"]["estimated"] is True
    assert streamed.chunks[-1]["usage"]["estimated"] is True
    exact = ask(server, key, "sim/demo", "How does a rate limiter work?").json["usage"]
    for usage in (whole.json["usage"], streamed.chunks[-1]["usage"]):
        assert abs(usage["completion_tokens"] - exact["completion_tokens"]) <= max(
            16, exact["completion_tokens"] * 0.25
        )
    assert sorted(row["estimated"] for row in rows(server, "estimated", 3)) == [0, 1, 1]


def test_every_way_to_end_has_one_row(server: Waypost, simulator: Running) -> None:
    key = key_on(server, "open", "endings")
    for model in ("demo", "cut-after-3", "sse-error-after-3", "status-503", "context-length", "sse-error-first"):
        ask(server, key, f"sim/{model}", "nonce:endings-one", stream=True)
    headers = (f"authorization: Bearer {key}",)
    with server.connect() as client:
        client.send(
            post("/v1/chat/completions", chat_body("sim/gap-20+words-500", "nonce:endings-gone", stream=True), *headers)
        )
        client.until(b"data: ")
    found = rows(server, "endings", 7)
    codes = ["", "CLIENT_GONE", "CONTEXT_LENGTH_EXCEEDED", *["PROVIDER_ERROR"] * 4]
    assert sorted(row["code"] for row in found) == codes
    gone = next(row for row in found if row["code"] == "CLIENT_GONE")
    assert (gone["status"], gone["estimated"], gone["requests"]) == (200, 1, 1)
    assert gone["tokens"] > 0


def test_a_killed_stream_ends_with_done(server: Waypost) -> None:
    key = key_on(server, "open", "killing")
    headers = (f"authorization: Bearer {key}", "accept: application/json")
    with server.connect() as running, server.connect() as waiting:
        running.send(post("/v1/chat/completions", chat_body("sim/gap-20+words-5000", "x", stream=True), *headers))
        waiting.send(post("/v1/chat/completions", chat_body("sim/hang", "x", stream=True), *headers))
        running.until(b"data: ")
        with server.connect() as client:
            wait_until(lambda: kill(client, headers) > 0, "a stream to be killed")
        running.until(b"data: [DONE]\n\n")
        waiting.until(b"data: [DONE]\n\n")
    assert {row["code"] for row in rows(server, "killing", 2)} == {"STREAM_KILLED"}


def kill(client: Any, headers: tuple[str, ...]) -> int:
    client.send(post("/v1/user/streams/kill", b"", *headers))
    answer = client.answer()
    assert answer.status == 200, answer.body
    return int(json.loads(answer.body)["killed_streams"])


def test_a_key_for_some_models(server: Waypost) -> None:
    key = key_on(server, "open", "narrow", models=("route/*",))
    assert ask(server, key, "route/priced").status == 200
    refused = ask(server, key)
    assert (refused.status, refused.code) == (403, "MODEL_NOT_ALLOWED")


def test_two_plans_of_one_account_each_keep_their_own_limit(server: Waypost) -> None:
    def token(plan: str) -> str:
        claims = {"sub": "two-plans", "plan": plan, "exp": int(time.time()) + 600}
        return jwt.encode(claims, "a secret of the tests, long enough for HS256", "HS256")

    ten, three = token("ten"), token("daily")
    assert [ask(server, ten).status for _ in range(5)] == [200] * 5
    assert [ask(server, three).code for _ in range(3)] == ["DAILY_REQUEST_LIMIT_EXCEEDED"] * 3
    assert [ask(server, ten).status for _ in range(6)] == [200] * 5 + [429]


def test_an_exhausted_limit_never_reaches_an_upstream(server: Waypost, simulator: Running) -> None:
    key = key_on(server, "monthly", "exhausted")
    assert ask(server, key, asked="nonce:exhausted-0").status == 200
    for number in range(1, 6):
        assert ask(server, key, asked=f"nonce:exhausted-{number}").status == 429
    seen = {exchange.nonce for exchange in read_journal(simulator.journal)}
    assert "nonce:exhausted-0" in seen
    assert not {f"nonce:exhausted-{number}" for number in range(1, 6)} & seen


def test_money_is_reserved_for_the_dearest_that_may_be_tried(server: Waypost) -> None:
    key = key_on(server, "spend", "fallbacks")
    assert ask(server, key, "route/priced", max_tokens=100).status == 200
    refused = ask(server, key, "route/priced", max_tokens=100, models=["route/dear"])
    assert (refused.status, refused.code) == (402, "SPEND_LIMIT_EXCEEDED")
    refused = ask(server, key, "route/priced", max_tokens=100, models=["sim/demo"])
    assert (refused.status, refused.code) == (402, "MODEL_NOT_PRICED")


def test_nothing_is_reserved_for_who_may_not_be_tried(server: Waypost) -> None:
    key = key_on(server, "spend", "preferences")
    assert ask(server, key, "route/mixed").status == 402
    for _ in range(2):  # the second time the name is known
        assert ask(server, key, "route/mixed:free").status == 200
    for wanted in (
        {"only": ["sim/words-5"]},
        {"ignore": ["sim/demo", "sim/words-6"]},
        {"max_price": {"prompt": 1}},
        {"order": ["sim/words-5"], "allow_fallbacks": False},
    ):
        assert ask(server, key, "route/mixed", provider=wanted).status == 200, wanted
    assert ask(server, key, "route/mixed", provider={"order": ["sim/words-5"]}).status == 402, "others may take over"

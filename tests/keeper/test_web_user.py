"""The account's own view: numbers of its books, and of nobody else's."""

import asyncio
from decimal import Decimal

import msgspec
import pytest

from tests.keeper.pages import NOON, PLANS, serving_pages
from waypost import config
from waypost.config import Plan
from waypost.keeper.store import tables
from waypost.pricing import configured_price, cost
from waypost.records import Usage


def test_request_counts_are_the_meters_where_there_is_a_limit():
    async def run():
        async with serving_pages() as pages:
            ann, bob = await pages.caller("ann"), await pages.caller("bob")
            mine = f"a{ann.account_id}:requests:"
            await pages.spend(mine + "day:2026-11-24", 9)
            await pages.spend(mine + "day:2026-11-24", 3, holder="1-aa")
            await pages.spend(mine + "day:2026-11-23", 40)
            await pages.spend(mine + "hour:2026-11-24T12+00:00", 4)
            await pages.spend(mine + "minute:2026-11-24T12:00+00:00", 7)
            await pages.spend(f"a{bob.account_id}:requests:day:2026-11-24", 50)
            reply = await pages.ask("GET", "/v1/user/requests", ann)
            assert (reply.status, pages.caught_up) == (200, 1)
            assert reply.body == {
                "requests_used_today": 12,
                "requests_limit_today": 50,
                "requests_remaining": 38,
                "requests_used_this_hour": 4,
                "requests_limit_this_hour": 20,
                "requests_remaining_this_hour": 16,
                "requests_used_this_minute": 7,
                "requests_limit_per_minute": 5,
                "requests_remaining_this_minute": 0,
                "plan_tier": "free",
            }
            hourly = await pages.ask("GET", "/v1/user/requests/hourly", ann)
            assert hourly.body == {"limit": 20, "used": 4, "remaining": 16, "plan_tier": "free"}

    asyncio.run(run())


def test_request_counts_without_limits_are_the_rows():
    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann", "open")
            for before in (1, 70, 3700, 13 * 3600):
                await pages.request(ann, before=before)
            await pages.request(ann, before=2, requests=0)
            await pages.request(ann, before=2, status=None, requests=None)
            counts = (await pages.ask("GET", "/v1/user/requests", ann)).body
            used = [counts[f"requests_used_{window}"] for window in ("today", "this_hour", "this_minute")]
            # Noon sharp: hour and minute have only just begun, and what came before is in the ones before.
            assert used == [4, 0, 0]
            assert counts["requests_limit_today"] == counts["requests_remaining"] == 0
            pages.now += 30
            await pages.request(ann, before=5)
            assert (await pages.ask("GET", "/v1/user/requests/hourly", ann)).body["used"] == 1

    asyncio.run(run())


def test_days_are_those_of_the_plan():
    async def run():
        plans = {"tokyo": Plan(requests={"day": 5}, timezone="Asia/Tokyo")}
        async with serving_pages(plans) as pages:
            ann = await pages.caller("ann", "tokyo")
            pages.now = NOON + 4 * 3600  # 01:00 of the 25th in Tokyo
            await pages.spend(f"a{ann.account_id}:requests:day:2026-11-25", 2)
            assert (await pages.ask("GET", "/v1/user/requests", ann)).body["requests_used_today"] == 2

    asyncio.run(run())


def test_streams_are_killed_of_the_caller_alone():
    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann")
            reply = await pages.ask("POST", "/v1/user/streams/kill", ann)
            assert (reply.body, pages.killed) == ({"killed_streams": 3}, [ann.account_id])

    asyncio.run(run())


def test_a_key_sees_what_it_has_spent():
    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann")
            other = await pages.caller("ann")
            for day, cost in (("2026-11-24", 1), ("2026-11-23", 20), ("2026-11-22", 300), ("2026-10-31", 4000)):
                await pages.day(ann, day, cost=cost * 10**9)
            await pages.day(other, "2026-11-24", cost=10**9)
            reply = await pages.ask("GET", "/v1/key", ann)
            assert reply.body["data"] == {
                "label": "default",
                "limit": None,
                "limit_reset": None,
                "limit_remaining": None,
                "usage": 4321.0,
                "usage_daily": 1.0,
                "usage_weekly": 21.0,
                "usage_monthly": 321.0,
                "is_free_tier": True,
                "plan_tier": "free",
                "expires_at": None,
                "include_byok_in_limit": False,
                "byok_usage": 0.0,
                "byok_usage_daily": 0.0,
                "byok_usage_weekly": 0.0,
                "byok_usage_monthly": 0.0,
            }

    asyncio.run(run())


@pytest.mark.parametrize(
    ("terms", "spent", "expected"),
    [
        ({"spend_limit": 5 * 10**9, "spend_window": "day"}, {"spend:day:2026-11-24": 10**9}, (5.0, "daily", 4.0)),
        (
            {"spend_limit": 5 * 10**9, "spend_window": "month"},
            {"spend:month:2026-11": 6 * 10**9},
            (5.0, "monthly", 0.0),
        ),
        ({"spend_limit": 5 * 10**9, "spend_window": "total"}, {}, (5.0, None, 5.0)),
        ({"key_credit": 2 * 10**9}, {"balance:total": 5 * 10**8}, (2.0, None, 1.5)),
        (
            {"key_credit": 2 * 10**9, "spend_limit": 10**9, "spend_window": "day"},
            {"balance:total": 19 * 10**8},
            (2.0, None, 0.1),
        ),
    ],
)
def test_a_key_sees_its_limit(terms, spent, expected):
    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann", account_credit=1, expires_at=int(NOON), **terms)
            for meter, units in spent.items():
                await pages.spend(f"k{ann.key_id}:{meter}", units)
            data = (await pages.ask("GET", "/v1/key", ann)).body["data"]
            assert (data["limit"], data["limit_reset"], data["limit_remaining"]) == expected
            assert data["expires_at"] == "2026-11-24T12:00:00Z" and data["is_free_tier"] is False

    asyncio.run(run())


def test_a_receipt_adds_up():
    price = configured_price(config.Price(input="0.15", output="0.60", cache_read="0.075"))
    usage = Usage(fresh=1001, cache_read=33, output=7, reasoning=2)

    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann")
            await pages.add("prices", version=price.version, terms=price.terms, first_seen=int(NOON))
            total = cost(price, usage)
            raw = b'{"prompt_tokens":1034,"completion_tokens":9}'
            request_id = await pages.request(
                ann,
                stream=True,
                cost=total,
                price=price.version,
                usage=msgspec.msgpack.encode(usage),
                raw=raw,
                attempts=2,
            )
            await pages.add(
                "attempts", request_id=request_id, number=1, at=int(NOON * 1000), provider="first", model="x",
                code="PROVIDER_ERROR", status=500, milliseconds=12,
            )  # fmt: skip
            for asked in (f"chatcmpl_{request_id}", request_id):
                data = (await pages.ask("GET", f"/v1/generation?id={asked}", ann)).body["data"]
            assert data["id"] == f"chatcmpl_{request_id}"
            assert data["raw_usage"] == {"prompt_tokens": 1034, "completion_tokens": 9}
            assert data["usage"] == msgspec.structs.asdict(usage)
            assert (data["tokens_prompt"], data["tokens_completion"]) == (1034, 9)
            assert data["price"] == {"version": price.version, "terms": msgspec.json.decode(price.terms)}
            amounts = sum(Decimal(item["amount"]) for item in data["formula"])
            assert amounts == Decimal(total) / 10**9 and data["total_cost"] == total / 10**9
            assert data["failed_attempts"] == [
                {"number": 1, "created_at": "2026-11-24T12:00:00Z", "provider": "first", "model": "x",
                 "error_code": "PROVIDER_ERROR", "status": 500, "latency": 12}
            ]  # fmt: skip
            assert (data["streamed"], data["cancelled"], data["status"], data["attempts"]) == (True, False, 200, 2)

    asyncio.run(run())


def test_receipts_of_open_cancelled_and_odd_requests():
    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann")
            nulls = dict.fromkeys(
                ("status", "code", "provider", "upstream_model", "attempts", "requests", "tokens", "cost", "price",
                 "usage", "estimated", "first_token", "latency", "raw")
            )  # fmt: skip
            still_open = await pages.request(ann, **nulls)
            gone = await pages.request(ann, status=0, code="CLIENT_GONE")
            odd = await pages.request(ann, raw=b'{"cut', price="unknown", code="CRASHED", estimated=True)

            async def data(request_id):
                reply = await pages.ask("GET", f"/v1/generation?id={request_id}", ann)
                assert reply.status == 200
                return reply.body["data"]

            first = await data(still_open)
            assert (first["status"], first["usage"], first["total_cost"], first["raw_usage"]) == (None,) * 4
            assert (await data(gone))["cancelled"] is True
            last = await data(odd)
            assert last["raw_usage"] == '{"cut' and last["estimated"] is True and last["formula"] is None
            assert last["price"] == {"version": "unknown", "terms": None}

    asyncio.run(run())


def test_anothers_request_is_missing_like_one_that_never_was():
    async def run():
        async with serving_pages() as pages:
            ann, bob = await pages.caller("ann"), await pages.caller("bob")
            theirs = await pages.request(bob)
            replies = [
                await pages.ask("GET", f"/v1/generation?id={asked}", ann)
                for asked in (theirs, "chatcmpl_01K00000000000000000000000", "%00", "x'%20OR%201=1--", "%D9%A3" * 26)
            ]
            assert {reply.status for reply in replies} == {404}
            assert len({str(reply.body) for reply in replies}) == 1

    asyncio.run(run())


def test_bad_queries_name_the_field():
    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann")
            for query in ("", "?ID=x", "?id=", f"?id={'x' * 65}", "?id=a&id=b"):
                reply = await pages.ask("GET", "/v1/generation" + query, ann)
                assert (reply.status, reply.code, reply.param) == (400, "INVALID_REQUEST", "id"), query

    asyncio.run(run())


def test_a_plan_that_is_gone():
    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann")
            pages.plans = {"open": PLANS["open"]}
            assert (await pages.ask("GET", "/v1/user/requests", ann)).code == "UNAVAILABLE"

    asyncio.run(run())


def test_a_very_busy_account_is_counted_in_the_index_alone():
    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann", "open")
            first = await pages.request(ann, before=7200, requests=0)
            async with pages.database.writing() as connection:
                columns = [column.name for column in tables.requests.c if column.name != "id"]
                number = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
                fill = f"INSERT INTO requests (id, {', '.join(columns)}) {number}"
                copy = f"SELECT substr(id, 1, 20) || printf('%06d', i), {', '.join(columns)} FROM requests, n"
                await connection.exec_driver_sql(f"{fill}{copy} WHERE id = '{first}'")
            counts = (await pages.ask("GET", "/v1/user/requests", ann)).body
            assert counts["requests_used_today"] == 5001, "given back or not"
            assert counts["requests_used_this_hour"] == 0

    asyncio.run(run())


def test_a_caller_with_as_many_patterns_as_there_may_be():
    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann", models=tuple(f"{number:03}" + "é" * 253 for number in range(100)))
            assert (await pages.ask("GET", "/v1/key", ann)).status == 200

    asyncio.run(run())

"""What a management key sees and changes: its own account, and of that only what may be changed."""

import asyncio
from urllib.parse import quote

import msgspec
import pytest
from sqlalchemy import select

from tests.keeper.pages import serving_pages
from waypost.api.endpoints import BY_NAME, Burst
from waypost.config import Plan
from waypost.dollars import NANO
from waypost.errors import Refusal
from waypost.keeper.store import tables
from waypost.keeper.web.bursts import MANY, Bursts
from waypost.messages import CreditAccount

TERMS = {
    "label": "ci",
    "daily_limit": 10,
    "minute_limit": 2,
    "allowed_models": ["route/*"],
    "balance": 1.25,
    "spend_limit": 0.5,
    "limit_reset": "monthly",
    "expires_at": "2027-01-01T00:00:00Z",
}


def managing(test, plans=None):
    """Run `test(pages, manager)` with the identity of ann's management key."""

    async def run():
        async with serving_pages(*([plans] if plans else [])) as pages:
            plan = "free" if plans is None else next(iter(plans))
            await test(pages, await pages.caller("ann", plan, kind="management"))

    asyncio.run(run())


# Money and use


def test_balance():
    async def test(pages, manager):
        assert (await pages.ask("GET", "/v1/account/balance", manager)).body == {"balance": None}
        await pages.accounts.ask(CreditAccount("ann", 5 * NANO, prepaid=True))
        await pages.spend(f"a{manager.account_id}:balance:total", 700_000_000)
        await pages.spend(f"a{manager.account_id}:balance:total", 100_000_000, holder="1-aa")
        assert (await pages.ask("GET", "/v1/account/balance", manager)).body == {"balance": 4.2}

    managing(test)


def test_activity_is_paged_latest_first():
    async def test(pages, manager):
        bob = await pages.caller("bob")
        for number in range(5):
            await pages.request(manager, before=10 - number, model=f"m{number}", cost=number * NANO)
        await pages.request(bob)
        await pages.request(manager, before=0, model="open", cost=None, status=None)
        page = await pages.ask("GET", "/v1/account/activity?limit=3&offset=1", manager)
        assert [(row["model"], row["cost"]) for row in page.body["data"]] == [("m4", 4.0), ("m3", 3.0), ("m2", 2.0)]
        assert (page.body["limit"], page.body["offset"]) == (3, 1)
        everything = (await pages.ask("GET", "/v1/account/activity", manager)).body
        assert len(everything["data"]) == 6 and everything["limit"] == 50
        assert everything["data"][0]["cost"] is None and everything["data"][0]["created_at"] == "2026-11-24T12:00:00Z"
        pages.now += 60
        assert (await pages.ask("GET", "/v1/account/activity?offset=6", manager)).body["data"] == []

    managing(test)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "limit=", "limit=1.5", "limit=1&limit=2", "offset=-1", "offset=1000001"],
)
def test_bad_pages_name_the_field(query):
    async def test(pages, manager):
        reply = await pages.ask("GET", f"/v1/account/activity?{query}", manager)
        assert (reply.status, reply.code, reply.param) == (400, "INVALID_REQUEST", query.partition("=")[0])

    managing(test)


def test_analytics_adds_up_days_and_models():
    async def test(pages, manager):
        other = await pages.caller("ann")
        bob = await pages.caller("bob")
        for caller, day, values in (
            (manager, "2026-11-24", {"prompt": 100, "cache_read": 25, "cost": NANO}),
            (other, "2026-11-24", {"prompt": 100, "cache_read": 25, "cost": NANO, "errors": 1}),
            (manager, "2026-11-24", {"model": "n", "provider": "", "prompt": 0}),
            (manager, "2026-11-23", {"reasoning": 4}),
            (manager, "2026-10-25", {"cost": 7 * NANO}),
            (bob, "2026-11-24", {"cost": 9 * NANO}),
        ):
            await pages.day(caller, day, **values)
        body = (await pages.ask("GET", "/v1/account/analytics", manager)).body
        assert (body["start"], body["end"]) == ("2026-10-26", "2026-11-24")
        assert [(row["day"], row["model"], row["requests"]) for row in body["data"]] == [
            ("2026-11-24", "m", 2), ("2026-11-24", "n", 1), ("2026-11-23", "m", 1),
        ]  # fmt: skip
        first = body["data"][0]
        assert (first["prompt_tokens"], first["cached_tokens"], first["cache_hit_rate"]) == (200, 50, 0.25)
        assert (first["errors"], first["cost"]) == (1, 2.0) and body["data"][1]["cache_hit_rate"] == 0.0
        totals = body["totals"]
        assert (totals["requests"], totals["cost"], totals["reasoning_tokens"]) == (4, 2.0, 4)
        pages.now += 60
        short = (await pages.ask("GET", "/v1/account/analytics?days=1&limit=1", manager)).body
        assert len(short["data"]) == 1 and short["totals"]["requests"] == 3

    managing(test)


def test_an_account_without_any_use():
    async def test(pages, manager):
        body = (await pages.ask("GET", "/v1/account/analytics", manager)).body
        assert body["data"] == [] and set(body["totals"].values()) == {0}

    managing(test)


# Keys


def test_a_key_is_created_shown_changed_and_deleted():
    async def test(pages, manager):
        created = await pages.ask("POST", "/v1/account/keys", manager, TERMS)
        assert created.status == 200
        key = created.body["key"]
        assert created.body == {
            **TERMS, "api_key_id": created.body["api_key_id"], "key": key, "kind": "inference",
            "created_at": "2026-11-24T12:00:00Z",
        }  # fmt: skip
        identity = await pages.identity(key)
        assert (identity.account, identity.kind, identity.daily_limit) == ("ann", "inference", 10)
        path = f"/v1/account/keys/{created.body['api_key_id']}"
        abridged = {**created.body, "key": f"{key[:7]}…{key[-4:]}"}
        assert (await pages.ask("GET", path, manager)).body == abridged
        assert abridged in (await pages.ask("GET", "/v1/account/keys", manager)).body["data"]
        changed = await pages.ask("PATCH", path, manager, {"label": "new", "daily_limit": None, "spend_limit": 0.25})
        assert changed.body == {**abridged, "label": "new", "daily_limit": None, "spend_limit": 0.25}
        pages.now += 60
        gone = {"spend_limit": None, "balance": None, "allowed_models": None, "expires_at": None, "minute_limit": None}
        changed = await pages.ask("PATCH", path, manager, gone)
        assert changed.body == {**abridged, "label": "new", "daily_limit": None, "limit_reset": None, **gone}
        assert (await pages.ask("PATCH", path, manager, {})).body == changed.body
        pages.now += 60
        assert (await pages.ask("DELETE", path, manager)).body == {"message": "API key revoked"}
        for method, body in (("GET", None), ("PATCH", {"label": "x"}), ("DELETE", None)):
            assert (await pages.ask(method, path, manager, body)).code == "NOT_FOUND"
        listed = (await pages.ask("GET", "/v1/account/keys", manager)).body["data"]
        assert [row["kind"] for row in listed] == ["management"]

    managing(test)


def test_a_spend_limit_without_a_reset_is_for_good():
    async def test(pages, manager):
        created = (await pages.ask("POST", "/v1/account/keys", manager, {"spend_limit": 2})).body
        assert (created["spend_limit"], created["limit_reset"]) == (2.0, None)
        path = f"/v1/account/keys/{created['api_key_id']}"
        changed = (await pages.ask("PATCH", path, manager, {"limit_reset": "daily"})).body
        assert (changed["spend_limit"], changed["limit_reset"]) == (2.0, "daily")
        changed = (await pages.ask("PATCH", path, manager, {"spend_limit": 3})).body
        assert (changed["spend_limit"], changed["limit_reset"]) == (3.0, "daily")

    managing(test)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"label": ""}, "label"),
        ({"label": "x" * 101}, "label"),
        ({"label": "tab\there"}, "label"),
        ({"label": 5}, "label"),
        ({"daily_limit": -1}, "daily_limit"),
        ({"daily_limit": "10"}, "daily_limit"),
        ({"daily_limit": 51}, "daily_limit"),  # the plan has 50
        ({"allowed_models": ["openai/*"]}, "allowed_models"),
        ({"allowed_models": []}, "allowed_models"),
        ({"allowed_models": "route/*"}, "allowed_models"),
        ({"balance": -0.1}, "balance"),
        ({"limit_reset": "daily"}, "spend_limit"),
        ({"spend_limit": 1, "limit_reset": "weekly"}, "limit_reset"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        (b'{"label": "a", "label": "b"}', "label"),
    ],
)
def test_what_a_key_may_not_be(body, field):
    plans = {"narrow": Plan(models=("route/*",), requests={"day": 50})}

    async def test(pages, manager):
        created = await pages.ask("POST", "/v1/account/keys", manager, body)
        assert (created.status, created.code, created.param) == (400, "INVALID_REQUEST", field), created.body
        path = f"/v1/account/keys/{(await pages.caller('ann', 'narrow')).key_id}"
        changed = await pages.ask("PATCH", path, manager, body)
        assert (changed.status, changed.param) == (400, field), changed.body

    managing(test, plans)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b'{"label": "\\ud800"}', b"[" * 100_000])
def test_bodies_that_are_no_object(body):
    async def test(pages, manager):
        reply = await pages.ask("POST", "/v1/account/keys", manager, body)
        assert (reply.status, reply.code) == (400, "INVALID_REQUEST")

    managing(test)


def test_no_other_column_can_be_written_or_read():
    columns = {column.name for column in tables.keys.c} | {
        "kind",
        "key",
        "api_key_id",
        "account",
        "plan",
        "owner",
        "hash",
    }
    writable = {"label", "daily_limit", "minute_limit", "allowed_models", "balance", "spend_limit", "limit_reset"}
    forbidden = sorted(columns - writable - {"expires_at"})

    async def test(pages, manager):
        created = (await pages.ask("POST", "/v1/account/keys", manager, {})).body
        path = f"/v1/account/keys/{created['api_key_id']}"

        async def row():
            async with pages.database.reading() as connection:
                statement = select(tables.keys).where(tables.keys.c.id == created["api_key_id"])
                return (await connection.execute(statement)).one()

        before = await row()
        for column in forbidden:
            pages.now += 60
            for method, target in (("POST", "/v1/account/keys"), ("PATCH", path)):
                reply = await pages.ask(method, target, manager, {column: 1})
                assert (reply.status, reply.param) == (400, column), (method, column)
        assert await row() == before
        assert not {"digest", "hash", "account_id", "revoked_at"} & created.keys()
        assert before.digest.hex() not in str(await pages.ask("GET", path, manager))

    assert {"digest", "account_id", "credit", "revoked_at"} < set(forbidden)
    managing(test)


# Keys, as routing.run's pages have them


def test_user_keys():
    async def test(pages, manager):
        created = (await pages.ask("POST", "/v1/user/key", manager, {"name": "mine"})).body
        assert (await pages.identity(created["key"])).kind == "inference"
        await pages.day(await pages.identity(created["key"]), "2026-11-20")
        expected = {
            "id": created["id"], "key_prefix": created["key_prefix"], "name": "mine", "plan_tier": "free",
            "created_at": "2026-11-24T12:00:00Z", "last_used_at": None,
        }  # fmt: skip
        assert {**created, "key": ""} == {**expected, "key": ""}
        listed = (await pages.ask("GET", "/v1/user/key", manager)).body
        assert listed == {"data": [{**expected, "last_used_at": "2026-11-20"}]}, "management keys are not listed"
        path = f"/v1/user/key/{created['id']}"
        assert (await pages.ask("DELETE", path, manager)).body == {"message": "API key revoked"}
        assert (await pages.ask("GET", "/v1/user/key", manager)).body == {"data": []}
        mine = await pages.ask("DELETE", f"/v1/user/key/{manager.key_id}", manager)
        assert mine.code == "NOT_FOUND", "a management key is not one of these"

    managing(test)


def test_a_token_manages_user_keys_and_an_inference_key_does_not():
    async def run():
        async with serving_pages() as pages:
            ann = await pages.caller("ann")
            token = await pages.caller("ann", key_id=0)
            assert (await pages.ask("GET", "/v1/user/key", token)).status == 200
            assert (await pages.ask("GET", "/v1/account/keys", token)).code == "FORBIDDEN"
            assert (await pages.ask("GET", "/v1/user/key", ann)).code == "FORBIDDEN"
            assert (await pages.ask("POST", "/v1/user/key", ann, {"name": "x"})).code == "FORBIDDEN"

    asyncio.run(run())


# Who may see what (OWASP API1)


def test_objects_of_others_are_missing_like_those_that_never_were():
    routes = [
        ("GET", "/v1/account/keys/{}", None),
        ("PATCH", "/v1/account/keys/{}", {"label": "stolen"}),
        ("DELETE", "/v1/account/keys/{}", None),
        ("DELETE", "/v1/user/key/{}", None),
    ]

    async def run():
        async with serving_pages() as pages:
            names = ("ann", "bob", "eve")
            managers = {name: await pages.caller(name, kind="management") for name in names}
            callers = {name: await pages.caller(name) for name in names}
            receipts = {name: await pages.request(callers[name]) for name in names}

            async def ask(name, method, target, body):
                pages.now += 60  # no burst stands in the way
                manager = managers[name] if "/v1/generation" not in target else callers[name]
                return await pages.ask(method, target, manager, body)

            for name in names:
                for method, path, body in routes:
                    missing = await ask(name, method, path.format(999_999), body)
                    assert (missing.status, missing.code) == (404, "NOT_FOUND")
                    for other in names:
                        if other != name:
                            theirs = await ask(name, method, path.format(callers[other].key_id), body)
                            assert (theirs.status, theirs.body) == (404, missing.body), (name, other, method, path)
                missing = await ask(name, "GET", "/v1/generation?id=01K00000000000000000000000", None)
                for other in names:
                    receipt = await ask(name, "GET", f"/v1/generation?id={receipts[other]}", None)
                    if other == name:
                        assert receipt.status == 200
                    else:
                        assert (receipt.status, receipt.body) == (404, missing.body)
            for name in names:  # everything is still there, and each its owner's
                for method, path, body in routes:
                    if method != "DELETE":
                        own = await ask(name, method, path.format(callers[name].key_id), body)
                        assert own.status == 200 and own.body["api_key_id"] == callers[name].key_id
                assert (await ask(name, "DELETE", routes[2][1].format(callers[name].key_id), None)).status == 200

    asyncio.run(run())


@pytest.mark.parametrize("odd", ["0", "-1", "1e0", "٣", "abc", "9" * 40, "1_0", "0x1"])
def test_ids_that_are_none(odd):
    async def test(pages, manager):
        reply = await pages.ask("GET", f"/v1/account/keys/{quote(odd)}", manager)
        assert (reply.status, reply.code) == (404, "NOT_FOUND")

    managing(test)


# What goes wrong


def test_calls_come_in_bursts_of_a_known_size():
    async def test(pages, manager):
        bob = await pages.caller("bob", kind="management")
        for _ in range(2):
            assert (await pages.ask("GET", "/v1/account/analytics", manager)).status == 200
        pages.now += 4
        refused = await pages.ask("GET", "/v1/account/analytics", manager)
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "TOO_MANY_REQUESTS", "7")
        assert (await pages.ask("GET", "/v1/account/analytics", bob)).status == 200, "others are not in the way"
        assert (await pages.ask("GET", "/v1/account/balance", manager)).status == 200
        pages.now += 6
        assert (await pages.ask("GET", "/v1/account/analytics", manager)).status == 200

    managing(test)


def test_bursts_slide():
    now = 0.0
    bursts = Bursts(lambda: now)
    endpoint = msgspec.structs.replace(BY_NAME["get_balance"], burst=Burst(3, 5))
    calls = [(0, 0), (9, 0), (9, 0), (9.5, 1), (10, 0), (18, 2), (19, 0), (30, 31), (59, 2), (60, 0), (61, 9), (69, 0)]
    for now, retry_after in calls:
        if retry_after:
            with pytest.raises(Refusal) as refused:
                bursts.check(endpoint, 1)
            assert (now, refused.value.retry_after) == (now, retry_after)
        else:
            bursts.check(endpoint, 1)
        bursts.check(endpoint, 100 + int(now * 10))  # another account


def test_silent_accounts_are_forgotten():
    now = 0.0
    bursts = Bursts(lambda: now)
    for account in range(MANY):
        bursts.check(BY_NAME["get_balance"], account)
    now = 61.0
    bursts.check(BY_NAME["get_balance"], MANY)
    assert len(bursts) == 1


def test_books_that_are_behind_give_no_numbers():
    async def test(pages, manager):
        pages.is_behind = True
        reply = await pages.ask("GET", "/v1/account/balance", manager)
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "UNAVAILABLE", "1")
        assert (await pages.ask("GET", "/metrics", None)).body == b"waypost_up 1\n"

    managing(test)


def test_a_database_that_fails():
    async def test(pages, manager):
        async with pages.database.writing() as connection:
            await connection.exec_driver_sql("DROP TABLE days")
        reply = await pages.ask("GET", "/v1/account/analytics", manager)
        assert (reply.status, reply.code) == (503, "UNAVAILABLE")
        assert "days" not in str(reply.body)

    managing(test)


@pytest.mark.parametrize("header", [None, "", "AAAA", "bm90IG1zZ3BhY2s=", "%%%"])
def test_nobody_but_a_worker_says_who_is_calling(header):
    async def test(pages, manager):
        lines = [] if header is None else [f"x-waypost-caller: {header}"]
        reply = await pages.ask("GET", "/v1/account/balance", None, None, *lines)
        assert (reply.status, reply.code) == (403, "FORBIDDEN")

    managing(test)


def test_every_page_on_postgresql(postgres):
    async def run(url):
        async with serving_pages(database_url=url) as pages:
            manager, ann = await pages.caller(kind="management"), await pages.caller()
            await pages.accounts.ask(CreditAccount("ann", 5 * NANO, prepaid=True))
            for holder in ("host", "1-aa"):
                await pages.spend(f"a{ann.account_id}:balance:total", 400_000_000, holder)
                await pages.spend(f"a{ann.account_id}:requests:day:2026-11-24", 2, holder)
            for before in (20, 10):
                request_id = await pages.request(ann, before=before, cost=NANO)
            await pages.day(ann, "2026-11-24", cost=3 * NANO, prompt=10, cache_read=5)

            async def get(target, caller=manager):
                reply = await pages.ask("GET", target, caller)
                assert reply.status == 200, reply
                return reply.body

            assert await get("/v1/account/balance") == {"balance": 4.2}
            page = await get("/v1/account/activity?limit=1&offset=1")
            assert [row["cost"] for row in page["data"]] == [1.0]
            totals = (await get("/v1/account/analytics"))["totals"]
            assert (totals["cost"], totals["cache_hit_rate"]) == (3.0, 0.5)
            assert (await get("/v1/key", ann))["data"]["usage_weekly"] == 3.0
            assert (await get("/v1/user/requests", ann))["requests_used_today"] == 4
            unlimited = await pages.caller("bob", "open")
            await pages.request(unlimited, before=-1)
            assert (await get("/v1/user/requests", unlimited))["requests_used_this_hour"] == 1
            assert (await get(f"/v1/generation?id={request_id}", ann))["data"]["total_cost"] == 1.0
            created = (await pages.ask("POST", "/v1/account/keys", manager, TERMS)).body
            assert (await get(f"/v1/account/keys/{created['api_key_id']}"))["balance"] == 1.25
            assert (await get("/v1/user/key"))["data"][0]["last_used_at"] == "2026-11-24"

    with postgres.fresh() as url:
        asyncio.run(run(url))

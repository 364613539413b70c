"""Keys that are narrowed, accounts with credit, owners and tokens: messages in, messages out, on a real database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert, select, update

from tests.keeper.running import data_folder
from waypost.config import Plan
from waypost.dollars import NANO
from waypost.keeper.accounts import Accounts
from waypost.keeper.store.database import Database
from waypost.keeper.store.sqlite import open_sqlite
from waypost.keeper.store.tables import accounts as accounts_table
from waypost.keeper.store.tables import holdings, keys
from waypost.keys import digest_of
from waypost.messages import (
    AnyMessage,
    CreateAccount,
    CreateKey,
    CreditAccount,
    Failed,
    Forget,
    ForgetAccount,
    Identify,
    Identity,
    KeyRecord,
    KeyTerms,
    ListAccounts,
    ListKeys,
    PatchKey,
    ResolveAccount,
    RevokeKey,
    SetAccount,
    ShowKey,
)

NOW = 1_795_300_000
PLANS = {"free": Plan(models=("route/*",), requests={"day": 50, "minute": 10}, spend={"day": "5"}), "max": Plan()}
TERMS = KeyTerms(
    models=("route/a*", "route/b"),
    expires_at=NOW + 60,
    minute_limit=5,
    daily_limit=20,
    spend_limit=5 * NANO,
    spend_window="day",
    balance=2 * NANO,
)
NARROWED = msgspec.structs.asdict(TERMS)
NARROWED.pop("balance")


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[tuple[Accounts, Database]]:
    with data_folder() as data:
        data.mkdir()
        database = await open_sqlite(data / "x.db")
        try:
            yield Accounts(database, PLANS, lambda: NOW + 0.9), database
        finally:
            await database.close()


def exchange(*messages: AnyMessage) -> Sequence[Any]:
    """The replies to `messages`, in order."""

    async def run() -> list[AnyMessage]:
        async with opened() as (accounts, _):
            return [await accounts.ask(message) for message in messages]

    return asyncio.run(run())


async def rows(database: Database) -> list[dict[str, Any]]:
    async with database.reading() as connection:
        return [dict(row._mapping) for row in await connection.execute(select(keys).order_by(keys.c.id))]


async def spend(database: Database, meter: str, *amounts: int) -> None:
    """As the ledger does: what journals, and a host's closed ones, have spent of a meter."""
    values = [
        {"holder": f"h{number}", "meter": meter, "granted": 0, "spent": amount, "recalled": False}
        for number, amount in enumerate(amounts)
    ]
    async with database.writing() as connection:
        await connection.execute(insert(holdings), values)


def test_what_narrows_a_key_is_in_its_record_and_its_identity():
    _, record = exchange(CreateKey("ann", "free", "laptop", terms=TERMS), ShowKey("1"))
    assert record == KeyRecord(
        1, "ann", record.shown, "laptop", "inference", NOW, None, **NARROWED, credit=2 * NANO, balance=2 * NANO
    )

    async def run() -> None:
        async with opened() as (accounts, _):
            created = await accounts.ask(CreateKey("ann", "free", "laptop", terms=TERMS))
            await accounts.ask(CreditAccount("ann", 7 * NANO, True))
            identity = await accounts.ask(Identify(digest_of(created.key.encode())))
            assert identity == Identity(
                1, 1, "ann", "free", "inference", "laptop", **NARROWED, key_credit=2 * NANO, account_credit=7 * NANO
            )

    asyncio.run(run())


@pytest.mark.parametrize("as_owner", [False, True])
def test_terms_beyond_the_plan_are_refused_when_a_key_is_made_and_when_it_is_changed(as_owner):
    owner = 1 if as_owner else None
    for terms, field in [
        (KeyTerms(models=("*",)), "models"),
        (KeyTerms(daily_limit=51), "daily_limit"),
        (KeyTerms(minute_limit=11), "minute_limit"),
        (KeyTerms(spend_limit=6 * NANO, spend_window="day"), "spend_limit"),
        (KeyTerms(spend_window="day"), "spend_limit"),
        (KeyTerms(expires_at=NOW), "expires_at"),
        (KeyTerms(balance=-1), "balance"),
    ]:
        create = CreateKey("", terms=terms, owner=1) if as_owner else CreateKey("ann", terms=terms)
        _, made, changed, listed = exchange(
            CreateKey("ann", "free"), create, PatchKey("1", terms=terms, owner=owner), ListKeys()
        )
        for failed in (made, changed):
            assert isinstance(failed, Failed) and failed.code == "INVALID_REQUEST"
            assert failed.message.startswith(f"{field}: ")
        assert len(listed.rows) == 1 and listed.rows[0].daily_limit is None


def test_a_change_touches_what_it_names_and_nothing_else():
    """OWASP API3: for every column of a key, only those of the allowlist can be written, each alone."""
    values = {**NARROWED, "models": ("route/c",), "expires_at": NOW + 90, "balance": 3 * NANO}
    values |= {"minute_limit": 1, "daily_limit": 2, "spend_limit": 4 * NANO, "spend_window": "month"}
    allowed = set(KeyTerms.__struct_fields__)
    assert allowed == {"models", "expires_at", "minute_limit", "daily_limit", "spend_limit", "spend_window", "balance"}
    written = {name: name for name in allowed} | {"balance": "credit"}
    stored = {"models": '["route/c"]', "balance": 3 * NANO}

    async def run() -> None:
        async with opened() as (accounts, database):
            await accounts.ask(CreateKey("bob", "free"))
            await accounts.ask(CreateKey("ann", "free", terms=TERMS))
            for name in (f"{column.name}" for column in keys.c):
                if name not in allowed:
                    with pytest.raises(msgspec.ValidationError, match="unknown field"):
                        msgspec.convert({name: 1}, KeyTerms)
            for name in sorted(allowed):
                before = await rows(database)
                terms = msgspec.convert({name: values[name]}, KeyTerms)
                assert isinstance(await accounts.ask(PatchKey("2", terms=terms)), KeyRecord)
                after = await rows(database)
                assert after[0] == before[0], "another's key"
                changed = {column: value for column, value in after[1].items() if value != before[1][column]}
                assert changed == {written[name]: stored.get(name, values[name])}
            before = await rows(database)
            await accounts.ask(PatchKey("2", label="desk"))
            assert (await rows(database))[1] == before[1] | {"label": "desk"}
            lifted = KeyTerms(**dict.fromkeys(allowed))
            record = await accounts.ask(PatchKey("2", terms=lifted))
            assert all(getattr(record, name) is None for name in allowed), "None takes away"
            assert "nothing to change" in (await accounts.ask(PatchKey("2"))).message

    asyncio.run(run())


def test_accounts_change_by_their_own_operations_alone():
    """The same for accounts: what `SetAccount` and `CreditAccount` do not name is not touched."""

    async def run() -> None:
        async with opened() as (accounts, database):

            async def row() -> dict[str, Any]:
                async with database.reading() as connection:
                    return dict((await connection.execute(select(accounts_table))).one()._mapping)

            await accounts.ask(CreateAccount("ann", "free"))
            for message, changed in [
                (SetAccount("ann", plan="max"), {"plan": "max"}),
                (SetAccount("ann", disabled=True), {"disabled": True}),
                (CreditAccount("ann", 5, True), {"credit": 5}),
                (CreditAccount("ann", 3), {"credit": 8}),
                (CreditAccount("ann", -8), {"credit": 0}),
                (CreditAccount("ann", prepaid=False), {"credit": None}),
            ]:
                before = await row()
                await accounts.ask(message)
                assert await row() == before | changed

    asyncio.run(run())


def test_a_changed_key_is_pushed_and_so_are_its_meters():
    async def run() -> None:
        async with opened() as (accounts, _):
            created = await accounts.ask(CreateKey("ann", "free"))
            digest = digest_of(created.key.encode())
            outcome = await accounts.answer(PatchKey("1", terms=KeyTerms(daily_limit=5)))
            assert (outcome.pushes, outcome.meters) == ((Forget(digest),), ("k1:",))
            outcome = await accounts.answer(CreditAccount("ann", NANO, True))
            assert (outcome.pushes, outcome.meters) == ((Forget(digest), ForgetAccount("ann")), ("a1:", "f1:"))

    asyncio.run(run())


def test_what_is_no_change_to_a_key():
    _, _, revoked, missing, management, kept, label, *_ = exchange(
        CreateKey("ann", "free"),
        RevokeKey("1"),
        PatchKey("1", "desk"),
        PatchKey("9", "desk"),
        CreateKey("ann", kind="management", terms=KeyTerms(daily_limit=1)),
        CreateKey("ann", kind="management", terms=KeyTerms(expires_at=NOW + 5)),
        PatchKey("2", "\n"),
    )
    assert revoked.message.startswith("key: 1 (rk_") and "is revoked" in revoked.message
    assert missing.code == "NOT_FOUND"
    assert "takes only expires_at" in management.message
    assert kept.key.startswith("rkm_")
    assert label.message.startswith("label: 1 to 100")


# Balances


def test_a_balance_is_what_is_left_and_setting_it_twice_changes_nothing():
    async def run() -> None:
        async with opened() as (accounts, database):
            await accounts.ask(CreateKey("ann", "max", terms=KeyTerms(balance=10)))
            await accounts.ask(CreateKey("ann"))
            await spend(database, "k1:balance:total", 3, 4)
            await spend(database, "k11:balance:total", 100)
            record = await accounts.ask(ShowKey("1"))
            assert (record.credit, record.balance) == (10, 3)
            for _ in range(2):
                record = await accounts.ask(PatchKey("1", terms=KeyTerms(balance=20)))
                assert (record.credit, record.balance) == (27, 20)
            record = await accounts.ask(PatchKey("1", terms=KeyTerms(balance=None)))
            assert (record.credit, record.balance) == (None, None)
            record = await accounts.ask(PatchKey("1", terms=KeyTerms(balance=1)))
            assert (record.credit, record.balance) == (8, 1), "what was spent before stays spent"
            listed = await accounts.ask(ListKeys())
            assert [(row.credit, row.balance) for row in listed.rows] == [(8, 1), (None, None)]

    asyncio.run(run())


def test_an_account_s_credit():
    async def run() -> None:
        async with opened() as (accounts, database):
            await accounts.ask(CreateAccount("ann", "max"))
            assert (await accounts.ask(CreditAccount("ann", 5))).message.endswith("give --prepaid as well")
            assert "nothing to change" in (await accounts.ask(CreditAccount("ann"))).message
            record = await accounts.ask(CreditAccount("ann", 5 * NANO, True))
            assert (record.credit, record.balance) == (5 * NANO, 5 * NANO)
            await spend(database, "a1:balance:total", NANO, NANO)
            record = await accounts.ask(CreditAccount("ann", NANO))
            assert (record.credit, record.balance) == (6 * NANO, 4 * NANO)
            refused = await accounts.ask(CreateKey("ann", terms=KeyTerms(balance=4 * NANO + 1)))
            assert "over the $4.00 that its account has" in refused.message
            refused = await accounts.ask(CreditAccount("ann", -7 * NANO))
            assert refused.message.startswith("add: $-7.00 would make $-1.00 of all that was ever paid in")
            refused = await accounts.ask(CreditAccount("ann", 1, False))
            assert refused.message.startswith("add: ")
            record = await accounts.ask(CreditAccount("ann", prepaid=False))
            assert (record.credit, record.balance) == (None, None)
            record = await accounts.ask(CreditAccount("ann", 3 * NANO, True))
            assert (record.credit, record.balance) == (5 * NANO, 3 * NANO), "it begins with what is added"
            (listed,) = (await accounts.ask(ListAccounts())).rows
            assert listed == record
            assert (await accounts.ask(CreditAccount("bob", 1, True))).code == "NOT_FOUND"

    asyncio.run(run())


# Owners


def test_an_owner_sees_and_changes_its_own_keys_and_others_are_missing_like_any():
    async def run() -> None:
        async with opened() as (accounts, database):
            mine = await accounts.ask(CreateKey("ann", "free", "mine"))
            await accounts.ask(CreateKey("bob", "free", "other"))
            before = (await rows(database))[1]
            for number in ("2", "3", "0", "-1", "x", "", "1 or 1=1", mine.key, "rk_", "9" * 30, "²"):
                for message in (
                    ShowKey(number, owner=1),
                    PatchKey(number, "stolen", KeyTerms(daily_limit=1), owner=1),
                    RevokeKey(number, owner=1),
                ):
                    assert await accounts.ask(message) == Failed("NOT_FOUND", "key: there is no such key"), message
            assert (await rows(database))[1] == before
            assert [row.label for row in (await accounts.ask(ListKeys(owner=1))).rows] == ["mine"]
            assert (await accounts.ask(ListKeys(owner=3))).rows == ()
            created = await accounts.ask(CreateKey("", label="new", terms=KeyTerms(daily_limit=5), owner=1))
            assert (created.id, created.account, created.plan) == (3, "ann", "free")
            assert (await accounts.ask(ShowKey("3", owner=1))).daily_limit == 5
            assert (await accounts.ask(PatchKey("3", "newer", owner=1))).label == "newer"
            assert (await accounts.ask(RevokeKey("3", owner=1))).revoked_at == NOW
            assert (await accounts.ask(ShowKey("3", owner=2))).code == "NOT_FOUND"

    asyncio.run(run())


def test_what_an_owner_may_not_make():
    _, *refused, missing, disabled = exchange(
        CreateKey("ann", "free"),
        CreateKey("", kind="management", owner=1),
        CreateKey("bob", owner=1),
        CreateKey("", "max", owner=1),
        CreateKey("", owner=9),
        SetAccount("ann", disabled=True),
    )
    assert {failed.message for failed in refused} == {
        "kind: a management key makes inference keys of its own account alone"
    }
    assert missing.code == "NOT_FOUND" and disabled.disabled
    *_, failed = exchange(CreateKey("ann", "free"), SetAccount("ann", disabled=True), CreateKey("", owner=1))
    assert "is disabled" in failed.message


# Tokens


def test_the_account_of_a_token():
    _, known, with_plan, unknown, unnamed, created, again, _, disabled, listed = exchange(
        CreateAccount("ann", "free"),
        ResolveAccount("ann"),
        ResolveAccount("ann", "max"),
        ResolveAccount("bob"),
        ResolveAccount("\n", "free", True),
        ResolveAccount("bob", "max", True),
        ResolveAccount("bob", "free", True),
        SetAccount("ann", disabled=True),
        ResolveAccount("ann", "free", True),
        ListAccounts(),
    )
    assert known == Identity(0, 1, "ann", "free", "inference", "token")
    assert with_plan.plan == "max", "the token's plan counts"
    assert unknown is None and unnamed is None and disabled is None
    assert created == Identity(0, 2, "bob", "max", "inference", "token")
    assert again == Identity(0, 2, "bob", "free", "inference", "token")
    assert [(row.name, row.plan) for row in listed.rows] == [("ann", "free"), ("bob", "max")]


def test_a_token_whose_plan_is_not_known_is_neither_good_nor_bad_and_makes_no_account():
    late, nothing, listed = exchange(
        ResolveAccount("ann", "gold", True), ResolveAccount("ann", None, True), ListAccounts()
    )
    assert late.code == "UNAVAILABLE" and nothing is None and listed.rows == ()


def test_many_first_tokens_of_an_account_make_one():
    async def run() -> None:
        async with opened() as (accounts, _):
            message = ResolveAccount("ann", "free", True)
            outcomes = await asyncio.gather(*(accounts.answer(message) for _ in range(50)))
            assert {outcome.reply for outcome in outcomes} == {Identity(0, 1, "ann", "free", "inference", "token")}
            assert ForgetAccount("ann") in outcomes[0].pushes
            assert (await accounts.answer(message)).pushes == ()

    asyncio.run(run())


def test_a_key_of_a_plan_that_is_gone_keeps_its_label_but_gets_no_terms():
    async def run() -> None:
        async with opened() as (accounts, database):
            await accounts.ask(CreateKey("ann", "free"))
            async with database.writing() as connection:
                await connection.execute(update(accounts_table).values(plan="gone"))
            assert (await accounts.ask(PatchKey("1", "desk"))).label == "desk"
            failed = await accounts.ask(PatchKey("1", terms=KeyTerms(daily_limit=1)))
            assert failed.message.startswith("plan 'gone' is not in the config")

    asyncio.run(run())

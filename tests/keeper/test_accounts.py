"""Accounts and keys: messages in, messages out, on a real database."""

import asyncio
import contextlib
import sqlite3

import pytest

from tests.keeper.running import data_folder
from waypost.config import Plan
from waypost.errors import BY_CODE
from waypost.keeper.accounts import FORGET_ONE_BY_ONE, Accounts
from waypost.keeper.store.sqlite import open_sqlite
from waypost.keys import digest_of, is_well_formed, mint_key, shown
from waypost.messages import (
    AccountRecord,
    AccountRecords,
    CreateAccount,
    CreatedKey,
    CreateKey,
    Failed,
    Forget,
    ForgetAccount,
    ForgetAll,
    Identify,
    Identity,
    KeyRecord,
    KeyRecords,
    ListAccounts,
    ListKeys,
    RevokeKey,
    SetAccount,
    Welcome,
)

NOW = 1_795_300_000


def named(plans):
    """Plans without limits of these names; a mapping is what it is."""
    return plans if isinstance(plans, dict) else {name: Plan() for name in plans}


@contextlib.asynccontextmanager
async def opened(plans=("free", "max")):
    with data_folder() as data:
        data.mkdir()
        database = await open_sqlite(data / "x.db")
        try:
            yield Accounts(database, named(plans), lambda: NOW + 0.9)
        finally:
            await database.close()


def exchange(*messages, plans=("free", "max")):
    """The replies to `messages`, in order."""

    async def run():
        async with opened(plans) as accounts:
            return [await accounts.ask(message) for message in messages]

    return asyncio.run(run())


def test_a_key_from_its_creation_to_its_end():
    async def run():
        async with opened() as accounts:
            created = await accounts.ask(CreateKey("ann", "free", "laptop"))
            assert is_well_formed(created.key.encode()) and created.key.startswith("rk_")
            assert created == CreatedKey(created.key, 1, "ann", "free")
            digest = digest_of(created.key.encode())
            assert await accounts.ask(Identify(digest)) == Identity(1, 1, "ann", "free", "inference", "laptop")
            record = KeyRecord(1, "ann", shown(created.key), "laptop", "inference", NOW, None)
            assert await accounts.ask(ListKeys()) == KeyRecords((record,))
            revoked = KeyRecord(1, "ann", shown(created.key), "laptop", "inference", NOW, NOW)
            outcome = await accounts.answer(RevokeKey("1"))
            assert (outcome.reply, outcome.pushes) == (revoked, (Forget(digest),))
            assert await accounts.ask(Identify(digest)) is None
            assert await accounts.ask(ListKeys("ann")) == KeyRecords((revoked,))

    asyncio.run(run())


def test_management_keys_have_their_own_prefix_and_kind():
    async def run():
        async with opened() as accounts:
            created = await accounts.ask(CreateKey("ann", "free", kind="management"))
            assert created.key.startswith("rkm_")
            identity = await accounts.ask(Identify(digest_of(created.key.encode())))
            assert identity.kind == "management"

    asyncio.run(run())


def test_the_key_itself_is_nowhere_in_the_database():
    with data_folder() as data:
        data.mkdir()

        async def run():
            database = await open_sqlite(data / "x.db")
            created = await Accounts(database, named(["free"]), lambda: NOW).ask(CreateKey("ann"))
            await database.close()
            return created.key

        key = asyncio.run(run())
        stored = b"".join(file.read_bytes() for file in data.iterdir())
        assert digest_of(key.encode()) in stored
        assert key.encode() not in stored and key[8:60].encode() not in stored


def test_the_creation_of_a_key_is_pushed_too_for_a_worker_may_hold_it_for_unknown():
    async def run():
        async with opened() as accounts:
            outcome = await accounts.answer(CreateKey("ann", "free"))
            assert outcome.pushes == (Forget(digest_of(outcome.reply.key.encode())), ForgetAccount("ann"))
            again = await accounts.answer(CreateKey("ann", "free"))
            assert again.pushes == (Forget(digest_of(again.reply.key.encode())),)

    asyncio.run(run())


@pytest.mark.parametrize("name", ["id", "key", "whole shown form", "beginning of it"])
def test_revoke_takes_every_name_of_a_key(name):
    async def run():
        async with opened() as accounts:
            created = await accounts.ask(CreateKey("ann", "free"))
            names = {
                "id": str(created.id),
                "key": created.key,
                "whole shown form": shown(created.key),
                "beginning of it": created.key[:7],
            }
            record = await accounts.ask(RevokeKey(names[name]))
            assert (record.id, record.revoked_at) == (created.id, NOW)
            assert await accounts.ask(RevokeKey(names[name])) == record, "twice is no error"

    asyncio.run(run())


def test_what_revoke_refuses():
    async def run():
        async with opened() as accounts:
            await accounts.ask(CreateKey("ann", "free"))
            unknown, mistyped = mint_key(), mint_key()[:-1] + "-"
            for name, code, words in [
                ("2", "NOT_FOUND", "there is no such key"),
                (unknown, "NOT_FOUND", "there is no such key"),
                (mistyped, "INVALID_REQUEST", f"{shown(mistyped)} is mistyped"),
                ("rk_", "INVALID_REQUEST", "give its id"),
                ("rk_%%%%", "NOT_FOUND", "there is no such key"),
                ("rk_____", "NOT_FOUND", "there is no such key"),
                ("", "INVALID_REQUEST", "give its id"),
                ("ann", "INVALID_REQUEST", "give its id"),
                ("9" * 18, "NOT_FOUND", "there is no such key"),
                ("' OR 1=1 --", "INVALID_REQUEST", "give its id"),
                ("rk_1\udcff2345", "INVALID_REQUEST", "give its id"),
            ]:
                failed = await accounts.ask(RevokeKey(name))
                assert isinstance(failed, Failed) and failed.code == code and words in failed.message, (name, failed)
                assert unknown not in failed.message and mistyped not in failed.message
            (record,) = (await accounts.ask(ListKeys())).rows
            assert record.revoked_at is None

    asyncio.run(run())


def test_a_beginning_that_several_keys_share_names_them_all():
    with data_folder() as data:
        data.mkdir()

        async def run():
            accounts = Accounts(await open_sqlite(data / "x.db"), named(["free"]), lambda: NOW)
            for _ in range(3):
                await accounts.ask(CreateKey("ann"))
            await accounts._database.close()
            with sqlite3.connect(data / "x.db") as connection:
                connection.execute("UPDATE keys SET shown = 'rk_abcd…000' || id")
            connection.close()
            accounts = Accounts(await open_sqlite(data / "x.db"), named(["free"]), lambda: NOW)
            failed = await accounts.ask(RevokeKey("rk_abcd"))
            await accounts.ask(RevokeKey("rk_abcd…0001"))
            await accounts.ask(RevokeKey("2"))
            last = await accounts.ask(RevokeKey("rk_abcd"))
            await accounts._database.close()
            return failed, last

        failed, last = asyncio.run(run())
        assert "3 keys begin so: 1 (rk_abcd…0001), 2 (rk_abcd…0002), 3 (rk_abcd…0003)" in failed.message
        assert last.id == 3, "revoked keys do not make a beginning ambiguous"


def test_the_plan_of_a_new_account():
    assert exchange(CreateKey("ann"), plans=["only"])[0].plan == "only"
    assert exchange(CreateAccount("ann"), plans=["only"]) == [AccountRecord(1, "ann", "only", False, NOW, 0)]
    (failed,) = exchange(CreateKey("ann"))
    assert failed.message.startswith("plan: account 'ann' is new, so say which") and "free, max" in failed.message
    (failed,) = exchange(CreateKey("ann", "gold"))
    assert failed == Failed("INVALID_REQUEST", "plan 'gold' is not in the config; it has: free, max")
    (failed,) = exchange(CreateKey("ann"), plans=[])
    assert "it has no plans" in failed.message


def test_a_key_does_not_move_its_account():
    _, second, third = exchange(CreateKey("ann", "free"), CreateKey("ann", "max"), CreateKey("ann"))
    assert second == Failed(
        "INVALID_REQUEST", "account 'ann' is on plan 'free'; to move it: waypost accounts set ann --plan max"
    )
    assert (third.id, third.plan) == (2, "free")


def test_the_advice_can_be_pasted_whatever_the_name():
    _, failed = exchange(CreateKey("ann's team", "free"), CreateKey("ann's team", "max"))
    assert failed.message.endswith("""waypost accounts set 'ann'"'"'s team' --plan max""")


def test_a_refused_creation_leaves_no_account():
    *_, listed = exchange(CreateKey("ann"), CreateKey("ann", "gold"), CreateKey("ann", "free", "\n"), ListAccounts())
    assert listed == AccountRecords(())


@pytest.mark.parametrize(
    "name", ["", " ", "x" * 101, "a\nb", "a\x00", "\x1b[31m", " ann", "ann ", "\u202eann", "\ud800"]
)
def test_names_are_printable_and_short(name):
    for message, field in [
        (CreateKey(name, "free"), "account"),
        (CreateKey("ann", "free", name), "label"),
        (CreateAccount(name, "free"), "account"),
        (SetAccount(name, "free"), "account"),
        (ListKeys(name), "account"),
    ]:
        (failed,) = exchange(message)
        assert failed.code == "INVALID_REQUEST" and failed.message.startswith(f"{field}: 1 to 100 printable characters")
        assert failed.message.isprintable()


@pytest.mark.parametrize("name", ["x" * 100, "Ännchen 安", "'; DROP TABLE keys; --", "%", "a@b.example"])
def test_names_may_be_anything_else(name):
    created, listed = exchange(CreateKey(name, "free", name), ListKeys(name))
    assert created.account == name
    assert [(row.account, row.label) for row in listed.rows] == [(name, name)]


def test_accounts_are_created_moved_disabled_and_listed():
    replies = exchange(
        CreateAccount("ann", "free"),
        CreateAccount("ann", "free"),
        CreateKey("ann"),
        SetAccount("ann", plan="max"),
        SetAccount("ann", disabled=True),
        CreateKey("ann"),
        SetAccount("ann", disabled=False),
        SetAccount("ann"),
        SetAccount("bob", plan="max"),
        SetAccount("ann", plan="gold"),
        ListAccounts(),
        ListKeys("bob"),
    )
    assert replies[0] == AccountRecord(1, "ann", "free", False, NOW, 0)
    assert replies[1] == Failed("INVALID_REQUEST", "account 'ann' exists already, on plan 'free'")
    assert replies[3] == AccountRecord(1, "ann", "max", False, NOW, 1)
    assert replies[4] == AccountRecord(1, "ann", "max", True, NOW, 1)
    assert "is disabled; to enable it: waypost accounts set ann --enabled" in replies[5].message
    assert replies[6].disabled is False
    assert "nothing to change" in replies[7].message
    assert replies[8].code == "NOT_FOUND" and "no account 'bob'" in replies[8].message
    assert "plan 'gold' is not in the config" in replies[9].message
    assert replies[10] == AccountRecords((AccountRecord(1, "ann", "max", False, NOW, 1),))
    assert replies[11].code == "NOT_FOUND"


def test_a_changed_account_changes_its_identities_and_pushes_its_keys():
    async def run():
        async with opened() as accounts:
            keys = [await accounts.ask(CreateKey("ann", "free")) for _ in range(3)]
            other = await accounts.ask(CreateKey("bob", "free"))
            await accounts.ask(RevokeKey(keys[2].key))
            digests = [digest_of(created.key.encode()) for created in keys]
            moved = await accounts.answer(SetAccount("ann", plan="max"))
            assert set(moved.pushes) == {Forget(digests[0]), Forget(digests[1]), ForgetAccount("ann")}
            assert moved.meters == ("a1:", "f1:")
            assert (await accounts.ask(Identify(digests[0]))).plan == "max"
            await accounts.ask(SetAccount("ann", disabled=True))
            assert await accounts.ask(Identify(digests[0])) is None
            assert (await accounts.ask(Identify(digest_of(other.key.encode())))).plan == "free"
            await accounts.ask(SetAccount("ann", disabled=False))
            assert (await accounts.ask(Identify(digests[0]))).account == "ann"

    asyncio.run(run())


def test_an_account_with_very_many_keys_makes_workers_forget_everything():
    async def run():
        async with opened() as accounts:
            for _ in range(FORGET_ONE_BY_ONE + 1):
                await accounts.ask(CreateKey("ann", "free"))
            assert (await accounts.answer(SetAccount("ann", plan="max"))).pushes == (ForgetAll(),)

    asyncio.run(run())


def test_every_failure_is_a_row_of_the_error_table():
    failures = exchange(RevokeKey("1"), RevokeKey("x"), CreateKey("", ""), SetAccount("a"), Welcome(1), ListKeys("a"))
    assert all(isinstance(failed, Failed) and failed.code in BY_CODE for failed in failures)


def test_a_database_that_fails_is_unavailable_and_never_an_unknown_key(caplog):
    with data_folder() as data:
        data.mkdir()

        async def run():
            accounts = Accounts(await open_sqlite(data / "x.db"), named(["free"]), lambda: NOW)
            digest = digest_of((await accounts.ask(CreateKey("ann"))).key.encode())
            broken = sqlite3.connect(data / "x.db")
            broken.execute("ALTER TABLE keys RENAME TO lost")
            failures = [await accounts.ask(message) for message in (Identify(digest), CreateKey("ann"), ListKeys())]
            failures.append(await accounts.check())
            broken.execute("ALTER TABLE lost RENAME TO keys")
            broken.close()
            healed = await accounts.ask(Identify(digest))
            assert await accounts.check() is None
            await accounts._database.close()
            return failures, healed

        failures, healed = asyncio.run(run())
        assert [failed.code for failed in failures] == ["UNAVAILABLE"] * 4
        assert healed.account == "ann"
        assert [record.levelname for record in caplog.records if record.name == "waypost.keeper"] == [
            "ERROR",
            "WARNING",
        ]


def test_concurrent_creations_of_one_account_make_one():
    async def run():
        async with opened() as accounts:
            created = await asyncio.gather(*(accounts.ask(CreateKey("ann", "free")) for _ in range(50)))
            assert len({each.key for each in created}) == 50
            assert (await accounts.ask(ListAccounts())).rows == (AccountRecord(1, "ann", "free", False, NOW, 50),)

    asyncio.run(run())

"""Presets in the store: messages in, messages out, on real databases of both kinds."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.keeper.running import data_folder
from tests.postgres import PostgresServer
from waypost.config import Plan
from waypost.keeper.accounts import Accounts
from waypost.keeper.store.postgres import open_postgres
from waypost.keeper.store.sqlite import open_sqlite
from waypost.keeper.store.tables import preset_versions
from waypost.messages import AccountRecord, CreateAccount, Failed, ListAccounts, SetAccount
from waypost.preset_messages import (
    TOTAL,
    VERSIONS,
    ChangePreset,
    CreatePreset,
    DeletePreset,
    FindPreset,
    ForgetPreset,
    FoundPreset,
    ListPresets,
    ListPresetVersions,
    PresetRecord,
    PresetRecords,
    PresetVersions,
    SavePreset,
    ShowPreset,
)

NOW = 1_795_300_000
BODY = b'{"model":"m","system_prompt":"S"}'


class Opened:
    """The operations on a database, and the two accounts that are in it."""

    def __init__(self, accounts: Accounts, database: Any = None) -> None:
        self.accounts = accounts
        self.database = database
        self.ann = self.bob = 0

    async def ask(self, message: Any) -> Any:
        return (await self.accounts.answer(message)).reply

    async def good(self, message: Any) -> Any:
        reply = await self.ask(message)
        assert not isinstance(reply, Failed), reply
        return reply

    async def bad(self, message: Any) -> Failed:
        reply = await self.ask(message)
        assert isinstance(reply, Failed), reply
        return reply


@pytest.fixture(params=["sqlite", "postgresql"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Opened], Awaitable[None]]], None]:
    """Runs a test on a fresh database with the accounts ann and bob."""

    @contextlib.asynccontextmanager
    async def database() -> AsyncIterator[Any]:
        if request.param == "sqlite":
            with data_folder() as data:
                data.mkdir()
                opened = await open_sqlite(data / "x.db")
                try:
                    yield opened
                finally:
                    await opened.close()
        else:
            server: PostgresServer = request.getfixturevalue("postgres")
            with server.fresh() as url:
                opened = await open_postgres(url)
                try:
                    yield opened
                finally:
                    await opened.close()

    async def scene(test: Callable[[Opened], Awaitable[None]]) -> None:
        async with database() as opened_database:
            opened = Opened(Accounts(opened_database, {"all": Plan()}, lambda: NOW), opened_database)
            for name in ("ann", "bob"):
                assert isinstance(await opened.good(CreateAccount(name)), AccountRecord)
            rows = (await opened.good(ListAccounts())).rows
            opened.ann, opened.bob = (row.id for row in rows)
            await test(opened)

    if request.param == "postgresql":
        request.getfixturevalue("postgres")
    return lambda test: asyncio.run(scene(test))


Run = Callable[[Callable[[Opened], Awaitable[None]]], None]


def test_a_preset_from_its_creation_to_its_end(run: Run) -> None:
    async def test(on: Opened) -> None:
        made = await on.good(CreatePreset("ann", "coder", "Coder", "private", BODY))
        assert made == PresetRecord(
            made.id, "ann", "coder", "Coder", "private", 1, 1, NOW, NOW, "m", False, 1, True, BODY
        )
        found = FoundPreset(made.id, on.ann, "coder", 1, 1, BODY)
        for name in ("coder", made.id, made.id.upper()):
            assert await on.good(FindPreset(on.ann, name)) == found
            assert await on.good(ShowPreset(on.ann, name)) == made
            assert await on.ask(FindPreset(on.bob, name)) is None
        changed = await on.good(ChangePreset(on.ann, "coder", changes=b'{"system_prompt":null,"params":{"seed":1}}'))
        assert (changed.version, changed.latest, json.loads(changed.body)) == (
            2,
            2,
            {"model": "m", "params": {"seed": 1}},
        )
        assert (await on.good(FindPreset(on.ann, "coder", 1))).body == BODY, "a version is never changed"
        assert (await on.good(FindPreset(on.ann, "coder", 3))).version == 0
        assert (await on.good(ListPresets("ann"))).rows[0].body == b""
        versions = await on.good(ListPresetVersions("ann", "coder"))
        assert isinstance(versions, PresetVersions)
        assert [(row.version, row.counts, row.size) for row in versions.rows] == [
            (2, True, len(changed.body)),
            (1, False, len(BODY)),
        ]
        gone = await on.good(DeletePreset(on.ann, made.id))
        assert gone.id == made.id and await on.ask(FindPreset(on.ann, "coder")) is None
        assert (await on.good(ListPresets(on.ann))) == PresetRecords(())
        assert (await on.bad(DeletePreset("ann", "coder"))).code == "PRESET_NOT_FOUND"

    run(test)


def test_whose_it_is_is_always_asked(run: Run) -> None:
    async def test(on: Opened) -> None:
        made = await on.good(CreatePreset(on.ann, "mine", "Mine", "private", BODY))
        public = await on.good(CreatePreset(on.ann, "ours", "Ours", "public", BODY))
        unknown = await on.bad(ShowPreset(on.bob, "nobodys"))
        for message in (ShowPreset, DeletePreset, ListPresetVersions):
            for name in ("mine", made.id):
                assert await on.bad(message(on.bob, name)) == unknown
        assert await on.bad(ChangePreset(on.bob, made.id, visibility="public")) == unknown
        assert await on.bad(ChangePreset(on.bob, public.id, visibility="private")) == unknown
        shown = await on.good(ShowPreset(on.bob, public.id))
        assert (shown.is_own, shown.body, shown.account, shown.model) == (False, b"", "", "m")
        assert (await on.good(FindPreset(on.bob, public.id))).account == on.ann
        assert await on.ask(FindPreset(on.bob, "ours")) is None
        await on.good(SetAccount("ann", disabled=True))
        assert await on.ask(FindPreset(on.bob, public.id)) is None, "nobody answers for it any more"
        assert (await on.bad(ListPresets("nobody"))).code == "NOT_FOUND"

    run(test)


def test_workers_forget_before_a_change_is_said_to_be_done(run: Run) -> None:
    async def test(on: Opened) -> None:
        async def pushed(message: Any) -> list[ForgetPreset]:
            outcome = await on.accounts.answer(message)
            assert not isinstance(outcome.reply, Failed), outcome.reply
            return list(outcome.pushes)  # type: ignore[arg-type]

        (news,) = await pushed(CreatePreset("ann", "a", "A", "private", BODY))
        assert (news.account, news.slugs) == (on.ann, ("a",))
        assert await pushed(ChangePreset("ann", "a", slug="b")) == [ForgetPreset(news.id, on.ann, ("b", "a"))]
        for message in (
            ChangePreset("ann", "b", visibility="public"),
            ChangePreset("ann", "b", changes=b"{}"),
            ChangePreset("ann", "b", version=1),
            SavePreset("ann", "b", BODY),
            DeletePreset("ann", "b"),
        ):
            assert await pushed(message) == [ForgetPreset(news.id, on.ann, ("b",))], message
        for message in (ShowPreset("ann", "b"), ListPresets("ann"), ChangePreset("ann", "b")):
            assert (await on.accounts.answer(message)).pushes == ()

    run(test)


def test_many_who_change_one_preset_lose_no_version(run: Run) -> None:
    async def test(on: Opened) -> None:
        await on.good(CreatePreset("ann", "a", "A", "private", b"{}"))
        changes = [ChangePreset("ann", "a", changes=json.dumps({"params": {"seed": n}}).encode()) for n in range(20)]
        saves = [SavePreset("ann", "new", json.dumps({"params": {"seed": n}}).encode()) for n in range(10)]
        replies = await asyncio.gather(*map(on.good, [*changes, *saves]))
        assert sorted(reply.shown for reply in replies[:20]) == list(range(2, 22))
        assert sorted(reply.shown for reply in replies[20:]) == list(range(1, 11))
        for reply in replies:
            again = await on.good(ShowPreset("ann", reply.slug, reply.shown))
            assert again.body == reply.body

    run(test)


def test_what_cannot_be_is_refused_and_nothing_is_written(run: Run) -> None:
    async def test(on: Opened) -> None:
        await on.good(CreatePreset("ann", "a", "A", "private", BODY))
        await on.good(CreatePreset("ann", "b", "B", "private", BODY))
        before = await on.good(ListPresets("ann"))
        for message, field in (
            (CreatePreset("ann", "a", "A", "private", BODY), "slug"),
            (CreatePreset("ann", "A", "A", "private", BODY), "slug"),
            (CreatePreset("ann", "c", "", "private", BODY), "name"),
            (CreatePreset("ann", "c", "C", "private", b'{"odd":1}'), "odd"),
            (SavePreset("ann", "C", BODY), "slug"),
            (SavePreset("ann", "a", b'{"model":7}'), "model"),
            (ChangePreset("ann", "a", slug="b"), "slug"),
            (ChangePreset("ann", "a", slug="a" * 65), "slug"),
            (ChangePreset("ann", "a", name=" "), "name"),
            (ChangePreset("ann", "a", version=2), "version"),
            (ChangePreset("ann", "a", version=1, changes=BODY), "version"),
            (ChangePreset("ann", "a", changes=b'{"params":{"n":0}}'), "params.n"),
            (ChangePreset("ann", "a"), "nothing to change"),
        ):
            failed = await on.bad(message)
            assert failed.code == "INVALID_REQUEST" and failed.message.startswith(field), message
        assert await on.good(ListPresets("ann")) == before

    run(test)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_all_of_an_accounts_is_bounded(run: Run, off: int) -> None:
    async def test(on: Opened) -> None:
        first = await on.good(CreatePreset("ann", "a", "A", "private", BODY))
        async with on.database.writing() as connection:
            update = preset_versions.update().values(size=TOTAL - len(BODY) + off)
            await connection.execute(update.where(preset_versions.c.preset_id == first.id))
        for message in (CreatePreset("ann", "b", "B", "private", BODY), SavePreset("ann", "a", BODY)):
            if off > 0:
                assert str(TOTAL) in (await on.bad(message)).message
            else:
                await on.good(message)
                break  # the next one would be too much
        await on.good(CreatePreset("bob", "b", "B", "private", BODY))

    run(test)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_versions_are_bounded(off: int) -> None:
    async def test() -> None:
        with data_folder() as data:
            data.mkdir()
            database = await open_sqlite(data / "x.db")
            try:
                on = Opened(Accounts(database, {"all": Plan()}, lambda: NOW))
                await on.good(CreateAccount("ann"))
                made = await on.good(CreatePreset("ann", "a", "A", "private", b"{}"))
                async with database.writing() as connection:
                    await connection.exec_driver_sql("UPDATE presets SET latest = ?", (VERSIONS - 1 + off,))
                change = ChangePreset("ann", made.id, changes=b"{}")
                if off > 0:
                    assert str(VERSIONS) in (await on.bad(change)).message
                else:
                    assert (await on.good(change)).version == VERSIONS + off
            finally:
                await database.close()

    asyncio.run(test())

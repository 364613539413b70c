"""Kept answers: one claim at a time whoever asks, stored once, gone at their time, within their account's bytes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from tests.keeper.journaling import empty_folder, engines
from tests.keeper.running import until
from tests.postgres import PostgresServer
from waypost.claims import (
    ANSWER_LIMIT,
    Claim,
    Claimed,
    ClearAnswer,
    Conflict,
    FindAnswer,
    InFlight,
    Kept,
    ReleaseClaim,
    StoreAnswer,
    StoredAnswer,
)
from waypost.config import Secret, Store
from waypost.keeper.answers import ENDING_SECONDS, Answers
from waypost.keeper.retention import EVERY_SECONDS, STEP, Retention
from waypost.keeper.store import open_database
from waypost.keeper.store.answers import ACCOUNT_LIMIT, ROOM_SECONDS, ROW, AnswerStore
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import answers
from waypost.messages import Failed

DAY = 86_400


class Peer:
    """A worker's connection, as far as answers look at it."""

    unsent = 0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Hosts on one database, each with its own `Answers`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = Clock()
        self.hosts: list[Answers] = []

    async def host(self, name: str = "first", limit: int = ACCOUNT_LIMIT, live: tuple[str, ...] = ()) -> Answers:
        host = Answers(AnswerStore(self.database, name, self.clock, self.clock, limit))
        await host.start(live)
        self.hosts.append(host)
        return host

    async def rows(self) -> list[Any]:
        async with self.database.reading() as connection:
            return list((await connection.execute(select(answers).order_by(answers.c.created_at))).all())


@contextlib.asynccontextmanager
async def bench(url: str) -> AsyncIterator[Bench]:
    with empty_folder() as data:
        database = await open_database(Store(database=Secret(url)), data)
        bench = Bench(database)
        try:
            yield bench
        finally:
            for host in bench.hosts:
                await host.close()
            await database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[str]:
    with engines(postgres) as url_of:
        yield url_of(request.param)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def claim(scope: str, request: str = "r1", body: str = "b", journal: str = "j1", **more: Any) -> Claim:
    return Claim("idempotency", digest(scope), 7, digest(body), request, journal, more.pop("seconds", 600.0), **more)


def store(
    scope: str, content: bytes, request: str = "r1", kind: Any = "idempotency", seconds: float = DAY
) -> StoreAnswer:
    return StoreAnswer(kind, digest(scope), 7, digest("b"), request, "j1", seconds, content)


async def ask(host: Answers, message: Any) -> Any:
    return await host.answer(Peer(), message)  # type: ignore[arg-type]


def test_a_claim_a_conflict_an_answer(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            host = await it.host()
            assert await ask(host, claim("s")) == Claimed()
            assert await ask(host, claim("s")) == Claimed(), "asking again changes nothing"
            assert await ask(host, claim("s", "r2")) == InFlight("r1")
            refused = asyncio.ensure_future(ask(host, claim("s", "r2", "other")))
            await until(lambda: host._waiting)
            it.clock.now += ENDING_SECONDS
            assert await refused == Conflict(is_open=True)
            assert await ask(host, FindAnswer(digest("s"))) is None
            assert await ask(host, store("s", b"bytes\x00")) == Kept(True)
            stored = StoredAnswer("r1", int(it.clock.now * 1000), int((it.clock.now + DAY) * 1000), b"bytes\x00")
            assert await ask(host, claim("s", "r2")) == stored
            assert await ask(host, claim("s", "r1")) == stored
            assert await ask(host, claim("s", "r2", "other")) == Conflict()
            assert await ask(host, FindAnswer(digest("s"))) == stored
            assert await ask(host, claim("another", "r2", "other")) == Claimed()

    asyncio.run(run())


def test_who_has_no_claim_stores_and_releases_nothing(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            host = await it.host()
            await ask(host, claim("s"))
            assert await ask(host, store("s", b"late", "r0")) == Kept(False)
            assert await ask(host, ReleaseClaim(digest("s"), "r0")) == Kept(False)
            assert await ask(host, claim("s", "r2")) == InFlight("r1")
            assert await ask(host, ReleaseClaim(digest("s"), "r1")) == Kept(True)
            assert await ask(host, claim("s", "r2", "other")) == Claimed(), "a failed request binds nobody to its body"
            assert await ask(host, store("s", b"late", "r1")) == Kept(False)
            assert await ask(host, store("s", b"x", "r2")) == Kept(True)
            assert await ask(host, ReleaseClaim(digest("s"), "r2")) == Kept(False), "what is stored stays"
            assert await ask(host, store("lost", b"x", "r3")) == Kept(True), "a claim that was lost is not needed"

    asyncio.run(run())


def test_an_answer_is_kept_until_its_time_and_not_a_millisecond_longer(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            host = await it.host()
            await ask(host, claim("s"))
            await ask(host, store("s", b"x"))
            it.clock.now += DAY - 0.001
            assert isinstance(await ask(host, claim("s", "r2")), StoredAnswer)
            assert isinstance(await ask(host, FindAnswer(digest("s"))), StoredAnswer)
            it.clock.now += 0.001
            assert await ask(host, FindAnswer(digest("s"))) is None
            assert await ask(host, claim("s", "r2", "other")) == Claimed()

    asyncio.run(run())


def test_a_claim_ends_at_its_deadline_and_its_holder_comes_too_late(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            host = await it.host()
            await ask(host, claim("s", seconds=60.0))
            it.clock.now += 59.999
            assert await ask(host, claim("s", "r2")) == InFlight("r1")
            it.clock.now += 0.001
            assert await ask(host, claim("s", "r2")) == Claimed()
            assert await ask(host, store("s", b"x", "r1")) == Kept(False)
            assert await ask(host, claim("s", "r3")) == InFlight("r2")

    asyncio.run(run())


def test_of_a_crowd_on_two_hosts_one_has_the_claim(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            hosts = [await it.host("first"), await it.host("second")]
            for scope in ("a", "b", "c"):
                crowd = [ask(hosts[number % 2], claim(scope, f"r{number}")) for number in range(40)]
                replies = await asyncio.gather(*crowd)
                assert sum(reply == Claimed() for reply in replies) == 1
                winner = f"r{replies.index(Claimed())}"
                assert all(reply in (Claimed(), InFlight(winner)) for reply in replies)

    asyncio.run(run())


def test_two_hosts_change_the_same_scopes_at_once(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            hosts = [await it.host("first", 40_000), await it.host("second", 40_000)]
            crowd = []
            for number in range(60):
                scope, host = f"s{number * 7 % 20}", hosts[number % 2]
                crowd.append(ask(host, claim(scope, f"r{number}")))
                crowd.append(ask(host, store(scope, bytes(2000), f"r{number}", "cache")))
            assert not [reply for reply in await asyncio.gather(*crowd) if isinstance(reply, Failed)]

    asyncio.run(run())


# Waiting


def test_who_waits_is_told_at_once_on_this_host_and_soon_on_another(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            it.clock = asyncio.get_running_loop().time  # type: ignore[assignment]
            hosts = [await it.host("first"), await it.host("second")]
            await ask(hosts[0], claim("s"))
            waiting = [asyncio.ensure_future(ask(host, claim("s", "r2", wait=30.0))) for host in hosts]
            await asyncio.sleep(0.05)
            assert not any(each.done() for each in waiting)
            await ask(hosts[0], store("s", b"x"))
            for reply in await asyncio.gather(*waiting):
                assert isinstance(reply, StoredAnswer) and reply.content == b"x"

    asyncio.run(run())


def test_who_waits_gets_the_claim_of_one_that_failed(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            it.clock = asyncio.get_running_loop().time  # type: ignore[assignment]
            host = await it.host()
            await ask(host, claim("s"))
            waiting = [asyncio.ensure_future(ask(host, claim("s", f"w{number}", wait=30.0))) for number in range(3)]
            await asyncio.sleep(0.05)
            for left in (3, 2, 1):
                holder = (await ask(host, claim("s", "x"))).request
                await ask(host, ReleaseClaim(digest("s"), holder))
                await until(lambda left=left: sum(each.done() for each in waiting) == 4 - left)
            assert [await each for each in waiting] == [Claimed()] * 3

    asyncio.run(run())


def test_waiting_has_an_end(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            it.clock = asyncio.get_running_loop().time  # type: ignore[assignment]
            host = await it.host()
            await ask(host, claim("s"))
            assert await ask(host, claim("s", "r2", wait=0.2)) == InFlight("r1")
            assert not host._waiting

    asyncio.run(run())


def test_another_body_waits_for_a_claim_that_is_ending(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            host = await it.host()
            await ask(host, claim("s"))
            other = asyncio.ensure_future(ask(host, claim("s", "r2", "other")))
            await until(lambda: host._waiting)
            assert await ask(host, ReleaseClaim(digest("s"), "r1")) == Kept(True)
            assert await other == Claimed()

    asyncio.run(run())


# Workers and keepers that die


def test_a_dead_worker_s_claims_end_and_its_answers_stay(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            host = await it.host()
            await ask(host, claim("answered"))
            await ask(host, store("answered", b"x"))
            await ask(host, claim("open"))
            await ask(host, claim("of another", "r2", journal="j2"))
            host.closed("j1")
            await until(lambda: not host._ending)
            assert await ask(host, claim("open", "r3", journal="j2")) == Claimed()
            assert await ask(host, claim("of another", "r3", journal="j2")) == InFlight("r2")
            assert isinstance(await ask(host, claim("answered", "r3", journal="j2")), StoredAnswer)
            late = await ask(host, claim("last words", "r4", journal="j1"))
            assert isinstance(late, Failed) and late.code == "UNAVAILABLE", "nobody would end that claim"

    asyncio.run(run())


def test_a_keeper_that_starts_ends_the_claims_of_its_own_dead_workers(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            host, other = await it.host("first"), await it.host("second")
            await ask(host, claim("dead", journal="j1"))
            await ask(host, claim("live", journal="j2"))
            await ask(host, claim("stored", journal="j1"))
            await ask(host, store("stored", b"x"))
            await ask(other, claim("elsewhere", journal="j3"))
            again = await it.host("first", live=("j2",))
            assert await ask(again, claim("dead", "r2", journal="j2")) == Claimed()
            assert await ask(again, claim("live", "r2", journal="j2")) == InFlight("r1")
            assert await ask(again, claim("elsewhere", "r2", journal="j2")) == InFlight("r1")
            assert isinstance(await ask(again, FindAnswer(digest("stored"))), StoredAnswer)

    asyncio.run(run())


def test_a_database_that_is_gone_is_unavailable_and_the_dead_are_ended_when_it_is_back(
    postgres: PostgresServer,
) -> None:
    async def run(url: str) -> None:
        async with bench(url) as it:
            host = await it.host()
            await ask(host, claim("s"))
            async with it.database.writing() as connection:
                await connection.execute(text("ALTER TABLE answers RENAME TO x"))
            failed = await ask(host, claim("s", "r2"))
            assert isinstance(failed, Failed) and failed.code == "UNAVAILABLE"
            assert isinstance(await ask(host, FindAnswer(digest("s"))), Failed)
            host.closed("j1")
            assert isinstance(await ask(host, store("t", b"x")), Failed)
            assert host._ending
            async with it.database.writing() as connection:
                await connection.execute(text("ALTER TABLE x RENAME TO answers"))
            await until(lambda: not host._ending)
            assert await ask(host, claim("s", "r2", journal="j2")) == Claimed()

    with postgres.fresh() as url:
        asyncio.run(run(url))


# Bounds


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_an_answer_s_bytes(url: str, more: int) -> None:
    async def run() -> None:
        async with bench(url) as it:
            host = await it.host()
            content = b"x" * (ANSWER_LIMIT + more)
            reply = await ask(host, store("s", content))
            if more <= 0:
                assert reply == Kept(True)
                assert (await ask(host, FindAnswer(digest("s")))).content == content
            else:
                assert isinstance(reply, Failed) and reply.code == "INVALID_REQUEST"
                assert await ask(host, FindAnswer(digest("s"))) is None

    asyncio.run(run())


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_an_account_s_bytes(url: str, more: int) -> None:
    """What would expire first makes room, and with it an eighth of everything; other accounts and kinds are apart."""

    async def run() -> None:
        async with bench(url) as it:
            limit = 16 * (ROW + 100)
            host = await it.host(limit=limit)
            for number in range(15):
                it.clock.now += 1 / 1024
                assert await ask(host, store(f"s{number}", bytes(100))) == Kept(True)
            await ask(host, claim("open"))
            await ask(host, store("other kind", bytes(100), kind="cache"))
            stranger = StoreAnswer("idempotency", digest("stranger"), 8, digest("b"), "r", "j", DAY, bytes(100))
            await ask(host, stranger)
            it.clock.now += 1 / 1024
            assert await ask(host, store("last", bytes(100 + more))) == Kept(True)
            kept = {row.scope for row in await it.rows()}
            dropped = [number for number in range(15) if digest(f"s{number}") not in kept]
            # One byte too many: so much goes, and an eighth, which is that byte and two answers.
            assert dropped == ([0, 1, 2] if more > 0 else [])
            assert {digest(name) for name in ("last", "open", "other kind", "stranger")} <= kept

    asyncio.run(run())


def test_what_other_hosts_store_is_counted_after_a_while(postgres: PostgresServer) -> None:
    async def run(url: str) -> None:
        async with bench(url) as it:
            limit = 8 * (ROW + 100)
            hosts = [await it.host("first", limit), await it.host("second", limit)]
            for number in range(6):
                it.clock.now += 1 / 1024
                await ask(hosts[number % 2], store(f"s{number}", bytes(100)))
            it.clock.now += ROOM_SECONDS
            for number in range(6, 20):
                it.clock.now += ROOM_SECONDS
                await ask(hosts[number % 2], store(f"s{number}", bytes(100)))
                assert sum(row.size for row in await it.rows()) <= limit

    with postgres.fresh() as url:
        asyncio.run(run(url))


def test_what_is_over_is_deleted_in_steps(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            host = await it.host()
            now = int(it.clock.now * 1000)
            row = {"kind": "cache", "account_id": 7, "body": digest("b"), "request": "r", "journal": "j", "host": "h"}
            row |= {"created_at": now, "size": 1, "content": b"x"}
            rows = [row | {"scope": digest(str(number)), "expires_at": now} for number in range(STEP + 1)]
            rows.append(row | {"scope": digest("kept"), "expires_at": now + 1})
            async with it.database.writing() as connection:
                await connection.execute(insert(answers), rows)
            await ask(host, claim("claim", seconds=1000))
            passed = [0.0]
            retention = Retention(it.database, 0, it.clock, lambda: passed[0])
            left = []
            for _ in range(3):
                await retention.step()
                left.append(len(await it.rows()))
            assert left == [3, 2, 2]
            async with it.database.writing() as connection:
                await connection.execute(update(answers).values(expires_at=now))
            await retention.step()
            assert len(await it.rows()) == 2, "it rests for an hour"
            passed[0] = EVERY_SECONDS
            await retention.step()
            assert not await it.rows()

    asyncio.run(run())


# The cache's own


def test_a_cache_s_answer_is_replaced_and_cleared(url: str) -> None:
    async def run() -> None:
        async with bench(url) as it:
            host = await it.host()
            assert await ask(host, store("s", b"old", "r1", "cache", 300)) == Kept(True)
            assert await ask(host, store("s", b"new", "r2", "cache", 10)) == Kept(True)
            found = await ask(host, FindAnswer(digest("s")))
            assert (found.request, found.content, found.expires_at - found.created_at) == ("r2", b"new", 10_000)
            assert await ask(host, ClearAnswer(digest("s"))) == Kept(True)
            assert await ask(host, ClearAnswer(digest("s"))) == Kept(False)
            assert await ask(host, FindAnswer(digest("s"))) is None
            await ask(host, claim("s"))
            assert await ask(host, ClearAnswer(digest("s"))) == Kept(False), "a claim is not an answer"

    asyncio.run(run())

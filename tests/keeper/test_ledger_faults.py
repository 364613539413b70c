"""The ledger under faults: killed keepers, databases that fail or go away, full disks. Every line counts once."""

import asyncio
import contextlib
import os
import pathlib
import random
import sqlite3
import subprocess
import sys
import tempfile
import time

import pytest
from sqlalchemy import insert

from tests.keeper.journaling import (
    HOST,
    NOON,
    Writer,
    empty_folder,
    engines,
    id_of,
    ledger_on,
    opened,
    read_books,
    request,
    settled,
    spent,
)
from tests.keeper.running import until
from tests.postgres import running_postgres
from waypost.config import Secret, Store
from waypost.keeper.store import open_database
from waypost.keeper.store.books import CLOSED
from waypost.keeper.store.tables import journals
from waypost.keeper.verify import verify
from waypost.records import Attempted

NOW = NOON / 1000 + 3600

# A keeper's ledger and nothing else; it says so when everything is in the books.
KEEPER = """
import asyncio, pathlib, sys
from tests.keeper.journaling import ledger_on
async def run():
    async with ledger_on(pathlib.Path(sys.argv[1]), sys.argv[2]) as (ledger, _):
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(run())
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, postgres):
    with engines(postgres) as url_of:
        yield url_of(request.param)


async def drained(data, url, count):
    """What the books hold when every journal is dead and read: `count` requests, nothing that verify would miss."""
    async with ledger_on(data, url) as (ledger, database):
        await asyncio.wait_for(ledger.close_dead(), 60)
        assert ledger.faults == 0
        found = await read_books(database)
        assert len(found["requests"]) == count
        assert sum(row[5] for row in found["days"]) == count
        assert {row[0] for row in found["holdings"]} <= {HOST}
        verified = await verify(database, 0, NOW)
        assert [each for each in verified.differences if each.what != "a price"] == [] and verified.open == 0
        units = await spent(database)
        assert units["a7:requests:day:2026-11-22"] == count
        assert os.listdir(data / "journal") == [] and found["journals"] == []
        return found


# Keepers that die


def test_a_keeper_that_is_killed_again_and_again_counts_every_line_once(url):
    """A writer goes on, in journals that die at times, while keepers live for a random moment each."""
    dice = random.Random(5)
    written = 0
    with empty_folder() as data, contextlib.ExitStack() as stack:
        writer = stack.enter_context(Writer(data / "journal", size=4096))
        for cycle in range(12):
            keeper = subprocess.Popen([sys.executable, "-c", KEEPER, str(data), url], stdin=subprocess.PIPE)
            end = time.monotonic() + 0.35 + dice.random() * 0.5
            while time.monotonic() < end:
                if dice.random() < 0.8:
                    writer.write(*request(written))
                else:
                    writer.write(opened(written))
                    writer.write(Attempted(id_of(written), 1, NOON, "lab", "x", "UPSTREAM_ERROR", 500, 1))
                    time.sleep(dice.random() * 0.01)
                    writer.write(settled(written))
                written += 1
                time.sleep(dice.random() * 0.002)
            keeper.kill()
            keeper.wait()
            keeper.stdin.close()
            if cycle % 3 == 2:
                writer.die()
                writer = stack.enter_context(Writer(data / "journal", size=4096))
        writer.die()
        assert written > 300
        found = asyncio.run(drained(data, url, written))
    assert all(row[11] == 200 for row in found["requests"])


def test_a_keeper_killed_between_the_steps_of_a_close(url):
    """A journal is closed, then its files go, then its position: whatever of it has been done is not done twice."""

    async def run(data):
        with Writer(data / "journal") as writer:
            writer.write(*request(1), opened(2))
        files = {path.name: path.read_bytes() for path in (data / "journal").iterdir()}
        async with ledger_on(data, url) as (ledger, database):
            await ledger.close_dead()
            before = await read_books(database)
        for left in (files, dict(list(files.items())[:1]), {}):
            for name, content in left.items():
                (data / "journal" / name).write_bytes(content)
            await put_back(data, url, writer.name)
            async with ledger_on(data, url) as (ledger, database):
                closed = []
                ledger.on_closed.append(closed.append)
                await ledger.close_dead()
                assert (await read_books(database), closed, ledger.faults) == (before, [], 0)
            assert os.listdir(data / "journal") == []
        return before

    async def put_back(data, url, name):
        database = await open_database(Store(database=Secret(url)), data)
        async with database.writing() as connection:
            await connection.execute(insert(journals).values(name=name, host=HOST, segment=1, offset=CLOSED))
        await database.close()

    with empty_folder() as data:
        found = asyncio.run(run(data))
    assert [row[12] for row in found["requests"]] == ["", "CRASHED"]


# Databases that fail


def failing(postgres, url, every, code):
    """From now on every so-many-th row of `requests` and `days` fails with an SQLSTATE."""
    name = url.split("/")[3].partition("?")[0]
    postgres.psql("CREATE SEQUENCE tries", name)
    postgres.psql(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('tries') % {every} = 0 THEN RAISE EXCEPTION 'made to fail' USING ERRCODE = '{code}'; END IF; "
        "RETURN NEW; END $$",
        name,
    )
    for table in ("requests", "days"):
        postgres.psql(
            f"CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION fail()", name
        )


@pytest.mark.parametrize("code", ["40P01", "40001", "57P01", "53100"])
def test_transactions_that_the_server_undoes_are_done_again(postgres, code):
    async def run(data, url):
        async with ledger_on(data, url) as (ledger, _):
            failing(postgres, url, 20, code)
            with Writer(data / "journal") as writer:
                for number in range(100):
                    writer.write(*request(number))
                    if number % 3 == 0:
                        assert await ledger.catch_up(30)
        await drained(data, url, 100)

    with empty_folder() as data, postgres.fresh() as url:
        asyncio.run(run(data, url))


def test_a_commit_that_nobody_confirmed_is_not_done_twice(postgres):
    """The server commits long after we have given up; a try that came too early waits for it and sees what it did."""

    async def run(data, url):
        name = url.split("/")[3].partition("?")[0]
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                writer.write(*request(1))
                assert await ledger.catch_up(30)
                postgres.psql("CREATE SEQUENCE commits", name)
                postgres.psql(
                    "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                    "IF nextval('commits') <= 2 THEN PERFORM pg_sleep(1.5); END IF; RETURN NULL; END $$",
                    name,
                )
                postgres.psql(
                    "CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON requests DEFERRABLE INITIALLY DEFERRED "
                    "FOR EACH ROW EXECUTE FUNCTION dawdle()",
                    name,
                )
                database._deadline = 0.5
                heard = []
                ledger.on_spent.append(lambda _, units: heard.append(units.get("a7:requests:day:2026-11-22")))
                writer.write(*request(2))
                assert await ledger.catch_up(60)
                assert heard == [1], "listeners hear of it once"
        await drained(data, url, 2)
        assert int(postgres.psql("SELECT last_value FROM commits", name)) == 1, "and it was written once"

    with empty_folder() as data, postgres.fresh() as url:
        asyncio.run(run(data, url))


def test_a_database_that_goes_away_under_load_and_comes_back():
    async def run(server, data, url):
        written = 0
        async with ledger_on(data, url) as (ledger, _):
            said = []
            ledger.on_state.append(said.append)
            with Writer(data / "journal") as writer:
                for how in (server.stop, server.pause):
                    for _ in range(50):
                        writer.write(*request(written))
                        written += 1
                        await asyncio.sleep(0.002)
                    how()
                    ledger._books._database._deadline = 1.0
                    for _ in range(200):
                        writer.write(*request(written))
                        written += 1
                        await asyncio.sleep(0.001)
                    await until(lambda: ledger.why_not_ready)
                    assert not await ledger.catch_up(0.1)
                    if how == server.stop:
                        server.start()
                    else:
                        server.resume()
                    assert await ledger.catch_up(60)
                    assert ledger.why_not_ready == ""
        assert [bool(reason) for reason in said[:2]] == [True, False]
        assert "the books cannot be written" in said[0]
        await drained(data, url, written)

    with running_postgres() as server, empty_folder() as data, server.fresh() as url:
        asyncio.run(run(server, data, url))


def test_sqlite_locked_by_a_visitor_is_waited_for():
    async def run(data):
        async with ledger_on(data) as (ledger, _):
            with Writer(data / "journal") as writer:
                writer.write(*request(1))
                assert await ledger.catch_up(30)
                visitor = sqlite3.connect(data / "waypost.db", isolation_level=None)
                visitor.execute("BEGIN IMMEDIATE")
                writer.write(*request(2))
                await until(lambda: ledger.why_not_ready)
                assert "database is locked" in ledger.why_not_ready
                visitor.execute("ROLLBACK")
                visitor.close()
                assert await ledger.catch_up(30)
                assert ledger.why_not_ready == ""
        await drained(data, "sqlite", 2)

    with empty_folder() as data:
        asyncio.run(run(data))


# Disks


@contextlib.contextmanager
def small_disk(megabytes):
    """A file system of its own, if this machine lets us have one."""
    with tempfile.TemporaryDirectory(prefix="waypost-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        try:
            yield pathlib.Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_the_books_until_there_is_room_and_hurts_nothing():
    async def run(data, disk):
        async with ledger_on(data) as (ledger, database):
            with Writer(data / "journal", size=256 * 1024) as writer:
                writer.write(*request(0))
                assert await ledger.catch_up(30)
                ballast = disk / "ballast"
                with contextlib.suppress(OSError), open(ballast, "wb") as file:
                    while True:
                        file.write(bytes(4096))
                        file.flush()
                for number in range(1, 400):
                    writer.write(*request(number))
                await until(lambda: ledger.why_not_ready)
                assert "full" in ledger.why_not_ready or "disk" in ledger.why_not_ready
                ballast.unlink()
                assert await ledger.catch_up(30)
                assert ledger.why_not_ready == ""
                async with database.reading() as connection:
                    check = await connection.exec_driver_sql("PRAGMA integrity_check")
                    assert check.scalar() == "ok"
        await drained(data, "sqlite", 400)

    with small_disk(4) as disk:
        data = disk / "data"
        (data / "journal").mkdir(parents=True)
        asyncio.run(run(data, disk))

"""The PostgreSQL store: fresh, migrated, from several hosts at once; what it says when it cannot be used."""

import asyncio
import subprocess
import sys
import time

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.keeper.running import RunningKeeper, data_folder, settings_of
from tests.postgres import running_postgres
from waypost.keeper.accounts import Accounts
from waypost.keeper.app import CANNOT_START
from waypost.keeper.direct import administer
from waypost.keeper.folder import database_path
from waypost.keeper.store import postgres as store
from waypost.keeper.store import schema
from waypost.keeper.store.database import UnreachableDatabase, UnusableDatabase
from waypost.keeper.store.tables import metadata
from waypost.keys import digest_of
from waypost.messages import CreateAccount, CreatedKey, CreateKey, Failed, Identify, Identity, ListAccounts

PLANS = ("free", "max")


def engine_of(url):
    return create_async_engine("postgresql+asyncpg://", async_creator=lambda: store.connect(url))


def name_of(url):
    return url.split("/")[3].partition("?")[0]


async def open_and_close(url):
    await (await store.open_postgres(url)).close()


def described(postgres, url):
    """Every column, index and constraint as PostgreSQL itself describes them."""
    name = name_of(url)
    columns = "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default"
    return [
        postgres.psql(f"{columns} FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2", name),
        postgres.psql("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1", name),
        postgres.psql(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace ORDER BY 1",
            name,
        ),
    ]


def test_a_fresh_database_is_what_the_migrations_make(postgres):
    async def migrate(url):
        engine = engine_of(url)
        async with engine.begin() as connection:
            await connection.run_sync(schema.migrate)
        async with engine.connect() as connection:
            found = await connection.run_sync(lambda sync: compare_metadata(MigrationContext.configure(sync), metadata))
        await engine.dispose()
        assert found == []

    with postgres.fresh() as fresh, postgres.fresh() as migrated:
        asyncio.run(open_and_close(fresh))
        asyncio.run(migrate(migrated))
        assert described(postgres, fresh) == described(postgres, migrated)
        assert len(described(postgres, fresh)[1].splitlines()) > 10


def test_a_database_of_the_first_version_is_migrated_with_what_is_in_it(postgres):
    async def run(url):
        engine = engine_of(url)
        async with engine.begin() as connection:
            await connection.run_sync(schema.migrate, "0001")
            await connection.execute(text("INSERT INTO accounts VALUES (7, 'ann', 'free', false, 1)"))
        await engine.dispose()
        database = await store.open_postgres(url)
        (record,) = (await Accounts(database, settings_of(PLANS).plans, time.time).ask(ListAccounts())).rows
        await database.close()
        assert (record.id, record.name) == (7, "ann")

    with postgres.fresh() as url:
        asyncio.run(run(url))


def test_eight_hosts_may_start_at_once(postgres):
    async def run(url):
        databases = await asyncio.gather(*(store.open_postgres(url) for _ in range(8)))
        async with databases[0].reading() as connection:
            assert (await connection.scalars(text("SELECT version_num FROM alembic_version"))).all() == [schema.HEAD]
        for database in databases:
            await database.close()

    with postgres.fresh() as url:
        asyncio.run(run(url))


def test_accounts_and_keys_as_on_sqlite(postgres):
    async def run(url):
        database = await store.open_postgres(url)
        accounts = Accounts(database, settings_of(PLANS).plans, time.time)
        created = await accounts.ask(CreateKey("ann", "free", "laptop"))
        identity = await accounts.ask(Identify(digest_of(created.key.encode())))
        again = await accounts.ask(CreateAccount("ann", "free"))
        await database.close()
        return created, identity, again

    with postgres.fresh() as url:
        created, identity, again = asyncio.run(run(url))
    assert isinstance(created, CreatedKey) and (created.id, created.account) == (1, "ann")
    assert isinstance(identity, Identity) and (identity.account, identity.label) == ("ann", "laptop")
    assert "exists already" in again.message


def test_a_keeper_and_a_command_on_postgresql(postgres):
    with postgres.fresh() as url, data_folder() as data:
        asyncio.run(administer(data, settings_of(PLANS, url), CreateKey("ann", "free")))
        keeper = RunningKeeper(data, PLANS, database=url)
        keeper.start()
        asyncio.run(keeper.create_key("bob"))
        listed = asyncio.run(keeper.ask(ListAccounts()))
        assert keeper.stop() == (0, "")
        assert [row.name for row in listed.rows] == ["ann", "bob"]
        assert not database_path(data).exists()


def test_the_session_is_set_as_it_must_be(postgres):
    async def run(url):
        database = await store.open_postgres(url)
        async with database.writing() as connection:
            names = ("synchronous_commit", "statement_timeout", "timezone", "application_name")
            found = [await connection.scalar(text(f"SHOW {name}")) for name in names]
        await database.close()
        return found

    with postgres.fresh() as url:
        assert asyncio.run(run(url)) == ["on", "8s", "UTC", "waypost"]


# What cannot be used


def refusal(url):
    with pytest.raises(UnusableDatabase) as caught:
        asyncio.run(open_and_close(url))
    return caught.value


def test_what_the_operator_must_mend_is_said_once_and_without_the_password(postgres):
    with postgres.fresh("locked") as url:
        right = url.replace("locked@", "locked:open sesame@")
        wrong = url.replace("locked@", "locked:opensesame1@")
        postgres.psql("ALTER DATABASE " + name_of(url) + " OWNER TO locked")
        asyncio.run(open_and_close(right.replace(" ", "%20")))
        error = refusal(wrong)
        assert "password authentication failed" in str(error) and "opensesame1" not in str(error)
        assert not isinstance(error, UnreachableDatabase)
        with data_folder() as data:
            _, errors = RunningKeeper(data, database=wrong).spawn().communicate(timeout=60)
            assert errors.count("\n") == 1 and "password authentication failed" in errors
        error = refusal(url.replace("locked@", "postgres@").replace(name_of(url), "nowhere"))
        assert '"nowhere" does not exist' in str(error)
        assert not isinstance(error, UnreachableDatabase)


def test_another_program_s_database_and_a_newer_one_are_refused(postgres):
    with postgres.fresh() as url:
        name = name_of(url)
        postgres.psql("CREATE TABLE songs (title text)", name)
        assert "tables that are not Waypost's: songs" in str(refusal(url))
        postgres.psql("DROP TABLE songs", name)
        asyncio.run(open_and_close(url))
        postgres.psql("UPDATE alembic_version SET version_num = '9999'", name)
        assert "its schema is 9999" in str(refusal(url))
        with data_folder() as data:
            process = RunningKeeper(data, database=url).spawn()
            _, errors = process.communicate(timeout=60)
            assert process.returncode == CANNOT_START and "its schema is 9999" in errors


def test_one_that_does_not_answer_may_answer_later():
    with running_postgres() as server, data_folder() as data, server.fresh() as url:
        server.stop()
        assert isinstance(refusal(url), UnreachableDatabase)
        keeper = RunningKeeper(data, database=url)
        process = keeper.spawn()
        failed = asyncio.run(administer(data.with_name("other"), settings_of(PLANS, url), ListAccounts()))
        assert isinstance(failed, Failed) and "cannot use the database postgresql://postgres@/" in failed.message
        assert process.poll() is None, "it waits"
        server.start()
        assert process.stdout.readline() == "ready\n"
        assert not isinstance(asyncio.run(keeper.ask(ListAccounts())), Failed)
        keeper.stop()


def test_a_restarted_server_costs_nobody_an_error():
    async def run(server, url):
        database = await store.open_postgres(url)
        accounts = Accounts(database, settings_of(PLANS).plans, time.time)
        await asyncio.gather(*(accounts.ask(ListAccounts()) for _ in range(5)))
        server.stop()
        failed = await accounts.ask(ListAccounts())
        server.start()
        answers = await asyncio.gather(*(accounts.ask(ListAccounts()) for _ in range(5)))
        await database.close()
        return failed, answers

    with running_postgres() as server, server.fresh() as url:
        failed, answers = asyncio.run(run(server, url))
    assert isinstance(failed, Failed) and failed.code == "UNAVAILABLE"
    assert not any(isinstance(answer, Failed) for answer in answers)


def test_a_server_that_hangs_is_given_up_and_works_again_afterwards():
    async def run(server, url):
        database = await store.open_postgres(url)
        database._deadline = 0.5
        accounts = Accounts(database, settings_of(PLANS).plans, time.time)
        await accounts.ask(ListAccounts())
        server.pause()
        failed = await accounts.ask(ListAccounts())
        server.resume()
        answer = await accounts.ask(ListAccounts())
        await database.close()
        return failed, answer

    with running_postgres() as server, server.fresh() as url:
        failed, answer = asyncio.run(run(server, url))
    assert isinstance(failed, Failed) and failed.code == "UNAVAILABLE"
    assert not isinstance(answer, Failed)


def test_without_the_driver_the_extra_is_named():
    script = """
import asyncio, sys
sys.modules["asyncpg"] = None
from waypost.keeper.store.database import UnusableDatabase
from waypost.keeper.store.postgres import open_postgres
try:
    asyncio.run(open_postgres("postgresql://ann:secret@host/x"))
except UnusableDatabase as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    fix = "pip install '.[postgresql]' in Waypost's folder"
    assert done.stdout == f"the driver for PostgreSQL is not installed: {fix}\n", done.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://ann:secret@host:5432/books?sslmode=require&password=secret", "postgresql://ann@host:5432/books"),
        ("postgresql://host/books", "postgresql://host/books"),
        ("postgresql://ann:se@cret@host/books", "postgresql://ann@host/books"),
        ("postgresql://ann@/books?host=/run", "postgresql://ann@/books"),
    ],
)
def test_urls_are_shown_without_secrets(url, expected):
    assert store.shown(url) == expected

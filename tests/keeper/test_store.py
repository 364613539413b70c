"""The SQLite store: fresh, migrated, newer, foreign; who may read it."""

import asyncio
import pathlib
import sqlite3
import stat

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from waypost.keeper.store import schema
from waypost.keeper.store.database import UnusableDatabase
from waypost.keeper.store.sqlite import BUSY_TIMEOUT_MS, open_sqlite
from waypost.keeper.store.tables import metadata


def open_and_close(path: pathlib.Path) -> None:
    async def run():
        await (await open_sqlite(path)).close()

    asyncio.run(run())


def described(path: pathlib.Path) -> list[tuple[str, ...]]:
    """Every table and index as SQLite itself describes them."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()
        tables = [name for kind, name, _, _ in rows if kind == "table"]
        details = [
            # The first column of these two is the order of creation, which is nobody's concern.
            (
                pragma,
                table,
                *sorted(str(row[pragma != "table_xinfo" :]) for row in connection.execute(f"PRAGMA {pragma}({table})")),
            )
            for table in tables
            for pragma in ("table_xinfo", "index_list", "foreign_key_list")
        ]
    connection.close()
    # SQL by its words: a unique constraint is the same wherever it stands between the brackets.
    return [
        (kind, name, table, *sorted((sql or "").replace(",", " ").split())) for kind, name, table, sql in rows
    ] + details


def test_a_fresh_database_is_what_the_migrations_make(tmp_path):
    open_and_close(tmp_path / "fresh.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    with engine.begin() as connection:
        schema.migrate(connection)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    fresh, migrated = described(tmp_path / "fresh.db"), described(tmp_path / "migrated.db")
    assert len(fresh) > 10
    assert sorted(fresh) == sorted(migrated)


def test_the_known_revisions_are_the_scripts(tmp_path):
    config = Config()
    config.set_main_option("script_location", str(pathlib.Path(schema.__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert [script.revision for script in scripts.walk_revisions()] == list(reversed(schema.REVISIONS))
    assert scripts.get_heads() == [schema.HEAD]


def test_a_migrated_database_opens(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.begin() as connection:
        schema.migrate(connection)
    engine.dispose()
    before = described(tmp_path / "x.db")
    open_and_close(tmp_path / "x.db")
    assert described(tmp_path / "x.db") == before


def test_a_database_from_a_newer_version_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "x.db"
    open_and_close(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = described(path)
    with pytest.raises(
        UnusableDatabase, match=rf"x\.db: its schema is 9999, .* knows up to {schema.HEAD}; start the newer version"
    ):
        open_and_close(path)
    assert described(path) == before


def test_a_database_of_another_program_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE songs (title)")
    connection.close()
    with pytest.raises(UnusableDatabase, match="tables that are not Waypost's: songs"):
        open_and_close(tmp_path / "x.db")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "x.db").write_text("hello " * 1000)
    with pytest.raises(UnusableDatabase, match=r"cannot use the database .*x\.db: file is not a database"):
        open_and_close(tmp_path / "x.db")
    with pytest.raises(UnusableDatabase, match="cannot open the database"):
        open_and_close(tmp_path / "missing" / "x.db")


def test_only_the_owner_may_read_it(tmp_path):
    path = tmp_path / "x.db"
    path.touch(0o644)

    async def modes():
        database = await open_sqlite(path)
        try:
            return {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        finally:
            await database.close()

    assert asyncio.run(modes()) == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}


def test_the_connection_is_set_as_it_must_be(tmp_path):
    async def settings():
        database = await open_sqlite(tmp_path / "x.db")
        try:
            async with database.writing() as connection:
                names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
                return [await connection.scalar(text(f"PRAGMA {name}")) for name in names]
        finally:
            await database.close()

    assert asyncio.run(settings()) == ["wal", 2, 1, BUSY_TIMEOUT_MS]


async def write_and_fail(database):
    async with database.writing() as connection:
        await connection.execute(text("INSERT INTO accounts VALUES (1, 'ann', 'free', 0, 0, NULL)"))
        assert await connection.scalar(text("SELECT count(*) FROM accounts")) == 1
        raise ZeroDivisionError


def test_a_failed_write_leaves_nothing(tmp_path):
    async def run():
        database = await open_sqlite(tmp_path / "x.db")
        try:
            with pytest.raises(ZeroDivisionError):
                await write_and_fail(database)
            async with database.reading() as connection:
                return await connection.scalar(text("SELECT count(*) FROM accounts"))
        finally:
            await database.close()

    assert asyncio.run(run()) == 0

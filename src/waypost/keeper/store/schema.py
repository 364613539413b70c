"""Bring a database to the schema of this version: a fresh one at once, an older one by Alembic, a newer one never."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    func,
    insert,
    inspect,
    literal,
    select,
)

from waypost.keeper.store.database import Database, UnusableDatabase
from waypost.keeper.store.tables import metadata

REVISIONS: tuple[str, ...] = ("0001", "0002", "0003", "0004", "0005", "0006")
"""The migrations in order. Kept here as well because importing Alembic to ask takes longer than all else at a start."""

HEAD = REVISIONS[-1]

MIGRATION_LOCK = 0x77617970_6F7374
"""PostgreSQL's advisory lock while a schema is looked at and changed: `waypost` in ASCII."""

# Alembic's own table, described as Alembic creates it; apart from `metadata`, which Alembic compares with the database.
_alembic = MetaData()
_version = Table(
    "alembic_version",
    _alembic,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


async def bring_up_to_date(database: Database) -> None:
    """Create or migrate the schema in one transaction. Raises `UnusableDatabase` if it is not ours or newer."""
    async with database.writing() as connection:
        await connection.run_sync(_bring_up_to_date)


def _bring_up_to_date(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # several hosts may start at once
        connection.execute(select(func.pg_advisory_xact_lock(literal(MIGRATION_LOCK, BigInteger))))
    tables = inspect(connection).get_table_names()
    if not tables:
        create(connection)
    elif _version.name not in tables:
        raise UnusableDatabase(f"holds tables that are not Waypost's: {', '.join(tables[:5])}")
    else:
        stored = connection.scalar(select(_version.c.version_num))
        if stored == HEAD:
            return
        if stored not in REVISIONS:
            raise UnusableDatabase(
                f"its schema is {stored}, this version of Waypost knows up to {HEAD}; "
                "start the newer version that wrote it, or restore a backup"
            )
        migrate(connection)


def create(connection: Connection) -> None:
    """The whole schema in an empty database, marked as being at `HEAD`."""
    _alembic.create_all(connection)
    metadata.create_all(connection)
    connection.execute(insert(_version).values(version_num=HEAD))


def migrate(connection: Connection, revision: str = "head") -> None:
    """Run the migrations up to `revision`, inside the connection's transaction."""
    import pathlib

    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(pathlib.Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)

"""The database: tables, engines, migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pathlib

    from waypost.config import Store
    from waypost.keeper.store.database import Database


async def open_database(settings: Store, data: pathlib.Path) -> Database:
    """Open what `store.database` names: SQLite in the folder `data`, or PostgreSQL.

    Raises `database.UnusableDatabase`, and `database.UnreachableDatabase` where trying again may help.
    """
    url = settings.database.reveal()
    if url == "sqlite":
        from waypost.keeper.folder import database_path
        from waypost.keeper.store.sqlite import open_sqlite

        return await open_sqlite(database_path(data))
    from waypost.keeper.store.postgres import open_postgres

    return await open_postgres(url)

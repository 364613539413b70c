"""Alembic's scripts: run by `schema.migrate`, never by hand."""

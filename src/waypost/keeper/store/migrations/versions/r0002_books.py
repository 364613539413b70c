"""The books: what narrows keys, prepaid credit, requests and what is derived from them, limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """From accounts and keys alone."""
    op.add_column("accounts", sa.Column("credit", sa.BigInteger(), nullable=True))
    for column in (
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("models", sa.String(), nullable=True),
        sa.Column("minute_limit", sa.BigInteger(), nullable=True),
        sa.Column("daily_limit", sa.BigInteger(), nullable=True),
        sa.Column("spend_limit", sa.BigInteger(), nullable=True),
        sa.Column("spend_window", sa.String(5), nullable=True),
        sa.Column("credit", sa.BigInteger(), nullable=True),
    ):
        op.add_column("keys", column)
    _create_requests()
    _create_days()
    _create_limits()


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("account_id", _Id, nullable=False),
        sa.Column("key_id", _Id, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("plan", sa.String(100), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("holds", sa.LargeBinary(), nullable=False),
        sa.Column("estimate", sa.BigInteger(), nullable=False),
        sa.Column("estimated_cost", sa.BigInteger(), nullable=False),
        sa.Column("journal", sa.String(60), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("code", sa.String(40), nullable=True),
        sa.Column("provider", sa.String(100), nullable=True),
        sa.Column("upstream_model", sa.String(256), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=True),
        sa.Column("requests", sa.Integer(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost", sa.BigInteger(), nullable=True),
        sa.Column("price", sa.String(16), nullable=True),
        sa.Column("usage", sa.LargeBinary(), nullable=True),
        sa.Column("estimated", sa.Boolean(), nullable=True),
        sa.Column("first_token", sa.BigInteger(), nullable=True),
        sa.Column("latency", sa.BigInteger(), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_requests_account_id_id"), "requests", ["account_id", "id"])
    is_open = sa.text("status IS NULL")
    op.create_index(op.f("ix_requests_open"), "requests", ["journal"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_table(
        "attempts",
        sa.Column("request_id", sa.String(26), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("provider", sa.String(100), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("code", sa.String(40), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("milliseconds", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "number", name=op.f("pk_attempts")),
        sqlite_with_rowid=False,
    )


def _create_days() -> None:
    counts = ("requests", "errors", "prompt", "cache_read", "cache_write", "completion", "reasoning", "cost")
    op.create_table(
        "days",
        sa.Column("account_id", _Id, nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("key_id", _Id, nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("provider", sa.String(100), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in counts),
        sa.PrimaryKeyConstraint("account_id", "day", "key_id", "model", "provider", name=op.f("pk_days")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "prices",
        sa.Column("version", sa.String(16), nullable=False),
        sa.Column("terms", sa.LargeBinary(), nullable=False),
        sa.Column("first_seen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_prices")),
    )
    op.create_table(
        "journals",
        sa.Column("name", sa.String(60), nullable=False),
        sa.Column("host", sa.String(40), nullable=False),
        sa.Column("segment", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_journals")),
    )


def _create_limits() -> None:
    op.create_table(
        "meters",
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("taken", sa.BigInteger(), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("ends", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_meters")),
    )
    op.create_table(
        "holdings",
        sa.Column("holder", sa.String(60), nullable=False),
        sa.Column("meter", sa.String(120), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("recalled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("holder", "meter", name=op.f("pk_holdings")),
    )
    op.create_index(op.f("ix_holdings_meter"), "holdings", ["meter"])

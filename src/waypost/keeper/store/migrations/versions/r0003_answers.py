"""Answers that are kept, and claims on those that are being made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """From the books alone."""
    op.create_table(
        "answers",
        sa.Column("scope", sa.LargeBinary(32), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("account_id", _Id, nullable=False),
        sa.Column("body", sa.LargeBinary(32), nullable=False),
        sa.Column("request", sa.String(26), nullable=False),
        sa.Column("journal", sa.String(60), nullable=False),
        sa.Column("host", sa.String(40), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_answers")),
    )
    op.create_index(
        op.f("ix_answers_account_id_kind_expires_at_size"), "answers", ["account_id", "kind", "expires_at", "size"]
    )
    op.create_index(op.f("ix_answers_expires_at"), "answers", ["expires_at"])
    is_claim = sa.text("size = 0")
    op.create_index(op.f("ix_answers_open"), "answers", ["journal"], sqlite_where=is_claim, postgresql_where=is_claim)

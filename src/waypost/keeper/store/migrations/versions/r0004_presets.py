"""Presets and their versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """From a store without presets."""
    op.create_table(
        "presets",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("account_id", _Id, nullable=False),
        sa.Column("slug", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("visibility", sa.String(10), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("latest", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("visibility IN ('private', 'public')", name=op.f("ck_presets_visibility")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_presets_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_presets")),
        sa.UniqueConstraint("account_id", "slug", name=op.f("uq_presets_account_id_slug")),
    )
    op.create_table(
        "preset_versions",
        sa.Column("preset_id", sa.String(36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("model", sa.String(256), nullable=True),
        sa.Column("allow_model_override", sa.Boolean(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["preset_id"], ["presets.id"], name=op.f("fk_preset_versions_preset_id_presets")),
        sa.PrimaryKeyConstraint("preset_id", "version", name=op.f("pk_preset_versions")),
    )

"""Requests that were answered with another request's answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """From books in which every answer was made for its request."""
    op.add_column("requests", sa.Column("source", sa.String(26), nullable=True))
    op.add_column("days", sa.Column("repeated", sa.BigInteger(), nullable=False, server_default="0"))

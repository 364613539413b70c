"""What upstreams' prompt caches have saved."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """From books that knew of cached tokens, and not of what they saved."""
    op.add_column("requests", sa.Column("saved", sa.BigInteger(), nullable=True))
    op.add_column("days", sa.Column("saved", sa.BigInteger(), nullable=False, server_default="0"))

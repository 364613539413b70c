"""The tables, one description for every engine. Times are seconds since 1970 UTC where nothing else is said.

A change here needs a migration in `migrations/versions/` and its number at the end of `schema.REVISIONS`; a test holds
the three together.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts a primary key up by itself only if its type is exactly INTEGER, which holds 64 bits there.
_Id = BigInteger().with_variant(Integer(), "sqlite")

accounts = Table(
    "accounts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("plan", String(100), nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("credit", BigInteger, nullable=True),  # nano-dollars ever paid in; NULL: not prepaid
)

keys = Table(
    "keys",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("account_id", _Id, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("shown", String(20), nullable=False, index=True),
    Column("label", String(100), nullable=False),
    Column("kind", String(20), CheckConstraint("kind IN ('inference', 'management')", name="kind"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger, nullable=True),
    # What narrows the account's plan; NULL does not.
    Column("expires_at", BigInteger, nullable=True),
    Column("models", String, nullable=True),  # JSON: a list of patterns
    Column("minute_limit", BigInteger, nullable=True),  # requests
    Column("daily_limit", BigInteger, nullable=True),  # requests
    Column("spend_limit", BigInteger, nullable=True),  # nano-dollars in each `spend_window`
    Column("spend_window", String(5), nullable=True),  # day, month or total
    Column("credit", BigInteger, nullable=True),  # nano-dollars ever given to this key; what is left is its balance
)

presets = Table(
    "presets",
    metadata,
    Column("id", String(36), primary_key=True),  # a UUID
    Column("account_id", _Id, ForeignKey("accounts.id"), nullable=False),
    Column("slug", String(64), nullable=False),
    Column("name", String(100), nullable=False),
    Column(
        "visibility",
        String(10),
        CheckConstraint("visibility IN ('private', 'public')", name="visibility"),
        nullable=False,
    ),
    Column("version", Integer, nullable=False),  # the one that counts where none is named
    Column("latest", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("account_id", "slug"),
)

preset_versions = Table(
    "preset_versions",
    metadata,
    Column("preset_id", String(36), ForeignKey("presets.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("body", LargeBinary, nullable=False),  # JSON: policy.preset.Body
    # What lists tell of it, so that they need not read it.
    Column("model", String(256), nullable=True),
    Column("allow_model_override", Boolean, nullable=False),
    Column("size", Integer, nullable=False),  # bytes
    Column("created_at", BigInteger, nullable=False),
)

# The books. Times are milliseconds since 1970 UTC here, money is nano-dollars, ids are the 26 characters of a ULID.

requests = Table(
    "requests",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("account_id", _Id, nullable=False),
    Column("key_id", _Id, nullable=False),  # 0: a JWT
    Column("at", BigInteger, nullable=False),  # when it was admitted
    Column("plan", String(100), nullable=False),
    Column("model", String(256), nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("holds", LargeBinary, nullable=False),  # MessagePack: [[meter, units reserved], …]
    Column("estimate", BigInteger, nullable=False),
    Column("estimated_cost", BigInteger, nullable=False),
    Column("journal", String(60), nullable=False),  # the worker's
    # NULL while the request is open
    Column("status", Integer, nullable=True),
    Column("code", String(40), nullable=True),
    Column("provider", String(100), nullable=True),
    Column("upstream_model", String(256), nullable=True),
    Column("attempts", Integer, nullable=True),
    Column("requests", Integer, nullable=True),  # 1, or 0 if it was given back
    Column("tokens", BigInteger, nullable=True),
    Column("cost", BigInteger, nullable=True),
    Column("price", String(16), nullable=True),
    Column("usage", LargeBinary, nullable=True),  # MessagePack: records.Usage
    Column("estimated", Boolean, nullable=True),
    Column("first_token", BigInteger, nullable=True),
    Column("latency", BigInteger, nullable=True),
    Column("raw", LargeBinary, nullable=True),
    Column("source", String(26), nullable=True),  # the request whose answer was given again; "": it has its own
    Column("saved", BigInteger, nullable=True),  # by the upstream's prompt cache; NULL in rows of before it was kept
    Index("ix_requests_account_id_id", "account_id", "id"),
    # The open ones: a handful, looked for at every start.
    Index("ix_requests_open", "journal", sqlite_where=text("status IS NULL"), postgresql_where=text("status IS NULL")),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    Column("request_id", String(26), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("provider", String(100), nullable=False),
    Column("model", String(256), nullable=False),
    Column("code", String(40), nullable=False),
    Column("status", Integer, nullable=False),
    Column("milliseconds", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

days = Table(
    "days",
    metadata,
    Column("account_id", _Id, primary_key=True),
    Column("day", String(10), primary_key=True),  # 2026-11-22, in UTC
    Column("key_id", _Id, primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("provider", String(100), primary_key=True),  # "" where none answered
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("prompt", BigInteger, nullable=False),  # tokens
    Column("cache_read", BigInteger, nullable=False),
    Column("cache_write", BigInteger, nullable=False),
    Column("completion", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("repeated", BigInteger, nullable=False, server_default="0"),  # requests with another's answer
    Column("saved", BigInteger, nullable=False, server_default="0"),  # by prompt caches; below zero: only written
    sqlite_with_rowid=False,
)

prices = Table(
    "prices",
    metadata,
    Column("version", String(16), primary_key=True),
    Column("terms", LargeBinary, nullable=False),  # JSON
    Column("first_seen", BigInteger, nullable=False),
)

journals = Table(
    "journals",
    metadata,
    Column("name", String(60), primary_key=True),
    Column("host", String(40), nullable=False),
    Column("segment", BigInteger, nullable=False),  # everything before (segment, offset) is in the books
    Column("offset", BigInteger, nullable=False),
)

# Limits. A meter's name says whose, what, and which window: `a17:requests:day:2026-11-22`.

meters = Table(
    "meters",
    metadata,
    Column("name", String(120), primary_key=True),
    Column("taken", BigInteger, nullable=False),  # units that hosts have taken for themselves
    Column("granted", BigInteger, nullable=False),  # of these, by the latest statement: how it answers
    Column("ends", BigInteger, nullable=False),  # seconds since 1970 UTC; 0: never
)

holdings = Table(
    "holdings",
    metadata,
    Column("holder", String(60), primary_key=True),  # a host, or the journal of one of its workers
    Column("meter", String(120), primary_key=True),
    Column("granted", BigInteger, nullable=False),  # a host's: units it has taken
    Column("spent", BigInteger, nullable=False),  # a journal's: what its lines took; a host's: those of closed journals
    Column("recalled", Boolean, nullable=False),  # a host's: it has given back all it could
    Index("ix_holdings_meter", "meter"),
)

# Answers that are kept so that the same need not be made twice, and claims on answers that are being made. Times are
# milliseconds since 1970 UTC.

answers = Table(
    "answers",
    metadata,
    Column("scope", LargeBinary(32), primary_key=True),  # a digest; `waypost.claims` says of what
    Column("kind", String(20), nullable=False),
    Column("account_id", _Id, nullable=False),
    Column("body", LargeBinary(32), nullable=False),  # a digest of what was asked
    Column("request", String(26), nullable=False),  # whose answer it is, or will be
    Column("journal", String(60), nullable=False),  # of the worker that makes it
    Column("host", String(40), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),  # bytes that it counts for its account; 0: a claim
    Column("content", LargeBinary, nullable=True),  # NULL: a claim
    Index("ix_answers_account_id_kind_expires_at_size", "account_id", "kind", "expires_at", "size"),
    Index("ix_answers_expires_at", "expires_at"),
    # The claims: as many as requests with them are in flight.
    Index("ix_answers_open", "journal", sqlite_where=text("size = 0"), postgresql_where=text("size = 0")),
)

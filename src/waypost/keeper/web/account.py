"""What a management key sees and does: `/v1/account/*`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from waypost.api import shapes
from waypost.errors import BY_CODE, Refusal
from waypost.keeper.web import queries
from waypost.keeper.web.asking import Asked
from waypost.keeper.web.receipts import maybe_source
from waypost.keeper.web.sources import Sources, iso, maybe_iso, maybe_usd, nano, parse_iso, usd
from waypost.messages import (
    AnyMessage,
    CreatedKey,
    CreateKey,
    Failed,
    KeyRecord,
    KeyRecords,
    KeyTerms,
    ListKeys,
    PatchKey,
    RevokeKey,
    ShowKey,
    SpendWindow,
)

RESETS: dict[SpendWindow | None, Literal["daily", "monthly"] | None] = {"day": "daily", "month": "monthly"}
SPANS: dict[str | None, SpendWindow] = {None: "total", "daily": "day", "monthly": "month"}
PARAMETERS = {"models": "allowed_models", "spend_window": "limit_reset"}
"""What the pages call a field that the messages call otherwise."""

# Money and use


async def get_balance(sources: Sources, asked: Asked) -> shapes.Balance:
    """What has been paid in, less what has been spent since."""
    account = asked.caller.account_id
    meter = f"a{account}:balance:total"
    async with sources.database.reading() as connection:
        credit = await queries.read_credit(connection, account)
        spent = await queries.read_spent(connection, [meter])
    return shapes.Balance(None if credit is None else usd(credit - spent[meter]))


async def get_activity(sources: Sources, asked: Asked) -> shapes.ActivityPage:
    """The latest requests first."""
    page = asked.query
    async with sources.database.reading() as connection:
        rows = await queries.read_activity(connection, asked.caller.account_id, page.limit, page.offset)
    data = [
        shapes.Activity(
            f"chatcmpl_{row.id}", row.model, maybe_usd(row.cost), iso(row.at / 1000), maybe_source(row.source)
        )
        for row in rows
    ]
    return shapes.ActivityPage(data, page.limit, page.offset)


async def get_analytics(sources: Sources, asked: Asked) -> shapes.Analytics:
    """From the roll-ups of days: as fast for a million requests as for ten."""
    today = sources.today().date()
    first, last = str(today - timedelta(days=asked.query.days - 1)), str(today)
    account = asked.caller.account_id
    async with sources.database.reading() as connection:
        rows = await queries.read_days(connection, account, first, last, asked.query.limit)
        by_model = await queries.read_models(connection, account, first, last, asked.query.limit)
        totals = await queries.read_totals(connection, account, first, last)
    data = [shapes.DayModel(**sums(row), day=row.day, model=row.model) for row in rows]
    models = [shapes.ModelTotals(**sums(row), model=row.model) for row in by_model]
    return shapes.Analytics(first, last, data, models, shapes.Totals(**sums(totals)))


def sums(row: queries.AnyRow) -> dict[str, Any]:
    """A row of `queries.SUMS` → the fields of `Totals`. PostgreSQL's sums are decimals."""
    values = {name: int(getattr(row, name)) for name in queries.SUMS}
    return {
        "requests": values["requests"],
        "errors": values["errors"],
        "prompt_tokens": values["prompt"],
        "cached_tokens": values["cache_read"],
        "cache_write_tokens": values["cache_write"],
        "completion_tokens": values["completion"],
        "reasoning_tokens": values["reasoning"],
        "cost": usd(values["cost"]),
        "repeated_requests": values["repeated"],
        "saved": usd(values["saved"]),
        "cache_hit_rate": round(values["cache_read"] / values["prompt"], 6) if values["prompt"] else 0.0,
    }


# Keys


async def list_keys(sources: Sources, asked: Asked) -> shapes.AccountKeys:
    """All that are not revoked."""
    rows: list[KeyRecord] = []
    after: int | None = 0
    while after is not None:
        page = await manage(sources, ListKeys(after=after, owner=asked.caller.account_id))
        assert isinstance(page, KeyRecords)
        rows += page.rows
        after = page.after
    return shapes.AccountKeys([render_key(row) for row in rows if row.revoked_at is None])


async def create_key(sources: Sources, asked: Asked) -> shapes.AccountKey:
    """The only answer that has the key whole."""
    body: shapes.NewKey = asked.body
    owner = asked.caller.account_id
    window = SPANS[body.limit_reset] if body.spend_limit is not None or body.limit_reset is not None else None
    terms = KeyTerms(
        models=None if body.allowed_models is None else tuple(body.allowed_models),
        expires_at=None if body.expires_at is None else parse_iso(body.expires_at),
        minute_limit=body.minute_limit,
        daily_limit=body.daily_limit,
        spend_limit=maybe_nano(body.spend_limit),
        spend_window=window,
        balance=maybe_nano(body.balance),
    )
    created = await manage(sources, CreateKey("", label=body.label, terms=terms, owner=owner))
    assert isinstance(created, CreatedKey)
    return render_key(await find_key(sources, owner, created.id), created.key)


async def read_key(sources: Sources, asked: Asked) -> shapes.AccountKey:
    """One of the account's own."""
    return render_key(await find_key(sources, asked.caller.account_id, asked.id))


async def update_key(sources: Sources, asked: Asked) -> shapes.AccountKey:
    """Nothing but the label and what narrows the key."""
    body: shapes.KeyChanges = asked.body
    owner = asked.caller.account_id
    row = await find_key(sources, owner, asked.id)
    label = None if body.label is UNSET else body.label
    terms = changed_terms(body, row)
    if label is not None or terms != KeyTerms():
        await manage(sources, PatchKey(str(asked.id), label, terms, owner))
    return render_key(await find_key(sources, owner, asked.id))


async def delete_key(sources: Sources, asked: Asked) -> shapes.Message:
    """Revoked: workers have forgotten it before the answer leaves."""
    await find_key(sources, asked.caller.account_id, asked.id)
    await manage(sources, RevokeKey(str(asked.id), asked.caller.account_id))
    return shapes.Message("API key revoked")


async def find_key(sources: Sources, owner: int, key: int) -> KeyRecord:
    """A key of the owner's that is not revoked. Raises Refusal NOT_FOUND, in the same words whatever it is instead."""
    found = await manage(sources, ShowKey(str(key), owner))
    if not isinstance(found, KeyRecord) or found.revoked_at is not None:
        raise Refusal("NOT_FOUND", "There is no such key.")
    return found


def changed_terms(body: shapes.KeyChanges, row: KeyRecord) -> KeyTerms:
    """What to change; a spend limit without a `limit_reset` is for good unless the key has another window already."""
    spend_limit = body.spend_limit if body.spend_limit is UNSET else maybe_nano(body.spend_limit)
    spend_window: SpendWindow | UnsetType | None = UNSET
    if body.limit_reset is not UNSET:
        spend_window = SPANS[body.limit_reset]
    elif spend_limit is not UNSET and spend_limit is not None:
        spend_window = row.spend_window or "total"
    return KeyTerms(
        models=tuple(body.allowed_models) if isinstance(body.allowed_models, list) else body.allowed_models,
        expires_at=parse_iso(body.expires_at) if isinstance(body.expires_at, str) else body.expires_at,
        minute_limit=body.minute_limit,
        daily_limit=body.daily_limit,
        spend_limit=spend_limit,
        spend_window=None if spend_limit is None else spend_window,
        balance=body.balance if body.balance is UNSET else maybe_nano(body.balance),
    )


def maybe_nano(dollars: float | None) -> int | None:
    """USD → nano-dollars, where there are any."""
    return None if dollars is None else nano(dollars)


def render_key(row: KeyRecord, key: str = "") -> shapes.AccountKey:
    """A key as the pages show it."""
    return shapes.AccountKey(
        row.id,
        key or row.shown,
        row.label,
        row.kind,
        row.daily_limit,
        row.minute_limit,
        None if row.models is None else list(row.models),
        maybe_usd(row.balance),
        maybe_usd(row.spend_limit),
        RESETS.get(row.spend_window),
        maybe_iso(row.expires_at),
        iso(row.created_at),
    )


async def manage(sources: Sources, message: AnyMessage) -> AnyMessage:
    """Carry it out. Raises Refusal with what the accounts said, in the pages' names."""
    reply = await sources.manage(message)
    if not isinstance(reply, Failed):
        return reply
    field, colon, what = reply.message.partition(": ")
    if not colon or not field.isidentifier():
        raise Refusal(reply.code if reply.code in BY_CODE else "INTERNAL_ERROR", reply.message)
    field = PARAMETERS.get(field, field)
    raise Refusal(reply.code, f"{field}: {what}", param=field)

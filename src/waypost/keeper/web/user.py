"""The account's own view: `/v1/user/*`, `/v1/key` and `/v1/generation`."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from waypost.api import shapes
from waypost.config import Plan
from waypost.errors import Refusal
from waypost.keeper.web import queries
from waypost.keeper.web.account import manage
from waypost.keeper.web.asking import Asked
from waypost.keeper.web.receipts import parse_request_id, receipt
from waypost.keeper.web.sources import Sources, iso, maybe_iso, maybe_usd, usd
from waypost.messages import CreatedKey, CreateKey, Identity, KeyRecord, KeyRecords, ListKeys, RevokeKey, ShowKey
from waypost.policy.admission import zone_of
from waypost.policy.windows import window_of

RESETS: dict[str | None, Literal["daily", "monthly"]] = {"day": "daily", "month": "monthly"}
WINDOWS: tuple[Literal["day", "hour", "minute"], ...] = ("day", "hour", "minute")

# Requests


async def get_request_counts(sources: Sources, asked: Asked) -> shapes.RequestCounts:
    """Limits are the account's, whichever key asks."""
    plan = sources.plan_of(asked.caller)
    used = await count_windows(sources, asked.caller, plan)
    limits = [plan.requests.get(window, 0) for window in WINDOWS]
    left = [max(0, limit - count) for limit, count in zip(limits, used, strict=True)]
    return shapes.RequestCounts(
        used[0], limits[0], left[0], used[1], limits[1], left[1], used[2], limits[2], left[2], asked.caller.plan
    )


async def get_hourly_count(sources: Sources, asked: Asked) -> shapes.HourlyCount:
    """The hour of the plan's time zone."""
    plan = sources.plan_of(asked.caller)
    _, used, _ = await count_windows(sources, asked.caller, plan)
    limit = plan.requests.get("hour", 0)
    return shapes.HourlyCount(limit, used, max(0, limit - used), asked.caller.plan)


async def count_windows(sources: Sources, caller: Identity, plan: Plan) -> list[int]:
    """Requests used in this day, hour and minute: by the meter that admission goes by, where there is a limit."""
    now, zone = sources.clock(), zone_of(plan)
    windows = {name: window_of(name, now, zone) for name in WINDOWS}
    meters = {name: f"a{caller.account_id}:requests:{window.name}" for name, window in windows.items()}
    async with sources.database.reading() as connection:
        spent = await queries.read_spent(connection, list(meters.values()))
        counts = []
        for name, window in windows.items():
            if name in plan.requests:
                counts.append(spent[meters[name]])
            else:
                since = int(window.starts * 1000)
                counts.append(await queries.count_requests(connection, caller.account_id, since))
    return counts


async def kill_streams(sources: Sources, asked: Asked) -> shapes.KilledStreams:
    """On every worker of this host."""
    return shapes.KilledStreams(await sources.kill_streams(asked.caller.account_id))


# The key


async def get_key(sources: Sources, asked: Asked) -> shapes.KeyUseAnswer:
    """What the key may spend and has spent; a token's use is that of all the account's tokens."""
    caller, today = asked.caller, sources.today().date()
    since = ("", today, today - timedelta(days=today.weekday()), today.replace(day=1))
    async with sources.database.reading() as connection:
        costs = await queries.read_key_costs(connection, caller.account_id, caller.key_id, [str(day) for day in since])
        limits = spend_meters(sources, caller)
        spent = await queries.read_spent(connection, [meter for meter, _, _ in limits])
    remaining = [(limit - spent[meter], limit, window) for meter, limit, window in limits]
    used, daily, weekly, monthly = map(usd, costs)
    left, limit, window = min(remaining, default=(None, None, None), key=lambda row: row[0])
    return shapes.KeyUseAnswer(
        shapes.KeyUse(
            caller.label,
            maybe_usd(limit),
            RESETS.get(window),
            None if left is None else usd(max(0, left)),
            used,
            daily,
            weekly,
            monthly,
            is_free_tier=not caller.account_credit,
            plan_tier=caller.plan,
            expires_at=maybe_iso(caller.expires_at),
        )
    )


def spend_meters(sources: Sources, caller: Identity) -> list[tuple[str, int, str]]:
    """(meter, limit in nano-dollars, window) of what limits a key's spending."""
    meters: list[tuple[str, int, str]] = []
    if caller.spend_limit is not None:
        kind = caller.spend_window or "total"
        window = window_of(kind, sources.clock(), zone_of(sources.plan_of(caller)))
        meters.append((f"k{caller.key_id}:spend:{window.name}", caller.spend_limit, kind))
    if caller.key_credit is not None:
        meters.append((f"k{caller.key_id}:balance:total", caller.key_credit, "total"))
    return meters


# Receipts


async def get_generation(sources: Sources, asked: Asked) -> shapes.ReceiptAnswer:
    """A request of the caller's account. Another's is missing like one that never was."""
    request_id = parse_request_id(asked.query.id)
    async with sources.database.reading() as connection:
        row = await queries.read_request(connection, asked.caller.account_id, request_id) if request_id else None
        if row is None:
            raise Refusal("NOT_FOUND", "id: your account has no such request.", param="id")
        attempts = await queries.read_attempts(connection, request_id)
    return shapes.ReceiptAnswer(receipt(row, attempts))


# Keys, as routing.run's pages have them


async def list_user_keys(sources: Sources, asked: Asked) -> shapes.UserKeys:
    """Inference keys; those that manage are the account page's."""
    found = await manage(sources, ListKeys(owner=asked.caller.account_id))
    assert isinstance(found, KeyRecords)
    async with sources.database.reading() as connection:
        used = await queries.read_last_days(connection, asked.caller.account_id)
    return shapes.UserKeys(
        [
            shapes.UserKey(row.id, row.shown, row.label, asked.caller.plan, iso(row.created_at), used.get(row.id))
            for row in found.rows
            if row.revoked_at is None and row.kind == "inference"
        ]
    )


async def create_user_key(sources: Sources, asked: Asked) -> shapes.CreatedUserKey:
    """The key is in this answer and nowhere else."""
    owner = asked.caller.account_id
    created = await manage(sources, CreateKey("", label=asked.body.name, owner=owner))
    assert isinstance(created, CreatedKey)
    row = await manage(sources, ShowKey(str(created.id), owner))
    assert isinstance(row, KeyRecord)
    return shapes.CreatedUserKey(
        row.id, row.shown, row.label, asked.caller.plan, iso(row.created_at), None, created.key
    )


async def revoke_user_key(sources: Sources, asked: Asked) -> shapes.Message:
    """An inference key of the account; a second time is no error."""
    owner = asked.caller.account_id
    row = await manage(sources, ShowKey(str(asked.id), owner))
    if not isinstance(row, KeyRecord) or row.kind != "inference":
        raise Refusal("NOT_FOUND", "There is no such key.")
    await manage(sources, RevokeKey(str(asked.id), owner))
    return shapes.Message("API key revoked")

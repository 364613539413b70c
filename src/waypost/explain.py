"""`waypost explain MODEL`: the operator's view of a route, by the configuration, the price list and live breakers."""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from waypost.api.routing_shapes import Verdict
from waypost.config import Config
from waypost.dollars import render_decimal, render_dollars
from waypost.errors import Refusal
from waypost.formats.openai_chat import ChatRequest, decode_text, parse_request
from waypost.formats.usage import estimate_tokens
from waypost.http.pool import Names
from waypost.http.timers import Deadlines
from waypost.keeper.direct import administer, price_list
from waypost.link import LinkError, LinkLost
from waypost.listing import FindNative, FindPrices, ListNatives
from waypost.messages import (
    AccountRecords,
    AnyMessage,
    BreakerNews,
    Identity,
    KeyRecord,
    ListAccounts,
    ListBreakers,
    ReadSpent,
    ShowKey,
    Spent,
)
from waypost.policy.admission import OUTPUT_RESERVE, meters_of
from waypost.policy.breaker import BreakerState
from waypost.policy.chains import Candidate
from waypost.policy.health import Health
from waypost.policy.stickiness import Conversation
from waypost.worker.books import most_of
from waypost.worker.link import KeeperUnavailable
from waypost.worker.natives import Natives
from waypost.worker.preflight import choose, verdict, worst_cost
from waypost.worker.presets import Presets, expand
from waypost.worker.prices import Prices
from waypost.worker.rehearsal import Rehearsal, rehearse
from waypost.worker.resolve import Resolved, resolve
from waypost.worker.thinking import with_effort
from waypost.worker.upstreams import Snapshot

if TYPE_CHECKING:
    from waypost.policy.chains import Plan

Ask = Callable[[FindNative | ListNatives | FindPrices], Awaitable[AnyMessage]]


class Line:
    """The price list, asked as a worker asks over its link."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def call(self, message: AnyMessage, timeout: float = 10.0) -> AnyMessage:
        """The answer. Raises KeeperUnavailable."""
        assert isinstance(message, FindNative | ListNatives | FindPrices)
        try:
            return await self._ask(message)
        except (LinkLost, LinkError, TimeoutError) as error:
            raise KeeperUnavailable(str(error)) from None


class Store:
    """What is kept of presets, asked as a worker asks over its link."""

    def __init__(self, settings: Config, folder: pathlib.Path) -> None:
        self._settings = settings
        self._folder = folder

    async def call(self, message: AnyMessage, timeout: float = 10.0) -> AnyMessage:
        """The answer."""
        return await administer(self._folder, self._settings, message)


class Desk:
    """What `resolve` asks."""

    def __init__(self, line: Line) -> None:
        self.natives = Natives(line)
        self.prices = Prices(line)
        self.clock: Callable[[], float] = time.monotonic


class Explained(msgspec.Struct, frozen=True):
    """A route as it stands: the name that was found, and the plan of a request that asks for nothing special.

    `rehearsal`: what each upstream would make of that request, which has what a preset adds.
    """

    request: ChatRequest
    found: Resolved
    plan: Plan
    rehearsal: Rehearsal
    now: float
    limits: Verdict | None = None  # of the key, where one was named, for a short question

    @property
    def preset(self) -> str:
        """The preset that was named, in the words before the model's; empty where none was."""
        preset = self.request.preset
        if preset is None:
            return ""
        return f"the preset {decode_text(preset.shown)}, version {preset.version}, for "

    @property
    def cost(self) -> str:
        """What is reserved for a short question, in words behind others; empty where a price is not known."""
        tokens = estimate_tokens(self.request.body)
        cost = worst_cost(self.found.upstreams, tokens, OUTPUT_RESERVE)
        answer = f"{OUTPUT_RESERVE:,} tokens of answer"
        return f", up to ${render_dollars(cost)} for a short question and {answer}" if cost is not None else ""

    def weight(self, candidate: Candidate, of: str) -> str:
        """How often it is drawn: its link by the model's own strategy, and its key; empty where nothing is drawn."""
        draws = self.plan.strategy == "weighted" and of == self.found.route.chain.name
        link = f"{candidate.target.weight:g}" if draws else ""
        key = f"key {candidate.weight:g}" if len(candidate.target.keys) > 1 else ""
        return ", ".join(filter(None, (link, key)))


def prices(candidate: Candidate) -> tuple[str, str]:
    """US dollars for a million tokens in and out; empty where they are not known."""
    known = candidate.target.prices
    return (render_decimal(known[0]), render_decimal(known[1])) if known is not None else ("", "")


async def explain(settings: Config, folder: pathlib.Path, model: str, key: str | None) -> Explained:
    """As seen by `key` (an id, a shown beginning, or the key), or by somebody who may use every model.

    Raises Refusal as a request would.
    """
    identity = await identity_of(settings, folder, key) if key is not None else anyone(settings, model)
    request = parse_request(msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": "?"}]}))
    deadlines = Deadlines(asyncio.get_running_loop())
    names = Names(deadlines)
    try:
        health = Health()
        now = time.monotonic()
        news = await administer(folder, settings, ListBreakers())
        for row in news.rows if isinstance(news, BreakerNews) else ():
            breaker = health.breaker((row.provider, row.key, row.model))
            breaker.adopt(BreakerState(row.until, row.openings, row.is_open), now)
        async with price_list(folder) as ask:
            snapshot = Snapshot(settings, {}, deadlines, names, health)
            request = await expand_for(settings, folder, snapshot, identity, request)
            if request.preset is not None and key is None:
                identity = anyone(settings, request.model)
            found = await resolve(Desk(Line(ask)), snapshot, identity, request)
        conversation = Conversation(identity.account, request.fields)
        chosen = choose(found, request, b"", conversation, now)
        rehearsal = rehearse(
            chosen.candidates, with_effort(request, found.effort), found.asked.preferences.require_parameters
        )
        limits = await limits_of(settings, folder, identity, found, request) if key is not None else None
        return Explained(request, found, chosen, rehearsal, now, limits)
    finally:
        names.close()
        deadlines.close()


async def limits_of(
    settings: Config, folder: pathlib.Path, identity: Identity, found: Resolved, request: ChatRequest
) -> Verdict:
    """What the limits would say to it, by the books. Raises Refusal UNAVAILABLE."""
    now, plan = time.time(), settings.plans[identity.plan]
    meters = meters_of(identity, plan, now, free=found.free)
    spent = await administer(folder, settings, ReadSpent(tuple(meter.name for meter in meters)))
    if not isinstance(spent, Spent):
        raise Refusal("UNAVAILABLE", getattr(spent, "message", "the keeper cannot be asked"))
    tokens = estimate_tokens(request.body)
    cost = 0
    if any(meter.what == "money" for meter in meters):
        try:
            cost = most_of(plan, found.upstreams, tokens, OUTPUT_RESERVE)
        except Refusal as refusal:
            return Verdict(False, refusal.failure.code, refusal.message, [])
    left = [(meter, meter.limit - units) for meter, units in zip(meters, spent.units, strict=True)]
    return verdict(left, {"streams": 0, "tokens": tokens + OUTPUT_RESERVE, "money": cost}, now)


def amount(units: int, what: str) -> str:
    """Units of a meter, as a table shows them."""
    return f"${render_dollars(units)}" if what == "money" else f"{units:,}"


async def expand_for(
    settings: Config, folder: pathlib.Path, snapshot: Snapshot, identity: Identity, request: ChatRequest
) -> ChatRequest:
    """A request with what its preset adds. Raises Refusal as `expand` does."""
    presets = Presets(Store(settings, folder), lambda: True, time.monotonic)
    try:
        return await expand(presets, snapshot, identity, request)
    except Refusal as refusal:
        if refusal.failure.code == "PRESET_NOT_FOUND" and not identity.account:
            raise Refusal(
                "PRESET_NOT_FOUND",
                "no public preset has this id, and slugs are their owners' own: say whose with --as KEY",
            ) from None
        raise


def anyone(settings: Config, model: str) -> Identity:
    """Somebody on a plan that has the model; on the first plan where none has."""
    names = [name for name, plan in settings.plans.items() if plan.allows(model)] or list(settings.plans)
    return Identity(0, 0, "", names[0], "inference", "")


async def identity_of(settings: Config, folder: pathlib.Path, key: str) -> Identity:
    """Whose key it is. Raises Refusal NOT_FOUND, AUTHENTICATION_ERROR or UNAVAILABLE."""
    shown = await administer(folder, settings, ShowKey(key))
    if not isinstance(shown, KeyRecord):
        raise Refusal("NOT_FOUND", getattr(shown, "message", "there is no such key"))
    if shown.revoked_at is not None or (shown.expires_at is not None and shown.expires_at <= time.time()):
        raise Refusal("AUTHENTICATION_ERROR", f"the key {shown.shown} is revoked or expired")
    accounts = await administer(folder, settings, ListAccounts())
    rows = accounts.rows if isinstance(accounts, AccountRecords) else ()
    account = next((row for row in rows if row.name == shown.account), None)
    if account is None or account.disabled:
        raise Refusal("AUTHENTICATION_ERROR", f"the account {shown.account} is disabled, or cannot be asked for")
    return Identity(
        key_id=shown.id,
        account_id=account.id,
        account=account.name,
        plan=account.plan,
        kind=shown.kind,
        label=shown.label,
        models=shown.models,
        minute_limit=shown.minute_limit,
        daily_limit=shown.daily_limit,
        spend_limit=shown.spend_limit,
        spend_window=shown.spend_window,
        key_credit=shown.credit,
        account_credit=account.credit,
    )

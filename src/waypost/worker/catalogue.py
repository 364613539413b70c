"""What `GET /v1/models` says of each model: OpenAI's fields, and what is known of context, price and modalities."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from waypost import config
from waypost.listing import FindNative, ListNatives, NativeRecord, NativeRecords
from waypost.messages import AnyMessage, Failed
from waypost.worker.link import KeeperUnavailable, Link
from waypost.worker.natives import PATIENCE_SECONDS, Natives
from waypost.worker.upstreams import Snapshot, bare_ids, listed_providers, priced_providers

log = logging.getLogger("waypost.worker")

QUIET_SECONDS = 1.0
"""After the start, before the price list is asked for: loading it takes the keeper's time from the first requests."""

RETRY_SECONDS = 1.0

Card = dict[str, Any]


class Catalogue:
    """The models of the current configuration: at first what it says itself, soon what the price list adds.

    `cards`: what is listed, by name, ready to send.
    """

    def __init__(self, link: Link, natives: Natives) -> None:
        self._link = link
        self._natives = natives
        self._learning: asyncio.Task[None] | None = None
        self.cards: dict[str, msgspec.Raw] = {}

    def adopt(self, settings: config.Config) -> None:
        """Show another configuration."""
        self._settings = settings
        self._created = int(time.time())
        self.cards = cards(settings, Facts(), self._created)
        if self._learning is not None:
            self.close()
            self.start(after=0.0)

    def start(self, after: float = QUIET_SECONDS) -> None:
        """Ask the price list in the background, `after` seconds from now, until it has answered."""
        self._learning = asyncio.create_task(self._learn(after))

    def close(self) -> None:
        """Ask no longer."""
        if self._learning is not None:
            self._learning.cancel()

    async def find(self, snapshot: Snapshot, name: str) -> msgspec.Raw | None:
        """The card of a name that is not listed but may be called: an alias, or `provider/model`.

        None where the price list does not know it. Raises Refusal UNAVAILABLE when the keeper cannot say.
        """
        links = snapshot.links(name) or []
        providers = [provider for provider, _ in links]
        listed = tuple(name for name in providers if name in snapshot.listed) if links else snapshot.listed
        records = await self._natives.find(listed, links[0][1] if links else name)
        return render_card(native_card(name, records, self._created, providers)) if records else None

    async def _learn(self, after: float) -> None:
        await asyncio.sleep(after)
        while True:
            try:
                await self._link.wait_connected(PATIENCE_SECONDS)
                facts = await learn(self._settings, lambda message: self._link.call(message, PATIENCE_SECONDS))
            except KeeperUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
            except NoFacts as error:
                log.warning("models are listed without the price list: %s", error)
                return
            else:
                self.cards = cards(self._settings, facts, self._created)
                return


class Facts(msgspec.Struct, frozen=True):
    """What the price list knows of a configuration's models.

    `configured`: of a configured model without a price or context of its own, the record of the first link that is
    known. `natives`: of each native id, a record for each provider that serves it.
    """

    configured: dict[str, NativeRecord] = {}
    natives: dict[str, list[NativeRecord]] = {}


Ask = Callable[[FindNative | ListNatives], Awaitable[AnyMessage]]


class NoFacts(Exception):
    """The price list cannot be asked; the message says why."""


async def learn(settings: config.Config, ask: Ask) -> Facts:
    """Ask the keeper. Raises NoFacts, and what `ask` raises."""
    listed, priced = listed_providers(settings), priced_providers(settings)
    facts = Facts({}, {})
    after: int | None = 0 if listed else None  # without need the keeper does not load the list
    while after is not None:
        page = parse_page(await ask(ListNatives(listed, after)))
        after = page.after
        for record in page.rows:
            if is_native(record.model, settings):
                facts.natives.setdefault(record.model, []).append(record)
    for name, model in settings.models.items():
        if model.context is not None and model.price is not None:
            continue
        for provider, native in (link.split("/", 1) for link in model.chain):
            rows = parse_page(await ask(FindNative(native, (provider,)))).rows if provider in priced else ()
            if rows:
                facts.configured[name] = rows[0]
                break
    return facts


def parse_page(answer: AnyMessage) -> NativeRecords:
    """The keeper's answer. Raises NoFacts."""
    if isinstance(answer, NativeRecords):
        return answer
    raise NoFacts(answer.message if isinstance(answer, Failed) else f"the keeper answered {type(answer).__name__}")


def is_native(model: str, settings: config.Config) -> bool:
    """Is this id asked of the list, or does the configuration take it for something else?"""
    return model not in settings.models and model.partition("/")[0] not in settings.providers


def cards(settings: config.Config, facts: Facts, created: int) -> dict[str, msgspec.Raw]:
    """Every model by its name, ready to send. `created` (unix seconds) is when this configuration was read."""
    found = {name: card(name, model, facts.configured.get(name), created) for name, model in settings.models.items()}
    own = bare_ids(settings)  # these go to the links that some chain has, and to nobody else
    for name, records in facts.natives.items():
        found[name] = native_card(name, records, created, [link.split("/", 1)[0] for link in own.get(name, ())])
    return {name: render_card(card) for name, card in found.items()}


def render_card(card: Card) -> msgspec.Raw:
    """As it is sent: a tenth of the memory, and no work at each listing."""
    return msgspec.Raw(msgspec.json.encode(card))


def card(name: str, model: config.Model, record: NativeRecord | None, created: int) -> Card:
    """One configured model; a field that is not known is absent."""
    found = head(name, [link.split("/", 1)[0] for link in model.chain], created)
    context = model.context if model.context is not None or record is None else record.context
    if context is not None:
        found["context_length"] = context
    if model.modalities:
        found["architecture"] = {"input_modalities": list(model.modalities)}
    if prices := pricing(model.price or record):
        found["pricing"] = prices
    return found


def native_card(name: str, records: Sequence[NativeRecord], created: int, providers: Sequence[str] = ()) -> Card:
    """One native model: what is known of it at the first provider that serves it. `providers` if not the records'."""
    found = head(name, providers or [record.provider for record in records], created)
    first = next((record for record in records if record.provider == found["owned_by"]), records[0])
    if first.context is not None:
        found["context_length"] = first.context
    if prices := pricing(first):
        found["pricing"] = prices
    return found


def head(name: str, providers: Sequence[str], created: int) -> Card:
    """What every card has. `providers` in the order in which they are tried."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": providers[0],
        "providers": list(dict.fromkeys(providers)),
    }


def pricing(price: config.Price | NativeRecord | None) -> dict[str, str]:
    """Dollars per token as decimal strings, named as OpenRouter names them; what is not known is absent."""
    if price is None:
        return {}
    named = {"prompt": price.input, "completion": price.output, "input_cache_read": price.cache_read}
    return {name: per_token(value) for name, value in named.items() if value is not None}


def per_token(per_million: str) -> str:
    """Dollars per million tokens → dollars per token, exact and without an exponent."""
    return format((Decimal(per_million) / 1_000_000).normalize(), "f")

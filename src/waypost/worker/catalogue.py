"""What `GET /v1/models` says of each model: OpenAI's fields, and what is known of context, price and modalities."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from waypost import config
from waypost.listing import FindNative, ListNatives, NativeRecord, NativeRecords
from waypost.messages import AnyMessage, Failed
from waypost.worker.cards import Card, card, native_card, price_row, render_card, unlisted_card
from waypost.worker.link import KeeperUnavailable, Link
from waypost.worker.natives import PATIENCE_SECONDS, Natives
from waypost.worker.upstreams import Snapshot, bare_ids, listed_providers, priced_providers

log = logging.getLogger("waypost.worker")

QUIET_SECONDS = 1.0
"""After the start, before the price list is asked for: loading it takes the keeper's time from the first requests."""

RETRY_SECONDS = 1.0

LISTS = 16 << 20
"""Bytes of lists that are kept ready: one of everything that the price list has is about a megabyte."""

AT_ONCE = 16
"""Cards made in one go, which takes some milliseconds: requests must not wait for a thousand of them."""

Shown = tuple[str, tuple[str, ...] | None]
"""A plan, and the patterns that narrow a key on it."""


class Catalogue:
    """The models of the current configuration: at first what it says itself, soon what the price list adds.

    `cards`: what is listed, by name, ready to send, and `prices` a row of each. Lists of them are made once for
    everyone who may see the same.
    """

    def __init__(self, link: Link, natives: Natives) -> None:
        self._link = link
        self._natives = natives
        self._learning: asyncio.Task[None] | None = None
        self.cards: dict[str, msgspec.Raw] = {}
        self.prices: dict[str, msgspec.Raw] = {}
        self._lists: dict[tuple[str, Shown], bytes] = {}
        self._bytes = 0

    def adopt(self, settings: config.Config) -> None:
        """Show another configuration."""
        self._settings = settings
        self._created = int(time.time())
        made = dict(each_card(settings, Facts(), self._created))
        self._show({name: render_card(card) for name, card in made.items()}, price_rows(made))
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

        None where neither the price list nor any chain knows it. Raises Refusal UNAVAILABLE when the keeper cannot say.
        """
        links = snapshot.links(name) or []
        providers = [provider for provider, _ in links]
        listed = tuple(name for name in providers if name in snapshot.listed) if links else snapshot.listed
        records = await self._natives.find(listed, links[0][1] if links else name)
        if records:
            return render_card(native_card(name, records, self._settings, self._created, providers))
        if snapshot.is_named(name):
            return render_card(unlisted_card(name, links, self._settings, self._created))
        return None

    def listing(self, shown: Shown) -> bytes:
        """OpenAI's list of the models that a plan allows, and a key on it."""
        return self._list("models", shown, lambda: {"object": "list", "data": self._seen(self.cards, shown)})

    def pricing(self, shown: Shown) -> bytes:
        """What these models cost, a row for each."""
        return self._list("prices", shown, lambda: {"models": self._seen(self.prices, shown)})

    def learn_anew(self) -> None:
        """The price list has changed."""
        if self._learning is not None:
            self.close()
            self.start(after=0.0)

    def _show(self, cards: dict[str, msgspec.Raw], prices: dict[str, msgspec.Raw]) -> None:
        self.cards, self.prices = cards, prices
        self._forget_lists()

    def _forget_lists(self) -> None:
        self._lists.clear()
        self._bytes = 0

    def _list(self, what: str, shown: Shown, make: Callable[[], object]) -> bytes:
        made = self._lists.get((what, shown))
        if made is None:
            made = msgspec.json.encode(make())
            if self._bytes + len(made) > LISTS:
                self._forget_lists()
            self._lists[what, shown] = made
            self._bytes += len(made)
        return made

    def _seen(self, rendered: dict[str, msgspec.Raw], shown: Shown) -> list[msgspec.Raw]:
        return [each for name, each in rendered.items() if is_shown(self._settings, shown, name)]

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
                await self._render(facts)
                return

    async def _render(self, facts: Facts) -> None:
        cards: dict[str, msgspec.Raw] = {}
        prices: dict[str, msgspec.Raw] = {}
        made = each_card(self._settings, facts, self._created)
        while some := dict(itertools.islice(made, AT_ONCE)):
            cards |= {name: render_card(card) for name, card in some.items()}
            prices |= price_rows(some)
            await asyncio.sleep(0)
        self._show(cards, prices)


def is_shown(settings: config.Config, shown: Shown, name: str) -> bool:
    """Do a plan, and a key on it, allow this model?"""
    plan, patterns = settings.plans.get(shown[0]), shown[1]
    if plan is None or not plan.allows(name):
        return False
    return patterns is None or any(config.covers(pattern, name) for pattern in patterns)


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


def each_card(settings: config.Config, facts: Facts, created: int) -> Iterator[tuple[str, Card]]:
    """Every model by its name. `created` (unix seconds) is when this configuration was read."""
    for name, model in settings.models.items():
        yield name, card(name, model, facts.configured.get(name), settings, created)
    own = bare_ids(settings)  # these go to the links that some chain has, and to nobody else
    for name, records in facts.natives.items():
        providers = [link.split("/", 1)[0] for link in own.get(name, ())]
        yield name, native_card(name, records, settings, created, providers)


def price_rows(cards: dict[str, Card]) -> dict[str, msgspec.Raw]:
    """A row of `GET /v1/pricing` for each card, ready to send."""
    return {name: msgspec.Raw(msgspec.json.encode(price_row(card))) for name, card in cards.items()}

"""The price list: which providers serve a native model id, what is known of a provider's model, and all its rates.

The list is the genai-prices package: what it matches, it matches by its own rules. Importing it takes a quarter of a
second and some 27 MB, so it is loaded when it is first asked for, in a thread, and in the keeper alone.
"""

from __future__ import annotations

import asyncio
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from waypost import providers
from waypost.keeper import price_file
from waypost.listing import (
    FindNative,
    FindPrices,
    ListNatives,
    NativeRecord,
    NativeRecords,
    PriceRecord,
    PriceRecords,
    ReloadedPrices,
)
from waypost.messages import Failed
from waypost.policy.preferences import without_suffix

logger = logging.getLogger("waypost.keeper")

PAGE = 1000
"""Rows in one answer: some 200 kB of a frame's 4 MiB."""

NINE_PLACES = Decimal("1e-9")
"""What the configuration takes too; below it the list has nothing but the noise of floats."""

Question = FindNative | ListNatives | FindPrices
Listed = tuple[list[Any], str]
Answer = NativeRecords | PriceRecords | Failed


def load_list(data: pathlib.Path | None) -> Listed:
    """The providers of the list in use, and its label: the data folder's, else the one that is installed.

    Raises ImportError.
    """
    from genai_prices import data_snapshot

    try:
        stored = price_file.read(data) if data is not None else None
        if stored is not None:
            return price_file.parse(stored.providers), stored.label
    except price_file.PriceListError as error:
        logger.error("the price list that is installed is used: %s", error)
    return data_snapshot.get_snapshot().providers, f"genai-prices {price_file.installed()}"


class Prices:
    """Answers messages by the price list of `data`, or the installed one.

    `clock` gives seconds since 1970 UTC: some prices have an hour or a date.
    """

    def __init__(self, clock: Callable[[], float], data: pathlib.Path | None = None) -> None:
        self._clock = clock
        self._data = data
        self._list: PriceList | Failed | None = None
        self._turn = asyncio.Lock()

    @property
    def stamp(self) -> str:
        """Changes with the list of the data folder."""
        return price_file.stamp_of(self._data) if self._data is not None else ""

    async def reload(self) -> ReloadedPrices | Failed:
        """Look into the data folder again. `Failed` UNAVAILABLE if what is there cannot be used."""
        async with self._turn:
            return await asyncio.to_thread(self._reload)

    def _reload(self) -> ReloadedPrices | Failed:
        try:
            if self._data is not None:
                price_file.read(self._data)
            self._list = PriceList(self._data)
        except (ImportError, price_file.PriceListError) as error:
            return Failed("UNAVAILABLE", str(error))
        return ReloadedPrices(self._list.version)

    async def answer(self, message: Question) -> Answer:
        """One answer, made in a thread. `Failed` UNAVAILABLE if the list cannot be imported."""
        async with self._turn:
            return await asyncio.to_thread(self._answer, message)

    def _answer(self, message: Question) -> Answer:
        if self._list is None:
            try:
                self._list = PriceList(self._data)
            except ImportError as error:
                logger.error("the price list cannot be loaded, so native model ids are not known: %s", error)
                self._list = Failed("UNAVAILABLE", f"the price list (genai-prices) cannot be loaded: {error}")
        if isinstance(self._list, Failed):
            return self._list
        now = datetime.fromtimestamp(self._clock(), UTC)
        if isinstance(message, FindNative):
            return NativeRecords(self._list.find(message.model, message.providers, now))
        if isinstance(message, FindPrices):
            return PriceRecords(tuple(self._list.price(*target, now) for target in message.targets))
        rows = self._list.listing(message.providers, now)
        end = message.after + PAGE
        return NativeRecords(rows[message.after : end], end if end < len(rows) else None)


class PriceList:
    """The list itself, by our names of providers. Names that it does not know serve nothing."""

    def __init__(self, data: pathlib.Path | None = None) -> None:
        """Raises ImportError."""
        self._everyone, self.version = load_list(data)
        listed = {provider.id: provider for provider in self._everyone}
        self._listed = {row.name: listed[row.listed] for row in providers.BY_NAME.values() if row.listed in listed}
        self._catalogues: dict[str, Catalogue] = {}

    def find(self, model: str, names: Sequence[str], now: datetime) -> tuple[NativeRecord, ...]:
        """A record for each provider that serves `model`, in the order of `names`.

        The list's rules name ids in full, or take whatever begins like one. Where some provider has the full id, the
        others' mere likenesses don't count: or a model would be sought at everyone who makes something of that name.
        """
        catalogues = {name: listed for name in names if (listed := self._catalogue(name)) is not None}
        wanted = model.lower()
        found = {
            name: own for name, catalogue in catalogues.items() if (own := catalogue.named.get(wanted)) is not None
        }
        if not found and without_suffix(wanted) is None:  # or `claude-…:thinking` would be an id like any other
            likenesses = {name: catalogue.provider.find_model(wanted) for name, catalogue in catalogues.items()}
            found = {name: (model, likeness) for name, likeness in likenesses.items() if likeness is not None}
        return tuple(record(model, name, *own, now) for name, own in found.items())

    def listing(self, names: Sequence[str], now: datetime) -> tuple[NativeRecord, ...]:
        """What `find` says of every id that some provider lists, of chat models that are not deprecated."""
        rows: list[NativeRecord] = []
        seen: set[str] = set()
        for name in names:
            catalogue = self._catalogue(name)
            for model in catalogue.ids if catalogue is not None else ():
                if model.lower() not in seen:
                    seen.add(model.lower())
                    rows += [row for row in self.find(model, names, now) if not row.deprecated]
        return tuple(rows)

    def price(self, name: str, model: str, now: datetime) -> PriceRecord | None:
        """Every rate of the model that a provider calls `model`; None if the list does not have it."""
        catalogue = self._catalogue(name)
        if catalogue is None:
            return None
        wanted = model.lower()
        named = catalogue.named.get(wanted)
        # Who sells others' models, as Azure does, may name them as the price of his own.
        found = named[1] if named else catalogue.provider.find_model(wanted, all_providers=self._everyone)
        if found is None:
            return None
        prices = vars(found.get_prices(now))
        rates = {key: steps(price) for key, price in prices.items() if price is not None}
        until = next_change(found.prices, now)
        return PriceRecord(name, model, found.id, self.version, rates, until, found.context_window)

    def _catalogue(self, name: str) -> Catalogue | None:
        if name not in self._catalogues and name in self._listed:
            self._catalogues[name] = Catalogue(self._listed[name])
        return self._catalogues.get(name)


class Catalogue:
    """One provider's models. `provider` is the list's.

    `named`: every id that a rule has in full, in lower case → (the id to send, the model). `ids`: one id for each chat
    model that is not deprecated.
    """

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        self.named: dict[str, tuple[str, Any]] = {}
        self.ids: list[str] = []
        for model in provider.models:
            # An id that the model's own rule refuses is the list's and not the provider's; one with a dash at its end
            # is the beginning of many.
            own = [text for text in (model.id, *full_ids(model.match)) if provider.find_model(text) is model]
            own = [text for text in own if not text.endswith("-")]
            for text in own:
                if ("/" in text) == ("/" in own[0]):  # or it is what a router calls this provider's model
                    self.named.setdefault(text.lower(), (text, model))
            if own and not model.deprecated and is_chat(model):
                self.ids.append(own[0])


def full_ids(match: Any) -> Iterator[str]:
    """The ids that a rule has in full."""
    for clause in getattr(match, "or_", [match]):
        if hasattr(clause, "equals"):
            yield clause.equals


def is_chat(model: Any) -> bool:
    """Does it take text and give text? The list does not say; what costs, but not by both, is something else."""
    prices = vars(model.prices[0].prices if isinstance(model.prices, list) else model.prices)
    costs = {name for name, price in prices.items() if price is not None}
    return not costs or {"input_mtok", "output_mtok"} <= costs


def record(asked: str, name: str, native: str, model: Any, now: datetime) -> NativeRecord:
    """What the list says of one provider's model."""
    prices = model.get_prices(now)
    return NativeRecord(
        asked,
        name,
        native,
        model.context_window,
        dollars(prices.input_mtok),
        dollars(prices.output_mtok),
        dollars(prices.cache_read_mtok),
        bool(model.deprecated),
        model.name or "",
        model.description or "",
        {key: rate for key, price in vars(prices).items() if (rate := dollars(price)) is not None},
    )


def dollars(price: Any) -> str | None:
    """USD per million tokens as a decimal string; of a price in tiers, the first tier's."""
    amount: Decimal | None = getattr(price, "base", price)
    return None if amount is None else format(amount.quantize(NINE_PLACES).normalize(), "f")


def steps(price: Any) -> tuple[tuple[int, str], ...]:
    """A rate of the list → ((above, rate), …)."""
    above = [(tier.start, tier.price) for tier in getattr(price, "tiers", ())]
    return tuple((start, str(dollars(rate))) for start, rate in [(0, price), *above])


def next_change(prices: Any, now: datetime) -> int:
    """When another of a model's prices may begin, in seconds since 1970 UTC; 0 for never."""
    constraints = [price.constraint for price in prices] if isinstance(prices, list) else []
    midnight = datetime.combine(now.date(), time(), UTC)
    moments: list[datetime] = []
    for constraint in constraints:
        if hasattr(constraint, "start_date"):
            moments.append(datetime.combine(constraint.start_date, time(), UTC))
        elif constraint is not None:  # a time of day, perhaps of another zone's day
            days = [midnight.date() + timedelta(days=days) for days in (-1, 0, 1, 2)]
            clocks = (constraint.start_time, constraint.end_time)
            moments += [datetime.combine(day, clock, clock.tzinfo or UTC) for day in days for clock in clocks]
    return int(min((moment.timestamp() for moment in moments if moment > now), default=0))

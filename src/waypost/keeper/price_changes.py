"""What differs between two price lists, in words for people: prices as they are at one moment, and contexts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from waypost import providers
from waypost.keeper.prices import steps

FACTS = {"context_window": "context", "deprecated": "deprecated"}


class Change(msgspec.Struct, frozen=True):
    """One model's. `fields`: the name of each price or fact, what it was and what it will be, "" for nothing.

    Prices are in USD per million tokens, `… above N` from N tokens of input on; those of requests and searches are for
    a thousand.
    """

    provider: str
    model: str
    change: Literal["changed", "new", "gone"]
    fields: dict[str, tuple[str, str]]


def compare(old: Sequence[Any], new: Sequence[Any], now: datetime) -> list[Change]:
    """Every model that differs, by our names of providers, the list's own where we have none."""
    before, after = models_of(old), models_of(new)
    found = []
    for key in sorted(before.keys() | after.keys()):
        was, will = (facts_of(models[key], now) if key in models else {} for models in (before, after))
        fields = {
            name: (was.get(name, ""), will.get(name, ""))
            for name in dict.fromkeys((*was, *will))
            if was.get(name) != will.get(name)
        }
        change: Literal["changed", "new", "gone"] = (
            "new" if key not in before else "gone" if key not in after else "changed"
        )
        if fields or change != "changed":
            found.append(Change(*key, change, fields))
    return found


def of_providers(changes: Sequence[Change], names: Collection[str]) -> list[Change]:
    """Those of these providers."""
    return [change for change in changes if change.provider in names]


def models_of(providers_: Sequence[Any]) -> dict[tuple[str, str], Any]:
    """The models of a list by provider and id."""
    ours = {row.listed: row.name for row in reversed(providers.BY_NAME.values()) if row.listed is not None}
    return {
        (ours.get(provider.id, provider.id), model.id): model for provider in providers_ for model in provider.models
    }


def facts_of(model: Any, now: datetime) -> dict[str, str]:
    """What the list says of a model, each in a few words."""
    prices = vars(model.get_prices(now))
    found = {name_of(key): words(price) for key, price in prices.items() if price is not None}
    for attribute, name in FACTS.items():
        value = getattr(model, attribute)
        if value:
            found[name] = f"{value:,}" if not isinstance(value, bool) else "yes"
    return found


def name_of(key: str) -> str:
    """`cache_read_mtok` → `cache read`."""
    return key.removesuffix("_mtok").removesuffix("_kcount").replace("_", " ")


def words(price: Any) -> str:
    """A rate with its tiers."""
    (_, first), *more = steps(price)
    return "; ".join([first, *(f"{rate} above {above:,}" for above, rate in more)])

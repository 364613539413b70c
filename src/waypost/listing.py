"""The link's messages about the price list: who serves a model, and what it costs."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Whatever crosses the link."""


class FindNative(Message, frozen=True):
    """Which of `providers` serve the model that they call `model`? Answered by `NativeRecords`, none if none does."""

    model: str
    providers: tuple[str, ...]


class ListNatives(Message, frozen=True):
    """The models of `providers` that the price list knows, from row `after` on. Answered by `NativeRecords`."""

    providers: tuple[str, ...]
    after: int = 0


class NativeRecord(Message, frozen=True):
    """What the price list says of one provider's model.

    `model` is the name that was asked for or is listed, `id` what to call it at the provider. `context` is in tokens,
    prices are in USD per million tokens; what the list does not know is None. `name` is what people call it. `rates`:
    everything that the list prices, by its own keys, as in `PriceRecord`; of a price in tiers, the first tier's.
    """

    model: str
    provider: str
    id: str
    context: int | None
    input: str | None
    output: str | None
    cache_read: str | None
    deprecated: bool
    name: str = ""
    description: str = ""
    rates: dict[str, str] = {}


class NativeRecords(Message, frozen=True):
    """A page of records, those of one model together; `after` is what to ask the next page with, None on the last."""

    rows: tuple[NativeRecord, ...]
    after: int | None = None


class FindPrices(Message, frozen=True):
    """What does the price list know of these (provider, upstream model)? Answered by `PriceRecords`."""

    targets: tuple[tuple[str, str], ...]


class PriceRecord(Message, frozen=True):
    """Every rate that the price list has for one provider's model.

    `model` is the name that was asked for, `id` the list's own; `list` names the list and its version. `rates`: the
    list's key → ((above, rate), …), rising: `rate` is for requests with more than `above` tokens of input, 0 for the
    first, in USD as a decimal string, per million tokens in keys on `_mtok`, per thousand in those on `_kcount`.
    `until`: seconds since 1970 UTC when another price may begin, 0 if the list says nothing of one. `context` is in
    tokens, None if the list does not know it.
    """

    provider: str
    model: str
    id: str
    list: str
    rates: dict[str, tuple[tuple[int, str], ...]]
    until: int = 0
    context: int | None = None


class PriceRecords(Message, frozen=True):
    """A record for each target, in their order; None for what the list does not know."""

    rows: tuple[PriceRecord | None, ...]


class ReloadPrices(Message, frozen=True):
    """The data folder has another list: use it from now on. Answered by `ReloadedPrices`, or by `Failed`."""


class ReloadedPrices(Message, frozen=True):
    """`list` names the list that is used now, and its version; every worker has been told before it is said."""

    list: str


class ForgetPrices(Message, frozen=True):
    """Push: drop everything that the price list has said; there is another, and `prices` is what `Welcome` says now."""

    prices: str


ListMessage = (
    FindNative
    | ListNatives
    | NativeRecord
    | NativeRecords
    | FindPrices
    | PriceRecord
    | PriceRecords
    | ReloadPrices
    | ReloadedPrices
    | ForgetPrices
)
"""Everything about the list that crosses the link."""

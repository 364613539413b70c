"""What tokens cost: prices made of rates, in whole numbers.

A rate is in nano-dollars per million tokens, so tokens times rate is in femto-dollars (10⁻¹⁵ USD), exactly. They are
added up exactly, and a request's sum is rounded once, half up, to nano-dollars (10⁻⁹ USD). There are no floats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from waypost import config
from waypost.dollars import parse_decimal, render_decimal
from waypost.listing import PriceRecord
from waypost.records import Usage

MILLION: Final = 1_000_000
"""Femto-dollars in a nano-dollar, and tokens that a rate is for."""


class Rates(msgspec.Struct, frozen=True):
    """Nano-dollars per million tokens, a rate for each counter of `records.Usage`."""

    fresh: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    audio_input: int
    image_input: int
    output: int
    reasoning: int
    audio_output: int
    image_output: int

    @property
    def dearest_input(self) -> int:
        """What a token of the prompt costs at most."""
        inputs = (self.fresh, self.cache_read, self.cache_write_5m, self.cache_write_1h)
        return max(*inputs, self.audio_input, self.image_input)

    @property
    def dearest_output(self) -> int:
        """What a token of the completion costs at most."""
        return max(self.output, self.reasoning, self.audio_output, self.image_output)


class Tier(msgspec.Struct, frozen=True):
    """Rates of a request, all its tokens, whose prompt has more than `above` tokens. A price's first tier is for 0."""

    above: int
    rates: Rates


class Price(msgspec.Struct, frozen=True):
    """What a model costs. `tiers` rise; `request` is in nano-dollars for each request.

    `terms` is all of it as JSON, for receipts: rates in USD per million tokens as decimal strings. `version` is the
    beginning of its hash, so what is worded alike is the same version. `dearest_input` and `dearest_output` are the
    highest rates that any token may have.
    """

    tiers: tuple[Tier, ...]
    request: int
    version: str
    terms: bytes
    dearest_input: int
    dearest_output: int


class Charge(msgspec.Struct, frozen=True):
    """A line of a receipt: `count` × `rate` = `amount`.

    `counter` is a counter of `records.Usage` (rate: USD per million tokens), "request" (rate: USD), or "rounding",
    which has neither count nor rate. Amounts are in USD. All numbers but `count` are decimal strings, exact.
    """

    counter: str
    count: int
    rate: str
    amount: str


# What a request costs


def cost(price: Price, usage: Usage) -> int:
    """Nano-dollars for a request that used this."""
    return (exact_cost(price, usage) + MILLION // 2) // MILLION


def exact_cost(price: Price, usage: Usage) -> int:
    """The same in femto-dollars, before it is rounded."""
    rates = price.tiers[0].rates if len(price.tiers) == 1 else tier_of(price, usage.prompt).rates
    plain = usage.fresh * rates.fresh + usage.output * rates.output + price.request * MILLION
    if not (
        usage.cache_read
        or usage.cache_write_5m
        or usage.cache_write_1h
        or usage.audio_input
        or usage.image_input
        or usage.reasoning
        or usage.audio_output
        or usage.image_output
    ):
        return plain  # most answers have nothing else; a look costs less than eight products
    return (
        plain
        + usage.cache_read * rates.cache_read
        + usage.cache_write_5m * rates.cache_write_5m
        + usage.cache_write_1h * rates.cache_write_1h
        + usage.audio_input * rates.audio_input
        + usage.image_input * rates.image_input
        + usage.reasoning * rates.reasoning
        + usage.audio_output * rates.audio_output
        + usage.image_output * rates.image_output
    )


def saved(price: Price, usage: Usage) -> int:
    """Nano-dollars that an upstream's prompt cache has saved: with all of its prompt fresh the request had cost more.

    Below zero where writing into the cache cost more than reading from it saved.
    """
    if not (usage.cache_read or usage.cache_write_5m or usage.cache_write_1h):
        return 0
    cached = usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
    fresh = msgspec.structs.replace(usage, fresh=usage.fresh + cached, cache_read=0, cache_write_5m=0, cache_write_1h=0)
    return cost(price, fresh) - cost(price, usage)


def tier_of(price: Price, prompt_tokens: int) -> Tier:
    """The tier that a prompt of so many tokens puts the whole request into."""
    applies = price.tiers[0]
    for tier in price.tiers:
        if prompt_tokens > tier.above:
            applies = tier
    return applies


def reserve(price: Price, prompt_tokens: int, completion_tokens: int) -> int:
    """Nano-dollars that no request of at most so many tokens costs more than, whatever kind of tokens they are."""
    if len(price.tiers) > 1:
        return -(-max(most(tier, prompt_tokens, completion_tokens) for tier in price.tiers) // MILLION) + price.request
    return (
        -(-(prompt_tokens * price.dearest_input + completion_tokens * price.dearest_output) // MILLION) + price.request
    )


def most(tier: Tier, prompt_tokens: int, completion_tokens: int) -> int:
    """The same in a tier, in femto-dollars; 0 where the prompt is too short for it."""
    if tier.above and tier.above >= prompt_tokens:
        return 0
    return prompt_tokens * tier.rates.dearest_input + completion_tokens * tier.rates.dearest_output


def prompt_cost(price: Price, tokens: int) -> int:
    """Nano-dollars for a prompt of text alone, rounded down."""
    tier = price.tiers[0] if len(price.tiers) == 1 else tier_of(price, tokens)
    return tier.rates.fresh * tokens // MILLION + price.request


def formula(price: Price, usage: Usage) -> tuple[Charge, ...]:
    """How a cost comes about: every counter that is not zero. The amounts add up to `cost(price, usage)`, exactly."""
    rates = tier_of(price, usage.prompt).rates
    charges = [
        Charge(counter, count, render_decimal(rate), render_decimal(count * rate, 15))
        for counter in Usage.__struct_fields__
        if (count := getattr(usage, counter))
        for rate in (getattr(rates, counter),)
    ]
    if price.request:
        charges.append(Charge("request", 1, render_decimal(price.request), render_decimal(price.request)))
    rounding = cost(price, usage) * MILLION - exact_cost(price, usage)
    if rounding:
        charges.append(Charge("rounding", 0, "", render_decimal(rounding, 15)))
    return tuple(charges)


# Where prices come from


def configured_price(price: config.Price) -> Price:
    """The price that the operator wrote down.

    Left out, a cache write costs what it does with Anthropic, 1.25 times the input for five minutes and twice the input
    for an hour; everything else costs what other input or output does.
    """
    given = {
        name: parse_decimal(text)
        for name in config.Price.__struct_fields__
        if (text := getattr(price, name)) is not None
    }
    fresh, output = given["input"], given["output"]
    rates = Rates(
        fresh=fresh,
        cache_read=given.get("cache_read", fresh),
        cache_write_5m=given.get("cache_write_5m", (fresh * 5 + 2) // 4),
        cache_write_1h=given.get("cache_write_1h", fresh * 2),
        audio_input=given.get("audio_input", fresh),
        image_input=given.get("image_input", fresh),
        output=output,
        reasoning=given.get("reasoning", output),
        audio_output=given.get("audio_output", output),
        image_output=given.get("image_output", output),
    )
    return compiled((Tier(0, rates),), given.get("request", 0), Terms("config"))


LISTED: Final[Mapping[str, tuple[str, ...]]] = {
    "fresh": ("input_mtok",),
    "cache_read": ("cache_read_mtok", "input_mtok"),
    "cache_write_5m": ("cache_write_5m_mtok", "cache_write_mtok", "input_mtok"),
    "cache_write_1h": ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
    "audio_input": ("input_audio_mtok", "input_mtok"),
    "image_input": ("input_image_mtok", "input_mtok"),
    "output": ("output_mtok",),
    "reasoning": ("output_reasoning_mtok", "output_mtok"),
    "audio_output": ("output_audio_mtok", "output_mtok"),
    "image_output": ("output_image_mtok", "output_mtok"),
}
"""What the list calls a counter's rate; where it has none, the next is what the list itself goes by."""

LISTED_REQUEST: Final = "requests_kcount"
"""USD for a thousand requests."""


def listed_price(record: PriceRecord) -> Price | None:
    """The price that the list has, or None: it does not know what both a prompt and a completion cost.

    What the list prices and no counter counts (searches, pages, hours) stands in the terms as `uncounted`.
    """
    listed = record.rates
    if "input_mtok" not in listed or "output_mtok" not in listed:
        return None
    known = {name for names in LISTED.values() for name in names}
    starts = sorted({0, *(start for name in known & listed.keys() for start, _ in listed[name])})
    tiers = tuple(
        Tier(
            start,
            Rates(
                **{
                    counter: next(rate_above(start, listed[name]) for name in names if name in listed)
                    for counter, names in LISTED.items()
                }
            ),
        )
        for start in starts
    )
    thousand = rate_above(0, listed[LISTED_REQUEST]) if LISTED_REQUEST in listed else 0
    uncounted = tuple(sorted(listed.keys() - known - {LISTED_REQUEST}))
    terms = Terms("genai-prices", record.list, record.provider, record.id, uncounted)
    return compiled(tiers, (thousand + 500) // 1000, terms)


def rate_above(start: int, rates: tuple[tuple[int, str], ...]) -> int:
    """The rate for more than `start` tokens of input, in billionths of what `rates` are in."""
    return next(parse_decimal(rate) for above, rate in reversed(rates) if above <= start)


# Terms


class TermsTier(msgspec.Struct, frozen=True):
    """A tier as terms word it."""

    above: int
    rates: dict[str, str]


class Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a receipt says about a price. Money is in USD, rates per million tokens, by the names of usage's counters.

    `list`, `provider` and `model` name the row of a price list; `uncounted` are its rates that nothing here counts.
    """

    source: Literal["config", "genai-prices"]
    list: str = ""
    provider: str = ""
    model: str = ""
    uncounted: tuple[str, ...] = ()
    request: str = "0"
    tiers: tuple[TermsTier, ...] = ()


def compiled(tiers: tuple[Tier, ...], request: int, origin: Terms) -> Price:
    """A price of these rates, worded and hashed. `origin` says where they are from."""
    worded = tuple(
        TermsTier(tier.above, {name: render_decimal(getattr(tier.rates, name)) for name in Rates.__struct_fields__})
        for tier in tiers
    )
    terms = msgspec.json.encode(msgspec.structs.replace(origin, request=render_decimal(request), tiers=worded))
    return hashed(tiers, request, terms)


def hashed(tiers: tuple[Tier, ...], request: int, terms: bytes) -> Price:
    """The price of these terms, under its version."""
    dearest = max(tier.rates.dearest_input for tier in tiers), max(tier.rates.dearest_output for tier in tiers)
    return Price(tiers, request, hashlib.sha256(terms).hexdigest()[:12], terms, *dearest)


def parse_terms(terms: bytes) -> Price:
    """The price that these terms word, for an old receipt. Raises ValueError."""
    worded = msgspec.json.decode(terms, type=Terms)
    tiers = tuple(
        Tier(tier.above, msgspec.convert({name: parse_decimal(rate) for name, rate in tier.rates.items()}, Rates))
        for tier in worded.tiers
    )
    if not tiers or tiers[0].above != 0:
        raise ValueError("terms without a first tier")
    return hashed(tiers, parse_decimal(worded.request), terms)

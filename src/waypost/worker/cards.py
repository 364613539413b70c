"""Model cards: OpenAI's fields, with OpenRouter's, Routeway's and routing.run's beside them.

Facts are the configuration's, the price list's, and what is known of the upstreams' models (`facts.py`). A field that
nobody knows is absent, or null where clients expect it to be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from waypost import config
from waypost.api.endpoints import ENDPOINTS
from waypost.known_models import tokenizer_of
from waypost.listing import NativeRecord
from waypost.worker.facts import NOTHING, Facts, facts_of
from waypost.worker.upstreams import Links, split_link

Card = dict[str, Any]
Rates = dict[str, Decimal]
"""USD by names of `config.Price`, per million tokens; `request` and `web_search` for one."""

CHAT = ("/v1/chat/completions", "/v1/messages", "/v1/responses")
SERVED = {endpoint.path for endpoint in ENDPOINTS}
CHAT_ENDPOINTS = [path for path in CHAT if path in SERVED]
EMBEDDINGS_ENDPOINTS = ["/v1/embeddings"]

# The list's names of rates; of several the first that it has.
LISTED: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("input", ("input_mtok",), 1),
    ("output", ("output_mtok",), 1),
    ("cache_read", ("cache_read_mtok",), 1),
    ("cache_write_5m", ("cache_write_5m_mtok", "cache_write_mtok"), 1),
    ("cache_write_1h", ("cache_write_1h_mtok",), 1),
    ("reasoning", ("output_reasoning_mtok",), 1),
    ("audio_input", ("input_audio_mtok",), 1),
    ("audio_output", ("output_audio_mtok",), 1),
    ("image_input", ("input_image_mtok",), 1),
    ("image_output", ("output_image_mtok",), 1),
    ("request", ("requests_kcount",), 1000),
    ("web_search", ("web_searches_kcount",), 1000),
)
# OpenRouter's names of prices for a token.
BY_TOKEN = {
    "prompt": "input", "completion": "output", "internal_reasoning": "reasoning", "input_cache_read": "cache_read",
    "input_cache_write": "cache_write_5m", "audio": "audio_input", "audio_output": "audio_output",
    "image_token": "image_input", "image_output": "image_output",
}  # fmt: skip
MODALITIES = ("text", "image", "file", "audio", "video")


def card(name: str, model: config.Model, record: NativeRecord | None, settings: config.Config, created: int) -> Card:
    """One configured model."""
    links = [split_link(link) for link in model.chain]
    listed = record.context if record is not None else None
    context = model.context or settings.providers[links[0][0]].context or listed
    said = model.prices.get(model.chain[0]) or model.price
    rates = configured_rates(said) if said is not None else listed_rates(record)
    title = model.name or (record.name if record is not None else "")
    about = model.description or (record.description if record is not None else "")
    return render(name, links, model, settings, created, (context, rates, title, about))


def native_card(
    name: str, records: Sequence[NativeRecord], settings: config.Config, created: int, providers: Sequence[str] = ()
) -> Card:
    """One native model: what the list says of it at the first provider that serves it. `providers` if others do."""
    served = list(providers) or [record.provider for record in records]
    first = next((record for record in records if record.provider == served[0]), records[0])
    ids = {record.provider: record.id for record in records}
    links = [(provider, ids.get(provider, first.id)) for provider in served]
    context = settings.providers[first.provider].context or first.context
    about = (context, listed_rates(first), first.name, first.description)
    return render(name, links, None, settings, created, about)


def unlisted_card(name: str, links: Links, settings: config.Config, created: int) -> Card:
    """A name that stands for links of the configuration's: what it says of their provider, and no more is known."""
    return render(name, links, None, settings, created, (settings.providers[links[0][0]].context, {}, "", ""))


def render(
    name: str,
    links: Links,
    model: config.Model | None,
    settings: config.Config,
    created: int,
    known: tuple[int | None, Rates, str, str],
) -> Card:
    """A card. `known`: context in tokens, rates, title and description, as far as anybody says."""
    context, rates, title, about = known
    facts = [facts_of(provider, settings.providers[provider], id, model) for provider, id in links]
    together = joined(facts)
    first, id = (facts[0], links[0][1]) if facts else (NOTHING, name)
    embeds = "embed" in id.lower()
    made: Card = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": links[0][0],
        "canonical_slug": name if model is not None else id,
        "name": title or name,
        "description": about or None,
        "context_length": context,
        "architecture": architecture(together, id, embeds),
        "pricing": pricing(rates) if rates else None,
        "top_provider": {
            "context_length": context,
            "max_completion_tokens": first.max_output,
            "is_moderated": False,  # of what is asked and answered nothing is judged here
        },
        "per_request_limits": None,
        "supported_parameters": None if together.parameters is None else sorted(together.parameters),
        "default_parameters": None,
        "reasoning": reasoning(together) if together.reasons else None,
        "capabilities": capabilities(together),
        "endpoints": EMBEDDINGS_ENDPOINTS if embeds else CHAT_ENDPOINTS,
        "tier": next((plan for plan, allowed in settings.plans.items() if allowed.allows(name)), None),
        "allowed": True,
        "providers": list(dict.fromkeys(provider for provider, _ in links)),
    }
    return {field: value for field, value in made.items() if value is not None or field in EXPECTED}


EXPECTED = frozenset({"description", "context_length", "per_request_limits", "default_parameters", "tier"})
"""Fields that clients expect: null where nobody knows."""


def render_card(card: Card) -> msgspec.Raw:
    """As it is sent: a tenth of the memory, and no work at each listing."""
    return msgspec.Raw(msgspec.json.encode(card))


# What models can do


def joined(facts: Iterable[Facts]) -> Facts:
    """What a chain can do: what one of its links can, since a request goes to those that can serve it."""
    known = list(facts)

    def any_of(name: str) -> bool | None:
        values = [getattr(each, name) for each in known]
        return True if True in values else False if values and None not in values else None

    def first_of(name: str) -> Any:
        return next((value for each in known if (value := getattr(each, name)) is not None), None)

    def all_of(name: str) -> frozenset[str] | None:
        values = [value for each in known if (value := getattr(each, name)) is not None]
        return frozenset[str]().union(*values) if values else None

    return Facts(
        inputs=all_of("inputs"),
        tools=any_of("tools"),
        schema=any_of("schema"),
        reasons=any_of("reasons"),
        efforts=first_of("efforts"),
        default_effort=first_of("default_effort"),
        by_default=first_of("by_default"),
        must_reason=first_of("must_reason"),
        parameters=all_of("parameters"),
    )


def architecture(facts: Facts, id: str, embeds: bool) -> dict[str, Any]:
    """What goes in and comes out. Chat completions are text, whatever else a model could say elsewhere."""
    inputs = None if facts.inputs is None else [name for name in MODALITIES if name in facts.inputs]
    outputs = ["embeddings"] if embeds else ["text"]
    made: dict[str, Any] = {"output_modalities": outputs, "tokenizer": tokenizer_of(id), "instruct_type": None}
    if inputs is not None:
        made = {"modality": f"{'+'.join(inputs)}->{outputs[0]}", "input_modalities": inputs} | made
    return made


def reasoning(facts: Facts) -> dict[str, Any]:
    """OpenRouter's account of a model that reasons."""
    made = {
        "supported_efforts": None if facts.efforts is None else list(facts.efforts),
        "default_effort": facts.default_effort,
        "default_enabled": facts.by_default,
        "mandatory": facts.must_reason,
    }
    return {name: value for name, value in made.items() if value is not None}


def capabilities(facts: Facts) -> dict[str, bool] | None:
    """Routeway's account; what is not known is absent."""
    vision = None if facts.inputs is None else "image" in facts.inputs
    made = {"vision": vision, "function_call": facts.tools, "reasoning": facts.reasons}
    return {name: value for name, value in made.items() if value is not None} or None


# Prices


def configured_rates(price: config.Price) -> Rates:
    """What the operator wrote down."""
    return {
        name: Decimal(text) for name in config.Price.__struct_fields__ if (text := getattr(price, name)) is not None
    }


def listed_rates(record: NativeRecord | None) -> Rates:
    """What the list has; nothing where it does not know what input and output cost."""
    if record is None or record.input is None or record.output is None:
        return {}
    rates: Rates = {"input": Decimal(record.input), "output": Decimal(record.output)}
    if record.cache_read is not None:
        rates["cache_read"] = Decimal(record.cache_read)
    for name, keys, units in LISTED:
        text = next((record.rates[key] for key in keys if key in record.rates), None)
        if text is not None:
            rates[name] = Decimal(text) / units
    return rates


def pricing(rates: Rates) -> dict[str, Any]:
    """OpenRouter's prices, USD as exact decimal strings, and Routeway's `input`, `output` and `caching`.

    A request and a picture cost nothing beside their tokens where nobody says otherwise.
    """
    made: dict[str, Any] = {name: per_token(rates[rate]) for name, rate in BY_TOKEN.items() if rate in rates}
    made["request"], made["image"] = plain(rates.get("request", Decimal(0))), "0"
    if "web_search" in rates:
        made["web_search"] = plain(rates["web_search"])
    made |= {name: priced(rates[name]) for name in ("input", "output")}
    caching: dict[str, Any] = {}
    if "cache_read" in rates:
        caching["read"] = priced(rates["cache_read"])
    written = {"5m": "cache_write_5m", "1h": "cache_write_1h"}
    if writes := {span: priced(rates[name]) for span, name in written.items() if name in rates}:
        caching["write"] = writes
    return made | ({"caching": caching} if caching else {})


def priced(rate: Decimal) -> dict[str, Any]:
    """A rate as Routeway's clients read it."""
    return {"unit": "token", "price_per_million_t": number(rate), "price_per_token_usd": per_token(rate)}


def per_token(rate: Decimal) -> str:
    """Dollars per million tokens → dollars per token, exact and without an exponent."""
    return plain(rate / 1_000_000)


def plain(amount: Decimal) -> str:
    """A decimal without an exponent and without zeros at its end."""
    return format(amount.normalize(), "f")


def number(amount: Decimal) -> msgspec.Raw:
    """The same as a JSON number, digit for digit."""
    return msgspec.Raw(plain(amount).encode())


def price_row(card: Card) -> dict[str, Any]:
    """A row of `GET /v1/pricing`; null where nobody knows the price."""
    prices: dict[str, Any] = card.get("pricing") or {}

    def million(*path: str) -> msgspec.Raw | None:
        found: Any = prices
        for name in path:
            found = found.get(name, {})
        return number(Decimal(found["price_per_token_usd"]) * 1_000_000) if found else None

    row = {
        "model": card["id"],
        "display_name": card["name"],
        "input_per_million": million("input"),
        "output_per_million": million("output"),
    }
    more = {
        "cache_read_per_million": million("caching", "read"),
        "cache_write_per_million": million("caching", "write", "5m"),
        "cache_write_1h_per_million": million("caching", "write", "1h"),
        "request": number(Decimal(prices["request"])) if prices.get("request", "0") != "0" else None,
    }
    return row | {name: value for name, value in more.items() if value is not None}

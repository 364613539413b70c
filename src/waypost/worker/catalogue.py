"""What `GET /v1/models` says of each model: OpenAI's fields, and what is known of context, price and modalities."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from waypost import config

Card = dict[str, Any]


def cards(settings: config.Config, created: int) -> dict[str, Card]:
    """Every configured model by its name. `created` (unix seconds) is when this configuration was read."""
    return {name: card(name, model, created) for name, model in settings.models.items()}


def card(name: str, model: config.Model, created: int) -> Card:
    """One model object; a field that is not known is absent."""
    found: Card = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": model.chain[0].split("/", 1)[0],
        "providers": list(dict.fromkeys(link.split("/", 1)[0] for link in model.chain)),
    }
    if model.context is not None:
        found["context_length"] = model.context
    if model.modalities:
        found["architecture"] = {"input_modalities": list(model.modalities)}
    if model.price is not None:
        found["pricing"] = pricing(model.price)
    return found


def pricing(price: config.Price) -> dict[str, str]:
    """Dollars per token as decimal strings, named as OpenRouter names them."""
    named = {"prompt": price.input, "completion": price.output, "input_cache_read": price.cache_read}
    return {name: per_token(value) for name, value in named.items() if value is not None}


def per_token(per_million: str) -> str:
    """Dollars per million tokens → dollars per token, exact and without an exponent."""
    return format((Decimal(per_million) / 1_000_000).normalize(), "f")

"""What is known of an upstream's model, before anything is asked of it: by its id, by tables, by the configuration."""

from __future__ import annotations

import re

from waypost import capabilities, config, provider_settings
from waypost.formats.accents import ACCENTS, Accent
from waypost.worker.dialect import format_of


def can_be_asked_to_reason(provider: str, settings: config.Provider, id: str, own: config.Model | None) -> bool | None:
    """Would a wish for reasoning reach this model of a provider's? None: nobody knows, so it may be tried.

    `own`: the configured model in whose chain it stands.
    """
    for said in (own.capabilities if own is not None else None, settings.capabilities):
        if said is not None and said.reasoning is not None:
            return said.reasoning != "none"
    kind = provider_settings.kind_of(provider, settings)
    format = format_of(kind, id)
    if format is not None:
        return format.known_model(id).reasoning != "none"
    known = capabilities.known(provider, id)
    if known is not None and known.reasoning is not None:
        return known.reasoning != "none"
    accent = ACCENTS.get("azure" if kind == "azure" else provider)
    return None if accent is None or has_switch(accent, id) else False


def has_switch(accent: Accent, id: str) -> bool:
    """Has this provider a way to ask such a model for reasoning?"""
    return any(re.search(switch.models, id) for switch in accent.switches)

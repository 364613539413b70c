"""What is known of an upstream's model before anything is asked of it: by its id, by tables, by the configuration.

Model cards show it; routing only asks whether a wish for reasoning would reach a model. What nobody knows is None: a
format takes an id that it cannot read for a new model, which is a good guess to send requests by and no fact.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from waypost import capabilities, config, known_models, provider_settings
from waypost.capabilities import Capabilities, Effort
from waypost.formats import anthropic_models, bedrock_models, cohere, gemini_models, vertex
from waypost.formats.accents import ACCENTS, Accent
from waypost.formats.format import Model
from waypost.provider_settings import Kind
from waypost.worker.dialect import format_of


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream model's. None: not known. `inputs` are modalities by OpenRouter's names.

    `parameters`: request fields that are obeyed, by OpenRouter's names; `efforts` those that reasoning may have.
    """

    inputs: frozenset[str] | None = None
    tools: bool | None = None
    schema: bool | None = None
    reasons: bool | None = None
    efforts: tuple[Effort, ...] | None = None
    default_effort: Effort | None = None
    by_default: bool | None = None
    must_reason: bool | None = None
    max_output: int | None = None
    parameters: frozenset[str] | None = None


NOTHING = Facts()
FILE = {"pdf": "file"}
"""Modalities that OpenRouter calls otherwise."""


def facts_of(provider: str, settings: config.Provider, id: str, own: config.Model | None) -> Facts:
    """What is known of a provider's model. `own`: the configured model in whose chain it stands."""
    kind = provider_settings.kind_of(provider, settings)
    format = format_of(kind, id)
    if format is None:
        facts = facts_by_row(provider, id)
    elif is_read(kind, id):
        facts = facts_by_id(format.known_model(id))
    else:
        facts = NOTHING
    for said in (settings.capabilities, own.capabilities if own is not None else None):
        if said is not None:
            facts = with_said(facts, said)
    if own is not None and own.modalities:
        facts = msgspec.structs.replace(facts, inputs=frozenset(own.modalities))
    return msgspec.structs.replace(facts, parameters=parameters_of(kind, provider, settings, facts, id))


def facts_by_row(provider: str, id: str) -> Facts:
    """Behind OpenAI's format: by the table of known models."""
    known = known_models.known_model(provider, id)
    if known is None:
        return NOTHING
    by_default = known.must_reason or (None if known.default_effort is None else known.default_effort != "none")
    return Facts(
        inputs=None if known.inputs is None else shown(known.inputs),
        tools=known.tools,
        schema=known.schema,
        reasons=known.reasons,
        efforts=known.efforts,
        default_effort=known.default_effort,
        by_default=by_default,
        must_reason=known.must_reason,
        max_output=known.max_output,
    )


def facts_by_id(model: Model) -> Facts:
    """Of a format that reads its models' ids."""
    reasons = model.reasoning != "none"
    return Facts(
        inputs=shown(model.inputs),
        tools=model.tools,
        schema=model.schema,
        reasons=reasons,
        efforts=model.efforts if reasons else None,
        by_default=model.reasons_by_default if reasons else None,
        must_reason=model.must_reason if reasons else None,
        max_output=model.max_output,
    )


def is_read(kind: Kind, id: str) -> bool:
    """Does the format know this very model, or has it only a guess?"""
    if kind == "vertex":
        kind = "anthropic" if vertex.CLAUDE.search(id) else "gemini"
    if kind == "anthropic":
        return anthropic_models.parse_version(id)[0] != ""
    if kind == "gemini":
        return gemini_models.VERSION.search(id) is not None or "gemma" in id
    if kind == "bedrock":
        if "anthropic." in id:
            return is_read("anthropic", id) or bedrock_models.EARLY.search(id) is not None
        return any(pattern.search(id) for pattern, _ in bedrock_models.COMPILED if pattern.pattern)
    return any(pattern.search(id) for pattern, _ in cohere.COMPILED if pattern.pattern)


def with_said(facts: Facts, said: Capabilities) -> Facts:
    """What the configuration says of a model goes before what is known of it."""
    changes: dict[str, Any] = {
        "inputs": None if said.inputs is None else shown(said.inputs),
        "tools": said.tools,
        "schema": said.schema,
        "reasons": None if said.reasoning is None else said.reasoning != "none",
        "efforts": said.efforts,
        "by_default": said.reasons_by_default,
        "must_reason": said.must_reason,
        "max_output": said.max_output,
    }
    return msgspec.structs.replace(facts, **{name: value for name, value in changes.items() if value is not None})


def shown(inputs: frozenset[Any] | tuple[Any, ...]) -> frozenset[str]:
    """Modalities by OpenRouter's names."""
    return frozenset(FILE.get(modality, modality) for modality in inputs)


# Parameters

LIMITS = frozenset({"max_tokens", "max_completion_tokens", "stop"})
SAMPLING = frozenset({"temperature", "top_p"})
PENALTIES = frozenset({"seed", "frequency_penalty", "presence_penalty"})
LOGPROBS = frozenset({"logprobs", "top_logprobs"})
PARAMETERS: dict[Kind, frozenset[str]] = {
    "openai": LIMITS | SAMPLING | PENALTIES | LOGPROBS | {"logit_bias"},
    "azure": LIMITS | SAMPLING | PENALTIES | LOGPROBS | {"logit_bias"},
    "anthropic": LIMITS | SAMPLING | {"top_k"},
    "gemini": LIMITS | SAMPLING | PENALTIES | LOGPROBS | {"top_k"},
    "vertex": LIMITS | SAMPLING | PENALTIES | LOGPROBS | {"top_k"},
    "bedrock": LIMITS | SAMPLING,
    "cohere": LIMITS | SAMPLING | PENALTIES | {"top_k", "logprobs"},
}
"""What each way of speaking has a word for, whatever the model."""


def parameters_of(kind: Kind, provider: str, settings: config.Provider, facts: Facts, id: str) -> frozenset[str] | None:
    """The parameters of a provider and a model of its. What depends on the model is in only where that is known."""
    if settings.parameters is not None:
        return frozenset(settings.parameters)
    accent = ACCENTS.get("azure" if kind == "azure" else provider)
    if kind == "openai" and accent is None:
        return None
    found = set(PARAMETERS[kind])
    if kind == "vertex" and vertex.CLAUDE.search(id):
        found = set(PARAMETERS["anthropic"])
    if accent is not None and format_of(kind, id) is None:
        found -= accent.drops.union(*(one.drops for one in accent.special if re.search(one.models, id)))
    if not samples(kind, provider, id):
        found -= SAMPLING | {"top_k"}
    if facts.tools:
        found |= {"tools", "tool_choice"}
    if facts.schema:
        found |= {"response_format", "structured_outputs"}
    if facts.reasons:
        found |= {"reasoning", "reasoning_effort"}
    return frozenset(found)


def samples(kind: Kind, provider: str, id: str) -> bool:
    """Does the model obey temperature and top_p, or one of them?"""
    format = format_of(kind, id)
    if format is not None:
        return format.known_model(id).sampling != "none"
    known = known_models.known_model(provider, id)
    return known is None or known.samples is not False


# Routing


def can_be_asked_to_reason(provider: str, settings: config.Provider, id: str, own: config.Model | None) -> bool | None:
    """Would a wish for reasoning reach this model of a provider's? None: nobody knows, so it may be tried."""
    for said in (own.capabilities if own is not None else None, settings.capabilities):
        if said is not None and said.reasoning is not None:
            return said.reasoning != "none"
    kind = provider_settings.kind_of(provider, settings)
    format = format_of(kind, id)
    if format is not None:  # by the guess, too: it is what the request is rendered by
        return format.known_model(id).reasoning != "none"
    limited = capabilities.known(provider, id)
    if limited is not None and limited.reasoning is not None:
        return limited.reasoning != "none"
    known = known_models.known_model(provider, id)
    if known is not None and known.reasons is False:
        return False
    accent = ACCENTS.get("azure" if kind == "azure" else provider)
    return None if accent is None or has_switch(accent, id) else False


def has_switch(accent: Accent, id: str) -> bool:
    """Has this provider a way to ask such a model for reasoning?"""
    return any(re.search(switch.models, id) for switch in accent.switches)

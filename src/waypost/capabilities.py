"""What models can do, where their ids alone don't say it: the configuration's word, and a table of what is known.

A request goes only to targets that can serve it. For Anthropic's, Google's, Bedrock's and Cohere's models the formats
know by id (`known_model`); behind OpenAI's format anything may stand, so there only the rows below limit a model.

Source of the rows, looked up in 2026-11: the model tables of two clients, llumiverse's (@llumiverse/common 0.22.2: what
gpt-3.5 takes in) and llm-openai-plugin's (issue 12: o3-mini takes no pictures); of Perplexity's Bifrost's page on it
(docs.getbifrost.ai/providers/supported-providers/perplexity): no tools at all.
Only what a model can't do stands there: what is not known is left to the upstream to refuse, or to `capabilities` in
the configuration. Models of Azure's are deployments, whose names tell nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

AS_OF = "2026-11"

Modality = Literal["text", "image", "pdf", "audio", "video"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Positive = Annotated[int, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Capabilities(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`capabilities = { … }` of a provider or a model: what is said replaces what is known. Names as in `Model`."""

    inputs: tuple[Modality, ...] | None = None
    urls: tuple[Modality, ...] | None = None  # of these, what the upstream fetches itself
    tools: bool | None = None
    forced_tools: bool | None = None
    strict_tools: bool | None = None
    schema: bool | None = None
    schema_with_tools: bool | None = None
    json_object: bool | None = None
    sampling: Literal["all", "one", "none"] | None = None
    reasoning: Literal["none", "effort", "budget", "adaptive", "level", "toggle"] | None = None
    efforts: tuple[Effort, ...] | None = None
    reasons_by_default: bool | None = None
    must_reason: bool | None = None
    budgets: dict[Effort, Count] | None = None
    default_output: Positive | None = None
    max_output: Positive | None = None
    prefill: bool | None = None
    inline_system: bool | None = None


def said(capabilities: Capabilities | None) -> dict[str, Any]:
    """The fields that have been said, as a `Model` has them; budgets only complete what is known."""
    if capabilities is None:
        return {}
    fields = {name: getattr(capabilities, name) for name in Capabilities.__struct_fields__}
    for name in ("inputs", "urls"):
        if fields[name] is not None:
            fields[name] = frozenset(fields[name])
    return {name: value for name, value in fields.items() if value is not None}


TEXT: dict[str, Any] = {"inputs": ("text",)}

# Provider, a pattern of its model ids, and what they can't do. The first that fits.
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("openai", r"^gpt-3\.5", TEXT),
    ("openai", r"^o3-mini", TEXT),
    ("perplexity", r"", {"tools": False}),
)
COMPILED = tuple((provider, re.compile(pattern), Capabilities(**row)) for provider, pattern, row in ROWS)


def known(provider: str, model: str) -> Capabilities | None:
    """What is known of a model behind OpenAI's format; None where nothing limits it."""
    for name, pattern, capabilities in COMPILED:
        if name == provider and pattern.search(model):
            return capabilities
    return None

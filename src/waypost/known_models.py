"""What is known of models behind OpenAI's format, for model cards. Nothing here decides where a request goes.

What limits a model in routing stands in `capabilities.py`; models of other formats are known by their formats. A row
holds for the ids that its pattern matches as a whole; what a row does not say is not known.

Source of the rows: models.dev (github.com/anomalyco/models.dev, `providers/` and `models/`), read in 2026-11. Where its
files differ with each other, the fact is left out.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from waypost.capabilities import Effort, Modality


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """One row's facts; None: not known. Names as in `Capabilities`, but for the last two.

    `default_effort`: the effort of a request that asks for none. `samples`: temperature and top_p are obeyed.
    """

    inputs: tuple[Modality, ...] | None = None
    tools: bool | None = None
    schema: bool | None = None
    reasons: bool | None = None
    efforts: tuple[Effort, ...] | None = None
    must_reason: bool | None = None
    max_output: int | None = None
    default_effort: Effort | None = None
    samples: bool | None = None


SEES: dict[str, Any] = {"inputs": ("text", "image")}
READS: dict[str, Any] = {"inputs": ("text", "image", "pdf")}
WORDS: dict[str, Any] = {"inputs": ("text",)}
CALLS: dict[str, Any] = {"tools": True, "schema": True}
PLAIN: dict[str, Any] = {"reasons": False, "samples": True}
THINKS: dict[str, Any] = {"reasons": True, "samples": False}
O_SERIES: dict[str, Any] = {
    **CALLS, **THINKS, "efforts": ("low", "medium", "high"), "default_effort": "medium", "must_reason": True,
    "max_output": 100_000,
}  # fmt: skip
GPT_5: dict[str, Any] = {**CALLS, **THINKS, "max_output": 128_000}
DATED = r"(-20\d\d-\d\d-\d\d)?"

# Provider, a pattern of its model ids, what is known. The first that fits.
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("openai", r"gpt-3\.5-turbo(-\d{4})?", {**WORDS, **PLAIN, "max_output": 4096}),
    ("openai", rf"gpt-4-turbo{DATED}", {**SEES, **PLAIN, "tools": True, "schema": False, "max_output": 4096}),
    ("openai", r"gpt-4o-2024-05-13", {**SEES, **PLAIN, "tools": True}),
    ("openai", rf"gpt-4o(-mini)?{DATED}", {**READS, **CALLS, **PLAIN, "max_output": 16_384}),
    ("openai", rf"gpt-4\.1(-mini|-nano)?{DATED}", {**READS, **CALLS, **PLAIN, "max_output": 32_768}),
    ("openai", rf"o(1|3){DATED}", {**READS, **O_SERIES}),
    ("openai", rf"o3-mini{DATED}", {**WORDS, **O_SERIES}),
    ("openai", rf"o4-mini{DATED}", {**SEES, **O_SERIES}),
    ("openai", rf"gpt-5(-mini|-nano)?{DATED}", {
        **SEES, **GPT_5, "efforts": ("minimal", "low", "medium", "high"), "default_effort": "medium",
        "must_reason": True,
    }),
    ("openai", rf"gpt-5\.1{DATED}", {
        **SEES, **GPT_5, "efforts": ("none", "low", "medium", "high"), "default_effort": "none", "must_reason": False,
    }),
    ("openai", rf"gpt-5\.2{DATED}", {**SEES, **GPT_5}),
    ("openai", rf"gpt-5\.4{DATED}", {**READS, **GPT_5}),
    ("deepseek", r"deepseek-chat", {**WORDS, "tools": True, "samples": True}),
    ("deepseek", r"deepseek-reasoner", {**WORDS, "tools": True, "reasons": True, "must_reason": True}),
    ("xai", r"grok-4(-0709)?", {"tools": True, "reasons": True, "must_reason": True}),
    ("mistral", r"mistral-large-(2512|latest)", {**SEES, **CALLS, **PLAIN}),
    ("groq", r"openai/gpt-oss-(20|120)b", {
        **WORDS, **CALLS, "reasons": True, "efforts": ("low", "medium", "high"), "max_output": 65_536, "samples": True,
    }),
)  # fmt: skip
COMPILED = tuple((provider, re.compile(pattern), KnownModel(**row)) for provider, pattern, row in ROWS)


def known_model(provider: str, id: str) -> KnownModel | None:
    """What is known of a provider's model; None: nothing."""
    for name, pattern, known in COMPILED:
        if name == provider and pattern.fullmatch(id):
            return known
    return None


# OpenRouter's names of tokenizers, by the family that an id names. What was distilled from one into another has both
# families' names in it, so it has none here.
TOKENIZERS: tuple[tuple[str, str], ...] = (
    (r"distill", ""),
    (r"claude", "Claude"),
    (r"gemini", "Gemini"),
    (r"(^|/)(gpt|chatgpt|o\d|codex)", "GPT"),
    (r"(^|/)grok", "Grok"),
    (r"deepseek", "DeepSeek"),
    (r"(mistral|mixtral|ministral|magistral|codestral|devstral|pixtral|voxtral)", "Mistral"),
    (r"llama-?4", "Llama4"),
    (r"llama-?3", "Llama3"),
    (r"qwen-?3", "Qwen3"),
    (r"(^|/)qwen", "Qwen"),
    (r"(^|/)(cohere\.)?command", "Cohere"),
    (r"(^|\.)nova-", "Nova"),
)
COMPILED_TOKENIZERS = tuple((re.compile(pattern, re.IGNORECASE), name) for pattern, name in TOKENIZERS)


def tokenizer_of(id: str) -> str | None:
    """OpenRouter's name of a model's tokenizer, where its id tells the family."""
    return next((name for pattern, name in COMPILED_TOKENIZERS if pattern.search(id)), None) or None

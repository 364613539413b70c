"""What is known of Claude models by their ids: Anthropic's, Vertex's and Bedrock's spellings.

Sources, as of 2026-11: contract.md 3 (thinking by version, no sampling from 4.7 on); recorded exchanges (the efforts of
4.6, by an error, and `xhigh` from 4.7 on; strict tools and structured outputs of Sonnet 4.5; messages of role system to
Opus 4.8 and Fable 5); models.dev's files, models/anthropic (what goes in, and how long answers are). That 4.1 is the
first with strict tools, and 4.6 the first without a prefill, is unconfirmed: `capabilities` in the configuration goes
before all of this.
"""

from __future__ import annotations

import re

from waypost.chat import Effort
from waypost.formats.format import Model, ReasoningStyle

NEW = re.compile(r"claude-([a-z]+)-(\d{1,2})(?:-(\d{1,2}))?(?![\d.])")  # claude-sonnet-4-5-20250929
OLD = re.compile(r"claude-(\d)(?:-(\d))?-([a-z]+)")  # claude-3-5-sonnet-20241022
LATEST = (99, 0)  # an id that no rule reads is taken for a new model

Version = tuple[int, int]

# Tokens that an answer may have: from this version on.
MAX_OUTPUT: tuple[tuple[Version, int], ...] = (
    ((4, 6), 128_000), ((4, 5), 64_000), ((4, 0), 32_000), ((3, 7), 64_000), ((3, 5), 8192), ((0, 0), 4096),
)  # fmt: skip
SONNET_OUTPUT = 64_000  # of Sonnet 4, where Opus 4 and 4.1 have half; of Sonnet 4.6, where Opus 4.6 has twice that


def parse_version(id: str) -> tuple[str, Version]:
    """An id → its family and version: ("sonnet", (4, 5))."""
    found = NEW.search(id)
    if found is not None:
        return found[1], (int(found[2]), int(found[3] or 0))
    found = OLD.search(id)
    if found is not None:
        return found[3], (int(found[1]), int(found[2] or 0))
    return "", LATEST


def known_model(id: str) -> Model:
    """A Claude model, by its id."""
    family, version = parse_version(id)
    max_output = next(tokens for since, tokens in MAX_OUTPUT if version >= since)
    if family == "sonnet" and version in ((4, 0), (4, 6)):
        max_output = SONNET_OUTPUT
    style: ReasoningStyle = "none" if version < (3, 7) else "budget" if version < (4, 6) else "adaptive"
    efforts: tuple[Effort, ...] = ("low", "medium", "high", "max")
    if version >= (4, 7):
        efforts = ("low", "medium", "high", "xhigh", "max")
    return Model(
        id=id,
        inputs=frozenset({"text", "image", "pdf"}) if version >= (3, 5) else frozenset({"text", "image"}),
        urls=frozenset({"image", "pdf"}),
        strict_tools=version >= (4, 1),
        schema=version >= (4, 1),
        json_object=False,
        sampling="all" if version < (4, 1) else "one" if version < (4, 7) else "none",
        reasoning=style,
        efforts=efforts,
        reasons_by_default=family == "sonnet" and version >= (5, 0),
        max_output=max_output,
        default_output=min(8192, max_output),
        prefill=version < (4, 6),
        inline_system=family in ("opus", "fable") and version >= (4, 8),
    )

"""What is known of Gemini models by their ids, at the Gemini API and at Vertex AI.

Sources, as of 2026-11: contract.md 3 (budgets of 2.5, levels of 3, tools beside schemas); recorded exchanges, of 2.0 to
3.6; models.dev's files, models/google (what goes in, how long answers are). The levels of Pro 3, and what models that
make pictures cannot do, are unconfirmed. An id that no rule reads is taken for a new model.
"""

from __future__ import annotations

import re

from waypost.chat import Effort
from waypost.formats.format import BUDGETS, Modality, Model

VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?(?![\d.])")  # gemini-2.5-pro-preview-03-25
LATEST = (99, 0)
EVERYTHING: frozenset[Modality] = frozenset({"text", "image", "pdf", "audio", "video"})

# Thinking, in tokens: what "none" stands for is the least that the model can, and "max" the most.
FLASH_BUDGETS: dict[Effort, int] = {**BUDGETS, "xhigh": 24_576, "max": 24_576}
PRO_BUDGETS: dict[Effort, int] = {**BUDGETS, "none": 128}


def parse_version(id: str) -> tuple[int, int]:
    """gemini-2.5-flash → (2, 5)."""
    found = VERSION.search(id)
    return (int(found[1]), int(found[2] or 0)) if found is not None else LATEST


def known_model(id: str) -> Model:
    """A model, by its id. The Gemini API fetches no URLs of media but YouTube's and those of its own files."""
    version = parse_version(id)
    if "gemma" in id:
        return gemma(id)
    if "-image" in id:
        return image_model(id, version)
    if version < (2, 5):
        return plain_model(id, version)
    if version < (3, 0):
        return budget_model(id)
    is_first_pro = "-pro" in id and version == (3, 0)
    efforts: tuple[Effort, ...] = ("minimal", "low", "medium", "high")
    if "-pro" in id:
        efforts = ("low", "high") if is_first_pro else ("low", "medium", "high")
    return Model(
        id=id,
        inputs=EVERYTHING,
        urls=frozenset(),
        reasoning="level",
        efforts=efforts,
        reasons_by_default=True,
        must_reason=True,
        max_output=65_536,
    )


def plain_model(id: str, version: tuple[int, int]) -> Model:
    """Gemini up to 2.0: no thinking, and either functions or JSON."""
    return Model(
        id=id,
        inputs=EVERYTHING if version >= (1, 5) else frozenset({"text", "image"}),
        urls=frozenset(),
        strict_tools=False,
        schema_with_tools=False,
        max_output=8192,
    )


def budget_model(id: str) -> Model:
    """Gemini 2.5: a budget of thoughts, which Pro can't do without; either functions or JSON."""
    is_pro = "-pro" in id
    return Model(
        id=id,
        inputs=EVERYTHING,
        urls=frozenset(),
        schema_with_tools=False,
        reasoning="budget",
        efforts=("minimal", "low", "medium", "high", "xhigh"),
        budgets=PRO_BUDGETS if is_pro else FLASH_BUDGETS,
        reasons_by_default="-lite" not in id,
        must_reason=is_pro,
        max_output=65_536,
    )


def image_model(id: str, version: tuple[int, int]) -> Model:
    """Models that make pictures call no functions; from the third generation on they think."""
    is_new = version >= (3, 0)
    return Model(
        id=id,
        inputs=frozenset({"text", "image"}),
        urls=frozenset(),
        tools=False,
        forced_tools=False,
        strict_tools=False,
        schema=is_new,
        schema_with_tools=False,
        json_object=is_new,
        reasoning="level" if is_new else "none",
        efforts=("high",) if "-pro" in id else ("minimal", "high"),
        reasons_by_default=is_new,
        must_reason=is_new,
        max_output=32_768,
    )


def gemma(id: str) -> Model:
    """Open models that the Gemini API serves: words and pictures only, and no tools (of Gemma 4's it is not known)."""
    return Model(
        id=id,
        inputs=frozenset({"text", "image"}),
        urls=frozenset(),
        tools=False,
        forced_tools=False,
        strict_tools=False,
        schema=False,
        schema_with_tools=False,
        json_object=False,
        max_output=8192,
    )


def is_third_generation(model: Model) -> bool:
    """Levels of thinking came with Gemini 3; so did signatures that it insists on, media inside of a function's
    response, and functions beside Google's own tools."""
    return model.reasoning == "level"

"""What is known of Bedrock's models by their ids, inference profiles and ARNs included.

Sources, as of 2026-11: recorded exchanges of Claude, Nova, gpt-oss, Qwen, Llama 4, Pixtral and others, errors among
them (a document in the result of a tool of Nova's, videos and S3 addresses to Claude); the service model that botocore
has; contract.md 3. Where a cachePoint may stand, and what a row says of a family of which there are one or two
exchanges or none, is unconfirmed, and errs on the side of less.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from waypost.formats import anthropic_models
from waypost.formats.format import Model

Family = Literal["claude", "nova", "nova-2", "gpt-oss", "qwen", "other"]
CachePlace = Literal["tools", "system", "messages"]
ResultMedium = Literal["image", "document", "video"]


class BedrockModel(Model, frozen=True, kw_only=True):
    """A model as Converse serves it. The configuration may replace any field, as for one behind an opaque ARN."""

    family: Family = "other"  # how thinking and top_k are spelt in additionalModelRequestFields
    caches: frozenset[CachePlace] = frozenset()  # where a cachePoint may stand
    caches_long: bool = False  # a cachePoint may live for an hour
    names_tools: bool = True  # toolChoice takes a tool's name; else it is the only tool, and any is required
    result_media: frozenset[ResultMedium] = frozenset({"image", "document"})  # what a tool's result may hold
    mixes_results: bool = True  # words may follow results in one turn


NOTHING: frozenset[Any] = frozenset()
SEEING: dict[str, Any] = {"inputs": frozenset({"text", "image", "pdf"})}
READING: dict[str, Any] = {"inputs": frozenset({"text", "pdf"})}
OPEN: dict[str, Any] = {"forced_tools": False, "strict_tools": False, "result_media": NOTHING}
NOVA: dict[str, Any] = {
    "strict_tools": False, "schema": False, "family": "nova", "caches": frozenset({"system", "messages"}),
    "result_media": frozenset({"image"}),
}  # fmt: skip
VIDEO: dict[str, Any] = {"inputs": frozenset({"text", "image", "pdf", "video"})}

# The first that fits. What a row does not say is as in `known_model`.
ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"amazon\.nova-2", {**NOVA, **VIDEO, "family": "nova-2", "reasoning": "effort"}),
    (r"amazon\.nova-micro", {**NOVA, "inputs": frozenset({"text"})}),
    (r"amazon\.nova", {**NOVA, **VIDEO}),
    (r"openai\.gpt-oss", {
        **OPEN, **READING, "family": "gpt-oss", "reasoning": "effort", "reasons_by_default": True, "must_reason": True,
    }),
    (r"qwen\.", {**OPEN, **READING, "family": "qwen", "reasoning": "effort", "efforts": ("low", "high")}),
    (r"deepseek\.r1", {**OPEN, **READING, "tools": False, "schema": False, "reasons_by_default": True}),
    (r"deepseek\.|moonshot|minimax\.|zai\.", {**OPEN, **READING}),
    (r"google\.gemma|nvidia\.", {**OPEN, **SEEING}),
    (r"meta\.llama4|meta\.llama3-2-[19]", {
        **OPEN, **SEEING, "schema": False, "mixes_results": False, "result_media": frozenset({"image", "document"}),
    }),
    (r"meta\.", {**OPEN, **READING, "schema": False, "mixes_results": False}),
    (r"writer\.", {**OPEN, **READING, "schema": False, "mixes_results": False}),
    (r"mistral\.pixtral", {
        **SEEING, "schema": False, "strict_tools": False, "names_tools": False, "mixes_results": False,
    }),
    (r"mistral\.(mistral-large-3|ministral|magistral|voxtral|devstral)", {
        **SEEING, "strict_tools": False, "names_tools": False, "mixes_results": False, "result_media": NOTHING,
    }),
    (r"mistral\.", {
        **READING, "schema": False, "strict_tools": False, "names_tools": False, "mixes_results": False,
        "result_media": NOTHING,
    }),
    (r"cohere\.|ai21\.|amazon\.titan", {**OPEN, **READING, "schema": False}),
    ("", {**VIDEO, "schema": False, "strict_tools": False}),
)  # fmt: skip
EARLY = re.compile(r"claude-(v[12]|instant)")  # ids of before Claude 3
FIRST = "claude-2-0-any"
COMPILED = tuple((re.compile(pattern), row) for pattern, row in ROWS)


def known_model(id: str) -> BedrockModel:
    """A model by its id, `us.anthropic.claude-…-v1:0`, or an ARN that names it."""
    if "anthropic." in id:
        return known_claude(id)
    row = next(row for pattern, row in COMPILED if pattern.search(id))
    return BedrockModel(**{"id": id, "urls": NOTHING, "json_object": False, **row})


def known_claude(id: str) -> BedrockModel:
    """Claude: what Anthropic says of it, as far as Bedrock serves it."""
    theirs = anthropic_models.known_model(FIRST if EARLY.search(id) else id)
    _, version = anthropic_models.parse_version(theirs.id)
    said: dict[str, Any] = {name: getattr(theirs, name) for name in Model.__struct_fields__}
    return BedrockModel(
        **said
        | {
            "id": id,
            "urls": NOTHING,
            # Documents are read by Bedrock where the model can't.
            "inputs": theirs.inputs | {"pdf"} if version >= (3, 0) else frozenset({"text", "pdf"}),
            "tools": version >= (3, 0),
            "strict_tools": version >= (4, 5),
            "schema": version >= (4, 5),
            "inline_system": False,
            "family": "claude",
            "caches": frozenset({"tools", "system", "messages"}) if version >= (3, 5) else NOTHING,
            "caches_long": version >= (4, 5),
        }
    )


def as_bedrock(model: Model) -> BedrockModel:
    """Whatever the caller holds, with the fields that only Bedrock's models have."""
    if isinstance(model, BedrockModel):
        return model
    known = known_model(model.id)
    return msgspec.structs.replace(known, **{name: getattr(model, name) for name in Model.__struct_fields__})

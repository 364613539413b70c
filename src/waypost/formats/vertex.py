"""Vertex AI: several publishers' models under one address, each in its own format.

`base_url` is `https://{location}-aiplatform.googleapis.com/v1`; behind it stand `Model.place` and the
publisher's path.
Google's models are spoken to by `gemini`, Anthropic's by `anthropic_messages` (`:rawPredict` and `:streamRawPredict`,
the version in the body, the model in the path): both look at `Model.place`. This module says which of them, and where.

Source of the wire facts: Vertex AI's reference (locations, publishers.models), Google's page on Claude, and recorded
exchanges.
"""

from __future__ import annotations

import re

import msgspec

from waypost.formats import anthropic_messages, gemini
from waypost.formats.format import Format, Modality, Model

CLAUDE = re.compile(r"(?:^|/)claude-")
MULTI_REGIONS = frozenset({"us", "eu"})
# What Vertex fetches itself for Google's models, by https: and gs: URLs; for Claude it fetches nothing.
FETCHED: frozenset[Modality] = frozenset({"text", "image", "pdf", "audio", "video"})


def base_url(location: str) -> str:
    """A location's address: a region's, a multi-region's, or the global one."""
    if location == "global":
        host = "aiplatform.googleapis.com"
    elif location in MULTI_REGIONS:
        host = f"aiplatform.{location}.rep.googleapis.com"
    else:
        host = f"{location}-aiplatform.googleapis.com"
    return f"https://{host}/v1"


def place(project: str, location: str) -> str:
    """What `Model.place` is to be."""
    return f"projects/{project}/locations/{location}"


def format_of(id: str) -> Format:
    """The format that a model speaks."""
    return anthropic_messages if CLAUDE.search(id) else gemini


def known_model(id: str, place: str) -> Model:
    """What is known of a model by its id, at its place."""
    model = format_of(id).known_model(id)
    urls = frozenset() if CLAUDE.search(id) else FETCHED & model.inputs
    return msgspec.structs.replace(model, place=place, urls=urls)

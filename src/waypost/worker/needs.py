"""What a request needs of a model behind OpenAI's format, seen without reading its prompts as a whole."""

from __future__ import annotations

import re

from waypost.formats.format import Modality, Model, Unsupported
from waypost.formats.openai_chat import NULL, Fields

# Parts of messages, by their type as it stands in JSON. A model's text cannot look like one: its quotes are escaped.
PARTS: tuple[tuple[Modality, re.Pattern[bytes]], ...] = (
    ("image", re.compile(rb'"type"\s*:\s*"image_url"')),
    ("pdf", re.compile(rb'"type"\s*:\s*"file"')),
    ("audio", re.compile(rb'"type"\s*:\s*"input_audio"')),
    ("video", re.compile(rb'"type"\s*:\s*"video_url"')),
)
MARKS = (b'"image_url"', b'"file"', b'"input_audio"', b'"video_url"')
SCHEMA = re.compile(rb'"type"\s*:\s*"json_schema"')
OBJECT = re.compile(rb'"type"\s*:\s*"json_object"')
EMPTY = re.compile(rb"\[\s*\]")
NOT_FORCED = (b'"auto"', b'"none"', b"null")


def check_needs(fields: Fields, model: Model) -> None:
    """Raises Unsupported where the request has something that the model can't take or do."""
    messages = bytes(fields.get("messages", NULL))
    for (modality, pattern), mark in zip(PARTS, MARKS, strict=True):
        if modality not in model.inputs and messages.find(mark) >= 0 and pattern.search(messages):
            raise Unsupported("messages", f"{model.id} does not take {modality}")
    tools = bytes(fields.get("tools", fields.get("functions", NULL)))
    if tools != b"null" and not EMPTY.fullmatch(tools):
        if not model.tools:
            raise Unsupported("tools", f"{model.id} has no tools")
        if not model.forced_tools and bytes(fields.get("tool_choice", NULL)) not in NOT_FORCED:
            raise Unsupported("tool_choice", f"{model.id} cannot be made to call a tool")
    wanted = bytes(fields.get("response_format", NULL))
    if not model.schema and SCHEMA.search(wanted):
        raise Unsupported("response_format", f"{model.id} has no schema for its answer")
    if not model.json_object and OBJECT.search(wanted):
        raise Unsupported("response_format", f"{model.id} has no JSON mode")

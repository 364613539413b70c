"""What a request needs of a model behind OpenAI's format, seen without reading its prompts as a whole."""

from __future__ import annotations

import re

from waypost.formats.format import Modality, Model, Unsupported
from waypost.formats.openai_chat import NULL, Fields

PARTS: dict[bytes, Modality] = {b"image_url": "image", b"file": "pdf", b"input_audio": "audio", b"video_url": "video"}
"""Types of a message's parts, and the modality that each brings."""

# As it stands in JSON: a text cannot look like one, since its quotes are escaped.
find_parts = re.compile(rb'"type"\s*:\s*"(%b)"' % b"|".join(PARTS)).findall
SCHEMA = re.compile(rb'"type"\s*:\s*"json_schema"')
OBJECT = re.compile(rb'"type"\s*:\s*"json_object"')
EMPTY = re.compile(rb"\[\s*\]")
NOT_FORCED = (b'"auto"', b'"none"', b"null")


def check_needs(fields: Fields, model: Model) -> None:
    """Raises Unsupported where the request has something that the model can't take or do."""
    if not model.inputs.issuperset(PARTS.values()):
        for part in find_parts(fields.get("messages", NULL)):
            if PARTS[part] not in model.inputs:
                raise Unsupported("messages", f"{model.id} does not take {PARTS[part]}")
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

"""An OpenAI client's requests, rendered for Gemini: what the tests of it share."""

from __future__ import annotations

import json
from typing import Any

from waypost.chat import Chat
from waypost.formats import vertex
from waypost.formats.format import Model, Rendered
from waypost.formats.gemini import known_model, render_request
from waypost.formats.openai_chat import parse_request
from waypost.formats.openai_request import parse_chat

Json = dict[str, Any]
OLD, FLASH, PRO, THIRD = (
    known_model(id) for id in ("gemini-2.0-flash", "gemini-2.5-flash", "gemini-2.5-pro", "gemini-3-flash-preview")
)
PLACE = vertex.place("p", "global")
VERTEX = vertex.known_model("gemini-2.5-flash", PLACE)
HELLO = {"role": "user", "content": "Hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def chat(*messages: Json, **fields: Any) -> Chat:
    body = {"model": "m", "messages": messages or [HELLO], **fields}
    return parse_chat(parse_request(json.dumps(body).encode()).fields)


def rendered(*messages: Json, model: Model = FLASH, **fields: Any) -> tuple[Json, Rendered]:
    made = render_request(chat(*messages, **fields), model)
    return json.loads(made.body), made


def body(*messages: Json, model: Model = FLASH, **fields: Any) -> Json:
    return rendered(*messages, model=model, **fields)[0]


def config(model: Model = FLASH, **fields: Any) -> Json:
    found: Json = body(model=model, **fields).get("generationConfig", {})
    return found

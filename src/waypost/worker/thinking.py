"""`:thinking` behind a model's name: the same as `reasoning_effort` in the body, which goes first where it is there."""

from __future__ import annotations

import msgspec

from waypost.formats.openai_chat import NULL, ChatRequest, Fields, decode_fields, encode

OWN_WORDS = ("reasoning_effort", "thinking", "enable_thinking", "chat_template_kwargs")
"""Fields by which a caller speaks of reasoning itself: OpenAI's, Anthropic's, and those of open models."""

WORDS_INSIDE = ("enabled", "effort", "max_tokens")
"""What says the same inside of OpenRouter's `reasoning`, which may only say whether it is shown."""


def with_effort(request: ChatRequest, effort: str) -> ChatRequest:
    """The request with this `reasoning_effort`, if there is one, and it has no word on reasoning of its own."""
    if not effort or has_own_word(request.fields):
        return request
    fields = request.fields | {"reasoning_effort": msgspec.Raw(encode(effort))}
    return msgspec.structs.replace(request, fields=fields)


def has_own_word(fields: Fields) -> bool:
    """Does a request say itself what it wants of reasoning?"""
    if any(fields.get(name, NULL) != NULL for name in OWN_WORDS):
        return True
    reasoning = fields.get("reasoning", NULL)
    if reasoning == NULL:
        return False
    try:
        said = decode_fields(reasoning)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True  # it is wrong, which whoever reads it will say
    return any(said.get(name, NULL) != NULL for name in WORDS_INSIDE)

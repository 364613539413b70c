"""An answer in a provider's accent (`accents.py`), as OpenAI would have said it. Pure.

What has no accent in it goes out as the very bytes that came in.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from waypost.chat import Object
from waypost.formats.accented import (
    EMPTY_LIST,
    begins,
    decode_any,
    decode_object,
    decode_objects,
    decode_text,
    has,
)
from waypost.formats.accents import Accent, Json
from waypost.formats.format import encode
from waypost.formats.openai_chat import NULL

STOP = msgspec.Raw(b'"stop"')
MARKS = (b'"reasoning"', b'"thinking"', b'"tool_calls"')


def understand(accent: Accent, payload: bytes, show_reasoning: bool = True) -> bytes:
    """A whole answer, or one chunk of a stream, as OpenAI would have said it; the very bytes where it has.

    Reasoning stands in `reasoning_content`, whatever the provider calls it; content is text; finish reasons are
    OpenAI's. Raises msgspec.DecodeError where the payload is no answer.
    """
    if show_reasoning and is_plain(accent, payload):
        return payload
    answer = decode_object(payload)
    choices = answer.get("choices", NULL)
    if not begins(choices, b"["):
        return payload
    pages = decode_any(answer[accent.sources]) if accent.sources in answer else None
    made = decode_objects(choices)
    for choice in made:
        change_choice(choice, accent, show_reasoning, pages)
    answer["choices"] = msgspec.Raw(encode(made))
    return encode(answer)


def is_plain(accent: Accent, payload: bytes) -> bool:
    """Is there nothing to change in it?"""
    return all(payload.find(mark) < 0 for mark in marks(accent))


@functools.cache
def marks(accent: Accent) -> tuple[bytes, ...]:
    """What must stand in an answer for something to change."""
    if accent.is_plain:
        return ()
    sources = (accent.sources,) if accent.sources else ()
    return MARKS + tuple(b'"%b"' % name.encode() for name in (*sources, *accent.finish))


def change_choice(choice: Object, accent: Accent, show_reasoning: bool, pages: Any) -> None:
    """One choice, changed in place."""
    finish = choice.get("finish_reason", NULL)
    for place in ("message", "delta"):
        if begins(choice.get(place, NULL), b"{"):
            message = decode_object(choice[place])
            change_said(message, show_reasoning)
            has_calls = message.get("tool_calls", NULL) not in (NULL, EMPTY_LIST)
            if place == "message" and has_calls and finish == STOP:
                choice["finish_reason"] = msgspec.Raw(b'"tool_calls"')
            if pages and finish != NULL and "annotations" not in message:
                message["annotations"] = msgspec.Raw(encode([citation(page) for page in pages if "url" in page]))
            choice[place] = msgspec.Raw(encode(message))
    if begins(finish, b'"') and (reason := decode_text(finish)) in accent.finish:
        choice["finish_reason"] = msgspec.Raw(encode(accent.finish[reason]))
        choice["native_finish_reason"] = finish


def citation(page: Json) -> Json:
    """A page that the answer rests on, nobody says where."""
    found = {"url": page["url"], "title": page.get("title") or "", "start_index": 0, "end_index": 0}
    return {"type": "url_citation", "url_citation": found}


def change_said(message: Object, show_reasoning: bool) -> None:
    """A message or a delta, changed in place."""
    content = message.get("content", NULL)
    if begins(content, b"["):
        text, thought = split_content(decode_any(content))
        message["content"] = NULL if text is None else msgspec.Raw(encode(text))
        if thought:
            message["reasoning_content"] = msgspec.Raw(encode(thought))
    if message.get("reasoning_content", NULL) == NULL and begins(message.get("reasoning", NULL), b'"'):
        message["reasoning_content"] = message["reasoning"]
    if not show_reasoning:
        for name in ("reasoning_content", "reasoning", "reasoning_details"):
            message.pop(name, None)
    calls = message.get("tool_calls", NULL)
    if begins(calls, b"[") and not has(calls, b'"type"'):
        made = decode_objects(calls)
        for call in made:
            if "id" in call:  # a call begins: Mistral does not say that it is one of a function
                call["type"] = msgspec.Raw(b'"function"')
        message["tool_calls"] = msgspec.Raw(encode(made))


def split_content(parts: list[Any]) -> tuple[str | None, str]:
    """Content in parts → its text, None where it has none, and its reasoning."""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        match part:
            case {"type": "thinking", "thinking": str(thought)}:
                thoughts.append(thought)
            case {"type": "thinking", "thinking": list(pieces)}:
                thoughts += [piece.get("text") or "" for piece in pieces]
            case {"type": "text", "text": str(text)}:
                texts.append(text)
    return ("".join(texts) if texts else None), "".join(thoughts)

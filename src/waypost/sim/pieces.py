"""What the formats' streams have in common: texts in pieces, and server-sent events."""

from __future__ import annotations

from typing import Any

import msgspec

from waypost.sim.script import Event

JSON_PIECE = 12
_encode = msgspec.json.encode


def pieces(text: str) -> list[str]:
    """A text as a model streams it: word by word, the space before the word; JSON without spaces in short pieces."""
    if not text:
        return []
    if text[0] in "{[":
        return cut(text)
    first, *rest = text.split(" ")
    words = [" " + word for word in rest]
    return [first, *words] if first else words


def cut(text: str) -> list[str]:
    """A text in pieces of a few characters, as tool arguments come."""
    return [text[at : at + JSON_PIECE] for at in range(0, len(text), JSON_PIECE)]


def named_event(name: str, payload: Any, text: str = "", usage: bool = False, padding: int = 0) -> Event:
    """A server-sent event with its name; `padding` spaces stand before the JSON's last brace."""
    data = _encode(payload)
    if padding:
        data = data[:-1] + b" " * padding + b"}"
    return Event(b"event: %b\ndata: %b\n\n" % (name.encode(), data), text, usage)


def data_event(payload: Any, text: str = "", usage: bool = False) -> Event:
    """A server-sent event without a name."""
    return Event(b"data: %b\n\n" % _encode(payload), text, usage)

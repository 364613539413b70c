"""A conversation, whatever format it came in: its turns, and the question they add up to."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from waypost.sim.answers import Media, Question, Tool

MediaKind = Literal["image", "document", "audio", "video"]


class Said(msgspec.Struct, frozen=True):
    """One turn. A `tool` turn is one tool's result, `call_id` the call it answers; `called` names the tools called."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    called: tuple[str, ...] = ()
    call_id: str = ""
    media: tuple[Media, ...] = ()


def ask(model: str, turns: Iterable[Said]) -> Question:
    """The question that a conversation ends with.

    Tool results count if nothing but tool results follows them; media if they came with the last user turn.
    """
    asked, results, media = "", list[Said](), tuple[Media, ...]()
    texts, called = list[str](), set[str]()
    for turn in turns:
        texts.append(turn.text)
        called.update(turn.called)
        if turn.role == "tool":
            results.append(turn)
            continue
        results = []
        if turn.role == "user":
            asked, media = turn.text, turn.media
    return Question(
        model=model,
        asked=asked,
        prompt="\n".join(texts),
        tool_results=tuple(turn.text for turn in results),
        tool_result_ids=tuple(turn.call_id for turn in results),
        called=frozenset(called),
        media=media,
    )


def tool(name: str, description: str | None, parameters: object) -> Tool:
    """A tool on offer; without parameters it takes none."""
    schema = parameters if isinstance(parameters, dict) and parameters else {"type": "object"}
    return Tool(name, description or "", schema)


def inline(kind: MediaKind, mime: str, data: str) -> Media:
    """Media that came as base64. Raises ValueError where it is none."""
    try:
        size = len(binascii.a2b_base64(data, strict_mode=True))
    except binascii.Error as error:
        raise ValueError(f"invalid base64 data: {error}") from None
    return Media(kind, f"{mime}, {size} bytes")


def kind_of(mime: str) -> MediaKind:
    """What a media type is: an image, audio, video, or else a document."""
    first = mime.partition("/")[0]
    return first if first in ("image", "audio", "video") else "document"  # type: ignore[return-value]


def joined(texts: Sequence[str]) -> str:
    """The text of a turn of several parts."""
    return " ".join(texts)

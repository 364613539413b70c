"""Which upstream a conversation stays with: for the prompt cache there, and for the tool calls that it has made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from waypost.policy.failures import Lane

IDLE = 600.0  # seconds
MOST = 100_000  # conversations remembered for one chain
LENGTH = 256  # characters of a session's name


class Sticky:
    """Conversations of one chain, and where they are at home (`kept`). After ten idle minutes they are forgotten."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: dict[bytes, tuple[Lane, float]] = {}

    def __len__(self) -> int:
        return len(self.kept)

    def find(self, conversation: bytes, now: float) -> Lane | None:
        """Where it is at home."""
        kept = self.kept.get(conversation)
        return kept[0] if kept is not None and now - kept[1] <= IDLE else None

    def keep(self, conversation: bytes, lane: Lane, now: float) -> None:
        """It has been answered there."""
        kept = self.kept
        kept.pop(conversation, None)
        kept[conversation] = (lane, now)
        if len(kept) > MOST:
            del kept[next(iter(kept))]

    def forget(self, conversation: bytes) -> None:
        """It is at home nowhere in particular."""
        self.kept.pop(conversation, None)

    def release(self, conversation: bytes, lane: Lane) -> None:
        """That upstream failed it: whoever answers next may keep it."""
        kept = self.kept.get(conversation)
        if kept is not None and kept[0] == lane:
            del self.kept[conversation]

    def sweep(self, now: float) -> None:
        """Forget what is long idle, so that a table that is no longer needed is empty."""
        kept = self.kept  # in the order of last use
        while kept:
            oldest = next(iter(kept))
            if now - kept[oldest][1] <= IDLE:
                break
            del kept[oldest]


class Turn(msgspec.Struct):
    """A message as far as stickiness reads it."""

    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"")


decode_turns = msgspec.json.Decoder(list[Turn]).decode
decode_text = msgspec.json.Decoder(str).decode


def no_header(name: bytes) -> bytes:
    """Of a request that has none."""
    return b""


class Conversation(msgspec.Struct, eq=False):
    """What a request says about the conversation it belongs to. Nothing is read before it is asked for.

    `_scope` keeps accounts apart. `_fields` are the body's, raw JSON; `_header` gives a header by its name.
    """

    _scope: str
    _fields: Mapping[str, bytes]
    _header: Callable[[bytes], bytes] = no_header
    _name: bytes = b""
    _has_tool_results: bool | None = None

    @property
    def name(self) -> bytes:
        """16 bytes, the same for all turns: from what the caller calls it, else from how it opens."""
        if not self._name:
            fields = self._fields
            digest = hashlib.blake2b(self._scope.encode(), digest_size=16)
            named = text_of(fields.get("session_id")) or self._header(b"x-session-id").strip()[:LENGTH]
            named = named or text_of(fields.get("prompt_cache_key"))
            for part in (b"named", named) if named else (b"opening", *opening(fields.get("messages", b"[]"))):
                digest.update(b"%d:%b" % (len(part), part))
            self._name = digest.digest()
        return self._name

    @property
    def has_tool_results(self) -> bool:
        """Does it bring results of tool calls: a message whose role is `tool` or `function`?"""
        if self._has_tool_results is None:
            self._has_tool_results = any(
                turn.role in ("tool", "function") for turn in turns(self._fields.get("messages", b"[]"))
            )
        return self._has_tool_results


def text_of(raw: bytes | None) -> bytes:
    """A JSON string's text; empty where there is none."""
    try:
        return decode_text(raw).encode() if raw is not None else b""
    except (msgspec.DecodeError, UnicodeError):
        return b""


def opening(messages: bytes) -> list[bytes]:
    """The contents of the first system (or developer) message and of the first user message, as raw JSON."""
    system, user = b"", b""
    for turn in turns(messages):
        if turn.role in ("system", "developer"):
            system = system or bytes(turn.content)
        elif turn.role == "user":
            user = user or bytes(turn.content)
        if system and user:
            break
    return [system, user]


def turns(messages: bytes) -> list[Turn]:
    """The messages in order; none where one of them is no message, which is the upstream's to complain about.

    The first that is none ends it: a list of a million numbers is not worth a second of anybody's time.
    """
    try:
        return decode_turns(messages)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []

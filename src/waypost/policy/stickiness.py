"""Which upstream a conversation stays with: for the prompt cache there, and for the tool calls that it has made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from waypost.errors import Refusal
from waypost.policy.failures import Lane

IDLE = 600.0  # seconds
MOST = 100_000  # conversations remembered for one chain
LENGTH = 256  # characters of a session's name


class Sticky:
    """Conversations of one chain, and where they are at home. After ten idle minutes they are forgotten."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[Lane, float]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, conversation: bytes, now: float) -> Lane | None:
        """Where it is at home."""
        kept = self._kept.get(conversation)
        return kept[0] if kept is not None and now - kept[1] <= IDLE else None

    def keep(self, conversation: bytes, lane: Lane, now: float) -> None:
        """It has been answered there."""
        kept = self._kept
        kept.pop(conversation, None)
        kept[conversation] = (lane, now)
        if len(kept) > MOST:
            del kept[next(iter(kept))]

    def forget(self, conversation: bytes) -> None:
        """It is at home nowhere in particular."""
        self._kept.pop(conversation, None)

    def release(self, conversation: bytes, lane: Lane) -> None:
        """That upstream failed it: whoever answers next may keep it."""
        kept = self._kept.get(conversation)
        if kept is not None and kept[0] == lane:
            del self._kept[conversation]

    def sweep(self, now: float) -> None:
        """Forget what is long idle, so that a table that is no longer needed is empty."""
        kept = self._kept  # in the order of last use
        while kept:
            oldest = next(iter(kept))
            if now - kept[oldest][1] <= IDLE:
                break
            del kept[oldest]


class Turn(msgspec.Struct):
    """A message as far as stickiness reads it."""

    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"")


decode_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
decode_turn = msgspec.json.Decoder(Turn).decode
decode_text = msgspec.json.Decoder(str).decode


class Conversation:
    """What a request says about the conversation it belongs to. Nothing is read before it is asked for."""

    __slots__ = ("_has_tool_results", "_header", "_messages", "_name", "_prompt_cache_key", "_scope", "_session_id")

    def __init__(
        self,
        scope: str,
        messages: bytes,
        session_id: bytes | None = None,
        header: bytes = b"",
        prompt_cache_key: bytes | None = None,
    ) -> None:
        """`scope` keeps accounts and models apart. All but `header` (X-Session-Id) are raw JSON of the body."""
        self._scope = scope
        self._messages = messages
        self._session_id = session_id
        self._header = header
        self._prompt_cache_key = prompt_cache_key
        self._name = b""
        self._has_tool_results: bool | None = None

    @property
    def name(self) -> bytes:
        """16 bytes, the same for all turns: from what the caller calls it, else from how it opens."""
        if not self._name:
            digest = hashlib.blake2b(self._scope.encode(), digest_size=16)
            named = text_of(self._session_id) or self._header.strip()[:LENGTH] or text_of(self._prompt_cache_key)
            for part in (b"named", named) if named else (b"opening", *opening(self._messages)):
                digest.update(b"%d:%b" % (len(part), part))
            self._name = digest.digest()
        return self._name

    @property
    def has_tool_results(self) -> bool:
        """Does it bring results of tool calls: a message whose role is `tool` or `function`?"""
        if self._has_tool_results is None:
            self._has_tool_results = any(turn.role in ("tool", "function") for turn in turns(self._messages))
        return self._has_tool_results


def check_session_id(raw: bytes) -> None:
    """The body's `session_id`, JSON. Raises Refusal INVALID_REQUEST."""
    if raw == b"null":
        return
    try:
        text = decode_text(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refusal("INVALID_REQUEST", "session_id: must be a string.", param="session_id") from None
    if len(text) > LENGTH:
        raise Refusal("INVALID_REQUEST", f"session_id: at most {LENGTH} characters.", param="session_id")


def text_of(raw: bytes | None) -> bytes:
    """A JSON string's text; empty where there is none."""
    try:
        return decode_text(raw).encode() if raw else b""
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


def turns(messages: bytes) -> Iterator[Turn]:
    """The messages that are objects, in order; what is none is the upstream's to complain about."""
    try:
        raws = decode_messages(messages)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    for raw in raws:
        try:
            yield decode_turn(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue

"""Signatures of reasoning that clients drop, kept for their next turn.

Claude's signed thinking and Gemini's thought signatures must come back with the tool calls they led to; many clients
strip what they don't know. So what a turn with tool calls must bring back is kept here for an hour, under the account
and the id of each call, and put into the next request where the client has left it out. It is kept by the worker that
served the turn: a client whose next turn reaches another one is where it would be without this.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from waypost.chat import AssistantMessage, Chat, Extra, Message, ToolCall
from waypost.worker.translate import Kept

SECONDS: Final = 3600.0
MOST: Final = 20_000  # calls
MOST_BYTES: Final = 32 * 1024 * 1024
LONGEST_ID: Final = 256  # characters; a longer id is nobody's
ENTRY_BYTES: Final = 500  # what an entry takes besides its text, about

Place = tuple[int, str]
"""Account, and the id of a call."""


class Entry(msgspec.Struct, frozen=True):
    """What is known of one call; `kept` is shared by the calls of a turn."""

    kept: Kept
    until: float
    size: int


class Vault:
    """Bounded: what was kept first goes first. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float], most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._clock = clock
        self._most = most
        self._most_bytes = most_bytes
        self._entries: OrderedDict[Place, Entry] = OrderedDict()
        self.size = 0  # bytes, about

    def __len__(self) -> int:
        return len(self._entries)

    def keep(self, account: int, kept: Kept) -> None:
        """A turn is over."""
        if not kept.is_worth_it:
            return
        size = size_of(kept) // len(kept.calls) + ENTRY_BYTES
        if size * len(kept.calls) > self._most_bytes:
            return
        until = self._clock() + SECONDS
        for id in kept.calls:
            if len(id) <= LONGEST_ID:
                self._drop((account, id))
                self._entries[account, id] = Entry(kept, until, size)
                self.size += size
        self._tidy()

    def _tidy(self) -> None:
        now = self._clock()
        while self._entries:
            place, entry = next(iter(self._entries.items()))
            if len(self._entries) <= self._most and self.size <= self._most_bytes and entry.until > now:
                return
            self._drop(place)

    def _drop(self, place: Place) -> None:
        entry = self._entries.pop(place, None)
        if entry is not None:
            self.size -= entry.size

    def find(self, account: int, id: str) -> Kept | None:
        """What the turn of a call must bring back, if it is known."""
        entry = self._entries.get((account, id))
        return entry.kept if entry is not None and entry.until > self._clock() else None

    def complete(self, account: int, chat: Chat) -> Chat:
        """A request with what the client has dropped of it; the same object where there is nothing to add."""
        if not self._entries:
            return chat
        messages = tuple(self._completed(account, message) for message in chat.messages)
        if all(new is old for new, old in zip(messages, chat.messages, strict=True)):
            return chat
        return msgspec.structs.replace(chat, messages=messages)

    def _completed(self, account: int, message: Message) -> Message:
        if not isinstance(message, AssistantMessage) or not message.tool_calls:
            return message
        found = [self.find(account, call.id) for call in message.tool_calls]
        kept = next((one for one in found if one is not None), None)
        if kept is None:
            return message
        changes: dict[str, object] = {}
        if not message.reasoning_details and kept.details:
            changes["reasoning_details"] = kept.details
        if not message.extra_content and kept.extra:
            changes["extra_content"] = kept.extra
        calls = with_extras(message.tool_calls, [one.calls if one is not None else {} for one in found])
        if calls is not None:
            changes["tool_calls"] = calls
        return msgspec.structs.replace(message, **changes) if changes else message


def with_extras(calls: Sequence[ToolCall], found: Sequence[dict[str, Extra | None]]) -> tuple[ToolCall, ...] | None:
    """Calls with the opaque content that they lack; None where none does."""
    made = tuple(
        msgspec.structs.replace(call, extra_content=extras[call.id])
        if not call.extra_content and extras.get(call.id)
        else call
        for call, extras in zip(calls, found, strict=True)
    )
    return made if any(new is not old for new, old in zip(made, calls, strict=True)) else None


def size_of(kept: Kept) -> int:
    """Bytes of it, about."""
    return len(msgspec.json.encode(kept))

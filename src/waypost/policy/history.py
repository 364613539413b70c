"""Long conversations, cut to what fits: all instructions, the newest turns, and never half of a tool exchange. Pure.

What is kept besides the system and developer messages, which all stay where they are, is the end of the conversation
from some message on. Not every message may be the first of it:

- no result of a tool call is kept without its call, wherever between them others have spoken;
- before the newest user turn it is a user turn, since some formats want a conversation to begin with one;
- behind it, in the middle of an agent's work, it may be any; then the newest user turn is kept in front of it.

So the newest user turn always stays, and so does the newest exchange. Of the ends that are left, each is a part of the
longer ones: the longest that fits is taken, and the shortest where none does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import msgspec

MESSAGES = 50
"""Messages besides instructions that are kept, where nobody says how many: as at routing.run."""


class Fitted(msgspec.Struct, frozen=True):
    """Messages as raw JSON, and how many `of` those that were there have been `dropped`."""

    messages: msgspec.Raw
    dropped: int = 0
    of: int = 0


class Turn(msgspec.Struct):
    """A message as far as it matters here. Values may be anything that JSON has."""

    role: msgspec.Raw = msgspec.Raw(b"")
    tool_calls: msgspec.Raw = msgspec.Raw(b"")
    tool_call_id: msgspec.Raw = msgspec.Raw(b"")


class Call(msgspec.Struct):
    """A tool call."""

    id: str = ""


SYSTEM, USER, RESULT = frozenset({"system", "developer"}), "user", frozenset({"tool", "function"})
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

decode_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
decode_turn = msgspec.json.Decoder(Turn).decode
decode_calls = msgspec.json.Decoder(list[Call]).decode
decode_text = msgspec.json.Decoder(str).decode


def fit(messages: msgspec.Raw, room: int | None, most: int, weigh: Callable[[bytes], int]) -> Fitted:
    """The longest end of a conversation that has room, with the instructions, and at most `most` messages without them.

    `messages` is JSON; what is no array of messages is left as it is, for the upstream to complain about. `room` None:
    only the number counts. `weigh` gives a message's weight, 0 or more, in whatever `room` is counted in.
    """
    try:
        listed = decode_messages(messages)
    except UNREADABLE:
        return Fitted(messages)
    turns = [read_turn(raw) for raw in listed]
    roles = [text_of(turn.role) for turn in turns]
    places = [place for place, role in enumerate(roles) if role not in SYSTEM]
    if room is None and len(places) <= most:
        return Fitted(messages, of=len(listed))
    newest = max((number for number, place in enumerate(places) if roles[place] == USER), default=-1)
    starts = [
        number
        for number in beginnings([turns[place] for place in places], [roles[place] for place in places])
        if number == 0 or number > newest or roles[places[number]] == USER
    ]
    left = room
    weights = [0] * len(listed)
    if left is not None:
        weights = [weigh(bytes(raw)) for raw in listed]
        left -= sum(weights) - sum(weights[place] for place in places)
    start = choose([weights[place] for place in places], starts, newest, left, most)
    kept = {*places[start:], places[newest]} if newest >= 0 else {*places[start:]}
    if len(kept) == len(places):
        return Fitted(messages, of=len(listed))
    rest = [raw for place, raw in enumerate(listed) if place in kept or roles[place] in SYSTEM]
    return Fitted(msgspec.Raw(b"[%b]" % b",".join(rest)), len(listed) - len(rest), len(listed))


def choose(weights: Sequence[int], starts: Sequence[int], newest: int, room: int | None, most: int) -> int:
    """The first of `starts` from which on everything fits; else the last of them. `newest`: the newest user turn."""
    heavy = list(accumulate(reversed(weights), initial=0))[::-1]  # from each message on
    for start in starts:
        apart = newest >= 0 and newest < start
        count = len(weights) - start + apart
        weight = heavy[start] + (weights[newest] if apart else 0)
        if count <= most and (room is None or weight <= room):
            return start
    return starts[-1] if starts else 0


def beginnings(turns: Sequence[Turn], roles: Sequence[str]) -> list[int]:
    """The messages from which on no result of a tool call lacks its call, the very first among them.

    A result belongs to the latest call of its id, or, where there is none, to what stands before it.
    """
    calls: dict[str, int] = {}
    behind = list(range(len(turns)))  # for each message: the first that it needs
    for number, (turn, role) in enumerate(zip(turns, roles, strict=True)):
        if role in RESULT:
            behind[number] = calls.get(text_of(turn.tool_call_id), max(0, number - 1))
        for call in ids_of(turn.tool_calls):
            calls[call] = number
    needed = list(accumulate(reversed(behind), min))[::-1]  # for each message and all after it
    return [
        number
        for number, first in enumerate(needed)
        if first >= number and (number == 0 or roles[number] not in RESULT)
    ]


# What stands in a message


def read_turn(raw: msgspec.Raw) -> Turn:
    """A message; nothing where it is no object."""
    try:
        return decode_turn(raw)
    except UNREADABLE:
        return Turn()


def text_of(raw: msgspec.Raw) -> str:
    """A JSON string's text; empty where there is none."""
    try:
        return decode_text(raw)
    except UNREADABLE:
        return ""


def ids_of(raw: msgspec.Raw) -> list[str]:
    """The ids of a message's tool calls."""
    try:
        return [call.id for call in decode_calls(raw) if call.id] if raw else []
    except UNREADABLE:
        return []

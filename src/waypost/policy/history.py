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


class Call(msgspec.Struct):
    """A tool call."""

    id: str | None = None


class Turn(msgspec.Struct):
    """A message as far as it matters here."""

    role: str
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None


SYSTEM, USER, RESULT = frozenset({"system", "developer"}), "user", frozenset({"tool", "function"})

decode_turns = msgspec.json.Decoder(list[Turn]).decode
decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode


def fit(messages: msgspec.Raw, room: int | None, most: int, weigh: Callable[[bytes], int]) -> Fitted:
    """The longest end of a conversation that has room, with the instructions, and at most `most` messages without them.

    `messages` is JSON; what is no array of messages is left as it is, for the upstream to complain about. `room` None:
    only the number counts. `weigh` gives a message's weight, 0 or more, in whatever `room` is counted in.
    """
    try:
        turns = decode_turns(messages)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Fitted(messages)
    untouched = Fitted(messages, of=len(turns))
    places = [place for place, turn in enumerate(turns) if turn.role not in SYSTEM]
    if room is None and len(places) <= most:
        return untouched
    talk = [turns[place] for place in places]
    newest = max((number for number, turn in enumerate(talk) if turn.role == USER), default=-1)
    starts = [number for number in beginnings(talk) if not 0 < number <= newest or talk[number].role == USER]
    raws = decode_raws(messages)
    left, weights = None, [0] * len(talk)
    if room is not None:
        everything = [weigh(bytes(raw)) for raw in raws]
        weights = [everything[place] for place in places]
        left = room - sum(everything) + sum(weights)
    start = choose(weights, starts, newest, left, most)
    kept = {*places[start:], places[newest]} if newest >= 0 else {*places[start:]}
    if len(kept) == len(places):
        return untouched
    rest = [raw for place, raw in enumerate(raws) if place in kept or turns[place].role in SYSTEM]
    return Fitted(msgspec.Raw(b"[%b]" % b",".join(rest)), len(raws) - len(rest), len(raws))


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


def beginnings(turns: Sequence[Turn]) -> list[int]:
    """The messages from which on no result of a tool call lacks its call, the very first among them.

    A result belongs to the latest call of its id, or, where there is none, to what stands before it.
    """
    calls: dict[str | None, int] = {}
    first = list(range(len(turns)))  # for each message: the first that it needs
    for number, turn in enumerate(turns):
        if turn.role in RESULT:
            first[number] = calls.get(turn.tool_call_id, max(0, number - 1))
        for call in turn.tool_calls or ():
            if call.id:
                calls[call.id] = number
    needed = list(accumulate(reversed(first), min))[::-1]  # for each message and all after it
    return [
        number
        for number, turn in enumerate(turns)
        if number == 0 or (needed[number] == number and turn.role not in RESULT)
    ]

"""Long conversations in a request's walk: who wants them cut, by how much, and what is said of it.

Who says so, the later one winning: the model (`history` in the configuration), the header `X-Waypost-History`, and the
body's plugin `context-compression`, which is OpenRouter's (its guide "Message transforms"); its page cuts out of the
middle, this cuts off the oldest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from waypost.errors import Refusal
from waypost.formats.openai_chat import ChatRequest, LeftOut, encode, invalid
from waypost.formats.usage import AROUND, weigh, weighs_at_most
from waypost.http.head import Head
from waypost.policy.admission import OUTPUT_RESERVE
from waypost.policy.chains import Chain
from waypost.policy.history import MESSAGES, fit

if TYPE_CHECKING:
    from waypost.worker.resolve import Route

HEADER = b"x-waypost-history"
PLUGIN = "context-compression"
COMMA = weigh(b",")


class Named(msgspec.Struct, frozen=True):
    """A plugin of any kind."""

    id: str | None = None


class Plugin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ours. `messages`: how many are kept at most besides instructions; `engine` is what OpenRouter's SDKs may send."""

    id: str
    enabled: bool | None = None
    engine: Literal["middle-out"] | None = None
    messages: Annotated[int, msgspec.Meta(ge=1)] | None = None


decode_named = msgspec.json.Decoder(list[Named]).decode  # ends at the first that is none, however many there are
decode_plugins = msgspec.json.Decoder(list[msgspec.Raw]).decode
decode_plugin = msgspec.json.Decoder(Plugin).decode
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def fitted(head: Head, request: ChatRequest, route: Route) -> ChatRequest:
    """The request, less the oldest turns of a conversation that is too long, where somebody wants that.

    Raises Refusal INVALID_REQUEST.
    """
    most = route.history
    if head.has_wishes:
        most = by_header(head, most)
    if "plugins" in request.ignored:
        request, most = by_plugin(request, most)
    if not most:
        return request
    messages, left = request.fields["messages"], room(request, route.chain)
    if left is not None and (weight := weighs_at_most(bytes(messages))) is not None and weight <= left:
        left = None  # most conversations are far from their limit
    found = fit(messages, left, most, lambda message: weigh(message) + COMMA)
    if not found.dropped:
        return request
    fields = {**request.fields, "messages": found.messages}
    left_out = LeftOut(found.dropped, found.of, request.fields)
    return msgspec.structs.replace(request, body=encode(fields), fields=fields, left_out=left_out)


# What is wished


def by_header(head: Head, most: int) -> int:
    """Messages that are kept at most, 0 for all of them. Raises Refusal INVALID_REQUEST."""
    said = head.get(HEADER)
    if said is None:
        return most
    match said.lower():
        case b"fit":
            return most or MESSAGES
        case b"off":
            return 0
    raise Refusal("INVALID_REQUEST", "The header X-Waypost-History must be fit or off.", param=HEADER.decode())


def by_plugin(request: ChatRequest, most: int) -> tuple[ChatRequest, int]:
    """The same by the body; and the request, whose `plugins` are not ignored where there is no other among them.

    Raises Refusal INVALID_REQUEST.
    """
    try:
        named = decode_named(request.fields["plugins"])
    except UNREADABLE:
        return request, most
    ours = [number for number, plugin in enumerate(named) if plugin.id == PLUGIN]
    listed = decode_plugins(request.fields["plugins"]) if ours else []
    for number in ours:
        plugin = read_plugin(listed[number], f"plugins[{number}]")
        most = 0 if plugin.enabled is False else plugin.messages or most or MESSAGES
    if ours and len(ours) == len(named):
        ignored = tuple(name for name in request.ignored if name != "plugins")
        request = msgspec.structs.replace(request, ignored=ignored)
    return request, most


def read_plugin(raw: msgspec.Raw, where: str) -> Plugin:
    """Raises Refusal INVALID_REQUEST naming the field."""
    try:
        return decode_plugin(raw)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise invalid(where + path.removesuffix("`"), message[:1].lower() + message[1:]) from None


# How long it may be


def room(request: ChatRequest, chain: Chain) -> int | None:
    """Hundredths of a token that the messages may weigh; None where no context of the chain is known.

    The largest context counts: whom the rest is still too long for is left out by the planner. Room is left for the
    answer: what the caller allows it, or, where that is nothing or all there is, `OUTPUT_RESERVE`, but not more than a
    quarter.
    """
    context = max((keys[0].target.context or 0 for keys in chain.targets), default=0)
    if not context:
        return None
    output = request.max_output if 0 < request.max_output < context else min(OUTPUT_RESERVE, context // 4)
    rest = {name: raw for name, raw in request.fields.items() if name != "messages"}
    return (context - output + AROUND) * 100 - weigh(encode(rest))

"""When are two requests the same one? The key of the response cache: pure, and never the same for two tenants."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

IRRELEVANT: Final = frozenset(("stream", "preset", "cache", "session_id", "prompt_cache_key", "prompt_cache_retention"))
"""Fields that are no part of what is asked: they say how, or where. `stream` and the preset's version are in the key by
themselves. `user` and `safety_identifier` are not among these: with them an application parts its own users.
"""

WHOLE: Final = float(1 << 53)
VERSION: Final = 1

decode = msgspec.json.Decoder().decode
encode_plain = msgspec.json.Encoder().encode
encode_sorted = msgspec.json.Encoder(order="deterministic").encode
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Asker(msgspec.Struct, frozen=True, array_like=True):
    """Who asks whom. `key` is 0 for a token, whose account is its subject's; `preset` has its version in it."""

    account: int
    key: int
    endpoint: str
    targets: tuple[str, ...]  # what the model's name stands for: itself, and everything that may answer
    preset: str
    stream: bool


def cache_key(asker: Asker, fields: Mapping[str, msgspec.Raw]) -> bytes:
    """32 bytes, the same for two requests only if any answer to one is an answer to the other.

    `fields` are a request's body by its top-level names, every preset merged in.
    """
    digest = hashlib.blake2b(msgspec.msgpack.encode((VERSION, asker)), digest_size=32)
    digest.update(canonical({name: raw for name, raw in fields.items() if name not in IRRELEVANT}))
    return digest.digest()


def canonical(fields: dict[str, msgspec.Raw]) -> bytes:
    """The same bytes for the same JSON, whatever the order of its fields, its spaces, and how its text is escaped.

    Of numbers, those are the same that are the same double, or the same whole number of any length; at the top level
    `1.0` is `1`. What readers of JSON may take for different things (an object that has a name twice, a number beyond
    all doubles) is the same only byte by byte.
    """
    body = encode_plain(fields)
    try:
        value = decode(body)
    except UNREADABLE:
        return b"-" + encode_plain(dict(sorted(fields.items())))
    for name, field in value.items():
        if type(field) is float and field.is_integer() and -WHOLE < field < WHOLE:
            value[name] = int(field)
    text = encode_sorted(value)
    # Who has a name twice has a colon more than is left of it; whoever writes his colons otherwise is not understood.
    if text.count(b'":') != body.count(b'":'):
        return b"-" + encode_plain(dict(sorted(fields.items())))
    return b"+" + text

"""A request from a worker: who is calling, what is asked, checked against the shapes. And how a refusal goes back."""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from typing import Any

import msgspec

from waypost.api.endpoints import Endpoint, permits
from waypost.api.shapes import Given
from waypost.errors import Refusal
from waypost.formats.json_gate import check_duplicates_slowly
from waypost.formats.openai_chat import parse_object
from waypost.messages import Identity

_identity = msgspec.msgpack.Decoder(Identity)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")


class Asked(msgspec.Struct, frozen=True):
    """What a handler gets. `id` and `name` are the path's: 0 and "" where it has none, or none that can be one.

    `raw` is the body as it came.
    """

    caller: Identity
    query: Any = None
    body: Any = None
    id: int = 0
    name: str = ""
    raw: bytes = b""


NOBODY = Identity(0, 0, "", "", "inference", "")
"""The caller of what is nobody's own."""


def parse_caller(endpoint: Endpoint, header: str | None) -> Identity:
    """Who is calling, as the worker says. It has asked for permission; a second look costs nothing.

    Raises Refusal FORBIDDEN.
    """
    if endpoint.permission in ("public", "metrics"):
        return NOBODY
    try:
        caller = _identity.decode(base64.b64decode(header or "", validate=True))
    except (msgspec.MsgspecError, binascii.Error):
        raise Refusal("FORBIDDEN", "Only a worker may ask this.") from None
    if not permits(endpoint.permission, caller):
        raise Refusal("FORBIDDEN", "This kind of key may not call this endpoint.")
    return caller


def parse_query(kind: type[Given] | None, text: str) -> Given | None:
    """A query string → its shape; what the endpoint does not know is ignored. Raises Refusal INVALID_REQUEST."""
    if kind is None:
        return None
    values: dict[str, str] = {}
    for name, value in urllib.parse.parse_qsl(text, keep_blank_values=True):
        if name not in kind.__struct_fields__:
            continue
        if name in values:
            raise Refusal("INVALID_REQUEST", f"{name}: given twice.", param=name)
        values[name] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise wrong_field(error) from None


def parse_body(kind: type[Given] | None, body: bytes) -> Given | None:
    """A JSON body → its shape. Raises Refusal INVALID_REQUEST, which names the field."""
    if kind is None:
        return None
    fields = parse_object(body)
    check_duplicates_slowly(body, [msgspec.json.encode(name) for name in fields])
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise wrong_field(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal("INVALID_REQUEST", f"The body is not valid JSON: {error}.") from None


def parse_id(text: str) -> int:
    """An object's id; 0, which nothing has, where the text can be none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def wrong_field(error: msgspec.ValidationError) -> Refusal:
    """What msgspec says of a value, with the innermost field's name in front: `cache.ttl`, `tools[2]`."""
    what, _, path = str(error).partition(" - at `$")
    field = path.removesuffix("`").removesuffix("[...]").removeprefix(".")
    for pattern, said in ((_UNKNOWN, "there is no such field"), (_MISSING, "is required")):
        match = pattern.fullmatch(what)
        if match is not None:
            field, what = f"{field}.{match['field'][:100]}".removeprefix("."), said
    return Refusal("INVALID_REQUEST", f"{field}: {what}." if field else f"{what}.", param=field or None)

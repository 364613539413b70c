"""Limits on JSON from strangers, checked on bytes: prompts are never decoded for it.

Cheap bounds clear almost every body; only what they cannot clear is looked at closely, and then exactly.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence

import msgspec

from waypost.errors import Refusal

DEPTH = 64  # levels of arrays and objects
KEYS = 10_000  # in all objects together
CONTAINERS = 100_000  # arrays and objects
COPYING_PAYS = 8192  # bytes of a body up to which marks are counted by leaving them out of a copy
DIGITS = 40  # of one number among the fields that Waypost itself reads

PIECE = 1 << 16  # bytes looked at together, so that what is made of them on the way stays small

STRUCTURE = bytes.maketrans(b"{}[]", b"()()")
REST = bytes(sorted(set(range(256)) - set(b'{}[]:"')))


def check_utf8(body: bytes) -> None:
    """Raises Refusal INVALID_REQUEST where a body is not UTF-8; the JSON decoder does not look in what it skips."""
    view = memoryview(body)
    at = 0
    try:
        while at < len(body):
            at += codecs.utf_8_decode(view[at : at + PIECE], "strict", at + PIECE >= len(body))[1]
    except UnicodeDecodeError:
        raise Refusal("INVALID_REQUEST", "The body is not valid UTF-8.") from None


def check_shape(body: bytes) -> None:
    """Raises Refusal INVALID_REQUEST where valid JSON is over one of the limits: DEPTH, KEYS, CONTAINERS."""
    if is_shallow(body) and has_few_keys(body):
        return
    marks = structure(body)
    if marks.count(b":") > KEYS:
        raise Refusal("INVALID_REQUEST", f"The body has more than {KEYS} JSON keys.")
    if marks.count(b"(") > CONTAINERS:
        raise Refusal("INVALID_REQUEST", f"The body has more than {CONTAINERS} JSON arrays and objects.")
    marks = marks.replace(b":", b"")
    for _ in range(DEPTH):  # each time the innermost level goes
        marks = marks.replace(b"()", b"")
    if marks:
        raise Refusal("INVALID_REQUEST", f"The body nests deeper than {DEPTH} levels of JSON.")


def structure(body: bytes) -> bytes:
    """Valid JSON's brackets and colons outside of strings, in order; `(` and `)` stand for both kinds of bracket."""
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(STRUCTURE, REST).replace(b'""', b"")
    outside = []
    inside = 0  # of a string: each quote that is left enters one or leaves it
    for at in range(0, len(marks), PIECE):
        parts = marks[at : at + PIECE].split(b'"')
        outside.append(b"".join(parts[inside::2]))
        inside = (inside + len(parts) - 1) % 2
    return b"".join(outside)


def has_few_keys(body: bytes) -> bool:
    """True where there are too few colons for KEYS keys; leaving them out jumps between them, unlike `count`."""
    if len(body) <= 5 * KEYS:  # a key takes five bytes: "":1,
        return True
    return len(body) - len(body.replace(b":", b"", KEYS + 1)) <= KEYS


def is_shallow(body: bytes) -> bool:
    """True where there are too few brackets for DEPTH levels; found by jumping, since `count` looks at every byte."""
    if len(body) < COPYING_PAYS:
        return len(body) - len(body.replace(b"{", b"").replace(b"[", b"")) <= DEPTH
    left = DEPTH
    for bracket in (b"{", b"["):
        at = body.find(bracket)
        while at >= 0:
            left -= 1
            if left < 0:
                return False
            at = body.find(bracket, at + 1)
    return True


def check_duplicates(body: bytes, fields: Mapping[str, msgspec.Raw], names: Sequence[bytes], bulk: str) -> None:
    """Raises Refusal INVALID_REQUEST where one of the quoted top-level `names` occurs twice.

    The value of the `bulk` field (the prompts) is cut out. Where what is left has one colon a field, no name can be
    there twice; else the names are counted, and only where that is not conclusive either is the body read again.
    """
    value = fields.get(bulk)
    if value is not None:
        start = body.find(b"[")  # nearly always of the prompts; if not, the same bytes have the same colons anywhere
        if body.startswith(value, start):
            around = body[:start] + body[start + len(value) :]
            if around.count(b":") == len(fields):
                return  # one colon a field and none to spare
    rest = body
    cut = 0
    if value is not None:
        quoted = b'"%b"' % bulk.encode()
        start = body.find(quoted)
        colon = AFTER_NAME.match(body, start + len(quoted)) if start >= 0 else None
        if colon is None or not body.startswith(value, colon.end()):
            check_duplicates_slowly(body, names)
            return
        rest = body[:start] + body[colon.end() + len(value) :]
        cut = 1
    if rest.count(b":") == len(fields) - cut:
        return  # one colon a field and none to spare
    if rest.find(b"\\") >= 0 or (cut and rest.find(quoted) >= 0) or any(rest.count(name) > 1 for name in names):
        check_duplicates_slowly(body, names)


AFTER_NAME = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")


def check_duplicates_slowly(body: bytes, names: Sequence[bytes]) -> None:
    """The same by reading everything; exact."""
    try:
        # Numbers stay text: Python refuses to convert very long ones.
        pairs = json.loads(body, object_pairs_hook=Pairs, parse_int=str, parse_float=str)
    except (
        ValueError,
        RecursionError,
    ) as error:  # what the first decoder let pass, such as a bare line end in a string
        raise Refusal("INVALID_REQUEST", f"The body is not valid JSON: {error}.") from None
    seen = [name for name, _ in pairs]
    for quoted in names:
        name = quoted.decode().strip('"')
        if seen.count(name) > 1:
            raise Refusal("INVALID_REQUEST", f"{name}: the field is given twice.", param=name)


class Pairs(list[tuple[str, object]]):
    """An object as its pairs, duplicates and all."""

"""Limits on JSON from strangers, checked on bytes: prompts are never decoded for it.

Cheap bounds clear almost every body; only what they cannot clear is looked at closely, and then exactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import msgspec

from waypost.errors import Refusal

DEPTH = 64  # levels of arrays and objects
KEYS = 10_000  # in all objects together
DIGITS = 40  # of one number among the fields that Waypost itself reads

STRUCTURE = bytes.maketrans(b"{}[]", b"()()")
REST = bytes(sorted(set(range(256)) - set(b"{}[]:")))


def check_shape(body: bytes) -> None:
    """Raises Refusal INVALID_REQUEST where a valid JSON body nests deeper than DEPTH or has more than KEYS keys."""
    opened = body.count(b"{") + body.count(b"[")
    if opened <= DEPTH and (len(body) <= KEYS or body.count(b":") <= KEYS):
        return
    # Without escapes, every second piece between quotes is outside of strings.
    outside = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    marks = outside.translate(STRUCTURE, REST)
    if marks.count(b":") > KEYS:
        raise Refusal("INVALID_REQUEST", f"The body has more than {KEYS} JSON keys.")
    depth = deepest = 0
    for mark in marks:
        if mark == 40:  # (
            depth += 1
            deepest = max(deepest, depth)
        elif mark == 41:
            depth -= 1
    if deepest > DEPTH:
        raise Refusal("INVALID_REQUEST", f"The body nests deeper than {DEPTH} levels of JSON.")


def check_duplicates(body: bytes, fields: Mapping[str, msgspec.Raw], names: Sequence[bytes], bulk: str) -> None:
    """Raises Refusal INVALID_REQUEST where one of the quoted top-level `names` occurs twice.

    Colons tell it for a flat body. Else the value of the `bulk` field (the prompts) is cut out, and the names are counted
    in what is left; only where that is not conclusive either is the whole body read again.
    """
    value = bytes(fields[bulk]) if bulk in fields else b""
    if body.count(b":") - value.count(b":") == len(fields):
        return  # one colon a field and none to spare
    rest = body
    quoted = b'"%b"' % bulk.encode()
    if value:
        start = body.find(quoted)
        colon = AFTER_NAME.match(body, start + len(quoted)) if start >= 0 else None
        if colon is None or not body.startswith(value, colon.end()):
            check_duplicates_slowly(body, names)
            return
        rest = body[:start] + body[colon.end() + len(value) :]
    if b"\\" in rest or quoted in rest or any(rest.count(name) > 1 for name in names):
        check_duplicates_slowly(body, names)


AFTER_NAME = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")


def check_duplicates_slowly(body: bytes, names: Sequence[bytes]) -> None:
    """The same by reading everything; exact."""
    pairs = json.loads(body, object_pairs_hook=Pairs)
    seen = [name for name, _ in pairs]
    for quoted in names:
        name = quoted.decode().strip('"')
        if seen.count(name) > 1:
            raise Refusal("INVALID_REQUEST", f"{name}: the field is given twice.", param=name)


class Pairs(list[tuple[str, object]]):
    """An object as its pairs, duplicates and all."""

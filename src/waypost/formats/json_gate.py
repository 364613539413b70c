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
JUMPING_PAYS = 8192  # bytes
DIGITS = 40  # of one number among the fields that Waypost itself reads

STRUCTURE = bytes.maketrans(b"{}[]", b"()()")
REST = bytes(sorted(set(range(256)) - set(b"{}[]:")))


def check_shape(body: bytes) -> None:
    """Raises Refusal INVALID_REQUEST where a valid JSON body nests deeper than DEPTH or has more than KEYS keys."""
    if is_shallow(body) and (len(body) <= 5 * KEYS or body.count(b":") <= KEYS):  # a key takes five bytes: "":1,
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


def is_shallow(body: bytes) -> bool:
    """True where there are too few brackets for DEPTH levels; found by jumping, since counting looks at every byte."""
    if len(body) < JUMPING_PAYS:
        return body.count(b"{") + body.count(b"[") <= DEPTH
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

    The value of the `bulk` field (the prompts) is cut out. Where what is left has one colon a field, no name can be there
    twice; else the names are counted, and only where that is not conclusive either is the whole body read again.
    """
    if len(body) < JUMPING_PAYS and bulk in fields:
        if body.count(b":") - bytes(fields[bulk]).count(b":") == len(fields):
            return  # one colon a field and none to spare
    rest = body
    cut = 0
    if bulk in fields:
        value = bytes(fields[bulk])
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
    pairs = json.loads(body, object_pairs_hook=Pairs)
    seen = [name for name, _ in pairs]
    for quoted in names:
        name = quoted.decode().strip('"')
        if seen.count(name) > 1:
            raise Refusal("INVALID_REQUEST", f"{name}: the field is given twice.", param=name)


class Pairs(list[tuple[str, object]]):
    """An object as its pairs, duplicates and all."""

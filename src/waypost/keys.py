"""What a key looks like: minted, checked and digested without asking anyone.

An inference key is `rk_` and 64 lower-case hex digits, a management key `rkm_` and 64. The last 8 digits are the CRC-32
of everything before them, prefix included, so a mistyped key is refused where it arrives. The checksum guards against
slips, not against guessing: that is what the 224 random bits are for.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from typing import Literal

KeyKind = Literal["inference", "management"]

PREFIXES: dict[KeyKind, str] = {"inference": "rk_", "management": "rkm_"}

_RANDOM_BYTES = 28
_CHECKSUM_DIGITS = 8
_matches_shape = re.compile(rb"rkm?_[0-9a-f]{64}").fullmatch
_crc32 = zlib.crc32
_sha256 = hashlib.sha256


def mint_key(kind: KeyKind = "inference") -> str:
    """A new key. It exists only in what is returned: store `digest_of` it, and show it once."""
    unchecked = PREFIXES[kind] + secrets.token_hex(_RANDOM_BYTES)
    return f"{unchecked}{_crc32(unchecked.encode()):08x}"


def is_well_formed(token: bytes) -> bool:
    """Whether `token` has the shape of a key and its checksum agrees; says nothing about its being known."""
    # The checksum goes first: it is what garbage fails, and what is left for the pattern is nearly always a key.
    return (
        b"%08x" % _crc32(token[:-_CHECKSUM_DIGITS]) == token[-_CHECKSUM_DIGITS:] and _matches_shape(token) is not None
    )


def digest_of(token: bytes) -> bytes:
    """SHA-256 of the whole token, 32 bytes: what is stored, cached and sent over the link in the key's place."""
    return _sha256(token).digest()


def shown(token: str) -> str:
    """The key as listings show it, `rk_1a2b…9f0e`: enough to tell keys apart, too little to use one."""
    return f"{token[:7]}…{token[-4:]}"

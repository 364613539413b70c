"""Embeddings by rule: texts that share words point the same way."""

from __future__ import annotations

import array
import base64
import functools
import hashlib
import math
import re
import sys

_WORD = re.compile(r"\w+")
_PER_WORD = 16


@functools.lru_cache(1024)
def embed(text: str, dimensions: int) -> tuple[float, ...]:
    """A vector of length 1 for a text, its members exact in 32 bits."""
    sums = [0.0] * dimensions
    # The text as a whole weighs little, so that no two texts point exactly the same way.
    for word, weight in [(text, 0.25), *((word, 1.0) for word in _WORD.findall(text.lower()))]:
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=_PER_WORD * 4).digest()
        for at in range(0, len(digest), 4):
            value = int.from_bytes(digest[at : at + 4], "big")
            sums[(value >> 1) % dimensions] += weight if value & 1 else -weight
    length = math.sqrt(sum(value * value for value in sums)) or 1.0
    return tuple(array.array("f", (value / length for value in sums)))


def to_base64(vector: tuple[float, ...]) -> str:
    """A vector as little-endian 32-bit floats in base64."""
    floats = array.array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


def to_int8(vector: tuple[float, ...]) -> list[int]:
    """A vector as whole numbers from -128 to 127."""
    return [max(-128, min(127, round(value * 127))) for value in vector]

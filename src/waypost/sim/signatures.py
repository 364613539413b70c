"""The opaque signatures that vendors put on reasoning: made here, and known again when a client brings them back."""

from __future__ import annotations

import base64
import binascii
import hashlib

_KEY = b"waypost simulator"
_NONCE = 8


def sign(text: str, seed: int) -> str:
    """A signature over a text, in base64; `seed` makes two over the same text differ."""
    nonce = (seed & (1 << 64) - 1).to_bytes(_NONCE, "big")
    return base64.b64encode(nonce + _digest(nonce, text)).decode()


def genuine(signature: str, text: str) -> bool:
    """Whether a signature is one of ours over this text. Base64 of either alphabet will do, padded or not."""
    plain = signature.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        raw = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        return False
    return raw[_NONCE:] == _digest(raw[:_NONCE], text)


def _digest(nonce: bytes, text: str) -> bytes:
    return hashlib.blake2b(nonce + text.encode("utf-8", "replace"), key=_KEY, digest_size=40).digest()

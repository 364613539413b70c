"""AWS's binary event stream: messages of typed headers and a payload, with two checksums.

Wire facts: the recorded bodies of `converse-stream`, and AWS's published description of `vnd.amazon.eventstream`.
"""

from __future__ import annotations

import struct
import zlib

_STRING = 7


def render_message(headers: tuple[tuple[str, str], ...], payload: bytes) -> bytes:
    """One message; every header's value is a string."""
    head = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _STRING, len(value)) + value.encode()
        for name, value in headers
    )
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return body + struct.pack(">I", zlib.crc32(body))

"""AWS's binary event stream, `application/vnd.amazon.eventstream`: bytes in whatever pieces ⇄ frames.

A frame is: its length and the length of its headers (4 bytes each, big-endian), the CRC-32 of these eight bytes, the
headers, the payload, and the CRC-32 of everything before. Source: the Smithy specification, "Amazon Event Stream".
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Mapping

import msgspec

from waypost.completion import BadAnswer

PRELUDE = struct.Struct(">III")
CHECKSUM = struct.Struct(">I")
LEAST = PRELUDE.size + CHECKSUM.size
FRAME_LIMIT = 24 * 1024 * 1024  # bytes; the specification's own

KNOWN = 32  # headers that are kept to be met again

Header = bool | int | bytes | str

# The types of a header's value, by their number: how those of a fixed length are read.
TRUE, FALSE, BLOB, TEXT, UUID = 0, 1, 6, 7, 9
NUMBERS: dict[int, struct.Struct] = {
    2: struct.Struct(">b"), 3: struct.Struct(">h"), 4: struct.Struct(">i"), 5: struct.Struct(">q"),
    8: struct.Struct(">q"),  # milliseconds since 1970 UTC
}  # fmt: skip
LENGTH = struct.Struct(">H")


class Frame(msgspec.Struct, frozen=True):
    """One message: its headers by name, and its payload."""

    headers: dict[str, Header]
    payload: bytes

    def text(self, name: str) -> str:
        """A header that is a string; "" where there is none."""
        value = self.headers.get(name)
        return value if isinstance(value, str) else ""


class FrameSplitter:
    """Cuts a stream into its frames. Owned by one answer."""

    __slots__ = ("_known", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._known: dict[bytes, dict[str, Header]] = {}  # headers met before: a stream has few

    @property
    def is_between(self) -> bool:
        """Has every frame that began also ended?"""
        return not self._tail

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete. Raises BadAnswer where a checksum or a length is wrong; `cut` loses nothing."""
        frames, error = self.cut(data)
        if error is not None:
            raise error
        return frames

    def cut(self, data: bytes) -> tuple[list[Frame], BadAnswer | None]:
        """The frames that are complete, and what is wrong with the one behind them."""
        data = self._tail + data if self._tail else data
        frames: list[Frame] = []
        at = 0
        try:
            while len(data) - at >= PRELUDE.size:
                total, headers = parse_prelude(data, at)
                if len(data) - at < total:
                    break
                frames.append(parse_frame(data[at : at + total], headers, self._known))
                at += total
        except BadAnswer as error:
            self._tail = b""
            return frames, error
        self._tail = data[at:]
        return frames, None


def parse_prelude(data: bytes, at: int) -> tuple[int, int]:
    """The length of the frame that begins here, and that of its headers. Raises BadAnswer."""
    total, headers, checksum = PRELUDE.unpack_from(data, at)
    if zlib.crc32(data[at : at + 8]) != checksum:
        raise BadAnswer("the upstream sent a frame whose checksum is wrong")
    if not LEAST + headers <= total <= FRAME_LIMIT:
        raise BadAnswer("the upstream sent a frame of an impossible length")
    return total, headers


def parse_frame(data: bytes, size: int, known: dict[bytes, dict[str, Header]]) -> Frame:
    """Exactly one frame, whose prelude has been checked: its headers have that size. `known` is added to.

    Raises BadAnswer.
    """
    checked = data[: -CHECKSUM.size]
    if zlib.crc32(checked) != CHECKSUM.unpack(data[-CHECKSUM.size :])[0]:
        raise BadAnswer("the upstream sent a frame whose checksum is wrong")
    end = PRELUDE.size + size
    raw, payload = checked[PRELUDE.size : end], checked[end:]
    headers = known.get(raw)
    if headers is not None:
        return Frame(headers, payload)
    try:
        headers = parse_headers(raw)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError):
        raise BadAnswer("the upstream sent a frame whose headers can't be read") from None
    if len(known) < KNOWN:
        known[raw] = headers
    return Frame(headers, payload)


def parse_headers(data: bytes) -> dict[str, Header]:
    """Headers by name. Raises struct.error, IndexError, ValueError where they are cut off or unknown."""
    headers: dict[str, Header] = {}
    at = 0
    while at < len(data):
        start = at + 1
        at = start + data[at]
        name = take(data, start, at).decode()
        kind = data[at]
        at += 1
        if kind in (TRUE, FALSE):
            headers[name] = kind == TRUE
        elif kind in (BLOB, TEXT):
            (length,) = LENGTH.unpack_from(data, at)
            value = take(data, at + LENGTH.size, at + LENGTH.size + length)
            headers[name] = value.decode() if kind == TEXT else value
            at += LENGTH.size + length
        elif kind == UUID:
            headers[name] = str(uuid.UUID(bytes=take(data, at, at + 16)))
            at += 16
        else:
            number = NUMBERS.get(kind)
            if number is None:
                raise ValueError(kind)
            (headers[name],) = number.unpack_from(data, at)
            at += number.size
    return headers


def take(data: bytes, start: int, end: int) -> bytes:
    """A piece that must be whole. Raises IndexError."""
    if end > len(data):
        raise IndexError
    return data[start:end]


def render_frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """A frame with headers that are strings, as AWS's services send them."""
    rendered = b"".join(
        b"%c%b%c%b%b" % (len(name), name, TEXT, LENGTH.pack(len(value)), value)
        for name, value in ((name.encode(), value.encode()) for name, value in headers.items())
    )
    total = LEAST + len(rendered) + len(payload)
    prelude = struct.pack(">II", total, len(rendered))
    frame = prelude + CHECKSUM.pack(zlib.crc32(prelude)) + rendered + payload
    return frame + CHECKSUM.pack(zlib.crc32(frame))

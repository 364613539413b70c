"""The file of a journal: names, header, frames. What a worker writes so and the keeper reads; pure bytes, no I/O.

A journal is a worker's from its start to its death. Its lines stand in segments, files of a fixed size that are
allocated before they are written:

    header, 64 bytes    `WAYPOST1`, the journal's name (48 bytes, zeros behind it), number of the segment (u32), crc32
                        of these 60 bytes (u32)
    frames              length of the payload (u32), crc32 of the payload (u32), payload: a line as MessagePack
    end                 length 0: nothing more yet. Length 0xFFFFFFFF: sealed, it goes on in the next segment.

All numbers are little-endian. A frame is copied into a mapped file, so a reader may see a part of it: then the crc is
wrong. In a living journal that means "look again"; in a dead one it is the torn end, which nobody has built on.
"""

from __future__ import annotations

import pathlib
import re
import struct
import zlib
from typing import Final, Literal, NamedTuple

import msgspec

from waypost.records import AnyLine, Line

MAGIC: Final = b"WAYPOST1"
HEADER: Final = 64
"""Bytes of the header: the first frame begins here."""

FRAME: Final = 8
"""Bytes of a frame before its payload."""

SEAL: Final = b"\xff\xff\xff\xff"
"""Stands in a length's place when a segment is full."""

SEGMENT: Final = 8 * 1024 * 1024
"""Bytes of a segment."""

MAX_LINE: Final = 1024 * 1024
"""Bytes of a line's payload: a length above it is not a length."""

_header = struct.Struct("<8s48sI")
PAIR: Final = struct.Struct("<II")
_number = struct.Struct("<I")
_sealed = 0xFFFFFFFF
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyLine] = msgspec.msgpack.Decoder(AnyLine)


class LineError(ValueError):
    """A line cannot be written: it is longer than `MAX_LINE`, or holds text that is not Unicode."""


class HeaderError(ValueError):
    """A file is not a segment of the version that this program reads."""


# Names of files


def folder(data: pathlib.Path) -> pathlib.Path:
    """Where in the data folder the journals are."""
    return data / "journal"


def journal_name(worker: int, token: str) -> str:
    """A journal's name. `token`: 16 hexadecimal digits, drawn anew at every start of a worker."""
    return f"{worker}-{token}"


def segment_name(journal: str, number: int) -> str:
    """The name of a journal's segment `number`, counted from 1."""
    return f"{journal}.{number:08d}"


def alive_name(journal: str) -> str:
    """The name of the file that a worker holds locked (flock, exclusively) as long as it lives."""
    return f"{journal}.alive"


def parse_file_name(name: str) -> tuple[str, int] | None:
    """A file's name → (journal, number of the segment, 0 for its `.alive` file), or None: not a journal's."""
    match = re.fullmatch(r"([0-9]{1,9}-[0-9a-f]{16})\.(alive|[0-9]{8})", name)
    if match is None:
        return None
    return match[1], 0 if match[2] == "alive" else int(match[2])


# Bytes


class Header(NamedTuple):
    """Whose segment it is, and which one."""

    journal: str
    number: int


def render_header(journal: str, number: int) -> bytes:
    """The first `HEADER` bytes of a segment."""
    head = _header.pack(MAGIC, journal.encode("ascii"), number)
    return head + _number.pack(zlib.crc32(head))


def parse_header(data: bytes) -> Header | None:
    """The beginning of a segment → its header; None if it has not been written yet. Raises `HeaderError`."""
    if not any(data[:HEADER]):
        return None
    if len(data) < HEADER:
        raise HeaderError(f"the header has {len(data)} bytes; it takes {HEADER}")
    magic, journal, number = _header.unpack_from(data)
    if magic != MAGIC:
        raise HeaderError(f"the file begins with {magic!r} and not with {MAGIC!r}")
    if _number.unpack_from(data, _header.size)[0] != zlib.crc32(data[: _header.size]):
        raise HeaderError("the header's checksum is wrong")
    return Header(journal.rstrip(b"\0").decode("ascii"), number)


def render_frame(line: Line) -> bytes:
    """One line's frame. Raises `LineError`."""
    try:
        payload = _encoder.encode(line)
    except (UnicodeEncodeError, OverflowError) as error:
        raise LineError(f"a line cannot be written: {error}") from None
    if len(payload) > MAX_LINE:
        raise LineError(f"a line takes {len(payload)} bytes; the most is {MAX_LINE}")
    return PAIR.pack(len(payload), zlib.crc32(payload)) + payload


class Reading(NamedTuple):
    """The lines that were read, where to go on, and why it ended there.

    - open: nothing more has been written yet, or the buffer ends before the next length
    - sealed: the segment is full; the next one has the rest
    - torn: what stands at `offset` is not a whole frame: being written, cut by the buffer's end, or damaged
    - unknown: what stands at `offset` is whole, but no line that this version knows
    """

    lines: list[AnyLine]
    offset: int
    end: Literal["open", "sealed", "torn", "unknown"]


def read_lines(buffer: bytes | bytearray | memoryview, offset: int) -> Reading:
    """The lines of a segment, or of any piece of one that begins at a frame, from `offset` in `buffer` on.

    A piece of `FRAME + MAX_LINE` bytes holds at least one whole frame: with fewer left, "torn" may only mean that the
    piece ends too early.
    """
    view = memoryview(buffer)
    size = len(view)
    lines: list[AnyLine] = []
    end: Literal["open", "sealed", "torn", "unknown"] = "open"
    unpack, crc32, decode = PAIR.unpack_from, zlib.crc32, _decoder.decode
    while offset + FRAME <= size:
        length, crc = unpack(view, offset)
        if length == 0 or length == _sealed:
            break
        start = offset + FRAME
        after = start + length
        if length > MAX_LINE or after > size:
            end = "torn"
            break
        payload = view[start:after]
        if crc32(payload) != crc:
            end = "torn"
            break
        try:
            lines.append(decode(payload))
        except msgspec.MsgspecError:
            end = "unknown"
            break
        offset = after
    if end == "open" and offset + len(SEAL) <= size and bytes(view[offset : offset + len(SEAL)]) == SEAL:
        end = "sealed"
    return Reading(lines, offset, end)

"""What one answer consisted of, so that it can be said again, and to others while it comes.

It is what the caller was sent: OpenAI's format, whatever the upstream speaks, in the pieces of the original. What
belongs to the one request (its id, when it was, how long it took, what it cost) is taken out of them, so that each
repetition has its own.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from waypost.formats.openai_chat import Fields, decode_fields, encode
from waypost.http.exchange import Exchange
from waypost.worker.relay import DONE

# Control characters stand for what is filled in: raw, they occur nowhere in JSON. One byte each, since that is what can
# be replaced quickest.
ID: Final = b"\x00"  # with its quotes
CREATED: Final = b"\x01"
LATENCY: Final = b"\x02"
MARKS: Final = (ID, CREATED, LATENCY)
ID_LENGTH: Final = 37  # of what stands for them: but for the last, a piece is always of the same length
CREATED_LENGTH: Final = 10
ZERO: Final = msgspec.Raw(b"0")
ANSWERS: Final = frozenset(("choices", "data"))  # one of these has an answer: a chat's, or embeddings

VERSION: Final = b"W1"
LARGEST: Final = 64 * 1024 * 1024
"""Bytes that a recording may have when it is unpacked: more than any is packed with."""

# An event's `created`, where it stands in front of everything that has names of its own.
find_created = re.compile(rb'((?:\A|(?<=\n))data: \{[^\n\[{]*?"created": ?)[0-9]+(?=[,}])').sub
FAILED: Final = re.compile(rb'"finish_reason": ?"error"').search


class BadRecording(ValueError):
    """Bytes that are no recording, or one of another version."""


class Recording(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A whole answer of status 200, ready to be said again.

    `source` is the id of the request that it was the answer to (26 characters), `at` when it was whole, milliseconds
    since 1970 UTC, `created` what it said of that itself, in seconds. `last` is a stream's last piece, or the whole
    body; `framed` are the pieces before it, each a chunk of HTTP/1.1 once `fill` has put in what is missing.
    """

    source: bytes
    at: int
    created: int
    stream: bool
    dropped: str  # what its `X-Dropped-Params` said
    framed: bytes
    last: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.framed) + len(self.last)


# Bytes and back


def pack(recording: Recording) -> bytes:
    """Compressed, to be kept elsewhere."""
    return VERSION + zlib.compress(msgspec.msgpack.encode(recording), 1)


def unpack(data: bytes) -> Recording:
    """What `pack` made. Raises BadRecording."""
    if not data.startswith(VERSION):
        raise BadRecording("not a recording of this version")
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data[len(VERSION) :], LARGEST)
        if not inflater.eof or inflater.unused_data:
            raise BadRecording("a recording is cut, or larger than any that is made")
        return msgspec.msgpack.decode(plain, type=Recording)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRecording(f"a recording cannot be read: {error}") from None


# What belongs to the one request, taken out and put in


class Ending(msgspec.Struct, frozen=True):
    """The last piece of an answer, with marks in its last JSON; and the `created` that stood there."""

    content: bytes
    created: int


def seal(pieces: Sequence[bytes], stream: bool, request_id: bytes, at: int, dropped: str = "") -> Recording | None:
    """The pieces of a whole answer → its recording; None where it is not one that could be said again.

    `request_id` is what stands in the pieces as their id, such as `chatcmpl_01…`; `dropped` goes along.
    """
    ending = seal_ending(pieces[-1], stream)
    if ending is None or any(piece.find(mark) >= 0 for piece in pieces for mark in MARKS):
        return None  # an error; or no JSON: an upstream's bytes that were passed on as they came
    framed, last = b"", ending.content
    if stream:
        marked = [find_created(rb"\g<1>" + CREATED, piece) for piece in (*pieces[:-1], last)]
        *before, last = [piece.replace(b'"%b"' % request_id, ID) for piece in marked]
        if any(FAILED(piece) is not None for piece in (*before, last)):
            return None
        framed = b"".join(map(frame, before))
    return Recording(request_id[-26:], at, ending.created, stream, dropped, framed, last)


def frame(piece: bytes) -> bytes:
    """A chunk of HTTP/1.1, whose size is that of the piece when its marks are filled in."""
    size = len(piece) + piece.count(ID) * (ID_LENGTH - 1) + piece.count(CREATED) * (CREATED_LENGTH - 1)
    return b"%x\r\n%b\r\n" % (size, piece)


def seal_ending(piece: bytes, stream: bool) -> Ending | None:
    """A stream's last piece, or all of another answer; None where it is not how a whole one ends."""
    if not stream:
        fields = parse_fields(piece)
        if fields is None or ANSWERS.isdisjoint(fields) or FAILED(piece) is not None:
            return None
        if "id" in fields:
            fields["id"] = msgspec.Raw(ID)
        created = take_out(fields)
        return Ending(encode(fields), created)
    if not piece.endswith(DONE):
        return None
    start = piece.rfind(b"\n\n", 0, -len(DONE) - 2) + 2 if piece.count(b"\n\n") > 2 else 0
    fields = parse_fields(piece[start : -len(DONE)].removeprefix(b"data: "))
    if fields is None or "choices" not in fields:
        return None
    created = take_out(fields)
    return Ending(b"%bdata: %b\n\n%b" % (piece[:start], encode(fields), DONE), created)


def parse_fields(data: bytes) -> Fields | None:
    """A JSON object, or nothing."""
    try:
        return decode_fields(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def take_out(fields: Fields) -> int:
    """Of the last JSON of an answer: when it was made and how long it took become marks, and it costs nothing.

    Returns when it was made.
    """
    created = bytes(fields.get("created", ZERO))
    if "created" in fields:
        fields["created"] = msgspec.Raw(CREATED)
    if "latency_ms" in fields:
        fields["latency_ms"] = msgspec.Raw(LATENCY)
    fields.pop("waypost", None)  # how it came about, which is not how a repetition does
    usage = parse_fields(bytes(fields.get("usage", ZERO)))
    if usage is not None and ("cost" in usage or "cost_details" in usage):
        usage.pop("cost_details", None)
        usage["cost"] = ZERO
        fields["usage"] = msgspec.Raw(encode(usage))
    return int(created) if created.isdigit() and len(created) < 16 else 0


def fill(content: bytes, request_id: bytes, created: int, latency_ms: int) -> bytes:
    """Put in what belongs to this request; `created` is in seconds since 1970 UTC."""
    content = content.replace(ID, b'"%b"' % request_id).replace(CREATED, b"%010d" % created)
    return content.replace(LATENCY, b"%d" % latency_ms)


def replay(
    recording: Recording, exchange: Exchange, headers: bytes, request_id: bytes, created: int, latency_ms: int
) -> None:
    """Say it again: a stream in its original pieces. `headers` are those of a good answer."""
    last = fill(recording.last, request_id, created, latency_ms)
    if recording.stream:
        exchange.start(200, headers)
        exchange.end_framed(fill(recording.framed, request_id, created, latency_ms), last)
    else:
        exchange.respond(200, headers, last)

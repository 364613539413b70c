"""Limits, bodies that inflate, and status lines: what requests and answers are made of besides their heads."""

from __future__ import annotations

import http
import zlib

import msgspec

from waypost.errors import Refusal


class Limits(msgspec.Struct, frozen=True):
    """What one connection may cost us (bytes, seconds, counts); `docs/limits.md` lists them for users."""

    request_line: int = 8 * 1024
    header_block: int = 16 * 1024  # all header lines with their line ends
    headers: int = 100
    body: int = 25 * 1024 * 1024
    inflation: int = 20  # a gzip body may grow this many times
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    body_rate: int = 1024  # bytes a second, over windows of five seconds
    idle_seconds: float = 75.0
    write_seconds: float = 60.0  # a reader that takes nothing for this long is gone
    connections: int = 2000
    pipelined: int = 100


class Inflater:
    """Inflates a gzip body as it comes, within the limits."""

    __slots__ = ("_limits", "_received", "_size", "_zlib")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._zlib = zlib.decompressobj(wbits=31)
        self._received = 0
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """What these bytes inflate to. Raises Refusal BODY_TOO_LARGE or INVALID_REQUEST."""
        self._received += len(data)
        room = min(self._limits.body, self._limits.inflation * self._received) - self._size
        try:
            out = self._zlib.decompress(data, max(room, 0) + 1)
        except zlib.error as error:
            raise Refusal("INVALID_REQUEST", f"The body is not valid gzip: {error}.") from None
        self._size += len(out)
        if self._size > self._limits.body:
            raise too_large(self._limits)
        if len(out) > room:
            raise Refusal(
                "BODY_TOO_LARGE",
                f"The gzip body grows more than {self._limits.inflation} times; send it uncompressed.",
            )
        if self._zlib.unused_data:
            raise Refusal("INVALID_REQUEST", "The body goes on after the end of its gzip data.")
        return out

    @property
    def is_whole(self) -> bool:
        """True at the end of the gzip data, or where there was none at all."""
        return self._zlib.eof or not self._received


def find_inflater(limits: Limits, encoding: bytes) -> Inflater | None:
    """For a Content-Encoding. Raises Refusal UNSUPPORTED_ENCODING."""
    encoding = encoding.lower()
    if encoding in (b"", b"identity"):
        return None
    if encoding in (b"gzip", b"x-gzip"):
        return Inflater(limits)
    raise Refusal(
        "UNSUPPORTED_ENCODING", f"Content-Encoding {shown(encoding)} is not supported; send gzip or no encoding."
    )


def too_large(limits: Limits) -> Refusal:
    """The refusal of a body over the limit."""
    return Refusal(
        "BODY_TOO_LARGE", f"The body is larger than {limits.body} bytes (server.max_body in the configuration)."
    )


def shown(value: bytes) -> str:
    """Bytes of a stranger, safe to put into a message."""
    return repr(value[:100].decode("latin-1"))


STATUS_LINES: dict[int, bytes] = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus
}


def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK` and its line end, for any status an upstream may have sent."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status

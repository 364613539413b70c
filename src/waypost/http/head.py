"""Request heads as bytes: checked and read where they lie, never taken apart into a table that nobody asks for.

llhttp decides what is HTTP and where a message ends; this reads, of what llhttp accepts, the few fields that are
wanted, and refuses what RFC 9112 lets a server refuse and llhttp lets pass.
"""

from __future__ import annotations

import re

from waypost.errors import Refusal
from waypost.http.message import Limits, shown

HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=-]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?").fullmatch
SPECIAL = (b"\r\nupgrade:", b"\r\nexpect:", b"\r\ncontent-encoding:")  # headers that change how a request is taken
WISHES = (b"\r\nx-waypost-", b"\r\nidempotency-key:")
GOOD_HOSTS: set[bytes | None] = set()  # seen and found good
MANY_HOSTS = 1000
UPGRADE = re.compile(rb"\r\n(?:upgrade|connection|http2-settings):[^\r\n]*", re.IGNORECASE)


class Head:
    """One request's head. `raw` ends with the line end of its last header.

    Clients send the same head again and again on a connection, but for the digits of Content-Length: `same` knows it
    by its bytes, so that it is checked and read once. `note` is the application's, for what it read out of the head;
    `has_wishes` says that there is a header which hardly anybody sends, and that asks for something out of the usual.
    """

    __slots__ = (
        "_after", "_before", "_limit", "_lower", "has_wishes", "is_plain", "length", "method", "note", "old", "path",
        "raw",
    )  # fmt: skip

    def __init__(self, raw: bytes, limits: Limits) -> None:
        """Raises Refusal BAD_REQUEST, URL_TOO_LONG or HEADERS_TOO_LARGE."""
        self.raw = raw
        self.note: object = None
        self._before = self._after = b""  # what is around the digits of Content-Length
        self._limit = 0  # bytes that a head with this request line may have
        lower = self._lower = raw.lower()
        first_end = raw.index(b"\r\n")
        if first_end + 2 > limits.request_line:
            raise too_long(limits)
        if len(raw) - first_end - 2 > limits.header_block:
            raise Refusal("HEADERS_TOO_LARGE", f"The headers are larger than {limits.header_block} bytes.")
        if raw.count(b"\r\n") - 1 > limits.headers:
            raise Refusal("HEADERS_TOO_LARGE", f"There are more than {limits.headers} headers.")
        words = raw[:first_end].split(b" ")
        if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise bad("the request line is not METHOD TARGET HTTP/1.1")
        self.method, self.path = words[0].decode("latin-1"), path_of(words[1])
        self._limit = first_end + 2 + limits.header_block
        self.old = words[2] == b"HTTP/1.0"
        # `bytes in bytes` first tries its left side as a number, which costs half a microsecond; `find` does not.
        if raw.find(b"\r\n ") >= 0 or raw.find(b"\r\n\t") >= 0:
            raise bad("a header goes on in a second line")
        host = self.get(b"host")
        if host not in GOOD_HOSTS:
            self._check_host(host)
        self.length = self._body_length(lower)
        self.has_wishes = any(lower.find(name) >= 0 for name in WISHES)
        self.is_plain = self.method != "CONNECT" and not any(lower.find(name) >= 0 for name in SPECIAL)

    def _check_host(self, host: bytes | None) -> None:
        if host is None:
            if not self.old:
                raise bad("the Host header is missing")
        elif not HOST(host):
            raise bad(f"the Host header {shown(host)} is not a host")
        elif len(GOOD_HOSTS) < MANY_HOSTS:
            GOOD_HOSTS.add(host)

    def _body_length(self, lower: bytes) -> int:
        """Bytes of the body: 0 for none, -1 for chunked. Only llhttp's view of it counts; it has yet to agree."""
        if lower.find(b"\r\ntransfer-encoding:") >= 0:
            coding = self.get(b"transfer-encoding")
            if coding is None or coding.lower() != b"chunked" or self.old:
                raise bad("Transfer-Encoding may only be chunked")
            return -1
        length = self.get(b"content-length")
        if length is None:
            return 0
        if not length.isdigit() or len(length) > 18:
            raise bad("Content-Length is not a number")
        start = self.raw.index(length, lower.index(b"\r\ncontent-length:") + 17)
        self._before, self._after = self.raw[:start], self.raw[start + len(length) :]
        return int(length)

    def same(self, raw: bytes) -> int:
        """The length of the body where `raw` is this head again but for that length; else -1."""
        before, after = self._before, self._after
        if before and raw == self.raw:
            return self.length
        if not before or not raw.startswith(before) or not raw.endswith(after) or len(raw) > self._limit:
            return -1
        digits = raw[len(before) : len(raw) - len(after)]
        return int(digits) if digits.isdigit() and len(digits) <= 18 else -1

    def get(self, name: bytes) -> bytes | None:
        """A header's value by its lower-case name. Raises Refusal BAD_REQUEST where it is sent twice."""
        lower = self._lower
        needle = b"\r\n%b:" % name
        at = lower.find(needle)
        if at < 0:
            return None
        start = at + len(needle)
        if lower.find(needle, start) >= 0:
            raise bad(f"the header {name.decode()} is sent twice")
        return self.raw[start : self.raw.index(b"\r\n", start)].strip(b" \t")

    def get_all(self, name: bytes) -> bytes:
        """The values of a header that may be sent more than once, joined by commas; empty where there is none."""
        return b", ".join(re.findall(rb"\r\n%b:([^\r\n]*)" % re.escape(name), self._lower))

    def has(self, part: bytes) -> bool:
        """Do these lower-case bytes occur anywhere in the head?"""
        return self._lower.find(part) >= 0

    def without_upgrade(self) -> bytes:
        """The head less an offer to speak another protocol, which is ignored here (RFC 9110 §7.8)."""
        keep = b"\r\nconnection: close" if b"close" in self.get_all(b"connection") else b""
        return UPGRADE.sub(b"", self.raw[:-2]) + keep + b"\r\n"


def path_of(target: bytes) -> bytes:
    """The path of a target: without the query, and in absolute-form (RFC 9112 §3.2.2) what follows the authority."""
    if not target.startswith(b"/"):
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    return target.partition(b"?")[0]


def bad(what: str) -> Refusal:
    """A refusal of bytes that are not HTTP/1.1 as we serve it."""
    return Refusal("BAD_REQUEST", f"The request is not valid HTTP/1.1: {what}.")


def too_long(limits: Limits) -> Refusal:
    """The refusal of a request line over the limit."""
    return Refusal("URL_TOO_LONG", f"The request line is over {limits.request_line} bytes.")


def check_unfinished(raw: bytes, limits: Limits) -> None:
    """A head whose end has not come may not grow without end. Raises Refusal URL_TOO_LONG or HEADERS_TOO_LARGE."""
    if len(raw) > limits.request_line and raw.find(b"\r\n", 0, limits.request_line) < 0:
        raise too_long(limits)
    if len(raw) > limits.request_line + limits.header_block + 2:
        raise Refusal("HEADERS_TOO_LARGE", f"The headers are larger than {limits.header_block} bytes.")

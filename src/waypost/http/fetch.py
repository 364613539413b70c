"""What a caller's URL holds, for upstreams that take media only as they are: one guarded way out.

The caller decides where this goes, so it goes to public addresses only: every address is checked as it is connected to
(a name that is looked up twice may give two answers), redirects are followed by the same rules, and size, time and
types are capped. No proxy is used, since behind one nobody could check an address.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
import urllib.parse
from collections.abc import Callable
from typing import Final

import msgspec

from waypost import __version__
from waypost.http.call import Reply, ask
from waypost.http.client import REDIRECTS, ClientConnection, UpstreamFailure, find_header
from waypost.http.pool import Names, connected, tls_context
from waypost.http.timers import Deadlines
from waypost.http.transports import open_connection

MOST_BYTES: Final = 20 * 1024 * 1024
SECONDS: Final = 15.0
MOST_REDIRECTS: Final = 5
URL_LENGTH: Final = 4096
PORTS: Final = frozenset({80, 443})
TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address behind NAT64
# Python 3.11 takes these for global: site-local, 6to4's relays, IETF's own, documentation (RFC 3879, 7526, 6890, 9637).
KEPT_OUT: Final = tuple(map(ipaddress.ip_network, ("fec0::/10", "192.88.99.0/24", "192.0.0.0/24", "3fff::/20")))
TYPES: Final = ("image/", "audio/", "video/")
DOCUMENTS: Final = frozenset({"application/pdf", "text/plain", "text/markdown", "text/csv"})
# What servers that don't know send all the same, by its first bytes.
MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
)


class FetchFailed(Exception):
    """The medium could not be had; the message is fit for the caller, and names no address."""


class Medium(msgspec.Struct, frozen=True):
    """What a URL held."""

    type: str
    data: bytes

    @property
    def url(self) -> str:
        """As a data URL."""
        return f"data:{self.type};base64,{base64.b64encode(self.data).decode()}"


def is_public(address: str, port: int) -> bool:
    """Is it an address of the whole internet, none of ours, of a neighbour's or of the machine's keeper's?"""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False  # such as one with a zone: fe80::1%eth0
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo and parsed.teredo[1])
        if inner is None and parsed in TRANSLATED:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner), port)
    if any(parsed in network for network in KEPT_OUT):
        return False
    return port in PORTS and parsed.is_global and not (parsed.is_multicast or parsed.is_reserved)


class Fetcher:
    """Gets media. `may_connect` is asked of every address and port right before it is connected to."""

    def __init__(
        self,
        deadlines: Deadlines,
        names: Names,
        may_connect: Callable[[str, int], bool] = is_public,
        *,
        most: int = MOST_BYTES,
        seconds: float = SECONDS,
    ) -> None:
        self._deadlines = deadlines
        self._names = names
        self._may_connect = may_connect
        self._most = most
        self._seconds = seconds
        self._tls: ssl.SSLContext | None = None  # made at the first need: it reads all authorities of the system

    async def fetch(self, url: str) -> Medium:
        """What is there. Raises FetchFailed. To be awaited in a task."""
        try:
            async with asyncio.timeout(self._seconds):
                for _ in range(MOST_REDIRECTS + 1):
                    reply, location = await self._get(url)
                    if reply.status not in REDIRECTS:
                        return medium_of(reply)
                    if not location:
                        raise FetchFailed("it redirects to nowhere")
                    url = urllib.parse.urljoin(url, location.decode("latin-1"))
                raise FetchFailed(f"it leads through more than {MOST_REDIRECTS} redirects")
        except TimeoutError:
            raise FetchFailed(f"it did not come within {self._seconds:g} s") from None
        except UpstreamFailure as failure:
            raise FetchFailed(failure.message.replace("the upstream", "its server")) from None
        except (OSError, UnicodeError):
            raise FetchFailed("its server cannot be reached") from None

    async def _get(self, url: str) -> tuple[Reply, bytes]:
        """One answer, and where it leads."""
        if len(url) > URL_LENGTH or not url.isascii() or not url.isprintable() or " " in url:
            raise FetchFailed("its URL is none that can be fetched")
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise FetchFailed("its URL is none that can be fetched") from None
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
            raise FetchFailed("only http(s)://host/… is fetched")
        connection = await self._connect(parts.hostname, port, parts.scheme == "https")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = (
            f"GET {path} HTTP/1.1", f"host: {parts.netloc}", "accept: */*", "accept-encoding: identity",
            f"user-agent: waypost/{__version__}", "connection: close", "", "",
        )  # fmt: skip
        try:
            reply = await ask(connection, "\r\n".join(lines).encode("ascii"), self._most)
            return reply, connection.location
        finally:
            connection.abandon()

    async def _connect(self, host: str, port: int, tls: bool) -> ClientConnection:
        loop = asyncio.get_running_loop()
        if tls and self._tls is None:
            self._tls = await loop.run_in_executor(None, tls_context, None)
        failure: OSError | None = None
        is_kept_out = False
        for family, address in await self._names.addresses(host, port):
            if not self._may_connect(address, port):
                is_kept_out = True
                continue
            try:
                sock = await connected(loop, family, (address, port))
            except OSError as error:
                failure = error
                continue
            try:
                return await open_connection(
                    lambda: ClientConnection(self._deadlines, ClientConnection.close, lambda _: None),
                    sock,
                    self._tls if tls else None,
                    host,
                )
            except BaseException:
                sock.close()
                raise
        if is_kept_out and failure is None:
            raise FetchFailed("its address is not a public one")
        raise failure or OSError("no address")


def medium_of(reply: Reply) -> Medium:
    """An answer's medium. Raises FetchFailed."""
    if reply.status != 200:
        raise FetchFailed(f"its server answered {reply.status}")
    if not reply.body:
        raise FetchFailed("it is empty")
    encoding = find_header(reply.head, b"content-encoding")
    if encoding not in (b"", b"identity"):
        raise FetchFailed("its server compressed it although that was not asked for")
    type = find_header(reply.head, b"content-type").decode("latin-1").partition(";")[0].strip()
    if type in ("", "application/octet-stream", "binary/octet-stream"):
        type = type_of(reply.body)
    if not (type.startswith(TYPES) or type in DOCUMENTS):
        raise FetchFailed(f"its type {type[:100]!r} is not one of a picture, a document, sound or a film")
    return Medium(type, reply.body)


def type_of(data: bytes) -> str:
    """By the first bytes; what is not known is octets."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((type for magic, type in MAGIC if data.startswith(magic)), "application/octet-stream")

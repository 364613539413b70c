"""Where sockets and TLS come from: aiofastnet, or the event loop's own where it is missing."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

try:
    import aiofastnet
except ImportError:  # the same calls, somewhat slower
    aiofastnet = None  # type: ignore[assignment]

BACKLOG = 2048
READ_SIZE = 256 * 1024  # bytes
READ_VIEW = memoryview(bytearray(READ_SIZE))
P = TypeVar("P", bound="Reading")


class Reading(asyncio.BufferedProtocol):
    """A protocol that reads into one buffer shared by all connections, and is handed what came as bytes.

    A transport that allocates its largest read each time costs three system calls a read (mmap, mremap, munmap).
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def data_received(self, data: bytes) -> None:
            """What one read brought."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """The shared buffer: nothing stays in it between two calls."""
        return READ_VIEW

    def buffer_updated(self, nbytes: int) -> None:
        """A read has filled the buffer's beginning."""
        self.data_received(READ_VIEW[:nbytes].tobytes())


async def create_server(
    factory: Callable[[], Reading], sock: socket.socket, tls: ssl.SSLContext | None
) -> asyncio.AbstractServer:
    """Accept on a bound socket, TCP or UNIX."""
    loop = asyncio.get_running_loop()
    unix = sock.family == socket.AF_UNIX
    if aiofastnet is None:
        create = loop.create_unix_server if unix else loop.create_server
        return await create(factory, sock=sock, ssl=tls, backlog=BACKLOG)
    create = aiofastnet.create_unix_server if unix else aiofastnet.create_server
    return await create(loop, factory, sock=sock, ssl=tls, backlog=BACKLOG)


async def open_connection(
    factory: Callable[[], P], sock: socket.socket, tls: ssl.SSLContext | None, server_hostname: str | None
) -> P:
    """A protocol on a connected socket, after the TLS handshake where there is one. Raises OSError, ssl.SSLError."""
    loop = asyncio.get_running_loop()
    hostname = server_hostname if tls is not None else None
    if aiofastnet is None:
        _, protocol = await loop.create_connection(factory, sock=sock, ssl=tls, server_hostname=hostname)
    else:
        _, protocol = await aiofastnet.create_connection(loop, factory, sock=sock, ssl=tls, server_hostname=hostname)
    return protocol

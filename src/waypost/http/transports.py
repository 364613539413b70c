"""Where sockets and TLS come from.

TLS is aiofastnet's, which takes about half the CPU of the loop's own; plain sockets are the loop's, since uvloop's take
some 2 µs a request less (docs/decisions/0002-plain-sockets.md).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

try:
    import aiofastnet
except ImportError:  # the same calls, somewhat slower
    aiofastnet = None  # type: ignore[assignment]

BACKLOG = 2048
P = TypeVar("P", bound=asyncio.Protocol)


async def create_server(
    factory: Callable[[], asyncio.Protocol], sock: socket.socket, tls: ssl.SSLContext | None
) -> asyncio.AbstractServer:
    """Accept on a bound socket, TCP or UNIX."""
    loop = asyncio.get_running_loop()
    unix = sock.family == socket.AF_UNIX
    if aiofastnet is None or tls is None:
        create = loop.create_unix_server if unix else loop.create_server
        return await create(factory, sock=sock, ssl=tls, backlog=BACKLOG)
    fast = aiofastnet.create_unix_server if unix else aiofastnet.create_server
    return await fast(loop, factory, sock=sock, ssl=tls, backlog=BACKLOG)


async def open_connection(
    factory: Callable[[], P], sock: socket.socket, tls: ssl.SSLContext | None, server_hostname: str | None
) -> P:
    """A protocol on a connected socket, after the TLS handshake where there is one. Raises OSError, ssl.SSLError."""
    loop = asyncio.get_running_loop()
    hostname = server_hostname if tls is not None else None
    if aiofastnet is None or tls is None:
        _, protocol = await loop.create_connection(factory, sock=sock, ssl=tls, server_hostname=hostname)
    else:
        _, protocol = await aiofastnet.create_connection(loop, factory, sock=sock, ssl=tls, server_hostname=hostname)
    return protocol

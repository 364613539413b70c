"""Connections to the upstreams: one pool a target, last in first out, names looked up once in a while."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import msgspec

from waypost.http import proxy
from waypost.http.client import BUSY, CONNECT, CONNECT_TIMEOUT, TLS, ClientConnection, UpstreamFailure
from waypost.http.timers import Deadlines
from waypost.http.transports import open_connection

NAME_SECONDS = 30.0  # how long an address is used before its name is looked up again
PENDING = 100  # requests that may wait for a connection to one target


class Target(msgspec.Struct, frozen=True):
    """Where to connect. `unix` is a socket's path; `proxy` the `host:port` of an HTTP proxy to tunnel through."""

    host: str
    port: int
    tls: bool = False
    ca: str | None = None  # a PEM file trusted instead of the system's store
    unix: str | None = None
    proxy: proxy.Proxy | None = None
    idle_seconds: float = 4.0  # a connection unused for longer is not used again
    connections: int = 1000


class Names:
    """Host names to addresses, looked up in threads of their own, so that a wedged resolver holds up nobody else."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="names")
        self._known: dict[tuple[str, int], tuple[float, list[tuple[int, str]]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Future[list[tuple[int, str]]]] = {}

    async def addresses(self, host: str, port: int) -> list[tuple[int, str]]:
        """`(family, address)` pairs, in the resolver's order. Raises OSError."""
        key = (host, port)
        known = self._known.get(key)
        if known is not None and self._deadlines.now - known[0] < NAME_SECONDS:
            return known[1]
        asking = self._asking.get(key)
        if asking is None:
            loop = asyncio.get_running_loop()
            asking = self._asking[key] = asyncio.ensure_future(loop.run_in_executor(self._threads, look_up, host, port))
            asking.add_done_callback(lambda done: self._learn(key, done))
        try:
            return await asyncio.shield(asking)
        except OSError:
            if known is not None:
                return known[1]  # an old address beats none
            raise

    def _learn(self, key: tuple[str, int], done: asyncio.Future[list[tuple[int, str]]]) -> None:
        del self._asking[key]
        if not done.cancelled() and done.exception() is None:
            self._known[key] = (self._deadlines.now, done.result())

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def look_up(host: str, port: int) -> list[tuple[int, str]]:
    """The resolver's answer, blocking. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(int(family), str(address[0])) for family, _, _, _, address in found]


class Pool:
    """The connections to one target."""

    def __init__(self, target: Target, deadlines: Deadlines, names: Names) -> None:
        self.target = target
        self._deadlines = deadlines
        self._names = names
        self._tls = tls_context(target.ca) if target.tls else None
        self._idle: list[ClientConnection] = []
        self._waiting: deque[asyncio.Future[ClientConnection | None]] = deque()
        self._closed = False
        self.open = 0  # connections that exist or are being made

    def take(self) -> ClientConnection | None:
        """An idle connection, the one used last; None where there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.deadline > self._deadlines.now and connection.is_quiet():
                return connection
            connection.close()
        return None

    async def connect(self, seconds: float) -> ClientConnection:
        """A fresh connection, or one that becomes free first.

        Raises UpstreamFailure CONNECT, TLS, CONNECT_TIMEOUT or BUSY.
        """
        try:
            async with asyncio.timeout(seconds):
                while self.open >= self.target.connections:
                    connection = await self._wait_for_one()
                    if connection is not None:
                        return connection
                self.open += 1
                try:
                    return await self._open()
                except BaseException:
                    self._gone()
                    raise
        except TimeoutError:
            raise UpstreamFailure(CONNECT_TIMEOUT, f"no connection within {seconds:g} s") from None
        except ssl.SSLError as error:
            raise UpstreamFailure(TLS, f"TLS failed: {error.reason or error}") from None
        except OSError as error:
            raise UpstreamFailure(CONNECT, f"connecting failed: {error.strerror or error}") from None

    async def _wait_for_one(self) -> ClientConnection | None:
        """A connection given back, or None when there is room for another."""
        if len(self._waiting) >= PENDING:
            raise UpstreamFailure(BUSY, f"{PENDING} requests already wait for a connection")
        waiter: asyncio.Future[ClientConnection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                connection = waiter.result()  # it came as we left: it goes to the next
                self._free(connection) if connection is not None else self._wake(None)
            raise

    async def _open(self) -> ClientConnection:
        target = self.target
        sock = await self._socket()
        try:
            if target.proxy is not None and target.tls:
                await proxy.tunnel(sock, target.proxy, target.host, target.port)
            return await open_connection(
                lambda: ClientConnection(self._deadlines, self._free, self._lost), sock, self._tls, target.host
            )
        except BaseException:
            sock.close()
            raise

    async def _socket(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        target = self.target
        if target.unix is not None:
            return await connected(loop, socket.AF_UNIX, target.unix)
        host, port = (target.proxy.host, target.proxy.port) if target.proxy is not None else (target.host, target.port)
        failure: OSError = OSError(f"{host} has no address")
        for family, address in await self._names.addresses(host, port):
            try:
                sock = await connected(loop, family, (address, port))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except OSError as error:
                failure = error
        raise failure

    def _free(self, connection: ClientConnection) -> None:
        """A connection may be used again."""
        if self._closed:
            connection.close()
        elif not self._waiting or not self._wake(connection):
            seconds = self.target.idle_seconds
            if connection.idle_limit < seconds:
                seconds = connection.idle_limit
            connection.deadline = self._deadlines.now + seconds
            self._idle.append(connection)

    def _lost(self, connection: ClientConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        self._gone()

    def _gone(self) -> None:
        self.open -= 1
        self._wake(None)

    def _wake(self, connection: ClientConnection | None) -> bool:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def close(self) -> None:
        """Close what is idle now, and what is busy as it becomes free."""
        self._closed = True
        for connection in list(self._idle):
            connection.close()


async def connected(loop: asyncio.AbstractEventLoop, family: int, address: str | tuple[str, int]) -> socket.socket:
    """A connected, non-blocking stream socket. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def tls_context(ca: str | None) -> ssl.SSLContext:
    """A verifying client context. Raises OSError or ssl.SSLError where the CA file is no good."""
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context

"""A TCP proxy that spoils what passes through it: between Waypost and an upstream, a database, or a client and Waypost.

    with chaos(host, port) as proxy:
        proxy.port                                  # connect here instead
        proxy.spoil(down=Faults(latency=0.2))       # from now on, for open connections too
        proxy.heal()

It runs on an event loop in a thread of its own; every method may be called from any thread, and has taken effect when
it returns. `up` is what goes to the upstream, `down` what comes from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Literal, TypeVar

import msgspec

T = TypeVar("T")
PIECE = 1 << 16
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST

Door = Literal["open", "refuse", "silent", "reset", "close"]
"""What meets a new connection: an upstream, ECONNREFUSED, nothing ever, an RST, or a clean end."""


class Faults(msgspec.Struct, frozen=True):
    """What happens to one direction of a connection. Seconds, bytes, bytes a second; 0 and None are no fault.

    `latency` ± `jitter` delays every piece, `bandwidth` bounds the rate. `slice_size` cuts pieces to so many bytes,
    each `slice_pause` after the one before. `blackhole` loses nothing but passes nothing on, not even the end, until it
    is healed. `limit` ends the connection cleanly, `reset` with an RST, after so many bytes of this direction since the
    connection began (0: with the first). `slow_close` delays the end. `half_open` never passes the end on: one side
    has gone, the other is not told.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float = 0.0
    slice_size: int = 0
    slice_pause: float = 0.0
    blackhole: bool = False
    limit: int | None = None
    reset: int | None = None
    slow_close: float = 0.0
    half_open: bool = False


NO_FAULTS = Faults()


class Link:
    """One client's connection and its upstream's."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.client = client
        self.upstream: asyncio.StreamWriter | None = None
        self.task = asyncio.current_task()

    async def run(self, reader: asyncio.StreamReader) -> None:
        """From the first byte to the end of both directions."""
        proxy = self.proxy
        if proxy.door == "silent":
            await proxy.until(lambda: proxy.door != "silent")
        if proxy.door in ("reset", "close"):
            self.end(reset=proxy.door == "reset")
            return
        try:
            upstream_reader, self.upstream = await asyncio.open_connection(proxy.host, proxy.upstream_port)
        except OSError:
            self.end(reset=True)
            return
        await asyncio.gather(
            self.pump(reader, self.upstream, lambda: proxy.up, "up"),
            self.pump(upstream_reader, self.client, lambda: proxy.down, "down"),
        )

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Callable[[], Faults], way: str
    ) -> None:
        """One direction, until its end."""
        proxy, passed = self.proxy, 0
        try:
            while data := await reader.read(PIECE):
                await proxy.until(lambda: not faults().blackhole)
                while data:
                    now = faults()
                    piece, data = cut(data, now, passed)
                    if delay := proxy.delay(len(piece), now):
                        await asyncio.sleep(delay)
                        await proxy.until(lambda: not faults().blackhole)
                    writer.write(piece)
                    await writer.drain()
                    passed += len(piece)
                    proxy.passed[way] += len(piece)
                    if ends(now, passed):
                        self.end(reset=now.reset is not None and passed >= now.reset)
                        return
                    if now.slice_size and now.slice_pause:
                        await asyncio.sleep(now.slice_pause)
            await proxy.until(lambda: not faults().blackhole and not faults().half_open)
            await asyncio.sleep(faults().slow_close)
            with contextlib.suppress(OSError):  # the other side may be gone altogether
                writer.write_eof()
        except ConnectionError:
            if faults().half_open:
                await proxy.until(lambda: not faults().half_open)
            self.end(reset=True)

    def end(self, *, reset: bool) -> None:
        """Close both sides."""
        for writer in (self.client, self.upstream):
            if writer is None or writer.transport.is_closing():
                continue
            if reset:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()
            else:
                writer.close()


def cut(data: bytes, faults: Faults, passed: int) -> tuple[bytes, bytes]:
    """The next piece to pass on, and what is left: never more than the faults let through."""
    size = faults.slice_size or len(data)
    for most in (faults.limit, faults.reset):
        if most is not None:
            size = min(size, max(0, most - passed))
    return data[:size], data[size:] if size else b""


def ends(faults: Faults, passed: int) -> bool:
    """Has one of the limits been reached?"""
    return any(most is not None and passed >= most for most in (faults.limit, faults.reset))


class Proxy:
    """A listener on a port of the kernel's choice. `connections` counts those that came in, `passed` bytes by way."""

    def __init__(self, host: str, upstream_port: int, loop: asyncio.AbstractEventLoop, seed: int) -> None:
        self.host = host
        self.upstream_port = upstream_port
        self.port = 0
        self.up = self.down = NO_FAULTS
        self.door: Door = "open"
        self.connections = 0
        self.passed = {"up": 0, "down": 0}
        self._dice = random.Random(seed)
        self._loop = loop
        self._changed = asyncio.Event()
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None

    # From any thread

    def spoil(self, *, up: Faults | None = None, down: Faults | None = None, door: Door | None = None) -> None:
        """Set the faults of one or both directions, or what meets new connections; the rest stays as it is."""

        async def change() -> None:
            self.up, self.down = up or self.up, down or self.down
            self.door = door or self.door
            await self._listen(self.door != "refuse")
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

        self._do(change())

    def heal(self) -> None:
        """No faults any more."""
        self.spoil(up=NO_FAULTS, down=NO_FAULTS, door="open")

    def cut_all(self, *, reset: bool = True) -> int:
        """End all open connections now; how many there were."""

        async def end() -> int:
            links = list(self._links)
            for link in links:
                link.end(reset=reset)
            return len(links)

        return self._do(end())

    @property
    def open(self) -> int:
        """Connections that are open."""
        return len(self._links)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    # On the loop

    async def start(self) -> None:
        """Listen."""
        await self._listen(True)

    async def close(self) -> None:
        """End everything."""
        await self._listen(False)
        for link in list(self._links):
            link.end(reset=True)
            if link.task is not None:
                link.task.cancel()
        await asyncio.sleep(0)

    async def _listen(self, wanted: bool) -> None:
        if wanted and self._server is None:
            self._server = await asyncio.start_server(self._accept, self.host, self.port, limit=PIECE)
            self.port = self._server.sockets[0].getsockname()[1]
        elif not wanted and self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = Link(self, writer)
        self._links.add(link)
        try:
            await link.run(reader)
        finally:
            link.end(reset=False)
            self._links.discard(link)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a change of the faults that makes the condition true."""
        while not condition():
            await self._changed.wait()

    def delay(self, size: int, faults: Faults) -> float:
        """How long a piece of this size is held back."""
        delay = faults.latency + faults.jitter * (2 * self._dice.random() - 1) if faults.latency else 0.0
        return max(0.0, delay) + (size / faults.bandwidth if faults.bandwidth else 0.0)


@contextlib.contextmanager
def chaos(host: str, port: int, *, seed: int = 0) -> Iterator[Proxy]:
    """A proxy in front of host:port until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    proxy = Proxy(host, port, loop, seed)
    try:
        asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(30)
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

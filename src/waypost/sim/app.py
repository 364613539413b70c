"""The simulator as a process: listen, serve, stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import stat
from collections.abc import Callable

import uvloop

from waypost.sim.journal import Journal
from waypost.sim.server import Connection, Simulator

_BACKLOG = 2048


def run(
    listen: str,
    journal: pathlib.Path | None,
    ready: Callable[[str], None] | None = None,
    parent: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `parent`, a pipe's reading end, reports that its writer has gone.

    `listen` is `HOST:PORT` (port 0 takes a free one) or `unix:/path`. `ready` gets the base address,
    `http://HOST:PORT` or `unix:/path`, once connections are accepted. Raises OSError when it can't listen or open
    the journal, ValueError when `listen` has no port.
    """
    uvloop.run(_serve(listen, journal, ready, parent))


async def _serve(
    listen: str, journal: pathlib.Path | None, ready: Callable[[str], None] | None, parent: int | None
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent is not None:
        loop.add_reader(parent, _watch, loop, parent, stop)
    book = Journal(journal) if journal else None
    simulator = Simulator(book)
    server, address = await _listen(loop, simulator, listen)
    if ready:
        ready(address)
    await stop.wait()
    server.close()
    for connection in list(simulator.connections):
        connection.shut()
    await asyncio.sleep(0)
    await server.wait_closed()
    if address.startswith("unix:"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.removeprefix("unix:"))
    if book:
        book.close()


async def _listen(
    loop: asyncio.AbstractEventLoop, simulator: Simulator, listen: str
) -> tuple[asyncio.AbstractServer, str]:
    def connected() -> Connection:
        return Connection(simulator, loop)

    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        # A socket that a killed process left behind would refuse the address for ever.
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)
        return await loop.create_unix_server(connected, path, backlog=_BACKLOG), listen
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit():
        raise ValueError(f"not HOST:PORT and not unix:/path: {listen!r}")
    server = await loop.create_server(connected, host.strip("[]") or None, int(port), backlog=_BACKLOG)
    taken = server.sockets[0].getsockname()[1]
    return server, f"http://{host or '127.0.0.1'}:{taken}"


def _watch(loop: asyncio.AbstractEventLoop, descriptor: int, stop: asyncio.Event) -> None:
    if not os.read(descriptor, 4096):
        loop.remove_reader(descriptor)
        stop.set()

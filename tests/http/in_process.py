"""The HTTP server alone, in a thread of the test, with limits of the test's own and an application of three lines."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import uvloop

from tests.harness import DEADLINE, Client
from waypost.errors import Refusal
from waypost.http.exchange import Exchange
from waypost.http.message import Limits
from waypost.http.server import Server
from waypost.http.timers import Deadlines


class Plain:
    """Answers with method, path and the body's size; `/hold` waits until `release` is called."""

    def __init__(self) -> None:
        self.held: list[Exchange] = []
        self.begun = 0

    def begin(self, exchange: Exchange) -> None:
        self.begun += 1
        if exchange.path == b"/hold":
            self.held.append(exchange)
        else:
            self.answer(exchange)

    def answer(self, exchange: Exchange) -> None:
        exchange.respond(200, b"", b"%b %b %d" % (exchange.method.encode(), exchange.path, len(exchange.body)))

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        exchange.respond(refusal.status, b"x-error-code: %b\r\n" % refusal.failure.code.encode(), b"")


class Running:
    """A server in a thread; `call` runs something on its loop."""

    def __init__(self, limits: Limits) -> None:
        self.application = Plain()
        self.limits = limits
        self.address = ("", 0)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(DEADLINE)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        deadlines = Deadlines(self.loop)
        self.server = Server(self.application, self.limits, deadlines, time.monotonic)
        sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
        sock.setblocking(False)
        self.address = sock.getsockname()
        await self.server.listen(sock)
        self._ready.set()
        await self._stop.wait()
        await self.server.drain(0.1)
        deadlines.close()

    def connect(self) -> Client:
        return Client(socket.create_connection(self.address, DEADLINE))

    def call(self, function: Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(function)

    def release(self) -> None:
        """Answer what is held."""
        for exchange in self.application.held:
            self.call(lambda exchange=exchange: self.application.answer(exchange))
        self.application.held.clear()

    def stop(self) -> None:
        self.call(self._stop.set)
        self._thread.join(DEADLINE)


@contextlib.contextmanager
def serving_with(limits: Limits) -> Iterator[Running]:
    """A server with these limits until the block ends."""
    running = Running(limits)
    try:
        yield running
    finally:
        running.stop()

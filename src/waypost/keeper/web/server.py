"""The pages on their UNIX socket: uvicorn inside of the keeper's own loop, begun when the keeper is ready."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

KEEP_ALIVE_SECONDS = 30
"""Longer than a worker keeps an unused connection, so that it is always the worker who closes."""

GRACE_SECONDS = 2
"""How long a stopping keeper goes on answering what it was asked."""


class Web:
    """Serves on a socket that listens already: who connects while the parts are being imported waits in its queue."""

    def __init__(self, listener: socket.socket, make_app: Callable[[], ASGIApp]) -> None:
        """`make_app` is called in a thread: it imports what it needs."""
        self._listener = listener
        self._make_app = make_app
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Import and serve, in the background."""
        self._serving = asyncio.create_task(self._serve())

    async def close(self) -> None:
        """Answer what has been asked, then stop."""
        if self._serving is None:
            return
        if self._server is None:
            self._serving.cancel()
        else:
            self._server.should_exit = True
        await asyncio.wait([self._serving])

    async def _serve(self) -> None:
        self._server = await asyncio.to_thread(lambda: make_server(self._make_app()))
        await self._server.serve(sockets=[self._listener])


def make_server(app: ASGIApp) -> uvicorn.Server:
    """uvicorn, told to leave signals, logging and the loop to the keeper."""
    import uvicorn

    class Guest(uvicorn.Server):
        """A server in another's process."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """They are the keeper's."""
            yield

    return Guest(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            http="httptools",
            ws="none",
            date_header=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )

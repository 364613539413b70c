"""One request and its whole answer: tokens, media, embeddings, and what the keeper says."""

from __future__ import annotations

import asyncio

import msgspec

from waypost.http.client import BROKEN, CLOSED, TIMEOUT, ClientConnection, UpstreamFailure, find_header
from waypost.http.pool import Pool


class Reply(msgspec.Struct, frozen=True):
    """An answer: `head` in lower case."""

    status: int
    head: bytes
    body: bytes


class Collected:
    """Receives an answer of at most `limit` bytes; `reply` has it, or the UpstreamFailure."""

    def __init__(self, limit: int) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._limit = limit
        self._status = 0
        self._head = b""
        self._body: list[bytes] = []
        self._size = 0

    def begun(self, status: int, head: bytes) -> None:
        """The head; what says that it is too long is not waited for."""
        self._status, self._head = status, head
        length = find_header(head, b"content-length")
        if length.isdigit() and int(length) > self._limit:
            self._is_too_large()

    def received(self, data: bytes) -> None:
        """Part of the body."""
        self._size += len(data)
        if self._size > self._limit:
            self._is_too_large()
        else:
            self._body.append(data)

    def ended(self) -> None:
        """All of it."""
        if not self.reply.done():
            self.reply.set_result(Reply(self._status, self._head, b"".join(self._body)))

    def failed(self, failure: UpstreamFailure) -> None:
        """None of it."""
        if not self.reply.done():
            self.reply.set_exception(failure)

    def _is_too_large(self) -> None:
        self.failed(UpstreamFailure(BROKEN, f"the answer is larger than {self._limit} bytes"))


async def call(
    pool: Pool, request: bytes, *, limit: int, connect: float, total: float, may_repeat: bool = True
) -> Reply:
    """Send a request and wait for its whole answer. Raises UpstreamFailure.

    `limit` is in bytes of the body, `connect` and `total` in seconds. `may_repeat`: to ask twice does no harm, where a
    kept connection turns out to be dead. To be awaited in a task.
    """
    try:
        async with asyncio.timeout(total):
            while True:
                connection = pool.take() or await pool.connect(connect)
                was_kept = connection.answers > 0
                try:
                    return await ask(connection, request, limit)
                except UpstreamFailure as failure:
                    was_idle = was_kept and failure.kind == CLOSED and not connection.responding
                    if not (was_idle and may_repeat):
                        raise  # else it was closed as we wrote: once more, on another one
    except TimeoutError:
        raise UpstreamFailure(TIMEOUT, f"no whole answer within {total:g} s") from None


async def ask(connection: ClientConnection, request: bytes, limit: int) -> Reply:
    """The same on a connection at hand; one that has not brought a whole answer is closed."""
    collected = Collected(limit)
    connection.send(request, collected)
    try:
        return await collected.reply
    except BaseException:
        connection.abandon()
        raise

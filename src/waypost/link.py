"""The link between the keeper and everyone who asks it: frames, and the bookkeeping of calls.

A frame is a 4-byte big-endian length and that many bytes of MessagePack: `[call_id, message]`. A positive `call_id` is
a call, the same number negated is its reply, and 0 is a push that nobody answers. Both ends may call and push.
"""

from __future__ import annotations

import asyncio
import pathlib
import struct
import sys
from collections.abc import Callable
from typing import Final, cast

import msgspec

from waypost.messages import AnyMessage

MAX_FRAME: Final = 4 * 1024 * 1024
MAX_UNSENT: Final = 2 * MAX_FRAME
"""Bytes that may wait for a peer that does not read, before the connection is given up."""

MAX_SOCKET_PATH: Final = 107 if sys.platform == "linux" else 103
"""Bytes that a UNIX socket's path may have: `sun_path` less its closing zero."""

# Frames

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[tuple[int, AnyMessage]] = msgspec.msgpack.Decoder(tuple[int, AnyMessage])
_length = struct.Struct(">I")


class LinkError(Exception):
    """What arrived is not a frame, or what was to be sent does not fit into one."""


class LinkLost(Exception):
    """The connection went away before the answer came."""


def render_frame(call_id: int, message: AnyMessage) -> bytes:
    """One frame. Raises `LinkError` on lone surrogates and above `MAX_FRAME`."""
    try:
        body = _encoder.encode((call_id, message))
    except UnicodeEncodeError:
        raise LinkError(f"{type(message).__name__} holds text that is not Unicode") from None
    if len(body) > MAX_FRAME:
        raise LinkError(f"{type(message).__name__} takes {len(body)} bytes; a frame holds {MAX_FRAME}")
    return _length.pack(len(body)) + body


class FrameParser:
    """Bytes in any pieces → `(call_id, message)` pairs."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, AnyMessage]]:
        """The frames that `data` completes. Raises `LinkError` on one over `MAX_FRAME` and on an unknown message."""
        pending = self._pending
        pending += data
        frames: list[tuple[int, AnyMessage]] = []
        start = 0
        while len(pending) - start >= 4:
            (length,) = _length.unpack_from(pending, start)
            if length > MAX_FRAME:
                raise LinkError(f"a frame of {length} bytes; the most is {MAX_FRAME}")
            end = start + 4 + length
            if len(pending) < end:
                break
            try:
                frames.append(_decoder.decode(pending[start + 4 : end]))
            except msgspec.MsgspecError as error:
                raise LinkError(f"a frame that is not a message: {error}") from None
            start = end
        del pending[:start]
        return frames


class Framed(asyncio.Protocol):
    """One end of a connection. Replies go to the futures of the calls; all else goes to `on_message`.

    `on_message(peer, call_id, message)` is called for calls (`call_id` > 0, to be answered by `reply`) and pushes (0).
    `on_lost(peer, error)` is called once, after every open call has failed with `LinkLost`; `error` is None at a plain
    end.
    """

    def __init__(
        self,
        on_message: Callable[[Framed, int, AnyMessage], None],
        on_lost: Callable[[Framed, Exception | None], None],
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._parser = FrameParser()
        self._calls: dict[int, asyncio.Future[AnyMessage]] = {}
        self._last_call = 0
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None

    # Sending

    async def call(self, message: AnyMessage, timeout: float) -> AnyMessage:
        """Ask and wait for the reply. Raises `LinkLost`, `LinkError`, or `TimeoutError` after `timeout` seconds."""
        if self._transport is None:
            raise LinkLost("the connection is closed")
        self._last_call += 1
        call_id = self._last_call
        frame = render_frame(call_id, message)
        future: asyncio.Future[AnyMessage] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = future
        try:
            self._write(frame)
            async with asyncio.timeout(timeout):
                return await future
        finally:
            self._calls.pop(call_id, None)

    def push(self, message: AnyMessage) -> None:
        """Tell without waiting; nothing happens if the connection is gone."""
        self._write(render_frame(0, message))

    def reply(self, call_id: int, message: AnyMessage) -> None:
        """Answer the call `call_id`; nothing happens if the caller is gone."""
        self._write(render_frame(-call_id, message))

    @property
    def is_open(self) -> bool:
        """Whether the connection is made and neither end has closed it yet."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def close(self) -> None:
        """Send what is written, then close."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, frame: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self.unsent > MAX_UNSENT:
            self._give_up(LinkError(f"the peer has left {self.unsent} bytes unread"))
            return
        self._transport.write(frame)

    # Receiving: asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses of asyncio's

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        try:
            for call_id, message in self._parser.feed(data):
                if call_id >= 0:
                    self._on_message(self, call_id, message)
                    continue
                future = self._calls.get(-call_id)
                if future is not None and not future.done():
                    future.set_result(message)
        except LinkError as error:
            self._give_up(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._transport = None
        for future in self._calls.values():
            if not future.done():
                future.set_exception(LinkLost("the connection was lost"))
        self._on_lost(self, exc or self._error)

    def _give_up(self, error: Exception) -> None:
        self._error = error
        self.abort()


# Where the keeper listens


def socket_path(data: pathlib.Path) -> pathlib.Path:
    """The keeper's socket in the data folder."""
    return data / "keeper.sock"


def http_socket_path(data: pathlib.Path) -> pathlib.Path:
    """The socket of the keeper's HTTP."""
    return data / "keeper-http.sock"


def is_too_long(path: pathlib.Path) -> bool:
    """Whether the operating system refuses `path` as a UNIX socket's name."""
    return len(bytes(path)) > MAX_SOCKET_PATH

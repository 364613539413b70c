"""The link between the keeper and everyone who asks it: messages, frames, and the bookkeeping of calls.

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

from waypost.keys import KeyKind, shown

PROTOCOL: Final = 1
"""Raised when a message changes its meaning; ends of different numbers don't talk."""

MAX_FRAME: Final = 4 * 1024 * 1024
MAX_UNSENT: Final = 2 * MAX_FRAME
"""Bytes that may wait for a peer that does not read, before the connection is given up."""

MAX_SOCKET_PATH: Final = 107 if sys.platform == "linux" else 103
"""Bytes that a UNIX socket's path may have: `sun_path` less its closing zero."""


# What is asked and answered


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Whatever crosses the link."""


class Hello(Message, frozen=True):
    """A worker's first call. From its answer on, the keeper pushes to it what to forget."""

    worker: int
    protocol: int = PROTOCOL


class Welcome(Message, frozen=True):
    """The keeper is here, its database answers, and this connection is told what to forget. `version`: a `PROTOCOL`."""

    version: int


class Identify(Message, frozen=True):
    """Whose key is it? Answered by an `Identity`, by None (unknown, revoked or disabled), or by `Failed`."""

    digest: bytes


class Identity(Message, frozen=True):
    """Who is calling. `plan` is a name: what it allows stands in the config."""

    key_id: int
    account_id: int
    account: str
    plan: str
    kind: KeyKind
    label: str


class Forget(Message, frozen=True):
    """Push: drop what is known of this digest, good or bad; the key was created, revoked or changed."""

    digest: bytes


class ForgetAll(Message, frozen=True):
    """Push: drop everything known of any key."""


class Failed(Message, frozen=True):
    """The call did nothing. `code` is one of `errors.TABLE`; `message` names the field and the fix."""

    code: str
    message: str


# Administration


class CreateKey(Message, frozen=True):
    """A new key for `account`, which is created on `plan` if it is missing. Answered by `CreatedKey`."""

    account: str
    plan: str | None = None
    label: str = "default"
    kind: KeyKind = "inference"


class CreatedKey(Message, frozen=True):
    """The only message that ever carries a key to its owner."""

    key: str
    id: int
    account: str
    plan: str

    def __repr__(self) -> str:
        return f"CreatedKey(key='{shown(self.key)}', id={self.id}, account={self.account!r}, plan={self.plan!r})"


class RevokeKey(Message, frozen=True):
    """Revoke the key named by its id, by itself, or by the beginning of its shown form. Answered by its `KeyRecord`."""

    key: str

    def __repr__(self) -> str:
        return f"RevokeKey(key='{shown(self.key) if len(self.key) > 20 else self.key}')"


class ListKeys(Message, frozen=True):
    """Keys in the order of their ids, of one account or of all, those after id `after`. Answered by `KeyRecords`."""

    account: str | None = None
    after: int = 0


class KeyRecord(Message, frozen=True):
    """A key as listings show it. Times are seconds since 1970 UTC."""

    id: int
    account: str
    shown: str
    label: str
    kind: KeyKind
    created_at: int
    revoked_at: int | None


class KeyRecords(Message, frozen=True):
    """A page of keys; `after` is what to ask the next page with, None on the last."""

    rows: tuple[KeyRecord, ...]
    after: int | None = None


class CreateAccount(Message, frozen=True):
    """A new account. Answered by its `AccountRecord`."""

    name: str
    plan: str | None = None


class SetAccount(Message, frozen=True):
    """Move an account to another plan, disable or enable it; None changes nothing. Answered by its `AccountRecord`."""

    name: str
    plan: str | None = None
    disabled: bool | None = None


class ListAccounts(Message, frozen=True):
    """Accounts in the order of their ids, those after id `after`. Answered by `AccountRecords`."""

    after: int = 0


class AccountRecord(Message, frozen=True):
    """An account as listings show it; `keys` counts those not revoked."""

    id: int
    name: str
    plan: str
    disabled: bool
    created_at: int
    keys: int


class AccountRecords(Message, frozen=True):
    """A page of accounts; `after` is what to ask the next page with, None on the last."""

    rows: tuple[AccountRecord, ...]
    after: int | None = None


# Models


class FindNative(Message, frozen=True):
    """Which of `providers` serve the model that they call `model`? Answered by `NativeRecords`, none if none does."""

    model: str
    providers: tuple[str, ...]


class ListNatives(Message, frozen=True):
    """The models of `providers` that the price list knows, from row `after` on. Answered by `NativeRecords`."""

    providers: tuple[str, ...]
    after: int = 0


class NativeRecord(Message, frozen=True):
    """What the price list says of one provider's model.

    `model` is the name that was asked for or is listed, `id` what to call it at the provider. `context` is in tokens,
    prices are in USD per million tokens; what the list does not know is None.
    """

    model: str
    provider: str
    id: str
    context: int | None
    input: str | None
    output: str | None
    cache_read: str | None
    deprecated: bool


class NativeRecords(Message, frozen=True):
    """A page of records, those of one model together; `after` is what to ask the next page with, None on the last."""

    rows: tuple[NativeRecord, ...]
    after: int | None = None


AnyMessage = (
    Hello
    | Welcome
    | Identify
    | Identity
    | Forget
    | ForgetAll
    | Failed
    | CreateKey
    | CreatedKey
    | RevokeKey
    | ListKeys
    | KeyRecord
    | KeyRecords
    | CreateAccount
    | SetAccount
    | ListAccounts
    | AccountRecord
    | AccountRecords
    | FindNative
    | ListNatives
    | NativeRecord
    | NativeRecords
    | None
)

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


def is_too_long(path: pathlib.Path) -> bool:
    """Whether the operating system refuses `path` as a UNIX socket's name."""
    return len(bytes(path)) > MAX_SOCKET_PATH

"""Administration from a command: through the keeper if one runs, by opening the database itself if none does."""

from __future__ import annotations

import asyncio
import functools
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from waypost.keeper.folder import FolderTaken, FolderUnusable, taken
from waypost.link import Framed, LinkError, LinkLost, is_too_long, socket_path
from waypost.listing import FindNative, FindPrices, ListNatives
from waypost.messages import AccountRecords, AnyMessage, Failed, KeyRecords, ListAccounts, ListKeys, VerifyLedger

if TYPE_CHECKING:
    from waypost.config import Config

PATIENCE_SECONDS = 10.0
"""How long to wait for a folder held by a process that answers no calls: a keeper starting, another command."""

CALL_SECONDS = 10.0
VERIFY_SECONDS = 3600.0

Ask = Callable[[AnyMessage], Awaitable[AnyMessage]]


async def administer(data: pathlib.Path, settings: Config, message: AnyMessage) -> AnyMessage:
    """The answer to one message of administration, lists in full; `Failed` also says when nobody could be asked.

    `settings` say where the database is and which plans there are; a running keeper goes by its own.
    """
    try:
        seconds = VERIFY_SECONDS if isinstance(message, VerifyLedger) else CALL_SECONDS
        async with _opened(data, settings, seconds) as ask:
            return await _ask_in_full(ask, message)
    except (FolderUnusable, LinkError) as error:
        return Failed("UNAVAILABLE", str(error))
    except (LinkLost, TimeoutError):
        return Failed("UNAVAILABLE", f"the keeper of {data} did not answer; whether the change was made is not known")


@asynccontextmanager
async def price_list(
    data: pathlib.Path,
) -> AsyncIterator[Callable[[FindNative | ListNatives | FindPrices], Awaitable[AnyMessage]]]:
    """The way to ask the price list: through the keeper if one runs, by loading the list itself if none does.

    Asking raises LinkLost or TimeoutError when the keeper does not answer.
    """
    peer = await _connect(socket_path(data))
    if peer is None:
        import time

        from waypost.keeper.prices import Prices

        yield Prices(time.time, data).answer
        return
    try:
        yield functools.partial(peer.call, timeout=CALL_SECONDS)
    finally:
        peer.close()


async def tell(data: pathlib.Path, message: AnyMessage) -> AnyMessage:
    """The answer of the keeper that runs, None where none does; `Failed` also says that it did not answer."""
    peer = await _connect(socket_path(data))
    if peer is None:
        return None
    try:
        return await peer.call(message, CALL_SECONDS)
    except (LinkLost, LinkError, TimeoutError):
        return Failed("UNAVAILABLE", f"the keeper of {data} did not answer")
    finally:
        peer.close()


async def _ask_in_full(ask: Ask, message: AnyMessage) -> AnyMessage:
    """Follow a list to its last page; a list that fails on the way has failed."""
    reply = await ask(message)
    while isinstance(reply, KeyRecords | AccountRecords) and reply.after is not None:
        assert isinstance(message, ListKeys | ListAccounts)
        page = await ask(msgspec.structs.replace(message, after=reply.after))
        if isinstance(page, Failed):
            return page
        assert isinstance(page, KeyRecords | AccountRecords)
        reply = msgspec.structs.replace(page, rows=(*reply.rows, *page.rows))
    return reply


@asynccontextmanager
async def _opened(data: pathlib.Path, settings: Config, seconds: float) -> AsyncIterator[Ask]:
    """The way to ask: a keeper's socket, or the database under the folder's lock. Whichever is free first."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    while True:
        peer = await _connect(socket_path(data))
        if peer is not None:
            try:
                yield functools.partial(peer.call, timeout=seconds)
            finally:
                peer.close()
            return
        try:
            async with taken(data, patience=0), _opened_database(data, settings) as ask:
                yield ask
            return
        except FolderTaken:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(0.02)


@asynccontextmanager
async def _opened_database(data: pathlib.Path, settings: Config) -> AsyncIterator[Ask]:
    # Imported here, because importing SQLAlchemy takes longer than all of a command that asks a running keeper.
    import time

    from waypost.keeper.accounts import Accounts
    from waypost.keeper.store import open_database
    from waypost.keeper.store.database import UnusableDatabase
    from waypost.keeper.verify import answer_verify

    try:
        database = await open_database(settings.store, data)
    except UnusableDatabase as error:
        raise FolderUnusable(str(error)) from error
    try:
        accounts = Accounts(database, settings.plans, time.time)

        async def ask(message: AnyMessage) -> AnyMessage:
            if isinstance(message, VerifyLedger):
                return await answer_verify(database, settings.store.retention, time.time())
            return await accounts.ask(message)

        yield ask
    finally:
        await database.close()


async def _connect(path: pathlib.Path) -> Framed | None:
    if is_too_long(path):
        return None  # no keeper can listen there either
    try:
        _, peer = await asyncio.get_running_loop().create_unix_connection(
            lambda: Framed(lambda *_: None, lambda *_: None), str(path)
        )
    except OSError:
        return None  # nobody listens, or what is in the way will show when the folder is taken
    return peer

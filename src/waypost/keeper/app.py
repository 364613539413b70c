"""The keeper's process: owns the data folder, opens the store, serves links until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvloop

from waypost.config import Config, ConfigError, Store
from waypost.keeper.accounts import Accounts
from waypost.keeper.answers import Answers
from waypost.keeper.folder import FolderUnusable, host_id, is_served, taken
from waypost.keeper.journals import Journals
from waypost.keeper.ledger import Ledger, open_ledger
from waypost.keeper.link import Links
from waypost.keeper.meters import ENDED_SECONDS, Meters
from waypost.keeper.metrics import Gauges, Metrics
from waypost.keeper.prices import Prices
from waypost.keeper.store import open_database
from waypost.keeper.store.answers import AnswerStore
from waypost.keeper.store.counters import open_counters
from waypost.keeper.store.database import Database, UnreachableDatabase, UnusableDatabase
from waypost.keeper.verify import answer_verify
from waypost.keeper.web.server import Web
from waypost.link import MAX_SOCKET_PATH, http_socket_path, is_too_long, socket_path
from waypost.messages import AnyMessage

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger("waypost.keeper")

CANNOT_START = 78
"""Exit code (EX_CONFIG) for what a restart does not mend: the message on standard error says what to change."""

PATIENCE_SECONDS = 10.0
"""How long a starting keeper waits for a command that holds the data folder."""

GRACE_SECONDS = 5.0
"""How long a stopping keeper goes on answering what it was asked."""

RETRY_SECONDS = 0.5
"""How often a starting keeper tries a database that does not answer."""


class CannotStart(Exception):
    """The keeper cannot start; the message says what to change."""


class Current:
    """The configuration as it was last read."""

    def __init__(self, settings: Config) -> None:
        self.settings = settings


def run_keeper(
    data: pathlib.Path,
    settings: Config,
    parent: int | None = None,
    on_ready: Callable[[], None] | None = None,
    read_settings: Callable[[], Config] | None = None,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Be the keeper of `data` until SIGTERM, SIGINT, or the end of file on the descriptor `parent`.

    `on_ready` is called once, when links are being answered, and `beat` every second. On SIGHUP, `read_settings` gives
    the configuration anew, or raises config.ConfigError and it stays; SIGHUP may be blocked until then. Exits with
    `CANNOT_START` and a sentence on standard error if the data folder or the database cannot be used; waits for a
    database that does not answer yet.
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_keep(data, settings, parent, on_ready or (lambda: None), read_settings, beat))
    except CannotStart as error:
        print(f"waypost keeper: {error}", file=sys.stderr)
        raise SystemExit(CANNOT_START) from None


async def _keep(
    data: pathlib.Path,
    settings: Config,
    parent: int | None,
    on_ready: Callable[[], None],
    read_settings: Callable[[], Config] | None,
    beat: Callable[[], None],
) -> None:
    beating = asyncio.create_task(_every_second(beat))
    try:
        await _keep_books(data, settings, parent, on_ready, read_settings)
    finally:
        beating.cancel()


async def _every_second(beat: Callable[[], None]) -> None:
    while True:
        beat()
        await asyncio.sleep(1.0)


async def _keep_books(
    data: pathlib.Path,
    settings: Config,
    parent: int | None,
    on_ready: Callable[[], None],
    read_settings: Callable[[], Config] | None,
) -> None:
    path = socket_path(data)
    for each in (path, http_socket_path(data)):
        if is_too_long(each):
            raise CannotStart(
                f"the path of the keeper's socket is longer than the {MAX_SOCKET_PATH} bytes of a UNIX socket: {each}; "
                "choose a shorter --data folder"
            )
    try:
        async with taken(data, PATIENCE_SECONDS, give_up=lambda: is_served(path)):
            database = await _open_in_time(settings.store, data)
            try:
                current = Current(settings)
                accounts = Accounts(database, settings.plans, time.time)
                ledger = open_ledger(database, data, host_id(data), settings.store.retention)
                meters = await _open_meters(settings.store, database, data, ledger)
                answers = await _open_answers(database, data, ledger)
                if read_settings is not None:
                    _reload_on_hangup(current, accounts, ledger, read_settings)
                verify = functools.partial(_verify, database, ledger, current)
                links = Links(accounts, Prices(time.time, data), meters, answers, verify)
                ledger.on_state.append(lambda _: links.say_trouble(_trouble(ledger, meters)))
                meters.on_state.append(lambda: links.say_trouble(_trouble(ledger, meters)))
                metrics = Metrics(functools.partial(_measure, ledger))
                ledger.on_batch.append(metrics.on_batch)
                make_pages = functools.partial(_make_pages, database, current, links, ledger, metrics)
                with _listening(http_socket_path(data)) as listener:
                    listener.listen()
                    try:
                        await _serve(path, links, ledger, Web(listener, make_pages), parent, on_ready)
                    finally:
                        await answers.close()
                        await meters.close()
            finally:
                await database.close()
    except (FolderUnusable, UnusableDatabase) as error:
        raise CannotStart(str(error)) from None


async def _open_in_time(store: Store, data: pathlib.Path) -> Database:
    """The database, as soon as it answers: the workers serve without it from what they hold."""
    said = ""
    while True:
        try:
            return await open_database(store, data)
        except UnreachableDatabase as error:
            if str(error) != said:
                said = str(error)
                logger.error("%s; trying again every %g s", said, RETRY_SECONDS)
        await asyncio.sleep(RETRY_SECONDS)


async def _open_meters(store: Store, database: Database, data: pathlib.Path, ledger: Ledger) -> Meters:
    counters, fast = open_counters(store, database, host_id(data))
    journals = Journals(data / "journal")
    meters = Meters(
        counters,
        fast,
        ledger,
        live=lambda: [name for name in journals.scan() if journals.is_alive(name)],
        on_outage=store.limits_on_outage,
    )
    ledger.on_spent.append(meters.spent)
    ledger.on_closed.append(meters.closed)
    meters.start(await counters.load(time.time() - ENDED_SECONDS))
    return meters


async def _open_answers(database: Database, data: pathlib.Path, ledger: Ledger) -> Answers:
    """Raises StoreUnavailable."""
    answers = Answers(AnswerStore(database, host_id(data)))
    journals = Journals(data / "journal")
    await answers.start([name for name in journals.scan() if journals.is_alive(name)])
    ledger.on_closed.append(answers.closed)
    return answers


def _trouble(ledger: Ledger, meters: Meters) -> str:
    return "; ".join(filter(None, (ledger.why_not_ready, meters.why_not_ready)))


async def _verify(database: Database, ledger: Ledger, current: Current) -> AnyMessage:
    """Count everything again. SQLite has one connection, so the ledger waits; with PostgreSQL nobody does."""
    await ledger.catch_up()
    async with ledger.held() if database.dialect == "sqlite" else contextlib.nullcontext():
        return await answer_verify(database, current.settings.store.retention, time.time())


def _measure(ledger: Ledger) -> Gauges:
    return Gauges(ledger.open_requests, ledger.journal_bytes, ledger.lag_seconds, not ledger.why_not_ready)


def _make_pages(database: Database, current: Current, links: Links, ledger: Ledger, metrics: Metrics) -> ASGIApp:
    # Imported here: nobody waits for it at a start.
    from waypost.keeper.web.app import create_app
    from waypost.keeper.web.sources import Sources

    return create_app(
        Sources(
            database=database,
            plans=lambda: current.settings.plans,
            catch_up=ledger.catch_up,
            manage=links.manage,
            kill_streams=links.kill_streams,
            render_metrics=metrics.render,
            clock=time.time,
            monotonic=time.monotonic,
        )
    )


async def _serve(
    path: pathlib.Path, links: Links, ledger: Ledger, web: Web, parent: int | None, on_ready: Callable[[], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent is not None:
        os.set_blocking(parent, False)
        loop.add_reader(parent, _stop_at_end, parent, stop)
    with _listening(path) as listener:
        server = await loop.create_unix_server(links.accept, sock=listener)
        following = asyncio.create_task(ledger.run())
        following.add_done_callback(lambda _: stop.set())  # it never ends by itself: without books, no keeper
        logger.info("keeper ready at %s", path)
        on_ready()
        web.start()
        await stop.wait()
        server.close()
        await web.close()
        await links.close(GRACE_SECONDS)
        if not following.done():
            await ledger.catch_up(GRACE_SECONDS)
            following.cancel()
            await asyncio.wait([following])
        if not following.cancelled():
            following.result()


def _reload_on_hangup(
    current: Current, accounts: Accounts, ledger: Ledger, read_settings: Callable[[], Config]
) -> None:
    def reload() -> None:
        try:
            current.settings = read_settings()
            accounts.adopt(current.settings.plans)
            ledger.adopt(current.settings.store.retention)
        except ConfigError as error:
            logger.error("the configuration stays as it was: %s", error)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _stop_at_end(parent: int, stop: asyncio.Event) -> None:
    with contextlib.suppress(BlockingIOError):
        if os.read(parent, 4096):
            return
        asyncio.get_running_loop().remove_reader(parent)
        stop.set()


@contextlib.contextmanager
def _listening(path: pathlib.Path) -> Iterator[socket.socket]:
    """The socket at `path`, mode 0600 before anyone can connect. The folder's lock allows replacing a stale one."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            raise CannotStart(f"cannot listen at {path}: {error.strerror}") from None
        try:
            path.chmod(0o600)
            yield listener
        finally:
            path.unlink(missing_ok=True)

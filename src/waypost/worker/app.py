"""A worker process: owns the sockets, the snapshot and the caches, and hands each request to its handler."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pathlib
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable

import uvloop

from waypost import config, journal_file
from waypost.errors import Refusal
from waypost.http.exchange import Exchange
from waypost.http.fetch import Fetcher
from waypost.http.message import Limits
from waypost.http.pool import Names
from waypost.http.server import Server
from waypost.http.timers import Deadlines
from waypost.ids import Minter
from waypost.link import socket_path
from waypost.policy.health import Health
from waypost.policy.retry import RetrySettings
from waypost.worker import certificates, routes
from waypost.worker.answers import refuse
from waypost.worker.books import Books
from waypost.worker.cache import Cache
from waypost.worker.catalogue import Catalogue
from waypost.worker.dialect import check_accounts
from waypost.worker.forward import keeper_pool
from waypost.worker.idempotency import Idempotency
from waypost.worker.identity import Identities
from waypost.worker.journal import Journal
from waypost.worker.key_set import fetcher
from waypost.worker.leases import Leases
from waypost.worker.link import Link
from waypost.worker.natives import Natives
from waypost.worker.presets import Presets
from waypost.worker.prices import FRESH, Prices
from waypost.worker.shared_cache import SharedCache
from waypost.worker.status import Watch
from waypost.worker.tokens import Tokens
from waypost.worker.upstreams import Snapshot, find_target
from waypost.worker.vault import Vault
from waypost.worker.walk import Walk

log = logging.getLogger("waypost.worker")

DRAIN_MARGIN = 2.0  # seconds after the drain in which cut requests may still be told so
FIRST_LINK = 5.0  # seconds that a starting worker waits for the keeper before it listens all the same


class Worker:
    """The application behind one worker's listener."""

    def __init__(
        self, settings: config.Config, data: pathlib.Path, number: int = 0, beat: Callable[[], None] = lambda: None
    ) -> None:
        """To be made inside of a running event loop. Raises config.ConfigError."""
        self.clock: Callable[[], float] = time.monotonic
        self._beat = beat
        self.mint = Minter()
        self.deadlines = Deadlines(asyncio.get_running_loop())
        self.names = Names(self.deadlines)
        self.keeper = keeper_pool(data, self.deadlines, self.names)
        self.journal = Journal(
            journal_file.folder(data),
            number,
            secrets.token_hex(8),
            max_bytes=settings.journal_max,
            clock=self.clock,
            loop=asyncio.get_running_loop(),
            sync=settings.store.journal_sync,
        )
        self.leases = Leases()
        self.link = Link(
            socket_path(data),
            lambda digest: self.identities.forget(digest),
            worker=number,
            journal=self.journal.name,
            leases=self.leases,
            # Those that wait first: they are not to begin when others end.
            on_kill=lambda account: self.idempotency.kill_streams(account) + self.books.kill_streams(account),
            on_preset=lambda news: self.presets.forget(news),
            on_prices=lambda: self._forget_prices(),
            on_answer=lambda scope: self.cache.forget(scope),
            on_news=lambda news: self.watch.hear(news, self.clock()) if news is not None else self.watch.linked(),
        )
        self.books = Books(self.leases, self.journal, settings, lambda: self.identities.look_ups)
        self.identities = Identities(self.link)
        self.vault = Vault(self.clock)
        self.fetcher = Fetcher(self.deadlines, self.names)
        self.presets = Presets(self.link, lambda: self.link.connected, self.clock)
        self.idempotency = Idempotency(self.link, self.journal.name, self.mint, self.deadlines)
        self.natives = Natives(self.link)
        self.prices = Prices(self.link)
        self.catalogue = Catalogue(self.link, self.natives)
        self.cache = Cache(self.clock)
        self.shared_cache = SharedCache(self.link, self.journal.name, self.books.wall)
        self.walks: set[Walk] = set()
        self.health = Health()
        self.watch = Watch(self.health, self.link.push)
        self.dice: Callable[[], float] = random.random
        self._adopt(settings, Snapshot(settings, {}, self.deadlines, self.names, self.health))
        self.server = Server(self, Limits(body=settings.max_body), self.deadlines, self.clock)

    def _adopt(self, settings: config.Config, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.natives.forget()
        self.cache.adopt(settings.cache_memory, settings.cache_answer, shared=settings.cache.shared)
        self.catalogue.adopt(settings)
        self.identities.adopt(settings, lambda url: fetcher(url, self.deadlines, self.names))
        self.error_format = settings.server.error_format
        self.origins = frozenset(origin.encode() for origin in settings.server.cors)
        self.keepalive = float(settings.server.keepalive)
        self.client_retries = settings.routing.client_retries
        self.retries = RetrySettings(attempts=settings.routing.attempts)

    def _forget_prices(self) -> None:
        """There is another price list."""
        self.natives.forget()
        self.prices.forget()
        self.snapshot.forget_listed()
        self.catalogue.learn_anew()

    def reload(self, settings: config.Config) -> None:
        """Serve new requests by a new configuration; those in flight keep the old one. Raises config.ConfigError."""
        old = self.snapshot
        self.books.adopt(settings)
        snapshot = Snapshot(settings, old.pools, self.deadlines, self.names, self.health)
        snapshot.inherit(old)
        self._adopt(settings, snapshot)
        for target, pool in old.pools.items():
            if target not in self.snapshot.pools:
                pool.close()

    # What the server calls

    def begin(self, exchange: Exchange) -> None:
        """A whole request has arrived: find its handler and let that walk."""
        try:
            if exchange.method == "OPTIONS":
                routes.preflight(self, exchange)
                return
            handler = routes.find_handler(exchange.method, exchange.path)
        except Refusal as refusal:
            self.refuse(exchange, refusal)
            return
        walk = Walk(handler(self, exchange), self.walks)
        exchange.on_gone = walk.cancel
        walk.go_on()

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """An error under an id of its own."""
        self.books.refused(refusal.failure.code)
        refuse(self, exchange, refusal, self.mint())

    # What the walk asks

    def why_not_ready(self) -> str:
        """Empty when this worker may take traffic."""
        if self.server.draining:
            return "draining"
        if not self.link.connected:
            return "the keeper cannot be reached"
        return self.link.trouble or self.journal.why_not

    # Life

    async def run(self, sock: socket.socket, stop: asyncio.Event, grace: float) -> None:
        """Serve until `stop`, then drain for `grace` seconds."""
        self.link.start()
        await self._wait_for_keeper(stop)
        await self.server.listen(sock, certificates.listener_context(self.snapshot.settings.server.tls))
        self.catalogue.start()
        ticking = asyncio.create_task(self._tick())
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked at again
        gc.set_threshold(10_000, 10, 10)  # requests leave no cycles behind; this is for what others leave
        await stop.wait()
        if not await self.server.drain(grace):
            for walk in list(self.walks):
                walk.cancel()
            await self.server.drain(DRAIN_MARGIN)
        for walk in list(self.walks):  # answers that are made though their callers have left
            walk.cancel()
        await self.idempotency.close(DRAIN_MARGIN)
        ticking.cancel()
        self.catalogue.close()
        self.books.tick()
        self.journal.close()
        await self.link.close()
        self.keeper.close()
        self.names.close()
        self.deadlines.close()

    async def _tick(self) -> None:
        """Once a second, what has been counted; once an hour, prices are looked at again."""
        repriced = self.clock()
        while True:
            self._beat()
            await asyncio.sleep(1.0)
            self.books.tick()
            self.watch.tick(self.clock())
            if self.clock() - repriced >= FRESH:
                repriced = self.clock()
                self.snapshot.reprice()

    async def _wait_for_keeper(self, stop: asyncio.Event) -> None:
        """So that whoever connects first is not told that keys cannot be checked; /readyz tells a keeper's absence."""
        waits = [asyncio.ensure_future(self.link.wait_connected(FIRST_LINK)), asyncio.ensure_future(stop.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def check(settings: config.Config) -> None:
    """What a configuration leans on outside of itself: certificates, proxies. Raises config.ConfigError."""
    certificates.listener_context(settings.server.tls)
    for name, provider in settings.providers.items():
        find_target(name, provider)
        certificates.check_authorities(name, provider.ca)
        check_accounts(name, provider)
    if settings.jwt is not None:
        Tokens(settings.jwt, settings.plans, None)


def run_worker(
    settings: config.Config,
    load: Callable[[], config.Config],
    data: pathlib.Path,
    sock: socket.socket,
    parent: int,
    number: int,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Be a worker until SIGTERM, or until the supervisor at the other end of the pipe `parent` is gone.

    `beat` is called every second. On SIGHUP, `load` reads the configuration again; what it raises changes nothing.
    SIGHUP may be blocked until then.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        worker = Worker(settings, data, number, beat)

        def reload() -> None:
            try:
                worker.reload(load())
            except config.ConfigError as error:
                log.error("the configuration stays as it was: %s", error)

        for number_ in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number_, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # what came meanwhile is heard now
        os.set_blocking(parent, False)
        loop.add_reader(parent, stop.set)  # nothing is ever written: readable means closed
        await worker.run(sock, stop, settings.server.drain)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

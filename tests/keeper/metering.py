"""Hosts and workers for tests of leases: real keepers' parts on real stores, real links, real journals, in one process.

async with Site(kind, url, valkey) as site:
    host = await site.host()
    worker = await host.worker()
    assert await worker.admit("a1:requests:total", 10)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from sqlalchemy import select

from tests.keeper.running import until
from waypost import journal_file
from waypost.config import Plan, Secret, Store
from waypost.ids import Minter
from waypost.keeper.accounts import Accounts
from waypost.keeper.answers import Answers
from waypost.keeper.folder import host_id
from waypost.keeper.journals import Journals
from waypost.keeper.ledger import open_ledger
from waypost.keeper.link import Links
from waypost.keeper.meters import ENDED_SECONDS, Meters
from waypost.keeper.prices import Prices
from waypost.keeper.store import open_database
from waypost.keeper.store.answers import AnswerStore
from waypost.keeper.store.counters import DatabaseCounters, open_counters
from waypost.keeper.store.tables import holdings, meters
from waypost.keeper.store.valkey import ValkeyCounters
from waypost.link import socket_path
from waypost.records import Opened, Settled, Usage
from waypost.worker.journal import Journal
from waypost.worker.leases import Lease, Leases
from waypost.worker.link import Link
from waypost.worker.walk import Walk

DAY = "a1:requests:day:2099-11-22"
DAY_ENDS = 4_098_000_000
_mint = Minter()


class Worker:
    """A worker's leases, link and journal."""

    def __init__(self, data: pathlib.Path, number: int, capacity: int = 30_000) -> None:
        self.journal = Journal(
            journal_file.folder(data),
            number,
            secrets.token_hex(8),
            max_bytes=1 << 30,
            clock=time.monotonic,
            loop=asyncio.get_running_loop(),
            segment=1 << 20,
        )
        self.leases = Leases(capacity=capacity)
        self.link = Link(
            socket_path(data), lambda _: None, worker=number, journal=self.journal.name, leases=self.leases
        )
        self.walks: set[Walk] = set()
        self.admitted = 0
        self.is_open = True

    def lease(self, meter: str, limit: int) -> Lease:
        return self.leases.lease(meter, limit, 0 if meter.endswith(":total") else DAY_ENDS)

    def admit(self, meter: str, limit: int, need: int = 1) -> asyncio.Future[Request | None]:
        """A request as the worker's walk admits it: what it holds, None if it is refused."""
        return self.walk(self._admit([(self.lease(meter, limit), need)]))

    def walk(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """The result of what only walks may await."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                future.set_result(await coroutine)
            except Exception as error:
                future.set_exception(error)

        Walk(run(), self.walks).go_on()
        return future

    async def _admit(self, takes: Sequence[tuple[Lease, int]]) -> Request | None:
        while True:
            if all(lease.units >= units for lease, units in takes):
                break
            short = await self.leases.more(takes)
            if short is not None and any(lease.units < units for lease, units in takes):
                return None
        for lease, units in takes:
            lease.units -= units
        request = Request(self, takes, _mint()[-26:])
        holds = tuple((lease.name, units) for lease, units in takes)
        now = int(time.time() * 1000)
        self.journal.append(Opened(request.id, now, 1, 1, "free", "m", False, holds, 1, 1))
        self.admitted += 1
        return request

    async def die(self) -> None:
        """As by `kill -9`: nothing is returned, nothing is settled."""
        if self.is_open:
            self.is_open = False
            self.link._leases = None
            await self.link.close()
            self.journal.close()


class Request:
    """An admitted request."""

    def __init__(self, worker: Worker, takes: Sequence[tuple[Lease, int]], id: bytes) -> None:
        self.worker = worker
        self.takes = takes
        self.id = id

    def settle(self, requests: int = 1, tokens: int = 0, cost: int = 0) -> None:
        """It has ended, and used so much."""
        now = int(time.time() * 1000)
        line = Settled(
            self.id, now, 200, "", "p", "m", 1, requests, tokens, cost, "", Usage(), estimated=False, first_token=1,
            latency=1, raw=b"",
        )  # fmt: skip
        self.worker.journal.append(line)
        self.worker.leases.settle(self.takes, requests, tokens, cost)


class Host:
    """A keeper's parts on a data folder."""

    def __init__(self, data: pathlib.Path, store: Store, timeout: float) -> None:
        self.data = data
        self.store = store
        self.timeout = timeout
        self.workers: list[Worker] = []
        self._numbers = itertools.count(1)
        self._is_up = False

    async def start(self) -> None:
        self.database = await open_database(self.store, self.data)
        self.name = host_id(self.data)
        self.ledger = open_ledger(self.database, self.data, self.name, 90)
        counters, fast = open_counters(self.store, self.database, self.name)
        if isinstance(fast, ValkeyCounters):
            fast = ValkeyCounters(self.store.limits.reveal(), self.name, counters.spent, timeout=self.timeout)
        journals = Journals(journal_file.folder(self.data))
        self.meters = Meters(
            counters,
            fast,
            self.ledger,
            live=lambda: [name for name in journals.scan() if journals.is_alive(name)],
            on_outage=self.store.limits_on_outage,
        )
        self.ledger.on_spent.append(self.meters.spent)
        self.ledger.on_closed.append(self.meters.closed)
        self.meters.start(await counters.load(time.time() - ENDED_SECONDS))
        answers = Answers(AnswerStore(self.database, "host"))
        self.links = Links(
            Accounts(self.database, {"free": Plan()}, time.time), Prices(time.time), self.meters, answers
        )
        self._following = asyncio.create_task(self.ledger.run())
        socket_path(self.data).unlink(missing_ok=True)
        self._server = await asyncio.get_running_loop().create_unix_server(
            self.links.accept, str(socket_path(self.data))
        )
        self._is_up = True

    async def stop(self) -> None:
        """Nothing is finished; the workers live on."""
        if not self._is_up:
            return
        self._is_up = False
        self._server.close()
        await self.links.close(0.0)
        await self.meters.close()
        async with self.ledger.held():  # no transaction is left to a thread
            self._following.cancel()
            await asyncio.wait([self._following])
        await self.database.close()

    async def worker(self, capacity: int = 30_000) -> Worker:
        worker = Worker(self.data, next(self._numbers), capacity)
        self.workers.append(worker)
        worker.link.start()
        await worker.link.wait_connected(30)
        return worker


class Site:
    """Hosts on one store: `kind` is sqlite, postgresql or valkey."""

    def __init__(self, kind: str, url: str, valkey: str, on_outage: str = "closed", timeout: float = 10.0) -> None:
        self.kind = kind
        self.store = Store(
            database=Secret("sqlite" if kind == "sqlite" else url),
            limits=Secret(valkey if kind == "valkey" else "database"),
            limits_on_outage=on_outage,
        )
        self.timeout = timeout
        self.hosts: list[Host] = []
        self._folder = tempfile.TemporaryDirectory(prefix="waypost-")

    async def __aenter__(self) -> Site:
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            await worker.die()
        for host in self.hosts:
            await host.stop()
        self._folder.cleanup()

    @property
    def workers(self) -> list[Worker]:
        return [worker for host in self.hosts for worker in host.workers]

    async def host(self, workers: int = 0) -> Host:
        data = pathlib.Path(self._folder.name) / f"h{len(self.hosts)}"
        data.mkdir()
        host = Host(data, self.store, self.timeout)
        self.hosts.append(host)
        await host.start()
        for _ in range(workers):
            await host.worker()
        return host

    async def books(self, meter: str) -> tuple[int, int, int]:
        """Units taken, granted to hosts, and spent, once every line is in the books."""
        for host in self.hosts:
            assert await host.ledger.catch_up(30)
        async with self.hosts[0].database.reading() as connection:
            taken = await connection.scalar(select(meters.c.taken).where(meters.c.name == meter))
            rows = (await connection.execute(select(holdings).where(holdings.c.meter == meter))).all()
        return taken or 0, sum(row.granted for row in rows), sum(row.spent for row in rows)


@contextlib.asynccontextmanager
async def down(host: Host) -> AsyncIterator[None]:
    """The host's keeper is away during the block, and back with all its workers after it."""
    await host.stop()
    yield
    await host.start()
    for worker in host.workers:
        if worker.is_open:
            await until(lambda worker=worker: worker.link.connected)


__all__ = ["DAY", "DAY_ENDS", "DatabaseCounters", "Host", "Request", "Site", "Worker", "down"]

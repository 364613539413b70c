"""Journals for tests of the ledger: a writer that leaves every byte to the test, lines that make sense, books read.

with Writer(folder) as writer:               # a journal whose worker lives
    writer.write(*request(1))                # opened and settled
    writer.die()
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import pathlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import select

from tests.keeper.running import data_folder
from waypost import journal_file
from waypost.config import Secret, Store
from waypost.ids import crockford
from waypost.journal_file import HEADER, SEAL
from waypost.keeper.ledger import Ledger, open_ledger
from waypost.keeper.store import open_database
from waypost.keeper.store.database import Database
from waypost.keeper.store.tables import attempts, days, holdings, journals, metadata, prices, requests
from waypost.records import Line, Opened, Settled, Usage

HOST = "f" * 16
NOON = 1_795_348_800_000  # milliseconds: 2026-11-22 12:00 UTC
_tokens = itertools.count(1)


class Writer:
    """A journal's files, as a worker writes them; `size` bytes a segment. Nothing is hurried to the disk."""

    def __init__(self, folder: pathlib.Path, worker: int = 1, size: int = 64 * 1024, token: str = "") -> None:
        self.folder = folder
        self.name = journal_file.journal_name(worker, token or f"{os.getpid():08x}{next(_tokens):08x}")
        self.size = size
        self.number = 0
        self.descriptor = -1
        self.alive = -1
        self.offset = 0

    def __enter__(self) -> Writer:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / journal_file.alive_name(self.name)
        self.alive = os.open(path.with_suffix(".new"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.alive, fcntl.LOCK_EX)
        path.with_suffix(".new").rename(path)
        self.next_segment()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def next_segment(self) -> None:
        """Begin a segment without sealing the one before."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.number += 1
        path = self.folder / journal_file.segment_name(self.name, self.number)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.posix_fallocate(self.descriptor, 0, self.size)
        os.pwrite(self.descriptor, journal_file.render_header(self.name, self.number), 0)
        self.offset = HEADER

    def write(self, *lines: Line) -> None:
        """Lines, one after the other, sealing what is full."""
        for line in lines:
            frame = journal_file.render_frame(line)
            if self.offset + len(frame) + len(SEAL) > self.size:
                os.pwrite(self.descriptor, SEAL, self.offset)
                self.next_segment()
            self.put(frame)

    def put(self, data: bytes) -> None:
        """Bytes, as they are."""
        os.pwrite(self.descriptor, data, self.offset)
        self.offset += len(data)

    def die(self) -> None:
        """Let the lock go, as the kernel does for the dead."""
        for descriptor in (self.descriptor, self.alive):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self.alive = -1


# Lines


def id_of(number: int, at: int = NOON) -> bytes:
    """A request's id."""
    return crockford(at, 5) + crockford(number, 8)


def opened(number: int, at: int = NOON, account: int = 7, **fields: Any) -> Opened:
    """A request of account 7 with its key 70, who holds a request, 1500 of money, and a stream."""
    defaults: dict[str, Any] = {
        "id": id_of(number, at),
        "at": at,
        "account": account,
        "key": account * 10,
        "plan": "free",
        "model": "route/x",
        "stream": False,
        "holds": (
            (f"a{account}:requests:day:2026-11-22", 1),
            (f"a{account}:spend:month:2026-11", 1500),
            (f"a{account}:tokens:day:2026-11-22", 300),
            (f"k{account * 10}:streams:total", 1),
        ),
        "estimate": 100,
        "estimated_cost": 900,
    }
    return Opened(**{**defaults, **fields})


def settled(number: int, at: int = NOON, **fields: Any) -> Settled:
    """It came to 120 tokens in, 80 out, and 1234 nano-dollars."""
    defaults: dict[str, Any] = {
        "id": id_of(number, at),
        "at": at + 900,
        "status": 200,
        "code": "",
        "provider": "lab",
        "upstream_model": "x-large",
        "attempts": 1,
        "requests": 1,
        "tokens": 200,
        "cost": 1234,
        "price": "abcdef012345",
        "usage": Usage(fresh=100, cache_read=20, output=70, reasoning=10),
        "estimated": False,
        "first_token": 200,
        "latency": 900,
        "raw": b'{"total_tokens":200}',
        "saved": 56,
    }
    return Settled(**{**defaults, **fields})


def request(number: int, at: int = NOON, account: int = 7) -> tuple[Opened, Settled]:
    """A whole request."""
    return opened(number, at, account), settled(number, at)


# Books


@contextlib.asynccontextmanager
async def ledger_on(
    data: pathlib.Path, url: str = "sqlite", host: str = HOST, retention: int = 0
) -> AsyncIterator[tuple[Ledger, Database]]:
    """A ledger that follows the journals in `data`."""
    data.mkdir(mode=0o700, exist_ok=True)
    database = await open_database(Store(database=Secret(url)), data)
    ledger = open_ledger(database, data, host, retention, lambda: NOON / 1000 + 3600)
    following = asyncio.create_task(ledger.run())
    try:
        yield ledger, database
        if following.done():
            following.result()
    finally:
        following.cancel()
        await asyncio.wait([following])
        await database.close()


TABLES = {
    table.name: table
    for table in metadata.sorted_tables
    if table in {requests, attempts, days, prices, journals, holdings}
}


async def read_books(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the books, by table, in the order of their keys."""
    found = {}
    for name, table in TABLES.items():
        async with database.reading() as connection:
            rows = await connection.execute(select(table))
            found[name] = sorted((tuple(row) for row in rows), key=lambda row: tuple(map(repr, row)))
    return found


async def columns(database: Database, *names: str) -> list[tuple[Any, ...]]:
    """These columns of `requests`, in the order of ids."""
    async with database.reading() as connection:
        rows = await connection.execute(select(*(requests.c[name] for name in names)).order_by(requests.c.id))
        return [tuple(row) for row in rows]


async def spent(database: Database) -> dict[str, int]:
    """Units that were spent of each meter, over all holders."""
    found: dict[str, int] = {}
    async with database.reading() as connection:
        for row in await connection.execute(select(holdings.c.meter, holdings.c.spent)):
            found[row.meter] = found.get(row.meter, 0) + row.spent
    return {meter: units for meter, units in found.items() if units}


@contextlib.contextmanager
def engines(postgres: Any, names: Sequence[str] = ("sqlite", "postgresql")) -> Iterator[Callable[[str], str]]:
    """The URL of an empty database of each engine."""
    with contextlib.ExitStack() as stack:
        yield lambda name: "sqlite" if name == "sqlite" else stack.enter_context(postgres.fresh())


@contextlib.contextmanager
def empty_folder() -> Iterator[pathlib.Path]:
    """A data folder with a place for journals in it."""
    with data_folder() as data:
        (data / "journal").mkdir(parents=True, mode=0o700)
        yield data

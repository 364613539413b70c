"""What the books cost the keeper: `python -m bench.ledger [--requests N] [--rate N] [--database postgresql://…]`.

Journals of one worker are written, and a ledger takes them into an empty database: all at once (`--rate 0`), or as they
are written at so many requests a second. Printed are microseconds of CPU a request, of this process and its threads.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import pathlib
import resource
import tempfile
import time
from collections.abc import Iterator

import uvloop

from waypost import journal_file
from waypost.config import Secret, Store
from waypost.ids import Minter
from waypost.journal_file import HEADER, SEAL, SEGMENT
from waypost.keeper.ledger import open_ledger
from waypost.keeper.store import open_database
from waypost.records import Line, Opened, Settled, Usage

NAME = journal_file.journal_name(1, "0" * 16)
RAW = b'{"prompt_tokens":120,"completion_tokens":80,"total_tokens":200,"prompt_tokens_details":{"cached_tokens":0}}'


def lines(count: int) -> Iterator[Line]:
    """Requests of 50 accounts, each with four meters, that were opened and settled."""
    mint = Minter()
    for number in range(count):
        id, account, at = mint()[9:], number % 50 + 1, int(time.time() * 1000)
        holds = (
            (f"a{account}:requests:minute:2026-11-22T10:31+00:00", 1),
            (f"a{account}:requests:day:2026-11-22", 1),
            (f"a{account}:spend:month:2026-11", 5000),
            (f"a{account}:streams:total", 1),
        )
        yield Opened(id, at, account, account * 3, "free", "route/deepseek-v3.2", False, holds, 120, 30_000)
        usage = Usage(fresh=120, output=80)
        yield Settled(
            id, at, 200, "", "deepseek", "deepseek-chat", 1, 1, 200, 52_000, "abcdef012345", usage, False, 200, 900, RAW
        )


def frames(count: int) -> Iterator[bytes]:
    """The same, as a journal's bytes, a request at a time."""
    pair = b""
    for number, line in enumerate(lines(count)):
        pair += journal_file.render_frame(line)
        if number % 2:
            yield pair
            pair = b""


class Writer:
    """A journal's segments, without a worker: the ledger takes it for a dead one's when it is done."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._number = 0
        self._begin()

    def _begin(self) -> None:
        self._number += 1
        self._file = open(self._folder / journal_file.segment_name(NAME, self._number), "wb", buffering=0)  # noqa: SIM115
        self._file.truncate(SEGMENT)
        self._file.write(journal_file.render_header(NAME, self._number))
        self._offset = HEADER

    def write(self, data: bytes) -> None:
        """Whole frames."""
        if self._offset + len(data) + len(SEAL) > SEGMENT:
            self._file.write(SEAL)
            self._file.close()
            self._begin()
        self._file.write(data)
        self._offset += len(data)


def used() -> float:
    """Seconds of CPU of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(count: int, rate: int, url: str) -> None:
    """Print what `count` requests cost."""
    with tempfile.TemporaryDirectory(prefix="waypost-") as name:
        data = pathlib.Path(name)
        (data / "journal").mkdir()
        database = await open_database(Store(database=Secret(url)), data)
        ledger = open_ledger(database, data, "0" * 16, 0)
        pieces = list(frames(count))
        if not rate:
            write_all(data, pieces)
        began, cpu = time.perf_counter(), used()
        following = asyncio.create_task(ledger.run())
        written = await write_paced(data, pieces, rate) if rate else 0.0
        await ledger.close_dead()
        cpu, wall = used() - cpu - written, time.perf_counter() - began
        print(f"{count} requests, {url.partition(':')[0]}: {cpu / count * 1e6:.1f} µs of CPU a request, {wall:.1f} s")
        following.cancel()
        await asyncio.wait([following])
        await database.close()


def write_all(data: pathlib.Path, pieces: list[bytes]) -> None:
    """Everything at once."""
    writer = Writer(data / "journal")
    for piece in pieces:
        writer.write(piece)


async def write_paced(data: pathlib.Path, pieces: list[bytes], rate: int) -> float:
    """So many a second, under a worker's lock; the CPU seconds that the writing itself took."""
    with open(data / "journal" / journal_file.alive_name(NAME), "wb") as alive:  # noqa: ASYNC230
        fcntl.flock(alive, fcntl.LOCK_EX)
        writer, took, began = Writer(data / "journal"), 0.0, time.perf_counter()
        for number in range(0, len(pieces), max(1, rate // 100)):
            cpu = time.thread_time()
            for piece in pieces[number : number + max(1, rate // 100)]:
                writer.write(piece)
            took += time.thread_time() - cpu
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        return took


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--database", default="sqlite")
    options = parser.parse_args()
    uvloop.run(measure(options.requests, options.rate, options.database))

"""The journal's writer: what it leaves when it is killed, when the disk is full, and how it forces lines out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.harness import wait_until
from waypost.config import Config
from waypost.errors import Refusal
from waypost.journal_file import HEADER, LineError, alive_name, parse_file_name, parse_header, read_lines, segment_name
from waypost.records import AnyLine, Opened, Priced, Repeated, Settled, Tally, Usage
from waypost.worker import books
from waypost.worker.journal import Journal, JournalUnavailable, Sync, fdatasync
from waypost.worker.leases import Leases

TOKEN = "0123456789abcdef"
NAME = f"1-{TOKEN}"
SMALL = 1 << 15


@contextlib.contextmanager
def journal_in(
    folder: pathlib.Path,
    *,
    segment: int = SMALL,
    max_bytes: int = 1 << 30,
    sync: Sync = "none",
    clock: Callable[[], float] = time.monotonic,
    force: Callable[[int], None] = fdatasync,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Iterator[Journal]:
    """A journal of worker 1 that is closed in the end."""
    own = loop or asyncio.new_event_loop()
    journal = Journal(
        folder, 1, TOKEN, max_bytes=max_bytes, clock=clock, loop=own, sync=sync, segment=segment, fdatasync=force
    )
    try:
        yield journal
    finally:
        journal.close()
        if loop is None:
            own.close()


def opened(number: int) -> Opened:
    return Opened(b"%026d" % number, number, 1, 1, "all", "m", False, (("a1:requests:total", 1),), 5, 5)


def settled(number: int, raw: bytes = b"{}") -> Settled:
    return Settled(b"%026d" % number, number, 200, "", "p", "m", 1, 1, 9, 9, "", Usage(5, output=4), False, 1, 1, raw)


def segments_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if (parse_file_name(path.name) or (NAME, 0))[1] > 0)


def written_in(folder: pathlib.Path) -> list[AnyLine]:
    """All lines of the folder's journal; every segment but the last one is sealed."""
    lines: list[AnyLine] = []
    ends = []
    for path in segments_of(folder):
        data = path.read_bytes()
        assert parse_header(data) == parse_file_name(path.name)
        read, _, end = read_lines(data, HEADER)
        lines += read
        ends.append(end)
    while ends and ends[-1] == "open":
        ends.pop()  # the current one, and perhaps the next, made ahead
    assert set(ends) <= {"sealed"}
    return lines


class Books:
    """Reads a journal as the keeper does: on from where it was, and a sealed segment is deleted when it is read."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.lines: list[AnyLine] = []
        self._folder = folder
        self._number = 1
        self._offset = HEADER

    def take(self) -> None:
        while True:
            path = self._folder / segment_name(NAME, self._number)
            if not path.exists():
                return
            lines, self._offset, end = read_lines(path.read_bytes(), self._offset)
            self.lines += lines
            if end != "sealed":
                return
            path.unlink()
            self._number, self._offset = self._number + 1, HEADER


def is_locked(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# In order


def test_lines_are_in_the_file_when_append_returns(tmp_path: pathlib.Path) -> None:
    lines: list[AnyLine] = [Priced("v", b"{}"), opened(1), settled(1), Tally(4, {}, 0, 0)]
    with journal_in(tmp_path) as journal:
        assert journal.name == NAME and journal.why_not == "" and journal.synced() is None
        for number, line in enumerate(lines, 1):
            journal.append(line)
            assert written_in(tmp_path) == lines[:number]
    assert written_in(tmp_path) == lines


def test_it_goes_on_in_the_next_segment(tmp_path: pathlib.Path) -> None:
    lines = [line for number in range(600) for line in (opened(number), settled(number, b"x" * (number * 7 % 500)))]
    with journal_in(tmp_path) as journal:
        for line in lines:
            journal.append(line)
        assert len(segments_of(tmp_path)) > 5
        assert written_in(tmp_path) == lines
    assert all(path.stat().st_size == SMALL for path in segments_of(tmp_path))
    # Every segment was begun, none is left that was only made ahead:
    assert all(read_lines(path.read_bytes(), HEADER).lines for path in segments_of(tmp_path))


def test_a_segment_is_filled_to_its_last_byte(tmp_path: pathlib.Path) -> None:
    size = len(settled(1, b"").raw) + 100
    with journal_in(tmp_path, segment=4096) as journal:
        for number in range(200):
            journal.append(settled(number, b"x" * (size + number)))
    for path in segments_of(tmp_path)[:-1]:
        reading = read_lines(path.read_bytes(), HEADER)
        assert reading.end == "sealed" and 4096 - reading.offset < 600


def test_its_life_is_a_lock(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "data" / "journal"
    with journal_in(folder) as journal:
        assert is_locked(folder / alive_name(NAME))
        assert (folder / alive_name(NAME)).stat().st_mode & 0o777 == 0o600
        journal.append(opened(1))
    assert not is_locked(folder / alive_name(NAME))
    with pytest.raises(JournalUnavailable, match="closed"):
        journal.append(settled(1))
    assert sorted(path.name for path in folder.iterdir()) == [f"{NAME}.00000001", f"{NAME}.alive"]


def test_a_line_that_cannot_be_written_is_its_own_error(tmp_path: pathlib.Path) -> None:
    with journal_in(tmp_path) as journal:
        for wrong in (Priced("\ud800", b""), settled(1, bytes(SMALL)), Tally(1 << 64, {}, 0, 0)):
            with pytest.raises(LineError):
                journal.append(wrong)
        journal.append(settled(2))
        assert journal.why_not == ""
    assert written_in(tmp_path) == [settled(2)]


# Killed


def test_killed_a_hundred_times_every_acknowledged_line_is_there(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "tests.worker.journal_killed", str(tmp_path), "100", "7"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    rounds = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rounds) == 100
    for row in rounds:
        assert row["in_order"], row
        assert row["acknowledged"] <= row["lines"] <= row["acknowledged"] + 65536, row
        assert row["end"] in ("open", "torn") or row["segments"] > 0, row
    assert sum(row["acknowledged"] for row in rounds) > 100
    assert max(row["segments"] for row in rounds) > 1, "some went on in a next segment"


# No room


def refused_at(journal: Journal) -> int:
    """Open requests until one is refused; how many were opened."""
    for number in range(100_000):
        try:
            journal.append(opened(number))
        except JournalUnavailable as error:
            refusal = str(error)
            break
    assert refusal == journal.why_not != ""
    return number


def test_bounded_by_what_the_books_have_not_taken(tmp_path: pathlib.Path) -> None:
    with journal_in(tmp_path, max_bytes=5 * SMALL) as journal:
        count = refused_at(journal)
        assert len(segments_of(tmp_path)) == 5
        assert journal.why_not == f"the books are behind: {5 * SMALL} bytes wait to be taken"
        with pytest.raises(JournalUnavailable):
            journal.append(Repeated(b"0" * 26, 1, 1, 1, "all", "m", False, (), 1, b"1" * 26))
        for number in range(40):  # those under way are settled in what is left
            journal.append(settled(number))
        lines: list[AnyLine] = [*map(opened, range(count)), *map(settled, range(40))]
        assert written_in(tmp_path) == lines
        for path in segments_of(tmp_path)[:-2]:
            path.unlink()
        wait_until(lambda: journal.why_not == "", "the journal")
        journal.append(opened(count))
        assert written_in(tmp_path)[-1] == opened(count)


def test_lines_that_must_not_be_lost_wait_for_room(tmp_path: pathlib.Path) -> None:
    with journal_in(tmp_path, max_bytes=3 * SMALL) as journal:
        count = refused_at(journal)
        for number in range(count):  # more than there is room for
            journal.append(settled(number, b"x" * 200))
        assert journal.why_not
        books = Books(tmp_path)
        books.take()
        assert len(books.lines) < 2 * count

        def all_taken() -> bool:
            books.take()
            return journal.why_not == "" and len(books.lines) == 2 * count

        wait_until(all_taken, "the rest of the lines")
    assert books.lines == [*map(opened, range(count)), *(settled(number, b"x" * 200) for number in range(count))]


def test_a_folder_that_cannot_be_made_and_then_can(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "journal"
    folder.write_text("in the way")
    with journal_in(folder) as journal:
        assert journal.why_not.startswith(f"the journal in {folder} cannot be written: ")
        with pytest.raises(JournalUnavailable, match="cannot be written"):
            journal.append(opened(1))
        folder.unlink()
        wait_until(lambda: journal.why_not == "", "the journal")
        journal.append(opened(2))
        assert written_in(folder) == [opened(2)]
        assert is_locked(folder / alive_name(NAME))


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_and_then_room(small_disk: pathlib.Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(64 * 1024))
    folder = small_disk / "journal"
    with journal_in(folder) as journal:
        count = refused_at(journal)
        assert journal.why_not == f"the journal in {folder} cannot be written: No space left on device"
        for number in range(40):
            journal.append(settled(number))
        assert written_in(folder) == [*map(opened, range(count)), *map(settled, range(40))]
        ballast.unlink()
        wait_until(lambda: journal.why_not == "", "the journal")
        journal.append(opened(count))
        journal.append(settled(count))
    assert written_in(folder)[-2:] == [opened(count), settled(count)]


def test_a_disk_full_from_the_start(small_disk: pathlib.Path) -> None:
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(1 << 20))
    with journal_in(small_disk / "journal") as journal:
        assert "No space left on device" in journal.why_not
        with pytest.raises(JournalUnavailable, match="No space left"):
            journal.append(opened(1))
        ballast.unlink()
        wait_until(lambda: journal.why_not == "", "the journal")
        journal.append(opened(1))
    assert written_in(small_disk / "journal") == [opened(1)]


# Forced to the disk


class Platter:
    """Stands where fdatasync does: counts, can be held up, can fail."""

    def __init__(self) -> None:
        self.forced = 0
        self.free = threading.Event()
        self.free.set()
        self.broken = False

    def __call__(self, descriptor: int) -> None:
        assert self.free.wait(60)
        os.fstat(descriptor)  # it is open
        self.forced += 1
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")


def test_always_one_force_serves_all_that_wait(tmp_path: pathlib.Path) -> None:
    platter = Platter()

    async def run() -> None:
        with journal_in(tmp_path, sync="always", force=platter, loop=asyncio.get_running_loop()) as journal:

            async def request(number: int) -> None:
                journal.append(settled(number))
                waiting = journal.synced()
                assert waiting is not None
                await waiting

            await asyncio.wait_for(asyncio.gather(*map(request, range(50))), 60)
            assert platter.forced == 1
            platter.free.clear()
            first = asyncio.create_task(request(50))
            while not journal._forcing:
                await asyncio.sleep(0)
            rest = [asyncio.create_task(request(number)) for number in range(51, 90)]
            await asyncio.sleep(0.01)
            assert not first.done() and not any(task.done() for task in rest), "nothing is on the disk yet"
            rest[3].cancel()  # a caller who leaves takes nobody along
            platter.free.set()
            await asyncio.wait_for(asyncio.gather(first, *rest, return_exceptions=True), 60)
            assert platter.forced == 3
            assert [task for task in rest if task.cancelled()] == [rest[3]]

    asyncio.run(run())
    assert written_in(tmp_path) == [settled(number) for number in range(90)]


def test_always_across_segments(tmp_path: pathlib.Path) -> None:
    platter = Platter()

    async def run() -> None:
        with journal_in(tmp_path, sync="always", force=platter, loop=asyncio.get_running_loop()) as journal:
            for number in range(600):
                journal.append(settled(number))
            waiting = journal.synced()
            assert waiting is not None
            await asyncio.wait_for(waiting, 60)
            assert platter.forced == len(segments_of(tmp_path)) - any(
                not read_lines(path.read_bytes(), HEADER).lines for path in segments_of(tmp_path)
            )

    asyncio.run(run())


def test_a_disk_that_cannot_force_refuses_until_it_can(tmp_path: pathlib.Path) -> None:
    platter = Platter()

    async def run() -> None:
        with journal_in(tmp_path, sync="always", force=platter, loop=asyncio.get_running_loop()) as journal:
            platter.broken = True
            journal.append(opened(1))
            waiting = journal.synced()
            assert waiting is not None
            with pytest.raises(JournalUnavailable, match="cannot be forced to the disk: Input/output error"):
                await asyncio.wait_for(waiting, 60)
            platter.broken = False
            while journal.why_not:
                await asyncio.sleep(0.01)
            journal.append(opened(2))
            waiting = journal.synced()
            assert waiting is not None
            await asyncio.wait_for(waiting, 60)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert written_in(tmp_path) == [opened(1), opened(2)]
    assert len(segments_of(tmp_path)) == 2, "pages that could not be written are not trusted again"


def test_a_request_whose_line_is_not_on_the_disk_is_not_made(tmp_path: pathlib.Path) -> None:
    platter = Platter()

    async def run() -> None:
        with journal_in(tmp_path, sync="always", force=platter, loop=asyncio.get_running_loop()) as journal:
            own = books.Books(Leases(), journal, Config(), lambda: 0)
            platter.broken = True
            own.write_opened(opened(1))
            waiting = journal.synced()
            assert waiting is not None
            with pytest.raises(Refusal, match="cannot be written down") as caught:
                await own.on_disk(waiting)
            assert (caught.value.failure.code, caught.value.retry_after) == ("UNAVAILABLE", 5)
            platter.broken = False

    asyncio.run(asyncio.wait_for(run(), 60))


def test_every_second(tmp_path: pathlib.Path) -> None:
    platter = Platter()

    async def run() -> None:
        with journal_in(tmp_path, sync="second", force=platter, loop=asyncio.get_running_loop()) as journal:
            journal.append(opened(1))
            assert journal.synced() is None and platter.forced == 0
            while platter.forced == 0:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert platter.forced == 2, "once in its second, once at the end"


def test_never_without_being_told(tmp_path: pathlib.Path) -> None:
    platter = Platter()
    with journal_in(tmp_path, force=platter) as journal:
        for number in range(500):
            journal.append(settled(number))
    assert platter.forced == 0

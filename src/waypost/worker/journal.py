"""The journal's writer: lines go into a mapped file, so they are the kernel's at once and survive the worker.

`append` encodes and copies. Everything that may wait for a disk (making the next segment, forcing lines out, closing)
is done by one thread, which is told early: the next segment is asked for when half of the current one is used, and
waited for at three quarters. If it cannot be made, no request is opened any more, and what is left of the current one
is for those under way to be settled in.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import fcntl
import logging
import mmap
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from waypost import journal_file
from waypost.journal_file import FRAME, HEADER, SEAL, SEGMENT, LineError
from waypost.records import Line, Opened, Repeated

logger = logging.getLogger("waypost.worker")

Sync = Literal["none", "second", "always"]

RETRY: Final = 0.1
"""Seconds between two tries at a disk that fails."""

STEPS: Final = 16
"""Parts of a segment at whose ends the writer looks at what the thread has done."""

FEWEST: Final = 3
"""Segments that a journal may have however small its bound: one filled, one that comes next, one being read."""

REFUSED: Final = frozenset((Opened, Repeated))
"""Lines without which a request is not made, so that they need not be kept where there is no room."""

_encode = msgspec.msgpack.Encoder().encode
_pack = journal_file.PAIR.pack
_crc32 = zlib.crc32
fdatasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
"""A mapping's pages are the file's, so this forces out what was copied into it, too."""


class JournalUnavailable(Exception):
    """A line cannot be written down now; the message says why. Nothing of the line is in the journal."""


class Segment:
    """A file, allocated in full and mapped. `capacity`: where the last frame must end, with room for the seal."""

    def __init__(self, path: pathlib.Path, number: int, header: bytes, size: int) -> None:
        """Raises OSError; then no file is left behind."""
        self.path = path
        self.number = number
        self.capacity = size - len(SEAL)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            allocate(self.descriptor, size)
            self.map = mmap.mmap(self.descriptor, size)
            self.map[:HEADER] = header
        except BaseException:
            os.close(self.descriptor)
            path.unlink()
            raise

    def close(self) -> None:
        """Unmap it; what was written stays."""
        self.map.close()
        os.close(self.descriptor)


def allocate(descriptor: int, size: int) -> None:
    """Blocks for a whole file: writing to a mapping without them would be SIGBUS on a full disk. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
    zeros = bytes(min(size, 1 << 20))
    written = 0
    while written < size:
        written += os.pwrite(descriptor, zeros[: size - written], written)


class Disk:
    """What the journal's thread does. Only that thread calls it, so it may wait for the disk."""

    def __init__(
        self,
        folder: pathlib.Path,
        journal: str,
        *,
        segment: int,
        max_bytes: int,
        durable: bool,
        fdatasync: Callable[[int], None],
    ) -> None:
        self._fdatasync = fdatasync
        self._folder = folder
        self._journal = journal
        self._size = segment
        self._most = max(FEWEST, max_bytes // segment)
        self._durable = durable
        self._made: list[pathlib.Path] = []  # files that may still be there
        self._alive: int | None = None
        self.lost: OSError | None = None  # why a sealed segment is perhaps not on the disk; until `force` tells

    def make(self, number: int) -> Segment:
        """A new segment. Raises OSError, and JournalUnavailable if the books have taken too little of the others."""
        if self._alive is None:
            self._alive = self._lock()
        self._made = [path for path in self._made if path.exists()]
        if len(self._made) >= self._most:
            raise JournalUnavailable(f"the books are behind: {len(self._made) * self._size} bytes wait to be taken")
        path = self._folder / journal_file.segment_name(self._journal, number)
        segment = Segment(path, number, journal_file.render_header(self._journal, number), self._size)
        self._made.append(path)
        if self._durable:
            os.fsync(segment.descriptor)
            self._sync_folder()
        return segment

    def retire(self, segment: Segment) -> None:
        """A sealed segment goes to the disk, if anything has to, and out of memory."""
        try:
            if self._durable:
                self._fdatasync(segment.descriptor)
        except OSError as error:
            logger.error("%s could not be forced to the disk: %s", segment.path, error.strerror)
            self.lost = error
        finally:
            segment.close()

    def force(self, segment: Segment) -> None:
        """All that was written up to now goes to the disk. Raises OSError: then some of it may be lost for good."""
        lost, self.lost = self.lost, None
        if lost is not None:
            raise lost
        self._fdatasync(segment.descriptor)

    def discard(self, segment: Segment) -> None:
        """Remove a segment that was never written to."""
        segment.close()
        segment.path.unlink(missing_ok=True)

    def release(self) -> None:
        """The journal is dead from here on."""
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None

    def _lock(self) -> int:
        """Make the `.alive` file. It gets its name when it is locked already, so nobody sees it without its lock."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / journal_file.alive_name(self._journal)
        unlocked = path.with_name(path.name + ".new")
        descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unlocked.rename(path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Journal:
    """One worker's journal, from its start to its end. All calls come from the loop's thread.

    `token` is 16 hexadecimal digits that no journal had before. `max_bytes` bounds what the keeper has not yet taken
    and deleted. `clock` counts seconds. `segment` is a segment's size in bytes.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        worker: int,
        token: str,
        *,
        max_bytes: int,
        clock: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        sync: Sync = "none",
        segment: int = SEGMENT,
        fdatasync: Callable[[int], None] = fdatasync,
    ) -> None:
        """Makes the first segment. A disk that refuses is no exception here: `why_not` says it."""
        self.name = journal_file.journal_name(worker, token)
        self._folder = folder
        self._clock = clock
        self._loop = loop
        self._sync = sync
        self.makes_wait = sync == "always"  # whoever opens a request, until it is on the disk
        self._size = segment
        self._disk = Disk(
            folder, self.name, segment=segment, max_bytes=max_bytes, durable=sync != "none", fdatasync=fdatasync
        )
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "journal")
        self._segment: Segment | None = None
        self._map: mmap.mmap | bytearray = bytearray()
        self._number = 0
        self._offset = 0
        self._stop = 0  # where a frame may end without a look at anything
        self._released = 0  # up to here, pages are no longer ours to hold in memory
        self._spare: Segment | None = None
        self._making: concurrent.futures.Future[Segment] | None = None
        self._trouble = ""
        self._retry_at = 0.0
        self._backlog: list[bytes] = []  # frames of lines that must not be lost and had no room
        self._closed = False
        self._dirty = False
        self._waiting: list[asyncio.Future[None]] = []
        self._forcing = False
        self._timer: asyncio.TimerHandle | None = None
        self._make()
        self._collect(wait=True)
        self._take_spare()
        if sync == "second":
            self._timer = loop.call_later(1.0, self._tick)

    # Writing

    def append(self, line: Line) -> None:
        """Write a line down: when this returns, the kernel has it.

        An `Opened` or a `Repeated` is refused with `JournalUnavailable` as soon as there is not enough room to settle
        in. Any other line is kept until there is room again. Raises `LineError` for one that cannot be written at all.
        """
        try:
            payload = _encode(line)
        except (UnicodeEncodeError, OverflowError) as error:
            raise LineError(f"a line cannot be written: {error}") from None
        frame = _pack(len(payload), _crc32(payload)) + payload
        start = self._offset
        end = start + len(frame)
        if end > self._stop:
            self._append_with_care(type(line) in REFUSED, frame)
            return
        self._map[start:end] = frame
        self._offset = end
        self._dirty = True

    @property
    def why_not(self) -> str:
        """Why requests cannot be opened, or "" if they can. Asking is also what makes it try again."""
        self._recover()
        return self._trouble

    def synced(self) -> asyncio.Future[None] | None:
        """Done when all lines up to now are on the disk, or `JournalUnavailable`. None unless `sync` is "always"."""
        if not self.makes_wait:
            return None
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(future)
        if len(self._waiting) == 1 and not self._forcing:
            self._loop.call_soon(self._force)  # not at once: other lines of this round come along
        return future

    def close(self) -> None:
        """Leave the journal to the keeper. Waits for the disk; call it when no line comes any more."""
        if self._closed:
            return
        self._recover()
        if self._backlog:
            logger.error("%d lines of journal %s are lost: %s", len(self._backlog), self.name, self._trouble)
        self._closed = True
        self._stop = 0
        if self._timer is not None:
            self._timer.cancel()
        self._collect(wait=True)
        if self._spare is not None:
            self._thread.submit(self._disk.discard, self._spare).result()
            self._spare = None
        if self._segment is not None:
            self._retire(self._segment)
            self._segment = None
        self._thread.submit(self._disk.release).result()
        self._thread.shutdown()
        waiting, self._waiting = self._waiting, []
        self._forced(waiting, self._disk.lost)

    # At the steps of a segment, at its end, and in trouble

    def _append_with_care(self, opens: bool, frame: bytes) -> None:
        if self._closed:
            raise JournalUnavailable("the journal is closed")
        if len(frame) > min(self._size - HEADER - len(SEAL), FRAME + journal_file.MAX_LINE):
            raise LineError(f"a line takes {len(frame)} bytes; that is more than a journal holds")
        self._recover()
        if opens and self._trouble:
            raise JournalUnavailable(self._trouble)
        if self._backlog or not self._put(frame):
            if opens:
                raise JournalUnavailable(self._trouble or "the journal is full")
            self._backlog.append(frame)

    def _recover(self) -> None:
        """Whatever can go on, does: the next segment is asked for when it is due, and lines that waited are written."""
        if self._closed:
            return
        self._collect(wait=not self._trouble and self._offset >= self._size // 4 * 3)
        if self._trouble and self._spare is not None:
            self._trouble = ""
            if self._backlog or self._segment is None or self._segment.capacity == 0:
                self._take_spare()
        due = self._segment is None or self._offset >= self._size // 2 or self._trouble
        if due and self._spare is None and self._making is None and self._clock() >= self._retry_at:
            self._make()
        while self._backlog and self._put(self._backlog[0]):
            del self._backlog[0]
        self._set_stop()

    def _put(self, frame: bytes) -> bool:
        """Copy a frame to where there is room for it; False if there is none."""
        if self._segment is None or self._offset + len(frame) > self._segment.capacity:
            if self._spare is None and not self._trouble:
                if self._making is None:
                    self._make()
                self._collect(wait=True)
            if self._spare is None:
                return False
            self._take_spare()
        end = self._offset + len(frame)
        self._map[self._offset : end] = frame
        self._offset = end
        self._dirty = True
        self._set_stop()
        return True

    def _set_stop(self) -> None:
        """Up to the end of this step, lines are copied without a look; in trouble each is looked at."""
        if self._segment is None or self._trouble or self._backlog:
            self._stop = 0
            return
        step = max(1, self._size // STEPS)
        self._stop = min((self._offset // step + 1) * step, self._segment.capacity)
        written = self._offset // mmap.PAGESIZE * mmap.PAGESIZE
        if written - self._released >= 1 << 18 and isinstance(self._map, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, self._released, written - self._released)  # the file keeps them
            self._released = written

    def _make(self) -> None:
        self._making = self._thread.submit(self._disk.make, self._number + 1)

    def _collect(self, *, wait: bool) -> None:
        """Take what the thread has made, or learn why it could not."""
        if self._making is None or not (wait or self._making.done()):
            return
        making, self._making = self._making, None
        try:
            self._spare = making.result()
        except JournalUnavailable as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"the journal in {self._folder} cannot be written: {error.strerror or error}")

    def _take_spare(self) -> None:
        """Seal the current segment and go on in the next."""
        if self._spare is None:
            return
        full, self._segment, self._spare = self._segment, self._spare, None
        if full is not None:
            self._map[self._offset : self._offset + len(SEAL)] = SEAL
            self._retire(full)
        self._map = self._segment.map
        self._number = self._segment.number
        self._offset = HEADER
        self._released = 0
        self._set_stop()

    def _retire(self, segment: Segment) -> None:
        self._map = bytearray()
        self._thread.submit(self._disk.retire, segment)

    def _fail(self, why: str) -> None:
        if not self._trouble:
            logger.error("requests are refused: %s", why)
        self._trouble = why
        self._retry_at = self._clock() + RETRY
        self._stop = 0

    # Forcing lines to the disk

    def _tick(self) -> None:
        self._timer = self._loop.call_later(1.0, self._tick)
        if not self._forcing:
            self._force()

    def _force(self) -> None:
        """Force out what was written; those that wait are told when it is done. One at a time: the rest come along."""
        waiting, self._waiting = self._waiting, []
        if self._segment is None or not self._dirty:
            self._forced(waiting, None)
            return
        self._forcing = True
        self._dirty = False

        def done(future: concurrent.futures.Future[None]) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._after_force, waiting, future.exception())

        self._thread.submit(self._disk.force, self._segment).add_done_callback(done)

    def _after_force(self, waiting: list[asyncio.Future[None]], error: BaseException | None) -> None:
        self._forcing = False
        if error is not None:
            waiting += self._waiting  # what came meanwhile may have been in the same pages
            self._waiting = []
            why = getattr(error, "strerror", None) or error
            self._fail(f"the journal in {self._folder} cannot be forced to the disk: {why}")
            if self._segment is not None:
                self._segment.capacity = 0  # the kernel may have dropped what it could not write: go on elsewhere
        self._forced(waiting, error)
        if self._waiting:
            self._force()

    def _forced(self, waiting: list[asyncio.Future[None]], error: BaseException | None) -> None:
        for future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(JournalUnavailable(self._trouble))

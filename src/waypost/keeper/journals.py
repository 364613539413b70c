"""The folder of journals as the keeper sees it: which there are, whose worker lives, what they hold from a position on.

The bytes are `journal_file`'s. Nothing here is remembered: a position is a segment's number and an offset in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pathlib
from typing import Final, NamedTuple

from waypost import journal_file
from waypost.journal_file import FRAME, HEADER, MAX_LINE, HeaderError
from waypost.records import AnyLine

logger = logging.getLogger("waypost.keeper")

PIECE: Final = 64 * 1024
"""Bytes that are read at a time; a longer line takes one longer read."""

Position = tuple[int, int]


class Part(NamedTuple):
    """Lines of a journal, the position behind them, and why there are no more.

    - more: the most was reached; there may be more
    - end: there is nothing more (yet)
    - unknown: what follows is of another version of Waypost
    """

    lines: list[AnyLine]
    position: Position
    why: str


class Journals:
    """Reads and deletes the files in a folder. Everything raises OSError when the disk fails."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def create(self) -> None:
        """The folder, for the owner alone."""
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def scan(self) -> dict[str, list[int]]:
        """The journals that have files, and the numbers of their segments, in order."""
        found: dict[str, list[int]] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                parsed = journal_file.parse_file_name(entry.name)
                if parsed is not None:
                    segments = found.setdefault(parsed[0], [])
                    if parsed[1]:
                        segments.append(parsed[1])
        for segments in found.values():
            segments.sort()
        return found

    def size(self) -> int:
        """Bytes of all files."""
        with os.scandir(self._folder) as entries:
            return sum(entry.stat().st_size for entry in entries)

    def is_alive(self, journal: str) -> bool:
        """Does its worker live? Who reads after a "no" reads all that there will ever be."""
        try:
            descriptor = os.open(self._folder / journal_file.alive_name(journal), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def read(self, journal: str, position: Position, most: int) -> Part:
        """The lines from `position` on, of about `most` bytes."""
        segment, offset = position
        lines: list[AnyLine] = []
        size = 0
        while size < most:
            part = self._read_segment(journal, (segment, offset), most - size)
            lines += part.lines
            size += part.position[1] - offset
            segment, offset = part.position
            if part.why == "unknown":
                return Part(lines, (segment, offset), "unknown")
            if part.why == "sealed" or (part.why == "end" and self._is_left_behind(journal, (segment, offset))):
                if not self._has_header(journal, segment + 1):
                    return Part(lines, (segment, offset), "end")
                segment, offset = segment + 1, HEADER
            elif part.why == "end":
                return Part(lines, (segment, offset), "end")
        return Part(lines, (segment, offset), "more")

    def delete_before(self, journal: str, segment: int, segments: list[int]) -> None:
        """Delete what is in the books and sealed."""
        for number in segments:
            if number < segment:
                self._segment(journal, number).unlink(missing_ok=True)

    def delete(self, journal: str) -> None:
        """Delete a dead journal; when this returns, no power cut brings it back."""
        for number in self.scan().get(journal, []):
            self._segment(journal, number).unlink(missing_ok=True)
        (self._folder / journal_file.alive_name(journal)).unlink(missing_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _segment(self, journal: str, number: int) -> pathlib.Path:
        return self._folder / journal_file.segment_name(journal, number)

    def _read_segment(self, journal: str, position: Position, most: int) -> Part:
        """Lines of one segment. `why` may also be "sealed"; "end" stands for damage, too."""
        segment, start = position
        lines: list[AnyLine] = []
        try:
            descriptor = os.open(self._segment(journal, segment), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return Part(lines, position, "end")
        try:
            offset, wanted = start, PIECE
            while offset - start < most:
                data = os.pread(descriptor, wanted, offset)
                reading = journal_file.read_lines(data, 0)
                lines += reading.lines
                offset += reading.offset
                whole = len(data) < wanted  # the file ends here
                if reading.end in ("sealed", "unknown"):
                    return Part(lines, (segment, offset), reading.end)
                if reading.offset:
                    # With less than a frame's beginning left of the piece, nobody knows whether another follows.
                    if whole or (reading.end == "open" and reading.offset + FRAME <= len(data)):
                        return Part(lines, (segment, offset), "end")
                    wanted = PIECE
                elif reading.end == "torn" and not whole and wanted < FRAME + MAX_LINE:
                    wanted = FRAME + MAX_LINE
                else:
                    return Part(lines, (segment, offset), "end")
            return Part(lines, (segment, offset), "more")
        finally:
            os.close(descriptor)

    def _is_left_behind(self, journal: str, position: Position) -> bool:
        """Does the next segment have lines though this one was never sealed? Then its rest is damaged or lost."""
        segment, _ = position
        with contextlib.suppress(FileNotFoundError):
            with open(self._segment(journal, segment + 1), "rb") as file:
                if not any(file.read(HEADER + 4)[HEADER:]):
                    return False
            # The seal may have been written since this segment was read.
            again = self._read_segment(journal, position, 1)
            if again.why == "end" and not again.lines:
                path = self._segment(journal, segment)
                logger.error("%s is damaged at byte %d; what follows in it is lost", path, position[1])
                return True
        return False

    def _has_header(self, journal: str, segment: int) -> bool:
        """Is there such a segment, and is it this journal's?"""
        path = self._segment(journal, segment)
        try:
            with open(path, "rb") as file:
                header = journal_file.parse_header(file.read(HEADER))
        except FileNotFoundError:
            return False
        except HeaderError as error:
            logger.error("%s cannot be read: %s", path, error)
            return False
        return header is not None

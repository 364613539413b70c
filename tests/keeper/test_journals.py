"""A journal read from its files: wherever a piece of what is read at a time ends, all that was written is there."""

from __future__ import annotations

import pathlib

import pytest

from tests.keeper.journaling import Writer
from waypost.journal_file import FRAME, HEADER, SEAL, render_frame
from waypost.keeper.journals import PIECE, Journals
from waypost.records import Priced

SEGMENT = 4 * PIECE


def padded(size: int) -> Priced:
    """A line whose frame takes so many bytes."""
    line = Priced("0123456789ab", b"x" * size)
    return Priced("0123456789ab", b"x" * (2 * size - len(render_frame(line))))


@pytest.mark.parametrize("left", range(FRAME + 3))
def test_a_piece_may_end_anywhere_behind_a_frame(tmp_path: pathlib.Path, left: int) -> None:
    """`left` bytes of the second frame are in the first piece."""
    written = [padded(PIECE - left), padded(5000), padded(PIECE + 9), padded(700)]
    with Writer(tmp_path, size=SEGMENT) as writer:
        writer.write(*written)
        writer.die()
        part = Journals(tmp_path).read(writer.name, (1, HEADER), 1 << 20)
    assert (part.lines, part.why) == (written, "end")


@pytest.mark.parametrize("left", range(len(SEAL), FRAME + 3))
def test_a_seal_at_the_very_end_of_a_piece(tmp_path: pathlib.Path, left: int) -> None:
    with Writer(tmp_path, size=SEGMENT) as writer:
        writer.write(padded(PIECE - left))
        writer.put(SEAL)
        writer.next_segment()
        writer.write(padded(700))
        part = Journals(tmp_path).read(writer.name, (1, HEADER), 1 << 20)
    assert len(part.lines) == 2 and part.position[0] == 2

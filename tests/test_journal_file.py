"""A journal's file: its bytes written out, cut at every place, damaged at every place."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.journal_file import (
    FRAME,
    HEADER,
    MAX_LINE,
    SEAL,
    Header,
    HeaderError,
    LineError,
    alive_name,
    journal_name,
    parse_file_name,
    parse_header,
    read_lines,
    render_frame,
    render_header,
    segment_name,
)
from waypost.records import AnyLine, Attempted, Opened, Priced, Settled, Tally, Usage

NAME = "3-00112233445566ff"
LINES: list[AnyLine] = [
    Priced("0123456789ab", b'{"source":"config"}'),
    Opened(b"0" * 26, 1, 17, 3, "free", "m", True, (("a17:requests:day:2026-11-22", 1),), 300, 4500),
    Attempted(b"0" * 26, 1, 2, "groq", "llama", "UPSTREAM_ERROR", 503, 12),
    Settled(b"0" * 26, 3, 200, "", "groq", "llama", 2, 1, 9, 8, "0123456789ab", Usage(5, output=4), False, 1, 2, b"{}"),
    Tally(4, {"RATE_LIMITED": 7}, 2, 1),
]


def test_the_bytes_of_a_frame_and_of_a_header() -> None:
    payload = b"\x95\x04\x04\x80\x02\x01"  # [4, 4, {}, 2, 1]
    assert render_frame(Tally(4, {}, 2, 1)) == b"\x06\0\0\0" + bytes.fromhex("505e8f22") + payload
    header = render_header(NAME, 2)
    assert header[:8] == b"WAYPOST1" and header[8:26] == NAME.encode() and header[26:56] == bytes(30)
    assert header[56:60] == b"\x02\0\0\0" and len(header) == HEADER


def test_what_is_written_is_read_until_the_end() -> None:
    written = b"".join(map(render_frame, LINES))
    for rest, end in ((b"", "open"), (bytes(100), "open"), (SEAL, "sealed"), (SEAL + bytes(50), "sealed")):
        assert read_lines(bytes(HEADER) + written + rest, HEADER) == (LINES, HEADER + len(written), end)


def test_a_reader_goes_on_where_it_ended() -> None:
    segment = bytearray(4096)
    offset = end = HEADER
    for line in LINES:
        frame = render_frame(line)
        segment[end : end + len(frame)] = frame
        end += len(frame)
        assert read_lines(segment, offset) == ([line], end, "open")
        offset = end


def test_cut_anywhere_the_whole_frames_are_read() -> None:
    frames = [render_frame(line) for line in LINES]
    ends = [sum(map(len, frames[: number + 1])) for number in range(len(frames))]
    written = b"".join(frames)
    for length in range(len(written) + 1):
        for rest in (b"", bytes(40)):  # a piece of a file; a file whose last bytes were not copied
            whole = sum(end <= length for end in ends)
            reading = read_lines(written[:length] + rest, 0)
            if rest and written[length : ends[whole] if whole < len(ends) else length].strip(b"\0") == b"":
                whole += whole < len(ends) and length >= ends[whole] - 2  # what is missing was zeros anyway
            assert reading.lines == LINES[:whole]
            assert reading.offset == sum(map(len, frames[:whole]))
            assert reading.end in ("open", "torn")


def test_damage_is_never_read_as_a_line() -> None:
    frames = [render_frame(line) for line in LINES]
    written = b"".join(frames)
    for place in range(len(written)):
        damaged = bytearray(written)
        damaged[place] ^= 0x10
        reading = read_lines(damaged, 0)
        before = 0
        while place >= sum(map(len, frames[: before + 1])):
            before += 1
        assert reading.lines == LINES[:before] and reading.end == "torn"


def test_a_line_of_another_version_is_not_skipped() -> None:
    class Strange(msgspec.Struct, array_like=True, tag=99):
        value: int = 1

    written = render_frame(LINES[0]) + render_frame(Strange())  # type: ignore[arg-type]
    assert read_lines(written, 0) == (LINES[:1], len(render_frame(LINES[0])), "unknown")


def test_a_length_above_the_most_is_none() -> None:
    assert read_lines((MAX_LINE + 1).to_bytes(4, "little") + bytes(MAX_LINE + 100), 0).end == "torn"


def test_lines_that_cannot_be_written() -> None:
    with pytest.raises(LineError, match="the most is 1048576"):
        render_frame(Priced("v", bytes(MAX_LINE)))
    with pytest.raises(LineError, match="surrogates"):
        render_frame(Priced("\ud800", b""))
    with pytest.raises(LineError):
        render_frame(Tally(1 << 64, {}, 0, 0))
    assert len(render_frame(Priced("v", bytes(MAX_LINE - 20)))) <= MAX_LINE + FRAME


def test_headers() -> None:
    header = render_header(NAME, 7)
    assert parse_header(header + b"more") == Header(NAME, 7)
    assert parse_header(b"") is None and parse_header(bytes(HEADER)) is None
    for wrong in (header[:40], b"WAYPOST2" + header[8:], header[:56] + b"\x08" + header[57:]):
        with pytest.raises(HeaderError):
            parse_header(wrong)


def test_names_of_files() -> None:
    assert journal_name(3, "00112233445566ff") == NAME
    assert parse_file_name(segment_name(NAME, 12)) == (NAME, 12)
    assert parse_file_name(alive_name(NAME)) == (NAME, 0)
    for other in ("x", NAME, NAME + ".alive.new", NAME + ".1", "../" + NAME + ".alive", NAME + ".alive\n"):
        assert parse_file_name(other) is None


whole = st.integers(0, 2**63 - 1)


def built(kind: type[AnyLine], **fields: st.SearchStrategy[object]) -> st.SearchStrategy[AnyLine]:
    """Any line of this kind; numbers have 64 bits at most."""
    numbers = {field.name: whole for field in msgspec.structs.fields(kind) if field.type is int}
    return st.builds(kind, **numbers, **fields)


lines = st.one_of(
    built(Opened, id=st.binary(max_size=40), holds=st.lists(st.tuples(st.text(max_size=30), whole)).map(tuple)),
    built(Settled, usage=st.builds(Usage, *[whole] * 10)),
    built(Tally, refusals=st.dictionaries(st.text(max_size=9), whole, max_size=4)),
)


@given(st.lists(lines, max_size=8))
def test_any_lines_come_back(written: list[AnyLine]) -> None:
    segment = b"".join(map(render_frame, written))
    assert read_lines(segment, 0) == (written, len(segment), "open")

"""AWS's frames: the published vectors, every split, every broken bit."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.completion import BadAnswer
from waypost.formats.aws_event_stream import FRAME_LIMIT, Frame, FrameSplitter, render_frame

EMPTY = bytes.fromhex("00000010 00000000 05c248eb 7d98c8ff")
NO_HEADERS = bytes.fromhex("0000001d 00000000 fd528c5a 7b27666f6f273a27626172277d c3653936")


def frame_of(headers: bytes, payload: bytes = b"") -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return body + struct.pack(">I", zlib.crc32(body))


def test_published_vectors() -> None:
    assert FrameSplitter().feed(EMPTY) == [Frame({}, b"")]
    assert FrameSplitter().feed(NO_HEADERS) == [Frame({}, b"{'foo':'bar'}")]
    assert render_frame({}, b"") == EMPTY and render_frame({}, b"{'foo':'bar'}") == NO_HEADERS


def test_headers_of_every_type() -> None:
    uuid = bytes.fromhex("0102030405060708090a0b0c0d0e0f10")
    headers = b"".join(
        [
            b"\x01a\x00", b"\x01b\x01", b"\x01c\x02\xff", b"\x01d\x03\x01\x00", b"\x01e\x04\x00\x00\x00\x07",
            b"\x01f\x05" + struct.pack(">q", -3), b"\x01g\x06\x00\x02\xff\x00", b"\x01h\x07\x00\x03\xe2\x82\xac",
            b"\x01i\x08" + struct.pack(">q", 1_000), b"\x01j\x09" + uuid,
        ]
    )  # fmt: skip
    [frame] = FrameSplitter().feed(frame_of(headers, b"x"))
    assert frame.headers == {
        "a": True, "b": False, "c": -1, "d": 256, "e": 7, "f": -3, "g": b"\xff\x00", "h": "€", "i": 1000,
        "j": "01020304-0506-0708-090a-0b0c0d0e0f10",
    }  # fmt: skip
    assert (frame.text("h"), frame.text("i"), frame.text("none")) == ("€", "", "")


@pytest.mark.parametrize(
    "headers",
    [
        b"\x01",
        b"\x05ab",
        b"\x01a",
        b"\x01a\x0a",
        b"\x01a\x07\x00\x09ab",
        b"\x01a\x04\x00",
        b"\x01\xff\x00",
        b"\x01a\x09",
    ],
)
def test_headers_that_cannot_be_read(headers: bytes) -> None:
    with pytest.raises(BadAnswer):
        FrameSplitter().feed(frame_of(headers))


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
frames = st.tuples(st.dictionaries(names, st.text(max_size=30), max_size=4), st.binary(max_size=200))


@given(st.lists(frames, max_size=4), st.data())
def test_any_frames_at_any_split(sent: list[tuple[dict[str, str], bytes]], data: st.DataObject) -> None:
    wire = b"".join(render_frame(*one) for one in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    splitter = FrameSplitter()
    found: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        found += splitter.feed(wire[start:end])
    assert [(frame.headers, frame.payload) for frame in found] == sent
    assert splitter.is_between


def test_every_bit_is_checked() -> None:
    wire = render_frame({":event-type": "messageStop"}, b'{"stopReason":"end_turn"}')
    for place in range(len(wire)):
        for bit in (1, 0x80):
            broken = bytearray(wire)
            broken[place] ^= bit
            splitter = FrameSplitter()
            with pytest.raises(BadAnswer):
                splitter.feed(bytes(broken))


def test_what_came_before_a_broken_frame_is_not_lost() -> None:
    splitter = FrameSplitter()
    found, error = splitter.cut(NO_HEADERS + EMPTY[:-1] + b"\x00")
    assert [frame.payload for frame in found] == [b"{'foo':'bar'}"] and error is not None


def test_an_impossible_length_is_not_waited_for() -> None:
    for total in (0, 15, FRAME_LIMIT + 1, 2**32 - 1):
        prelude = struct.pack(">II", total, 0)
        with pytest.raises(BadAnswer, match="length"):
            FrameSplitter().feed(prelude + struct.pack(">I", zlib.crc32(prelude)))
    prelude = struct.pack(">II", 20, 5)  # more headers than there is room for
    with pytest.raises(BadAnswer, match="length"):
        FrameSplitter().feed(prelude + struct.pack(">I", zlib.crc32(prelude)))


def test_a_frame_cut_short_is_seen() -> None:
    splitter = FrameSplitter()
    assert splitter.feed(EMPTY + NO_HEADERS[:-1]) == [Frame({}, b"")] and not splitter.is_between
    assert splitter.feed(NO_HEADERS[-1:]) == [Frame({}, b"{'foo':'bar'}")] and splitter.is_between

"""Server-sent events, in whatever pieces they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.completion import BadAnswer
from waypost.formats.sse import EVENT_LIMIT, Splitter


def split(pieces: list[bytes]) -> list[bytes]:
    splitter = Splitter()
    found = [payload for piece in pieces for payload in splitter.feed(piece)]
    return found + splitter.end()


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"event: x\ndata: a\nid: 1\n\n", [b"a"]),
        (b": comment\n\ndata: a\n\n", [b"a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"event: ping\n\n\n\ndata: a\n\n", [b"a"]),
        (b"data: a", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"", []),
    ],
)
def test_events(wire: bytes, expected: list[bytes]) -> None:
    for data in (wire, wire.replace(b"\n", b"\r\n"), wire.replace(b"\n", b"\r")):
        assert split([data]) == expected
        assert split([data[at : at + 1] for at in range(len(data))]) == expected


payloads = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), max_size=6)


@given(payloads, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_any_split(said: list[str], end: bytes, data: st.DataObject) -> None:
    wire = b"".join(b"data: %b%b%b" % (one.encode(), end, end) for one in said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    pieces = [wire[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert split(pieces) == [one.encode() for one in said]


@pytest.mark.parametrize("before", [b"", b"data: begun\n\n", b"data: begun\r", b"data: half"])
@pytest.mark.parametrize(
    "alone",
    [
        b"data: a\n\n",
        b"data: a\r\n\r\n",
        b"event: x\ndata: a\n\n",
        b"event: x\r\ndata: a\r\n\r\n",
        b"data: a\n",
        b"data: a",
        b"data: a\ndata: b\n\n",
        b"data: a\rdata: b\n\n",
        b"event: x\nevent: y\ndata: a\n\n",
        b"event: x\n\n",
        b"data: a\n\r\n",
        b"data: a\n\ndata: b\n\n",
        b"event: x\ndata: a\r\n\r\n",
        b"data: \n\n",
        b"data: a\r\n\n",
        b"\ndata: a\n\n",
        b"\n\n",
        b"event: x\rdata: a\n\n",
        b"event: x\ndata: a\nid: 1\n\n",
        b"event: x\nid: 1234\n\n",
        b"data: a\rdata: b\r\n\r\n",
        b"data: a\ndata: b\r\n\r\n",
    ],
)
def test_an_event_alone_is_what_it_is_in_pieces(before: bytes, alone: bytes) -> None:
    """Whole reads take a way of their own; byte by byte nothing does."""
    pieces = [b"data: first\n\n", before, alone, b"\n\ndata: last\n\n"]
    bytewise = [byte for piece in pieces for byte in (piece[at : at + 1] for at in range(len(piece)))]
    assert split(pieces) == split(bytewise)


def test_an_event_has_a_limit() -> None:
    splitter = Splitter()
    with pytest.raises(BadAnswer):
        splitter.feed(b"data: " + b"x" * EVENT_LIMIT)

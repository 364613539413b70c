"""Frames and messages: bytes in, messages out."""

import struct

import msgspec
import pytest

from waypost.keys import mint_key
from waypost.link import MAX_FRAME, FrameParser, LinkError, render_frame
from waypost.messages import (
    CreatedKey,
    Failed,
    Forget,
    ForgetAll,
    Hello,
    Identify,
    Identity,
    KeyRecord,
    KeyRecords,
    RevokeKey,
    Welcome,
)

TRANSCRIPT = [
    (1, Hello(7)),
    (-1, Welcome(1)),
    (2, Identify(b"\x00" * 32)),
    (-2, Identity(3, 4, "ann", "free", "management", "läbel")),
    (3, Identify(b"\xff" * 32)),
    (-3, None),
    (-4, Failed("UNAVAILABLE", "no")),
    (0, Forget(b"\x01" * 32)),
    (0, ForgetAll()),
    (-5, KeyRecords((KeyRecord(1, "ann", "rk_1…2", "x", "inference", 10, None),), 1)),
]
WIRE = b"".join(render_frame(*frame) for frame in TRANSCRIPT)


def test_a_frame_is_a_length_and_messagepack():
    frame = render_frame(1, Failed("NOT_FOUND", "gone"))
    assert frame[:4] == struct.pack(">I", len(frame) - 4)
    assert msgspec.msgpack.decode(frame[4:]) == [1, ["Failed", "NOT_FOUND", "gone"]]


def test_split_at_every_byte():
    for cut in range(len(WIRE) + 1):
        parser = FrameParser()
        assert parser.feed(WIRE[:cut]) + parser.feed(WIRE[cut:]) == TRANSCRIPT


def test_byte_by_byte():
    parser = FrameParser()
    assert [frame for byte in WIRE for frame in parser.feed(bytes([byte]))] == TRANSCRIPT


def test_the_largest_frame_passes_and_one_byte_more_does_not():
    overhead = len(render_frame(-1, Failed("X", "x" * 100_000))) - 4 - 100_000
    largest = Failed("X", "x" * (MAX_FRAME - overhead))
    frame = render_frame(-1, largest)
    assert len(frame) == 4 + MAX_FRAME
    assert FrameParser().feed(frame) == [(-1, largest)]
    with pytest.raises(LinkError, match="a frame holds"):
        render_frame(-1, Failed("X", largest.message + "x"))
    with pytest.raises(LinkError, match="the most is"):
        FrameParser().feed(struct.pack(">I", MAX_FRAME + 1))


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", msgspec.msgpack.encode([1, ["Unheard", 1]]), msgspec.msgpack.encode(["1", ["ForgetAll"]])]
)
def test_what_is_no_message_is_an_error(body):
    with pytest.raises(LinkError, match="not a message"):
        FrameParser().feed(struct.pack(">I", len(body)) + body)


def test_text_that_is_not_unicode_is_not_sent():
    with pytest.raises(LinkError, match="not Unicode"):
        render_frame(1, RevokeKey("\udcff"))


def test_messages_that_carry_a_key_do_not_show_it():
    key = mint_key()
    for message in (CreatedKey(key, 1, "ann", "free"), RevokeKey(key)):
        assert key not in repr(message) and key[8:60] not in repr(message) and key[:7] in repr(message)
        assert FrameParser().feed(render_frame(1, message)) == [(1, message)]

"""Keys: shape, checksum, digest."""

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.keys import digest_of, is_well_formed, mint_key, shown

KEY = b"rk_" + b"0123456789abcdef" * 3 + b"01234567"
KEY += b"%08x" % zlib.crc32(KEY)


def test_minted_keys_have_the_shape_and_differ():
    inference = {mint_key() for _ in range(100)}
    management = {mint_key("management") for _ in range(100)}
    assert len(inference) == len(management) == 100
    assert all(len(key) == 67 and key.startswith("rk_") and is_well_formed(key.encode()) for key in inference)
    assert all(len(key) == 68 and key.startswith("rkm_") and is_well_formed(key.encode()) for key in management)


def test_the_checksum_is_the_crc_32_of_everything_before_it():
    assert is_well_formed(KEY)
    assert int(KEY[-8:], 16) == zlib.crc32(KEY[:-8])


def test_every_mistyped_character_is_noticed():
    for position in range(len(KEY)):
        for typed in b"0123456789abcdefk_ ":
            if typed != KEY[position]:
                assert not is_well_formed(KEY[:position] + bytes([typed]) + KEY[position + 1 :]), position


def test_every_lost_doubled_or_swapped_character_is_noticed():
    for position in range(len(KEY)):
        assert not is_well_formed(KEY[:position] + KEY[position + 1 :])
        assert not is_well_formed(KEY[: position + 1] + KEY[position:])
        swapped = KEY[:position] + KEY[position : position + 2][::-1] + KEY[position + 2 :]
        assert swapped == KEY or not is_well_formed(swapped)


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"rk_",
        b"rk_" + b"0" * 64,
        b"rkm_" + b"0" * 64,
        KEY.upper(),
        b" " + KEY,
        KEY + b"\n",
        b"rkm" + KEY[2:],
        b"sk-proj-abcdefghijklmnopqrstuvwxyz",
        b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
        b"\xff" * 67,
    ],
)
def test_what_is_no_key(token):
    assert not is_well_formed(token)


@given(st.binary(max_size=80))
def test_a_right_checksum_does_not_make_a_key(beginning):
    token = beginning + b"%08x" % zlib.crc32(beginning)
    assert not is_well_formed(token) or (len(token) in (67, 68) and token.startswith((b"rk_", b"rkm_")))


def test_digest_covers_the_whole_token():
    assert digest_of(KEY) == hashlib.sha256(KEY).digest()
    assert len({digest_of(KEY), digest_of(KEY[:-1]), digest_of(KEY + b" ")}) == 3


def test_shown():
    assert shown("rk_1a2b" + "0" * 56 + "9f0e") == "rk_1a2b…9f0e"
    assert shown(mint_key("management")).startswith("rkm_")

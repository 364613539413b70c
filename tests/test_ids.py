"""Request ids: the shape that clients may rely on, rising order, and never the same one twice."""

from __future__ import annotations

import re
import subprocess
import sys
import time

from waypost.ids import ALPHABET, Minter, crockford

SHAPE = re.compile(rb"chatcmpl_[0-7][0-9A-HJKMNP-TV-Z]{25}")


def decoded(text: bytes) -> int:
    number = 0
    for digit in text:
        number = number * 32 + ALPHABET.index(digit)
    return number


def test_shape_and_time() -> None:
    before = time.time_ns() // 1_000_000
    made = Minter()()
    after = time.time_ns() // 1_000_000
    assert SHAPE.fullmatch(made)
    assert before <= decoded(made[9:19]) <= after, "a ULID begins with its millisecond"


def test_crockford_base_32() -> None:
    for number in (0, 1, 31, 32, 1023, 1024, 2**50 - 1):
        assert decoded(crockford(number, 5)) == number and len(crockford(number, 5)) == 10


def test_every_millisecond_is_told_in_full() -> None:
    now = [0.0]
    mint = Minter(lambda: now[0] / 1000)
    for milliseconds in (1, 1023, 1024, 2**20 - 1, 2**20, 2**20 + 1, 2**30, 2**40 + 12345, 2**40 + 2**20):
        now[0] = milliseconds + 0.5
        assert decoded(mint()[9:19]) == milliseconds


def test_a_hundred_thousand_rise_and_differ() -> None:
    mint = Minter()
    made = [mint() for _ in range(100_000)]
    assert made == sorted(made) and len(set(made)) == len(made)
    assert all(map(SHAPE.fullmatch, made))


def test_within_one_millisecond() -> None:
    mint = Minter(lambda: 1_700_000_000.0)
    made = [mint() for _ in range(5000)]
    assert made == sorted(set(made))
    assert len({one[:19] for one in made}) == 1


def test_a_clock_that_goes_back_or_jumps() -> None:
    now = [1_700_000_000.0]
    mint = Minter(lambda: now[0])
    made = []
    for step in (0.0, 0.001, -3600.0, 0.0005, -0.5, 7200.0, -1.0, 0.0):
        now[0] += step
        made += [mint() for _ in range(10)]
    assert made == sorted(set(made)), "ids never go back, whatever the clock does"


def test_two_in_the_same_millisecond_have_nothing_in_common() -> None:
    def clock() -> float:
        return 1_700_000_000.0

    stems = {Minter(clock)()[19:29] for _ in range(1000)}
    assert len(stems) == 1000, "50 random bits: a thousand of them do not meet"


def test_a_long_count_within_one_millisecond_moves_to_the_next() -> None:
    mint = Minter(lambda: 1_700_000_000.0)
    first = mint()
    mint._count = (1 << 30) - 3  # as after some hundred million ids
    made = [mint() for _ in range(5)]
    assert [first, *made] == sorted({first, *made})
    assert decoded(made[-1][9:19]) == decoded(first[9:19]) + 1


def test_processes_never_meet() -> None:
    script = """
import sys
from waypost.ids import Minter
mint = Minter(lambda: 1_700_000_000.0)
sys.stdout.write("\\n".join(mint().decode() for _ in range(5000)))
"""
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    made = [line for process in processes for line in process.communicate(timeout=60)[0].split("\n")]
    assert len(made) == len(set(made)) == 20_000

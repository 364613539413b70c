"""A worker's answers: how long they are good, how much they take, and who goes first when there is no room."""

from __future__ import annotations

import random

import pytest

from waypost.worker.cache import OVERHEAD, WORTHWHILE, Cache
from waypost.worker.recording import Recording


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def recording(content: bytes, number: int = 0) -> Recording:
    return Recording(b"01HSOURCE%017d" % number, 1_700_000_000_000, 1_700_000_000, False, "", content[:7], content[7:])


def cache(clock: Clock, limit: int = 1 << 20, largest: int = 1 << 16) -> Cache:
    made = Cache(clock)
    made.adopt(limit, largest)
    return made


ANYTIME = float("inf")


def test_an_answer_is_found_until_its_time_is_over() -> None:
    clock = Clock()
    kept = cache(clock)
    kept.store(b"key", recording(b"said"), 300)
    for passed, there in ((0, True), (299, True), (0.999, True), (0.001, False), (1, False)):
        clock.now += passed
        assert (kept.find(b"key", ANYTIME) is not None) == there, clock.now
    assert len(kept) == 0 and kept.size == 0
    assert kept.find(b"other", ANYTIME) is None


@pytest.mark.parametrize("size", [10, WORTHWHILE])
def test_also_among_those_that_are_compressed(size: int) -> None:
    clock = Clock()
    kept = cache(clock, limit=8 * (OVERHEAD + size))
    for number in range(6):
        kept.store(b"%d" % number, recording(b"x" * size, number), 300)
    clock.now += 300
    assert [kept.find(b"%d" % number, ANYTIME) for number in range(6)] == [None] * 6
    assert len(kept) == 0 and kept.size == 0


def test_who_wants_a_fresher_one_does_not_get_it() -> None:
    clock = Clock()
    kept = cache(clock)
    kept.store(b"key", recording(b"said"), 300)
    clock.now += 10
    assert kept.find(b"key", 10) is None and kept.find(b"key", 9) is None
    found = kept.find(b"key", 11)
    assert found is not None and found.ttl == 300 and clock.now - found.since == 10


def test_the_age_that_it_had_elsewhere_counts() -> None:
    clock = Clock()
    kept = cache(clock)
    kept.store(b"key", recording(b"said"), 300, age=299)
    assert kept.find(b"key", 299) is None
    assert kept.find(b"key", 300) is not None
    clock.now += 1
    assert kept.find(b"key", ANYTIME) is None


def test_a_later_answer_takes_the_place_of_an_earlier_one() -> None:
    kept = cache(Clock())
    kept.store(b"key", recording(b"first", 1), 300)
    kept.store(b"key", recording(b"second", 2), 300)
    found = kept.find(b"key", ANYTIME)
    assert found is not None and found.recording == recording(b"second", 2)
    assert len(kept) == 1 and kept.size == OVERHEAD + len(b"second")


def test_what_is_cleared_is_gone() -> None:
    kept = cache(Clock())
    kept.store(b"a", recording(b"said"), 300)
    kept.store(b"b", recording(b"said"), 300)
    kept.clear(b"a")
    kept.clear(b"never there")
    assert kept.find(b"a", ANYTIME) is None and kept.find(b"b", ANYTIME) is not None
    kept.adopt(1 << 20, 1 << 16)
    assert kept.find(b"b", ANYTIME) is None and kept.size == 0


@pytest.mark.parametrize(("size", "there"), [(99, True), (100, True), (101, False)])
def test_the_largest_answer(size: int, there: bool) -> None:
    kept = cache(Clock(), largest=100)
    kept.store(b"key", recording(b"x" * size), 300)
    assert (kept.find(b"key", ANYTIME) is not None) == there


def test_too_large_an_answer_takes_away_the_one_before_it() -> None:
    kept = cache(Clock(), largest=100)
    kept.store(b"key", recording(b"x"), 300)
    kept.store(b"key", recording(b"x" * 101), 300)
    assert kept.find(b"key", ANYTIME) is None


@pytest.mark.parametrize(("limit", "there"), [(OVERHEAD + 99, False), (OVERHEAD + 100, True), (0, False)])
def test_an_answer_larger_than_all_the_memory(limit: int, there: bool) -> None:
    kept = cache(Clock(), limit=limit)
    kept.store(b"key", recording(b"x" * 100), 300)
    assert (kept.find(b"key", ANYTIME) is not None) == there
    assert kept.size <= limit


def test_the_one_that_was_used_longest_ago_goes_first() -> None:
    kept = cache(Clock(), limit=4 * (OVERHEAD + 100))
    for name in b"abcd":
        kept.store(bytes([name]), recording(b"x" * 100), 300)
    assert kept.find(b"a", ANYTIME) is not None
    kept.store(b"e", recording(b"x" * 100), 300)
    there = {bytes([name]) for name in b"abcde" if kept.find(bytes([name]), ANYTIME) is not None}
    assert there == {b"a", b"c", b"d", b"e"}


def test_what_nobody_asks_for_takes_less_room_and_is_the_same_when_somebody_does() -> None:
    kept = cache(Clock(), limit=100_000, largest=20_000)
    said = [b'data: {"choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n' % number * 150 for number in range(20)]
    for number, content in enumerate(said):
        kept.store(b"%d" % number, recording(content, number), 300)
    assert sum(map(len, said)) > 140_000 and kept.size <= 100_000
    assert len(kept) == 20, "as they are, they would not fit"
    for number, content in enumerate(said):
        found = kept.find(b"%d" % number, ANYTIME)
        assert found is not None and found.recording == recording(content, number)
        assert kept.size <= 100_000


def test_it_never_takes_more_than_it_may_and_never_says_what_was_not_stored() -> None:
    dice, clock = random.Random(5), Clock()
    kept = cache(clock, limit=60_000, largest=9_000)
    truth: dict[bytes, tuple[Recording, float]] = {}
    found = 0
    for number in range(20_000):
        key = b"%d" % dice.randrange(60)
        clock.now += dice.random()
        act = dice.random()
        if act < 0.4:
            content, ttl = dice.randbytes(8) * dice.randrange(1, 1200), dice.randrange(1, 60)
            kept.store(key, recording(content, number), ttl)
            truth[key] = (recording(content, number), clock.now + ttl)
        elif act < 0.45:
            kept.clear(key)
            truth.pop(key, None)
        else:
            there = kept.find(key, ANYTIME)
            if there is not None:
                found += 1
                truly, ends = truth[key]
                assert there.recording == truly and clock.now < ends
        assert 0 <= kept.size <= 60_000 and len(kept) <= 60
    assert found > 1000
    for number in range(60):
        kept.drop(b"%d" % number)
    assert len(kept) == 0 and kept.size == 0

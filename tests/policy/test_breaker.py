"""The breaker as a machine under a clock of its own, and its rules one by one."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from waypost.policy.breaker import DEFAULT, REFUSED, Breaker, BreakerSettings, BreakerState, passing, rest_of

QUICK = BreakerSettings(consecutive=3, requests=6, window=10.0, rest=8.0, longest=40.0, longest_limit=30.0, probe=4.0)
STARTS = 1000.0


def breaker(settings: BreakerSettings = DEFAULT) -> Breaker:
    return Breaker(settings, set())


def fail(subject: Breaker, times: int, now: float) -> None:
    for _ in range(times):
        subject.failed(subject.admit(now), now)


def test_five_in_a_row_open_it_for_a_minute() -> None:
    subject = breaker()
    fail(subject, 4, STARTS)
    assert not subject.blocks(STARTS)
    fail(subject, 1, STARTS)
    assert subject.blocks(STARTS) and subject.admit(STARTS) == REFUSED
    assert subject.blocks(STARTS + 59.9) and not subject.blocks(STARTS + 60)


def test_a_success_in_between_begins_the_count_anew() -> None:
    subject = breaker()
    fail(subject, 4, STARTS)
    subject.succeeded(subject.admit(STARTS), STARTS)
    fail(subject, 4, STARTS)
    assert not subject.blocks(STARTS)


def test_half_of_twenty_within_the_window_open_it() -> None:
    subject = breaker()
    for number in range(19):
        permit = subject.admit(STARTS)
        (subject.failed if number % 2 else subject.succeeded)(permit, STARTS)
    assert not subject.blocks(STARTS)
    fail(subject, 1, STARTS)
    assert subject.blocks(STARTS)


def test_what_is_older_than_the_window_does_not_count() -> None:
    subject = breaker()
    for number in range(19):
        permit = subject.admit(STARTS)
        (subject.failed if number % 2 else subject.succeeded)(permit, STARTS)
    fail(subject, 1, STARTS + DEFAULT.window + 1)
    assert not subject.blocks(STARTS + DEFAULT.window + 1)


def test_one_probe_at_a_time_and_its_lease_lapses() -> None:
    subject = breaker()
    fail(subject, 5, STARTS)
    now = STARTS + 60
    first = subject.admit(now)
    assert first < 0 and subject.admit(now) == REFUSED
    assert subject.admit(now + DEFAULT.probe - 0.1) == REFUSED
    second = subject.admit(now + DEFAULT.probe)
    assert second < 0 and second != first
    subject.release(first)
    assert subject.admit(now + DEFAULT.probe) == REFUSED, "a lapsed permit does not give back another's"
    subject.succeeded(first, now + 30)
    assert not subject.blocks(now + 30), "a late proof is a proof"


def test_a_released_permit_goes_to_the_next() -> None:
    subject = breaker()
    fail(subject, 5, STARTS)
    subject.failed(subject.admit(STARTS + 60), STARTS + 60, "nothing")
    assert subject.admit(STARTS + 60) < 0


def test_repeated_openings_last_longer_up_to_a_cap_and_are_forgiven() -> None:
    subject, now, rests = breaker(), STARTS, []
    fail(subject, 5, now)
    for _ in range(6):
        rests.append(subject.until - now)
        now = subject.until
        subject.failed(subject.admit(now), now)
    assert rests == [60, 120, 240, 480, 480, 480]
    now = subject.until
    subject.succeeded(subject.admit(now), now)
    fail(subject, 5, now + 1)
    assert subject.until == now + 1 + 480, "it has not been good for long"
    now = subject.until
    subject.succeeded(subject.admit(now), now)
    now += DEFAULT.longest + 1
    fail(subject, 5, now)
    assert subject.until == now + 60


def test_what_began_before_the_trouble_says_nothing() -> None:
    subject = breaker()
    old = [subject.admit(STARTS) for _ in range(10)]
    fail(subject, 5, STARTS)
    subject.succeeded(old[0], STARTS + 1)
    assert subject.blocks(STARTS + 1)
    until = subject.until
    subject.failed(old[1], STARTS + 30)
    assert subject.until == until
    subject.succeeded(subject.admit(until), until)
    for permit in old[2:]:
        subject.failed(permit, until)
    assert not subject.blocks(until)


def test_a_forced_success_closes_it_and_a_forced_failure_changes_nothing() -> None:
    subject = breaker()
    fail(subject, 5, STARTS)
    until = subject.until
    subject.failed(subject.admit(STARTS + 1, forced=True), STARTS + 1)
    assert subject.until == until
    subject.succeeded(subject.admit(STARTS + 2, forced=True), STARTS + 2)
    assert not subject.blocks(STARTS + 2)


def test_a_bad_key_opens_at_once() -> None:
    subject = breaker()
    subject.failed(subject.admit(STARTS), STARTS, "dead")
    assert subject.until == STARTS + 60 and subject.is_open


@pytest.mark.parametrize(("asked", "rest"), [(None, 1.0), (0.0, 0.0), (-5.0, 0.0), (30.0, 30.0), (86400.0, 300.0)])
def test_a_limit_rests_as_long_as_it_asks_and_needs_no_probe(asked: float | None, rest: float) -> None:
    subject = breaker()
    subject.failed(subject.admit(STARTS), STARTS, "limit", asked)
    assert subject.until == (STARTS + rest if rest else 0.0)
    after = STARTS + rest
    assert subject.admit(after) > 0 and subject.admit(after) > 0


def test_the_longest_deadline_wins() -> None:
    subject = breaker()
    first, second, third = (subject.admit(STARTS) for _ in range(3))
    subject.failed(first, STARTS, "limit", 10.0)
    subject.failed(second, STARTS + 1, "limit", 100.0)
    subject.failed(third, STARTS + 2, "limit", 5.0)
    assert subject.until == STARTS + 101
    subject.adopt(BreakerState(STARTS + 50, 1, True), STARTS + 3)
    assert subject.until == STARTS + 101
    subject.adopt(BreakerState(STARTS + 150, 2, True), STARTS + 3)
    assert subject.until == STARTS + 150 and subject.is_open and subject.openings == 2


def test_a_success_does_not_end_a_limit() -> None:
    subject = breaker()
    running, limited = subject.admit(STARTS), subject.admit(STARTS)
    subject.failed(limited, STARTS, "limit", 10.0)
    subject.succeeded(running, STARTS + 1)
    assert subject.blocks(STARTS + 1)


def test_a_recovery_heard_of_lets_the_probe_go_at_once() -> None:
    subject = breaker()
    fail(subject, 5, STARTS)
    subject.hear_of_recovery(STARTS + 5)
    assert subject.admit(STARTS + 5) < 0


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_the_last_target_is_never_ejected(are_open: list[bool]) -> None:
    breakers = [breaker() for _ in are_open]
    for subject, is_open in zip(breakers, are_open, strict=True):
        if is_open:
            fail(subject, 5, STARTS)
    passes, forced = passing(breakers, STARTS)
    assert any(passes)
    assert forced == all(are_open)
    assert forced or passes == [not is_open for is_open in are_open]


@given(st.integers(1, 10**6))
def test_rests_grow_and_are_capped(openings: int) -> None:
    assert DEFAULT.rest <= rest_of(openings, DEFAULT) <= rest_of(openings + 1, DEFAULT) <= DEFAULT.longest


class Machine(RuleBasedStateMachine):
    """Any order of requests, results and time."""

    @initialize()
    def begin(self) -> None:
        self.now = STARTS
        self.troubled: set[Breaker] = set()
        self.subject = Breaker(QUICK, self.troubled)
        self.permits: list[int] = []
        self.probes: dict[int, float] = {}  # live ones, and when their leases end
        self.stale: set[int] = set()  # from before an opening or a closing

    def mark(self, generation: int) -> None:
        if self.subject.generation != generation:
            self.stale |= set(self.permits)
            self.probes.clear()

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 4.0, 8.0, 40.0, 500.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.probes = {permit: ends for permit, ends in self.probes.items() if ends > self.now}

    @rule(forced=st.booleans())
    def a_request(self, forced: bool) -> None:
        blocked, was_open = self.subject.blocks(self.now), self.subject.is_open
        permit = self.subject.admit(self.now, forced=forced)
        assert (permit == REFUSED) == (blocked and not forced)
        if permit < 0:
            assert was_open and not self.probes, "one permit at a time"
            assert permit not in self.permits, "permits are told apart"
            self.probes[permit] = self.now + QUICK.probe
        if permit:
            self.permits.append(permit)

    @rule(data=st.data())
    def a_success(self, data: st.DataObject) -> None:
        if not self.permits:
            return
        permit, generation = self.taken(data), self.subject.generation
        was_blocked = self.subject.blocks(self.now)
        self.subject.succeeded(permit, self.now)
        if permit in self.stale:
            assert self.subject.blocks(self.now) == was_blocked and self.subject.generation == generation
        elif permit < 0:
            assert not self.subject.until
        self.mark(generation)

    @rule(
        data=st.data(),
        counts=st.sampled_from(["failure", "limit", "dead", "nothing"]),
        hint=st.none() | st.floats(0, 1e6),
    )
    def a_failure(self, data: st.DataObject, counts: str, hint: float | None) -> None:
        if not self.permits:
            return
        permit, generation, until = self.taken(data), self.subject.generation, self.subject.until
        self.subject.failed(permit, self.now, counts, hint)  # type: ignore[arg-type]
        assert self.subject.until >= until, "the longest deadline wins"
        longest = QUICK.longest_limit if counts == "limit" else QUICK.longest
        assert self.subject.until <= max(until, self.now + longest)
        if permit in self.stale and counts != "limit":
            assert self.subject.until == until and self.subject.generation == generation
        if permit < 0 and permit not in self.stale and counts in ("failure", "dead"):
            assert self.subject.is_open and self.subject.until >= self.now + QUICK.rest
        self.mark(generation)

    def taken(self, data: st.DataObject) -> int:
        permit: int = data.draw(st.sampled_from(self.permits))
        self.permits.remove(permit)
        self.probes.pop(permit, None)
        return permit

    @rule(seconds=st.integers(-10, 100), is_open=st.booleans())
    def another_process_opened(self, seconds: int, is_open: bool) -> None:
        until, generation = self.subject.until, self.subject.generation
        self.subject.adopt(BreakerState(self.now + seconds, 1, is_open), self.now)
        assert self.subject.until == max(until, self.now + seconds if seconds > 0 else 0.0)
        self.mark(generation)

    @rule()
    def another_process_recovered(self) -> None:
        self.subject.hear_of_recovery(self.now)
        assert not self.subject.is_open or not self.subject.blocks(self.now) or self.probes

    @invariant()
    def trouble_is_known(self) -> None:
        assert (self.subject in self.troubled) == bool(self.subject.until)
        assert not self.subject.is_open or self.subject.until

    def teardown(self) -> None:
        """From wherever it is: once its time has passed and one probe goes well, everything passes."""
        if not hasattr(self, "subject"):
            return
        now = max(self.now, self.subject.until) + QUICK.probe
        permit = self.subject.admit(now)
        assert permit != REFUSED
        self.subject.succeeded(permit, now)
        assert not self.subject.until and self.subject.admit(now) > 0


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)

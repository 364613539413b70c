"""Pauses and the retry budget: bounds that hold for every order of events."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from waypost.policy.retry import DEFAULT, FLOOR, SHARE, RetryBudget, pause_before


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 1e5))
def test_pauses_are_jittered_bounded_and_never_shorter_than_the_hint(
    times: int, thrown: float, hint: float | None
) -> None:
    pause = pause_before(times, DEFAULT, lambda: thrown, hint)
    assert (hint or 0.0) + DEFAULT.pause / 2 <= pause <= (hint or 0.0) + DEFAULT.longest_pause


def test_pauses_differ_and_double() -> None:
    assert pause_before(1, DEFAULT, lambda: 0.0) < pause_before(1, DEFAULT, lambda: 0.5) < DEFAULT.pause
    assert [pause_before(times, DEFAULT, lambda: 0.0) for times in (1, 2, 3)] == [0.125, 0.25, 0.5]


def test_three_are_always_possible_after_a_while() -> None:
    budget = RetryBudget()
    assert [budget.begin_again() for _ in range(4)] == [True, True, True, False]
    for _ in range(3):
        budget.end(True)
    assert not budget.allows, "they are spent, in flight or not"
    for _ in range(SHARE):
        budget.begin()
        budget.end(False)
    assert budget.begin_again() and not budget.begin_again()


def test_a_fifth_of_what_is_active() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.begin()
    granted = sum(budget.begin_again() for _ in range(100))
    assert granted == 20


class Machine(RuleBasedStateMachine):
    """Any order of attempts."""

    @initialize()
    def begin(self) -> None:
        self.budget = RetryBudget()
        self.firsts = self.repetitions = 0  # ever
        self.active = self.repeating = self.beside = 0
        self.marks: list[tuple[int, int, int]] = [(0, 0, 0)]  # firsts, repetitions and active at some moments

    @rule(count=st.integers(1, 30))
    def first_attempts(self, count: int) -> None:
        for _ in range(count):
            self.budget.begin()
        self.firsts += count
        self.active += count

    @rule(count=st.integers(1, 30))
    def first_attempts_end(self, count: int) -> None:
        for _ in range(min(count, self.active)):
            self.budget.end(False)
            self.active -= 1

    @rule(count=st.integers(1, 30))
    def repetitions_wanted(self, count: int) -> None:
        for _ in range(count):
            allowed = self.budget.allows
            assert self.budget.begin_again() == allowed
            self.repetitions += allowed
            self.repeating += allowed

    @precondition(lambda self: self.repeating)
    @rule()
    def repetition_ends(self) -> None:
        self.budget.end(True)
        self.repeating -= 1

    @rule(count=st.integers(1, 30))
    def others_are_wanted_beside(self, count: int) -> None:
        for _ in range(count):
            allowed = self.budget.allows
            assert self.budget.begin_beside() == allowed
            self.repetitions += allowed
            self.beside += allowed

    @precondition(lambda self: self.beside)
    @rule(was_made=st.booleans())
    def one_beside_ends(self, was_made: bool) -> None:
        self.beside -= 1
        if was_made:
            self.budget.repeating -= 1
        else:
            self.budget.take_back()
            self.repetitions -= 1

    @rule()
    def mark(self) -> None:
        self.marks.append((self.firsts, self.repetitions, self.active + self.repeating))

    @invariant()
    def bounds_hold(self) -> None:
        assert self.budget.active == self.active + self.repeating
        assert self.budget.repeating == self.repeating + self.beside
        for firsts, repetitions, active in self.marks:
            made = self.repetitions - repetitions
            assert made <= (self.firsts - firsts) / SHARE + max(FLOOR, active / SHARE) + 1e-9
        assert self.repetitions <= self.firsts / SHARE + FLOOR + 1e-9, "reliability.md I8, over everything"


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)

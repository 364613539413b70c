"""A request's attempts: who follows whom after which failure, and bounds for every list of outcomes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policy.test_routing import NOW, TOOL_TALK, chain, conversation, open_breaker, planned
from waypost.policy.chains import Chain, Target
from waypost.policy.failures import BY_NAME, TABLE, FailureClass
from waypost.policy.health import Health
from waypost.policy.retry import DEFAULT
from waypost.policy.trail import NOWHERE, Ticket, Trail


class Driver:
    """Makes attempts fail one after the other, on a clock of its own."""

    def __init__(self, subject: Chain, seconds: float = 600.0, talk: bytes = b"[]", **wanted: Any) -> None:
        self.now = NOW
        self.talk = conversation(talk)
        self.plan = planned(subject, self.talk, **wanted)
        self.trail = Trail(self.plan, self.talk, subject.sticky, NOW + seconds)
        self.dice = random.Random(0).random
        self.waits: list[float] = []
        self.ticket = self.next()

    def next(self) -> Ticket:
        ticket = self.trail.begin(self.now)
        assert ticket is not None
        return ticket

    def fail(self, name: str, **what: Any) -> str | None:
        """The current attempt fails; where the next goes, None if nowhere."""
        wait = self.trail.failed(self.ticket, BY_NAME[name], self.now, self.dice, **what)
        self.waits.append(wait)
        if wait == NOWHERE:
            return None
        self.now += wait
        self.ticket = self.next()
        return "/".join(self.ticket.candidate.lane[:2])

    def path(self, *names: str) -> list[str | None]:
        return [self.fail(name) for name in names]


def test_another_target_at_once_then_the_first_again_after_a_pause() -> None:
    driver = Driver(chain("a", "b"))
    assert driver.path("server_error", "server_error", "server_error") == ["b/1", "a/1", None]
    assert driver.waits[0] == 0.0 and DEFAULT.pause / 2 <= driver.waits[1] <= DEFAULT.pause
    assert driver.trail.ending.code == "PROVIDER_ERROR" and len(driver.trail.tickets) == 3


def test_a_single_target_is_asked_again() -> None:
    assert Driver(chain("a")).path("connect", "server_error", "closed") == ["a/1", "a/1", None]


@pytest.mark.parametrize("name", [row.name for row in TABLE if not row.again and row.spares != "request"])
def test_what_is_not_repeated_goes_to_others_only(name: str) -> None:
    assert Driver(chain("a", "b")).path(name, name) == ["b/1", None]


@pytest.mark.parametrize("name", [row.name for row in TABLE if row.spares == "request"])
def test_the_requests_own_fault_goes_nowhere(name: str) -> None:
    driver = Driver(chain("a", "b"))
    assert driver.path(name) == [None] and driver.trail.ending.code == BY_NAME[name].code


def test_after_a_limit_the_other_key_and_after_a_server_error_the_other_target() -> None:
    def two_keys() -> Chain:
        return chain(Target("a", "model", keys=(("1", 1.0), ("2", 1.0))), "b")

    assert (Driver(two_keys()).fail("limited") or "").startswith("a/")
    assert (Driver(two_keys()).fail("credentials") or "").startswith("a/")
    assert Driver(two_keys()).fail("server_error") == "b/1"


def test_a_hint_within_reason_is_waited_for() -> None:
    driver = Driver(chain("a"))
    assert driver.fail("limited", retry_after=3.0) == "a/1" and 3.0 < driver.waits[0] < 4.0
    for hint in (30.0, 86400.0):
        driver = Driver(chain("a"))
        assert driver.fail("limited", retry_after=hint) is None
        assert driver.trail.ending.code == "UPSTREAM_RATE_LIMITED" and driver.trail.ending.retry_after == hint
    driver = Driver(chain("a"), seconds=2.0)
    assert driver.fail("limited", retry_after=3.0) is None, "the deadline comes first"
    driver = Driver(chain("a", "b"))
    assert driver.fail("limited", retry_after=3.0) == "b/1" and driver.waits[0] == 0.0


def test_nothing_begins_after_the_deadline() -> None:
    driver = Driver(chain("a", "b"), seconds=5.0)
    driver.now += 5.0
    assert driver.fail("first_byte_timeout") is None


def test_the_deadline_is_a_failure_of_whoever_used_it_up() -> None:
    subject = chain("a", "b")
    for _ in range(5):
        driver = Driver(subject, seconds=10.0)
        driver.fail("server_error")
        driver.now += 9.0
        assert driver.ticket.candidate.target.provider == "b" and driver.fail("deadline") is None
        subject.targets[0][0].breaker.succeeded(subject.targets[0][0].breaker.admit(NOW), NOW)
    assert subject.targets[1][0].breaker.is_open and not subject.targets[0][0].breaker.is_open
    late = chain("a", "b")
    for _ in range(5):
        driver = Driver(late, seconds=10.0)
        driver.now += 8.0
        driver.fail("server_error")
        driver.now += 2.0
        driver.fail("deadline")
    assert not late.targets[1][0].breaker.is_open, "it had no time"


def test_nobody_takes_over_a_committed_answer() -> None:
    assert Driver(chain("a", "b")).fail("truncated", committed=True) is None


def test_a_longer_prompt_goes_to_a_larger_context_where_the_operator_allows() -> None:
    targets = [Target("a", "m", context=8000), Target("b", "m", context=8000), Target("c", "m", context=32000)]
    assert Driver(chain(*targets)).fail("context_length") is None
    assert Driver(chain(*targets, larger=True)).path("context_length", "server_error") == ["c/1", "c/1"]
    assert Driver(chain(*targets, larger=True)).path("content") == [None]


def test_models_that_the_caller_names_follow_after_any_error() -> None:
    health = Health()
    first, second = chain("a", "b", health=health), chain("c", health=health, name="second")
    for name in ("content", "context_length"):
        assert Driver(first, models=[second]).path(name, name) == ["c/1", None]
    assert Driver(first, models=[second]).path("server_error", "content") == ["b/1", "c/1"]


def test_strict_tool_results_have_one_attempt() -> None:
    assert Driver(chain("a", "b", strict=True), talk=TOOL_TALK).path("server_error") == [None]


def test_what_opens_in_the_pause_is_not_asked() -> None:
    subject = chain("a", "b")
    driver = Driver(subject)
    wait = driver.trail.failed(driver.ticket, BY_NAME["server_error"], NOW, driver.dice)
    open_breaker(subject.targets[1][0])
    assert wait == 0.0 and driver.trail.begin(NOW) is None
    assert subject.targets[1][0].budget.active == 0


def test_the_conversation_follows_whoever_answers() -> None:
    subject = chain("a", "b")
    driver = Driver(subject)
    driver.fail("server_error")
    driver.trail.succeeded(driver.ticket, NOW, 0.1)
    assert subject.sticky.find(driver.talk.name, NOW) == ("b", "1", "model")
    driver = Driver(subject)
    assert driver.ticket.candidate.target.provider == "b"
    assert driver.fail("server_error") == "a/1" and not subject.sticky, "let go"
    driver.trail.succeeded(driver.ticket, NOW, 0.1)
    assert not subject.sticky, "at home there is nothing to remember"


def test_one_beside_who_is_late_at_another_target() -> None:
    subject = chain(Target("a", "model", keys=(("1", 1.0), ("2", 1.0))), "b")
    driver = Driver(subject)
    second = driver.trail.begin_beside(NOW + 1)
    assert second is not None and second.candidate.target.provider == "b"
    assert driver.trail.begin_beside(NOW + 1) is None, "two are under way"
    assert driver.trail.failed(driver.ticket, BY_NAME["server_error"], NOW + 1, driver.dice) == NOWHERE, "one is left"
    assert driver.trail.begin_beside(NOW + 1) is None, "the other key is the same target"
    driver.trail.succeeded(second, NOW + 2, 0.5)
    driver.trail.close()
    assert all_is_given_back(subject)


def all_is_given_back(subject: Chain) -> bool:
    counts = [(keys[0].speed.active, keys[0].budget.active, keys[0].budget.repeating) for keys in subject.targets]
    return set(counts) == {(0, 0, 0)}


@pytest.mark.parametrize("winner", [0, 1])
def test_the_loser_says_nothing_about_its_upstream(winner: int) -> None:
    subject = chain("a", "b")
    for _ in range(6):
        driver = Driver(subject)
        second = driver.trail.begin_beside(NOW + 1)
        if second is None:
            break
        pair = (driver.ticket, second)
        driver.trail.outrun(pair[1 - winner], NOW + 2)
        driver.trail.outrun(pair[1 - winner], NOW + 2)
        driver.trail.succeeded(pair[winner], NOW + 2, 0.5)
        assert [(each.kind.name, each.took) for each in driver.trail.failures] == [("hedged", 1.0 + winner)]
    assert all_is_given_back(subject) or second is None
    assert not any(keys[0].breaker.until for keys in subject.targets)
    assert subject.targets[1 - winner][0].breaker.generation == 1
    assert subject.targets[0][0].speed.latency(NOW + 2) == (2.0 if winner == 1 else 0.5), "at least as slow as this"


def test_three_beside_and_then_one_in_five() -> None:
    subject = chain("a", "b")
    hedged = []
    for number in range(28):
        driver = Driver(subject, talk=b'[{"role":"user","content":"%d"}]' % number)
        second = driver.trail.begin_beside(NOW + 1)
        hedged.append(second is not None)
        if second is not None:
            driver.trail.outrun(driver.ticket, NOW + 1)
        driver.trail.succeeded(second or driver.ticket, NOW + 1, 0.5)
        assert all_is_given_back(subject)
    assert sum(hedged) == 3 + 28 // 5 and hedged[:3] == [True] * 3, hedged
    assert subject.targets[1][0].budget.allows, "it is the late one's budget"


def test_who_is_ill_or_another_model_is_not_asked_beside() -> None:
    subject = chain("a", "b")
    driver = Driver(subject)
    open_breaker(subject.targets[1][0], NOW - 60)
    assert driver.trail.begin_beside(NOW) is None, "not even as a probe"
    health = Health()
    second = chain("c", health=health, name="second")
    driver = Driver(chain("a", health=health), models=[second])
    assert driver.trail.begin_beside(NOW) is None
    assert driver.fail("server_error") == "c/1"
    assert Driver(chain("a", "b", strict=True), talk=TOOL_TALK).trail.begin_beside(NOW) is None


def test_no_more_attempts_than_there_may_be() -> None:
    driver = Driver(chain("a", "b", "c", "d"))
    assert driver.fail("server_error") == "b/1"
    second = driver.trail.begin_beside(NOW)
    assert second is not None and second.candidate.target.provider == "c"
    assert driver.trail.failed(driver.ticket, BY_NAME["server_error"], NOW, driver.dice) == NOWHERE
    assert driver.trail.begin_beside(NOW) is None
    assert driver.trail.failed(second, BY_NAME["server_error"], NOW, driver.dice) == NOWHERE
    assert len(driver.trail.tickets) == DEFAULT.attempts
    late = Driver(chain("a", "b"), seconds=5.0)
    assert late.trail.begin_beside(NOW + 5.0 - DEFAULT.least / 2) is None, "there would be no time for it"


def test_both_failures_speak_for_who_is_next() -> None:
    driver = Driver(chain("a", "b", "c"))
    second = driver.trail.begin_beside(NOW)
    assert second is not None
    driver.trail.failed(driver.ticket, BY_NAME["server_error"], NOW, driver.dice)
    driver.ticket = second
    assert driver.fail("server_error") == "c/1"
    assert driver.trail.ending.code == "PROVIDER_ERROR"


@pytest.mark.parametrize("is_unable", [True, False])
def test_what_was_not_sent_beside_costs_nothing(is_unable: bool) -> None:
    subject = chain("a", "b", "c")
    driver = Driver(subject)
    for _ in range(10):
        second = driver.trail.begin_beside(NOW)
        assert second is not None
        if is_unable:
            assert driver.trail.unable(second, NOW, driver.dice, "no tools") == NOWHERE
            break
        driver.trail.withdraw(second)
    assert driver.trail.tickets == (driver.ticket,)
    third = driver.trail.begin_beside(NOW)
    assert third is not None and third.candidate.target.provider == ("c" if is_unable else "b")
    driver.trail.close()
    assert all_is_given_back(subject)


def test_is_another_left() -> None:
    driver = Driver(chain("a", "b"))
    assert driver.trail.is_another_left(NOW)
    assert driver.fail("server_error") == "b/1"
    assert not driver.trail.is_another_left(NOW), "a repetition is nobody else"


def test_closing_in_a_pause_gives_everything_back() -> None:
    subject = chain("a")
    driver = Driver(subject)
    assert driver.trail.failed(driver.ticket, BY_NAME["server_error"], NOW, driver.dice) > 0
    budget = subject.targets[0][0].budget
    assert budget.repeating == 1
    driver.trail.close()
    driver.trail.close()
    assert budget.repeating == budget.active == 0


@pytest.mark.parametrize("end", ["close", "abandon", "gone"])
def test_a_probe_that_ends_without_a_word_frees_its_permit(end: str) -> None:
    subject = chain("a", "b")
    open_breaker(subject.targets[0][0], NOW - 60)
    driver = Driver(subject)
    assert driver.ticket.permit < 0 and subject.targets[0][0].breaker.blocks(NOW)
    if end == "close":
        driver.trail.close()
    elif end == "abandon":
        driver.trail.abandon(driver.ticket)
    else:
        assert driver.fail("gone") is None
    assert not subject.targets[0][0].breaker.blocks(NOW)


def test_two_requests_do_not_probe_at_once() -> None:
    subject = chain("a", "b")
    open_breaker(subject.targets[0][0], NOW - 60)
    first, second = Driver(subject), Driver(subject)
    assert [driver.ticket.candidate.target.provider for driver in (first, second)] == ["a", "b"]
    first.trail.succeeded(first.ticket, NOW, 0.1)
    assert Driver(subject).ticket.candidate.target.provider == "a" and not subject.targets[0][0].breaker.until


KINDS = st.sampled_from(TABLE)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(KINDS, st.none() | st.floats(0, 100), st.floats(0, 60)), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 3),
    st.floats(0.1, 120),
    st.integers(0, 99),
)
def test_attempts_waits_and_accounts_for_any_list_of_outcomes(
    outcomes: list[tuple[FailureClass, float | None, float]], targets: int, keys: int, seconds: float, seed: int
) -> None:
    health, now = Health(), NOW
    labels = tuple((str(key), 1.0) for key in range(keys))
    subject = chain(*(Target(name, "m", keys=labels) for name in "abcd"[:targets]), health=health)
    talk = conversation()
    trail = Trail(planned(subject, seed=seed), talk, subject.sticky, NOW + seconds)
    dice = random.Random(seed).random
    ticket = trail.begin(now)
    for kind, hint, took in outcomes:
        if ticket is None:
            break
        lane = ticket.candidate.lane
        for failure in trail.failures:
            assert failure.lane != lane or failure.kind.again
            assert failure.lane[::2] != lane[::2] or failure.kind.spares == "key" or failure.kind.again
        now += took
        wait = trail.failed(ticket, kind, now, dice, retry_after=hint)
        if wait == NOWHERE:
            ticket = None
            break
        assert kind.spares != "request"
        assert wait <= DEFAULT.longest_wait and now + wait + DEFAULT.least <= NOW + seconds
        now += wait
        ticket = trail.begin(now)
    trail.close()
    assert len(trail.tickets) <= DEFAULT.attempts
    assert trail.begin(now) is None, "it is over"
    for budget in health.budgets.values():
        assert budget.active == budget.repeating == 0
    assert all(speed.active == 0 for speed in health.speeds.values())
    assert trail.ending.code

"""What is remembered of a target's speed: percentiles within their error, and only of the last minutes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.policy.health import Health
from waypost.policy.speed import FEWEST, HALF_LIFE, HASTE, LOOK, MINUTES, STEP, Patience, Speed, Spread

NOW = 10_000.0


@given(st.lists(st.floats(0.002, 10_000), min_size=FEWEST, max_size=60), st.sampled_from([0.5, 0.75, 0.9, 0.95, 0.99]))
def test_percentiles_are_never_too_low_and_little_too_high(values: list[float], share: float) -> None:
    spread = Spread()
    for value in values:
        spread.add(value, NOW)
    found = spread.percentile(share, NOW)
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    assert found is not None and exact * (1 - 1e-9) <= found <= exact * STEP * (1 + 1e-9)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_values_beyond_all_buckets(value: float) -> None:
    spread = Spread()
    for _ in range(FEWEST):
        spread.add(value, NOW)
    assert spread.percentile(0.5, NOW) is not None


def test_few_samples_and_old_ones_say_nothing() -> None:
    spread = Spread()
    for _ in range(FEWEST - 1):
        spread.add(1.0, NOW)
    assert spread.percentile(0.5, NOW) is None
    spread.add(1.0, NOW)
    assert spread.percentile(0.5, NOW + 200) is not None
    assert spread.percentile(0.5, NOW + 301) is None


def test_latency_follows_and_fades() -> None:
    speed = Speed()
    assert speed.latency(NOW) == 0.0
    speed.note_first_token(1.0, NOW)
    assert speed.latency(NOW) == 1.0 and speed.latency(NOW + HALF_LIFE) == 0.5
    for number in range(1, 21):
        speed.note_first_token(3.0, NOW + number / 1000)
    assert 2.9 < speed.latency(NOW) <= 3.0
    speed.note_first_token(9.0, NOW + 0.0201)
    assert speed.latency(NOW) <= 3.0, "of a crowd, one in a millisecond"
    speed.note_first_token(1.0, NOW + 100 * HALF_LIFE)
    assert speed.latency(NOW + 100 * HALF_LIFE) < 1.1, "what is old weighs little"


def test_the_unknown_are_tried_by_one_at_a_time() -> None:
    speed = Speed()
    assert speed.burden(NOW) == 0.0
    speed.active = 1
    assert speed.burden(NOW) == float("inf")
    speed.note_first_token(2.0, NOW)
    assert speed.burden(NOW) == 4.0


def test_throughput_needs_time_and_tokens() -> None:
    speed = Speed()
    for tokens, seconds in ((1, 1.0), (100, 0.0), (0, 1.0)):
        speed.note_throughput(tokens, seconds, NOW)
    for _ in range(FEWEST):
        speed.note_throughput(100, 2.0, NOW)
    assert speed.throughput.percentile(0.01, NOW) == pytest.approx(50, rel=STEP - 1)


def test_health_survives_a_configuration_and_forgets_what_is_gone() -> None:
    health = Health()
    lane, gone = ("a", "1", "m"), ("b", "1", "m")
    kept, lost = health.breaker(lane), health.breaker(gone)
    lost.failed(lost.admit(NOW), NOW, "dead")
    budget, speed, sticky = health.budget("a"), health.speed("a", "m"), health.sticky("chain")
    health.budget("b"), health.speed("b", "m"), health.sticky("old")
    health.retain([lane], ["chain"])
    assert health.breaker(lane) is kept and health.budget("a") is budget and health.sticky("chain") is sticky
    assert health.speed("a", "m") is speed
    assert not health.troubled and set(health.breakers) == {lane} and set(health.homes) == {"chain"}


# How long to wait for who is late


def test_patience_is_what_is_usual_once_enough_is_known() -> None:
    patience = Patience()
    now = NOW
    for number in range(FEWEST):
        assert patience.wait(7.0, now) == 7.0, f"{number} answers say nothing"
        patience.note(2.0, now)
        now += LOOK
    assert 2.0 <= patience.wait(7.0, now) <= 2.0 * STEP
    assert patience.wait(7.0, now + 60.0 * (MINUTES + 1)) == 7.0, "what is old is forgotten"


def test_one_slow_answer_in_twenty_is_late_two_are_usual() -> None:
    for slow, usual in ((1, 0.5), (2, 9.0)):
        patience = Patience()
        for number in range(20):
            patience.note(9.0 if number < slow else 0.5, NOW)
        assert usual <= patience.wait(7.0, NOW) <= usual * STEP


def test_nobody_is_late_at_once() -> None:
    patience = Patience()
    for _ in range(FEWEST):
        patience.note(0.001, NOW)
    assert patience.wait(7.0, NOW) == HASTE


def test_patience_does_not_shrink_by_its_own_doing() -> None:
    """Who is given up was at least as late as that; were it left out, each minute's 95 % would be a little less."""
    patience, dice = Patience(), random.Random(1)
    now, late = NOW, 0
    for _ in range(3000):
        now += 0.5
        took, wait = dice.uniform(0.5, 1.5), patience.wait(7.0, now)
        late += took > wait
        patience.note(min(took, wait + 0.2), now)
    assert late < 0.08 * 3000

"""Keys and limits change under load: every worker goes by the new word within seconds, and never by the old again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.checker import Limit, check, database_url, noon_zone, read_at_rest
from tests.faults.crowd import LONG, Asked, Crowd, Who, burst, models
from tests.faults.hosts import Host, host
from tests.harness import provider, wait_until
from tests.sim.running import Running
from waypost.messages import RevokeKey, SetAccount
from waypost.sim.journal import read_journal

CLIENTS = 12
WORKERS = 3
ZONE = noon_zone()
PROMISED = 5.0  # seconds until a change is everywhere

PLANS = f"""
[plans.open]
[plans.some]
requests = {{{{ day = {{some}} }}}}
timezone = "{ZONE}"
[plans.none]
requests = {{{{ day = 0 }}}}
"""


@contextmanager
def loaded(oracle: Running, plan: str, some: int = 100_000) -> Iterator[tuple[Host, Crowd, Who, str]]:
    config = provider("sim", oracle.base) + models(CLIENTS, ("plain", "slow"))
    with host(config + PLANS.format(some=some), workers=WORKERS) as served:
        who = Who("changing", served.key("changing", plan))
        with Crowd(lambda: served.address, [who], clients=CLIENTS, pause=0.05, kinds={"plain": 4, "slow": 1}) as crowd:
            wait_until(lambda: len([asked for asked in crowd.log if asked.status == 200]) >= 60, "some good answers")
            yield served, crowd, who, config


def settle(served: Host, crowd: Crowd, oracle: Running, changed: float, new: int) -> list[Asked]:
    """From some moment on answers are `new` and never the old again; then the books hold. The log."""
    before = 429 if new == 200 else 200
    wait_until(lambda: crowd.seen(new, changed), "an answer by the new word")
    time.sleep(PROMISED if LONG else 1.0)
    log = crowd.stop()
    old = [asked.sent - changed for asked in log if asked.sent > changed and asked.status == before]
    assert max(old, default=0.0) < PROMISED, old
    if LONG:
        print(f"in force everywhere after {max(old, default=0.0):.2f} s")
    findings = check(read_at_rest(database_url(served.data), log), log, read_journal(oracle.journal))
    violations = [text for text in findings.violations if not ("must never be" in text and f" {new} " in text)]
    assert not violations, violations
    return log


def test_a_key_is_revoked(oracle: Running) -> None:
    with loaded(oracle, "open") as (served, crowd, who, _):
        served.administer(RevokeKey(who.key))
        settle(served, crowd, oracle, time.time(), 401)
        again = burst(served.address, who, 12, mark="again")
        assert {asked.status for asked in again} <= {401, 429}  # who fails often has to wait
        served.kill(*served.workers(), served.keeper())  # nor do those who come after them believe it
        wait_until(lambda: served.ready() == 200, "the next ones")
        assert {asked.status for asked in burst(served.address, who, 12, mark="later")} <= {401, 429, 503}


@pytest.mark.parametrize("how", ["plan", "account"])
def test_a_plan_is_taken_away(how: str, oracle: Running) -> None:
    with loaded(oracle, "open") as (served, crowd, _, _config):
        served.administer(
            SetAccount("changing", plan="none") if how == "plan" else SetAccount("changing", disabled=True)
        )
        settle(served, crowd, oracle, time.time(), 429 if how == "plan" else 401)


def test_a_limit_is_lowered_below_what_is_used(oracle: Running) -> None:
    with loaded(oracle, "some") as (served, crowd, _, config):
        served.config.write_text(config + PLANS.format(some=20))
        settle(served, crowd, oracle, time.time(), 429)


def test_a_limit_is_lowered_and_then_exact(oracle: Running) -> None:
    with loaded(oracle, "some") as (served, crowd, who, config):
        limit = sum(asked.status == 200 for asked in crowd.log) + 400  # more than is asked for until it is known
        served.config.write_text(config + PLANS.format(some=limit))
        wait_until(lambda: crowd.seen(429), "the new limit to be reached")
        log = crowd.stop() + burst(served.address, who, 12, mark="after")
        books = read_at_rest(database_url(served.data), log)
        limits = {"changing": [Limit("requests", "day", limit, ZONE)]}
        findings = check(books, log, read_journal(oracle.journal), limits)
        assert not findings.violations, findings
        assert len(books.rows) == limit


def test_a_limit_is_raised(oracle: Running) -> None:
    with loaded(oracle, "some", some=100) as (served, crowd, _, config):
        wait_until(lambda: crowd.seen(429), "the limit to be reached")
        served.config.write_text(config + PLANS.format(some=100_000))
        settle(served, crowd, oracle, time.time(), 200)

"""Never over, never early: exactly what a limit allows is admitted, however many ask at once, and wherever."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.checker import Limit, check, database_url, noon_zone, read_at_rest
from tests.faults.crowd import Asked, Who, burst, models
from tests.faults.hosts import Host, host
from tests.faults.lanes import drive
from tests.faults.valkey import running_valkey
from tests.harness import provider
from tests.postgres import PostgresServer
from tests.sim.running import Running
from waypost.sim.journal import read_journal

ZONE = noon_zone()
PLANS = f"""
[plans.thirty]
requests = {{ day = 30 }}
timezone = "{ZONE}"
[plans.thousand]
requests = {{ day = 1000 }}
timezone = "{ZONE}"
"""


@contextlib.contextmanager
def hosts(
    store: str, workers: int, count: int, postgres: PostgresServer, base: str
) -> Iterator[tuple[list[Host], str]]:
    """`count` hosts on one database, and its URL."""
    config = provider("sim", base) + models(1, ("plain",)) + PLANS + "[store]\n"
    with contextlib.ExitStack() as stack:
        url = "sqlite"
        if store == "postgresql" or count > 1:
            url = stack.enter_context(postgres.fresh())
            config += f'database = "{url}"\n'
        if store == "valkey":
            config += f'limits = "{stack.enter_context(running_valkey()).url}"\n'
        yield [stack.enter_context(host(config, workers=workers)) for _ in range(count)], url


def hold(served: Host, url: str, log: list[Asked], oracle: Running, account: str, units: int) -> None:
    """The books hold, and exactly `units` were admitted."""
    assert Counter(asked.status for asked in log)[200] == units
    books = read_at_rest(database_url(served.data, url), log)
    findings = check(books, log, read_journal(oracle.journal), {account: [Limit("requests", "day", units, ZONE)]})
    assert not findings.violations, findings
    assert len(books.rows) == units


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("store", ["sqlite", "postgresql", "valkey"])
def test_ten_of_two_hundred(store: str, workers: int, postgres: PostgresServer, oracle: Running) -> None:
    with hosts(store, workers, 1, postgres, oracle.base) as ((served,), url):
        who = Who("thirty", served.key("thirty", "thirty"))
        log = burst(served.address, who, 20, mark="before", parallel=4)
        assert {asked.status for asked in log} == {200}
        crowd = burst(served.address, who, 200, mark="crowd", parallel=200)
        assert Counter(asked.status for asked in crowd) == {200: 10, 429: 190}
        hold(served, url, log + crowd, oracle, "thirty", 30)


@pytest.mark.parametrize("store", ["postgresql", "valkey"])
def test_ten_of_two_hundred_on_two_hosts(store: str, postgres: PostgresServer, oracle: Running) -> None:
    with hosts(store, 2, 2, postgres, oracle.base) as ((first, second), url):
        who = Who("thirty", first.key("thirty", "thirty"))
        log = burst(first.address, who, 12, mark="first", parallel=4)
        log += burst(second.address, who, 8, mark="second", parallel=4)
        assert {asked.status for asked in log} == {200}
        with ThreadPoolExecutor(2) as both:
            crowds = both.map(
                lambda each: burst(each.address, who, 100, mark=f"crowd{each.address[1]}", parallel=100),
                (first, second),
            )
            crowd = [asked for each in crowds for asked in each]
        assert Counter(asked.status for asked in crowd) == {200: 10, 429: 190}
        hold(first, url, log + crowd, oracle, "thirty", 30)


def test_a_thousand_unevenly(oracle: Running, postgres: PostgresServer) -> None:
    with hosts("sqlite", 4, 1, postgres, oracle.base) as ((served,), url):
        who = Who("thousand", served.key("thousand", "thousand"))
        logs = drive(served, who, [14, 4, 2, 1], [760, 180, 50, 10], mark="uneven")
        log = [asked for each in logs for asked in each]
        assert Counter(asked.status for asked in log) == {200: 1000}
        refused = burst(served.address, who, 8, mark="late", parallel=4)
        assert {asked.code for asked in refused} == {"DAILY_REQUEST_LIMIT_EXCEEDED"}
        hold(served, url, log + refused, oracle, "thousand", 1000)


@pytest.mark.parametrize("store", ["postgresql", "valkey"])
def test_a_thousand_unevenly_on_two_hosts(store: str, oracle: Running, postgres: PostgresServer) -> None:
    with hosts(store, 2, 2, postgres, oracle.base) as ((first, second), url):
        who = Who("thousand", first.key("thousand", "thousand"))
        with ThreadPoolExecutor(2) as both:
            one = both.submit(drive, first, who, [8, 3], [700, 150], mark="one")
            two = both.submit(drive, second, who, [2, 1], [140, 10], mark="two")
            log = [asked for each in (*one.result(), *two.result()) for asked in each]
        assert Counter(asked.status for asked in log) == {200: 1000}
        refused = burst(first.address, who, 4, mark="late-1") + burst(second.address, who, 4, mark="late-2")
        assert {asked.code for asked in refused} == {"DAILY_REQUEST_LIMIT_EXCEEDED"}
        hold(first, url, log + refused, oracle, "thousand", 1000)

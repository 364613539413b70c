"""Valkey is lost, slow, or has forgotten all: on one host limits are as exact as ever, and nobody waits for it long."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.checker import check, database_url, noon_zone, read_at_rest
from tests.faults.crowd import LONG, Crowd, Who, burst, models
from tests.faults.hosts import host
from tests.faults.scene import PLANS, accounts, scene, verdict
from tests.faults.valkey import ValkeyServer, running_valkey
from tests.harness import provider, wait_until
from tests.postgres import PostgresServer
from tests.sim.running import Running
from waypost.sim.journal import read_journal

AWAY = 30.0 if LONG else 1.5
ZONE = noon_zone()


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    with running_valkey() as server:
        yield server


def lost(server: ValkeyServer) -> None:
    """Killed, and started again without anything."""
    server.stop()
    time.sleep(AWAY)
    server.start()


def silent(server: ValkeyServer) -> None:
    server.pause()
    time.sleep(AWAY)
    server.resume()


def slow(server: ValkeyServer) -> None:
    """Some answers come in time, some do not."""
    until = time.monotonic() + AWAY
    while time.monotonic() < until:
        server.pause()
        time.sleep(0.06)
        server.resume()
        time.sleep(0.03)


def emptied(server: ValkeyServer) -> None:
    for _ in range(10):
        assert server.say("FLUSHALL") == b"+OK\r\n"
        assert server.say("SCRIPT FLUSH") == b"+OK\r\n"
        time.sleep(AWAY / 10)


def out_of_memory(server: ValkeyServer) -> None:
    server.say("CONFIG SET maxmemory 1")
    server.say("CONFIG SET maxmemory-policy noeviction")
    time.sleep(AWAY)
    server.say("CONFIG SET maxmemory 0")


FAULTS: dict[str, Callable[[ValkeyServer], None]] = {
    "lost": lost,
    "silent": silent,
    "slow": slow,
    "emptied": emptied,
    "out of memory": out_of_memory,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("fault", "outage"), [*((fault, "closed") for fault in FAULTS), ("lost", "last_lease"), ("silent", "last_lease")]
)
def test_limits_stay_exact_on_one_host(fault: str, outage: str, valkey: ValkeyServer, oracle: Running) -> None:
    store = f'limits = "{valkey.url}"\nlimits_on_outage = "{outage}"\n'
    setting = scene(oracle.base, daily=120, tokens=15_000, clients=16, store=store)
    with host(setting.config) as served:
        who = accounts(served, setting)
        with Crowd(lambda: served.address, who, clients=16, pause=0.1) as crowd:
            wait_until(lambda: crowd.seen(200), "a good answer")
            began = time.time()
            FAULTS[fault](valkey)
            over = time.time()
            wait_until(lambda: decided(crowd, over), "a decision on every account's requests")
            log = crowd.stop()
        waits = sorted(asked.head - asked.sent for asked in log if asked.status and began < asked.sent < over)
        assert waits[len(waits) // 2] < 2.0
        if LONG:
            statuses = Counter(asked.status for asked in log if began < asked.sent < over)
            print(f"{fault}, {outage}: {dict(statuses)}, until the head {waits[len(waits) * 99 // 100]:.3f} s (p99)")
        findings = verdict(served, oracle, log, setting.limits)
        assert not findings.violations, findings


def decided(crowd: Crowd, since: float) -> bool:
    """Has every account got an answer that is not "cannot be checked now"?"""
    return PLANS.keys() <= {
        asked.account for asked in crowd.log if asked.sent >= since and asked.status in (200, 402, 429)
    }


LIMIT = 600


@pytest.mark.timeout(300)
def test_what_two_hosts_may_pass_a_limit_by_when_all_is_forgotten(
    postgres: PostgresServer, valkey: ValkeyServer, oracle: Running
) -> None:
    plans = f'[plans.daily]\nrequests = {{ day = {LIMIT} }}\ntimezone = "{ZONE}"\n'
    with postgres.fresh() as url:
        store = f'[store]\ndatabase = "{url}"\nlimits = "{valkey.url}"\n'
        config = store + provider("sim", oracle.base) + models(1, ("plain",)) + plans
        with host(config) as first, host(config) as second, ThreadPoolExecutor(2) as both:
            who = Who("daily", first.key("daily", "daily"))
            drives = [
                both.submit(burst, each.address, who, LIMIT, mark=f"drive-{number}", parallel=8)
                for number, each in enumerate((first, second))
            ]
            while not all(drive.done() for drive in drives):
                valkey.say("FLUSHALL")
                time.sleep(0.05)
            log = [asked for drive in drives for asked in drive.result()]
            findings = check(read_at_rest(database_url(first.data, url), log), log, read_journal(oracle.journal))
            admitted = sum(asked.status == 200 for asked in log)
            if LONG:
                print(f"{admitted} of {LIMIT} were admitted")
            assert not findings.violations, findings
            assert admitted <= LIMIT + LIMIT // 2

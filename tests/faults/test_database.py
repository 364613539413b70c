"""The database goes away under load: nobody is taken for a stranger, nothing is lost, and all is settled afterwards."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.faults.crowd import LONG, Crowd
from tests.faults.hosts import Host, host
from tests.faults.scene import PLANS, accounts, scene, verdict
from tests.harness import chat_body, post, wait_until
from tests.postgres import PostgresServer, running_postgres
from tests.sim.running import Running

AWAY = 60.0 if LONG else 2.5
SPOOL = 64 * 1024 * 1024  # two workers, three segments of 8 MiB each, and some


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """One that may be stopped."""
    with running_postgres() as server:
        yield server


def stop_and_start(server: PostgresServer) -> None:
    server.stop()
    time.sleep(AWAY)
    server.start()


def stall(server: PostgresServer) -> None:
    server.pause()
    time.sleep(AWAY)
    server.resume()


def restart_often(server: PostgresServer) -> None:
    for _ in range(5 if LONG else 2):
        server.stop()
        server.start()
        time.sleep(0.3)


def end_sessions(server: PostgresServer) -> None:
    for _ in range(20 if LONG else 4):
        server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test_%'")
        time.sleep(0.3)


def refuse_writes(server: PostgresServer) -> None:
    server.psql("ALTER SYSTEM SET default_transaction_read_only = on")
    server.psql("SELECT pg_reload_conf()")
    time.sleep(AWAY)
    server.psql("ALTER SYSTEM RESET default_transaction_read_only")
    server.psql("SELECT pg_reload_conf()")


FAULTS: dict[str, Callable[[PostgresServer], None]] = {
    "stopped": stop_and_start,
    "silent": stall,
    "restarted": restart_often,
    "sessions ended": end_sessions,
    "read only": refuse_writes,
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_database_goes_away(fault: str, own_postgres: PostgresServer, oracle: Running) -> None:
    with own_postgres.fresh() as url:
        setting = scene(oracle.base, daily=300, tokens=60_000, clients=16, store=f'database = "{url}"\n')
        with host(setting.config) as served:
            who = accounts(served, setting)
            stranger = served.key("open", "open")  # nobody has used it yet
            with Crowd(lambda: served.address, who, clients=16, pause=0.2) as crowd:
                wait_until(lambda: crowd.seen(200), "a good answer")
                began = time.time()
                log = with_a_stranger(served, stranger, lambda: FAULTS[fault](own_postgres))
                over = time.time()
                spool = sum(path.stat().st_size for path in (served.data / "journal").iterdir())
                wait_until(lambda: crowd.seen(200, over), "a good answer after it")
                wait_until(lambda: served.ready() == 200, "readiness after it")
                wait_until(lambda: good_for_all(crowd, over), "a decision on every account's requests")
                crowd_log = crowd.stop()
            assert 401 not in {asked.status for asked in crowd_log} and 401 not in log, Counter(log)
            assert spool <= SPOOL
            if fault in ("stopped", "silent"):
                assert 503 in log, "nothing was lacking"
            if LONG:
                during = Counter(asked.status for asked in crowd_log if began < asked.sent < over)
                print(
                    f"{fault} for {over - began:.0f} s: {dict(during)}, a new key: {dict(Counter(log))}, spool {spool}"
                )
            findings = verdict(served, oracle, crowd_log, setting.limits, url)
            assert not findings.violations, findings


def good_for_all(crowd: Crowd, since: float) -> bool:
    """Has every account got an answer that is not "cannot be checked now"?"""
    decided = {asked.account for asked in crowd.log if asked.sent >= since and asked.status in (200, 402, 429)}
    return PLANS.keys() <= decided


def with_a_stranger(served: Host, key: str, fault: Callable[[], None]) -> list[int]:
    """The statuses that a key gets during the fault which no worker knows yet."""
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        body = chat_body("route/no-such-model", "x")  # never reaches an upstream, so the books need not know of it
        request = post("/v1/chat/completions", body, f"authorization: Bearer {key}", "accept: application/json")
        while not over.wait(0.3):
            with served.connect() as client:
                client.send(request)
                statuses.append(client.answer().status)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        fault()
    finally:
        over.set()
        thread.join()
    return statuses

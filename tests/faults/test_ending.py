"""SIGTERM while answers are under way: whole if they can be in time, else an error frame; and every one has its row."""

from __future__ import annotations

import signal
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.faults.checker import check, database_url, read_books
from tests.faults.crowd import LONG, Asked, Who, burst, models
from tests.faults.hosts import Host, host
from tests.harness import DEADLINE, provider, wait_until
from tests.sim.running import Running
from waypost.sim.journal import read_journal

STREAMS = 12


def begun(served: Host, simulator: Running, kind: str, pool: ThreadPoolExecutor) -> Future[list[Asked]]:
    """Streams, each at an upstream already."""
    who = Who("streaming", served.key("streaming", "streams"))
    future = pool.submit(burst, served.address, who, STREAMS, mark=kind, parallel=STREAMS, kind=kind, clients=STREAMS)
    wait_until(lambda: simulator.get("/journal/summary")["open"] == STREAMS, "all streams to be under way")
    return future


def config(base: str, drain: float, kind: str) -> str:
    plan = "[plans.streams]\nstreams = 20\nrequests = { day = 1000 }\n"
    return f"[server]\ndrain = {drain}\n" + provider("sim", base) + models(STREAMS, (kind,)) + plan  # type: ignore[arg-type]


def holds(served: Host, simulator: Running, log: list[Asked]) -> None:
    """The books were complete when the last process ended: nobody has had to clean up."""
    findings = check(read_books(database_url(served.data)), log, read_journal(simulator.journal))
    assert not findings.violations, findings
    assert findings.rows == STREAMS
    assert served.run("ledger", "verify").returncode == 0


def test_streams_end_by_themselves(oracle: Running) -> None:
    kind, drain = ("minute", 90) if LONG else ("lasting", 30)
    with host(config(oracle.base, drain, kind)) as served, ThreadPoolExecutor(1) as pool:
        streams = begun(served, oracle, kind, pool)
        assert served.process is not None
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: served.ready() == 0, "the listener to be closed")
        log = streams.result()
        assert [(asked.status, asked.end, asked.code) for asked in log] == [(200, "whole", "")] * STREAMS
        assert served.process.wait(2 * DEADLINE) == 0
        holds(served, oracle, log)


def test_streams_are_cut_with_an_error_when_time_is_up(oracle: Running) -> None:
    with host(config(oracle.base, 1, "minute")) as served, ThreadPoolExecutor(1) as pool:
        streams = begun(served, oracle, "minute", pool)
        assert served.stop() == 0
        log = streams.result()
        assert [(asked.status, asked.end) for asked in log] == [(200, "error")] * STREAMS, log
        holds(served, oracle, log)


@pytest.mark.parametrize("again", [True, False])
def test_a_second_signal_ends_at_once(oracle: Running, again: bool) -> None:
    with host(config(oracle.base, 300, "minute")) as served, ThreadPoolExecutor(1) as pool:
        streams = begun(served, oracle, "minute", pool)
        assert served.end_at_once() == 0
        log = streams.result()
        assert [asked.end for asked in log] == ["broken"] * STREAMS
        if again:  # whoever comes next finishes what was left
            served.start()
            served.stop()
        holds(served, oracle, log)

"""A process that stands still (SIGSTOP: as good as an event loop that is blocked) is neither dead nor of any use."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.crowd import LONG, Crowd
from tests.faults.hosts import host
from tests.faults.scene import accounts, scene, verdict
from tests.harness import wait_until
from tests.sim.running import Running

SECONDS = 12.0 if LONG else 4.0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("who_stands", ["worker", "keeper"])
def test_others_serve_and_the_books_hold(who_stands: str, oracle: Running) -> None:
    setting = scene(oracle.base, daily=150, tokens=60_000, clients=16)
    with host(setting.config, workers=3) as served:
        with Crowd(lambda: served.address, accounts(served, setting), clients=16, pause=0.2) as crowd:
            wait_until(lambda: crowd.seen(200), "a good answer")
            pid = served.workers()[0] if who_stands == "worker" else served.keeper()
            began = time.time()
            served.kill(pid, number=signal.SIGSTOP)
            time.sleep(SECONDS)
            others = crowd.seen(200, began)
            was_noticed = pid not in served.children()
            served.kill(pid, number=signal.SIGCONT)
            over = time.time()
            wait_until(lambda: crowd.seen(200, over), "a good answer after it")
            log = crowd.stop()
        assert others
        assert was_noticed or not LONG
        findings = verdict(served, oracle, log, setting.limits)
        assert not findings.violations, findings

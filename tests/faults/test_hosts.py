"""Two hosts on one database, one of which dies with units in its hands: never over meanwhile, none lost afterwards."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults.checker import Limit, check, database_url, noon_zone, read_at_rest
from tests.faults.crowd import LONG, Crowd, Who, burst, models
from tests.faults.hosts import Host, host
from tests.harness import provider, wait_until
from tests.postgres import PostgresServer
from tests.sim.running import Running
from waypost.sim.journal import read_journal

CYCLES = 20 if LONG else 2
LIMIT = 80 * CYCLES
ZONE = noon_zone()
PLANS = f"""
[plans.daily]
requests = {{ day = {LIMIT} }}
timezone = "{ZONE}"
[plans.streams]
streams = 3
[plans.open]
"""


@pytest.mark.timeout(600)
def test_a_host_dies_with_units_in_its_hands(postgres: PostgresServer, oracle: Running) -> None:
    dice = random.Random(1)
    with postgres.fresh() as url:
        config = f'[store]\ndatabase = "{url}"\n' + provider("sim", oracle.base) + models(12) + PLANS
        with host(config) as first, host(config) as second:
            who = [
                Who(name, first.key(name, name), weight) for name, weight in (("daily", 1), ("streams", 1), ("open", 6))
            ]
            alive: list[Host] = [first, second]
            with Crowd(lambda: dice.choice(alive).address, who, clients=12, pause=0.1) as crowd:
                for number in range(CYCLES):
                    admitted = sum(asked.account == "daily" and asked.status == 200 for asked in crowd.log)
                    if number and admitted > LIMIT // 2:  # something is to be left for the end
                        break
                    time.sleep(dice.uniform(0.1, 0.8))
                    victim = alive.pop(dice.randrange(2))
                    victim.kill_all()
                    at = time.time()
                    wait_until(lambda: crowd.seen(200, at), "the other host to serve")  # noqa: B023
                    victim.start()
                    alive.append(victim)
                log = crowd.stop()
            books = read_at_rest(database_url(first.data, url), log)
            used = sum(row.requests or 0 for row in books.rows if any(":requests:" in meter for meter in row.holds))
            assert used < LIMIT, "nothing was left to be recovered"
            # One after the other: what is refused is refused for good.
            for number, (each, count) in enumerate([(first, LIMIT - used + 5), (second, 5), (first, 5)]):
                log += burst(each.address, who[0], count, mark=f"rest-{number}", parallel=4)
            books = read_at_rest(database_url(first.data, url), log)
            findings = check(books, log, read_journal(oracle.journal), {"streams": [Limit("streams", "total", 3)]})
            # A host that is gone cannot return its units: what others refuse meanwhile is not early.
            findings.violations = [text for text in findings.violations if "refused early" not in text]
            taken = sum(row.requests or 0 for row in books.rows if any(":requests:" in meter for meter in row.holds))
            assert not findings.violations, findings
            assert taken == LIMIT
            assert first.stop() == 0
            assert second.stop() == 0
            assert first.run("ledger", "verify").returncode == 0

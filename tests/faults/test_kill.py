"""kill -9 under load, a few times each; `python -m tests.faults.kill_cycles` goes on for as long as one likes."""

from __future__ import annotations

import pytest

from tests.faults.crowd import LONG
from tests.faults.kill_cycles import run
from tests.postgres import PostgresServer

TIMES = {"worker": 5, "keeper": 3, "all": 4, "supervisor": 4}  # a keeper that dies young is started again ever later


@pytest.mark.timeout(1800 if LONG else 120)
@pytest.mark.parametrize("target", TIMES)
def test_the_books_hold(target: str) -> None:
    told = run(50 if LONG else TIMES[target], target, seed=1, pause=0.7)
    assert not told.findings.violations, told
    assert told.findings.good > 0
    assert told.findings.crashed > 0 or target not in ("worker", "all"), "nothing was under way when it was killed"


@pytest.mark.timeout(1800 if LONG else 120)
def test_the_books_hold_in_postgresql(postgres: PostgresServer) -> None:
    with postgres.fresh() as url:
        told = run(50 if LONG else 6, "mixed", seed=2, pause=0.7, database=url)
    assert not told.findings.violations, told

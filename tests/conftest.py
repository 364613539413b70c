"""Servers that many tests share; each test leaves them as it found them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import Waypost, provider, serving
from tests.postgres import PostgresServer, running_postgres
from tests.sim.running import Running, running


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A simulated upstream with a journal."""
    with running(tmp_path_factory.mktemp("simulator") / "journal.jsonl") as simulator:
        yield simulator


@pytest.fixture(scope="session")
def waypost(simulator: Running) -> Iterator[Waypost]:
    """A server with one worker; `sim/NAME` is the simulator's model NAME."""
    with serving(provider("sim", simulator.base)) as waypost:
        yield waypost


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server; `with postgres.fresh() as url` is an empty database on it."""
    with running_postgres() as server:
        yield server

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.running import Running, running


@pytest.fixture(scope="session")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("sim") / "journal.jsonl") as simulator:
        yield simulator

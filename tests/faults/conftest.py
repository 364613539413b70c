"""What the scenes of faults need for themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.scene import own_simulator
from tests.sim.running import Running


@pytest.fixture
def oracle() -> Iterator[Running]:
    """A simulator of the test's own: its journal has what this test sent and nothing else."""
    with own_simulator() as simulator:
        yield simulator

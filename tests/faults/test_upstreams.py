"""F1 to F18 in short; `python -m tests.faults.upstreams` plays them at length."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.upstreams import SCENES, Scene, play, two_simulators
from tests.sim.running import Running


@pytest.fixture(scope="module")
def simulators() -> Iterator[tuple[Running, Running]]:
    """The sick one and the healthy one."""
    with two_simulators() as both:
        yield both


@pytest.mark.parametrize("scene", SCENES, ids=[scene.number for scene in SCENES])
def test_no_promise_is_broken(simulators: tuple[Running, Running], scene: Scene) -> None:
    line, broken = play(*simulators, scene, count=40, seconds=20.0, clients=8)
    assert not broken, line

"""A server as the pages' readers have it: routes of the operator's own on top of a simulated upstream."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.harness import Waypost, provider, serving
from tests.sim.running import Running
from waypost.sim.journal import Exchange

ROUTES = """
[models."route/deepseek-v3.2"]
chain = ["sim/deepseek-chat"]
context = 128000
price = { input = "0.28", output = "0.42", cache_read = "0.028" }

[models."route/down"]
chain = ["sim/status-500", "sim/status-503"]

[models."route/secret"]
chain = ["sim/demo"]

[models.gpt-4o-mini]
chain = ["sim/gpt-4o-mini"]

[plans.free]
models = ["route/d*", "gpt-*", "sim/*", "slow/*"]

[providers.slow]
base_url = "BASE"
keys = ["upstream-secret"]
timeouts = { first_byte = 0.3 }
"""


@pytest.fixture(scope="session")
def gateway(simulator: Running) -> Iterator[Waypost]:
    """`route/deepseek-v3.2`, `gpt-4o-mini` and `sim/NAME` answer; the key's plan leaves `route/secret` out."""
    with serving(provider("sim", simulator.base) + ROUTES.replace("BASE", simulator.base)) as waypost:
        yield waypost


@pytest.fixture
def mark() -> str:
    """Put it into a question, and the upstream's journal finds it again."""
    return "nonce:" + secrets.token_hex(8)


@pytest.fixture
def arrived(simulator: Running) -> Callable[[str], Exchange]:
    """What the upstream received in the request whose question had this mark."""
    return simulator.exchange

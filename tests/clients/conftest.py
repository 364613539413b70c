"""A server as the pages' readers have it: routes of the operator's own on top of a simulated upstream."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.harness import Waypost, provider, serving
from tests.sim.running import Running
from waypost.config import load
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey
from waypost.preset_messages import CreatePreset, PresetRecord
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

[plans.two]
requests = { day = 2, minute = 100 }

[plans.cents]
spend = { day = "0.0005" }

[jwt]
secret = "a secret of the tests, long enough for HS256"
plan_claim = "plan"
create_accounts = true

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


@pytest.fixture(scope="session")
def key_on(gateway: Waypost) -> Callable[[str], str]:
    """A key on a plan, of an account of its own."""

    def create(plan: str) -> str:
        settings = load(gateway.folder / "waypost.toml")
        account = f"{plan}-{secrets.token_hex(4)}"
        created = asyncio.run(administer(gateway.folder / "data", settings, CreateKey(account, plan)))
        assert isinstance(created, CreatedKey), created
        return created.key

    return create


PRESET = b'{"model":"gpt-4o-mini","system_prompt":"Answer as a pirate.","params":{"seed":7,"temperature":0.3}}'


@pytest.fixture(scope="session")
def preset(gateway: Waypost) -> str:
    """The slug of a preset of the key's account: a model, a system prompt and parameters."""
    settings = load(gateway.folder / "waypost.toml")
    message = CreatePreset("tests", "pirate", "Pirate", "private", PRESET)
    created = asyncio.run(administer(gateway.folder / "data", settings, message))
    assert isinstance(created, PresetRecord), created
    return created.slug


@pytest.fixture
def mark() -> str:
    """Put it into a question, and the upstream's journal finds it again."""
    return "nonce:" + secrets.token_hex(8)


@pytest.fixture
def arrived(simulator: Running) -> Callable[[str], Exchange]:
    """What the upstream received in the request whose question had this mark."""
    return simulator.exchange

"""The servers of this folder's tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.harness import Waypost, provider, serving
from tests.http.upstream import Upstream, upstream
from tests.sim.running import Running

MAX_BODY = 1024 * 1024
ORIGIN = "https://app.example"


@pytest.fixture(scope="session")
def scripted() -> Iterator[Upstream]:
    """An upstream that sends what a test puts into `scripts`."""
    with upstream() as running:
        yield running


@pytest.fixture(scope="session")
def gateway(simulator: Running, scripted: Upstream) -> Iterator[Waypost]:
    """One worker in front of several upstreams: see the providers' lines."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed_port = taken.getsockname()[1]
    brisk = "{ connect = 2, first_byte = 0.4, idle = 0.4, total = 3 }"
    tables = [
        f'[server]\nmax_body = "{MAX_BODY}"\ncors = ["{ORIGIN}"]\n',
        provider("sim", simulator.base),
        provider("brisk", simulator.base, timeouts=brisk),
        provider("raw", scripted.base()),
        provider("narrow", scripted.base(), connections="2", timeouts="{ connect = 20 }"),
        provider("lone", scripted.base(), idle="30"),
        provider("closed", f"http://127.0.0.1:{closed_port}/v1"),
        provider("nowhere", "http://nowhere.invalid/v1"),
    ]
    with serving("".join(tables)) as waypost:
        yield waypost

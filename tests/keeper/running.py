"""A keeper in its own process, for tests of it and of what talks to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from waypost.config import Config, Plan, Secret, Store
from waypost.keeper.direct import administer
from waypost.messages import AnyMessage, CreatedKey, CreateKey

# The keeper stops when its standard input ends, so none outlives the tests, however these end.
SCRIPT = """
import pathlib, sys
from tests.keeper.running import settings_of
from waypost.keeper.app import run_keeper
settings = settings_of(sys.argv[3:], sys.argv[2])
run_keeper(pathlib.Path(sys.argv[1]), settings, parent=0, on_ready=lambda: print("ready", flush=True))
"""


def settings_of(plans: Sequence[str] = ("free", "max"), database: str = "sqlite") -> Config:
    """A configuration of plans without limits."""
    return Config(store=Store(database=Secret(database)), plans={name: Plan() for name in plans})


class RunningKeeper:
    """A keeper's process on the folder `data`."""

    def __init__(
        self,
        data: pathlib.Path,
        plans: Sequence[str] = ("free", "max"),
        environment: Mapping[str, str] | None = None,
        database: str = "sqlite",
    ) -> None:
        self.data = data
        self.database = database
        self.plans = plans
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[str] | None = None

    def spawn(self) -> subprocess.Popen[str]:
        """Start the process and return at once."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(self.data), self.database, *self.plans],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        return self.process

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        process = self.spawn()
        assert process.stdout.readline() == "ready\n", process.communicate()[1]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End the process; its exit code and standard error."""
        self.process.send_signal(how)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors

    async def ask(self, message: AnyMessage) -> AnyMessage:
        """What a command gets for `message`."""
        return await administer(self.data, settings_of(self.plans, self.database), message)

    async def create_key(self, account: str = "ann", plan: str = "free") -> CreatedKey:
        """A new key, which must succeed."""
        created = await self.ask(CreateKey(account, plan))
        assert isinstance(created, CreatedKey), created
        return created


@contextlib.contextmanager
def data_folder() -> Iterator[pathlib.Path]:
    """A data folder that is yet to be made, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="waypost-") as parent:
        yield pathlib.Path(parent) / "data"


@contextlib.contextmanager
def running_keeper(
    plans: Sequence[str] = ("free", "max"),
    environment: Mapping[str, str] | None = None,
    database: str = "sqlite",
) -> Iterator[RunningKeeper]:
    """A keeper that is ready, on a fresh data folder."""
    with data_folder() as data:
        keeper = RunningKeeper(data, plans, environment, database)
        keeper.start()
        try:
            yield keeper
        finally:
            if keeper.process.poll() is None:
                keeper.stop()


async def until(condition, seconds: float = 30.0) -> None:
    """Wait for `condition()` to become true, generously."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)

"""The keeper's process: how it starts, refuses to start, and stops."""

import asyncio
import signal
import socket
import sqlite3
import stat
import subprocess
import sys

import pytest

from tests.keeper.running import RunningKeeper, data_folder, running_keeper, settings_of
from waypost.keeper.app import CANNOT_START
from waypost.keeper.direct import administer
from waypost.keeper.folder import database_path, lock_path, taken
from waypost.link import MAX_SOCKET_PATH, http_socket_path, is_too_long, socket_path
from waypost.messages import CreateAccount, Failed, ListKeys


def outcome(keeper: RunningKeeper) -> tuple[int, str]:
    """How a keeper that is expected not to start ends."""
    _, errors = keeper.spawn().communicate(timeout=60)
    return keeper.process.returncode, errors


def test_only_the_owner_may_connect():
    with running_keeper() as keeper:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in keeper.data.iterdir()}
        assert modes.pop("keeper.sock") == modes.pop("keeper.lock") == 0o600
        assert modes.pop("journal") == 0o700
        assert set(modes.values()) == {0o600}
        assert stat.S_IMODE(keeper.data.stat().st_mode) == 0o700
        assert lock_path(keeper.data).read_text() == f"{keeper.process.pid}\n"


def test_it_stops_on_both_signals_and_leaves_neither_socket_nor_log():
    for how in (signal.SIGTERM, signal.SIGINT):
        with running_keeper() as keeper:
            assert keeper.stop(how) == (0, "")
            assert sorted(path.name for path in keeper.data.iterdir()) == [
                "host",
                "journal",
                "keeper.lock",
                "waypost.db",
            ]


def test_it_stops_when_its_parent_is_gone():
    with running_keeper() as keeper:
        keeper.process.stdin.close()
        assert keeper.process.wait(timeout=30) == 0
        assert not socket_path(keeper.data).exists()


def test_what_the_parent_writes_does_not_stop_it():
    with running_keeper() as keeper:
        keeper.process.stdin.write("hello")
        keeper.process.stdin.flush()
        assert not isinstance(asyncio.run(keeper.ask(ListKeys())), Failed)
        assert keeper.process.poll() is None


def test_a_second_keeper_does_not_start():
    with running_keeper() as keeper:
        code, errors = outcome(RunningKeeper(keeper.data))
        assert code == CANNOT_START
        assert errors == f"waypost keeper: {keeper.data} is in use by process {keeper.process.pid}\n"
        assert not isinstance(asyncio.run(keeper.ask(ListKeys())), Failed), "the first goes on"


def test_a_killed_keeper_leaves_a_socket_that_the_next_one_replaces():
    with running_keeper() as keeper:
        created = asyncio.run(keeper.create_key())
        keeper.stop(signal.SIGKILL)
        assert socket_path(keeper.data).exists()
        keeper.start()
        assert [row.id for row in asyncio.run(keeper.ask(ListKeys())).rows] == [created.id]


def test_it_waits_for_a_command_that_holds_the_folder():
    with data_folder() as data:
        keeper = RunningKeeper(data)

        async def run():
            async with taken(data, patience=0):
                process = keeper.spawn()
                line = asyncio.get_running_loop().run_in_executor(None, process.stdout.readline)
                await asyncio.sleep(1.0)
                assert not line.done() and not database_path(data).exists()
            return await line

        assert asyncio.run(run()) == "ready\n"
        assert keeper.stop() == (0, "")


def test_a_path_too_long_for_a_socket():
    with data_folder() as data:
        room = MAX_SOCKET_PATH - len(bytes(http_socket_path(data))) - 1
        fits, over = data / ("x" * room), data / ("x" * (room + 1))
        assert not is_too_long(http_socket_path(fits)) and is_too_long(http_socket_path(over))
        keeper = RunningKeeper(fits)
        keeper.start()
        keeper.stop()
        code, errors = outcome(RunningKeeper(over))
        assert code == CANNOT_START
        assert f"longer than the {MAX_SOCKET_PATH} bytes of a UNIX socket: {http_socket_path(over)}" in errors
        # The limit is the operating system's, not ours.
        with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="too long"):
            probe.connect(str(http_socket_path(over)))


def test_a_newer_database():
    with data_folder() as data:
        asyncio.run(administer(data, settings_of(["free"]), CreateAccount("ann")))
        with sqlite3.connect(database_path(data)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.close()
        code, errors = outcome(RunningKeeper(data))
        assert code == CANNOT_START
        assert errors.count("\n") == 1 and "its schema is 9999" in errors
        assert not socket_path(data).exists()


def test_a_folder_that_is_a_file():
    with data_folder() as data:
        data.write_text("")
        code, errors = outcome(RunningKeeper(data))
        assert (code, errors.count("\n")) == (CANNOT_START, 1)
        assert str(data) in errors


def test_a_start_on_a_current_database_does_not_import_alembic():
    script = """
import pathlib, sys
from waypost.config import Config
from waypost.keeper.app import run_keeper
def ready():
    print("alembic" in sys.modules, flush=True)
run_keeper(pathlib.Path(sys.argv[1]), Config(), parent=0, on_ready=ready)
"""
    with data_folder() as data:
        for _ in ("fresh", "existing"):
            command = [sys.executable, "-c", script, str(data)]
            # Standard input is at its end from the beginning: ready, and stopped.
            done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60)
            assert (done.stdout, done.stderr, done.returncode) == ("False\n", "", 0)

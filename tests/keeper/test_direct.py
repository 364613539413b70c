"""Administration from a command, with a keeper and without."""

import asyncio
import sqlite3
import stat
import subprocess
import sys

import pytest

from tests.keeper.running import RunningKeeper, data_folder, running_keeper, settings_of
from waypost.keeper.accounts import PAGE
from waypost.keeper.direct import administer
from waypost.keeper.folder import database_path, lock_path, taken
from waypost.messages import CreateAccount, CreatedKey, CreateKey, Failed, ListAccounts, ListKeys, RevokeKey


def ask(data, *messages, plans=("free", "max")):
    async def run():
        return [await administer(data, settings_of(plans), message) for message in messages]

    return asyncio.run(run())


def test_without_a_keeper():
    with data_folder() as data:
        created, listed = ask(data, CreateKey("ann", "free"), ListKeys())
        assert isinstance(created, CreatedKey)
        assert [row.account for row in listed.rows] == ["ann"]
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert stat.S_IMODE(database_path(data).stat().st_mode) == 0o600


def test_what_was_done_without_a_keeper_is_there_with_one_and_the_other_way_round():
    with data_folder() as data:
        (before,) = ask(data, CreateKey("ann", "free"))
        keeper = RunningKeeper(data)
        keeper.start()
        during, listed = ask(data, CreateKey("ann"), ListKeys())
        assert [row.id for row in listed.rows] == [before.id, during.id]
        assert keeper.stop() == (0, "")
        (revoked, listed) = ask(data, RevokeKey(during.key), ListKeys())
        assert [row.revoked_at for row in listed.rows] == [None, revoked.revoked_at]


def test_a_running_keeper_goes_by_its_own_plans():
    with running_keeper(plans=["free"]) as keeper:
        (failed,) = ask(keeper.data, CreateKey("ann", "max"))
        assert failed == Failed("INVALID_REQUEST", "plan 'max' is not in the config; it has: free")


def test_asking_a_running_keeper_does_without_the_database_library():
    with running_keeper() as keeper:
        script = (
            "import asyncio, pathlib, sys\n"
            "from waypost.config import Config\n"
            "from waypost.keeper.direct import administer\n"
            "from waypost.messages import ListKeys\n"
            "answer = asyncio.run(administer(pathlib.Path(sys.argv[1]), Config(), ListKeys()))\n"
            "print(answer, 'sqlalchemy' in sys.modules)"
        )
        command = [sys.executable, "-c", script, str(keeper.data)]
        output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert (output.stdout, output.stderr) == ("KeyRecords(rows=(), after=None) False\n", "")


def test_many_commands_at_once_take_turns():
    with data_folder() as data:

        async def run():
            return await asyncio.gather(*(administer(data, settings_of(["free"]), CreateKey("ann")) for _ in range(8)))

        assert sorted(created.id for created in asyncio.run(run())) == list(range(1, 9))


@pytest.mark.parametrize("with_keeper", [False, True])
def test_lists_are_whole_however_long(with_keeper):
    rows = 2 * PAGE + 1
    with data_folder() as data:
        ask(data, CreateAccount("ann", "free"))
        with sqlite3.connect(database_path(data)) as connection:
            values = ((i, 1, i.to_bytes(32, "big"), f"rk_{i}", "x", "inference", 1) for i in range(1, rows + 1))
            columns = "id, account_id, digest, shown, label, kind, created_at"
            connection.executemany(f"INSERT INTO keys ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            values = ((i, f"account {i}", "free", 0, 1) for i in range(2, rows + 1))
            connection.executemany(
                "INSERT INTO accounts (id, name, plan, disabled, created_at) VALUES (?, ?, ?, ?, ?)", values
            )
        connection.close()
        keeper = RunningKeeper(data)
        if with_keeper:
            keeper.start()
        keys, some, accounts = ask(data, ListKeys("ann"), ListKeys(after=rows - 3), ListAccounts())
        if with_keeper:
            keeper.stop()
        assert [row.id for row in keys.rows] == list(range(1, rows + 1)) and keys.after is None
        assert [row.id for row in some.rows] == [rows - 2, rows - 1, rows]
        assert [row.id for row in accounts.rows] == list(range(1, rows + 1))
        assert accounts.rows[0].keys == rows


def test_a_command_waits_for_the_one_before_it():
    with data_folder() as data:

        async def run():
            async with taken(data, patience=0):
                command = asyncio.create_task(administer(data, settings_of(["free"]), CreateKey("ann")))
                await asyncio.sleep(0.1)
                assert not command.done() and not database_path(data).exists()
            return await command

        assert isinstance(asyncio.run(run()), CreatedKey)


def test_a_database_that_cannot_be_used_is_said():
    with data_folder() as data:
        ask(data, CreateAccount("ann", "free"))
        database_path(data).write_text("hello " * 1000)
        (failed,) = ask(data, ListKeys())
        assert failed.code == "UNAVAILABLE" and "file is not a database" in failed.message


def test_a_folder_that_cannot_be_made_is_said():
    with data_folder() as data:
        data.write_text("a file")
        (failed,) = ask(data, ListKeys())
        assert failed.code == "UNAVAILABLE" and str(data) in failed.message


def test_a_key_that_no_frame_can_carry_is_said():
    with running_keeper() as keeper:
        (failed,) = ask(keeper.data, RevokeKey("\udcff"))
        assert failed.code == "UNAVAILABLE" and "not Unicode" in failed.message


def test_a_path_too_long_for_a_socket_does_not_keep_a_command_from_working():
    with data_folder() as data:
        (created,) = ask(data / ("x" * 120), CreateKey("ann", "free"))
        assert isinstance(created, CreatedKey)
        assert lock_path(data / ("x" * 120)).exists()

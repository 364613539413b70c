"""`waypost ledger verify`: books that are right, and every way in which they can be made wrong."""

import asyncio
import subprocess
import sys

import pytest
from sqlalchemy import delete, insert, update

from tests.keeper.journaling import (
    HOST,
    NOON,
    Writer,
    empty_folder,
    engines,
    id_of,
    ledger_on,
    opened,
    request,
    settled,
)
from tests.keeper.running import RunningKeeper, settings_of
from waypost.keeper.direct import administer
from waypost.keeper.store.tables import attempts, days, holdings, meters, prices, requests
from waypost.keeper.verify import SHOWN, verify
from waypost.messages import Difference, Verified, VerifyLedger
from waypost.records import Attempted, Priced

NOW = NOON / 1000 + 3600
METER = "a7:requests:day:2026-11-22"
WHERE = "account 7, key 70, 2026-11-22, route/x, lab"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, postgres):
    with engines(postgres) as url_of:
        yield url_of(request.param)


def written(writer):
    """Some of everything."""
    writer.write(Priced("abcdef012345", b"{}"))
    for number in range(5):
        writer.write(*request(number))
    writer.write(opened(5), Attempted(id_of(5), 1, NOON, "lab", "x", "UPSTREAM_ERROR", 500, 3))
    writer.write(*request(6, account=8), opened(7, account=8))


def differences(url, *statements, retention=0, now=NOW):
    """What is found in good books after `statements`; good books are found to be good first."""

    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                written(writer)
                assert await ledger.catch_up(30)
                async with database.writing() as connection:
                    await connection.execute(
                        insert(meters).values(name=METER, taken=50, granted=50, ends=int(NOW) + 9999)
                    )
                    values = {"holder": HOST, "meter": METER, "granted": 50, "spent": 0, "recalled": False}
                    await connection.execute(insert(holdings).values(values))
                good = await verify(database, retention, now)
                assert good == Verified(8, 2, 1, 2, 8, (), 0), good
                async with database.writing() as connection:
                    for statement in statements:
                        await connection.execute(statement)
                found = await verify(database, retention, now)
                assert found.found == len(found.differences)
                return found.differences

    with empty_folder() as data:
        return asyncio.run(run(data))


def test_a_deleted_row_is_missed_by_its_day_and_its_meters(url):
    found = differences(url, delete(requests).where(requests.c.id == id_of(3).decode()))
    assert Difference("a day's requests", WHERE, "5", "4") in found
    assert Difference("a day's cost", WHERE, "6170", "4936") in found
    assert Difference("units spent", METER, "6", "5") in found
    assert Difference("units spent", "a7:spend:month:2026-11", "7670", "6436") in found
    assert {each.what for each in found} == {
        "units spent",
        *(
            f"a day's {name}"
            for name in ("requests", "prompt", "cache_read", "completion", "reasoning", "cost", "saved")
        ),
    }


def test_an_invented_row_is_noticed(url):
    row = {"account_id": 9, "key_id": 90, "at": NOON, "plan": "p", "model": "m", "stream": False, "estimate": 1}
    row |= {"holds": b"\x90", "estimated_cost": 0, "journal": "1-0", "id": id_of(99).decode(), "status": None}
    (found,) = differences(url, insert(requests).values(row))
    assert found == Difference("an open request", id_of(99).decode(), "open", "journal 1-0 is closed")


@pytest.mark.parametrize("name", [column.name for column in days.columns][5:])
def test_a_changed_sum_is_noticed(postgres, name):
    statement = update(days).where(days.c.account_id == 7).values({name: days.c[name] + 1})
    (found,) = differences("sqlite", statement)
    assert (found.what, found.where) == (f"a day's {name}", WHERE) and int(found.stored) == int(found.counted) + 1


def test_a_day_that_is_gone_and_one_that_nobody_had(url):
    found = differences(url, delete(days).where(days.c.account_id == 8))
    assert Difference("a day's requests", WHERE.replace("7", "8"), "0", "1") in found
    sums = dict.fromkeys([column.name for column in days.columns][5:], 0) | {"cost": 5}
    key = {"account_id": 7, "day": "2026-11-21", "key_id": 70, "model": "m", "provider": ""}
    found = differences("sqlite", insert(days).values(key | sums))
    assert found == (Difference("a day's cost", "account 7, key 70, 2026-11-21, m, no provider", "5", "0"),)


def test_a_meter_that_moved_by_itself(url):
    (found,) = differences(url, update(meters).values(taken=51))
    assert found == Difference("units taken by hosts", METER, "51", "50")


def test_a_host_that_has_what_nobody_gave_it():
    (found,) = differences("sqlite", update(holdings).where(holdings.c.holder == HOST).values(granted=60))
    assert found == Difference("units taken by hosts", METER, "50", "60")


def test_units_that_nobody_spent(url):
    (found,) = differences(url, update(holdings).where(holdings.c.holder == HOST).values(spent=3))
    assert found == Difference("units spent", METER, "9", "6")


def test_an_attempt_without_a_request_and_a_price_without_terms(url):
    found = differences(url, update(attempts).values(request_id=id_of(98).decode()), delete(prices))
    assert [each.what for each in found] == ["an attempt", "a price"]
    assert found[0].where == f"{id_of(98).decode()}, attempt 1" and found[1].where == "abcdef012345"


def test_what_has_been_deleted_for_its_age_is_not_missed(url):
    """A day and a month later, with rows kept for ten days: nothing of that day can be counted."""
    old = delete(requests)
    assert differences("sqlite", old, delete(attempts), retention=10, now=NOW + 9 * 86_400) != ()

    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                writer.write(*request(1), opened(2, holds=(("a7:balance:total", 1500),)), settled(2))
                assert await ledger.catch_up(30)
                async with database.writing() as connection:
                    await connection.execute(old)
                return await verify(database, 10, NOW + 12 * 86_400)

    with empty_folder() as data:
        found = asyncio.run(run(data))
    assert found.differences == (), "the total's window began before the oldest row"


def test_many_differences_are_counted_and_some_are_told():
    rows = [{"request_id": id_of(number).decode(), "number": 9} for number in range(100, 100 + SHOWN + 50)]
    rest = {"at": 1, "provider": "", "model": "", "code": "", "status": 0, "milliseconds": 0}

    async def run(data):
        async with ledger_on(data) as (_, database):
            async with database.writing() as connection:
                await connection.execute(insert(attempts), [row | rest for row in rows])
            return await verify(database, 0, NOW)

    with empty_folder() as data:
        found = asyncio.run(run(data))
    assert (found.found, len(found.differences)) == (SHOWN + 50, SHOWN)


# The command


def command(data, url):
    config = data.with_suffix(".toml")
    config.write_text(f'[store]\ndatabase = "{url}"\nretention = 0\n')
    program = [sys.executable, "-c", "from waypost.cli import main; main()"]
    program += ["ledger", "verify", "--config", str(config), "--data", str(data)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_command_with_a_keeper_and_without(url):
    async def spoil(data):
        async with ledger_on(data, url) as (_, database), database.writing() as connection:
            await connection.execute(update(days).values(cost=days.c.cost + 1))

    with empty_folder() as data:
        with Writer(data / "journal") as writer:
            written(writer)
        keeper = RunningKeeper(data, database=url)
        keeper.start()
        code, output = command(data, url)
        assert (code, output) == (
            0,
            "counted 8 requests (0 open), 1 failed attempts, 4 sums of days, 8 meters: nothing differs\n",
        )
        keeper.stop()
        assert command(data, url) == (0, output)
        asyncio.run(spoil(data))
        code, output = command(data, url)
        assert code == 1 and output.endswith(" meters: 4 differences\n")
        first = output.splitlines()[1]
        assert first.split()[:3] == ["a", "day's", "cost"] and first.split()[-2:] == ["901", "900"]
        keeper.start()
        assert command(data, url) == (code, output)
        keeper.stop()


def test_the_database_cannot_be_asked(postgres):
    with empty_folder() as data:
        reply = asyncio.run(
            administer(data, settings_of(database="postgresql://nobody@/nowhere?host=/"), VerifyLedger())
        )
    assert reply.code == "UNAVAILABLE" and "cannot use the database" in reply.message

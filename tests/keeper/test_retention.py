"""What is deleted for its age, and what is not."""

import asyncio
import datetime

import pytest
from sqlalchemy import insert, select

from tests.keeper.journaling import NOON, Writer, columns, empty_folder, engines, id_of, ledger_on, opened, request
from waypost.keeper.retention import EVERY_SECONDS, STEP, Retention, first_id, is_over, window_date
from waypost.keeper.store.tables import attempts, days, holdings, meters, requests
from waypost.records import Attempted

DAY_MS = 86_400_000
NOW = NOON / 1000


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, postgres):
    with engines(postgres) as url_of:
        yield url_of(request.param)


async def count(database, table):
    async with database.reading() as connection:
        return len((await connection.execute(select(table))).all())


async def exhaust(retention, steps=50):
    for _ in range(steps):
        await retention.step()


def test_old_requests_go_with_their_attempts_and_open_ones_and_sums_stay(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                for age in range(6):
                    at = NOON - age * DAY_MS
                    first, last = request(age, at)
                    writer.write(first, Attempted(first.id, 1, at, "lab", "x", "TIMEOUT", 0, 1), last)
                writer.write(opened(9, NOON - 9 * DAY_MS))
                assert await ledger.catch_up(30)
                await exhaust(Retention(database, 0, lambda: NOW, lambda: 0.0))
                assert await count(database, requests) == 7, "0 days: kept for good"
                await exhaust(Retention(database, 3, lambda: NOW + 1, lambda: 0.0))
                kept = [id for (id,) in await columns(database, "id")]
                assert kept == [
                    id_of(number, NOON - age * DAY_MS).decode() for number, age in ((9, 9), (2, 2), (1, 1), (0, 0))
                ]
                assert await count(database, attempts) == 3
                assert await count(database, days) == 6

    with empty_folder() as data:
        asyncio.run(run(data))


def test_it_goes_in_small_steps_and_then_rests(url):
    async def run(data):
        async with ledger_on(data, url) as (_, database):
            rest = {"at": 1, "provider": "", "model": "", "code": "", "status": 0, "milliseconds": 0}
            rows = [{"request_id": id_of(number, 1).decode(), "number": 1} | rest for number in range(2 * STEP + 1)]
            async with database.writing() as connection:
                await connection.execute(insert(attempts), rows)
            clock = [0.0]
            retention = Retention(database, 3, lambda: NOW, lambda: clock[0])
            left = []
            for _ in range(4):
                await retention.step()
                left.append(await count(database, attempts))
            async with database.writing() as connection:
                await connection.execute(insert(attempts), rows[:1])
            await retention.step()
            left.append(await count(database, attempts))
            clock[0] = EVERY_SECONDS
            await retention.step()
            left.append(await count(database, attempts))
            return left

    with empty_folder() as data:
        assert asyncio.run(run(data)) == [STEP + 1, 1, 0, 0, 1, 0]


def test_meters_go_some_time_after_their_window_with_everybody_s_holdings(url):
    names = {
        "a1:requests:minute:2026-11-19T11:00+00:00": False,
        "a1:requests:hour:2026-11-21T11+01:00": True,
        "a1:requests:day:2026-11-19": True,
        "a1:requests:day:2026-10-10": False,
        "a1:spend:month:2026-10": True,
        "a1:spend:month:2026-09": False,
        "a1:balance:total": True,
    }

    async def run(data, in_meters):
        async with ledger_on(data, url) as (_, database):
            async with database.writing() as connection:
                for name in names:
                    date = window_date(name)
                    length = 31 if ":month:" in name else 1
                    ends = 0
                    if date is not None:
                        over = datetime.datetime.combine(date, datetime.time(), datetime.UTC)
                        ends = int((over + datetime.timedelta(days=length)).timestamp())
                    if in_meters:
                        await connection.execute(insert(meters).values(name=name, taken=1, granted=1, ends=ends))
                    for holder in ("host", "1-0"):
                        row = {"holder": holder, "meter": name, "granted": 1, "spent": 1, "recalled": False}
                        await connection.execute(insert(holdings).values(row))
            await exhaust(Retention(database, 3, lambda: NOW, lambda: 0.0))
            async with database.reading() as connection:
                left = (await connection.scalars(select(holdings.c.meter))).all()
                in_store = (await connection.scalars(select(meters.c.name))).all()
            return sorted(left), sorted(in_store)

    kept = sorted(name for name, stays in names.items() if stays)
    with empty_folder() as data:
        assert asyncio.run(run(data, True)) == (sorted([*kept, *kept]), kept)


def test_holdings_of_meters_that_another_store_keeps_go_too():
    async def run(data):
        async with ledger_on(data) as (_, database):
            rows = [
                {"holder": f"{number}-0", "meter": meter, "granted": 0, "spent": 1, "recalled": False}
                for number in range(STEP)
                for meter in ("a1:requests:minute:2026-11-01T10:00+00:00", "a1:requests:minute:2026-11-22T10:00+00:00")
            ]
            async with database.writing() as connection:
                await connection.execute(insert(holdings), rows)
            await exhaust(Retention(database, 3, lambda: NOW, lambda: 0.0))
            async with database.reading() as connection:
                return set((await connection.scalars(select(holdings.c.meter))).all())

    with empty_folder() as data:
        assert asyncio.run(run(data)) == {"a1:requests:minute:2026-11-22T10:00+00:00"}


def test_windows_and_their_dates():
    today = datetime.date(2026, 11, 22)
    assert window_date("a1:requests:month:2026-11") == datetime.date(2026, 11, 1)
    assert window_date("k1:spend:total") is None
    assert not is_over("a1:requests:minute:2026-11-19T23:59-12:00", today)
    assert is_over("a1:requests:minute:2026-11-18T23:59-12:00", today)
    assert not is_over("a1:balance:total", datetime.date(9999, 1, 1))


def test_the_first_id_of_an_instant():
    assert first_id(NOON) <= id_of(0, NOON).decode() < first_id(NOON + 1)
    assert len(first_id(-5)) == 26

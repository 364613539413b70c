"""The ledger: lines in, rows and sums out, on both engines."""

import asyncio
import logging
import os
import zlib

import msgspec
import pytest
from sqlalchemy import insert, select, update

from tests.keeper.journaling import (
    HOST,
    NOON,
    Writer,
    columns,
    empty_folder,
    engines,
    id_of,
    ledger_on,
    opened,
    read_books,
    request,
    settled,
    spent,
)
from tests.keeper.running import until
from waypost import journal_file
from waypost.journal_file import HEADER, render_frame, segment_name
from waypost.keeper.store.tables import days, holdings, journals, requests
from waypost.keeper.verify import verify
from waypost.records import Attempted, Opened, Priced, Settled, Tally, Usage

ENGINES = ("sqlite", "postgresql")
DAY = "2026-11-22"


@pytest.fixture(params=ENGINES)
def url(request, postgres):
    with engines(postgres) as url_of:
        yield url_of(request.param)


def everything():
    """Lines of every kind, in an order that only two journals can make."""
    yield Priced("abcdef012345", b'{"input":280}')
    for number in range(40):
        yield opened(number, account=7 + number % 3, stream=number % 2 == 0)
        if number % 5 == 0:
            yield Attempted(id_of(number), 1, NOON + 5, "lab", "x", "UPSTREAM_ERROR", 503, 4)
            yield Attempted(id_of(number), 2, NOON + 9, "lab", "y", "CONNECT_FAILED", 0, 1)
        if number % 4:
            yield settled(
                number, attempts=1 + number % 3, requests=int(number % 6 != 0), code="" if number % 6 else "BAD"
            )
        if number >= 20 and number % 4 == 0:
            yield settled(number - 20, cost=number, code="CLIENT_GONE", status=499)
    yield Tally(NOON, {"DAILY_REQUEST_LIMIT_EXCEEDED": 3}, 2, 1)


# From lines to rows


def test_an_answer_given_again_is_a_request_of_its_own_that_names_its_source_and_is_counted(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                again = settled(2, provider="", tokens=0, cost=0, price="", usage=Usage(), raw=b"", source=id_of(1))
                writer.write(Priced("abcdef012345", b"{}"), *request(1), opened(2), again)
                assert await ledger.catch_up(30)
                found = (
                    await columns(database, "id", "source", "requests", "tokens", "cost"),
                    await read_books(database),
                )
            await ledger.close_dead()
            return *found, await verify(database, 0, NOON / 1000)

    with empty_folder() as data:
        rows, found, verified = asyncio.run(run(data))
    assert rows == [(id_of(1).decode(), "", 1, 200, 1234), (id_of(2).decode(), id_of(1).decode(), 1, 0, 0)]
    assert [row[4:6] + row[12:14] for row in found["days"]] == [("", 1, 0, 1), ("lab", 1, 1234, 0)]
    assert verified.requests == 2 and verified.differences == ()


def test_one_request_becomes_one_row_a_day_s_sum_and_spent_units(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                writer.write(*request(1))
                assert await ledger.catch_up(30)
                found = await read_books(database)
                assert found["journals"] == [(writer.name, HOST, 1, writer.offset)]
        return writer.name, found

    with empty_folder() as data:
        name, found = asyncio.run(run(data))
    holds = msgspec.msgpack.encode(opened(1).holds)
    usage = msgspec.msgpack.encode(settled(1).usage)
    (row,) = found["requests"]
    assert row[:11] == (id_of(1).decode(), 7, 70, NOON, "free", "route/x", False, holds, 100, 900, name)
    assert row[11:20] == (200, "", "lab", "x-large", 1, 1, 200, 1234, "abcdef012345")
    assert row[20:] == (usage, False, 200, 900, b'{"total_tokens":200}', "", 56)
    assert found["days"] == [(7, DAY, 70, "route/x", "lab", 1, 0, 120, 20, 0, 80, 10, 1234, 0, 56)]
    assert found["holdings"] == [
        (name, "a7:requests:day:2026-11-22", 0, 1, False),
        (name, "a7:spend:month:2026-11", 0, 1234, False),
        (name, "a7:tokens:day:2026-11-22", 0, 200, False),
    ], "a stream is given back"


def test_an_open_request_has_a_row_and_holds_what_it_took_until_it_is_settled(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                writer.write(opened(1), opened(2))
                assert await ledger.catch_up(30)
                assert await columns(database, "status", "cost") == [(None, None)] * 2
                assert ledger.open_requests == 2
                assert (await spent(database))["a7:spend:month:2026-11"] == 3000
                assert (await spent(database))["k70:streams:total"] == 2
                writer.write(settled(2, requests=0, cost=0, tokens=0, code="UPSTREAM_ERROR"), settled(1))
                assert await ledger.catch_up(30)
                assert await columns(database, "status", "cost") == [(200, 1234), (200, 0)]
                assert ledger.open_requests == 0
                return await spent(database), (await read_books(database))["days"]

    with empty_folder() as data:
        units, sums = asyncio.run(run(data))
    assert units == {
        "a7:requests:day:2026-11-22": 1,
        "a7:spend:month:2026-11": 1234,
        "a7:tokens:day:2026-11-22": 200,
    }
    assert sums[0][5:8] == (2, 1, 240)


def test_both_engines_hold_the_same_rows_however_the_lines_were_cut(postgres):
    async def run(data, url, cut):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal", size=4096, token="0" * 16) as writer:
                for number, line in enumerate(everything()):
                    writer.write(line)
                    if number % cut == 0:
                        assert await ledger.catch_up(30)
            await ledger.close_dead()
            return await read_books(database)

    found = []
    with engines(postgres) as url_of:
        for engine in ENGINES:
            for cut in (1, 7, 10_000):
                with empty_folder() as data:
                    found.append(asyncio.run(run(data, url_of(engine), cut)))
    assert len(found[0]["requests"]) == 40 and len(found[0]["attempts"]) == 16
    assert all(len(row) == 27 and row[11] is not None for row in found[0]["requests"])
    for other in found[1:]:
        for table in found[0]:
            assert other[table] == found[0][table], table


def test_listeners_hear_of_every_batch_after_it_is_there(url):
    async def run(data):
        heard = []
        async with ledger_on(data, url) as (ledger, _):
            ledger.on_batch.append(lambda batch: heard.append(("batch", len(batch.settled), len(batch.tallies))))
            ledger.on_spent.append(lambda journal, units: heard.append(("spent", journal, dict(units))))
            ledger.on_closed.append(lambda journal: heard.append(("closed", journal)))
            with Writer(data / "journal") as writer:
                writer.write(*request(1), Tally(NOON, {}, 1, 1))
                assert await ledger.catch_up(30)
                writer.write(opened(2))
            await ledger.close_dead()
        return writer.name, heard

    with empty_folder() as data:
        name, heard = asyncio.run(run(data))
    assert [each for each in heard if each[0] == "batch" and each[1:] != (0, 0)] == [("batch", 1, 1), ("batch", 1, 0)]
    assert heard[-1] == ("closed", name)
    total = {}
    for what, journal, *rest in heard:
        if what == "spent":
            assert journal == name
            for meter, units in rest[0].items():
                total[meter] = total.get(meter, 0) + units
    assert {meter: units for meter, units in total.items() if units} == {
        "a7:requests:day:2026-11-22": 2,
        "a7:spend:month:2026-11": 1234 + 900,
        "a7:tokens:day:2026-11-22": 300,
    }


# The dead


def test_what_a_dead_worker_left_open_is_closed_as_an_estimate(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                writer.write(*request(1), opened(2))
                writer.write(Attempted(id_of(2), 1, NOON, "lab", "x", "UPSTREAM_ERROR", 500, 3))
                assert await ledger.catch_up(30)
                assert ledger.live == [writer.name]
                writer.write(opened(3))
                # Torn: nobody has seen what follows from it. Its last bytes are zeros, as what is not written reads.
                writer.put(render_frame(settled(3))[:-12])
            await ledger.close_dead()
            assert ledger.live == [] and os.listdir(data / "journal") == []
            rows = await columns(
                database, "status", "code", "estimated", "requests", "tokens", "cost", "attempts", "usage"
            )
            return rows, await read_books(database)

    with empty_folder() as data:
        rows, found = asyncio.run(run(data))
    usage = msgspec.msgpack.encode(Usage(fresh=100))
    assert rows[0][:4] == (200, "", False, 1)
    assert rows[1:] == [
        (0, "CRASHED", True, 1, 100, 900, 1, usage),
        (0, "CRASHED", True, 1, 100, 900, 0, usage),
    ]
    assert [row for row in found["holdings"] if row[3]] == [
        (HOST, "a7:requests:day:2026-11-22", 0, 3, False),
        (HOST, "a7:spend:month:2026-11", 0, 1234 + 2 * 900, False),
        (HOST, "a7:tokens:day:2026-11-22", 0, 400, False),
    ]
    assert found["journals"] == []
    assert [row[3:8] for row in found["days"]] == [("route/x", "", 2, 2, 200), ("route/x", "lab", 1, 0, 120)]


def test_a_host_s_row_keeps_what_it_was_granted(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            async with database.writing() as connection:
                row = {
                    "holder": HOST,
                    "meter": "a7:requests:day:2026-11-22",
                    "granted": 50,
                    "spent": 4,
                    "recalled": True,
                }
                await connection.execute(insert(holdings).values(row))
            with Writer(data / "journal") as writer:
                writer.write(*request(1))
            await ledger.close_dead()
            return (await read_books(database))["holdings"][0]

    with empty_folder() as data:
        assert asyncio.run(run(data)) == (HOST, "a7:requests:day:2026-11-22", 50, 5, True)


def test_a_worker_that_lives_is_never_swept(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as alive, Writer(data / "journal", 2) as dead:
                alive.write(opened(1))
                dead.write(opened(2))
                dead.die()
                await ledger.close_dead()
                assert await columns(database, "code") == [(None,), ("CRASHED",)]
                alive.write(settled(1))
                assert await ledger.catch_up(30)
                assert await columns(database, "code") == [("",), ("CRASHED",)]

    with empty_folder() as data:
        asyncio.run(run(data))


def test_an_old_journal_of_a_dead_worker_is_read_from_where_the_books_are(url):
    """Nothing depends on what a keeper remembers: each line is given to a keeper of its own."""

    async def run(data):
        with Writer(data / "journal", size=2048) as writer:
            for line in everything():
                writer.write(line)
                async with ledger_on(data, url) as (ledger, _):
                    assert await ledger.catch_up(30)
        async with ledger_on(data, url) as (ledger, database):
            await ledger.close_dead()
            rows = await columns(database, "code", "attempts")
            return rows, (await read_books(database))["days"], os.listdir(data / "journal")

    with empty_folder() as data:
        rows, sums, files = asyncio.run(run(data))
    assert len(rows) == 40 and files == []
    assert sum(row[5] for row in sums) == 40
    assert sorted(attempts for code, attempts in rows if code == "CRASHED") == [0, 0, 0, 0, 2]


# Files


def test_segments_that_are_in_the_books_are_deleted_and_the_last_one_stays(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal", size=2048) as writer:
                for number in range(100):
                    writer.write(*request(number))
                assert writer.number > 10
                assert await ledger.catch_up(30)
                left = sorted(os.listdir(data / "journal"))
                assert left == [segment_name(writer.name, writer.number), f"{writer.name}.alive"]
                assert len(await columns(database, "id")) == 100

    with empty_folder() as data:
        asyncio.run(run(data))


def test_a_line_longer_than_what_is_read_at_once(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal", size=2 << 20) as writer:
                writer.write(*request(1), opened(2), settled(2, raw=b"x" * 900_000), *request(3))
                assert await ledger.catch_up(30)
                return [len(raw) for (raw,) in await columns(database, "raw")]

    with empty_folder() as data:
        assert asyncio.run(run(data)) == [20, 900_000, 20]


def test_a_line_that_is_being_written_is_waited_for(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                frame = b"".join(map(render_frame, request(1)))
                for cut in (3, 20, len(frame) - 1):
                    writer.put(frame[:cut])
                    writer.offset -= cut
                    assert await ledger.catch_up(30)
                writer.put(frame)
                assert await ledger.catch_up(30)
                assert await columns(database, "code") == [("",)]
                assert ledger.faults == 0

    with empty_folder() as data:
        asyncio.run(run(data))


def test_damage_loses_the_rest_of_one_segment_and_says_so(url, caplog):
    async def run(data):
        with Writer(data / "journal", size=2048) as writer:
            for number in range(20):
                writer.write(*request(number))
            path = data / "journal" / segment_name(writer.name, 2)
            content = bytearray(path.read_bytes())
            content[HEADER + 20] ^= 1
            path.write_bytes(content)
            async with ledger_on(data, url) as (ledger, database):
                assert await ledger.catch_up(30)
                rows = await columns(database, "id")
                assert ledger.faults < 4
                return len(rows)

    with empty_folder() as data, caplog.at_level(logging.ERROR):
        assert 12 <= asyncio.run(run(data)) < 20
    assert "is damaged at byte 64; what follows in it is lost" in caplog.text


def test_missing_segments_are_said_and_the_rest_is_read(url, caplog):
    async def run(data):
        with Writer(data / "journal", size=2048) as writer:
            writer.write(*request(1))
            async with ledger_on(data, url) as (ledger, _):
                assert await ledger.catch_up(30)
            for number in range(2, 60):
                writer.write(*request(number))
            for segment in (1, 2):
                (data / "journal" / segment_name(writer.name, segment)).unlink()
            async with ledger_on(data, url) as (ledger, database):
                assert await ledger.catch_up(30)
                return len(await columns(database, "id"))

    with empty_folder() as data, caplog.at_level(logging.ERROR):
        assert 40 < asyncio.run(run(data)) < 59
    assert "segments before 3 are missing, their lines are lost" in caplog.text


def test_a_line_of_a_newer_version_stops_the_books_and_is_said(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            said = []
            ledger.on_state.append(said.append)
            with Writer(data / "journal") as writer:
                payload = msgspec.msgpack.encode([99, "from the future"])
                frame = journal_file.PAIR.pack(len(payload), zlib.crc32(payload)) + payload
                writer.write(*request(1))
                writer.put(frame)
                writer.write(*request(2))
                assert await ledger.catch_up(30)
                assert len(await columns(database, "id")) == 1
                return said, ledger.why_not_ready

    with empty_folder() as data:
        said, why_not = asyncio.run(run(data))
    assert said == [why_not] and "a line of another version of Waypost" in why_not


# Contradictions


def test_a_duplicate_is_an_error_and_counted_once(url, caplog):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as first, Writer(data / "journal", 2) as second:
                first.write(*request(1), *request(2), opened(3))
                assert await ledger.catch_up(30)
                first.write(opened(3), *request(4), *request(4))
                second.write(*request(2), opened(1), opened(3), *request(5), settled(3))
                assert await ledger.catch_up(30)
                first.write(settled(3), settled(3), Attempted(id_of(9), 1, NOON, "", "", "", 0, 0))
                assert await ledger.catch_up(30)
                faults = ledger.faults
            await ledger.close_dead()
            return faults, await columns(database, "id", "journal"), await spent(database), await read_books(database)

    with empty_folder() as data, caplog.at_level(logging.ERROR):
        faults, rows, units, found = asyncio.run(run(data))
    assert [id for id, _ in rows] == [id_of(number).decode() for number in (1, 2, 3, 4, 5)]
    assert units["a7:requests:day:2026-11-22"] == 5 == sum(row[5] for row in found["days"])
    assert faults == caplog.text.count("a line is not in the books") == 10
    assert f"{id_of(2).decode()} of journal" in caplog.text and "was opened before" in caplog.text


def test_a_row_that_somebody_deleted_is_told_of_and_stops_nothing(url, caplog):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                writer.write(opened(1), opened(2))
                assert await ledger.catch_up(30)
                async with database.writing() as connection:
                    await connection.execute(requests.delete().where(requests.c.id == id_of(1).decode()))
                writer.write(settled(1), settled(2))
                assert await ledger.catch_up(30)
                return await columns(database, "id", "code")

    with empty_folder() as data, caplog.at_level(logging.ERROR):
        assert asyncio.run(run(data)) == [(id_of(2).decode(), "")]
    assert "1 requests were settled whose open rows somebody has deleted" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        opened(1, model="m" * 300),
        opened(1, model="m\0m"),
        opened(1, plan="p" * 101),
        opened(1, plan="p\0"),
        opened(1, estimate=2**63),
        opened(1, holds=(("a7:spend:month:2026-11\0" + "x" * 200, 2**64 - 1),)),
    ],
    ids=lambda line: repr(line)[-40:],
)
def test_no_value_stops_the_books(url, line):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                writer.write(line, settled(1, tokens=2**63, provider="\0", status=2**40), *request(2))
                assert await ledger.catch_up(30)
                return await columns(database, "id", "code")

    with empty_folder() as data:
        assert asyncio.run(run(data)) == [(id_of(1).decode(), ""), (id_of(2).decode(), "")]


def test_another_keeper_that_moves_the_same_journal_is_noticed(url):
    async def run(data):
        async with ledger_on(data, url) as (ledger, database):
            with Writer(data / "journal") as writer:
                writer.write(*request(1))
                assert await ledger.catch_up(30)
                async with database.writing() as connection:
                    await connection.execute(update(journals).values(offset=HEADER))
                writer.write(*request(2))
                assert not await ledger.catch_up(0.5)
                assert len(await columns(database, "id")) == 1
                async with database.writing() as connection:
                    await connection.execute(update(journals).values(offset=ledger._followed[writer.name].position[1]))
                await until(lambda: ledger.open_requests == 0 and not ledger._failing_since)
                assert await ledger.catch_up(30)
                return len(await columns(database, "id"))

    with empty_folder() as data:
        assert asyncio.run(run(data)) == 2


# Several hosts


def test_hosts_on_one_database_leave_each_other_s_journals_alone(postgres):
    async def run(url):
        with empty_folder() as one, empty_folder() as two:
            async with ledger_on(one, url, "1" * 16) as (first, database), ledger_on(two, url, "2" * 16) as (second, _):
                with Writer(one / "journal") as writer, Writer(two / "journal") as other:
                    writer.write(*request(1), opened(2))
                    other.write(*request(3, account=8), opened(4, account=8))
                    await asyncio.gather(first.catch_up(30), second.catch_up(30))
                    writer.die()
                    await asyncio.gather(first.close_dead(), second.close_dead())
                    assert await columns(database, "code") == [("",), ("CRASHED",), ("",), (None,)]
                    async with ledger_on(one, url, "1" * 16) as (again, _):
                        await again.close_dead()
                        assert await columns(database, "code") == [("",), ("CRASHED",), ("",), (None,)]

    with postgres.fresh() as url:
        asyncio.run(run(url))


def test_hosts_that_add_to_the_same_sums_lose_nothing(postgres):
    async def run(url):
        async def one_host(number):
            with empty_folder() as data:
                async with ledger_on(data, url, str(number) * 16) as (ledger, _):
                    with Writer(data / "journal") as writer:
                        for each in range(60):
                            writer.write(*request(number * 1000 + each, account=7 + each % 5))
                            if each % 3 == 0:
                                assert await ledger.catch_up(30)
                    await ledger.close_dead()

        await asyncio.gather(*(one_host(number) for number in range(4)))
        with empty_folder() as data:
            async with ledger_on(data, url) as (_, database):
                async with database.reading() as connection:
                    sums = (await connection.execute(select(days.c.account_id, days.c.requests))).all()
                return sorted(map(tuple, sums)), await spent(database)

    with postgres.fresh() as url:
        sums, units = asyncio.run(run(url))
    assert sums == [(account, 48) for account in range(7, 12)]
    assert all(units[f"a{account}:requests:day:2026-11-22"] == 48 for account in range(7, 12))


def test_lines_are_what_they_were_thought_to_be():
    """So that the fixtures above cannot go stale without a word."""
    assert {type(line) for line in everything()} == {Opened, Attempted, Settled, Tally, Priced}

"""The stores of meters compute what `Move.grant` says, each on its own engine, whatever hosts do."""

import asyncio
import contextlib
import pathlib
import random
import tempfile

import pytest

from tests.valkey import running_valkey
from waypost.config import Secret, Store
from waypost.keeper.store import open_database
from waypost.keeper.store.counters import DatabaseCounters, open_counters
from waypost.keeper.store.valkey import ValkeyCounters
from waypost.policy.leases import NO_MORE, Move

METERS = [f"a{number}:requests:day:2099-11-22" for number in range(3)]


class Model:
    """Forty lines that say it all."""

    def __init__(self):
        self.taken = dict.fromkeys(METERS, 0)
        self.held = {}
        self.recalled = {}

    def move(self, host, move):
        granted = move.grant(self.taken[move.meter])
        change = move.owed - move.back + granted
        self.taken[move.meter] += change
        self.held[host, move.meter] = self.held.get((host, move.meter), 0) + change
        self.recalled[host, move.meter] = move.is_empty and not granted
        others = [
            name for (name, meter), held in self.held.items() if meter == move.meter and name != host and held > 0
        ]
        holding = {name for name in others if not self.recalled[name, move.meter]}
        return granted, self.taken[move.meter], self.held[host, move.meter], len(others), holding


@contextlib.asynccontextmanager
async def stores(kind, url, hosts):
    """A store as each of the hosts sees it."""
    with tempfile.TemporaryDirectory() as folder, running_valkey() as valkey:
        settings = Store(database=Secret("sqlite" if kind == "sqlite" else url))
        database = await open_database(settings, pathlib.Path(folder))
        try:
            counters = {host: open_counters(settings, database, host)[0] for host in hosts}
            if kind == "valkey":
                counters = {
                    host: ValkeyCounters(valkey.url, host, counters[host].spent, timeout=10.0) for host in hosts
                }
            yield counters
            for each in counters.values():
                await each.close()
        finally:
            await database.close()


def some_move(dice, model, host, meter):
    held = model.held.get((host, meter), 0)
    return Move(
        meter=meter,
        ends=4_098_000_000,
        limit=dice.choice((0, 50, 50, 50, 80, 1 << 52)),
        need=dice.choice((0, 1, 1, 2, 7)),
        share=dice.choice((1, 2, 4, 6, NO_MORE)),
        known=held,
        back=dice.randint(0, held) if held and dice.random() < 0.3 else 0,
        owed=dice.choice((0, 0, 0, 0, 5)),
        is_whole=dice.random() < 0.2,
        is_empty=dice.random() < 0.3,
    )


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "valkey"])
def test_every_store_does_what_the_model_does(kind, postgres):
    dice = random.Random(7)
    hosts = ["h1"] if kind == "sqlite" else ["h1", "h2", "h3"]

    async def run(url):
        model = Model()
        async with stores(kind, url, hosts) as counters:
            for _ in range(150):
                host = dice.choice(hosts)
                moves = [some_move(dice, model, host, meter) for meter in dice.sample(METERS, dice.randint(1, 3))]
                answers = await counters[host].move(moves)
                for move, answer in zip(moves, answers, strict=True):
                    granted, taken, held, others, holding = model.move(host, move)
                    assert (answer.granted, answer.taken, answer.held) == (granted, taken, held)
                    assert (answer.others, set(answer.holding)) == (others, holding)
                if max(model.taken.values()) > 1 << 50:  # nearly nothing would ever be granted again
                    model = Model()
                    for each in METERS:
                        await forget(counters["h1"], each)

    with postgres.fresh() as url:
        asyncio.run(run(url))


async def forget(counters, meter):
    """An administrator deletes a meter."""
    if isinstance(counters, DatabaseCounters):
        from sqlalchemy import delete

        from waypost.keeper.store.tables import holdings, meters

        async with counters._database.writing() as connection:
            await connection.execute(delete(meters).where(meters.c.name == meter))
            await connection.execute(delete(holdings).where(holdings.c.meter == meter))
    else:
        await counters._exchange([("DEL", f"waypost:{meter}")])


@pytest.mark.parametrize("kind", ["postgresql", "valkey"])
def test_many_hosts_at_once(kind, postgres):
    """Every grant is one atomic step: ten of a hundred hosts get a unit, whoever they are."""
    hosts = [f"h{number}" for number in range(40)]

    async def run(url):
        async with stores(kind, url, hosts) as counters:
            moves = [
                counters[host].move([Move(meter, 4_098_000_000, 10, 1, NO_MORE, 0) for meter in METERS])
                for host in hosts
            ]
            answers = await asyncio.gather(*moves)
            for index in range(len(METERS)):
                assert sum(answer[index].granted for answer in answers) == 10
                assert max(answer[index].taken for answer in answers) == 10

    with postgres.fresh() as url:
        asyncio.run(run(url))


@pytest.mark.parametrize("kind", ["postgresql", "valkey"])
def test_hosts_hear_who_is_short(kind, postgres):
    async def run(url):
        async with stores(kind, url, ["h1", "h2"]) as counters:
            heard = {"h1": [], "h2": []}
            listening = [
                asyncio.create_task(each.listen(heard[host].append, lambda _: None)) for host, each in counters.items()
            ]
            async with asyncio.timeout(30):
                while not heard["h2"]:  # until it listens
                    await counters["h1"].call_back(METERS[0])
                    await asyncio.sleep(0.01)
            assert set(heard["h2"]) == {METERS[0]} and heard["h1"] == []
            for task in listening:
                task.cancel()
            await asyncio.wait(listening)

    with postgres.fresh() as url:
        asyncio.run(run(url))

"""Leases on real stores: never over, never early, with many workers, hosts, and things that die."""

import asyncio
import contextlib
import itertools

import pytest

from tests.keeper.metering import DAY, Site, down
from tests.keeper.running import until
from tests.valkey import running_valkey
from waypost.worker.link import KeeperUnavailable

STREAMS = "a1:streams:total"
MONEY = "a1:balance:total"


@pytest.fixture(scope="module")
def valkey():
    with running_valkey() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql", "valkey"])
def open_site(request, postgres, valkey):
    """`open_site(…)` is a fresh site on one of the stores."""
    with postgres.fresh() as url:
        valkey.tell("FLUSHALL")
        yield lambda **settings: Site(request.param, url, valkey.url, **settings)


@pytest.fixture(params=["postgresql", "valkey"])
def open_shared_site(request, postgres, valkey):
    """The same, on a store that hosts may share."""
    with postgres.fresh() as url:
        valkey.tell("FLUSHALL")
        yield lambda **settings: Site(request.param, url, valkey.url, **settings)


async def all_of(futures) -> tuple[int, int]:
    """How many requests were admitted, and how many refused."""
    requests = await asyncio.gather(*futures)
    admitted = [request for request in requests if request is not None]
    return len(admitted), len(requests) - len(admitted)


async def check_sums(site, meter, spent) -> None:
    """At rest, what was taken is what hosts have, and what was spent is what the journals say."""
    taken, granted, in_books = await site.books(meter)
    assert in_books == spent
    if site.kind != "valkey" or ":total" in meter:
        assert taken == granted >= spent


@pytest.mark.parametrize("workers", [1, 4])
def test_two_hundred_at_once_for_ten(open_site, workers):
    async def run():
        async with open_site() as site:
            host = await site.host(workers)
            futures = [host.workers[number % workers].admit(DAY, 10) for number in range(200)]
            assert await all_of(futures) == (10, 190)
            assert await all_of([worker.admit(DAY, 10) for worker in host.workers]) == (0, workers)
            await check_sums(site, DAY, 10)

    asyncio.run(run())


def test_two_hundred_at_once_for_ten_on_two_hosts(open_shared_site):
    async def run():
        async with open_shared_site() as site:
            first, second = await site.host(2), await site.host(2)
            workers = [*first.workers, *second.workers]
            for worker in workers[:3]:
                assert await worker.admit(DAY, 13)
            futures = [workers[number % 4].admit(DAY, 13) for number in range(200)]
            assert await all_of(futures) == (10, 190)
            await check_sums(site, DAY, 13)

    asyncio.run(run())


def test_a_thousand_of_a_thousand_spread_unevenly(open_site):
    async def run():
        async with open_site() as site:
            host = await site.host(4)
            shares = {0: 700, 1: 200, 2: 80, 3: 20}
            for number, share in shares.items():
                for _ in range(share // 20):
                    worker = host.workers[number]
                    assert await all_of([worker.admit(DAY, 1000) for _ in range(20)]) == (20, 0)
            assert [await worker.admit(DAY, 1000) for worker in host.workers] == [None] * 4
            await check_sums(site, DAY, 1000)

    asyncio.run(run())


def test_a_thousand_of_a_thousand_on_two_hosts(open_shared_site):
    async def run():
        async with open_shared_site() as site:
            workers = [*(await site.host(2)).workers, *(await site.host(2)).workers]
            futures = []
            for number, share in enumerate((700, 10, 200, 90)):
                futures += [workers[number].admit(DAY, 1000) for _ in range(share // 2)]
            assert await all_of(futures) == (500, 0)
            for number, share in enumerate((90, 200, 10, 700)):
                for _ in range(share // 10):
                    assert await all_of([workers[number].admit(DAY, 1000) for _ in range(5)]) == (5, 0)
            assert [await worker.admit(DAY, 1000) for worker in workers] == [None] * 4
            await check_sums(site, DAY, 1000)

    asyncio.run(run())


def test_streams_come_back_to_whoever_asks_next(open_shared_site):
    async def run():
        async with open_shared_site() as site:
            first, second = (await site.host(2)).workers, (await site.host(1)).workers
            a, b, c = first[0], first[1], second[0]
            streams = [await a.admit(STREAMS, 4), await b.admit(STREAMS, 4), await c.admit(STREAMS, 4)]
            streams.append(await a.admit(STREAMS, 4))
            assert all(streams)
            for turn in range(12):
                workers = (a, b, c)
                assert await workers[turn % 3].admit(STREAMS, 4) is None
                streams.pop(0).settle()
                streams.append(await workers[(turn + 1) % 3].admit(STREAMS, 4))
                if streams[-1] is None:  # the unit was on its way back from the other host
                    await until_admitted(workers[(turn + 1) % 3], streams)
            for stream in streams:
                stream.settle()
            await check_sums(site, STREAMS, 0)
            streams = await asyncio.gather(*(c.admit(STREAMS, 4) for _ in range(5)))
            assert [stream is None for stream in streams] == [False] * 4 + [True]

    asyncio.run(run())


async def until_admitted(worker, streams):
    async with asyncio.timeout(10):
        while streams[-1] is None:
            await asyncio.sleep(0.01)
            streams[-1] = await worker.admit(STREAMS, 4)


def test_the_keeper_is_restarted_under_its_workers(open_site):
    async def run():
        async with open_site() as site:
            host = await site.host(3)
            used = 0
            for turn in range(4):
                used += (await all_of([worker.admit(DAY, 100) for worker in host.workers for _ in range(turn + 1)]))[0]
                async with down(host):
                    worker = host.workers[turn % 3]
                    lease = worker.lease(DAY, 100)
                    held = min(3, lease.units)
                    assert await all_of([worker.admit(DAY, 100) for _ in range(held)]) == (held, 0), "from what it has"
                    used += held
                    lease.units, units = 0, lease.units
                    with pytest.raises(KeeperUnavailable):
                        await worker.admit(DAY, 100)
                    lease.units = units
            left = 100 - used
            futures = [host.workers[number % 3].admit(DAY, 100) for number in range(left + 10)]
            assert await all_of(futures) == (left, 10)
            await check_sums(site, DAY, 100)

    asyncio.run(run())


def test_what_a_dead_worker_had_is_not_lost(open_site):
    async def run():
        async with open_site() as site:
            host = await site.host(2)
            victim, other = host.workers
            assert await all_of([victim.admit(DAY, 100) for _ in range(7)]) == (7, 0)
            assert victim.lease(DAY, 100).units > 0
            await victim.die()
            assert await all_of([other.admit(DAY, 100) for _ in range(100)]) == (93, 7)
            await check_sums(site, DAY, 100)

    asyncio.run(run())


def test_worker_and_keeper_die_together(open_site):
    async def run():
        async with open_site() as site:
            host = await site.host(2)
            victim, other = host.workers
            assert await all_of([victim.admit(DAY, 100) for _ in range(7)]) == (7, 0)
            assert await all_of([other.admit(DAY, 100) for _ in range(3)]) == (3, 0)
            async with down(host):
                await victim.die()
            newcomer = await host.worker()
            futures = [(other, newcomer)[number % 2].admit(DAY, 100) for number in range(100)]
            assert await all_of(futures) == (90, 10)
            await check_sums(site, DAY, 100)

    asyncio.run(run())


def test_links_are_cut_again_and_again(open_site):
    async def run():
        async with open_site() as site:
            host = await site.host(3)
            admitted = refused = 0

            async def go_on(worker):
                nonlocal admitted, refused
                while refused < 3:
                    try:
                        if await worker.admit(DAY, 400):
                            admitted += 1
                        else:
                            refused += 1
                        await asyncio.sleep(0)
                    except KeeperUnavailable:
                        await asyncio.sleep(0.001)  # the keeper's threads are in this process, too

            async def cut():
                for turn in itertools.count():
                    # Nobody is refused while somebody with units cannot be asked: now and then all must be there.
                    await until(lambda: refused >= 3 or all(worker.link.connected for worker in host.workers))
                    await asyncio.sleep(0.003 * (turn % 4))
                    if refused >= 3:
                        break
                    peer = host.workers[turn % 3].link._peer
                    if peer is not None:
                        peer.abort()

            await asyncio.gather(cut(), *(go_on(worker) for worker in host.workers))
            assert admitted == 400
            await check_sums(site, DAY, 400)

    asyncio.run(run())


def test_limits_that_change(open_site):
    async def run():
        async with open_site() as site:
            host = await site.host(2)
            one, two = host.workers
            assert await one.admit(DAY, 1000)
            assert await two.admit(DAY, 1000)
            for worker in host.workers:  # a new configuration, as `Books.adopt` has it
                worker.leases.return_all()
            assert await all_of([one.admit(DAY, 10) for _ in range(20)]) == (8, 12)
            assert await all_of([two.admit(DAY, 10) for _ in range(3)]) == (0, 3)
            assert await all_of([two.admit(DAY, 12) for _ in range(3)]) == (2, 1)
            await check_sums(site, DAY, 12)

    asyncio.run(run())


def test_money_that_costs_more_than_was_reserved(open_site):
    async def run():
        async with open_site() as site:
            host = await site.host(2)
            one, two = host.workers
            first, second = await one.admit(MONEY, 1000, 300), await two.admit(MONEY, 1000, 300)
            first.settle(cost=100)
            second.settle(cost=850)
            meter = host.meters.meter(MONEY)
            await until(lambda: meter.shares[two.journal.name].total == 850 and meter.free >= 0)
            assert await one.admit(MONEY, 1000, 51) is None
            third = await one.admit(MONEY, 1000, 50)
            third.settle(cost=90)
            assert await two.admit(MONEY, 1000, 1) is None
            assert await two.admit(MONEY, 1041, 1)
            await check_sums(site, MONEY, 1041)

    asyncio.run(run())


def test_requests_that_fail_give_their_unit_back(open_site):
    async def run():
        async with open_site() as site:
            host = await site.host(2)
            one, two = host.workers
            for _ in range(50):
                for worker in host.workers:
                    (await worker.admit(DAY, 3)).settle(requests=0)
            assert await all_of([one.admit(DAY, 3), two.admit(DAY, 3), one.admit(DAY, 3), two.admit(DAY, 3)]) == (3, 1)
            await check_sums(site, DAY, 3)

    asyncio.run(run())


# What it costs


def test_far_from_the_limit_hardly_anyone_is_asked(open_site):
    async def run():
        async with open_site() as site:
            host = await site.host(2)
            for number in range(2000):
                assert await host.workers[number % 2].admit(DAY, 1_000_000)
            assert sum(worker.leases.counted() for worker in host.workers) <= 0.05 * 2000
            assert host.meters.store_calls <= 20

    asyncio.run(run())


def test_a_full_meter_costs_sqlite_no_statement(postgres, valkey):
    async def run():
        async with Site("sqlite", "", "") as site:
            host = await site.host(2)
            assert await all_of([host.workers[0].admit(DAY, 5) for _ in range(6)]) == (5, 1)
            assert await host.workers[1].admit(DAY, 5) is None
            before = host.meters.store_calls
            futures = [host.workers[number % 2].admit(DAY, 5) for number in range(500)]
            assert await all_of(futures) == (0, 500)
            assert host.meters.store_calls == before

    asyncio.run(run())


def test_a_worker_holds_a_bounded_number_of_leases(open_site):
    async def run():
        async with open_site() as site:
            host = await site.host()
            worker, other = await host.worker(capacity=64), await host.worker()
            names = [f"a{number}:requests:day:2099-11-22" for number in range(300)]
            for _ in range(2):
                for name in names:
                    assert await worker.admit(name, 100)
                    assert len(worker.leases) <= 66
            worker.link._peer.abort()
            await until(lambda: not worker.link.connected)
            await until(lambda: worker.link.connected)
            for name in (names[0], names[150], names[299]):
                futures = [(worker, other)[number % 2].admit(name, 100) for number in range(110)]
                assert await all_of(futures) == (98, 12)
                await check_sums(site, name, 100)

    asyncio.run(run())


# Stores that fail


async def refused_for(worker, meter, limit) -> str:
    with pytest.raises(KeeperUnavailable) as caught:
        await worker.admit(meter, limit)
    return str(caught.value)


def test_valkey_is_killed_and_comes_back(postgres, caplog):
    async def run(url, server):
        async with Site("valkey", url, server.url) as site:
            host = await site.host(2)
            one, two = host.workers
            assert await all_of([one.admit(DAY, 100) for _ in range(10)]) == (10, 0)
            server.stop()
            held = one.lease(DAY, 100).units + two.lease(DAY, 100).units + host.meters.meter(DAY).free
            # What the host has is used up first, whoever of its workers has it; then nobody can tell.
            futures = [two.admit(DAY, 100) for _ in range(held)]
            assert await all_of(futures) == (held, 0)
            assert "Valkey cannot be asked" in await refused_for(two, DAY, 100)
            assert "Valkey cannot be asked" in await refused_for(one, DAY, 100)
            assert host.meters.why_not_ready.startswith("limits cannot be taken from Valkey")
            assert await two.admit(MONEY, 5), "the database keeps what is slow and dear"
            server.start()
            await until_asked(one, DAY, 100)
            left = 100 - 10 - held - 1
            futures = [(one, two)[number % 2].admit(DAY, 100) for number in range(left + 5)]
            assert await all_of(futures) == (left, 5), "it had forgotten everything"
            assert host.meters.why_not_ready == ""
            await check_sums(site, DAY, 100)

    with postgres.fresh() as url, running_valkey() as server:
        asyncio.run(run(url, server))
    said = [record.getMessage() for record in caplog.records if "taken from Valkey" in record.getMessage()]
    assert len(said) == 2 and said[1] == "limits are taken from Valkey again", said


async def until_asked(worker, meter, limit):
    async with asyncio.timeout(20):
        while True:
            try:
                assert await worker.admit(meter, limit)
                return
            except KeeperUnavailable:
                await asyncio.sleep(0.05)


def test_valkey_stands_still(postgres, caplog):
    async def run(url, server):
        async with Site("valkey", url, server.url, timeout=0.05) as site:
            host = await site.host(1)
            worker = host.workers[0]
            await until_asked(worker, DAY, 2)
            loop = asyncio.get_running_loop()
            names = [f"a{number}:requests:day:2099-11-22" for number in range(2, 40)]
            server.pause()
            slowest = 0.0
            for name in names:
                began = loop.time()
                assert "Valkey" in await refused_for(worker, name, 10)
                slowest = max(slowest, loop.time() - began)
            assert slowest < 1.0, "each within the deadline, or at once"
            server.go_on()
            await until_asked(worker, names[0], 10)
            futures = [worker.admit(names[0], 10) for _ in range(12)]
            while True:
                outcomes = await asyncio.gather(*futures, return_exceptions=True)
                if not any(isinstance(outcome, KeeperUnavailable) for outcome in outcomes):
                    break
                futures = [worker.admit(names[0], 10) for _ in range(12)]
            assert worker.admitted == 1 + 10, "moves that were in doubt are counted once"

    with postgres.fresh() as url, running_valkey() as server:
        asyncio.run(run(url, server))
    assert len([record for record in caplog.records if "limits cannot be taken" in record.getMessage()]) >= 1


def test_valkey_forgets_its_scripts_and_then_everything(postgres):
    async def run(url, server):
        async with Site("valkey", url, server.url) as site:
            first, second = await site.host(1), await site.host(1)
            one, two = first.workers[0], second.workers[0]
            assert await all_of([one.admit(DAY, 100), two.admit(DAY, 100)]) == (2, 0)
            server.tell("SCRIPT", "FLUSH")
            assert await all_of([one.admit(DAY, 100) for _ in range(48)]) == (48, 0)
            for host in site.hosts:
                assert await host.ledger.catch_up(30)
            server.tell("FLUSHALL")
            # What hosts have spent is in the books; what they have unspent they say when they hear of it.
            unspent = [host.meters.meter(DAY).granted for host in site.hosts][1] - 1
            futures = [(one, two)[number % 2].admit(DAY, 100) for number in range(100)]
            admitted = (await all_of(futures))[0] + 50
            assert 100 <= admitted <= 100 + unspent
            assert await one.admit(DAY, 100) is None and await two.admit(DAY, 100) is None
            await check_sums(site, DAY, admitted)

    with postgres.fresh() as url, running_valkey() as server:
        asyncio.run(run(url, server))


def test_valkey_is_full(postgres):
    async def run(url, server):
        async with Site("valkey", url, server.url) as site:
            host = await site.host(1)
            worker = host.workers[0]
            assert await worker.admit(DAY, 2)
            server.tell("CONFIG", "SET", "maxmemory", "1")
            assert "Valkey cannot be asked" in await refused_for(worker, "a2:requests:day:2099-11-22", 5)
            server.tell("CONFIG", "SET", "maxmemory", "0")
            await until_asked(worker, "a2:requests:day:2099-11-22", 5)

    with postgres.fresh() as url, running_valkey() as server:
        asyncio.run(run(url, server))


@pytest.mark.parametrize("kind", ["postgresql", "valkey"])
def test_the_last_lease_is_bounded(kind, kind_server):
    server, url, valkey_url = kind_server(kind)

    async def run():
        async with Site(kind, url, valkey_url, on_outage="last_lease") as site:
            first, second = await site.host(1), await site.host(1)
            one, two = first.workers[0], second.workers[0]
            assert await one.admit(DAY, 1000) and await two.admit(DAY, 1000)
            admitted = 2
            slices = [500, 125]  # the second's last was of 250, but it heard of 250 that two hosts may want
            assert [host.meters.meter(DAY).slice for host in site.hosts] == [500, 250]
            held = sum(host.meters.meter(DAY).granted for host in site.hosts) - admitted
            server.stop()
            for worker in (one, two):
                while True:
                    try:
                        assert await worker.admit(DAY, 1000), "nobody is refused what nobody can know"
                    except KeeperUnavailable:
                        break
                    admitted += 1
            assert admitted == 2 + held + sum(slices), "one more slice each, and once"
            assert all(host.meters.why_not_ready == "" for host in site.hosts)
            server.start()
            for host in site.hosts:
                await until(lambda host=host: host.meters.meter(DAY).borrowed == 0)
            assert admitted > 1000, "the price of serving on: no more than those slices"
            assert await one.admit(DAY, 1000) is None and await two.admit(DAY, 1000) is None
            assert await one.admit(DAY, admitted) is None and await two.admit(DAY, admitted + 1), "it is settled"
            await check_sums(site, DAY, admitted + 1)

    asyncio.run(run())


@pytest.fixture
def kind_server():
    """Servers of one's own, to be stopped."""
    from tests.postgres import running_postgres

    with contextlib.ExitStack() as stack:

        def start(kind):
            database = stack.enter_context(running_postgres())
            url = stack.enter_context(database.fresh())
            valkey = stack.enter_context(running_valkey())
            return (database if kind == "postgresql" else valkey), url, valkey.url

        yield start


def test_postgres_is_stopped_and_comes_back(kind_server):
    server, url, _ = kind_server("postgresql")

    async def run():
        async with Site("postgresql", url, "") as site:
            host = await site.host(2)
            one, two = host.workers
            assert await all_of([one.admit(DAY, 50), two.admit(DAY, 50)]) == (2, 0)
            server.stop()
            held = host.meters.meter(DAY).granted - 2
            assert await all_of([one.admit(DAY, 50) for _ in range(held)]) == (held, 0)
            assert "the database cannot be asked" in await refused_for(two, DAY, 50)
            server.start()
            await until_asked(two, DAY, 50)
            left = 50 - 2 - held - 1
            assert await all_of([(one, two)[number % 2].admit(DAY, 50) for number in range(50)]) == (left, 50 - left)
            await check_sums(site, DAY, 50)

    asyncio.run(run())

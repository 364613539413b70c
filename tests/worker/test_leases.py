"""A worker's leases: what goes over the link and what comes, and in which order requests go on."""

import asyncio
import gc

import pytest

from waypost.messages import Grant, Granted, Recall, Returned, Take, Want
from waypost.worker import leases as module
from waypost.worker.leases import Leases
from waypost.worker.link import KeeperUnavailable
from waypost.worker.walk import Walk

METER = "a1:requests:day:2026-11-22"
TOKENS = "a1:tokens:day:2026-11-22"
ENDS = 2_000_000_000


class Wire:
    """The link's place: what was pushed, in order."""

    def __init__(self) -> None:
        self.connected = True
        self.pushed: list = []

    def push(self, message) -> None:
        if self.connected:
            self.pushed.append(message)

    def heard(self) -> list:
        pushed, self.pushed = self.pushed, []
        return pushed


class Scene:
    """Leases on a wire, requests that take from them, and the order in which these went on."""

    def __init__(self, capacity: int = 100) -> None:
        self.now = 1_000_000_000.0
        self.wire = Wire()
        self.leases = Leases(lambda: self.now, capacity)
        self.leases.attach(self.wire)
        self.walks: set[Walk] = set()
        self.went: list[str] = []

    def lease(self, meter: str = METER, limit: int = 100):
        return self.leases.lease(meter, limit, ENDS)

    def take(self, name: str, *takes) -> Walk:
        async def run() -> None:
            while not all(lease.units >= units for lease, units in takes):
                try:
                    short = await self.leases.more(takes)
                except KeeperUnavailable as error:
                    self.went.append(f"{name} failed: {error}")
                    return
                if short is not None and any(lease.units < units for lease, units in takes):
                    self.went.append(f"{name} refused")
                    return
            for lease, units in takes:
                lease.units -= units
            self.went.append(name)

        walk = Walk(run(), self.walks)
        walk.go_on()
        return walk

    def grant(self, serial: int, *grants: Granted) -> None:
        self.leases.receive(Grant(serial, grants), self.wire.push)


def scene(test):
    """Run a test inside of a loop."""

    def run():
        async def main():
            test(Scene())

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


@scene
def test_taking_is_subtracting(s):
    lease = s.lease()
    s.take("a", (lease, 1))
    assert s.wire.heard() == [Take(1, (Want(METER, 1, 32, 100, ENDS),))]
    s.grant(1, Granted(METER, 32, 32, 68))
    assert s.went == ["a"] and (lease.units, lease.total, lease.remaining) == (31, 32, 68)
    s.take("b", (lease, 1))
    assert s.went == ["a", "b"] and s.wire.heard() == []
    assert s.leases.counted() == 1 and s.leases.counted() == 0


@scene
def test_who_comes_while_someone_asks_waits_for_the_next_answer_and_keeps_the_order(s):
    lease = s.lease()
    for name in "abcd":
        s.take(name, (lease, 1))
    assert s.wire.heard() == [Take(1, (Want(METER, 1, 32, 100, ENDS),))]
    s.grant(1, Granted(METER, 1, 1, 2))
    assert s.went == ["a"]
    assert s.wire.heard() == [Take(2, (Want(METER, 3, 96, 100, ENDS),))], "b, c and d together"
    s.grant(2, Granted(METER, 2, 3, 0, refused=True))
    assert s.went == ["a", "b", "c", "d refused"]


@scene
def test_a_refusal_is_no_answer_to_who_came_after_the_question(s):
    lease = s.lease()
    s.take("a", (lease, 1))
    s.take("b", (lease, 1))
    s.grant(1, Granted(METER, 0, 0, 0, refused=True))
    assert s.went == ["a refused"]
    s.grant(2, Granted(METER, 1, 1, 0))
    assert s.went == ["a refused", "b"]


@scene
def test_one_of_two_meters_is_full(s):
    requests, tokens = s.lease(), s.lease(TOKENS, 1000)
    s.take("a", (requests, 1), (tokens, 500))
    s.take("b", (tokens, 20))
    assert len(s.wire.heard()) == 1
    s.grant(1, Granted(METER, 5, 5, 95), Granted(TOKENS, 30, 30, 0, refused=True))
    # What a did not get is there for b, who does not have to ask.
    assert s.wire.heard() == [] and s.went == ["a refused", "b"] and tokens.units == 10


@scene
def test_what_is_left_of_other_windows_is_heard_with_every_question(s):
    minute, day = s.lease(), s.lease("a1:requests:month:2026-11")
    s.take("a", (minute, 1), (day, 1))
    s.grant(1, Granted(METER, 1, 1, 2), Granted(day.name, 32, 32, 68))
    s.wire.heard()
    s.take("b", (minute, 1), (day, 1))
    assert s.wire.heard() == [Take(2, (Want(METER, 1, 32, 100, ENDS), Want(day.name, 0, 0, 100, ENDS)))]
    s.grant(2, Granted(METER, 0, 0, 0, refused=True), Granted(day.name, 0, 0, 40))
    assert s.went == ["a", "b refused"] and (day.units, day.total, day.remaining) == (31, 32, 40)
    s.take("c", (minute, 1), (day, 1))
    s.grant(3, Granted(METER, 0, 0, 0, refused=True))  # the keeper need not know
    assert s.went[2:] == ["c refused"] and day.remaining == 40


@scene
def test_other_accounts_do_not_wait(s):
    mine, yours = s.lease(), s.lease("a2:requests:day:2026-11-22")
    s.take("a", (mine, 1))
    s.take("b", (yours, 1))
    assert [take.serial for take in s.wire.heard()] == [1, 2]
    s.grant(2, Granted(yours.name, 1, 1, 0))
    assert s.went == ["b"]


@scene
def test_who_hung_up_is_not_waited_for(s):
    lease = s.lease()
    s.take("a", (lease, 1))
    s.take("b", (lease, 1)).cancel()
    s.take("c", (lease, 1))
    s.wire.heard()
    s.grant(1, Granted(METER, 1, 1, 9))
    assert s.wire.heard() == [Take(2, (Want(METER, 1, 32, 100, ENDS),))], "c alone"
    s.grant(2, Granted(METER, 1, 2, 8))
    assert s.went == ["a", "c"] and not s.walks


@scene
def test_a_failure_is_told_but_units_are_used(s):
    lease = s.lease()
    s.take("a", (lease, 1))
    s.take("b", (lease, 1))
    s.take("c", (lease, 1))
    s.grant(1, Granted(METER, 0, 0, 0, failure="the store is away"))
    assert s.went == ["a failed: the store is away"]
    s.grant(2, Granted(METER, 1, 1, 0, failure="the store is away"))
    assert s.went[1:] == ["b", "c failed: the store is away"]


@scene
def test_the_link_is_lost(s):
    lease = s.lease()
    s.take("a", (lease, 1))
    s.take("b", (lease, 1))
    s.wire.connected = False
    s.leases.lost()
    assert s.went == [f"{name} failed: the keeper went away before it answered" for name in "ab"]
    s.take("c", (lease, 1))
    assert s.went[2] == "c failed: the link to the keeper is down"
    assert s.leases.totals() == [], "nothing is known of what was never heard"
    s.grant(1, Granted(METER, 9, 9, 0))
    assert lease.units == 0, "an answer of the old connection's is nobody's"


def test_patience():
    async def main():
        s = Scene()
        lease = s.lease()
        s.take("a", (lease, 1))
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not s.went:
            await asyncio.sleep(0.01)
        assert s.went == ["a failed: no units in 2 s"]
        assert loop.time() - began >= module.PATIENCE - 0.1
        s.take("b", (lease, 1))
        s.grant(1, Granted(METER, 5, 5, 0))
        assert s.went[1:] == ["b"], "a late answer serves who waits now"

    asyncio.run(main())


@scene
def test_recalled(s):
    lease = s.lease()
    s.take("a", (lease, 1))
    s.grant(1, Granted(METER, 10, 10, 0))
    s.wire.heard()
    s.leases.receive(Recall(7, METER), s.wire.push)
    assert s.wire.heard() == [Returned(7, ((METER, 9),))] and lease.total == 1
    s.leases.receive(Recall(8, METER), s.wire.push)
    s.leases.receive(Recall(9, "a9:requests:total"), s.wire.push)
    assert s.wire.heard() == [Returned(8, ()), Returned(9, ())], "every recall is answered"
    s.leases.settle([(lease, 1)], requests=0, tokens=0, cost=0)
    assert s.wire.heard() == [Returned(0, ((METER, 1),))], "from now on at once"
    s.take("b", (lease, 1))
    s.grant(2, Granted(METER, 2, 2, 0))
    s.leases.give_back(lease, 1)
    assert s.went == ["a", "b"] and lease.units == 2 and len(s.wire.heard()) == 1, "until the next grant"


@scene
def test_recalled_by_the_beginning_of_the_name(s):
    names = ["a1:requests:day:2026-11-22", "a1:tokens:day:2026-11-22", "a17:requests:day:2026-11-22"]
    for serial, name in enumerate(names, 1):
        s.take(name, (s.lease(name), 1))
        s.grant(serial, Granted(name, 3, 3, 0))
    s.wire.heard()
    s.leases.receive(Recall(1, "a1:"), s.wire.push)
    assert s.wire.heard() == [Returned(1, ((names[0], 2), (names[1], 2)))]
    s.leases.receive(Recall(2, ""), s.wire.push)
    assert s.wire.heard() == [Returned(2, ((names[2], 2),))]


@scene
def test_what_is_settled(s):
    names = ("a1:requests:total", "a1:tokens:total", "a1:spend:total", "k1:balance:total", "a1:streams:total")
    taken = []
    for serial, name in enumerate(names, 1):
        lease = s.lease(name, 10_000)
        s.take(name, (lease, 100))
        s.grant(serial, Granted(name, 100, 100, 0))
        taken.append((lease, 100 if serial > 1 else 1))
    s.wire.heard()
    s.leases.settle(taken, requests=1, tokens=40, cost=130)
    assert [lease.units for lease, _ in taken] == [0, 60, 0, 0, 100]
    # What cost more than it had reserved is owned up to at once.
    assert s.wire.heard() == [Returned(0, (("a1:spend:total", -30), ("k1:balance:total", -30)))]
    assert [lease.total for lease, _ in taken] == [100, 100, 130, 130, 100]


@scene
def test_what_comes_back_without_a_link_is_returned_when_there_is_one(s):
    lease = s.lease()
    s.take("a", (lease, 1))
    s.grant(1, Granted(METER, 10, 10, 0))
    s.leases.receive(Recall(1, METER), s.wire.push)
    s.wire.connected = False
    s.leases.lost()
    s.leases.give_back(lease, 1)
    s.wire.heard()
    assert s.leases.totals() == [(METER, 1)] and lease.units == 0
    s.wire.connected = True
    s.leases.linked()
    assert s.wire.heard() == [Returned(0, ((METER, 1),))] and lease.total == 0


@scene
def test_a_lower_limit_sends_units_back(s):
    lease = s.lease()
    s.take("a", (lease, 1))
    s.grant(1, Granted(METER, 10, 10, 90))
    s.wire.heard()
    assert s.lease(limit=200) is lease and s.wire.heard() == []
    assert s.lease(limit=5) is lease and s.wire.heard() == [Returned(0, ((METER, 9),))]
    s.take("b", (lease, 1))
    s.lease(limit=3)
    s.grant(2, Granted(METER, 4, 5, 0))
    assert lease.units == 0 and s.went == ["a"], "they were granted under another limit"
    assert s.wire.heard()[-1] == Take(3, (Want(METER, 1, 32, 3, ENDS),))


@scene
def test_ended_windows_are_forgotten(s):
    lease = s.leases.lease(METER, 10, int(s.now) + 60)
    s.take("a", (lease, 1))
    s.grant(1, Granted(METER, 5, 5, 5))
    s.wire.heard()
    s.now += 120
    s.lease("a1:requests:day:2026-11-23")
    assert len(s.leases) == 1 and s.wire.heard() == [Returned(0, ((METER, 4),))]
    assert s.leases.totals() == [(METER, 1)], "a request still has it"
    s.leases.give_back(lease, 1)
    assert s.wire.heard() == [Returned(0, ((METER, 1),))]
    del lease
    gc.collect()
    assert s.leases.totals() == []


def test_the_oldest_make_room():
    async def main():
        s = Scene(capacity=32)
        for number in range(100):
            name = f"a{number}:requests:total"
            s.take(name, (s.lease(name), 1))
            s.grant(number + 1, Granted(name, 2, 2, 0))
            assert len(s.leases) <= 33
        gc.collect()
        assert len(s.leases.totals()) == len(s.leases)
        # Who comes back begins anew; the keeper's count says with what.
        again = s.lease("a0:requests:total")
        s.take("again", (again, 1))
        s.grant(101, Granted("a0:requests:total", 2, 3, 0))
        assert (again.units, again.total) == (1, 3)

    asyncio.run(main())


@pytest.mark.parametrize("units", [0, 1])
def test_zero_units_are_had_where_nothing_is_owed(units):
    async def main():
        s = Scene()
        lease = s.lease("a1:spend:total")
        lease.units = -5 * units
        s.take("free", (lease, 0))
        assert s.went == ["free"]
        assert s.wire.heard() == [Returned(0, (("a1:spend:total", -5),))] * units

    asyncio.run(main())

"""Leases as a state machine: workers, keepers, hosts, crashes, recalls and changes of limits against one plain number.

The oracle is as simple as can be: a request is admitted if, and only if, what is spent and what it needs fit under the
limit. Nothing that is unspent anywhere may stand in its way, and nothing may be spent twice. Where requests spend more
than they took, the limit is passed by no more than what they have not been able to tell; where limits change, the
highest that any worker has known bounds what is spent, since what was taken under it may be spent later.
"""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from waypost.policy.leases import NO_MORE, HostMeter, Move, Moved, Step, ask_for, slice_of

# How much


def test_asking_ahead():
    assert ask_for(1, 0, 1e9) == 32, "who has not asked lately gets enough for a while"
    assert ask_for(1, 100, 1.0) == 200, "spent in a second: twice as much, no more"
    assert ask_for(1, 100, 60.0) == 100, "lasted as long as it should"
    assert ask_for(1, 100, 600.0) == 32, "far too much for now"
    assert ask_for(0, 100, 60.0) == 100, "filled up while something else is asked for"


@pytest.mark.parametrize(
    ("remaining", "need", "ask", "holders", "units"),
    [
        (1000, 1, 32, 4, 32),  # far from the limit: what was asked for
        (1000, 1, 999, 4, 250),  # but no more than a fair share
        (1000, 1, 9999, 1, 1000),  # where nobody else is, everything
        (10, 1, 32, 4, 2),
        (3, 1, 32, 4, 1),  # close to the limit: one at a time
        (3, 2, 64, 4, 2),
        (3, 5, 160, 4, 3),  # all there is
        (0, 1, 32, 4, 0),
        (-7, 1, 32, 4, 0),
        (10, 0, 32, 4, 2),
    ],
)
def test_slices(remaining, need, ask, holders, units):
    assert slice_of(remaining, need, ask, holders) == units


def move(**fields) -> Move:
    return Move(**{"meter": "m", "ends": 0, "limit": 100, "need": 1, "share": 4, "known": 0, **fields})


@pytest.mark.parametrize(
    ("asked", "taken", "granted"),
    [
        (move(), 0, 25),
        (move(), 98, 1),
        (move(), 100, 0),
        (move(), 150, 0),  # the limit has fallen
        (move(need=30), 0, 30),
        (move(need=30), 90, 10),
        (move(need=30, is_whole=True), 90, 0),
        (move(need=30, is_whole=True), 70, 30),
        (move(back=20), 100, 5),
        (move(owed=20), 70, 2),
        (move(owed=40), 70, 0),
        (move(share=1), 10, 90),
        (move(need=0, share=NO_MORE), 0, 0),
    ],
)
def test_what_a_store_grants(asked, taken, granted):
    assert asked.grant(taken) == granted


# Who has what


@dataclasses.dataclass
class Worker:
    """A worker's lease, its journal, and what of that is not in the books yet. `total` is what it would tell."""

    journal: str
    limit: int
    units: int = 0
    total: int = 0
    is_recalled: bool = False
    written: int = 0
    unread: int = 0
    is_linked: bool = True
    open: list[int] = dataclasses.field(default_factory=list)

    @property
    def spent(self) -> int:
        return self.written

    def write(self, units: int) -> None:
        self.written += units
        self.unread += units


class Host:
    """A keeper's meter and its workers. `folded` is what the books hold of closed journals."""

    def __init__(self, name: str, *, is_shared: bool) -> None:
        self.name = name
        self.meter = HostMeter("m", 0, is_shared=is_shared)
        self.workers: dict[str, Worker] = {}
        self.dead: dict[str, Worker] = {}
        self.folded = 0
        self.is_recalled = False

    @property
    def linked(self) -> list[str]:
        return [name for name, worker in self.workers.items() if worker.is_linked]

    def read(self, worker: Worker) -> None:
        units, worker.unread = worker.unread, 0
        if units:
            self.meter.wrote(worker.journal, units)

    def recall(self, journals: list[str]) -> None:
        for journal in journals:
            worker = self.workers[journal]
            units, worker.units = worker.units, 0
            worker.total -= units
            worker.is_recalled = True
            self.meter.returned(journal, units)
            self.meter.emptied(journal)

    def come_back(self, worker: Worker, units: int) -> None:
        """As `Leases.give_back`."""
        worker.units += units
        if worker.is_linked and (worker.units < 0 or (worker.is_recalled and worker.units)):
            moved, worker.units = worker.units, 0
            worker.total -= moved
            self.meter.returned(worker.journal, moved)

    def close_dead(self) -> None:
        for journal, worker in list(self.dead.items()):
            self.read(worker)
            self.meter.closed(journal)
            self.folded += worker.written
            del self.dead[journal]


class LeaseMachine(RuleBasedStateMachine):
    """Any number of everything, in any order."""

    is_shared = True

    @initialize(limit=st.integers(0, 60))
    def begin(self, limit):
        self.limit = self.highest = limit
        self.taken = 0
        self.held: dict[str, int] = {}
        self.recalled: dict[str, bool] = {}
        self.hosts = [Host(name, is_shared=self.is_shared) for name in ("h1", "h2", "h3")[: 3 if self.is_shared else 1]]
        self.journals = 0
        self.statements = 0
        self.start_worker(0)
        self.start_worker(1)

    # The world

    @property
    def spent(self) -> int:
        return sum(
            host.folded + sum(worker.written for worker in [*host.workers.values(), *host.dead.values()])
            for host in self.hosts
        )

    @property
    def untold(self) -> int:
        """Units that were spent beyond what was taken, of which the store, or even the keeper, has not heard."""
        workers = [worker for host in self.hosts for worker in [*host.workers.values(), *host.dead.values()]]
        debts = [worker.units for worker in workers] + [host.meter.free for host in self.hosts]
        return sum(max(0, -units) for units in debts)

    def returning(self, to: Host) -> int:
        """Units that came back to other hosts after a recall; the store is told a moment later (`tidy`)."""
        meters = [host.meter for host in self.hosts if host is not to]
        return sum(max(0, meter.free) for meter in meters if meter.is_recalled)

    def move(self, host: Host, move: Move) -> None:
        self.statements += 1
        host.meter.leaves(move)
        granted = move.grant(self.taken)
        self.taken += move.owed - move.back + granted
        self.held[host.name] = self.held.get(host.name, 0) + move.owed - move.back + granted
        self.recalled[host.name] = move.is_empty and not granted
        others = [name for name, held in self.held.items() if held > 0 and name != host.name]
        holding = tuple(name for name in others if not self.recalled[name])
        host.meter.moved(move, Moved(granted, self.taken, self.held[host.name], len(others), holding))

    def surrender(self, host: Host) -> None:
        host.recall(host.meter.recallable("", host.linked))
        if host.meter.is_missing("", host.linked):
            self.find_missing(host)
            host.recall(host.meter.recallable("", host.linked))
        self.move(host, host.meter.surrender())

    def take(self, host: Host, worker: Worker, need: int) -> bool:
        """As `Meters._decide`, without the waiting; and then as the worker."""
        missing, short = need - worker.units, max(0, need - worker.units)
        meter, limit, tried = host.meter, worker.limit, []
        while (
            step := meter.next_step(missing, limit, worker.journal, host.linked, tried)
        ) is not Step.GRANT and step is not Step.REFUSE:
            assert len(tried) < 20
            if step is Step.STORE:
                self.move(host, meter.move(missing, limit))
            elif step is Step.WORKERS:
                before = worker.total
                host.recall(meter.recallable(worker.journal, host.linked))
                missing += before - worker.total
            elif step is Step.DEAD:
                self.find_missing(host)
                tried = [each for each in tried if each is not Step.WORKERS]
            else:
                for name in meter.holding:
                    self.surrender(next(each for each in self.hosts if each.name == name))
                self.move(host, meter.move(missing, limit, is_last=True))
                if meter.in_hand(limit) < missing and missing > 1:
                    self.move(host, meter.move(missing, limit))
            tried.append(step)
        units = slice_of(meter.in_hand(limit), missing, 32 * short, max(1, len(host.linked)))
        assert (units >= missing) == (step is Step.GRANT)
        meter.grant(worker.journal, units)
        worker.units += units
        worker.total += units
        worker.is_recalled = worker.is_recalled and not units
        return worker.units >= need

    def find_missing(self, host: Host) -> None:
        """The dead are read to the end; the living come back."""
        host.close_dead()
        for other in host.workers.values():
            if not other.is_linked:
                self.link(host, other)

    def link(self, host: Host, worker: Worker) -> None:
        worker.is_linked = True
        host.meter.stated(worker.journal, worker.total)
        host.come_back(worker, 0)

    def pick(self, host, worker):
        host = self.hosts[host % len(self.hosts)]
        workers = list(host.workers.values())
        return host, workers[worker % len(workers)] if workers else None

    # What may happen

    @rule(host=st.integers(0, 2))
    def start_worker(self, host):
        host = self.hosts[host % len(self.hosts)]
        if len(host.workers) < 4:
            self.journals += 1
            host.workers[f"j{self.journals}"] = Worker(f"j{self.journals}", self.limit)
            self.highest = max(self.highest, self.limit)

    @rule(host=st.integers(0, 2), worker=st.integers(0, 3), need=st.integers(1, 6))
    def request(self, host, worker, need):
        host, worker = self.pick(host, worker)
        if worker is None:
            return
        left = worker.limit - self.spent - self.returning(host)
        most = self.highest - self.spent
        untold = self.untold
        if worker.units < need:
            if not worker.is_linked:
                return
            admitted = self.take(host, worker, need)
        else:
            admitted = True
        assert admitted or need > left, f"{need} of {left} refused"
        assert not admitted or need <= most + untold, f"{need} of {most} admitted"
        if admitted:
            worker.units -= need
            worker.write(need)
            worker.open.append(need)

    @rule(host=st.integers(0, 2), worker=st.integers(0, 3), kept=st.integers(0, 9), which=st.integers(0, 9))
    def settle(self, host, worker, kept, which):
        """A request ends and has used less than it took, or more."""
        host, worker = self.pick(host, worker)
        if worker is None or not worker.open:
            return
        taken = worker.open.pop(which % len(worker.open))
        worker.write(kept - taken)
        host.come_back(worker, taken - kept)

    @rule(host=st.integers(0, 2), worker=st.integers(0, 3))
    def books(self, host, worker):
        host, worker = self.pick(host, worker)
        if worker is not None:
            host.read(worker)

    @rule(host=st.integers(0, 2), worker=st.integers(0, 3))
    def kill_worker(self, host, worker):
        host, worker = self.pick(host, worker)
        if worker is not None:
            host.dead[worker.journal] = host.workers.pop(worker.journal)

    @rule(host=st.integers(0, 2))
    def close_dead(self, host):
        self.hosts[host % len(self.hosts)].close_dead()

    @rule(host=st.integers(0, 2), worker=st.integers(0, 3))
    def lose_link(self, host, worker):
        _, worker = self.pick(host, worker)
        if worker is not None:
            worker.is_linked = False

    @rule(host=st.integers(0, 2))
    def tidy(self, host):
        host = self.hosts[host % len(self.hosts)]
        move = host.meter.tidying()
        if move is not None:
            self.move(host, move)

    @rule(host=st.integers(0, 2))
    def restart_keeper(self, host):
        """It begins with the store's rows and the journals, and every worker that lives says what it has."""
        host = self.hosts[host % len(self.hosts)]
        meter = HostMeter("m", 0, is_shared=self.is_shared, is_loaded=True)
        if host.name in self.held:
            meter.taken, meter.granted = self.taken, self.held[host.name]
            meter.is_recalled = self.recalled[host.name]
        host.close_dead()
        meter.folded = host.folded
        for worker in host.workers.values():
            meter.wrote(worker.journal, worker.written)
            worker.unread = 0
            meter.stated(worker.journal, worker.total)
        host.meter = meter
        for worker in host.workers.values():
            worker.is_linked = True
            host.come_back(worker, 0)
        if self.is_shared:
            host.recall(host.linked)

    @rule(host=st.integers(0, 2), worker=st.integers(0, 3), units=st.integers(1, 20))
    def lose_a_grant(self, host, worker, units):
        """The keeper hands out units, and the connection breaks before the worker hears of it."""
        host, worker = self.pick(host, worker)
        if worker is not None and worker.is_linked:
            host.meter.grant(worker.journal, min(units, host.meter.in_hand(worker.limit)))
            worker.is_linked = False

    @rule(limit=st.integers(0, 80))
    def change_limit(self, limit):
        """Nobody has heard of it yet."""
        self.limit = limit

    @rule(host=st.integers(0, 2), worker=st.integers(0, 3))
    def hear_of_limit(self, host, worker):
        """As `Leases.lease`: units that were taken under another limit may be too many."""
        host, worker = self.pick(host, worker)
        if worker is None:
            return
        if self.limit < worker.limit:
            if not worker.is_linked:
                self.link(host, worker)
            worker.is_recalled = True
            host.come_back(worker, 0)
        worker.limit = self.limit
        self.highest = max(self.highest, self.limit)

    # What always holds

    @invariant()
    def sums_are_exact(self):
        if not hasattr(self, "hosts"):
            return
        assert self.taken == sum(self.held.values())
        for host in self.hosts:
            meter = host.meter
            if meter.granted is None:
                continue
            assert meter.granted == self.held[host.name]
            known = meter.folded + sum(share.total for share in meter.shares.values())
            assert meter.free == meter.granted - known
            for worker in host.workers.values():
                assert worker.total == worker.units + worker.written
                if worker.is_linked and worker.journal in meter.shares:
                    assert meter.shares[worker.journal].total == worker.total


class OneHostMachine(LeaseMachine):
    """Where only this host moves the number, it need not ask when nothing is left."""

    is_shared = False

    @precondition(lambda self: hasattr(self, "hosts") and self.hosts[0].meter.taken is not None)
    @rule(need=st.integers(1, 3))
    def ask_in_vain(self, need):
        host = self.hosts[0]
        for worker in host.workers.values():
            if not worker.is_linked:
                self.link(host, worker)
        worker = next(iter(host.workers.values()), None)
        if worker is None or self.spent + need <= worker.limit or host.meter.free < 0 or worker.units >= need:
            return
        self.take(host, worker, need)
        before = self.statements
        assert not self.take(host, worker, need)
        assert self.statements == before, "a refusal asks nothing of the database"


class TestManyHosts(LeaseMachine.TestCase):
    """Hosts that share a store."""

    settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


class TestOneHost(OneHostMachine.TestCase):
    """A host that has the store for itself."""

    settings = settings(max_examples=150, stateful_step_count=50, deadline=None)

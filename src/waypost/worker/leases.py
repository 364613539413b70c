"""A worker's leases: units of meters that it may spend without asking anyone.

A request takes from a lease by `lease.units -= n` where that leaves nothing below zero; when it does not, `Leases.more`
asks the keeper. Units that were not spent come back by `give_back` or `settle`. The keeper may recall what is unspent.

The keeper counts the `total` of each lease: all units that this worker has, spent or not. Every change of it crosses
the link as a difference, exactly once; where a connection broke in between, the next one begins with the totals.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from waypost.messages import AnyMessage, Grant, Recall, Returned, Take, Want
from waypost.policy.leases import ask_for
from waypost.worker.link import KeeperUnavailable
from waypost.worker.walk import Signal

CAPACITY = 30_000
"""Leases at hand. Their totals fit into a frame or two."""

PATIENCE = 2.0
"""Seconds that a request waits for units."""

PURGE_SECONDS = 60.0


class Pusher(Protocol):
    """The worker's link, as leases need it."""

    @property
    def connected(self) -> bool:
        """Whether what is pushed now is sent."""
        ...

    def push(self, message: AnyMessage) -> None:
        """Tell the keeper."""
        ...


class Lease:
    """Units of one meter. `units` may be spent by whoever knows the limit; the rest is `Leases`' own.

    `limit` is the meter's, as it was when units were last asked for or will be next; `ends` is when its window does, in
    seconds since 1970 UTC, 0 for never. `remaining` is what the keeper could still have given when last asked.
    """

    __slots__ = (
        "__weakref__",
        "ends",
        "granted",
        "granted_at",
        "is_known",
        "is_recalled",
        "limit",
        "name",
        "pending",
        "remaining",
        "take",
        "total",
        "units",
        "what",
    )

    def __init__(self, name: str, limit: int, ends: int) -> None:
        self.name = name
        self.what = name.split(":", 2)[1]
        self.limit = limit
        self.ends = ends
        self.units = 0
        self.remaining = 0
        self.total = 0  # ever granted less ever returned, counted from the first that the keeper knows of
        self.is_known = False  # has `total` been heard?
        self.pending = 0  # units to return once there is a link; they still count in `total`
        self.is_recalled = False  # what comes back goes to the keeper at once
        self.granted = 0  # by the latest grant
        self.granted_at = 0.0
        self.take: _Take | None = None  # the one on its way that asks for this meter


class _Waiter:
    """A request that waits for units."""

    __slots__ = ("is_gone", "number", "signal", "timer", "wants")

    def __init__(self, number: int, wants: Sequence[tuple[Lease, int]]) -> None:
        self.number = number
        self.wants = wants
        self.signal: Signal[tuple[tuple[Lease, int] | None, str]] = Signal()
        self.timer: asyncio.TimerHandle | None = None
        self.is_gone = False

    def go_on(self, short: tuple[Lease, int] | None = None, failure: str = "") -> None:
        if not self.is_gone:
            self.is_gone = True
            self.signal.set((short, failure))


class _Take:
    """A `Take` on its way: who it is for, who came since and waits for the next, and the limits that it states."""

    __slots__ = ("followers", "leases", "waiters")

    def __init__(self, waiters: list[_Waiter], leases: dict[str, tuple[Lease, int]]) -> None:
        self.waiters = waiters
        self.leases = leases
        self.followers: list[_Waiter] = []


class Leases:
    """A bounded number of leases by the names of their meters. Give it to the link, which tells it what it hears."""

    def __init__(self, clock: Callable[[], float] = time.time, capacity: int = CAPACITY) -> None:
        """`clock` gives seconds since 1970 UTC."""
        self.is_fresh = True  # nothing was ever granted
        self._clock = clock
        self._capacity = capacity
        self._link: Pusher | None = None
        self._held: dict[str, Lease] = {}
        self._dropped: weakref.WeakValueDictionary[str, Lease] = weakref.WeakValueDictionary()
        self._takes: dict[int, _Take] = {}
        self._serial = 0
        self._waiters = 0
        self._taken = 0
        self._purge_at = clock() + PURGE_SECONDS

    def __len__(self) -> int:
        return len(self._held)

    # What requests call

    def lease(self, name: str, limit: int, ends: int) -> Lease:
        """The lease of a meter, empty if it is new. If the limit has fallen, what it has goes back first."""
        lease = self._held.get(name)
        if lease is None:
            lease = self._dropped.pop(name, None) or Lease(name, limit, ends)
            self._make_room()
            self._held[name] = lease
        if limit < lease.limit:
            self._return([lease])
        lease.limit = limit
        return lease

    async def more(self, wants: Sequence[tuple[Lease, int]]) -> tuple[Lease, int] | None:
        """Return once the keeper has been asked, after this call, for what `wants` lack: (lease, units) each.

        Then try again to take. The first want that nobody has the units for is returned: if it cannot be met even now,
        the meter is full. Requests that wait go on in the order in which they came, at once when units arrive. Only
        walks may wait so. Raises `KeeperUnavailable`, after `PATIENCE` seconds at the latest.
        """
        if self._link is None or not self._link.connected:
            raise KeeperUnavailable("the link to the keeper is down")
        self._waiters += 1
        waiter = _Waiter(self._waiters, wants)
        message = f"no units in {PATIENCE:g} s"
        waiter.timer = asyncio.get_running_loop().call_later(PATIENCE, waiter.go_on, None, message)
        try:
            self._ask([waiter])
            short, failure = await waiter.signal
        finally:
            waiter.is_gone = True
            waiter.timer.cancel()
        if failure and any(lease.units < units for lease, units in wants):
            raise KeeperUnavailable(failure)
        return short

    def give_back(self, lease: Lease, units: int) -> None:
        """Units that were taken and not spent; below zero, units that were spent and not taken."""
        lease.units += units
        if lease.units < 0 or (lease.is_recalled and lease.units):
            self._return([lease])

    def settle(self, taken: Iterable[tuple[Lease, int]], requests: int, tokens: int, cost: int) -> None:
        """A request has ended: of what it took it spent so much. `cost` is in nano-dollars, a stream is over."""
        moved = []
        for lease, units in taken:
            what = lease.what
            if what == "requests":
                units -= requests
            elif what == "tokens":
                units -= tokens
            elif what != "streams":
                units -= cost
            if units:
                lease.units += units
                if lease.units < 0 or (lease.is_recalled and lease.units):
                    moved.append(lease)
        if moved:
            self._return(moved)

    def return_all(self) -> None:
        """Limits have changed: every unit goes back to the keeper, to be asked for anew."""
        self._return(list(self._held.values()))

    def counted(self) -> int:
        """How often the keeper was asked since this was last called."""
        taken, self._taken = self._taken, 0
        return taken

    # What the link calls

    def attach(self, link: Pusher) -> None:
        """Talk through this link."""
        self._link = link

    def totals(self) -> list[tuple[str, int]]:
        """What this worker has of each meter, to begin a connection with."""
        return [(lease.name, lease.total) for lease in self._everyone() if lease.is_known]

    def linked(self) -> None:
        """The link is up: what came back in the meantime is returned now."""
        self._return([lease for lease in self._everyone() if lease.pending])

    def lost(self) -> None:
        """The link is down: nobody needs to wait for an answer."""
        takes, self._takes = self._takes, {}
        for take in takes.values():
            for lease, _ in take.leases.values():
                lease.take = None
        for take in takes.values():
            for waiter in (*take.waiters, *take.followers):
                waiter.go_on(None, "the keeper went away before it answered")

    def receive(self, message: AnyMessage, push: Callable[[AnyMessage], None]) -> None:
        """A push of the keeper's; the answer goes back on its own connection."""
        if isinstance(message, Grant):
            self._granted(message)
        elif isinstance(message, Recall):
            recalled = self._named(message.meters)
            for lease in recalled:
                lease.is_recalled = True
            push(Returned(message.serial, self._surrender(recalled, is_linked=True)))

    # Asking

    def _ask(self, waiters: Iterable[_Waiter]) -> None:
        """Ask for all who have no meter on its way already; the others follow that one."""
        asking: list[_Waiter] = []
        for waiter in waiters:
            ahead = next((lease.take for lease, _ in waiter.wants if lease.take is not None), None)
            if ahead is not None:
                ahead.followers.append(waiter)
            else:
                asking.append(waiter)
        if asking:
            self._take(asking)

    def _take(self, waiters: list[_Waiter]) -> None:
        needs: dict[Lease, int] = {}
        for waiter in waiters:
            for lease, units in waiter.wants:
                needs[lease] = needs.get(lease, 0) + units
        self._return([lease for lease in needs if lease.units < 0])
        if all(units <= lease.units for lease, units in needs.items()):
            for waiter in waiters:  # units have come back meanwhile
                waiter.go_on()
            return
        now = self._clock()
        # While we are at it, the request's other leases are filled up: they would run out soon after.
        asked = {lease.name: lease for lease, units in needs.items() if lease.units < units + lease.granted // 2}
        wants = [_want(lease, needs[lease], now) for lease in asked.values()]
        # Of the others it is told what is left: a refusal states it for every window of requests.
        wants += [
            Want(lease.name, 0, 0, lease.limit, lease.ends)
            for lease in needs
            if lease.name not in asked and lease.what == "requests"
        ]
        self._serial += 1
        self._taken += 1
        take = self._takes[self._serial] = _Take(waiters, {name: (lease, lease.limit) for name, lease in asked.items()})
        for name, lease in asked.items():
            lease.take = take
            if self._dropped.pop(name, None) is not None:
                self._held[name] = lease
        assert self._link is not None
        self._link.push(Take(self._serial, tuple(wants)))

    def _granted(self, message: Grant) -> None:
        take = self._takes.pop(message.serial, None)
        if take is None:
            return
        now = self._clock()
        refused, failures = set(), {}
        for grant in message.grants:
            if grant.meter not in take.leases:
                if (known := self._held.get(grant.meter)) is not None:
                    known.remaining = grant.remaining
                continue
            lease, limit = take.leases[grant.meter]
            lease.remaining = grant.remaining
            if grant.units:
                lease.units += grant.units
                lease.total = lease.total + grant.units if lease.is_known else grant.total
                lease.is_known, lease.is_recalled = True, False
                lease.granted, lease.granted_at = grant.units, now
                self.is_fresh = False
            if limit > lease.limit:  # it has fallen since: these units may be more than are left
                self._return([lease])
            elif grant.refused:
                refused.add(lease)
            if grant.failure:
                failures[lease] = grant.failure
        for lease, _ in take.leases.values():
            lease.take = None
        for waiter in take.waiters:
            short = next(((lease, units) for lease, units in waiter.wants if lease in refused), None)
            failure = next((failures[lease] for lease, _ in waiter.wants if lease in failures), "")
            waiter.go_on(short, "" if short is not None else failure)
        take.followers.sort(key=lambda waiter: waiter.number)
        self._ask(waiter for waiter in take.followers if not waiter.is_gone)

    # Returning

    def _return(self, leases: Sequence[Lease]) -> None:
        """Units go back, or what is missing is owned up to. Without a link that waits until there is one."""
        for lease in leases:
            lease.is_recalled = lease.is_recalled or lease.units >= 0
        is_linked = self._link is not None and self._link.connected
        units = self._surrender(leases, is_linked)
        if units and is_linked:
            assert self._link is not None
            self._link.push(Returned(0, units))

    def _surrender(self, leases: Iterable[Lease], is_linked: bool) -> tuple[tuple[str, int], ...]:
        units = []
        for lease in leases:
            lease.pending += lease.units
            lease.units = 0
            if lease.pending and is_linked:
                units.append((lease.name, lease.pending))
                lease.total -= lease.pending
                lease.pending = 0
        return tuple(units)

    def _everyone(self) -> list[Lease]:
        return [*self._held.values(), *self._dropped.values()]

    def _named(self, meters: str) -> list[Lease]:
        if meters and not meters.endswith(":"):
            lease = self._held.get(meters)
            return [] if lease is None else [lease]
        return [lease for lease in self._held.values() if lease.name.startswith(meters)]

    # Forgetting

    def _make_room(self) -> None:
        """Windows that have ended go, and where that is not enough, the oldest leases."""
        now = self._clock()
        gone: list[Lease] = []
        if now >= self._purge_at or len(self._held) >= self._capacity:
            self._purge_at = now + PURGE_SECONDS
            gone = [lease for lease in self._held.values() if lease.ends and lease.ends < now and lease.take is None]
        if len(self._held) - len(gone) >= self._capacity:
            idle = (lease for lease in self._held.values() if lease.take is None)
            gone = [lease for lease, _ in zip(idle, range(self._capacity // 16 + 1), strict=False)]
        self._return(gone)
        for lease in gone:
            del self._held[lease.name]
            self._dropped[lease.name] = lease  # for as long as a request or its caller's purse has it


def _want(lease: Lease, need: int, now: float) -> Want:
    missing = max(0, need - lease.units)
    return Want(lease.name, missing, ask_for(missing, lease.granted, now - lease.granted_at), lease.limit, lease.ends)

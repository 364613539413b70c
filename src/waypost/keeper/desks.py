"""The meters that this host knows, each with its lock and the store that keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from waypost.keeper.mover import Mover
from waypost.messages import Want
from waypost.policy.leases import HostMeter, is_fast
from waypost.policy.windows import ends_by


class Desk:
    """A meter, the lock under which one want of it is decided, and what that decision waits for."""

    __slots__ = ("lock", "meter", "mover", "waits_for")

    def __init__(self, meter: HostMeter, mover: Mover) -> None:
        self.meter = meter
        self.mover = mover
        self.lock = asyncio.Lock()
        self.waits_for = ""


class Desks:
    """Desks by the names of their meters. `fast`, where there is one, keeps those that `is_fast`."""

    def __init__(self, database: Mover, fast: Mover | None) -> None:
        self.movers = [database] if fast is None else [database, fast]
        self._desks: dict[str, Desk] = {}

    def __iter__(self) -> Iterator[Desk]:
        return iter(list(self._desks.values()))

    def get(self, meter: str) -> Desk | None:
        """The desk of a meter, None if there is none."""
        return self._desks.get(meter)

    def of(self, want: Want) -> Desk:
        """The desk of the meter that is wanted, a new one if need be."""
        desk = self._desks.get(want.meter)
        if desk is None:
            desk = self.add(HostMeter(want.meter, want.ends, is_shared=False))
        desk.meter.ends = want.ends
        return desk

    def old(self, name: str) -> Desk:
        """The desk of a meter from before the start.

        If the books did not know the meter, the store has to say what the host has taken; the rest is being told.
        """
        desk = self._desks.get(name)
        if desk is None:
            desk = self.add(HostMeter(name, ends_by(name), is_shared=False, is_loaded=True))
        return desk

    def add(self, meter: HostMeter) -> Desk:
        """A desk for a meter that has none. The store that keeps it may be another than before the start."""
        mover = self._mover(meter.name)
        meter.is_shared = mover.counters.is_shared
        desk = self._desks[meter.name] = Desk(meter, mover)
        return desk

    def forget_ended(self, past: float) -> None:
        """Drop the meters whose windows were over then."""
        for desk in self:
            if desk.meter.ends and desk.meter.ends < past and not desk.lock.locked():
                del self._desks[desk.meter.name]

    def _mover(self, meter: str) -> Mover:
        return self.movers[-1] if is_fast(meter) else self.movers[0]

"""What one caller's requests take of which leases."""

from __future__ import annotations

import msgspec

from waypost.messages import Identity
from waypost.policy.admission import Meter
from waypost.worker.leases import Lease

NEVER = float("inf")


class Charge(msgspec.Struct, frozen=True):
    """What one request takes: units of leases, and the same by the meters' names, for the journal."""

    takes: list[tuple[Lease, int]]
    holds: tuple[tuple[str, int], ...]

    def take(self) -> bool:
        """All of it or nothing: False where some lease has not got enough."""
        for lease, units in self.takes:
            if lease.units < units:
                return False
        for lease, units in self.takes:
            lease.units -= units
        return True


class Purse:
    """One caller's meters in their current windows, and the charges that need no arithmetic."""

    __slots__ = ("by_use", "ends", "free", "identity", "leases", "money", "plain", "starts", "streaming", "tokens")

    def __init__(self, identity: Identity, leases: list[tuple[Meter, Lease]]) -> None:
        self.identity = identity
        self.leases = leases
        self.starts = max((meter.starts for meter, _ in leases), default=0)
        self.ends = min((meter.ends for meter, _ in leases if meter.ends), default=NEVER)
        self.tokens = [lease for meter, lease in leases if meter.what == "tokens"]
        self.money = [lease for meter, lease in leases if meter.what == "money"]
        self.by_use = bool(self.tokens or self.money)
        self.plain = charge_of([lease for meter, lease in leases if meter.what == "requests"])
        self.streaming = charge_of([lease for meter, lease in leases if meter.what in ("requests", "streams")])
        self.free: Purse | None = None  # of requests to `:free` variants, once there were some

    def charge(self, stream: bool, tokens: int, cost: int) -> Charge:
        """What a request takes that may use so many tokens and nano-dollars."""
        charge = self.streaming if stream else self.plain
        if not self.by_use:
            return charge
        takes, holds = [*charge.takes], [*charge.holds]
        for lease in self.tokens:
            takes.append((lease, tokens))
            holds.append((lease.name, tokens))
        for lease in self.money:
            takes.append((lease, cost))
            holds.append((lease.name, cost))
        return Charge(takes, tuple(holds))

    def meter(self, lease: Lease) -> Meter:
        """The meter of one of the leases."""
        return next(meter for meter, own in self.leases if own is lease)


def charge_of(leases: list[Lease]) -> Charge:
    """One unit of each."""
    return Charge([(lease, 1) for lease in leases], tuple((lease.name, 1) for lease in leases))

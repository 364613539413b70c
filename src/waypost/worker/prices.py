"""What the keeper's price list says that upstreams cost; asked for once an hour."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from waypost.errors import Refusal
from waypost.listing import FindPrices, PriceRecords
from waypost.messages import AnyMessage, Failed
from waypost.pricing import Price, listed_price
from waypost.worker.link import Caller, KeeperUnavailable
from waypost.worker.upstreams import Snapshot

FRESH = 3600.0  # seconds after which the list is asked again: prices change, and some have an hour
KNOWN = 10_000  # prices after which all are asked for anew


class Listed(msgspec.Struct, frozen=True):
    """What the list says of one provider's model; `context` is in tokens. None where it says nothing."""

    price: Price | None = None
    context: int | None = None


UNLISTED = Listed()


class Prices:
    """What this worker has asked the list, by provider and upstream model."""

    def __init__(self, link: Caller) -> None:
        self._link = link
        self._known: dict[tuple[str, str], tuple[Listed, float]] = {}
        self._lists = 0  # how often there was another list

    async def find(
        self, snapshot: Snapshot, targets: Iterable[tuple[str, str]], now: float
    ) -> dict[tuple[str, str], Listed]:
        """What the list says of each (provider, upstream model). `now`: seconds of any clock.

        Raises Refusal UNAVAILABLE if the keeper must be asked and cannot.
        """
        if len(self._known) > KNOWN:
            self._known.clear()  # before it is looked at, so that what is fresh stays until it is used
        asked = list(targets)
        priced = [target for target in asked if target[0] in snapshot.priced]
        missing = tuple(target for target in priced if not self._is_fresh(target, now))
        if missing:
            lists = self._lists
            await self._ask(missing, now)
            if lists != self._lists:  # what was known is not any more
                return await self.find(snapshot, asked, now)
        known = {target: self._known[target][0] for target in priced}
        return {target: known.get(target, UNLISTED) for target in asked}

    def forget(self) -> None:
        """There is another list."""
        self._known.clear()
        self._lists += 1

    def _is_fresh(self, target: tuple[str, str], now: float) -> bool:
        known = self._known.get(target)
        return known is not None and now - known[1] < FRESH

    async def _ask(self, targets: tuple[tuple[str, str], ...], now: float) -> None:
        """From the keeper; what is known already does while the keeper is away."""
        lists = self._lists
        call = asyncio.ensure_future(self._link.call(FindPrices(targets)))
        reply: AnyMessage
        try:
            reply = await asyncio.shield(call)
        except KeeperUnavailable as error:
            reply = Failed("UNAVAILABLE", str(error))
        if lists != self._lists:
            return
        if not isinstance(reply, PriceRecords):
            if all(target in self._known for target in targets):
                return
            raise Refusal("UNAVAILABLE", "Prices cannot be looked up at this moment; try again.", retry_after=1)
        for target, record in zip(targets, reply.rows, strict=True):
            said = Listed(listed_price(record), record.context) if record is not None else UNLISTED
            self._known[target] = (said, now)

"""Native model ids that stand in no configuration: what the keeper's price list says of them, and whom it names."""

from __future__ import annotations

import asyncio

from waypost.errors import Refusal
from waypost.listing import FindNative, NativeRecord, NativeRecords
from waypost.worker.link import Caller, KeeperUnavailable
from waypost.worker.upstreams import Links, Snapshot

LONGEST_ID = 256
"""Characters: the longest that the list has is 61."""

PATIENCE_SECONDS = 10.0
"""For one answer; the first ever waits for the list to be loaded, on a busy machine for some seconds."""

Asked = tuple[tuple[str, ...], str]
Records = tuple[NativeRecord, ...]


class Natives:
    """A bounded cache of what the keeper said of native ids, known and unknown apart: no typo pushes out a model.

    What is cached holds until there is another list, while the keeper is away too.
    """

    def __init__(self, link: Caller, capacity: int = 1000) -> None:
        self._link = link
        self._capacity = capacity
        self._known: dict[Asked, Records] = {}
        self._unknown: dict[Asked, Records] = {}
        self._flights: dict[Asked, asyncio.Task[Records | None]] = {}
        self._forgotten = 0

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown)

    async def links(self, snapshot: Snapshot, model: str) -> Links | None:
        """The links to whoever serves a name that `snapshot.links` does not know, there from now on; None: nobody.

        Raises Refusal UNAVAILABLE when the keeper cannot say.
        """
        records = await self.find(snapshot.listed, model)
        return snapshot.add_links(model, [(record.provider, record.id) for record in records]) if records else None

    async def find(self, providers: tuple[str, ...], model: str) -> Records:
        """What the list says of a model at those of `providers` that serve it. Raises Refusal as `links` does."""
        if not providers or len(model) > LONGEST_ID or model.startswith("route/"):  # `route/` is the operator's
            return ()
        asked = (providers, model)
        known = self._known.get(asked) or self._unknown.get(asked)
        if known is not None:
            return known
        flight = self._flights.get(asked)
        if flight is None:
            flight = self._flights[asked] = asyncio.create_task(self._ask(asked))
            flight.add_done_callback(lambda _: self._flights.pop(asked, None))
        records = await asyncio.shield(flight)  # one caller hanging up must not end it for the others
        if records is None:
            raise Refusal(
                "UNAVAILABLE", "models cannot be looked up at this moment; yours may exist, try again", retry_after=1
            )
        return records

    def forget(self) -> None:
        """Drop every answer."""
        self._known.clear()
        self._unknown.clear()
        self._forgotten += 1

    async def _ask(self, asked: Asked) -> Records | None:
        providers, model = asked
        forgotten = self._forgotten
        try:
            answer = await self._link.call(FindNative(model, providers), PATIENCE_SECONDS)
        except KeeperUnavailable:
            return None
        if not isinstance(answer, NativeRecords):
            return None
        if forgotten != self._forgotten:  # the answer is of before that
            return await self._ask(asked)
        cache = self._known if answer.rows else self._unknown
        if len(cache) >= self._capacity:
            del cache[next(iter(cache))]
        cache[asked] = answer.rows
        return answer.rows

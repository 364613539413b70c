"""Hosts' moves on a store's meters: those that come together go in one step, and a failing store is told of once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from waypost.keeper.store.counters import Counters, StoreUnavailable
from waypost.policy.leases import HostMeter, Move

logger = logging.getLogger("waypost.keeper")

BATCH = 200
"""Moves in one step at most."""


class Mover:
    """The only one who asks a store to move. One move of a meter is on its way at a time.

    `on_state` is called when `why_not_ready` has changed.
    """

    def __init__(self, counters: Counters, on_state: Callable[[], None] = lambda: None) -> None:
        self.counters = counters
        self._on_state = on_state
        self.calls = 0
        self.why_not_ready = ""
        self._waiting: list[tuple[HostMeter, Move, asyncio.Future[str]]] = []
        self._moving: dict[str, asyncio.Future[str]] = {}
        self._running: asyncio.Task[None] | None = None

    def is_moving(self, meter: str) -> bool:
        """Is a move of this meter on its way?"""
        return meter in self._moving

    async def move(self, meter: HostMeter, make: Callable[[], Move]) -> str:
        """Do what `make` says once no other move of the meter is on its way. Empty, or why the store cannot be asked.

        Being cancelled does not take it back: its answer changes the meter whenever it comes.
        """
        while (earlier := self._moving.get(meter.name)) is not None:
            await asyncio.shield(earlier)
        return await asyncio.shield(self.begin(meter, make()))

    def begin(self, meter: HostMeter, move: Move) -> asyncio.Future[str]:
        """Put a move on its way; no other of the meter may be. The future is empty, or why there is no answer."""
        assert meter.name not in self._moving
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._moving[meter.name] = future
        meter.leaves(move)
        self._waiting.append((meter, move, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return future

    async def close(self) -> None:
        """Wait for what is on its way."""
        if self._running is not None:
            await self._running

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self.calls += 1
            try:
                answers = await self.counters.move([move for _, move, _ in batch])
            except StoreUnavailable as error:
                self._say(str(error))
                failure = f"{self.counters.name} cannot be asked"
            except Exception:
                logger.exception("a defect in asking %s", self.counters.name)
                failure = f"a defect in asking {self.counters.name}; the keeper's log has it"
            else:
                self._say("")
                failure = ""
                for (meter, move, _), answer in zip(batch, answers, strict=True):
                    meter.moved(move, answer)
            for meter, _, future in batch:
                del self._moving[meter.name]
                future.set_result(failure)
        self._running = None

    def _say(self, reason: str) -> None:
        if bool(reason) == bool(self.why_not_ready):
            return
        if reason:
            self.why_not_ready = f"limits cannot be taken from {self.counters.name}: {reason}"
            logger.error("%s", self.why_not_ready)
        else:
            self.why_not_ready = ""
            logger.warning("limits are taken from %s again", self.counters.name)
        self._on_state()

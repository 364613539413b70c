"""The keeper's side of leases: owns what this host has of each meter, hands it to its workers, takes it from the store.

One want of a meter is decided at a time, on what is known then. Before it is refused, everyone who may have units that
are not spent has been asked for them: the host's other workers, workers that are gone, other hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Final, Literal, Protocol

from waypost.keeper.desks import Desk, Desks
from waypost.keeper.mover import Mover
from waypost.keeper.recalls import Recalls, Session
from waypost.keeper.store.counters import Counters, StoreUnavailable
from waypost.link import Framed
from waypost.messages import AnyMessage, Grant, Granted, Hello, Holding, Returned, Take, Want
from waypost.policy.leases import MOST, HostMeter, Step, slice_of

logger = logging.getLogger("waypost.keeper")

PATIENCE: Final = 1.5
"""Seconds that deciding a want may take: less than a request waits for it."""

HOSTS_SECONDS: Final = 0.3
"""How long other hosts have to return what they have unspent."""

SILENT_SECONDS: Final = 10.0
"""How long a host is not waited for that did not answer."""

POLL_SECONDS: Final = 0.005
TIDY_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0

ENDED_SECONDS: Final = 600.0
"""How long a meter is kept here after its window: requests that began in it still end."""


class Journals(Protocol):
    """The ledger, as leases need it."""

    async def catch_up(self) -> bool:
        """Wait until every line is in the books that was written before; False if that did not come about."""
        ...

    async def close_dead(self) -> None:
        """Wait until every journal whose worker is dead is in the books to its end, and `Meters.closed` was called."""
        ...


class Meters:
    """Every meter that this host has units of.

    `database` keeps them, but `fast`, where it is given, those that `is_fast`. `live()` names the journals whose
    workers are alive. `clock` gives seconds since 1970 UTC.
    """

    def __init__(
        self,
        database: Counters,
        fast: Counters | None,
        journals: Journals,
        live: Callable[[], Collection[str]],
        *,
        on_outage: Literal["closed", "last_lease"] = "closed",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.on_state: list[Callable[[], None]] = []  # called when `why_not_ready` has changed
        self._desks = Desks(
            Mover(database, self._state_changed), Mover(fast, self._state_changed) if fast is not None else None
        )
        self._journals = journals
        self._live = live
        self._on_outage = on_outage
        self._clock = clock
        self._sessions: dict[Framed, Session] = {}
        self._by_journal: dict[str, Session] = {}
        self._ahead: dict[Framed, list[tuple[str, int]]] = {}
        self._recalls = Recalls()
        self._silent: dict[str, float] = {}
        self._untidy: set[str] = set()
        self._heard: set[str] = set()  # journals of which it is known what they have, since the start
        self._opened = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handles: set[asyncio.TimerHandle] = set()

    # Life

    def start(self, loaded: Sequence[HostMeter]) -> None:
        """Begin with what the books say, read before the ledger wrote anything. Nothing is handed out yet.

        That begins when every worker that is alive has said what it has, and what the dead have spent is known.
        """
        for meter in loaded:
            self._desks.add(meter)
        self._spawn(self._open_up(set(self._live())))
        for mover in self._desks.movers:
            if mover.counters.is_shared:
                self._spawn(mover.counters.listen(self._called_back, self._forgotten))
        self._later(ENDED_SECONDS, self._forget_ended)

    async def close(self) -> None:
        """Stop. What was handed out stays the workers'."""
        for handle in self._handles:
            handle.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for mover in self._desks.movers:
            await mover.close()
            await mover.counters.close()

    @property
    def why_not_ready(self) -> str:
        """Empty when limits can be taken, or are handed out on credit."""
        if self._on_outage != "closed":
            return ""
        return next((mover.why_not_ready for mover in self._desks.movers if mover.why_not_ready), "")

    @property
    def store_calls(self) -> int:
        """How often a store was asked."""
        return sum(mover.calls for mover in self._desks.movers)

    def meter(self, name: str) -> HostMeter | None:
        """What this host has of a meter, None if it has nothing."""
        desk = self._desks.get(name)
        return desk.meter if desk is not None else None

    async def _open_up(self, expected: set[str]) -> None:
        while not expected <= self._heard:
            await asyncio.sleep(POLL_SECONDS)
            expected = (expected & set(self._live())) | (expected & self._heard)
        await self._journals.close_dead()
        # Under which limits the host's units were taken is not written down, so what is shared is sorted out afresh.
        sessions = list(self._by_journal.values())
        shared = [desk.meter for desk in self._desks if desk.meter.is_shared]
        if shared and await self._recalls.make("", sessions):
            for meter in shared:
                for session in sessions:
                    meter.emptied(session.journal)
        self._opened.set()

    # What the links call

    def hello(self, peer: Framed, hello: Hello) -> None:
        """A worker is here, on a new connection; it says what it has. Whatever its older ones still bring is void."""
        if not hello.journal:
            return
        totals = [*self._ahead.pop(peer, ()), *hello.totals]
        older = self._by_journal.get(hello.journal)
        if older is not None:
            self._lose(older)
        session = Session(peer, hello.worker, hello.journal, {name for name, _ in totals})
        self._sessions[peer] = self._by_journal[hello.journal] = session
        for name, total in totals:
            desk = self._desks.old(name)
            desk.meter.stated(hello.journal, total)
            self._tidy_if_needed(desk.meter)
        for desk in self._desks:
            if desk.meter.name not in session.known and hello.journal in desk.meter.shares:
                session.unsure.add(desk.meter.name)
        if hello.is_fresh:
            for name in session.unsure:
                self._desks.old(name).meter.stated(hello.journal, 0)
            self._has_settled(session)
        else:
            self._spawn(self._settle(session))

    def lost(self, peer: Framed) -> None:
        """A connection is gone. The worker may be alive: what it has stays its own."""
        self._ahead.pop(peer, None)
        session = self._sessions.get(peer)
        if session is not None:
            self._lose(session)

    def receive(self, peer: Framed, message: AnyMessage) -> None:
        """A push of a worker's."""
        if isinstance(message, Holding):
            self._ahead.setdefault(peer, []).extend(message.totals)
            return
        session = self._sessions.get(peer)
        if session is None:
            return
        if isinstance(message, Take):
            self._take(session, message)
        elif isinstance(message, Returned):
            self._returned(session, message)

    async def recall(self, prefix: str) -> None:
        """Limits have changed of meters whose names begin so: return when the workers have given back what they had."""
        await self._recalls.make(prefix, list(self._by_journal.values()))

    def _lose(self, session: Session) -> None:
        session.is_lost = True
        self._sessions.pop(session.peer, None)
        if self._by_journal.get(session.journal) is session:
            del self._by_journal[session.journal]
        self._recalls.lose(session)

    async def _settle(self, session: Session) -> None:
        """Of what a worker does not speak, it has nothing left: it has what its journal says it spent."""
        while not await self._journals.catch_up():
            if session.is_lost:
                return
        if not session.is_lost:
            for name in session.unsure:
                desk = self._desks.get(name)
                if desk is not None:
                    desk.meter.settled(session.journal)
            self._has_settled(session)

    def _has_settled(self, session: Session) -> None:
        session.unsure.clear()
        session.known.clear()
        session.settled.set()
        self._heard.add(session.journal)

    # What the ledger calls

    def spent(self, journal: str, units: Mapping[str, int]) -> None:
        """Lines of a journal are in the books: they took so many units, by meter."""
        session = self._by_journal.get(journal)
        for name, count in units.items():
            desk = self._desks.get(name)
            if desk is None and not self._opened.is_set():
                desk = self._desks.old(name)
            if desk is None:
                continue
            desk.meter.wrote(journal, count)
            if session is not None and not session.settled.is_set() and name not in session.known:
                session.unsure.add(name)

    def closed(self, journal: str) -> None:
        """A dead worker's journal is in the books to its end."""
        for desk in self._desks:
            if journal in desk.meter.shares:
                desk.meter.closed(journal)
                self._tidy_if_needed(desk.meter)

    # Wants

    def _take(self, session: Session, take: Take) -> None:
        wants = [want for want in take.wants if want.ask]
        if all(self._is_easy(session, want) for want in wants):
            grants = [self._grant(session, self._desks.of(want).meter, want, want.need) for want in wants]
            session.peer.push(Grant(take.serial, (*grants, *self._shown(session, take))))
        else:
            self._spawn(self._take_slowly(session, take, wants))

    def _shown(self, session: Session, take: Take) -> list[Granted]:
        """What is left of the meters that the worker wants nothing of, as far as it is known here."""
        desks = [(want, self._desks.get(want.meter)) for want in take.wants if not want.ask]
        return [
            Granted(want.meter, 0, 0, desk.meter.remaining(min(want.limit, MOST), session.journal))
            for want, desk in desks
            if desk is not None and desk.meter.taken is not None
        ]

    def _is_easy(self, session: Session, want: Want) -> bool:
        """Can it be answered without anybody else?"""
        if not self._opened.is_set() or not session.is_sure_of(want.meter):
            return False
        desk = self._desks.of(want)
        if desk.lock.locked():
            return False
        step = desk.meter.next_step(want.need, min(want.limit, MOST), session.journal, self._by_journal, ())
        return step is Step.GRANT or (step is Step.REFUSE and not self._unsure_of(want.meter))

    async def _take_slowly(self, session: Session, take: Take, wants: list[Want]) -> None:
        """What is decided leaves before anything else is decided of the same meters: so nobody is asked to return units
        that he has not heard of. Locks are taken in the order of names, which everybody keeps to.
        """
        wants.sort(key=lambda want: want.meter)
        grants: list[Granted] = []
        async with contextlib.AsyncExitStack() as locks:
            waits_for = "the keeper has just started and has not heard of every worker"
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._opened.wait()
                    waits_for = "the books are behind"
                    if not all(session.is_sure_of(want.meter) for want in wants):
                        await session.settled.wait()
                    waits_for = ""
                    for want in wants:
                        await locks.enter_async_context(self._desks.of(want).lock)
                    for want in wants:
                        grants.append(await self._decide(session, self._desks.of(want), want))
            except TimeoutError:
                missing = wants[len(grants) :]
                grants += [_failed(want, waits_for or self._desks.of(want).waits_for) for want in missing]
            if not session.is_lost:
                session.peer.push(Grant(take.serial, (*grants, *self._shown(session, take))))

    async def _decide(self, session: Session, desk: Desk, want: Want) -> Granted:
        """One step after the other until there is enough, or everything has been tried."""
        meter, need, limit = desk.meter, want.need, min(want.limit, MOST)
        failure = ""
        tried: list[Step] = []
        while not session.is_lost:
            step = meter.next_step(need, limit, session.journal, self._by_journal, tried)
            if step is Step.STORE and not failure:
                desk.waits_for = f"{desk.mover.counters.name} does not answer"
                failure = await desk.mover.move(meter, functools.partial(meter.move, need, limit))
            elif step is Step.WORKERS:
                desk.waits_for = "another worker does not answer"
                had = meter.shares[session.journal].total if session.journal in meter.shares else 0
                if not await self._recall_workers(meter, session.journal):
                    continue
                # What it returned itself it is still short of.
                need += max(0, had - meter.shares[session.journal].total) if had else 0
            elif step is Step.DEAD:
                desk.waits_for = "a worker that has units cannot be asked, and is not dead"
                await self._journals.close_dead()
                await asyncio.sleep(POLL_SECONDS)
                tried = [each for each in tried if each is not Step.WORKERS]  # who comes back is asked
            elif step is Step.HOSTS and not failure:
                desk.waits_for = f"{desk.mover.counters.name} does not answer"
                failure = await self._call_hosts(desk, need, limit)
            elif step is not Step.GRANT and (unsure := self._unsure_of(meter.name)):
                desk.waits_for = "the books are behind"
                await unsure.settled.wait()
                continue
            elif step is not Step.GRANT and failure and self._on_outage == "last_lease" and meter.borrow(limit):
                logger.warning("%s: %d units of %s are handed out on credit", failure, meter.borrowed, meter.name)
                self._tidy_if_needed(meter)
                continue
            else:
                return self._grant(session, meter, want, need, failure)
            tried.append(step)
        return _failed(want, "the worker is gone")

    def _grant(self, session: Session, meter: HostMeter, want: Want, need: int, failure: str = "") -> Granted:
        """Hand out what is in hand: a slice if it is enough, else all of it, and then the want is refused or failed."""
        if session.is_lost:
            return _failed(want, "the worker is gone")
        limit = min(want.limit, MOST)
        in_hand = meter.in_hand(limit)
        units = slice_of(in_hand, need, want.ask, max(1, len(self._by_journal)))
        total = meter.grant(session.journal, units)
        return Granted(
            meter=meter.name,
            units=units,
            total=total,
            remaining=meter.remaining(limit, session.journal),
            refused=units < need and not failure,
            failure=failure if units < need else "",
        )

    # Recalls

    async def _recall_workers(self, meter: HostMeter, journal: str) -> bool:
        journals = meter.recallable(journal, self._by_journal)
        return await self._recalls.make(meter.name, [self._by_journal[name] for name in journals])

    def _returned(self, session: Session, returned: Returned) -> None:
        for name, units in returned.units:
            desk = self._desks.get(name)
            if desk is not None:
                desk.meter.returned(session.journal, units)
                self._tidy_if_needed(desk.meter)
        recall = self._recalls.answered(returned.serial)
        if recall is not None:
            desk = self._desks.get(recall.meters)
            if desk is not None:
                desk.meter.emptied(session.journal)
            recall.heard(session)

    def _called_back(self, name: str) -> None:
        desk = self._desks.get(name)
        if desk is not None and self._opened.is_set():
            self._spawn(self._surrender(desk))

    def _forgotten(self, name: str) -> None:
        desk = self._desks.get(name)
        if desk is not None and desk.meter.granted is not None:
            self._spawn(self._restate(desk))

    async def _restate(self, desk: Desk) -> None:
        async with desk.lock:
            await desk.mover.move(desk.meter, desk.meter.restate)

    async def _surrender(self, desk: Desk) -> None:
        """Another host is short: it gets what is not spent here."""
        meter = desk.meter
        try:
            async with asyncio.timeout(PATIENCE), desk.lock:
                while not await self._recall_workers(meter, "") or meter.is_missing("", self._by_journal):
                    await self._journals.close_dead()
                    await asyncio.sleep(POLL_SECONDS)
                if not meter.is_recalled or meter.free:
                    await desk.mover.move(meter, meter.surrender)
        except TimeoutError:
            logger.warning("another host is short of %s, and not every worker here has answered", meter.name)

    async def _call_hosts(self, desk: Desk, need: int, limit: int) -> str:
        """Recall from other hosts and take what they return; empty, or why the store cannot be asked."""
        loop = asyncio.get_running_loop()
        meter, deadline, pause = desk.meter, loop.time() + HOSTS_SECONDS, POLL_SECONDS
        try:
            await desk.mover.counters.call_back(meter.name)
        except StoreUnavailable:
            return f"{desk.mover.counters.name} cannot be asked"
        while True:
            failure = await desk.mover.move(meter, functools.partial(meter.move, need, limit, is_last=True))
            if failure or meter.in_hand(limit) >= need:
                return failure
            now = loop.time()
            waited_for = [host for host in meter.holding if self._silent.get(host, 0) <= now]
            if not waited_for:
                break
            if now >= deadline:
                for host in waited_for:
                    self._silent[host] = now + SILENT_SECONDS
                logger.warning("host %s does not return what it has of %s", ", ".join(waited_for), meter.name)
                break
            await asyncio.sleep(pause)
            pause *= 1.5
        # Not enough for all who wait; what there is may be enough for some.
        return await desk.mover.move(meter, functools.partial(meter.move, need, limit)) if need > 1 else ""

    # What nobody waits for

    def _tidy_if_needed(self, meter: HostMeter) -> None:
        if meter.name not in self._untidy and meter.tidying() is not None:
            if not self._untidy:
                self._later(TIDY_SECONDS, self._tidy)
            self._untidy.add(meter.name)

    def _tidy(self) -> None:
        names, self._untidy = self._untidy, set()
        for name in names:
            desk = self._desks.get(name)
            if desk is not None:
                self._spawn(self._tidy_up(desk))

    async def _tidy_up(self, desk: Desk) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE), desk.lock:
                if desk.meter.free < 0:  # more was spent than taken: nobody goes on with what others have overspent
                    await self._recall_workers(desk.meter, "")
                move = desk.meter.tidying()
                if move is None or desk.mover.is_moving(desk.meter.name):
                    return
                if not await asyncio.shield(desk.mover.begin(desk.meter, move)):
                    return
        self._later(RETRY_SECONDS, lambda: self._tidy_if_needed(desk.meter))

    def _forget_ended(self) -> None:
        self._desks.forget_ended(self._clock() - ENDED_SECONDS)
        self._later(ENDED_SECONDS, self._forget_ended)

    # Small parts

    def _unsure_of(self, meter: str) -> Session | None:
        return next((session for session in self._by_journal.values() if meter in session.unsure), None)

    def _state_changed(self) -> None:
        for listener in self.on_state:
            listener()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a defect in the leases", exc_info=task.exception())

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        def run() -> None:
            self._handles.discard(handle)
            call()

        handle = asyncio.get_running_loop().call_later(seconds, run)
        self._handles.add(handle)


def _failed(want: Want, failure: str) -> Granted:
    return Granted(want.meter, 0, 0, 0, failure=failure)

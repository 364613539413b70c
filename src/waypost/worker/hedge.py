"""A second attempt beside one that is late (hedging): whichever has something to say first answers, alone.

The first attempt goes as every other does. Only if it is still silent when nearly all of its target's answers would
have begun is another link of the chain asked as well. From then on each attempt has a `Leg` in front of the caller, and
the first to commit takes the caller over: the other is cancelled in that moment, before a byte of the answer leaves.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from waypost.errors import Refusal
from waypost.formats.openai_chat import ChatRequest
from waypost.http.exchange import Exchange, Flow, Outlet
from waypost.policy.failures import HEDGED
from waypost.policy.speed import Patience
from waypost.policy.trail import Ticket, Trail
from waypost.worker.asking import Asking
from waypost.worker.attempt import Attempt
from waypost.worker.books import Entry
from waypost.worker.guard import Guard
from waypost.worker.outcome import Outcome, Unanswered
from waypost.worker.relay import Stamp
from waypost.worker.resolve import Resolved
from waypost.worker.tries import UNABLE, failed
from waypost.worker.upstreams import Upstream
from waypost.worker.walk import Signal

if TYPE_CHECKING:
    from waypost.worker.app import Worker

Decided = tuple[Ticket, Attempt, Outcome]
"""The attempt that a request goes on with, or ends with."""


class Leg:
    """One attempt of a race, and what stands between it and the caller until it is known who answers.

    To its attempt it is the outlet and the page in the books. Of what is said before an answer begins (comments that
    keep a stream alive) only the first leg's is passed on.
    """

    __slots__ = ("_race", "attempt", "flow", "over", "ticket")

    def __init__(self, race: Race, ticket: Ticket) -> None:
        self._race = race
        self.ticket = ticket
        self.flow: Flow | None = None
        self.attempt: Attempt
        self.over: Signal[Outcome]

    @property
    def started(self) -> bool:
        """The answer's status line is decided."""
        return self._race.outlet.started

    def start(self, status: int, headers: bytes) -> None:
        """A comment is about to be said."""
        if self._race.first is self:
            self._race.outlet.start(status, headers)

    def write(self, data: bytes) -> None:
        """A comment."""
        if self._race.first is self:
            self._race.outlet.write(data)

    def end(self, data: bytes = b"") -> None:
        """No attempt ends an answer that has not begun."""
        self._race.outlet.end(data)

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Nor does it give one without a word to the books."""
        self._race.outlet.respond(status, headers, body)

    def began_answer(self) -> None:
        """This one is first: from now on it writes to the caller itself."""
        self._race.won(self)
        self._race.entry.began_answer()

    def answered(self) -> None:
        """This one is first, with a whole answer."""
        self._race.won(self)
        self._race.entry.answered()


class Race:
    """One attempt of a request, and perhaps another beside it. Owned by the request's walk."""

    def __init__(
        self,
        worker: Worker,
        exchange: Exchange,
        outlet: Outlet,
        entry: Entry,
        request: ChatRequest,
        found: Resolved,
        trail: Trail,
    ) -> None:
        """`outlet` is where the answer goes; of a route that is hedged."""
        assert found.route.hedge is not None
        self._worker = worker
        self._exchange = exchange
        self.outlet = outlet
        self.entry = entry
        self._request = request
        self._preferences = found.asked.preferences
        self._trail = trail
        self._unknown = found.route.hedge
        self._pace = found.route.pace
        self._ends = exchange.arrived + found.route.deadline
        self.first: Leg
        self._second: Leg | None = None
        self._winner: Leg | None = None
        self._bell: Signal[None] = Signal()

    async def run(self, ticket: Ticket, attempt: Attempt, sent: bytes, stamp: Stamp) -> Decided:
        """Make the attempt. How it ends, or the one that overtakes it; what became of the other has been told.

        `stamp` is the first one's. All attempts but the returned one are closed.
        """
        first = self.first = Leg(self, ticket)
        first.attempt = attempt
        over = first.over = attempt.run(sent)
        late = self._patience(first).wait(self._unknown, self._worker.clock())
        await self._first_of((over,), late)
        if over.is_set or attempt.has_spoken:
            return self._noted(first, await over)
        second = self._second = await self._begin_beside(first, stamp)
        if second is None:
            return self._noted(first, await over)
        try:
            return await self._decide(first, second)
        finally:
            first.attempt.close()
            second.attempt.close()

    async def _begin_beside(self, first: Leg, stamp: Stamp) -> Leg | None:
        """Ask another; None: there is nobody, or it is not needed any more."""
        worker, trail, entry = self._worker, self._trail, self.entry
        asking = Asking(worker, self._exchange, entry, self._request, self._preferences, self._ends)
        while (ticket := trail.begin_beside(worker.clock())) is not None:
            upstream: Upstream = ticket.candidate.upstream
            metadata = stamp.metadata.of(ticket) if stamp.metadata is not None else None
            own = msgspec.structs.replace(stamp, provider=upstream.name, metadata=metadata)
            try:
                relay, headers, sent = await asking.put(upstream, upstream.dialect, own)
            except Unanswered as error:
                failed(worker, entry, trail, ticket, error.outcome)
                continue
            except Refusal as refusal:  # of what this format makes of the request; the first one's may take it
                failed(worker, entry, trail, ticket, Outcome(UNABLE, refusal.message, param=refusal.param))
                continue
            if first.over.is_set or first.attempt.has_spoken:
                trail.withdraw(ticket)
                return None
            leg = Leg(self, ticket)
            guard = Guard(self._pace, trail, worker.clock) if self._pace is not None else None
            leg.attempt = Attempt(
                leg, upstream, relay, headers, worker.keepalive, worker.deadlines, leg, self._ends, guard
            )
            entry.began(leg.attempt)
            first.attempt.divert(first, first)
            first.attempt.headers = first.attempt.headers.replace(
                b"\r\nx-attempts: %d\r\n" % first.attempt.number, b"\r\nx-attempts: %d\r\n" % entry.attempts
            )
            self.outlet.flow = None
            leg.over = leg.attempt.run(sent)
            return leg
        return None

    async def _decide(self, first: Leg, second: Leg) -> Decided:
        """Wait until one has answered, or has failed and left it to the other."""
        await self._first_of((first.over, second.over))
        done, other = (first, second) if first.over.is_set else (second, first)
        outcome = await done.over
        if self._winner is not None:  # it is this one: the other was closed as it began
            return self._noted(done, outcome)
        failed(self._worker, self.entry, self._trail, done.ticket, outcome, done.attempt)
        done.attempt.close()
        self._hand_over(other)
        return self._noted(other, await other.over)

    async def _first_of(self, overs: tuple[Signal[Outcome], ...], seconds: float | None = None) -> None:
        """Wait for one of them, or so long."""
        if any(over.is_set for over in overs):
            return
        bell = self._bell = Signal()
        for over in overs:
            over.walk = self
        timer = asyncio.get_running_loop().call_later(seconds, bell.set, None) if seconds is not None else None
        try:
            await bell
        finally:
            if timer is not None:
                timer.cancel()
            for over in overs:
                over.walk = None

    def go_on(self) -> None:
        """An attempt is over."""
        self._bell.set(None)

    # Who answers

    def won(self, leg: Leg) -> None:
        """It has something to say: it answers, and the other is given up."""
        assert self._second is not None
        self._winner = leg
        loser = self._second if leg is self.first else self.first
        now, status = self._worker.clock(), loser.attempt.status
        took = now - loser.ticket.began
        loser.attempt.close()
        self.entry.failed_attempt(Outcome(HEDGED, status=status), int(took * 1000), loser.attempt)
        self._trail.outrun(loser.ticket, now, status)
        if loser is self.first:
            self._patience(loser).note(took, now)  # it is that slow at least
        self._hand_over(leg)

    def _hand_over(self, leg: Leg) -> None:
        """To the only one that is left: it goes on as if it had been alone."""
        self.entry.attempt = leg.attempt
        self.outlet.flow = leg.attempt
        leg.attempt.divert(self.outlet, self.entry)

    def _noted(self, leg: Leg, outcome: Outcome) -> Decided:
        """Remember how long an answer took to begin."""
        if outcome.kind is None:
            now = self._worker.clock()
            self._patience(leg).note((leg.attempt.first_token or now) - leg.ticket.began, now)
        return leg.ticket, leg.attempt, outcome

    def _patience(self, leg: Leg) -> Patience:
        kept, stream = leg.ticket.candidate.speed.patience, not leg.attempt.relay.is_whole
        found = kept.get(stream)
        if found is None:
            found = kept[stream] = Patience()
        return found

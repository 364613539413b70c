"""One request's way along its plan: who is asked next, after which pause, and what the caller is told when it ends.

A `Trail` keeps every account that an attempt touches (breaker, budget, speed, home of the conversation), so that
whoever drives it, a worker or a simulation, only has to say what happened. Clock and dice are arguments.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from waypost.policy import retry
from waypost.policy.breaker import REFUSED
from waypost.policy.chains import Candidate, Plan
from waypost.policy.failures import BY_NAME, HEDGED, Ending, Failed, FailureClass, Lane, ending
from waypost.policy.retry import Dice, RetryBudget, RetrySettings, pause_before
from waypost.policy.stickiness import Conversation, Sticky

Choice = tuple[int, bool]
"""A candidate's place in the plan, and whether asking it is a repetition."""

NOWHERE = -1.0
"""What `failed` returns when nobody else is to be asked."""

SILENT = frozenset({"first_byte_timeout", "crawling"})
"""Failures that tell how slow a target is: at least as slow as this."""

FINAL = (BY_NAME["deadline"], BY_NAME["gone"])


class Ticket(msgspec.Struct, eq=False):
    """One attempt, from `begin` to whichever of `succeeded`, `failed`, `outrun`, `abandon` and `withdraw` ends it.

    `name` is that of the chain which its candidate belongs to. `payer`: whose budget a repetition is in, where that is
    not its own provider's.
    """

    candidate: Candidate
    name: str
    permit: int
    began: float
    is_repetition: bool
    is_over: bool = False
    payer: RetryBudget | None = None


class Lacking(msgspec.Struct, frozen=True):
    """A target that cannot serve a request: why in words, and `param`, the field of the request that it lacks."""

    lane: Lane
    message: str
    param: str | None = None


class Trail(msgspec.Struct, eq=False):
    """The attempts of one request. `_deadline` is the end of the request's own time.

    `tickets` are all attempts in the order in which they began, `failures` what became of those that failed, `lacking`
    the targets that were not asked because they cannot serve such a request.
    """

    _plan: Plan
    _conversation: Conversation
    _sticky: Sticky
    _deadline: float
    _settings: RetrySettings = retry.DEFAULT
    tickets: tuple[Ticket, ...] = ()
    failures: tuple[Failed, ...] = ()
    _failed: tuple[Ticket, ...] = ()  # in the order of `failures`
    lacking: tuple[Lacking, ...] = ()
    _next: Choice | None = None  # a repetition in its pause is in its provider's budget already

    @property
    def ending(self) -> Ending:
        """What the caller is told if nothing more is tried."""
        return ending(self.failures)

    # An attempt begins

    def begin(self, now: float) -> Ticket | None:
        """The first attempt, or the one that `failed` has chosen. None: there is nobody to ask any more."""
        if not self.tickets and not self.lacking:
            plan = self._plan
            if plan.candidates and not (candidate := plan.candidates[0]).breaker.until:
                # The usual case, in line: nobody is in trouble. Every call that is saved here is saved by each request.
                ticket = Ticket(candidate, plan.names[0], candidate.breaker.generation, now, False)
                budget = candidate.budget
                budget.begin()
                candidate.speed.active += 1
                self.tickets = (ticket,)
                return ticket
            return self._begin_first(now)
        choice, self._next = self._next, None
        if choice is None:
            return None
        place, is_repetition = choice
        candidate = self._plan.candidates[place]
        permit = candidate.breaker.admit(now, forced=self._plan.forced and not is_repetition)
        if permit != REFUSED:
            return self._begun(place, permit, now, is_repetition)
        if is_repetition:
            candidate.budget.end(True)
        choice = self._first_untried(now)  # its breaker has opened meanwhile
        if choice is None:
            return None
        self._reserve(choice)
        return self.begin(now)

    def begin_beside(self, now: float) -> Ticket | None:
        """A second attempt while the only one is still silent (hedging): at another link of its chain that is well.

        None: there is none, or too much of what the late one's provider is asked is repetition.
        """
        late = [ticket for ticket in self.tickets if not ticket.is_over]
        if len(late) != 1 or self._next is not None or self._plan.forced:
            return None
        payer = late[0].candidate.budget
        for place, _ in self._untried(now):
            candidate = self._plan.candidates[place]
            if self._plan.names[place] != late[0].name or candidate.breaker.until:
                continue  # another model's answer is worth less than a late one, and who is ill needs no more to do
            if not payer.begin_beside():
                return None
            candidate.budget.active += 1
            candidate.speed.active += 1
            ticket = Ticket(candidate, late[0].name, candidate.breaker.generation, now, True, payer=payer)
            self.tickets += (ticket,)
            return ticket
        return None

    def _begin_first(self, now: float) -> Ticket | None:
        plan = self._plan
        for place, candidate in enumerate(plan.candidates):
            permit = candidate.breaker.admit(now, forced=plan.forced)
            if permit != REFUSED:
                return self._begun(place, permit, now, False)
        if not plan.candidates:
            return None
        # Since the plan was made everybody's breaker has opened: the last target is never ejected.
        return self._begun(0, plan.candidates[0].breaker.admit(now, forced=True), now, False)

    def _begun(self, place: int, permit: int, now: float, is_repetition: bool) -> Ticket:
        candidate = self._plan.candidates[place]
        if not is_repetition:
            candidate.budget.begin()
        candidate.speed.active += 1
        ticket = Ticket(candidate, self._plan.names[place], permit, now, is_repetition)
        self.tickets = (*self.tickets, ticket) if self.tickets else (ticket,)
        return ticket

    def _reserve(self, choice: Choice) -> None:
        place, is_repetition = choice
        if is_repetition:
            self._plan.candidates[place].budget.begin_again()
        self._next = choice

    # An attempt ends

    def succeeded(self, ticket: Ticket, now: float, first_token: float, tokens: int = 0) -> None:
        """A whole answer, `first_token` seconds after the attempt began, of so many tokens (0: not known)."""
        if ticket.is_over:
            return
        candidate = ticket.candidate
        ticket.is_over = True
        candidate.speed.active -= 1
        budget = candidate.budget
        budget.active -= 1
        if ticket.is_repetition:
            (ticket.payer or budget).repeating -= 1
        candidate.breaker.succeeded(ticket.permit, now)
        candidate.speed.note_first_token(first_token, now)
        if tokens:
            candidate.speed.note_throughput(tokens, now - ticket.began - first_token, now)
        plan, sticky = self._plan, self._sticky
        if plan.keeps or candidate is not plan.home:
            sticky.keep(self._conversation.name, candidate.lane, now)
        elif sticky.kept:  # it is answered where it would go anyway: nothing to remember
            sticky.forget(self._conversation.name)
        if sticky.kept:
            sticky.sweep(now)

    def failed(
        self,
        ticket: Ticket,
        kind: FailureClass,
        now: float,
        dice: Dice,
        *,
        retry_after: float | None = None,
        status: int = 0,
        message: str = "",
        committed: bool = False,
    ) -> float:
        """An attempt failed. Seconds to wait until `begin` (0.0: none), or NOWHERE, and then `ending` is the answer.

        Where another attempt is under way beside it (NOWHERE too) that one goes on. `committed`: the caller has part of
        the answer, so nobody may take over.
        """
        if ticket.is_over:
            return NOWHERE
        self._over(ticket)
        candidate, took = ticket.candidate, now - ticket.began
        used_it_up = kind.name == "deadline" and 2 * took >= self._deadline - self.tickets[0].began
        # Whoever had most of a request's time and did not finish stalls, though the request's own clock struck first.
        candidate.breaker.failed(ticket.permit, now, "failure" if used_it_up else kind.counts, retry_after)
        if kind.name in SILENT:
            candidate.speed.note_first_token(took, now)
        if self._sticky.kept and kind.spares != "request":
            self._sticky.release(self._conversation.name, candidate.lane)
        self._failed += (ticket,)
        self.failures += (Failed(candidate.lane, kind, message, status, retry_after, took),)
        return NOWHERE if committed or kind in FINAL else self._choose(now, dice)

    def close(self) -> None:
        """The request is over, however: what is still under way says nothing about its upstream."""
        for ticket in self.tickets:
            if not ticket.is_over:
                self._over(ticket)
                ticket.candidate.breaker.release(ticket.permit)
        choice, self._next = self._next, None
        if choice is not None and choice[1]:
            self._plan.candidates[choice[0]].budget.end(True)

    def abandon(self, ticket: Ticket) -> None:
        """The caller left: this one's end says nothing about its upstream."""
        if not ticket.is_over:
            self._over(ticket)
            ticket.candidate.breaker.release(ticket.permit)

    def outrun(self, ticket: Ticket, now: float, status: int = 0) -> None:
        """Another attempt of the request has answered first. `status` is what had come from this one."""
        if ticket.is_over:
            return
        self.abandon(ticket)
        took, speed = now - ticket.began, ticket.candidate.speed
        if took > speed.latency(now):  # it is that slow at least
            speed.note_first_token(took, now)
        self._failed += (ticket,)
        self.failures += (Failed(ticket.candidate.lane, HEDGED, "", status, None, took),)

    def withdraw(self, ticket: Ticket) -> None:
        """It was not made after all."""
        if ticket.payer is not None and not ticket.is_over:
            ticket.payer.take_back()
            ticket.payer = None
            ticket.is_repetition = False
        self.abandon(ticket)
        self.tickets = tuple(other for other in self.tickets if other is not ticket)

    def unable(self, ticket: Ticket, now: float, dice: Dice, message: str = "", param: str | None = None) -> float:
        """Its target cannot serve such a request, and was not asked: as if it did not stand in the plan.

        Returns what `failed` does.
        """
        self.withdraw(ticket)
        self.lacking += (Lacking(ticket.candidate.lane, message, param),)
        return self._choose(now, dice)

    def _over(self, ticket: Ticket) -> None:
        ticket.is_over = True
        ticket.candidate.speed.active -= 1
        budget = ticket.candidate.budget
        budget.active -= 1
        if ticket.is_repetition:
            (ticket.payer or budget).repeating -= 1

    # Who is next

    def _choose(self, now: float, dice: Dice) -> float:
        """Reserve the next attempt; the seconds until it may begin, or NOWHERE."""
        if any(not other.is_over for other in self.tickets):
            return NOWHERE
        choice, wait = self._first_untried(now), 0.0
        if choice is None:
            choice, wait = self._again(now, dice)
        if choice is None:
            return NOWHERE
        self._reserve(choice)
        return wait

    def _may_go_on(self, now: float) -> bool:
        attempts = self._plan.attempts or self._settings.attempts
        return len(self.tickets) < attempts and now + self._settings.least <= self._deadline

    def is_another_left(self, now: float) -> bool:
        """Could somebody who has not been asked take over at once?"""
        return self._first_untried(now) is not None

    def _first_untried(self, now: float) -> Choice | None:
        for place, is_repetition in self._untried(now):
            if not is_repetition or self._plan.candidates[place].budget.allows:
                return place, is_repetition
        return None

    def _untried(self, now: float) -> Iterator[Choice]:
        """Those of the plan that have not been asked, and that no failure so far speaks against."""
        plan = self._plan
        if not self._may_go_on(now):
            return
        asked = {ticket.candidate.lane for ticket in self.tickets}
        spared = {lane[::2] for lane in asked}  # provider and model
        spared -= {failure.lane[::2] for failure in self.failures if failure.kind.spares == "key"}
        spared |= {failure.lane[::2] for failure in self.failures if failure.kind.spares == "target"}
        spared |= {lacking.lane[::2] for lacking in self.lacking}
        providers = {lane[0] for lane in asked}
        for place, candidate in enumerate(plan.candidates):
            lane = candidate.lane
            if lane in asked or lane[::2] in spared or not self._may_follow(place):
                continue
            if candidate.breaker.blocks(now) and not plan.forced:
                continue
            yield place, lane[0] in providers

    def _may_follow(self, place: int) -> bool:
        """After an error of the request's content: only another model that the caller named, or a larger context."""
        plan = self._plan
        for ticket, failure in zip(self._failed, self.failures, strict=True):
            if failure.kind.spares != "request":
                continue
            name, candidate = plan.names[place], plan.candidates[place]
            if name in plan.elsewhere and name != ticket.name:
                continue
            known, other = ticket.candidate.target.context, candidate.target.context
            if not plan.larger or failure.kind.name != "context_length" or not known or not other or other <= known:
                return False
        return True

    def _again(self, now: float, dice: Dice) -> tuple[Choice | None, float]:
        """A second question to somebody who failed: who may be asked soonest. Where the pause is too long, nobody."""
        settings = self._settings
        best: Choice | None = None
        shortest = settings.longest_wait
        if not self._may_go_on(now):
            return None, NOWHERE
        latest = {failure.lane: failure for failure in self.failures}
        hopeless = {failure.lane[::2] for failure in self.failures if is_hopeless(failure.kind)}
        thrown = dice()  # once for all: of equals the plan's first is asked
        for place, candidate in enumerate(self._plan.candidates):
            failure, breaker = latest.get(candidate.lane), candidate.breaker
            if failure is None or not failure.kind.again or candidate.lane[::2] in hopeless:
                continue
            if breaker.is_open or not candidate.budget.allows or not self._may_follow(place):
                continue
            times = sum(other.lane == failure.lane for other in self.failures)
            # What is left of the breaker's rest is what the upstream asked for, or what a 429 without a word gets.
            hint = max(0.0, breaker.until - now) if failure.kind.counts == "limit" else failure.retry_after
            wait = pause_before(times, settings, lambda: thrown, hint)
            if wait < shortest and now + wait + settings.least <= self._deadline:
                best, shortest = (place, True), wait
        return best, shortest


def is_hopeless(kind: FailureClass) -> bool:
    """Would all keys of a target meet the same, now and after a pause?"""
    return kind.spares == "target" and not kind.again

"""Leases, decided: how much to ask for, how much to hand out, and who has what of one meter on one host. Pure.

The store has one number for a meter: the units that hosts have taken. What a host has taken is, at every moment, either
spent, or some worker's, or free on the host. Taking comes before spending on each of these steps, so a limit is never
passed; and before anyone is refused, whoever has unspent units is asked to return them.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

AHEAD: Final = 32
"""Times what is missing now: what a worker asks for that has not asked lately."""

HORIZON: Final = 60.0
"""Seconds that a lease is to last."""

MOST: Final = 1 << 60
"""Limits are cut to this, so that sums of them fit into 64 bits."""

NO_MORE: Final = 1 << 62
"""A `Move.share` that asks for nothing beyond the need: more than there ever is room for."""


def ask_for(need: int, last: int, age: float) -> int:
    """Units to ask for: `need` now, and `last` were granted `age` seconds ago and are spent.

    Enough for the next `HORIZON` at the pace of late, but no more than twice the last time.
    """
    pace = HORIZON / age if age > HORIZON / 2 else 2.0
    return max(need * AHEAD, int(last * pace))


def slice_of(remaining: int, need: int, ask: int, holders: int) -> int:
    """Units to hand out of `remaining`: at least `need` if there are so many, and towards `ask` a fair share.

    Large far from the limit; close to it no more than is needed, which leaves the others theirs without a recall.
    """
    return max(0, min(remaining, max(need, min(ask, remaining // holders))))


def is_fast(meter: str) -> bool:
    """Does this meter move with every request, and end soon? Then it may live in a store that can forget."""
    _, what, window, *_ = meter.split(":", 3)
    return what == "streams" or (what in ("requests", "tokens") and window in ("minute", "hour", "day"))


class Move(msgspec.Struct, frozen=True):
    """What a host does to the store's number, in one atomic step.

    It gives `back` what it has free, takes `owed` whatever the limit says (that is spent already), and then, of the
    room that is left under `limit`, `need` or 1/`share`, whichever is more; with `is_whole` all of `need` or nothing.
    `known` is what it believes to have taken before; a store that has lost its memory believes it. `is_empty`: but for
    what it takes now, this host and its workers have nothing unspent.
    """

    meter: str
    ends: int
    limit: int
    need: int
    share: int
    known: int
    back: int = 0
    owed: int = 0
    is_whole: bool = False
    is_empty: bool = False

    def room(self, taken: int) -> int:
        """Units left under the limit where hosts had `taken` so many before this move; may be below zero."""
        return self.limit - (taken - self.back + self.owed)

    def grant(self, taken: int) -> int:
        """Units that the host gets: what every store must compute."""
        room = self.room(taken)
        if self.is_whole and room < self.need:
            return 0
        return max(0, min(room, max(self.need, room // self.share)))


class Moved(msgspec.Struct, frozen=True):
    """The store's answer: units `granted`, all that hosts have `taken`, and of these all that this one has (`held`).

    `others` are further hosts that have taken some; those who may have unspent units are `holding`, too.
    """

    granted: int
    taken: int
    held: int
    others: int = 0
    holding: tuple[str, ...] = ()


class Step(enum.Enum):
    """What to do next for a worker that wants units."""

    GRANT = "there is enough"
    STORE = "ask the store"
    WORKERS = "recall from the host's other workers"
    DEAD = "read the journals of workers that are gone"
    HOSTS = "recall from other hosts"
    REFUSE = "there is no more"


class Share:
    """What one worker has of a meter."""

    __slots__ = ("is_idle", "spent", "total")

    def __init__(self) -> None:
        self.total = 0  # units, spent or not
        self.spent = 0  # by the lines of its journal that are in the books
        self.is_idle = True  # it has nothing unspent, and returns at once what comes back


class HostMeter:
    """One meter as its host knows it.

    `is_shared`: other hosts may move the store's number, so only the store knows it; where they may not, this host
    takes all there is at once, and knows the number itself. `is_loaded`: whatever the host has had of it stands here;
    else the store's first answer tells how much of that is unknown.
    """

    __slots__ = (
        "borrowed",
        "ends",
        "folded",
        "granted",
        "handed_limit",
        "has_borrowed",
        "holding",
        "is_new",
        "is_partial",
        "is_recalled",
        "is_shared",
        "limit",
        "name",
        "others",
        "shares",
        "slice",
        "taken",
    )

    def __init__(self, name: str, ends: int, *, is_shared: bool, is_loaded: bool = False) -> None:
        self.name = name
        self.ends = ends
        self.is_shared = is_shared
        self.is_new = not is_loaded
        self.is_partial = False  # units were taken of which nothing is known here: they count as spent
        self.limit = MOST if is_loaded else 0  # the highest under which free units were taken
        self.handed_limit = self.limit  # and under which those were that workers may return
        self.granted: int | None = None  # units that the host has taken from the store; None: not heard yet
        self.taken: int | None = None  # by all hosts
        self.folded = 0  # spent by journals that are closed
        self.shares: dict[str, Share] = {}  # by the worker's journal
        self.is_recalled = False  # the store says so of this host: it must ask before it hands out what came back
        self.others = 0
        self.holding: tuple[str, ...] = ()
        self.slice = 0  # latest, from the store
        self.borrowed = 0  # units handed out on credit while the store could not be asked
        self.has_borrowed = False

    # What there is

    @property
    def free(self) -> int:
        """Units that are nobody's; below zero when more was spent than taken."""
        if self.granted is None:
            return 0
        return self.granted + self.borrowed - self._handed()

    def in_hand(self, limit: int) -> int:
        """Units that may be handed out without asking the store."""
        if self.granted is None or self.taken is None:
            return 0
        if self.is_shared:
            return 0 if self._must_ask(limit) else max(0, self.free)
        return max(0, min(self.free, limit - self.taken - self.borrowed + self.free))

    def remaining(self, limit: int, journal: str) -> int:
        """Units that this worker could still get, as far as is known: the room left, and what others have unspent."""
        unspent = sum(max(0, share.total - share.spent) for name, share in self.shares.items() if name != journal)
        return max(0, limit - (self.taken or 0) - self.borrowed + self.free + unspent)

    # What to do

    def next_step(self, need: int, limit: int, journal: str, linked: Collection[str], tried: Sequence[Step]) -> Step:
        """For a want of the worker that writes `journal`, after `tried`; `linked` are the journals of workers at hand.

        A want without a need takes what is in hand.
        """
        if need <= self.in_hand(limit):
            return Step.GRANT
        if Step.STORE not in tried and self._store_may_help(limit):
            return Step.STORE
        if tried and tried[-1] is not Step.STORE and self._must_ask(limit) and self.free > 0:
            return Step.STORE
        if Step.WORKERS not in tried and self.recallable(journal, linked):
            return Step.WORKERS
        if self.is_missing(journal, linked) or (Step.DEAD not in tried and self.is_unswept(journal, linked)):
            return Step.DEAD
        if Step.HOSTS not in tried and self.holding:
            return Step.HOSTS
        return Step.REFUSE

    def recallable(self, journal: str, linked: Collection[str]) -> list[str]:
        """Journals of the workers to recall from, before the one that writes `journal` is refused.

        It is one of them where other hosts are asked next: they must see that this one has nothing left at all.
        """
        return [
            name
            for name, share in self.shares.items()
            if not share.is_idle and name in linked and (name != journal or self.is_shared)
        ]

    def is_missing(self, journal: str, linked: Collection[str]) -> bool:
        """Is there someone who cannot be asked, and may have units that are not spent?"""
        return any(name not in linked and name != journal and not share.is_idle for name, share in self.shares.items())

    def is_unswept(self, journal: str, linked: Collection[str]) -> bool:
        """Has somebody who cannot be asked units at all? If he is dead, what his requests reserved may come free."""
        return any(name not in linked and name != journal and share.total > 0 for name, share in self.shares.items())

    def move(self, need: int, limit: int, *, is_last: bool = False) -> Move:
        """What to ask of the store for a want. `is_last`: other hosts are asked too, so all of the need or nothing."""
        if not self.is_shared:
            return self._move(limit, max(0, need - self.in_hand(limit)), 1, 0)
        back = max(0, self.free) if is_last or self._must_ask(limit) else 0
        need = max(0, need - max(0, self.free - back))
        return self._move(limit, need, 2 * (self.others + 1), back, is_whole=is_last)

    def tidying(self) -> Move | None:
        """What the store should hear though nobody wants anything: debts, and what came back after a recall."""
        back = max(0, self.free) if self.is_recalled else 0
        return self._move(self.limit, 0, NO_MORE, back) if back or self.borrowed or self.free < 0 else None

    def restate(self) -> Move:
        """The store has forgotten: it is told what this host has."""
        return self._move(self.limit, 0, NO_MORE, 0)

    def surrender(self) -> Move:
        """Another host is short: everything free goes back, once the workers have returned theirs."""
        return self._move(self.limit, 0, NO_MORE, max(0, self.free))

    def _move(self, limit: int, need: int, share: int, back: int, *, is_whole: bool = False) -> Move:
        free = self.free
        return Move(
            meter=self.name,
            ends=self.ends,
            limit=limit,
            need=need,
            share=share,
            known=self._handed() if self.granted is None else self.granted,
            back=back,
            owed=self.borrowed + max(0, -free),
            is_whole=is_whole,
            is_empty=self.is_shared and free <= back and all(share.is_idle for share in self.shares.values()),
        )

    # What happens

    def leaves(self, move: Move) -> None:
        """`move` is on its way: what it gives back is gone, whether or not an answer comes."""
        if self.granted is not None:
            self.granted -= move.back

    def moved(self, move: Move, answer: Moved) -> None:
        """The store has answered. Its `held` mends what an answer that never came left in doubt."""
        if self.is_new:
            before = answer.held - answer.granted - move.owed + move.back
            self.folded += max(0, before)
            self.is_partial = before > 0
            self.is_new = False
        self.granted = answer.held
        self.borrowed = max(0, self.borrowed - move.owed)
        self.taken = answer.taken
        self.others = answer.others
        self.holding = answer.holding
        self.limit = move.limit if self.free <= answer.granted else max(self.limit, move.limit)
        self.slice = answer.granted or self.slice
        self.is_recalled = move.is_empty and not answer.granted

    def borrow(self, limit: int) -> bool:
        """The store cannot be asked: hand out, on credit, one more slice of the last size; once in a window.

        In a window that began meanwhile it is a first slice. Never more than a fair share of what the store had left
        when last heard.
        """
        if self.has_borrowed or self.is_recalled or self.free < 0:
            return False
        hosts = self.others + 1
        first = limit // (2 * hosts) if self.is_shared else limit
        size = min(self.slice or first, (limit - (self.taken or 0)) // hosts)
        if size <= 0:
            return False
        if self.granted is None:
            self.granted = self._handed()
        if self.taken is None:
            self.taken = self.granted
        self.has_borrowed = True
        self.borrowed = size
        self.limit = max(self.limit, limit)
        return True

    def grant(self, journal: str, units: int) -> int:
        """They are the worker's now; its total."""
        share = self._share(journal)
        share.total += units
        share.is_idle = share.is_idle and not units
        self.handed_limit = max(self.handed_limit, self.limit)
        return share.total

    def returned(self, journal: str, units: int) -> None:
        """The worker has returned them; below zero, it has spent more than it had."""
        self._share(journal).total -= units
        self._freed()

    def emptied(self, journal: str) -> None:
        """The worker has answered a recall: it has nothing unspent."""
        if journal in self.shares:
            self.shares[journal].is_idle = True
            self._freed()

    def stated(self, journal: str, total: int) -> None:
        """The worker says what it has."""
        share = self._share(journal)
        share.total, share.is_idle = total, False
        self._freed()

    def settled(self, journal: str) -> None:
        """The worker knows nothing of this meter, and every line of its journal is in the books."""
        share = self._share(journal)
        share.total, share.is_idle = share.spent, True
        self._freed()

    def wrote(self, journal: str, units: int) -> None:
        """Lines of the journal have come into the books: they took so many units, or gave some back."""
        self._share(journal).spent += units

    def closed(self, journal: str) -> None:
        """The worker is gone and its journal is read to its end: what it did not spend is free again."""
        share = self.shares.pop(journal, None)
        if share is not None:
            self.folded += share.total if self.is_partial else share.spent
            self._freed()

    def _freed(self) -> None:
        """Units may have become free that were taken under another limit."""
        if self.free > 0:
            self.limit = max(self.limit, self.handed_limit)
        if all(share.is_idle for share in self.shares.values()):
            self.handed_limit = 0

    def _share(self, journal: str) -> Share:
        share = self.shares.get(journal)
        if share is None:
            share = self.shares[journal] = Share()
        return share

    def _handed(self) -> int:
        return self.folded + sum(share.total for share in self.shares.values())

    def _must_ask(self, limit: int) -> bool:
        """May free units be used only by returning them first? The store then decides who gets them."""
        return self.is_shared and (self.is_recalled or limit < self.limit)

    def _store_may_help(self, limit: int) -> bool:
        return self.is_shared or self.taken is None or limit > self.taken or bool(self.borrowed) or self.free < 0

"""Targets and the chains made of them: the part of routing that a configuration decides once, not each request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from waypost.policy.breaker import Breaker
from waypost.policy.failures import Lane
from waypost.policy.health import Health
from waypost.policy.retry import RetryBudget
from waypost.policy.speed import Speed
from waypost.policy.stickiness import Sticky

Strategy = Literal["ordered", "weighted", "latency", "price"]
Prices = tuple[int, int, int]
"""Nano-dollars: of a million tokens of a prompt, of a million tokens of a completion, of a request."""


class Target(msgspec.Struct, frozen=True, eq=False):
    """A provider's model, and what is known of it. None where nothing is declared: then it is assumed to fit.

    `keys` are labels of the provider's keys, never the keys themselves, and their weights. `parameters`: the request
    fields that it obeys. `keeps_data`: it may store what it is sent, or learn from it. `moves_tools`: its format lets
    another upstream go on where this one has called tools. `reasons`: it can be asked to think.
    """

    provider: str
    model: str
    keys: tuple[tuple[str, float], ...] = (("1", 1.0),)
    weight: float = 1.0
    prices: Prices | None = None
    context: int | None = None
    modalities: frozenset[str] | None = None
    parameters: frozenset[str] | None = None
    keeps_data: bool = True
    moves_tools: bool = True
    reasons: bool | None = None

    @property
    def blended(self) -> float:
        """One price to sort by: three parts of the prompt's, one of the completion's. Unknown sorts last."""
        return float("inf") if self.prices is None else (3 * self.prices[0] + self.prices[1]) / 4


class Candidate:
    """A target with one of its keys: what one attempt goes to, and the state that is kept of it.

    `upstream` is for whoever carries out attempts: what it needs to make one here.
    """

    __slots__ = ("breaker", "budget", "key", "lane", "speed", "target", "upstream", "weight")

    def __init__(self, target: Target, key: str, weight: float, health: Health) -> None:
        self.target = target
        self.key = key
        self.weight = weight
        self.lane: Lane = (target.provider, key, target.model)
        self.breaker: Breaker = health.breaker(self.lane)
        self.speed: Speed = health.speed(target.provider, target.model)
        self.budget: RetryBudget = health.budget(target.provider)
        self.upstream: Any = None

    def __repr__(self) -> str:
        return f"{self.target.provider}/{self.target.model}#{self.key}"


Keys = tuple[Candidate, ...]
"""The candidates of one target, one for each key."""


class Dropped(msgspec.Struct, frozen=True):
    """A candidate that was left out. `reason` is one of a closed set of words, `detail` says more to people."""

    candidate: Candidate
    reason: str
    detail: str = ""


class Plan(msgspec.Struct, frozen=True, eq=False):
    """Who is asked, in order. `names` has the chain that each candidate belongs to.

    `forced`: every breaker was open, so none is obeyed. `home`: who would be first if nothing were remembered.
    `attempts` below the usual number where a rule says so, 0 otherwise. `elsewhere`: chains that also take over after
    errors of the request's content, because the caller named them. `larger`: after a prompt was too long, go on to a
    larger context. `keeps`: whoever answers is remembered for the conversation, home or not.
    """

    candidates: tuple[Candidate, ...]
    names: tuple[str, ...]
    strategy: str
    dropped: tuple[Dropped, ...] = ()
    forced: bool = False
    sticky: bool = False
    home: Candidate | None = None
    attempts: int = 0
    elsewhere: frozenset[str] = frozenset()
    larger: bool = False
    keeps: bool = False


class Chain:
    """A model's targets in order, and how to choose among them.

    `plain` is the plan for a request that asks for nothing special on a day without trouble; None where every request
    has to be looked at. `picky`: not every target takes every request; `tightest` is the smallest context, in tokens,
    where they differ, else 0; `sees`: it is declared of some target what it takes besides text.
    """

    __slots__ = (
        "fallbacks", "larger", "name", "picky", "plain", "sees", "sticky", "strategy", "strict", "targets", "tightest",
        "wanders",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        targets: Sequence[Target],
        health: Health,
        *,
        strategy: Strategy = "ordered",
        fallbacks: Sequence[Chain] = (),
        larger: bool = False,
        strict: bool = False,
    ) -> None:
        """`fallbacks`: chains of other models that follow this one, already flat (`expand`).

        `strict`: results of tool calls go to one upstream, once.
        """
        self.name = name
        self.strategy: Strategy = strategy
        self.larger = larger
        self.strict = strict
        self.sticky: Sticky = health.sticky(name)
        self.fallbacks = tuple(fallbacks)
        if strategy == "price":
            targets = sorted(targets, key=lambda target: target.blended)
        self.targets: tuple[Keys, ...] = tuple(
            tuple(Candidate(target, key, weight, health) for key, weight in target.keys) for target in targets
        )
        self.wanders = strategy in ("weighted", "latency") or any(len(keys) > 1 for keys in self.targets)
        # What a request needs has to be known only where some target might not have it and another might.
        everybody = [keys[0].target for chain in (self, *self.fallbacks) for keys in chain.targets]
        contexts = {target.context for target in everybody}
        self.tightest = min((context for context in contexts if context), default=0) if len(contexts) > 1 else 0
        self.sees = any(target.modalities is not None for target in everybody)
        self.picky = self.sees or bool(self.tightest)
        self.plain = self._plain() if self._is_plain else None

    @property
    def _is_plain(self) -> bool:
        moves = all(keys[0].target.moves_tools for keys in self.targets)
        return not self.wanders and not self.strict and moves and all(chain._is_plain for chain in self.fallbacks)

    def _plain(self) -> Plan:
        lanes: dict[Lane, tuple[Candidate, str]] = {}
        for chain in (self, *self.fallbacks):
            for keys in chain.targets:
                lanes.setdefault(keys[0].lane, (keys[0], chain.name))
        candidates = tuple(candidate for candidate, _ in lanes.values())
        return Plan(
            candidates,
            tuple(name for _, name in lanes.values()),
            self.strategy,
            forced=len(candidates) == 1,
            home=candidates[0],
            larger=self.larger,
        )


def expand(name: str, fallbacks: dict[str, Sequence[str]]) -> list[str]:
    """A model and those that it falls back to, theirs included, in order, each once; a circle ends where it closes.

    What a fallback falls back to comes before the next fallback.
    """
    found: dict[str, None] = {}
    pending = [name]
    while pending:
        following = pending.pop(0)
        if following not in found:
            found[following] = None
            pending[:0] = fallbacks.get(following, ())
    return list(found)

"""What a worker knows of its upstreams, by name: it outlives every configuration and is owned by one event loop."""

from __future__ import annotations

from collections.abc import Iterable

from waypost.policy import breaker
from waypost.policy.breaker import Breaker, BreakerSettings
from waypost.policy.failures import Lane
from waypost.policy.retry import RetryBudget
from waypost.policy.speed import Speed
from waypost.policy.stickiness import Sticky


class Health:
    """Breakers of lanes, speeds of targets, budgets of providers, and where conversations are at home."""

    def __init__(self, settings: BreakerSettings = breaker.DEFAULT) -> None:
        self._settings = settings
        self.troubled: set[Breaker] = set()  # those that may refuse; empty on a good day
        self.breakers: dict[Lane, Breaker] = {}
        self.speeds: dict[tuple[str, str], Speed] = {}
        self.budgets: dict[str, RetryBudget] = {}
        self.homes: dict[str, Sticky] = {}

    def breaker(self, lane: Lane) -> Breaker:
        """The one of this name."""
        found = self.breakers.get(lane)
        if found is None:
            found = self.breakers[lane] = Breaker(self._settings, self.troubled)
        return found

    def speed(self, provider: str, model: str) -> Speed:
        """The one of this name."""
        return self.speeds.setdefault((provider, model), Speed())

    def budget(self, provider: str) -> RetryBudget:
        """The one of this name."""
        return self.budgets.setdefault(provider, RetryBudget())

    def sticky(self, chain: str) -> Sticky:
        """The one of this name."""
        return self.homes.setdefault(chain, Sticky())

    def retain(self, lanes: Iterable[Lane], chains: Iterable[str]) -> None:
        """Forget what no configuration names any more; requests in flight keep what they hold."""
        kept, names = set(lanes), set(chains)
        targets = {(provider, model) for provider, _, model in kept}
        providers = {provider for provider, _ in targets}
        for lane in [lane for lane in self.breakers if lane not in kept]:
            self.troubled.discard(self.breakers.pop(lane))
        self.speeds = {target: speed for target, speed in self.speeds.items() if target in targets}
        self.budgets = {name: budget for name, budget in self.budgets.items() if name in providers}
        self.homes = {name: sticky for name, sticky in self.homes.items() if name in names}

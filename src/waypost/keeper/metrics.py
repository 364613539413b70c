"""Metrics for Prometheus, counted from what the ledger has written down: never from the hot path.

Names of models come from callers, so one gets its own label only once an upstream has answered for it, and only so many
do; everything else is `other`. No label names an account or a key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import astuple

from waypost.dollars import NANO
from waypost.errors import BY_CODE
from waypost.keeper.pairing import Batch
from waypost.records import Settled, Usage

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

MODELS: Final = 500
"""Models that have a label of their own."""

OTHER: Final = "other"
LATENCY: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
FIRST_TOKEN: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of buckets, in seconds."""

Labels = tuple[str, ...]


class Gauges(msgspec.Struct, frozen=True):
    """What is so at this moment, asked for at each scrape."""

    open_requests: int = 0
    journal_bytes: int = 0
    journal_lag_seconds: float = 0.0
    books_ready: bool = True


class Histogram:
    """Observations of one series, in milliseconds, by bucket; the last bucket is for what is above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = [bound * 1000 for bound in bounds]
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0


class Metrics:
    """Give `on_batch` to the ledger; `render` is the page. Counts begin anew with the process."""

    def __init__(self, gauges: Callable[[], Gauges]) -> None:
        self._gauges = gauges
        self._named: set[str] = set()
        self._requests: defaultdict[Labels, int] = defaultdict(int)
        self._errors: defaultdict[Labels, int] = defaultdict(int)
        self._tokens: dict[Labels, list[int]] = {}
        self._cost: defaultdict[Labels, int] = defaultdict(int)
        self._attempts: defaultdict[Labels, int] = defaultdict(int)
        self._repeated: defaultdict[Labels, int] = defaultdict(int)
        self._latency: dict[Labels, Histogram] = {}
        self._first_token: dict[Labels, Histogram] = {}
        self._lease_calls = 0
        self._key_look_ups = 0

    def on_batch(self, batch: Batch) -> None:
        """Count what is now in the books."""
        alike: dict[tuple[str, str, str, int], list[Settled]] = {}
        for opened, settled in batch.settled:
            model = opened.model if opened.model in self._named else self._label(opened.model, settled)
            key = (model, settled.provider, opened.plan, settled.status)
            group = alike.get(key)
            if group is None:
                group = alike[key] = []
            group.append(settled)
        for (model, provider, plan, status), group in alike.items():
            self._count(model, provider, plan, status, group)
        for attempted in batch.attempted:
            self._attempts[attempted.provider, attempted.code] += 1
        for tally in batch.tallies:
            for code, count in tally.refusals.items():
                self._errors[code,] += count
            self._lease_calls += tally.takes
            self._key_look_ups += tally.look_ups

    def _count(self, model: str, provider: str, plan: str, status: int, group: list[Settled]) -> None:
        """Requests whose labels are the same, a column at a time."""
        self._requests[model, provider, plan, str(status)] += len(group)
        for code in [settled.code for settled in group if settled.code]:
            if code not in BY_CODE:  # what was said to a caller is in the workers' tallies
                self._errors[code,] += 1
        counted = [settled for settled in group if settled.requests]
        if counted:
            usages = [astuple(settled.usage) for settled in counted]
            tokens = self._tokens.get((model, provider)) or [0] * len(Usage.__struct_fields__)
            self._tokens[model, provider] = [*map(sum, zip(tokens, *usages, strict=True))]
            self._cost[model, provider, plan] += sum([settled.cost for settled in counted])
        repeated = [settled for settled in group if settled.source]
        if repeated:
            self._repeated[model,] += len(repeated)
        if provider:
            observe(self._latency, (model, provider), LATENCY, [settled.latency for settled in group])
            first = [settled.first_token for settled in group if settled.first_token]
            observe(self._first_token, (model, provider), FIRST_TOKEN, first)

    def _label(self, model: str, settled: Settled) -> str:
        """The label of a model that has no name here; a good answer gives it one."""
        if settled.code or len(self._named) >= MODELS:
            return OTHER
        self._named.add(model)
        return model

    # The page

    def render(self) -> bytes:
        """Prometheus' text format, version 0.0.4."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks of a collector."""
        by_all, by_upstream = ("model", "provider", "plan", "status"), ("model", "provider")
        yield counter("requests", "Requests that are over, by the status that the caller saw.", by_all, self._requests)
        yield counter("errors", "Requests that failed or were refused, by X-Error-Code.", ("code",), self._errors)
        kinds = Usage.__struct_fields__
        tokens = {
            (kind, *labels): counts[number]
            for labels, counts in self._tokens.items()
            for number, kind in enumerate(kinds)
            if counts[number]
        }
        yield counter("tokens", "Tokens, each counted once.", ("kind", *by_upstream), tokens)
        cost = {labels: nano / NANO for labels, nano in self._cost.items()}
        yield counter("cost_usd", "What requests cost, in US dollars.", ("model", "provider", "plan"), cost)
        yield histogram("latency_seconds", "From arrival to the end.", by_upstream, LATENCY, self._latency)
        about = "From arrival to the first byte of the answer."
        yield histogram("first_token_seconds", about, by_upstream, FIRST_TOKEN, self._first_token)
        about = "Requests answered with another request's answer."
        yield counter("requests_repeated", about, ("model",), self._repeated)
        about = "Attempts at an upstream that brought no answer."
        yield counter("attempts_failed", about, ("provider", "code"), self._attempts)
        yield counter("lease_calls", "Times that a worker asked for more of a limit.", (), {(): self._lease_calls})
        yield counter("key_look_ups", "Times that a worker asked whose key it is.", (), {(): self._key_look_ups})
        yield from gauges(self._gauges())


def observe(series: dict[Labels, Histogram], labels: Labels, bounds: tuple[float, ...], times: list[int]) -> None:
    """More observations, in milliseconds."""
    if not times:
        return
    found = series.get(labels)
    if found is None:
        found = series[labels] = Histogram(bounds)
    for time in times:
        found.counts[bisect_left(found.bounds, time)] += 1
    found.total += sum(times)


def counter(name: str, about: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:
    """A counter's series; `_total` is added to its name."""
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"waypost_{name}", about, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def histogram(
    name: str, about: str, labels: Labels, bounds: tuple[float, ...], series: dict[Labels, Histogram]
) -> Metric:
    """A histogram's series."""
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"waypost_{name}", about, labels=labels)
    for key, value in series.items():
        sums = accumulate(value.counts)
        family.add_metric(key, list(zip([*map(str, bounds), "+Inf"], sums, strict=True)), value.total / 1000)
    return family


def gauges(now: Gauges) -> Iterable[Metric]:
    """What is so now."""
    from prometheus_client.core import GaugeMetricFamily

    for name, about, value in (
        ("open_requests", "Requests that are being answered, as far as the books know.", now.open_requests),
        ("journal_bytes", "Bytes of journals on the disk.", now.journal_bytes),
        ("journal_lag_seconds", "Since when the books lack lines that are in a journal.", now.journal_lag_seconds),
        ("books_ready", "1 while the books can be written.", int(now.books_ready)),
    ):
        yield GaugeMetricFamily(f"waypost_{name}", about, value=value)

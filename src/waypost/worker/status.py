"""What this host knows of its upstreams' health: shared between its workers by way of the keeper, shown to everyone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from waypost import config
from waypost.api import routing_shapes as shapes
from waypost.messages import AnyMessage, BreakerNews, BreakerRow
from waypost.policy.breaker import BreakerState
from waypost.policy.failures import Lane
from waypost.policy.health import Health
from waypost.worker.upstreams import Snapshot

INCIDENTS = 50
"""The latest openings of breakers that are told of."""

GRACE = 30.0
"""Seconds that an open breaker which may be probed still counts as open, if nobody has anything to probe it with."""

CLOSED = BreakerState(0.0, 0, False)


class Incident:
    """A breaker's time of being open. Times are seconds since 1970 UTC; `resolved_at` is None while it lasts."""

    __slots__ = ("created_at", "lane", "number", "resolved_at")

    def __init__(self, number: int, lane: Lane, created_at: float) -> None:
        self.number = number
        self.lane = lane
        self.created_at = created_at
        self.resolved_at: float | None = None


class Watch:
    """Tells the keeper which breakers have opened or closed here, and the breakers here what others have told."""

    def __init__(
        self, health: Health, push: Callable[[AnyMessage], None], wall: Callable[[], float] = time.time
    ) -> None:
        """`push` tells the keeper."""
        self._health = health
        self._push = push
        self._wall = wall
        self._told: dict[Lane, BreakerState] = {}
        self._numbers = 0
        self.incidents: deque[Incident] = deque(maxlen=INCIDENTS)

    def tick(self, now: float) -> None:
        """Once a second: what has changed since. `now` is monotonic."""
        states = {
            lane: breaker.state
            for lane, breaker in self._health.breakers.items()
            if breaker in self._health.troubled and (breaker.is_open or breaker.until > now)
        }
        news = [BreakerRow(*lane, *fields_of(state)) for lane, state in states.items() if self._told.get(lane) != state]
        news += [BreakerRow(*lane, *fields_of(CLOSED)) for lane in self._told if lane not in states]
        self._note(states, now)
        if news:
            self._told = states
            self._push(BreakerNews(tuple(news)))

    def linked(self) -> None:
        """A new connection to a keeper that may know nothing yet: everything is told again."""
        self._told = {}

    def hear(self, news: BreakerNews, now: float) -> None:
        """From the keeper: breakers of other workers."""
        for row in news.rows:
            lane = (row.provider, row.key, row.model)
            breaker = self._health.breakers.get(lane)
            state = BreakerState(row.until, row.openings, row.is_open)
            if breaker is None and state.until > now:
                breaker = self._health.breaker(lane)  # it opens here before its first request does
            if breaker is None:
                continue
            if state.until:
                breaker.adopt(state, now)
            else:
                breaker.hear_of_recovery(now)
            if breaker in self._health.troubled:
                self._note({**self._told, lane: breaker.state}, now)
                self._told[lane] = breaker.state

    def _note(self, states: dict[Lane, BreakerState], now: float) -> None:
        opened = {lane for lane, state in states.items() if state.is_open and state.until + GRACE > now}
        lasting = {incident.lane: incident for incident in self.incidents if incident.resolved_at is None}
        for lane, incident in lasting.items():
            if lane not in opened:
                incident.resolved_at = self._wall()
        for lane in opened - lasting.keys():
            self._numbers += 1
            self.incidents.appendleft(Incident(self._numbers, lane, self._wall()))


def fields_of(state: BreakerState) -> tuple[float, int, bool]:
    """As a row of news has them."""
    return state.until, state.openings, state.is_open


# What everyone may see


def render_status(snapshot: Snapshot, watch: Watch, now: float, wall: float) -> shapes.Status:
    """`GET /v1/status`. `now` is monotonic, `wall` seconds since 1970 UTC."""
    settings, health = snapshot.settings, snapshot.health
    opened = {lane for lane, breaker in health.breakers.items() if breaker.is_open and breaker.until + GRACE > now}
    used = opened | {
        lane
        for lane, breaker in health.breakers.items()
        if health.speed(*lane[::2]).latency(now) and not breaker.is_failing  # how slow who never answered is, is known
    }
    links = {lane[::2] for lane in used}
    return shapes.Status(
        providers=[
            shapes.ProviderStatus(
                name,
                condition([lane for lane in opened if lane[0] == name], any(each[0] == name for each in used)),
                latency_ms(health, name, now),
            )
            for name in settings.providers
        ],
        models=[
            shapes.ModelStatus(name, name, tier(settings, name), model_condition(snapshot, name, opened, links))
            for name in settings.models
        ],
        incidents=[render_incident(incident) for incident in watch.incidents],
        last_updated=iso(wall),
    )


def condition(opened: list[Lane], is_used: bool) -> shapes.Condition:
    """In a word. What nobody has used yet, or with nothing but failures, is not known."""
    return "degraded" if opened else "healthy" if is_used else "unknown"


def model_condition(snapshot: Snapshot, name: str, opened: set[Lane], used: set[tuple[str, str]]) -> shapes.Condition:
    """Of a model: degraded where a link of its chain is."""
    links = snapshot.links(name) or []
    return condition([lane for lane in opened if lane[::2] in links], any(link in used for link in links))


def latency_ms(health: Health, provider: str, now: float) -> int | None:
    """Recent time to the first token, the mean over the provider's models; None where nothing is known."""
    seen = [speed.latency(now) for (name, _), speed in health.speeds.items() if name == provider]
    known = [seconds for seconds in seen if seconds]
    return round(1000 * sum(known) / len(known)) if known else None


def tier(settings: config.Config, model: str) -> str | None:
    """The first plan of the configuration that has the model; None: no plan has."""
    return next((name for name, plan in settings.plans.items() if plan.allows(model)), None)


def render_incident(incident: Incident) -> shapes.Incident:
    """As it is shown: keys are not named."""
    provider, _, model = incident.lane
    return shapes.Incident(
        id=str(incident.number),
        title=f"{provider} fails",
        description=f"{provider}/{model} failed again and again, and is left alone for a while.",
        severity="minor",
        status="investigating" if incident.resolved_at is None else "resolved",
        created_at=iso(incident.created_at),
        resolved_at=iso(incident.resolved_at) if incident.resolved_at is not None else None,
    )


def iso(seconds: float) -> str:
    """ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

"""What workers tell each other of breakers, and what everybody is told of incidents."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from tests.harness import Waypost, provider, serving, wait_until
from tests.sim.running import Running
from waypost.messages import BreakerNews, BreakerRow
from waypost.policy.health import Health
from waypost.worker.status import GRACE, INCIDENTS, Watch

LANE = ("one", "1", "m")


class Told:
    """A watch on a clock of the test's, and what it has pushed."""

    def __init__(self) -> None:
        self.health = Health()
        self.pushed: list[BreakerNews] = []
        self.watch = Watch(self.health, self.pushed.append, lambda: 1_700_000_000.0)  # type: ignore[arg-type]

    def open(self, now: float, lane: tuple[str, str, str] = LANE) -> None:
        breaker = self.health.breaker(lane)
        for _ in range(5):
            breaker.failed(breaker.admit(now), now)

    def tick(self, now: float) -> list[BreakerRow]:
        self.pushed.clear()
        self.watch.tick(now)
        return [row for news in self.pushed for row in news.rows]


def test_a_breaker_is_told_when_it_opens_and_when_it_closes_and_not_in_between() -> None:
    told = Told()
    assert told.tick(0.0) == []
    told.open(1.0)
    assert told.tick(1.0) == [BreakerRow(*LANE, 61.0, 1, True)] and told.tick(2.0) == []
    breaker = told.health.breaker(LANE)
    breaker.succeeded(breaker.admit(62.0), 62.0)
    assert told.tick(63.0) == [BreakerRow(*LANE, 0.0, 0, False)] and told.tick(64.0) == []


def test_what_is_heard_is_obeyed_and_not_told_again() -> None:
    one, other = Told(), Told()
    one.open(1.0)
    other.watch.hear(BreakerNews(tuple(one.tick(1.0))), 1.5)
    assert other.health.breaker(LANE).blocks(60.0) and other.tick(2.0) == []
    breaker = one.health.breaker(LANE)
    breaker.succeeded(breaker.admit(62.0), 62.0)
    other.health.breaker(LANE).until = 500.0
    other.watch.hear(BreakerNews(tuple(one.tick(62.0))), 63.0)
    assert not other.health.breaker(LANE).blocks(63.0), "a probe may go at once"


def test_after_a_new_link_everything_is_told_again() -> None:
    told = Told()
    told.open(1.0)
    assert told.tick(1.0) and not told.tick(2.0)
    told.watch.linked()
    assert told.tick(3.0) == [BreakerRow(*LANE, 61.0, 1, True)]


def test_an_incident_lasts_until_the_breaker_closes_or_nobody_asks() -> None:
    told = Told()
    told.open(1.0)
    told.tick(1.0)
    told.tick(61.0)
    assert [incident.resolved_at for incident in told.watch.incidents] == [None]
    told.tick(61.0 + GRACE)
    assert [incident.resolved_at for incident in told.watch.incidents] == [1_700_000_000.0]
    for number in range(INCIDENTS + 5):
        told.open(100.0, ("one", "1", f"m{number}"))
        told.tick(100.0)
    assert len(told.watch.incidents) == INCIDENTS


def test_who_has_only_timed_out_is_not_healthy(simulator: Running) -> None:
    quick = "{ first_byte = 0.2 }"
    text = provider("late", simulator.base, timeouts=quick) + provider("well", simulator.base)
    text += '[models.late]\nchain = ["late/hang"]\n[models.both]\nchain = ["late/hang", "well/demo"]\n'
    with serving(text) as waypost, waypost.connect() as client:

        def shown() -> tuple[dict[str, str], dict[str, str]]:
            client.send(b"GET /v1/status HTTP/1.1\r\nhost: waypost\r\n\r\n")
            said = client.answer().json
            return tuple({each["name"]: each["status"] for each in said[what]} for what in ("providers", "models"))  # type: ignore[return-value]

        assert explained(waypost, "late") == "closed"
        assert waypost.ask("late").status == 504
        assert shown() == ({"late": "unknown", "well": "unknown"}, {"late": "unknown", "both": "unknown"})
        assert waypost.ask("both").header("x-provider") == "well"
        assert shown() == ({"late": "unknown", "well": "healthy"}, {"late": "unknown", "both": "healthy"})
        for _ in range(4):
            waypost.ask("late")
        wait_until(lambda: explained(waypost, "late") == "open, asked all the same", "the last one not to be ejected")
        assert explained(waypost, "both") == "closed"


def explained(waypost: Waypost, model: str) -> str:
    """The breaker of the first that would be asked."""
    command = [str(pathlib.Path(sys.executable).with_name("waypost")), "explain", model]
    command += ["--config", str(waypost.folder / "waypost.toml"), "--data", str(waypost.folder / "data")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return told[2].strip().split("  ")[-1].strip()

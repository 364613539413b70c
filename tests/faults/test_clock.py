"""Midnights, changed clocks, leap days and jumps of the time of day, under load, in six zones at once.

The server runs on a clock that the test sets (`shifted.py`); its clients read the same one. What may be said of a
request is said by its row: which window it was counted in, and whether that is the one it was admitted in.
"""

from __future__ import annotations

import datetime
import sys
import time
import zoneinfo
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import shifted
from tests.faults.checker import CODES, Books, Limit, check, database_url, join, read_at_rest
from tests.faults.crowd import LONG, Asked, Crowd, Who, models
from tests.faults.hosts import host
from tests.harness import provider, wait_until
from tests.sim.running import Running
from waypost.sim.journal import read_journal

ZONES = (
    "Pacific/Kiritimati",  # the first midnight: UTC+14
    "Asia/Kathmandu",  # UTC+5:45
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # clocks change by half an hour
    "Pacific/Pago_Pago",  # the last midnight: UTC−11
)
LIMITS = {"day": 9, "hour": 5}
CLIENTS = 16
SECONDS = 3.0 if LONG else 0.6  # of load at each moment


def at(text: str, zone: str = "UTC") -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone)).timestamp()


def forward() -> list[float]:
    """Where the clock is set to, ever later; what is interesting comes in the middle of each."""
    before = SECONDS / 2
    midnights = sorted(at("2027-01-15T00:00", zone) - before for zone in ZONES)
    changes = [
        "2027-03-14T07:00",  # New York, an hour that is not there
        "2027-03-28T01:00",  # Berlin, the same
        "2027-04-03T15:00",  # Lord Howe, half an hour that comes twice
        "2027-10-02T15:30",
        "2027-10-31T01:00",  # Berlin, an hour that comes twice
        "2027-11-07T06:00",
    ]
    leaps = [at(day, "Europe/Berlin") - before for day in ("2028-02-29T00:00", "2028-03-01T00:00")]
    changed = [at(change) - before for change in changes]
    if not LONG:
        changed = [changed[1], changed[4]]
    return [*midnights, *changed, *leaps]


def back_and_forth() -> list[float]:
    """An hour and a day ahead, and back; an hour and a day behind, and back."""
    noon = at("2027-02-01T12:30")
    ahead = [noon, noon + 3600, noon + 4, noon + 86400, noon + 8]
    return [*ahead, noon - 3600, noon + 12, noon - 86400, noon + 16]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moments", [forward, back_and_forth])
def test_one_window_for_each_moment(moments: Callable[[], list[float]], oracle: Running, tmp_path: Path) -> None:
    clock = shifted.Shift(tmp_path / "shift")
    clock.set(moments()[0] - 30)
    text = "[store]\nretention = 0\n" + provider("sim", oracle.base) + models(CLIENTS, ("plain", "stream"))
    for number, zone in enumerate(ZONES):
        for window, units in LIMITS.items():
            text += f'[plans.{window}-{number}]\ntimezone = "{zone}"\nrequests = {{ {window} = {units} }}\n'
    command = (sys.executable, shifted.__file__, str(tmp_path / "shift"))
    with host(text, command=command) as served:
        who = [Who(f"{window}-{number}", served.key(f"{window}-{number}", f"{window}-{number}"))
               for number in range(len(ZONES)) for window in LIMITS]  # fmt: skip
        kinds = {"plain": 3, "stream": 1}
        with Crowd(lambda: served.address, who, clients=CLIENTS, pause=0.12, kinds=kinds, clock=clock) as crowd:
            wait_until(lambda: len(crowd.log) > 50, "some answers")
            for moment in moments():
                clock.set(moment)
                heard = len(crowd.log)
                time.sleep(SECONDS)
                wait_until(lambda: len(crowd.log) > heard + 40, "some answers")  # noqa: B023
            log = crowd.stop()
        books = read_at_rest(database_url(served.data), log)
        violations = check(books, log, read_journal(oracle.journal)).violations
        violations += windows(books, log)
        assert not violations, "\n".join(violations[:40])
        assert Counter(asked.status for asked in log).keys() == {200, 429}
        assert served.run("ledger", "verify").returncode == 0
        if LONG:
            counted = {meter for row in books.rows for meter in row.holds}
            print(f"{len(log)} requests, {len(books.rows)} admitted, {len(counted)} windows")


def windows(books: Books, log: list[Asked]) -> list[str]:
    """Counted where it was admitted; never more than allowed; and never refused in a window that has room."""
    limits = {
        f"{window}-{number}": Limit("requests", window, units, zone)
        for number, zone in enumerate(ZONES)
        for window, units in LIMITS.items()
    }
    pairs, violations = join(books, log, [])
    counted = Counter(meter for row in books.rows for meter in row.holds)
    violations += [f"{count} in {meter}" for meter, count in counted.items() if count > LIMITS[meter.split(":")[2]]]
    for pair in pairs:
        asked, row, limit = pair.asked, pair.row, limits[pair.asked.account]
        number = books.accounts[asked.account]
        if row is not None:
            (meter,) = row.holds
            if meter not in (limit.meter(number, row.at), limit.meter(number, asked.sent)):
                violations.append(f"{asked.nonce}: admitted at {limit.meter(number, row.at)}, counted in {meter}")
        elif asked.status == 429:
            assert CODES[asked.code] == (limit.what, limit.window)
            possible = {limit.meter(number, asked.sent), limit.meter(number, asked.head)}
            if all(counted[meter] < limit.units for meter in possible):
                violations.append(f"{asked.nonce} was refused, and there is room in {possible}")
    return violations

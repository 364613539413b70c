"""Windows against the calendars of many zones: every moment is in exactly one, and its name says which."""

import datetime
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.policy.windows import Window, ends_by, window_of

UTC = datetime.UTC
FIRST = int(datetime.datetime(2020, 1, 1, tzinfo=UTC).timestamp())
LAST = int(datetime.datetime(2036, 1, 1, tzinfo=UTC).timestamp())

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Pacific/Kiritimati",  # the first to begin a day
    "Etc/GMT+12",  # the last
    "Australia/Lord_Howe",  # clocks move by half an hour
    "Antarctica/Casey",  # by three, a day of 27 hours
    "Antarctica/Troll",  # by two
    "Pacific/Chatham",  # 12:45 and 13:45
    "America/Santiago",  # clocks move at midnight: some days begin at 01:00
    "Africa/Cairo",
    "Asia/Beirut",
    "America/Havana",
    "America/Nuuk",
    "Asia/Tehran",
)


def at(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp())


def offsets(zone, first, last, step):
    """Moments at which the zone's offset has just changed, to the `step`."""
    before = None
    for moment in range(first, last, step):
        offset = datetime.datetime.fromtimestamp(moment, zone).utcoffset()
        if before is not None and offset != before:
            yield moment
        before = offset


@pytest.mark.parametrize("name", ZONES)
def test_days_follow_one_another_and_each_date_comes_once(name):
    zone = zoneinfo.ZoneInfo(name)
    names, lengths = [], set()
    moment = window_of("day", FIRST, zone).starts
    while moment < LAST:
        window = window_of("day", moment, zone)
        assert window.starts == moment, "no gap and no overlap"
        dates = {
            datetime.datetime.fromtimestamp(each, zone).date()
            for each in [*range(window.starts, window.ends, 3600), window.ends - 1]
        }
        assert [f"day:{date}" for date in dates] == [window.name]
        assert window.ends <= ends_by(f"a1:requests:{window.name}") <= window.ends + 2 * 86_400
        names.append(window.name)
        lengths.add((window.ends - window.starts) / 3600)
        moment = window.ends
    assert len(names) == len(set(names))
    assert "day:2024-02-29" in names and "day:2023-02-29" not in names
    assert 24 in lengths and min(lengths) >= 21 and max(lengths) <= 27


@pytest.mark.parametrize("name", ZONES)
def test_months_follow_one_another(name):
    zone = zoneinfo.ZoneInfo(name)
    names = []
    moment = window_of("month", FIRST, zone).starts
    while moment < LAST:
        window = window_of("month", moment, zone)
        first, last = (datetime.datetime.fromtimestamp(each, zone) for each in (window.starts, window.ends - 1))
        assert window.starts == moment and (first.year, first.month) == (last.year, last.month)
        assert window_of("month", window.ends - 1, zone) == window
        assert window_of("day", window.ends, zone).name.endswith("-01")
        assert window.ends <= ends_by(f"a1:spend:{window.name}")
        names.append(window.name)
        moment = window.ends
    assert len(names) == len(set(names)) >= 16 * 12


@pytest.mark.parametrize("name", ZONES)
def test_hours_and_minutes_around_every_change_of_the_clocks(name):
    zone = zoneinfo.ZoneInfo(name)
    changes = list(offsets(zone, FIRST, LAST, 1800))[:8] or [at("2024-02-29T00:00+00:00")]
    for change in changes:
        names = []
        moment = window_of("hour", change - 5 * 3600, zone).starts
        while moment < change + 5 * 3600:
            window = window_of("hour", moment, zone)
            assert window.starts == moment and 0 < window.ends - window.starts <= 3600
            inside = {
                f"{local:%Y-%m-%dT%H%z}"
                for local in (
                    datetime.datetime.fromtimestamp(each, zone) for each in (*range(moment, window.ends, 60), moment)
                )
            }
            assert inside == {window.name.removeprefix("hour:").replace(":", "")}
            names.append(window.name)
            moment = window.ends
        assert len(names) == len(set(names)), "an hour that comes twice has two names"
        for moment in range(change - 600, change + 600, 20):
            window = window_of("minute", moment, zone)
            assert window.ends - window.starts == 60 and window.starts <= moment < window.ends


def test_names():
    berlin, lord_howe = zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("Australia/Lord_Howe")
    now = at("2026-11-22T10:31:07+01:00") + 0.9
    assert window_of("minute", now, UTC).name == "minute:2026-11-22T09:31+00:00"
    assert window_of("hour", now, berlin) == Window(
        "hour:2026-11-22T10+01:00", at("2026-11-22T10:00+01:00"), at("2026-11-22T11:00+01:00")
    )
    assert window_of("day", now, berlin) == Window(
        "day:2026-11-22", at("2026-11-22T00:00+01:00"), at("2026-11-23T00:00+01:00")
    )
    assert window_of("month", now, berlin) == Window(
        "month:2026-11", at("2026-11-01T00:00+01:00"), at("2026-12-01T00:00+01:00")
    )
    assert window_of("total", now, berlin) == Window("total", 0, 0)
    # Clocks go back: the hour from two to three comes twice, and on Lord Howe Island half of an hour does.
    first, second = (window_of("hour", at(f"2026-10-25T{hour}:30+00:00"), berlin) for hour in ("00", "01"))
    assert (first.name, second.name) == ("hour:2026-10-25T02+02:00", "hour:2026-10-25T02+01:00")
    assert first.ends == second.starts
    half = window_of("hour", at("2026-04-04T15:10+00:00"), lord_howe)
    assert half.name == "hour:2026-04-05T01+10:30" and half.ends - half.starts == 1800
    assert window_of("day", at("2026-10-25T12:00+00:00"), berlin).ends == at("2026-10-26T00:00+01:00")
    assert ends_by("a1:balance:total") == 0


@given(
    st.floats(FIRST, LAST),
    st.sampled_from(("minute", "hour", "day", "month")),
    st.sampled_from(ZONES).map(zoneinfo.ZoneInfo),
)
def test_every_moment_of_a_window_gives_the_same(now, kind, zone):
    window = window_of(kind, now, zone)
    assert window.starts <= now < window.ends
    for moment in (window.starts, window.ends - 1, (window.starts + window.ends) // 2):
        assert window_of(kind, moment, zone) == window
    assert window_of(kind, window.ends, zone).starts == window.ends
    assert window_of(kind, window.starts - 1, zone).ends == window.starts

"""Lines → rows and sums: however the lines of a journal are cut into batches, the sums are those of the requests."""

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.keeper.journaling import NOON, id_of, opened, settled
from waypost.keeper.pairing import BIGGEST, Piece, charge, crashed, day_of, fitting, pair
from waypost.records import Attempted, Priced, Repeated, Tally, Usage

busy = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
METERS = ("a7:requests:day:2026-11-22", "a7:tokens:hour:2026-11-22T13+01:00", "k70:spend:total", "a7:streams:total")
counts = st.integers(0, 10_000)
usages = st.builds(Usage, **dict.fromkeys(Usage.__struct_fields__, counts))


@st.composite
def journals(draw):
    """Lines in an order that a worker may write, the requests they are about, and where to cut them."""
    lines, open_ids, final = [], [], {}
    for number in range(draw(st.integers(1, 12))):
        held = draw(st.dictionaries(st.sampled_from(METERS), counts))
        at = NOON + draw(st.integers(-2, 2)) * 43_200_000
        line = opened(number, at, draw(st.integers(1, 2)), holds=tuple(held.items()))
        lines.append(line)
        open_ids.append(line)
        while open_ids and draw(st.booleans()):
            one = open_ids.pop(draw(st.integers(0, len(open_ids) - 1)))
            if draw(st.booleans()):
                lines.append(Attempted(one.id, 1, one.at, "lab", "x", "UPSTREAM_ERROR", 500, 1))
            fields = {"requests": draw(st.integers(0, 1)), "tokens": draw(counts), "cost": draw(counts)}
            fields |= {"usage": draw(usages), "code": draw(st.sampled_from(["", "CLIENT_GONE", "TIMEOUT"]))}
            fields["source"] = draw(st.sampled_from([b"", id_of(99)]))
            final[one.id] = settled(0, **fields, id=one.id, provider=draw(st.sampled_from(["", "lab"])))
            lines.append(final[one.id])
    cuts = sorted(draw(st.sets(st.integers(1, len(lines)), max_size=6)) | {len(lines)})
    return lines, {line.id: line for line in lines if type(line) is type(opened(0))}, final, cuts


def in_batches(lines, cuts):
    """The batches, as a ledger makes them: what one leaves open the next begins with."""
    is_open, start = {}, 0
    for end in cuts:
        batch = pair([Piece("1-0", lines[start:end], is_open)], NOON)
        yield batch
        is_open = is_open | batch.opened["1-0"]
        for id in batch.closed["1-0"]:
            del is_open[id]
        start = end


@busy
@given(journals())
def test_every_cut_gives_the_same_sums(drawn):
    lines, requests, final, cuts = drawn
    spent, sums, rows, begun, finals, attempts = Counter(), Counter(), [], [], [], 0
    for batch in in_batches(lines, cuts):
        assert batch.faults == []
        spent.update(batch.spent["1-0"])
        rows += batch.requests
        begun += batch.begun
        finals += batch.finals
        attempts += len(batch.attempts)
        for key, each in batch.days.items():
            for column, value in enumerate(each):
                sums[(*key, column)] += value
    assert sorted(row[0] for row in rows + begun) == sorted(id.decode() for id in requests)
    assert {row[0] for row in rows} | {row[-1] for row in finals} == {id.decode() for id in final}
    assert {row[-1] for row in finals} <= {row[0] for row in begun}
    assert all(len(row) == size for each, size in ((rows, 27), (begun, 11), (finals, 17)) for row in each)
    assert attempts == sum(type(line) is Attempted for line in lines)
    wanted_spent, wanted = Counter(), Counter()
    for id, line in requests.items():
        for meter, held in line.holds:
            end = final.get(id)
            what = meter.split(":")[1]
            taken = {"requests": "requests", "tokens": "tokens", "spend": "cost"}.get(what)
            wanted_spent[meter] += held if end is None else (getattr(end, taken) if taken else 0)
    for id, end in final.items():
        line, usage = requests[id], end.usage
        key = (line.account, day_of(line.at), line.key, line.model, end.provider)
        columns = (
            1,
            int(end.code == "TIMEOUT"),
            usage.prompt,
            usage.cache_read,
            usage.cache_write_5m + usage.cache_write_1h,
            usage.completion,
            usage.reasoning,
            end.cost,
            int(bool(end.source)),
            end.saved,
        )
        for column, value in enumerate(columns):
            wanted[(*key, column)] += value
    assert +spent == +wanted_spent and +sums == +wanted
    assert all(value >= 0 for value in spent.values())


@busy
@given(journals())
def test_whatever_is_left_open_can_be_swept_and_then_nothing_is_held(drawn):
    lines, requests, final, _ = drawn
    first = pair([Piece("1-0", lines, {})], NOON)
    left = first.opened["1-0"]
    assert left.keys() == requests.keys() - final.keys()
    second = pair([Piece("1-0", [crashed(line, NOON, 0) for line in left.values()], left)], NOON)
    assert len(second.finals) == len(left) and second.faults == []
    streams = first.spent["1-0"].get("a7:streams:total", 0) + second.spent["1-0"].get("a7:streams:total", 0)
    assert streams == 0


@busy
@given(journals(), st.data())
def test_lines_that_come_twice_count_once(drawn, data):
    lines, _, _, _ = drawn
    again = data.draw(st.lists(st.sampled_from([line for line in lines if type(line) is not Attempted]), max_size=4))
    once = pair([Piece("1-0", lines, {})], NOON)
    twice = pair([Piece("1-0", lines, {}), Piece("2-0", again, {})], NOON)
    assert len(twice.faults) == len(again)
    assert (twice.days, twice.requests, twice.begun) == (once.days, once.requests, once.begun)
    assert twice.spent["1-0"] == once.spent["1-0"] and not any(twice.spent["2-0"].values())


def test_what_is_over_at_once_is_a_row_like_one_of_two_lines():
    line = Repeated(id_of(3), NOON, 7, 70, "free", "route/x", True, opened(3).holds, 4, id_of(1))
    one, two = pair([Piece("1-0", [line], {})], NOON), pair([Piece("1-0", [line.opened(), line.settled()], {})], NOON)
    assert one.__dict__ == two.__dict__ and len(one.requests) == 1
    assert one.spent["1-0"] == {**dict.fromkeys(dict(line.holds), 0), "a7:requests:day:2026-11-22": 1}
    again = pair([Piece("1-0", [line, line], {}), Piece("2-0", [line], {})], NOON, {id_of(1)})
    assert (len(again.faults), again.requests, again.days) == (2, one.requests, one.days)
    assert pair([Piece("1-0", [line], {})], NOON, {line.id}).requests == []
    assert pair([Piece("1-0", [line], {line.id: line.opened()})], NOON).requests == []


def test_known_ids_are_left_out_with_everything_about_them():
    attempt = Attempted(id_of(1), 1, NOON, "", "", "", 0, 0)
    batch = pair([Piece("1-0", [opened(1), attempt, settled(1), opened(2)], {})], NOON, {id_of(1)})
    assert (batch.requests, [row[0] for row in batch.begun]) == ([], [id_of(2).decode()])
    assert (len(batch.faults), batch.days, batch.attempts) == (3, {}, [])


def test_prices_and_tallies_pass_through():
    tally = Tally(NOON, {"UNAVAILABLE": 2}, 3, 4)
    batch = pair([Piece("1-0", [Priced("abc", b"{}"), tally], {})], 5)
    assert (batch.prices, batch.tallies) == ({"abc": (b"{}", 5)}, [tally])


def test_what_a_meter_is_charged():
    for meter, units in [
        ("a1:requests:minute:x", 1),
        ("a1:tokens:day:x", 20),
        ("k1:spend:total", 300),
        ("a1:balance:total", 300),
        ("a1:streams:total", 0),
        ("a1:something else:total", 7),
    ]:
        assert charge(meter, 7, 1, 20, 300) == units


def test_a_day_is_utc_s():
    midnight = 1_795_305_600_000
    assert [day_of(midnight - 1), day_of(midnight), day_of(midnight + 86_399_999)] == [
        "2026-11-21",
        "2026-11-22",
        "2026-11-22",
    ]


def test_a_refused_line_is_cut_to_what_fits_and_no_more():
    line = opened(1, plan="p" * 200, model="\0", estimate=2**70, holds=(("a7:x:total" + "y" * 200, -(2**70)),))
    cut = fitting(line)
    assert (len(cut.plan), cut.model, len(cut.holds[0][0])) == (100, "\ufffd", 120)
    assert abs(cut.estimate) <= BIGGEST and abs(cut.holds[0][1]) <= BIGGEST
    assert (cut.id, cut.at, cut.account, cut.stream) == (line.id, line.at, line.account, line.stream)
    repeated = Repeated(id_of(3), NOON, 7, 70, "free", "route/x", True, opened(3).holds, 4, id_of(1))
    for good in (opened(1), settled(1), Priced("v", b""), Tally(1, {}, 1, 1), repeated):
        assert fitting(good) == good

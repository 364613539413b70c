"""Lines of journals → what one transaction writes into the books: rows, daily sums, units of meters. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Set
from typing import Final

import msgspec

from waypost.records import AnyLine, Attempted, Opened, Priced, Repeated, Settled, Tally, Usage

CRASHED: Final = "CRASHED"
"""The code of a request whose worker died before it could settle it."""

MILLISECONDS_A_DAY: Final = 86_400_000
MAX_MODEL: Final = 256
"""Characters of a model's name that the books keep."""

BIGGEST: Final = 2**63 - 1

DayKey = tuple[int, str, int, str, str]
"""account, day in UTC, key, model, provider: the primary key of `days`."""

_encode = msgspec.msgpack.Encoder().encode


class Batch:
    """What a number of lines comes to. Tuples have the columns of their tables, in order; see `store/tables.py`.

    `faults` are sentences about lines that contradict what is known: they are written nowhere else.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[object, ...]] = []  # that are over
        self.begun: list[tuple[object, ...]] = []  # columns up to `journal`: of those still open
        self.finals: list[tuple[object, ...]] = []  # columns from `status` on, then the id: of rows that are open
        self.attempts: list[tuple[object, ...]] = []
        self.days: dict[DayKey, list[int]] = {}
        self.spent: dict[str, dict[str, int]] = {}  # journal → meter → units
        self.prices: dict[str, tuple[bytes, int]] = {}
        self.opened: dict[str, dict[bytes, Opened]] = {}  # journal → what is open after this batch and was not before
        self.closed: dict[str, list[bytes]] = {}  # journal → what was open before and is not any more
        self.settled: list[tuple[Opened, Settled]] = []
        self.attempted: list[Attempted] = []
        self.tallies: list[Tally] = []
        self.faults: list[str] = []


class Piece(msgspec.Struct, frozen=True):
    """Some lines of one journal, in order, and what was open in it before them."""

    journal: str
    lines: list[AnyLine]
    open: Mapping[bytes, Opened]


def pair(pieces: Iterable[Piece], now: int, known: Set[bytes] = frozenset()) -> Batch:
    """What the pieces come to at `now` (milliseconds). `known`: ids that the books have already.

    A line that opens such an id, or settles one that is not open, is a fault, and so is whatever follows from it. What
    was open before may be settled though it is known: then an attempt of its is.
    """
    batch = Batch()
    seen = set(known)
    for piece in pieces:
        _pair_one(batch, piece, now, known, seen)
    return batch


def _pair_one(batch: Batch, piece: Piece, now: int, known: Set[bytes], seen: set[bytes]) -> None:
    journal, before = piece.journal, piece.open
    new: dict[bytes, Opened] = {}
    gone: set[bytes] = set()
    spent: dict[str, int] = {}
    for line in piece.lines:
        if isinstance(line, Opened):
            if line.id in seen or line.id in before:
                batch.faults.append(f"{shown(line.id)} of journal {journal} was opened before; it is not counted again")
            else:
                new[line.id] = line
                seen.add(line.id)
        elif isinstance(line, Settled):
            opened = new.pop(line.id, None)
            if opened is not None:
                _count_whole(batch, journal, spent, opened, line)
                continue
            if line.id in before and line.id not in gone:
                opened = before[line.id]
                gone.add(line.id)
                batch.finals.append((*settled_columns(line), shown(line.id)))
                _adjust(spent, opened, line)
            else:
                batch.faults.append(f"{shown(line.id)} of journal {journal} is settled and was not open")
                continue
            batch.settled.append((opened, line))
            _add_to_day(batch.days, opened, line)
        elif isinstance(line, Repeated):
            if line.id in seen or line.id in before:
                batch.faults.append(f"{shown(line.id)} of journal {journal} came before; it is not counted again")
            else:
                seen.add(line.id)
                _count_whole(batch, journal, spent, line.opened(), line.settled())
        elif isinstance(line, Attempted):
            if (line.id in new or (line.id in before and line.id not in gone)) and line.id not in known:
                batch.attempts.append(attempted_columns(line))
                batch.attempted.append(line)
            else:
                batch.faults.append(f"{shown(line.id)} of journal {journal} had an attempt that it cannot have had")
        elif isinstance(line, Priced):
            batch.prices[line.version[:16]] = (line.terms, now)
        else:
            batch.tallies.append(line)
    for opened in new.values():
        batch.begun.append(opened_columns(opened, journal))
        for meter, units in opened.holds:
            spent[meter] = spent.get(meter, 0) + units
    batch.opened[journal] = new
    batch.closed[journal] = list(gone)
    batch.spent[journal] = spent


def _count_whole(batch: Batch, journal: str, spent: dict[str, int], opened: Opened, line: Settled) -> None:
    """A request that the books did not know is over."""
    batch.requests.append((*opened_columns(opened, journal), *settled_columns(line)))
    _charge(spent, opened, line)
    batch.settled.append((opened, line))
    _add_to_day(batch.days, opened, line)


def shown(id: bytes) -> str:
    """An id as a row has it."""
    return id.decode("ascii", "replace")


# Rows


def opened_columns(line: Opened, journal: str) -> tuple[object, ...]:
    """The columns of `requests` up to `journal`."""
    return (
        line.id.decode("ascii", "replace"),
        line.account,
        line.key,
        line.at,
        line.plan,
        cut(line.model),
        line.stream,
        _encode(line.holds),
        line.estimate,
        line.estimated_cost,
        journal,
    )


def settled_columns(line: Settled) -> tuple[object, ...]:
    """The columns of `requests` from `status` on."""
    return (
        line.status,
        line.code,
        line.provider,
        cut(line.upstream_model),
        line.attempts,
        line.requests,
        line.tokens,
        line.cost,
        line.price,
        _encode(line.usage),
        line.estimated,
        line.first_token,
        line.latency,
        line.raw,
        shown(line.source),
        line.saved,
    )


def attempted_columns(line: Attempted) -> tuple[object, ...]:
    """The columns of `attempts`."""
    id = shown(line.id)
    return id, line.number, line.at, line.provider, cut(line.model), line.code, line.status, line.milliseconds


def cut(model: str) -> str:
    """A model's name as the books keep it: of bounded length, without NUL, which PostgreSQL has no text for."""
    if len(model) > MAX_MODEL or "\0" in model:
        return model[:MAX_MODEL].replace("\0", "\ufffd")
    return model


def crashed(opened: Opened, at: int, attempts: int) -> Settled:
    """How a request ends whose worker died: charged with what was estimated when it was opened, and flagged."""
    return Settled(
        id=opened.id,
        at=at,
        status=0,
        code=CRASHED,
        provider="",
        upstream_model="",
        attempts=attempts,
        requests=1,
        tokens=opened.estimate,
        cost=opened.estimated_cost,
        price="",
        usage=Usage(fresh=opened.estimate),
        estimated=True,
        first_token=0,
        latency=0,
        raw=b"",
    )


# Sums


def day_of(at: int) -> str:
    """The UTC date of an instant in milliseconds."""
    number = at // MILLISECONDS_A_DAY
    day = _days.get(number)
    if day is None:
        if len(_days) > 100:
            _days.clear()
        day = _days[number] = time.strftime("%Y-%m-%d", time.gmtime(number * 86_400))
    return day


_days: dict[int, str] = {}


def _add_to_day(days: dict[DayKey, list[int]], opened: Opened, line: Settled) -> None:
    key = (opened.account, day_of(opened.at), opened.key, cut(opened.model), line.provider)
    sums = days.get(key)
    if sums is None:
        sums = days[key] = [0] * 10
    add_to_sums(sums, line.code, line.usage, line.cost, line.saved, is_repeated=bool(line.source))


def add_to_sums(sums: list[int], code: str, usage: Usage, cost: int, saved: int, *, is_repeated: bool) -> None:
    """Add one request to the sums of its day: the columns of `days` after its key, in order."""
    cache_write = usage.cache_write_5m + usage.cache_write_1h
    sums[0] += 1
    if code and code != "CLIENT_GONE":
        sums[1] += 1
    sums[2] += usage.fresh + usage.cache_read + cache_write + usage.audio_input + usage.image_input
    sums[3] += usage.cache_read
    sums[4] += cache_write
    sums[5] += usage.output + usage.reasoning + usage.audio_output + usage.image_output
    sums[6] += usage.reasoning
    sums[7] += cost
    sums[8] += is_repeated
    sums[9] += saved


def charge(meter: str, held: int, requests: int, tokens: int, cost: int) -> int:
    """The units that a settled request takes of `meter`, of which it held `held`: what it came to, or nothing."""
    what = meter.split(":", 2)[1]
    if what == "requests":
        return requests
    if what == "tokens":
        return tokens
    if what == "spend" or what == "balance":
        return cost
    if what == "streams":
        return 0
    return held


def _charge(spent: dict[str, int], opened: Opened, line: Settled) -> None:
    for meter, held in opened.holds:
        spent[meter] = spent.get(meter, 0) + charge(meter, held, line.requests, line.tokens, line.cost)


def _adjust(spent: dict[str, int], opened: Opened, line: Settled) -> None:
    for meter, held in opened.holds:
        spent[meter] = spent.get(meter, 0) + charge(meter, held, line.requests, line.tokens, line.cost) - held


# What a database might refuse


def fitting(line: AnyLine) -> AnyLine:
    """The line with everything cut to what every database's columns hold; for one that a database has refused."""
    return msgspec.structs.replace(line, **{name: _fit(name, value) for name, value in _fields(line)})


_LENGTHS: Final = {"plan": 100, "provider": 100, "code": 40, "price": 16, "version": 16}


def _fields(line: AnyLine) -> Iterable[tuple[str, object]]:
    return ((name, getattr(line, name)) for name in line.__struct_fields__)


def _fit(name: str, value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        most = 2**31 - 1 if name in ("status", "attempts", "number", "requests") else BIGGEST >> 20
        return min(max(value, -most), most)
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")[: _LENGTHS.get(name, MAX_MODEL)]
    if name == "holds":
        assert isinstance(value, tuple)
        return tuple((meter.replace("\0", "\ufffd")[:120], _fit("", units)) for meter, units in value)
    if isinstance(value, Usage):
        return Usage(*(_fit("", getattr(value, field)) for field in value.__struct_fields__))  # type: ignore[arg-type]
    return value

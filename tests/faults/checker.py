"""Do the books hold? Joins what clients saw, what the simulator saw, and what the ledger says.

    books = read_books(database_url(folder))
    findings = check(books, log, read_journal(path), limits)
    assert not findings.violations, findings

The rules are `I1` to `I4`, each a function here, and say in a sentence what they found. Nothing here trusts a sum of
the product's: rows are recounted, windows are named anew from their times.
"""

from __future__ import annotations

import asyncio
import datetime
import pathlib
import zoneinfo
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.faults.crowd import NONCE, Asked
from tests.harness import wait_until
from waypost.keeper.store import tables
from waypost.records import Usage
from waypost.sim.journal import Exchange

ALLOWED = (0, 200, 402, 429, 502, 503)
"""Statuses that a good key's request may end with, whatever breaks on our side; 502 is the simulator's own doing."""

SLACK = 0.003
"""Seconds: rows have their times in milliseconds, cut off."""


SWEPT = 0.0
"""Seconds after a worker's death for which what its open requests had reserved may still count as taken."""


class Row(msgspec.Struct, frozen=True):
    """A row of `requests`; times are Unix seconds, `holds` is meter → units."""

    id: str
    account: int
    at: float
    model: str
    stream: bool
    holds: dict[str, int]
    journal: str
    status: int | None
    code: str | None
    attempts: int | None
    requests: int | None
    tokens: int | None
    cost: int | None
    usage: Usage | None
    estimated: bool | None
    latency: float

    @property
    def is_open(self) -> bool:
        return self.status is None

    def final(self, meter: str) -> int:
        """What stays taken of a meter that it held."""
        what = meter.split(":")[1]
        if self.is_open:
            return self.holds[meter]
        value = {"requests": self.requests, "tokens": self.tokens, "streams": 0}.get(what, self.cost)
        assert value is not None
        return value


class Books(msgspec.Struct, frozen=True):
    """Everything the ledger says; `holdings` is (holder, meter) → (granted, spent)."""

    rows: list[Row]
    failed: Counter[str]  # request id → failed attempts
    accounts: dict[str, int]
    meters: dict[str, int]  # taken
    holdings: dict[tuple[str, str], tuple[int, int]]
    days: tuple[int, int, int]  # prompt, completion, cost over all
    journals: int


class Limit(msgspec.Struct, frozen=True):
    """What an account may use: units of `what` in each `window` of `zone`."""

    what: str
    window: str
    units: int
    zone: str = "UTC"

    def meter(self, account: int, at: float) -> str:
        """The meter's name at a moment."""
        local = datetime.datetime.fromtimestamp(at, zoneinfo.ZoneInfo(self.zone))
        minute = local.isoformat(timespec="minutes")
        label = {
            "minute": f"minute:{minute}",
            "hour": f"hour:{minute[:13]}{minute[16:]}",
            "day": f"day:{minute[:10]}",
            "month": f"month:{minute[:7]}",
            "total": "total",
        }[self.window]
        return f"a{account}:{self.what}:{label}"


def noon_zone() -> str:
    """A zone where it is about noon: no day ends there while a test runs."""
    hours = 12 - datetime.datetime.now(datetime.UTC).hour
    return f"Etc/GMT{-hours:+d}" if hours else "UTC"


Limits = Mapping[str, Iterable[Limit]]
"""Account → its limits."""

CODES = {
    "MINUTE_REQUEST_LIMIT_EXCEEDED": ("requests", "minute"),
    "HOURLY_REQUEST_LIMIT_EXCEEDED": ("requests", "hour"),
    "DAILY_REQUEST_LIMIT_EXCEEDED": ("requests", "day"),
    "STREAM_LIMIT_EXCEEDED": ("streams", "total"),
    "TOKEN_LIMIT_EXCEEDED": ("tokens", "day"),
    "SPEND_LIMIT_EXCEEDED": ("spend", "day"),
    "INSUFFICIENT_BALANCE": ("balance", "total"),
}


class Findings(msgspec.Struct):
    """What is wrong, by rule, and how much was looked at."""

    violations: list[str] = []
    requests: int = 0
    rows: int = 0
    good: int = 0  # client-visible 200
    crashed: int = 0
    estimated: int = 0
    refused: int = 0
    broken: int = 0

    def __str__(self) -> str:
        counts = ", ".join(
            f"{name} {getattr(self, name)}"
            for name in ("requests", "rows", "good", "crashed", "estimated", "refused", "broken")
        )
        shown = "\n".join(self.violations[:40])
        return f"{counts}; {len(self.violations)} violations\n{shown}"


class Pair(msgspec.Struct, frozen=True):
    """A request and its row."""

    asked: Asked
    row: Row | None
    exchanges: list[Exchange]


# Reading


def database_url(data: pathlib.Path, url: str = "sqlite") -> str:
    """SQLAlchemy's name of a host's database."""
    if url == "sqlite":
        return f"sqlite+aiosqlite:///file:{data / 'waypost.db'}?mode=ro&uri=true"
    return url.replace("postgresql://", "postgresql+asyncpg://")


def read_books(url: str) -> Books:
    """All of the books, read in one transaction."""

    async def read() -> Books:
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.connect() as connection:
            rows = [row_of(each._mapping) for each in await connection.execute(select(tables.requests))]
            failed = Counter(each.request_id for each in await connection.execute(select(tables.attempts)))
            accounts = {each.name: each.id for each in await connection.execute(select(tables.accounts))}
            meters = {each.name: each.taken for each in await connection.execute(select(tables.meters))}
            holdings = {
                (each.holder, each.meter): (each.granted, each.spent)
                for each in await connection.execute(select(tables.holdings))
            }
            days = [(each.prompt, each.completion, each.cost) for each in await connection.execute(select(tables.days))]
            journals = len((await connection.execute(select(tables.journals))).all())
        await engine.dispose()
        sums = (sum(d[0] for d in days), sum(d[1] for d in days), sum(d[2] for d in days))
        return Books(rows, failed, accounts, meters, holdings, sums, journals)

    return asyncio.run(read())


def row_of(fields: Mapping[str, object]) -> Row:
    holds = dict(msgspec.msgpack.decode(fields["holds"], type=list[tuple[str, int]]))  # type: ignore[arg-type]
    usage = fields["usage"]
    return msgspec.convert(
        {
            **{
                name: fields[name]
                for name in ("id", "model", "journal", "status", "code", "attempts", "tokens", "cost")
            },
            "requests": fields["requests"],
            "account": fields["account_id"],
            "at": float(fields["at"]) / 1000,  # type: ignore[arg-type]
            "stream": bool(fields["stream"]),
            "holds": holds,
            "usage": msgspec.msgpack.decode(usage, type=Usage) if usage is not None else None,  # type: ignore[call-overload]
            "estimated": None if fields["estimated"] is None else bool(fields["estimated"]),
            "latency": float(fields["latency"] or 0) / 1000,  # type: ignore[arg-type]
        },
        Row,
    )


def read_at_rest(url: str, log: list[Asked], seconds: float = 60.0) -> Books:
    """The books once nothing moves in them any more: no row is open, and every answer's row is there."""
    expected = {asked.id[-26:] for asked in log if asked.status == 200}
    last: list[Books] = []

    def rests() -> bool:
        last[:] = [read_books(url)]
        found = {row.id: row for row in last[0].rows}
        return expected <= found.keys() and not any(row.is_open for row in found.values())

    try:
        wait_until(rests, "the books to come to rest", seconds)
    except AssertionError:
        return last[0]  # the rules say what is missing
    return last[0]


# Joining


def join(books: Books, log: list[Asked], exchanges: list[Exchange]) -> tuple[list[Pair], list[str]]:
    """Requests with their rows and exchanges; and what cannot be joined.

    Whoever got a head knows its row's id. Who got none is found by its model, which only one client has, and by time,
    since a client asks one thing after the other.
    """
    violations = []
    by_id = {row.id: row for row in books.rows}
    sent: dict[str, list[Exchange]] = defaultdict(list)
    for exchange in exchanges:
        if exchange.nonce is not None:
            sent[exchange.nonce].append(exchange)
    found: dict[str, Row | None] = {}
    for asked in log:
        if asked.id:
            found[asked.nonce] = by_id.pop(asked.id[-26:], None)
    unclaimed: dict[str, list[Row]] = defaultdict(list)
    for row in by_id.values():
        unclaimed[row.model].append(row)
    for asked in log:
        if asked.id:
            continue
        fitting = [row for row in unclaimed[asked.model] if asked.sent - SLACK <= row.at <= asked.ended + SLACK]
        for row in fitting:
            unclaimed[asked.model].remove(row)
        if len(fitting) > 1:
            violations.append(f"I1 {asked.nonce}: {len(fitting)} rows: {[row.id for row in fitting]}")
        found[asked.nonce] = fitting[0] if fitting else None
    violations += [f"I1 row {row.id} ({row.code!r}) is nobody's" for rows in unclaimed.values() for row in rows]
    known = {asked.nonce for asked in log}
    violations += [f"I1 the exchange {nonce} is nobody's" for nonce in sent if nonce not in known]
    return [Pair(asked, found[asked.nonce], sent.get(asked.nonce, [])) for asked in log], violations


# The rules


def check(books: Books, log: list[Asked], exchanges: list[Exchange], limits: Limits | None = None) -> Findings:
    """All of I1 to I4 at rest. `exchanges` are those of the log's requests; `limits` those that never changed."""
    pairs, violations = join(books, log, exchanges)
    violations += [text for pair in pairs for text in check_pair(pair, books.failed)]
    violations += check_usage(pairs)
    for account, each in (limits or {}).items():
        for limit in each:
            violations += check_limit(limit, account, books.accounts[account], pairs)
    violations += check_rest(books)
    rows = books.rows
    return Findings(
        sorted(violations),
        requests=len(log),
        rows=len(rows),
        good=sum(asked.status == 200 for asked in log),
        crashed=sum(row.code == "CRASHED" for row in rows),
        estimated=sum(bool(row.estimated) for row in rows),
        refused=sum(asked.status in (402, 429) for asked in log),
        broken=sum(asked.end == "broken" for asked in log),
    )


def check_pair(pair: Pair, failed: Counter[str]) -> Iterable[str]:
    """I1, and I12: a request, its row, and what went upstream for it."""
    asked, row = pair.asked, pair.row
    name = f"{asked.nonce} ({asked.kind}, {asked.status} {asked.code} {asked.end})"
    if asked.status not in ALLOWED or asked.code == "INTERNAL_ERROR":
        yield f"I1 {name}: must never be"
    if asked.end == "hung":
        yield f"I11 {name}: no end"
    strange = [mark for mark in NONCE.findall(asked.text) if mark != asked.nonce]
    if strange or (asked.status == 200 and asked.end == "whole" and asked.nonce not in asked.text):
        yield f"I12 {name}: the answer is somebody else's: {asked.text!r}"
    if row is not None:
        yield from check_row(name, asked, row, len(pair.exchanges), failed[row.id])
        return
    if asked.status == 200:
        yield f"I1 {name}: no row"
    if pair.exchanges:
        yield f"I1 {name}: {len(pair.exchanges)} exchanges and no row"


def check_row(name: str, asked: Asked, row: Row, exchanges: int, failed: int) -> Iterable[str]:
    """I1: the row says what its client saw, and has an attempt for everything that went upstream."""
    if asked.status in (401, 402, 429):
        yield f"I1 {name}: refused, and has row {row.id}"
    if row.is_open:
        return  # which is I4's to say
    if asked.end == "whole" and (row.code or row.status != 200 or row.requests != 1):
        yield f"I1 {name}: whole, and its row says {row.status} {row.code!r}, requests {row.requests}"
    if asked.status == 502 and row.requests != 0:
        yield f"I1 {name}: failed, and is counted"
    if asked.status == 0 and row.status == 200 and not row.code and asked.end not in ("broken", "left"):
        yield f"I1 {name}: the row is of an answer that nobody saw"
    crashed = row.code == "CRASHED"
    if crashed and not row.estimated:
        yield f"I2 {name}: crashed, and no estimate"
    attempts = row.attempts or 0
    # A dead worker's last attempt may have left no line; one that was ended may not have been sent yet.
    if not attempts - (row.status in (0, 503)) <= exchanges <= attempts + crashed:
        yield f"I1 {name}: {exchanges} exchanges, {attempts} attempts ({row.status} {row.code!r})"
    if not crashed and failed > attempts:
        yield f"I1 {name}: {failed} failed attempts of {attempts}"


def check_usage(pairs: list[Pair]) -> Iterable[str]:
    """I2: what is not estimated is exactly the upstream's own."""
    ours, theirs = Counter[int](), Counter[int]()
    for pair in pairs:
        row, asked = pair.row, pair.asked
        if row is None or row.is_open or row.usage is None:
            continue
        served = next((each for each in reversed(pair.exchanges) if each.status == 200), None)
        told = served.usage if served is not None else None
        if not row.estimated and row.requests:
            ours[row.account] += row.tokens or 0
            if told is None:
                yield f"I2 {asked.nonce}: tokens {row.tokens} of nowhere"
                continue
            theirs[row.account] += told["total_tokens"]
            if (row.usage.prompt, row.usage.completion) != (told["prompt_tokens"], told["completion_tokens"]):
                yield f"I2 {asked.nonce}: {row.usage} for {told}"
        if row.requests and row.tokens != row.usage.prompt + row.usage.completion:
            yield f"I2 {asked.nonce}: {row.tokens} tokens for {row.usage}"
        if asked.end == "whole" and row.estimated and told is not None:
            yield f"I2 {asked.nonce}: estimated, though the upstream has said {told}"
        if asked.end == "whole" and asked.usage and asked.usage["total_tokens"] != row.tokens:
            yield f"I2 {asked.nonce}: the caller was told {asked.usage}, the row says {row.tokens}"
    if ours != theirs:
        yield f"I2 sums differ: {dict(ours)} {dict(theirs)}"


def check_limit(limit: Limit, account: str, number: int, pairs: list[Pair]) -> Iterable[str]:
    """I3: never over, never early."""
    mine = [pair for pair in pairs if pair.asked.account == account]
    held: dict[str, list[Pair]] = defaultdict(list)
    for pair in mine:
        if pair.row is not None:
            for meter in pair.row.holds:
                if meter.split(":")[1:3] == [limit.what, limit.window]:
                    held[meter].append(pair)
                    if meter not in (limit.meter(number, pair.row.at), limit.meter(number, pair.asked.sent)):
                        yield f"I3 {pair.asked.nonce}: holds {meter} at {pair.row.at}"
    for meter, holders in held.items():
        peak, more = peak_of(meter, holders)
        if peak > limit.units + more:
            yield f"I3 {account}: {peak} of {limit.units} of {meter} were taken at once (and {more} more than reserved)"
    for pair in mine:
        if CODES.get(pair.asked.code) == (limit.what, limit.window):
            yield from check_refusal(limit, number, pair.asked, held)


def peak_of(meter: str, holders: list[Pair]) -> tuple[int, int]:
    """The most that was surely taken at one moment; and what was used in all beyond what had been reserved."""
    moves = []
    more = 0
    for pair in holders:
        row, asked = pair.row, pair.asked
        assert row is not None
        units, final = row.holds[meter], row.final(meter)
        more += max(0, final - units)
        moves.append((row.at, 1, units))
        # Of a crash nobody knows the moment: as if it had been at once.
        released = row.at if row.code == "CRASHED" else max(row.at, asked.sent + row.latency - SLACK)
        moves.append((released, 0, final - units))
    most = now = 0
    for _, _, units in sorted(moves):
        now += units
        most = max(most, now)
    return most, more


def check_refusal(limit: Limit, number: int, asked: Asked, held: Mapping[str, list[Pair]]) -> Iterable[str]:
    """A refusal is early if everything that can have been taken meanwhile leaves room for it."""
    room = []
    for meter in {limit.meter(number, asked.sent - SLACK), limit.meter(number, asked.head)}:
        taken = most = 0
        for pair in held.get(meter, ()):
            row = pair.row
            assert row is not None
            most = max(most, row.holds[meter])
            if pair.asked.sent > asked.head:
                continue
            released = pair.asked.ended + SWEPT if row.code == "CRASHED" else row.at + row.latency + SLACK
            is_over = not row.is_open and released < asked.sent
            taken += row.final(meter) if is_over else max(row.holds[meter], row.final(meter))
        need = 1 if limit.what in ("requests", "streams") else most + 200
        room.append(limit.units - taken - need)
    if min(room) >= 0:
        yield f"I3 {asked.nonce} was refused early ({asked.code}): there was room for {min(room)} more units"


def check_rest(books: Books) -> Iterable[str]:
    """I4: at rest nothing is reserved, and every sum is that of its parts."""
    granted, spent = Counter[str](), Counter[str]()
    for (holder, meter), (units, used) in books.holdings.items():
        spent[meter] += used
        if "-" not in holder:
            granted[meter] += units
    final = Counter[str]()
    for row in books.rows:
        if row.is_open:
            yield f"I4 row {row.id} is open"
        for meter in row.holds:
            final[meter] += row.final(meter)
    for meter in {*books.meters, *granted}:
        if books.meters.get(meter, 0) != granted[meter]:
            yield f"I4 {meter}: {books.meters.get(meter, 0)} taken, {granted[meter]} granted"
    for meter in {*spent, *final}:
        if spent[meter] != final[meter]:
            yield f"I4 {meter}: {spent[meter]} spent, the rows say {final[meter]}"
        if ":streams:" in meter and spent[meter]:
            yield f"I4 {meter}: {spent[meter]} streams at rest"
    rows = [row for row in books.rows if row.usage is not None]
    sums = (
        sum(row.usage.prompt for row in rows if row.usage),
        sum(row.usage.completion for row in rows if row.usage),
        sum(row.cost or 0 for row in rows),
    )
    if sums != books.days:
        yield f"I4 days say {books.days}, the rows {sums} (prompt, completion, cost)"

"""Ten thousand requests, half of them repetitions, a fifth streams; and what everyone's books say afterwards."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import sqlite3
import threading

import msgspec

from tests.harness import Answer, settings_of, wait_until
from tests.sim.running import Running
from tests.worker.caching_server import CONFIG, Server, body, caching, ids, mark, said, status_of
from waypost.keeper.direct import administer
from waypost.messages import Verified, VerifyLedger
from waypost.sim.journal import read_journal

REQUESTS = 10_000
LANES = 4


class Made(msgspec.Struct, frozen=True):
    """One request and its answer."""

    question: str
    status: str | None
    id: str
    source: str | None
    said: str


def plan_of(run: str) -> list[tuple[str, bool]]:
    """Questions, half of them asked before, each streamed or not; a fifth is."""
    dice, asked = random.Random(20), list[tuple[str, bool]]()
    for number in range(REQUESTS):
        again = number > 100 and dice.random() < 0.5
        asked.append(dice.choice(asked) if again else (f"{run}-{number}", dice.random() < 0.2))
    return asked


def drive(server: Server, key: str, asked: list[tuple[str, bool]], made: list[Made]) -> None:
    """One after the other, on one connection."""
    with server.waypost.connect() as client:
        for question, stream in asked:
            client.send(server.request(key, body(question, "route/priced", stream=stream)))
            answer = client.answer()
            assert answer.status == 200 and ids(answer) == {answer.header("x-request-id")}
            made.append(read(question, stream, answer))


def read(question: str, stream: bool, answer: Answer) -> Made:
    source = answer.header("x-waypost-cache-source-id")
    id = answer.header("x-request-id")
    assert id is not None and question in answer.text
    return Made(f"{question} {stream}", status_of(answer), id, source, repr(said(answer)))


def test_every_hit_is_its_source_and_every_book_agrees(simulator: Running) -> None:
    with caching(simulator) as server:
        run, key = mark(), server.key()
        asked = plan_of(run)
        lanes: list[list[Made]] = [[] for _ in range(LANES)]
        threads = [
            threading.Thread(target=drive, args=(server, key, asked[lane::LANES], lanes[lane]))
            for lane in range(LANES)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made = [one for lane in lanes for one in lane]
        assert len(made) == REQUESTS and len({one.id for one in made}) == REQUESTS
        hits = [one for one in made if one.status == "HIT"]
        sources = {one.id: one for one in made if one.status == "MISS"}
        assert len(hits) + len(sources) == REQUESTS and 0.45 < len(hits) / REQUESTS < 0.55
        assert 0.15 < sum(one.question.endswith("True") for one in made) / REQUESTS < 0.25
        for hit in hits:
            assert hit.source is not None
            assert (hit.question, hit.said) == (sources[hit.source].question, sources[hit.source].said)

        # The upstream: every question once, and never for a hit.
        exchanges = [exchange for exchange in read_journal(simulator.journal) if (exchange.nonce or "").startswith(run)]
        upstream = collections.Counter(f"{exchange.nonce} {exchange.stream}" for exchange in exchanges)
        assert set(upstream.values()) == {1} and set(upstream) == {one.question for one in made}
        assert len(exchanges) == len(sources)

        # The books: a row for each, hits without tokens and cost, each with its source.
        rows = ledger(server)
        assert set(rows) == {one.id.removeprefix("chatcmpl_") for one in made}
        for one in made:
            status, code, requests, tokens, cost, source = rows[one.id.removeprefix("chatcmpl_")]
            assert (status, code, requests) == (200, "", 1)
            assert source == (one.source or "").removeprefix("chatcmpl_")
            assert (tokens > 0 and cost > 0) if one.status == "MISS" else (tokens, cost) == (0, 0)
        verified = asyncio.run(administer(server.waypost.folder / "data", settings_of(CONFIG), VerifyLedger()))
        assert isinstance(verified, Verified) and verified.requests == REQUESTS and verified.differences == ()
        assert sums(server) == (REQUESTS, len(hits), sum(row[4] for row in rows.values()))


def ledger(server: Server) -> dict[str, tuple[int, str, int, int, int, str]]:
    """All rows, once they are there."""
    found: dict[str, tuple[int, str, int, int, int, str]] = {}

    def is_complete() -> bool:
        columns = "id, status, code, requests, tokens, cost, source"
        with contextlib.closing(sqlite3.connect(server.waypost.folder / "data" / "waypost.db")) as database:
            for id, *row in database.execute(f"SELECT {columns} FROM requests WHERE status IS NOT NULL"):
                found[id] = tuple(row)
        return len(found) == REQUESTS

    wait_until(is_complete, "the books to have it all")
    return found


def sums(server: Server) -> tuple[int, int, int]:
    """Requests, repeated ones, and their cost, by the sums of days."""
    with contextlib.closing(sqlite3.connect(server.waypost.folder / "data" / "waypost.db")) as database:
        (row,) = database.execute("SELECT SUM(requests), SUM(repeated), SUM(cost) FROM days")
    return row

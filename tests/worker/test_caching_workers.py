"""The response cache of several workers: what one clears all forget, and what one stores all may find."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator

import pytest

from tests.harness import Answer, Client, wait_until
from tests.sim.running import Running
from tests.worker.caching_server import CONFIG, Server, body, caching, mark, said, status_of

SHARED = "[cache]\nshared = true\n" + CONFIG
CONNECTIONS = 16


@contextlib.contextmanager
def connected(server: Server, count: int = CONNECTIONS) -> Iterator[list[Client]]:
    """So many connections that every worker has some of them."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server.waypost.connect()) for _ in range(count)]


@pytest.mark.parametrize("config", [CONFIG, SHARED], ids=["own", "shared"])
def test_what_one_worker_clears_all_have_forgotten(simulator: Running, config: str) -> None:
    with caching(simulator, config, workers=2) as server, connected(server) as clients:
        key, asked = server.key(), mark()
        request = server.request(key, body(asked))
        before = set()
        for _ in range(2):
            for client in clients:
                client.send(request)
                answer = client.answer()
                before.add(answer.header("x-waypost-cache-source-id") or answer.header("x-request-id"))
        assert status_of(answer) == "HIT" and len(before) in (1, 2), "one of each worker, at most"
        clients[0].send(server.request(key, body(asked), "x-waypost-cache-clear: true"))
        assert status_of(clients[0].answer()) == "MISS"
        for client in clients:
            client.send(request)
            answer = client.answer()
            assert answer.header("x-waypost-cache-source-id") not in before
        assert len(server.exchanges(asked)) <= 4


def test_what_cannot_be_cleared_everywhere_is_not_said_to_be(simulator: Running) -> None:
    with caching(simulator) as server:
        key, asked = server.key(), mark()
        assert [status_of(server.ask(key, body(asked))) for _ in range(2)] == ["MISS", "HIT"]
        with open(f"/proc/{server.waypost.process.pid}/task/{server.waypost.process.pid}/children") as children:
            keeper = int(children.read().split()[0])
        os.kill(keeper, signal.SIGSTOP)
        try:
            answer = server.ask(key, body(asked), "x-waypost-cache-clear: true")
            assert (answer.status, answer.code) == (503, "UNAVAILABLE") and "cleared everywhere" in answer.json[
                "error"
            ]["message"]
        finally:
            os.kill(keeper, signal.SIGCONT)
        assert len(server.exchanges(asked)) == 1
        assert server.row(answer).requests == 0, "it was given back"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_outlives_the_worker_that_stored_it(simulator: Running, stream: bool) -> None:
    with caching(simulator, SHARED) as server:
        key, asked = server.key(), mark()
        questions = [body(f"{asked} {number}", stream=stream) for number in range(20)]
        first = [server.ask(key, question) for question in questions]
        assert {status_of(answer) for answer in first} == {"MISS"}
        wait_until(lambda: stored(server) == 20, "the answers to be stored")
        assert not said_in_the_clear(server, asked)
        worker = server.waypost.workers[0]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: [pid for pid in server.waypost.workers if pid != worker], "another worker")
        again = [ask_patiently(server, key, question) for question in questions]
        # A store that does not answer at once is not waited for: then it is a miss, and costs what it costs.
        hits = [(one, other) for one, other in zip(first, again, strict=True) if status_of(other) == "HIT"]
        assert hits and len(hits) + len(server.exchanges(asked)) == 40
        for one, other in hits:
            assert said(one) == said(other)
            assert other.header("x-waypost-cache-source-id") == one.header("x-request-id")
            row = server.row(other)
            assert (row.tokens, row.cost, row.source) == (0, 0, server.row(one).id)


def ask_patiently(server: Server, key: str, question: bytes) -> Answer:
    """While a worker starts, nobody may be there to be connected to."""
    found: list[Answer] = []

    def is_answered() -> bool:
        with contextlib.suppress(OSError, AssertionError):
            found.append(server.ask(key, question))
        return bool(found) and found[-1].status == 200

    wait_until(is_answered, "an answer")
    return found[-1]


def stored(server: Server) -> int:
    with contextlib.closing(sqlite3.connect(server.waypost.folder / "data" / "waypost.db")) as database:
        return database.execute("SELECT COUNT(*) FROM answers WHERE content IS NOT NULL").fetchone()[0]


def said_in_the_clear(server: Server, asked: str) -> bool:
    """Is a question there to be read in the database? Answers repeat it; compressed they do not."""
    with contextlib.closing(sqlite3.connect(server.waypost.folder / "data" / "waypost.db")) as database:
        rows = database.execute("SELECT content FROM answers").fetchall()
    return any(b'"choices"' in (content or b"") for (content,) in rows)


def test_a_shared_answer_is_not_served_after_its_time(simulator: Running) -> None:
    with caching(simulator, SHARED, workers=2) as server, connected(server) as clients:
        key, asked = server.key(), mark()
        request = server.request(key, body(asked), "x-waypost-cache-ttl: 1")
        clients[0].send(request)
        first = clients[0].answer()
        wait_until(lambda: stored(server) == 1, "the answer to be stored")
        time.sleep(1.05)
        for client in clients:
            client.send(request.replace(b"x-waypost-cache-ttl: 1", b"x-waypost-cache-ttl: 9"))
            assert client.answer().header("x-waypost-cache-source-id") != first.header("x-request-id")


def test_tenants_do_not_share_what_workers_do(simulator: Running) -> None:
    with caching(simulator, SHARED, workers=2) as server, connected(server) as clients:
        asked = mark()
        keys = [server.key(), server.key()]
        ids: dict[str, set[str | None]] = {key: set() for key in keys}
        for client in clients:
            for key in keys:
                client.send(server.request(key, body(asked)))
                answer = client.answer()
                ids[key] |= {answer.header("x-request-id"), answer.header("x-waypost-cache-source-id")} - {None}
        assert not ids[keys[0]] & ids[keys[1]]

"""Clients that leave, dawdle or never read: upstreams hear of it within a second, and nothing is left behind."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.harness import Waypost, serving, wait_until
from tests.http.disconnects import baseline, check_nothing_is_left, hang_up, quiet, storm
from tests.http.nonces import fresh_nonce, times_seen
from tests.sim.running import Running
from waypost.sim.journal import Exchange


@pytest.fixture(scope="module")
def worker(simulator: Running) -> Iterator[Waypost]:
    """A worker of this module's own, since its descriptors and memory are counted."""
    with serving(quiet(simulator)) as waypost:
        assert waypost.ask("sim/demo").status == 200
        yield waypost


@pytest.fixture
def at_rest(worker: Waypost, simulator: Running) -> Iterator[int]:
    """The descriptors before; checked to be the same after the test."""
    before = baseline(worker, simulator)
    yield before
    check_nothing_is_left(worker, simulator, before)


def leave_and_see(simulator: Running, nonce: str, leave) -> Exchange:
    """The upstream's record of a request whose client leaves now; it must hear of it within a second."""
    leave()
    wait_until(lambda: simulator.exchange(nonce).end is not None, "the upstream to notice", 1.0)
    return simulator.exchange(nonce)


@pytest.mark.parametrize(
    "part", [1, 20, 200, -1], ids=["in the line", "in the head", "in the key", "before the last byte"]
)
def test_gone_while_sending(part: int, worker: Waypost, simulator: Running, at_rest: int) -> None:
    nonce = fresh_nonce()
    for _ in range(20):
        with worker.connect() as client:
            client.send(worker.chat("sim/demo", nonce)[:part])
    assert times_seen(simulator, nonce) == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", ["hang", "ttft-20000"])
def test_gone_before_the_first_byte(
    model: str, stream: bool, worker: Waypost, simulator: Running, at_rest: int
) -> None:
    nonce = fresh_nonce()
    client = worker.connect()
    client.send(worker.chat(f"sim/{model}", nonce, stream=stream))
    wait_until(lambda: times_seen(simulator, nonce), "the request to be upstream")
    ended = leave_and_see(simulator, nonce, client.sock.close)
    assert (ended.end, ended.events) == ("client-gone", 0)


@pytest.mark.parametrize("chunks", [1, 2, 7])
def test_gone_in_the_stream(chunks: int, worker: Waypost, simulator: Running, at_rest: int) -> None:
    nonce = fresh_nonce()
    client = worker.connect()
    client.send(worker.chat("sim/gap-30+words-2000", nonce, stream=True))
    for _ in range(chunks):
        client.until(b"\n\n")
    assert leave_and_see(simulator, nonce, client.sock.close).end == "client-gone"


def test_gone_in_a_whole_answer(worker: Waypost, simulator: Running, at_rest: int) -> None:
    nonce = fresh_nonce()
    client = worker.connect()
    client.send(worker.chat("sim/dribble-50", nonce))
    wait_until(lambda: times_seen(simulator, nonce), "the request to be upstream")
    assert leave_and_see(simulator, nonce, client.sock.close).end in ("client-gone", "fault:dribble-50")


def test_gone_by_reset(worker: Waypost, simulator: Running, at_rest: int) -> None:
    nonce = fresh_nonce()
    client = worker.connect()
    client.send(worker.chat("sim/gap-30+words-2000", nonce, stream=True))
    client.until(b"\n\n")
    dice = random.Random(2)
    assert leave_and_see(simulator, nonce, lambda: hang_up(client, dice)).end == "client-gone"


def test_gone_with_others_waiting_behind(worker: Waypost, simulator: Running, at_rest: int) -> None:
    """Pipelined requests of a client that has left are never begun."""
    first, second = fresh_nonce(), fresh_nonce()
    client = worker.connect()
    client.send(worker.chat("sim/ttft-6000", first) + worker.chat("sim/demo", second))
    wait_until(lambda: times_seen(simulator, first), "the first to be upstream")
    leave_and_see(simulator, first, client.sock.close)
    assert times_seen(simulator, second) == 0


def test_thousand_random_disconnects(worker: Waypost, simulator: Running, at_rest: int) -> None:
    storm(worker, 1000)


def test_slow_reader_is_waited_for_and_not_buffered(worker: Waypost, simulator: Running, at_rest: int) -> None:
    """60 MB of a stream against a reader that stops: the kernel's buffers fill, the worker's memory does not (F18)."""
    nonce = fresh_nonce()
    before = worker.memory()
    with worker.connect() as client:
        client.send(worker.chat("sim/words-200000", nonce, stream=True))
        client.until(b"data: ")
        highest = 0
        for _ in range(15):
            time.sleep(0.1)
            highest = max(highest, worker.memory())
        assert highest - before < 20 << 20
        assert simulator.exchange(nonce).end is None  # it could not send all of it
        assert nonce in worker.ask("sim/demo", nonce).text  # others go on meanwhile
        tail = b""
        while client.receive():
            tail = (tail + client.unread)[-200:]
            client.unread = b""
            if tail.endswith(b"0\r\n\r\n"):
                break
        assert tail.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert simulator.exchange(nonce).end == "complete"
    assert worker.memory() - before < 20 << 20


def test_many_slow_senders(worker: Waypost, simulator: Running, at_rest: int) -> None:
    """300 connections that send a byte now and then, in head and body; good requests go on (F19)."""
    data = worker.chat("sim/demo", "slow")
    slow = [worker.connect() for _ in range(300)]
    try:
        for number, client in enumerate(slow):
            client.send(data[: 20 if number % 2 else -30])
        for turn in range(10):
            for client in slow:
                client.send(b"x")
            nonce = fresh_nonce()
            started = time.monotonic()
            answer = worker.ask("sim/demo", nonce, stream=bool(turn % 2))
            assert answer.status == 200 and nonce in answer.text
            assert time.monotonic() - started < 10
    finally:
        for client in slow:
            client.sock.close()

"""Limits on time and on numbers of connections, with values small enough to wait for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.harness import wait_until
from tests.http.in_process import Running, serving_with
from waypost.http.message import Limits

LINE = b"GET /here HTTP/1.1\r\nhost: a\r\n\r\n"


def posting(size: int, path: bytes = b"/here") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (path, size)


@pytest.fixture(scope="module")
def hasty() -> Iterator[Running]:
    """Heads within 0.5 s, bodies within 2 s, idle for 0.5 s, 5 connections, 3 pipelined requests."""
    limits = Limits(head_seconds=0.5, body_seconds=2, idle_seconds=0.5, connections=5, pipelined=3)
    with serving_with(limits) as running:
        yield running
        wait_until(lambda: not running.server.connections, "all connections to be gone")


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /here HTTP/1.1\r\n", LINE[:-1]])
def test_head_deadline(sent: bytes, hasty: Running) -> None:
    """408 once something has come; a connection that never says a word is just closed."""
    with hasty.connect() as client:
        client.send(sent)
        if sent:
            answer = client.answer()
            assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")
            assert answer.header("connection") == "close"
        assert client.closed()


def test_head_deadline_is_not_fed_by_single_bytes(hasty: Running) -> None:
    """A byte now and then does not keep a connection (slowloris)."""
    with hasty.connect() as client:
        client.sock.settimeout(0.05)
        client.send(b"GET /here HTTP/1.1\r\nx: ")
        started = time.monotonic()
        while not client.unread and time.monotonic() - started < 20:
            client.send(b"y")
            try:
                if not client.receive():
                    break
            except TimeoutError:
                pass
        client.sock.settimeout(20)
        assert client.answer().status == 408


def test_head_deadline_of_a_second_request(hasty: Running) -> None:
    with hasty.connect() as client:
        client.send(LINE + b"GET /there HT")
        assert client.answer().status == 200
        assert client.answer().status == 408
        assert client.closed()


def test_idle_connection_is_closed_without_a_word(hasty: Running) -> None:
    with hasty.connect() as client:
        client.send(LINE)
        assert client.answer().status == 200
        assert client.closed()


def test_body_deadline(hasty: Running) -> None:
    """A body that comes fast enough by the rate is still to be whole in time."""
    with hasty.connect() as client:
        client.sock.settimeout(0.05)
        client.send(posting(10**6))
        started = time.monotonic()
        while not client.unread and time.monotonic() - started < 20:
            client.send(b"x" * 2000)
            try:
                if not client.receive():
                    break
            except TimeoutError:
                pass
        client.sock.settimeout(20)
        assert client.answer().status == 408
        assert time.monotonic() - started >= 1.5


def test_body_rate() -> None:
    """Less than the rate over a window of five seconds: 408 long before the body's own deadline."""
    with serving_with(Limits(body_seconds=120, body_rate=1024)) as running, running.connect() as client:
        client.send(posting(100) + b"x" * 99)
        answer = client.answer()
        assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")
        assert client.closed()


def test_body_fast_enough_is_not_cut(hasty: Running) -> None:
    with hasty.connect() as client:
        client.send(posting(10))
        time.sleep(0.7)  # over the head's time, which is no limit any more
        client.send(b"x" * 10)
        assert client.answer().body == b"POST /here 10"


def test_deadlines_stop_while_a_request_is_served(hasty: Running) -> None:
    with hasty.connect() as client:
        client.send(LINE.replace(b"/here", b"/hold"))
        wait_until(lambda: hasty.application.held, "the request to be held")
        time.sleep(0.8)
        hasty.release()
        assert client.answer().body == b"GET /hold 0"


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_connections(extra: int, hasty: Running) -> None:
    """One more than the limit is told so and closed; the others go on."""
    wait_until(lambda: not hasty.server.connections, "earlier connections to go")
    clients = [hasty.connect() for _ in range(hasty.limits.connections + extra)]
    try:
        held = clients[: hasty.limits.connections]
        for client in held:
            client.send(LINE.replace(b"/here", b"/hold"))
        wait_until(lambda: len(hasty.application.held) == len(held), "all to be held")
        for client in clients[hasty.limits.connections :]:
            answer = client.answer()
            assert (answer.status, answer.code) == (503, "OVERLOADED")
            assert client.closed()
        hasty.release()
        assert [client.answer().status for client in held] == [200] * len(held)
    finally:
        hasty.release()
        for client in clients:
            client.sock.close()


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_pipelined(extra: int, hasty: Running) -> None:
    """Requests behind one that is being served: up to the limit they wait, then the connection ends with 503."""
    count = hasty.limits.pipelined + extra
    with hasty.connect() as client:
        client.send(LINE.replace(b"/here", b"/hold"))
        wait_until(lambda: hasty.application.held, "the first to be held")
        client.send(b"".join(LINE.replace(b"/here", b"/%d" % n) for n in range(count)))
        time.sleep(0.05)
        hasty.release()
        assert client.answer().body == b"GET /hold 0"
        for n in range(min(count, hasty.limits.pipelined)):
            assert client.answer().body == b"GET /%d 0" % n
        if extra > 0:
            assert client.answer().code == "OVERLOADED"
            assert client.closed()


def test_slow_reader_is_cut() -> None:
    """A client that takes nothing of its answer for the write time is gone, and its connection with it."""
    with serving_with(Limits(write_seconds=0.5)) as running, running.connect() as client:
        client.send(LINE.replace(b"/here", b"/hold"))
        wait_until(lambda: running.application.held, "the request to be held")
        exchange = running.application.held.pop()
        running.call(lambda: exchange.respond(200, b"", bytes(64 << 20)))
        wait_until(lambda: not running.server.connections, "the connection to be cut")
        with pytest.raises(AssertionError, match="bytes before the end"):
            client.answer()


def test_connection_flood() -> None:
    """1,000 connections with 50 allowed: the surplus is turned away, and good requests are served right after."""
    with serving_with(Limits(connections=50)) as running:
        clients = [running.connect() for _ in range(1000)]
        for client in clients:
            client.sock.close()
        wait_until(lambda: not running.server.connections, "the flood to run off")
        with running.connect() as client:
            client.send(LINE)
            assert client.answer().status == 200

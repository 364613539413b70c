"""SIGTERM: what runs comes to its end, nothing new begins, and the exit code says that all went well."""

from __future__ import annotations

import signal
import time

import pytest

from tests.harness import DEADLINE, Waypost, provider, serving, wait_until
from tests.http.nonces import fresh_nonce, times_seen
from tests.sim.running import Running


def refuses(waypost: Waypost) -> bool:
    """Is a new connection refused? One that is accepted by nobody counts as not."""
    try:
        waypost.connect().sock.close()
    except ConnectionRefusedError:
        return True
    time.sleep(0.05)
    return False


def test_drain(simulator: Running) -> None:
    with serving("[server]\ndrain = 90.0\n" + provider("sim", simulator.base)) as waypost:
        nonces = [fresh_nonce() for _ in range(3)]
        with waypost.connect() as stream, waypost.connect() as whole, waypost.connect() as idle:
            idle.send(waypost.chat("sim/demo"))
            assert idle.answer().status == 200
            stream.send(waypost.chat("sim/gap-100+words-40", nonces[0], stream=True))
            stream.until(b"data: ")
            whole.send(waypost.chat("sim/ttft-1000", nonces[1]) + waypost.chat("sim/demo", nonces[2]))
            wait_until(lambda: times_seen(simulator, nonces[1]), "the slow request to be under way")
            waypost.process.send_signal(signal.SIGTERM)
            assert idle.closed()
            wait_until(lambda: refuses(waypost), "new connections to be refused", 1.0)
            stream.until(b"data: [DONE]\n\n")
            stream.until(b"0\r\n\r\n")
            assert stream.closed()  # long before the drain's time is over
            answer = whole.answer()
            assert nonces[1] in answer.text and answer.header("connection") == "close"
            assert whole.closed()
        assert waypost.process.wait(DEADLINE) == 0
        assert "Traceback" not in waypost.log.read_text()


def test_half_sent_requests_do_not_hold_up_the_drain(simulator: Running) -> None:
    """Heads and bodies that never come whole: the limit of time ends them."""
    config = "[server]\ndrain = 1.0\n" + provider("sim", simulator.base)
    with serving(config) as waypost, waypost.connect() as head, waypost.connect() as body:
        head.send(b"GET /healthz HT")
        body.send(waypost.chat("sim/demo")[:-1])
        started = time.monotonic()
        assert waypost.stop() == 0
        assert time.monotonic() - started < 15


@pytest.mark.parametrize("stream", [False, True])
def test_what_takes_longer_than_the_grace_is_told_so(stream: bool, simulator: Running) -> None:
    config = "[server]\ndrain = 0.5\n" + provider("sim", simulator.base)
    with serving(config) as waypost, waypost.connect() as client:
        nonce = fresh_nonce()
        client.send(waypost.chat("sim/stall-after-3", nonce, stream=stream))
        if stream:
            client.until(b"data: ")
            client.unread = b""
        wait_until(lambda: times_seen(simulator, nonce), "the request to be under way")
        waypost.process.send_signal(signal.SIGTERM)
        if stream:
            rest = client.until(b"data: [DONE]\n\n")
            assert b'"UNAVAILABLE"' in rest
        else:
            answer = client.answer()
            assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        assert waypost.process.wait(DEADLINE) == 0


def test_readyz_says_draining(simulator: Running) -> None:
    """On a connection that is still open, because it has a request under way."""
    with serving(provider("sim", simulator.base)) as waypost, waypost.connect() as client:
        nonce = fresh_nonce()
        client.send(waypost.chat("sim/ttft-500", nonce))
        wait_until(lambda: times_seen(simulator, nonce), "the request to be under way")
        waypost.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(waypost), "new connections to be refused")
        answer = client.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert waypost.process.wait(DEADLINE) == 0

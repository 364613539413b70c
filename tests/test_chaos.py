"""The fault-injecting proxy itself: each fault does what it says, can be switched while it runs, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos import Faults, Proxy, chaos
from tests.harness import wait_until

DEADLINE = 20.0
BRIEF = 0.2  # seconds in which nothing must come


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets, to the end."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(1 << 16):
                self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """In front of an echo."""
    with Server(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with chaos("127.0.0.1", server.server_address[1]) as proxy:
                yield proxy
        finally:
            server.shutdown()
            thread.join()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), DEADLINE)


def read(client: socket.socket, count: int) -> bytes:
    """So many bytes, or as many as come before the end."""
    data = b""
    while len(data) < count and (piece := client.recv(count - len(data))):
        data += piece
    return data


def is_silent(client: socket.socket) -> bool:
    """Neither bytes nor an end come for a moment."""
    client.settimeout(BRIEF)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(DEADLINE)
    return False


def test_without_faults_everything_passes(proxy: Proxy) -> None:
    sent = os.urandom(1 << 20)
    with connect(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        assert read(client, len(sent)) == sent
        sender.join()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"", "the end passes too"
    assert proxy.connections == 1 and proxy.passed == {"up": len(sent), "down": len(sent)}
    wait_until(lambda: not proxy.open, "the connection to be over")


def test_latency_and_bandwidth_take_their_time(proxy: Proxy) -> None:
    proxy.spoil(up=Faults(latency=0.15), down=Faults(bandwidth=1000))
    with connect(proxy) as client:
        began = time.monotonic()
        client.sendall(b"x" * 100)
        assert read(client, 100) == b"x" * 100
        assert time.monotonic() - began >= 0.25
    proxy.spoil(up=Faults(latency=0.1, jitter=0.1))
    assert all(0 <= proxy.delay(0, proxy.up) <= 0.2 for _ in range(100))


def test_slices_come_one_by_one_and_whole(proxy: Proxy) -> None:
    proxy.spoil(down=Faults(slice_size=1, slice_pause=0.01))
    with connect(proxy) as client:
        client.sendall(b"abcdef")
        pieces = []
        while sum(map(len, pieces)) < 6:
            pieces.append(client.recv(100))
        assert b"".join(pieces) == b"abcdef" and len(pieces) > 1


@pytest.mark.parametrize("count", [0, 3])
def test_a_limit_is_a_clean_end(proxy: Proxy, count: int) -> None:
    proxy.spoil(down=Faults(limit=count))
    with connect(proxy) as client:
        client.sendall(b"abcdef")
        assert read(client, 6) == b"abc"[:count]
        assert client.recv(1) == b""


@pytest.mark.parametrize("count", [0, 3])
def test_a_reset_is_none(proxy: Proxy, count: int) -> None:
    proxy.spoil(up=Faults(reset=count))
    with connect(proxy) as client:
        client.sendall(b"abcdef")
        with pytest.raises(ConnectionResetError):
            read(client, 100)


def test_a_blackhole_holds_back_until_it_is_healed(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"a")
        assert read(client, 1) == b"a"
        proxy.spoil(down=Faults(blackhole=True))
        client.sendall(b"b")
        assert is_silent(client), "open connections too"
        proxy.heal()
        assert read(client, 1) == b"b"


@pytest.mark.parametrize("way", ["up", "down"])
def test_half_open_never_tells_of_the_end(proxy: Proxy, way: str) -> None:
    proxy.spoil(**{way: Faults(half_open=True)})  # type: ignore[arg-type]
    with connect(proxy) as client:
        client.sendall(b"a")
        assert read(client, 1) == b"a"
        client.shutdown(socket.SHUT_WR)
        assert is_silent(client)
        proxy.heal()
        assert client.recv(1) == b""


def test_a_slow_close(proxy: Proxy) -> None:
    proxy.spoil(down=Faults(slow_close=0.3))
    with connect(proxy) as client:
        began = time.monotonic()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"" and time.monotonic() - began >= 0.3


def test_doors(proxy: Proxy) -> None:
    proxy.spoil(door="refuse")
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.spoil(door="close")
    with connect(proxy) as client:
        assert client.recv(1) == b""
    proxy.spoil(door="reset")
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)  # where the reset is not so quick that connecting fails already
    proxy.spoil(door="silent")
    with connect(proxy) as client:
        client.sendall(b"a")
        assert is_silent(client)
        proxy.heal()
        assert read(client, 1) == b"a", "the same port, and who waited is served"


def test_refusing_leaves_open_connections_alone(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"a")
        assert read(client, 1) == b"a"
        proxy.spoil(door="refuse")
        client.sendall(b"b")
        assert read(client, 1) == b"b"
        assert proxy.cut_all() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_an_upstream_that_is_not_there_is_a_reset() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with chaos("127.0.0.1", port) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as client:
            client.recv(1)  # if connecting was over before the reset came


def test_nothing_is_left(proxy: Proxy) -> None:
    descriptors, threads = count_descriptors(), threading.active_count()
    with chaos("127.0.0.1", proxy.port) as second:
        clients = [connect(second) for _ in range(10)]
        second.spoil(door="silent", down=Faults(blackhole=True))
        clients.append(connect(second))
        wait_until(lambda: second.connections == 11, "eleven connections")
        for client in clients:
            client.close()
    wait_until(lambda: not proxy.open, "the first proxy to be rid of the second's connections")
    wait_until(lambda: count_descriptors() <= descriptors, "descriptors to go")
    wait_until(lambda: threading.active_count() <= threads, "threads to go")


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))

"""TLS on both sides, tunnels through a proxy, UNIX sockets: the same requests over other roads."""

from __future__ import annotations

import pathlib
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator

import msgspec
import pytest
import trustme

from tests.harness import Waypost, provider, serving
from tests.http.nonces import fresh_nonce
from tests.http.upstream import Upstream, upstream


class Roads(msgspec.Struct):
    waypost: Waypost
    trusting: ssl.SSLContext  # a client's context that trusts the listener
    good: Upstream
    tunnelled: Upstream
    connected: list[str]  # request heads that the proxy saw


def server_context(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


class Proxy:
    """A CONNECT proxy that sends every tunnel to the same port, whatever its name."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.target = 0
        self.seen: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(sock,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        self.seen.append(head.decode())
        if b"refused.test" in head:
            client.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
            client.close()
            return
        with client, socket.create_connection(("127.0.0.1", self.target)) as there:
            client.sendall(b"HTTP/1.1 200 Connection established\r\nvia: tests\r\n\r\n")
            back = threading.Thread(target=pump, args=(there, client), daemon=True)
            back.start()
            pump(client, there)
            back.join(20)


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one of them is gone, and with it the tunnel


@pytest.fixture(scope="module")
def roads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roads]:
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    listener = authority.issue_cert("localhost")
    listener.private_key_and_cert_chain_pem.write_to_path(folder / "listener.pem")
    proxy = Proxy()
    with (
        upstream(server_context(authority, "localhost")) as good,
        upstream(server_context(authority, "elsewhere.test")) as elsewhere,
        upstream(server_context(stranger, "localhost")) as unknown,
        upstream(server_context(authority, "tunnelled.test")) as tunnelled,
    ):
        proxy.target = tunnelled.port
        ca = f'"{folder / "ca.pem"}"'
        pem = folder / "listener.pem"
        config = [
            f'[server]\ntls = {{ certificate = "{pem}", key = "{pem}" }}\n',
            provider("good", good.base("localhost"), ca=ca),
            provider("elsewhere", elsewhere.base("localhost"), ca=ca),
            provider("unknown", unknown.base("localhost"), ca=ca),
            provider("system", good.base("localhost")),
            provider("plain", good.base("localhost").replace("https", "http")),
            provider("tunnelled", "https://tunnelled.test/v1", ca=ca),
            provider("refused", "https://refused.test/v1", ca=ca),
        ]
        environment = {"HTTPS_PROXY": f"http://user:p%40ss@127.0.0.1:{proxy.port}", "NO_PROXY": "localhost"}
        with serving("".join(config), environment=environment) as waypost:
            trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
            yield Roads(waypost, trusting, good, tunnelled, proxy.seen)
    proxy.listener.close()


def test_tls_on_both_sides(roads: Roads) -> None:
    with roads.waypost.connect(roads.trusting) as client:
        for _ in range(3):
            nonce = fresh_nonce()
            client.send(roads.waypost.chat("good/echo", nonce))
            assert client.answer().text == nonce
    assert len({asked.connection for asked in roads.good.asked}) == 1


def test_large_bodies_over_tls(roads: Roads) -> None:
    text = "ü" * 300_000
    with roads.waypost.connect(roads.trusting) as client:
        client.send(roads.waypost.chat("good/echo", text))
        assert client.answer().text == text


def test_listener_without_trust_is_refused_by_the_client(roads: Roads) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        roads.waypost.connect(ssl.create_default_context())


def test_plain_bytes_to_a_tls_listener(roads: Roads) -> None:
    with roads.waypost.connect() as client:
        client.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        while client.receive():
            pass
        assert not client.unread.startswith(b"HTTP/")


@pytest.mark.parametrize("name", ["elsewhere", "unknown", "system"])
def test_upstream_that_cannot_prove_who_it_is(name: str, roads: Roads) -> None:
    """Another's name, an unknown authority, no authority given: 502, and never without verification after all."""
    before = len(roads.good.asked)
    with roads.waypost.connect(roads.trusting) as client:
        client.send(roads.waypost.chat(f"{name}/echo"))
        answer = client.answer()
    assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")
    assert "TLS" in answer.json["error"]["message"]
    assert len(roads.good.asked) == before


def test_plain_request_to_a_tls_upstream(roads: Roads) -> None:
    with roads.waypost.connect(roads.trusting) as client:
        client.send(roads.waypost.chat("plain/echo"))
        assert client.answer().status == 502


def test_tunnel_through_the_proxy(roads: Roads) -> None:
    nonce = fresh_nonce()
    with roads.waypost.connect(roads.trusting) as client:
        client.send(roads.waypost.chat("tunnelled/echo", nonce))
        assert client.answer().text == nonce
    assert roads.tunnelled.asked[-1].question == nonce
    assert "authorization: Bearer upstream-secret" in roads.tunnelled.asked[-1].head.decode()
    heads = [head for head in roads.connected if "tunnelled.test" in head]
    assert heads and all(head.startswith("CONNECT tunnelled.test:443 HTTP/1.1\r\n") for head in heads)
    assert all("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in head for head in heads)
    assert not any("upstream-secret" in head for head in roads.connected)


def test_no_proxy_for_hosts_that_it_names(roads: Roads) -> None:
    with roads.waypost.connect(roads.trusting) as client:
        client.send(roads.waypost.chat("good/echo", "direct"))
        assert client.answer().text == "direct"
    assert not any("localhost" in head for head in roads.connected)


def test_tunnel_that_the_proxy_refuses(roads: Roads) -> None:
    with roads.waypost.connect(roads.trusting) as client:
        client.send(roads.waypost.chat("refused/echo"))
        answer = client.answer()
    assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")
    assert "p@ss" not in answer.body.decode() and "dXNlcjpwQHNz" not in answer.body.decode()


def test_unix_sockets_on_both_sides(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = pathlib.Path(tmp_path_factory.mktemp("u")) / "sim.sock"
    command = [sys.executable, "-m", "waypost.sim", "--listen", f"unix:{path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
        try:
            assert simulator.stdout and re.match("listening on unix:", simulator.stdout.readline())
            config = provider("sim", "http://simulator/v1", socket=f'"{path}"')
            with serving(config, listen="unix:w.sock") as waypost:
                assert waypost.base.startswith("unix:")
                for stream in (False, True):
                    nonce = fresh_nonce()
                    assert nonce in waypost.ask("sim/demo", nonce, stream=stream).text
                assert waypost.stop() == 0
        finally:
            simulator.terminate()

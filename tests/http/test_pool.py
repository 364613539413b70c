"""Connections to an upstream: which one is used, how many there are, and what happens when one has just gone."""

from __future__ import annotations

import threading

import pytest

from tests.harness import Client, Waypost, wait_until
from tests.http.idle_cycles import cycle
from tests.http.nonces import fresh_nonce, times_seen
from tests.http.upstream import Upstream, completion, plays, response
from tests.sim.running import Running


def test_reuse_race_is_not_seen_by_the_caller(gateway: Waypost, simulator: Running) -> None:
    """The upstream closes every connection that is used a second time, without an answer: each time once more."""
    for number in range(40):
        nonce = fresh_nonce()
        answer = gateway.ask("sim/close-reused", nonce, stream=bool(number % 2))
        assert answer.status == 200 and nonce in answer.text
        assert times_seen(simulator, nonce) in (1, 2)


def test_idle_then_request(gateway: Waypost) -> None:
    """F16: the upstream closes idle connections just when the next request may come."""
    assert cycle(gateway, 100) == []


def test_fresh_connection_that_is_closed_is_no_race(gateway: Waypost, scripted: Upstream) -> None:
    """Silence on a fresh connection is a failure of the upstream: an attempt, of which there are three at most."""
    scripted.scripts["silent"] = plays(keep=False)
    gateway.ask("raw/silent", "warm-up")  # whatever idle connection there was is used up
    nonce = fresh_nonce()
    answer = gateway.ask("raw/silent", nonce)
    assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")
    used = [asked.connection for asked in scripted.asked if asked.question == nonce]
    assert len(used) == len(set(used)) == int(answer.header("x-attempts") or 0) <= 3


def test_last_in_first_out(gateway: Waypost, scripted: Upstream) -> None:
    """Three connections are opened by three requests at once; then one after the other, all go over one."""
    barrier = threading.Barrier(3)

    def together(sock, asked) -> bool:
        barrier.wait(20)
        sock.sendall(response(completion("ok")))
        return True

    scripted.scripts["together"] = together
    with gateway.connect() as a, gateway.connect() as b, gateway.connect() as c:
        for client in (a, b, c):
            client.send(gateway.chat("lone/together"))
        assert [client.answer().status for client in (a, b, c)] == [200, 200, 200]
    nonces = [fresh_nonce() for _ in range(10)]
    for nonce in nonces:
        assert gateway.ask("lone/echo", nonce).text == nonce
    used = {asked.connection for asked in scripted.asked if asked.question in nonces}
    assert len(used) == 1


class Holding:
    """A script that answers when it is told to."""

    def __init__(self, upstream: Upstream, name: str) -> None:
        self.inside = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.upstream = upstream
        upstream.scripts[name] = self

    def __call__(self, sock, asked) -> bool:
        self.inside.release()
        self.let_go.wait(30)
        sock.sendall(response(completion(asked.question)))
        return True


def test_third_request_waits_for_one_of_two_connections(gateway: Waypost, scripted: Upstream) -> None:
    holding = Holding(scripted, "held")
    before = scripted.accepted
    clients = [gateway.connect() for _ in range(3)]
    nonces = [fresh_nonce() for _ in clients]
    for client, nonce in zip(clients, nonces, strict=True):
        client.send(gateway.chat("narrow/held", nonce))
    for _ in range(2):
        assert holding.inside.acquire(timeout=20)
    assert not holding.inside.acquire(timeout=0.2)
    holding.let_go.set()
    assert [client.answer().text for client in clients] == nonces
    assert scripted.accepted - before <= 2
    for client in clients:
        client.sock.close()


@pytest.mark.parametrize("extra", [0, 1])
def test_hundred_may_wait(extra: int, gateway: Waypost, scripted: Upstream) -> None:
    """Two are served, a hundred wait, one more is told 503 at once; then all are answered with their own."""
    holding = Holding(scripted, "held")
    clients = [gateway.connect() for _ in range(102 + extra)]
    nonces = [fresh_nonce() for _ in clients]
    for client, nonce in zip(clients, nonces, strict=True):
        client.send(gateway.chat("narrow/held", nonce))
    for _ in range(2):
        assert holding.inside.acquire(timeout=20)
    if extra:
        refused = first_answered(clients)
        answer = clients[refused].answer()
        assert (answer.status, answer.code) == (503, "OVERLOADED")
        assert answer.header("retry-after") == "1"
        del clients[refused], nonces[refused]
    holding.let_go.set()
    assert [client.answer().text for client in clients] == nonces
    for client in clients:
        client.sock.close()


def first_answered(clients: list[Client]) -> int:
    import select

    ready, _, _ = select.select([client.sock for client in clients], [], [], 20)
    assert len(ready) == 1
    return next(n for n, client in enumerate(clients) if client.sock is ready[0])


def test_waiting_caller_that_leaves_gives_up_its_place(gateway: Waypost, scripted: Upstream) -> None:
    holding = Holding(scripted, "held")
    clients = [gateway.connect() for _ in range(5)]
    nonces = [fresh_nonce() for _ in clients]
    for number, client in enumerate(clients):
        client.send(gateway.chat("narrow/held", nonces[number]))
        if number < 2:
            assert holding.inside.acquire(timeout=20)
    for _ in range(3):  # the worker has heard of all that came before
        assert gateway.ask("raw/echo", "fence").status == 200
    clients[3].sock.close()
    for _ in range(3):
        assert gateway.ask("raw/echo", "fence").status == 200
    holding.let_go.set()
    for number in (0, 1, 2, 4):
        assert clients[number].answer().text == nonces[number]
        clients[number].sock.close()
    assert not any(asked.question == nonces[3] for asked in scripted.asked)


@pytest.mark.parametrize("name", ["closed", "nowhere"])
def test_upstream_that_cannot_be_reached(name: str, gateway: Waypost) -> None:
    """A closed port and a name without an address."""
    answer = gateway.ask(f"{name}/model")
    assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")


def test_keep_alive_header_is_obeyed(gateway: Waypost, scripted: Upstream) -> None:
    """An upstream that keeps connections for no more than a second is not trusted with a second request."""
    scripted.scripts["brief"] = lambda sock, asked: (
        not sock.sendall(response(completion("ok"), b"keep-alive: timeout=1"))
    )
    nonces = [fresh_nonce() for _ in range(4)]
    for nonce in nonces:
        assert gateway.ask("lone/brief", nonce).status == 200
    used = [asked.connection for asked in scripted.asked if asked.question in nonces]
    assert len(set(used)) == len(nonces)


def test_connection_of_an_early_answer_is_not_used_again(gateway: Waypost, scripted: Upstream) -> None:
    """Answers while our request is still on its way leave the rest of it in the connection."""
    wait_until(lambda: gateway.ask("raw/echo", "x").status == 200, "the upstream")
    for size in (10, 900_000):
        nonce = fresh_nonce()
        assert gateway.ask("raw/echo", nonce, user="y" * size).text == nonce

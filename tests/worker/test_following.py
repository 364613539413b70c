"""Identical requests in the air: one is made, the others have its answer as it comes, and nobody is told half of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from tests.harness import Answer, Client, wait_until
from tests.sim.running import Running, running
from tests.worker.caching_server import CONFIG, Row, Server, body, caching, ids, mark, said, status_of

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
SLOW = "sim/ttft-2000+gap-15+words-30"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for these tests alone: its journal is read again and again, so it must not be long."""
    with running(tmp_path_factory.mktemp("simulator") / "journal.jsonl") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Server]:
    with caching(simulator, CONFIG + "[routing]\nattempts = 1\n") as server:
        yield server


@contextlib.contextmanager
def led(server: Server, key: str, request: bytes, asked: str, *headers: str) -> Iterator[Client]:
    """A request whose upstream has been asked by now."""
    with server.asking(key, request, *headers) as leader:
        wait_until(lambda: server.exchanges(asked), "the upstream to be asked")
        yield leader


def together(clients: list[Client]) -> list[Answer]:
    """Their answers, read at the same time."""
    found: list[Answer | None] = [None] * len(clients)

    def read(number: int) -> None:
        found[number] = clients[number].answer()

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answer for answer in found if answer is not None]


@BOTH
def test_those_who_ask_the_same_meanwhile_have_the_same_answer(server: Server, stream: bool) -> None:
    key, asked = server.key(), mark()
    request = body(asked, SLOW, stream=stream)
    with led(server, key, request, asked) as leader, contextlib.ExitStack() as others:
        followers = [others.enter_context(server.asking(key, request)) for _ in range(5)]
        answers = together([leader, *followers])
    assert [status_of(answer) for answer in answers] == ["MISS"] + ["HIT"] * 5
    assert all(said(answer) == said(answers[0]) for answer in answers)
    assert all(ids(answer) == {answer.header("x-request-id")} for answer in answers)
    assert len(server.exchanges(asked)) == 1
    rows = [server.row(answer) for answer in answers]
    assert rows[0].source == "" and rows[0].tokens
    assert {(row.status, row.code, row.requests, row.tokens, row.cost) for row in rows[1:]} == {(200, "", 1, 0, 0)}
    assert {row.source for row in rows[1:]} == {rows[0].id}
    assert status_of(server.ask(key, request)) == "HIT"


@BOTH
def test_only_the_first_one_s_answer_has_a_cost(server: Server, stream: bool) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "route/slow", stream=stream, usage={"include": True})
    with led(server, key, request, asked) as leader, server.asking(key, request) as follower:
        answers = together([leader, follower])
    assert [status_of(answer) for answer in answers] == ["MISS", "HIT"] and len(server.exchanges(asked)) == 1
    first, second = ((answer.chunks[-1] if stream else answer.json)["usage"] for answer in answers)
    assert first["cost"] > 0 and second == {**first, "cost": 0}


def test_who_comes_in_the_middle_has_all_of_it(server: Server) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "sim/gap-20+words-60", stream=True)
    with server.asking(key, request) as leader:
        for _ in range(10):
            leader.until(b'"content"')
        with server.asking(key, request) as late:
            # It has the beginning at once, and the leader is still on its way.
            late.until(b'"content"')
            rest = leader.until(b"data: [DONE]")
            answer = late.until(b"data: [DONE]")
    assert rest.count(b'"content"') > 5, "the leader was through already"
    assert server.exchanges(asked)[0].text_characters > 0 and len(server.exchanges(asked)) == 1
    assert answer.count(b'"content"') >= 59


def test_another_tenant_does_not_join(server: Server) -> None:
    asked = mark()
    request = body(asked, SLOW)
    with led(server, server.key(), request, asked) as leader, server.asking(server.key(), request) as other:
        answers = together([leader, other])
    assert [status_of(answer) for answer in answers] == ["MISS", "MISS"] and len(server.exchanges(asked)) == 2


# The leader fails


@BOTH
def test_a_leader_that_fails_before_it_begins_takes_nobody_along(server: Server, stream: bool) -> None:
    key, asked = server.key(), mark()
    model = f"sim/{asked[6:]}+ttft-2000+status-500-50"
    while server.ask(key, body("Hello", model), "x-waypost-cache: false").status != 200:
        pass  # every second request to this model fails, and the next is one of them
    request = body(asked, model, stream=stream)
    with led(server, key, request, asked) as leader, server.asking(key, request) as follower:
        answers = together([leader, follower])
    assert [answer.status for answer in answers] == [502, 200] and status_of(answers[1]) == "MISS"
    rows = [server.row(answer) for answer in answers]
    assert [(row.status, row.requests, row.source) for row in rows] == [(502, 0, ""), (200, 1, "")]
    assert len(server.exchanges(asked)) == 2
    assert status_of(server.ask(key, request)) == "HIT"


@BOTH
def test_all_fail_by_themselves_where_nobody_is_answered(server: Server, stream: bool) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "sim/ttft-2000+status-503", stream=stream)
    with led(server, key, request, asked) as leader, contextlib.ExitStack() as others:
        followers = [others.enter_context(server.asking(key, request)) for _ in range(3)]
        answers = together([leader, *followers])
    assert [answer.status for answer in answers] == [502] * 4
    assert [server.row(answer).requests for answer in answers] == [0] * 4


@pytest.mark.parametrize("fault", ["cut-after-9", "eof-after-9", "reset-after-9", "sse-error-after-9"])
def test_an_answer_that_breaks_off_breaks_off_for_all(server: Server, fault: str) -> None:
    key, asked = server.key(), mark()
    request = body(asked, f"sim/gap-40+{fault}", stream=True)
    with server.asking(key, request) as leader:
        leader.until(b'"content"')
        with server.asking(key, request) as follower:
            follower.until(b'"content"')
            assert len(server.exchanges(asked)) == 1
            ends = [client.until(b"0\r\n\r\n") for client in (leader, follower)]
    for end in ends:
        assert b'data: {"error":{' in end and b'"PROVIDER_ERROR"' in end and end.count(b"[DONE]") == 1
    assert len(server.exchanges(asked)) == 1
    again = server.ask(key, request)
    assert status_of(again) == "MISS" and b'"error":{' in again.body


# Callers leave


@BOTH
def test_the_leader_leaves_and_the_others_have_the_answer(server: Server, stream: bool) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "sim/ttft-2500+gap-15+words-30", stream=stream)
    with led(server, key, request, asked) as leader, contextlib.ExitStack() as others:
        followers = [others.enter_context(server.asking(key, request)) for _ in range(2)]
        until_read(server)
        head = leader.until(b"\r\n\r\n") if stream else b""
        leader.sock.close()
        answers = together(followers)
    assert [answer.status for answer in answers] == [200, 200] and said(answers[0]) == said(answers[1])
    assert len(server.exchanges(asked)) == 1 and server.exchanges(asked)[0].end == "complete"
    source = answers[0].header("x-waypost-cache-source-id") or ""
    (led_row,) = server.rows(source)
    assert (led_row.code, led_row.status) == ("CLIENT_GONE", 200 if head else 0) and led_row.tokens
    for answer in answers:
        row = server.row(answer)
        assert (row.status, row.code, row.tokens, row.source) == (200, "", 0, led_row.id)
    assert status_of(server.ask(key, request)) == "HIT", "it was whole all the same"


@BOTH
def test_when_all_have_left_so_does_the_upstream(server: Server, stream: bool) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "sim/ttft-2000+gap-50+words-200", stream=stream)
    with led(server, key, request, asked) as leader, server.asking(key, request) as follower:
        until_read(server)
        leader.sock.close()
        follower.sock.close()
        server.simulator.ended(asked, "client-gone")
    assert len(server.exchanges(asked)) == 1


def test_a_silent_upstream_is_given_up_in_time_whoever_listens(simulator: Running) -> None:
    patience = "timeouts = { first_byte = 3, idle = 600, total = 1200 }\n[routing]\nattempts = 1\n"
    with caching(simulator, patience + CONFIG) as server:
        key, asked = server.key(), mark()
        request = body(asked, "sim/hang")
        with led(server, key, request, asked) as leader, server.asking(key, request) as follower:
            until_read(server)
            leader.sock.close()
            answer = follower.answer()
    assert (answer.status, answer.code) == (504, "PROVIDER_TIMEOUT")


def until_read(server: Server) -> None:
    """Until the worker has read what was sent before: it reads in turn."""
    with server.waypost.connect() as client:
        client.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.answer().status == 200


def test_a_follower_that_leaves_disturbs_nobody(server: Server) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "sim/ttft-2500+gap-10+words-30", stream=True)
    with led(server, key, request, asked) as leader, server.asking(key, request) as follower:
        with server.asking(key, request) as leaving:
            leaving.until(b'"content"')
        answers = together([leader, follower])
    assert [status_of(answer) for answer in answers] == ["MISS", "HIT"]
    assert said(answers[0]) == said(answers[1])


def test_killed_streams_end_as_streams_do_for_all_of_them(server: Server) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "sim/gap-20+words-400", stream=True)
    with server.asking(key, request) as leader:
        leader.until(b'"content"')
        with server.asking(key, request) as follower:
            follower.until(b'"content"')
            with server.waypost.connect() as other:
                other.send(
                    f"POST /v1/user/streams/kill HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
                    "content-length: 0\r\n\r\n".encode()
                )
                assert other.answer().json == {"killed_streams": 2}
            ends = [client.until(b"0\r\n\r\n") for client in (leader, follower)]
    for end in ends:
        assert b'"error"' not in end and end.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert len(server.exchanges(asked)) == 1


# Who reads slowly


def test_a_slow_follower_holds_nobody_up_and_is_told_no_lie(server: Server) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "sim/words-60000+ttft-2500", stream=True)  # some 15 MB
    with led(server, key, request, asked) as leader, server.asking(key, request) as follower:
        until_read(server)
        answer = leader.answer()  # while the follower reads nothing
        assert answer.events[-1] == b"[DONE]" and len(answer.chunks) > 50_000
        slow = follower.answer()
    whole = said(slow) == said(answer)
    assert whole or b'"code":"UNAVAILABLE"' in slow.body
    rows: list[Row] = [server.row(one) for one in (answer, slow)]
    assert rows[0].code == "" and rows[1].code == ("" if whole else "UNAVAILABLE")
    assert not whole, "of what it had not read more was kept than may be"


def test_too_large_to_be_kept_but_not_to_be_shared(server: Server) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "sim/words-9000+ttft-2500", stream=True)  # some 2 MB: more than is kept
    with led(server, key, request, asked) as leader, server.asking(key, request) as follower:
        answers = together([leader, follower])
    assert [status_of(answer) for answer in answers] == ["MISS", "HIT"] and said(answers[0]) == said(answers[1])
    with led(server, key, request, asked) as leader:
        for _ in range(8000):
            leader.until(b"\n\n")
        assert status_of(server.ask(key, request)) == "MISS", "who comes late cannot have its beginning"

"""What a worker passes on to the keeper: bytes out, bytes in, and every way in which no answer comes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import pathlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.harness import Waypost, post, provider, serving, wait_until
from tests.keeper.running import data_folder, until
from tests.sim.running import Running
from waypost.api.endpoints import BY_NAME
from waypost.errors import Refusal
from waypost.http.call import Reply
from waypost.http.client import BROKEN, CLOSED, CONNECT, TIMEOUT, UpstreamFailure
from waypost.http.exchange import Exchange
from waypost.http.head import Head
from waypost.http.message import Limits
from waypost.http.pool import Names
from waypost.http.timers import Deadlines
from waypost.link import http_socket_path
from waypost.messages import Identity
from waypost.worker.forward import ask_keeper, keeper_pool, parse_refusal, query_of, render_request
from waypost.worker.walk import Walk

ANN = Identity(3, 7, "ann", "free", "inference", "laptop")
GET = b"GET /v1/key HTTP/1.1\r\nhost: keeper\r\ncontent-length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

# The request


def exchange(lines: str, body: bytes = b"") -> Exchange:
    """A request as the server has read it."""
    raw = lines.replace("\n", "\r\n").encode("latin-1") + b"\r\n"
    made = Exchange(None, Head(raw, Limits()), 0.0)  # type: ignore[arg-type]
    made.body = body
    return made


def test_the_head_is_made_anew():
    asked = exchange(
        "PATCH /v1/account/keys/12/?a=1&b=%20 HTTP/1.1\nhost: evil\ncookie: c\nauthorization: Bearer rk_secret\n"
        "x-waypost-caller: forged\nx-forwarded-for: 1.2.3.4\ncontent-type: application/json\ncontent-length: 2\n"
        "accept: text/html",
        b"{}",
    )
    head, _, body = render_request(asked, BY_NAME["update_key"], ANN, b"chatcmpl_1").partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"PATCH /v1/account/keys/12?a=1&b=%20 HTTP/1.1",
        b"host: keeper",
        b"x-waypost-request: chatcmpl_1",
        b"x-waypost-caller: " + base64.b64encode(msgspec.msgpack.encode(ANN)),
        b"content-type: application/json",
        b"content-length: 2",
    ]
    assert body == b"{}"


def test_a_head_request_asks_for_what_get_gives_and_nobody_is_nobody():
    asked = exchange("HEAD /metrics HTTP/1.1\nhost: x")
    assert render_request(asked, BY_NAME["get_metrics"], None, b"id") == (
        b"GET /metrics HTTP/1.1\r\nhost: keeper\r\nx-waypost-request: id\r\ncontent-length: 0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("target", "query"),
    [("/v1/key", b""), ("/v1/key?", b""), ("/v1/key?a?b", b"a?b"), ("http://h/v1/key?a=1", b"a=1"), ("/k?a#b?c", b"a")],
)
def test_queries(target: str, query: bytes):
    assert query_of(exchange(f"GET {target} HTTP/1.1\nhost: x").head) == query


# The answer


class Keeper:
    """A keeper's socket that gives answers in turn: None closes the connection, b"" says nothing."""

    def __init__(self, answers: tuple[bytes | None, ...], data: pathlib.Path) -> None:
        self.data = data
        self.left = list(answers)
        self.served: list[int] = []  # requests, by connection
        self.walks: set[Walk] = set()
        self.deadlines = Deadlines(asyncio.get_running_loop())
        self.names = Names(self.deadlines)
        self.pool = keeper_pool(data, self.deadlines, self.names)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.served)
        self.served.append(0)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.served[number] += 1
                answer = self.left.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def fetch(self, *, may_repeat: bool = True, seconds: float = 30.0) -> Any:
        """What a walk gets: an answer, or a failure; None if it was cancelled."""
        over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def steps() -> None:
            try:
                over.set_result(await ask_keeper(self.pool, GET, may_repeat=may_repeat, seconds=seconds))
            except UpstreamFailure as failure:
                over.set_result(failure)
            finally:
                if not over.done():
                    over.set_result(None)

        Walk(steps(), self.walks).go_on()
        async with asyncio.timeout(30):
            return await over


@contextlib.asynccontextmanager
async def keeper(*answers: bytes | None) -> AsyncIterator[Keeper]:
    """One that serves until the block ends."""
    with data_folder() as data:
        data.mkdir()
        keeper = Keeper(answers, data)
        server = await asyncio.start_unix_server(keeper.serve, http_socket_path(data))
        try:
            yield keeper
        finally:
            keeper.pool.close()
            server.close()
            keeper.deadlines.close()
            keeper.names.close()


def test_answers_come_on_one_connection():
    async def run() -> None:
        async with keeper(OK, OK.replace(b"{}", b"[]")) as one:
            assert [(await one.fetch()).body for _ in range(2)] == [b"{}", b"[]"]
            assert one.served == [2]

    asyncio.run(run())


def test_a_kept_connection_that_is_dead_is_tried_again_where_that_does_no_harm():
    async def run() -> None:
        async with keeper(OK, None, OK, None) as one:
            assert (await one.fetch()).status == 200
            assert (await one.fetch()).status == 200
            assert one.served == [2, 1]
            failure = await one.fetch(may_repeat=False)
            assert isinstance(failure, UpstreamFailure) and failure.kind == CLOSED
            assert one.served == [2, 2], "a key is not made twice"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (None, CLOSED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", TIMEOUT),
        (b"", TIMEOUT),
        (b"nonsense\r\n\r\n", BROKEN),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 20000000\r\n\r\n" + b"x" * 17_000_000, BROKEN),
    ],
    ids=["closed", "cut", "silent", "nonsense", "large"],
)
def test_no_answer(answer: bytes | None, kind: str):
    async def run() -> None:
        async with keeper(answer) as one:
            failure = await one.fetch(seconds=0.1 if kind == TIMEOUT else 30.0)
            assert isinstance(failure, UpstreamFailure) and failure.kind == kind

    asyncio.run(run())


def test_no_keeper():
    async def run() -> None:
        async with keeper() as one:
            http_socket_path(one.data).unlink()
            failure = await one.fetch()
            assert isinstance(failure, UpstreamFailure) and failure.kind == CONNECT

    asyncio.run(run())


def test_a_caller_who_leaves_frees_the_connection():
    async def run() -> None:
        async with keeper(b"") as one:
            waiting = asyncio.ensure_future(one.fetch())
            await until(lambda: one.served == [1])
            one.walks.pop().cancel()
            assert await waiting is None
            await until(lambda: one.pool.open == 0)

    asyncio.run(run())


# Refusals


def refusal(status: int, head: bytes, body: bytes) -> Refusal:
    return parse_refusal(Reply(status, b"HTTP/1.1 x\r\n".lower() + head, body))


def test_the_keepers_refusals_are_ours():
    envelope = Refusal("INVALID_REQUEST", "limit: no.", param="limit").envelope()
    parsed = refusal(400, b"x-error-code: invalid_request\r\nretry-after: 7\r\n", envelope)
    assert (parsed.failure.code, parsed.message, parsed.param) == ("INVALID_REQUEST", "limit: no.", "limit")
    assert (parsed.status, parsed.retry_after) == (400, 7)


@pytest.mark.parametrize(
    ("head", "body"),
    [(b"", b"Not Found"), (b"x-error-code: made_up\r\n", b"{}"), (b"x-error-code: not_found\r\n", b"\xff")],
)
def test_what_is_no_refusal_is_a_defect(head: bytes, body: bytes):
    parsed = refusal(404, head, body)
    assert (parsed.failure.code, parsed.status) == ("INTERNAL_ERROR", 500)


# The whole server


def get(waypost: Waypost, path: str, method: str = "GET") -> Any:
    """One request with the server's own key."""
    with waypost.connect() as client:
        lines = [f"{method} {path} HTTP/1.1", "host: x", *waypost.credentials]
        client.send("\r\n".join(lines).encode() + b"\r\n\r\n")
        return client.answer(to_head=method == "HEAD")


def test_head_is_get_without_its_body(waypost: Waypost):
    whole, head = get(waypost, "/v1/key"), get(waypost, "/v1/key", "HEAD")
    assert (head.status, head.header("content-length")) == (200, str(len(whole.body)))
    assert whole.header("cache-control") == "no-store"


def test_a_body_too_large_for_the_keeper_does_not_reach_it(waypost: Waypost):
    with waypost.connect() as client:
        client.send(post("/v1/user/streams/kill", b" " * (64 * 1024 + 1), *waypost.credentials))
        assert client.answer().code == "BODY_TOO_LARGE"


def test_without_a_keeper_requests_are_answered_and_pages_are_not(simulator: Running):
    with serving(provider("sim", simulator.base)) as waypost:
        assert get(waypost, "/v1/key").status == 200
        assert waypost.ask("sim/demo").status == 200
        with open(f"/proc/{waypost.process.pid}/task/{waypost.process.pid}/children") as children:
            keeper = int(children.read().split()[0])
        os.kill(waypost.process.pid, signal.SIGSTOP)  # so that it starts no other keeper
        try:
            os.kill(keeper, signal.SIGKILL)
            wait_until(lambda: get(waypost, "/v1/key").code == "UNAVAILABLE", "the keeper to be gone")
            gone = get(waypost, "/v1/key")
            assert (gone.status, gone.header("retry-after"), gone.header("x-should-retry")) == (503, "1", "true")
            assert waypost.ask("sim/demo").status == 200
        finally:
            os.kill(waypost.process.pid, signal.SIGCONT)
        wait_until(lambda: get(waypost, "/v1/key").status == 200, "a new keeper to answer")


def test_streams_are_ended_on_every_worker(simulator: Running):
    with serving(provider("sim", simulator.base), workers=2) as waypost:
        streams = [waypost.connect() for _ in range(6)]
        for client in streams:
            client.send(waypost.chat("sim/gap-50+words-400", stream=True))
            client.until(b'"content"')
        with waypost.connect() as client:
            client.send(waypost.chat("sim/gap-300+words-3", stream=False))  # no stream: it goes on
            with waypost.connect() as killer:
                killer.send(post("/v1/user/streams/kill", b"", *waypost.credentials))
                assert killer.answer().json == {"killed_streams": 6}
            for stream in streams:
                assert stream.until(b"data: [DONE]\n\n") and stream.until(b"0\r\n\r\n")
            assert client.answer().status == 200
        with waypost.connect() as killer:
            killer.send(post("/v1/user/streams/kill", b"", *waypost.credentials))
            assert killer.answer().json == {"killed_streams": 0}

"""`Idempotency-Key` as callers meet it: whole requests through whole servers of several workers."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.faults.hosts import Host, host
from tests.harness import Answer, Client, chat_body, post, provider, wait_until
from tests.http.nonces import fresh_nonce, times_seen
from tests.http.upstream import Asked, Upstream, completion, plays, response, upstream
from tests.postgres import PostgresServer
from tests.sim.running import Running
from waypost.claims import ANSWER_LIMIT

CONFIG = """
[server]
cors = ["https://app.example"]
[plans.open]
[plans.few]
requests = { day = 2 }
[models."route/hasty"]
chain = ["sim/hang"]
deadline = 1.5
"""


@pytest.fixture(scope="module")
def raw() -> Iterator[Upstream]:
    """An upstream that sends what a test puts into `scripts`."""
    with upstream() as running:
        yield running


@pytest.fixture(scope="module")
def served(simulator: Running, raw: Upstream) -> Iterator[Host]:
    """Two workers; whoever kills anything starts a host of its own."""
    with host(provider("sim", simulator.base) + provider("raw", raw.base()) + CONFIG, workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def lively(simulator: Running) -> Iterator[Host]:
    """The same, where a stream that waits is sent a comment every second."""
    text = provider("sim", simulator.base) + CONFIG.replace("[server]", "[server]\nkeepalive = 1")
    with host(text, workers=2) as running:
        yield running


class Caller:
    """A key of an account, and requests with it."""

    def __init__(self, served: Host, account: str = "", plan: str = "open", key: str = "") -> None:
        self.served = served
        self.key = key or served.key(account or f"account-{secrets.token_hex(4)}", plan)

    def request(self, model: str, asked: str, idempotency_key: str, *headers: str, **fields: Any) -> bytes:
        lines = (f"authorization: Bearer {self.key}", "accept: application/json", *headers)
        lines += (f"idempotency-key: {idempotency_key}",)
        return post("/v1/chat/completions", chat_body(model, asked, **fields), *lines)

    def ask(self, model: str, asked: str, idempotency_key: str, *headers: str, **fields: Any) -> Answer:
        with self.served.connect() as client:
            client.send(self.request(model, asked, idempotency_key, *headers, **fields))
            return client.answer()

    def begin(self, model: str, asked: str, idempotency_key: str, **fields: Any) -> Client:
        client = self.served.connect()
        client.send(self.request(model, asked, idempotency_key, **fields))
        return client

    @property
    def sdk(self) -> openai.OpenAI:
        name, port = self.served.address
        return openai.OpenAI(base_url=f"http://{name}:{port}/v1", api_key=self.key, max_retries=0, timeout=30)


@pytest.fixture
def caller(served: Host) -> Caller:
    return Caller(served)


def fresh_key() -> str:
    return f"key-{secrets.token_hex(8)}"


def rows(served: Host, account_key: Caller) -> list[Any]:
    """(id, status, code, requests) of all that this caller has in the books, once nothing is open."""
    name = json.loads(get(account_key, "/v1/key").body)  # reads what the journals have
    assert "data" in name
    with contextlib.closing(sqlite3.connect(served.data / "waypost.db")) as connection:
        id = connection.execute(
            "SELECT account_id FROM keys WHERE shown LIKE ?", (account_key.key[:7] + "%" + account_key.key[-4:],)
        ).fetchall()
        found = connection.execute(
            "SELECT id, status, code, requests FROM requests WHERE account_id = ? ORDER BY id", id[0]
        ).fetchall()
    return found


def get(caller: Caller, path: str) -> Answer:
    with caller.served.connect() as client:
        client.send(f"GET {path} HTTP/1.1\r\nhost: w\r\nauthorization: Bearer {caller.key}\r\n\r\n".encode())
        return client.answer()


def replayed(answer: Answer) -> bool:
    return answer.header("idempotency-replayed") == "true"


# The same answer


def test_a_whole_answer_by_the_sdk(simulator: Running, served: Host, caller: Caller) -> None:
    mark, headers = fresh_nonce("whole"), {"Idempotency-Key": fresh_key()}
    messages: list[Any] = [{"role": "user", "content": mark}]
    with caller.sdk as sdk:
        answers = [
            sdk.chat.completions.with_raw_response.create(model="sim/demo", messages=messages, extra_headers=headers)
            for _ in range(4)
        ]
    assert len({answer.content for answer in answers}) == 1, "the same bytes, the same id"
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", "true", "true"]
    for name in ("x-request-id", "x-provider", "content-type"):
        assert len({answer.headers[name] for answer in answers}) == 1
    assert mark in answers[3].parse().choices[0].message.content
    assert times_seen(simulator, mark) == 1
    ((id, *rest),) = rows(served, caller)
    assert answers[0].parse().id == f"chatcmpl_{id}" and rest == [200, "", 1]


def test_a_stream_by_the_sdk(simulator: Running, served: Host, caller: Caller) -> None:
    mark, headers = fresh_nonce("stream"), {"Idempotency-Key": fresh_key()}
    messages: list[Any] = [{"role": "user", "content": mark}]
    heard = []
    with caller.sdk as sdk:
        for _ in range(3):
            stream = sdk.chat.completions.create(
                model="sim/words-50",
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                extra_headers=headers,
            )
            heard.append([chunk.model_dump() for chunk in stream])
    assert heard[0] == heard[1] == heard[2] and len(heard[0]) > 50
    assert heard[0][-1]["usage"]["completion_tokens"] > 0
    assert times_seen(simulator, mark) == 1
    assert len(rows(served, caller)) == 1


def test_a_stream_s_bytes_are_the_same(simulator: Running, caller: Caller) -> None:
    mark, key = fresh_nonce("bytes"), fresh_key()
    answers = [caller.ask("sim/words-400", mark, key, stream=True) for _ in range(3)]
    assert len({answer.body for answer in answers}) == 1 and answers[0].body.endswith(b"data: [DONE]\n\n")
    assert [replayed(answer) for answer in answers] == [False, True, True]
    assert times_seen(simulator, mark) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_fifty_at_once_are_one(simulator: Running, served: Host, caller: Caller, stream: bool) -> None:
    mark, key = fresh_nonce("fifty"), fresh_key()
    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(caller.ask, "sim/ttft-300+gap-5", mark, key, stream=stream) for _ in range(50)]
        answers = [each.result() for each in asked]
    assert [answer.status for answer in answers] == [200] * 50
    assert len({json.dumps(answer.chunks if stream else answer.json) for answer in answers}) == 1
    assert mark in answers[0].text
    assert sum(not replayed(answer) for answer in answers) == 1
    assert times_seen(simulator, mark) == 1
    assert len(rows(served, caller)) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_out_of_the_response_cache_is_an_answer_like_any(
    simulator: Running, served: Host, caller: Caller, stream: bool
) -> None:
    mark, keys, wish = fresh_nonce("cached"), [fresh_key() for _ in range(8)], "x-waypost-cache: true"
    made = [caller.ask("sim/demo", mark, key, wish, stream=stream) for key in keys]
    hits = [answer for answer in made if answer.header("x-waypost-cache-status") == "HIT"]
    assert hits and len({answer.header("x-request-id") for answer in made}) == 8, "each key has an answer of its own"
    again = [caller.ask("sim/demo", mark, key, wish, stream=stream) for key in keys]
    assert [answer.body for answer in again] == [answer.body for answer in made] and all(map(replayed, again))
    assert times_seen(simulator, mark) <= 2, "one of each worker"
    assert len(rows(served, caller)) == 8


def test_embeddings_too(simulator: Running, caller: Caller) -> None:
    key = fresh_key()
    body = json.dumps({"model": "sim/embed", "input": "hello"}).encode()
    with caller.served.connect() as client:
        answers = []
        for _ in range(2):
            lines = (f"authorization: Bearer {caller.key}", "accept: application/json", f"idempotency-key: {key}")
            client.send(post("/v1/embeddings", body, *lines))
            answers.append(client.answer())
    assert answers[0].status == 200, answers[0].body
    assert answers[0].body == answers[1].body and replayed(answers[1])


def test_a_browser_may_see_that_it_is_a_replay(caller: Caller) -> None:
    key, origin = fresh_key(), "origin: https://app.example"
    first = caller.ask("sim/demo", "Hello", key)
    again = caller.ask("sim/demo", "Hello", key, origin)
    assert first.header("access-control-allow-origin") is None
    assert again.header("access-control-allow-origin") == "https://app.example"
    assert "idempotency-replayed" in (again.header("access-control-expose-headers") or "")
    assert caller.ask("sim/demo", "Hello", key).header("access-control-allow-origin") is None


def test_a_replay_is_not_counted_against_limits(served: Host) -> None:
    caller, key = Caller(served, plan="few"), fresh_key()
    assert caller.ask("sim/demo", "Hello", key).status == 200
    assert caller.ask("sim/demo", "Hello", fresh_key()).status == 200
    assert caller.ask("sim/demo", "Hello", fresh_key()).code == "DAILY_REQUEST_LIMIT_EXCEEDED"
    assert replayed(caller.ask("sim/demo", "Hello", key))


# Another body, another account, a bad key


def test_another_body_is_refused(simulator: Running, caller: Caller) -> None:
    mark, key = fresh_nonce("reused"), fresh_key()
    assert caller.ask("sim/demo", mark, key).status == 200
    for answer in (caller.ask("sim/demo", mark + "!", key), caller.ask("sim/demo", mark, key, stream=True)):
        assert (answer.status, answer.code) == (422, "IDEMPOTENCY_KEY_REUSED")
        assert answer.json["error"]["param"] == "Idempotency-Key"
    messages: list[Any] = [{"role": "user", "content": "other"}]
    with caller.sdk as sdk, pytest.raises(openai.UnprocessableEntityError) as caught:
        sdk.chat.completions.create(model="sim/demo", messages=messages, extra_headers={"Idempotency-Key": key})
    assert caught.value.code == "IDEMPOTENCY_KEY_REUSED"
    assert times_seen(simulator, mark) == 1


def test_another_body_is_refused_while_the_first_is_in_flight(simulator: Running, caller: Caller) -> None:
    mark, key = fresh_nonce("flying"), fresh_key()
    with caller.begin("sim/ttft-1000", mark, key) as first:
        wait_until(lambda: times_seen(simulator, mark), "the first to be asked")
        with ThreadPoolExecutor(10) as pool:  # whichever worker they come to
            others = list(pool.map(lambda number: caller.ask("sim/ttft-1000", f"{number}", key), range(10)))
        assert [other.code for other in others] == ["IDEMPOTENCY_KEY_REUSED"] * 10
        assert first.answer().status == 200


def test_another_account_s_key_is_another_key(simulator: Running, served: Host, caller: Caller) -> None:
    mark, key = fresh_nonce("account"), fresh_key()
    other = Caller(served)
    first, second = caller.ask("sim/demo", mark, key), other.ask("sim/demo", mark, key)
    assert not replayed(second) and first.json["id"] != second.json["id"]
    assert other.ask("sim/demo", "something else", fresh_key()).status == 200
    assert times_seen(simulator, mark) == 2


def test_two_keys_of_one_account_share_it(served: Host) -> None:
    account, key = f"account-{secrets.token_hex(4)}", fresh_key()
    first, second = Caller(served, account), Caller(served, account)
    assert first.ask("sim/demo", "Hello", key).body == second.ask("sim/demo", "Hello", key).body


@pytest.mark.parametrize(
    ("key", "status"),
    [("", 400), ("k", 200), ("k" * 255, 200), ("k" * 256, 400), ("k\xe9y", 400), ("~ two words!", 200)],
)
def test_what_a_key_may_be(served: Host, caller: Caller, key: str, status: int) -> None:
    answer = caller.ask("sim/demo", "Hello", key)
    assert answer.status == status
    if status == 400:
        assert answer.code == "INVALID_REQUEST" and "1 to 255 printable ASCII" in answer.json["error"]["message"]
        assert answer.json["error"]["param"] == "Idempotency-Key"


def test_a_key_that_is_sent_twice(caller: Caller) -> None:
    assert caller.ask("sim/demo", "Hello", "a", "idempotency-key: b").code == "BAD_REQUEST"


# What fails is not kept


def once_then(first: bytes) -> Any:
    """A script: the first asker gets this, others a sound answer."""
    asked_before: set[str] = set()

    def script(sock: Any, asked: Asked) -> bool:
        if asked.question not in asked_before:
            asked_before.add(asked.question)
            sock.sendall(first)
            return False
        sock.sendall(response(completion(asked.question)))
        return True

    return script


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("content", response(b'{"error":{"message":"no such thing"}}', status=b"400 Bad Request")),
        ("server", response(b"{}", status=b"500 Internal Server Error")),
        ("cut", b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"),
    ],
)
def test_what_failed_may_be_tried_again(raw: Upstream, caller: Caller, name: str, first: bytes) -> None:
    raw.scripts[name] = once_then(first)
    key, mark = fresh_key(), fresh_nonce(name)
    # One upstream, tried once or thrice: what it says first is what the caller hears, unless a retry mended it.
    answers = [caller.ask(f"raw/{name}", mark, key) for _ in range(3)]
    assert answers[-1].status == 200 and answers[-1].text == mark
    good = [answer for answer in answers if answer.status == 200]
    assert [replayed(answer) for answer in good] == [False] + [True] * (len(good) - 1)


def test_a_stream_that_broke_off_is_not_kept(simulator: Running, caller: Caller) -> None:
    mark, key = fresh_nonce("cut"), fresh_key()
    first, second = (caller.ask("sim/cut-after-3", mark, key, stream=True) for _ in range(2))
    assert b'"error"' in first.body and b'"error"' in second.body and not replayed(second)
    assert times_seen(simulator, mark) == 2


@pytest.mark.parametrize(("size", "kept"), [(ANSWER_LIMIT // 2, True), (2 * ANSWER_LIMIT, False)])
def test_an_answer_that_is_too_large_is_not_kept(raw: Upstream, caller: Caller, size: int, kept: bool) -> None:
    said = secrets.token_urlsafe(size)  # of four bytes three are left when it is compressed
    name, key = f"large-{size}", fresh_key()
    raw.scripts[name] = plays(response(completion(said)))
    assert caller.ask(f"raw/{name}", "Hello", key).text == said
    if kept:
        assert all(replayed(caller.ask(f"raw/{name}", "Hello", key)) for _ in range(6))
    else:  # its worker may have it until it has been found too large
        wait_until(lambda: not replayed(caller.ask(f"raw/{name}", "Hello", key)), "it to be made again")
    assert sum(asked.model == name for asked in raw.asked) == (1 if kept else 2)


def test_an_answer_that_says_that_it_failed_is_not_kept(raw: Upstream, caller: Caller) -> None:
    raw.scripts["half"] = plays(response(completion("half").replace(b'"stop"', b'"error"')))
    key = fresh_key()
    first, second = (caller.ask("raw/half", "Hello", key) for _ in range(2))
    assert (first.status, second.status, replayed(second)) == (200, 200, False)


def test_those_that_share_an_answer_share_its_end(simulator: Running, caller: Caller) -> None:
    mark, key = fresh_nonce("shared"), fresh_key()
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(caller.ask, "sim/ttft-300+status-500", mark, key) for _ in range(12)]
        answers = [each.result() for each in asked]
    assert {answer.code for answer in answers} == {"PROVIDER_ERROR"}
    assert times_seen(simulator, mark) <= 2 * 3, "one of each worker, three attempts each"


def test_a_refusal_by_a_limit_binds_nobody(served: Host) -> None:
    caller = Caller(served, plan="few")
    keys = [fresh_key() for _ in range(3)]
    assert [caller.ask("sim/demo", "Hello", key).status for key in keys] == [200, 200, 429]
    assert caller.ask("sim/demo", "something else", keys[2]).status == 429, "not 422: nothing came of the first"


# Callers that leave


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_leaves_finds_its_answer_later(
    simulator: Running, served: Host, caller: Caller, stream: bool
) -> None:
    mark, key, model = fresh_nonce("leaves"), fresh_key(), "sim/ttft-300+gap-20+words-30"
    with caller.begin(model, mark, key, stream=stream):
        wait_until(lambda: times_seen(simulator, mark), "it to be asked")
    answer = caller.ask(model, mark, key, stream=stream)
    said = answer.chunks if stream else [answer.json]
    assert answer.status == 200 and mark in answer.text
    assert replayed(answer) or answer.body.startswith(b":"), "the head of one that was kept waiting leaves before"
    assert simulator.ended(mark, "complete") and times_seen(simulator, mark) == 1
    ((id, *rest),) = rows(served, caller)
    assert said[0]["id"] == f"chatcmpl_{id}" and rest == [200, "", 1]
    again = caller.ask(model, mark, key, stream=stream)
    assert replayed(again) and (again.chunks if stream else [again.json]) == said


def test_a_caller_that_leaves_in_the_middle_of_its_stream(simulator: Running, caller: Caller) -> None:
    mark, key, model = fresh_nonce("middle"), fresh_key(), "sim/gap-20+words-60"
    with caller.begin(model, mark, key, stream=True) as client:
        client.until(b"data: ")
    answer = caller.ask(model, mark, key, stream=True)
    assert answer.events[-1] == b"[DONE]" and mark in answer.text
    assert times_seen(simulator, mark) == 1


def test_a_waiting_stream_is_kept_alive_and_waiting_has_an_end(lively: Host) -> None:
    caller, mark, key = Caller(lively), fresh_nonce("hasty"), fresh_key()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(caller.ask, "route/hasty", mark, key, stream=True) for _ in range(8)]
        answers = [each.result() for each in asked]
    for answer in answers:
        assert b": waypost is waiting for the model\n\n" in answer.body
        assert b'"error"' in answer.body and answer.body.endswith(b"data: [DONE]\n\n")


def test_streams_that_are_ended_end_for_all_that_share_them(simulator: Running, lively: Host) -> None:
    caller, mark, key, model = Caller(lively), fresh_nonce("killed"), fresh_key(), "sim/gap-50+words-600"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(caller.begin(model, mark, key, stream=True)) for _ in range(12)]
        for client in clients:
            client.until(b"\r\n\r\n")  # those of the other worker begin with a comment
        with caller.served.connect() as client:
            client.send(post("/v1/user/streams/kill", b"", f"authorization: Bearer {caller.key}"))
            assert client.answer().json == {"killed_streams": 12}
        for client in clients:
            assert b'"error"' not in client.until(b"data: [DONE]\n\n")
    assert times_seen(simulator, mark) == 1
    again = caller.begin(model, mark, key, stream=True)
    again.until(b"data: ")
    again.sock.close()
    assert times_seen(simulator, mark) == 2, "what was ended is not kept"


# What dies


@pytest.fixture
def own(simulator: Running) -> Iterator[Host]:
    """A host of the test's own, to be hurt."""
    with host(provider("sim", simulator.base) + CONFIG, workers=2) as running:
        yield running


def worker_of(served: Host, client: Client) -> int:
    """The pid of the worker at the other end."""
    ports = f"0100007F:{served.address[1]:04X}", f"0100007F:{client.sock.getsockname()[1]:04X}"
    lines = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [line[9] for line in lines if (line[1], line[2]) == ports]
    for pid in served.workers():
        for each in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(each) == f"socket:[{inode}]":
                    return pid
    raise AssertionError("nobody has that connection")


def until_there(caller: Caller, model: str, asked: str, key: str, **fields: Any) -> Answer:
    """Ask as a client with retries does: as long as it is told to try again."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError, AssertionError):
            answer = caller.ask(model, asked, key, **fields)
            if answer.status != 503:
                return answer
        assert time.monotonic() < deadline, "no answer"
        time.sleep(0.05)


@pytest.mark.parametrize("stream", [False, True])
def test_a_worker_is_killed_that_was_answering(simulator: Running, own: Host, stream: bool) -> None:
    caller, mark, key, model = Caller(own), fresh_nonce("killed-worker"), fresh_key(), "sim/ttft-3000"
    with caller.begin(model, mark, key, stream=stream) as first, ThreadPoolExecutor(8) as pool:
        wait_until(lambda: times_seen(simulator, mark), "it to be asked")
        others = [pool.submit(until_there, caller, model, mark, key, stream=stream) for _ in range(8)]
        time.sleep(0.3)  # they are waiting by now, on either worker; if not, they come a little later
        own.kill(worker_of(own, first))
        answers = [each.result() for each in others]
    assert {answer.status for answer in answers} == {200}
    assert len({json.dumps(answer.chunks if stream else answer.json) for answer in answers}) == 1
    assert times_seen(simulator, mark) == 2, "the one that died, and one more"
    assert replayed(caller.ask(model, mark, key, stream=stream))


def test_everything_is_killed_and_what_was_stored_is_there(simulator: Running, own: Host) -> None:
    caller, mark, key = Caller(own), fresh_nonce("crash"), fresh_key()
    first = caller.ask("sim/demo", mark, key)
    wait_until(lambda: stored(own), "it to be stored")
    with caller.begin("sim/ttft-2000", mark + "-open", key + "-open"):
        wait_until(lambda: times_seen(simulator, mark + "-open"), "it to be asked")
        own.kill_all()
    own.start()
    again = caller.ask("sim/demo", mark, key)
    assert replayed(again) and again.body == first.body
    opened = until_there(caller, "sim/ttft-2000", mark + "-open", key + "-open")
    assert not replayed(opened) and times_seen(simulator, mark + "-open") == 2


def stored(served: Host) -> int:
    """How many answers the database holds."""
    with contextlib.closing(sqlite3.connect(served.data / "waypost.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM answers WHERE size > 0").fetchone()[0])


def test_a_claim_that_an_earlier_keeper_left_behind_ends_at_the_start(simulator: Running, own: Host) -> None:
    caller, mark, key = Caller(own), fresh_nonce("left"), fresh_key()
    caller.ask("sim/demo", mark, key)
    wait_until(lambda: stored(own), "it to be stored")
    assert own.stop() == 0
    with contextlib.closing(sqlite3.connect(own.data / "waypost.db")) as connection, connection:
        connection.execute("UPDATE answers SET size = 0, content = NULL, journal = 'w0-ffffffffffffffff'")
    own.start()
    again = caller.ask("sim/demo", mark, key)
    assert again.status == 200 and not replayed(again) and times_seen(simulator, mark) == 2


def test_the_keeper_is_killed_while_an_answer_is_made(simulator: Running, own: Host) -> None:
    caller, mark, key, model = Caller(own), fresh_nonce("keeper"), fresh_key(), "sim/ttft-500"
    with caller.begin(model, mark, key) as first:
        wait_until(lambda: times_seen(simulator, mark), "it to be asked")
        own.kill(own.keeper())
        body = first.answer().body
    answers = [until_there(caller, model, mark, key) for _ in range(6)]
    assert {answer.body for answer in answers} == {body} and all(map(replayed, answers))
    wait_until(lambda: stored(own), "the next keeper to be told of it")
    own.kill(own.keeper())
    assert until_there(caller, model, mark, key).body == body
    assert times_seen(simulator, mark) == 1


def test_nothing_is_made_with_a_key_while_the_keeper_is_away(simulator: Running, own: Host) -> None:
    caller, mark, key = Caller(own), fresh_nonce("away"), fresh_key()
    for _ in range(8):  # both workers know the caller
        assert caller.ask("sim/demo", "Hello", fresh_key()).status == 200
    own.kill(own.keeper(), number=signal.SIGSTOP)
    refused = caller.ask("sim/demo", mark, key)
    assert (refused.status, refused.code) == (503, "UNAVAILABLE")
    assert "Idempotency-Key" in refused.json["error"]["message"] and refused.header("retry-after") == "1"
    assert not times_seen(simulator, mark)
    own.kill(*own.stopped, number=signal.SIGCONT)
    assert until_there(caller, "sim/demo", mark, key).status == 200
    assert times_seen(simulator, mark) == 1


def test_an_answer_whose_caller_has_left_does_not_hold_up_the_end(simulator: Running, own: Host) -> None:
    caller, mark = Caller(own), fresh_nonce("end")
    with caller.begin("sim/ttft-200+gap-200+words-500", mark, fresh_key(), stream=True) as client:
        client.until(b"data: ")
    assert own.stop() == 0
    done = own.run("ledger", "verify")
    assert done.returncode == 0, done.stdout
    assert simulator.ended(mark, "client-gone")


# Two hosts


def test_two_hosts_on_one_database(simulator: Running, postgres: PostgresServer) -> None:
    model = "sim/ttft-700+gap-2"
    with postgres.fresh() as url, contextlib.ExitStack() as stack:
        text = provider("sim", simulator.base) + CONFIG + f'[store]\ndatabase = "{url}"\n'
        hosts = [stack.enter_context(host(text, workers=1)) for _ in range(2)]
        one = Caller(hosts[0], "ann")
        callers = [one, Caller(hosts[1], key=one.key)]
        for stream in (False, True):
            mark, key = fresh_nonce("hosts"), fresh_key()
            with ThreadPoolExecutor(20) as pool:
                asked = [pool.submit(callers[each % 2].ask, model, mark, key, stream=stream) for each in range(20)]
                answers = [each.result() for each in asked]
            assert len({json.dumps(answer.chunks if stream else answer.json) for answer in answers}) == 1
            assert [answer.status for answer in answers] == [200] * 20 and mark in answers[0].text
            assert times_seen(simulator, mark) == 1
            assert [caller.ask(model, "other", key).code for caller in callers] == ["IDEMPOTENCY_KEY_REUSED"] * 2
        # A host dies: what it was answering is waited for, until it is back and says that there is none.
        mark, key = fresh_nonce("dead-host"), fresh_key()
        with callers[0].begin("sim/ttft-3000", mark, key):
            wait_until(lambda: times_seen(simulator, mark), "it to be asked")
            hosts[0].kill_all()
        with callers[1].begin("sim/demo", mark, key) as other, callers[1].begin("sim/ttft-3000", mark, key) as second:
            assert other.answer().code == "IDEMPOTENCY_KEY_REUSED"
            time.sleep(1.0)
            assert times_seen(simulator, mark) == 1
            hosts[0].start()
            assert second.answer().status == 200 and times_seen(simulator, mark) == 2

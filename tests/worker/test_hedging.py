"""A second attempt beside a late one, through a whole server: who answers, who is cancelled, what is written down."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import DEADLINE, Answer, Client, Waypost, chat_body, post, provider, serving, wait_until
from tests.http.nonces import fresh_nonce, times_seen
from tests.http.upstream import Asked, Script, Upstream, completion, plays, response, upstream
from tests.sim.running import Running
from tests.worker.test_commit_point import PATHS, configuration

LATE = 0.2  # seconds after which another is asked


class Gate:
    """A script of an upstream's: says `before`, waits to be opened, says `after`."""

    def __init__(self, before: bytes = b"", after: bytes = b"") -> None:
        self.before, self.after = before, after
        self.open = threading.Event()
        self.is_asked = threading.Event()
        self.is_cancelled = threading.Event()

    def __call__(self, sock: socket.socket, asked: Asked) -> bool:
        self.is_asked.set()
        sock.sendall(self.before)
        sock.settimeout(0.02)
        while not self.open.is_set():
            with contextlib.suppress(TimeoutError):
                if is_closed(sock):
                    self.is_cancelled.set()
                    return False
        sock.settimeout(DEADLINE)
        with contextlib.suppress(OSError):
            sock.sendall(self.after)
        return True


def is_closed(sock: socket.socket) -> bool:
    """By the other side. Raises TimeoutError where nothing is to be said of it."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    frame = {"id": "u", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return chunk(b"data: %b\n\n" % json.dumps(frame).encode())


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ROLE = HEAD + event({"role": "assistant", "content": ""})
END = event({}, "stop") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
ERROR = chunk(b'data: {"error": {"message": "went wrong", "code": 500}}\n\n') + b"0\r\n\r\n"

USAGE = chunk(
    b'data: {"id": "u", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],'
    b' "usage": {"prompt_tokens": 7, "completion_tokens": 60, "total_tokens": 67}}\n\n'
)


def words(*said: str) -> bytes:
    return b"".join(event({"content": word}) for word in said)


def says(text: str, stream: bool) -> bytes:
    return ROLE + words(*text.split()) + END if stream else response(completion(text))


def fails(status: bytes) -> bytes:
    return response(b'{"error": {"message": "no"}}', status=status)


class Pair:
    """Two upstreams behind one server: `one` is asked first, and `two` beside it when it is late."""

    def __init__(self, server: Waypost, one: Upstream, two: Upstream) -> None:
        self.server, self.one, self.two = server, one, two

    @contextlib.contextmanager
    def asking(self, model: str, first: Script, second: Script, *headers: str, **fields: Any) -> Iterator[Client]:
        """A request under way, to upstreams that do as these scripts say."""
        self.one.scripts[model] = first
        self.two.scripts[model] = second
        with self.server.connect() as client:
            client.send(
                self.server.chat(f"h/{model}", fresh_nonce(), "x-waypost-metadata: enabled", *headers, **fields)
            )
            yield client

    def rows(self, answer: Answer) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
        """The request's row: provider, code, attempts, requests, tokens; and of its attempts number, provider, code."""
        request_id = (answer.header("x-request-id") or "")[-26:]
        return self.settled(f"id = '{request_id}'")

    def settled(self, which: str) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
        """The same of the request that this says."""
        query = (
            f"select provider, code, attempts, requests, tokens, id from requests where {which} and status is not null"
        )
        with contextlib.closing(sqlite3.connect(self.server.folder / "data" / "waypost.db")) as books:
            wait_until(lambda: books.execute(query).fetchall(), "the request's row")
            ((*row, request_id),) = books.execute(query).fetchall()
            tried = "select number, substr(provider, 1, 3), code from attempts where request_id = ? order by number"
            return (row[0][:3], *row[1:]), books.execute(tried, (request_id,)).fetchall()

    def logged(self, text: str) -> None:
        """Wait for it."""
        wait_until(lambda: text in (self.server.folder / "log").read_text(), f"{text!r} in the log")


HEDGED = (
    "silent", "silent-s", "role-s", "first", "first-s", "quick", "quick-s", "falls", "falls-s", "second-falls",
    "second-falls-s", "both", "both-s", "breaks-s", "leaves", "leaves-s", "comments-s", "slow-s", "cached",
    "tools", "strict", "begun-s", "begun-beside-s",
)  # fmt: skip
IN_TIME = ("quick", "quick-s", "known")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """For each model providers of its own, or the tests would share a budget of repetitions."""
    text = "[server]\nkeepalive = 1\n"
    with upstream() as one, upstream() as two:
        for model in (*HEDGED, "known", "never"):
            text += provider(f"one-{model}", one.base()) + provider(f"two-{model}", two.base())
            chain = [f"one-{model}/{model}", f"two-{model}/{model}"]
            if model == "tools":
                text += provider("mute", two.base(), capabilities="{ tools = false }")
                chain.insert(1, "mute/x")
            text += f'[models."h/{model}"]\nchain = {json.dumps(chain)}\nprice = {{ input = "1", output = "1" }}\n'
            text += f"hedge = {50 if model in IN_TIME else LATE}\n" if model != "never" else ""
            text += "strict_tool_pinning = true\n" if model == "strict" else ""
            text += "min_throughput = 20\n" if model.startswith("begun") else ""
        with serving(text) as server:
            yield Pair(server, one, two)


def told(answer: Answer) -> list[tuple[str, str]]:
    """Who was tried, and what became of it, by the answer's metadata."""
    body = answer.json if "json" in str(answer.header("content-type")) else answer.chunks[-1]
    return [(each["provider"][:3], each.get("error", "")) for each in body["waypost"]["attempts"]]


def asked(where: Upstream, model: str) -> int:
    return sum(each.model == model for each in where.asked)


both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def name(base: str, stream: bool) -> str:
    return base + "-s" * stream


@both_ways
def test_the_second_answers_while_the_first_is_silent(pair: Pair, stream: bool) -> None:
    model, late = name("silent", stream), Gate()
    with pair.asking(model, late, plays(says("second", stream)), stream=stream) as client:
        answer = client.answer()
    assert answer.text == "second"
    assert (answer.header("x-provider"), answer.header("x-attempts")) == (f"two-{model}", "2")
    assert told(answer) == [("one", "hedged"), ("two", "")]
    assert late.is_cancelled.wait(DEADLINE), "the loser's connection is closed"
    row, attempts = pair.rows(answer)
    assert row[:4] == ("two", "", 2, 1) and attempts == [(1, "one", "HEDGED")]
    assert stream or row[4] == 2, "only the answer's own usage is charged"


def test_a_role_is_no_answer_yet(pair: Pair) -> None:
    late = Gate(before=ROLE, after=words("first") + END)
    with pair.asking("role-s", late, plays(says("second", True)), stream=True) as client:
        answer = client.answer()
    assert answer.text == "second" and late.is_cancelled.wait(DEADLINE)
    assert {chunk["id"] for chunk in answer.chunks} == {answer.header("x-request-id")}


@both_ways
def test_the_first_may_still_be_first(pair: Pair, stream: bool) -> None:
    model, late, second = name("first", stream), Gate(after=says("first", stream)), Gate()
    with pair.asking(model, late, second, stream=stream) as client:
        assert second.is_asked.wait(DEADLINE)
        late.open.set()
        answer = client.answer()
    assert answer.text == "first" and second.is_cancelled.wait(DEADLINE)
    assert (answer.header("x-provider"), answer.header("x-attempts")) == (f"one-{model}", "2")
    assert sorted(told(answer)) == [("one", ""), ("two", "hedged")]
    row, attempts = pair.rows(answer)
    assert row[:4] == ("one", "", 2, 1) and attempts == [(2, "two", "HEDGED")]


@both_ways
def test_who_is_in_time_is_alone(pair: Pair, stream: bool) -> None:
    model = name("quick", stream)
    with pair.asking(model, plays(says("first", stream)), Gate(), stream=stream) as client:
        answer = client.answer()
    assert (answer.text, answer.header("x-attempts")) == ("first", "1")
    assert told(answer) == [("one", "")] and not asked(pair.two, model)


def test_without_the_setting_nobody_is_asked_beside(pair: Pair) -> None:
    late = Gate(after=says("first", False))
    with pair.asking("never", late, plays(says("second", False))) as client:
        assert late.is_asked.wait(DEADLINE)
        time.sleep(3 * LATE)
        late.open.set()
        assert client.answer().text == "first"
    assert not asked(pair.two, "never")


@pytest.mark.parametrize("model", ["begun-s", "begun-beside-s"])
def test_who_has_begun_to_stream_may_still_lose(pair: Pair, model: str) -> None:
    """Its first words are held back by the throughput guard: the caller gets none of them, and pays for none."""
    opening, rest = Gate(), Gate(before=ROLE + words("slow "))
    is_asked, turn = threading.Event(), threading.Event()

    def begins(sock: socket.socket, asked: Asked) -> bool:
        return opening(sock, asked) and rest(sock, asked)

    def overtakes(sock: socket.socket, _: Asked) -> bool:
        is_asked.set()
        turn.wait(DEADLINE)
        sock.sendall(ROLE + words(*["quick"] * 60))
        rest.is_cancelled.wait(DEADLINE)
        sock.sendall(USAGE + END)
        return True

    first, second = (begins, overtakes) if model == "begun-s" else (overtakes, begins)
    with pair.asking(model, first, second, stream=True) as client:
        assert opening.is_asked.wait(DEADLINE) and is_asked.wait(DEADLINE)
        opening.open.set()
        assert rest.is_asked.wait(DEADLINE)
        time.sleep(0.05)  # for its words to be read; the outcome is the same where they are not
        turn.set()
        answer = client.answer()
        assert rest.is_cancelled.is_set(), "the loser's connection is closed while the other streams"
    assert answer.text == "quick" * 60 and answer.events[-1] == b"[DONE]"
    loser, answered = ("one", "two") if model == "begun-s" else ("two", "one")
    assert sorted(told(answer)) == sorted([(loser, "hedged"), (answered, "")])
    row, attempts = pair.rows(answer)
    number = 1 if model == "begun-s" else 2
    assert row[:4] == (answered, "", 2, 1) and attempts == [(number, loser, "HEDGED")]
    assert row[4] == 67, "the usage of the one that answered"


# Failures while both are under way


@both_ways
def test_a_failure_of_the_first_leaves_it_to_the_second(pair: Pair, stream: bool) -> None:
    model, late, second = name("falls", stream), Gate(after=fails(b"500 No")), Gate(after=says("second", stream))
    with pair.asking(model, late, second, stream=stream) as client:
        assert second.is_asked.wait(DEADLINE)
        late.open.set()
        pair.logged(f"one-{model}/{model}#1: HTTP 500")
        second.open.set()
        answer = client.answer()
    assert (answer.text, answer.header("x-attempts")) == ("second", "2")
    assert told(answer) == [("one", "server_error"), ("two", "")]
    row, attempts = pair.rows(answer)
    assert row[:4] == ("two", "", 2, 1) and attempts == [(1, "one", "PROVIDER_ERROR")]


@both_ways
def test_a_failure_of_the_second_leaves_it_to_the_first(pair: Pair, stream: bool) -> None:
    model, late = name("second-falls", stream), Gate(after=says("first", stream))
    with pair.asking(model, late, plays(fails(b"503 No")), stream=stream) as client:
        pair.logged(f"two-{model}/{model}#1: HTTP 503")
        late.open.set()
        answer = client.answer()
    assert (answer.text, answer.header("x-provider")) == ("first", f"one-{model}")
    assert sorted(told(answer)) == [("one", ""), ("two", "server_error")]
    row, attempts = pair.rows(answer)
    assert row[:4] == ("one", "", 2, 1) and attempts == [(2, "two", "PROVIDER_ERROR")]


@both_ways
def test_both_may_fail(pair: Pair, stream: bool) -> None:
    model, late = name("both", stream), Gate(after=fails(b"404 No"))
    with pair.asking(model, late, plays(fails(b"404 No")), stream=stream) as client:
        pair.logged(f"two-{model}/{model}#1: HTTP 404")
        late.open.set()
        answer = client.answer()
    assert (answer.status, answer.code, answer.header("x-attempts")) == (502, "PROVIDER_ERROR", "2")
    assert sorted(each["provider"][:3] for each in answer.json["waypost"]["attempts"]) == ["one", "two"]
    row, attempts = pair.rows(answer)
    assert row[1:4] == ("PROVIDER_ERROR", 2, 0)
    assert attempts == [(1, "one", "PROVIDER_ERROR"), (2, "two", "PROVIDER_ERROR")]


def test_who_has_won_and_breaks_is_not_replaced(pair: Pair) -> None:
    late, second = Gate(after=says("first", True)), Gate(before=ROLE + words("sec", "ond"), after=ERROR)
    with pair.asking("breaks-s", late, second, stream=True) as client:
        said = client.until(b'"ond"')
        second.open.set()
        client.unread = said + client.unread
        answer = client.answer()
    assert late.is_cancelled.wait(DEADLINE) and answer.text == "second"
    assert answer.chunks[-1]["error"]["code"] == "PROVIDER_ERROR" and answer.events[-1] == b"[DONE]"
    row, attempts = pair.rows(answer)
    assert row[:4] == ("two", "PROVIDER_ERROR", 2, 1)
    assert attempts == [(1, "one", "HEDGED"), (2, "two", "PROVIDER_ERROR")]


@both_ways
def test_a_caller_who_leaves_ends_both(pair: Pair, stream: bool) -> None:
    model, late, second = name("leaves", stream), Gate(), Gate()
    with pair.asking(model, late, second, stream=stream):
        assert late.is_asked.wait(DEADLINE) and second.is_asked.wait(DEADLINE)
    assert late.is_cancelled.wait(DEADLINE) and second.is_cancelled.wait(DEADLINE)
    row, attempts = pair.settled(f"model = 'h/{model}'")
    assert row[1:4] == ("CLIENT_GONE", 2, 1) and attempts == []


# What passes while they run


def test_comments_come_from_one_of_them(pair: Pair) -> None:
    late, second = Gate(), Gate(after=says("second", True))
    with pair.asking("comments-s", late, second, stream=True) as client:
        assert late.is_asked.wait(DEADLINE)
        began = time.monotonic()
        for _ in range(3):
            client.until(b": waypost is waiting for the model\n\n")
        took = time.monotonic() - began
        second.open.set()
        rest = client.until(b"data: [DONE]\n\n")
    assert took > 2.6, "three seconds of silence have three comments, not six"
    assert b"second" in rest and late.is_cancelled.wait(DEADLINE)


def test_a_slow_reader_slows_the_winner(pair: Pair) -> None:
    piece = words("x" * 60_000)
    sent = 0

    def endless(sock: socket.socket, _: Asked) -> bool:
        nonlocal sent
        sock.sendall(ROLE)
        for _ in range(1000):
            sock.sendall(piece)
            sent += 1
        sock.sendall(END)
        return True

    def stands() -> bool:
        before = sent
        time.sleep(0.5)
        return sent == before > 0

    with pair.asking("slow-s", Gate(), endless, stream=True) as client:
        wait_until(stands, "the upstream to be held up")
        assert sent < 900, "60 MB do not wait in the server"
        got, end = 0, b""
        while not end.endswith(b"0\r\n\r\n"):
            data = client.sock.recv(1 << 20)
            assert data, "the stream was cut"
            got, end = got + data.count(b"x"), (end + data)[-20:]
    assert got >= 60_000_000 and sent == 1000


def test_what_is_kept_is_the_winners_answer(pair: Pair) -> None:
    body = chat_body("h/cached", "the same question")
    ask = post("/v1/chat/completions", body, *pair.server.credentials, "x-waypost-cache: true")
    pair.one.scripts["cached"], pair.two.scripts["cached"] = Gate(), plays(says("second", False))
    with pair.server.connect() as client:
        client.send(ask + ask)
        first, second = client.answer(), client.answer()
    assert (first.text, second.text) == ("second", "second")
    assert (first.header("x-waypost-cache-status"), second.header("x-waypost-cache-status")) == ("MISS", "HIT")


# Whom it is asked beside, and when


def test_after_what_its_answers_usually_take(pair: Pair) -> None:
    """The setting says 50 seconds; five quick answers say better."""
    for _ in range(5):
        with pair.asking("known", plays(says("first", False)), plays(says("second", False))) as client:
            assert client.answer().text == "first"
    time.sleep(1.1)  # what is known is looked at once a second
    began = time.monotonic()
    with pair.asking("known", Gate(), plays(says("second", False))) as client:
        assert client.answer().text == "second"
    assert time.monotonic() - began < 40


def test_a_link_that_cannot_serve_the_request_is_passed_over(pair: Pair) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with pair.asking("tools", Gate(), plays(says("third", False)), tools=tools) as client:
        answer = client.answer()
    assert (answer.text, answer.header("x-attempts")) == ("third", "2")
    assert told(answer) == [("one", "hedged"), ("two", "")]


def test_what_goes_to_one_upstream_once_is_not_hedged(pair: Pair) -> None:
    talk = [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "c", "content": "7"}]
    late = Gate(after=says("first", False))
    pair.one.scripts["strict"] = late
    body = json.dumps({"model": "h/strict", "messages": talk}).encode()
    with pair.server.connect() as client:
        client.send(post("/v1/chat/completions", body, *pair.server.credentials))
        assert late.is_asked.wait(DEADLINE)
        time.sleep(3 * LATE)
        late.open.set()
        assert client.answer().text == "first"
    assert not asked(pair.two, "strict")


# Whatever they speak


@pytest.fixture(scope="module")
def every_format(simulator: Running) -> Iterator[Waypost]:
    """`f/NAME` begins with an upstream of that format that hangs, `b/NAME` has one behind one that hangs."""
    root = simulator.base.removesuffix("/v1")
    text = configuration(root) + provider("two", simulator.base)
    for name, (path, settings) in PATHS.items():
        text += provider(f"late-{name}", simulator.base)
        text += f'[models."b/{name}"]\nchain = ["late-{name}/hang", "{name}/words-9"]\nhedge = {LATE}\n'
        if name not in ("mistral", "deepseek", "azure"):  # known by their names
            spoken = {"vertex": '"gemini"', "lab": '"openai"'}.get(name, f'"{name}"')
            text += provider(f"hangs-{name}", root + path, format=spoken, **settings)
            text += f'[models."f/{name}"]\nchain = ["hangs-{name}/hang", "two/words-9"]\nhedge = {LATE}\n'
    with serving(text) as server:
        yield server


@both_ways
@pytest.mark.parametrize("name", PATHS)
def test_a_second_of_every_format(every_format: Waypost, name: str, stream: bool) -> None:
    answer = every_format.ask(f"b/{name}", fresh_nonce(), stream=stream)
    assert (answer.header("x-provider"), answer.header("x-attempts")) == (name, "2")
    assert len(answer.text.split()) == 9 and (not stream or answer.events[-1] == b"[DONE]")


@both_ways
@pytest.mark.parametrize("name", ["lab", "anthropic", "gemini", "vertex", "bedrock", "cohere"])
def test_a_first_of_every_format(every_format: Waypost, simulator: Running, name: str, stream: bool) -> None:
    nonce = fresh_nonce()
    answer = every_format.ask(f"f/{name}", nonce, stream=stream)
    assert (answer.header("x-provider"), answer.header("x-attempts")) == ("two", "2")
    assert len(answer.text.split()) == 9 and times_seen(simulator, nonce) == 2

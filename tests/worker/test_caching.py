"""The response cache as a caller meets it: whole requests through a whole server."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from tests.harness import Answer, chat_body, post, wait_until
from tests.sim.running import Running
from tests.worker.caching_server import CONFIG, Server, body, caching, ids, mark, pieces, said, status_of
from waypost.records import Opened, Repeated, Settled


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Server]:
    with caching(simulator) as server:
        yield server


OF_ONE = (Opened, Settled, Repeated)
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


# Hits


@BOTH
@pytest.mark.parametrize("model", ["sim/demo", "sim/unicode+words-40", "sim/spaced+words-9", "sim/gap-2+words-9"])
def test_the_second_answer_is_the_first_under_a_name_of_its_own(server: Server, model: str, stream: bool) -> None:
    key, asked = server.key(), mark()
    first, second, third = (server.ask(key, body(asked, model, stream=stream)) for _ in range(3))
    assert [status_of(answer) for answer in (first, second, third)] == ["MISS", "HIT", "HIT"]
    assert said(first) == said(second) == said(third)
    assert len(ids(first) | ids(second) | ids(third)) == 3
    for answer in (first, second, third):
        assert ids(answer) == {answer.header("x-request-id")}
        assert answer.header("x-waypost-cache-ttl") == "300"
    for answer in (second, third):
        assert answer.header("x-waypost-cache-source-id") == first.header("x-request-id")
        assert answer.header("x-waypost-cache-age") is not None and int(answer.header("x-waypost-cache-age")) < 300
        assert answer.header("x-provider") is None and answer.header("content-type") == first.header("content-type")
    assert first.header("x-waypost-cache-age") is None and first.header("x-provider") == "sim"
    assert len(server.exchanges(asked)) == 1


def test_a_stream_comes_again_in_its_pieces(server: Server) -> None:
    key, asked = server.key(), mark()
    first, second = (server.ask(key, body(asked, "sim/gap-5+words-8", stream=True)) for _ in range(2))
    assert status_of(second) == "HIT"
    assert [len(part) for part in pieces(first)][:-1] == [len(part) for part in pieces(second)][:-1]
    assert len(pieces(second)) > 5


def test_an_old_client_has_no_chunks(server: Server) -> None:
    key, asked = server.key(), mark()
    for wanted in ("MISS", "HIT"):
        with server.waypost.connect() as client:
            client.send(server.request(key, body(asked, stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            answer = client.answer()
        assert status_of(answer) == wanted and answer.header("transfer-encoding") is None
        assert answer.events[-1] == b"[DONE]" and asked in answer.text


def test_many_on_one_connection(server: Server) -> None:
    key, asked = server.key(), mark()
    with server.waypost.connect() as client:
        for stream in (False, True):
            client.send(server.request(key, body(asked, stream=stream)))
            assert status_of(client.answer()) == "MISS"
            client.send(server.request(key, body(asked, stream=stream)) * 5)
            assert {status_of(client.answer()) for _ in range(5)} == {"HIT"}


@BOTH
def test_a_hit_counts_as_a_request_and_costs_nothing(server: Server, stream: bool) -> None:
    key, asked = server.key(), mark()
    wish: dict[str, Any] = {"stream": stream, "usage": {"include": True}}
    first, second = (server.ask(key, body(asked, "route/priced", **wish)) for _ in range(2))
    usages = [(answer.chunks[-1] if stream else answer.json)["usage"] for answer in (first, second)]
    assert usages[0]["cost"] > 0 and usages[1] == {**usages[0], "cost": 0}
    one, again = server.row(first), server.row(second)
    assert one.cost is not None and one.cost > 0 and one.source == ""
    assert (again.status, again.code, again.requests, again.tokens, again.cost) == (200, "", 1, 0, 0)
    assert again.source == one.id and again.provider == ""


@BOTH
def test_a_hit_is_one_line_in_the_journal(server: Server, stream: bool) -> None:
    key, asked = server.key(), mark()
    first, second = (server.ask(key, body(asked, stream=stream)) for _ in range(2))
    lines = server.journal()
    kinds = [
        [type(line) for line in lines if isinstance(line, OF_ONE) and line.id == row.id.encode()]
        for row in map(server.row, (first, second))
    ]
    assert kinds == [[Opened, Settled], [Repeated]]


def test_limits_on_requests_hold_for_hits(server: Server) -> None:
    key, asked = server.key("three"), mark()
    answers = [server.ask(key, body(asked)) for _ in range(4)]
    assert [status_of(answer) for answer in answers] == ["MISS", "HIT", "HIT", None]
    assert answers[-1].code == "DAILY_REQUEST_LIMIT_EXCEEDED"


def test_what_a_hit_reserved_comes_back(server: Server) -> None:
    key, asked = server.key("tokens"), mark()
    for _ in range(12):  # of 6,000 tokens a day each reserves some 2,000
        assert server.ask(key, body(asked, max_tokens=2000)).status == 200
    assert len(server.exchanges(asked)) == 1


def test_the_account_s_own_pages_tell_of_hits(server: Server) -> None:
    account = f"pages-{mark()[6:]}"
    key = server.key("open", account)
    asked = mark()
    first, second = (server.ask(key, body(asked, "route/priced")) for _ in range(2))
    receipt = get(server, f"/v1/generation?id={second.header('x-request-id')}", key)["data"]
    assert receipt["source_id"] == first.header("x-request-id") and receipt["total_cost"] == 0
    assert get(server, f"/v1/generation?id={first.header('x-request-id')}", key)["data"]["source_id"] is None


def get(server: Server, path: str, key: str) -> Any:
    with server.waypost.connect() as client:
        client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode())
        answer = client.answer()
    assert answer.status == 200, answer.body
    return answer.json


def test_embeddings_are_cached_like_anything_else(server: Server) -> None:
    key, asked = server.key(), mark()
    request = json.dumps({"model": "sim/embed", "input": [asked, "other"], "messages": []}).encode()
    lines = [f"authorization: Bearer {key}", "accept: application/json", "x-waypost-cache: true"]
    answers = []
    for _ in range(2):
        with server.waypost.connect() as client:
            client.send(post("/v1/embeddings", request, *lines))
            answers.append(client.answer())
    assert [status_of(answer) for answer in answers] == ["MISS", "HIT"]
    assert answers[0].json == answers[1].json and len(answers[0].json["data"]) == 2
    first, second = (server.row(answer) for answer in answers)
    assert (second.tokens, second.cost, second.source) == (0, 0, first.id)
    assert status_of(server.ask(key, request)) == "MISS", "the same body means something else elsewhere"


# What is the same request


def test_the_order_of_fields_and_spaces_do_not_matter(server: Server) -> None:
    key, asked = server.key(), mark()
    fields = json.loads(body(asked, temperature=1, seed=7, tools=[{"type": "function", "function": {"name": "f"}}]))
    fields["messages"][0] = {"content": asked, "role": "user"}
    texts = [json.dumps(fields), json.dumps(dict(reversed(fields.items())), indent=2), json.dumps(fields, indent=1)]
    texts.append(json.dumps({**fields, "temperature": 1.0, "session_id": "a"}))
    assert [status_of(server.ask(key, text.encode())) for text in texts] == ["MISS", "HIT", "HIT", "HIT"]


@pytest.mark.parametrize(
    "change", [{"temperature": 0.5}, {"user": "x"}, {"stream": True}, {"seed": 8}, {"model": "sim/words-9"}, {"n": 2}]
)
def test_another_question_is_another_answer(server: Server, change: dict[str, Any]) -> None:
    key, asked = server.key(), mark()
    fields = {"seed": 7, "temperature": 1}
    assert status_of(server.ask(key, body(asked, **fields))) == "MISS"
    assert status_of(server.ask(key, chat_body(**{"model": "sim/demo", "asked": asked, **fields, **change}))) == "MISS"
    assert status_of(server.ask(key, body(asked, **fields))) == "HIT"
    assert len(server.exchanges(asked)) == 2


@BOTH
def test_two_tenants_never_share(server: Server, stream: bool) -> None:
    asked = mark()
    account = f"shared-{asked[6:]}"
    tokens = [
        jwt.encode({"sub": f"{name}{asked[6:]}", "plan": "open", "exp": time.time() + 600}, SECRET, "HS256")
        for name in "ab"
    ]
    keys = [server.key(), server.key(), server.key("open", account), server.key("open", account), *tokens]
    request = body(asked, stream=stream)
    assert [status_of(server.ask(key, request)) for key in keys] == ["MISS"] * 6
    assert [status_of(server.ask(key, request)) for key in keys] == ["HIT"] * 6
    assert len(server.exchanges(asked)) == 6


SECRET = "a secret of the tests, long enough for HS256"


# Wishes


def test_without_the_wish_nothing_is_kept_and_nothing_said(server: Server) -> None:
    key, asked = server.key(), mark()
    for header in ("", "", "x-waypost-cache: false", "x-waypost-cache: False"):
        answer = server.ask(key, body(asked), *([header] if header else ["x-waypost-cache:false"]))
        assert answer.status == 200 and not [name for name, _ in answer.headers if "cache" in name]
    assert len(server.exchanges(asked)) == 4
    assert status_of(server.ask(key, body(asked))) == "MISS"


@pytest.mark.parametrize(
    ("said_ttl", "ttl"), [("0", 1), ("-5", 1), ("1", 1), ("2", 2), ("86399", 86399), ("86400", 86400), ("86401", 86400)]
)
def test_the_time_is_brought_to_what_is_possible(server: Server, said_ttl: str, ttl: int) -> None:
    answer = server.ask(server.key(), body(mark()), f"x-waypost-cache-ttl: {said_ttl}")
    assert answer.header("x-waypost-cache-ttl") == str(ttl)


@pytest.mark.parametrize(
    "header",
    [
        "x-waypost-cache: yes",
        "x-waypost-cache:",
        "x-waypost-cache-ttl: soon",
        "x-waypost-cache-ttl: 1.5",
        "x-waypost-cache-clear: 1",
    ],
)
def test_a_wish_that_is_not_understood_is_refused_by_its_name(server: Server, header: str) -> None:
    asked = mark()
    answer = server.ask(server.key("three"), body(asked), header)
    name = header.partition(":")[0]
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (400, "INVALID_REQUEST", name)
    assert name in answer.json["error"]["message"] and server.exchanges(asked) == []


def test_said_twice_is_refused(server: Server) -> None:
    answer = server.ask(server.key(), body(mark()), "x-waypost-cache: true", "x-waypost-cache: false")
    assert answer.status == 400


def test_a_plan_may_wish_it_and_a_header_goes_first(server: Server) -> None:
    key, asked = server.key("cached"), mark()
    for wanted in ("MISS", "HIT"):
        answer = ask_plainly(server, key, asked)
        assert status_of(answer) == wanted and answer.header("x-waypost-cache-ttl") == "60"
    assert status_of(server.ask(key, body(asked), "x-waypost-cache: false")) is None
    other = mark()
    assert server.ask(key, body(other), "x-waypost-cache-ttl: 9").header("x-waypost-cache-ttl") == "9"
    off = server.key("off")
    assert status_of(ask_plainly(server, off, other)) is None
    assert server.ask(off, body(other)).header("x-waypost-cache-ttl") == "7"


def ask_plainly(server: Server, key: str, asked: str) -> Answer:
    with server.waypost.connect() as client:
        client.send(server.request(key, body(asked)).replace(b"x-waypost-cache: true\r\n", b""))
        return client.answer()


# How long, and until when


@BOTH
def test_nothing_is_served_after_its_time(server: Server, stream: bool) -> None:
    key, asked = server.key(), mark()
    first = server.ask(key, body(asked, stream=stream), "x-waypost-cache-ttl: 1")
    time.sleep(1.05)
    second = server.ask(key, body(asked, stream=stream))
    assert [status_of(answer) for answer in (first, second)] == ["MISS", "MISS"]
    assert len(server.exchanges(asked)) == 2


def test_who_names_a_time_gets_nothing_older(server: Server) -> None:
    key, asked = server.key(), mark()
    assert status_of(server.ask(key, body(asked))) == "MISS"
    time.sleep(1.05)
    assert status_of(server.ask(key, body(asked))) == "HIT"
    assert status_of(server.ask(key, body(asked), "x-waypost-cache-ttl: 1")) == "MISS"


@BOTH
def test_clear_refreshes(server: Server, stream: bool) -> None:
    key, asked = server.key(), mark()
    first, second = (server.ask(key, body(asked, stream=stream)) for _ in range(2))
    third = server.ask(key, body(asked, stream=stream), "x-waypost-cache-clear: true")
    fourth = server.ask(key, body(asked, stream=stream), "x-waypost-cache-clear: false")
    assert [status_of(answer) for answer in (first, second, third, fourth)] == ["MISS", "HIT", "MISS", "HIT"]
    assert fourth.header("x-waypost-cache-source-id") == third.header("x-request-id")
    assert len(server.exchanges(asked)) == 2


def test_clear_alone_forgets_and_keeps_nothing(server: Server) -> None:
    key, asked = server.key(), mark()
    server.ask(key, body(asked))
    assert status_of(server.ask(key, body(asked), "x-waypost-cache: false", "x-waypost-cache-clear: true")) is None
    assert status_of(server.ask(key, body(asked))) == "MISS"


def test_what_was_cleared_on_its_way_is_not_kept(server: Server) -> None:
    key, asked = server.key(), mark()
    slow = body(asked, "sim/ttft-900+words-5")
    with server.asking(key, slow) as early:
        until_asked(server, asked, 1)
        time.sleep(0.4)
        with server.asking(key, slow, "x-waypost-cache-clear: true") as late:
            until_asked(server, asked, 2)
            before = early.answer()
            between = server.ask(key, slow)  # the early answer is whole, the late one is on its way
            after = late.answer()
    assert [status_of(answer) for answer in (before, between, after)] == ["MISS", "HIT", "MISS"]
    assert between.header("x-waypost-cache-source-id") == after.header("x-request-id")
    assert server.ask(key, slow).header("x-waypost-cache-source-id") == after.header("x-request-id")
    assert len(server.exchanges(asked)) == 2


def until_asked(server: Server, asked: str, count: int) -> None:
    wait_until(lambda: len(server.exchanges(asked)) == count, "the upstream to be asked")


def test_a_new_configuration_forgets(simulator: Running) -> None:
    with caching(simulator) as server:
        key, asked = server.key(), mark()
        assert [status_of(server.ask(key, body(asked))) for _ in range(2)] == ["MISS", "HIT"]
        path = server.waypost.folder / "waypost.toml"
        path.write_text(path.read_text().replace('[models."route/slow"]', '[models."route/slower"]'))
        wait_until(lambda: server.ask(key, body(mark(), "route/slow")).status == 400, "the new configuration")
        assert status_of(server.ask(key, body(asked))) == "MISS"


# What is never kept

BROKEN = [
    "cut-after-3", "reset-after-3", "eof-after-3", "sse-error-after-3", "overloaded-after-3", "truncated-json",
    "missing-last-chunk+words-3", "cut-utf8", "status-500", "429", "not-json", "html-200", "length-short",
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_not_whole_is_never_kept(server: Server, fault: str, stream: bool) -> None:
    if stream and fault == "length-short":
        pytest.skip("a stream has no length")
    key, asked = server.key(), mark()
    answers = [server.ask(key, body(asked, f"sim/{fault}", stream=stream)) for _ in range(3)]
    whole = [answer for answer in answers if answer.status == 200 and b'"error":{' not in answer.body]
    if fault.startswith("missing-last-chunk") and whole:
        return  # what was missing came after the end of what was said
    assert not whole, "this fault is none"
    assert [status_of(answer) for answer in answers if status_of(answer)].count("HIT") == 0
    assert len(server.exchanges(asked)) >= 3


def test_a_stream_that_its_account_ended_is_not_kept(server: Server) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "sim/gap-10+words-400", stream=True)
    with server.asking(key, request) as client:
        client.until(b'"content"')
        with server.waypost.connect() as other:
            other.send(
                f"POST /v1/user/streams/kill HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
                "content-length: 0\r\n\r\n".encode()
            )
            assert other.answer().json == {"killed_streams": 1}
        client.until(b"[DONE]")
    assert status_of(server.ask(key, body(asked, "sim/gap-10+words-400", stream=True, n=1))) == "MISS"
    with server.asking(key, request) as client:
        assert b"x-waypost-cache-status: MISS" in client.until(b"\r\n\r\n")


def test_a_stream_whose_caller_left_is_not_kept(server: Server) -> None:
    key, asked = server.key(), mark()
    request = body(asked, "sim/gap-10+words-100", stream=True)
    with server.asking(key, request) as client:
        client.until(b'"content"')
    server.simulator.ended(asked, "client-gone")
    assert status_of(server.ask(key, request)) == "MISS"


@BOTH
def test_the_largest_answer(simulator: Running, stream: bool) -> None:
    limit, sizes = 3000, set()
    with caching(simulator, f'[cache]\nanswer = "{limit}"\n' + CONFIG) as server:
        key = server.key()

        def request(number: int, length: int) -> bytes:
            return body(f"{number:08}{'x' * length}", "sim/echo", stream=stream)

        most = 1000 + limit - len(server.ask(key, request(0, 1000)).body)
        # An answer says how long it took, in one digit or two: so it cannot be foretold to the byte how long it is.
        for number, more in enumerate(itertools.cycle(range(-3, 4)), 1):
            answer = server.ask(key, request(number, most + more))
            assert answer.status == 200 and answer.text.endswith("x")
            size = len(answer.body)
            assert (status_of(server.ask(key, request(number, most + more))) == "HIT") == (size <= limit), size
            sizes.add(size)
            if {limit - 1, limit, limit + 1} <= sizes:
                break


def test_without_memory_there_is_no_cache(simulator: Running) -> None:
    with caching(simulator, '[cache]\nmemory = "0"\n' + CONFIG) as server:
        key, asked = server.key(), mark()
        assert [status_of(server.ask(key, body(asked))) for _ in range(3)] == ["MISS"] * 3


@pytest.mark.parametrize(("over", "wanted"), [(-1, "HIT"), (0, "HIT"), (1, None)])
def test_the_largest_request(server: Server, over: int, wanted: str | None) -> None:
    key, asked = server.key(), mark()
    empty = len(body(asked, user=""))
    request = body(asked, user="u" * ((1 << 20) + over - empty))
    assert len(request) == (1 << 20) + over
    answers = [server.ask(key, request) for _ in range(2)]
    assert status_of(answers[1]) == wanted and answers[1].status == 200

"""The bytes on the wire: sound answers first, then every fault as it was ordered."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import re
import socket
import struct
import time
from typing import Any

import pytest

from tests.sim.running import Running, read_to_end, request, running, wait_until
from waypost.sim import edits
from waypost.sim.journal import read_journal

_marks = (f"nonce:server{i}" for i in itertools.count())


def content(event: bytes) -> str:
    chunk = json.loads(event.removeprefix(b"data: "))
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def text_of(events: list[bytes]) -> str:
    return "".join(content(event) for event in events if event.startswith(b"data: {"))


# Sound answers


def test_plain_answer(sim: Running) -> None:
    answered = sim.ask("sim/demo", asked="What is the capital of France?")
    assert (answered.status_line, answered.end) == (b"HTTP/1.1 200 OK", "kept")
    body = json.loads(answered.body)
    assert body["choices"][0]["message"]["content"].startswith("The capital of France is Paris.")
    assert (body["model"], body["object"]) == ("sim/demo", "chat.completion")


def test_stream_says_what_the_plain_answer_says(sim: Running) -> None:
    plain = json.loads(sim.ask("demo", asked="Why is the sky blue?").body)
    streamed = sim.ask("demo", asked="Why is the sky blue?", stream=True)
    assert streamed.values(b"content-type") == [b"text/event-stream; charset=utf-8"]
    assert text_of(streamed.events) == plain["choices"][0]["message"]["content"]
    assert streamed.events[-1] == b"data: [DONE]"
    assert "usage" not in json.loads(streamed.events[0][6:])


def test_pipelined_requests_are_answered_in_order(sim: Running) -> None:
    with sim.connect() as client:
        asked = [f"Reply with exactly: number {i}" for i in range(100)]
        client.sendall(b"".join(request("ttft-1", asked=text) for text in asked))
        seen = b""
        while seen.count(b'"object":"chat.completion"') < 100 or not seen.endswith(b"}"):
            seen += client.recv(1 << 20)
    assert re.findall(rb'"content":"(.*?)"', seen) == [f"number {i}".encode() for i in range(100)]


def test_expect_continue_chunked_body_and_connection_close(sim: Running) -> None:
    with sim.connect() as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: s\r\nconnection: close\r\n"
            b"expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        body = request("demo", asked="hello").partition(b"\r\n\r\n")[2]
        client.sendall(b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:]))
        answered = read_to_end(client)
    assert answered.values(b"connection") == [b"close"]
    assert answered.end == "eof"
    assert b"Hello! You have reached Waypost's simulator" in answered.body


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"model":', b"400", "could not parse"),
        (b'{"messages":[]}', b"400", "must provide a model"),
        (b'{"model":"cut-aftr-3","messages":[]}', b"404", "cut-aftr-3"),
        (b'{"model":"demo+nonsense","messages":[]}', b"404", "nonsense"),
    ],
)
def test_bad_requests_get_openai_envelopes(sim: Running, body: bytes, status: bytes, says: str) -> None:
    with sim.connect() as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: s\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        answered = read_to_end(client)
    assert answered.status_line.split()[1] == status
    error = json.loads(answered.body)["error"]
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_what_is_no_http_gets_400_and_goodbye(sim: Running) -> None:
    with sim.connect() as client:
        client.sendall(b"How do you do?\r\n\r\n")
        answered = read_to_end(client)
    assert (answered.status_line, answered.end) == (b"HTTP/1.1 400 Bad Request", "eof")


def test_other_paths(sim: Running) -> None:
    assert sim.get("/healthz") == {"status": "ok"}
    models = sim.get("/v1/models")
    assert {"demo", "demo-thinking", "cut-after-3"} <= {model["id"] for model in models["data"]}
    with sim.connect() as client:
        client.sendall(b"GET /nowhere HTTP/1.1\r\nhost: s\r\n\r\n")
        assert read_to_end(client).status_line == b"HTTP/1.1 404 Not Found"
    with sim.connect() as client:
        client.sendall(b"GET /v1/chat/completions HTTP/1.1\r\nhost: s\r\n\r\n")
        assert read_to_end(client).status_line == b"HTTP/1.1 405 Method Not Allowed"


# Options


def test_crlf_spaced_comments_and_split_change_bytes_not_text(sim: Running) -> None:
    plain = text_of(sim.ask("demo", stream=True, asked="tea").events)
    crlf = sim.ask("demo+crlf", stream=True, asked="tea").payload
    assert b"\n" not in crlf.replace(b"\r\n", b"")
    assert text_of([event for event in crlf.split(b"\r\n\r\n") if event]) == plain
    spaced = sim.ask("demo+spaced", stream=True, asked="tea")
    assert b'{"id": "chatcmpl-' in spaced.events[0]
    assert text_of(spaced.events) == plain
    commented = sim.ask("demo+comments", stream=True, asked="tea").events
    assert commented[::2] == [b": simulator still here"] * (len(commented) // 2)
    assert text_of(commented[1::2]) == plain
    assert text_of(sim.ask("demo+split-1", stream=True, asked="tea").events) == plain
    assert b'"object": "chat.completion"' in sim.ask("spaced").body


def test_gap_and_ttft_hold_the_bytes_back(sim: Running) -> None:
    mark = next(_marks)
    with sim.connect() as client:
        begun = time.monotonic()
        client.sendall(request("ttft-50+gap-30+words-2000", stream=True, asked=mark))
        first = client.recv(1 << 20)
        assert time.monotonic() - begun >= 0.05
        assert first.startswith(b"HTTP/1.1 200 OK")
        assert b"[DONE]" not in first
        assert sim.exchange(mark).end is None


def usages(sim: Running, model: str, **fields: Any) -> list[tuple[int, bool]]:
    """(number of choices, has usage) of each chunk, runs of equal ones joined."""
    events = sim.ask(model, stream=True, **fields).events
    assert events[-1] == b"data: [DONE]"
    chunks = [json.loads(event[6:]) for event in events[:-1]]
    return [key for key, _ in itertools.groupby((len(c["choices"]), bool(c.get("usage"))) for c in chunks)]


def test_where_usage_stands(sim: Running) -> None:
    asked = {"stream_options": {"include_usage": True}}
    assert usages(sim, "demo") == [(1, False)]
    assert usages(sim, "demo", **asked) == [(1, False), (0, True)]
    assert usages(sim, "usage-last-choice") == [(1, False), (1, True)]
    assert usages(sim, "usage-every") == [(1, True)]
    assert usages(sim, "no-usage", **asked) == [(1, False)]
    assert usages(sim, "azure-first") == [(0, False), (1, False)]
    events = sim.ask("demo", stream=True, **asked).events
    assert all(b'"usage":null}' in event for event in events[:-2])
    assert "usage" not in json.loads(sim.ask("no-usage").body)


def test_idle_close(sim: Running) -> None:
    """Each answer sets the time anew: the first would keep the connection for longer than the test waits."""
    with sim.connect() as client:
        for model in ("idle-close-60000", "idle-close-50"):
            client.sendall(request(model))
            assert read_to_end(client).end == "kept"
        assert client.recv(10) == b""


# Faults: connections


def test_hang_is_silent_until_the_client_leaves(sim: Running) -> None:
    mark = next(_marks)
    with sim.connect() as client:
        client.sendall(request("hang", asked=mark))
        wait_until(lambda: any(e.nonce == mark for e in read_journal(sim.journal)), "the request to arrive")
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
    exchange = sim.ended(mark, "client-gone")
    assert (exchange.sent_bytes, exchange.status, exchange.fault) == (0, None, "hang")


@pytest.mark.parametrize("stream", [False, True])
def test_ends_before_and_after_headers(sim: Running, stream: bool) -> None:
    for model, end in [("reset-before-headers", "reset"), ("close-before-headers", "eof")]:
        answered = sim.ask(model, stream=stream)
        assert (answered.data, answered.end) == (b"", end)
    answered = sim.ask("reset-after-headers", stream=stream)
    assert answered.data.endswith(b"\r\n\r\n")
    assert (answered.body, answered.end) == (b"", "reset")


def test_close_reused(sim: Running) -> None:
    with sim.connect() as client:
        client.sendall(request("close-reused"))
        assert read_to_end(client).status_line == b"HTTP/1.1 200 OK"
        client.sendall(request("close-reused"))
        answered = read_to_end(client)
    assert (answered.data, answered.end) == (b"", "eof")


@pytest.mark.parametrize(
    ("model", "end"), [("reset-after-3", "reset"), ("cut-after-3", "eof"), ("eof-after-3", "kept")]
)
def test_streams_that_end_after_three_events(sim: Running, model: str, end: str) -> None:
    mark = next(_marks)
    answered = sim.ask(model, stream=True, asked=f"milk {mark}")
    sound = sim.ask("demo", stream=True, asked=f"milk {mark}")
    assert answered.end == end
    complete = answered.events[:3]
    assert [content(event) for event in complete] == [content(event) for event in sound.events[:3]]
    half = b"".join(answered.events[3:])
    if model == "cut-after-3":
        assert half.startswith(b'data: {"id":"chatcmpl-')
        assert not half.endswith(b"}")
    else:
        assert half == b""
    exchange = sim.exchange(mark)
    assert (exchange.end, exchange.events, exchange.usage) == (f"fault:{model}", 3, None)
    assert exchange.text_sha256 == hashlib.sha256(text_of(complete).encode()).hexdigest()
    assert exchange.sent_bytes == len(answered.data)


def test_plain_answers_cut_in_half(sim: Running) -> None:
    for model, end in [("reset-after-3", "reset"), ("cut-after-3", "eof")]:
        answered = sim.ask(model)
        assert (len(answered.body), answered.end) == (int(answered.values(b"content-length")[0]) // 2, end)
    answered = sim.ask("eof-after-3")
    assert answered.end == "kept"
    assert answered.payload.startswith(b'{"id":"chatcmpl-')
    with pytest.raises(json.JSONDecodeError):
        json.loads(answered.payload)


def test_cut_inside_a_character(sim: Running) -> None:
    for stream in (True, False):
        answered = sim.ask("cut-utf8", stream=stream)
        assert answered.end == "eof"
        assert answered.body[-1] >= 0xC0
        assert answered.body[:-1].isascii()


@pytest.mark.parametrize("stream", [False, True])
def test_stall_after_two_events(sim: Running, stream: bool) -> None:
    mark = next(_marks)
    with sim.connect() as client:
        client.sendall(request("stall-after-2", stream=stream, asked=mark))
        data = b""
        while (data.count(b"\n\n") < 2) if stream else (len(data) < 400):
            data += client.recv(1 << 20)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        assert sim.exchange(mark).end is None
    exchange = sim.ended(mark, "client-gone")
    assert exchange.sent_bytes == len(data)
    assert exchange.events == (2 if stream else 0)


def test_dribbled_bodies_and_heads_arrive_whole(sim: Running) -> None:
    for model in ("dribble-0", "slow-headers-1"):
        answered = sim.ask(model, asked="Reply with exactly: ok")
        assert json.loads(answered.body)["choices"][0]["message"]["content"] == "ok"


def test_huge_headers(sim: Running) -> None:
    answered = sim.ask("huge-headers")
    assert sum(map(len, answered.headers)) > 1 << 20
    assert json.loads(answered.body)["object"] == "chat.completion"


# Faults: event streams


@pytest.mark.parametrize(
    ("model", "broken", "mended"),
    [
        ("sse-cr", rb"\}\r\r", (b"\r", b"\n")),
        ("sse-bom", rb"^\xef\xbb\xbfdata: ", (b"\xef\xbb\xbf", b"")),
        ("sse-nospace", rb"^data:\{", (b"data:{", b"data: {")),
        ("sse-multiline", rb',\ndata: "object"', (b",\ndata: ", b",")),
        ("sse-unknown-event", rb'\n\nid: 7\nretry: 1000\nevent: telemetry\ndata: \{"type":"telemetry"\}\n\n', None),
        ("sse-nul", rb"\n: \x00\n\x00: \x00\nid: a\x00b\ndata: \{", (b": \0\n\0: \0\nid: a\0b\n", b"")),
        ("sse-long-line", rb"x{2097152}", (b'"padding":"' + b"x" * edits.LONG_LINE + b'",', b"")),
    ],
)
def test_odd_streams_that_still_say_everything(
    sim: Running, model: str, broken: bytes, mended: tuple[bytes, bytes] | None
) -> None:
    payload = sim.ask(model, stream=True, asked="milk").payload
    assert re.search(broken, payload)
    payload = payload.replace(*mended) if mended else re.sub(broken, b"\n\n", payload)
    assert text_of(payload.split(b"\n\n")) == text_of(sim.ask("demo", stream=True, asked="milk").events)


def test_streams_that_lose_something(sim: Running) -> None:
    sound = [content(event) for event in sim.ask("demo", stream=True, asked="milk").events[:-1]]
    events = sim.ask("sse-no-colon", stream=True, asked="milk").events
    assert events[1].startswith(b"a line without a colon\ndata: {")
    assert events[2].startswith(b"data {")
    bad = sim.ask("sse-bad-utf8", stream=True, asked="milk").events
    with pytest.raises(UnicodeDecodeError):
        bad[1].decode()
    assert bad[1].count(b'"content":"\xff\xfe\xc3') == 1
    assert [content(event.replace(b"\xff\xfe\xc3", b"")) for event in bad[:-1]] == sound
    halved = sim.ask("truncated-json", stream=True, asked="milk").events
    with pytest.raises(json.JSONDecodeError):
        json.loads(halved[2][6:])
    assert [content(event) for event in halved[3:-1]] == sound[3:]


def test_errors_under_status_200(sim: Running) -> None:
    first = sim.ask("sse-error-first", stream=True)
    assert (first.status_line, len(first.events)) == (b"HTTP/1.1 200 OK", 1)
    assert json.loads(first.events[0][6:])["error"]["type"] == "server_error"
    later = sim.ask("sse-error-after-3", stream=True)
    assert [b'"error"' in event for event in later.events] == [False, False, False, True]
    assert json.loads(sim.ask("sse-error-first").body)["error"]["code"] == "server_error"


def test_no_done(sim: Running) -> None:
    last = sim.ask("no-done", stream=True).events[-1]
    assert json.loads(last[6:])["choices"][0]["finish_reason"] == "stop"


# Faults: framing


@pytest.mark.parametrize("stream", [False, True])
def test_wrong_lengths(sim: Running, stream: bool) -> None:
    for model, surplus in [("length-short", 10), ("length-long", -10)]:
        with sim.connect() as client:
            client.sendall(request(model, stream=stream))
            data = b""
            while piece := client.recv(1 << 20):
                data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert len(body) - int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) == surplus
    with sim.connect() as client:
        client.sendall(request("length-negative", stream=stream))
        assert b"\r\ncontent-length: -1\r\n" in client.recv(1 << 20)
    with sim.connect() as client:
        client.sendall(request("length-twice", stream=stream))
        first, second = re.findall(rb"content-length: (\d+)", client.recv(1 << 20))
        assert int(first) == int(second) + 10


@pytest.mark.parametrize("stream", [False, True])
def test_broken_chunks_and_stray_bytes(sim: Running, stream: bool) -> None:
    broken = sim.ask("bad-chunk-size", stream=stream)
    assert (b"\r\nzz\r\n" in b"\r\n" + broken.body, broken.end) == (True, "eof")
    missing = sim.ask("missing-last-chunk", stream=stream)
    assert missing.end == "eof"
    assert missing.body.endswith(b"data: [DONE]\n\n\r\n" if stream else b"}\r\n")
    with sim.connect() as client:
        client.sendall(request("garbage-after", stream=stream))
        data = b""
        while not data.endswith(edits.STRAY):
            data += client.recv(1 << 20)
        assert data.count(b"HTTP/1.1 200 OK") == 2
        client.sendall(request("demo", asked="Reply with exactly: still here"))
        assert b"still here" in read_to_end(client).body


def test_bodies_that_are_something_else(sim: Running) -> None:
    bomb = sim.ask("gzip-bomb")
    assert bomb.values(b"content-encoding") == [b"gzip"]
    assert len(bomb.body) < 100_000
    assert len(gzip.decompress(bomb.body)) > edits.BOMB
    assert gzip.decompress(sim.ask("gzip-bomb", stream=True).payload).endswith(b"data: [DONE]\n\n")
    for stream in (False, True):
        page = sim.ask("html-200", stream=stream)
        assert page.values(b"content-type") == [b"text/html; charset=utf-8"]
        assert page.body.startswith(b"<!DOCTYPE html>")
        assert b"upstream connect error" in sim.ask("not-json", stream=stream).payload
    halved = sim.ask("truncated-json")
    assert halved.end == "kept"
    with pytest.raises(json.JSONDecodeError):
        json.loads(halved.body)


# Faults: refusals


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("429", b"429 Too Many Requests", "rate_limit_exceeded"),
        ("status-500", b"500 Internal Server Error", None),
        ("status-529", b"529 Unknown", None),
        ("auth-401", b"401 Unauthorized", "invalid_api_key"),
        ("status-404", b"404 Not Found", "model_not_found"),
        ("context-length", b"400 Bad Request", "context_length_exceeded"),
        ("content-policy", b"400 Bad Request", "content_policy_violation"),
    ],
)
def test_refusals(sim: Running, model: str, status: bytes, code: str | None, stream: bool) -> None:
    answered = sim.ask(model, stream=stream)
    assert answered.status_line == b"HTTP/1.1 " + status
    assert answered.values(b"content-type") == [b"application/json"]
    assert json.loads(answered.body)["error"]["code"] == code
    assert answered.values(b"retry-after") == []


@pytest.mark.parametrize("value", ["2", "86400", "-1", "garbage", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_retry_after_is_literal(sim: Running, value: str) -> None:
    assert sim.ask(f"sim/429-retry-after-{value}").values(b"retry-after") == [value.encode()]


def test_percentages_are_exact(sim: Running) -> None:
    lines = [sim.ask("status-503-30").status_line for _ in range(20)]
    assert [line.split()[1] for line in lines].count(b"503") == 6


@pytest.mark.parametrize(
    ("prefix", "start"),
    [("/early-413/v1", b""), ("/v1", b'{"model":"early-413","messages":[{"role":"user","content":"')],
)
def test_early_413_needs_no_body(sim: Running, prefix: str, start: bytes) -> None:
    with sim.connect() as client:
        head = f"POST {prefix}/chat/completions HTTP/1.1\r\nhost: s\r\ncontent-length: 99999999\r\n\r\n"
        client.sendall(head.encode() + start)
        answered = read_to_end(client)
    assert answered.status_line.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answered.body)["error"]["code"] == "request_too_large"
    assert answered.end in ("eof", "reset")
    exchange = read_journal(sim.journal)[-1]
    assert (exchange.fault, exchange.body_sha256) == ("early-413", hashlib.sha256(start).hexdigest())


def test_a_fault_in_the_path_holds_for_every_model(sim: Running) -> None:
    with sim.connect() as client:
        client.sendall(request("gpt-4o-mini", prefix="/sim/status-503/v1"))
        assert read_to_end(client).status_line == b"HTTP/1.1 503 Service Unavailable"


# Clients that leave, and clients that do not read


def test_a_client_that_leaves_is_noticed_and_journaled(sim: Running) -> None:
    for how in ("close", "reset"):
        mark = next(_marks)
        client = sim.connect()
        client.sendall(request("gap-20+words-100000", stream=True, asked=mark))
        seen = client.recv(1 << 20)
        while seen.count(b"\n\n") < 3:
            seen += client.recv(1 << 20)
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        exchange = sim.ended(mark, "client-gone")
        assert 3 <= exchange.events < 100000
        assert exchange.usage is None


def test_a_client_that_does_not_read_holds_the_stream_back(sim: Running) -> None:
    """Some megabytes fit into the kernel; the rest waits, and is not counted as sent."""
    mark = next(_marks)
    with sim.connect() as client:
        client.sendall(request("words-100000", stream=True, asked=mark))
        client.recv(1, socket.MSG_PEEK)
        assert sim.exchange(mark).end is None
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += client.recv(1 << 20)
    exchange = sim.ended(mark, "complete")
    assert exchange.sent_bytes == len(data)
    assert exchange.events == data.count(b"\n\n")


def test_counts_are_right_at_rest(tmp_path: Any) -> None:
    with running(tmp_path / "journal.jsonl") as sim:
        for model in ("demo", "demo", "429", "cut-after-1"):
            sim.ask(model)
        with sim.connect() as client:
            client.sendall(request("hang"))
            wait_until(lambda: sim.get("/journal/summary")["open"] == 1, "the hanging request")
        wait_until(lambda: sim.get("/journal/summary")["open"] == 0, "the hanging request to end")
        wait_until(lambda: sim.get("/journal/summary")["connections_open"] == 1, "the others to close")
        summary = sim.get("/journal/summary")
    assert summary["requests"] == 5
    assert summary["by_end"] == {"complete": 2, "fault:429": 1, "fault:cut-after-1": 1, "client-gone": 1}
    assert summary["by_model"]["demo"] == {"complete": 2}
    assert summary["connections"] >= 6

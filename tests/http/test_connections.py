"""What a connection does from one request to the next: keep-alive, order, methods, expectations, old clients."""

from __future__ import annotations

import pytest

from tests.harness import Waypost, chat_body, post
from tests.http.conftest import ORIGIN
from tests.http.nonces import fresh_nonce, times_seen
from tests.sim.running import Running

READY = b"GET /readyz HTTP/1.1\r\nhost: waypost\r\n\r\n"


def old(data: bytes) -> bytes:
    return data.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)


def test_many_requests_on_one_connection(gateway: Waypost) -> None:
    with gateway.connect() as client:
        for number in range(50):
            nonce = fresh_nonce()
            client.send(gateway.chat("sim/demo", nonce, stream=bool(number % 2)))
            answer = client.answer()
            assert answer.header("connection") is None and nonce in answer.text


def test_connection_close(gateway: Waypost) -> None:
    for stream in (False, True):
        with gateway.connect() as client:
            client.send(gateway.chat("sim/demo", "bye", "connection: close", stream=stream))
            answer = client.answer()
            assert (answer.status, answer.header("connection")) == (200, "close")
            assert client.closed()


def test_pipelined_answers_come_in_order(gateway: Waypost) -> None:
    """Slow, fast, streamed, refused and unknown ones in one packet."""
    asked = [
        ("sim/ttft-300", {}),
        ("sim/demo", {}),
        ("sim/ttft-100", {"stream": True}),
        ("no-such-model", {}),
        ("sim/demo", {"stream": True}),
        ("sim/ttft-50", {}),
    ]
    nonces = [fresh_nonce() for _ in asked]
    requests = [gateway.chat(model, n, **fields) for (model, fields), n in zip(asked, nonces, strict=True)]
    with gateway.connect() as client:
        client.send(b"".join(requests) + READY)
        for (model, _), nonce in zip(asked, nonces, strict=True):
            answer = client.answer()
            if model == "no-such-model":
                assert (answer.status, answer.code) == (400, "INVALID_MODEL")
            else:
                assert answer.status == 200 and nonce in answer.text
        assert client.answer().body == b"ready\n"


def test_hundred_pipelined_requests(gateway: Waypost, simulator: Running) -> None:
    nonces = [fresh_nonce() for _ in range(100)]
    with gateway.connect() as client:
        client.send(b"".join(gateway.chat("sim/demo", nonce) for nonce in nonces))
        for nonce in nonces:
            assert nonce in client.answer().text
    assert all(times_seen(simulator, nonce) == 1 for nonce in nonces)


def test_pipelined_behind_a_refusal_that_closes(gateway: Waypost, simulator: Running) -> None:
    """What comes before a syntax error is answered, what comes behind it never runs."""
    before, behind = fresh_nonce(), fresh_nonce()
    with gateway.connect() as client:
        client.send(gateway.chat("sim/ttft-100", before) + b"NO SUCH THING\r\n\r\n" + gateway.chat("sim/demo", behind))
        assert before in client.answer().text
        assert client.answer().status == 400
        assert client.closed()
    assert times_seen(simulator, behind) == 0


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/v1/nothing"])
def test_head_is_get_without_the_body(path: str, gateway: Waypost) -> None:
    lines = "\r\n".join(("host: waypost", *gateway.credentials))
    with gateway.connect() as client:
        client.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n\r\n".encode())
        got = client.answer()
        client.send(f"HEAD {path} HTTP/1.1\r\n{lines}\r\n\r\n".encode() + READY)
        head = client.answer(to_head=True)
        assert (head.status, head.header("content-type")) == (got.status, got.header("content-type"))
        if path != "/v1/nothing":
            assert head.header("content-length") == got.header("content-length")
        assert client.answer().body == b"ready\n"  # not a byte of a body came between


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/models/", "/healthz/", "/v1/chat/completions//"])
def test_slashes_at_the_end_are_forgiven(path: str, gateway: Waypost) -> None:
    lines = "\r\n".join(("host: waypost", *gateway.credentials))
    with gateway.connect() as client:
        if "chat" in path:
            client.send(post(path, chat_body("sim/demo", "hi"), *gateway.credentials))
        else:
            client.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n\r\n".encode())
        assert client.answer().status == 200


# OPTIONS and CORS


def preflight(path: str, *lines: str) -> bytes:
    return "\r\n".join((f"OPTIONS {path} HTTP/1.1", "host: waypost", *lines, "", "")).encode()


def test_options_without_an_origin(gateway: Waypost) -> None:
    with gateway.connect() as client:
        client.send(preflight("/v1/chat/completions"))
        answer = client.answer()
        assert (answer.status, answer.header("allow"), answer.body) == (200, "POST, OPTIONS", b"")
        assert answer.header("access-control-allow-origin") is None


def test_preflight_of_an_allowed_origin(gateway: Waypost) -> None:
    asked = ("access-control-request-method: POST", "access-control-request-headers: authorization, x-stainless-os")
    with gateway.connect() as client:
        client.send(preflight("/v1/chat/completions", f"origin: {ORIGIN}", *asked))
        answer = client.answer()
        assert answer.status == 200
        assert answer.header("access-control-allow-origin") == ORIGIN
        assert answer.header("access-control-allow-headers") == "authorization, x-stainless-os"
        assert "POST" in (answer.header("access-control-allow-methods") or "")
        client.send(gateway.chat("sim/demo", "hi", f"origin: {ORIGIN}", stream=True))
        answer = client.answer()
        assert answer.header("access-control-allow-origin") == ORIGIN
        assert "x-request-id" in (answer.header("access-control-expose-headers") or "")


def test_preflight_of_another_origin(gateway: Waypost) -> None:
    with gateway.connect() as client:
        for origin in ("https://evil.example", ORIGIN + ".evil.example", "null", ""):
            client.send(
                preflight("/v1/chat/completions", f"origin: {origin}")
                + gateway.chat("sim/demo", "hi", f"origin: {origin}")
            )
            assert client.answer().header("access-control-allow-origin") is None
            assert client.answer().header("access-control-allow-origin") is None


def test_options_of_nothing(gateway: Waypost, waypost: Waypost) -> None:
    with gateway.connect() as client:
        client.send(preflight("/nothing"))
        assert (client.answer().status) == 404
    with waypost.connect() as client:  # CORS is off there
        client.send(preflight("/v1/chat/completions", f"origin: {ORIGIN}"))
        assert client.answer().header("access-control-allow-origin") is None


# Expect


def test_expectation_is_met_before_the_body(gateway: Waypost) -> None:
    nonce = fresh_nonce()
    head, _, body = gateway.chat("sim/demo", nonce, "expect: 100-continue").partition(b"\r\n\r\n")
    with gateway.connect() as client:
        client.send(head + b"\r\n\r\n")
        assert client.answer().raw == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body + READY)
        assert nonce in client.answer().text
        assert client.answer().status == 200


def test_expectation_of_a_body_that_is_refused(gateway: Waypost) -> None:
    lines = ("expect: 100-continue", "content-encoding: br", "content-length: 10")
    with gateway.connect() as client:
        client.send("\r\n".join(("POST /v1/chat/completions HTTP/1.1", "host: a", *lines, "", "")).encode())
        assert client.answer().status == 415
        assert client.closed()


def test_unknown_expectation(gateway: Waypost) -> None:
    head, _, _ = gateway.chat("sim/demo", "x", "expect: a-miracle").partition(b"\r\n\r\n")
    with gateway.connect() as client:
        client.send(head + b"\r\n\r\n")
        assert client.answer().status == 417
        assert client.closed()


# HTTP/1.0


def test_old_client(gateway: Waypost) -> None:
    with gateway.connect() as client:
        client.send(old(gateway.chat("sim/demo", "old times")))
        answer = client.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert client.closed()


def test_old_client_that_stays(gateway: Waypost) -> None:
    with gateway.connect() as client:
        for _ in range(3):
            client.send(old(gateway.chat("sim/demo", "old times", "connection: keep-alive")))
            answer = client.answer()
            assert (answer.status, answer.header("connection")) == (200, "keep-alive")


@pytest.mark.parametrize("line", [(), ("connection: keep-alive",)])
def test_old_client_gets_a_stream_without_chunks(line: tuple[str, ...], gateway: Waypost) -> None:
    """The end of the connection is the end of the stream."""
    nonce = fresh_nonce()
    with gateway.connect() as client:
        client.send(old(gateway.chat("sim/words-30", nonce, *line, stream=True)))
        answer = client.answer()
        assert (answer.header("transfer-encoding"), answer.header("content-length")) == (None, None)
        assert answer.header("connection") == "close"
        assert nonce in answer.text and answer.events[-1] == b"[DONE]"
        assert client.closed()


# Early answers of the upstream


@pytest.mark.parametrize("size", [10, 500_000])
def test_upstream_that_refuses_before_the_body_is_there(size: int, gateway: Waypost) -> None:
    after = fresh_nonce()
    with gateway.connect() as client:
        client.send(gateway.chat("sim/early-413", "x" * size))
        answer = client.answer()
        assert answer.status in (413, 502), answer
        client.send(gateway.chat("sim/demo", after))
        assert after in client.answer().text

"""What one request may be, one below, at and one above each limit: transcripts with the server as users run it."""

from __future__ import annotations

import gzip
import json
import os
import zlib

import pytest

from tests.harness import Answer, Waypost, chat_body, post
from tests.http.conftest import MAX_BODY
from tests.http.nonces import fresh_nonce, times_seen
from tests.sim.running import Running
from waypost.formats.json_gate import DEPTH, DIGITS, KEYS
from waypost.http.message import Limits

LIMITS = Limits()
AROUND = pytest.mark.parametrize("extra", [-1, 0, 1])


def exchange(waypost: Waypost, data: bytes) -> Answer:
    """One answer; after a refusal that closes, nothing more comes."""
    with waypost.connect() as client:
        client.send(data)
        answer = client.answer()
        if answer.header("connection") == "close":
            assert client.closed()
        return answer


# The head


@AROUND
def test_request_line(extra: int, gateway: Waypost) -> None:
    start = b"GET /healthz?"
    line = start + b"x" * (LIMITS.request_line + extra - len(start) - len(b" HTTP/1.1\r\n")) + b" HTTP/1.1\r\n"
    assert len(line) == LIMITS.request_line + extra
    answer = exchange(gateway, line + b"host: waypost\r\n\r\n")
    if extra <= 0:
        assert answer.status == 200
    else:
        assert (answer.status, answer.code, answer.header("connection")) == (414, "URL_TOO_LONG", "close")


@AROUND
def test_header_block(extra: int, gateway: Waypost) -> None:
    lines = b"host: waypost\r\nx-filler: "
    lines += b"y" * (LIMITS.header_block + extra - len(lines) - 2) + b"\r\n"
    assert len(lines) == LIMITS.header_block + extra
    answer = exchange(gateway, b"GET /healthz HTTP/1.1\r\n" + lines + b"\r\n")
    if extra <= 0:
        assert answer.status == 200
    else:
        assert (answer.status, answer.code, answer.header("connection")) == (431, "HEADERS_TOO_LARGE", "close")


@AROUND
def test_headers(extra: int, gateway: Waypost) -> None:
    others = b"".join(b"x-%d: y\r\n" % n for n in range(LIMITS.headers + extra - 1))
    answer = exchange(gateway, b"GET /healthz HTTP/1.1\r\nhost: waypost\r\n" + others + b"\r\n")
    if extra <= 0:
        assert answer.status == 200
    else:
        assert (answer.status, answer.code, answer.header("connection")) == (431, "HEADERS_TOO_LARGE", "close")


@pytest.mark.parametrize(
    "start",
    [b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\nx", b"GET / HTTP/1.1\r\n"],
    ids=["target", "value", "name", "lines"],
)
def test_head_without_end(start: bytes, gateway: Waypost) -> None:
    """It is refused long before 2 MiB have come, and the sender still reads why."""
    more = b"a: b\r\n" * 1000 if start.endswith(b"\r\n") else b"y" * 6000
    before = gateway.memory()
    with gateway.connect() as client:
        client.send(start)
        for _ in range(350):
            client.send(more)
        answer = client.answer()
    assert answer.status in (414, 431)
    assert gateway.memory() - before < 8 << 20


# The body


def padded(size: int, nonce: str) -> bytes:
    """A good request's JSON of exactly so many bytes."""
    body = chat_body("sim/demo", nonce, user="")
    return body.replace(b'"user": ""', b'"user": "%b"' % (b"z" * (size - len(body))))


@AROUND
def test_body(extra: int, gateway: Waypost, simulator: Running) -> None:
    nonce = fresh_nonce()
    body = padded(MAX_BODY + extra, nonce)
    answer = exchange(gateway, post("/v1/chat/completions", body, *gateway.credentials))
    if extra <= 0:
        assert answer.status == 200 and nonce in answer.text
    else:
        assert (answer.status, answer.code, answer.header("connection")) == (413, "BODY_TOO_LARGE", "close")
    assert times_seen(simulator, nonce) == (extra <= 0)


@AROUND
def test_chunked_body(extra: int, gateway: Waypost, simulator: Running) -> None:
    nonce = fresh_nonce()
    body = padded(MAX_BODY + extra, nonce)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:70_000], body[70_000:]))
    lines = "\r\n".join(("host: waypost", "transfer-encoding: chunked", *gateway.credentials)).encode()
    answer = exchange(gateway, b"POST /v1/chat/completions HTTP/1.1\r\n" + lines + b"\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert answer.status == (200 if extra <= 0 else 413)
    assert times_seen(simulator, nonce) == (extra <= 0)


@pytest.mark.parametrize("expect", ["", "expect: 100-continue"])
def test_length_over_the_limit_is_refused_before_the_body(expect: str, gateway: Waypost) -> None:
    lines = [f"content-length: {MAX_BODY + 1}", "host: waypost", *filter(None, [expect]), *gateway.credentials]
    with gateway.connect() as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n")
        assert client.answer().status == 413  # not a byte of it has been sent


def test_refused_sender_that_goes_on_sending_reads_the_answer(gateway: Waypost) -> None:
    """A reset would throw the 413 away: the server closes its side first and lets the client finish."""
    body = os.urandom(MAX_BODY * 3)
    with gateway.connect() as client:
        client.send(post("/v1/chat/completions", body, *gateway.credentials))
        answer = client.answer()
        assert (answer.status, answer.code) == (413, "BODY_TOO_LARGE")
        assert client.closed()


# Compressed bodies


def compressed(waypost: Waypost, data: bytes, encoding: str = "gzip") -> Answer:
    return exchange(waypost, post("/v1/chat/completions", data, f"content-encoding: {encoding}", *waypost.credentials))


def growing(times: int, extra: int) -> bytes:
    """gzip of a good request that is `times` its own size when inflated, give or take `extra` bytes.

    A file name in gzip's header brings it to its size.
    """
    size = 10_000
    data = gzip.compress(padded(times * size + extra, "grows"), mtime=0)
    return data[:3] + b"\x08" + data[4:10] + b"n" * (size - len(data) - 1) + b"\x00" + data[10:]


@AROUND
def test_gzip_may_grow_twenty_times(extra: int, gateway: Waypost) -> None:
    data = growing(LIMITS.inflation, extra)
    assert len(gzip.decompress(data)) == LIMITS.inflation * len(data) + extra
    answer = compressed(gateway, data)
    if extra <= 0:
        assert answer.status == 200
    else:
        assert (answer.status, answer.code) == (413, "BODY_TOO_LARGE")


@AROUND
def test_gzip_within_the_body_limit(extra: int, gateway: Waypost) -> None:
    nonce = fresh_nonce()
    noise = os.urandom(MAX_BODY // 4).hex()
    body = chat_body("sim/demo", nonce, user="", metadata=noise)
    body = body.replace(b'"user": ""', b'"user": "%b"' % (b"z" * (MAX_BODY + extra - len(body))))
    answer = compressed(gateway, gzip.compress(body))
    assert answer.status == (200 if extra <= 0 else 413)


GOOD = gzip.compress(chat_body("sim/demo", "squeezed"))


ENCODINGS = {
    "good": (GOOD, "gzip", 200, None),
    "in capitals": (GOOD, "GZIP", 200, None),
    "by its old name": (GOOD, "x-gzip", 200, None),
    "identity": (chat_body("sim/demo", "plain"), "identity", 200, None),
    "no name": (chat_body("sim/demo", "plain"), "", 200, None),
    "not gzip": (chat_body("sim/demo", "plain"), "gzip", 400, "INVALID_REQUEST"),
    "zlib": (zlib.compress(chat_body("sim/demo", "x")), "gzip", 400, "INVALID_REQUEST"),
    "a byte short": (GOOD[:-1], "gzip", 400, "INVALID_REQUEST"),
    "without its end": (GOOD[:-8], "gzip", 400, "INVALID_REQUEST"),
    "cut in the middle": (GOOD[:20], "gzip", 400, "INVALID_REQUEST"),
    "cut in its head": (GOOD[:5], "gzip", 400, "INVALID_REQUEST"),
    "wrong size": (GOOD[:-4] + bytes(4), "gzip", 400, "INVALID_REQUEST"),
    "wrong checksum": (GOOD[:-8] + bytes(4) + GOOD[-4:], "gzip", 400, "INVALID_REQUEST"),
    "a byte behind": (GOOD + b"x", "gzip", 400, "INVALID_REQUEST"),
    "NUL behind": (GOOD + bytes(1), "gzip", 400, "INVALID_REQUEST"),
    "two members": (GOOD + GOOD, "gzip", 400, "INVALID_REQUEST"),
    "nothing": (b"", "gzip", 400, "INVALID_REQUEST"),
    **{
        f"encoding {name}": (GOOD, name, 415, "UNSUPPORTED_ENCODING")
        for name in ("br", "deflate", "zstd", "gzip, gzip", "gzip, identity", "gzip;q=1", "chunked")
    },
}


@pytest.mark.parametrize(("data", "encoding", "status", "code"), ENCODINGS.values(), ids=ENCODINGS)
def test_encodings(data: bytes, encoding: str, status: int, code: str | None, gateway: Waypost) -> None:
    answer = compressed(gateway, data, encoding)
    assert (answer.status, answer.code) == (status, code)


def test_gzip_bomb_costs_little(gateway: Waypost) -> None:
    """A body that would inflate to 64 MiB is refused after twenty times what has come."""
    squeezer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(64)) + squeezer.flush()
    before = gateway.memory()
    with gateway.connect() as client:
        client.send(post("/v1/chat/completions", bomb, "content-encoding: gzip", *gateway.credentials))
        assert client.answer().status == 413
    assert gateway.memory() - before < 32 << 20


def test_gzip_in_small_pieces(gateway: Waypost) -> None:
    with gateway.connect() as client:
        data = post("/v1/chat/completions", GOOD, "content-encoding: gzip", *gateway.credentials)
        for position in range(0, len(data), 5):
            client.send(data[position : position + 5])
        assert client.answer().status == 200


# JSON


def ask_json(waypost: Waypost, body: bytes) -> Answer:
    return exchange(waypost, post("/v1/chat/completions", body, *waypost.credentials))


@AROUND
@pytest.mark.parametrize("open_close", ["[]", "{}"])
def test_json_depth(open_close: str, extra: int, gateway: Waypost) -> None:
    levels = DEPTH + extra - 1  # the body itself is one
    inside = "[" * levels + "]" * levels
    nested = inside if open_close == "[]" else '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)
    answer = ask_json(gateway, chat_body("sim/demo", "deep").replace(b"{", b'{"metadata":%b,' % nested.encode(), 1))
    assert (answer.status, answer.code) == ((200, None) if extra <= 0 else (400, "INVALID_REQUEST"))


@AROUND
def test_json_keys(extra: int, gateway: Waypost) -> None:
    own = 4  # model, messages, role, content
    keys = {f"k{n}": 1 for n in range(KEYS + extra - own - 1)}
    answer = ask_json(gateway, chat_body("sim/demo", "wide", metadata=keys))
    assert (answer.status, answer.code) == ((200, None) if extra <= 0 else (400, "INVALID_REQUEST"))


@AROUND
def test_json_digits(extra: int, gateway: Waypost) -> None:
    number = b"1" * (DIGITS + extra)
    answer = ask_json(gateway, chat_body("sim/demo", "long", max_tokens=7).replace(b"7}", number + b"}"))
    if extra > 0:
        assert (answer.status, answer.code, answer.json["error"]["param"]) == (400, "INVALID_REQUEST", "max_tokens")
    else:
        assert answer.code != "INTERNAL_ERROR" and answer.status in (200, 400)
        assert "digits" not in json.dumps(answer.json)

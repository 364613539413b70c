"""Answers that are not what HTTP or their own words say: never a 200 from garbage, never another's answer (F3–F9)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import msgspec
import pytest

from tests.harness import Answer, Waypost, wait_until
from tests.http.nonces import fresh_nonce
from tests.http.upstream import Asked, Upstream, completion, response
from waypost.http.client import HEAD_LIMIT
from waypost.worker.relay import BODY_LIMIT, EVENT_LIMIT

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"content-type: application/json\r\n"


class Case(msgspec.Struct, frozen=True):
    """`answer` makes the upstream's bytes from the JSON of a sound answer; then it closes unless `keep`."""

    name: str
    answer: Callable[[bytes], bytes]
    good: bool = False
    keep: bool = True


def chunks(body: bytes, *, line: bytes = b"%x\r\n", last: bytes = b"0\r\n\r\n") -> bytes:
    return line % len(body) + body + b"\r\n" + last


def head(*lines: bytes, start: bytes = OK) -> bytes:
    return start + JSON + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


CHUNKED = b"transfer-encoding: chunked"


def length(body: bytes, extra: int = 0) -> bytes:
    return b"content-length: %d" % (len(body) + extra)


CASES = [
    # Sound answers in unusual clothes
    Case("length", lambda b: head(length(b)) + b, True),
    Case("chunks", lambda b: head(CHUNKED) + chunks(b), True),
    Case("chunk extensions", lambda b: head(CHUNKED) + chunks(b, line=b"%x;a=b\r\n"), True),
    Case("sizes in capitals, zeros first", lambda b: head(CHUNKED) + chunks(b, line=b"000%X\r\n"), True),
    Case("trailers", lambda b: head(CHUNKED) + chunks(b, last=b"0\r\nx-sum: 1\r\n\r\n"), True),
    Case("until the end", lambda b: head() + b, True, keep=False),
    Case("until the end, closing", lambda b: head(b"connection: close") + b, True, keep=False),
    Case("HTTP/1.0 until the end", lambda b: head(start=b"HTTP/1.0 200 OK\r\n") + b, True, keep=False),
    Case("HTTP/1.0 with a length", lambda b: head(length(b), start=b"HTTP/1.0 200 OK\r\n") + b, True, keep=False),
    Case("100 first", lambda b: b"HTTP/1.1 100 Continue\r\n\r\n" + head(length(b)) + b, True),
    Case("103 with a link first", lambda b: b"HTTP/1.1 103 Early\r\nlink: </x>\r\n\r\n" + head(length(b)) + b, True),
    Case("ten times 102 first", lambda b: b"HTTP/1.1 102 Processing\r\n\r\n" * 10 + head(length(b)) + b, True),
    Case("no reason", lambda b: head(length(b), start=b"HTTP/1.1 200\r\n") + b, True),
    Case("names in capitals", lambda b: (head(length(b)) + b).replace(b"content-length", b"CONTENT-LENGTH"), True),
    Case("identity encoding", lambda b: head(length(b), b"content-encoding: identity") + b, True),
    Case("kept for no time", lambda b: head(length(b), b"keep-alive: timeout=0, max=1") + b, True),
    Case("chunked, said twice", lambda b: head(CHUNKED, CHUNKED) + chunks(b), True),
    Case("no content type", lambda b: OK + length(b) + b"\r\n\r\n" + b, True),
    # Lengths that lie
    Case("length too short", lambda b: head(length(b, -10)) + b),
    Case("length too short, closed", lambda b: head(length(b, -10)) + b, keep=False),
    Case("length too long", lambda b: head(length(b, 10)) + b, keep=False),
    Case("length negative", lambda b: head(b"content-length: -1") + b),
    Case("length twice", lambda b: head(length(b), length(b, -10)) + b),
    Case("length as a list", lambda b: head(b"content-length: %d, %d" % (len(b), len(b))) + b),
    Case("length in hexadecimal", lambda b: head(b"content-length: 0x%x" % len(b)) + b),
    Case("length over 64 bits", lambda b: head(b"content-length: %d" % (2**64 + len(b))) + b),
    Case("length 0", lambda b: head(b"content-length: 0")),
    Case("length and chunks", lambda b: head(length(b), CHUNKED) + chunks(b)),
    # Chunks that lie
    Case("chunk size zz", lambda b: head(CHUNKED) + b"zz\r\n" + b, keep=False),
    Case("chunk size negative", lambda b: head(CHUNKED) + chunks(b, line=b"-%x\r\n")),
    Case("chunk size over 64 bits", lambda b: head(CHUNKED) + chunks(b, line=b"1" + b"0" * 16 + b"%x\r\n")),
    Case("chunk too short", lambda b: head(CHUNKED) + b"5\r\n" + b + b"\r\n0\r\n\r\n"),
    Case("no last chunk", lambda b: head(CHUNKED) + chunks(b, last=b""), keep=False),
    Case("cut in the last chunk", lambda b: head(CHUNKED) + chunks(b, last=b"0\r\n"), keep=False),
    Case("cut in a chunk", lambda b: head(CHUNKED) + b"%x\r\n" % len(b) + b[:-10], keep=False),
    Case("coding not asked for", lambda b: head(b"content-encoding: gzip", length(b)) + b),
    # Not HTTP
    Case("nothing", lambda b: b"", keep=False),
    Case("half a status line", lambda b: b"HTTP/1.1 20", keep=False),
    Case("half a head", lambda b: OK + JSON, keep=False),
    Case("a banner", lambda b: b"220 mail.example ESMTP\r\n"),
    Case("JSON without HTTP", lambda b: b),
    Case("HTTP/2.0", lambda b: head(length(b), start=b"HTTP/2.0 200 OK\r\n") + b),
    Case("an HTTP/2 frame", lambda b: b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18),
    Case("status of letters", lambda b: head(length(b), start=b"HTTP/1.1 abc OK\r\n") + b),
    Case("status of two digits", lambda b: head(length(b), start=b"HTTP/1.1 20 OK\r\n") + b),
    Case("status of four digits", lambda b: head(length(b), start=b"HTTP/1.1 2000 OK\r\n") + b),
    Case("NUL in a header", lambda b: head(length(b), b"x: a\x00b") + b),
    Case("a folded header", lambda b: head(length(b), b"x: a\r\n b") + b),
    Case("space before a colon", lambda b: head(b"content-length : %d" % len(b)) + b),
    Case("a bare CR in a header", lambda b: head(length(b), b"x: a\rb") + b),
    Case("101", lambda b: b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" + b),
    Case("100 for ever", lambda b: b"HTTP/1.1 100 Continue\r\n\r\n" * 3, keep=False),
    Case("a second answer", lambda b: 2 * (head(length(b)) + b)),
    Case("bytes behind the answer", lambda b: head(length(b)) + b + b"\r\n\r\nxyz"),
    # HTTP, but no answer
    *(
        Case(f"status {status}", lambda b, status=status: head(length(b), start=b"HTTP/1.1 %d X\r\n" % status) + b)
        for status in (201, 202, 206, 299, 300, 301, 302, 307, 401, 403, 404, 500, 502, 503, 529, 599, 999)
    ),
    Case("status 204", lambda b: b"HTTP/1.1 204 No Content\r\n\r\n"),
    Case("status 304", lambda b: b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    Case("a web page", lambda b: response(b"<html><body>Welcome</body></html>")),
    Case("half the JSON", lambda b: response(b[: len(b) // 2])),
    Case("two JSON objects", lambda b: response(b + b)),
    Case("a JSON list", lambda b: response(b"[" + b + b"]")),
    Case("a JSON string", lambda b: response(b'"hello"')),
    Case("no choices", lambda b: response(b"{}")),
    Case("an empty list of choices", lambda b: response(b'{"choices":[]}')),
    Case("choices null", lambda b: response(b'{"choices":null}')),
    Case("an error under 200", lambda b: response(b'{"error":{"message":"no","type":"x"}}')),
    Case("JSON too deep", lambda b: response(b'{"choices":' + b"[" * 100_000)),
    Case("bytes that are no UTF-8", lambda b: response(b.replace(b'"content": "', b'"content": "\xff\xfe'))),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_answer(case: Case, gateway: Waypost, scripted: Upstream) -> None:
    def script(sock: socket.socket, asked: Asked) -> bool:
        sock.sendall(case.answer(completion(asked.question)))
        return case.keep

    scripted.scripts["odd"] = script
    nonce, after = fresh_nonce(), fresh_nonce("next")
    with gateway.connect() as client:
        client.send(gateway.chat("raw/odd", nonce))
        answer = client.answer()
        client.send(gateway.chat("raw/echo", after))  # on the same connections, here and upstream
        following = client.answer()
    if case.good:
        assert (answer.status, answer.text) == (200, nonce)
    else:
        assert (answer.status, answer.code) == (502, "PROVIDER_ERROR"), answer
        assert nonce.encode() not in answer.body
    assert (following.status, following.text) == (200, after)
    tries = 2 if case.name == "nothing" else 1  # on a connection used before, silence may be a race: once more
    assert 1 <= sum(asked.question == nonce for asked in scripted.asked) <= tries
    assert sum(asked.question == after for asked in scripted.asked) == 1


def test_bytes_between_two_answers_close_the_connection(gateway: Waypost, scripted: Upstream) -> None:
    """A late second response lies in the idle connection: nobody may get it as theirs."""
    sockets: list[socket.socket] = []

    def script(sock: socket.socket, asked: Asked) -> bool:
        sockets.append(sock)
        sock.sendall(response(completion(asked.question)))
        return True

    scripted.scripts["late"] = script
    assert gateway.ask("raw/late", "first").status == 200
    sockets[0].sendall(response(completion("stale")))
    for _ in range(5):
        nonce = fresh_nonce()
        assert gateway.ask("raw/echo", nonce).text == nonce


# Sizes


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_upstream_body_limit(extra: int, gateway: Waypost, scripted: Upstream) -> None:
    plain = completion("")
    text = "x" * (BODY_LIMIT + extra - len(plain))
    scripted.scripts["big"] = lambda sock, asked: not sock.sendall(response(completion(text)))
    answer = gateway.ask("raw/big")
    if extra <= 0:
        assert answer.status == 200
        assert len(answer.text) == len(text) and (answer.text == text) is True  # no diff of megabytes
    else:
        assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_upstream_head_limit(extra: int, gateway: Waypost, scripted: Upstream) -> None:
    body = completion("fits")
    counted = response(body).index(b"\r\n\r\n") + 2  # up to and with the last header's line end
    filler = b"x-filler: " + b"y" * (HEAD_LIMIT + extra - counted - len("x-filler: \r\n"))
    scripted.scripts["head"] = lambda sock, asked: not sock.sendall(response(body, filler))
    answer = gateway.ask("raw/head")
    assert answer.status == (200 if extra <= 0 else 502)


def test_upstream_head_that_never_ends(gateway: Waypost, scripted: Upstream) -> None:
    """One header of which more and more comes is bounded too."""
    sent = 0

    def script(sock: socket.socket, asked: Asked) -> bool:
        nonlocal sent
        sock.sendall(OK + b"x: ")
        for _ in range(2000):
            sock.sendall(b"y" * 16384)
            sent += 16384
        return False

    scripted.scripts["endless"] = script
    assert gateway.ask("raw/endless").status == 502
    assert sent < 16 << 20


EVENTS = OK + b"content-type: text/event-stream\r\nconnection: close\r\n\r\n"


def event(text: str, finish: str = "null", size: int = 0) -> bytes:
    """A chunk's event without its empty line, padded to `size` bytes."""
    start = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"%b' % text.encode()
    end = b'"},"finish_reason":%b}]}' % finish.encode()
    return start + b"z" * (size - len(start) - len(end)) + end


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_event_limit(extra: int, gateway: Waypost, scripted: Upstream) -> None:
    large = event("", size=EVENT_LIMIT + extra)

    def script(sock: socket.socket, asked: Asked) -> bool:
        sock.sendall(EVENTS + event("first") + b"\n\n" + large)
        if extra > 0:
            assert sock.recv(1) == b""  # refused before the event's end has come
            return False
        sock.sendall(b"\n\n" + event("", '"stop"') + b"\n\ndata: [DONE]\n\n")
        return False

    scripted.scripts["event"] = script
    answer = gateway.ask("raw/event", stream=True)
    assert answer.status == 200
    assert answer.events[-1] == b"[DONE]"
    if extra <= 0:
        assert len(answer.text) == len("first") + large.count(b"z")
    else:
        assert answer.text == "first"
        assert answer.chunks[-1]["error"]["code"] == "PROVIDER_ERROR"


# The simulator's faults, as a whole

WORKS_ANYWAY = {
    # Faults that a sound client need not notice: (non-stream, stream); None: it cannot notice what it was not told
    "close-reused": (True, True),
    "dribble-20": (False, False),  # `brisk` gives up after 3 s
    "sse-error-first": (False, False),
    "sse-cr": (True, True),
    "sse-bom": (True, True),
    "sse-nospace": (True, True),
    "sse-multiline": (True, True),
    "sse-unknown-event": (True, True),
    "sse-nul": (True, True),
    "sse-long-line": (True, True),
    "sse-no-colon": (True, None),
    "sse-bad-utf8": (True, False),
    "missing-last-chunk": (False, True),  # [DONE] has been seen
    "length-short": (False, False),
    "length-long": (False, True),
    "garbage-after": (False, True),
    "no-done": (True, True),
}
FAULTS = (
    "hang", "reset-before-headers", "close-before-headers", "close-reused", "reset-after-headers", "reset-after-3",
    "cut-after-3", "cut-utf8", "eof-after-3", "stall-after-3", "dribble-20", "slow-headers-20", "huge-headers",
    "sse-no-colon", "sse-cr", "sse-bom", "sse-nospace", "sse-multiline", "sse-unknown-event", "sse-nul", "sse-bad-utf8",
    "sse-long-line", "sse-error-first", "sse-error-after-3", "length-short", "length-long", "length-negative",
    "length-twice", "bad-chunk-size", "missing-last-chunk", "garbage-after", "gzip-bomb", "html-200", "not-json",
    "truncated-json", "no-done",
)  # fmt: skip


def asked_again(gateway: Waypost, model: str, asked: str) -> Answer:
    """An answer of an upstream that may still be busy with what it was asked before: its timeouts are short."""
    answers: list[Answer] = []

    def is_in_time() -> bool:
        answers.append(gateway.ask(model, asked))
        return answers[-1].status != 504

    wait_until(is_in_time, f"{model} to answer in time")
    return answers[-1]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault: str, stream: bool, gateway: Waypost) -> None:
    nonce, after = fresh_nonce(), fresh_nonce("next")
    expected = gateway.ask("sim/unicode" if fault == "cut-utf8" else "sim/demo", nonce).text
    started = time.monotonic()
    answer = gateway.ask(f"brisk/{fault}", nonce, stream=stream)
    assert time.monotonic() - started < 20
    works = WORKS_ANYWAY.get(fault, (False, False))[stream]
    if works is not False:
        assert is_whole(answer), answer.raw[-500:]
        assert answer.text == expected or works is None
    else:
        assert is_failure(answer), answer.raw[-500:]
    for _ in range(3):
        assert after in asked_again(gateway, "brisk/demo", after).text


def is_whole(answer: Answer) -> bool:
    if answer.status != 200:
        return False
    if answer.header("content-type") == "application/json":
        return True
    return answer.events[-1] == b"[DONE]" and not any("error" in chunk for chunk in answer.chunks)


def is_failure(answer: Answer) -> bool:
    """A status of the table, or a stream that says so in its last two events."""
    if answer.status != 200:
        return answer.status in (502, 504) and answer.code in ("PROVIDER_ERROR", "PROVIDER_TIMEOUT")
    *_, error, done = answer.events
    return b'"error"' in error and done == b"[DONE]"

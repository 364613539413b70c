from __future__ import annotations

import hashlib
import json
import pathlib

import msgspec

from tests.sim.running import Running, read_to_end, request
from waypost.sim.journal import BODY_KEPT, Closed, Journal, Opened, fingerprint, kept_body, read_journal


def opened(n: int) -> Opened:
    return Opened(n, 1, 0.5, "POST", "/p", "m", False, ["host"], None, "", {"a": [1]}, None, None)


def closed(n: int, end: str, sent: int) -> Closed:
    return Closed(n, end, 200, sent, 1, {"total_tokens": 3}, "", 0, "stop")


def test_lines_put_together(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "journal"
    book = Journal(path)
    book.append(opened(1), opened(2))
    book.append(closed(2, "complete", 50))
    book.append(closed(2, "client-gone", 20))
    book.close()
    again = Journal(path)
    again.append(opened(1))
    again.append(closed(1, "complete", 9))
    again.close()
    with path.open("ab") as torn:
        torn.write(b'{"n":2,"meth')
    first, second, third = read_journal(path)
    assert (first.n, first.end, first.body) == (1, None, {"a": [1]})
    assert (second.n, second.end, second.sent_bytes, second.usage) == (2, "client-gone", 20, {"total_tokens": 3})
    assert (third.n, third.end, third.sent_bytes) == (1, "complete", 9)


def test_bodies_kept() -> None:
    assert kept_body(b'{"a":\n1}', True) == msgspec.Raw(b'{"a": 1}')
    assert kept_body(b"{oh\xff", False) == "{oh�"
    assert kept_body(b"", True) is None
    assert kept_body(b"x" * (BODY_KEPT + 1), False) is None


def test_what_is_journaled_of_a_request(sim: Running) -> None:
    mark = "nonce:journal-1"
    body = request("sim/demo", asked=f"Hello {mark}").partition(b"\r\n\r\n")[2].replace(b", ", b",\n")
    with sim.connect() as client:
        client.sendall(
            b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer sk-secret\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        answered = read_to_end(client)
    exchange = sim.exchange(mark)
    assert (exchange.method, exchange.path, exchange.model) == ("POST", "/v1/chat/completions?a=b", "sim/demo")
    assert exchange.headers == ["host", "authorization", "content-length"]
    assert exchange.authorization == fingerprint(b"sk-secret") == hashlib.sha256(b"sk-secret").hexdigest()[:16]
    assert exchange.body == json.loads(body)
    assert exchange.body_sha256 == hashlib.sha256(body).hexdigest()
    answer = json.loads(answered.body)
    text = answer["choices"][0]["message"]["content"]
    assert (exchange.end, exchange.status, exchange.finish_reason) == ("complete", 200, "stop")
    assert exchange.sent_bytes == len(answered.data)
    assert exchange.usage == answer["usage"]
    assert (exchange.text_sha256, exchange.text_characters) == (hashlib.sha256(text.encode()).hexdigest(), len(text))
    assert b"sk-secret" not in sim.journal.read_bytes()


def test_the_line_is_there_before_the_answer_is(sim: Running) -> None:
    """Each answer's last byte finds its closing line written, on one connection and at once."""
    with sim.connect() as client:
        for i in range(50):
            client.sendall(request("demo", stream=bool(i % 2), asked=f"nonce:line-{i}"))
            read_to_end(client)
            assert sim.exchange(f"nonce:line-{i}").end == "complete"


def test_requests_that_are_no_questions(sim: Running) -> None:
    with sim.connect() as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: s\r\ncontent-length: 9\r\n\r\n{journal\xff")
        read_to_end(client)
    exchange = next(e for e in read_journal(sim.journal) if e.body == "{journal�")
    assert (exchange.model, exchange.status, exchange.end, exchange.usage) == (None, 400, "complete", None)

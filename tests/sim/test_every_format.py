"""What holds in every format: the journal, the faults, keys, and answers that are the same but for their spelling."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from tests.sim.running import Answered, Running, read_to_end, wait_until
from tests.sim.test_recordings import messages
from waypost.sim.faults import FAULTS
from waypost.sim.journal import read_journal
from waypost.sim.names import ROWS, read_name

FRANCE = "What is the capital of France?"
_marks = (f"nonce:format-{n}" for n in itertools.count())
SIGNED = (
    "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/bedrock/aws4_request, "
    "SignedHeaders=content-type;host;x-amz-date, Signature=" + "0" * 64
)


class Spoken(msgspec.Struct, frozen=True):
    """How to ask in a format: the path (with room for a model and `stream`'s two ways), headers, and the body."""

    whole: str
    stream: str
    headers: dict[str, str]
    in_path: bool = False


FORMATS = {
    "openai": Spoken("/v1/chat/completions", "/v1/chat/completions", {}),
    "anthropic": Spoken("/v1/messages", "/v1/messages", {"x-api-key": "k", "anthropic-version": "2023-06-01"}),
    "gemini": Spoken(
        "/v1beta/models/{}:generateContent",
        "/v1beta/models/{}:streamGenerateContent?alt=sse",
        {"x-goog-api-key": "k"},
        True,
    ),
    "bedrock": Spoken(
        "/model/{}/converse",
        "/model/{}/converse-stream",
        {"authorization": SIGNED, "x-amz-date": "20260101T000000Z"},
        True,
    ),
    "cohere": Spoken("/v2/chat", "/v2/chat", {"authorization": "Bearer k"}),
}


def body(name: str, model: str, asked: str, stream: bool) -> dict[str, Any]:
    if name == "gemini":
        return {"contents": [{"role": "user", "parts": [{"text": asked}]}]}
    if name == "bedrock":
        return {"messages": [{"role": "user", "content": [{"text": asked}]}]}
    made: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": asked}]}
    made |= {"stream": True} if stream else {}
    return made | ({"max_tokens": 4000} if name == "anthropic" else {})


def request(
    name: str, model: str, asked: str = FRANCE, *, stream: bool = False, prefix: str = "", **headers: str | None
) -> bytes:
    spoken = FORMATS[name]
    path = prefix + (spoken.stream if stream else spoken.whole).format(quote(model, safe=""))
    data = json.dumps(body(name, model, asked, stream)).encode()
    given: dict[str, str | None] = {**spoken.headers, "host": "s", "content-length": str(len(data)), **headers}
    lines = [f"{key}: {value}" for key, value in given.items() if value is not None]
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode() + data


def ask(sim: Running, name: str, model: str = "demo", asked: str = FRANCE, **fields: Any) -> Answered:
    with sim.connect() as client:
        client.sendall(request(name, model, asked, **fields))
        return read_to_end(client)


def texts(name: str, answered: Answered, stream: bool) -> list[str]:
    """The pieces of text in an answer."""
    pick = {
        "openai": lambda b: [c.get("message", c.get("delta", {})).get("content") for c in b["choices"]],
        "anthropic": lambda b: [c.get("text") for c in b.get("content", [b.get("delta", {})])],
        "gemini": lambda b: [p.get("text") for c in b["candidates"] for p in c["content"]["parts"]],
        "bedrock": lambda b: (
            [c["text"] for c in b["output"]["message"]["content"]]
            if "output" in b
            else [b.get("delta", {}).get("text")]
        ),
        "cohere": lambda b: _cohere_texts(b),
    }[name]
    if not stream:
        bodies = [json.loads(answered.payload)]
    elif name == "bedrock":
        bodies = list(messages(answered.payload))
    else:
        lines = answered.payload.replace(b"\r\n", b"\n").split(b"\n")
        bodies = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    return [text for body in bodies for text in pick(body) if text]


def _cohere_texts(made: Any) -> list[str]:
    content = made.get("message", made.get("delta", {}).get("message", {})).get("content") or []
    return [part.get("text") for part in (content if isinstance(content, list) else [content])]


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_question_gets_the_same_answer_in_every_format(sim: Running, stream: bool) -> None:
    for asked in (FRANCE, "Tell me about Grüße and 日本語", "Write a diff"):
        said = {"".join(texts(name, ask(sim, name, asked=asked, stream=stream), stream)) for name in FORMATS}
        assert len(said) == 1


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stream", [False, True])
def test_the_journal_knows_what_was_said(sim: Running, name: str, stream: bool) -> None:
    mark = next(_marks)
    answered = ask(sim, name, "demo+unicode", f"{FRANCE} {mark}", stream=stream)
    said = "".join(texts(name, answered, stream))
    exchange = sim.ended(mark, "complete")
    assert mark in said and "日本語" in said
    assert exchange.text_sha256 == hashlib.sha256(said.encode()).hexdigest()
    assert (exchange.model, exchange.stream, exchange.status) == ("demo+unicode", stream, 200)
    assert exchange.finish_reason == "stop"
    assert exchange.sent_bytes == len(answered.data)
    if not stream:
        assert msgspec.json.encode(exchange.usage) in answered.payload
    else:
        assert (exchange.usage is None) == (name == "openai"), "OpenAI has to be asked for it"


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "openai"])
@pytest.mark.parametrize("stream", [False, True])
def test_no_row_harms_any_format(sim: Running, name: str, stream: bool) -> None:
    """Every name once; what makes no sense in the format is refused with 404 and says where it does."""
    for row in ROWS:
        mark = f"nonce:{name}-{stream}-{row.example}"
        with sim.connect() as client:
            client.sendall(request(name, row.example, f"Hello {mark}", stream=stream))
            if row.pattern == "hang":
                wait_until(lambda mark=mark: any(e.nonce == mark for e in read_journal(sim.journal)), "it")
                continue
            with contextlib.suppress(ConnectionResetError):
                client.recv(100)
    seen = {e.nonce: e for e in read_journal(sim.journal)}
    for fault in FAULTS:
        if fault.pattern in ("close-reused", "status-NNN-P", "early-413"):
            continue
        exchange = seen[f"nonce:{name}-{stream}-{fault.example}"]
        fits = not fault.formats or name in fault.formats
        assert exchange.fault == (fault.example if fits else None)
    said = "".join(texts(name, ask(sim, name, stream=stream), stream))
    assert said.startswith("The capital of France is Paris.")


@pytest.mark.parametrize("name", FORMATS)
def test_names_that_make_no_sense_in_a_format(sim: Running, name: str) -> None:
    for row in ROWS:
        if row.formats and name not in row.formats:
            answered = ask(sim, name, row.example, stream=True)
            assert answered.status_line == b"HTTP/1.1 404 Not Found"
            assert b"makes no sense in this format" in answered.payload
    assert read_name("azure-first+ttft-1").limited == (("azure-first", ("openai",)),)


@pytest.mark.parametrize("name", FORMATS)
def test_faults_in_the_path(sim: Running, name: str) -> None:
    answered = ask(sim, name, prefix="/status-503")
    assert answered.status_line == b"HTTP/1.1 503 Service Unavailable"


@pytest.mark.parametrize("name", FORMATS)
def test_early_413_needs_no_body(sim: Running, name: str) -> None:
    with sim.connect() as client:
        path = "/early-413" + FORMATS[name].whole.format("demo")
        client.sendall(f"POST {path} HTTP/1.1\r\nhost: s\r\ncontent-length: 99999999\r\n\r\n".encode())
        answered = read_to_end(client)
    assert answered.status_line.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answered.body)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"null", b'"x"', b'{"messages":3,"contents":3}', b"\xff\xfe"])
def test_bodies_that_are_no_requests(sim: Running, name: str, junk: bytes) -> None:
    spoken = FORMATS[name]
    head = [f"POST {spoken.whole.format('demo')} HTTP/1.1", "host: s", f"content-length: {len(junk)}"]
    head += [f"{key}: {value}" for key, value in spoken.headers.items()]
    with sim.connect() as client:
        client.sendall("\r\n".join([*head, "", ""]).encode() + junk)
        answered = read_to_end(client)
    assert answered.status_line == b"HTTP/1.1 400 Bad Request"
    assert json.loads(answered.payload)


@pytest.mark.parametrize(
    ("name", "headers", "status", "says"),
    [
        ("anthropic", {"x-api-key": None}, 401, "authentication_error"),
        ("anthropic", {"anthropic-version": None}, 400, "anthropic-version: header is required"),
        ("gemini", {"x-goog-api-key": None}, 403, "PERMISSION_DENIED"),
        ("bedrock", {"authorization": None}, 403, "Missing Authentication Token"),
        ("bedrock", {"authorization": "AWS4-HMAC-SHA256 nothing"}, 403, "requires 'Credential'"),
        ("bedrock", {"authorization": SIGNED.replace("/bedrock/", "/s3/")}, 403, "requires 'Credential'"),
        ("bedrock", {"x-amz-date": None}, 403, "X-Amz-Date"),
        ("cohere", {"authorization": None}, 401, "no api key supplied"),
    ],
)
def test_keys_are_wanted(sim: Running, name: str, headers: dict[str, Any], status: int, says: str) -> None:
    answered = ask(sim, name, **headers)
    assert answered.status_line.split()[1] == str(status).encode()
    assert says in answered.payload.decode()


def test_other_ways_to_bring_a_key(sim: Running) -> None:
    assert b" 200 " in ask(sim, "anthropic", **{"x-api-key": None, "authorization": "Bearer k"}).status_line
    assert b" 200 " in ask(sim, "bedrock", authorization="Bearer k", **{"x-amz-date": None}).status_line
    with sim.connect() as client:
        asked = request("gemini", "demo", **{"x-goog-api-key": None})
        client.sendall(asked.replace(b":generateContent ", b":generateContent?key=k "))
        assert b" 200 " in read_to_end(client).status_line


def test_half_an_event_is_half_a_message(sim: Running) -> None:
    """Bedrock: a cut falls inside a binary message, truncated JSON stands in one whose checksum is right."""
    cut = ask(sim, "bedrock", "cut-after-2", stream=True)
    assert cut.end == "eof"
    with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
        list(messages(ask(sim, "bedrock", "truncated-json", stream=True).payload))
    whole = ask(sim, "bedrock", "eof-after-2", stream=True)
    assert [made["type"] for made in messages(whole.payload)] == ["messageStart", "contentBlockDelta"]
    broken = ask(sim, "bedrock", "cut-utf8+unicode", stream=True).data
    with pytest.raises(UnicodeDecodeError):
        broken[broken.rindex(b'"text":"') :].decode()


def test_lines_end_as_the_vendor_ends_them(sim: Running) -> None:
    assert b"\r\n\r\n" in ask(sim, "gemini", stream=True).payload
    assert b"\r" not in ask(sim, "anthropic", stream=True).payload
    assert ask(sim, "gemini", "crlf", stream=True).payload.count(b"\r\r") == 0
    assert b"\n" not in ask(sim, "gemini", "sse-cr", stream=True).payload

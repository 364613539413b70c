"""Where the network cuts the bytes makes no difference: at every position, in single bytes, here and upstream."""

from __future__ import annotations

import random

import pytest

from tests.harness import Client, Waypost, chat_body
from tests.http.nonces import fresh_nonce, times_seen
from tests.http.upstream import Upstream, plays
from tests.sim.running import Running

Pair = tuple[bytes, list[str]]


def plain(waypost: Waypost) -> Pair:
    nonce = fresh_nonce()
    return waypost.chat("sim/demo", nonce), [nonce]


def chunked(waypost: Waypost) -> Pair:
    nonce = fresh_nonce()
    body = chat_body("sim/demo", nonce)
    lines = "\r\n".join(("host: waypost", "transfer-encoding: chunked", *waypost.credentials)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + lines + b"\r\n\r\n"
    chunks = b"".join(b"%x;n=1\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:30], body[30:]))
    return head + chunks + b"0\r\nx-sum: 1\r\n\r\n", [nonce]


def pipelined(waypost: Waypost) -> Pair:
    (first, one), (second, two) = plain(waypost), plain(waypost)
    return first + second, one + two


def chunked_pair(waypost: Waypost) -> Pair:
    (first, one), (second, two) = chunked(waypost), chunked(waypost)
    return first + second, one + two


REQUESTS = pytest.mark.parametrize("make", [plain, chunked, pipelined, chunked_pair])


def send_pieces(client: Client, pieces: list[bytes]) -> None:
    """Each piece in a packet of its own (the sender waits for no answer, TCP_NODELAY is on)."""
    for piece in pieces:
        client.send(piece)


@REQUESTS
def test_request_cut_once_at_every_position(make, gateway: Waypost, simulator: Running) -> None:
    """One connection for all of them: any byte too many or too few would show in the next answer."""
    size = len(make(gateway)[0])
    with gateway.connect() as client:
        for position in range(1, size):
            data, nonces = make(gateway)
            send_pieces(client, [data[:position], data[position:]])
            for nonce in nonces:
                answer = client.answer()
                assert answer.status == 200 and nonce in answer.text, position
        assert not client.unread


@REQUESTS
def test_request_in_single_bytes(make, gateway: Waypost, simulator: Running) -> None:
    data, nonces = make(gateway)
    with gateway.connect() as client:
        send_pieces(client, [data[n : n + 1] for n in range(len(data))])
        for nonce in nonces:
            assert nonce in client.answer().text
    assert [times_seen(simulator, nonce) for nonce in nonces] == [1] * len(nonces)


@REQUESTS
def test_request_cut_at_random(make, gateway: Waypost) -> None:
    dice = random.Random(5)
    with gateway.connect() as client:
        for _ in range(100):
            data, nonces = make(gateway)
            cuts = sorted(dice.sample(range(1, len(data)), dice.randint(2, 12)))
            send_pieces(client, [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)])
            for nonce in nonces:
                assert nonce in client.answer().text


SHAPES = ("demo", "unicode", "crlf", "spaced", "comments", "crlf+unicode", "crlf+spaced", "unicode+spaced", "sse-cr")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_upstream_cut_in_pieces(shape: str, size: int, gateway: Waypost) -> None:
    """Each stream's text is its non-stream text, byte for byte, however it is cut (I10)."""
    nonce = fresh_nonce()
    whole = gateway.ask(f"sim/{shape}+words-12", nonce)
    split = gateway.ask(f"sim/{shape}+words-12+split-{size}", nonce)
    stream = gateway.ask(
        f"sim/{shape}+words-12+split-{size}", nonce, stream=True, stream_options={"include_usage": True}
    )
    assert whole.text.encode() == split.text.encode() == stream.text.encode()
    assert stream.events[-1] == b"[DONE]"
    assert whole.json["usage"] == split.json["usage"] == stream.chunks[-1]["usage"]
    assert {chunk["id"] for chunk in stream.chunks} == {stream.header("x-request-id")}


@pytest.mark.parametrize("shape", ["demo", "crlf+unicode"])
def test_upstream_stream_cut_once_at_every_position(
    shape: str, gateway: Waypost, scripted: Upstream, simulator: Running
) -> None:
    """A stream of the simulator's, replayed with a cut at every position."""
    data = simulator.ask(f"{shape}+words-2", stream=True).data
    text = gateway.ask(f"sim/{shape}+words-2", "Hello there").text
    with gateway.connect() as client:
        for position in range(1, len(data)):
            scripted.scripts["cut"] = plays(data[:position], data[position:])
            client.send(gateway.chat("raw/cut", stream=True))
            answer = client.answer()
            assert (answer.status, answer.text) == (200, text), position
            assert answer.events[-1] == b"[DONE]"

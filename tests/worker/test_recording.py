"""What an answer consisted of: taken down from what the caller was sent, and said again under another name."""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec
import pytest

from tests.worker.test_relay import STREAMS
from tests.worker.transcripts import USAGE, chunk, finished, render, render_usage, said, stamp, told
from waypost.http.exchange import parse_chunks
from waypost.worker.recording import MARKS, VERSION, BadRecording, Recording, fill, pack, seal, unpack
from waypost.worker.relay import DONE, Stamp, StreamRelay, WholeRelay, render_error

OURS = b"chatcmpl_" + b"0" * 25 + b"A"
OTHER = b"chatcmpl_" + b"0" * 25 + b"B"
AT = 1_800_000_000_123


def own_stamp(wants_cost: bool = False, metadata: bytes | None = None) -> Stamp:
    told_how = None if metadata is None else lambda: msgspec.Raw(metadata)
    return Stamp(
        msgspec.Raw(b'"%b"' % OURS), msgspec.Raw(b'"m"'), msgspec.Raw(b'"sim"'), lambda: 42, render_usage, wants_cost,
        told_how,
    )  # fmt: skip


def streamed(data: bytes, size: int, include_usage: bool = False, **options: Any) -> list[bytes]:
    """The pieces that a caller is sent where an upstream's bytes come `size` at a time."""
    relay = StreamRelay(own_stamp(**options), include_usage)
    pieces = [relay.feed(data[at : at + size]) for at in range(0, len(data), size)]
    if not relay.done:
        pieces.append(relay.end())
    return [piece for piece in pieces if piece]


def sealed(pieces: list[bytes], stream: bool = True) -> Recording:
    recording = seal(pieces, stream, OURS, AT)
    assert recording is not None
    return recording


def again(recording: Recording, request_id: bytes = OTHER, created: int = 1_900_000_000, ms: int = 3) -> list[bytes]:
    """Its pieces, said by another request or the same."""
    framed = parse_chunks(fill(recording.framed, request_id, created, ms))
    assert framed == [] or recording.stream
    return [*framed, fill(recording.last, request_id, created, ms)]


def chunks(data: bytes) -> list[Any]:
    events = [event.partition(b"data:")[2].strip() for event in data.split(b"\n\n")]
    return [json.loads(event) for event in events if event not in (b"", b"[DONE]")]


@pytest.mark.parametrize("size", [7, 100, 250, 1 << 20])
@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("name", [name for name in STREAMS if name != "[DONE] without a finish"])
def test_a_stream_said_again_as_it_was_is_byte_for_byte_what_it_was(name: str, include_usage: bool, size: int) -> None:
    pieces = streamed(STREAMS[name], size, include_usage)
    recording = sealed(pieces)
    assert recording.source == OURS[-26:] and recording.at == AT and recording.stream
    assert (recording.framed + recording.last).find(OURS) < 0
    assert again(recording, OURS, recording.created, 42) == pieces


@pytest.mark.parametrize("name", ["compact", "spaced", "comments", "CRLF", "n=2", "tools", "usage in every chunk"])
def test_under_another_name_and_at_another_time_it_says_the_same(name: str) -> None:
    pieces = streamed(STREAMS[name], 200, True)
    other = again(sealed(pieces))
    assert [len(piece) for piece in other[:-1]] == [len(piece) for piece in pieces[:-1]]
    before, after = chunks(b"".join(pieces)), chunks(b"".join(other))
    assert {one["id"] for one in after} == {OTHER.decode()}
    assert {one["created"] for one in after} == {1_900_000_000}
    assert told(after) == told(before) and after[-1]["usage"] == before[-1]["usage"]
    assert after[-1]["latency_ms"] == 3 and other[-1].endswith(DONE)
    strip = ("id", "created", "latency_ms")
    assert [{k: v for k, v in one.items() if k not in strip} for one in after] == [
        {k: v for k, v in one.items() if k not in strip} for one in before
    ]


def test_only_the_time_of_a_chunk_is_its_time() -> None:
    other = said("x", created=1_700_000_000)
    words = f'"created":1700000000, "id":"{OURS.decode()}"'
    pieces = streamed(render([chunk(other), chunk(said(words)), chunk(finished())]), 1 << 20)
    after = chunks(b"".join(again(sealed(pieces))))
    assert [one["created"] for one in after] == [1_900_000_000] * 3
    assert after[0]["choices"][0]["delta"]["created"] == 1_700_000_000
    assert after[1]["choices"][0]["delta"]["content"] == words


def whole(**more: Any) -> bytes:
    relay = WholeRelay(own_stamp(more.pop("wants_cost", False), more.pop("metadata", None)))
    choice = {"index": 0, "message": {"role": "assistant", "content": 'é "id":"up"'}, "finish_reason": "stop"}
    answer = {
        "id": "up",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "u",
        "choices": [choice],
        "usage": USAGE,
    }
    relay.feed(json.dumps({**answer, **more}).encode())
    return relay.end()


def test_a_whole_answer() -> None:
    body = whole()
    recording = sealed([body], stream=False)
    assert again(recording, OURS, recording.created, 42) == [body]
    after = json.loads(again(recording)[0])
    own = {"id": OTHER.decode(), "created": 1_900_000_000, "latency_ms": 3}
    assert after == {**json.loads(body), **own}


def test_it_costs_nothing_again_and_came_about_otherwise() -> None:
    body = whole(wants_cost=True, metadata=b'{"attempts":[]}')
    assert json.loads(body)["usage"]["cost"] == 0.5 and "waypost" in json.loads(body)
    after = json.loads(again(sealed([body], stream=False))[0])
    assert after["usage"] == {**USAGE, "cost": 0} and "waypost" not in after
    pieces = streamed(STREAMS["compact"], 300, True, wants_cost=True, metadata=b'{"attempts":[]}')
    last = chunks(again(sealed(pieces))[-1])[-1]
    assert last["usage"] == {**USAGE, "cost": 0} and "waypost" not in last


def test_an_upstream_s_own_word_on_its_cost_is_not_repeated() -> None:
    body = whole(usage={**USAGE, "cost": 0.25, "cost_details": {"upstream_inference_cost": 0.25}})
    assert json.loads(again(sealed([body], stream=False))[0])["usage"] == {**USAGE, "cost": 0}


# What is none


def test_what_is_no_whole_answer_is_not_kept() -> None:
    pieces = streamed(STREAMS["compact"], 300)
    assert seal(pieces[:-1], True, OURS, AT) is None, "cut"
    assert seal([*pieces[:-1], render_error("broke off", "PROVIDER_ERROR")], True, OURS, AT) is None
    assert seal([DONE], True, OURS, AT) is None, "ended by its account"
    assert seal([*pieces[:-1], pieces[-1].removesuffix(DONE)], True, OURS, AT) is None
    for body in (b'{"error":{"message":"no"}}', b"", b"[]", b'{"choices":[', b"\xff"):
        assert seal([body], False, OURS, AT) is None


def test_an_answer_whose_model_failed_is_not_kept() -> None:
    pieces = streamed(render([chunk(said("a")), chunk(finished("error"))]), 300)
    assert seal(pieces, True, OURS, AT) is None
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "error"}
    assert seal([whole(choices=[choice])], False, OURS, AT) is None


@pytest.mark.parametrize("mark", MARKS)
def test_bytes_that_are_no_json_are_not_kept(mark: bytes) -> None:
    pieces = streamed(STREAMS["compact"], 300)
    assert seal([pieces[0] + mark, *pieces[1:]], True, OURS, AT) is None
    assert seal([whole() + mark], False, OURS, AT) is None


# Elsewhere


def test_packed_and_unpacked() -> None:
    recording = sealed(streamed(STREAMS["tools"], 100, True))
    packed = pack(recording)
    assert unpack(packed) == recording
    assert len(packed) < recording.size / 2
    assert stamp().id not in packed


def test_what_is_no_recording() -> None:
    packed = pack(sealed([whole()], stream=False))
    body = zlib.compress(msgspec.msgpack.encode([1, 2, 3]))
    for data in (b"", b"W", b"W0" + packed[2:], packed[:-1], packed + b"x", VERSION + b"junk", VERSION + body):
        with pytest.raises(BadRecording):
            unpack(data)

"""The relays as transcripts: an upstream's bytes in, however they are cut, and the caller's bytes out."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.transcripts import (
    OURS,
    TRICKY,
    USAGE,
    Played,
    chunk,
    finished,
    in_bytes,
    play,
    render,
    said,
    stamp,
    told,
    tool,
)
from waypost.worker.relay import BODY_LIMIT, EVENT_LIMIT, StreamRelay, UpstreamError, WholeRelay, render_error

ROLE = chunk({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
TEXT = [chunk(said(text)) for text in ("Hello", " wörld 😀", "\n\n", *TRICKY[:3], " end")]
STOP = chunk(finished())
SPENT = chunk(usage=USAGE)
PLAIN: list[Any] = [ROLE, *TEXT, STOP, SPENT]
CALLS: list[Any] = [
    chunk({"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}),
    chunk(tool("", id="call_1", type="function")),
    chunk(tool('{"a":')),
    chunk(tool("1}")),
    chunk(tool("{}", 1, id="up-1", type="function")),
    chunk(finished("tool_calls")),
    SPENT,
]
AZURE: list[Any] = [chunk(prompt_filter_results=[], id="", model=""), *PLAIN]
TWO: list[Any] = [
    ROLE,
    chunk({"index": 1, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}),
    chunk(said("a", 0)),
    chunk(said("b", 1)),
    chunk(finished("stop", 1)),
    chunk(said("c", 0)),
    chunk(finished("length", 0)),
    SPENT,
]
NULLS: list[Any] = [{**one, "usage": one.get("usage")} for one in PLAIN]
EVERY: list[Any] = [{**one, "usage": USAGE} for one in PLAIN[:-1]]

STREAMS: dict[str, bytes] = {
    "compact": render(PLAIN),
    "spaced": render(PLAIN, compact=False),
    "CRLF": render(PLAIN, newline="\r\n"),
    "CR": render(PLAIN, newline="\r"),
    "BOM": b"\xef\xbb\xbf" + render(PLAIN),
    "no space after data:": render(PLAIN, field="data:"),
    "comments": render(PLAIN, before=": a comment\n\n"),
    "comments inside": render(PLAIN, before=": a comment\n"),
    "event, id and retry": render(PLAIN, before="event: chunk\nid: 7\nretry: 10\n"),
    "an empty event": render(PLAIN, before="\n"),
    "usage null, then usage": render(NULLS),
    "usage in the last choice chunk": render([ROLE, *TEXT, {**STOP, "usage": USAGE}]),
    "usage in every chunk": render(EVERY),
    "Azure": render(AZURE),
    "n=2": render(TWO),
    "tools": render(CALLS),
    "no [DONE]": render(PLAIN, done=False),
    "no [DONE], last line open": render(PLAIN, done=False)[:-2],
    "no usage": render(PLAIN[:-1]),
    "ids that differ": render([{**one, "id": f"up-{number}"} for number, one in enumerate(PLAIN)]),
    "ids that are numbers": render([{**one, "id": 1 if one is ROLE else 10 + at} for at, one in enumerate(PLAIN)]),
    "no id, no model": render([{k: v for k, v in one.items() if k not in ("id", "model")} for one in PLAIN]),
    "data on two lines": render([json.dumps(one, indent=1).replace("\n", "\ndata: ") for one in PLAIN]),
    "[DONE] without a finish": render([ROLE, *TEXT, SPENT]),
}
# Elsewhere what the quick way passes on has spaces or comments that a parsed event loses: the same events, other bytes.
COMPACT = [
    name for name in STREAMS if not name.startswith(("spaced", "comm", "event", "no space", "an empty", "data on"))
]


def sources(data: bytes) -> list[dict[str, Any]]:
    """What the upstream said, read slowly: line ends made one, comments dropped, data lines joined."""
    text = data.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events = []
    for event in text.split("\n\n"):
        lines = [line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:")]
        if lines and lines != ["[DONE]"]:
            events.append(json.loads("\n".join(lines)))
    return events


def check(played: Played, data: bytes, include_usage: bool) -> None:
    """Everything that the contract says of a good stream."""
    assert played.error is None and played.relay.done
    assert played.out.endswith(b"data: [DONE]\n\n") and played.events.count("[DONE]") == 1
    chunks = played.chunks
    assert {(one["id"], one["model"]) for one in chunks} == {(OURS["id"], OURS["model"])}
    assert [("provider" in one, "latency_ms" in one) for one in chunks] == [(False, False)] * (len(chunks) - 1) + [
        (True, True)
    ]
    assert (chunks[-1]["provider"], chunks[-1]["latency_ms"]) == ("sim", 42)
    came, went = told(sources(data)), told(chunks)
    assert (went.deltas, went.calls, went.finish) == (came.deltas, came.calls, came.finish)
    assert (msgspec.json.decode(played.relay.usage) if played.relay.usage else None) == came.usage
    if include_usage:
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == (came.usage or {"estimated": True})
        chunks = chunks[:-1]
    choices = [choice for one in sources(data) for choice in one.get("choices") or []]
    spoken = sum(len(json.dumps(choice.get("delta"))) for choice in choices)
    assert 0 < played.relay.observed <= spoken, "what an estimate goes by is what was said, about"
    assert all(one["choices"] and not one.get("usage") for one in chunks)


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_in_one_piece_and_byte_by_byte(name: str, include_usage: bool) -> None:
    data = STREAMS[name]
    whole, pieces = play([data], include_usage), play(in_bytes(data), include_usage)
    check(whole, data, include_usage)
    check(pieces, data, include_usage)
    assert pieces.events == whole.events
    assert pieces.relay.observed == whole.relay.observed
    if name in COMPACT:
        assert pieces.out == whole.out


@pytest.mark.parametrize("name", STREAMS)
def test_cut_in_two_at_every_byte(name: str) -> None:
    data = STREAMS[name]
    whole = play([data], include_usage=True)
    expected = whole.events
    for cut in range(1, len(data)):
        played = play([data[:cut], data[cut:]], include_usage=True)
        if name in COMPACT:
            assert played.out == whole.out, cut
        else:
            assert played.events == expected, cut


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(STREAMS)), st.lists(st.integers(1, 400), max_size=30), st.booleans())
def test_any_cuts(name: str, sizes: list[int], include_usage: bool) -> None:
    data, pieces, at = STREAMS[name], [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    played = play([*filter(None, pieces), data[at:]] if at < len(data) else [*filter(None, pieces)], include_usage)
    check(played, data, include_usage)
    assert played.events == play([data], include_usage).events


def test_the_quick_way_is_taken_and_says_the_same() -> None:
    """One event a read, as a network brings them: after the first, compact events leave as they came but for names."""
    data = STREAMS["compact"]
    relay = StreamRelay(stamp(), include_usage=False)
    events = [event + b"\n\n" for event in data.split(b"\n\n")[:-1]]
    out = [relay.feed(event) for event in events]
    for came, went in list(zip(events, out, strict=True))[3 : len(TEXT)]:
        theirs = (b'"id":"up-1"', b'"model":"up-model"')
        ours = tuple(f'"{name}":{json.dumps(value)}'.encode() for name, value in OURS.items())
        assert went == came.replace(theirs[0], ours[0], 1).replace(theirs[1], ours[1], 1)


# Streams that go wrong

ERROR = {"error": {"message": "the model fell over", "type": "server_error", "code": "overloaded"}}


@pytest.mark.parametrize("style", [{}, {"compact": False}, {"newline": "\r\n"}, {"field": "data:"}])
def test_an_error_as_the_first_event_sends_nothing(style: dict[str, Any]) -> None:
    for chunks in ([ERROR], [ROLE, ERROR], [chunk(**ERROR)]):
        data = render(chunks, **style)
        for pieces in ([data], in_bytes(data)):
            played = play(pieces)
            assert played.out == b"" and str(played.error) == "the model fell over"
            assert not played.relay.done


@pytest.mark.parametrize(
    "error",
    [ERROR, chunk(**ERROR), chunk(said("x"), **ERROR), chunk({**finished("error"), "delta": {"content": ""}}, **ERROR)],
)
def test_an_error_in_mid_stream_is_never_a_clean_end(error: dict[str, Any]) -> None:
    data = render([ROLE, *TEXT, error, STOP])
    start = len(render([ROLE, *TEXT], done=False))
    for cut in [0, 1, start - 1, start, start + 1, start + 20, len(data) - 1]:
        played = play([data[:cut], data[cut:]] if cut else [data])
        assert str(played.error) == "the model fell over"
        assert "[DONE]" not in played.events and b"fell over" not in played.out
    assert told(play([data[:start], data[start:]]).chunks).deltas[0]["content"].endswith(" end")
    one_by_one = play([event + b"\n\n" for event in data.split(b"\n\n")[:-1]])
    assert str(one_by_one.error) == "the model fell over"


@pytest.mark.parametrize("name", ["compact", "spaced", "CRLF", "n=2", "tools", "usage in the last choice chunk"])
def test_an_upstream_that_dies_at_any_byte_ends_cleanly_only_after_its_finish(name: str) -> None:
    data = STREAMS[name]
    last_finish = data.rfind(b'"finish_reason"') if name != "tools" else data.rfind(b'"finish_reason":"tool_calls"')
    complete = data.index(b"}", data.index(b"]", last_finish)) if name != "usage in the last choice chunk" else 0
    for cut in range(len(data)):
        played = play([data[:cut]] if cut else [])
        if played.error is None:
            assert played.relay.done and b'"finish_reason":"' in played.out.replace(b": ", b":"), cut
            assert played.events.count("[DONE]") == 1
        else:
            assert "[DONE]" not in played.events and not played.relay.done, cut
            assert not complete or cut <= complete or name == "n=2", f"{cut}: its finish had been seen"


@pytest.mark.parametrize(
    "broken",
    [
        "not json",
        '{"id":"up-1","choices":',
        "[]",
        '"text"',
        "5",
        '{"choices":[5]}',
        '{"choices":{}}',
        '{"id":"up-1","model":"up-model","choices":[{"index":0,"delta":{"content":"x"}',
        "<html>",
    ],
)
def test_an_event_that_is_no_chunk(broken: str) -> None:
    for before in ([], [ROLE], [ROLE, *TEXT]):
        played = play([render(before, done=False), render([broken, STOP])])
        assert isinstance(played.error, UpstreamError) and "chunk" in str(played.error)
        assert "[DONE]" not in played.events


def test_nothing_at_all() -> None:
    for data in (b"", b"\n\n", b": ping\n\n", b"event: x\n\n", render([ROLE], done=False), b"data"):
        played = play([data])
        assert played.error is not None and played.out == b"", data
    played = play([b"data: [DONE]\n\n"])
    assert played.error is None and len(played.chunks) == 1, "an empty answer, but one that says so itself"


def test_what_follows_done_is_not_passed_on() -> None:
    data = render(PLAIN)
    for pieces in ([data + render([chunk(said("more"))])], [data, render([chunk(said("more"))])]):
        assert play(pieces).out == play([data]).out


def test_nothing_is_sent_before_something_is_meant() -> None:
    relay = StreamRelay(stamp(), include_usage=False)
    assert relay.feed(render([AZURE[0], ROLE], done=False)) == b""
    assert relay.feed(b": waiting\n\n") == b""
    out = relay.feed(render([TEXT[0]], done=False))
    assert out.index(b"assistant") < out.index(b"Hello")


def test_events_that_are_too_large() -> None:
    relay = StreamRelay(stamp(), include_usage=False)
    played = play([b"x" * 65536] * (EVENT_LIMIT // 65536 + 1), relay=relay)
    assert "larger than" in str(played.error)
    meaningless = render([ROLE], done=False)
    relay = StreamRelay(stamp(), include_usage=False)
    out = b"".join(relay.feed(meaningless * 100) for _ in range(40))
    assert out, "what is held back is bounded"


# Whole answers

ANSWER: dict[str, Any] = {
    "id": "up-1",
    "object": "chat.completion",
    "created": 1,
    "model": "up-model",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": USAGE,
    "service_tier": None,
    "x_extra": [1e5, {"model": "left alone"}],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_a_whole_answer_however_cut(indent: int | None) -> None:
    data = json.dumps(ANSWER, indent=indent, ensure_ascii=False).replace("100000.0", "1.00E5").encode()
    expected = {**ANSWER, **OURS, "provider": "sim", "latency_ms": 42}
    for pieces in ([data], in_bytes(data), [data[:50], data[50:]]):
        played = play(pieces, relay=WholeRelay(stamp()))
        assert json.loads(played.out) == expected and b"1.00E5" in played.out
        assert json.loads(bytes(played.relay.usage or b"")) == USAGE
        assert played.relay.done


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (json.dumps(ERROR), "the model fell over"),
        ('{"choices":[]}', "no choices"),
        ('{"choices":[ ]}', "no choices"),
        ('{"choices":null}', "no choices"),
        ('{"choices":{}}', "no choices"),
        ("{}", "no choices"),
        ("[]", "not a JSON object"),
        ("", "not a JSON object"),
        (json.dumps(ANSWER)[:-1], "not a JSON object"),
        ("<html>", "not a JSON object"),
    ],
)
def test_a_whole_answer_that_is_none(body: str, message: str) -> None:
    played = play([body.encode()], relay=WholeRelay(stamp()))
    assert played.error is not None and message in str(played.error) and played.out == b""


def test_a_whole_answer_that_is_too_large() -> None:
    played = play([b" " * (1 << 20)] * (BODY_LIMIT // (1 << 20) + 1), relay=WholeRelay(stamp()))
    assert "larger than" in str(played.error)


def test_the_frame_of_an_error() -> None:
    frame, done, rest = render_error('it "broke"\n', "PROVIDER_ERROR").split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert json.loads(frame.removeprefix(b"data: ")) == {
        "error": {"message": 'it "broke"\n', "type": "api_error", "param": None, "code": "PROVIDER_ERROR"}
    }

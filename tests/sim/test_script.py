"""Framing, pacing and the edits after framing, as values."""

from __future__ import annotations

from waypost.sim import edits
from waypost.sim.script import Event, Reply, Script, Send, Wait, render_script, split_script

STREAM = Reply(200, "text/event-stream", (Event(b"data: 1\n\n", "1"), Event(b"data: 22\n\n", "22")), True, chunked=True)
PLAIN = Reply(200, "application/json", (Event(b'{"a":1}', "1", usage=True),), headers=(("x-a", "b"),))


def wire(script: Script) -> bytes:
    return script.head + b"".join(step.data for step in script.body if isinstance(step, Send))


def test_framing() -> None:
    assert wire(render_script(PLAIN, keep_alive=True)) == (
        b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-a: b\r\ncontent-length: 7\r\n\r\n{"a":1}'
    )
    closing = render_script(STREAM, keep_alive=False)
    assert closing.finish == "close"
    assert wire(closing) == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        b"9\r\ndata: 1\n\n\r\na\r\ndata: 22\n\n\r\n0\r\n\r\n"
    )


def test_pacing_stands_between_events() -> None:
    paced = render_script(STREAM, keep_alive=True, delay=0.5, gap=0.02)
    assert paced.delay == 0.5
    assert [type(step) for step in paced.body] == [Send, Wait, Send, Send]


def test_splitting_keeps_bytes_texts_and_events() -> None:
    whole = render_script(STREAM, keep_alive=True, gap=0.02)
    for size in (1, 7, 1000):
        split = split_script(whole, size)
        assert wire(split) == wire(whole)
        sends = [step for step in split.body if isinstance(step, Send)]
        assert max(len(step.data) for step in sends) <= size
        assert [step.text for step in sends if step.text] == ["1", "22"]
        assert sum(step.events for step in sends) == 2


def test_dribbling_is_byte_by_byte() -> None:
    whole = render_script(STREAM, keep_alive=True)
    for slow, start in [(edits.dribbled(whole, 0.1), 0), (edits.dribbled_head(whole, 0.1), 0)]:
        assert wire(slow) == wire(whole)
        assert slow.body[start : start + 4 : 2] == (Wait(0.1), Wait(0.1))
        first = slow.body[1]
        assert isinstance(first, Send)
        assert len(first.data) == 1
    assert edits.dribbled_head(whole, 0.1).head == b""


def test_cuts_keep_pauses_and_count_events() -> None:
    paced = render_script(STREAM, keep_alive=True, gap=0.02)
    for count, kept in [(0, 0), (1, 1), (2, 2), (9, 2)]:
        cut = edits.after_events(paced, count, "reset")
        assert sum(step.events for step in cut.body if isinstance(step, Send)) == kept
        assert cut.finish == "reset"
    assert wire(edits.after_events(paced, 1, "close", half=True)).endswith(b"\n\n\r\na\r\ndata")

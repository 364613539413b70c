"""What the faults do to a reply or a script: pure functions, each breaking one thing."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from waypost.sim.script import Event, Finish, Reply, Script, Send, Wait

LONG_LINE = 2 << 20
HUGE_HEADERS = 1 << 20
BOMB = 64 << 20

# Before framing: the events


def spaced(reply: Reply) -> Reply:
    """JSON with a space after every colon and comma outside strings."""
    if not reply.stream:
        return replace(reply, events=tuple(replace(e, data=_spaced_json(e.data)) for e in reply.events))
    return _each_line(reply, lambda line: b"data: " + _spaced_json(line[6:]) if line[:7] == b"data: {" else line)


def framed(reply: Reply, frame: Callable[[bytes], bytes]) -> Reply:
    """A stream's events, each as the format frames it; compressed ones stay as they are."""
    packed = any(name == "content-encoding" for name, _ in reply.headers)
    return reply if packed else _streamed(reply, lambda i, data: frame(data))


def _spaced_json(data: bytes) -> bytes:
    return json.dumps(json.loads(data), ensure_ascii=False).encode()


def crlf(reply: Reply) -> Reply:
    """Stream lines end in CR LF."""
    return _replaced(reply, b"\n", b"\r\n")


def sse_cr(reply: Reply) -> Reply:
    """Stream lines end in CR alone."""
    return _replaced(reply, b"\n", b"\r")


def comments(reply: Reply) -> Reply:
    """A comment line and an empty one before every event."""
    return _streamed(reply, lambda i, data: b": simulator still here\n\n" + data)


def sse_nospace(reply: Reply) -> Reply:
    """`data:` without the space."""
    return _each_line(reply, lambda line: b"data:" + line[6:] if line.startswith(b"data: ") else line)


def sse_bom(reply: Reply) -> Reply:
    """A byte order mark before the first event."""
    return _streamed(reply, lambda i, data: b"\xef\xbb\xbf" + data if i == 0 else data)


def sse_multiline(reply: Reply) -> Reply:
    """Each event's JSON on two `data:` lines, broken between two of its members."""
    return _each_line(reply, lambda line: line.replace(b',"', b',\ndata: "', 1) if line[:7] == b"data: {" else line)


def sse_no_colon(reply: Reply) -> Reply:
    """A line without any colon before the second event; the third event's `data` lacks its colon and is lost."""

    def edit(position: int, event: Event) -> Event:
        if position == 1:
            return replace(event, data=b"a line without a colon\n" + event.data)
        if position == 2:
            return Event(event.data.replace(b"data: ", b"data ", 1))
        return event

    return _stream_events(reply, edit)


def sse_unknown_event(reply: Reply) -> Reply:
    """Fields `id` and `retry` that nobody sends, and an event of unknown type."""
    extra = b'id: 7\nretry: 1000\nevent: telemetry\ndata: {"type":"telemetry"}\n\n'
    return _streamed(reply, lambda i, data: extra + data if i == 1 else data)


def sse_nul(reply: Reply) -> Reply:
    """NUL bytes in a comment, in a field's name and in an id."""
    return _streamed(reply, lambda i, data: b": \x00\n\x00: \x00\nid: a\x00b\n" + data if i == 1 else data)


def sse_bad_utf8(reply: Reply) -> Reply:
    """Bytes that are no UTF-8 before the first piece of text."""
    at = next((i for i, event in enumerate(reply.events) if event.text), None)

    def edit(position: int, event: Event) -> Event:
        if position != at:
            return event
        before, text, after = event.data.rpartition(msgspec.json.encode(event.text)[1:])
        return Event(before + b"\xff\xfe\xc3" + text + after)

    return _stream_events(reply, edit)


def sse_long_line(reply: Reply) -> Reply:
    """A comment-like member of 2 MiB in the second event."""
    padding = b'data: {"padding":"' + b"x" * LONG_LINE + b'",'
    return _streamed(reply, lambda i, data: data.replace(b"data: {", padding, 1) if i == 1 else data)


def error_after(reply: Reply, count: int, event: Event, body: tuple[Event, ...]) -> Reply:
    """An error event after `count` events of a 200 stream, and then a clean end; the error's `body` if no stream."""
    return replace(reply, events=(*reply.events[:count], event) if reply.stream else body)


def bad_checksum(script: Script) -> Script:
    """The third message of a binary stream ends in four bytes that are not its checksum; then it goes on."""
    sends = [step for step in script.body if isinstance(step, Send) and step.events]
    if len(sends) < 3:
        return script
    data = sends[2].data
    # The checksum stands before the chunk's line end.
    end = len(data) - 2
    broken = data[: end - 4] + bytes(byte ^ 0xFF for byte in data[end - 4 : end]) + data[end:]
    return replace(script, body=tuple(replace(s, data=broken) if s is sends[2] else s for s in script.body))


def _streamed(reply: Reply, edit: Callable[[int, bytes], bytes]) -> Reply:
    return _stream_events(reply, lambda i, event: replace(event, data=edit(i, event.data)))


def _stream_events(reply: Reply, edit: Callable[[int, Event], Event]) -> Reply:
    if not reply.stream:
        return reply
    return replace(reply, events=tuple(edit(i, event) for i, event in enumerate(reply.events)))


def _replaced(reply: Reply, old: bytes, new: bytes) -> Reply:
    return _streamed(reply, lambda i, data: data.replace(old, new))


def _each_line(reply: Reply, edit: Callable[[bytes], bytes]) -> Reply:
    return _streamed(reply, lambda i, data: b"\n".join(edit(line) for line in data.split(b"\n")))


# Before framing: the body as a whole


def huge_headers(reply: Reply) -> Reply:
    """A header block of 1 MiB: 64 headers of 16 KiB."""
    filler = tuple((f"x-filler-{i}", "x" * (HUGE_HEADERS // 64)) for i in range(64))
    return replace(reply, headers=reply.headers + filler)


def html(reply: Reply) -> Reply:
    """A web page under status 200, as a captive portal or a misrouted load balancer sends it."""
    page = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n"
    return replace(reply, content_type="text/html; charset=utf-8", events=(Event(page),), stream=False, chunked=False)


def not_json(reply: Reply) -> Reply:
    """A body, or a stream's only event, that is no JSON."""
    text = b"upstream connect error or disconnect/reset before headers"
    return replace(reply, events=(Event(b"data: " + text + b"\n\n" if reply.stream else text),))


def truncated_json(reply: Reply) -> Reply:
    """The first half of the JSON under correct framing; in a stream the third event's, after which it goes on.

    Where the third carries no text but a later one does, that one is halved.
    """
    at = next((i for i, event in enumerate(reply.events) if i >= 2 and event.text), 2)

    def halve(position: int, event: Event) -> Event:
        if position != at:
            return event
        before, name, payload = event.data.partition(b"data: ")
        return Event(before + name + payload[: len(payload) // 2] + b"\n\n")

    if reply.stream:
        return _stream_events(reply, halve)
    return replace(reply, events=tuple(Event(event.data[: len(event.data) // 2]) for event in reply.events))


def gzip_bomb(reply: Reply) -> Reply:
    """64 MiB of spaces under `content-encoding: gzip`, some 64 kB on the wire."""
    return replace(reply, headers=(*reply.headers, ("content-encoding", "gzip")), events=(Event(_bomb(reply.stream)),))


@functools.cache
def _bomb(stream: bool) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(b": " if stream else b"")]
    parts += [packer.compress(b" " * (1 << 20)) for _ in range(BOMB >> 20)]
    parts.append(packer.compress(b"\n\ndata: [DONE]\n\n" if stream else b"{}"))
    return b"".join([*parts, packer.flush()])


def lengths(reply: Reply, kind: str) -> Reply:
    """A wrong Content-Length in place of the right framing; see the table for the kinds."""
    true = sum(len(event.data) for event in reply.events)
    declared = {
        "short": (str(true - 10),),
        "long": (str(true + 10),),
        "negative": ("-1",),
        "twice": (str(true), str(true - 10)),
    }
    return replace(reply, lengths=declared[kind])


# After framing


def silent(script: Script) -> Script:
    """Not a byte, and the connection stays open."""
    return Script(b"", (), "silent")


def before_headers(script: Script, finish: Finish) -> Script:
    """The connection ends before any byte of the response."""
    return Script(b"", (), finish, script.delay)


def after_headers(script: Script, finish: Finish) -> Script:
    """The connection ends after the head."""
    return replace(script, body=(), finish=finish)


def after_events(script: Script, count: int, finish: Finish, *, half: bool = False) -> Script:
    """Ends after `count` events, or in the middle of the next one's bytes if `half`.

    What is no stream has one event, its body, and ends in the middle of it whatever the count.
    """
    whole = sum(isinstance(step, Send) and step.events for step in script.body)
    if whole == 1:
        count, half = 0, True
    kept: list[Send | Wait] = []
    for step in script.body:
        if isinstance(step, Send) and count == 0:
            if half:
                kept.append(Send(step.data[: len(step.data) // 2]))
            break
        kept.append(step)
        count -= isinstance(step, Send)
    return replace(script, body=tuple(kept), finish=finish)


def clean_end_after(reply: Reply, count: int) -> Reply:
    """A cleanly framed end after `count` events, before any finish reason; half the body if no stream."""
    if reply.stream:
        return replace(reply, events=reply.events[:count])
    half = tuple(Event(event.data[: len(event.data) // 2]) for event in reply.events)
    return replace(reply, events=half, chunked=True)


def inside_character(script: Script) -> Script:
    """Ends one byte into the first character of several bytes."""
    kept: list[Send | Wait] = []
    for step in script.body:
        character = next((c for c in step.text if not c.isascii()), None) if isinstance(step, Send) else None
        if isinstance(step, Send) and character:
            at = step.data.index(character.encode())
            kept.append(Send(step.data[: at + 1]))
            break
        kept.append(step)
    return replace(script, body=tuple(kept), finish="close")


def dribbled(script: Script, seconds: float) -> Script:
    """The body byte by byte, a pause before each."""
    return replace(script, body=tuple(_bytewise(script.body, seconds)))


def dribbled_head(script: Script, seconds: float) -> Script:
    """The head byte by byte, a pause before each; then the body as usual."""
    return replace(script, head=b"", body=(*_bytewise((Send(script.head),), seconds), *script.body))


def _bytewise(steps: tuple[Send | Wait, ...], seconds: float) -> list[Send | Wait]:
    made: list[Send | Wait] = []
    for step in steps:
        if isinstance(step, Wait):
            continue
        for i in range(len(step.data)):
            last = i == len(step.data) - 1
            made += (Wait(seconds), replace(step, data=step.data[i:]) if last else Send(step.data[i : i + 1]))
    return made


def bad_chunk_size(script: Script) -> Script:
    """The second chunk's size (the first's, if there is one only) is no hexadecimal number."""
    sends = [i for i, step in enumerate(script.body) if isinstance(step, Send) and step.events]
    at = sends[1] if len(sends) > 1 else sends[0]
    step = script.body[at]
    data = b"zz\r\n" + step.data.split(b"\r\n", 1)[1] if isinstance(step, Send) else b""
    return replace(script, body=(*script.body[:at], Send(data)), finish="close")


def missing_last_chunk(script: Script) -> Script:
    """Everything but the chunk of size 0, and then the connection closes."""
    return replace(script, body=script.body[:-1], finish="close")


_STRAY_BODY = b'{"stray":"not your bytes"}'
STRAY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_STRAY_BODY),
    _STRAY_BODY,
)


def garbage_after(script: Script) -> Script:
    """A second response that nobody asked for, right behind the first; the connection stays open."""
    *rest, last = script.body
    data = last.data if isinstance(last, Send) else b""
    return replace(script, body=(*rest, replace(last, data=data + STRAY)))


def closing(script: Script) -> Script:
    """The script as it is, and then the connection closes."""
    return replace(script, finish="close")

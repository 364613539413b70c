"""What the simulator is going to put on the wire, as values: events, a reply made of them, and a script to play."""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal

import msgspec

Finish = Literal["keep", "close", "reset", "silent"]

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event of a stream, or the whole body of an answer that is not a stream.

    `data` is as it goes out, the format's own framing included; `text` is the answer's text it carries (for the
    journal); `usage` says whether it carries the usage.
    """

    data: bytes
    text: str = ""
    usage: bool = False


class Reply(msgspec.Struct, frozen=True):
    """A response before HTTP framing. `lengths` overrides the framing by literal Content-Length values."""

    status: int
    content_type: str
    events: tuple[Event, ...]
    stream: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    chunked: bool = False
    lengths: tuple[str, ...] = ()


class Refusal(msgspec.Struct, frozen=True):
    """An error instead of an answer, before a format has rendered it. `close` ends the connection after it.

    `type`, `code` and `param` are OpenAI's; other formats go by the status and by `kind`, which says what is
    wrong where the status does not: auth, context-length, content-policy, overloaded; unmodelled is an error that
    Bedrock has no exception for.
    """

    status: int
    message: str
    type: str
    code: str | None = None
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False
    kind: str = ""


class Send(msgspec.Struct, frozen=True, gc=False):
    """Bytes to write. `events` is how many events they complete."""

    data: bytes
    text: str = ""
    events: int = 0
    usage: bool = False


class Wait(msgspec.Struct, frozen=True, gc=False):
    """A pause, in seconds; 0 only lets the event loop turn once."""

    seconds: float


class Script(msgspec.Struct, frozen=True):
    """A response to play: the pause before its first byte, the head, the steps of the body, and how it ends.

    `finish`: keep the connection, close it (FIN), reset it (RST), or fall silent until the client leaves.
    `idle_close` is the number of seconds after which a kept connection is closed if no further request came.
    """

    head: bytes
    body: tuple[Send | Wait, ...]
    finish: Finish = "keep"
    delay: float = 0.0
    idle_close: float | None = None


def render_head(reply: Reply, keep_alive: bool) -> bytes:
    """Status line and headers, with the framing that the reply asks for."""
    lines = [
        b"HTTP/1.1 %d %b" % (reply.status, _REASONS.get(reply.status, b"Unknown")),
        b"content-type: " + reply.content_type.encode(),
    ]
    lines += [f"{name}: {value}".encode() for name, value in reply.headers]
    if reply.lengths:
        lines += [b"content-length: " + length.encode() for length in reply.lengths]
    elif reply.chunked:
        lines.append(b"transfer-encoding: chunked")
    else:
        lines.append(b"content-length: %d" % sum(len(event.data) for event in reply.events))
    if not keep_alive:
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def render_script(reply: Reply, *, keep_alive: bool, delay: float = 0.0, gap: float | None = None) -> Script:
    """Frame a reply. With a `gap` (seconds) there is a pause between events; without, they leave together."""
    chunked = reply.chunked and not reply.lengths
    body: list[Send | Wait] = []
    for position, event in enumerate(reply.events):
        if gap is not None and position:
            body.append(Wait(gap))
        data = b"%x\r\n%b\r\n" % (len(event.data), event.data) if chunked else event.data
        body.append(Send(data, event.text, 1, event.usage))
    if chunked:
        body.append(Send(b"0\r\n\r\n"))
    return Script(render_head(reply, keep_alive), tuple(body), "keep" if keep_alive else "close", delay)


def split_script(script: Script, size: int) -> Script:
    """The same bytes in writes of `size` bytes each, the head included, with a turn of the loop between them."""
    body: list[Send | Wait] = []
    for step in (Send(script.head), *script.body):
        if isinstance(step, Wait):
            body.append(step)
            continue
        *parts, last = [step.data[at : at + size] for at in range(0, len(step.data), size)] or [b""]
        for part in parts:
            body += (Send(part), Wait(0.0))
        body += (msgspec.structs.replace(step, data=last), Wait(0.0))
    return msgspec.structs.replace(script, head=b"", body=tuple(body))

"""The simulator's sockets: HTTP/1.1 requests in, scripts played out, everything journaled.

It shares no code with `waypost.http`: it has to send bytes that no sound server would.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import socket
import struct
import time
from collections.abc import Callable
from typing import cast

import httptools
import msgspec

from waypost.sim import openai_format
from waypost.sim.faults import Occasion, refuse_status
from waypost.sim.journal import Closed, Journal, Opened, fingerprint, kept_body
from waypost.sim.names import ROWS
from waypost.sim.provider import (
    Circumstances,
    Format,
    Found,
    Performance,
    find_format,
    perform,
    perform_early,
    refuse,
)
from waypost.sim.script import Event, Refusal, Reply, Script, Send, Wait, render_script

_PENDING = 64
_WRITE = 65536
_CREDENTIALS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
_EARLY = b"early-413"


class Request(msgspec.Struct):
    """A request as it arrives: the body in `parts`, and `complete` once it is whole."""

    method: str = ""
    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = []
    parts: list[bytes] = []
    keep_alive: bool = True
    expects: bool = False
    complete: bool = False
    answered_early: bool = False

    @property
    def body(self) -> bytes:
        """What has arrived of the body."""
        return b"".join(self.parts)


class Simulator:
    """Counts, journals and answers; owns everything that outlives a connection."""

    def __init__(self, journal: Journal | None, clock: Callable[[], float] = time.time) -> None:
        self.journal = journal
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.requests = 0
        self.open = 0
        self.clock = clock
        self._ends: collections.Counter[tuple[str, str]] = collections.Counter()
        self._by_model: collections.Counter[str] = collections.Counter()

    def perform(self, request: Request, found: Found | None, connection: Connection) -> Performance:
        """Decide what a request gets; `found` is the format of a request for chat or embeddings."""
        here = Circumstances(
            self.requests,
            int(self.clock()),
            request.keep_alive,
            lambda model: self._occasion(model, connection.served),
        )
        if found:
            if request.answered_early:
                return perform_early(found, here)
            if request.method == "POST":
                return perform(found, request.headers, request.body, here)
            return refuse(found.spoken, Refusal(405, "Send a POST.", "invalid_request_error"), here)
        path = request.target.split(b"?", 1)[0].decode("latin-1")
        if information := self._information(path):
            return Performance(_plain(information, request.keep_alive), 200)
        missing = Refusal(404, f"Nothing at {path}.", "invalid_request_error", "unknown_url")
        return refuse(cast(Format, openai_format), missing, here)

    def _occasion(self, model: str, served: int) -> Occasion:
        self._by_model[model] += 1
        return Occasion(served, self._by_model[model])

    def _information(self, path: str) -> bytes | None:
        if path == "/healthz":
            return b'{"status":"ok"}'
        if path == "/journal/summary":
            return msgspec.json.encode(self.summary())
        if path.endswith("/models"):
            names = ["demo", "demo-thinking", *(row.example for row in ROWS)]
            return openai_format.render_models(names)
        return None

    def summary(self) -> dict[str, object]:
        """Counts of chat requests by end and by model and end, requests in flight, connections open and accepted."""
        by_model: dict[str, dict[str, int]] = {}
        by_end: collections.Counter[str] = collections.Counter()
        for (model, end), count in self._ends.items():
            by_model.setdefault(model, {})[end] = count
            by_end[end] += count
        return {
            "requests": self.requests,
            "open": self.open,
            "connections": self.accepted,
            "connections_open": len(self.connections),
            "by_end": dict(by_end),
            "by_model": by_model,
        }

    def count_end(self, model: str | None, end: str, before: str | None = None) -> None:
        """Count how a request ended; `before` takes back an earlier verdict."""
        if before is not None:
            self._ends[model or "", before] -= 1
            self._ends += collections.Counter()
        self._ends[model or "", end] += 1


def _plain(body: bytes, keep_alive: bool) -> Script:
    return render_script(Reply(200, "application/json", (Event(body),)), keep_alive=keep_alive)


class Play:
    """One answer on its way out: which step comes next, and what has been sent so far."""

    def __init__(self, n: int, performance: Performance) -> None:
        self.n = n
        self.performance = performance
        script = performance.script
        head = (Send(script.head),) if script.head else ()
        self.steps = (Wait(script.delay), *head, *script.body) if script.delay else (*head, *script.body)
        self.next = 0
        self.sent_bytes = 0
        self.events = 0
        self.texts: list[str] = []
        self.usage_sent = False
        self.end: str | None = None

    def take(self) -> bytes:
        """The next bytes to write, steps joined up to the next pause and some 64 kB; counted as sent."""
        parts: list[bytes] = []
        size = 0
        while self.next < len(self.steps) and size < _WRITE:
            step = self.steps[self.next]
            if isinstance(step, Wait):
                break
            self.next += 1
            parts.append(step.data)
            size += len(step.data)
            if step.text:
                self.texts.append(step.text)
            self.events += step.events
            self.usage_sent = self.usage_sent or step.usage
        self.sent_bytes += size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def finished(self) -> bool:
        """Whether every step has been taken."""
        return self.next >= len(self.steps)

    def closed(self, end: str, unsent: int) -> Closed:
        """The journal's closing line; `unsent` bytes were written but not taken by the kernel."""
        text = "".join(self.texts)
        sent = self.sent_bytes - unsent
        known = self.performance
        return Closed(
            self.n,
            end,
            known.status if sent else None,
            sent,
            self.events,
            known.usage() if known.usage and self.usage_sent else None,
            hashlib.sha256(text.encode()).hexdigest(),
            len(text),
            known.finish_reason,
        )


class Connection(asyncio.Protocol):
    """One client: requests in order, one answer at a time."""

    def __init__(self, simulator: Simulator, loop: asyncio.AbstractEventLoop) -> None:
        self.served = 0
        self._simulator = simulator
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._pending: collections.deque[Request] = collections.deque()
        self._request = Request()
        self._play: Play | None = None
        self._timer: asyncio.Handle | None = None
        self._paused = False
        self._closing = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = cast(asyncio.Transport, transport)
        # With no room in user space, every write goes to the kernel at once and `pause_writing` means it is full.
        self._transport.set_write_buffer_limits(0)
        self._simulator.accepted += 1
        self._number = self._simulator.accepted
        self._simulator.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse; answer what is complete, and what is to be refused before it is."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._bad_request()
            return
        request = self._request
        if request.method and not request.complete and self._play is None and not self._pending:
            self._answer_early(request, data)

    def eof_received(self) -> bool:
        """A client that stops sending has gone, as far as the simulator cares: the transport closes."""
        return False

    def pause_writing(self) -> None:
        """The kernel's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Everything written so far is in the kernel."""
        self._paused = False
        if self._play is not None and self._timer is None:
            self._advance(self._play)

    def connection_lost(self, exception: Exception | None) -> None:
        """Closed by either side; if an answer was under way, the client has gone."""
        self._stop_timer()
        self._simulator.connections.discard(self)
        self._pending.clear()
        if self._play is not None:
            self._journal_end(self._play, "client-gone")
            self._play = None

    # httptools' side

    def on_message_begin(self) -> None:
        """A request line begins."""
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._request.headers.append((name, value))
        if len(name) == 6 and name.lower() == b"expect":
            self._request.expects = True

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._request.method = self._parser.get_method().decode()
        self._request.keep_alive = self._parser.should_keep_alive()
        if self._request.expects and _EARLY not in self._request.target:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._request.parts.append(body)

    def on_message_complete(self) -> None:
        """A request is whole: answer it, or keep it until its turn."""
        request = self._request
        request.complete = True
        if request.answered_early or self._closing:
            return
        if self._play is None:
            self._start(request)
            return
        self._pending.append(request)
        if len(self._pending) >= _PENDING:
            self._transport.pause_reading()

    # Answering

    def _start(self, request: Request) -> None:
        self._stop_timer()
        simulator = self._simulator
        found = find_format(request.target)
        if found:
            simulator.requests += 1
            simulator.open += 1
        performance = simulator.perform(request, found, self)
        play = self._play = Play(simulator.requests if found else 0, performance)
        if found and simulator.journal is not None:
            simulator.journal.append(self._opened(request, play))
        self._advance(play)

    def _opened(self, request: Request, play: Play) -> Opened:
        known = play.performance
        reading = known.reading
        names = [name.decode("latin-1").lower() for name, _ in request.headers]
        values = zip(names, request.headers, strict=True)
        credential = next((value for name, (_, value) in values if name in _CREDENTIALS), None)
        return Opened(
            play.n,
            self._number,
            self._simulator.clock(),
            request.method,
            request.target.decode("latin-1"),
            known.model,
            reading is not None and reading.question.stream,
            names,
            None if credential is None else fingerprint(credential.removeprefix(b"Bearer ")),
            hashlib.sha256(request.body).hexdigest(),
            kept_body(request.body, reading is not None and request.complete),
            reading.nonce if reading else None,
            known.fault,
        )

    def _advance(self, play: Play) -> None:
        """Play on until a pause, a full kernel buffer, or the end."""
        self._timer = None
        while not self._paused:
            if play.finished:
                self._finish(play)
                return
            step = play.steps[play.next]
            if isinstance(step, Wait):
                play.next += 1
                if step.seconds:
                    self._timer = self._loop.call_later(step.seconds, self._advance, play)
                else:
                    self._timer = self._loop.call_soon(self._advance, play)
                return
            data = play.take()
            if play.finished and play.performance.script.finish != "silent":
                # Journaled before the last byte leaves, so that a client that has it all finds it in the journal.
                fault = play.performance.fault
                self._journal_end(play, f"fault:{fault}" if fault else "complete")
            self._transport.write(data)

    def _finish(self, play: Play) -> None:
        script = play.performance.script
        if script.finish == "silent":
            return
        if play.end is None:
            self._journal_end(play, f"fault:{play.performance.fault}")
        self._play = None
        self.served += 1
        if script.finish != "keep":
            self._closing = True
            self._reset() if script.finish == "reset" else self._transport.close()
        elif self._pending:
            request = self._pending.popleft()
            if len(self._pending) == _PENDING - 1:
                self._transport.resume_reading()
            self._start(request)
        elif script.idle_close is not None:
            self._timer = self._loop.call_later(script.idle_close, self._transport.close)

    def _journal_end(self, play: Play, end: str) -> None:
        if not play.n:
            return
        simulator = self._simulator
        simulator.count_end(play.performance.model, end, play.end)
        if play.end is None:
            simulator.open -= 1
        play.end = end
        if simulator.journal is not None:
            simulator.journal.append(play.closed(end, self._transport.get_write_buffer_size()))

    def _answer_early(self, request: Request, data: bytes) -> None:
        """`early-413`: in the path once the head is there, in the body as soon as the name comes by."""
        if _EARLY in request.target or _EARLY in data:
            request.answered_early = True
            request.keep_alive = False
            self._transport.pause_reading()
            self._start(request)

    def _bad_request(self) -> None:
        self._stop_timer()
        here = Circumstances(self._simulator.requests, 0, False, lambda model: Occasion(0, 0))
        bad = refuse(cast(Format, openai_format), refuse_status(400), here).script
        self._closing = True
        self._transport.write(bad.head + b"".join(step.data for step in bad.body if isinstance(step, Send)))
        self._transport.close()

    def _reset(self) -> None:
        """Close with RST: no lingering, and what the kernel still holds is thrown away."""
        connected = self._transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def shut(self) -> None:
        """The simulator stops: leave at once."""
        self._transport.abort()

"""Streams, both ends: a mock upstream that paces events, and a load that reads them. Each is a process of its own.

`python -m bench.streams mock` prints its port; `python -m bench.streams load JSON` (an `Order`) prints an `Outcome`.
The mock answers as OpenAI does with `stream_options.include_usage`: a role chunk, the text, a finish chunk, a usage
chunk with empty `choices`, and `[DONE]`; at the paths of other vendors as they do. A model that ends in `-slow` gets an
event a second, to hold streams open.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import cast

import httptools
import msgspec
import uvloop

from bench.machine import cpu_seconds, memory_by_process
from bench.vendors import EVENTS, LAST_CHUNK, SCRIPTS, WORDS, Script, begin, chunk, script_of

GAP, SLOW_GAP = 0.02, 1.0


class Order(msgspec.Struct, frozen=True):
    """What the load shall do: how many streams, through which gateway (`pid`), how long. Times in seconds.

    `script` names the format in which the answers come; "" is OpenAI's. Of OpenAI's every event is counted, unless
    `texts` says that words are, as they are of the others.
    """

    pid: int
    port: int
    path: str
    headers: dict[str, str]
    body: str
    streams: int
    warm: float
    seconds: float
    script: str = ""
    texts: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What the load saw: CPU in seconds, the median time to the first token in ms, sizes in kB at the end."""

    events: int
    cpu: float
    first_token: float
    memory: dict[int, int]
    complaint: str = ""


# The mock upstream ------------------------------------------------------------------------------------------------


def render_event(delta: dict[str, object] | None, finish: str | None = None, usage: object = None) -> bytes:
    """One event in a chunk of its own; without a delta it has no choices."""
    event = {"id": "chatcmpl-bench0001", "object": "chat.completion.chunk", "created": 1763700000}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    event |= {"model": "gpt-4o-mini-2024-07-18", "service_tier": "default", "system_fingerprint": "fp_bench"}
    event |= {"choices": [choice] if delta is not None else [], "usage": usage}
    return chunk(b"data: " + msgspec.json.encode(event) + b"\n\n")


USAGE = {"prompt_tokens": 24, "completion_tokens": EVENTS, "total_tokens": 24 + EVENTS}
OPENAI = Script(
    # The first goes out together with the first text, as it does where a model thinks before it speaks.
    begin("text/event-stream; charset=utf-8") + render_event({"role": "assistant", "content": "", "refusal": None}),
    tuple(render_event({"content": WORDS[i % len(WORDS)]}) for i in range(EVENTS)),
    render_event({}, "stop") + render_event(None, usage=USAGE) + chunk(b"data: [DONE]\n\n") + LAST_CHUNK,
    b"data: {",
    b'The"',
    b"[DONE]",
)
CONTENT = b'"delta":{"content":"'  # of words alone


class MockStream(asyncio.Protocol):
    """One connection from a gateway; each request on it gets one paced stream."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.loop = cast(asyncio.Transport, transport), asyncio.get_running_loop()
        self.parser, self.body, self.url = httptools.HttpRequestParser(self), b"", b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.script = SCRIPTS.get(script_of(self.url.decode()), OPENAI)
        self.gap = SLOW_GAP if msgspec.json.decode(self.body).get("model", "").endswith("-slow") else GAP
        self.body, self.sent, self.due = b"", 0, self.loop.time()
        self.transport.write(self.script.first + self.script.texts[0])
        self.send_later()

    def send_later(self) -> None:
        self.sent += 1
        self.due += self.gap
        self.loop.call_at(self.due, self.send_next)

    def send_next(self) -> None:
        if self.transport.is_closing():
            return
        if self.sent == EVENTS:
            self.transport.write(self.script.last)
            return
        self.transport.write(self.script.texts[self.sent])
        self.send_later()


async def serve_mock() -> None:
    """Serve on a port of the kernel's choosing, printed, until ended."""
    server = await asyncio.get_running_loop().create_server(MockStream, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# The load ---------------------------------------------------------------------------------------------------------


class Tally:
    """What all streams of a load have seen since the last `restart`."""

    def __init__(self) -> None:
        self.complaint = ""
        self.restart()

    def restart(self) -> None:
        self.events = 0
        self.first_tokens: list[float] = []


class LoadStream(asyncio.Protocol):
    """One caller: asks, reads the stream to its end, asks again on the same connection."""

    def __init__(self, request: bytes, tally: Tally, script: Script, needle: bytes) -> None:
        """`needle` stands once in whatever is counted."""
        self.request, self.tally, self.script, self.needle = request, tally, script, needle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ask()

    def ask(self) -> None:
        self.parser, self.tail, self.done = httptools.HttpResponseParser(self), b"", False
        self.asked: float | None = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        # The carried tail is shorter than the needle, so no event is counted twice or lost at a boundary.
        text = self.tail + data
        self.tally.events += text.count(self.needle)
        self.tail = text[1 - len(self.needle) :]
        self.done = self.done or self.script.end in text
        if self.asked is not None and self.script.token in text:
            self.tally.first_tokens.append(time.perf_counter() - self.asked)
            self.asked = None

    def on_message_complete(self) -> None:
        if self.done and self.parser.get_status_code() == 200:
            asyncio.get_running_loop().call_soon(self.ask)  # not within the parser that `ask` replaces
        else:
            self.tally.complaint = f"a stream ended with status {self.parser.get_status_code()} and no end"
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.tally.complaint = self.tally.complaint or f"the connection of a stream was lost ({error})"


def render_request(order: Order) -> bytes:
    """The bytes that every stream sends."""
    headers = {"host": "bench", "content-type": "application/json", "accept": "text/event-stream", **order.headers}
    lines = [f"POST {order.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    body = order.body.encode()
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


async def run_load(order: Order) -> Outcome:
    """Open the streams over one second, warm up, then watch, with the gateway's clock read at both ends."""
    loop, tally, request, transports = asyncio.get_running_loop(), Tally(), render_request(order), []
    script = SCRIPTS.get(order.script, OPENAI)
    needle = CONTENT if order.texts and not order.script else script.text
    for _ in range(order.streams):
        transport, _ = await loop.create_connection(
            lambda: LoadStream(request, tally, script, needle), "127.0.0.1", order.port
        )
        transports.append(transport)
        await asyncio.sleep(1 / order.streams)
    await asyncio.sleep(order.warm)
    tally.restart()
    before = cpu_seconds(order.pid)
    await asyncio.sleep(order.seconds)
    events, spent = tally.events, cpu_seconds(order.pid) - before
    first = statistics.median(tally.first_tokens or [0.0]) * 1e3
    outcome = Outcome(events, spent, first, memory_by_process(order.pid), tally.complaint)
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0.1)
    return outcome


if __name__ == "__main__":
    if sys.argv[1] == "mock":
        uvloop.run(serve_mock())
    else:
        print(msgspec.json.encode(uvloop.run(run_load(msgspec.json.decode(sys.argv[2], type=Order)))).decode())

"""Clients under load, and the log of what they saw: one `Asked` for every request, whatever became of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from tests.harness import chat_body, post

PATIENCE = 90.0  # seconds until a request counts as hanging

LONG = "FAULTS_LONG" in os.environ
"""Longer versions of what the tests do: minutes instead of seconds."""

Kind = Literal["plain", "stream", "slow", "leaving", "quiet", "failing", "second", "lasting", "minute"]
KINDS: tuple[Kind, ...] = ("plain", "stream", "slow", "leaving", "quiet", "failing", "second")
WEIGHTS = {"plain": 8, "stream": 6, "slow": 3, "leaving": 1, "quiet": 1, "failing": 1, "second": 1}
CHAINS: dict[str, tuple[str, ...]] = {
    "plain": ("sim/demo",),
    "stream": ("sim/words-12",),
    "slow": ("sim/gap-15+words-30",),
    "leaving": ("sim/gap-15+words-300",),
    "quiet": ("sim/no-usage",),
    "failing": ("sim/status-500",),
    "second": ("sim/status-503", "sim/words-5"),
    "lasting": ("sim/gap-100+words-30",),  # 3 s
    "minute": ("sim/gap-200+words-300",),  # 60 s
}
STREAMED = ("stream", "slow", "leaving", "lasting", "minute")

NONCE = re.compile(r"nonce:[A-Za-z0-9_-]+")


class Asked(msgspec.Struct):
    """A request as its client saw it. Times are Unix seconds; `status` 0: no head came.

    `end`: `whole` (everything came, with its terminal mark), `error` (the body ended in an error event, or the status
    is one), `left` (the client went away), `broken` (the connection ended before), `hung`.
    """

    nonce: str
    client: int
    account: str
    model: str
    kind: str
    sent: float = 0.0
    head: float = 0.0
    ended: float = 0.0
    status: int = 0
    id: str = ""
    code: str = ""
    end: str = "broken"
    usage: dict[str, Any] | None = None
    text: str = ""


class Who(msgspec.Struct, frozen=True):
    """An account's credential, and how often it is chosen."""

    account: str
    key: str
    weight: int = 1


def models(clients: int, kinds: tuple[Kind, ...] = KINDS) -> str:
    """Configuration: priced models of each client's own, so that the books' rows can be told apart."""
    lines = []
    for client in range(clients):
        for kind in kinds:
            chain = json.dumps(CHAINS[kind])
            lines.append(
                f'[models."route/c{client}-{kind}"]\nchain = {chain}\nprice = {{ input = "2", output = "8" }}\n'
            )
    return "".join(lines)


class Broken(Exception):
    """The connection ended where it must not, or could not be made."""


class Pipe:
    """A connection that is made when it is needed, and anew when it has ended."""

    def __init__(self, address: Callable[[], tuple[str, int]], clock: Callable[[], float] = time.time) -> None:
        self.clock = clock  # the time of day
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, data: bytes) -> None:
        try:
            if self._writer is None or self._reader is None or self._reader.at_eof():
                self.close()
                self._reader, self._writer = await asyncio.open_connection(*self._address(), limit=1 << 20)
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise Broken from error

    @property
    def port(self) -> int:
        """Our own end's."""
        assert self._writer is not None
        return int(self._writer.get_extra_info("sockname")[1])

    async def until(self, mark: bytes) -> bytes:
        assert self._reader is not None
        try:
            return await self._reader.readuntil(mark)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Broken from error

    async def exactly(self, count: int) -> bytes:
        assert self._reader is not None
        try:
            return await self._reader.readexactly(count)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Broken from error

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


def headers_of(head: bytes) -> tuple[int, dict[str, str]]:
    status, *lines = head[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(status.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def ask(pipe: Pipe, asked: Asked, request: bytes, leave_after: int | None = None) -> None:
    """Send one request and note in `asked` what comes of it."""
    asked.sent = pipe.clock()
    try:
        async with asyncio.timeout(PATIENCE):
            await pipe.send(request)
            await _hear(pipe, asked, leave_after)
    except TimeoutError:
        asked.end = "hung"
        pipe.close()
    except Broken:
        asked.end = "broken"
        pipe.close()
    except asyncio.CancelledError:
        asked.end = "left"
        pipe.close()
        raise
    finally:
        asked.ended = pipe.clock()


async def _hear(pipe: Pipe, asked: Asked, leave_after: int | None) -> None:
    head = await pipe.until(b"\r\n\r\n")
    asked.head = pipe.clock()
    asked.status, headers = headers_of(head)
    asked.id = headers.get("x-request-id", "")
    asked.code = headers.get("x-error-code", "")
    if headers.get("transfer-encoding") != "chunked":
        body = await pipe.exactly(int(headers["content-length"]))
        if asked.status == 200:
            answer = json.loads(body)
            asked.usage, asked.text = answer["usage"], answer["choices"][0]["message"]["content"]
        asked.end = "whole" if asked.status == 200 else "error"
    else:
        await _hear_stream(pipe, asked, leave_after)
    if headers.get("connection") == "close":
        pipe.close()


async def _hear_stream(pipe: Pipe, asked: Asked, leave_after: int | None) -> None:
    body, pieces, events, done = b"", [], 0, False
    while size := int(await pipe.until(b"\r\n"), 16):
        body += (await pipe.exactly(size + 2))[:-2]
        *whole, body = body.split(b"\n\n")
        for event in whole:
            if event.startswith(b":"):
                continue
            events += 1
            data = event.removeprefix(b"data: ")
            if data == b"[DONE]":
                done = True  # an error frame has one behind it, too
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                asked.code = str(chunk["error"].get("code"))
            asked.usage = chunk.get("usage") or asked.usage
            pieces += [choice["delta"].get("content") or "" for choice in chunk.get("choices", [])]
        if leave_after is not None and events >= leave_after:
            asked.end, asked.text = "left", "".join(pieces)
            pipe.close()
            return
    await pipe.until(b"\r\n")
    asked.text = "".join(pieces)
    asked.end = "whole" if done and not asked.code else "error"


class Crowd:
    """Clients that ask at random, seeded, in a thread of their own, from `start` to `stop`.

    `log` has every request that has ended; `pause` is the seconds between two requests of a client, on average.
    """

    def __init__(
        self,
        address: Callable[[], tuple[str, int]],
        who: list[Who],
        *,
        clients: int = 24,
        seed: int = 1,
        pause: float = 0.1,
        kinds: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._address = address
        self._clock = clock
        self._who = who
        self._clients = clients
        self._seed = seed
        self._pause = pause
        self._kinds = dict(kinds or WEIGHTS)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.log: list[Asked] = []
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> list[Asked]:
        """Let requests in flight end, and give the log."""
        self._stop.set()
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive(), "clients hang"
        if self.failure is not None:
            raise self.failure
        return self.log

    def __enter__(self) -> Crowd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def seen(self, status: int, since: float = 0.0) -> bool:
        """Has a request with this status been sent since?"""
        for asked in reversed(self.log):
            if asked.ended < since:
                return False
            if asked.status == status and asked.sent >= since:
                return True
        return False

    async def _run(self) -> None:
        try:
            await asyncio.gather(*(self._client(number) for number in range(self._clients)))
        except BaseException as error:
            self.failure = error

    async def _client(self, number: int) -> None:
        dice = random.Random(f"{self._seed}/{number}")
        pipe = Pipe(self._address, self._clock)
        await asyncio.sleep(dice.uniform(0, self._pause))
        for count in range(1 << 30):
            if self._stop.is_set():
                break
            who = dice.choices(self._who, [each.weight for each in self._who])[0]
            kind = dice.choices(list(self._kinds), list(self._kinds.values()))[0]
            asked, request = request_of(f"{self._seed}-{number}-{count}", number, who, kind, dice)
            await ask(pipe, asked, request, dice.randint(1, 20) if kind == "leaving" else None)
            self.log.append(asked)
            if dice.random() < 0.1:
                pipe.close()
            await asyncio.sleep(dice.expovariate(1 / self._pause) if self._pause else 0)
        pipe.close()


def request_of(mark: str, client: int, who: Who, kind: str, dice: random.Random) -> tuple[Asked, bytes]:
    """A request that its nonce tells from all others, and its client's models from all other clients'."""
    nonce, model = f"nonce:{mark}", f"route/c{client}-{kind}"
    fields: dict[str, Any] = {"max_tokens": 400}
    if kind in STREAMED:
        fields["stream"] = True
        if dice.random() < 0.5:
            fields["stream_options"] = {"include_usage": True}
    body = chat_body(model, f"{nonce} How does a rate limiter work?", **fields)
    request = post("/v1/chat/completions", body, f"authorization: Bearer {who.key}", "accept: application/json")
    return Asked(nonce, client, who.account, model, kind), request


def burst(
    address: tuple[str, int],
    who: Who,
    count: int,
    *,
    mark: str,
    parallel: int = 40,
    kind: str = "plain",
    clients: int = 1,
) -> list[Asked]:
    """`count` requests, `parallel` at a time, each on a connection of its own: the kernel spreads them over workers.

    `clients` share them; with as many as requests, each is known by its model even if no head of an answer came.
    """

    async def run() -> list[Asked]:
        free, log = asyncio.Semaphore(parallel), []

        async def one(number: int) -> None:
            async with free:
                pipe = Pipe(lambda: address)
                asked, request = request_of(f"{mark}-{number}", number % clients, who, kind, random.Random(number))
                with contextlib.closing(pipe):
                    await ask(pipe, asked, request)
                log.append(asked)

        await asyncio.gather(*(one(number) for number in range(count)))
        return log

    return asyncio.run(run())

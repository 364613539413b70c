"""A server whose answers are cached, the requests that want that, and what its books and its upstream say of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from tests.harness import Answer, Client, Waypost, chat_body, post, provider, serving, wait_until
from tests.sim.running import Running
from waypost.config import load
from waypost.journal_file import HEADER, read_lines
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey
from waypost.records import AnyLine
from waypost.sim.journal import Exchange, read_journal

CONFIG = """
[models."route/priced"]
chain = ["sim/demo"]
price = { input = "2", output = "8", cache_read = "1" }
[models."route/slow"]
chain = ["sim/ttft-400+words-20"]
price = { input = "2", output = "8" }
[plans.open]
[plans.cached]
cache = { ttl = 60 }
[plans.off]
cache = { enabled = false, ttl = 7 }
[plans.three]
requests = { day = 3 }
[plans.tokens]
tokens = { day = 6000 }
[jwt]
secret = "a secret of the tests, long enough for HS256"
plan_claim = "plan"
create_accounts = true
"""
WANTED = "x-waypost-cache: true"


class Row(msgspec.Struct):
    """A request in the books."""

    id: str
    status: int | None
    code: str | None
    provider: str | None
    requests: int | None
    tokens: int | None
    cost: int | None
    source: str | None


class Server(msgspec.Struct):
    """`waypost` in front of `simulator`."""

    waypost: Waypost
    simulator: Running

    def key(self, plan: str = "open", account: str | None = None) -> str:
        """A key of an account of its own, or of this one."""
        message = CreateKey(account or f"{plan}-{secrets.token_hex(6)}", plan)
        settings = load(self.waypost.folder / "waypost.toml")
        created = asyncio.run(administer(self.waypost.folder / "data", settings, message))
        assert isinstance(created, CreatedKey), created
        return created.key

    def request(self, key: str, body: bytes, *headers: str) -> bytes:
        """A chat request that wants the cache, unless `headers` say something of it."""
        lines = [f"authorization: Bearer {key}", "accept: application/json", *headers]
        if not any(line.startswith("x-waypost-cache:") for line in headers):
            lines.append(WANTED)
        return post("/v1/chat/completions", body, *(line for line in lines if line))

    def ask(self, key: str, body: bytes, *headers: str) -> Answer:
        """One such request on a connection of its own."""
        with self.waypost.connect() as client:
            client.send(self.request(key, body, *headers))
            return client.answer()

    @contextlib.contextmanager
    def asking(self, key: str, body: bytes, *headers: str) -> Iterator[Client]:
        """The same, whose answer is yet to be read."""
        with self.waypost.connect() as client:
            client.send(self.request(key, body, *headers))
            yield client

    def rows(self, *ids: str) -> list[Row]:
        """What the books have of these requests, once they are over."""
        wanted = [id.removeprefix("chatcmpl_") for id in ids]
        columns = ", ".join(Row.__struct_fields__)
        statement = f"SELECT {columns} FROM requests WHERE id IN ({', '.join('?' * len(wanted))})"
        found: dict[str, Row] = {}

        def is_complete() -> bool:
            with contextlib.closing(sqlite3.connect(self.waypost.folder / "data" / "waypost.db")) as database:
                found.update({row[0]: Row(*row) for row in database.execute(statement, wanted)})
            return len(found) == len(wanted) and all(row.status is not None for row in found.values())

        wait_until(is_complete, "the books to have it all")
        return [found[id] for id in wanted]

    def row(self, answer: Answer) -> Row:
        """The same of one answer."""
        return self.rows(answer.header("x-request-id") or "")[0]

    def journal(self) -> list[AnyLine]:
        """What the workers have written so far."""
        segments = sorted((self.waypost.folder / "data" / "journal").glob("*.0*"))
        return [line for path in segments for line in read_lines(path.read_bytes(), HEADER).lines]

    def exchanges(self, mark: str) -> list[Exchange]:
        """What the upstream was asked with this mark."""
        return [exchange for exchange in read_journal(self.simulator.journal) if exchange.nonce == mark]


def mark() -> str:
    """Put it into a question, and the upstream's journal finds it again."""
    return "nonce:" + secrets.token_hex(8)


def body(asked: str, model: str = "sim/demo", **fields: Any) -> bytes:
    return chat_body(model, asked, **fields)


def status_of(answer: Answer) -> str | None:
    """HIT, MISS, or None: nobody wanted to know."""
    return answer.header("x-waypost-cache-status")


def said(answer: Answer) -> Any:
    """All that an answer says, but for what is its own."""
    own = ("id", "created", "latency_ms")
    if (answer.header("content-type") or "").startswith("application/json"):
        return {name: value for name, value in answer.json.items() if name not in own}
    assert answer.events[-1] == b"[DONE]"
    return [{name: value for name, value in chunk.items() if name not in own} for chunk in answer.chunks]


def pieces(answer: Answer) -> list[bytes]:
    """The chunks of HTTP that a stream came in, without its request's own id and times."""
    rest, found = answer.raw.partition(b"\r\n\r\n")[2], []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    assert found.pop() == b""
    return found


def ids(answer: Answer) -> set[str]:
    """The ids that an answer has, which should be one."""
    if (answer.header("content-type") or "").startswith("application/json"):
        return {json.loads(answer.body)["id"]}
    return {chunk["id"] for chunk in answer.chunks}


@contextlib.contextmanager
def caching(simulator: Running, config: str = CONFIG, workers: int = 1) -> Iterator[Server]:
    """`CONFIG`, or another, in front of a simulator."""
    with serving(provider("sim", simulator.base) + config, workers=workers) as waypost:
        yield Server(waypost, simulator)

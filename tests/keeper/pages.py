"""The keeper's pages on a socket of their own, over a real database, and a client for them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from sqlalchemy import insert

from tests.keeper.running import data_folder
from waypost.config import Plan, Secret, Store
from waypost.ids import Minter
from waypost.keeper.accounts import Accounts
from waypost.keeper.store import open_database, tables
from waypost.keeper.store.database import Database
from waypost.keeper.web.app import create_app
from waypost.keeper.web.server import Web
from waypost.keeper.web.sources import Sources
from waypost.keys import digest_of
from waypost.messages import CreatedKey, CreateKey, Identify, Identity
from waypost.records import Usage

NOON = 1_795_521_600.0  # 2026-11-24 12:00:00 UTC, a Tuesday
PLANS = {"free": Plan(requests={"day": 50, "hour": 20, "minute": 5}), "open": Plan()}


class Reply(msgspec.Struct):
    """An answer's status, head lines by name, and JSON (or bytes)."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def code(self) -> str | None:
        """The error's token."""
        return self.headers.get("x-error-code")

    @property
    def param(self) -> str | None:
        """The field that the error names."""
        return self.body["error"]["param"]


class Pages:
    """Serving pages; `now` is their clock, `killed` what has been asked to end."""

    def __init__(self, database: Database, plans: Mapping[str, Plan], path: str) -> None:
        self.database = database
        self.path = path
        self.now = NOON
        self.plans = plans
        self.accounts = Accounts(database, plans, lambda: self.now)
        self.killed: list[int] = []
        self.caught_up = 0
        self.is_behind = False

    async def catch_up(self) -> bool:
        self.caught_up += 1
        return not self.is_behind

    async def kill_streams(self, account: int) -> int:
        self.killed.append(account)
        return 3

    def sources(self) -> Sources:
        return Sources(
            self.database,
            lambda: self.plans,
            self.catch_up,
            self.accounts.ask,
            self.kill_streams,
            lambda: b"waypost_up 1\n",
            lambda: self.now,
            lambda: self.now,
        )

    # Filling the books

    async def caller(self, account: str = "ann", plan: str = "free", kind: str = "inference", **terms: Any) -> Identity:
        """The identity of a fresh key."""
        created = await self.accounts.ask(CreateKey(account, plan, kind=kind))
        assert isinstance(created, CreatedKey), created
        identity = await self.identity(created.key)
        return msgspec.structs.replace(identity, **terms)

    async def identity(self, key: str) -> Identity:
        identity = await self.accounts.ask(Identify(digest_of(key.encode())))
        assert isinstance(identity, Identity), identity
        return identity

    async def add(self, table: str, **values: Any) -> None:
        """A row of the books."""
        async with self.database.writing() as connection:
            await connection.execute(insert(tables.metadata.tables[table]).values(values))

    async def request(self, caller: Identity, *, before: float = 0.0, **values: Any) -> str:
        """A settled request `before` seconds before now, and its id; what is not said is usual."""
        at = int((self.now - before) * 1000)
        request_id = Minter(lambda: at / 1000)().decode().removeprefix("chatcmpl_")  # its clock never goes back
        usual = {
            "id": request_id, "account_id": caller.account_id, "key_id": caller.key_id, "at": at, "plan": caller.plan,
            "model": "m", "stream": False, "holds": msgspec.msgpack.encode(()), "estimate": 3, "estimated_cost": 10,
            "journal": "1-0000000000000000", "status": 200, "code": "", "provider": "lab", "upstream_model": "um",
            "attempts": 1, "requests": 1, "tokens": 12, "cost": 1_500_000, "price": "",
            "usage": msgspec.msgpack.encode(Usage(fresh=7, output=5)), "estimated": False, "first_token": 40,
            "latency": 90, "raw": b"",
        }  # fmt: skip
        await self.add("requests", **{**usual, **values})
        return request_id

    async def day(self, caller: Identity, day: str, **values: Any) -> None:
        """A row of `days`."""
        usual = {
            "account_id": caller.account_id, "day": day, "key_id": caller.key_id, "model": "m", "provider": "lab",
            "requests": 1, "errors": 0, "prompt": 10, "cache_read": 0, "cache_write": 0, "completion": 5,
            "reasoning": 0, "cost": 0,
        }  # fmt: skip
        await self.add("days", **{**usual, **values})

    async def spend(self, meter: str, spent: int, holder: str = "host") -> None:
        """A row of `holdings`."""
        await self.add("holdings", holder=holder, meter=meter, granted=spent, spent=spent, recalled=False)

    # Asking

    async def ask(self, method: str, target: str, caller: Identity | None, body: Any = None, *headers: str) -> Reply:
        """One request on a connection of its own. `body` is bytes, or goes as JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "host: keeper", f"content-length: {len(data)}", "connection: close"]
        if caller is not None:
            lines.append(f"x-waypost-caller: {base64.b64encode(msgspec.msgpack.encode(caller)).decode()}")
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            writer.write("\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n" + data)
            answer = await reader.read()
        finally:
            writer.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        status, *rest = head.decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        is_json = fields.get("content-type") == "application/json"
        return Reply(int(status.split(" ")[1]), fields, json.loads(content) if is_json else content)


@contextlib.asynccontextmanager
async def serving_pages(plans: Mapping[str, Plan] = PLANS, database_url: str = "sqlite") -> AsyncIterator[Pages]:
    """Pages over a fresh database until the block ends."""
    with data_folder() as data:
        data.mkdir()
        database = await open_database(Store(database=Secret(database_url)), data)
        listener = socket.socket(socket.AF_UNIX)
        path = str(data / "pages.sock")
        listener.bind(path)
        listener.listen()
        pages = Pages(database, plans, path)
        web = Web(listener, lambda: create_app(pages.sources()))
        web.start()
        try:
            yield pages
        finally:
            await web.close()
            await database.close()

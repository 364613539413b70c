"""The worker's side of the link: stays connected to the keeper, asks it, and passes on what must be forgotten."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from waypost.claims import ForgetAnswer
from waypost.link import Framed, LinkError, LinkLost
from waypost.listing import ForgetPrices
from waypost.messages import (
    PROTOCOL,
    AnyMessage,
    BreakerNews,
    Failed,
    Forget,
    ForgetAccount,
    ForgetAll,
    Hello,
    Holding,
    KilledStreams,
    KillStreams,
    Trouble,
    Welcome,
)
from waypost.preset_messages import ForgetPreset, ForgetPresets

if TYPE_CHECKING:
    from waypost.worker.leases import Leases

logger = logging.getLogger("waypost.worker")

FIRST_DELAY = 0.01
LAST_DELAY = 0.1
"""Seconds between attempts to connect: doubled from the first to the last, each times 0.5 to 1.5 by the dice."""

HELLO_SECONDS = 2.0

TOTALS = 20_000
"""Totals of leases that go into one frame."""

ANNOUNCED = 1.0
"""Seconds of an outage after which it is logged: more than keeper and worker take to start side by side."""


class KeeperUnavailable(Exception):
    """The keeper cannot be asked now, or did not answer in time. It says nothing about what was asked."""


class Caller(Protocol):
    """Who asks the keeper."""

    async def call(self, message: AnyMessage, timeout: float = 2.0) -> AnyMessage:
        """The answer. Raises KeeperUnavailable."""
        ...


class Link:
    """A connection to the keeper that comes back by itself.

    `on_forget(digest)` is called when a key's identity may have changed, `on_forget(account)` when those of an
    account's tokens may have, `on_forget(None)` when any may have: on every connect too, because what the keeper said
    meanwhile was not heard. Until then the link is not `connected`.
    `leases` hear of grants and recalls, and what they spend stands in the journal of the name `journal`.
    `on_kill(account)` ends an account's streams and returns how many there were. `on_news` hears of other workers'
    breakers, `on_preset` of presets that are no longer what they were, `on_answer` of cached answers that are cleared;
    all three hear None on every connect.
    """

    def __init__(
        self,
        path: pathlib.Path,
        on_forget: Callable[[bytes | str | None], None],
        *,
        worker: int = 0,
        journal: str = "",
        leases: Leases | None = None,
        on_kill: Callable[[int], int] = lambda account: 0,
        on_news: Callable[[BreakerNews | None], None] = lambda news: None,
        on_preset: Callable[[ForgetPreset | None], None] = lambda news: None,
        on_prices: Callable[[], None] = lambda: None,
        on_answer: Callable[[bytes | None], None] = lambda scope: None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._path = path
        self._on_forget = on_forget
        self._worker = worker
        self._journal = journal
        self._leases = leases
        self._on_kill = on_kill
        self._on_news = on_news
        self._on_preset = on_preset
        self._on_prices = on_prices
        self._prices: str | None = None  # of which list the worker has heard
        self._on_answer = on_answer
        if leases is not None:
            leases.attach(self)
        self._dice = dice
        self._peer: Framed | None = None
        self._up = asyncio.Event()
        self._lost = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._complaint = ""
        self._is_announced = False
        self.trouble = ""  # why the keeper wants no traffic here

    def start(self) -> None:
        """Begin to connect, in the background, for good."""
        self._connecting = asyncio.create_task(self._stay_connected())

    @property
    def connected(self) -> bool:
        """Whether the keeper has welcomed us and the connection stands."""
        return self._peer is not None

    @property
    def unsent(self) -> int:
        """Bytes that the keeper has yet to read."""
        return self._peer.unsent if self._peer is not None else 0

    async def wait_connected(self, timeout: float) -> None:
        """Return once connected; raises `KeeperUnavailable` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._up.wait()
        except TimeoutError:
            raise KeeperUnavailable(self._complaint or f"no keeper at {self._path} in {timeout:g} s") from None

    async def call(self, message: AnyMessage, timeout: float = 2.0) -> AnyMessage:
        """The keeper's answer. Raises `KeeperUnavailable`, at once while the link is down, else after `timeout` s."""
        if self._peer is None:
            raise KeeperUnavailable("the link to the keeper is down")
        try:
            return await self._peer.call(message, timeout)
        except LinkLost:
            raise KeeperUnavailable("the keeper went away before it answered") from None
        except TimeoutError:
            raise KeeperUnavailable(f"the keeper did not answer in {timeout:g} s") from None

    def push(self, message: AnyMessage) -> None:
        """Tell the keeper; nothing happens while the link is down."""
        if self._peer is not None:
            self._peer.push(message)

    async def close(self) -> None:
        """Stop connecting and close the connection; open calls fail."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._peer is not None:
            self._peer.close()
            await self._lost.wait()

    async def _stay_connected(self) -> None:
        delay = FIRST_DELAY
        clock = asyncio.get_running_loop().time
        since = clock()
        while True:
            try:
                await self._connect()
            except (OSError, LinkLost, LinkError, KeeperUnavailable) as error:
                self._complaint = str(error) or type(error).__name__
            else:
                delay = FIRST_DELAY
                await self._lost.wait()
                self._complaint = "the connection was lost"
                since = clock()
            if clock() - since >= ANNOUNCED:
                self._announce()
            await asyncio.sleep(delay * (0.5 + self._dice()))
            delay = min(delay * 2, LAST_DELAY)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, peer = await loop.create_unix_connection(lambda: Framed(self._receive, self._lose), str(self._path))
        try:
            reply = await peer.call(self._hello(peer), HELLO_SECONDS)
            if not isinstance(reply, Welcome):
                raise KeeperUnavailable(
                    reply.message if isinstance(reply, Failed) else "the keeper did not say welcome"
                )
        except BaseException:
            peer.abort()
            raise
        if not peer.is_open:
            raise LinkLost("the connection was lost")
        # Everything the keeper changed before it listed us is forgotten here; everything after, it pushes.
        self._on_forget(None)
        self._on_news(None)
        self._on_preset(None)
        self._on_answer(None)
        if self._prices not in (None, reply.prices):
            self._on_prices()
        self._prices = reply.prices
        self._peer = peer
        self._lost.clear()
        self._up.set()
        if self._leases is not None:
            self._leases.linked()
        if self._is_announced:
            logger.warning("the link to the keeper is up again")
        self._is_announced = False

    def _hello(self, peer: Framed) -> Hello:
        if self._leases is None:
            return Hello(self._worker)
        totals = self._leases.totals()
        while len(totals) > TOTALS:
            ahead, totals = totals[:TOTALS], totals[TOTALS:]
            peer.push(Holding(tuple(ahead)))
        return Hello(self._worker, PROTOCOL, self._journal, tuple(totals), self._leases.is_fresh)

    def _receive(self, peer: Framed, call_id: int, message: AnyMessage) -> None:
        if isinstance(message, Forget):
            self._on_forget(message.digest)
        elif isinstance(message, ForgetAccount):
            self._on_forget(message.account)
        elif isinstance(message, ForgetAll):
            self._on_forget(None)
        elif isinstance(message, ForgetAnswer):
            self._on_answer(message.scope)
        elif isinstance(message, Trouble):
            self.trouble = message.reason
        elif isinstance(message, BreakerNews):
            self._on_news(message)
        elif isinstance(message, ForgetPreset):
            self._on_preset(message)
        elif isinstance(message, ForgetPresets):
            self._on_preset(None)
        elif isinstance(message, ForgetPrices):
            self._prices = message.prices
            self._on_prices()
        elif isinstance(message, KillStreams):
            peer.reply(call_id, KilledStreams(self._on_kill(message.account)))
        elif self._leases is not None:
            self._leases.receive(message, peer.push)

    def _lose(self, peer: Framed, _error: Exception | None) -> None:
        if peer is self._peer:
            self._peer = None
            self.trouble = ""
            self._up.clear()
            self._lost.set()
            if self._leases is not None:
                self._leases.lost()

    def _announce(self) -> None:
        if not self._is_announced:  # once per outage, not per attempt
            self._is_announced = True
            logger.warning("the link to the keeper is down: %s", self._complaint)

"""The keeper's side of the link: answers calls, and tells every worker of a change before it says that it is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from waypost.claims import AskAnswers, ForgetAnswer, Kept
from waypost.keeper.accounts import Accounts
from waypost.keeper.answers import Answers
from waypost.keeper.meters import Meters
from waypost.keeper.outcome import Push
from waypost.keeper.prices import Prices
from waypost.link import Framed
from waypost.listing import FindNative, FindPrices, ForgetPrices, ListNatives, ReloadedPrices, ReloadPrices
from waypost.messages import (
    PROTOCOL,
    AnyMessage,
    BreakerNews,
    BreakerRow,
    Failed,
    Hello,
    KilledStreams,
    KillStreams,
    ListBreakers,
    Trouble,
    VerifyLedger,
    Welcome,
)

logger = logging.getLogger("waypost.keeper")

FLUSH_SECONDS = 1.0
"""How long a worker may leave a push unread before its connection is cut; it then forgets everything by itself."""

BREAKERS = 10_000
"""Open breakers that are remembered for workers to come."""

KILL_SECONDS = 1.0
"""How long a worker may take to end an account's streams."""


class Links:
    """Every connection to the keeper: workers (they said `Hello`) and commands (they did not)."""

    def __init__(
        self,
        accounts: Accounts,
        prices: Prices,
        meters: Meters,
        answers: Answers,
        verify: Callable[[], Awaitable[AnyMessage]] | None = None,
    ) -> None:
        self._accounts = accounts
        self._verify = verify
        self._meters = meters
        self._kept = answers
        self._prices = prices
        self._open: set[Framed] = set()
        self._workers: dict[Framed, int] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._trouble = Trouble("")
        self._breakers: dict[tuple[str, str, str], BreakerRow] = {}

    def accept(self) -> Framed:
        """The protocol of a new connection: what `create_unix_server` asks for."""
        peer = Framed(self._receive, self._lose)
        self._open.add(peer)
        return peer

    async def broadcast(self, pushes: Sequence[Push | ForgetAnswer | ForgetPrices]) -> None:
        """Return when every worker's socket has taken `pushes`; a worker that does not read for a second is cut off."""
        for peer in list(self._workers):
            for push in pushes:
                peer.push(push)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FLUSH_SECONDS
        await asyncio.sleep(0)  # the loop writes at the end of its turn
        while waiting := [peer for peer in self._workers if peer.unsent]:
            if loop.time() > deadline:
                for peer in waiting:
                    logger.warning("worker %d does not read; cutting its link", self._workers[peer])
                    peer.abort()
                return
            await asyncio.sleep(0.005)

    async def manage(self, message: AnyMessage) -> AnyMessage:
        """Carry out an operation on accounts, keys or presets, and tell every worker before it is said to be done."""
        outcome = await self._accounts.answer(message)
        if outcome.pushes:
            await self.broadcast(outcome.pushes)
        for prefix in outcome.meters:  # by now the workers ask for the new limits
            await self._meters.recall(prefix)
        return outcome.reply

    async def kill_streams(self, account: int) -> int:
        """End an account's streams on every worker; how many there were."""
        calls = (peer.call(KillStreams(account), KILL_SECONDS) for peer in list(self._workers))
        replies = await asyncio.gather(*calls, return_exceptions=True)
        for reply in replies:
            if not isinstance(reply, KilledStreams):
                logger.warning("a worker did not end the streams of account %d: %r", account, reply)
        return sum(reply.count for reply in replies if isinstance(reply, KilledStreams))

    def say_trouble(self, reason: str) -> None:
        """Tell every worker, now and later, why this host should get no traffic; "" if it may."""
        self._trouble = Trouble(reason)
        for peer in self._workers:
            peer.push(self._trouble)

    async def close(self, grace: float) -> None:
        """Finish what is being answered, up to `grace` seconds, then close every connection."""
        if self._answers:
            await asyncio.wait(self._answers, timeout=grace)
        for answer in self._answers:
            answer.cancel()
        for peer in list(self._open):
            peer.close()

    def _receive(self, peer: Framed, call_id: int, message: AnyMessage) -> None:
        if call_id:
            answer = asyncio.create_task(self._answer(peer, call_id, message))
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)
        elif isinstance(message, BreakerNews):
            self._spread(peer, message)
        else:
            self._meters.receive(peer, message)

    def _spread(self, peer: Framed, news: BreakerNews) -> None:
        """A worker's breakers have opened or closed: the others hear of it, and those that come later."""
        for row in news.rows:
            lane = (row.provider, row.key, row.model)
            if not row.until:
                self._breakers.pop(lane, None)
            elif lane in self._breakers or len(self._breakers) < BREAKERS:
                self._breakers[lane] = row
        for other in self._workers:
            if other is not peer:
                other.push(news)

    def _lose(self, peer: Framed, error: Exception | None) -> None:
        self._open.discard(peer)
        self._meters.lost(peer)
        worker = self._workers.pop(peer, None)
        if error is not None:
            logger.warning("link of %s lost: %s", "a command" if worker is None else f"worker {worker}", error)

    async def _answer(self, peer: Framed, call_id: int, message: AnyMessage) -> None:
        try:
            if isinstance(message, Hello):
                reply = await self._welcome(peer, message)
            elif isinstance(message, FindNative | ListNatives | FindPrices):
                reply = await self._prices.answer(message)
            elif isinstance(message, ForgetAnswer):
                await self.broadcast((message,))
                reply = Kept(True)
            elif isinstance(message, ReloadPrices):
                reply = await self._reload_prices()
            elif isinstance(message, AskAnswers):
                reply = await self._kept.answer(peer, message)
            elif isinstance(message, ListBreakers):
                reply = BreakerNews(tuple(self._breakers.values()))
            elif isinstance(message, VerifyLedger) and self._verify is not None:
                reply = await self._verify()
            else:
                reply = await self.manage(message)
        except Exception:
            logger.exception("a defect in answering %s", type(message).__name__)
            reply = Failed("INTERNAL_ERROR", f"a defect in answering {type(message).__name__}; the keeper's log has it")
        peer.reply(call_id, reply)

    async def _reload_prices(self) -> AnyMessage:
        reply = await self._prices.reload()
        if isinstance(reply, ReloadedPrices):
            await self.broadcast([ForgetPrices(self._prices.stamp)])
        return reply

    async def _welcome(self, peer: Framed, hello: Hello) -> AnyMessage:
        """From here on the worker drops what it held and hears every change: so it must be listed before the answer."""
        if hello.protocol != PROTOCOL:
            return Failed(
                "UNAVAILABLE",
                f"the keeper speaks link protocol {PROTOCOL}, worker {hello.worker} speaks {hello.protocol}",
            )
        failed = await self._accounts.check()
        if failed is not None:
            return failed
        if peer in self._open:
            self._workers[peer] = hello.worker
            self._meters.hello(peer, hello)
            if self._trouble.reason:
                peer.push(self._trouble)
            if self._breakers:
                peer.push(BreakerNews(tuple(self._breakers.values())))
        return Welcome(PROTOCOL, self._prices.stamp)

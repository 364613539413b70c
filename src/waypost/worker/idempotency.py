"""`Idempotency-Key`: a request that is sent again gets the answer of the first one, and nothing is made twice.

Who answers is decided by a claim in the keeper's store, so it holds over workers and hosts. Requests of one worker that
share a key share one `Case`: the first to come asks the keeper for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import zlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from waypost.claims import (
    ANSWER_LIMIT,
    Claim,
    Claimed,
    Conflict,
    ReleaseClaim,
    StoreAnswer,
    StoredAnswer,
)
from waypost.errors import Refusal
from waypost.http.exchange import Exchange
from waypost.http.head import Head
from waypost.http.timers import NEVER, Deadlines
from waypost.messages import AnyMessage, Failed
from waypost.worker.answers import EVENTS, cors_lines
from waypost.worker.attempt import WAITING
from waypost.worker.link import KeeperUnavailable
from waypost.worker.recording import FAILED
from waypost.worker.relay import DONE
from waypost.worker.sharing import Flight, LeadingExchange, Listener
from waypost.worker.walk import Signal

if TYPE_CHECKING:
    from waypost.worker.app import Worker

log = logging.getLogger("waypost.serve")

HEADER: Final = "Idempotency-Key"
KEPT_SECONDS: Final = 24 * 3600.0
LONGEST_KEY: Final = 255
find_key = re.compile(rb"[\x20-\x7e]{1,%d}" % LONGEST_KEY).fullmatch

MARGIN_SECONDS: Final = 60.0
"""How long a claim outlives the request that has it, should nobody end it."""

WAIT_SECONDS: Final = 5.0
"""How long the keeper is asked to wait for an answer in flight, again and again."""

CALL_SECONDS: Final = 3.0

DELIVERIES: Final = 16
"""Answers on their way to the keeper at once."""

UNSENT: Final = 2 * 1024 * 1024
"""Bytes that the keeper has yet to read, behind which an answer waits: the link has more to carry."""

UNDELIVERED: Final = 64 * 1024 * 1024
"""Bytes of answers that wait for a keeper that cannot be asked; those over it are not kept."""

SMALL: Final = 128 * 1024
"""Bytes that are compressed in the event loop: less than a millisecond."""

LAST: Final = 3
"""Pieces at the end of an answer among which is the one that says how it ended."""

REPLAYED: Final = b"idempotency-replayed: true\r\n"


class Told(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it is stored: what its caller was sent."""

    headers: bytes
    stream: bool
    pieces: list[bytes]


VERSION: Final = b"I1"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Told).decode


def pack(told: Told) -> bytes:
    """An answer → bytes to keep."""
    return VERSION + zlib.compress(_encode(told), 1)


def unpack(content: bytes) -> Told:
    """What `pack` made. Raises ValueError."""
    if not content.startswith(VERSION):
        raise ValueError("it was stored by another version")
    try:
        return _decode(zlib.decompress(content[len(VERSION) :]))
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(str(error)) from None


# What the caller says


def read_key(head: Head) -> bytes | None:
    """The header's value. Raises Refusal INVALID_REQUEST, or BAD_REQUEST where it is sent twice."""
    key = head.get(b"idempotency-key")
    if key is not None and not find_key(key):
        message = f"{HEADER} must be 1 to {LONGEST_KEY} printable ASCII characters."
        raise Refusal("INVALID_REQUEST", message, param=HEADER)
    return key


async def once(
    worker: Worker, exchange: Exchange, account: int, stream: bool, seconds: float, request_id: bytes
) -> Exchange | None:
    """The exchange to answer into; None where the caller has its answer already. `seconds`: what it may take.

    Raises Refusal IDEMPOTENCY_KEY_REUSED, INVALID_REQUEST, UNAVAILABLE, or that of the request whose answer it shares.
    """
    key = read_key(exchange.head)
    if key is None:
        return exchange
    request = Keyed(
        scope=hashlib.sha256(b"idempotency %d %b" % (account, key)).digest(),
        account=account,
        body=hashlib.sha256(b"%b\n%b" % (exchange.path.rstrip(b"/"), exchange.body)).digest(),
        stream=stream,
        seconds=seconds,
        ends=exchange.arrived + seconds,
        own_lines=cors_lines(worker.origins, exchange),
        early_lines=b"%bx-request-id: %b\r\n" % (EVENTS, request_id),
    )
    return await worker.idempotency.answer(exchange, request, worker.keepalive)


class Keyed(msgspec.Struct, frozen=True):
    """A request with a key. Digests are of 32 bytes; `ends` is by the worker's clock.

    `own_lines` are its caller's own head lines; `early_lines` are for a head that leaves before the answer is there.
    """

    scope: bytes
    account: int
    body: bytes
    stream: bool
    seconds: float
    ends: float
    own_lines: bytes
    early_lines: bytes


# Waiting for the decision

LEAD: Final = "lead"
JOIN: Final = "join"
AGAIN: Final = "again"
KILLED: Final = "killed"
Verdict = str | Refusal


class Waiting:
    """A request until it is known who answers; a stream is kept alive with comments."""

    def __init__(self, exchange: Exchange, request: Keyed, keepalive: float, deadlines: Deadlines) -> None:
        self.verdict: Signal[Verdict] = Signal()
        self.body = request.body
        self.stream = request.stream
        self._exchange = exchange
        self._request = request
        self._keepalive = keepalive if request.stream and keepalive else NEVER
        self._deadlines = deadlines
        self.deadline = min(request.ends, deadlines.now + self._keepalive)

    def expire(self) -> None:
        """Time for a comment, or for giving up."""
        now = self._deadlines.now
        if now >= self._request.ends:
            message = f"The request that has this {HEADER} is still being answered; try again."
            self.verdict.set(Refusal("UNAVAILABLE", message, retry_after=1))
            return
        self._exchange.start(200, self._request.early_lines + self._request.own_lines)
        self._exchange.write(WAITING)
        self.deadline = min(self._request.ends, now + self._keepalive)

    def kill(self) -> None:
        """The account has ended its streams."""
        self._exchange.start(200, self._request.early_lines + self._request.own_lines)
        self._exchange.end(DONE)
        self.verdict.set(KILLED)


class Case:
    """A key that is in use on this worker, until the keeper has its answer or there is none.

    `request` is the first that came, `token` an id that stands for this worker's claim. `flight` is there once it is
    decided that there is an answer, or that one is made here.
    """

    def __init__(self, request: Keyed, token: str) -> None:
        self.request = request
        self.token = token
        self.waiting: list[Waiting] = []
        self.flight: Flight | None = None


class Keeper(Protocol):
    """The link, as claims need it."""

    @property
    def unsent(self) -> int:
        """Bytes that the keeper has yet to read."""

    async def call(self, message: AnyMessage, timeout: float = 2.0) -> AnyMessage:
        """The answer. Raises KeeperUnavailable."""

    async def wait_connected(self, timeout: float) -> None:
        """Raises KeeperUnavailable."""


class Idempotency:
    """The cases of a worker. `mint` gives ids, `deadlines` have the worker's clock.

    `most`: bytes of answers that wait for the keeper.
    """

    def __init__(
        self,
        link: Keeper,
        journal: str,
        mint: Callable[[], bytes],
        deadlines: Deadlines,
        most: int = UNDELIVERED,
    ) -> None:
        self._link = link
        self._most = most
        self._journal = journal
        self._mint = mint
        self._deadlines = deadlines
        self._cases: dict[bytes, Case] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._delivering = asyncio.Semaphore(DELIVERIES)
        self._undelivered = 0

    async def close(self, seconds: float) -> None:
        """Give answers that are on their way to the keeper some time to arrive."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()

    def kill_streams(self, account: int) -> int:
        """End an account's streams that wait; how many there were, and of those that end with what they listen to."""
        count = 0
        for case in [case for case in self._cases.values() if case.request.account == account]:
            waiting = [each for each in case.waiting if each.stream]
            for each in waiting:
                each.kill()
            is_open = case.flight is not None and case.flight.stream and not case.flight.is_over
            count += len(waiting) + (case.flight.listening if case.flight is not None and is_open else 0)
        return count

    async def answer(self, exchange: Exchange, request: Keyed, keepalive: float) -> Exchange | None:
        """As `once`."""
        while True:
            case = self._cases.get(request.scope)
            if case is None:
                case = self._cases[request.scope] = Case(request, self._mint()[-26:].decode())
                self._run(self._decide(case))
            if case.flight is None:
                verdict = await self._wait(case, Waiting(exchange, request, keepalive, self._deadlines))
                if isinstance(verdict, Refusal):
                    raise verdict
                if verdict == KILLED:
                    return None
                if verdict == LEAD and case.flight is not None:
                    return LeadingExchange(exchange, case.flight, request.early_lines)
            if case.flight is None:
                continue  # the key was not this one's to have
            if case.request.body != request.body:
                raise reused()
            listener = Listener(case.flight, exchange, REPLAYED + request.own_lines, request.early_lines)
            if await listener.listen():
                return None

    async def _wait(self, case: Case, waiting: Waiting) -> Verdict:
        case.waiting.append(waiting)
        self._deadlines.watched.add(waiting)
        try:
            return await waiting.verdict
        finally:
            self._deadlines.watched.discard(waiting)
            if waiting in case.waiting:
                case.waiting.remove(waiting)

    # Who answers

    async def _decide(self, case: Case) -> None:
        try:
            outcome = await self._ask(case)
        except Exception:
            log.exception("an %s could not be looked up", HEADER)
            self._release(case)
            outcome = Refusal("INTERNAL_ERROR", "Waypost failed; its log says how.")
        waiting, case.waiting = case.waiting, []
        same = [each for each in waiting if each.body == case.request.body]
        if outcome is None and same:
            case.flight = Flight(case.request.stream, on_over=lambda flight: self._over(case, flight))
            same.pop(0).verdict.set(LEAD)
        else:  # nobody makes it here
            del self._cases[case.request.scope]
            if outcome is None:
                self._release(case)
            elif isinstance(outcome, Flight):
                case.flight = outcome
        for each in same:
            each.verdict.set(outcome if isinstance(outcome, Refusal) else JOIN)
        for each in waiting:
            each.verdict.set(AGAIN)  # who asks something else with the key has had no part in this

    async def _ask(self, case: Case) -> Flight | Refusal | None:
        """The answer, why there is none, or None: it is to be made here."""
        request, is_first = case.request, True
        while is_first or any(each.body == request.body for each in case.waiting):
            wait = 0.0 if is_first else WAIT_SECONDS
            try:
                reply = await self._link.call(self._claim(case, wait), wait + CALL_SECONDS)
            except KeeperUnavailable as error:
                if is_first:
                    self._release(case)  # for all that is known it has been claimed
                    return unavailable(str(error))
                with contextlib.suppress(KeeperUnavailable):
                    await self._link.wait_connected(WAIT_SECONDS)
                continue
            is_first = False
            if isinstance(reply, StoredAnswer):
                return await stored(reply)
            if isinstance(reply, Conflict):
                return reused()
            if isinstance(reply, Failed):
                self._release(case)
                return unavailable(reply.message)
            if isinstance(reply, Claimed):
                return None
        self._release(case)
        return unavailable("nobody waits for it any more")

    def _claim(self, case: Case, wait: float) -> Claim:
        request = case.request
        seconds = request.seconds + MARGIN_SECONDS
        scope, account, body = request.scope, request.account, request.body
        return Claim("idempotency", scope, account, body, case.token, self._journal, seconds, wait)

    def _store(self, case: Case, content: bytes) -> StoreAnswer:
        request = case.request
        scope, account, body = request.scope, request.account, request.body
        return StoreAnswer("idempotency", scope, account, body, case.token, self._journal, KEPT_SECONDS, content)

    # What becomes of an answer

    def _over(self, case: Case, flight: Flight) -> None:
        """It is whole: the keeper gets it, and until then it is here. Or there is none: the next request may try."""
        is_good = flight.is_whole and not any(FAILED(piece) for piece in flight.pieces[-LAST:])
        if is_good and self._undelivered + flight.size <= self._most:
            self._undelivered += flight.size
            self._run(self._deliver(case, flight))
            return
        if is_good:
            log.error("an answer with an %s is not kept: too many wait for the keeper", HEADER)
        self._cases.pop(case.request.scope, None)
        self._release(case)

    def _release(self, case: Case) -> None:
        message = ReleaseClaim(case.request.scope, case.token)
        self._run(self._tell(message, case.request.seconds + MARGIN_SECONDS))

    async def _deliver(self, case: Case, flight: Flight) -> None:
        request = case.request
        seconds = request.seconds + MARGIN_SECONDS
        try:
            async with self._delivering:
                content = await packed(flight)
                message: StoreAnswer | ReleaseClaim = ReleaseClaim(request.scope, case.token)
                if content is not None:
                    message = self._store(case, content)
                await self._tell(message, seconds)
        finally:
            self._undelivered -= flight.size
            if self._cases.get(request.scope) is case:
                del self._cases[request.scope]

    async def _tell(self, message: StoreAnswer | ReleaseClaim, seconds: float) -> None:
        """Until the keeper has heard it, for as long as the claim holds."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while True:
            try:
                while self._link.unsent > UNSENT:
                    await asyncio.sleep(0.002)
                reply = await self._link.call(message, CALL_SECONDS)
                if not isinstance(reply, Failed):
                    return
                reason = reply.message
            except KeeperUnavailable as error:
                reason = str(error)
            if loop.time() >= ends:
                log.error("the keeper could not be told of an answer with an %s: %s", HEADER, reason)
                return
            with contextlib.suppress(KeeperUnavailable):
                await self._link.wait_connected(1.0)
            await asyncio.sleep(0.2)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def packed(flight: Flight) -> bytes | None:
    """The bytes to store; None where they are too many."""
    told = Told(flight.headers, flight.stream, flight.pieces)
    content = pack(told) if flight.size <= SMALL else await asyncio.to_thread(pack, told)
    if len(content) > ANSWER_LIMIT:
        log.warning("an answer of %d bytes with an %s is too large to be kept", flight.size, HEADER)
        return None
    return content


async def stored(answer: StoredAnswer) -> Flight | Refusal:
    """What was stored, whole; or why nobody can have it."""
    content = answer.content
    try:
        told = unpack(content) if len(content) <= SMALL // 8 else await asyncio.to_thread(unpack, content)
    except ValueError as error:
        log.error("the answer that is stored for an %s cannot be read: %s", HEADER, error)
        return Refusal("INTERNAL_ERROR", f"The answer that this {HEADER} has cannot be read; use another key.")
    flight = Flight(told.stream, told.headers)
    flight.pieces = told.pieces
    flight.is_whole = True
    return flight


def reused() -> Refusal:
    """The key belongs to another body."""
    message = f"This {HEADER} was sent with another body less than 24 hours ago; use a new key for a new request."
    return Refusal("IDEMPOTENCY_KEY_REUSED", message, param=HEADER)


def unavailable(reason: str) -> Refusal:
    """Nobody knows whether the request was made before, so it is not made."""
    return Refusal(
        "UNAVAILABLE", f"The {HEADER} cannot be looked up at this moment: {reason}. Try again.", retry_after=1
    )

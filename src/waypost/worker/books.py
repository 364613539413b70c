"""A worker's part of the books: what a request takes of its caller's limits, and its lines in the journal.

Every admitted request has one `Entry`, which is settled exactly once, in whichever way the request ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import astuple

from waypost.config import Config, Plan
from waypost.dollars import render_dollars
from waypost.errors import Refusal
from waypost.formats.openai_answer import render_usage
from waypost.formats.openai_chat import ChatRequest, Fields, decode_fields, encode
from waypost.formats.usage import estimate_completion, estimate_tokens, parse_usage
from waypost.messages import Identity
from waypost.policy.admission import OUTPUT_RESERVE, limit_lines, meters_of, refusal_of
from waypost.pricing import Price, prompt_cost, reserve
from waypost.pricing import cost as cost_of
from waypost.pricing import saved as saved_of
from waypost.records import NOTHING, Attempted, Opened, Priced, Repeated, Settled, Tally, Usage
from waypost.worker.journal import Journal, JournalUnavailable
from waypost.worker.leases import Leases
from waypost.worker.link import KeeperUnavailable
from waypost.worker.purse import Charge, Purse

if TYPE_CHECKING:
    from waypost.http.exchange import Exchange
    from waypost.worker.outcome import Outcome, Tried
    from waypost.worker.upstreams import Upstream

SHORT = 4096  # bytes of a request that cannot hold an inline file to speak of
PURSES = 20_000  # callers whose meters are at hand
RAW_USAGE = 4096  # bytes of an upstream's own usage that a receipt keeps


class Books:
    """Owns the worker's purses and open entries; writes to its journal, and takes from its leases."""

    def __init__(
        self,
        leases: Leases,
        journal: Journal,
        settings: Config,
        look_ups: Callable[[], int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`look_ups`: how often keys have been looked up so far. `wall` gives seconds since 1970 UTC."""
        self.leases = leases
        self.journal = journal
        self.wall = wall
        self._plans = settings.plans
        self._purses: dict[int, Purse] = {}
        self._latest: dict[int, str] = {}  # by account: the plan whose limits its leases know
        self._streams: dict[int, set[Entry]] = {}
        self._refusals: dict[str, int] = {}
        self.priced: set[str] = set()  # versions that the journal has
        self._look_ups = look_ups
        self._look_ups_told = 0

    def adopt(self, settings: Config) -> None:
        """A new configuration: limits may have changed, so every unit goes back and is asked for anew."""
        self._plans = settings.plans
        self._purses.clear()
        self.leases.return_all()

    # Admission

    def purse(self, identity: Identity, free: bool = False) -> Purse:
        """The caller's meters as of now. Raises Refusal where the plan is no longer configured.

        `free`: those that requests to `:free` variants move.
        """
        purse = self._purses.get(id(identity))
        now = self.wall()
        account = identity.account_id
        # A clock that is set back changes the window, too; and of two tokens of an account on two plans, each has its
        # own limits of the same meters.
        if purse is None or not purse.starts <= now < purse.ends or self._latest.get(account) != identity.plan:
            plan = self._plans.get(identity.plan)
            if plan is None:
                raise Refusal("MODEL_NOT_ALLOWED", f"The plan {identity.plan!r} is not configured any more.")
            if len(self._purses) >= PURSES:
                self._purses.clear()
                self._latest.clear()
            self._latest[account] = identity.plan
            purse = self._purses[id(identity)] = self._new_purse(identity, plan, now)
        return purse if not free else self._free_purse(purse, now)

    def _free_purse(self, purse: Purse, now: float) -> Purse:
        plan = self._plans[purse.identity.plan]
        if purse.free is None or not purse.free.starts <= now < purse.free.ends:
            purse.free = self._new_purse(purse.identity, plan, now, free=True)
        return purse.free

    def _new_purse(self, identity: Identity, plan: Plan, now: float, *, free: bool = False) -> Purse:
        leases = [
            (meter, self.leases.lease(meter.name, meter.limit, meter.ends))
            for meter in meters_of(identity, plan, now, free=free)
        ]
        return Purse(identity, leases)

    def open(
        self,
        identity: Identity,
        request: ChatRequest,
        exchange: Exchange,
        upstreams: Sequence[Upstream],
        request_id: bytes,
        free: bool = False,
    ) -> Entry:
        """A request's entry; its charge is to be taken, and its line written, by `Entry.admit`. Raises Refusal."""
        purse = self.purse(identity, free)
        body = request.body
        # Where nothing is reserved by it, nobody is charged by it but for a request whose worker is killed.
        estimate = estimate_tokens(body) if purse.by_use or len(body) > SHORT else len(body) // 4
        tokens = cost = 0
        if purse.by_use:
            output = (request.max_output or OUTPUT_RESERVE) * request.choices
            tokens = estimate + output
            if purse.money:
                cost = self.most(identity, upstreams, estimate, output)
        charge = purse.charge(request.stream, tokens, cost)
        return Entry(self, purse, charge, request, upstreams[0].price, estimate, request_id, exchange)

    def most(self, identity: Identity, upstreams: Sequence[Upstream], prompt: int, completion: int) -> int:
        """The most that a request may cost, whichever upstream serves it. Raises Refusal MODEL_NOT_PRICED."""
        return most_of(self._plans[identity.plan], upstreams, prompt, completion)

    # The journal

    def write_opened(self, line: Opened | Repeated) -> None:
        """Must be in the journal before an upstream is asked. Raises Refusal UNAVAILABLE."""
        try:
            self.journal.append(line)
        except JournalUnavailable as error:
            raise unwritten(error) from None

    async def on_disk(self, written: asyncio.Future[None]) -> None:
        """Wait for what `journal.synced` gave. Raises Refusal UNAVAILABLE."""
        try:
            await written
        except JournalUnavailable as error:
            raise unwritten(error) from None

    def name_price(self, price: Price) -> None:
        """Write down what a price is, before the first line that names it."""
        self.journal.append(Priced(price.version, price.terms))
        self.priced.add(price.version)

    def refused(self, code: str) -> None:
        """Count a refusal."""
        self._refusals[code] = self._refusals.get(code, 0) + 1

    def tick(self) -> None:
        """Once a second: write down what was counted."""
        takes, look_ups = self.leases.counted(), self._look_ups() - self._look_ups_told
        if self._refusals or takes or look_ups:
            self.journal.append(Tally(int(self.wall() * 1000), self._refusals, takes, look_ups))
            self._refusals = {}
            self._look_ups_told += look_ups

    # Streams of an account

    def entered(self, entry: Entry) -> None:
        """A stream is open."""
        self._streams.setdefault(entry.account, set()).add(entry)

    def left(self, entry: Entry) -> None:
        """A stream is over."""
        streams = self._streams.get(entry.account)
        if streams is not None:
            streams.discard(entry)
            if not streams:
                del self._streams[entry.account]

    def kill_streams(self, account: int) -> int:
        """End an account's streams, each with `[DONE]`; how many there were."""
        entries = list(self._streams.get(account, ()))
        for entry in entries:
            entry.kill()
        return len(entries)


class Entry:
    """One request's page: its charge, its lines, and its end."""

    __slots__ = (
        "_books", "_charge", "_estimate", "_exchange", "_is_open", "_latency", "_price", "_purse", "_request",
        "account", "attempt", "attempts", "first_token", "id", "identity", "is_killed", "is_unheard", "request_id",
    )  # fmt: skip

    def __init__(
        self,
        books: Books,
        purse: Purse,
        charge: Charge,
        request: ChatRequest,
        price: Price | None,
        estimate: int,
        request_id: bytes,
        exchange: Exchange,
    ) -> None:
        self._books = books
        self._purse = purse
        self._charge = charge
        self._request = request
        self._price = price  # of the first upstream
        self._estimate = estimate
        self._exchange = exchange
        self._is_open = False
        self._latency = 0  # milliseconds, once a whole answer has said it
        self.request_id = request_id
        self.id = request_id[-26:]
        self.identity = purse.identity
        self.account = purse.identity.account_id
        self.attempts = 0
        self.first_token = 0
        self.is_killed = False
        self.is_unheard = False  # the caller left, and others are still to have the answer
        self.attempt: Tried | None = None  # the latest

    # Admission

    def admit(self) -> bool:
        """Take the charge and write the opening line; False where a lease is short. Raises Refusal UNAVAILABLE."""
        if not self._charge.take():
            return False
        books, identity, request = self._books, self.identity, self._request
        price = self._price
        line = Opened(
            self.id,
            int(books.wall() * 1000),
            identity.account_id,
            identity.key_id,
            identity.plan,
            request.model,
            request.stream,
            self._charge.holds,
            self._estimate,
            prompt_cost(price, self._estimate) if price is not None else 0,
        )
        self._write(line)
        self._is_open = True
        if request.stream:
            books.entered(self)
        return True

    def admit_repeated(self, source: bytes) -> bool:
        """`admit` and `repeated` in one line; False where a lease is short. Raises Refusal UNAVAILABLE."""
        if not self._charge.take():
            return False
        books, identity, request = self._books, self.identity, self._request
        line = Repeated(
            self.id,
            int(books.wall() * 1000),
            identity.account_id,
            identity.key_id,
            identity.plan,
            request.model,
            request.stream,
            self._charge.holds,
            self._milliseconds(),
            source,
        )
        self._write(line)
        books.leases.settle(self._charge.takes, 1, 0, 0)
        return True

    def _write(self, line: Opened | Repeated) -> None:
        """Write down what the charge has been taken for, or give it back. Raises Refusal UNAVAILABLE."""
        try:
            self._books.write_opened(line)
        except Refusal:
            for lease, units in self._charge.takes:
                self._books.leases.give_back(lease, units)
            raise

    async def admit_slowly(self) -> None:
        """`admit` with what the keeper still has. Raises Refusal: the limit that is full, or UNAVAILABLE."""
        books, purse = self._books, self._purse
        while True:
            try:
                short = await books.leases.more(self._charge.takes)
            except KeeperUnavailable as error:
                message = f"Your limits cannot be checked at this moment: {error}. Try again."
                raise Refusal("UNAVAILABLE", message, retry_after=1) from None
            if self.admit():
                return
            if short is not None:
                break
        lease, need = short
        now = books.wall()
        left = {own: own.remaining + own.units for _, own in purse.leases}
        left[lease] = min(left[lease], need - 1)
        refusal = refusal_of(purse.meter(lease), need, left[lease], now)
        refusal.lines = limit_lines(
            ((meter, left[own]) for meter, own in purse.leases if meter.what == "requests"), now
        )
        raise refusal

    # On the way

    def began(self, attempt: Tried) -> None:
        """Another attempt."""
        attempt.number = self.attempts = self.attempts + 1
        self.attempt = attempt

    def failed_attempt(self, outcome: Outcome, milliseconds: int, tried: Tried | None = None) -> None:
        """An attempt (None: the latest) brought no answer; another may follow, or be under way beside it."""
        tried = tried or self.attempt
        assert tried is not None
        upstream = tried.upstream
        line = Attempted(
            self.id,
            tried.number,
            int(self._books.wall() * 1000),
            upstream.provider,
            upstream.model,
            outcome.code,
            outcome.status,
            milliseconds,
        )
        self._books.journal.append(line)

    def began_answer(self) -> None:
        """The first byte of an answer."""
        if not self.first_token:
            self.first_token = self._milliseconds() or 1

    def latency_ms(self) -> int:
        """Milliseconds since the request arrived, for its answer to say; the books will say the same."""
        self._latency = self._milliseconds()
        return self._latency

    def render_usage(self, raw: msgspec.Raw | None, observed: int) -> msgspec.Raw:
        """The usage that the caller sees where it is not the upstream's own: an estimate, or with its cost."""
        usage, is_estimated = self._usage(raw, None, observed)
        fields = decode_fields(raw) if raw is not None else render_plain_usage(usage)
        return self._completed(fields, usage, is_estimated)

    def render_counted(self, counted: Usage | None, observed: int) -> msgspec.Raw:
        """The same where the upstream's own usage is not OpenAI's."""
        usage, is_estimated = self._usage(None, counted, observed)
        fields = decode_fields(encode(render_usage(usage))) if counted is not None else render_plain_usage(usage)
        return self._completed(fields, usage, is_estimated)

    def _completed(self, fields: Fields, usage: Usage, is_estimated: bool) -> msgspec.Raw:
        if is_estimated:
            fields["estimated"] = msgspec.Raw(b"true")
        price = self.attempt.upstream.price if self.attempt is not None else None
        if self._request.wants_cost and price is not None:
            fields["cost"] = msgspec.Raw(render_dollars(cost_of(price, usage)).encode())
        return msgspec.Raw(encode(fields))

    def kill(self) -> None:
        """The account wants its streams to end."""
        self.is_killed = True
        on_gone = self._exchange.on_gone
        if on_gone is not None:
            on_gone()

    # The end: exactly one of these, the first

    def answered(self) -> None:
        """The whole answer is about to leave."""
        if self._request.stream:
            self.began_answer()  # its first byte may be in the same read as its last
        if self.is_unheard:
            self.ended_early("CLIENT_GONE")
        else:
            self._settle_used(200, "")

    def repeated(self, source: bytes) -> None:
        """A whole answer is about to leave that was another request's already: it counts, and costs nothing."""
        self.began_answer()
        self._settle(200, "", 1, NOTHING, False, b"", source)

    def refused(self, refusal: Refusal) -> None:
        """No answer: the request is given back. Or one that broke off: what there was of it is charged."""
        code = refusal.failure.code
        if not self._exchange.started:
            self._settle(refusal.status, code, 0, NOTHING, False, b"")
        elif self.attempt is not None and self.first_token and self.attempt.relay.observed:
            self._settle_used(200, code)
        else:
            self._settle(200, code, 0, NOTHING, False, b"")

    def ended_early(self, code: str) -> None:
        """The caller left, or ended its streams: charged for what an upstream has done for it, if one was asked."""
        status = 200 if self._exchange.started else 0
        if self.attempt is not None and self.attempt.was_sent:
            self._settle_used(status, code)
        else:
            self._settle(status, code, 0, NOTHING, False, b"")

    def _settle_used(self, status: int, code: str) -> None:
        assert self.attempt is not None
        relay = self.attempt.relay
        usage, is_estimated = self._usage(relay.usage, relay.counted, relay.observed)
        raw = bytes(relay.usage)[:RAW_USAGE] if relay.usage is not None else b""
        self._settle(status, code, 1, usage, is_estimated, raw)

    def _usage(self, raw: msgspec.Raw | None, counted: Usage | None, observed: int) -> tuple[Usage, bool]:
        usage = parse_usage(raw) if raw is not None and counted is None else counted
        if usage is not None:
            return usage, False
        return Usage(fresh=estimate_tokens(self._request.body), output=estimate_completion(observed)), True

    def _settle(
        self, status: int, code: str, requests: int, usage: Usage, estimated: bool, raw: bytes, source: bytes = b""
    ) -> None:
        if not self._is_open:
            return
        self._is_open = False
        books = self._books
        upstream = self.attempt.upstream if self.attempt is not None else None
        self.attempt = None  # or entry, attempt and relay would hold each other until the collector comes
        tokens = sum(astuple(usage)) if requests else 0
        price, cost, saved = "", 0, 0
        if upstream is not None and requests and upstream.price is not None:
            price, cost = upstream.price.version, cost_of(upstream.price, usage)
            saved = saved_of(upstream.price, usage)
            if price not in books.priced:
                books.name_price(upstream.price)
        books.journal.append(
            Settled(
                self.id,
                int(books.wall() * 1000),
                status,
                code,
                upstream.provider if upstream is not None else "",
                upstream.model if upstream is not None else "",
                self.attempts,
                requests,
                tokens,
                cost,
                price,
                usage,
                estimated,
                self.first_token,
                (not code and not self.first_token and self._latency) or self._milliseconds(),
                raw,
                source,
                saved,
            )
        )
        books.leases.settle(self._charge.takes, requests, tokens, cost)
        if self._request.stream:
            books.left(self)

    def _milliseconds(self) -> int:
        return int((time.monotonic() - self._exchange.arrived) * 1000)


def unwritten(error: JournalUnavailable) -> Refusal:
    """A request that cannot be written down is not made."""
    return Refusal("UNAVAILABLE", f"Requests cannot be written down: {error}", retry_after=5)


def render_plain_usage(usage: Usage) -> Fields:
    """OpenAI's usage object."""
    counts = (
        ("prompt_tokens", usage.prompt),
        ("completion_tokens", usage.completion),
        ("total_tokens", usage.prompt + usage.completion),
    )
    return {name: msgspec.Raw(b"%d" % value) for name, value in counts}


def most_of(plan: Plan, upstreams: Sequence[Upstream], prompt: int, completion: int) -> int:
    """Nano-dollars that a request of so many tokens may cost on this plan. Raises Refusal MODEL_NOT_PRICED."""
    most = 0
    for upstream in upstreams:
        if upstream.price is not None:
            most = max(most, reserve(upstream.price, prompt, completion))
        elif plan.unpriced == "refuse":
            message = (
                f"{upstream.provider}/{upstream.model} has no price, and this account's use is limited in money; "
                'its operator can set `price` on the model, or `unpriced = "allow"` on the plan.'
            )
            raise Refusal("MODEL_NOT_PRICED", message, param="model")
    return most

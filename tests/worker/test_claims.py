"""A worker's side of claims, with a keeper that says what a test wants: who leads, who waits, who is told what."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.keeper.running import until
from tests.worker.test_sharing import HEAD, LINES, Line
from waypost.claims import Claim, Claimed, Conflict, InFlight, Kept, ReleaseClaim, StoreAnswer, StoredAnswer
from waypost.errors import Refusal
from waypost.http.exchange import Exchange
from waypost.http.timers import Deadlines
from waypost.messages import Failed
from waypost.worker.attempt import WAITING
from waypost.worker.idempotency import HEADER, REPLAYED, Idempotency, Keyed, Told, pack, unpack
from waypost.worker.link import KeeperUnavailable
from waypost.worker.walk import Walk

AWAY = KeeperUnavailable("the link to the keeper is down")


class Keeper:
    """Answers claims with `replies`, one after the other and the last for good; and hears what it is told."""

    unsent = 0

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.heard: list[Any] = []
        self.is_away = False

    async def call(self, message: Any, timeout: float = 2.0) -> Any:
        await asyncio.sleep(0)
        if self.is_away:
            raise AWAY
        self.heard.append(message)
        if not isinstance(message, Claim):
            return Kept(True)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, InFlight):
            await asyncio.sleep(0.01)
        return reply

    async def wait_connected(self, timeout: float) -> None:
        await asyncio.sleep(0.01)

    def told(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]


class Request:
    """One request on its walk: `result` is the exchange to answer into, None, or a Refusal."""

    def __init__(
        self, cases: Idempotency, body: bytes = b"b", stream: bool = False, ends: float = 1e9, keepalive: float = 0.0
    ) -> None:
        self.line = Line()
        self.exchange = Exchange(self.line, HEAD, 0.0)  # type: ignore[arg-type]
        self.result: Any = "waits"
        self.walks: set[Walk] = set()
        keyed = Keyed(b"s" * 32, 7, body * 32, stream, 5.0, ends, b"x-own: 1\r\n", b"x-early: 1\r\n")

        async def steps() -> None:
            try:
                self.result = await cases.answer(self.exchange, keyed, keepalive)
            except Refusal as refusal:
                self.result = refusal

        self.walk = Walk(steps(), self.walks)
        self.exchange.on_gone = self.walk.cancel
        self.walk.go_on()

    @property
    def code(self) -> str:
        assert isinstance(self.result, Refusal), self.result
        return self.result.failure.code


def run(work: Callable[[Callable[..., Idempotency], Deadlines], Coroutine[Any, Any, None]]) -> None:
    """`work` with what makes the cases on a keeper."""

    async def main() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        numbers = itertools.count()
        made: list[Idempotency] = []

        def cases(keeper: Keeper, **more: Any) -> Idempotency:
            made.append(Idempotency(keeper, "j", lambda: b"chatcmpl_%026d" % next(numbers), deadlines, **more))
            return made[-1]

        try:
            await work(cases, deadlines)
            for each in made:
                await each.close(5.0)
                assert not each._cases and each._undelivered == 0, "nothing is left behind"
        finally:
            deadlines.close()

    asyncio.run(main())


async def settled(*requests: Request) -> None:
    await until(lambda: all(request.result != "waits" for request in requests))


def stored_answer(body: bytes = b"{}") -> StoredAnswer:
    return StoredAnswer("first", 0, 0, pack(Told(LINES, False, [body])))


def test_one_claim_for_all_who_come_and_one_answer() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(Claimed())
        own = cases(keeper)
        lead, *others = [Request(own) for _ in range(5)]
        await settled(lead)
        assert [other.result for other in others] == ["waits"] * 4
        lead.result.respond(200, LINES, b"{}")
        late = Request(own)
        for other in (*others, late):
            assert other.result is None and other.line.sent.endswith(b"\r\n\r\n{}")
            assert LINES + b"idempotency-replayed: true\r\nx-own: 1\r\n" in other.line.sent
        await until(lambda: not own._tasks)
        (claim,), (stored,) = keeper.told(Claim), keeper.told(StoreAnswer)
        assert (claim.request, claim.seconds, stored.seconds) == (stored.request, 65.0, 86_400.0)
        assert unpack(stored.content) == Told(LINES, False, [b"{}"]) and not keeper.told(ReleaseClaim)

    run(work)


def test_the_stored_answer_is_everyone_s() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(InFlight("x"), InFlight("x"), stored_answer())
        requests = [Request(own := cases(keeper)), Request(own), Request(own)]
        await settled(*requests)
        assert [request.result for request in requests] == [None] * 3
        assert [claim.wait for claim in keeper.told(Claim)] == [0.0, 5.0, 5.0]

    run(work)


def test_one_that_cannot_be_read_is_an_error_and_is_not_made_again() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        for content in (b"", b"I0x", b"I1", b"I1x", pack(Told(LINES, False, []))[:-1]):
            request = Request(cases(Keeper(StoredAnswer("first", 0, 0, content))))
            await settled(request)
            assert request.code == "INTERNAL_ERROR"

    run(work)


def test_another_body_asks_for_itself_where_nothing_is_decided_yet() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(InFlight("x"), Conflict(), stored_answer())
        own = cases(keeper)
        first, other, same = Request(own), Request(own, b"o"), Request(own)
        await settled(first, other, same)
        assert (first.code, same.code, other.result) == ("IDEMPOTENCY_KEY_REUSED", "IDEMPOTENCY_KEY_REUSED", None)
        assert len({claim.body for claim in keeper.told(Claim)}) == 2

    run(work)


def test_another_body_is_refused_where_one_is_answered() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(Claimed())
        own = cases(keeper)
        lead, other = Request(own), Request(own, b"o")
        await settled(lead, other)
        assert other.code == Request(own, b"o").code == "IDEMPOTENCY_KEY_REUSED"
        assert len(keeper.told(Claim)) == 1
        lead.result.respond(200, LINES, b"{}")

    run(work)


# Keepers that cannot be asked


def test_without_a_keeper_nothing_is_made_and_what_may_have_been_claimed_is_released() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(AWAY)
        requests = [Request(own := cases(keeper)), Request(own), Request(own, b"o")]
        await settled(*requests)
        assert {request.code for request in requests} == {"UNAVAILABLE"}
        assert all(HEADER in request.result.message and request.result.retry_after == 1 for request in requests)
        await until(lambda: not own._tasks)
        claims, releases = keeper.told(Claim), keeper.told(ReleaseClaim)
        assert sorted(claim.request for claim in claims) == sorted(each.request for each in releases)

    run(work)


def test_a_database_that_is_gone_is_the_same() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(Failed("UNAVAILABLE", "disk I/O error"))
        request = Request(own := cases(keeper))
        await settled(request)
        assert request.code == "UNAVAILABLE" and "disk I/O error" in request.result.message
        await until(lambda: not own._tasks)
        assert len(keeper.told(ReleaseClaim)) == 1

    run(work)


def test_who_waits_already_waits_for_the_next_keeper() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(InFlight("x"), AWAY, AWAY, Claimed())
        request = Request(cases(keeper))
        await settled(request)
        request.result.respond(200, LINES, b"{}")
        assert len({claim.request for claim in keeper.told(Claim)}) == 1, "it may have been claimed by a lost call"

    run(work)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_what_may_wait_for_a_keeper(more: int) -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(Claimed())
        own = cases(keeper, most=1000)
        request = Request(own)
        await settled(request)
        keeper.is_away = True
        request.result.respond(200, LINES, b"x" * (1000 + more))
        again = Request(own)
        if more > 0:
            await settled(again)
            assert again.code == "UNAVAILABLE", "it is not here any more, and nobody knows more"
        else:
            assert again.result is None and again.line.sent.endswith(b"x" * (1000 + more))
        keeper.is_away = False
        await until(lambda: not own._tasks)
        assert (len(keeper.told(StoreAnswer)), len(keeper.told(ReleaseClaim))) == ((0, 2) if more > 0 else (1, 0))

    run(work)


# Those who leave, and time


def test_who_leaves_before_it_is_decided_leaves_no_claim_behind() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(Claimed())
        request = Request(own := cases(keeper))
        request.exchange.cut()
        assert not request.walks
        await until(lambda: not own._tasks)
        (claim,), (release,) = keeper.told(Claim), keeper.told(ReleaseClaim)
        assert claim.request == release.request

    run(work)


def test_the_next_one_leads_where_the_first_has_left() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(Claimed())
        first, second = Request(own := cases(keeper)), Request(own)
        first.exchange.cut()
        await settled(second)
        assert first.result == "waits" and len(keeper.told(Claim)) == 1
        second.result.respond(200, LINES, b"{}")
        assert second.line.sent.endswith(b"\r\n\r\n{}") and REPLAYED not in second.line.sent

    run(work)


def test_who_listens_to_one_that_was_refused_tries_for_itself() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(Claimed())
        own = cases(keeper)
        requests = [Request(own) for _ in range(4)]
        for index, request in enumerate(requests):
            await settled(request)
            assert [other.result for other in requests[index + 1 :]] == ["waits"] * (3 - index)
            why = Refusal("DAILY_REQUEST_LIMIT_EXCEEDED", "used")
            request.result.broke(why)
            request.result.respond(429, b"", b"{}")
        await until(lambda: not own._tasks)
        kinds = [type(message) for message in keeper.heard]
        assert kinds == [Claim, ReleaseClaim] * 4, "each claim after the release of the one before"

    run(work)


@pytest.mark.parametrize("stream", [False, True])
def test_waiting_ends_with_the_request_s_time_and_streams_are_kept_alive(stream: bool) -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        ends = deadlines.now + 0.5
        request = Request(cases(Keeper(InFlight("x"))), stream=stream, ends=ends, keepalive=0.15)
        await settled(request)
        assert request.code == "UNAVAILABLE" and deadlines.now >= ends
        assert request.line.said.count(WAITING) == (0 if not stream else request.line.said.count(b"\n\n"))
        assert bool(request.line.sent) is stream
        assert not deadlines.watched

    run(work)


def test_streams_that_wait_are_killed_with_their_account_s() -> None:
    async def work(cases: Any, deadlines: Deadlines) -> None:
        keeper = Keeper(InFlight("x"))
        waiting = [Request(own := cases(keeper), stream=True), Request(own, stream=True)]
        assert own.kill_streams(8) == 0 and own.kill_streams(7) == 2
        for request in waiting:
            assert request.result is None and request.line.said == b"data: [DONE]\n\n"
        await until(lambda: not own._tasks)
        assert not keeper.told(StoreAnswer)

    run(work)

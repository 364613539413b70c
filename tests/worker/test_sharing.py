"""One answer for several: who hears what, in which order, and what becomes of slow ones, early ones and failures."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from waypost.errors import Refusal
from waypost.http.exchange import Exchange
from waypost.http.head import Head
from waypost.http.message import Limits
from waypost.worker.attempt import WAITING
from waypost.worker.sharing import AT_ONCE, STREAM_LIMIT, Flight, LeadingExchange, Listener
from waypost.worker.walk import Walk

HEAD = Head(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n", Limits())
LINES = b"content-type: text/event-stream\r\n"
BROWSER = b"access-control-allow-origin: https://a.example\r\nvary: origin\r\n"
FAILED = Refusal("PROVIDER_ERROR", "sim: HTTP 500")


class Line:
    """A client's connection: what it was sent, and whether it takes more."""

    def __init__(self) -> None:
        self.sent = b""
        self.finished_with: bool | None = None
        self.blocked = False
        self.address = "198.51.100.1"

    def write(self, data: bytes) -> None:
        self.sent += data

    def closing_lines(self, exchange: Exchange) -> bytes:
        return b"\r\n"

    def finished(self, keep_alive: bool) -> None:
        self.finished_with = keep_alive

    @property
    def said(self) -> bytes:
        """The body, out of its chunks."""
        _, _, rest = self.sent.partition(b"\r\n\r\n")
        out = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            out, rest = out + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        return out


class Flow:
    """An upstream's side."""

    def __init__(self) -> None:
        self.is_paused = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


def exchange() -> tuple[Exchange, Line]:
    line = Line()
    return Exchange(line, HEAD, 0.0), line  # type: ignore[arg-type]


def leading(flight: Flight) -> tuple[LeadingExchange, Exchange, Line, list[str]]:
    own, line = exchange()
    told: list[str] = []
    own.on_gone = lambda: told.append("cancelled")
    return LeadingExchange(own, flight, b"early\r\n"), own, line, told


class Listening:
    """A listener on its walk: `result` is what `listen` returned or raised."""

    def __init__(self, flight: Flight, lines: bytes = b"x-own: 1\r\n") -> None:
        self.exchange, self.line = exchange()
        self.result: Any = None
        self.walks: set[Walk] = set()

        async def steps() -> None:
            try:
                self.result = await Listener(flight, self.exchange, lines, b"early\r\n").listen()
            except Refusal as refusal:
                self.result = refusal

        self.walk = Walk(steps(), self.walks)
        self.walk.go_on()


def test_all_hear_the_same_whenever_they_come() -> None:
    over: list[bool] = []
    flight = Flight(True, on_over=lambda flight: over.append(flight.is_whole))
    lead, _, line, _ = leading(flight)
    first = Listening(flight)
    lead.start(200, LINES + BROWSER)
    lead.write(b"data: 1\n\n")
    second = Listening(flight)
    assert first.line.said == second.line.said == b"data: 1\n\n"
    lead.write(b"data: 2\n\n")
    assert not over and first.result is None
    lead.end(b"data: [DONE]\n\n")
    third = Listening(flight)
    for each in (first, second, third):
        assert each.line.said == line.said == b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
        assert each.result is True and each.line.finished_with is True and not each.walks
        head = each.line.sent.partition(b"\r\n\r\n")[0]
        assert LINES + b"x-own: 1\r\n" in head and b"a.example" not in head
    assert b"a.example" in line.sent and over == [True]


def test_an_answer_in_one_piece() -> None:
    flight = Flight(False)
    lead, _, line, _ = leading(flight)
    first = Listening(flight)
    lead.respond(200, LINES, b"{}")
    second = Listening(flight)
    for each in (first, second):
        assert each.result is True and each.line.sent.endswith(b"content-length: 2\r\n\r\n{}")
    assert line.sent.endswith(b"{}")


def test_a_slow_listener_holds_up_nobody_and_misses_nothing() -> None:
    flight = Flight(True)
    lead, *_ = leading(flight)
    slow, quick = Listening(flight), Listening(flight)
    lead.start(200, LINES)
    slow.exchange.flow.pause_reading()  # type: ignore[union-attr]
    pieces = [b"data: %d\n\n" % number for number in range(20_000)]
    for piece in pieces:
        lead.write(piece)
    assert not slow.line.sent and quick.line.said == b"".join(pieces)
    lead.end(b"data: [DONE]\n\n")
    assert quick.result is True and slow.result is None
    slow.exchange.flow.resume_reading()  # type: ignore[union-attr]
    assert slow.line.said == quick.line.said and slow.result is True
    first = slow.line.sent.partition(b"\r\n\r\n")[2].partition(b"\r\n")[0]
    assert AT_ONCE - 20 < int(first, 16) <= AT_ONCE, "many pieces in one chunk, but not all"


def test_comments_keep_everybody_alive_and_are_not_kept() -> None:
    flight = Flight(True)
    lead, _, line, _ = leading(flight)
    first = Listening(flight)
    lead.start(200, LINES)
    lead.write(WAITING)
    assert first.line.said == line.said == WAITING
    lead.end(b"data: 1\n\n")
    late = Listening(flight)
    assert first.line.said == WAITING + b"data: 1\n\n" and late.line.said == b"data: 1\n\n"


# Failures


def refuse(lead: LeadingExchange, why: Refusal) -> None:
    """As `answers.refuse` does."""
    lead.broke(why)
    if lead.started:
        lead.end(b"data: error\n\n")
    else:
        lead.respond(why.status, b"", b"{}")


def test_who_fails_before_an_upstream_was_asked_fails_alone() -> None:
    over: list[bool] = []
    flight = Flight(False, on_over=lambda flight: over.append(flight.is_whole))
    lead, _, line, _ = leading(flight)
    other = Listening(flight)
    refuse(lead, Refusal("DAILY_REQUEST_LIMIT_EXCEEDED", "used"))
    assert b" 429 " in line.sent and over == [False]
    assert other.result is False and not other.line.sent


@pytest.mark.parametrize("asked", [False, True])
def test_a_failure_of_the_upstreams_is_everybody_s(asked: bool) -> None:
    flight = Flight(False)
    lead, *_ = leading(flight)
    other = Listening(flight)
    why = FAILED
    if asked:
        lead.flow = Flow()
        why = Refusal("INVALID_REQUEST", "no such thing", param="n", status=404)
    refuse(lead, why)
    assert isinstance(other.result, Refusal) and other.result is not why
    assert (other.result.failure.code, other.result.status, other.result.param) == (
        why.failure.code,
        why.status,
        why.param,
    )


def test_a_stream_that_breaks_off_breaks_off_for_all_who_have_part_of_it() -> None:
    flight = Flight(True)
    lead, _, line, _ = leading(flight)
    first = Listening(flight)
    lead.start(200, LINES)
    lead.write(b"data: 1\n\n")
    slow = Listening(flight)
    slow.exchange.flow.pause_reading()  # type: ignore[union-attr]
    lead.write(b"data: 2\n\n")
    refuse(lead, FAILED)
    assert line.said.endswith(b"data: error\n\n")
    assert first.result.message == FAILED.message and first.line.said == b"data: 1\n\ndata: 2\n\n"
    assert slow.result is None, "it has something to read yet"
    slow.exchange.flow.resume_reading()  # type: ignore[union-attr]
    assert slow.line.said == b"data: 1\n\ndata: 2\n\n" and slow.result.message == FAILED.message


def test_a_stream_that_is_killed_is_killed_for_all() -> None:
    flight = Flight(True)
    lead, _, line, told = leading(flight)
    other = Listening(flight)
    assert lead.on_gone is not None
    lead.on_gone()  # as `Entry.kill` does
    assert told == ["cancelled"]
    lead.broke(FAILED, is_killed=True)
    lead.start(200, LINES)
    lead.end(b"data: [DONE]\n\n")
    assert other.result is True and other.line.said == line.said == b"data: [DONE]\n\n"


def test_a_listener_that_leaves_hears_no_more() -> None:
    flight = Flight(True)
    lead, *_ = leading(flight)
    gone, stays = Listening(flight), Listening(flight)
    lead.start(200, LINES)
    gone.walk.cancel()
    assert flight.listening == 1 and gone.result is None and not gone.walks
    lead.end(b"data: 1\n\n")
    assert stays.line.said == b"data: 1\n\n" and not gone.line.sent


# The caller of the one that answers


def test_it_goes_on_without_its_caller() -> None:
    flight = Flight(True)
    lead, own, line, told = leading(flight)
    lead.start(200, LINES)
    lead.write(b"data: 1\n\n")
    own.cut()
    assert not told and not lead.is_gone
    lead.write(b"data: 2\n\n")
    lead.end(b"data: [DONE]\n\n")
    assert line.said == b"data: 1\n\n" and lead.is_gone and flight.is_whole
    assert Listening(flight).line.said == b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"


def test_its_caller_s_slowness_is_nobody_s() -> None:
    flight, flow = Flight(True), Flow()
    lead, own, *_ = leading(flight)
    lead.flow = flow
    assert own.flow is None and lead.flow is flow
    lead.flow = None


def test_a_head_that_left_while_it_waited() -> None:
    flight = Flight(True)
    own, line = exchange()
    own.start(200, b"early\r\n")
    own.write(WAITING)
    lead = LeadingExchange(own, flight, b"early\r\n")
    assert lead.started
    lead.end(b"data: 1\n\n")
    assert line.said == WAITING + b"data: 1\n\n"
    assert b"early\r\n" in Listening(flight).line.sent


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_how_much_of_a_stream_is_written_down(more: int) -> None:
    """Beyond the limit it is an exchange like any other: its caller has it whole, and may slow it down or end it."""

    async def run() -> None:
        over: list[bool] = []
        flight, flow = Flight(True, on_over=lambda flight: over.append(flight.is_whole)), Flow()
        lead, own, line, told = leading(flight)
        listener = Listening(flight)
        lead.flow = flow
        lead.start(200, LINES)
        line.blocked = True
        half = b"x" * (STREAM_LIMIT // 2)
        lead.write(half)
        assert not flow.is_paused
        lead.write(half[: len(half) + more] if more <= 0 else half + b"x")
        is_kept = more <= 0
        assert flow.is_paused is not is_kept and (own.flow is flow) is not is_kept
        assert over == ([] if is_kept else [False])
        if is_kept:
            own.cut()
            assert not told
        lead.end(b"")
        assert flight.is_whole is is_kept and over == [is_kept]
        if is_kept:
            assert listener.result is True and len(listener.line.said) == STREAM_LIMIT + more
        else:
            assert isinstance(listener.result, Refusal) and "too large" in listener.result.message
            assert len(line.said) == STREAM_LIMIT + more and not flight.pieces

    asyncio.run(run())


def test_too_much_for_nobody_is_ended() -> None:
    flight = Flight(True)
    lead, own, _, told = leading(flight)
    lead.start(200, LINES)
    own.cut()
    lead.write(b"x" * STREAM_LIMIT)
    assert not told
    lead.write(b"x")
    assert told == ["cancelled"] and lead.is_gone


def test_its_caller_leaves_after_it_grew_too_large() -> None:
    flight = Flight(True)
    lead, own, _, told = leading(flight)
    lead.start(200, LINES)
    lead.write(b"x" * (STREAM_LIMIT + 1))
    assert not told
    own.cut()
    assert told == ["cancelled"] and lead.is_gone

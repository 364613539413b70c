"""A provider's part, played: one request in, one script to play out. Pure; clock and counters are arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec
from msgspec.structs import replace

from waypost.sim import edits, openai_format
from waypost.sim.answers import Answer, Question, decide, nonce
from waypost.sim.faults import STREAM_ERROR, Chosen, Occasion, Role, UnknownNameError, read_name
from waypost.sim.options import Behaviour
from waypost.sim.script import Event, Refusal, Reply, Script, render_script, split_script

_JSON = "application/json"
_STREAM = "text/event-stream; charset=utf-8"
_CACHED = 8192


class Format(Protocol):
    """A wire format: what a module has to offer to be spoken by the simulator."""

    PATH: str

    def parse_question(self, body: bytes) -> Question:
        """Raises msgspec.DecodeError, or msgspec.ValidationError where the JSON is fine and the types are not."""

    def render_answer(
        self, question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
    ) -> Event:
        """The answer as one body."""

    def render_events(
        self, question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
    ) -> tuple[Event, ...]:
        """The answer as a stream."""

    def render_usage(self, answer: Answer) -> dict[str, Any]:
        """The usage as the format spells it."""

    def render_error(self, refusal: Refusal) -> bytes:
        """An error's body."""

    def render_error_event(self, refusal: Refusal) -> Event:
        """An error inside a stream."""


FORMATS: tuple[Format, ...] = (openai_format,)


class Reading(msgspec.Struct, frozen=True):
    """A request understood. `role` is None where its model's name is a slip, which `slip` then quotes."""

    question: Question
    nonce: str | None
    role: Role | None
    answer: Answer | None
    slip: str = ""


class Performance(msgspec.Struct, frozen=True):
    """What will be sent, and what the journal says of it. `reading` is None where the request is no question."""

    script: Script
    status: int
    reading: Reading | None = None
    fault: str | None = None
    usage: Callable[[], dict[str, Any]] | None = None

    @property
    def model(self) -> str | None:
        """The model asked for."""
        return self.reading.question.model if self.reading else None

    @property
    def finish_reason(self) -> str | None:
        """The first choice's finish reason, of answers that are no refusals."""
        answer = self.usage and self.reading and self.reading.answer
        return answer.choices[0].finish_reason if answer else None


class Circumstances(msgspec.Struct, frozen=True):
    """What is not in the request: `n` counts requests from 1, `created` is Unix time, `occasion` counts by model."""

    n: int
    created: int
    keep_alive: bool
    occasion: Callable[[str], Occasion]


@functools.lru_cache(1024)
def find_format(path: bytes) -> tuple[Format, str] | None:
    """The format spoken at a request's target, and the path before the format's own part."""
    plain = path.split(b"?", 1)[0].decode("latin-1")
    for spoken in FORMATS:
        if plain.endswith(spoken.PATH):
            return spoken, plain[: -len(spoken.PATH)]
    return None


def perform(spoken: Format, prefix: str, body: bytes, here: Circumstances) -> Performance:
    """Answer one chat request: decide what to say, render it, and break what the model's name asks to be broken."""
    try:
        read = _read if len(body) <= _CACHED else _read.__wrapped__
        reading = read(spoken.parse_question, prefix, body)
    except msgspec.ValidationError as error:
        return refuse(spoken, Refusal(400, str(error), "invalid_request_error"), here)
    except msgspec.DecodeError as error:
        message = f"We could not parse the JSON body of your request. ({error})"
        return refuse(spoken, Refusal(400, message, "invalid_request_error"), here)
    model, role = reading.question.model, reading.role
    if role is None:
        message = f"The simulator knows no option or fault `{reading.slip}` (in `{model}`)."
        missing = Refusal(404, message, "invalid_request_error", "model_not_found", "model")
        return refuse(spoken, missing, here, reading)
    fired = role.faults and _fired(role, here.occasion(model))
    for chosen in fired:
        if chosen.fault.refuse:
            return refuse(spoken, chosen.fault.refuse(chosen.arguments), here, reading, chosen.name)
    return _answer(spoken, reading, role.behaviour, fired, here)


# Pure, so that the repeated requests of a load test are read and thought about once.
@functools.lru_cache(256)
def _read(parse: Callable[[bytes], Question], prefix: str, body: bytes) -> Reading:
    question = parse(body)
    mark = nonce(question.asked)
    try:
        role = read_name(question.model, prefix)
    except UnknownNameError as error:
        return Reading(question, mark, None, None, str(error))
    return Reading(question, mark, role, decide(question, role.behaviour))


def _fired(role: Role, occasion: Occasion) -> tuple[Chosen, ...]:
    return tuple(c for c in role.faults if c.fault.fires is None or c.fault.fires(c.arguments, occasion))


def refuse(
    spoken: Format, refusal: Refusal, here: Circumstances, reading: Reading | None = None, fault: str | None = None
) -> Performance:
    """An error in place of an answer."""
    headers = (("x-request-id", f"req_{here.n:016x}"), *refusal.headers)
    reply = Reply(refusal.status, _JSON, (Event(spoken.render_error(refusal)),), headers=headers)
    behaviour = reading.role.behaviour if reading and reading.role else Behaviour()
    script = _paced(reply, behaviour, here.keep_alive and not refusal.close)
    return Performance(script, refusal.status, reading, fault)


def _answer(
    spoken: Format, reading: Reading, behaviour: Behaviour, fired: tuple[Chosen, ...], here: Circumstances
) -> Performance:
    question, answer = reading.question, cast(Answer, reading.answer)
    identity = f"{here.n:012x}{answer.seed & 0xFFFFFFFFFFFF:012x}"
    headers = (("x-request-id", f"req_{here.n:016x}"),)
    if question.stream:
        events = spoken.render_events(question, answer, behaviour, identity, here.created)
        reply = Reply(200, _STREAM, events, True, (*headers, ("cache-control", "no-cache")), chunked=True)
    else:
        event = spoken.render_answer(question, answer, behaviour, identity, here.created)
        reply = Reply(200, _JSON, (event,), headers=headers)
    for chosen in fired:
        reply = _broken(spoken, reply, chosen)
    if behaviour.spaced:
        reply = edits.spaced(reply)
    if behaviour.comments:
        reply = edits.comments(reply)
    if behaviour.crlf:
        reply = edits.crlf(reply)
    script = _paced(reply, behaviour, here.keep_alive)
    for chosen in fired:
        if chosen.fault.script:
            script = chosen.fault.script(script, chosen.arguments)
    if behaviour.split:
        script = split_script(script, behaviour.split)
    usage = functools.partial(spoken.render_usage, answer)
    return Performance(script, 200, reading, fired[0].name if fired else None, usage)


def _broken(spoken: Format, reply: Reply, chosen: Chosen) -> Reply:
    fault = chosen.fault
    if fault.reply:
        reply = fault.reply(reply, chosen.arguments)
    if fault.error_after:
        error = spoken.render_error_event(STREAM_ERROR)
        reply = edits.error_after(reply, fault.error_after(chosen.arguments), error)
    return replace(reply, chunked=True) if fault.chunked else reply


def _paced(reply: Reply, behaviour: Behaviour, keep_alive: bool) -> Script:
    gap = None if behaviour.gap_ms is None else behaviour.gap_ms / 1000
    script = render_script(reply, keep_alive=keep_alive, delay=behaviour.ttft_ms / 1000, gap=gap)
    if behaviour.idle_close_ms is not None:
        script = replace(script, idle_close=behaviour.idle_close_ms / 1000)
    return script

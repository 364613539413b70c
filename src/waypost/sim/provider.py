"""A provider's part, played: one request in, one script to play out. Pure; clock and counters are arguments."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Protocol, cast
from urllib.parse import unquote

import msgspec
from msgspec.structs import replace

from waypost.sim import (
    anthropic_format,
    bedrock_embeddings,
    bedrock_format,
    cohere_embeddings,
    cohere_format,
    edits,
    gemini_embeddings,
    gemini_format,
    openai_embeddings,
    openai_format,
)
from waypost.sim.answers import Answer, Question, decide, nonce
from waypost.sim.faults import EARLY_413, Chosen, Occasion
from waypost.sim.names import Role, UnknownNameError, read_name
from waypost.sim.options import Behaviour
from waypost.sim.script import Event, Refusal, Reply, Script, render_script, split_script
from waypost.sim.target import Headers, RefusedError, Target, invalid

_CACHED = 8192


class Format(Protocol):
    """A wire format: what a module has to offer to be spoken by the simulator.

    `PATH` fits the end of a request's path; its groups `model` and `method`, if it has them, go into the target.
    `BLOCKS_IN_ANSWER` tells whether a prompt that is against the rules gets an answer that says so, not an error.
    `FRAME` makes what goes out of an event that is written as a server-sent event with LF line ends.
    """

    NAME: str
    PATH: re.Pattern[str]
    JSON_TYPE: str
    STREAM_TYPE: str
    BLOCKS_IN_ANSWER: bool
    FRAME: Callable[[bytes], bytes] | None

    def check_headers(self, headers: Headers, target: Target) -> Refusal | None:
        """What is wrong with a request before its body is looked at: no key, most of all."""

    def parse_question(self, body: bytes, target: Target) -> Question:
        """Raises RefusedError for what the vendor would refuse.

        Raises msgspec.DecodeError, or msgspec.ValidationError where the JSON is fine and the types are not.
        """

    def render_headers(self, n: int, answer: Answer | None = None) -> tuple[tuple[str, str], ...]:
        """The headers that name the `n`th request, and what else stands there of an answer."""

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

    def render_refusal(self, refusal: Refusal, n: int) -> Reply:
        """An error in place of an answer to the `n`th request."""

    def render_error_event(self, refusal: Refusal) -> Event:
        """An error inside a stream."""


FORMATS: tuple[Format, ...] = (
    openai_format,
    openai_embeddings,
    anthropic_format,
    gemini_format,
    gemini_embeddings,
    bedrock_format,
    bedrock_embeddings,
    cohere_format,
    cohere_embeddings,
)


class Found(msgspec.Struct, frozen=True):
    """The format spoken at a path, and the path's parts."""

    spoken: Format
    target: Target


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
        return answer.choices[0].finish_reason if answer and answer.choices else None


class Circumstances(msgspec.Struct, frozen=True):
    """What is not in the request: `n` counts requests from 1, `created` is Unix time, `occasion` counts by model."""

    n: int
    created: int
    keep_alive: bool
    occasion: Callable[[str], Occasion]


@functools.lru_cache(1024)
def find_format(path: bytes) -> Found | None:
    """The format spoken at a request's target."""
    plain, _, query = path.decode("latin-1").partition("?")
    for spoken in FORMATS:
        if match := spoken.PATH.search(plain):
            parts = {name: unquote(value) for name, value in match.groupdict().items() if value}
            prefix = plain[: match.start()]
            return Found(spoken, Target(prefix, parts.get("model", ""), parts.get("method", ""), query))
    return None


def perform(found: Found, headers: Headers, body: bytes, here: Circumstances) -> Performance:
    """Answer one request: decide what to say, render it, and break what the model's name asks to be broken."""
    spoken, target = found.spoken, found.target
    if missing := spoken.check_headers(headers, target):
        return refuse(spoken, missing, here)
    try:
        read = _read if len(body) <= _CACHED else _read.__wrapped__
        reading = read(spoken.parse_question, target, body)
    except RefusedError as error:
        return refuse(spoken, error.refusal, here)
    except msgspec.ValidationError as error:
        return refuse(spoken, Refusal(400, str(error), "invalid_request_error"), here)
    except msgspec.DecodeError as error:
        message = f"We could not parse the JSON body of your request. ({error})"
        return refuse(spoken, Refusal(400, message, "invalid_request_error"), here)
    model, role = reading.question.model, reading.role
    if role is None:
        message = f"The simulator knows no option or fault `{reading.slip}` (in `{model}`)."
        return refuse(spoken, _unknown(message), here, reading)
    for part, formats in role.limited:
        if spoken.NAME not in formats:
            message = f"`{part}` makes no sense in this format; it does in {', '.join(formats)}."
            return refuse(spoken, _unknown(message), here, reading)
    fired = role.faults and _fired(role, here.occasion(model))
    for chosen in fired:
        if chosen.fault.refuse and not (chosen.fault.blocked and spoken.BLOCKS_IN_ANSWER):
            return refuse(spoken, chosen.fault.refuse(chosen.arguments), here, reading, chosen.name)
    return _answer(spoken, reading, role.behaviour, fired, here)


def perform_early(found: Found, here: Circumstances) -> Performance:
    """Refuse a request whose body has not arrived: `early-413`."""
    reading = Reading(Question(_EARLY, "", ""), None, read_name(_EARLY), None)
    return refuse(found.spoken, EARLY_413, here, reading, _EARLY)


_EARLY = "early-413"


def _unknown(message: str) -> Refusal:
    return Refusal(404, message, "invalid_request_error", "model_not_found", "model")


# Pure, so that the repeated requests of a load test are read and thought about once.
@functools.lru_cache(256)
def _read(parse: Callable[[bytes, Target], Question], target: Target, body: bytes) -> Reading:
    try:
        question = parse(body, target)
    except (AttributeError, KeyError, TypeError) as error:
        # The formats read most of a body as plain JSON; a member of the wrong type shows when it is used.
        raise invalid(f"The request is not of the expected shape: {error}") from None
    mark = nonce(question.asked)
    try:
        role = read_name(question.model, target.prefix)
    except UnknownNameError as error:
        return Reading(question, mark, None, None, str(error))
    return Reading(question, mark, role, decide(question, role.behaviour))


def _fired(role: Role, occasion: Occasion) -> tuple[Chosen, ...]:
    return tuple(c for c in role.faults if c.fault.fires is None or c.fault.fires(c.arguments, occasion))


def refuse(
    spoken: Format, refusal: Refusal, here: Circumstances, reading: Reading | None = None, fault: str | None = None
) -> Performance:
    """An error in place of an answer."""
    reply = spoken.render_refusal(refusal, here.n)
    behaviour = reading.role.behaviour if reading and reading.role else Behaviour()
    script = _paced(reply, behaviour, here.keep_alive and not refusal.close)
    return Performance(script, reply.status, reading, fault)


def _answer(
    spoken: Format, reading: Reading, behaviour: Behaviour, fired: tuple[Chosen, ...], here: Circumstances
) -> Performance:
    question, answer = reading.question, cast(Answer, reading.answer)
    identity = f"{here.n:012x}{answer.seed & 0xFFFFFFFFFFFF:012x}"
    headers = spoken.render_headers(here.n, answer)
    if question.stream:
        events = spoken.render_events(question, answer, behaviour, identity, here.created)
        reply = Reply(200, spoken.STREAM_TYPE, events, True, (*headers, ("cache-control", "no-cache")), chunked=True)
    else:
        event = spoken.render_answer(question, answer, behaviour, identity, here.created)
        reply = Reply(200, spoken.JSON_TYPE, (event,), headers=headers)
    for chosen in fired:
        reply = _broken(spoken, reply, chosen, here)
    if behaviour.spaced:
        reply = edits.spaced(reply)
    if behaviour.comments:
        reply = edits.comments(reply)
    if behaviour.crlf:
        reply = edits.crlf(reply)
    if spoken.FRAME and reply.stream:
        reply = edits.framed(reply, spoken.FRAME)
    script = _paced(reply, behaviour, here.keep_alive)
    for chosen in fired:
        if chosen.fault.script:
            script = chosen.fault.script(script, chosen.arguments)
    if behaviour.split:
        script = split_script(script, behaviour.split)
    usage = functools.partial(spoken.render_usage, answer)
    return Performance(script, 200, reading, fired[0].name if fired else None, usage)


def _broken(spoken: Format, reply: Reply, chosen: Chosen, here: Circumstances) -> Reply:
    fault = chosen.fault
    if fault.reply:
        reply = fault.reply(reply, chosen.arguments)
    if fault.error_after and fault.error:
        body = spoken.render_refusal(fault.error, here.n).events
        event = spoken.render_error_event(fault.error)
        reply = edits.error_after(reply, fault.error_after(chosen.arguments), event, body)
    return replace(reply, chunked=True) if fault.chunked else reply


def _paced(reply: Reply, behaviour: Behaviour, keep_alive: bool) -> Script:
    gap = None if behaviour.gap_ms is None else behaviour.gap_ms / 1000
    script = render_script(reply, keep_alive=keep_alive, delay=behaviour.ttft_ms / 1000, gap=gap)
    if behaviour.idle_close_ms is not None:
        script = replace(script, idle_close=behaviour.idle_close_ms / 1000)
    return script

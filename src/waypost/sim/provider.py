"""A provider's part, played: one request in, one script to play out. Pure; clock and counters are arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from waypost.sim import edits, openai_format
from waypost.sim.answers import Answer, Question, decide, nonce
from waypost.sim.faults import STREAM_ERROR, Chosen, Occasion, Role, UnknownNameError, read_name
from waypost.sim.options import Behaviour
from waypost.sim.script import Event, Refusal, Reply, Script, render_script, split_script

_JSON = "application/json"
_STREAM = "text/event-stream; charset=utf-8"
_REPLACEMENTS = ((edits.spaced, "spaced"), (edits.comments, "comments"), (edits.crlf, "crlf"))


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


class Performance(msgspec.Struct, frozen=True):
    """What will be sent, and what the journal says of it. `model` is None where the request names none."""

    script: Script
    status: int
    model: str | None = None
    stream: bool = False
    valid: bool = False
    nonce: str | None = None
    fault: str | None = None
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None


class Circumstances(msgspec.Struct, frozen=True):
    """What is not in the request: `n` counts requests from 1, `created` is Unix time, `occasion` counts by model."""

    n: int
    created: int
    keep_alive: bool
    occasion: Callable[[str], Occasion]


def find_format(path: str) -> tuple[Format, str] | None:
    """The format spoken at a path, and the path's part before the format's own."""
    for spoken in FORMATS:
        if path.endswith(spoken.PATH):
            return spoken, path[: -len(spoken.PATH)]
    return None


def perform(spoken: Format, prefix: str, body: bytes, here: Circumstances) -> Performance:
    """Answer one chat request: decide what to say, render it, and break what the model's name asks to be broken."""
    try:
        question = spoken.parse_question(body)
    except msgspec.ValidationError as error:
        return refuse(spoken, Refusal(400, str(error), "invalid_request_error"), here)
    except msgspec.DecodeError as error:
        message = f"We could not parse the JSON body of your request. ({error})"
        return refuse(spoken, Refusal(400, message, "invalid_request_error"), here)
    mark = nonce(question.asked)
    known = Performance(Script(b"", ()), 200, question.model, question.stream, True, mark)
    try:
        role = read_name(question.model, prefix)
    except UnknownNameError as error:
        message = f"The simulator knows no option or fault `{error}` (in `{question.model}`)."
        missing = Refusal(404, message, "invalid_request_error", "model_not_found", "model")
        return refuse(spoken, missing, here, known)
    fired = role.faults and _fired(role, here.occasion(question.model))
    for chosen in fired:
        if chosen.fault.refuse:
            known = replace(known, fault=chosen.name)
            return refuse(spoken, chosen.fault.refuse(chosen.arguments), here, known, role.behaviour)
    return _answer(spoken, question, role.behaviour, fired, here, known)


def _fired(role: Role, occasion: Occasion) -> tuple[Chosen, ...]:
    return tuple(c for c in role.faults if c.fault.fires is None or c.fault.fires(c.arguments, occasion))


def refuse(
    spoken: Format,
    refusal: Refusal,
    here: Circumstances,
    known: Performance | None = None,
    behaviour: Behaviour | None = None,
) -> Performance:
    """An error in place of an answer."""
    headers = (("x-request-id", f"req_{here.n:016x}"), *refusal.headers)
    reply = Reply(refusal.status, _JSON, (Event(spoken.render_error(refusal)),), headers=headers)
    script = _paced(reply, behaviour or Behaviour(), here.keep_alive and not refusal.close)
    return replace(known or Performance(script, 0), script=script, status=refusal.status)


def _answer(
    spoken: Format,
    question: Question,
    behaviour: Behaviour,
    fired: tuple[Chosen, ...],
    here: Circumstances,
    known: Performance,
) -> Performance:
    answer = decide(question, behaviour)
    identity = f"{here.n:012x}{answer.seed & 0xFFFFFFFFFFFF:012x}"
    headers = (("x-request-id", f"req_{here.n:016x}"),)
    if question.stream:
        events = spoken.render_events(question, answer, behaviour, identity, here.created)
        reply = Reply(200, _STREAM, events, True, (*headers, ("cache-control", "no-cache")), chunked=True)
    else:
        event = spoken.render_answer(question, answer, behaviour, identity, here.created)
        reply = Reply(200, _JSON, (event,), headers=headers)
    for chosen in fired:
        fault = chosen.fault
        if fault.reply:
            reply = fault.reply(reply, chosen.arguments)
        if fault.error_after:
            error = spoken.render_error_event(STREAM_ERROR)
            reply = edits.error_after(reply, fault.error_after(chosen.arguments), error)
        if fault.chunked:
            reply = replace(reply, chunked=True)
    for edit, field in _REPLACEMENTS:
        if getattr(behaviour, field):
            reply = edit(reply)
    script = _paced(reply, behaviour, here.keep_alive)
    for chosen in fired:
        if chosen.fault.script:
            script = chosen.fault.script(script, chosen.arguments)
    if behaviour.split:
        script = split_script(script, behaviour.split)
    return replace(
        known,
        script=script,
        fault=fired[0].name if fired else None,
        usage=spoken.render_usage(answer),
        finish_reason=answer.choices[0].finish_reason,
    )


def _paced(reply: Reply, behaviour: Behaviour, keep_alive: bool) -> Script:
    gap = None if behaviour.gap_ms is None else behaviour.gap_ms / 1000
    script = render_script(reply, keep_alive=keep_alive, delay=behaviour.ttft_ms / 1000, gap=gap)
    if behaviour.idle_close_ms is not None:
        script = replace(script, idle_close=behaviour.idle_close_ms / 1000)
    return script

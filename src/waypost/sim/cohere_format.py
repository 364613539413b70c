"""Cohere's chat, version 2: answers into JSON bodies and event streams, and the errors.

Wire facts: the recorded exchanges with `/v2/chat`; for the stream, of which there is no recording, the cohere Python
SDK's types. Two counts of tokens stand in the usage: what is billed, and what the model saw, a preamble included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from waypost.sim import cohere_request
from waypost.sim.answers import Answer, Choice, Question, ToolCall
from waypost.sim.options import Behaviour
from waypost.sim.pieces import cut, named_event, pieces
from waypost.sim.script import Event, Refusal, Reply
from waypost.sim.target import Headers, Target, header

NAME = "cohere"
PATH = re.compile(r"/v2/chat$")
JSON_TYPE = "application/json"
STREAM_TYPE = "text/event-stream"
BLOCKS_IN_ANSWER = False
FRAME: Callable[[bytes], bytes] | None = None
parse_question = cohere_request.parse_question

_ENDS = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL"}
_PLAN = "I will use one or more of the available tools to find the answer"
_PREAMBLE, _AROUND = 64, 2


def check_headers(headers: Headers, target: Target) -> Refusal | None:
    """A bearer key has to be there."""
    given = header(headers, b"authorization")
    return None if given and given.lower().startswith("bearer ") else Refusal(401, "no api key supplied", "")


def render_headers(n: int, answer: Answer | None = None) -> tuple[tuple[str, str], ...]:
    """The request's id."""
    return (("x-debug-trace-id", f"{n:032x}"),)


def uuid(identity: str) -> str:
    """An answer's id as Cohere spells it."""
    return f"{identity[:8]}-{identity[8:12]}-4000-8000-{identity[-12:]}"


# What both kinds of answer are made of


def _call(call: ToolCall, arguments: str) -> dict[str, Any]:
    identity = f"{call.name}_{call.id[-12:]}"
    return {"id": identity, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _plan(choice: Choice) -> str:
    """Said before calls, unless the reasoning has said it."""
    return _PLAN if choice.tool_calls and not choice.reasoning else ""


def _end(choice: Choice) -> str:
    return "STOP_SEQUENCE" if choice.stop and choice.finish_reason == "stop" else _ENDS[choice.finish_reason]


def _citations(question: Question, choice: Choice, index: int) -> list[dict[str, Any]]:
    """Where the text repeats what a tool has said, it cites the tool."""
    made = []
    for result, identity in zip(question.tool_results, question.tool_result_ids, strict=True):
        start = choice.text.find(result) if result else -1
        if start >= 0:
            source = {"id": f"{identity}:0", "tool_output": {"content": result}, "type": "tool"}
            made.append(
                {
                    "start": start,
                    "end": start + len(result),
                    "text": result,
                    "sources": [source],
                    "content_index": index,
                    "type": "TEXT_CONTENT",
                }
            )
    return made


def render_usage(answer: Answer) -> dict[str, Any]:
    """The usage: billed, seen by the model, and found in the cache."""
    usage = answer.usage
    made: dict[str, Any] = {
        "billed_units": {"input_tokens": usage.prompt, "output_tokens": usage.completion},
        "tokens": {"input_tokens": usage.prompt + _PREAMBLE, "output_tokens": usage.completion + _AROUND},
    }
    return made | {"cached_tokens": usage.cached} if usage.cached else made


# Answers that are not streams


def render_answer(question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int) -> Event:
    """The whole answer as one JSON body; there is one choice only."""
    choice = answer.choices[0]
    content: list[dict[str, Any]] = [{"type": "thinking", "thinking": choice.reasoning}] if choice.reasoning else []
    message: dict[str, Any] = {"role": "assistant"}
    if choice.text:
        content.append({"type": "text", "text": choice.text})
        if citations := _citations(question, choice, len(content) - 1):
            message["citations"] = citations
    if content:
        message["content"] = content
    if choice.tool_calls:
        message["tool_calls"] = [_call(call, call.arguments) for call in choice.tool_calls]
    if plan := _plan(choice):
        message["tool_plan"] = plan
    body: dict[str, Any] = {"id": uuid(identity), "finish_reason": _end(choice), "message": message}
    if behaviour.usage != "never":
        body["usage"] = render_usage(answer)
    return Event(msgspec.json.encode(body), choice.text, usage=behaviour.usage != "never")


# Streams


def render_events(
    question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
) -> tuple[Event, ...]:
    """The answer as server-sent events, each kind with a name of its own, and [DONE]."""
    choice = answer.choices[0]
    empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    end: dict[str, Any] = {"finish_reason": _end(choice)}
    if behaviour.usage != "never":
        end["usage"] = render_usage(answer)
    events = [
        named_event("message-start", {"id": uuid(identity), "type": "message-start", "delta": {"message": empty}})
    ]
    events += [named_event(payload["type"], payload, text) for payload, text in _payloads(question, choice)]
    events.append(named_event("message-end", {"type": "message-end", "delta": end}, usage="usage" in end))
    return (*events, Event(b"data: [DONE]\n\n")) if behaviour.done else tuple(events)


def _payloads(question: Question, choice: Choice) -> Iterator[tuple[dict[str, Any], str]]:
    index = 0
    if choice.reasoning:
        yield from _content(index, "thinking", choice.reasoning)
        index += 1
    if choice.text:
        citations = _citations(question, choice, index)
        for payload, text in _content(index, "text", choice.text):
            if payload["type"] == "content-end":
                for at, citation in enumerate(citations):
                    yield _delta("citation-start", at, "citations", citation), ""
                    yield {"type": "citation-end", "index": at}, ""
            yield payload, text
        index += 1
    for piece in pieces(_plan(choice)):
        yield {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": piece}}}, ""
    for at, call in enumerate(choice.tool_calls, index):
        yield _delta("tool-call-start", at, "tool_calls", _call(call, "")), ""
        for piece in cut(call.arguments):
            yield _delta("tool-call-delta", at, "tool_calls", {"function": {"arguments": piece}}), ""
        yield {"type": "tool-call-end", "index": at}, ""


def _content(index: int, kind: str, text: str) -> Iterator[tuple[dict[str, Any], str]]:
    yield _delta("content-start", index, "content", {"type": kind, kind: ""}), ""
    for piece in pieces(text):
        yield _delta("content-delta", index, "content", {kind: piece}), piece if kind == "text" else ""
    yield {"type": "content-end", "index": index}, ""


def _delta(name: str, index: int, member: str, value: Any) -> dict[str, Any]:
    return {"type": name, "index": index, "delta": {"message": {member: value}}}


# Errors


_MESSAGES = {
    "auth": "invalid api token",
    "context-length": (
        "too many tokens: size limit exceeded by 904 tokens. Try using shorter or fewer inputs, or a model "
        "with a longer context."
    ),
    "content-policy": "The request was blocked by the safety mode.",
    "overloaded": "The service is overloaded. Please try again later.",
}


def render_refusal(refusal: Refusal, n: int) -> Reply:
    """An error in place of an answer: an id and a message."""
    body = {"id": uuid(f"{n:024x}"), "message": _MESSAGES.get(refusal.kind, refusal.message)}
    kept = tuple((name, value) for name, value in refusal.headers if name == "retry-after")
    return Reply(refusal.status, JSON_TYPE, (Event(msgspec.json.encode(body)),), headers=(*render_headers(n), *kept))


def render_error_event(refusal: Refusal) -> Event:
    """An error inside a stream: it ends with a reason of its own."""
    delta = {"finish_reason": "ERROR", "error": _MESSAGES.get(refusal.kind, refusal.message)}
    return named_event("message-end", {"type": "message-end", "delta": delta})

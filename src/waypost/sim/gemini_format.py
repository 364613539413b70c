"""Gemini's generateContent and streamGenerateContent: answers into JSON bodies and event streams, and the errors.

Wire facts: the recorded exchanges with the Gemini API and Vertex AI: lines that end in CR LF, usage that counts up on
every chunk, calls that come whole, signatures, and the shapes of blocked and cut answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import msgspec

from waypost.sim import gemini_request, signatures
from waypost.sim.answers import Answer, Choice, Question, ToolCall, tokens
from waypost.sim.options import Behaviour
from waypost.sim.pieces import data_event, pieces
from waypost.sim.script import Event, Refusal, Reply
from waypost.sim.target import Headers, Target, header

NAME = "gemini"
PATH = re.compile(r"/models/(?P<model>.+):(?P<method>generateContent|streamGenerateContent)$")
JSON_TYPE = "application/json; charset=UTF-8"
STREAM_TYPE = "text/event-stream"
BLOCKS_IN_ANSWER = True
parse_question = gemini_request.parse_question

_ENDS = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
    "malformed": "MALFORMED_FUNCTION_CALL",
}
_EMPTY = ("content_filter", "malformed")
_HARMS = ("HATE_SPEECH", "DANGEROUS_CONTENT", "HARASSMENT", "SEXUALLY_EXPLICIT")


def _crlf(event: bytes) -> bytes:
    """Lines end in CR LF."""
    return event.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


FRAME: Callable[[bytes], bytes] | None = _crlf


def check_headers(headers: Headers, target: Target) -> Refusal | None:
    """A key has to be there: in its header, in the query, or a bearer token."""
    if header(headers, b"x-goog-api-key") or header(headers, b"authorization") or parse_qs(target.query).get("key"):
        return None
    message = (
        "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other "
        "form of API consumer identity to call this API."
    )
    return Refusal(403, message, "")


def render_headers(n: int, answer: Answer | None = None) -> tuple[tuple[str, str], ...]:
    """Google names no request."""
    return ()


# What both kinds of answer are made of


def _signature(answer: Answer) -> str:
    return signatures.sign(gemini_request.SIGNED, answer.seed)


def _signs(question: Question, choice: Choice) -> bool:
    return gemini_request.is_third(question.model) or bool(choice.reasoning and choice.tool_calls)


def _call(question: Question, call: ToolCall) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(call.arguments)
    except msgspec.DecodeError:
        arguments = {}
    made = {"name": call.name, "args": arguments}
    return made | {"id": call.id[-8:]} if gemini_request.is_third(question.model) else made


def _calls(question: Question, answer: Answer, choice: Choice) -> Iterator[dict[str, Any]]:
    """The calls as parts, the first of them signed."""
    for index, call in enumerate(choice.tool_calls):
        part: dict[str, Any] = {"functionCall": _call(question, call)}
        if index == 0 and _signs(question, choice):
            part["thoughtSignature"] = _signature(answer)
        yield part


def _end(choice: Choice, index: int, whole: bool = True) -> dict[str, Any]:
    """The members of a candidate that say why it ended; of calls a stream says less than a `whole` answer."""
    made: dict[str, Any] = {"finishReason": _ENDS[choice.finish_reason], "index": index}
    if choice.finish_reason == "content_filter":
        made["safetyRatings"] = [
            {"category": f"HARM_CATEGORY_{harm}", "probability": "LOW" if harm == _HARMS[0] else "NEGLIGIBLE"}
            | ({"blocked": True} if harm == _HARMS[0] else {})
            for harm in _HARMS
        ]
    elif choice.finish_reason == "malformed":
        made["finishMessage"] = "Malformed function call: print(default_api.get_weather(location='Paris'"
    elif choice.tool_calls and whole:
        made["finishMessage"] = "Model generated function call(s)."
    return made


def _response(question: Question, behaviour: Behaviour, identity: str, body: dict[str, Any], usage: Any) -> Any:
    made = body if behaviour.usage == "never" else body | {"usageMetadata": usage}
    return made | {"modelVersion": question.model, "responseId": identity[:22]}


_BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}


# Answers that are not streams


def render_answer(question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int) -> Event:
    """The whole answer as one JSON body."""
    candidates = [_candidate(question, answer, index, choice) for index, choice in enumerate(answer.choices)]
    body = _BLOCKED if behaviour.blocked else {"candidates": candidates}
    made = _response(question, behaviour, identity, body, render_usage(answer))
    text = "".join(choice.text for choice in answer.choices if choice.finish_reason not in _EMPTY)
    return Event(msgspec.json.encode(made), text, usage=behaviour.usage != "never")


def _candidate(question: Question, answer: Answer, index: int, choice: Choice) -> dict[str, Any]:
    if choice.finish_reason in _EMPTY:
        return {"content": {}, **_end(choice, index)}
    parts: list[dict[str, Any]] = []
    if choice.reasoning and question.reasoning_shown:
        parts.append({"text": choice.reasoning, "thought": True})
    if choice.text:
        parts.append({"text": choice.text})
        if gemini_request.is_third(question.model):
            parts[-1]["thoughtSignature"] = _signature(answer)
    parts += _calls(question, answer, choice)
    return {"content": {"parts": parts, "role": "model"} if parts else {"role": "model"}, **_end(choice, index)}


def render_usage(answer: Answer) -> dict[str, Any]:
    """The usage: what was thought counts apart from the candidates."""
    usage = answer.usage
    return _usage(answer, usage.completion - usage.reasoning, usage.reasoning)


def _usage(answer: Answer, said: int, thought: int) -> dict[str, Any]:
    prompt, cached = answer.usage.prompt, answer.usage.cached
    made: dict[str, Any] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": said,
        "totalTokenCount": prompt + said + thought,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
        "thoughtsTokenCount": thought,
        "cachedContentTokenCount": cached,
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": cached}],
        "serviceTier": "standard",
    }
    # What is zero is left out.
    return {name: value for name, value in made.items() if value and (cached or name != "cacheTokensDetails")}


# Streams


def render_events(
    question: Question, answer: Answer, behaviour: Behaviour, identity: str, created: int
) -> tuple[Event, ...]:
    """The answer as server-sent events, each a response of its own with the usage so far."""
    if behaviour.blocked:
        body = _response(question, behaviour, identity, _BLOCKED, _usage(answer, 0, 0))
        return (data_event(body, usage=behaviour.usage != "never"),)
    events = []
    streams = [list(_chunks(question, answer, choice)) for choice in answer.choices]
    said, thought = [0] * len(streams), sum(tokens(choice.reasoning) for choice in answer.choices)
    whole = answer.usage.completion - answer.usage.reasoning
    for turn in range(max(map(len, streams))):
        for index, chunks in enumerate(streams):
            if turn >= len(chunks):
                continue
            part, text, size = chunks[turn]
            said[index] += size
            last = turn == len(chunks) - 1
            candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"} if part else {"role": "model"}}
            candidate |= _end(answer.choices[index], index, False) if last else {"index": index}
            # Rounded so that the last chunk's count is the answer's.
            so_far = min(whole, -(-sum(said) // 4)) if not last else whole
            usage = _usage(answer, so_far, thought)
            body = _response(question, behaviour, identity, {"candidates": [candidate]}, usage)
            events.append(data_event(body, text, last and behaviour.usage != "never"))
    return tuple(events)


def _chunks(question: Question, answer: Answer, choice: Choice) -> Iterator[tuple[dict[str, Any], str, int]]:
    """A choice's chunks: the part, its text, how many characters it counts for."""
    if question.reasoning_shown:
        for piece in pieces(choice.reasoning):
            yield {"text": piece, "thought": True}, "", 0
    for piece in pieces(choice.text):
        yield {"text": piece}, piece, len(piece)
    for part, call in zip(_calls(question, answer, choice), choice.tool_calls, strict=True):
        yield part, "", len(call.arguments)
    if choice.finish_reason in _EMPTY or not (choice.text or choice.tool_calls):
        yield {}, "", 0
    elif choice.text and gemini_request.is_third(question.model):
        yield {"text": "", "thoughtSignature": _signature(answer)}, "", 0
    else:
        yield {"text": ""}, "", 0


# Errors


_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_MESSAGES = {
    "auth": "API key not valid. Please pass a valid API key.",
    "context-length": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "overloaded": "The model is overloaded. Please try again later.",
}
_RPC = "type.googleapis.com/google.rpc."


def _error(refusal: Refusal) -> dict[str, Any]:
    status = _STATUSES.get(refusal.status, "UNKNOWN" if refusal.status >= 500 else "FAILED_PRECONDITION")
    error: dict[str, Any] = {
        "code": refusal.status,
        "message": _MESSAGES.get(refusal.kind, refusal.message),
        "status": status,
    }
    if details := list(_details(refusal)):
        error["details"] = details
    return {"error": error}


def _details(refusal: Refusal) -> Iterator[dict[str, Any]]:
    if refusal.kind == "auth" and refusal.status == 400:
        yield {
            "@type": f"{_RPC}ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"},
        }
    if refusal.status == 429:
        metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
        yield {"@type": f"{_RPC}QuotaFailure", "violations": [{"quotaMetric": metric, "quotaValue": "60"}]}
        if delay := _delay(refusal):
            yield {"@type": f"{_RPC}RetryInfo", "retryDelay": delay}


def _delay(refusal: Refusal) -> str | None:
    """`Retry-After` as Google says it: a duration in the body."""
    value = dict(refusal.headers).get("retry-after", "")
    return f"{value}s" if re.fullmatch(r"\d+(\.\d+)?", value) else None


def render_refusal(refusal: Refusal, n: int) -> Reply:
    """An error in place of an answer. What cannot be said as a duration stays in the header."""
    kept = tuple((name, value) for name, value in refusal.headers if name == "retry-after" and not _delay(refusal))
    return Reply(refusal.status, JSON_TYPE, (Event(msgspec.json.encode(_error(refusal))),), headers=kept)


def render_error_event(refusal: Refusal) -> Event:
    """An error inside a stream that has begun with 200."""
    return data_event(_error(refusal))

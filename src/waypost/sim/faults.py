"""Every way the simulated upstream can fail, one table: `FAULTS`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from waypost.sim import edits
from waypost.sim.options import TEXT_STREAMS
from waypost.sim.script import Refusal, Reply, Script

Arguments = tuple[str, ...]


class Occasion(msgspec.Struct, frozen=True):
    """What a fault may depend on.

    `served` counts the answers given on this connection before, `nth` the requests for this model, this one included.
    """

    served: int
    nth: int


class Fault(msgspec.Struct, frozen=True):
    """A row: the name's pattern (capitals stand for values), what happens, its number among the faults of the plan.

    Exactly one of the callables acts: `refuse` instead of an answer, `reply` before framing, `script` after it,
    `error_after` puts the `error` into a stream. `fires` may hold it back. `chunked` forces chunked framing,
    `unicode` asks for a text with characters of several bytes, `blocked` for an answer that says why there is none
    (in formats that do so with 200), `early` lets it act before the body has arrived.
    `formats` are those it makes sense in, all if there are none.
    """

    pattern: str
    number: str
    example: str
    meaning: str
    refuse: Callable[[Arguments], Refusal] | None = None
    reply: Callable[[Reply, Arguments], Reply] | None = None
    script: Callable[[Script, Arguments], Script] | None = None
    error_after: Callable[[Arguments], int] | None = None
    error: Refusal | None = None
    fires: Callable[[Arguments, Occasion], bool] | None = None
    chunked: bool = False
    unicode: bool = False
    blocked: bool = False
    early: bool = False
    formats: tuple[str, ...] = ()


class Chosen(msgspec.Struct, frozen=True):
    """A fault as a model name asked for it, e.g. `cut-after-3` with the arguments ("3",)."""

    name: str
    fault: Fault
    arguments: Arguments


_TYPES = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("requests", "rate_limit_exceeded"),
}
_BINARY_STREAMS = ("bedrock",)


def refuse_status(status: int) -> Refusal:
    """The error a provider sends with this status."""
    kind, code = _TYPES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return Refusal(status, f"The simulator was told to answer with status {status}.", kind, code)


def _refuse_auth(arguments: Arguments) -> Refusal:
    return msgspec.structs.replace(refuse_status(int(arguments[0])), kind="auth")


def _refuse_rate(retry_after: str | None) -> Refusal:
    headers: tuple[tuple[str, str], ...] = (
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "0"),
    )
    if retry_after is not None:
        headers = (("retry-after", retry_after), *headers)
    return msgspec.structs.replace(refuse_status(429), headers=headers, message="Rate limit reached for requests.")


_CONTEXT_LENGTH = Refusal(
    400,
    "This model's maximum context length is 8192 tokens. Please reduce the length of the messages.",
    "invalid_request_error",
    "context_length_exceeded",
    "messages",
    kind="context-length",
)
_CONTENT_POLICY = Refusal(
    400,
    "Your request was rejected as a result of our safety system.",
    "invalid_request_error",
    "content_policy_violation",
    kind="content-policy",
)
_UNMODELLED = Refusal(500, "An internal server error occurred", "server_error", kind="unmodelled")
_OVERLOADED = Refusal(503, "Overloaded", "server_error", "overloaded", kind="overloaded")
EARLY_413 = msgspec.structs.replace(refuse_status(413), close=True)
_STREAM_ERROR = Refusal(500, "The server had an error while processing your request.", "server_error", "server_error")


def _percent(arguments: Arguments, occasion: Occasion) -> bool:
    """Evenly spread: of any hundred requests in a row, as many fail as the name says."""
    percent = int(arguments[1])
    return occasion.nth * percent // 100 > (occasion.nth - 1) * percent // 100


def _stream_only(edit: Callable[[Reply], Reply]) -> Callable[[Reply, Arguments], Reply]:
    return lambda reply, _: edit(reply)


def _count(arguments: Arguments) -> int:
    return int(arguments[0])


def _milliseconds(arguments: Arguments) -> float:
    return int(arguments[0]) / 1000


FAULTS: tuple[Fault, ...] = (
    Fault("hang", "F2", "hang", "reads the request and stays silent", script=lambda script, _: edits.silent(script)),
    Fault(
        "reset-before-headers",
        "F3",
        "reset-before-headers",
        "resets the connection (RST) instead of answering",
        script=lambda script, _: edits.before_headers(script, "reset"),
    ),
    Fault(
        "close-before-headers",
        "F3",
        "close-before-headers",
        "closes the connection (FIN) instead of answering",
        script=lambda script, _: edits.before_headers(script, "close"),
    ),
    Fault(
        "close-reused",
        "F3",
        "close-reused",
        "closes without an answer if the connection has served a request before; answers on a fresh one",
        script=lambda script, _: edits.before_headers(script, "close"),
        fires=lambda _, occasion: occasion.served > 0,
    ),
    Fault(
        "reset-after-headers",
        "F4",
        "reset-after-headers",
        "resets after the response's head",
        script=lambda script, _: edits.after_headers(script, "reset"),
    ),
    Fault(
        "reset-after-N",
        "F4",
        "reset-after-3",
        "resets after N events (half the body, if no stream)",
        script=lambda script, a: edits.after_events(script, _count(a), "reset"),
    ),
    Fault(
        "cut-after-N",
        "F4",
        "cut-after-3",
        "closes in the middle of the event after the Nth (half the body, if no stream)",
        script=lambda script, a: edits.after_events(script, _count(a), "close", half=True),
    ),
    Fault(
        "cut-utf8",
        "F4",
        "cut-utf8",
        "closes inside a character of several bytes",
        script=lambda script, _: edits.inside_character(script),
        unicode=True,
    ),
    Fault(
        "eof-after-N",
        "F5",
        "eof-after-3",
        "ends cleanly after N events, before any finish reason (half the JSON in clean chunks, if no stream)",
        reply=lambda reply, a: edits.clean_end_after(reply, _count(a)),
    ),
    Fault(
        "stall-after-N",
        "F6",
        "stall-after-3",
        "falls silent after N events (half the body, if no stream), the connection open",
        script=lambda script, a: edits.after_events(script, _count(a), "silent"),
    ),
    Fault(
        "dribble-MS",
        "F6",
        "dribble-20",
        "sends the body one byte every MS milliseconds",
        script=lambda script, a: edits.dribbled(script, _milliseconds(a)),
    ),
    Fault(
        "slow-headers-MS",
        "F7",
        "slow-headers-20",
        "sends the head one byte every MS milliseconds",
        script=lambda script, a: edits.dribbled_head(script, _milliseconds(a)),
    ),
    Fault("huge-headers", "F7", "huge-headers", "a header block of 1 MiB", reply=_stream_only(edits.huge_headers)),
    Fault(
        "sse-no-colon",
        "F8",
        "sse-no-colon",
        "stream: a line without a colon, and an event lost because its `data` lacks one",
        reply=_stream_only(edits.sse_no_colon),
        formats=TEXT_STREAMS,
    ),
    Fault(
        "sse-cr",
        "F8",
        "sse-cr",
        "stream: lines end in CR alone",
        reply=_stream_only(edits.sse_cr),
        formats=TEXT_STREAMS,
    ),
    Fault(
        "sse-bom",
        "F8",
        "sse-bom",
        "stream: begins with a byte order mark",
        reply=_stream_only(edits.sse_bom),
        formats=TEXT_STREAMS,
    ),
    Fault(
        "sse-nospace",
        "F8",
        "sse-nospace",
        "stream: `data:` without a space",
        reply=_stream_only(edits.sse_nospace),
        formats=TEXT_STREAMS,
    ),
    Fault(
        "sse-multiline",
        "F8",
        "sse-multiline",
        "stream: each event's JSON on two data lines",
        reply=_stream_only(edits.sse_multiline),
        formats=TEXT_STREAMS,
    ),
    Fault(
        "sse-unknown-event",
        "F8",
        "sse-unknown-event",
        "stream: an event of unknown type, an id and a retry",
        reply=_stream_only(edits.sse_unknown_event),
        formats=TEXT_STREAMS,
    ),
    Fault(
        "sse-nul",
        "F8",
        "sse-nul",
        "stream: NUL bytes outside the data",
        reply=_stream_only(edits.sse_nul),
        formats=TEXT_STREAMS,
    ),
    Fault(
        "sse-bad-utf8",
        "F8",
        "sse-bad-utf8",
        "stream: bytes that are no UTF-8 in the text",
        reply=_stream_only(edits.sse_bad_utf8),
        formats=TEXT_STREAMS,
    ),
    Fault(
        "sse-long-line",
        "F8",
        "sse-long-line",
        "stream: a line of 2 MiB",
        reply=_stream_only(edits.sse_long_line),
        formats=TEXT_STREAMS,
    ),
    Fault(
        "sse-error-first",
        "F8",
        "sse-error-first",
        "status 200 and an error object as the first event (as the body, if no stream)",
        error_after=lambda _: 0,
        error=_STREAM_ERROR,
    ),
    Fault(
        "sse-error-after-N",
        "F8",
        "sse-error-after-3",
        "an error object after N events, then a clean end (as the body, if no stream)",
        error_after=_count,
        error=_STREAM_ERROR,
    ),
    Fault(
        "overloaded-after-N",
        "F8",
        "overloaded-after-3",
        "the same with the error of an overloaded provider",
        error_after=_count,
        error=_OVERLOADED,
    ),
    Fault(
        "error-message-after-N",
        "F8",
        "error-message-after-3",
        "binary stream: the same with an error that stands in the headers of a message of type `error`",
        error_after=_count,
        error=_UNMODELLED,
        formats=_BINARY_STREAMS,
    ),
    Fault(
        "bad-checksum",
        "F8",
        "bad-checksum",
        "binary stream: the third message's checksum is wrong",
        script=lambda script, _: edits.bad_checksum(script),
        formats=_BINARY_STREAMS,
    ),
    Fault(
        "length-short",
        "F9",
        "length-short",
        "a Content-Length of 10 bytes less than the body, then closes",
        reply=lambda reply, _: edits.lengths(reply, "short"),
        script=lambda script, _: edits.closing(script),
    ),
    Fault(
        "length-long",
        "F9",
        "length-long",
        "a Content-Length of 10 bytes more than the body, then closes",
        reply=lambda reply, _: edits.lengths(reply, "long"),
        script=lambda script, _: edits.closing(script),
    ),
    Fault(
        "length-negative",
        "F9",
        "length-negative",
        "`Content-Length: -1`",
        reply=lambda reply, _: edits.lengths(reply, "negative"),
    ),
    Fault(
        "length-twice",
        "F9",
        "length-twice",
        "two Content-Length headers that differ",
        reply=lambda reply, _: edits.lengths(reply, "twice"),
    ),
    Fault(
        "bad-chunk-size",
        "F9",
        "bad-chunk-size",
        "a chunk whose size is `zz`, then closes",
        script=lambda script, _: edits.bad_chunk_size(script),
        chunked=True,
    ),
    Fault(
        "missing-last-chunk",
        "F9",
        "missing-last-chunk",
        "closes without the chunk of size 0",
        script=lambda script, _: edits.missing_last_chunk(script),
        chunked=True,
    ),
    Fault(
        "garbage-after",
        "F9",
        "garbage-after",
        "a second response, which nobody asked for, right behind the first",
        script=lambda script, _: edits.garbage_after(script),
    ),
    Fault(
        "gzip-bomb",
        "F9",
        "gzip-bomb",
        "64 MiB of spaces in some 64 kB of gzip",
        reply=_stream_only(edits.gzip_bomb),
    ),
    Fault("html-200", "F9", "html-200", "a web page with status 200", reply=_stream_only(edits.html)),
    Fault("not-json", "F9", "not-json", "a body, or an event, that is no JSON", reply=_stream_only(edits.not_json)),
    Fault(
        "truncated-json",
        "F9",
        "truncated-json",
        "half of the JSON under correct framing (stream: in the third event)",
        reply=_stream_only(edits.truncated_json),
    ),
    Fault(
        "429-retry-after-X",
        "F10",
        "429-retry-after-2",
        "429 with `Retry-After: X`, X taken literally",
        refuse=lambda a: _refuse_rate(a[0]),
    ),
    Fault("429", "F10", "429", "429 without Retry-After", refuse=lambda _: _refuse_rate(None)),
    Fault(
        "status-NNN-P",
        "F11",
        "status-500-30",
        "status NNN for P percent of this model's requests, evenly spread",
        refuse=lambda a: refuse_status(int(a[0])),
        fires=_percent,
    ),
    Fault("status-NNN", "F11", "status-503", "status NNN", refuse=lambda a: refuse_status(int(a[0]))),
    Fault("auth-NNN", "F11", "auth-401", "status NNN, as for a bad key", refuse=_refuse_auth),
    Fault(
        "overloaded",
        "F11",
        "overloaded",
        "503, or what the format says when it is overloaded (Anthropic: 529)",
        refuse=lambda _: _OVERLOADED,
    ),
    Fault(
        "early-413",
        "F11",
        "early-413",
        "413 before the body has been read, then closes",
        refuse=lambda _: EARLY_413,
        early=True,
    ),
    Fault("context-length", "F11", "context-length", "400 `context_length_exceeded`", refuse=lambda _: _CONTEXT_LENGTH),
    Fault(
        "content-policy",
        "F11",
        "content-policy",
        "400 `content_policy_violation` (Gemini: 200 and a `promptFeedback`)",
        refuse=lambda _: _CONTENT_POLICY,
        blocked=True,
    ),
)

"""Every way the simulated upstream can fail, one table: `FAULTS`. `read_name` turns a model name into behaviour."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import msgspec

from waypost.sim import edits
from waypost.sim.options import OPTIONS, Behaviour, Option
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
    `error` makes the error event that goes into a stream. `fires` may hold it back. `chunked` forces chunked framing,
    `unicode` asks for a text with characters of several bytes, `early` lets it act before the body has arrived.
    """

    pattern: str
    number: str
    example: str
    meaning: str
    refuse: Callable[[Arguments], Refusal] | None = None
    reply: Callable[[Reply, Arguments], Reply] | None = None
    script: Callable[[Script, Arguments], Script] | None = None
    error_after: Callable[[Arguments], int] | None = None
    fires: Callable[[Arguments, Occasion], bool] | None = None
    chunked: bool = False
    unicode: bool = False
    early: bool = False


class Chosen(msgspec.Struct, frozen=True):
    """A fault as a model name asked for it, e.g. `cut-after-3` with the arguments ("3",)."""

    name: str
    fault: Fault
    arguments: Arguments


class UnknownNameError(Exception):
    """A model name that means to be a fault or an option, and is none."""


_TYPES = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("requests", "rate_limit_exceeded"),
}


def refuse_status(status: int) -> Refusal:
    """The error a provider sends with this status."""
    kind, code = _TYPES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return Refusal(status, f"The simulator was told to answer with status {status}.", kind, code)


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
)
_CONTENT_POLICY = Refusal(
    400,
    "Your request was rejected as a result of our safety system.",
    "invalid_request_error",
    "content_policy_violation",
)
_EARLY_413 = msgspec.structs.replace(refuse_status(413), close=True)
STREAM_ERROR = Refusal(200, "The server had an error while processing your request.", "server_error", "server_error")


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
    ),
    Fault("sse-cr", "F8", "sse-cr", "stream: lines end in CR alone", reply=_stream_only(edits.sse_cr)),
    Fault("sse-bom", "F8", "sse-bom", "stream: begins with a byte order mark", reply=_stream_only(edits.sse_bom)),
    Fault("sse-nospace", "F8", "sse-nospace", "stream: `data:` without a space", reply=_stream_only(edits.sse_nospace)),
    Fault(
        "sse-multiline",
        "F8",
        "sse-multiline",
        "stream: each event's JSON on two data lines",
        reply=_stream_only(edits.sse_multiline),
    ),
    Fault(
        "sse-unknown-event",
        "F8",
        "sse-unknown-event",
        "stream: an event of unknown type, an id and a retry",
        reply=_stream_only(edits.sse_unknown_event),
    ),
    Fault("sse-nul", "F8", "sse-nul", "stream: NUL bytes outside the data", reply=_stream_only(edits.sse_nul)),
    Fault(
        "sse-bad-utf8",
        "F8",
        "sse-bad-utf8",
        "stream: bytes that are no UTF-8 in the text",
        reply=_stream_only(edits.sse_bad_utf8),
    ),
    Fault("sse-long-line", "F8", "sse-long-line", "stream: a line of 2 MiB", reply=_stream_only(edits.sse_long_line)),
    Fault(
        "sse-error-first",
        "F8",
        "sse-error-first",
        "status 200 and an error object as the first event (as the body, if no stream)",
        error_after=lambda _: 0,
    ),
    Fault(
        "sse-error-after-N",
        "F8",
        "sse-error-after-3",
        "an error object after N events, then a clean end (as the body, if no stream)",
        error_after=_count,
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
    Fault("auth-NNN", "F11", "auth-401", "status NNN, as for a bad key", refuse=lambda a: refuse_status(int(a[0]))),
    Fault(
        "early-413",
        "F11",
        "early-413",
        "413 before the body has been read, then closes",
        refuse=lambda _: _EARLY_413,
        early=True,
    ),
    Fault("context-length", "F11", "context-length", "400 `context_length_exceeded`", refuse=lambda _: _CONTEXT_LENGTH),
    Fault(
        "content-policy", "F11", "content-policy", "400 `content_policy_violation`", refuse=lambda _: _CONTENT_POLICY
    ),
)


# From a model name to behaviour


def _expression(pattern: str) -> re.Pattern[str]:
    values = {"N": r"(\d{1,9})", "MS": r"(\d{1,9})", "NNN": r"([1-5]\d\d)", "P": r"(\d{1,3})", "X": r"(.*)"}
    return re.compile("-".join(values.get(part, re.escape(part)) for part in pattern.split("-")))


ROWS: tuple[Option | Fault, ...] = (*OPTIONS, *FAULTS)
_EXPRESSIONS = tuple((_expression(row.pattern), row) for row in ROWS)
# The first word of each name: what begins so and matches no row is a slip, not somebody's model.
_STEMS = frozenset(row.pattern.split("-")[0] for row in ROWS) - {"content", "no"}


class Role(msgspec.Struct, frozen=True):
    """What a model name asks for."""

    behaviour: Behaviour
    faults: tuple[Chosen, ...] = ()


@functools.lru_cache(4096)
def read_name(model: str, prefix: str = "") -> Role:
    """The options and faults in a model name, joined by `+`, `sim/` before it or not; and in a path's prefix.

    `demo`, or any name that does not begin like a row, plays no part but in `Behaviour.name`.
    Raises UnknownNameError for what begins like a row and is none, and for a later part that matches none.
    """
    name = "demo"
    fields: dict[str, Any] = {}
    faults: list[Chosen] = []
    parts = model.removeprefix("sim/").split("+")
    from_prefix = [part for part in re.split(r"[/+]", prefix) if _find(part)]
    for position, part in enumerate([*parts, *from_prefix]):
        found = _find(part)
        if found is None:
            if position > 0 or part.split("-")[0] in _STEMS:
                raise UnknownNameError(part)
            name = part
            continue
        row, arguments = found
        if isinstance(row, Fault):
            faults.append(Chosen(part, row, arguments))
            fields |= {"unicode": True} if row.unicode else {}
        else:
            fields[row.field] = int(arguments[0]) if row.value is None else row.value
    return Role(Behaviour(**{"name": name, **fields}), tuple(faults))


def _find(part: str) -> tuple[Option | Fault, Arguments] | None:
    for expression, row in _EXPRESSIONS:
        if found := expression.fullmatch(part):
            return row, found.groups()
    return None


def render_list() -> str:
    """The table as text, for `--list`."""
    rows = [("name", "", "what happens"), *((row.pattern, row.number, row.meaning) for row in ROWS)]
    return "\n".join(f"{name:<24}{number:<5}{meaning}" for name, number, meaning in rows)


def render_table() -> str:
    """The table as Markdown, for docs/simulator.md."""

    def rows(table: tuple[Option | Fault, ...]) -> str:
        lines = [f"| `{row.pattern}` | `{row.example}` | {row.number} | {row.meaning} |" for row in table]
        return "\n".join(["| name | for example | | what happens |", "|---|---|---|---|", *lines])

    return f"### Options\n\n{rows(OPTIONS)}\n\n### Faults\n\n{rows(FAULTS)}\n"

"""How a simulated model behaves when nothing is broken: the options a model name may carry."""

from __future__ import annotations

from typing import Literal

import msgspec

Usage = Literal["asked", "last-choice", "every", "never"]


class Behaviour(msgspec.Struct, frozen=True):
    """What the options of a model name ask for. Times in milliseconds, as in the names."""

    name: str = "demo"
    ttft_ms: int = 0
    gap_ms: int | None = None
    words: int | None = None
    split: int | None = None
    cached: int | None = None
    crlf: bool = False
    spaced: bool = False
    comments: bool = False
    echo: bool = False
    unicode: bool = False
    content_filter: bool = False
    azure_first: bool = False
    done: bool = True
    usage: Usage = "asked"
    cache_written: int | None = None
    blocked: bool = False
    malformed: bool = False
    idle_close_ms: int | None = None


class Option(msgspec.Struct, frozen=True):
    """A row of `OPTIONS`: the name's pattern (capitals stand for a number), and the field it sets.

    `value` is what the field becomes; None takes the number in the name. `formats` are those that have it, all if
    there are none.
    """

    pattern: str
    example: str
    meaning: str
    field: str
    value: bool | str | None = None
    number: str = ""
    formats: tuple[str, ...] = ()


# The formats whose streams are text, and those that end with a word of their own.
TEXT_STREAMS = ("openai", "anthropic", "gemini", "cohere")
OPTIONS: tuple[Option, ...] = (
    Option("ttft-MS", "ttft-200", "waits MS milliseconds before the first byte of the response", "ttft_ms"),
    Option("gap-MS", "gap-20", "waits MS milliseconds between events; each event is a write of its own", "gap_ms"),
    Option("words-N", "words-200", "the text is exactly N words long", "words"),
    Option("split-N", "split-1", "the response leaves in writes of N bytes", "split"),
    Option("cached-N", "cached-64", "the usage reports N cached prompt tokens", "cached"),
    Option("echo", "echo", "the text is the last user message, byte for byte", "echo", True),
    Option("unicode", "unicode", "the text has characters of two, three and four bytes", "unicode", True),
    Option("crlf", "crlf", "the event stream's lines end in CR LF", "crlf", True, formats=TEXT_STREAMS),
    Option("spaced", "spaced", "JSON with a space after each colon and comma", "spaced", True),
    Option("comments", "comments", "a comment line before every event", "comments", True, formats=TEXT_STREAMS),
    Option(
        "content-filter",
        "content-filter",
        "ends with the finish reason `content_filter`, or what the format calls it",
        "content_filter",
        True,
        formats=("openai", "anthropic", "gemini", "bedrock"),
    ),
    Option(
        "cache-write-N",
        "cache-write-64",
        "the usage reports N prompt tokens written to a cache",
        "cache_written",
        formats=("anthropic", "bedrock"),
    ),
    Option(
        "malformed-call",
        "malformed-call",
        "ends without content, because the model's tool call was malformed",
        "malformed",
        True,
        formats=("gemini", "bedrock"),
    ),
    Option(
        "azure-first",
        "azure-first",
        "the first chunk has no choices but prompt_filter_results, as Azure's has",
        "azure_first",
        True,
        formats=("openai",),
    ),
    Option(
        "usage-last-choice",
        "usage-last-choice",
        "usage on the chunk with the finish reason, asked for or not, and no chunk of its own",
        "usage",
        "last-choice",
        formats=("openai",),
    ),
    Option(
        "usage-every",
        "usage-every",
        "usage so far on every chunk, asked for or not",
        "usage",
        "every",
        formats=("openai",),
    ),
    Option("no-usage", "no-usage", "no usage at all", "usage", "never"),
    Option(
        "no-done",
        "no-done",
        "the stream ends after its finish reason, without [DONE]",
        "done",
        False,
        "F5",
        formats=("openai", "cohere"),
    ),
    Option(
        "idle-close-MS",
        "idle-close-50",
        "answers, keeps the connection, and closes it once it has been idle for MS milliseconds",
        "idle_close_ms",
        None,
        "F16",
    ),
)

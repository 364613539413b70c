"""Recorded exchanges at ../shared/wire, and the table of how many of them our formats read.

`python -m tests.formats.recordings` prints the table provider × (parsed, total) of answers with status 200.
"""

from __future__ import annotations

import base64
import importlib
import pathlib
import re
from typing import Any

import msgspec
import pytest

from waypost.completion import BadAnswer, Completion, fold
from waypost.formats.format import Format, Reading, StreamParser

WIRE = pathlib.Path(__file__).parents[3] / "shared" / "wire"

# provider → the module of its format, and which URLs are chat
FORMATS: dict[str, tuple[str, str]] = {
    "anthropic": ("anthropic_messages", r"/messages$"),
    "bedrock": ("bedrock_converse", r"/converse(-stream)?$"),
    "cohere": ("cohere", r"/chat$"),
    "gemini": ("gemini", r":(generate|streamGenerate)Content$"),
    "vertex": ("gemini", r":(generate|streamGenerate)Content$"),
    **dict.fromkeys(
        (
            "openai",
            "azure",
            "cerebras",
            "deepseek",
            "groq",
            "huggingface",
            "mistral",
            "ollama",
            "openrouter",
        ),
        ("openai_compatible", r"/chat/completions$"),
    ),
}


class Recorded(msgspec.Struct):
    name: str
    n: int
    url: str
    status: int
    request: Any
    response: Any
    content_type: str | None = None

    @property
    def is_stream(self) -> bool:
        return "stream" in (self.content_type or "")

    @property
    def body(self) -> bytes:
        if isinstance(self.response, dict) and set(self.response) == {"base64"}:
            return base64.b64decode(self.response["base64"])
        return self.response.encode() if isinstance(self.response, str) else msgspec.json.encode(self.response)

    @property
    def where(self) -> str:
        return f"{self.name} {self.n}"


def every(provider: str) -> list[Recorded]:
    """Every exchange with a provider; skips the test where the recordings are absent."""
    path = WIRE / f"{provider}.jsonl"
    if not path.exists():
        pytest.skip(f"no recordings of {provider} at ../shared/wire")
    return [msgspec.json.decode(line, type=Recorded) for line in path.read_bytes().splitlines()]


def chats(provider: str, stream: bool | None = None, good: bool = True) -> list[Recorded]:
    """The exchanges that are chat, by kind and by how they ended."""
    pattern = re.compile(FORMATS[provider][1])
    found = [
        one
        for one in every(provider)
        if pattern.search(one.url.split("?")[0].split("#")[0])
        and (one.status == 200) == good
        and stream in (None, one.is_stream)
    ]
    assert found, f"{provider} has no such recording"
    return found


def module(provider: str) -> Format:
    return importlib.import_module(f"waypost.formats.{FORMATS[provider][0]}")  # type: ignore[return-value]


def play(parser: StreamParser, pieces: list[bytes]) -> list[Any]:
    """Every event that the pieces bring."""
    events: list[Any] = []
    for piece in pieces:
        events += parser.feed(piece)
    return events + parser.end()


def read(provider: str, exchange: Recorded) -> Completion:
    """A recorded answer, stream or whole. Raises BadAnswer."""
    format = module(provider)
    if exchange.is_stream:
        return fold(play(format.stream_parser(Reading()), [exchange.body]))
    return format.parse_response(exchange.body, Reading())


# Who answers a recorded 200 with what is none is not read as an answer: then the next target is tried.
WHY = {
    "Unexpected tool call": "the model broke off (UNEXPECTED_TOOL_CALL): there is no answer in it",
    "Tool call validation failed": "an error inside of a stream that had begun with 200",
    "Tool choice is required": "an error inside of a stream that had begun with 200",
    "Token limit reached": "an error inside of a stream that had begun with 200",
}
EMBEDDINGS: dict[str, tuple[str, str]] = {
    "bedrock": ("bedrock_embeddings", r"(embed|profile).*/invoke$"),
    "cohere": ("cohere_embeddings", r"/embed$"),
    "vertex": ("gemini_embeddings", r":embedContent$"),
}


class Row(msgspec.Struct):
    """One line of the table; `unread` has the reason of every answer that is not read, by where it stands."""

    provider: str
    kind: str
    total: int
    unread: dict[str, str] = {}

    def lines(self) -> list[str]:
        """As docs/formats.md has it: the row, and its exceptions."""
        reasons = sorted(set(self.unread.values()))
        counts = [list(self.unread.values()).count(reason) for reason in reasons]
        row = f"| {self.provider} | {self.kind} | {self.total - len(self.unread)} | {self.total} |"
        return [
            row,
            *(f"- {self.provider}, {count}: {reason}" for count, reason in zip(counts, reasons, strict=True)),
        ]


def read_table() -> list[Row]:
    rows = []
    for provider in FORMATS:
        exchanges = chats(provider)
        row = Row(provider, "chat", len(exchanges), {})
        for exchange in exchanges:
            try:
                read(provider, exchange)
            except BadAnswer as error:
                row.unread[exchange.where] = next(why for words, why in WHY.items() if str(error).startswith(words))
        rows.append(row)
    for provider, (name, pattern) in EMBEDDINGS.items():
        parse = importlib.import_module(f"waypost.formats.{name}").parse_embeddings
        found = [one for one in every(provider) if one.status == 200 and re.search(pattern, one.url.split("#")[0])]
        assert all(parse(one.body).vectors for one in found)
        rows.append(Row(provider, "embeddings", len(found)))
    return rows


def print_table() -> None:
    lines = [row.lines() for row in read_table()]
    print("| provider | answers | parsed | total |\n|---|---|---|---|")
    print(*(row for row, *_ in lines), "", *(why for _, *reasons in lines for why in reasons), sep="\n")


if __name__ == "__main__":
    print_table()

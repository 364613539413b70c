"""Recorded exchanges at ../shared/wire, and the table of how many of them our formats read.

`python -m tests.formats.recordings` prints the table provider × (parsed, total) of chat answers with status 200.
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


def print_table() -> None:
    print(f"{'provider':12} parsed total")
    for provider in FORMATS:
        exchanges = chats(provider)
        failures = []
        for exchange in exchanges:
            try:
                read(provider, exchange)
            except BadAnswer as error:
                failures.append(f"  {exchange.where}: {error}")
        print(f"{provider:12} {len(exchanges) - len(failures):6} {len(exchanges):5}")
        print("\n".join(failures), end="\n" if failures else "")


if __name__ == "__main__":
    print_table()

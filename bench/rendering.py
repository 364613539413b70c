"""`python -m bench.rendering`: what it takes to put a history of 100 kB into each format, in ms of CPU, as JSON.

`read` is once a request, whatever formats its chain has: the body as it came → the vocabulary. `render` is once for
each upstream that is tried: the vocabulary → the format's own JSON.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from waypost.formats import anthropic_messages, bedrock_converse, cohere, gemini
from waypost.formats.format import Format
from waypost.formats.openai_chat import parse_request
from waypost.formats.openai_request import parse_chat

FORMATS: dict[str, tuple[Format, str]] = {
    "anthropic": (anthropic_messages, "claude-sonnet-4-5"),
    "gemini": (gemini, "gemini-2.5-flash"),
    "bedrock": (bedrock_converse, "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    "cohere": (cohere, "command-a-03-2025"),
}
PROSE = 'He asked: "how does a token bucket work?"\nExplain it in one paragraph, please. '
WEATHER = {
    "name": "get_weather",
    "description": "The current weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Cost(msgspec.Struct, frozen=True):
    """Medians, in ms."""

    read: float
    render: float


def history(size: int) -> bytes:
    """A request whose conversation has `size` bytes: prose, and a call with its result in every other turn."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You are a helpful assistant."}]
    for turn in range(1, 1_000_000):
        if len(json.dumps(messages)) >= size:
            break
        messages.append({"role": "user", "content": PROSE * 12})
        if turn % 2:
            id = f"call_{turn:024d}"
            call = {"id": id, "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": id, "content": '{"celsius": 21}'})
        messages.append({"role": "assistant", "content": PROSE * 6})
    messages.append({"role": "user", "content": "Go on."})
    tools = [{"type": "function", "function": WEATHER}]
    return json.dumps({"model": "m", "messages": messages, "max_tokens": 64, "tools": tools}).encode()


def timed(step: Callable[[], object], times: int = 60) -> float:
    """The median of its CPU time, in ms."""
    spent = []
    for _ in range(times):
        began = time.process_time()
        step()
        spent.append(time.process_time() - began)
    return statistics.median(spent) * 1e3


def costs() -> dict[str, Cost]:
    """By format."""
    body = history(100_000)
    fields = parse_request(body).fields
    read = timed(lambda: parse_chat(fields))
    chat = parse_chat(fields)
    found = {}
    for name, (format, id) in FORMATS.items():
        found[name] = Cost(read, timed(partial(format.render_request, chat, format.known_model(id))))
    return found


if __name__ == "__main__":
    print(msgspec.json.encode(costs()).decode())

"""Streams as vendors write them: what the mock sends for each format, and how their texts are counted on the way.

The events have the fields that the vendors' own have (padding, ids, usage on every event of Gemini's), so that what is
read costs what it costs in earnest.
"""

from __future__ import annotations

import binascii
import json
import struct
from typing import Any

import msgspec

EVENTS = 50
WORDS = ("The", " bucket", " fills", " at", " a", " steady", " rate", ",", " and", " every", " call", " takes", " one")


class Script(msgspec.Struct, frozen=True):
    """One stream in chunks of HTTP: `first` goes out with the first text. The rest says how to recognize it.

    `text` occurs once in every event with a word of the model's, `token` in the first of them, `end` in the last bytes.
    """

    first: bytes
    texts: tuple[bytes, ...]
    last: bytes
    text: bytes
    token: bytes
    end: bytes


class Vendor(msgspec.Struct, frozen=True):
    """How a stream of one format is asked for: a `[providers.NAME]` table, its model, and the path that names it."""

    settings: str
    model: str
    path: str


VENDORS: dict[str, Vendor] = {
    "anthropic": Vendor('base_url = "ROOT/v1"\nkeys = ["sk-bench"]', "claude-sonnet-4-5", "/v1/messages"),
    "gemini": Vendor(
        'base_url = "ROOT/v1beta"\nkeys = ["bench"]',
        "gemini-2.5-flash",
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
    ),
    "bedrock": Vendor(
        'base_url = "ROOT"\nregion = "us-east-1"\nkeys = ["AKIDBENCH:secret"]',
        "us.amazon.nova-lite-v1:0",
        "/model/us.amazon.nova-lite-v1%3A0/converse-stream",
    ),
}


def script_of(path: str) -> str:
    """The format that is asked for at a path; "" is OpenAI's."""
    for name, mark in ("anthropic", "/messages"), ("gemini", ":streamGenerateContent"), ("bedrock", "/converse-stream"):
        if mark in path:
            return name
    return ""


def chunk(data: bytes) -> bytes:
    """A chunk of its own, as events come."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def begin(content_type: str) -> bytes:
    """The head of a stream."""
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


LAST_CHUNK = b"0\r\n\r\n"


def compact(value: Any) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"))


def anthropic() -> Script:
    """Messages: named events."""

    def event(kind: str, **fields: Any) -> bytes:
        return chunk(f"event: {kind}\ndata: {compact({'type': kind, **fields})}\n\n".encode())

    usage = {"input_tokens": 24, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message = {
        "id": "msg_01BenchBenchBench", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929",
        "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    first = event("message_start", message=message)
    first += event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    texts = [
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": WORDS[i % len(WORDS)]})
        for i in range(EVENTS)
    ]
    last = event("content_block_stop", index=0)
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    last += event("message_delta", delta=stop, usage={"output_tokens": EVENTS}) + event("message_stop")
    head = begin("text/event-stream; charset=utf-8")
    return Script(head + first, tuple(texts), last + LAST_CHUNK, b'"text_delta"', b'"The"', b'"message_stop"')


def gemini() -> Script:
    """generateContent: every event is a response, with usage so far."""

    def event(text: str, count: int, **more: Any) -> bytes:
        content = {"parts": [{"text": text}], "role": "model"}
        usage = {
            "promptTokenCount": 24, "candidatesTokenCount": count, "totalTokenCount": 24 + count,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 24}],
        }  # fmt: skip
        answer = {
            "candidates": [{"content": content, **more, "index": 0}], "usageMetadata": usage,
            "modelVersion": "gemini-2.5-flash", "responseId": "Y3Jpc3BiZW5jaGJlbmNo",
        }  # fmt: skip
        return chunk(f"data: {compact(answer)}\r\n\r\n".encode())

    texts = [event(WORDS[i % len(WORDS)], i + 1) for i in range(EVENTS)]
    last = event("", EVENTS, finishReason="STOP") + LAST_CHUNK
    return Script(begin("text/event-stream"), tuple(texts), last, b'"parts":[{"text":"', b'"The"', b'"STOP"')


def bedrock() -> Script:
    """ConverseStream: binary messages (AWS's event stream), padded to hide the lengths of words."""

    def event(kind: str, **fields: Any) -> bytes:
        named = ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event"))
        headers = b"".join(
            struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
            for name, value in named
        )
        payload = compact({**fields, "p": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP"[: 40 - len(str(fields)) % 30]})
        prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
        rest = prelude + struct.pack("!I", binascii.crc32(prelude)) + headers + payload.encode()
        return chunk(rest + struct.pack("!I", binascii.crc32(rest)))

    first = begin("application/vnd.amazon.eventstream") + event("messageStart", role="assistant")
    texts = [
        event("contentBlockDelta", contentBlockIndex=0, delta={"text": WORDS[i % len(WORDS)]}) for i in range(EVENTS)
    ]
    usage = {"inputTokens": 24, "outputTokens": EVENTS, "totalTokens": 24 + EVENTS}
    last = event("contentBlockStop", contentBlockIndex=0) + event("messageStop", stopReason="end_turn")
    last += event("metadata", usage=usage, metrics={"latencyMs": 812}) + LAST_CHUNK
    return Script(first, tuple(texts), last, b'"delta":{"text"', b'"The"', b'"metrics"')


SCRIPTS: dict[str, Script] = {"anthropic": anthropic(), "gemini": gemini(), "bedrock": bedrock()}

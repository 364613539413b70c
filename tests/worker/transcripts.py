"""Streams as upstreams write them, and a relay's answer taken apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from waypost.worker.relay import Relay, Stamp, StreamRelay, UpstreamError

USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 4}}
OURS = {"id": "chatcmpl_01HOURS", "model": 'route/"mine"'}


def stamp() -> Stamp:
    return Stamp(
        msgspec.Raw(json.dumps(OURS["id"]).encode()),
        msgspec.Raw(json.dumps(OURS["model"]).encode()),
        msgspec.Raw(b'"sim"'),
        lambda: 42,
        render_usage,
        False,
    )


def render_usage(raw: msgspec.Raw | None, observed: int) -> msgspec.Raw:
    """What stands where an upstream says nothing of usage; with a cost where one is asked for."""
    assert observed >= 0
    if raw is None:
        return msgspec.Raw(b'{"estimated":true}')
    return msgspec.Raw(bytes(raw)[:-1] + b',"cost":0.5}')


def chunk(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An upstream's chunk under the upstream's own names."""
    head = {"id": "up-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "up-model"}
    return {**head, "choices": list(choices), **more}


def said(text: str, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text, **delta}, "logprobs": None, "finish_reason": None}


def finished(reason: str = "stop", index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}


def tool(arguments: str, index: int = 0, **more: Any) -> dict[str, Any]:
    call = {"index": index, "function": {"arguments": arguments}, **more}
    return {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}


# Texts that look like what the scan looks for
TRICKY = [
    '"id":"up-1"',
    '"model":"up-model"',
    "data: [DONE]\n\n",
    '"finish_reason":"stop"',
    '"usage":{',
    '"choices":[]',
]


def render(
    chunks: Iterable[dict[str, Any] | str],
    *,
    compact: bool = True,
    newline: str = "\n",
    field: str = "data: ",
    before: str = "",
    done: bool = True,
) -> bytes:
    """Events as bytes. `before` is what precedes every event; a string among the chunks is its own data."""
    separators = (",", ":") if compact else (", ", ": ")
    out = []
    for one in chunks:
        text = one if isinstance(one, str) else json.dumps(one, separators=separators, ensure_ascii=False)
        out.append(f"{before}{field}{text}\n\n")
    if done:
        out.append(f"{before}{field}[DONE]\n\n")
    return "".join(out).replace("\n", newline).encode()


class Played(msgspec.Struct):
    """What came of feeding pieces to a relay and ending it: bytes out, and the error if there was one."""

    out: bytes
    relay: Relay
    error: UpstreamError | None = None

    @property
    def events(self) -> list[Any]:
        """Every event's JSON, as pairs so that order and duplicates count; "[DONE]" as it is. Comments are left out."""
        assert self.out == b"" or self.out.endswith(b"\n\n"), self.out[-80:]
        events = []
        for event in self.out.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]:
            lines = [line for line in event.split(b"\n") if line and not line.startswith(b":")]
            data = [line.partition(b":")[2].removeprefix(b" ") for line in lines if line.startswith(b"data")]
            if data:
                joined = b"\n".join(data)
                events.append("[DONE]" if joined == b"[DONE]" else json.loads(joined, object_pairs_hook=list))
        return events

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The JSON events as dicts, checked for duplicate names at the top."""
        for event in self.events:
            if event != "[DONE]":
                assert len(event) == len({name for name, _ in event}), event
        parts = [event.partition(b"data:")[2] for event in self.out.split(b"\n\n")]
        return [json.loads(part) for part in parts if part.strip() not in (b"", b"[DONE]")]


def play(pieces: Sequence[bytes], include_usage: bool = False, relay: Relay | None = None) -> Played:
    """Feed pieces, and end where no terminal marker has come."""
    relay = relay or StreamRelay(stamp(), include_usage)
    out = []
    try:
        for piece in pieces:
            out.append(relay.feed(piece))
            if relay.done:
                break
        else:
            out.append(relay.end())
    except UpstreamError as error:
        return Played(b"".join(out), relay, error)
    return Played(b"".join(out), relay)


def in_bytes(data: bytes) -> list[bytes]:
    """One byte at a time."""
    return [data[i : i + 1] for i in range(len(data))]


class Told(msgspec.Struct):
    """What a stream's chunks say when they are put together, by choice."""

    deltas: dict[int, dict[str, str]] = {}
    calls: dict[tuple[int, int], dict[str, str]] = {}
    finish: dict[int, str] = {}
    usage: Any = None


def told(chunks: Iterable[dict[str, Any]]) -> Told:
    """Fold chunks: strings are concatenated, tool calls by their index."""
    whole = Told()
    for one in chunks:
        whole.usage = one.get("usage") or whole.usage
        for choice in one.get("choices") or []:
            index = choice.get("index", 0)
            delta = dict(choice.get("delta") or {})
            for call in delta.pop("tool_calls", None) or []:
                into = whole.calls.setdefault((index, call.get("index", 0)), {})
                for name, value in {**(call.get("function") or {}), "id": call.get("id")}.items():
                    into[name] = into.get(name, "") + (value or "")
            kept = whole.deltas.setdefault(index, {})
            for name, value in delta.items():
                kept[name] = kept.get(name, "") + (value if isinstance(value, str) else json.dumps(value))
            if choice.get("finish_reason") is not None:
                whole.finish[index] = choice["finish_reason"]
    return whole

"""Between the two sockets: an upstream's bytes in, the caller's bytes out. Pure; one relay an attempt.

Both sides speak OpenAI's format here, so bytes pass through: only id and model are replaced, and a scan looks for the
events that matter (usage, finish, error, end). The scan learns from the first event how the upstream writes its JSON;
whatever does not look as learned is parsed event by event. A needle with unescaped quotes cannot stand inside of a JSON
string, so the scan cannot be fooled by a model's text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from waypost.formats.openai_chat import (
    EMPTY_LIST,
    NULL,
    Fields,
    decode_any,
    decode_choices,
    decode_fields,
    encode,
    parse_error,
)

BODY_LIMIT = 32 * 1024 * 1024  # bytes of an upstream's whole answer
EVENT_LIMIT = 4 * 1024 * 1024  # bytes of one event
HELD_LIMIT = 256 * 1024  # bytes held back before the first meaningful event
DONE = b"data: [DONE]\n\n"


class UpstreamError(Exception):
    """The upstream's answer is an error, or not the answer it claims to be. The message is fit for the caller."""


class Stamp(msgspec.Struct, frozen=True):
    """What is ours in an answer, as JSON. `latency_ms` is asked for when the last JSON leaves."""

    id: msgspec.Raw
    model: msgspec.Raw  # the caller's own spelling
    provider: msgspec.Raw
    latency_ms: Callable[[], int]


class Relay(Protocol):
    """`feed` what arrived and send what it returns; `end` once the upstream's body is complete."""

    usage: msgspec.Raw | None  # as the upstream gave it
    done: bool  # the terminal marker has been seen: nothing more is to come

    def feed(self, data: bytes) -> bytes:
        """Raises UpstreamError."""

    def end(self) -> bytes:
        """The last bytes. Raises UpstreamError where the answer is not whole."""


class WholeRelay:
    """Not streaming: one event, the whole answer."""

    __slots__ = ("_parts", "_size", "_stamp", "done", "usage")

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._parts: list[bytes] = []
        self._size = 0
        self.usage: msgspec.Raw | None = None
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Collect; nothing can be sent before the answer is whole."""
        self._size += len(data)
        if self._size > BODY_LIMIT:
            raise UpstreamError(f"the upstream's answer is larger than {BODY_LIMIT} bytes")
        self._parts.append(data)
        return b""

    def end(self) -> bytes:
        """The answer with our id, the caller's model, the provider and the time it took."""
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        try:
            answer = decode_fields(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamError("the upstream's answer is not a JSON object") from None
        choices = answer.get("choices")
        if choices is None or choices == EMPTY_LIST or bytes(memoryview(choices)[:1]) != b"[":
            raise UpstreamError(parse_error(body)[0] or "the upstream's answer has no choices")
        stamp = self._stamp
        answer["id"] = stamp.id
        answer["model"] = stamp.model
        answer["provider"] = stamp.provider
        answer["latency_ms"] = msgspec.Raw(b"%d" % stamp.latency_ms())
        self.usage = answer.get("usage")
        self.done = True
        return encode(answer)


class StreamRelay:
    """Streaming: server-sent events, id and model the same in every chunk, the end never claimed without a marker."""

    __slots__ = (
        "_committed", "_created", "_fast", "_held", "_include_usage", "_needles", "_pending", "_stamp",
        "_tail", "done", "finished", "usage",
    )  # fmt: skip

    def __init__(self, stamp: Stamp, include_usage: bool) -> None:
        self._stamp = stamp
        self._include_usage = include_usage
        self._tail = b""  # the start of an event whose end has not come
        self._pending = b""  # events before the first meaningful one
        self._committed = False
        self._held: Fields | None = None  # the latest finish chunk: it may be the last, which carries our extensions
        # What the first event taught: (its id, ours), (its model, the caller's), and what makes an event special
        self._fast: tuple[bytes, bytes, bytes, bytes] | None = None
        self._needles: tuple[bytes, bytes, bytes] = (b"", b"", b"")
        self._created = msgspec.Raw(b"0")
        self.usage: msgspec.Raw | None = None
        self.finished = False  # a finish_reason has been seen
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Every event that is complete, rewritten. Raises UpstreamError."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if data.find(b"\r") >= 0:  # not `in`: for bytes that costs half a microsecond
            data = self._normalised(data)
        end = data.rfind(b"\n\n")
        if end + 2 != len(data) or end < 0:
            self._keep(data if end < 0 else data[end + 2 :])
            if end < 0:
                return b""
            data = data[: end + 2]
        if self._fast is not None and self._committed and self._held is None:
            rewritten = self._rewritten(data)
            if rewritten is not None:
                return rewritten
        return self._parsed(data)

    def _keep(self, start: bytes) -> None:
        """The start of an event whose end has not come; a \\r that waits for its \\n is behind it already."""
        self._tail = start + self._tail
        if len(self._tail) > EVENT_LIMIT:
            raise UpstreamError(f"the upstream sent an event larger than {EVENT_LIMIT} bytes")

    def _normalised(self, data: bytes) -> bytes:
        """Line ends as \\n (a stream may use \\r\\n or \\r alone, but JSON has neither raw); a last \\r waits for its \\n."""
        if data.endswith(b"\r"):
            data, self._tail = data[:-1], b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _rewritten(self, block: bytes) -> bytes | None:
        """The quick way: replace what was learned, if every event looks as learned and none is special."""
        assert self._fast is not None
        their_id, our_id, their_model, our_model = self._fast
        events = block.count(b"data: ")
        if block.count(their_id) != events or block.count(their_model) != events:
            return None
        finish, usage, empty = self._needles
        if block.find(finish) >= 0 or block.find(usage) >= 0 or block.find(empty) >= 0:
            return None
        return block.replace(their_id, our_id).replace(their_model, our_model)

    # Event by event

    def _parsed(self, block: bytes) -> bytes:
        out = []
        for event in block.split(b"\n\n"):
            payload = parse_event(event)
            if payload is not None and not self.done:
                out.append(self._last() if payload == b"[DONE]" else self._chunk(payload))
        sent = b"".join(out)
        if self._committed:
            return sent
        self._pending += sent
        if len(self._pending) > HELD_LIMIT:
            return self._commit()
        return b""

    def _commit(self) -> bytes:
        self._committed = True
        pending, self._pending = self._pending, b""
        return pending

    def _chunk(self, payload: bytes) -> bytes:
        try:
            chunk = decode_fields(payload)
            error = chunk.get("error")
            if error is not None and error != NULL:
                raise UpstreamError(parse_error(payload)[0] or "the upstream sent an error in its stream")
            choices = decode_choices(chunk.get("choices", EMPTY_LIST))
            usage = chunk.get("usage")
            if usage is not None and usage != NULL:
                self.usage = usage
                chunk["usage"] = NULL
                if not self._include_usage:
                    del chunk["usage"]
            if not choices:
                return b""  # usage alone, which is kept for the end, or nothing that a client could read
            finish = any(choice.get("finish_reason", NULL) != NULL for choice in choices)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamError("the upstream sent an event that is not a chat completion chunk") from None
        if self._fast is None:
            self._learn(payload, chunk)
        self._created = chunk.get("created", self._created)
        chunk["id"] = self._stamp.id
        chunk["model"] = self._stamp.model
        out = self._release()
        if finish:
            self.finished = True
            self._held = chunk
        else:
            out += render_event(chunk)
        if not self._committed and (finish or any(is_meaningful(choice) for choice in choices)):
            out = self._commit() + out
        return out

    def _learn(self, payload: bytes, chunk: Fields) -> None:
        """How does this upstream write its JSON? Compact, or with a space after the colon; else stay slow."""
        their_id, their_model = chunk.get("id"), chunk.get("model")
        if their_id is None or their_model is None or "choices" not in chunk:
            return
        ours = self._stamp
        for colon in (b":", b": "):
            id_needle = b'"id"%b%b' % (colon, bytes(their_id))
            model_needle = b'"model"%b%b' % (colon, bytes(their_model))
            if payload.count(id_needle) == 1 and payload.count(model_needle) == 1:
                self._fast = (
                    id_needle,
                    b'"id"%b%b' % (colon, bytes(ours.id)),
                    model_needle,
                    b'"model"%b%b' % (colon, bytes(ours.model)),
                )
                self._needles = (b'"finish_reason"%b"' % colon, b'"usage"%b{' % colon, b'"choices"%b[]' % colon)

    def _release(self) -> bytes:
        """A finish chunk that turned out not to be the last."""
        held, self._held = self._held, None
        return render_event(held) if held is not None else b""

    def _last(self) -> bytes:
        """The end: usage where it was asked for, our extensions on the last JSON chunk, [DONE]."""
        self.done = True
        out = b"" if self._committed else self._commit()
        last, self._held = self._held, None
        if last is None:
            last = {
                "id": self._stamp.id,
                "object": msgspec.Raw(b'"chat.completion.chunk"'),
                "created": self._created,
                "model": self._stamp.model,
                "choices": msgspec.Raw(NO_CHANGE),
            }
        if self._include_usage and self.usage is not None:
            out += render_event(last)
            last = {name: last[name] for name in ("id", "object", "created", "model") if name in last}
            last["choices"] = EMPTY_LIST
            last["usage"] = self.usage
        last["provider"] = self._stamp.provider
        last["latency_ms"] = msgspec.Raw(b"%d" % self._stamp.latency_ms())
        return out + render_event(last) + DONE

    def end(self) -> bytes:
        """The upstream's body is complete. Raises UpstreamError where neither [DONE] nor a finish_reason was seen."""
        if self._tail.strip(b"\r\n") and not self.done:
            tail, self._tail = self._tail, b""
            out = self._parsed(tail.replace(b"\r", b"\n") + b"\n\n")  # a last event without its empty line
            return out + self.end()
        if self.done:
            return b""
        if not self.finished:
            raise UpstreamError("the upstream's stream ended before its end marker")
        return self._last()


NO_CHANGE = b'[{"index":0,"delta":{},"finish_reason":null}]'


def render_event(chunk: Fields) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % encode(chunk)


def parse_event(event: bytes) -> bytes | None:
    """The data of one event (lines end in \\n), None where it has none: comments and unknown fields are dropped."""
    data = []
    for line in event.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line.startswith(b"data:"):
            data.append(line[6:] if line.startswith(b"data: ") else line[5:])
    payload = b"\n".join(data).strip()
    return payload or None


def is_meaningful(choice: Fields) -> bool:
    """Does a chunk's choice say more than that an answer has begun?"""
    if "delta" not in choice:
        return True
    delta = decode_any(choice["delta"])
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


def render_error(message: str, code: str) -> bytes:
    """The frame that ends a stream which cannot go on (contract R11), and [DONE]."""
    error = {"message": message, "type": "api_error", "param": None, "code": code}
    return render_event({"error": msgspec.Raw(encode(error))}) + DONE

"""Between the two sockets: an upstream's bytes in, the caller's bytes out. Pure; one relay an attempt.

Both sides speak OpenAI's format here, so bytes pass through: only id and model are replaced, and a scan looks for the
events that matter (usage, finish, error, end). The scan learns from the first event how the upstream writes its JSON;
whatever does not look as learned is parsed event by event. A needle with unescaped quotes cannot stand inside of a JSON
string, so the scan cannot be fooled by a model's text.
"""

from __future__ import annotations

import re
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
from waypost.records import Usage
from waypost.worker.metadata import Metadata

BODY_LIMIT = 32 * 1024 * 1024  # bytes of an upstream's whole answer
EVENT_LIMIT = 4 * 1024 * 1024  # bytes of one event
HELD_LIMIT = 256 * 1024  # bytes held back before the first meaningful event
HELD_EVENTS = 64
DONE = b"data: [DONE]\n\n"
EMPTY_DELTA = len(b'{"content":""}')
EMPTY = re.compile(rb"\[\s*\]")


class UpstreamError(Exception):
    """The upstream's answer is an error, or not the answer it claims to be; the message is fit for the caller.

    `before`: bytes for the caller that came ahead of the error in the same read; they go out only behind others, since
    an answer of which nothing has left may still be another's. `kind` is one of `policy.failures.TABLE`.
    """

    before = b""

    def __init__(self, message: str, kind: str = "broken") -> None:
        super().__init__(message)
        self.kind = kind


class Stamp(msgspec.Struct, frozen=True):
    """What is ours in an answer, as JSON. `latency_ms` is asked for when the last JSON leaves."""

    id: msgspec.Raw
    model: msgspec.Raw  # the caller's own spelling
    provider: msgspec.Raw
    latency_ms: Callable[[], int]
    render_usage: Callable[[msgspec.Raw | None, int], msgspec.Raw]  # what the upstream said (or nothing) and `observed`
    wants_cost: bool  # so that usage is rendered anew even where the upstream gave one
    metadata: Metadata | None = None  # how the answer came about, for callers who want to know
    preset: msgspec.Raw | None = None  # that the request was completed from

    def extensions(self) -> Fields:
        """Beside provider and latency, what stands on the last JSON of this answer."""
        more = {"preset": self.preset} if self.preset is not None else {}
        return {**more, "waypost": self.metadata()} if self.metadata is not None else more


class Relay(Protocol):
    """`feed` what arrived and send what it returns; `end` once the upstream's body is complete."""

    usage: msgspec.Raw | None  # as the upstream gave it
    counted: Usage | None  # the same, understood; None where it is OpenAI's, which the books read themselves
    observed: int  # bytes of the model's words so far, about: what an estimate goes by if no usage comes
    done: bool  # the terminal marker has been seen: nothing more is to come
    is_whole: bool  # not streaming

    def feed(self, data: bytes) -> bytes:
        """Raises UpstreamError."""

    def end(self) -> bytes:
        """The last bytes. Raises UpstreamError where the answer is not whole."""


class Collecting:
    """Not streaming: one event, the whole answer, which is for `end` to make something of.

    Whoever is one begins with `_parts` empty; the rest stands on the class until the end.
    """

    is_whole = True
    usage: msgspec.Raw | None = None
    counted: Usage | None = None
    observed = 0
    done = False
    _parts: list[bytes]
    _size = 0

    def feed(self, data: bytes) -> bytes:
        """Collect; nothing can be sent before the answer is whole. Raises UpstreamError."""
        self._size += len(data)
        if self._size > BODY_LIMIT:
            raise UpstreamError(f"the upstream's answer is larger than {BODY_LIMIT} bytes")
        self._parts.append(data)
        return b""


class WholeRelay(Collecting):
    """The upstream's answer, stamped."""

    def __init__(self, stamp: Stamp) -> None:
        self._parts = []
        self._stamp = stamp

    def end(self) -> bytes:
        """The answer with our id, the caller's model, the provider and the time it took."""
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        try:
            answer = decode_fields(body)
            if not body.isascii():
                body.decode()
            choices = bytes(answer.get("choices", EMPTY_LIST))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamError("the upstream's answer is not a JSON object") from None
        if not choices.startswith(b"[{") and (not choices.startswith(b"[") or EMPTY.fullmatch(choices)):
            said = parse_error(body)[0]
            raise UpstreamError(said or "the upstream's answer has no choices", "error_event" if said else "broken")
        stamp = self._stamp
        answer["id"] = stamp.id
        answer["model"] = stamp.model
        answer["provider"] = stamp.provider
        answer["latency_ms"] = msgspec.Raw(b"%d" % stamp.latency_ms())
        if stamp.metadata is not None or stamp.preset is not None:
            answer.update(stamp.extensions())
        usage = answer.get("usage")
        if usage is not None and usage != NULL:
            self.usage = usage
        self.observed = len(choices)
        if self.usage is None or stamp.wants_cost:
            answer["usage"] = stamp.render_usage(self.usage, self.observed)
        self.done = True
        return encode(answer)


class Learned(msgspec.Struct, frozen=True):
    """What an event taught of how this upstream writes its JSON: needles, and what they become."""

    their_id: bytes
    our_id: bytes
    their_model: bytes
    our_model: bytes
    finish: bytes  # these three make an event one to be parsed
    usage: bytes
    empty: bytes
    overhead: int  # bytes of a plain event without the model's words
    frame: tuple[bytes, bytes, bytes] | None  # what every plain event begins with, ours for it, and what it ends with


class StreamRelay:
    """Streaming: server-sent events, id and model the same in every chunk, the end never claimed without a marker."""

    is_whole = False
    __slots__ = (
        "_committed", "_created", "_frame", "_held", "_include_usage", "_learned", "_overhead", "_pending", "_quick",
        "_stamp", "_tail", "counted", "done", "finished", "observed", "usage",
    )  # fmt: skip

    def __init__(self, stamp: Stamp, include_usage: bool) -> None:
        self._stamp = stamp
        self._include_usage = include_usage
        self._tail = b""  # the start of an event whose end has not come
        self._pending: list[bytes] = []  # events before the first meaningful one
        self._committed = False
        self._held: Fields | None = None  # the latest finish chunk: it may be the last, which carries our extensions
        self._learned: Learned | None = None
        self._quick: Learned | None = None  # the same, while nothing is held, kept or pending
        self._frame: tuple[bytes, bytes, bytes] | None = None
        self._overhead = 0
        self._created = msgspec.Raw(b"0")
        self.usage: msgspec.Raw | None = None
        self.counted: Usage | None = None
        self.observed = 0
        self.finished = False  # a finish_reason has been seen
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Every event that is complete, rewritten. Raises UpstreamError; its `before` goes out ahead of it."""
        frame = self._frame
        if frame is not None:
            # Nearly always: one event, the same as those before it but for what its delta says. CPython reads the
            # arguments of `find` and `startswith` so slowly that those which take one are used here.
            begin, ours, end = frame
            rest = data.removeprefix(begin)
            delta = rest.removesuffix(end)
            is_framed = len(delta) + len(begin) + len(end) == len(data)
            if is_framed and not delta.partition(b"\n\n")[1] and (data.isascii() or is_utf8(data)):
                self.observed += len(data) - self._overhead
                return ours + rest
        learned = self._quick
        if learned is not None and data.endswith(b"\n\n"):
            # Several events: replace what was learned, if each has it and none is special. It searches by `find`, since
            # `in` costs half a microsecond on bytes.
            events = data.count(b"data: ")
            if (
                data.count(learned.their_id) == events
                and data.count(learned.their_model) == events
                and data.find(learned.finish) < 0
                and data.find(learned.usage) < 0
                and data.find(learned.empty) < 0
                and data.find(b'"error"') < 0
                and (data.isascii() or is_utf8(data))
            ):
                self.observed += len(data) - events * learned.overhead
                return data.replace(learned.their_id, learned.our_id).replace(learned.their_model, learned.our_model)
        return self._feed_slowly(data)

    def _feed_slowly(self, data: bytes) -> bytes:
        """Cut whole events out of what came, and parse them one by one."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if data.find(b"\r") >= 0:
            data = self._normalised(data)
        end = data.rfind(b"\n\n") + 2
        if end != len(data) or end < 2:
            rest = data if end < 2 else data[end:]
            self._tail = rest + self._tail  # behind it may be a \r that waits for its \n
            if len(self._tail) > EVENT_LIMIT:
                raise UpstreamError(f"the upstream sent an event larger than {EVENT_LIMIT} bytes")
            data = data[:end] if end >= 2 else b""
        try:
            out = self._parsed(data) if data else b""
        except UpstreamError as error:
            error.before += self._release()
            raise
        is_quick = self._committed and self._held is None and not self._tail and not self.done
        self._quick = self._learned if is_quick else None
        self._frame = self._quick.frame if self._quick is not None else None
        self._overhead = self._quick.overhead if self._quick is not None else 0
        return out

    def _normalised(self, data: bytes) -> bytes:
        """Line ends as \\n: a stream may use \\r\\n or \\r, JSON has neither raw. A last \\r waits for its \\n."""
        if data.endswith(b"\r"):
            data, self._tail = data[:-1], b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    # Event by event

    def _parsed(self, block: bytes) -> bytes:
        """The events of a block; until the first meaningful one they are kept back."""
        out = self._pending
        try:
            for event in block.split(b"\n\n"):
                payload = parse_event(event)
                if payload is not None and not self.done:
                    out.append(self._last() if payload == b"[DONE]" else self._chunk(payload))
        except UpstreamError as error:
            error.before = b"".join(out)
            out.clear()
            raise
        if not self._committed and len(out) <= HELD_EVENTS and sum(map(len, out)) <= HELD_LIMIT:
            return b""
        self._committed = True
        sent = b"".join(out)
        out.clear()
        return sent

    def _chunk(self, payload: bytes) -> bytes:
        try:
            payload.decode()
            chunk = decode_fields(payload)
            error = chunk.get("error")
            if error is not None and error != NULL:
                raise UpstreamError(
                    parse_error(payload)[0] or "the upstream sent an error in its stream", "error_event"
                )
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
            meaningful = finish or any(is_meaningful(choice) for choice in choices)
            self.observed += sum(map(said, choices))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamError("the upstream sent an event that is not a chat completion chunk") from None
        if self._learned is None:
            self._learn(payload, chunk, choices[0])
        self._created = chunk.get("created", self._created)
        chunk["id"] = self._stamp.id
        chunk["model"] = self._stamp.model
        self._committed = self._committed or meaningful
        out = self._release()
        if finish:
            self.finished = True
            self._held = chunk
            return out
        return out + render_event(chunk)

    def _learn(self, payload: bytes, chunk: Fields, choice: Fields) -> None:
        """How does this upstream write its JSON? Compact, or with a space after the colon; else stay slow."""
        their_id, their_model = bytes(chunk.get("id", NULL)), bytes(chunk.get("model", NULL))
        if not their_id.startswith(b'"') or not their_model.startswith(b'"'):
            return
        for colon in (b":", b": "):
            id_needle = b'"id"%b%b' % (colon, their_id)
            model_needle = b'"model"%b%b' % (colon, their_model)
            if payload.count(id_needle) == 1 and payload.count(model_needle) == 1:
                our_id = b'"id"%b%b' % (colon, bytes(self._stamp.id))
                our_model = b'"model"%b%b' % (colon, bytes(self._stamp.model))
                begin, _, rest = payload.partition(b'"delta"%b{' % colon)
                _, finish, end = rest.rpartition(b'"finish_reason"%bnull' % colon)
                begin = b'data: %b"delta"%b{' % (begin, colon)
                end = b"%b%b\n\n" % (finish, end)
                frame = None
                if finish and begin.count(id_needle) == begin.count(model_needle) == 1:
                    ours = begin.replace(id_needle, our_id).replace(model_needle, our_model)
                    frame = (begin, ours, end)
                self._learned = Learned(
                    id_needle,
                    our_id,
                    model_needle,
                    our_model,
                    b'"finish_reason"%b"' % colon,
                    b'"usage"%b{' % colon,
                    b'"choices"%b[]' % colon,
                    len(b"data: \n\n") + len(payload) - said(choice),
                    frame,
                )

    def _release(self) -> bytes:
        """A finish chunk that turned out not to be the last."""
        held, self._held = self._held, None
        return render_event(held) if held is not None else b""

    def _last(self) -> bytes:
        """The end: usage where it was asked for, our extensions on the last JSON chunk, [DONE]."""
        self.done = self._committed = True
        out = b""
        last, self._held = self._held, None
        if last is None:
            last = self._bare(msgspec.Raw(NO_CHANGE))
        if self._include_usage:
            out = render_event(last)
            last = self._bare(EMPTY_LIST)
            usage = self.usage
            if usage is None or self._stamp.wants_cost:
                usage = self._stamp.render_usage(usage, self.observed)
            last["usage"] = usage
        last["provider"] = self._stamp.provider
        last["latency_ms"] = msgspec.Raw(b"%d" % self._stamp.latency_ms())
        if self._stamp.metadata is not None or self._stamp.preset is not None:
            last.update(self._stamp.extensions())
        return out + render_event(last) + DONE

    def _bare(self, choices: msgspec.Raw) -> Fields:
        """A chunk of our own."""
        return {
            "id": self._stamp.id,
            "object": msgspec.Raw(b'"chat.completion.chunk"'),
            "created": self._created,
            "model": self._stamp.model,
            "choices": choices,
        }

    def end(self) -> bytes:
        """The body is complete, or broke off. Raises UpstreamError where neither [DONE] nor a finish was seen."""
        out = b""
        tail, self._tail = self._tail.replace(b"\r", b"\n"), b""
        if tail.strip(b"\n") and not self.done:
            try:
                out = self._parsed(tail + b"\n\n")  # a last event without its empty line
            except UpstreamError as error:
                if not self.finished:  # else it is a piece of something after the finish, which is whole without it
                    raise
                out = error.before
        if self.done:
            return out
        if not self.finished:
            raise UpstreamError("the upstream's stream ended before its end marker", "truncated")
        self._pending.append(self._last())
        out += b"".join(self._pending)
        self._pending.clear()
        return out


NO_CHANGE = b'[{"index":0,"delta":{},"finish_reason":null}]'


def said(choice: Fields) -> int:
    """Bytes of the model's words in one choice of a chunk, about."""
    return max(0, len(memoryview(choice.get("delta", NULL))) - EMPTY_DELTA)


def render_event(chunk: Fields) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % encode(chunk)


def parse_event(event: bytes) -> bytes | None:
    """The data of one event (lines end in \\n), None where it has none: comments and unknown fields are dropped."""
    data = []
    for line in event.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line.startswith(b"data:"):
            data.append(line[6:] if line.startswith(b"data: ") else line[5:])
    # Lines are joined by a space: between JSON's tokens it means the same as the standard's line end, and inside of a
    # string neither can stand raw.
    payload = b" ".join(data).strip()
    return payload or None


def is_utf8(data: bytes) -> bool:
    """Is this text?"""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_meaningful(choice: Fields) -> bool:
    """Does a chunk's choice say more than that an answer has begun?"""
    if "delta" not in choice:
        return True
    delta = decode_any(choice["delta"])
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


def render_error(message: str, code: str, metadata: bytes = b"") -> bytes:
    """The frame that ends a stream which cannot go on (contract R11), and [DONE]. `metadata`: the `waypost` object."""
    error = {"message": message, "type": "api_error", "param": None, "code": code}
    frame = {"error": msgspec.Raw(encode(error))}
    if metadata:
        frame["waypost"] = msgspec.Raw(metadata)
    return render_event(frame) + DONE

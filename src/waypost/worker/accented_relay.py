"""OpenAI's format on both sides, but with an accent on the upstream's: what it says otherwise is put right on its way.

In front of the relay that passes bytes through; what has no accent in it reaches that relay as it came.
"""

from __future__ import annotations

import msgspec

from waypost.completion import BadAnswer
from waypost.formats.accented_answer import is_plain, understand
from waypost.formats.accents import Accent
from waypost.formats.sse import Splitter
from waypost.records import Usage
from waypost.worker.relay import Stamp, StreamRelay, UpstreamError, WholeRelay

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def plainly(accent: Accent, payload: bytes, show_reasoning: bool) -> bytes:
    """As OpenAI would have said it; what can't be read is left for the relay to complain of."""
    try:
        return understand(accent, payload, show_reasoning)
    except UNREADABLE:
        return payload


class AccentedWhole(WholeRelay):
    """Not streaming: the whole answer is put right before it is stamped."""

    def __init__(self, stamp: Stamp, accent: Accent, show_reasoning: bool) -> None:
        super().__init__(stamp)
        self._accent = accent
        self._show_reasoning = show_reasoning

    def end(self) -> bytes:
        """The answer. Raises UpstreamError."""
        self._parts = [plainly(self._accent, b"".join(self._parts), self._show_reasoning)]
        return super().end()


class AccentedStream:
    """Streaming: events are cut out where something in them must be put right."""

    __slots__ = (
        "_accent", "_is_cut", "_relay", "_show_reasoning", "_splitter", "counted", "done", "finished", "observed",
        "usage",
    )  # fmt: skip

    is_whole = False

    def __init__(self, relay: StreamRelay, accent: Accent, show_reasoning: bool) -> None:
        self._relay = relay
        self._accent = accent
        self._show_reasoning = show_reasoning
        self._splitter = Splitter()
        self._is_cut = False  # an event has begun whose end has not come
        self.usage: msgspec.Raw | None = None
        self.counted: Usage | None = None
        self.observed = 0
        self.finished = False
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Raises UpstreamError."""
        is_clean = not self._is_cut and data.endswith(b"\n\n") and data.find(b"\r") < 0
        if is_clean and self._show_reasoning and is_plain(self._accent, data):
            return self._passed(data)
        self._is_cut = not data.endswith(b"\n\n")
        try:
            payloads = self._splitter.feed(data)
        except BadAnswer as error:
            raise UpstreamError(str(error)) from None
        return self._said(payloads)

    def end(self) -> bytes:
        """Raises UpstreamError."""
        rest = self._splitter.end()
        out = self._said(rest) if rest and not self.done else b""
        return out if self.done else out + self._passed(None)

    def _said(self, payloads: list[bytes]) -> bytes:
        events = [
            b"data: %b\n\n" % (one if one == b"[DONE]" else plainly(self._accent, one, self._show_reasoning))
            for one in payloads
        ]
        return self._passed(b"".join(events)) if events else b""

    def _passed(self, data: bytes | None) -> bytes:
        """Through the relay; None: the end."""
        relay = self._relay
        try:
            return relay.end() if data is None else relay.feed(data)
        finally:
            self.usage, self.observed, self.finished, self.done = (
                relay.usage,
                relay.observed,
                relay.finished,
                relay.done,
            )

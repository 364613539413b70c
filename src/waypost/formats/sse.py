"""Server-sent events: bytes in whatever pieces → the data of each event. Source: the WHATWG HTML standard, 9.2."""

from __future__ import annotations

from waypost.completion import BadAnswer

EVENT_LIMIT = 4 * 1024 * 1024  # bytes of one event


class Splitter:
    """Cuts a stream into its events' data; comments, names of events and unknown fields are left out."""

    __slots__ = ("_is_after_cr", "_is_begun", "_tail", "is_between")

    def __init__(self) -> None:
        self._tail = b""  # the start of an event whose end has not come
        self._is_after_cr = False  # a \n that follows belongs to a line end already seen
        self._is_begun = False
        self.is_between = False  # every event that began has also ended

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that is complete. Raises BadAnswer where one grows past EVENT_LIMIT."""
        if self.is_between:  # nearly always
            payload = sole(data)
            if payload is not None:
                return [payload]
        found = self._cut(data)
        self.is_between = self._is_begun and not self._tail and not self._is_after_cr
        return found

    def end(self) -> list[bytes]:
        """The data of a last event without its empty line."""
        tail, self._tail = self._tail, b""
        payload = parse_event(tail)
        return [payload] if payload is not None else []

    def _cut(self, data: bytes) -> list[bytes]:
        if self._is_after_cr and data:
            data = data.removeprefix(b"\n")
            self._is_after_cr = False
        if data.find(b"\r") >= 0:
            self._is_after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._tail:
            data = self._tail + data
            self._tail = b""
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._keep(data)
            return []
        if end != len(data):
            self._keep(data[end:])
        if not self._is_begun:
            self._is_begun = True
            data = data.removeprefix(b"\xef\xbb\xbf")
            end = data.rfind(b"\n\n") + 2
        found = []
        for event in data[:end].split(b"\n\n"):
            payload = parse_event(event)
            if payload is not None:
                found.append(payload)
        return found

    def _keep(self, rest: bytes) -> None:
        if len(rest) > EVENT_LIMIT:
            raise BadAnswer(f"the upstream sent an event larger than {EVENT_LIMIT} bytes")
        self._tail = rest


def sole(data: bytes) -> bytes | None:
    """The data of an event that came alone, written as nearly all write it; None: it must be read with more care."""
    end = len(data) - 2
    line = data.find(b"\n")
    start = 6
    if not data.startswith(b"data: "):
        start += line + 1
        if not data.startswith(b"event: ") or not data.startswith(b"data: ", line + 1):
            return None
        line = data.find(b"\n", start)
    other = data.find(b"\r")
    if other < 0:
        return data[start:end] if line == end and data.endswith(b"\n") else None
    if start == 6 and other == end - 2 and data.endswith(b"\r\n\r\n") and line == end - 1:
        return data[6:other]
    return None


def parse_event(event: bytes) -> bytes | None:
    """The data of one event (lines end in \\n), None where it has none."""
    if event.startswith(b"data: ") and event.find(b"\n") < 0:
        return event[6:]
    data = [
        line[6:] if line.startswith(b"data: ") else line[5:] for line in event.split(b"\n") if line.startswith(b"data:")
    ]
    return b"\n".join(data) if data else None

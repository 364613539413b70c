"""Events that say nothing but more text, known again by their bytes.

Nearly every event of a stream is what the one before it was, but for its words. The first is read with care; of those
behind it only the words are read, where all else is what has been read before. That gives the same by construction:
between the same bytes, a JSON string without an escape, a quote or a control character can say nothing but itself.

Of what bytes can do, only what takes one argument is used here: CPython reads the arguments of `find` and `startswith`
so slowly that decoding the JSON would cost no more.
"""

from __future__ import annotations

PADDINGS = 64  # endings of events that are kept: some vendors pad them, to hide the lengths of words
OPENED, CLOSED = b"{}"


class Familiar:
    """What the texts of one stream stand between. `learn` is told of events that said a text and nothing else."""

    __slots__ = ("_around", "_begin", "_ends")

    def __init__(self) -> None:
        self._begin = b""
        self._around = 0  # bytes of an event besides its text and its end
        self._ends: set[bytes] = set()

    def text(self, event: bytes) -> str:
        """The text that it says; "" where it must be read with care."""
        said, _, end = event.removeprefix(self._begin).partition(b'"')
        if end in self._ends and len(said) + len(end) + self._around == len(event):
            return plain(said)
        return ""

    def learn(self, event: bytes, text: str) -> None:
        """It has been read, and said this."""
        begin, end = around(event, text)
        if not begin:
            return  # what was known before still is
        if begin != self._begin:
            self._begin, self._around = begin, len(begin) + 1
            self._ends.clear()
        if len(self._ends) < PADDINGS:
            self._ends.add(end)


class FamiliarCounted:
    """The same, where each event also says how much has been used so far: any JSON object."""

    __slots__ = ("_around", "_begin", "_between", "_end")

    def __init__(self) -> None:
        self._begin = self._end = b""
        self._between = b'"'
        self._around = 0  # bytes of an event besides its text and its usage; 0: none is known

    def text(self, event: bytes) -> tuple[str, bytes]:
        """The text that it says, and the usage, which is still to be read; "" where all must be read with care."""
        said, _, rest = event.removeprefix(self._begin).partition(self._between)
        usage = rest.removesuffix(self._end)
        is_known = self._around and len(said) + len(usage) + self._around == len(event)
        if is_known and usage and usage[0] == OPENED and usage[-1] == CLOSED:
            return plain(said), usage
        return "", b""

    def learn(self, event: bytes, text: str, usage: bytes) -> bool:
        """It has been read, and said this. False: what was known before is still what is known."""
        begin, rest = around(event, text)
        between, found, end = rest.partition(usage)
        is_certain = begin != b"" and found != b"" and event.count(usage) == 1
        if is_certain:
            self._begin, self._between, self._end = begin, b'"' + between, end
            self._around = len(event) - len(text.encode()) - len(usage)
        return is_certain


def around(event: bytes, text: str) -> tuple[bytes, bytes]:
    """What a text stands between, with the quote before it and without the one behind it.

    Nothing where it cannot be said for certain where it stands.
    """
    if text and event.find(b"\\") < 0:
        said = b'"%b"' % text.encode()
        if event.count(said) == 1:
            begin, _, end = event.partition(said)
            return begin + b'"', end
    return b"", b""


def plain(said: bytes) -> str:
    """The inside of a JSON string as text; "" where it must be read with care, or is not all inside."""
    try:
        text = said.decode()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() and "\\" not in text and '"' not in text else ""

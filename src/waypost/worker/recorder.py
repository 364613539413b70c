"""Between an attempt and its exchange: writes down what the caller is sent, and lets others have it as it comes.

Others are requests whose answer this one is, too. They never hold the first one up: what a slow reader among them has
not taken is kept for it, up to a limit. Should the first caller leave while others listen, the upstream goes on for
them; the first one's row in the books then says that its caller left, and has the usage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from waypost.errors import Refusal
from waypost.http.exchange import Exchange, Flow
from waypost.worker.attempt import WAITING
from waypost.worker.books import Entry
from waypost.worker.recording import Ending, Recording, fill, seal, seal_ending
from waypost.worker.walk import Signal

ENDED: Final = "The request whose answer this one shares was ended before its answer was whole; send it again."
SLOW: Final = "Too slow: what this request had yet to read of an answer that it shares grew too large."


class Recorder:
    """An `Outlet` for one attempt after the other of a request, in front of its exchange.

    `lines` are header lines for the good answer. `limit` is how many bytes are written down at most: a larger answer
    goes on untouched, and is not kept. `keep` are told of the recording once the caller has been sent all of it.
    """

    def __init__(
        self, exchange: Exchange, entry: Entry, stream: bool, limit: int, wall: Callable[[], float], lines: bytes = b""
    ) -> None:
        """Takes the exchange's `on_gone`; `wall` gives seconds since 1970 UTC."""
        self.entry = entry
        self.started = False
        self.dropped = ""  # what its `X-Dropped-Params` says
        self.is_open = True  # whoever comes now can still have all of it
        self.keep: list[Callable[[Recording], None]] = []
        self._exchange = exchange
        self.stream = stream
        self._limit = limit
        self._wall = wall
        self._lines = lines
        self._pieces: list[bytes] = []
        self._size = 0
        self._followers: list[Follower] = []
        self._flow: Flow | None = None
        self._leave = exchange.on_gone
        exchange.on_gone = self._left

    # What an attempt does

    @property
    def flow(self) -> Flow | None:
        """Where the bytes come from."""
        return self._flow

    @flow.setter
    def flow(self, flow: Flow | None) -> None:
        self._flow = flow
        if not self._exchange.is_gone:
            self._exchange.flow = flow

    def start(self, status: int, headers: bytes) -> None:
        """Decide status and headers."""
        self.started = True
        self.dropped = read_dropped(headers)
        self._exchange.start(status, headers + self._lines)

    def write(self, data: bytes) -> None:
        """Part of a streamed answer, or a comment."""
        self._exchange.write(data)
        if data is not WAITING:
            self._note(data)
            for follower in list(self._followers):
                follower.piece(data)
        else:
            for follower in list(self._followers):
                follower.comment(data)

    def end(self, data: bytes = b"") -> None:
        """The last part of a streamed answer that is whole."""
        self._exchange.end(data)
        self._note(data)
        self._finish(data)

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """An answer that is not streamed."""
        self.started = True
        self.dropped = read_dropped(headers)
        self._exchange.respond(status, headers + self._lines, body)
        self._note(body)
        self._finish(body)

    def _note(self, data: bytes) -> None:
        if self.is_open:
            self._pieces.append(data)
            self._size += len(data)
            if self._size > self._limit:
                self._forget()

    def _forget(self) -> None:
        self.is_open = False
        self._pieces = []

    def _finish(self, last: bytes) -> None:
        pieces, self._pieces = self._pieces, []
        if self._followers:
            ending = seal_ending(last, self.stream)
            for follower in list(self._followers):
                follower.whole(last, ending)
            self._followers.clear()
        if self.is_open and self.keep:
            self.is_open = False
            at = int(self._wall() * 1000)
            recording = seal(pieces, self.stream, self.entry.request_id, at, self.dropped)
            if recording is not None:
                for keep in self.keep:
                    keep(recording)
        self.is_open = False

    # What the walk does

    def fail(self, why: Refusal | None) -> None:
        """There is no (more) answer, for this reason if there is one. A second call, or one after the end, is none."""
        self._forget()
        followers, self._followers = self._followers, []
        if followers:
            # Not at once: whoever ends all streams of an account ends theirs before they go on by themselves.
            loop = asyncio.get_running_loop()
            for follower in followers:
                loop.call_soon(follower.failed, why)

    # Those who listen

    def admit(self, follower: Follower) -> None:
        """While `is_open`: from now on it is told of everything, beginning with what has been said already."""
        self._followers.append(follower)
        for piece in self._pieces:
            follower.piece(piece)

    def leave(self, follower: Follower) -> None:
        """It does not want any more. The last one to leave an answer that nobody hears ends it."""
        if follower in self._followers:
            self._followers.remove(follower)
            if not self._followers and self._exchange.is_gone and self._leave is not None:
                self._leave()

    def _left(self) -> None:
        """The first caller is gone, or its account has ended its streams."""
        leave = self._leave
        if self._exchange.is_gone and self._followers:
            self.entry.is_unheard = True
            if self._flow is not None:
                self._flow.resume_reading()  # who was slow does not hold it up any more
        elif leave is not None:
            leave()


def read_dropped(headers: bytes) -> str:
    """Which fields a head's lines say that nobody was told of, as they say it."""
    _, name, rest = headers.partition(b"x-dropped-params: ")
    return rest.partition(b"\r\n")[0].decode() if name else ""


class Follower:
    """One request that shares another's answer. Await `over`, then see what it says; `leave` where it is cancelled.

    `render_headers` gives those of a good answer, of which these fields were dropped. `latency_ms` is asked when the
    last JSON leaves.
    """

    def __init__(
        self,
        recorder: Recorder,
        exchange: Exchange,
        entry: Entry,
        render_headers: Callable[[str], bytes],
        limit: int,
        latency_ms: Callable[[], int],
    ) -> None:
        self.over: Signal[bool] = Signal()
        self._recorder = recorder
        self._exchange = exchange
        self._entry = entry
        self._render_headers = render_headers
        self._limit = limit
        self._latency_ms = latency_ms
        self._theirs = b'"%b"' % recorder.entry.request_id
        self._ours = b'"%b"' % entry.request_id
        self._is_paused = False
        self._unsent: list[bytes] = []
        self._size = 0
        self._has_begun = False  # its caller has seen part of the answer
        self.why: Refusal | None = None

    async def listen(self) -> bool:
        """True: the caller has it all, and it is in the books. False: it failed before the caller had any of it.

        Raises Refusal where it broke off.
        """
        self._exchange.flow = self
        self._recorder.admit(self)
        try:
            is_whole = await self.over
        except BaseException:
            self._recorder.leave(self)
            raise
        finally:
            self._exchange.flow = None
        if self.why is not None:
            raise self.why
        return is_whole

    # What the recorder says

    def piece(self, data: bytes) -> None:
        """Part of a streamed answer."""
        if self.over.is_set:
            return
        self._has_begun = True
        self._entry.began_answer()
        data = data.replace(self._theirs, self._ours)
        if self._is_paused:
            self._unsent.append(data)
            self._size += len(data)
            if self._size > self._limit:
                self._end_slow()
        else:
            self._start()
            self._exchange.write(data)

    def comment(self, data: bytes) -> None:
        """Nothing has been said for a while."""
        if not self._is_paused and not self.over.is_set:
            self._start()
            self._exchange.write(data)

    def whole(self, last: bytes, ending: Ending | None) -> None:
        """The last piece, or all of it; `ending` is the same with marks, where it could be read."""
        if self.over.is_set:
            return
        last = last.replace(self._theirs, self._ours)
        if ending is not None:
            content = ending.content.replace(self._theirs, self._ours)
            last = fill(content, self._entry.request_id, ending.created, self._latency_ms())
        self._entry.repeated(self._recorder.entry.id)
        if self._recorder.stream:
            self._start()
            self._exchange.end_in_parts([*self._unsent, last])
        else:
            self._exchange.respond(200, self._render_headers(self._recorder.dropped), last)
        self.over.set(True)

    def failed(self, why: Refusal | None) -> None:
        """No (more) answer."""
        if self._has_begun:
            self._flush()
            if why is not None:
                self.why = Refusal(why.failure.code, why.message, retry_after=why.retry_after)
            else:
                self.why = Refusal("UNAVAILABLE", ENDED, retry_after=1)
        self.over.set(False)

    def _start(self) -> None:
        if not self._exchange.started:
            self._exchange.start(200, self._render_headers(self._recorder.dropped))

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        self._size = 0
        if unsent:
            self._start()
            for data in unsent:
                self._exchange.write(data)

    def _end_slow(self) -> None:
        self._unsent.clear()
        self.why = Refusal("UNAVAILABLE", SLOW)
        asyncio.get_running_loop().call_soon(self._recorder.leave, self)  # not inside of what it does just now
        self.over.set(False)

    # What its own caller's connection says

    def pause_reading(self) -> None:
        """The caller is slower than the answer."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """It caught up."""
        self._is_paused = False
        self._flush()

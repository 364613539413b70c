"""One try at one upstream: send the request, relay the answer, and say in the end how it went."""

from __future__ import annotations

import asyncio
import logging
import time

from waypost.http.client import BROKEN, BUSY, CLOSED, CONNECT_TIMEOUT, ClientConnection, UpstreamFailure, find_header
from waypost.http.exchange import Outlet
from waypost.http.timers import NEVER, TICK, Deadlines
from waypost.policy.failures import BY_NAME, OUT_OF_TIME
from waypost.worker.guard import Guard
from waypost.worker.outcome import ANSWERED, Outcome, Page, outcome_of_status, quoted
from waypost.worker.relay import Relay, UpstreamError
from waypost.worker.upstreams import Upstream
from waypost.worker.walk import Signal

log = logging.getLogger("waypost.attempt")

ERROR_LIMIT = 64 * 1024  # bytes of an upstream's error that are read
WAITING = b": waypost is waiting for the model\n\n"


class Attempt:
    """Receives one answer. Its deadline serves the four timeouts, and the comments that keep a waiting stream alive."""

    # What most attempts never change stands on the class, but for what every read looks at: CPython 3.11 finds that
    # 200 instructions sooner on the instance.
    deadline = NEVER
    committed = False
    _connection: ClientConnection | None = None
    _connecting: asyncio.Future[ClientConnection] | None = None
    number = 0  # among the request's attempts, from 1
    status = 0  # the upstream's; 0 before it has sent one
    _is_closed = False
    _head = b""
    _heard = 0.0  # when the upstream's latest bytes came; 0 before the first
    _told = 0.0  # when the caller was last told that we wait
    first_token = 0.0  # when the answer's first meaningful event was passed on, on the clock of the loop; 0 before
    _is_paused = False

    def __init__(
        self,
        exchange: Outlet,
        upstream: Upstream,
        relay: Relay,
        headers: bytes,
        keepalive: float,
        deadlines: Deadlines,
        page: Page,
        request_ends: float = NEVER,
        guard: Guard | None = None,
    ) -> None:
        """`headers` are those of a good answer; `keepalive` seconds of silence bring a comment (0: never).

        `request_ends` is when the request's own time is over, of which this may be the last of several attempts.
        `guard` holds a stream's first words back, if there is one.
        """
        self._exchange = exchange
        self.upstream = upstream
        self.relay = relay
        self.headers = headers
        self._stream = not relay.is_whole
        self._keepalive = keepalive if self._stream and keepalive else NEVER
        # No limit can come nearer than this without a look at it in time, so reads need not touch the deadline.
        self._patience = self._keepalive if self._keepalive < upstream.patience else upstream.patience
        self._deadlines = deadlines
        self._page = page
        self._request_ends = request_ends
        self._guard = guard
        ends = deadlines.now + upstream.timeouts.total  # when the whole answer must be here
        self._ends = ends if ends < request_ends else request_ends
        self._sent = 0.0
        self._body: list[bytes] | None = None  # an error's body, collected
        self._over: Signal[Outcome] = Signal()

    def run(self, request: bytes) -> Signal[Outcome]:
        """Send the request and see it through; await what this returns, then `close`."""
        self._request = request
        connection = self.upstream.pool.take()
        if connection is not None:
            self._send(connection)
        else:
            self._connect()
        return self._over

    def _connect(self) -> None:
        seconds = min(self.upstream.timeouts.connect, max(0.0, self._request_ends - self._deadlines.now))
        self._connecting = asyncio.ensure_future(self.upstream.pool.connect(seconds))
        self._connecting.add_done_callback(self._connected)

    def _connected(self, connecting: asyncio.Future[ClientConnection]) -> None:
        if connecting.cancelled():
            return
        failure = connecting.exception()
        if failure is None and not self._is_closed:
            self._send(connecting.result())
        elif failure is None:
            connecting.result().close()  # the caller left in the moment that the connection came
        elif isinstance(failure, UpstreamFailure):
            self._settle(self._outcome_of(failure))
        else:
            log.error("connecting to %s failed", self.upstream.provider, exc_info=failure)
            self._settle(Outcome(BY_NAME["connect"], "connecting failed"))

    def _send(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._exchange.flow = self
        self._sent = self._deadlines.now
        self.deadline = min(self._sent + self._patience, self._ends)
        self._deadlines.watched.add(self)
        connection.send(self._request, self)

    def divert(self, outlet: Outlet, page: Page) -> None:
        """From now on it answers, and says so, elsewhere. Only as long as it has not answered yet."""
        self._exchange, self._page = outlet, page

    @property
    def has_spoken(self) -> bool:
        """Something meaningful has come from the upstream."""
        return self.committed or (self._guard is not None and self._guard.is_holding)

    @property
    def was_sent(self) -> bool:
        """The upstream has been asked, or is being asked."""
        return self._sent > 0

    def close(self) -> None:
        """It is over: for the upstream too, where the answer is not whole because the caller left."""
        self._is_closed = True
        self._deadlines.watched.discard(self)
        self._exchange.flow = None
        if self._connection is not None:
            self._connection.abandon()
        if self._connecting is not None:
            self._connecting.cancel()

    # The answer comes in

    def begun(self, status: int, head: bytes) -> None:
        """The upstream's head."""
        self.status = status
        self._head = head
        self._heard = self._deadlines.now
        if head.find(b"\r\ncontent-encoding:") >= 0 and find_header(head, b"content-encoding") != b"identity":
            self._give_up(UpstreamFailure(BROKEN, "the upstream compressed its answer although identity was asked for"))
        elif status != 200 or (self._stream and find_header(head, b"content-type").startswith(b"application/json")):
            self._body = []

    def received(self, data: bytes) -> None:
        """Part of the upstream's body: straight on to the client."""
        if self._over.is_set:
            return
        self._heard = self._deadlines.now
        if self._body is not None:
            self._body.append(data)
            if sum(map(len, self._body)) > ERROR_LIMIT:
                self._give_up(self._answered_otherwise())
            return
        relay = self.relay
        try:
            out = relay.feed(data)
        except UpstreamError as error:
            self._pass_on(error)
            self._give_up(UpstreamFailure(error.kind, str(error)))
            return
        if relay.done:
            self._finish(out)
        elif out:
            if not self.committed:
                if self._guard is not None:
                    self._hold(self._guard, out)
                    return
                self._commit()
            self._exchange.write(out)

    def _hold(self, guard: Guard, out: bytes) -> None:
        """The first words, where they have to show first how fast they come."""
        self.first_token = self.first_token or time.monotonic()
        if guard.lets_pass(out, self.relay.observed, self._deadlines.now):
            self._let_go(guard)
        elif guard.until < self.deadline:
            self.deadline = guard.until

    def _let_go(self, guard: Guard) -> None:
        """Fast enough; or nobody is left who might be faster."""
        self._commit()
        self._exchange.write(guard.release())

    def ended(self) -> None:
        """The upstream's body is complete."""
        self._connection = None
        if self._over.is_set:
            return
        if self._body is not None:
            self._settle(self._answered_otherwise())
        else:
            self._end()

    def failed(self, failure: UpstreamFailure) -> None:
        """No (more) answer."""
        connection, self._connection = self._connection, None
        if self._over.is_set:
            return
        if failure.kind == CLOSED and connection is not None and not connection.responding and connection.answers:
            # The upstream closed an idle connection as we wrote, and nothing came back: once more, on a fresh one.
            self._connect()
        elif failure.kind == CLOSED and self._stream and self._body is None:
            self._end(failure)  # a stream whose finish has been seen is whole all the same
        else:
            self._settle(self._outcome_of(failure))

    def _end(self, failure: UpstreamFailure | None = None) -> None:
        """No more bytes come: the relay says whether the answer is whole. `failure` is why, if the connection broke."""
        try:
            out = self.relay.end()
        except UpstreamError as error:
            self._pass_on(error)
            self._settle(self._outcome_of(failure or UpstreamFailure(error.kind, str(error))))
        else:
            self._finish(out)

    def _finish(self, out: bytes) -> None:
        if self._guard is not None:
            out = self._guard.release() + out
        self.committed = True
        self._page.answered()  # in the books before the caller has it all
        if self._stream:
            self._start()
            self._exchange.end(out)
        else:
            self._exchange.respond(200, self.headers, out)
        if self._connection is not None:
            self._connection.let_end()
            self._connection = None
        self._settle(ANSWERED)

    def _commit(self) -> None:
        """From now on no other upstream may take over."""
        self.committed = True
        self.first_token = self.first_token or time.monotonic()
        self._page.began_answer()
        self._start()

    def _start(self) -> None:
        if not self._exchange.started:
            self._exchange.start(200, self.headers)

    # Failures

    def _pass_on(self, error: UpstreamError) -> None:
        """What came ahead of it in the same read. The first words are kept: another may take over, unless some left."""
        if error.before and self.committed:
            self._exchange.write(error.before)

    def _give_up(self, why: UpstreamFailure | Outcome) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self._settle(why if isinstance(why, Outcome) else self._outcome_of(why))

    def _settle(self, outcome: Outcome) -> None:
        self.deadline = NEVER
        self._over.set(outcome)

    def _outcome_of(self, failure: UpstreamFailure) -> Outcome:
        kind, message = failure.kind, quoted(self.upstream, failure.message)
        if kind == CLOSED and self.status:
            kind = "truncated"
        elif kind == CONNECT_TIMEOUT and self._deadlines.now + TICK >= self._request_ends:
            kind, message = "deadline", OUT_OF_TIME
        hint = 1 if kind == BUSY else None
        return Outcome(BY_NAME[kind], message, self.committed, self.status, retry_after=hint)

    def _answered_otherwise(self) -> Outcome:
        return outcome_of_status(self.upstream, self.status, self._head, b"".join(self._body or ()))

    # Time and flow

    def expire(self) -> None:
        """Once in a while: time for a comment, or a timeout. Reads only note the time; here it is judged."""
        now, timeouts = self._deadlines.now, self.upstream.timeouts
        if self._heard:
            limit, kind, what = self._heard + timeouts.idle, "idle_timeout", f"idle timeout after {timeouts.idle:g} s"
        else:
            limit, kind = self._sent + timeouts.first_byte, "first_byte_timeout"
            what = f"first byte timeout after {timeouts.first_byte:g} s"
        if self._is_paused:
            limit = NEVER  # the client is slower than the upstream: only the total time goes on
        if now >= self._request_ends:
            self._give_up(UpstreamFailure("deadline", OUT_OF_TIME))
        elif now >= self._ends:
            self._give_up(UpstreamFailure("total_timeout", f"no whole answer within {timeouts.total:g} s"))
        elif now >= limit:
            self._give_up(UpstreamFailure(kind, what))
        elif self._guard is not None and now >= self._guard.until and self._guard.is_another_left:
            self._give_up(UpstreamFailure("crawling", "its first words came too slowly"))
        else:
            if self._guard is not None and now >= self._guard.until:
                self._let_go(self._guard)
            # What comes before the answer begins (a role, the upstream's own comments) does not reach the caller.
            said = max(self._told, self._heard if self.committed else self._sent)
            if now - said >= self._keepalive and not self._is_paused:
                self._told = now
                self._start()
                self._exchange.write(WAITING)
            self.deadline = min(limit, self._ends, now + self._patience)
            if self._guard is not None and self._guard.until < self.deadline:
                self.deadline = self._guard.until

    def pause_reading(self) -> None:
        """The client is slower than the upstream: leave the upstream's bytes in the kernel."""
        self._is_paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_reading(self) -> None:
        """The client caught up; or it left, and others go on listening."""
        if not self._is_paused:
            return
        self._is_paused = False
        self._heard = self._deadlines.now
        if self._connection is not None:
            self._connection.resume_reading()

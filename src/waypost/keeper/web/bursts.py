"""How often an account may call an endpoint: exact, over sliding windows, in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from waypost.api.endpoints import Burst, Endpoint
from waypost.errors import Refusal

MANY = 10_000
"""Pairs of endpoint and account that are remembered before those that have been silent for a minute are dropped."""


class Bursts:
    """The calls of the last minute. `clock` gives seconds and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: dict[tuple[str, int], deque[float]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def check(self, endpoint: Endpoint, account: int) -> None:
        """Count a call, or refuse it, which does not count. Raises Refusal TOO_MANY_REQUESTS with its `retry_after`."""
        burst = endpoint.burst
        if burst is None:
            return
        now = self._clock()
        if len(self._calls) >= MANY:
            self._drop_silent(now)
        calls = self._calls.setdefault((endpoint.name, account), deque())
        while calls and calls[0] <= now - 60:
            calls.popleft()
        wait = wait_for(calls, burst, now)
        if wait > 0:
            message = (
                f"This endpoint takes {burst.ten_seconds} calls in 10 s and {burst.minute} in a minute from an account."
            )
            raise Refusal("TOO_MANY_REQUESTS", message, retry_after=int(wait) + 1)
        calls.append(now)

    def _drop_silent(self, now: float) -> None:
        self._calls = {key: calls for key, calls in self._calls.items() if calls and calls[-1] > now - 60}


def wait_for(calls: deque[float], burst: Burst, now: float) -> float:
    """Seconds until one more call fits; 0 if it does now. `calls` are those of the last minute, in order."""
    wait = 0.0
    for limit, window in ((burst.ten_seconds, 10.0), (burst.minute, 60.0)):
        if len(calls) >= limit:
            wait = max(wait, calls[-limit] + window - now)
    return wait

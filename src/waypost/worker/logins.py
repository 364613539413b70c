"""Failed logins: whoever sends bad credentials too fast is told so, and good ones from there still pass."""

from __future__ import annotations

import ipaddress
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from waypost.errors import Refusal

MOST: Final = 10
"""Failures that an address may have in `SECONDS`, in each worker."""

SECONDS: Final = 1.0
ADDRESSES: Final = 10_000
"""Addresses that are watched; the one that began first goes first, so that no flood of them takes more memory."""


class FailedLogins:
    """When the latest failures of each address were. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        return len(self._failures)

    def add(self, address: str) -> None:
        """Count one more failure. Raises Refusal TOO_MANY_FAILED_LOGINS, which itself counts for nothing."""
        network = network_of(address)
        now = self._clock()
        failures = self._failures.get(network)
        if failures is None:
            if len(self._failures) >= ADDRESSES:
                del self._failures[next(iter(self._failures))]
            failures = self._failures[network] = deque(maxlen=MOST)
        elif len(failures) == MOST and now - failures[0] < SECONDS:
            raise Refusal(
                "TOO_MANY_FAILED_LOGINS",
                f"more than {MOST} bad credentials a second came from your address; a good one is still welcome",
                retry_after=1,
            )
        failures.append(now)


def network_of(address: str) -> str:
    """Of IPv6 the /64, which one caller has all of; anything else is itself, callers on a UNIX socket are one."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))

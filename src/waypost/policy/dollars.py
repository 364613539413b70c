"""US dollars as people write them, and the nano-dollars that the books count."""

from __future__ import annotations

import re
from typing import Final

NANO: Final = 10**9
MAX_NANO: Final = 9 * 10**18
"""Nine billion dollars: what still fits into the books' 64 bits."""

_written = re.compile(r"(-?)([0-9]{1,10})(?:\.([0-9]{1,9}))?").fullmatch


def parse_dollars(text: str) -> int:
    """`2.50` → 2_500_000_000, exact, at most nine places and nine billion. Raises ValueError."""
    match = _written(text)
    amount = int(match[2]) * NANO + int((match[3] or "").ljust(9, "0")) if match else 0
    if match is None or amount > MAX_NANO:
        raise ValueError(f"{text[:40]!r} is not an amount in US dollars, such as 2.50")
    return -amount if match[1] else amount


def render_dollars(amount: int) -> str:
    """2_500_000_000 → `2.50`; all places that are not zero, two at least."""
    whole, part = divmod(abs(amount), NANO)
    places = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{places}"

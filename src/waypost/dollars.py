"""US dollars as people and price lists write them, and the billionths (nano-dollars) that the books count."""

from __future__ import annotations

import re
from typing import Final

NANO: Final = 10**9
MAX_NANO: Final = 9 * 10**18
"""Nine billion dollars: what still fits into the books' 64 bits."""

_written = re.compile(r"([0-9]{1,30})(?:\.([0-9]{1,9}))?").fullmatch


def parse_decimal(text: str) -> int:
    """`0.15` → 150000000 billionths. Raises ValueError above nine places, and on anything with a sign or an e."""
    match = _written(text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount such as 0.15")
    return int(match[1] + (match[2] or "").ljust(9, "0"))


def render_decimal(amount: int, places: int = 9) -> str:
    """150000000 → `0.15`: a decimal string, exact and as short as it can be. `places`: 10⁻ᵖˡᵃᶜᵉˢ USD is the unit."""
    digits = str(abs(amount)).rjust(places + 1, "0")
    text = f"{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")
    return "-" + text if amount < 0 else text


def parse_dollars(text: str) -> int:
    """`2.50` → 2_500_000_000 nano-dollars; below zero with a minus sign. Raises ValueError beyond `MAX_NANO`, too."""
    try:
        amount = parse_decimal(text.removeprefix("-"))
    except ValueError:
        amount = MAX_NANO + 1
    if amount > MAX_NANO:
        raise ValueError(f"{text[:40]!r} is not an amount in US dollars, such as 2.50")
    return -amount if text.startswith("-") else amount


def render_dollars(amount: int) -> str:
    """2_500_000_000 → `2.50`; all places that are not zero, two at least."""
    whole, _, places = render_decimal(amount).partition(".")
    return f"{whole}.{places.ljust(2, '0')}"

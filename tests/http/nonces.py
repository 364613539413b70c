"""Marks in questions: an answer repeats its own, and the simulator's journal tells how often each arrived."""

from __future__ import annotations

import secrets

from tests.sim.running import Running


def fresh_nonce(kind: str = "test") -> str:
    """`nonce:KIND-` and eight hex digits, never the same."""
    return f"nonce:{kind}-{secrets.token_hex(4)}"


def times_seen(simulator: Running, nonce: str) -> int:
    """How many requests with this nonce reached the upstream."""
    return simulator.journal.read_bytes().count(b'"nonce":"%b"' % nonce.encode())

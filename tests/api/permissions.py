"""Who may call what, as a table for people to read in a review: `python -m tests.api.permissions` writes it anew."""

from __future__ import annotations

import pathlib

from waypost.api.endpoints import ENDPOINTS, Endpoint, permits
from waypost.messages import Identity

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "permissions.txt"
ROLES = ("nobody", "nobody, public_models", "inference key", "management key", "token", "metrics token")
IDENTITIES = {
    "inference key": Identity(1, 1, "ann", "free", "inference", ""),
    "management key": Identity(2, 1, "ann", "free", "management", ""),
    "token": Identity(0, 1, "ann", "free", "inference", ""),
}


def verdict(endpoint: Endpoint, role: str) -> str:
    """`yes`, or the status of the refusal."""
    if endpoint.permission == "public":
        return "yes"
    if endpoint.permission == "metrics":
        return "yes" if role == "metrics token" else "401"
    if role == "nobody, public_models" and endpoint.permission == "catalogue":
        return "yes"
    if role not in IDENTITIES:
        return "401"
    return "yes" if permits(endpoint.permission, IDENTITIES[role]) else "403"


def render() -> str:
    """A line for each endpoint."""
    rows = [("", *ROLES)]
    rows += [
        (f"{endpoint.method} {endpoint.path}", *(verdict(endpoint, role) for role in ROLES)) for endpoint in ENDPOINTS
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


if __name__ == "__main__":
    GOLDEN.write_text(render())

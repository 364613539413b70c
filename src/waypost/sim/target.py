"""Where a request went, and how a format turns a request away."""

from __future__ import annotations

import msgspec

from waypost.sim.script import Refusal

Headers = list[tuple[bytes, bytes]]


class Target(msgspec.Struct, frozen=True):
    """A request's path, taken apart: what stands before the format's own part, and the model and method in it.

    `model` and `method` are "" where the format has none in its path; `query` is the part after the question mark.
    """

    prefix: str = ""
    model: str = ""
    method: str = ""
    query: str = ""


class RefusedError(Exception):
    """A request that the vendor would not accept; `refusal` is what it says."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def invalid(message: str, code: str | None = None, param: str | None = None) -> RefusedError:
    """A 400 that says what is wrong with the request."""
    return RefusedError(Refusal(400, message, "invalid_request_error", code, param))


def header(headers: Headers, name: bytes) -> str | None:
    """The value of the first header of this name (lower case), or None."""
    for key, value in headers:
        if len(key) == len(name) and key.lower() == name:
            return value.decode("latin-1")
    return None

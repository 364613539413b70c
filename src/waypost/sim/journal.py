"""The simulator's journal: what it received and what it sent, one JSON line each. It is the oracle of other tests."""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import Any

import msgspec

BODY_KEPT = 8192
_encode = msgspec.json.Encoder().encode


class Exchange(msgspec.Struct):
    """One request and its answer, as `read_journal` puts them together.

    `n` counts the process's requests, `connection` its connections, both from 1; `at` is Unix time in seconds;
    `headers` the names in order, `authorization` the first 16 hex digits of the credential's SHA-256;
    `body` the request's JSON if at most 8 kB, `nonce` the `nonce:…` of the last user message.
    `fault` names the fault that fired. `end` is `complete`, `client-gone`, `fault:NAME`, or None while open.
    `sent_bytes` and `events` are what the kernel took; `text_sha256` is over the text in those events,
    `text_characters` its length; `usage` is the usage sent, None if none was; `status` the HTTP status sent.
    """

    n: int
    connection: int
    at: float
    method: str
    path: str
    model: str | None = None
    stream: bool = False
    headers: list[str] = []
    authorization: str | None = None
    body_sha256: str = ""
    body: Any = None
    nonce: str | None = None
    fault: str | None = None
    end: str | None = None
    status: int | None = None
    sent_bytes: int = 0
    events: int = 0
    usage: dict[str, Any] | None = None
    text_sha256: str = ""
    text_characters: int = 0
    finish_reason: str | None = None


class Opened(msgspec.Struct, frozen=True):
    """The line written before the first byte of the answer."""

    n: int
    connection: int
    at: float
    method: str
    path: str
    model: str | None
    stream: bool
    headers: list[str]
    authorization: str | None
    body_sha256: str
    body: Any
    nonce: str | None
    fault: str | None


class Closed(msgspec.Struct, frozen=True):
    """The line written before the last byte of the answer, or when the client has gone."""

    n: int
    end: str
    status: int | None
    sent_bytes: int
    events: int
    usage: dict[str, Any] | None
    text_sha256: str
    text_characters: int
    finish_reason: str | None


class Journal:
    """Appends lines to a file, each with one `write`, so that the kernel has it when the call returns."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises OSError when the file can't be opened for appending."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def append(self, *lines: Opened | Closed) -> None:
        """Write lines. Raises OSError when the disk refuses."""
        os.write(self._descriptor, b"".join([_encode(line) + b"\n" for line in lines]))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def fingerprint(credential: bytes) -> str:
    """How the journal names a credential: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(credential).hexdigest()[:16]


def kept_body(body: bytes, valid: bool) -> Any:
    """What the journal keeps of a request body: the JSON itself, its text if it is no JSON, None if it is long."""
    if not body or len(body) > BODY_KEPT:
        return None
    text = body.decode("utf-8", "replace")
    # A line feed cannot stand inside a JSON string, so between tokens a space does as well.
    return msgspec.Raw(text.replace("\n", " ").encode()) if valid else text


def read_journal(path: pathlib.Path) -> list[Exchange]:
    """All exchanges of a journal, in the order of their requests. A line still being written is left out.

    A second closing line of the same request replaces the first: the client left while the last bytes were on
    their way. A journal that several processes have appended to, one after the other, is read as one.
    """
    exchanges: list[Exchange] = []
    current: dict[int, Exchange] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        fields = msgspec.json.decode(line)
        if "method" in fields:
            current[fields["n"]] = msgspec.convert(fields, Exchange)
            exchanges.append(current[fields["n"]])
        else:
            exchange = current[fields["n"]]
            for name, value in fields.items():
                setattr(exchange, name, value)
    return exchanges

"""Secrets of the configuration: where they are written, and that nothing ever prints them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping


class Secret:
    """A string that does not print: in logs, errors and reprs it is `Secret(…)`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class Pem(Secret):
    """A text of several lines, such as a key in PEM."""


def read_secret(text: str, environment: Mapping[str, str]) -> Secret:
    """`env:NAME` and `file:PATH` are looked up, anything else is the secret. Raises ValueError without printing it."""
    value = compact(look_up(text, environment))
    if not value or not value.isascii() or not value.isprintable():
        raise ValueError("the secret is empty or has characters that cannot stand in a header")
    return Secret(value)


def compact(value: str) -> str:
    """A JSON object, such as a service account's file, on one line of ASCII; anything else is itself."""
    if value[:1] != "{":
        return value
    try:
        return json.dumps(json.loads(value))
    except ValueError:
        return value


def read_pem(text: str, environment: Mapping[str, str]) -> Pem:
    """The same for a text of several lines."""
    value = look_up(text, environment)
    if not value.startswith("-----BEGIN ") or not value.isascii():
        raise ValueError("not a PEM text, which starts with -----BEGIN; write file:PATH")
    return Pem(value)


def look_up(text: str, environment: Mapping[str, str]) -> str:
    """What `env:NAME` or `file:PATH` stands for; anything else is itself. Raises ValueError."""
    if text.startswith("env:"):
        value = environment.get(text[4:], "")
        if not value:
            raise ValueError(f"the environment variable {text[4:]} is not set")
    elif text.startswith("file:"):
        try:
            value = pathlib.Path(text[5:]).read_text().strip()
        except OSError as error:
            raise ValueError(f"the file {text[5:]} cannot be read: {error.strerror}") from None
        if not value:
            raise ValueError(f"the file {text[5:]} is empty")
    else:
        value = text
    return value

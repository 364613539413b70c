"""Google's errors: what they mean, and how long to wait."""

from __future__ import annotations

import json

import pytest

from tests.formats.gemini_requests import Json
from tests.formats.recordings import chats
from waypost.formats.gemini import parse_error


def test_recorded_errors() -> None:
    found = {}
    for provider in ("gemini", "vertex"):
        for exchange in chats(provider, good=False):
            fault = parse_error(exchange.status, exchange.body)
            found.setdefault(provider, []).append((fault.kind, fault.code))
            assert fault.message
    assert found == {
        "gemini": [("not_found", "NOT_FOUND")],
        "vertex": [("bad_request", "INVALID_ARGUMENT"), ("bad_request", "INVALID_ARGUMENT")],
    }


def error(status: int, message: str, name: str, *details: Json) -> bytes:
    return json.dumps({"error": {"code": status, "message": message, "status": name, "details": details}}).encode()


INFO = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "metadata": {"a": "b"}}
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37.5s"}
FIELDS = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "contents[0]"}]}
LONG = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."


@pytest.mark.parametrize(
    ("status", "body", "kind", "param"),
    [
        (400, error(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT", INFO), "auth", None),
        (400, error(400, "User location is not supported.", "FAILED_PRECONDITION"), "auth", None),
        (400, error(400, LONG, "INVALID_ARGUMENT"), "context_length", None),
        (400, error(400, "Invalid value", "INVALID_ARGUMENT", FIELDS), "bad_request", "contents[0]"),
        (400, b"[" + error(400, "Bad", "INVALID_ARGUMENT") + b"]", "bad_request", None),
        (401, error(401, "Request had invalid credentials.", "UNAUTHENTICATED"), "auth", None),
        (403, error(403, "Permission denied", "PERMISSION_DENIED"), "auth", None),
        (404, error(404, "no such model", "NOT_FOUND"), "not_found", None),
        (429, error(429, "Quota exceeded", "RESOURCE_EXHAUSTED", RETRY), "rate_limit", None),
        (500, error(500, "Internal", "INTERNAL"), "server", None),
        (503, error(503, "The model is overloaded.", "UNAVAILABLE"), "overloaded", None),
        (504, error(504, "Deadline expired", "DEADLINE_EXCEEDED"), "overloaded", None),
        (502, b"<html>Bad gateway</html>", "server", None),
        (429, b"slow down", "rate_limit", None),
        (418, b"", "bad_request", None),
    ],
)
def test_errors(status: int, body: bytes, kind: str, param: str | None) -> None:
    fault = parse_error(status, body)
    assert (fault.kind, fault.param) == (kind, param)
    assert "<" not in fault.message


def test_how_long_to_wait() -> None:
    def delay(body: bytes) -> float | None:
        return parse_error(429, body).retry_after

    assert delay(error(429, "Quota exceeded", "RESOURCE_EXHAUSTED", INFO, RETRY)) == 37.5
    assert delay(error(429, "Quota exceeded", "RESOURCE_EXHAUSTED")) is None
    assert delay(b"no") is None

"""Google's errors: `google.rpc.Status` of the Gemini API and Vertex AI.

Source of the wire facts: cloud.google.com/apis/design/errors, google.rpc's error_details (ErrorInfo, RetryInfo,
BadRequest), ai.google.dev (troubleshooting), and recorded answers.
"""

from __future__ import annotations

import msgspec

from waypost.completion import Fault, FaultKind


class FieldViolation(msgspec.Struct, frozen=True):
    """A field that is wrong."""

    field: str = ""


class Detail(msgspec.Struct, frozen=True, rename="camel"):
    """Of any type: ErrorInfo has a reason, RetryInfo a delay ("37s"), BadRequest the fields."""

    reason: str = ""
    retry_delay: str = ""
    field_violations: list[FieldViolation] = []


class Status(msgspec.Struct, frozen=True):
    """google.rpc.Status: `code` is the HTTP status, `status` the name of Google's own code."""

    code: int = 0
    message: str = ""
    status: str = ""
    details: list[Detail] = []


class Envelope(msgspec.Struct, frozen=True):
    """`{"error": {…}}`, in a list where a stream was asked for without `alt=sse`."""

    error: Status


decode_errors = msgspec.json.Decoder(Envelope | list[Envelope]).decode

BY_NAME: dict[str, FaultKind] = {
    "INVALID_ARGUMENT": "bad_request",
    "FAILED_PRECONDITION": "bad_request",
    "OUT_OF_RANGE": "bad_request",
    "UNIMPLEMENTED": "bad_request",
    "UNAUTHENTICATED": "auth",
    "PERMISSION_DENIED": "auth",
    "NOT_FOUND": "not_found",
    "RESOURCE_EXHAUSTED": "rate_limit",
    "UNAVAILABLE": "overloaded",
    "DEADLINE_EXCEEDED": "overloaded",
    "INTERNAL": "server",
    "UNKNOWN": "server",
    "CANCELLED": "server",
}
BY_STATUS: dict[int, FaultKind] = {
    401: "auth", 402: "auth", 403: "auth", 404: "not_found", 413: "context_length", 429: "rate_limit",
    503: "overloaded", 504: "overloaded", 529: "overloaded",
}  # fmt: skip
# What a bad request says in its details, or in words alone.
OUR_KEY = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED", "CREDENTIALS_MISSING"})
NOT_OURS = ("api key", "user location is not supported", "billing")
TOO_LONG = ("exceeds the maximum number of tokens", "token count exceeds", "input token count", "context length")
FORBIDDEN = ("responsible ai", "usage guidelines", "prohibited content", "content policy", "blocked by")


def parse_error(status: int, body: bytes) -> Fault:
    """A status that is not 200, and what came with it."""
    return fault_of(status, parse_status(body))


def retry_delay(error: Status) -> float | None:
    """The seconds that Google's RetryInfo asks us to wait, if there is one."""
    for detail in error.details:
        number = detail.retry_delay.removesuffix("s")
        if number.replace(".", "", 1).isdecimal():
            return float(number)
    return None


def parse_status(body: bytes) -> Status:
    """An error's body; what is no JSON of Google's is its message."""
    try:
        found = decode_errors(body)
        envelope: Envelope = found[0] if isinstance(found, list) else found
        return envelope.error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError):
        text = body[:2000].decode("utf-8", "replace").strip()
        return Status(message="" if text.startswith("<") else text)


def fault_of(status: int, error: Status) -> Fault:
    """What it means. `code` is Google's name for it."""
    kind = BY_NAME.get(error.status) or BY_STATUS.get(status) or ("bad_request" if 400 <= status < 500 else "server")
    reasons = {detail.reason for detail in error.details}
    said = error.message.lower()
    if kind == "bad_request":
        if reasons & OUR_KEY or any(words in said for words in NOT_OURS):
            kind = "auth"
        elif any(words in said for words in TOO_LONG):
            kind = "context_length"
        elif any(words in said for words in FORBIDDEN):
            kind = "content_policy"
    fields = [violation.field for detail in error.details for violation in detail.field_violations if violation.field]
    return Fault(kind, error.message, error.status, fields[0] if fields else None, retry_delay(error))

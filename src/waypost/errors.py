"""Every way to fail, in one table: code, status, type, what it means, and whether to try again.

`docs/errors.md` is printed from `TABLE` (`python -m waypost.errors`); a test keeps the two equal.
"""

from __future__ import annotations

import msgspec


class Failure(msgspec.Struct, frozen=True):
    """One row: what the caller sees, and what the router may do about it.

    `type` is the `error.type` of the OpenAI envelope. `retry` is the `x-should-retry` header, which the OpenAI SDKs obey:
    None leaves it to the SDK's own rule by status. `chain`: a whole chain has been tried, and there is no header only
    where `routing.client_retries` says so.
    """

    code: str
    status: int
    type: str
    meaning: str
    chain: bool = False
    retry: bool | None = None


TABLE: tuple[Failure, ...] = (
    # What the caller sent
    Failure("BAD_REQUEST", 400, "invalid_request_error", "the bytes are not HTTP/1.1 as RFC 9112 has it"),
    Failure("INVALID_REQUEST", 400, "invalid_request_error", "the body is not what the endpoint takes, or the upstream refused its content (then with the upstream's own status and message); `param` names the field"),
    Failure("INVALID_MODEL", 400, "invalid_request_error", "no such model or route"),
    Failure("AUTHENTICATION_ERROR", 401, "authentication_error", "the key or token is missing, unknown, revoked or expired"),
    Failure("MODEL_NOT_ALLOWED", 403, "permission_error", "the account's plan does not include this model"),
    Failure("FORBIDDEN", 403, "permission_error", "this kind of key may not call this endpoint"),
    Failure("INSUFFICIENT_BALANCE", 402, "billing_error", "the account's or the key's balance does not cover what the request may cost", retry=False),
    Failure("SPEND_LIMIT_EXCEEDED", 402, "billing_error", "what the request may cost does not fit under a spend limit of the plan or the key", retry=False),
    Failure("MODEL_NOT_PRICED", 402, "billing_error", "the account has limits in money, and this model has no price", retry=False),
    Failure("NOT_FOUND", 404, "invalid_request_error", "no such endpoint or object"),
    Failure("PRESET_NOT_FOUND", 404, "invalid_request_error", "no such preset, or another account's private one"),
    Failure("METHOD_NOT_ALLOWED", 405, "invalid_request_error", "the endpoint exists, but not for this method"),
    Failure("REQUEST_TIMEOUT", 408, "invalid_request_error", "the request did not arrive in time"),
    Failure("BODY_TOO_LARGE", 413, "invalid_request_error", "the body is larger than `server.max_body`"),
    Failure("URL_TOO_LONG", 414, "invalid_request_error", "the request line is longer than 8 KiB"),
    Failure("UNSUPPORTED_ENCODING", 415, "invalid_request_error", "the body's Content-Encoding is neither identity nor gzip"),
    Failure("IDEMPOTENCY_KEY_REUSED", 422, "invalid_request_error", "the `Idempotency-Key` was sent with another body less than 24 hours ago", retry=False),
    Failure("HEADERS_TOO_LARGE", 431, "invalid_request_error", "the headers are more than 100 or larger than 16 KiB"),
    # What the plan and the key allow; the window that is full is in `X-RateLimit-*`
    Failure("MINUTE_REQUEST_LIMIT_EXCEEDED", 429, "rate_limit_error", "all requests of this minute are used", retry=True),
    Failure("HOURLY_REQUEST_LIMIT_EXCEEDED", 429, "rate_limit_error", "all requests of this hour are used", retry=False),
    Failure("DAILY_REQUEST_LIMIT_EXCEEDED", 429, "rate_limit_error", "all requests of this day are used", retry=False),
    Failure("MONTHLY_REQUEST_LIMIT_EXCEEDED", 429, "rate_limit_error", "all requests of this month are used", retry=False),
    Failure("TOKEN_LIMIT_EXCEEDED", 429, "rate_limit_error", "what the request may use does not fit under a token limit"),
    Failure("STREAM_LIMIT_EXCEEDED", 429, "rate_limit_error", "as many streams are open as the plan allows", retry=True),
    Failure("TOO_MANY_REQUESTS", 429, "rate_limit_error", "this endpoint is called more often than an account may", retry=True),
    Failure("TOO_MANY_FAILED_LOGINS", 429, "rate_limit_error", "too many bad credentials came from this address", retry=True),
    # What the upstreams did
    Failure("CONTEXT_LENGTH_EXCEEDED", 400, "invalid_request_error", "the upstream says that the prompt is too long for the model"),
    Failure("UPSTREAM_RATE_LIMITED", 429, "rate_limit_error", "every upstream in the chain is rate-limiting us", chain=True),
    Failure("PROVIDER_ERROR", 502, "api_error", "every upstream in the routing chain failed", chain=True),
    Failure("PROVIDER_TIMEOUT", 504, "api_error", "every upstream in the routing chain timed out", chain=True),
    # What we could not do
    Failure("INTERNAL_ERROR", 500, "api_error", "a defect in Waypost; the log has it under the request's id"),
    Failure("OVERLOADED", 503, "api_error", "too many connections, or too many requests waiting for one upstream", retry=True),
    Failure("UNAVAILABLE", 503, "api_error", "Waypost is starting, draining, or its keeper cannot be asked; your key may be good", retry=True),
)  # fmt: skip

BY_CODE: dict[str, Failure] = {row.code: row for row in TABLE}


class Refusal(Exception):
    """A request ends here: one row of the table, with the sentence that names the field and the fix.

    `status` differs from the row's only where an upstream's own 4xx is passed on. `retry_after` is in seconds.
    """

    def __init__(
        self, code: str, message: str, *, param: str | None = None, status: int = 0, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.failure = BY_CODE[code]
        self.status = status or self.failure.status
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.lines = b""  # more head lines, each with its line end
        self.metadata = b""  # the `waypost` object, JSON, for callers who want it

    def envelope(self) -> bytes:
        """The OpenAI error body: `{"error": {"message", "type", "param", "code"}}`, and `waypost` where it is wanted."""
        error = {
            "message": self.message,
            "type": self.failure.type,
            "param": self.param,
            "code": self.failure.code,
        }
        if not self.metadata:
            return msgspec.json.encode({"error": error})
        return msgspec.json.encode({"error": error, "waypost": msgspec.Raw(self.metadata)})


def markdown() -> str:
    """The table as the page `docs/errors.md`."""
    lines = [
        "# Errors",
        "",
        "Every failure that Waypost itself raises carries `X-Error-Code` and `X-Request-Id`. The body is plain text unless the",
        "request's `Accept` names `application/json` (every OpenAI SDK does): then it is the OpenAI envelope",
        '`{"error": {"message", "type", "param", "code"}}` with the same code. `server.error_format = "text" | "json"` makes it',
        "one or the other for everyone. Once a stream has begun, an error arrives as a `data:` frame with the same envelope,",
        "followed by `data: [DONE]`.",
        "",
        "| status | `X-Error-Code` | `error.type` | meaning |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row.status} | `{row.code}` | `{row.type}` | {row.meaning} |"
        for row in sorted(TABLE, key=lambda row: row.status)
    ]
    lines += [
        "",
        "This page is printed by `python -m waypost.errors`; a test keeps it true.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), end="")

"""The link's messages about answers that are kept: who may make one, what it is, and when it is let go.

A scope is a digest of 32 bytes: of whatever must be the same for two requests to share one answer, the account always
among it. At any time at most one request has the claim on a scope, on every host together.
"""

from __future__ import annotations

from typing import Final, Literal

from waypost.listing import Message

AnswerKind = Literal["idempotency", "cache"]

ANSWER_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of one answer that is kept: it crosses the link in one frame."""


class Claim(Message, frozen=True):
    """May `request` answer for `scope`? Answered by `Claimed`, `Conflict`, `InFlight`, `StoredAnswer` or `Failed`.

    `body` is a digest of what was asked; `journal` the worker's, by which its claims end with it; `seconds` how long a
    claim holds that nobody ends. An answer in flight is waited for up to `wait` seconds. Asking again changes nothing.
    """

    kind: AnswerKind
    scope: bytes
    account: int
    body: bytes
    request: str  # the 26 characters of its id
    journal: str
    seconds: float
    wait: float = 0.0


class Claimed(Message, frozen=True):
    """The request has the claim: it answers, and then says `StoreAnswer` or `ReleaseClaim`."""


class Conflict(Message, frozen=True):
    """The scope belongs to another body. `is_open`: nothing is stored for that as yet."""

    is_open: bool = False


class InFlight(Message, frozen=True):
    """The same body is being answered by this request."""

    request: str


class StoredAnswer(Message, frozen=True):
    """The answer of `request`. Times are milliseconds since 1970 UTC."""

    request: str
    created_at: int
    expires_at: int
    content: bytes


class StoreAnswer(Message, frozen=True):
    """Keep `content` for `seconds`. Answered by `Kept`, or by `Failed`.

    With the kind "idempotency" only where no other request has the scope by now; with "cache" in any case.
    """

    kind: AnswerKind
    scope: bytes
    account: int
    body: bytes
    request: str
    journal: str
    seconds: float
    content: bytes


class ReleaseClaim(Message, frozen=True):
    """There will be no answer by `request`, so the next may try. Answered by `Kept`."""

    scope: bytes
    request: str


class FindAnswer(Message, frozen=True):
    """What is stored for a scope? Answered by `StoredAnswer`, or by None."""

    scope: bytes


class ClearAnswer(Message, frozen=True):
    """Drop what is stored for a scope. Answered by `Kept`: was there anything?"""

    scope: bytes


class ForgetAnswer(Message, frozen=True):
    """A worker's call: let every worker of this host drop what it has itself for a scope. Answered by `Kept`, True.

    And a push, which does that.
    """

    scope: bytes


class Kept(Message, frozen=True):
    """Whether the answer or the claim was there to be changed."""

    done: bool


AskAnswers = Claim | StoreAnswer | ReleaseClaim | FindAnswer | ClearAnswer
"""What the keeper is asked."""

TellAnswers = Claimed | Conflict | InFlight | StoredAnswer | Kept
"""What it says to that."""

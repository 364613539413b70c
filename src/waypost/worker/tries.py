"""The attempts of one request, as its trail leads them: each made, watched and told of, and the end put into words."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from waypost.errors import Refusal
from waypost.policy.failures import BY_NAME
from waypost.policy.trail import Lacking, Ticket, Trail
from waypost.worker.books import Entry
from waypost.worker.credentials import CredentialsUnavailable
from waypost.worker.outcome import Outcome, Tried
from waypost.worker.walk import Signal

if TYPE_CHECKING:
    from waypost.worker.app import Worker

UNABLE, NO_TOKEN, LATE = BY_NAME["unable"], BY_NAME["token"], BY_NAME["deadline"]

KEPT_BACK = "The upstream refused or broke off; its words are kept back, since the preset is another account's."

log = logging.getLogger("waypost.serve")


def failed(
    worker: Worker, entry: Entry, trail: Trail, ticket: Ticket, outcome: Outcome, tried: Tried | None = None
) -> float:
    """No answer from an attempt (None: the latest): seconds to wait for the next attempt, or `trail.NOWHERE`."""
    assert outcome.kind is not None
    now = worker.clock()
    if outcome.kind is UNABLE:
        return trail.unable(ticket, now, worker.dice, outcome.message, outcome.param)
    if outcome.was_made:
        entry.failed_attempt(outcome, int((now - ticket.began) * 1000), tried)
    log.warning("%s %r: %s", entry.request_id.decode(), ticket.candidate, outcome.message)
    return trail.failed(
        ticket,
        outcome.kind,
        now,
        worker.dice,
        retry_after=outcome.retry_after,
        status=outcome.status,
        message=outcome.message,
        committed=outcome.committed,
    )


def without_token(why: CredentialsUnavailable) -> Outcome:
    """What it means that no access token was to be had for the upstream."""
    return Outcome(LATE if why.is_late else NO_TOKEN, str(why), was_made=False)


def ending_of(
    entry: Entry,
    trail: Trail,
    last: Outcome,
    metadata: Callable[[], msgspec.Raw] | None,
    *,
    is_discreet: bool = False,
) -> Refusal:
    """What the caller is told when there is nobody left to ask; `last` is how the last attempt failed.

    `is_discreet`: an upstream's words may quote a prompt that is not the caller's, and are kept back.
    """
    if not trail.failures and trail.lacking:
        refusal = nobody_can(trail.lacking)
    elif last.committed:
        refusal = Refusal(last.code, KEPT_BACK if is_discreet else last.message)
    elif last.code in ("INVALID_REQUEST", "CONTEXT_LENGTH_EXCEEDED") and is_discreet:
        refusal = Refusal(last.code, KEPT_BACK, status=last.status)
    elif last.code in ("INVALID_REQUEST", "CONTEXT_LENGTH_EXCEEDED"):
        refusal = Refusal(last.code, last.message, param=last.param, status=last.status)
    else:
        ending = trail.ending
        said = dict.fromkeys(
            f"{failure.lane[0]}: {failure.kind.name if is_discreet else failure.message}" for failure in trail.failures
        )
        hint = math.ceil(ending.retry_after) if ending.retry_after is not None else None
        refusal = Refusal(ending.code, "; ".join(said), retry_after=hint)
    refusal.lines = b"x-attempts: %d\r\n" % entry.attempts
    if metadata is not None:
        refusal.metadata = bytes(metadata())
    return refusal


def nobody_can(lacking: Sequence[Lacking]) -> Refusal:
    """What to say when no target can serve a request: what the first one lacks, and that the others lack something."""
    said = dict.fromkeys(each.message.rstrip(".") for each in lacking)
    return Refusal("INVALID_REQUEST", f"{'; '.join(said)}.", param=lacking[0].param)


async def pause(seconds: float) -> None:
    """Let some time pass, in a walk: without a task."""
    over: Signal[None] = Signal()
    timer = asyncio.get_running_loop().call_later(seconds, over.set, None)
    try:
        await over
    finally:
        timer.cancel()

"""The response cache in a request's walk: what the caller wishes, and whether it is a hit, joins another, or goes on.

A request is admitted like any other before it comes here, and what it reserved comes back when it was a hit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec

from waypost.claims import ForgetAnswer
from waypost.errors import Refusal
from waypost.formats.openai_chat import ChatRequest
from waypost.http.exchange import Exchange, Outlet
from waypost.http.head import Head
from waypost.messages import Identity
from waypost.policy.cache_key import Asker, cache_key
from waypost.worker.answers import EVENTS, JSON, cors_lines, dropped_line, history_line
from waypost.worker.books import Entry
from waypost.worker.cache import Kept
from waypost.worker.link import KeeperUnavailable
from waypost.worker.misses import ENDED, Follower, Miss
from waypost.worker.recording import replay
from waypost.worker.resolve import Resolved
from waypost.worker.sharing import LeadingExchange

if TYPE_CHECKING:
    from waypost.worker.app import Worker
    from waypost.worker.upstreams import Snapshot

DEFAULT_TTL: Final = 300  # seconds
SHORTEST_TTL, LONGEST_TTL = 1, 86_400
FOR_GOOD: Final = float("inf")
WHOLE_NUMBER: Final = re.compile(rb"[+-]?[0-9]{1,18}").fullmatch

LARGEST_BODY: Final = 1 << 20
"""Bytes of a request's body: of a larger one the key takes longer than it should, and it is not asked again."""

Answerer = Callable[["Worker", Exchange, Entry, ChatRequest, Resolved, Outlet], Awaitable[None]]


class Wish(msgspec.Struct, frozen=True):
    """What one request wants of the cache. `most`: seconds that an answer to it may be old at most."""

    keeps: bool
    ttl: int
    most: float = FOR_GOOD
    clears: bool = False


# What the caller wishes


def wish_of(snapshot: Snapshot, head: Head, identity: Identity, request: ChatRequest) -> Wish | None:
    """Headers first, then the preset (which has been put in), then the plan. None: nothing.

    Raises Refusal INVALID_REQUEST.
    """
    said = clears = most = None
    if head.has_wishes:
        said = read_flag(head, b"x-waypost-cache")
        if head.has(b"\r\nx-waypost-cache-"):
            clears = read_flag(head, b"x-waypost-cache-clear")
            most = read_ttl(head)
    terms = request.preset.cache if request.preset is not None else None
    plan = snapshot.settings.plans.get(identity.plan)
    if terms is None and plan is not None and plan.cache is not None:
        terms = plan.cache.enabled, plan.cache.ttl
    keeps, ttl = terms or (False, DEFAULT_TTL)
    if said is not None:
        keeps = said
    if not keeps and not clears:
        return None
    return Wish(keeps, most or ttl, FOR_GOOD if most is None else most, bool(clears))


def read_flag(head: Head, name: bytes) -> bool | None:
    """A header that says true or false. Raises Refusal."""
    value = head.get(name)
    if value is None:
        return None
    said = value.lower()
    if said not in (b"true", b"false"):
        raise Refusal("INVALID_REQUEST", f"The header {name.decode()} must be true or false.", param=name.decode())
    return said == b"true"


def read_ttl(head: Head) -> int | None:
    """`X-Waypost-Cache-TTL`: seconds, brought to what is possible. Raises Refusal."""
    value = head.get(b"x-waypost-cache-ttl")
    if value is None:
        return None
    if not WHOLE_NUMBER(value):
        message = f"The header x-waypost-cache-ttl must be seconds, {SHORTEST_TTL} to {LONGEST_TTL}."
        raise Refusal("INVALID_REQUEST", message, param="x-waypost-cache-ttl")
    return min(max(int(value), SHORTEST_TTL), LONGEST_TTL)


# The walk


def recalled_at_once(
    worker: Worker,
    exchange: Exchange,
    entry: Entry,
    request: ChatRequest,
    found: Resolved,
    wish: Wish,
    endpoint: str,
) -> bool:
    """Answer a request that is not admitted yet, if this worker has the answer: one line in the books, and not two.

    False where something has to be waited for, or worked out: the key of a body that did not come before, byte for
    byte, is not, for somebody whose limits may be full. Raises Refusal.
    """
    if wish.clears or worker.journal.makes_wait or request.preset is not None:
        return False
    key = worker.cache.known_key(request.body, entry.identity, found, endpoint)
    kept = worker.cache.find(key, wish.most) if key is not None else None
    if kept is None or not entry.admit_repeated(kept.recording.source):
        return False
    hit(worker, exchange, entry, request, kept)
    return True


async def recalled(
    worker: Worker,
    exchange: Exchange,
    entry: Entry,
    request: ChatRequest,
    found: Resolved,
    wish: Wish,
    answer: Answerer,
    endpoint: str,
) -> None:
    """Answer from the cache, with another's answer, or by `answer`. Raises what that raises, and Refusal."""
    if len(request.body) > LARGEST_BODY:
        await answer(worker, exchange, entry, request, found, exchange)
        return
    cache = worker.cache
    key = key_of(worker, entry, request, found, endpoint)
    if wish.clears:
        await cleared(worker, key)
        if not wish.keeps:
            await answer(worker, exchange, entry, request, found, exchange)
            return
    else:
        kept = cache.find(key, wish.most)
        if kept is None and cache.is_shared and key not in cache.flights:
            kept = await fetched(worker, key, wish)
        if kept is not None:
            entry.repeated(kept.recording.source)
            hit(worker, exchange, entry, request, kept)
            return
        miss = cache.flights.get(key)
        if miss is not None and miss.is_open and await joined(worker, exchange, entry, request, miss):
            return
    await led(worker, exchange, entry, request, found, wish, key, answer)


async def cleared(worker: Worker, key: bytes) -> None:
    """No worker of this host has it any more, nor has the store. Raises Refusal where that cannot be said."""
    worker.cache.clear(key)
    try:
        if worker.cache.is_shared:  # first: whoever finds it there from now on has looked before he is told
            await asyncio.ensure_future(worker.shared_cache.clear(key))
        await asyncio.ensure_future(worker.link.call(ForgetAnswer(key)))
    except KeeperUnavailable as error:
        message = f"The cache cannot be cleared everywhere at this moment: {error}. Try again."
        raise Refusal("UNAVAILABLE", message, retry_after=1) from None


async def fetched(worker: Worker, key: bytes, wish: Wish) -> Kept | None:
    """What another worker has stored, which is this one's from now on, too."""
    cache = worker.cache
    clearings = cache.clearings
    found = await worker.shared_cache.find(key)
    if found is None or found.age >= min(found.ttl, wish.most) or cache.clearings != clearings:
        return None
    if key not in cache.flights:
        cache.store(key, found.recording, found.ttl, found.age)
    since = worker.clock() - found.age
    return Kept(found.recording, since, since + found.ttl, found.ttl)


def key_of(worker: Worker, entry: Entry, request: ChatRequest, found: Resolved, endpoint: str) -> bytes:
    """Whose request it is, of whom, and what it says."""
    identity, used, cache = entry.identity, request.preset, worker.cache
    key = cache.known_key(request.body, identity, found, endpoint) if used is None else None
    if key is not None:
        return key
    preset = f"{used.id} {used.version} {bytes(used.shown).decode()}" if used is not None else ""
    targets = (found.route.chain.name, *[f"{upstream.provider}/{upstream.model}" for upstream in found.upstreams])
    asker = Asker(identity.account_id, identity.key_id, endpoint, targets, preset, request.stream)
    key = cache_key(asker, request.fields)
    if used is None:
        cache.note_key(request.body, identity, found, endpoint, key)
    return key


def hit(worker: Worker, exchange: Exchange, entry: Entry, request: ChatRequest, kept: Kept) -> None:
    """Say what is there; it is in the books already."""
    now = worker.clock()
    recording = kept.recording
    age = int(now - kept.since)
    headers = hit_headers(worker, exchange, request, entry, recording.source, recording.dropped, age, kept.ttl)
    latency = int((now - exchange.arrived) * 1000)
    replay(recording, exchange, headers, entry.request_id, int(worker.books.wall()), latency)


async def joined(worker: Worker, exchange: Exchange, entry: Entry, request: ChatRequest, miss: Miss) -> bool:
    """Share an answer that is on its way. False: it failed before it began, and this request has to go by itself."""

    def render_headers(dropped: str) -> bytes:
        return hit_headers(worker, exchange, request, entry, miss.entry.id, dropped, 0, miss.ttl)

    return await Follower(miss, exchange, entry, render_headers, entry.latency_ms).listen()


async def led(
    worker: Worker,
    exchange: Exchange,
    entry: Entry,
    request: ChatRequest,
    found: Resolved,
    wish: Wish,
    key: bytes,
    answer: Answerer,
) -> None:
    """Ask, and keep what comes; whoever asks the same meanwhile joins."""
    cache = worker.cache
    miss = Miss(entry, request.stream, wish.ttl, cache.largest, exchange.on_gone)
    lines = b"x-waypost-cache-status: MISS\r\nx-waypost-cache-ttl: %d\r\n" % wish.ttl
    why = Refusal("UNAVAILABLE", ENDED, retry_after=1)
    cache.flights.setdefault(key, miss)
    try:
        await answer(worker, exchange, entry, request, found, LeadingExchange(exchange, miss, lines=lines))
        if cache.flights.get(key) is miss:  # else it was cleared meanwhile, or another was first
            keep(worker, key, miss)
    except Refusal as refusal:  # without what its own caller wants to know of it
        why = Refusal(refusal.failure.code, refusal.message, retry_after=refusal.retry_after)
        raise
    finally:
        if cache.flights.get(key) is miss:
            del cache.flights[key]
        if not miss.is_over:
            # Not at once: whoever ends all streams of an account ends theirs before they go on by themselves.
            asyncio.get_running_loop().call_soon(miss.fail, why)


def keep(worker: Worker, key: bytes, miss: Miss) -> None:
    """For those who ask the same from now on."""
    recording = miss.recording(int(worker.books.wall() * 1000))
    if recording is not None:
        worker.cache.store(key, recording, miss.ttl)
        if worker.cache.is_shared:
            worker.shared_cache.store(key, miss.entry.account, recording, miss.ttl)


def hit_headers(
    worker: Worker,
    exchange: Exchange,
    request: ChatRequest,
    entry: Entry,
    source: bytes,
    dropped: str,
    age: int,
    ttl: int,
) -> bytes:
    """The head lines of an answer that was given before: no provider was asked, and what its one was told is said."""
    lines = (
        b"%bx-request-id: %b\r\nx-waypost-cache-status: HIT\r\nx-waypost-cache-age: %d\r\nx-waypost-cache-ttl: %d\r\n"
        b"x-waypost-cache-source-id: chatcmpl_%b\r\n"
        % (EVENTS if request.stream else JSON, entry.request_id, age, ttl, source)
    )
    if dropped or request.ignored:
        lines += dropped_line((*request.ignored, *filter(None, dropped.split(", "))))
    if request.left_out is not None:
        lines += history_line(request)
    return lines + cors_lines(worker.origins, exchange) if worker.origins else lines

"""One request, put to upstreams that do not speak the caller's format: read once, rendered for each that is tried."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from waypost.chat import Chat
from waypost.formats import openai_answer, openai_compatible
from waypost.formats.accented import speak
from waypost.formats.accents import Accent
from waypost.formats.format import Format, Reading, Unsupported
from waypost.formats.openai_chat import ChatRequest, render_request
from waypost.formats.openai_request import parse_chat
from waypost.http.exchange import Exchange
from waypost.policy.failures import OUT_OF_TIME
from waypost.policy.preferences import Preferences
from waypost.worker import media
from waypost.worker.accented_relay import AccentedStream, AccentedWhole
from waypost.worker.answers import success_headers
from waypost.worker.credentials import CredentialsUnavailable
from waypost.worker.dialect import Dialect
from waypost.worker.judging import Judge, judge_of
from waypost.worker.needs import check_needs
from waypost.worker.outcome import Outcome, Unanswered
from waypost.worker.relay import Relay, Stamp, StreamRelay, WholeRelay
from waypost.worker.translate import StreamTranslator, Terms, WholeTranslator
from waypost.worker.tries import LATE, UNABLE, without_token

if TYPE_CHECKING:
    from waypost.worker.app import Worker
    from waypost.worker.books import Entry
    from waypost.worker.upstreams import Upstream


IN_WORDS = Reading(strip_fences=True)
Put = tuple[Relay, bytes, bytes]
"""A request on its way: who reads the answer, the head lines of a good one, and the bytes for the upstream."""


class Asking:
    """Owned by one request. Nothing is read before the first upstream of another format is tried."""

    def __init__(
        self,
        worker: Worker,
        exchange: Exchange,
        entry: Entry,
        request: ChatRequest,
        preferences: Preferences,
        ends: float,
    ) -> None:
        """`ends`: when the request's time is over, by the worker's clock."""
        self._worker = worker
        self._exchange = exchange
        self._entry = entry
        self._request = request
        self._ends = ends
        self._requires_parameters = preferences.require_parameters
        self._chat: Chat | None = None
        self._fetched: dict[frozenset[str], Chat] = {}  # by the URLs that were fetched

    async def put(self, upstream: Upstream, dialect: Dialect | None, stamp: Stamp) -> Put:
        """The request as this upstream, who speaks so, wants it. Raises Unanswered, Refusal."""
        try:
            return await self._put(upstream, dialect, stamp)
        except Unsupported as lacks:
            raise Unanswered(Outcome(UNABLE, lacks.message, param=lacks.param)) from None
        except CredentialsUnavailable as error:
            raise Unanswered(without_token(error)) from None

    async def _put(self, upstream: Upstream, dialect: Dialect | None, stamp: Stamp) -> Put:
        request = self._request
        if dialect is None or dialect.format is None:
            return self._as_it_is(upstream, dialect, stamp)
        chat = await self._prepared(dialect)
        rendered = dialect.format.render_request(chat, dialect.model)
        dropped = self._dropped(rendered.dropped, upstream)
        sent = await dialect.render(rendered, request.stream, self._ends - self._worker.clock())
        judge = judge_of(chat.response_format, rendered.reading, dialect.model.schema)
        relay = self._translator(dialect.format, rendered.reading, judge, not chat.reasoning.exclude, stamp)
        return relay, self._headers(upstream, dropped), sent

    def _as_it_is(self, upstream: Upstream, dialect: Dialect | None, stamp: Stamp) -> Put:
        """OpenAI's format, for a provider with an accent, or a model of which something is known."""
        request, accent = self._request, dialect.accent if dialect is not None else None
        if dialect is not None:
            check_needs(request.fields, dialect.model)
        dropped: tuple[str, ...] = ()
        relay: Relay = StreamRelay(stamp, request.include_usage) if request.stream else WholeRelay(stamp)
        if accent is not None:
            spoken = speak(accent, request.fields, upstream.model)
            dropped = self._dropped(spoken.dropped, upstream)
            if spoken.in_words is not None:
                judge = judge_of(spoken.in_words, IN_WORDS, is_native=False)
                relay = self._translator(openai_compatible, IN_WORDS, judge, not spoken.hides_reasoning, stamp)
            elif not accent.is_plain or spoken.hides_reasoning:
                relay = accented(stamp, request, accent, not spoken.hides_reasoning)
            # Where stream_options are not known, usage comes all the same.
            stream = request.stream and accent.stream_usage
            request = msgspec.structs.replace(request, fields=spoken.fields, stream=stream)
        sent = upstream.render(render_request(request, upstream.model_field), self._request.stream)
        return relay, self._headers(upstream, dropped), sent

    def _headers(self, upstream: Upstream, dropped: tuple[str, ...]) -> bytes:
        entry = self._entry
        attempts = entry.attempts + 1
        return success_headers(
            self._worker, self._exchange, self._request, upstream, entry.request_id, attempts, dropped
        )

    def _translator(self, format: Format, reading: Reading, judge: Judge, show_reasoning: bool, stamp: Stamp) -> Relay:
        """Who reads an answer that must be understood before it is passed on."""
        entry, vault, account = self._entry, self._worker.vault, self._entry.account
        terms = Terms(
            format,
            reading,
            openai_answer.Stamp(stamp.id, stamp.model, stamp.provider, created(), stamp.extensions),
            stamp.latency_ms,
            self._request.include_usage,
            show_reasoning,
            entry.render_counted,
            lambda kept: vault.keep(account, kept),
            judge,
        )
        return StreamTranslator(terms) if self._request.stream else WholeTranslator(terms)

    async def _prepared(self, dialect: Dialect) -> Chat:
        """The request, with what the client dropped of it, and with media in it that the upstream does not fetch."""
        chat = self._chat
        if chat is None:
            read = parse_chat(self._request.fields)
            chat = self._chat = self._worker.vault.complete(self._entry.account, read)
        if not dialect.speech.fetches_media:
            return chat
        found = media.places(chat, dialect.model)
        if not found:
            return chat
        known = self._fetched.get(frozenset(found))
        if known is None:
            fetching = asyncio.ensure_future(media.fetched(chat, found, self._worker.fetcher.fetch))
            known = self._fetched[frozenset(found)] = await in_time(fetching, self._ends - self._worker.clock())
        return known

    def _dropped(self, dropped: tuple[str, ...], upstream: Upstream) -> tuple[str, ...]:
        """The same, where the caller lets that happen. Raises Unsupported."""
        if dropped and self._requires_parameters:
            raise Unsupported(dropped[0], f"{upstream.provider}/{upstream.model} has no such parameter")
        return dropped


async def in_time(fetching: asyncio.Future[Chat], seconds: float) -> Chat:
    """Its result. Raises Unanswered where it takes longer; who waits no more, for whatever reason, ends it."""
    try:
        done, _ = await asyncio.wait({fetching}, timeout=seconds)
    finally:
        fetching.cancel()
    if not done:
        raise Unanswered(Outcome(LATE, OUT_OF_TIME, was_made=False))
    return fetching.result()


def accented(stamp: Stamp, request: ChatRequest, accent: Accent, show_reasoning: bool) -> Relay:
    """Who reads an answer with an accent."""
    if request.stream:
        return AccentedStream(StreamRelay(stamp, request.include_usage), accent, show_reasoning)
    return AccentedWhole(stamp, accent, show_reasoning)


def created() -> int:
    """Seconds since 1970 UTC."""
    return int(time.time())

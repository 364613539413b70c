"""What each upstream would make of a request: what it would not be told, or why it cannot serve it. Nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from waypost.chat import Chat
from waypost.errors import Refusal
from waypost.formats.accented import speak
from waypost.formats.format import Unsupported
from waypost.formats.openai_chat import ChatRequest, Fields
from waypost.formats.openai_request import parse_chat
from waypost.policy.chains import Candidate
from waypost.policy.trail import Lacking
from waypost.worker import media
from waypost.worker.dialect import Dialect
from waypost.worker.needs import check_needs
from waypost.worker.tries import nobody_can
from waypost.worker.upstreams import Upstream

STAND_IN = {
    "image": "data:image/png;base64,AA==",
    "pdf": "data:application/pdf;base64,AA==",
    "audio": "data:audio/wav;base64,AA==",
    "video": "data:video/mp4;base64,AA==",
}
"""For media by URL that would be fetched: of what they are, only the kind matters here."""


class Rehearsed(msgspec.Struct, frozen=True):
    """Fields of the request that one upstream is told otherwise, and those that it is not told."""

    candidate: Candidate
    changed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


class Rehearsal(msgspec.Struct, frozen=True):
    """Those who can serve a request, in their order, and those who cannot. `refusal`: what it would end with, if so."""

    able: list[Rehearsed]
    unable: list[tuple[Candidate, str]]
    refusal: Refusal | None = None


def rehearse(
    candidates: Sequence[Candidate],
    request: ChatRequest,
    requires_parameters: bool,
    complete: Callable[[Chat], Chat] = lambda chat: chat,
) -> Rehearsal:
    """`complete` adds what the client has left out of the conversation."""
    reading = Reading(request, complete)
    found = Rehearsal([], [])
    lacking: list[Lacking] = []
    for candidate in candidates:
        try:
            rehearsed = told(candidate, reading)
            if rehearsed.dropped and requires_parameters:
                raise Unsupported(rehearsed.dropped[0], "it has no such parameter")
        except Unsupported as lacks:
            found.unable.append((candidate, lacks.message))
            lacking.append(Lacking(candidate.lane, lacks.message, lacks.param))
        except Refusal as refusal:  # its format has no words for this request: whoever comes here ends here
            found.unable.append((candidate, refusal.message))
            if not found.able:
                return msgspec.structs.replace(found, refusal=refusal)
        else:
            found.able.append(rehearsed)
    if lacking and not found.able:
        return msgspec.structs.replace(found, refusal=nobody_can(lacking))
    return found


class Reading:
    """A request, read as other formats need it when the first of them is met."""

    def __init__(self, request: ChatRequest, complete: Callable[[Chat], Chat]) -> None:
        self.fields: Fields = request.fields
        self._complete = complete
        self._chat: Chat | None = None

    def chat(self, dialect: Dialect) -> Chat:
        """With stand-ins for media that would be fetched for it. Raises Refusal, Unsupported."""
        if self._chat is None:
            self._chat = self._complete(parse_chat(self.fields))
        chat = self._chat
        if not dialect.speech.fetches_media:
            return chat
        data = {
            url: STAND_IN[modality]
            for message in chat.messages
            if isinstance(message.content, tuple | list)
            for url, modality in map(media.url_of, message.content)
            if url in media.places(chat, dialect.model)
        }
        messages = tuple(media.with_data(message, data) for message in chat.messages)
        return msgspec.structs.replace(chat, messages=messages)


def told(candidate: Candidate, reading: Reading) -> Rehearsed:
    """Raises Unsupported, Refusal."""
    upstream: Upstream = candidate.upstream
    dialect = upstream.dialect
    if dialect is None:
        return Rehearsed(candidate)
    if dialect.format is not None:
        rendered = dialect.format.render_request(reading.chat(dialect), dialect.model)
        return Rehearsed(candidate, (), rendered.dropped)
    check_needs(reading.fields, dialect.model)
    if dialect.accent is None:
        return Rehearsed(candidate)
    spoken = speak(dialect.accent, reading.fields, upstream.model)
    changed = [
        name
        for name, value in reading.fields.items()
        if name not in spoken.dropped and spoken.fields.get(name) is not value
    ]
    return Rehearsed(candidate, tuple(changed), spoken.dropped)

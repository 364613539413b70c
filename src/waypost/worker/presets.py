"""The presets that this worker has seen, and what becomes of a request that names one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from waypost.errors import Refusal
from waypost.formats.openai_chat import ChatRequest, UsedPreset, encode, invalid, read_request
from waypost.messages import AnyMessage, Failed, Identity
from waypost.policy.preset import (
    Body,
    Reference,
    check_foreign,
    choose_model,
    is_slug,
    merge,
    parse_body,
    parse_field,
    parse_reference,
    unknown,
)
from waypost.preset_messages import FindPreset, ForgetPreset, FoundPreset
from waypost.worker.link import Caller, KeeperUnavailable

if TYPE_CHECKING:
    from waypost.worker.upstreams import Snapshot

KNOWN = 2000
KNOWN_BYTES = 32 * 1024 * 1024
UNKNOWN = 5000
FRESH = 60.0
"""Seconds after which the keeper is asked again, if it can be: what changes through another host is not pushed here."""

ATTEMPTS = 3
"""How often one look-up asks again because the preset changed while the answer was on its way."""

Asked = tuple[int, str, int]  # account, name, version
Answer = FoundPreset | Failed | None


class Version(msgspec.Struct, frozen=True):
    """A version of a preset, ready for use; `at` is when the keeper said so. `body` None: there is no such version."""

    found: FoundPreset
    body: Body | None
    at: float


class _Flight:
    """One look-up under way, shared by all requests that wait for it."""

    def __init__(self) -> None:
        self.stale = False
        self.task: asyncio.Task[Version | Failed | None]


class Presets:
    """A bounded cache of what the keeper said of presets, known and unknown apart: no typo pushes out a preset.

    Known presets serve while the keeper is away; those it did not know do not, for one may have been made meanwhile.
    Give `forget` what the link hears. `clock` gives seconds that never go back, `connected` says whether the keeper is
    there.
    """

    def __init__(self, link: Caller, connected: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._link = link
        self._connected = connected
        self._clock = clock
        self._known: dict[Asked, Version] = {}
        self._bytes = 0
        self._unknown: dict[Asked, None] = {}
        self._flights: dict[Asked, _Flight] = {}

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown)

    async def find(self, account: int, name: str, version: int) -> Version | None:
        """What the account may use by this name; None: nothing. Raises Refusal UNAVAILABLE."""
        if is_slug(name) is None or version > 1_000_000:
            return None
        asked = (account, name, version)
        known = self._known.get(asked)
        if known is not None and (self._clock() - known.at < FRESH or not self._connected()):
            return known
        if asked in self._unknown and self._connected():
            return None
        flight = self._flights.get(asked)
        if flight is None:
            flight = self._flights[asked] = _Flight()
            flight.task = asyncio.create_task(self._ask(asked, flight))
        answer = await asyncio.shield(flight.task)  # one caller hanging up must not end it for the others
        if isinstance(answer, Failed):
            if known is not None and asked in self._known:
                return known
            message = "Presets cannot be looked up at this moment; yours may exist, try again."
            raise Refusal("UNAVAILABLE", message, retry_after=1)
        return answer

    def forget(self, news: ForgetPreset | None) -> None:
        """Drop what is known of one preset, or (None) of all. A look-up on its way asks again."""
        if news is None:
            self._known.clear()
            self._unknown.clear()
            self._bytes = 0
            for flight in self._flights.values():
                flight.stale = True
            return

        def is_named(asked: Asked) -> bool:
            return asked[1] == news.id or (asked[0] == news.account and asked[1] in news.slugs)

        for asked in [asked for asked, known in self._known.items() if known.found.id == news.id or is_named(asked)]:
            self._drop(asked)
        for asked in filter(is_named, list(self._unknown)):
            self._drop(asked)
        for asked, flight in self._flights.items():
            flight.stale = flight.stale or is_named(asked)

    async def _ask(self, asked: Asked, flight: _Flight) -> Version | Failed | None:
        try:
            for _ in range(ATTEMPTS):
                flight.stale = False
                answer = parse_answer(await self._link.call(FindPreset(*asked)))
                if not flight.stale:
                    return self._remember(asked, answer)
            return Failed("UNAVAILABLE", "the preset changes faster than it can be asked for")
        except KeeperUnavailable as error:
            return Failed("UNAVAILABLE", str(error))
        finally:
            del self._flights[asked]

    def _remember(self, asked: Asked, answer: Answer) -> Version | Failed | None:
        if isinstance(answer, Failed):
            return answer
        self._drop(asked)
        if answer is None:
            if len(self._unknown) >= UNKNOWN:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[asked] = None
            return None
        if not answer.version:
            return Version(answer, None, 0.0)  # not kept: there is no end of numbers that are none
        version = Version(answer, parse_body(answer.body), self._clock())
        while self._known and (len(self._known) >= KNOWN or self._bytes + len(answer.body) > KNOWN_BYTES):
            self._drop(next(iter(self._known)))
        self._known[asked] = version
        self._bytes += len(answer.body)
        return version

    def _drop(self, asked: Asked) -> None:
        known = self._known.pop(asked, None)
        if known is not None:
            self._bytes -= len(known.found.body)
        self._unknown.pop(asked, None)


def parse_answer(answer: AnyMessage) -> Answer:
    """The keeper's answer to `FindPreset`."""
    if answer is None or isinstance(answer, FoundPreset | Failed):
        return answer
    return Failed("UNAVAILABLE", f"the keeper answered with {type(answer).__name__}")


async def expand(presets: Presets, snapshot: Snapshot, identity: Identity, request: ChatRequest) -> ChatRequest:
    """A request with what its preset adds; itself if it names none.

    Raises Refusal PRESET_NOT_FOUND, INVALID_REQUEST, FORBIDDEN or UNAVAILABLE.
    """
    reference, field = read_reference(snapshot, request)
    if reference is None:
        return request
    if identity.kind != "inference":
        raise Refusal("FORBIDDEN", "A management key (rkm_…) manages and never infers; use an rk_ key.")
    version = await presets.find(identity.account_id, reference.name, reference.version)
    if version is None:
        raise unknown(field)
    found, body = version.found, version.body
    if body is None:
        has = f"has no version {reference.version}; its latest is {found.latest}"
        raise Refusal("PRESET_NOT_FOUND", f"The preset {reference.name!r} {has}.", param=field)
    fields, is_own = request.fields, found.account == identity.account_id
    if not is_own:
        check_foreign(fields)
    model = choose_model(reference, body, request.model if field == "preset" else "")
    if parse_reference(model) is not None and not snapshot.is_named(model):
        raise invalid("model", "names a preset behind a preset; one is the most")
    merged = merge(fields, body, model)
    cache = (body.cache.enabled, body.cache.ttl) if body.cache is not None else None
    shown = msgspec.Raw(encode(found.slug if is_own else found.id))
    written = request.model if field == "model" else f"{request.model}@preset/{reference.name}"
    used = UsedPreset(found.id, found.version, is_own, written, shown, cache)
    return msgspec.structs.replace(read_request(encode(merged), merged), preset=used)


def read_reference(snapshot: Snapshot, request: ChatRequest) -> tuple[Reference | None, str]:
    """The preset that a request names, and the field that does. Names of models go first, whatever they look like."""
    by_field = parse_field(request.fields["preset"]) if "preset" in request.fields else None
    by_model = None if snapshot.is_named(request.model) else parse_reference(request.model)
    if by_field is not None and by_model is not None:
        raise invalid("preset", "`model` names a preset too; write it in one of them")
    return (by_field, "preset") if by_field is not None else (by_model, "model")

"""Who is calling: the credential out of the headers, and the identities this worker has seen."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from waypost.errors import Refusal
from waypost.http.head import Head
from waypost.keys import digest_of, is_well_formed
from waypost.messages import AnyMessage, Failed, Identify, Identity
from waypost.worker.link import KeeperUnavailable, Link

MAX_CREDENTIAL = 8 * 1024

HEADERS: tuple[bytes, ...] = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
"""Every header that a key may come in: OpenAI's, Anthropic's, Azure's and Google's clients each have their own."""

ATTEMPTS = 3
"""How often one look-up asks again because the key changed while the answer was on its way."""

_HOW_TO = "send your key as `Authorization: Bearer rk_…` or `x-api-key: rk_…`"
_Value = TypeVar("_Value")


def credential(head: Head) -> bytes:
    """The key or token that the caller sent.

    Raises `Refusal` AUTHENTICATION_ERROR if there is none, if two headers differ, or if one is over 8 KiB.
    """
    token = b""
    for name in HEADERS if head.has(b"api-key:") else HEADERS[:1]:  # the others' names all end so
        value = head.get(name)
        if value is None:
            continue
        if len(value) > MAX_CREDENTIAL:
            raise Refusal("AUTHENTICATION_ERROR", f"the credential is longer than 8 KiB; {_HOW_TO}")
        if name == b"authorization":
            scheme, _, value = value.partition(b" ")
            if scheme.lower() != b"bearer":
                raise Refusal(
                    "AUTHENTICATION_ERROR", f"the Authorization header is not of the scheme Bearer; {_HOW_TO}"
                )
            value = value.strip()
        if token and value and value != token:
            raise Refusal("AUTHENTICATION_ERROR", f"two headers carry different credentials; {_HOW_TO}, not both")
        token = value or token
    if not token:
        raise Refusal("AUTHENTICATION_ERROR", f"no credential: {_HOW_TO}")
    return token


class _Flight:
    """One look-up under way, shared by everyone who wants the same key."""

    def __init__(self) -> None:
        self.stale = False
        self.task: asyncio.Task[Identity | Failed | None]


class Identities:
    """A bounded cache of what the keeper said of keys, good and bad apart so that garbage pushes out no good key.

    Known identities serve while the keeper is down. Refusals do not: a key may have been created meanwhile, and a
    keeper that is down never turns a good key into a 401. Give `forget` to the link as its `on_forget`.
    """

    def __init__(self, link: Link, capacity: int = 20_000, refused_capacity: int = 5_000) -> None:
        self._link = link
        self._capacity = capacity
        self._refused_capacity = refused_capacity
        self._known: dict[bytes, Identity] = {}
        self._refused: dict[bytes, None] = {}
        self._flights: dict[bytes, _Flight] = {}
        self.look_ups = 0

    def __len__(self) -> int:
        return len(self._known) + len(self._refused)

    def cached(self, token: bytes) -> Identity | None:
        """The identity if it is at hand; None means `look_up`."""
        return self._known.get(digest_of(token))

    def known(self, head: Head) -> Identity | None:
        """The identity of a head's credential if it is at hand; None means `identify`.

        A head that comes again on its connection carries the credential's digest as its note.
        """
        note = head.note
        return self._known.get(note) if type(note) is bytes else None

    async def identify(self, head: Head) -> Identity:
        """Who sends this head. Raises `Refusal` as `credential` and `look_up` do."""
        token = credential(head)
        identity = self.cached(token) or await self.look_up(token)
        head.note = digest_of(token)
        return identity

    async def look_up(self, token: bytes) -> Identity:
        """The identity, from the keeper if need be.

        Raises `Refusal` AUTHENTICATION_ERROR for a token that is malformed, unknown, revoked or of a disabled account,
        in the same words for all; UNAVAILABLE when the keeper or its database cannot say.
        """
        if not is_well_formed(token):
            raise _refusal()
        digest = digest_of(token)
        known = self._known.get(digest)
        if known is not None:
            return known
        if digest in self._refused and self._link.connected:
            raise _refusal()
        flight = self._flights.get(digest)
        if flight is None:
            flight = self._flights[digest] = _Flight()
            flight.task = asyncio.create_task(self._ask(digest, flight))
        answer = await asyncio.shield(flight.task)  # one caller hanging up must not end it for the others
        if isinstance(answer, Identity):
            return answer
        if answer is None:
            raise _refusal()
        raise Refusal(
            "UNAVAILABLE", "keys cannot be checked at this moment; yours may be good, try again", retry_after=1
        )

    def forget(self, digest: bytes | None) -> None:
        """Drop what is known of one key, or of all; a look-up on its way asks again."""
        if digest is None:
            self._known.clear()
            self._refused.clear()
            for flight in self._flights.values():
                flight.stale = True
            return
        self._known.pop(digest, None)
        self._refused.pop(digest, None)
        if digest in self._flights:
            self._flights[digest].stale = True

    async def _ask(self, digest: bytes, flight: _Flight) -> Identity | Failed | None:
        try:
            for _ in range(ATTEMPTS):
                flight.stale = False
                self.look_ups += 1
                answer = _parse_answer(await self._link.call(Identify(digest)))
                if not flight.stale:
                    self._remember(digest, answer)
                    return answer
            return Failed("UNAVAILABLE", "the key changes faster than it can be asked for")
        except KeeperUnavailable as error:
            return Failed("UNAVAILABLE", str(error))
        finally:
            del self._flights[digest]

    def _remember(self, digest: bytes, answer: Identity | Failed | None) -> None:
        if isinstance(answer, Identity):
            _put(self._known, digest, answer, self._capacity)
        elif answer is None:
            _put(self._refused, digest, None, self._refused_capacity)


def _parse_answer(answer: AnyMessage) -> Identity | Failed | None:
    if answer is None or isinstance(answer, Identity | Failed):
        return answer
    return Failed("UNAVAILABLE", f"the keeper answered with {type(answer).__name__}")


def _put(cache: dict[bytes, _Value], digest: bytes, value: _Value, capacity: int) -> None:
    if len(cache) >= capacity and digest not in cache:
        del cache[next(iter(cache))]
    cache[digest] = value


def _refusal() -> Refusal:
    return Refusal("AUTHENTICATION_ERROR", f"the key is not valid here: mistyped, unknown or revoked; {_HOW_TO}")

"""Who is calling: the credential out of the headers, and the identities this worker has seen."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from waypost.config import Config, Jwt
from waypost.errors import Refusal
from waypost.http.head import Head
from waypost.keys import digest_of, is_well_formed
from waypost.messages import AnyMessage, Failed, Identify, Identity, ResolveAccount
from waypost.worker.key_set import KeySet, KeySetUnavailable
from waypost.worker.link import KeeperUnavailable, Link
from waypost.worker.logins import FailedLogins
from waypost.worker.tokens import BadToken, Claims, Tokens

logger = logging.getLogger("waypost.tokens")

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


def has_credential(head: Head) -> bool:
    """Did the caller send anything in a key's place?"""
    return any(head.get(name) is not None for name in HEADERS)


class _Flight:
    """One look-up under way, shared by everyone who wants the same key or token."""

    def __init__(self, question: Identify | ResolveAccount) -> None:
        self.question = question
        self.stale = False
        self.task: asyncio.Task[Identity | Failed | None]


class Identities:
    """A bounded cache of what the keeper said of keys and tokens, good and bad apart: garbage pushes out no good key.

    Known identities serve while the keeper is down. Refusals do not: a key may have been created meanwhile, and a
    keeper that is down never turns a good key into a 401. Give `forget` to the link as its `on_forget`. `clock` gives
    seconds since 1970 UTC.
    """

    def __init__(
        self,
        link: Link,
        capacity: int = 20_000,
        refused_capacity: int = 5_000,
        clock: Callable[[], float] = time.time,
        logins: FailedLogins | None = None,
    ) -> None:
        self._link = link
        self._capacity = capacity
        self._refused_capacity = refused_capacity
        self._clock = clock
        self._logins = logins or FailedLogins()
        self._known: dict[bytes, Identity] = {}
        self._refused: dict[bytes, str] = {}  # to the account's name where it is a token's
        self._flights: dict[bytes, _Flight] = {}
        self._jwt: Jwt | None = None
        self._plans: frozenset[str] = frozenset()
        self._tokens: Tokens | None = None
        self._key_set: KeySet | None = None
        self.look_ups = 0

    def __len__(self) -> int:
        return len(self._known) + len(self._refused)

    def adopt(self, settings: Config, fetcher: Callable[[str], Callable[[], Awaitable[bytes]]]) -> None:
        """Go by this configuration's `[jwt]`; `fetcher` gives what fetches the key set at a URL. Raises ConfigError.

        Where the table or the plans have changed, no token is known any more.
        """
        jwt, plans = settings.jwt, frozenset(settings.plans)
        if jwt == self._jwt and plans == self._plans:
            return
        key_set = self._key_set
        if jwt is None or self._jwt is None or jwt.jwks != self._jwt.jwks:
            key_set = KeySet(fetcher(jwt.jwks), time.monotonic) if jwt is not None and jwt.jwks else None
        self._tokens = Tokens(jwt, plans, key_set) if jwt is not None else None
        if self._key_set is not None and self._key_set is not key_set:
            self._key_set.close()
        self._jwt, self._plans, self._key_set = jwt, plans, key_set
        self._forget_tokens(None)

    def cached(self, token: bytes) -> Identity | None:
        """The identity if it is at hand; None means `look_up`."""
        return self._current(digest_of(token))

    def known(self, head: Head) -> Identity | None:
        """The identity of a head's credential if it is at hand; None means `identify`.

        A head that comes again on its connection carries the credential's digest as its note.
        """
        note = head.note
        return self._current(note) if type(note) is bytes else None

    def _current(self, digest: bytes) -> Identity | None:
        identity = self._known.get(digest)
        if identity is not None and identity.expires_at is not None and identity.expires_at <= self._clock():
            return None
        return identity

    async def identify(self, head: Head, address: str = "") -> Identity:
        """Who sends this head, from this network address.

        Raises `Refusal` as `credential` and `look_up` do; TOO_MANY_FAILED_LOGINS in the place of AUTHENTICATION_ERROR.
        """
        try:
            token = credential(head)
            identity = self.cached(token) or await self.look_up(token)
        except Refusal as refusal:
            if refusal.failure.code == "AUTHENTICATION_ERROR":
                self._logins.add(address)
            raise
        head.note = digest_of(token)
        return identity

    async def look_up(self, token: bytes) -> Identity:
        """The identity, from the keeper if need be.

        Raises `Refusal` AUTHENTICATION_ERROR for a token that is malformed, unknown, revoked, expired or of a disabled
        account, in the same words for all; UNAVAILABLE when the keeper or its database cannot say.
        """
        digest = digest_of(token)
        known = self._known.get(digest)
        if known is not None:
            if known.expires_at is None or known.expires_at > self._clock():
                return known
            if not known.key_id:
                del self._known[digest]  # a token never comes back; a key's time may be changed, and is then pushed
            raise _refusal()
        if is_well_formed(token):
            return await self._join(digest, Identify(digest), None)
        # Three parts with dots between are a token (contract D5); its signature is checked here, once while it lives.
        if self._tokens is None or self._jwt is None or token.count(b".") != 2:
            raise _refusal()
        if digest in self._refused and self._link.connected:
            raise _refusal()
        jwt = self._jwt
        try:
            claims = await self._tokens.check(token, self._clock())
        except BadToken as error:
            logger.debug("a token is refused: %s", error)
            raise _refusal() from None
        except KeySetUnavailable:
            raise _unavailable() from None
        if jwt is not self._jwt:
            raise _unavailable()  # the configuration changed while the key set was fetched
        return await self._join(digest, ResolveAccount(claims.account, claims.plan, jwt.create_accounts), claims)

    async def _join(self, digest: bytes, question: Identify | ResolveAccount, claims: Claims | None) -> Identity:
        """The answer to a question, which many may wait for at once."""
        if digest in self._refused and self._link.connected:
            raise _refusal()
        flight = self._flights.get(digest)
        if flight is None:
            flight = self._flights[digest] = _Flight(question)
            flight.task = asyncio.create_task(self._ask(digest, flight, claims))
        answer = await asyncio.shield(flight.task)  # one caller hanging up must not end it for the others
        if isinstance(answer, Identity):
            if answer.expires_at is not None and answer.expires_at <= self._clock():
                raise _refusal()
            return answer
        raise _refusal() if answer is None else _unavailable()

    def forget(self, what: bytes | str | None) -> None:
        """Drop what is known of one key (its digest), of an account's tokens (its name), or of all.

        A look-up on its way asks again.
        """
        if isinstance(what, str):
            self._forget_tokens(what)
        elif what is None:
            self._known.clear()
            self._refused.clear()
            for flight in self._flights.values():
                flight.stale = True
        else:
            self._known.pop(what, None)
            self._refused.pop(what, None)
            if what in self._flights:
                self._flights[what].stale = True

    def _forget_tokens(self, account: str | None) -> None:
        """Of one account, or of all."""
        for digest, identity in list(self._known.items()):
            if not identity.key_id and account in (None, identity.account):
                del self._known[digest]
        for digest, name in list(self._refused.items()):
            if name and account in (None, name):
                del self._refused[digest]
        for flight in self._flights.values():
            question = flight.question
            if isinstance(question, ResolveAccount) and account in (None, question.name):
                flight.stale = True

    async def _ask(self, digest: bytes, flight: _Flight, claims: Claims | None) -> Identity | Failed | None:
        jwt, plans = self._jwt, self._plans
        try:
            for _ in range(ATTEMPTS):
                flight.stale = False
                self.look_ups += 1
                answer = _parse_answer(await self._link.call(flight.question))
                if claims is not None and (jwt is not self._jwt or plans is not self._plans):
                    return Failed("UNAVAILABLE", "the configuration has changed")
                if claims is not None and isinstance(answer, Identity):
                    answer = msgspec.structs.replace(answer, expires_at=claims.expires_at)
                if not flight.stale:
                    self._remember(digest, answer, claims.account if claims is not None else "")
                    return answer
            return Failed("UNAVAILABLE", "the key changes faster than it can be asked for")
        except KeeperUnavailable as error:
            return Failed("UNAVAILABLE", str(error))
        finally:
            del self._flights[digest]

    def _remember(self, digest: bytes, answer: Identity | Failed | None, account: str) -> None:
        if isinstance(answer, Identity):
            _put(self._known, digest, answer, self._capacity)
        elif answer is None:
            _put(self._refused, digest, account, self._refused_capacity)


def _parse_answer(answer: AnyMessage) -> Identity | Failed | None:
    if answer is None or isinstance(answer, Identity | Failed):
        return answer
    return Failed("UNAVAILABLE", f"the keeper answered with {type(answer).__name__}")


def _put(cache: dict[bytes, _Value], digest: bytes, value: _Value, capacity: int) -> None:
    if len(cache) >= capacity and digest not in cache:
        del cache[next(iter(cache))]
    cache[digest] = value


def _refusal() -> Refusal:
    return Refusal(
        "AUTHENTICATION_ERROR", f"the key is not valid here: mistyped, unknown, expired or revoked; {_HOW_TO}"
    )


def _unavailable() -> Refusal:
    return Refusal("UNAVAILABLE", "keys cannot be checked at this moment; yours may be good, try again", retry_after=1)

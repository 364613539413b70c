"""What a provider wants to see before it answers: a key in a header, a signature, or a token that must be fetched."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import msgspec

from waypost import __version__
from waypost.formats import aws_signature
from waypost.http.call import call
from waypost.http.client import UpstreamFailure
from waypost.http.pool import Names, Pool, Target
from waypost.http.proxy import proxy_for
from waypost.http.timers import Deadlines
from waypost.policy.failures import OUT_OF_TIME

log = logging.getLogger("waypost.credentials")

Headers = tuple[tuple[str, str], ...]

AHEAD_SECONDS: Final = 300.0
"""A token is fetched anew, in the background, when it is good for less than this."""

MARGIN_SECONDS: Final = 10.0
"""A token that is good for less than this is not sent any more."""

RETRY_SECONDS: Final = 10.0
"""After a token could not be fetched, none is asked for again before this; requests fail at once meanwhile."""

FETCH_SECONDS: Final = 10.0
ANSWER_LIMIT: Final = 64 * 1024  # bytes
ASSERTION_SECONDS: Final = 3600
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
TOKEN_URI: Final = "https://oauth2.googleapis.com/token"  # noqa: S105  an address
METADATA_PATH: Final = "/computeMetadata/v1/instance/service-accounts/default/token"


class CredentialsUnavailable(Exception):
    """A token could not be fetched; the message names no secret. `is_late`: the time to wait for it was over."""

    is_late = False


class Credential(Protocol):
    """One of a provider's keys, as the headers of a request."""

    def headers(self, path: str, body: bytes, sent: Headers) -> Headers | None:
        """What to send besides `sent`; None where `fetch` must bring a token first."""

    def fetch(self, seconds: float) -> Awaitable[None]:
        """Raises CredentialsUnavailable, after so many seconds at the latest."""

    def secrets(self) -> tuple[str, ...]:
        """What no answer may carry on."""


class Key:
    """A header that is always the same."""

    def __init__(self, name: str, value: str, secret: str) -> None:
        self._headers = ((name, value),)
        self._secret = secret

    def headers(self, path: str, body: bytes, sent: Headers) -> Headers | None:
        """The header."""
        return self._headers

    async def fetch(self, seconds: float) -> None:
        """It is there."""

    def secrets(self) -> tuple[str, ...]:
        """The key."""
        return (self._secret,)


class AwsKey:
    """An access key that signs every request, or a Bedrock API key."""

    def __init__(self, key: str, host: str, region: str, wall: Callable[[], float] = time.time) -> None:
        """`host` as in the Host header; `wall` in seconds since 1970 UTC."""
        self._key = key
        self._host = host
        self._region = region
        self._wall = wall

    def headers(self, path: str, body: bytes, sent: Headers) -> Headers | None:
        """A signature over all of it."""
        return aws_signature.authorize(self._key, "POST", self._host, path, body, sent, self._region, self._wall())

    async def fetch(self, seconds: float) -> None:
        """It is there."""

    def secrets(self) -> tuple[str, ...]:
        """All but the id of the access key."""
        credentials = aws_signature.parse_key(self._key)
        if isinstance(credentials, str):
            return (credentials,)
        return tuple(filter(None, (credentials.secret, credentials.session)))


# Google's tokens


class Grant(msgspec.Struct, frozen=True):
    """A token endpoint's answer (RFC 6749 §5.1); `expires_in` is in seconds."""

    access_token: str
    expires_in: float = 3600.0


decode_grant = msgspec.json.Decoder(Grant).decode


class ServiceAccount(msgspec.Struct, frozen=True):
    """The file of a service account, as Google Cloud writes it."""

    client_email: str
    private_key: str
    private_key_id: str = ""
    project_id: str = ""
    token_uri: str = TOKEN_URI


def parse_account(text: str) -> ServiceAccount:
    """A service account's file. Raises ValueError, whose words have nothing of it."""
    from jwt.algorithms import RSAAlgorithm  # only now: few need it

    try:
        account = msgspec.json.decode(text, type=ServiceAccount)
    except msgspec.DecodeError:
        raise ValueError("not the file of a service account, with client_email and private_key") from None
    try:
        RSAAlgorithm(RSAAlgorithm.SHA256).prepare_key(account.private_key)
    except Exception:  # whatever a broken key makes the library raise, it may print
        raise ValueError("the private_key of the service account is not an RSA key in PEM") from None
    return account


class Token:
    """A token that is fetched when it is first needed, and again ahead of its end; the same for all requests."""

    def __init__(self, grant: Callable[[], Awaitable[Grant]], clock: Callable[[], float] = time.monotonic) -> None:
        """`grant` raises OSError, ValueError."""
        self._grant = grant
        self._clock = clock
        self._value = ""
        self._ends = 0.0
        self._tried: float | None = None
        self._why = ""
        self._fetching: asyncio.Task[None] | None = None

    def headers(self, path: str, body: bytes, sent: Headers) -> Headers | None:
        """The token, if one is good."""
        left = self._ends - self._clock()
        if left < AHEAD_SECONDS:
            self._begin()
        return (("authorization", f"Bearer {self._value}"),) if left > MARGIN_SECONDS else None

    async def fetch(self, seconds: float) -> None:
        """Wait for a good token. Raises CredentialsUnavailable."""
        self._begin()
        fetching = self._fetching
        if fetching is not None:
            await asyncio.wait({fetching}, timeout=seconds)  # one caller who gives up must not end it for the others
            if not fetching.done():
                late = CredentialsUnavailable(OUT_OF_TIME)
                late.is_late = True
                raise late
        if self._ends - self._clock() <= MARGIN_SECONDS:
            raise CredentialsUnavailable(self._why)

    def secrets(self) -> tuple[str, ...]:
        """The latest."""
        return (self._value,) if self._value else ()

    def _begin(self) -> None:
        now = self._clock()
        is_recent = self._tried is not None and now - self._tried < RETRY_SECONDS
        if self._fetching is None and not is_recent:
            self._tried = now
            self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        try:
            grant = await self._grant()
        except (OSError, ValueError) as error:
            self._why = f"no access token could be fetched: {error}"
            log.warning("%s", self._why)
        else:
            self._value, self._ends, self._tried = grant.access_token, self._clock() + grant.expires_in, None
        finally:
            self._fetching = None


def account_grant(
    account: ServiceAccount, deadlines: Deadlines, names: Names, wall: Callable[[], float] = time.time
) -> Callable[[], Awaitable[Grant]]:
    """Tokens for a service account: a signed assertion for an access token (RFC 7523 §2.1)."""

    async def grant() -> Grant:
        import jwt

        now = int(wall())
        claims = {
            "iss": account.client_email, "scope": SCOPE, "aud": account.token_uri, "iat": now,
            "exp": now + ASSERTION_SECONDS,
        }  # fmt: skip
        headers = {"kid": account.private_key_id} if account.private_key_id else None
        assertion = jwt.encode(claims, account.private_key, algorithm="RS256", headers=headers)
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
        body = urllib.parse.urlencode(form).encode()
        lines = ("content-type: application/x-www-form-urlencoded", f"content-length: {len(body)}")
        return await ask_for_token("POST", account.token_uri, lines, body, deadlines, names)

    return grant


def metadata_grant(
    deadlines: Deadlines, names: Names, environment: Mapping[str, str] = os.environ
) -> Callable[[], Awaitable[Grant]]:
    """Tokens of the machine's own service account; GCE_METADATA_HOST as Google's own libraries have it."""
    url = f"http://{environment.get('GCE_METADATA_HOST') or 'metadata.google.internal'}{METADATA_PATH}"
    return lambda: ask_for_token("GET", url, ("metadata-flavor: Google",), b"", deadlines, names)


async def ask_for_token(
    method: str, url: str, lines: tuple[str, ...], body: bytes, deadlines: Deadlines, names: Names
) -> Grant:
    """One call to a token endpoint. Raises OSError, ValueError."""
    parts = urllib.parse.urlsplit(url)
    host, tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    head = (
        f"{method} {parts.path or '/'} HTTP/1.1",
        f"host: {parts.netloc}",
        "accept: application/json",
        "accept-encoding: identity",
        f"user-agent: waypost/{__version__}",
    )
    request = "\r\n".join((*head, *lines, "", "")).encode("ascii") + body
    pool = Pool(
        Target(host, port, tls=tls, proxy=proxy_for(parts.scheme, host, port) if tls else None), deadlines, names
    )
    try:
        reply = await call(pool, request, limit=ANSWER_LIMIT, connect=FETCH_SECONDS, total=FETCH_SECONDS)
    except UpstreamFailure as failure:
        raise OSError(f"{host}: {failure.message}") from None
    finally:
        pool.close()
    if reply.status != 200:
        raise OSError(f"{host} answered {reply.status}")
    try:
        return decode_grant(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ValueError(f"{host} answered something that is no token") from None

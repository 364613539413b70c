"""A JSON Web Key Set: fetched when it is needed, seldom, and kept while it cannot be fetched again."""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from waypost import __version__
from waypost.http.client import BROKEN, TIMEOUT, ClientConnection, UpstreamFailure
from waypost.http.pool import Names, Pool, Target
from waypost.http.proxy import proxy_for
from waypost.http.timers import Deadlines
from waypost.worker.tokens import fits

log = logging.getLogger("waypost.tokens")

REFRESH_SECONDS: Final = 60.0
"""A set is fetched again at most so often, however many tokens name keys that it does not have."""

RETRY_SECONDS: Final = 10.0
"""The same as long as there is none, when no token at all can be checked."""

FRESH_SECONDS: Final = 600.0
"""A set that is used is fetched again after this, so that a key taken out of it dies."""

FETCH_SECONDS: Final = 5.0
MAX_DOCUMENT: Final = 256 * 1024  # bytes
MAX_KEYS: Final = 100


class KeySetUnavailable(Exception):
    """There are no keys, and none could be fetched: nothing is known of any token."""


class SetKey(msgspec.Struct, frozen=True):
    """A public key; `algorithm` is the only one that its set allows it for, None where any that fits it will do."""

    name: str | None
    algorithm: str | None
    key: Any


class KeySet:
    """The keys at one address. `fetch` gives the document or raises OSError; `clock` is monotonic, in seconds."""

    def __init__(self, fetch: Callable[[], Awaitable[bytes]], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: tuple[SetKey, ...] | None = None
        self._fetched = 0.0
        self._tried: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, name: str | None, algorithm: str) -> Any:
        """The one key of this name that may check this algorithm, None if there is none.

        A token without a name has to do with a set that leaves no choice. Raises KeySetUnavailable.
        """
        if self._keys is None:
            await self._refresh(RETRY_SECONDS)
            if self._keys is None:
                raise KeySetUnavailable("the key set could not be fetched")
        key = self._match(name, algorithm)
        if key is None:
            await self._refresh(REFRESH_SECONDS)
            key = self._match(name, algorithm)
        elif self._clock() - self._fetched >= FRESH_SECONDS:
            self._begin(REFRESH_SECONDS)
        return key

    def close(self) -> None:
        """Give up a fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()

    def _match(self, name: str | None, algorithm: str) -> Any:
        found = [
            each.key
            for each in self._keys or ()
            if name in (None, each.name) and each.algorithm in (None, algorithm) and fits(each.key, algorithm)
        ]
        return found[0] if len(found) == 1 else None

    async def _refresh(self, seconds: float) -> None:
        self._begin(seconds)
        if self._fetching is not None:
            await asyncio.shield(self._fetching)  # one caller hanging up must not end it for the others

    def _begin(self, seconds: float) -> None:
        """Fetch in the background, unless that is under way or was tried less than `seconds` ago."""
        now = self._clock()
        if self._fetching is None and (self._tried is None or now - self._tried >= seconds):
            self._tried = now
            self._fetching = asyncio.create_task(self._fetch_keys())

    async def _fetch_keys(self) -> None:
        try:
            keys = parse_key_set(await self._fetch())
        except (OSError, ValueError) as error:
            held = "; the keys that are there stay" if self._keys is not None else ""
            log.warning("the key set cannot be fetched: %s%s", error, held)
        else:
            self._keys, self._fetched = keys, self._clock()
        finally:
            self._fetching = None


def parse_key_set(document: bytes) -> tuple[SetKey, ...]:
    """The public keys for signatures in a set (RFC 7517 §5); others are left out. Raises ValueError."""
    try:
        entries = msgspec.json.decode(document, type=dict[str, Any])["keys"]
    except (msgspec.DecodeError, KeyError, UnicodeDecodeError, RecursionError):
        raise ValueError("not a JSON Web Key Set") from None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError(f"not a list of at most {MAX_KEYS} keys")
    keys = [key for key in map(_parse_key, entries) if key is not None]
    if not keys:
        raise ValueError("no public key for signatures in it")
    return tuple(keys)


def _parse_key(entry: Any) -> SetKey | None:
    """A key of a set, None where it is not one for us: shared secrets and private keys have no place in public."""
    from jwt import PyJWTError
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

    kinds: dict[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    if not isinstance(entry, dict) or not isinstance(entry.get("kty"), str) or "d" in entry:
        return None
    kind, use, operations = kinds.get(entry["kty"]), entry.get("use", "sig"), entry.get("key_ops", ["verify"])
    if kind is None or use != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    name, algorithm = entry.get("kid"), entry.get("alg")
    if not isinstance(name, str | None) or not isinstance(algorithm, str | None):
        return None
    try:
        return SetKey(name, algorithm, kind.from_jwk(entry))
    except (PyJWTError, ValueError, TypeError, KeyError) as error:
        log.warning("a key of the key set is left out: %s", error)
        return None


# Fetching


class _Document:
    """Receives a small answer."""

    def __init__(self) -> None:
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._body = b""

    def begun(self, status: int, head: bytes) -> None:
        """Redirects are not followed: the configuration names the address."""
        if status != 200:
            self.failed(UpstreamFailure(BROKEN, f"its address answered {status}"))

    def received(self, data: bytes) -> None:
        """Part of it."""
        self._body += data
        if len(self._body) > MAX_DOCUMENT:
            self.failed(UpstreamFailure(BROKEN, f"it is larger than {MAX_DOCUMENT} bytes"))

    def ended(self) -> None:
        """All of it."""
        if not self.done.done():
            self.done.set_result(self._body)

    def failed(self, failure: UpstreamFailure) -> None:
        """None of it."""
        if not self.done.done():
            self.done.set_exception(failure)


def fetcher(url: str, deadlines: Deadlines, names: Names) -> Callable[[], Awaitable[bytes]]:
    """What fetches the document at an http(s) URL, on a connection of its own each time."""
    parts = urllib.parse.urlsplit(url)
    host, tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = (f"GET {path} HTTP/1.1", f"host: {parts.netloc}", "accept: application/json", "accept-encoding: identity")
    request = "\r\n".join((*lines, f"user-agent: waypost/{__version__}", "connection: close", "", "")).encode("ascii")

    pool: Pool | None = None  # made at the first fetch: it reads all authorities of the system

    async def fetch() -> bytes:
        nonlocal pool
        connection: ClientConnection | None = None
        try:
            if pool is None:
                proxy = proxy_for(parts.scheme, host, port) if tls else None
                pool = Pool(Target(host, port, tls=tls, proxy=proxy), deadlines, names)
            async with asyncio.timeout(FETCH_SECONDS):
                connection = await pool.connect(FETCH_SECONDS)
                document = _Document()
                connection.send(request, document)
                return await document.done
        except TimeoutError:
            raise OSError(f"{TIMEOUT}: no answer within {FETCH_SECONDS:g} s") from None
        except (UpstreamFailure, ValueError) as failure:
            raise OSError(str(failure)) from None
        finally:
            if connection is not None:
                connection.abandon()

    return fetch

"""JSON Web Tokens: which are good, and for whose account. PyJWT checks signatures; what is signed is checked here.

PyJWT and the library under it take 60 ms to import, so that is left to the first use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from waypost.config import ConfigError, Jwt
from waypost.messages import is_name

if TYPE_CHECKING:
    from waypost.worker.key_set import KeySet

MAX_TOKEN: Final = 8 * 1024  # bytes
SKEW: Final = 10  # seconds that the clock of whoever made a token may be ahead of ours
LAST_SECOND: Final = 253_402_300_799  # of the year 9999
MIN_RSA_BITS: Final = 2048
FORBIDDEN: Final = ("crit", "b64", "zip", "enc", "jku", "jwk", "x5u", "x5c")
"""Members of a token's header that change what is signed, or bring the key to check it with."""

CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}

_has_shape = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+").fullmatch


class BadToken(Exception):
    """The token is refused. The message is for the log, never for the caller."""


class Claims(msgspec.Struct, frozen=True):
    """What a good token says. `plan` is None where it does not name one; `expires_at` is in seconds since 1970 UTC."""

    account: str
    plan: str | None
    expires_at: int


class Tokens:
    """Checks tokens by one `[jwt]` table. `plans` are the names of all plans; `key_set` goes with `jwks`."""

    def __init__(self, settings: Jwt, plans: Collection[str], key_set: KeySet | None) -> None:
        """Raises ConfigError where the public key is none, or does not fit the algorithms."""
        self._settings = settings
        self._plans = frozenset(plans)
        self._key_set = key_set
        self._key: Any = None
        if settings.secret is not None:
            self._key = settings.secret.reveal().encode()
        elif settings.public_key is not None:
            self._key = load_public_key(settings)
        self._signatures: Any = None

    async def check(self, token: bytes, now: float) -> Claims:
        """Raises BadToken; and KeySetUnavailable where only the key set could tell and there is none yet."""
        parts = _has_shape(token) if len(token) <= MAX_TOKEN else None
        if parts is None:
            raise BadToken("not three parts of base64url in at most 8 KiB")
        algorithm, name = self._parse_header(decode_part(parts[1]))
        key = self._key
        if self._key_set is not None:
            key = await self._key_set.find(name, algorithm)
            if key is None:
                raise BadToken(f"no key {name!r} for {algorithm} in the key set")
        payload = self._verify(token, key, algorithm)
        return self._parse_claims(parse_object(payload), now)

    def _parse_header(self, header: Mapping[str, Any]) -> tuple[str, str | None]:
        """The algorithm and the key's id."""
        algorithm, name = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.algorithms:
            raise BadToken(f"signed with {str(algorithm)[:40]!r}")
        for member in FORBIDDEN:
            if member in header:
                raise BadToken(f"its header has {member}")
        if name is not None and not isinstance(name, str):
            raise BadToken("kid is not a string")
        return algorithm, name

    def _verify(self, token: bytes, key: Any, algorithm: str) -> bytes:
        """The signed payload."""
        import jwt

        if self._signatures is None:
            self._signatures = jwt.PyJWS(
                algorithms=list(self._settings.algorithms), options={"enforce_minimum_key_length": True}
            )
        try:
            payload = self._signatures.decode_complete(token, key, algorithms=[algorithm])["payload"]
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise BadToken(f"{type(error).__name__}: {error}") from None
        assert isinstance(payload, bytes)
        return payload

    def _parse_claims(self, claims: Mapping[str, Any], now: float) -> Claims:
        settings = self._settings
        expires_at = parse_second(claims, "exp")
        if expires_at is None or expires_at <= now:
            raise BadToken("expired, or without exp")
        for name in ("nbf", "iat"):
            if (parse_second(claims, name) or 0) > now + SKEW:
                raise BadToken(f"{name} is in the future")
        if settings.issuer and claims.get("iss") != settings.issuer:
            raise BadToken("of another issuer")
        check_audience(claims.get("aud"), settings.audience)
        account = claims.get(settings.account_claim)
        if not isinstance(account, str) or not is_name(account):
            raise BadToken(f"{settings.account_claim} names no account")
        plan = claims.get(settings.plan_claim) if settings.plan_claim else None
        if plan is not None and (not isinstance(plan, str) or plan not in self._plans):
            raise BadToken(f"{settings.plan_claim} names no plan of the configuration")
        return Claims(account, plan, expires_at)


def check_audience(given: Any, wanted: str) -> None:
    """Raises BadToken: RFC 7519 §4.1.3, where a token for others is not for us, even if we never said who we are."""
    if not wanted and given is None:
        return
    audiences = given if isinstance(given, list) else [given]
    if not wanted or wanted not in audiences:
        raise BadToken("for another audience")


def parse_second(claims: Mapping[str, Any], name: str) -> int | None:
    """A claim that is a time (RFC 7519: it may have a fraction), in whole seconds; None where it is missing.

    Raises BadToken.
    """
    if name not in claims:
        return None
    value = claims[name]
    if type(value) not in (int, float) or not 0 < value <= LAST_SECOND:
        raise BadToken(f"{name} is not a time in seconds")
    return int(value)


def decode_part(part: bytes) -> dict[str, Any]:
    """The JSON object in a base64url part of a token. Raises BadToken."""
    import base64
    import binascii

    try:
        return parse_object(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except binascii.Error:
        raise BadToken("a part is not base64url") from None


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object that says everything once (RFC 7519 §4, RFC 7515 §4). Raises BadToken."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # of text, JSON, a number's length, and ours
        raise BadToken("a part is not JSON, or says something twice") from None
    if not isinstance(value, dict):
        raise BadToken("a part is not a JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("twice the same name")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Keys


def fits(key: Any, algorithm: str) -> bool:
    """Is this a public key for that algorithm, and long enough? An algorithm is never taken from another family."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey):
        return algorithm[:2] in ("RS", "PS") and key.key_size >= MIN_RSA_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return CURVES.get(algorithm) == key.curve.name
    return isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and algorithm == "EdDSA"


def load_public_key(settings: Jwt) -> Any:
    """The key in `public_key`. Raises ConfigError where it is none, or does not fit an algorithm."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    assert settings.public_key is not None
    try:
        key = load_pem_public_key(settings.public_key.reveal().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            "[jwt] public_key: not a public key in PEM; openssl pkey -in KEY -pubout, "
            "or openssl x509 -in CERTIFICATE -pubkey -noout, writes one"
        ) from None
    for algorithm in settings.algorithms:
        if not fits(key, algorithm):
            raise ConfigError(
                f"[jwt] algorithms: {algorithm} does not go with the key in public_key, {describe(key)}; "
                f"RS… and PS… take RSA of {MIN_RSA_BITS} bits or more, ES256 P-256, ES384 P-384, ES512 P-521, "
                "EdDSA Ed25519 or Ed448"
            )
    return key


def describe(key: Any) -> str:
    """What kind of key it is, in a few words."""
    kind = type(key).__name__.removesuffix("PublicKey").lstrip("_")
    detail = getattr(getattr(key, "curve", None), "name", None) or getattr(key, "key_size", "")
    return f"{kind} {detail}".strip()

"""AWS Signature Version 4, and the two kinds of credentials that Bedrock takes.

Ours because the one library that is well kept and signs apart from a client is botocore, which is 13 MB for these
hundred lines. Pure: the time is an argument. Source: AWS's documentation, "Signature Version 4 signing process"
(canonical request, string to sign, signing key), and the test suite published with it.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
import urllib.parse
from collections.abc import Iterable

import msgspec

ALGORITHM = "AWS4-HMAC-SHA256"
UNRESERVED = "-_.~"
# Headers that anything between here and AWS may change.
UNSIGNED = frozenset({"authorization", "connection", "expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"})
SPACES = re.compile(r" +")

Headers = tuple[tuple[str, str], ...]


class Credentials(msgspec.Struct, frozen=True):
    """An access key. `session` is the token of a temporary one."""

    access_key: str
    secret: str
    session: str = ""


def parse_key(key: str) -> Credentials | str:
    """An entry of `keys`: `ACCESS_KEY_ID:SECRET[:SESSION]`, or a Bedrock API key, which has no colon."""
    access_key, colon, rest = key.partition(":")
    if not colon:
        return key
    secret, _, session = rest.partition(":")
    return Credentials(access_key, secret, session)


def authorize(
    key: str,
    method: str,
    host: str,
    path: str,
    body: bytes,
    headers: Iterable[tuple[str, str]],
    region: str,
    now: float,
) -> Headers:
    """The headers that a request to Bedrock needs besides its own: a bearer token, or a signature over all of it.

    `path` is what stands on the request line, with its query; `headers` are sent unchanged; `now` is in seconds since
    1970 UTC and may not differ from AWS's by more than five minutes.
    """
    credentials = parse_key(key)
    if isinstance(credentials, str):
        return (("authorization", f"Bearer {credentials}"),)
    return sign(credentials, method, host, path, body, headers, region, "bedrock", now)


def sign(
    credentials: Credentials, method: str, host: str, path: str, body: bytes, headers: Iterable[tuple[str, str]],
    region: str, service: str, now: float,
) -> Headers:  # fmt: skip
    """`x-amz-date`, `x-amz-security-token` where there is one, and `authorization`. For every service but S3."""
    stamp = datetime.datetime.fromtimestamp(int(now), datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    added = [("x-amz-date", stamp)]
    if credentials.session:
        added.append(("x-amz-security-token", credentials.session))
    named = canonical_headers([("host", host), *headers, *added])
    signed = ";".join(named)
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    request = canonical_request(method, path, named, body)
    to_sign = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = signing_key(credentials.secret, stamp[:8], region, service)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    proof = f"{ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    return (*added, ("authorization", proof))


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key of one day, region and service; `date` is YYYYMMDD."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def canonical_request(method: str, path: str, headers: dict[str, str], body: bytes) -> str:
    """What is signed, in the one spelling that both sides agree on."""
    place, _, query = path.partition("?")
    lines = [method, canonical_path(place), canonical_query(query)]
    lines += [f"{name}:{value}" for name, value in headers.items()]
    return "\n".join([*lines, "", ";".join(headers), hashlib.sha256(body).hexdigest()])


def canonical_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By name, sorted; several of one name are one, runs of spaces are one space."""
    named: dict[str, list[str]] = {}
    for name, value in headers:
        if name.lower() not in UNSIGNED:
            named.setdefault(name.lower(), []).append(SPACES.sub(" ", value.strip()))
    return {name: ",".join(values) for name, values in sorted(named.items())}


def canonical_path(path: str) -> str:
    """Dots and doubled slashes resolved, then encoded once more: what is %3A on the line is signed as %253A."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(urllib.parse.quote(segment, safe=UNRESERVED))
    tail = "/" if kept and path.endswith(("/", "/.", "/..")) else ""
    return "/" + "/".join(kept) + tail


def canonical_query(query: str) -> str:
    """Sorted by name, then value, both as encoded."""
    pairs = []
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        pairs.append((encoded(name), encoded(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def encoded(text: str) -> str:
    """A name or value of a query, in AWS's own encoding whatever it came in."""
    return urllib.parse.quote(urllib.parse.unquote(text), safe=UNRESERVED)

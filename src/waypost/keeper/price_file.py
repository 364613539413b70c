"""The price list of the data folder: newer than the one that is installed, and used in its place.

Both are genai-prices' own. A file of the folder holds for the version of the package that it was fetched beside: a
later version brings a list of its own, which is the newer one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request
from decimal import Decimal
from typing import Any, Final

import msgspec

LARGEST: Final = 32 * 1024 * 1024
"""Bytes of a list: today's has some two million."""

SECONDS: Final = 30.0
"""For fetching one, between two reads of it."""


class PriceListError(ValueError):
    """A list cannot be had, or is none; the message says why."""


class Stored(msgspec.Struct, frozen=True):
    """What stands in the folder: when it was fetched (ISO 8601, UTC), beside which version, whence, and the list."""

    fetched: str
    package: str
    source: str
    providers: msgspec.Raw

    @property
    def label(self) -> str:
        """What receipts and listings call it: its day, and the beginning of its hash."""
        return f"genai-prices {self.fetched[:10]} {hashlib.sha256(self.providers).hexdigest()[:8]}"


def installed() -> str:
    """The version of the package."""
    return importlib.metadata.version("genai-prices")


def path_of(data: pathlib.Path) -> pathlib.Path:
    """Where the folder's list is."""
    return data / "prices.json"


def stamp_of(data: pathlib.Path) -> str:
    """Changes with the file; "" where there is none."""
    try:
        found = path_of(data).stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns}-{found.st_ino}"


def read(data: pathlib.Path) -> Stored | None:
    """The folder's list, None where it has none, or one of another version's time. Raises PriceListError."""
    path = path_of(data)
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=Stored)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise PriceListError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return stored if stored.package == installed() else None


def write(data: pathlib.Path, stored: Stored) -> None:
    """Put a list into the folder, whole or not at all. Raises PriceListError."""
    path = path_of(data)
    try:
        os.makedirs(data, mode=0o700, exist_ok=True)
        new = path.with_name("prices.new")
        new.write_bytes(msgspec.json.encode(stored))
        new.chmod(0o600)
        new.rename(path)
    except OSError as error:
        raise PriceListError(f"{path}: {error.strerror}") from None


def fetch(source: str) -> bytes:
    """A list's JSON from a file, or from https:// (http:// on this machine). Raises PriceListError."""
    if re.match(r"[a-z]+://", source) is None:
        try:
            return pathlib.Path(source).read_bytes()
        except OSError as error:
            raise PriceListError(f"{source}: {error.strerror}") from None
    url = urllib.parse.urlsplit(source)
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in ("localhost", "127.0.0.1", "::1")):
        raise PriceListError(f"{source}: a list is fetched by https://, or read from a file")
    try:
        with urllib.request.urlopen(source, timeout=SECONDS) as response:  # noqa: S310  the scheme has been looked at
            body: bytes = response.read(LARGEST + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise PriceListError(f"{source}: {getattr(error, 'reason', None) or error}") from None
    if len(body) > LARGEST:
        raise PriceListError(f"{source}: more than {LARGEST >> 20} MiB, which no price list has")
    return body


def parse(body: bytes) -> list[Any]:
    """A list's JSON → its providers, as the package has them; takes some tenths of a second. Raises PriceListError.

    What cannot be reckoned with is refused as a whole: a price below zero, a provider without models.
    """
    from genai_prices import types

    try:
        providers: list[Any] = types._providers_from_raw(msgspec.json.decode(body))  # as UpdatePrices itself does
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
        lines = str(error).splitlines()
        raise PriceListError(f"not a price list of genai-prices: {' '.join(lines[:3])[:300]}") from None
    if not any(provider.models for provider in providers):
        raise PriceListError("a price list without models")
    for provider in providers:
        for model in provider.models:
            for amount in amounts(model):
                if not amount.is_finite() or amount < 0:
                    raise PriceListError(f"{provider.id}/{model.id} costs {amount}")
    return providers


def amounts(model: Any) -> list[Decimal]:
    """Every price of a model, at whatever time."""
    conditional = model.prices if isinstance(model.prices, list) else [model]
    found: list[Decimal] = []
    for each in conditional:
        for price in vars(each.prices).values():
            if price is not None:
                found += [getattr(price, "base", price), *(tier.price for tier in getattr(price, "tiers", ()))]
    return found

"""What texts of a configuration are addresses of a kind: each function says yes or no, and prints nothing."""

from __future__ import annotations

import re
import urllib.parse


def is_store(text: str, schemes: tuple[str, ...]) -> bool:
    """`scheme://[user[:password]@][host][:port]/…`: is it one of these schemes, with a port that is one?"""
    scheme, separator, _ = text.partition("://")
    try:
        parts = urllib.parse.urlsplit(text)
        return bool(separator) and scheme in schemes and parts.port != 0 and bool(parts.netloc or parts.query)
    except ValueError:
        return False


def is_base_url(text: str) -> bool:
    """`http(s)://host[:port][/path]` in printable ASCII, without a user, a query or a fragment."""
    if not re.fullmatch(r"https?://[!-~]+", text) or re.search(r"[?#@\\]", text):
        return False
    try:
        url = urllib.parse.urlsplit(text)
        return bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def is_jwks(text: str) -> bool:
    """`https://host[:port]/path`, or `http://` where nothing leaves this machine."""
    if not re.fullmatch(r"https?://[!-~]+", text) or re.search(r"[#@\\]", text):
        return False
    try:
        url = urllib.parse.urlsplit(text)
        if not url.hostname or url.port == 0:
            return False
    except ValueError:
        return False
    return url.scheme == "https" or re.fullmatch(r"localhost|127(\.[0-9]{1,3}){3}|::1", url.hostname) is not None

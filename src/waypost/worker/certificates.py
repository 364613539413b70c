"""The PEM files that a configuration names, tried before anything is served with them."""

from __future__ import annotations

import ssl

from waypost import config
from waypost.http import pool


def listener_context(tls: config.TLS | None) -> ssl.SSLContext | None:
    """The listener's context. Raises config.ConfigError naming the file at fault."""
    if tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    check_certificates("[server] tls: certificate", tls.certificate)
    check_readable("[server] tls: key", tls.key)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")  # or OpenSSL would ask at the terminal
    except ssl.SSLError as error:
        why = "no PEM private key, or one under a password"
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"not the key of the certificate in {tls.certificate}"
        raise config.ConfigError(f"[server] tls: key: {tls.key}: {why}") from None
    return context


def check_authorities(provider: str, ca: str) -> None:
    """A provider's `ca` is empty or a file of certificates. Raises config.ConfigError."""
    if ca:
        check_certificates(f"[providers.{config.quoted(provider)}] ca", ca)


def check_certificates(where: str, path: str) -> None:
    """Raises config.ConfigError unless the file has at least one certificate."""
    check_readable(where, path)
    try:
        pool.tls_context(path)
    except ssl.SSLError:
        raise config.ConfigError(f"{where}: {path}: no PEM certificate in it") from None


def check_readable(where: str, path: str) -> None:
    """Raises config.ConfigError unless the file can be read; OpenSSL's own errors name no file."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise config.ConfigError(f"{where}: {path}: {error.strerror}") from None

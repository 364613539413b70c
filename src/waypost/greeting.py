"""What `waypost serve` prints once it serves: the address, and without a configuration a key and a line to try."""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
import ssl
import sys
import time

from waypost.config import Config

PATIENCE = 15.0  # seconds until the server must answer
PAUSE = 0.03  # seconds between two looks
LOOK = 2.0  # seconds that one look may take


class Greeting:
    """Printed by a process of its own, since only a running keeper can make a key."""

    def __init__(self, folder: pathlib.Path, settings: Config, address: str, fresh: bool, options: str) -> None:
        """`fresh`: there is no configuration, so make a key and show how to use it.

        `options` are those by which other commands find this server.
        """
        self._folder = folder
        self._settings = settings
        self._address = address
        self._fresh = fresh
        self._options = options

    def send(self) -> None:
        """Fork, wait until it serves, print, end."""
        parent = os.getpid()
        if os.fork() != 0:
            return
        code = 1
        try:
            if self._wait_until_ready(parent):
                asyncio.run(self._print())
                code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _wait_until_ready(self, parent: int) -> bool:
        """What is printed may be pasted at once. False where the server has ended or is not ready in time."""
        deadline = time.monotonic() + PATIENCE
        while not is_ready(self._address):
            if os.getppid() != parent:
                return False
            if time.monotonic() > deadline:
                print(f"waypost: not ready after {PATIENCE:g} s; GET /readyz says why", file=sys.stderr)
                return False
            time.sleep(PAUSE)
        return True

    async def _print(self) -> None:
        from waypost.keeper.direct import administer
        from waypost.messages import CreatedKey, CreateKey

        count = len(self._settings.models)
        print(f"Waypost serves {count} model{'' if count == 1 else 's'} at {self._address}", flush=True)
        if not self._fresh:
            print(f"  a key: waypost keys create --account NAME --plan PLAN{self._options}")
            return
        reply = await administer(self._folder, self._settings, CreateKey("demo", None, "waypost serve"))
        if not isinstance(reply, CreatedKey):
            print(f"waypost: no key could be made: {getattr(reply, 'message', reply)}", file=sys.stderr)
            return
        providers = [name for name in self._settings.providers if name != "simulator"]
        print(f"  key:       {reply.key}")
        print(f"  providers: {', '.join(providers) or 'none'}; route/demo is a simulator, no model answers there")
        print("  try:")
        print(
            f"""curl {self._address}/chat/completions -H 'Authorization: Bearer {reply.key}' \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "route/demo", "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'"""
        )


def is_ready(address: str) -> bool:
    """Does `GET /readyz` answer 200 at an address of `address_of`?"""
    try:
        with connected(address) as sock:
            sock.sendall(b"GET /readyz HTTP/1.1\r\nhost: waypost\r\nconnection: close\r\n\r\n")
            return sock.makefile("rb").readline().startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def connected(address: str) -> socket.socket:
    """A connection to our own listener, over TLS where it speaks that. Raises OSError."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(LOOK)
        sock.connect(address.removeprefix("unix:"))
        return sock
    scheme, _, host = address.removesuffix("/v1").partition("://")
    name, _, port = host.rpartition(":")
    sock = socket.create_connection((name.strip("[]"), int(port)), LOOK)
    if scheme == "http":
        return sock
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # no name is known that the certificate is for, and nothing secret is said
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


def address_of(sock: socket.socket, settings: Config) -> str:
    """The base URL that a client is given."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{'https' if settings.server.tls else 'http'}://{shown}:{port}/v1"

"""What `waypost serve` prints once it serves: the address, and without a configuration a key and a line to try."""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
import sys
import time
from collections.abc import Callable

from waypost.config import Config

PATIENCE = 15.0  # seconds until the server must answer


class Greeting:
    """Printed by a process of its own, since only a running keeper can make a key."""

    def __init__(
        self, folder: pathlib.Path, settings: Config, address: str, clock: Callable[[], float], fresh: bool
    ) -> None:
        """`fresh`: there is no configuration, so make a key and show how to use it."""
        self._folder = folder
        self._settings = settings
        self._address = address
        self._fresh = fresh

    def send(self) -> None:
        """Fork, wait for the keeper, print, end."""
        if os.fork() != 0:
            return
        code = 1
        try:
            asyncio.run(self._print())
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)

    async def _print(self) -> None:
        from waypost.keeper.direct import administer
        from waypost.link import CreatedKey, CreateKey, socket_path

        deadline = time.monotonic() + PATIENCE
        while not socket_path(self._folder).exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        count = len(self._settings.models)
        print(f"Waypost serves {count} model{'' if count == 1 else 's'} at {self._address}", flush=True)
        for name, plan in self._settings.plans.items():
            if plan.limits:
                print(f"  note: plan {name}: {', '.join(plan.limits)} are read but not yet enforced by this version")
        if not self._fresh:
            print("  a key: waypost keys create --account NAME --plan PLAN")
            return
        reply = await administer(self._folder, list(self._settings.plans), CreateKey("demo", None, "waypost serve"))
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


def address_of(sock: socket.socket, settings: Config) -> str:
    """The base URL that a client is given."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{'https' if settings.server.tls else 'http'}://{shown}:{port}/v1"

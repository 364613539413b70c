"""One try at one upstream, through a whole server: what the caller hears while it waits."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.harness import provider, serving
from tests.http.upstream import Asked, upstream
from tests.worker.test_hedging import END, HEAD, ROLE, chunk, event, words

WAITING = b": waypost is waiting for the model\n\n"


@pytest.mark.parametrize("piece", [chunk(b": keep-alive\n\n"), event({"role": "assistant"})], ids=["comments", "roles"])
def test_what_says_nothing_does_not_keep_the_caller_waiting_in_silence(piece: bytes) -> None:
    """DeepSeek and OpenRouter send comments while they wait, which are not passed on; ours are sent all the same."""
    is_heard = threading.Event()

    def murmurs(sock: socket.socket, _: Asked) -> bool:
        sock.sendall(HEAD)
        while not is_heard.wait(0.5):
            sock.sendall(piece)
        sock.sendall(ROLE.removeprefix(HEAD) + words("said") + END)
        return True

    with upstream() as murmuring:
        murmuring.scripts["m"] = murmurs
        with (
            serving("[server]\nkeepalive = 1\n" + provider("u", murmuring.base())) as server,
            server.connect() as client,
        ):
            client.send(server.chat("u/m", stream=True))
            for _ in range(2):
                client.until(WAITING)
            is_heard.set()
            assert b'"said"' in client.until(b"data: [DONE]\n\n")

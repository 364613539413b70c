"""A simulator in a process of its own, and a client that sees every byte."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from waypost.sim.journal import Exchange, read_journal

DEADLINE = 20.0


class Running:
    def __init__(self, address: str, journal: pathlib.Path, process: subprocess.Popen[str]) -> None:
        self.address = address
        self.base = f"{address}/v1"
        self.journal = journal
        self.process = process
        host, _, port = address.removeprefix("http://").rpartition(":")
        self.host, self.port = host, int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), DEADLINE)

    def ask(self, model: str, *, stream: bool = False, asked: str = "Hello there", **fields: Any) -> Answered:
        """One request on a connection of its own, read until the simulator ends it or the answer is whole."""
        with self.connect() as client:
            client.sendall(request(model, stream=stream, asked=asked, **fields))
            return read_to_end(client)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=DEADLINE) as response:
            return json.load(response)

    def exchange(self, mark: str) -> Exchange:
        """The journal's exchange whose question held `mark`."""
        return next(e for e in read_journal(self.journal) if e.nonce == mark)

    def ended(self, mark: str, end: str) -> Exchange:
        """The same, once it has ended like this."""
        wait_until(lambda: self.exchange(mark).end == end, f"{mark} to end with {end}")
        return self.exchange(mark)


class Answered:
    def __init__(self, data: bytes, end: str) -> None:
        self.data = data
        self.end = end
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.status_line, *self.headers = head.split(b"\r\n")

    def values(self, name: bytes) -> list[bytes]:
        return [value.strip() for key, _, value in (h.partition(b":") for h in self.headers) if key.lower() == name]

    @property
    def payload(self) -> bytes:
        """The body out of its chunks, as far as they are whole; a body with a length as it is."""
        if b"chunked" not in self.values(b"transfer-encoding"):
            return self.body
        out, rest = b"", self.body
        while match := re.match(rb"([0-9a-f]+)\r\n", rest):
            size = int(match.group(1), 16)
            out += rest[match.end() :][:size]
            rest = rest[match.end() + size + 2 :]
        return out

    @property
    def events(self) -> list[bytes]:
        return [event for event in self.payload.split(b"\n\n") if event]


def request(
    model: str, *, stream: bool = False, asked: str = "Hello there", prefix: str = "/v1", **fields: Any
) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": asked}], **fields}
    if stream:
        body["stream"] = True
    data = json.dumps(body).encode()
    head = f"POST {prefix}/chat/completions HTTP/1.1\r\nhost: sim\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def read_to_end(client: socket.socket) -> Answered:
    """Read until end of file, a reset, or a soundly framed answer's last byte."""
    data = b""
    while not whole(data):
        try:
            piece = client.recv(1 << 20)
        except ConnectionResetError:
            return Answered(data, "reset")
        if not piece:
            return Answered(data, "eof")
        data += piece
    return Answered(data, "kept")


def whole(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator or b"\r\nconnection: close" in head:
        return False
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"\r\n0\r\n\r\n")
    lengths = re.findall(rb"\r\ncontent-length: (\d+)", head)
    return len(lengths) == 1 and len(body) >= int(lengths[0])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


@contextlib.contextmanager
def running(journal: pathlib.Path) -> Iterator[Running]:
    command = [sys.executable, "-m", "waypost.sim", "--listen", "127.0.0.1:0", "--journal", str(journal)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line.startswith("listening on http://127.0.0.1:"), line
            yield Running(line.removeprefix("listening on ").strip(), journal, process)
        finally:
            process.terminate()
            process.wait(DEADLINE)

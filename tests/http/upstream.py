"""A tiny upstream that sends exactly the bytes it is told to, by the request's model; TLS and UNIX sockets as well."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import msgspec


class Asked(msgspec.Struct):
    """A request as it came: the connection it came on (from 1), and which one on that it was (from 1)."""

    connection: int
    turn: int
    model: str
    head: bytes
    body: bytes

    @property
    def question(self) -> str:
        return str(json.loads(self.body)["messages"][-1]["content"])


Script = Callable[[socket.socket, Asked], bool]  # sends the answer; True keeps the connection


def completion(text: str, model: str = "scripted") -> bytes:
    """The JSON of a sound answer."""
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    ).encode()


def response(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """A sound response with a length."""
    head = b"".join(line + b"\r\n" for line in (b"content-type: application/json", *lines))
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, head, len(body), body)


def plays(*pieces: bytes, keep: bool = True) -> Script:
    """A script that sends the same bytes to everyone."""

    def script(sock: socket.socket, asked: Asked) -> bool:
        for piece in pieces:
            sock.sendall(piece)
        return keep

    return script


def echo(sock: socket.socket, asked: Asked) -> bool:
    """The script of a healthy upstream: repeats the question."""
    sock.sendall(response(completion(asked.question)))
    return True


class Upstream:
    """Answers each request with the script of its model, `echo` where there is none."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self.scripts: dict[str, Script] = {}
        self.asked: list[Asked] = []
        self.accepted = 0
        self._listener = listener
        self._tls = tls
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def base(self, host: str = "127.0.0.1") -> str:
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}/v1"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.accepted += 1
            threading.Thread(target=self._serve, args=(sock, self.accepted), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            if self._tls is not None:
                sock = stack.enter_context(self._tls.wrap_socket(sock, server_side=True))
            sock.settimeout(60)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(sock)
            stack.callback(self._open.discard, sock)
            turn = 0
            while asked := read_request(sock, number, turn := turn + 1):
                self.asked.append(asked)
                if not self.scripts.get(asked.model, echo)(sock, asked):
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def read_request(sock: socket.socket, number: int, turn: int) -> Asked | None:
    """The next request with its whole body; None at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    match = re.search(rb"(?i)content-length: (\d+)", head)
    size = int(match[1]) if match else 0
    while len(body) < size:
        piece = sock.recv(65536)
        if not piece:
            return None
        body += piece
    return Asked(number, turn, json.loads(body)["model"], head, body)


@contextlib.contextmanager
def upstream(tls: ssl.SSLContext | None = None) -> Iterator[Upstream]:
    """An upstream on a loopback port of its own."""
    running = Upstream(socket.create_server(("127.0.0.1", 0), backlog=512), tls)
    try:
        yield running
    finally:
        running.close()

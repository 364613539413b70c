"""An upstream of any format that answers as told and remembers every request: path, headers, JSON."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tests.harness import DEADLINE


class Asked(msgspec.Struct):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Said(msgspec.Struct):
    """One answer; `gate`: after `pause` bytes of the body it waits until the gate is opened.

    `is_cut`: the connection ends before the length that was announced.
    """

    body: bytes
    status: int = 200
    type: str = "application/json"
    headers: tuple[str, ...] = ()
    pause: int = 0
    gate: threading.Event | None = None
    is_cut: bool = False


Teller = Callable[[Asked], Said]


def said(value: Any, status: int = 200, *headers: str) -> Said:
    return Said(json.dumps(value).encode(), status, headers=headers)


class Vendor:
    """Serves on a loopback port; `tell` is asked for every answer."""

    def __init__(self, tell: Teller) -> None:
        self.tell = tell
        self.asked: list[Asked] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self.root = f"http://127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        self._open.add(sock)
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as stream:
            while line := stream.readline():
                method, path, _ = line.decode("latin-1").split(" ", 2)
                headers: dict[str, str] = {}
                while (header := stream.readline().strip()) != b"":
                    name, _, value = header.decode("latin-1").partition(":")
                    headers[name.lower()] = value.strip()
                asked = Asked(method, path, headers, stream.read(int(headers.get("content-length", 0))))
                self.asked.append(asked)
                answer = self.tell(asked)
                lines = [f"HTTP/1.1 {answer.status} Whatever", f"content-type: {answer.type}", *answer.headers]
                length = len(answer.body) + answer.is_cut
                head = "\r\n".join([*lines, f"content-length: {length}", "", ""]).encode()
                if answer.gate is not None:
                    sock.sendall(head + answer.body[: answer.pause])
                    answer.gate.wait(DEADLINE)
                    sock.sendall(answer.body[answer.pause :])
                else:
                    sock.sendall(head + answer.body)
                if answer.is_cut:
                    return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def vending(tell: Teller) -> Iterator[Vendor]:
    vendor = Vendor(tell)
    try:
        yield vendor
    finally:
        vendor.close()


# Answers in Anthropic's words: the shortest that are whole


def message(*content: Any, stop: str = "end_turn", usage: Any = None) -> Any:
    """A whole message of these blocks; a text stands for a block of text."""
    blocks = [{"type": "text", "text": block} if isinstance(block, str) else block for block in content]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": blocks,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage or {"input_tokens": 11, "output_tokens": 7},
    }


def events(*frames: Any) -> Said:
    """Server-sent events as Anthropic names them."""
    body = "".join(f"event: {frame['type']}\ndata: {json.dumps(frame)}\n\n" for frame in frames)
    return Said(body.encode(), type="text/event-stream")


def text_frames(*texts: str, stop: str = "end_turn") -> list[Any]:
    """A whole stream of text."""
    start = {**message(), "content": [], "stop_reason": None, "usage": {"input_tokens": 11, "output_tokens": 1}}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts
    ]
    return [
        {"type": "message_start", "message": start},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": {"output_tokens": 7},
        },
        {"type": "message_stop"},
    ]

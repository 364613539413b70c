"""The real `waypost serve` in processes of its own, and a client that sees every byte.

    with serving(config_text) as waypost:                     # a fresh folder, a port from the kernel, one worker
        with waypost.connect() as client:
            client.send(waypost.chat("sim/demo", "nonce:a1"))
            assert client.answer().status == 200

`tests/conftest.py` has session-wide fixtures on top: `simulator` and `waypost`. Whoever changes the state of a server
(signals, limits, reloads) starts one of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from waypost.config import Config, Plan, Secret, Store
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey

DEADLINE = 30.0  # seconds until a wait is in vain: generous, no test is decided by it


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Poll until the condition holds; AssertionError naming `what` if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def provider(name: str, base_url: str, **settings: str) -> str:
    """A `[providers.NAME]` table with one key; `settings` are TOML values as text."""
    lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
    return f'[providers.{name}]\nbase_url = "{base_url}"\nkeys = ["upstream-secret"]\n{lines}\n'


# The bytes of HTTP/1.1


class Answer(msgspec.Struct):
    """One response: `headers` in order with names in lower case, `body` out of its chunks, `raw` as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    raw: bytes

    def header(self, name: str) -> str | None:
        """A header's value, None if it is missing; AssertionError if it is there twice."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def code(self) -> str | None:
        """The `X-Error-Code`."""
        return self.header("x-error-code")

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """What the model said, streamed or not."""
        if (self.header("content-type") or "").startswith("application/json"):
            return str(self.json["choices"][0]["message"]["content"])
        return "".join(
            choice["delta"].get("content") or "" for chunk in self.chunks for choice in chunk.get("choices", [])
        )

    @property
    def events(self) -> list[bytes]:
        """The data of a stream's events, comments left out; AssertionError if it ends inside of one."""
        assert self.body.endswith(b"\n\n"), self.body[-200:]
        events = self.body.split(b"\n\n")[:-1]
        return [event.removeprefix(b"data: ") for event in events if not event.startswith(b":")]

    @property
    def chunks(self) -> list[Any]:
        """A stream's JSON events."""
        return [json.loads(event) for event in self.events if event != b"[DONE]"]


class Client:
    """A connection to a server: sends bytes as they are, reads one answer after the other."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(DEADLINE)
        self.sock = sock
        self.unread = b""
        self.ended = False  # the other side has closed

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes; a server that has closed already is no error here, its answer is still read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            self.sock.sendall(data)

    def receive(self) -> bool:
        """Read some bytes into `unread`; False once the other side has closed. TimeoutError is a hang."""
        if self.ended:
            return False
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        self.unread += data
        self.ended = not data
        return not self.ended

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`; AssertionError if the connection ends before."""
        while mark not in self.unread:
            assert self.receive(), f"closed before {mark!r}: {self.unread[-500:]!r}"
        before, _, self.unread = self.unread.partition(mark)
        return before + mark

    def answer(self, *, to_head: bool = False) -> Answer:
        """The next response, a 1xx too. AssertionError if the connection ends inside of it."""
        head = self.until(b"\r\n\r\n")
        status_line, *lines = head[:-4].decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", status_line)
        assert match, status_line
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        answer = Answer(int(match[1]), pairs, b"", head)
        if not to_head and answer.status >= 200:
            self._read_body(answer)
        return answer

    def _read_body(self, answer: Answer) -> None:
        length = answer.header("content-length")
        if answer.header("transfer-encoding") == "chunked":
            assert length is None
            size = -1
            while size:
                line = self.until(b"\r\n")
                size = int(line, 16)
                data = self._exactly(size + 2)
                assert data.endswith(b"\r\n")
                answer.body += data[:-2]
                answer.raw += line + data
        elif length is not None:
            answer.body = self._exactly(int(length))
            answer.raw += answer.body
        else:
            while self.receive():
                pass
            answer.body, self.unread = self.unread, b""
            answer.raw += answer.body

    def _exactly(self, count: int) -> bytes:
        while len(self.unread) < count:
            assert self.receive(), f"closed {count - len(self.unread)} bytes before the end: {self.unread[-500:]!r}"
        data, self.unread = self.unread[:count], self.unread[count:]
        return data

    def closed(self) -> bool:
        """True once the other side has closed without sending anything more; waits for either."""
        while not self.unread and self.receive():
            pass
        return not self.unread


def post(path: str, body: bytes, *headers: str, host: str = "waypost") -> bytes:
    """A POST with a Content-Length; `headers` are whole lines."""
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chat_body(model: str, asked: str, **fields: Any) -> bytes:
    """A chat completion request's JSON with one user message."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": asked}], **fields}).encode()


# The server


class Waypost:
    """A running `waypost serve`; `key` is good for every model."""

    def __init__(self, folder: pathlib.Path, process: subprocess.Popen[bytes], address: str) -> None:
        self.folder = folder
        self.process = process
        self.base = address  # as an SDK takes it: http://127.0.0.1:PORT/v1, or unix:PATH/v1
        self.key = ""
        self.log = folder / "log"

    def connect(self, tls: ssl.SSLContext | None = None) -> Client:
        """A client on a new connection; with TLS, to `localhost`."""
        if self.base.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.base.removeprefix("unix:").removesuffix("/v1"))
        else:
            host, _, port = self.base.split("/")[2].rpartition(":")
            sock = socket.create_connection((host, int(port)), DEADLINE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Client(tls.wrap_socket(sock, server_hostname="localhost") if tls is not None else sock)

    def chat(self, model: str, asked: str = "Hello", *headers: str, **fields: Any) -> bytes:
        """The bytes of one good chat request."""
        return post("/v1/chat/completions", chat_body(model, asked, **fields), *self.credentials, *headers)

    @property
    def credentials(self) -> tuple[str, str]:
        """Header lines: our key, and the wish for JSON errors."""
        return (f"authorization: Bearer {self.key}", "accept: application/json")

    def ask(self, model: str, asked: str = "Hello", **fields: Any) -> Answer:
        """One request on a connection of its own."""
        with self.connect() as client:
            client.send(self.chat(model, asked, **fields))
            return client.answer()

    @property
    def workers(self) -> list[int]:
        """The workers' pids, in the order in which they were started."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as children:
            return [int(pid) for pid in children.read().split()[1:]]  # the first is the keeper

    def descriptors(self) -> int:
        """How many descriptors the (first) worker has open."""
        return len(os.listdir(f"/proc/{self.workers[0]}/fd"))

    def memory(self) -> int:
        """Resident bytes of the (first) worker."""
        with open(f"/proc/{self.workers[0]}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def serving(
    config: str | None, *, listen: str = "127.0.0.1:0", workers: int = 1, environment: Mapping[str, str] | None = None
) -> Iterator[Waypost]:
    """Serve a configuration (TOML text), or without one, in a folder of its own until the block ends.

    `listen` as on the command line, where `unix:PATH` may be relative to that folder. Standard error is in `log`.
    """
    with tempfile.TemporaryDirectory(prefix="waypost-") as name:
        folder = pathlib.Path(name)
        if config is not None:
            (folder / "waypost.toml").write_text(config)
        if listen.startswith("unix:"):
            listen = f"unix:{folder / listen.removeprefix('unix:')}"
        command = [str(pathlib.Path(sys.executable).with_name("waypost")), "serve"]
        command += ["--data", str(folder / "data"), "--listen", listen, "--workers", str(workers)]
        command += ["--config", str(folder / "waypost.toml")] if config is not None else []
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **(environment or {})}
            )
        try:
            yield started(folder, process, config or "")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(DEADLINE)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGTERM)  # a second one ends the drain
                    process.wait(DEADLINE)
            assert process.stdout is not None
            process.stdout.close()


def started(folder: pathlib.Path, process: subprocess.Popen[bytes], config: str) -> Waypost:
    """The address from standard output, a key from the keeper, and /readyz from every worker."""
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    assert line.startswith("Waypost serves"), line + (folder / "log").read_text()
    threading.Thread(target=process.stdout.read, daemon=True).start()  # so that it never blocks on a full pipe
    waypost = Waypost(folder, process, line.split(" at ")[1].strip())
    settings = settings_of(config)
    created = asyncio.run(administer(folder / "data", settings, CreateKey("tests", next(iter(settings.plans)))))
    assert isinstance(created, CreatedKey), created
    waypost.key = created.key
    wait_until(lambda: is_ready(waypost), "/readyz to answer 200")
    return waypost


def settings_of(config: str) -> Config:
    """What a command needs of a configuration: its plans' names, and the database."""
    raw = tomllib.loads(config)
    database = raw.get("store", {}).get("database", "sqlite")
    return Config(store=Store(database=Secret(database)), plans={name: Plan() for name in raw.get("plans", ["all"])})


def is_ready(waypost: Waypost) -> bool:
    """Does a worker answer that it may take traffic? Whoever it is: nothing secret is sent."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    with waypost.connect(anyone if waypost.base.startswith("https") else None) as client:
        client.send(b"GET /readyz HTTP/1.1\r\nhost: waypost\r\n\r\n")
        return client.answer().status == 200

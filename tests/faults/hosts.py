"""A host under test: `waypost serve` on a data folder that outlives its processes, and the ways to break it.

with host(config, workers=2) as served:
    key = served.key("account", "plan")
    served.kill(served.workers()[0])       # the supervisor starts another
    served.kill_all(); served.start()      # a crash of everything, and a new start on the same folder
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tests.harness import DEADLINE, Client, wait_until
from waypost.config import load
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey, Failed, KeyTerms

WAYPOST = str(pathlib.Path(sys.executable).with_name("waypost"))


class Host:
    """One data folder and its supervisor. `address` changes with every start: the port is the kernel's choice."""

    def __init__(self, folder: pathlib.Path, config: str, workers: int, command: Sequence[str] = (WAYPOST,)) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "log"
        self.config = folder / "waypost.toml"
        self.config.write_text(config)
        self.count = workers
        self.address = ("", 0)
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped: set[int] = set()  # by SIGSTOP
        self._command = command
        self._seen: set[int] = set()  # every pid that ever served here

    def start(self) -> None:
        """Start the supervisor and wait until a worker takes traffic."""
        command = [*self._command, "serve", "--config", str(self.config), "--data", str(self.data)]
        command += ["--listen", "127.0.0.1:0", "--workers", str(self.count)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("Waypost serves"), line + self.log.read_text()
        threading.Thread(target=_drain, args=(self.process,), daemon=True).start()
        name, _, port = line.split(" at ")[1].split("/")[2].rpartition(":")
        self.address = (name, int(port))
        wait_until(lambda: self.ready() == 200, "/readyz to answer 200")

    def connect(self) -> Client:
        sock = socket.create_connection(self.address, DEADLINE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Client(sock)

    def ready(self) -> int:
        """The status of /readyz; 0 where nobody answers."""
        try:
            with self.connect() as client:
                client.send(b"GET /readyz HTTP/1.1\r\nhost: waypost\r\n\r\n")
                return client.answer().status
        except (OSError, AssertionError):
            return 0

    def administer(self, message: Any) -> Any:
        answer = asyncio.run(administer(self.data, load(self.config), message))
        assert not isinstance(answer, Failed), answer
        return answer

    def key(self, account: str, plan: str, **narrowing: Any) -> str:
        created = self.administer(CreateKey(account, plan, terms=KeyTerms(**narrowing)))
        assert isinstance(created, CreatedKey)
        return created.key

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `waypost` command on this host's folder and configuration."""
        command = [*self._command, *arguments, "--config", str(self.config), "--data", str(self.data)]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120)

    # Who is who

    def children(self) -> list[int]:
        assert self.process is not None
        found = _children(self.process.pid)
        self._seen |= set(found)
        return found

    def workers(self) -> list[int]:
        """Pids of the children that have a journal."""
        return [pid for pid in self.children() if _has_open(pid, ".alive")]

    def keeper(self) -> int:
        """The keeper's pid; 0 while there is none that holds the folder."""
        return next((pid for pid in self.children() if _has_open(pid, "keeper.lock") and pid in self.holders()), 0)

    def holders(self) -> list[int]:
        try:
            return [int((self.data / "keeper.lock").read_text())]
        except (OSError, ValueError):
            return []

    # Breaking it

    def kill(self, *pids: int, number: int = signal.SIGKILL) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if number == signal.SIGSTOP:
                self.stopped.add(pid)
            elif number == signal.SIGCONT:
                self.stopped.discard(pid)

    def kill_supervisor(self) -> None:
        """Without a word to its children, who find out by themselves."""
        assert self.process is not None
        self.children()
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """Everything at once, as when the machine's power fails (but for what the kernel has)."""
        assert self.process is not None
        self.kill(self.process.pid, number=signal.SIGSTOP)  # so that nobody is started meanwhile
        self.stopped.discard(self.process.pid)
        self.kill(*self.children())
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.children()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(2 * DEADLINE)

    def end_at_once(self) -> int:
        """SIGTERM, and once nobody is let in any more, SIGTERM again; the exit code."""
        assert self.process is not None
        self.children()
        self.process.send_signal(signal.SIGTERM)
        wait_until(lambda: self.ready() == 0, "the listener to be closed")
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(2 * DEADLINE)

    def gone(self) -> bool:
        """Has every process ended that ever served here?"""
        return not any(_serves(pid, self.data) for pid in self._seen)

    def end(self) -> None:
        """Leave nothing behind, whatever the test did."""
        for pid in list(self.stopped):
            self.kill(pid, number=signal.SIGCONT)
        if self.process is None:
            return
        if self.process.poll() is None:
            self.children()
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.kill_all()
        for pid in self._seen:
            if _serves(pid, self.data):
                self.kill(pid)
        wait_until(self.gone, "every process to end")


def _drain(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    with process.stdout:
        process.stdout.read()


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _has_open(pid: int, ending: str) -> bool:
    with contextlib.suppress(OSError):
        for each in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(each).endswith(ending):
                    return True
    return False


def _serves(pid: int, data: pathlib.Path) -> bool:
    """Is this pid alive, and still one of this folder's? Numbers are given again."""
    try:
        if str(data).encode() not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def host(config: str, *, workers: int = 2, command: Sequence[str] = (WAYPOST,), start: bool = True) -> Iterator[Host]:
    """A served folder that is gone with the block. To look at what went wrong, set `FAULTS_KEEP` to keep it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="waypost-faults-"))
    served = Host(folder, config, workers, command)
    try:
        if start:
            served.start()
        yield served
    finally:
        try:
            served.end()
        finally:
            if "FAULTS_KEEP" in os.environ:
                print(f"kept: {folder}", file=sys.stderr)
            else:
                shutil.rmtree(folder, ignore_errors=True)

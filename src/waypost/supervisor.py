"""Starts one keeper and the workers, restarts what dies, passes signals on, drains on SIGTERM; never carries traffic.

It stays a plain single-threaded loop without asyncio, so that it can fork at any time.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import mmap
import os
import pathlib
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from waypost import config
from waypost.worker.app import run_worker

log = logging.getLogger("waypost.supervisor")

QUICK_DEATH = 5.0  # seconds: a child that lived shorter is restarted after a pause
PAUSES = (0.0, 0.1, 0.5, 2.0, 5.0)  # seconds before the first, second, … restart in a row
KILL_AFTER = 5.0  # seconds over the drain before what is left is killed
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
CANNOT_START = 78  # EX_CONFIG: a restart would not help
STANDSTILL = 8.0  # seconds without a pulse after which a child is taken to stand still
SECOND_LOOK = 1.5  # seconds until that is believed: a machine that was paused as a whole needs a moment
PULSE = struct.Struct("<d")


class Child:
    """A process that is to be kept running."""

    def __init__(
        self,
        name: str,
        run: Callable[[int, Callable[[], None]], None],
        order: int,
        sock: socket.socket | None = None,
        reloads: bool = True,
    ) -> None:
        """`run` gets the reading end of a pipe that closes when the supervisor dies, and what to call every second once
        it is at work, so that it is not taken to stand still. `order`: 0 stops last.

        `sock` is the listener it keeps; it loses those of others. `reloads`: it takes SIGHUP.
        """
        self.sock = sock
        self.reloads = reloads
        self.name = name
        self.run = run
        self.order = order
        self.pid = 0
        self.started = 0.0
        self.restarts = 0
        self.due = 0.0  # when to start it next
        self.pulse = mmap.mmap(-1, PULSE.size)  # shared with the child: when it was last known to move, 0 before
        self.doubted = 0.0  # since when it seems to stand still

    def beat(self) -> None:
        """The child moves."""
        PULSE.pack_into(self.pulse, 0, time.monotonic())

    def stands_still(self, now: float) -> bool:
        """Has it not moved for too long, and is that so at a second look, too?"""
        (latest,) = PULSE.unpack_from(self.pulse, 0)
        if not self.pid or not latest or now - latest < STANDSTILL:
            self.doubted = 0.0
            return False
        self.doubted = self.doubted or now
        return now - self.doubted >= SECOND_LOOK


class Supervisor:
    """Owns the children, the listening sockets, and the pipe whose end tells the children that it is gone."""

    def __init__(
        self,
        settings: config.Config,
        load: Callable[[], config.Config],
        data: pathlib.Path,
        sockets: list[socket.socket],
        watched: pathlib.Path | None,
        keeper: Callable[[config.Config, int, Callable[[], None]], None],
        simulator: Callable[[int], None] | None = None,
    ) -> None:
        """`settings` is what `load` read at first; `watched` the file that it reads."""
        self._settings = (
            settings  # the last good one: a child that is started again begins with it, whatever the file says
        )
        self._load = load
        self._data = data
        self._sockets = sockets
        self._watched = watched
        self._modified = modified(watched)
        self._alive, self._held = os.pipe()
        self._stopping = False
        self._failed = 0
        self.children = [Child("keeper", lambda parent, beat: keeper(self._settings, parent, beat), 0)]
        if simulator is not None:
            self.children.append(Child("simulator", lambda parent, beat: simulator(parent), 0, reloads=False))
        for number, sock in enumerate(sockets):
            self.children.append(Child(f"worker {number + 1}", self._worker(number, sock), 1, sock))

    def _worker(self, number: int, sock: socket.socket) -> Callable[[int, Callable[[], None]], None]:
        return lambda parent, beat: run_worker(self._settings, self._load, self._data, sock, parent, number + 1, beat)

    def run(self, on_started: Callable[[], None]) -> int:
        """Until SIGTERM or SIGINT; the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        gc.freeze()  # so that the collector does not unshare the pages that forked children share
        for child in self.children:
            self._start(child)
        on_started()
        while not self._stopping:
            got = signal.sigtimedwait(SIGNALS, 1.0)
            if got is None:
                self._reload_if_changed()
            elif got.si_signo == signal.SIGHUP:
                self._reload()
            elif got.si_signo in (signal.SIGTERM, signal.SIGINT):
                self._stopping = True
            self._reap()
            self._end_standstills()
            self._start_due()
        return self._stop()

    def _start(self, child: Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        PULSE.pack_into(child.pulse, 0, 0.0)
        child.doubted = 0.0
        pid = os.fork()
        if pid == 0:
            self._become(child)
        child.pid, child.started, child.due = pid, time.monotonic(), 0.0

    def _become(self, child: Child) -> NoReturn:
        code = 1
        try:
            os.close(self._held)
            for sock in self._sockets:
                if sock is not child.sock:  # a listener that stays open anywhere goes on taking connections
                    sock.close()
            # SIGHUP stays blocked until the child can read the configuration again; before, it would be its end.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, set(SIGNALS) - {signal.SIGHUP})
            os.setsid()  # a Ctrl-C reaches the supervisor alone, which then drains
            child.run(self._alive, child.beat)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except config.ConfigError as error:
            print(f"waypost: {error}", file=sys.stderr)
            code = CANNOT_START
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> list[Child]:
        """Note what has died, and when it is to be started again."""
        dead = []
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                for child in self.children:
                    if child.pid == pid:
                        dead.append(child)
                        self._note_death(child, os.waitstatus_to_exitcode(status))
        return dead

    def _note_death(self, child: Child, code: int) -> None:
        child.pid = 0
        if self._stopping:
            return
        if code == CANNOT_START:
            self._stopping, self._failed = True, 1
            return
        now = time.monotonic()
        child.restarts = child.restarts + 1 if now - child.started < QUICK_DEATH else 0
        pause = PAUSES[min(child.restarts, len(PAUSES) - 1)]
        child.due = now + pause
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        log.error("the %s ended (%s); it is started again%s", child.name, how, f" in {pause:g} s" if pause else "")

    def _end_standstills(self) -> None:
        """What stands still is killed, and so started again: it would go on taking connections that nobody answers."""
        now = time.monotonic()
        for child in self.children:
            if child.stands_still(now):
                log.error("the %s has stood still for %.0f s: it is killed", child.name, STANDSTILL)
                os.kill(child.pid, signal.SIGKILL)

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.pid == 0 and child.due <= now and not self._stopping:
                self._start(child)

    def _reload_if_changed(self) -> None:
        if self._watched is not None and modified(self._watched) != self._modified:
            self._reload()

    def _reload(self) -> None:
        """Valid as a whole or not at all: the others are told only after it has been read without an error here."""
        self._modified = modified(self._watched)
        try:
            self._settings = self._load()
        except config.ConfigError as error:
            log.error("the configuration stays as it was: %s", error)
            return
        log.warning("the configuration has been read again")
        for child in self.children:
            if child.reloads and child.pid:
                os.kill(child.pid, signal.SIGHUP)

    def _stop(self) -> int:
        """Drain: workers first, the keeper when they are done; what does not end in time is killed."""
        for sock in self._sockets:
            sock.close()
        for order, grace in ((1, self._settings.server.drain + KILL_AFTER), (0, KILL_AFTER)):
            deadline = time.monotonic() + grace
            self._signal(order, signal.SIGTERM)
            while self._remaining(order):
                left = deadline - time.monotonic()
                if left <= 0:
                    self._signal(order, signal.SIGKILL)
                    deadline = time.monotonic() + KILL_AFTER
                got = signal.sigtimedwait(SIGNALS, min(max(left, 0.01), 0.5))
                if got is not None and got.si_signo in (signal.SIGTERM, signal.SIGINT):
                    self._signal(order, signal.SIGKILL)  # asked a second time: at once
        return self._failed

    def _remaining(self, order: int) -> bool:
        self._reap()
        return any(child.pid and child.order == order for child in self.children)

    def _signal(self, order: int, number: signal.Signals) -> None:
        for child in self.children:
            if child.pid and child.order == order:
                os.kill(child.pid, number)


def modified(path: pathlib.Path | None) -> float:
    """When a file was last changed; 0 where there is none."""
    try:
        return path.stat().st_mtime if path is not None else 0.0
    except OSError:
        return 0.0


def bind(listen: str, workers: int) -> list[socket.socket]:
    """One listening socket a worker. On TCP each has its own queue (SO_REUSEPORT), which outlives its worker here.

    Raises config.ConfigError where the address is taken or not ours.
    """
    address = config.parse_listen(listen)
    try:
        if isinstance(address, str):
            return [bind_unix(address)] * workers
        sockets = [bind_tcp(*address, first=True)]
        port = sockets[0].getsockname()[1]
        return sockets + [bind_tcp(address[0], port, first=False) for _ in range(workers - 1)]
    except OSError as error:
        fix = "another address is named with --listen, or as server.listen"
        raise config.ConfigError(f"cannot listen on {listen}: {error.strerror or error}; {fix}") from None


def bind_tcp(host: str, port: int, first: bool) -> socket.socket:
    """A bound TCP socket."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    if first:  # SO_REUSEPORT would let a second server share the port without a word
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(address)
    sock.setblocking(False)
    return sock


def bind_unix(path: str) -> socket.socket:
    """A bound UNIX socket; a dead one in its place is replaced, a live one is not."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if os.path.exists(path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == 0:
                raise OSError(0, f"something listens at {path} already")
        os.unlink(path)
    sock.bind(path)
    sock.setblocking(False)
    return sock

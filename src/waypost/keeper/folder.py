"""The data folder: where things stand in it, and the lock that keeps the database to one process at a time."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pathlib
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from waypost.link import is_too_long, socket_path

ENDING_SECONDS = 2.0
"""How long `waypost serve` waits for a server whose keeper still answers: after it, it is not about to end."""


class FolderUnusable(Exception):
    """The data folder, or what is in it, cannot be used; the message says which and why."""


class FolderTaken(FolderUnusable):
    """Another process holds the data folder; the message names it."""


def database_path(data: pathlib.Path) -> pathlib.Path:
    """The SQLite file."""
    return data / "waypost.db"


def lock_path(data: pathlib.Path) -> pathlib.Path:
    """The file whose lock goes with the right to open the database. It holds the owner's process id, for people."""
    return data / "keeper.lock"


def host_id(data: pathlib.Path) -> str:
    """This data folder's name among those that share a database: 16 hexadecimal digits, drawn at the first call.

    To be called by who holds the lock. Raises `FolderUnusable`.
    """
    path = data / "host"
    try:
        if not path.exists():
            new = path.with_name("host.new")
            new.write_text(secrets.token_hex(8) + "\n")
            new.chmod(0o600)
            new.rename(path)
        found = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FolderUnusable(f"cannot use {path}: {getattr(error, 'strerror', None) or error}") from None
    if not re.fullmatch("[0-9a-f]{16}", found):
        raise FolderUnusable(f"{path} holds no host's name: remove it if this host is new, else restore it")
    return found


@asynccontextmanager
async def taken(
    data: pathlib.Path, patience: float, give_up: Callable[[], bool] = lambda: False
) -> AsyncIterator[None]:
    """Create `data` (mode 0700) if it is missing and hold its lock, waiting up to `patience` seconds for it.

    `give_up` is asked before every wait; true ends the waiting. Raises `FolderUnusable`. The kernel drops the lock of a
    process that dies.
    """
    lock = _open_lock(data)
    try:
        deadline = asyncio.get_running_loop().time() + patience
        while not _lock(lock):
            if give_up() or asyncio.get_running_loop().time() >= deadline:
                raise _taken_by_owner(lock, data)
            await asyncio.sleep(0.02)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def check_free(data: pathlib.Path) -> None:
    """Create `data` (mode 0700) if it is missing; a server that is just ending is waited for.

    Raises `FolderTaken` where another serves from it, `FolderUnusable` where it cannot be written to.
    """
    lock = _open_lock(data)
    try:
        end = time.monotonic() + ENDING_SECONDS
        while is_served(socket_path(data)):
            if time.monotonic() >= end:
                raise _taken_by_owner(lock, data)
            time.sleep(0.1)
    finally:
        os.close(lock)


def is_served(path: pathlib.Path) -> bool:
    """Does a keeper answer at this socket?"""
    if is_too_long(path):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(path)) == 0


def _open_lock(data: pathlib.Path) -> int:
    try:
        os.makedirs(data, mode=0o700, exist_ok=True)
        return os.open(lock_path(data), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FolderUnusable(f"cannot use the data folder {data}: {error.strerror}") from None


def _taken_by_owner(lock: int, data: pathlib.Path) -> FolderTaken:
    owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
    return FolderTaken(f"{data} is in use by process {owner}")


def _lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

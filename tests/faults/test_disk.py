"""The disk is full: no request is let in that could not be written down, nothing is corrupt, and room mends it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.faults.crowd import Crowd
from tests.faults.hosts import host
from tests.faults.scene import accounts, scene, verdict
from tests.harness import wait_until
from tests.sim.running import Running

SIZE = 56 * 1024 * 1024  # each worker's journal takes 8 MiB at a time


@contextlib.contextmanager
def small_disk(folder: pathlib.Path) -> Iterator[None]:
    """A file system of its own at `folder`; skips where nobody may mount one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "waypost-test", str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        pytest.skip(f"no file system of its own for the data folder: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: pathlib.Path) -> None:
    """Take every block that is left."""
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def test_a_full_disk_under_load(oracle: Running) -> None:
    setting = scene(oracle.base, daily=100_000, tokens=50_000_000, clients=12)
    with host(setting.config, start=False) as served, small_disk(served.data):
        served.start()
        ballast = served.data / "ballast"
        with Crowd(lambda: served.address, accounts(served, setting), clients=12, pause=0.1) as crowd:
            wait_until(lambda: crowd.seen(200), "a good answer")
            fill(ballast)
            wait_until(lambda: refill(ballast) or served.ready() == 503, "readiness to say no")
            for pid in served.workers():  # whoever starts now has no journal to write to
                served.kill(pid)
            killed = time.time()
            wait_until(lambda: refill(ballast) or crowd.seen(503, killed), "a request to be turned away")
            time.sleep(1.0)
            admitted = [asked for asked in crowd.log if asked.status == 200 and asked.sent > killed + 0.5]
            assert not admitted, admitted[:3]
            assert "UNAVAILABLE" in {asked.code for asked in crowd.log if asked.sent > killed}
            ballast.unlink()
            freed = time.time()
            wait_until(lambda: crowd.seen(200, freed), "a good answer once there is room")
            wait_until(lambda: served.ready() == 200, "readiness once there is room")
            log = crowd.stop()
        findings = verdict(served, oracle, log, setting.limits)
        assert not findings.violations, findings
        with contextlib.closing(sqlite3.connect(served.data / "waypost.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert os.listdir(served.data / "journal") == []


def refill(ballast: pathlib.Path) -> bool:
    """A journal's last blocks come free when it is deleted: take them again. False."""
    fill(ballast)
    return False

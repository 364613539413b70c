"""The machine: its cores and tools, processes we start on chosen cores, and the kernel's own clocks of them."""

from __future__ import annotations

import contextlib
import glob
import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Unable(Exception):
    """The measurement can't be made here; the message is the sentence to show."""


def find_tool(name: str) -> str | None:
    """The path of a program, also where Debian puts daemons, which is not on every user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def install_tools(names: Sequence[str], say: Callable[[str], None]) -> None:
    """Fetch what is missing by apt, where we are root and apt exists. The caller looks again afterwards."""
    missing, apt = [name for name in names if find_tool(name) is None], shutil.which("apt-get")
    if not missing or apt is None or os.geteuid() != 0:
        return
    say(f"installing {' and '.join(missing)} by apt-get")
    # RUNLEVEL=1 keeps the package from starting a server of its own; we start ours, on loopback.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run([apt, "-q", *arguments], capture_output=True, text=True, env=env, timeout=300)
            if done.returncode:
                say(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-200:]}")


def free_port() -> int:
    """A loopback port that the kernel says is free, for servers that can't be told to take any."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Processes --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """What is started within inherits the given cores from its first instruction on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A process of ours in a session of its own, output kept in a log. A context manager: leaving it ends the tree."""

    def __init__(self, command: Sequence[str], cores: Sequence[int], log: pathlib.Path, **env: str) -> None:
        self.log = log
        with on_cores(cores), log.open("wb") as out:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                cwd=ROOT,
                start_new_session=True,
            )
        self.pid = self.popen.pid

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        members = {pid: started_at(pid) for pid in process_tree(self.pid)}
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(10)
        for pid, start in members.items():  # what did not go with its parent, unless its number is another's by now
            with contextlib.suppress(ProcessLookupError):
                if start and started_at(pid) == start:
                    os.kill(pid, signal.SIGKILL)
        self.popen.wait(10)

    def wait_for(self, probe: Callable[[], bool], what: str, seconds: float) -> None:
        """Ask `probe` every 5 ms until it holds. Raises Unable with the log's end if it never does."""
        deadline = time.monotonic() + seconds
        while not probe():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                state = "it ended" if self.popen.poll() is not None else f"not ready after {seconds:.0f} s"
                raise Unable(f"{what}: {state}.\n{self.log.read_text(errors='replace')[-1500:]}")
            time.sleep(0.005)


def run_to_end(command: Sequence[str], cores: Sequence[int], seconds: float) -> str:
    """Standard output of a command on the given cores. Raises Unable when it fails or outlasts `seconds`."""
    name = pathlib.Path(command[0]).name
    try:
        with on_cores(cores):
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=ROOT)
    except subprocess.TimeoutExpired:
        raise Unable(f"{name} did not end within {seconds:.0f} s.") from None
    if done.returncode:
        raise Unable(f"{name} failed: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout


# Clocks and memory ------------------------------------------------------------------------------------------------


def process_tree(pid: int) -> list[int]:
    """`pid` and every process below it, found by their parents' ids."""
    children: dict[int, list[int]] = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = pathlib.Path(path).read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(path.split("/")[2]))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def started_at(pid: int) -> str:
    """When a process began, in clock ticks since boot; empty when there is none."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def cpu_by_process(pid: int) -> dict[int, float]:
    """Seconds on a core of each process of the tree, user and system, all threads, from the scheduler's counter."""
    spent = dict.fromkeys(process_tree(pid), 0.0)
    for member in spent:
        for path in glob.glob(f"/proc/{member}/task/[0-9]*/schedstat"):
            with contextlib.suppress(OSError):
                spent[member] += int(pathlib.Path(path).read_text().split()[0]) / 1e9
    return spent


def cpu_seconds(pid: int) -> float:
    """CPU time of the whole tree in seconds."""
    return sum(cpu_by_process(pid).values())


def wait_until_quiet(pid: int, seconds: float = 10.0) -> None:
    """Until the tree uses less than 2 % of a core, so that work left behind is paid by the window that caused it."""
    deadline, spent = time.monotonic() + seconds, cpu_seconds(pid)
    while time.monotonic() < deadline:
        time.sleep(0.05)
        before, spent = spent, cpu_seconds(pid)
        if spent - before < 0.001:
            return


def memory_by_process(pid: int) -> dict[int, int]:
    """Proportional set size of each process of the tree, in kB."""
    sizes: dict[int, int] = {}
    for member in process_tree(pid):
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+)", pathlib.Path(f"/proc/{member}/smaps_rollup").read_text(), re.MULTILINE)
            sizes[member] = int(found[1]) if found else 0
    return sizes


# What the results say of the machine ------------------------------------------------------------------------------


def first_line(*command: str) -> str:
    """What a program says first, on either output; nothing when it can't be run."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT)
        return next(iter((done.stdout + done.stderr).strip().splitlines()), "")
    return ""


def describe_machine() -> dict[str, str]:
    """Processor, kernel, versions and commit, for the head of a results file. No paths, no host name."""
    model = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    packages = ("uvloop", "aiofastnet", "httptools", "msgspec", "sqlalchemy")
    changed = " with uncommitted changes in src" if first_line("git", "status", "--porcelain", "--", "src") else ""
    return {
        "processor": f"{model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages),
        "nginx": first_line(find_tool("nginx") or "nginx", "-v").partition("/")[2],
        "wrk": " ".join(first_line(find_tool("wrk") or "wrk", "-v").split()[1:2]),
        "commit": first_line("git", "rev-parse", "--short", "HEAD") + changed,
    }

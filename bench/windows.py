"""One window of load on one gateway; windows interleaved; what pairs of them say."""

from __future__ import annotations

import json
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from bench.gateways import Gateway, Upstream, Waypost, render_body
from bench.machine import (
    Process,
    Unable,
    cpu_by_process,
    cpu_seconds,
    find_tool,
    run_to_end,
    wait_until_quiet,
)
from bench.streams import Order, Outcome
from bench.vendors import VENDORS

T = TypeVar("T")

WRK_SCRIPT = """
wrk.method, wrk.body = "POST", [==[%s]==]
for name, value in pairs({%s}) do wrk.headers[name] = value end
if %s then
  local sent, head = 0, wrk.body:sub(1, -2)
  function request()
    sent = sent + 1
    return wrk.format(nil, nil, nil, string.format('%%s, "seed": %%d}', head, sent))
  end
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests":%%d,"micros":%%d,"p50":%%d,"p99":%%d,"failed":%%d}\\n', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99),
    e.status + e.connect + e.read + e.write + e.timeout))
end
"""


class Window(msgspec.Struct, frozen=True):
    """What a window of non-streamed requests cost: CPU in µs a request, requests/s, latencies in ms."""

    cpu: float
    rate: float
    p50: float
    p99: float


class Session(msgspec.Struct, frozen=True):
    """What every measure needs. `gateway` and `load` are cores; `seconds` and `warm` the length of a window."""

    gateway: Sequence[int]
    load: Sequence[int]
    pairs: int
    seconds: float
    warm: float
    folder: pathlib.Path
    upstream: Upstream
    nginx: Gateway
    waypost: Waypost
    say: Callable[[str], None]


# Load -------------------------------------------------------------------------------------------------------------


def request_window(
    session: Session,
    gateway: Gateway,
    prompt: int = 1_000,
    kind: str = "plain",
    connections: int = 64,
    seconds: float | None = None,
    load: Sequence[int] | None = None,
) -> Window:
    """Requests as fast as they are answered. The CPU includes what the gateway still does when the load has ended.

    Raises Unable when any answer was not a success: a cheap refusal must not pass for a cheap answer.
    """
    target, seconds, load = gateway.targets[kind], seconds or session.seconds, load or session.load
    headers = {"Content-Type": "application/json", "Accept": "application/json", **target.headers}
    pairs = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    script = session.folder / "load.lua"
    varies = "true" if target.varies else "false"
    script.write_text(WRK_SCRIPT % (render_body(target.model, prompt), pairs, varies))
    how = [f"-t{min(len(load), connections)}", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s"]
    command = [find_tool("wrk") or "wrk", *how, "-s", str(script), f"http://127.0.0.1:{target.port}{target.path}"]
    wait_until_quiet(gateway.pid)
    before = cpu_seconds(gateway.pid)
    said = json.loads(run_to_end(command, load, seconds + 60).strip().splitlines()[-1])
    wait_until_quiet(gateway.pid)
    spent = cpu_seconds(gateway.pid) - before
    if said["failed"] or not said["requests"]:
        raise Unable(f"{gateway.name}, {kind}: {said['failed']} of {said['requests']} requests failed.")
    rate = said["requests"] / said["micros"] * 1e6
    return Window(spent / said["requests"] * 1e6, rate, said["p50"] / 1e3, said["p99"] / 1e3)


def stream_window(
    session: Session, gateway: Gateway, streams: int = 200, kind: str = "stream", seconds: float | None = None
) -> Outcome:
    """Streams side by side, watched once all are open and warm. Raises Unable when one is cut or lacks its end."""
    target, seconds = gateway.targets[kind], seconds or session.seconds
    body = render_body(target.model, 1_000, stream=True)
    order = Order(
        gateway.pid, target.port, target.path, target.headers, body, streams, session.warm, seconds, target.script,
        texts=kind in VENDORS,
    )  # fmt: skip
    command = [sys.executable, "-m", "bench.streams", "load", msgspec.json.encode(order).decode()]
    said = run_to_end(command, session.load, seconds + session.warm + 60)
    outcome = msgspec.json.decode(said, type=Outcome)
    if outcome.complaint or not outcome.events:
        raise Unable(f"{gateway.name}, {streams} streams: {outcome.complaint or 'no event came through'}.")
    return outcome


# Pairs ------------------------------------------------------------------------------------------------------------


def interleave(
    session: Session, what: str, cells: Mapping[str, Callable[[], T]], pairs: int | None = None
) -> dict[str, list[T]]:
    """Every cell once a turn, forwards and backwards by turns (A B B A), so that drift of the machine cancels out."""
    found: dict[str, list[T]] = {name: [] for name in cells}
    pairs = pairs or session.pairs
    for turn in range(pairs):
        session.say(f"{what}: pair {turn + 1} of {pairs}")
        for name in list(cells)[:: -1 if turn % 2 else 1]:
            found[name].append(cells[name]())
    return found


class Ratio(msgspec.Struct, frozen=True):
    """The median of per-pair ratios, with the smallest and the largest."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.least:.2f}–{self.most:.2f})"


def ratio_of(these: Sequence[float], those: Sequence[float]) -> Ratio:
    """Pair by pair, these over those."""
    ratios = [a / b for a, b in zip(these, those, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def added_to(these: Sequence[float], those: Sequence[float]) -> float:
    """The median of per-pair differences."""
    return statistics.median([a - b for a, b in zip(these, those, strict=True)])


# Under load -------------------------------------------------------------------------------------------------------


def busiest_process(session: Session, gateway: Gateway) -> int:
    """The process of the tree that does the work, found by giving it some."""
    before = cpu_by_process(gateway.pid)
    request_window(session, gateway, seconds=1)
    after = cpu_by_process(gateway.pid)
    return max(after, key=lambda pid: after[pid] - before.get(pid, 0.0))


def system_calls(session: Session, gateway: Gateway) -> tuple[float, float] | None:
    """System calls a request of the busiest process, beyond epoll and in epoll; None where strace can't count them."""
    program, report = find_tool("strace"), session.folder / "strace"
    if program is None:
        return None
    command = [program, "-c", "-f", "-o", str(report), "-p", str(busiest_process(session, gateway))]
    with Process(command, session.load, session.folder / "strace.log") as tracer:
        time.sleep(0.5)
        window = request_window(session, gateway, seconds=2)
        tracer.popen.send_signal(signal.SIGINT)
        try:
            tracer.popen.wait(10)
        except subprocess.TimeoutExpired:
            return None
    lines = [line.split() for line in report.read_text().splitlines()] if report.exists() else []
    # % time, seconds, usecs/call, calls, [errors,] name
    calls = {fields[-1]: int(fields[3]) for fields in lines if len(fields) > 4 and fields[3].isdigit()}
    total, waits = calls.get("total", 0), sum(count for name, count in calls.items() if "epoll" in name)
    return ((total - waits) / window.rate / 2, waits / window.rate / 2) if total else None

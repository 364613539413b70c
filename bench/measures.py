"""The measures, each a function from a session to findings; the goals they are held against are one table."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import msgspec

from bench.gateways import Gateway, is_answering
from bench.machine import memory_by_process, run_to_end, wait_until_quiet
from bench.rendering import Cost
from bench.report import Findings, Goal, Table
from bench.streams import Outcome
from bench.vendors import VENDORS
from bench.windows import (
    Session,
    Window,
    added_to,
    busiest_process,
    interleave,
    ratio_of,
    request_window,
    stream_window,
    system_calls,
)

GOALS = {
    "1 kB": Goal("≤ 3.0 × nginx, stretch 2.3", 3.0),
    "16 kB": Goal("≤ 1.5 × own at 1 kB", 1.5),
    "100 kB": Goal("≤ 4 × own at 1 kB", 4.0),
    "mock": Goal("mock ≥ 3 × Waypost", 3.0, at_least=True),
    "calls": Goal("≤ 6 beyond epoll", 6.0),
    "event": Goal("≤ 1.3 × nginx, stretch 1.1", 1.3),
    "translated": Goal("≤ 2.5 × nginx", 2.5),
    "rendering": Goal("≤ 1 ms", 1.0),
    "first token": Goal("≤ 0.3 ms", 0.3),
    "p50": Goal("≤ 0.15 ms", 0.15),
    "p99": Goal("≤ 0.5 ms", 0.5),
    "tls": Goal("≤ 1.25 × own plain", 1.25),
    "worker": Goal("≤ 45 MB", 45.0),
    "open stream": Goal("≤ 40 kB", 40.0),
    "start": Goal("≤ 1.0 s", 1.0),
    "workers": Goal("≥ 1.8 × one", 1.8, at_least=True),
}
Measure = Callable[[Session, Findings], None]
SIZES = {"1 kB": 1_000, "16 kB": 16_000, "100 kB": 100_000}


def cpu_of(windows: Sequence[Window]) -> list[float]:
    """CPU in µs a request, window by window."""
    return [window.cpu for window in windows]


def cpu_per_event(outcomes: Sequence[Outcome]) -> list[float]:
    """CPU in µs an event, window by window."""
    return [outcome.cpu / outcome.events * 1e6 for outcome in outcomes]


def in_micros(values: Sequence[float]) -> str:
    """Their median, for a reader."""
    return f"{median(values):.1f} µs"


@contextlib.contextmanager
def running_waypost(session: Session, *warm: Callable[[Gateway], object]) -> Iterator[Gateway]:
    """A fresh Waypost for one measure, warmed up together with nginx."""
    with contextlib.ExitStack() as stack:
        gateway = session.waypost.start(stack, session.gateway)
        for step in warm:
            step(session.nginx)
            step(gateway)
        yield gateway


def measure_requests(session: Session, findings: Findings) -> None:
    """CPU a request at three prompt sizes, what the mock alone can take, and system calls a request."""
    with running_waypost(session, partial(request_window, session, seconds=session.warm)) as waypost:
        both, direct = (session.nginx, waypost), session.upstream.direct()
        alone = {size: request_window(session, direct, prompt, seconds=2).rate for size, prompt in SIZES.items()}
        cells = {
            f"{gateway.name} {size}": partial(request_window, session, gateway, prompt)
            for size, prompt in SIZES.items()
            for gateway in both
        }
        found = interleave(session, "non-stream", cells)
        calls = [system_calls(session, gateway) for gateway in both]
    cpu = {name: cpu_of(windows) for name, windows in found.items()}
    rates = {name: median([window.rate for window in windows]) for name, windows in found.items()}
    findings.keep("CPU µs a request", cpu)
    for size in SIZES:
        ours, theirs = cpu[f"Waypost {size}"], cpu[f"nginx {size}"]
        beside, growth = ratio_of(ours, theirs), ratio_of(ours, cpu["Waypost 1 kB"]).middle
        figure, text = (beside.middle, "") if size == "1 kB" else (growth, f"; {growth:.2f} × own at 1 kB")
        name = f"CPU a request, {size} prompt"
        findings.hold(name, GOALS[size], figure, in_micros(ours), in_micros(theirs), f"{beside}{text}")
    rows = [
        (size, *(f"{n:.0f}" for n in (rates[f"Waypost {size}"], rates[f"nginx {size}"], alone[size]))) for size in SIZES
    ]
    columns = ("prompt", "Waypost", "nginx", "the mock alone, on the load's core")
    findings.tables.append(Table("Requests a second, 64 connections, gateway on one core", columns, rows))
    own_rate, floor, spare = rates["Waypost 1 kB"], rates["nginx 1 kB"], alone["1 kB"] / rates["Waypost 1 kB"]
    findings.hold("requests/s, 1 kB", GOALS["mock"], spare, f"{own_rate:.0f}", f"{floor:.0f}", f"mock {spare:.2f} ×")
    if None in calls:
        findings.remarks.append("System calls were not counted: strace is missing, or may not attach here.")
        return
    nginx, own = ((beyond, f"{beyond:.2f} + {waits:.2f} epoll") for beyond, waits in filter(None, calls))
    name = "system calls a request, of the worker"
    findings.hold(name, GOALS["calls"], own[0], own[1], nginx[1], f"{own[0] / nginx[0]:.2f}")


def measure_streams(session: Session, findings: Findings) -> None:
    """CPU an event with 200 streams of an event every 20 ms; time to the first token with 128."""
    few = max(2, session.pairs // 2)
    with running_waypost(session) as waypost:
        both = (session.nginx, waypost)
        cells = {gateway.name: partial(stream_window, session, gateway) for gateway in both}
        cpu = {name: cpu_per_event(found) for name, found in interleave(session, "stream", cells).items()}
        three = (session.upstream.direct(), *both)
        cells = {gateway.name: partial(stream_window, session, gateway, 128) for gateway in three}
        first = interleave(session, "first token", cells, few)
    findings.keep("CPU µs an event", cpu)
    beside = ratio_of(cpu["Waypost"], cpu["nginx"])
    ours, theirs = in_micros(cpu["Waypost"]), in_micros(cpu["nginx"])
    findings.hold("CPU a streamed event, 200 streams", GOALS["event"], beside.middle, ours, theirs, str(beside))
    times = {name: [outcome.first_token for outcome in found] for name, found in first.items()}
    hold_added(findings, "time to the first token, 128 streams, p50", "first token", times)


def measure_formats(session: Session, findings: Findings) -> None:
    """CPU an event where the upstream speaks another format, beside nginx which passes the same events on unread.

    And what it takes to put a long history into each format.
    """
    with running_waypost(session) as waypost:
        for vendor in VENDORS:
            cells = {
                gateway.name: partial(stream_window, session, gateway, kind=vendor)
                for gateway in (session.nginx, waypost)
            }
            found = interleave(session, f"{vendor}'s streams", cells, max(2, session.pairs // 2))
            cpu = {name: cpu_per_event(outcomes) for name, outcomes in found.items()}
            findings.keep(f"CPU µs an event with a word, {vendor}'s stream", cpu)
            beside = ratio_of(cpu["Waypost"], cpu["nginx"])
            ours, theirs = in_micros(cpu["Waypost"]), in_micros(cpu["nginx"])
            name = f"CPU a translated event, {vendor}, 200 streams"
            findings.hold(name, GOALS["translated"], beside.middle, ours, theirs, str(beside))
    said = run_to_end([sys.executable, "-m", "bench.rendering"], session.gateway, 120)
    for name, cost in msgspec.json.decode(said, type=dict[str, Cost]).items():
        ours, text = f"{cost.render:.2f} ms", f"reading it, once a request: {cost.read:.2f} ms"
        findings.hold(f"rendering a 100 kB history, {name}", GOALS["rendering"], cost.render, ours, ratio=text)


def hold_added(findings: Findings, what: str, goal: str, times: dict[str, list[float]]) -> None:
    """What Waypost adds to the mock's own time, in ms, beside what nginx adds."""
    findings.keep(f"Milliseconds: {what}", times, 3)
    ours, theirs = (added_to(times[name], times["direct"]) for name in ("Waypost", "nginx"))
    findings.hold(f"added {what}", GOALS[goal], ours, f"{ours:.3f} ms", f"{theirs:.3f} ms", f"{ours / theirs:.2f}")


def measure_latency(session: Session, findings: Findings) -> None:
    """What the gateway adds at one connection, beside the mock asked directly."""
    with running_waypost(session, partial(request_window, session, seconds=session.warm)) as waypost:
        three = (session.upstream.direct(), session.nginx, waypost)
        cells = {gateway.name: partial(request_window, session, gateway, connections=1) for gateway in three}
        found = interleave(session, "latency", cells, max(2, session.pairs // 2))
    for point in ("p50", "p99"):
        times = {name: [getattr(window, point) for window in windows] for name, windows in found.items()}
        hold_added(findings, f"latency at one connection, {point}", point, times)


def measure_tls(session: Session, findings: Findings) -> None:
    """CPU a request when the upstream speaks TLS, beside the same without."""
    kinds = ("plain", "tls")
    warm = [partial(request_window, session, kind=kind, seconds=session.warm) for kind in kinds]
    with running_waypost(session, *warm) as waypost:
        cells = {
            f"{gateway.name} {kind}": partial(request_window, session, gateway, kind=kind)
            for kind in kinds
            for gateway in (session.nginx, waypost)
        }
        cpu = {name: cpu_of(windows) for name, windows in interleave(session, "tls", cells).items()}
    findings.keep("CPU µs a request, upstream plain and behind TLS", cpu)
    own, nginx = (ratio_of(cpu[f"{name} tls"], cpu[f"{name} plain"]) for name in ("Waypost", "nginx"))
    beside = ratio_of(cpu["Waypost tls"], cpu["nginx tls"])
    text = f"{beside}; {own.middle:.2f} × own plain (nginx {nginx.middle:.2f})"
    ours, theirs = in_micros(cpu["Waypost tls"]), in_micros(cpu["nginx tls"])
    findings.hold("CPU a request, TLS upstream", GOALS["tls"], own.middle, ours, theirs, text)


def measure_memory(session: Session, findings: Findings) -> None:
    """Proportional set sizes: idle, after requests at full rate and with 200 streams, and what one open stream adds."""
    few, many, each = 100, 1_000, {}
    with running_waypost(session) as waypost:
        time.sleep(1)
        wait_until_quiet(waypost.pid)
        idle = memory_by_process(waypost.pid)
        worker = busiest_process(session, waypost)
        request_window(session, waypost)
        loaded = stream_window(session, waypost).memory
        for gateway in (session.nginx, waypost):
            session.say(f"memory: {many} open streams through {gateway.name}")
            held = [sum(stream_window(session, gateway, count, "slow", 1).memory.values()) for count in (few, many)]
            each[gateway.name] = (held[1] - held[0]) / (many - few)
    role = {waypost.pid: "supervisor", worker: "worker"}
    sizes = [(role.get(pid, "keeper"), size, loaded.get(pid, 0)) for pid, size in idle.items()]
    sizes.append(("all", sum(idle.values()), sum(loaded.values())))
    rows = [(name, *(f"{size / 1024:.1f} MB" for size in pair)) for name, *pair in sizes]
    findings.tables.append(Table("Memory of Waypost's processes (PSS)", ("process", "idle", "under load"), rows))
    figure = loaded[worker] / 1024
    findings.hold("memory of the worker under load", GOALS["worker"], figure, f"{figure:.1f} MB")
    ours, theirs = each["Waypost"], each["nginx"]
    name = f"memory an open stream, {many} of them"
    findings.hold(name, GOALS["open stream"], ours, f"{ours:.1f} kB", f"{theirs:.1f} kB", f"{ours / theirs:.2f}")


def measure_start(session: Session, findings: Findings) -> None:
    """Seconds from the command to the first 200: of /readyz in an empty folder, and of a completion in a used one."""
    ready, served = [], []
    for turn in range(max(3, session.pairs // 2)):
        session.say(f"start: {turn + 1}")
        data = session.waypost.new_data()
        process, _, seconds = session.waypost.spawn(session.gateway, 1, data)
        ready.append(seconds)
        with process:
            key = session.waypost.create_key(data)
        began = time.perf_counter()
        process, port, _ = session.waypost.spawn(session.gateway, 1, data)
        with process:
            target = session.waypost.gateway(process, port, key).targets["plain"]
            process.wait_for(partial(is_answering, target), "the first completion", 30)
            served.append(time.perf_counter() - began)
    times = {
        "start to the first 200 of /readyz, new folder": ready,
        "start to the first completion, used folder": served,
    }
    findings.keep("Seconds from the command", times, 2)
    for name, values in times.items():
        findings.hold(name, GOALS["start"], median(values), f"{median(values):.2f} s")


def measure_workers(session: Session, findings: Findings) -> None:
    """Two workers beside one: by rate where each has a core that the load does not use, else by CPU a request."""
    apart = len(session.load) > 2
    cores = [*session.gateway, session.load[0]] if apart else session.gateway
    load = session.load[1:] if apart else session.load
    with contextlib.ExitStack() as stack:
        started = {count: session.waypost.start(stack, cores[:count], count) for count in (1, 2)}
        window = partial(request_window, session, load=load)
        cells = {f"{count} of them": partial(window, gateway) for count, gateway in started.items()}
        for cell in cells.values():
            cell(seconds=session.warm)
        one, two = interleave(session, "workers", cells).values()
    findings.keep("CPU µs a request, by workers", {"one": cpu_of(one), "two": cpu_of(two)})
    cost = ratio_of(cpu_of(two), cpu_of(one))
    if apart:
        gain, how = (
            ratio_of([w.rate for w in two], [w.rate for w in one]),
            "the ratio of requests/s, a core for each worker",
        )
    else:
        gain = ratio_of([2 * value for value in cpu_of(one)], cpu_of(two))
        how = "twice the ratio of CPU a request, both on the gateway's core: there is no core to spare for the second"
    findings.remarks.append(f"Two workers over one is {how}. CPU a request with two is {cost} × that with one.")
    text = f"{in_micros(cpu_of(two))}, one {in_micros(cpu_of(one))}"
    findings.hold("two workers over one", GOALS["workers"], gain.middle, text, "–", str(gain))

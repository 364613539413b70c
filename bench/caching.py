"""What a hit and a miss of the response cache cost, beside the same requests without it."""

from __future__ import annotations

from functools import partial
from statistics import median

import msgspec

from bench.gateways import Gateway
from bench.measures import cpu_of, in_micros, running_waypost
from bench.report import Findings, Goal, Table
from bench.windows import Session, interleave, ratio_of, request_window

GOAL = Goal("≤ 25 µs", 25.0)
WANTED = {"x-waypost-cache": "true"}
CELLS = {
    "without, the same again": ({}, False),
    "without, each another": ({}, True),
    "hit": (WANTED, False),
    "miss": (WANTED, True),
}
BESIDE = {"hit": "without, the same again", "miss": "without, each another"}


def with_cells(gateway: Gateway) -> Gateway:
    """The plain target in four ways: headers that want the cache or not, one request or each another."""
    plain = gateway.targets["plain"]
    targets = {
        name: msgspec.structs.replace(plain, headers={**plain.headers, **headers}, varies=varies)
        for name, (headers, varies) in CELLS.items()
    }
    return msgspec.structs.replace(gateway, targets={**gateway.targets, **targets})


def measure_cache(session: Session, findings: Findings) -> None:
    """CPU a request, with the cache and without, on prompts of 1 kB."""
    with running_waypost(session, partial(request_window, session, seconds=session.warm)) as waypost:
        gateway = with_cells(waypost)
        cells = {name: partial(request_window, session, gateway, kind=name) for name in CELLS}
        cells["hit"](seconds=session.warm)  # so that it is one
        found = interleave(session, "cache", cells)
    cpu = {name: cpu_of(windows) for name, windows in found.items()}
    findings.keep("CPU µs a request, with the response cache and without", cpu)
    rows = []
    for name, windows in found.items():
        beside = str(ratio_of(cpu[name], cpu[BESIDE[name]])) if name in BESIDE else "–"
        rows.append((name, in_micros(cpu[name]), f"{median([window.rate for window in windows]):.0f}", beside))
    columns = ("request", "CPU", "requests/s", "× without (spread)")
    findings.tables.append(Table("The response cache, prompts of 1 kB", columns, rows))
    ours = median(cpu["hit"])
    text = f"{ratio_of(cpu['hit'], cpu[BESIDE['hit']])} × own without"
    findings.hold("CPU a hit of the response cache", GOAL, ours, f"{ours:.1f} µs", ratio=text)

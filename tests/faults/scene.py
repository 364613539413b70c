"""The scene of a fault: a simulator, one or more hosts with accounts on every kind of limit, and the verdict."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

import msgspec

from tests.faults.checker import Findings, Limit, Limits, check, database_url, read_at_rest
from tests.faults.crowd import Asked, Who, models
from tests.faults.hosts import Host
from tests.harness import provider
from tests.sim.running import Running, running
from waypost.sim.journal import read_journal

MICRO_CENT = 10_000  # nano-dollars

PLANS: dict[str, tuple[str, tuple[Limit, ...]]] = {
    "open": ("", ()),
    "daily": ("requests = {{ day = {daily} }}", (Limit("requests", "day", 0),)),
    "minutely": ("requests = {{ minute = 60 }}", (Limit("requests", "minute", 60),)),
    "streams": ("streams = 3", (Limit("streams", "total", 3),)),
    "tokens": ("tokens = {{ day = {tokens} }}", (Limit("tokens", "day", 0),)),
    "spend": ('spend = {{ day = "0.05" }}', (Limit("spend", "day", 50_000_000),)),
}
"""Plan → its table's text and its limits; those of 0 units are the scene's to say."""


class Scene(msgspec.Struct, frozen=True):
    """What a run's configuration was, for the checker."""

    config: str
    limits: Limits


def scene(base: str, *, daily: int, tokens: int, clients: int, extra: str = "", server: str = "") -> Scene:
    """Each plan has one account of its own name. `daily`: requests; `tokens`: a day's; `extra`: more of the file."""
    text = server + provider("sim", base) + models(clients) + extra
    limits = {}
    for name, (table, each) in PLANS.items():
        text += f"[plans.{name}]\n{table.format(daily=daily, tokens=tokens)}\n"
        units = {"daily": daily, "tokens": tokens}.get(name)
        limits[name] = [Limit(limit.what, limit.window, units or limit.units) for limit in each]
    return Scene(text, limits)


def accounts(served: Host) -> list[Who]:
    """A key of each account."""
    return [Who(name, served.key(name, name), 2 if name == "open" else 1) for name in PLANS]


def verdict(served: Host, simulator: Running, log: list[Asked], limits: Limits, url: str = "sqlite") -> Findings:
    """At rest, and then at the end, with the product's own opinion: `waypost ledger verify` has to agree.

    Stops the host.
    """
    where = database_url(served.data, url)
    books = read_at_rest(where, log)
    findings = check(books, log, read_journal(simulator.journal), limits)
    code = served.stop()
    if code != 0:
        findings.violations.append(f"serve ended with exit code {code}")
    after = check(read_at_rest(where, log), log, read_journal(simulator.journal), limits)
    findings.violations += [f"after the end: {text}" for text in after.violations if text not in findings.violations]
    done = served.run("ledger", "verify")
    if done.returncode != 0:
        findings.violations.append(f"ledger verify: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return findings


@contextlib.contextmanager
def own_simulator() -> Iterator[Running]:
    """A simulator whose journal is this scene's alone."""
    with tempfile.TemporaryDirectory(prefix="waypost-sim-") as folder:
        with running(pathlib.Path(folder) / "journal.jsonl") as simulator:
            yield simulator

"""The scene of a fault: a simulator, one or more hosts with accounts on every kind of limit, and the verdict."""

from __future__ import annotations

import contextlib
import pathlib
import pickle
import tempfile
from collections.abc import Iterator

import msgspec

from tests.faults.checker import Findings, Limit, Limits, check, database_url, noon_zone, read_at_rest
from tests.faults.crowd import Asked, Who, models
from tests.faults.hosts import Host
from tests.harness import provider
from tests.sim.running import Running, running
from waypost.dollars import render_dollars
from waypost.messages import CreditAccount
from waypost.sim.journal import read_journal

PLANS: dict[str, tuple[str, tuple[Limit, ...]]] = {
    "open": ("", ()),
    "daily": ("requests = {{ day = {daily} }}", (Limit("requests", "day", 0),)),
    "minutely": ("requests = {{ minute = 60 }}", (Limit("requests", "minute", 60),)),
    "streams": ("streams = 3", (Limit("streams", "total", 3),)),
    "tokens": ("tokens = {{ day = {tokens} }}", (Limit("tokens", "day", 0),)),
    "spend": ('spend = {{ day = "{dollars}" }}', (Limit("spend", "day", 0),)),
    "prepaid": ("", (Limit("balance", "total", 0),)),
}
"""Plan → its table's text and its limits; those of 0 units are the scene's to say."""


class Scene(msgspec.Struct, frozen=True):
    """What a run's configuration was, for the checker."""

    config: str
    limits: Limits


def scene(base: str, *, daily: int, tokens: int, clients: int, store: str = "") -> Scene:
    """Each plan has one account of its own name. `daily`: requests; `tokens`: a day's; `store`: its table's lines."""
    text = f"[store]\n{store}\n" + provider("sim", base) + models(clients)
    money = 8000 * tokens  # nano-dollars, at the price of output
    limits, zone = {}, noon_zone()
    for name, (table, each) in PLANS.items():
        table = table.format(daily=daily, tokens=tokens, dollars=render_dollars(money))
        text += f'[plans.{name}]\n{table}\ntimezone = "{zone}"\n'
        units = {"daily": daily, "tokens": tokens, "spend": money, "prepaid": money}.get(name)
        limits[name] = [Limit(limit.what, limit.window, units or limit.units, zone) for limit in each]
    return Scene(text, limits)


def accounts(served: Host, setting: Scene) -> list[Who]:
    """A key of each account; the prepaid one has paid."""
    who = [Who(name, served.key(name, name), 2 if name == "open" else 1) for name in PLANS]
    (balance,) = setting.limits["prepaid"]
    served.administer(CreditAccount("prepaid", add=balance.units, prepaid=True))
    return who


def verdict(served: Host, simulator: Running, log: list[Asked], limits: Limits, url: str = "sqlite") -> Findings:
    """At rest, and then at the end, with the product's own opinion: `waypost ledger verify` has to agree.

    Stops the host.
    """
    where = database_url(served.data, url)
    books = read_at_rest(where, log)
    exchanges = read_journal(simulator.journal)
    findings = check(books, log, exchanges, limits)
    if findings.violations:
        (served.folder / "evidence").write_bytes(pickle.dumps((books, log, exchanges, limits)))  # see FAULTS_KEEP
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
    with (
        tempfile.TemporaryDirectory(prefix="waypost-sim-") as folder,
        running(pathlib.Path(folder) / "journal.jsonl") as simulator,
    ):
        yield simulator

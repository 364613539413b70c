"""kill -9 under load, again and again, and then the books are held against what clients and simulator saw.

    python -m tests.faults.kill_cycles 200 [--target worker|keeper|both|all|supervisor|reload|mixed] [--seed N]
                                           [--workers N] [--database sqlite|postgresql] [--sync none|second|always]

`both` is a worker and the keeper, `all` every process at once, `supervisor` the supervisor alone; `reload` kills nobody
but takes every unit back, and the next kill comes at once. After each kill the load has to get a good answer
before the next; the moment of a kill is drawn from up to `--pause` seconds. Exit code 1 if a rule is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
from collections import Counter

import msgspec

from tests.faults.checker import Findings
from tests.faults.crowd import Crowd
from tests.faults.hosts import Host, host
from tests.faults.scene import accounts, own_simulator, scene, verdict
from tests.harness import wait_until
from tests.postgres import running_postgres

TARGETS = ("worker", "keeper", "all", "reload", "supervisor", "both")


class Told(msgspec.Struct):
    """How a run went. `recoveries`: seconds from each kill to the next good answer to a request sent after it."""

    kills: Counter[str]
    recoveries: list[float]
    statuses: Counter[int]
    findings: Findings
    seconds: float

    def __str__(self) -> str:
        ordered = sorted(self.recoveries)
        middle, last = ordered[len(ordered) // 2], ordered[-1]
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return (
            f"{sum(self.kills.values())} kills ({kills}) in {self.seconds:.0f} s; good again after {middle:.2f} s "
            f"(median), {last:.2f} s (longest); statuses {dict(sorted(self.statuses.items()))}\n{self.findings}"
        )


def run(
    cycles: int,
    target: str,
    seed: int,
    *,
    clients: int = 24,
    workers: int = 2,
    pause: float = 2.0,
    rest: float = 0.2,
    database: str = "sqlite",
    sync: str = "none",
) -> Told:
    """So many kills, and the verdict. `pause`, `rest`: seconds between kills at most, between requests on average."""
    dice = random.Random(seed)
    began = time.monotonic()
    with own_simulator() as simulator:
        store = f'database = "{database}"\njournal_sync = "{sync}"\n'
        # Some two thirds of what would be asked for.
        daily, tokens = 5 + 4 * cycles, 1000 + 200 * cycles
        setting = scene(simulator.base, daily=daily, tokens=tokens, clients=clients, store=store)
        with host(setting.config, workers=workers) as served:
            crowd = Crowd(lambda: served.address, accounts(served, setting), clients=clients, seed=seed, pause=rest)
            crowd.start()
            kills: Counter[str] = Counter()
            recoveries = []
            for number in range(cycles):
                time.sleep(dice.uniform(0.02, pause))
                kind = TARGETS[number % len(TARGETS)] if target == "mixed" else target
                at = time.time()
                kill(served, kind, dice)
                kills[kind] += 1
                wait_until(lambda: crowd.seen(200, at), f"a good answer after killing {kind}", 60)  # noqa: B023
                recoveries.append(time.time() - at)
            log = crowd.stop()
            findings = verdict(served, simulator, log, setting.limits, database)
            statuses = Counter(asked.status for asked in log)
            return Told(kills, recoveries, statuses, findings, time.monotonic() - began)


def kill(served: Host, kind: str, dice: random.Random) -> None:
    """One kill; a supervisor that is gone is started again, which waits for what it left behind."""
    if kind == "worker":
        wait_until(served.workers, "a worker to kill")
        served.kill(dice.choice(served.workers()))
    elif kind == "keeper":
        wait_until(served.keeper, "a keeper to kill")
        served.kill(served.keeper())
    elif kind == "both":
        wait_until(lambda: served.workers() and served.keeper(), "a worker and a keeper to kill")
        served.kill(dice.choice(served.workers()), served.keeper())
    elif kind == "reload":
        assert served.process is not None
        served.process.send_signal(signal.SIGHUP)
    elif kind == "all":
        served.kill_all()
        served.start()
    else:
        served.kill_supervisor()
        served.start()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill_cycles")
    parser.add_argument("cycles", type=int)
    parser.add_argument("--target", choices=[*TARGETS, "mixed"], default="mixed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pause", type=float, default=2.0)
    parser.add_argument("--rest", type=float, default=0.2)
    parser.add_argument("--sync", choices=["none", "second", "always"], default="none")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        database = "sqlite"
        if options.database == "postgresql":
            database = stack.enter_context(stack.enter_context(running_postgres()).fresh())
        told = run(
            options.cycles,
            options.target,
            options.seed,
            workers=options.workers,
            pause=options.pause,
            rest=options.rest,
            sync=options.sync,
            database=database,
        )
    print(told)
    return 1 if told.findings.violations else 0


if __name__ == "__main__":
    sys.exit(main())

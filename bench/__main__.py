"""`python -m bench`: makes the measures asked for and writes `bench/results/<date>.md`; exits 2 where it can't."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
from functools import partial

from bench import measures, peers
from bench.caching import measure_cache
from bench.gateways import Waypost, start_nginx, start_upstream
from bench.machine import ROOT, Unable, describe_machine, find_tool, install_tools
from bench.report import Findings, free_name, render_results
from bench.windows import Session

METHOD = """The gateway is pinned to one core; the load (wrk, 64 connections, or our own reader of streams) and the mock
upstream (nginx with a fixed completion, or our own pacer of events) share the others. Windows are interleaved A B B A;
a ratio is the median of the ratios of pairs, with the smallest and the largest in brackets. CPU is user and system time
of all the gateway's processes, by the scheduler's own counters, read once they have come to rest; memory is the
proportional set size. Waypost runs as `waypost serve` does, with a key to check and a plan whose limits never bite; its
supervisor and keeper are counted too. nginx only forwards."""
NEED_WRK = {"non-stream", "latency", "tls", "memory", "workers", "cache", "peers"}


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two pairs of 2 s: to see that all works, not to quote")
    parser.add_argument(
        "--only", default="", help="start,non-stream,stream,formats,latency,tls,memory,workers,cache,peers"
    )
    parser.add_argument("--pairs", type=int, help="windows of each kind (10)")
    parser.add_argument("--seconds", type=float, help="length of a window (5)")
    parser.add_argument("--waypost", metavar="FILE", help="the program to measure (the one beside this Python)")
    parser.add_argument(
        "--peers-venv",
        action="append",
        type=pathlib.Path,
        default=[],
        metavar="DIR",
        help="a virtual environment with LiteLLM or TensorZero; may be given twice",
    )
    parser.add_argument(
        "--peers-node",
        type=pathlib.Path,
        default=ROOT,
        metavar="DIR",
        help="a folder whose node_modules has @portkey-ai/gateway",
    )
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="instead of bench/results/<date>.md")
    return parser.parse_args()


def render_command(options: argparse.Namespace) -> str:
    """The command as anyone can repeat it, without this machine's folders."""
    words = ["python -m bench", *(["--quick"] if options.quick else [])]
    words += [f"--{name} {value}" for name in ("only", "pairs", "seconds") if (value := getattr(options, name))]
    words += ["--peers-venv DIR"] * len(options.peers_venv) + ["--peers-node DIR"] * (options.peers_node != ROOT)
    return " ".join(words)


def choose_measures(options: argparse.Namespace) -> dict[str, measures.Measure]:
    """The measures asked for, in the order they run. Raises Unable for a name there is none of."""
    places = peers.Places(options.peers_venv, options.peers_node)
    known: dict[str, measures.Measure] = {
        "start": measures.measure_start,
        "non-stream": measures.measure_requests,
        "stream": measures.measure_streams,
        "formats": measures.measure_formats,
        "latency": measures.measure_latency,
        "tls": measures.measure_tls,
        "memory": measures.measure_memory,
        "workers": measures.measure_workers,
        "cache": measure_cache,
        "peers": partial(peers.measure_peers, places=places),
    }
    asked = [name for name in options.only.split(",") if name] or list(known)
    if unknown := set(asked) - set(known):
        raise Unable(f"there is no measure {', '.join(unknown)}; there are {', '.join(known)}.")
    return {name: known[name] for name in known if name in asked}


def open_session(options: argparse.Namespace, stack: contextlib.ExitStack) -> Session:
    """The mock and nginx running, Waypost found, ourselves on the load's cores. Raises Unable where that can't be."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Unable("two cores are needed: one for the gateway, one for the load and the mock upstream.")
    gateway, load = cores[:1], cores[1:]
    os.sched_setaffinity(0, load)
    beside = pathlib.Path(sys.executable).with_name("waypost")
    program = options.waypost or (str(beside) if beside.exists() else shutil.which("waypost"))
    if program is None:
        raise Unable("there is no `waypost` beside this Python: run `make bench`, or give --waypost FILE.")
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
    upstream = start_upstream(stack, load, folder)
    nginx = start_nginx(stack, upstream, gateway, folder)
    pairs, seconds, warm = (2, 2.0, 1.0) if options.quick else (10, 5.0, 3.0)
    pairs, seconds = options.pairs or pairs, options.seconds or seconds
    waypost = Waypost(program, upstream, folder)
    return Session(gateway, load, pairs, seconds, warm, folder, upstream, nginx, waypost, say)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"· {text}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> Findings:
    """Every measure asked for; one that can't be made leaves a remark and does not stop the others."""
    chosen, findings = choose_measures(options), Findings()
    findings.remarks.append(f"Load average when the run began: {os.getloadavg()[0]:.2f}; an idle machine has about 0.")
    with contextlib.ExitStack() as stack:
        session = open_session(options, stack)
        for name, measure in chosen.items():
            if name in NEED_WRK and find_tool("wrk") is None:
                findings.miss(f"{name} was left out: wrk is not installed (Debian: apt-get install wrk).")
                continue
            try:
                measure(session, findings)
            except Unable as error:
                say(str(error))
                findings.miss(f"{name} could not be measured: {error}")
    return findings


def main() -> int:
    """Measure, write the results, print the table of goals. 0 when all was measured, 2 when something could not be."""
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended on the way out
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    install_tools(("nginx", "wrk"), say)
    machine = describe_machine()
    try:
        findings = run(options)
    except Unable as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    tables = [table for table in (findings.goals(), *findings.tables) if table.rows]
    print(*(f"{table.title}\n\n{table.render()}" for table in tables), *findings.remarks, sep="\n")
    if not tables:
        print("bench: nothing was measured, and nothing written.", file=sys.stderr)
        return 2
    output = options.output or free_name(ROOT / "bench" / "results")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(render_results(findings, {**machine, "command": f"`{render_command(options)}`"}, METHOD))
    print("written:", output.relative_to(ROOT) if output.is_relative_to(ROOT) else output)
    return 2 if findings.incomplete else 0


if __name__ == "__main__":
    sys.exit(main())

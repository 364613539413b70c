"""Other gateways, each a row: how to find it here, how to start it before the same mock. We never install one."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import msgspec

from bench.gateways import Gateway, Target, Upstream, is_answering
from bench.machine import Process, Unable, first_line, free_port, memory_by_process
from bench.measures import cpu_of, cpu_per_event
from bench.report import Findings, Table
from bench.windows import Session, interleave, ratio_of, request_window, stream_window

START_SECONDS = 120
# Requests/s below which a gateway is asked more gently: at 64 connections and 200 streams it would only be drowned, and
# much of a window would be left unanswered.
SLOW = 2_000
KINDS = ("plain", "stream")


class Places(msgspec.Struct, frozen=True):
    """Where to look besides PATH: virtual environments, and a folder that holds `node_modules`."""

    venvs: Sequence[pathlib.Path]
    node: pathlib.Path

    def program(self, name: str) -> str | None:
        """A program of one of the environments, or of PATH."""
        inside = (venv / "bin" / name for venv in self.venvs)
        return next((str(path) for path in inside if path.exists()), None) or shutil.which(name)


class Setting(msgspec.Struct, frozen=True):
    """What a peer is started with."""

    program: str
    upstream: Upstream
    cores: Sequence[int]
    folder: pathlib.Path
    stack: contextlib.ExitStack

    def base_url(self, kind: str) -> str:
        """The mock, as a provider of the OpenAI format."""
        return f"http://127.0.0.1:{self.upstream.ports[kind]}/v1"

    def run(self, command: Sequence[str], **env: str) -> Process:
        """A process that ends with the measure."""
        return self.stack.enter_context(Process(command, self.cores, self.folder / "log", **env))


Started = tuple[Process, dict[str, Target]]


class Peer(msgspec.Struct, frozen=True):
    """`find` gives program and version, or None; `start` the process and its targets, which may not be ready yet."""

    name: str
    how: str
    find: Callable[[Places], tuple[str, str] | None]
    start: Callable[[Setting], Started]


def package_version(python: str | pathlib.Path, package: str) -> str:
    """The version of a package installed for another Python; empty when it is not."""
    said = first_line(str(python), "-c", f"import importlib.metadata as m; print(m.version({package!r}))")
    return said if re.match(r"\d", said) else ""


# LiteLLM ----------------------------------------------------------------------------------------------------------


def find_litellm(places: Places) -> tuple[str, str] | None:
    """The `litellm` command."""
    program = places.program("litellm")
    return (program, package_version(pathlib.Path(program).with_name("python"), "litellm")) if program else None


def start_litellm(setting: Setting) -> Started:
    """Its proxy, told to fetch and report nothing."""
    port, config = free_port(), setting.folder / "config.yaml"
    upstream = {kind: {"api_base": setting.base_url(kind), "api_key": "sk-bench"} for kind in KINDS}
    models = [
        {"model_name": kind, "litellm_params": {"model": "openai/gpt-4o-mini", **upstream[kind]}} for kind in KINDS
    ]
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": "sk-bench-caller"}}))
    command = [setting.program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    process = setting.run([*command, "--num_workers", "1", "--telemetry", "False"], **quiet)
    credential = {"authorization": "Bearer sk-bench-caller"}
    return process, {kind: Target(port, kind, credential) for kind in KINDS}


# Portkey ----------------------------------------------------------------------------------------------------------

# It takes a port but no address to listen on: loaded before it, this keeps it on loopback.
LOOPBACK = """const { Server } = require('node:net'), listen = Server.prototype.listen;
Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, { port, host: '127.0.0.1' }, ...rest.filter((one) => typeof one === 'function'));
};
"""


def find_portkey(places: Places) -> tuple[str, str] | None:
    """The npm package and Node."""
    package, node = places.node / "node_modules" / "@portkey-ai" / "gateway", shutil.which("node")
    script = package / "build" / "start-server.js"
    return (
        (str(script), json.loads((package / "package.json").read_text())["version"])
        if node and script.exists()
        else None
    )


def start_portkey(setting: Setting) -> Started:
    """Its server; each request names its upstream in a header."""
    port, first = free_port(), setting.folder / "loopback.cjs"
    first.write_text(LOOPBACK)
    command = ["node", "--require", str(first), setting.program, f"--port={port}", "--headless"]
    process = setting.run(command, NODE_ENV="production", TRUSTED_CUSTOM_HOSTS="127.0.0.1")
    caller = {"authorization": "Bearer sk-bench", "x-portkey-provider": "openai"}
    to = {kind: {**caller, "x-portkey-custom-host": setting.base_url(kind)} for kind in KINDS}
    return process, {kind: Target(port, "gpt-4o-mini", to[kind]) for kind in KINDS}


# TensorZero -------------------------------------------------------------------------------------------------------

# Its Python package carries the whole gateway, and serves it on a port of the kernel's choosing.
EMBEDDED = """import sys, threading, tensorzero
none = dict(clickhouse_url=None, postgres_url=None, valkey_url=None)
gateway = tensorzero._start_http_gateway(config_file=sys.argv[1], async_setup=False, **none)
print("listening on", gateway.base_url.split("/")[2], flush=True)
threading.Event().wait()
"""


def find_tensorzero(places: Places) -> tuple[str, str] | None:
    """The gateway's binary, or the package in one of the environments."""
    if binary := places.program("tensorzero-gateway"):
        return binary, first_line(binary, "--version")
    pythons = (venv / "bin" / "python" for venv in places.venvs)
    found = ((str(python), package_version(python, "tensorzero")) for python in pythons)
    return next((pair for pair in found if pair[1]), None)


def start_tensorzero(setting: Setting) -> Started:
    """Its gateway, by itself or as the package embeds it."""
    port, config, binary = free_port(), setting.folder / "tensorzero.toml", setting.program.endswith("-gateway")
    head = "[gateway]\nobservability.enabled = false\n" + f'bind_address = "127.0.0.1:{port}"\n' * binary
    models = [
        f'[models.{kind}]\nrouting = ["mock"]\n[models.{kind}.providers.mock]\ntype = "openai"\n'
        f'model_name = "gpt-4o-mini"\napi_base = "{setting.base_url(kind)}/"\napi_key_location = "none"\n'
        for kind in KINDS
    ]
    config.write_text("\n".join([head, *models]))
    process = setting.run([setting.program, *(["--config-file"] if binary else ["-c", EMBEDDED]), str(config)])
    if not binary:
        address = re.compile(r"listening on [^:]+:(\d+)\n")
        process.wait_for(lambda: bool(address.search(process.log.read_text())), "tensorzero", START_SECONDS)
        port = int(address.findall(process.log.read_text())[0])
    path, model = "/openai/v1/chat/completions", "tensorzero::model_name::{}"
    return process, {kind: Target(port, model.format(kind), {}, path) for kind in KINDS}


PEERS = (
    Peer("TensorZero", "no authentication, observability off", find_tensorzero, start_tensorzero),
    Peer("Portkey", "no authentication", find_portkey, start_portkey),
    Peer("LiteLLM", "a master key, no database", find_litellm, start_litellm),
)


# The measure ------------------------------------------------------------------------------------------------------


def start_peers(
    session: Session, findings: Findings, places: Places, stack: contextlib.ExitStack
) -> list[tuple[Gateway, str]]:
    """Every peer found that answers, with a word on how it runs."""
    running = []
    for peer in PEERS:
        program, version = peer.find(places) or ("", "")
        if not program:
            findings.remarks.append(f"{peer.name} was not found.")
            continue
        session.say(f"peers: starting {peer.name} {version}")
        folder = session.folder / peer.name
        folder.mkdir()
        try:
            process, targets = peer.start(Setting(program, session.upstream, session.gateway, folder, stack))
            process.wait_for(partial(is_answering, targets["plain"]), "a completion through it", START_SECONDS)
            running.append((Gateway(peer.name, process.pid, targets), f"{version}, {peer.how}"))
        except Unable as error:
            session.say(str(error))
            findings.miss(f"{peer.name} {version} could not be measured: {error}")
    return running


def measure_peers(session: Session, findings: Findings, places: Places) -> None:
    """CPU a request and an event of every gateway found, nginx and Waypost among them, in the same turns."""
    pairs, window = max(2, session.pairs // 2), partial(request_window, session)
    with contextlib.ExitStack() as stack:
        peers = start_peers(session, findings, places, stack)
        if not peers:
            return
        waypost = session.waypost.start(stack, session.gateway)
        running = [(session.nginx, "proxy_pass"), (waypost, "a key, keeper included"), *peers]
        rates = {g.name: window(g, connections=8, seconds=session.warm).rate for g, _ in running}
        cells = {g.name: partial(window, g, connections=64 if rates[g.name] > SLOW else 8) for g, _ in running}
        requests = interleave(session, "peers, non-stream", cells, pairs)
        streams = {g.name: partial(stream_window, session, g, 200 if rates[g.name] > SLOW else 10) for g, _ in running}
        for gateway, _ in running:
            try:
                stream_window(session, gateway, 10, seconds=1)
            except Unable as error:
                del streams[gateway.name]
                findings.remarks.append(f"Left out of the streams: {error}")
        events = interleave(session, "peers, stream", streams, pairs)
        sizes = {gateway.name: sum(memory_by_process(gateway.pid).values()) / 1024 for gateway, _ in running}
    cpu = {name: cpu_of(found) for name, found in requests.items()}
    streamed = {name: cpu_per_event(found) for name, found in events.items()}
    findings.keep("Peers: CPU µs a request, 1 kB prompt", cpu)
    findings.keep("Peers: CPU µs an event", streamed)
    rows = []
    for gateway, how in running:
        name = gateway.name
        rate = f"{median([found.rate for found in requests[name]]):.0f}"
        rows.append((name, how, *in_columns(cpu, name), rate, *in_columns(streamed, name), f"{sizes[name]:.0f}"))
    head = ("gateway", "how", "CPU µs a request", "× nginx", "requests/s", "CPU µs an event", "× nginx", "MB")
    findings.tables.append(Table("Beside other gateways, 1 kB prompt", head, rows))
    gentle = ", ".join(name for name, rate in rates.items() if rate <= SLOW) or "none"
    findings.remarks.append(f"Asked over 8 connections and 10 streams instead of 64 and 200, being slow: {gentle}.")


def in_columns(cpu: dict[str, list[float]], name: str) -> tuple[str, str]:
    """The median and its ratio to nginx's, or dashes for what could not be measured."""
    return (f"{median(cpu[name]):.1f}", str(ratio_of(cpu[name], cpu["nginx"]))) if name in cpu else ("–", "–")

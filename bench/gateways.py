"""What is measured and what it talks to: the mock upstreams, nginx as the floor, and Waypost."""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import msgspec
import trustme

from bench.machine import ROOT, Process, Unable, find_tool, free_port, run_to_end
from bench.vendors import VENDORS

COMPLETION = (ROOT / "bench" / "completion.json").read_text()
# The kinds of upstream: which port of the mock, and the upstream's name for the model.
KINDS = {
    "plain": ("plain", "gpt-4o-mini"),
    "tls": ("tls", "gpt-4o-mini"),
    "stream": ("stream", "gpt-4o-mini"),
    "slow": ("stream", "gpt-4o-mini-slow"),
}


class Target(msgspec.Struct, frozen=True):
    """Where one kind of request goes: a port on loopback, and the model and headers the gateway there wants."""

    port: int
    model: str = ""
    headers: dict[str, str] = {}
    path: str = "/v1/chat/completions"
    script: str = ""  # the format in which it answers, "" for OpenAI's
    varies: bool = False  # each request is another one, by a `seed` of its own


class Gateway(msgspec.Struct, frozen=True):
    """A running gateway: the process whose tree is clocked, and a target for each kind of upstream it was given."""

    name: str
    pid: int
    targets: dict[str, Target]


class Upstream(msgspec.Struct, frozen=True):
    """The running mock: a port for fixed completions, for the same behind TLS (signed by `ca`), and for streams."""

    pid: int
    ports: dict[str, int]
    ca: pathlib.Path

    def direct(self) -> Gateway:
        """The mock itself in a gateway's place."""
        return Gateway("direct", self.pid, targets_at({kind: self.ports[port] for kind, (port, _) in KINDS.items()}))


def targets_at(ports: Mapping[str, int]) -> dict[str, Target]:
    """Targets that call each model by the upstream's own name."""
    return {kind: Target(ports[kind], model) for kind, (_, model) in KINDS.items()}


def render_body(model: str, prompt_bytes: int, stream: bool = False) -> str:
    """A chat completion request whose last prompt is `prompt_bytes` long: prose with quotes and line ends to escape."""
    prose = 'He asked: "how does a token bucket work?"\nExplain it in one paragraph, please. '
    prompt = (prose * (prompt_bytes // len(prose) + 1))[:prompt_bytes]
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": prompt}]
    how = {"stream": True, "stream_options": {"include_usage": True}} if stream else {"max_tokens": 64}
    return json.dumps({"model": model, "messages": messages, "temperature": 0.2, **how})


def is_ready(port: int, path: str) -> bool:
    """Whether a GET is answered with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


def is_answering(target: Target) -> bool:
    """Whether a completion comes back whole: 200, with the mock's text in it."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=10)
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        with contextlib.closing(connection):
            headers = {"content-type": "application/json", "accept": "application/json", **target.headers}
            connection.request("POST", target.path, render_body(target.model, 100), headers)
            answer = json.loads(connection.getresponse().read())
        return bool(answer["choices"][0]["message"]["content"] in COMPLETION)
    return False


# nginx: the mock, and the floor -----------------------------------------------------------------------------------


def _start_nginx(stack: contextlib.ExitStack, servers: str, cores: Sequence[int], place: pathlib.Path) -> Process:
    program = find_tool("nginx")
    if program is None:
        raise Unable("nginx is the mock upstream and the floor: install it first (Debian: apt-get install nginx).")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (place / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {place}/pid; events {{ worker_connections 16384; }}\n"
        "http { access_log off; "
        + " ".join(f"{kind}_temp_path {place}/{kind};" for kind in kinds)
        + "client_body_buffer_size 1m; client_max_body_size 32m; default_type application/json;\n"
        + f"keepalive_requests 1000000000; keepalive_timeout 1h;\n{servers}\n}}\n"
    )
    command = [program, "-e", str(place / "errors"), "-c", str(place / "nginx.conf")]
    return stack.enter_context(Process(command, cores, place / "log"))


def start_upstream(stack: contextlib.ExitStack, cores: Sequence[int], folder: pathlib.Path) -> Upstream:
    """The mock upstreams on the load's cores, and a certificate authority of their own for the one behind TLS."""
    place, authority = pathlib.Path(tempfile.mkdtemp(dir=folder)), trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(place / "own.pem"))
    plain, tls, answer = free_port(), free_port(), f"backlog=4096; location / {{ return 200 '{COMPLETION}'; }} }}"
    certificate = (
        f"ssl_certificate {place}/own.pem; ssl_certificate_key {place}/own.pem; ssl_protocols TLSv1.2 TLSv1.3;"
    )
    servers = f"{certificate} server {{ listen 127.0.0.1:{plain} {answer} server {{ listen 127.0.0.1:{tls} ssl {answer}"
    mock = _start_nginx(stack, servers, cores, place)
    mock.wait_for(lambda: is_answering(Target(plain)), "the mock upstream", 10)
    streams = stack.enter_context(Process([sys.executable, "-m", "bench.streams", "mock"], cores, place / "streams"))
    streams.wait_for(lambda: streams.log.read_bytes().endswith(b"\n"), "the mock of streams", 20)
    return Upstream(mock.pid, {"plain": plain, "tls": tls, "stream": int(streams.log.read_text())}, place / "ca.pem")


def start_nginx(stack: contextlib.ExitStack, upstream: Upstream, cores: Sequence[int], folder: pathlib.Path) -> Gateway:
    """nginx as a keep-alive reverse proxy in one process: what any gateway has to do at least."""
    ports = {kind: free_port() for kind in KINDS}
    scheme = {kind: "https" if kind == "tls" else "http" for kind in KINDS}
    secure = f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {upstream.ca}; proxy_ssl_name localhost;"
    forever = "keepalive_requests 1000000000;"
    servers = "\n".join(
        f"upstream {kind} {{ server 127.0.0.1:{upstream.ports[port]}; keepalive 2048; {forever} }}\n"
        f"server {{ listen 127.0.0.1:{ports[kind]} backlog=4096; location / {{ proxy_pass {scheme[kind]}://{kind};"
        f' proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; {secure} }} }}'
        for kind, (port, _) in KINDS.items()
    )
    process = _start_nginx(stack, servers, cores, pathlib.Path(tempfile.mkdtemp(dir=folder)))
    vendors = {
        name: Target(ports["stream"], vendor.model, path=vendor.path, script=name) for name, vendor in VENDORS.items()
    }
    gateway = Gateway("nginx", process.pid, targets_at(ports) | vendors)
    process.wait_for(lambda: all(is_answering(gateway.targets[kind]) for kind in ("plain", "tls")), "nginx", 10)
    return gateway


# Waypost ----------------------------------------------------------------------------------------------------------


class Waypost:
    """How to start Waypost here: its program, and a config whose routes each lead to one of the mock's ports."""

    def __init__(self, program: str, upstream: Upstream, folder: pathlib.Path) -> None:
        self.program, self.folder, self.config = program, folder, folder / "waypost.toml"
        self.config.write_text(render_config(upstream))

    def new_data(self) -> pathlib.Path:
        """An empty data folder."""
        return pathlib.Path(tempfile.mkdtemp(prefix="data-", dir=self.folder))

    def spawn(self, cores: Sequence[int], workers: int, data: pathlib.Path) -> tuple[Process, int, float]:
        """`waypost serve` on a data folder: process, port, and seconds to the first 200 of /readyz."""
        port, began = free_port(), time.perf_counter()
        command = [self.program, "serve", "--config", str(self.config), "--data", str(data)]
        process = Process([*command, "--listen", f"127.0.0.1:{port}", "--workers", str(workers)], cores, data / "log")
        with contextlib.ExitStack() as undo:
            undo.enter_context(process)
            process.wait_for(lambda: is_ready(port, "/readyz"), "waypost serve", 30)
            undo.pop_all()
        return process, port, time.perf_counter() - began

    def create_key(self, data: pathlib.Path) -> str:
        """A fresh key in the data folder's books. Raises Unable when what is printed is not a key."""
        command = [self.program, "keys", "create", "--account", "bench", "--plan", "bench"]
        key = run_to_end([*command, "--config", str(self.config), "--data", str(data)], (0,), 60).strip()
        if not re.fullmatch(r"rk_[0-9a-f]{64}", key):
            raise Unable("`waypost keys create` did not print a key.")
        return key

    def gateway(self, process: Process, port: int, key: str) -> Gateway:
        """The targets of a running one."""
        credential = {"authorization": f"Bearer {key}"}
        kinds = (*KINDS, *VENDORS)
        return Gateway("Waypost", process.pid, {kind: Target(port, f"route/{kind}", credential) for kind in kinds})

    def start(self, stack: contextlib.ExitStack, cores: Sequence[int], workers: int = 1) -> Gateway:
        """A fresh one, with a key, proven to answer."""
        data = self.new_data()
        process, port, _ = self.spawn(cores, workers, data)
        stack.enter_context(process)
        gateway = self.gateway(process, port, self.create_key(data))
        process.wait_for(lambda: is_answering(gateway.targets["plain"]), "a completion through waypost", 10)
        return gateway


def render_config(upstream: Upstream) -> str:
    """A provider for each port of the mock, a route for each kind, limits far above what a run can reach."""
    lines = [
        f'[providers.{name}]\nformat = "openai"\nbase_url = "http{"s" * (name == "tls")}://127.0.0.1:{port}/v1"\n'
        f'keys = ["sk-bench"]\n' + f'ca = "{upstream.ca}"\n' * (name == "tls")
        for name, port in upstream.ports.items()
    ]
    lines += [
        f'[models."route/{kind}"]\nchain = ["{port}/{model}"]\nprice = {{ input = "0.15", output = "0.60" }}\n'
        for kind, (port, model) in KINDS.items()
    ]
    root = f"http://127.0.0.1:{upstream.ports['stream']}"
    for name, vendor in VENDORS.items():
        lines.append(f"[providers.{name}]\n{vendor.settings.replace('ROOT', root)}\n")
        chain = f'chain = ["{name}/{vendor.model}"]'
        lines.append(f'[models."route/{name}"]\n{chain}\nprice = {{ input = "0.15", output = "0.60" }}\n')
    limits = 'requests = { minute = 100000000, day = 1000000000 }\nspend = { month = "1000000" }\nstreams = 100000\n'
    return "\n".join([*lines, f'[plans.bench]\nmodels = ["*"]\n{limits}'])

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from tests.sim.running import DEADLINE, read_to_end, request, running, wait_until
from waypost.sim.app import run

WITH_PARENT = "import sys; from waypost.sim.app import run; run('127.0.0.1:0', None, lambda a: print(a, flush=True), 0)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it_at_once(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    with running(tmp_path / "journal") as sim, sim.connect() as client:
        client.sendall(request("hang", asked="nonce:app"))
        wait_until(lambda: sim.get("/journal/summary")["open"] == 1, "the request")
        sim.process.send_signal(number)
        assert sim.process.wait(DEADLINE) == 0
        assert read_to_end(client).data == b""
        assert sim.exchange("nonce:app").end == "client-gone"


def test_it_stops_when_its_parent_has_gone() -> None:
    command = [sys.executable, "-c", WITH_PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(DEADLINE) == 0


def test_unix_socket_even_where_an_old_one_lies(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    command = [sys.executable, "-m", "waypost.sim", "--listen", f"unix:{path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == f"listening on unix:{path}\n"
        for model, status in [("demo", b"HTTP/1.1 200 OK"), ("reset-before-headers", b"")]:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(DEADLINE)
                client.connect(path)
                client.sendall(request(model))
                assert read_to_end(client).status_line == status
        process.terminate()
        assert process.wait(DEADLINE) == 0
    assert not os.path.exists(path)


def test_where_it_cannot_listen() -> None:
    with pytest.raises(ValueError, match="not HOST:PORT"):
        run("8080", None)

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys

import pytest

from tests.sim.running import Running, read_to_end, request, wait_until
from waypost.sim.faults import FAULTS
from waypost.sim.journal import read_journal
from waypost.sim.names import ROWS, UnknownNameError, read_name, render_table
from waypost.sim.options import OPTIONS, Behaviour

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "simulator.md"


def test_names() -> None:
    assert read_name("sim/demo") == read_name("demo")
    assert read_name("ttft-5+gap-20+words-7").behaviour == Behaviour(ttft_ms=5, gap_ms=20, words=7)
    assert read_name("gpt-4o-mini+crlf").behaviour == Behaviour(name="gpt-4o-mini", crlf=True)
    assert read_name("no-done+usage-every").behaviour == Behaviour(done=False, usage="every")
    chosen = read_name("sim/429-retry-after-Wed, 21 Oct").faults
    assert [(c.name, c.arguments) for c in chosen] == [("429-retry-after-Wed, 21 Oct", ("Wed, 21 Oct",))]
    assert [c.fault.pattern for c in read_name("status-500-30").faults] == ["status-NNN-P"]
    assert [c.name for c in read_name("demo", "/sim/hang/v1").faults] == ["hang"]
    assert read_name("demo", "/openai/v1") == read_name("demo")


@pytest.mark.parametrize("slip", ["cut-aftr-3", "sim/hang-", "status-99", "demo+nonsense", "gap-x", "sse-odd", "demo+"])
def test_slips_are_refused(slip: str) -> None:
    with pytest.raises(UnknownNameError):
        read_name(slip)


def test_examples_belong_to_their_rows() -> None:
    for row in OPTIONS:
        assert read_name(row.example).behaviour != Behaviour(), row.pattern
    for fault in FAULTS:
        assert [chosen.fault for chosen in read_name(fault.example).faults] == [fault]


def test_the_page_is_true() -> None:
    assert render_table() in PAGE.read_text(), "docs/simulator.md: print the table anew with render_table()"


def test_list_names_every_row() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "waypost.sim", "--list"], capture_output=True, text=True, check=True
    )
    names = [line.split(maxsplit=1)[0] for line in printed.stdout.splitlines()[1:]]
    assert names == [row.pattern for row in ROWS]


@pytest.mark.parametrize("stream", [False, True])
def test_no_row_harms_the_simulator(sim: Running, stream: bool) -> None:
    """Every name once, the client leaving where the simulator would not end; then it serves as before."""
    for row in ROWS:
        with sim.connect() as client:
            client.sendall(request(row.example, stream=stream, asked=f"Hello nonce:row-{stream}-{row.example}"))
            if row.pattern == "hang":
                wait_until(lambda: any(e.nonce == f"nonce:row-{stream}-hang" for e in read_journal(sim.journal)), "it")
                continue
            with contextlib.suppress(ConnectionResetError):
                client.recv(100)
    fired = {e.nonce: e.fault for e in read_journal(sim.journal)}
    for fault in FAULTS:
        if fault.pattern not in ("close-reused", "status-NNN-P") and "openai" in (fault.formats or ("openai",)):
            assert fired[f"nonce:row-{stream}-{fault.example}"] == fault.example
    with sim.connect() as client:
        client.sendall(request("demo"))
        assert read_to_end(client).status_line == b"HTTP/1.1 200 OK"

"""Clients that hang up at a random moment, thousands of them; afterwards nothing of them may be left (I4).

python -m tests.http.disconnects 20000
"""

from __future__ import annotations

import pathlib
import random
import socket
import struct
import sys
import tempfile
import threading
import time

from tests.harness import Client, Waypost, provider, serving, wait_until
from tests.sim.running import Running, running

MODELS = (
    "demo",
    "ttft-20",
    "gap-2+words-30",
    "words-3000",
    "ttft-5+gap-1+words-50",
    "hang",
    "stall-after-3",
    "close-reused",
)
CONNECTIONS = 16


def quiet(simulator: Running) -> str:
    """A configuration whose idle upstream connections go soon, so that descriptors can be counted."""
    return provider("sim", simulator.base, idle="0.3", connections="64")


def baseline(waypost: Waypost, simulator: Running) -> int:
    """The worker's descriptors at rest, when no connection is kept to the upstream."""
    wait_until(lambda: simulator.get("/journal/summary")["connections_open"] <= 1, "idle upstream connections to go")
    wait_until(lambda: settled(waypost), "the worker's descriptors to settle")
    return waypost.descriptors()


def settled(waypost: Waypost) -> bool:
    before = waypost.descriptors()
    time.sleep(0.25)
    return waypost.descriptors() == before


def hang_up(client: Client, dice: random.Random) -> None:
    """Close, by FIN or by RST."""
    if dice.random() < 0.5:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()


def one(waypost: Waypost, dice: random.Random) -> None:
    """A request that is broken off while it is sent, waited for, or read; or, one time in ten, is not."""
    data = waypost.chat(f"sim/{dice.choice(MODELS)}", "x" * dice.choice((1, 1000, 50_000)), stream=dice.random() < 0.6)
    moment = dice.random()
    client = waypost.connect()
    if moment < 0.2:
        client.send(data[: dice.randrange(len(data))])
    elif moment < 0.5:
        client.send(data)
        time.sleep(dice.random() * 0.01)
    else:
        client.send(data * (2 if moment > 0.9 else 1))
        client.sock.settimeout(dice.random() * 0.03 + 0.001)
        try:
            while client.receive() and dice.random() < 0.9:
                pass
        except TimeoutError:
            pass  # it had its time
    hang_up(client, dice)


def storm(waypost: Waypost, count: int, seed: int = 1) -> None:
    """So many requests, several at a time."""

    def run(number: int) -> None:
        dice = random.Random(seed * 1000 + number)
        for _ in range(count // CONNECTIONS):
            one(waypost, dice)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def check_nothing_is_left(waypost: Waypost, simulator: Running, before: int) -> None:
    """No request open upstream, no descriptor more than before, and the worker serves."""
    wait_until(lambda: simulator.get("/journal/summary")["open"] == 0, "the upstream's requests to end")
    wait_until(lambda: abs(waypost.descriptors() - before) <= 2, f"descriptors to be {before} again")
    assert waypost.ask("sim/demo", "nonce:alive").status == 200
    log = waypost.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]


def main(count: int) -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(pathlib.Path(folder) / "journal.jsonl") as simulator,
        serving(quiet(simulator)) as waypost,
    ):
        waypost.ask("sim/demo")
        before, memory = baseline(waypost, simulator), waypost.memory()
        started = time.monotonic()
        storm(waypost, count, seed=int(time.time()))
        seconds = time.monotonic() - started
        check_nothing_is_left(waypost, simulator, before)
        after, grown = baseline(waypost, simulator), (waypost.memory() - memory) / 1e6
    print(f"{count} requests in {seconds:.0f} s; descriptors {before} → {after}; memory {grown:+.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))

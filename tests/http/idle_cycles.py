"""Idle, then a request, over and over, with an upstream that closes idle connections early (F16).

    python -m tests.http.idle_cycles 500

The upstream closes after 1 to 60 ms of idleness and the requests come 0 to 60 ms after the last answer, so that many
meet a connection that is closing at that very moment.
"""

from __future__ import annotations

import pathlib
import random
import sys
import tempfile
import time

from tests.harness import Waypost, provider, serving
from tests.http.nonces import fresh_nonce
from tests.sim.running import running


def cycle(waypost: Waypost, count: int, seed: int = 1) -> list[str]:
    """What went wrong in so many cycles; nothing should."""
    dice = random.Random(seed)
    wrong = []
    with waypost.connect() as client:
        for number in range(count):
            nonce = fresh_nonce()
            milliseconds = dice.choice((1, 5, 10, 20, 30, 60))
            client.send(waypost.chat(f"sim/idle-close-{milliseconds}", nonce, stream=bool(number % 2)))
            answer = client.answer()
            if answer.status != 200 or nonce not in answer.text:
                wrong.append(f"cycle {number}: {answer.raw!r}")
            time.sleep(max(0.0, milliseconds / 1000 + dice.uniform(-0.004, 0.004)))
    return wrong


def main(count: int) -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(pathlib.Path(folder) / "journal.jsonl") as simulator,
        serving(provider("sim", simulator.base)) as waypost,
    ):
        wrong = cycle(waypost, count, seed=int(time.time()))
    print("\n".join([*wrong, f"{count} cycles, {len(wrong)} failures"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))

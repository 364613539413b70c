"""Writers of a journal that are killed at random moments, and what is left of their lines.

`python -m tests.worker.journal_killed FOLDER ROUNDS SEED` prints a line of JSON for each round: how many lines the
writer said were written, how many are in the journal, in how many segments, how the last ends, whether all is in order.
A process of its own, because it forks.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import pathlib
import random
import signal
import sys
import time

from waypost.journal_file import HEADER, alive_name, parse_header, read_lines, segment_name
from waypost.records import AnyLine, Opened, Settled, Tally, Usage
from waypost.worker.journal import Journal

SEGMENT = 1 << 16


def main(folder: pathlib.Path, rounds: int, seed: int) -> None:
    """All rounds."""
    dice = random.Random(seed)
    for number in range(rounds):
        token = f"{number:016x}"
        acknowledged = killed_writer(folder, token, dice.expovariate(1 / 0.01))
        print(json.dumps(found(folder, f"1-{token}") | {"acknowledged": acknowledged}), flush=True)


def killed_writer(folder: pathlib.Path, token: str, seconds: float) -> int:
    """Let a writer write until it is killed, `seconds` after its first line; how many lines it acknowledged."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            write_for_ever(folder, token, writing)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        last = os.read(reading, 4)
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    while piece := os.read(reading, 1 << 16):  # whole numbers: so short a write to a pipe is never torn
        last = piece[-4:]
    os.close(reading)
    return int.from_bytes(last, "little")


def write_for_ever(folder: pathlib.Path, token: str, acknowledge: int) -> None:
    """Line after line, each acknowledged when `append` has returned; some are long, so that copies take a while."""
    os.set_blocking(acknowledge, False)
    loop = asyncio.new_event_loop()
    journal = Journal(folder, 1, token, max_bytes=1 << 30, clock=time.monotonic, loop=loop, segment=SEGMENT)
    for number in itertools.count():
        journal.append(line(number))
        try:
            os.write(acknowledge, (number + 1).to_bytes(4, "little"))
        except BlockingIOError:  # the pipe is full: nobody reads yet
            time.sleep(0.001)


def line(number: int) -> AnyLine:
    """The line that a writer writes as number `number`."""
    if number % 3 == 0:
        return Opened(b"%026d" % number, number, 1, 1, "all", "m", False, (("a1:requests:total", 1),), 5, 5)
    if number % 3 == 1:
        raw = b"x" * (number * 37 % 5000)
        return Settled(
            b"%026d" % number, number, 200, "", "p", "m", 1, 1, 9, 9, "", Usage(5, output=4), False, 1, 1, raw
        )
    return Tally(number, {}, number, 0)


def found(folder: pathlib.Path, journal: str) -> dict[str, object]:
    """What a reader finds of a dead journal."""
    with open(folder / alive_name(journal), "rb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if anyone still held it
    lines: list[AnyLine] = []
    end = "sealed"
    segments = 0
    while end == "sealed":
        path = folder / segment_name(journal, segments + 1)
        if not path.exists():
            break
        data = path.read_bytes()
        if parse_header(data) is None:
            end = "open"
            break
        segments += 1
        read, _, end = read_lines(data, HEADER)
        lines += read
    in_order = lines == [line(number) for number in range(len(lines))]
    return {"lines": len(lines), "segments": segments, "end": end, "in_order": in_order}


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

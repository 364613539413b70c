"""Requests spread over workers by choice: which worker has a connection is the kernel's draw, but can be looked up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import random

from tests.faults.crowd import Asked, Pipe, Who, ask, headers_of, request_of
from tests.faults.hosts import Host


def workers_by_port(workers: list[int]) -> dict[int, int]:
    """The client's port → the worker that has accepted the connection, from /proc."""
    inodes = {}
    for pid in workers:
        for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                name = os.readlink(descriptor)
                if name.startswith("socket:["):
                    inodes[name[8:-1]] = pid
    ports = {}
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes:
            ports[int(fields[2].rpartition(":")[2], 16)] = inodes[fields[9]]
    return ports


async def open_lanes(served: Host, shares: list[int]) -> list[list[Pipe]]:
    """Connections, `shares[i]` of them to the i-th worker."""
    lanes: list[list[Pipe]] = [[] for _ in shares]
    order = served.workers()
    assert len(order) == len(shares), order
    for _ in range(200 * len(shares)):
        if all(len(lane) == share for lane, share in zip(lanes, shares, strict=True)):
            return lanes
        pipe = Pipe(lambda: served.address)
        await pipe.send(b"GET /healthz HTTP/1.1\r\nhost: waypost\r\n\r\n")
        status, headers = headers_of(await pipe.until(b"\r\n\r\n"))
        assert status == 200
        await pipe.exactly(int(headers["content-length"]))
        index = order.index(workers_by_port(order)[pipe.port])
        if len(lanes[index]) < shares[index]:
            lanes[index].append(pipe)
        else:
            pipe.close()
    raise AssertionError(f"no connection of the kernel's choice fell to some worker: {[len(lane) for lane in lanes]}")


def drive(served: Host, who: Who, shares: list[int], counts: list[int], *, mark: str) -> list[list[Asked]]:
    """`counts[i]` requests over the `shares[i]` connections of the i-th worker, all at the same time."""

    async def run() -> list[list[Asked]]:
        lanes = await open_lanes(served, shares)
        logs: list[list[Asked]] = [[] for _ in lanes]

        async def one(pipe: Pipe, index: int, numbers: list[int]) -> None:
            for number in numbers:
                asked, request = request_of(f"{mark}-{index}-{number}", 0, who, "plain", random.Random(0))
                await ask(pipe, asked, request)
                logs[index].append(asked)
            pipe.close()

        await asyncio.gather(
            *(
                one(pipe, index, list(range(start, counts[index], len(lane))))
                for index, lane in enumerate(lanes)
                for start, pipe in enumerate(lane)
            )
        )
        return logs

    return asyncio.run(run())

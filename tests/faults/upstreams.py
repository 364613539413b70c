"""Upstreams that fail, F1 to F18: what callers saw, and whether any promise was broken.

    python -m tests.faults.upstreams [--requests 2000] [--seconds 45] [--clients 20] [F1 F4 …]

In each scene a sick upstream stands before a healthy one in the chain. Half of the requests are streams. A broken
promise is printed and ends the program with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import pathlib
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import trustme

from tests.chaos import Door, Faults, Proxy, chaos
from tests.harness import Waypost, chat_body, post, provider, serving, wait_until
from tests.sim.running import Running, running

DEADLINE = 6.0  # seconds that the configuration gives a request
QUICK = "{ connect = 1, first_byte = 1, idle = 1, total = 4 }"
Act = Callable[[Proxy, threading.Event], None]


class Seen(msgspec.Struct):
    """One request as its caller saw it. `end`: ok, an error code, frame (an error after the start), or a defect."""

    end: str
    seconds: float
    at: float
    attempts: list[tuple[str, str]] = []  # provider, class of the failure


class Scene(msgspec.Struct, frozen=True):
    """`models` of the sick upstream take turns; `act` spoils its proxy until the event. `success`: the least share."""

    number: str
    what: str
    models: tuple[str, ...] = ("demo",)
    door: Door = "open"
    down: Faults = Faults()
    act: Act | None = None
    success: float = 0.99
    committed: bool = False  # the fault comes after the first words, so errors are right
    leaves: float = 0.0  # share of the callers that hang up
    alone: bool = False  # nobody healthy stands behind it
    slow: bool = False
    hedge: float = 0.0  # seconds after which another is asked beside it


def flap(proxy: Proxy, over: threading.Event) -> None:
    """Refusing and serving in turns."""
    while not over.wait(0.5):
        proxy.spoil(door="refuse" if proxy.door == "open" else "open")
        proxy.cut_all()


def cut(proxy: Proxy, over: threading.Event) -> None:
    """All connections reset, again and again."""
    while not over.wait(0.1):
        proxy.cut_all()


SSE = ("no-colon", "cr", "bom", "nospace", "multiline", "unknown-event", "nul", "bad-utf8", "long-line", "error-first")
FRAMING = (
    "length-short", "length-long", "length-negative", "length-twice", "bad-chunk-size", "missing-last-chunk",
    "garbage-after", "gzip-bomb", "html-200", "not-json", "truncated-json",
)  # fmt: skip

SCENES = (
    Scene("F1", "refuses connections", door="refuse"),
    Scene("F2", "takes connections and is silent", door="silent"),
    Scene("F3", "resets before an answer", models=("reset-before-headers", "close-before-headers", "close-reused")),
    Scene("F3r", "all connections reset, ten times a second", models=("words-60+gap-5",), act=cut, committed=True),
    Scene("F4", "resets in an answer", models=("reset-after-3", "cut-utf8", "reset-after-headers"), committed=True),
    Scene("F5", "ends early and cleanly", models=("eof-after-3", "no-done"), committed=True),
    Scene("F6", "stalls, dribbles", models=("stall-after-3", "dribble-30"), committed=True),
    Scene("F7", "slow and huge heads", models=("slow-headers-50", "huge-headers")),
    Scene("F8", "malformed events", models=tuple(f"sse-{name}" for name in SSE), committed=True),
    Scene("F9", "wrong framing", models=FRAMING, committed=True),
    Scene("F10", "429 with Retry-After", models=("429-retry-after-0", "429-retry-after-1", "429-retry-after-86400")),
    Scene("F11a", "30 % of status 500", models=("status-500-30",)),
    Scene("F11b", "5xx always", models=("status-500", "status-502", "status-503", "status-529")),
    Scene("F11c", "credentials", models=("auth-401", "auth-403", "status-404")),
    Scene("F12", "flaps, half a second each", models=("gap-2+words-20",), act=flap, committed=True),
    Scene("F13", "is all there is, and down", door="refuse", success=0.0, alone=True),
    Scene("F14", "has no address", models=("@nowhere",)),
    Scene("F15", "has a certificate nobody trusts", models=("@untrusted",)),
    Scene("F16", "closes idle connections", models=("idle-close-5", "idle-close-20")),
    Scene("F17", "callers leave", models=("words-80+gap-5", "ttft-300"), leaves=0.5),
    Scene("F18", "slow readers", models=("words-2000",), slow=True),
    Scene("F2h", "takes connections and is silent, hedged", door="silent", hedge=0.1),
    Scene("F4h", "resets in it, hedged", models=("reset-after-3+ttft-200", "ttft-200"), committed=True, hedge=0.1),
    Scene("F6h", "stalls, dribbles, hedged", models=("stall-after-3", "dribble-30"), committed=True, hedge=0.1),
    Scene("F6j", "is late by half a second or not, hedged", down=Faults(latency=0.25, jitter=0.25), hedge=0.1),
    Scene("F11h", "30 % of status 500, hedged", models=("status-500-30+ttft-200",), hedge=0.1),
    Scene("F17h", "callers leave, hedged", models=("words-80+gap-5", "ttft-300"), leaves=0.5, hedge=0.1),
)  # fmt: skip


# One request


async def ask(waypost: Waypost, scene: Scene, model: str, dice: random.Random, stream: bool) -> Seen:
    """Send it, read it to its end, and say what it was."""
    body = chat_body(model, f"nonce:up-{dice.getrandbits(64):016x}", stream=stream)
    data = post("/v1/chat/completions", body, *waypost.credentials, "x-waypost-metadata: enabled", "connection: close")
    host, port = waypost.base.split("/")[2].split(":")
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        if dice.random() < scene.leaves:
            await asyncio.sleep(dice.random() * 0.4)
            return Seen("left", time.monotonic() - began, began)
        raw = b""
        async with asyncio.timeout(DEADLINE + 20):
            while piece := await reader.read(2048 if scene.slow else 1 << 16):
                raw += piece
                if scene.slow and stream:
                    await asyncio.sleep(0.002)
        return judge(raw, stream, time.monotonic() - began, began)
    except (TimeoutError, OSError) as error:
        return Seen(f"defect: {error!r}", time.monotonic() - began, began)
    finally:
        writer.transport.abort()


def judge(raw: bytes, stream: bool, seconds: float, began: float) -> Seen:
    """What a whole answer is."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status = int(head[9:12] or 0)
    if b"transfer-encoding: chunked" in head:
        if not body.endswith(b"0\r\n\r\n"):
            return Seen("defect: the chunks have no end", seconds, began)
        body = unchunked(body)
    if status != 200 or not stream:
        told = json.loads(body or b"{}")
        code = told.get("error", {}).get("code", "") if status != 200 else "ok"
        return Seen(code or f"defect: status {status}", seconds, began, tried(told))
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        return Seen("defect: a stream without [DONE]", seconds, began)
    chunks = [json.loads(event) for event in events[:-1]]
    finished = any(choice.get("finish_reason") for chunk in chunks for choice in chunk.get("choices", []))
    failed = [chunk for chunk in chunks if "error" in chunk]
    if not finished and not failed:
        return Seen("defect: a truncated stream that ends cleanly", seconds, began)
    return Seen("frame" if failed else "ok", seconds, began, tried(chunks[-1]))


def unchunked(data: bytes) -> bytes:
    """A body out of its chunks."""
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        parts.append(data[: int(size, 16)])
        data = data[int(size, 16) + 2 :]
    return b"".join(parts)


def tried(told: Any) -> list[tuple[str, str]]:
    return [(each["provider"], each.get("error", "")) for each in told.get("waypost", {}).get("attempts", [])]


# A scene


@contextlib.contextmanager
def two_simulators() -> Iterator[tuple[Running, Running]]:
    """The sick one and the healthy one: a fault that takes the one's processor must not slow the other."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sick, well = (stack.enter_context(running(pathlib.Path(folder) / name)) for name in ("sick", "well"))
        yield sick, well


@contextlib.contextmanager
def stage(sim: Running, well: Running, scene: Scene) -> Iterator[tuple[Waypost, Proxy]]:
    """A server whose provider `sick` goes through the proxy; `route/N` begins with it, `alone/N` has nothing else."""
    with chaos("127.0.0.1", sim.port) as proxy, untrusted() as port:
        text = provider("sick", f"http://127.0.0.1:{proxy.port}/v1", timeouts=QUICK)
        text += provider("nowhere", "http://nowhere.invalid/v1", timeouts=QUICK)
        text += provider("untrusted", f"https://localhost:{port}/v1", timeouts=QUICK)
        text += provider("well", well.base, timeouts=QUICK) + f"[routing]\ndeadline = {DEADLINE:g}\n"
        for number, model in enumerate(scene.models):
            link = f"{model[1:]}/demo" if model.startswith("@") else f"sick/{model}"
            healthy = "well/words-2000" if scene.slow else "well/demo"
            text += f'[models."route/{number}"]\nchain = ["{link}", "{healthy}"]\n'
            text += f"hedge = {scene.hedge}\n" if scene.hedge else ""
            text += f'[models."alone/{number}"]\nchain = ["{link}"]\n'
        with serving(text) as waypost:
            yield waypost, proxy


@contextlib.contextmanager
def untrusted() -> Iterator[int]:
    """A TLS listener with a certificate of nobody's authority."""
    import socket
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    sock.settimeout(2)
                    with contextlib.suppress(OSError, ssl.SSLError), context.wrap_socket(sock, server_side=True) as tls:
                        tls.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


async def crowd(waypost: Waypost, scene: Scene, route: str, count: int, seconds: float, clients: int) -> list[Seen]:
    """So many requests, or as many as go into the time."""
    left, ends, found = iter(range(count)), time.monotonic() + seconds, []

    async def client(seed: int) -> None:
        dice = random.Random(seed)
        for number in left:
            if time.monotonic() > ends:
                return
            model = f"{route}/{number % len(scene.models)}"
            found.append(await ask(waypost, scene, model, dice, stream=bool(number // len(scene.models) % 2)))

    await asyncio.gather(*(client(seed) for seed in range(clients)))
    return found


def play(sim: Running, well: Running, scene: Scene, count: int, seconds: float, clients: int) -> tuple[str, list[str]]:
    """A line of figures, and the promises that were broken."""
    with stage(sim, well, scene) as (waypost, proxy):
        proxy.spoil(door=scene.door, down=scene.down)
        over = threading.Event()
        acting = threading.Thread(target=scene.act or (lambda *_: None), args=(proxy, over))
        acting.start()
        route = "alone" if scene.alone else "route"
        found = asyncio.run(crowd(waypost, scene, route, count, seconds, clients))
        over.set()
        acting.join()
        proxy.heal()
        broken = check(scene, found)
        healed = time.monotonic()
        recovery = recovered(waypost, scene, healed) if scene.models == ("demo",) or scene.act else 0.0
        if recovery > 10:
            broken.append(f"recovery took {recovery:.1f} s")
        if scene.leaves:
            wait_until(lambda: proxy.open <= 20, "connections of callers who left to close", 10)
        broken += check_books(waypost, len(found))
    ends = Counter(each.end for each in found)
    attempts = sum(len(each.attempts) for each in found)
    slowest = max(each.seconds for each in found)
    late = sorted(each.seconds for each in found[len(found) // 2 :])
    shown = ", ".join(f"{end} {times}" for end, times in ends.most_common())
    quick = f", p99 of the second half {late[len(late) * 99 // 100] * 1000:.0f} ms" if scene.alone else ""
    line = f"{scene.number:5} {scene.what}: {len(found)} requests ({shown}), {attempts} attempts told, "
    return line + f"slowest {slowest:.2f} s{quick}" + (f", recovery {recovery:.2f} s" if recovery else ""), broken


def check(scene: Scene, found: list[Seen]) -> list[str]:
    """The promises that can be judged by what callers saw."""
    stayed = [each for each in found if each.end != "left"]
    broken = [each.end for each in stayed if each.end.startswith("defect")][:5]
    limit = DEADLINE + 1 if not scene.slow else DEADLINE + 15
    broken += [f"a request took {each.seconds:.1f} s" for each in stayed if each.seconds > limit][:3]
    good = sum(each.end == "ok" or (scene.committed and each.end == "frame") for each in stayed)
    if good < scene.success * len(stayed):
        broken.append(f"only {good} of {len(stayed)} were answered")
    for name in ("sick", "nowhere", "untrusted"):
        per_request = [sum(attempt[0] == name for attempt in each.attempts) for each in stayed]
        first, all_of_them = sum(map(bool, per_request)), sum(per_request)
        if all_of_them > 1.2 * first + 3:
            broken.append(f"{all_of_them} attempts at {name} for {first} requests")
    beside = sum(any(kind == "hedged" for _, kind in each.attempts) for each in stayed)
    if beside > len(found) / 5 + 4:
        broken.append(f"{beside} of {len(found)} requests had another beside them")
    if scene.hedge and scene.success and not beside:
        broken.append("nobody was ever asked beside who was late")
    if any(len(each.attempts) > 3 for each in stayed):
        broken.append("more than three attempts for a request")
    return broken


def recovered(waypost: Waypost, scene: Scene, since: float) -> float:
    """Seconds until ten requests in a row are answered by the one that was sick, with nobody beside it."""
    row, dice = 0, random.Random(1)
    while row < 10 and time.monotonic() - since < 30:
        row = row + 1 if asyncio.run(ask(waypost, scene, "alone/0", dice, stream=False)).end == "ok" else 0
    return time.monotonic() - since


def check_books(waypost: Waypost, least: int) -> list[str]:
    """Every request has one row, and none stays open."""
    database = waypost.folder / "data" / "waypost.db"

    def opened() -> tuple[int, int]:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            everything = connection.execute("SELECT count(*) FROM requests").fetchone()[0]
            still = connection.execute("SELECT count(*) FROM requests WHERE status IS NULL").fetchone()[0]
            return int(everything), int(still)

    with contextlib.suppress(AssertionError):
        wait_until(lambda: opened()[0] >= least * 0.5 and not opened()[1], "the books", 20)
    rows, still = opened()
    return [f"{still} of {rows} rows are open"] if still else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--clients", type=int, default=20)
    given = parser.parse_args()
    failed = 0
    with two_simulators() as (sim, well):
        for scene in SCENES:
            if given.scenes and scene.number.rstrip("abchjr") not in given.scenes and scene.number not in given.scenes:
                continue
            line, broken = play(sim, well, scene, given.requests, given.seconds, given.clients)
            print(line, flush=True)
            for promise in broken:
                print(f"      BROKEN: {promise}", flush=True)
            failed += len(broken)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

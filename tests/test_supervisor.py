"""`waypost serve` as a family of processes: what dies comes back, signals do what they say, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.harness import DEADLINE, Client, Waypost, provider, serving, settings_of, wait_until
from tests.sim.running import Running
from waypost.keeper.direct import administer
from waypost.keeper.folder import taken
from waypost.messages import AnyMessage, CreatedKey, CreateKey, Failed, KeyRecord, KeyRecords, ListKeys, RevokeKey


def descendants(pid: int) -> list[int]:
    """A process's children, in the order in which they were started; empty once it is gone."""
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_alive(pid: int) -> bool:
    """Does a process run? What has ended but not been waited for does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def keeper_of(waypost: Waypost) -> int:
    """The keeper's pid: it notes it in the lock that it holds. 0 while there is none."""
    return int((waypost.folder / "data" / "keeper.lock").read_text() or 0)


def workers_of(waypost: Waypost) -> list[int]:
    keeper = keeper_of(waypost)
    return [pid for pid in descendants(waypost.process.pid) if pid != keeper and is_alive(pid)]


def ask_keeper(waypost: Waypost, message: AnyMessage) -> AnyMessage:
    return asyncio.run(administer(waypost.folder / "data", settings_of(""), message))


def another_key(waypost: Waypost) -> CreatedKey:
    created = ask_keeper(waypost, CreateKey("another", "all"))
    assert isinstance(created, CreatedKey), created
    return created


def status_of(client: Client, waypost: Waypost, key: str = "", model: str = "sim/demo") -> int:
    """One request on an open connection."""
    request = waypost.chat(model).replace(waypost.key.encode(), (key or waypost.key).encode())
    client.send(request)
    return client.answer().status


def try_status(waypost: Waypost, key: str = "", model: str = "sim/demo") -> int:
    """One request on a connection of its own; 0 if there was no answer."""
    try:
        with waypost.connect() as client:
            return status_of(client, waypost, key, model)
    except (OSError, AssertionError):
        return 0


def everywhere(waypost: Waypost, status: int, key: str = "", model: str = "sim/demo") -> bool:
    """Do twenty new connections, which the kernel spreads over the workers, all get this answer?"""
    return all(try_status(waypost, key, model) == status for _ in range(20))


def sockets_of(pid: int) -> int:
    links = []
    for descriptor in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(descriptor.path))
    return sum(link.startswith("socket:") for link in links)


@pytest.fixture
def server(simulator: Running) -> Iterator[Waypost]:
    """Two workers that a test may do to what it wants."""
    with serving(provider("sim", simulator.base) + "[plans.all]\n", workers=2) as waypost:
        wait_until(lambda: len(workers_of(waypost)) == 2, "both workers")
        wait_until(lambda: everywhere(waypost, 200), "an answer from every worker")
        yield waypost


@pytest.fixture
def clients(server: Waypost) -> Iterator[list[Client]]:
    """Open connections, as many as it takes to reach both workers, which know the server's own key."""
    with contextlib.ExitStack() as stack:
        opened: list[Client] = []
        before = {pid: sockets_of(pid) for pid in workers_of(server)}

        def reached() -> bool:
            opened.append(stack.enter_context(server.connect()))
            assert status_of(opened[-1], server) == 200
            return all(sockets_of(pid) > count + 1 for pid, count in before.items())

        wait_until(reached, "connections to both workers")
        yield opened


def test_two_workers_serve(server: Waypost, clients: list[Client]) -> None:
    assert len(clients) >= 4
    assert {status_of(client, server) for client in clients} == {200}


# Sudden death


def test_a_killed_worker_is_back(server: Waypost) -> None:
    for _ in range(2):
        victim, survivor = workers_of(server)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda gone=victim: gone not in workers_of(server), "its death")  # type: ignore[misc]
        wait_until(lambda: len(workers_of(server)) == 2, "a new worker")
        assert survivor in workers_of(server)
        wait_until(lambda: everywhere(server, 200), "requests to succeed")
    assert server.process.poll() is None
    assert re.search(r"the worker \d ended \(signal 9\); it is started again", server.log.read_text())


@pytest.mark.parametrize("who", ["keeper", "worker [12]"])
def test_who_stands_still_is_killed_and_started_again(server: Waypost, who: str) -> None:
    victim = keeper_of(server) if who == "keeper" else workers_of(server)[0]  # which one, their ids do not tell
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: re.search(f"the {who} has stood still", server.log.read_text()), "the supervisor to notice", 60)
    wait_until(lambda: not is_alive(victim), "its end")
    wait_until(lambda: everywhere(server, 200), "requests to succeed")
    assert server.process.poll() is None


def test_a_killed_keeper_is_back_and_known_keys_never_stop_working(server: Waypost, clients: list[Client]) -> None:
    unknown = another_key(server)
    keeper = keeper_of(server)
    os.kill(keeper, signal.SIGKILL)
    while keeper_of(server) in (keeper, 0):
        assert {status_of(client, server) for client in clients} == {200}
    wait_until(lambda: everywhere(server, 200, unknown.key), "unknown keys to be known")
    assert {status_of(client, server) for client in clients} == {200}
    listed = ask_keeper(server, ListKeys())
    assert isinstance(listed, KeyRecords) and unknown.id in [row.id for row in listed.rows]


def test_a_silent_keeper_is_503_for_unknown_keys_and_nothing_for_known_ones(
    server: Waypost, clients: list[Client]
) -> None:
    unknown = another_key(server)
    keeper = keeper_of(server)
    os.kill(keeper, signal.SIGSTOP)
    try:
        assert {status_of(client, server) for client in clients} == {200}
        clients[0].send(server.chat("sim/demo").replace(server.key.encode(), unknown.key.encode()))
        answer = clients[0].answer()
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        assert answer.header("x-should-retry") == "true" and answer.header("retry-after") == "1"
    finally:
        os.kill(keeper, signal.SIGCONT)
    wait_until(lambda: everywhere(server, 200, unknown.key), "the key to be known")


def test_without_its_supervisor_nobody_stays(server: Waypost) -> None:
    family = descendants(server.process.pid)
    assert len(family) >= 3
    server.process.kill()
    server.process.wait(DEADLINE)
    wait_until(lambda: not any(map(is_alive, family)), "all children to end", 10)
    assert_port_is_free(server)


def assert_port_is_free(server: Waypost) -> None:
    host, _, port = server.base.split("/")[2].rpartition(":")
    with socket.socket() as sock:
        assert sock.connect_ex((host, int(port))) != 0
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))


# Signals and reloads


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_peace(server: Waypost, how: signal.Signals) -> None:
    family = descendants(server.process.pid)
    with server.connect() as idle:
        assert status_of(idle, server) == 200
        server.process.send_signal(how)
        assert server.process.wait(DEADLINE) == 0
        assert idle.closed()
    assert not any(map(is_alive, family))
    assert_port_is_free(server)
    assert sorted(path.name for path in (server.folder / "data").iterdir()) == [
        "host",
        "journal",
        "keeper.lock",
        "waypost.db",
    ]
    assert "Traceback" not in server.log.read_text()


def test_what_is_in_flight_is_finished_first(server: Waypost) -> None:
    with server.connect() as client:
        client.send(server.chat("sim/demo+words-40+gap-20", stream=True))
        client.until(b"data: ")
        server.process.send_signal(signal.SIGTERM)
        rest = client.until(b"data: [DONE]\n\n")
        assert rest.count(b'"content"') > 10
    assert server.process.wait(DEADLINE) == 0


MODEL = '\n[models."route/new"]\nchain = ["sim/demo"]\n'


@pytest.mark.parametrize("signalled", [False, True])
def test_a_changed_file_is_read_again(server: Waypost, signalled: bool) -> None:
    file = server.folder / "waypost.toml"
    before = file.read_text()
    assert everywhere(server, 400, model="route/new")
    with server.connect() as streaming:
        streaming.send(server.chat("sim/demo+words-200+gap-10", stream=True))
        streaming.until(b"data: ")
        file.write_text(before + MODEL)
        if signalled:
            server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: everywhere(server, 200, model="route/new"), "the new model everywhere")
        assert streaming.until(b"[DONE]"), "what was in flight goes on"
    workers = workers_of(server)

    file.write_text(before + MODEL + "[models.broken]\nchain = []\n")
    if signalled:
        server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the configuration stays as it was" in server.log.read_text(), "a complaint in the log")
    assert f"{file}: [models.broken] chain: empty" in server.log.read_text()
    assert everywhere(server, 200, model="route/new")
    file.write_text(before)
    if signalled:
        server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: everywhere(server, 400, model="route/new"), "the model to go")
    assert workers_of(server) == workers, "no process was started anew for it"


def test_a_bad_certificate_is_refused_as_a_whole(server: Waypost) -> None:
    file = server.folder / "waypost.toml"
    file.write_text(file.read_text() + MODEL + '[providers.x]\nbase_url = "https://x"\nkeys = ["k"]\nca = "/no/such"\n')
    wait_until(lambda: "the configuration stays as it was" in server.log.read_text(), "a complaint in the log")
    assert f"{file}: [providers.x] ca: /no/such: No such file" in server.log.read_text()
    assert "has been read again" not in server.log.read_text()
    assert everywhere(server, 400, model="route/new")


def test_a_plan_that_is_added_can_be_given(server: Waypost) -> None:
    file = server.folder / "waypost.toml"
    refused = ask_keeper(server, CreateKey("late", "late"))
    assert isinstance(refused, Failed) and "plan 'late' is not in the config; it has: all" in refused.message
    file.write_text(file.read_text() + '\n[plans.late]\nmodels = ["sim/*"]\n')
    created: list[AnyMessage] = []

    def created_now() -> bool:
        created.append(ask_keeper(server, CreateKey("late", "late")))
        return isinstance(created[-1], CreatedKey)

    wait_until(created_now, "the plan to be known")
    assert isinstance(created[-1], CreatedKey)
    key = created[-1].key
    wait_until(lambda: everywhere(server, 200, key), "the plan everywhere")
    assert try_status(server, key, "other/model") == 400
    assert server.process.poll() is None and "ended" not in server.log.read_text(), "the keeper has not been restarted"


def test_who_is_started_again_begins_with_the_last_good_configuration(server: Waypost) -> None:
    file = server.folder / "waypost.toml"
    good = file.read_text() + MODEL + "[plans.late]\n"
    file.write_text(good)
    wait_until(lambda: everywhere(server, 200, model="route/new"), "the new model everywhere")
    file.write_text("[nonsense")
    wait_until(lambda: "the configuration stays as it was" in server.log.read_text(), "a complaint in the log")
    family = [keeper_of(server), *workers_of(server)]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, family)) and len(workers_of(server)) == 2, "their return")
    wait_until(lambda: keeper_of(server) not in (0, *family), "the keeper's return")
    wait_until(lambda: everywhere(server, 200, model="route/new"), "the model of the last good file")
    assert isinstance(ask_keeper(server, CreateKey("late", "late")), CreatedKey)
    assert server.process.poll() is None


def test_a_reload_is_no_one_s_end(server: Waypost) -> None:
    """SIGHUP would end a process that is not ready for it yet."""
    for _ in range(2):
        family = [keeper_of(server), *workers_of(server)]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: any(pid not in family for pid in descendants(server.process.pid)), "a new one")  # noqa: B023
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(workers_of(server)) == 2 and keeper_of(server) not in (0, *family), "all three")  # noqa: B023
        wait_until(lambda: everywhere(server, 200), "answers")
    assert "signal 9" in server.log.read_text() and f"signal {signal.SIGHUP:d})" not in server.log.read_text()


# Starting


@pytest.mark.parametrize(("option", "count"), [("0", os.cpu_count() or 1), ("1", 1)])
def test_workers_of_the_command_line_go_first(tmp_path: pathlib.Path, option: str, count: int) -> None:
    (tmp_path / "waypost.toml").write_text(f"[server]\nworkers = {(os.cpu_count() or 1) + 1}\n")
    command = [str(pathlib.Path(sys.executable).with_name("waypost")), "serve", "--listen", "127.0.0.1:0"]
    command += ["--config", str(tmp_path / "waypost.toml"), "--data", str(tmp_path / "data"), "--workers", option]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().decode().split(" at ")[1].strip()
        waypost = Waypost(tmp_path, process, address)
        wait_until(lambda: len(workers_of(waypost)) == count, "so many workers, once the greeting's process has ended")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE)


def test_the_command_that_is_printed_makes_a_key_of_this_server(tmp_path: pathlib.Path) -> None:
    (folder := tmp_path / "a folder").mkdir()
    (folder / "waypost.toml").write_text("[plans.free]\n[plans.max]\n")
    program = str(pathlib.Path(sys.executable).with_name("waypost"))
    command = [program, "serve", "--listen", "127.0.0.1:0", "--workers", "1", "--config", "waypost.toml"]
    process = subprocess.Popen(
        [*command, "--data", "data"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        waypost = Waypost(folder, process, process.stdout.readline().decode().split(" at ")[1].strip())
        printed = process.stdout.readline().decode().partition("a key: waypost ")[2]
        words = shlex.split(printed.replace("NAME", "ann").replace("PLAN", "max"))
        made = subprocess.run([program, *words], cwd="/", capture_output=True, text=True, timeout=60, check=True)
        with waypost.connect() as client:
            client.send(f"GET /v1/key HTTP/1.1\r\nhost: w\r\nx-api-key: {made.stdout.strip()}\r\n\r\n".encode())
            assert client.answer().status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE)


def test_a_number_of_workers_below_zero(tmp_path: pathlib.Path) -> None:
    done = serve(tmp_path, "127.0.0.1:0", workers="-1")
    assert done.returncode == 2 and "--workers" in done.stderr and ">= 0" in done.stderr


def test_nobody_is_let_in_before_keys_can_be_checked() -> None:
    """Whoever is let in is not told to come back later; before that, nobody listens, and nothing says it serves."""
    with tempfile.TemporaryDirectory(prefix="waypost-") as name:
        folder = pathlib.Path(name)
        (folder / "waypost.toml").write_text("")
        address = f"unix:{folder}/w.sock"
        command = [str(pathlib.Path(sys.executable).with_name("waypost")), "serve", "--listen", address]
        command += ["--config", str(folder / "waypost.toml"), "--data", str(folder / "data"), "--workers", "2"]

        async def start() -> subprocess.Popen[bytes]:
            async with taken(
                folder / "data", patience=0
            ):  # the keeper waits for the folder, the workers for the keeper
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                async with asyncio.timeout(DEADLINE):
                    while len(descendants(process.pid)) < 4:  # with the one who will print the greeting
                        await asyncio.sleep(0.01)
                await asyncio.sleep(1)  # enough for workers who would not wait
                return process

        process = asyncio.run(start())
        try:
            waypost = Waypost(folder, process, address)
            wait_until(lambda: try_ready(waypost) != 0, "someone to listen")
            assert {try_ready(waypost) for _ in range(20)} == {200}
            assert process.stdout is not None and process.stdout.readline().startswith(b"Waypost serves 0 models at ")
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=DEADLINE)


def try_ready(waypost: Waypost) -> int:
    """The status of GET /readyz; 0 if nobody listens."""
    try:
        with waypost.connect() as client:
            client.send(b"GET /readyz HTTP/1.1\r\nhost: waypost\r\n\r\n")
            return client.answer().status
    except OSError:
        return 0


# Addresses


def serve(folder: pathlib.Path, listen: str, workers: str = "2") -> subprocess.CompletedProcess[str]:
    """A `waypost serve` that is expected not to start."""
    command = [str(pathlib.Path(sys.executable).with_name("waypost")), "serve", "--listen", listen]
    folder.mkdir(exist_ok=True)
    (folder / "empty.toml").write_text("")
    command += ["--config", str(folder / "empty.toml"), "--data", str(folder / "data"), "--workers", workers]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_an_address_that_is_taken(waypost: Waypost, tmp_path: pathlib.Path) -> None:
    address = waypost.base.split("/")[2]
    done = serve(tmp_path, address)
    assert (done.returncode, done.stdout) == (2, "")
    fix = "another address is named with --listen, or as server.listen"
    assert done.stderr == f"waypost: cannot listen on {address}: Address already in use; {fix}\n"
    assert waypost.ask("sim/demo").status == 200, "the other one goes on"


def test_a_data_folder_that_is_taken(waypost: Waypost, tmp_path: pathlib.Path) -> None:
    (tmp_path / "data").symlink_to(waypost.folder / "data")
    done = serve(tmp_path, "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (2, "")
    in_use = f"{tmp_path / 'data'} is in use by process {keeper_of(waypost)}"
    assert done.stderr == f"waypost: {in_use}; another one is named with --data\n"
    assert waypost.ask("sim/demo").status == 200, "the other one goes on"


def test_a_data_folder_whose_name_is_too_long(tmp_path: pathlib.Path) -> None:
    done = serve(tmp_path / ("x" * 100), "127.0.0.1:0")
    assert done.returncode != 0 and "choose a shorter --data folder" in done.stderr and "Traceback" not in done.stderr


def test_a_data_folder_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
    (tmp_path / "data").write_text("a file")
    done = serve(tmp_path, "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (2, "")
    cannot = f"cannot use the data folder {tmp_path / 'data'}: File exists"
    assert done.stderr == f"waypost: {cannot}; another one is named with --data\n"


# Revoking


def test_a_revoked_key_is_refused_within_a_second_on_every_worker(server: Waypost, clients: list[Client]) -> None:
    created = another_key(server)
    assert {status_of(client, server, created.key) for client in clients} == {200}
    revoked = ask_keeper(server, RevokeKey(str(created.id)))
    assert isinstance(revoked, KeyRecord) and revoked.revoked_at is not None
    # The promise is a second; what is more is for a machine that has other things to do just then.
    wait_until(lambda: {status_of(client, server, created.key) for client in clients} == {401}, "refusals", 3.0)
    assert {status_of(client, server) for client in clients} == {200}, "other keys go on"

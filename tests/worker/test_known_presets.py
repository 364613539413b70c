"""The presets that a worker knows: bounded, forgotten when they change, good while the keeper is away."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Iterator

import pytest

from tests.harness import Waypost, provider, serving, settings_of, wait_until
from tests.sim.running import Running
from waypost.errors import Refusal
from waypost.keeper.direct import administer
from waypost.messages import AnyMessage, Failed
from waypost.preset_messages import CreatePreset, FindPreset, ForgetPreset, FoundPreset, PresetRecord
from waypost.worker.link import KeeperUnavailable
from waypost.worker.presets import FRESH, KNOWN, KNOWN_BYTES, UNKNOWN, Presets

CONFIG = '[models.gpt-4o]\nchain = ["sim/demo"]\n[plans.all]\n'


class Keeper:
    """Answers from `rows`; `away` it does not, and `gate` holds its answers back."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], FoundPreset] = {}
        self.asked: list[FindPreset] = []
        self.away = False
        self.failing = False
        self.gate: asyncio.Event | None = None
        self.now = 1000.0
        self.presets = Presets(self, lambda: not self.away, lambda: self.now)

    def add(self, name: str, account: int = 1, body: bytes = b"{}", version: int = 1) -> FoundPreset:
        found = FoundPreset(f"id-of-{name}", account, name, version, version, body)
        self.rows[account, name] = self.rows[account, found.id] = found
        return found

    async def call(self, message: AnyMessage, timeout: float = 2.0) -> AnyMessage:
        if self.away:
            raise KeeperUnavailable("away")
        assert isinstance(message, FindPreset)
        self.asked.append(message)
        answer = self.rows.get((message.account, message.name))
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            return Failed("UNAVAILABLE", "no database")
        return answer


def test_what_is_known_and_what_is_unknown_is_asked_once() -> None:
    async def run() -> None:
        keeper = Keeper()
        keeper.add("a")
        for _ in range(3):
            version = await keeper.presets.find(1, "a", 0)
            assert version is not None and version.found.slug == "a"
            assert await keeper.presets.find(1, "nobodys", 0) is None
            assert await keeper.presets.find(2, "a", 0) is None
        assert [(each.account, each.name) for each in keeper.asked] == [(1, "a"), (1, "nobodys"), (2, "a")]

    asyncio.run(run())


@pytest.mark.parametrize("name", ["", "Upper", "a b", "a/b", "é", "a" * 65, "-a"])
def test_what_no_preset_can_be_called_is_not_asked_for(name: str) -> None:
    keeper = Keeper()
    assert asyncio.run(keeper.presets.find(1, name, 0)) is None
    assert not keeper.asked


def test_many_who_ask_at_once_are_one_question() -> None:
    async def run() -> None:
        keeper = Keeper()
        keeper.add("a")
        keeper.gate = asyncio.Event()
        finds = [asyncio.create_task(keeper.presets.find(1, "a", 0)) for _ in range(50)]
        await asyncio.sleep(0)
        finds[0].cancel()  # one who leaves ends it for nobody else
        await asyncio.sleep(0)
        keeper.gate.set()
        found = await asyncio.gather(*finds[1:])
        assert all(version is not None for version in found) and len(keeper.asked) == 1

    asyncio.run(run())


def test_news_are_heard_of_every_name_and_nobody_elses() -> None:
    async def run() -> None:
        keeper = Keeper()
        first = keeper.add("a")
        keeper.add("b")
        keeper.add("a", account=2)
        names = [(1, "a", 0), (1, "a", 1), (1, first.id, 0), (1, "b", 0), (2, "a", 0), (1, "renamed", 0)]
        for asked in names:
            await keeper.presets.find(*asked)
        keeper.asked.clear()
        keeper.presets.forget(ForgetPreset(first.id, 1, ("a", "renamed")))
        for asked in names:
            await keeper.presets.find(*asked)
        again = {(each.account, each.name) for each in keeper.asked}
        # The other account's "a" has the same id in this test, and ids are unique: it is asked about again, too.
        assert again == {(1, "a"), (1, first.id), (1, "renamed"), (2, "a")}
        keeper.presets.forget(None)
        assert len(keeper.presets) == 0

    asyncio.run(run())


def test_an_answer_that_is_overtaken_by_a_change_is_not_used() -> None:
    async def run() -> None:
        keeper = Keeper()
        old = keeper.add("a", body=b'{"system_prompt":"old"}')
        keeper.gate = asyncio.Event()
        find = asyncio.create_task(keeper.presets.find(1, "a", 0))
        await asyncio.sleep(0.01)
        keeper.add("a", body=b'{"system_prompt":"new"}', version=2)
        keeper.presets.forget(ForgetPreset(old.id, 1, ("a",)))
        keeper.gate.set()
        version = await find
        assert version is not None and version.body is not None and version.body.system_prompt == "new"
        assert len(keeper.asked) == 2

    asyncio.run(run())


def test_while_the_keeper_is_away_what_is_known_goes_on() -> None:
    async def run() -> None:
        keeper = Keeper()
        keeper.add("a")
        await keeper.presets.find(1, "a", 0)
        assert await keeper.presets.find(1, "unknown", 0) is None
        keeper.away = True
        keeper.now += 10 * FRESH
        assert await keeper.presets.find(1, "a", 0) is not None
        for name in ("b", "unknown"):  # it may have been made meanwhile
            with pytest.raises(Refusal) as caught:
                await keeper.presets.find(1, name, 0)
            assert caught.value.failure.code == "UNAVAILABLE"
        keeper.away, keeper.failing = False, True
        assert await keeper.presets.find(1, "a", 0) is not None, "a keeper without its database knows no better"

    asyncio.run(run())


def test_what_is_old_is_asked_for_again() -> None:
    """What changes through another host is not pushed here."""

    async def run() -> None:
        keeper = Keeper()
        keeper.add("a")
        for seconds, asked in ((0.0, 1), (FRESH - 1, 1), (2.0, 2), (0.0, 2)):
            keeper.now += seconds
            assert await keeper.presets.find(1, "a", 0) is not None
            assert len(keeper.asked) == asked
        keeper.rows.clear()
        keeper.now += FRESH + 1
        assert await keeper.presets.find(1, "a", 0) is None

    asyncio.run(run())


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_memory_is_bounded_by_number(off: int) -> None:
    async def run() -> None:
        keeper = Keeper()
        for number in range(KNOWN + off):
            keeper.add(f"p{number}")
            await keeper.presets.find(1, f"p{number}", 0)
        assert len(keeper.presets) == KNOWN + min(off, 0)
        for number in range(UNKNOWN + off):
            await keeper.presets.find(2, f"u{number}", 0)
        assert len(keeper.presets) == KNOWN + UNKNOWN + 2 * min(off, 0)
        keeper.asked.clear()
        await keeper.presets.find(1, f"p{KNOWN + off - 1}", 0)
        assert not keeper.asked, "what is unknown pushes out nothing that is known"

    asyncio.run(run())


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_memory_is_bounded_by_bytes(off: int) -> None:
    async def run() -> None:
        keeper = Keeper()
        shell = len(b'{"system_prompt":""}')
        each = 128 * 1024
        count = KNOWN_BYTES // each
        for number in range(count):
            size = each - shell + (off if number == count - 1 else 0)
            keeper.add(f"p{number}", body=b'{"system_prompt":"%b"}' % (b"a" * min(size, 128 * 1024)))
            await keeper.presets.find(1, f"p{number}", 0)
        assert len(keeper.presets) == (count if off <= 0 else count - 1)

    asyncio.run(run())


def test_versions_that_are_none_are_not_kept() -> None:
    async def run() -> None:
        keeper = Keeper()
        keeper.rows[1, "a"] = FoundPreset("id", 1, "a", 0, 3, b"")
        for number in range(5, 9):
            version = await keeper.presets.find(1, "a", number)
            assert version is not None and version.body is None and version.found.latest == 3
        assert len(keeper.presets) == 0

    asyncio.run(run())


# The whole server


@pytest.fixture
def server(simulator: Running) -> Iterator[Waypost]:
    with serving(provider("sim", simulator.base) + CONFIG) as waypost:
        yield waypost


def keeper_of(server: Waypost) -> int:
    """The pid of the first that the supervisor has started."""
    with open(f"/proc/{server.process.pid}/task/{server.process.pid}/children") as children:
        return int(children.read().split()[0])


def test_a_keeper_that_answers_no_more_ends_nobodys_preset(server: Waypost) -> None:
    message = CreatePreset("tests", "known", "known", "private", b'{"model":"gpt-4o"}')
    made = asyncio.run(administer(server.folder / "data", settings_of(CONFIG), message))
    assert isinstance(made, PresetRecord)
    assert server.ask("@preset/known").status == 200
    keeper = keeper_of(server)
    os.kill(keeper, signal.SIGSTOP)
    try:
        assert server.ask("@preset/known").status == 200
        unknown = server.ask(f"presets/{uuid.uuid4()}")
        assert (unknown.status, unknown.code) == (503, "UNAVAILABLE")
        assert unknown.header("retry-after") == "1"
    finally:
        os.kill(keeper, signal.SIGCONT)
    wait_until(lambda: server.ask("@preset/nobodys").status == 404, "the keeper to answer again")
    assert server.ask("@preset/known").status == 200


def test_after_another_keeper_has_come_nothing_old_is_believed(server: Waypost) -> None:
    def change(message: AnyMessage) -> PresetRecord:
        reply = asyncio.run(administer(server.folder / "data", settings_of(CONFIG), message))
        assert isinstance(reply, PresetRecord), reply
        return reply

    change(CreatePreset("tests", "first", "first", "private", b'{"model":"gpt-4o"}'))
    assert server.ask("@preset/first").status == 200
    assert server.ask("@preset/second").code == "PRESET_NOT_FOUND"
    keeper = keeper_of(server)
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: keeper_of(server) != keeper, "the keeper to be gone")
    change(CreatePreset("tests", "second", "second", "private", b'{"model":"gpt-4o"}'))
    wait_until(lambda: server.ask("@preset/second").status == 200, "the worker to hear of it")

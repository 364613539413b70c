"""The worker's link: there, gone, and there again."""

import asyncio
import contextlib
import logging
import signal

import pytest

from tests.keeper.running import data_folder, running_keeper, until
from waypost.link import Framed, socket_path
from waypost.messages import PROTOCOL, Failed, Forget, ForgetAll, Hello, Identify, ListKeys, Welcome
from waypost.worker.link import KeeperUnavailable, Link


@contextlib.asynccontextmanager
async def linked(data, *, patience: float = 30.0):
    """A link to the keeper of `data`, and what it said to forget."""
    forgotten: list[bytes | None] = []
    link = Link(socket_path(data), forgotten.append, worker=1)
    link.start()
    try:
        if patience:
            await link.wait_connected(patience)
        yield link, forgotten
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def scripted_keeper(data, answer):
    """A listener at the keeper's place that calls `answer(peer, call_id, message)` for all that arrives."""
    data.mkdir(exist_ok=True)
    peers: list[Framed] = []

    def accept() -> Framed:
        peers.append(Framed(answer, lambda *_: None))
        return peers[-1]

    server = await asyncio.get_running_loop().create_unix_server(accept, str(socket_path(data)))
    try:
        yield peers
    finally:
        server.close()
        for peer in peers:
            peer.abort()
        socket_path(data).unlink()


def welcome(peer, call_id, message):
    """A keeper that welcomes and answers nothing else."""
    if isinstance(message, Hello):
        peer.reply(call_id, Welcome(PROTOCOL))


def test_it_asks_the_keeper():
    with running_keeper() as keeper:

        async def run():
            created = await keeper.create_key()
            async with linked(keeper.data) as (link, forgotten):
                assert link.connected and forgotten == [None]
                return created, await link.call(ListKeys())

        created, listed = asyncio.run(run())
        assert [row.id for row in listed.rows] == [created.id]


def test_a_keeper_that_starts_later_is_found():
    with running_keeper() as keeper:
        keeper.stop()

        async def run():
            async with linked(keeper.data, patience=0) as (link, forgotten):
                assert not link.connected
                with pytest.raises(KeeperUnavailable, match="the link to the keeper is down"):
                    await link.call(ListKeys())
                with pytest.raises(KeeperUnavailable, match="No such file"):
                    await link.wait_connected(0.1)
                assert forgotten == []
                keeper.start()
                await link.wait_connected(30)
                assert forgotten == [None]
                return await link.call(ListKeys())

        assert asyncio.run(run()).rows == ()


def test_killed_and_back(caplog):
    with running_keeper() as keeper:

        async def run():
            async with linked(keeper.data) as (link, forgotten):
                for turn in range(2, 4):
                    keeper.stop(signal.SIGKILL)
                    await until(lambda: not link.connected)
                    with pytest.raises(KeeperUnavailable):
                        await link.call(ListKeys())
                    await until(lambda turn=turn: len(caplog.records) == 2 * turn - 3)
                    keeper.start()
                    await link.wait_connected(30)
                    assert (await link.call(ListKeys())).rows == ()
                    assert forgotten == [None] * turn

        with caplog.at_level(logging.DEBUG, "waypost.worker"):
            asyncio.run(run())
        down, up = (record.getMessage() for record in caplog.records[:2])
        assert down.startswith("the link to the keeper is down: ") and up == "the link to the keeper is up again"
        assert len(caplog.records) == 4, "once per change, however many attempts"


def test_an_open_call_fails_when_the_keeper_dies():
    async def run(data):
        async with scripted_keeper(data, welcome) as peers, linked(data) as (link, _):
            call = asyncio.create_task(link.call(Identify(b"x"), timeout=60))
            await asyncio.sleep(0.05)
            assert not call.done()
            peers[0].abort()
            with pytest.raises(KeeperUnavailable, match="went away before it answered"):
                await call

    with data_folder() as data:
        asyncio.run(run(data))


def test_a_keeper_that_does_not_answer():
    async def run(data):
        async with scripted_keeper(data, welcome), linked(data) as (link, _):
            with pytest.raises(KeeperUnavailable, match=r"did not answer in 0\.1 s"):
                await link.call(Identify(b"x"), timeout=0.1)
            assert link.connected

    with data_folder() as data:
        asyncio.run(run(data))


def test_a_late_answer_is_nobody_elses():
    waiting = []

    def answer(peer, call_id, message):
        welcome(peer, call_id, message)
        if isinstance(message, Identify):
            waiting.append((peer, call_id))
            if len(waiting) == 2:
                for number, (caller, call) in enumerate(waiting):
                    caller.reply(call, Failed("UNAVAILABLE", str(number)))

    async def run(data):
        async with scripted_keeper(data, answer), linked(data) as (link, _):
            with pytest.raises(KeeperUnavailable):
                await link.call(Identify(b"first"), timeout=0.05)
            second = await link.call(Identify(b"second"), timeout=30)
            assert link._peer._calls == {}, "nothing is kept for a caller who has left"
            return second

    with data_folder() as data:
        assert asyncio.run(run(data)) == Failed("UNAVAILABLE", "1")


def test_pushes_become_calls_to_forget():
    async def run(data):
        async with scripted_keeper(data, welcome) as peers, linked(data) as (_, forgotten):
            peers[0].push(Forget(b"one"))
            peers[0].push(ForgetAll())
            peers[0].push(Forget(b"two"))
            await until(lambda: len(forgotten) == 4)
            return forgotten

    with data_folder() as data:
        assert asyncio.run(run(data)) == [None, b"one", None, b"two"]


@pytest.mark.parametrize("reply", [Failed("UNAVAILABLE", "the database cannot be asked"), None])
def test_not_connected_until_the_keeper_says_welcome(reply):
    greetings = []

    def answer(peer, call_id, message):
        greetings.append(message)
        peer.reply(call_id, reply if len(greetings) < 4 else Welcome(PROTOCOL))

    async def run(data):
        async with scripted_keeper(data, answer), linked(data, patience=0) as (link, forgotten):
            await until(lambda: len(greetings) >= 2)
            assert not link.connected and forgotten == []
            await link.wait_connected(30)
            assert greetings == [Hello(1)] * 4 and forgotten == [None]

    with data_folder() as data:
        asyncio.run(run(data))


def test_why_it_never_connected():
    def answer(peer, call_id, message):
        peer.reply(call_id, Failed("UNAVAILABLE", "the keeper speaks link protocol 2, worker 1 speaks 1"))

    async def run(data):
        async with scripted_keeper(data, answer), linked(data, patience=0) as (link, _):
            with pytest.raises(KeeperUnavailable, match="the keeper speaks link protocol 2"):
                await link.wait_connected(0.5)

    with data_folder() as data:
        asyncio.run(run(data))


def test_garbage_from_the_keeper_is_a_lost_link_that_comes_back():
    async def run(data):
        async with scripted_keeper(data, welcome) as peers, linked(data) as (link, forgotten):
            peers[0]._transport.write(b"\xff" * 16)
            await until(lambda: forgotten == [None, None])
            assert len(peers) == 2 and link.connected

    with data_folder() as data:
        asyncio.run(run(data))


def test_it_closes_in_every_state():
    async def run(data):
        before = asyncio.all_tasks()
        unstarted = Link(socket_path(data), lambda _: None)
        await unstarted.close()
        async with linked(data, patience=0):
            await asyncio.sleep(0.05)
        async with scripted_keeper(data, lambda *_: None), linked(data, patience=0):
            await asyncio.sleep(0.05)  # in the middle of the greeting
        async with scripted_keeper(data, welcome), linked(data):
            pass
        assert asyncio.all_tasks() == before

    with data_folder() as data:
        asyncio.run(run(data))

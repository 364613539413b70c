"""The keeper's links: calls answered, changes pushed to every worker before they are confirmed."""

import asyncio
import contextlib
import socket
import sqlite3

from tests.keeper.running import running_keeper, until
from waypost.keeper.folder import database_path
from waypost.keys import digest_of, mint_key
from waypost.link import Framed, FrameParser, render_frame, socket_path
from waypost.messages import (
    PROTOCOL,
    BreakerNews,
    BreakerRow,
    CreateKey,
    Failed,
    Forget,
    ForgetAccount,
    ForgetAll,
    Hello,
    Identify,
    Identity,
    ListBreakers,
    ListKeys,
    RevokeKey,
    SetAccount,
    Welcome,
)


class Visitor:
    """A connection to the keeper, and everything it was told without asking, in order."""

    def __init__(self, peer: Framed, heard: list) -> None:
        self.peer = peer
        self.heard = heard

    async def ask(self, message):
        reply = await self.peer.call(message, 30)
        self.heard.append(("reply", reply))
        return reply


@contextlib.asynccontextmanager
async def visiting(data, *, hello: bool = True):
    heard: list = []
    lost = asyncio.Event()
    _, peer = await asyncio.get_running_loop().create_unix_connection(
        lambda: Framed(lambda _peer, call_id, message: heard.append((call_id, message)), lambda *_: lost.set()),
        str(socket_path(data)),
    )
    visitor = Visitor(peer, heard)
    try:
        if hello:
            assert await visitor.ask(Hello(1)) == Welcome(PROTOCOL)
            heard.clear()
        yield visitor
    finally:
        peer.close()
        await lost.wait()


def test_identify():
    with running_keeper() as keeper:

        async def run():
            created = await keeper.create_key()
            async with visiting(keeper.data) as worker:
                known = await worker.ask(Identify(digest_of(created.key.encode())))
                unknown = await worker.ask(Identify(digest_of(mint_key().encode())))
                return known, unknown, await worker.ask(Identify(b""))

        known, unknown, nonsense = asyncio.run(run())
        assert known == Identity(1, 1, "ann", "free", "inference", "default")
        assert unknown is None and nonsense is None


@contextlib.contextmanager
def raw_link(data, *messages):
    """A blocking socket to the keeper that has sent `messages` as calls 1, 2, …, and its parser."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(socket_path(data)))
        for call_id, message in enumerate(messages, 1):
            connection.sendall(render_frame(call_id, message))
        yield connection, FrameParser()


def frames_until(reply_to: int, connection: socket.socket, parser: FrameParser) -> list:
    """All frames up to the reply to that call."""
    frames: list = []
    while not any(call_id == -reply_to for call_id, _ in frames):
        frames += parser.feed(connection.recv(65536))
    return frames


def test_every_worker_hears_of_a_change_before_whoever_made_it():
    with running_keeper() as keeper:
        changes = [
            (CreateKey("ann", "free"), [Forget, ForgetAccount]),
            (SetAccount("ann", plan="max"), [Forget, ForgetAccount]),
            (RevokeKey("1"), [Forget]),
            (SetAccount("ann", plan="free"), [ForgetAccount]),
        ]
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(raw_link(keeper.data, Hello(number))) for number in range(3)]
            for worker in workers:
                assert frames_until(1, *worker) == [(-1, Welcome(PROTOCOL))]
            maker, parser = workers[-1]
            heard = set()
            for call_id, (change, kinds) in enumerate(changes, 2):
                maker.sendall(render_frame(call_id, change))
                *pushes, reply = frames_until(call_id, maker, parser)
                assert reply[0] == -call_id and [type(push) for _, push in pushes] == kinds
                heard |= {push for _, push in pushes}
                for connection, its_parser in workers[:-1]:
                    # It is there now, not soon: the maker has its answer.
                    assert its_parser.feed(connection.recv(65536, socket.MSG_DONTWAIT)) == pushes
            assert len(heard) == 2, "always the same key and account"


def test_a_command_is_told_nothing():
    with running_keeper() as keeper:

        async def run():
            async with visiting(keeper.data, hello=False) as command, visiting(keeper.data) as worker:
                await command.ask(CreateKey("ann", "free"))
                await until(lambda: worker.heard)
                assert [kind for kind, _ in command.heard] == ["reply"]

        asyncio.run(run())


def test_listing_and_refused_changes_are_not_pushed():
    with running_keeper() as keeper:

        async def run():
            async with visiting(keeper.data) as worker:
                await worker.ask(ListKeys())
                await worker.ask(CreateKey("ann", "gold"))
                await worker.ask(RevokeKey("1"))
                assert [kind for kind, _ in worker.heard] == ["reply"] * 3

        asyncio.run(run())


def test_a_worker_of_another_protocol_is_not_welcome():
    with running_keeper() as keeper:

        async def run():
            async with visiting(keeper.data, hello=False) as worker:
                return await worker.ask(Hello(3, PROTOCOL + 1))

        failed = asyncio.run(run())
        assert failed == Failed(
            "UNAVAILABLE", f"the keeper speaks link protocol {PROTOCOL}, worker 3 speaks {PROTOCOL + 1}"
        )


def test_a_keeper_whose_database_fails_welcomes_nobody_and_answers_unavailable():
    with running_keeper() as keeper:

        async def run():
            digest = digest_of((await keeper.create_key()).key.encode())
            async with visiting(keeper.data) as worker, visiting(keeper.data, hello=False) as newcomer:
                broken = sqlite3.connect(database_path(keeper.data))
                broken.execute("ALTER TABLE keys RENAME TO lost")
                failures = [await worker.ask(Identify(digest)), await newcomer.ask(Hello(2))]
                broken.execute("ALTER TABLE lost RENAME TO keys")
                broken.close()
                assert [failed.code for failed in failures] == ["UNAVAILABLE"] * 2
                assert (await worker.ask(Identify(digest))).account == "ann"
                assert await newcomer.ask(Hello(2)) == Welcome(PROTOCOL)

        asyncio.run(run())
        code, errors = keeper.stop()
        assert code == 0
        assert "Traceback" not in errors


def test_what_is_not_a_frame_ends_that_connection_alone():
    with running_keeper() as keeper:

        async def run():
            async with visiting(keeper.data) as worker:
                for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 8, render_frame(1, Hello(1))[:4] + b"\xc1" * 99):
                    reader, writer = await asyncio.open_unix_connection(str(socket_path(keeper.data)))
                    writer.write(garbage)
                    async with asyncio.timeout(30):
                        assert await reader.read() == b""
                    writer.close()
                    await writer.wait_closed()
                assert (await worker.ask(ListKeys())).rows == ()

        asyncio.run(run())


def test_a_call_that_the_keeper_does_not_answer_is_said():
    with running_keeper() as keeper:

        async def run():
            async with visiting(keeper.data) as worker:
                return await worker.ask(ForgetAll())

        assert asyncio.run(run()) == Failed("INVALID_REQUEST", "the keeper does not answer ForgetAll")


def test_a_worker_that_does_not_read_is_cut_off_and_holds_up_nobody():
    with running_keeper() as keeper, raw_link(keeper.data, Hello(66)) as (stopped, parser):
        frames_until(1, stopped, parser)

        async def run():
            async with visiting(keeper.data) as worker:
                for _ in range(200):
                    await worker.ask(CreateKey("ann", "free"))
                errors = asyncio.get_running_loop().run_in_executor(None, keeper.process.stderr.readline)
                for turn in range(1000):
                    await worker.ask(SetAccount("ann", plan=("max", "free")[turn % 2]))
                    if errors.done():
                        break
                assert await errors == "worker 66 does not read; cutting its link\n"
                assert (await worker.ask(SetAccount("ann", plan="max"))).plan == "max"

        asyncio.run(run())
        with contextlib.suppress(ConnectionResetError):
            while stopped.recv(1 << 20):
                continue


def test_breakers_are_told_to_the_others_and_to_those_who_come_later():
    opened = BreakerRow("one", "1", "m", 1e9, 1, True)
    closed = BreakerRow("one", "1", "m", 0.0, 0, False)
    with running_keeper() as keeper:

        async def run():
            async with visiting(keeper.data) as first, visiting(keeper.data) as second:
                first.peer.push(BreakerNews((opened,)))
                await until(lambda: (0, BreakerNews((opened,))) in second.heard)
                assert first.heard == [], "not to who has told"
                async with visiting(keeper.data, hello=False) as third:
                    third.heard.clear()
                    assert await third.peer.call(Hello(3), 30) == Welcome(PROTOCOL)
                    await until(lambda: third.heard == [(0, BreakerNews((opened,)))])
                async with visiting(keeper.data, hello=False) as command:
                    assert await command.ask(ListBreakers()) == BreakerNews((opened,))
                    second.peer.push(BreakerNews((closed,)))
                    await until(lambda: first.heard == [(0, BreakerNews((closed,)))])
                    assert await command.ask(ListBreakers()) == BreakerNews(())

        asyncio.run(run())

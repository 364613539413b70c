"""Books that cannot be written: the workers hear of it, those that come later too, and that it is over."""

import asyncio
import zlib

from tests.keeper.journaling import Writer, request
from tests.keeper.running import RunningKeeper, data_folder, until
from tests.postgres import running_postgres
from waypost.journal_file import PAIR
from waypost.link import socket_path
from waypost.worker.link import Link


def test_a_worker_hears_of_the_books_trouble_and_of_its_end():
    async def run(server, data, url):
        keeper = RunningKeeper(data, database=url)
        await asyncio.to_thread(keeper.start)
        with Writer(data / "journal") as writer:
            first = Link(socket_path(data), lambda _: None, worker=1)
            first.start()
            await first.wait_connected(30)
            assert first.trouble == ""
            server.stop()
            writer.write(*request(1))
            await until(lambda: first.trouble)
            assert first.trouble.startswith("the books cannot be written: ")
            server.start()
            await until(lambda: not first.trouble)
            await first.close()
        assert (await asyncio.to_thread(keeper.stop))[0] == 0

    with running_postgres() as server, data_folder() as data, server.fresh() as url:
        asyncio.run(run(server, data, url))


def test_a_worker_that_comes_during_the_trouble_is_told():
    """A line that no keeper of this version reads is trouble that stays, while the database answers."""

    async def run(data):
        keeper = RunningKeeper(data)
        await asyncio.to_thread(keeper.start)
        with Writer(data / "journal") as writer:
            writer.put(PAIR.pack(2, zlib.crc32(b"\x91\x63")) + b"\x91\x63")
            link = Link(socket_path(data), lambda _: None, worker=1)
            link.start()
            await until(lambda: "another version" in link.trouble)
            later = Link(socket_path(data), lambda _: None, worker=2)
            later.start()
            await until(lambda: later.trouble == link.trouble)
            await asyncio.to_thread(keeper.stop)
            await until(lambda: not later.trouble)
            await link.close()
            await later.close()

    with data_folder() as data:
        asyncio.run(run(data))

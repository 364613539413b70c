"""A key set's time: how often it is fetched, and what is kept while it cannot be; and how failed logins are counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

from waypost.errors import Refusal
from waypost.worker.key_set import FRESH_SECONDS, REFRESH_SECONDS, RETRY_SECONDS, KeySet, KeySetUnavailable
from waypost.worker.logins import ADDRESSES, MOST, FailedLogins, network_of

KEYS = {name: ed25519.Ed25519PrivateKey.generate().public_key() for name in ("old", "new")}


class Source:
    """What the set's address answers, and the clock."""

    def __init__(self, *names: str) -> None:
        self.names: tuple[str, ...] = names
        self.is_down = False
        self.fetches = 0
        self.now = 1000.0

    async def fetch(self) -> bytes:
        self.fetches += 1
        await asyncio.sleep(0)
        if self.is_down:
            raise OSError("down")
        return json.dumps(
            {"keys": [{**OKPAlgorithm.to_jwk(KEYS[name], as_dict=True), "kid": name} for name in self.names]}
        ).encode()


def with_set(run: Any, *names: str) -> None:
    """Run `run(source, find)` on a fresh set."""

    async def main() -> None:
        source = Source(*names)
        key_set = KeySet(source.fetch, lambda: source.now)

        async def find(name: str | None) -> bool:
            found = await key_set.find(name, "EdDSA")
            assert found is None or found == KEYS[name or ""]
            return found is not None

        await run(source, find)
        key_set.close()

    asyncio.run(main())


def test_many_at_once_are_one_fetch() -> None:
    async def run(source: Source, find: Any) -> None:
        assert all(await asyncio.gather(*(find("old") for _ in range(100))))
        assert source.fetches == 1

    with_set(run, "old")


def test_a_new_key_is_found_within_a_minute_and_not_by_asking_more_often() -> None:
    async def run(source: Source, find: Any) -> None:
        assert await find("old") and not await find("new")
        source.names = ("old", "new")
        for _ in range(100):
            source.now += (REFRESH_SECONDS - 1) / 128
            assert not await find("new")
        assert source.fetches == 1
        source.now = 1000.0 + REFRESH_SECONDS
        assert await find("new") and source.fetches == 2

    with_set(run, "old")


def test_a_storm_of_unknown_keys_is_a_fetch_a_minute() -> None:
    async def run(source: Source, find: Any) -> None:
        for number in range(1200):
            assert not await find(f"unknown {number}")
            source.now += 0.5
        assert source.fetches == 600 / REFRESH_SECONDS

    with_set(run, "old")


def test_keys_stay_good_while_their_address_is_down() -> None:
    async def run(source: Source, find: Any) -> None:
        assert await find("old")
        source.is_down = True
        for _ in range(20):
            source.now += FRESH_SECONDS
            assert await find("old")
            await asyncio.sleep(0.001)
        assert source.fetches == 21
        assert not await find("new")

    with_set(run, "old")


def test_a_key_taken_out_of_its_set_dies() -> None:
    async def run(source: Source, find: Any) -> None:
        assert await find("old")
        source.names = ("new",)
        source.now += FRESH_SECONDS
        assert await find("old"), "the fetch is under way"
        async with asyncio.timeout(30):
            while await find("old"):
                await asyncio.sleep(0.001)
        assert await find("new") and source.fetches == 2

    with_set(run, "old")


def test_without_keys_it_is_tried_again_in_ten_seconds() -> None:
    async def run(source: Source, find: Any) -> None:
        source.is_down = True
        for _ in range(10):
            with pytest.raises(KeySetUnavailable):
                await find("old")
        assert source.fetches == 1
        source.is_down = False
        source.now += RETRY_SECONDS
        assert await find("old") and source.fetches == 2

    with_set(run, "old")


def test_one_who_hangs_up_does_not_end_the_fetch_of_the_others() -> None:
    async def run(source: Source, find: Any) -> None:
        first, second = asyncio.create_task(find("old")), asyncio.create_task(find("old"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second and source.fetches == 1

    with_set(run, "old")


# Failed logins


def test_ten_failures_a_second_are_free_in_every_window() -> None:
    now = 0.0
    logins = FailedLogins(lambda: now)
    passed = []
    for _ in range(1000):
        now += 0.01
        with contextlib.suppress(Refusal):
            logins.add("192.0.2.1")
            passed.append(now)
    for _ in range(MOST):
        logins.add("192.0.2.2")
    with pytest.raises(Refusal, match="more than 10 bad credentials a second") as caught:
        logins.add("192.0.2.2")
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    assert all(later - earlier >= 0.99 for earlier, later in zip(passed, passed[MOST:], strict=False))
    assert len(passed) >= 90, "the refused ones keep nobody out for longer"


def test_addresses_are_apart_and_bounded() -> None:
    logins = FailedLogins(lambda: 0.0)
    for number in range(ADDRESSES * 2):
        for _ in range(2):
            logins.add(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(logins) == ADDRESSES


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
    ],
)
def test_networks(address: str, network: str) -> None:
    assert network_of(address) == network

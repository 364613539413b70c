"""Who is calling: the credential, the cache, and what happens when the keeper cannot say."""

import asyncio
import contextlib
import logging
import signal
import sqlite3

import msgspec
import pytest

from tests.keeper.running import data_folder, running_keeper, until
from tests.worker.test_link import scripted_keeper
from waypost.errors import Refusal
from waypost.http.head import Head
from waypost.http.message import Limits
from waypost.keeper.folder import database_path
from waypost.keys import digest_of, mint_key
from waypost.link import socket_path
from waypost.messages import (
    PROTOCOL,
    CreateKey,
    Failed,
    Forget,
    ForgetAll,
    Hello,
    Identify,
    Identity,
    KeyTerms,
    PatchKey,
    RevokeKey,
    SetAccount,
    Welcome,
)
from waypost.worker.identity import Identities, credential
from waypost.worker.link import Link
from waypost.worker.logins import FailedLogins

KEY = mint_key().encode()


# The credential


def head_of(headers: dict[bytes, bytes]) -> Head:
    """A request's head with these headers."""
    lines = b"".join(b"%b: %b\r\n" % header for header in {b"host": b"x", **headers}.items())
    return Head(b"POST /v1/chat/completions HTTP/1.1\r\n" + lines, Limits())


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + KEY},
        {b"authorization": b"bearer " + KEY},
        {b"authorization": b"BEARER   " + KEY + b" "},
        {b"x-api-key": KEY},
        {b"api-key": KEY},
        {b"x-goog-api-key": KEY},
        {b"x-api-key": b" " + KEY + b"\t"},
        {b"authorization": b"Bearer " + KEY, b"x-api-key": KEY, b"host": b"x"},
        {b"authorization": b"Bearer ", b"x-api-key": KEY},
        {b"authorization": b"Bearer " + KEY, b"x-api-key": b""},
    ],
)
def test_every_header_form_is_the_same(headers):
    assert credential(head_of(headers)) == KEY


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "no credential: send your key as `Authorization: Bearer rk_…` or `x-api-key: rk_…`"),
        ({b"host": b"x", b"cookie": KEY, b"proxy-authorization": b"Bearer " + KEY}, "no credential"),
        ({b"authorization": b""}, "not of the scheme Bearer"),
        ({b"authorization": b"Bearer"}, "no credential"),
        ({b"authorization": b"Bearer  "}, "no credential"),
        ({b"authorization": b"Basic " + KEY}, "not of the scheme Bearer"),
        ({b"authorization": KEY}, "not of the scheme Bearer"),
        ({b"authorization": b"Basic x", b"x-api-key": KEY}, "not of the scheme Bearer"),
        ({b"authorization": b"Bearer " + KEY, b"x-api-key": KEY[:-1] + b"x"}, "different credentials"),
        ({b"x-api-key": KEY, b"x-goog-api-key": b"other"}, "different credentials"),
        ({b"x-api-key": b"x" * 8193}, "longer than 8 KiB"),
        ({b"authorization": b"Bearer " + b"x" * 8186}, "longer than 8 KiB"),
    ],
)
def test_what_is_no_credential(headers, words):
    with pytest.raises(Refusal) as caught:
        credential(head_of(headers))
    assert (caught.value.failure.code, caught.value.status) == ("AUTHENTICATION_ERROR", 401)
    assert words in caught.value.message and "Authorization: Bearer" in caught.value.message
    assert KEY.decode() not in caught.value.message


def test_8_kib_is_still_a_credential():
    assert credential(head_of({b"x-api-key": b"x" * 8192})) == b"x" * 8192
    assert credential(head_of({b"authorization": b"Bearer " + b"x" * 8185})) == b"x" * 8185


# The cache, with a real keeper


@contextlib.asynccontextmanager
async def identifying(data, patience: float = 30.0, **bounds):
    """A worker's link and its identities."""
    link = Link(socket_path(data), lambda digest: identities.forget(digest), worker=1)
    identities = Identities(link, **bounds)
    link.start()
    try:
        if patience:
            await link.wait_connected(patience)
        yield link, identities
    finally:
        await link.close()


async def refused(identities: Identities, token: bytes) -> Refusal:
    """The refusal that a look-up must end in."""
    with pytest.raises(Refusal) as caught:
        await identities.look_up(token)
    assert token.decode(errors="replace") not in caught.value.message
    return caught.value


def test_a_known_key_is_asked_for_once():
    with running_keeper() as keeper:

        async def run():
            created = await keeper.create_key()
            token = created.key.encode()
            async with identifying(keeper.data) as (_, identities):
                assert identities.cached(token) is None
                identity = await identities.look_up(token)
                assert identity == Identity(created.id, 1, "ann", "free", "inference", "default")
                for _ in range(10):
                    assert identities.cached(token) is identity
                    assert await identities.look_up(token) is identity
                assert identities.look_ups == 1

        asyncio.run(run())


def test_200_look_ups_at_once_are_one_call():
    with running_keeper() as keeper:

        async def run():
            good, bad = (await keeper.create_key()).key.encode(), mint_key().encode()
            async with identifying(keeper.data) as (_, identities):
                answers = await asyncio.gather(*(identities.look_up(good) for _ in range(200)))
                assert len(set(map(id, answers))) == 1 and identities.look_ups == 1
                refusals = await asyncio.gather(*(refused(identities, bad) for _ in range(200)))
                assert {refusal.status for refusal in refusals} == {401} and identities.look_ups == 2

        asyncio.run(run())


def test_one_caller_who_hangs_up_does_not_end_the_look_up_of_the_others():
    with running_keeper() as keeper:

        async def run():
            token = (await keeper.create_key()).key.encode()
            async with identifying(keeper.data) as (_, identities):
                first, second = (asyncio.create_task(identities.look_up(token)) for _ in range(2))
                await asyncio.sleep(0)
                first.cancel()
                assert (await second).account == "ann" and first.cancelled()
                assert identities.look_ups == 1

        asyncio.run(run())


JWT = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


def test_a_malformed_token_is_refused_without_asking():
    async def run(data):
        async with identifying(data, patience=0) as (_, identities):
            for token in (KEY[:-1] + b"x", KEY[:-1], KEY + b"0", KEY.upper(), b"rk_" + b"0" * 64, b"sk-1", b"", JWT):
                refusal = await refused(identities, token) if token else None
                assert refusal is None or (refusal.failure.code, refusal.status) == ("AUTHENTICATION_ERROR", 401)
            assert identities.look_ups == 0 and len(identities) == 0

    with data_folder() as data:
        asyncio.run(run(data))


def test_unknown_revoked_disabled_and_mistyped_are_refused_in_the_same_words():
    with running_keeper() as keeper:

        async def run():
            revoked, disabled = await keeper.create_key("ann"), await keeper.create_key("bob")
            await keeper.ask(RevokeKey(revoked.key))
            await keeper.ask(SetAccount("bob", disabled=True))
            async with identifying(keeper.data) as (_, identities):
                tokens = [mint_key().encode(), revoked.key.encode(), disabled.key.encode(), KEY[:-1] + b"x"]
                refusals = [await refused(identities, token) for token in tokens for _ in range(2)]
                assert {(each.failure.code, each.status) for each in refusals} == {("AUTHENTICATION_ERROR", 401)}
                assert len({each.message for each in refusals}) == 1
                assert identities.look_ups == 3, "a refusal is remembered too"

        asyncio.run(run())


def test_a_revoked_key_is_refused_on_every_worker_within_a_second():
    with running_keeper() as keeper:

        async def run():
            created = await keeper.create_key()
            token = created.key.encode()
            async with identifying(keeper.data) as (_, one), identifying(keeper.data) as (_, two):
                for identities in (one, two):
                    assert (await identities.look_up(token)).account == "ann"
                await keeper.ask(RevokeKey(created.key))
                await until(lambda: one.cached(token) is None and two.cached(token) is None, seconds=1.0)
                for identities in (one, two):
                    assert (await refused(identities, token)).status == 401

        asyncio.run(run())


def test_a_key_that_was_refused_is_accepted_once_its_account_is_enabled():
    with running_keeper() as keeper:

        async def run():
            token = (await keeper.create_key()).key.encode()
            await keeper.ask(SetAccount("ann", disabled=True))
            async with identifying(keeper.data) as (_, identities):
                assert (await refused(identities, token)).status == 401
                await keeper.ask(SetAccount("ann", disabled=False, plan="max"))
                await until(lambda: len(identities) == 0)
                assert (await identities.look_up(token)).plan == "max"

        asyncio.run(run())


def test_a_keeper_that_is_killed_and_comes_back():
    with running_keeper() as keeper:

        async def run():
            known, other, later = [await keeper.create_key() for _ in range(3)]
            revoked = await keeper.create_key()
            unknown = mint_key().encode()
            async with identifying(keeper.data) as (link, identities):
                await identities.look_up(known.key.encode())
                await identities.look_up(revoked.key.encode())
                assert (await refused(identities, unknown)).status == 401
                keeper.stop(signal.SIGKILL)
                await until(lambda: not link.connected)

                assert identities.cached(known.key.encode()).account == "ann"
                assert (await identities.look_up(known.key.encode())).account == "ann"
                for token in (other.key.encode(), unknown):
                    refusal = await refused(identities, token)
                    assert (refusal.failure.code, refusal.status, refusal.retry_after) == ("UNAVAILABLE", 503, 1)
                assert (await refused(identities, KEY[:-1] + b"x")).status == 401

                await keeper.ask(RevokeKey(revoked.key))  # without a keeper: nobody is told
                assert identities.cached(revoked.key.encode()) is not None
                keeper.start()
                await link.wait_connected(30)
                assert (await refused(identities, revoked.key.encode())).status == 401
                assert (await refused(identities, unknown)).status == 401
                for created in (known, other, later):
                    assert (await identities.look_up(created.key.encode())).account == "ann"

        asyncio.run(run())


def test_a_database_that_fails_is_503_for_keys_not_at_hand():
    with running_keeper() as keeper:

        async def run():
            known, other = [(await keeper.create_key()).key.encode() for _ in range(2)]
            async with identifying(keeper.data) as (_, identities):
                await identities.look_up(known)
                broken = sqlite3.connect(database_path(keeper.data))
                broken.execute("ALTER TABLE keys RENAME TO lost")
                assert (await identities.look_up(known)).account == "ann"
                for token in (other, mint_key().encode()):
                    refusal = await refused(identities, token)
                    assert (refusal.status, refusal.retry_after) == (503, 1)
                    assert "lost" not in refusal.message and "keys.id" not in refusal.message
                broken.execute("ALTER TABLE lost RENAME TO keys")
                broken.close()
                assert (await identities.look_up(other)).account == "ann"

        asyncio.run(run())


def test_no_token_reaches_the_logs(caplog):
    with running_keeper() as keeper, caplog.at_level(logging.DEBUG):

        async def run():
            created = await keeper.create_key()
            tokens = [created.key.encode(), mint_key().encode(), KEY[:-1] + b"x"]
            async with identifying(keeper.data) as (link, identities):
                with contextlib.suppress(Refusal):
                    await identities.look_up(tokens[0])
                    await identities.look_up(tokens[1])
                keeper.stop(signal.SIGKILL)
                await until(lambda: not link.connected)
                for token in tokens:
                    with contextlib.suppress(Refusal):
                        await identities.look_up(token)
                said = caplog.text + repr(identities) + repr(vars(identities))
                assert not any(token.decode() in said for token in tokens)
            return keeper.process.stderr

        asyncio.run(run())


# The cache, with a keeper that answers as the test wants


def answering(answer):
    """What a scripted keeper does: welcome, and `answer(peer, call_id, digest)` to every Identify."""

    def receive(peer, call_id, message):
        if isinstance(message, Hello):
            peer.reply(call_id, Welcome(PROTOCOL))
        elif isinstance(message, Identify):
            answer(peer, call_id, message.digest)

    return receive


def identity(account: str) -> Identity:
    return Identity(1, 1, account, "free", "inference", "x")


@pytest.mark.parametrize("push", [Forget(digest_of(KEY)), ForgetAll()])
@pytest.mark.parametrize(("old", "new"), [(identity("old"), None), (None, identity("new"))])
def test_a_change_that_overtakes_an_answer_wins(push, old, new):
    asked = []

    def answer(peer, call_id, digest):
        asked.append(digest)
        if len(asked) == 1:
            peer.push(push)
            peer.reply(call_id, old)
        else:
            peer.reply(call_id, new)

    async def run(data):
        async with scripted_keeper(data, answering(answer)), identifying(data) as (_, identities):
            if new is None:
                assert (await refused(identities, KEY)).status == 401
            else:
                assert await identities.look_up(KEY) == new
            assert identities.cached(KEY) == new
            assert identities.look_ups == len(asked) == 2

    with data_folder() as data:
        asyncio.run(run(data))


def test_a_change_right_behind_an_answer_wins_too():
    """Both in one segment: the answer must not be remembered after it was to be forgotten."""
    asked = []

    def answer(peer, call_id, digest):
        asked.append(digest)
        peer.reply(call_id, identity("old") if len(asked) == 1 else None)
        if len(asked) == 1:
            peer.push(Forget(digest))

    async def run(data):
        async with scripted_keeper(data, answering(answer)), identifying(data) as (_, identities):
            with contextlib.suppress(Refusal):
                await identities.look_up(KEY)
            await until(lambda: identities.cached(KEY) is None)
            assert (await refused(identities, KEY)).status == 401

    with data_folder() as data:
        asyncio.run(run(data))


def test_a_change_of_another_key_costs_no_second_call():
    def answer(peer, call_id, digest):
        peer.push(Forget(b"another"))
        peer.reply(call_id, identity("ann"))

    async def run(data):
        async with scripted_keeper(data, answering(answer)), identifying(data) as (_, identities):
            assert (await identities.look_up(KEY)).account == "ann"
            assert identities.look_ups == 1

    with data_folder() as data:
        asyncio.run(run(data))


def test_a_key_that_never_stops_changing_is_503_and_not_remembered():
    def answer(peer, call_id, digest):
        peer.push(Forget(digest))
        peer.reply(call_id, identity("ann"))

    async def run(data):
        async with scripted_keeper(data, answering(answer)), identifying(data) as (_, identities):
            assert (await refused(identities, KEY)).status == 503
            assert len(identities) == 0 and identities.look_ups == 3

    with data_folder() as data:
        asyncio.run(run(data))


@pytest.mark.parametrize(
    "reply", [Failed("UNAVAILABLE", "x"), Failed("INTERNAL_ERROR", "x"), Welcome(1), CreateKey("a")]
)
def test_every_other_answer_is_503_and_not_remembered(reply):
    async def run(data):
        async with (
            scripted_keeper(data, answering(lambda peer, call_id, _: peer.reply(call_id, reply))),
            identifying(data) as (_, identities),
        ):
            refusal = await refused(identities, KEY)
            assert (refusal.failure.code, refusal.status, refusal.retry_after) == ("UNAVAILABLE", 503, 1)
            assert len(identities) == 0

    with data_folder() as data:
        asyncio.run(run(data))


def test_50_000_known_keys_keep_the_cache_at_its_bound():
    async def run(data):
        async with (
            scripted_keeper(data, answering(lambda peer, call_id, _: peer.reply(call_id, identity("ann")))),
            identifying(data) as (_, identities),
        ):
            tokens = [mint_key().encode() for _ in range(50_000)]
            for start in range(0, len(tokens), 100):
                await asyncio.gather(*map(identities.look_up, tokens[start : start + 100]))
                assert len(identities) <= 20_000
            assert len(identities) == 20_000 and identities.look_ups == 50_000
            assert identities.cached(tokens[-1]) and identities.cached(tokens[-20_000])
            assert identities.cached(tokens[0]) is identities.cached(tokens[-20_001]) is None

    with data_folder() as data:
        asyncio.run(run(data))


def test_garbage_pushes_out_no_good_key():
    good = [mint_key().encode() for _ in range(10)]
    known = set(map(digest_of, good))

    def answer(peer, call_id, digest):
        peer.reply(call_id, identity("ann") if digest in known else None)

    async def run(data):
        async with (
            scripted_keeper(data, answering(answer)),
            identifying(data, capacity=10, refused_capacity=5) as (_, identities),
        ):
            for token in good:
                await identities.look_up(token)
            garbage = [mint_key().encode() for _ in range(100)]
            for token in garbage:
                assert (await refused(identities, token)).status == 401
            assert all(identities.cached(token) for token in good) and len(identities) == 15
            asked = identities.look_ups
            await refused(identities, garbage[-1])
            await refused(identities, garbage[-5])
            assert identities.look_ups == asked
            await refused(identities, garbage[-6])
            assert identities.look_ups == asked + 1

    with data_folder() as data:
        asyncio.run(run(data))


def test_a_slow_answer_is_503_then_well():
    """The link gives up after its two seconds; the next caller asks anew."""
    asked = []

    def answer(peer, call_id, digest):
        asked.append(digest)
        if len(asked) > 1:
            peer.reply(call_id, identity("ann"))

    async def run(data):
        async with scripted_keeper(data, answering(answer)), identifying(data) as (_, identities):
            assert (await refused(identities, KEY)).status == 503
            assert (await identities.look_up(KEY)).account == "ann"

    with data_folder() as data:
        asyncio.run(run(data))


# Time


def test_an_expired_key_is_refused_from_the_cache_too_in_the_same_words():
    now = 1_795_300_000.0
    expiring = msgspec.structs.replace(identity("ann"), expires_at=int(now) + 60)
    asked = []

    def answer(peer, call_id, digest):
        asked.append(digest)
        peer.reply(call_id, expiring)

    async def run(data):
        nonlocal now
        async with scripted_keeper(data, answering(answer)), identifying(data, clock=lambda: now) as (_, identities):
            head = head_of({b"x-api-key": KEY})
            assert await identities.identify(head) == expiring == identities.known(head) == identities.cached(KEY)
            now += 59.9
            assert identities.known(head) is not None
            now += 0.1
            assert identities.known(head) is None and identities.cached(KEY) is None
            late = await refused(identities, KEY)
            unknown = await refused(identities, KEY[:-1] + b"x")
            assert (late.status, late.message) == (401, unknown.message)
            with pytest.raises(Refusal, match="expired"):
                await identities.identify(head)
            assert len(asked) == 1

    with data_folder() as data:
        asyncio.run(run(data))


def test_a_key_that_has_expired_before_it_is_first_used_is_refused():
    expired = msgspec.structs.replace(identity("ann"), expires_at=1)

    async def run(data):
        keeper = scripted_keeper(data, answering(lambda peer, call_id, digest: peer.reply(call_id, expired)))
        async with keeper, identifying(data) as (_, identities):
            for _ in range(2):
                assert (await refused(identities, KEY)).status == 401
            assert identities.look_ups == 1

    with data_folder() as data:
        asyncio.run(run(data))


def test_a_key_whose_time_is_changed_is_good_again_at_once():
    with running_keeper() as keeper:

        async def run():
            now = 1_795_300_000.0
            created = await keeper.ask(CreateKey("ann", "free", terms=KeyTerms(expires_at=4_000_000_000)))
            token = created.key.encode()
            async with identifying(keeper.data, clock=lambda: now) as (_, identities):
                assert (await identities.look_up(token)).expires_at == 4_000_000_000
                now = 4_000_000_000.0
                await refused(identities, token)
                await keeper.ask(PatchKey("1", terms=KeyTerms(expires_at=4_000_000_001)))
                await until(lambda: len(identities) == 0)
                assert (await identities.look_up(token)).expires_at == 4_000_000_001

        asyncio.run(run())


def test_bad_credentials_are_counted_by_address_and_good_ones_never_refused():
    with running_keeper() as keeper:

        async def run():
            token = (await keeper.create_key()).key.encode()
            logins = FailedLogins(lambda: 0.0)
            async with identifying(keeper.data, logins=logins) as (_, identities):
                bad = [{b"x-api-key": b"nonsense"}, {b"authorization": b"Basic x"}, {}, {b"x-api-key": b"a.b.c"}]
                codes = []
                for number in range(15):
                    with pytest.raises(Refusal) as caught:
                        await identities.identify(head_of(bad[number % 4]), "192.0.2.1")
                    codes.append(caught.value.failure.code)
                assert codes == ["AUTHENTICATION_ERROR"] * 10 + ["TOO_MANY_FAILED_LOGINS"] * 5
                with pytest.raises(Refusal) as caught:
                    await identities.identify(head_of(bad[0]), "192.0.2.2")
                assert caught.value.status == 401
                assert (await identities.identify(head_of({b"x-api-key": token}), "192.0.2.1")).account == "ann"

        asyncio.run(run())

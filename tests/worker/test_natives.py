"""Native model ids that stand in no configuration: resolved by the keeper's price list, listed, and called."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal

import msgspec
import pytest

from tests.harness import DEADLINE, Waypost, serving, wait_until
from tests.keeper.running import data_folder, running_keeper, until
from tests.worker.test_link import linked, scripted_keeper, welcome
from waypost import config, providers
from waypost.errors import Refusal
from waypost.http.pool import Names
from waypost.http.timers import Deadlines
from waypost.listing import FindNative, ListNatives, NativeRecord, NativeRecords
from waypost.messages import Failed, Hello
from waypost.policy.health import Health
from waypost.worker.cards import render_card
from waypost.worker.catalogue import Facts, NoFacts, each_card, learn
from waypost.worker.natives import LONGEST_ID, Natives
from waypost.worker.prices import Listed
from waypost.worker.resolve import make_route
from waypost.worker.upstreams import Snapshot

KEYS = {"keys": ["secret"]}
OPENAI = NativeRecord("gpt-4o-mini", "openai", "gpt-4o-mini", 128_000, "0.15", "0.6", "0.075", False)


def configured(models: dict[str, object] | None = None, **tables: dict[str, object]) -> config.Config:
    """A configuration with these providers, each with a key."""
    return config.parse(
        {"providers": {name: KEYS | table for name, table in tables.items()}, "models": models or {}}, {}
    )


@contextlib.contextmanager
def snapshot_of(settings: config.Config) -> Iterator[Snapshot]:
    """A worker's snapshot, inside of a running loop."""
    deadlines = Deadlines(asyncio.get_running_loop())
    names = Names(deadlines)
    try:
        yield Snapshot(settings, {}, deadlines, names, Health())
    finally:
        names.close()
        deadlines.close()


# Whom the list is asked about


def test_only_known_providers_at_their_own_address_are_listed():
    own = {row.name: {} for row in providers.TABLE}
    moved = {"mistral": {"base_url": "https://proxy.example/v1"}, "xai": {"base_url": "https://api.x.ai/v1/"}}
    settings = configured(**own, lab={"base_url": "http://lab/v1"})
    settings = msgspec.structs.replace(settings, providers={**settings.providers, **configured(**moved).providers})

    async def run():
        with snapshot_of(settings) as snapshot:
            return snapshot.listed

    unlisted = {"mistral", *(row.name for row in providers.TABLE if row.prices is None)}
    assert {"dashscope", "sambanova", "nvidia", "huggingface", "ollama"} < unlisted
    assert asyncio.run(run()) == tuple(row.name for row in providers.TABLE if row.name not in unlisted)


def test_what_belongs_to_one_customer_has_prices_but_no_ids_of_everyone_s():
    settings = configured(
        openai={},
        bedrock={"region": "us-east-1"},
        vertex={"location": "eu", "project": "p"},
        azure={"base_url": "https://mine.openai.azure.com/openai"},
    )
    own = {"format": "bedrock", "region": "us-east-1", "base_url": "http://localhost:1"}
    moved = configured(azure={"base_url": "https://proxy.example/openai"}, bedrock=own)

    async def run(settings):
        with snapshot_of(settings) as snapshot:
            return snapshot.priced, snapshot.listed

    assert asyncio.run(run(settings)) == (("openai", "bedrock", "vertex", "azure"), ("openai",))
    assert asyncio.run(run(moved)) == ((), ())


# With a real keeper


def test_a_native_id_becomes_a_chain_that_the_snapshot_keeps():
    settings = configured(openai={}, cerebras={}, lab={"base_url": "http://lab/v1"})
    with running_keeper() as keeper:

        async def run():
            async with linked(keeper.data) as (link, _):
                natives = Natives(link)
                with snapshot_of(settings) as snapshot:
                    assert snapshot.links("gpt-4o-mini") is None
                    chain = await natives.links(snapshot, "gpt-4o-mini")
                    assert chain is snapshot.links("gpt-4o-mini"), "without a wait from now on"
                    assert chain == [("openai", "gpt-4o-mini")]
                    route = make_route(snapshot, "gpt-4o-mini", {("openai", "gpt-4o-mini"): Listed()})
                    sent = route.upstreams[0].render(b"{}", False)
                    assert sent.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: api.openai.com")
                    both = await natives.links(snapshot, "gpt-oss-120b")
                    assert both == [("openai", "gpt-oss-120b"), ("cerebras", "gpt-oss-120b")]
                    assert await natives.links(snapshot, "no-such-model") is None

        asyncio.run(run())


def test_a_keeper_that_is_down_says_nothing_of_a_model():
    with running_keeper() as keeper:

        async def run():
            async with linked(keeper.data) as (link, _):
                natives = Natives(link)
                with snapshot_of(configured(openai={})) as snapshot:
                    assert await natives.links(snapshot, "no-such-model") is None
                    keeper.stop()
                    await until(lambda: not link.connected)
                    for model in ("gpt-4o-mini", "another-one"):
                        with pytest.raises(Refusal) as caught:
                            await natives.links(snapshot, model)
                        refusal = caught.value
                        assert (refusal.failure.code, refusal.status, refusal.retry_after) == ("UNAVAILABLE", 503, 1)
                    assert await natives.links(snapshot, "no-such-model") is None, "that much is known"
                    keeper.start()
                    await link.wait_connected(DEADLINE)
                    assert await natives.links(snapshot, "gpt-4o-mini") == [("openai", "gpt-4o-mini")]

        asyncio.run(run())


# With one that counts


class Counting:
    """At the keeper's place: knows `known-…` at every provider asked, holds its answers back while told to."""

    def __init__(self) -> None:
        self.asked: list[FindNative] = []
        self.held: list = []
        self.holding = False

    def __call__(self, peer, call_id, message) -> None:
        if isinstance(message, Hello):
            welcome(peer, call_id, message)
            return
        self.asked.append(message)
        rows = [msgspec.structs.replace(OPENAI, provider=provider) for provider in message.providers]
        answer = NativeRecords(tuple(rows) if message.model.startswith("known-") else ())
        self.held.append(lambda: peer.reply(call_id, answer))
        if not self.holding:
            self.held.pop()()


@contextlib.asynccontextmanager
async def counted(capacity: int = 1000):
    """A keeper that counts, and natives that ask it."""
    with data_folder() as data:
        keeper = Counting()
        async with scripted_keeper(data, keeper), linked(data) as (link, _):
            yield keeper, Natives(link, capacity)


def test_answers_good_and_bad_are_kept_until_they_are_forgotten():
    async def run():
        async with counted() as (keeper, natives):
            for _ in range(3):
                assert await natives.find(("openai",), "known-a") and not await natives.find(("openai",), "typo")
            assert len(keeper.asked) == 2
            assert await natives.find(("openai", "groq"), "known-a"), "another configuration is another question"
            assert len(keeper.asked) == 3
            natives.forget()
            assert len(natives) == 0
            assert await natives.find(("openai",), "known-a") and len(keeper.asked) == 4

    asyncio.run(run())


def test_what_is_kept_is_bounded_and_typos_push_out_no_model():
    async def run():
        async with counted(capacity=3) as (keeper, natives):
            await natives.find(("openai",), "known-a")
            for number in range(10):
                assert not await natives.find(("openai",), f"typo-{number}")
            assert len(natives) == 4 and len(keeper.asked) == 11
            await natives.find(("openai",), "known-a")
            await natives.find(("openai",), "typo-9")
            assert len(keeper.asked) == 11
            await natives.find(("openai",), "typo-0")
            assert len(keeper.asked) == 12

    asyncio.run(run())


def test_many_who_want_the_same_ask_once_and_one_may_leave():
    async def run():
        async with counted() as (keeper, natives):
            keeper.holding = True
            waiting = [asyncio.create_task(natives.find(("openai",), "known-a")) for _ in range(20)]
            await until(lambda: keeper.held)
            waiting[0].cancel()
            await asyncio.sleep(0)
            keeper.held.pop()()
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert isinstance(answers[0], asyncio.CancelledError)
            assert all(answer[0].provider == "openai" for answer in answers[1:]) and len(keeper.asked) == 1

    asyncio.run(run())


def test_what_cannot_be_native_is_not_asked_for():
    async def run():
        async with counted() as (keeper, natives):
            assert await natives.find((), "known-a") == ()
            assert await natives.find(("openai",), "route/known-a") == ()
            assert await natives.find(("openai",), "known-" + "a" * LONGEST_ID) == ()
            assert keeper.asked == []
            assert await natives.find(("openai",), "known-" + "a" * (LONGEST_ID - 6))

    asyncio.run(run())


def test_a_keeper_without_its_list_is_asked_again():
    failing = [True]

    def answer(peer, call_id, message):
        if isinstance(message, Hello):
            welcome(peer, call_id, message)
        else:
            peer.reply(call_id, Failed("UNAVAILABLE", "broken") if failing[0] else NativeRecords((OPENAI,)))

    async def run():
        with data_folder() as data:
            async with scripted_keeper(data, answer), linked(data) as (link, _):
                natives = Natives(link)
                with pytest.raises(Refusal) as caught:
                    await natives.find(("openai",), "gpt-4o-mini")
                assert (caught.value.status, caught.value.retry_after, len(natives)) == (503, 1, 0)
                failing[0] = False
                assert await natives.find(("openai",), "gpt-4o-mini") == (OPENAI,)

    asyncio.run(run())


# The catalogue


def learnt(settings: config.Config, *rows: NativeRecord, facts: tuple[NativeRecord, ...] = ()) -> Facts:
    """Learn from a list of these rows, in pages of one; `facts` is what it finds for single models."""

    async def ask(message):
        if isinstance(message, ListNatives):
            after = message.after + 1
            return NativeRecords(rows[message.after : after], after if after < len(rows) else None)
        assert len(message.providers) == 1
        return NativeRecords(tuple(f for f in facts if (f.id, f.provider) == (message.model, *message.providers)))

    return asyncio.run(learn(settings, ask))


def listed(settings: config.Config, facts: Facts) -> dict[str, dict[str, object]]:
    made = dict(each_card(settings, facts, 1_700_000_000))
    return {name: msgspec.json.decode(render_card(card)) for name, card in made.items()}


def test_a_native_model_is_listed_with_what_is_known():
    settings = configured(openai={}, groq={})
    second = msgspec.structs.replace(OPENAI, provider="groq", context=1, input="9")
    bare = NativeRecord("new", "groq", "new", None, None, None, None, False)
    shown = listed(settings, learnt(settings, OPENAI, second, bare))
    assert list(shown) == ["gpt-4o-mini", "new"]
    card = shown["gpt-4o-mini"]
    assert (card["object"], card["created"], card["owned_by"]) == ("model", 1_700_000_000, "openai")
    assert (card["providers"], card["context_length"]) == (["openai", "groq"], 128_000)
    prices = {"prompt": "0.00000015", "completion": "0.0000006", "input_cache_read": "0.000000075"}
    assert card["pricing"].items() >= prices.items()
    assert shown["new"]["providers"] == ["groq"]
    assert shown["new"]["context_length"] is None
    assert not shown["new"].keys() & {"pricing", "reasoning", "capabilities"}


def test_names_that_the_configuration_takes_are_its_own():
    models = {
        "gpt-4o-mini": {"chain": ["groq/other"], "price": {"input": "1", "output": "2"}, "context": 5},
        "route/a": {"chain": ["groq/shared"]},
    }
    settings = configured(models, openai={}, groq={})
    routers = NativeRecord("openai/gpt-oss-20b", "groq", "openai/gpt-oss-20b", 7, "1", "1", None, False)
    shared = [msgspec.structs.replace(OPENAI, model="shared", provider=name) for name in ("openai", "groq")]
    shown = listed(settings, learnt(settings, OPENAI, routers, *shared))
    assert set(shown) == {"gpt-4o-mini", "route/a", "shared"}, "`openai/…` is a provider's model here"
    assert (shown["gpt-4o-mini"]["owned_by"], shown["gpt-4o-mini"]["context_length"]) == ("groq", 5)
    assert shown["shared"]["providers"] == ["groq"], "as some chain has it"


def test_a_configured_model_takes_what_it_does_not_say_from_its_first_known_link():
    price = {"input": "1", "output": "2"}
    chain = ["lab/gpt-4o-mini", "openai/unknown", "openai/gpt-4o-mini", "groq/gpt-4o-mini"]
    models = {
        "route/none": {"chain": chain, "modalities": ["text", "image"]},
        "route/price": {"chain": chain, "price": price},
        "route/context": {"chain": chain, "context": 5},
        "route/both": {"chain": chain, "price": price, "context": 5},
        "route/unknown": {"chain": ["openai/unknown"]},
    }
    settings = configured(models, openai={}, groq={}, lab={"base_url": "http://lab/v1"})
    theirs = msgspec.structs.replace(OPENAI, provider="groq", context=1)
    facts = learnt(settings, facts=(OPENAI, theirs))
    assert facts == Facts(dict.fromkeys(("route/none", "route/price", "route/context"), OPENAI), {})
    shown = listed(settings, facts)
    own, known = "0.000001", "0.00000015"
    assert (shown["route/none"]["context_length"], shown["route/none"]["pricing"]["prompt"]) == (128_000, known)
    assert shown["route/none"]["architecture"]["input_modalities"] == ["text", "image"]
    assert (shown["route/price"]["context_length"], shown["route/price"]["pricing"]["prompt"]) == (128_000, own)
    assert (shown["route/context"]["context_length"], shown["route/context"]["pricing"]["prompt"]) == (5, known)
    assert (shown["route/both"]["context_length"], shown["route/both"]["pricing"]["prompt"]) == (5, own)
    assert shown["route/unknown"]["context_length"] is None
    assert "pricing" not in shown["route/unknown"]


def test_without_known_providers_nothing_is_asked():
    async def ask(message):
        raise AssertionError(message)

    settings = configured({"route/a": {"chain": ["lab/a"]}}, lab={"base_url": "http://lab/v1"}, nvidia={})
    assert asyncio.run(learn(settings, ask)) == Facts()


def test_a_list_that_cannot_be_asked_is_said():
    async def ask(message):
        return Failed("UNAVAILABLE", "it is broken")

    with pytest.raises(NoFacts, match="it is broken"):
        asyncio.run(learn(configured(openai={}), ask))


def test_a_reload_shows_and_serves_other_providers():
    one, other = ('[providers.openai]\nkeys = ["none"]\n', '[providers.groq]\nkeys = ["none"]\n')
    with serving(one) as waypost:

        def owners() -> set[str]:
            return {card["owned_by"] for card in get(waypost, "/v1/models").json["data"]}

        wait_until(lambda: owners() == {"openai"}, "the price list to be loaded")
        (waypost.folder / "waypost.toml").write_text(other)
        waypost.process.send_signal(signal.SIGHUP)
        wait_until(lambda: owners() == {"groq"}, "the new configuration's models")
        assert get(waypost, "/v1/models/gpt-4o-mini").code == "NOT_FOUND"
        assert waypost.ask("gpt-4o-mini").code == "INVALID_MODEL"


# From outside: a start with a key in the environment and no configuration


class Refusing:
    """An HTTP proxy that opens no tunnel and remembers where to one was wanted."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.wanted: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection, connection.makefile("rb") as lines:
                    self.wanted.append(lines.readline().decode().strip())
                    while lines.readline().strip():
                        continue
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Refusing]:
    proxy = Refusing()
    yield proxy
    proxy.close()


ENVIRONMENT = {row.key: "" for row in providers.TABLE} | {"OPENAI_API_KEY": "sk-upstream"}


@pytest.fixture(scope="module")
def fresh(proxy: Refusing) -> Iterator[Waypost]:
    """`waypost serve` as on a machine whose environment has nothing but an OpenAI key, and a proxy."""
    through = {"HTTPS_PROXY": proxy.address, "https_proxy": proxy.address, "NO_PROXY": "", "no_proxy": ""}
    with serving(None, environment=ENVIRONMENT | through) as waypost:
        yield waypost


def get(waypost: Waypost, path: str):
    with waypost.connect() as client:
        client.send("\r\n".join([f"GET {path} HTTP/1.1", "host: waypost", *waypost.credentials, "", ""]).encode())
        return client.answer()


def test_its_models_are_listed_with_context_and_price(fresh: Waypost):
    def listing() -> dict[str, dict]:
        return {card["id"]: card for card in get(fresh, "/v1/models").json["data"]}

    wait_until(lambda: "gpt-4o-mini" in listing(), "the price list to be loaded")
    shown = listing()
    assert "route/demo" in shown and len(shown) > 50
    card = shown["gpt-4o-mini"]
    assert (card["object"], card["owned_by"], card["providers"]) == ("model", "openai", ["openai"])
    assert card["context_length"] == 128_000 and card["architecture"]["input_modalities"] == ["text", "image", "file"]
    assert Decimal(card["pricing"]["prompt"]) == Decimal("0.15") / 1_000_000
    assert {card["owned_by"] for card in shown.values()} == {"openai", "simulator"}
    assert get(fresh, "/v1/models/gpt-4o-mini").json == card
    for name in ("openai/gpt-4o-mini", "openai%2Fgpt-4o-mini", "gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini/"):
        found = get(fresh, f"/v1/models/{name}").json
        asked = name.replace("%2F", "/").rstrip("/")
        assert found == {**card, "id": asked, "canonical_slug": asked.removeprefix("openai/")}
    for name in ("no-such-model", "openai/no-such-model", "simulator/sim/none", "x" * 5000):
        assert (get(fresh, f"/v1/models/{name}").status, get(fresh, f"/v1/models/{name}").code) == (404, "NOT_FOUND")


def test_the_command_shows_the_same_with_and_without_a_server(fresh: Waypost):
    def models(data: pathlib.Path) -> str:
        command = [str(pathlib.Path(sys.executable).with_name("waypost")), "models", "--data", str(data)]
        environment = {**os.environ, **ENVIRONMENT}
        done = subprocess.run(
            command, cwd=fresh.folder, env=environment, capture_output=True, text=True, timeout=DEADLINE
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    shown = models(fresh.folder / "data")
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
    assert rows[0] == ["model", "chain", "context", "input $/M", "output $/M"]
    assert ["route/demo", "simulator/sim/demo", "128,000"] in rows
    assert ["gpt-4o-mini", "openai/gpt-4o-mini", "128,000", "0.15", "0.6"] in rows
    assert models(fresh.folder / "no-server") == shown and not (fresh.folder / "no-server").exists()


def test_its_models_can_be_called_at_once(fresh: Waypost, proxy: Refusing):
    for model in ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini"):
        before = len(proxy.wanted)
        answer = fresh.ask(model)
        assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")
        assert set(proxy.wanted[before:]) == {"CONNECT api.openai.com:443 HTTP/1.1"}


@pytest.mark.parametrize("model", ["no-such-model", "claude-sonnet-4-20250514", "route/none", "x" * 200, "☂"])
def test_other_names_do_not_exist(fresh: Waypost, proxy: Refusing, model: str):
    before = len(proxy.wanted)
    answer = fresh.ask(model)
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (400, "INVALID_MODEL", "model")
    assert len(proxy.wanted) == before and len(answer.body) < 1000

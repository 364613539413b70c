"""Another price list: read, refused, compared, shown before it applies, and used by a server at once."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import trustme

from tests.harness import DEADLINE, Waypost, serving, wait_until
from tests.http.test_tls import Proxy, server_context
from tests.http.upstream import upstream
from tests.keeper.running import data_folder, until
from tests.worker.test_link import scripted_keeper
from waypost.keeper.price_changes import Change, compare
from waypost.keeper.price_file import (
    LARGEST,
    PriceListError,
    Stored,
    fetch,
    installed,
    parse,
    path_of,
    read,
    stamp_of,
    write,
)
from waypost.keeper.prices import PriceList, Prices
from waypost.link import socket_path
from waypost.listing import FindPrices, ForgetPrices, PriceRecords, ReloadedPrices
from waypost.messages import PROTOCOL, Failed, Hello, Welcome
from waypost.pricing import listed_price
from waypost.worker.link import Link
from waypost.worker.natives import Natives
from waypost.worker.prices import Prices as KnownPrices

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def model(id: str, **facts: Any) -> dict[str, Any]:
    return {"id": id, "match": {"equals": id}, "prices": {"input_mtok": 0.15, "output_mtok": 0.6}, **facts}


def a_list(*models: dict[str, Any], id: str = "openai") -> bytes:
    made = {"id": id, "name": id, "api_pattern": "https://api.openai.com", "models": list(models)}
    return json.dumps([made]).encode()


DEAR = a_list(
    model("gpt-4o-mini", name="Mini", context_window=256_000, prices={"input_mtok": 150, "output_mtok": 600}),
    model("gpt-next"),
)


def stored(body: bytes, package: str | None = None) -> Stored:
    return Stored("2026-11-22T04:00:00+00:00", package or installed(), "tests", msgspec.Raw(body))


# The file


def test_what_is_written_is_used_by_the_same_version_of_the_package() -> None:
    with data_folder() as data:
        assert (read(data), stamp_of(data)) == (None, "")
        assert PriceList(data).version == f"genai-prices {installed()}"
        write(data, stored(DEAR))
        first = stamp_of(data)
        assert first
        assert path_of(data).stat().st_mode & 0o777 == 0o600
        found = PriceList(data)
        assert found.version == stored(DEAR).label != f"genai-prices {installed()}"
        record = found.price("openai", "gpt-4o-mini", NOW)
        assert record is not None
        assert record.rates["input_mtok"] == ((0, "150"),)
        assert found.price("anthropic", "claude-sonnet-4-5", NOW) is None
        write(data, stored(DEAR, package="0.0.1"))
        assert read(data) is None, "a later version of the package brings a newer list of its own"
        assert PriceList(data).version == f"genai-prices {installed()}"
        assert stamp_of(data) != first


@pytest.mark.parametrize("broken", [b"", b"{}", b'{"fetched": 1}', b"\xff"])
def test_a_file_that_is_none_leaves_the_installed_list_in_use(broken: bytes) -> None:
    with data_folder() as data:
        data.mkdir()
        path_of(data).write_bytes(broken)
        with pytest.raises(PriceListError, match=r"prices\.json"):
            read(data)
        assert PriceList(data).version == f"genai-prices {installed()}"
        reply = asyncio.run(Prices(NOW.timestamp, data).reload())
        assert isinstance(reply, Failed)
        assert "prices.json" in reply.message


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not a price list"),
        (b"[1]", "not a price list"),
        (b"{}", "not a price list"),
        (b'[{"id": "x"}]', "not a price list"),
        (b"[]", "without models"),
        (a_list(), "without models"),
        (a_list(model("m", prices={"input_mtok": -1, "output_mtok": 1})), "openai/m costs -1"),
        (a_list(model("m", prices={"input_mtok": {"base": 1, "tiers": [{"start": 5, "price": -2}]}})), "costs -2"),
        (a_list(model("m", prices={"input_mtok": "NaN", "output_mtok": 1})), "openai/m costs NaN|not a price list"),
    ],
)
def test_a_list_that_cannot_be_reckoned_with_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(PriceListError, match=why):
        parse(body)


def test_where_a_list_may_come_from(tmp_path: pathlib.Path) -> None:
    for source, why in (
        (str(tmp_path / "none.json"), "No such file"),
        ("http://example.com/list.json", "https://"),
        ("ftp://example.com/list.json", "https://"),
        ("file:///etc/passwd", "https://"),
        ("http://127.0.0.1:1/list.json", "refused"),
    ):
        with pytest.raises(PriceListError, match=why):
            fetch(source)
    (tmp_path / "list.json").write_bytes(DEAR)
    assert fetch(str(tmp_path / "list.json")) == DEAR


@contextlib.contextmanager
def web(body: bytes) -> Iterator[str]:
    """An address that gives these bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):  # who reads too much leaves
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/data.json"
    finally:
        server.shutdown()
        server.server_close()


def test_a_list_has_a_size() -> None:
    with web(b" " * LARGEST) as url:
        assert len(fetch(url)) == LARGEST
    with web(b" " * (LARGEST + 1)) as url, pytest.raises(PriceListError, match="more than 32 MiB"):
        fetch(url)


# What changes


def test_what_differs_is_said_in_words() -> None:
    tiers = {"base": 1.5, "tiers": [{"start": 200_000, "price": 3}]}
    old = parse(a_list(model("same"), model("gone"), model("m", context_window=128_000)))
    new = parse(
        a_list(
            model("same"),
            model("new", context_window=5, deprecated=True),
            model("m", prices={"input_mtok": tiers, "output_mtok": 0.6, "cache_read_mtok": 0.1}),
        )
    )
    assert compare(old, old, NOW) == []
    assert compare(old, new, NOW) == [
        Change("openai", "gone", "gone", {"input": ("0.15", ""), "output": ("0.6", "")}),
        Change("openai", "m", "changed", {
            "input": ("0.15", "1.5; 3 above 200,000"), "context": ("128,000", ""), "cache read": ("", "0.1"),
        }),
        Change("openai", "new", "new", {
            "input": ("", "0.15"), "output": ("", "0.6"), "context": ("", "5"), "deprecated": ("", "yes"),
        }),
    ]  # fmt: skip
    xai = compare([], parse(a_list(model("grok"), id="x-ai")), NOW)
    assert [(each.provider, each.model) for each in xai] == [("xai", "grok")], "by our own names"


# The command


def run(folder: pathlib.Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """`waypost models …` on a folder, with nobody at the keyboard."""
    command = [str(pathlib.Path(sys.executable).with_name("waypost")), "models", *arguments]
    command += ["--data", str(folder / "data"), "--config", str(folder / "waypost.toml")]
    done = subprocess.run(
        command, cwd=folder, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == code, done
    return done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "waypost.toml").write_text('[providers.openai]\nkeys = ["k"]\n')
    (tmp_path / "new.json").write_bytes(DEAR)
    return tmp_path


def test_changes_are_shown_and_only_yes_applies_them(folder: pathlib.Path) -> None:
    before = run(folder)[0]
    shown, said = run(folder, "update", "--from", "new.json")
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == "provider model what was will be"
    assert "openai gpt-4o-mini input 0.15 150" in lines
    assert "openai gpt-4o-mini context 128,000 256,000" in lines
    assert "openai gpt-next new input 0.15, output 0.6" in lines
    assert any(line.startswith("openai gpt-4o gone") for line in lines)
    assert not any(line.startswith("anthropic") for line in lines)
    assert "of providers that are not configured (--all shows them)" in lines[-1]
    assert "nothing has been changed; --yes applies this" in said
    assert run(folder)[0] == before
    assert "anthropic" in run(folder, "update", "--from", "new.json", "--all")[0]

    _, said = run(folder, "update", "--from", "new.json", "--yes")
    assert "in use from the next start: genai-prices" in said
    rows = [line.split() for line in run(folder)[0].splitlines()]
    assert ["gpt-4o-mini", "openai/gpt-4o-mini", "256,000", "150", "600"] in rows
    assert run(folder, "update", "--from", "new.json", "--yes")[0] == "the prices are up to date\n"
    assert run(folder, "update", "--from", "new.json", "--json")[0] == "[]\n"


def test_changes_as_json_are_not_applied_without_yes(folder: pathlib.Path) -> None:
    shown = json.loads(run(folder, "update", "--from", "new.json", "--json")[0])
    (mini,) = [change for change in shown if change["model"] == "gpt-4o-mini"]
    assert (mini["provider"], mini["change"]) == ("openai", "changed")
    assert mini["fields"]["input"] == ["0.15", "150"]
    assert not path_of(folder / "data").exists()
    run(folder, "update", "--from", "new.json", "--json", "--yes")
    assert path_of(folder / "data").exists()


def test_what_is_wrong_with_a_list_is_said(folder: pathlib.Path) -> None:
    (folder / "bad.json").write_text("[]")
    for source, why in (("none.json", "none.json: No such file"), ("bad.json", "without models")):
        _, said = run(folder, "update", "--from", source, "--yes", code=2)
        assert why in said
    assert not path_of(folder / "data").exists()


# A server that runs


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waypost]:
    """One whose `openai` is at its own address, behind a proxy that leads to a server of the tests."""
    authority = trustme.CA()
    pem = tmp_path_factory.mktemp("prices") / "ca.pem"
    authority.cert_pem.write_to_path(pem)
    proxy = Proxy()
    with upstream(server_context(authority, "api.openai.com")) as server:
        proxy.target = server.port
        through = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": "", "no_proxy": ""}
        config = f'[providers.openai]\nkeys = ["k"]\nca = "{pem}"\n'
        config += '[models."route/mini"]\nchain = ["openai/gpt-4o-mini"]\n[plans.all]\n'
        with serving(config, workers=2, environment=through) as waypost:
            yield waypost
    proxy.listener.close()


def get(waypost: Waypost, path: str) -> Any:
    with waypost.connect() as client:
        client.send("\r\n".join([f"GET {path} HTTP/1.1", "host: w", *waypost.credentials, "", ""]).encode())
        return client.answer()


def charged(waypost: Waypost, model: str) -> Any:
    answer = waypost.ask(model)
    assert answer.status == 200, answer.body
    return get(waypost, f"/v1/generation?id={answer.header('x-request-id')}").json["data"]


def test_a_server_uses_new_prices_at_once_and_receipts_name_them(gateway: Waypost) -> None:
    for _ in range(4):  # both workers know the price
        before = charged(gateway, "route/mini")
    assert charged(gateway, "gpt-4o-mini")["price"] == before["price"]
    assert before["price"]["terms"]["list"] == f"genai-prices {installed()}"
    assert before["formula"][0]["rate"] == "0.15"
    assert gateway.ask("gpt-next").code == "INVALID_MODEL"

    with web(DEAR) as url:
        _, said = run(gateway.folder, "update", "--from", url, "--yes")
    assert "in use from now on: genai-prices 20" in said
    for _ in range(4):
        after = charged(gateway, "route/mini")
        assert after["formula"][0]["rate"] == "150"
        assert after["price"]["version"] != before["price"]["version"]
        assert after["price"]["terms"]["list"] in said
    assert charged(gateway, "gpt-next")["formula"][0]["rate"] == "0.15", "a model that was not there"
    again = get(gateway, f"/v1/generation?id={before['id']}").json["data"]
    assert again["price"] == before["price"], "what was charged stays as it was"

    def card() -> Any:
        return get(gateway, "/v1/models/route/mini").json

    for _ in range(4):
        wait_until(lambda: card()["context_length"] == 256_000, "the cards to follow")
        assert card()["pricing"]["prompt"] == "0.00015"
    (gateway.folder / "old.json").write_bytes(a_list(model("gpt-4o-mini", context_window=128_000)))
    run(gateway.folder, "update", "--from", "old.json", "--yes")
    assert charged(gateway, "route/mini")["formula"][0]["rate"] == "0.15"


# The link


def test_a_worker_that_missed_the_news_hears_of_them_when_it_is_back() -> None:
    async def run_link() -> None:
        stamps = iter(("a", "a", "b"))
        heard: list[int] = []

        def answer(peer: Any, call_id: int, message: Any) -> None:
            if isinstance(message, Hello):
                peer.reply(call_id, Welcome(PROTOCOL, next(stamps)))

        with data_folder() as data:
            async with scripted_keeper(data, answer) as peers:
                link = Link(socket_path(data), lambda _: None, on_prices=lambda: heard.append(1))
                link.start()
                for expected in (0, 0, 1):
                    await link.wait_connected(DEADLINE)
                    assert len(heard) == expected
                    connections = len(peers)
                    peers[-1].abort()
                    if expected == 0:
                        await until(lambda count=connections: len(peers) > count and link.connected)
                await link.close()

    asyncio.run(run_link())


def test_what_was_on_its_way_when_the_list_changed_is_asked_again() -> None:
    old, new = (PriceList.__new__(PriceList) for _ in range(2))
    for each, body in ((old, a_list(model("m"))), (new, DEAR)):
        with data_folder() as data:
            write(data, stored(body))
            each.__init__(data)  # type: ignore[misc]
    asked = 0

    class Line:
        async def call(self, message: Any, timeout: float = 2.0) -> Any:
            nonlocal asked
            asked += 1
            using = old if asked == 1 else new
            if asked == 1:  # the news overtakes the answer
                prices.forget()
                natives.forget()
            if isinstance(message, FindPrices):
                return PriceRecords(tuple(using.price(*target, NOW) for target in message.targets))
            raise AssertionError(message)

    class Served:
        priced = ("openai",)

    prices, natives = KnownPrices(Line()), Natives(Line())
    target = ("openai", "gpt-4o-mini")
    found = asyncio.run(prices.find(Served(), [target], 0.0))  # type: ignore[arg-type]
    record = new.price(*target, NOW)
    assert record is not None
    assert found[target].price == listed_price(record)
    assert asked == 2


def test_reloading_says_what_is_used() -> None:
    with data_folder() as data:
        prices = Prices(NOW.timestamp, data)
        write(data, stored(DEAR))
        assert asyncio.run(prices.reload()) == ReloadedPrices(stored(DEAR).label)
        assert prices.stamp == stamp_of(data)
        assert ForgetPrices(prices.stamp).prices == prices.stamp

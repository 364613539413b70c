"""Callers' URLs: public addresses alone, whatever names and redirects say; size, time and type capped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from tests.worker.vendor import Asked, Said, vending
from waypost.http.fetch import Fetcher, FetchFailed, Medium, is_public
from waypost.http.pool import Names
from waypost.http.timers import Deadlines

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def fetch(url: str, may_connect: Callable[[str, int], bool] | None = None, **limits: float) -> Medium:
    async def run() -> Medium:
        deadlines = Deadlines(asyncio.get_running_loop())
        names = Names(deadlines)
        try:
            fetcher = Fetcher(
                deadlines, names, **({} if may_connect is None else {"may_connect": may_connect}), **limits
            )  # type: ignore[arg-type]
            return await fetcher.fetch(url)
        finally:
            names.close()
            deadlines.close()

    return asyncio.run(run())


def anywhere(address: str, port: int) -> bool:
    return True


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::",
        "2002:a9fe:a9fe::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:db8::1", "2001::1",
        "fec0::1", "192.88.99.1", "192.0.0.8", "3fff::1", "name", "",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address, 443)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_addresses_that_are(address: str) -> None:
    assert is_public(address, 443) and is_public(address, 80) and not is_public(address, 22)


def test_nothing_reaches_this_machine() -> None:
    with vending(lambda _: Said(PNG, type="image/png")) as vendor:
        for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
            with pytest.raises(FetchFailed) as caught:
                fetch(f"http://{host}:{vendor.port}/a.png")
            assert "127.0.0.1" not in str(caught.value)
        assert vendor.asked == []


def test_a_medium() -> None:
    with vending(lambda _: Said(PNG, type="image/png; charset=binary")) as vendor:
        medium = fetch(f"{vendor.root}/Some/Path.png?Q=1", anywhere)
    assert medium.type == "image/png" and medium.data == PNG and medium.url.startswith("data:image/png;base64,iVBOR")
    (asked,) = vendor.asked
    assert asked.path == "/Some/Path.png?Q=1" and asked.headers["host"] == f"127.0.0.1:{vendor.port}"
    assert not {"authorization", "cookie", "x-api-key"} & asked.headers.keys()


def test_every_address_is_asked_about_redirects_too() -> None:
    seen: list[tuple[str, int]] = []

    def may_connect(address: str, port: int) -> bool:
        seen.append((address, port))
        return len(seen) == 1

    def tell(asked: Asked) -> Said:
        return Said(b"", 302, headers=(f"location: http://localhost:{vendor.port}/Secret",))

    with vending(tell) as vendor, pytest.raises(FetchFailed, match="not a public one"):
        fetch(f"{vendor.root}/a", may_connect)
    assert len(vendor.asked) == 1 and len(seen) >= 2


def test_redirects_keep_the_case_of_their_paths_and_end() -> None:
    def tell(asked: Asked) -> Said:
        if asked.path == "/Signed?Key=AbC":
            return Said(PNG, type="image/png")
        location = "/Signed?Key=AbC" if asked.path == "/once" else "/round"
        return Said(b"", 307, headers=(f"Location: {location}",))

    with vending(tell) as vendor:
        assert fetch(f"{vendor.root}/once", anywhere).data == PNG
        with pytest.raises(FetchFailed, match="more than 5 redirects"):
            fetch(f"{vendor.root}/round", anywhere)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Said(b"x", 404, "image/png"), "answered 404"),
        (Said(b"", 200, "image/png"), "empty"),
        (Said(b"<html>", 200, "text/html"), "not one of a picture"),
        (Said(b"??", 200, "application/octet-stream"), "not one of a picture"),
        (Said(b"x" * 5000, 200, "image/png"), "larger than 4000 bytes"),
        (Said(PNG, 200, "image/png", ("content-encoding: gzip",)), "compressed"),
        (Said(b"", 302, "image/png"), "redirects to nowhere"),
        (Said(b"", 302, "x", ("location: file:///etc/passwd",)), "only http"),
        (Said(b"", 302, "x", ("location: http://u:p@127.0.0.1/",)), "only http"),
        (Said(PNG, 200, "image/png", is_cut=True), "closed the connection"),
    ],
)
def test_what_is_not_taken(answer: Said, why: str) -> None:
    with vending(lambda _: answer) as vendor, pytest.raises(FetchFailed, match=why):
        fetch(f"{vendor.root}/a", anywhere, most=4000)


def test_octets_are_told_by_their_first_bytes() -> None:
    for data, type in ((PNG, "image/png"), (b"%PDF-1.7 x", "application/pdf"), (b"RIFF1234WEBPxx", "image/webp")):
        with vending(lambda _, data=data: Said(data, type="application/octet-stream")) as vendor:
            assert fetch(f"{vendor.root}/a", anywhere).type == type


def test_time_is_capped() -> None:
    gate = threading.Event()
    with vending(lambda _: Said(PNG, type="image/png", pause=3, gate=gate)) as vendor:
        with pytest.raises(FetchFailed, match=r"did not come within 0\.3 s"):
            fetch(f"{vendor.root}/a", anywhere, seconds=0.3)
        gate.set()


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example/x", "http://", "http://[::1", "http://a.example:99999/", "http://a b/", "http://ä.example/",
     "http://user:pw@a.example/", "http://a.example/" + "x" * 5000, "http://a.example/\r\nx: y", "gopher://a/"],
)  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(FetchFailed):
        fetch(url, anywhere)

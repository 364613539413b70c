"""Media by URL for upstreams that fetch nothing: brought into the request, or refused, by the provider's setting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.harness import serving
from tests.worker.vendor import Said, message, said, vending
from waypost.chat import (
    Chat,
    FileData,
    FilePart,
    ImagePart,
    ImageUrl,
    TextPart,
    ToolMessage,
    UserMessage,
    VideoPart,
    VideoUrl,
)
from waypost.errors import Refusal
from waypost.formats.format import Model, Unsupported
from waypost.http.fetch import MOST_BYTES, FetchFailed, Medium
from waypost.worker import media
from waypost.worker.asking import in_time
from waypost.worker.outcome import Unanswered
from waypost.worker.tries import LATE

ALL = Model(id="m", inputs=frozenset({"text", "image", "pdf", "video"}), urls=frozenset())
PICTURE, PAPER, FILM = "https://a.example/b.png", "https://a.example/c.PDF?x=1", "https://a.example/d.mp4"


def chat(*parts: Any) -> Chat:
    return Chat(messages=(UserMessage("Hi"), UserMessage(list(parts)), ToolMessage("id", list(parts))))


PARTS = (
    TextPart(f"see {PICTURE}"),
    ImagePart(ImageUrl(PICTURE, detail="low")),
    ImagePart(PAPER),
    FilePart(FileData(file_data=PAPER, filename="c.pdf")),
    VideoPart(VideoUrl(FILM)),
    VideoPart(VideoUrl("https://www.youtube.com/watch?v=1")),
    ImagePart(ImageUrl("data:image/png;base64,AAAA")),
    FilePart(FileData(file_id="files/1")),
)


async def fetch(url: str) -> Medium:
    if "gone" in url:
        raise FetchFailed("its server answered 404")
    return Medium("image/png" if "large" not in url else "video/mp4", b"x" if "large" not in url else bytes(MOST_BYTES))


def test_what_must_be_fetched_and_what_not() -> None:
    found = media.places(chat(*PARTS), ALL)
    assert found == {PICTURE: "messages[1].content[1]", PAPER: "messages[1].content[2]", FILM: "messages[1].content[4]"}
    able = Model(id="m", inputs=ALL.inputs, urls=frozenset({"image"}))
    assert set(media.places(chat(*PARTS), able)) == {PAPER, FILM}
    with pytest.raises(Unsupported, match="m does not take video") as caught:
        media.places(chat(*PARTS), Model(id="m", inputs=frozenset({"text", "image", "pdf"}), urls=frozenset()))
    assert caught.value.param == "messages[1].content[4]"


def test_what_was_fetched_stands_in_the_request() -> None:
    asked = chat(*PARTS)
    got = asyncio.run(media.fetched(asked, media.places(asked, ALL), fetch))
    for message_ in got.messages[1:]:
        content: Any = message_.content
        assert content[1].image_url == ImageUrl("data:image/png;base64,eA==", detail="low")
        assert (
            content[2].image_url
            == content[3].file.file_data
            == content[4].video_url.url
            == "data:image/png;base64,eA=="
        )
        assert content[3].file.filename == "c.pdf"
        assert [content[at] for at in (0, 5, 6, 7)] == [PARTS[at] for at in (0, 5, 6, 7)]
    assert media.places(got, ALL) == {}


@pytest.mark.parametrize(
    ("urls", "param", "why"),
    [
        (["https://a.example/gone"], "messages[1].content[0]", "cannot be fetched: its server answered 404"),
        ([f"https://a.example/{n}" for n in range(21)], "messages", "at most 20 URLs"),
        (["https://a.example/large", "https://a.example/b"], "messages", "larger than"),
    ],
)
def test_what_cannot_be_had(urls: list[str], param: str, why: str) -> None:
    asked = chat(*[ImagePart(url) for url in urls])
    with pytest.raises(Refusal, match=why) as caught:
        asyncio.run(media.fetched(asked, media.places(asked, ALL), fetch))
    assert caught.value.param == param and caught.value.status == 400


def test_fetching_ends_with_the_request() -> None:
    async def never() -> Chat:
        await asyncio.Event().wait()
        raise AssertionError

    async def waits() -> None:
        late = asyncio.ensure_future(never())
        with pytest.raises(Unanswered) as caught:
            await in_time(late, 0.01)
        assert caught.value.outcome.kind is LATE
        gone = asyncio.ensure_future(never())
        caller = asyncio.ensure_future(in_time(gone, 60))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait({late, gone, caller})
        assert late.cancelled() and gone.cancelled()

    asyncio.run(waits())


def test_the_setting_and_the_guard() -> None:
    """Off: the next link takes it. Fetching: an address that is not public is the caller's mistake, and not asked."""
    with vending(lambda _: said(message("hi"))) as vendor, vending(lambda _: Said(b"x", type="image/png")) as inner:
        base = f'base_url = "{vendor.root}/v1"\nkeys = ["k"]\nproject = "p"\nlocation = "us"\n'
        text = f"""
            [providers.shy]\nformat = "anthropic"\n{base}
            [providers.keen]\nformat = "anthropic"\nmedia = "fetch"\n{base}
            [providers.anthropic]\nbase_url = "{vendor.root}/v1"\nkeys = ["k"]
            [models."route/x"]\nchain = ["shy/claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"]
        """
        asked = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"{inner.root}/a.png"}}]}]
        public = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/a.png"}}]}]
        with serving(text) as gateway:
            answer = gateway.ask("shy/claude-sonnet-4-5", messages=public)
            assert (answer.status, answer.json["error"]["param"]) == (400, "messages[0].content[0]")
            answer = gateway.ask("route/x", messages=public)
            assert answer.text == "hi" and answer.json["provider"] == "anthropic"
            answer = gateway.ask("keen/claude-sonnet-4-5", messages=asked)
            assert (answer.status, answer.json["error"]["param"]) == (400, "messages[0].content[0]")
            assert "not a public one" in answer.json["error"]["message"] and b"127.0.0.1" not in answer.body
        assert inner.asked == [] and len(vendor.asked) == 1

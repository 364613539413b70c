"""A request's media by URL, brought into the request for upstreams that fetch nothing themselves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from waypost.chat import AssistantMessage, Chat, FilePart, ImagePart, Message, Part, VideoPart
from waypost.formats.format import Modality, Model, Unsupported, invalid
from waypost.http.fetch import MOST_BYTES, FetchFailed, Medium

MOST: Final = 20
"""URLs of one request that are fetched."""

YOUTUBE = re.compile(r"https?://(www\.|m\.)?(youtube\.com|youtu\.be)/", re.IGNORECASE)
Fetch = Callable[[str], Coroutine[Any, Any, Medium]]


def url_of(part: Part) -> tuple[str, Modality]:
    """A part's https URL and what it is taken for; "" where it has none."""
    modality: Modality
    match part:
        case ImagePart():
            url, modality = part.url, "image"
        case FilePart():
            url, modality = part.file.file_data or "", "pdf"
        case VideoPart():
            url, modality = part.video_url.url, "video"
        case _:
            return "", "text"
    if not url.startswith(("https://", "http://")) or YOUTUBE.match(url):
        return "", "text"
    if re.split("[?#]", url, maxsplit=1)[0].lower().endswith(".pdf"):
        modality = "pdf"
    return url, modality


def places(chat: Chat, model: Model) -> dict[str, str]:
    """The URLs that this model's upstream does not fetch itself, each with its first place. Raises Unsupported."""
    found: dict[str, str] = {}
    for number, message in enumerate(chat.messages):
        if isinstance(message.content, str) or message.content is None or isinstance(message, AssistantMessage):
            continue
        for index, part in enumerate(message.content):
            url, modality = url_of(part)
            if url and modality not in model.urls:
                param = f"messages[{number}].content[{index}]"
                if modality not in model.inputs:
                    raise Unsupported(param, f"{model.id} does not take {modality}")
                found.setdefault(url, param)
    return found


async def fetched(chat: Chat, found: dict[str, str], fetch: Fetch) -> Chat:
    """The request with these URLs' media in it. Raises Refusal naming the one that can't be had."""
    if len(found) > MOST:
        raise invalid("messages", f"at most {MOST} URLs of media are fetched for one request")
    tasks = {url: asyncio.ensure_future(fetch(url)) for url in found}
    try:
        await asyncio.gather(*tasks.values())
    except FetchFailed:
        for url, task in tasks.items():
            if task.done() and not task.cancelled() and isinstance(task.exception(), FetchFailed):
                raise invalid(found[url], f"the URL cannot be fetched: {task.exception()}") from None
        raise
    finally:
        for task in tasks.values():
            task.cancel()
    media = {url: task.result() for url, task in tasks.items()}
    if sum(len(medium.data) for medium in media.values()) > MOST_BYTES:
        raise invalid("messages", f"the media of its URLs are larger than {MOST_BYTES} bytes together")
    data = {url: medium.url for url, medium in media.items()}
    return msgspec.structs.replace(chat, messages=tuple(with_data(message, data) for message in chat.messages))


def with_data(message: Message, data: dict[str, str]) -> Message:
    """A message with data URLs in the place of others."""
    if isinstance(message.content, str) or message.content is None:
        return message
    parts = [part_with_data(part, data.get(url_of(part)[0], "")) for part in message.content]
    return msgspec.structs.replace(message, content=parts)


def part_with_data(part: Part, url: str) -> Part:
    """A part with this URL in the place of its own."""
    if not url:
        return part
    match part:
        case ImagePart():
            old = part.image_url
            made = url if isinstance(old, str) else msgspec.structs.replace(old, url=url)
            return msgspec.structs.replace(part, image_url=made)
        case FilePart():
            return msgspec.structs.replace(part, file=msgspec.structs.replace(part.file, file_data=url))
        case VideoPart():
            return msgspec.structs.replace(part, video_url=msgspec.structs.replace(part.video_url, url=url))
    return part

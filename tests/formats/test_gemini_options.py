"""Thinking and media for Gemini."""

from __future__ import annotations

from typing import Any

import pytest

from tests.formats.gemini_requests import FLASH, OLD, VERTEX, Json, body, rendered
from waypost.formats.format import Model, Unsupported
from waypost.formats.gemini import known_model

# Thinking


@pytest.mark.parametrize(
    ("id", "fields", "expected"),
    [
        ("gemini-2.5-flash", {}, None),
        ("gemini-2.5-flash", {"reasoning_effort": "none"}, {"thinkingBudget": 0}),
        ("gemini-2.5-flash", {"reasoning_effort": "minimal"}, {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-2.5-flash", {"reasoning_effort": "low"}, {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-2.5-flash", {"reasoning_effort": "medium"}, {"thinkingBudget": 8192, "includeThoughts": True}),
        ("gemini-2.5-flash", {"reasoning_effort": "high"}, {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-flash", {"reasoning_effort": "xhigh"}, {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-flash", {"reasoning": {"enabled": True}}, {"thinkingBudget": -1, "includeThoughts": True}),
        ("gemini-2.5-flash", {"reasoning": {"max_tokens": 500}}, {"thinkingBudget": 500, "includeThoughts": True}),
        ("gemini-2.5-flash", {"reasoning": {"max_tokens": 99999}}, {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-flash", {"reasoning": {"effort": "low", "exclude": True}}, {"thinkingBudget": 1024}),
        (
            "gemini-2.5-flash", {"reasoning_effort": "high", "max_tokens": 1000},
            {"thinkingBudget": 999, "includeThoughts": True},
        ),
        ("gemini-2.5-pro", {"reasoning_effort": "none"}, {"thinkingBudget": 128}),
        ("gemini-2.5-pro", {"reasoning": {"max_tokens": 1}}, {"thinkingBudget": 128, "includeThoughts": True}),
        ("gemini-2.5-pro", {"reasoning_effort": "max"}, {"thinkingBudget": 32768, "includeThoughts": True}),
        ("gemini-3-flash-preview", {"reasoning_effort": "none"}, {"thinkingLevel": "minimal"}),
        ("gemini-3-flash-preview", {"reasoning_effort": "max"}, {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-3-flash-preview", {"reasoning": {"enabled": True}}, {"includeThoughts": True}),
        (
            "gemini-3-flash-preview", {"reasoning": {"max_tokens": 9000}},
            {"thinkingLevel": "medium", "includeThoughts": True},
        ),
        ("gemini-3-pro-preview", {"reasoning_effort": "none"}, {"thinkingLevel": "low"}),
        ("gemini-3-pro-preview", {"reasoning_effort": "medium"}, {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-3.1-pro", {"reasoning_effort": "medium"}, {"thinkingLevel": "medium", "includeThoughts": True}),
        ("gemini-flash-latest", {"reasoning_effort": "low"}, {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-2.0-flash", {"reasoning_effort": "none"}, None),
    ],
)  # fmt: skip
def test_thinking(id: str, fields: Json, expected: Json | None) -> None:
    made, request = rendered(model=known_model(id), **fields)
    assert made.get("generationConfig", {}).get("thinkingConfig") == expected
    assert request.dropped == ()


def test_thinking_that_a_model_cannot_do_is_dropped() -> None:
    assert rendered(model=OLD, reasoning_effort="high")[1].dropped == ("reasoning_effort",)
    assert rendered(model=OLD, reasoning={"enabled": True})[1].dropped == ("reasoning",)


# Media


def user(part: Json) -> Json:
    return {"role": "user", "content": [{"type": "text", "text": "Look:"}, part]}


def image_url(url: str, **more: Any) -> Json:
    return {"type": "image_url", "image_url": {"url": url, **more}}


PDF = "data:application/pdf;base64,JVBE"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (image_url("data:image/png;base64,AAAA"), {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}),
        (image_url(PDF), {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}}),
        ({"type": "file", "file": {"file_data": PDF}}, {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}}),
        (
            {"type": "file", "file": {"file_data": "JVBE", "filename": "a.pdf"}},
            {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}},
        ),
        (
            {"type": "file", "file": {"file_data": "SGk=", "filename": "a.TXT"}},
            {"inlineData": {"mimeType": "text/plain", "data": "SGk="}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}},
        ),
        (
            {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
            {"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}},
        ),
        (
            {"type": "video_url", "video_url": {"url": "https://youtu.be/x"}},
            {"fileData": {"mimeType": "video/mp4", "fileUri": "https://youtu.be/x"}},
        ),
        (
            {"type": "file", "file": {"file_id": "files/abc"}},
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        ),
    ],
)
def test_media(part: Json, expected: Json) -> None:
    assert body(user(part))["contents"][0]["parts"] == [{"text": "Look:"}, expected]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (image_url("https://a.example/x.png?y=z"), "image/png"),
        (image_url("gs://bucket/x.webp"), "image/webp"),
        (image_url("https://a.example/x"), "image/jpeg"),
        ({"type": "file", "file": {"file_data": "https://a.example/x"}}, "application/pdf"),
        ({"type": "file", "file": {"file_data": "https://a.example/x.wav"}}, "audio/wav"),
        ({"type": "video_url", "video_url": {"url": "https://a.example/x.webm"}}, "video/webm"),
    ],
)
def test_urls_where_the_upstream_fetches_them(part: Json, kind: str) -> None:
    [_, made] = body(user(part), model=VERTEX)["contents"][0]["parts"]
    assert made["fileData"]["mimeType"] == kind
    with pytest.raises(Unsupported) as refused:
        body(user(part))
    assert refused.value.param == "messages[0].content[1]"


@pytest.mark.parametrize(
    ("part", "model"),
    [
        ({"type": "input_audio", "input_audio": {"data": "A", "format": "wav"}}, known_model("gemini-2.5-flash-image")),
        (image_url("http://a.example/x.png"), FLASH),
        (image_url("ftp://a.example/x.png"), VERTEX),
        ({"type": "file", "file": {"file_id": "file-abc"}}, FLASH),
        ({"type": "file", "file": {"file_id": "files/abc"}}, VERTEX),
    ],
)
def test_media_that_a_model_cannot_take(part: Json, model: Model) -> None:
    with pytest.raises(Unsupported):
        body(user(part), model=model)


def test_how_closely_pictures_are_looked_at() -> None:
    low, high, auto = (image_url("data:image/png;base64,AAAA", detail=detail) for detail in ("low", "high", "auto"))
    for parts, expected in (([low], "LOW"), ([low, high], "HIGH"), ([high, auto], "HIGH"), ([auto], None)):
        made = body({"role": "user", "content": parts}).get("generationConfig", {})
        assert made.get("mediaResolution") == (f"MEDIA_RESOLUTION_{expected}" if expected else None)

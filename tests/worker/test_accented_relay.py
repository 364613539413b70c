"""OpenAI's format with an accent: put right at every split, and plain bytes left as they came."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import openai
import pytest

from tests.formats.recordings import Recorded, every
from tests.harness import serving
from tests.worker.vendor import Asked, Said, said, vending
from waypost.formats.accents import ACCENTS
from waypost.worker.accented_relay import AccentedStream, AccentedWhole
from waypost.worker.relay import Stamp, StreamRelay, UpstreamError

ID, MODEL, PROVIDER = msgspec.Raw(b'"id"'), msgspec.Raw(b'"model"'), msgspec.Raw(b'"p"')
STAMP = Stamp(ID, MODEL, PROVIDER, lambda: 5, lambda raw, _: raw or msgspec.Raw(b"{}"), False)
PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": " Gut."}]}, {"type": "text", "text": "und"}]
SPOKEN = ["deepseek", "groq", "mistral", "openrouter", "cerebras"]


def chunk(**delta: Any) -> Any:
    finish = delta.pop("finish", None)
    return {
        "id": "x",
        "object": "c",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def stream(*chunks: Any, end: str = "\n\n") -> bytes:
    return (
        b"".join(b"data: %b%b" % (json.dumps(one).encode(), end.encode()) for one in chunks)
        + b"data: [DONE]"
        + end.encode()
    )


def texts(body: bytes) -> dict[str, str]:
    made = {"content": "", "reasoning_content": "", "finish": ""}
    for event in body.split(b"\n\n"):
        if not event.startswith(b"data: {"):
            continue
        for choice in json.loads(event[6:])["choices"]:
            for name in ("content", "reasoning_content"):
                made[name] += choice["delta"].get(name) or ""
            made["finish"] = choice["finish_reason"] or made["finish"]
    return made


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 5, 64, 1 << 20])
@pytest.mark.parametrize("show", [True, False])
def test_a_stream_at_every_split(end: str, size: int, show: bool) -> None:
    body = stream(
        chunk(role="assistant", content=""), chunk(reasoning="Hm, ü "), chunk(reasoning="so."), chunk(content="Ja "),
        chunk(content=PARTS), chunk(content=" nein"), chunk(finish="model_length"), end=end,
    )  # fmt: skip
    relay = AccentedStream(StreamRelay(STAMP, True), ACCENTS["mistral"], show)
    out = b"".join(relay.feed(body[at : at + size]) for at in range(0, len(body), size))
    assert relay.done and out.endswith(b"data: [DONE]\n\n")
    assert texts(out) == {
        "content": "Ja und nein", "reasoning_content": "Hm, ü so. Gut." if show else "", "finish": "length",
    }  # fmt: skip


def test_plain_bytes_take_the_relay_s_own_way() -> None:
    body = stream(
        chunk(role="assistant", content=""), *[chunk(content=f"w{n} ") for n in range(20)], chunk(finish="stop")
    )
    plain, accented = StreamRelay(STAMP, True), AccentedStream(StreamRelay(STAMP, True), ACCENTS["groq"], True)
    for event in body.split(b"\n\n")[:-1]:
        assert accented.feed(event + b"\n\n") == plain.feed(event + b"\n\n")
    assert accented.done and plain.done and accented.observed == plain.observed


def test_an_end_without_its_marker_is_none() -> None:
    body = stream(chunk(role="assistant", content=""), chunk(reasoning="Hm"))[:-20]
    relay = AccentedStream(StreamRelay(STAMP, True), ACCENTS["groq"], True)
    relay.feed(body)
    with pytest.raises(UpstreamError):
        relay.end()


@pytest.mark.parametrize("provider", SPOKEN)
def test_recorded_answers(provider: str) -> None:
    found = [one for one in every(provider) if is_chat(one)]
    assert found
    for exchange in found:
        if exchange.is_stream:
            for size in (7, 1 << 30):
                relay = AccentedStream(StreamRelay(STAMP, True), ACCENTS[provider], True)
                body = exchange.body
                if b'"error":{' in body:
                    with pytest.raises(UpstreamError):
                        played(relay, body, size)
                else:
                    assert played(relay, body, size).endswith(b"data: [DONE]\n\n"), exchange.where
        else:
            whole = AccentedWhole(STAMP, ACCENTS[provider], True)
            whole.feed(exchange.body)
            answer = json.loads(whole.end())
            message = answer["choices"][0]["message"]
            assert isinstance(message.get("content"), str | None), exchange.where
            assert answer["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls", "content_filter")


def played(relay: AccentedStream, body: bytes, size: int) -> bytes:
    out = b"".join(relay.feed(body[at : at + size]) for at in range(0, len(body), size))
    return out if relay.done else out + relay.end()


def is_chat(exchange: Recorded) -> bool:
    return exchange.status == 200 and exchange.url.partition("?")[0].endswith("/chat/completions")


def test_on_the_wire() -> None:
    """Known providers are spoken to in their accent; others get the caller's own bytes."""

    def tell(asked: Asked) -> Said:
        message = {"role": "assistant", "content": "hi", "reasoning": "Hm."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return said(
            {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        )

    with vending(tell) as vendor:
        text = "".join(
            f'[providers.{name}]\nbase_url = "{vendor.root}/v1"\nkeys = ["k"]\n'
            for name in ("mistral", "lab", "openai")
        )
        with serving(text) as gateway:
            asked = {
                "max_completion_tokens": 9,
                "seed": 4,
                "user": "u",
                "messages": [{"role": "developer", "content": "x"}],
            }
            spoken = gateway.ask("mistral/m", **asked)
            plain = gateway.ask("lab/m", **asked)
            strict = gateway.ask("mistral/m", **asked, provider={"require_parameters": True})
            gateway.ask("openai/gpt-4o", **asked)
    first, second, third = (one.json for one in vendor.asked)
    assert first == {"model": "m", "max_tokens": 9, "random_seed": 4, "messages": [{"role": "system", "content": "x"}]}
    assert (
        spoken.header("x-dropped-params") == "user"
        and spoken.json["choices"][0]["message"]["reasoning_content"] == "Hm."
    )
    assert second == {"model": "m", **asked} and plain.header("x-dropped-params") is None
    assert "reasoning_content" not in plain.json["choices"][0]["message"]
    assert (strict.status, strict.json["error"]["param"]) == (400, "user")
    assert third == {"model": "gpt-4o", **asked}


FENCED = '```json\n{"town": "Ulm"}\n```'
SHAPE = {"type": "json_schema", "json_schema": {"name": "t", "schema": {"type": "object", "required": ["town"]}}}


def test_json_that_a_provider_was_asked_for_in_words_alone() -> None:
    """Without the fence that models put around it, whole and streamed; and what is no such JSON is no answer."""

    def tell(asked: Asked) -> Said:
        text = FENCED if b"Ulm" in asked.body else "Sorry, no."
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if asked.json["stream"]:
            return Said(stream(*(chunk(content=one) for one in text), chunk(finish="stop")), type="text/event-stream")
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return said({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})

    with vending(tell) as vendor:
        text = f'[providers.minimax]\nbase_url = "{vendor.root}/v1"\nkeys = ["k"]\n'
        with serving(text) as gateway, openai.OpenAI(base_url=gateway.base, api_key=gateway.key) as client:

            def ask(words: str, **more: Any) -> Any:
                return client.with_options(max_retries=0).chat.completions.create(
                    model="minimax/m", messages=[{"role": "user", "content": words}], response_format=SHAPE, **more
                )

            answer = ask("Ulm?", stream=False)
            streamed = "".join(one.choices[0].delta.content or "" for one in ask("Ulm?", stream=True))
            with pytest.raises(openai.InternalServerError, match="it is not JSON"):
                ask("Who?", stream=False)
    assert answer.choices[0].message.content == streamed == '{"town": "Ulm"}'
    assert answer.usage.total_tokens == 2 and answer.choices[0].finish_reason == "stop"

"""Until an upstream of any format has said something another may take over; then nobody, and no broken end is clean."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.harness import Answer, Waypost, provider, serving
from tests.http.nonces import fresh_nonce
from tests.sim.running import Running
from tests.sim.test_every_format import ask as ask_simulator
from tests.worker.vendor import Asked, Said, Vendor, vending

PLACE = {"project": '"p"', "location": '"eu"'}
PATHS: dict[str, tuple[str, dict[str, str]]] = {
    "lab": ("/v1", {}),
    "mistral": ("/v1", {}),
    "deepseek": ("/v1", {}),
    "azure": ("/openai", {"api_version": '"2024-10-21"'}),
    "anthropic": ("/v1", {}),
    "gemini": ("/v1beta", {}),
    "vertex": ("/v1", PLACE),
    "bedrock": ("", {"region": '"us-east-1"'}),
    "cohere": ("/v2", {}),
}
LIFECYCLE = {"anthropic": 3, "bedrock": 1, "cohere": 2, "gemini": 0, "vertex": 0}
"""Events that a stream of the simulator begins with before its first words; 1 in OpenAI's format."""

SPOKEN = {"vertex": "gemini", "lab": "openai", "mistral": "openai", "deepseek": "openai", "azure": "openai"}
every = pytest.mark.parametrize("name", PATHS)


def configuration(root: str) -> str:
    quick = {"timeouts": "{ first_byte = 20, idle = 0.5, total = 20 }"}
    return "".join(provider(name, root + path, **quick, **settings) for name, (path, settings) in PATHS.items())


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    with serving(configuration(simulator.base.removesuffix("/v1")) + provider("two", simulator.base)) as waypost:
        yield waypost


def asking(server: Waypost, link: str, **fields: Any) -> bytes:
    return server.chat(link, fresh_nonce(), "x-waypost-metadata: enabled", models=["two/words-7"], **fields)


def ask(server: Waypost, link: str, **fields: Any) -> Answer:
    with server.connect() as client:
        client.send(asking(server, link, **fields))
        return client.answer()


def told(answer: Answer) -> list[tuple[str, str]]:
    found: Any = answer.chunks[-1] if "event-stream" in str(answer.header("content-type")) else answer.json
    return [(each["provider"], each.get("error", "")) for each in found["waypost"]["attempts"]]


def is_second_alone(answer: Answer) -> bool:
    """Is it whole, and nothing of the first upstream's in it?"""
    ids = {chunk["id"] for chunk in answer.chunks}
    ends = [choice["finish_reason"] for chunk in answer.chunks for choice in chunk["choices"]]
    return len(answer.text.split()) == 7 and len(ids) == 1 and "stop" in ends and answer.events[-1] == b"[DONE]"


# Before the first words

FAULTS = [("sse-error", "error_event"), ("overloaded", "error_event"), ("eof", "truncated"), ("reset", "truncated"),
          ("cut", "truncated"), ("stall", "idle_timeout")]  # fmt: skip


@every
@pytest.mark.parametrize(("fault", "kind"), FAULTS)
def test_what_only_begins_falls_back(server: Waypost, name: str, fault: str, kind: str) -> None:
    for events in range(LIFECYCLE.get(name, 1) + 1):
        if events == 0 and fault in ("eof", "cut", "stall"):
            continue  # heads alone: tests of HTTP have them
        answer = ask(server, f"{name}/{fault}-after-{events}+words-41", stream=True)
        assert told(answer) == [(name, kind), ("two", "")], events
        assert is_second_alone(answer) and answer.header("x-attempts") == "2"


@every
@pytest.mark.parametrize("fault", ["sse-error-first", "not-json", "truncated-json", "html-200"])
def test_a_whole_answer_that_is_none_falls_back(server: Waypost, name: str, fault: str) -> None:
    answer = ask(server, f"{name}/{fault}+words-41")
    assert [each[0] for each in told(answer)] == [name, "two"] and len(answer.text.split()) == 7


# After them


class Interrupted:
    """A vendor that says what the simulator says in its format, the first `pause` bytes of it before the gate opens."""

    def __init__(self, simulator: Running, name: str, fault: str, stays: int) -> None:
        """`stays` events come before the gate."""
        heard = ask_simulator(simulator, SPOKEN.get(name, name), f"{fault}+words-41+gap-1", stream=True)
        events, rest = [], heard.body
        while match := re.match(rb"([0-9a-f]+)\r\n", rest):
            size = int(match.group(1), 16)
            events.append(rest[match.end() :][:size])
            rest = rest[match.end() + size + 2 :]
        kind = heard.values(b"content-type")[0].decode()
        self.gate = threading.Event()
        self.said = Said(b"".join(events), type=kind, pause=len(b"".join(events[:stays])), gate=self.gate)

    def at_once(self) -> Interrupted:
        """All in one write."""
        self.said = msgspec.structs.replace(self.said, gate=None)
        return self

    def __call__(self, asked: Asked) -> Said:
        return self.said


@pytest.fixture(scope="module")
def scripted(simulator: Running) -> Iterator[tuple[Waypost, Vendor]]:
    with vending(lambda _: Said(b"")) as vendor:
        text = configuration(vendor.root).replace("idle = 0.5", "idle = 20")
        with serving(text + provider("two", simulator.base)) as waypost:
            yield waypost, vendor


@every
@pytest.mark.parametrize("fault", ["sse-error-after-9", "overloaded-after-9", "eof-after-9"])
def test_after_the_first_words_the_error_is_said(
    scripted: tuple[Waypost, Vendor], simulator: Running, name: str, fault: str
) -> None:
    server, vendor = scripted
    tell = vendor.tell = Interrupted(simulator, name, fault, 6)
    with server.connect() as client:
        client.send(asking(server, f"{name}/{fault}", stream=True))
        said = client.until(b'"content":"')
        tell.gate.set()
        client.unread = said + client.unread
        answer = client.answer()
    kind = "truncated" if fault.startswith("eof") else "error_event"
    assert told(answer) == [(name, kind)] and answer.header("x-attempts") == "1"
    assert answer.chunks[-1]["error"]["code"] == "PROVIDER_ERROR" and answer.events[-1] == b"[DONE]"
    assert answer.text and not any(
        choice["finish_reason"] for chunk in answer.chunks[:-1] for choice in chunk["choices"]
    )


@every
@pytest.mark.parametrize("fault", ["sse-error-after-6", "overloaded-after-6"])
def test_an_error_in_the_same_read_as_the_first_words_falls_back(
    scripted: tuple[Waypost, Vendor], simulator: Running, name: str, fault: str
) -> None:
    server, vendor = scripted
    vendor.tell = Interrupted(simulator, name, fault, 0).at_once()
    answer = ask(server, f"{name}/{fault}", stream=True)
    assert told(answer) == [(name, "error_event"), ("two", "")]
    assert is_second_alone(answer) and answer.header("x-attempts") == "2"


@every
def test_silence_after_the_first_words_is_said(server: Waypost, name: str) -> None:
    answer = ask(server, f"{name}/stall-after-9+words-41", stream=True)
    assert told(answer) == [(name, "idle_timeout")] and answer.text
    assert answer.chunks[-1]["error"]["code"] == "PROVIDER_TIMEOUT" and answer.events[-1] == b"[DONE]"

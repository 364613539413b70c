"""The simulator held to recorded exchanges: it accepts what the vendors accepted, and its answers look like theirs.

The recordings are not part of the project; where ../shared/wire is absent these tests are skipped.
"""

from __future__ import annotations

import base64
import json
import pathlib
import struct
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from waypost.sim import (
    bedrock_embeddings,
    cohere_embeddings,
    gemini_embeddings,
    gemini_request,
    openai_embeddings,
    signatures,
)
from waypost.sim.answers import Question, decide
from waypost.sim.faults import refuse_status
from waypost.sim.names import read_name
from waypost.sim.provider import Format, Found, find_format

WIRE = pathlib.Path(__file__).parents[3] / "shared" / "wire"
VENDORS = ("openai", "azure", "anthropic", "gemini", "vertex", "bedrock", "cohere")
# Members that the recorded answers have only where the vendor's own tools were used, or that only we have.
EMBEDDINGS = (openai_embeddings, cohere_embeddings, bedrock_embeddings, gemini_embeddings)
KEPT_APART = {"citations", "groundingMetadata", "serverToolUsage"}


def exchanges(vendor: str, status: int = 200) -> list[tuple[Found, Any]]:
    """The exchanges that are of a kind the simulator plays, with the format and the whole record."""
    path = WIRE / f"{vendor}.jsonl"
    if not path.exists():
        pytest.skip(f"no recordings of {vendor} at ../shared/wire")
    found = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        address = urlsplit(record["url"])
        place = find_format(f"{address.path}?{address.query}".encode())
        if place and record["method"] == "POST" and record["status"] == status and record["request"] is not None:
            found.append((place, record))
    return found


def resigned(node: Any) -> Any:
    """The same JSON with every signature replaced by one of ours, as only the vendor can tell its own."""
    if isinstance(node, list):
        return [resigned(child) for child in node]
    if not isinstance(node, dict):
        return node
    made = {name: resigned(child) for name, child in node.items()}
    if made.get("type") == "thinking":
        made["signature"] = signatures.sign(made["thinking"], 1)
    if made.get("type") == "redacted_thinking":
        made["data"] = signatures.sign("redacted", 1)
    if "reasoningText" in made:
        made["reasoningText"]["signature"] = signatures.sign(made["reasoningText"]["text"], 1)
    for name in ("thoughtSignature", "thought_signature"):
        if name in made:
            made[name] = signatures.sign(gemini_request.SIGNED, 1)
    return made


def is_foreign(place: Found) -> bool:
    """Whether it is a chat over Bedrock's InvokeModel, which the simulator plays for embeddings only."""
    return place.target.method == "invoke" and "claude" in place.target.model


@pytest.mark.parametrize("vendor", VENDORS)
def test_what_a_vendor_accepted_is_accepted(vendor: str) -> None:
    accepted = 0
    for place, record in exchanges(vendor):
        if is_foreign(place):
            continue
        body = json.dumps(resigned(record["request"])).encode()
        question = place.spoken.parse_question(body, place.target)
        assert isinstance(question, Question)
        assert question.prompt or record["request"].get("messages") is not None, record["name"]
        answer = decide(question, read_name("demo").behaviour)
        if question.embedding is None:
            assert answer.choices, record["name"]
        accepted += 1
    assert accepted


# What answers are made of


def members(node: Any, path: str = "") -> Iterator[str]:
    """The paths of all members of a JSON value, list indices left out; what the caller made up is not entered."""
    if isinstance(node, list):
        for child in node:
            yield from members(child, path + "[]")
    elif isinstance(node, dict):
        for name, child in node.items():
            place = f"{path}.{name}"
            yield place
            if name not in ("input", "args", "p"):
                yield from members(child, place)


def streamed(record: Any) -> list[Any]:
    """The events of a recorded stream, the name of a binary one as `type`."""
    response = record["response"]
    if isinstance(response, str):
        lines = response.replace("\r\n", "\n").splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return list(messages(base64.b64decode(response["base64"])))


def messages(data: bytes) -> Iterator[Any]:
    """The events of a binary stream whose checksums are right."""
    while data:
        size, head, checksum = struct.unpack(">III", data[:12])
        assert zlib.crc32(data[:8]) == checksum
        assert zlib.crc32(data[: size - 4]) == struct.unpack(">I", data[size - 4 : size])[0]
        name = data[12 : 12 + head].partition(b"-type\x07\x00")[2]
        payload = json.loads(data[12 + head : size - 4])
        yield {"type": name[1 : 1 + name[0]].decode(), **payload}
        data = data[size:]


def said(place: Found, body: dict[str, Any], name: str = "demo") -> tuple[Format, list[Any]]:
    """What the simulator answers, decoded: one body or the events of a stream."""
    spoken = place.spoken
    question = spoken.parse_question(json.dumps(body).encode(), place.target)
    behaviour = read_name(name).behaviour
    answer = decide(question, behaviour)
    if not question.stream:
        return spoken, [json.loads(spoken.render_answer(question, answer, behaviour, "0" * 24, 1).data)]
    events = b""
    for event in spoken.render_events(question, answer, behaviour, "0" * 24, 1):
        events += spoken.FRAME(event.data) if spoken.FRAME else event.data
    is_text = spoken.STREAM_TYPE.startswith("text/")
    response: Any = events.decode() if is_text else {"base64": base64.b64encode(events).decode()}
    return spoken, streamed({"response": response})


SCHEMA = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
ASKED = "Weather in Tokyo and Paris?"
ANTHROPIC = {"max_tokens": 2000, "messages": [{"role": "user", "content": ASKED}], "model": "m"}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
GEMINI: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": ASKED}]}]}
BEDROCK: dict[str, Any] = {"messages": [{"role": "user", "content": [{"text": ASKED}]}]}
COHERE = {"model": "m", "messages": [{"role": "user", "content": ASKED}]}
TOOLS: dict[str, dict[str, Any]] = {
    "anthropic": {"tools": [{"name": "weather", "input_schema": SCHEMA}]},
    "gemini": {"tools": [{"functionDeclarations": [{"name": "weather", "parametersJsonSchema": SCHEMA}]}]},
    "bedrock": {"toolConfig": {"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}]}},
    "cohere": {"tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]},
}
THINK: dict[str, dict[str, Any]] = {
    "anthropic": THINKING,
    "gemini": {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}},
    "bedrock": {"additionalModelRequestFields": THINKING},
    "cohere": {"thinking": {"type": "enabled"}},
}
PATHS = {
    "anthropic": ("/v1/messages", "/v1/messages"),
    "gemini": tuple(
        f"/v1beta/models/gemini-3-flash:{method}" for method in ("generateContent", "streamGenerateContent?alt=sse")
    ),
    "bedrock": ("/model/m/converse", "/model/m/converse-stream"),
    "cohere": ("/v2/chat", "/v2/chat"),
}
BODIES = {"anthropic": ANTHROPIC, "gemini": GEMINI, "bedrock": BEDROCK, "cohere": COHERE}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("vendor", list(BODIES))
def test_answers_have_no_members_that_the_vendor_does_not_have(vendor: str, stream: bool) -> None:
    recorded = exchanges(vendor) + (exchanges("vertex") if vendor == "gemini" else [])
    known: set[str] = set()
    for _, record in recorded:
        if ("stream" in record["content_type"]) == stream:
            for body in streamed(record) if stream else [json.loads(record["response"])]:
                known |= set(members(body))
    if stream and vendor == "cohere":
        assert not known, "there is a recording of a stream now: hold the simulator to it"
        return
    place = find_format(PATHS[vendor][stream].encode())
    assert place
    for extra in ({}, TOOLS[vendor], THINK[vendor], TOOLS[vendor] | THINK[vendor]):
        body = BODIES[vendor] | extra | ({"stream": True} if stream and vendor in ("anthropic", "cohere") else {})
        for answered in said(place, body)[1]:
            unknown = {path for path in members(answered) if path not in known}
            assert {path for path in unknown if not KEPT_APART & set(path.split("."))} == set(), extra


@pytest.mark.parametrize("vendor", ["anthropic", "bedrock"])
def test_streams_go_through_the_same_states(vendor: str) -> None:
    """Which event may follow which: every step of ours has been recorded."""

    def steps(events: list[Any]) -> set[tuple[str, str]]:
        names = [event["type"] for event in events if event["type"] != "ping"]
        return set(zip(["begin", *names], [*names, "end"], strict=True))

    recorded = set().union(
        *(steps(streamed(record)) for _, record in exchanges(vendor) if "stream" in record["content_type"])
    )
    place = find_format(PATHS[vendor][1].encode())
    assert place
    for extra in ({}, TOOLS[vendor], THINK[vendor], TOOLS[vendor] | THINK[vendor]):
        body = BODIES[vendor] | extra | ({"stream": True} if vendor == "anthropic" else {})
        assert steps(said(place, body)[1]) <= recorded


@pytest.mark.parametrize(("vendor", "status"), [("anthropic", 404), ("gemini", 404), ("bedrock", 400), ("cohere", 404)])
def test_errors_have_the_members_of_the_recorded_ones(vendor: str, status: int) -> None:
    for place, record in exchanges(vendor, status):
        refused = place.spoken.render_refusal(refuse_status(status), 1)
        ours = msgspec.json.decode(refused.events[0].data)
        assert set(members(ours)) == set(members(json.loads(record["response"])))


@pytest.mark.parametrize("vendor", ["openai", "cohere", "bedrock", "vertex"])
def test_embeddings_have_the_members_of_the_recorded_ones(vendor: str) -> None:
    """And as many vectors of as many dimensions, where they are lists of floats."""
    checked = 0
    for place, record in exchanges(vendor):
        if place.spoken not in EMBEDDINGS or is_foreign(place):
            continue
        theirs = json.loads(record["response"])
        ours = said(place, record["request"])[1][0]
        assert set(members(ours)) == set(members(theirs)), record["name"]
        assert shape(ours) == shape(theirs), record["name"]
        checked += 1
    assert checked


def shape(node: Any) -> Any:
    """How long the lists are; of Titan's and Nova's models each has its own length unless one is asked for."""
    if isinstance(node, dict):
        return {name: shape(child) for name, child in node.items() if name not in ("texts", "id")}
    if isinstance(node, list):
        return [shape(child) for child in node] if node and not isinstance(node[0], float) else "vector"
    return type(node).__name__ if not isinstance(node, int | float) else "number"

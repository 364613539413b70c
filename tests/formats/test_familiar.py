"""What is known again by its bytes says the same as what is read with care, whatever comes between."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from waypost.formats import anthropic_messages, gemini
from waypost.formats.familiar import Familiar, FamiliarCounted
from waypost.formats.format import Reading, StreamParser

TEXTS = (
    "The", " bucket", "a", " 90 % \u2013 \u00fcber", "\U0001f600", "", " ", 'say "hi"', "back\\slash", "line\nend",
    "\t", "\u00a0", "\x7f", "type", "text_delta", "model", "index", "}}", '"}}', "usageMetadata", "{", ",", "TEXT",
    "text", "null", "```", "```json\n", "\u2028",
)  # fmt: skip
READINGS = (Reading(), Reading(strip_fences=True), Reading(schema_tool="answer"))


def written(dice: random.Random, value: Any) -> bytes:
    """JSON as a vendor might write it, or not quite."""
    text = json.dumps(value, ensure_ascii=dice.random() < 0.1, separators=dice.choice([(",", ":"), (",", ": ")]))
    data = text.encode()
    if dice.random() < 0.02:
        at = dice.randrange(len(data))
        data = data[:at] + dice.choice([b"\xff", b"\x01", b'"', b"\\", b"}", b""]) + data[at + 1 :]
    return data


def anthropic(dice: random.Random) -> bytes:
    index, text, kind = dice.choice([0, 0, 0, 1]), dice.choice(TEXTS), dice.random()
    if kind < 0.85:
        delta = {"type": "text_delta" if kind < 0.8 else "newer_delta", "text": text}
        event: Any = {"type": "content_block_delta", "index": index, "delta": delta}
    elif kind < 0.9:
        event = {"type": "content_block_delta", "index": index, "delta": {"type": "thinking_delta", "thinking": text}}
    elif kind < 0.95:
        event = {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": text}}
    else:
        event = {"type": dice.choice(["content_block_stop", "ping"]), "index": index}
    data = written(dice, event)
    if dice.random() < 0.5:
        data = data[:-1] + b" " * dice.randrange(9) + b"}"
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data)


def google(dice: random.Random) -> bytes:
    part: Any = {"text": dice.choice(TEXTS)}
    if dice.random() < 0.1:
        part["thought"] = True
    if dice.random() < 0.03:
        part["thoughtSignature"] = "c2ln"
    count: Any = dice.choice([1, 2, 30, 30, 30, None, -1])
    usage: Any = {"promptTokenCount": 24, "candidatesTokenCount": count}
    candidate = {"content": {"parts": [part] * dice.choice([1] * 9 + [2]), "role": "model"}, "index": 0}
    event: Any = {"candidates": [candidate], "usageMetadata": dice.choice([usage] * 20 + [None, 7, "x"])}
    event |= {"modelVersion": "gemini", "responseId": "id"}
    if dice.random() < 0.05:
        candidate["index"] = 1
    if dice.random() < 0.03:
        del event["usageMetadata"]
    if dice.random() < 0.02:
        event["promptFeedback"] = {"blockReason": "SAFETY"}
    data = written(dice, event)
    if dice.random() < 0.05:
        data = data.replace(b'"usageMetadata":', b'"usageMetadata": ')
    return b"data: %b%b" % (data, dice.choice([b"\r\n\r\n", b"\r\n\r\n", b"\n\n"]))


@pytest.mark.parametrize(("module", "make"), [(anthropic_messages, anthropic), (gemini, google)])
def test_it_says_the_same_as_what_is_read_with_care(module: Any, make: Callable[[random.Random], bytes]) -> None:
    dice = random.Random(7)
    for _ in range(300):
        reading = dice.choice(READINGS)
        quick, careful = module.stream_parser(reading), module.stream_parser(reading)
        for _ in range(40):
            data = b"".join(make(dice) for _ in range(dice.choice([1] * 9 + [2])))
            cut = dice.randrange(1, len(data))  # an event that comes in two reads is always read with care
            if dice.random() < 0.05:
                assert said(quick, data[:cut], data[cut:]) == said(careful, data[:cut], data[cut:])
            assert said(quick, data) == said(careful, data[:cut], data[cut:]), data
        assert quick.end() == careful.end() and (quick.id, quick.model) == (careful.id, careful.model)


def said(parser: StreamParser, *pieces: bytes) -> list[Any]:
    return [event for piece in pieces for event in parser.feed(piece)] + [parser.done]


def test_the_usual_event_is_known_again() -> None:
    """Else the test above says nothing."""
    dice = random.Random(1)
    familiar = Familiar()
    familiar.learn(b'data: {"t":"one"}', "one")
    familiar.learn(b'data: {"t":"one"  }', "one")
    assert [familiar.text(b'data: {"t":"%b"%b}' % (b"two", b" " * n)) for n in range(4)] == ["two", "", "two", ""]
    assert [familiar.text(b'data: {"t":"%b"}' % text) for text in (b"", b"\\n", b"\n", b"\xff", b'x"')] == [""] * 5
    assert familiar.text(b'xata: {"t":"two"}') == "" and familiar.text(b"") == "" and familiar.text(b'"}') == ""
    counted = FamiliarCounted()
    assert counted.text(b"") == ("", b"") and counted.text(b'"') == ("", b"")
    counted.learn(b'{"t":"one","u":{"n":1}}', "one", b'{"n":1}')
    assert counted.text(b'{"t":"two","u":{"n":%d}}' % dice.randrange(10, 99))[0] == "two"
    assert counted.text(b'{"t":"a","u":{"n":1}')[0] == "" == counted.text(b'{"t":"a","u": {"n":1}}')[0]


def test_what_is_not_certain_is_not_learned() -> None:
    familiar = Familiar()
    for event, text in ((b'{"t":"t"}', "t"), (b'{"t":"\\u0061","n":"a"}', "a"), (b'{"t":""}', ""), (b'{"t":5}', "5")):
        familiar.learn(event, text)
        assert familiar.text(event) == ""

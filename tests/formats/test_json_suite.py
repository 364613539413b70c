"""Nicolas Seriot's JSONTestSuite against `parse_request`: as the whole body, and in a field that passes through."""

from __future__ import annotations

import base64
import pathlib
from collections import Counter

import msgspec
import pytest

from waypost.errors import Refusal
from waypost.formats.openai_chat import parse_request, render_request

SUITE = pathlib.Path(__file__).parents[3] / "shared" / "wire" / "json-test-suite.jsonl"


class Case(msgspec.Struct):
    name: str
    expect: str
    base64: str

    @property
    def bytes(self) -> bytes:
        return base64.b64decode(self.base64)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    if not SUITE.exists():
        pytest.skip("the JSON test suite is not at ../shared/wire")
    return [msgspec.json.decode(line, type=Case) for line in SUITE.read_bytes().splitlines()]


def outcome(body: bytes) -> str:
    """`accepted`, or the refusal's code and why. Anything else that is raised is a crash, and fails the test."""
    try:
        request = parse_request(body)
    except Refusal as refusal:
        said = "not JSON" if "not valid JSON" in refusal.message or "UTF-8" in refusal.message else "refused"
        return said if refusal.failure.code == "INVALID_REQUEST" else refusal.failure.code
    rendered = render_request(request, "upstream-model")
    assert rendered.startswith(b"{") and rendered.endswith(b"}")
    return "accepted"


def test_as_the_whole_body(cases: list[Case]) -> None:
    for case in cases:
        told = outcome(case.bytes)
        # None of the suite has a model and messages, but good JSON must not be called bad.
        assert told == "refused" or (told == "not JSON" and case.expect != "y"), case.name


WRAPPED = {
    "a flat body": b'{"model":"m","messages":[{"role":"user","content":"hi"}],"extra":%b}',
    "beside a nested model": b'{"model":"m","messages":[],"tools":[{"model":1}],"n\\u0061me":1,"extra":%b}',
    "in the prompt": b'{"model":"m","messages":[{"role":"user","content":%b}]}',
}


@pytest.mark.parametrize("where", WRAPPED)
def test_inside_of_a_field_that_passes_through(cases: list[Case], where: str) -> None:
    seen: dict[str, Counter[str]] = {"y": Counter(), "n": Counter(), "i": Counter()}
    passed = []
    for case in cases:
        told = outcome(WRAPPED[where].replace(b"%b", case.bytes))
        assert told in ("accepted", "refused", "not JSON"), case.name
        seen[case.expect][told] += 1
        if case.expect == "y":
            assert told == "accepted", case.name
        elif case.expect == "n" and told == "accepted":
            passed.append(case.name)
    # What is let through is what llhttp and msgspec cannot see without decoding: it reaches an upstream as it came.
    print(f"\n{where}:")
    for expect, counts in seen.items():
        print(f"  {expect}: " + ", ".join(f"{count} {told}" for told, count in sorted(counts.items())))
    print(f"  passed through: {', '.join(passed) or 'none'}")
    assert seen["n"]["not JSON"] + seen["n"]["refused"] > 0.9 * seen["n"].total()

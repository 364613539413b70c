"""The throughput guard: who crawls is dropped before the caller has anything of it, if somebody else is left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Answer, Waypost, provider, serving
from tests.http.nonces import fresh_nonce
from tests.policy.test_routing import chain, conversation, planned
from tests.sim.running import Running
from waypost.formats.usage import estimate_completion
from waypost.http.timers import NEVER
from waypost.policy.trail import Trail
from waypost.worker.guard import WINDOW, Guard
from waypost.worker.relay import HELD_LIMIT

NOW = 1000.0


def guard(pace: float = 10.0, *names: str) -> Guard:
    subject, talk = chain(*(names or ("a", "b"))), conversation()
    trail = Trail(planned(subject), talk, subject.sticky, NOW + 600)
    assert trail.begin(NOW) is not None
    return Guard(pace, trail, lambda: NOW)


def test_it_holds_until_enough_tokens_have_come() -> None:
    bytes_of = {estimate_completion(size): size for size in range(200, -1, -1)}  # the fewest that make so many tokens
    for tokens, passes in ((19, False), (20, True), (21, True)):
        assert guard().lets_pass(b"x", bytes_of[tokens], NOW) is passes


def test_it_holds_no_more_than_there_is_room_for() -> None:
    for size, passes in ((HELD_LIMIT - 1, False), (HELD_LIMIT, False), (HELD_LIMIT + 1, True)):
        assert guard().lets_pass(b"x" * size, 0, NOW) is passes


def test_its_time_begins_with_the_first_words() -> None:
    subject = guard()
    assert subject.until == NEVER and not subject.is_holding
    subject.lets_pass(b"a", 4, NOW)
    subject.lets_pass(b"b", 8, NOW + 1)
    assert subject.until == NOW + WINDOW and subject.is_holding
    assert subject.release() == b"ab" and not subject.is_holding and subject.until == NEVER


def test_it_knows_whether_somebody_could_take_over() -> None:
    assert guard().is_another_left and not guard(10.0, "a").is_another_left


# Through a whole server


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    root = simulator.base.removesuffix("/v1")
    text = "".join(provider(name, simulator.base) for name in ("one", "two", "late"))
    text += "[routing]\nattempts = 2\n"
    chains = {
        "crawls": ["one/words-20+gap-300", "two/demo"],
        "alone": ["one/words-12+gap-301"],
        "both": ["one/words-12+gap-302", "two/words-12+gap-303"],
        "quick": ["one/words-200", "two/demo"],
        "short": ["one/words-2", "two/demo"],
        "errs": ["one/sse-error-after-3+words-40+gap-100", "two/demo"],
        "stalls": ["one/stall-after-3+words-40", "two/demo"],
        "hedged": ["late/hang+words-1", "two/words-12+gap-304"],
        "spoken": ["late/stall-after-3+words-42", "two/words-200"],
    }
    for name, model in (
        ("anthropic", "claude-sonnet-4-5"),
        ("gemini", "gemini-2.5-flash"),
        ("cohere", "command-a-03-2025"),
    ):
        path = {"anthropic": "/v1", "gemini": "/v1beta", "cohere": "/v2"}[name]
        text += provider(name, f"{root}/words-20+gap-300{path}", format=f'"{name}"')
        chains[name] = [f"{name}/{model}", "two/demo"]
    for name, links in chains.items():
        pace = "min_throughput = 20\n"
        pace += "hedge = 0.2\n" if name == "hedged" else "hedge = 1.5\n" if name == "spoken" else ""
        text += f'[models."g/{name}"]\nchain = {links}\n{pace}'.replace("'", '"')
    with serving(text) as waypost:
        yield waypost


def ask(server: Waypost, name: str, stream: bool = True) -> Answer:
    with server.connect() as client:
        client.send(server.chat(f"g/{name}", fresh_nonce(), "x-waypost-metadata: enabled", stream=stream))
        return client.answer()


def told(answer: Answer) -> list[tuple[str, str]]:
    found: Any = answer.chunks[-1] if "event-stream" in str(answer.header("content-type")) else answer.json
    return [(each["provider"], each.get("error", "")) for each in found["waypost"]["attempts"]]


@pytest.mark.parametrize("name", ["crawls", "anthropic", "gemini", "cohere"])
def test_who_crawls_is_dropped(server: Waypost, name: str) -> None:
    answer = ask(server, name)
    first = "one" if name == "crawls" else name
    assert told(answer) == [(first, "crawling"), ("two", "")]
    assert (answer.header("x-provider"), answer.header("x-attempts")) == ("two", "2")
    assert len(answer.text.split()) != 20 and answer.events[-1] == b"[DONE]"
    assert {chunk["id"] for chunk in answer.chunks} == {answer.header("x-request-id")}


def test_a_crawling_answer_is_better_than_none(server: Waypost) -> None:
    for name, provider_ in (("alone", "one"), ("both", "two")):
        answer = ask(server, name)
        assert len(answer.text.split()) == 12 and answer.header("x-provider") == provider_
        assert answer.chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(("name", "count"), [("quick", 200), ("short", 2)])
def test_who_is_quick_enough_or_done_stays(server: Waypost, name: str, count: int) -> None:
    answer = ask(server, name)
    assert told(answer) == [("one", "")] and len(answer.text.split()) == count


def test_whole_answers_are_not_judged(server: Waypost) -> None:
    answer = ask(server, "crawls", stream=False)
    assert told(answer) == [("one", "")] and len(answer.text.split()) == 20


@pytest.mark.parametrize(("name", "kind"), [("errs", "error_event"), ("stalls", "crawling")])
def test_what_goes_wrong_in_the_first_words_falls_back(server: Waypost, name: str, kind: str) -> None:
    answer = ask(server, name)
    assert told(answer) == [("one", kind), ("two", "")] and answer.events[-1] == b"[DONE]"


def test_who_is_asked_beside_another_is_judged_too(server: Waypost) -> None:
    """It crawls, the other is silent, and nobody else is left: it answers."""
    answer = ask(server, "hedged")
    assert told(answer) == [("late", "hedged"), ("two", "")] and len(answer.text.split()) == 12


def test_who_has_begun_is_not_late(server: Waypost) -> None:
    """Its words are held back, but they have come; another is asked only once it is known to crawl."""
    answer = ask(server, "spoken")
    assert told(answer) == [("late", "crawling"), ("two", "")] and len(answer.text.split()) == 200

"""Routing as callers meet it: whole requests through a whole server, in front of simulators that fail."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Answer, Waypost, chat_body, post, provider, serving, wait_until
from tests.http.nonces import fresh_nonce, times_seen
from tests.http.upstream import Asked, Upstream, completion, plays, response, upstream
from tests.sim.running import Running
from waypost.sim.journal import read_journal


@pytest.fixture(scope="module")
def raw() -> Iterator[Upstream]:
    """An upstream that sends what a test puts into `scripts`."""
    with upstream() as running:
        yield running


CONFIG = """
[providers.private]
base_url = "SIM"
keys = ["k"]
data_collection = "deny"
parameters = ["temperature"]

[providers.quick]
base_url = "SIM"
keys = ["k"]
timeouts = { connect = 5, first_byte = 1, idle = 1, total = 3 }

[providers.patient]
base_url = "SIM"
keys = ["k"]

[providers.waiting]
base_url = "SIM"
keys = ["k"]

[providers.gone]
base_url = "http://127.0.0.1:1/v1"
keys = ["k"]

[models."route/two"]
chain = ["one/demo", "two/demo"]
[models."route/private"]
chain = ["one/demo", "private/demo"]
[models."route/weighted"]
chain = ["one/demo", "two/demo"]
strategy = "weighted"
weights = [0, 1]
[models."route/cheapest"]
chain = ["one/demo", "two/demo"]
strategy = "price"
prices = { "one/demo" = { input = "3", output = "3" }, "two/demo" = { input = "0", output = "0" } }
[models."route/falls"]
chain = ["one/status-500"]
models = ["route/two"]
[models."route/small"]
chain = ["one/context-length"]
models = ["route/large"]
larger = true
context = 1000
[models."route/large"]
chain = ["two/demo"]
context = 100000
[models."route/text"]
chain = ["one/demo"]
modalities = ["text"]
[models."route/strict"]
chain = ["one/status-500", "two/demo"]
strict_tool_pinning = true
[models."route/hasty"]
chain = ["one/hang", "two/hang"]
deadline = 0.5

"""


@pytest.fixture(scope="module")
def server(simulator: Running, raw: Upstream) -> Iterator[Waypost]:
    """Providers `one` and `two` are the simulator, `raw` the scripted upstream, with two keys."""
    keys = f'[providers.raw]\nbase_url = "{raw.base()}"\nkeys = ["first-key", "second-key"]\nweights = [1, 0]\n'
    text = provider("one", simulator.base) + provider("two", simulator.base) + keys
    with serving(text + CONFIG.replace("SIM", simulator.base)) as waypost:
        yield waypost


def ask(server: Waypost, model: str, *headers: str, **fields: Any) -> Answer:
    """One request: a conversation of its own, or it would stay where the one before it was answered."""
    with server.connect() as client:
        client.send(server.chat(model, fields.pop("asked", "") or fresh_nonce(), *headers, **fields))
        return client.answer()


def told(server: Waypost, model: str, **fields: Any) -> Any:
    """The `waypost` object of an answer or an error."""
    answer = ask(server, model, "x-waypost-metadata: enabled", **fields)
    if fields.get("stream") and answer.status == 200:
        return answer.chunks[-1]["waypost"]
    return answer.json["waypost"]


def tried(found: Any) -> list[tuple[str, str, int]]:
    return [(each["provider"], each.get("error", ""), each["status"]) for each in found["attempts"]]


# Failures: each is a model name of its own, since a breaker remembers

FALLS = [
    ("status-500", "server_error", 500),
    ("status-408", "server_error", 408),
    ("status-529", "server_error", 529),
    ("auth-401", "credentials", 401),
    ("status-402", "credentials", 402),
    ("auth-403", "forbidden", 403),
    ("status-404", "misconfigured", 404),
    ("429-retry-after-7", "limited", 429),
    ("reset-before-headers", "closed", 0),
    ("close-before-headers", "closed", 0),
    ("reset-after-headers", "truncated", 200),
    ("sse-error-first", "error_event", 200),
    ("hang", "first_byte_timeout", 0),
    ("stall-after-1", "idle_timeout", 200),
    ("html-200", "broken", 200),
    ("dribble-20", "total_timeout", 200),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "kind", "status"), FALLS)
def test_a_failure_moves_on_and_says_what_it_was(
    server: Waypost, fault: str, kind: str, status: int, stream: bool
) -> None:
    name = f"quick/{fault}+words-{11 + stream}"
    if fault == "html-200" and stream:
        kind = "truncated"  # no event in it
    found = told(server, name, models=["two/demo"], stream=stream)
    assert tried(found) == [("quick", kind, status), ("two", "", 200)]
    assert found["requested"] == name and found["resolved"] == "two/demo"


@pytest.mark.parametrize("stream", [False, True])
def test_no_connection_moves_on(server: Waypost, stream: bool) -> None:
    assert tried(told(server, "gone/x", models=["two/demo"], stream=stream))[0] == ("gone", "connect", 0)


@pytest.mark.parametrize("fault", ["status-400", "status-413", "status-422"])
def test_the_contents_own_fault_is_passed_on_and_not_repeated(server: Waypost, fault: str) -> None:
    answer = ask(server, f"one/{fault}")
    assert (answer.status, answer.code) == (int(fault[-3:]), "INVALID_REQUEST")
    assert answer.header("x-attempts") == "1" and answer.header("x-should-retry") is None


def test_who_does_not_stream_is_not_asked_for_it_again(server: Waypost, raw: Upstream) -> None:
    raw.scripts["whole"] = plays(response(completion("whole")))
    answer = ask(server, "raw/whole", "x-waypost-metadata: enabled", stream=True)
    assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")
    assert tried(answer.json["waypost"]) == [("raw", "broken", 200)], "each would be a whole answer to pay for"


def test_a_single_upstream_is_asked_again_after_pauses(server: Waypost, simulator: Running) -> None:
    nonce = fresh_nonce()
    answer = ask(server, "patient/status-503", asked=nonce)
    assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")
    assert answer.header("x-attempts") == "3" and answer.header("x-should-retry") == "false"
    assert times_seen(simulator, nonce) == 3


def test_a_retry_after_that_fits_is_waited_for_and_a_longer_one_is_told(server: Waypost) -> None:
    answer = ask(server, "waiting/429-retry-after-60")
    assert (answer.status, answer.code) == (429, "UPSTREAM_RATE_LIMITED")
    assert answer.header("retry-after") == "60" and answer.header("x-attempts") == "1"
    decimals = ask(server, "waiting/429-retry-after-600.5")
    assert decimals.header("retry-after") == "601" and decimals.header("x-attempts") == "1"
    found = told(server, "waiting/429-retry-after-1")
    assert tried(found) == [("waiting", "limited", 429)] * 3


def test_the_requests_own_deadline_ends_every_attempt(server: Waypost) -> None:
    answer = ask(server, "route/hasty", "x-waypost-metadata: enabled")
    assert (answer.status, answer.code) == (504, "PROVIDER_TIMEOUT")
    assert [each["error"] for each in answer.json["waypost"]["attempts"]] == ["deadline"]


@pytest.fixture(scope="module")
def mute() -> Iterator[int]:
    """A port that nobody accepts at, and whose queue is full: connections to it neither stand nor fail."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("stream", [False, True])
def test_no_connection_in_time_and_whose_time_it_was(mute: int, stream: bool) -> None:
    text = provider("mute", f"http://127.0.0.1:{mute}/v1", timeouts="{ connect = 0.3 }")
    text += provider("patient", f"http://127.0.0.1:{mute}/v1", timeouts="{ connect = 50 }")
    text += '[models.own]\nchain = ["mute/x"]\n[models.all]\nchain = ["patient/x"]\ndeadline = 0.5\n'
    with serving(text) as waypost:
        for model, kind, said in (
            ("own", "connect_timeout", "mute: no connection within 0.3 s"),
            ("all", "deadline", "patient: the time for the whole request is over"),
        ):
            answer = ask(waypost, model, "x-waypost-metadata: enabled", stream=stream)
            assert (answer.status, answer.code) == (504, "PROVIDER_TIMEOUT")
            assert [each["error"] for each in answer.json["waypost"]["attempts"]] == [kind]
            assert answer.json["error"]["message"] == said


def test_all_timed_out_is_504(server: Waypost) -> None:
    answer = ask(server, "quick/hang+words-23", models=["quick/hang+words-24"])
    assert (answer.status, answer.code, answer.header("x-attempts")) == (504, "PROVIDER_TIMEOUT", "2")


@pytest.mark.parametrize("fault", ["reset-after-9", "eof-after-9", "stall-after-9"])
def test_after_the_first_words_nobody_takes_over(server: Waypost, fault: str) -> None:
    answer = ask(server, f"quick/{fault}+words-40", "x-waypost-metadata: enabled", models=["two/demo"], stream=True)
    assert answer.status == 200 and answer.header("x-attempts") == "1"
    assert answer.events[-1] == b"[DONE]"
    last = answer.chunks[-1]
    assert last["error"]["code"] in ("PROVIDER_ERROR", "PROVIDER_TIMEOUT")
    assert [each["provider"] for each in last["waypost"]["attempts"]] == ["quick"]


# Keys


def test_another_key_after_one_that_is_refused(server: Waypost, raw: Upstream) -> None:
    def refuses_the_first(sock: Any, asked: Asked) -> bool:
        good = b"Bearer second-key" in asked.head
        sock.sendall(response(completion(asked.question)) if good else response(b"{}", status=b"401 Unauthorized"))
        return True

    raw.scripts["keyed"] = refuses_the_first
    found = told(server, "raw/keyed")
    assert tried(found) == [("raw", "credentials", 401), ("raw", "", 200)]
    assert tried(told(server, "raw/keyed")) == [("raw", "", 200)], "the bad key is left alone from now on"


def test_bad_credentials_everywhere_are_not_the_callers_fault(server: Waypost) -> None:
    answer = ask(server, "one/auth-401+words-25")
    assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")
    assert "credentials" in answer.json["error"]["message"] and "upstream-secret" not in answer.body.decode()


# Order


def test_weights_and_prices_decide_who_is_first(server: Waypost) -> None:
    assert {ask(server, "route/weighted").header("x-provider") for _ in range(5)} == {"two"}
    assert ask(server, "route/cheapest").header("x-provider") == "two"
    assert told(server, "route/cheapest")["strategy"] == "price"


def test_models_of_the_configuration_take_over(server: Waypost) -> None:
    answer = ask(server, "route/falls")
    assert (answer.status, answer.header("x-provider")) == (200, "one")
    assert answer.json["model"] == "route/falls"


def test_too_long_a_prompt_goes_on_to_a_larger_model(server: Waypost) -> None:
    assert tried(told(server, "route/small")) == [("one", "context_length", 400), ("two", "", 200)]
    assert ask(server, "one/context-length").code == "CONTEXT_LENGTH_EXCEEDED"


def test_results_of_tool_calls_go_to_one_upstream_once(server: Waypost) -> None:
    talk = [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "c", "content": "7"}]
    body = json.dumps({"model": "route/strict", "messages": talk}).encode()
    with server.connect() as client:
        client.send(post("/v1/chat/completions", body, *server.credentials))
        answer = client.answer()
    assert (answer.status, answer.header("x-attempts")) == (502, "1")


def test_a_conversation_stays_where_it_was_answered(server: Waypost) -> None:
    first = told(server, "one/status-500+words-31", models=["two/demo"], session_id="talk-1")
    assert not first["sticky"] and first["resolved"] == "two/demo"
    second = told(server, "one/status-500+words-31", models=["two/demo"], session_id="talk-1")
    assert second["sticky"] and tried(second) == [("two", "", 200)]
    third = told(server, "one/status-500+words-31", models=["two/demo"], session_id="talk-2")
    assert not third["sticky"] and tried(third)[0][0] == "one"


# What the caller asks


def test_models_of_the_body_and_which_one_it_was(server: Waypost) -> None:
    answer = ask(server, "one/status-400", models=["route/two"])
    assert (answer.status, answer.json["model"], answer.header("x-attempts")) == (200, "route/two", "2")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"order": ["two"]}, "two"),
        ({"order": ["Two/Demo"]}, "two"),
        ({"only": ["two"]}, "two"),
        ({"ignore": ["one"]}, "two"),
        ({"sort": "price"}, "one"),
    ],
)
def test_preferences(server: Waypost, wanted: Any, expected: str) -> None:
    assert ask(server, "route/two", provider=wanted).header("x-provider") == expected


def test_who_keeps_nothing_and_who_obeys(server: Waypost) -> None:
    deny = {"data_collection": "deny"}
    assert ask(server, "route/private", provider=deny).header("x-provider") == "private"
    refused = ask(server, "route/two", provider=deny)
    assert (refused.status, refused.code) == (400, "INVALID_REQUEST")
    assert refused.json["error"]["param"] == "provider" and "one" in refused.json["error"]["message"]
    obeyed = {"require_parameters": True, "only": ["private"]}
    assert ask(server, "route/private", provider=obeyed, temperature=1).status == 200
    assert ask(server, "route/private", provider=obeyed, top_k=1).status == 400


def test_prices_that_callers_accept(server: Waypost) -> None:
    cheap = ask(server, "route/cheapest", provider={"max_price": {"prompt": 1}, "sort": "latency"})
    assert cheap.header("x-provider") == "two"
    assert ask(server, "route/two", provider={"max_price": {"prompt": 1}}).status == 400, "its price is not known"
    assert ask(server, "route/cheapest:free").header("x-provider") == "two"
    assert ask(server, "route/two:free").json["error"]["param"] == "model"
    assert ask(server, "route/cheapest:floor").json["model"] == "route/cheapest:floor"
    assert told(server, "route/two:nitro")["strategy"] == "sort:throughput"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"provider": {"prefer": 1}}, "provider.prefer"),
        ({"provider": 7}, "provider"),
        ({"models": "route/two"}, "models"),
        ({"models": ["no/such"]}, "models"),
        ({"models": ["route/two:free"]}, "models"),
        ({"session_id": 7}, "session_id"),
    ],
)
def test_what_is_not_understood_is_refused(server: Waypost, fields: Any, param: str) -> None:
    answer = ask(server, "route/two", **fields)
    assert answer.status == 400 and answer.json["error"]["param"] == param


def test_a_body_that_says_it_twice_is_refused(server: Waypost) -> None:
    body = chat_body("route/two", "x")[:-1] + b', "provider": {"only": ["one"]}, "provider": {}}'
    with server.connect() as client:
        client.send(post("/v1/chat/completions", body, *server.credentials))
        assert client.answer().json["error"]["param"] == "provider"


def test_images_for_a_model_that_takes_text(server: Waypost) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    body = json.dumps({"model": "route/text", "messages": [{"role": "user", "content": picture}]}).encode()
    with server.connect() as client:
        client.send(post("/v1/chat/completions", body, *server.credentials))
        answer = client.answer()
    assert (answer.status, answer.json["error"]["param"]) == (400, "messages")
    assert ask(server, "route/text", asked="the word image_url").status == 200


# It explains itself


def test_streams_carry_the_metadata_on_the_last_chunk_alone(server: Waypost) -> None:
    answer = ask(
        server, "route/two", "x-waypost-metadata: enabled", stream=True, stream_options={"include_usage": True}
    )
    assert [("waypost" in chunk) for chunk in answer.chunks] == [False] * (len(answer.chunks) - 1) + [True]
    assert "waypost" not in ask(server, "route/two").json


def preflight(server: Waypost, model: str, **fields: Any) -> Answer:
    with server.connect() as client:
        client.send(post("/v1/preflight", chat_body(model, "Hello", **fields), *server.credentials))
        return client.answer()


def test_preflight_sends_nothing_and_shows_the_plan(server: Waypost, simulator: Running) -> None:
    before = len(list(read_journal(simulator.journal)))
    wanted = {"max_price": {"prompt": 2}}
    shown = preflight(server, "route/cheapest", provider=wanted, stream=True, plugins=[{}], max_tokens=100).json
    assert [each["provider"] for each in shown["candidates"]] == ["two"]
    assert [(each["provider"], each["reason"]) for each in shown["dropped"]] == [("one", "max_price")]
    assert shown["parameters"] == {
        "changed": ["model", "stream_options"], "dropped": ["plugins"], "obeyed_here": ["provider"],
    }  # fmt: skip
    assert shown["estimated_input_tokens"] > 0 and shown["max_output_tokens"] == 100
    assert shown["limits"]["admitted"] is True and shown["error"] is None
    assert preflight(server, "route/two", provider={"only": ["three"]}).json["error"]["code"] == "INVALID_REQUEST"
    assert (preflight(server, "no/such").status, preflight(server, "no/such").code) == (400, "INVALID_MODEL")
    assert len(list(read_journal(simulator.journal))) == before


def test_the_page_of_a_model_has_its_providers_in_order(server: Waypost) -> None:
    with server.connect() as client:
        client.send(b"GET /v1/models/route/cheapest HTTP/1.1\r\nhost: w\r\n%b\r\n\r\n" % server.credentials[0].encode())
        assert client.answer().json["providers"] == ["two", "one"]


# Breakers


def status(server: Waypost) -> Any:
    with server.connect() as client:
        client.send(b"GET /v1/status HTTP/1.1\r\nhost: w\r\n\r\n")
        return client.answer().json


def test_workers_share_their_breakers_and_everyone_may_see(simulator: Running) -> None:
    text = provider("one", simulator.base) + provider("two", simulator.base)
    text += '[models."route/x"]\nchain = ["one/status-500", "two/demo"]\n'
    with serving(text, workers=2) as waypost:
        assert {each["status"] for each in status(waypost)["providers"]} == {"unknown"}
        for _ in range(10):  # five in a row open it, on whichever worker they arrive
            assert ask(waypost, "route/x").header("x-provider") == "two"
        wait_until(lambda: all(status(waypost)["incidents"] for _ in range(20)), "both to tell of it")
        shown = status(waypost)
        assert [each["status"] for each in shown["models"]] == ["degraded"]
        assert shown["incidents"][0]["status"] == "investigating" and "one" in shown["incidents"][0]["title"]
        for _ in range(20):
            assert ask(waypost, "route/x").header("x-attempts") == "1", "nobody asks it any more"

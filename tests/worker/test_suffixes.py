"""Suffixes of a model's name as a caller meets them: `:thinking` in every format, and `:free` with its own limits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.harness import Answer, Waypost, chat_body, post, serving, wait_until
from tests.sim.running import Running
from tests.worker.test_formats_script import MODELS, configuration
from tests.worker.test_limits import key_on, rows

MORE = """
[providers.dull]
base_url = "{base}"
keys = ["sk-dull"]
capabilities = {{ reasoning = "none" }}
[models."route/demo"]
chain = ["lab/demo"]
[models."route/magistral"]
chain = ["mistral/magistral-medium"]
[models."route/mixed"]
chain = ["dull/demo", "lab/demo"]
[models."route/dull"]
chain = ["dull/demo"]
[models."route/gratis"]
chain = ["lab/demo"]
price = {{ input = "0", output = "0" }}
[models."route/paid"]
chain = ["lab/demo"]
price = {{ input = "1", output = "1" }}
[models."text-embedding"]
chain = ["lab/text-embedding-3-small"]
[models."m:thinking"]
chain = ["lab/demo"]

[plans.open]
[plans.freebies]
requests = {{ day = 2 }}
free = {{ minute = 3, day = 50 }}
[plans.daily-freebies]
requests = {{ day = 1 }}
free = {{ day = 2 }}
[plans.shared]
requests = {{ day = 2 }}
"""

# Of these none can be asked to reason.
MUTE = {
    "old-claude": "anthropic/claude-3-haiku-20240307",
    "old-gemini": "gemini/gemini-2.0-flash",
    "plain-cohere": "cohere/command-a-03-2025",
    "plain-mistral": "mistral/mistral-large-latest",
}

marks = (f"nonce:suffix{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    routes = "".join(f'[models."route/{name}"]\nchain = ["{link}"]\n' for name, link in (MODELS | MUTE).items())
    with serving(configuration(simulator.base) + routes + MORE.format(base=simulator.base), workers=2) as waypost:
        yield waypost


def sent(server: Waypost, simulator: Running, model: str, **fields: Any) -> dict[str, Any]:
    """What the upstream got for a request to this model."""
    mark = next(marks)
    answer = server.ask(model, mark, **fields)
    assert answer.status == 200, answer.body
    body: dict[str, Any] = simulator.exchange(mark).body
    return body


def ask(server: Waypost, key: str, model: str) -> Answer:
    with server.connect() as client:
        body = chat_body(model, "Hello")
        client.send(post("/v1/chat/completions", body, f"authorization: Bearer {key}", "accept: application/json"))
        return client.answer()


@pytest.mark.parametrize(
    ("suffix", "effort"),
    [("thinking", "medium"), ("thinking:low", "low"), ("thinking:medium", "medium"), ("thinking:high", "high"),
     ("nitro:thinking:high:floor", "high"), ("thinking:low:thinking:high", "high")],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_reasoning_effort(
    server: Waypost, simulator: Running, suffix: str, effort: str, stream: bool
) -> None:
    for _ in range(2):  # the second time the name is known
        body = sent(server, simulator, f"route/demo:{suffix}", stream=stream)
        assert body["reasoning_effort"] == effort
        assert body["model"] == "demo"


@pytest.mark.parametrize(
    "own",
    [{"reasoning_effort": "low"}, {"reasoning_effort": "none"}, {"reasoning": {"enabled": False}},
     {"reasoning": {"max_tokens": 2000}}, {"thinking": {"type": "disabled"}}, {"enable_thinking": False}],
)  # fmt: skip
def test_the_requests_own_field_wins(server: Waypost, simulator: Running, own: dict[str, Any]) -> None:
    body = sent(server, simulator, "route/demo:thinking:high", **own)
    assert {name: body.get(name) for name in ("reasoning_effort", *own)} == {"reasoning_effort": None} | own


def test_a_field_that_says_nothing_of_it_does_not(server: Waypost, simulator: Running) -> None:
    own: dict[str, Any] = {"reasoning": {"exclude": True}, "thinking": None}
    assert sent(server, simulator, "route/demo:thinking:high", **own)["reasoning_effort"] == "high"


@pytest.mark.parametrize(
    ("name", "where"),
    [("anthropic-budget", "thinking"), ("anthropic-adaptive", "thinking"), ("gemini-2.5", "generationConfig"),
     ("gemini-3", "generationConfig"), ("vertex-claude", "thinking"), ("cohere-reasoning", "thinking"),
     ("bedrock-claude", "additionalModelRequestFields")],
)  # fmt: skip
def test_every_format_is_told(server: Waypost, simulator: Running, name: str, where: str) -> None:
    model = f"route/{name}"
    asked = {"max_tokens": 30_000}
    plain = sent(server, simulator, model, **asked)
    by_field = sent(server, simulator, model, reasoning_effort="high", **asked)
    by_name = sent(server, simulator, f"{model}:thinking:high", **asked)
    assert by_name[where] == by_field[where] != plain.get(where)


def test_thinking_shows_in_an_sdk(server: Waypost) -> None:
    with openai.OpenAI(base_url=server.base, api_key=server.key) as client:
        completion = client.chat.completions.create(
            model="route/anthropic-budget:thinking", messages=[{"role": "user", "content": "Why?"}]
        )
    assert completion.choices[0].message.model_extra is not None
    assert completion.choices[0].message.model_extra["reasoning_content"]
    assert completion.model == "route/anthropic-budget:thinking"


@pytest.mark.parametrize("level", ["ultra", "", "none", "HIGH", "high "])
def test_a_level_that_is_none_is_named(server: Waypost, level: str) -> None:
    refused = server.ask(f"route/demo:thinking:{level}")
    assert (refused.status, refused.code) == (400, "INVALID_REQUEST")
    assert f"':thinking:{level}'" in refused.json["error"]["message"]
    assert "low, medium, high" in refused.json["error"]["message"]
    assert refused.json["error"]["param"] == "model"


@pytest.mark.parametrize(("name", "link"), [("dull", "dull/demo"), *MUTE.items()])
def test_a_model_without_reasoning_is_named(server: Waypost, name: str, link: str) -> None:
    model, named = f"route/{name}", link.partition("/")[2]
    assert server.ask(model).status == 200
    refused = server.ask(f"{model}:thinking")
    assert (refused.status, refused.code) == (400, "INVALID_REQUEST"), refused.body
    assert f"{named} cannot be asked to reason" in refused.json["error"]["message"]
    assert refused.json["error"]["param"] == "model"


def test_of_a_chain_those_that_reason_are_asked(server: Waypost) -> None:
    assert server.ask("route/mixed").header("x-provider") == "dull"
    assert server.ask("route/mixed:thinking").header("x-provider") == "lab"


def test_a_literal_id_goes_first(server: Waypost, simulator: Running) -> None:
    assert "reasoning_effort" not in sent(server, simulator, "m:thinking")
    assert sent(server, simulator, "m:thinking:thinking:low")["reasoning_effort"] == "low"
    refused = server.ask("m:thinking:low")  # there is no m
    assert (refused.status, refused.code) == (400, "INVALID_MODEL")


def test_embeddings_do_not_think(server: Waypost) -> None:
    with server.connect() as client:
        body = b'{"model": "text-embedding:thinking", "input": "x"}'
        client.send(post("/v1/embeddings", body, *server.credentials))
        refused = client.answer()
    assert (refused.status, refused.code) == (400, "INVALID_REQUEST")
    assert refused.json["error"]["param"] == "model"


def test_preflight_says_what_is_added(server: Waypost) -> None:
    with server.connect() as client:
        client.send(post("/v1/preflight", chat_body("route/demo:thinking", "x"), *server.credentials))
        assert client.answer().json["parameters"]["changed"] == ["model", "reasoning_effort"]
        own = chat_body("route/demo:thinking", "x", reasoning_effort="low")
        client.send(post("/v1/preflight", own, *server.credentials))
        assert client.answer().json["parameters"]["changed"] == ["model"]


# Free variants


def of_the_day(refused: Answer) -> int:
    """What is left of it; 50 where the answer is not a refusal."""
    return int(refused.header("x-ratelimit-remaining-day") or 50)


def test_free_variants_have_limits_of_their_own(server: Waypost) -> None:
    key = key_on(server, "freebies", "free-minute")
    for _ in range(3):  # a minute that ends in the middle is tried again
        statuses = [ask(server, key, "route/gratis:free").status for _ in range(3)]
        refused = ask(server, key, "route/gratis:free")
        if refused.status == 429:
            break
    assert statuses == [200] * 3
    assert (refused.status, refused.code) == (429, "MINUTE_REQUEST_LIMIT_EXCEEDED")
    assert "3 requests to :free models" in refused.json["error"]["message"]
    assert refused.header("x-ratelimit-limit-minute") == "3"
    assert refused.header("x-ratelimit-remaining-minute") == "0"
    assert refused.header("x-ratelimit-limit-day") == "50"
    assert int(refused.header("x-ratelimit-reset-minute") or 0) <= 60
    # Those that the other worker has served are counted once their lines are read.
    wait_until(lambda: 0 < of_the_day(ask(server, key, "route/gratis:free")) < 50, "the other worker's requests")
    # None of them was one of the plan's own requests.
    assert [ask(server, key, "route/gratis").status for _ in range(3)] == [200, 200, 429]


def test_both_kinds_are_counted_apart_at_their_edges(server: Waypost) -> None:
    key = key_on(server, "daily-freebies", "free-day")
    assert [ask(server, key, "route/gratis:free").status for _ in range(1)] == [200]
    assert [ask(server, key, "route/paid").status for _ in range(2)] == [200, 429]
    assert [ask(server, key, "route/gratis:free").status for _ in range(2)] == [200, 429]
    refused = ask(server, key, "route/gratis:free:nitro")
    assert (refused.status, refused.code) == (429, "DAILY_REQUEST_LIMIT_EXCEEDED")
    assert refused.header("x-should-retry") == "false"
    meters = sorted(str(row["holds"]) for row in rows(server, "free-day", 3))
    assert sum(":requests:day:" in holds for holds in meters) == 3
    assert sum("f" in holds.partition(":requests")[0][-3:] for holds in meters) == 2


def test_without_limits_of_their_own_they_count_as_any_request(server: Waypost) -> None:
    key = key_on(server, "shared", "free-shared")
    assert [ask(server, key, f"route/gratis{suffix}").status for suffix in (":free", "", ":free")] == [200, 200, 429]


def test_a_keys_own_limit_counts_them_all(server: Waypost) -> None:
    key = key_on(server, "freebies", "free-narrow", daily_limit=1)
    assert ask(server, key, "route/gratis:free").status == 200
    refused = ask(server, key, "route/gratis:free")
    assert refused.code == "DAILY_REQUEST_LIMIT_EXCEEDED"
    assert "the key's own" in refused.json["error"]["message"]


def test_what_costs_is_no_free_variant_and_its_request_comes_back(server: Waypost) -> None:
    key = key_on(server, "daily-freebies", "free-paid")
    for _ in range(3):
        refused = ask(server, key, "route/paid:free")
        assert (refused.status, refused.code) == (400, "INVALID_REQUEST")
        assert refused.json["error"]["param"] == "model"
    assert [ask(server, key, "route/gratis:free").status for _ in range(3)] == [200, 200, 429]


def test_preflight_rehearses_what_will_be_sent(server: Waypost) -> None:
    def candidates(model: str, **fields: Any) -> Any:
        with server.connect() as client:
            client.send(post("/v1/preflight", chat_body(model, "x", **fields), *server.credentials))
            return client.answer().json["candidates"]

    by_name = candidates("route/magistral:thinking:high")
    assert by_name == candidates("route/magistral", reasoning_effort="high") != candidates("route/magistral")

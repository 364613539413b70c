"""Plans, money, tokens and one's own numbers, as the openai SDK for Python meets them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jwt
import openai
import pytest

from tests.harness import Waypost, wait_until

ROUTE = "route/deepseek-v3.2"
SECRET = "a secret of the tests, long enough for HS256"
KeyOn = Callable[[str], str]


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_a_full_day_is_a_rate_limit_error_that_is_not_tried_again(gateway: Waypost, key_on: KeyOn) -> None:
    sent: list[Any] = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with openai.OpenAI(base_url=gateway.base, api_key=key_on("two"), max_retries=2, http_client=http) as client:
        for _ in range(2):
            client.chat.completions.create(model="gpt-4o-mini", messages=user("Hello"))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="gpt-4o-mini", messages=user("Hello"))
    assert len(sent) == 3
    error = caught.value
    assert (error.code, error.type) == ("DAILY_REQUEST_LIMIT_EXCEEDED", "rate_limit_error")
    headers = error.response.headers
    assert headers["x-should-retry"] == "false" and 0 < int(headers["retry-after"]) <= 86400
    told = {name: headers[f"x-ratelimit-{name}-day"] for name in ("limit", "remaining")}
    assert told == {"limit": "2", "remaining": "0"}
    assert headers["x-ratelimit-limit-minute"] == "100" and int(headers["x-ratelimit-remaining-minute"]) <= 98


def test_money_is_402_and_costs_are_told(gateway: Waypost, key_on: KeyOn) -> None:
    with openai.OpenAI(base_url=gateway.base, api_key=key_on("cents"), max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model=ROUTE, messages=user("Hello"), max_tokens=100_000)
        assert (caught.value.status_code, caught.value.code) == (402, "SPEND_LIMIT_EXCEEDED")
        answer = client.chat.completions.create(
            model=ROUTE, messages=user("Hello"), max_tokens=200, extra_body={"usage": {"include": True}}
        )
        assert answer.usage is not None and answer.usage.model_extra is not None
        expected = answer.usage.prompt_tokens * 0.28e-6 + answer.usage.completion_tokens * 0.42e-6
        assert answer.usage.model_extra["cost"] == pytest.approx(expected, abs=1e-9)
        chunks = list(
            client.chat.completions.create(
                model=ROUTE, messages=user("Hi"), max_tokens=200, stream=True, extra_body={"usage": {"include": True}}
            )
        )
        assert chunks[-1].usage is not None and (chunks[-1].usage.model_extra or {})["cost"] > 0
        receipt: Any = client.get("/generation", cast_to=object, options={"params": {"id": answer.id}})
        assert receipt["data"]["id"] == answer.id


def test_a_token_in_the_place_of_a_key(gateway: Waypost) -> None:
    claims = {"sub": "carol", "plan": "two", "exp": time.time() + 600}
    token = jwt.encode(claims, SECRET, "HS256")
    with openai.OpenAI(base_url=gateway.base, api_key=token, max_retries=0) as client:
        assert client.chat.completions.create(model="gpt-4o-mini", messages=user("Hello")).choices
        used: Any = client.get("/user/requests", cast_to=object)
        assert (used["requests_used_today"], used["requests_remaining"], used["plan_tier"]) == (1, 1, "two")
    late = jwt.encode({**claims, "exp": time.time() - 1}, SECRET, "HS256")
    client = openai.OpenAI(base_url=gateway.base, api_key=late, max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="gpt-4o-mini", messages=user("Hello"))


def test_a_killed_stream_is_no_error_to_the_sdk(gateway: Waypost, key_on: KeyOn) -> None:
    with openai.OpenAI(base_url=gateway.base, api_key=key_on("free"), max_retries=0) as client:
        stream = client.chat.completions.create(
            model="sim/gap-20+words-5000", messages=user("Go on and on."), stream=True
        )
        pieces = iter(stream)
        next(pieces)
        killed: list[Any] = []

        def kill() -> bool:
            killed.append(client.post("/user/streams/kill", cast_to=object))
            return killed[-1] == {"killed_streams": 1}

        wait_until(kill, "the stream to be killed")
        assert len(list(pieces)) < 5000

"""The openai package for Node runs the same samples; `npm install` happens once, into the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import Waypost

HERE = pathlib.Path(__file__).parent / "node"
ROUTE = "route/deepseek-v3.2"
Ran = Callable[[str], Any]


def installed() -> pathlib.Path:
    """A folder with `node_modules` as package.json wants it; several test processes may ask at once."""
    wanted = (HERE / "package.json").read_bytes()
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = cache / "waypost-tests" / hashlib.sha256(wanted).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            (folder / "package.json").write_bytes(wanted)
            command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=150)
            (folder / "complete").touch()
    return folder


@pytest.fixture(scope="module")
def ran(gateway: Waypost, key_on: Callable[[str], str], preset: str) -> Ran:
    """What a sample came to."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = installed()
    # A module finds its packages beside itself, so the sample is run as a copy there, one for each test process.
    script = folder / f"samples-{os.getpid()}.mjs"
    shutil.copy(HERE / "samples.mjs", script)
    try:
        done = subprocess.run(
            ["node", str(script)],
            env={
                **os.environ,
                "WAYPOST_BASE_URL": gateway.base,
                "WAYPOST_KEY": gateway.key,
                "WAYPOST_KEY_OF_TWO": key_on("two"),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    outcomes = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}

    def value(name: str) -> Any:
        assert "error" not in outcomes[name], outcomes[name]
        return outcomes[name]["value"]

    return value


def text_of(completion: Any) -> str:
    return str(completion["choices"][0]["message"]["content"])


def test_quick_setup(ran: Ran) -> None:
    answer = ran("quickSetup")
    assert answer["id"].startswith("chatcmpl_") and answer["object"] == "chat.completion"
    assert (answer["model"], answer["provider"]) == (ROUTE, "sim")
    assert isinstance(answer["latency_ms"], int)
    assert text_of(answer) and answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_capital_of_france(ran: Ran) -> None:
    assert "Paris" in text_of(ran("capital")) and ran("capital")["model"] == "gpt-4o-mini"


def test_streaming_loop(ran: Ran) -> None:
    streamed = ran("streaming")
    assert streamed["text"] and len(streamed["ids"]) == 1 and streamed["models"] == [ROUTE]
    assert streamed["last"]["choices"][0]["finish_reason"] == "stop"
    assert streamed["last"]["provider"] == "sim" and streamed["last"]["latency_ms"] >= 0


def test_presets(ran: Ran) -> None:
    found = ran("presets")
    assert (found["named"]["model"], found["named"]["preset"]) == ("gpt-4o-mini", "pirate")
    assert (found["last"]["model"], found["last"]["preset"]) == ("gpt-4o-mini", "pirate")
    unknown = found["unknown"]
    assert (unknown["kind"], unknown["status"], unknown["code"]) == ("NotFoundError", 404, "PRESET_NOT_FOUND")


def test_usage_chunk_when_asked(ran: Ran) -> None:
    *chunks, last = ran("usage")
    assert all(choices == 1 and usage is None for choices, usage in chunks)
    assert last[0] == 0 and last[1]["total_tokens"] > 0


def test_tools(ran: Ran) -> None:
    choice = ran("tools")["choices"][0]
    call = choice["message"]["tool_calls"][0]["function"]
    assert (choice["finish_reason"], call["name"]) == ("tool_calls", "get_weather")
    assert json.loads(call["arguments"]) == {"city": "Lisbon"}
    calls = ran("streamedTools")["choices"][0]["message"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"])["city"] for call in calls] == ["Tokyo", "Paris"]


def test_structured_output_and_reasoning(ran: Ran) -> None:
    event = json.loads(text_of(ran("structured")))
    assert event.keys() == {"name", "guests"} and isinstance(event["guests"], list)
    assert ran("reasoning")["choices"][0]["message"]["reasoning_content"]


def test_headers_and_models(ran: Ran) -> None:
    headers = ran("headers")
    assert headers["id"] == headers["requestId"] and headers["provider"] == "sim"
    models = ran("models")
    assert ROUTE in models["listed"] and "route/secret" not in models["listed"]
    assert models["one"]["id"] == ROUTE


def test_parallel_streams(ran: Ran) -> None:
    texts = ran("parallel")
    assert len(texts) == 20
    assert all(f"nonce:node-{number}" in text for number, text in enumerate(texts))


def test_errors(ran: Ran) -> None:
    errors = ran("errors")
    seen = {name: (error["kind"], error.get("status"), error.get("code")) for name, error in errors.items()}
    assert seen == {
        "invalidModel": ("BadRequestError", 400, "INVALID_MODEL"),
        "notAllowed": ("PermissionDeniedError", 403, "MODEL_NOT_ALLOWED"),
        "down": ("InternalServerError", 502, "PROVIDER_ERROR"),
        "downStreaming": ("InternalServerError", 502, "PROVIDER_ERROR"),
        "cut": ("APIError", None, "PROVIDER_ERROR"),
    }
    assert "route/none" in errors["invalidModel"]["message"] and errors["invalidModel"]["param"] == "model"
    assert errors["down"]["requestID"].startswith("chatcmpl_")
    assert ran("badKey") == {"kind": "AuthenticationError", "status": 401, "code": "AUTHENTICATION_ERROR"}


def test_limits_and_costs(ran: Ran) -> None:
    refused = ran("limited")
    assert (refused["kind"], refused["status"]) == ("RateLimitError", 429)
    assert (refused["code"], refused["type"]) == ("DAILY_REQUEST_LIMIT_EXCEEDED", "rate_limit_error")
    assert int(refused["retryAfter"]) > 0
    usage = ran("cost")
    assert usage["cost"] == pytest.approx(
        usage["prompt_tokens"] * 0.28e-6 + usage["completion_tokens"] * 0.42e-6, abs=1e-9
    )

"""curl, as people try things: no Accept but `*/*`, so errors are plain text; and the greeting's own line, pasted."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.harness import DEADLINE, Waypost, wait_until
from waypost import providers
from waypost.errors import BY_CODE

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
ROUTE = "route/deepseek-v3.2"


def curl(url: str, *options: str) -> tuple[int, dict[str, str], str]:
    """Status, headers (names in lower case) and body."""
    done = subprocess.run(
        ["curl", "-sS", "-i", "--http1.1", "--max-time", "30", url, *options],
        capture_output=True,
        text=True,
        timeout=DEADLINE * 2,
    )
    assert done.returncode == 0, done.stderr
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    status, *lines = head.split("\n")
    pairs = [line.partition(":") for line in lines]
    return int(status.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body


def chat(
    gateway: Waypost, model: str, *options: str, key: str = "", **fields: object
) -> tuple[int, dict[str, str], str]:
    body = {"model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}], **fields}
    options = ("-H", f"Authorization: Bearer {key or gateway.key}", *options)
    return curl(f"{gateway.base}/chat/completions", "-d", json.dumps(body), *options)


ROWS = [
    ("route/none", "INVALID_MODEL"),
    ("route/secret", "MODEL_NOT_ALLOWED"),
    ("route/down", "PROVIDER_ERROR"),
    ("slow/hang", "PROVIDER_TIMEOUT"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "code"), ROWS)
def test_errors_are_plain_text(gateway: Waypost, model: str, code: str, stream: bool) -> None:
    status, headers, body = chat(gateway, model, stream=stream)
    assert status == BY_CODE[code].status
    assert headers["x-error-code"] == code
    assert re.fullmatch(r"chatcmpl_[0-9A-HJKMNP-TV-Z]{26}", headers["x-request-id"])
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert body.endswith("\n") and len(body) > 10 and "{" not in body


def test_a_bad_key_is_plain_text_too(gateway: Waypost) -> None:
    for key in ("nonsense", "rk_" + "0" * 64):
        status, headers, body = chat(gateway, ROUTE, key=key)
        assert (status, headers["x-error-code"]) == (401, "AUTHENTICATION_ERROR")
        assert headers["www-authenticate"] == "Bearer" and key not in body
    status, headers, _ = curl(f"{gateway.base}/chat/completions", "-d", "{}")
    assert (status, headers["x-error-code"]) == (401, "AUTHENTICATION_ERROR")


def test_accept_json_brings_the_envelope(gateway: Waypost) -> None:
    status, headers, body = chat(gateway, "route/none", "-H", "Accept: text/html, application/json;q=0.9")
    assert (status, headers["x-error-code"]) == (400, "INVALID_MODEL")
    error = json.loads(body)["error"]
    assert (error["code"], error["type"], error["param"]) == ("INVALID_MODEL", "invalid_request_error", "model")


def test_answers_and_the_rest(gateway: Waypost) -> None:
    status, headers, body = chat(gateway, ROUTE)
    assert status == 200 and "Paris" in json.loads(body)["choices"][0]["message"]["content"]
    assert headers["x-request-id"] == json.loads(body)["id"]
    status, headers, body = chat(gateway, ROUTE, "-N", stream=True)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    assert body.endswith("data: [DONE]\n\n")
    status, headers, body = chat(gateway, ROUTE, "-H", "Expect: 100-continue", "-H", "Transfer-Encoding: chunked")
    assert status in (100, 200) and "Paris" in body
    key = ("-H", f"X-API-Key: {gateway.key}")
    for name in (ROUTE, ROUTE.replace("/", "%2F")):
        status, headers, body = curl(f"{gateway.base}/models/{name}", *key)
        assert status == 200 and json.loads(body)["id"] == ROUTE
    status, headers, body = curl(f"{gateway.base}/nothing", *key)
    assert (status, headers["x-error-code"]) == (404, "NOT_FOUND")
    status, headers, _ = curl(f"{gateway.base}/chat/completions", *key)
    assert (status, headers["x-error-code"]) == (405, "METHOD_NOT_ALLOWED")


@contextlib.contextmanager
def greeted(**extra: str) -> Iterator[str]:
    """What `waypost serve` prints where there is no configuration, in a home of its own; it runs until the end."""
    with tempfile.TemporaryDirectory(prefix="waypost-") as name:
        keys = {row.key for row in providers.TABLE}
        environment = {key: value for key, value in os.environ.items() if key not in keys}
        environment |= {"HOME": name, "XDG_DATA_HOME": f"{name}/data", "PYTHONUNBUFFERED": "1", **extra}
        output = pathlib.Path(name, "output")
        with open(output, "wb") as stdout, open(f"{name}/errors", "wb") as stderr:
            process = subprocess.Popen(
                [str(pathlib.Path(sys.executable).with_name("waypost")), "serve", "--listen", "127.0.0.1:0"],
                cwd=name,
                env=environment,
                stdout=stdout,
                stderr=stderr,
            )
        try:
            wait_until(lambda: "}]}'" in output.read_text(), "the greeting")
            yield output.read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 0
        assert "Traceback" not in pathlib.Path(name, "errors").read_text()


def test_the_greeting_s_line_works_when_pasted() -> None:
    with greeted() as greeting:
        assert re.search(r"^  key:       rk_[0-9a-f]{64}$", greeting, re.MULTILINE)
        assert "providers: none; route/demo is a simulator" in greeting
        line = greeting[greeting.index("curl ") :]
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert (answer["model"], answer["provider"]) == ("route/demo", "simulator")


def test_a_provider_whose_key_is_in_the_environment_is_served() -> None:
    with greeted(GROQ_API_KEY="gsk-for-this-test") as greeting:
        assert "providers: groq;" in greeting
        assert "gsk-for-this-test" not in greeting

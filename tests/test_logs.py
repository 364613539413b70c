"""The log's lines: text or JSON, one a record, and no keys in them."""

import io
import json
import logging
import re

import pytest

from tests.harness import provider, serving, wait_until
from waypost import logs
from waypost.keys import mint_key, shown


@pytest.fixture
def logged():
    """`logged(how, write)` → what `write(logger)` has put into the log; the root logger is put back after it."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(how, write):
        stream = io.StringIO()
        logs.configure(how, stream)
        write(logging.getLogger("waypost.test"))
        return stream.getvalue()

    yield run
    root.handlers[:], level = before
    root.setLevel(level)


def test_text(logged):
    text = logged("text", lambda log: log.warning("%s failed", "x"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} waypost\.test WARNING x failed\n", text)


def test_json(logged):
    def write(log):
        log.warning("two\nlines of %s \ud800", "“text”", extra={"request": "chatcmpl_1", "message_id": 5})
        try:
            raise ValueError("no")
        except ValueError:
            log.exception("oh")

    first, second = map(json.loads, logged("json", write).splitlines())
    assert first.pop("time").endswith("Z") and first.pop("pid") > 0
    assert first == {
        "level": "WARNING", "logger": "waypost.test", "message": "two\nlines of “text” ?", "request": "chatcmpl_1",
        "message_id": "5",
    }  # fmt: skip
    assert second["message"] == "oh" and second["exception"].endswith("ValueError: no")


@pytest.mark.parametrize("how", ["text", "json"])
def test_keys_are_abridged_wherever_they_turn_up(logged, how):
    inference, management = mint_key(), mint_key("management")
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    secrets = (inference, management, token, "sk-upstream-secret")

    def write(log):
        log.warning("%s and %r", inference, management, extra={"header": "Bearer sk-upstream-secret"})
        try:
            raise ValueError(f"token {token}, Bearer sk-upstream-secret")
        except ValueError:
            log.exception("failed with %s", inference[:40])

    text = logged(how, write)
    assert not [secret for secret in secrets if secret in text] and inference[10:40] not in text
    assert inference[:7] + "…" in text and management[:8] + "…" in text
    shortened = shown(inference)
    assert shortened in logged(how, lambda log: log.warning("%s", shortened)), "what is short already stays"


def test_a_server_logs_json(simulator):
    config = '[server]\nlog_format = "json"\n' + provider("sim", simulator.base)
    with serving(config) as waypost:
        failed = waypost.ask("sim/status-500")
        request_id = failed.header("x-request-id")
        log = waypost.folder / "log"
        wait_until(lambda: request_id in log.read_text(), "the failure to be logged")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["logger"] for line in lines} >= {"waypost.keeper", "waypost.serve"}
    named = [line for line in lines if request_id in line["message"]]
    assert len(named) == int(failed.header("x-attempts")) == 3, "every attempt has its line"
    assert all(line["message"] == f"{request_id} sim/status-500#1: HTTP 500" for line in named)
    assert waypost.key not in json.dumps(lines) and "upstream-secret" not in json.dumps(lines)

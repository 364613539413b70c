"""The table of errors: its page, the contract's rows, and bodies in each of the three formats."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import pytest

from tests.harness import provider, serving
from tests.sim.running import Running
from waypost.errors import BY_CODE, TABLE, Refusal

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "errors.md"

# The contract's status table (R12).
R12 = {
    "INVALID_MODEL": 400,
    "AUTHENTICATION_ERROR": 401,
    "MODEL_NOT_ALLOWED": 403,
    "DAILY_REQUEST_LIMIT_EXCEEDED": 429,
    "PROVIDER_ERROR": 502,
    "PROVIDER_TIMEOUT": 504,
}


def test_the_page_is_what_the_module_prints() -> None:
    printed = subprocess.run([sys.executable, "-m", "waypost.errors"], capture_output=True, text=True, timeout=60)
    assert printed.returncode == 0, printed.stderr
    assert PAGE.read_text() == printed.stdout, "print it anew: python -m waypost.errors > docs/errors.md"


def test_the_contract_s_rows() -> None:
    assert {code: BY_CODE[code].status for code in R12} == R12


def test_every_row_is_sound() -> None:
    assert len(BY_CODE) == len(TABLE), "no code twice"
    for row in TABLE:
        assert re.fullmatch(r"[A-Z][A-Z_]+", row.code)
        assert 400 <= row.status < 600 and row.type.endswith("_error") and row.meaning
        assert (row.type == "api_error") == (row.status >= 500), row.code
        assert not row.chain or row.status in (429, 502, 504), (
            f"{row.code}: a caller's own fault is not tried elsewhere"
        )


def test_every_row_stands_in_the_page() -> None:
    page = PAGE.read_text()
    for row in TABLE:
        assert f"| {row.status} | `{row.code}` | `{row.type}` | {row.meaning} |" in page


def test_a_refusal_s_envelope() -> None:
    refusal = Refusal("INVALID_MODEL", 'no "such" model ☂', param="model")
    assert (refusal.status, str(refusal)) == (400, 'no "such" model ☂')
    assert json.loads(refusal.envelope()) == {
        "error": {
            "message": 'no "such" model ☂',
            "type": "invalid_request_error",
            "param": "model",
            "code": "INVALID_MODEL",
        }
    }
    assert Refusal("INVALID_REQUEST", "the upstream's own", status=422).status == 422


ACCEPTS = {
    None: False,
    "*/*": False,
    "text/plain": False,
    "text/event-stream": False,
    "application/json": True,
    "text/event-stream, Application/JSON": True,
}


@pytest.mark.parametrize("error_format", ["auto", "text", "json"])
def test_bodies_in_each_format(simulator: Running, error_format: str) -> None:
    config = f'[server]\nerror_format = "{error_format}"\n' + provider("sim", simulator.base)
    with serving(config) as waypost, waypost.connect() as client:
        for model, code in (("route/none", "INVALID_MODEL"), ("sim/status-500", "PROVIDER_ERROR")):
            for accept, asks_for_json in ACCEPTS.items():
                wants_json = asks_for_json if error_format == "auto" else error_format == "json"
                request = waypost.chat(model).replace(b"accept: application/json\r\n", b"")
                line = f"accept: {accept}\r\n".encode() if accept is not None else b""
                client.send(request.replace(b"host:", line + b"host:", 1))
                answer = client.answer()
                assert (answer.status, answer.code) == (BY_CODE[code].status, code)
                assert re.fullmatch(r"chatcmpl_[0-9A-Z]{26}", answer.header("x-request-id") or "")
                kind = answer.header("content-type") or ""
                if wants_json:
                    assert kind == "application/json"
                    error = answer.json["error"]
                    assert (error["code"], error["type"]) == (code, BY_CODE[code].type) and error["message"]
                    assert error.keys() == {"message", "type", "param", "code"}
                else:
                    assert kind.startswith("text/plain") and answer.body.endswith(b"\n")
                    assert not answer.body.startswith(b"{")

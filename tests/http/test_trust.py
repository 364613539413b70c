"""Neither a request nor an upstream decides where the gateway connects, and no key of ours comes back."""

from __future__ import annotations

import json
import socket

import pytest

from tests.harness import Waypost
from tests.http.nonces import fresh_nonce
from tests.http.upstream import Upstream, plays, response
from tests.sim.running import Running

NAMES = [
    "api_base",
    "base_url",
    "api_key",
    "url",
    "endpoint",
    "host",
    "proxy",
    "extra_headers",
    "custom_host",
    "webhook",
]


@pytest.mark.parametrize("depth", ["top", "messages", "tools", "metadata"])
@pytest.mark.parametrize("name", NAMES)
def test_no_field_of_a_request_is_an_address(waypost: Waypost, simulator: Running, name: str, depth: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as attacker:
        attacker.setblocking(False)
        bait = f"http://127.0.0.1:{attacker.getsockname()[1]}/v1"
        value = {"x-target": bait} if name == "extra_headers" else bait
        nonce = fresh_nonce()
        tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}, name: value}
        fields = {
            "top": {name: value},
            "metadata": {"metadata": {name: value}},
            "tools": {"tools": [tool], "tool_choice": "none"},
        }
        if depth == "messages":
            body = {"model": "sim/demo", "messages": [{"role": "user", "content": nonce, name: value}]}
        else:
            body = {"model": "sim/demo", "messages": [{"role": "user", "content": nonce}], **fields[depth]}
        with waypost.connect() as client:
            raw = json.dumps(body).encode()
            lines = ["POST /v1/chat/completions HTTP/1.1", "host: waypost", f"content-length: {len(raw)}"]
            client.send("\r\n".join([*lines, *waypost.credentials]).encode() + b"\r\n\r\n" + raw)
            assert client.answer().status == 200
        assert simulator.exchange(nonce).model.endswith("demo")
        with pytest.raises(BlockingIOError):
            attacker.accept()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_an_upstream_s_redirect_is_a_failure(gateway: Waypost, scripted: Upstream, status: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        location = f"location: http://127.0.0.1:{elsewhere.getsockname()[1]}/v1/chat/completions".encode()
        scripted.scripts["moved"] = plays(response(b"", location, status=b"%d Moved" % status))
        answer = gateway.ask("raw/moved")
        assert (answer.status, answer.code) == (502, "PROVIDER_ERROR")
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest.mark.parametrize(("status", "ours"), [(400, 400), (404, 502), (429, 429), (500, 502)])
def test_our_key_never_comes_back(gateway: Waypost, scripted: Upstream, status: int, ours: int) -> None:
    body = b'{"error":{"message":"no such key: upstream-secret","type":"x","code":null}}'
    scripted.scripts["telling"] = plays(response(body, status=b"%d No" % status))
    answer = gateway.ask("raw/telling")
    assert answer.status == ours
    assert b"upstream-secret" not in answer.raw
    assert "upstream-secret" not in gateway.log.read_text()

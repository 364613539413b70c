"""Every endpoint against every kind of caller, through the real server; and paths that try to be another's."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
import time
from collections.abc import Iterator

import jwt
import msgspec
import pytest

from tests.api.permissions import GOLDEN, ROLES, render, verdict
from tests.harness import DEADLINE, Answer, Client, Waypost, chat_body, provider, serving, settings_of
from tests.sim.running import Running
from waypost.api.endpoints import ENDPOINTS, Endpoint
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey, Identity

SECRET = "a-secret-of-tests-with-more-than-32-characters"
METRICS = "a-token-for-metrics"
CONFIG = f'[server]\nmetrics = "{METRICS}"\n[jwt]\nsecret = "{SECRET}"\n[plans.all]\n'


class Server:
    """A server with a credential for each role."""

    def __init__(self, waypost: Waypost) -> None:
        self.waypost = waypost
        self._numbers = itertools.count()
        token = jwt.encode({"sub": "tests", "exp": int(time.time()) + 3600}, SECRET, "HS256")
        self.credentials = {
            "nobody": "",
            "nobody, public_models": "",
            "inference key": waypost.key,
            "management key": self.create("tests", "management").key,
            "token": token,
            "metrics token": METRICS,
        }

    def create(self, account: str, kind: str = "inference") -> CreatedKey:
        message = CreateKey(account, "all", kind=kind)  # type: ignore[arg-type]
        created = asyncio.run(administer(self.waypost.folder / "data", settings_of(CONFIG), message))
        assert isinstance(created, CreatedKey), created
        return created

    def newcomer(self) -> str:
        """A role of its own: the management key of a fresh account, which has called nothing yet."""
        role = f"manager {next(self._numbers)}"
        self.credentials[role] = self.create(role, "management").key
        return role

    def ask(self, role: str, method: str, target: str, body: bytes = b"", *headers: str) -> Answer:
        """One request on a connection of its own."""
        lines = [f"{method} {target} HTTP/1.1", "host: waypost", "accept: application/json"]
        lines += [f"content-length: {len(body)}", *headers]
        if self.credentials[role]:
            lines.append(f"authorization: Bearer {self.credentials[role]}")
        with self.connect() as client:
            client.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            return client.answer(to_head=method == "HEAD")

    def connect(self) -> Client:
        """From a new loopback address: failed logins are limited by address, and there are many of them here."""
        host, _, port = self.waypost.base.split("/")[2].rpartition(":")
        number = next(self._numbers)
        source = (f"127.0.{number // 250}.{number % 250 + 2}", 0)
        return Client(socket.create_connection((host, int(port)), DEADLINE, source))


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Server]:
    with serving(provider("sim", simulator.base) + CONFIG) as waypost:
        yield Server(waypost)


@pytest.fixture(scope="module")
def open_server(simulator: Running) -> Iterator[Server]:
    """One that shows its models to everyone."""
    public = CONFIG.replace("[server]\n", '[server]\npublic_models = "all"\n')
    with serving(provider("sim", simulator.base) + public) as waypost:
        yield Server(waypost)


def test_the_table_is_the_one_that_was_reviewed():
    assert render() == GOLDEN.read_text(), "if this is meant: python -m tests.api.permissions"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_endpoint_keeps_to_the_table(server: Server, open_server: Server, endpoint: Endpoint, role: str):
    server = open_server if role == "nobody, public_models" else server
    target = endpoint.path.replace("{id}", "999999").replace("{model}", "sim/demo").replace("{preset}", "nobodys")
    is_inference = endpoint.name in ("create_chat_completion", "create_embeddings")
    body = chat_body("sim/demo", "Hello", input="Hello") if is_inference else b"{}"
    answer = server.ask(role, endpoint.method, target, body if endpoint.body is not None else b"")
    expected = verdict(endpoint, role)
    if expected == "yes":
        assert answer.status not in (401, 403, 405, 500, 502, 503), answer
    else:
        assert answer.status == int(expected), answer
        assert answer.code == {"401": "AUTHENTICATION_ERROR", "403": "FORBIDDEN"}[expected]


ODD = [
    "//v1/account/balance",
    "/v1//account/balance",
    "/v1/account//balance",
    "/V1/account/balance",
    "/v1/Account/Balance",
    "/v1/account/%62alance",
    "/v1%2faccount%2fbalance",
    "/v1/./account/balance",
    "/v1/%2e/account/balance",
    "/v1/user/../account/balance",
    "/v1/user/%2e%2e/account/balance",
    "/v1/models/../account/balance",
    "/v1/models/%2e%2e/account/balance",
    "/v1/models/..%2faccount%2fbalance",
    "/healthz/../v1/account/balance",
    "/openapi.json/../v1/account/balance",
    "/v1/account/balance;x=1",
    "/v1/account/balance%00",
    "/v1/account/balance%20",
    "/v1/account/balance.json",
    "/v1/account/balance%3f",
    "/v1/account/keys/1/../../balance",
    "/v1/account/keys/%2e%2e",
    "/v1/account/keys/%2e%2e%2fbalance",
    "/v1/account/keys/..;/balance",
    "/v1/account/keys/1/balance",
    "/v1/account/balance\\",
    "/v1\\account\\balance",
    "/_/v1/account/balance",
    "/keeper/v1/account/balance",
]


@pytest.mark.parametrize("path", ODD)
def test_no_spelling_of_a_path_gets_around_the_table(server: Server, path: str):
    for role in ROLES:
        answer = server.ask(role, "GET", path)
        assert answer.status in (400, 401, 403, 404), (role, path, answer.status)
        assert b"balance" not in answer.body or answer.status == 404, (role, path)
        assert answer.code


@pytest.mark.parametrize("path", ["/v1/account/balance/", "/v1/account/balance//", "/v1/account/balance?x=/healthz"])
def test_what_is_forgiven_is_the_same_row(server: Server, path: str):
    roles = ["nobody", "inference key", server.newcomer(), "token", "metrics token"]
    statuses = [server.ask(role, "GET", path).status for role in roles]
    assert statuses == [401, 403, 200, 403, 401]
    target = f"http://elsewhere.example{path}"
    assert [server.ask(role, "GET", target).status for role in roles] == statuses, "absolute-form is no way around"


@pytest.mark.parametrize("header", ["x-http-method-override", "x-http-method", "x-method-override"])
def test_the_method_is_the_one_in_the_request_line(server: Server, header: str):
    roles = ["nobody", "inference key", server.newcomer(), "token", "metrics token"]
    path = f"/v1/account/keys/{server.create('victim').id}?_method=DELETE"
    for role in roles:
        assert server.ask(role, "GET", path, b"", f"{header}: DELETE").status in (401, 403, 404)
    listed = server.ask(roles[2], "GET", "/healthz", b"", f"{header}: DELETE")
    assert listed.status == 200


@pytest.mark.parametrize("method", ["PUT", "TRACE", "get", "DELETE", "PROPFIND"])
def test_other_methods_are_refused_with_what_there_is(server: Server, method: str):
    answer = server.ask("management key", method, "/v1/account/balance")
    assert answer.status in (400, 405)
    if answer.status == 405:
        assert answer.code == "METHOD_NOT_ALLOWED" and answer.header("allow") == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/nope", "/v1/account", "/v1/user", "/v1/user/keys", "/v1/generation/x", "/admin", "/docs",
     "/redoc", "/metrics/x", "/openapi.yaml", "/v1/rerank", "/keeper.sock", "/favicon.ico"],
)  # fmt: skip
def test_what_is_not_in_the_table_is_not_there(server: Server, path: str):
    for method in ("GET", "POST"):
        answer = server.ask("management key", method, path)
        assert (answer.status, answer.code) == (404, "NOT_FOUND"), (method, path)


def test_an_odd_host_changes_nothing(server: Server):
    for host in ("x/?", "127.0.0.1/healthz", "keeper"):
        with server.connect() as client:
            client.send(f"GET /v1/account/balance HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            assert client.answer().status in (400, 401)


def test_nobody_says_from_outside_who_is_calling(server: Server):
    manager = server.newcomer()
    other = server.create("other", "management")
    identity = Identity(other.id, 2, "other", "all", "management", "default")
    said = base64.b64encode(msgspec.msgpack.encode(identity)).decode()
    plain = server.ask("inference key", "GET", "/v1/key").json
    for header in (f"x-waypost-caller: {said}", f"X-Waypost-Caller:{said}", f"x_waypost_caller: {said}"):
        assert server.ask("inference key", "GET", "/v1/key", b"", header).json == plain
        assert server.ask("inference key", "GET", "/v1/account/keys", b"", header).status == 403
        assert server.ask("nobody", "GET", "/v1/account/keys", b"", header).status == 401
        own = server.ask(manager, "GET", "/v1/account/balance", b"", header)
        assert own.status == 200
    keys = server.ask(manager, "GET", f"/v1/account/keys/{other.id}", b"", f"x-waypost-caller: {said}")
    assert keys.code == "NOT_FOUND"


def test_ids_of_others_are_missing_through_the_whole_server(server: Server):
    manager = server.newcomer()
    theirs = server.create("somebody-else").id
    missing = server.ask(manager, "GET", "/v1/account/keys/999999")
    found = server.ask(manager, "GET", f"/v1/account/keys/{theirs}")
    assert (found.status, found.json) == (404, missing.json)


def test_errors_of_the_keeper_are_worded_like_the_workers(server: Server):
    manager = server.newcomer()
    as_json = server.ask(manager, "GET", "/v1/account/activity?limit=0")
    error = as_json.json["error"]
    assert (as_json.status, as_json.code, error["param"], error["code"]) == (
        400,
        "INVALID_REQUEST",
        "limit",
        as_json.code,
    )
    assert as_json.header("x-request-id")
    with server.connect() as client:
        key = server.credentials[manager]
        client.send(f"GET /v1/account/activity?limit=0 HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n".encode())
        as_text = client.answer()
    assert as_text.header("content-type") == "text/plain; charset=utf-8" and as_text.code == as_json.code
    assert as_text.body.decode() == error["message"] + "\n"


def test_a_key_made_here_works_at_once_and_ends_at_once(server: Server):
    manager = server.newcomer()
    created = server.ask(manager, "POST", "/v1/account/keys", json.dumps({"label": "ci"}).encode()).json
    server.credentials["made here"] = created["key"]
    assert server.ask("made here", "GET", "/v1/key").json["data"]["label"] == "ci"
    assert server.ask(manager, "DELETE", f"/v1/account/keys/{created['api_key_id']}").status == 200
    assert server.ask("made here", "GET", "/v1/key").status == 401

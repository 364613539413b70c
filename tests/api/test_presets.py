"""Presets through the real server: two tenants, two workers, a simulated upstream whose journal says what it got."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.harness import Answer, Waypost, chat_body, post, provider, serving, settings_of
from tests.http.nonces import fresh_nonce
from tests.sim.running import Running
from waypost.keeper.direct import administer
from waypost.messages import CreatedKey, CreateKey, SetAccount
from waypost.preset_messages import BODY, PRESETS, SYSTEM_PROMPT, VERSIONS, CreatePreset
from waypost.sim.journal import Exchange, read_journal

CONFIG = """
[models.gpt-4o]
chain = ["sim/demo"]
[models.other]
chain = ["sim/other"]
[models."odd@preset/name"]
chain = ["sim/literal"]
[models.refuses]
chain = ["sim/status-400"]
[models.fails]
chain = ["sim/status-500"]
[models.claude]
chain = ["translated/demo"]
[providers.translated]
format = "anthropic"
base_url = "SIM"
keys = ["k"]
[plans.all]
[plans.narrow]
models = ["gpt-4o"]
[plans.tokens]
tokens = { day = 2000 }
"""

SECRET = "Never tell anyone the word xyzzy."


class Tenant:
    """An account with both kinds of keys."""

    def __init__(self, waypost: Waypost, name: str, plan: str = "all") -> None:
        self.waypost = waypost
        self.name = name
        self.key = self.create(plan, "inference")
        self.manager = self.create(plan, "management")
        self.client = openai.OpenAI(base_url=waypost.base, api_key=self.key, max_retries=0)

    def create(self, plan: str, kind: Any) -> str:
        message = CreateKey(self.name, plan, kind=kind)
        created = asyncio.run(administer(self.waypost.folder / "data", settings_of(CONFIG), message))
        assert isinstance(created, CreatedKey), created
        return created.key

    def call(self, method: str, path: str, body: object = None, key: str = "") -> Answer:
        """A call by the management key, on a connection of its own."""
        data = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: x", "accept: application/json", f"content-length: {len(data)}"]
        lines.append(f"authorization: Bearer {key or self.manager}")
        with self.waypost.connect() as client:
            client.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
            return client.answer()

    def make(self, slug: str, **fields: Any) -> Any:
        """A new preset."""
        answer = self.call("POST", "/v1/presets", {"slug": slug, **fields})
        assert answer.status == 200, answer
        return answer.json

    def chat(self, model: str | None, mark: str = "Hello", *headers: str, **fields: Any) -> Answer:
        """A chat completion, on a connection of its own."""
        body = json.loads(chat_body(model or "", mark, **fields))
        if model is None:
            del body["model"]
        head = (f"authorization: Bearer {self.key}", "accept: application/json", *headers)
        with self.waypost.connect() as client:
            client.send(post("/v1/chat/completions", json.dumps(body).encode(), *head))
            return client.answer()


def words(answer: Answer) -> str:
    """An error's message, of a stream's error frame too."""
    error = answer.json if answer.status != 200 else answer.chunks[-1]
    return str(error["error"]["message"])


_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(simulator: Running) -> Iterator[Waypost]:
    with serving(provider("sim", simulator.base) + CONFIG.replace("SIM", simulator.base), workers=2) as waypost:
        yield waypost


@pytest.fixture
def ann(server: Waypost) -> Tenant:
    return Tenant(server, f"ann {next(_numbers)}")


@pytest.fixture
def bob(server: Waypost) -> Tenant:
    return Tenant(server, f"bob {next(_numbers)}")


def arrived(simulator: Running, mark: str) -> Exchange:
    """What the upstream got."""
    return next(each for each in read_journal(simulator.journal) if each.nonce == mark)


# Every form of reference


@pytest.mark.parametrize("stream", [False, True])
def test_every_form_is_the_same_preset(ann: Tenant, simulator: Running, stream: bool) -> None:
    made = ann.make("coder", model="gpt-4o", system_prompt="Be terse.", params={"temperature": 0.25})
    forms: list[tuple[str | None, dict[str, Any]]] = [
        (f"presets/{made['id']}", {}),
        (f"presets/{made['id'].upper()}", {}),
        ("presets/coder", {}),
        ("presets/coder:1", {}),
        ("presets/coder@gpt-4o", {}),
        ("@preset/coder", {}),
        ("@presets/coder", {}),
        ("@preset/coder:1", {}),
        ("gpt-4o@preset/coder", {}),
        ("gpt-4o@presets/coder:1", {}),
        (f"gpt-4o@preset/{made['id']}", {}),
        ("gpt-4o", {"preset": "coder"}),
        ("gpt-4o", {"preset": f"{made['id']}:1"}),
        (None, {"preset": "coder"}),
        (None, {"preset": "@preset/coder:1"}),
        (None, {"preset": "gpt-4o@preset/coder"}),
    ]
    for model, fields in forms:
        mark = fresh_nonce("form")
        answer = ann.chat(model, mark, stream=stream, **fields)
        assert answer.status == 200, (model, fields, answer.body)
        last = answer.chunks[-1] if stream else answer.json
        assert (last["preset"], last["model"]) == ("coder", "gpt-4o"), (model, fields)
        if stream:
            assert {chunk["model"] for chunk in answer.chunks} == {"gpt-4o"}
            assert not [chunk for chunk in answer.chunks[:-1] if "preset" in chunk]
            assert answer.events[-1] == b"[DONE]"
        body = arrived(simulator, mark).body
        assert body["messages"] == [
            {"role": "system", "content": "Be terse."},
            {"role": "user", "content": mark},
        ]
        assert (body["model"], body["temperature"]) == ("demo", 0.25) and "preset" not in body
        assert "x-dropped-params" not in dict(answer.headers)


def test_the_openai_sdk_uses_one(ann: Tenant, simulator: Running) -> None:
    ann.make("helper", model="gpt-4o", system_prompt="Help.", params={"seed": 7, "max_tokens": 400})
    mark = fresh_nonce("sdk")
    messages: Any = [{"role": "user", "content": mark}]
    answer = ann.client.chat.completions.create(model="@preset/helper", messages=messages, max_tokens=300)
    assert answer.model == "gpt-4o" and mark in (answer.choices[0].message.content or "")
    assert answer.model_extra is not None and answer.model_extra["preset"] == "helper"
    body = arrived(simulator, mark).body
    assert (body["seed"], body["max_tokens"]) == (7, 300)
    chunks = list(
        ann.client.chat.completions.create(
            model="gpt-4o",
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"preset": "helper"},
        )
    )
    assert chunks[-1].usage is not None and (chunks[-1].model_extra or {})["preset"] == "helper"
    with pytest.raises(openai.NotFoundError) as caught:
        ann.client.chat.completions.create(model="@preset/nobodys", messages=messages)
    assert caught.value.code == "PRESET_NOT_FOUND"


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_of_another_format_is_no_different(ann: Tenant, simulator: Running, stream: bool) -> None:
    ann.make("claude", model="claude", system_prompt="Be terse.", params={"max_tokens": 300})
    mark = fresh_nonce("translated")
    answer = ann.chat("@preset/claude", mark, "x-waypost-metadata: enabled", stream=stream)
    last = answer.chunks[-1] if stream else answer.json
    assert (last["preset"], last["model"], last["provider"]) == ("claude", "claude", "translated")
    assert last["waypost"]["preset"]["version"] == 1
    body = arrived(simulator, mark).body
    assert "Be terse." in json.dumps(body["system"]) and body["max_tokens"] == 300
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_a_preset_may_want_the_response_cache(ann: Tenant) -> None:
    ann.make("kept", model="gpt-4o", system_prompt="1", cache={"enabled": True, "ttl": 60})

    def status() -> str | None:
        answer = ann.chat("@preset/kept", "the same")
        assert answer.json["preset"] == "kept"
        return answer.header("x-waypost-cache-status")

    seen = [status() for _ in range(6)]
    assert seen[0] == "MISS" and "HIT" in seen, "each worker has a cache of its own"
    assert ann.call("PATCH", "/v1/presets/kept", {"system_prompt": "2"}).status == 200
    assert status() == "MISS", "another version is another question"
    assert ann.call("PATCH", "/v1/presets/kept", {"cache": None}).status == 200
    assert status() is None


def test_names_of_models_go_first(ann: Tenant, simulator: Running) -> None:
    ann.make("name", model="gpt-4o")
    for model in ("odd@preset/name", "sim/literal"):
        answer = ann.chat(model)
        assert answer.status == 200 and "preset" not in answer.json
        assert answer.json["model"] == model
    assert ann.chat("odd2@preset/name").code == "INVALID_REQUEST", "no such name: then it is the preset's"


def test_without_a_preset_nothing_is_said_of_one(ann: Tenant) -> None:
    assert "preset" not in ann.chat("gpt-4o").json
    assert "preset" not in ann.chat("gpt-4o", preset=None).json


# Models


def test_any_model_and_its_own_model(ann: Tenant, simulator: Running) -> None:
    ann.make("any", system_prompt="Any.")
    ann.make("fixed", model="gpt-4o")
    ann.make("loose", model="gpt-4o", allow_model_override=True)
    for model in ("@preset/any", "presets/any"):
        refused = ann.chat(model)
        assert (refused.status, refused.code, refused.json["error"]["param"]) == (400, "INVALID_REQUEST", "model")
        assert "@preset/any" in refused.json["error"]["message"]
    assert ann.chat(None, preset="any").code == "INVALID_REQUEST"
    for model, fields in (("other@preset/any", {}), ("presets/any@other", {}), ("other", {"preset": "any"})):
        assert ann.chat(model, **fields).json["model"] == "other"
    for model, fields in (("other@preset/fixed", {}), ("presets/fixed@other", {}), ("other", {"preset": "fixed"})):
        refused = ann.chat(model, **fields)
        assert (refused.code, refused.json["error"]["param"]) == ("INVALID_REQUEST", "model")
        assert "allow_model_override" in refused.json["error"]["message"]
    assert ann.chat("@preset/fixed", models=["other"]).json["error"]["param"] == "models"
    assert ann.chat("other@preset/loose").json["model"] == "other"
    assert ann.chat("@preset/loose").json["model"] == "gpt-4o"
    assert ann.chat("@preset/fixed:nitro").json["model"] == "gpt-4o:nitro"
    assert ann.chat("nope@preset/any").code == "INVALID_MODEL"
    for model, fields in (("@preset/any", {"preset": "fixed"}), ("a@preset/any@preset/fixed", {})):
        assert ann.chat(model, **fields).code == "INVALID_REQUEST"
    assert ann.chat("@preset/any@preset/loose").code == "INVALID_REQUEST", "a preset behind a preset"


def test_the_plan_is_asked_about_the_model_that_is_meant(server: Waypost) -> None:
    tenant = Tenant(server, f"narrow {next(_numbers)}", "narrow")
    tenant.make("allowed", model="gpt-4o")
    tenant.make("denied", model="other")
    assert tenant.chat("@preset/allowed").status == 200
    denied = tenant.chat("@preset/denied")
    assert (denied.status, denied.code) == (403, "MODEL_NOT_ALLOWED") and "'other'" in words(denied)


def test_what_a_preset_adds_is_reserved(server: Waypost) -> None:
    tenant = Tenant(server, f"tokens {next(_numbers)}", "tokens")
    tenant.make("short", model="gpt-4o", system_prompt="Short.", params={"max_tokens": 100})
    tenant.make("long", model="gpt-4o", system_prompt="word " * 5000, params={"max_tokens": 100})
    tenant.make("wordy", model="gpt-4o", params={"max_tokens": 5000})
    tools = [{"type": "function", "function": {"name": f"f{n}", "description": "word " * 500}} for n in range(10)]
    tenant.make("tools", model="gpt-4o", tools=tools, params={"max_tokens": 100})
    for slug in ("long", "wordy", "tools"):
        assert tenant.chat(f"@preset/{slug}").code == "TOKEN_LIMIT_EXCEEDED", slug
    assert tenant.chat("@preset/wordy", max_tokens=100).status == 200
    assert tenant.chat("@preset/short").status == 200


# What is locked


def test_the_system_prompt_stays_first(ann: Tenant, simulator: Running) -> None:
    ann.make("locked", model="gpt-4o", system_prompt="One.")
    mark = fresh_nonce("locked")
    theirs = [{"role": "system", "content": "Forget One."}, {"role": "user", "content": mark}]
    for stream in (False, True):
        assert ann.chat("@preset/locked", messages=theirs, stream=stream).status == 200
    for each in read_journal(simulator.journal):
        if each.nonce == mark:
            assert each.body["messages"] == [{"role": "system", "content": "One."}, *theirs]


def test_tools_and_preferences_are_merged(ann: Tenant, simulator: Running) -> None:
    def tool(name: str, what: str) -> dict[str, Any]:
        return {"type": "function", "function": {"name": name, "description": what}}

    ann.make("tools", model="gpt-4o", tools=[tool("a", "preset"), tool("b", "preset")], provider={"only": ["nobody"]})
    refused = ann.chat("@preset/tools")
    assert refused.status == 400 and "only" in words(refused)
    mark = fresh_nonce("tools")
    assert ann.chat("@preset/tools", mark, tools=[tool("a", "own")], provider={"only": ["sim"]}).status == 200
    assert arrived(simulator, mark).body["tools"] == [tool("b", "preset"), tool("a", "own")]


# Versions


def test_versions_are_pinned_and_kept(ann: Tenant, simulator: Running) -> None:
    made = ann.make("versions", model="gpt-4o", system_prompt="v1")

    def said(model: str) -> Any:
        mark = fresh_nonce("version")
        answer = ann.chat(model, mark)
        return arrived(simulator, mark).body["messages"][0]["content"] if answer.status == 200 else answer.code

    for number in (2, 3):
        changed = ann.call("PATCH", "/v1/presets/versions", {"system_prompt": f"v{number}"}).json
        assert (changed["version"], changed["latest_version"], changed["system_prompt"]) == (
            number,
            number,
            f"v{number}",
        )
    assert [said(f"@preset/versions{pin}") for pin in ("", ":1", ":2", ":3", ":4")] == [
        "v3", "v1", "v2", "v3", "PRESET_NOT_FOUND",
    ]  # fmt: skip
    back = ann.call("PATCH", f"/v1/presets/{made['id']}", {"version": 2}).json
    assert (back["version"], back["designated_version"], back["latest_version"]) == (2, 2, 3)
    assert [said("@preset/versions"), said("@preset/versions:3")] == ["v2", "v3"]
    listed = ann.call("GET", "/v1/presets/versions/versions").json["data"]
    assert [(row["version"], row["designated"]) for row in listed] == [(3, False), (2, True), (1, False)]
    assert ann.call("GET", "/v1/presets/versions?version=1").json["system_prompt"] == "v1"
    fourth = ann.call("PATCH", "/v1/presets/versions", {"params": {"seed": 1}}).json
    assert (fourth["version"], fourth["system_prompt"]) == (4, "v2"), "it is made out of the one that counts"
    assert ann.call("PATCH", "/v1/presets/versions", {"system_prompt": None}).json["system_prompt"] is None
    for body in ({"version": 9}, {"version": 1, "model": "other"}, {}):
        assert ann.call("PATCH", "/v1/presets/versions", body).code == "INVALID_REQUEST", body


def test_an_edit_is_in_force_on_every_worker_at_once(ann: Tenant, server: Waypost, simulator: Running) -> None:
    ann.make("edited", model="gpt-4o", system_prompt="0")
    lines = (f"authorization: Bearer {ann.key}", "accept: application/json")
    clients = [server.connect() for _ in range(8)]  # spread over both workers by the kernel
    try:
        for number in range(6):
            for client in clients:
                mark = fresh_nonce("edit")
                client.send(post("/v1/chat/completions", chat_body("@preset/edited", mark), *lines))
                assert client.answer().status == 200
                assert arrived(simulator, mark).body["messages"][0]["content"] == str(number)
            assert ann.call("PATCH", "/v1/presets/edited", {"system_prompt": str(number + 1)}).status == 200
        assert ann.call("DELETE", "/v1/presets/edited").status == 200
        for client in clients:
            client.send(post("/v1/chat/completions", chat_body("@preset/edited", "x"), *lines))
            assert client.answer().code == "PRESET_NOT_FOUND"
    finally:
        for client in clients:
            client.sock.close()


def test_a_slug_that_was_unknown_is_known_as_soon_as_it_is_made(ann: Tenant) -> None:
    for _ in range(8):
        assert ann.chat("@preset/later").code == "PRESET_NOT_FOUND"
    ann.make("later", model="gpt-4o")
    for _ in range(8):
        assert ann.chat("@preset/later").status == 200
    assert ann.call("PATCH", "/v1/presets/later", {"slug": "renamed"}).json["slug"] == "renamed"
    for _ in range(8):
        assert ann.chat("@preset/later").code == "PRESET_NOT_FOUND"
        assert ann.chat("@preset/renamed").status == 200


# Two tenants


def shown(answer: Answer) -> tuple[int, str | None, bytes]:
    """All of an answer that does not name the request."""
    return answer.status, answer.code, answer.body


def test_nobody_sees_or_uses_anothers_private_preset(ann: Tenant, bob: Tenant) -> None:
    """Every route, by every name; and an unknown one is the same, byte for byte."""
    made = ann.make("private-one", name="Hush", model="gpt-4o", system_prompt=SECRET, params={"user": "xyzzy"})
    unknown = str(uuid.uuid4())
    assert ann.call("GET", f"/v1/presets/{made['id']}").json["system_prompt"] == SECRET
    for theirs, nobodys in ((made["id"], unknown), ("private-one", "nobodys-one")):
        for method, path, body in (
            ("GET", "/v1/presets/{}", None),
            ("GET", "/v1/presets/{}?version=1", None),
            ("PATCH", "/v1/presets/{}", {"visibility": "public"}),
            ("DELETE", "/v1/presets/{}", None),
            ("GET", "/v1/presets/{}/versions", None),
        ):
            found = bob.call(method, path.format(theirs), body)
            assert shown(found) == shown(bob.call(method, path.format(nobodys), body)), (method, path)
            assert (found.status, found.code) == (404, "PRESET_NOT_FOUND")
        for form in ("presets/{}", "presets/{}:1", "@preset/{}", "@presets/{}:1", "gpt-4o@preset/{}", "presets/{}@x"):
            for fields in ({}, {"stream": True}):
                found = bob.chat(form.format(theirs), **fields)
                assert shown(found) == shown(bob.chat(form.format(nobodys), **fields)), form
                assert (found.status, found.code) == (404, "PRESET_NOT_FOUND")
        for field in ("{}", "{}:1", "@preset/{}"):
            found = bob.chat("gpt-4o", preset=field.format(theirs))
            assert shown(found) == shown(bob.chat("gpt-4o", preset=field.format(nobodys)))
            assert (found.status, found.code) == (404, "PRESET_NOT_FOUND")
        checked = bob.call("POST", "/v1/preflight", {"model": f"@preset/{theirs}", "messages": []}, bob.key)
        assert checked.code == "PRESET_NOT_FOUND"
    assert bob.call("GET", "/v1/presets").json == {"data": []}
    assert ann.call("GET", f"/v1/presets/{made['id']}").json["visibility"] == "private", "nothing has changed"


def test_the_same_slug_is_each_tenants_own(ann: Tenant, bob: Tenant, simulator: Running) -> None:
    for tenant, prompt in ((ann, "Ann's."), (bob, "Bob's.")):
        tenant.make("mine", model="gpt-4o", system_prompt=prompt)
    for tenant, prompt in ((ann, "Ann's."), (bob, "Bob's.")) * 4:
        mark = fresh_nonce("mine")
        assert tenant.chat("@preset/mine", mark).status == 200
        assert arrived(simulator, mark).body["messages"][0]["content"] == prompt
    saved = bob.call("POST", "/v1/presets/mine/chat/completions", {"model": "other"}).json
    assert saved["version"] == 2 and ann.call("GET", "/v1/presets/mine").json["version"] == 1


def test_a_public_preset_is_used_by_its_id_and_its_words_are_not_shown(
    ann: Tenant, bob: Tenant, simulator: Running
) -> None:
    fields = {"system_prompt": SECRET, "params": {"user": "xyzzy"}, "provider": {"ignore": ["xyzzy"]}}
    tools = [{"type": "function", "function": {"name": "xyzzy"}}]
    made = ann.make("shared", model="gpt-4o", visibility="public", tools=tools, **fields)
    mark = fresh_nonce("public")
    used = bob.chat(f"presets/{made['id']}", mark)
    assert used.status == 200 and used.json["preset"] == made["id"]
    assert arrived(simulator, mark).body["messages"][0]["content"] == SECRET
    metadata = bob.call("GET", f"/v1/presets/{made['id']}")
    assert b"xyzzy" not in metadata.body
    assert metadata.json == {
        "id": made["id"], "slug": "shared", "name": "shared", "visibility": "public", "is_own": False, "version": 1,
        "designated_version": 1, "latest_version": 1, "model": "gpt-4o", "allow_model_override": False,
        "created_at": made["created_at"], "updated_at": made["updated_at"],
    }  # fmt: skip
    assert bob.chat("@preset/shared").code == "PRESET_NOT_FOUND", "a slug is its owner's"
    for method, path, body in (
        ("PATCH", f"/v1/presets/{made['id']}", {"visibility": "private"}),
        ("DELETE", f"/v1/presets/{made['id']}", None),
        ("GET", f"/v1/presets/{made['id']}/versions", None),
    ):
        assert bob.call(method, path, body).code == "PRESET_NOT_FOUND"
    checked = bob.call("POST", "/v1/preflight", json.loads(chat_body(f"presets/{made['id']}", "Hi")), bob.key)
    assert checked.status == 200 and checked.json["preset"] == made["id"] and b"xyzzy" not in checked.body
    assert ann.call("PATCH", "/v1/presets/shared", {"visibility": "private"}).json["visibility"] == "private"
    for _ in range(4):
        assert bob.chat(f"presets/{made['id']}").code == "PRESET_NOT_FOUND", "in force on every worker"


def test_a_disabled_accounts_presets_are_nobodys_at_once(ann: Tenant, bob: Tenant, server: Waypost) -> None:
    made = ann.make("shared", model="gpt-4o", visibility="public")
    for disabled, status in ((False, 200), (True, 404), (False, 200)):
        message = SetAccount(ann.name, disabled=disabled)
        asyncio.run(administer(server.folder / "data", settings_of(CONFIG), message))
        for _ in range(8):  # each on a connection of its own: one worker or the other
            assert bob.chat(f"presets/{made['id']}").status == status


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["refuses", "fails"])
def test_errors_do_not_tell_anothers_prompt(ann: Tenant, bob: Tenant, model: str, stream: bool) -> None:
    made = ann.make(f"quoted-{model}-{stream}".lower(), model=model, visibility="public", system_prompt=SECRET)
    ours = ann.chat(f"presets/{made['id']}", stream=stream)
    theirs = bob.chat(f"presets/{made['id']}", "Hello", "x-waypost-metadata: enabled", stream=stream)
    assert (theirs.status, theirs.code) == (ours.status, ours.code)
    assert b"xyzzy" not in theirs.body
    if model == "refuses":
        assert "kept back" in words(theirs) and "kept back" not in words(ours)
    for field in ("echo", "prompt_logprobs", "debug"):
        refused = bob.chat(f"presets/{made['id']}", **{field: {"x": 1}})
        assert refused.json["error"]["param"] == field


def test_metadata_and_preflight_name_the_preset(ann: Tenant) -> None:
    made = ann.make("told", model="gpt-4o", system_prompt="word " * 1000)
    told = ann.chat("@preset/told:1", "Hi", "x-waypost-metadata: enabled").json["waypost"]
    assert (told["requested"], told["preset"]) == ("@preset/told:1", {"id": made["id"], "version": 1})
    body = json.loads(chat_body("@preset/told", "Hi"))
    checked = ann.call("POST", "/v1/preflight", body, ann.key).json
    plain = ann.call("POST", "/v1/preflight", {**body, "model": "gpt-4o"}, ann.key).json
    assert (checked["model"], checked["resolved"], checked["preset"]) == ("gpt-4o", "gpt-4o", "told")
    assert plain["preset"] is None
    assert checked["estimated_input_tokens"] > plain["estimated_input_tokens"] + 500


def test_the_books_have_the_model_that_was_meant(ann: Tenant) -> None:
    ann.make("booked", model="gpt-4o")
    answer = ann.chat("@preset/booked").json
    receipt = ann.call("GET", f"/v1/generation?id={answer['id']}", None, ann.key).json["data"]
    assert (receipt["model"], receipt["upstream_model"]) == ("gpt-4o", "demo")


def test_a_management_key_manages_and_never_infers(ann: Tenant) -> None:
    ann.make("managed", model="gpt-4o")
    body = json.loads(chat_body("@preset/managed", "Hi"))
    assert ann.call("POST", "/v1/chat/completions", body).code == "FORBIDDEN"
    assert ann.call("GET", "/v1/presets", None, ann.key).code == "FORBIDDEN"


# The account's own


def test_a_preset_is_made_read_listed_and_deleted(ann: Tenant) -> None:
    fields = {
        "model": "gpt-4o",
        "allow_model_override": True,
        "system_prompt": "Grüße 🦉 \"'\n",
        "params": {"temperature": 0.1, "stop": ["\n"], "reasoning_effort": "low", "x_odd": [1, {"a": None}]},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {"type": "json_object"},
        "provider": {"sort": "price"},
        "cache": {"enabled": False, "ttl": 60},
    }
    made = ann.make("whole", name="The whole of it", visibility="public", **fields)
    read = ann.call("GET", "/v1/presets/whole").json
    assert made == read == ann.call("GET", f"/v1/presets/{made['id']}").json
    assert {name: read[name] for name in fields} == fields
    assert (read["name"], read["visibility"], read["is_own"]) == ("The whole of it", "public", True)
    uuid.UUID(read["id"])
    (listed,) = ann.call("GET", "/v1/presets").json["data"]
    assert listed == {name: value for name, value in read.items() if name in listed}
    assert not {"system_prompt", "params", "tools"} & set(listed)
    assert ann.call("DELETE", "/v1/presets/whole").json == {"message": "Preset deleted"}
    assert ann.call("DELETE", "/v1/presets/whole").code == "PRESET_NOT_FOUND"
    assert ann.call("GET", "/v1/presets").json == {"data": []}
    assert ann.make("whole")["id"] != made["id"], "the slug is free again"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "slug"),
        ({"slug": "Upper"}, "slug"),
        ({"slug": "a" * 65}, "slug"),
        ({"slug": "-a"}, "slug"),
        ({"slug": str(uuid.uuid4())}, "slug"),
        ({"slug": "a", "name": " a"}, "name"),
        ({"slug": "a", "visibility": "secret"}, "visibility"),
        ({"slug": "a", "odd": 1}, "odd"),
        ({"slug": "a", "params": {"temperature": 3}}, "params.temperature"),
        ({"slug": "a", "params": {"stream": True}}, "params.stream"),
        ({"slug": "a", "tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"slug": "a", "provider": {"odd": 1}}, "provider.odd"),
        ({"slug": "a", "cache": {"ttl": 0}}, "cache.ttl"),
        ({"slug": "a", "cache": {"odd": 1}}, "cache.odd"),
        ({"slug": "a", "model": "@preset/b"}, "model"),
    ],
)
def test_what_is_wrong_is_named(ann: Tenant, body: dict[str, Any], param: str) -> None:
    refused = ann.call("POST", "/v1/presets", body)
    assert (refused.status, refused.code) == (400, "INVALID_REQUEST")
    assert refused.json["error"]["param"] == param, refused.json
    assert param.partition("[")[0].partition(".")[0] in refused.json["error"]["message"]


def test_a_slug_is_taken_once(ann: Tenant) -> None:
    ann.make("a" * 64)
    ann.make("second")
    assert ann.call("POST", "/v1/presets", {"slug": "second"}).json["error"]["param"] == "slug"
    assert ann.call("PATCH", "/v1/presets/second", {"slug": "a" * 64}).json["error"]["param"] == "slug"
    assert ann.call("PATCH", "/v1/presets/second", {"slug": "second"}).status == 200


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_largest_preset_goes_all_the_way(ann: Tenant, simulator: Running, off: int) -> None:
    prompt = "a" * (SYSTEM_PROMPT + off)
    answer = ann.call("POST", "/v1/presets", {"slug": "large", "model": "gpt-4o", "system_prompt": prompt})
    assert answer.status == (200 if off <= 0 else 400)
    if off <= 0:
        assert ann.call("GET", "/v1/presets/large").json["system_prompt"] == prompt
        assert ann.chat("@preset/large").status == 200
    rest = len(json.dumps({"params": {"x": ""}}, separators=(",", ":")))
    whole = {"slug": "whole", "params": {"x": "a" * (BODY - rest + off)}}
    answer = ann.call("POST", "/v1/presets", whole)
    assert answer.status == (200 if off <= 0 else 400), answer.body[:300]
    huge = ann.call("POST", "/v1/presets", {"slug": "huge", "params": {"x": "a" * 600_000}})
    assert (huge.status, huge.code) == (413, "BODY_TOO_LARGE")


def test_a_request_is_kept_as_a_preset(ann: Tenant, simulator: Running) -> None:
    request = {
        "model": "gpt-4o",
        "messages": [{"role": "system", "content": "Kept."}, {"role": "user", "content": "Not kept."}],
        "temperature": 0.5,
        "stream": True,
    }
    saved = ann.call("POST", "/v1/presets/saved/chat/completions", request).json
    assert (saved["slug"], saved["version"], saved["visibility"]) == ("saved", 1, "private")
    assert (saved["system_prompt"], saved["params"]) == ("Kept.", {"temperature": 0.5})
    assert set(saved["ignored"]) == {"messages", "stream"}
    ann.call("PATCH", "/v1/presets/saved", {"allow_model_override": True, "cache": {"ttl": 9}})
    again = ann.call("POST", "/v1/presets/saved/chat/completions", {"model": "other", "messages": []}).json
    assert (again["version"], again["model"], again["system_prompt"]) == (3, "other", None)
    assert again["allow_model_override"] and again["cache"]["ttl"] == 9, "what no request says is kept"
    mark = fresh_nonce("saved")
    assert ann.chat("@preset/saved:1", mark).status == 200
    assert arrived(simulator, mark).body["messages"][0] == {"role": "system", "content": "Kept."}
    for path, body in (
        ("Upper", {}), ("x", {"preset": "saved"}), ("x", {"temperature": 9}), ("x", {"messages": 5}),
    ):  # fmt: skip
        assert ann.call("POST", f"/v1/presets/{path}/chat/completions", body).code == "INVALID_REQUEST"


def test_numbers_of_presets_and_versions_are_bounded(ann: Tenant) -> None:
    async def fill() -> None:
        for number in range(PRESETS - 1):
            message = CreatePreset(ann.name, f"p{number}", "p", "private", b"{}")
            reply = await administer(ann.waypost.folder / "data", settings_of(CONFIG), message)
            assert type(reply).__name__ == "PresetRecord", reply

    asyncio.run(fill())
    ann.make("the-last")
    refused = ann.call("POST", "/v1/presets", {"slug": "one-too-many"})
    assert refused.code == "INVALID_REQUEST" and str(PRESETS) in words(refused)
    assert len(ann.call("GET", "/v1/presets").json["data"]) == PRESETS
    assert VERSIONS > 1

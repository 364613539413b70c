"""What reaches upstreams of every format, and what becomes of their failures: a scripted vendor sees each byte."""

from __future__ import annotations

import contextlib
import json
import pathlib
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.harness import Answer, Waypost, post, serving
from tests.worker.vendor import Asked, Said, Teller, Vendor, events, message, said, text_frames, vending
from waypost import config
from waypost.formats import aws_signature
from waypost.worker import app

SECRET = "sk-ant-never-to-be-seen-0123456789"
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": f"Overloaded by {SECRET}"}}


@contextlib.contextmanager
def behind(tell: Teller, configuration: str, **options: Any) -> Iterator[tuple[Waypost, Vendor]]:
    """A gateway whose configuration names ROOT, and the vendor there."""
    with vending(tell) as vendor, serving(configuration.replace("ROOT", vendor.root), **options) as gateway:
        yield gateway, vendor


ANTHROPIC = f'[providers.anthropic]\nbase_url = "ROOT/v1"\nkeys = ["{SECRET}"]\n'
SPARE = '[providers.spare]\nbase_url = "ROOT/spare"\nkeys = ["k"]\n'
# A model for each question that fails: no breaker has heard of it.
FRESH = [f"claude-sonnet-4-5-2025{number}" for number in range(1000, 1060)]
ROUTES = "".join(f'[models."route/{name}"]\nchain = ["anthropic/{name}", "spare/gpt"]\n' for name in FRESH)


class Failing(NamedTuple):
    """A gateway with a vendor that says whatever `answers` has; `alone` is a model of his, `chain` has a spare."""

    gateway: Waypost
    vendor: Vendor
    answers: list[Said]
    fresh: Iterator[str]
    name: str

    @property
    def alone(self) -> str:
        return f"anthropic/{self.name}"

    @property
    def chain(self) -> str:
        return f"route/{self.name}"

    def anew(self) -> Failing:
        return self._replace(name=next(self.fresh))

    def was_asked(self) -> bool:
        """Was it the vendor's turn before the spare's, or instead?"""
        asked = [one.json["model"] for one in self.vendor.asked if not one.path.startswith("/spare")]
        return asked[-1] == self.name


def spare(asked: Asked, tell: Teller) -> Said:
    """OpenAI's format answers at /spare, anything else as told."""
    if not asked.path.startswith("/spare"):
        return tell(asked)
    head = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    if asked.json.get("stream"):
        frames = [
            {
                **head,
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": "spare"}, "finish_reason": None}],
            },
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ]
        body = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames) + "data: [DONE]\n\n"
        return Said(body.encode(), type="text/event-stream")
    choice = {"index": 0, "message": {"role": "assistant", "content": "spare"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return said({**head, "choices": [choice], "usage": usage})


# Credentials and addresses


def test_anthropic_s_headers_and_path() -> None:
    with behind(lambda _: said(message("hi")), ANTHROPIC) as (gateway, vendor):
        assert gateway.ask("anthropic/claude-sonnet-4-5").text == "hi"
    asked = vendor.asked[0]
    assert (asked.method, asked.path) == ("POST", "/v1/messages")
    assert asked.headers["x-api-key"] == SECRET and asked.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in asked.headers and asked.headers["accept-encoding"] == "identity"
    assert asked.json["model"] == "claude-sonnet-4-5" and asked.json["max_tokens"] > 0


def test_azure_s_deployments_and_v1() -> None:
    text = """
        [providers.azure]
        base_url = "ROOT/spare"
        keys = ["azure-key"]
        [providers.dated]
        base_url = "ROOT/spare"
        api_version = "2024-10-21"
        keys = ["azure-key"]
    """
    with behind(lambda asked: spare(asked, lambda _: said({})), text) as (gateway, vendor):
        assert gateway.ask("azure/gpt-4o").text == "spare" and gateway.ask("dated/my model").text == "spare"
    first, second = vendor.asked
    assert first.path == "/spare/v1/chat/completions" and first.headers["api-key"] == "azure-key"
    assert second.path == "/spare/deployments/my%20model/chat/completions?api-version=2024-10-21"
    assert "authorization" not in first.headers and "authorization" not in second.headers


def test_bedrock_s_signature_is_over_what_was_sent() -> None:
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "hi"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
    }
    keys = '["AKID:very/secret+key:session", "api-key"]'
    text = f'[providers.bedrock]\nbase_url = "ROOT"\nregion = "eu-central-1"\nkeys = {keys}\n'
    model = "bedrock/us.amazon.nova-lite-v1:0"
    with behind(lambda _: said(answer), text) as (gateway, vendor):
        # A key is drawn for each conversation, so that both are never heard of in one of 10^30 runs.
        for number in range(100):
            if len({asked.headers["authorization"][:4] for asked in vendor.asked}) == 2:
                break
            assert gateway.ask(model, messages=[{"role": "user", "content": f"Hi {number}"}]).text == "hi"
    signed = next(asked for asked in vendor.asked if asked.headers["authorization"].startswith("AWS4-"))
    bearer = next(asked for asked in vendor.asked if asked.headers["authorization"].startswith("Bearer"))
    assert signed.path == "/model/us.amazon.nova-lite-v1%3A0/converse"
    proof = signed.headers["authorization"]
    named = proof.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"content-type", "host", "x-amz-date", "x-amz-security-token"} <= set(named)
    stamp = signed.headers["x-amz-date"]
    assert proof.startswith(f"AWS4-HMAC-SHA256 Credential=AKID/{stamp[:8]}/eu-central-1/bedrock/aws4_request, ")
    request = aws_signature.canonical_request(
        "POST", signed.path, {name: signed.headers[name] for name in named}, signed.body
    )
    assert proof.endswith(signature_of(request, stamp, "eu-central-1", "very/secret+key"))
    assert bearer.headers["authorization"] == "Bearer api-key"


def signature_of(request: str, stamp: str, region: str, secret: str) -> str:
    """By the standard library alone."""
    import hashlib
    import hmac

    scope = f"{stamp[:8]}/{region}/bedrock/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in (stamp[:8], region, "bedrock", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


GEMINI = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "hi"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
}


def test_a_service_account_s_token_is_fetched_once(tmp_path: pathlib.Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()

    def tell(asked: Asked) -> Said:
        if asked.path == "/token":
            return said({"access_token": "ya29.fresh", "expires_in": 3600, "token_type": "Bearer"})
        return said(GEMINI)

    with vending(tell) as vendor:
        account = {
            "type": "service_account", "project_id": "proj-1", "private_key_id": "k1", "private_key": pem,
            "client_email": "robot@proj-1.iam", "token_uri": f"{vendor.root}/token",
        }  # fmt: skip
        (tmp_path / "sa.json").write_text(json.dumps(account, indent=2))
        text = (
            f'[providers.vertex]\nbase_url = "{vendor.root}/v1"\nlocation = "eu"\nkeys = ["file:{tmp_path}/sa.json"]\n'
        )
        with serving(text) as gateway:
            for _ in range(3):
                assert gateway.ask("vertex/gemini-2.5-flash").text == "hi"
        assert pem.splitlines()[1] not in gateway_log(gateway, text)
    token, *chats = vendor.asked
    assert [asked.path for asked in chats] == [
        "/v1/projects/proj-1/locations/eu/publishers/google/models/gemini-2.5-flash:generateContent"
    ] * 3
    assert {asked.headers["authorization"] for asked in chats} == {"Bearer ya29.fresh"}
    form = urllib.parse.parse_qs(token.body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    claims = jwt.decode(form["assertion"][0], key.public_key(), algorithms=["RS256"], audience=f"{vendor.root}/token")
    assert claims["iss"] == "robot@proj-1.iam" and claims["exp"] - claims["iat"] == 3600
    assert jwt.get_unverified_header(form["assertion"][0])["kid"] == "k1"


def gateway_log(gateway: Waypost, text: str) -> str:
    """Its folder is gone once it has ended; what it printed is not."""
    return gateway.log.read_text() if gateway.log.exists() else ""


def test_the_machine_s_own_account() -> None:
    def tell(asked: Asked) -> Said:
        if asked.path.startswith("/computeMetadata/"):
            assert asked.headers["metadata-flavor"] == "Google"
            return said({"access_token": "ya29.machine", "expires_in": 100})
        return said(message("hi"))

    text = '[providers.vertex]\nbase_url = "ROOT/v1"\nproject = "p"\nlocation = "us"\nkeys = ["metadata"]\n'
    with vending(tell) as vendor:
        environment = {"GCE_METADATA_HOST": vendor.root.removeprefix("http://")}
        with serving(text.replace("ROOT", vendor.root), environment=environment) as gateway:
            assert gateway.ask("vertex/claude-sonnet-4-5").text == "hi"
    chat = next(asked for asked in vendor.asked if asked.method == "POST")
    assert chat.path == "/v1/projects/p/locations/us/publishers/anthropic/models/claude-sonnet-4-5:rawPredict"
    assert chat.headers["authorization"] == "Bearer ya29.machine" and "anthropic_version" in chat.json


def test_a_token_that_cannot_be_had_moves_on() -> None:
    def tell(asked: Asked) -> Said:
        return spare(asked, lambda _: said({"error": "invalid_grant"}, 400))

    text = f'[providers.vertex]\nbase_url = "ROOT/v1"\nproject = "p"\nlocation = "us"\nkeys = ["metadata"]\n{SPARE}'
    text += '[models."route/x"]\nchain = ["vertex/gemini-2.5-flash", "spare/m"]\n'
    with vending(tell) as vendor:
        environment = {"GCE_METADATA_HOST": vendor.root.removeprefix("http://")}
        with serving(text.replace("ROOT", vendor.root), environment=environment) as gateway:
            assert gateway.ask("route/x").text == "spare"
            alone = gateway.ask("vertex/gemini-2.5-flash")
            assert (alone.status, alone.code) == (502, "PROVIDER_ERROR") and "access token" in alone.json["error"][
                "message"
            ]


def test_a_token_that_does_not_come_ends_with_the_request() -> None:
    over = threading.Event()

    def tell(asked: Asked) -> Said:
        over.wait(9)  # a token is waited for ten seconds
        return said({"access_token": "ya29.late", "expires_in": 100})

    text = '[providers.vertex]\nbase_url = "ROOT/v1"\nproject = "p"\nlocation = "us"\nkeys = ["metadata"]\n'
    with vending(tell) as vendor:
        environment = {"GCE_METADATA_HOST": vendor.root.removeprefix("http://")}
        text = f"{text}[routing]\ndeadline = 0.5\n".replace("ROOT", vendor.root)
        with serving(text, environment=environment) as gateway:
            ends = [gateway.ask("vertex/claude-sonnet-4-5", stream=stream) for stream in (False, True)]
            with gateway.connect() as client:
                body = json.dumps({"model": "vertex/gemini-embedding-001", "input": "x"}).encode()
                client.send(post("/v1/embeddings", body, *gateway.credentials))
                ends.append(client.answer())
            over.set()
    assert [(end.status, end.code) for end in ends] == [(504, "PROVIDER_TIMEOUT")] * 3
    assert [end.header("x-attempts") for end in ends[:2]] == ["0", "0"], "it ended before the token came"
    assert "time for the whole request" in ends[0].json["error"]["message"]


@pytest.mark.parametrize("field", ["private_key", "client_email", "project_id"])
def test_a_service_account_that_is_none_is_said_at_once(tmp_path: pathlib.Path, field: str) -> None:
    account = {"client_email": "a@b", "private_key": f"-----BEGIN {SECRET}", "project_id": "p"}
    if field != "private_key":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        account["private_key"] = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        del account[field]
    (tmp_path / "sa.json").write_text(json.dumps(account))
    table = {"keys": [f"file:{tmp_path}/sa.json"], "location": "eu"}
    settings = config.parse({"providers": {"vertex": table}}, {})
    with pytest.raises(config.ConfigError, match=r"\[providers.vertex\]") as caught:
        app.check(settings)
    assert SECRET not in str(caught.value) and "BEGIN" not in str(caught.value)


# Failures


@pytest.mark.parametrize(
    ("status", "error", "expected", "code"),
    [
        (400, "prompt is too long: 210000 tokens > 200000 maximum", 400, "CONTEXT_LENGTH_EXCEEDED"),
        (400, "messages.0: all messages must have non-empty content", 400, "INVALID_REQUEST"),
        (413, "Request exceeds the maximum size", 413, "CONTEXT_LENGTH_EXCEEDED"),
        (401, "invalid x-api-key", 502, "PROVIDER_ERROR"),
        (403, "Your API key does not have permission", 502, "PROVIDER_ERROR"),
        (400, "Your credit balance is too low", 502, "PROVIDER_ERROR"),
        (404, "model: claude-9", 502, "PROVIDER_ERROR"),
        (429, "Number of request tokens has exceeded your limit", 429, "UPSTREAM_RATE_LIMITED"),
        (529, "Overloaded", 502, "PROVIDER_ERROR"),
        (500, f"trace with {SECRET}", 502, "PROVIDER_ERROR"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_classified(
    failing: Failing, status: int, error: str, expected: int, code: str, stream: bool
) -> None:
    gateway, answers = failing.gateway, failing.answers
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
             429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}  # fmt: skip
    kind = kinds.get(status, "invalid_request_error")
    body = {"type": "error", "error": {"type": kind, "message": f"{error} ({SECRET})"}}
    answers[:] = [said(body, status, "retry-after: 60")]
    answer = gateway.ask(failing.alone, stream=stream)
    assert (answer.status, answer.code) == (expected, code), answer.body
    assert SECRET.encode() not in answer.raw
    if code in ("CONTEXT_LENGTH_EXCEEDED", "INVALID_REQUEST"):
        assert error in answer.json["error"]["message"]
    if code == "UPSTREAM_RATE_LIMITED":
        assert answer.header("retry-after") == "60"


@pytest.mark.parametrize(
    ("status", "kind", "expected", "code"),
    [
        (400, "ValidationException:http://internal.amazon.com/coral/", 400, "INVALID_REQUEST"),
        (400, "com.amazon.coral.service#ThrottlingException", 429, "UPSTREAM_RATE_LIMITED"),
        (400, "ServiceUnavailableException", 502, "PROVIDER_ERROR"),
        (400, "UnrecognizedClientException", 502, "PROVIDER_ERROR"),
    ],
)
def test_bedrock_names_its_errors_in_a_header(status: int, kind: str, expected: int, code: str) -> None:
    text = '[providers.bedrock]\nbase_url = "ROOT"\nregion = "eu-central-1"\nkeys = ["AKID:secret"]\n'
    error = said({"message": "so it is"}, status, f"X-Amzn-ErrorType: {kind}")
    with behind(lambda _: error, text) as (gateway, _):
        answer = gateway.ask("bedrock/us.amazon.nova-lite-v1:0")
    assert (answer.status, answer.code) == (expected, code), answer.body


def test_google_says_in_the_body_how_long_to_wait() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37.2s"}]
    body = {"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": details}}
    text = '[providers.gemini]\nbase_url = "ROOT/v1beta"\nkeys = ["k"]\n'
    for headers, seconds in ((), "38"), (("retry-after: 5",), "5"):
        with behind(lambda _, headers=headers: said(body, 429, *headers), text) as (gateway, _):
            answer = gateway.ask("gemini/gemini-2.5-flash")
        assert (answer.status, answer.header("retry-after")) == (429, seconds), answer.body


@pytest.fixture(scope="module")
def scene() -> Iterator[Failing]:
    answers: list[Said] = []
    with behind(lambda asked: spare(asked, lambda _: answers[0]), ANTHROPIC + SPARE + ROUTES) as (gateway, vendor):
        yield Failing(gateway, vendor, answers, iter(FRESH), "")


@pytest.fixture
def failing(scene: Failing) -> Failing:
    return scene.anew()


FRAMES = text_frames("Hello", " world")


def test_a_failure_before_the_first_word_moves_on(failing: Failing) -> None:
    gateway, answers = failing.gateway, failing.answers
    for bad in (events(*FRAMES[:3], ERROR), events(ERROR), events(*FRAMES[:2]), events(*FRAMES[:4], ERROR)):
        answers[:] = [bad]
        assert gateway.ask(failing.chain, stream=True).text == "spare" and failing.was_asked()
        failing = failing.anew()
    for bad in (Said(b"<html>", 502, "text/html"), said({"type": "message"}), said(ERROR, 529), events(*FRAMES)):
        answers[:] = [bad]
        assert gateway.ask(failing.chain).text == "spare" and failing.was_asked()
        failing = failing.anew()


@pytest.mark.parametrize("cut", ["error", "end", "connection"])
def test_a_failure_after_the_first_word_is_an_error_frame(failing: Failing, cut: str) -> None:
    gateway, answers = failing.gateway, failing.answers
    frames = events(*FRAMES[:4])
    rest = {"error": events(ERROR).body, "end": b"", "connection": b""}[cut]
    gate = threading.Event()  # what comes in one read with its error has not been said yet
    answers[:] = [
        Said(frames.body + rest, type=frames.type, pause=len(frames.body), gate=gate, is_cut=cut == "connection")
    ]
    with gateway.connect() as client:
        client.send(gateway.chat(failing.chain, stream=True))
        while b"Hello" not in client.unread:
            assert client.receive()
        gate.set()
        answer = client.answer()
    *chunks, error, done = answer.events
    text = "".join(json.loads(chunk)["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == "Hello" and json.loads(error)["error"]["code"] == "PROVIDER_ERROR", answer.body
    assert done == b"[DONE]" and SECRET.encode() not in answer.raw


def test_usage_cost_and_estimates(failing: Failing) -> None:
    gateway, answers = failing.gateway, failing.answers
    usage = {
        "input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20,
        "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 15},
    }  # fmt: skip
    answers[:] = [said(message("hi", usage=usage))]
    seen = gateway.ask(failing.alone).json["usage"]
    assert (seen["prompt_tokens"], seen["completion_tokens"], seen["total_tokens"]) == (125, 7, 132)
    assert seen["prompt_tokens_details"]["cached_tokens"] == 100
    assert seen["prompt_tokens_details"]["cache_write_tokens"] == 20 and "estimated" not in seen
    silent = message("words that were counted by nobody at all")
    del silent["usage"]
    answers[:] = [said(silent)]
    seen = gateway.ask(failing.alone).json["usage"]
    assert seen["estimated"] is True and seen["completion_tokens"] > 3


# What can't be told


def test_dropped_parameters_are_listed_or_move_on(failing: Failing) -> None:
    gateway, answers = failing.gateway, failing.answers
    answers[:] = [said(message("hi"))]
    answer = gateway.ask(failing.chain, seed=1, logit_bias={"1": 2}, temperature=0.5)
    assert answer.text == "hi" and answer.header("x-dropped-params") == "logit_bias, seed"
    answer = gateway.ask(failing.chain, seed=1, provider={"require_parameters": True})
    assert answer.text == "spare"
    answer = gateway.ask(failing.alone, seed=1, provider={"require_parameters": True})
    assert (answer.status, answer.json["error"]["param"]) == (400, "seed")
    answer = gateway.ask(failing.alone, seed=1, provider={"require_parameters": "yes"})
    assert (answer.status, answer.json["error"]["param"]) == (400, "provider.require_parameters")


def test_what_would_change_the_meaning_moves_on_or_is_refused(failing: Failing) -> None:
    gateway, answers = failing.gateway, failing.answers
    answers[:] = [said(message("hi"))]
    assert gateway.ask(failing.chain, n=2).text == "spare"
    answer = gateway.ask(failing.alone, n=2)
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (400, "INVALID_REQUEST", "n")
    sound = [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]
    answer = gateway.ask(failing.alone, messages=[{"role": "user", "content": sound}])
    assert answer.status == 400 and "audio" in answer.json["error"]["message"]


def test_a_bad_request_is_refused_before_any_upstream(failing: Failing) -> None:
    gateway, answers = failing.gateway, failing.answers
    answers[:] = [said(message("hi"))]
    answer = gateway.ask(failing.alone, messages=[{"role": "wizard", "content": "x"}])
    assert (answer.status, answer.json["error"]["param"]) == (400, "messages[0].role")


def test_what_the_configuration_says_of_models() -> None:
    text = f"""{SPARE}
        [providers.blind]
        base_url = "ROOT/spare"
        keys = ["k"]
        capabilities = {{ inputs = ["text"], tools = false, schema = false }}
        [models."route/x"]
        chain = ["blind/a", "spare/b"]
        [models."route/blind"]
        chain = ["blind/a"]
        [models."route/seeing"]
        chain = ["blind/a"]
        capabilities = {{ inputs = ["text", "image"] }}
    """
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    with behind(lambda asked: spare(asked, lambda _: said({})), text) as (gateway, _):

        def provider(model: str, **fields: Any) -> str:
            answer: Answer = gateway.ask(model, **fields)
            return (
                answer.json["provider"] if answer.status == 200 else f"{answer.status} {answer.json['error']['param']}"
            )

        assert provider("route/x") == "blind"
        assert (
            provider("route/x", messages=picture) == "spare"
            and provider("route/blind", messages=picture) == "400 messages"
        )
        assert provider("route/x", tools=tools) == "spare" and provider("route/blind", tools=tools) == "400 tools"
        assert provider("route/x", response_format=schema) == "spare"
        assert provider("route/blind", response_format=schema) == "400 response_format"
        assert provider("route/seeing", messages=picture) == "blind"
        words = [{"role": "user", "content": 'say {"type": "image_url"}, please'}]
        assert provider("route/blind", messages=words) == "blind"


def test_breakpoints_of_ours_by_option() -> None:
    text = f"""{ANTHROPIC}
        [models."route/cached"]
        chain = ["anthropic/claude-sonnet-4-5"]
        cache_from = 100
        [models."route/plain"]
        chain = ["anthropic/claude-sonnet-4-5"]
    """
    long = [{"role": "system", "content": "rule " * 200}, {"role": "user", "content": "Hi"}]
    with behind(lambda _: said(message("hi")), text) as (gateway, vendor):
        for model in ("route/cached", "route/plain"):
            assert gateway.ask(model, messages=long).text == "hi"
        gateway.ask("route/cached", messages=[{"role": "user", "content": "Hi"}])
    cached, plain, short = (asked.body.count(b'"cache_control"') for asked in vendor.asked)
    assert cached == 2 and plain == short == 0


def test_what_is_known_of_models_behind_openai_s_format() -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]}]
    text = "".join(f'[providers.{name}]\nbase_url = "ROOT/spare"\nkeys = ["k"]\n' for name in ("openai", "perplexity"))
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with behind(lambda asked: spare(asked, lambda _: said({})), text) as (gateway, vendor):
        refused = gateway.ask("openai/o3-mini", messages=picture)
        assert (refused.status, refused.json["error"]["param"]) == (400, "messages") and vendor.asked == []
        refused = gateway.ask("perplexity/sonar", tools=tools)
        assert (refused.status, refused.json["error"]["param"]) == (400, "tools") and vendor.asked == []
        assert gateway.ask("openai/o3-mini").text == gateway.ask("openai/gpt-4o", messages=picture).text == "spare"

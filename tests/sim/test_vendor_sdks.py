"""The simulator through the vendors' own SDKs: if they can't tell it from the real thing, our upstream side can't.

Each SDK is wanted for its own tests only; where one is not installed, those are skipped and say so.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sim.running import Running
from tests.sim.vendor_questions import BOTH, CITY, FRANCE, PARIS, PDF, PNG, SCHEMA, needed

# Anthropic


class Anthropic:
    def __init__(self, sim: Running) -> None:
        self.sdk = needed("anthropic")
        self.client = self.sdk.Anthropic(base_url=sim.address, api_key="any", max_retries=0, timeout=20)

    def ask(self, messages: Any, model: str = "claude-test", **fields: Any) -> Any:
        given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return self.client.messages.create(model=model, messages=given, **{"max_tokens": 2000, **fields})

    def stream(self, messages: Any, model: str = "claude-test", **fields: Any) -> Any:
        given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return self.client.messages.stream(model=model, messages=given, **{"max_tokens": 2000, **fields})


WEATHER_ANTHROPIC = {"name": "get_weather", "description": "Current weather at a place", "input_schema": SCHEMA}
BUDGET = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
def anthropic(sim: Running) -> Iterator[Anthropic]:
    made = Anthropic(sim)
    with made.client:
        yield made


def test_anthropic_text_stream_and_usage(anthropic: Anthropic) -> None:
    answer = anthropic.ask(FRANCE)
    assert answer.content[0].text.startswith(PARIS)
    assert (answer.stop_reason, answer.usage.input_tokens) == ("end_turn", 8)
    with anthropic.stream(FRANCE) as stream:
        kinds = [event.type for event in stream if event.type != "text"]
        final = stream.get_final_message()
    assert final.content[0].text == answer.content[0].text
    assert final.usage.output_tokens == answer.usage.output_tokens == -(-len(answer.content[0].text) // 4)
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    cut = anthropic.ask(FRANCE, max_tokens=3)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)
    stopped = anthropic.ask(FRANCE, stop_sequences=[" Paris"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " Paris")


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropic_tools_round_trip_with_thinking(anthropic: Anthropic, streamed: bool) -> None:
    def turn(messages: list[Any]) -> Any:
        fields: Any = {"tools": [WEATHER_ANTHROPIC], "thinking": BUDGET}
        if not streamed:
            return anthropic.ask(messages, **fields)
        with anthropic.stream(messages, **fields) as stream:
            return stream.get_final_message()

    messages: list[Any] = [{"role": "user", "content": BOTH}]
    first = turn(messages)
    assert [block.type for block in first.content] == ["thinking", "tool_use", "tool_use"]
    assert first.stop_reason == "tool_use"
    calls = first.content[1:]
    assert [call.input["location"] for call in calls] == ["Tokyo", "Paris"]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"} for call in calls]
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = turn(messages)
    assert second.stop_reason == "end_turn"
    assert "21 degrees; 21 degrees" in second.content[-1].text

    changed = [block.model_copy() for block in first.content]
    changed[0].thinking += " And more."
    with pytest.raises(anthropic.sdk.BadRequestError, match=r"messages\.1\.content\.0: Invalid `signature`"):
        turn([messages[0], {"role": "assistant", "content": changed}, messages[2]])
    with pytest.raises(anthropic.sdk.BadRequestError, match="Expected `thinking` or `redacted_thinking`"):
        turn([messages[0], {"role": "assistant", "content": calls}, messages[2]])
    with pytest.raises(anthropic.sdk.BadRequestError, match="`tool_use` ids were found without `tool_result`"):
        turn([*messages[:2], {"role": "user", "content": "Well?"}])


def test_anthropic_choices_of_tools(anthropic: Anthropic) -> None:
    fields: Any = {"tools": [WEATHER_ANTHROPIC]}
    one = anthropic.ask(BOTH, tool_choice={"type": "auto", "disable_parallel_tool_use": True}, **fields)
    assert len(one.content) == 1
    assert anthropic.ask(BOTH, tool_choice={"type": "none"}, **fields).stop_reason == "end_turn"
    named = anthropic.ask("Hello", tool_choice={"type": "tool", "name": "get_weather"}, **fields)
    assert named.content[0].name == "get_weather"
    with pytest.raises(anthropic.sdk.BadRequestError, match="forces tool use"):
        anthropic.ask(BOTH, tool_choice={"type": "any"}, thinking=BUDGET, **fields)


def test_anthropic_schema_media_and_cache(anthropic: Anthropic) -> None:
    wanted = {"format": {"type": "json_schema", "schema": CITY}}
    city = json.loads(anthropic.ask("A city", output_config=wanted).content[0].text)
    assert set(city) == {"city", "population"}
    loose = {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}}
    with pytest.raises(anthropic.sdk.BadRequestError, match="'additionalProperties' must be explicitly set to false"):
        anthropic.ask("A city", output_config=loose)
    png = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(PDF).decode()}
    parts: list[Any] = [{"type": "image", "source": png}, {"type": "document", "source": pdf}]
    parts.append({"type": "text", "text": "What are these?"})
    shown = anthropic.ask([{"role": "user", "content": parts}]).content[0].text
    assert f"image (image/png, {len(PNG)} bytes), document (application/pdf, {len(PDF)} bytes)" in shown

    long = [{"type": "text", "text": "word " * 4000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    usage = anthropic.ask("Hello", system=long).usage
    assert usage.cache_read_input_tokens == 4992
    assert usage.cache_creation_input_tokens == usage.cache_creation.ephemeral_1h_input_tokens > 0
    assert usage.input_tokens == 4
    plain = anthropic.ask("Hello", system=long[0]["text"]).usage
    assert (plain.cache_read_input_tokens, plain.cache_creation_input_tokens) == (0, 0)


ANTHROPIC_ERRORS = [
    ("status-400", "BadRequestError", "invalid_request_error"),
    ("auth-401", "AuthenticationError", "authentication_error"),
    ("auth-403", "PermissionDeniedError", "permission_error"),
    ("cut-aftr-3", "NotFoundError", "not_found_error"),
    ("429-retry-after-2", "RateLimitError", "rate_limit_error"),
    ("status-500", "InternalServerError", "api_error"),
    ("overloaded", "OverloadedError", "overloaded_error"),
    ("context-length", "BadRequestError", "invalid_request_error"),
    ("early-413", "ContentTooLargeError", "request_too_large"),
]


@pytest.mark.parametrize(("model", "name", "kind"), ANTHROPIC_ERRORS)
def test_anthropic_errors(anthropic: Anthropic, model: str, name: str, kind: str) -> None:
    with pytest.raises(anthropic.sdk.APIStatusError) as caught:
        anthropic.ask(FRANCE, model=model)
    error = caught.value
    assert type(error).__name__ == name
    assert error.body["error"]["type"] == kind
    assert error.body["request_id"] == error.request_id is not None


def test_anthropic_errors_inside_streams(anthropic: Anthropic) -> None:
    for model, kind in [("sse-error-after-3", "api_error"), ("overloaded-after-4", "overloaded_error")]:
        with pytest.raises(anthropic.sdk.APIStatusError) as caught, anthropic.stream(FRANCE, model=model) as stream:
            stream.until_done()
        assert caught.value.body["error"]["type"] == kind
    with pytest.raises(anthropic.sdk.APIConnectionError):
        anthropic.ask(FRANCE, model="reset-before-headers")


# Gemini


class Gemini:
    def __init__(self, sim: Running) -> None:
        needed("google.genai")
        from google import genai
        from google.genai import errors, types

        self.types, self.errors = types, errors
        # The retries the SDK makes on its own would hide what the simulator says.
        options = types.HttpOptions(base_url=sim.address, retry_options=types.HttpRetryOptions(attempts=1))
        self.client = genai.Client(api_key="any", http_options=options)

    def ask(self, contents: Any, model: str = "gemini-3-test", **config: Any) -> Any:
        return self.client.models.generate_content(model=model, contents=contents, config=self.config(config))

    def stream(self, contents: Any, model: str = "gemini-3-test", **config: Any) -> list[Any]:
        made = self.client.models.generate_content_stream(model=model, contents=contents, config=self.config(config))
        return list(made)

    def config(self, given: dict[str, Any]) -> Any:
        off = self.types.AutomaticFunctionCallingConfig(disable=True)
        return self.types.GenerateContentConfig(automatic_function_calling=off, **given)

    def tool(self, **schema: Any) -> Any:
        declared = self.types.FunctionDeclaration(name="get_weather", description="Weather at a place", **schema)
        return self.types.Tool(function_declarations=[declared])


@pytest.fixture
def gemini(sim: Running) -> Iterator[Gemini]:
    made = Gemini(sim)
    yield made
    made.client.close()


def test_gemini_text_stream_and_usage(gemini: Gemini) -> None:
    answer = gemini.ask(FRANCE)
    assert answer.text.startswith(PARIS)
    usage = answer.usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count) == (8, -(-len(answer.text) // 4))
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count
    chunks = gemini.stream(FRANCE)
    assert "".join(chunk.text or "" for chunk in chunks) == answer.text
    counts = [chunk.usage_metadata.candidates_token_count for chunk in chunks]
    assert counts == sorted(counts)
    assert chunks[-1].usage_metadata.total_token_count == usage.total_token_count
    assert {chunk.response_id for chunk in chunks} == {chunks[0].response_id}
    reasons = [chunk.candidates[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["STOP"]
    assert gemini.ask(FRANCE, max_output_tokens=3).candidates[0].finish_reason == "MAX_TOKENS"
    assert gemini.ask(FRANCE, stop_sequences=[" Paris"]).text == "The capital of France is"
    assert len(gemini.ask(FRANCE, candidate_count=2).candidates) == 2


@pytest.mark.parametrize("model", ["gemini-2.5-test", "gemini-3-test"])
@pytest.mark.parametrize("streamed", [False, True])
def test_gemini_tools_round_trip(gemini: Gemini, streamed: bool, model: str) -> None:
    types = gemini.types

    def turn(contents: Any) -> list[Any]:
        fields = {"tools": [gemini.tool(parameters_json_schema=SCHEMA)]}
        answers = gemini.stream(contents, model, **fields) if streamed else [gemini.ask(contents, model, **fields)]
        return [part for answer in answers for part in answer.candidates[0].content.parts]

    question = types.Content(role="user", parts=[types.Part(text=BOTH)])
    parts = [part for part in turn(question) if part.function_call]
    assert [part.function_call.args["location"] for part in parts] == ["Tokyo", "Paris"]
    assert [bool(part.thought_signature) for part in parts] == [model == "gemini-3-test", False]
    results = [
        types.Part(
            function_response=types.FunctionResponse(
                id=part.function_call.id, name="get_weather", response={"result": "21 degrees"}
            )
        )
        for part in parts
    ]
    history = [question, types.Content(role="model", parts=parts), types.Content(role="user", parts=results)]
    assert "21 degrees" in "".join(part.text or "" for part in turn(history))

    bare = [types.Part(function_call=part.function_call) for part in parts]
    history[1] = types.Content(role="model", parts=bare)
    if model == "gemini-3-test":
        with pytest.raises(gemini.errors.ClientError, match="missing a thought_signature") as caught:
            turn(history)
        assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")
        bare[0].thought_signature = b"skip_thought_signature_validator"
    assert "21 degrees" in "".join(part.text or "" for part in turn(history))
    bare[0].thought_signature = b"somebody else's"
    with pytest.raises(gemini.errors.ClientError, match="Corrupted thought signature"):
        turn(history)
    with pytest.raises(gemini.errors.ClientError, match="number of function response parts"):
        turn([history[0], history[1], types.Content(role="user", parts=results[:1])])


def test_gemini_thoughts(gemini: Gemini) -> None:
    thinking = gemini.types.ThinkingConfig(include_thoughts=True)
    answer = gemini.ask("Why?", thinking_config=thinking)
    first, second = answer.candidates[0].content.parts
    assert (first.thought, second.thought) == (True, None)
    assert answer.usage_metadata.thoughts_token_count == -(-len(first.text) // 4)
    parts = [chunk.candidates[0].content.parts[0] for chunk in gemini.stream("Why?", thinking_config=thinking)]
    assert "".join(part.text for part in parts if part.thought) == first.text
    silent = gemini.ask("Why?", thinking_config=gemini.types.ThinkingConfig(thinking_budget=2048))
    assert [part.thought for part in silent.candidates[0].content.parts] == [None]
    assert silent.usage_metadata.thoughts_token_count == answer.usage_metadata.thoughts_token_count
    none = gemini.ask("Why?", thinking_config=gemini.types.ThinkingConfig(thinking_budget=0))
    assert none.usage_metadata.thoughts_token_count is None


def test_gemini_schema_and_media(gemini: Gemini) -> None:
    types = gemini.types
    as_json = {"response_mime_type": "application/json"}
    raw = json.loads(gemini.ask("A city", response_json_schema=CITY, **as_json).text)
    googles = types.Schema(
        type=types.Type.OBJECT,
        properties={"city": types.Schema(type="STRING"), "people": types.Schema(type="INTEGER", nullable=True)},
        required=["city", "people"],
    )
    assert set(raw) == {"city", "population"}
    assert set(json.loads(gemini.ask("A city", response_schema=googles, **as_json).text)) == {"city", "people"}
    assert json.loads(gemini.ask("A city", **as_json).text)
    parts = [
        types.Part.from_bytes(data=PNG, mime_type="image/png"),
        types.Part.from_bytes(data=PDF, mime_type="application/pdf"),
        types.Part.from_text(text="What are these?"),
    ]
    shown = gemini.ask(parts).text
    assert f"image (image/png, {len(PNG)} bytes), document (application/pdf, {len(PDF)} bytes)" in shown


def test_gemini_blocks(gemini: Gemini) -> None:
    blocked = gemini.ask(FRANCE, "content-policy")
    assert (blocked.prompt_feedback.block_reason, blocked.candidates) == ("PROHIBITED_CONTENT", None)
    [chunk] = gemini.stream(FRANCE, "content-policy")
    assert chunk.prompt_feedback.block_reason == "PROHIBITED_CONTENT"
    for model, reason in [("content-filter", "SAFETY"), ("malformed-call", "MALFORMED_FUNCTION_CALL")]:
        candidate = gemini.ask(FRANCE, model).candidates[0]
        assert (candidate.finish_reason, candidate.content.parts) == (reason, None)
        assert gemini.stream(FRANCE, model)[-1].candidates[0].finish_reason == reason


GEMINI_ERRORS = [
    ("status-400", "ClientError", 400, "INVALID_ARGUMENT"),
    ("auth-400", "ClientError", 400, "INVALID_ARGUMENT"),
    ("auth-403", "ClientError", 403, "PERMISSION_DENIED"),
    ("cut-aftr-3", "ClientError", 404, "NOT_FOUND"),
    ("429-retry-after-2", "ClientError", 429, "RESOURCE_EXHAUSTED"),
    ("status-500", "ServerError", 500, "INTERNAL"),
    ("overloaded", "ServerError", 503, "UNAVAILABLE"),
    ("context-length", "ClientError", 400, "INVALID_ARGUMENT"),
]


@pytest.mark.parametrize(("model", "name", "code", "status"), GEMINI_ERRORS)
def test_gemini_errors(gemini: Gemini, model: str, name: str, code: int, status: str) -> None:
    with pytest.raises(gemini.errors.APIError) as caught:
        gemini.ask(FRANCE, model)
    assert (type(caught.value).__name__, caught.value.code, caught.value.status) == (name, code, status)
    details = caught.value.details["error"].get("details", [])
    if code == 429:
        assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s"} in details
    if model == "auth-400":
        assert details[0]["reason"] == "API_KEY_INVALID"
    with pytest.raises(gemini.errors.APIError) as caught:
        gemini.stream(FRANCE, model)
    assert caught.value.code == code


def test_gemini_error_inside_a_stream(gemini: Gemini) -> None:
    with pytest.raises(gemini.errors.APIError) as caught:
        gemini.stream(FRANCE, "overloaded-after-2")
    assert caught.value.code == 503


def test_gemini_embeddings(gemini: Gemini) -> None:
    config = gemini.types.EmbedContentConfig(output_dimensionality=256)
    made = gemini.client.models.embed_content(
        model="gemini-embedding-001", contents=["red apples", "green apples", "war and peace"], config=config
    )
    one, other, third = [item.values for item in made.embeddings]
    assert len(one) == 256
    assert sum(a * b for a, b in zip(one, other, strict=True)) > sum(a * b for a, b in zip(one, third, strict=True))


def test_vertex_predicts_embeddings(sim: Running) -> None:
    sdk = needed("google.genai")
    credentials = needed("google.oauth2.credentials").Credentials("ya29.token")
    options = sdk.types.HttpOptions(base_url=sim.address, timeout=20_000)
    place = {"project": "p", "location": "us-central1", "credentials": credentials}
    client = sdk.Client(vertexai=True, http_options=options, **place)
    config = sdk.types.EmbedContentConfig(output_dimensionality=64)
    made = client.models.embed_content(
        model="text-embedding-005", contents=["red apples", "green apples"], config=config
    )
    assert [len(item.values) for item in made.embeddings] == [64, 64]
    assert all(item.statistics.token_count > 0 and not item.statistics.truncated for item in made.embeddings)

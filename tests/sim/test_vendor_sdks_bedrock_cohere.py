"""The simulator through boto3, cohere and the openai SDK; see test_vendor_sdks for the other vendors'."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sim.running import Running
from tests.sim.vendor_questions import BOTH, CITY, FRANCE, PARIS, PDF, PNG, SCHEMA, needed

# Bedrock


class Bedrock:
    def __init__(self, sim: Running, **config: Any) -> None:
        boto3 = needed("boto3")
        from botocore import exceptions
        from botocore.config import Config

        self.address, self.exceptions = sim.address, exceptions
        self.client = boto3.client(
            "bedrock-runtime",
            region_name="us-east-1",
            endpoint_url=sim.address,
            aws_access_key_id="AKIAEXAMPLE",
            aws_secret_access_key="secret",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=20, **config),
        )

    def ask(self, content: Any, model: str = "us.anthropic.claude-test-v1:0", **fields: Any) -> Any:
        return self.client.converse(modelId=model, messages=self.messages(content), **fields)

    def stream(self, content: Any, model: str = "us.anthropic.claude-test-v1:0", **fields: Any) -> list[Any]:
        return list(self.client.converse_stream(modelId=model, messages=self.messages(content), **fields)["stream"])

    def messages(self, content: Any) -> list[Any]:
        if isinstance(content, str):
            return [{"role": "user", "content": [{"text": content}]}]
        return content if "role" in content[0] else [{"role": "user", "content": content}]


WEATHER: dict[str, Any] = {
    "tools": [{"toolSpec": {"name": "get_weather", "description": "Weather", "inputSchema": {"json": SCHEMA}}}]
}


@pytest.fixture
def bedrock(sim: Running) -> Iterator[Bedrock]:
    made = Bedrock(sim)
    yield made
    made.client.close()


def collected(events: list[Any]) -> list[Any]:
    """The content blocks that a stream's events add up to."""
    blocks: dict[int, Any] = {}
    for event in events:
        if start := event.get("contentBlockStart"):
            blocks[start["contentBlockIndex"]] = {"toolUse": {**start["start"]["toolUse"], "input": ""}}
        if delta := event.get("contentBlockDelta"):
            block, given = blocks.setdefault(delta["contentBlockIndex"], {}), delta["delta"]
            if "text" in given:
                block["text"] = block.get("text", "") + given["text"]
            elif "toolUse" in given:
                block["toolUse"]["input"] += given["toolUse"]["input"]
            else:
                thought = block.setdefault("reasoningContent", {}).setdefault("reasoningText", {})
                for name, piece in given["reasoningContent"].items():
                    thought[name] = thought.get(name, "") + piece
    for block in blocks.values():
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"]["input"])
    return [blocks[index] for index in sorted(blocks)]


def test_bedrock_text_stream_and_usage(bedrock: Bedrock) -> None:
    answer = bedrock.ask(FRANCE)
    [block] = answer["output"]["message"]["content"]
    assert block["text"].startswith(PARIS)
    assert answer["stopReason"] == "end_turn"
    assert answer["usage"] == {"inputTokens": 8, "outputTokens": -(-len(block["text"]) // 4), "totalTokens": 32}
    events = bedrock.stream(FRANCE)
    assert collected(events) == [block]
    assert [next(iter(event)) for event in (*events[:1], *events[-3:])] == [
        "messageStart",
        "contentBlockStop",
        "messageStop",
        "metadata",
    ]
    assert events[-1]["metadata"]["usage"] == answer["usage"]
    assert bedrock.ask(FRANCE, inferenceConfig={"maxTokens": 3})["stopReason"] == "max_tokens"
    assert bedrock.ask(FRANCE, inferenceConfig={"stopSequences": [" Paris"]})["stopReason"] == "stop_sequence"


@pytest.mark.parametrize("streamed", [False, True])
def test_bedrock_tools_round_trip_with_thinking(bedrock: Bedrock, streamed: bool) -> None:
    def turn(messages: list[Any]) -> list[Any]:
        thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
        fields: Any = {"toolConfig": WEATHER, "additionalModelRequestFields": thinking}
        if streamed:
            return collected(bedrock.stream(messages, **fields))
        return list(bedrock.ask(messages, **fields)["output"]["message"]["content"])

    messages: list[Any] = [{"role": "user", "content": [{"text": BOTH}]}]
    thought, *calls = turn(messages)
    assert [call["toolUse"]["input"]["location"] for call in calls] == ["Tokyo", "Paris"]
    results = [
        {"toolResult": {"toolUseId": call["toolUse"]["toolUseId"], "content": [{"text": "21 degrees"}]}}
        for call in calls
    ]
    messages += [{"role": "assistant", "content": [thought, *calls]}, {"role": "user", "content": results}]
    assert "21 degrees; 21 degrees" in turn(messages)[-1]["text"]

    invalid = bedrock.client.exceptions.ValidationException
    with pytest.raises(invalid, match=r"Expected toolResult blocks at messages\.2\.content"):
        turn([*messages[:2], {"role": "user", "content": results[:1]}])
    with pytest.raises(invalid, match="must alternate"):
        turn([messages[0], messages[0]])
    with pytest.raises(invalid, match="toolConfig field must be defined"):
        bedrock.ask(messages)
    thought["reasoningContent"]["reasoningText"]["text"] += " And more."
    with pytest.raises(invalid, match=r"messages\.1\.content\.0: Invalid `signature`"):
        turn(messages)


def test_bedrock_schema_media_and_cache(bedrock: Bedrock) -> None:
    structure = {"jsonSchema": {"name": "city", "schema": json.dumps(CITY)}}
    wanted = {"textFormat": {"type": "json_schema", "structure": structure}}
    answer = bedrock.ask("A city", outputConfig=wanted)
    assert set(json.loads(answer["output"]["message"]["content"][0]["text"])) == {"city", "population"}
    parts: list[Any] = [
        {"image": {"format": "png", "source": {"bytes": PNG}}},
        {"document": {"format": "pdf", "name": "A page", "source": {"bytes": PDF}}},
    ]
    shown = bedrock.ask([*parts, {"text": "What are these?"}])["output"]["message"]["content"][0]["text"]
    assert f"image (image/png, {len(PNG)} bytes), document (application/pdf, {len(PDF)} bytes)" in shown
    with pytest.raises(bedrock.client.exceptions.ValidationException, match="text content block is required"):
        bedrock.ask(parts)
    long = [{"text": "word " * 4000}, {"cachePoint": {"type": "default"}}]
    usage = bedrock.ask("Hello", system=long)["usage"]
    assert usage["cacheReadInputTokens"] == 4992
    assert usage["inputTokens"] + usage["cacheWriteInputTokens"] == -(-(20000 + 6) // 4) - 4992


BEDROCK_ERRORS = [
    ("status-400", "ValidationException"),
    ("auth-403", "UnrecognizedClientException"),
    ("status-403", "AccessDeniedException"),
    ("cut-aftr-3", "ResourceNotFoundException"),
    ("429", "ThrottlingException"),
    ("status-408", "ModelTimeoutException"),
    ("status-424", "ModelErrorException"),
    ("status-500", "InternalServerException"),
    ("overloaded", "ServiceUnavailableException"),
    ("context-length", "ValidationException"),
]


@pytest.mark.parametrize(("model", "name"), BEDROCK_ERRORS)
def test_bedrock_errors(bedrock: Bedrock, model: str, name: str) -> None:
    for ask in (bedrock.ask, bedrock.stream):
        with pytest.raises(bedrock.exceptions.ClientError) as caught:
            ask(FRANCE, model)
        assert caught.value.response["Error"]["Code"] == name
        if hasattr(bedrock.client.exceptions, name):
            assert isinstance(caught.value, getattr(bedrock.client.exceptions, name))


def test_bedrock_errors_inside_streams(bedrock: Bedrock) -> None:
    for model, name in [
        ("sse-error-after-3", "internalServerException"),
        ("overloaded-after-2", "serviceUnavailableException"),
        ("error-message-after-2", "InternalServerError"),
    ]:
        with pytest.raises(bedrock.exceptions.EventStreamError) as caught:
            bedrock.stream(FRANCE, model)
        assert caught.value.response["Error"]["Code"] == name
    with pytest.raises(Exception, match="Checksum mismatch"):
        bedrock.stream(FRANCE, "bad-checksum")
    with pytest.raises(bedrock.client.exceptions.ResourceNotFoundException, match="makes no sense in this format"):
        bedrock.stream(FRANCE, "sse-cr")


def test_bedrock_wants_a_signature(sim: Running) -> None:
    from_botocore = needed("botocore")
    unsigned = Bedrock(sim, signature_version=from_botocore.UNSIGNED)
    with pytest.raises(unsigned.exceptions.ClientError) as caught:
        unsigned.ask(FRANCE)
    assert caught.value.response["Error"]["Code"] == "MissingAuthenticationTokenException"
    unsigned.client.close()


def test_bedrock_embeddings(bedrock: Bedrock) -> None:
    def invoke(model: str, **body: Any) -> tuple[Any, str]:
        made = bedrock.client.invoke_model(modelId=model, body=json.dumps(body))
        headers = made["ResponseMetadata"]["HTTPHeaders"]
        return json.loads(made["body"].read()), headers["x-amzn-bedrock-input-token-count"]

    titan, count = invoke("amazon.titan-embed-text-v2:0", inputText="hello", dimensions=256, normalize=True)
    assert (len(titan["embedding"]), titan["inputTextTokenCount"], count) == (256, 2, "2")
    texts, count = invoke("cohere.embed-english-v3", texts=["hello", "world"], input_type="search_document")
    assert ([len(vector) for vector in texts["embeddings"]], count) == ([1024, 1024], "4")


# Cohere


class Cohere:
    def __init__(self, sim: Running, **options: Any) -> None:
        self.sdk = needed("cohere")
        self.client = self.sdk.ClientV2(api_key="any", base_url=sim.address, timeout=20)

    def ask(self, messages: Any, model: str = "command-test", **fields: Any) -> Any:
        return self.client.chat(model=model, messages=self.messages(messages), request_options=ONCE, **fields)

    def stream(self, messages: Any, model: str = "command-test", **fields: Any) -> list[Any]:
        given = self.messages(messages)
        return list(self.client.chat_stream(model=model, messages=given, request_options=ONCE, **fields))

    def messages(self, given: Any) -> Any:
        return [{"role": "user", "content": given}] if isinstance(given, str) else given


ONCE = {"max_retries": 0}
FUNCTION = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather at a place", "parameters": SCHEMA},
}


@pytest.fixture
def cohere(sim: Running) -> Cohere:
    return Cohere(sim)


def added_up(events: list[Any]) -> dict[str, Any]:
    """The message that a stream's events add up to."""
    message: dict[str, Any] = {"text": "", "thinking": "", "plan": "", "calls": [], "citations": []}
    for event in events:
        kind = event.type
        given = getattr(getattr(event, "delta", None), "message", None)
        if kind == "content-delta":
            message["text"] += given.content.text or ""
            message["thinking"] += given.content.thinking or ""
        elif kind == "tool-plan-delta":
            message["plan"] += given.tool_plan
        elif kind == "tool-call-start":
            message["calls"].append(given.tool_calls)
        elif kind == "tool-call-delta":
            message["calls"][-1].function.arguments += given.tool_calls.function.arguments
        elif kind == "citation-start":
            message["citations"].append(given.citations)
    return message


def test_cohere_text_stream_and_usage(cohere: Cohere) -> None:
    answer = cohere.ask(FRANCE)
    text = answer.message.content[0].text
    assert text.startswith(PARIS)
    assert answer.finish_reason == "COMPLETE"
    assert (answer.usage.billed_units.input_tokens, answer.usage.billed_units.output_tokens) == (8, -(-len(text) // 4))
    assert answer.usage.tokens.input_tokens > answer.usage.billed_units.input_tokens
    events = cohere.stream(FRANCE)
    assert added_up(events)["text"] == text
    assert [events[0].type, events[-1].type] == ["message-start", "message-end"]
    assert events[-1].delta.usage == answer.usage
    assert cohere.ask(FRANCE, max_tokens=3).finish_reason == "MAX_TOKENS"
    assert cohere.ask(FRANCE, stop_sequences=[" Paris"]).finish_reason == "STOP_SEQUENCE"


@pytest.mark.parametrize("streamed", [False, True])
def test_cohere_tools_round_trip(cohere: Cohere, streamed: bool) -> None:
    def turn(messages: list[Any]) -> dict[str, Any]:
        if streamed:
            return added_up(cohere.stream(messages, tools=[FUNCTION]))
        said = cohere.ask(messages, tools=[FUNCTION]).message
        text = "".join(part.text for part in said.content or ())
        return {
            "text": text,
            "plan": said.tool_plan or "",
            "calls": said.tool_calls or [],
            "citations": said.citations or [],
        }

    messages: list[Any] = [{"role": "user", "content": BOTH}]
    first = turn(messages)
    assert [json.loads(call.function.arguments)["location"] for call in first["calls"]] == ["Tokyo", "Paris"]
    assert first["plan"].startswith("I will use")
    messages.append({"role": "assistant", "tool_plan": first["plan"], "tool_calls": first["calls"]})
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": f"{n} degrees"} for n, call in enumerate(first["calls"])
    ]
    second = turn(messages)
    assert "0 degrees; 1 degrees" in second["text"]
    assert [second["text"][c.start : c.end] for c in second["citations"]] == ["0 degrees", "1 degrees"]
    assert [c.sources[0].id for c in second["citations"]] == [f"{call.id}:0" for call in first["calls"]]
    with pytest.raises(cohere.sdk.BadRequestError, match="not found in previous tool calls"):
        turn([*messages[:2], {"role": "tool", "tool_call_id": "other", "content": "x"}])
    assert cohere.ask(BOTH, tools=[FUNCTION], tool_choice="NONE").message.tool_calls is None
    assert cohere.ask("Hello", tools=[FUNCTION], tool_choice="REQUIRED").finish_reason == "TOOL_CALL"


def test_cohere_thinking_schema_and_media(cohere: Cohere) -> None:
    thinking: Any = {"thinking": {"type": "enabled", "token_budget": 100}}
    first, second = cohere.ask("Why?", **thinking).message.content
    streamed = added_up(cohere.stream("Why?", **thinking))
    assert (first.thinking, second.text) == (streamed["thinking"], streamed["text"])
    wanted = {"type": "json_object", "json_schema": CITY}
    assert set(json.loads(cohere.ask("A city", response_format=wanted).message.content[0].text)) == {
        "city",
        "population",
    }
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}}
    shown = cohere.ask([{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}])
    assert f"image (image/png, {len(PNG)} bytes)" in shown.message.content[0].text


COHERE_ERRORS = [
    ("status-400", "BadRequestError"),
    ("auth-401", "UnauthorizedError"),
    ("status-403", "ForbiddenError"),
    ("cut-aftr-3", "NotFoundError"),
    ("status-422", "UnprocessableEntityError"),
    ("429", "TooManyRequestsError"),
    ("status-500", "InternalServerError"),
    ("overloaded", "ServiceUnavailableError"),
    ("status-504", "GatewayTimeoutError"),
    ("context-length", "BadRequestError"),
]


@pytest.mark.parametrize(("model", "name"), COHERE_ERRORS)
def test_cohere_errors(cohere: Cohere, model: str, name: str) -> None:
    from cohere.core.api_error import ApiError

    for ask in (cohere.ask, cohere.stream):
        with pytest.raises(ApiError) as caught:
            ask(FRANCE, model)
        assert type(caught.value).__name__ == name
        assert set(caught.value.body) == {"id", "message"}


def test_cohere_error_inside_a_stream(cohere: Cohere) -> None:
    last = cohere.stream(FRANCE, "overloaded-after-3")[-1]
    assert (last.type, last.delta.finish_reason) == ("message-end", "ERROR")
    assert "overloaded" in last.delta.error


def test_cohere_embeddings(cohere: Cohere) -> None:
    made = cohere.client.embed(
        model="embed-v4.0",
        texts=["red apples", "war and peace"],
        input_type="search_document",
        output_dimension=256,
        embedding_types=["float", "int8"],
    )
    assert [len(vector) for vector in made.embeddings.float_] == [256, 256]
    assert [len(vector) for vector in made.embeddings.int8] == [256, 256]
    assert made.meta.billed_units.input_tokens == 7


# OpenAI


def test_openai_embeddings(sim: Running) -> None:
    openai = needed("openai")
    with openai.OpenAI(base_url=sim.base, api_key="any", max_retries=0, timeout=20) as client:

        def embed(given: Any, **fields: Any) -> Any:
            return client.embeddings.create(model="text-embedding-3-small", input=given, **fields)

        packed = embed(["red apples", "green apples", "war and peace"], dimensions=128)
        plain = embed(["red apples", "green apples", "war and peace"], dimensions=128, encoding_format="float")
        assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
        assert [item.index for item in packed.data] == [0, 1, 2]
        one, other, third = [item.embedding for item in packed.data]
        assert sum(a * b for a, b in zip(one, other, strict=True)) > sum(a * b for a, b in zip(one, third, strict=True))
        assert packed.usage.prompt_tokens == packed.usage.total_tokens == 10
        assert len(embed("hello").data[0].embedding) == 1536
        assert len(embed([1, 2, 3]).data) == 1
        with pytest.raises(openai.BadRequestError):
            embed("")
        with pytest.raises(openai.RateLimitError):
            client.embeddings.create(model="429", input="hello")

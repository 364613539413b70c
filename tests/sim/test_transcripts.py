"""The bytes of short answers in each vendor's format, and the words in which requests are turned away."""

from __future__ import annotations

import json
from typing import Any

import pytest

from waypost.sim import signatures
from waypost.sim.answers import Answer, Choice, Question, ToolCall, Usage, decide
from waypost.sim.event_stream import render_message
from waypost.sim.faults import refuse_status
from waypost.sim.names import read_name
from waypost.sim.options import Behaviour
from waypost.sim.provider import Found, find_format
from waypost.sim.target import RefusedError

PATHS = {
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-x:generateContent",
    "gemini 3": "/v1beta/models/gemini-3-x:generateContent",
    "bedrock": "/model/m/converse",
    "cohere": "/v2/chat",
    "cohere embed": "/v2/embed",
    "gemini embed": "/v1beta/models/m:batchEmbedContents",
    "openai embed": "/v1/embeddings",
}
CALL = ToolCall("call_000000000000000000000001", "f", '{"city":"Tokyo"}')
TEXT = Answer(1, (Choice("Hé you", "", (), "stop"),), Usage(3, 0, 2, 0))
CALLS = Answer(1, (Choice("", "Hm.", (CALL,), "tool_calls"),), Usage(3, 0, 5, 1))


def place(name: str) -> Found:
    found = find_format(PATHS[name].encode())
    assert found
    return found


def stream(name: str, answer: Answer) -> bytes:
    spoken = place(name).spoken
    events = spoken.render_events(Question("m", "", ""), answer, Behaviour(), "0" * 24, 7)
    return b"".join(spoken.FRAME(event.data) if spoken.FRAME else event.data for event in events)


def test_anthropic_text() -> None:
    assert stream("anthropic", TEXT).decode() == (
        "event: message_start\n"
        'data: {"type":"message_start","message":{"model":"m","id":"msg_010000000000000000000000","type":"message",'
        '"role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"stop_details":null,"usage":'
        '{"input_tokens":3,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":'
        '{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":1,"service_tier":"standard",'
        '"inference_geo":"not_available"}}      }\n\n'
        "event: content_block_start\n"
        'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
        "event: ping\n"
        'data: {"type":"ping"           }\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hé"}   }\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" you"}              }\n\n'
        "event: content_block_stop\n"
        'data: {"type":"content_block_stop","index":0 }\n\n'
        "event: message_delta\n"
        'data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null,"stop_details":null},'
        '"usage":{"input_tokens":3,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":2}'
        "        }\n\n"
        "event: message_stop\n"
        'data: {"type":"message_stop"      }\n\n'
    )


def test_anthropic_thinking_and_call() -> None:
    events = [json.loads(line[6:]) for line in stream("anthropic", CALLS).decode().split("\n") if line[:5] == "data:"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert deltas == [
        {"type": "thinking_delta", "thinking": "Hm."},
        {"type": "signature_delta", "signature": signatures.sign("Hm.", 1)},
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"city":"Tok'},
        {"type": "input_json_delta", "partial_json": 'yo"}'},
    ]
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert starts[0] == {"type": "thinking", "thinking": "", "signature": ""}
    assert (starts[1]["id"], starts[1]["name"], starts[1]["input"]) == ("toolu_010000000000000000000001", "f", {})
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"]["output_tokens_details"] == {"thinking_tokens": 1}


def test_gemini_text() -> None:
    def usage(said: int) -> str:
        return (
            f'"usageMetadata":{{"promptTokenCount":3,"candidatesTokenCount":{said},"totalTokenCount":{3 + said},'
            '"promptTokensDetails":[{"modality":"TEXT","tokenCount":3}],"serviceTier":"standard"},'
            '"modelVersion":"m","responseId":"0000000000000000000000"}\r\n\r\n'
        )

    def part(text: str, end: str = "") -> str:
        content = f'{{"parts":[{{"text":"{text}"}}],"role":"model"}}'
        return f'data: {{"candidates":[{{"content":{content},{end}"index":0}}],'

    assert stream("gemini", TEXT).decode() == (
        part("Hé") + usage(1) + part(" you") + usage(2) + part("", '"finishReason":"STOP",') + usage(2)
    )


def test_bedrock_text_and_call() -> None:
    def message(name: str, payload: str) -> bytes:
        headers = ((":event-type", name), (":content-type", "application/json"), (":message-type", "event"))
        return render_message(headers, payload.encode())

    assert stream("bedrock", TEXT) == (
        message("messageStart", '{"role":"assistant","p":"abcdefghijklmnopqrs"}')
        + message(
            "contentBlockDelta",
            '{"contentBlockIndex":0,"delta":{"text":"Hé"},"p":"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"}',
        )
        + message("contentBlockDelta", '{"contentBlockIndex":0,"delta":{"text":" you"},"p":"ab"}')
        + message(
            "contentBlockStop",
            '{"contentBlockIndex":0,"p":"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ012345678"}',
        )
        + message("messageStop", '{"stopReason":"end_turn","p":"abcdefghijklmnopqrstuvwxyzABCD"}')
        + message(
            "metadata",
            '{"metrics":{"latencyMs":2},"usage":{"inputTokens":3,"outputTokens":2,"totalTokens":5,'
            '"serverToolUsage":{}},"p":"abcdefghijklm"}',
        )
    )
    assert b'"start":{"toolUse":{"name":"f","toolUseId":"tooluse_0000000000000000000001"}}' in stream("bedrock", CALLS)


def test_a_binary_message() -> None:
    """The first message of a recorded stream, byte for byte."""
    headers = ((":event-type", "messageStart"), (":content-type", "application/json"), (":message-type", "event"))
    recorded = (
        b"\x00\x00\x00\x8e\x00\x00\x00R\xee\x91\xe1B\x0b:event-type\x07\x00\x0cmessageStart\r:content-type\x07\x00\x10"
        b'application/json\r:message-type\x07\x00\x05event{"p":"abcdefghijklmnopq","role":"assistant"}\xf4P\xac\x95'
    )
    assert render_message(headers, b'{"p":"abcdefghijklmnopq","role":"assistant"}') == recorded


def test_cohere_call() -> None:
    lines = stream("cohere", CALLS).decode().split("\n\n")
    assert [line.split("\n")[0].removeprefix("event: ") for line in lines[:-2]] == [
        "message-start",
        "content-start",
        "content-delta",
        "content-end",
        "tool-call-start",
        "tool-call-delta",
        "tool-call-delta",
        "tool-call-end",
        "message-end",
    ]
    assert lines[1:3] == [
        'event: content-start\ndata: {"type":"content-start","index":0,"delta":{"message":{"content":'
        '{"type":"thinking","thinking":""}}}}',
        'event: content-delta\ndata: {"type":"content-delta","index":0,"delta":{"message":{"content":'
        '{"thinking":"Hm."}}}}',
    ]
    assert lines[4] == (
        'event: tool-call-start\ndata: {"type":"tool-call-start","index":1,"delta":{"message":{"tool_calls":'
        '{"id":"f_000000000001","type":"function","function":{"name":"f","arguments":""}}}}}'
    )
    assert lines[-2:] == ["data: [DONE]", ""]


def test_error_bodies() -> None:
    def refused(name: str) -> tuple[Any, dict[str, str]]:
        reply = place(name).spoken.render_refusal(refuse_status(429), 7)
        return json.loads(reply.events[0].data), dict(reply.headers)

    says = "The simulator was told to answer with status 429."
    request_id = "req_000000000000000000000007"
    assert refused("anthropic") == (
        {"type": "error", "error": {"type": "rate_limit_error", "message": says}, "request_id": request_id},
        {"request-id": request_id},
    )
    error = refused("gemini")[0]["error"]
    assert (error["code"], error["message"], error["status"]) == (429, says, "RESOURCE_EXHAUSTED")
    body, headers = refused("bedrock")
    assert (body, headers["x-amzn-errortype"].split(":")[0]) == ({"message": says}, "ThrottlingException")
    assert refused("cohere")[0]["message"] == says


# Requests that are turned away

SCHEMA = {"type": "object", "properties": {}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
HI = {"role": "user", "content": "Hi"}
ANTHROPIC: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [HI]}
TOOL = {"name": "f", "input_schema": SCHEMA}
SAID = {"role": "user", "parts": [{"text": "Hi"}]}
CALLED = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}
ANSWERED = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}
ASKED = {"role": "user", "content": [{"text": "Hi"}]}
SPEC = {"toolSpec": {"name": "f", "inputSchema": {"json": SCHEMA}}}


def anthropic(*blocks: Any, **fields: Any) -> dict[str, Any]:
    return {**ANTHROPIC, **({"messages": [{"role": "user", "content": list(blocks)}]} if blocks else {}), **fields}


def cached(count: int) -> list[Any]:
    return [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}} for _ in range(count)]


REFUSED: list[tuple[str, Any, str]] = [
    ("anthropic", {"model": "m", "messages": [HI]}, "max_tokens: Field required"),
    ("anthropic", anthropic(seed=1), "seed: Extra inputs are not permitted"),
    ("anthropic", anthropic(messages=[{**HI, "name": "x"}]), "messages.0.name: Extra inputs are not permitted"),
    ("anthropic", anthropic({"type": "text", "text": ""}), "must contain non-whitespace text"),
    ("anthropic", anthropic({"type": "text", "text": "x", "id": 1}), "content.0.text.id: Extra inputs"),
    ("anthropic", anthropic(RESULT), "unexpected `tool_use_id` found in `tool_result` blocks: toolu_1"),
    ("anthropic", anthropic({**USE, "id": "a.b"}), r"String should match pattern '^[a-zA-Z0-9_-]+$'"),
    ("anthropic", anthropic({**USE, "input": "{}"}), "Input should be a valid dictionary"),
    ("anthropic", anthropic({"type": "thinking", "thinking": "x"}), "thinking.signature: Field required"),
    ("anthropic", anthropic({"type": "redacted_thinking", "data": "x"}), "Invalid `data`"),
    ("anthropic", anthropic(temperature=1.5), "temperature: range: 0..1"),
    ("anthropic", anthropic(thinking={"type": "enabled", "budget_tokens": 9}), "greater than or equal to 1024"),
    ("anthropic", anthropic(thinking={"type": "enabled", "budget_tokens": 2000}), "must be greater than"),
    ("anthropic", anthropic(thinking={"type": "adaptive"}, temperature=0.5), "may only be set to 1"),
    ("anthropic", anthropic(tools=[TOOL, TOOL]), "Tool names must be unique"),
    ("anthropic", anthropic(tools=[{"name": "a b", "input_schema": SCHEMA}]), "tools.0.custom.name"),
    ("anthropic", anthropic(tools=[{"name": "f", "input_schema": {}}]), "Input should be 'object'"),
    ("anthropic", anthropic(tools=[TOOL], tool_choice={"type": "tool", "name": "g"}), "Tool 'g' not found"),
    ("anthropic", anthropic(tool_choice={"type": "any"}), "while providing tools"),
    ("anthropic", anthropic(*cached(5)), "A maximum of 4 blocks with cache_control may be provided. Found 5."),
    (
        "anthropic",
        anthropic({"type": "image", "source": {"type": "base64", "media_type": "image/bmp", "data": ""}}),
        "media_type: Input should be 'image/jpeg' or",
    ),
    (
        "anthropic",
        anthropic({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%"}}),
        "base64",
    ),
    (
        "anthropic",
        anthropic(output_config={"format": {"type": "json_schema", "schema": {"type": "integer", "minimum": 1}}}),
        "For 'integer' type, properties minimum are not supported",
    ),
    ("gemini", {}, "contents is not specified"),
    ("gemini", {"contents": [{"role": "user", "parts": []}]}, "contents.parts must not be empty"),
    ("gemini", {"contents": [{**SAID, "role": "assistant"}]}, "Please use a valid role: user, model."),
    ("gemini", {"contents": [SAID], "stream": True}, 'Unknown name "stream"'),
    ("gemini", {"contents": [SAID], "generationConfig": {"n": 1}}, "Unknown name \"n\" at 'generation_config'"),
    (
        "gemini",
        {"contents": [SAID], "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"$ref": "#"}}]}]},
        'Unknown name "$ref" at',
    ),
    ("gemini", {"contents": [SAID, CALLED, SAID]}, "number of function response parts"),
    ("gemini 3", {"contents": [SAID, CALLED, ANSWERED]}, "missing a thought_signature"),
    (
        "gemini",
        {"contents": [SAID], "generationConfig": {"thinkingConfig": {"thinkingBudget": 1, "thinkingLevel": "LOW"}}},
        "only one of thinking budget and thinking level",
    ),
    ("gemini", {"contents": [SAID], "generationConfig": {"responseSchema": {"type": "OBJECT"}}}, "response_mime_type"),
    ("bedrock", {"messages": []}, "The messages field is required"),
    ("bedrock", {"messages": [ASKED, ASKED]}, "must alternate between user and assistant"),
    ("bedrock", {"messages": [{**ASKED, "role": "system"}]}, "Member must satisfy enum value set"),
    ("bedrock", {"messages": [{"role": "user", "content": [{"text": ""}]}]}, "is blank"),
    ("bedrock", {"messages": [ASKED], "toolConfig": {"tools": [SPEC, SPEC]}}, "must be unique"),
    (
        "bedrock",
        {"messages": [{"role": "user", "content": [{"toolResult": {"toolUseId": "x", "content": []}}]}]},
        "toolConfig field must be defined",
    ),
    (
        "bedrock",
        {"messages": [{"role": "user", "content": [{"image": {"format": "jpg", "source": {"bytes": ""}}}]}]},
        "Value 'jpg'",
    ),
    ("cohere", {"model": "m", "messages": []}, "messages must be provided"),
    ("cohere", {"model": "m", "messages": [HI], "n": 2}, "unknown field `n`"),
    ("cohere", {"model": "m", "messages": [HI], "tool_choice": "REQUIRED"}, "when tools are provided"),
    ("cohere", {"model": "m", "messages": [HI], "p": 1.0}, "p must be between"),
    ("cohere embed", {"model": "m", "texts": ["x"]}, "input_type"),
    ("cohere embed", {"model": "m", "input_type": "search_query", "texts": ["x"] * 97}, "between 1 and 96"),
    ("gemini embed", {"requests": [{"model": "models/other", "content": SAID}]}, "unexpected model name"),
    ("gemini embed", {"requests": []}, "at most 100"),
    ("openai embed", {"model": "m", "input": []}, "cannot be empty"),
    ("openai embed", {"input": "x"}, "must provide a model"),
]


@pytest.mark.parametrize(("name", "body", "says"), REFUSED)
def test_what_is_turned_away(name: str, body: Any, says: str) -> None:
    found = place(name)
    with pytest.raises(RefusedError) as caught:
        found.spoken.parse_question(json.dumps(body).encode(), found.target)
    assert says in str(caught.value)
    assert caught.value.refusal.status == 400


def test_signatures() -> None:
    made = signatures.sign("thought", 5)
    assert signatures.genuine(made, "thought")
    assert signatures.genuine(made.replace("+", "-").replace("/", "_").rstrip("="), "thought")
    assert made != signatures.sign("thought", 6)
    for wrong in (signatures.sign("other", 5), made[:-8], "", "%", "somebody else's"):
        assert not signatures.genuine(wrong, "thought")


def test_media_in_openai_parts() -> None:
    found = find_format(b"/v1/chat/completions")
    assert found
    parts = [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,JVBERg=="}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
        {"type": "input_audio", "input_audio": {"data": "JVBERg==", "format": "wav"}},
    ]
    body = {"model": "demo", "messages": [{"role": "user", "content": parts}]}
    question = found.spoken.parse_question(json.dumps(body).encode(), found.target)
    assert (
        decide(question, read_name("demo").behaviour)
        .choices[0]
        .text.endswith(
            "With it came: image (https://example.com/a.png), document (application/pdf, 4 bytes), "
            "document (application/pdf, 4 bytes), audio (audio/wav, 4 bytes)."
        )
    )


def test_the_model_in_an_azure_path() -> None:
    found = find_format(b"/openai/deployments/gpt-x%2Bwords-3/chat/completions?api-version=2024-10-21")
    assert found and found.target.model == "gpt-x+words-3"
    assert found.spoken.parse_question(b'{"messages":[]}', found.target).model == "gpt-x+words-3"

"""Requests for Bedrock: recorded conversations mean the same after our rendering, and every field has its place."""

from __future__ import annotations

import base64
import importlib
import json
from typing import Any

import msgspec
import pytest

from tests.formats.bedrock_history import BEYOND, as_openai, beyond, meaning, model_of
from tests.formats.recordings import chats
from waypost.chat import Chat
from waypost.errors import Refusal
from waypost.formats.bedrock_converse import known_model, parse_error, parse_response, render_request
from waypost.formats.format import Model, Rendered, Unsupported
from waypost.formats.openai_answer import Stamp, render_completion
from waypost.formats.openai_chat import parse_request
from waypost.formats.openai_request import parse_chat

Json = dict[str, Any]
CLAUDE, BUDGET, OLD, NOVA, NOVA_2, LLAMA, GPT, QWEN, PIXTRAL, ARN = (
    known_model(id)
    for id in (
        "us.anthropic.claude-sonnet-4-6", "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "us.anthropic.claude-sonnet-4-20250514-v1:0", "us.amazon.nova-pro-v1:0", "us.amazon.nova-2-lite-v1:0",
        "us.meta.llama4-maverick-17b-instruct-v1:0", "openai.gpt-oss-120b-1:0", "qwen.qwen3-32b-v1:0",
        "us.mistral.pixtral-large-2502-v1:0",
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/mi1dadi0g15f",
    )
)  # fmt: skip
HELLO = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALLED = {"role": "assistant", "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f"}}]}
RESULT = {"role": "tool", "tool_call_id": "t1", "content": "21"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
WANTED = {"type": "json_schema", "json_schema": {"name": "A b", "schema": SCHEMA, "description": "d"}}
PDF = "data:application/pdf;base64,JVBERi0xLjQK"
PNG = "data:image/png;base64,iVBORw0KGgo="
MARK = {"cache_control": {"type": "ephemeral"}}
POINT = {"cachePoint": {"type": "default"}}


def chat(*messages: Json, **fields: Any) -> Chat:
    body = {"model": "m", "messages": messages or [HELLO], **fields}
    return parse_chat(parse_request(json.dumps(body).encode()).fields)


def rendered(*messages: Json, model: Model = BUDGET, **fields: Any) -> tuple[Json, Rendered]:
    made = render_request(chat(*messages, **fields), model)
    return json.loads(made.body), made


def body(*messages: Json, model: Model = BUDGET, **fields: Any) -> Json:
    return rendered(*messages, model=model, **fields)[0]


def file(url: str, name: str = "") -> Json:
    return {"type": "file", "file": {"file_data": url, **({"filename": name} if name else {})}}


# Recorded conversations


def rendered_recordings() -> list[tuple[Any, Json, Rendered]]:
    made = []
    for exchange in chats("bedrock"):
        if not beyond(exchange.request):
            id = model_of(exchange.url)
            said = as_openai(exchange.request, id, "converse-stream" in exchange.url)
            wanted = parse_chat(parse_request(json.dumps(said).encode()).fields)
            made.append((exchange, said, render_request(wanted, known_model(id))))
    return made


def test_recorded_histories_mean_the_same() -> None:
    compared = rendered_recordings()
    for exchange, _, request in compared:
        assert meaning(json.loads(request.body)) == meaning(exchange.request), exchange.where
        assert exchange.url.endswith(request.path), exchange.where
        assert request.dropped == (), exchange.where
    left_out = {beyond(exchange.request) for exchange in chats("bedrock")} - {""}
    assert len(compared) > 190 and left_out <= BEYOND.keys()


def test_the_service_model_accepts_what_is_rendered() -> None:
    """botocore's own check of parameters against AWS's published model of the service."""
    session = pytest.importorskip("botocore.session", reason="botocore is not installed")
    validate = importlib.import_module("botocore.validate")
    model = session.get_session().get_service_model("bedrock-runtime")
    shape = model.operation_model("Converse").input_shape
    for exchange, _, request in rendered_recordings():
        said = with_bytes(json.loads(request.body)) | {"modelId": model_of(exchange.url)}
        report = validate.ParamValidator().validate(said, shape)
        assert not report.has_errors(), (exchange.where, report.generate_report())


def with_bytes(value: Any) -> Any:
    """Blobs as the SDK's callers give them."""
    if isinstance(value, dict):
        return {
            name: base64.b64decode(one) if name in ("bytes", "redactedContent") else with_bytes(one)
            for name, one in value.items()
        }
    return [with_bytes(one) for one in value] if isinstance(value, list) else value


def test_our_own_answers_come_back_as_they_were() -> None:
    """What a client that keeps every field sends back becomes the very blocks that Claude and Nova wrote."""
    stamp = Stamp(*(msgspec.Raw(json.dumps(text).encode()) for text in ("i", "m", "p")), 0)
    compared = 0
    for exchange in chats("bedrock", stream=False):
        model = known_model(model_of(exchange.url))
        if model.family not in ("claude", "nova-2"):
            continue
        completion = parse_response(exchange.body, render_request(chat(), model).reading)
        message = json.loads(render_completion(completion, stamp, 1))["choices"][0]["message"]
        made = body(HELLO, message, HELLO, model=model)["messages"]
        content = [plain(block) for block in json.loads(exchange.body)["output"]["message"]["content"]]
        assert made[1]["content"] == content, exchange.where
        compared += 1
    assert compared > 100


def plain(block: Json) -> Json:
    if block.get("toolUse", {}).get("type") == "tool_use":
        return {"toolUse": {name: value for name, value in block["toolUse"].items() if name != "type"}}
    return block


def test_recorded_errors() -> None:
    faults = [parse_error(exchange.status, exchange.body) for exchange in chats("bedrock", good=False)]
    assert all(fault.message for fault in faults)
    kinds = sorted(fault.kind for fault in faults)
    assert kinds == ["bad_request"] * 7 + ["not_found"] * 3


# Where it goes


def test_the_least_request() -> None:
    made, request = rendered()
    assert made == {"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}
    assert request.path == "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"
    assert (request.headers, request.dropped) == ((), ())
    assert rendered(stream=True)[1].path.endswith("/converse-stream")
    assert rendered(model=ARN)[1].path.startswith("/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A")
    assert rendered(model=ARN)[1].path.endswith("%2Fmi1dadi0g15f/converse")


def test_plain_fields() -> None:
    made, request = rendered(
        temperature=1.7, top_p=0.5, top_k=3, stop=["END", "\n"], user="u", service_tier="flex", model=OLD, seed=1,
        frequency_penalty=0.5, presence_penalty=0, logprobs=True, logit_bias={"1": 2}, max_tokens=20,
        guardrailConfig={"guardrailIdentifier": "g", "guardrailVersion": "1"},
    )  # fmt: skip
    expected = {"temperature": 1, "topP": 0.5, "maxTokens": 20, "stopSequences": ["END"]}
    assert made["inferenceConfig"] == expected
    assert made["additionalModelRequestFields"] == {"top_k": 3} and made["serviceTier"] == {"type": "flex"}
    assert made["guardrailConfig"] == {"guardrailIdentifier": "g", "guardrailVersion": "1"}
    assert sorted(request.dropped) == ["frequency_penalty", "logit_bias", "logprobs", "seed", "stop", "user"]


def test_sampling_as_far_as_the_model_goes() -> None:
    made, request = rendered(temperature=0.5, top_p=0.9, model=CLAUDE)
    assert made["inferenceConfig"] == {"temperature": 0.5} and request.dropped == ("top_p",)
    newest = known_model("us.anthropic.claude-opus-4-8")
    made, request = rendered(temperature=0.5, top_k=2, model=newest)
    assert made.keys() == {"messages"} and request.dropped == ("temperature", "top_k")
    assert rendered(temperature=1, model=newest)[1].dropped == ()
    assert body(top_k=20, model=NOVA)["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 20}}
    assert rendered(top_k=20, model=LLAMA)[1].dropped == ("top_k",)


def test_a_callers_own_fields_are_merged() -> None:
    made = body(top_k=3, model=OLD, additionalModelRequestFields={"top_k": 4, "anthropic_beta": ["x"]})
    assert made["additionalModelRequestFields"] == {"top_k": 4, "anthropic_beta": ["x"]}


def test_several_answers_are_refused() -> None:
    with pytest.raises(Unsupported) as refused:
        body(n=2)
    assert refused.value.param == "n"


# Tools


def choice_of(**fields: Any) -> Json | None:
    return body(tools=[TOOL], **fields)["toolConfig"].get("toolChoice")


def test_tool_choice() -> None:
    by_name = {"type": "function", "function": {"name": "f"}}
    assert choice_of() is None and choice_of(tool_choice="auto") is None
    assert choice_of(tool_choice="required") == {"any": {}}
    assert choice_of(tool_choice=by_name) == {"tool": {"name": "f"}}
    assert "toolConfig" not in body(tools=[TOOL], tool_choice="none")
    with pytest.raises(Unsupported) as refused:
        choice_of(tool_choice="required", model=LLAMA)
    assert refused.value.param == "tool_choice"


def test_a_tool_by_name_where_only_any_can_be_forced() -> None:
    other = {"type": "function", "function": {"name": "g"}}
    by_name = {"type": "function", "function": {"name": "g"}}
    made = body(tools=[TOOL, other], tool_choice=by_name, model=PIXTRAL)["toolConfig"]
    assert [tool["toolSpec"]["name"] for tool in made["tools"]] == ["g"] and made["toolChoice"] == {"any": {}}


def test_no_call_may_follow_those_of_the_history() -> None:
    made = body(HELLO, CALLED, RESULT, tools=[TOOL], tool_choice="none")
    assert [tool["toolSpec"]["name"] for tool in made["toolConfig"]["tools"]] == ["f"]
    assert "toolChoice" not in made["toolConfig"] and "call no tool" in made["system"][0]["text"]
    made = body(HELLO, CALLED, RESULT)
    assert [tool["toolSpec"]["name"] for tool in made["toolConfig"]["tools"]] == ["f"] and "system" not in made


def test_parallel_calls_are_cut_by_the_reader() -> None:
    assert rendered(tools=[TOOL], parallel_tool_calls=False)[1].reading.first_call_only
    assert not rendered(tools=[TOOL])[1].reading.first_call_only


def test_allowed_tools_are_the_only_ones() -> None:
    other = {"type": "function", "function": {"name": "g"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    made = body(tools=[TOOL, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})["toolConfig"]
    assert [tool["toolSpec"]["name"] for tool in made["tools"]] == ["g"] and made["toolChoice"] == {"any": {}}


def test_strict_is_kept_or_refused() -> None:
    strict = {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}
    [spec] = [tool["toolSpec"] for tool in body(tools=[strict])["toolConfig"]["tools"]]
    assert spec["strict"] is True and spec["inputSchema"]["json"]["additionalProperties"] is False
    with pytest.raises(Unsupported) as refused:
        body(tools=[strict], model=NOVA)
    assert refused.value.param == "tools[0].function.strict"


def test_tools_of_the_upstreams_own() -> None:
    made = body(tools=[TOOL, {"type": "nova_code_interpreter"}], model=NOVA_2)["toolConfig"]["tools"]
    assert made[1] == {"systemTool": {"name": "nova_code_interpreter"}}
    for fields in (
        {"tools": [{"type": "web_search_20250305"}]},
        {"tools": [TOOL], "model": known_model("deepseek.r1")},
    ):
        with pytest.raises(Unsupported):
            body(**fields)


def test_names_and_ids_are_made_fit() -> None:
    tool = {"type": "function", "function": {"name": "get.weather"}}
    called = {
        "role": "assistant",
        "tool_calls": [{"id": "functions.f:0", "type": "function", "function": {"name": "get.weather"}}],
    }
    result = {"role": "tool", "tool_call_id": "functions.f:0", "content": "21"}
    made, request = rendered(HELLO, called, result, tools=[tool])
    use, answer = made["messages"][1]["content"][0]["toolUse"], made["messages"][2]["content"][0]["toolResult"]
    assert (use["name"], use["toolUseId"], answer["toolUseId"]) == ("get_weather", "functions_f_0", "functions_f_0")
    assert request.reading.names == {"get_weather": "get.weather"}
    assert (
        body(HELLO, called, result, model=LLAMA)["messages"][1]["content"][0]["toolUse"]["toolUseId"] == "functions.f:0"
    )


def test_results_stand_first_and_together() -> None:
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ("t1", "t2")]
    second = {
        "role": "tool",
        "tool_call_id": "t2",
        "content": [{"type": "text", "text": "x"}, image(PNG)],
        "is_error": True,
    }
    empty = {**RESULT, "content": ""}
    made = body(HELLO, {"role": "assistant", "tool_calls": calls}, empty, HELLO, second)["messages"]
    assert made[2] == {
        "role": "user",
        "content": [
            {"toolResult": {"toolUseId": "t1", "content": [{"text": "(no output)"}]}},
            {
                "toolResult": {
                    "toolUseId": "t2",
                    "content": [{"text": "x"}, {"image": {"format": "png", "source": {"bytes": "iVBORw0KGgo="}}}],
                    "status": "error",
                }
            },
            {"text": "Hello"},
        ],
    }


def image(url: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def test_what_a_result_may_not_hold_follows_it() -> None:
    result = {**RESULT, "content": [file(PDF, "report.pdf")]}
    made = body(HELLO, CALLED, result, model=NOVA)["messages"][2]["content"]
    assert made[0] == {"toolResult": {"toolUseId": "t1", "content": [{"text": "It follows."}]}}
    assert made[2]["document"]["name"] == "report"
    made = body(HELLO, CALLED, result)["messages"][2]["content"]
    assert made[0]["toolResult"]["content"][0]["document"]["format"] == "pdf" and len(made) == 1


def test_words_after_results_where_they_may_not_be_mixed() -> None:
    made = body(HELLO, CALLED, RESULT, HELLO, model=LLAMA)["messages"]
    assert [message["role"] for message in made] == ["user", "assistant", "user", "assistant", "user"]
    assert made[3]["content"] == [{"text": "."}] and made[4]["content"] == [{"text": "Hello"}]
    assert len(body(HELLO, CALLED, RESULT, HELLO)["messages"]) == 3


# The shape of the answer


def test_a_schema_natively() -> None:
    made = body(response_format=WANTED)["outputConfig"]["textFormat"]
    wanted = made["structure"]["jsonSchema"]
    assert (made["type"], wanted["name"], wanted["description"]) == ("json_schema", "A_b", "d")
    assert json.loads(wanted["schema"]) == {
        "type": "object",
        "properties": {"a": {"type": "integer", "description": "{minimum: 1}"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    wanted = body(response_format=WANTED, model=GPT)["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert json.loads(wanted["schema"]) == SCHEMA


def test_a_schema_by_a_forced_tool() -> None:
    made, request = rendered(response_format=WANTED, model=NOVA)
    assert made["toolConfig"]["toolChoice"] == {"tool": {"name": "structured_answer"}}
    assert made["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"] == SCHEMA
    assert request.reading.schema_tool == "structured_answer"
    made, request = rendered(response_format=WANTED, tools=[TOOL], model=NOVA)
    assert made["toolConfig"]["toolChoice"] == {"any": {}} and len(made["toolConfig"]["tools"]) == 2


def test_a_schema_in_words_or_not_at_all() -> None:
    made, request = rendered(response_format=WANTED, model=LLAMA)
    assert '"minimum":1' in made["system"][0]["text"] and request.reading.strip_fences
    strict = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    with pytest.raises(Unsupported) as refused:
        body(response_format=strict, model=LLAMA)
    assert refused.value.param == "response_format"
    made, request = rendered(response_format={"type": "json_object"})
    assert "JSON object" in made["system"][0]["text"] and request.reading.strip_fences


# Reasoning


def fields_of(**fields: Any) -> Json:
    return body(**fields).get("additionalModelRequestFields", {})


def test_thinking_in_each_familys_spelling() -> None:
    low = {"reasoning_effort": "low"}
    assert fields_of(model=BUDGET, **low) == {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    adaptive = {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}}
    assert fields_of(model=CLAUDE, **low) == adaptive
    assert fields_of(model=NOVA_2, **low) == {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}
    assert fields_of(model=GPT, **low) == {"reasoning_effort": "low"}
    assert fields_of(model=QWEN, **low) == {"reasoning_config": "low"}
    assert fields_of(model=NOVA, **low) == fields_of(model=LLAMA, **low) == {}
    assert fields_of(model=BUDGET, reasoning_effort="none") == fields_of(model=BUDGET) == {}
    assert fields_of(model=GPT, reasoning_effort="none") == {"reasoning_effort": "low"}


def test_a_wish_to_think_that_a_model_cannot_have_is_named() -> None:
    assert rendered(model=NOVA, reasoning_effort="low")[1].dropped == ("reasoning_effort",)
    assert rendered(model=NOVA, reasoning={"enabled": True})[1].dropped == ("reasoning",)
    assert rendered(model=NOVA, reasoning_effort="none")[1].dropped == ()


def test_a_budget_leaves_room_for_words() -> None:
    made, request = rendered(reasoning_effort="high", max_tokens=4000, temperature=0.3, top_k=3)
    assert made["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 3200
    assert made["inferenceConfig"] == {"maxTokens": 4000} and request.dropped == ("temperature", "top_k")
    made = body(reasoning_effort="low", max_tokens=100)
    assert made["inferenceConfig"]["maxTokens"] > made["additionalModelRequestFields"]["thinking"]["budget_tokens"]
    made = body(reasoning={"max_tokens": 2000}, max_tokens=500)
    assert made["inferenceConfig"]["maxTokens"] == 2500
    assert made["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 2000


def test_a_forced_tool_excludes_a_budget() -> None:
    made, request = rendered(tools=[TOOL], tool_choice="required", reasoning_effort="high")
    assert "additionalModelRequestFields" not in made and request.dropped == ("reasoning_effort",)


def test_an_answer_begun_by_the_caller_excludes_a_budget() -> None:
    made, request = rendered(HELLO, {"role": "assistant", "content": "It is"}, reasoning_effort="high")
    assert "additionalModelRequestFields" not in made and request.dropped == ("reasoning_effort",)


def test_a_turn_that_began_without_thought_goes_on_so() -> None:
    made, request = rendered(HELLO, CALLED, RESULT, tools=[TOOL], reasoning_effort="high")
    assert "additionalModelRequestFields" not in made and request.dropped == ("reasoning_effort",)
    detail = {"type": "reasoning.text", "text": "So", "signature": "s", "format": "anthropic-claude-v1"}
    thought = {**CALLED, "reasoning_details": [detail]}
    made, request = rendered(HELLO, thought, RESULT, tools=[TOOL], reasoning_effort="high")
    assert "thinking" in made["additionalModelRequestFields"] and request.dropped == ()


def test_only_claudes_own_thoughts_return_and_only_to_claude() -> None:
    details = [
        {"type": "reasoning.text", "text": "So", "signature": "s", "format": "anthropic-claude-v1"},
        {"type": "reasoning.encrypted", "data": "Eu8E", "format": "anthropic-claude-v1"},
        {"type": "reasoning.text", "text": "unsigned", "format": "anthropic-claude-v1"},
        {"type": "reasoning.text", "text": "Hm", "signature": "s", "format": "google-gemini-v1"},
    ]
    answer = {"role": "assistant", "content": "4", "reasoning_details": details}
    made = body(HELLO, answer, HELLO)["messages"][1]["content"]
    assert made == [
        {"reasoningContent": {"reasoningText": {"text": "So", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": base64.b64encode(b"Eu8E").decode()}},
        {"text": "4"},
    ]
    assert body(HELLO, answer, HELLO, model=NOVA_2)["messages"][1]["content"] == [{"text": "4"}]


# Media


def test_media() -> None:
    parts = [
        {"type": "text", "text": "Look"},
        image(PNG),
        file(PDF, "../Q3 report_final.pdf"),
        file("data:text/csv;base64,YQ=="),
        file("JVBERi0xLjQK"),
        {"type": "video_url", "video_url": {"url": "s3://bucket/film.3gp"}},
    ]
    made = body({"role": "user", "content": parts}, model=NOVA)["messages"][0]["content"]
    assert made == [
        {"text": "Look"},
        {"image": {"format": "png", "source": {"bytes": "iVBORw0KGgo="}}},
        {"document": {"name": "Q3 report final", "format": "pdf", "source": {"bytes": "JVBERi0xLjQK"}}},
        {"document": {"name": "Document 2", "format": "csv", "source": {"bytes": "YQ=="}}},
        {"document": {"name": "Document 3", "format": "pdf", "source": {"bytes": "JVBERi0xLjQK"}}},
        {"video": {"format": "three_gp", "source": {"s3Location": {"uri": "s3://bucket/film.3gp"}}}},
    ]


def test_documents_need_words_and_names_of_their_own() -> None:
    message = {"role": "user", "content": [file(PDF, "a.pdf"), file(PDF, "a.pdf")]}
    made = body(message)["messages"][0]["content"]
    assert made[0] == {"text": "."} and [block["document"]["name"] for block in made[1:]] == ["a", "a 2"]


@pytest.mark.parametrize(
    ("part", "model"),
    [
        (image("https://a.example/x.png"), NOVA),
        (image("data:image/tiff;base64,AAAA"), NOVA),
        (image(PNG), GPT),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, NOVA),
        ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}, CLAUDE),
        ({"type": "file", "file": {"file_id": "file-1"}}, CLAUDE),
        (file("data:application/zip;base64,AAAA"), CLAUDE),
        (file(PDF), known_model("us.amazon.nova-micro-v1:0")),
    ],
)
def test_media_that_cannot_be_taken(part: Json, model: Model) -> None:
    with pytest.raises(Unsupported) as refused:
        body({"role": "user", "content": [part]}, model=model)
    assert refused.value.param == "messages[0].content[0]"


def test_sound_where_a_model_hears() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    hearing = msgspec.structs.replace(NOVA_2, inputs=NOVA_2.inputs | {"audio"})
    made = body({"role": "user", "content": [part]}, model=hearing)["messages"][0]["content"]
    assert made == [{"audio": {"format": "wav", "source": {"bytes": "AAAA"}}}]


# Caching


def test_breakpoints_where_the_caller_sets_them() -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief", **MARK}]}
    user = {"role": "user", "content": [file(PDF), {"type": "text", "text": "Read"}], **MARK}
    tool = {**TOOL, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    made, request = rendered(system, user, tools=[tool])
    assert made["system"] == [{"text": "Be brief"}, POINT]
    assert made["messages"][0]["content"][-1] == POINT
    assert made["toolConfig"]["tools"][-1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert request.dropped == ()
    made, request = rendered(system, user, tools=[tool], model=NOVA)
    assert (
        len(made["toolConfig"]["tools"]) == 1 and made["system"][-1] == POINT and request.dropped == ("cache_control",)
    )
    made, request = rendered(system, user, model=LLAMA)
    assert POINT not in made["system"] and request.dropped == ("cache_control",)


def test_a_breakpoint_does_not_follow_a_document() -> None:
    user = {"role": "user", "content": [{"type": "text", "text": "Read"}, {**file(PDF), **MARK}]}
    assert body(user)["messages"][0]["content"][-2:] == [{"text": "\n"}, POINT]
    plain_user = {"role": "user", "content": [{"type": "text", "text": "Read"}, file(PDF)]}
    assert body(plain_user, **MARK)["messages"][0]["content"][-2:] == [{"text": "\n"}, POINT]


def test_a_breakpoint_in_a_result_follows_it() -> None:
    result = {**RESULT, "content": [{"type": "text", "text": "21", **MARK}]}
    made = body(HELLO, CALLED, result)["messages"][2]["content"]
    assert made == [{"toolResult": {"toolUseId": "t1", "content": [{"text": "21"}]}}, POINT]


def test_the_last_four_breakpoints_count() -> None:
    parts = [{"type": "text", "text": str(number), **MARK} for number in range(6)]
    made, request = rendered({"role": "user", "content": parts})
    content = made["messages"][0]["content"]
    assert content.count(POINT) == 4 and content[:3] == [{"text": "0"}, {"text": "1"}, {"text": "2"}]
    assert request.dropped == ("cache_control",)
    assert body({"role": "user", "content": parts}, **MARK)["messages"][0]["content"].count(POINT) == 4


def test_breakpoints_of_our_own() -> None:
    model = msgspec.structs.replace(BUDGET, cache_from=10)
    long = {"role": "system", "content": "x" * 100}
    made = body(long, HELLO, tools=[TOOL], model=model)
    assert made["system"][-1] == made["messages"][-1]["content"][-1] == POINT
    assert made["toolConfig"]["tools"][-1] == POINT
    assert POINT not in body(HELLO, model=msgspec.structs.replace(BUDGET, cache_from=1000))["messages"][0]["content"]


# Turns


def test_turns_alternate() -> None:
    made = body(HELLO, {"role": "user", "content": [{"type": "text", "text": " "}]}, HELLO)["messages"]
    assert made == [{"role": "user", "content": [{"text": "Hello"}, {"text": "Hello"}]}]
    assert body({"role": "system", "content": "Greet"})["messages"] == [
        {"role": "user", "content": [{"text": "Greet"}]}
    ]
    with pytest.raises(Refusal):
        body({"role": "user", "content": ""})


def test_a_conversation_begins_with_the_user() -> None:
    greeting = {"role": "assistant", "content": "How can I help?"}
    for before in ([], [{"role": "system", "content": "S"}], [{"role": "user", "content": " "}]):
        turns = body(*before, greeting, HELLO, model=NOVA)["messages"]
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
        assert turns[0]["content"] == [{"text": "."}]
    assert body(greeting, HELLO)["messages"][0]["role"] == "assistant"


def test_an_answer_begun_by_the_caller() -> None:
    begun = {"role": "assistant", "content": "It is "}
    assert body(HELLO, begun)["messages"][1]["content"] == [{"text": "It is"}]
    with pytest.raises(Unsupported) as refused:
        body(HELLO, begun, model=CLAUDE)
    assert refused.value.param == "messages"


def test_a_kept_turn_that_was_changed_is_said_anew() -> None:
    kept = {"bedrock": {"content": [{"text": "4"}, {"toolResult": {"toolUseId": "x", "content": []}}]}}
    answer = {"role": "assistant", "content": "4", "extra_content": kept}
    assert len(body(HELLO, answer, HELLO)["messages"][1]["content"]) == 2
    in_parts = {**answer, "content": [{"type": "text", "text": "4"}]}
    assert len(body(HELLO, in_parts, HELLO)["messages"][1]["content"]) == 2
    assert body(HELLO, {**answer, "content": "5"}, HELLO)["messages"][1]["content"] == [{"text": "5"}]
    for broken in ({"content": 3}, {"content": [{"toolUse": {}}]}, {"content": [{"citationsContent": 1}]}):
        answer["extra_content"] = {"bedrock": broken}
        assert body(HELLO, answer, HELLO)["messages"][1]["content"] == [{"text": "4"}]


def test_any_model_will_do() -> None:
    """A plain Model, as another part of the gateway may hold it, is completed by its id."""
    model = Model(id="us.amazon.nova-lite-v1:0", json_object=False)
    assert body(top_k=3, model=model)["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 3}}


@pytest.mark.parametrize(
    ("id", "family", "reasoning", "schema"),
    [
        ("anthropic.claude-v2:1", "claude", "none", False),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", "claude", "budget", False),
        ("global.anthropic.claude-opus-4-6-v1", "claude", "adaptive", True),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-haiku-4-5-20251001-v1:0",
            "claude",
            "budget",
            True,
        ),
        ("eu.amazon.nova-2-lite-v1:0", "nova-2", "effort", False),
        ("deepseek.v3-v1:0", "other", "none", True),
        ("moonshot.kimi-k2-thinking", "other", "none", True),
    ],
)
def test_known_models(id: str, family: str, reasoning: str, schema: bool) -> None:
    model = known_model(id)
    assert (model.id, model.family, model.reasoning, model.schema) == (id, family, reasoning, schema)
    assert model.urls == frozenset() and not model.json_object


# Errors


@pytest.mark.parametrize(
    ("status", "said", "header", "kind"),
    [
        (400, {"message": "Input is too long for requested model."}, "ValidationException", "context_length"),
        (400, {"message": "The provided model identifier is invalid."}, "ValidationException:http://x/", "not_found"),
        (400, {"message": "max_tokens must be positive"}, "", "bad_request"),
        (400, {"message": "Output blocked by content filtering policy"}, "", "content_policy"),
        (400, {"__type": "com.amazon.coral.service#ServiceQuotaExceededException"}, "", "rate_limit"),
        (403, {"message": "The security token included in the request is expired"}, "ExpiredTokenException", "auth"),
        (403, {"Message": "Authentication failed"}, "", "auth"),
        (404, {"message": "x"}, "ResourceNotFoundException", "not_found"),
        (408, {"message": "x"}, "ModelTimeoutException", "overloaded"),
        (424, {"message": "x"}, "ModelErrorException", "server"),
        (429, {"message": "Too many requests"}, "ThrottlingException", "rate_limit"),
        (429, {"message": "x"}, "ModelNotReadyException", "overloaded"),
        (500, {"message": "x"}, "InternalServerException", "server"),
        (503, {"message": "x"}, "", "overloaded"),
        (418, {"message": "x"}, "NewException", "bad_request"),
    ],
)
def test_errors(status: int, said: Json, header: str, kind: str) -> None:
    fault = parse_error(status, json.dumps(said).encode(), header)
    assert fault.kind == kind and fault.message == said.get("message", said.get("Message", ""))
    assert fault.code == (header.partition(":")[0] or said.get("__type", "").rpartition("#")[2])


def test_an_error_that_is_no_json() -> None:
    assert parse_error(502, b"<html>").message == "" and parse_error(502, b"oops").message == "oops"
    assert parse_error(502, b"<html>").kind == "server"

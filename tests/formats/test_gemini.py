"""Requests for Gemini: recorded conversations mean the same after our rendering, and every field has its place."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.formats.gemini_history import BEYOND, as_openai, beyond, meaning
from tests.formats.gemini_requests import (
    CALL,
    FLASH,
    HELLO,
    OLD,
    PLACE,
    THIRD,
    VERTEX,
    Json,
    body,
    chat,
    config,
    rendered,
)
from tests.formats.recordings import chats, module
from waypost.errors import Refusal
from waypost.formats import vertex
from waypost.formats.format import Model, Unsupported
from waypost.formats.gemini import known_model, parse_response, render_request
from waypost.formats.openai_answer import Stamp, render_completion
from waypost.formats.openai_chat import parse_request
from waypost.formats.openai_request import parse_chat

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
OTHER = {"type": "function", "function": {"name": "g"}}
STRICT = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}
SEARCH = {"type": "google_search"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
WANTED = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}
ALLOWED = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}


# Recorded conversations


def model_of(provider: str, url: str) -> Model:
    id = url.split("/models/")[1].split(":")[0]
    return known_model(id) if provider == "gemini" else vertex.known_model(id, PLACE)


@pytest.mark.parametrize("provider", ["gemini", "vertex"])
def test_recorded_histories_mean_the_same(provider: str) -> None:
    left_out: dict[str, int] = {}
    compared = 0
    for exchange in [*chats(provider), *chats(provider, good=False)]:
        why = beyond(exchange.request)
        if why:
            left_out[why] = left_out.get(why, 0) + 1
            continue
        said = as_openai(exchange.request) | {"stream": exchange.is_stream}
        model = model_of(provider, exchange.url)
        made = render_request(parse_chat(parse_request(json.dumps(said).encode()).fields), model)
        assert meaning(json.loads(made.body)) == meaning(exchange.request), exchange.where
        assert made.dropped == (), exchange.where
        assert made.path.endswith("/models/" + exchange.url.split("/models/")[1]) or exchange.status != 200
        compared += 1
    assert left_out == {"gemini": {"videoMetadata": 1}, "vertex": {"labels": 1, "modelArmorConfig": 2}}[provider]
    assert set(left_out) <= set(BEYOND)
    assert compared == {"gemini": 297, "vertex": 112}[provider]


@pytest.mark.parametrize("provider", ["gemini", "vertex"])
def test_our_own_answers_come_back_as_they_were(provider: str) -> None:
    """What a client that keeps every field sends back becomes the very parts that Gemini wrote, with ids for calls."""
    stamp = Stamp(*(msgspec.Raw(json.dumps(text).encode()) for text in ("i", "m", "p")), 0)
    compared = 0
    for exchange in chats(provider, stream=False):
        said = json.loads(exchange.body).get("candidates", [{}])[0]
        if said.get("finishReason") not in ("STOP", "MAX_TOKENS"):
            continue
        completion = parse_response(exchange.body, rendered()[1].reading)
        message = json.loads(render_completion(completion, stamp, 1))["choices"][0]["message"]
        [_, turn, _] = body(HELLO, message, HELLO)["contents"]
        back = [part for part in turn["parts"] if part != {"text": " "}]
        for part in back:
            if "functionCall" in part:
                assert part["functionCall"].pop("id")
        parts = said.get("content", {}).get("parts", [])
        for part in parts:
            part.get("functionCall", {}).pop("id", None)
        assert back == parts, exchange.where
        compared += 1
    assert compared > 90


def test_signatures_come_back_from_either_place() -> None:
    """Clients drop fields that they don't know: some keep `extra_content`, others `reasoning_details`."""
    google = {"google": {"thought_signature": "sig"}}
    detail = {"type": "reasoning.encrypted", "data": "sig", "id": "c1", "format": "google-gemini-v1"}
    of_text = {"type": "reasoning.encrypted", "data": "text", "format": "google-gemini-v1"}
    foreign = {"type": "reasoning.text", "text": "hm", "signature": "x", "format": "anthropic-claude-v1"}
    call = {"id": "c1", "name": "f", "args": {"a": 1}}
    for message in (
        {"role": "assistant", "tool_calls": [{**CALL, "extra_content": google}]},
        {"role": "assistant", "tool_calls": [CALL], "reasoning_details": [foreign, detail]},
    ):
        [_, turn] = body(HELLO, message, model=THIRD)["contents"]
        assert turn == {"role": "model", "parts": [{"functionCall": call, "thoughtSignature": "sig"}]}
    message = {"role": "assistant", "content": "Hi", "reasoning_details": [of_text]}
    assert body(HELLO, message)["contents"][1]["parts"] == [{"text": "Hi", "thoughtSignature": "text"}]


def test_calls_of_other_models_are_excused() -> None:
    second = {**CALL, "id": "c2"}
    message = {"role": "assistant", "content": "So:", "tool_calls": [CALL, second]}
    words, first, last = body(HELLO, message, model=THIRD)["contents"][1]["parts"]
    assert first["thoughtSignature"] == "skip_thought_signature_validator"
    assert "thoughtSignature" not in words and "thoughtSignature" not in last
    assert all("thoughtSignature" not in part for part in body(HELLO, message)["contents"][1]["parts"])


def test_a_turn_that_the_caller_changed_is_not_replayed_as_it_was() -> None:
    kept = {"google": {"parts": [{"executableCode": {"code": "1"}}, {"text": "One"}]}}
    same = {"role": "assistant", "content": "One", "extra_content": kept}
    assert body(HELLO, same)["contents"][1]["parts"] == kept["google"]["parts"]
    assert body(HELLO, {**same, "content": "Two"})["contents"][1]["parts"] == [{"text": "Two"}]
    nonsense = {**same, "extra_content": {"google": 5}}
    assert body(HELLO, nonsense)["contents"][1]["parts"] == [{"text": "One"}]


# Where it goes


def test_the_least_request() -> None:
    made, request = rendered()
    assert made == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    assert (request.path, request.headers, request.dropped) == ("/models/gemini-2.5-flash:generateContent", (), ())


@pytest.mark.parametrize(
    ("id", "place", "path"),
    [
        ("gemini-2.5-flash", "", "/models/gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "", "/models/gemini-2.5-flash"),
        ("tunedModels/mine", "", "/tunedModels/mine"),
        ("gemini-2.5-flash", PLACE, "/projects/p/locations/global/publishers/google/models/gemini-2.5-flash"),
        ("endpoints/123", PLACE, "/projects/p/locations/global/endpoints/123"),
        ("a model?", "", "/models/a%20model%3F"),
    ],
)
def test_paths(id: str, place: str, path: str) -> None:
    model = msgspec.structs.replace(known_model(id), place=place)
    assert rendered(model=model)[1].path == f"{path}:generateContent"
    assert rendered(model=model, stream=True)[1].path == f"{path}:streamGenerateContent?alt=sse"


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("europe-west4", "https://europe-west4-aiplatform.googleapis.com/v1"),
        ("global", "https://aiplatform.googleapis.com/v1"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com/v1"),
    ],
)
def test_vertex_has_an_address_for_each_location(location: str, url: str) -> None:
    assert vertex.base_url(location) == url


def test_vertex_speaks_each_publishers_format() -> None:
    claude = vertex.known_model("claude-sonnet-4-5@20250929", PLACE)
    made = vertex.format_of(claude.id).render_request(chat(stream=True), claude)
    assert made.path == f"/{PLACE}/publishers/anthropic/models/claude-sonnet-4-5@20250929:streamRawPredict"
    assert json.loads(made.body)["anthropic_version"] == "vertex-2023-10-16"
    assert vertex.format_of("gemini-2.5-pro") is module("gemini")
    assert VERTEX.place == PLACE and VERTEX.urls == VERTEX.inputs and not claude.urls


# Fields


def test_plain_fields() -> None:
    made, request = rendered(
        temperature=1.7, top_p=0.5, top_k=3, stop=["a", "b"], max_tokens=10, max_completion_tokens=20, seed=7,
        frequency_penalty=0.5, presence_penalty=-0.5, n=2, logprobs=True, top_logprobs=4,
        user="u", service_tier="flex", logit_bias={"1": 2}, metadata={"a": "b"}, store=True,
    )  # fmt: skip
    assert made["generationConfig"] == {
        "temperature": 1.7, "topP": 0.5, "topK": 3, "stopSequences": ["a", "b"], "maxOutputTokens": 20, "seed": 7,
        "frequencyPenalty": 0.5, "presencePenalty": -0.5, "candidateCount": 2, "responseLogprobs": True, "logprobs": 4,
    }  # fmt: skip
    assert sorted(request.dropped) == ["logit_bias", "service_tier", "user"]


def test_limits() -> None:
    assert config(max_tokens=1_000_000)["maxOutputTokens"] == 65_536
    made, request = rendered(stop=list("abcdefg"))
    assert made["generationConfig"]["stopSequences"] == list("abcde") and request.dropped == ("stop",)
    assert config(logprobs=True, top_logprobs=0) == {"responseLogprobs": True}


def test_googles_own_fields() -> None:
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    made, request = rendered(
        safety_settings=safety, cached_content="cachedContents/1", modalities=["text", "image"],
        image_config={"aspect_ratio": "16:9"},
    )  # fmt: skip
    assert (made["safetySettings"], made["cachedContent"]) == (safety, "cachedContents/1")
    assert made["generationConfig"] == {
        "responseModalities": ["TEXT", "IMAGE"], "imageConfig": {"aspectRatio": "16:9"},
    }  # fmt: skip
    assert request.dropped == ()
    with pytest.raises(Unsupported) as refused:
        body(modalities=["text", "audio"])
    assert refused.value.param == "modalities"
    with pytest.raises(Refusal):
        body(modalities="text")


def test_turns_and_instructions() -> None:
    made = body(
        {"role": "system", "content": "One."}, {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
        HELLO, HELLO, {"role": "assistant", "content": "Hi"},
        {"role": "system", "content": "Three."}, {"role": "user", "content": [{"type": "text", "text": ""}]}, HELLO,
    )  # fmt: skip
    assert made["systemInstruction"] == {"parts": [{"text": "One."}, {"text": "Two."}, {"text": "Three."}]}
    assert made["contents"] == [
        {"role": "user", "parts": [{"text": "Hello"}, {"text": "Hello"}]},
        {"role": "model", "parts": [{"text": "Hi"}]},
        {"role": "user", "parts": [{"text": "Hello"}]},
    ]
    begun = {"role": "user", "parts": [{"text": " "}]}
    system = {"parts": [{"text": "One."}]}
    assert body({"role": "system", "content": "One."}) == {"contents": [begun], "systemInstruction": system}
    model = {"role": "model", "parts": [{"text": "Hi"}]}
    assert body({"role": "assistant", "content": "Hi"})["contents"] == [begun, model]
    silent = body(HELLO, {"role": "assistant", "content": ""}, HELLO)["contents"]
    assert [turn["role"] for turn in silent] == ["user", "model", "user"]
    with pytest.raises(Refusal):
        body({"role": "user", "content": ""})


# Tools


@pytest.mark.parametrize(
    ("fields", "model", "expected"),
    [
        ({}, FLASH, None),
        ({"tool_choice": "auto"}, FLASH, {"mode": "AUTO"}),
        ({"tool_choice": "none"}, FLASH, {"mode": "NONE"}),
        ({"tool_choice": "required"}, FLASH, {"mode": "ANY"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}}, FLASH,
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED}}, FLASH,
            {"mode": "VALIDATED", "allowedFunctionNames": ["f"]},
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {**ALLOWED, "mode": "required"}}}, OLD,
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
        ),
        ({"tools": [STRICT, OTHER]}, FLASH, {"mode": "VALIDATED"}),
        ({"tools": [STRICT, OTHER], "tool_choice": "auto"}, FLASH, {"mode": "VALIDATED"}),
        ({"tools": [STRICT, OTHER], "tool_choice": "required"}, FLASH, {"mode": "ANY"}),
        ({"tools": [STRICT, OTHER], "tool_choice": "none"}, FLASH, {"mode": "NONE"}),
    ],
)  # fmt: skip
def test_tool_choice(fields: Json, model: Model, expected: Json | None) -> None:
    made = body(model=model, **{"tools": [TOOL, OTHER], **fields})
    assert made.get("toolConfig", {}).get("functionCallingConfig") == expected


def test_some_tools_only_where_the_model_can_be_told_no_other_way() -> None:
    wanted = {"type": "allowed_tools", "allowed_tools": ALLOWED}
    made = body(model=OLD, tools=[TOOL, OTHER], tool_choice=wanted)
    assert [one["name"] for one in made["tools"][0]["functionDeclarations"]] == ["f"]
    assert made["toolConfig"]["functionCallingConfig"] == {"mode": "AUTO"}


def test_functions_are_declared_in_the_form_that_can_say_them() -> None:
    closed = {"type": "function", "function": {"name": "h", "parameters": {**SCHEMA, "additionalProperties": False}}}
    simple = {"type": "function", "function": {"name": "s", "description": "Say.", "parameters": SCHEMA}}
    untyped = {"type": "function", "function": {"name": "u", "parameters": {"properties": {"a": {"type": "string"}}}}}
    declared = body(tools=[closed, simple, OTHER, untyped])["tools"][0]["functionDeclarations"]
    assert declared[0] == {"name": "h", "parametersJsonSchema": {**SCHEMA, "additionalProperties": False}}
    assert declared[1]["description"] == "Say." and declared[1]["parameters"]["type"] == "OBJECT"
    assert declared[2] == {"name": "g"}
    assert declared[3]["parameters"]["type"] == "OBJECT"


def test_parallel_calls_forbidden_are_left_to_the_reader() -> None:
    assert rendered(tools=[TOOL], parallel_tool_calls=False)[1].reading.first_call_only
    assert not rendered(tools=[TOOL])[1].reading.first_call_only


def test_names_are_made_fit() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("get weather", "1st", "a.b:c-d", "_1st")]
    made, request = rendered(tools=tools)
    names = [one["name"] for one in made["tools"][0]["functionDeclarations"]]
    assert names == ["get_weather", "_1st", "a.b:c-d", "_1st_2"]
    assert {given: request.reading.names.get(given, given) for given in names} == {
        "get_weather": "get weather", "_1st": "1st", "a.b:c-d": "a.b:c-d", "_1st_2": "_1st",
    }  # fmt: skip
    call = {**CALL, "function": {"name": "get weather", "arguments": ""}}
    turn = body(HELLO, {"role": "assistant", "tool_calls": [call]}, tools=tools)["contents"][1]
    assert turn["parts"] == [{"functionCall": {"id": "c1", "name": "get_weather", "args": {}}}]


def test_results_stand_together_and_first() -> None:
    second = {**CALL, "id": "c2", "function": {"name": "g", "arguments": "broken"}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    sound = {"type": "file", "file": {"file_data": "data:audio/wav;base64,AAAA"}}
    messages = [
        HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL, second]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "[1]"}, picture, sound]},
        {"role": "tool", "tool_call_id": "c2", "content": '{"a": [1.50]}'}, {"role": "user", "content": "Well?"},
    ]  # fmt: skip
    image = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    audio = {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}
    first = {"id": "c1", "name": "f", "response": {"result": "[1]"}}
    last = {"functionResponse": {"id": "c2", "name": "g", "response": {"a": [1.5]}}}
    assert body(*messages)["contents"][2]["parts"] == [
        {"functionResponse": first}, last, image, audio, {"text": "Well?"},
    ]  # fmt: skip
    assert body(*messages, model=THIRD)["contents"][2]["parts"] == [
        {"functionResponse": {**first, "parts": [image]}}, last, audio, {"text": "Well?"},
    ]  # fmt: skip
    assert body(*messages)["contents"][1]["parts"][1]["functionCall"]["args"] == {"invalid_json": "broken"}


def test_results_of_no_call_and_of_failed_ones() -> None:
    with pytest.raises(Refusal) as refused:
        body(HELLO, {"role": "tool", "tool_call_id": "x", "content": "1"})
    assert refused.value.param == "messages[1].tool_call_id"
    failed = {"role": "tool", "tool_call_id": "c1", "content": "no", "is_error": True}
    made = body(HELLO, {"role": "assistant", "tool_calls": [CALL]}, failed)
    assert made["contents"][2]["parts"][0]["functionResponse"]["response"] == {"error": "no"}


def test_googles_own_tools() -> None:
    made = body(tools=[SEARCH, {"type": "file_search", "file_search_store_names": ["s"]}])
    assert made["tools"] == [{"googleSearch": {}}, {"fileSearch": {"file_search_store_names": ["s"]}}]
    assert body(web_search_options={})["tools"] == [{"googleSearch": {}}]
    mixed = body(tools=[SEARCH, TOOL], model=THIRD)
    assert mixed["toolConfig"] == {"includeServerSideToolInvocations": True}
    at_vertex = vertex.known_model("gemini-3-flash-preview", PLACE)
    assert "toolConfig" not in body(tools=[SEARCH, TOOL], model=at_vertex)


@pytest.mark.parametrize(
    ("fields", "model", "param"),
    [
        ({"tools": [SEARCH, TOOL]}, FLASH, "tools"),
        ({"tools": [{"type": "web_search_20250305"}]}, FLASH, "tools[0]"),
        ({"tools": [TOOL]}, known_model("gemini-2.5-flash-image"), "tools"),
        ({"tools": [STRICT]}, OLD, "tools[0].function.strict"),
        ({"tools": [SEARCH], "tool_choice": "required"}, FLASH, "tool_choice"),
        ({"tools": [SEARCH], "response_format": WANTED}, FLASH, "response_format"),
        ({"response_format": WANTED}, known_model("gemini-2.5-flash-image"), "response_format"),
    ],
)
def test_what_the_model_cannot_do(fields: Json, model: Model, param: str) -> None:
    with pytest.raises(Unsupported) as refused:
        body(model=model, **fields)
    assert refused.value.param == param


# The shape of the answer


def test_schemas_natively() -> None:
    made = config(response_format=WANTED)
    assert made["responseMimeType"] == "application/json" and made["responseSchema"]["required"] == ["a"]
    closed = {**WANTED, "json_schema": {"name": "s", "schema": {**SCHEMA, "additionalProperties": False}}}
    assert config(response_format=closed)["responseJsonSchema"] == {**SCHEMA, "additionalProperties": False}
    assert "responseSchema" in config(model=THIRD, response_format=WANTED, tools=[TOOL])
    assert config(response_format={"type": "json_object"}) == {"responseMimeType": "application/json"}
    assert config(response_format={"type": "text"}) == {}


def test_a_schema_beside_functions_is_one_more_function() -> None:
    made, request = rendered(response_format=WANTED, tools=[TOOL])
    assert [one["name"] for one in made["tools"][0]["functionDeclarations"]] == ["f", "structured_answer"]
    assert made["toolConfig"]["functionCallingConfig"] == {"mode": "ANY"} and "generationConfig" not in made
    assert request.reading.schema_tool == "structured_answer"
    made, request = rendered(response_format=WANTED, tools=[TOOL], tool_choice="none")
    assert "tools" not in made and made["generationConfig"]["responseMimeType"] == "application/json"
    assert request.reading.schema_tool == ""
    made, request = rendered(response_format=WANTED, tools=[TOOL], tool_choice="required")
    assert len(made["tools"][0]["functionDeclarations"]) == 1 and request.reading.schema_tool == ""


def test_json_beside_functions_is_asked_for_in_words() -> None:
    made, request = rendered(response_format={"type": "json_object"}, tools=[TOOL])
    assert "JSON" in made["systemInstruction"]["parts"][0]["text"] and "generationConfig" not in made
    assert request.reading.strip_fences

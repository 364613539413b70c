"""Recorded Gemini requests as an OpenAI client would have said them, and what makes two of them mean the same.

Written against the wire, without our renderer: what goes through both must come out as it went in.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

Json = dict[str, Any]

# What an OpenAI client can't say, with the reason why a recording that has it is left out.
BEYOND = {
    "videoMetadata": "which pictures of a video to look at",
    "labels": "Vertex AI's labels for billing",
    "modelArmorConfig": "a filter set up in the caller's own project",
}
SIGNATURES = ("thoughtSignature", "thought_signature")
SKIP = "skip_thought_signature_validator"
# In a signature's place, for calls that Gemini did not make: two spellings of it, which the SDK encodes once more.
PLACEHOLDERS = {
    SKIP,
    *(base64.b64encode(text).decode() for text in (SKIP.encode(), b"context_engineering_is_the_way_to_go")),
}
NATIVE = {"google_search": "googleSearch", "code_execution": "codeExecution", "url_context": "urlContext",
          "file_search": "fileSearch"}  # fmt: skip


def camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def part_of(part: Json) -> Json:
    """A part with its own names in camel case, and base64 in one spelling."""
    made = {camel(name): value for name, value in part.items()}
    for name in ("inlineData", "fileData", "functionCall", "functionResponse", "toolCall", "toolResponse"):
        if name in made:
            made[name] = {camel(key): value for key, value in made[name].items()}
    if "inlineData" in made:
        made["inlineData"]["data"] = standard(made["inlineData"]["data"])
    if "thoughtSignature" in made:
        made["thoughtSignature"] = standard(made["thoughtSignature"])
    if "parts" in made.get("functionResponse", {}):
        made["functionResponse"]["parts"] = [part_of(one) for one in made["functionResponse"]["parts"]]
    return made


def standard(encoded: str) -> str:
    return encoded if encoded in PLACEHOLDERS else encoded.replace("-", "+").replace("_", "/")


def contents_of(request: Json) -> list[tuple[str, list[Json]]]:
    """Turns of alternating roles."""
    made: list[tuple[str, list[Json]]] = []
    for content in request["contents"]:
        role, parts = content.get("role", "user"), [part_of(part) for part in content["parts"]]
        if made and made[-1][0] == role:
            made[-1][1].extend(parts)
        else:
            made.append((role, parts))
    return made


def beyond(request: Json) -> str:
    """Why an OpenAI client could not have made this request; "" if it could."""
    parts = [part for _, parts in contents_of(request) for part in parts]
    found = [name for name in BEYOND if name in request or any(name in part for part in parts)]
    return found[0] if found else ""


# Gemini's request → OpenAI's


def as_openai(request: Json) -> Json:
    """The same request in OpenAI's words."""
    said: Json = {"model": "m", "messages": []}
    for part in request.get("systemInstruction", {}).get("parts", ()):
        said["messages"].append({"role": "system", "content": part["text"]})
    for role, parts in contents_of(request):
        said["messages"] += [as_assistant(parts)] if role == "model" else as_messages(parts)
    config = request.get("generationConfig", {})
    for theirs, ours in (
        ("maxOutputTokens", "max_tokens"), ("stopSequences", "stop"), ("temperature", "temperature"),
        ("topP", "top_p"), ("topK", "top_k"), ("responseLogprobs", "logprobs"), ("logprobs", "top_logprobs"),
    ):  # fmt: skip
        if theirs in config:
            said[ours] = int(config[theirs]) if ours == "top_k" else config[theirs]
    if "responseModalities" in config:
        said["modalities"] = [one.lower() for one in config["responseModalities"]]
    for theirs, ours in (("safetySettings", "safety_settings"), ("cachedContent", "cached_content")):
        if theirs in request:
            said[ours] = request[theirs]
    return said | as_tools(request) | as_reasoning(config) | as_format(config)


def as_messages(parts: list[Json]) -> list[Json]:
    made: list[Json] = []
    for part in parts:
        if "functionResponse" in part:
            made.append(as_result(part["functionResponse"]))
        elif made and made[-1]["role"] == "user":
            made[-1]["content"].append(as_part(part))
        else:
            made.append({"role": "user", "content": [as_part(part)]})
    return made


def as_result(result: Json) -> Json:
    response = result["response"]
    words = response.get("return_value") if set(response) == {"return_value"} else None
    text = words if isinstance(words, str) else json.dumps(response)
    content = [{"type": "text", "text": text}, *(as_part(part) for part in result.get("parts", ()))]
    return {"role": "tool", "tool_call_id": result.get("id", result["name"]), "content": content}


def as_assistant(parts: list[Json]) -> Json:
    words = [part["text"] for part in parts if "text" in part and not part.get("thought")]
    message: Json = {"role": "assistant", "content": "".join(words) or None}
    details: list[Json] = []
    calls: list[Json] = []
    for part in parts:
        signature = {"thought_signature": part["thoughtSignature"]} if "thoughtSignature" in part else {}
        if part.get("thought"):
            details.append({"type": "reasoning.text", "text": part["text"], "format": "google-gemini-v1"})
        elif "functionCall" in part:
            call = part["functionCall"]
            function = {"name": call["name"], "arguments": json.dumps(call.get("args", {}))}
            made: Json = {"id": call.get("id", call["name"]), "type": "function", "function": function}
            if signature and signature["thought_signature"] not in PLACEHOLDERS:
                made["extra_content"] = {"google": signature}
            calls.append(made)
        elif signature and "text" in part:
            message["extra_content"] = {"google": signature}
    if details:
        message["reasoning_details"] = details
    if calls:
        message["tool_calls"] = calls
    if any("text" not in part and "functionCall" not in part for part in parts) or len(words) > 1:
        message["extra_content"] = {"google": {"parts": parts}}  # as our own answer gave it
    return message


def as_part(part: Json) -> Json:
    if "text" in part:
        return {"type": "text", "text": part["text"]}
    if "inlineData" in part:
        kind, data = part["inlineData"]["mimeType"], part["inlineData"]["data"]
        url = f"data:{kind};base64,{data}"
    else:
        kind, url = part["fileData"]["mimeType"], part["fileData"]["fileUri"]
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    if kind.startswith("video/"):
        return {"type": "video_url", "video_url": {"url": url}}
    return {"type": "file", "file": {"file_data": url}}


def as_tools(request: Json) -> Json:
    said: Json = {}
    tools = request.get("tools") or []
    for tool in [tools] if isinstance(tools, dict) else tools:
        declared = tool.get("functionDeclarations") or tool.get("function_declarations")
        if declared:
            said.setdefault("tools", []).extend({"type": "function", "function": as_function(one)} for one in declared)
            continue
        for ours, theirs in NATIVE.items():
            if theirs in tool:
                said.setdefault("tools", []).append({"type": ours, **tool[theirs]})
    config = request.get("toolConfig", {}).get("functionCallingConfig", {})
    names = config.get("allowedFunctionNames", [])
    mode = {"AUTO": "auto", "NONE": "none", "ANY": "required", "VALIDATED": "auto"}.get(config.get("mode", ""))
    if names:
        chosen = [{"type": "function", "function": {"name": name}} for name in names]
        said["tool_choice"] = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": chosen}}
    elif mode:
        said["tool_choice"] = mode
    if config.get("mode") == "VALIDATED" and not names:
        for tool in said["tools"]:
            if tool["type"] == "function":
                tool["function"]["strict"] = True
    return said


def as_function(declared: Json) -> Json:
    function = {"name": declared["name"], "description": declared.get("description") or None}
    for name in ("parametersJsonSchema", "parameters_json_schema", "parameters"):
        if name in declared:
            function["parameters"] = plain_schema(declared[name])
    return function


def as_reasoning(config: Json) -> Json:
    thinking = {camel(name): value for name, value in config.get("thinkingConfig", {}).items()}
    if thinking.get("thinkingBudget") == 0:
        return {"reasoning_effort": "none"}
    return {"reasoning": {"enabled": True}} if thinking.get("includeThoughts") else {}


def as_format(config: Json) -> Json:
    if "responseMimeType" not in config:
        return {}
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is None:
        return {"response_format": {"type": "json_object"}}
    wanted = {"name": "a", "schema": plain_schema(schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


# What two requests have in common that mean the same


def plain_schema(schema: Any) -> Any:
    """A schema of either form as JSON Schema, as far as the two say the same."""
    if isinstance(schema, list):
        return [plain_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made: Json = {}
    for name, value in schema.items():
        name = camel(name) if name in ("any_of", "property_ordering") else name
        if name in ("properties", "$defs"):
            made[name] = {key: plain_schema(one) for key, one in value.items()}
        elif name == "type" and isinstance(value, str):
            made[name] = value.lower()
        elif name not in ("propertyOrdering", "nullable"):
            made[name] = value if name in ("enum", "required", "default") else plain_schema(value)
    if schema.get("nullable"):
        outside = {name: made.pop(name) for name in ("title", "description", "default") if name in made}
        return {"anyOf": [made, {"type": "null"}], **outside}
    if "$ref" in made and len(made) > 1 and "$defs" not in made:
        made["anyOf"] = [{"$ref": made.pop("$ref")}]
    return made


def meaning(request: Json) -> Json:
    """A request without what only spelling makes of it."""
    config = request.get("generationConfig", {})
    tools = request.get("tools") or []
    tools = [tools] if isinstance(tools, dict) else tools
    declared = [
        one for tool in tools for one in tool.get("functionDeclarations") or tool.get("function_declarations") or ()
    ]
    said: Json = {name: request[name] for name in ("safetySettings", "cachedContent") if name in request}
    for name in ("maxOutputTokens", "stopSequences", "temperature", "topP", "topK", "responseLogprobs", "logprobs",
                 "responseModalities", "responseMimeType"):  # fmt: skip
        said[name] = config.get(name)
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    said["schema"] = without_words(plain_schema(schema))
    said["system"] = [part["text"] for part in request.get("systemInstruction", {}).get("parts", ())]
    said["turns"] = [(role, [part_meaning(part) for part in with_media(parts)]) for role, parts in contents_of(request)]
    said["functions"] = [without_words(as_function(one)) for one in declared]
    said["native"] = [
        {name: value for name, value in tool.items() if name in NATIVE.values()}
        for tool in tools
        if set(tool) & set(NATIVE.values())
    ]
    choice = request.get("toolConfig", {}).get("functionCallingConfig", {})
    if declared:
        said["choice"] = {"mode": "AUTO", **choice}
    return said


def without_words(schema: Any) -> Any:
    """What is not obeyed may stand in a description."""
    if isinstance(schema, list):
        return [without_words(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: without_words(value) for name, value in schema.items() if name != "description"}


def with_media(parts: list[Json]) -> list[Json]:
    """Media may stand inside of a function's response, or after all of them."""
    inside = [one for part in parts for one in part.get("functionResponse", {}).get("parts", ())]
    place = sum("functionResponse" in part for part in parts)
    return [*parts[:place], *inside, *parts[place:]]


def part_meaning(part: Json) -> Json:
    said = dict(part)
    if "text" in said:
        said["text"] = said["text"] if said["text"].strip() else ""
    if said.get("thoughtSignature") in PLACEHOLDERS:
        del said["thoughtSignature"]
    if "/files/" in said.get("fileData", {}).get("fileUri", ""):
        said["fileData"] = {"fileUri": said["fileData"]["fileUri"]}  # there the type is known
    if "functionCall" in said:
        call = said["functionCall"]
        said["functionCall"] = {"name": call["name"], "args": call.get("args", {}), "id": call.get("id", call["name"])}
    if "functionResponse" in said:
        result = dict(said["functionResponse"])
        result["id"] = result.get("id", result["name"])
        response = result["response"]
        if set(response) == {"return_value"} and isinstance(response["return_value"], str):
            result["response"] = {"result": response["return_value"]}
        said["functionResponse"] = {name: value for name, value in result.items() if name != "parts"}
    return said

"""Recorded Converse requests as an OpenAI client would have said them, and what makes two of them mean the same.

Written against the wire, without our renderer: what goes through both must come out as it went in.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from typing import Any

Json = dict[str, Any]

# What an OpenAI client can't say, with the reason why a recording that has it is left out.
BEYOND = {
    "video/mp4": "a format that Converse does not have, from an unnamed test server",
    "no request": "the recording lacks it",
}
MEDIA = {"pdf": "application/pdf", "txt": "text/plain", "jpeg": "image/jpeg", "mp4": "video/mp4"}


def model_of(url: str) -> str:
    return urllib.parse.unquote(url.split("/model/")[1].split("/converse")[0])


def beyond(request: Json | None) -> str:
    """Why an OpenAI client could not have made this request; "" if it could."""
    if request is None:
        return "no request"
    return "video/mp4" if '"format": "video/mp4"' in json.dumps(request) else ""


# Converse's request → OpenAI's


def as_openai(request: Json, model: str, stream: bool) -> Json:
    """The same request in OpenAI's words."""
    said: Json = {"model": model, "messages": [], "stream": stream}
    if request.get("system"):
        said["messages"].append({"role": "system", "content": as_parts(request["system"])})
    for message in request["messages"]:
        said["messages"] += as_messages(message)
    config = request.get("inferenceConfig", {})
    spelt = {"maxTokens": "max_tokens", "temperature": "temperature", "topP": "top_p", "stopSequences": "stop"}
    said |= {spelt[name]: value for name, value in config.items()}
    tools = request.get("toolConfig", {})
    if tools.get("tools"):
        said["tools"] = as_tools(tools["tools"])
    if "toolChoice" in tools:
        said["tool_choice"] = as_choice(tools["toolChoice"])
    if "outputConfig" in request:
        wanted = request["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
        schema = {**wanted, "schema": json.loads(wanted["schema"]), "strict": True}
        said["response_format"] = {"type": "json_schema", "json_schema": schema}
    if "serviceTier" in request:
        said["service_tier"] = request["serviceTier"]["type"]
    said |= {name: request[name] for name in ("guardrailConfig", "performanceConfig") if name in request}
    return said | as_reasoning(request.get("additionalModelRequestFields", {}))


def as_reasoning(fields: Json) -> Json:
    match fields:
        case {"thinking": {"type": "enabled", "budget_tokens": budget}}:
            return {"reasoning": {"max_tokens": budget}}
        case {"thinking": _, "output_config": {"effort": effort}}:
            return {"reasoning_effort": effort}
        case {"thinking": _}:
            return {"reasoning": {"enabled": True}}
        case {"reasoning_config": effort} | {"reasoning_effort": effort}:
            return {"reasoning_effort": effort}
        case {"top_k": number} | {"inferenceConfig": {"topK": number}}:
            return {"top_k": number}
    assert not fields, fields
    return {}


def as_messages(message: Json) -> list[Json]:
    if message["role"] == "assistant":
        return [as_assistant(message["content"])]
    made: list[Json] = []
    for block in message["content"]:
        if "toolResult" in block:
            result = block["toolResult"]
            content = as_parts(result["content"])
            said = {"role": "tool", "tool_call_id": result["toolUseId"], "content": content}
            made.append({**said, "is_error": True} if result.get("status") == "error" else said)
        elif made and made[-1]["role"] == "user":
            made[-1]["content"] = as_parts([block], made[-1]["content"])
        else:
            made.append({"role": "user", "content": as_parts([block])})
    return made


def as_assistant(content: list[Json]) -> Json:
    if any("toolResult" in block for block in content):  # as our own answer gave it
        uses = [block["toolUse"] for block in content if "toolUse" in block]
        calls = [as_call(use) for use in uses if use.get("type") != "server_tool_use"]
        text = "".join(block.get("text", "") for block in content)
        extra = {"bedrock": {"content": content}}
        return {"role": "assistant", "content": text, "tool_calls": calls, "extra_content": extra}
    message: Json = {"role": "assistant", "content": as_parts([block for block in content if "text" in block])}
    details = [as_detail(block["reasoningContent"]) for block in content if "reasoningContent" in block]
    if details:
        message["reasoning_details"] = [{**detail, "format": "anthropic-claude-v1"} for detail in details]
    calls = [as_call(block["toolUse"]) for block in content if "toolUse" in block]
    return {**message, "tool_calls": calls} if calls else message


def as_detail(thought: Json) -> Json:
    if "redactedContent" in thought:
        # Anthropic's own `data`, which Bedrock encodes once more.
        return {"type": "reasoning.encrypted", "data": base64.b64decode(thought["redactedContent"]).decode()}
    return {"type": "reasoning.text", **thought["reasoningText"]}


def as_call(use: Json) -> Json:
    function = {"name": use["name"], "arguments": json.dumps(use["input"])}
    return {"id": use["toolUseId"], "type": "function", "function": function}


def as_parts(content: list[Json], before: list[Json] | None = None) -> list[Json]:
    parts = list(before or ())
    for block in content:
        match block:
            case {"cachePoint": _}:
                parts[-1]["cache_control"] = {"type": "ephemeral"}
            case {"text": "\n"}:
                pass  # ours stands between a document and its breakpoint as well
            case {"text": text}:
                parts.append({"type": "text", "text": text})
            case {"image": medium}:
                parts.append({"type": "image_url", "image_url": {"url": url_of(medium)}})
            case {"video": medium}:
                parts.append({"type": "video_url", "video_url": {"url": url_of(medium)}})
            case {"document": medium}:
                name = f"{medium['name']}.{medium['format']}"
                parts.append({"type": "file", "file": {"file_data": url_of(medium), "filename": name}})
            case other:
                raise AssertionError(other)
    return parts


def url_of(medium: Json) -> str:
    if "s3Location" in medium["source"]:
        return str(medium["source"]["s3Location"]["uri"])
    return f"data:{MEDIA[medium['format']]};base64,{medium['source']['bytes']}"


def as_tools(tools: list[Json]) -> list[Json]:
    made: list[Json] = []
    for tool in tools:
        match tool:
            case {"toolSpec": spec}:
                function = {"name": spec["name"], "parameters": spec["inputSchema"]["json"]}
                function |= {name: spec[name] for name in ("description", "strict") if name in spec}
                made.append({"type": "function", "function": function})
            case {"systemTool": {"name": name}}:
                made.append({"type": name})
            case {"cachePoint": _}:
                made[-1]["cache_control"] = {"type": "ephemeral"}
    return made


def as_choice(choice: Json) -> Any:
    match choice:
        case {"auto": _}:
            return "auto"
        case {"any": _}:
            return "required"
        case {"tool": {"name": name}}:
            return {"type": "function", "function": {"name": name}}
    raise AssertionError(choice)


# What two requests have in common that mean the same


def meaning(request: Json) -> Json:
    """A request without what only spelling makes of it."""
    said = {name: value for name, value in request.items() if value not in ({}, [])}
    said["messages"] = [
        {"role": message["role"], "content": [block_meaning(block) for block in message["content"]]}
        for message in request["messages"]
    ]
    if "toolConfig" in said:
        choice = said["toolConfig"].get("toolChoice")
        said["toolConfig"] = {
            "tools": said["toolConfig"]["tools"],
            "toolChoice": None if choice == {"auto": {}} else choice,
        }
    if "outputConfig" in said:
        wanted = json.loads(json.dumps(said["outputConfig"]))
        schema = wanted["textFormat"]["structure"]["jsonSchema"]
        schema["schema"] = without_limits(json.loads(schema["schema"]))
        said["outputConfig"] = wanted
    fields = said.get("additionalModelRequestFields", {})
    if "thinking" in fields:
        fields["thinking"].pop("display", None)
    return said


def without_limits(schema: Any) -> Any:
    """A schema without the limit that the recording client leaves in and ours says in words."""
    if isinstance(schema, list):
        return [without_limits(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: without_limits(value) for name, value in schema.items() if name != "minLength"}
    if kept.get("description") == "{minLength: 1}":
        del kept["description"]
    return kept


def block_meaning(block: Json) -> Json:
    if "toolResult" in block:
        result = {name: value for name, value in block["toolResult"].items() if value != "success"}
        return {"toolResult": result}
    return block

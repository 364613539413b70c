"""Recorded Anthropic requests as an OpenAI client would have said them, and what makes two of them mean the same.

Written against the wire, without our renderer: what goes through both must come out as it went in.
"""

from __future__ import annotations

import base64
import json
from typing import Any

Json = dict[str, Any]

# What an OpenAI client can't say, with the reason why a recording that has it is left out.
BEYOND = {
    "container_upload": "a file in Anthropic's own sandbox",
    "tool_addition": "a tool announced in the midst of a conversation",
    "tool_reference": "the same, in a tool's result",
    "mcp_servers": "Anthropic's connector, whose credentials are the caller's own",
    "file": "a picture uploaded to Anthropic: OpenAI's image parts have no file id",
    "compaction": "Anthropic's own summary of a conversation, sent without the message that it came in",
}

# Options of a function that OpenAI's has not: for Anthropic's tool search, and for code that Anthropic runs.
TOOL_OPTIONS = frozenset({"defer_loading", "eager_input_streaming", "allowed_callers"})


def beyond(request: Json) -> str:
    """Why an OpenAI client could not have made this request; "" if it could."""
    if "mcp_servers" in request:
        return "mcp_servers"
    for message in request["messages"]:
        for block in blocks_of(message["content"]):
            inner = blocks_of(block.get("content")) if block["type"] == "tool_result" else []
            for one in (block, *inner):
                if one["type"] in BEYOND:
                    return str(one["type"])
                if one["type"] == "image" and one["source"]["type"] == "file":
                    return "file"
    return ""


def blocks_of(content: Any) -> list[Json]:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


# Anthropic's request → OpenAI's


def as_openai(request: Json) -> Json:
    """The same request in OpenAI's words."""
    said: Json = {"model": request["model"], "messages": []}
    for block in blocks_of(request.get("system")):
        said["messages"].append({"role": "system", "content": [as_part(block)]})
    for message in request["messages"]:
        said["messages"] += as_messages(message)
    for theirs, ours in (("max_tokens", "max_completion_tokens"), ("stop_sequences", "stop")):
        if theirs in request:
            said[ours] = request[theirs]
    for name in ("temperature", "top_p", "top_k", "cache_control", "stream"):
        if name in request:
            said[name] = request[name]
    if "metadata" in request:
        said["user"] = request["metadata"]["user_id"]
    if request.get("tools"):
        said["tools"] = [as_tool(tool) for tool in request["tools"]]
    if "tool_choice" in request and request.get("tools"):
        said |= as_choice(request["tool_choice"])
    return said | as_reasoning(request) | as_format(request)


def as_messages(message: Json) -> list[Json]:
    if message["role"] == "assistant":
        return [as_assistant(blocks_of(message["content"]))]
    if message["role"] == "system":
        return [{"role": "system", "content": [as_part(block) for block in blocks_of(message["content"])]}]
    made: list[Json] = []
    for block in blocks_of(message["content"]):
        if block["type"] == "tool_result":
            result = {"role": "tool", "tool_call_id": block["tool_use_id"], "is_error": block.get("is_error")}
            content = block.get("content") or ""
            result["content"] = content if isinstance(content, str) else [as_part(one) for one in content]
            made.append(result)
        elif made and made[-1]["role"] == "user":
            made[-1]["content"].append(as_part(block))
        else:
            made.append({"role": "user", "content": [as_part(block)]})
    return made


def as_assistant(blocks: list[Json]) -> Json:
    message: Json = {"role": "assistant", "content": [as_part(block) for block in blocks if block["type"] == "text"]}
    details = [
        {"type": "reasoning.text", "text": block["thinking"], "signature": block["signature"]}
        if block["type"] == "thinking"
        else {"type": "reasoning.encrypted", "data": block["data"]}
        for block in blocks
        if block["type"] in ("thinking", "redacted_thinking")
    ]
    if details:
        message["reasoning_details"] = [{**detail, "format": "anthropic-claude-v1"} for detail in details]
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]
    if calls:
        message["tool_calls"] = calls
    if {block["type"] for block in blocks} - {"text", "thinking", "redacted_thinking", "tool_use"}:
        message["content"] = "".join(block["text"] for block in blocks if block["type"] == "text")
        message["extra_content"] = {"anthropic": {"content": blocks}}  # as our own answer gave it
    return message


def as_part(block: Json) -> Json:
    part: Json
    match block["type"], block.get("source"):
        case "text", _:
            part = {"type": "text", "text": block["text"]}
        case "image", {"type": "url", "url": url}:
            part = {"type": "image_url", "image_url": {"url": url}}
        case "image", {"type": "base64", "media_type": kind, "data": data}:
            part = {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        case "document", {"type": "url", "url": url}:
            part = {"type": "file", "file": {"file_data": url}}
        case "document", {"type": "base64", "media_type": kind, "data": data}:
            part = {"type": "file", "file": {"file_data": f"data:{kind};base64,{data}"}}
        case "document", {"type": "text", "data": data}:
            encoded = base64.b64encode(data.encode()).decode()
            part = {"type": "file", "file": {"file_data": f"data:text/plain;base64,{encoded}"}}
        case "document", {"type": "file", "file_id": id}:
            part = {"type": "file", "file": {"file_id": id}}
        case other:
            raise AssertionError(other)
    if "cache_control" in block:
        part["cache_control"] = block["cache_control"]
    return part


def as_tool(tool: Json) -> Json:
    if "input_schema" not in tool:
        return tool
    function = {
        "name": tool["name"],
        "description": tool.get("description"),
        "parameters": tool["input_schema"],
        "strict": tool.get("strict"),
    }
    made = {"type": "function", "function": function}
    return {**made, "cache_control": tool["cache_control"]} if "cache_control" in tool else made


def as_choice(choice: Json) -> Json:
    said: Json = {}
    match choice["type"]:
        case "auto" | "none":
            said["tool_choice"] = choice["type"]
        case "any":
            said["tool_choice"] = "required"
        case "tool":
            said["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    if choice.get("disable_parallel_tool_use"):
        said["parallel_tool_calls"] = False
    return said


def as_reasoning(request: Json) -> Json:
    thinking = request.get("thinking", {})
    effort = request.get("output_config", {}).get("effort")
    if thinking.get("type") == "enabled":
        return {"reasoning": {"max_tokens": thinking["budget_tokens"]}}
    if thinking.get("type") == "adaptive" and effort:
        return {"reasoning_effort": effort}
    return {"reasoning": {"enabled": True}} if thinking else {}


def as_format(request: Json) -> Json:
    wanted = request.get("output_config", {}).get("format")
    if wanted is None:
        return {}
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": wanted["schema"], "strict": True},
        }
    }


# What two requests have in common that mean the same


def meaning(request: Json) -> Json:
    """A request without what only spelling makes of it."""
    fields = (
        "model", "max_tokens", "stop_sequences", "temperature", "top_k", "cache_control", "metadata", "tool_choice",
    )  # fmt: skip
    said = {name: request[name] for name in fields if name in request}
    if not request.get("tools"):
        said.pop("tool_choice", None)
    said["stream"] = bool(request.get("stream"))
    said["system"] = text_and_marks(request.get("system"))
    said["turns"] = turns(request["messages"])
    said["tools"] = [tool_meaning(tool) for tool in request.get("tools", ())]
    if "thinking" in request:
        said["thinking"] = {name: value for name, value in request["thinking"].items() if name != "display"}
    config = {name: request.get("output_config", {}).get(name) for name in ("effort", "format")}
    return said | {"output_config": config}


def text_and_marks(content: Any) -> list[tuple[str, Any]]:
    """Texts as far as a breakpoint, joined."""
    found: list[tuple[str, Any]] = [("", None)]
    for block in blocks_of(content):
        text, mark = found[-1]
        if mark is not None:
            found.append((block["text"], block.get("cache_control")))
        else:
            found[-1] = ("\n\n".join(filter(None, [text, block["text"]])), block.get("cache_control"))
    return found


def turns(messages: list[Json]) -> list[tuple[str, list[Json]]]:
    """Turns of alternating roles, without empty text."""
    made: list[tuple[str, list[Json]]] = []
    for message in messages:
        blocks = [block_meaning(block) for block in blocks_of(message["content"])]
        blocks = [block for block in blocks if block.get("text", "x").strip()]
        if blocks and made and made[-1][0] == message["role"]:
            made[-1][1].extend(blocks)
        elif blocks:
            made.append((message["role"], blocks))
    return made


def block_meaning(block: Json) -> Json:
    said = {name: value for name, value in block.items() if value is not None and name != "caller"}
    if block["type"] == "tool_result":
        said["content"] = [block_meaning(one) for one in blocks_of(block.get("content") or None)]
        said["is_error"] = bool(block.get("is_error"))
    return said


def tool_meaning(tool: Json) -> Json:
    is_function = "input_schema" in tool
    said = {name: value for name, value in tool.items() if value not in (None, False, "")}
    said = {name: value for name, value in said.items() if not (is_function and name in TOOL_OPTIONS)}
    if said.get("type") == "custom":
        del said["type"]
    return said
